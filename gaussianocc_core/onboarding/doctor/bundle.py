# SPDX-License-Identifier: Apache-2.0
"""Small errors of the cameras' rotations, all cameras at once: a bundle of relative rotations.

Each match gives one equation: over time the motion by odometry and between cameras their places say in which plane
both directions lie, and where time says how far away a thing is, also where in that plane. How long odometry is, is
unknown with them, or cameras would be turned inwards to make up for it. Without odometry cameras are
blamed as sparingly as possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from gaussianocc_core.geometry.transforms import invert_matrix
from gaussianocc_core.onboarding.doctor.cross import CrossMatches, in_ego
from gaussianocc_core.onboarding.doctor.rotations import cross as cross_product
from gaussianocc_core.onboarding.doctor.rotations import epipolar_angles, exp_rotation, inverse_depths, log_rotation
from gaussianocc_core.onboarding.doctor.temporal import PoseAt, Step
from gaussianocc_core.types import Cameras

_STEP_MATCHES = 120  # of a step, evenly chosen
_LEAST_MOVE = 0.05  # m
_NOISE_STEP = np.radians(0.15)  # epipolar error over time: features, and what odometry errs by
_NOISE_CROSS = np.radians(0.15)
_PRIOR = np.radians(2.0)  # of a camera's error without any match
_PRIOR_STRETCH = 0.7  # of the logarithm of odometry's length: else cameras would be turned to make it fit
_SMALL = np.radians(8.0)  # larger ones are not looked for here
_ROUNDS = 12
_CLEARLY = 0.97  # of the cost. A camera 3 degrees off made 0.988 of another length, odometry 1.3 times too long 0.9.
_TURN_SLACK = np.radians(0.5)
_DEPTH_SPREAD = 0.2  # by which a distance over time may err, as a share, on top of its noise
_NEAR, _LOOSE = (
    np.radians(0.6),
    np.radians(3.5),
)  # off their epipolar line, or parting by as much: weights leave out what does not belong
_FEW = 0.5  # of the matches that fit at last: those that nearly fit were chance, and those that tell lay farther off
LEAST_CROSS = 12  # matches of two cameras, to say anything by them


@dataclass(frozen=True)
class Small:
    """How far one camera's rotation is off."""

    turn: Float[np.ndarray, " 3"]  # rad, rotation vector in the ego frame by which to turn it
    error: Float[np.ndarray, " 3"]  # rad, of each component
    steps: int  # moments over time that say something
    matches: int  # with other cameras

    @property
    def size(self) -> float:
        return float(np.linalg.norm(self.turn))

    @property
    def sure(self) -> float:
        """Size in units of its error; turns about axes that nothing is known of do not count."""
        return float(np.sqrt(np.sum((self.turn / np.maximum(self.error, np.radians(0.05))) ** 2)))


@dataclass(frozen=True)
class Bundle:
    """Of all cameras."""

    cameras: tuple[Small, ...]
    by_motion: bool  # whether odometry tells the cameras' rotations apart; without, only relative ones are known
    covariance: Float[np.ndarray, "M M"]  # rad^2, of all turns one after the other
    cost: float = 0.0  # of what is left unexplained

    def between(self, i: int, j: int) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]]:
        """By how much camera j is turned against camera i, and the error of each component; rad, ego frame."""
        a, b = slice(3 * i, 3 * i + 3), slice(3 * j, 3 * j + 3)
        C = self.covariance
        spread = np.diag(C[a, a] + C[b, b] - C[a, b] - C[b, a])
        return self.cameras[j].turn - self.cameras[i].turn, np.sqrt(np.maximum(spread, np.radians(0.03) ** 2))

    def corrected(self, cameras: Cameras) -> Cameras:
        """The rig with each camera turned as proposed."""
        T = cameras.T_ego_cam.detach().cpu().double().numpy().copy()
        for k, each in enumerate(self.cameras):
            T[k, :3, :3] = exp_rotation(each.turn) @ T[k, :3, :3]
        return replace(cameras, T_ego_cam=torch.from_numpy(T).to(cameras.T_ego_cam.dtype))


