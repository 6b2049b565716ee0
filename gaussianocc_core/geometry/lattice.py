# SPDX-License-Identifier: Apache-2.0
"""Where the network's volume is sampled, and how to read it at metric points (docs/method.md#b.1, #d).

Both kinds of lattice are separable: along one axis, metres <-> index is a monotone function of that axis alone.
That makes resampling onto a voxel grid three one-dimensional interpolations instead of a 3D gather.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from gaussianocc_core.geometry import voxels
from gaussianocc_core.types import Lattice, VoxelGrid

# The published lattice moves its border vertices inwards so that none lies at infinity (docs/method.md#b.1): 0.5 of an
# index in x and y, 0.05 in z.
_BORDER_INSET = (0.5, 0.5, 0.05)


def _ratio(lattice: Lattice) -> float:
    assert lattice.contraction is not None
    return lattice.contraction / (1.0 - lattice.contraction)  # t of docs/method.md#b.1


def axis_coordinates(lattice: Lattice, axis: int, precision: type = np.float64) -> Float[np.ndarray, " n"]:
    """Metric coordinate of each index along one axis (0 x, 1 y, 2 z), ego frame; computed in float64 or float32."""
    low, high, count = lattice.low[axis], lattice.high[axis], lattice.shape[axis]
    index: np.ndarray = np.arange(count, dtype=precision)
    if lattice.contraction is None:
        return low + (index + 0.5) * ((high - low) / count)
    index = np.clip(index, _BORDER_INSET[axis], count - 1 - _BORDER_INSET[axis])
    t = _ratio(lattice)
    q = (2.0 * index / (count - 1) - 1.0) * (t + 1.0)
    outside = np.abs(q) > t
    s = q / t
    s[outside] = np.sign(q[outside]) * (t - 1.0 + 1.0 / (t + 1.0 - np.abs(q[outside]))) / t
    return low + (s + 1.0) / 2.0 * (high - low)


def fractional_index(lattice: Lattice, coordinates: Float[np.ndarray, " n"], axis: int) -> Float[np.ndarray, " n"]:
    """Index along one axis, as a real number, at which the volume holds a metric coordinate; inverse of the above."""
    low, high, count = lattice.low[axis], lattice.high[axis], lattice.shape[axis]
    if lattice.contraction is None:
        return (np.asarray(coordinates) - low) / ((high - low) / count) - 0.5
    t = _ratio(lattice)
    w = (2.0 * (np.asarray(coordinates, dtype=np.float64) - low) / (high - low) - 1.0) * t
    far = np.abs(w) > t
    w[far] = np.sign(w[far]) * (1.0 + t - 1.0 / (np.abs(w[far]) + 1.0 - t))
    return (w / (t + 1.0) + 1.0) / 2.0 * (count - 1)


def mean_cell_size(lattice: Lattice) -> float:
    """Edge of the cube (m) that fills low..high as many times as there are lattice points inside (docs/method.md#e.8).

    The published code takes it for the voxel size: 0.399998 m for the default lattice. The count is rounded down.
    """
    volume = math.prod(high - low for low, high in zip(lattice.low, lattice.high, strict=True))
    inside = math.prod(lattice.shape) * (1.0 if lattice.contraction is None else lattice.contraction**3)
    return (volume / int(inside)) ** (1.0 / 3.0)


def points(lattice: Lattice, device: torch.device | str | None = None) -> Float[Tensor, "X Y Z 3"]:
    """Metric position of every lattice point, ego frame, metres, float32."""
    # In float32 the contraction is off by up to 1e-5 of the distance, 1 cm at 1 km. The published network lifts at
    # exactly these points; true ones change what it lifts from the horizon by 2e-4.
    precision = np.float64 if lattice.contraction is None else np.float32
    axes = [torch.from_numpy(axis_coordinates(lattice, axis, precision)).to(device, torch.float32) for axis in range(3)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def sample(
    volume: Float[Tensor, "B C X Y Z"], lattice: Lattice, positions: Float[Tensor, "P 3"]
) -> Float[Tensor, "B C P"]:
    """Trilinear values of a volume at ego-frame points (metres); beyond the outermost lattice points it is constant."""
    normalised = []
    for axis in range(3):
        index = fractional_index(lattice, positions[:, axis].detach().cpu().double().numpy(), axis)
        normalised.append(torch.from_numpy(2.0 * index / (lattice.shape[axis] - 1) - 1.0))
    # grid_sample wants the last array axis first: z, y, x.
    grid = torch.stack(normalised[::-1], dim=-1).to(volume.device, volume.dtype)
    grid = grid.view(1, 1, 1, -1, 3).expand(volume.shape[0], -1, -1, -1, -1)
    values = F.grid_sample(volume, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return values[:, :, 0, 0]


def shifted_grid(grid: VoxelGrid, shift: float) -> VoxelGrid:
    """The grid whose voxel centres stand `shift` metres above the low corners of this grid's voxels, on every axis."""
    offset = shift - 0.5 * grid.voxel_size
    x, y, z = grid.origin
    return replace(grid, origin=(x + offset, y + offset, z + offset))


def resample(volume: Float[Tensor, "B C X Y Z"], lattice: Lattice, grid: VoxelGrid) -> Float[Tensor, "B C X2 Y2 Z2"]:
    """The volume at the centres of a voxel grid: `sample` at `voxels.centers(grid)`, one axis at a time."""
    same_box = np.allclose(lattice.low, grid.origin) and np.allclose(lattice.high, grid.upper)
    if lattice.contraction is None and same_box:
        # Both are cells of one box: torch's own kernel does the same in a third of the time (measured 2026-11).
        return F.interpolate(volume, size=grid.shape, mode="trilinear", align_corners=False)
    # Axes that shrink or keep their size go first, so that the intermediate volumes stay small.
    for axis in sorted(range(3), key=lambda a: grid.shape[a] / lattice.shape[a]):
        index = fractional_index(lattice, voxels.axis_centers(grid, axis), axis)
        index = np.clip(index, 0.0, lattice.shape[axis] - 1.0)
        if len(index) == lattice.shape[axis] and np.allclose(index, np.arange(len(index)), atol=1e-6):
            continue
        lower = np.minimum(np.floor(index).astype(np.int64), lattice.shape[axis] - 2)
        weight = torch.from_numpy(index - lower).to(volume.device, volume.dtype)
        weight = weight.view([-1 if dim == axis + 2 else 1 for dim in range(5)])
        low_index = torch.from_numpy(lower).to(volume.device)
        volume = torch.lerp(
            volume.index_select(axis + 2, low_index), volume.index_select(axis + 2, low_index + 1), weight
        )
    return volume
