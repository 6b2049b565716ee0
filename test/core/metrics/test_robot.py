# SPDX-License-Identifier: Apache-2.0
"""Missed, unknown, found, ghosts and blocked paths of scenes that are built by hand."""

import numpy as np
import pytest

from gaussianocc_core.errors import PredictionError
from gaussianocc_core.geometry.raymarch import crossed_voxels
from gaussianocc_core.labels import CLASS_ID, FREE, OCCLUDED, UNOBSERVED
from gaussianocc_core.metrics.robot import (
    ObstacleTruth,
    RobotConfig,
    RobotScores,
    label_truth,
    obstacle_voxels,
    path_ahead,
    scan_truth,
)
from gaussianocc_core.types import VoxelGrid

GRID = VoxelGrid((-12.0, -12.0, -0.5), 0.5, (48, 48, 8))  # heights of centres: -0.25, 0.25, ... 3.25 m
CONFIG = RobotConfig()
ROOF = np.array([0.0, 0.0, 2.0])  # of the lidar
SEEN = np.ones(GRID.shape, dtype=bool)
CAR, ROAD = CLASS_ID["car"], CLASS_ID["driveable_surface"]


def voxel(x: float, y: float, z: float) -> tuple[int, int, int]:
    return tuple(int(np.floor((value - low) / 0.5)) for value, low in zip((x, y, z), GRID.origin, strict=True))


def published(**places) -> np.ndarray:
    """Free but for a road and what stands at the places, (x, y, z) in metres."""
    labels = np.full(GRID.shape, FREE, np.uint8)
    labels[:, :, 0] = ROAD
    for name, points in places.items():
        value = {"occluded": OCCLUDED, "unobserved": UNOBSERVED}.get(name, CLASS_ID.get(name))
        for point in points:
            labels[voxel(*point)] = value
    return labels


def truth_of(*points, places=None, told=None) -> ObstacleTruth:
    points = np.array(points, dtype=float).reshape(-1, 3)
    told = np.ones(GRID.shape, dtype=bool) if told is None else told
    return ObstacleTruth(points, points[:, :2] if places is None else places, told)


def test_points_are_missed_unknown_or_found_by_the_voxel_they_lie_in():
    points = [(4.2, 0.1, 1.1), (4.2, 0.1, 1.6), (4.2, 2.1, 1.1), (3.2, 3.1, 1.1), (7.1, 0.1, 0.6), (11.2, 0.1, 1.0)]
    points += [(14.0, 0.1, 1.0)]  # outside the grid
    scores = RobotScores(GRID)
    shown = published(car=[points[0]], occluded=[points[2]], unobserved=[points[3]], driveable_surface=[points[5]])
    scores.update(shown, truth_of(*points))
    rings = scores.ring_summary()
    assert list(rings) == ["0-5", "5-10", "10-20", "0-10"]
    assert rings["0-5"] == {
        "points": 4, "missed": 0.25, "unknown": 0.5, "found": 0.25, "columns": 1, "ghosts": 0.0,
    }  # fmt: skip
    assert (rings["5-10"]["points"], rings["5-10"]["missed"]) == (1, 1.0)
    assert (rings["10-20"]["found"], rings["10-20"]["unknown"]) == (0.5, 0.5)
    assert (rings["0-10"]["points"], rings["0-10"]["missed"]) == (5, 0.4)
    assert np.isnan(rings["5-10"]["ghosts"])


def test_a_ghost_is_a_column_without_a_point_near_it_where_the_truth_would_have_shown_one():
    shown = published(car=[(4.0, 0.0, 1.0), (4.0, 4.0, 1.0), (4.0, 4.0, 1.5), (-6.0, 0.0, 1.0), (6.0, 6.0, 3.2)])
    shown[voxel(6.0, -6.0, 1.0)] = ROAD  # ground is no obstacle, however high
    told = np.ones(GRID.shape, dtype=bool)
    told[:20] = False  # behind the robot nobody knows
    near, far = np.array([[4.25, 0.95]]), np.array([[4.25, 1.1]])  # 0.7 and 0.85 m from the first column's centre
    scores = RobotScores(GRID)
    scores.update(shown, truth_of(places=near, told=told))
    ring = scores.ring_summary()["0-10"]
    assert (ring["columns"], ring["ghosts"]) == (2, 0.5)
    scores.update(shown, truth_of(places=far, told=told))
    assert scores.ring_summary()["0-10"]["ghosts"] == 0.75


