# SPDX-License-Identifier: Apache-2.0
"""`geometry.project_gaussians` as compiled passes, for calls that want no gradient in where the Gaussians lie.

Same result; ten times less CPU time, and no parallel regions that stall when other processes keep the cores busy.
The first pass projects and sorts and does not depend on the opacities: for fixed Gaussians and cameras it is done once
(`plan`). The second finds which pairs an opacity keeps and which tiles they touch (`fit`).
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaussianocc_core.geometry import transforms
from gaussianocc_core.kernels import JIT, as_array, run_in_threads
from gaussianocc_core.rendering.geometry import TILE, Footprints, RasterConstants, SplatPlan, lens_parameters
from gaussianocc_core.types import Gaussians

_BLOCK = 8192  # Gaussians a work item
_PAIRS = 65536  # pairs a work item of the second pass
_ZERO, _HALF, _ONE, _TWO = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(2.0)
_TILE = np.float32(TILE)


def project_gaussians(
    gaussians: Gaussians,
    intrinsics: Float[Tensor, "N 3 3"],
    T_ego_cam: Float[Tensor, "N 4 4"],
    width: int,
    height: int,
    near: float,
    constants: RasterConstants,
    visible: Bool[Tensor, "N M"] | None = None,
) -> Footprints:
    """Footprints of the Gaussians that can reach a pixel of some camera, without gradients."""
    opacities = gaussians.opacities.detach()
    active = torch.nonzero(opacities >= constants.min_alpha)[:, 0].to(torch.int32)
    poses = (gaussians.means, gaussians.quats, gaussians.scales)
    projected = plan(*poses, intrinsics, T_ego_cam, width, height, near, constants, visible, active)
    footprints = fit(projected, opacities)
    rows = torch.nonzero(footprints.tiles[:, 2] > 0)[:, 0]  # some pairs are visible at full opacity only
    return footprints if len(rows) == len(footprints) else _select(footprints, rows)


def _select(footprints: Footprints, rows: Tensor) -> Footprints:
    return Footprints(
        footprints.camera[rows],
        footprints.gaussian[rows],
        footprints.centers[rows],
        footprints.conics[rows],
        footprints.depth[rows],
        footprints.reach[rows],
        footprints.tiles[rows],
    )


@torch.no_grad()
def plan(
    means: Float[Tensor, "M 3"],
    quats: Float[Tensor, "M 4"],
    scales: Float[Tensor, "M 3"],
    intrinsics: Float[Tensor, "N 3 3"],
    T_ego_cam: Float[Tensor, "N 4 4"],
    width: int,
    height: int,
    near: float,
    constants: RasterConstants,
    visible: Bool[Tensor, "N M"] | None = None,
    active: Tensor | None = None,
) -> SplatPlan:
    """All pairs that can reach a pixel at full opacity, nearest first; of the Gaussians in `active`, or of all."""
    chosen = np.arange(len(means), dtype=np.int32) if active is None else as_array(active, np.int32)
    inputs = (chosen, as_array(means), as_array(quats), as_array(scales))
    T_cam_ego, K = as_array(transforms.invert(T_ego_cam)), as_array(intrinsics)
    lens = as_array(lens_parameters(intrinsics, width, height, constants))
    mask = np.ones((len(K), 0), dtype=np.bool_) if visible is None else as_array(visible, np.bool_)
    numbers = np.array(
        [
            width, height, near, constants.divide_epsilon, constants.blur, constants.min_alpha, constants.extent,
            constants.eigenvalue_floor, constants.tile_low_shift, constants.tile_high_shift,
        ],
        dtype=np.float32,
    )  # fmt: skip
    options = (constants.opacity_extent, constants.square_extent)

    def work(camera: int, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        integers, floats = np.empty((end - first, 2), np.int32), np.empty((end - first, 9), np.float32)
        count = _project(
            camera, first, end, *inputs, T_cam_ego[camera], K[camera], lens[camera], mask[camera], numbers, *options,
            integers, floats,
        )  # fmt: skip
        return integers[:count].copy(), floats[:count].copy()

    blocks = range(0, len(chosen), _BLOCK)
    items = [(camera, first, min(first + _BLOCK, len(chosen))) for camera in range(len(K)) for first in blocks]
    found = list(run_in_threads(work, items or [(0, 0, 0)]))
    integers, floats = (np.concatenate(part) for part in zip(*found, strict=True))
    # The bits of positive floats order like integers: one stable sort by (camera, depth).
    key = integers[:, 0].astype(np.int64) << 32 | np.ascontiguousarray(floats[:, 5]).view(np.int32)
    order = np.argsort(key, kind="stable")

    def column(values: np.ndarray, index: int | slice) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values[:, index][order]))

    return SplatPlan(
        camera=column(integers, 0),
        gaussian=column(integers, 1),
        centers=column(floats, slice(0, 2)),
        conics=column(floats, slice(2, 5)),
        depth=column(floats, 5),
        spread=column(floats, slice(6, 9)),
        gaussians=len(means),
        cameras=len(K),
        width=width,
        height=height,
        constants=constants,
    )


@torch.no_grad()
def fit(plan: SplatPlan, opacities: Float[Tensor, " M"]) -> Footprints:
    """The planned pairs with the tiles that they touch at these opacities; none where they cannot be seen."""
    constants = plan.constants
    count = len(plan)
    reach, tiles = np.empty(count, np.float32), np.empty((count, 4), np.int32)
    inputs = (as_array(plan.gaussian, np.int32), as_array(plan.centers), as_array(plan.spread), as_array(opacities))
    numbers = np.array(
        [plan.width, plan.height, constants.min_alpha, constants.extent, constants.tile_low_shift,
         constants.tile_high_shift],
        dtype=np.float32,
    )  # fmt: skip
    items = [(first, min(first + _PAIRS, count)) for first in range(0, count, _PAIRS)]

    def work(first: int, end: int) -> None:
        _fit(first, end, *inputs, numbers, constants.opacity_extent, reach, tiles)

    for _ in run_in_threads(work, items):
        pass
    return Footprints(
        plan.camera, plan.gaussian, plan.centers, plan.conics, plan.depth,
        torch.from_numpy(reach), torch.from_numpy(tiles),
    )  # fmt: skip


@numba.njit(inline="always", **JIT)
def _touched(center, radius, low_shift, high_shift, limit):
    """First and end tile along one image axis."""
    first = min(max(np.floor((center - radius + low_shift) / _TILE), _ZERO), limit)
    end = min(max(np.floor((center + radius + high_shift) / _TILE), _ZERO), limit)
    return int(first), int(end)


@numba.njit(inline="always", **JIT)
def _standard_deviations(opacity, min_alpha):
    """At which alpha falls to min_alpha."""
    return np.sqrt(_TWO * np.log(max(opacity / min_alpha, _ONE)))


@numba.njit(**JIT)
def _fit(first, end, gaussian, centers, spread, opacities, numbers, opacity_extent, reach, tiles):
    columns, rows = np.ceil(numbers[0] / _TILE), np.ceil(numbers[1] / _TILE)
    min_alpha, max_extent, low_shift, high_shift = numbers[2], numbers[3], numbers[4], numbers[5]
    for p in range(first, end):
        opacity = opacities[gaussian[p]]
        tiles[p, :] = 0
        reach[p] = _ZERO
        if not opacity >= min_alpha:
            continue
        sigmas = _standard_deviations(opacity, min_alpha)
        extent = min(sigmas, max_extent) if opacity_extent else max_extent
        left, right = _touched(centers[p, 0], np.ceil(extent * spread[p, 0]), low_shift, high_shift, columns)
        top, bottom = _touched(centers[p, 1], np.ceil(extent * spread[p, 1]), low_shift, high_shift, rows)
        if right > left and bottom > top:
            tiles[p, 0], tiles[p, 1], tiles[p, 2], tiles[p, 3] = left, top, right, bottom
            # The margin covers float32 rounding of the test alpha < min_alpha.
            reach[p] = sigmas * spread[p, 2] * np.float32(1.001) + np.float32(0.01)


@numba.njit(**JIT)
def _project(
    camera, first, end, active, means, quats, scales, T_cam_ego, K, lens, visible, numbers,
    opacity_extent, square_extent, integers, floats,
):  # fmt: skip
    """Rows of visible active[first:end] in one camera; returns their number. Steps as in geometry.project_gaussians."""
    width, height, near, divide_epsilon, blur = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    min_alpha, max_extent, eigenvalue_floor = numbers[5], numbers[6], numbers[7]
    low_shift, high_shift = numbers[8], numbers[9]
    focal_x, focal_y = lens[0], lens[1]
    columns, rows = np.ceil(width / _TILE), np.ceil(height / _TILE)
    # As in geometry._candidates: without opacity_extent, the last tiles' part beyond the image counts.
    right_end, low_end = (width, height) if opacity_extent else (columns * _TILE, rows * _TILE)
    steepest = max(max(abs(lens[2]), abs(lens[3])), max(abs(lens[4]), abs(lens[5])))
    stretch = max(focal_x, focal_y) * np.sqrt(_ONE + _TWO * steepest * steepest)
    extent = min(_standard_deviations(_ONE, min_alpha), max_extent) if opacity_extent else max_extent
    rotation = np.empty((3, 3), dtype=np.float32)
    count = 0
    for k in range(first, end):
        g = active[k]
        if visible.shape[0] > 0 and not visible[g]:
            continue
        a, b, c = means[g, 0], means[g, 1], means[g, 2]
        z = T_cam_ego[2, 0] * a + T_cam_ego[2, 1] * b + T_cam_ego[2, 2] * c + T_cam_ego[2, 3]
        if not z >= near:
            continue
        x = T_cam_ego[0, 0] * a + T_cam_ego[0, 1] * b + T_cam_ego[0, 2] * c + T_cam_ego[0, 3]
        y = T_cam_ego[1, 0] * a + T_cam_ego[1, 1] * b + T_cam_ego[1, 2] * c + T_cam_ego[1, 3]
        inverse = _ONE / (z + divide_epsilon)
        u = (K[0, 0] * x + K[0, 1] * y) * inverse + K[0, 2]
        v = K[1, 1] * y * inverse + K[1, 2]
        size = max(abs(scales[g, 0]), max(abs(scales[g, 1]), abs(scales[g, 2])))
        bound = stretch * size / z
        bound = max_extent * np.sqrt(bound * bound + blur + _ONE) + _TWO
        if u <= -bound or u >= right_end + bound or v <= -bound or v >= low_end + bound:
            continue

        qw, qx, qy, qz = quats[g, 0], quats[g, 1], quats[g, 2], quats[g, 3]
        norm = _ONE / np.sqrt(qw * qw + qx * qx + qy * qy + qz * qz)
        qw, qx, qy, qz = qw * norm, qx * norm, qy * norm, qz * norm
        rotation[0, 0] = _ONE - _TWO * (qy * qy + qz * qz)
        rotation[0, 1] = _TWO * (qx * qy - qw * qz)
        rotation[0, 2] = _TWO * (qx * qz + qw * qy)
        rotation[1, 0] = _TWO * (qx * qy + qw * qz)
        rotation[1, 1] = _ONE - _TWO * (qx * qx + qz * qz)
        rotation[1, 2] = _TWO * (qy * qz - qw * qx)
        rotation[2, 0] = _TWO * (qx * qz - qw * qy)
        rotation[2, 1] = _TWO * (qy * qz + qw * qx)
        rotation[2, 2] = _ONE - _TWO * (qx * qx + qy * qy)
        slope_x = min(max(x / z, lens[2]), lens[3])
        slope_y = min(max(y / z, lens[4]), lens[5])
        uu, uv, vv = blur, _ZERO, blur
        for j in range(3):  # each principal axis of the Gaussian, in the camera, then in the image
            s = scales[g, j]
            e0, e1, e2 = rotation[0, j] * s, rotation[1, j] * s, rotation[2, j] * s
            axis_x = T_cam_ego[0, 0] * e0 + T_cam_ego[0, 1] * e1 + T_cam_ego[0, 2] * e2
            axis_y = T_cam_ego[1, 0] * e0 + T_cam_ego[1, 1] * e1 + T_cam_ego[1, 2] * e2
            axis_z = T_cam_ego[2, 0] * e0 + T_cam_ego[2, 1] * e1 + T_cam_ego[2, 2] * e2
            axis_u = focal_x / z * (axis_x - slope_x * axis_z)
            axis_v = focal_y / z * (axis_y - slope_y * axis_z)
            uu += axis_u * axis_u
            uv += axis_u * axis_v
            vv += axis_v * axis_v
        determinant = uu * vv - uv * uv
        if not determinant > _ZERO:
            continue

        spread_u, spread_v = np.sqrt(uu), np.sqrt(vv)
        reach = spread_v
        if square_extent:
            half_trace = _HALF * (uu + vv)
            spread = np.sqrt(max(half_trace * half_trace - determinant, eigenvalue_floor))
            spread_u = np.sqrt(half_trace + spread)
            spread_v = spread_u
        left, right = _touched(u, np.ceil(extent * spread_u), low_shift, high_shift, columns)
        top, bottom = _touched(v, np.ceil(extent * spread_v), low_shift, high_shift, rows)
        if not (right > left and bottom > top):
            continue
        integers[count, 0], integers[count, 1] = camera, g
        floats[count, 0], floats[count, 1] = u, v
        floats[count, 2], floats[count, 3], floats[count, 4] = vv / determinant, -uv / determinant, uu / determinant
        floats[count, 5] = z
        floats[count, 6], floats[count, 7], floats[count, 8] = spread_u, spread_v, reach
        count += 1
    return count
