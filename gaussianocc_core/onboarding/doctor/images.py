# SPDX-License-Identifier: Apache-2.0
"""What is wrong with images themselves: dark, bright, blurred, frozen, dirty, with rolling lines, upside down."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float

from gaussianocc_core.onboarding.doctor.image_facts import (
    CHANGED_LEVELS,
    STILL_LEVELS,
    Halves,
    ImageFacts,
    find_dirt,
    find_halves,
    find_passing,
    sharpness,
    sky_is_below,
)
from gaussianocc_core.onboarding.doctor.sampling import Sampled

_LEAST_WAY, _LEAST_TIME = 15.0, 60.0  # m, or s without odometry, to tell dirt from the world
_LEAST_WAVES, _MOST_WAVES, _SAME_PERIOD = 4, 0.6, 0.15  # moments, share of them, ratio
_LINES_PERIOD = (6, 0.5)  # rows of the unrolled image, share of its height


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
        every = [moment.now[k] for moment in sampled.moments] + [m.later[k] for m in sampled.moments if m.later]
        poses = [shot.T_world_ego for shot in every if shot.T_world_ego is not None]
        passing = find_passing(cylinder, T_ego_cam[k], poses) if poses else None
        dirt = np.zeros_like(inside)
        if travelled:
            dirt = find_dirt([shot.grey for shot in every], inside, passing)
        others = np.delete(changes, k, axis=1)
        moving = (
            np.nanmax(others, axis=1, initial=0.0) > CHANGED_LEVELS if count > 1 and len(others) else np.zeros(0, bool)
        )
        same = changes[:, k] < STILL_LEVELS
        found.append(
            ImageFacts(
                float(np.mean([grey[inside].mean() for grey in greys])),
                float(np.mean([(grey[inside] >= 250).mean() for grey in greys])),
                _middle([sharpness(grey, inside) for grey in greys]),
                float(np.median([len(moment.now[k].features) for moment in sampled.moments])),
                float(same[moving].mean()) if moving.sum() >= 3 else 0.0,
                float(dirt[inside].mean()),
                dirt,
                _rolling([_lines(m.now[k].grey, m.later[k].grey, inside) for m in sampled.moments if m.later]),
                _sky_below(greys, find_halves(cylinder, T_ego_cam[k, :3, :3])),
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


def _sky_below(greys: list[np.ndarray], halves: Halves | None) -> float:
    return float("nan") if halves is None else float(np.mean([sky_is_below(grey, halves) for grey in greys]))


def _middle(values: list[float]) -> float:
    """Of those that are known."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.median(known)) if known else float("nan")
