# SPDX-License-Identifier: Apache-2.0
"""Halls: warehouses with racks and narrow aisles, workshops with machines; walls all round, a ceiling, lamps."""

from __future__ import annotations

import numpy as np

from gaussianocc_core.labels import CLASS_ID
from gaussianocc_core.synthetic import furniture, textures, things
from gaussianocc_core.synthetic import ground as gr
from gaussianocc_core.synthetic.course import LEAD, Course, Path, draw_speed, follow, wander
from gaussianocc_core.synthetic.fleet import Vehicle
from gaussianocc_core.synthetic.places.light import draw_lamplight
from gaussianocc_core.synthetic.places.lot import Lot, open_ground, set_surface
from gaussianocc_core.synthetic.places.site import Site
from gaussianocc_core.synthetic.places.yard import NO_CROSSES, STRAIGHT, draw_lines
from gaussianocc_core.synthetic.shapes import CEILING, LAMP, METAL, PANEL, PrimitiveTable


def build_hall(rng: np.random.Generator, vehicle: Vehicle, duration: float, seed: int) -> Site:
    """A hall for this vehicle: with racks in rows, or open with machines."""
    big = vehicle.kind in ("car", "lorry")
    half_x, half_y = rng.uniform(16.0, 40.0), rng.uniform(9.0, 22.0) + (6.0 if big else 0.0)
    height = float(rng.uniform(3.2, 11.0))
    along = draw_speed(rng, vehicle, duration, limit=4.0)
    length = float(np.ptp(along)) + 3.0 * LEAD
    racked = rng.random() < 0.6
    aisle = 2.0 * vehicle.clearance + float(rng.uniform(0.3, 2.2))
    depth = float(rng.uniform(0.8, 1.3)) * (2.0 if rng.random() < 0.5 else 1.0)
    rows = np.arange(-half_y + 1.0 + 0.5 * depth, half_y - 0.5 * depth - 0.5, depth + aisle)
    if racked and len(rows) >= 2:
        path = _aisles(rng, rows, depth, aisle, half_x, vehicle, length)
    else:
        racked = False
        path = wander(rng, vehicle.turning_radius, length, (-half_x + 3.0, -half_y + 3.0, half_x - 3.0, half_y - 3.0))
    course = Course.draw(rng, vehicle, path, along)
    g = open_ground(seed)
    _floor(rng, g)
    lot = Lot(rng, (0.0, 0.0), max(half_x, half_y) + 1.0, g)
    lot.keep_clear(course, vehicle, float(rng.uniform(0.5, 6.0)))
    _shell(rng, lot, half_x, half_y, height)
    busy = float(rng.uniform(0.2, 1.0))
    if racked:
        _racks(rng, lot, rows, depth, half_x, height, fill=float(rng.uniform(0.3, 1.0)))
    small = [
        lambda: things.pallet(rng),
        lambda: things.crate(rng),
        lambda: things.drum(rng),
        lambda: things.pole(rng),
        lambda: things.oddity(rng, float(rng.uniform(0.2, 1.4))),
        lambda: furniture.bin_(rng),
        lambda: furniture.traffic_cone(rng),
        lambda: furniture.bollard(rng),
        lambda: things.workbench(rng),
    ]
    low = float(rng.uniform(1.6, min(height - 0.3, 4.0)))
    large = [
        lambda: things.machine(rng),
        lambda: things.pallet(rng),
        lambda: things.oddity(rng, 2.5),
        lambda: things.rack(rng, float(rng.uniform(2, 6)), 0.9, low, 0.7),
        lambda: things.wall(rng, float(rng.uniform(1.5, 5.0)), float(rng.uniform(1.0, 2.4)), 0.1),
    ]
    half = vehicle.clearance
    if not racked:
        lot.line(path, large, half, 4.0 / busy, (0.0, 2.0), turned=True)
        lot.scatter(large, int(30 * busy))
    lot.line(path, small, half, (4.0 if racked else 2.0) / busy, (0.0, 0.6))
    lot.traffic([(lambda: things.forklift(rng), "vehicle.construction")], int(rng.integers(0, 4)), half_y - 2.0)
    lot.people(course, int(rng.integers(0, 5)), min(half_x, half_y) - 1.5, half)
    lot.scatter(small, int(60 * busy))
    light, dark = draw_lamplight(rng, seed)
    static = PrimitiveTable.concatenate(lot.static)
    return Site(
        f"Procedural hall, {'racks' if racked else 'machines'}, {vehicle.kind}",
        static,
        tuple(lot.actors),
        STRAIGHT,
        NO_CROSSES,
        g,
        light,
        course.pose,
        dark,
    )


