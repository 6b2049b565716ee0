# SPDX-License-Identifier: Apache-2.0
"""Time splatting against volume rendering of the same voxels, forward and with gradients, on a street-like scene.

python benchmarks/render.py [--active 0.09 0.2 1] [--renderers splat planned torch fused] [--json FILE]

`splat` is `rasterize` on the CPU, `planned` the same with a `plan_splat` made beforehand (static calibration), `torch`
volume rendering with grid_sample, one camera at a time, and `fused` the compiled volume renderer. Both volume renderers
take 100 samples a ray, one a voxel, to 40 m. Gradients go to opacities and features, as training on voxels needs them.
Renderers take turns, so they meet the same load. Peak memory is what the resident set grows by over one call, images
included, in a process of its own after a small call.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from report import write_report

from gaussianocc_core.geometry import voxels
from gaussianocc_core.rendering.geometry import SplatPlan
from gaussianocc_core.rendering.march import MarchSettings
from gaussianocc_core.rendering.rasterize import plan_splat, rasterize
from gaussianocc_core.rendering.volume import render_volume
from gaussianocc_core.types import Cameras, Gaussians, Lattice, OccupancyField, RenderedViews, VoxelGrid

SURROUND_YAWS = {"front": 0, "front_left": 55, "back_left": 110, "back": 180, "back_right": -110, "front_right": -55}


def street(grid: VoxelGrid, active: float, channels: int, seed: int) -> Gaussians:
    """All voxels as Gaussians of half a voxel; a share `active` (ground, then random boxes) has opacity 0.3-1."""
    rng = np.random.default_rng(seed)
    occupied = np.zeros(grid.shape, dtype=bool)
    occupied[:, :, 1] = True
    while active < 1 and occupied.mean() < active:
        x, y = rng.integers(0, grid.shape[0]), rng.integers(0, grid.shape[1])
        a, b, c = rng.integers(4, 16), rng.integers(4, 16), rng.integers(2, grid.shape[2])
        if max(abs(x - grid.shape[0] / 2), abs(y - grid.shape[1] / 2)) > 20:  # none on top of the cameras
            occupied[x : x + a, y : y + b, 2 : 2 + c] = True
    if active >= 1:
        occupied[:] = True
    count = occupied.size
    opacities = np.where(occupied.ravel(), rng.uniform(0.3, 1.0, count), 0.0)
    quats = torch.zeros(count, 4)
    quats[:, 0] = 1
    return Gaussians(
        means=voxels.centers(grid).reshape(-1, 3),
        quats=quats,
        scales=torch.full((count, 3), grid.voxel_size / 2),
        opacities=torch.from_numpy(opacities).float(),
        features=torch.from_numpy(rng.normal(size=(count, channels))).float(),
    )


def surround(width: int, height: int) -> Cameras:
    """Six cameras at 1.5 m with a field of view of 65 degrees."""
    focal = width / 2 / np.tan(np.radians(65) / 2)
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float32)
    poses = []
    for yaw in np.radians(list(SURROUND_YAWS.values())):
        forward, right = (np.cos(yaw), np.sin(yaw), 0), (np.sin(yaw), -np.cos(yaw), 0)
        T = np.eye(4)
        T[:3, :3] = np.stack([right, (0, 0, -1), forward], axis=1)
        T[:3, 3] = 0.8 * forward[0], 0.8 * forward[1], 1.5
        poses.append(T)
    count = len(poses)
    return Cameras(
        names=tuple(SURROUND_YAWS),
        intrinsics=K.expand(count, 3, 3).clone(),
        T_ego_cam=torch.from_numpy(np.stack(poses)).float(),
        width=(width,) * count,
        height=(height,) * count,
    )


def street_field(gaussians: Gaussians, grid: VoxelGrid) -> tuple[OccupancyField, Lattice]:
    """The same voxels for volume rendering: the last channel is the free logit of the opacity, the others are equal."""
    logits = gaussians.features.clone()
    opacities = gaussians.opacities.clamp(1e-12, 1 - 1e-6)
    logits[:, -1] = torch.log((1 - opacities) / opacities)
    lattice = Lattice(grid.origin, grid.upper, grid.shape)
    return OccupancyField(logits.T.reshape(1, -1, *grid.shape).contiguous()), lattice


@dataclass(frozen=True)
class Scene:
    gaussians: Gaussians
    plan: SplatPlan
    field: OccupancyField
    lattice: Lattice
    cameras: Cameras
    settings: MarchSettings


def build_scene(arguments: argparse.Namespace, active: float) -> Scene:
    grid = VoxelGrid(shape=tuple(arguments.grid))
    cameras = surround(*arguments.size)
    gaussians = street(grid, active, arguments.features, arguments.seed)
    field, lattice = street_field(gaussians, grid)
    plan = plan_splat(gaussians.means, gaussians.quats, gaussians.scales, cameras)
    return Scene(gaussians, plan, field, lattice, cameras, MarchSettings(samples=arguments.samples, far=40.0))


def total(views: RenderedViews) -> torch.Tensor:
    return views.features.sum() + views.depth.sum() + views.alpha.sum()


def splat(scene: Scene, backward: bool, plan: SplatPlan | None = None) -> None:
    opacities, features = scene.gaussians.opacities.clone(), scene.gaussians.features.clone()
    gaussians = replace(
        scene.gaussians, opacities=opacities.requires_grad_(backward), features=features.requires_grad_(backward)
    )
    views = rasterize(gaussians, scene.cameras, plan=plan)
    if backward:
        total(views).backward()


def planned(scene: Scene, backward: bool) -> None:
    splat(scene, backward, scene.plan)


def march(scene: Scene, backward: bool, backend: str) -> None:
    logits = scene.field.logits.clone().requires_grad_(backward)
    names = scene.cameras.names
    # In torch a camera's graph is freed before the next one is rendered: otherwise six of them lie in memory.
    parts = [(name,) for name in names] if backend == "torch" else [names]
    for part in parts:
        views = render_volume(
            OccupancyField(logits), scene.lattice, scene.cameras.select(part), settings=scene.settings, backend=backend
        )
        if backward:
            total(views).backward()


def march_torch(scene: Scene, backward: bool) -> None:
    march(scene, backward, "torch")


def march_fused(scene: Scene, backward: bool) -> None:
    march(scene, backward, "fused")


RENDERERS: dict[str, Callable[[Scene, bool], None]] = {
    "splat": splat,
    "planned": planned,
    "torch": march_torch,
    "fused": march_fused,
}
BASELINES = ("torch", "fused")
STAGES = ("forward", "forward+backward")


def measure(work: Callable[[], object]) -> tuple[float, float]:
    """Wall seconds, and CPU seconds over all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def summary(times: list[tuple[float, float]]) -> dict[str, float]:
    """Median and quartile distance of the wall seconds, median of the CPU seconds."""
    wall, cpu = np.array(times).T
    low, high = np.percentile(wall, [25, 75])
    return {
        "wall_s": float(np.median(wall)),
        "wall_iqr_s": float(high - low),
        "cpu_s": float(np.median(cpu)),
        "repeats": len(times),
    }


