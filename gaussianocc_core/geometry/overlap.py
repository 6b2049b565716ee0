# SPDX-License-Identifier: Apache-2.0
"""Which pixels neighbouring cameras share, from calibration alone (docs/method.md#f.5, overlap mask).

The only source of metric scale in self-supervised training is that two cameras a known distance apart see the same
thing at the same time. Where that can be is known before any image is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.types import Cameras


@dataclass(frozen=True)
class OverlapSettings:
    """Which distances count."""

    near: float = 1.0  # m, nearest sample on a pixel's ray
    far: float = 80.0  # m, farthest; published: 80 (nuScenes), 200 (DDAD)

    RETIRED: ClassVar[dict[str, Any]] = {"samples": 48, "least_hits": 2, "erosion": 2, "least_share": 0.005}


# The paper states the rule, not the numbers.
SAMPLES = 48  # on a ray, evenly spaced in inverse depth, which is evenly spaced in the other image
LEAST_HITS = 2  # samples that the other camera must see ("more than one")
EROSION = 2  # px of the masks' resolution: their rims hold what only just leaves the other image
LEAST_SHARE = 0.005  # of the image; less is no overlap


def overlap_masks(
    cameras: Cameras,
    settings: OverlapSettings = OverlapSettings(),
    *,
    least_hits: int = LEAST_HITS,
    erosion: int = EROSION,
) -> Bool[Tensor, "N N H W"]:
    """[i, j]: pixels of camera i whose rays pass through the view of camera j; false everywhere for i = j.

    Cameras are pinholes of one size.
    """
    width, height, count = cameras.width[0], cameras.height[0], len(cameras)
    rays = camera_geometry.pixel_rays(cameras.intrinsics, width, height)  # (N, H, W, 3)
    R, t = cameras.T_ego_cam[:, :3, :3], cameras.T_ego_cam[:, :3, 3]
    hits = torch.zeros(count, count, height, width, dtype=torch.int32, device=rays.device)
    for inv_depth in np.linspace(1.0 / settings.far, 1.0 / settings.near, SAMPLES):
        points = torch.einsum("nij,nhwj->nhwi", R, rays / float(inv_depth)) + t[:, None, None]
        pixels, depth = camera_geometry.project(points.reshape(-1, 3), cameras.intrinsics, cameras.T_ego_cam)
        seen = camera_geometry.in_view(pixels, depth, width, height)  # (N other, N*H*W)
        hits += seen.view(count, count, height, width).transpose(0, 1)
    masks = hits >= least_hits
    masks[torch.arange(count), torch.arange(count)] = False
    return _erode(masks, erosion)


def _erode(masks: Bool[Tensor, "N N H W"], erosion: int) -> Bool[Tensor, "N N H W"]:
    size = 2 * erosion + 1
    array = masks.cpu().numpy().astype(np.uint8)
    for each in array.reshape(-1, *array.shape[2:]):
        if erosion:
            # Beyond the image counts as inside: its border is no rim of the overlap.
            each[:] = cv2.erode(each, np.ones((size, size), np.uint8), borderValue=1)
        if each.mean() < LEAST_SHARE:
            each[:] = 0
    return torch.from_numpy(array.astype(bool)).to(masks.device)


def overlapping_pairs(masks: Bool[Tensor, "N N H W"]) -> tuple[tuple[int, int], ...]:
    """Pairs i < j of cameras that share pixels."""
    shared = masks.flatten(2).any(dim=-1)
    count = len(masks)
    return tuple((i, j) for i in range(count) for j in range(i + 1, count) if bool(shared[i, j] and shared[j, i]))


@dataclass(frozen=True)
class Overlap:
    """Two cameras that see some of the same."""

    names: tuple[str, str]
    share: float  # of the pixels of the one that shares less
    baseline: float  # m between them: what metric scale is measured against


def find_overlaps(cameras: Cameras, settings: OverlapSettings = OverlapSettings()) -> tuple[Overlap, ...]:
    """Every pair that shares pixels. Cameras are pinholes of one size, as a Rectifier makes them."""
    masks = overlap_masks(cameras, settings)
    centres = cameras.T_ego_cam[:, :3, 3].double().cpu().numpy()
    return tuple(
        Overlap(
            (cameras.names[i], cameras.names[j]),
            float(torch.minimum(masks[i, j].float().mean(), masks[j, i].float().mean())),
            float(np.linalg.norm(centres[i] - centres[j])),
        )
        for i, j in overlapping_pairs(masks)
    )
