# SPDX-License-Identifier: Apache-2.0
"""Large faults, told apart: each is a reading of the images or the odometry, and the one that explains most is named.

Evidence is what two cameras see of the same, and how the turns and directions of each camera's motion fit odometry.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from gaussianocc_core.geometry.transforms import invert_matrix
from gaussianocc_core.onboarding.doctor.cross import CrossMatches, in_ego
from gaussianocc_core.onboarding.doctor.rotations import exp_rotation, log_rotation
from gaussianocc_core.onboarding.doctor.temporal import PoseAt, Step
from gaussianocc_core.types import Cameras

_BODY_OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # axes of an optical frame in those of its body
_ROLL = {degrees: exp_rotation(np.array([0, 0, np.radians(degrees)])) for degrees in (90, 180, 270)}
_FACTORS = (0.4, 0.5, 0.625, 0.75, 0.87, 1.15, 1.33, 1.6, 2.0, 2.5)
_LEAST_MOVE = 0.05  # m
_LEAST_PARALLAX = np.radians(0.12)  # median, or the direction of a motion is noise
_DIRECTION = np.radians(2.5)  # what directions and turns err by
_TURN, _OF_TURN = np.radians(0.08), 0.08
_MOST = 4.0  # that one step may weigh
_MATCH, _ENOUGH = 0.5, 300  # what a match between cameras weighs, and how many of two cameras count in full
_NEARLY = np.radians(2.5)
_ASIDE = np.radians(0.5)  # that a principal point off the middle turns directions by, to be tried
_LEAST_SLOPE_STEPS, _SLOPE_ERROR = 5, 0.08
# What a step may weigh, and the logarithm of the slope at which it does. Free: turns of a good camera that drives ahead
# were seen up to 15 % too small, as a turn and a motion aside look alike.
_SLOPE, _SLOPE_OFF, _SLOPE_FREE = 2.0, 0.3, 0.17
_GAIN, _GAIN_SHARE = 10.0, 0.2  # that a reading must explain more


@dataclass(frozen=True)
class CameraReading:
    """What one camera's images may be, other than its calibration says."""

    fault: str = ""
    fix: str = ""
    Q: Float[np.ndarray, "3 3"] = field(
        default_factory=lambda: np.eye(3)
    )  # direction as seen -> as calibration means it
    factor: float = 1.0  # calibrated over true focal length
    calibration: int = -1  # whose it has; -1: its own

    @property
    def mirrored(self) -> bool:
        return bool(np.linalg.det(self.Q) < 0)

    def rays(self, rays: Float[np.ndarray, "M 3"]) -> Float[np.ndarray, "M 3"]:
        if self.factor != 1.0:
            rays = rays * (self.factor, self.factor, 1.0)
            rays = rays / np.linalg.norm(rays, axis=1, keepdims=True)
        return rays @ self.Q.T


AS_IT_IS = CameraReading()
_SINGLE = (
    CameraReading("its images are upside down", "turn them by 180 degrees, or its frame by roll 180", _ROLL[180]),
    CameraReading(
        "its images are rotated by 90 degrees (clockwise by calibration)",
        "rotate its frame or images by 90 degrees",
        _ROLL[90],
    ),
    CameraReading(
        "its images are rotated by 90 degrees (counter-clockwise by calibration)",
        "rotate its frame or images by 90 degrees",
        _ROLL[270],
    ),
    CameraReading("its images are mirrored", "switch off the driver's horizontal flip", np.diag([-1.0, 1.0, 1.0])),
    CameraReading(
        "its images are flipped top to bottom", "switch off the driver's vertical flip", np.diag([1.0, -1.0, 1.0])
    ),
    CameraReading(
        "it looks the other way than its calibration says", "turn its frame by yaw 180", np.diag([-1.0, 1.0, -1.0])
    ),
    CameraReading(
        "its frame has the axes of a body (x forward), not of an image",
        "name the optical frame, or publish one, turned by roll -90, pitch 0, yaw -90 degrees",
        _BODY_OPTICAL,
    ),
    CameraReading(
        "its frame was turned from body to optical axes twice", "take one of the two rotations out", _BODY_OPTICAL.T
    ),
    *(
        CameraReading(
            f"its focal length is about {factor:g} times the true one",
            "calibrate it at the size of these images",
            factor=factor,
        )
        for factor in _FACTORS
    ),
)

_ABOUT_Z = {90: exp_rotation(np.array([0, 0, np.pi / 2])), -90: exp_rotation(np.array([0, 0, -np.pi / 2]))}


@dataclass(frozen=True)
class OdometryReading:
    """What odometry may say in place of the motion."""

    fault: str = ""
    fix: str = ""
    move: Float[np.ndarray, "3 3"] = field(default_factory=lambda: np.eye(3))  # ego frame: as it is said -> as it is
    turn: Float[np.ndarray, "3 3"] = field(default_factory=lambda: np.eye(3))


