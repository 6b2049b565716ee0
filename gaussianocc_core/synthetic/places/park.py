# SPDX-License-Identifier: Apache-2.0
"""Parks, gardens and woods: winding ways over uneven ground between trees, bushes, benches, rocks and high grass."""

from __future__ import annotations

import math

import numpy as np

from gaussianocc_core.labels import CLASS_ID
from gaussianocc_core.synthetic import furniture, textures, things
from gaussianocc_core.synthetic import ground as gr
from gaussianocc_core.synthetic.course import LEAD, Course, draw_speed, follow, wander
from gaussianocc_core.synthetic.fleet import Vehicle
from gaussianocc_core.synthetic.places.light import draw_daylight
from gaussianocc_core.synthetic.places.lot import Lot, draw_relief, open_ground, set_surface
from gaussianocc_core.synthetic.places.site import Site
from gaussianocc_core.synthetic.shapes import PrimitiveTable
from gaussianocc_core.synthetic.streets import Street, chain

_BEFORE = 30.0  # m of way behind the start


def build_park(rng: np.random.Generator, vehicle: Vehicle, duration: float, seed: int) -> Site:
    """A park for this vehicle: on a way, or across the grass."""
    along = draw_speed(rng, vehicle, duration, limit=6.0)
    reach = float(np.ptp(along)) + 3.0 * LEAD
    g = open_ground(seed)
    width = max(vehicle.clearance + 0.1, float(rng.uniform(0.7, 2.2)))
    _surfaces(rng, g, width)
    if rng.random() < 0.75:
        draw_relief(rng, g, 0.10)
    segments = _winding(rng, _BEFORE + reach + 60.0, max(7.0, 1.3 * vehicle.turning_radius))
    way = Street(segments, np.zeros((0, 7)), g)
    x0, y0, heading = way.at(_BEFORE, 0.0)
    middle = way.at(_BEFORE + 0.5 * reach, 0.0)[:2]
    extent = 0.5 * reach + float(rng.uniform(16.0, 30.0))
    on_way = rng.random() < 0.7
    if on_way:
        offset = float(rng.uniform(-1, 1)) * max(0.0, width - vehicle.clearance)
        line = np.array([way.at(_BEFORE - 6.0 + s, offset)[:2] for s in np.arange(0.0, reach + 30.0, 0.5)])
        path = follow(line, vehicle.turning_radius, reach + 10.0)
    else:
        bounds = (middle[0] - extent, middle[1] - extent, middle[0] + extent, middle[1] + extent)
        path = wander(rng, vehicle.turning_radius, reach, bounds, (x0, y0, heading + float(rng.uniform(-0.7, 0.7))))
    lot = Lot(rng, (float(middle[0]), float(middle[1])), extent, g)
    course = Course.draw(rng, vehicle, path, along, lot.height if g[gr.WAVES] > 0 else None)
    lot.keep_clear(course, vehicle, float(rng.uniform(0.5, 6.0)))
    half = max(width, vehicle.clearance) if on_way else vehicle.clearance
    for s in np.arange(_BEFORE - 20.0, _BEFORE + reach + 20.0, 0.5):  # no trees on the way either
        x, y, yaw = way.at(float(s), 0.0)
        lot.claim(x, y, 0.3, 0.8 * width, yaw, force=True)
    wild = float(rng.uniform(0.25, 1.0))
    by_the_way = [
        lambda: furniture.bench(rng),
        lambda: furniture.bin_(rng),
        lambda: furniture.street_lamp(rng, 4.0),
        lambda: things.boulder(rng),
        lambda: things.log_(rng),
        lambda: furniture.bush(rng, float(rng.uniform(0.3, 1.2))),
        lambda: things.mesh_fence(rng, 4.0),
        lambda: things.shrub(rng),
        lambda: things.tuft(rng),
        lambda: things.pole(rng),
        lambda: furniture.hedge(rng, float(rng.uniform(2.0, 7.0))),
        lambda: furniture.bollard(rng),
        lambda: things.oddity(rng, float(rng.uniform(0.3, 1.6))),
        lambda: furniture.sign(rng),
        lambda: furniture.tree(rng, height=float(rng.uniform(3.0, 9.0)), conical=bool(rng.random() < 0.2)),
        lambda: things.wall(rng, float(rng.uniform(1.0, 4.0)), float(rng.uniform(0.3, 1.2))),
    ]
    lot.line(path, by_the_way, half, 1.5 / wild, (0.0, 1.0))
    lot.line(path, by_the_way, half, 2.0 / wild, (0.3, 4.0), turned=True)
    lot.people(course, int(rng.integers(0, 6)), 0.6 * extent, half)
    area = (2 * extent) ** 2
    trees = [lambda: furniture.tree(rng, conical=bool(rng.random() < 0.25))]
    lower = [
        lambda: things.shrub(rng),
        lambda: furniture.bush(rng, float(rng.uniform(0.4, 1.4))),
        lambda: things.boulder(rng),
        lambda: things.playground(rng),
    ]
    lot.scatter(trees, int(0.014 * wild * area), tries=2)
    lot.scatter(lower, int(0.008 * wild * area), tries=2)
    lot.scatter([lambda: things.tuft(rng)], int(0.01 * wild * area), tries=1)
    _horizon(rng, lot)
    light, dark = draw_daylight(rng, seed)
    static = PrimitiveTable.concatenate(lot.static)
    return Site(
        f"Procedural park, {vehicle.kind}",
        static,
        tuple(lot.actors),
        segments,
        way.crosses,
        g,
        light,
        course.pose,
        dark,
    )


