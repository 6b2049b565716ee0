# SPDX-License-Identifier: Apache-2.0
"""Tile rasteriser for the CPU: Numba kernels over 16x16 pixel tiles, front to back, float32.

A tile keeps its accumulators (row, channel, 16 pixels) in the first-level cache, and every inner loop runs over the
16 pixels of one tile row, so that the compiler turns it into vector instructions.

The kernels are plain functions that release the GIL; threads share the tiles. No Numba threading layer is involved:
compilation stays short, any Python thread may call this at any time, and forked workers are safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaussianocc_core.kernels import JIT, as_array, run_in_threads
from gaussianocc_core.rendering.geometry import TILE, Footprints, RasterConstants

_CHUNK = 24  # tiles handed to a thread at a time: small enough to balance sky against road
# exp(-s) = P(s / 8)^8 on s in [0, 12]; P is the degree-7 Chebyshev fit of exp(-x) on [0, 1.5], relative error 2e-8,
# 2e-7 after the powers. A loop over math.exp would not be vectorised.
_FIT = np.polynomial.Chebyshev.interpolate(lambda x: np.exp(-x), 7, domain=[0, 1.5])
_E0, _E1, _E2, _E3, _E4, _E5, _E6, _E7 = _FIT.convert(kind=np.polynomial.Polynomial).coef.astype(np.float32)
_MAX_EXPONENT = np.float32(12.0)  # e^-12 = 6e-6 is below min_alpha for opacities up to 600: such a pixel is skipped
_EIGHTH, _HALF, _ZERO, _ONE = np.float32(0.125), np.float32(0.5), np.float32(0.0), np.float32(1.0)


@dataclass(frozen=True)
class TileLists:
    """Which footprints each tile composites, nearest first; tiles are ordered camera, row, column."""

    start: Int[np.ndarray, " S"]  # S = tiles + 1: tile t owns entries[start[t] : start[t + 1]]
    entries: Int[np.ndarray, " E"]  # rows of the Footprints

    def spans(self) -> list[tuple[int, int]]:
        """(first, end) tiles of one work item each."""
        count = len(self.start) - 1
        return [(first, min(first + _CHUNK, count)) for first in range(0, count, _CHUNK)]


def composite(
    footprints: Footprints,
    opacities: Float[Tensor, " M"],
    features: Float[Tensor, "M C"],
    cameras: int,
    width: int,
    height: int,
    constants: RasterConstants,
) -> tuple[Float[Tensor, "N C H W"], Float[Tensor, "N 1 H W"], Float[Tensor, "N 1 H W"]]:
    """Accumulated features, accumulated depth (m) and alpha of every camera.

    Differentiable in opacities and features, and through the footprints' centers, conics and depth.
    """
    tiles = bin_footprints(footprints, cameras, width, height)
    fixed = _Fixed(
        tiles,
        as_array(footprints.gaussian, np.int32),
        as_array(footprints.reach),
        (cameras, features.shape[1] + 2, height, width),
        constants,
    )
    image = _Composite.apply(footprints.centers, footprints.conics, footprints.depth, opacities, features, fixed)
    return image[:, :-2], image[:, -2:-1], image[:, -1:]


@dataclass(frozen=True)
class _Fixed:
    """What compositing needs and has no gradient."""

    tiles: TileLists
    gaussian: Int[np.ndarray, " P"]
    reach: Float[np.ndarray, " P"]
    shape: tuple[int, int, int, int]  # N, C + 2, H, W: features, depth, alpha
    constants: RasterConstants

    def kernel_arguments(self, tensors: Sequence[Tensor]) -> tuple:
        """The leading arguments that both kernels share, from centers, conics, depth, opacities, features."""
        limits = (self.constants.min_alpha, self.constants.max_alpha, self.constants.stop_transmittance)
        return (
            self.tiles.start,
            self.tiles.entries,
            self.gaussian,
            self.reach,
            *(as_array(tensor) for tensor in tensors),
            *(np.float32(limit) for limit in limits),
        )


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx, centers, conics, depth, opacities, features, fixed):
        image = np.empty(fixed.shape, dtype=np.float32)
        arguments = fixed.kernel_arguments((centers, conics, depth, opacities, features))
        for _ in run_in_threads(
            lambda first, end: _composite_tiles(first, end, *arguments, image), fixed.tiles.spans()
        ):
            pass
        result = torch.from_numpy(image)
        ctx.fixed = fixed
        ctx.save_for_backward(centers, conics, depth, opacities, features, result)
        return result

    @staticmethod
    def backward(ctx, grad_image):
        *inputs, image = ctx.saved_tensors
        fixed = ctx.fixed
        arguments = fixed.kernel_arguments(inputs)
        grad_image, image = as_array(grad_image), as_array(image)
        through_clamp = fixed.constants.clamped_alpha_gradient
        start, entries = fixed.tiles.start, fixed.tiles.entries

        def work(first: int, end: int) -> np.ndarray:
            # One row per entry of these tiles; a footprint in several tiles has several rows.
            grads = np.zeros((start[end] - start[first], fixed.shape[1] + 5), dtype=np.float32)
            _backward_tiles(first, end, *arguments, image, grad_image, through_clamp, grads)
            return grads

        results = [np.zeros(tuple(tensor.shape), dtype=np.float32) for tensor in inputs]
        offset = 0
        for grads in run_in_threads(
            work, fixed.tiles.spans()
        ):  # in the tiles' order, so that sums do not depend on the threads
            _scatter(entries[offset : offset + len(grads)], fixed.gaussian, grads, *results)
            offset += len(grads)
        return (*(torch.from_numpy(result) for result in results), None)


def bin_footprints(footprints: Footprints, cameras: int, width: int, height: int) -> TileLists:
    """Counting sort of the footprints into tiles; it keeps their order, which is by depth within a camera."""
    columns, rows = -(-width // TILE), -(-height // TILE)
    start = np.zeros(cameras * rows * columns + 1, dtype=np.int64)
    camera, rectangles = as_array(footprints.camera, np.int32), as_array(footprints.tiles, np.int32)
    _count_tiles(camera, rectangles, columns, rows, start)
    np.cumsum(start, out=start)
    entries = np.empty(start[-1], dtype=np.int32)
    _fill_tiles(camera, rectangles, columns, rows, start[:-1].copy(), entries)
    return TileLists(start, entries)


@numba.njit(**JIT)
def _count_tiles(camera, rectangles, columns, rows, start):
    """start[1 + tile] += footprints that touch the tile."""
    for p in range(camera.shape[0]):
        base = 1 + camera[p] * rows * columns
        for row in range(rectangles[p, 1], rectangles[p, 3]):
            for column in range(rectangles[p, 0], rectangles[p, 2]):
                start[base + row * columns + column] += 1


@numba.njit(**JIT)
def _fill_tiles(camera, rectangles, columns, rows, cursor, entries):
    for p in range(camera.shape[0]):
        base = camera[p] * rows * columns
        for row in range(rectangles[p, 1], rectangles[p, 3]):
            for column in range(rectangles[p, 0], rectangles[p, 2]):
                tile = base + row * columns + column
                entries[cursor[tile]] = p
                cursor[tile] += 1


@numba.njit(inline="always", **JIT)
def _exp_negative(s):
    """exp(-s) for s in [0, _MAX_EXPONENT]; larger s gives exp(-_MAX_EXPONENT)."""
    x = min(s, _MAX_EXPONENT) * _EIGHTH
    p = _E0 + x * (_E1 + x * (_E2 + x * (_E3 + x * (_E4 + x * (_E5 + x * (_E6 + x * _E7))))))
    p = p * p
    p = p * p
    return p * p


@numba.njit(inline="always", **JIT)
def _place_tile(tile, width, height):
    """Camera of a tile, its top and left border (px), and how many of its rows and columns lie inside the image."""
    columns, rows = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    top, left = (tile // columns) % rows * TILE, tile % columns * TILE
    return tile // (rows * columns), top, left, min(TILE, height - top), min(TILE, width - left)


@numba.njit(inline="always", **JIT)
def _start_tile(tile_columns, transmittance, live, row_live):
    """Nothing composited yet; columns outside the image have stopped from the start."""
    transmittance[:] = _ONE
    live[:] = _ZERO
    live[:, :tile_columns] = _ONE
    row_live[:] = True


@numba.njit(inline="always", **JIT)
def _place_footprint(p, centers, reach, left, top, tile_rows):
    """u, v relative to the centre of the tile's first pixel, and the first and the end row that it can reach."""
    u = centers[p, 0] - np.float32(left) - _HALF
    v = centers[p, 1] - np.float32(top) - _HALF
    return u, v, max(0, int(np.ceil(v - reach[p]))), min(tile_rows, int(np.floor(v + reach[p])) + 1)


