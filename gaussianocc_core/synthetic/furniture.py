# SPDX-License-Identifier: Apache-2.0
"""What stands beside the road: buildings, trees, lamps, signs, barriers, cones; each in its own frame."""

from __future__ import annotations

import math

from gaussianocc_core.labels import CLASS_ID
from gaussianocc_core.synthetic.materials import BRICK, CURTAIN, PLASTER, RIBBON
from gaussianocc_core.synthetic.shapes import (
    BARK,
    FACADE,
    FOLIAGE,
    LAMP,
    METAL,
    PANEL,
    PLAIN,
    ROOF,
    SIGN,
    STRIPES,
    Color,
    Shapes,
)  # fmt: skip

MANMADE, VEGETATION = CLASS_ID["manmade"], CLASS_ID["vegetation"]
STEEL: Color = (0.22, 0.23, 0.23)
BRICKS: tuple[Color, ...] = (
    (0.33, 0.13, 0.08),
    (0.40, 0.20, 0.11),
    (0.46, 0.33, 0.20),
    (0.24, 0.10, 0.08),
    (0.50, 0.42, 0.32),
)
PLASTERS: tuple[Color, ...] = (
    (0.52, 0.47, 0.38), (0.53, 0.52, 0.48), (0.48, 0.36, 0.24), (0.38, 0.43, 0.41), (0.52, 0.31, 0.22),
    (0.41, 0.38, 0.43),    (0.34, 0.36, 0.36), (0.57, 0.50, 0.33),
)  # fmt: skip


def _shade(color: Color, factor: float) -> Color:
    return (color[0] * factor, color[1] * factor, color[2] * factor)


