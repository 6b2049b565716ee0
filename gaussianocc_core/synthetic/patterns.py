# SPDX-License-Identifier: Apache-2.0
"""Textures of any kind for the kernels: from nearly blank to high-frequency, band-limited like everything else."""

from __future__ import annotations

import math

from gaussianocc_core.kernels import inner
from gaussianocc_core.synthetic.noise import band, clamp, fade, hash01, mix, noise2, octave2, pulse, smoothstep

from gaussianocc_core.synthetic.textures import (  # isort: skip
    BLANK,
    BRICKS,
    CELLS,
    CHECKER,
    COBBLES,
    CORRUGATED,
    DOTS,
    GRIME,
    GROUT,
    HAZARD,
    PLANKS,
    PRINT,
    SPECKLE,
    STRIPE,
)


@inner
def pattern(style, u, v, scale, fp, seed):
    """Relative change of brightness (about -1 to 1) and share of a second colour (0 to 1) at (u, v) metres.

    `scale` is the size of a pattern's element, `fp` of a pixel on the surface, both in metres.
    """
    tone, blend = 0.0, 0.0
    if style == BLANK:
        tone = 0.25 * noise2(u / (9.0 * scale), v / (9.0 * scale), seed)
    elif style == SPECKLE:
        tone = 0.75 * octave2(u, v, 0.3 * scale, fp, seed) + 0.5 * octave2(u, v, scale, fp, seed + 1)
        tone += 0.3 * octave2(u, v, 5.0 * scale, fp, seed + 2)
        blend = smoothstep(0.1, 0.7, octave2(u, v, 2.2 * scale, fp, seed + 3))
    elif style == CHECKER:
        a, b = pulse(0.5 * u / scale, 0.5, 0.5 * fp / scale), pulse(0.5 * v / scale, 0.5, 0.5 * fp / scale)
        blend = a * b + (1.0 - a) * (1.0 - b)
    elif style == STRIPE:
        x = u if seed & 1 else v
        blend = pulse(x / scale, 0.25 + 0.5 * hash01(1, 2, seed), fp / scale)
        blend = max(blend, 0.7 * pulse(x / (3.7 * scale), 0.12, fp / (3.7 * scale)))
    elif style == BRICKS:
        row = math.floor(v / (0.45 * scale))
        x = u / scale + 0.5 * (int(row) & 1)
        tone = 0.9 * (hash01(int(math.floor(x)), int(row), seed) - 0.5) * fade(fp, 0.45 * scale)
        blend = max(pulse(x, 0.07, fp / scale), pulse(v / (0.45 * scale), 0.14, fp / (0.45 * scale)))
    elif style == CELLS:
        i, j = int(math.floor(u / scale)), int(math.floor(v / scale))
        weight = fade(fp, scale)
        tone = 1.4 * (hash01(i, j, seed) - 0.5) * weight
        blend = mix(0.4, 1.0 if hash01(i, j, seed + 1) < 0.4 else 0.0, weight)
    elif style == PRINT:  # lines of words between margins
        row = math.floor(v / scale)
        letter = math.floor(u / (0.45 * scale))
        word = 1.0 if hash01(int(math.floor(u / (2.7 * scale))), int(row), seed) < 0.72 else 0.0
        ink = 1.0 if hash01(int(letter), int(row), seed + 1) < 0.85 else 0.35
        weight = fade(fp, 0.45 * scale)
        body = band(v / scale - row, 0.18, 0.62 + 0.25 * hash01(int(letter), int(row), seed + 2), fp / scale)
        blend = mix(0.3, word * ink, weight) * body * pulse(u / (0.45 * scale), 0.7, fp / (0.45 * scale))
    elif style == PLANKS:
        board = math.floor(v / scale)
        tone = 0.5 * (hash01(int(board), 3, seed) - 0.5) * fade(fp, scale)
        tone += 0.35 * fade(fp, 0.12 * scale) * noise2(u / (1.8 * scale), v / (0.12 * scale), seed + 1)
        tone += 0.2 * fade(fp, 0.5 * scale) * noise2(u / (9.0 * scale), v / (0.5 * scale), seed + 2)
        tone -= 0.7 * pulse(v / scale, 0.06, fp / scale)
        end = u / (14.0 * scale) + hash01(int(board), 4, seed)
        tone -= 0.5 * pulse(end, 0.01, fp / (14.0 * scale))
    elif style == GRIME:
        tone = 0.55 * octave2(u, v, 6.0 * scale, fp, seed) + 0.35 * octave2(u, v, 2.0 * scale, fp, seed + 1)
        tone += 0.25 * octave2(u, v, 0.6 * scale, fp, seed + 2)
        tone -= 0.5 * max(0.0, fade(fp, 0.8 * scale) * noise2(u / (0.8 * scale), v / (14.0 * scale), seed + 3))
        blend = 0.7 * smoothstep(0.2, 0.5, octave2(u, v, 3.3 * scale, fp, seed + 4))
    elif style == DOTS:
        x, y = u / scale, v / scale
        j = math.floor(y)
        x += 0.5 * (int(j) & 1)
        r = math.sqrt((x - math.floor(x) - 0.5) ** 2 + (y - j - 0.5) ** 2)
        blend = mix(0.28, band(r, -1.0, 0.30, fp / scale), fade(fp, scale))
    elif style == CORRUGATED:
        tone = 0.45 * math.sin(2.0 * math.pi * u / scale) * fade(fp, 0.5 * scale)
        tone += 0.2 * octave2(u, v, 1.3 * scale, fp, seed) - 0.2 * max(0.0, noise2(u / scale, v / 3.0, seed + 1))
    elif style == HAZARD:
        blend = pulse((u + v) / (2.0 * scale), 0.5, 1.41 * fp / (2.0 * scale))
        tone = 0.2 * octave2(u, v, scale, fp, seed)
    elif style == COBBLES:
        j = math.floor(v / scale)
        x = u / scale + hash01(int(j), 5, seed)
        i = math.floor(x)
        a, b = x - i - 0.5, v / scale - j - 0.5
        weight = fade(fp, scale)
        tone = weight * (0.8 * (hash01(int(i), int(j), seed) - 0.5) + 0.35 - 2.6 * (a * a + b * b))
        tone += 0.25 * octave2(u, v, 0.25 * scale, fp, seed + 1)
    elif style == GROUT:
        blend = max(pulse(u / scale, 0.05, fp / scale), pulse(v / scale, 0.05, fp / scale))
        tile = hash01(int(math.floor(u / scale)), int(math.floor(v / scale)), seed) - 0.5
        tone = 0.35 * tile * fade(fp, scale) + 0.12 * octave2(u, v, 0.3 * scale, fp, seed + 1)
    else:  # a picture without meaning: cells of three sizes over each other
        for k in range(3):
            size = scale * (4.0 if k == 0 else (1.7 if k == 1 else 0.6))
            i, j = int(math.floor(u / size + 0.3 * k)), int(math.floor(v / size + 0.6 * k))
            if hash01(i, j, seed + 10 * k) < 0.45:
                weight = fade(fp, size)
                tone = mix(tone, 1.6 * (hash01(i, j, seed + 10 * k + 1) - 0.5), weight)
                blend = mix(blend, hash01(i, j, seed + 10 * k + 2), weight)
    return clamp(tone, -0.95, 1.5), clamp(blend, 0.0, 1.0)


@inner
def second_color(r, g, b, seed):
    """What a pattern mixes with its base: a random hue, or a darker or lighter base."""
    kind = hash01(7, 1, seed)
    if kind < 0.35:
        return 0.25 * r, 0.25 * g, 0.25 * b
    if kind < 0.6:
        return min(0.8, 2.2 * r + 0.08), min(0.8, 2.2 * g + 0.08), min(0.8, 2.2 * b + 0.08)
    return 0.04 + 0.6 * hash01(7, 2, seed), 0.04 + 0.6 * hash01(7, 3, seed), 0.04 + 0.6 * hash01(7, 4, seed)
