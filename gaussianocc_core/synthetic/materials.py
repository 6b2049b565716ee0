# SPDX-License-Identifier: Apache-2.0
"""What primitives look like: linear albedo, gloss and glow of a point. Patterns live in the object's frame."""

from __future__ import annotations

import math

from numba import njit

from gaussianocc_core.kernels import inner
from gaussianocc_core.synthetic.noise import band, clamp, fade, hash01, mix, noise2, octave2, octave3, pulse, smoothstep
from gaussianocc_core.synthetic.patterns import pattern, second_color
from gaussianocc_core.synthetic.shapes import (
    BARK,
    BLUE,
    BUS_SIDE,
    CAPSULE,
    CAR_BODY,
    CAR_CABIN,
    CEILING,
    CLOTH,
    CONE,
    ELLIPSOID,
    FACADE,
    FOLIAGE,
    GREEN,
    K0,
    KIND,
    LAMP,
    M0,
    M1,
    M2,
    MATERIAL,
    METAL,
    PANEL,
    RED,
    ROOF,
    SEED,
    SIGN,
    STRIPES,
    TEXTURE,
    TYRE,
    A,
    B,
    C,
)

# Facade styles (M0): punched windows in brick or plaster, ribbon windows, curtain wall. M1 window width, M2 storey, m.
BRICK, PLASTER, RIBBON, CURTAIN = range(4)
GLASS = (0.035, 0.045, 0.052)


@inner
def _brick(u, v, fp, seed, r, g, b):
    row = math.floor(v / 0.075)
    x = u / 0.24 + 0.5 * (int(row) & 1)
    fine = fade(fp, 0.1)
    tone = (hash01(int(math.floor(x)), int(row), seed) - 0.5) * fine
    joint = max(pulse(x, 0.06, fp / 0.24), pulse(v / 0.075, 0.16, fp / 0.075))
    shade = 1.0 + 0.45 * tone + 0.12 * octave2(u, v, 0.6, fp, seed + 1) + 0.12 * noise2(u / 2.5, v / 2.5, seed + 2)
    return mix(r * shade, 0.34, 0.55 * joint), mix(g * shade, 0.32, 0.55 * joint), mix(b * shade, 0.29, 0.55 * joint)


@inner
def _plaster(u, v, fp, seed, r, g, b):
    shade = 1.0 + 0.10 * octave2(u, v, 0.07, fp, seed) + 0.10 * octave2(u, v, 0.33, fp, seed + 1)
    shade += 0.08 * octave2(u, v, 0.022, fp, seed + 4) + 0.10 * octave2(u, v, 1.4, fp, seed + 2)
    # Rain streaks below the roof and the sills, dirt near the ground.
    shade -= 0.12 * clamp(noise2(u / 0.35, v / 4.0, seed + 3), 0.0, 1.0)
    shade -= 0.16 * smoothstep(1.2, 0.0, v)
    return r * shade, g * shade, b * shade


@inner
def _window(u, v, bottom, top, fu, fv, i, j, seed, ry):
    """Glass behind a frame; (u, v) within the opening, both 0-1. Albedo and how much sky the glass mirrors."""
    frame = 1.0 - band(u, 0.07, 0.93, fu) * band(v, 0.06, 0.94, fv)
    frame = max(frame, band(u, 0.47, 0.53, fu))
    kind = hash01(i, j, seed)
    r, g, b, mirror = GLASS[0], GLASS[1], GLASS[2], 0.55
    if kind < 0.30:  # curtains or blinds, drawn to some height
        drawn = band(v, 1.0 - hash01(i, j, seed + 1), 2.0, fv)
        fold = 0.85 + 0.15 * pulse(u * 9.0, 0.5, fu * 9.0)
        r, g, b = mix(r, 0.50 * fold, drawn), mix(g, 0.46 * fold, drawn), mix(b, 0.38 * fold, drawn)
        mirror = 0.3
    elif kind > 0.94:  # a lit room
        r, g, b = 0.32, 0.26, 0.15
    shadow = 0.65 + 0.35 * smoothstep(1.0, 0.72, v)  # the lintel shades the top
    # Things in the room: shelves, plants, furniture; darker upwards.
    room = 1.0 + 1.1 * fade(fu, 0.2) * noise2(u * 5.0 + 9.0 * kind, v * 4.0, seed + 2) * (1.2 - v)
    shadow *= max(0.3, room)
    r, g, b = r * shadow, g * shadow, b * shadow
    light = 0.62 if hash01(0, 0, seed + 5) < 0.6 else 0.09
    return mix(r, light, frame), mix(g, light, frame), mix(b, light, frame), mirror * (1.0 - frame)


