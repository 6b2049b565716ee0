# SPDX-License-Identifier: Apache-2.0
"""What a node with a model that matches says of views and motion, and the odometry that it has from its images."""

import re

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

import torch
from nav_msgs.msg import Odometry
from std_srvs.srv import Empty
from tf2_msgs.msg import TFMessage

from gaussianocc_core.checkpoint import Provenance, save_model
from gaussianocc_core.errors import ConfigError
from gaussianocc_core.models.config import DecoderConfig, EncoderConfig, ModelConfig
from gaussianocc_core.models.gaussianocc import build_model
from gaussianocc_core.models.matching import MatchingConfig
from gaussianocc_core.models.ray_memory import MemoryHead
from gaussianocc_core.types import Lattice, VoxelGrid
from gaussianocc_ros.parameters import NodeParameters
from gaussianocc_ros.stamps import stamp_ns

MS = 1_000_000


@pytest.fixture(scope="module")
def matching_checkpoint(tmp_path_factory):
    config = ModelConfig(
        name="matching",
        image_height=64,
        image_width=96,
        encoder=EncoderConfig(width=0.25, up_channels=(8, 8), feature_channels=8),
        lattice=Lattice(low=(-8.0, -8.0, -1.0), high=(8.0, 8.0, 3.0), shape=(16, 16, 8)),
        decoder=DecoderConfig(channels=4),
        grid=VoxelGrid((-8.0, -8.0, -1.0), 1.0, (16, 16, 4)),
        matching=MatchingConfig(enabled=True, depths=8, channels=8, hidden=8),
    )
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("model") / "matching.safetensors"
    model, about = build_model(config), Provenance("random weights, for tests of the wiring")
    save_model(path, model, config, about)
    save_model(path.with_name("remembers.safetensors"), model, config, about, memory=MemoryHead())
    return str(path)


@pytest.fixture
def matching(rig, matching_checkpoint):
    return lambda **parameters: rig(**{"checkpoint": matching_checkpoint, **parameters})


