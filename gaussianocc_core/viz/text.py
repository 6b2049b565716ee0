# SPDX-License-Identifier: Apache-2.0
"""Text on pictures, in the typeface that Pillow carries: the same on every machine, no font files to find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True)
class Label:
    """One line of text; x, y is its upper left corner, or upper right with align "right", pixels."""

    text: str
    x: int
    y: int
    size: int  # px
    color: tuple[int, int, int] = (236, 240, 245)
    align: str = "left"
    plate: bool = False  # a dark translucent plate behind it, for text on images


@lru_cache(maxsize=64)
def font(size: int) -> Any:
    """Pillow's own typeface (Aileron), `size` pixels high."""
    from PIL import ImageFont  # here: only pictures with text need Pillow

    return ImageFont.load_default(size)


def text_width(text: str, size: int) -> int:
    """Pixels that the text takes from left to right."""
    return int(np.ceil(font(size).getlength(text)))


def draw_labels(image: UInt8[np.ndarray, "H W 3"], labels: Sequence[Label]) -> UInt8[np.ndarray, "H W 3"]:
    """The image with all labels on it."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    for label in labels:
        x = label.x - (text_width(label.text, label.size) if label.align == "right" else 0)
        if label.plate:
            pad = label.size // 3
            box = draw.textbbox((x, label.y), label.text, font(label.size))
            box = (box[0] - pad, box[1] - pad, box[2] + pad, box[3] + pad)
            shade = Image.new("RGB", (round(box[2] - box[0]), round(box[3] - box[1])), (8, 10, 14))
            picture.paste(shade, (round(box[0]), round(box[1])), Image.new("L", shade.size, 150))
        draw.text((x, label.y), label.text, label.color, font(label.size))
    return np.array(picture)