@inner
def _facade(f, p, lx, ly, rz, face, fp):
    seed = int(f[p, SEED])
    r, g, b = f[p, RED], f[p, GREEN], f[p, BLUE]
    half = f[p, B] if face < 2 else f[p, A]
    u = (ly if face < 2 else lx) + half
    v = rz + f[p, C]
    style, storey = int(f[p, M0]), f[p, M2]
    height = 2.0 * f[p, C]
    width = 2.0 * half
    if style == BRICK:
        r, g, b = _brick(u, v, fp, seed, r, g, b)
    else:
        r, g, b = _plaster(u, v, fp, seed, r, g, b)
    floors = max(1.0, math.floor((height - 0.6) / storey))
    bays = max(1.0, math.floor((width - 0.8) / f[p, M1]))
    pitch = (width - 0.8) / bays
    x, y = (u - 0.4) / pitch, v / storey
    if x < 0.0 or x >= bays or y >= floors:
        # Cornice lines above the last storey and plain corners.
        edge = band(v, height - 0.35, height - 0.2, fp)
        return r * (1.0 - 0.45 * edge), g * (1.0 - 0.45 * edge), b * (1.0 - 0.45 * edge), 0.0
    i, j = int(math.floor(x)), int(math.floor(y))
    cu, cv = x - i, y - j
    fu, fv = fp / pitch, fp / storey
    ground_floor = j == 0
    left, right, low, high = 0.24, 0.76, 0.28, 0.80
    if style == RIBBON:
        left, right, low, high = 0.01, 0.99, 0.34, 0.82
    elif style == CURTAIN:
        left, right, low, high = 0.02, 0.98, 0.03, 0.97
    shops = hash01(3, 3, seed + 40) < 0.6 and height > 7.0
    door = False
    if ground_floor and shops:
        left, right, low, high = 0.05, 0.95, 0.12, 0.72
    elif ground_floor and hash01(i, 7, seed + 41) < 0.25:
        left, right, low, high, door = 0.30, 0.70, 0.0, 0.72, True
    cover = band(cu, left, right, fu) * band(cv, low, high, fv)
    if ground_floor and shops:  # the shop's name board
        board = band(cv, 0.76, 0.94, fv) * band(cu, 0.03, 0.97, fu)
        br, bg, bb = hash01(i, 1, seed + 42), hash01(i, 2, seed + 42), hash01(i, 3, seed + 42)
        text = pulse(cu * 11.0, 0.55, fu * 11.0) * band(cv, 0.81, 0.89, fv) * band(cu, 0.2, 0.8, fu)
        text *= step_noise(cu * 22.0, i, seed + 43)
        r, g, b = mix(r, 0.08 + 0.5 * br, board), mix(g, 0.06 + 0.4 * bg, board), mix(b, 0.06 + 0.5 * bb, board)
        r, g, b = mix(r, 0.75, text), mix(g, 0.74, text), mix(b, 0.70, text)
    if style <= PLASTER and not door:  # sill and its shadow
        sill = band(cv, low - 0.035, low, fv) * band(cu, left - 0.03, right + 0.03, fu)
        r, g, b = mix(r, 0.55, sill), mix(g, 0.54, sill), mix(b, 0.51, sill)
        under = band(cv, low - 0.10, low - 0.035, fv) * band(cu, left - 0.03, right + 0.03, fu)
        r, g, b = r * (1.0 - 0.35 * under), g * (1.0 - 0.35 * under), b * (1.0 - 0.35 * under)
    if cover <= 0.0:
        return r, g, b, 0.0
    wu, wv = (cu - left) / (right - left), (cv - low) / (high - low)
    if door:
        shade = 0.8 + 0.4 * hash01(i, 9, seed + 44)
        dr, dg, db, mirror = 0.22 * shade, 0.13 * shade, 0.08 * shade, 0.0
    else:
        wr = fu / (right - left)
        dr, dg, db, mirror = _window(wu, wv, low, high, wr, fv / (high - low), i, j, seed + 45, ly)
        if style == CURTAIN:
            tint = 0.6 + 0.8 * hash01(i, j, seed + 46)
            dr, dg, db, mirror = dr * tint, dg * tint * 1.05, db * tint * 1.2, mirror * tint
    return mix(r, dr, cover), mix(g, dg, cover), mix(b, db, cover), mirror * cover


