# SPDX-License-Identifier: Apache-2.0
"""Ray against primitive, the surface at the hit point, and primitive against cell. Scalars only."""

from __future__ import annotations

import math

from gaussianocc_core.kernels import inner
from gaussianocc_core.synthetic.noise import clamp, noise3
from gaussianocc_core.synthetic.shapes import (
    BOX,
    CAPSULE,
    CONE,
    COS,
    CYLINDER,
    ELLIPSOID,
    FOLIAGE,
    K0,
    K1,
    K2,
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

MISS = 1e30
_NEAR = 1e-4


@inner
def _box(f, p, ox, oy, oz, dx, dy, dz):
    rx, ry, rz = ox - f[p, PX], oy - f[p, PY], oz - f[p, PZ]
    lx, ly = f[p, COS] * rx + f[p, SIN] * ry, -f[p, SIN] * rx + f[p, COS] * ry
    ex, ey = f[p, COS] * dx + f[p, SIN] * dy, -f[p, SIN] * dx + f[p, COS] * dy
    if f[p, K0] == 0.0 and f[p, K1] == 0.0 and f[p, K2] == 0.0:
        # Upright: slabs. A ray parallel to a face is turned by a hair, so that nothing divides by zero.
        ix = 1.0 / (ex if abs(ex) > 1e-12 else 1e-12)
        iy = 1.0 / (ey if abs(ey) > 1e-12 else 1e-12)
        iz = 1.0 / (dz if abs(dz) > 1e-12 else 1e-12)
        ax, ay, az = abs(ix) * f[p, A], abs(iy) * f[p, B], abs(iz) * f[p, C]
        mx, my, mz = -lx * ix, -ly * iy, -rz * iz
        enter = max(max(mx - ax, my - ay), mz - az)
        leave = min(min(mx + ax, my + ay), mz + az)
        return enter if _NEAR < enter < leave else MISS
    height = rz + f[p, C]  # above the bottom face, where the lean starts
    enter, leave = -MISS, MISS
    for face in range(6):
        if face == 0:
            distance, slope = lx + f[p, K0] * height - f[p, A], ex + f[p, K0] * dz
        elif face == 1:
            distance, slope = -lx + f[p, K1] * height - f[p, A], -ex + f[p, K1] * dz
        elif face == 2:
            distance, slope = ly + f[p, K2] * height - f[p, B], ey + f[p, K2] * dz
        elif face == 3:
            distance, slope = -ly + f[p, K2] * height - f[p, B], -ey + f[p, K2] * dz
        elif face == 4:
            distance, slope = rz - f[p, C], dz
        else:
            distance, slope = -rz - f[p, C], -dz
        if slope < 0.0:
            enter = max(enter, -distance / slope)
        elif slope > 0.0:
            leave = min(leave, -distance / slope)
        elif distance > 0.0:
            return MISS
    return enter if _NEAR < enter < leave else MISS


@inner
def _cone(f, p, ox, oy, oz, dx, dy, dz):
    rx, ry, rz = ox - f[p, PX], oy - f[p, PY], oz - f[p, PZ]
    k = (f[p, B] - f[p, A]) / (2.0 * f[p, C])
    radius = 0.5 * (f[p, A] + f[p, B]) + k * rz
    a = dx * dx + dy * dy - k * k * dz * dz
    b = rx * dx + ry * dy - k * dz * radius
    c = rx * rx + ry * ry - radius * radius
    best = MISS
    disc = b * b - a * c
    if disc > 0.0 and a > 1e-12:
        t = (-b - math.sqrt(disc)) / a
        z = rz + t * dz
        if t > _NEAR and abs(z) <= f[p, C]:
            best = t
    if dz != 0.0:  # the cap that faces the ray
        cap, cap_radius = (f[p, C], f[p, B]) if dz < 0.0 else (-f[p, C], f[p, A])
        t = (cap - rz) / dz
        x, y = rx + t * dx, ry + t * dy
        if _NEAR < t < best and x * x + y * y <= cap_radius * cap_radius:
            best = t
    return best


@inner
def _ellipsoid(f, p, ox, oy, oz, dx, dy, dz, fringe):
    """`fringe` > 0 frays the outline: where the ray only grazes a crown of leaves, noise decides."""
    rx, ry = ox - f[p, PX], oy - f[p, PY]
    lx, ly, lz = (
        (f[p, COS] * rx + f[p, SIN] * ry) / f[p, A],
        (-f[p, SIN] * rx + f[p, COS] * ry) / f[p, B],
        (oz - f[p, PZ]) / f[p, C],
    )
    ex, ey, ez = (f[p, COS] * dx + f[p, SIN] * dy) / f[p, A], (-f[p, SIN] * dx + f[p, COS] * dy) / f[p, B], dz / f[p, C]
    a = ex * ex + ey * ey + ez * ez
    b = lx * ex + ly * ey + lz * ez
    disc = b * b - a * (lx * lx + ly * ly + lz * lz - 1.0)
    if disc <= 0.0:
        return MISS
    root = math.sqrt(disc)
    t = (-b - root) / a
    if t <= _NEAR:
        return MISS
    if fringe > 0.0:
        nx, ny, nz = (lx + t * ex) / f[p, A], (ly + t * ey) / f[p, B], (lz + t * ez) / f[p, C]
        facing = root / math.sqrt(nx * nx + ny * ny + nz * nz)  # cosine between the ray and the normal
        if facing < 0.96 * fringe:
            x, y, z, seed = ox + t * dx, oy + t * dy, oz + t * dz, int(f[p, SEED])
            ragged = 0.36 + 0.34 * noise3(x * 3.1, y * 3.1, z * 3.1, seed)
            ragged += 0.26 * noise3(x * 9.0, y * 9.0, z * 9.0, seed + 1)
            if facing < fringe * ragged:
                return MISS
    return t


@inner
def _capsule(f, p, ox, oy, oz, dx, dy, dz):
    rx, ry, rz = ox - f[p, PX], oy - f[p, PY], oz - f[p, PZ]
    ax, ay, az, radius = f[p, A], f[p, B], f[p, C], f[p, K0]
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


@inner
def _cylinder(f, p, ox, oy, oz, dx, dy, dz):
    rx, ry, rz = ox - f[p, PX], oy - f[p, PY], oz - f[p, PZ]
    ax, ay, az, radius = f[p, A], f[p, B], f[p, C], f[p, K0]
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
    hole = f[p, K1] * radius
    if hole > 0.0:  # an open wheel: only the rim stops the ray
        x, y, z = rx + t * dx, ry + t * dy, rz + t * dz
        if x * x + y * y + z * z - (0.0 if ad > 0.0 else aa) < hole * hole:
            return MISS
    return t


@inner
def intersect(f, i, p, ox, oy, oz, dx, dy, dz, footprint_per_metre):
    """Distance along the unit ray to the primitive of row p, or MISS."""
    kind = i[p, KIND]
    if kind == BOX:
        return _box(f, p, ox, oy, oz, dx, dy, dz)
    if kind == CONE:
        return _cone(f, p, ox, oy, oz, dx, dy, dz)
    if kind == CAPSULE:
        return _capsule(f, p, ox, oy, oz, dx, dy, dz)
    if kind == CYLINDER:
        return _cylinder(f, p, ox, oy, oz, dx, dy, dz)
    fringe = 0.0
    if i[p, MATERIAL] == FOLIAGE:
        distance = math.sqrt((f[p, PX] - ox) ** 2 + (f[p, PY] - oy) ** 2 + (f[p, PZ] - oz) ** 2)
        fringe = clamp(1.0 - distance * footprint_per_metre / 0.12, 0.0, 1.0)
    return _ellipsoid(f, p, ox, oy, oz, dx, dy, dz, fringe)


@inner
def surface(f, i, p, x, y, z):
    """Unit normal, the point in the primitive's frame, and the face (BOX: 0 front 1 back 2 left 3 right 4 top 5 bottom;
    CYLINDER: 0 tread, 1 disc) at a world point on the primitive."""
    kind = i[p, KIND]
    rx, ry, rz = x - f[p, PX], y - f[p, PY], z - f[p, PZ]
    c, s = f[p, COS], f[p, SIN]
    lx, ly = c * rx + s * ry, -s * rx + c * ry
    if kind == BOX:
        height = rz + f[p, C]
        best, face = (lx + f[p, K0] * height - f[p, A]) / math.sqrt(1.0 + f[p, K0] ** 2), 0
        side = math.sqrt(1.0 + f[p, K2] ** 2)
        value = (-lx + f[p, K1] * height - f[p, A]) / math.sqrt(1.0 + f[p, K1] ** 2)
        if value > best:
            best, face = value, 1
        value = (ly + f[p, K2] * height - f[p, B]) / side
        if value > best:
            best, face = value, 2
        value = (-ly + f[p, K2] * height - f[p, B]) / side
        if value > best:
            best, face = value, 3
        if rz - f[p, C] > best:
            best, face = rz - f[p, C], 4
        if -rz - f[p, C] > best:
            best, face = -rz - f[p, C], 5
        nx, ny, nz = 0.0, 0.0, 0.0
        if face == 0:
            nx, nz = 1.0, f[p, K0]
        elif face == 1:
            nx, nz = -1.0, f[p, K1]
        elif face == 2:
            ny, nz = 1.0, f[p, K2]
        elif face == 3:
            ny, nz = -1.0, f[p, K2]
        elif face == 4:
            nz = 1.0
        else:
            nz = -1.0
        norm = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz)
        return (c * nx - s * ny) * norm, (s * nx + c * ny) * norm, nz * norm, lx, ly, rz, face
    if kind == CONE:
        if rz > f[p, C] - 1e-6:
            return 0.0, 0.0, 1.0, lx, ly, rz, 4
        if rz < -f[p, C] + 1e-6:
            return 0.0, 0.0, -1.0, lx, ly, rz, 5
        k = (f[p, B] - f[p, A]) / (2.0 * f[p, C])
        radius = max(math.sqrt(rx * rx + ry * ry), 1e-9)
        norm = 1.0 / math.sqrt(1.0 + k * k)
        return rx / radius * norm, ry / radius * norm, -k * norm, lx, ly, rz, 0
    if kind == ELLIPSOID:
        nx, ny, nz = lx / f[p, A] ** 2, ly / f[p, B] ** 2, rz / f[p, C] ** 2
        norm = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz)
        return (c * nx - s * ny) * norm, (s * nx + c * ny) * norm, nz * norm, lx, ly, rz, 0
    aa = f[p, A] ** 2 + f[p, B] ** 2 + f[p, C] ** 2
    h = (rx * f[p, A] + ry * f[p, B] + rz * f[p, C]) / aa
    length = math.sqrt(aa)
    if kind == CYLINDER and (h < 1e-6 or h > 1.0 - 1e-6):
        sign = (1.0 if h > 0.5 else -1.0) / length
        h = clamp(h, 0.0, 1.0)
        # Disc coordinates: along the rolling direction and up.
        u = (rx * f[p, B] - ry * f[p, A]) / length
        return f[p, A] * sign, f[p, B] * sign, f[p, C] * sign, u, h * length, rz, 1
    h = clamp(h, 0.0, 1.0)
    nx, ny, nz = rx - h * f[p, A], ry - h * f[p, B], rz - h * f[p, C]
    norm = 1.0 / max(math.sqrt(nx * nx + ny * ny + nz * nz), 1e-9)
    return nx * norm, ny * norm, nz * norm, h * length, math.atan2(ny, nx), rz, 0


