# SPDX-License-Identifier: Apache-2.0
"""One evaluated keyframe: a row per camera with image, depth and what is wrong with it; occupancy beside the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from gaussianocc_core.types import VoxelGrid
from gaussianocc_core.viz.colors import colorize_depth, colorize_error
from gaussianocc_core.viz.legend import MUTED, PAGE, PANEL, TEXT, class_legend, color_bar, height_legend
from gaussianocc_core.viz.mosaic import fit
from gaussianocc_core.viz.scene import occupancy_view, top_view
from gaussianocc_core.viz.text import Label, draw_labels

CELL_WIDTH, GAP, MARGIN, TOP, CAPTION = 320, 8, 24, 84, 34  # px
VIEW_WIDTH, LEAST_VIEW_HEIGHT, PIXELS_PER_VOXEL = 640, 330, 2
DEPTH_RANGE = (1.0, 60.0)  # m, of the colours
ERROR_LIMIT = 0.5  # of the true depth


@dataclass(frozen=True)
class KeyframePicture:
    """Images are addressed by camera name and show the same view, at any size; absent panels are left out."""

    images: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]  # RGB; their order is that of the rows
    depths: Mapping[str, Float[np.ndarray, "_ _"]] = field(default_factory=dict)  # estimated z-depth, m
    true_depths: Mapping[str, Float[np.ndarray, "_ _"]] = field(default_factory=dict)  # m, 0 where unknown
    captions: Mapping[str, str] = field(default_factory=dict)  # by camera, on the error
    depth_title: str = "estimated depth"
    prediction: UInt8[np.ndarray, "X Y Z"] | None = None
    truth: UInt8[np.ndarray, "X Y Z"] | None = None
    grid: VoxelGrid = field(default_factory=VoxelGrid)
    title: str = ""
    subtitle: str = ""
    classless: bool = False  # the model says that something is there, not what: voxels are coloured by height


def compose_keyframe(picture: KeyframePicture) -> UInt8[np.ndarray, "H W 3"]:
    """RGB. Depth near red, far blue; error (estimate - truth) / truth, blue too near, red too far."""
    columns = _columns(picture)
    cell_height = round(CELL_WIDTH * _aspect(picture))
    rows_height = len(picture.images) * (cell_height + GAP)
    views = [
        (name, labels)
        for name, labels in (("predicted occupancy", picture.prediction), ("true occupancy", picture.truth))
        if labels is not None
    ]
    top_width = picture.grid.shape[1] * PIXELS_PER_VOXEL
    width = 2 * MARGIN + len(columns) * (CELL_WIDTH + GAP)
    bottom = 0
    if views:
        width += MARGIN + VIEW_WIDTH + GAP + top_width
        rows_height = max(rows_height, len(views) * (LEAST_VIEW_HEIGHT + CAPTION))
        bottom = 2 * CAPTION
    canvas = np.empty((TOP + CAPTION + rows_height + bottom + MARGIN, width, 3), dtype=np.uint8)
    canvas[:] = PAGE
    labels = [Label(picture.title, MARGIN, 18, 26, TEXT), Label(picture.subtitle, MARGIN, 52, 17, MUTED)]
    for i, (title, cells) in enumerate(columns.items()):
        x = MARGIN + i * (CELL_WIDTH + GAP)
        labels.append(Label(title, x, TOP + 8, 17, TEXT))
        _bar(canvas, labels, title, x + CELL_WIDTH, TOP + 6)
        for j, (camera, image) in enumerate(cells.items()):
            y = TOP + CAPTION + j * (cell_height + GAP)
            canvas[y : y + cell_height, x : x + CELL_WIDTH] = PANEL
            high, wide = fit(picture.images[camera], CELL_WIDTH, cell_height).shape[:2]  # all show the same view
            shrinks = cv2.INTER_AREA if image.shape[1] > wide else cv2.INTER_LINEAR
            canvas[y : y + high, x : x + wide] = cv2.resize(
                image, (wide, high), interpolation=shrinks if title == _IMAGE else cv2.INTER_NEAREST
            )
            text = camera if i == 0 else picture.captions.get(camera, "") if title == _ERROR else ""
            if text:
                labels.append(Label(text, x + 8, y + 7, 15, TEXT, plate=True))
    x = 2 * MARGIN + len(columns) * (CELL_WIDTH + GAP)
    for i, (name, occupancy) in enumerate(views):
        high = rows_height // len(views)
        y = TOP + i * high
        left = x + VIEW_WIDTH + GAP
        labels += [
            Label(name, x, y + 8, 17, TEXT),
            Label("from above, forward up; light: seen to be free", left, y + 8, 17, TEXT),
        ]
        y += CAPTION
        canvas[y : y + high - CAPTION, x : x + VIEW_WIDTH] = occupancy_view(
            occupancy, picture.grid, VIEW_WIDTH, high - CAPTION, by_height=picture.classless
        )
        above = top_view(occupancy, picture.grid, PIXELS_PER_VOXEL, by_height=picture.classless)
        above = fit(above, top_width, high - CAPTION, nearest=True)
        canvas[y : y + above.shape[0], left : left + above.shape[1]] = above
    if views and picture.classless:
        height_legend(canvas, labels, 1.0, MARGIN, picture.grid)
    elif views:
        class_legend(canvas, labels, 1.0, MARGIN)
    return draw_labels(canvas, labels)


_IMAGE, _TRUE, _ERROR = "camera", "true depth", "error"


def _columns(picture: KeyframePicture) -> dict[str, dict[str, np.ndarray]]:
    """Title -> RGB by camera."""
    columns: dict[str, dict[str, np.ndarray]] = {_IMAGE: dict(picture.images)}
    if picture.depths:
        columns[picture.depth_title] = {name: colorize_depth(d, *DEPTH_RANGE) for name, d in picture.depths.items()}
    if picture.true_depths:
        columns[_TRUE] = {name: colorize_depth(d, *DEPTH_RANGE) for name, d in picture.true_depths.items()}
    if picture.depths and picture.true_depths:
        columns[_ERROR] = {
            name: colorize_error(_relative_error(picture.depths[name], truth), ERROR_LIMIT)
            for name, truth in picture.true_depths.items()
        }
    return columns


def _relative_error(depth: np.ndarray, truth: np.ndarray) -> Float[np.ndarray, "H W"]:
    """(estimate - truth) / truth at the truth's size; NaN without truth."""
    resized = cv2.resize(depth, truth.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.where(truth > 0, resized / np.where(truth > 0, truth, 1.0) - 1.0, np.nan).astype(np.float32)


def _aspect(picture: KeyframePicture) -> float:
    """Height / width of a row's cells: that of the tallest image."""
    return max(image.shape[0] / image.shape[1] for image in picture.images.values())


def _bar(canvas: np.ndarray, labels: list[Label], title: str, right: int, y: int) -> None:
    """The colour bar that belongs to a column, if any."""
    if title == _IMAGE:
        return
    if title == _ERROR:
        colors = colorize_error(np.linspace(-ERROR_LIMIT, ERROR_LIMIT, 90)[None], ERROR_LIMIT)[0]
        ends = (f"near {-100 * ERROR_LIMIT:.0f} %", f"far +{100 * ERROR_LIMIT:.0f} %")
    else:
        colors = colorize_depth(np.geomspace(*DEPTH_RANGE, 70)[None], *DEPTH_RANGE)[0]
        ends = (f"{DEPTH_RANGE[0]:g} m", f"{DEPTH_RANGE[1]:g} m")
    color_bar(canvas, labels, colors, ends, right, y, 1.0)