@njit(inline="always")
def step_noise(x, i, seed):
    return 1.0 if hash01(int(math.floor(x)), i, seed) < 0.75 else 0.0


@inner
def _car_body(f, p, lx, ly, rz, face, nz, fp):
    """M0 wheel base, M1 wheel radius, M2 height of the arches' centre above the body's bottom."""
    r, g, b = f[p, RED], f[p, GREEN], f[p, BLUE]
    v = rz + f[p, C]
    mirror = 0.10
    if face == 2 or face == 3:
        for side in range(2):
            x = lx - (0.5 - side) * f[p, M0]
            arch = band(math.sqrt(x * x + (v - f[p, M2]) ** 2), -1.0, f[p, M1] + 0.06, fp)
            r, g, b, mirror = mix(r, 0.015, arch), mix(g, 0.015, arch), mix(b, 0.015, arch), mirror * (1.0 - arch)
        lines = band(lx, -0.02, 0.02, fp) + band(lx - 0.95, -0.02, 0.02, fp) + band(lx + 0.98, -0.02, 0.02, fp)
        crease = band(v - 0.66 * 2.0 * f[p, C], -0.015, 0.015, fp)
        handle = band(v - 0.80 * 2.0 * f[p, C], -0.02, 0.02, fp)
        handle *= band(lx + 0.25, -0.09, 0.09, fp) + band(lx - 0.70, -0.09, 0.09, fp)
        dark = clamp(0.75 * lines + 0.35 * crease + 0.7 * handle, 0.0, 1.0)
        sill = band(v, -1.0, 0.12, fp)
        dark = max(dark, 0.85 * sill)
        r, g, b = mix(r, 0.02, dark), mix(g, 0.02, dark), mix(b, 0.02, dark)
    elif face == 0 or face == 1:
        grille = band(v, 0.10, 0.30, fp) * band(abs(ly), -1.0, 0.62 * f[p, B], fp)
        bars = 0.6 + 0.4 * pulse(v / 0.05, 0.5, fp / 0.05)
        r, g, b = mix(r, 0.03 * bars, grille), mix(g, 0.03 * bars, grille), mix(b, 0.03 * bars, grille)
        plate = band(v, 0.16, 0.28, fp) * band(abs(ly), -1.0, 0.26, fp)
        r, g, b = mix(r, 0.6, plate), mix(g, 0.6, plate), mix(b, 0.5, plate)
        mirror *= 1.0 - grille
    elif face == 4:
        seam = band(abs(ly), 0.80 * f[p, B], 0.80 * f[p, B] + 0.03, fp)
        r, g, b = r * (1.0 - 0.4 * seam), g * (1.0 - 0.4 * seam), b * (1.0 - 0.4 * seam)
        mirror = 0.22
    dirt = 1.0 - 0.25 * smoothstep(0.35, 0.0, v) + 0.05 * octave2(lx, v + ly, 0.25, fp, int(f[p, SEED]))
    return r * dirt, g * dirt, b * dirt, mirror


@inner
def _car_cabin(f, p, lx, ly, rz, face, fp):
    """Windows all round: glass except for pillars and roof."""
    v = (rz + f[p, C]) / (2.0 * f[p, C])
    r, g, b = f[p, RED], f[p, GREEN], f[p, BLUE]
    if face >= 4:
        return r, g, b, 0.22
    fv = fp / (2.0 * f[p, C])
    glass = band(v, 0.08, 0.88, fv)
    if face < 2:
        edge = f[p, B] * (1.0 - 0.30 * v)
        glass *= band(abs(ly), -1.0, edge - 0.07, fp)
    else:
        u = lx
        pillar = band(u + 0.05, -0.05, 0.05, fp)
        if f[p, M0] > 0.0:
            pillar = max(pillar, band(u + f[p, M0], -0.06, 0.06, fp))
        glass *= 1.0 - pillar
    tone = 0.9 + 0.3 * hash01(int(face), 1, int(f[p, SEED]))
    seat = 1.0 + 0.6 * band(v, 0.1, 0.45, fv) * pulse((lx + 9.0) / 0.9, 0.4, fp / 0.9)
    gr, gg, gb = 0.022 * tone * seat, 0.026 * tone * seat, 0.030 * tone * seat
    return mix(r, gr, glass), mix(g, gg, glass), mix(b, gb, glass), mix(0.10, 0.50, glass)


