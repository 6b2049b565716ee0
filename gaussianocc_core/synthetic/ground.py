# SPDX-License-Identifier: Apache-2.0
"""The ground: where road, kerb, pavement and grass are, and how they look. All analytic, no rasters.

Every ground point has road coordinates: s along the centre line and d to its left. On a street the height is 0 on the
road and `KERB_HEIGHT` elsewhere, with upright kerb faces between; the same street continues to infinity. An open place
(yard, hall, park) has one surface with, if wanted, a path of another along the centre line, and a relief of waves.
"""

from __future__ import annotations

import math

from gaussianocc_core.kernels import cached_kernel, inner
from gaussianocc_core.labels import CLASS_ID
from gaussianocc_core.synthetic import noise
from gaussianocc_core.synthetic.noise import (
    band,
    clamp,
    fade,
    hash01,
    mix,
    noise2,
    octave2,
    pulse,
    smoothstep,
    stretched2,
)
from gaussianocc_core.synthetic.patterns import pattern

# Columns of a row of centre-line segments (lines and arcs).
X0, Y0, COS0, SIN0, CURVATURE, LENGTH, S0 = range(7)
# Columns of a row of crossing streets: a point of its axis, its direction, half width, reach and s on the main road.
CX, CY, CUX, CUY, C_HALF, C_REACH, C_S = range(7)
# Entries of the parameter vector.
(
    HALF_L,
    HALF_R,
    LANE,
    KERB_HEIGHT,
    FILLET,
    VERGE_L,
    WALK_L,
    VERGE_R,
    WALK_R,
    PARKING_L,
    PARKING_R,
    KERB_STYLE,
    TONE,
    CENTRE_STYLE,
    PLAZA_L,
    PLAZA_R,
    PAVER,
    GRASS,
    GROUND_SEED,
    ZEBRA,
) = range(20)
# Of an open place (OPEN 1): its surface as style (patterns.py, or LAWN, TARMAC), size, contrast, colour and class; the
# same for the path of half width PATH_HALF (0: none); painted lines every LINE_X by LINE_Y metres (0: none), turned;
# dirt; and up to four waves of the relief, each amplitude (m), wave vector (1/m, two) and phase.
(
    OPEN,
    BASE,
    BASE_SCALE,
    BASE_CONTRAST,
    BASE_R,
    BASE_G,
    BASE_B,
    BASE_CLASS,
    PATH_HALF,
    PATH,
    PATH_SCALE,
    PATH_CONTRAST,
    PATH_R,
    PATH_G,
    PATH_B,
    PATH_CLASS,
    LINE_X,
    LINE_Y,
    LINE_WIDTH,
    LINE_COS,
    LINE_SIN,
    LINE_R,
    LINE_G,
    LINE_B,
    DIRT,
    WAVES,
    WAVE,
) = range(20, 47)
MOST_WAVES = 4
FINE = WAVE + 4 * MOST_WAVES  # strength of the grain that only cameras close to a street's ground see
PARAMETERS = FINE + 1
LAWN, TARMAC = 100, 101  # ground styles beside those of patterns.py

ROAD = CLASS_ID["driveable_surface"]
WALK = CLASS_ID["sidewalk"]
TERRAIN = CLASS_ID["terrain"]
KERB_STONE = 0.22  # m, top of the kerb


@inner
def road_frame(x, y, segments):
    """(s, d) of the nearest point of the centre line; the first and last segment go on for ever."""
    best_s, best_d = 0.0, 1e9
    count = segments.shape[0]
    for k in range(count):
        rx, ry = x - segments[k, X0], y - segments[k, Y0]
        along, left = segments[k, COS0] * rx + segments[k, SIN0] * ry, -segments[k, SIN0] * rx + segments[k, COS0] * ry
        kappa = segments[k, CURVATURE]
        if kappa != 0.0:
            radius = 1.0 / kappa
            angle = math.atan2(along * kappa, 1.0 - left * kappa)
            s = angle * radius
            d = (1.0 - math.sqrt((along * kappa) ** 2 + (1.0 - left * kappa) ** 2)) * radius
        else:
            s, d = along, left
        low = -1e9 if k == 0 and kappa == 0.0 else 0.0
        high = 1e9 if k == count - 1 and kappa == 0.0 else segments[k, LENGTH]
        if low <= s <= high and abs(d) < abs(best_d):
            best_s, best_d = s + segments[k, S0], d
    return best_s, best_d


