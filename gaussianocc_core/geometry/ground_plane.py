# SPDX-License-Identifier: Apache-2.0
"""The ground as calibration knows it: the plane z = 0 of the ego frame, in the pixels of each camera."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gaussianocc_core.geometry.cameras import pixel_rays, resize, scale_intrinsics
from gaussianocc_core.types import Cameras


def ground_inv_depth(
    intrinsics: Float[Tensor, "*batch N 3 3"],
    T_ego_cam: Float[Tensor, "*batch N 4 4"],
    width: int,
    height: int,
    stride: int = 1,
) -> Float[Tensor, "*batch N h w"]:
    """1/m in z-depth at which the centres of a map's cells meet the plane z = 0 of the ego frame; 0: not at all."""
    factor = 1.0 / stride
    K = scale_intrinsics(intrinsics, factor, factor).flatten(0, -3)
    T = T_ego_cam.flatten(0, -3)
    down = -torch.einsum("nj,nhwj->nhw", T[:, 2, :3], pixel_rays(K, width // stride, height // stride))
    above = T[:, 2, 3, None, None]  # m, of the lens over the plane
    inv_depth = torch.where(above > 0, down / above.clamp(min=1e-3), 0.0).clamp(min=0.0)
    return inv_depth.unflatten(0, intrinsics.shape[:-2])


def flat_ground_depth(cameras: Cameras, index: int, width: int, height: int, far: float) -> Float[Tensor, "H W"]:
    """z-depth (m) at which the pixels of a camera meet the plane z = 0 of the ego frame; `far` beyond and above it.

    cameras: pinhole. This is what the calibration alone says, without any image.
    """
    one = resize(cameras.select((cameras.names[index],)), width, height)
    inv_depth = ground_inv_depth(one.intrinsics.double(), one.T_ego_cam.double(), width, height)[0]
    return (1.0 / inv_depth.clamp(min=1.0 / far)).float()