_ODOMETRY = (
    OdometryReading(
        "its sign is wrong: it says where the world went",
        "swap parent and child frame, or invert its transform",
        -np.eye(3),
        -np.eye(3),
    ),
    OdometryReading(
        "the sign of its positions is wrong: it drives backwards", "change the sign of x and y", -np.eye(3)
    ),
    OdometryReading("the sign of its rotation is wrong", "change the sign of yaw", turn=np.diag([1.0, 1.0, -1.0])),
    OdometryReading(
        "its x axis points to the right of where the robot drives",
        "turn its child frame by yaw 90",
        _ABOUT_Z[-90],
        _ABOUT_Z[-90],
    ),
    OdometryReading(
        "its x axis points to the left of where the robot drives",
        "turn its child frame by yaw -90",
        _ABOUT_Z[90],
        _ABOUT_Z[90],
    ),
    OdometryReading(
        "it has the axes of a camera (z forward), not of a robot (x forward)",
        "give it in the axes of REP 103",
        _BODY_OPTICAL,
        _BODY_OPTICAL,
    ),
)


@dataclass(frozen=True)
class Reading:
    """Of a whole recording."""

    cameras: tuple[CameraReading, ...]
    odometry: OdometryReading = OdometryReading()


@dataclass(frozen=True)
class Evidence:
    """What readings are judged by."""

    cameras: Cameras
    steps: Sequence[Step]
    said: Sequence[np.ndarray | None]  # per step: T of the ego frame, later -> now, or None
    cross: dict[tuple[int, int, bool], CrossMatches]
    T_ego_cam: Float[np.ndarray, "N 4 4"]
    # What was computed, by the objects that it is of, which it keeps: readings differ in one camera from each other.
    known: dict[tuple[int, ...], tuple[float, tuple[object, ...]]] = field(default_factory=dict, repr=False)

    @classmethod
    def gather(
        cls,
        cameras: Cameras,
        steps: Sequence[Step],
        cross: dict[tuple[int, int, bool], CrossMatches],
        pose_at: PoseAt | None,
    ) -> Evidence:
        said: list[np.ndarray | None] = []
        for step in steps:
            now, later = (pose_at(stamp) if pose_at else None for stamp in step.stamps_ns)
            said.append(None if now is None or later is None else invert_matrix(now) @ later)
        return cls(cameras, steps, said, cross, cameras.T_ego_cam.detach().cpu().double().numpy())

    def singles(self, camera: int) -> list[CameraReading]:
        """What may be wrong with one camera. An image that was turned or mirrored has its principal point elsewhere:
        off the middle on the other side, and by twice as much as directions are then off."""
        K = self.cameras.intrinsics[camera].detach().cpu().double().numpy()
        size = np.array([self.cameras.width[camera], self.cameras.height[camera]], dtype=np.float64)
        aside = (size - 2 * K[:2, 2]) / np.diag(K)[:2]
        found = list(_SINGLE)
        for single in _SINGLE:
            flips = np.diag(single.Q)[:2] < 0
            if single.factor == 1.0 and abs(single.Q[2, 2] - 1.0) < 1e-9 and flips.any():
                x, y = np.where(flips, aside, 0.0)
                if np.hypot(x, y) > _ASIDE:
                    found.append(replace(single, Q=exp_rotation(np.array([-y, x, 0.0])) @ single.Q))
        return found

    def place(self, camera: int, reading: CameraReading) -> np.ndarray:
        return self.T_ego_cam[camera if reading.calibration < 0 else reading.calibration]

    def score_steps(self, reading: Reading, camera: int) -> float:
        """How much odometry and the images of a camera disagree, over all its steps."""
        of = reading.cameras[camera]
        key = (-1, camera, id(of), id(reading.odometry))
        if key not in self.known:
            self.known[key] = self._score_steps(reading, camera), (of, reading.odometry)
        return self.known[key][0]

    def _score_steps(self, reading: Reading, camera: int) -> float:
        total = 0.0
        seen_turns, said_turns = [], []
        of = reading.cameras[camera]
        X = self.place(camera, of)
        sign = np.linalg.det(of.Q)
        for step, T_ego in zip(self.steps, self.said, strict=True):
            if step.camera != camera or T_ego is None:
                continue
            turn_ego = reading.odometry.turn @ log_rotation(T_ego[:3, :3])
            move_ego = reading.odometry.move @ T_ego[:3, 3]
            move_ego = move_ego + exp_rotation(turn_ego) @ X[:3, 3] - X[:3, 3]  # of the camera, not of the frame
            R = X[:3, :3] @ of.Q
            turn, move = sign * R.T @ turn_ego, R.T @ move_ego
            seen = step.seen.turn / (1.0 if of.factor == 1.0 else 1.0 / of.factor)
            seen_turns.append(seen[:2])
            said_turns.append(turn[:2])
            size = float(np.linalg.norm(turn))
            off = np.linalg.norm(seen - turn) / (_TURN + _OF_TURN * size)
            cost = min(float(np.log1p(off**2)), _MOST)
            length = float(np.linalg.norm(move))
            if step.seen.ahead is not None and length > _LEAST_MOVE and step.seen.parallax > _LEAST_PARALLAX:
                ahead = step.seen.ahead * (of.factor, of.factor, 1.0)
                ahead = ahead / np.linalg.norm(ahead)
                angle = np.arccos(np.clip(ahead @ move / length, -1, 1)) / _DIRECTION
                cost += min(float(np.log1p(angle**2)), _MOST)
            total += cost
        return total + _slope_cost(np.array(seen_turns), np.array(said_turns))

    def consistent(self, reading: Reading, i: int, j: int) -> float:
        """Matches of two cameras that may be the same thing; half counts what only nearly fits, as a principal point
        off the middle makes it that of an image that was turned."""
        a, b = reading.cameras[i], reading.cameras[j]
        key = (i, j, id(a), id(b))
        if key not in self.known:
            self.known[key] = self._consistent(i, j, a, b), (a, b)
        return self.known[key][0]

    def _consistent(self, i: int, j: int, a: CameraReading, b: CameraReading) -> float:
        matches = self.cross.get((i, j, a.mirrored != b.mirrored))
        if matches is None or not len(matches):
            return 0.0
        placed = in_ego(matches, self.place(i, a), self.place(j, b), (a.rays(matches.a), b.rays(matches.b)))
        return 0.5 * float(placed.consistent.sum() + placed.agree(_NEARLY).sum()) * min(1.0, _ENOUGH / len(matches))

    def score(self, reading: Reading) -> float:
        """Higher is better."""
        count = len(self.cameras)
        steps = -sum(self.score_steps(reading, k) for k in range(count))
        return steps + _MATCH * sum(self.consistent(reading, i, j) for i in range(count) for j in range(i + 1, count))


