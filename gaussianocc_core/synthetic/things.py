# SPDX-License-Identifier: Apache-2.0
"""What stands in yards, halls and parks, and objects of shapes that no class list has; each in its own frame."""

from __future__ import annotations

import math

import numpy as np

from gaussianocc_core.labels import CLASS_ID
from gaussianocc_core.synthetic import textures
from gaussianocc_core.synthetic.shapes import BARK, FOLIAGE, LAMP, METAL, PANEL, PLAIN, TEXTURE, Color, Shapes

MANMADE, OTHERS = CLASS_ID["manmade"], CLASS_ID["others"]
VEGETATION, TERRAIN = CLASS_ID["vegetation"], CLASS_ID["terrain"]
WOOD: Color = (0.36, 0.25, 0.14)
CARDBOARD: Color = (0.38, 0.27, 0.16)
STEEL: Color = (0.25, 0.26, 0.27)

Finish = tuple[int, tuple[float, float, float]]  # material, and its three parameters


def seeded(rng, label: int) -> Shapes:
    return Shapes(label=label, seed=int(rng.integers(1 << 30)))


def dimmed(color: Color, factor: float) -> Color:
    return color[0] * factor, color[1] * factor, color[2] * factor


def any_color(rng) -> Color:
    """Linear albedo: greys, muted and strong hues, near black, near white."""
    draw = rng.random()
    if draw < 0.35:
        v = rng.uniform(0.05, 0.65)
        r, g, b = v * rng.uniform(0.92, 1.08, 3)
    elif draw < 0.65:
        r, g, b = rng.uniform(0.15, 0.5) * rng.uniform(0.5, 1.4, 3)
    elif draw < 0.85:
        r, g, b = rng.uniform(0.02, 0.7, 3)
    elif draw < 0.93:
        r, g, b = rng.uniform(0.01, 0.05, 3)
    else:
        r, g, b = rng.uniform(0.6, 0.78, 3)
    return float(r), float(g), float(b)


def any_finish(rng, size: float = 1.0) -> Finish:
    """A texture at random for a surface of about this size (m); a sixth of them are nearly blank."""
    if rng.random() < 0.17:
        return TEXTURE, (float(textures.BLANK), 0.5, float(rng.uniform(0.05, 0.5)))
    style = float(rng.integers(1, textures.STYLES))
    scale = float(np.exp(rng.uniform(math.log(0.015), math.log(0.25)))) * max(0.4, min(size, 3.0)) ** 0.5
    return TEXTURE, (style, scale, float(rng.uniform(0.35, 1.0)))


def wall_finish(rng) -> tuple[Color, Finish]:
    """Colour and texture of something built: plaster, brick, concrete, boards, sheet metal, tiles."""
    draw = int(rng.integers(0, 6))
    grey = float(rng.uniform(0.2, 0.6))
    if draw == 0:
        return ((0.33, 0.14, 0.09), (0.44, 0.30, 0.19), (0.5, 0.45, 0.38))[rng.integers(3)], (
            TEXTURE, (float(textures.BRICKS), float(rng.uniform(0.2, 0.5)), float(rng.uniform(0.3, 0.6))))  # fmt: skip
    if draw == 1:
        return (grey, 0.98 * grey, 0.93 * grey), (
            TEXTURE, (float(textures.GRIME), float(rng.uniform(0.1, 0.5)), float(rng.uniform(0.2, 0.7))))  # fmt: skip
    if draw == 2:
        return any_color(rng), (
            TEXTURE, (float(textures.CORRUGATED), float(rng.uniform(0.12, 0.4)), float(rng.uniform(0.3, 0.8))),
        )  # fmt: skip
    if draw == 3:
        return any_color(rng), (PANEL, (float(rng.uniform(0.8, 3.0)), float(rng.uniform(0.3, 1.5)), 0.0))
    if draw == 4:
        return (grey, grey, grey), (
            TEXTURE, (float(textures.GROUT), float(rng.uniform(0.3, 1.5)), float(rng.uniform(0.3, 0.9))))  # fmt: skip
    return any_color(rng), any_finish(rng, 4.0)


# ---- no class list has these -----------------------------------------------------------------------------------------


