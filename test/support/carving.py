# SPDX-License-Identifier: Apache-2.0
"""Sets of a made-up rig whose depth is known exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from support.rigs import ring

from gaussianocc_core.geometry.transforms import make_transform
from gaussianocc_core.mapping.sets import DepthMaps, PlacedSet, SeenSet
from gaussianocc_core.preprocess import Lenses, Preprocessor
from gaussianocc_core.types import Cameras, VoxelGrid

WIDTH, HEIGHT = 96, 64
GRID = VoxelGrid(origin=(-4.0, -8.0, -1.0), voxel_size=0.4, shape=(60, 40, 12))
SURE = 0.01  # expected error of log depth

Depth = Callable[[np.ndarray, np.ndarray], np.ndarray]  # origins (N, 3) and rays (N, h, w, 3), ego frame -> z-depth


def look_ahead() -> tuple[Cameras, Lenses]:
    """One camera that looks forward."""
    cameras = ring(yaws=(0.0,), width=WIDTH, height=HEIGHT, fov_deg=70.0)
    return cameras, Preprocessor(WIDTH, HEIGHT)(cameras)


def place(
    stamp_s: float = 0.0,
    x: float = 0.0,
    run: int = 0,
    classes: np.ndarray | None = None,
    pixels: np.ndarray | None = None,
    rig: tuple[Cameras, Lenses] | None = None,
    token: str = "",
) -> PlacedSet:
    """A set whose ego frame is x m ahead of the world's."""
    cameras, lenses = rig or look_ahead()
    count = len(cameras)
    T = make_transform(np.eye(3), np.array([x, 0.0, 0.0]))
    blank = np.zeros((count, *lenses.valid_mask.shape[1:], 3), np.uint8)
    seen = SeenSet(
        token or f"set-{stamp_s:g}",
        stamp_s,
        blank if pixels is None else pixels,
        lenses,
        cameras,
        np.zeros(count),
        classes,
        T,
        np.stack([T] * count),
    )
    return PlacedSet(seen, lenses.views(cameras.T_ego_cam), T, run)


def measure(placed: PlacedSet, depth: Depth, error: float = SURE, stride: int = 1) -> DepthMaps:
    """What the set's cameras would measure, exactly, with this expected error."""
    cameras = placed.cameras
    width, height = cameras.width[0] // stride, cameras.height[0] // stride
    u, v = np.meshgrid((np.arange(width) + 0.5) * stride, (np.arange(height) + 0.5) * stride)
    K, T = cameras.intrinsics.double().numpy(), cameras.T_ego_cam.double().numpy()
    rays = np.stack(
        [
            np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones_like(u)], axis=-1) @ t[:3, :3].T
            for k, t in zip(K, T, strict=True)
        ]
    )
    found = depth(T[:, :3, 3], rays).astype(np.float32)
    return DepthMaps(found, np.full(found.shape, np.log(error), np.float32))


def wall(at: float, beyond: float = 0.0) -> Depth:
    """A wall across the way at x = at; where y is above `beyond` > 0, nothing."""

    def depth(origins: np.ndarray, rays: np.ndarray) -> np.ndarray:
        z = (at - origins[:, None, None, 0]) / np.maximum(rays[..., 0], 1e-9)
        y = origins[:, None, None, 1] + z * rays[..., 1]
        return np.where((beyond > 0) & (y > beyond), 0.0, z)

    return depth


def ground(origins: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """The plane z = 0; 0 above the horizon."""
    down = -rays[..., 2]
    return np.where(down > 1e-6, origins[:, None, None, 2] / np.maximum(down, 1e-6), 0.0)


def with_masks(lenses: Lenses, valid: np.ndarray) -> Lenses:
    return replace(lenses, valid_mask=valid)
