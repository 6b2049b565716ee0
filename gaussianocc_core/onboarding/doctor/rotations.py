# SPDX-License-Identifier: Apache-2.0
"""Rotations from directions: small ones as vectors, the one between two sets, and the motion that explains matches."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float

_TRIES = 40  # enough where two thirds agree
_STILL_SHARE = 0.7  # of the matches that a rotation alone explains, where the camera did not move


def exp_rotation(vector: Float[np.ndarray, " 3"]) -> Float[np.ndarray, "3 3"]:
    """Rotation about a vector by its length (rad)."""
    return cv2.Rodrigues(np.asarray(vector, dtype=np.float64))[0]


def log_rotation(R: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 3"]:
    """The inverse of `exp_rotation`."""
    return cv2.Rodrigues(R)[0].ravel()


def angle_of(R: Float[np.ndarray, "3 3"]) -> float:
    """rad"""
    return float(np.arccos(np.clip((np.trace(R) - 1.0) / 2.0, -1.0, 1.0)))


def angles_between(a: Float[np.ndarray, "M 3"], b: Float[np.ndarray, "M 3"]) -> Float[np.ndarray, " M"]:
    """Of unit vectors, rad; exact for small ones."""
    return 2.0 * np.arcsin(np.clip(0.5 * np.linalg.norm(a - b, axis=1), 0.0, 1.0))


def align(a: Float[np.ndarray, "M 3"], b: Float[np.ndarray, "M 3"], weights=None, mirror: bool = False):
    """The rotation R (with a mirroring, if asked for) with a = R b in the least squares' sense."""
    w = np.ones(len(a)) if weights is None else weights
    U, _, Vt = np.linalg.svd((a * w[:, None]).T @ b)
    sign = np.sign(np.linalg.det(U) * np.linalg.det(Vt)) * (-1.0 if mirror else 1.0)
    return U @ np.diag([1.0, 1.0, sign]) @ Vt


def find_rotation(
    a: Float[np.ndarray, "M 3"], b: Float[np.ndarray, "M 3"], tolerance: float, seed: int = 0
) -> tuple[Float[np.ndarray, "3 3"], Bool[np.ndarray, " M"]]:
    """The rotation R for which most unit vectors agree, a = R b to `tolerance` (rad), and which do."""
    if len(a) < 2:
        return np.eye(3), np.zeros(len(a), bool)
    random = np.random.default_rng(seed)
    best, kept = np.eye(3), np.zeros(len(a), bool)
    limit = 2.0 * np.sin(tolerance / 2.0)
    for _ in range(_TRIES):
        i, j = random.choice(len(a), 2, replace=False)
        R = align(a[[i, j]], b[[i, j]])
        inside = np.linalg.norm(a - b @ R.T, axis=1) < limit
        if inside.sum() > kept.sum():
            best, kept = R, inside
    for _ in range(3):
        if kept.sum() < 2:
            break
        best = align(a[kept], b[kept])
        kept = np.linalg.norm(a - b @ best.T, axis=1) < limit
    return best, kept


def cross(a: Float[np.ndarray, "*A 3"], b: Float[np.ndarray, "*B 3"]) -> Float[np.ndarray, "... 3"]:
    """numpy's, at a fifth of its time for some hundred vectors; either may be one for all."""
    (x, y, z), (u, v, w) = (a[..., 0], a[..., 1], a[..., 2]), (b[..., 0], b[..., 1], b[..., 2])
    return np.stack([y * w - z * v, z * u - x * w, x * v - y * u], axis=-1)


def epipolar_angles(
    a: Float[np.ndarray, "M 3"], b: Float[np.ndarray, "M 3"], t: Float[np.ndarray, "*M 3"]
) -> Float[np.ndarray, " M"]:
    """How far b (rad, signed) lies off the plane of a and t; both in axes of one frame, t from a's place to b's."""
    normal = cross(t, a)
    length = np.linalg.norm(normal, axis=1)
    return np.arcsin(np.clip((normal * b).sum(axis=1) / np.maximum(length, 1e-9), -1.0, 1.0))


