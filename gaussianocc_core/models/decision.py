# SPDX-License-Identifier: Apache-2.0
"""Logits -> the class of each voxel, or free, and how sure that is."""

from __future__ import annotations

import math

import numba
import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from gaussianocc_core.finite import check_finite
from gaussianocc_core.geometry import voxels
from gaussianocc_core.geometry.lattice import fractional_index
from gaussianocc_core.kernels import JIT, run_in_threads
from gaussianocc_core.types import Lattice, VoxelGrid

_SLAB = 16  # voxels along x that one call of the kernel takes


NEUTRAL = 0.5  # caution that takes what is more likely


def check_caution(caution: float) -> float:
    """The same number; ValueError unless it lies between 0 and 1."""
    if not 0.0 < caution < 1.0:
        raise ValueError(
            f"caution: expected a number between 0 and 1, got {caution}; higher misses fewer obstacles and shows more "
            "ghosts"
        )
    return caution


def decide_labels(
    logits: Float[Tensor, " K *shape"], by_argmax: bool, caution: float = NEUTRAL
) -> tuple[Int64[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Class ids and their probabilities 0-1; the last class is free.

    by_argmax: softmax over all classes, as published. Otherwise a voxel is occupied with its opacity
    (docs/method.md#o.8), and then of a class by the softmax over the others. caution, 0-1: the probability of free
    above which a voxel is free; by argmax, the odds of free are weighed by (1 - caution) / caution. PredictionError
    where a logit is not a number.
    """
    check_finite("logits", logits)
    if by_argmax:
        weighed = torch.cat([logits[:-1], logits[-1:] + math.log((1.0 - caution) / caution)])
        labels, best = weighed.argmax(dim=0), logits.amax(dim=0)
        of_label = logits.gather(0, labels[None])[0]
        return labels, torch.exp(of_label - best) / torch.exp(logits - best).sum(dim=0)
    free, opacity = len(logits) - 1, torch.sigmoid(-logits[-1])
    best, labels = logits[:-1].max(dim=0)
    confidence = opacity / torch.exp(logits[:-1] - best).sum(dim=0)
    occupied = opacity > 1.0 - caution
    return torch.where(occupied, labels, free), torch.where(occupied, confidence, 1.0 - opacity)


def decide_on_grid(
    logits: Float[np.ndarray, "K X Y Z"],
    lattice: Lattice,
    grid: VoxelGrid,
    caution: float = NEUTRAL,
    added: Float[np.ndarray, "X2 Y2 Z2"] | None = None,
) -> tuple[UInt8[np.ndarray, "X2 Y2 Z2"], Float[np.ndarray, "X2 Y2 Z2"]]:
    """`decide_labels` by opacity of the logits that `lattice.resample` gives, on the CPU and in one pass.

    Most voxels are free: of them nothing but the free logit is interpolated (20 times faster than class by class).
    PredictionError where a logit is not a number: to the comparison below it would be free. added: to the free logit of
    each voxel, `detail_cpu`.
    """
    check_finite("logits", logits)
    places = []
    for axis in range(3):
        index = fractional_index(lattice, voxels.axis_centers(grid, axis), axis)
        index = np.clip(index, 0.0, lattice.shape[axis] - 1.0)
        lower = np.minimum(np.floor(index).astype(np.int64), max(lattice.shape[axis] - 2, 0))
        places.append((lower, (index - lower).astype(np.float32)))
    labels = np.empty(grid.shape, dtype=np.uint8)
    confidence = np.empty(grid.shape, dtype=np.float32)
    logits = np.ascontiguousarray(logits, dtype=np.float32)
    slabs = [(first, min(first + _SLAB, grid.shape[0])) for first in range(0, grid.shape[0], _SLAB)]
    least = np.float32(1.0 - caution)
    added = np.zeros((0, 0, 0), dtype=np.float32) if added is None else added
    rest = (logits, added, *places[0], *places[1], *places[2], least, labels, confidence)
    arguments = [(a, b, *rest) for a, b in slabs]
    for _ in run_in_threads(_decide, arguments):
        pass
    return labels, confidence


@numba.njit(**JIT)
def _decide(first, end, logits, added, x_low, x_share, y_low, y_share, z_low, z_share, least, labels, confidence):
    count, size_x, size_y, size_z = logits.shape
    free = count - 1
    column = np.empty(size_z, dtype=np.float32)
    values = np.empty(free, dtype=np.float32)
    for u in range(first, end):
        i, a = x_low[u], x_share[u]
        i2 = min(i + 1, size_x - 1)
        for v in range(labels.shape[1]):
            j, b = y_low[v], y_share[v]
            j2 = min(j + 1, size_y - 1)
            w00, w01, w10, w11 = (1 - a) * (1 - b), (1 - a) * b, a * (1 - b), a * b
            for k in range(size_z):
                column[k] = (
                    w00 * logits[free, i, j, k]
                    + w01 * logits[free, i, j2, k]
                    + w10 * logits[free, i2, j, k]
                    + w11 * logits[free, i2, j2, k]
                )
            for w in range(labels.shape[2]):
                k, c = z_low[w], z_share[w]
                k2 = min(k + 1, size_z - 1)
                logit = (1 - c) * column[k] + c * column[k2]
                if added.size:
                    logit += added[u, v, w]
                opacity = 1 / (1 + np.exp(logit))
                if not opacity > least:
                    labels[u, v, w] = free
                    confidence[u, v, w] = 1 - opacity
                    continue
                best, label = np.float32(-np.inf), 0
                for n in range(free):
                    low = (
                        w00 * logits[n, i, j, k]
                        + w01 * logits[n, i, j2, k]
                        + w10 * logits[n, i2, j, k]
                        + w11 * logits[n, i2, j2, k]
                    )
                    high = (
                        w00 * logits[n, i, j, k2]
                        + w01 * logits[n, i, j2, k2]
                        + w10 * logits[n, i2, j, k2]
                        + w11 * logits[n, i2, j2, k2]
                    )
                    values[n] = (1 - c) * low + c * high
                    if values[n] > best:
                        best, label = values[n], n
                total = np.float32(0)
                for n in range(free):
                    total += np.exp(values[n] - best)
                labels[u, v, w] = label
                confidence[u, v, w] = opacity / total
