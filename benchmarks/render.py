# SPDX-License-Identifier: Apache-2.0
"""Time the rasteriser, forward and with gradients, on a street-like voxel scene.

python benchmarks/render.py [--active 0.09 0.2 1] [--json FILE]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from report import write_report

from gaussianocc_core.geometry import voxels
from gaussianocc_core.rendering.rasterize import rasterize
from gaussianocc_core.types import Cameras, Gaussians, VoxelGrid

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


def forward(gaussians: Gaussians, cameras: Cameras) -> None:
    with torch.no_grad():
        rasterize(gaussians, cameras)


def forward_backward(gaussians: Gaussians, cameras: Cameras) -> None:
    """Gradients to opacities and features, as training on voxels needs them."""
    opacities, features = gaussians.opacities.clone().requires_grad_(), gaussians.features.clone().requires_grad_()
    views = rasterize(replace(gaussians, opacities=opacities, features=features), cameras)
    (views.features.sum() + views.depth.sum() + views.alpha.sum()).backward()


def measure(work, repeats: int) -> dict[str, float]:
    """Median and quartile distance of wall seconds, and median CPU seconds over all threads, after one warm-up."""
    work()
    wall, cpu = [], []
    for _ in range(repeats):
        start, cpu_start = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
    low, high = np.percentile(wall, [25, 75])
    return {"wall_s": float(np.median(wall)), "wall_iqr_s": float(high - low), "cpu_s": float(np.median(cpu))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--active", type=float, nargs="+", default=[0.09], help="share of voxels with opacity")
    parser.add_argument("--size", type=int, nargs=2, default=[320, 180], metavar=("W", "H"))
    parser.add_argument("--grid", type=int, nargs=3, default=[200, 200, 16], metavar=("X", "Y", "Z"))
    parser.add_argument("--features", type=int, default=18)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()

    grid = VoxelGrid(shape=tuple(arguments.grid))
    cameras = surround(*arguments.size)
    results = []
    for active in arguments.active:
        gaussians = street(grid, active, arguments.features, arguments.seed)
        for stage, work in (("forward", forward), ("forward+backward", forward_backward)):
            timing = measure(lambda work=work, scene=gaussians: work(scene, cameras), arguments.repeats)
            results.append({"stage": stage, "backend": "cpu", "active": active, **timing})
            print(f"{stage}, cpu, {active:.0%} active: {timing['wall_s']:.3f} s wall, {timing['cpu_s']:.3f} s CPU")
    if arguments.json:
        shapes = {"grid": arguments.grid, "cameras": 6, "image": arguments.size, "features": arguments.features}
        write_report(arguments.json, shapes, results)


if __name__ == "__main__":
    main()