def oddity(rng, size: float) -> Shapes:
    """Primitives of any kind, size and texture thrown together, about `size` metres across, standing on the ground."""
    shapes = seeded(rng, OTHERS)
    count = int(rng.integers(2, 9))
    one = any_color(rng), any_finish(rng, size)
    alike = rng.random() < 0.35
    for k in range(count):
        shapes.seed = int(rng.integers(1 << 30))
        color, (material, m) = one if alike else (any_color(rng), any_finish(rng, size))
        spread = 0.0 if k == 0 else 0.45 * size
        x, y = rng.uniform(-spread, spread, 2)
        low = 0.0 if k == 0 or rng.random() < 0.4 else float(rng.uniform(0.0, 0.8 * size))
        a, b, c = size * np.exp(rng.uniform(-1.9, -0.4, 3))
        kind = rng.integers(0, 5)
        if kind == 0:
            lean = tuple(rng.uniform(-0.25, 0.6, 3)) if rng.random() < 0.4 else (0.0, 0.0, 0.0)
            lean = tuple(min(value, 0.8 * min(a, b) / c) for value in lean)  # the top must not close
            shapes.box((x, y, low + 0.5 * c), (a, b, c), color, material, yaw=rng.uniform(0, 3.1), lean=lean, m=m)
        elif kind == 1:
            shapes.cone((x, y, low), c, 0.5 * a, color, material, top=float(rng.choice([0.5 * a, 0.1 * a, 0.8 * b])),
                        m=m)  # fmt: skip
        elif kind == 2:
            shapes.ellipsoid((x, y, low + 0.45 * c), (0.5 * a, 0.5 * b, 0.5 * c), color, material,
                             yaw=rng.uniform(0, 3.1), m=m)  # fmt: skip
        else:
            radius = float(size * np.exp(rng.uniform(-4.0, -2.2)))
            end = rng.uniform(-0.5, 0.5, 2) * size
            top = radius + float(rng.uniform(0.0, 1.0)) * size
            if kind == 3:
                shapes.capsule((x, y, low + radius), (end[0], end[1], top), radius, color, material, m=m)
            else:
                shapes.wheel((x, y, low + 0.3 * size), 0.3 * size, 0.4 * b, color, material,
                             open_share=float(rng.choice([0.0, 0.0, 0.7])), m=m)  # fmt: skip
    return shapes


# ---- yards -----------------------------------------------------------------------------------------------------------


def container(rng, floors: int = 1) -> Shapes:
    """Freight containers along x, one upon the other."""
    shapes = seeded(rng, MANMADE)
    length = 6.06 if rng.random() < 0.7 else 12.19
    for k in range(floors):
        shapes.seed += 7
        color = any_color(rng)
        shapes.box((rng.uniform(-0.03, 0.03), rng.uniform(-0.03, 0.03), 2.59 * k + 1.33), (length, 2.44, 2.52), color,
                   TEXTURE, m=(float(textures.CORRUGATED), 0.28, float(rng.uniform(0.5, 0.9))))  # fmt: skip
        shapes.box((0, 0, 2.59 * k + 0.05), (length + 0.02, 2.46, 0.1), dimmed(color, 0.6), METAL)
        for side in (1, -1):
            shapes.box((side * (0.5 * length - 0.05), 0, 2.59 * k + 1.3), (0.14, 2.46, 2.55),
                       dimmed(color, 0.7), PANEL, m=(2.6, 0.6))  # fmt: skip
        if rng.random() < 0.6:  # the owner's name
            shapes.box((0.0, 1.235, 2.59 * k + 1.7), (2.4, 0.01, 0.7), (0.7, 0.7, 0.68), TEXTURE,
                       m=(float(textures.PRINT), 0.34, 0.9))  # fmt: skip
    return shapes


