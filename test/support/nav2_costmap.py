# SPDX-License-Identifier: Apache-2.0
"""Nav2's obstacle layer and voxel layer, modelled: what they mark, what they clear, in which order.

Written after the sources of nav2_costmap_2d, nav2_util and nav2_voxel_grid (main, August 2026). Left out are rolling
windows, footprints, inflation and the master grid. Cells are [y, x]: FREE, LETHAL or UNKNOWN.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numba import njit

FREE, LETHAL, UNKNOWN = 0, 254, 255


@dataclass(frozen=True)
class Observation:
    """A cloud in the global frame, m, as the observation buffer hands it on; the settings are those of its source."""

    origin: np.ndarray  # (3,) of the sensor
    points: np.ndarray  # (P, 3)
    marking: bool = True
    clearing: bool = False
    min_obstacle_height: float = 0.0
    max_obstacle_height: float = 0.0
    obstacle_max_range: float = 2.5
    obstacle_min_range: float = 0.0
    raytrace_max_range: float = 3.0
    raytrace_min_range: float = 0.0

    @property
    def cloud(self) -> np.ndarray:
        """What the buffer keeps: points between the heights."""
        z = self.points[:, 2].astype(np.float32)
        kept = (z >= self.min_obstacle_height) & (z <= self.max_obstacle_height)
        return self.points[kept].astype(np.float32).astype(np.float64)


@dataclass
class ObstacleLayer:
    size: tuple[int, int]  # cells along x and y
    resolution: float  # m
    origin: tuple[float, float]  # low corner, m
    min_obstacle_height: float = 0.0
    max_obstacle_height: float = 2.0
    cells: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.cells = np.zeros((self.size[1], self.size[0]), np.uint8)

    def update(self, observations: list[Observation]) -> None:
        """One cycle with the newest observation of each source: all clear first, then all mark."""
        for each in (each for each in observations if each.clearing):
            self._clear(each)
        for each in (each for each in observations if each.marking):
            self._mark(each)

    def is_lethal(self, x: float, y: float) -> bool:
        i, j = self._cell(x, y)
        return bool(self.cells[j, i] == LETHAL)

    def _cell(self, x: float, y: float) -> tuple[int, int]:
        return int((x - self.origin[0]) / self.resolution), int((y - self.origin[1]) / self.resolution)

    def _range_cells(self, meters: float) -> int:
        return max(0, int(np.ceil(meters / self.resolution)))

    def _clear(self, seen: Observation) -> None:
        geometry = (*self.origin, self.resolution)
        ranges = self._range_cells(seen.raytrace_max_range), self._range_cells(seen.raytrace_min_range)
        _clear_2d(self.cells, seen.origin.astype(float), seen.cloud, *geometry, *ranges)

    def _mark(self, seen: Observation) -> None:
        x0, y0 = self._cell(*seen.origin[:2])
        for x, y, z in seen.cloud:
            if not self.min_obstacle_height <= z <= self.max_obstacle_height:
                continue
            i, j = self._cell(x, y)
            if x < self.origin[0] or y < self.origin[1] or i >= self.size[0] or j >= self.size[1]:
                continue
            away = np.hypot(x - seen.origin[0], y - seen.origin[1])
            cells = int(np.hypot(i - x0, j - y0))
            if seen.obstacle_min_range <= away <= seen.obstacle_max_range and cells <= self._range_cells(
                seen.obstacle_max_range
            ):
                self.cells[j, i] = LETHAL


@dataclass
class VoxelLayer(ObstacleLayer):
    origin_z: float = 0.0  # m
    z_resolution: float = 0.2  # m
    z_voxels: int = 10
    unknown_threshold: int = 15
    mark_threshold: int = 0
    columns: np.ndarray = field(init=False)  # 16 bits of what is marked above 16 bits of what is marked or unknown

    def __post_init__(self) -> None:
        super().__post_init__()
        self.columns = np.full((self.size[1], self.size[0]), 0xFFFF, np.int64)

    def _clear(self, seen: Observation) -> None:
        low = np.array([*self.origin, self.origin_z])
        scale = np.array([self.resolution, self.resolution, self.z_resolution])
        shape = np.array([*self.size, self.z_voxels])
        thresholds = self.unknown_threshold + 16 - self.z_voxels, self.mark_threshold
        ranges = self._range_cells(seen.raytrace_max_range), self._range_cells(seen.raytrace_min_range)
        _clear_3d(
            self.columns, self.cells, seen.origin.astype(float), seen.cloud, low, scale, shape, *thresholds, *ranges
        )

    def _mark(self, seen: Observation) -> None:
        for x, y, z in seen.cloud:
            if not self.min_obstacle_height <= z <= self.max_obstacle_height:
                continue
            away = float(np.sum((np.array([x, y, z]) - seen.origin) ** 2))
            if not seen.obstacle_min_range**2 <= away < seen.obstacle_max_range**2:
                continue
            i, j = self._cell(x, y)
            k = int((max(z, self.origin_z) - self.origin_z) / self.z_resolution)
            inside = x >= self.origin[0] and y >= self.origin[1] and i < self.size[0] and j < self.size[1]
            if inside and k < self.z_voxels:
                self.columns[j, i] |= 0x10001 << k
                if _bits(int(self.columns[j, i]) >> 16) > self.mark_threshold:
                    self.cells[j, i] = LETHAL


@njit
def _bits(n):
    count = 0
    while n:
        n &= n - 1
        count += 1
    return count


@njit
def _line_2d(cells, x0, y0, x1, y1, longest, shortest):
    """nav2_util::raytraceLine with FREE for every cell."""
    full_x, full_y = x1 - x0, y1 - y0
    length = np.hypot(full_x, full_y)
    if length < shortest:
        return
    x, y = x0, y0
    if length > 0:
        x, y = int(x0 + full_x / length * shortest), int(y0 + full_y / length * shortest)
    dx, dy = x1 - x, y1 - y
    a, b = abs(dx), abs(dy)
    sx, sy = (1 if dx > 0 else -1), (1 if dy > 0 else -1)
    scale = 1.0 if length == 0 else min(1.0, longest / length)
    swap = a < b
    if swap:
        a, b = b, a
    error = a // 2
    for _ in range(min(int(scale * a), a)):
        cells[y, x] = 0
        if swap:
            y += sy
        else:
            x += sx
        error += b
        if error >= a:
            error -= a
            if swap:
                x += sx
            else:
                y += sy
    cells[y, x] = 0


@njit
def _clear_2d(cells, origin, points, low_x, low_y, resolution, longest, shortest):
    ny, nx = cells.shape
    ox, oy = origin[0], origin[1]
    end_x, end_y = low_x + nx * resolution, low_y + ny * resolution
    if not (low_x <= ox < end_x and low_y <= oy < end_y):
        return
    x0, y0 = int((ox - low_x) / resolution), int((oy - low_y) / resolution)
    for p in range(len(points)):
        wx, wy = points[p, 0], points[p, 1]
        a, b = wx - ox, wy - oy
        if wx < low_x:
            t = (low_x - ox) / a
            wx, wy = low_x, oy + b * t
        if wy < low_y:
            t = (low_y - oy) / b
            wx, wy = ox + a * t, low_y
        if wx > end_x:
            t = (end_x - ox) / a
            wx, wy = end_x - 0.001, oy + b * t
        if wy > end_y:
            t = (end_y - oy) / b
            wx, wy = ox + a * t, end_y - 0.001
        if wx < low_x or wy < low_y:
            continue
        x1, y1 = int((wx - low_x) / resolution), int((wy - low_y) / resolution)
        if x1 < nx and y1 < ny:
            _line_2d(cells, x0, y0, x1, y1, longest, shortest)


@njit
def _clear_voxel(columns, cells, x, y, z, unknown_most, marked_most):
    columns[y, x] &= ~(0x10001 << z)
    marked, known = columns[y, x] >> 16, columns[y, x] & 0xFFFF
    if _bits(marked) <= marked_most:
        cells[y, x] = 0 if _bits(marked ^ known) <= unknown_most else 255


@njit
def _line_3d(columns, cells, start, end, unknown_most, marked_most, longest, shortest):
    """nav2_voxel_grid's raytraceLine with ClearVoxelInMap; start and end in cells, with fractions."""
    length = np.sqrt(((start - end) ** 2).sum())
    if int(length) < shortest:
        return
    first, scale = start.copy(), 1.0
    if length > 0:
        scale = min(1.0, longest / length)
        first = start + (end - start) / length * shortest
    at = np.array([int(first[0]), int(first[1]), int(first[2])])
    d = np.array([int(end[0]) - at[0], int(end[1]) - at[1], int(end[2]) - at[2]])
    step, d = np.where(d > 0, 1, -1), np.abs(d)
    if d[0] >= max(d[1], d[2]):
        a, b, c = 0, 1, 2
    elif d[1] >= d[2]:
        a, b, c = 1, 0, 2
    else:
        a, b, c = 2, 0, 1
    error_b = error_c = d[a] // 2
    for _ in range(min(int(scale * d[a]), d[a])):
        _clear_voxel(columns, cells, at[0], at[1], at[2], unknown_most, marked_most)
        at[a] += step[a]
        error_b += d[b]
        error_c += d[c]
        if error_b >= d[a]:
            at[b] += step[b]
            error_b -= d[a]
        if error_c >= d[a]:
            at[c] += step[c]
            error_c -= d[a]
    _clear_voxel(columns, cells, at[0], at[1], at[2], unknown_most, marked_most)


