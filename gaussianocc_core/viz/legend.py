# SPDX-License-Identifier: Apache-2.0
"""What the colours of a picture mean: classes, and bars for depth and its error."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

from gaussianocc_core.labels import CLASS_ID, CLASS_NAMES, FREE, PALETTE, has_one_class
from gaussianocc_core.types import VoxelGrid
from gaussianocc_core.viz.colors import height_colors
from gaussianocc_core.viz.text import Label, text_width

PAGE, PANEL = (13, 16, 22), (22, 27, 36)
TEXT, MUTED, ACCENT, WARNING = (236, 240, 245), (139, 150, 166), (120, 190, 255), (255, 184, 77)


def class_legend(canvas: UInt8[np.ndarray, "H W 3"], labels: list[Label], unit: float | int, margin: int) -> int:
    """Draw the classes and their colours at the foot of the page, in as many rows as they need; return its height.

    unit: pixels per pixel of a 1080-line picture. Texts are added to `labels`, to be drawn with the others.
    """
    size, swatch, space, line = (round(length * unit) for length in (15, 15, 26, 26))
    rows: list[list[tuple[int, int]]] = [[]]  # (class id, width) by row
    used = 0
    room = canvas.shape[1] - 2 * margin
    for class_id, name in enumerate(CLASS_NAMES[:FREE]):
        wide = swatch + round(7 * unit) + text_width(name.replace("_", " "), size) + space
        if used + wide > room:
            rows.append([])
            used = 0
        rows[-1].append((class_id, wide))
        used += wide
    high = line * len(rows)
    for i, row in enumerate(rows):
        y = canvas.shape[0] - margin - high + i * line + (line - swatch) // 2
        x = margin
        for class_id, wide in row:
            canvas[y : y + swatch, x : x + swatch] = PALETTE[class_id]
            name = CLASS_NAMES[class_id].replace("_", " ")
            labels.append(Label(name, x + swatch + round(7 * unit), y, size, MUTED))
            x += wide
    return high


def height_legend(
    canvas: UInt8[np.ndarray, "H W 3"], labels: list[Label], unit: float | int, margin: int, grid: VoxelGrid
) -> int:
    """As `class_legend`, of a model without classes: its voxels are coloured by height."""
    high, size = round(26 * unit), round(15 * unit)
    y = canvas.shape[0] - margin - high
    title = "occupied, by height"
    labels.append(Label(title, margin, y + round(5 * unit), size, MUTED))
    wide = round(240 * unit)
    ends = (f"{grid.origin[2]:g} m", f"{grid.upper[2]:g} m")
    right = margin + text_width(title, size) + round(90 * unit) + wide + text_width(ends[1], size)
    color_bar(canvas, labels, height_colors(wide), ends, right, y + round(3 * unit), unit)
    return high


def color_bar(
    canvas: UInt8[np.ndarray, "H W 3"],
    labels: list[Label],
    colors: UInt8[np.ndarray, "n 3"],
    ends: tuple[str, str],
    right: int,
    y: int,
    unit: float | int,
) -> None:
    """A small bar of these colours, from left to right, between two texts; its right text ends at x = `right`."""
    size, high = round(15 * unit), round(11 * unit)
    left_text, right_text = ends
    end = right - text_width(right_text, size) - round(8 * unit)
    top = y + round(5 * unit)
    canvas[top : top + high, end - len(colors) : end] = colors
    labels.append(Label(right_text, right, y + round(2 * unit), size, MUTED, align="right"))
    left = end - len(colors) - round(8 * unit)
    labels.append(Label(left_text, left, y + round(2 * unit), size, MUTED, align="right"))


def draw_legend(class_names: Sequence[str], grid: VoxelGrid) -> UInt8[np.ndarray, "H W 3"]:
    """A column of the classes of a model and their colours, without free; of a model with one class, of heights from
    the grid's top to its floor. Without Pillow, which a robot may not have."""
    names = [name.replace("_", " ") for name in class_names[:-1]]
    colors = [PALETTE[CLASS_ID.get(name, i % len(PALETTE))] for i, name in enumerate(class_names[:-1])]
    if has_one_class(class_names):
        shares = np.linspace(1.0, 0.0, 9)
        names = [f"{grid.origin[2] + share * (grid.upper[2] - grid.origin[2]):.1f} m" for share in shares]
        colors = list(height_colors(256)[(255 * shares).astype(int)])
    line = 22
    picture = np.full((line * len(names) + 8, 220, 3), PANEL, np.uint8)
    for i, (name, color) in enumerate(zip(names, colors, strict=True)):
        y = 4 + i * line
        picture[y + 3 : y + line - 3, 8:32] = color
        cv2.putText(picture, name, (42, y + line - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, TEXT, 1, cv2.LINE_AA)
    return picture
