# SPDX-License-Identifier: Apache-2.0
"""The temporal photometric loss of both stages: a pyramid of warps with auto-masking (docs/method.md#f, #g.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from gaussianocc_core import losses
from gaussianocc_core.geometry import warp
from gaussianocc_core.geometry.cameras import PIXEL_CENTER, scale_intrinsics


@dataclass(frozen=True)
class Photometric:
    """How images are compared."""

    ssim_weight: float = 0.85
    l1_weight: float = 0.15
    # Every level halves the images. A warp only feels its neighbouring pixels: at full size, motion of many pixels
    # between frames gives fresh weights nothing to follow. Published: 1.
    levels: int = 3
    auto_mask: bool = True  # pixels that fit better unmoved have no say


def reduce_images(images: Float[Tensor, "*batch C H W"], levels: int) -> list[Float[Tensor, "*batch C h w"]]:
    """The images and `levels` - 1 successive halvings by averaging."""
    pyramid = [images]
    for _ in range(levels - 1):
        flat = pyramid[-1].flatten(0, -4) if images.ndim > 4 else pyramid[-1]
        halved = F.avg_pool2d(flat, 2)
        pyramid.append(halved.unflatten(0, images.shape[:-3]) if images.ndim > 4 else halved)
    return pyramid


def temporal_error(
    now: Float[Tensor, "N 3 H W"],
    around: Float[Tensor, "S N 3 H W"],
    depth: Float[Tensor, "N H W"],
    intrinsics: Float[Tensor, "N 3 3"],
    T_other_cam: Float[Tensor, "S N 4 4"],
    valid: Bool[Tensor, "N H W"],
    settings: Photometric,
    pixel_center: float = PIXEL_CENTER,
    noise: Float[Tensor, "S N H W"] | None = None,
    silent: Bool[Tensor, "N H W"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean over levels and valid pixels of the least error over the neighbour images; share of pixels that moved.

    depth: z-depth of `now`, m; T_other_cam: points of each camera now in that camera at the neighbouring moment.
    noise: as in `losses.least_error`, for one level; silent: pixels that have no say. Unlike one that is not valid,
    such a pixel may be part of a coarser one: that is silent too where half of it is.
    """
    steps = len(around)
    error, moved = depth.new_zeros(()), depth.new_zeros(())
    pyramids = reduce_images(now, settings.levels), reduce_images(around, settings.levels)
    for level, (target, others) in enumerate(zip(*pyramids, strict=True)):
        height, width = target.shape[-2:]
        K = scale_intrinsics(intrinsics, 0.5**level, 0.5**level)
        level_depth = depth if level == 0 else warp.resize_depth(depth, height, width)
        kept = shrink_mask(valid, height, width)
        if silent is not None:
            kept = kept & shrink_mask(~silent, height, width, share=0.5)
        flat = others.flatten(0, 1)  # (S*N, 3, h, w)
        pixels, _ = warp.reproject(
            level_depth.repeat(steps, 1, 1),
            K.repeat(steps, 1, 1),
            T_other_cam.flatten(0, 1),
            K.repeat(steps, 1, 1),
            pixel_center,
        )
        warped = warp.sample_pixels(flat, pixels, pixel_center)
        targets = target.repeat(steps, 1, 1, 1)
        errors = _error(warped, targets, settings).unflatten(0, (steps, -1))
        if settings.auto_mask:
            identity = _error(flat, targets, settings).unflatten(0, (steps, -1))
            least, moving = losses.least_error(identity, errors, noise)
        else:
            least = errors.min(dim=0).values
            moving = torch.ones_like(least, dtype=torch.bool)
        weight = kept.to(least.dtype)
        error = error + losses.weighted_mean(least * weight, weight) / settings.levels
        moved = moved + losses.weighted_mean(moving * weight, weight) / settings.levels
    return error, moved.detach()


def shrink_mask(
    mask: Bool[Tensor, "*batch H W"], height: int, width: int, share: float = 0.999
) -> Bool[Tensor, "*batch h w"]:
    """True where more than this share of a smaller image's pixel is true, by default all of it."""
    if mask.shape[-2:] == (height, width):
        return mask
    flat = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    small = F.interpolate(flat, size=(height, width), mode="area") > share
    return small.view(*mask.shape[:-2], height, width)


def _error(a: Float[Tensor, "N 3 H W"], b: Float[Tensor, "N 3 H W"], settings: Photometric) -> Float[Tensor, "N H W"]:
    return losses.photometric_error(a, b, settings.ssim_weight, settings.l1_weight)
