# SPDX-License-Identifier: Apache-2.0
"""Depth of single points by motion that is known: corners that are followed into another image and triangulated.

Few points, but nothing that was trained has a part in them, so that they can judge a network's depth. What moves by
itself leaves its epipolar line, and is left out for the most part.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from gaussianocc_core.geometry.cameras import PIXEL_CENTER

_MOST_POINTS, _LEAST_QUALITY, _APART = 400, 0.01, 3  # corners of an image; px between them
_WINDOW, _LEVELS = (11, 11), 3  # px; of halved images
_RETURNS = 0.3  # px by which a point may miss itself when it is followed back
_OFF_LINE = 0.5  # px off its epipolar line
_LEAST_PARALLAX = 3.0  # px from where it would be if it were endlessly far away
_NEAREST, _FARTHEST = 0.3, 60.0  # m


def triangulate(
    now: UInt8[np.ndarray, "H W 3"],
    then: UInt8[np.ndarray, "H W 3"],
    intrinsics: Float[np.ndarray, "3 3"],
    T_then_now: Float[np.ndarray, "4 4"],
    valid: Bool[np.ndarray, "H W"],
) -> tuple[Float[np.ndarray, "M 2"], Float[np.ndarray, " M"]]:
    """Pixels of the image now and z-depth (m) there, as far as they can be told.

    now, then: RGB of one pinhole camera; T_then_now: points of the camera now in the camera then, m; valid: where to
    look.
    """
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (now, then)]
    mask = valid.astype(np.uint8) * 255
    corners = cv2.goodFeaturesToTrack(grey[0], _MOST_POINTS, _LEAST_QUALITY, _APART, mask=mask)
    if corners is None:
        return np.zeros((0, 2)), np.zeros(0)
    there, ok = _follow(grey[0], grey[1], corners)
    back, ok_back = _follow(grey[1], grey[0], there)
    p, q, returned = (each[:, 0].astype(np.float64) for each in (corners, there, back))
    size = np.array([now.shape[1], now.shape[0]])
    followed = (ok[:, 0] & ok_back[:, 0]).astype(bool) & (np.linalg.norm(p - returned, axis=1) < _RETURNS)
    followed &= ((q >= 0) & (q < size)).all(axis=1)
    p, q = p[followed] + PIXEL_CENTER, q[followed] + PIXEL_CENTER  # OpenCV counts from centres of pixels
    inverse = np.linalg.inv(intrinsics)
    rays = np.c_[p, np.ones(len(p))] @ inverse.T @ T_then_now[:3, :3].T  # of depth 1, in the camera then
    seen, way = np.c_[q, np.ones(len(q))] @ inverse.T, T_then_now[:3, 3]
    # z ray + way lies on the ray that is seen there: z (ray x seen) = -(way x seen).
    across, right = np.cross(rays, seen), -np.cross(way[None], seen)
    z = (across * right).sum(axis=1) / np.maximum((across**2).sum(axis=1), 1e-12)
    points = z[:, None] * rays + way
    off_line = np.linalg.norm(_project(points, intrinsics) - q, axis=1)
    parallax = np.linalg.norm(_project(rays, intrinsics) - q, axis=1)
    kept = (z > _NEAREST) & (z < _FARTHEST) & (points[:, 2] > _NEAREST)
    kept &= (off_line < _OFF_LINE) & (parallax > _LEAST_PARALLAX)
    return p[kept], z[kept]


def _follow(
    one: UInt8[np.ndarray, "H W"], other: UInt8[np.ndarray, "H W"], points: Float[np.ndarray, "M 1 2"]
) -> tuple[Float[np.ndarray, "M 1 2"], UInt8[np.ndarray, "M 1"]]:
    """Where the points of one image lie in the other, and 1 where they were found."""
    there, found, _ = cv2.calcOpticalFlowPyrLK(
        one, other, points, np.zeros_like(points), winSize=_WINDOW, maxLevel=_LEVELS
    )
    return np.asarray(there), np.asarray(found)


def _project(points: Float[np.ndarray, "M 3"], intrinsics: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "M 2"]:
    """Pixels; of what lies beside or behind the camera, something."""
    z = np.where(np.abs(points[:, 2:]) < 1e-6, 1e-6, points[:, 2:])
    return (points / z @ intrinsics.T)[:, :2]
