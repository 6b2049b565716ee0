# SPDX-License-Identifier: Apache-2.0
"""Which class fills each voxel of a `Scene`: the world's true occupancy."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, UInt8

from gaussianocc_core.kernels import cached_kernel
from gaussianocc_core.labels import FREE
from gaussianocc_core.synthetic import ground as ground_module
from gaussianocc_core.synthetic import intersect, noise, patterns, shapes
from gaussianocc_core.synthetic.ground import (
    KERB_HEIGHT,
    OPEN,
    ground_class,
    ground_height,
    kerb_distance,
    relief,
    steepest,
)
from gaussianocc_core.synthetic.intersect import overlaps_cell
from gaussianocc_core.synthetic.scene import Scene
from gaussianocc_core.synthetic.shapes import CLASS, PrimitiveTable


@cached_kernel(intersect, noise, shapes, nogil=True)
def _paint_primitives(floats, ints, lows, highs, x0, y0, z0, c, s, size, rank, labels):
    """Give every voxel that a primitive touches the class of highest rank.

    The low corner of the grid sits at (x0, y0, z0) in the world, turned by (c, s).
    """
    nx, ny, nz = labels.shape
    half = 0.5 * size
    for p in range(floats.shape[0]):
        # Bounds of the primitive's box in the grid's frame.
        cx, cy = 0.5 * (lows[p, 0] + highs[p, 0]) - x0, 0.5 * (lows[p, 1] + highs[p, 1]) - y0
        ex, ey = 0.5 * (highs[p, 0] - lows[p, 0]), 0.5 * (highs[p, 1] - lows[p, 1])
        u, v = c * cx + s * cy, -s * cx + c * cy
        rx, ry = abs(c) * ex + abs(s) * ey, abs(s) * ex + abs(c) * ey
        i0, i1 = max(int(math.floor((u - rx) / size)), 0), min(int(math.floor((u + rx) / size)), nx - 1)
        j0, j1 = max(int(math.floor((v - ry) / size)), 0), min(int(math.floor((v + ry) / size)), ny - 1)
        k0 = max(int(math.floor((lows[p, 2] - z0) / size)), 0)
        k1 = min(int(math.floor((highs[p, 2] - z0) / size)), nz - 1)
        label = ints[p, CLASS]
        for i in range(i0, i1 + 1):
            for j in range(j0, j1 + 1):
                u, v = (i + 0.5) * size, (j + 0.5) * size
                wx, wy = x0 + c * u - s * v, y0 + s * u + c * v
                for k in range(k0, k1 + 1):
                    if rank[labels[i, j, k]] >= rank[label]:
                        continue
                    if overlaps_cell(floats, ints, p, wx, wy, z0 + (k + 0.5) * size, c, s, half, half, half):
                        labels[i, j, k] = label


@cached_kernel(ground_module, noise, patterns, error_model="numpy", nogil=True)
def _paint_ground(segments, crosses, ground, x0, y0, z0, c, s, size, labels):
    """Give the voxels that the ground's surface passes the class that most of nine points of the column have."""
    nx, ny, nz = labels.shape
    votes = np.zeros(18, dtype=np.int32)
    for column in range(nx * ny):
        i, j = column // ny, column % ny
        votes[:] = 0
        low, high = 1e9, -1e9
        for n in range(9):
            u, v = (i + (n % 3 + 0.5) / 3.0) * size, (j + (n // 3 + 0.5) / 3.0) * size
            x, y = x0 + c * u - s * v, y0 + s * u + c * v
            e, _, d, _, _, _ = kerb_distance(x, y, segments, crosses, ground)
            votes[ground_class(e, d, ground)] += 1
            z = 0.0 if e < 0.0 else ground[KERB_HEIGHT]
            low, high = min(low, z), max(high, z)
        label = np.argmax(votes)
        for k in range(
            max(int(math.floor((low - z0) / size)), 0), min(int(math.floor((high - z0) / size)), nz - 1) + 1
        ):
            labels[i, j, k] = label


@cached_kernel(intersect, noise, shapes, nogil=True)
def _paint_tilted_primitives(floats, ints, lows, highs, T, size, rank, labels):
    """`_paint_primitives` for a grid whose low corner's pose is T (4, 4): each voxel as the upright cell around it."""
    nx, ny, nz = labels.shape
    norm = 1.0 / math.sqrt(T[0, 0] ** 2 + T[1, 0] ** 2)
    c, s = T[0, 0] * norm, T[1, 0] * norm
    hx, hy, hz = 0.0, 0.0, 0.0
    for a in range(3):
        hx += 0.5 * size * abs(c * T[0, a] + s * T[1, a])
        hy += 0.5 * size * abs(-s * T[0, a] + c * T[1, a])
        hz += 0.5 * size * abs(T[2, a])
    for p in range(floats.shape[0]):
        label = ints[p, CLASS]
        mx, my, mz = (
            0.5 * (lows[p, 0] + highs[p, 0]),
            0.5 * (lows[p, 1] + highs[p, 1]),
            0.5 * (lows[p, 2] + highs[p, 2]),
        )
        ex, ey, ez = highs[p, 0] - mx, highs[p, 1] - my, highs[p, 2] - mz
        mx, my, mz = mx - T[0, 3], my - T[1, 3], mz - T[2, 3]
        # Index bounds of the primitive's box, seen from the grid.
        u = T[0, 0] * mx + T[1, 0] * my + T[2, 0] * mz
        v = T[0, 1] * mx + T[1, 1] * my + T[2, 1] * mz
        w = T[0, 2] * mx + T[1, 2] * my + T[2, 2] * mz
        ru = abs(T[0, 0]) * ex + abs(T[1, 0]) * ey + abs(T[2, 0]) * ez + 0.25 * size
        rv = abs(T[0, 1]) * ex + abs(T[1, 1]) * ey + abs(T[2, 1]) * ez + 0.25 * size
        rw = abs(T[0, 2]) * ex + abs(T[1, 2]) * ey + abs(T[2, 2]) * ez + 0.25 * size
        i0, i1 = max(int(math.floor((u - ru) / size)), 0), min(int(math.floor((u + ru) / size)), nx - 1)
        j0, j1 = max(int(math.floor((v - rv) / size)), 0), min(int(math.floor((v + rv) / size)), ny - 1)
        k0, k1 = max(int(math.floor((w - rw) / size)), 0), min(int(math.floor((w + rw) / size)), nz - 1)
        for i in range(i0, i1 + 1):
            for j in range(j0, j1 + 1):
                for k in range(k0, k1 + 1):
                    if rank[labels[i, j, k]] >= rank[label]:
                        continue
                    u, v, w = (i + 0.5) * size, (j + 0.5) * size, (k + 0.5) * size
                    wx = T[0, 3] + T[0, 0] * u + T[0, 1] * v + T[0, 2] * w
                    wy = T[1, 3] + T[1, 0] * u + T[1, 1] * v + T[1, 2] * w
                    wz = T[2, 3] + T[2, 0] * u + T[2, 1] * v + T[2, 2] * w
                    if overlaps_cell(floats, ints, p, wx, wy, wz, c, s, hx, hy, hz):
                        labels[i, j, k] = label


@cached_kernel(ground_module, noise, patterns, error_model="numpy", nogil=True)
def _paint_tilted_ground(segments, crosses, ground, T, size, labels):
    """`_paint_ground` for a grid whose low corner's pose is T, and for open places with a relief."""
    nx, ny, nz = labels.shape
    reach = 0.5 * size * (abs(T[2, 0]) + abs(T[2, 1]) + abs(T[2, 2]))
    _, slope = steepest(ground)
    slack = slope * size * 0.24  # how much the relief can rise between nine points and the voxel's corners
    votes = np.zeros(18, dtype=np.int32)
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                u, v, w = (i + 0.5) * size, (j + 0.5) * size, (k + 0.5) * size
                wx = T[0, 3] + T[0, 0] * u + T[0, 1] * v + T[0, 2] * w
                wy = T[1, 3] + T[1, 0] * u + T[1, 1] * v + T[1, 2] * w
                wz = T[2, 3] + T[2, 0] * u + T[2, 1] * v + T[2, 2] * w
                if ground[OPEN] > 0.0:
                    if abs(wz - relief(wx, wy, ground)[0]) > reach + 0.8 * slope * size:
                        continue
                elif abs(wz - 0.5 * ground[KERB_HEIGHT]) > reach + ground[KERB_HEIGHT]:
                    continue
                votes[:] = 0
                low, high = 1e9, -1e9
                for n in range(9):
                    a, b = (n % 3 - 1) / 3.0 * size, (n // 3 - 1) / 3.0 * size
                    x, y = wx + T[0, 0] * a + T[0, 1] * b, wy + T[1, 0] * a + T[1, 1] * b
                    e, _, d, _, _, _ = kerb_distance(x, y, segments, crosses, ground)
                    votes[ground_class(e, d, ground)] += 1
                    z = ground_height(e, x, y, ground)
                    low, high = min(low, z), max(high, z)
                if low - slack <= wz + reach and high + slack >= wz - reach:
                    labels[i, j, k] = np.argmax(votes)


def voxelize(
    scene: Scene, T_world_corner: Float[np.ndarray, "4 4"], voxel_size: float, shape: tuple[int, int, int], rank
) -> UInt8[np.ndarray, "X Y Z"]:
    """Occ3D class of every voxel of a grid whose low corner has this pose in the world.

    A voxel is occupied exactly if the ground's surface or a primitive (surface or interior) touches it, so the point
    that a depth pixel measures lies in an occupied voxel; if the grid is tilted or the ground uneven, also if they come
    within some centimetres of it. Where classes share a voxel, the higher `rank` wins.
    """
    labels = np.full(shape, FREE, dtype=np.uint8)
    rank = np.asarray(rank, dtype=np.int64)
    lows, highs = PrimitiveTable(scene.floats, scene.ints).bounds()
    T = np.ascontiguousarray(T_world_corner, dtype=np.float64)
    if T[2, 2] != 1.0 or scene.ground[OPEN] > 0.0:
        _paint_tilted_ground(scene.segments, scene.crosses, scene.ground, T, float(voxel_size), labels)
        _paint_tilted_primitives(scene.floats, scene.ints, lows, highs, T, float(voxel_size), rank, labels)
        return labels
    corner, yaw = T[:3, 3], math.atan2(T[1, 0], T[0, 0])
    frame = (float(corner[0]), float(corner[1]), float(corner[2]), math.cos(yaw), math.sin(yaw), float(voxel_size))
    _paint_ground(scene.segments, scene.crosses, scene.ground, *frame, labels)
    _paint_primitives(scene.floats, scene.ints, lows, highs, *frame, rank, labels)
    return labels
