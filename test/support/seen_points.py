# SPDX-License-Identifier: Apache-2.0
"""What a rig sees of points in space while it drives a curve: matches as the doctor finds them, without images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from support.robot_bags import looking

from gaussianocc_core.geometry.transforms import invert_matrix, make_transform
from gaussianocc_core.onboarding.doctor.cross import CrossMatches
from gaussianocc_core.onboarding.doctor.rotations import exp_rotation, see_motion
from gaussianocc_core.onboarding.doctor.temporal import Step
from gaussianocc_core.types import Cameras

NAMES = ("front", "left", "right", "back")
_YAWS = (0.0, 60.0, -60.0, 180.0)
_HALF = np.tan(np.radians(50.0))  # of what a camera sees
_NOISE = np.radians(0.03)


@dataclass
class Drive:
    """Four cameras; the yaw rate swings, so that turns can be told apart in time."""

    moments: int = 12
    step_s: float = 0.3
    seed: int = 0
    points: np.ndarray = field(init=False)
    T_ego_cam: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        flat = self.random.uniform(-40, 60, (6000, 2))
        self.points = np.column_stack([flat, self.random.uniform(0.0, 6.0, 6000)])
        self.points[:3000, 2] = 0.0  # the ground
        self.T_ego_cam = np.stack(
            [looking(yaw, (0.8 * np.cos(np.radians(yaw)), 0.5 * np.sin(np.radians(yaw)), 1.5)) for yaw in _YAWS]
        )

    @property
    def cameras(self) -> Cameras:
        K = torch.tensor([[200.0, 0, 240], [0, 200, 160], [0, 0, 1]]).expand(4, 3, 3).clone()
        return Cameras(NAMES, K, torch.from_numpy(self.T_ego_cam), (480,) * 4, (320,) * 4)

    def pose(self, stamp_ns: int) -> np.ndarray:
        t = stamp_ns * 1e-9
        yaw = 0.25 * np.sin(1.7 * t) + 0.05 * np.sin(5.1 * t)
        return make_transform(exp_rotation(np.array([0.0, 0.0, yaw])), np.array([4.0 * t, 0.6 * np.sin(0.9 * t), 0.0]))

    def stamps(self, moment: int) -> tuple[int, int]:
        now = round((1.0 + 0.65 * moment) * 1e9)
        return now, now + round(self.step_s * 1e9)

    def rays(self, camera: int, stamp_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Which points it sees, and in which directions."""
        T = invert_matrix(self.pose(stamp_ns) @ self.T_ego_cam[camera])
        local = self.points @ T[:3, :3].T + T[:3, 3]
        distance = np.linalg.norm(local, axis=1)
        flat = np.abs(local[:, :2]).max(axis=1)
        seen = np.flatnonzero((local[:, 2] > 0.5) & (flat < _HALF * local[:, 2]) & (distance < 25))
        rays = local[seen] / distance[seen, None]
        rays = rays + self.random.normal(0, _NOISE, rays.shape)
        return seen, rays / np.linalg.norm(rays, axis=1, keepdims=True)

    def steps(self, change=lambda camera, rays: rays) -> list[Step]:
        found = []
        for moment in range(self.moments):
            for camera in range(4):
                now, later = self.stamps(moment)
                (first, a), (second, b) = self.rays(camera, now), self.rays(camera, later)
                _, i, j = np.intersect1d(first, second, return_indices=True)
                a, b = change(camera, a[i]), change(camera, b[j])
                seen = see_motion(a, b, np.radians(0.1))
                if seen is not None:
                    kept = seen.inliers
                    found.append(
                        Step(camera, (now, later), seen, (a[kept], b[kept]), (first[i][kept], second[j][kept]), moment)
                    )
        return found

    def cross(self, change=lambda camera, rays: rays, mirrored: Sequence[int] = ()) -> list[CrossMatches]:
        """Pairs of which just one is a mirror image are matched as such."""
        found = []
        for i in range(4):
            for j in range(i + 1, 4):
                parts = []
                for moment in range(self.moments):
                    now = self.stamps(moment)[0]
                    (first, a), (second, b) = self.rays(i, now), self.rays(j, now)
                    _, m, n = np.intersect1d(first, second, return_indices=True)
                    indices = np.stack([first[m], first[m]], axis=1)
                    count = len(m)
                    parts.append(
                        (
                            change(i, a[m]),
                            change(j, b[n]),
                            np.tile(np.eye(4), (count, 1, 1)),
                            np.full(count, moment),
                            indices,
                        )
                    )
                columns = [np.concatenate(each) for each in zip(*parts, strict=True)]
                found.append(CrossMatches((i, j), *columns, mirrored=(i in mirrored) != (j in mirrored)))
        return found