def resident_mb(key: str) -> float:
    """A value of /proc/self/status in MB: VmRSS, the resident set, or VmHWM, its peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def grow(work: Callable[[], object]) -> float:
    """MB by which the resident set's peak over the call lies above what it was before; Linux only."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # what earlier calls freed goes back to the system, or it would be used again unseen
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = resident_mb("VmRSS")
    work()
    return resident_mb("VmHWM") - before


def report_memory(arguments: argparse.Namespace) -> None:
    """In the process of its own: print the MB of one call as the last line."""
    renderer, stage, active = arguments.memory_of
    render, backward = RENDERERS[renderer], stage != "forward"
    small = argparse.Namespace(**{**vars(arguments), "size": [64, 48], "grid": [16, 16, 8]})
    render(build_scene(small, 1.0), backward)  # loads the kernels
    scene = build_scene(arguments, float(active))
    print(grow(lambda: render(scene, backward)))


def peak_memory(renderer: str, stage: str, active: float, arguments: argparse.Namespace) -> float | None:
    """MB of one call in a new process; None where the system does not tell."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        return None
    options = {"--size": arguments.size, "--grid": arguments.grid, "--features": [arguments.features]}
    options |= {"--samples": [arguments.samples], "--seed": [arguments.seed]}
    command = [sys.executable, __file__, "--memory-of", renderer, stage, str(active)]
    for option, values in options.items():
        command += [option, *map(str, values)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(output.splitlines()[-1])


def ratios(results: list[dict]) -> list[dict]:
    """How many times as long each baseline takes as splatting, by CPU and by wall time."""
    found = []
    for row in results:
        if row["renderer"] in BASELINES:
            continue
        for other in results:
            if other["renderer"] in BASELINES and (other["stage"], other["active"]) == (row["stage"], row["active"]):
                found.append(
                    {
                        "renderer": row["renderer"],
                        "baseline": other["renderer"],
                        "stage": row["stage"],
                        "active": row["active"],
                        "cpu": other["cpu_s"] / row["cpu_s"],
                        "wall": other["wall_s"] / row["wall_s"],
                    }
                )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--active", type=float, nargs="+", default=[0.09], help="share of voxels with opacity")
    parser.add_argument("--renderers", nargs="+", choices=list(RENDERERS), default=["splat", "planned", "fused"])
    parser.add_argument("--size", type=int, nargs=2, default=[320, 180], metavar=("W", "H"))
    parser.add_argument("--grid", type=int, nargs=3, default=[200, 200, 16], metavar=("X", "Y", "Z"))
    parser.add_argument("--features", type=int, default=18)
    parser.add_argument("--samples", type=int, default=100, help="of a ray, volume rendering")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--torch-repeats", type=int, default=1, help="of volume rendering in torch: minutes")
    parser.add_argument("--no-memory", action="store_true", help="leave the peak memory out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        report_memory(arguments)
        return

    results: list[dict] = []
    for active in arguments.active:
        scene = build_scene(arguments, active)
        one_camera = replace(scene, cameras=scene.cameras.select(scene.cameras.names[:1]), plan=scene.plan)
        for stage in STAGES:
            backward = stage != "forward"
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in arguments.renderers}
            for repeat in range(-1, arguments.repeats):  # the first is a warm-up
                for name, taken in times.items():
                    if name == "torch" and repeat >= arguments.torch_repeats:
                        continue
                    warm = one_camera if name == "torch" and repeat < 0 else scene
                    seconds = measure(lambda name=name, warm=warm, b=backward: RENDERERS[name](warm, b))
                    if repeat >= 0:
                        taken.append(seconds)
            for name, taken in times.items():
                # torch computes with every sample, occupied or not: its memory is measured once.
                known = [
                    row["peak_mb"] for row in results if name == "torch" == row["renderer"] and row["stage"] == stage
                ]
                if arguments.no_memory or known:
                    memory = known[0] if known else None
                else:
                    memory = peak_memory(name, stage, active, arguments)
                row = {"renderer": name, "stage": stage, "active": active, **summary(taken), "peak_mb": memory}
                results.append(row)
                extra = "" if memory is None else f", {memory:.0f} MB"
                print(
                    f"{active:4.0%} active, {stage:16} {name:8} {row['wall_s']:7.3f} s wall "
                    f"{row['cpu_s']:7.3f} s CPU{extra}",
                    flush=True,
                )
    compared = ratios(results)
    for row in compared:
        print(
            f"{row['active']:4.0%} active, {row['stage']:16} {row['renderer']:8} is {row['cpu']:5.1f}x faster than "
            f"volume {row['baseline']} by CPU time, {row['wall']:5.1f}x by wall time"
        )
    if arguments.json:
        shapes = {"grid": arguments.grid, "cameras": 6, "image": arguments.size, "features": arguments.features}
        shapes["samples_a_ray"] = arguments.samples
        write_report(arguments.json, shapes, results, ratios=compared)


if __name__ == "__main__":
    main()
