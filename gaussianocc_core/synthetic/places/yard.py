# SPDX-License-Identifier: Apache-2.0
"""Yards: works, depots, building sites, car parks: walls around, containers, pallets, stacked things near the way."""

from __future__ import annotations

import math

import numpy as np

from gaussianocc_core.labels import CLASS_ID
from gaussianocc_core.synthetic import furniture, textures, things, vehicles
from gaussianocc_core.synthetic import ground as gr
from gaussianocc_core.synthetic.course import LEAD, Course, draw_speed, wander
from gaussianocc_core.synthetic.fleet import Vehicle
from gaussianocc_core.synthetic.places.light import draw_daylight
from gaussianocc_core.synthetic.places.lot import Lot, draw_relief, open_ground, set_surface
from gaussianocc_core.synthetic.places.site import Site
from gaussianocc_core.synthetic.shapes import PrimitiveTable

STRAIGHT = np.array([[0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0]])  # a centre line that nothing uses
NO_CROSSES = np.zeros((0, 7))


def draw_floor(rng, g) -> None:
    """Asphalt, concrete slabs, cobbles, gravel or earth."""
    road, terrain = CLASS_ID["driveable_surface"], CLASS_ID["terrain"]
    grey = float(rng.uniform(0.10, 0.38))
    kind = int(rng.integers(0, 6))
    if kind <= 1:
        color = (grey, 0.99 * grey, 0.96 * grey)
        set_surface(g, gr.BASE, gr.TARMAC, float(rng.uniform(0.04, 0.1)), float(rng.uniform(0.4, 1.0)), color, road)
    elif kind == 2:
        color = (1.3 * grey, 1.27 * grey, 1.2 * grey)
        set_surface(g, gr.BASE, textures.GROUT, float(rng.uniform(0.5, 4.0)), float(rng.uniform(0.3, 0.8)), color, road)
    elif kind == 3:
        color = (grey, 0.95 * grey, 0.88 * grey)
        set_surface(g, gr.BASE, textures.COBBLES, float(rng.uniform(0.1, 0.25)), 0.7, color, road)
    elif kind == 4:
        color = (0.36, 0.33, 0.29)
        set_surface(g, gr.BASE, textures.SPECKLE, float(rng.uniform(0.05, 0.15)), 0.6, color, terrain)
    else:
        color = (0.24, 0.17, 0.11)
        set_surface(g, gr.BASE, textures.GRIME, float(rng.uniform(0.15, 0.6)), 0.7, color, terrain)
    g[gr.DIRT] = float(rng.uniform(0.0, 1.0))
    if kind <= 2 and rng.random() < 0.6:
        draw_lines(rng, g, (2.5, 6.0))


def draw_lines(rng, g, pitch: tuple[float, float]) -> None:
    """Painted lines, as for parking or lanes."""
    turn = float(rng.uniform(-math.pi, math.pi))
    g[gr.LINE_X], g[gr.LINE_Y] = rng.uniform(*pitch, 2)
    g[gr.LINE_WIDTH] = float(rng.uniform(0.06, 0.2))
    g[gr.LINE_COS], g[gr.LINE_SIN] = math.cos(turn), math.sin(turn)
    g[gr.LINE_R : gr.LINE_B + 1] = ((0.6, 0.6, 0.58), (0.6, 0.42, 0.05), (0.55, 0.1, 0.06))[rng.integers(3)]


