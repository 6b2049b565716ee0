# SPDX-License-Identifier: Apache-2.0
"""Pedestrians and riders of capsules and ellipsoids; x is where they look, the origin lies between the feet."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gaussianocc_core.labels import CLASS_ID
from gaussianocc_core.synthetic.shapes import CLOTH, PLAIN, Color, Shapes

SKINS: tuple[Color, ...] = ((0.52, 0.34, 0.24), (0.38, 0.22, 0.14), (0.20, 0.11, 0.07), (0.60, 0.42, 0.32))
TOPS: tuple[Color, ...] = (
    (0.62, 0.06, 0.05),
    (0.06, 0.14, 0.42),
    (0.66, 0.62, 0.56),
    (0.10, 0.30, 0.14),
    (0.70, 0.45, 0.05),
    (0.05, 0.05, 0.06),
    (0.45, 0.20, 0.38),
    (0.20, 0.42, 0.52),
    (0.70, 0.70, 0.70),
    (0.35, 0.22, 0.12),
)
TROUSERS: tuple[Color, ...] = (
    (0.03, 0.04, 0.09),
    (0.05, 0.05, 0.05),
    (0.24, 0.20, 0.14),
    (0.07, 0.10, 0.20),
    (0.16, 0.16, 0.17),
)
HAIR: tuple[Color, ...] = ((0.02, 0.015, 0.01), (0.09, 0.05, 0.02), (0.30, 0.20, 0.08), (0.22, 0.21, 0.20))


@dataclass(frozen=True)
class Looks:
    """What one person wears; drawn once, so that the gait can be posed at any time."""

    height: float
    skin: Color
    top: Color
    trousers: Color
    hair: Color
    bag: bool
    seed: int

    @staticmethod
    def draw(rng) -> Looks:
        return Looks(
            height=float(rng.uniform(1.55, 1.90)),
            skin=SKINS[rng.integers(len(SKINS))],
            top=TOPS[rng.integers(len(TOPS))],
            trousers=TROUSERS[rng.integers(len(TROUSERS))],
            hair=HAIR[rng.integers(len(HAIR))],
            bag=bool(rng.random() < 0.35),
            seed=int(rng.integers(1 << 30)),
        )


def pedestrian(looks: Looks, stride: float) -> Shapes:
    """A person at phase `stride` (rad) of the gait; 0 stands with the legs together."""
    h = looks.height / 1.75
    swing = 0.42 * math.sin(stride)
    shapes = Shapes(label=CLASS_ID["pedestrian"], seed=looks.seed)
    hip, shoulder = 0.90 * h, 1.42 * h
    for side, phase in ((1, swing), (-1, -swing)):
        y = side * 0.10 * h
        knee = (0.44 * h * math.sin(phase) + 0.02, y, hip - 0.44 * h * math.cos(phase))
        lower = phase - 0.5 * max(0.0, -math.sin(stride * 1.0 + (0 if side > 0 else math.pi)))
        foot = (knee[0] + 0.42 * h * math.sin(lower), y, max(0.05, knee[2] - 0.42 * h * math.cos(lower)))
        shapes.capsule((0, y, hip), knee, 0.085 * h, looks.trousers, CLOTH)
        shapes.capsule(knee, foot, 0.065 * h, looks.trousers, CLOTH)
        shapes.ellipsoid((foot[0] + 0.06, y, max(0.05, foot[2] - 0.01)), (0.14, 0.055, 0.055), (0.04, 0.035, 0.03))
        arm = -0.8 * phase
        elbow = (0.28 * h * math.sin(arm), side * 0.24 * h, shoulder - 0.06 - 0.28 * h * math.cos(arm))
        hand = (elbow[0] + 0.25 * h * math.sin(arm + 0.35), side * 0.25 * h, elbow[2] - 0.24 * h * math.cos(arm + 0.35))
        shapes.capsule((0, side * 0.20 * h, shoulder - 0.04), elbow, 0.052 * h, looks.top, CLOTH)
        shapes.capsule(elbow, hand, 0.042 * h, looks.skin, PLAIN)
    shapes.ellipsoid((0, 0, 1.18 * h), (0.135 * h, 0.205 * h, 0.33 * h), looks.top, CLOTH)
    shapes.ellipsoid((0, 0, 0.93 * h), (0.125 * h, 0.175 * h, 0.14 * h), looks.trousers, CLOTH)
    shapes.capsule((0, 0, shoulder), (0.01, 0, 1.53 * h), 0.055 * h, looks.skin)
    shapes.ellipsoid((0.015, 0, 1.62 * h), (0.098 * h, 0.080 * h, 0.125 * h), looks.skin)
    shapes.ellipsoid((-0.018, 0, 1.655 * h), (0.100 * h, 0.090 * h, 0.105 * h), looks.hair)
    if looks.bag:
        shapes.box((-0.20 * h, 0, 1.20 * h), (0.16, 0.28, 0.40), (0.10, 0.06, 0.04), CLOTH)
    return shapes


def rider(rng, seat: tuple[float, float], hands: tuple[float, float], feet: tuple[float, float], label: int) -> Shapes:
    """Someone sitting at `seat` (x, z); riders count as part of what they ride, as Occ3D does."""
    looks = Looks.draw(rng)
    shapes = Shapes(label=label, seed=looks.seed)
    hip, shoulder = (seat[0], seat[1] + 0.08), (seat[0] + 0.22, seat[1] + 0.58)
    for side in (1, -1):
        knee = (feet[0] + 0.18, side * 0.13, 0.5 * (hip[1] + feet[1]) + 0.12)
        shapes.capsule((hip[0], side * 0.09, hip[1]), knee, 0.08, looks.trousers, CLOTH)
        shapes.capsule(knee, (feet[0], side * 0.12, feet[1]), 0.06, looks.trousers, CLOTH)
        shapes.capsule(
            (shoulder[0], side * 0.19, shoulder[1]),
            (hands[0] - 0.02, side * 0.22, hands[1] + 0.03),
            0.048,
            looks.top,
            CLOTH,
        )
    shapes.capsule((hip[0], 0, hip[1] + 0.05), (shoulder[0], 0, shoulder[1] - 0.02), 0.16, looks.top, CLOTH)
    shapes.capsule((shoulder[0], 0, shoulder[1]), (shoulder[0] + 0.06, 0, shoulder[1] + 0.14), 0.055, looks.skin)
    shapes.ellipsoid((shoulder[0] + 0.09, 0, shoulder[1] + 0.24), (0.10, 0.082, 0.125), looks.skin)
    helmet = TOPS[rng.integers(len(TOPS))]
    shapes.ellipsoid((shoulder[0] + 0.06, 0, shoulder[1] + 0.29), (0.125, 0.105, 0.105), helmet)
    return shapes
