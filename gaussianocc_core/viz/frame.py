# SPDX-License-Identifier: Apache-2.0
"""One frame of the demo: what went in, what was rendered, and the occupancy that came out, beside the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from gaussianocc_core.types import Cameras, VoxelGrid
from gaussianocc_core.viz.colors import colorize_depth, colorize_labels
from gaussianocc_core.viz.legend import MUTED, PAGE, TEXT, WARNING, class_legend, color_bar, height_legend
from gaussianocc_core.viz.mosaic import camera_mosaic, surround_rows
from gaussianocc_core.viz.scene import Viewpoint, occupancy_view
from gaussianocc_core.viz.text import Label, draw_labels, text_width


@dataclass(frozen=True)
class DemoFrame:
    """Everything one demo frame shows. Images are addressed by camera name; absent panels are left out."""

    images: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]  # RGB, any size
    cameras: Cameras  # gives the layout
    prediction: UInt8[np.ndarray, "X Y Z"]  # Occ3D ids
    grid: VoxelGrid
    truth: UInt8[np.ndarray, "X Y Z"] | None = None
    depths: Mapping[str, Float[np.ndarray, "_ _"]] = field(default_factory=dict)  # rendered z-depth, m
    semantics: Mapping[str, UInt8[np.ndarray, "_ _"]] = field(default_factory=dict)  # rendered class ids
    model: str = ""  # checkpoint name
    trained: bool = True
    stamp: str = ""  # of the set, as it is to be printed
    stage_ms: Mapping[str, float | int] = field(default_factory=dict)  # milliseconds by stage, in order
    scores: Mapping[str, float | int] = field(default_factory=dict)  # percent by name: IoU, mIoU
    title: str = "GaussianOcc"
    subtitle: str = "semantic 3D occupancy from surround cameras"
    depth_title: str = "RENDERED DEPTH"
    depth_range: tuple[float | int, float | int] = (1.0, 60.0)  # m, of the colours
    viewpoint: Viewpoint | None = None
    classless: bool = False  # the model says that something is there, not what: all voxels are coloured by height
    hole_note: str = "dark: seen by no camera, as around the robot"  # beside the prediction's title, where it fits


def compose_frame(frame: DemoFrame, width: int = 1920, height: int = 1080) -> UInt8[np.ndarray, "height width 3"]:
    """RGB picture: images, rendered depth and semantics on the left, occupancy and truth on the right, legend below."""
    unit = height / 1080  # all lengths below are pixels of a 1080-line picture
    margin, gap, header, top = (round(length * unit) for length in (24, 14, 30, 84))
    canvas = np.empty((height, width, 3), dtype=np.uint8)
    canvas[:] = PAGE
    labels = _title(canvas, frame, unit, margin)

    if frame.classless:
        legend_height = height_legend(canvas, labels, unit, margin, frame.grid)
    else:
        legend_height = class_legend(canvas, labels, unit, margin)
    bottom = height - margin - legend_height - gap

    # Left: up to three mosaics under each other, as wide as the images' aspect wants, at most half the page.
    panels: list[tuple[str, Mapping[str, np.ndarray], bool]] = [("CAMERAS", frame.images, False)]
    if frame.depths:
        colored = {name: colorize_depth(depth, *frame.depth_range) for name, depth in frame.depths.items()}
        panels.append((frame.depth_title, colored, False))
    if frame.semantics and not frame.classless:
        panels.append(("RENDERED SEMANTICS", {n: colorize_labels(s) for n, s in frame.semantics.items()}, True))
    panel_height = (bottom - top - gap * (len(panels) - 1)) // len(panels)
    rows = surround_rows(frame.cameras)
    aspect = frame.cameras.width[0] / frame.cameras.height[0]
    cell_gap = round(5 * unit)
    cell_height = (panel_height - header - cell_gap * (len(rows) - 1)) / len(rows)
    columns = max(len(row) for row in rows)
    left_width = min(round(columns * cell_height * aspect) + cell_gap * (columns - 1), width // 2 - margin)
    for i, (name, images, nearest) in enumerate(panels):
        y = top + i * (panel_height + gap)
        labels.append(Label(name, margin, y, round(17 * unit), MUTED))
        if name == frame.depth_title:
            _depth_scale(canvas, labels, frame.depth_range, margin + left_width, y, unit)
        mosaic = camera_mosaic(
            images,
            frame.cameras,
            left_width,
            panel_height - header,
            gap=cell_gap,
            background=PAGE,
            nearest=nearest,
            names=i == 0,
        )
        canvas[y + header : y + panel_height, margin : margin + left_width] = mosaic

    # Right: the occupancy, above the truth where there is one.
    x = 2 * margin + left_width
    views = [("PREDICTED OCCUPANCY", frame.prediction)]
    if frame.truth is not None:
        views.append(("TRUE OCCUPANCY", frame.truth))
    view_width, view_height = width - margin - x, (bottom - top - gap * (len(views) - 1)) // len(views)
    for i, (name, occupancy) in enumerate(views):
        y = top + i * (view_height + gap)
        labels.append(Label(name, x, y, round(17 * unit), MUTED))
        canvas[y + header : y + view_height, x : x + view_width] = occupancy_view(
            occupancy,
            frame.grid,
            view_width,
            view_height - header,
            viewpoint=frame.viewpoint,
            by_height=frame.classless,
        )
    scores = "     ".join(f"{name} {value:.1f} %" for name, value in frame.scores.items())
    labels.append(Label(scores, width - margin, top, round(17 * unit), TEXT, align="right"))
    after_title = x + text_width(views[0][0], round(17 * unit)) + round(18 * unit)
    ends = after_title + text_width(frame.hole_note, round(15 * unit)) + round(18 * unit)
    if ends < width - margin - text_width(scores, round(17 * unit)):
        labels.append(Label(frame.hole_note, after_title, top + round(2 * unit), round(15 * unit), MUTED))
    return draw_labels(canvas, labels)


def _title(canvas: np.ndarray, frame: DemoFrame, unit: float, margin: int) -> list[Label]:
    large, small = round(34 * unit), round(18 * unit)
    x, y = margin, round(22 * unit)
    labels = [Label(frame.title, x, y, large, TEXT)]
    x += text_width(frame.title, large) + round(18 * unit)
    labels.append(Label(frame.subtitle, x, y + round(14 * unit), small, MUTED))
    x += text_width(frame.subtitle, small) + round(24 * unit)
    if not frame.trained:
        pad = round(10 * unit)
        high, wide = round(32 * unit), text_width("UNTRAINED", small) + 2 * pad
        cv2.rectangle(canvas, (x, y + round(6 * unit)), (x + wide, y + round(6 * unit) + high), WARNING, -1)
        labels.append(Label("UNTRAINED", x + pad, y + round(13 * unit), small, PAGE))
    right = canvas.shape[1] - margin
    first = "  ·  ".join(part for part in (frame.model, frame.stamp) if part)
    second = "  ·  ".join(f"{stage} {milliseconds:.0f}" for stage, milliseconds in frame.stage_ms.items())
    labels.append(Label(first, right, round(18 * unit), small, TEXT, align="right"))
    labels.append(Label(f"{second} ms" if second else "", right, round(44 * unit), small, MUTED, align="right"))
    return labels


def _depth_scale(
    canvas: np.ndarray, labels: list[Label], limits: tuple[float | int, float | int], right: int, y: int, unit: float
) -> None:
    """A small colour bar whose right end lies at `right`."""
    near, far = limits
    colors = colorize_depth(np.geomspace(near, far, round(130 * unit))[None], near, far)[0]
    color_bar(canvas, labels, colors, (f"{near:g} m", f"{far:g} m"), right, y, unit)
