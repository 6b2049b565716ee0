# SPDX-License-Identifier: Apache-2.0
"""The plane sweep of `matching` on the CPU: Numba kernels, forward and backward, float32.

One feature vector is a multiple of 16 numbers, so that each of the four taps of a bilinear sample is one or two vector
instructions. Rows of the reference maps are shared out by Python threads; the backward pass gives each source map to
one thread, which alone writes that map's gradient. Sums do not depend on the number of threads.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from gaussianocc_core.rendering.cpu import JIT, as_array, run_in_threads

LANES = 16  # channels come in multiples of it
_ROWS = 4  # of a reference map, per task
_SMALL = 150_000  # samples: of a pair, a cell and a plane
_NEAREST_RATIO = np.float32(1e-3)  # of a point's depth in the source to that in the reference; less is behind it
_HALF, _ZERO, _ONE = np.float32(0.5), np.float32(0.0), np.float32(1.0)


def sweep(
    references: Float[Tensor, "R C h w"],
    sources: Float[Tensor, "S C H W"],
    pairs: tuple[Int[Tensor, " P"], Int[Tensor, " P"], Int[Tensor, " P"]],
    matrices: Float[Tensor, "P 3 4"],
    inv_depths: Float[Tensor, " D"],
    groups: int,
) -> tuple[Float[Tensor, "R GD h w"], Float[Tensor, "R GD h w"]]:
    """As `matching.sweep_planes`: summed products of the pairs that see, and how many do. C: a multiple of 16."""
    return _Sweep.apply(references, sources, pairs, matrices, inv_depths, groups)


class _Sweep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, references, sources, pairs, matrices, inv_depths, groups):
        count, _, height, width = references.shape
        # By reference, so that a row's pairs lie together.
        order = np.argsort(as_array(pairs[0], np.int64), kind="stable")
        reference, source, group = (as_array(each, np.int64)[order] for each in pairs)
        starts = np.searchsorted(reference, np.arange(count + 1)).astype(np.int64)
        matrix, inverse = as_array(matrices)[order], as_array(inv_depths)
        if min(sources.shape[2:]) < 2:
            raise ValueError(f"sources: expected maps of at least 2 x 2 cells, got {tuple(sources.shape[2:])}")
        left, right = _pixels_first(references), _pixels_first(sources)
        volume = np.zeros((count * height * width, groups * len(inverse)), dtype=np.float32)
        seen = np.zeros_like(volume)
        size = np.array([height, width, *sources.shape[2:]], dtype=np.int64)
        # Threads cost a millisecond to start: little work is done at once, in this one.
        small = len(order) * height * width * len(inverse) < _SMALL
        step = max(count * height, 1) if small else _ROWS
        rows = range(0, count * height, step)
        for _ in run_in_threads(
            lambda row: _sweep_rows(
                row,
                min(row + step, count * height),
                size,
                starts,
                source,
                group,
                matrix,
                inverse,
                left,
                right,
                volume,
                seen,
            ),
            [(row,) for row in rows],
        ):
            pass
        ctx.fixed = (reference, source, group, matrix, inverse, size)
        ctx.save_for_backward(references, sources)
        shape = (count, height, width, -1)
        counted = torch.from_numpy(seen).view(shape).permute(0, 3, 1, 2)
        ctx.mark_non_differentiable(counted)
        return torch.from_numpy(volume).view(shape).permute(0, 3, 1, 2), counted

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_volume, _):
        references, sources = ctx.saved_tensors
        reference, source, group, matrix, inverse, size = ctx.fixed
        left, right = _pixels_first(references), _pixels_first(sources)
        grad = as_array(grad_volume.permute(0, 2, 3, 1)).reshape(-1, grad_volume.shape[1])
        per_source = right.shape[0] // len(sources)
        grad_right = np.zeros_like(right)
        grad_left = np.zeros_like(left)

        def work(number: int) -> np.ndarray | None:
            mine = np.flatnonzero(source == number)
            if not len(mine):
                return None
            part = np.zeros_like(left)
            rows = slice(number * per_source, (number + 1) * per_source)
            for pair in mine:
                _backward_pair(
                    size,
                    reference[pair],
                    group[pair],
                    matrix[pair],
                    inverse,
                    left,
                    right[rows],
                    grad,
                    part,
                    grad_right[rows],
                )
            return part

        for part in run_in_threads(work, [(number,) for number in range(len(sources))]):
            if part is not None:
                grad_left += part

        def maps(flat: np.ndarray, like: Tensor) -> Tensor:
            count, channels, height, width = like.shape
            return torch.from_numpy(flat).view(count, height, width, channels).permute(0, 3, 1, 2)

        return maps(grad_left, references), maps(grad_right, sources), None, None, None, None


def _pixels_first(maps: Float[Tensor, "N C h w"]) -> Float[np.ndarray, "P C"]:
    return as_array(maps.permute(0, 2, 3, 1)).reshape(-1, maps.shape[1])


@numba.njit(inline="always", error_model="numpy")
def _place(u, v, matrix, inverse, width, height, xs, ys):
    """Where the reference cell (u, v) lies in a source map at each inverse depth: xs, ys count from the centre of the
    first cell, within the map; xs is -1 where the source does not see it.

    A loop of its own, without a branch, so that the planes fill vector registers: half the time of the sweep.
    """
    x0 = matrix[0, 0] * u + matrix[0, 1] * v + matrix[0, 2]
    y0 = matrix[1, 0] * u + matrix[1, 1] * v + matrix[1, 2]
    z0 = matrix[2, 0] * u + matrix[2, 1] * v + matrix[2, 2]
    dx, dy, dz = matrix[0, 3], matrix[1, 3], matrix[2, 3]
    limit_x, limit_y = np.float32(width), np.float32(height)
    last_x, last_y = np.float32(width - 1), np.float32(height - 1)
    for d in range(inverse.shape[0]):
        z = z0 + dz * inverse[d]
        scale = _ONE / z
        x, y = (x0 + dx * inverse[d]) * scale, (y0 + dy * inverse[d]) * scale
        sees = (z > _NEAREST_RATIO) & (x >= _ZERO) & (x < limit_x) & (y >= _ZERO) & (y < limit_y)
        xs[d] = min(max(x - _HALF, _ZERO), last_x) if sees else -_ONE
        ys[d] = min(max(y - _HALF, _ZERO), last_y)


@numba.njit(**JIT)
def _sweep_rows(first, end, size, starts, source, group, matrix, inverse, left, right, volume, seen):
    """Rows first to end of all reference maps, counted through; volume and seen (pixels, groups * depths) are added to.

    left (R h w, C), right (S H W, C); size: h, w, H, W, the last two at least 2; pairs of reference r:
    starts[r] : starts[r + 1].
    """
    height, width, source_height, source_width = size[0], size[1], size[2], size[3]
    depths, channels = inverse.shape[0], left.shape[1]
    xs, ys = np.empty(depths, dtype=np.float32), np.empty(depths, dtype=np.float32)
    for row in range(first, end):
        r, v = row // height, np.float32(row % height) + _HALF
        for pair in range(starts[r], starts[r + 1]):
            offset, shift = source[pair] * source_height * source_width, group[pair] * depths
            for j in range(width):
                _place(np.float32(j) + _HALF, v, matrix[pair], inverse, source_width, source_height, xs, ys)
                pixel = row * width + j
                here, out, count = left[pixel], volume[pixel], seen[pixel]
                for d in range(depths):
                    x, y = xs[d], ys[d]
                    if x < _ZERO:
                        continue
                    column, line = min(np.int64(x), source_width - 2), min(np.int64(y), source_height - 2)
                    fx, fy = x - np.float32(column), y - np.float32(line)
                    corner = offset + line * source_width + column
                    p00, p01 = right[corner], right[corner + 1]
                    p10, p11 = right[corner + source_width], right[corner + source_width + 1]
                    w11 = fx * fy
                    w01, w10 = fx - w11, fy - w11
                    w00 = _ONE - fx - w10
                    total = _ZERO
                    for k in range(LANES):  # of a length that the compiler knows
                        total += here[k] * (w00 * p00[k] + w01 * p01[k] + w10 * p10[k] + w11 * p11[k])
                    for k in range(LANES, channels):
                        total += here[k] * (w00 * p00[k] + w01 * p01[k] + w10 * p10[k] + w11 * p11[k])
                    out[shift + d] += total
                    count[shift + d] += _ONE


@numba.njit(**JIT)
def _backward_pair(size, reference, group, matrix, inverse, left, right, grad, grad_left, grad_right):
    """Adds one pair's part of the gradients; right and grad_right (H W, C) are those of its source map."""
    height, width, source_height, source_width = size[0], size[1], size[2], size[3]
    depths, channels = inverse.shape[0], left.shape[1]
    xs, ys = np.empty(depths, dtype=np.float32), np.empty(depths, dtype=np.float32)
    shift = group * depths
    for i in range(height):
        for j in range(width):
            _place(np.float32(j) + _HALF, np.float32(i) + _HALF, matrix, inverse, source_width, source_height, xs, ys)
            pixel = (reference * height + i) * width + j
            here, grad_here, given = left[pixel], grad_left[pixel], grad[pixel]
            for d in range(depths):
                g, x, y = given[shift + d], xs[d], ys[d]
                if x < _ZERO or g == _ZERO:
                    continue
                column, line = min(np.int64(x), source_width - 2), min(np.int64(y), source_height - 2)
                fx, fy = x - np.float32(column), y - np.float32(line)
                corner = line * source_width + column
                p00, p01 = right[corner], right[corner + 1]
                p10, p11 = right[corner + source_width], right[corner + source_width + 1]
                g00, g01 = grad_right[corner], grad_right[corner + 1]
                g10, g11 = grad_right[corner + source_width], grad_right[corner + source_width + 1]
                w11 = fx * fy
                w01, w10 = fx - w11, fy - w11
                w00 = _ONE - fx - w10
                for k in range(channels):
                    grad_here[k] += g * (w00 * p00[k] + w01 * p01[k] + w10 * p10[k] + w11 * p11[k])
                for block in range(0, channels, LANES):
                    for c in range(LANES):
                        k = block + c
                        each = g * here[k]
                        g00[k] += w00 * each
                        g01[k] += w01 * each
                        g10[k] += w10 * each
                        g11[k] += w11 * each


__all__ = ["LANES", "sweep"]
