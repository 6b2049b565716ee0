# SPDX-License-Identifier: Apache-2.0
"""Where things stand and how they move: fills a street with buildings, trees, vehicles, people, without collisions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from gaussianocc_core.synthetic import furniture, people, vehicles
from gaussianocc_core.synthetic import ground as gr
from gaussianocc_core.synthetic.shapes import PrimitiveTable, Shapes
from gaussianocc_core.synthetic.streets import START, Street

Placement = tuple[float, float, float, float]  # x, y, z (m) and yaw (rad) in the world frame


@dataclass(frozen=True)
class Actor:
    """Something that nuScenes would annotate: a parked or moving vehicle, a person, a cone, a barrier."""

    category: str  # nuScenes category name
    attribute: str  # nuScenes attribute name or ""
    size: tuple[float, float, float]  # length, width, height, m
    placement: Callable[[float], Placement]  # by time, s
    shapes: Callable[[float], PrimitiveTable]  # by time, in the actor's frame
    moves: bool


@runtime_checkable
class Traveller(Protocol):
    """The ego as the traffic sees it."""

    @property
    def speed(self) -> float:
        """Mean, m/s."""
        ...

    def along(self, time: float) -> float:
        """s on the street, m."""
        ...


@dataclass
class Layout:
    """Everything that stands in a street, under construction."""

    street: Street
    drive: Traveller
    rng: np.random.Generator
    static: list[PrimitiveTable] = field(default_factory=list)
    actors: list[Actor] = field(default_factory=list)
    _circles: list[tuple[float, float, float]] = field(default_factory=list)
    _plots: list[tuple[float, float, float, float, float]] = field(default_factory=list)

    # ---- placing one thing ----

    def kerb(self) -> float:
        return float(self.street.ground[gr.KERB_HEIGHT])

    def put(self, shapes: Shapes, x: float, y: float, yaw: float, z: float = 0.0) -> None:
        self.static.append(shapes.table().placed(x, y, z, yaw))

    def free(self, x: float, y: float, radius: float) -> bool:
        """Whether a disc touches nothing that stands; claims it if so."""
        if any((x - a) ** 2 + (y - b) ** 2 < (radius + r) ** 2 for a, b, r in self._circles):
            return False
        for px, py, hx, hy, yaw in self._plots:
            c, s = math.cos(yaw), math.sin(yaw)
            u, v = c * (x - px) + s * (y - py), -s * (x - px) + c * (y - py)
            if abs(u) < hx + radius and abs(v) < hy + radius:
                return False
        self._circles.append((x, y, radius))
        return True

    def put_beside(self, shapes: Shapes, s: float, side: int, e: float, radius: float, turn: float = 0.0) -> bool:
        """Stand a thing e metres outside the kerb; its +x looks at the road (plus `turn`)."""
        x, y, heading = self.street.at(s, side * (self.street.half(side) + e))
        if self.street.kerb_distance(x, y) < 0.35 or not self.free(x, y, radius):
            return False
        self.put(shapes, x, y, heading - side * 0.5 * math.pi, self.kerb())
        return True

    def claim_plot(self, x: float, y: float, hx: float, hy: float, yaw: float, clearance: float) -> bool:
        """Whether a rectangle lies off every street and touches no other plot; claims it if so."""
        c, s = math.cos(yaw), math.sin(yaw)
        for i in range(-2, 3):
            for j in range(-2, 3):
                u, v = 0.5 * i * hx, 0.5 * j * hy
                if self.street.kerb_distance(x + c * u - s * v, y + s * u + c * v) < clearance:
                    return False
        for plot in self._plots:
            if _rectangles_touch((x, y, hx, hy, yaw), plot):
                return False
        self._plots.append((x, y, hx, hy, yaw))
        return True

    def add_parked(self, shapes: Shapes, category: str, attribute: str, x, y, z, yaw) -> None:
        table = shapes.table()
        self.static.append(table.placed(x, y, z, yaw))
        place = (x, y, z, yaw)
        self.actors.append(Actor(category, attribute, _size(table), lambda _: place, lambda _: table, False))

    # ---- filling the street ----

    def build(self, sides: tuple[str, str], length: float, busy: float) -> None:
        low, high = START - 90.0, START + length + 150.0
        for k, side in enumerate((1, -1)):
            self._buildings(side, sides[k], low, high)
        self._cross_street_buildings()
        self._end_of_street(low, high)
        self._parked(low, high, busy)
        for k, side in enumerate((1, -1)):
            self._furniture(side, sides[k], low, min(high, START + length + 100.0))
        self._traffic(length, busy)
        self._walkers(length, busy)

    def _row(
        self, path, side: int, kind: str, half: float, setback: float, clearance: float, low: float, high: float
    ) -> None:
        rng = self.rng
        s = low
        while s < high:
            if kind == "urban":
                width, depth, gap = (
                    rng.uniform(9, 20),
                    rng.uniform(10, 14),
                    (0.0 if rng.random() < 0.7 else rng.uniform(2, 5)),
                )
            elif kind == "suburban":
                width, depth, gap = rng.uniform(8, 13), rng.uniform(7, 10), rng.uniform(3, 7)
            else:
                width, depth, gap = rng.uniform(14, 26), rng.uniform(12, 16), rng.uniform(8, 30)
            for push in (0.0, 1.5, 4.0):
                x, y, heading = path(s + 0.5 * width, side * (half + setback + push + 0.5 * depth))
                yaw = heading - side * 0.5 * math.pi
                if self.claim_plot(x, y, 0.5 * depth + 0.3, 0.5 * width, yaw, clearance):
                    make = furniture.house if kind == "suburban" else furniture.building
                    self.put(make(rng, depth, width), x, y, yaw)
                    break
            s += width + gap + 0.05

    def _buildings(self, side: int, kind: str, low: float, high: float) -> None:
        street = self.street
        base = street.verge(side) + street.walk(side)
        setback = base + {"urban": 0.5, "suburban": self.rng.uniform(4, 7), "park": self.rng.uniform(20, 30)}[kind]
        self._row(street.at, side, kind, street.half(side), setback, base, low, high)
        # A second, sparser row closes the gaps behind the first.
        self._row(street.at, side, "park", street.half(side), setback + 24.0, base + 4.0, low, high)

    def _cross_street_buildings(self) -> None:
        for cross in self.street.crosses:
            x0, y0, ux, uy, half = cross[:5]
            heading = math.atan2(uy, ux)

            def along(s: float, d: float, x0=x0, y0=y0, heading=heading) -> tuple[float, float, float]:
                c, sn = math.cos(heading), math.sin(heading)
                return x0 + c * s - sn * d, y0 + sn * s + c * d, heading

            for side in (1, -1):
                for low, high in ((14.0, 85.0), (-85.0, -14.0)):
                    self._row(along, side, "urban", half, 4.5, 3.5, low, high)
                    for k in range(5):
                        s = low + 6.0 + 13.0 * k + self.rng.uniform(-2, 2)
                        x, y, _ = along(s, side * (half + 1.2))
                        if self.street.kerb_distance(x, y) > 0.8 and self.free(x, y, 0.8):
                            self.put(furniture.tree(self.rng), x, y, 0.0, self.kerb())
            # Someone waits at the line.
            if self.rng.random() < 0.8:
                for sign in (1, -1):
                    if self.rng.random() < 0.6:
                        x, y, yaw = along(-sign * (self.street.half(-1 if sign > 0 else 1) + 9.3), -sign * 0.5 * half)
                        kind = ("sedan", "suv", "hatchback", "van")[self.rng.integers(4)]
                        shapes = vehicles.car(self.rng, kind, braking=True)
                        yaw = yaw if sign > 0 else yaw + math.pi
                        if self.free(x, y, 2.4):
                            self.add_parked(shapes, "vehicle.car", "vehicle.stopped", x, y, 0.0, yaw)

    def _end_of_street(self, low: float, high: float) -> None:
        """Trees close the view where the populated part ends."""
        for s, step in ((high + 4.0, 1), (low - 4.0, -1)):
            for row in range(3):
                for k in range(-6, 7):
                    x, y, _ = self.street.at(s + step * 6.0 * row, 5.0 * k + 2.0 * (row % 2))
                    if self.free(x, y, 1.0):
                        self.put(furniture.tree(self.rng, height=self.rng.uniform(9, 13)), x, y, 0.0)

    def _near_crossing(self, s: float, margin: float) -> bool:
        return any(abs(s - c[gr.C_S]) < c[gr.C_HALF] + margin for c in self.street.crosses)

    def _parked(self, low: float, high: float, busy: float) -> None:
        rng, street = self.rng, self.street
        for side in (1, -1):
            if not street.has_parking(side):
                continue
            works = START + rng.uniform(12, 60) if rng.random() < 0.35 else 1e9
            s = low + 20.0
            while s < high - 30.0:
                if abs(s - works) < 10.0:
                    self._road_works(works, side)
                    s = works + 14.0
                    works = 1e9
                    continue
                if rng.random() > 0.45 + 0.4 * busy or self._near_crossing(s, 16.0):
                    s += 6.2
                    continue
                s += self._park_one(s, side)

    def _park_one(self, s: float, side: int) -> float:
        """Park something; returns the length of kerb it takes."""
        rng, street = self.rng, self.street
        kind = rng.choice(
            ["car", "truck", "bus", "motorcycle", "bicycle", "trailer"], p=[0.80, 0.06, 0.03, 0.06, 0.03, 0.02]
        )
        lean = rng.uniform(-0.02, 0.02)
        d = side * (street.half(side) - 1.1 + rng.uniform(-0.08, 0.08))
        room = {"car": 6.2, "truck": 10.0, "bus": 14.5, "motorcycle": 3.0, "bicycle": 2.6, "trailer": 8.5}[kind]
        x, y, heading = street.at(s + 0.5 * room - 3.1, d)
        yaw = heading + lean + (math.pi if side > 0 else 0.0)
        if street.kerb_distance(x, y) > -0.6:
            return room
        if kind == "car":
            style = rng.choice(["sedan", "hatchback", "suv", "van"], p=[0.36, 0.26, 0.26, 0.12])
            self.add_parked(vehicles.car(rng, style), "vehicle.car", "vehicle.parked", x, y, 0.0, yaw)
        elif kind in ("motorcycle", "bicycle"):
            for k in range(int(rng.integers(1, 4))):
                px, py, _ = street.at(s + 0.9 * k, side * (street.half(side) - 0.9))
                cycle = vehicles.motorcycle(rng) if kind == "motorcycle" else vehicles.bicycle(rng)
                self.add_parked(
                    cycle, f"vehicle.{kind}", "cycle.without_rider", px, py, 0.0, yaw + 1.1 + rng.uniform(-0.1, 0.1)
                )
        else:
            make, category = {
                "truck": (vehicles.truck, "vehicle.truck"),
                "bus": (vehicles.bus, "vehicle.bus.rigid"),
                "trailer": (vehicles.trailer, "vehicle.trailer"),
            }[kind]
            self.add_parked(make(rng), category, "vehicle.parked", x, y, 0.0, yaw)
        return room

    def _road_works(self, s: float, side: int) -> None:
        rng, street = self.rng, self.street
        d = side * (street.half(side) - 1.25)
        edge = side * (street.half(side) - 2.35)
        x, y, heading = street.at(s, d)
        if rng.random() < 0.6:
            self.add_parked(
                vehicles.excavator(rng),
                "vehicle.construction",
                "vehicle.parked",
                x,
                y,
                0.0,
                heading + rng.uniform(-0.15, 0.15),
            )
        else:
            x, y, heading = street.at(s + 1.0, d)
            self.add_parked(vehicles.trailer(rng), "vehicle.trailer", "vehicle.parked", x, y, 0.0, heading)
        if rng.random() < 0.5:
            for k in range(9):
                x, y, heading = street.at(s - 8.0 + 2.0 * k, edge)
                self.add_parked(furniture.barrier(rng, k % 2 == 0), "movable_object.barrier", "", x, y, 0.0, heading)
        else:
            for k in range(7):
                x, y, heading = street.at(s - 8.0 + 2.7 * k, edge)
                self.add_parked(furniture.traffic_cone(rng), "movable_object.trafficcone", "", x, y, 0.0, heading)
        for end in (-9.5, 9.5):
            x, y, heading = street.at(s + end, d)
            self.add_parked(furniture.striped_barrier(rng), "movable_object.barrier", "", x, y, 0.0, heading)

    def _furniture(self, side: int, kind: str, low: float, high: float) -> None:
        rng, street = self.rng, self.street
        for cross in street.crosses:  # signals at the stop lines
            s = cross[gr.C_S]
            back = cross[gr.C_HALF] + 1.6
            towards = -1 if side < 0 else 1
            shapes = furniture.traffic_light(rng, arm=3.4)
            x, y, heading = street.at(s + towards * -back, side * (street.half(side) + 1.0))
            if street.kerb_distance(x, y) < 0.3:
                x, y, heading = street.at(s + towards * -(back + 3.5), side * (street.half(side) + 0.8))
            if street.kerb_distance(x, y) > 0.2 and self.free(x, y, 0.3):
                self.put(shapes, x, y, heading + (0.0 if side < 0 else math.pi), self.kerb())
        s = low + rng.uniform(0, 10)
        while s < high:
            self.put_beside(furniture.street_lamp(rng), s, side, 0.55, 0.5)
            s += 27.0
        edge = 1.1 if kind == "urban" else 0.5 * street.verge(side) + 0.2
        s = low + rng.uniform(0, 8)
        pitch = rng.uniform(9, 15) if kind == "urban" else rng.uniform(7, 12)
        while s < high:
            if rng.random() < 0.85:
                small = kind == "urban" and rng.random() < 0.5
                self.put_beside(furniture.tree(rng, height=rng.uniform(4.2, 6) if small else None), s, side, edge, 0.7)
            s += pitch * rng.uniform(0.8, 1.2)
        back = street.verge(side) + street.walk(side)
        s = low
        while s < high:
            draw = rng.random()
            if draw < 0.16:
                self.put_beside(furniture.sign(rng), s, side, 0.6, 0.35, turn=-0.5 * math.pi)
            elif draw < 0.28:
                self.put_beside(furniture.bin_(rng), s, side, 0.9, 0.5)
            elif draw < 0.36:
                self.put_beside(furniture.bench(rng), s, side, back - 0.8, 1.0)
            elif draw < 0.41:
                self.put_beside(furniture.bus_shelter(rng), s, side, max(back - 1.6, 1.4), 2.2)
            elif draw < 0.45 and kind != "suburban":
                self.put_beside(furniture.billboard(rng), s, side, back + 0.8, 1.9, turn=0.9)
            elif draw < 0.60 and kind == "urban":
                for k in range(5):
                    self.put_beside(furniture.bollard(rng), s + 1.6 * k, side, 0.45, 0.2)
            elif draw < 0.66:
                self.put_beside(vehicles.delivery_sign(rng), s, side, back - 1.0, 0.6, turn=1.2)
            s += rng.uniform(4, 9)
        if kind == "urban":
            return
        s = low
        while s < high:  # gardens: fences and hedges at the pavement, bushes and trees behind
            length = rng.uniform(5, 9)
            e = back + 0.6
            draw = rng.random()
            if draw < 0.45:
                self.put_beside(furniture.hedge(rng, length), s, side, e, 0.5 * length - 1.0)
            elif draw < 0.7 and kind == "suburban":
                self.put_beside(furniture.fence(rng, length), s, side, e, 0.5 * length - 1.0)
            for _ in range(2 if kind == "suburban" else 4):
                deep = back + 1.5 + rng.uniform(0.5, 4.0 if kind == "suburban" else 18.0)
                if rng.random() < 0.5:
                    self.put_beside(
                        furniture.bush(rng, rng.uniform(0.6, 1.3)), s + rng.uniform(0, length), side, deep, 0.9
                    )
                else:
                    self.put_beside(
                        furniture.tree(rng, conical=rng.random() < 0.3), s + rng.uniform(0, length), side, deep, 1.6
                    )
            s += length + (0.3 if rng.random() < 0.7 else 3.0)

    # ---- what moves ----

    def _follow(self, distance: Callable[[float], float], d: float, backwards: bool) -> Callable[[float], Placement]:
        def placement(time: float) -> Placement:
            x, y, heading = self.street.at(distance(time), d)
            return x, y, 0.0, heading + (math.pi if backwards else 0.0)

        return placement

    def _add_moving(self, shapes: Shapes, category: str, attribute: str, placement) -> None:
        table = shapes.table()
        self.actors.append(Actor(category, attribute, _size(table), placement, lambda _: table, True))

    def _vehicle(self, big: float) -> tuple[Shapes, str]:
        draw = self.rng.random()
        if draw < 0.5 * big:
            return vehicles.bus(self.rng), "vehicle.bus.rigid"
        if draw < big:
            return vehicles.truck(self.rng), "vehicle.truck"
        kind = self.rng.choice(["sedan", "hatchback", "suv", "van"], p=[0.4, 0.25, 0.25, 0.10])
        return vehicles.car(self.rng, kind), "vehicle.car"

    def _traffic(self, length: float, busy: float) -> None:
        rng, street, drive = self.rng, self.street, self.drive
        lane = street.ground[gr.LANE]
        for gaps, sign in (((13.0, 26.0), 1), ((-20.0, -11.0), -1)):
            if rng.random() < 0.75:
                gap = rng.uniform(*gaps)
                shapes, category = self._vehicle(0.25 if sign > 0 else 0.1)
                extra = 4.0 * sign if category != "vehicle.car" else 0.0
                place = self._follow(_ahead(drive, gap + extra), -0.5 * lane, False)
                self._add_moving(shapes, category, "vehicle.moving", place)
        speed = rng.uniform(5.0, 9.0)
        s = START + rng.uniform(16, 34)
        while s < START + length + speed * (length / drive.speed) + 60.0:
            shapes, category = self._vehicle(0.22)
            place = self._follow(_steady(s, -speed), 0.5 * lane, True)
            self._add_moving(shapes, category, "vehicle.moving", place)
            s += rng.uniform(16, 30) / (0.35 + busy) + 8.0
        for side in (1, -1):
            if street.has_parking(side) and rng.random() < 0.6:
                ridden = rng.random() < 0.5
                make = vehicles.motorcycle if ridden else vehicles.bicycle
                category = "vehicle.motorcycle" if ridden else "vehicle.bicycle"
                if side < 0:  # keeps ahead of the ego
                    along = _ahead(drive, rng.uniform(9, 14))
                else:
                    along = _steady(START + rng.uniform(18, 40), -rng.uniform(3.0, 5.0))
                place = self._follow(along, side * (lane - 0.15), side > 0)
                self._add_moving(make(rng, True), category, "cycle.with_rider", place)

    def _walkers(self, length: float, busy: float) -> None:
        rng, street = self.rng, self.street
        for side in (1, -1):
            verge, walk = street.verge(side), street.walk(side)
            for _ in range(int((6 + 10 * busy) * (length + 80.0) / 120.0)):
                s0 = START + rng.uniform(-25.0, length + 55.0)
                direction = 1.0 if rng.random() < 0.5 else -1.0
                pace = rng.uniform(0.9, 1.6)
                d = side * (street.half(side) + verge + rng.uniform(0.35, 0.8) * walk)
                if rng.random() < 0.2:
                    x, y, heading = street.at(s0, d)
                    if street.kerb_distance(x, y) > 0.4 and self.free(x, y, 0.4):
                        table = people.pedestrian(people.Looks.draw(rng), rng.uniform(-0.3, 0.3)).table()
                        place = (x, y, self.kerb(), heading + rng.uniform(-3, 3))
                        self.static.append(table.placed(*place))
                        self.actors.append(
                            Actor(
                                "human.pedestrian.adult",
                                "pedestrian.standing",
                                _size(table),
                                _always(place),
                                _always(table),
                                False,
                            )
                        )
                    continue
                self._walker(people.Looks.draw(rng), s0, direction * pace, d, rng.uniform(0, 6.28))

    def _walker(self, looks: people.Looks, s0: float, velocity: float, d: float, phase: float) -> None:
        def placement(time: float) -> Placement:
            x, y, heading = self.street.at(s0 + velocity * time, d)
            z = self.kerb() if self.street.kerb_distance(x, y) >= 0.0 else 0.0
            return x, y, z, heading + (0.0 if velocity > 0 else math.pi)

        def shapes(time: float) -> PrimitiveTable:
            return people.pedestrian(looks, phase + 4.6 * abs(velocity) * time).table()

        size = (0.7, 0.65, looks.height)
        self.actors.append(Actor("human.pedestrian.adult", "pedestrian.moving", size, placement, shapes, True))


def _always(value):
    return lambda _: value


def _ahead(drive: Traveller, gap: float) -> Callable[[float], float]:
    return lambda time: drive.along(time) + gap


def _steady(s: float, velocity: float) -> Callable[[float], float]:
    return lambda time: s + velocity * time


def _size(table: PrimitiveTable) -> tuple[float, float, float]:
    lows, highs = table.bounds()
    x, y = 2.0 * max(-lows[:, 0].min(), highs[:, 0].max()), 2.0 * max(-lows[:, 1].min(), highs[:, 1].max())
    return float(x), float(y), float(highs[:, 2].max())


def _rectangles_touch(a, b) -> bool:
    for first, second in ((a, b), (b, a)):
        x, y, hx, hy, yaw = first
        c, s = math.cos(yaw), math.sin(yaw)
        u, v = c * (second[0] - x) + s * (second[1] - y), -s * (second[0] - x) + c * (second[1] - y)
        ac, as_ = abs(math.cos(second[4] - yaw)), abs(math.sin(second[4] - yaw))
        if abs(u) > hx + ac * second[2] + as_ * second[3] or abs(v) > hy + as_ * second[2] + ac * second[3]:
            return False
    return True
