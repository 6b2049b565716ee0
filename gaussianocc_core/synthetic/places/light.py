# SPDX-License-Identifier: Apache-2.0
"""Light at random: clear days with the sun anywhere, overcast ones, dusk, night under lamps."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from gaussianocc_core.synthetic import scene

_MOODS = ("clear", "hazy", "overcast", "dusk", "night")


def draw_daylight(
    rng: np.random.Generator, seed: int, mood: str | None = None
) -> tuple[Float[np.ndarray, " 16"], float]:
    """The light vector (see scene.py) of outdoor light, and how dark it is: 0 day to 1 night."""
    mood = str(rng.choice(_MOODS, p=[0.45, 0.12, 0.23, 0.12, 0.08])) if mood is None else mood
    e = np.zeros(16)
    azimuth = float(rng.uniform(-math.pi, math.pi))
    lowest, highest = {"dusk": (3.0, 15.0), "night": (45.0, 85.0)}.get(mood, (12.0, 75.0))
    elevation = math.radians(float(rng.uniform(lowest, highest)))
    e[scene.SUN_X : scene.SUN_Z + 1] = (
        math.cos(elevation) * math.cos(azimuth),
        math.cos(elevation) * math.sin(azimuth),
        math.sin(elevation),
    )
    warm, dark = float(rng.uniform(0.0, 1.0)), 0.0
    if mood == "clear":
        sun, color = rng.uniform(2.3, 3.6), (1.0, 0.95 - 0.06 * warm, 0.86 - 0.18 * warm)
        zenith = np.array([0.26, 0.44, 0.80]) * rng.uniform(0.7, 1.2)
        horizon = np.array([0.86, 0.94, 1.02]) * rng.uniform(0.8, 1.1)
        clouds, haze, exposure = rng.uniform(0.0, 0.65), 1.0 / rng.uniform(300, 1500), 0.66
    elif mood == "hazy":
        sun, color = rng.uniform(1.0, 2.2), (1.0, 0.95, 0.86)
        zenith, horizon = np.array([0.62, 0.70, 0.82]), np.array([1.0, 1.0, 1.0]) * rng.uniform(0.85, 1.1)
        clouds, haze, exposure = rng.uniform(0.0, 0.3), 1.0 / rng.uniform(60, 220), 0.75
    elif mood == "overcast":
        sun, color = rng.uniform(0.0, 0.9), (1.0, 0.97, 0.93)
        zenith, horizon = np.array([0.80, 0.85, 0.92]) * rng.uniform(0.6, 1.1), np.array([1.05, 1.07, 1.10])
        clouds, haze, exposure = rng.uniform(0.6, 0.9), 1.0 / rng.uniform(150, 1000), 0.95
    elif mood == "dusk":
        dark = float(rng.uniform(0.2, 0.6))
        sun, color = rng.uniform(0.6, 1.6), (1.0, 0.70 - 0.15 * warm, 0.42 - 0.2 * warm)
        zenith = np.array([0.16, 0.20, 0.38]) * rng.uniform(0.6, 1.2)
        horizon = np.array([0.85, 0.52 + 0.1 * warm, 0.38]) * rng.uniform(0.6, 1.0)
        clouds, haze, exposure = rng.uniform(0.0, 0.6), 1.0 / rng.uniform(300, 900), 1.0
    else:  # the key light stands for lamps: from high up, warm, with shadows
        dark = 1.0
        sun, color = rng.uniform(0.15, 0.5), (1.0, 0.80 - 0.1 * warm, 0.55 - 0.2 * warm)
        zenith, horizon = np.array([0.015, 0.02, 0.04]), np.array([0.07, 0.065, 0.08]) * rng.uniform(0.6, 1.5)
        clouds, haze, exposure = 0.0, 1.0 / rng.uniform(200, 900), rng.uniform(0.8, 3.0)
    e[scene.SUN_R : scene.SUN_B + 1] = sun * np.array(color)
    e[scene.ZENITH_R : scene.ZENITH_B + 1], e[scene.HORIZON_R : scene.HORIZON_B + 1] = zenith, horizon
    e[scene.CLOUDS], e[scene.HAZE], e[scene.EXPOSURE] = clouds, haze, exposure * float(rng.uniform(0.8, 1.2))
    e[scene.SKY_SEED] = float(seed % 65521)
    return e, dark


def draw_lamplight(rng: np.random.Generator, seed: int) -> tuple[Float[np.ndarray, " 16"], float]:
    """The light of a hall: lamps above as one soft key light, walls and ceiling as the rest; bright to badly lit."""
    e = np.zeros(16)
    azimuth, elevation = float(rng.uniform(-math.pi, math.pi)), math.radians(float(rng.uniform(50.0, 88.0)))
    e[scene.SUN_X : scene.SUN_Z + 1] = (
        math.cos(elevation) * math.cos(azimuth),
        math.cos(elevation) * math.sin(azimuth),
        math.sin(elevation),
    )
    tint = np.array([(1.0, 0.97, 0.90), (0.92, 1.0, 0.97), (1.0, 0.86, 0.66)][rng.integers(3)])
    ambient = float(np.exp(rng.uniform(math.log(0.12), math.log(0.7))))
    e[scene.SUN_R : scene.SUN_B + 1] = rng.uniform(0.3, 1.6) * tint
    e[scene.ZENITH_R : scene.ZENITH_B + 1] = ambient * tint
    e[scene.HORIZON_R : scene.HORIZON_B + 1] = ambient * rng.uniform(0.8, 1.3) * tint
    e[scene.HAZE] = 1.0 / rng.uniform(400, 3000)
    # The camera adapts to part of the darkness.
    e[scene.EXPOSURE] = float(rng.uniform(0.8, 1.2)) * 0.9 / (0.35 + ambient) ** 0.6
    e[scene.SKY_SEED] = float(seed % 65521)
    return e, float(np.clip(0.6 - ambient, 0.0, 0.5))
