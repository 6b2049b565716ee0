# SPDX-License-Identifier: Apache-2.0
"""From a moment and what is asked for to meshes, points, lines and pictures; knows no browser."""

from __future__ import annotations

import html
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, UInt8

from gaussianocc_core.geometry.voxels import axis_centers, near_ground
from gaussianocc_core.labels import CLASS_NAMES, FREE, GROUND_CLASSES, OCCLUDED, PALETTE, UNOBSERVED
from gaussianocc_core.metrics.robot import RobotConfig
from gaussianocc_core.types import VoxelGrid
from gaussianocc_core.viewer.mesh import cells_mesh, faces_mesh
from gaussianocc_core.viewer.moment import Moment
from gaussianocc_core.viewer.numbers import obstacles_of
from gaussianocc_core.viewer.views import render_labels
from gaussianocc_core.viz.colors import colorize_confidence, colorize_depth, height_colors, voxel_colors
from gaussianocc_core.viz.mosaic import camera_mosaic, surround_rows
from gaussianocc_core.viz.scene import DARK, EGO_GRID, ego_faces, lit_faces

PREDICTION, TRUTH, DIFFERENCE = "prediction", "truth", "difference"
BY_CLASS, BY_HEIGHT, BY_CONFIDENCE = "class", "height", "confidence"
IMAGE, DEPTH, COLORS = "image", "rendered depth", "rendered voxels"
# Difference: right, a ghost (nothing is there), missed (published free), not known.
RIGHT_RGB, GHOST_RGB, MISSED_RGB, UNKNOWN_RGB = (120, 190, 120), (235, 60, 45), (60, 110, 255), (120, 120, 130)
OBSTACLE_RGB = (255, 40, 40)
STATES = {
    "free": (FREE, (70, 150, 255)),
    "hidden": (OCCLUDED, (190, 120, 255)),
    "unseen": (UNOBSERVED, (110, 118, 130)),
}
_STATE_OPACITY = 0.16
_DEPTH_RANGE = (1.0, 60.0)  # m
_MOST_POINTS = 60_000


@dataclass(frozen=True)
class Choice:
    """What the page's controls say."""

    show: str = PREDICTION
    color: str = BY_CLASS
    states: tuple[str, ...] = ()  # of STATES, drawn as translucent bodies
    least_confidence: float = 0.0  # occupied voxels below it are not drawn
    top: float = 100.0  # m; nothing that lies higher is drawn
    obstacles: bool = False  # in red
    picture: str = IMAGE
    robot: RobotConfig = field(default_factory=RobotConfig)


def paint_voxels(moment: Moment, choice: Choice) -> bytes:
    """GLB of the occupied voxels, as chosen."""
    labels, grid = moment.labels, moment.grid
    truth = None if moment.truth is None else moment.truth.semantics
    by_height = choice.color == BY_HEIGHT or (choice.color == BY_CLASS and moment.classless)
    if choice.show == TRUTH and truth is not None:
        occupied, colors = truth < FREE, voxel_colors(truth, choice.color == BY_HEIGHT)
    elif choice.show == DIFFERENCE and moment.truth is not None and truth is not None:
        occupied, colors = _difference(labels, truth, moment.truth.mask_camera)
    else:
        occupied = (labels < FREE) & (moment.confidence >= choice.least_confidence)
        if choice.color == BY_CONFIDENCE:
            colors = colorize_confidence(moment.confidence)
        else:
            colors = voxel_colors(labels, by_height)
        if choice.obstacles:
            colors = np.where(obstacles_of(moment, choice.robot)[..., None], np.array(OBSTACLE_RGB) / 255.0, colors)
    return faces_mesh(lit_faces(occupied & _below(grid, choice.top), colors, grid, grain=0.0), grid)


def paint_state(moment: Moment, state: str, top: float) -> bytes:
    """GLB of the body of all voxels in one of STATES, translucent."""
    label, rgb = STATES[state]
    body = (moment.labels == label) & _below(moment.grid, top)
    colors = np.broadcast_to(np.array(rgb) / 255.0, (*body.shape, 3))
    return faces_mesh(lit_faces(body, colors, moment.grid, grain=0.0), moment.grid, _STATE_OPACITY)


def paint_map(moment: Moment, robot: RobotConfig) -> bytes:
    """GLB of what a planner takes: green where ground was seen and nothing stands, red where something does."""
    labels, grid = moment.labels, moment.grid
    blocked = obstacles_of(moment, robot).any(axis=2)
    ground = labels < FREE
    ground &= near_ground(grid) if moment.classless else np.isin(labels, GROUND_CLASSES)
    cells = np.zeros((*grid.shape[:2], 4))
    cells[ground.any(axis=2)] = (0.25, 0.8, 0.35, 0.35)
    cells[blocked] = (1.0, 0.15, 0.1, 0.75)
    layer = int(np.flatnonzero(near_ground(grid))[-1]) + 1 if near_ground(grid).any() else 0
    return cells_mesh(cells, grid, layer)


def paint_vehicle() -> bytes:
    """GLB of a car, to show where the robot is and how large a car would be."""
    return faces_mesh(ego_faces(), EGO_GRID)


