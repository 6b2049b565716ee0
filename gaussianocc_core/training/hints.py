# SPDX-License-Identifier: Apache-2.0
"""Depth hints: hypotheses that explain the neighbouring frames better than the depth network does (Watson et al. 2019).

A photometric loss only feels the pixels next to where a depth leads. What passes a metre away moves by half an image
from frame to frame, and its loss points nowhere; the road far ahead moves by so little that its loss hardly counts. So
a sweep tries depths everywhere, and the plane of the ground, and where one of them fits clearly better than what the
network says, it says so to the network. A hint is tested against the images before it is believed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from gaussianocc_core import losses
from gaussianocc_core.geometry import warp
from gaussianocc_core.geometry.cameras import scale_intrinsics
from gaussianocc_core.training.photometric import Photometric, reduce_images, shrink_mask

_FARTHEST_GROUND = 1.0 / 60.0  # 1/m
_WINDOW = 5  # px, over which errors are averaged before hypotheses compete
_SPACING = 1.5  # power: near, hypotheses shift images by 2 px each; far, where that is a third of the depth, by less
_RIVALS = 2  # hypotheses next to the best that are no rivals of it
_HYPOTHESES = 48  # in inverse depth, from `nearest` on; the sweep is most of what a step of stage 1 costs
_HALVINGS = 1  # of the images before they are compared: a quarter of the work, and less noise
# When a hypothesis is believed: its error is below this share of the network's, and below that of any farther away
# by the other share.
_MARGIN, _UNIQUENESS = 0.5, 0.1
# The plane of the ground is no guess among many: it is taken where its error is below the network's times the first,
# and below the least times the second.
_GROUND_MARGIN, _GROUND_FAVOUR = 0.95, 1.3


@dataclass(frozen=True)
class HintSettings:
    """Whether depths are tried, and from where on."""

    weight: float = 3.0  # of the absolute difference of log depths; 0: no hints, as published
    nearest: float = 0.7  # m

    RETIRED: ClassVar[dict[str, Any]] = {
        "hypotheses": 48,
        "halvings": 1,
        "margin": 0.5,
        "uniqueness": 0.1,
        "ground_margin": 0.95,
        "ground_favour": 1.3,
    }

    def __post_init__(self) -> None:
        if self.weight < 0 or self.nearest <= 0:
            raise ValueError("hints: expected weight >= 0, nearest > 0")


def hint_error(
    depth: Float[Tensor, "N H W"],
    hints: Float[Tensor, "N h w"],
    believed: Bool[Tensor, "N h w"],
    settings: HintSettings,
) -> Float[Tensor, ""]:
    """Weighted mean over all pixels of the difference in log depth to the hints that are believed."""
    small = warp.interpolate_depth(depth, *hints.shape[-2:])
    return settings.weight * ((small.log() - hints.log()).abs() * believed).mean()


def hinted_pixels(believed: Bool[Tensor, "N h w"], height: int, width: int) -> Bool[Tensor, "N H W"]:
    """Full-size pixels for which a hint is believed: what their neighbourhood says leads astray."""
    return F.interpolate(believed[:, None].float(), size=(height, width), mode="nearest")[:, 0] > 0


@torch.no_grad()
def find_hints(
    now: Float[Tensor, "N 3 H W"],
    around: Float[Tensor, "S N 3 H W"],
    depth: Float[Tensor, "N H W"],
    ground: Float[Tensor, "N H W"] | None,
    intrinsics: Float[Tensor, "N 3 3"],
    T_other_cam: Float[Tensor, "S N 4 4"],
    valid: Bool[Tensor, "N H W"],
    settings: HintSettings,
    photometric: Photometric,
) -> tuple[Float[Tensor, "N h w"], Bool[Tensor, "N h w"]]:
    """z-depth (m) of the best hypothesis, and where it is believed, at the size after the halvings.

    depth: what the network says, m; ground: inverse depth of the ground's plane, 1/m, or None; the rest as for
    `photometric.temporal_error`.
    """
    target = reduce_images(now, _HALVINGS + 1)[-1]
    others = reduce_images(around, _HALVINGS + 1)[-1].flatten(0, 1)  # (S*N, 3, h, w)
    steps, (height, width) = len(around), target.shape[-2:]
    K = scale_intrinsics(intrinsics, 0.5**_HALVINGS, 0.5**_HALVINGS).repeat(steps, 1, 1)
    motions, targets = T_other_cam.flatten(0, 1), target.repeat(steps, 1, 1, 1)

    def error_of(images: Float[Tensor, "SN 3 h w"]) -> Float[Tensor, "N h w"]:
        each = losses.photometric_error(images, targets, photometric.ssim_weight, photometric.l1_weight)
        return F.avg_pool2d(
            each.unflatten(0, (steps, -1)).amin(dim=0)[:, None], _WINDOW, 1, _WINDOW // 2, False, False
        )[:, 0]

    def error_at(z: Float[Tensor, "N h w"]) -> Float[Tensor, "N h w"]:
        pixels, _ = warp.reproject(z.repeat(steps, 1, 1), K, motions, K)
        return error_of(warp.sample_pixels(others, pixels))

    predicted = warp.interpolate_depth(depth, height, width)
    error_predicted = error_at(predicted)
    inverse = (torch.arange(1, _HYPOTHESES + 1, device=now.device) / _HYPOTHESES) ** _SPACING
    inverse = inverse / settings.nearest
    errors = torch.stack([error_at((1.0 / each).expand_as(predicted)) for each in inverse])
    least, index = errors.min(dim=0)
    places = torch.arange(_HYPOTHESES, device=now.device).view(-1, 1, 1, 1)
    rival = errors.masked_fill((places - index).abs() <= _RIVALS, torch.inf).amin(dim=0)
    best, step = 1.0 / inverse[index], inverse.diff(prepend=inverse.new_zeros(1))[index]
    least_known = torch.minimum(error_predicted, error_of(others))
    # What the network says within a step of it is finer than the hypothesis.
    believed = ((1.0 / best - 1.0 / predicted).abs() > step) & (least < _MARGIN * least_known)
    believed &= least < (1.0 - _UNIQUENESS) * rival
    if ground is not None:
        inv_plane = warp.resize_depth(ground, height, width)
        plane = 1.0 / inv_plane.clamp(min=_FARTHEST_GROUND)
        error = error_at(plane)
        fits = (error < _GROUND_FAVOUR * least) & (error < _GROUND_MARGIN * least_known)
        fits &= inv_plane > _FARTHEST_GROUND
        best, believed = torch.where(fits, plane, best), believed | fits
    return best, believed & shrink_mask(valid, height, width)
