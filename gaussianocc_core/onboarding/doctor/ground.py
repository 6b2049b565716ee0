# SPDX-License-Identifier: Apache-2.0
"""The ground as a camera's own motion shows it: how high it stands over it, how it is tilted, how long odometry is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gaussianocc_core.geometry.transforms import invert_matrix
from gaussianocc_core.onboarding.doctor.cross import CrossMatches, in_ego
from gaussianocc_core.onboarding.doctor.rotations import epipolar_angles, inverse_depths
from gaussianocc_core.onboarding.doctor.temporal import PoseAt, Step
from gaussianocc_core.types import Cameras

_LEAST_ANGLE = np.radians(0.35)  # between both directions to a point
_BESIDE = np.radians(0.25)  # of the epipolar plane
_BELOW = np.sin(np.radians(4.0))  # of the horizon
_FARTHEST = 12.0  # times the camera's height by TF, or by the images where TF is nonsense
_STEEPEST = np.cos(np.radians(15.0))
_THICK = 0.06  # of the camera's height, on either side of the ground
_LEAST_POINTS, _LEAST_SHARE = 40, 0.3
_TRIES = 400
_CLEAR = 0.6  # share of the points below the horizon that lie in a ground that is believed
_SAME_HEIGHT, _SAME_TILT = np.log(1.15), np.radians(3.0)  # to TF; a wheel's radius and a laden car are within
_LEAST_PAIRS = 30  # of matches between cameras whose distance is also known over time


@dataclass(frozen=True)
class Ground:
    """Of one camera."""

    camera: int
    height: float  # m, of the camera over the ground, by the length of odometry
    by_tf: float  # m, over the ego frame's origin
    tilt: Float[np.ndarray, " 2"]  # rad, roll and pitch of the ground in the ego frame
    tilt_error: float  # rad
    points: int
    share: float  # of the points below the horizon that lie in it


@dataclass(frozen=True)
class GroundOpinion:
    """Whether z = 0 of the ego frame is the ground that cameras see, at the length of odometry."""

    agrees: bool
    text: str  # which camera said it, with its figures


def judge_grounds(names: Sequence[str], grounds: Sequence[Ground]) -> GroundOpinion | None:
    """None where no camera sees enough of it. All that see it must agree with TF in height and tilt."""
    clear = [ground for ground in grounds if ground.share > _CLEAR and ground.by_tf > 0.1]
    if not clear:
        return None

    def off(ground: Ground) -> float:
        height = abs(np.log(ground.height / ground.by_tf)) / _SAME_HEIGHT
        return float(max(height, np.abs(ground.tilt).max() / _SAME_TILT))

    worst = max(clear, key=off)
    agrees = off(worst) < 1.0
    texts = [
        f"{names[each.camera]} {each.height:.2f} m over it ({each.by_tf:.2f} m by TF), tilted by "
        f"{np.degrees(np.abs(each.tilt).max()):.1f} degrees"
        for each in (clear if agrees else [worst])
    ]
    return GroundOpinion(agrees, "; ".join(texts))


def find_grounds(steps: Sequence[Step], cameras: Cameras, pose_at: PoseAt) -> tuple[Ground, ...]:
    """Of every camera that sees enough of it while it moves."""
    X = cameras.T_ego_cam.detach().cpu().double().numpy()
    found = []
    for k in range(len(cameras)):
        points, groups = _points([step for step in steps if step.camera == k], X[k], pose_at)
        ground = _fit(points, groups, k, X[k])
        if ground is not None:
            found.append(ground)
    return tuple(found)


def _points(steps: Sequence[Step], X: np.ndarray, pose_at: PoseAt) -> tuple[np.ndarray, np.ndarray]:
    """Points from the camera's place, ego axes, of all moments together."""
    found, groups = [np.zeros((0, 3))], [np.zeros(0, int)]
    for step in steps:
        now, later = (pose_at(stamp) for stamp in step.stamps_ns)
        if now is None or later is None or step.seen.ahead is None:
            continue
        T = invert_matrix(now @ X) @ (later @ X)
        if np.linalg.norm(T[:3, 3]) < 0.05:
            continue
        a, b = step.rays[0], step.rays[1] @ T[:3, :3].T
        inverse, angle = inverse_depths(a, b, T[:3, 3])
        down = a @ X[:3, :3].T
        kept = (angle > _LEAST_ANGLE) & (np.abs(epipolar_angles(a, b, T[:3, 3])) < _BESIDE) & (down[:, 2] < -_BELOW)
        found.append(down[kept] / inverse[kept, None])
        groups.append(np.full(int(kept.sum()), step.moment))
    return np.concatenate(found), np.concatenate(groups)


