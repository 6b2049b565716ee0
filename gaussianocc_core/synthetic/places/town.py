# SPDX-License-Identifier: Apache-2.0
"""Streets as a distribution: widths, what lies beside them, how densely they are filled, and who drives where."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gaussianocc_core.synthetic import ground as gr
from gaussianocc_core.synthetic.course import LEAD, Course, Wobble, draw_speed, follow
from gaussianocc_core.synthetic.fleet import Vehicle
from gaussianocc_core.synthetic.layout import Layout
from gaussianocc_core.synthetic.places.light import draw_daylight
from gaussianocc_core.synthetic.places.site import Site
from gaussianocc_core.synthetic.shapes import PrimitiveTable

from gaussianocc_core.synthetic.streets import (  # isort: skip
    START, Street, draw_crosses, draw_ground, draw_segments,
)  # fmt: skip


@dataclass(frozen=True)
class _OnCourse:
    """The ego as the traffic sees it."""

    course: Course
    speed: float  # m/s

    def along(self, time: float) -> float:
        return START + self.course.distance(time)


def build_street(rng: np.random.Generator, vehicle: Vehicle, duration: float, seed: int) -> Site:
    """A street for this vehicle: cars keep to the lane, robots mostly to the pavement."""
    course_kind = str(rng.choice(["straight", "bend", "s-bend"], p=[0.45, 0.3, 0.25]))
    sides = tuple(str(rng.choice(["urban", "suburban", "park"], p=[0.45, 0.35, 0.2])) for _ in range(2))
    along = draw_speed(rng, vehicle, duration)
    reach = float(np.ptp(along)) + 2.0 * LEAD
    length = reach + 20.0
    segments = draw_segments(rng, course_kind, length + 250.0)
    ground = draw_ground(rng, seed, (sides[0], sides[1]))
    street = Street(segments, np.zeros((0, 7)), ground)
    if course_kind == "straight":
        street = Street(segments, draw_crosses(rng, street, int(rng.integers(0, 3))), ground)
    # The line to follow: the lane, or for small robots the pavement.
    lane = -0.5 * float(ground[gr.LANE])
    on_walk = vehicle.kind == "robot" and rng.random() < 0.75
    if on_walk:
        walk = street.walk(-1)
        lane = -(street.half(-1) + street.verge(-1) + walk * float(rng.uniform(0.4, 0.6)))
    sway, period = float(rng.uniform(0.05, 0.25 if on_walk else 0.35)), float(rng.uniform(8.0, 30.0))
    steps = np.arange(-LEAD - 2.0, reach + 40.0, 0.5)
    phase = float(rng.uniform(0, 2 * math.pi))
    line = np.array([street.at(START + s, lane + sway * math.sin(s / period + phase))[:2] for s in steps])
    path = follow(line, vehicle.turning_radius, reach + 30.0)
    kerb = float(ground[gr.KERB_HEIGHT]) if on_walk else 0.0
    course = Course(path, along, Wobble.draw(rng, vehicle), max(0.3, 0.6 * vehicle.length))
    layout = Layout(street, _OnCourse(course, max(float(np.ptp(along)) / duration, 0.5)), rng)
    if on_walk:  # nothing stands where the robot goes
        for s in np.arange(0.0, path.length, 0.4):
            x, y, _ = path.at(float(s))
            layout._circles.append((x, y, vehicle.clearance))
    layout.build((sides[0], sides[1]), length, busy=float(rng.uniform(0.1, 1.0)))
    light, dark = draw_daylight(rng, seed)

    def pose(time: float):
        T = course.pose(time)
        T[2, 3] += kerb
        return T

    static = PrimitiveTable.concatenate(layout.static)
    return Site(
        f"Procedural street, {sides[0]} and {sides[1]}, {vehicle.kind}", static, tuple(layout.actors), segments,
        street.crosses, ground, light, pose, dark,
    )  # fmt: skip
