# SPDX-License-Identifier: Apache-2.0
"""Ego motion in training: from the frames of a batch to the motion of every camera."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from gaussianocc_core.geometry import transforms
from gaussianocc_core.models.pose_net import EgoMotion, PoseNet, camera_motions
from gaussianocc_core.training.precision import network_precision
from gaussianocc_core.types import Cameras


def predict_ego_motion(
    pose_net: PoseNet, frames: Float[Tensor, "B T N 3 H W"], scale: Tensor | float = 1.0, precision: str = "fp32"
) -> Float[Tensor, "B S 4 4"]:
    """Points of the ego frame now in the ego frame at each neighbour (metres), from image pairs in temporal order.

    frames: RGB 0-1; now, before, after. scale: learnt factor on the translations.
    """
    earlier = torch.cat([frames[:, 1], frames[:, 0]])  # (before, now), (now, after)
    later = torch.cat([frames[:, 0], frames[:, 2]])
    with network_precision(earlier.device, precision):
        motion = pose_net(earlier, later)
    motion = EgoMotion(motion.axis_angle.float(), motion.translation.float() * scale)
    T_later_earlier = motion.T_later_earlier()
    before, after = T_later_earlier.chunk(2)
    return torch.stack([transforms.invert(before), after], dim=1)


def motion_to(
    pose_net: PoseNet, now: Float[Tensor, "B N 3 H W"], then: Float[Tensor, "B N 3 H W"], offset: int
) -> Float[Tensor, "B 4 4"]:
    """Points of the ego frame now in the ego frame at one neighbour; offset: below 0 where that is before."""
    if offset > 0:
        return pose_net(now, then).T_later_earlier()
    return transforms.invert(pose_net(then, now).T_later_earlier())


def neighbour_motions(
    T_target_now: Float[Tensor, "S 4 4"], T_ego_cam: Float[Tensor, "N 4 4"]
) -> Float[Tensor, "S N 4 4"]:
    """T_other_cam: points of each camera now in that camera at each neighbouring moment."""
    return torch.stack([camera_motions(T, T_ego_cam) for T in T_target_now])


def place_cameras(
    cameras: Cameras, lags: Float[Tensor, " N"], T_target_now: Float[Tensor, "S 4 4"], factor: Tensor | float = 1.0
) -> Cameras:
    """The cameras in the ego frame of the anchor's image time: cameras of a set fire one after another.

    lags: as in `Batch`; factor: on the length of the motion.
    """
    towards = T_target_now[(lags > 0).long()].clone()  # OFFSETS: before, after
    towards[:, :3, 3] *= factor
    T_then_now = transforms.take_share(towards, lags.abs())
    return replace(cameras, T_ego_cam=transforms.invert(T_then_now) @ cameras.T_ego_cam)
