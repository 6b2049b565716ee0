# SPDX-License-Identifier: Apache-2.0
"""`geometry.project_gaussians` as one compiled pass, for calls that want no gradient in where the Gaussians lie.

Same result; ten times less CPU time, and no parallel regions that stall when other processes keep the cores busy.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gaussianocc_core.geometry import transforms
from gaussianocc_core.rendering.cpu import JIT, as_array, run_in_threads
from gaussianocc_core.rendering.geometry import TILE, Footprints, RasterConstants, lens_parameters
from gaussianocc_core.types import Gaussians

_BLOCK = 8192  # Gaussians a work item
_ZERO, _HALF, _ONE, _TWO = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(2.0)
_TILE = np.float32(TILE)


@torch.no_grad()
def project_gaussians(
    gaussians: Gaussians,
    intrinsics: Float[Tensor, "N 3 3"],
    T_ego_cam: Float[Tensor, "N 4 4"],
    width: int,
    height: int,
    near: float,
    constants: RasterConstants,
) -> Footprints:
    """Footprints of the Gaussians that can reach a pixel of some camera, without gradients."""
    opacities = as_array(gaussians.opacities)
    active = np.flatnonzero(opacities >= np.float32(constants.min_alpha)).astype(np.int32)
    inputs = (active, as_array(gaussians.means), as_array(gaussians.quats), as_array(gaussians.scales), opacities)
    T_cam_ego, K = as_array(transforms.invert(T_ego_cam)), as_array(intrinsics)
    lens = as_array(lens_parameters(intrinsics, width, height, constants))
    numbers = np.array(
        [
            width, height, near, constants.divide_epsilon, constants.blur, constants.min_alpha, constants.extent,
            constants.eigenvalue_floor, constants.tile_low_shift, constants.tile_high_shift,
        ],
        dtype=np.float32,
    )  # fmt: skip
    options = (constants.opacity_extent, constants.square_extent)

    def work(camera: int, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        integers, floats = np.empty((end - first, 6), np.int32), np.empty((end - first, 7), np.float32)
        count = _project(
            camera, first, end, *inputs, T_cam_ego[camera], K[camera], lens[camera], numbers, *options, integers, floats
        )
        return integers[:count].copy(), floats[:count].copy()

    blocks = range(0, len(active), _BLOCK)
    items = [(camera, first, min(first + _BLOCK, len(active))) for camera in range(len(K)) for first in blocks]
    found = list(run_in_threads(work, items or [(0, 0, 0)]))
    integers, floats = (np.concatenate(part) for part in zip(*found, strict=True))
    # The bits of positive floats order like integers: one stable sort by (camera, depth).
    key = integers[:, 0].astype(np.int64) << 32 | np.ascontiguousarray(floats[:, 5]).view(np.int32)
    order = np.argsort(key, kind="stable")
    ids, values = torch.from_numpy(integers[order]), torch.from_numpy(floats[order])
    return Footprints(
        camera=ids[:, 0],
        gaussian=ids[:, 1],
        centers=values[:, :2],
        conics=values[:, 2:5],
        depth=values[:, 5],
        reach=values[:, 6],
        tiles=ids[:, 2:],
    )


@numba.njit(**JIT)
def _project(
    camera, first, end, active, means, quats, scales, opacities, T_cam_ego, K, lens, numbers,
    opacity_extent, square_extent, integers, floats,
):  # fmt: skip
    """Rows of visible active[first:end] in one camera; returns their number. Steps as in geometry.project_gaussians."""
    width, height, near, divide_epsilon, blur = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    min_alpha, max_extent, eigenvalue_floor = numbers[5], numbers[6], numbers[7]
    low_shift, high_shift = numbers[8], numbers[9]
    focal_x, focal_y = lens[0], lens[1]
    end_column, end_row = np.ceil(width / _TILE), np.ceil(height / _TILE)
    steepest = max(max(abs(lens[2]), abs(lens[3])), max(abs(lens[4]), abs(lens[5])))
    stretch = max(focal_x, focal_y) * np.sqrt(_ONE + _TWO * steepest * steepest)
    rotation = np.empty((3, 3), dtype=np.float32)
    count = 0
    for k in range(first, end):
        g = active[k]
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
        if u <= -bound or u >= width + bound or v <= -bound or v >= height + bound:
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

        sigmas = np.sqrt(_TWO * np.log(max(opacities[g] / min_alpha, _ONE)))
        extent = min(sigmas, max_extent) if opacity_extent else max_extent
        if square_extent:
            half_trace = _HALF * (uu + vv)
            spread = np.sqrt(max(half_trace * half_trace - determinant, eigenvalue_floor))
            radius_u = np.ceil(extent * np.sqrt(half_trace + spread))
            radius_v = radius_u
        else:
            radius_u, radius_v = np.ceil(extent * np.sqrt(uu)), np.ceil(extent * np.sqrt(vv))
        left = min(max(np.floor((u - radius_u + low_shift) / _TILE), _ZERO), end_column)
        right = min(max(np.floor((u + radius_u + high_shift) / _TILE), _ZERO), end_column)
        top = min(max(np.floor((v - radius_v + low_shift) / _TILE), _ZERO), end_row)
        bottom = min(max(np.floor((v + radius_v + high_shift) / _TILE), _ZERO), end_row)
        if not (right > left and bottom > top):
            continue
        integers[count, 0], integers[count, 1] = camera, g
        integers[count, 2], integers[count, 3] = int(left), int(top)
        integers[count, 4], integers[count, 5] = int(right), int(bottom)
        floats[count, 0], floats[count, 1] = u, v
        floats[count, 2], floats[count, 3], floats[count, 4] = vv / determinant, -uv / determinant, uu / determinant
        floats[count, 5] = z
        # The margin covers float32 rounding of the test alpha < min_alpha.
        floats[count, 6] = sigmas * np.sqrt(vv) * np.float32(1.001) + np.float32(0.01)
        count += 1
    return count
