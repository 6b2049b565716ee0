# SPDX-License-Identifier: Apache-2.0
"""What two cameras see of the same at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from gaussianocc_core.geometry.transforms import invert_matrix
from gaussianocc_core.onboarding.doctor.features import match
from gaussianocc_core.onboarding.doctor.rotations import epipolar_angles, inverse_depths
from gaussianocc_core.onboarding.doctor.sampling import Sampled

_NEAREST = 0.7  # m; what both cameras see is farther away
_SLACK = np.radians(2.0)
_BESIDE = np.radians(0.6)  # of the epipolar plane


@dataclass(frozen=True)
class CrossMatches:
    """Of two cameras, all moments together."""

    cameras: tuple[int, int]
    a: Float[np.ndarray, "M 3"]  # unit vectors, each in its camera's frame
    b: Float[np.ndarray, "M 3"]
    T_ego: Float[np.ndarray, "M 4 4"]  # motion of the robot between both images: points at the second's time -> first's
    moments: Int64[np.ndarray, " M"]
    indices: Int64[np.ndarray, "M 2"]  # among the features of both images
    mirrored: bool  # whether the second image was taken as a mirror image

    def __len__(self) -> int:
        return len(self.a)


def find_cross(sampled: Sampled, poses: bool, mirrored: bool = False) -> list[CrossMatches]:
    """Of every two cameras, whatever calibration says of what they see. poses: take out the robot's motion between the
    times of their images, by odometry."""
    found = []
    count = len(sampled.cameras)
    flipped = [[shot.features.mirrored() for shot in m.now] for m in sampled.moments] if mirrored else []
    for i in range(count):
        for j in range(i + 1, count):
            parts = []
            for n, moment in enumerate(sampled.moments):
                a, b = moment.now[i], moment.now[j]
                of_b = flipped[n][j] if mirrored else b.features
                pairs = match(a.features, of_b)
                T = np.eye(4)
                if poses and a.T_world_ego is not None and b.T_world_ego is not None:
                    T = invert_matrix(a.T_world_ego) @ b.T_world_ego
                size = len(pairs)
                parts.append(
                    (
                        a.features.rays[pairs[:, 0]],
                        of_b.rays[pairs[:, 1]],
                        np.broadcast_to(T, (size, 4, 4)),
                        np.full(size, n),
                        pairs,
                    )
                )
            if parts:
                a_rays, b_rays, T_ego, moments, indices = (np.concatenate(each) for each in zip(*parts, strict=True))
                found.append(CrossMatches((i, j), a_rays, b_rays, T_ego, moments, indices, mirrored))
    return found


@dataclass(frozen=True)
class InEgo:
    """Matches as a calibration places them, in the ego frame at the first image's time."""

    a: Float[np.ndarray, "M 3"]  # unit vectors
    b: Float[np.ndarray, "M 3"]
    t: Float[np.ndarray, "M 3"]  # from the first camera's place to the second's, m

    @property
    def off(self) -> Float[np.ndarray, " M"]:
        """Epipolar error, rad, signed."""
        return epipolar_angles(self.a, self.b, self.t)

    @property
    def consistent(self) -> Bool[np.ndarray, " M"]:
        """Which may be the same thing seen by both."""
        return self.agree(_BESIDE)

    def agree(self, slack: float) -> Bool[np.ndarray, " M"]:
        """Which may be the same thing, if rotations are right to about `slack` (rad)."""
        gap = 2.0 * np.arcsin(np.clip(0.5 * np.linalg.norm(self.a - self.b, axis=1), 0, 1))
        baseline = np.linalg.norm(self.t, axis=1)
        if not len(self.a) or baseline.max() < 0.01:
            return gap < slack
        near = gap < _SLACK + slack + np.arctan(baseline / _NEAREST)
        _, along = inverse_depths(self.a, self.b, self.t)
        return near & (np.abs(self.off) < slack) & (along > -slack)


def in_ego(
    matches: CrossMatches,
    T_ego_a: Float[np.ndarray, "4 4"],
    T_ego_b: Float[np.ndarray, "4 4"],
    rays: tuple[np.ndarray, np.ndarray] | None = None,
) -> InEgo:
    """rays: in place of the matches' own, as another reading of the images has them."""
    a, b = rays if rays is not None else (matches.a, matches.b)
    R = matches.T_ego[:, :3, :3]
    place_b = np.einsum("mij,j->mi", R, T_ego_b[:3, 3]) + matches.T_ego[:, :3, 3]
    return InEgo(a @ T_ego_a[:3, :3].T, np.einsum("mij,mj->mi", R, b @ T_ego_b[:3, :3].T), place_b - T_ego_a[:3, 3])


def merge(plain: Sequence[CrossMatches], mirrored: Sequence[CrossMatches]) -> dict[tuple[int, int, bool], CrossMatches]:
    return {(*each.cameras, each.mirrored): each for each in (*plain, *mirrored)}
