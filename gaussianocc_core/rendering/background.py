# SPDX-License-Identifier: Apache-2.0
"""What rays find that leave the lattice: training and evaluation compose a depth image of the same parts."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry.warp import interpolate_depth
from gaussianocc_core.types import Cameras, Lattice, RenderedViews

_LEAST_DEPTH = 1e-6  # m, accumulated: where nothing is drawn


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
    depth = interpolate_depth(head_depth.detach(), *shape[1:])
    points = camera_geometry.unproject(depth, cameras.intrinsics, cameras.T_ego_cam)
    low = torch.tensor(lattice.low, device=points.device)
    high = torch.tensor(lattice.high, device=points.device)
    inside = ((points > low) & (points < high)).all(dim=-1)
    return inside, torch.where(inside, far, depth)


def compose_depth(views: RenderedViews, background: Float[Tensor, "N H W"] | float) -> Float[Tensor, "N H W"]:
    """z-depth (m) of accumulated views: what they leave transparent shows the background; 0: nothing lies behind.

    What is mixed is inverse depth, as the eye does it: of a road 4 m away that lets a tenth of a background of 80 m
    through, depths would make 11.6 m, and training would fill the gap with voxels below the road; this makes 4.4 m.
    """
    alpha, depth = views.alpha[:, 0], views.depth[:, 0]
    if not isinstance(background, Tensor) and not background:
        return depth
    # alpha / (depth / alpha): the share of the surface times its mean inverse depth.
    return 1.0 / (alpha * alpha / depth.clamp(min=_LEAST_DEPTH) + (1.0 - alpha) / background)
