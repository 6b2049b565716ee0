# SPDX-License-Identifier: Apache-2.0
"""`DetailHead` on the CPU: one pass over the voxels near a surface, which are one in ten."""

from __future__ import annotations

import numba
import numpy as np
from jaxtyping import Float

from gaussianocc_core.geometry import voxels
from gaussianocc_core.geometry.lattice import fractional_index
from gaussianocc_core.kernels import JIT, as_array, run_in_threads
from gaussianocc_core.models.detail_head import NEAR, SHARPEST, DetailHead
from gaussianocc_core.models.visibility import SightLines
from gaussianocc_core.types import Lattice, OccupancyField, VoxelGrid

_SLAB = 16  # voxels along x that one call of the kernel takes


def correct_free_logits(
    head: DetailHead, field: OccupancyField, lattice: Lattice, grid: VoxelGrid, lines: SightLines
) -> Float[np.ndarray, "X Y Z"]:
    """What to add to the free logit of each voxel, of a field of one element with details; 0 far from all surfaces.

    lines: to the grid's voxels, for depth maps of the field's size. As `GaussianOcc.free_logits`, but a voxel is read
    where its line says, which rounds half a cell another way.
    """
    assert field.details is not None and field.inv_depth is not None and field.log_error is not None
    axes = []
    for axis in range(3):
        index = fractional_index(lattice, voxels.axis_centers(grid, axis), axis)
        index = np.clip(index, 0.0, lattice.shape[axis] - 1.0)
        low = np.minimum(np.floor(index).astype(np.int64), max(lattice.shape[axis] - 2, 0))
        axes += [low, (index - low).astype(np.float32)]
    # Channels innermost: one voxel reads all of them.
    values = np.concatenate([as_array(field.logits[0, -1:]), as_array(field.details[0])])
    values = np.ascontiguousarray(values.transpose(1, 2, 3, 0))
    surface = 1.0 / as_array(field.inv_depth[0]).ravel()
    log_error = as_array(field.log_error[0]).ravel()
    width = np.sqrt(SHARPEST**2 + (surface * np.exp(log_error)) ** 2).astype(np.float32)
    weights = [as_array(each) for each in (head.first.weight, head.first.bias, head.last.weight[0], head.last.bias)]
    added = np.zeros(grid.shape, dtype=np.float32)
    rest = (*axes, values, lines.first, lines.cell, lines.depth, surface, width, log_error, *weights, added)
    slabs = [(first, min(first + _SLAB, grid.shape[0])) for first in range(0, grid.shape[0], _SLAB)]
    for _ in run_in_threads(_correct, [(first, end, *rest) for first, end in slabs]):
        pass
    return added


@numba.njit(**JIT)
def _sigmoid(x):
    return np.float32(1.0) / (np.float32(1.0) + np.exp(-x))


@numba.njit(**JIT)
def _correct(
    first, end, x_low, x_share, y_low, y_share, z_low, z_share, values, starts, cells, depths, surface, width,
    log_error, weight, bias, last_weight, last_bias, added,
):  # fmt: skip
    _, size_y, size_z = added.shape
    top = values.shape[0] - 1, values.shape[1] - 1, values.shape[2] - 1
    channels, hidden = values.shape[3], len(bias)
    inputs = np.empty(channels + 5, dtype=np.float32)
    for i in range(first, end):
        a = x_share[i]
        i0, i1 = x_low[i], min(x_low[i] + 1, top[0])
        for j in range(size_y):
            b = y_share[j]
            j0, j1 = y_low[j], min(y_low[j] + 1, top[1])
            for k in range(size_z):
                voxel = (i * size_y + j) * size_z + k
                begin, stop = starts[voxel], starts[voxel + 1]
                count = stop - begin
                at = np.float32(0.0)
                for n in range(begin, stop):
                    cell = cells[n] % len(surface)
                    offset = (depths[n] - surface[cell]) / width[cell]
                    if abs(offset) < 4.0:
                        at += np.exp(np.float32(-0.5) * offset * offset)
                if not at > NEAR * count:
                    continue
                front = behind = share = sure = np.float32(0.0)
                for n in range(begin, stop):
                    cell = cells[n] % len(surface)
                    offset = (depths[n] - surface[cell]) / width[cell]
                    front += _sigmoid(np.float32(-4.0) * offset - np.float32(6.0))
                    behind += _sigmoid(np.float32(4.0) * offset - np.float32(6.0))
                    share += np.exp(np.float32(-0.5) * offset * offset) * np.float32(SHARPEST) / width[cell]
                    sure += log_error[cell]
                c = z_share[k]
                k0, k1 = z_low[k], min(z_low[k] + 1, top[2])
                for m in range(channels):
                    near = (1 - b) * ((1 - c) * values[i0, j0, k0, m] + c * values[i0, j0, k1, m])
                    near += b * ((1 - c) * values[i0, j1, k0, m] + c * values[i0, j1, k1, m])
                    far = (1 - b) * ((1 - c) * values[i1, j0, k0, m] + c * values[i1, j0, k1, m])
                    far += b * ((1 - c) * values[i1, j1, k0, m] + c * values[i1, j1, k1, m])
                    inputs[m] = (1 - a) * near + a * far
                inputs[channels] = at / count
                inputs[channels + 1] = front / count
                inputs[channels + 2] = behind / count
                inputs[channels + 3] = share / count
                inputs[channels + 4] = sure / count
                total = last_bias[0]
                for m in range(hidden):
                    value = bias[m]
                    for n in range(channels + 5):
                        value += weight[m, n] * inputs[n]
                    if value > 0:
                        total += last_weight[m] * value
                added[i, j, k] = total
