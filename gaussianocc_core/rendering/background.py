# SPDX-License-Identifier: Apache-2.0
"""What rays find that leave the lattice: training and evaluation compose a depth image of the same parts."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry.warp import resize_depth
from gaussianocc_core.types import Cameras, Lattice, RenderedViews


def find_background(
    views: RenderedViews,
    cameras: Cameras,
    lattice: Lattice,
    head_depth: Float[Tensor, "N h w"] | None,
    far: float,
) -> tuple[Bool[Tensor, "N H W"], Float[Tensor, "N H W"] | float]:
    """Pixels whose surface the lattice can hold, and the depth (m) of what is seen through it.

    Where the depth head (z-depth, m, of any size) sees a surface beyond the lattice, that is the background; all else
    leads to `far`. With far = 0 nothing lies behind.
    """
    shape = views.depth[:, 0].shape
    everywhere = torch.ones(shape, dtype=torch.bool, device=views.depth.device)
    if head_depth is None or not far:
        return everywhere, far
    depth = 1.0 / resize_depth(1.0 / head_depth.detach(), *shape[1:])
    points = camera_geometry.unproject(depth, cameras.intrinsics, cameras.T_ego_cam)
    low = torch.tensor(lattice.low, device=points.device)
    high = torch.tensor(lattice.high, device=points.device)
    inside = ((points > low) & (points < high)).all(dim=-1)
    return inside, torch.where(inside, far, depth)


def compose_depth(views: RenderedViews, background: Float[Tensor, "N H W"] | float) -> Float[Tensor, "N H W"]:
    """z-depth (m) of accumulated views: what they leave transparent shows the background."""
    return views.depth[:, 0] + (1.0 - views.alpha[:, 0]) * background
