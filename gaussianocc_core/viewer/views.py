# SPDX-License-Identifier: Apache-2.0
"""Published voxels as the cameras would see them: depth, and the colours that the voxels have."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8

from gaussianocc_core.labels import FREE
from gaussianocc_core.models.gaussian_head import label_gaussians
from gaussianocc_core.rendering.rasterize import rasterize
from gaussianocc_core.types import Cameras, VoxelGrid
from gaussianocc_core.viz.colors import FREE_RGB, voxel_colors

WIDTH = 240  # px


class LabelViews(NamedTuple):
    depth: Float[np.ndarray, "N h w"]  # z-depth, m; 0 where nothing is
    colors: UInt8[np.ndarray, "N h w 3"]


def render_labels(
    labels: UInt8[np.ndarray, "X Y Z"], grid: VoxelGrid, cameras: Cameras, by_height: bool = False, width: int = WIDTH
) -> LabelViews:
    """labels: Occ3D ids; cameras: pinholes, ego frame; by_height: see `voxel_colors`."""
    occupied = labels < FREE
    gaussians = label_gaussians(np.where(occupied, np.uint8(0), np.uint8(1)), grid, 2)
    colors = torch.from_numpy(voxel_colors(labels, by_height)[occupied]).float()  # in the order of np.argwhere
    height = round(width * cameras.height[0] / cameras.width[0])
    views = rasterize(
        replace(gaussians, features=colors),
        cameras.to(dtype=torch.float32),
        width=width,
        height=height,
        normalize_depth=True,
    )
    alpha = views.alpha[:, 0].numpy()
    solid = alpha > 0.5
    rgb = 255 * views.features.permute(0, 2, 3, 1).numpy() / np.maximum(alpha, 1e-3)[..., None]
    rgb[~solid] = FREE_RGB
    return LabelViews(np.where(solid, views.depth[:, 0].numpy(), 0.0), np.rint(rgb.clip(0, 255)).astype(np.uint8))
