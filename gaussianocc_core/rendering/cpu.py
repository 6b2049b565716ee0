# SPDX-License-Identifier: Apache-2.0
"""Tile rasteriser for the CPU: Numba kernels over 16x16 pixel tiles, front to back, float32.

A tile keeps its accumulators (row, channel, 16 pixels) in the first-level cache, and every inner loop runs over the
16 pixels of one tile row, so that the compiler turns it into vector instructions.

The kernels are plain functions that release the GIL; threads share the tiles. No Numba threading layer is involved:
compilation stays short, any Python thread may call this at any time, and forked workers are safe.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaussianocc_core.rendering.geometry import TILE, Footprints, RasterConstants

# Contraction to fused multiply-add and reordered sums; infinities and NaNs keep their meaning.
_FASTMATH = {"contract", "reassoc", "nsz", "arcp"}
_JIT = {"nogil": True, "cache": True, "fastmath": _FASTMATH, "error_model": "numpy"}
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


def composite(
    footprints: Footprints,
    opacities: Float[Tensor, " M"],
    features: Float[Tensor, "M C"],
    cameras: int,
    width: int,
    height: int,
    constants: RasterConstants,
) -> tuple[Float[Tensor, "N C H W"], Float[Tensor, "N 1 H W"], Float[Tensor, "N 1 H W"]]:
    """Accumulated features, accumulated depth (m) and alpha of every camera."""
    tiles = bin_footprints(footprints, cameras, width, height)
    channels = features.shape[1]
    image = np.empty((cameras, channels + 2, height, width), dtype=np.float32)  # features, depth, alpha
    arguments = (
        tiles.start,
        tiles.entries,
        _array(footprints.gaussian, np.int32),
        _array(footprints.centers),
        _array(footprints.conics),
        _array(footprints.depth),
        _array(footprints.reach),
        _array(opacities),
        _array(features),
        np.float32(constants.min_alpha),
        np.float32(constants.max_alpha),
        np.float32(constants.stop_transmittance),
    )
    _for_tiles(lambda first, end: _composite_tiles(first, end, *arguments, image), len(tiles.start) - 1)
    result = torch.from_numpy(image)
    return result[:, :channels], result[:, channels : channels + 1], result[:, channels + 1 :]


def bin_footprints(footprints: Footprints, cameras: int, width: int, height: int) -> TileLists:
    """Counting sort of the footprints into tiles; it keeps their order, which is by depth within a camera."""
    columns, rows = -(-width // TILE), -(-height // TILE)
    start = np.zeros(cameras * rows * columns + 1, dtype=np.int64)
    camera, rectangles = _array(footprints.camera, np.int32), _array(footprints.tiles, np.int32)
    _count_tiles(camera, rectangles, columns, rows, start)
    np.cumsum(start, out=start)
    entries = np.empty(start[-1], dtype=np.int32)
    _fill_tiles(camera, rectangles, columns, rows, start[:-1].copy(), entries)
    return TileLists(start, entries)


def _array(values: Tensor, dtype: type = np.float32) -> np.ndarray:
    return np.ascontiguousarray(values.detach().cpu().numpy(), dtype=dtype)


def _for_tiles(work: Callable[[int, int], None], count: int) -> None:
    """Run work(first, end) over all tiles on as many threads as torch uses; they live only as long as the call."""
    threads = min(torch.get_num_threads(), os.cpu_count() or 1)
    ranges = [(first, min(first + _CHUNK, count)) for first in range(0, count, _CHUNK)]
    work(0, 0)  # compile or load in one thread
    if threads == 1 or len(ranges) == 1:
        work(0, count)
        return
    with ThreadPoolExecutor(threads) as pool:
        for finished in [pool.submit(work, *span) for span in ranges]:
            finished.result()


@numba.njit(**_JIT)
def _count_tiles(camera, rectangles, columns, rows, start):
    """start[1 + tile] += footprints that touch the tile."""
    for p in range(camera.shape[0]):
        base = 1 + camera[p] * rows * columns
        for row in range(rectangles[p, 1], rectangles[p, 3]):
            for column in range(rectangles[p, 0], rectangles[p, 2]):
                start[base + row * columns + column] += 1


@numba.njit(**_JIT)
def _fill_tiles(camera, rectangles, columns, rows, cursor, entries):
    for p in range(camera.shape[0]):
        base = camera[p] * rows * columns
        for row in range(rectangles[p, 1], rectangles[p, 3]):
            for column in range(rectangles[p, 0], rectangles[p, 2]):
                tile = base + row * columns + column
                entries[cursor[tile]] = p
                cursor[tile] += 1


@numba.njit(inline="always", **_JIT)
def _exp_negative(s):
    """exp(-s) for s in [0, _MAX_EXPONENT]; larger s gives exp(-_MAX_EXPONENT)."""
    x = min(s, _MAX_EXPONENT) * _EIGHTH
    p = _E0 + x * (_E1 + x * (_E2 + x * (_E3 + x * (_E4 + x * (_E5 + x * (_E6 + x * _E7))))))
    p = p * p
    p = p * p
    return p * p


@numba.njit(**_JIT)
def _composite_tiles(
    first, end, start, entries, gaussian, centers, conics, depth, reach, opacities, features,
    min_alpha, max_alpha, stop_transmittance, image,
):  # fmt: skip
    """Composite tiles first..end into image (N, C + 2, H, W): features, depth, alpha."""
    height, width = image.shape[2], image.shape[3]
    channels = features.shape[1]
    columns, rows = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    sums = np.empty((TILE, channels + 1, TILE), dtype=np.float32)  # features, depth
    transmittance = np.empty((TILE, TILE), dtype=np.float32)
    live = np.empty((TILE, TILE), dtype=np.float32)  # 1 until the pixel has stopped
    row_live = np.empty(TILE, dtype=np.bool_)
    weight = np.empty(TILE, dtype=np.float32)
    offset = np.arange(TILE).astype(np.float32)

    for tile in range(first, end):
        camera = tile // (rows * columns)
        top = (tile // columns) % rows * TILE
        left = tile % columns * TILE
        tile_rows = min(TILE, height - top)
        tile_columns = min(TILE, width - left)
        sums[:] = _ZERO
        transmittance[:] = _ONE
        live[:] = _ZERO
        live[:, :tile_columns] = _ONE
        row_live[:] = True
        rows_left = tile_rows

        for entry in range(start[tile], start[tile + 1]):
            p = entries[entry]
            g = gaussian[p]
            u = centers[p, 0] - np.float32(left) - _HALF  # relative to the centre of the tile's first pixel
            v = centers[p, 1] - np.float32(top) - _HALF
            first_row = max(0, int(np.ceil(v - reach[p])))
            end_row = min(tile_rows, int(np.floor(v + reach[p])) + 1)
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
