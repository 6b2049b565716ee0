# SPDX-License-Identifier: Apache-2.0
"""What two cameras of a rig measure of each other teaches depth: a teacher that is metric and was never trained.

The cross-view loss feels its neighbouring pixels only, as every photometric loss does. Where two cameras look the same
way, semi-global matching (`geometry/stereo.py`) finds the depth of most of what both see, from the first step on and
whatever the network says. Cameras that look apart, as around a car, are left to the cross-view loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaussianocc_core.geometry.overlap import overlapping_pairs
from gaussianocc_core.geometry.stereo import LEAST_DISPARITY, StereoPair, plan_stereo
from gaussianocc_core.types import Cameras

_LEAST_SHARE = 0.02  # of a camera's pixels; fewer are chance


@dataclass(frozen=True)
class StereoSettings:
    """Whether cameras that look the same way teach each other depth."""

    weight: float = 3.0  # of the absolute difference of log depths; 0: without, as published

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"gsp.stereo.weight: expected 0 or more, got {self.weight}")


@dataclass(frozen=True)
class Measured:
    """Of N cameras."""

    depth: Float[Tensor, "N H W"]  # z-depth, m; 1 where nothing was measured
    sure: Float[Tensor, "N H W"]  # 0-1, more where a pixel of disparity is a smaller share of it; 0: not measured

    @property
    def known(self) -> Bool[Tensor, "N H W"]:
        return self.sure > 0


def stereo_pairs(cameras: Cameras, overlap: Bool[Tensor, "N N H W"]) -> dict[tuple[int, int], StereoPair]:
    """Plans by (camera, other) for pairs that overlap and look the same way; cameras: without a leading dimension."""
    K = cameras.intrinsics.detach().double().cpu().numpy()
    T_ego_cam = cameras.T_ego_cam.detach().double().cpu().numpy()
    size = cameras.width[0], cameras.height[0]
    found = {}
    for pair in overlapping_pairs(overlap):
        for i, j in (pair, pair[::-1]):
            plan = plan_stereo(K[i], T_ego_cam[i], K[j], T_ego_cam[j], *size)
            if plan is not None:
                found[i, j] = plan
    return found


@torch.no_grad()
def measure(
    images: Float[Tensor, "N 3 H W"], valid: Bool[Tensor, "N H W"], pairs: dict[tuple[int, int], StereoPair]
) -> Measured | None:
    """images: RGB 0-1 of one moment; pairs: as `stereo_pairs` plans them, each camera where it was at its own image
    time. None where there is no pair, or where hardly a pixel is found.

    Of several others, the one whose disparity is the largest counts.
    """
    if not pairs:
        return None
    pixels = (255.0 * images).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    depth = np.ones(pixels.shape[:3], np.float32)
    disparity = np.zeros(pixels.shape[:3], np.float32)
    for (i, j), plan in pairs.items():
        z, shift = plan.measure(pixels[i], pixels[j])
        better = shift > disparity[i]
        depth[i][better], disparity[i][better] = z[better], shift[better]
    disparity *= valid.cpu().numpy()
    known = disparity >= LEAST_DISPARITY
    if known.mean() < _LEAST_SHARE:
        return None
    sure = np.where(known, disparity / (disparity + LEAST_DISPARITY), 0.0).astype(np.float32)
    return Measured(torch.from_numpy(depth).to(images.device), torch.from_numpy(sure).to(images.device))


def stereo_error(depth: Float[Tensor, "N H W"], measured: Measured, settings: StereoSettings) -> Float[Tensor, ""]:
    """Weighted mean over all pixels of the difference in log depth to what was measured."""
    return settings.weight * ((depth.log() - measured.depth.log()).abs() * measured.sure).mean()


def stereo_ratio(depth: Float[Tensor, "N H W"], measured: Measured) -> Float[Tensor, ""]:
    """Median of measured / predicted depth where it was measured: 1 at the true scale."""
    return (measured.depth / depth.detach())[measured.known].median()
