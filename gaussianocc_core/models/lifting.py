# SPDX-License-Identifier: Apache-2.0
"""Lift image features onto lattice points by projection (spec section b).

A point's feature is the mean over the cameras that see it of the bilinearly sampled feature map; zero where none does.
Only about a sixth of all (camera, point) pairs are visible, so the visible ones are found once per calibration
(`LiftPlan`) and only those are sampled.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.types import Cameras

POSITION_CHANNELS = 4


def encode_positions(positions: Float[Tensor, "*shape 3"]) -> Float[Tensor, "C ..."]:
    """Height, range and bearing of points in the ego frame, each of order one, as channels for the 3D network.

    A convolution cannot tell how far away it is working, yet "these features at this range" is what makes a surface.
    The published network has no such input.
    """
    x, y, z = positions.unbind(-1)
    distance = torch.sqrt(x * x + y * y).clamp(min=1e-3)
    return torch.stack([z / 3.0, distance / 20.0 - 1.0, x / distance, y / distance])


@dataclass(frozen=True)
class LiftPlan:
    """Which points each camera sees and where, for one calibration."""

    places: Float[Tensor, "*shape 3"]  # of the points, ego frame, m
    points: tuple[Int[Tensor, " _"], ...]  # per camera, flat indices of the points it sees
    positions: tuple[Float[Tensor, "_ 2"], ...]  # per camera, where: -1..1 from edge to edge of the image
    weight: Float[Tensor, "*shape"]  # 1 / number of cameras that see the point; 0 where none does

    @property
    def seen(self) -> Bool[Tensor, "*shape"]:
        return self.weight > 0


def plan_lift(
    cameras: Cameras, positions: Float[Tensor, "*shape 3"], valid_mask: Bool[Tensor, "N H W"] | None = None
) -> LiftPlan:
    """Projects ego-frame points (metres) into N pinhole cameras of equal size; invalid pixels see nothing."""
    width, height = cameras.width[0], cameras.height[0]
    flat = positions.reshape(-1, 3)
    pixels, depth = camera_geometry.project(flat, cameras.intrinsics, cameras.T_ego_cam)  # (N, P, 2), (N, P)
    visible = camera_geometry.in_view(pixels, depth, width, height)
    if valid_mask is not None:
        column = pixels[..., 0].clamp(0, width - 1).long()
        row = pixels[..., 1].clamp(0, height - 1).long()
        visible &= valid_mask.flatten(1).gather(1, row * width + column)
    size = torch.tensor([width, height], device=pixels.device, dtype=pixels.dtype)
    index = tuple(camera.nonzero().squeeze(1) for camera in visible)
    where = tuple(2.0 * pixels[n, index[n]] / size - 1.0 for n in range(len(cameras)))
    count = visible.sum(dim=0)
    weight = torch.where(count > 0, 1.0 / count.clamp(min=1), 0.0).to(positions.dtype)
    return LiftPlan(positions, index, where, weight.view(positions.shape[:-1]))


def lift_features(features: Float[Tensor, "N C h w"], plan: LiftPlan) -> Float[Tensor, "C ..."]:
    """Mean over the seeing cameras of the features at each point of the plan."""
    # One row of channels per point, so that index_add moves contiguous memory.
    lifted = features.new_zeros(plan.weight.numel(), features.shape[1])
    for n, (index, where) in enumerate(zip(plan.points, plan.positions, strict=True)):
        sampled = F.grid_sample(
            features[n : n + 1], where.to(features.dtype)[None, None], padding_mode="border", align_corners=False
        )  # (1, C, 1, V); border: the outer half pixel of the map repeats its edge
        lifted = lifted.index_add(0, index, sampled[0, :, 0].T)
    lifted = lifted * plan.weight.to(features.dtype).reshape(-1, 1)
    return lifted.T.unflatten(1, plan.weight.shape)