@inner
def kerb_distance(x, y, segments, crosses, g):
    """Metres outside the kerb (negative on the road), s, d; index of the crossing street near (-1: none), s2, d2."""
    s, d = road_frame(x, y, segments)
    if g[OPEN] > 0.0:  # the path takes the place of the road
        return (abs(d) - g[PATH_HALF] if g[PATH_HALF] > 0.0 else 1e9), s, d, -1, 0.0, 1e9
    e = d - g[HALF_L] if d > 0.0 else -d - g[HALF_R]
    near, near_s, near_d = -1, 0.0, 1e9
    for k in range(crosses.shape[0]):
        rx, ry = x - crosses[k, CX], y - crosses[k, CY]
        s2, d2 = crosses[k, CUX] * rx + crosses[k, CUY] * ry, -crosses[k, CUY] * rx + crosses[k, CUX] * ry
        if abs(s2) > crosses[k, C_REACH]:
            continue
        if abs(d2) < abs(near_d):
            near, near_s, near_d = k, s2, d2
        q = abs(d2) - crosses[k, C_HALF]
        radius = g[FILLET]
        if 0.0 < e < radius and 0.0 < q < radius:
            e = radius - math.sqrt((radius - e) ** 2 + (radius - q) ** 2)
        else:
            e = min(e, q)
    return e, s, d, near, near_s, near_d


@cached_kernel(noise)
def kerb_distance_at(x, y, segments, crosses, g):
    """`kerb_distance` for Python, which lays out the street with it: metres outside the kerb."""
    return kerb_distance(x, y, segments, crosses, g)[0]


@inner
def relief(x, y, g):
    """Height of an open place's ground and its slope along x and y."""
    z, zx, zy = 0.0, 0.0, 0.0
    for k in range(int(g[WAVES])):
        at = WAVE + 4 * k
        angle = g[at + 1] * x + g[at + 2] * y + g[at + 3]
        z += g[at] * math.sin(angle)
        slope = g[at] * math.cos(angle)
        zx, zy = zx + slope * g[at + 1], zy + slope * g[at + 2]
    return z, zx, zy


@inner
def _relief_height(x, y, g):
    z = 0.0
    for k in range(int(g[WAVES])):
        at = WAVE + 4 * k
        z += g[at] * math.sin(g[at + 1] * x + g[at + 2] * y + g[at + 3])
    return z


@cached_kernel(noise)
def relief_at(x, y, g):
    """Height of an open place's ground, for Python."""
    return relief(x, y, g)[0]


@inner
def steepest(g):
    """Bounds of the relief: greatest height above 0 (and depth below), and greatest slope."""
    height, slope = 0.0, 0.0
    for k in range(int(g[WAVES])):
        at = WAVE + 4 * k
        height += abs(g[at])
        slope += abs(g[at]) * math.sqrt(g[at + 1] ** 2 + g[at + 2] ** 2)
    return height, slope


@inner
def ground_height(e, x, y, g):
    """Height at a point whose kerb distance is e."""
    if g[OPEN] > 0.0:
        z, _, _ = relief(x, y, g)
        return z
    return 0.0 if e < 0.0 else g[KERB_HEIGHT]


