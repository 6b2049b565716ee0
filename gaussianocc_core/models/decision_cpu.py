# SPDX-License-Identifier: Apache-2.0
"""From a field to what is published, in one pass over the voxels on the CPU.

What a detail head adds (`GaussianOcc.free_logits`, read where a voxel's line says, which rounds half a cell another
way), `decision.decide_labels` of the logits that `lattice.resample` gives, `visibility.passed_voxels` and
`visibility.leave_unknown`: what these hand to each other stays in the cache here, most voxels are free and need no more
than one logit, and exponentials fill vector registers (24 ms where one kernel for each took 55, measured 2026-11).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, UInt8
from torch import Tensor

from gaussianocc_core.finite import check_finite, is_finite
from gaussianocc_core.geometry import voxels
from gaussianocc_core.geometry.lattice import fractional_index
from gaussianocc_core.kernels import JIT, as_array, exp32, run_in_threads
from gaussianocc_core.labels import OCCLUDED, UNOBSERVED, has_one_class
from gaussianocc_core.models.detail_head import NEAR, SHARPEST, DetailHead
from gaussianocc_core.models.visibility import SightLines, nearest_surfaces, stands_on_ground
from gaussianocc_core.types import Lattice, OccupancyField, VoxelGrid

_SLAB = 8  # voxels along x that one call of the kernel takes
_SNAP = 1e-5  # of a lattice step: a voxel that is so near a point is at it, and half of what is read is saved
_TAIL = 8
_CHUNK = 256  # voxels near a surface that the detail head takes at once
_HALF, _ZERO, _ONE = np.float32(0.5), np.float32(0.0), np.float32(1.0)


@dataclass(frozen=True)
class Decided:
    """What is published, by voxel."""

    labels: UInt8[np.ndarray, "X Y Z"]  # with UNOBSERVED and OCCLUDED
    confidence: Float[np.ndarray, "X Y Z"]
    observed: Bool[np.ndarray, "X Y Z"]
    finer: Float[np.ndarray, "X Y Z"] | None  # what the detail head added to the free logits
    opacity: Float[np.ndarray, "X Y Z"]  # probability that it is occupied, observed or not
    passed: Bool[np.ndarray, "X Y Z"] | None  # whether rays were seen to pass it; None: of a model without depth


class Decider:
    """For one lattice, grid and set of classes."""

    def __init__(
        self,
        lattice: Lattice,
        grid: VoxelGrid,
        class_names: Sequence[str],
        beyond: Bool[np.ndarray, "X Y"],
        ground_layers: Bool[np.ndarray, " Z"],
    ) -> None:
        """beyond, ground_layers: as `visibility.leave_unknown` takes them."""
        self._shape, self._free = grid.shape, len(class_names) - 1
        self._axes: list[np.ndarray] = []
        for axis in range(3):
            index = fractional_index(lattice, voxels.axis_centers(grid, axis), axis)
            index = np.clip(index, 0.0, lattice.shape[axis] - 1.0)
            index = np.where(np.abs(index - np.round(index)) < _SNAP, np.round(index), index)
            low = np.minimum(np.floor(index).astype(np.int64), max(lattice.shape[axis] - 2, 0))
            self._axes += [low, (index - low).astype(np.float32)]
        self._beyond, self._any_beyond = np.ascontiguousarray(beyond), bool(beyond.any())
        self._stands = stands_on_ground(class_names)
        self._ground = ground_layers if has_one_class(class_names) else np.zeros(grid.shape[2], dtype=bool)
        self._sight: tuple[SightLines, Int32[np.ndarray, " L"]] | None = None  # the cells of all levels as of the first

    def __call__(
        self,
        field: OccupancyField,
        caution: float,
        seen: Bool[np.ndarray, "X Y Z"],
        lines: SightLines | None,
        head: DetailHead | None,
    ) -> Decided:
        """Of a field of one element. seen: `visibility.observed_voxels`; lines: to the grid's voxels, of a model with
        depth. PredictionError where a logit is not a number: to a comparison it would be free."""
        values, behind = _rows(field)
        if not is_finite(values):
            check_finite("logits", field.logits)
            check_finite("details", values)
        labels, confidence = np.empty(self._shape, np.uint8), np.empty(self._shape, np.float32)
        observed = np.empty(self._shape if self._any_beyond else (0, 0, 0), np.bool_)
        corrects = head is not None and lines is not None and behind > 0
        finer = np.empty(self._shape if corrects else (0, 0, 0), np.float32)
        opacity, passed = np.empty(self._shape, np.float32), np.empty(self._shape, np.bool_)
        rows = as_array(values).reshape(-1, values.shape[-1])
        size = np.array(values.shape[:3], dtype=np.int64)
        rest = (
            rows, np.ascontiguousarray(rows[:, self._free]), size, self._free, *self._axes, np.float32(1.0 - caution),
            *self._look(field, lines), *_weights(head if corrects else None), seen, self._beyond, self._any_beyond,
            self._stands, self._ground, labels, confidence, observed, finer, opacity, passed,
        )  # fmt: skip
        slabs = [(first, min(first + _SLAB, self._shape[0])) for first in range(0, self._shape[0], _SLAB)]
        for _ in run_in_threads(_decide, [(first, end, *rest) for first, end in slabs]):
            pass
        return Decided(
            labels,
            confidence,
            observed if self._any_beyond else seen,
            finer if corrects else None,
            opacity,
            None if lines is None or field.inv_depth is None else passed,
        )

    def _look(self, field: OccupancyField, lines: SightLines | None) -> tuple[np.ndarray, ...]:
        """Lines, and by cell of the depth maps: surface (m), width of "at" (m), log of the expected error, and by
        level how near a surface may be."""
        if lines is None or field.inv_depth is None:
            none, cells = np.zeros(0, np.float32), np.zeros(0, np.int32)
            return np.zeros(0, np.int64), cells, cells, none, none, none, none, none
        inverse = as_array(field.inv_depth[0])
        error = None if field.log_error is None else as_array(field.log_error[0])
        if self._sight is None or self._sight[0] is not lines:
            self._sight = lines, (lines.cell % inverse.size).astype(np.int32)
        surface = (1.0 / inverse).ravel()
        log_error = np.zeros_like(surface) if error is None else error.ravel()
        width = np.sqrt(SHARPEST**2 + (surface * np.exp(log_error)) ** 2).astype(np.float32)
        nearest = nearest_surfaces(lines, inverse, error).ravel()
        return lines.first, lines.cell, self._sight[1], lines.depth, surface, width, log_error, nearest


def _rows(field: OccupancyField) -> tuple[Float[Tensor, "X Y Z KF"], int]:
    """Logits and behind them the details, channels innermost, without a copy where a decoder wrote them so; and how
    many details."""
    logits = field.logits[0].float().permute(1, 2, 3, 0)
    if field.details is None:
        return logits, 0
    details = field.details[0].float().permute(1, 2, 3, 0)
    count = details.shape[-1]
    whole = (*logits.shape[:3], logits.shape[-1] + count)
    joined = logits.stride() == details.stride() and logits.stride()[3] == 1 and logits.stride()[2] == whole[3]
    if joined and details.data_ptr() == logits.data_ptr() + logits.shape[-1] * logits.element_size():
        return logits.as_strided(whole, logits.stride()), count
    return torch.cat([logits, details], dim=-1), count


def _weights(head: DetailHead | None) -> tuple[np.ndarray, ...]:
    if head is None:
        none = np.zeros(0, np.float32)
        return none.reshape(0, 0), none, none, none
    return tuple(as_array(each) for each in (head.first.weight, head.first.bias, head.last.weight[0], head.last.bias))


@numba.njit(**JIT)
def _decide(
    first, end, values, free_logits, size, free, x_low, x_share, y_low, y_share, z_low, z_share, least, starts, levels,
    cells, depths, surface, width, log_error, nearest, weight, bias, last_weight, last_bias, seen, beyond, any_beyond,
    stands, ground, labels, confidence, observed, finer, opacities, passes,
):  # fmt: skip
    """Rows first to end of the voxels; values (lattice points, K + F), free_logits (lattice points)."""
    ny, nz = labels.shape[1], labels.shape[2]
    size_y, size_z = size[1], size[2]
    hidden, channels = weight.shape[0], weight.shape[1]
    details = channels - 6
    looks, sharpest = len(starts) > 0, np.float32(SHARPEST)
    most = 1
    if looks:
        for i in range(first, end):
            most = max(most, starts[(i + 1) * ny * nz] - starts[i * ny * nz])
    at, ahead, past = np.empty(most, np.float32), np.empty(most, np.float32), np.empty(most, np.float32)
    wide, share = np.empty(most, np.float32), np.empty(most, np.float32)
    logits, opacity = np.empty(ny * nz, np.float32), np.empty(ny * nz, np.float32)
    passed = np.ones(ny * nz, np.bool_)
    column = np.empty(size_z, np.float32)
    near = np.empty((ny * nz, 2), np.int64)
    inputs, total, sums = (
        np.empty((max(channels, 1), _CHUNK), np.float32), np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.float32)
    )  # fmt: skip
    last_values, tail = np.empty(_TAIL, np.float32), values.shape[1] - _TAIL
    classes = np.empty(free, np.float32)
    for i in range(first, end):
        a, i0 = x_share[i], x_low[i]
        i1 = min(i0 + 1, size[0] - 1)
        for j in range(ny):
            b, j0 = y_share[j], y_low[j]
            j1 = min(j0 + 1, size_y - 1)
            w00, w01, w10, w11 = (_ONE - a) * (_ONE - b), (_ONE - a) * b, a * (_ONE - b), a * b
            p00, p01 = (i0 * size_y + j0) * size_z, (i0 * size_y + j1) * size_z
            p10, p11 = (i1 * size_y + j0) * size_z, (i1 * size_y + j1) * size_z
            for k in range(size_z):
                column[k] = (
                    w00 * free_logits[p00 + k]
                    + w01 * free_logits[p01 + k]
                    + w10 * free_logits[p10 + k]
                    + w11 * free_logits[p11 + k]
                )
            for k in range(nz):
                low, c = z_low[k], z_share[k]
                logits[j * nz + k] = (_ONE - c) * column[low] + c * column[min(low + 1, size_z - 1)]
        row = i * ny * nz
        count_near = 0
        if looks:
            begin = starts[row]
            lines = starts[row + ny * nz] - begin
            for n in range(lines):
                cell = cells[begin + n]
                wide[n] = width[cell]
                at[n] = depths[begin + n] - surface[cell]
            if channels:
                for n in range(lines):  # without a branch or a call, so that lines fill vector registers
                    offset = at[n] / wide[n]
                    squared = offset * offset
                    value = exp32(-_HALF * squared)
                    at[n] = value if squared < np.float32(16.0) else _ZERO
                    share[n] = value * sharpest / wide[n]
                    ahead[n] = _ONE / (_ONE + exp32(np.float32(4.0) * offset + np.float32(6.0)))
                    past[n] = _ONE / (_ONE + exp32(np.float32(6.0) - np.float32(4.0) * offset))
            for j in range(ny):
                for k in range(nz):
                    v = j * nz + k
                    from_, to = starts[row + v] - begin, starts[row + v + 1] - begin
                    found, summed = False, _ZERO
                    for n in range(from_, to):
                        found = found or depths[begin + n] < nearest[levels[begin + n]]
                        summed += at[n]
                    passed[v] = found
                    if channels and summed > np.float32(NEAR) * np.float32(to - from_):
                        near[count_near, 0], near[count_near, 1] = j, k
                        count_near += 1
        if channels:
            for j in range(ny):
                for k in range(nz):
                    finer[i, j, k] = _ZERO
            for chunk in range(0, count_near, _CHUNK):
                taken = min(_CHUNK, count_near - chunk)
                for t in range(taken):
                    j, k = near[chunk + t, 0], near[chunk + t, 1]
                    v = j * nz + k
                    from_, to = starts[row + v] - begin, starts[row + v + 1] - begin
                    s0 = s1 = s2 = s3 = s4 = _ZERO
                    for n in range(from_, to):
                        s0 += at[n]
                        s1 += ahead[n]
                        s2 += past[n]
                        s3 += share[n]
                        s4 += log_error[cells[begin + n]]
                    part = _ONE / np.float32(to - from_)
                    inputs[0, t] = logits[v]
                    inputs[details + 1, t], inputs[details + 2, t] = s0 * part, s1 * part
                    inputs[details + 3, t], inputs[details + 4, t], inputs[details + 5, t] = (
                        s2 * part, s3 * part, s4 * part
                    )  # fmt: skip
                    b, c = y_share[j], z_share[k]
                    j0, k0 = y_low[j], z_low[k]
                    j1, k1 = min(j0 + 1, size_y - 1), min(k0 + 1, size_z - 1)
                    w00, w01, w10, w11 = (_ONE - a) * (_ONE - b), (_ONE - a) * b, a * (_ONE - b), a * b
                    c00, c01 = values[(i0 * size_y + j0) * size_z + k0], values[(i0 * size_y + j1) * size_z + k0]
                    c10, c11 = values[(i1 * size_y + j0) * size_z + k0], values[(i1 * size_y + j1) * size_z + k0]
                    # The last eight values of a point end with the details, of which there are no more.
                    for lane in range(_TAIL):
                        o = tail + lane
                        last_values[lane] = w00 * c00[o] + w01 * c01[o] + w10 * c10[o] + w11 * c11[o]
                    if c > _ZERO:
                        c00, c01 = values[(i0 * size_y + j0) * size_z + k1], values[(i0 * size_y + j1) * size_z + k1]
                        c10, c11 = values[(i1 * size_y + j0) * size_z + k1], values[(i1 * size_y + j1) * size_z + k1]
                        for lane in range(_TAIL):
                            o = tail + lane
                            upper = w00 * c00[o] + w01 * c01[o] + w10 * c10[o] + w11 * c11[o]
                            last_values[lane] = (_ONE - c) * last_values[lane] + c * upper
                    for m in range(details):
                        inputs[1 + m, t] = last_values[_TAIL - details + m]
                for t in range(taken):
                    total[t] = last_bias[0]
                for m in range(hidden):
                    for t in range(taken):
                        sums[t] = bias[m]
                    for n in range(channels):
                        w, given = weight[m, n], inputs[n]
                        for t in range(taken):
                            sums[t] += w * given[t]
                    w = last_weight[m]
                    for t in range(taken):
                        total[t] += w * max(sums[t], _ZERO)
                for t in range(taken):
                    j, k = near[chunk + t, 0], near[chunk + t, 1]
                    finer[i, j, k] = total[t]
                    logits[j * nz + k] += total[t]
        for v in range(ny * nz):
            opacity[v] = _ONE / (_ONE + exp32(logits[v]))
        for j in range(ny):
            far = any_beyond and beyond[i, j]
            b, j0 = y_share[j], y_low[j]
            j1 = min(j0 + 1, size_y - 1)
            w00, w01, w10, w11 = (_ONE - a) * (_ONE - b), (_ONE - a) * b, a * (_ONE - b), a * b
            for k in range(nz):
                v = j * nz + k
                known = seen[i, j, k]
                opacities[i, j, k], passes[i, j, k] = opacity[v], passed[v]
                if known and not opacity[v] > least:
                    labels[i, j, k] = free if passed[v] else OCCLUDED
                    confidence[i, j, k] = _ONE - opacity[v] if passed[v] else _ZERO
                elif known:
                    c, k0 = z_share[k], z_low[k]
                    k1 = min(k0 + 1, size_z - 1)
                    c00, c01 = values[(i0 * size_y + j0) * size_z + k0], values[(i0 * size_y + j1) * size_z + k0]
                    c10, c11 = values[(i1 * size_y + j0) * size_z + k0], values[(i1 * size_y + j1) * size_z + k0]
                    for n in range(free):
                        classes[n] = w00 * c00[n] + w01 * c01[n] + w10 * c10[n] + w11 * c11[n]
                    if c > _ZERO:
                        c00, c01 = values[(i0 * size_y + j0) * size_z + k1], values[(i0 * size_y + j1) * size_z + k1]
                        c10, c11 = values[(i1 * size_y + j0) * size_z + k1], values[(i1 * size_y + j1) * size_z + k1]
                        for n in range(free):
                            upper = w00 * c00[n] + w01 * c01[n] + w10 * c10[n] + w11 * c11[n]
                            classes[n] = (_ONE - c) * classes[n] + c * upper
                    best, label = classes[0], 0
                    for n in range(1, free):
                        if classes[n] > best:
                            best, label = classes[n], n
                    sure = _ZERO
                    for n in range(free):
                        sure += exp32(classes[n] - best)
                    known = not (far and stands[label] and not ground[k])
                    labels[i, j, k], confidence[i, j, k] = label, opacity[v] / sure
                if any_beyond:
                    observed[i, j, k] = known
                if not known:
                    labels[i, j, k], confidence[i, j, k] = UNOBSERVED, _ZERO


__all__ = ["Decided", "Decider"]