@inner
def _bus_side(f, p, lx, ly, rz, face, fp):
    """M0 share of the height where glass starts, M1 where it ends, M2 window pitch."""
    v = (rz + f[p, C]) / (2.0 * f[p, C])
    fv = fp / (2.0 * f[p, C])
    r, g, b = f[p, RED], f[p, GREEN], f[p, BLUE]
    if face >= 4:
        return 0.6, 0.6, 0.6, 0.05
    half = f[p, B] if face < 2 else f[p, A]
    u = ly if face < 2 else lx
    glass = band(v, f[p, M0], f[p, M1], fv) * band(abs(u), -1.0, half - 0.12, fp)
    if face >= 2:
        glass *= 1.0 - pulse((u + half) / f[p, M2], 0.08, fp / f[p, M2])
    stripe = band(v, 0.5 * f[p, M0], 0.5 * f[p, M0] + 0.06, fv)
    r, g, b = mix(r, 0.75, stripe), mix(g, 0.75, stripe), mix(b, 0.72, stripe)
    seed = int(f[p, SEED])
    if face >= 2:  # lettering below the windows, doors and flaps
        low, high = 0.62 * f[p, M0], 0.86 * f[p, M0]
        word = step_noise(u / 1.9, 5, seed + 1) * step_noise(u / 0.21, 3, seed)
        letters = word * pulse(u / 0.21, 0.68, fp / 0.21) * band(v, low, high, fv)
        r, g, b = mix(r, 0.70, 0.8 * letters), mix(g, 0.68, 0.8 * letters), mix(b, 0.60, 0.8 * letters)
        seam = pulse((u + half) / 1.3, 0.012, fp / 1.3)
        r, g, b = r * (1.0 - 0.6 * seam), g * (1.0 - 0.6 * seam), b * (1.0 - 0.6 * seam)
    dirt = (
        1.0
        - 0.3 * smoothstep(0.25, 0.0, v)
        + 0.12 * octave2(u, rz, 0.3, fp, seed + 2)
        + 0.08 * octave2(u, rz, 0.07, fp, seed + 3)
    )
    r, g, b = r * dirt, g * dirt, b * dirt
    skirt = band(v, -1.0, 0.05, fv)
    r, g, b = mix(r, 0.03, skirt), mix(g, 0.03, skirt), mix(b, 0.03, skirt)
    # Seats, passengers and poles behind the glass.
    w = (v - f[p, M0]) / (f[p, M1] - f[p, M0])
    seats = pulse((u + half) / 0.75, 0.55, fp / 0.75) * band(
        w, -1.0, 0.32 + 0.14 * hash01(int((u + half) / 0.75), 1, seed), fv
    )
    inside = 0.02 + 0.06 * seats + 0.02 * octave2(u, rz, 0.25, fp, seed + 4)
    return mix(r, inside, glass), mix(g, 1.05 * inside, glass), mix(b, 1.1 * inside, glass), mix(0.08, 0.45, glass)


