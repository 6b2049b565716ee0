# SPDX-License-Identifier: Apache-2.0
"""One picture of a bag: what each camera recorded, what the network gets of it, where views and lidar meet."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from gaussianocc_core.data.bag import BagEntry, BagSource
from gaussianocc_core.data.bag_lidar import lidar_depths, lidar_topics
from gaussianocc_core.geometry.overlap import overlap_masks
from gaussianocc_core.geometry.rectify import DEFAULT_FISHEYE_FOV_DEG
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.viz.colors import colorize_depth, overlay
from gaussianocc_core.viz.mosaic import fit
from gaussianocc_core.viz.text import Label, draw_labels

_CELL = (420, 240)  # px
_GAP, _HEAD = 8, 30
_SHARED_RGB = (60, 220, 120)
_LOST_RGB = (200, 40, 40)
_TITLES = ("recorded", "rectified; green: shared, red: no source or the robot", "lidar, near red")


def inspection_picture(
    source: BagSource, entry: BagEntry, fisheye_fov_deg: float = DEFAULT_FISHEYE_FOV_DEG
) -> UInt8[np.ndarray, "H W 3"]:
    """A row per camera of one sample; the lidar column only where there is one."""
    sample = entry.load()
    topics = lidar_topics(source)
    large = Preprocessor(*_CELL, fisheye_fov_deg)(entry.cameras, sample.static_masks)
    images, valid = large.rectify(sample.images), large.valid_mask
    views = large.views(entry.cameras.T_ego_cam)
    shared = overlap_masks(views).any(dim=1).numpy()
    depths = lidar_depths(source, topics[0], entry, views) if topics else None
    columns = 3 if depths is not None else 2
    canvas = np.full(
        (_HEAD + len(images) * (_CELL[1] + _GAP), columns * (_CELL[0] + _GAP), 3), (13, 16, 22), dtype=np.uint8
    )
    labels = [Label(title, c * (_CELL[0] + _GAP), 6, 15) for c, title in enumerate(_TITLES[:columns])]
    for i, name in enumerate(entry.cameras.names):
        cells = [fit(sample.images[i], *_CELL), _shade(images[i], shared[i], valid[i])]
        if depths is not None:
            cells.append(_dots(images[i], depths[i]))
        top = _HEAD + i * (_CELL[1] + _GAP)
        for c, cell in enumerate(cells):
            left = c * (_CELL[0] + _GAP)
            canvas[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
        labels.append(Label(name, 8, top + 8, 18, plate=True))
    return draw_labels(canvas, labels)


def _shade(
    image: UInt8[np.ndarray, "H W 3"], shared: Bool[np.ndarray, "H W"], valid: Bool[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W 3"]:
    colors = np.where((shared & valid)[..., None], np.array(_SHARED_RGB), np.array(_LOST_RGB)).astype(np.uint8)
    strength = np.where(valid, 0.30 * shared, 0.75).astype(np.float32)
    return overlay(image, colors, strength)


def _dots(image: UInt8[np.ndarray, "H W 3"], points: Float[np.ndarray, "P 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Each lidar point as a dot in the colour of its depth, far ones first."""
    picture = (image * 0.6).astype(np.uint8)
    if not len(points):
        return picture
    points = points[np.argsort(-points[:, 2])]
    colors = colorize_depth(points[:, 2:])[:, 0]
    for (column, row, _), color in zip(points, colors.tolist(), strict=True):
        cv2.circle(picture, (int(column), int(row)), 1, color, -1, cv2.LINE_AA)
    return picture