def _fit(points: np.ndarray, groups: np.ndarray, camera: int, X: np.ndarray) -> Ground | None:
    if len(points) < _LEAST_POINTS:
        return None
    random = np.random.default_rng(camera)
    best, least = None, 0
    for _ in range(_TRIES):
        some = points[random.choice(len(points), 3, replace=False)]
        normal = np.cross(some[1] - some[0], some[2] - some[0])
        length = np.linalg.norm(normal)
        if length < 1e-9:
            continue
        normal *= np.sign(normal[2]) / length
        height = -float(normal @ some[0])
        if normal[2] < _STEEPEST or height <= 0:
            continue
        kept = _inside(points, normal, height)
        if kept.sum() > least:
            best, least = kept, int(kept.sum())
    if best is None or least < max(_LEAST_POINTS, _LEAST_SHARE * len(points)):
        return None
    kept = best
    for _ in range(5):
        normal, height = _plane(points[kept])
        kept = _inside(points, normal, height)
        if kept.sum() < _LEAST_POINTS:
            return None
    low = points @ normal < -height * (1 + 4 * _THICK)
    if low.mean() > 0.25 or normal[2] < _STEEPEST:  # what many points lie under is no ground
        return None
    others = [
        _plane(points[kept & (groups != each)])[0] for each in np.unique(groups) if (kept & (groups != each)).sum() > 10
    ]
    count = len(others)
    error = float(np.sqrt(((np.array(others) - normal) ** 2).sum() * (count - 1) / count)) if count > 2 else np.pi
    # z = 0 of the ego frame, if it is the ground, has the normal (0, 0, 1).
    tilt = np.array([np.arctan2(normal[1], normal[2]), -np.arctan2(normal[0], normal[2])])
    return Ground(camera, height, float(X[2, 3]), tilt, error, int(kept.sum()), float(kept.mean()))


def _inside(points: np.ndarray, normal: np.ndarray, height: float) -> np.ndarray:
    distance = np.linalg.norm(points, axis=1)
    thick = _THICK * height + 0.01 * distance
    return (np.abs(points @ normal + height) < thick) & (distance < _FARTHEST * height)


def _plane(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Normal (up) and the distance below the camera; near points count more, as they are known better."""
    w = 1.0 / (1.0 + np.linalg.norm(points, axis=1))
    middle = (points * w[:, None]).sum(axis=0) / w.sum()
    normal = np.linalg.svd((points - middle) * w[:, None], full_matrices=False)[2][2]
    normal = normal * (np.sign(normal[2]) or 1.0)
    return normal, -float(normal @ middle)


@dataclass(frozen=True)
class Length:
    """How long odometry is against the distances between cameras."""

    factor: float  # odometry over truth
    error: float  # of its logarithm
    matches: int


def compare_lengths(
    steps: Sequence[Step], cross: Sequence[CrossMatches], cameras: Cameras, pose_at: PoseAt
) -> Length | None:
    """By what two cameras see at one moment and one of them over time; None where there is too little of it."""
    X = cameras.T_ego_cam.detach().cpu().double().numpy()
    by_time: dict[tuple[int, int], dict[int, float]] = {}
    for step in steps:
        now, later = (pose_at(stamp) for stamp in step.stamps_ns)
        if now is None or later is None or step.seen.ahead is None:
            continue
        T = invert_matrix(now @ X[step.camera]) @ (later @ X[step.camera])
        inverse, angle = inverse_depths(step.rays[0], step.rays[1] @ T[:3, :3].T, T[:3, 3])
        known = angle > _LEAST_ANGLE
        by_time[step.camera, step.moment] = dict(
            zip(step.chosen[0][known].tolist(), inverse[known].tolist(), strict=True)
        )
    ratios, groups = [], []
    for matches in cross:
        i, j = matches.cameras
        if not len(matches):
            continue
        placed = in_ego(matches, X[i], X[j])
        inverse, angle = inverse_depths(placed.a, placed.b, placed.t)
        for row in np.flatnonzero(placed.consistent & (angle > _LEAST_ANGLE)):
            over_time = by_time.get((i, int(matches.moments[row])), {}).get(int(matches.indices[row, 0]))
            if over_time is not None and over_time > 0:
                ratios.append(np.log(inverse[row] / over_time))
                groups.append(int(matches.moments[row]))
    if len(ratios) < _LEAST_PAIRS or len(set(groups)) < 3:
        return None
    values, of = np.array(ratios), np.array(groups)
    middle = float(np.median(values))
    each = np.array([np.median(values[of == group]) for group in np.unique(of)])
    error = max(float(1.48 * np.median(np.abs(each - middle)) / np.sqrt(len(each))), 0.01)
    return Length(float(np.exp(middle)), error, len(values))
