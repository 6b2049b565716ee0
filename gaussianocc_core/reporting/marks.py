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
            "depth of overlapping cameras: difference",
            0.10,
            0.25,
            "{:.2f}",
            "Where two cameras see the same point: |log| of the ratio of their two depths. Median.",
            _CALIBRATION,
        ),
        (
            "stereo",
            "depth against classical stereo: difference",
            0.10,
            0.25,
            "{:.2f}",
            "|log| of the ratio of the network's depth and that of OpenCV's stereo matching, which is metric. Median.",
            "Train the first stage on this rig: its scale comes from this overlap. Check the distance of the cameras.",
        ),
        (
            "vanished",
            "obstacles that vanish",
            0.08,
            0.20,
            "{:.0%}",
            "Share of the obstacles that are published as free half a second later. Things that move count too.",
            "Raise caution, or switch on fusion in the node. Where many things move, expect some.",
        ),
        (
            "blocked",
            "moments with a blocked path",
            0.02,
            0.10,
            "{:.0%}",
            "Share of the moments with an obstacle on the path that the robot then drove: a ghost, or a vehicle ahead.",
            "Look at the worst moments below. If a camera sees the robot itself: tools/make_masks.py.",
        ),
        (
            "height",
            "height of the ground",
            0.10,
            0.25,
            "{:.2f} m",
            "How far the ground near the robot, by depth, lies above or below z = 0 of the base frame. Median.",
            "Correct the height of base_link or of the cameras in TF or the rig file. Or the scale of depth is wrong.",
        ),
        (
            "tilt",
            "tilt of the ground",
            1.0,
            3.0,
            "{:.1f} deg",
            "Angle between that ground and the x-y plane of the base frame. Median.",
            "Correct the cameras' pitch and roll in TF or the rig file.",
        ),
        (
            "length",
            "motion by images: error of its length",
            0.10,
            0.25,
            "{:.0%}",
            "Motion over one second: how much longer or shorter the images see it than odometry. Median.",
            "Train the first stage on this rig with odometry. Check that odometry is in metres and not delayed.",
        ),
        (
            "rotation",
            "motion by images: error of its turns",
            0.5,
            1.5,
            "{:.2f} deg",
            "Motion over one second: the angle between the turn by the images and the turn by odometry. Mean.",
            "Check time stamps: tools/inspect_bag.py finds clocks that disagree. Check the cameras' yaw.",
        ),
        (
            "lost",
            "motion by images: not found",
            0.02,
            0.15,
            "{:.0%}",
            "Share of the moments in which the images did not show how the robot moved.",
            "The images are blurred, dark or too rare: record at 10 Hz or more, with short exposure.",
        ),
        (
            "doubt",
            "doubt about what is occupied",
            0.35,
            0.5,
            "{:.2f}",
            "1 minus the mean confidence of the occupied voxels.",
            "The model has seen few places like this one: train it on recordings of this place.",
        ),
        (
            "unknown",
            "unknown within 10 m",
            0.5,
            0.75,
            "{:.0%}",
            "Share of the voxels in view within 10 m that are published as hidden (254): behind things, or in doubt.",
            "Use more cameras, or mount them higher. A lower caution publishes more as free.",
        ),
        (
            "missed",
            "obstacles missed: called free",
            0.05,
            0.15,
            "{:.0%}",
            "Share of the true obstacle points that lie in voxels published as free. Within 10 m or the range named.",
            "Raise caution; train on recordings of this rig. While this is red, do not drive by the model.",
        ),
        (
            "unfound",
            "obstacles not found: free or unknown",
            0.4,
            0.7,
            "{:.0%}",
            "Share of the true obstacle points that lie in no occupied voxel. Within 10 m or the range named.",
            "Train on recordings of this rig. A planner that keeps out of unknown space may not get through.",
        ),
        (
            "ghosts",
            "ghosts: obstacles that do not exist",
            0.15,
            0.35,
            "{:.0%}",
            "Share of the published obstacles without a true point within 0.8 m. Within 10 m or the range named.",
            "Lower caution; mask the robot's own body; train on recordings of this rig.",
        ),
        (
            "depth",
            "depth error (Abs Rel)",
            0.10,
            0.20,
            "{:.3f}",
            "Mean of |estimate - truth| / truth, of the depth that is rendered from the voxels.",
            "Train the first stage on recordings of this rig. The table below has what flat ground gets.",
        ),
        (
            "scale",
            "error of the depth's scale",
            0.05,
            0.15,
            "{:.0%}",
            "How far the median of true depth / estimated depth is from 1.",
            "Train the first stage with odometry or with cameras that overlap: they give the scale.",
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
        return Mark("verdict", f"do not drive by it yet: {red} of {len(colors)} {_are(red)} red", RED, "", "", "")
    if yellow:
        return Mark("verdict", f"usable with care: {yellow} of {len(colors)} {_are(yellow)} yellow", YELLOW, "", "", "")
    return Mark("verdict", f"all {len(colors)} measures are green", GREEN, "", "", "")


def _are(count: int) -> str:
    return "measures is" if count == 1 else "measures are"


def _limits(limit: Limit) -> str:
    return f"green to {limit.unit.format(limit.good)}, yellow to {limit.unit.format(limit.fair)}"
