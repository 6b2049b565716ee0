# SPDX-License-Identifier: Apache-2.0
"""A set of messages -> what is predicted from: every fact of the set in one value, and what becomes of bad cameras."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

import cv2

from gaussianocc_core.data.sets import SynchronizedSet
from gaussianocc_core.geometry.transform_tree import TransformTree
from gaussianocc_ros.camera_rig import CameraRig, CameraUnusable
from gaussianocc_ros.decoding import ImageDecoder, PendingImage
from gaussianocc_ros.diagnostics import NodeStatistics
from gaussianocc_ros.gather import NO_IMAGE, Gatherer, LeftOut

MS = 1_000_000
SMALL = cv2.imencode(".jpg", np.zeros((20, 30, 3), np.uint8))[1].tobytes()


@pytest.fixture
def gatherer(make):
    """gatherer(degrades, placed=cameras in TF) -> a Gatherer; 10 m/s forward, odometry at 100 Hz."""
    decoder = ImageDecoder(3, 1 << 20)

    def build(degrades=False, placed=make.CAMERAS, reductions=None):
        tree = TransformTree()
        for camera in placed:
            tree.add("base_link", camera, 0, make.FORWARD, static=True)
        for ms in range(0, 501, 10):
            tree.add("odom", "base_link", make.START_NS + ms * MS, make.translation(0.01 * ms), static=False)
        rig = CameraRig(make.CAMERAS, tree, calibration_timeout=0.0, odometry_timeout=0.0)
        for camera in make.CAMERAS:
            rig.add_camera_info(camera, make.camera_info(0, camera))
        reduce = reductions or (lambda cameras: dict.fromkeys(cameras.names, 1))
        return Gatherer(make.CAMERAS, decoder, rig, reduce, NodeStatistics(), degrades)

    yield build
    decoder.close()


def set_at(make, ms, cameras=None, rewinds=0, **data):
    stamps = {
        c: make.START_NS + (ms + 5 * i) * MS for i, c in enumerate(make.CAMERAS) if cameras is None or c in cameras
    }
    items = {c: PendingImage(c, make.jpeg(stamp, c, data.get(c))) for c, stamp in stamps.items()}
    return SynchronizedSet(next(iter(stamps.values())), items, stamps, rewinds)


def test_a_whole_set_knows_its_images_cameras_times_frames_and_place(gatherer, make):
    found = gatherer().gather(set_at(make, 100))
    assert found.stamp_ns == make.START_NS + 100 * MS
    assert found.cameras.names == make.CAMERAS and len(found.images) == 3
    assert {image.shape for image in found.images} == {(make.HEIGHT, make.WIDTH, 3)}
    assert found.stamps_ns == {c: make.START_NS + (100 + 5 * i) * MS for i, c in enumerate(make.CAMERAS)}
    assert found.frames == {camera: camera for camera in make.CAMERAS}
    assert found.left_out == {} and found.motion_problem == ""
    np.testing.assert_allclose(found.T_fixed_ego, make.translation(1.0), atol=1e-9)
    ahead = found.cameras.T_ego_cam[2, :3, 3] - found.cameras.T_ego_cam[0, :3, 3]
    np.testing.assert_allclose(ahead, [0.1, 0, 0], atol=1e-9)  # 10 ms later at 10 m/s


@pytest.mark.parametrize(
    "data, reason, text",
    [
        ({"left": b"\xff\xd8 rubbish"}, "undecodable image", "camera left: image cannot be decoded: the JPEG"),
        ({"left": SMALL}, "image size", "camera left: image is 30x20, its calibration 96x64"),
    ],
)
def test_a_bad_image_drops_its_set_or_is_left_out_where_sets_degrade(gatherer, make, data, reason, text):
    with pytest.raises(CameraUnusable, match=text) as error:
        gatherer().gather(set_at(make, 0, **data))
    assert error.value.reason == reason
    found = gatherer(degrades=True).gather(set_at(make, 0, **data))
    assert found.cameras.names == ("front", "right") == tuple(found.stamps_ns) == tuple(found.frames)
    assert len(found.images) == 2
    assert list(found.left_out) == ["left"]
    assert found.left_out["left"].reason == reason and found.left_out["left"].text.startswith(text)


def test_every_camera_that_a_set_goes_without_has_its_reason(gatherer, make):
    gather = gatherer(degrades=True, placed=("front", "left")).gather
    found = gather(set_at(make, 0, cameras=("front", "right")))
    assert found.cameras.names == ("front",)
    assert found.left_out["left"] == LeftOut(NO_IMAGE, "left: no image within the slop")
    assert found.left_out["right"].reason == "no TF"
    with pytest.raises(CameraUnusable, match="camera right: "):
        gather(set_at(make, 100, cameras=("right",)))  # nobody is left


def test_a_set_continues_the_one_before_unless_stamps_stepped_back_between_them(gatherer, make):
    gather = gatherer().gather
    assert not gather(set_at(make, 0)).continues
    assert gather(set_at(make, 100)).continues
    with pytest.raises(CameraUnusable):
        gather(set_at(make, 50, rewinds=1, left=SMALL))  # dropped: what follows is still the first of its run
    assert not gather(set_at(make, 150, rewinds=1)).continues
    assert gather(set_at(make, 250, rewinds=1)).continues


def test_images_are_decoded_no_larger_than_the_predictor_asks_for_from_the_second_set_on(gatherer, make):
    gather = gatherer(reductions=lambda cameras: dict.fromkeys(cameras.names, 4)).gather
    assert gather(set_at(make, 0)).images[0].shape == (make.HEIGHT, make.WIDTH, 3)
    found = gather(set_at(make, 100))
    assert found.images[0].shape == (make.HEIGHT // 4, make.WIDTH // 4, 3)
    assert found.cameras.width == (make.WIDTH,) * 3  # cameras speak of the native size
