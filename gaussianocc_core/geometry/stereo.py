# SPDX-License-Identifier: Apache-2.0
"""Depth that two cameras measure: rectification of any pair that looks the same way, and semi-global matching.

Nothing here is learnt. It needs two pinhole images of one moment and where their cameras stand; what it says is metric.
Pixel centres lie at +0.5; OpenCV counts from the first one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

_LEAST_BASELINE = 0.02  # m
_LARGEST_TURN = np.radians(25.0)  # that rectification may turn a camera by; beyond, it stretches what it matches
_LEAST_ACROSS = 0.7  # sine of the angle between the baseline and where the cameras look
_NEAREST = 0.5  # m
_MOST_DISPARITY = 0.4  # of the rectified width
# A disparity errs by about a quarter of a pixel: below the least, depth by a sixth and more.
LEAST_DISPARITY = 1.5  # px
_BLOCK = 3
_HALF = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])

# Two rectified images, RGB -> disparity of the first in 1/16 px, negative where it is not known, as OpenCV counts.
Matcher = Callable[[np.ndarray, np.ndarray], np.ndarray]


def semi_global(disparities: int, mode: int = cv2.STEREO_SGBM_MODE_HH) -> Matcher:
    """OpenCV's semi-global matching; mode: HH tries all directions, SGBM_3WAY is the fast one."""
    return cv2.StereoSGBM.create(
        minDisparity=0,
        numDisparities=disparities,
        blockSize=_BLOCK,
        P1=8 * 3 * _BLOCK**2,
        P2=32 * 3 * _BLOCK**2,
        disp12MaxDiff=1,
        preFilterCap=31,
        uniquenessRatio=8,
        speckleWindowSize=60,
        speckleRange=2,
        mode=mode,
    ).compute


@dataclass(frozen=True)
class StereoPair:
    """One camera, whose depth is wanted, and another that sees the same: how both are turned to match along rows."""

    to_rows: Float[np.ndarray, "3 3"]  # pixels of the camera (OpenCV's) -> of the rectified image
    other_to_rows: Float[np.ndarray, "3 3"]
    size: tuple[int, int]  # of the rectified images: width, height
    disparities: int  # that are tried
    reach: float  # px m: disparity times depth
    map_x: Float[np.ndarray, "H W"]  # where each pixel of the camera lies in the rectified image
    map_y: Float[np.ndarray, "H W"]
    along: Float[np.ndarray, "H W"]  # z in the camera's frame of what is 1 m deep in the rectified one
    baseline: float  # m

    def measure(
        self, image: UInt8[np.ndarray, "H W 3"], other: UInt8[np.ndarray, "H W 3"], matcher: Matcher | None = None
    ) -> tuple[Float[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
        """z-depth (m) of the camera's pixels, 0 where it is not known, and the disparity (px) that it comes from.

        matcher: in place of `semi_global`.
        """
        left, seen = self._turn(image, self.to_rows)
        right, other_seen = self._turn(other, self.other_to_rows)
        match = semi_global(self.disparities) if matcher is None else matcher
        disparity = match(left, right).astype(np.float32) / 16.0
        rows, columns = np.indices(disparity.shape)
        there = np.round(columns - disparity).astype(int)
        inside = (disparity >= LEAST_DISPARITY) & (there >= 0) & seen
        inside &= other_seen[rows, there.clip(0, disparity.shape[1] - 1)]
        disparity[~inside] = 0.0
        found = cv2.remap(disparity, self.map_x, self.map_y, cv2.INTER_NEAREST, borderValue=0.0)
        depth = np.where(found > 0, self.along * self.reach / np.maximum(found, LEAST_DISPARITY), 0.0)
        return depth.astype(np.float32), found

    def _turn(
        self, image: UInt8[np.ndarray, "H W 3"], matrix: Float[np.ndarray, "3 3"]
    ) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
        ones = np.full(image.shape[:2], 255, np.uint8)
        turned = cv2.warpPerspective(image, matrix, self.size, flags=cv2.INTER_LINEAR)
        return turned, cv2.warpPerspective(ones, matrix, self.size, flags=cv2.INTER_LINEAR) == 255


def plan_stereo(
    K: Float[np.ndarray, "3 3"],
    T_ego_cam: Float[np.ndarray, "4 4"],
    K_other: Float[np.ndarray, "3 3"],
    T_ego_other: Float[np.ndarray, "4 4"],
    width: int,
    height: int,
) -> StereoPair | None:
    """For two pinhole cameras of one size; None where they do not look the same way, or along the line between them.

    Intrinsics count from the corner of the first pixel (centres at +0.5).
    """
    between = T_ego_other[:3, 3] - T_ego_cam[:3, 3]
    baseline = float(np.linalg.norm(between))
    if baseline < _LEAST_BASELINE:
        return None
    looks, other_looks = T_ego_cam[:3, 2], T_ego_other[:3, 2]
    middle = looks + other_looks
    middle /= max(float(np.linalg.norm(middle)), 1e-9)
    x = between / baseline
    y = np.cross(middle, x)
    if np.linalg.norm(y) < _LEAST_ACROSS:
        return None
    y /= np.linalg.norm(y)
    z = np.cross(x, y)
    if min(float(z @ looks), float(z @ other_looks)) < np.cos(_LARGEST_TURN):
        return None
    R_rows_ego = np.stack([x, y, z])
    turn, other_turn = R_rows_ego @ T_ego_cam[:3, :3], R_rows_ego @ T_ego_other[:3, :3]
    focal = float(np.sqrt(K[0, 0] * K[1, 1]))
    corners = np.array([[u, v, 1.0] for u in (0, width / 2, width) for v in (0, height / 2, height)]).T
    rays = turn @ np.linalg.inv(K) @ corners
    if rays[2].min() < 0.2:
        return None
    places = focal * rays[:2] / rays[2]
    low, high = places.min(axis=1), places.max(axis=1)
    wide, high_side = (int(np.ceil(side)) for side in high - low)
    if max(wide, high_side) > 3 * max(width, height):
        return None
    wanted = min(focal * baseline / _NEAREST, _MOST_DISPARITY * wide)
    disparities = 16 * max(1, round(wanted / 16))
    # The matcher leaves out its first columns, as many as it tries: they are added where nothing is lost.
    K_rows = np.array([[focal, 0, disparities - low[0]], [0, focal, -low[1]], [0, 0, 1.0]])
    to_rows, other_to_rows = (
        np.linalg.inv(_HALF) @ K_rows @ each @ np.linalg.inv(lens) @ _HALF
        for each, lens in ((turn, K), (other_turn, K_other))
    )
    v, u = np.indices((height, width)).astype(np.float64) + 0.5
    rays = turn @ np.linalg.inv(K) @ np.stack([u.ravel(), v.ravel(), np.ones(u.size)])
    place = K_rows @ (rays / rays[2])
    return StereoPair(
        to_rows,
        other_to_rows,
        (wide + disparities, high_side),
        disparities,
        focal * baseline,
        (place[0] - 0.5).reshape(height, width).astype(np.float32),
        (place[1] - 0.5).reshape(height, width).astype(np.float32),
        (1.0 / rays[2]).reshape(height, width).astype(np.float32),
        baseline,
    )
