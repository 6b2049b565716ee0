# SPDX-License-Identifier: Apache-2.0
"""Self-occlusion masks to look at: image, how much it varies, and what is masked."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from gaussianocc_core.onboarding.masks import CameraMask
from gaussianocc_core.viz.colors import overlay
from gaussianocc_core.viz.legend import MUTED, PAGE, color_bar
from gaussianocc_core.viz.mosaic import fit
from gaussianocc_core.viz.text import Label, draw_labels

_CELL = (480, 300)  # px, the most
_GAP, _HEAD = 8, 34
_ROBOT_RGB = (235, 45, 60)
_LEAST, _MOST = 0.05, 2.0  # variation at the ends of the colours


def mask_review(masks: Sequence[CameraMask], threshold: float) -> UInt8[np.ndarray, "H W 3"]:
    """A row per camera. The line in the middle column is the threshold: what it encloses varies less."""
    rows = []
    for each in masks:
        image = fit(each.image, *_CELL)
        height, width = image.shape[:2]
        heat = _heat(cv2.resize(each.variation, (width, height), interpolation=cv2.INTER_LINEAR), threshold)
        robot = (cv2.resize(each.mask, (width, height), interpolation=cv2.INTER_NEAREST) == 0).astype(np.uint8)
        shade = overlay(image, np.full_like(image, _ROBOT_RGB), (0.6 * robot).astype(np.float32))
        edges, _ = cv2.findContours(robot, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(shade, edges, -1, (255, 255, 255), 1, cv2.LINE_AA)
        rows.append([image, heat, shade])
    height = _HEAD + sum(row[0].shape[0] + _GAP for row in rows)
    canvas = np.full((height, 3 * (_CELL[0] + _GAP), 3), PAGE, dtype=np.uint8)
    texts = [
        Label(title, c * (_CELL[0] + _GAP) + 6, 8, 15, MUTED)
        for c, title in enumerate(("image", "variation", "red: the robot, masked"))
    ]
    colors = _heat(np.geomspace(_LEAST, _MOST, 130, dtype=np.float32)[None], 0.0)[0]
    ends = (f"{_LEAST:g}", f"{_MOST:g} x typical; line: {threshold:g}")
    color_bar(canvas, texts, colors, ends, 2 * (_CELL[0] + _GAP) - 16, 6, 1)
    top = _HEAD
    for each, row in zip(masks, rows, strict=True):
        for c, cell in enumerate(row):
            left = c * (_CELL[0] + _GAP)
            canvas[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
        texts.append(Label(each.camera, 10, top + 10, 18, plate=True))
        found = f"{100 * each.robot_share:.1f} % robot" if each.robot_share else "no robot in view"
        texts.append(Label(found, 2 * (_CELL[0] + _GAP) + 10, top + 10, 18, plate=True))
        top += row[0].shape[0] + _GAP
    return draw_labels(canvas, texts)


def _heat(variation: Float[np.ndarray, "h w"], threshold: float) -> UInt8[np.ndarray, "h w 3"]:
    """RGB on a logarithmic scale, steady dark blue to varying red, with the outline of what is below the threshold."""
    place = np.log(np.clip(variation, _LEAST, _MOST) / _LEAST) / np.log(_MOST / _LEAST)
    colors = cv2.applyColorMap((255 * place).astype(np.uint8), cv2.COLORMAP_TURBO)
    image = cv2.cvtColor(colors, cv2.COLOR_BGR2RGB)
    edges, _ = cv2.findContours((variation < threshold).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, edges, -1, (255, 255, 255), 1, cv2.LINE_AA)
    return image
