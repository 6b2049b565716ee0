# SPDX-License-Identifier: Apache-2.0
"""A piece of ground under construction: what stands where, never on the ego's way, never two things in one place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from gaussianocc_core.synthetic import ground as gr
from gaussianocc_core.synthetic import people
from gaussianocc_core.synthetic.course import Course, Path
from gaussianocc_core.synthetic.fleet import Vehicle
from gaussianocc_core.synthetic.layout import Actor
from gaussianocc_core.synthetic.shapes import PrimitiveTable, Shapes

_CELL = 0.2  # m, of the raster of what is taken


@dataclass
class Lot:
    """A square of `extent` metres to each side of (x, y), with its ground's parameters (see ground.py)."""

    rng: np.random.Generator
    centre: tuple[float, float]
    extent: float
    ground: Float[np.ndarray, " parameters"]
    static: list[PrimitiveTable] = field(default_factory=list)
    actors: list[Actor] = field(default_factory=list)
    _taken: Bool[np.ndarray, "n n"] = field(init=False)

    def __post_init__(self) -> None:
        n = int(2 * self.extent / _CELL)
        self._taken = np.zeros((n, n), dtype=bool)

    # ---- room ----

    def _cells(self, x, y) -> tuple[np.ndarray, np.ndarray]:
        i = np.floor((np.asarray(x) - self.centre[0] + self.extent) / _CELL).astype(int)
        j = np.floor((np.asarray(y) - self.centre[1] + self.extent) / _CELL).astype(int)
        return i, j

    def _rectangle(self, x: float, y: float, hx: float, hy: float, yaw: float) -> tuple[np.ndarray, np.ndarray]:
        u = np.arange(-hx, hx + _CELL, 0.7 * _CELL).clip(-hx, hx)[:, None]
        v = np.arange(-hy, hy + _CELL, 0.7 * _CELL).clip(-hy, hy)[None]
        c, s = math.cos(yaw), math.sin(yaw)
        return self._cells(x + c * u - s * v, y + s * u + c * v)

    def claim(self, x: float, y: float, hx: float, hy: float, yaw: float, force: bool = False) -> bool:
        """Take a rectangle (half sizes, m) if it is free and lies on the lot; `force` takes it in any case."""
        i, j = self._rectangle(x, y, hx, hy, yaw)
        n = len(self._taken)
        inside = (i >= 0) & (j >= 0) & (i < n) & (j < n)
        if not force and (not inside.all() or self._taken[i, j].any()):
            return False
        self._taken[i[inside], j[inside]] = True
        return True

    def keep_clear(self, course: Course, vehicle: Vehicle, ahead: float) -> None:
        """Reserve what the vehicle's hull passes, and some metres of path before it."""
        low, high = course.travelled()
        middle = 0.5 * vehicle.length - vehicle.rear
        hx, hy = 0.5 * vehicle.length + 0.15, vehicle.clearance
        for s in np.arange(low, high + ahead, 0.2):
            x, y, yaw = course.path.at(float(s))
            self.claim(x + middle * math.cos(yaw), y + middle * math.sin(yaw), hx, hy, yaw, force=True)
        for glance in course.glances:
            x, y, _ = course.planar(glance.begin)
            self.claim(x, y, hx + abs(middle), hx + abs(middle), 0.0, force=True)

    # ---- things ----

    def height(self, x: float, y: float) -> float:
        return float(gr.relief_at(float(x), float(y), self.ground)) if self.ground[gr.WAVES] > 0 else 0.0

    def put(self, shapes: Shapes, x: float, y: float, yaw: float, room: float = 0.05, force: bool = False) -> bool:
        """Stand a thing on the ground if there is room for its outline and `room` metres around."""
        table = shapes.table()
        lows, highs = table.bounds()
        low, high = lows.min(axis=0), highs.max(axis=0)
        mx, my = 0.5 * (low[0] + high[0]), 0.5 * (low[1] + high[1])
        c, s = math.cos(yaw), math.sin(yaw)
        cx, cy = x + c * mx - s * my, y + s * mx + c * my
        hx, hy = 0.5 * (high[0] - low[0]) + room, 0.5 * (high[1] - low[1]) + room
        if not self.claim(cx, cy, hx, hy, yaw, force):
            return False
        z = self.height(x, y)
        if self.ground[gr.WAVES] > 0:  # its lowest corner touches the ground
            z = min(
                z,
                *(
                    self.height(cx + c * a * hx - s * b * hy, cy + s * a * hx + c * b * hy)
                    for a in (-0.7, 0.7)
                    for b in (-0.7, 0.7)
                ),
            )
        self.static.append(table.placed(x, y, z, yaw))
        return True

    def put_annotated(self, shapes: Shapes, category: str, attribute: str, x: float, y: float, yaw: float) -> bool:
        """As `put`, for what nuScenes would annotate."""
        if not self.put(shapes, x, y, yaw):
            return False
        table, place = shapes.table(), (x, y, self.height(x, y), yaw)
        self.actors.append(Actor(category, attribute, _size(table), lambda _: place, lambda _: table, False))
        return True

    def scatter(self, makers: Iterable[Callable[[], Shapes]], count: int, room: float = 0.1, tries: int = 3) -> int:
        """Things at random places of the whole lot; returns how many found room."""
        makers, placed = list(makers), 0
        for _ in range(count):
            shapes = makers[self.rng.integers(len(makers))]()
            for _ in range(tries):
                x, y = np.array(self.centre) + self.rng.uniform(-1, 1, 2) * (self.extent - 1.0)
                if self.put(shapes, float(x), float(y), float(self.rng.uniform(-math.pi, math.pi)), room):
                    placed += 1
                    break
        return placed

    def line(
        self,
        path: Path,
        makers: Iterable[Callable[[], Shapes]],
        half: float,
        every: float,
        gap: tuple[float, float],
        turned: bool = False,
    ) -> int:
        """Things beside a path, `gap` metres outside its corridor; `turned` aligns them with it. How many stand."""
        makers, placed, s = list(makers), 0, float(self.rng.uniform(0, every))
        while s < path.length:
            shapes = makers[self.rng.integers(len(makers))]()
            side = 1.0 if self.rng.random() < 0.5 else -1.0
            x, y, yaw = path.at(s)
            lows, highs = shapes.table().bounds()
            across = float(max(highs[:, 1].max(), -lows[:, 1].min()))
            turn = yaw if turned else float(self.rng.uniform(-math.pi, math.pi))
            if not turned:
                across = float(np.hypot(highs[:, :2].max(axis=0), lows[:, :2].min(axis=0)).max()) * 0.7
            d = side * (half + across + float(self.rng.uniform(*gap)))
            placed += self.put(shapes, x - d * math.sin(yaw), y + d * math.cos(yaw), turn, 0.02)
            s += every * float(self.rng.uniform(0.5, 1.5))
        return placed

    def people(self, course: Course, count: int, bounds: float, clearance: float) -> None:
        """Some stand, some walk up and down straight lines that keep off the ego's way."""
        rng = self.rng
        for _ in range(count):
            looks = people.Looks.draw(rng)
            x, y = np.array(self.centre) + rng.uniform(-1, 1, 2) * bounds
            heading, phase = float(rng.uniform(-math.pi, math.pi)), float(rng.uniform(0, 6.28))
            if rng.random() < 0.35:
                self.put_annotated(
                    people.pedestrian(looks, rng.uniform(-0.3, 0.3)),
                    "human.pedestrian.adult",
                    "pedestrian.standing",
                    float(x),
                    float(y),
                    heading,
                )
                continue
            reach, pace = float(rng.uniform(2.0, 8.0)), float(rng.uniform(0.6, 1.6))
            if not self.claim(float(x), float(y), reach + 0.4, 0.45, heading):
                continue
            self.actors.append(_walker(looks, _Shuttle(self, (float(x), float(y)), heading, reach, pace, phase)))

    def traffic(self, makers: Iterable[tuple[Callable[[], Shapes], str]], count: int, bounds: float) -> None:
        """Vehicles that shuttle up and down straight lines off the ego's way."""
        rng, makers = self.rng, list(makers)
        for _ in range(count):
            make, category = makers[rng.integers(len(makers))]
            table = make().table()
            size = _size(table)
            x, y = (float(v) for v in np.array(self.centre) + rng.uniform(-1, 1, 2) * bounds)
            heading, reach = float(rng.uniform(-math.pi, math.pi)), float(rng.uniform(3.0, 12.0))
            if self.claim(x, y, reach + 0.5 * size[0] + 0.3, 0.5 * size[1] + 0.3, heading):
                line = _Shuttle(self, (x, y), heading, reach, float(rng.uniform(0.5, 4.0)), float(rng.uniform(0, 6.28)))
                shapes = _always(table)
                self.actors.append(Actor(category, "vehicle.moving", size, line.backing_up, shapes, True))

    def vehicles(self, makers: Iterable[tuple[Callable[[], Shapes], str]], count: int, bounds: float) -> None:
        """Parked ones at random places."""
        makers = list(makers)
        for _ in range(count):
            make, category = makers[self.rng.integers(len(makers))]
            x, y = np.array(self.centre) + self.rng.uniform(-1, 1, 2) * bounds
            yaw = float(self.rng.uniform(-math.pi, math.pi))
            self.put_annotated(make(), category, "vehicle.parked", float(x), float(y), yaw)