def _floor(rng, g) -> None:
    grey = float(rng.uniform(0.12, 0.5))
    color = (grey, grey, 0.97 * grey) if rng.random() < 0.7 else (0.12, float(rng.uniform(0.16, 0.3)), 0.17)
    style = int(rng.choice([gr.TARMAC, textures.BLANK, textures.GROUT, textures.GRIME, textures.CHECKER]))
    scale = {gr.TARMAC: 0.05, textures.GROUT: 2.0, textures.CHECKER: 0.5}.get(style, 0.4) * float(rng.uniform(0.6, 1.6))
    set_surface(g, gr.BASE, style, scale, float(rng.uniform(0.15, 0.7)), color, CLASS_ID["driveable_surface"])
    g[gr.DIRT] = float(rng.uniform(0.0, 0.8))
    if rng.random() < 0.6:
        draw_lines(rng, g, (2.0, 7.0))
        g[gr.LINE_COS], g[gr.LINE_SIN] = 1.0, 0.0


def _shell(rng, lot: Lot, half_x: float, half_y: float, height: float) -> None:
    """Walls with doors and boards, columns, ceiling with beams and lamps."""
    shapes = things.seeded(rng, things.MANMADE)
    for side in range(4):
        along_x = side % 2 == 0
        length, out = (2 * half_x, half_y) if along_x else (2 * half_y, half_x)
        sign = 1.0 if side < 2 else -1.0
        color, (material, m) = things.wall_finish(rng)
        shapes.seed = int(rng.integers(1 << 30))
        centre = (0.0, sign * (out + 0.15), 0.5 * height) if along_x else (sign * (out + 0.15), 0.0, 0.5 * height)
        size = (length + 0.6, 0.3, height) if along_x else (0.3, length + 0.6, height)
        shapes.box(centre, size, color, material, m=m)
        for _ in range(int(rng.integers(3, 10))):  # doors, boards, windows, cupboards
            w, h = rng.uniform(0.5, 4.0), rng.uniform(0.5, min(4.0, height - 0.5))
            u, low = (
                rng.uniform(-0.5, 0.5) * (length - w),
                (0.0 if rng.random() < 0.5 else rng.uniform(0.0, height - h)),
            )
            thick = float(rng.uniform(0.04, 0.5))
            v = sign * (out - 0.5 * thick)
            c = (u, v, low + 0.5 * h) if along_x else (v, u, low + 0.5 * h)
            shapes.seed = int(rng.integers(1 << 30))
            material, m = things.any_finish(rng, 2.0)
            size = (w, thick, h) if along_x else (thick, w, h)
            if rng.random() < 0.2:  # a lit window
                shapes.box(c, size, (0.8, 0.85, 0.9), LAMP, m=(float(rng.uniform(0.0, 1.5)),))
            else:
                shapes.box(c, size, things.any_color(rng), material, m=m)
    roof = float(rng.uniform(0.1, 0.6))
    shapes.box(
        (0, 0, height + 0.1),
        (2 * half_x + 0.6, 2 * half_y + 0.6, 0.2),
        (roof, roof, roof),
        CEILING,
        m=(
            float(rng.choice([textures.CORRUGATED, textures.GROUT, textures.BLANK, textures.PLANKS])),
            float(rng.uniform(0.2, 1.2)),
            0.6,
        ),
    )
    step = float(rng.uniform(3.0, 7.0))
    steel = things.any_color(rng)
    for x in np.arange(-half_x + 0.5 * step, half_x, step):
        shapes.box((x, 0, height - 0.25), (0.2, 2 * half_y, 0.4), steel, CEILING, m=(float(textures.BLANK), 1.0, 0.2))
        for y in np.arange(-half_y + 1.5, half_y, float(rng.uniform(2.5, 6.0))):
            on = rng.random() < 0.9
            shapes.box(
                (x + 0.5 * step, y, height - 0.6), (1.4, 0.25, 0.12), (0.9, 0.9, 0.86), LAMP, m=(4.0 if on else 0.0,)
            )
    for y in (-half_y + 0.5, half_y - 0.5, 0.3 * half_y):  # ducts and pipes under the ceiling
        if rng.random() < 0.6:
            r = float(rng.uniform(0.06, 0.35))
            shapes.capsule((-half_x, y, height - 0.9), (half_x, y, height - 0.9), r, things.any_color(rng), METAL)
    lot.static.append(shapes.table())
    # Nothing stands in the walls or outside of them.
    beyond = lot.extent
    for sign in (1.0, -1.0):
        y, x = 0.5 * sign * (half_y - 0.7 + beyond), 0.5 * sign * (half_x - 0.7 + beyond)
        lot.claim(0.0, y, beyond, 0.5 * (beyond - half_y + 0.7), 0.0, force=True)
        lot.claim(x, 0.0, 0.5 * (beyond - half_x + 0.7), beyond, 0.0, force=True)
    grid_x, grid_y = rng.uniform(5.0, 10.0, 2)
    color = things.any_color(rng)
    striped = rng.random() < 0.5
    for x in np.arange(-half_x + grid_x, half_x - 1.0, grid_x):
        for y in np.arange(-half_y + grid_y, half_y - 1.0, grid_y):
            column = things.seeded(rng, things.MANMADE)
            column.box((0, 0, 0.5 * height), (0.35, 0.35, height), color, PANEL, m=(9.0, 9.0))
            if striped:
                column.box(
                    (0, 0, 0.6),
                    (0.39, 0.39, 1.2),
                    (0.55, 0.42, 0.03),
                    things.TEXTURE,
                    m=(float(textures.HAZARD), 0.15, 1.0),
                )
            lot.put(column, float(x), float(y), 0.0, 0.02)


