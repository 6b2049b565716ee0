# SPDX-License-Identifier: Apache-2.0
"""From a figure to a mark and what to do about it. The limits are ours, and stand here once.

They come from what the shipped weights reach where they are known to work (held-out streets of our own) and to fail
(real night, unseen rigs); docs/viewer.md says how to read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

GREEN, YELLOW, RED, GREY = "green", "yellow", "red", "grey"


@dataclass(frozen=True)
class Limit:
    """A measure: up to `good` it is green, up to `fair` yellow, beyond red."""

    name: str
    good: float
    fair: float
    unit: str  # format of the value
    meaning: str
    advice: str


@dataclass(frozen=True)
class Mark:
    name: str
    value: str
    color: str
    meaning: str
    advice: str  # "" where nothing is to be done
    limits: str  # from where on it is green and yellow


_CALIBRATION = (
    "Check the cameras' calibration and places: tools/inspect_bag.py shows what it doubts. Then train longer."
)
LIMITS = {
    each[0]: Limit(*each[1:])
    for each in (
        (
            "overlap",
            "cameras agree",
            0.10,
            0.25,
            "{:.2f}",
            "Two cameras that see the same point: median difference of their depths, |log ratio|.",
            _CALIBRATION,
        ),
        (
            "stereo",
            "depth agrees with classical stereo",
            0.10,
            0.25,
            "{:.2f}",
            "Depth network against semi-global matching between two cameras, which is metric: |log ratio|, median.",
            "Train the first stage on this rig: its scale comes from this overlap. Check the distance of the cameras.",
        ),
        (
            "vanished",
            "obstacles stay",
            0.08,
            0.20,
            "{:.0%}",
            "Obstacles of one moment that are published as free half a second later, though nobody moved them.",
            "Raise `caution`, or switch on `fusion` in the node. Where much moves by itself, expect some.",
        ),
        (
            "blocked",
            "the path that was driven is free",
            0.02,
            0.10,
            "{:.0%}",
            "Moments in which an obstacle stands on the path that the robot then drove: ghosts, or followed vehicles.",
            "Look at the worst moments below. If the robot sees itself: tools/make_masks.py. Else its height.",
        ),
        (
            "height",
            "the ground lies at z = 0",
            0.10,
            0.25,
            "{:.2f} m",
            "Height of the ground that depth shows, over z = 0 of the base frame under the robot; median, absolute.",
            "Correct the height of base_link or of the cameras in TF or the rig file; or depth's scale is off.",
        ),
        (
            "tilt",
            "the ground is level",
            1.0,
            3.0,
            "{:.1f} deg",
            "Tilt of that ground against the base frame; median.",
            "Correct the cameras' pitch and roll in TF or the rig file.",
        ),
        (
            "length",
            "motion by images has the right length",
            0.10,
            0.25,
            "{:.0%}",
            "Length of the motion that the images show against odometry's, over a second: median deviation.",
            "Train the first stage on this rig with odometry. Check that odometry is in metres and not delayed.",
        ),
        (
            "rotation",
            "motion by images turns as odometry does",
            0.5,
            1.5,
            "{:.2f} deg",
            "Mean rotation between the motion seen by the images and odometry's, over a second.",
            "Check time stamps: tools/inspect_bag.py finds clocks that disagree. Check the cameras' yaw.",
        ),
        (
            "lost",
            "motion by images holds",
            0.02,
            0.15,
            "{:.0%}",
            "Moments whose motion the images did not give.",
            "Blur, darkness or too low a rate: record at 10 Hz or more, with short exposure.",
        ),
        (
            "doubt",
            "the model is sure",
            0.35,
            0.5,
            "{:.2f}",
            "1 - mean confidence of what is published as occupied.",
            "It has seen little like this: train it on recordings of this place.",
        ),
        (
            "unknown",
            "the surroundings are known",
            0.5,
            0.75,
            "{:.0%}",
            "Of what cameras see within 10 m, the share that is published as hidden or in doubt.",
            "More cameras, or higher ones; lower `caution` publishes more as free.",
        ),
        (
            "missed",
            "no obstacle is called free",
            0.05,
            0.15,
            "{:.0%}",
            "Obstacle points of the truth, within 10 m or where the figure says, that lie in voxels published as free.",
            "Do not drive by it yet. Raise `caution`; train on this rig; see which ones in the worst moments.",
        ),
        (
            "unfound",
            "obstacles are found",
            0.4,
            0.7,
            "{:.0%}",
            "Obstacle points of the truth, within 10 m or where the figure says, in no occupied voxel.",
            "Train on this rig. Unknown is not free: a planner that keeps out of it is safe, but stands still.",
        ),
        (
            "ghosts",
            "few ghosts",
            0.15,
            0.35,
            "{:.0%}",
            "Published obstacle columns, within 10 m or where the figure says, without a point of the truth near them.",
            "Lower `caution`; mask the robot's own body; train on this rig.",
        ),
        (
            "depth",
            "depth is right",
            0.10,
            0.20,
            "{:.3f}",
            "Mean |estimate - truth| / truth (Abs Rel) of the first way to depth.",
            "Train the first stage on this rig; flat ground beside it says how much is learnt at all.",
        ),
        (
            "scale",
            "depth is metric",
            0.05,
            0.15,
            "{:.0%}",
            "Median of true over estimated depth: deviation from 1.",
            "Give odometry or overlapping cameras to the first stage: without either there is no scale.",
        ),
    )
}
_COLORLESS = "not measured: {}"


def mark(key: str, value: float | None, why_not: str = "the recording lacks what it needs") -> Mark:
    limit = LIMITS[key]
    if value is None or value != value:
        return Mark(limit.name, "-", GREY, limit.meaning, _COLORLESS.format(why_not), _limits(limit))
    size = abs(value)
    color = GREEN if size <= limit.good else YELLOW if size <= limit.fair else RED
    return Mark(
        limit.name,
        limit.unit.format(value),
        color,
        limit.meaning,
        "" if color == GREEN else limit.advice,
        _limits(limit),
    )


def verdict(marks: Sequence[Mark]) -> Mark:
    """All in one line: the worst of what was measured decides."""
    colors = [each.color for each in marks if each.color != GREY]
    red, yellow = colors.count(RED), colors.count(YELLOW)
    if not colors:
        return Mark("verdict", "nothing could be measured", GREY, "", "", "")
    if red:
        return Mark("verdict", f"not to be driven by yet: {red} of {len(colors)} measures are red", RED, "", "", "")
    if yellow:
        return Mark("verdict", f"usable with care: {yellow} of {len(colors)} measures are yellow", YELLOW, "", "", "")
    return Mark("verdict", f"all {len(colors)} measures are green", GREEN, "", "", "")


def _limits(limit: Limit) -> str:
    return f"green to {limit.unit.format(limit.good)}, yellow to {limit.unit.format(limit.fair)}"