def _surfaces(rng, g, width: float) -> None:
    terrain, walk = CLASS_ID["terrain"], CLASS_ID["sidewalk"]
    g[gr.GRASS] = float(rng.uniform(0.0, 0.8))
    if rng.random() < 0.75:
        set_surface(g, gr.BASE, gr.LAWN, 1.0, 1.0, (0.1, 0.15, 0.05), terrain)
    else:  # a wood's floor
        set_surface(g, gr.BASE, textures.SPECKLE, float(rng.uniform(0.08, 0.3)), 0.9, (0.17, 0.12, 0.07), terrain)
    g[gr.DIRT] = float(rng.uniform(0.1, 0.8))
    g[gr.PATH_HALF] = width
    kind = int(rng.integers(0, 4))
    if kind == 0:
        set_surface(g, gr.PATH, textures.SPECKLE, float(rng.uniform(0.04, 0.12)), 0.6, (0.38, 0.32, 0.24), walk)
    elif kind == 1:
        set_surface(g, gr.PATH, gr.TARMAC, 0.06, 0.8, (0.16, 0.16, 0.155), walk)
    elif kind == 2:
        set_surface(g, gr.PATH, textures.BRICKS, float(rng.uniform(0.15, 0.6)), 0.6, (0.38, 0.30, 0.26), walk)
    else:
        set_surface(g, gr.PATH, textures.COBBLES, float(rng.uniform(0.1, 0.3)), 0.7, (0.3, 0.29, 0.27), walk)


def _winding(rng, length: float, radius: float) -> np.ndarray:
    """Rows of lines and arcs, tangent to each other (see ground.py)."""
    pieces = [(_BEFORE - 8.0, 0.0)]
    turned = 0.0
    while sum(p for p, _ in pieces) < length:
        bend = float(rng.uniform(1.0, 3.0)) * radius
        sign = -math.copysign(1.0, turned) if abs(turned) > 0.7 else (1.0 if rng.random() < 0.5 else -1.0)
        angle = float(rng.uniform(0.3, 1.2))
        turned += sign * angle
        pieces += [(bend * angle, sign / bend), (float(rng.uniform(2.0, 10.0)), 0.0)]
    return chain(pieces, float(rng.uniform(-math.pi, math.pi)))


def _horizon(rng, lot: Lot) -> None:
    """Trees and some houses around, so that the view ends somewhere."""
    ring = lot.extent + 4.0
    houses = rng.random() < 0.4
    for angle in np.arange(0.0, 2 * math.pi, 0.16):
        r = ring * float(rng.uniform(1.05, 1.5))
        x, y = lot.centre[0] + r * math.cos(angle), lot.centre[1] + r * math.sin(angle)
        z = lot.height(x, y) - 0.2
        if houses and rng.random() < 0.2:
            table = furniture.house(rng, 9.0, 11.0).table()
            lot.static.append(table.placed(x, y, z - 0.3, angle + math.pi))
        elif rng.random() < 0.85:
            lot.static.append(furniture.tree(rng, height=float(rng.uniform(7, 14))).table().placed(x, y, z, angle))