@numba.njit(**JIT)
def _composite_tiles(
    first, end, start, entries, gaussian, reach, centers, conics, depth, opacities, features,
    min_alpha, max_alpha, stop_transmittance, image,
):  # fmt: skip
    """Composite tiles first..end into image (N, C + 2, H, W): features, depth, alpha."""
    height, width = image.shape[2], image.shape[3]
    channels = features.shape[1]
    sums = np.empty((TILE, channels + 1, TILE), dtype=np.float32)  # features, depth
    transmittance = np.empty((TILE, TILE), dtype=np.float32)
    live = np.empty((TILE, TILE), dtype=np.float32)  # 1 until the pixel has stopped
    row_live = np.empty(TILE, dtype=np.bool_)
    weight = np.empty(TILE, dtype=np.float32)
    offset = np.arange(TILE).astype(np.float32)

    for tile in range(first, end):
        camera, top, left, tile_rows, tile_columns = _place_tile(tile, width, height)
        sums[:] = _ZERO
        _start_tile(tile_columns, transmittance, live, row_live)
        rows_left = tile_rows

        for entry in range(start[tile], start[tile + 1]):
            p = entries[entry]
            g = gaussian[p]
            u, v, first_row, end_row = _place_footprint(p, centers, reach, left, top, tile_rows)
            half_uu, uv, half_vv = _HALF * conics[p, 0], conics[p, 1], _HALF * conics[p, 2]
            opacity = opacities[g]
            z = depth[p]
            for row in range(first_row, end_row):
                if not row_live[row]:
                    continue
                dv = v - np.float32(row)
                cross, constant = uv * dv, half_vv * dv * dv
                total, alive = _ZERO, _ZERO
                for i in range(TILE):
                    du = u - offset[i]
                    s = du * (half_uu * du + cross) + constant
                    alpha = min(max_alpha, opacity * _exp_negative(s))
                    alpha = alpha if alpha >= min_alpha and s >= _ZERO else _ZERO
                    t = transmittance[row, i]
                    w = alpha * t
                    on = live[row, i] if t - w > stop_transmittance else _ZERO
                    w *= on
                    live[row, i] = on
                    transmittance[row, i] = t - w
                    weight[i] = w
                    total += w
                    alive += on
                if total > _ZERO:
                    for c in range(channels):
                        value = features[g, c]
                        for i in range(TILE):
                            sums[row, c, i] += value * weight[i]
                    for i in range(TILE):
                        sums[row, channels, i] += z * weight[i]
                if alive == _ZERO:
                    row_live[row] = False
                    rows_left -= 1
            if rows_left == 0:
                break

        for row in range(tile_rows):
            for c in range(channels + 1):
                for i in range(tile_columns):
                    image[camera, c, top + row, left + i] = sums[row, c, i]
            for i in range(tile_columns):
                image[camera, channels + 1, top + row, left + i] = _ONE - transmittance[row, i]


