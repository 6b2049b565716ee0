# SPDX-License-Identifier: Apache-2.0
"""The plan of a scene: course and cross-section of the road, crossing streets, the light, the ego's drive."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gaussianocc_core.synthetic import ground as gr
from gaussianocc_core.synthetic import scene

START = 60.0  # m along the road where the ego stands at time 0; the road goes on behind it


@dataclass(frozen=True)
class Street:
    """A road and its surroundings as the numbers that the ground kernels read (see ground.py for the columns)."""

    segments: Float[np.ndarray, "S 7"]
    crosses: Float[np.ndarray, "X 7"]
    ground: Float[np.ndarray, " parameters"]

    def at(self, s: float, d: float) -> tuple[float, float, float]:
        """World x, y and heading of the point s metres along and d metres left of the centre line."""
        k = int(np.searchsorted(self.segments[1:, gr.S0], s, side="right"))
        x, y, c, sn, kappa, _, s0 = self.segments[k]
        u = s - s0
        heading = math.atan2(sn, c) + kappa * u
        if kappa == 0.0:
            x, y = x + c * u, y + sn * u
        else:
            x += (math.sin(heading) - sn) / kappa
            y += (c - math.cos(heading)) / kappa
        return x - d * math.sin(heading), y + d * math.cos(heading), heading

    def half(self, side: int) -> float:
        return float(self.ground[gr.HALF_L if side > 0 else gr.HALF_R])

    def verge(self, side: int) -> float:
        return float(self.ground[gr.VERGE_L if side > 0 else gr.VERGE_R])

    def walk(self, side: int) -> float:
        return float(self.ground[gr.WALK_L if side > 0 else gr.WALK_R])

    def has_parking(self, side: int) -> bool:
        return bool(self.ground[gr.PARKING_L if side > 0 else gr.PARKING_R] > 0)

    def kerb_distance(self, x: float, y: float) -> float:
        """Metres outside the kerb of whichever street is nearest; negative on the road."""
        return float(gr.kerb_distance_at(float(x), float(y), self.segments, self.crosses, self.ground))


@dataclass(frozen=True)
class Drive:
    """How the ego moves along the road: the distance covered is smooth in time and never jumps."""

    speed: float  # m/s
    swing: float  # share of the speed that comes and goes
    period: float  # s
    slow_start: float  # share of the speed missing at time 0
    lane_offset: float  # m left of the centre line
    wander: float  # m, slow drift within the lane
    nodes: tuple[
        tuple[float, ...], tuple[float, ...]
    ]  # s, and metres along the lane from START there (piecewise linear)

    @staticmethod
    def lane_nodes(street: Street, lane_offset: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The inside of a bend is shorter: without this, the car's speed would jump where the bend begins."""
        s, lane = [-1e6], [0.0]
        ends = [*street.segments[1:, gr.S0], 1e6]
        for segment, end in zip(street.segments, ends, strict=True):
            lane.append(lane[-1] + (end - s[-1]) * (1.0 - segment[gr.CURVATURE] * lane_offset))
            s.append(float(end))
        start = float(np.interp(START, s, lane))
        return tuple(s), tuple(value - start for value in lane)

    def along(self, time: float) -> float:
        """s of the ego."""
        s, lane = self.nodes
        return float(np.interp(self.distance(time), lane, s))

    def distance(self, time: float) -> float:
        """Metres driven since time 0."""
        omega = 2.0 * math.pi / self.period
        steady = time + self.swing / omega * (1.0 - math.cos(omega * time))
        missing = self.slow_start * 2.5 * (1.0 - math.exp(-max(time, -5.0) / 2.5))
        return self.speed * (steady - missing)

    def lateral(self, s: float) -> tuple[float, float]:
        """Offset d and its slope along s."""
        return self.lane_offset + self.wander * math.sin(s / 14.0), self.wander / 14.0 * math.cos(s / 14.0)


def draw_segments(rng, kind: str, length: float) -> Float[np.ndarray, "S 7"]:
    """Lines and arcs, tangent to each other: straight, one bend, or two opposite bends soon after the start."""
    pieces: list[tuple[float, float]] = [(length + START, 0.0)]  # (length, curvature)
    turn = 1.0 if rng.random() < 0.5 else -1.0
    if kind == "bend":
        radius, angle = rng.uniform(38, 80), math.radians(rng.uniform(30, 80))
        pieces = [(START + rng.uniform(4, 22), 0.0), (radius * angle, turn / radius), (length, 0.0)]
    elif kind == "s-bend":
        radius, angle = rng.uniform(45, 90), math.radians(rng.uniform(16, 34))
        arc = radius * angle
        pieces = [
            (START + rng.uniform(2, 12), 0.0),
            (arc, turn / radius),
            (rng.uniform(10, 25), 0.0),
            (arc, -turn / radius),
            (length, 0.0),
        ]
    return chain(pieces, float(rng.uniform(-math.pi, math.pi)))