@dataclass
class _Block:
    """Equations that share cameras, and a group that errs together."""

    kind: str
    cameras: tuple[int, ...]
    group: int
    a: np.ndarray
    b: np.ndarray
    T: np.ndarray  # over time: (4, 4) ego later -> now; between: (M, 4, 4)
    inv_depth: np.ndarray | None = None  # 1/m along a, where time says it
    inv_error: np.ndarray | None = None


def solve(cameras: Cameras, steps: Sequence[Step], cross: Sequence[CrossMatches], pose_at: PoseAt | None) -> Bundle:
    """steps, cross: of images and odometry as they are; readings other than that must have been ruled out before.

    Matches between cameras are those that nearly fit; if those that fit less say otherwise, and more fits by what they
    say, that.
    """
    near, far = (_solve_length(cameras, steps, cross, pose_at, slack) for slack in (_NEAR, _LOOSE))
    fits_near, fits_far = (_count(each.corrected(cameras), cross) for each in (near, far))
    used = sum(each.matches for each in near.cameras) // 2
    return far if fits_far > 1.15 * fits_near + 8 or used < _FEW * fits_far else near


def _solve_length(
    cameras: Cameras, steps: Sequence[Step], cross: Sequence[CrossMatches], pose_at: PoseAt | None, slack: float
) -> Bundle:
    """With the length of odometry as it is, unless another explains clearly more: it and cameras that turn inwards look
    much alike."""
    kept, free = (_solve(cameras, steps, cross, pose_at, slack, each) for each in (False, True))
    return free if free.cost < _CLEARLY * kept.cost else kept


def _count(cameras: Cameras, cross: Sequence[CrossMatches]) -> int:
    T = cameras.T_ego_cam.detach().cpu().double().numpy()
    return sum(
        int(in_ego(each, T[each.cameras[0]], T[each.cameras[1]]).consistent.sum()) for each in cross if len(each)
    )


def _solve(
    cameras: Cameras,
    steps: Sequence[Step],
    cross: Sequence[CrossMatches],
    pose_at: PoseAt | None,
    slack: float,
    free: bool,
) -> Bundle:
    """free: whether the length of odometry is unknown too."""
    X = cameras.T_ego_cam.detach().cpu().double().numpy()
    steps = [step for step in steps if _agrees(step, pose_at, X)]
    blocks = _step_blocks(steps, pose_at, X)
    moved = bool(blocks)
    depths = _depths(steps, pose_at, X)
    between = [block for each in cross for block in _cross_blocks(each, X, depths, slack)]
    blocks += between
    count = len(X)
    turns, stretch = np.zeros((count, 3)), 0.0
    if not blocks:
        return Bundle(
            tuple(Small(np.zeros(3), np.full(3, np.pi), 0, 0) for _ in range(count)), False, np.eye(3 * count)
        )
    for n in range(_ROUNDS):
        A, g, _ = _normal(blocks, X, turns, stretch, n)
        # Without motion, whose fault it is is unknown: few cameras with large errors rather than many with small ones.
        prior = np.full(3 * count + 1, 1.0 / (_PRIOR**2))
        if not moved:
            prior[:-1] = 1.0 / (_PRIOR * (np.linalg.norm(turns, axis=1).repeat(3) + np.radians(0.1)))
        prior[-1] = 1.0 / (_PRIOR_STRETCH**2) if free else 1e12
        A = A + np.diag(prior)
        g = g + prior * np.append(turns.ravel(), stretch)
        step = -np.linalg.solve(A, g)
        move, longer = step[:-1].reshape(count, 3), float(step[-1])
        largest = float(np.abs(move).max())
        turns += move * min(1.0, np.radians(2.0) / max(largest, 1e-12))
        stretch += float(np.clip(longer, -0.3, 0.3))
        sizes = np.linalg.norm(turns, axis=1, keepdims=True)
        turns *= np.minimum(1.0, _SMALL / np.maximum(sizes, 1e-9))
        if largest < 1e-6:
            break
    A, _, scores = _normal(blocks, X, turns, stretch, _ROUNDS)
    prior = np.append(np.full(3 * count, 1.0 / (_PRIOR**2)), 1.0 / (_PRIOR_STRETCH**2))
    inverse = np.linalg.inv(A + np.diag(prior))
    # Errors of one moment belong together: a sandwich over the moments, and the prior's own error.
    meat = sum(np.outer(each, each) for each in scores.values())
    covariance = (inverse @ meat @ inverse + inverse @ np.diag(prior) @ inverse.T)[:-1, :-1]
    inverse = inverse[:-1, :-1]
    errors = np.sqrt(np.maximum(np.diag(covariance), 0)).reshape(count, 3)
    known = np.diag(inverse).reshape(count, 3) * (1.0 / _PRIOR**2)  # 1: nothing but the prior
    errors = np.where(known > 0.5, np.pi, errors)
    return Bundle(
        tuple(
            Small(
                turns[k],
                errors[k],
                sum(block.kind == "step" and block.cameras[0] == k for block in blocks),
                sum(len(block.a) for block in between if k in block.cameras),
            )
            for k in range(count)
        ),
        moved,
        covariance,
        sum(float(np.log1p((_residuals(each, X, turns, stretch) / 2.0) ** 2).sum()) for each in blocks),
    )


