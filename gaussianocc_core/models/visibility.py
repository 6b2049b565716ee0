# SPDX-License-Identifier: Apache-2.0
"""What cameras can know of the voxels of a grid: seen to be free, hidden, or not looked at (docs/method.md#o.9).

A network that says free of everything it does not find is wrong about what it did not see. Free is published only where
a ray was seen to pass: in front of the surface that the depth head sees along it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numba
import numpy as np
from jaxtyping import Bool, Float, Int32, Int64, UInt8

from gaussianocc_core.geometry.voxels import axis_centers
from gaussianocc_core.kernels import JIT, inner, run_in_threads
from gaussianocc_core.labels import CLASS_NAMES, GROUND_CLASSES, OCCLUDED, UNOBSERVED, free_label, has_one_class
from gaussianocc_core.models.lifting import OUR_LIFT
from gaussianocc_core.types import Cameras, VoxelGrid

_GROUND = frozenset(CLASS_NAMES[k] for k in GROUND_CLASSES)
_SLAB = 16  # voxels along x that one call of a kernel takes
_UNSAID_ERROR = 0.2  # expected error of log depth, of a depth head that says none
_MARGIN = 2.5  # expected errors by which a surface may be nearer than it is said to be
_LEVELS = 5  # sizes that a voxel has in a depth map, by the cells from its centre to its side; of the shipped: from 3 m


@dataclass(frozen=True)
class SightLines:
    """From N cameras to the centres of the voxels that they see, for one calibration; voxels in C order."""

    shape: tuple[int, int, int]
    voxel_size: float  # m
    first: Int64[np.ndarray, " _"]  # of each voxel's lines, which lie together
    cell: Int32[np.ndarray, " L"]  # flat index into (levels, N, h, w): see `_nearest_around`
    depth: Float[np.ndarray, " L"]  # z of the voxel's centre, m
    around: UInt8[np.ndarray, "N 3 3"]  # per camera, which neighbours of a cell lie beside or above it

    @property
    def centred(self) -> Bool[np.ndarray, "X Y Z"]:
        """Voxels whose centre some camera sees; of `observed_voxels` all but those at the border of the views."""
        return (np.diff(self.first) > 0).reshape(self.shape)


def observed_voxels(
    cameras: Cameras, grid: VoxelGrid, valid_mask: Bool[np.ndarray, "N H W"]
) -> Bool[np.ndarray, "X Y Z"]:
    """Voxels of which the centre or a corner falls on a valid pixel of one of N pinhole cameras of equal size.

    Near the robot that is far more than the centres: of the ground within 5 m that its cameras see, these are 62 %
    (nuScenes' rig, voxels of 0.4 m).
    """
    P, axes, valid = _projection(cameras), [axis_centers(grid, axis) for axis in range(3)], _as_mask(valid_mask)
    seen = np.empty(grid.shape, dtype=np.bool_)
    slabs, rest = _slabs(grid.shape), (P, *axes, 0.5 * grid.voxel_size, valid, OUR_LIFT.near, seen)
    for _ in run_in_threads(_look, [(first, end, *rest) for first, end in slabs]):
        pass
    return seen


def plan_sight(cameras: Cameras, grid: VoxelGrid, valid_mask: Bool[np.ndarray, "N H W"], stride: int) -> SightLines:
    """Lines to every voxel whose centre falls on a valid pixel; compute once per calibration.

    cameras: N pinholes of equal size H x W; stride: pixels per cell of the depth maps, along each side.
    """
    axes, valid = [axis_centers(grid, axis) for axis in range(3)], _as_mask(valid_mask)
    lens = (_projection(cameras), *axes, valid, OUR_LIFT.near)
    # Cells from the centre of a voxel to its side, of one that is 1 m away.
    K = cameras.intrinsics.cpu().double().numpy()
    reach = 0.5 * grid.voxel_size * np.maximum(K[:, 0, 0], K[:, 1, 1]) / stride
    lines = np.zeros(grid.shape, dtype=np.int64)
    slabs = _slabs(grid.shape)
    for _ in run_in_threads(_count_lines, [(a, b, *lens, lines) for a, b in slabs]):
        pass
    first = np.concatenate([[0], np.cumsum(lines.ravel())])
    cell, depth = np.empty(first[-1], dtype=np.int32), np.empty(first[-1], dtype=np.float32)
    for _ in run_in_threads(_draw_lines, [(a, b, *lens, stride, reach, first, cell, depth) for a, b in slabs]):
        pass
    return SightLines(grid.shape, grid.voxel_size, first, cell, depth, _beside_and_above(cameras))


def passed_voxels(
    lines: SightLines,
    inv_depth: Float[np.ndarray, "N h w"],
    log_error: Float[np.ndarray, "N h w"] | None = None,
) -> Bool[np.ndarray, "X Y Z"]:
    """Voxels that some camera's rays were seen to pass to their far side: those through the centre, and all beside and
    above it. Those below meet the ground just behind; what stands on it is met by the others as well.

    inv_depth: of the surfaces that the cameras see, 1/m along their axes; log_error: log of the expected error of log
    depth, None: not said. A surface may be nearer than said by its expected error; what lies within that is in doubt,
    and not passed.
    """
    levels = nearest_surfaces(lines, inv_depth, log_error)
    passed = np.empty(lines.shape, dtype=np.bool_)
    arguments = [(a, b, lines.first, lines.cell, lines.depth, levels.ravel(), passed) for a, b in _slabs(lines.shape)]
    for _ in run_in_threads(_pass, arguments):
        pass
    return passed


def nearest_surfaces(
    lines: SightLines, inv_depth: Float[np.ndarray, "N h w"], log_error: Float[np.ndarray, "N h w"] | None
) -> Float[np.ndarray, "L N h w"]:
    """How far a ray of each cell is seen to pass (m), at the sizes that a voxel has; `SightLines.cell` counts them."""
    error = _UNSAID_ERROR if log_error is None else np.exp(log_error)
    nearest = (np.exp(-_MARGIN * error) / inv_depth - 0.5 * lines.voxel_size).astype(np.float32)
    return _nearest_around(nearest, lines.around)


def _nearest_around(
    nearest: Float[np.ndarray, "N h w"], around: UInt8[np.ndarray, "N 3 3"]
) -> Float[np.ndarray, "L N h w"]:
    """The least within 0, 1, 2 ... cells: near voxels cover many."""
    levels = [nearest]
    for _ in range(1, _LEVELS):
        levels.append(np.stack([cv2.erode(each, kernel) for each, kernel in zip(levels[-1], around, strict=True)]))
    return np.stack(levels)


def _beside_and_above(cameras: Cameras) -> UInt8[np.ndarray, "N 3 3"]:
    """All neighbours but those on the side of the image that is down; all where a camera looks up or down."""
    around = np.ones((len(cameras), 3, 3), dtype=np.uint8)
    for kernel, rotation in zip(around, cameras.T_ego_cam.cpu().double().numpy()[:, :3, :3], strict=True):
        right, down = -rotation[2, :2]  # of the ego frame's down, in the image
        if max(abs(right), abs(down)) < 0.3:
            continue
        if abs(down) >= abs(right):
            kernel[2 if down > 0 else 0] = 0
        else:
            kernel[:, 2 if right > 0 else 0] = 0
    return around


def _projection(cameras: Cameras) -> Float[np.ndarray, "N 3 4"]:
    """Point of the ego frame, m, to u z, v z, z."""
    K = cameras.intrinsics.cpu().double().numpy()
    T_cam_ego = np.linalg.inv(cameras.T_ego_cam.cpu().double().numpy())
    return np.ascontiguousarray(K @ T_cam_ego[:, :3])


def _as_mask(valid_mask: Bool[np.ndarray, "N H W"]) -> Bool[np.ndarray, "N H W"]:
    return np.ascontiguousarray(valid_mask, dtype=np.bool_)


def _slabs(shape: Sequence[int]) -> list[tuple[int, int]]:
    return [(first, min(first + _SLAB, shape[0])) for first in range(0, shape[0], _SLAB)]


def columns_beyond(grid: VoxelGrid, reach: float) -> Bool[np.ndarray, "X Y"]:
    """Columns of a grid whose centre is farther than so many metres from the ego origin, horizontally; 0: none."""
    x, y = (axis_centers(grid, axis) for axis in range(2))
    return np.hypot(x[:, None], y[None]) > (reach or np.inf)


def stands_on_ground(class_names: Sequence[str]) -> Bool[np.ndarray, " 256"]:
    """By label: whether it is a class of what stands on the ground."""
    stands = np.zeros(256, dtype=bool)
    stands[: free_label(class_names)] = [name not in _GROUND for name in class_names[:-1]]
    return stands


def find_unplaced(
    labels: UInt8[np.ndarray, "X Y Z"],
    beyond: Bool[np.ndarray, "X Y"],
    class_names: Sequence[str],
    ground_layers: Bool[np.ndarray, " Z"] | None = None,
) -> Bool[np.ndarray, "X Y Z"]:
    """Voxels of those columns that are occupied by something that is not ground (by class, or of a model with one class
    by height, `ground_layers`)."""
    stands = stands_on_ground(class_names)
    unplaced = np.zeros(labels.shape, dtype=bool)
    unplaced[beyond] = stands[labels[beyond]]
    if has_one_class(class_names) and ground_layers is not None:
        unplaced &= ~ground_layers
    return unplaced


def leave_unknown(
    labels: UInt8[np.ndarray, "X Y Z"],
    confidence: Float[np.ndarray, "X Y Z"],
    seen: Bool[np.ndarray, "X Y Z"],
    passed: Bool[np.ndarray, "X Y Z"] | None,
    beyond: Bool[np.ndarray, "X Y"],
    class_names: Sequence[str],
    ground_layers: Bool[np.ndarray, " Z"] | None = None,
) -> Bool[np.ndarray, "X Y Z"]:
    """Which voxels are observed. In place, the others become UNOBSERVED, and what is free of these without a ray that
    passed becomes OCCLUDED, both with confidence 0.

    seen: `observed_voxels`; passed: `passed_voxels`, None: nobody knows, and free stays free; beyond: `columns_beyond`
    the model's reach, where only the ground is claimed; ground_layers: where that lies, `near_ground`.
    """
    observed = seen & ~find_unplaced(labels, beyond, class_names, ground_layers) if beyond.any() else seen
    if passed is not None:
        hidden = (labels == free_label(class_names)) & ~passed
        labels[hidden] = OCCLUDED
        confidence[hidden] = 0.0
    labels[~observed] = UNOBSERVED
    confidence[~observed] = 0.0
    return observed


@inner
def _find_pixel(P, n, x, y, z, valid, near):
    """Column, row and depth (m) of a point in one camera; depth 0 where it does not see it."""
    depth = P[n, 2, 0] * x + P[n, 2, 1] * y + P[n, 2, 2] * z + P[n, 2, 3]
    if depth <= near:
        return 0, 0, 0.0
    u = (P[n, 0, 0] * x + P[n, 0, 1] * y + P[n, 0, 2] * z + P[n, 0, 3]) / depth
    v = (P[n, 1, 0] * x + P[n, 1, 1] * y + P[n, 1, 2] * z + P[n, 1, 3]) / depth
    if u >= 0 and v >= 0 and u < valid.shape[2] and v < valid.shape[1] and valid[n, int(v), int(u)]:
        return int(u), int(v), depth
    return 0, 0, 0.0


@inner
def _sees(P, x, y, z, valid, near):
    seen = False
    for n in range(len(P)):
        seen = seen or _find_pixel(P, n, x, y, z, valid, near)[2] > 0
    return seen


@numba.njit(**JIT)
def _look(first, end, P, x, y, z, half, valid, near, seen):
    for i in range(first, end):
        for j in range(len(y)):
            for k in range(len(z)):
                found = _sees(P, x[i], y[j], z[k], valid, near)
                corner = 0
                while corner < 8 and not found:
                    u = x[i] + half * (2 * (corner & 1) - 1)
                    v = y[j] + half * ((corner & 2) - 1)
                    w = z[k] + half * ((corner >> 1 & 2) - 1)
                    found = _sees(P, u, v, w, valid, near)
                    corner += 1
                seen[i, j, k] = found


@numba.njit(**JIT)
def _count_lines(first, end, P, x, y, z, valid, near, lines):
    for i in range(first, end):
        for j in range(len(y)):
            for k in range(len(z)):
                for n in range(len(P)):
                    lines[i, j, k] += _find_pixel(P, n, x[i], y[j], z[k], valid, near)[2] > 0


@numba.njit(**JIT)
def _draw_lines(first, end, P, x, y, z, valid, near, stride, reach, starts, cell, depth):
    cameras, height, width = valid.shape[0], valid.shape[1] // stride, valid.shape[2] // stride
    line = starts[first * len(y) * len(z)]
    for i in range(first, end):
        for j in range(len(y)):
            for k in range(len(z)):
                for n in range(cameras):
                    u, v, d = _find_pixel(P, n, x[i], y[j], z[k], valid, near)
                    if d > 0:
                        level = min(int(reach[n] / d + 0.5), _LEVELS - 1)
                        row, column = min(v // stride, height - 1), min(u // stride, width - 1)
                        cell[line] = ((level * cameras + n) * height + row) * width + column
                        depth[line] = d
                        line += 1


@numba.njit(**JIT)
def _pass(first, end, starts, cell, depth, nearest, passed):
    ny, nz = passed.shape[1], passed.shape[2]
    for i in range(first, end):
        for j in range(ny):
            for k in range(nz):
                voxel = (i * ny + j) * nz + k
                seen = False
                for line in range(starts[voxel], starts[voxel + 1]):
                    if depth[line] < nearest[cell[line]]:
                        seen = True
                        break
                passed[i, j, k] = seen