def _aisles(rng, rows, depth: float, aisle: float, half_x: float, vehicle: Vehicle, length: float) -> Path:
    """A way up one aisle, round the end of a row, down the next, from a random place on."""
    lanes = rows[:-1] + 0.5 * (depth + aisle)
    end = half_x - 1.2 - max(vehicle.turning_radius, 0.8)
    order = list(range(len(lanes)))
    k = int(rng.integers(len(order)))
    direction = 1.0 if rng.random() < 0.5 else -1.0
    points, step = [], 1 if k + 1 < len(lanes) else -1
    for n in range(4):
        y = lanes[min(max(k + step * n, 0), len(lanes) - 1)]
        points += [(-direction * end, y), (direction * end, y)]
        direction = -direction
    line = np.array(points)
    at = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    begin = float(rng.uniform(0.0, max(1.0, 2.0 * end)))
    first = np.array([np.interp(begin, at, line[:, 0]), np.interp(begin, at, line[:, 1])])
    rest = line[at > begin + 0.3]
    return follow(np.vstack([first, rest]), vehicle.turning_radius, length)


def _racks(rng, lot: Lot, rows, depth: float, half_x: float, height: float, fill: float) -> None:
    tall = float(rng.uniform(min(2.0, height - 0.6), height - 0.5))
    for y in rows:
        x = -half_x + float(rng.uniform(2.5, 4.5))
        while x < half_x - 4.0:
            length = float(rng.uniform(3.0, 9.0))
            if rng.random() < 0.93:
                lot.put(things.rack(rng, length, depth, tall, fill), x + 0.5 * length, float(y), 0.0, 0.0)
            x += length + (float(rng.uniform(1.0, 3.0)) if rng.random() < 0.1 else 0.02)
