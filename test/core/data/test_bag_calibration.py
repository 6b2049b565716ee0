# SPDX-License-Identifier: Apache-2.0
"""Bags whose calibration is not that of their images, or is that of no camera: used as meant, doubted, or refused."""

import numpy as np
import pytest
from support.robot_bags import START_NS, RobotBag, tf, transform

from gaussianocc_core.bags.messages import decode_camera_info
from gaussianocc_core.data.bag import BagSource, open_bags
from gaussianocc_core.data.bag_cameras import BagConfig
from gaussianocc_core.errors import BagError, CalibrationError
from gaussianocc_core.geometry import plausibility, transforms
from gaussianocc_core.geometry.rectify import Rectifier
from gaussianocc_core.onboarding.inspection import describe, inspect

LENS = (-0.35, 0.12, 0.001, -0.001, 0.0)


def source(path, **settings) -> BagSource:
    (found,) = open_bags(BagConfig(str(path), **settings))
    return found


def infos(robot: RobotBag):
    return [content for topic, _, content in robot.messages if topic.endswith("camera_info")]


def rename(robot: RobotBag, name: str) -> RobotBag:
    robot.messages = [(topic.replace("image_raw", name), log, content) for topic, log, content in robot.messages]
    return robot


# ---- rectified images ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["image_rect", "image_rect_color"])
def test_rectified_images_have_the_camera_of_p_and_no_distortion(tmp_path, name):
    robot = rename(RobotBag(size=(320, 240), focal=200.0, distortion=LENS), name)
    for info in infos(robot):
        info.p[0] = info.p[5] = 160.0
    found = source(robot.write(tmp_path / "bag"))
    assert found.cameras.distortion == ((), ()) and found.problems == ()
    np.testing.assert_allclose(found.cameras.intrinsics[0], [[160, 0, 160], [0, 160, 120], [0, 0, 1]])
    np.testing.assert_allclose(found.cameras.T_ego_cam[0], robot.T_ego_cam["front"], atol=1e-9)
    rectifier = Rectifier(found.cameras, 176, 96)
    assert rectifier.valid_mask.all() and rectifier.lost_share == (0.0, 0.0)


def test_raw_images_keep_the_lens(tmp_path):
    robot = RobotBag(size=(320, 240), focal=200.0, distortion=LENS)
    for info in infos(robot):
        info.p[0] = info.p[5] = 160.0
    cameras = source(robot.write(tmp_path / "bag")).cameras
    assert cameras.distortion == (pytest.approx(LENS),) * 2 and float(cameras.intrinsics[0, 0, 0]) == 200.0


def test_rectified_images_look_where_their_rectification_turned_them(tmp_path):
    robot = rename(RobotBag(), "image_rect")
    c, s = np.cos(0.1), np.sin(0.1)
    R = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])  # p_rect = R p_camera
    for info in infos(robot):
        info.r = R.ravel()
    found = source(robot.write(tmp_path / "bag"))
    expected = robot.T_ego_cam["front"] @ transforms.make_transform(R.T, np.zeros(3))
    np.testing.assert_allclose(found.cameras.T_ego_cam[0], expected, atol=1e-6)


def test_rectified_images_without_p_are_refused(tmp_path):
    robot = rename(RobotBag(distortion=LENS), "image_rect")
    for info in infos(robot):
        info.p[:] = 0
    with pytest.raises(BagError, match="camera front: its images are rectified, but its CameraInfo has no P"):
        source(robot.write(tmp_path / "bag"))


def test_a_new_p_beside_the_same_lens_is_no_new_calibration_of_raw_images(tmp_path):
    robot = RobotBag()
    for info in infos(robot)[4:]:
        info.p[0] = info.p[5] = 33.0
    assert len(source(robot.write(tmp_path / "bag")).entries()) == 5


# ---- implausible ---------------------------------------------------------------------------------------------------