@dataclass(frozen=True)
class _Shuttle:
    """Up and down a line, slowing at its ends."""

    lot: Lot
    centre: tuple[float, float]
    heading: float
    reach: float  # m to each side
    pace: float  # m/s in the middle
    phase: float

    def along(self, time: float) -> float:
        return self.reach * math.sin(self.pace / self.reach * time + self.phase)

    def backing_up(self, time: float) -> tuple[float, float, float, float]:
        """Placement of what does not turn round at the ends."""
        u = self.along(time)
        x, y = self.centre[0] + u * math.cos(self.heading), self.centre[1] + u * math.sin(self.heading)
        return x, y, self.lot.height(x, y), self.heading

    def turning(self, time: float) -> tuple[float, float, float, float]:
        """Placement of what looks where it goes."""
        forward = math.cos(self.pace / self.reach * time + self.phase) >= 0.0
        x, y, z, heading = self.backing_up(time)
        return x, y, z, heading + (0.0 if forward else math.pi)


def _walker(looks: people.Looks, line: _Shuttle) -> Actor:
    def shapes(time: float) -> PrimitiveTable:
        return people.pedestrian(looks, line.phase + 4.6 * abs(line.along(time) - line.along(0.0))).table()

    return Actor("human.pedestrian.adult", "pedestrian.moving", (0.7, 0.65, looks.height), line.turning, shapes, True)


