# SPDX-License-Identifier: Apache-2.0
"""What the node gives to those who ask: the newest result, and the map of what was seen so far as files."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from geometry_msgs.msg import Point
from rosbags.rosbag2 import Reader
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from gaussianocc_core.bags.typestore import OCCUPANCY_TYPE, open_typestore
from gaussianocc_core.errors import ConfigError
from gaussianocc_core.geometry.voxels import unflatten
from gaussianocc_core.navigation.map_file import has_octomap
from gaussianocc_ros import services
from gaussianocc_ros.srv import GetOccupancy


def ask(rig, kind, name, request=None):
    client = rig.graph.probe.create_client(kind, f"{rig.name}/{name}")
    rig.graph.until(client.service_is_ready, what=name)
    future = client.call_async(request or kind.Request())
    rig.graph.until(future.done, what=f"an answer of {name}")
    rig.graph.probe.destroy_client(client)
    return future.result()


def box(low, high):
    low, high = (Point(x=float(x), y=float(y), z=float(z)) for x, y, z in (low, high))
    return GetOccupancy.Request(low=low, high=high)


def test_the_newest_result_is_given_whole_or_in_a_box(rig):
    rig = rig().start()
    rig.place()
    answer = ask(rig, GetOccupancy, "get_occupancy")
    assert not answer.success and "there is no result yet" in answer.message
    rig.send(0)
    (message,) = rig.outputs(1)
    assert ask(rig, GetOccupancy, "get_occupancy").occupancy == message
    whole = unflatten(message.labels, (16, 16, 4))  # 1 m voxels from -8, -8, -1
    found = ask(rig, GetOccupancy, "get_occupancy", box((0.0, -2.5, 0.0), (6.0, 3.0, 9.0))).occupancy
    assert (found.size_x, found.size_y, found.size_z) == (6, 6, 3)
    origin = found.origin.position
    assert (origin.x, origin.y, origin.z) == (0.0, -3.0, 0.0)
    assert np.array_equal(unflatten(found.labels, (6, 6, 3)), whole[8:14, 5:11, 1:4])
    assert found.header == message.header and found.class_names == message.class_names
    for low, high, why in (
        ((50, 0, 0), (60, 1, 1), "lies outside of the grid"),
        ((0, 0, 0), (float("inf"), 1, 1), "expected finite metres"),
        ((0, float("nan"), 0), (1, 1, 1), "expected finite metres"),
        ((-1e308, -1e308, -1e308), (1e308, 1e308, -1e307), "lies outside of the grid"),
    ):
        answer = ask(rig, GetOccupancy, "get_occupancy", box(low, high))
        assert not answer.success and why in answer.message
    rig.node.trigger_deactivate()  # what the robot sees now nobody knows
    assert not ask(rig, GetOccupancy, "get_occupancy").success


def test_the_map_is_saved_as_ply_and_bag_in_the_fixed_frame(rig, make, tmp_path):
    folder = tmp_path / "maps"
    folder.mkdir()
    rig = rig(fusion=True, fusion_decay=0.0, map_dir=str(folder), odometry_timeout=5.0).start()
    rig.place()
    for i in range(2):  # 4 m further on
        stamps = [make.START_NS + (100 * i + ms) * 1_000_000 for ms in (-50, 50)]
        rig.motion.publish(
            TFMessage(transforms=[make.transform("odom", "base_link", make.translation(4.0 * i), s) for s in stamps])
        )
        rig.send(100 * i)
        rig.outputs(i + 1)
    answer = ask(rig, Trigger, "save_map")
    assert answer.success and "all that was seen so far" in answer.message and "in odom" in answer.message
    ply, bag = (folder / f"map_{make.START_NS + 100_000_000}{end}" for end in (".ply", ""))
    head, body = ply.read_bytes().split(b"end_header\n")
    count = int(head.split(b"element vertex ")[1].split()[0])
    assert b"comment frame odom" in head and b"comment labels 0=others 1=barrier" in head
    points = np.frombuffer(body, [("xyz", "<f4", 3), ("rgb", "u1", 3), ("label", "u1"), ("confidence", "<f4")])
    assert len(points) == count > 0
    with Reader(bag) as reader:
        ((connection, stamp, data),) = reader.messages()
    assert (connection.msgtype, stamp) == (OCCUPANCY_TYPE, make.START_NS + 100_000_000)
    message = open_typestore().deserialize_cdr(data, connection.msgtype)
    assert message.header.frame_id == "odom"
    labels = unflatten(message.labels, (message.size_x, message.size_y, message.size_z))
    assert (labels < message.free_label).sum() == count
    low = np.array([message.origin.position.x, message.origin.position.y, message.origin.position.z])
    index = tuple(np.floor(points["xyz"] - low).astype(int).T)  # voxels of 1 m
    assert np.array_equal(labels[index], points["label"])
    # The newest result lies in the map where the robot was, 4 m ahead of where it began.
    newest = unflatten(rig.occupancy[-1].labels, (16, 16, 4))
    seen = newest < message.free_label
    centers = np.argwhere(seen) + np.array([-8.0, -8.0, -1.0]) + 0.5 + np.array([4.0, 0.0, 0.0])
    found = labels[tuple(np.floor(centers - low).astype(int).T)]
    known = found != 255  # where evidence cancels out the published result is that of the moment
    assert np.array_equal(found[known], newest[seen][known]) and known.mean() > 0.8


def test_a_map_that_cannot_be_written_counts_as_one(rig, tmp_path):
    folder = tmp_path / "maps"
    folder.mkdir()
    robot = rig(map_dir=str(folder)).start()
    robot.place()
    robot.send(0)
    robot.outputs(1)
    folder.rmdir()
    folder.write_text("a file now")
    failed = ask(robot, Trigger, "save_map")
    assert not failed.success and "cannot be written" in failed.message
    soon = ask(robot, Trigger, "save_map")  # to try again costs results as a map does
    assert not soon.success and "ask again in" in soon.message


def test_without_fusion_the_newest_result_is_saved_and_without_a_folder_nothing(rig, tmp_path):
    robot = rig(map_dir=str(tmp_path)).start()
    robot.place()
    assert not ask(robot, Trigger, "save_map").success
    robot.send(0)
    robot.outputs(1)
    spare, services._SPARE = services._SPARE, 1 << 62
    try:
        full = ask(robot, Trigger, "save_map")
    finally:
        services._SPARE = spare
    assert not full.success and "MiB are free" in full.message and not list(tmp_path.iterdir())
    answer = ask(robot, Trigger, "save_map")
    assert answer.success and "without the parameter fusion" in answer.message and "in base_link" in answer.message
    before = sorted(tmp_path.iterdir())
    assert len([path for path in before if path.suffix == ".ply"]) == 1
    assert len([path for path in before if path.suffix == ".bt"]) == has_octomap()
    assert (".bt" in answer.message) == has_octomap()
    robot.send(100)
    robot.outputs(2)
    soon = ask(robot, Trigger, "save_map")  # the graph is open to all: nobody fills the disk by calls
    assert not soon.success and "ask again in" in soon.message and sorted(tmp_path.iterdir()) == before
    robot.graph.executor.remove_node(robot.node)
    robot.graph.nodes.remove(robot.node)
    robot.node.destroy_node()
    other = rig(namespace="other", arguments=("-r", "/tf:=tf", "-r", "/tf_static:=tf_static"))
    other.start()
    assert f"{other.name}/save_map" not in dict(other.graph.probe.get_service_names_and_types())
    with pytest.raises(ConfigError, match="parameter map_dir: no folder '/nowhere'"):
        rig(map_dir="/nowhere")
