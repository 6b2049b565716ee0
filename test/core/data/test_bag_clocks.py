# SPDX-License-Identifier: Apache-2.0
"""Cameras and odometry that are stamped by clocks of their own: named as what they are, and not paired."""

import numpy as np
import pytest
from support.robot_bags import START_NS, RobotBag

from gaussianocc_core.bags.clocks import compare
from gaussianocc_core.data.bag import BagSource, open_bags
from gaussianocc_core.data.bag_cameras import BagConfig
from gaussianocc_core.data.sources import DataConfig, open_entries
from gaussianocc_core.onboarding.inspection import describe, inspect


def source(path, **settings) -> BagSource:
    (found,) = open_bags(BagConfig(str(path), **settings))
    return found


def restamp(robot: RobotBag, topics: tuple[str, ...], change) -> RobotBag:
    """The bag with other stamps (ns -> ns) on all topics that begin so."""
    for topic, _, content in robot.messages:
        if topic.startswith(topics):
            stamp = content.header.stamp
            stamp.sec, stamp.nanosec = divmod(change(stamp.sec * 10**9 + stamp.nanosec), 10**9)
    return robot


CAMERAS = ("/front", "/left")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (37, "37.00 s ahead of that of odometry (TAI, as PTP counts it)"),
        (18, "18.00 s ahead of that of odometry (GPS time)"),
        (3, "3.00 s ahead of that of odometry;"),
        (-3 * 3600, "3.0 h behind that of odometry;"),
        (400 * 86400, "400 days ahead of that of odometry;"),
        (-(START_NS // 10**9), "it counts from the start of a device, not from 1970"),
    ],
)
def test_cameras_with_another_clock_than_odometry_are_named_and_have_no_poses(tmp_path, seconds, said):
    robot = restamp(RobotBag(frames=30), CAMERAS, lambda stamp: stamp + seconds * 10**9)
    found = source(robot.write(tmp_path / "bag"))
    entries = found.entries()
    assert len(entries) == 30 and all(entry.frame.T_world_ego is None for entry in entries)
    text = describe(inspect(found, entries))
    for camera in ("front", "left"):
        assert any(camera in line and said in line for line in text.splitlines())
    assert "data.bag.stamp=log" in text and "motion: odometry is not used, its clock is another" in text


def test_by_the_time_of_recording_images_and_odometry_meet(tmp_path):
    robot = restamp(RobotBag(frames=12), CAMERAS, lambda stamp: stamp + 37 * 10**9)
    found = source(robot.write(tmp_path / "bag"), stamp="log")
    assert found.problems == ()
    entries = found.entries()
    assert len(entries) == 12
    for entry in entries:
        for stamp, T in zip(entry.frame.camera_stamps_ns, entry.frame.T_world_ego, strict=True):
            np.testing.assert_allclose(T, robot.T_odom_ego(stamp - robot.delay_ns), atol=1e-6)


@pytest.mark.parametrize("stamp", [0, START_NS])
def test_stamps_that_nobody_sets_are_named_and_the_time_of_recording_is_offered(tmp_path, stamp):
    path = restamp(RobotBag(frames=12), CAMERAS, lambda _: stamp).write(tmp_path / "bag")
    found = source(path)
    what = "zero: its driver does not set them" if stamp == 0 else "the same, 1700000000.123 s"
    assert f"camera front: all 12 stamps are {what}; use the time of recording: data.bag.stamp=log" in found.problems
    assert len(found.entries()) <= 1 and "data.bag.stamp=log" in found.explain_no_sets()
    assert len(open_entries(DataConfig(bag=BagConfig(str(path), stamp="log")))) == 10


def test_one_camera_whose_stamps_are_zero_is_named(tmp_path):
    found = source(restamp(RobotBag(frames=12), ("/left",), lambda _: 0).write(tmp_path / "bag"))
    (problem,) = found.problems
    assert problem.startswith("camera left: all 12 stamps are zero")


def test_single_stamps_of_zero_are_left_out_and_do_not_look_like_a_clock_that_jumped(tmp_path):
    robot = RobotBag(frames=12)
    odd = robot.stamp(4, 1)
    found = source(restamp(robot, ("/left/image",), lambda s: 0 if s == odd else s).write(tmp_path / "bag"))
    assert found.problems == ("/left/image_raw/compressed: 1 messages whose stamp is zero are left out",)
    entries = found.entries()
    assert len(entries) == 11 and all(entry.frame.T_world_ego is not None for entry in entries)


def test_cameras_are_measured_against_each_other(tmp_path):
    robot = restamp(RobotBag(frames=12, odometry=""), ("/left",), lambda stamp: stamp - 5 * 10**9)
    found = source(robot.write(tmp_path / "bag"))
    assert found.entries() == []
    assert any("camera left: its clock is 5.00 s behind that of front" in each for each in found.problems)
    assert "5.00 s behind" in found.explain_no_sets()


@pytest.mark.parametrize("change", ["delays", "simulated"])
def test_delays_and_simulated_time_are_no_clocks_of_their_own(tmp_path, change):
    robot = RobotBag(frames=12)
    if change == "delays":  # images come a second late, odometry at once
        robot.messages = [(t, log if t.startswith("/tf") else log + 10**9, m) for t, log, m in robot.messages]
    else:  # stamps of a simulation, recorded by the wall clock
        robot.messages = [(t, log + 86400 * 10**9 * 365, m) for t, log, m in robot.messages]
    found = source(robot.write(tmp_path / "bag"))
    assert found.problems == ()
    assert all(entry.frame.T_world_ego is not None for entry in found.entries())


def test_without_images_there_is_nothing_to_compare():
    none = np.zeros(0, np.int64)
    assert compare({"front": (none, none)}, (none, none)) == compare({}, None)
