# SPDX-License-Identifier: Apache-2.0
"""Where the rig was at every set: by the recording's odometry, or learnt from its images."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry.transforms import interpolate, invert_matrix
from gaussianocc_core.mapping.sets import PlacedSet, SeenSet
from gaussianocc_core.models.depth_net import DepthNet
from gaussianocc_core.models.ego_motion import VisualOdometry
from gaussianocc_core.models.image_encoder import Look
from gaussianocc_core.models.matching import plane_inv_depths
from gaussianocc_core.models.matching_net import MatchingHead
from gaussianocc_core.models.view_ring import ViewRing

RECORDED, IMAGES, AUTO = "recorded", "images", "auto"
_TOP_SPEED = 60.0  # m/s; faster is a jump of odometry, not a motion
_SLACK = 0.05  # m
_LONGEST_GAP = 2.0  # s between two sets, after which a run of sets ends


@runtime_checkable
class Motion(Protocol):
    """Sets in time order -> where they were."""

    def place(self, seen: SeenSet, look: Look) -> PlacedSet | None:
        """None: the motion is not known, and the set cannot be used."""
        ...


class RecordedMotion:
    """Poses of the recording. After a jump, or a pause, another run of sets begins."""

    def __init__(self) -> None:
        self._run, self._last = 0, None  # type: tuple[int, PlacedSet | None]

    def place(self, seen: SeenSet, look: Look) -> PlacedSet | None:
        T, at = seen.T_world_ego, seen.T_world_ego_per_camera
        if T is None or at is None or not np.isfinite(T).all() or not np.isfinite(at).all():
            self._last = None
            self._run += 1
            return None
        if self._last is not None:
            time = seen.stamp_s - self._last.seen.stamp_s
            way = float(np.linalg.norm(T[:3, 3] - self._last.T_world_ego[:3, 3]))
            if not 0 < time <= _LONGEST_GAP or way > _TOP_SPEED * time + _SLACK:
                self._run += 1
        placed = camera_geometry.relocate(seen.calibrated, torch.from_numpy(at), torch.from_numpy(T))
        self._last = PlacedSet(seen, seen.lenses.views(placed.T_ego_cam), T, self._run)
        return self._last


class LearntMotion:
    """By `VisualOdometry`, with depth matched with the sets before, as on the robot."""

    def __init__(self, depth_net: DepthNet, width: int, height: int) -> None:
        """depth_net: one that matches; width, height: px of its images."""
        head = depth_net.head
        assert isinstance(head, MatchingHead)
        self.depth_net, self.width, self.height = depth_net, width, height
        self.odometry = VisualOdometry()
        self.ring = ViewRing(width, height, plane_inv_depths(head.config, head.far))
        self.lost = 0  # sets whose motion from the one before is not known
        self._run = 0
        self._step: tuple[Float[np.ndarray, "4 4"], float] | None = None  # ego frame after the last step in the one
        # before, m, and the time that it took, s

    @torch.inference_mode()
    def place(self, seen: SeenSet, look: Look) -> PlacedSet | None:
        assert look.features is not None
        before = self._newest
        cameras = self._placed(seen)
        moved = self.odometry.track(seen.pixels, cameras, seen.valid, seen.stamp_s)
        T_world_ego = moved.T_odom_ego
        if moved.first or moved.lost:
            self.lost += bool(moved.lost)
            self._run += 1
            self._step = None
            self.ring.reset()
        elif before is not None:
            self._step = invert_matrix(before[0]) @ T_world_ego, seen.stamp_s - before[1]
            cameras = self._placed(seen)
        self._newest = T_world_ego, seen.stamp_s
        views = self.ring.views(look.features, cameras, T_world_ego, seen.stamp_s)
        self.ring.add(look.features, cameras, T_world_ego, seen.stamp_s)
        found = self.depth_net.match(
            look, views.sources, cameras.intrinsics, cameras.T_ego_cam, self.width, self.height
        )
        self.odometry.learn_depth(found.inv_depth.numpy(), found.log_error.numpy())
        return PlacedSet(seen, cameras, T_world_ego, self._run)

    _newest: tuple[Float[np.ndarray, "4 4"], float] | None = None

    def _placed(self, seen: SeenSet):
        """The cameras at their own image times, by the last step's velocity."""
        T_ego_cam = seen.calibrated.T_ego_cam.double().numpy()
        if self._step is not None:
            T_before_now, time = self._step
            # Of the motion between two sets, so much as the camera is late; it goes on as it came.
            T_now_late = np.stack([interpolate(np.eye(4), T_before_now, lag / time) for lag in seen.lags])
            T_ego_cam = T_now_late @ T_ego_cam
        return seen.lenses.views(torch.from_numpy(T_ego_cam))


__all__ = ["AUTO", "IMAGES", "RECORDED", "LearntMotion", "Motion", "RecordedMotion"]
