# SPDX-License-Identifier: Apache-2.0
"""What is wrong with images themselves: dark, bright, blurred, frozen, dirty, with rolling lines, upside down."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from gaussianocc_core.onboarding.doctor.features import Cylinder
from gaussianocc_core.onboarding.doctor.sampling import Sampled

_STILL_LEVELS = 0.35  # mean grey levels between two images that are one; a sensor's noise alone makes more
_CHANGED_LEVELS = 1.5  # that another camera changes by meanwhile
_ELEVATION = np.sin(np.radians(4.0))
_LEAST_WAY, _LEAST_TIME = 15.0, 60.0  # m, or s without odometry, to tell dirt from the world
_AROUND = 41  # px, the neighbourhood of a spot
_AROUND_CHANGES = 4.0  # grey levels, standard deviation from image to image there, at the least
_SPOT_CHANGES = (0.08, 0.15)  # of that, for a spot
_SPOT_AREA = (0.0004, 0.03)  # of the image
_SPOT_CONTRAST = 4.0  # grey levels to what is around it
_BURNT_OUT = 250.0  # sky that is, changes as little as dirt
_LEAST_IMAGES = 10  # to tell dirt from the world
_LEAST_WAVES, _MOST_WAVES, _SAME_PERIOD = 4, 0.6, 0.15  # moments, share of them, ratio
_LINES_PERIOD = (6, 0.5)  # rows of the unrolled image, share of its height


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


def look_at_images(sampled: Sampled, T_ego_cam: Float[np.ndarray, "N 4 4"]) -> tuple[ImageFacts, ...]:
    count = len(sampled.cameras)
    changes = np.full((len(sampled.moments), count), np.nan)
    for n, moment in enumerate(sampled.moments):
        for k, (now, later) in enumerate(zip(moment.now, moment.later, strict=False)):
            changes[n, k] = float(cv2.absdiff(now.grey, later.grey)[sampled.cylinders[k].seen].mean())
    travelled = _travels(sampled)
    found = []
    for k in range(count):
        cylinder = sampled.cylinders[k]
        greys = [moment.now[k].grey for moment in sampled.moments]
        inside = cylinder.seen
        every = greys + [moment.later[k].grey for moment in sampled.moments if moment.later]
        dirt = _find_dirt(every, cylinder) if travelled else np.zeros_like(inside)
        others = np.delete(changes, k, axis=1)
        moving = (
            np.nanmax(others, axis=1, initial=0.0) > _CHANGED_LEVELS if count > 1 and len(others) else np.zeros(0, bool)
        )
        same = changes[:, k] < _STILL_LEVELS
        found.append(
            ImageFacts(
                float(np.mean([grey[inside].mean() for grey in greys])),
                float(np.mean([(grey[inside] >= 250).mean() for grey in greys])),
                float(np.median([_sharpness(grey, inside) for grey in greys])),
                float(np.median([len(moment.now[k].features) for moment in sampled.moments])),
                float(same[moving].mean()) if moving.sum() >= 3 else 0.0,
                float(dirt[inside].mean()),
                dirt,
                _rolling([_lines(m.now[k].grey, m.later[k].grey, inside) for m in sampled.moments if m.later]),
                _sky_below(greys, cylinder, T_ego_cam[k, :3, :3]),
            )
        )
    return tuple(found)


def _travels(sampled: Sampled) -> bool:
    """Whether the moments lie far enough apart that nothing in the world stays where it is in the image."""
    if not sampled.moments:
        return False
    first, last = sampled.moments[0].now[0], sampled.moments[-1].now[0]
    places = [m.now[0].T_world_ego[:3, 3] for m in sampled.moments if m.now[0].T_world_ego is not None]
    metres = float(np.linalg.norm(np.diff(places, axis=0), axis=1).sum()) if len(places) > 1 else 0.0
    return metres > _LEAST_WAY or (not places and (last.stamp_ns - first.stamp_ns) * 1e-9 > _LEAST_TIME)


def _sharpness(grey: UInt8[np.ndarray, "h w"], inside: np.ndarray) -> float:
    """Energy of the finest detail over that of twice the size, where there are edges at all."""
    values = grey.astype(np.float32)
    once, twice = cv2.GaussianBlur(values, (0, 0), 1.0), cv2.GaussianBlur(values, (0, 0), 2.5)
    fine, coarse = np.abs(values - once), np.abs(once - twice)
    edges = inside & (coarse > np.percentile(coarse[inside], 80))
    return float(fine[edges].mean() / max(float(coarse[edges].mean()), 1e-3))


def _find_dirt(greys: list[np.ndarray], cylinder: Cylinder) -> Bool[np.ndarray, "h w"]:
    """Spots that hardly change from image to image where all around them does."""
    nothing = np.zeros_like(cylinder.seen)
    if len(greys) < _LEAST_IMAGES:
        return nothing
    stack = np.stack([cv2.GaussianBlur(grey, (0, 0), 1.5) for grey in greys]).astype(np.float32)
    changes = stack.std(axis=0)  # not the median of them: what passes a spot only now and then counts too
    seen = cylinder.seen.astype(np.float32)
    weight = cv2.boxFilter(seen, -1, (_AROUND, _AROUND))
    around = cv2.boxFilter(changes * seen, -1, (_AROUND, _AROUND)) / np.maximum(weight, 1e-3)
    middle = np.median(stack, axis=0)
    found = nothing.copy()
    for share in _SPOT_CHANGES:  # at each level: a spot may touch a part of the world that changes little, such as sky
        spots = cylinder.seen & (middle < _BURNT_OUT) & (around > _AROUND_CHANGES) & (changes < share * around)
        found |= _round_spots(spots, middle, cylinder.seen)
    return found


def _round_spots(
    spots: Bool[np.ndarray, "h w"], middle: Float[np.ndarray, "h w"], seen: Bool[np.ndarray, "h w"]
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
        contrast = abs(float(np.median(middle[spot])) - float(np.median(middle[ring])))
        if contrast > _SPOT_CONTRAST:
            found |= spot
    return found


def _rolling(waves: list[tuple[float, float]]) -> float:
    """Amplitude of waves (amplitude, period) that most moments have with one period: what moves in the world makes
    waves too, of any period."""
    periods = [period for amplitude, period in waves if amplitude > 0]
    if len(periods) < max(_LEAST_WAVES, _MOST_WAVES * len(waves)):
        return 0.0
    alike = np.abs(np.log(np.array(periods) / np.median(periods))) < _SAME_PERIOD
    return float(np.median([amplitude for amplitude, _ in waves])) if alike.mean() > _MOST_WAVES else 0.0


def _lines(now: np.ndarray, later: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    """Amplitude (grey levels) and period (rows) of a wave of the rows' brightness that two images do not share; 0 where
    none stands out."""
    rows = inside.mean(axis=1) > 0.5
    if rows.sum() < 40:
        return 0.0, 1.0
    difference = np.where(inside, now.astype(np.float32) - later, np.nan)[rows]
    profile = np.nanmedian(difference, axis=1)
    at = np.arange(len(profile))
    profile = profile - np.polyval(np.polyfit(at, profile, 3), at)
    spectrum = np.abs(np.fft.rfft(profile * np.hanning(len(profile)))) * 4 / len(profile)
    period = len(profile) / np.maximum(np.arange(len(spectrum)), 1e-9)
    allowed = (period > _LINES_PERIOD[0]) & (period < _LINES_PERIOD[1] * len(profile))
    if not allowed.any():
        return 0.0, 1.0
    best = int(np.argmax(np.where(allowed, spectrum, 0.0)))
    peak = float(spectrum[best])
    stands_out = peak > 5 * float(np.median(spectrum[allowed])) and peak > 0.8 * float(profile.std())
    return (peak, float(period[best])) if stands_out else (0.0, 1.0)


def _sky_below(greys: list[np.ndarray], cylinder: Cylinder, R_ego_cam: np.ndarray) -> float:
    v, u = np.mgrid[0 : greys[0].shape[0] : 4, 0 : greys[0].shape[1] : 4]
    up = cylinder.rays(np.stack([u.ravel(), v.ravel()], axis=1).astype(float)) @ R_ego_cam[2]
    up = up.reshape(u.shape)
    seen = cylinder.seen[::4, ::4]
    above, below = seen & (up > _ELEVATION), seen & (up < -_ELEVATION)
    if min(above.sum(), below.sum()) < 0.1 * seen.sum():
        return float("nan")
    votes = []
    for grey in greys:
        small = cv2.GaussianBlur(grey, (0, 0), 2.0)[::4, ::4].astype(np.float32)
        rough = np.abs(cv2.Laplacian(grey, cv2.CV_32F))[::4, ::4]
        brighter = float(small[below].mean()) > 1.25 * float(small[above].mean()) + 8
        smoother = float(rough[below].mean()) < 0.6 * float(rough[above].mean())
        votes.append(brighter and smoother)
    return float(np.mean(votes))