def inverse_depths(
    a: Float[np.ndarray, "M 3"], b: Float[np.ndarray, "M 3"], t: Float[np.ndarray, "*M 3"]
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """1 / distance (1/m, from a's place) of what both see, and the angle (rad) between the directions, along the plane
    of a and t. Negative: they part, as no two directions to one point do. t: from a's place to b's, m, one for all or
    each; all in axes of one frame."""
    t = np.broadcast_to(t, a.shape)
    along = (t * a).sum(axis=1)
    across = t - along[:, None] * a
    width = np.maximum(np.linalg.norm(across, axis=1), 1e-9)
    q = -(b * across).sum(axis=1) / width / np.maximum((b * a).sum(axis=1), 1e-3)
    below = width + q * along
    return q / np.where(np.abs(below) < 1e-9, 1e-9, below), np.arctan(q)


@dataclass(frozen=True)
class SeenMotion:
    """What matches of one camera over time say of its motion, without any odometry."""

    turn: Float[np.ndarray, " 3"]  # rotation vector, rad: directions later -> directions now, camera frame
    ahead: Float[np.ndarray, " 3"] | None  # unit vector from where it was now to where it is later; None: at rest
    inliers: Bool[np.ndarray, " M"]
    parallax: float  # rad, median over the matches


def see_motion(
    a: Float[np.ndarray, "M 3"], b: Float[np.ndarray, "M 3"], tolerance: float, least: int = 24
) -> SeenMotion | None:
    """a, b: the same features now and later, camera frame. None where too few agree. tolerance: rad."""
    if len(a) < least:
        return None
    R, kept = find_rotation(a, b, 1.5 * tolerance)
    if kept.sum() > _STILL_SHARE * len(a):
        return SeenMotion(log_rotation(R), None, kept, 0.0)
    flat = (a[:, 2] > 0.25) & (b[:, 2] > 0.25)
    if flat.sum() < least:
        return None
    pa, pb = a[flat, :2] / a[flat, 2:], b[flat, :2] / b[flat, 2:]
    E, mask = cv2.findEssentialMat(pb, pa, np.eye(3), method=cv2.USAC_ACCURATE, prob=0.999, threshold=1.5 * tolerance)
    if E is None or E.shape != (3, 3) or mask is None or mask.sum() < least:
        return None
    # pa = R pb + t: recoverPose gives the transform from the first set's frame to the second's.
    _, R, t, _ = cv2.recoverPose(E, pb, pa, np.eye(3), mask=mask.copy())
    R, t = _refine(a, b, R, t.ravel() / np.linalg.norm(t), tolerance)
    # t is the later camera's place in the frame of now.
    turned = b @ R.T
    inliers = np.abs(epipolar_angles(a, turned, t)) < 2.0 * tolerance
    if inliers.sum() < max(least, 0.3 * len(a)):
        return None
    if _behind(a[inliers], turned[inliers], t) > 0.5:
        t = -t
    moved = angles_between(a[inliers], turned[inliers])
    return SeenMotion(log_rotation(R), t, inliers, float(np.median(moved)))


def _behind(a: np.ndarray, b: np.ndarray, t: np.ndarray) -> float:
    """Share of matches that would lie behind: the later direction must be turned away from where the camera goes."""
    return float(((b - a) @ t > 0).mean())


def turn_covariance(
    a: Float[np.ndarray, "M 3"], b: Float[np.ndarray, "M 3"], seen: SeenMotion, tolerance: float
) -> Float[np.ndarray, "3 3"]:
    """Of the rotation vector of `seen` (rad^2, camera frame), by the matches that agree and how far they are off. Where
    a camera looks across its way, a turn about its vertical axis looks like the way itself: it is known worst there."""
    turned = b @ exp_rotation(seen.turn).T
    if seen.ahead is None:
        off = np.linalg.norm(a - turned, axis=1)
        A = np.eye(3) * len(a) - a.T @ a
    else:
        off, J = _derivatives(a, turned, seen.ahead)
        A = J.T @ J
    noise = max(1.48 * float(np.median(np.abs(off))), 0.1 * tolerance)
    return noise**2 * np.linalg.inv(A + 1e-9 * np.trace(A) * np.eye(len(A)))[:3, :3]


def _derivatives(
    a: np.ndarray, turned: np.ndarray, t: np.ndarray
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, "M 5"]]:
    """Epipolar angles, and how they change with the rotation vector and with the two directions across t."""
    here, step = epipolar_angles(a, turned, t), 1e-5
    columns = [(epipolar_angles(a, turned @ exp_rotation(step * axis).T, t) - here) / step for axis in np.eye(3)]
    columns += [(epipolar_angles(a, turned, t + step * each) - here) / step for each in _across(t)]
    return here, np.stack(columns, axis=1)


def _across(t: np.ndarray) -> Float[np.ndarray, "2 3"]:
    return np.linalg.svd(t[None])[2][1:]


def _refine(
    a: np.ndarray, b: np.ndarray, R: np.ndarray, t: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rotation and direction by least squares with Cauchy's weights."""
    for _ in range(8):
        here, J = _derivatives(a, b @ R.T, t)
        w = 1.0 / (1.0 + (here / tolerance) ** 2)
        w[np.abs(here) > 6 * tolerance] = 0.0
        A = J.T @ (J * w[:, None])
        move = np.linalg.solve(A + 1e-9 * np.trace(A) * np.eye(5), -J.T @ (w * here))
        size = float(np.linalg.norm(move))
        move *= min(1.0, 0.05 / max(size, 1e-12))
        R, basis = exp_rotation(move[:3]) @ R, _across(t)
        t = t + move[3] * basis[0] + move[4] * basis[1]
        t /= np.linalg.norm(t)
        if size < 1e-6:
            break
    return R, t