def doubts(robot: RobotBag, path) -> list[str]:
    found = source(robot.write(path))
    text = describe(inspect(found, found.entries()))
    said = [doubt.kind for doubt in found.doubts]
    for doubt in found.doubts:
        assert f"problem: {doubt}" in text  # where the user reads it
    return said


def test_frames_of_bodies_are_said_of_each_camera(tmp_path):
    robot = RobotBag()
    links = []
    for name, yaw in robot.cameras.items():
        c, s = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
        T = transforms.make_transform(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]), robot.T_ego_cam[name][:3, 3])
        links.append(transform(START_NS, "base_link", f"{name}_optical", T))
    robot.messages[0] = (*robot.messages[0][:2], tf(*links))
    assert doubts(robot, tmp_path / "bag") == [plausibility.BODY_FRAME] * 2


@pytest.mark.parametrize(
    ("K", "size", "binning", "images"),
    [
        ((299.5, 300.1, 254.1, 183.9), (2064, 1544), 4, (516, 386)),  # calibrated binned, published for the sensor
        ((1000.0, 1000.0, 960.0, 540.0), (640, 360), 0, (640, 360)),
    ],
)
def test_k_of_another_binning_or_resolution_is_said(tmp_path, K, size, binning, images):
    robot = RobotBag(size=images)
    for info in infos(robot):
        info.k[:] = (K[0], 0, K[2], 0, K[1], K[3], 0, 0, 1)
        info.width, info.height = size
        info.binning_x = info.binning_y = binning
    assert doubts(robot, tmp_path / "bag").count(plausibility.PRINCIPAL_POINT) == 2


def test_millimetres_and_a_stereo_camera_in_one_frame_are_said(tmp_path):
    robot = RobotBag()
    far = [
        transform(START_NS, "base_link", f"{n}_optical", transforms.make_transform(T[:3, :3], 1000 * T[:3, 3]))
        for n, T in robot.T_ego_cam.items()
    ]
    robot.messages[0] = (*robot.messages[0][:2], tf(*far))
    assert doubts(robot, tmp_path / "far") == [plausibility.FAR_AWAY] * 2
    stereo = RobotBag()
    for topic, _, content in stereo.messages:
        if topic.startswith("/left/"):
            content.header.frame_id = "front_optical"
        if topic == "/left/camera_info":
            content.p[3] = -0.12 * content.p[0]
    assert doubts(stereo, tmp_path / "stereo") == [plausibility.SAME_PLACE]
    assert "P[3] says 0.120 m" in str(source(tmp_path / "stereo").doubts[0])


def test_an_identity_k_is_refused_with_its_reason(tmp_path):
    robot = RobotBag()
    for topic, _, content in robot.messages:
        if topic == "/left/camera_info":
            content.k[:] = np.eye(3).ravel()
    with pytest.raises(BagError, match=r"camera left: no usable CameraInfo .*K is the identity.*--cameras front"):
        source(robot.write(tmp_path / "bag"))
    with pytest.raises(CalibrationError, match="K is the identity"):
        decode_camera_info(infos(robot)[1], "left")  # as the node reads it


def test_a_lens_that_folds_is_said_and_its_rim_masked(tmp_path):
    robot = RobotBag(size=(128, 72), focal=50.0, distortion=(-0.35, 0.0, 0.0, 0.0, 0.0))
    path = tmp_path / "bag"
    assert doubts(robot, path) == [plausibility.FOLD] * 2
    assert 0.3 < Rectifier(source(path).cameras, 128, 72).valid_mask.mean() < 0.9


def test_the_lens_of_a_tracking_camera_is_read(tmp_path):
    robot = RobotBag(model="equidistant", distortion=(0.01, -0.002, 0.001, 0.0, 0.0))
    cameras = source(robot.write(tmp_path / "bag")).cameras
    assert cameras.model == ("equidistant",) * 2 and cameras.distortion[0] == (0.01, -0.002, 0.001, 0.0)