def _agrees(step: Step, pose_at: PoseAt | None, X: np.ndarray) -> bool:
    """Whether images and odometry turn alike; where they do not, a passing lorry was followed, or odometry is wrong."""
    T = _between(step, pose_at)
    if T is None:
        return False
    R = X[step.camera, :3, :3]
    turn = R.T @ log_rotation(T[:3, :3])
    return bool(np.linalg.norm(step.seen.turn - turn) < _TURN_SLACK + 0.2 * np.linalg.norm(turn))


def _step_blocks(steps: Sequence[Step], pose_at: PoseAt | None, X: np.ndarray) -> list[_Block]:
    found = []
    for step in steps:
        T = _between(step, pose_at)
        if T is None or step.seen.ahead is None:
            continue
        if np.linalg.norm((T @ X[step.camera])[:3, 3] - X[step.camera, :3, 3]) < _LEAST_MOVE:
            continue
        some = np.unique(np.linspace(0, len(step.rays[0]) - 1, _STEP_MATCHES).astype(int))
        found.append(_Block("step", (step.camera,), step.moment, step.rays[0][some], step.rays[1][some], T))
    return found


def _between(step: Step, pose_at: PoseAt | None) -> np.ndarray | None:
    if pose_at is None:
        return None
    now, later = (pose_at(stamp) for stamp in step.stamps_ns)
    return None if now is None or later is None else invert_matrix(now) @ later


