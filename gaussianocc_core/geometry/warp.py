# SPDX-License-Identifier: Apache-2.0
"""Seeing another image from this camera's place, given this camera's depth: the warp of the photometric loss.

Cameras are pinholes. Where pixel centres lie is a value: `cameras.PIXEL_CENTER` (0.5) is this project's, with 0 the
functions below are those of the published code (docs/method.md#g.1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry.cameras import PIXEL_CENTER

_Z_OFFSET = 1e-7  # m, added to z before dividing (docs/method.md#g.1)


def resize_depth(depth: Float[Tensor, "N H W"], height: int, width: int) -> Float[Tensor, "N height width"]:
    """Bilinear, half-pixel centres, edges repeated: for the losses (docs/method.md#g.1) and evaluation
    (docs/method.md#i.1)."""
    return F.interpolate(depth[:, None], size=(height, width), mode="bilinear", align_corners=False)[:, 0]


def interpolate_depth(depth: Float[Tensor, "N H W"], height: int, width: int) -> Float[Tensor, "N height width"]:
    """As `resize_depth`, but bilinear in inverse depth, which over a plane is linear in the image."""
    return 1.0 / resize_depth(1.0 / depth, height, width)


def reproject(
    depth: Float[Tensor, "N H W"],
    intrinsics: Float[Tensor, "N 3 3"],
    T_other_cam: Float[Tensor, "N 4 4"],
    other_intrinsics: Float[Tensor, "N 3 3"],
    pixel_center: float = PIXEL_CENTER,
) -> tuple[Float[Tensor, "N H W 2"], Float[Tensor, "N H W"]]:
    """Where in the other images (pixels) and how deep (z, m) the points of these z-depth images (m) lie.

    A point behind the other camera gets a meaningless pixel, as in the published code: test the returned depth.
    """
    height, width = depth.shape[-2:]
    points = camera_geometry.pixel_rays(intrinsics, width, height, pixel_center) * depth[..., None]
    moved = torch.einsum("nij,nhwj->nhwi", T_other_cam[:, :3, :3], points) + T_other_cam[:, None, None, :3, 3]
    homogeneous = torch.einsum("nij,nhwj->nhwi", other_intrinsics, moved)
    return homogeneous[..., :2] / (homogeneous[..., 2:] + _Z_OFFSET), moved[..., 2]


def to_sampling_grid(
    pixels: Float[Tensor, "*shape 2"], width: int, height: int, pixel_center: float = PIXEL_CENTER
) -> Float[Tensor, "*shape 2"]:
    """Pixel coordinates -> the -1..1 of grid_sample with align_corners: -1 is the centre of the first pixel."""
    last = torch.tensor([width - 1, height - 1], device=pixels.device, dtype=pixels.dtype)
    return ((pixels - pixel_center) / last - 0.5) * 2.0


def sample_pixels(
    images: Float[Tensor, "N C H W"], pixels: Float[Tensor, "N h w 2"], pixel_center: float = PIXEL_CENTER
) -> Float[Tensor, "N C h w"]:
    """Bilinear values of the images at pixel coordinates; outside, the nearest border pixel."""
    grid = to_sampling_grid(pixels, images.shape[-1], images.shape[-2], pixel_center)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)
