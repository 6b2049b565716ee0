# SPDX-License-Identifier: Apache-2.0
"""How each camera moved by its own images, and by odometry; and how late the one is against the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gaussianocc_core.geometry.transforms import invert_matrix
from gaussianocc_core.onboarding.doctor.features import match
from gaussianocc_core.onboarding.doctor.rotations import SeenMotion, log_rotation, see_motion
from gaussianocc_core.onboarding.doctor.sampling import Sampled
from gaussianocc_core.types import Cameras

PoseAt = Callable[[int], Float[np.ndarray, "4 4"] | None]  # stamp in ns -> T_world_ego

LEAST_PAIRS = 3  # of moments, to say anything of a camera
_DELAYS_S = np.arange(-0.6, 0.601, 0.02)


@dataclass(frozen=True)
class Step:
    """One camera from a moment to a little later."""

    camera: int
    stamps_ns: tuple[int, int]
    seen: SeenMotion
    rays: tuple[Float[np.ndarray, "M 3"], Float[np.ndarray, "M 3"]]  # of the matches that agree, camera frame
    chosen: tuple[np.ndarray, np.ndarray]  # their places among the features of both images
    moment: int


def find_steps(sampled: Sampled) -> list[Step]:
    """Of every camera and moment whose images say how it moved."""
    found = []
    for k, cylinder in enumerate(sampled.cylinders):
        for n, moment in enumerate(sampled.moments):
            if not moment.later:
                continue
            now, later = moment.now[k], moment.later[k]
            pairs = match(now.features, later.features)
            a, b = now.features.rays[pairs[:, 0]], later.features.rays[pairs[:, 1]]
            seen = see_motion(a, b, 1.0 / cylinder.scale)
            if seen is None:
                continue
            kept = seen.inliers
            found.append(
                Step(
                    k,
                    (now.stamp_ns, later.stamp_ns),
                    seen,
                    (a[kept], b[kept]),
                    (pairs[kept, 0], pairs[kept, 1]),
                    n,
                )
            )
    return found


@dataclass(frozen=True)
class Said:
    """What odometry and calibration say of a step, in the camera's frame."""

    turn: Float[np.ndarray, " 3"]  # rad
    move: Float[np.ndarray, " 3"]  # m


def say(step: Step, cameras: Cameras, pose_at: PoseAt, delay_s: float = 0.0) -> Said | None:
    """None where odometry has no pose. delay_s: that its stamps are late by."""
    late = round(delay_s * 1e9)
    now, later = (pose_at(stamp + late) for stamp in step.stamps_ns)
    if now is None or later is None:
        return None
    X = cameras.T_ego_cam[step.camera].detach().cpu().double().numpy()
    T = invert_matrix(now @ X) @ (later @ X)
    return Said(log_rotation(T[:3, :3]), T[:3, 3])


# ---- the odometry itself -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Delay:
    """How late the stamps of odometry are against those of images."""

    seconds: float  # positive: the pose of an image's moment is found at a later stamp
    error: float  # s, jackknife over the moments
    cost: float  # rad, mean distance between turns seen and said, at that delay
    cost_now: float  # rad, without one
    steps: int


def estimate_delay(steps: Sequence[Step], cameras: Cameras, pose_at: PoseAt, only: int | None = None) -> Delay | None:
    """From how turns, jolts included, follow each other in time; None where too little changes to say.

    only: of one camera.
    """
    chosen = [step for step in steps if only in (None, step.camera)]
    for delays in (_DELAYS_S, _DELAYS_S[np.abs(_DELAYS_S) < 0.31]):  # the ends of a short recording have fewer poses
        found = _try_delays(chosen, cameras, pose_at, delays)
        if found is not None:
            return found
    return None


def _try_delays(steps: Sequence[Step], cameras: Cameras, pose_at: PoseAt, delays: np.ndarray) -> Delay | None:
    rows, stamps = [], []
    for step in steps:
        told = [say(step, cameras, pose_at, delay) for delay in delays]
        if any(each is None for each in told):
            continue
        rows.append([np.linalg.norm(step.seen.turn - each.turn) for each in told if each is not None])
        stamps.append(step.moment)
    if len(set(stamps)) < LEAST_PAIRS:
        return None
    costs, groups = np.array(rows), np.array(stamps)
    costs = np.minimum(costs, 4.0 * np.median(costs.min(axis=1)) + np.radians(0.5))
    best, least = _lowest(costs.mean(axis=0), delays)
    others = np.array([_lowest(costs[groups != each].mean(axis=0), delays)[0] for each in np.unique(groups)])
    count = len(others)
    error = float(np.sqrt(((others - others.mean()) ** 2).sum() * (count - 1) / count))
    return Delay(best, error, least, float(costs.mean(axis=0)[len(delays) // 2]), len(rows))


def _lowest(costs: np.ndarray, delays: np.ndarray) -> tuple[float, float]:
    k = int(costs.argmin())
    if not 0 < k < len(costs) - 1:
        return float(delays[k]), float(costs[k])
    below, at, above = costs[k - 1 : k + 2]
    bend = below - 2 * at + above
    move = float(np.clip(0.5 * (below - above) / bend, -0.5, 0.5)) if bend > 0 else 0.0
    return float(delays[k] + move * (delays[1] - delays[0])), float(at)
