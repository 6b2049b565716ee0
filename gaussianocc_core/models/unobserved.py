# SPDX-License-Identifier: Apache-2.0
"""Which voxels of a grid are unobserved: no camera looks at them, or what stands there is too far away to be placed."""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from jaxtyping import Bool, Float, UInt8

from gaussianocc_core.geometry.voxels import axis_centers
from gaussianocc_core.kernels import JIT, run_in_threads
from gaussianocc_core.labels import CLASS_NAMES, GROUND_CLASSES, UNOBSERVED, free_label
from gaussianocc_core.models.lifting import OUR_LIFT
from gaussianocc_core.types import Cameras, VoxelGrid

_GROUND = frozenset(CLASS_NAMES[k] for k in GROUND_CLASSES)
_SLAB = 16  # voxels along x that one call of the kernel takes


def observed_voxels(
    cameras: Cameras, grid: VoxelGrid, valid_mask: Bool[np.ndarray, "N H W"]
) -> Bool[np.ndarray, "X Y Z"]:
    """Voxels whose centre falls on a valid pixel of one of N pinhole cameras of equal size; `plan_lift(...).seen` of
    the centres, ten times as fast."""
    K = cameras.intrinsics.cpu().double().numpy()
    T_cam_ego = np.linalg.inv(cameras.T_ego_cam.cpu().double().numpy())
    P = np.ascontiguousarray(K @ T_cam_ego[:, :3])  # (N, 3, 4): u z, v z, z of a point in the ego frame
    axes = [axis_centers(grid, axis) for axis in range(3)]
    valid = np.ascontiguousarray(valid_mask, dtype=np.bool_)
    seen = np.empty(grid.shape, dtype=np.bool_)
    slabs = [(first, min(first + _SLAB, grid.shape[0])) for first in range(0, grid.shape[0], _SLAB)]
    for _ in run_in_threads(_look, [(first, end, P, *axes, valid, OUR_LIFT.near, seen) for first, end in slabs]):
        pass
    return seen


def columns_beyond(grid: VoxelGrid, reach: float) -> Bool[np.ndarray, "X Y"]:
    """Columns of a grid whose centre is farther than so many metres from the ego origin, horizontally; 0: none."""
    x, y = (axis_centers(grid, axis) for axis in range(2))
    return np.hypot(x[:, None], y[None]) > (reach or np.inf)


def find_unplaced(
    labels: UInt8[np.ndarray, "X Y Z"], beyond: Bool[np.ndarray, "X Y"], class_names: Sequence[str]
) -> Bool[np.ndarray, "X Y Z"]:
    """Voxels of those columns that are occupied by something that is not ground."""
    stands = np.zeros(256, dtype=bool)
    stands[: free_label(class_names)] = [name not in _GROUND for name in class_names[:-1]]
    unplaced = np.zeros(labels.shape, dtype=bool)
    unplaced[beyond] = stands[labels[beyond]]
    return unplaced


def leave_unobserved(
    labels: UInt8[np.ndarray, "X Y Z"],
    confidence: Float[np.ndarray, "X Y Z"],
    seen: Bool[np.ndarray, "X Y Z"],
    beyond: Bool[np.ndarray, "X Y"],
    class_names: Sequence[str],
) -> Bool[np.ndarray, "X Y Z"]:
    """Which voxels are observed; in place, the others become UNOBSERVED with confidence 0.

    seen: `observed_voxels`; beyond: `columns_beyond` the model's reach, where only the ground is claimed.
    """
    observed = seen & ~find_unplaced(labels, beyond, class_names) if beyond.any() else seen
    labels[~observed] = UNOBSERVED
    confidence[~observed] = 0.0
    return observed


@numba.njit(**JIT)
def _look(first, end, P, x, y, z, valid, near, seen):
    count, height, width = valid.shape
    last = 0  # neighbours are mostly seen by the same camera
    for i in range(first, end):
        for j in range(len(y)):
            for k in range(len(z)):
                seen[i, j, k] = False
                for m in range(count):
                    n = last + m
                    n -= count * (n >= count)
                    depth = P[n, 2, 0] * x[i] + P[n, 2, 1] * y[j] + P[n, 2, 2] * z[k] + P[n, 2, 3]
                    if depth <= near:
                        continue
                    u = (P[n, 0, 0] * x[i] + P[n, 0, 1] * y[j] + P[n, 0, 2] * z[k] + P[n, 0, 3]) / depth
                    v = (P[n, 1, 0] * x[i] + P[n, 1, 1] * y[j] + P[n, 1, 2] * z[k] + P[n, 1, 3]) / depth
                    if u >= 0 and v >= 0 and u < width and v < height and valid[n, int(v), int(u)]:
                        seen[i, j, k] = True
                        last = n
                        break