@inner
def _sign(f, p, ly, rz, fp):
    """M0: 0 round with a red ring, 1 triangle, 2 rectangle with text, 3 poster."""
    u, v = ly / f[p, B], rz / f[p, C]
    fu = fp / f[p, B]
    kind = int(f[p, M0])
    seed = int(f[p, SEED])
    if kind == 0:
        ring = band(math.sqrt(u * u + v * v), 0.68, 9.0, fu)
        bar = band(abs(v), -1.0, 0.16, fu) * band(abs(u), -1.0, 0.5, fu)
        dark = bar * (1.0 - ring)
        return (
            mix(mix(0.7, 0.02, dark), 0.55, ring),
            mix(mix(0.7, 0.02, dark), 0.03, ring),
            mix(mix(0.7, 0.02, dark), 0.03, ring),
        )
    if kind == 1:
        inner = band(abs(u), -1.0, max(0.0, 0.55 * (0.6 - v)), fu) * band(v, -0.7, 0.6, fu)
        return mix(0.55, 0.75, inner), mix(0.04, 0.72, inner), mix(0.03, 0.65, inner)
    if kind == 2:
        rows = pulse((v + 1.0) * 2.0, 0.45, fu * 2.0) * band(abs(u), -1.0, 0.82, fu)
        rows *= pulse((u + 1.0) * (4.0 + 3.0 * hash01(1, 1, seed)), 0.7, fu * 6.0)
        return mix(f[p, RED], 0.8, rows), mix(f[p, GREEN], 0.8, rows), mix(f[p, BLUE], 0.8, rows)
    cells = 5.0
    i, j = int(math.floor((u + 1.0) * cells * 0.6)), int(math.floor((v + 1.0) * cells * 0.6))
    soft = fade(fu, 0.5)
    r = mix(f[p, RED], 0.1 + 0.7 * hash01(i, j, seed), 0.75 * soft)
    g = mix(f[p, GREEN], 0.1 + 0.6 * hash01(i, j, seed + 1), 0.75 * soft)
    b = mix(f[p, BLUE], 0.1 + 0.6 * hash01(i, j, seed + 2), 0.75 * soft)
    return r, g, b


