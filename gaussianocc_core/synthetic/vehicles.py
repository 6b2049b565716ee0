# SPDX-License-Identifier: Apache-2.0
"""Things on wheels, in their own frame: x forward, y left, origin on the ground under the middle."""

from __future__ import annotations

from gaussianocc_core.labels import CLASS_ID
from gaussianocc_core.synthetic.people import rider
from gaussianocc_core.synthetic.shapes import (
    BUS_SIDE,
    CAR_BODY,
    CAR_CABIN,
    LAMP,
    METAL,
    PANEL,
    PLAIN,
    SIGN,
    TYRE,
    Color,
    Shapes,
)  # fmt: skip

DARK: Color = (0.02, 0.02, 0.022)
CHROME: Color = (0.35, 0.35, 0.36)
# What car parks look like: mostly white, grey and black, some red and blue (linear albedo).
PAINTS: tuple[Color, ...] = (
    (0.72, 0.72, 0.70), (0.42, 0.43, 0.44), (0.16, 0.17, 0.18), (0.03, 0.03, 0.035), (0.45, 0.03, 0.025),
    (0.04, 0.10, 0.34), (0.68, 0.66, 0.58), (0.02, 0.16, 0.12), (0.55, 0.30, 0.03), (0.30, 0.34, 0.38),
    (0.03, 0.18, 0.42),)  # fmt: skip


def _wheels(shapes: Shapes, base: float, track: float, radius: float, width: float, positions=None) -> None:
    for x in positions or (0.5 * base, -0.5 * base):
        for y in (0.5 * track, -0.5 * track):
            shapes.wheel((x, y, radius), radius, width, DARK, TYRE, m=(radius,))


def car(rng, kind: str = "sedan", paint: Color | None = None, braking: bool = False) -> Shapes:
    """sedan, hatchback, suv or van: body, glazed cabin, wheels, lamps, mirrors."""
    length, width, belt, top, cabin, lean, shift = {
        "sedan": (4.6, 1.80, 0.92, 1.44, 2.75, (1.15, 0.95, 0.30), -0.15),
        "hatchback": (4.0, 1.74, 0.95, 1.50, 2.70, (1.00, 0.35, 0.26), -0.55),
        "suv": (4.7, 1.90, 1.08, 1.74, 3.25, (0.75, 0.28, 0.22), -0.55),
        "van": (5.0, 1.96, 1.15, 2.05, 4.30, (0.70, 0.06, 0.10), -0.28),
    }[kind]
    length *= rng.uniform(0.96, 1.04)
    paint = paint or PAINTS[rng.choice(len(PAINTS), p=_PAINT_SHARES)]
    shapes = Shapes(label=CLASS_ID["car"], seed=int(rng.integers(1 << 30)))
    clearance, radius = (0.26, 0.37) if kind in ("suv", "van") else (0.22, 0.32)
    base = 0.60 * length
    height = belt - clearance
    shapes.box(
        (0, 0, clearance + 0.5 * height), (length, width, height), paint, CAR_BODY,
        lean=(0.10, 0.10, 0.05), m=(base, radius, radius - clearance),
    )  # fmt: skip
    shapes.box(
        (shift, 0, 0.5 * (belt + top)), (cabin, 0.94 * width, top - belt), paint, CAR_CABIN,
        lean=lean, m=(0.9 if kind != "sedan" else 0.0,),
    )  # fmt: skip
    _wheels(shapes, base, width - 0.20, radius, 0.22)
    front, back = 0.5 * length, -0.5 * length
    for side in (1, -1):
        y = side * (0.5 * width - 0.24)
        lamp = clearance + 0.62 * height
        shapes.box((front - 0.06, y, lamp), (0.10, 0.36, 0.13), (0.75, 0.75, 0.72), LAMP, m=(0.3,))
        shapes.box(
            (back + 0.06, y, lamp + 0.04), (0.10, 0.30, 0.16), (0.55, 0.02, 0.015), LAMP, m=(2.0 if braking else 0.4,)
        )
        shapes.box((0.26 * length - 0.12, side * (0.5 * width + 0.06), belt + 0.06), (0.14, 0.20, 0.13), paint, PLAIN)
    if kind == "van" or rng.random() < 0.25:
        for side in (1, -1):
            shapes.box((shift - 0.25, side * 0.33 * width, top + 0.04), (0.62 * cabin - 0.4, 0.05, 0.05), CHROME, METAL)
    return shapes


_PAINT_SHARES = [0.24, 0.18, 0.12, 0.14, 0.09, 0.07, 0.04, 0.03, 0.03, 0.03, 0.03]


