# SPDX-License-Identifier: Apache-2.0
"""What a recording can teach and what it cannot: motion, parallax, overlap, texture and light, each from 0 to 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gaussianocc_core.onboarding.doctor.cross import CrossMatches, in_ego
from gaussianocc_core.onboarding.doctor.findings import Score
from gaussianocc_core.onboarding.doctor.image_facts import ImageFacts
from gaussianocc_core.onboarding.doctor.sampling import Sampled
from gaussianocc_core.onboarding.doctor.temporal import Step

_PARALLAX = np.radians(1.0)  # between moments, enough to see depth by
_MATCHES = 25.0  # per moment of two cameras, plenty
_FEATURES = 300.0
_TURN = np.radians(0.5)


def score(
    sampled: Sampled, steps: Sequence[Step], cross: Sequence[CrossMatches], images: Sequence[ImageFacts]
) -> tuple[Score, ...]:
    """By the images alone."""
    return (
        _motion(sampled, steps),
        _parallax(sampled, steps),
        _overlap(sampled, cross),
        _texture(sampled, images),
        _light(sampled, images),
    )


def _motion(sampled: Sampled, steps: Sequence[Step]) -> Score:
    tried = sum(bool(moment.later) for moment in sampled.moments)
    moving = {step.moment for step in steps if step.seen.ahead is not None}
    turning = {step.moment for step in steps if np.linalg.norm(step.seen.turn) > _TURN}
    share, turns = len(moving) / max(tried, 1), len(turning) / max(tried, 1)
    text = f"it moves at {100 * share:.0f} % of the moments and turns at {100 * turns:.0f} %"
    if share < 0.5:
        text += "; at rest nothing is learnt: drive while recording"
    elif turns < 0.1:
        text += "; straight roads teach depth, but not turning: add curves"
    return Score("motion", round(min(1.0, 0.8 * share + 2.0 * turns), 2), text)


def _parallax(sampled: Sampled, steps: Sequence[Step]) -> Score:
    each = []
    for k in range(len(sampled.cameras)):
        values = [step.seen.parallax for step in steps if step.camera == k]
        each.append(float(np.median(values)) if values else 0.0)
    middle = float(np.median(each)) if each else 0.0
    text = f"things shift by {np.degrees(middle):.1f} degrees from a moment to the next one looked at"
    if middle < 0.3 * _PARALLAX:
        text += "; too little to see depth by: drive closer to things, or look farther back (neighbour_time)"
    return Score("parallax", round(min(1.0, middle / _PARALLAX), 2), text)


def _overlap(sampled: Sampled, cross: Sequence[CrossMatches]) -> Score:
    T = sampled.cameras.T_ego_cam.detach().cpu().double().numpy()
    best = dict.fromkeys(range(len(T)), 0.0)
    for matches in cross:
        if len(matches):
            i, j = matches.cameras
            count = float(in_ego(matches, T[i], T[j]).consistent.sum()) / max(len(sampled.moments), 1)
            best[i], best[j] = max(best[i], count), max(best[j], count)
    value = float(np.mean([min(1.0, each / _MATCHES) for each in best.values()])) if best else 0.0
    alone = [name for k, name in enumerate(sampled.cameras.names) if best[k] < 1.0]
    text = f"a camera shares {np.mean(list(best.values())):.0f} features of a moment with another"
    if len(alone) == len(T):
        text += "; no metric scale comes from overlap: odometry must know it"
    elif alone:
        text += f"; {', '.join(alone)} shares none: its scale comes from the motion that all share"
    return Score("overlap", round(value, 2), text)


def _texture(sampled: Sampled, images: Sequence[ImageFacts]) -> Score:
    counts = [facts.features for facts in images]
    poor = [name for name, count in zip(sampled.cameras.names, counts, strict=True) if count < 0.25 * _FEATURES]
    text = f"{np.median(counts):.0f} features in an image" + (f"; {', '.join(poor)}: too few to match" if poor else "")
    return Score("texture", round(float(np.mean([min(1.0, count / _FEATURES) for count in counts])), 2), text)


def _light(sampled: Sampled, images: Sequence[ImageFacts]) -> Score:
    values = [min(1.0, facts.brightness / 50.0) * (1.0 - min(1.0, 2.0 * facts.burnt)) for facts in images]
    levels = [facts.brightness for facts in images]
    text = f"mean grey levels from {min(levels):.0f} to {max(levels):.0f} of 255"
    if min(values) < 0.4:
        worst = sampled.cameras.names[int(np.argmin(values))]
        text += f"; {worst} is too dark or burnt out"
    return Score("light", round(float(np.mean(values)), 2), text)