@inner
def albedo(f, i, p, x, y, z, nx, ny, nz, lx, ly, rz, face, fp):
    """Linear r, g, b of the surface, share of mirrored sky, and glow (light of its own)."""
    material = i[p, MATERIAL]
    seed = int(f[p, SEED])
    r, g, b = f[p, RED], f[p, GREEN], f[p, BLUE]
    if material == FACADE:
        if face >= 4:
            shade = 0.30 * (1.0 + 0.2 * octave2(lx, ly, 0.5, fp, seed))
            return shade, shade, shade, 0.0, 0.0
        r, g, b, mirror = _facade(f, p, lx, ly, rz, face, fp)
        return r, g, b, mirror, 0.0
    if material == FOLIAGE:
        # Leaves: bright clumps over dark gaps at three scales.
        n = 0.60 * octave3(lx, ly, rz, 0.055, fp, seed) + 0.50 * octave3(lx, ly, rz, 0.13, fp, seed + 1)
        n += 0.30 * octave3(lx, ly, rz, 0.38, fp, seed + 2)
        shade = max(0.15, 1.0 + n) * (0.75 + 0.25 * nz)
        warm = 1.0 + 0.25 * octave3(lx, ly, rz, 0.5, fp, seed + 3)
        return r * shade * warm, g * shade, b * shade, 0.0, 0.0
    if material == CAR_BODY:
        r, g, b, mirror = _car_body(f, p, lx, ly, rz, face, nz, fp)
        return r, g, b, mirror, 0.0
    if material == CAR_CABIN:
        r, g, b, mirror = _car_cabin(f, p, lx, ly, rz, face, fp)
        return r, g, b, mirror, 0.0
    if material == BUS_SIDE:
        r, g, b, mirror = _bus_side(f, p, lx, ly, rz, face, fp)
        return r, g, b, mirror, 0.0
    if material == TYRE:
        if face == 1:  # disc: M0 radius, rim inside with spokes
            radius = math.sqrt(lx * lx + rz * rz) / f[p, M0]
            rim = band(radius, 0.0, 0.66, fp / f[p, M0])
            angle = math.atan2(rz, lx) * (5.0 / (2.0 * math.pi)) + 5.0
            spoke = pulse(angle, 0.45, fp / f[p, M0] * 1.5) * band(radius, 0.18, 0.60, fp / f[p, M0])
            metal = 0.36 * (1.0 - 0.8 * spoke)
            return mix(0.018, metal, rim), mix(0.018, metal, rim), mix(0.02, metal, rim), 0.05, 0.0
        return 0.02, 0.02, 0.021, 0.0, 0.0
    if material == BARK:
        angle = math.atan2(ly, lx) if face == 0 else lx
        n = 0.5 * octave2(angle * 0.25, rz * 0.3, 0.05, fp, seed) + 0.3 * octave2(x + y, z, 0.3, fp, seed + 1)
        shade = max(0.3, 1.0 + n)
        return r * shade, g * shade, b * shade, 0.0, 0.0
    if material == CLOTH:
        n = 0.20 * octave3(lx, ly, rz, 0.05, fp, seed) + 0.25 * octave3(lx, ly, rz, 0.16, fp, seed + 1)
        return r * (1.0 + n), g * (1.0 + n), b * (1.0 + n), 0.0, 0.0
    if material == LAMP:
        return r, g, b, 0.1, f[p, M0]
    if material == SIGN:
        if face < 2:
            r, g, b = _sign(f, p, ly, rz, fp)
            return r, g, b, 0.0, 0.0
        return 0.3, 0.3, 0.3, 0.0, 0.0
    if material == STRIPES:  # M0 period, M1: 0 horizontal rings, 1 slanted
        coordinate = rz + f[p, C] if f[p, M1] < 0.5 else rz + lx + ly
        on = pulse(coordinate / f[p, M0], 0.5, fp / f[p, M0])
        shade = 1.0 + 0.12 * octave2(lx + ly, rz, 0.12, fp, seed)
        return mix(r, 0.72, on) * shade, mix(g, 0.72, on) * shade, mix(b, 0.70, on) * shade, 0.0, 0.0
    if material == PANEL:  # M0 board height, M1 board width: corrugated metal, planks, container walls
        u = lx + ly
        gap = max(pulse(rz / f[p, M0], 0.06, fp / f[p, M0]), pulse(u / f[p, M1], 0.05, fp / f[p, M1]))
        board = hash01(int(math.floor(u / f[p, M1])), int(math.floor(rz / f[p, M0])), seed) - 0.5
        shade = (1.0 - 0.55 * gap) * (1.0 + 0.22 * board * fade(fp, min(f[p, M0], f[p, M1])))
        shade *= 1.0 + 0.10 * octave2(u, rz, 0.018, fp, seed + 5) + 0.14 * octave2(u, rz, 0.06, fp, seed + 1)
        shade *= 1.0 + 0.12 * octave2(u, rz, 0.25, fp, seed + 3)
        shade *= 1.0 + 0.14 * octave2(u, rz, 0.9, fp, seed + 2) - 0.25 * max(0.0, noise2(u / 0.13, rz / 2.5, seed + 4))
        return r * shade, g * shade, b * shade, 0.0, 0.0
    if material == ROOF:
        row = math.floor(rz / 0.22)
        shade = 1.0 - 0.35 * pulse(rz / 0.22, 0.2, fp / 0.22)
        tile = hash01(int(math.floor((lx + ly) / 0.25)), int(row), seed) - 0.5
        shade *= 1.0 + 0.4 * tile * fade(fp, 0.22)
        return r * shade, g * shade, b * shade, 0.0, 0.0
    if material in (TEXTURE, CEILING):  # M0 style (patterns.py), M1 size of its elements (m), M2 contrast
        kind = i[p, KIND]
        if kind >= CAPSULE:  # along the rod and around it; on the flat ends what they give
            u, v = lx, (ly * f[p, K0] if face == 0 else ly)
        elif face >= 4:
            u, v = lx, ly
        elif kind == CONE:
            u, v = math.atan2(ly, lx) * 0.5 * (f[p, A] + f[p, B]), rz
        elif kind == ELLIPSOID:
            u, v = math.atan2(ly, lx) * 0.5 * (f[p, A] + f[p, B]), rz
            if abs(rz) > 0.8 * f[p, C]:  # around the poles the angle runs away
                u, v = lx, ly
        else:
            u, v = (ly if face < 2 else lx), rz
        tone, blend = pattern(int(f[p, M0]), u, v, f[p, M1], fp, seed)
        shade = max(0.04, 1.0 + f[p, M2] * tone)
        r2, g2, b2 = second_color(r, g, b, seed)
        share = f[p, M2] * blend
        return mix(r, r2, share) * shade, mix(g, g2, share) * shade, mix(b, b2, share) * shade, 0.0, 0.0
    if material == METAL:
        shade = 1.0 + 0.10 * octave2(lx + ly, rz, 0.2, fp, seed)
        return r * shade, g * shade, b * shade, 0.15, 0.0
    shade = 1.0 + 0.12 * octave3(lx, ly, rz, 0.08, fp, seed) + 0.10 * octave3(lx, ly, rz, 0.5, fp, seed + 1)
    return r * shade, g * shade, b * shade, 0.0, 0.0
