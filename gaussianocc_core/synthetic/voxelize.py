# SPDX-License-Identifier: Apache-2.0
"""Which class fills each voxel of a `Scene`: the world's true occupancy."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, UInt8

from gaussianocc_core.kernels import cached_kernel
from gaussianocc_core.labels import FREE
from gaussianocc_core.synthetic import ground as ground_module
from gaussianocc_core.synthetic import intersect, noise, shapes
from gaussianocc_core.synthetic.ground import KERB_HEIGHT, ground_class, kerb_distance
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


@cached_kernel(ground_module, noise, error_model="numpy", nogil=True)
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


def voxelize(
    scene: Scene, corner: Float[np.ndarray, " 3"], yaw: float, voxel_size: float, shape: tuple[int, int, int], rank
) -> UInt8[np.ndarray, "X Y Z"]:
    """Occ3D class of every voxel of an upright grid whose low corner and yaw are given in the world frame.

    A voxel is occupied exactly if the ground's surface or a primitive (surface or interior) touches it, so the point
    that a depth pixel measures lies in an occupied voxel. Where classes share a voxel, the higher `rank` wins.
    """
    labels = np.full(shape, FREE, dtype=np.uint8)
    frame = (float(corner[0]), float(corner[1]), float(corner[2]), math.cos(yaw), math.sin(yaw), float(voxel_size))
    _paint_ground(scene.segments, scene.crosses, scene.ground, *frame, labels)
    lows, highs = PrimitiveTable(scene.floats, scene.ints).bounds()
    _paint_primitives(scene.floats, scene.ints, lows, highs, *frame, np.asarray(rank, dtype=np.int64), labels)
    return labels