@numba.njit(**JIT)
def _backward_tiles(
    first, end, start, entries, gaussian, reach, centers, conics, depth, opacities, features,
    min_alpha, max_alpha, stop_transmittance, image, grad_image, through_clamp, grads,
):  # fmt: skip
    """Gradients of every entry of tiles first..end: C features, depth, opacity, u, v, conic uu, uv, vv.

    Replays the forward pass front to back. With w = alpha T, q = dL/dw and Q = sum of w q over the whole pixel,
    dL/dalpha = T q - (Q - P) / (1 - alpha), where P is the part of Q up to and with this Gaussian: what lies behind
    is known from the total, so that no second pass from the back is needed.
    """
    height, width = image.shape[2], image.shape[3]
    channels = features.shape[1]
    grad = np.empty((TILE, channels + 2, TILE), dtype=np.float32)  # of the image: features, depth, alpha
    behind = np.empty((TILE, TILE), dtype=np.float32)  # Q - P
    transmittance = np.empty((TILE, TILE), dtype=np.float32)
    live = np.empty((TILE, TILE), dtype=np.float32)
    row_live = np.empty(TILE, dtype=np.bool_)
    weight = np.empty(TILE, dtype=np.float32)
    alphas = np.empty(TILE, dtype=np.float32)  # before the clamp; 0 where skipped or stopped
    before = np.empty(TILE, dtype=np.float32)  # T before this Gaussian
    q = np.empty(TILE, dtype=np.float32)
    sums = np.empty((channels + 1, TILE), dtype=np.float32)  # w dL/dfeature, w dL/ddepth over the rows
    shape = np.empty((6, TILE), dtype=np.float32)  # opacity, u, v, conic uu, uv, vv over the rows
    offset = np.arange(TILE).astype(np.float32)
    base = start[first]

    for tile in range(first, end):
        camera, top, left, tile_rows, tile_columns = _place_tile(tile, width, height)
        grad[:] = _ZERO
        behind[:] = _ZERO
        for row in range(tile_rows):
            for c in range(channels + 2):
                for i in range(tile_columns):
                    g_pixel = grad_image[camera, c, top + row, left + i]
                    grad[row, c, i] = g_pixel
                    behind[row, i] += g_pixel * image[camera, c, top + row, left + i]
        _start_tile(tile_columns, transmittance, live, row_live)
        rows_left = tile_rows

        for entry in range(start[tile], start[tile + 1]):
            p = entries[entry]
            g = gaussian[p]
            u, v, first_row, end_row = _place_footprint(p, centers, reach, left, top, tile_rows)
            uu, uv, vv = conics[p, 0], conics[p, 1], conics[p, 2]
            opacity = opacities[g]
            z = depth[p]
            sums[:] = _ZERO
            shape[:] = _ZERO
            for row in range(first_row, end_row):
                if not row_live[row]:
                    continue
                dv = v - np.float32(row)
                total, alive = _ZERO, _ZERO
                for i in range(TILE):
                    du = u - offset[i]
                    s = du * (_HALF * uu * du + uv * dv) + _HALF * vv * dv * dv
                    full = opacity * _exp_negative(s)
                    full = full if full >= min_alpha and s >= _ZERO else _ZERO
                    t = transmittance[row, i]
                    w = min(max_alpha, full) * t
                    on = live[row, i] if t - w > stop_transmittance else _ZERO
                    w *= on
                    live[row, i] = on
                    transmittance[row, i] = t - w
                    before[i] = t
                    weight[i] = w
                    alphas[i] = full * on
                    total += w
                    alive += on
                if total > _ZERO:
                    for i in range(TILE):
                        q[i] = grad[row, channels + 1, i] + z * grad[row, channels, i]
                        sums[channels, i] += weight[i] * grad[row, channels, i]
                    for c in range(channels):
                        value = features[g, c]
                        for i in range(TILE):
                            q[i] += value * grad[row, c, i]
                            sums[c, i] += weight[i] * grad[row, c, i]
                    for i in range(TILE):
                        rest = behind[row, i] - weight[i] * q[i]
                        behind[row, i] = rest
                        full = alphas[i]
                        d_alpha = before[i] * q[i] - rest / (_ONE - min(max_alpha, full))
                        passes = full > _ZERO and (through_clamp or full < max_alpha)
                        # alpha = o exp(-s): d alpha = full / o do - full ds
                        d_full = d_alpha * full if passes else _ZERO
                        du = u - offset[i]
                        shape[0, i] += d_full
                        shape[1, i] -= d_full * (uu * du + uv * dv)
                        shape[2, i] -= d_full * (vv * dv + uv * du)
                        shape[3, i] -= d_full * _HALF * du * du
                        shape[4, i] -= d_full * du * dv
                        shape[5, i] -= d_full * _HALF * dv * dv
                if alive == _ZERO:
                    row_live[row] = False
                    rows_left -= 1
            for c in range(channels + 1):
                total = _ZERO
                for i in range(TILE):
                    total += sums[c, i]
                grads[entry - base, c] = total
            for k in range(6):
                total = _ZERO
                for i in range(TILE):
                    total += shape[k, i]
                grads[entry - base, channels + 1 + k] = total / opacity if k == 0 else total
            if rows_left == 0:
                break


@numba.njit(**JIT)
def _scatter(entries, gaussian, grads, centers, conics, depth, opacities, features):
    """Add the gradients of entries to those of footprints (centers, conics, depth) and Gaussians."""
    channels = features.shape[1]
    for e in range(entries.shape[0]):
        p = entries[e]
        g = gaussian[p]
        for c in range(channels):
            features[g, c] += grads[e, c]
        depth[p] += grads[e, channels]
        opacities[g] += grads[e, channels + 1]
        for k in range(2):
            centers[p, k] += grads[e, channels + 2 + k]
        for k in range(3):
            conics[p, k] += grads[e, channels + 4 + k]
