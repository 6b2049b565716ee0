# SPDX-License-Identifier: Apache-2.0
"""Ray against primitive, the surface at the hit point, and primitive against cube. Scalars only: LLVM inlines it all."""

from __future__ import annotations

import math

from numba import njit

from gaussianocc_core.synthetic.noise import clamp, noise3
from gaussianocc_core.synthetic.shapes import (
    BOX, CAPSULE, CONE, COS, CYLINDER, ELLIPSOID, FOLIAGE, K0, K1, K2, KIND, MATERIAL, PX, PY, PZ, SEED, SIN, A, B, C,
)  # fmt: skip

MISS = 1e30
_NEAR = 1e-4


@njit(error_model="numpy")
def _box(p, ox, oy, oz, dx, dy, dz):
    rx, ry, rz = ox - p[PX], oy - p[PY], oz - p[PZ]
    lx, ly = p[COS] * rx + p[SIN] * ry, -p[SIN] * rx + p[COS] * ry
    ex, ey = p[COS] * dx + p[SIN] * dy, -p[SIN] * dx + p[COS] * dy
    height = rz + p[C]  # above the bottom face, where the lean starts
    enter, leave = -MISS, MISS
    for face in range(6):
        if face == 0:
            distance, slope = lx + p[K0] * height - p[A], ex + p[K0] * dz
        elif face == 1:
            distance, slope = -lx + p[K1] * height - p[A], -ex + p[K1] * dz
        elif face == 2:
            distance, slope = ly + p[K2] * height - p[B], ey + p[K2] * dz
        elif face == 3:
            distance, slope = -ly + p[K2] * height - p[B], -ey + p[K2] * dz
        elif face == 4:
            distance, slope = rz - p[C], dz
        else:
            distance, slope = -rz - p[C], -dz
        if slope < 0.0:
            enter = max(enter, -distance / slope)
        elif slope > 0.0:
            leave = min(leave, -distance / slope)
        elif distance > 0.0:
            return MISS
    return enter if _NEAR < enter < leave else MISS


@njit(error_model="numpy")
def _cone(p, ox, oy, oz, dx, dy, dz):
    rx, ry, rz = ox - p[PX], oy - p[PY], oz - p[PZ]
    k = (p[B] - p[A]) / (2.0 * p[C])
    radius = 0.5 * (p[A] + p[B]) + k * rz
    a = dx * dx + dy * dy - k * k * dz * dz
    b = rx * dx + ry * dy - k * dz * radius
    c = rx * rx + ry * ry - radius * radius
    best = MISS
    disc = b * b - a * c
    if disc > 0.0 and a > 1e-12:
        t = (-b - math.sqrt(disc)) / a
        z = rz + t * dz
        if t > _NEAR and abs(z) <= p[C]:
            best = t
    if dz != 0.0:  # the cap that faces the ray
        cap, cap_radius = (p[C], p[B]) if dz < 0.0 else (-p[C], p[A])
        t = (cap - rz) / dz
        x, y = rx + t * dx, ry + t * dy
        if _NEAR < t < best and x * x + y * y <= cap_radius * cap_radius:
            best = t
    return best


@njit(error_model="numpy")
def _ellipsoid(p, ox, oy, oz, dx, dy, dz):
    rx, ry = ox - p[PX], oy - p[PY]
    lx, ly, lz = (p[COS] * rx + p[SIN] * ry) / p[A], (-p[SIN] * rx + p[COS] * ry) / p[B], (oz - p[PZ]) / p[C]
    ex, ey, ez = (p[COS] * dx + p[SIN] * dy) / p[A], (-p[SIN] * dx + p[COS] * dy) / p[B], dz / p[C]
    a = ex * ex + ey * ey + ez * ez
    b = lx * ex + ly * ey + lz * ez
    disc = b * b - a * (lx * lx + ly * ly + lz * lz - 1.0)
    if disc <= 0.0:
        return MISS
    t = (-b - math.sqrt(disc)) / a
    return t if t > _NEAR else MISS


