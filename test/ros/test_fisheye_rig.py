# SPDX-License-Identifier: Apache-2.0
"""Four fisheyes: rig file -> data set -> bag -> player -> DDS -> node -> DDS -> one occupancy a set."""

import itertools

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

import torch
from support.synthetic_bags import FISHEYES as RIG
from support.synthetic_bags import SCENE, convert, make_dataset, read_bag

from gaussianocc_core.bags.messages import decode_camera_info
from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.geometry.cameras import relocate
from gaussianocc_core.geometry.voxels import centers, unflatten
from gaussianocc_core.predictor import OccupancyPredictor
from gaussianocc_core.types import EQUIDISTANT
from gaussianocc_ros.msg import SemanticOccupancy
from gaussianocc_ros.stamps import stamp_ns

FRAMES = 2
RECTIFIED = (110.0, 96, 64)  # horizontal field of view, degrees; width, height: the fixture model's
pytestmark = pytest.mark.slow  # in `make test`, test_robot_path.py takes four fisheyes through the node


def test_fisheye_rig_gives_one_occupancy_per_set_with_the_right_stamp_and_view(graph, spawn, checkpoint, tmp_path):
    node = spawn(
        "-m",
        "gaussianocc_ros.occupancy_node",
        "--ros-args",
        "-p",
        f"cameras:=[{','.join(RIG.names)}]",
        "-p",
        "reliable:=true",
        "-p",
        f"checkpoint:={checkpoint}",
        "-p",
        "device:=cpu",
    )
    root = make_dataset(tmp_path / "data", RIG, FRAMES, 5, "--no-sweeps")
    bag = convert(root, tmp_path / "bags")
    outputs = graph.record(SemanticOccupancy, "/occupancy_node/occupancy", 100)
    graph.until_known_by("/occupancy_node", 60, lambda: node.output)
    player = spawn("-m", "gaussianocc_ros.bag_player", bag, "--step", "--rate", 0, "--clock")
    graph.until(lambda: player.popen.poll() is not None, 120, "the end of the replay")
    assert player.wait() == 0, f"{player.output}\nthe node:\n{node.output}"
    graph.until(lambda: len(outputs) >= FRAMES, what="all outputs")
    assert node.stop() == 0, node.output
    assert "Traceback" not in node.output and "not compensated" not in node.output
    for index, name in enumerate(RIG.names):
        lens = decode_camera_info(read_bag(bag).topics[f"/{name}/camera_info"][0][1], name)
        assert (lens.model, lens.distortion) == (EQUIDISTANT, pytest.approx(RIG.distortion[index], rel=1e-6))

    samples = tuple(NuScenesSource(root, cameras=RIG.names).samples(SCENE))
    assert [stamp_ns(message.header) for message in outputs] == [sample.stamp_ns for sample in samples]
    predictor = OccupancyPredictor.from_checkpoint(checkpoint, device="cpu")
    for message, sample in zip(outputs, samples, strict=True):
        assert tuple(message.cameras) == RIG.names and message.header.frame_id == "base_link"
        labels = unflatten(message.labels, predictor.grid.shape)
        cameras = relocate(
            sample.cameras,
            torch.from_numpy(sample.T_world_ego_per_camera),
            torch.from_numpy(sample.T_world_ego),
        )
        half = 0.5 * predictor.grid.voxel_size
        corners = [half * np.array(corner) for corner in itertools.product((-1, 1), repeat=3)]
        points, T_ego_cam = centers(predictor.grid).numpy(), cameras.T_ego_cam.numpy()
        seen = np.any([in_rectified_view(points + offset, T_ego_cam) for offset in (0.0, *corners)], axis=0)
        assert 0.1 < seen.mean() < 0.95
        # Poses went through TF as quaternions: a centre or corner on the very border may fall on the other side.
        assert ((labels != message.UNOBSERVED) == seen).mean() > 0.999
        # Without the lens's coefficients four fifths agree.
        assert (labels == predictor(sample.images, cameras).labels)[seen].mean() > 0.99


def in_rectified_view(points_ego, T_ego_cam):
    """Where a pinhole of the stated field of view and square pixels looks, worked out by angles alone."""
    fov, width, height = RECTIFIED
    limit_x = np.tan(np.radians(fov) / 2)
    seen = np.zeros(points_ego.shape[:-1], dtype=bool)
    for T in T_ego_cam:
        x, y, z = np.moveaxis((points_ego - T[:3, 3]) @ T[:3, :3], -1, 0)
        seen |= (z > 0) & (np.abs(x) < limit_x * z) & (np.abs(y) < limit_x * height / width * z)
    return seen
