# SPDX-License-Identifier: Apache-2.0
"""What adjacent cameras of a rig draw of each other: the cross-view loss of stage 1 (docs/method.md#f.6).

Every pixel becomes a Gaussian at its predicted depth. Those in the region that two cameras share are splatted into the
other one, and only at the true scale do they land where that camera sees them.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gaussianocc_core import losses
from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry.overlap import overlapping_pairs
from gaussianocc_core.geometry.warp import resize_depth
from gaussianocc_core.rendering.rasterize import rasterize
from gaussianocc_core.training.photometric import Photometric, reduce_images, shrink_mask
from gaussianocc_core.types import Cameras, Gaussians


def compare_overlaps(
    images: Float[Tensor, "N 3 H W"],
    depth: Float[Tensor, "N H W"],
    scale: Float[Tensor, "N H W"],
    cameras: Cameras,
    masks: Bool[Tensor, "N N H W"],
    settings: Photometric,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Sum of the errors, and number of the pixels that they are of: shared ones that were drawn.

    depth: z-depth, m; scale: standard deviation of each pixel's Gaussian, m; cameras: where each was at its own image
    time; masks: pixels of the first camera that the second sees too, by calibration.
    """
    # One side of every overlap is left out, or a view would draw itself; which one is a coin's toss each time.
    directions = [pair if torch.rand(()) < 0.5 else pair[::-1] for pair in overlapping_pairs(masks)]
    total, count = depth.new_zeros(()), depth.new_zeros(())
    for level, colors in enumerate(reduce_images(images, settings.levels)):
        height, width = colors.shape[-2:]
        level_cameras = camera_geometry.resize(cameras, width, height)
        level_depth = depth if level == 0 else resize_depth(depth, height, width)
        level_scale = scale if level == 0 else resize_depth(scale, height, width)
        points = camera_geometry.unproject(level_depth, level_cameras.intrinsics, level_cameras.T_ego_cam)
        for source, target in directions:
            sent = shrink_mask(masks[source, target], height, width)
            kept = shrink_mask(masks[target, source], height, width)
            if not bool(sent.any() and kept.any()):
                continue
            gaussians = pixel_gaussians(points[source][sent], colors[source][:, sent].T, level_scale[source][sent])
            drawn, covered = _draw(gaussians, level_cameras.select((cameras.names[target],)))
            seen = colors[target : target + 1]
            error = losses.photometric_error(drawn, seen, settings.ssim_weight, settings.l1_weight)[0]
            counted = kept & covered[0]
            total = total + error[counted].sum() * 4.0**level  # every level counts alike
            count = count + float(counted.sum()) * 4.0**level
    return total, count


def compare_everywhere(
    images: Float[Tensor, "N 3 H W"],
    depth: Float[Tensor, "N H W"],
    scale: Float[Tensor, "N H W"],
    cameras: Cameras,
    valid: Bool[Tensor, "N H W"],
    settings: Photometric,
) -> Float[Tensor, ""]:
    """The ablation of the paper: all Gaussians into all cameras, compared everywhere; arguments as above."""
    points = camera_geometry.unproject(depth, cameras.intrinsics, cameras.T_ego_cam)
    gaussians = pixel_gaussians(points[valid], images.permute(0, 2, 3, 1)[valid], scale[valid])
    drawn, _ = _draw(gaussians, cameras)
    error = losses.photometric_error(drawn, images, settings.ssim_weight, settings.l1_weight)
    return losses.weighted_mean(error * valid, valid.to(error.dtype))


def pixel_gaussians(
    points: Float[Tensor, "M 3"], colors: Float[Tensor, "M 3"], scale: Float[Tensor, " M"]
) -> Gaussians:
    """Opaque isotropic Gaussians in the colour of their pixels (docs/method.md#f.4)."""
    count = len(points)
    quats = torch.tensor([1.0, 0.0, 0.0, 0.0], device=points.device).expand(count, 4)
    return Gaussians(points, quats, scale[:, None].expand(count, 3), torch.ones_like(scale), colors)


def _draw(gaussians: Gaussians, cameras: Cameras) -> tuple[Float[Tensor, "N 3 H W"], Bool[Tensor, "N H W"]]:
    """Colours over what is covered, and the pixels whose whole SSIM window is.

    Rims of an overlap are shared at some depths only. Counting what nothing covers there as black would pull the depth
    to wherever it covers more, and a gap between pixels that a lens spreads apart would look like shade.
    """
    views = rasterize(gaussians, cameras)
    solid = (views.alpha > 0.5).float()
    whole = -nn.functional.max_pool2d(-solid, 3, stride=1, padding=1)
    return views.features / views.alpha.clamp(min=0.25), whole[:, 0] > 0.5
