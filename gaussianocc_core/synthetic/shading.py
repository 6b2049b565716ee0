# SPDX-License-Identifier: Apache-2.0
"""Which colour a ray brings back from what it met: sky, sun and shadow, mirrors, leaves, haze."""

from __future__ import annotations

import math

from numba import njit

from gaussianocc_core.kernels import inner
from gaussianocc_core.labels import FREE
from gaussianocc_core.synthetic.ground import WAVES, ground_color, relief
from gaussianocc_core.synthetic.intersect import surface
from gaussianocc_core.synthetic.materials import albedo
from gaussianocc_core.synthetic.noise import clamp, mix, noise2, noise3, smoothstep
from gaussianocc_core.synthetic.scene import (
    CELL,
    CLOUDS,
    EXPOSURE,
    HAZE,
    HORIZON_B,
    HORIZON_G,
    HORIZON_R,
    SKY_SEED,
    SUN_B,
    SUN_G,
    SUN_R,
    SUN_X,
    SUN_Y,
    SUN_Z,
    ZENITH_B,
    ZENITH_G,
    ZENITH_R,
)
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
)
from gaussianocc_core.synthetic.trace import GROUND, SKY, cast_shadow

_OCCLUSION_REACH = 0.45  # m; things darken the ground this close to them


@inner
def _ground_occlusion(scene, x, y, z):
    """How much of the sky the ground at (x, y) sees past the things that stand on it; 1 in the open."""
    floats, ints, start, items, low, shape = scene[0], scene[1], scene[2], scene[3], scene[4], scene[6]
    i0, i1 = int((x - _OCCLUSION_REACH - low[0]) / CELL[0]), int((x + _OCCLUSION_REACH - low[0]) / CELL[0])
    j0, j1 = int((y - _OCCLUSION_REACH - low[1]) / CELL[1]), int((y + _OCCLUSION_REACH - low[1]) / CELL[1])
    k = min(max(int((z - low[2]) / CELL[2]), 0), shape[2] - 1)
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
def shade(scene, ox, oy, oz, dx, dy, dz, t, p, kerb, footprint):
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
        if ground[WAVES] > 0.0:
            _, zx, zy = relief(x, y, ground)
            nz = 1.0 / math.sqrt(1.0 + zx * zx + zy * zy)
            nx, ny = -zx * nz, -zy * nz
        facing = -dz if kerb else -(nx * dx + ny * dy + nz * dz)
        flat = math.sqrt(dx * dx + dy * dy)
        if kerb:  # its normal is not worth a gradient: it faces the viewer
            nx, ny, nz = -dx / flat, -dy / flat, 0.0
        r, g, b, label = ground_color(
            x,
            y,
            dx / max(flat, 1e-9),
            dy / max(flat, 1e-9),
            fp / max(facing, 0.01),
            fp,
            kerb,
            segments,
            crosses,
            ground,
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
            above = z
            if ground[WAVES] > 0.0:
                below, _, _ = relief(x, y, ground)
                above = z - below
            occlusion = 0.62 + 0.38 * smoothstep(0.0, 1.8, above)
            if nz < -0.5:
                occlusion *= 0.5
    sun = nx * light[SUN_X] + ny * light[SUN_Y] + nz * light[SUN_Z]
    lit = 0.0
    if sun > 0.0:
        e = 0.004 + 0.0005 * t
        lit = cast_shadow(scene, x + nx * e, y + ny * e, z + nz * e, light[SUN_X], light[SUN_Y], light[SUN_Z])
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