@njit(error_model="numpy")
def _capsule(p, ox, oy, oz, dx, dy, dz):
    rx, ry, rz = ox - p[PX], oy - p[PY], oz - p[PZ]
    ax, ay, az, radius = p[A], p[B], p[C], p[K0]
    aa = ax * ax + ay * ay + az * az
    ad = ax * dx + ay * dy + az * dz
    ar = ax * rx + ay * ry + az * rz
    dr = dx * rx + dy * ry + dz * rz
    rr = rx * rx + ry * ry + rz * rz
    a = aa - ad * ad
    b = aa * dr - ar * ad
    c = aa * rr - ar * ar - radius * radius * aa
    disc = b * b - a * c
    if disc < 0.0:
        return MISS
    t = (-b - math.sqrt(disc)) / a
    y = ar + t * ad
    if 0.0 < y < aa:
        return t if t > _NEAR else MISS
    if y > 0.0:  # the ball at the far end
        rx, ry, rz = rx - ax, ry - ay, rz - az
    b = dx * rx + dy * ry + dz * rz
    disc = b * b - (rx * rx + ry * ry + rz * rz - radius * radius)
    if disc <= 0.0:
        return MISS
    t = -b - math.sqrt(disc)
    return t if t > _NEAR else MISS


@njit(error_model="numpy")
def _cylinder(p, ox, oy, oz, dx, dy, dz):
    rx, ry, rz = ox - p[PX], oy - p[PY], oz - p[PZ]
    ax, ay, az, radius = p[A], p[B], p[C], p[K0]
    aa = ax * ax + ay * ay + az * az
    ad = ax * dx + ay * dy + az * dz
    ar = ax * rx + ay * ry + az * rz
    a = aa - ad * ad
    b = aa * (dx * rx + dy * ry + dz * rz) - ar * ad
    c = aa * (rx * rx + ry * ry + rz * rz) - ar * ar - radius * radius * aa
    disc = b * b - a * c
    if disc < 0.0:
        return MISS
    root = math.sqrt(disc)
    t = (-b - root) / a
    y = ar + t * ad
    if 0.0 < y < aa:
        return t if t > _NEAR else MISS
    if ad == 0.0:
        return MISS
    t = ((0.0 if y < 0.0 else aa) - ar) / ad
    if abs(b + a * t) >= root or t <= _NEAR:
        return MISS
    hole = p[K1] * radius
    if hole > 0.0:  # an open wheel: only the rim stops the ray
        x, y, z = rx + t * dx, ry + t * dy, rz + t * dz
        if x * x + y * y + z * z - (0.0 if ad > 0.0 else aa) < hole * hole:
            return MISS
    return t


@njit
def intersect(f, i, ox, oy, oz, dx, dy, dz, footprint_per_metre):
    """Distance along the unit ray to the primitive with rows f and i, or MISS."""
    kind = i[KIND]
    if kind == BOX:
        return _box(f, ox, oy, oz, dx, dy, dz)
    if kind == CONE:
        return _cone(f, ox, oy, oz, dx, dy, dz)
    if kind == CAPSULE:
        return _capsule(f, ox, oy, oz, dx, dy, dz)
    if kind == CYLINDER:
        return _cylinder(f, ox, oy, oz, dx, dy, dz)
    t = _ellipsoid(f, ox, oy, oz, dx, dy, dz)
    if t < MISS and i[MATERIAL] == FOLIAGE:
        # Leaves fray the outline: where the ray only grazes the crown, noise decides. Far away the fringe is below a pixel.
        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
        nx, ny, nz, _, _, _, _ = surface(f, i, x, y, z)
        fringe = clamp(1.0 - t * footprint_per_metre / 0.12, 0.0, 1.0)
        facing = -(nx * dx + ny * dy + nz * dz)
        if facing < fringe * (0.32 + 0.45 * noise3(x * 5.0, y * 5.0, z * 5.0, int(f[SEED]))):
            return MISS
    return t