def picture(number, size=(96, 64)):
    """A JPEG with texture, its own for each number."""
    small = np.random.default_rng(number).integers(0, 255, (16, 24, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", cv2.resize(small, size, interpolation=cv2.INTER_CUBIC))[1].tobytes()


def pan(k, size=(96, 64)):
    """The same texture, shifted by k pixels: a camera that moves."""
    wide = cv2.resize(np.random.default_rng(7).integers(0, 255, (16, 60, 3), dtype=np.uint8), (240, 64))
    return cv2.imencode(".png", wide[:, 40 + k : 40 + k + size[0]])[1].tobytes()


def drive(rig, make, k, step_ms=100, metres=0.3, odometry=True, **images):
    if odometry:
        for ms in (k * step_ms, k * step_ms + 5, k * step_ms + 10, k * step_ms + 99):
            place = make.translation(x=metres * ms / step_ms)
            rig.motion.publish(
                TFMessage(transforms=[make.transform("odom", "base_link", place, make.START_NS + ms * MS)])
            )
    data = {camera: picture(100 * k + i) for i, camera in enumerate(make.CAMERAS)}
    rig.send(k * step_ms, **{**data, **images})


def camera_values(rig, camera):
    rig.diagnostics.clear()
    rig.graph.until(lambda: rig.diagnostics, what="diagnostics")
    status = next(each for each in rig.diagnostics[-1].status if each.name.endswith(f"camera {camera}"))
    return {item.key: item.value for item in status.values}, status


def test_diagnostics_name_views_and_the_motion_of_tf(matching, matching_checkpoint, make):
    robot = matching(checkpoint=matching_checkpoint.replace("matching.safe", "remembers.safe")).start()
    robot.place()
    for k in range(4):
        drive(robot, make, k)
        robot.outputs(k + 1)
    values, _ = robot.values()
    assert values["motion"] == "tf" and int(values["views"]) > 0 and values["memory"] == "used"
    camera, status = camera_values(robot, "front")
    assert re.search(r"front 0\.[123]0 s ago", camera["views"]) and "matched" not in status.message
    assert "odometry from images" not in values  # nobody asked for it


def test_odometry_from_images_that_is_lost_does_not_say_that_images_are_not_matched(matching, make, graph):
    """A recorder subscribes to everything: matching has its motion from TF all the same."""
    robot = matching().start()
    robot.place()
    graph.record(Odometry, "/occupancy_node/odometry")
    graph.until(lambda: graph.probe.count_publishers("/occupancy_node/odometry"), what="~/odometry")
    graph.spin_for(0.3)  # until the node has seen the subscriber
    for k in range(3):  # images that have nothing in common
        drive(robot, make, k)
        robot.outputs(k + 1)
    values, status = robot.values()
    assert values["motion"] == "tf" and int(values["views"]) > 0
    assert values["odometry from images"] not in ("ok", "") and status.level == status.WARN
    assert status.message.startswith(f"~/odometry is not published: {values['odometry from images']}")
    assert robot.logged("~/odometry is not published") and not robot.logged("are not matched")


def test_without_odometry_in_tf_the_images_tell_the_motion(matching, make):
    robot = matching().start()
    robot.place()
    for k in range(3):
        robot.send(100 * k, **{camera: pan(k) for camera in make.CAMERAS})
        robot.outputs(k + 1)
    values, _ = robot.values()
    assert values["motion"] == "images" and values["odometry from images"] == "ok"
    assert values["memory"] == "not used"  # nothing was fitted that would weigh it


def test_motion_none_matches_images_of_one_moment_alone(matching, make):
    robot = matching(motion="none").start()
    robot.place()
    for k in range(3):
        drive(robot, make, k)
        robot.outputs(k + 1)
    values, _ = robot.values()
    assert values["motion"] == "none" and values["memory"] == "not used"
    assert "ago" not in camera_values(robot, "front")[0]["views"]


def test_a_frozen_camera_is_named(matching, make):
    robot = matching().start()
    robot.place()
    for k in range(4):
        drive(robot, make, k, left=picture(1))
        robot.outputs(k + 1)
    camera, status = camera_values(robot, "left")
    assert status.level == status.WARN and status.message.startswith("left: its image is frozen")
    assert camera["views"] == "none" and "frozen camera" in camera["views refused"]
    assert robot.values()[1].level == status.WARN
    assert robot.logged("left: its image is frozen")
    assert "frozen" not in camera_values(robot, "front")[1].message


def test_an_image_that_two_sets_share_is_no_frozen_camera(matching, make):
    """Where a camera lost an image and the one before lies within the slop: no driver repeats anything."""
    robot = matching(slop=0.099).start()
    robot.place()
    for k in range(4):
        drive(robot, make, k)
        robot.outputs(k + 1)
    lone = {camera: picture(400 + len(camera)) for camera in ("front", "right")}
    robot.send(390, cameras=tuple(lone), **lone)
    drive(robot, make, 5)  # the left camera's next image lies beyond the slop of 390 ms, that of 305 ms within
    robot.outputs(6)
    assert [stamp_ns(each.header) - make.START_NS for each in robot.occupancy[4:]] == [390 * MS, 500 * MS]
    robot.settled()
    assert not robot.logged("its image is frozen")


def test_odometry_that_jumps_is_named(matching, make):
    robot = matching().start()
    robot.place()
    for k in range(3):
        drive(robot, make, k)
        robot.outputs(k + 1)
    for ms in (300, 305, 310, 399):
        place = make.translation(x=500.0)
        robot.motion.publish(
            TFMessage(transforms=[make.transform("odom", "base_link", place, make.START_NS + ms * MS)])
        )
    drive(robot, make, 3, odometry=False)
    robot.outputs(4)
    assert "motion jumps" in camera_values(robot, "front")[0]["views refused"]
    assert robot.logged("odometry jumps")


def test_after_a_jump_of_time_and_a_reset_it_starts_afresh(matching, make, graph):
    robot = matching().start()
    robot.place()
    for k in range(10, 13):
        drive(robot, make, k)
        robot.outputs(k - 9)
    assert "ago" in camera_values(robot, "front")[0]["views"]
    predictor = robot.node._predictor
    assert len(predictor.ring) > 1
    drive(robot, make, 2)  # a recording that loops
    robot.outputs(4)
    assert len(predictor.ring) == 1
    assert "ago" not in camera_values(robot, "front")[0]["views"]
    drive(robot, make, 3)
    robot.outputs(5)
    assert len(predictor.ring) == 2
    client = graph.probe.create_client(Empty, "/occupancy_node/reset")
    graph.until(client.service_is_ready, what="the service")
    answer = client.call_async(Empty.Request())
    graph.until(answer.done, what="the answer")
    drive(robot, make, 4)
    robot.outputs(6)
    assert len(predictor.ring) == 1


@pytest.mark.parametrize("tf", [True, False], ids=["beside TF", "alone"])
def test_odometry_has_the_stamp_of_the_image(matching, make, graph, tf):
    robot = matching(motion="none").start()
    robot.place()
    heard = graph.record(Odometry, "/occupancy_node/odometry")
    graph.until(lambda: graph.probe.count_publishers("/occupancy_node/odometry"), what="~/odometry")
    graph.spin_for(0.3)  # until the node has seen the subscriber
    for k in range(3):
        drive(robot, make, k, odometry=tf, metres=0.0, **{camera: pan(0) for camera in make.CAMERAS})
        robot.outputs(k + 1)
    graph.until(lambda: len(heard) >= 3, what="odometry")
    assert [stamp_ns(each.header) for each in heard] == [make.START_NS + 100 * k * MS for k in range(3)]
    last = heard[-1]
    assert last.child_frame_id == "base_link" and last.header.frame_id == ("camera_odom" if tf else "odom")
    assert abs(last.pose.pose.position.x) < 1e-6 and last.pose.pose.orientation.w == pytest.approx(1.0)
    covariance = np.array(last.pose.covariance).reshape(6, 6)
    assert np.linalg.eigvalsh(covariance).min() > 0
    assert np.linalg.eigvalsh(np.array(last.twist.covariance).reshape(6, 6)).min() > 0


def test_odometry_to_tf_is_off_unless_wanted(matching, make, graph):
    robot = matching(publish_odometry_tf=True, motion="images").start()
    robot.place()
    heard = graph.record(TFMessage, "/tf", 100)
    for k in range(3):
        robot.send(100 * k, **{camera: pan(0) for camera in make.CAMERAS})
        robot.outputs(k + 1)
    graph.until(lambda: len(heard) >= 3, what="TF")
    item = heard[-1].transforms[0]
    assert (item.header.frame_id, item.child_frame_id) == ("odom", "base_link")
    assert stamp_ns(item.header) == make.START_NS + 200 * MS
    assert robot.values()[0]["motion"] == "images"  # not what it has sent itself


def test_impossible_motion_parameters_are_refused():
    for wrong in (
        {"motion": "wheel"},
        {"publish_odometry_tf": True, "fixed_frame": ""},
        {"publish_odometry_tf": True, "motion": "tf"},
        {"publish_odometry_tf": True, "odometry_frame": "elsewhere"},
    ):
        with pytest.raises(ConfigError, match="parameter"):
            NodeParameters(cameras=("front",), **wrong)