def test_the_nearest_metres_do_not_count():
    scores = RobotScores(GRID)
    scores.update(published(car=[(1.0, 0.0, 1.0)]), truth_of((1.0, 1.0, 1.0), (2.4, 0.0, 1.0)))
    ring = scores.ring_summary()["0-5"]
    assert (ring["points"], ring["columns"]) == (0, 0)


@pytest.mark.parametrize(
    ("obstacle", "blocked"),
    [
        ((6.0, 0.2, 1.0), True),
        ((6.0, 0.9, 1.0), True),  # half of the robot is 1 m wide; the column's centre is at 0.75
        ((6.0, 1.4, 1.0), False),
        ((2.0, 0.2, 1.0), False),  # under the robot
        ((9.8, 0.2, 1.0), True),
        ((11.3, 0.2, 1.0), False),  # beyond the path
        ((6.0, 0.2, 3.3), False),  # driven under
        ((6.0, 0.2, 0.2), False),  # driven over
    ],
)
def test_a_path_is_blocked_by_what_stands_within_half_the_robot_of_it(obstacle, blocked):
    path = path_ahead([pose(x) for x in (3.0, 6.0, 12.0)], pose(0.0), CONFIG.path_length)
    scores = RobotScores(GRID)
    scores.update(published(car=[obstacle]), None, path)
    assert scores.path_summary() == {"moments": 1, "blocked": int(blocked)}
    assert scores.moments[0] == 0 and scores.ring_summary()["0-10"]["columns"] == 0


def test_who_drove_ahead_does_not_block_the_path():
    path = path_ahead([pose(12.0)], pose(0.0), 10.0)
    scores = RobotScores(GRID)
    scores.update(published(car=[(6.0, 0.2, 1.0)]), truth_of((6.1, 0.3, 1.0)), path)
    assert scores.path_summary() == {"moments": 1, "blocked": 0}
    scores.update(published(car=[(6.0, 0.2, 1.0)]), truth_of((8.1, 0.3, 1.0)), path)
    assert scores.path_summary() == {"moments": 2, "blocked": 1}


def pose(x: float, y: float = 0.0, yaw_deg: float = 0.0) -> np.ndarray:
    c, s = np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))
    T = np.eye(4)
    T[:2, :2], T[:2, 3] = [[c, -s], [s, c]], (x, y)
    return T


def test_the_path_ahead_is_in_the_frame_of_now_and_ends_at_its_length():
    now = pose(5.0, 1.0, 90.0)  # looks along y of the world
    path = path_ahead([pose(5.0, 4.0), pose(5.0, 4.0), pose(1.0, 4.0), pose(1.0, 40.0)], now, 10.0)
    np.testing.assert_allclose(path, [[0, 0], [3, 0], [3, 4], [6, 4]], atol=1e-12)
    assert path_ahead([pose(5.0, 5.9)], now, 10.0) is None  # 4.9 m: too little to say
    assert path_ahead([], now, 10.0) is None
    assert len(path_ahead([pose(5.0, 6.1)], now, 10.0)) == 2


def test_a_scan_tells_of_the_voxels_that_its_rays_cross():
    low = np.array([[10.25, 0.25, 0.0]])  # from 2 m down to the road 10.25 m ahead
    crossed = crossed_voxels(low, ROOF, GRID)
    assert crossed[voxel(10.25, 0.25, -0.1)] or crossed[voxel(10.25, 0.25, 0.1)]
    assert crossed[voxel(5.1, 0.1, 1.1)]
    assert not crossed[voxel(5.1, 0.1, 0.4)] and not crossed[voxel(5.1, 0.1, 1.6)]  # it passes at 1 m there
    assert not crossed[voxel(11.0, 0.25, 0.1)] and not crossed[:, :20].any() and not crossed[:, 26:].any()
    wall = np.argwhere(crossed_voxels(np.array([[6.1, 0.1, 2.0]]), ROOF, GRID))
    assert wall[:, 0].tolist() == list(range(24, 24 + 13))  # the wall's own voxel, none behind it
    assert not crossed_voxels(np.array([[np.nan, 0.0, 0.0]]), ROOF, GRID).any()


