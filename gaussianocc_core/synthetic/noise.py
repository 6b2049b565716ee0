# SPDX-License-Identifier: Apache-2.0
"""Seeded, band-limited noise and patterns for the kernels.

`footprint` is the size of a pixel on the surface in metres: an octave fades out before its lattice becomes finer
than the pixel, so a photometric loss never sees aliasing that a real lens would have blurred away.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_MASK = 0xFFFFFFFF
# Looked up instead of hashed: half the time of a noise call. 64 kB stay in the cache.
_LATTICE = np.random.default_rng(20240822).uniform(-1.0, 1.0, (128, 128)).astype(np.float32)


@njit
def hash01(i, j, seed):
    """Uniform [0, 1) value of an integer pair."""
    h = (i * 374761393 + j * 668265263 + seed * 1442695041) & _MASK
    h = ((h ^ (h >> 13)) * 1274126177) & _MASK
    h = ((h ^ (h >> 15)) * 739846561) & _MASK
    return (h ^ (h >> 16)) * (1.0 / 4294967296.0)


@njit
def clamp(x, low, high):
    return low if x < low else (high if x > high else x)


@njit
def mix(a, b, t):
    return a + (b - a) * t


@njit
def smoothstep(low, high, x):
    t = clamp((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


@njit
def noise2(x, y, seed):
    """Value noise in [-1, 1] on a unit lattice that repeats after 128 cells."""
    fx, fy = math.floor(x), math.floor(y)
    i, j = int(fx) + seed * 37, int(fy) + seed * 59
    u, v = x - fx, y - fy
    u, v = u * u * (3.0 - 2.0 * u), v * v * (3.0 - 2.0 * v)
    i0, i1, j0, j1 = i & 127, (i + 1) & 127, j & 127, (j + 1) & 127
    low = mix(_LATTICE[j0, i0], _LATTICE[j0, i1], u)
    high = mix(_LATTICE[j1, i0], _LATTICE[j1, i1], u)
    return mix(low, high, v)


@njit
def noise3(x, y, z, seed):
    """Value noise in [-1, 1] on a unit lattice."""
    fz = math.floor(z)
    k = int(fz)
    w = z - fz
    w = w * w * (3.0 - 2.0 * w)
    return mix(noise2(x, y, seed + k * 7919), noise2(x, y, seed + (k + 1) * 7919), w)


@njit
def fade(footprint, period):
    """Weight of an octave: 1 while a pixel is under a third of the lattice, 0 from nine tenths on."""
    return clamp((0.9 - footprint / period) / 0.57, 0.0, 1.0)


@njit
def octave2(x, y, period, footprint, seed):
    weight = fade(footprint, period)
    if weight <= 0.0:
        return 0.0
    return weight * noise2(x / period, y / period, seed)


@njit
def octave3(x, y, z, period, footprint, seed):
    weight = fade(footprint, period)
    if weight <= 0.0:
        return 0.0
    return weight * noise3(x / period, y / period, z / period, seed)


@njit
def stretched2(x, y, ax, ay, length, period, footprint, seed):
    """Octave seen at a grazing angle: averaged over up to four taps along the unit direction (ax, ay)."""
    weight = fade(footprint, period)
    if weight <= 0.0:
        return 0.0
    ratio = length / period
    taps = int(ratio) + 1
    if taps > 4:  # what four taps cannot average is faded instead
        taps = 4
        weight *= clamp((14.0 - ratio) / 10.0, 0.0, 1.0)
        if weight <= 0.0:
            return 0.0
    total = 0.0
    for k in range(taps):
        offset = ((k + 0.5) / taps - 0.5) * length
        total += noise2((x + ax * offset) / period, (y + ay * offset) / period, seed)
    return weight * total / taps


@njit
def band(x, low, high, width):
    """Share of a pixel of this width that lies in [low, high]."""
    half = 0.5 * max(width, 1e-4)
    return clamp((min(x + half, high) - max(x - half, low)) / (2.0 * half), 0.0, 1.0)


@njit
def _pulse_integral(x, duty):
    whole = math.floor(x)
    return whole * duty + min(x - whole, duty)


@njit
def pulse(x, duty, width):
    """Box-filtered pulse train of period 1 that is on for x - floor(x) < duty."""
    half = 0.5 * max(width, 1e-4)
    return (_pulse_integral(x + half, duty) - _pulse_integral(x - half, duty)) / (2.0 * half)
