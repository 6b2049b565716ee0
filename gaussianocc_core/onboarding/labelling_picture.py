# SPDX-License-Identifier: Apache-2.0
"""One picture of 2D labels: the images of a moment with their labels over them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from gaussianocc_core.labels import FREE, IGNORE
from gaussianocc_core.types import Cameras
from gaussianocc_core.viz.colors import colorize_labels, overlay
from gaussianocc_core.viz.legend import MUTED, PAGE, class_legend
from gaussianocc_core.viz.mosaic import camera_mosaic, surround_rows
from gaussianocc_core.viz.text import Label, draw_labels

_SKY_RGB = (110, 170, 235)  # the dark of free space would hide the sky's edge
_MARGIN, _LEGEND = 20, 80  # px


def label_picture(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    labels: Sequence[UInt8[np.ndarray, "_ _"]],
    cameras: Cameras,
    width: int = 1600,
) -> UInt8[np.ndarray, "H W 3"]:
    """labels: Occ3D ids; the image shows where there is none. The layout is that of the rig."""
    panels = {}
    for name, image, plane in zip(cameras.names, images, labels, strict=True):
        colors = colorize_labels(plane)
        colors[plane == FREE] = _SKY_RGB
        panels[name] = overlay(image, colors, np.where(plane == IGNORE, 0.0, 0.55).astype(np.float32))
    rows = surround_rows(cameras)
    cell_width = (width - 2 * _MARGIN) / max(len(row) for row in rows)
    high = round(len(rows) * cell_width * max(h / w for w, h in zip(cameras.width, cameras.height, strict=True)))
    canvas = np.full((high + _LEGEND + 2 * _MARGIN, width, 3), PAGE, dtype=np.uint8)
    canvas[_MARGIN : _MARGIN + high, _MARGIN : width - _MARGIN] = camera_mosaic(
        panels, cameras, width - 2 * _MARGIN, high, background=PAGE
    )
    texts: list[Label] = []
    class_legend(canvas, texts, 1, _MARGIN)
    texts.append(Label("light blue: sky; no colour: no label", _MARGIN, high + _MARGIN + 6, 15, MUTED))
    return draw_labels(canvas, texts)
