# SPDX-License-Identifier: Apache-2.0
"""One cast tells everything about a ray: how far, which class, which colour. Images, depth, labels, lidar come from it.

A frozen moment of the world is a `Scene`: primitives and a uniform grid of lists of them, the ground, the light.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int32, Int64, UInt8
from numba import njit

from gaussianocc_core.data.labels import FREE
from gaussianocc_core.geometry import raymarch
from gaussianocc_core.geometry.kernels import cached_kernel, inner
from gaussianocc_core.geometry.raymarch import clip_to_box, dda_inside, dda_start, dda_step
from gaussianocc_core.synthetic import ground as ground_module
from gaussianocc_core.synthetic import intersect as intersect_module
from gaussianocc_core.synthetic import materials, noise, shapes
from gaussianocc_core.synthetic.ground import KERB_HEIGHT, cast_ground, ground_class, ground_colour, kerb_distance
from gaussianocc_core.synthetic.intersect import MISS, intersect, overlaps_cell, surface
from gaussianocc_core.synthetic.materials import albedo
from gaussianocc_core.synthetic.noise import clamp, mix, noise2, noise3, smoothstep
from gaussianocc_core.synthetic.shapes import (
    BOX,
    CAPSULE,
    CLASS,
    COS,
    ELLIPSOID,
    FOLIAGE,
    KIND,
    MATERIAL,
    PX,
    PY,
    PZ,
    SEED,
    SIN,
    A,
    B,
    C,
    PrimitiveTable,
)  # fmt: skip

CELL = (2.0, 2.0, 2.0)  # m, of the acceleration grid
_SLACK = 0.01  # m by which cells reach further, against rounding at their borders
_OCCLUSION_REACH = 0.45  # m; things darken the ground this close to them
MAX_RANGE = 400.0  # m; beyond is sky

# Entries of the light vector: sun direction and colour, sky colours, clouds, haze per metre, exposure.
(SUN_X, SUN_Y, SUN_Z, SUN_R, SUN_G, SUN_B, ZENITH_R, ZENITH_G, ZENITH_B, HORIZON_R, HORIZON_G, HORIZON_B, CLOUDS, HAZE,
 EXPOSURE, SKY_SEED) = range(16)  # fmt: skip
SKY, GROUND = -2, -1  # in place of a primitive's index
_BLIND = -1000  # identity of a pixel whose lens sees nothing
_SOURCES = (raymarch, ground_module, intersect_module, materials, noise, shapes)


@dataclass(frozen=True)
class Scene:
    """The arrays that the kernels read, in the order in which they take them."""

    floats: Float[np.ndarray, "P 18"]
    ints: Int32[np.ndarray, "P 4"]
    start: Int32[np.ndarray, " cells_plus_1"]  # primitives of cell c are items[start[c]:start[c + 1]]
    items: Int32[np.ndarray, " entries"]
    low: Float[np.ndarray, 3]  # corners of the acceleration grid, m
    high: Float[np.ndarray, 3]
    shape: Int64[np.ndarray, 3]
    segments: Float[np.ndarray, "S 7"]
    crosses: Float[np.ndarray, "X 7"]
    ground: Float[np.ndarray, 20]
    light: Float[np.ndarray, 16]

    @property
    def arguments(self) -> tuple:
        return (
            self.floats, self.ints, self.start, self.items, self.low, self.high, self.shape,
            self.segments, self.crosses, self.ground, self.light,
        )  # fmt: skip


# ---- acceleration grid ---------------------------------------------------------------------------------------------


@cached_kernel(*_SOURCES)
def _grid_pairs(floats, ints, lows, highs, low, shape, first, cells, prims):
    """Write (cell, primitive) pairs of all touched cells; returns how many there are, even where they do not fit."""
    count = 0
    for p in range(floats.shape[0]):
        i0, i1 = int((lows[p, 0] - low[0]) / CELL[0]), int((highs[p, 0] - low[0]) / CELL[0])
        j0, j1 = int((lows[p, 1] - low[1]) / CELL[1]), int((highs[p, 1] - low[1]) / CELL[1])
        k0, k1 = int((lows[p, 2] - low[2]) / CELL[2]), int((highs[p, 2] - low[2]) / CELL[2])
        for i in range(max(i0, 0), min(i1, shape[0] - 1) + 1):
            for j in range(max(j0, 0), min(j1, shape[1] - 1) + 1):
                for k in range(max(k0, 0), min(k1, shape[2] - 1) + 1):
                    if overlaps_cell(
                        floats, ints, p, low[0] + (i + 0.5) * CELL[0], low[1] + (j + 0.5) * CELL[1],
                        low[2] + (k + 0.5) * CELL[2], 1.0, 0.0, 0.5 * CELL[0] + _SLACK,
                        0.5 * CELL[1] + _SLACK, 0.5 * CELL[2] + _SLACK,
                    ):  # fmt: skip
                        if count < len(cells):
                            cells[count] = (i * shape[1] + j) * shape[2] + k
                            prims[count] = first + p
                        count += 1
    return count


@njit(cache=True)
def _sort_pairs(cells_a, prims_a, cells_b, prims_b, start, items):
    for c in cells_a:
        start[c + 1] += 1
    for c in cells_b:
        start[c + 1] += 1
    for c in range(len(start) - 1):
        start[c + 1] += start[c]
    fill = start[:-1].copy()
    for n in range(len(cells_a)):
        items[fill[cells_a[n]]] = prims_a[n]
        fill[cells_a[n]] += 1
    for n in range(len(cells_b)):
        items[fill[cells_b[n]]] = prims_b[n]
        fill[cells_b[n]] += 1


class Caster:
    """Builds `Scene`s of one world: the lists of what stands still are made once, those of what moves per moment."""

    def __init__(self, static: PrimitiveTable, segments, crosses, ground, light) -> None:
        self._static = static
        self._rest = (segments, crosses, ground, light)
        lows, highs = static.bounds()
        self._low = np.floor(lows.min(axis=0)) - 1.0
        self._low[2] = -0.5
        extent = highs.max(axis=0) + 1.0 - self._low
        self._shape = np.ceil(extent / np.array(CELL)).astype(np.int64)
        self._high = self._low + self._shape * np.array(CELL)
        self._pairs = self._list(static, 0)

    def _list(self, table: PrimitiveTable, first: int) -> tuple[np.ndarray, np.ndarray]:
        lows, highs = table.bounds()
        size = 64 * len(table) + 1024
        while True:
            cells, prims = np.empty(size, dtype=np.int32), np.empty(size, dtype=np.int32)
            count = _grid_pairs(
                table.floats, table.ints, lows - _SLACK, highs + _SLACK, self._low, self._shape, first, cells, prims
            )
            if count <= size:
                return cells[:count], prims[:count]
            size = count

    def scene(self, moving: PrimitiveTable) -> Scene:
        table = PrimitiveTable.concatenate([self._static, moving])
        cells, prims = self._list(moving, len(self._static))
        start = np.zeros(int(np.prod(self._shape)) + 1, dtype=np.int32)
        items = np.empty(len(cells) + len(self._pairs[0]), dtype=np.int32)
        _sort_pairs(*self._pairs, cells, prims, start, items)
        return Scene(table.floats, table.ints, start, items, self._low, self._high, self._shape, *self._rest)


# ---- casting -------------------------------------------------------------------------------------------------------


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
def _cast_shadow(scene, ox, oy, oz, dx, dy, dz):
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
            hit = intersect(floats, ints, p, ox, oy, oz, dx, dy, dz, 1.0)
            if hit < MISS:
                if ints[p, MATERIAL] != FOLIAGE:
                    return 0.0
                if t <= hit < t_next:  # t stays at the entry: also in later cells that list the crown, so shade is deep
                    x, y, z = ox + hit * dx, oy + hit * dy, oz + hit * dz
                    light *= mix(0.30, 1.0, smoothstep(-0.15, 0.45, noise3(x * 2.4, y * 2.4, z * 2.4, 77)))
                    if light < 0.02:
                        return 0.02
        cell, borders = dda_step(cell, borders, steps, per_cell)
    return light


@inner
def _cast(scene, ox, oy, oz, dx, dy, dz, footprint):
    """Distance, primitive index (or GROUND, SKY) and whether a kerb face was hit."""
    limit, kerb = cast_ground(ox, oy, oz, dx, dy, dz, scene[7], scene[8], scene[9])
    limit = min(limit, MAX_RANGE)
    t, p = _cast_primitives(scene, ox, oy, oz, dx, dy, dz, limit, footprint)
    if p == SKY and limit < MAX_RANGE:
        return t, GROUND, kerb
    return t, p, False


@inner
def _ground_occlusion(scene, x, y, z):
    """How much of the sky the ground at (x, y) sees past the things that stand on it; 1 in the open."""
    floats, ints, start, items, low, shape = scene[0], scene[1], scene[2], scene[3], scene[4], scene[6]
    i0, i1 = int((x - _OCCLUSION_REACH - low[0]) / CELL[0]), int((x + _OCCLUSION_REACH - low[0]) / CELL[0])
    j0, j1 = int((y - _OCCLUSION_REACH - low[1]) / CELL[1]), int((y + _OCCLUSION_REACH - low[1]) / CELL[1])
    k = int((z - low[2]) / CELL[2])
    dark = 0.0
    for i in range(max(i0, 0), min(i1, shape[0] - 1) + 1):
        for j in range(max(j0, 0), min(j1, shape[1] - 1) + 1):
            cell = (i * shape[1] + j) * shape[2] + k
            for n in range(start[cell], start[cell + 1]):
                p = items[n]
                kind = ints[p, KIND]
                if kind >= CAPSULE:
                    continue
                bottom = floats[p, PZ] - floats[p, C] - z
                if bottom > 0.7:
                    continue
                rx, ry = x - floats[p, PX], y - floats[p, PY]
                if kind in (BOX, ELLIPSOID):
                    u = abs(floats[p, COS] * rx + floats[p, SIN] * ry) - floats[p, A]
                    v = abs(-floats[p, SIN] * rx + floats[p, COS] * ry) - floats[p, B]
                    distance = math.sqrt(max(u, 0.0) ** 2 + max(v, 0.0) ** 2)
                    if distance == 0.0:
                        distance = 0.3 * max(u, v)  # deeper under it is darker
                else:
                    distance = max(0.0, math.sqrt(rx * rx + ry * ry) - max(floats[p, A], floats[p, B]))
                near = clamp(1.0 - distance / _OCCLUSION_REACH, 0.0, 1.6)
                weight = 0.3 if kind == ELLIPSOID else 0.45
                dark = max(dark, weight * near * near * clamp(1.0 - bottom / 0.7, 0.0, 1.0))
    return 1.0 - min(dark, 0.85)


@inner
def _sky(dx, dy, dz, light):
    """Radiance of the sky: gradient, sun, clouds."""
    up = clamp(dz, 0.0, 1.0)
    t = 1.0 - (1.0 - up) ** 3.5
    r = mix(light[HORIZON_R], light[ZENITH_R], t)
    g = mix(light[HORIZON_G], light[ZENITH_G], t)
    b = mix(light[HORIZON_B], light[ZENITH_B], t)
    facing = max(0.0, dx * light[SUN_X] + dy * light[SUN_Y] + dz * light[SUN_Z])
    if dz > 0.01 and light[CLOUDS] > 0.0:
        seed = int(light[SKY_SEED])
        u, v = dx / (dz + 0.12) * 1.6, dy / (dz + 0.12) * 1.6
        n = noise2(u, v, seed) + 0.5 * noise2(2.1 * u, 2.1 * v, seed + 1) + 0.27 * noise2(4.3 * u, 4.3 * v, seed + 2)
        n += 0.15 * noise2(9.1 * u, 9.1 * v, seed + 3)
        cover = smoothstep(0.9 - 1.6 * light[CLOUDS], 1.5 - 1.6 * light[CLOUDS], n) * smoothstep(0.01, 0.12, dz)
        bright = 1.25 - 0.28 * smoothstep(0.3, 1.5, n)
        r, g, b = mix(r, bright, 0.85 * cover), mix(g, bright, 0.85 * cover), mix(b, 1.02 * bright, 0.85 * cover)
    glow = 0.35 * facing**24 + 6.0 * facing**1800
    return r + glow, g + 0.93 * glow, b + 0.75 * glow


@njit(inline="always")
def _to_display(x):
    """Filmic curve and a gamma of 2 (a root is cheaper than a power): scene radiance to 0-255."""
    x = max(x, 0.0)
    x = (x * (2.51 * x + 0.03)) / (x * (2.43 * x + 0.59) + 0.14)
    return 255.0 * math.sqrt(min(x, 1.0))


@inner
def _shade(scene, ox, oy, oz, dx, dy, dz, t, p, kerb, footprint):
    """Colour 0-255, class and sunlit share of what a ray met."""
    floats, ints, segments, crosses, ground, light = scene[0], scene[1], scene[7], scene[8], scene[9], scene[10]
    if p == SKY:
        r, g, b = _sky(dx, dy, dz, light)
        exposure = light[EXPOSURE]
        return _to_display(exposure * r), _to_display(exposure * g), _to_display(exposure * b), FREE, 1.0
    x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
    fp = max(t * footprint, 0.002)
    mirror, glow, occlusion = 0.0, 0.0, 1.0
    if p == GROUND:
        nx, ny, nz = 0.0, 0.0, 1.0
        flat = math.sqrt(dx * dx + dy * dy)
        if kerb:  # its normal is not worth a gradient: it faces the viewer
            nx, ny, nz = -dx / flat, -dy / flat, 0.0
        r, g, b, label = ground_colour(
            x, y, dx / max(flat, 1e-9), dy / max(flat, 1e-9), fp / max(-dz, 0.01), fp, kerb, segments, crosses, ground
        )
        occlusion = _ground_occlusion(scene, x, y, z)
    else:
        label = ints[p, CLASS]
        nx, ny, nz, lx, ly, rz, face = surface(floats, ints, p, x, y, z)
        facing = abs(nx * dx + ny * dy + nz * dz)
        if ints[p, KIND] == BOX:  # a pixel covers more of a wall seen at a grazing angle
            fp = fp / max(math.sqrt(facing), 0.2)
        r, g, b, mirror, glow = albedo(floats, ints, p, x, y, z, nx, ny, nz, lx, ly, rz, face, fp)
        if ints[p, MATERIAL] == FOLIAGE:  # leaves face everywhere: soften the light and let some through
            seed = int(floats[p, SEED])
            rough = clamp(1.2 - 6.0 * fp, 0.0, 1.0)
            nx += rough * noise3(x * 9.0, y * 9.0, z * 9.0, seed)
            ny += rough * noise3(x * 9.0, y * 9.0, z * 9.0, seed + 9)
            nz += 0.45
            norm = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz)
            nx, ny, nz = nx * norm, ny * norm, nz * norm
            occlusion = 0.55 + 0.45 * clamp(0.5 + 0.5 * rz / floats[p, C], 0.0, 1.0)
        else:
            occlusion = 0.62 + 0.38 * smoothstep(0.0, 1.8, z)
            if nz < -0.5:
                occlusion *= 0.5
    sun = nx * light[SUN_X] + ny * light[SUN_Y] + nz * light[SUN_Z]
    lit = 0.0
    if sun > 0.0:
        e = 0.004 + 0.0005 * t
        lit = _cast_shadow(scene, x + nx * e, y + ny * e, z + nz * e, light[SUN_X], light[SUN_Y], light[SUN_Z])
    direct = max(sun, 0.0) * lit * min(1.0, 0.35 + 0.65 * occlusion)
    sky_share = (0.5 + 0.5 * nz) * occlusion
    bounce = (0.5 - 0.5 * nz) * occlusion * 0.32 + 0.05
    blue = 0.5 * (light[ZENITH_R] + light[HORIZON_R])
    r *= direct * light[SUN_R] + sky_share * blue + bounce
    g *= direct * light[SUN_G] + sky_share * 0.5 * (light[ZENITH_G] + light[HORIZON_G]) + bounce * 0.97
    b *= direct * light[SUN_B] + sky_share * 0.5 * (light[ZENITH_B] + light[HORIZON_B]) + bounce * 0.90
    if mirror > 0.0:
        away = 2.0 * (nx * dx + ny * dy + nz * dz)
        mx, my, mz = dx - away * nx, dy - away * ny, dz - away * nz
        fresnel = mirror * (0.25 + 0.75 * (1.0 - abs(nx * dx + ny * dy + nz * dz)) ** 3)
        # What is mirrored below the roofs is the street: dark, with a skyline that moves with the view as it should.
        azimuth = math.atan2(my, mx) * 5.0
        roofs = 0.16 + 0.14 * noise2(azimuth, 0.5, 5) + 0.05 * noise2(azimuth * 5.0, 0.5, 6)
        share = mix(0.20 + 0.06 * noise2(azimuth * 3.0, mz * 9.0, 7), 1.0, smoothstep(roofs - 0.02, roofs + 0.02, mz))
        t_sky = 1.0 - (1.0 - clamp(mz, 0.0, 1.0)) ** 3.5
        r = mix(r, share * mix(light[HORIZON_R], light[ZENITH_R], t_sky), fresnel)
        g = mix(g, share * mix(light[HORIZON_G], light[ZENITH_G], t_sky), fresnel)
        b = mix(b, share * mix(light[HORIZON_B], light[ZENITH_B], t_sky), fresnel)
        if lit > 0.0:
            shine = max(0.0, mx * light[SUN_X] + my * light[SUN_Y] + mz * light[SUN_Z]) ** 60 * mirror * 5.0 * lit
            r, g, b = r + shine, g + shine, b + shine
    r, g, b = r + glow * r, g + glow * g, b + glow * b
    haze = 1.0 - math.exp(-t * light[HAZE])
    r, g, b = mix(r, light[HORIZON_R], haze), mix(g, light[HORIZON_G], haze), mix(b, light[HORIZON_B], haze)
    exposure = light[EXPOSURE]
    return _to_display(exposure * r), _to_display(exposure * g), _to_display(exposure * b), label, lit


# ---- kernels that Python calls -------------------------------------------------------------------------------------


@inner
def _is_edge(identity, row, column):
    """Whether a pixel differs from one of its four neighbours."""
    height, width = identity.shape
    own = identity[row, column]
    return (
        (column > 0 and identity[row, column - 1] != own)
        or (row > 0 and identity[row - 1, column] != own)
        or (column + 1 < width and identity[row, column + 1] != own)
        or (row + 1 < height and identity[row + 1, column] != own)
    )


@cached_kernel(*_SOURCES, error_model="numpy", nogil=True, _nrt=False)  # as `inner`
def _render_rows(scene, origin, directions, first, last, smoothing, ray_length, label, colour, identity):
    """One ray per pixel of some rows; when `smoothing`, three more where `identity` shows an outline or shadow.

    Rows are shared out by Python threads: that compiles in half the time of prange and survives a fork.
    """
    height, width = label.shape
    ox, oy, oz = origin[0], origin[1], origin[2]
    for row in range(first, last):
        for column in range(width):
            x, y, z = directions[row, column, 0], directions[row, column, 1], directions[row, column, 2]
            if math.isnan(x):  # NaN: the lens sees nothing here
                identity[row, column] = _BLIND
                continue
            if smoothing and (identity[row, column] == _BLIND or not _is_edge(identity, row, column)):
                continue
            # How the direction changes per column and per row; the last ones look backwards.
            c, cs = (column + 1, 1.0) if column + 1 < width else (column - 1, -1.0)
            r, rs = (row + 1, 1.0) if row + 1 < height else (row - 1, -1.0)
            cx, cy, cz = directions[row, c, 0] - x, directions[row, c, 1] - y, directions[row, c, 2] - z
            rx, ry, rz = directions[r, column, 0] - x, directions[r, column, 1] - y, directions[r, column, 2] - z
            footprint = math.sqrt(cx * cx + cy * cy + cz * cz)
            if not (footprint < 1.0 and rx == rx):  # beside a blind pixel
                cx, cy, cz, rx, ry, rz, footprint = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.004
            red, green, blue = 0.0, 0.0, 0.0
            if smoothing:  # the ray through the centre counts, too
                red, green, blue = colour[row, column, 0], colour[row, column, 1], colour[row, column, 2]
            for k in range(3 if smoothing else 1):
                dx, dy, dz = x, y, z
                if smoothing:  # a triangle of rays around the centre
                    u = cs * (-0.36 if k == 0 else (0.28 if k == 1 else 0.08))
                    v = rs * (-0.10 if k == 0 else (-0.28 if k == 1 else 0.38))
                    dx, dy, dz = x + u * cx + v * rx, y + u * cy + v * ry, z + u * cz + v * rz
                    norm = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
                    dx, dy, dz = dx * norm, dy * norm, dz * norm
                t, p, kerb = _cast(scene, ox, oy, oz, dx, dy, dz, footprint)
                a, b, c_, what, lit = _shade(scene, ox, oy, oz, dx, dy, dz, t, p, kerb, footprint)
                red, green, blue = red + a, green + b, blue + c_
                if not smoothing:
                    label[row, column] = what
                    ray_length[row, column] = t if p != SKY else np.inf
                    part = p
                    if p == GROUND:
                        part = -10 - what - 100 * int(kerb)
                    elif p >= 0 and scene[1][p, MATERIAL] == FOLIAGE:
                        part = -5  # leaf against leaf is texture, not an outline
                    identity[row, column] = 2 * part + int(lit > 0.0)
            share = 0.25 if smoothing else 1.0
            colour[row, column, 0], colour[row, column, 1], colour[row, column, 2] = (
                red * share,
                green * share,
                blue * share,
            )


_THREADS = max(1, min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))
_ROWS = 8  # per task


def render(
    scene: Scene,
    origin: Float[np.ndarray, 3],
    directions: Float[np.ndarray, "H W 3"],
    smooth: bool = True,
) -> tuple[Float[np.ndarray, "H W 3"], Float[np.ndarray, "H W"], UInt8[np.ndarray, "H W"]]:
    """Colour 0-255, ray length (m, inf in the sky) and Occ3D class (17 in the sky) of an image.

    `directions` are unit vectors in the world frame, NaN where the lens sees nothing. `smooth` supersamples outlines.
    """
    height, width = directions.shape[:2]
    ray_length = np.full((height, width), np.inf, dtype=np.float64)
    label = np.full((height, width), FREE, dtype=np.uint8)
    colour = np.zeros((height, width, 3), dtype=np.float32)
    identity = np.zeros((height, width), dtype=np.int32)
    directions = np.ascontiguousarray(directions, dtype=np.float64)
    origin = np.ascontiguousarray(origin, dtype=np.float64)
    arguments = scene.arguments

    def rows(first: int, smoothing: bool) -> None:
        last = min(first + _ROWS, height)
        _render_rows(arguments, origin, directions, first, last, smoothing, ray_length, label, colour, identity)

    with ThreadPoolExecutor(_THREADS) as pool:
        for smoothing in (False, True) if smooth else (False,):
            list(pool.map(lambda first, s=smoothing: rows(first, s), range(0, height, _ROWS)))
    return colour, ray_length, label


def scan(
    scene: Scene, origin: Float[np.ndarray, 3], directions: Float[np.ndarray, "H W 3"]
) -> tuple[Float[np.ndarray, "H W"], UInt8[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
    """Ray length (m, inf without a return), Occ3D class and reflected intensity 0-255 of a lidar's rays (world frame).

    A lidar brings its own light: the same picture, taken at night under an even glow.
    """
    light = np.zeros_like(scene.light)
    light[SUN_Z] = -1.0
    light[ZENITH_R : HORIZON_B + 1] = 1.0
    light[EXPOSURE] = 1.0
    colour, ray_length, label = render(replace(scene, light=light), origin, directions, smooth=False)
    return ray_length, label, colour.mean(axis=-1)


# ---- voxel labels --------------------------------------------------------------------------------------------------


@cached_kernel(*_SOURCES, nogil=True)
def _paint_primitives(floats, ints, lows, highs, x0, y0, z0, c, s, size, rank, labels):
    """Give every voxel that a primitive touches the class of highest rank.

    The low corner of the grid sits at (x0, y0, z0) in the world, turned by (c, s).
    """
    nx, ny, nz = labels.shape
    half = 0.5 * size
    for p in range(floats.shape[0]):
        # Bounds of the primitive's box in the grid's frame.
        cx, cy = 0.5 * (lows[p, 0] + highs[p, 0]) - x0, 0.5 * (lows[p, 1] + highs[p, 1]) - y0
        ex, ey = 0.5 * (highs[p, 0] - lows[p, 0]), 0.5 * (highs[p, 1] - lows[p, 1])
        u, v = c * cx + s * cy, -s * cx + c * cy
        rx, ry = abs(c) * ex + abs(s) * ey, abs(s) * ex + abs(c) * ey
        i0, i1 = max(int(math.floor((u - rx) / size)), 0), min(int(math.floor((u + rx) / size)), nx - 1)
        j0, j1 = max(int(math.floor((v - ry) / size)), 0), min(int(math.floor((v + ry) / size)), ny - 1)
        k0 = max(int(math.floor((lows[p, 2] - z0) / size)), 0)
        k1 = min(int(math.floor((highs[p, 2] - z0) / size)), nz - 1)
        label = ints[p, CLASS]
        for i in range(i0, i1 + 1):
            for j in range(j0, j1 + 1):
                u, v = (i + 0.5) * size, (j + 0.5) * size
                wx, wy = x0 + c * u - s * v, y0 + s * u + c * v
                for k in range(k0, k1 + 1):
                    if rank[labels[i, j, k]] >= rank[label]:
                        continue
                    if overlaps_cell(floats, ints, p, wx, wy, z0 + (k + 0.5) * size, c, s, half, half, half):
                        labels[i, j, k] = label


@cached_kernel(*_SOURCES, error_model="numpy", nogil=True)
def _paint_ground(segments, crosses, ground, x0, y0, z0, c, s, size, labels):
    """Give the voxels that the ground's surface passes the class that most of nine points of the column have."""
    nx, ny, nz = labels.shape
    votes = np.zeros(18, dtype=np.int32)
    for column in range(nx * ny):
        i, j = column // ny, column % ny
        votes[:] = 0
        low, high = 1e9, -1e9
        for n in range(9):
            u, v = (i + (n % 3 + 0.5) / 3.0) * size, (j + (n // 3 + 0.5) / 3.0) * size
            x, y = x0 + c * u - s * v, y0 + s * u + c * v
            e, _, d, _, _, _ = kerb_distance(x, y, segments, crosses, ground)
            votes[ground_class(e, d, ground)] += 1
            z = 0.0 if e < 0.0 else ground[KERB_HEIGHT]
            low, high = min(low, z), max(high, z)
        label = np.argmax(votes)
        for k in range(
            max(int(math.floor((low - z0) / size)), 0), min(int(math.floor((high - z0) / size)), nz - 1) + 1
        ):
            labels[i, j, k] = label


def voxelize(
    scene: Scene, corner: Float[np.ndarray, 3], yaw: float, voxel_size: float, shape: tuple[int, int, int], rank
) -> UInt8[np.ndarray, "X Y Z"]:
    """Occ3D class of every voxel of an upright grid whose low corner and yaw are given in the world frame.

    A voxel is occupied exactly if the ground's surface or a primitive (surface or interior) touches it, so the point
    that a depth pixel measures lies in an occupied voxel. Where classes share a voxel, the higher `rank` wins.
    """
    labels = np.full(shape, FREE, dtype=np.uint8)
    frame = (float(corner[0]), float(corner[1]), float(corner[2]), math.cos(yaw), math.sin(yaw), float(voxel_size))
    _paint_ground(scene.segments, scene.crosses, scene.ground, *frame, labels)
    lows, highs = PrimitiveTable(scene.floats, scene.ints).bounds()
    _paint_primitives(scene.floats, scene.ints, lows, highs, *frame, np.asarray(rank, dtype=np.int64), labels)
    return labels
