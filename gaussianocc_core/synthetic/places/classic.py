# SPDX-License-Identifier: Apache-2.0
"""The street that `World(seed)` has always been: claims and golden numbers refer to it, so it does not change."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gaussianocc_core.geometry.transforms import make_transform
from gaussianocc_core.synthetic.ground import LANE
from gaussianocc_core.synthetic.layout import Layout
from gaussianocc_core.synthetic.places.site import Site
from gaussianocc_core.synthetic.shapes import PrimitiveTable

from gaussianocc_core.synthetic.streets import (  # isort: skip
    START,
    Drive,
    Street,
    draw_crosses,
    draw_ground,
    draw_light,
    draw_segments,
)


@dataclass(frozen=True)
class _Style:
    course: str
    sides: tuple[str, str]  # left, right
    crossings: int
    busy: float  # 0-1


# Consecutive seeds differ in kind, so that even a handful of scenes covers curves, crossings and both town and suburb.
_STYLES = (
    _Style("straight", ("urban", "urban"), 1, 0.8),
    _Style("bend", ("suburban", "park"), 0, 0.4),
    _Style("s-bend", ("urban", "suburban"), 0, 0.6),
    _Style("straight", ("park", "urban"), 2, 0.7),
    _Style("bend", ("urban", "urban"), 0, 1.0),
    _Style("straight", ("suburban", "suburban"), 1, 0.3),
    _Style("s-bend", ("park", "suburban"), 0, 0.5),
    _Style("bend", ("urban", "park"), 0, 0.9),
)


def build_street(seed: int, duration: float) -> Site:
    """The street of this seed, long enough to drive for `duration` seconds."""
    rng = np.random.default_rng([20240822, seed])
    style = _STYLES[seed % len(_STYLES)]
    speed = float(rng.uniform(4.5, 9.5))
    length = speed * duration + 20.0
    segments = draw_segments(rng, style.course, length + 250.0)
    ground = draw_ground(rng, seed * 31 + 7, style.sides)
    street = Street(segments, np.zeros((0, 7)), ground)
    street = Street(segments, draw_crosses(rng, street, style.crossings), ground)
    lane_offset = -0.5 * float(ground[LANE])
    drive = Drive(
        speed=speed,
        swing=float(rng.uniform(0.05, 0.2)),
        period=float(rng.uniform(6, 12)),
        slow_start=float(rng.uniform(0.55, 0.8)) if rng.random() < 0.25 else 0.0,
        lane_offset=lane_offset,
        wander=float(rng.uniform(0.05, 0.2)),
        nodes=Drive.lane_nodes(street, lane_offset),
    )
    layout = Layout(street, drive, rng)
    layout.build(style.sides, length, busy=style.busy)
    light = draw_light(rng, seed * 17 + 3, street.at(START, 0.0)[2])

    def pose(time: float) -> Float[np.ndarray, "4 4"]:
        """Of the ego's rear axle on the ground."""
        s = drive.along(time)
        d, slope = drive.lateral(s)
        x, y, _ = street.at(s, d)
        x2, y2, _ = street.at(s + 0.05, d + 0.05 * slope)
        x1, y1, _ = street.at(s - 0.05, d - 0.05 * slope)
        yaw = math.atan2(y2 - y1, x2 - x1)
        c, sn = math.cos(yaw), math.sin(yaw)
        return make_transform(np.array([[c, -sn, 0.0], [sn, c, 0.0], [0.0, 0.0, 1.0]]), np.array([x, y, 0.0]))

    static = PrimitiveTable.concatenate(layout.static)
    return Site(
        f"Procedural street, world seed {seed}",
        static,
        tuple(layout.actors),
        segments,
        street.crosses,
        ground,
        light,
        pose,
    )