@inner
def _rectangles_overlap(x, y, c, s, ax, ay, hx, hy):
    """Separating axes: rectangle of half sizes (ax, ay) at (x, y) turned by (c, s) against the centred one (hx, hy)."""
    ac, as_ = abs(c), abs(s)
    if abs(x) > hx + ac * ax + as_ * ay or abs(y) > hy + as_ * ax + ac * ay:
        return False
    u, v = c * x + s * y, -s * x + c * y
    return not (abs(u) > ax + ac * hx + as_ * hy or abs(v) > ay + as_ * hx + ac * hy)


@inner
def overlaps_cell(f, i, p, cx, cy, cz, c, s, hx, hy, hz):
    """Whether the solid primitive touches the upright cell at (cx, cy, cz), yaw (c, s), half sizes (hx, hy, hz)."""
    kind = i[p, KIND]
    wx, wy, z = f[p, PX] - cx, f[p, PY] - cy, f[p, PZ] - cz
    x, y = c * wx + s * wy, -s * wx + c * wy  # the primitive seen from the cell
    pc, ps = f[p, COS] * c + f[p, SIN] * s, f[p, SIN] * c - f[p, COS] * s
    if kind == BOX:
        low, high = max(-hz, z - f[p, C]), min(hz, z + f[p, C])
        if low > high:
            return False
        # Faces lean one way, so the sections are nested and the largest one decides.
        w0, w1 = low - z + f[p, C], high - z + f[p, C]
        front = f[p, A] - min(f[p, K0] * w0, f[p, K0] * w1)
        back = f[p, A] - min(f[p, K1] * w0, f[p, K1] * w1)
        side = f[p, B] - min(f[p, K2] * w0, f[p, K2] * w1)
        shift = 0.5 * (front - back)
        return _rectangles_overlap(x + pc * shift, y + ps * shift, pc, ps, 0.5 * (front + back), side, hx, hy)
    if kind == CONE:
        low, high = max(-hz, z - f[p, C]), min(hz, z + f[p, C])
        if low > high:
            return False
        k = (f[p, B] - f[p, A]) / (2.0 * f[p, C])
        radius = 0.5 * (f[p, A] + f[p, B]) + max(k * (low - z), k * (high - z))
        ex, ey = x - clamp(x, -hx, hx), y - clamp(y, -hy, hy)
        return ex * ex + ey * ey <= radius * radius
    if kind == ELLIPSOID:
        qz = (z - clamp(z, -hz, hz)) / f[p, C]
        # Minimise the quadratic form over the cell's rectangle by coordinate descent; it converges in a few rounds.
        ia, ib = 1.0 / f[p, A] ** 2, 1.0 / f[p, B] ** 2
        mxx, myy, mxy = pc * pc * ia + ps * ps * ib, ps * ps * ia + pc * pc * ib, pc * ps * (ia - ib)
        u, v = clamp(x, -hx, hx), clamp(y, -hy, hy)
        for _ in range(6):
            u = clamp(x - mxy * (v - y) / mxx, -hx, hx)
            v = clamp(y - mxy * (u - x) / myy, -hy, hy)
        ex, ey = u - x, v - y
        return mxx * ex * ex + 2.0 * mxy * ex * ey + myy * ey * ey + qz * qz <= 1.0
    ax, ay, az = c * f[p, A] + s * f[p, B], -s * f[p, A] + c * f[p, B], f[p, C]
    if kind == CYLINDER:  # wheels: the box around them
        length = math.sqrt(ax * ax + ay * ay)
        if abs(z) > hz + f[p, K0]:
            return False
        return _rectangles_overlap(x + 0.5 * ax, y + 0.5 * ay, ax / length, ay / length, 0.5 * length, f[p, K0], hx, hy)
    aa = ax * ax + ay * ay + az * az
    h = 0.5
    distance = MISS
    for _ in range(12):  # alternate between the nearest point of the axis and of the cell: both sets are convex
        px, py, pz = x + h * ax, y + h * ay, z + h * az
        u, v, w = clamp(px, -hx, hx), clamp(py, -hy, hy), clamp(pz, -hz, hz)
        distance = (px - u) ** 2 + (py - v) ** 2 + (pz - w) ** 2
        if distance <= f[p, K0] * f[p, K0]:
            return True
        h = clamp(((u - x) * ax + (v - y) * ay + (w - z) * az) / aa, 0.0, 1.0)
    return distance <= f[p, K0] * f[p, K0]
