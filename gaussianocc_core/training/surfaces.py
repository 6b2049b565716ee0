# SPDX-License-Identifier: Apache-2.0
"""Which voxels a depth image shows to be occupied or free: what the depth head teaches the voxels beside it.

Rendering alone says this only in the mean along a ray. A ray that grazes the road meets many Gaussians, each a little
opaque, and any share-out among them gives the same depth; so does a wall that is three voxels thick. A depth image
crosses each voxel or does not.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from gaussianocc_core.models.lifting import LiftPlan, plan_lift
from gaussianocc_core.types import Cameras, VoxelGrid

# Depth jumps where inverse depth bends by more than this share of itself from pixel to pixel; planes do not bend.
_JUMP = 0.4


def plan_surfaces(cameras: Cameras, grid: VoxelGrid, valid: Bool[Tensor, "N H W"] | None = None) -> LiftPlan:
    """Where the corners of a grid's voxels fall in these cameras; compute once per calibration.

    valid: of the cameras' size, false where a camera sees the robot itself.
    """
    axes = [grid.origin[axis] + np.arange(grid.shape[axis] + 1) * grid.voxel_size for axis in range(3)]
    corners = torch.stack(
        torch.meshgrid(*(torch.from_numpy(each).float() for each in axes), indexing="ij"), dim=-1
    )
    return plan_lift(cameras, corners.to(cameras.intrinsics.device), valid)


@torch.no_grad()
def find_surfaces(
    inv_depth: Float[Tensor, "N h w"], plan: LiftPlan
) -> tuple[Bool[Tensor, "X Y Z"], Bool[Tensor, "X Y Z"]]:
    """Voxels that the surface passes, and voxels in front of it; all others lie behind it, or no camera sees them whole.

    inv_depth: 1/m, over the whole images that the plan is of. A voxel is passed if some of its corners lie in front of
    the surface that their pixels show and some behind: exact for planes at any slant, where a distance along the ray
    says little. Corners on pixels where depth jumps say nothing, nor do those that cameras disagree about.
    """
    jumps, nearest = _find_jumps(inv_depth), F.max_pool2d(inv_depth[:, None], 3, stride=1, padding=1)[:, 0]
    votes = inv_depth.new_zeros(plan.weight.numel())  # cameras that see the corner behind, less those before
    for n, index in enumerate(plan.points):
        where = plan.positions[n].to(inv_depth.dtype)[None, None]
        maps = torch.stack([inv_depth[n], nearest[n], jumps[n].to(inv_depth.dtype)])[None]
        surface, near, jump = F.grid_sample(maps, where, padding_mode="border", align_corners=False)[0, :, 0]
        depth = plan.depths[n].to(inv_depth.dtype)
        behind = torch.where(jump > 0, -(depth * near < 1.0).to(depth.dtype), torch.sign(depth * surface - 1.0))
        votes.index_add_(0, index, behind)
    side = votes.sign().view(1, 1, *plan.weight.shape)
    known = -F.max_pool3d(-side.abs(), 2, stride=1)[0, 0] > 0
    some_behind = F.max_pool3d(side, 2, stride=1)[0, 0] > 0
    some_before = F.max_pool3d(-side, 2, stride=1)[0, 0] > 0
    return known & some_behind & some_before, known & ~some_behind


def _find_jumps(inv_depth: Float[Tensor, "N h w"]) -> Bool[Tensor, "N h w"]:
    """Pixels at which depth is not continuous."""
    bend = torch.zeros_like(inv_depth)
    for dim in (1, 2):
        size = inv_depth.shape[dim] - 2
        second = inv_depth.diff(n=2, dim=dim).abs() / inv_depth.narrow(dim, 1, size)
        bend.narrow(dim, 1, size).copy_(torch.maximum(bend.narrow(dim, 1, size), second))
    return bend > _JUMP