def bus(rng) -> Shapes:
    paint = ((0.50, 0.04, 0.03), (0.05, 0.22, 0.42), (0.08, 0.34, 0.16), (0.62, 0.42, 0.04))[rng.integers(4)]
    shapes = Shapes(label=CLASS_ID["bus"], seed=int(rng.integers(1 << 30)))
    length, width = rng.uniform(10.5, 12.0), 2.5
    shapes.box((0, 0, 1.68), (length, width, 2.76), paint, BUS_SIDE, lean=(0.04, 0.02, 0.01), m=(0.36, 0.82, 1.45))
    shapes.box((-1.0, 0, 3.14), (3.6, 1.8, 0.24), (0.6, 0.6, 0.6), PLAIN)
    _wheels(shapes, 0.0, width - 0.26, 0.48, 0.28, positions=(0.30 * length, -0.26 * length))
    for side in (1, -1):
        shapes.box((0.5 * length, side * 0.95, 0.62), (0.12, 0.36, 0.18), (0.75, 0.75, 0.70), LAMP, m=(0.4,))
        shapes.box((-0.5 * length, side * 1.0, 0.80), (0.12, 0.24, 0.40), (0.55, 0.02, 0.015), LAMP, m=(0.5,))
        shapes.box((0.5 * length + 0.12, side * 1.36, 2.35), (0.14, 0.20, 0.38), DARK, PLAIN)
    shapes.box((0.5 * length - 0.02, 0, 2.84), (0.10, 1.7, 0.26), (0.9, 0.45, 0.03), LAMP, m=(0.6,))
    return shapes


def truck(rng) -> Shapes:
    """Box lorry with a cab, a load bay of corrugated panels and underride bars."""
    paint = ((0.70, 0.70, 0.68), (0.50, 0.05, 0.03), (0.06, 0.16, 0.42), (0.62, 0.50, 0.06))[rng.integers(4)]
    load = ((0.62, 0.60, 0.56), (0.52, 0.42, 0.20), (0.16, 0.28, 0.40), (0.58, 0.58, 0.60))[rng.integers(4)]
    shapes = Shapes(label=CLASS_ID["truck"], seed=int(rng.integers(1 << 30)))
    bay, width = rng.uniform(4.4, 6.0), 2.35
    front = 0.5 * (bay + 2.1)
    shapes.box(
        (front - 0.95, 0, 1.55), (1.9, width - 0.1, 2.1), paint, BUS_SIDE, lean=(0.16, 0.0, 0.03), m=(0.48, 0.86, 1.4)
    )
    shapes.box((-1.05, 0, 2.15), (bay, width, 2.5), load, PANEL, m=(2.6, 0.42))
    shapes.box((-0.4, 0, 0.72), (bay + 2.0, 0.9, 0.30), DARK, PLAIN)
    shapes.box((-1.05 - 0.5 * bay, 0, 0.55), (0.12, width - 0.2, 0.14), (0.50, 0.06, 0.03), PLAIN)
    _wheels(shapes, 0.0, width - 0.30, 0.46, 0.30, positions=(front - 0.9, -0.32 * bay - 1.05, -0.32 * bay))
    for side in (1, -1):
        shapes.box((front, side * 0.85, 0.78), (0.12, 0.34, 0.18), (0.75, 0.75, 0.70), LAMP, m=(0.4,))
        shapes.box((-1.1 - 0.5 * bay, side * 0.9, 0.75), (0.12, 0.30, 0.16), (0.55, 0.02, 0.015), LAMP, m=(0.5,))
        shapes.box((front - 0.25, side * 1.32, 2.1), (0.12, 0.20, 0.44), DARK, PLAIN)
        shapes.box((-0.9, side * 1.0, 0.72), (1.4, 0.25, 0.36), CHROME, METAL)
    return shapes


def trailer(rng) -> Shapes:
    """A tipper trailer standing on its own wheels."""
    shapes = Shapes(label=CLASS_ID["trailer"], seed=int(rng.integers(1 << 30)))
    color = ((0.40, 0.08, 0.04), (0.10, 0.18, 0.30), (0.42, 0.42, 0.40))[rng.integers(3)]
    shapes.box((0, 0, 1.40), (5.2, 2.2, 1.5), color, PANEL, lean=(-0.06, -0.06, 0.0), m=(0.75, 0.65))
    shapes.box((0, 0, 0.58), (5.0, 0.9, 0.18), DARK, PLAIN)
    shapes.capsule((2.5, 0, 0.55), (3.7, 0, 0.48), 0.06, DARK, METAL)
    shapes.capsule((3.5, 0, 0.1), (3.5, 0, 0.5), 0.05, CHROME, METAL)
    _wheels(shapes, 1.0, 1.95, 0.42, 0.26)
    return shapes