@njit
def _clear_3d(columns, cells, origin, points, low, scale, shape, unknown_most, marked_most, longest, shortest):
    high = low + scale * shape
    start = (origin - low) / scale
    if (start < 0).any() or (start >= shape).any():
        return
    for p in range(len(points)):
        ray = points[p] - origin
        distance = np.sqrt((ray**2).sum())
        # The last two cells of a ray are not cleared.
        ray = ray * max(min(1.0, (distance - 2 * scale[0]) / distance), 0.0)
        end = origin + ray
        t, outside = 1.0, False
        if end[2] > high[2]:
            t, outside = max(0.0, min(t, (high[2] - 0.01 - origin[2]) / ray[2])), True
        elif end[2] < low[2]:
            t, outside = min(t, (low[2] - origin[2]) / ray[2]), True
        for axis in range(2):
            if end[axis] < low[axis]:
                t, outside = min(t, (low[axis] - origin[axis]) / ray[axis]), True
            if end[axis] > high[axis]:
                t, outside = min(t, (high[axis] - origin[axis]) / ray[axis]), True
        if outside:
            t += -1e-5 if t > 0 else (1e-5 if t < 0 else 0.0)
        last = (origin + t * ray - low) / scale
        if (last >= 0).all() and (last < shape).all():
            _line_3d(columns, cells, start, last, unknown_most, marked_most, longest, shortest)
