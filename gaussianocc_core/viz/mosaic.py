# SPDX-License-Identifier: Apache-2.0
"""The images of a surround rig in one picture, laid out as the cameras look around the vehicle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from gaussianocc_core.types import Cameras
from gaussianocc_core.viz.text import Label, draw_labels

# Beyond this yaw a camera belongs to the row that looks back; sideways cameras stay in front.
FRONT_YAW = np.radians(100.0)


@dataclass(frozen=True)
class Cell:
    """Where one camera's image goes, pixels."""

    name: str
    left: int
    top: int
    width: int
    height: int


def surround_rows(cameras: Cameras) -> list[list[str]]:
    """Camera names by row, left to right: first those that look ahead, from left to right, then those that look back.

    The back row is seen from the driver's seat too: left is the vehicle's left, as in FRONT_LEFT FRONT FRONT_RIGHT
    over BACK_LEFT BACK BACK_RIGHT.
    """
    axis = cameras.T_ego_cam[:, :3, 2].detach().cpu().numpy()  # optical axes in the ego frame
    yaws = dict(zip(cameras.names, np.arctan2(axis[:, 1], axis[:, 0]), strict=True))
    front = sorted((name for name in yaws if abs(yaws[name]) <= FRONT_YAW), key=lambda name: -yaws[name])
    back = sorted((name for name in yaws if abs(yaws[name]) > FRONT_YAW), key=lambda name: yaws[name] % (2 * np.pi))
    return [row for row in (front, back) if row]


def mosaic_cells(rows: Sequence[Sequence[str]], width: int, height: int, gap: int = 6) -> list[Cell]:
    """Equal cells for all names within width x height; shorter rows are centred."""
    columns = max((len(row) for row in rows), default=1)
    cell_width = (width - gap * (columns - 1)) // columns
    cell_height = (height - gap * (len(rows) - 1)) // max(len(rows), 1)
    cells = []
    for i, row in enumerate(rows):
        left = (width - len(row) * cell_width - gap * (len(row) - 1)) // 2
        for j, name in enumerate(row):
            cells.append(Cell(name, left + j * (cell_width + gap), i * (cell_height + gap), cell_width, cell_height))
    return cells


def camera_mosaic(
    images: Mapping[str, UInt8[np.ndarray, "_ _ 3"]],
    cameras: Cameras,
    width: int,
    height: int,
    *,
    gap: int = 6,
    names: bool = True,
    background: tuple[int, int, int] = (13, 16, 22),
    nearest: bool = False,
) -> UInt8[np.ndarray, "height width 3"]:
    """RGB images by camera name, of any sizes, scaled into a surround layout of width x height pixels.

    The cameras give the layout; a camera without an image leaves its cell dark. nearest: for label colours.
    """
    unknown = sorted(set(images) - set(cameras.names))
    if unknown:
        raise ValueError(f"images: {unknown} are not among the cameras {list(cameras.names)}")
    canvas = np.empty((height, width, 3), dtype=np.uint8)
    canvas[:] = background
    labels = []
    for cell in mosaic_cells(surround_rows(cameras), width, height, gap):
        if cell.name in images:
            picture = fit(images[cell.name], cell.width, cell.height, nearest)
            top = cell.top + (cell.height - picture.shape[0]) // 2
            left = cell.left + (cell.width - picture.shape[1]) // 2
            canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        else:
            canvas[cell.top : cell.top + cell.height, cell.left : cell.left + cell.width] = (24, 29, 38)
        size = max(11, min(cell.height // 10, cell.width // 12))  # a name fits into a narrow cell
        labels.append(
            Label(cell.name, cell.left + size // 2 + 2, cell.top + size // 2, size, (238, 242, 247), plate=True)
        )
    return draw_labels(canvas, labels) if names else canvas


def fit(
    image: UInt8[np.ndarray, "_ _ 3"], width: int, height: int, nearest: bool = False
) -> UInt8[np.ndarray, "_ _ 3"]:
    """The image scaled to the largest size within width x height that keeps its aspect."""
    scale = min(width / image.shape[1], height / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    if nearest:
        return cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
