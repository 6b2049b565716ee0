# SPDX-License-Identifier: Apache-2.0
"""What a planner wants to know of an occupancy: where obstacles are, and a map of the ground around the robot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int8

from gaussianocc_core.geometry import voxels
from gaussianocc_core.labels import OCCLUDED, has_one_class, is_occupied
from gaussianocc_core.navigation.traversability import Traversability, traversable_ids
from gaussianocc_core.types import OccupancyPrediction

UNKNOWN, FREE_CELL, OBSTACLE_CELL = -1, 0, 100  # nav_msgs/OccupancyGrid
_STEP = 10  # cells in which a map's origin moves


@dataclass(frozen=True)
class GroundMap:
    """Rows along x as in nav_msgs/OccupancyGrid: cells[y, x] is UNKNOWN, FREE_CELL or OBSTACLE_CELL."""

    cells: Int8[np.ndarray, "H W"]
    resolution: float  # m
    origin: tuple[float, float]  # low corner of cell (0, 0) in the map's frame, m


def find_obstacles(prediction: OccupancyPrediction, rule: Traversability) -> Bool[np.ndarray, "X Y Z"]:
    """Occupied voxels of a class that cannot be driven on, with centres between the heights. Of a model with one class,
    what lies within a voxel of z = 0 is ground."""
    occupied = is_occupied(prediction.labels, prediction.class_names)
    return occupied & ~_ground(prediction, rule) & _between(prediction, rule)


def map_ground(prediction: OccupancyPrediction, rule: Traversability) -> Int8[np.ndarray, "X Y"]:
    """Each column of the grid in the ego frame: an obstacle, ground that was seen, or unknown.

    A column that was seen without any ground in it stays unknown: it may be a hole. So does one in which anything
    between the heights is hidden, or lies above or below what the cameras see: something may stand or hang there.
    """
    ground = _ground(prediction, rule).any(axis=2)
    ground &= (prediction.labels[..., _between(prediction, rule)] < OCCLUDED).all(axis=2)
    columns = np.where(ground, np.int8(FREE_CELL), np.int8(UNKNOWN))
    columns[find_obstacles(prediction, rule).any(axis=2)] = OBSTACLE_CELL
    return columns


def _ground(prediction: OccupancyPrediction, rule: Traversability) -> Bool[np.ndarray, "X Y Z"]:
    """Voxels that can be driven on: by class, or where a model knows one class only, by height."""
    if has_one_class(prediction.class_names):
        return is_occupied(prediction.labels, prediction.class_names) & voxels.near_ground(prediction.grid)
    return traversable_ids(prediction.class_names, rule)[prediction.labels]


def _between(prediction: OccupancyPrediction, rule: Traversability) -> Bool[np.ndarray, " Z"]:
    heights = voxels.axis_centers(prediction.grid, 2)
    return (heights >= rule.low) & (heights <= rule.high)


def align_map(
    columns: Int8[np.ndarray, "X Y"], prediction: OccupancyPrediction, T_map_ego: Float[np.ndarray, "4 4"] | None
) -> GroundMap:
    """The columns on a raster that stands still: axes of the map's frame, cell borders at multiples of the voxel size.

    Each cell takes the column under its centre. The map is a square that holds the grid at every yaw, so that its size
    never changes, and its origin moves in steps of ten cells: who shows or keeps it need not make it anew each time.
    None is the ego frame, in which the grid itself stands still.
    """
    grid, size = prediction.grid, prediction.grid.voxel_size
    if T_map_ego is None:
        return GroundMap(np.ascontiguousarray(columns.T), size, (float(grid.origin[0]), float(grid.origin[1])))
    low, high = np.array(grid.origin[:2]), np.array(grid.upper[:2])
    # The ground is taken as level: yaw and place in the plane are what matters, as in every 2D map.
    yaw = np.arctan2(T_map_ego[1, 0], T_map_ego[0, 0])
    turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    centre = turn @ ((low + high) / 2) + T_map_ego[:2, 3]
    diagonal = np.linalg.norm(high - low)
    side = int(np.ceil(diagonal / size - 1e-6)) + _STEP
    first = (np.floor((centre - diagonal / 2) / (_STEP * size) + 1e-6) * _STEP).astype(int)
    width = height = side
    x, y = np.meshgrid(
        (first[0] + np.arange(width) + 0.5) * size, (first[1] + np.arange(height) + 0.5) * size
    )  # (H, W), map frame
    dx, dy = x - T_map_ego[0, 3], y - T_map_ego[1, 3]
    i = np.floor((np.cos(yaw) * dx + np.sin(yaw) * dy - low[0]) / size + 1e-6).astype(int)
    j = np.floor((-np.sin(yaw) * dx + np.cos(yaw) * dy - low[1]) / size + 1e-6).astype(int)
    inside = (i >= 0) & (i < columns.shape[0]) & (j >= 0) & (j < columns.shape[1])
    cells = np.full((height, width), UNKNOWN, dtype=np.int8)
    cells[inside] = columns[i[inside], j[inside]]
    # Between turned rasters a column can lie under no cell's centre: an obstacle must not fall through.
    index = np.argwhere(columns == OBSTACLE_CELL)
    centres = low + (index + 0.5) * size
    turned = centres @ turn.T + T_map_ego[:2, 3]
    at = np.floor(turned / size + 1e-6).astype(int) - first
    cells[at[:, 1], at[:, 0]] = OBSTACLE_CELL
    return GroundMap(cells, size, (float(first[0] * size), float(first[1] * size)))