@njit(error_model="numpy")
def surface(f, i, x, y, z):
    """Unit normal, the point in the primitive's frame, and the face (BOX: 0 front 1 back 2 left 3 right 4 top 5 bottom;
    CYLINDER: 0 tread, 1 disc) at a world point on the primitive."""
    kind = i[KIND]
    rx, ry, rz = x - f[PX], y - f[PY], z - f[PZ]
    c, s = f[COS], f[SIN]
    lx, ly = c * rx + s * ry, -s * rx + c * ry
    if kind == BOX:
        height = rz + f[C]
        best, face = (lx + f[K0] * height - f[A]) / math.sqrt(1.0 + f[K0] ** 2), 0
        side = math.sqrt(1.0 + f[K2] ** 2)
        value = (-lx + f[K1] * height - f[A]) / math.sqrt(1.0 + f[K1] ** 2)
        if value > best:
            best, face = value, 1
        value = (ly + f[K2] * height - f[B]) / side
        if value > best:
            best, face = value, 2
        value = (-ly + f[K2] * height - f[B]) / side
        if value > best:
            best, face = value, 3
        if rz - f[C] > best:
            best, face = rz - f[C], 4
        if -rz - f[C] > best:
            best, face = -rz - f[C], 5
        nx, ny, nz = 0.0, 0.0, 0.0
        if face == 0:
            nx, nz = 1.0, f[K0]
        elif face == 1:
            nx, nz = -1.0, f[K1]
        elif face == 2:
            ny, nz = 1.0, f[K2]
        elif face == 3:
            ny, nz = -1.0, f[K2]
        elif face == 4:
            nz = 1.0
        else:
            nz = -1.0
        norm = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz)
        return (c * nx - s * ny) * norm, (s * nx + c * ny) * norm, nz * norm, lx, ly, rz, face
    if kind == CONE:
        if rz > f[C] - 1e-6:
            return 0.0, 0.0, 1.0, lx, ly, rz, 4
        if rz < -f[C] + 1e-6:
            return 0.0, 0.0, -1.0, lx, ly, rz, 5
        k = (f[B] - f[A]) / (2.0 * f[C])
        radius = max(math.sqrt(rx * rx + ry * ry), 1e-9)
        norm = 1.0 / math.sqrt(1.0 + k * k)
        return rx / radius * norm, ry / radius * norm, -k * norm, lx, ly, rz, 0
    if kind == ELLIPSOID:
        nx, ny, nz = lx / f[A] ** 2, ly / f[B] ** 2, rz / f[C] ** 2
        norm = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz)
        return (c * nx - s * ny) * norm, (s * nx + c * ny) * norm, nz * norm, lx, ly, rz, 0
    aa = f[A] ** 2 + f[B] ** 2 + f[C] ** 2
    h = (rx * f[A] + ry * f[B] + rz * f[C]) / aa
    length = math.sqrt(aa)
    if kind == CYLINDER and (h < 1e-6 or h > 1.0 - 1e-6):
        sign = (1.0 if h > 0.5 else -1.0) / length
        h = clamp(h, 0.0, 1.0)
        # Disc coordinates: along the rolling direction and up.
        u = (rx * f[B] - ry * f[A]) / length
        return f[A] * sign, f[B] * sign, f[C] * sign, u, h * length, rz, 1
    h = clamp(h, 0.0, 1.0)
    nx, ny, nz = rx - h * f[A], ry - h * f[B], rz - h * f[C]
    norm = 1.0 / max(math.sqrt(nx * nx + ny * ny + nz * nz), 1e-9)
    return nx * norm, ny * norm, nz * norm, h * length, math.atan2(ny, nx), rz, 0


@njit
def _rectangles_overlap(x, y, c, s, ax, ay, hx, hy):
    """Separating axes: rectangle of half sizes (ax, ay) at (x, y) turned by (c, s) against the centred one (hx, hy)."""
    ac, as_ = abs(c), abs(s)
    if abs(x) > hx + ac * ax + as_ * ay or abs(y) > hy + as_ * ax + ac * ay:
        return False
    u, v = c * x + s * y, -s * x + c * y
    return not (abs(u) > ax + ac * hx + as_ * hy or abs(v) > ay + as_ * hx + ac * hy)