def pallet(rng, height: float | None = None) -> Shapes:
    """A pallet of 1.2 x 0.8 m with what it carries; height 0: nothing."""
    shapes = seeded(rng, MANMADE)
    for y in (-0.35, 0.0, 0.35):
        shapes.box((0, y, 0.05), (1.2, 0.1, 0.1), WOOD, TEXTURE, m=(float(textures.PLANKS), 0.1, 0.7))
    shapes.box((0, 0, 0.125), (1.2, 0.8, 0.04), WOOD, TEXTURE, m=(float(textures.STRIPE), 0.16, 0.8))
    height = float(rng.uniform(0.3, 1.6)) if height is None else height
    if height <= 0.0:
        return shapes
    draw, low = rng.random(), 0.145
    if draw < 0.45:  # cartons
        layer = float(rng.uniform(0.2, 0.45))
        for k in range(max(1, int(height / layer))):
            columns, rows = int(rng.integers(1, 4)), int(rng.integers(1, 3))
            for i in range(columns):
                for j in range(rows):
                    if k > 0 and rng.random() < 0.15:
                        continue
                    shapes.seed += 1
                    x, y = (i + 0.5) * 1.16 / columns - 0.58, (j + 0.5) * 0.78 / rows - 0.39
                    tint = rng.uniform(0.8, 1.2)
                    material, m = (TEXTURE, (float(textures.PRINT), 0.05, 0.8)) if rng.random() < 0.4 else (PLAIN, ())
                    shapes.box((x, y, low + (k + 0.5) * layer), (1.12 / columns, 0.75 / rows, 0.97 * layer),
                               dimmed(CARDBOARD, tint), material, yaw=rng.normal(0, 0.02), m=m)  # fmt: skip
    elif draw < 0.65:  # wrapped goods
        shapes.box((0, 0, low + 0.5 * height), (1.12, 0.74, height), any_color(rng), *any_finish_args(rng))
    elif draw < 0.8:  # sacks
        for k in range(int(height / 0.18)):
            shapes.seed += 1
            x = 0.26 if k % 2 else -0.26
            shapes.ellipsoid((x, rng.uniform(-0.1, 0.1), low + 0.18 * (k // 2) + 0.1), (0.34, 0.36, 0.13),
                             (0.5, 0.47, 0.4), TEXTURE, m=(float(textures.SPECKLE), 0.06, 0.4))  # fmt: skip
    else:  # drums
        for x in (-0.29, 0.29):
            for y in (-0.2, 0.2):
                shapes.seed += 1
                shapes.cone((x, y, low), 0.6 * min(1.0, height + 0.4), 0.19, any_color(rng), METAL)
    return shapes


def any_finish_args(rng, size: float = 1.0) -> tuple[int, float, tuple[float, float, float], tuple[float, ...]]:
    """`material, yaw, lean, m` as `Shapes.box` takes them after the colour."""
    material, m = any_finish(rng, size)
    return material, 0.0, (0.0, 0.0, 0.0), m


def crate(rng, size: float | None = None) -> Shapes:
    """A box of anything, sometimes with a second one on it."""
    shapes = seeded(rng, MANMADE)
    size = float(np.exp(rng.uniform(math.log(0.2), math.log(1.2)))) if size is None else size
    a, b, c = size * rng.uniform(0.7, 1.4, 3)
    shapes.box((0, 0, 0.5 * c), (a, b, c), any_color(rng), *any_finish_args(rng, size))
    if rng.random() < 0.35:
        shapes.seed += 1
        d = 0.6 * size
        shapes.box((0.1 * a, -0.1 * b, c + 0.5 * d), (d, 0.9 * d, d), any_color(rng), *any_finish_args(rng, size))
    return shapes


def drum(rng) -> Shapes:
    """One to three steel drums."""
    shapes = seeded(rng, MANMADE)
    for k in range(int(rng.integers(1, 4))):
        shapes.seed += 1
        x, y = 0.62 * math.cos(2.1 * k) * (k > 0), 0.62 * math.sin(2.1 * k) * (k > 0)
        style = float(rng.choice([textures.STRIPE, textures.GRIME, textures.BLANK]))
        shapes.cone((x, y, 0), 0.88, 0.29, any_color(rng), TEXTURE, m=(style, 0.29, 0.6))
    return shapes


def reel(rng) -> Shapes:
    """A cable drum: two discs on a core, lying along y."""
    shapes = seeded(rng, MANMADE)
    radius = float(rng.uniform(0.4, 1.1))
    for y in (-0.45, 0.45):
        shapes.wheel((0, y, radius), radius, 0.07, WOOD, TEXTURE, m=(float(textures.PLANKS), 0.14, 0.8))
    shapes.wheel(
        (0, 0, radius), 0.62 * radius, 0.84, (0.03, 0.03, 0.035), TEXTURE, m=(float(textures.STRIPE), 0.05, 0.6)
    )
    return shapes


def pipes(rng) -> Shapes:
    """A pile of pipes or logs along x."""
    shapes = seeded(rng, MANMADE)
    radius, length = float(rng.uniform(0.06, 0.3)), float(rng.uniform(2.0, 6.0))
    color, wood = any_color(rng), rng.random() < 0.4
    rows = int(rng.integers(2, 5))
    for row in range(rows):
        for k in range(rows + 2 - row):
            shapes.seed += 1
            y = (k - 0.5 * (rows + 1 - row)) * 2.04 * radius
            z = radius + 1.75 * radius * row
            shift = rng.uniform(-0.2, 0.2)
            shapes.capsule((-0.5 * length + shift, y, z), (0.5 * length + shift, y, z), radius,
                           (0.2, 0.14, 0.09) if wood else color, BARK if wood else METAL)  # fmt: skip
    return shapes


def heap(rng) -> Shapes:
    """A heap of gravel, sand or earth."""
    shapes = seeded(rng, TERRAIN)
    radius = float(rng.uniform(0.8, 3.0))
    color = ((0.32, 0.27, 0.20), (0.28, 0.27, 0.26), (0.16, 0.11, 0.07))[rng.integers(3)]
    m = (float(textures.SPECKLE), float(rng.uniform(0.05, 0.15)), 0.6)
    for _ in range(int(rng.integers(1, 4))):
        shapes.seed += 1
        x, y = rng.uniform(-0.5, 0.5, 2) * radius
        shapes.cone((x, y, -0.02), 0.6 * radius * rng.uniform(0.6, 1.0), radius * rng.uniform(0.6, 1.0), color,
                    TEXTURE, top=0.05 * radius, m=m)  # fmt: skip
    return shapes


def wall(rng, length: float, height: float, thick: float = 0.3) -> Shapes:
    """A wall along x of any finish, with a plinth and posts at random."""
    shapes = seeded(rng, MANMADE)
    color, (material, m) = wall_finish(rng)
    shapes.box((0, 0, 0.5 * height), (length, thick, height), color, material, m=m)
    if rng.random() < 0.6:
        shapes.box((0, 0, 0.15), (length + 0.02, thick + 0.08, 0.3), dimmed(color, 0.5), PLAIN)
    if rng.random() < 0.5:
        step = float(rng.uniform(2.0, 5.0))
        for k in range(int(length / step)):
            x = -0.5 * length + (k + 0.5) * step
            shapes.box((x, 0, 0.5 * height), (0.3, thick + 0.16, height + 0.06), dimmed(color, 0.8), PLAIN)
    if rng.random() < 0.4:  # posters and boards
        for _ in range(int(length / 4) + 1):
            shapes.seed += 1
            w, h = rng.uniform(0.4, 2.0), rng.uniform(0.2, 0.8) * min(height, 2.0)
            x = rng.uniform(-0.5, 0.5) * max(length - w, 0.1)
            z = rng.uniform(0.5 * h, height - 0.5 * h)
            style = float(rng.choice([textures.POSTER, textures.PRINT, textures.HAZARD, textures.CHECKER]))
            shapes.box((x, 0, z), (w, thick + 0.04, h), any_color(rng), TEXTURE,
                       m=(style, float(rng.uniform(0.06, 0.2)), 0.9))  # fmt: skip
    return shapes


def mesh_fence(rng, length: float) -> Shapes:
    """Posts and rails along x that one sees through."""
    shapes = seeded(rng, MANMADE)
    height, step = float(rng.uniform(1.0, 2.2)), float(rng.uniform(1.5, 3.0))
    for k in range(int(length / step) + 1):
        shapes.cone((-0.5 * length + step * k, 0, 0), height, 0.035, STEEL, METAL)
    for z in np.linspace(0.12, height - 0.05, int(rng.integers(2, 7))):
        shapes.capsule((-0.5 * length, 0, z), (0.5 * length, 0, z), 0.018, STEEL, METAL)
    return shapes


def pole(rng) -> Shapes:
    """A bare pole, sometimes striped, sometimes with a box on it."""
    shapes = seeded(rng, MANMADE)
    height, radius = float(rng.uniform(1.0, 6.0)), float(np.exp(rng.uniform(math.log(0.02), math.log(0.14))))
    material, m = (TEXTURE, (float(textures.STRIPE), float(rng.uniform(0.2, 0.8)), 0.9)) if rng.random() < 0.4 else (
        METAL, ())  # fmt: skip
    shapes.cone((0, 0, 0), height, radius, any_color(rng), material, m=m)
    if rng.random() < 0.5:
        shapes.box((0, 0, 0.8 * height), (0.3, 0.25, 0.4), any_color(rng), *any_finish_args(rng, 0.4))
    return shapes


# ---- halls -----------------------------------------------------------------------------------------------------------


def rack(rng, length: float, depth: float, height: float, fill: float) -> Shapes:
    """Pallet rack along x: uprights, beams, shelves and goods on a share `fill` of its places."""
    shapes = seeded(rng, MANMADE)
    bay, floors = float(rng.uniform(1.8, 2.8)), max(2, int(height / rng.uniform(1.2, 2.0)))
    bays = max(1, int(length / bay))
    bay, storey = length / bays, height / floors
    blue, orange = any_color(rng), any_color(rng)
    for i in range(bays + 1):
        x = -0.5 * length + i * bay
        for y in (-0.5 * depth + 0.05, 0.5 * depth - 0.05):
            shapes.box((x, y, 0.5 * height), (0.1, 0.08, height), blue, TEXTURE, m=(float(textures.DOTS), 0.05, 0.7))
        for k in range(floors):  # bracing
            a, b = (-0.5, 0.5) if k % 2 else (0.5, -0.5)
            shapes.capsule((x, a * depth, k * storey + 0.1), (x, b * depth, (k + 1) * storey - 0.05), 0.02, blue, METAL)
    for k in range(floors):
        z = k * storey + (0.12 if k == 0 else 0.0)
        for y in (-0.5 * depth + 0.03, 0.5 * depth - 0.03):
            shapes.box((0, y, z), (length, 0.05, 0.12), orange, METAL)
        if rng.random() < 0.5:
            shapes.box((0, 0, z + 0.05), (length, depth - 0.1, 0.03), (0.35, 0.3, 0.24), PLAIN)
        for i in range(bays):
            places = int(rng.integers(1, 4))
            for j in range(places):
                if rng.random() > fill:
                    continue
                shapes.seed += 1
                width = 0.86 * bay / places
                tall = storey * rng.uniform(0.25, 0.85)
                x = -0.5 * length + (i + (j + 0.5) / places) * bay
                deep = depth * rng.uniform(0.6, 0.98)
                color = dimmed(CARDBOARD, rng.uniform(0.7, 1.3)) if rng.random() < 0.5 else any_color(rng)
                draw = rng.random()
                if draw < 0.85:
                    shapes.box((x, rng.uniform(-0.05, 0.05), z + 0.08 + 0.5 * tall), (width, deep, tall), color,
                               *any_finish_args(rng, 1.0))  # fmt: skip
                else:
                    radius = 0.45 * min(width, deep, 1.2)
                    shapes.cone((x, 0, z + 0.08), tall, radius, color, TEXTURE, m=any_finish(rng, 0.5)[1])
    return shapes


def workbench(rng) -> Shapes:
    """A table along y with things on it."""
    shapes = seeded(rng, MANMADE)
    length = float(rng.uniform(1.0, 2.4))
    shapes.box((0, 0, 0.85), (0.8, length, 0.06), WOOD, TEXTURE, m=(float(textures.PLANKS), 0.12, 0.6))
    for x in (-0.34, 0.34):
        for y in (-0.5 * length + 0.06, 0.5 * length - 0.06):
            shapes.box((x, y, 0.42), (0.06, 0.06, 0.84), STEEL, METAL)
    for _ in range(int(rng.integers(1, 6))):
        shapes.seed += 1
        a, b, c = rng.uniform(0.08, 0.4, 3)
        y = rng.uniform(-0.5, 0.5) * (length - 0.4)
        shapes.box((rng.uniform(-0.2, 0.2), y, 0.88 + 0.5 * c), (a, b, c), any_color(rng), *any_finish_args(rng, 0.3))
    return shapes


def machine(rng) -> Shapes:
    """A machine: a big block with blocks, pipes, a screen and a warning stripe."""
    shapes = seeded(rng, MANMADE)
    a, b, c = rng.uniform(1.0, 3.0), rng.uniform(0.8, 2.0), rng.uniform(1.0, 2.4)
    color = any_color(rng)
    shapes.box((0, 0, 0.5 * c), (a, b, c), color, TEXTURE, m=(float(textures.GRIME), 0.2, float(rng.uniform(0.1, 0.5))))
    shapes.box(
        (0, 0, 0.15), (a + 0.04, b + 0.04, 0.2), (0.55, 0.42, 0.03), TEXTURE, m=(float(textures.HAZARD), 0.12, 1.0)
    )
    for _ in range(int(rng.integers(2, 6))):
        shapes.seed += 1
        p, q, r = rng.uniform(0.2, 0.9, 3)
        x, y = rng.uniform(-0.5, 0.5) * a, rng.uniform(-0.5, 0.5) * b
        shapes.box((x, y, rng.uniform(0.2, c + 0.3)), (p, q, r), any_color(rng), *any_finish_args(rng, 0.6))
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.uniform(-0.5, 0.5) * a, rng.uniform(-0.5, 0.5) * b
        shapes.capsule((x, y, 0.5 * c), (x + rng.uniform(-0.5, 0.5), y, c + rng.uniform(0.3, 2.5)), 0.06, STEEL, METAL)
    shapes.box((0.5 * a, 0.2 * b, 0.7 * c), (0.06, 0.4, 0.3), (0.1, 0.3, 0.5), LAMP, m=(1.0,))
    return shapes


def forklift(rng) -> Shapes:
    """A forklift truck, x forward, sometimes with a pallet on its forks."""
    shapes = Shapes(label=CLASS_ID["construction_vehicle"], seed=int(rng.integers(1 << 30)))
    paint = ((0.70, 0.30, 0.02), (0.62, 0.42, 0.03), (0.45, 0.04, 0.03), (0.10, 0.12, 0.13))[rng.integers(4)]
    dark: Color = (0.03, 0.03, 0.03)
    shapes.box((-0.3, 0, 0.55), (1.7, 1.1, 0.8), paint, PLAIN, lean=(0.1, 0.05, 0.02))
    shapes.box((-0.85, 0, 1.0), (0.6, 1.0, 0.35), paint, PLAIN)
    for x in (-0.75, 0.35):
        for y in (-0.48, 0.48):
            shapes.capsule((x, y, 0.9), (0.8 * x, y, 2.05), 0.035, dark, METAL)
    shapes.box((-0.2, 0, 2.08), (1.1, 1.06, 0.08), dark)
    lift = float(rng.uniform(0.08, 1.6))
    for y in (-0.3, 0.3):
        shapes.box((0.72, y, 1.1), (0.1, 0.08, 2.1), dark, METAL)
        shapes.box((1.3, 0.8 * y, lift), (1.1, 0.11, 0.05), dark, METAL)
    shapes.box((0.78, 0, lift + 0.3), (0.06, 0.9, 0.5), dark, METAL)
    for x, radius in ((0.35, 0.32), (-0.8, 0.26)):
        for y in (-0.5, 0.5):
            shapes.wheel((x, y, radius), radius, 0.2, dark, m=(radius,))
    if rng.random() < 0.5:
        load = pallet(rng, float(rng.uniform(0.3, 1.2)))
        load.floats = [[*row[:2], row[2] + lift + 0.03, *row[3:]] for row in load.floats]
        load.floats = [[row[0] + 1.35, *row[1:]] for row in load.floats]
        shapes.extend(load)
    return shapes


# ---- parks -----------------------------------------------------------------------------------------------------------


def boulder(rng) -> Shapes:
    shapes = seeded(rng, OTHERS)
    size = float(np.exp(rng.uniform(math.log(0.15), math.log(0.9))))
    grey = float(rng.uniform(0.15, 0.4))
    for k in range(int(rng.integers(1, 4))):
        shapes.seed += 1
        a, b, c = size * rng.uniform(0.5, 1.0, 3)
        x, y = (0.0, 0.0) if k == 0 else rng.uniform(-0.6, 0.6, 2) * size
        shapes.ellipsoid((x, y, 0.3 * c), (a, b, 0.8 * c), (grey, 0.97 * grey, 0.9 * grey), TEXTURE,
                         yaw=rng.uniform(0, 3.1), m=(float(textures.SPECKLE), 0.12 * size, 0.6))  # fmt: skip
    return shapes


def log_(rng) -> Shapes:
    """A trunk that lies along y."""
    shapes = seeded(rng, VEGETATION)
    radius, length = float(rng.uniform(0.1, 0.35)), float(rng.uniform(1.0, 5.0))
    shapes.capsule(
        (0, -0.5 * length, 0.85 * radius), (0, 0.5 * length, 0.9 * radius), radius, (0.16, 0.12, 0.085), BARK
    )
    return shapes


def tuft(rng) -> Shapes:
    """High grass, reeds or flowers: thin upright leaves."""
    shapes = seeded(rng, VEGETATION)
    height = float(rng.uniform(0.2, 0.9))
    green = (0.10 * rng.uniform(0.7, 2.2), 0.15 * rng.uniform(0.7, 1.3), 0.04)
    for _ in range(int(rng.integers(6, 14))):
        x, y = rng.normal(0.0, 0.12, 2)
        dx, dy = rng.normal(0.0, 0.25, 2) * height
        tall = height * rng.uniform(0.6, 1.1)
        shapes.capsule((x, y, 0.0), (x + dx, y + dy, tall), 0.008 + 0.006 * rng.random(), green)
        if rng.random() < 0.15:
            shapes.ellipsoid((x + dx, y + dy, tall), (0.04, 0.04, 0.03), any_color(rng))
    return shapes


def shrub(rng) -> Shapes:
    """A loose bush of several stems: boughs with leafy balls of different size, high and wide."""
    shapes = seeded(rng, VEGETATION)
    size = float(rng.uniform(0.5, 1.8))
    tint = rng.uniform(0.7, 1.4)
    green = (0.09 * tint * rng.uniform(0.8, 1.8), 0.14 * tint, 0.045 * tint)
    for k in range(int(rng.integers(4, 10))):
        shapes.seed += 1
        angle, out, up = 2.4 * k, rng.uniform(0.1, 0.7) * size, rng.uniform(0.3, 1.2) * size
        x, y, r = out * math.cos(angle), out * math.sin(angle), size * rng.uniform(0.18, 0.4)
        shapes.capsule((0.1 * x, 0.1 * y, 0.0), (x, y, up), 0.02, (0.13, 0.10, 0.075), BARK)
        shapes.ellipsoid((x, y, up), (r, r, 0.8 * r), green, FOLIAGE)
    return shapes


def playground(rng) -> Shapes:
    """A frame with a slide or swings, in strong colours."""
    shapes = seeded(rng, MANMADE)
    red, blue = any_color(rng), any_color(rng)
    height = float(rng.uniform(1.6, 2.6))
    for x in (-1.2, 1.2):
        for y in (-0.8, 0.8):
            shapes.capsule((x, y, 0.0), (x, 0.2 * y, height), 0.05, red, METAL)
    shapes.capsule((-1.2, 0, height), (1.2, 0, height), 0.05, red, METAL)
    for x in (-0.6, 0.5):
        shapes.capsule((x, -0.15, height), (x, -0.15, 0.5), 0.012, STEEL)
        shapes.capsule((x, 0.15, height), (x, 0.15, 0.5), 0.012, STEEL)
        shapes.box((x, 0, 0.48), (0.22, 0.42, 0.04), blue, PLAIN)
    if rng.random() < 0.6:
        shapes.box((2.3, 0, 0.6), (2.2, 0.5, 1.2), blue, TEXTURE, lean=(1.7, 0.0, 0.0), m=any_finish(rng, 1.0)[1])
    return shapes
