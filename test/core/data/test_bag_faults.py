# SPDX-License-Identifier: Apache-2.0
"""Recordings with one bad item among good ones: what is wrong is named, and takes nothing else along."""

import copy

import numpy as np
import pytest
from support.robot_bags import START_NS, RobotBag, message, tf, transform

from gaussianocc_core.bags.indexing import open_index
from gaussianocc_core.data.bag import BagSource, open_bags
from gaussianocc_core.data.bag_cameras import BagConfig
from gaussianocc_core.data.sources import DataConfig, open_entries
from gaussianocc_core.errors import BagError
from gaussianocc_core.geometry import transforms
from gaussianocc_core.onboarding.inspection import describe, inspect


def source(path, **settings) -> BagSource:
    (found,) = open_bags(BagConfig(str(path), **settings))
    return found


def broken_transform(child: str):
    """A driver's: not a number."""
    item = transform(START_NS, "base_link", child, np.eye(4))
    nan = float("nan")
    item.transform = message(
        "geometry_msgs/msg/Transform",
        translation=item.transform.translation,
        rotation=message("geometry_msgs/msg/Quaternion", x=nan, y=nan, z=nan, w=nan),
    )
    return item


# ---- one bad item --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", ["/tf_static", "/tf"])
def test_a_broken_transform_takes_none_of_its_message_along(tmp_path, topic):
    robot = RobotBag()
    robot.messages = [
        (each, log, tf(broken_transform("wheel"), *content.transforms) if each == topic else content)
        for each, log, content in robot.messages
    ]
    found = source(robot.write(tmp_path / "bag"))
    assert len(found.entries()) == 5 and all(each.frame.T_world_ego is not None for each in found.entries())
    (problem,) = found.index.problems
    times = 1 if topic == "/tf_static" else 51
    assert problem.startswith(f"{topic}: {times} transforms base_link <- wheel cannot be used")
    assert "rotation x y z w = nan" in problem


def test_a_camera_whose_place_is_broken_is_refused_with_that_reason(tmp_path):
    robot = RobotBag()
    topic, log, static = robot.messages[0]
    robot.messages[0] = topic, log, tf(broken_transform("front_optical"), *static.transforms[1:])
    with pytest.raises(BagError, match=r"front_optical: not in TF; /tf_static has for it not a rigid transform: .*nan"):
        source(robot.write(tmp_path / "bag"))


def test_one_uncalibrated_camera_is_named_with_its_reason_and_with_what_to_do_without_it(tmp_path):
    robot = RobotBag(cameras={"front": 0.0, "left": 50.0, "webcam": 180.0})
    for topic, _, content in robot.messages:
        if topic == "/webcam/camera_info":
            content.k[:] = 0
    path = robot.write(tmp_path / "bag")
    with pytest.raises(BagError, match=r"camera webcam: no usable CameraInfo .*no usable K.*--cameras front left"):
        source(path)
    assert source(path, cameras=("front", "left")).cameras.names == ("front", "left")


def test_all_that_is_wrong_with_cameras_is_said_at_once(tmp_path):
    robot = RobotBag(cameras={"front": 0.0, "left": 50.0, "back": 180.0})
    topic, log, static = robot.messages[0]
    robot.messages[0] = topic, log, tf(*static.transforms[:2])
    robot.messages = [each for each in robot.messages if each[0] != "/left/camera_info"]
    with pytest.raises(BagError) as error:
        source(robot.write(tmp_path / "bag"))
    text = str(error.value)
    assert "camera left: no usable CameraInfo" in text and "nothing connects its frame 'back_optical'" in text
    assert "--cameras front (" in text


# ---- TF ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("calibrated_last", [True, False])
def test_of_two_fixed_places_the_last_holds_and_both_are_said(tmp_path, calibrated_last):
    robot = RobotBag()
    elsewhere = robot.T_ego_cam["left"].copy()
    elsewhere[:3, 3] = (5.0, -3.0, 9.0)
    stamp = START_NS - 10**8 if calibrated_last else START_NS + 2 * 10**8
    robot.add("/tf_static", stamp, tf(transform(stamp, "base_link", "left_optical", elsewhere)))
    found = source(robot.write(tmp_path / "bag"))
    expected = robot.T_ego_cam["left"] if calibrated_last else elsewhere
    np.testing.assert_allclose(found.cameras.T_ego_cam[found.cameras.names.index("left")], expected, atol=1e-9)
    (problem,) = found.index.problems
    assert "the fixed place of left_optical in base_link changes" in problem and "[5.0, -3.0, 9.0]" in problem