@njit(error_model="numpy")
def overlaps_cell(f, i, cx, cy, cz, c, s, hx, hy, hz):
    """Whether the solid primitive touches the upright cell at (cx, cy, cz) with yaw (c, s) and half sizes (hx, hy, hz)."""
    kind = i[KIND]
    wx, wy, z = f[PX] - cx, f[PY] - cy, f[PZ] - cz
    x, y = c * wx + s * wy, -s * wx + c * wy  # the primitive seen from the cell
    pc, ps = f[COS] * c + f[SIN] * s, f[SIN] * c - f[COS] * s
    if kind == BOX:
        low, high = max(-hz, z - f[C]), min(hz, z + f[C])
        if low > high:
            return False
        # Faces lean one way, so the sections are nested and the largest one decides.
        w0, w1 = low - z + f[C], high - z + f[C]
        front = f[A] - min(f[K0] * w0, f[K0] * w1)
        back = f[A] - min(f[K1] * w0, f[K1] * w1)
        side = f[B] - min(f[K2] * w0, f[K2] * w1)
        shift = 0.5 * (front - back)
        return _rectangles_overlap(x + pc * shift, y + ps * shift, pc, ps, 0.5 * (front + back), side, hx, hy)
    if kind == CONE:
        low, high = max(-hz, z - f[C]), min(hz, z + f[C])
        if low > high:
            return False
        k = (f[B] - f[A]) / (2.0 * f[C])
        radius = 0.5 * (f[A] + f[B]) + max(k * (low - z), k * (high - z))
        ex, ey = x - clamp(x, -hx, hx), y - clamp(y, -hy, hy)
        return ex * ex + ey * ey <= radius * radius
    if kind == ELLIPSOID:
        qz = (z - clamp(z, -hz, hz)) / f[C]
        # Minimise the quadratic form over the cell's rectangle by coordinate descent; it converges in a few rounds.
        ia, ib = 1.0 / f[A] ** 2, 1.0 / f[B] ** 2
        mxx, myy, mxy = pc * pc * ia + ps * ps * ib, ps * ps * ia + pc * pc * ib, pc * ps * (ia - ib)
        u, v = clamp(x, -hx, hx), clamp(y, -hy, hy)
        for _ in range(6):
            u = clamp(x - mxy * (v - y) / mxx, -hx, hx)
            v = clamp(y - mxy * (u - x) / myy, -hy, hy)
        ex, ey = u - x, v - y
        return mxx * ex * ex + 2.0 * mxy * ex * ey + myy * ey * ey + qz * qz <= 1.0
    ax, ay, az = c * f[A] + s * f[B], -s * f[A] + c * f[B], f[C]
    if kind == CYLINDER:  # wheels: the box around them
        length = math.sqrt(ax * ax + ay * ay)
        if abs(z) > hz + f[K0]:
            return False
        return _rectangles_overlap(
            x + 0.5 * ax, y + 0.5 * ay, ax / length, ay / length, 0.5 * length, f[K0], hx, hy
        )
    aa = ax * ax + ay * ay + az * az
    h = 0.5
    distance = MISS
    for _ in range(12):  # alternate between the nearest point of the axis and of the cell: both sets are convex
        px, py, pz = x + h * ax, y + h * ay, z + h * az
        u, v, w = clamp(px, -hx, hx), clamp(py, -hy, hy), clamp(pz, -hz, hz)
        distance = (px - u) ** 2 + (py - v) ** 2 + (pz - w) ** 2
        if distance <= f[K0] * f[K0]:
            return True
        h = clamp(((u - x) * ax + (v - y) * ay + (w - z) * az) / aa, 0.0, 1.0)
    return distance <= f[K0] * f[K0]