def excavator(rng) -> Shapes:
    """Crawler excavator: tracks, turning cab, boom, arm and bucket."""
    yellow: Color = (0.72, 0.42, 0.03)
    shapes = Shapes(label=CLASS_ID["construction_vehicle"], seed=int(rng.integers(1 << 30)))
    for side in (1, -1):
        shapes.box(
            (0, side * 0.95, 0.42), (3.2, 0.52, 0.84), (0.035, 0.033, 0.03), PANEL, lean=(0.3, 0.3, 0), m=(0.84, 0.18)
        )
    shapes.box((-0.3, 0, 1.25), (2.9, 2.3, 0.80), yellow, PLAIN)
    shapes.box((-1.3, 0, 1.75), (0.9, 2.2, 0.45), yellow, PLAIN)
    shapes.box((0.45, 0.62, 2.25), (1.4, 1.0, 1.35), yellow, BUS_SIDE, lean=(0.1, 0, 0.03), m=(0.25, 0.9, 0.8))
    shapes.capsule((0.8, -0.2, 1.6), (2.7, -0.2, 3.6), 0.22, yellow, PLAIN)
    shapes.capsule((2.7, -0.2, 3.6), (4.3, -0.2, 3.1), 0.19, yellow, PLAIN)
    shapes.capsule((4.3, -0.2, 3.1), (4.5, -0.2, 1.4), 0.15, yellow, PLAIN)
    shapes.box((4.3, -0.2, 1.05), (0.8, 0.9, 0.7), (0.06, 0.055, 0.05), PLAIN, lean=(-0.2, 0.1, 0.0))
    return shapes


def bicycle(rng, ridden: bool = False) -> Shapes:
    shapes = Shapes(label=CLASS_ID["bicycle"], seed=int(rng.integers(1 << 30)))
    frame = PAINTS[rng.integers(len(PAINTS))]
    for x in (0.52, -0.52):
        shapes.wheel((x, 0, 0.34), 0.34, 0.045, DARK, TYRE, open_share=0.84, m=(0.34,))
        shapes.wheel((x, 0, 0.34), 0.05, 0.09, CHROME, METAL)
    pedals, saddle, head = (-0.06, 0, 0.30), (-0.24, 0, 0.90), (0.38, 0, 0.86)
    for start, end in (
        (pedals, saddle), (pedals, (0.36, 0, 0.72)), ((-0.2, 0, 0.78), head), ((-0.52, 0, 0.34), pedals),
        ((-0.52, 0, 0.34), (-0.2, 0, 0.76)), ((0.52, 0, 0.34), head),
    ):  # fmt: skip
        shapes.capsule(start, end, 0.025, frame, METAL)
    shapes.capsule((0.36, -0.26, 0.98), (0.36, 0.26, 0.98), 0.022, DARK)
    shapes.capsule(head, (0.36, 0, 0.98), 0.022, DARK)
    shapes.ellipsoid((-0.26, 0, 0.95), (0.14, 0.08, 0.05), DARK)
    if ridden:
        shapes.extend(rider(rng, seat=(-0.2, 0.98), hands=(0.34, 1.0), feet=(0.0, 0.28), label=shapes.label))
    return shapes


def motorcycle(rng, ridden: bool = False) -> Shapes:
    shapes = Shapes(label=CLASS_ID["motorcycle"], seed=int(rng.integers(1 << 30)))
    paint = PAINTS[rng.integers(len(PAINTS))]
    for x in (0.66, -0.66):
        shapes.wheel((x, 0, 0.31), 0.31, 0.13, DARK, TYRE, m=(0.31,))
    shapes.box((0.0, 0, 0.48), (0.75, 0.30, 0.36), (0.10, 0.10, 0.10), METAL)
    shapes.ellipsoid((0.16, 0, 0.80), (0.32, 0.17, 0.16), paint)
    shapes.ellipsoid((-0.45, 0, 0.80), (0.45, 0.15, 0.09), DARK)
    shapes.box((-0.80, 0, 0.80), (0.36, 0.18, 0.12), paint)
    shapes.capsule((0.66, 0.10, 0.31), (0.44, 0.10, 0.98), 0.035, CHROME, METAL)
    shapes.capsule((0.66, -0.10, 0.31), (0.44, -0.10, 0.98), 0.035, CHROME, METAL)
    shapes.capsule((0.40, -0.34, 1.03), (0.40, 0.34, 1.03), 0.025, DARK)
    shapes.ellipsoid((0.56, 0, 0.90), (0.12, 0.11, 0.12), (0.7, 0.7, 0.66), LAMP, m=(0.4,))
    shapes.capsule((-0.2, -0.18, 0.34), (-0.85, -0.2, 0.42), 0.05, CHROME, METAL)
    if ridden:
        shapes.extend(rider(rng, seat=(-0.35, 0.90), hands=(0.36, 1.05), feet=(0.05, 0.32), label=shapes.label))
    return shapes


def delivery_sign(rng) -> Shapes:
    """Advertising board on a trailer-less frame; standing near shops."""
    shapes = Shapes(label=CLASS_ID["manmade"], seed=int(rng.integers(1 << 30)))
    return shapes.box((0, 0, 0.62), (0.08, 0.8, 1.1), (0.5, 0.3, 0.2), SIGN, m=(3.0,))
