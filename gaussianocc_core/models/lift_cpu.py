# SPDX-License-Identifier: Apache-2.0
"""All channels that a decoder reads, written once where it reads them: on the CPU and without gradients.

The same as the parts of `GaussianOcc.lift` one after the other, three times as fast: points are taken in blocks that
stay in the cache, and what follows from calibration alone is not written again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaussianocc_core.kernels import JIT, as_array, exp32, run_in_threads
from gaussianocc_core.models.lifting import (
    MEASURED_CHANNELS,
    POSITION_CHANNELS,
    SHARPEST_AT_POINTS,
    SURFACE_CHANNELS,
    LiftPlan,
    encode_positions,
)
from gaussianocc_core.models.sparse_lift import build_matrix

_BLOCK = 1024  # points, as in sparse_lift
_BLOCKS = 16  # that one call of the kernel takes
_NONE = np.zeros((0, 0, 0), dtype=np.float32)
_HALF, _ONE = np.float32(0.5), np.float32(1.0)


@dataclass(frozen=True)
class _Pairs:
    """Of maps of one size: `sparse_lift.LiftMatrix` by its parts."""

    corners: Int[np.ndarray, " V"]
    weights: Float[np.ndarray, "V 4"]
    steps: tuple[int, int]


class VolumeFiller:
    """Of one plan, whose cameras see P points in V pairs."""

    def __init__(
        self,
        plan: LiftPlan,
        channels: int,
        map_size: tuple[int, int],
        depth_size: tuple[int, int],
        position: bool,
        surface: int,
    ) -> None:
        """channels: of the feature maps, of map_size (rows, columns); depth_size: of the maps of depth, for surface
        channels: 0, SURFACE_CHANNELS or MEASURED_CHANNELS; position: whether `encode_positions` stand between."""
        if plan.constants.mean_of_nonzero:
            raise ValueError("plan: a mean over cameras whose sample is not zero is no sparse matrix")
        shape, share = tuple(plan.weight.shape), plan.weight.flatten()
        matrix = plan.matrix(*map_size, torch.float32)
        self._shape, self._channels, self._surface = shape, channels, surface
        self._points, self._blocks = matrix.points, matrix.blocks
        self._coarse = _Pairs(matrix.corners, matrix.weights, matrix.steps)
        fine = build_matrix(plan.points, plan.positions, torch.ones_like(share), *depth_size) if surface else matrix
        self._fine = _Pairs(fine.corners, fine.weights, fine.steps)
        self._depths = as_array(torch.cat(plan.depths))
        self._share = as_array(share)
        between = POSITION_CHANNELS if position else 0
        self._behind = channels + between
        self._places = as_array(encode_positions(plan.places)).reshape(POSITION_CHANNELS, -1) if position else None
        self._kept: np.ndarray | None = None

    def _new_volume(self) -> Float[np.ndarray, "P C2"]:
        volume = np.empty((len(self._share), self._behind + self._surface), dtype=np.float32)
        if self._places is not None:
            volume[:, self._channels : self._behind] = self._places.T
        return volume

    def fill(
        self,
        maps: Float[Tensor, "N h w C"],
        inv_depth: Float[Tensor, "N h2 w2"] | None = None,
        log_error: Float[Tensor, "N h2 w2"] | None = None,
        reuse: bool = False,
    ) -> Float[Tensor, "X Y Z C2"]:
        """reuse: the volume is the same memory as at the last such call, for a reader who was done with that."""
        expected = 0 if inv_depth is None else SURFACE_CHANNELS if log_error is None else MEASURED_CHANNELS
        if expected != self._surface or maps.shape[-1] != self._channels:
            raise ValueError(f"maps: expected {self._channels} channels and {self._surface} of a surface")
        pixels = as_array(maps).reshape(-1, self._channels)
        nothing = _NONE.reshape(-1)
        inverse = nothing if inv_depth is None else as_array(inv_depth).ravel()
        error = nothing if log_error is None else as_array(log_error).ravel()
        rest = (
            self._points, self._coarse.corners, self._coarse.weights, *self._coarse.steps, pixels,
            self._fine.corners, self._fine.weights, *self._fine.steps, inverse, error,
            self._depths, self._share, self._behind, self._surface,
        )  # fmt: skip
        if reuse:
            self._kept = volume = self._new_volume() if self._kept is None else self._kept
        else:
            volume = self._new_volume()
        count = len(self._blocks) - 1
        tasks = [
            (first, min(first + _BLOCKS, count), volume, self._blocks, *rest) for first in range(0, count, _BLOCKS)
        ]
        for _ in run_in_threads(_fill_blocks, tasks):
            pass
        return torch.from_numpy(volume).view(*self._shape, -1)


def can_fill(plan: LiftPlan, features: Tensor) -> bool:
    """Whether there is no gradient to keep, on the CPU, and the plan is a sparse matrix."""
    learns = torch.is_grad_enabled() and features.requires_grad
    plain = features.device.type == "cpu" and features.dtype == torch.float32
    return plain and not learns and not plan.constants.mean_of_nonzero and bool(plan.depths)


def filler_of(
    plan: LiftPlan,
    maps: Float[Tensor, "N h w C"],
    inv_depth: Float[Tensor, "N h2 w2"] | None,
    log_error: Float[Tensor, "N h2 w2"] | None,
    position: bool,
) -> VolumeFiller:
    """The plan's own, made at the first use for maps of these sizes."""
    surface = 0 if inv_depth is None else SURFACE_CHANNELS if log_error is None else MEASURED_CHANNELS
    rows, columns, channels = maps.shape[1:]
    depth_size = (rows, columns) if inv_depth is None else (inv_depth.shape[1], inv_depth.shape[2])
    key = (channels, rows, columns, depth_size, position, surface)
    if key not in plan.fillers:
        plan.fillers[key] = VolumeFiller(plan, channels, (rows, columns), depth_size, position, surface)
    return plan.fillers[key]


