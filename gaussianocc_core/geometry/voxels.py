# SPDX-License-Identifier: Apache-2.0
"""Voxel indices, metric centres and the flat order: the one owner of axis order.

Arrays over a grid are (X, Y, Z). The published flat order is x fastest: index = x + X * (y + Y * z).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gaussianocc_core.types import VoxelGrid


def axis_centers(grid: VoxelGrid, axis: int) -> Float[np.ndarray, " n"]:
    """Centre coordinates along one axis (0 x, 1 y, 2 z), metres, float64."""
    return grid.origin[axis] + (np.arange(grid.shape[axis]) + 0.5) * grid.voxel_size


def near_ground(grid: VoxelGrid) -> Bool[np.ndarray, " Z"]:
    """Layers whose centres lie within a voxel of z = 0, the ground that the ego frame stands on: what is there is taken
    for ground where no class says more."""
    return np.abs(axis_centers(grid, 2)) <= grid.voxel_size * (1 + 1e-6)


def centers(grid: VoxelGrid, device: torch.device | str | None = None) -> Float[Tensor, "X Y Z 3"]:
    """Voxel centres in the ego frame, metres, float32."""
    axes = [torch.from_numpy(axis_centers(grid, axis)).to(device=device, dtype=torch.float32) for axis in range(3)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def index_centers(grid: VoxelGrid, index: Int[np.ndarray, "P 3"]) -> Float[np.ndarray, "P 3"]:
    """Centres of the voxels with these indices, ego frame, metres."""
    return np.asarray(grid.origin) + (index + 0.5) * grid.voxel_size


def locate(grid: VoxelGrid, points: Float[np.ndarray, "P 3"]) -> tuple[Int[np.ndarray, "P 3"], Bool[np.ndarray, " P"]]:
    """Index of the voxel that holds each ego-frame point, and whether the point lies in the grid at all."""
    index = np.floor((np.asarray(points) - np.asarray(grid.origin)) / grid.voxel_size).astype(np.int64)
    inside = ((index >= 0) & (index < np.asarray(grid.shape))).all(axis=-1)
    return index, inside


def flatten(values: Any) -> np.ndarray:
    """(X, Y, Z) array -> flat array with x fastest, as messages carry it."""
    return np.asarray(values).ravel(order="F")


def unflatten(values: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """Inverse of `flatten`."""
    flat = np.asarray(values)
    if flat.size != shape[0] * shape[1] * shape[2]:
        raise ValueError(
            f"values: expected {shape[0] * shape[1] * shape[2]} entries for shape {shape}, got {flat.size}"
        )
    return flat.reshape(shape, order="F")