def paint_floor() -> bytes:
    """GLB of a dark plane under the usual grid, in fields of 4 m, so that nothing floats."""
    field = VoxelGrid(origin=(-40.0, -40.0, -1.02), voxel_size=4.0, shape=(20, 20, 1))
    cells = np.ones((20, 20, 4))
    cells[..., :3] = np.array(DARK.floor) / 255.0
    cells[(np.indices((20, 20)).sum(axis=0) % 2) == 1, :3] *= 0.9
    return cells_mesh(cells, field, 0)


def paint_points(moment: Moment) -> tuple[Float[np.ndarray, "P 3"], UInt8[np.ndarray, "P 3"]]:
    """Lidar: places (m) and RGB by height."""
    points = np.zeros((0, 3), np.float32) if moment.lidar is None else moment.lidar
    points = points[:: 1 + len(points) // _MOST_POINTS]
    low, high = moment.grid.origin[2], moment.grid.upper[2]
    shade = ((points[:, 2] - low) / (high - low) * 255).clip(0, 255).astype(int)
    return points, height_colors(256)[shade]


def paint_pictures(moment: Moment, choice: Choice) -> dict[str, UInt8[np.ndarray, "_ _ 3"]]:
    """RGB by camera: its image, or what the published voxels look like from it."""
    if choice.picture == IMAGE:
        return dict(moment.images)
    by_height = choice.color == BY_HEIGHT or moment.classless
    seen = render_labels(moment.labels, moment.grid, moment.cameras, by_height)
    if choice.picture == DEPTH:
        return {
            name: colorize_depth(depth, *_DEPTH_RANGE)
            for name, depth in zip(moment.cameras.names, seen.depth, strict=True)
        }
    return dict(zip(moment.cameras.names, seen.colors, strict=True))


def arrange(moment: Moment, pictures: dict[str, np.ndarray], width: int) -> UInt8[np.ndarray, "H W 3"]:
    """All cameras in one picture, as they look around the robot."""
    rows = surround_rows(moment.cameras)
    columns = max(len(row) for row in rows)
    aspect = moment.cameras.height[0] / moment.cameras.width[0]
    height = round(len(rows) * (width / columns) * aspect)
    return camera_mosaic(pictures, moment.cameras, width, height, gap=4)


def legend(moment: Moment, choice: Choice) -> str:
    """HTML: what the colours mean."""
    if moment.truth is None:
        choice = replace(choice, show=PREDICTION)
    if choice.show == DIFFERENCE:
        rows = [("right", RIGHT_RGB), ("ghost: nothing is there", GHOST_RGB)]
        rows += [("missed: published as free", MISSED_RGB), ("missed: published as unknown", UNKNOWN_RGB)]
    elif choice.color == BY_CONFIDENCE and choice.show == PREDICTION:
        return _bar("confidence", colorize_confidence(np.linspace(0.5, 1.0, 8)) * 255, ("0.5", "1"))
    elif choice.color == BY_HEIGHT or (moment.classless and choice.show == PREDICTION):
        grid = moment.grid
        return _bar("height", height_colors(8), (f"{grid.origin[2]:g} m", f"{grid.upper[2]:g} m"))
    else:
        shown = moment.truth.semantics if choice.show == TRUTH and moment.truth is not None else moment.labels
        ids = [int(k) for k in np.unique(shown) if k < FREE]
        rows = [(CLASS_NAMES[k].replace("_", " "), tuple(PALETTE[k].tolist())) for k in ids]
    if choice.obstacles and choice.show == PREDICTION:
        rows.append(("obstacle", OBSTACLE_RGB))
    rows += [(f"{name} (body)", STATES[name][1]) for name in choice.states]
    swatch = "display:inline-block;width:12px;height:12px;border-radius:2px;margin-right:6px;vertical-align:-1px;"
    cells = "".join(
        f'<div style="width:50%"><span style="{swatch}background:rgb{rgb}"></span>{html.escape(name)}</div>'
        for name, rgb in rows
    )
    return f'<div style="display:flex;flex-wrap:wrap;font-size:12px;line-height:1.7;padding:2px 12px">{cells}</div>'


def _bar(name: str, colors: np.ndarray, ends: tuple[str, str]) -> str:
    stops = ",".join(f"rgb({round(r)},{round(g)},{round(b)})" for r, g, b in colors)
    return (
        '<div style="font-size:12px;padding:2px 12px;display:flex;gap:8px;align-items:center">'
        f'<span>{name} {ends[0]}</span><span style="flex:1;height:10px;border-radius:3px;'
        f'background:linear-gradient(90deg,{stops})"></span><span>{ends[1]}</span></div>'
    )


def _below(grid: VoxelGrid, top: float) -> Bool[np.ndarray, " Z"]:
    return axis_centers(grid, 2) <= top


def _difference(
    labels: UInt8[np.ndarray, "X Y Z"], truth: UInt8[np.ndarray, "X Y Z"], seen: Bool[np.ndarray, "X Y Z"]
) -> tuple[Bool[np.ndarray, "X Y Z"], Float[np.ndarray, "X Y Z 3"]]:
    """Voxels that are occupied in truth or prediction, of those that cameras see, and what is wrong with them."""
    said, true = labels < FREE, truth < FREE
    colors = np.zeros((*labels.shape, 3))
    for where, rgb in (
        (said & true, RIGHT_RGB),
        (said & ~true, GHOST_RGB),
        (~said & true & (labels == FREE), MISSED_RGB),
        (~said & true & (labels != FREE), UNKNOWN_RGB),
    ):
        colors[where] = np.array(rgb) / 255.0
    return (said | true) & seen, colors
