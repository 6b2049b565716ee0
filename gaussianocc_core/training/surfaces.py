# SPDX-License-Identifier: Apache-2.0
"""Which voxels a depth image shows to be occupied or free: what the depth head teaches the voxels beside it.

Rendering alone says this only in the mean along a ray. A ray that grazes the road meets many Gaussians, each a little
opaque, and any share-out among them gives the same depth; so does a wall that is three voxels thick. A depth image
crosses each voxel or does not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.models.lifting import LiftPlan, plan_lift
from gaussianocc_core.types import Cameras, VoxelGrid

# Depth jumps where inverse depth bends by more than this share of itself from pixel to pixel; planes do not bend.
_JUMP = 0.4
# Networks draw an edge as a slope of a few pixels, from the near side to the far one along the ray: dozens of voxels
# that are not there. A surface whose sine of the angle to the ray is less is taken for one, unless it is the ground:
# within so many voxels of z = 0, and this much more per metre of distance.
_GRAZING = 0.3
_GROUND_VOXELS, _GROUND_SLOPE = 0.75, 0.02


def plan_surfaces(cameras: Cameras, grid: VoxelGrid, valid: Bool[Tensor, "N H W"] | None = None) -> LiftPlan:
    """Where the corners of a grid's voxels fall in these cameras; compute once per calibration.

    valid: of the cameras' size, false where a camera sees the robot itself.
    """
    axes = [grid.origin[axis] + np.arange(grid.shape[axis] + 1) * grid.voxel_size for axis in range(3)]
    corners = torch.stack(torch.meshgrid(*(torch.from_numpy(each).float() for each in axes), indexing="ij"), dim=-1)
    return plan_lift(cameras, corners.to(cameras.intrinsics.device), valid)


class Surfaces(NamedTuple):
    """Voxels of a grid; all others lie behind the surface, or no camera sees them whole."""

    occupied: Bool[Tensor, "X Y Z"]  # the surface passes
    filled: Bool[Tensor, "X Y Z"]  # just behind a surface that stands above the base plane
    free: Bool[Tensor, "X Y Z"]  # in front


@torch.no_grad()
def find_surfaces(
    inv_depth: Float[Tensor, "N h w"],
    cameras: Cameras,
    plan: LiftPlan,
    thickness: float = 0.0,
    reach: float = float("inf"),
) -> Surfaces:
    """What N depth images say of the voxels whose corners the plan is of.

    inv_depth: 1/m, over the whole images of the cameras, of any size. A voxel is passed if some of its corners lie in
    front of the surface that their pixels show and some behind: exact for planes at any slant, where a distance along
    the ray says little. Corners on pixels where depth jumps are in front of what is nearest there or say nothing, and
    so do those that cameras disagree about.

    thickness: m behind a surface that are filled, for voxels above z = 0: what stands on the ground is solid, and no
    camera sees how far. Ground is not filled: it would lie below z = 0.

    reach: m from a camera to which what stands up counts. Depth that comes from motion is less certain with the square
    of the distance; what it says of voxels farther out is wrong more often than not. In front of it is free all the
    same, and the ground, whose depth its plane gives, counts everywhere.
    """
    voxel_size = float(plan.places[1, 0, 0, 0] - plan.places[0, 0, 0, 0])
    jumps = _find_jumps(inv_depth) | _find_doubtful(inv_depth, cameras, voxel_size, reach)
    nearest = F.max_pool2d(inv_depth[:, None], 3, stride=1, padding=1)[:, 0]
    votes = inv_depth.new_zeros(plan.weight.numel(), 2)  # cameras that see the corner behind, less those before; near
    for n, index in enumerate(plan.points):
        where = plan.positions[n].to(inv_depth.dtype)[None, None]
        maps = torch.stack([inv_depth[n], nearest[n], jumps[n].to(inv_depth.dtype)])[None]
        surface, near, jump = F.grid_sample(maps, where, padding_mode="border", align_corners=False)[0, :, 0]
        depth = plan.depths[n].to(inv_depth.dtype)
        behind = torch.where(jump > 0, -(depth * near < 1.0).to(depth.dtype), torch.sign(depth * surface - 1.0))
        close = (behind > 0) & (depth - 1.0 / surface < thickness)
        votes.index_add_(0, index, torch.stack([behind, close.to(depth.dtype)], dim=1))
    side, close = votes.sign().T.unflatten(1, plan.weight.shape)[:, None, None]
    known = _in_all(side.abs())
    some_behind, some_before = _in_any(side), _in_any(-side)
    above = plan.places[:-1, :-1, :-1, 2] > 0
    return Surfaces(
        occupied=known & some_behind & some_before,
        filled=known & ~some_before & _in_any(close) & above,
        free=known & ~some_behind,
    )


def _in_any(corners: Float[Tensor, "1 1 X1 Y1 Z1"]) -> Bool[Tensor, "X Y Z"]:
    """Voxels with a corner above 0."""
    return F.max_pool3d(corners, 2, stride=1)[0, 0] > 0


def _in_all(corners: Float[Tensor, "1 1 X1 Y1 Z1"]) -> Bool[Tensor, "X Y Z"]:
    """Voxels with all corners above 0."""
    return -F.max_pool3d(-corners, 2, stride=1)[0, 0] > 0


def _find_jumps(inv_depth: Float[Tensor, "N h w"]) -> Bool[Tensor, "N h w"]:
    """Pixels at which depth is not continuous."""
    bend = torch.zeros_like(inv_depth)
    for dim in (1, 2):
        size = inv_depth.shape[dim] - 2
        second = inv_depth.diff(n=2, dim=dim).abs() / inv_depth.narrow(dim, 1, size)
        bend.narrow(dim, 1, size).copy_(torch.maximum(bend.narrow(dim, 1, size), second))
    return bend > _JUMP


def _find_doubtful(
    inv_depth: Float[Tensor, "N h w"], cameras: Cameras, voxel_size: float, reach: float
) -> Bool[Tensor, "N h w"]:
    """Pixels whose surface is not the ground and runs along the ray or is too far away."""
    cameras = camera_geometry.resize(cameras, inv_depth.shape[2], inv_depth.shape[1])
    points = camera_geometry.unproject(1.0 / inv_depth, cameras.intrinsics, cameras.T_ego_cam)
    ray = points - cameras.T_ego_cam[:, None, None, :3, 3]
    distance = ray.norm(dim=-1)
    standing = points[..., 2].abs() > _GROUND_VOXELS * voxel_size + _GROUND_SLOPE * distance
    along_u, along_v = points[:, 1:-1, 2:] - points[:, 1:-1, :-2], points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
    normal = F.normalize(torch.linalg.cross(along_u, along_v), dim=-1)
    sine = (normal * ray[:, 1:-1, 1:-1]).sum(dim=-1).abs() / distance[:, 1:-1, 1:-1]
    return standing & (F.pad(sine < _GRAZING, (1, 1, 1, 1)) | (distance > reach))