def _depths(
    steps: Sequence[Step], pose_at: PoseAt | None, X: np.ndarray
) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(camera, moment) -> which features, their inverse distances (1/m) by motion, and what those err by."""
    found = {}
    for step in steps:
        T = _between(step, pose_at)
        if T is None or step.seen.ahead is None:
            continue
        of = X[step.camera]
        T_cam = invert_matrix(of) @ T @ of
        t = T_cam[:3, 3]
        if np.linalg.norm(t) < _LEAST_MOVE:
            continue
        inverse, _ = inverse_depths(step.rays[0], step.rays[1] @ T_cam[:3, :3].T, t)
        across = np.linalg.norm(cross_product(step.rays[0], t), axis=1)
        error = np.radians(0.1) / np.maximum(across, 1e-3) + _DEPTH_SPREAD * np.abs(inverse)
        found[step.camera, step.moment] = (step.chosen[0], inverse, error)
    return found


def _cross_blocks(matches: CrossMatches, X: np.ndarray, depths: dict, slack: float) -> list[_Block]:
    i, j = matches.cameras
    if not len(matches):
        return []
    kept = in_ego(matches, X[i], X[j]).agree(slack)
    if kept.sum() < LEAST_CROSS:
        return []
    found = []
    for moment in np.unique(matches.moments[kept]):
        rows = np.flatnonzero(kept & (matches.moments == moment))
        inverse, error = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
        if (known := depths.get((i, int(moment)))) is not None:
            where = {int(f): n for n, f in enumerate(known[0])}
            for n, row in enumerate(rows):
                place = where.get(int(matches.indices[row, 0]))
                if place is not None:
                    inverse[n], error[n] = known[1][place], known[2][place]
        found.append(
            _Block(
                "cross",
                (i, j),
                10_000 + int(moment),
                matches.a[rows],
                matches.b[rows],
                matches.T_ego[rows],
                inverse,
                error,
            )
        )
    return found


def _residuals(block: _Block, X: np.ndarray, turns: np.ndarray, stretch: float) -> np.ndarray:
    """In units of their noise. stretch: logarithm of how many times too long odometry is."""
    if block.kind == "step":
        k = block.cameras[0]
        of = X[k].copy()
        of[:3, :3] = exp_rotation(turns[k]) @ of[:3, :3]
        T = invert_matrix(of) @ block.T @ of
        return epipolar_angles(block.a, block.b @ T[:3, :3].T, T[:3, 3]) / _NOISE_STEP
    i, j = block.cameras
    R_a, R_b = exp_rotation(turns[i]) @ X[i, :3, :3], exp_rotation(turns[j]) @ X[j, :3, :3]
    R = block.T[:, :3, :3]
    a, b = block.a @ R_a.T, np.einsum("mij,mj->mi", R, block.b @ R_b.T)
    t = np.einsum("mij,j->mi", R, X[j, :3, 3]) + block.T[:, :3, 3] - X[i, :3, 3]
    if np.linalg.norm(t, axis=1).max() < 0.01:
        return ((a - b) / _NOISE_CROSS).ravel()
    off = epipolar_angles(a, b, t) / _NOISE_CROSS
    _, along = inverse_depths(a, b, t)
    across = np.linalg.norm(cross_product(a, t), axis=1)
    assert block.inv_depth is not None and block.inv_error is not None
    known = np.isfinite(block.inv_depth)
    said = np.where(known, block.inv_depth * np.exp(stretch), 0.0)
    expected = np.arctan2(said * across, 1.0 - said * (a * t).sum(axis=1))
    noise = np.hypot(_NOISE_CROSS, np.where(known, block.inv_error, 0.0) * across)
    beside = np.where(known, (along - expected) / noise, np.minimum(along, 0.0) / _NOISE_CROSS)
    return np.concatenate([off, beside])


def _normal(
    blocks: Sequence[_Block], X: np.ndarray, turns: np.ndarray, stretch: float, n: int
) -> tuple[np.ndarray, np.ndarray, dict[int, np.ndarray]]:
    """Normal equations with Cauchy's weights, wide at first; and each group's share of the gradient."""
    size = 3 * len(X) + 1
    A, g = np.zeros((size, size)), np.zeros(size)
    scores: dict[int, np.ndarray] = {}
    width = max(2.0, 16.0 / 2**n)
    step = 1e-4
    for block in blocks:
        here = _residuals(block, X, turns, stretch)
        columns, places = [], []
        for k in block.cameras:
            for axis in range(3):
                moved = turns.copy()
                moved[k, axis] += step
                columns.append((_residuals(block, X, moved, stretch) - here) / step)
                places.append(3 * k + axis)
        if block.kind == "cross":
            columns.append((_residuals(block, X, turns, stretch + step) - here) / step)
            places.append(size - 1)
        J = np.stack(columns, axis=1)
        w = 1.0 / (1.0 + (here / width) ** 2)
        # Matches of one moment share the noise of its poses: they do not count as so many measurements.
        w *= 1.0 / (1.0 + len(here) / 40.0)
        A[np.ix_(places, places)] += J.T @ (J * w[:, None])
        part = J.T @ (w * here)
        g[places] += part
        scores.setdefault(block.group % 10_000, np.zeros(size))[places] += part
    return A, g, scores