def build_yard(rng: np.random.Generator, vehicle: Vehicle, duration: float, seed: int) -> Site:
    """A yard for this vehicle to drive about in."""
    extent = float(rng.uniform(16.0, 42.0)) + (8.0 if vehicle.kind in ("car", "lorry") else 0.0)
    along = draw_speed(rng, vehicle, duration, limit=6.0)
    path = wander(
        rng, vehicle.turning_radius, float(np.ptp(along)) + 3.0 * LEAD, (-0.7 * extent,) * 2 + (0.7 * extent,) * 2
    )
    g = open_ground(seed)
    draw_floor(rng, g)
    if rng.random() < 0.4:  # worn hollows and a slope
        draw_relief(rng, g, 0.04)
    lot = Lot(rng, (0.0, 0.0), extent + 14.0, g)
    height = lot.height if g[gr.WAVES] > 0 else None
    course = Course.draw(rng, vehicle, path, along, height)
    lot.keep_clear(course, vehicle, float(rng.uniform(0.5, 6.0)))
    _surround(rng, lot, extent)
    busy = float(rng.uniform(0.3, 1.0))
    near = [
        lambda: things.pallet(rng),
        lambda: things.crate(rng),
        lambda: things.drum(rng),
        lambda: things.pole(rng),
        lambda: things.oddity(rng, float(rng.uniform(0.3, 2.0))),
        lambda: things.reel(rng),
        lambda: things.pipes(rng),
        lambda: furniture.traffic_cone(rng),
        lambda: furniture.barrier(rng, bool(rng.random() < 0.5)),
        lambda: furniture.bollard(rng),
        lambda: furniture.bin_(rng),
        lambda: furniture.striped_barrier(rng),
        lambda: things.wall(rng, float(rng.uniform(1.0, 5.0)), float(rng.uniform(0.6, 2.6))),
        lambda: things.mesh_fence(rng, float(rng.uniform(3.0, 9.0))),
        lambda: things.heap(rng),
    ]
    half = vehicle.clearance
    big = [lambda: things.container(rng, int(rng.integers(1, 4)))]
    lot.line(path, big, half, 18.0 / busy, (0.1, 3.0), turned=True)
    lot.line(path, near, half, 1.6 / busy, (0.0, 1.2))
    lot.line(path, near, half, 2.5 / busy, (0.5, 4.0), turned=True)
    lot.scatter([lambda: things.container(rng, int(rng.integers(1, 4)))], int(8 * busy))
    on_the_move = [
        (lambda: things.forklift(rng), "vehicle.construction"),
        (lambda: vehicles.car(rng, "van"), "vehicle.car"),
        (lambda: vehicles.truck(rng), "vehicle.truck"),
    ]
    lot.traffic(on_the_move, int(rng.integers(0, 5)), 0.8 * extent)
    lot.vehicles(
        [
            (lambda: vehicles.truck(rng), "vehicle.truck"),
            (lambda: vehicles.trailer(rng), "vehicle.trailer"),
            (lambda: things.forklift(rng), "vehicle.construction"),
            (lambda: vehicles.excavator(rng), "vehicle.construction"),
            (lambda: vehicles.car(rng, ("sedan", "suv", "hatchback", "van")[rng.integers(4)]), "vehicle.car"),
        ],
        int(rng.integers(1, 9)),
        extent,
    )
    lot.people(course, int(rng.integers(0, 6)), 0.8 * extent, half)
    lot.scatter([*near, lambda: furniture.street_lamp(rng)], int(0.035 * busy * (2 * extent) ** 2))
    light, dark = draw_daylight(rng, seed)
    static = PrimitiveTable.concatenate(lot.static)
    return Site(
        f"Procedural yard, {vehicle.kind}", static, tuple(lot.actors), STRAIGHT, NO_CROSSES, g, light, course.pose, dark
    )


def _surround(rng, lot: Lot, extent: float) -> None:
    """Walls, buildings or fences on each side, with gaps; trees and houses beyond."""
    for side in range(4):
        yaw = 0.5 * math.pi * side
        c, s = math.cos(yaw), math.sin(yaw)
        kind = str(rng.choice(["wall", "building", "fence", "open"], p=[0.4, 0.3, 0.2, 0.1]))
        u = -extent
        while u < extent:
            length = float(rng.uniform(5.0, 14.0))
            middle, out = u + 0.5 * length, extent + 0.3
            if kind == "building":
                depth = 8.0
                shapes = furniture.building(rng, depth, length, low=4.0, high=14.0)
                x, y = c * (out + 0.5 * depth) - s * middle, s * (out + 0.5 * depth) + c * middle
                lot.put(shapes, x, y, yaw + math.pi, 0.0, force=True)
            elif kind != "open" and rng.random() < 0.9:
                shapes = (
                    things.wall(rng, length, float(rng.uniform(1.6, 4.5)))
                    if kind == "wall"
                    else (things.mesh_fence(rng, length))
                )
                lot.put(shapes, c * out - s * middle, s * out + c * middle, yaw + 0.5 * math.pi, 0.0, force=True)
            if rng.random() < 0.5 and kind != "building":
                d = out + float(rng.uniform(3.0, 10.0))
                lot.put(
                    furniture.tree(rng, height=float(rng.uniform(5, 12))),
                    c * d - s * middle,
                    s * d + c * middle,
                    0.0,
                    force=True,
                )
            u += length + (float(rng.uniform(2.0, 5.0)) if rng.random() < 0.15 else 0.0)
        for _ in range(3):  # the town behind
            d, v = extent + float(rng.uniform(30.0, 60.0)), float(rng.uniform(-1.3, 1.3)) * extent
            shapes = furniture.building(rng, 12.0, float(rng.uniform(14, 26)), low=8.0, high=28.0)
            lot.static.append(shapes.table().placed(c * d - s * v, s * d + c * v, 0.0, yaw + math.pi))
