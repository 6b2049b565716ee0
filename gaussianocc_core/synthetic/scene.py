# SPDX-License-Identifier: Apache-2.0
"""A frozen moment of the world as the arrays that kernels read: primitives, a uniform grid of lists of them, light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int32, Int64
from numba import njit

from gaussianocc_core.kernels import cached_kernel
from gaussianocc_core.synthetic import intersect, noise, shapes
from gaussianocc_core.synthetic.intersect import overlaps_cell
from gaussianocc_core.synthetic.shapes import PrimitiveTable

CELL = (2.0, 2.0, 2.0)  # m, of the acceleration grid
_SLACK = 0.01  # m by which cells reach further, against rounding at their borders

# Entries of the light vector: sun direction and colour, sky colours, clouds, haze per metre, exposure.
(
    SUN_X,
    SUN_Y,
    SUN_Z,
    SUN_R,
    SUN_G,
    SUN_B,
    ZENITH_R,
    ZENITH_G,
    ZENITH_B,
    HORIZON_R,
    HORIZON_G,
    HORIZON_B,
    CLOUDS,
    HAZE,
    EXPOSURE,
    SKY_SEED,
) = range(16)


@dataclass(frozen=True)
class Scene:
    """The arrays that the kernels read, in the order in which they take them."""

    floats: Float[np.ndarray, "P 18"]
    ints: Int32[np.ndarray, "P 4"]
    start: Int32[np.ndarray, " cells_plus_1"]  # primitives of cell c are items[start[c]:start[c + 1]]
    items: Int32[np.ndarray, " entries"]
    low: Float[np.ndarray, " 3"]  # corners of the acceleration grid, m
    high: Float[np.ndarray, " 3"]
    shape: Int64[np.ndarray, " 3"]
    segments: Float[np.ndarray, "S 7"]
    crosses: Float[np.ndarray, "X 7"]
    ground: Float[np.ndarray, " parameters"]
    light: Float[np.ndarray, " 16"]

    @property
    def arguments(self) -> tuple:
        return (
            self.floats,
            self.ints,
            self.start,
            self.items,
            self.low,
            self.high,
            self.shape,
            self.segments,
            self.crosses,
            self.ground,
            self.light,
        )


@cached_kernel(intersect, noise, shapes)
def _grid_pairs(floats, ints, lows, highs, low, shape, first, cells, prims):
    """Write (cell, primitive) pairs of all touched cells; returns how many there are, even where they do not fit."""
    count = 0
    for p in range(floats.shape[0]):
        i0, i1 = int((lows[p, 0] - low[0]) / CELL[0]), int((highs[p, 0] - low[0]) / CELL[0])
        j0, j1 = int((lows[p, 1] - low[1]) / CELL[1]), int((highs[p, 1] - low[1]) / CELL[1])
        k0, k1 = int((lows[p, 2] - low[2]) / CELL[2]), int((highs[p, 2] - low[2]) / CELL[2])
        for i in range(max(i0, 0), min(i1, shape[0] - 1) + 1):
            for j in range(max(j0, 0), min(j1, shape[1] - 1) + 1):
                for k in range(max(k0, 0), min(k1, shape[2] - 1) + 1):
                    if overlaps_cell(
                        floats,
                        ints,
                        p,
                        low[0] + (i + 0.5) * CELL[0],
                        low[1] + (j + 0.5) * CELL[1],
                        low[2] + (k + 0.5) * CELL[2],
                        1.0,
                        0.0,
                        0.5 * CELL[0] + _SLACK,
                        0.5 * CELL[1] + _SLACK,
                        0.5 * CELL[2] + _SLACK,
                    ):
                        if count < len(cells):
                            cells[count] = (i * shape[1] + j) * shape[2] + k
                            prims[count] = first + p
                        count += 1
    return count


@njit(cache=True)
def _sort_pairs(cells_a, prims_a, cells_b, prims_b, start, items):
    for c in cells_a:
        start[c + 1] += 1
    for c in cells_b:
        start[c + 1] += 1
    for c in range(len(start) - 1):
        start[c + 1] += start[c]
    fill = start[:-1].copy()
    for n in range(len(cells_a)):
        items[fill[cells_a[n]]] = prims_a[n]
        fill[cells_a[n]] += 1
    for n in range(len(cells_b)):
        items[fill[cells_b[n]]] = prims_b[n]
        fill[cells_b[n]] += 1


class Caster:
    """Builds `Scene`s of one world: the lists of what stands still are made once, those of what moves per moment."""

    def __init__(self, static: PrimitiveTable, segments, crosses, ground, light) -> None:
        self._static = static
        self._rest = (segments, crosses, ground, light)
        lows, highs = static.bounds()
        self._low = np.floor(lows.min(axis=0)) - 1.0
        self._low[2] = min(-0.5, np.floor(lows[:, 2].min() + 0.5) - 0.5)  # deeper only in a relief
        extent = highs.max(axis=0) + 1.0 - self._low
        self._shape = np.ceil(extent / np.array(CELL)).astype(np.int64)
        self._high = self._low + self._shape * np.array(CELL)
        self._pairs = self._list(static, 0)

    def _list(self, table: PrimitiveTable, first: int) -> tuple[np.ndarray, np.ndarray]:
        lows, highs = table.bounds()
        size = 64 * len(table) + 1024
        while True:
            cells, prims = np.empty(size, dtype=np.int32), np.empty(size, dtype=np.int32)
            count = _grid_pairs(
                table.floats, table.ints, lows - _SLACK, highs + _SLACK, self._low, self._shape, first, cells, prims
            )
            if count <= size:
                return cells[:count], prims[:count]
            size = count

    def scene(self, moving: PrimitiveTable) -> Scene:
        table = PrimitiveTable.concatenate([self._static, moving])
        cells, prims = self._list(moving, len(self._static))
        start = np.zeros(int(np.prod(self._shape)) + 1, dtype=np.int32)
        items = np.empty(len(cells) + len(self._pairs[0]), dtype=np.int32)
        _sort_pairs(*self._pairs, cells, prims, start, items)
        return Scene(table.floats, table.ints, start, items, self._low, self._high, self._shape, *self._rest)
