# SPDX-License-Identifier: Apache-2.0
"""Two robots on one graph: a namespace, or a prefix of frames, is all that they differ in."""

import pytest

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from support.replay import record_drive
from tf2_msgs.msg import TFMessage

from gaussianocc_ros.stamps import stamp_ns

# As occ.launch.py does for a robot with TF of its own.
OWN_TF = ("-r", "/tf:=tf", "-r", "/tf_static:=tf_static")
MS = 1_000_000


def test_two_robots_with_topics_and_tf_of_their_own_do_not_hear_each_other(rig, make):
    robots = [rig(namespace=name, arguments=OWN_TF).start() for name in ("robot1", "robot2")]
    for robot in robots:
        robot.place()
    robots[0].send(0)
    robots[0].outputs(1)
    robots[1].send(100)
    robots[1].outputs(1)
    robots[0].graph.spin_for(0.3)
    stamps = [[stamp_ns(message.header) for message in robot.occupancy] for robot in robots]
    assert stamps == [[make.START_NS], [make.START_NS + 100 * MS]]
    # who it is stands in front of the status

    def names():
        return {status.name for message in robots[0].diagnostics for status in message.status}

    wanted = {"robot1/occupancy_node: occupancy", "robot2/occupancy_node: occupancy"}
    robots[0].graph.until(lambda: wanted <= names(), what="both robots' diagnostics")


def test_a_robot_whose_frames_have_a_prefix_shares_tf_with_others(rig, make):
    robot = rig(frame_prefix="robot1/").start()
    place = make.transform
    other = place("base_link", "front", make.translation(50.0))  # another robot's, of the same camera's name
    robot.static.publish(TFMessage(transforms=[other]))
    robot.static.publish(TFMessage(transforms=[place("robot1/base_link", c, make.FORWARD) for c in make.CAMERAS]))
    robot.send(0)
    (message,) = robot.outputs(1)
    assert message.header.frame_id == "robot1/base_link"


@pytest.mark.medium
def test_a_recording_is_played_into_a_namespace_and_answered_there(rig, make, spawn, tmp_path):
    robot = rig(namespace="robot1", arguments=OWN_TF).start()
    bag = record_drive(tmp_path / "drive", make)
    player = spawn("-m", "gaussianocc_ros.bag_player", bag, "--step", "--ros-args", "-r", "__ns:=/robot1")
    robot.graph.until(lambda: player.popen.poll() is not None, 90, "the end of the replay")
    assert player.wait() == 0, player.output
    assert "sets: 5 of 5 answered on /robot1/occupancy_node/occupancy" in player.output
    assert "/robot1/front/camera_info" in player.output
