# SPDX-License-Identifier: Apache-2.0
"""The one ray march of the project: Amanatides and Woo's voxel traversal (Eurographics 1987), compiled with Numba.

The synthetic world walks its acceleration grid with `clip_to_box`, `dda_start` and `dda_step`; visibility masks and
RayIoU walk label volumes with `march_labels`. Importing this module imports Numba: import it where it is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8
from numba import njit, prange

from gaussianocc_core.kernels import inner
from gaussianocc_core.labels import FREE
from gaussianocc_core.types import VoxelGrid


@dataclass(frozen=True)
class MarchResult:
    """What R rays met in a label volume; distances in units of the direction's length (metres for unit rays)."""

    hit: Bool[np.ndarray, " R"]  # true where an occupied voxel was met
    index: Integer[np.ndarray, "R 3"]  # that voxel; else the last one inside the grid; (-1, -1, -1) if never inside
    label: UInt8[np.ndarray, " R"]  # its label (free_label without a hit)
    entry: Float[np.ndarray, " R"]  # distance at which the ray enters `index`; inf if never inside
    exit: Float[np.ndarray, " R"]  # distance at which it leaves `index`; inf if never inside
    visited: Bool[np.ndarray, "X Y Z"]  # true where any ray passed, up to and including its first occupied voxel


@inner
def clip_axis(t0, t1, origin, direction, low, high):
    """[t0, t1] cut to where the ray is between the planes low and high of one axis."""
    if direction == 0.0:
        if origin < low or origin >= high:
            return np.inf, -np.inf
        return t0, t1
    a, b = (low - origin) / direction, (high - origin) / direction
    return max(t0, min(a, b)), min(t1, max(a, b))


@inner
def clip_to_box(ox, oy, oz, dx, dy, dz, low, high):
    """Ray parameters at which the ray enters (not below 0) and leaves the box; enter >= leave means it misses."""
    t0, t1 = clip_axis(0.0, np.inf, ox, dx, low[0], high[0])
    t0, t1 = clip_axis(t0, t1, oy, dy, low[1], high[1])
    return clip_axis(t0, t1, oz, dz, low[2], high[2])


@inner
def dda_axis(origin, direction, t, low, size, count):
    """Cell at parameter t along one axis: index, parameter of its next border, step, parameter per cell."""
    cell = int(np.floor((origin + t * direction - low) / size))
    cell = min(max(cell, 0), count - 1)  # rounding at the border must not leave the grid
    if direction > 0.0:
        return cell, (low + (cell + 1) * size - origin) / direction, 1, size / direction
    if direction < 0.0:
        return cell, (low + cell * size - origin) / direction, -1, -size / direction
    return cell, np.inf, 0, np.inf


@inner
def dda_start(ox, oy, oz, dx, dy, dz, t, low, size, shape):
    """The walk at parameter t: cell (i, j, k), parameters of its next borders, steps, parameters per cell."""
    i, tx, si, ddx = dda_axis(ox, dx, t, low[0], size[0], shape[0])
    j, ty, sj, ddy = dda_axis(oy, dy, t, low[1], size[1], shape[1])
    k, tz, sk, ddz = dda_axis(oz, dz, t, low[2], size[2], shape[2])
    return (i, j, k), (tx, ty, tz), (si, sj, sk), (ddx, ddy, ddz)


@inner
def dda_step(cell, borders, steps, per_cell):
    """The next cell and its borders; the order of ties is the one that RayIoU's reference uses."""
    i, j, k = cell
    tx, ty, tz = borders
    if tx < ty and tx < tz:
        return (i + steps[0], j, k), (tx + per_cell[0], ty, tz)
    if ty <= tx and ty < tz:
        return (i, j + steps[1], k), (tx, ty + per_cell[1], tz)
    return (i, j, k + steps[2]), (tx, ty, tz + per_cell[2])


@inner
def dda_inside(cell, shape):
    """Whether a cell belongs to the grid."""
    i, j, k = cell
    return 0 <= i < shape[0] and 0 <= j < shape[1] and 0 <= k < shape[2]


