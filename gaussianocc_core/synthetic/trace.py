# SPDX-License-Identifier: Apache-2.0
"""What a ray meets in a `Scene`: the nearest primitive or the ground, and how much sunlight arrives at a point."""

from __future__ import annotations

from gaussianocc_core.geometry.raymarch import clip_to_box, dda_inside, dda_start, dda_step
from gaussianocc_core.kernels import inner
from gaussianocc_core.synthetic.ground import cast_ground
from gaussianocc_core.synthetic.intersect import MISS, intersect
from gaussianocc_core.synthetic.noise import mix, noise3, smoothstep
from gaussianocc_core.synthetic.scene import CELL
from gaussianocc_core.synthetic.shapes import CEILING, FOLIAGE, MATERIAL

MAX_RANGE = 400.0  # m; beyond is sky
SKY, GROUND = -2, -1  # in place of a primitive's index


@inner
def _cast_primitives(scene, ox, oy, oz, dx, dy, dz, limit, footprint):
    """Nearest primitive before `limit`: distance and index (limit, SKY without one)."""
    floats, ints, start, items, low, high, shape = scene[0], scene[1], scene[2], scene[3], scene[4], scene[5], scene[6]
    best, found = limit, SKY
    t, end = clip_to_box(ox, oy, oz, dx, dy, dz, low, high)
    end = min(end, limit)
    if not t < end:
        return best, found
    cell, borders, steps, per_cell = dda_start(ox, oy, oz, dx, dy, dz, t, low, CELL, shape)
    while t < best and t < end and dda_inside(cell, shape):
        at = (cell[0] * shape[1] + cell[1]) * shape[2] + cell[2]
        for n in range(start[at], start[at + 1]):
            p = items[n]
            hit = intersect(floats, ints, p, ox, oy, oz, dx, dy, dz, footprint)
            if hit < best:
                best, found = hit, p
        t = min(borders)
        cell, borders = dda_step(cell, borders, steps, per_cell)
    return best, found


@inner
def cast_shadow(scene, ox, oy, oz, dx, dy, dz):
    """Share of sunlight that arrives: 0 behind solid things, dappled (at least 0.02) under leaves."""
    floats, ints, start, items, low, high, shape = scene[0], scene[1], scene[2], scene[3], scene[4], scene[5], scene[6]
    t, end = clip_to_box(ox, oy, oz, dx, dy, dz, low, high)
    if not t < end:
        return 1.0
    light = 1.0
    cell, borders, steps, per_cell = dda_start(ox, oy, oz, dx, dy, dz, t, low, CELL, shape)
    while dda_inside(cell, shape):
        at = (cell[0] * shape[1] + cell[1]) * shape[2] + cell[2]
        t_next = min(borders)
        for n in range(start[at], start[at + 1]):
            p = items[n]
            if ints[p, MATERIAL] == CEILING:  # the light in a hall comes from lamps below it
                continue
            hit = intersect(floats, ints, p, ox, oy, oz, dx, dy, dz, 1.0)
            if hit < MISS:
                if ints[p, MATERIAL] != FOLIAGE:
                    return 0.0
                if t <= hit < t_next:  # a crown stands in several cells; it dims the sun in the one where it is hit
                    x, y, z = ox + hit * dx, oy + hit * dy, oz + hit * dz
                    light *= mix(0.30, 1.0, smoothstep(-0.15, 0.45, noise3(x * 2.4, y * 2.4, z * 2.4, 77)))
                    if light < 0.02:
                        return 0.02
        t = t_next
        cell, borders = dda_step(cell, borders, steps, per_cell)
    return light


@inner
def cast(scene, ox, oy, oz, dx, dy, dz, footprint):
    """Distance, primitive index (or GROUND, SKY) and whether a kerb face was hit."""
    limit, kerb = cast_ground(ox, oy, oz, dx, dy, dz, scene[7], scene[8], scene[9])
    limit = min(limit, MAX_RANGE)
    t, p = _cast_primitives(scene, ox, oy, oz, dx, dy, dz, limit, footprint)
    if p == SKY and limit < MAX_RANGE:
        return t, GROUND, kerb
    return t, p, False
