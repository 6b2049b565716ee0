# SPDX-License-Identifier: Apache-2.0
"""How each camera moved by its own images, and by odometry; and how late the one is against the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from gaussianocc_core.geometry.transforms import invert_matrix
from gaussianocc_core.onboarding.doctor.features import match
from gaussianocc_core.onboarding.doctor.rotations import (
    SeenMotion,
    angles_between,
    exp_rotation,
    log_rotation,
    see_motion,
    turn_covariance,
)
from gaussianocc_core.onboarding.doctor.sampling import Sampled
from gaussianocc_core.types import Cameras

PoseAt = Callable[[int], Float[np.ndarray, "4 4"] | None]  # stamp in ns -> T_world_ego

LEAST_PAIRS = 3  # of moments, to say anything of a camera
STRIP_MOMENTS = 1000
_DELAYS_S = np.arange(-0.6, 0.601, 0.02)
_LEAST_NOISE = np.radians(0.03)  # of a turn that odometry says
_TOLERANCE = 1.0 / 420.0  # rad, of a match
_USUAL_FIT = 2.4  # median of a sum of three squares of standard normal numbers
_MOST_TURN_COST = 16.0  # that a moment may weigh: passing lorries
_MOST_COST = 9.0  # that the start or stop of a step may weigh
_WORSE = 9.0  # by which a delay must explain less to be ruled out: three standard deviations
_GAIN = 6.0  # that a delay must explain more than none
_AT_REST = 0.15  # of the largest


@dataclass(frozen=True)
class Step:
    """One camera from a moment to a little later."""

    camera: int
    stamps_ns: tuple[int, int]
    seen: SeenMotion
    rays: tuple[Float[np.ndarray, "M 3"], Float[np.ndarray, "M 3"]]  # of the matches that agree, camera frame
    chosen: tuple[np.ndarray, np.ndarray]  # their places among the features of both images
    moment: int
    strip: int = -1  # of which it is; -1: of none


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
    known: float  # s: nothing farther from `seconds` than this explains the images as well
    sure: bool  # whether several moments say that it is not zero
    moments: int
    shown: float  # rad: what 200 ms change of the turns that odometry says, root mean square
    noise: float  # rad: what the turns of a moment err by in the images, mean of the axes


def find_strip_steps(sampled: Sampled) -> list[Step]:
    """Of the first camera along each strip, from image to image. Their moments are numbered on from the sampled ones,
    `STRIP_MOMENTS` to a strip."""
    found = []
    for n, strip in enumerate(sampled.strips):
        for m, (now, later) in enumerate(pairwise(strip)):
            pairs = match(now.features, later.features)
            a, b = now.features.rays[pairs[:, 0]], later.features.rays[pairs[:, 1]]
            seen = see_motion(a, b, 1.0 / sampled.cylinders[0].scale)
            if seen is not None:
                kept = seen.inliers
                places = (pairs[kept, 0], pairs[kept, 1])
                moment = len(sampled.moments) + n * STRIP_MOMENTS + m
                found.append(Step(0, (now.stamp_ns, later.stamp_ns), seen, (a[kept], b[kept]), places, moment, n))
    return found


def estimate_delay(steps: Sequence[Step], cameras: Cameras, pose_at: PoseAt) -> Delay | None:
    """From how turns, jolts included, and starts and stops follow each other in time; None where too little is seen.

    steps: of moments and of strips.
    """
    delays = _DELAYS_S
    off, noise, groups, strips = [], [], [], []
    shifts: list[float] = []
    speeds: list[np.ndarray] = []
    middle = len(delays) // 2
    for step in steps:
        told = [say(step, cameras, pose_at, delay) for delay in delays]
        as_it_is = told[middle]
        if as_it_is is None:
            continue
        # Where odometry has no pose, at the ends of a recording, a delay is taken to explain as much as none does.
        all_told = [as_it_is if each is None else each for each in told]
        R = cameras.T_ego_cam[step.camera, :3, :3].detach().cpu().double().numpy()
        off.append([R @ (step.seen.turn - each.turn) for each in all_told])
        noise.append(R @ turn_covariance(*step.rays, step.seen, _TOLERANCE) @ R.T)
        groups.append(step.moment)
        strips.append(step.strip)
        seconds = max((step.stamps_ns[1] - step.stamps_ns[0]) * 1e-9, 1e-3)
        back = step.rays[1] @ exp_rotation(step.seen.turn).T
        shifts.append(float(np.median(angles_between(step.rays[0], back))) / seconds)
        speeds.append(np.array([np.linalg.norm(each.move) / seconds for each in all_told]))
    if len(set(groups)) < LEAST_PAIRS:
        return None
    of, strip_of, turns = np.array(groups), np.array(strips), np.array(off)
    moments = np.unique(of)
    per_moment, errors = _turn_costs(turns, np.array(noise), of)
    for strip in np.unique(strip_of[strip_of >= 0]):
        rows = np.flatnonzero(strip_of == strip)
        starts = _start_costs(np.array(shifts)[rows], np.stack([speeds[row] for row in rows]))
        np.add.at(per_moment, np.searchsorted(moments, of[rows]), starts)
    total = per_moment.sum(axis=0)
    best = _lowest(total, delays)
    others = np.array([_lowest(total - each, delays) for each in per_moment])
    count = len(others)
    error = float(np.sqrt(((others - others.mean()) ** 2).sum() * (count - 1) / count))
    as_good = np.abs(delays[total < total.min() + _WORSE] - best)
    known = max(3.0 * error, float(as_good.max()), 0.5 * float(delays[1] - delays[0]))
    gains = per_moment[:, middle] - per_moment[:, int(total.argmin())]
    sure = bool(gains.sum() - gains.max() > _GAIN and abs(best) > known)  # also without the moment that says it most
    return Delay(
        best, error, known if sure else max(known, abs(best)), sure, count, _shown(turns), float(np.median(errors))
    )


def _turn_costs(
    off: Float[np.ndarray, "S D 3"], noise: Float[np.ndarray, "S 3 3"], moments: np.ndarray
) -> tuple[Float[np.ndarray, "K D"], Float[np.ndarray, " K"]]:
    """What each moment has against each delay, and what its turn errs by (rad). off: turns by the images less those by
    odometry, noise: covariances of the former, both in the ego frame. The cameras of a moment are averaged, as what
    odometry errs by is common to them: each direction of turn by those that know it."""
    information = np.linalg.inv(noise)
    fit = np.einsum("sdi,sij,sdj->sd", off, information, off).min(axis=1)
    # Matches err together (lenses, rolling shutters, what moves), more than each for itself.
    larger = max(1.0, float(np.median(fit)) / _USUAL_FIT)
    outlying = np.maximum(fit / larger / _USUAL_FIT, 1.0)
    information /= (larger * outlying)[:, None, None]
    costs, errors = [], []
    for moment in np.unique(moments):
        own = moments == moment
        covariance = np.linalg.inv(information[own].sum(axis=0))
        mean = np.einsum("ij,sjk,sdk->di", covariance, information[own], off[own])
        of_all = np.linalg.inv(covariance + _LEAST_NOISE**2 * np.eye(3))
        costs.append(np.minimum(np.einsum("di,ij,dj->d", mean, of_all, mean), _MOST_TURN_COST))
        errors.append(np.linalg.det(of_all) ** (-1 / 6))
    return np.array(costs), np.array(errors)


def _shown(off: Float[np.ndarray, "S D 3"]) -> float:
    """rad, by how much 200 ms change what odometry says of turns, root mean square."""
    middle, by = off.shape[1] // 2, round(0.2 / float(_DELAYS_S[1] - _DELAYS_S[0]))
    changes = [off[:, middle + way] - off[:, middle] for way in (-by, by)]
    return float(np.sqrt(np.mean([(each**2).sum(axis=1).mean() for each in changes])))


def _start_costs(shifts: np.ndarray, speeds: np.ndarray) -> np.ndarray:
    """Of images that shift (rad/s, per step) where odometry moves (m/s, per step and delay). Only where it starts or
    stops: how fast things shift while driving depends on how near they are."""
    if not (speeds.min() < _AT_REST * speeds.max() and shifts.min() < _AT_REST * shifts.max() and speeds.max() > 0.2):
        return np.zeros_like(speeds)
    factor = (shifts[:, None] * speeds).sum(axis=0) / np.maximum((speeds**2).sum(axis=0), 1e-9)
    noise = 0.15 * float(np.percentile(shifts, 80))
    return np.minimum(((shifts[:, None] - factor * speeds) / noise) ** 2, _MOST_COST)


def _lowest(costs: np.ndarray, delays: np.ndarray) -> float:
    k = int(costs.argmin())
    if not 0 < k < len(costs) - 1:
        return float(delays[k])
    below, at, above = costs[k - 1 : k + 2]
    bend = below - 2 * at + above
    move = float(np.clip(0.5 * (below - above) / bend, -0.5, 0.5)) if bend > 0 else 0.0
    return float(delays[k] + move * (delays[1] - delays[0]))