@numba.njit(**JIT)
def _fill_blocks(
    first, end, volume, blocks, points, corners, weights, right, down, pixels, fine, fine_weights, fine_right,
    fine_down, inverse, error, depths, share, behind, surface,
):  # fmt: skip
    for s in range(first, end):
        _fill(
            volume[s * _BLOCK : (s + 1) * _BLOCK], s * _BLOCK, blocks[s], blocks[s + 1], points, corners, weights,
            right, down, pixels, fine, fine_weights, fine_right, fine_down, inverse, error, depths, share, behind,
            surface,
        )  # fmt: skip


@numba.njit(**JIT)
def _fill(
    volume, offset, begin, end, points, corners, weights, right, down, pixels, fine, fine_weights, fine_right,
    fine_down, inverse, error, depths, share, behind, surface,
):  # fmt: skip
    """One block of the volume (block, C2) from `offset` on; pairs of camera n: begin[n] : end[n]."""
    channels = pixels.shape[1]
    sharpest = np.float32(SHARPEST_AT_POINTS)
    most = 1
    for camera in range(begin.shape[0]):
        most = max(most, end[camera] - begin[camera])
    at, ahead, past = (np.empty(most, np.float32), np.empty(most, np.float32), np.empty(most, np.float32))
    near, sure = np.empty(most, np.float32), np.empty(most, np.float32)
    for row in range(volume.shape[0]):
        for c in range(channels):
            volume[row, c] = 0
        for c in range(behind, behind + surface):
            volume[row, c] = 0
    for camera in range(begin.shape[0]):
        first, count = begin[camera], end[camera] - begin[camera]
        for k in range(count):
            pair = first + k
            row, corner = volume[points[pair] - offset], corners[pair]
            p00, p01 = pixels[corner], pixels[corner + right]
            p10, p11 = pixels[corner + down], pixels[corner + down + right]
            w00, w01, w10, w11 = weights[pair, 0], weights[pair, 1], weights[pair, 2], weights[pair, 3]
            for c in range(channels):
                row[c] += w00 * p00[c] + w01 * p01[c] + w10 * p10[c] + w11 * p11[c]
        if surface == 0:
            continue
        for k in range(count):
            pair = first + k
            corner = fine[pair]
            w00, w01 = fine_weights[pair, 0], fine_weights[pair, 1]
            w10, w11 = fine_weights[pair, 2], fine_weights[pair, 3]
            below = corner + fine_down
            near[k] = w00 * inverse[corner] + w01 * inverse[corner + fine_right]
            near[k] += w10 * inverse[below] + w11 * inverse[below + fine_right]
            if surface == MEASURED_CHANNELS:
                sure[k] = w00 * error[corner] + w01 * error[corner + fine_right]
                sure[k] += w10 * error[below] + w11 * error[below + fine_right]
        for k in range(count):  # without a branch or a call, so that pairs fill vector registers
            distance = _ONE / near[k]
            if surface == MEASURED_CHANNELS:
                wide = distance * exp32(sure[k])
                width = np.sqrt(sharpest * sharpest + wide * wide)
            else:
                width = np.float32(0.4) + np.float32(0.03) * distance
            beyond = (depths[first + k] - distance) / width
            at[k] = exp32(-_HALF * beyond * beyond)
            ahead[k] = _ONE / (_ONE + exp32(np.float32(4.0) * beyond + np.float32(6.0)))
            past[k] = _ONE / (_ONE + exp32(np.float32(6.0) - np.float32(4.0) * beyond))
            near[k] = at[k] * sharpest / width
        for k in range(count):
            point = points[first + k]
            row, part = volume[point - offset], share[point]
            row[behind] += part * at[k]
            row[behind + 1] += part * ahead[k]
            row[behind + 2] += part * past[k]
            if surface == MEASURED_CHANNELS:
                row[behind + 3] += part * near[k]
                row[behind + 4] += part * sure[k]


__all__ = ["VolumeFiller", "can_fill", "filler_of"]