@inner
def _cast_open(ox, oy, oz, dx, dy, dz, g):
    """Distance to an open place's ground along a ray that starts above it, 1e30: never."""
    top, slope = steepest(g)
    if top == 0.0:
        return -oz / dz if dz < -1e-6 and oz > 0.0 else 1e30
    level = slope * math.sqrt(dx * dx + dy * dy)
    if dz >= level:  # rises faster than any slope
        return 1e30
    if dz >= 0.0 and oz > top:
        return 1e30
    t = max(0.0, (top - oz) / dz) if dz < 0.0 and oz > top else 0.0
    for _ in range(160):  # no step can pass the surface: the gap closes by at most level - dz a metre
        gap = oz + t * dz - _relief_height(ox + t * dx, oy + t * dy, g)
        if gap < 0.02 + 0.002 * t:
            at = t
            for _ in range(3):  # Newton from close above; back to marching where the ray only grazes
                z, zx, zy = relief(ox + at * dx, oy + at * dy, g)
                closing = zx * dx + zy * dy - dz
                if closing < 0.02:
                    break
                gap = oz + at * dz - z
                at += gap / closing
                if abs(gap) < 2e-4 + 2e-5 * at:
                    return max(at, 0.0)
            gap = oz + t * dz - _relief_height(ox + t * dx, oy + t * dy, g)
            if gap < 2e-4 + 2e-5 * t:
                return t
        t += gap / (level - dz)
        if t > 500.0 or (dz >= 0.0 and oz + t * dz > top):
            return 1e30
    return t


@inner
def ground_class(e, d, g):
    if g[OPEN] > 0.0:
        return int(g[PATH_CLASS] if e < 0.0 else g[BASE_CLASS])
    verge, walk, plaza = g[VERGE_R], g[WALK_R], g[PLAZA_R]
    if d > 0.0:
        verge, walk, plaza = g[VERGE_L], g[WALK_L], g[PLAZA_L]
    if e < 0.0:
        return ROAD
    if e < KERB_STONE:
        return WALK
    if e < verge:
        return TERRAIN
    if e < verge + walk or plaza > 0.0:
        return WALK
    return TERRAIN


@inner
def cast_ground(ox, oy, oz, dx, dy, dz, segments, crosses, g):
    """Distance to the ground along a ray that starts above it, and whether that is a kerb face; 1e30: never."""
    if g[OPEN] > 0.0:
        return _cast_open(ox, oy, oz, dx, dy, dz, g), False
    if dz > -1e-6:
        return 1e30, False
    height = g[KERB_HEIGHT]
    t_high, t_low = (height - oz) / dz, -oz / dz
    if t_low <= 0.0:
        return 1e30, False
    e_high = 1.0
    if t_high > 0.0:
        e_high, _, _, _, _, _ = kerb_distance(ox + t_high * dx, oy + t_high * dy, segments, crosses, g)
        if e_high >= 0.0:
            return t_high, False
    e_low, _, _, _, _, _ = kerb_distance(ox + t_low * dx, oy + t_low * dy, segments, crosses, g)
    if e_low < 0.0:
        return t_low, False
    a, b = max(t_high, 0.0), t_low  # over the road at the top, under the pavement at the bottom: the face lies between
    for _ in range(14):
        m = 0.5 * (a + b)
        e, _, _, _, _, _ = kerb_distance(ox + m * dx, oy + m * dy, segments, crosses, g)
        if e < 0.0:
            a = m
        else:
            b = m
    return b, True