def _slope_cost(seen: np.ndarray, said: np.ndarray) -> float:
    """Of turns (rad, about the image's axes) that are all seen too large or too small, as a wrong focal length makes
    them: small turns say it together, though not one by one."""
    if len(seen) < _LEAST_SLOPE_STEPS:
        return 0.0
    sizes = float((said**2).sum())
    slope = float((seen * said).sum()) / max(sizes, 1e-12)
    error = float(np.linalg.norm(seen - slope * said, axis=1).std()) / max(np.sqrt(sizes), 1e-9)
    if slope <= 0.1 or error > _SLOPE_ERROR * slope:
        return 0.0
    return _SLOPE * len(seen) * min(1.0, (max(abs(np.log(slope)) - _SLOPE_FREE, 0.0) / _SLOPE_OFF) ** 2)


def find_reading(evidence: Evidence) -> tuple[Reading, float]:
    """The reading that explains the images best, and by how much more than the recording as it is. One fault after the
    other is taken in as long as it explains clearly more."""
    count = len(evidence.cameras)
    now = Reading((AS_IT_IS,) * count)
    score = begin = evidence.score(now)
    scale = _scale(evidence, now)
    singles = [evidence.singles(k) for k in range(count)]
    for _ in range(count):
        best, least = None, max(_GAIN, _GAIN_SHARE * scale)
        for candidate in _candidates(now, singles):
            gain = evidence.score(candidate) - score
            gain -= 0.02 * scale * _changed(candidate, now)  # of two that explain the same the simpler one
            if gain > least:
                best, least = candidate, gain
        if best is None:
            break
        now, score = best, evidence.score(best)
    if now.odometry.fault:
        # Cameras were also compared by the robot's motion between their images: what is small is looked for later.
        now = replace(now, cameras=tuple(AS_IT_IS if each.factor != 1.0 else each for each in now.cameras))
    return now, score - begin


def _scale(evidence: Evidence, now: Reading) -> float:
    """About what a camera that fits explains."""
    count = len(evidence.cameras)
    shared = sum(evidence.consistent(now, i, j) for i in range(count) for j in range(i + 1, count))
    return (len(evidence.steps) * _MOST + 2 * _MATCH * shared) / max(count, 1)


def _changed(a: Reading, b: Reading) -> int:
    return sum(x is not y for x, y in zip(a.cameras, b.cameras, strict=True))


def _candidates(now: Reading, singles: Sequence[Sequence[CameraReading]]) -> Iterator[Reading]:
    count = len(singles)
    for k in range(count):
        if now.cameras[k] is AS_IT_IS:
            for single in singles[k]:
                yield replace(now, cameras=tuple(single if i == k else each for i, each in enumerate(now.cameras)))
    if all(each is AS_IT_IS for each in now.cameras):
        for single in _SINGLE:
            if count > 1:
                yield replace(now, cameras=(single,) * count)
    for i in range(count):
        for j in range(i + 1, count):
            if now.cameras[i] is AS_IT_IS and now.cameras[j] is AS_IT_IS:
                swapped = list(now.cameras)
                swapped[i] = CameraReading(calibration=j)
                swapped[j] = CameraReading(calibration=i)
                yield replace(now, cameras=tuple(swapped))
    if not now.odometry.fault:
        for each in _ODOMETRY:
            yield replace(now, odometry=each)