def chain(pieces: list[tuple[float, float]], heading: float) -> Float[np.ndarray, "S 7"]:
    """Rows of lines and arcs of these lengths (m) and curvatures (1/m), tangent to each other, from the origin on."""
    rows, x, y, s = [], 0.0, 0.0, 0.0
    for piece, kappa in pieces:
        rows.append((x, y, math.cos(heading), math.sin(heading), kappa, piece, s))
        turned = heading + kappa * piece
        if kappa == 0.0:
            x, y = x + piece * math.cos(heading), y + piece * math.sin(heading)
        else:
            x += (math.sin(turned) - math.sin(heading)) / kappa
            y += (math.cos(heading) - math.cos(turned)) / kappa
        heading, s = turned, s + piece
    return np.array(rows, dtype=np.float64)


def draw_ground(rng, seed: int, sides: tuple[str, str]) -> Float[np.ndarray, " parameters"]:
    """Cross-section of the street; `sides` says what lies left and right: urban, suburban or park."""
    g = np.zeros(gr.PARAMETERS)
    g[gr.LANE] = rng.uniform(3.2, 3.7)
    g[gr.KERB_HEIGHT] = rng.uniform(0.10, 0.15)
    g[gr.FILLET] = rng.uniform(4.0, 6.5)
    for side, half, verge, walk, parking, plaza in (
        (sides[0], gr.HALF_L, gr.VERGE_L, gr.WALK_L, gr.PARKING_L, gr.PLAZA_L),
        (sides[1], gr.HALF_R, gr.VERGE_R, gr.WALK_R, gr.PARKING_R, gr.PLAZA_R),
    ):
        g[parking] = float(rng.random() < (0.8 if side == "urban" else 0.45))
        g[half] = g[gr.LANE] + (2.3 if g[parking] else 0.35)
        g[verge] = 0.0 if side == "urban" else rng.uniform(1.4, 2.6)
        g[walk] = rng.uniform(3.2, 5.2) if side == "urban" else rng.uniform(1.7, 2.4)
        g[plaza] = float(side == "urban")
    g[gr.KERB_STYLE] = float(rng.random() < 0.35)
    g[gr.TONE] = rng.uniform(0.105, 0.165)
    g[gr.CENTRE_STYLE] = float(rng.choice([0, 0, 0, 1, 2]))
    g[gr.PAVER] = rng.uniform(0.5, 0.9)
    g[gr.GRASS] = rng.uniform(0.05, 0.55)
    g[gr.GROUND_SEED] = float(seed % 65521)
    g[gr.ZEBRA] = float(rng.random() < 0.8)
    return g


def draw_light(rng, seed: int, heading: float) -> Float[np.ndarray, " 16"]:
    """Sun and sky: mostly clear with some clouds, sometimes overcast; the sun is rarely right ahead."""
    e = np.zeros(16)
    azimuth = heading + math.radians(rng.uniform(25, 155)) * (1 if rng.random() < 0.5 else -1)
    elevation = math.radians(rng.uniform(30, 58))
    e[scene.SUN_X : scene.SUN_Z + 1] = (
        math.cos(elevation) * math.cos(azimuth),
        math.cos(elevation) * math.sin(azimuth),
        math.sin(elevation),
    )
    overcast = rng.random() < 0.2
    warm = rng.uniform(0.0, 1.0)
    strength = 0.9 if overcast else rng.uniform(2.7, 3.3)
    e[scene.SUN_R : scene.SUN_B + 1] = strength * np.array([1.0, 0.95 - 0.05 * warm, 0.86 - 0.14 * warm])
    if overcast:
        zenith, horizon = np.array([0.80, 0.85, 0.92]), np.array([1.05, 1.07, 1.10])
    else:
        zenith = np.array([0.26, 0.44, 0.80]) * rng.uniform(0.85, 1.15)
        horizon = np.array([0.86, 0.94, 1.02])
    e[scene.ZENITH_R : scene.ZENITH_B + 1], e[scene.HORIZON_R : scene.HORIZON_B + 1] = zenith, horizon
    e[scene.CLOUDS] = 0.75 if overcast else rng.uniform(0.25, 0.62)
    e[scene.HAZE] = 1.0 / rng.uniform(500, 1100)
    e[scene.EXPOSURE] = 0.95 if overcast else 0.66
    e[scene.SKY_SEED] = float(seed % 65521)
    return e


def draw_crosses(rng, street: Street, count: int) -> Float[np.ndarray, "X 7"]:
    """Crossing streets at right angles, the first within the first seconds of the drive."""
    rows = []
    s = START + rng.uniform(26, 44)
    for _ in range(count):
        x, y, heading = street.at(s, 0.0)
        rows.append((x, y, -math.sin(heading), math.cos(heading), rng.uniform(3.3, 5.0), 95.0, s))
        s += rng.uniform(75, 110)
    return np.array(rows, dtype=np.float64).reshape(-1, 7)
