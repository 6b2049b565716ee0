# SPDX-License-Identifier: Apache-2.0
"""The primitive table: what an object is made of, as rows of numbers that the kernels read.

A `Shapes` is built in the frame of its object (x forward, y left, z up, metres, z = 0 on the ground) and set into
the world with `placed`. Every primitive carries its colour (linear albedo), material, Occ3D class and a seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int32

# Kinds of primitive.
BOX, CONE, ELLIPSOID, CAPSULE, CYLINDER = range(5)

# Columns of the float table. Per kind:
#   BOX        centre, yaw, half sizes A B C; K0 K1 K2: how far the +x, -x and y faces lean in per metre of height
#   CONE       centre, vertical axis; A lower radius, B upper radius, C half height
#   ELLIPSOID  centre, yaw, half axes A B C
#   CAPSULE    first end, A B C the vector to the other end; K0 radius
#   CYLINDER   as CAPSULE with flat ends, horizontal; K1 share of the radius that is open (0: a full disc)
PX, PY, PZ, COS, SIN, A, B, C, K0, K1, K2, RED, GREEN, BLUE, M0, M1, M2, SEED = range(18)
COLUMNS = 18
# Columns of the integer table.
KIND, MATERIAL, CLASS, OBJECT = range(4)

# Materials; see materials.py for what M0..M2 mean to each.
(
    PLAIN,
    FACADE,
    CAR_BODY,
    CAR_CABIN,
    TYRE,
    FOLIAGE,
    BARK,
    CLOTH,
    LAMP,
    SIGN,
    STRIPES,
    PANEL,
    METAL,
    ROOF,
    BUS_SIDE,
    TEXTURE,
    CEILING,
) = range(17)

Color = tuple[float, float, float]


@dataclass
class Shapes:
    """Rows of primitives under construction; methods return self so that objects read as one list of parts."""

    floats: list[list[float]] = field(default_factory=list)
    ints: list[list[int]] = field(default_factory=list)
    label: int = 0  # Occ3D class of what is added next
    seed: int = 0

    def _add(self, kind: int, position, yaw, abc, k, color: Color, material: int, m) -> Shapes:
        m = tuple(m) + (0.0,) * (3 - len(m))
        row = [*position, math.cos(yaw), math.sin(yaw), *abc, *k, *color, *m, float(self.seed % 65521)]
        self.floats.append([float(value) for value in row])
        self.ints.append([kind, material, self.label, 0])
        return self

    def box(self, centre, size, color: Color, material=PLAIN, yaw=0.0, lean=(0.0, 0.0, 0.0), m=()) -> Shapes:
        """Box of full size (x, y, z); `lean` slopes the front, back and side faces (m per m of height)."""
        return self._add(BOX, centre, yaw, [0.5 * s for s in size], lean, color, material, m)

    def cone(self, base, height, radius, color: Color, material=PLAIN, top: float | None = None, m=()) -> Shapes:
        """Vertical cylinder standing on `base`, or a cone frustum if `top` (upper radius) is given."""
        centre = (base[0], base[1], base[2] + 0.5 * height)
        abc = (radius, radius if top is None else top, 0.5 * height)
        return self._add(CONE, centre, 0.0, abc, (0.0, 0.0, 0.0), color, material, m)

    def ellipsoid(self, centre, axes, color: Color, material=PLAIN, yaw=0.0, m=()) -> Shapes:
        return self._add(ELLIPSOID, centre, yaw, axes, (0.0, 0.0, 0.0), color, material, m)

    def capsule(self, start, end, radius, color: Color, material=PLAIN, m=()) -> Shapes:
        vector = [e - s for s, e in zip(start, end, strict=True)]
        return self._add(CAPSULE, start, 0.0, vector, (radius, 0.0, 0.0), color, material, m)

    def wheel(self, centre, radius, width, color: Color, material=TYRE, open_share=0.0, m=()) -> Shapes:
        """Disc whose axle lies along y."""
        start = (centre[0], centre[1] - 0.5 * width, centre[2])
        return self._add(CYLINDER, start, 0.0, (0.0, width, 0.0), (radius, open_share, 0.0), color, material, m)

    def extend(self, other: Shapes) -> Shapes:
        self.floats.extend(other.floats)
        self.ints.extend(other.ints)
        return self

    def table(self) -> PrimitiveTable:
        floats = np.array(self.floats, dtype=np.float64).reshape(-1, COLUMNS)
        return PrimitiveTable(floats, np.array(self.ints, dtype=np.int32).reshape(-1, 4))


@dataclass(frozen=True)
class PrimitiveTable:
    """P primitives in one frame; the kernels read the two arrays by the column names above."""

    floats: Float[np.ndarray, "P 18"]
    ints: Int32[np.ndarray, "P 4"]

    def __len__(self) -> int:
        return len(self.floats)

    def placed(self, x: float, y: float, z: float, yaw: float, object_id: int = 0) -> PrimitiveTable:
        """The same primitives after turning by yaw about z and moving by (x, y, z)."""
        c, s = math.cos(yaw), math.sin(yaw)
        floats, ints = self.floats.copy(), self.ints.copy()
        floats[:, PX] = x + c * self.floats[:, PX] - s * self.floats[:, PY]
        floats[:, PY] = y + s * self.floats[:, PX] + c * self.floats[:, PY]
        floats[:, PZ] += z
        floats[:, COS] = c * self.floats[:, COS] - s * self.floats[:, SIN]
        floats[:, SIN] = s * self.floats[:, COS] + c * self.floats[:, SIN]
        rods = self.ints[:, KIND] >= CAPSULE  # their axis is a vector in the object's frame
        floats[rods, A] = c * self.floats[rods, A] - s * self.floats[rods, B]
        floats[rods, B] = s * self.floats[rods, A] + c * self.floats[rods, B]
        ints[:, OBJECT] = object_id
        return PrimitiveTable(floats, ints)

    @staticmethod
    def concatenate(tables: list[PrimitiveTable]) -> PrimitiveTable:
        if not tables:
            return PrimitiveTable(np.zeros((0, COLUMNS)), np.zeros((0, 4), dtype=np.int32))
        return PrimitiveTable(np.concatenate([t.floats for t in tables]), np.concatenate([t.ints for t in tables]))

    def bounds(self) -> tuple[Float[np.ndarray, "P 3"], Float[np.ndarray, "P 3"]]:
        """Axis-aligned low and high corners of each primitive."""
        f, kind = self.floats, self.ints[:, KIND]
        centre = f[:, PX : PZ + 1].copy()
        half = np.empty_like(centre)
        c, s = np.abs(f[:, COS]), np.abs(f[:, SIN])
        half[:, 0] = c * f[:, A] + s * f[:, B]
        half[:, 1] = s * f[:, A] + c * f[:, B]
        half[:, 2] = f[:, C]
        cones = kind == CONE
        half[cones, 0] = half[cones, 1] = np.maximum(f[cones, A], f[cones, B])
        rods = kind >= CAPSULE
        axis = f[rods][:, [A, B, C]]
        centre[rods] += 0.5 * axis
        half[rods] = 0.5 * np.abs(axis) + f[rods, K0][:, None]
        return centre - half, centre + half
