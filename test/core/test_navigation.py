# SPDX-License-Identifier: Apache-2.0
"""Obstacles and the ground map of scenes that are built by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gaussianocc_core.geometry.cameras import view_rotation
from gaussianocc_core.geometry.transforms import make_transform
from gaussianocc_core.labels import CLASS_ID, CLASS_NAMES, FREE, OCCLUDED, ONE_CLASS, UNOBSERVED
from gaussianocc_core.navigation.clearing import passed_rays
from gaussianocc_core.navigation.obstacles import (
    FREE_CELL,
    OBSTACLE_CELL,
    UNKNOWN,
    align_map,
    find_obstacles,
    map_ground,
)
from gaussianocc_core.navigation.traversability import Traversability
from gaussianocc_core.types import Cameras, OccupancyPrediction, VoxelGrid

GRID = VoxelGrid((-4.0, -4.0, -0.5), 0.5, (16, 16, 8))  # heights of centres: -0.25, 0.25, ... 3.25 m
RULE = Traversability()


def scene(**voxels) -> OccupancyPrediction:
    """Road everywhere but in the far right corner, which no camera sees; voxels: class -> indices."""
    labels = np.full(GRID.shape, FREE, np.uint8)
    labels[:, :, 0] = CLASS_ID["driveable_surface"]
    labels[12:, :4] = UNOBSERVED
    for name, places in voxels.items():
        for place in places:
            labels[place] = CLASS_ID[name]
    return OccupancyPrediction(
        labels, np.ones(GRID.shape, np.float32), labels != UNOBSERVED, GRID, CLASS_NAMES, True, ("front",), "made up"
    )


def test_obstacles_are_of_classes_and_heights_that_cannot_be_driven():
    shown = scene(car=[(3, 3, 1), (3, 3, 3)], vegetation=[(5, 5, 6)], sidewalk=[(7, 7, 1)], manmade=[(9, 9, 0)])
    found = np.argwhere(find_obstacles(shown, RULE)).tolist()
    assert found == [[3, 3, 1], [3, 3, 3]]  # the branch hangs at 2.75 m, the kerb is a sidewalk, the stone is flat
    low = Traversability(low=-0.5, high=3.0)
    assert len(np.argwhere(find_obstacles(shown, low))) == 4
    assert find_obstacles(shown, Traversability(classes=())).sum() == 3  # and the kerb


def test_columns_are_ground_obstacle_or_unknown():
    shown = scene(car=[(3, 3, 1)], free=[(8, 8, 0)])
    columns = map_ground(shown, RULE)
    assert columns[3, 3] == OBSTACLE_CELL and columns[4, 3] == FREE_CELL
    assert columns[8, 8] == UNKNOWN  # no ground was seen there: perhaps a hole
    assert (columns[12:, :4] == UNKNOWN).all()
    assert (columns == UNKNOWN).sum() == 1 + 16


def test_of_a_model_with_one_class_heights_tell_ground_from_obstacles():
    shown = scene(car=[(3, 3, 1), (5, 5, 2)], free=[(8, 8, 0)])  # centres at 0.25 and 0.75 m, voxels of 0.5 m
    labels = np.where(shown.labels < FREE, 0, np.where(shown.labels == FREE, 1, shown.labels)).astype(np.uint8)
    shown = replace(shown, labels=labels, class_names=ONE_CLASS)
    for rule in (RULE, Traversability(classes=())):  # the names of classes say nothing here
        assert np.argwhere(find_obstacles(shown, rule)).tolist() == [[5, 5, 2]]
        columns = map_ground(shown, rule)
        assert columns[5, 5] == OBSTACLE_CELL and columns[3, 3] == columns[4, 4] == FREE_CELL
        assert columns[8, 8] == UNKNOWN and (columns[12:, :4] == UNKNOWN).all()


@pytest.mark.parametrize("unknown", [OCCLUDED, UNOBSERVED])
def test_ground_under_what_is_hidden_or_above_the_view_is_not_free(unknown):
    shown = scene(car=[(3, 3, 1)])
    shown.labels[6, 6, 2] = unknown  # 0.75 m: between the heights
    shown.labels[7, 6, 7] = unknown  # 3.25 m: above them
    shown.labels[3, 3, 3] = unknown  # above the car
    columns = map_ground(shown, RULE)
    assert columns[6, 6] == UNKNOWN and columns[7, 6] == FREE_CELL and columns[3, 3] == OBSTACLE_CELL
    assert not find_obstacles(shown, Traversability(classes=()))[6, 6, 2]
    shown.labels[9, 9, 3:] = unknown  # a camera that is mounted low sees no more
    assert map_ground(shown, RULE)[9, 9] == UNKNOWN
    assert map_ground(shown, Traversability(high=1.0))[9, 9] == FREE_CELL


@pytest.mark.parametrize("quarter_turns", [0, 1, 2, 3])
def test_the_map_stands_still_while_the_robot_turns_and_drives(quarter_turns):
    yaw = quarter_turns * np.pi / 2
    c, s = np.cos(yaw), np.sin(yaw)
    T_map_ego = make_transform(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), np.array([10.0, -3.0, 0.2]))
    columns = map_ground(scene(car=[(14, 9, 1)]), RULE)
    shown = align_map(columns, scene(), T_map_ego)
    assert shown.resolution == 0.5
    centre = T_map_ego[:3, :3] @ np.array([3.25, 0.75, 0.0]) + T_map_ego[:3, 3]  # of the obstacle's column
    row, column = (int(np.floor((centre[axis] - shown.origin[axis]) / 0.5)) for axis in (1, 0))
    assert np.argwhere(shown.cells == OBSTACLE_CELL).tolist() == [[row, column]]
    assert (shown.cells != UNKNOWN).sum() == (columns != UNKNOWN).sum()


@pytest.mark.parametrize("origin", [(-4.0, -4.0), (1.0, -3.0)], ids=["around", "ahead"])
def test_the_map_keeps_its_size_at_every_yaw_holds_all_of_the_grid_and_moves_in_steps(origin):
    """Costmap layers and RViz make theirs anew for another size or origin."""
    base = scene()
    grid = VoxelGrid((*origin, base.grid.origin[2]), base.grid.voxel_size, base.grid.shape)
    columns = np.full((16, 16), OBSTACLE_CELL, np.int8)
    maps = []
    for step, yaw in enumerate(np.linspace(-np.pi, np.pi, 181)):
        c, s = np.cos(yaw), np.sin(yaw)
        place = np.array([0.083 * step - 7.0, 0.031 * step, 0.0])
        T_map_ego = make_transform(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), place)
        shown = align_map(columns, replace(base, grid=grid), T_map_ego)
        maps.append(shown)
        for corner in ((x, y) for x in (0.25, 7.75) for y in (0.25, 7.75)):
            x, y, _ = T_map_ego[:3, :3] @ (origin[0] + corner[0], origin[1] + corner[1], 0.0) + place
            cell = int(np.floor((y - shown.origin[1]) / 0.5)), int(np.floor((x - shown.origin[0]) / 0.5))
            assert min(cell) >= 0 and shown.cells[cell] == OBSTACLE_CELL
    assert {shown.cells.shape for shown in maps} == {(33, 33)}  # 8 m by 8 m have a diagonal of 22.6 cells
    steps = np.array([shown.origin for shown in maps]) / (10 * 0.5)
    assert np.abs(steps - np.round(steps)).max() < 1e-9
    if origin == (-4.0, -4.0):  # 15 m of driving cross three borders in x, 5.6 m one or two in y
        assert 3 <= np.count_nonzero(np.any(np.diff(steps, axis=0), axis=1)) <= 6


def test_in_the_robots_own_frame_the_map_is_the_grid():
    columns = map_ground(scene(car=[(14, 9, 1)]), RULE)
    shown = align_map(columns, scene(), None)
    assert (shown.cells == columns.T).all() and shown.origin == (-4.0, -4.0)


def test_a_turned_grid_is_covered_and_its_corners_are_unknown():
    c = np.sqrt(0.5)
    T_map_ego = make_transform(np.array([[c, -c, 0], [c, c, 0], [0, 0, 1]]), np.array([0.1, 0.2, 0.0]))
    columns = map_ground(scene(), RULE)
    shown = align_map(columns, scene(), T_map_ego)
    assert shown.cells[0, 0] == UNKNOWN
    assert all(abs(value / 0.5 - round(value / 0.5)) < 1e-9 for value in shown.origin)
    assert abs(int((shown.cells == FREE_CELL).sum()) - int((columns == FREE_CELL).sum())) < 12  # area is kept


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="low below high, got 2.0 and 1.0"):
        Traversability(low=2.0, high=1.0)
    with pytest.raises(ValueError, match="lava: the model has no such classes"):
        find_obstacles(scene(), Traversability(classes=("lava",)))


@pytest.mark.parametrize("degrees", [10, 30, 45])
def test_no_obstacle_falls_between_the_cells_of_a_turned_map(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    T_map_ego = make_transform(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), np.array([0.13, 0.07, 0.0]))
    for i in range(16):
        for j in range(16):
            columns = np.full((16, 16), FREE_CELL, np.int8)
            columns[i, j] = OBSTACLE_CELL
            assert (align_map(columns, scene(), T_map_ego).cells == OBSTACLE_CELL).any()


def cleared(labels, model="pinhole", focal=80.0):
    """Ends of the rays of one camera at (0.1, 0.1, 1.5) that looks along x, and its grid."""
    grid = VoxelGrid((-10.0, -10.0, -1.0), 0.5, (40, 40, 8))
    volume = np.full(grid.shape, labels, np.uint8) if np.isscalar(labels) else labels
    prediction = OccupancyPrediction(
        volume, np.ones(grid.shape, np.float32), volume != UNOBSERVED, grid, CLASS_NAMES, True, ("front",), "made up"
    )
    T = make_transform(view_rotation(0.0), np.array([0.1, 0.1, 1.5]))
    K = torch.tensor([[[focal, 0.0, 80.0], [0.0, focal, 60.0], [0.0, 0.0, 1.0]]], dtype=torch.float64)
    cameras = Cameras(("front",), K, torch.from_numpy(T)[None], (160,), (120,), (model,))
    return passed_rays(prediction, cameras, 0, Traversability()) - (0.1, 0.1, 1.5)


def test_rays_through_free_space_end_at_the_heights_or_the_grid_and_lie_in_the_view():
    rays = cleared(FREE)
    assert np.abs(rays[:, 1] / rays[:, 0]).max() < 1.0 and np.abs(rays[:, 1] / rays[:, 0]).max() > 0.97  # 45 degrees
    far = rays[np.abs(rays[:, 2]) < 1e-6]
    assert far[:, 0].max() == pytest.approx(9.9)  # the grid ends at x = 10
    assert rays[:, 2].min() >= 0.2 - 0.5 - 1.5 - 1e-9 and rays[:, 2].max() <= 2.0 + 0.5 - 1.5 + 1e-9


def test_rays_of_a_fisheye_lie_in_its_view():
    rays = cleared(FREE, "equidistant", focal=50.0)  # 80 / 50 rad to each side: 91.7 degrees
    angle = np.degrees(np.arctan2(np.abs(rays[:, 1]), rays[:, 0]))
    assert 91.0 < angle[np.abs(rays[:, 2]) < 1e-6].max() < 91.7


@pytest.mark.parametrize("unknown", [UNOBSERVED, OCCLUDED])
def test_no_ray_passes_what_nobody_knows(unknown):
    assert len(cleared(unknown)) == 0


def test_a_ray_ends_before_what_it_meets():
    labels = np.full((40, 40, 8), FREE, np.uint8)
    labels[32:, :20] = CLASS_ID["manmade"]  # from x = 6, to the right
    rays = cleared(labels)
    right, left = (rays[(np.abs(rays[:, 2]) < 1e-6) & side] for side in (rays[:, 1] < -0.5, rays[:, 1] > 0.5))
    assert right[:, 0].max() <= 6.0 - 0.1 - 0.05 and left[:, 0].max() == pytest.approx(9.9)