def test_a_fixed_place_that_is_said_again_is_no_problem(tmp_path):
    robot = RobotBag()
    _, _, static = robot.messages[0]
    robot.add("/tf_static", START_NS + 10**8, copy.deepcopy(static))
    assert source(robot.write(tmp_path / "bag")).index.problems == ()


def test_a_frame_moved_to_another_parent_has_the_last_one(tmp_path):
    robot = RobotBag()
    mast = transform(START_NS, "base_link", "mast", transforms.make_transform(np.eye(3), np.array([0.0, 0.0, 2.0])))
    on_mast = transform(START_NS, "mast", "left_optical", robot.T_ego_cam["left"])
    robot.add("/tf_static", START_NS - 10**8, tf(mast, on_mast))  # before the one that says base_link
    found = source(robot.write(tmp_path / "bag"))
    np.testing.assert_allclose(found.cameras.T_ego_cam[found.cameras.names.index("left")], robot.T_ego_cam["left"])
    (problem,) = found.index.problems
    assert "left_optical has several parents: mast (1 times), base_link (1 times)" in problem


def test_two_localisations_are_said_and_neither_is_mixed_into_the_other(tmp_path):
    robot = RobotBag(frames=8)
    for n in range(0, 80, 10):  # at the images' times, between the poses of odom
        stamp = START_NS + n * 10_000_000 + 1
        far = transforms.make_transform(np.eye(3), np.array([100.0, 0.0, 0.0]))
        robot.add("/tf", stamp, tf(transform(stamp, "map", "base_link", far)))
    found = source(robot.write(tmp_path / "bag"))
    assert any("base_link has several parents: odom (81 times), map (8 times)" in each for each in found.index.problems)
    for entry in found.entries():
        if entry.frame.T_world_ego is not None:
            expected = [robot.T_odom_ego(stamp)[0, 3] for stamp in entry.frame.camera_stamps_ns]
            np.testing.assert_allclose(entry.frame.T_world_ego[:, 0, 3], expected, atol=0.011)  # one interval


class Curve(RobotBag):
    """Drives a circle of 1 m."""

    def T_odom_ego(self, stamp_ns):
        angle = (stamp_ns - START_NS) * 1e-9
        c, s = np.cos(angle), np.sin(angle)
        return transforms.make_transform(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]), np.array([s, 1 - c, 0.0]))


def test_no_pose_is_made_up_where_odometry_pauses(tmp_path):
    robot = Curve(frames=40)
    begin, end = START_NS + 10**9, START_NS + 3 * 10**9
    robot.messages = [m for m in robot.messages if not (m[0] == "/tf" and begin < m[1] - robot.delay_ns < end)]
    path = robot.write(tmp_path / "bag")
    found = source(path)
    assert found.T_world_ego(START_NS + 2 * 10**9) is None
    entries = found.entries()
    assert len(entries) == 40
    for entry in entries:
        if entry.frame.T_world_ego is not None:
            for stamp, T in zip(entry.frame.camera_stamps_ns, entry.frame.T_world_ego, strict=True):
                np.testing.assert_allclose(T, robot.T_odom_ego(stamp), atol=1e-4)
    without = sum(entry.frame.T_world_ego is None for entry in entries)
    assert 19 <= without <= 21
    inspected = inspect(found, entries)
    assert inspected.motion.in_gaps == without + 2  # and those beside, whose neighbour is in it
    assert f"{without + 2} moments lie in gaps of odometry" in describe(inspected)


def test_training_leaves_out_moments_in_gaps_of_odometry_and_counts_them(tmp_path, caplog):
    robot = RobotBag(frames=20)
    begin, end = START_NS + 5 * 10**8, START_NS + 15 * 10**8
    robot.messages = [m for m in robot.messages if not (m[0] == "/tf" and begin < m[1] - robot.delay_ns < end)]
    path = robot.write(tmp_path / "bag")
    entries = open_entries(DataConfig(bag=BagConfig(str(path))))
    poses = [frame.T_world_ego for entry in entries for frame in (entry.frame, *(f for _, f in entry.neighbours))]
    assert len(entries) == 6 and all(T is not None for T in poses)
    assert "12 of 20 moments are left out: they lie in gaps of odometry" in caplog.text


def test_slow_poses_are_no_gaps(tmp_path):
    robot = RobotBag(frames=40)
    kept = {START_NS + k * 10**9 for k in range(5)}
    robot.messages = [m for m in robot.messages if m[0] != "/tf" or m[1] - robot.delay_ns in kept]  # 1 Hz
    index = open_index(robot.write(tmp_path / "bag"))
    assert all(entry.frame.T_world_ego is not None for entry in BagSource(index).entries()[:30])
