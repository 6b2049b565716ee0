# SPDX-License-Identifier: Apache-2.0
"""Time frames of the synthetic worlds, and how many plain ray marches of the same rays one frame costs.

python benchmarks/world.py [--world classic street yard hall park] [--seed 0] [--frames 10] [--json FILE]

The baseline is `march_labels` of every pixel's ray through the frame's own 200 x 200 x 16 voxels: as many rays, one
table look-up a step, no primitives, no shadows, no colour. Frame and baseline take turns, so both meet the same load.
The worlds that are drawn (`random_scene`) are also timed at network size, with four rays a pixel and with four at
outlines, sensor effects included, and so is the making of a scene.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from report import usable_cores, write_report

from gaussianocc_core.geometry.raymarch import march_labels
from gaussianocc_core.synthetic import WORLDS, World, default_rig, occupancy, random_scene, render_frame
from gaussianocc_core.synthetic.rig import pixel_directions
from gaussianocc_core.types import VoxelGrid

BUDGET = 1.0  # s a frame of six 400x225 cameras on two cores
SMALL = (176, 96)  # pixels, a network's input
PLACES = ("classic", *(name for name in WORLDS if name != "mixed"))


def ego_rays() -> tuple[np.ndarray, np.ndarray]:
    """Origins and unit directions of all pixels of the default rig in the ego frame, each (R, 3)."""
    cameras, origins, directions = default_rig(), [], []
    for index, T_ego_cam in enumerate(cameras.T_ego_cam.double().numpy()):
        rays = pixel_directions(cameras, index).reshape(-1, 3) @ T_ego_cam[:3, :3].T
        directions.append(rays)
        origins.append(np.broadcast_to(T_ego_cam[:3, 3], rays.shape))
    return np.concatenate(origins), np.concatenate(directions)


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall, and CPU over all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def drive(seed: int, frames: int, rays: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Wall and CPU seconds of frames and of marches through the same moments, each (frames, 2), after a warm-up."""
    world, grid = World(seed, duration=0.5 * frames), VoxelGrid()
    times = []
    for moment in [0.0, *(0.5 * np.arange(frames))]:
        labels = occupancy(world, moment).semantics  # this also builds the moment's scene
        times.append(
            (seconds(partial(render_frame, world, time=moment)), seconds(partial(march_labels, *rays, labels, grid)))
        )
    frame, march = np.array(times[1:]).transpose(1, 0, 2)
    return frame, march


def draw(
    place: str, seed: int, frames: int, rays: tuple[np.ndarray, np.ndarray]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Wall and CPU seconds of the frames of a drawn scene by stage, and of marches, each (frames, 2)."""
    cameras, grid, stages = default_rig(), VoxelGrid(), {}
    scene = random_scene(seed, place, cameras, duration=0.5 * frames + 1.0)
    stages["build"] = np.array([seconds(partial(random_scene, seed + 1 + k, place, cameras)) for k in range(3)])
    small = scene.cameras_at(*SMALL)
    views = {
        "frame": (cameras, "edges"),
        "frame, four rays": (cameras, "full"),
        "small": (small, "edges"),
        "small, four rays": (small, "full"),
    }
    times: dict[str, list] = {name: [] for name in views}
    marches = []
    for moment in [0.0, *(0.5 * np.arange(frames))]:
        labels = occupancy(scene.world, moment).semantics
        marches.append(seconds(partial(march_labels, *rays, labels, grid)))
        for name, (seen, antialias) in views.items():
            times[name].append(seconds(partial(scene.render, moment, seen, antialias=antialias)))
    stages.update({name: np.array(values[1:]) for name, values in times.items()})
    return stages, np.array(marches[1:])


def summary(stage: str, times: np.ndarray) -> dict[str, object]:
    """times: wall and CPU seconds, (repeats, 2)."""
    low, wall, high = np.percentile(times[:, 0], [25, 50, 75])
    cpu = float(np.median(times[:, 1]))
    return {"stage": stage, "wall_s": float(wall), "wall_iqr_s": float(high - low), "cpu_s": cpu}


def time_drawn(place: str, seed: int, frames: int, rays: tuple[np.ndarray, np.ndarray]) -> list[dict[str, object]]:
    """Times, prints and returns the rows of one drawn scene."""
    stages, march = draw(place, seed, frames, rays)
    rows, said = [{**summary("march", march), "world": place, "seed": seed}], []
    for name, times in stages.items():
        row = {**summary(name, times), "world": place, "seed": seed}
        if name != "build":
            row["marches"] = float(np.median(times[:, 1] / march[:, 1]))
        rows.append(row)
        ratio = f", {row['marches']:.2f} marches" if "marches" in row else ""
        said.append(f"{name} {np.median(times[:, 0]):.2f} s wall, {np.median(times[:, 1]):.2f} s CPU{ratio}")
    print(f"{place} {seed}: " + "; ".join(said))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, nargs="+", default=[0], help="worlds to drive through")
    parser.add_argument("--frames", type=int, default=10, help="moments a world, half a second apart")
    parser.add_argument(
        "--world", nargs="+", default=["classic"], choices=PLACES, help="kinds of world (default classic)"
    )
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()

    rays, results = ego_rays(), []
    load = os.getloadavg()[0]
    for place in arguments.world:
        for seed in arguments.seed:
            if place != "classic":
                results += time_drawn(place, seed, arguments.frames, rays)
                continue
            frame, march = drive(seed, arguments.frames, rays)
            ratio = float(np.median(frame[:, 1] / march[:, 1]))
            row = {**summary("frame", frame), "world": place, "seed": seed, "marches": ratio}
            results += [row, {**summary("march", march), "world": place, "seed": seed}]
            print(
                f"world {seed}: {np.median(frame[:, 0]):.2f} s wall, {np.median(frame[:, 1]):.2f} s CPU a frame of six "
                f"400x225 cameras (budget {BUDGET:.0f} s wall on two idle cores); {ratio:.1f} plain marches by CPU "
                f"time; {usable_cores()} cores, load {load:.1f} before"
            )
    if arguments.json:
        shapes = {"cameras": 6, "image": [400, 225], "small": list(SMALL), "grid": list(VoxelGrid().shape)}
        write_report(arguments.json, shapes, results, "float64")


if __name__ == "__main__":
    main()