@inner
def _asphalt(x, y, s, d, e, ax, ay, length, fp, g):
    seed = int(g[GROUND_SEED])
    tone = g[TONE]
    grain = 0.30 * stretched2(x, y, ax, ay, length, 0.05, fp, seed + 1)
    grain += 0.20 * stretched2(x, y, ax, ay, length, 0.13, fp, seed + 2)
    grain += 0.16 * stretched2(x, y, ax, ay, length, 0.45, fp, seed + 3)
    grain += 0.15 * stretched2(x, y, ax, ay, length, 1.7, fp, seed + 4)
    grain += 0.13 * noise2(x / 6.5, y / 6.5, seed + 5)
    # Repaired rectangles, laid along the road.
    cell_s, cell_d = math.floor(s / 7.0), math.floor((d + 40.0) / 2.6)
    if hash01(int(cell_s), int(cell_d), seed + 6) < 0.22:
        u, v = s / 7.0 - cell_s, (d + 40.0) / 2.6 - cell_d
        size = 0.25 + 0.3 * hash01(int(cell_s), int(cell_d), seed + 7)
        cover = band(u, 0.5 - size, 0.5 + size, fp / 7.0) * band(v, 0.12, 0.9, fp / 2.6)
        grain -= 0.30 * cover * (0.6 + hash01(int(cell_s), int(cell_d), seed + 8))
    # Cracks: the zero level of a slow noise.
    width = 0.02 + 0.6 * fp
    if fp < 0.12:
        level = noise2(x / 1.9 + 0.2 * noise2(x * 1.5, y * 1.5, seed + 10), y / 1.9, seed + 9)
        mask = smoothstep(0.05, 0.4, noise2(x / 8.0, y / 8.0, seed + 11))
        grain -= 0.5 * mask * clamp(1.0 - abs(level) * 1.4 / width, 0.0, 1.0) * 0.02 / width
    # Tyres polish two tracks a lane, oil darkens the middle; dust collects at the kerb.
    lane = abs(d) - 0.5 * g[LANE]
    grain -= 0.07 / (1.0 + (lane / 0.3) ** 4)
    grain += 0.06 / (1.0 + ((abs(lane) - 0.8) / 0.27) ** 4)
    grain += 0.22 * clamp(1.0 + e / 0.6, 0.0, 1.0)
    value = tone * max(0.25, 1.0 + grain)
    return value * 1.0, value * 0.99, value * 0.97


@inner
def _manhole(s, d, fp, g):
    """Coverage and shade of a manhole cover."""
    seed = int(g[GROUND_SEED])
    cell = math.floor(s / 17.0)
    side = 1.0 if hash01(int(cell), 1, seed + 20) < 0.5 else -1.0
    u = s - (cell + 0.2 + 0.6 * hash01(int(cell), 2, seed + 20)) * 17.0
    v = d - side * g[LANE] * (0.3 + 0.5 * hash01(int(cell), 3, seed + 20))
    r = math.sqrt(u * u + v * v)
    ring = 0.5 + 0.5 * pulse(u / 0.12, 0.5, fp / 0.12) * pulse(v / 0.12, 0.5, fp / 0.12)
    return band(r, -1.0, 0.34, fp), ring


@inner
def _marking_cover(s, d, e, near, s2, d2, fp_s, fp_d, g, crosses):
    """Share of the pixel that is painted: white, yellow."""
    white, yellow = 0.0, 0.0
    inside, zebra_near = False, 1e9
    if near >= 0:
        half2 = crosses[near, C_HALF]
        inside = abs(d2) < half2 + 0.6 * g[FILLET] and e < 0.0
        along = abs(d2) - half2  # metres before the crossing street
        half = g[HALF_L] if d > 0.0 else g[HALF_R]
        main = -d - half if d < 0.0 else d - half
        if main < 0.0:  # on the main road
            zebra_near = along
            if g[ZEBRA] > 0.0:
                strip = band(along, 2.4, 5.2, fp_s)
                white = max(white, strip * pulse((d + 50.0) / 1.1, 0.5, fp_d / 1.1) * band(main, -50.0, -0.35, fp_d))
            incoming = (d < 0.0) == ((s - crosses[near, C_S]) < 0.0)
            if incoming:
                white = max(white, band(along, 6.2, 6.6, fp_s) * band(abs(d), 0.15, g[LANE], fp_d))
                # A straight-on arrow in the lane.
                u, v = along - 11.0, abs(abs(d) - 0.5 * g[LANE])
                shaft = band(u, 0.0, 2.2, fp_s) * band(v, -0.1, 0.09, fp_d)
                head = band(v, -1.0, clamp(0.36 * (u + 1.2) / 1.2, 0.0, 0.36), fp_d) * band(u, -1.2, 0.0, fp_s)
                white = max(white, max(shaft, head))
        else:  # on the crossing street
            away = main
            if g[ZEBRA] > 0.0:
                strip = band(away, 2.4, 5.2, fp_s)
                white = max(
                    white, strip * pulse((d2 + 50.0) / 1.1, 0.5, fp_d / 1.1) * band(abs(d2), -1.0, half2 - 0.3, fp_d)
                )
            if away > 6.2:
                dash = pulse(away / 6.0, 0.5, fp_s / 6.0)
                white = max(white, dash * band(d2, -0.07, 0.07, fp_d))
            return white, yellow
    if inside or zebra_near < 6.0:
        return white, yellow
    if g[CENTRE_STYLE] > 1.5:
        lines = band(abs(d), 0.08, 0.20, fp_d)
        yellow = max(yellow, lines)
    elif g[CENTRE_STYLE] > 0.5:
        white = max(white, band(d, -0.07, 0.07, fp_d))
    else:
        white = max(white, pulse(s / 6.0, 0.5, fp_s / 6.0) * band(d, -0.075, 0.075, fp_d))
    half, parking = (g[HALF_L], g[PARKING_L]) if d > 0.0 else (g[HALF_R], g[PARKING_R])
    if parking > 0.0:
        lane_edge = half - 2.3
        white = max(white, band(abs(d), lane_edge - 0.05, lane_edge + 0.05, fp_d))
        white = max(white, pulse(s / 6.2, 0.12 / 6.2, fp_s / 6.2) * band(abs(d), lane_edge, half - 0.2, fp_d))
    else:
        yellow = max(yellow, band(abs(d), half - 0.42, half - 0.32, fp_d))
        yellow = max(yellow, band(abs(d), half - 0.24, half - 0.14, fp_d))
    return white, yellow


