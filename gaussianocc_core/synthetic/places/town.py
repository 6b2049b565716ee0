# SPDX-License-Identifier: Apache-2.0
"""Streets as a distribution: widths, what lies beside them, how densely they are filled, and who drives where."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gaussianocc_core.synthetic import furniture, people, things
from gaussianocc_core.synthetic import ground as gr
from gaussianocc_core.synthetic.course import LEAD, Course, draw_speed, follow
from gaussianocc_core.synthetic.fleet import Vehicle
from gaussianocc_core.synthetic.layout import Layout
from gaussianocc_core.synthetic.places.light import draw_daylight
from gaussianocc_core.synthetic.places.site import Site
from gaussianocc_core.synthetic.shapes import PrimitiveTable
from gaussianocc_core.synthetic.streets import START, Street, chain, draw_ground

_BEHIND = LEAD + 2.0  # m of way behind the start


@dataclass(frozen=True)
class _OnCourse:
    """The ego as the traffic sees it."""

    course: Course
    speed: float  # m/s

    def along(self, time: float) -> float:
        return START - _BEHIND + self.course.start() + self.course.distance(time)


@dataclass
class _VariedLayout(Layout):
    """A street where walkers keep out of the way of a robot on the pavement, and with more beside the way."""

    line: float = 0.0  # d of the ego's way, m left of the centre line
    clearance: float = 0.0  # to each side of it, m; 0: the ego is on the road

    def clear(self, path, low: float, high: float) -> None:
        """Let nothing stand where a robot goes."""
        for s in np.arange(low, high, 0.4):
            x, y, _ = path.at(float(s))
            self._circles.append((x, y, self.clearance))

    def beside_the_way(self, low: float, high: float, every: float) -> None:
        """Poles, boxes, hedges, walls and things of no class close to kerb and pavement, on both sides."""
        rng, street = self.rng, self.street
        for side in (1, -1):
            wide = street.verge(side) + street.walk(side)
            s = low
            while s < high:
                draw, size = rng.random(), float(np.exp(rng.uniform(math.log(0.2), math.log(1.2))))
                length = float(rng.uniform(1.5, 5.0))
                e = float(rng.choice([rng.uniform(0.36, 0.8), rng.uniform(0.3, max(wide, 0.6))]))
                if draw < 0.22:
                    self.put_beside(things.pole(rng), s, side, e, 0.15)
                elif draw < 0.45:
                    self.put_beside(things.oddity(rng, size), s, side, e + 0.5 * size, 0.6 * size)
                elif draw < 0.60:
                    self.put_beside(things.crate(rng, size), s, side, e + 0.5 * size, 0.75 * size)
                elif draw < 0.68:
                    self.put_beside(furniture.traffic_cone(rng), s, side, e, 0.25)
                elif draw < 0.76:
                    self.put_beside(furniture.sign(rng), s, side, e, 0.3, turn=-0.5 * math.pi)
                elif draw < 0.84:
                    self.put_beside(furniture.hedge(rng, length), s, side, wide + 0.5, 0.45 * length)
                elif draw < 0.92:
                    wall = things.wall(rng, length, float(rng.uniform(0.6, 2.4)), 0.2)
                    self.put_beside(wall, s, side, wide + 0.3, 0.45 * length, turn=0.5 * math.pi)
                else:
                    self.put_beside(things.shrub(rng), s, side, max(e, 0.9), 0.7)
                s += every * float(rng.uniform(0.4, 1.6))

    def _walker(self, looks: people.Looks, s0: float, velocity: float, d: float, phase: float) -> None:
        gap = self.clearance + 0.45
        if self.clearance > 0.0 and abs(d - self.line) < gap:  # step aside, towards the houses
            d = self.line + math.copysign(gap, self.line)
        super()._walker(looks, s0, velocity, d, phase)


def build_street(rng: np.random.Generator, vehicle: Vehicle, duration: float, seed: int) -> Site:
    """A street for this vehicle: cars keep to the lane and may turn off, robots mostly use the pavement."""
    left, right = (str(rng.choice(["urban", "suburban", "park"], p=[0.45, 0.35, 0.2])) for _ in range(2))
    along = draw_speed(rng, vehicle, duration)
    reach = float(np.ptp(along)) + 2.0 * LEAD
    straight = rng.random() < 0.4
    segments = chain(_course(rng, reach, straight), float(rng.uniform(-math.pi, math.pi)))
    ground = draw_ground(rng, seed, (left, right))
    _vary(rng, ground)
    street = Street(segments, np.zeros((0, 7)), ground)
    if straight:
        street = Street(segments, _crossings(rng, street, reach), ground)
    on_walk = vehicle.kind == "robot" and rng.random() < 0.75
    d = -0.5 * float(ground[gr.LANE])
    if on_walk:
        d = -(street.half(-1) + street.verge(-1) + street.walk(-1) * float(rng.uniform(0.4, 0.6)))
    turns = not on_walk and len(street.crosses) > 0 and rng.random() < 0.5
    line = _lane(rng, street, d, reach, turns, 0.25 if on_walk else 0.35)
    path = follow(line, vehicle.turning_radius, reach + 30.0)
    course = Course.draw(rng, vehicle, path, along)
    speed = max(float(np.ptp(along)) / duration, 0.5)
    layout = _VariedLayout(
        street, _OnCourse(course, speed), rng, line=d, clearance=vehicle.clearance if on_walk else 0.0
    )
    low, high = course.travelled()
    if on_walk:
        layout.clear(path, low - 1.0, high + float(rng.uniform(1.0, 12.0)))
    busy = float(rng.uniform(0.1, 1.0))
    layout.beside_the_way(START - 20.0, START + reach + 40.0, 2.5 / busy)
    layout.build((left, right), reach + 20.0, busy)
    light, dark = draw_daylight(rng, seed)

    def pose(time: float) -> Float[np.ndarray, "4 4"]:
        T = course.pose(time)
        if on_walk:  # over a ramp where it crosses a street
            outside = street.kerb_distance(T[0, 3], T[1, 3])
            T[2, 3] += float(ground[gr.KERB_HEIGHT]) * min(max(outside + 0.5, 0.0), 1.0)
        return T

    static = PrimitiveTable.concatenate(layout.static)
    return Site(
        f"Procedural street, {left} and {right}, {vehicle.kind}",
        static,
        tuple(layout.actors),
        segments,
        street.crosses,
        ground,
        light,
        pose,
        dark,
    )


def _course(rng, reach: float, straight: bool) -> list[tuple[float, float]]:
    """Lengths and curvatures of the street's pieces, with bends where the ego will be during the drive."""
    if straight:
        return [(START + reach + 270.0, 0.0)]
    pieces, left = [(START + float(rng.uniform(-12.0, 0.4 * reach)), 0.0)], reach + 30.0
    turned = 0.0
    while left > 0.0:
        radius, angle = float(rng.uniform(24.0, 80.0)), float(rng.uniform(0.3, 1.2))
        # Against the last bend where the street has turned far, so that it does not meet itself.
        sign = -math.copysign(1.0, turned) if abs(turned) > 0.7 else (1.0 if rng.random() < 0.5 else -1.0)
        turned += sign * angle
        pieces += [(radius * angle, sign / radius), (float(rng.uniform(8.0, 30.0)), 0.0)]
        left -= pieces[-2][0] + pieces[-1][0]
    return [*pieces[:-1], (250.0, 0.0)]


