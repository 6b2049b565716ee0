# SPDX-License-Identifier: Apache-2.0
"""CameraInfo and TF -> Cameras: where each camera was when its image was taken, and who is missing."""

import time

import numpy as np
import pytest
import torch

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from gaussianocc_core.types import Cameras
from gaussianocc_ros.camera_rig import CameraRig, CameraUnusable
from gaussianocc_ros.ros_compat import TransformTree

MS = 1_000_000
NAMES = ("front", "left")


@pytest.fixture
def transforms(make):
    tree = TransformTree()
    for name in NAMES:
        tree.add("base_link", name, 0, make.FORWARD, static=True)
    return tree


def rig_of(transforms, make, **options):
    rig = CameraRig(NAMES, transforms, **{"calibration_timeout": 0.0, "odometry_timeout": 0.0, **options})
    for name in NAMES:
        rig.add_camera_info(name, make.camera_info(0, name))
    return rig


def drive(transforms, make, until_ms=200):
    """10 m/s forward, odometry at 100 Hz."""
    for ms in range(0, until_ms + 1, 10):
        transforms.add("odom", "base_link", make.START_NS + ms * MS, make.translation(0.01 * ms), static=False)


def test_camera_triggered_40_ms_after_the_anchor_at_10_m_per_s_is_0_4_m_ahead(transforms, make):
    drive(transforms, make)
    rig = rig_of(transforms, make)
    anchor = make.START_NS + 50 * MS
    placed = rig.lookup(anchor, {"front": anchor, "left": anchor + 40 * MS})
    cameras = placed.cameras
    assert placed.motion_problem == ""
    np.testing.assert_allclose(placed.T_fixed_ego, make.translation(0.5), atol=1e-9)
    np.testing.assert_allclose(cameras.T_ego_cam[0], make.FORWARD, atol=1e-9)
    np.testing.assert_allclose(cameras.T_ego_cam[1, :3, 3] - cameras.T_ego_cam[0, :3, 3], [0.4, 0, 0], atol=1e-9)


def test_a_mount_that_moves_is_taken_where_it_was_at_the_image_s_own_time(make):
    """A mast that rises 0.5 m/s: the left camera, 40 ms after the anchor, is 2 cm higher."""
    tree = TransformTree()
    tree.add("base_link", "front", 0, make.FORWARD, static=True)
    tree.add("mast", "left", 0, make.FORWARD, static=True)
    for ms in range(0, 201, 10):
        tree.add("base_link", "mast", make.START_NS + ms * MS, make.translation(z=0.0005 * ms), static=False)
    rig = rig_of(tree, make)
    anchor = make.START_NS + 50 * MS
    cameras = rig.lookup(anchor, {"front": anchor, "left": anchor + 40 * MS}).cameras
    assert cameras.T_ego_cam[1, 2, 3] - make.FORWARD[2, 3] == pytest.approx(0.045, abs=1e-9)
    later = rig.lookup(anchor + 100 * MS, {"front": anchor + 100 * MS, "left": anchor + 140 * MS}).cameras
    assert later.T_ego_cam[1, 2, 3] - cameras.T_ego_cam[1, 2, 3] == pytest.approx(0.05, abs=1e-9)


def test_earlier_camera_of_a_turning_vehicle_is_rotated_back(transforms, make):
    """1 rad/s to the left: 100 ms before the anchor, the ego frame was 0.1 rad further right."""
    from gaussianocc_core.geometry.transforms import make_transform

    for ms in range(0, 201, 10):
        c, s = np.cos(0.001 * ms), np.sin(0.001 * ms)
        T_odom_ego = make_transform(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]), np.zeros(3))
        transforms.add("odom", "base_link", make.START_NS + ms * MS, T_odom_ego, static=False)
    rig = rig_of(transforms, make)
    anchor = make.START_NS + 150 * MS
    cameras = rig.lookup(anchor, {"front": anchor, "left": anchor - 100 * MS}).cameras
    axis = cameras.T_ego_cam[1, :3, 2].numpy()  # the viewing direction
    np.testing.assert_allclose(axis, [np.cos(0.1), -np.sin(0.1), 0], atol=1e-9)


def test_without_odometry_the_set_counts_as_simultaneous(transforms, make):
    rig = rig_of(transforms, make)
    placed = rig.lookup(make.START_NS, {"front": make.START_NS, "left": make.START_NS + 40 * MS})
    np.testing.assert_allclose(placed.cameras.T_ego_cam[1], make.FORWARD)
    assert placed.motion_problem == "" and placed.T_fixed_ego is None


def test_odometry_that_ends_before_the_image_is_no_reason_to_go_blind_but_said(transforms, make):
    drive(transforms, make, until_ms=50)
    rig = rig_of(transforms, make)
    anchor = make.START_NS + 50 * MS
    placed = rig.lookup(anchor, {"front": anchor, "left": anchor + 40 * MS})
    np.testing.assert_allclose(placed.cameras.T_ego_cam[1], make.FORWARD)
    assert "40.0 ms after the last" in placed.motion_problem
    np.testing.assert_allclose(placed.T_fixed_ego, make.translation(0.5), atol=1e-9)  # known all the same