@inner
def _march_one(ray, origins, directions, labels, free, low, high, size, visited, index, label, entry, leave):
    ox, oy, oz = origins[ray, 0], origins[ray, 1], origins[ray, 2]
    dx, dy, dz = directions[ray, 0], directions[ray, 1], directions[ray, 2]
    t, end = clip_to_box(ox, oy, oz, dx, dy, dz, low, high)
    if not t < end:
        return False
    cell, borders, steps, per_cell = dda_start(ox, oy, oz, dx, dy, dz, t, low, (size, size, size), labels.shape)
    while dda_inside(cell, labels.shape):
        t_next = min(borders)
        visited[cell] = True
        index[ray, 0], index[ray, 1], index[ray, 2] = cell
        entry[ray], leave[ray], label[ray] = t, t_next, labels[cell]
        if label[ray] != free:
            return True
        t = t_next
        cell, borders = dda_step(cell, borders, steps, per_cell)
    return False


@njit(parallel=True, cache=True)
def _march_kernel(origins, directions, labels, free, low, high, size, visited, hit, index, label, entry, leave):
    for ray in prange(directions.shape[0]):
        hit[ray] = _march_one(
            ray, origins, directions, labels, free, low, high, size, visited, index, label, entry, leave
        )


def march_labels(
    origins: Float[np.ndarray, "R 3"] | Float[np.ndarray, " 3"],
    directions: Float[np.ndarray, "R 3"],
    labels: UInt8[np.ndarray, "X Y Z"],
    grid: VoxelGrid,
    free_label: int = FREE,
) -> MarchResult:
    """First occupied voxel along each ray, and all voxels seen on the way.

    Origins (metres; one for all rays or one each) and directions are in the frame of the grid. A ray
    that starts outside enters at the border.
    """
    if labels.shape != grid.shape:
        raise ValueError(f"labels: expected shape {grid.shape} of the grid, got {labels.shape}")
    directions = np.ascontiguousarray(directions, dtype=np.float64)
    origins = np.ascontiguousarray(np.broadcast_to(np.asarray(origins, dtype=np.float64), directions.shape))
    count = len(directions)
    visited = np.zeros(labels.shape, dtype=np.bool_)  # written by several threads, but only ever with True
    hit = np.zeros(count, dtype=np.bool_)
    index = np.full((count, 3), -1, dtype=np.int32)
    label = np.full(count, free_label, dtype=np.uint8)
    entry, leave = np.full(count, np.inf), np.full(count, np.inf)
    low, high = np.array(grid.origin, dtype=np.float64), np.array(grid.upper, dtype=np.float64)
    _march_kernel(
        origins,
        directions,
        np.ascontiguousarray(labels),
        np.uint8(free_label),
        low,
        high,
        float(grid.voxel_size),
        visited,
        hit,
        index,
        label,
        entry,
        leave,
    )
    return MarchResult(hit, index, label, entry, leave, visited)


def crossed_voxels(
    ends: Float[np.ndarray, "R 3"], start: Float[np.ndarray, " 3"], grid: VoxelGrid
) -> Bool[np.ndarray, "X Y Z"]:
    """Voxels of a grid that rays from one place cross or end in; m, its frame.

    Rays are looked at every half voxel: one whose corner they only touch may be left out.
    """
    crossed = np.zeros(grid.shape, dtype=np.bool_)
    _cross(
        np.ascontiguousarray(ends, dtype=np.float64),
        np.asarray(start, dtype=np.float64),
        np.array(grid.origin, dtype=np.float64),
        float(grid.voxel_size),
        crossed,
    )
    return crossed


@njit(cache=True)
def _cross(ends, start, corner, size, crossed):
    nx, ny, nz = crossed.shape
    for ray in range(len(ends)):
        dx, dy, dz = ends[ray, 0] - start[0], ends[ray, 1] - start[1], ends[ray, 2] - start[2]
        length = np.sqrt(dx * dx + dy * dy + dz * dz)
        if not length < 1e6:  # neither is what is not a number
            continue
        steps = int(2.0 * length / size) + 1
        for n in range(steps + 1):
            share = n / steps
            i = int(np.floor((start[0] + share * dx - corner[0]) / size))
            j = int(np.floor((start[1] + share * dy - corner[1]) / size))
            k = int(np.floor((start[2] + share * dz - corner[2]) / size))
            if i >= 0 and j >= 0 and k >= 0 and i < nx and j < ny and k < nz:
                crossed[i, j, k] = True