@inner
def _pavement(x, y, s, d, ax, ay, length, fp, g):
    seed = int(g[GROUND_SEED])
    size = g[PAVER]
    u, v = s / size, d / (0.66 * size)
    row = math.floor(v)
    u += 0.5 * (int(row) & 1)
    tile = hash01(int(math.floor(u)), int(row), seed + 30) - 0.5
    joint = max(pulse(u, 0.018 / size, fp / size), pulse(v, 0.018 / (0.66 * size), fp / (0.66 * size)))
    value = 0.36 * (1.0 + 0.34 * tile * fade(fp, size))
    value *= (
        1.0 + 0.14 * stretched2(x, y, ax, ay, length, 0.06, fp, seed + 31) + 0.10 * octave2(x, y, 0.7, fp, seed + 32)
    )
    value *= 1.0 + 0.16 * noise2(x / 3.1, y / 3.1, seed + 33)
    value *= 1.0 - 0.55 * joint
    warm = 0.05 * tile
    return value * (1.0 + warm), value * 0.96, value * (0.88 - warm)


@inner
def _grass(x, y, ax, ay, length, fp, g):
    seed = int(g[GROUND_SEED])
    n = 0.34 * stretched2(x, y, ax, ay, length, 0.045, fp, seed + 40)
    n += 0.26 * stretched2(x, y, ax, ay, length, 0.14, fp, seed + 41)
    n += 0.20 * stretched2(x, y, ax, ay, length, 0.5, fp, seed + 42)
    n += 0.18 * octave2(x, y, 1.8, fp, seed + 43)
    dry = clamp(
        g[GRASS] + 0.5 * noise2(x / 4.0, y / 4.0, seed + 44) + 0.25 * octave2(x, y, 0.9, fp, seed + 45), 0.0, 1.0
    )
    value = max(0.25, 1.0 + n)
    r, gr, b = mix(0.078, 0.21, dry), mix(0.122, 0.175, dry), mix(0.036, 0.085, dry)
    return r * value, gr * value, b * value


