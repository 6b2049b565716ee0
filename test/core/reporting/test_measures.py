# SPDX-License-Identifier: Apache-2.0
"""What can be measured without truth, on scenes where the answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.moments import HEDGE, HEDGE_AT, road_with_hedge
from support.rigs import ring

from gaussianocc_core.geometry.cameras import pixel_rays
from gaussianocc_core.geometry.transforms import make_transform
from gaussianocc_core.labels import CLASS_ID, FREE
from gaussianocc_core.metrics.robot import RobotConfig
from gaussianocc_core.reporting.marks import GREEN, GREY, LIMITS, RED, YELLOW, mark, verdict
from gaussianocc_core.reporting.measures import (
    DriveMeasures,
    compare_overlap,
    fit_ground,
    measure_stereo,
    vanished,
)

ROBOT = RobotConfig()


def depth_of_plane(cameras, height=0.0, slope=0.0, far=60.0):
    """z-depth of the plane z = height + slope x of the ego frame; far where a ray misses it."""
    rays = pixel_rays(cameras.intrinsics, cameras.width[0], cameras.height[0])
    directions = torch.einsum("nij,nhwj->nhwi", cameras.T_ego_cam[:, :3, :3], rays)
    place = cameras.T_ego_cam[:, :3, 3][:, None, None]
    gap = height + slope * place[..., 0] - place[..., 2]
    depth = gap / (directions[..., 2] - slope * directions[..., 0])
    return torch.where((depth > 0) & (depth < far), depth, far).float()


def test_the_ground_is_found_where_it_lies():
    cameras = ring().to(dtype=torch.float32)
    height, tilt = fit_ground(depth_of_plane(cameras, 0.2, np.tan(np.radians(1.5))), cameras)
    assert height == pytest.approx(0.2, abs=0.01) and tilt == pytest.approx(1.5, abs=0.05)
    assert fit_ground(torch.full((6, 90, 160), 50.0), cameras) == (None, None)


def test_cameras_agree_about_one_plane_and_not_when_one_of_them_is_off():
    cameras = ring(fov_deg=100.0).to(dtype=torch.float32)
    depth = depth_of_plane(cameras)
    assert compare_overlap(depth, cameras) < 0.02
    depth[::2] *= 1.3
    assert compare_overlap(depth, cameras) == pytest.approx(np.log(1.3), abs=0.12)
    apart = ring((0.0, 180.0)).to(dtype=torch.float32)
    assert compare_overlap(depth_of_plane(apart), apart) is None


def test_classical_stereo_measures_a_wall_of_two_cameras_side_by_side():
    one = ring((0.0, 0.0), width=320, height=180)
    T = one.T_ego_cam.clone()
    T[1, 1, 3] -= 0.5  # half a metre to the right
    cameras = replace(one, names=("left", "right"), T_ego_cam=T)
    focal = float(cameras.intrinsics[0, 0, 0])
    shift = round(focal * 0.5 / 5.0)
    wide = np.random.default_rng(0).integers(0, 255, (180, 320 + shift, 3)).astype(np.uint8)
    found = measure_stereo(cameras, [wide[:, :320], wide[:, shift:]])
    known = found[0][found[0] > 0]
    assert known.size > 0.5 * 180 * 320 and np.median(known) == pytest.approx(focal * 0.5 / shift, rel=0.05)
    assert measure_stereo(ring((0.0, 180.0)), [wide[:90, :160], wide[:90, :160]]) == {}


def test_an_obstacle_that_is_free_later_has_vanished():
    before, robot = road_with_hedge(), ROBOT
    still = np.eye(4)
    assert vanished(before, before, still, still, robot) == 0.0
    gone = before.labels.copy()
    gone[HEDGE_AT] = FREE
    assert vanished(before, road_with_hedge(labels=gone), still, still, robot) > 0.9
    moved = make_transform(np.eye(3), np.array([2.0, 0.0, 0.0]))  # five voxels on
    rolled = np.roll(before.labels, -5, axis=0)
    assert vanished(before, road_with_hedge(labels=rolled), still, moved, robot) == 0.0
    unknown = before.labels.copy()
    unknown[HEDGE_AT] = 254
    assert vanished(before, road_with_hedge(labels=unknown), still, still, robot) is None  # nobody can know


def test_the_path_that_was_driven_is_blocked_by_what_stands_on_it():
    poses = [make_transform(np.eye(3), np.array([float(x), 0.0, 0.0])) for x in range(14)]
    drive = DriveMeasures(road_with_hedge().grid, ROBOT)
    assert drive.drove(road_with_hedge(), poses, 0) is True
    free = np.where(road_with_hedge().labels == HEDGE, np.uint8(FREE), road_with_hedge().labels)
    assert drive.drove(road_with_hedge(labels=free), poses, 0) is False
    assert drive.drove(road_with_hedge(), poses, 12) is None  # a metre more tells nothing
    assert drive.drove(road_with_hedge(), [None] * 14, 0) is None


def test_a_model_without_classes_is_not_blocked_by_the_ground():
    poses = [make_transform(np.eye(3), np.array([float(x), 0.0, 0.0])) for x in range(14)]
    labels = road_with_hedge().labels.copy()
    labels[HEDGE_AT] = FREE
    labels[labels == CLASS_ID["driveable_surface"]] = 0
    drive = DriveMeasures(road_with_hedge().grid, ROBOT)
    assert drive.drove(road_with_hedge(labels=labels, classless=True), poses, 0) is False


def test_motion_is_compared_over_a_second():
    recorded = [make_transform(np.eye(3), np.array([0.5 * k, 0.0, 0.0])) for k in range(11)]
    walked = [make_transform(np.eye(3), np.array([0.6 * k, 0.0, 0.0])) for k in range(11)]
    drive = DriveMeasures(road_with_hedge().grid, ROBOT)
    drive.compare_motion(walked, recorded, [int(1e8 * k) for k in range(11)])
    found = drive.motion.summary()
    assert found["pairs"] == 1 and found["length_ratio"] == pytest.approx(1.2) and found["true_length_m"] == 5.0


@pytest.mark.parametrize("key", LIMITS)
def test_marks_turn_from_green_to_red_at_their_limits(key):
    limit = LIMITS[key]
    colors = [mark(key, value).color for value in (0.5 * limit.good, 0.5 * (limit.good + limit.fair), 2 * limit.fair)]
    assert colors == [GREEN, YELLOW, RED]
    assert mark(key, 2 * limit.fair).advice and not mark(key, 0.0).advice
    assert mark(key, None, "because").color == GREY and "because" in mark(key, None, "because").advice


def test_the_worst_mark_decides():
    green, yellow, red, grey = mark("overlap", 0.0), mark("overlap", 0.2), mark("overlap", 1.0), mark("overlap", None)
    assert verdict([green, yellow, red, grey]).value == "do not drive by it yet: 1 of 3 measures is red"
    assert (
        verdict([green, yellow]).color == YELLOW and verdict([green]).color == GREEN and verdict([grey]).color == GREY
    )


@pytest.mark.parametrize("near, far, expected", [(5000, 5000, "10%"), (200, 5000, "30% at 10-20 m"), (200, 200, "-")])
def test_obstacles_that_are_few_say_nothing_and_farther_ones_are_taken(near, far, expected):
    from gaussianocc_core.reporting.run import truth_marks

    rings = {
        "0-10": {"points": near, "missed": 0.1, "found": 0.5, "ghosts": 0.1},
        "10-20": {"points": far, "missed": 0.3, "found": 0.5, "ghosts": 0.1},
    }
    marks = list(truth_marks({"robot": {"truths": {"lidar": {"model": rings}}}, "depth": None}))
    assert marks[0].value == expected and len(marks) == 5


def test_the_table_beside_flat_ground_is_of_the_range_that_the_marks_are_of():
    from gaussianocc_core.reporting.page import beside_flat_ground

    rings = {
        "0-10": {"points": 100, "missed": 0.0, "unknown": 1.0, "found": 0.0, "ghosts": None},
        "10-20": {"points": 5000, "missed": 0.1, "unknown": 0.5, "found": 0.4, "ghosts": 0.2},
    }
    robot = {"truths": {"lidar": {"model": rings, "flat_ground": rings}}}
    table = beside_flat_ground({"robot": robot, "depth": None, "mask_camera": None})
    assert "obstacles at 10-20 m, found (lidar)" in table and "0.400" in table and "within 10 m" not in table
