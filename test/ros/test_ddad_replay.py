# SPDX-License-Identifier: Apache-2.0
"""A DDAD-format scene, made up or real: files -> bag -> player -> DDS -> node -> DDS."""

import pytest

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from support.ddad_fixtures import MadeUpScene, real_scene, write_data_set
from support.synthetic_bags import run_tool

from gaussianocc_core.data.ddad import DdadSource
from gaussianocc_ros.msg import SemanticOccupancy
from gaussianocc_ros.stamps import stamp_ns

pytestmark = pytest.mark.medium


def replay(graph, spawn, checkpoint, root, bags):
    """Stamps of the scene's samples, and what the node published while its bag was played."""
    source = DdadSource(root)
    scene = source.scene_names()[0]
    cameras = source.rig(scene).cameras.names
    assert run_tool("ddad_to_rosbag.py", "--dataroot", root, "--output", bags, "--scene", scene) == 0
    node = spawn(
        "-m",
        "gaussianocc_ros.occupancy_node",
        "--ros-args",
        "-p",
        f"cameras:=[{','.join(cameras)}]",
        "-p",
        "reliable:=true",
        "-p",
        f"checkpoint:={checkpoint}",
        "-p",
        "device:=cpu",
    )
    outputs = graph.record(SemanticOccupancy, "/occupancy_node/occupancy", 100)
    graph.until_known_by("/occupancy_node", 60, lambda: node.output)
    player = spawn("-m", "gaussianocc_ros.bag_player", bags / scene, "--step", "--rate", 0, "--clock")
    graph.until(lambda: player.popen.poll() is not None, 120, "the end of the replay")
    assert player.wait() == 0, f"{player.output}\nthe node:\n{node.output}"
    stamps = [entry.frame.camera_stamps_ns[0] for entry in source.index(scene)]
    graph.until(lambda: len(outputs) >= len(stamps), what="all outputs")
    assert node.stop() == 0, node.output
    for message in outputs:
        assert tuple(message.cameras) == cameras and message.header.frame_id == "base_link"
        assert 0.02 < sum(label != message.UNOBSERVED for label in message.labels) / len(message.labels) < 1.0
    return stamps, [stamp_ns(message.header) for message in outputs]


@pytest.mark.slow
def test_a_made_up_scene_gives_one_occupancy_per_sample(graph, spawn, checkpoint, tmp_path):
    root = write_data_set(tmp_path / "ddad", MadeUpScene(samples=3))
    stamps, published = replay(graph, spawn, checkpoint, root, tmp_path / "bags")
    assert published == stamps and len(stamps) == 3


def test_the_real_scene_gives_one_occupancy_per_sample(graph, spawn, checkpoint, tmp_path, shared_data):
    stamps, published = replay(graph, spawn, checkpoint, real_scene(shared_data), tmp_path / "bags")
    assert published == stamps and len(stamps) == 3