def test_what_a_lidar_sees_over_is_no_ghost():
    over, through = (scan_truth(np.array([[9.0, 0.1, z]]), ROOF, SEEN, GRID, CONFIG) for z in (1.9, 0.1))
    shown = published(car=[(6.1, 0.1, 0.8)])  # the second ray is at 0.7 m there, the first at 1.9 m
    for truth, columns in ((over, 0), (through, 1)):
        scores = RobotScores(GRID)
        scores.update(shown, truth)
        assert scores.ring_summary()["5-10"]["columns"] == columns


def test_the_truth_of_a_scan_is_what_stands_in_columns_that_cameras_see():
    seen = SEEN.copy()
    seen[:24] = False  # cameras look ahead
    points = np.array(
        [
            (6.1, 0.1, 1.0), (6.1, 0.1, 0.35), (6.1, 3.1, 5.0), (9.0, 0.2, 0.0), (-6.1, 0.1, 1.0), (20.0, 0.1, 1.0),
            (np.nan, 0.0, 1.0),
        ]
    )  # fmt: skip
    truth = scan_truth(points, ROOF, seen, GRID, CONFIG)
    assert truth.points.tolist() == [[6.1, 0.1, 1.0], [20.0, 0.1, 1.0]]  # behind nobody looks; outside counts
    assert sorted(map(tuple, truth.places)) == [(-6.1, 0.1), (6.1, 0.1), (6.1, 0.1), (20.0, 0.1)]
    assert not truth.told[:24].any() and truth.told[voxel(6.1, 0.1, 1.0)]


def test_the_truth_of_labels_is_their_obstacle_voxels():
    labels = published(car=[(6.0, 0.0, 1.0), (6.0, 0.0, 0.2), (8.0, 0.0, 1.0)], sidewalk=[(3.0, 0.0, 1.0)])
    seen = SEEN.copy()
    seen[voxel(8.0, 0.0, 1.0)] = False  # behind the first
    truth = label_truth(labels, seen, GRID, CONFIG)
    assert truth.points.tolist() == [[6.25, 0.25, 1.25]]
    assert truth.places.tolist() == [[6.25, 0.25], [8.25, 0.25]]
    assert obstacle_voxels(labels, GRID, CONFIG).sum() == 2
    scores = RobotScores(GRID)
    scores.update(labels, truth)
    ring = scores.ring_summary()["0-10"]
    assert (ring["found"], ring["columns"], ring["ghosts"]) == (1.0, 1, 0.0)


def test_models_of_other_classes_are_measured_by_their_own_names():
    names = ("driveable_surface", "occupied", "free")
    labels = np.full(GRID.shape, 2, np.uint8)
    labels[voxel(6.0, 0.0, 1.0)], labels[voxel(6.0, 4.0, 1.0)] = 1, 0
    scores = RobotScores(GRID)
    scores.update(labels, truth_of((6.1, 0.1, 1.1), (7.1, 0.1, 1.1)), None, names)
    ring = scores.ring_summary()["0-10"]
    assert (ring["found"], ring["missed"], ring["columns"]) == (0.5, 0.5, 1)
    with pytest.raises(PredictionError, match="1 of .* are no class"):
        labels[0, 0, 0] = 7
        scores.update(labels, None, None, names)


def test_of_one_class_what_lies_within_a_voxel_of_the_ground_is_ground():
    labels = np.full(GRID.shape, 1, np.uint8)
    labels[voxel(6.0, 0.0, 0.3)] = labels[voxel(6.0, 4.0, 1.0)] = 0
    low = RobotConfig(low=0.05)
    assert obstacle_voxels(labels, GRID, low, ("occupied", "free")).sum() == 1
    named = np.where(labels == 0, 0, 2).astype(np.uint8)
    assert obstacle_voxels(named, GRID, low, ("driveable_surface", "occupied", "free")).sum() == 0
    assert obstacle_voxels(named, GRID, low, ("car", "occupied", "free")).sum() == 2


def test_impossible_limits_are_named():
    with pytest.raises(ValueError, match="expected low < high"):
        RobotConfig(low=2.0, high=1.0)
    with pytest.raises(ValueError, match="width and path_length > 0"):
        RobotConfig(width=0.0)