def _vary(rng, g: Float[np.ndarray, " parameters"]) -> None:
    """Narrow lanes to wide roads, thin pavements to wide ones, dark to bleached surfaces."""
    lane = float(g[gr.LANE])
    g[gr.LANE] = lane * float(rng.uniform(0.85, 1.25))
    for half, walk in ((gr.HALF_L, gr.WALK_L), (gr.HALF_R, gr.WALK_R)):
        g[half] += g[gr.LANE] - lane
        g[walk] = max(1.5, g[walk] * float(rng.uniform(0.7, 1.5)))
    g[gr.TONE] *= float(rng.uniform(0.6, 1.8))
    g[gr.PAVER] = float(rng.uniform(0.2, 1.2))
    g[gr.GRASS] = float(rng.uniform(0.0, 0.8))
    g[gr.FINE] = float(rng.uniform(0.4, 1.2))


def _crossings(rng, street: Street, reach: float) -> Float[np.ndarray, "X 7"]:
    """Up to two crossing streets, the first where the ego will be during the drive."""
    rows, s = [], START + float(rng.uniform(8.0, max(14.0, 0.7 * reach)))
    for _ in range(int(rng.integers(0, 3))):
        x, y, heading = street.at(s, 0.0)
        rows.append((x, y, -math.sin(heading), math.cos(heading), rng.uniform(3.3, 5.0), 95.0, s))
        s += rng.uniform(60, 110)
    return np.array(rows, dtype=np.float64).reshape(-1, 7)


def _lane(rng, street: Street, d: float, reach: float, turns: bool, sway: float) -> Float[np.ndarray, "P 2"]:
    """The line to follow: swaying within the lane, and if it turns, to the right into the first crossing street."""
    sway, period, phase = rng.uniform(0.05, sway), rng.uniform(2.5, 20.0), rng.uniform(0, 2 * math.pi)
    steps = np.arange(-_BEHIND, reach + 40.0, 0.5)
    line = np.array([street.at(START + s, d + sway * math.sin(s / period + phase))[:2] for s in steps])
    if not turns:
        return line
    s, half = street.crosses[0, gr.C_S], street.crosses[0, gr.C_HALF]
    radius = street.half(-1) + d + float(street.ground[gr.FILLET])  # round the corner of the kerb
    begin = s - START - radius + 0.5 * half
    straight = line[steps < begin]
    x, y, heading = street.at(START + begin, d)
    angles = np.linspace(0.0, 0.5 * math.pi, 24)
    u, v = radius * np.sin(angles), -radius * (1.0 - np.cos(angles))
    away = np.arange(0.5, 85.0, 0.5)
    u, v = np.concatenate([u, np.full(len(away), radius)]), np.concatenate([v, -radius - away])
    c, sn = math.cos(heading), math.sin(heading)
    return np.vstack([straight, np.column_stack([x + c * u - sn * v, y + sn * u + c * v])])