def building(rng, depth: float, width: float, style: int | None = None, low: float = 7.0, high: float = 24.0) -> Shapes:
    """House whose street front is the +x face: block, parapet, base, and balconies or bays. Origin in the middle."""
    style = int(rng.choice([BRICK, PLASTER, RIBBON, CURTAIN], p=[0.32, 0.38, 0.17, 0.13])) if style is None else style
    height = float(rng.uniform(low, high)) * (1.25 if style >= RIBBON else 1.0)
    storey = float(rng.uniform(2.9, 3.6))
    pitch = float(rng.uniform(2.2, 3.4)) if style < RIBBON else float(rng.uniform(1.4, 2.6))
    color = (BRICKS if style == BRICK else PLASTERS)[rng.integers(len(BRICKS if style == BRICK else PLASTERS))]
    if style == CURTAIN:
        color = (0.26, 0.28, 0.30)
    seed = int(rng.integers(1 << 30))
    shapes = Shapes(label=MANMADE, seed=seed)
    floors = max(2, round(height / storey))
    height = floors * storey + 0.8
    m = (float(style), pitch, storey)
    shapes.box((0, 0, 0.5 * height), (depth, width, height), color, FACADE, m=m)
    trim = tuple(min(0.7, 1.2 * c + 0.06) for c in color)
    shapes.box((0, 0, height + 0.12), (depth + 0.5, width + 0.3, 0.30), trim, PLAIN)
    shapes.box((0, 0, height + 0.45), (depth - 0.4, width - 0.4, 0.5), trim, PLAIN)
    shapes.box((0, 0, 0.20), (depth + 0.16, width + 0.10, 0.50), (0.22, 0.21, 0.20), PLAIN)
    if rng.random() < 0.6:
        shapes.box(
            (rng.uniform(-0.2, 0.2) * depth, rng.uniform(-0.3, 0.3) * width, height + 1.5),
            (3.0, 3.5, 2.6),
            (0.35, 0.34, 0.33),
        )
    front = 0.5 * depth
    if style in (PLASTER, BRICK) and rng.random() < 0.55:
        bays = max(1, int((width - 0.8) / pitch))
        step = (width - 0.8) / bays
        columns = [i for i in range(bays) if rng.random() < 0.35]
        for i in columns:
            y = -0.5 * width + 0.4 + (i + 0.5) * step
            for floor in range(1, min(floors, 6)):
                z = floor * storey
                shapes.box((front + 0.5, y, z + 0.06), (1.0, 0.86 * step, 0.14), trim, PLAIN)
                shapes.box(
                    (front + 0.97, y, z + 0.55), (0.06, 0.86 * step, 0.85), (0.12, 0.12, 0.13), PANEL, m=(9.0, 0.14)
                )
    if rng.random() < 0.5:  # awning over the shop or the door
        span = width * rng.uniform(0.3, 0.8)
        colors = ((0.45, 0.05, 0.04), (0.05, 0.22, 0.12), (0.06, 0.10, 0.30), (0.55, 0.40, 0.10))
        shapes.box(
            (front + 0.6, rng.uniform(-0.1, 0.1) * width, 2.85), (1.2, span, 0.30), colors[rng.integers(4)], PANEL,
            lean=(2.0, 0.0, 0.0), m=(9.0, 0.5),
        )  # fmt: skip
    if style >= RIBBON:
        for k in range(int(width // 6)):
            y = -0.5 * width + 3.0 + 6.0 * k
            shapes.box((front + 0.2, y, 0.5 * height), (0.45, 0.5, height), trim, PLAIN)
    return shapes


def house(rng, depth: float, width: float) -> Shapes:
    """Low house with a pitched roof and a chimney; the +x face looks at the street."""
    colors = PLASTERS + BRICKS
    color = colors[rng.integers(len(colors))]
    shapes = Shapes(label=MANMADE, seed=int(rng.integers(1 << 30)))
    floors = int(rng.integers(1, 3))
    height = 2.9 * floors + 0.9
    style = float(BRICK if color in BRICKS else PLASTER)
    shapes.box((0, 0, 0.5 * height), (depth, width, height), color, FACADE, m=(style, 2.8, 2.9))
    roof = ((0.30, 0.10, 0.06), (0.14, 0.13, 0.13), (0.22, 0.15, 0.10))[rng.integers(3)]
    rise = 0.30 * depth
    slope = (0.5 * depth + 0.25) / rise
    shapes.box((0, 0, height + 0.5 * rise), (depth + 0.8, width + 0.8, rise), roof, ROOF, lean=(slope, slope, 0.35))
    shapes.box((0.15 * depth, 0.3 * width, height + rise), (0.7, 0.7, 1.8), (0.30, 0.14, 0.09))
    shapes.box((0.5 * depth + 0.7, 0.0, 2.5), (1.6, 1.8, 0.16), roof, ROOF, lean=(0.5, 0, 0.5))
    return shapes


def tree(rng, height: float | None = None, conical: bool = False) -> Shapes:
    """Trunk, a few boughs, and a crown of overlapping leafy ellipsoids."""
    height = float(rng.uniform(5.5, 10.0)) if height is None else height
    shapes = Shapes(label=VEGETATION, seed=int(rng.integers(1 << 30)))
    tint = rng.uniform(0.75, 1.25)
    green: Color = (0.095 * tint * rng.uniform(0.8, 1.4), 0.145 * tint, 0.042 * tint)
    bark = (0.13, 0.10, 0.075)
    girth = 0.022 * height + 0.04
    if conical:
        shapes.cone((0, 0, 0), 0.3 * height, girth, bark, BARK)
        for k in range(5):
            z, r = height * (0.14 + 0.165 * k), height * 0.20 * (1.0 - 0.17 * k)
            shapes.seed += 1
            shapes.ellipsoid((0, 0, z + 0.12 * height), (r, r, 0.14 * height), green, FOLIAGE)
        return shapes
    fork = 0.38 * height
    shapes.cone((0, 0, 0), fork + 0.3, girth, bark, BARK, top=0.7 * girth)
    crown = 0.30 * height
    count = int(rng.integers(13, 19))
    for k in range(count):
        angle = 2.399963 * k + rng.uniform(-0.4, 0.4)
        level = (k + 0.5) / count
        radius = crown * math.sqrt(max(0.05, 1.0 - (1.7 * level - 0.75) ** 2)) * rng.uniform(0.55, 0.9)
        centre = (radius * math.cos(angle), radius * math.sin(angle), fork + 0.12 * height + 0.46 * height * level)
        size = crown * rng.uniform(0.30, 0.52)
        shapes.seed += 1
        shade = rng.uniform(0.8, 1.2)
        shapes.ellipsoid(
            centre, (size, size * rng.uniform(0.85, 1.15), size * rng.uniform(0.65, 0.85)),
            _shade(green, shade), FOLIAGE, yaw=angle,
        )  # fmt: skip
        if k % 3 == 0:
            shapes.capsule(
                (0, 0, 0.85 * fork),
                tuple(0.8 * c if a < 2 else c for a, c in enumerate(centre)),
                0.35 * girth,
                bark,
                BARK,
            )
    shapes.ellipsoid((0, 0, fork + 0.36 * height), (0.75 * crown, 0.75 * crown, 0.72 * crown), green, FOLIAGE)
    return shapes


def bush(rng, size: float) -> Shapes:
    shapes = Shapes(label=VEGETATION, seed=int(rng.integers(1 << 30)))
    green = (0.080 * rng.uniform(0.7, 1.5), 0.125 * rng.uniform(0.8, 1.2), 0.036)
    for k in range(3):
        angle = 2.1 * k + rng.uniform(0, 1)
        shapes.seed += 1
        r = size * rng.uniform(0.5, 0.75)
        shapes.ellipsoid(
            (0.4 * size * math.cos(angle), 0.4 * size * math.sin(angle), 0.55 * r), (r, r, 0.8 * r), green, FOLIAGE
        )
    return shapes


def hedge(rng, length: float) -> Shapes:
    """Clipped hedge along y."""
    shapes = Shapes(label=VEGETATION, seed=int(rng.integers(1 << 30)))
    green = (0.062, 0.105, 0.032)
    height = rng.uniform(0.8, 1.5)
    shapes.box((0, 0, 0.5 * height), (0.8, length, height), green, FOLIAGE, lean=(0.06, 0.06, 0.04))
    for k in range(int(length / 1.1)):
        shapes.seed += 1
        shapes.ellipsoid((0, -0.5 * length + 0.6 + 1.1 * k, height - 0.1), (0.45, 0.7, 0.28), green, FOLIAGE)
    return shapes


def fence(rng, length: float) -> Shapes:
    """Wooden or brick garden wall along y."""
    shapes = Shapes(label=MANMADE, seed=int(rng.integers(1 << 30)))
    if rng.random() < 0.5:
        return shapes.box((0, 0, 0.8), (0.10, length, 1.6), (0.30, 0.19, 0.10), PANEL, m=(1.7, 0.16))
    shapes.box((0, 0, 0.5), (0.28, length, 1.0), (0.36, 0.17, 0.11), PANEL, m=(0.09, 0.26))
    return shapes.box((0, 0, 1.04), (0.38, length, 0.10), (0.45, 0.43, 0.40))


def street_lamp(rng, height: float = 7.5) -> Shapes:
    """Mast whose arm reaches in +x, over the road."""
    shapes = Shapes(label=MANMADE, seed=int(rng.integers(1 << 30)))
    shapes.cone((0, 0, 0), 0.7, 0.13, STEEL, METAL)
    shapes.cone((0, 0, 0.7), height - 0.7, 0.085, STEEL, METAL, top=0.055)
    shapes.capsule((0, 0, height), (1.8, 0, height + 0.35), 0.045, STEEL, METAL)
    return shapes.box((2.1, 0, height + 0.36), (0.8, 0.26, 0.12), (0.55, 0.55, 0.52), METAL)


def traffic_light(rng, arm: float = 3.2, green: bool = True) -> Shapes:
    """Signal that faces -x: drivers who come along +x see the lamps."""
    shapes = Shapes(label=MANMADE, seed=int(rng.integers(1 << 30)))
    shapes.cone((0, 0, 0), 5.6, 0.10, STEEL, METAL, top=0.075)
    shapes.capsule((0, 0, 5.4), (0, arm, 5.6), 0.055, STEEL, METAL)
    for y, z in ((arm, 5.3), (0.0, 2.9)):
        shapes.box((-0.14, y, z), (0.24, 0.36, 1.0), (0.025, 0.025, 0.025), PLAIN)
        lamps = (((0.5, 0.02, 0.01), not green), ((0.5, 0.30, 0.01), False), ((0.02, 0.5, 0.16), green))
        for k, (color, on) in enumerate(lamps):
            shade = color if on else _shade(color, 0.12)
            shapes.ellipsoid((-0.26, y, z + 0.31 - 0.31 * k), (0.05, 0.11, 0.11), shade, LAMP, m=(4.0 if on else 0.0,))
    return shapes


def sign(rng) -> Shapes:
    """Traffic sign that faces -x."""
    shapes = Shapes(label=MANMADE, seed=int(rng.integers(1 << 30)))
    shapes.cone((0, 0, 0), 2.7, 0.035, (0.35, 0.36, 0.36), METAL)
    kind = float(rng.integers(0, 3))
    size = (0.04, 0.66, 0.66) if kind < 2 else (0.04, 0.9, 0.55)
    colors = ((0.03, 0.12, 0.42), (0.03, 0.28, 0.12), (0.42, 0.24, 0.03))
    return shapes.box((-0.06, 0, 2.4), size, colors[rng.integers(3)], SIGN, m=(kind,))


def bollard(rng) -> Shapes:
    shapes = Shapes(label=MANMADE, seed=int(rng.integers(1 << 30)))
    return shapes.cone((0, 0, 0), 0.95, 0.075, (0.03, 0.03, 0.03), STRIPES, m=(0.55,))


def bin_(rng) -> Shapes:
    shapes = Shapes(label=MANMADE, seed=int(rng.integers(1 << 30)))
    color = ((0.04, 0.16, 0.07), (0.06, 0.06, 0.07), (0.34, 0.24, 0.03))[rng.integers(3)]
    shapes.box((0, 0, 0.52), (0.55, 0.50, 1.0), color, PLAIN, lean=(-0.06, -0.06, -0.05))
    return shapes.box((0, 0, 1.05), (0.66, 0.60, 0.10), _shade(color, 0.7))


def bench(rng) -> Shapes:
    shapes = Shapes(label=MANMADE, seed=int(rng.integers(1 << 30)))
    wood: Color = (0.30, 0.17, 0.08)
    shapes.box((0, 0, 0.45), (0.45, 1.7, 0.07), wood, PANEL, m=(1.0, 0.11))
    shapes.box((-0.24, 0, 0.75), (0.06, 1.7, 0.36), wood, PANEL, m=(0.12, 9.0))
    for y in (0.7, -0.7):
        shapes.box((0, y, 0.22), (0.40, 0.07, 0.44), (0.05, 0.05, 0.05))
    return shapes


def bus_shelter(rng) -> Shapes:
    """Open side towards +x, advertising panel at one end."""
    shapes = Shapes(label=MANMADE, seed=int(rng.integers(1 << 30)))
    shapes.box((0, 0, 2.45), (1.6, 4.2, 0.12), (0.16, 0.17, 0.18), METAL)
    shapes.box((-0.72, 0, 1.25), (0.05, 4.0, 2.2), (0.12, 0.16, 0.16), PANEL, m=(1.2, 1.3))
    shapes.box((0, 2.0, 1.25), (1.2, 0.12, 2.0), (0.50, 0.30, 0.20), PANEL, m=(0.5, 0.45))
    for y in (2.0, -2.0):
        shapes.cone((0.7, y, 0), 2.4, 0.045, STEEL, METAL)
    return shapes.box((-0.35, 0, 0.5), (0.40, 2.6, 0.07), (0.30, 0.17, 0.08))


def billboard(rng) -> Shapes:
    shapes = Shapes(label=MANMADE, seed=int(rng.integers(1 << 30)))
    shapes.cone((0, 0, 0), 2.0, 0.09, STEEL, METAL)
    color = tuple(rng.uniform(0.1, 0.6, 3))
    return shapes.box((0, 0, 3.2), (0.22, 3.4, 2.4), color, SIGN, m=(3.0,))


def barrier(rng, red: bool) -> Shapes:
    """One water-filled road barrier along x, 1.9 m long."""
    shapes = Shapes(label=CLASS_ID["barrier"], seed=int(rng.integers(1 << 30)))
    color: Color = (0.60, 0.10, 0.04) if red else (0.72, 0.71, 0.68)
    shapes.box((0, 0, 0.16), (1.9, 0.58, 0.32), color, PLAIN)
    return shapes.box((0, 0, 0.62), (1.86, 0.44, 0.62), color, PLAIN, lean=(0.0, 0.0, 0.16))


def striped_barrier(rng) -> Shapes:
    """Construction board on two feet, along y."""
    shapes = Shapes(label=CLASS_ID["barrier"], seed=int(rng.integers(1 << 30)))
    for z in (0.95, 0.55):
        shapes.box((0, 0, z), (0.05, 2.0, 0.22), (0.58, 0.04, 0.03), STRIPES, m=(0.42, 1.0))
    for y in (0.85, -0.85):
        shapes.box((0, y, 0.5), (0.06, 0.06, 1.0), STEEL)
        shapes.box((0, y, 0.05), (0.7, 0.14, 0.10), (0.04, 0.04, 0.04))
    return shapes


def traffic_cone(rng) -> Shapes:
    shapes = Shapes(label=CLASS_ID["traffic_cone"], seed=int(rng.integers(1 << 30)))
    shapes.box((0, 0, 0.025), (0.40, 0.40, 0.05), (0.04, 0.04, 0.04))
    return shapes.cone((0, 0, 0.05), 0.70, 0.15, (0.72, 0.16, 0.02), STRIPES, top=0.03, m=(0.36,))
