# SPDX-License-Identifier: Apache-2.0
"""Whether recordings can teach anything, and what is missing where they cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gaussianocc_core.data.bag import BagEntry, BagSource
from gaussianocc_core.data.bag_cameras import several_rigs
from gaussianocc_core.onboarding.inspection import Inspection

_LEAST_SAMPLES = 40  # of all recordings; less is learnt by heart
_LEAST_CHANGE = 1.0  # grey levels between images, the median: with less nothing moves, or all is noise
_DARK = 8.0  # mean grey level
_LEAST_PARALLAX = 0.002  # shift of a point at `_MIDDLE` between neighbours, as a share of the image's width
_MIDDLE = 5.0  # m
_TURN = np.radians(0.3)  # to a neighbour; a robot that turns so much and moves less than the parallax only turns


@dataclass(frozen=True)
class Travel:
    """From a sample to its neighbours, by odometry; medians."""

    metres: float
    turn: float  # rad


def travel_of(entries: Sequence[BagEntry]) -> Travel | None:
    """None where no sample has poses."""
    metres, turns = [], []
    for entry in entries:
        for _, frame in entry.neighbours:
            if entry.frame.T_world_ego is None or frame.T_world_ego is None:
                continue
            T = np.linalg.inv(frame.T_world_ego[0]) @ entry.frame.T_world_ego[0]
            metres.append(float(np.linalg.norm(T[:3, 3])))
            turns.append(float(np.arccos(np.clip((np.trace(T[:3, :3]) - 1.0) / 2.0, -1.0, 1.0))))
    return Travel(float(np.median(metres)), float(np.median(turns))) if metres else None


@dataclass(frozen=True)
class Obstacle:
    """What is missing, and what to do."""

    text: str
    refuses: bool = True  # False: little is learnt, but something


def find_obstacles(looked_at: Sequence[tuple[BagSource, Sequence[BagEntry], Inspection]]) -> tuple[Obstacle, ...]:
    """Why nothing can be learnt from these recordings, each with what to do; () where something can.

    looked_at: of every recording its source, its samples and what inspection found.
    """
    found: list[Obstacle] = []
    if several := several_rigs({source.index.name: source.cameras.names for source, _, _ in looked_at}):
        found.append(Obstacle(f"{several}: give each rig a folder, or name --cameras"))
    samples = sum(inspection.samples for _, _, inspection in looked_at)
    if samples < _LEAST_SAMPLES:
        rate = max((camera.rate_hz for _, _, each in looked_at for camera in each.cameras), default=0.0)
        more = f", {(_LEAST_SAMPLES - samples) / rate:.0f} s more at {rate:.0f} Hz" if rate else ""
        text = f"too short: {samples} samples, at least {_LEAST_SAMPLES} are wanted{more}; ten minutes teach well"
        found.append(Obstacle(text, refuses=False))
    longest = max(looked_at, key=lambda each: each[2].samples)
    _, entries, inspection = longest
    if inspection.samples and all(camera.brightness < _DARK for camera in inspection.cameras):
        levels = ", ".join(f"{camera.name} {camera.brightness:.0f}" for camera in inspection.cameras)
        found.append(
            Obstacle(f"too dark: mean grey levels of 255 are {levels}; raise the exposure, or record by daylight")
        )
    travel = travel_of(entries)
    parallax = 0.0 if travel is None else 0.5 * travel.metres / _MIDDLE  # of a lens of 90 degrees, width 1
    least = 2.0 * _LEAST_PARALLAX * _MIDDLE  # m
    if travel is None and inspection.samples and inspection.change[1] < _LEAST_CHANGE:
        text = (
            f"at rest: the images change by {inspection.change[1]:.1f} grey levels to the next; drive while recording"
        )
        found.append(Obstacle(text))
    elif travel is not None and parallax < _LEAST_PARALLAX and travel.turn > _TURN:
        text = (
            f"it only turns: {np.degrees(travel.turn):.1f} degrees and {100 * travel.metres:.1f} cm to a neighbour, at "
            f"least {100 * least:.0f} cm are needed: drive along things, not on the spot"
        )
        found.append(Obstacle(text))
    elif travel is not None and parallax < _LEAST_PARALLAX:
        text = (
            f"at rest, or no parallax: {100 * travel.metres:.2f} cm to a neighbour, at least {100 * least:.0f} cm are "
            "needed: drive while recording, or look farther back, neighbour_time=0.5"
        )
        found.append(Obstacle(text))
    return tuple(found)
