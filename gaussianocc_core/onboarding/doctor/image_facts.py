# SPDX-License-Identifier: Apache-2.0
"""What one camera's images are like, whatever they come from: bright, sharp, dirty, with the sky above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from gaussianocc_core.onboarding.doctor.features import Cylinder

STILL_LEVELS = 0.35  # mean grey levels between two images that are one; a sensor's noise alone makes more
CHANGED_LEVELS = 1.5  # that another camera changes by meanwhile
_ELEVATION = np.sin(np.radians(4.0))
_AROUND = 41  # px, the neighbourhood of a spot
_AROUND_CHANGES = 4.0  # grey levels, standard deviation from image to image there, at the least
_SPOT_CHANGES = (0.08, 0.15)  # of that, for a spot
_SPOT_AREA = (0.0004, 0.03)  # of the image
_SPOT_CONTRAST = 4.0  # grey levels to what is around it
_COARSE, _FAR, _PASSES = 8, 80.0, np.radians(1.0)  # px; m, of what stays in view longest; from image to image
_BURNT_OUT = 250.0  # sky that is, changes as little as dirt
_SKY, _DIRT_ON_SKY = 180.0, 20.0  # grey levels; a bright gap between houses is the sky, dirt on it is clearly darker
LEAST_IMAGES = 10  # to tell dirt from the world


@dataclass(frozen=True)
class ImageFacts:
    """Of one camera, over all moments."""

    brightness: float  # mean grey level
    burnt: float  # share of pixels at 250 and more
    sharpness: float  # finest over finer detail; 1: as sharp as pixels can be
    features: float  # median number
    frozen: float  # share of the moments at which it shows the same later, while another camera changes
    dirty: float  # share of the image that never changes
    dirt: Bool[np.ndarray, "h w"]  # where
    lines: float  # grey levels, of rows that brighten and darken together
    sky_below: float  # share of the moments with a brighter and smoother lower half; nan: it does not see both halves


def sharpness(grey: UInt8[np.ndarray, "h w"], inside: np.ndarray) -> float:
    """Energy of the finest detail over that of twice the size, where there are edges; nan: there are none."""
    values = grey.astype(np.float32)
    once, twice = cv2.GaussianBlur(values, (0, 0), 1.0), cv2.GaussianBlur(values, (0, 0), 2.5)
    fine, coarse = np.abs(values - once), np.abs(once - twice)
    edges = inside & (coarse > np.percentile(coarse[inside], 80))
    if not edges.any():
        return float("nan")
    return float(fine[edges].mean() / max(float(coarse[edges].mean()), 1e-3))


def find_passing(
    cylinder: Cylinder, T_ego_cam: Float[np.ndarray, "4 4"], poses: Sequence[Float[np.ndarray, "4 4"]]
) -> Bool[np.ndarray, "h w"]:
    """Where even far things are seen elsewhere from pose to pose (T_world_ego): not straight ahead of a straight drive,
    where the end of the street stays as dirt does."""
    height, width = cylinder.seen.shape
    v, u = np.mgrid[0:height:_COARSE, 0:width:_COARSE]
    rays = cylinder.rays(np.stack([u.ravel(), v.ravel()], axis=1).astype(float))
    T = np.stack(poses) @ T_ego_cam
    way = float(np.linalg.norm(T[:, :3, 3] - T[0, :3, 3], axis=1).max())
    far = max(_FAR, 2.0 * way) * rays
    middle = T[len(T) // 2]
    apart = np.zeros(len(rays))
    for each in T:
        seen = (far @ middle[:3, :3].T + middle[:3, 3] - each[:3, 3]) @ each[:3, :3]
        apart += np.arccos(np.clip((seen * rays).sum(axis=1) / np.linalg.norm(seen, axis=1), -1.0, 1.0))
    passing = (apart / len(T) > _PASSES).reshape(u.shape).astype(np.uint8)
    return cv2.resize(passing, (width, height), interpolation=cv2.INTER_NEAREST) > 0


def find_dirt(
    greys: Sequence[UInt8[np.ndarray, "h w"]],
    inside: Bool[np.ndarray, "h w"],
    passing: Bool[np.ndarray, "h w"] | None = None,
) -> Bool[np.ndarray, "h w"]:
    """Spots that hardly change from image to image where all around them does. passing: `find_passing`, where there is
    odometry."""
    nothing = np.zeros_like(inside)
    if len(greys) < LEAST_IMAGES:
        return nothing
    stack = np.stack([cv2.GaussianBlur(grey, (0, 0), 1.5) for grey in greys]).astype(np.float32)
    changes = stack.std(axis=0)  # not the median of them: what passes a spot only now and then counts too
    weighed = inside.astype(np.float32)
    weight = cv2.boxFilter(weighed, -1, (_AROUND, _AROUND))
    around = cv2.boxFilter(changes * weighed, -1, (_AROUND, _AROUND)) / np.maximum(weight, 1e-3)
    middle = np.median(stack, axis=0)
    found = nothing.copy()
    for share in _SPOT_CHANGES:  # at each level: a spot may touch a part of the world that changes little, such as sky
        spots = inside & (middle < _BURNT_OUT) & (around > _AROUND_CHANGES) & (changes < share * around)
        found |= _round_spots(spots, middle, inside, passing)
    return found


def _round_spots(
    spots: Bool[np.ndarray, "h w"],
    middle: Float[np.ndarray, "h w"],
    seen: Bool[np.ndarray, "h w"],
    passing: Bool[np.ndarray, "h w"] | None,
) -> Bool[np.ndarray, "h w"]:
    """Those that are no larger than drops are, about as wide as high, and darker or brighter than what is around."""
    opened = cv2.morphologyEx(spots.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, labels, facts, _ = cv2.connectedComponentsWithStats(opened)
    area, found = float(seen.sum()), np.zeros_like(seen)
    for i in range(1, count):
        spot = labels == i
        width, height, size = (
            int(facts[i, each]) for each in (cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT, cv2.CC_STAT_AREA)
        )
        if not _SPOT_AREA[0] * area <= size <= _SPOT_AREA[1] * area:
            continue
        if max(width, height) > 2.5 * min(width, height) or size < 0.5 * width * height:
            continue  # a kerb or the horizon, not a drop
        ring = (cv2.dilate(spot.astype(np.uint8), np.ones((13, 13), np.uint8)) > 0) & seen & ~spot
        if passing is not None and passing[spot].mean() < 0.5:
            continue
        level = float(np.median(middle[spot]))
        contrast = level - float(np.median(middle[ring]))
        if abs(contrast) > _SPOT_CONTRAST and not (level > _SKY and contrast > -_DIRT_ON_SKY):
            found |= spot
    return found


@dataclass(frozen=True)
class Halves:
    """Where a camera looks above and below the horizon, by calibration; every fourth pixel of its cylinder."""

    above: Bool[np.ndarray, "h4 w4"]
    below: Bool[np.ndarray, "h4 w4"]


def find_halves(cylinder: Cylinder, R_ego_cam: Float[np.ndarray, "3 3"]) -> Halves | None:
    """None where it does not see enough of both."""
    height, width = cylinder.seen.shape
    v, u = np.mgrid[0:height:4, 0:width:4]
    up = cylinder.rays(np.stack([u.ravel(), v.ravel()], axis=1).astype(float)) @ R_ego_cam[2]
    up = up.reshape(u.shape)
    seen = cylinder.seen[::4, ::4]
    above, below = seen & (up > _ELEVATION), seen & (up < -_ELEVATION)
    return None if min(above.sum(), below.sum()) < 0.1 * seen.sum() else Halves(above, below)


def sky_is_below(grey: UInt8[np.ndarray, "h w"], halves: Halves) -> bool:
    """Whether the lower half is the brighter and smoother one. grey: unrolled."""
    small = cv2.GaussianBlur(grey, (0, 0), 2.0)[::4, ::4].astype(np.float32)
    rough = np.abs(cv2.Laplacian(grey, cv2.CV_32F))[::4, ::4]
    above, below = halves.above, halves.below
    brighter = float(small[below].mean()) > 1.25 * float(small[above].mean()) + 8
    return bool(brighter and float(rough[below].mean()) < 0.6 * float(rough[above].mean()))