@inner
def _open_surface(at, x, y, ax, ay, length, fp, g):
    """Colour of the surface whose description starts at g[at]: `BASE` or `PATH`."""
    style, scale, contrast = int(g[at]), g[at + 1], g[at + 2]
    r, gr, b = g[at + 3], g[at + 4], g[at + 5]
    seed = int(g[GROUND_SEED]) + at
    if style == LAWN:
        return _grass(x, y, ax, ay, length, fp, g)
    # Tiles and cobbles would alias along a pixel that is stretched by a grazing view.
    wide = min(max(fp, 0.55 * length), 4.0 * fp + 0.4 * length)
    if style == TARMAC:
        grain = 0.35 * stretched2(x, y, ax, ay, length, scale, fp, seed)
        grain += 0.22 * stretched2(x, y, ax, ay, length, 3.0 * scale, fp, seed + 1)
        grain += 0.16 * stretched2(x, y, ax, ay, length, 11.0 * scale, fp, seed + 2)
        tone, blend = grain + 0.13 * noise2(x / 7.0, y / 7.0, seed + 3), 0.0
    else:
        tone, blend = pattern(style, x, y, scale, wide, seed)
        tone += 0.25 * stretched2(x, y, ax, ay, length, 0.06, fp, seed + 1)
    tone += 0.22 * octave2(x, y, 0.012, fp, seed + 8) + 0.20 * stretched2(x, y, ax, ay, length, 0.028, fp, seed + 9)
    tone += g[DIRT] * (0.5 * octave2(x, y, 2.3, wide, seed + 5) + 0.35 * octave2(x, y, 0.6, wide, seed + 6))
    tone -= g[DIRT] * 0.9 * smoothstep(0.45, 0.7, noise2(x / 1.7, y / 1.7, seed + 7))  # stains
    shade = max(0.12, 1.0 + contrast * tone)
    dim = 0.35 if hash01(7, 1, seed) < 0.6 else 1.5  # grounds have one hue
    share = contrast * blend
    return mix(r, dim * r, share) * shade, mix(gr, dim * gr, share) * shade, mix(b, dim * b, share) * shade


@inner
def _open_color(x, y, ax, ay, fp_along, fp, e, g):
    """Linear albedo of an open place's ground."""
    seed = int(g[GROUND_SEED])
    on = 0.0
    if g[PATH_HALF] > 0.0:
        on = clamp(0.5 - e / max(0.6 * fp + 0.2 * fp_along, 0.03), 0.0, 1.0)
    r, gr, b = 0.0, 0.0, 0.0
    if on < 1.0:
        r, gr, b = _open_surface(BASE, x, y, ax, ay, fp_along, fp, g)
    if on > 0.0:
        r2, g2, b2 = _open_surface(PATH, x, y, ax, ay, fp_along, fp, g)
        r, gr, b = mix(r, r2, on), mix(gr, g2, on), mix(b, b2, on)
    if g[LINE_X] > 0.0:
        u, v = g[LINE_COS] * x + g[LINE_SIN] * y, -g[LINE_SIN] * x + g[LINE_COS] * y
        au, av = abs(g[LINE_COS] * ax + g[LINE_SIN] * ay), abs(-g[LINE_SIN] * ax + g[LINE_COS] * ay)
        fu, fv = au * fp_along + av * fp, av * fp_along + au * fp
        white = pulse(u / g[LINE_X], g[LINE_WIDTH] / g[LINE_X], fu / g[LINE_X])
        white = max(white, pulse(v / g[LINE_Y], g[LINE_WIDTH] / g[LINE_Y], fv / g[LINE_Y]))
        white *= clamp(0.75 + 0.6 * noise2(x / 0.7, y / 0.7, seed + 71), 0.1, 1.0)
        # Only some of the bays are painted.
        i, j = int(math.floor(u / (3.0 * g[LINE_X]))), int(math.floor(v / (2.0 * g[LINE_Y])))
        white *= 1.0 if hash01(i, j, seed + 72) < 0.6 else 0.0
        r, gr, b = mix(r, g[LINE_R], white), mix(gr, g[LINE_G], white), mix(b, g[LINE_B], white)
    return r, gr, b


@inner
def _fine_grain(x, y, ax, ay, length, fp, g):
    seed = int(g[GROUND_SEED])
    grain = 0.26 * octave2(x, y, 0.012, fp, seed + 80) + 0.22 * stretched2(x, y, ax, ay, length, 0.027, fp, seed + 81)
    return max(0.3, 1.0 + g[FINE] * grain)


