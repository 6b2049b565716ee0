# SPDX-License-Identifier: Apache-2.0
"""What is said of a camera's images: dark, bright, blurred, frozen, dirty, with lines, upside down."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gaussianocc_core.onboarding.doctor.findings import LOOK, WRONG, Finding
from gaussianocc_core.onboarding.doctor.image_facts import ImageFacts
from gaussianocc_core.types import Cameras

_GREY = 100.0  # grey level of a usual image
_DARK, _BRIGHTER, _BURNT, _BLURRED = 12.0, 1.9, 0.35, 0.75
# Undamaged cameras of one size and lens had 0.89 to 1.12 of the others' sharpness, blurred by 1 px of 400 0.70 to 0.77.
_BLURRED_OF_ALIKE, _USUAL_SHARPNESS, _MOST_SHARPNESS = 0.8, 0.6, 0.64
_ALIKE_FOCAL = np.log(1.25)
_FROZEN, _DIRTY, _LINES, _SKY = 0.3, 0.004, 3.0, 0.7


def from_images(cameras: Cameras, images: Sequence[ImageFacts]) -> list[Finding]:
    found, names = [], cameras.names
    levels = [facts.brightness for facts in images]
    sharp = [facts.sharpness for facts in images]

    def add(k: int, verdict: str, kind: str, reason: str, size: float, unit: str, fix: str) -> None:
        found.append(Finding(names[k], verdict, kind, reason, size, unit, fix))

    for k, facts in enumerate(images):
        others = [level for i, level in enumerate(levels) if i != k and level >= _DARK]
        usual = float(np.median(others)) if others else facts.brightness
        if len(levels) == 2 and abs(np.log(facts.brightness / _GREY)) < abs(np.log(max(usual, 1.0) / _GREY)):
            usual = facts.brightness  # of two the other is the strange one
        if facts.brightness < _DARK:
            add(
                k,
                WRONG,
                "dark",
                f"it is dark: mean grey level {facts.brightness:.0f} of 255",
                facts.brightness,
                "levels",
                "take the cap off, or raise the exposure",
            )
        elif not 1 / _BRIGHTER < facts.brightness / max(usual, 1.0) < _BRIGHTER:
            add(
                k,
                LOOK,
                "brightness",
                f"its mean grey level is {facts.brightness:.0f}, that of the others {usual:.0f}",
                facts.brightness / max(usual, 1.0),
                "times",
                "let one exposure control all cameras",
            )
        if facts.burnt > _BURNT:
            add(
                k,
                LOOK,
                "burnt",
                f"{100 * facts.burnt:.0f} % of its pixels are burnt out",
                facts.burnt,
                "share",
                "lower the exposure",
            )
        known = [i for i in range(len(sharp)) if i != k and not np.isnan(sharp[i])]  # of a wall nothing is known
        best = float(np.median([sharp[i] for i in known])) if known else _USUAL_SHARPNESS
        least = _BLURRED * min(best, _USUAL_SHARPNESS)
        if alike := [sharp[i] for i in known if _alike(cameras, i, k)]:
            best = float(np.median(alike))
            least = _BLURRED_OF_ALIKE * min(best, _MOST_SHARPNESS)
        if facts.sharpness < least:
            add(
                k,
                LOOK,
                "blurred",
                f"its images are blurred: {facts.sharpness / max(best, 1e-3):.2f} of the others' finest detail",
                facts.sharpness / max(best, 1e-3),
                "times",
                "focus it, clean its lens, or shorten its exposure",
            )
        if facts.frozen > _FROZEN:
            add(
                k,
                WRONG,
                "frozen",
                f"it shows the same image again at {100 * facts.frozen:.0f} % of the moments while others change",
                facts.frozen,
                "share",
                "restart its driver; of a recording leave the stretch out (data.bag.begin, data.bag.end)",
            )
        if facts.dirty > _DIRTY:
            add(
                k,
                LOOK,
                "dirt",
                f"{100 * facts.dirty:.1f} % of its image never changes: dirt or drops on the lens, or the robot itself",
                facts.dirty,
                "share",
                "clean it, or mask it (tools/make_masks.py)",
            )
        if facts.lines > _LINES:
            add(
                k,
                LOOK,
                "rolling lines",
                f"bands of {facts.lines:.0f} grey levels roll through its images",
                facts.lines,
                "levels",
                "set the exposure to a multiple of the mains' half period (10 ms at 50 Hz)",
            )
        if facts.sky_below > _SKY:
            add(
                k,
                LOOK,
                "sky below",
                f"by calibration its sky lies below the horizon at {100 * facts.sky_below:.0f} % of the moments",
                facts.sky_below,
                "share",
                "is it mounted upside down?",
            )
    return found


def _alike(cameras: Cameras, i: int, j: int) -> bool:
    """Whether two cameras are of one size and lens, and so of one sharpness."""
    sides = [(cameras.width[k], cameras.height[k], cameras.model[k]) for k in (i, j)]
    first, second = (float(cameras.intrinsics[k, 0, 0]) for k in (i, j))
    return sides[0] == sides[1] and bool(abs(np.log(first / second)) < _ALIKE_FOCAL)