def _always(table: PrimitiveTable) -> Callable[[float], PrimitiveTable]:
    return lambda _: table


def _size(table: PrimitiveTable) -> tuple[float, float, float]:
    lows, highs = table.bounds()
    x, y = 2.0 * max(-lows[:, 0].min(), highs[:, 0].max()), 2.0 * max(-lows[:, 1].min(), highs[:, 1].max())
    return float(x), float(y), float(highs[:, 2].max())


def open_ground(seed: int) -> Float[np.ndarray, " parameters"]:
    """Parameters of a flat open place without a path; the caller sets its surface."""
    g = np.zeros(gr.PARAMETERS)
    g[gr.OPEN], g[gr.LINE_COS] = 1.0, 1.0
    g[gr.GROUND_SEED] = float(seed % 65521)
    return g


def set_surface(g, at: int, style: int, scale: float, contrast: float, color, label: int) -> None:
    """Describe the surface at gr.BASE or gr.PATH."""
    g[at : at + 7] = (style, scale, contrast, *color, label)


def draw_relief(rng, g, steepest: float) -> None:
    """Hills of some ten metres and bumps of some metres; none of the up to four waves is steeper than this."""
    count = int(rng.integers(1, gr.MOST_WAVES + 1))
    g[gr.WAVES] = count
    for k in range(count):
        length = float(np.exp(rng.uniform(math.log(6.0), math.log(70.0))))
        slope = float(rng.uniform(0.1, 1.0)) * steepest * min(1.0, length / 15.0)
        angle = float(rng.uniform(-math.pi, math.pi))
        number = 2.0 * math.pi / length
        wave = (slope / number, number * math.cos(angle), number * math.sin(angle), rng.uniform(-math.pi, math.pi))
        g[gr.WAVE + 4 * k : gr.WAVE + 4 * k + 4] = wave