def test_camera_info_becomes_intrinsics_of_the_named_camera(transforms, make):
    rig = CameraRig(NAMES, transforms, calibration_timeout=0.0)
    rig.add_camera_info("left", make.camera_info(0, "left", focal=70.0))
    rig.add_camera_info("front", make.camera_info(0, "front", focal=60.0))
    cameras = rig.lookup(make.START_NS, dict.fromkeys(NAMES, make.START_NS)).cameras
    assert cameras.names == NAMES
    assert cameras.intrinsics[:, 0, 0].tolist() == [60.0, 70.0]
    assert cameras.width == (make.WIDTH, make.WIDTH)


def test_camera_without_camera_info_is_named(transforms, make):
    rig = CameraRig(NAMES, transforms, calibration_timeout=0.0)
    rig.add_camera_info("front", make.camera_info(0, "front"))
    with pytest.raises(CameraUnusable, match="camera left: no CameraInfo") as error:
        rig.lookup(0, dict.fromkeys(NAMES, 0))
    assert error.value.reason == "no CameraInfo"
    assert list(rig.missing()) == ["left"]


def test_camera_without_tf_is_named_and_never_put_at_the_origin(make):
    tree = TransformTree()
    tree.add("base_link", "front", 0, make.FORWARD, static=True)
    rig = rig_of(tree, make)
    with pytest.raises(CameraUnusable, match="camera left: TF does not connect base_link and left") as error:
        rig.lookup(0, dict.fromkeys(NAMES, 0))
    assert error.value.reason == "no TF"


def test_intrinsics_that_are_not_finite_are_refused_and_explained(transforms, make):
    rig = rig_of(transforms, make)
    rig.add_camera_info("left", make.camera_info(0, "left", focal=float("nan")))
    with pytest.raises(CameraUnusable, match="camera left: .*not finite"):
        rig.lookup(0, dict.fromkeys(NAMES, 0))


def test_changed_camera_info_is_noticed_and_used(transforms, make):
    rig = rig_of(transforms, make)
    assert not rig.add_camera_info("left", make.camera_info(5, "left"))  # only its stamp differs
    assert rig.add_camera_info("left", make.camera_info(6, "left", focal=80.0))
    cameras = rig.lookup(0, dict.fromkeys(NAMES, 0)).cameras
    assert cameras.intrinsics[1, 0, 0] == 80.0


def test_set_waits_for_calibration_only_up_to_the_timeout(transforms):
    rig = CameraRig(NAMES, transforms, calibration_timeout=0.2)
    begin = time.monotonic()
    with pytest.raises(CameraUnusable):
        rig.lookup(0, dict.fromkeys(NAMES, 0))
    assert 0.2 <= time.monotonic() - begin < 2.0


def test_rig_of_a_file_needs_neither_camera_info_nor_static_tf_but_takes_motion(make):
    tree = TransformTree()
    drive(tree, make)
    poses = torch.from_numpy(np.stack([make.FORWARD, make.FORWARD]))
    given = Cameras(("left", "front"), torch.eye(3).repeat(2, 1, 1).double(), poses, (96, 96), (64, 64))
    rig = CameraRig(NAMES, tree, rig=given)
    assert not rig.needs_camera_info
    cameras = rig.lookup(make.START_NS, {"front": make.START_NS, "left": make.START_NS + 40 * MS}).cameras
    assert cameras.names == NAMES
    assert cameras.T_ego_cam[1, 0, 3] - cameras.T_ego_cam[0, 0, 3] == pytest.approx(0.4)


def test_calibrations_that_are_hard_to_believe_are_remembered_and_forgotten(transforms, make):
    rig = rig_of(transforms, make)
    stamps = dict.fromkeys(NAMES, make.START_NS)
    rig.lookup(make.START_NS, stamps)
    assert rig.doubts == {}
    transforms.add("base_link", "left", 0, np.eye(4), static=True)  # a body's axes
    rig.lookup(make.START_NS, stamps)
    assert list(rig.doubts) == ["left"] and "camera left: it looks at the sky: its frame left" in rig.doubts["left"]
    transforms.add("base_link", "left", 0, make.FORWARD, static=True)
    rig.lookup(make.START_NS, stamps)
    assert rig.doubts == {}


def test_rectified_images_have_the_camera_of_p_turned_by_r(transforms, make):
    rig = CameraRig(NAMES, transforms, calibration_timeout=0.0, odometry_timeout=0.0, rectified=frozenset({"left"}))
    c, s = np.cos(0.1), np.sin(0.1)
    R = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])  # p_rect = R p_camera
    for name in NAMES:
        info = make.camera_info(0, name)
        info.p = [44.0, 0.0, 31.0, 0.0, 0.0, 45.0, 23.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        info.r = R.ravel().tolist()
        rig.add_camera_info(name, info)
    cameras = rig.lookup(make.START_NS, dict.fromkeys(NAMES, make.START_NS)).cameras
    np.testing.assert_allclose(cameras.intrinsics[1], [[44, 0, 31.5], [0, 45, 23.5], [0, 0, 1]])
    np.testing.assert_allclose(cameras.T_ego_cam[1, :3, :3], make.FORWARD[:3, :3] @ R.T, atol=1e-9)
    np.testing.assert_allclose(cameras.T_ego_cam[0], make.FORWARD, atol=1e-9)
    assert float(cameras.intrinsics[0, 0, 0]) != 44
