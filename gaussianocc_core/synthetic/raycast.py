# SPDX-License-Identifier: Apache-2.0
"""One cast tells everything about a ray: how far, which class, which colour. Images, depth, labels, lidar come from it.

`scene` holds the arrays, `trace` walks them, `shading` colours what is met; here are the loops over pixels.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float, UInt8

from gaussianocc_core.geometry import raymarch
from gaussianocc_core.kernels import cached_kernel, inner, run_in_threads
from gaussianocc_core.labels import FREE
from gaussianocc_core.synthetic import ground, intersect, materials, noise, patterns, shading, shapes, trace
from gaussianocc_core.synthetic import scene as scene_module
from gaussianocc_core.synthetic.scene import EXPOSURE, HORIZON_B, SUN_Z, ZENITH_R, Scene
from gaussianocc_core.synthetic.shading import shade
from gaussianocc_core.synthetic.shapes import FOLIAGE, MATERIAL
from gaussianocc_core.synthetic.trace import GROUND, SKY, cast

_BLIND = -1000  # identity of a pixel whose lens sees nothing
_SOURCES = (raymarch, ground, intersect, materials, noise, patterns, scene_module, shading, shapes, trace)


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
def _render_rows(scene, origin, directions, first, last, smoothing, ray_length, label, color, identity):
    """One ray per pixel of some rows; when `smoothing` is 1, three more where `identity` shows an outline or shadow;
    when it is 2, three more everywhere.

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
            if smoothing == 1 and (identity[row, column] == _BLIND or not _is_edge(identity, row, column)):
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
            if smoothing > 0:  # the ray through the centre counts, too
                red, green, blue = color[row, column, 0], color[row, column, 1], color[row, column, 2]
            for k in range(3 if smoothing > 0 else 1):
                dx, dy, dz = x, y, z
                if smoothing > 0:  # a triangle of rays around the centre
                    u = cs * (-0.36 if k == 0 else (0.28 if k == 1 else 0.08))
                    v = rs * (-0.10 if k == 0 else (-0.28 if k == 1 else 0.38))
                    dx, dy, dz = x + u * cx + v * rx, y + u * cy + v * ry, z + u * cz + v * rz
                    norm = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
                    dx, dy, dz = dx * norm, dy * norm, dz * norm
                t, p, kerb = cast(scene, ox, oy, oz, dx, dy, dz, footprint)
                a, b, c_, what, lit = shade(scene, ox, oy, oz, dx, dy, dz, t, p, kerb, footprint)
                red, green, blue = red + a, green + b, blue + c_
                if smoothing == 0:
                    label[row, column] = what
                    ray_length[row, column] = t if p != SKY else np.inf
                    part = p
                    if p == GROUND:
                        part = -10 - what - 100 * int(kerb)
                    elif p >= 0 and scene[1][p, MATERIAL] == FOLIAGE:
                        part = -5  # leaf against leaf is texture, not an outline
                    identity[row, column] = 2 * part + int(lit > 0.0)
            share = 0.25 if smoothing > 0 else 1.0
            color[row, column, 0], color[row, column, 1], color[row, column, 2] = (
                red * share,
                green * share,
                blue * share,
            )


_ROWS = 8  # per task


def render(
    scene: Scene,
    origin: Float[np.ndarray, " 3"],
    directions: Float[np.ndarray, "H W 3"],
    smooth: int = 1,
) -> tuple[Float[np.ndarray, "H W 3"], Float[np.ndarray, "H W"], UInt8[np.ndarray, "H W"]]:
    """Colour 0-255, ray length (m, inf in the sky) and Occ3D class (17 in the sky) of an image.

    `directions` are unit vectors in the world frame, NaN where the lens sees nothing. `smooth` 1 supersamples
    outlines, 2 everything.
    """
    height, width = directions.shape[:2]
    ray_length = np.full((height, width), np.inf, dtype=np.float64)
    label = np.full((height, width), FREE, dtype=np.uint8)
    color = np.zeros((height, width, 3), dtype=np.float32)
    identity = np.zeros((height, width), dtype=np.int32)
    directions = np.ascontiguousarray(directions, dtype=np.float64)
    origin = np.ascontiguousarray(origin, dtype=np.float64)
    arguments = scene.arguments

    def rows(first: int, smoothing: int) -> None:
        last = min(first + _ROWS, height)
        _render_rows(arguments, origin, directions, first, last, smoothing, ray_length, label, color, identity)

    for smoothing in (0, smooth) if smooth else (0,):  # the second pass looks at what the first one met
        for _ in run_in_threads(rows, [(first, smoothing) for first in range(0, height, _ROWS)]):
            pass
    return color, ray_length, label


def scan(
    scene: Scene, origin: Float[np.ndarray, " 3"], directions: Float[np.ndarray, "H W 3"]
) -> tuple[Float[np.ndarray, "H W"], UInt8[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
    """Ray length (m, inf without a return), Occ3D class and reflected intensity 0-255 of a lidar's rays (world frame).

    A lidar brings its own light: the same picture, taken at night under an even glow.
    """
    light = np.zeros_like(scene.light)
    light[SUN_Z] = -1.0
    light[ZENITH_R : HORIZON_B + 1] = 1.0
    light[EXPOSURE] = 1.0
    color, ray_length, label = render(replace(scene, light=light), origin, directions, smooth=0)
    return ray_length, label, color.mean(axis=-1)