@inner
def ground_color(x, y, ax, ay, fp_along, fp, kerb_face, segments, crosses, g):
    """Linear albedo and class of a ground point; the pixel is `fp_along` metres long towards (ax, ay)."""
    e, s, d, near, s2, d2 = kerb_distance(x, y, segments, crosses, g)
    label = ground_class(e, d, g)
    if g[OPEN] > 0.0:
        r, gr, b = _open_color(x, y, ax, ay, fp_along, fp, e, g)
        return r, gr, b, label
    seed = int(g[GROUND_SEED])
    if kerb_face:
        label = WALK
    if kerb_face or (0.0 <= e < KERB_STONE):
        coordinate = s if abs(d2) > 14.0 or near < 0 else (s if e > abs(d2) - crosses[near, C_HALF] - 0.01 else s2)
        block = math.floor(coordinate / 1.0)
        value = 0.42 + 0.10 * (hash01(int(block), 0, seed + 50) - 0.5)
        value *= 1.0 + 0.16 * octave2(x, y, 0.07, fp, seed + 51) + 0.10 * noise2(x / 0.9, y / 0.9, seed + 52)
        if g[KERB_STYLE] > 0.5:
            value *= mix(0.16, 1.25, pulse(coordinate / 2.0, 0.5, max(fp, 0.5 * fp_along) / 2.0))
        else:
            value *= 1.0 - 0.5 * pulse(coordinate, 0.025, fp)
        return value, value * 0.98, value * 0.93, label
    if label == ROAD:
        r, gr, b = _asphalt(x, y, s, d, e, ax, ay, fp_along, fp, g)
        cover, ring = _manhole(s, d, fp, g)
        if cover > 0.0:
            r, gr, b = mix(r, 0.07 * ring, cover), mix(gr, 0.067 * ring, cover), mix(b, 0.065 * ring, cover)
        # How long the pixel is along and across the road: its long axis projected on the centre line's direction.
        tx, ty = _tangent(s, segments)
        along = abs(ax * tx + ay * ty)
        across = math.sqrt(max(0.0, 1.0 - along * along))
        fp_s, fp_d = along * fp_along + across * fp, across * fp_along + along * fp
        if near >= 0 and e > -1e8 and abs(d) > (g[HALF_L] if d > 0.0 else g[HALF_R]):
            fp_s, fp_d = fp_d, fp_s
        white, yellow = _marking_cover(s, d, e, near, s2, d2, fp_s, fp_d, g, crosses)
        if white > 0.0 or yellow > 0.0:
            wear = 0.86 + 0.22 * octave2(x, y, 0.09, fp, seed + 60) + 0.18 * noise2(x / 0.8, y / 0.8, seed + 61)
            wear = clamp(wear, 0.25, 1.0)
            white, yellow = white * wear, yellow * wear
            r, gr, b = mix(r, 0.62, white), mix(gr, 0.62, white), mix(b, 0.60, white)
            r, gr, b = mix(r, 0.60, yellow), mix(gr, 0.42, yellow), mix(b, 0.07, yellow)
        if g[FINE] > 0.0:
            fine = _fine_grain(x, y, ax, ay, fp_along, fp, g)
            r, gr, b = r * fine, gr * fine, b * fine
        return r, gr, b, label
    if label == WALK:
        r, gr, b = _pavement(x, y, s, d, ax, ay, fp_along, fp, g)
    else:
        r, gr, b = _grass(x, y, ax, ay, fp_along, fp, g)
    if g[FINE] > 0.0:
        fine = _fine_grain(x, y, ax, ay, fp_along, fp, g)
        r, gr, b = r * fine, gr * fine, b * fine
    return r, gr, b, label


@inner
def _tangent(s, segments):
    """Unit direction of the centre line at s."""
    k = 0
    while k + 1 < segments.shape[0] and s > segments[k + 1, S0]:
        k += 1
    c, sn, kappa = segments[k, COS0], segments[k, SIN0], segments[k, CURVATURE]
    if kappa == 0.0:
        return c, sn
    turned = clamp(s - segments[k, S0], 0.0, segments[k, LENGTH]) * kappa
    ct, st = math.cos(turned), math.sin(turned)
    return c * ct - sn * st, sn * ct + c * st
