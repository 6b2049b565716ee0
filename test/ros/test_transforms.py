# SPDX-License-Identifier: Apache-2.0
"""The stand-in for tf2's buffer, and its agreement with tf2 where that is present."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

from gaussianocc_core.bags.messages import decode_transform
from gaussianocc_core.geometry.transform_tree import TransformTree, TransformUnavailable
from gaussianocc_core.geometry.transforms import make_transform
from gaussianocc_ros import ros_compat

SECOND = 1_000_000_000


def turn(degrees, x=0.0, y=0.0, z=0.0):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return make_transform(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]), np.array([x, y, z]))


@pytest.fixture
def tree():
    """map -> odom (static) -> base_link (10 m/s forward, turning 90 degrees a second) -> camera, lidar (static)."""
    tree = TransformTree()
    tree.add("map", "odom", 0, turn(0, 100.0), static=True)
    for second in range(3):
        tree.add("odom", "base_link", second * SECOND, turn(90 * second, 10.0 * second), static=False)
    tree.add("base_link", "camera", 0, turn(90, 1.0, 0.0, 2.0), static=True)
    tree.add("base_link", "lidar", 0, turn(0, 0.0, 0.0, 3.0), static=True)
    return tree


def test_siblings_are_connected_through_their_parent(tree):
    """The lidar is 1 m above and 1 m behind the camera, which looks left: behind is the camera's left (+y)."""
    np.testing.assert_allclose(tree.lookup("camera", "lidar") @ [0, 0, 0, 1], [0, 1, 1, 1], atol=1e-12)
    np.testing.assert_allclose(tree.lookup("camera", "lidar") @ tree.lookup("lidar", "camera"), np.eye(4), atol=1e-12)


def test_pose_between_two_stamps_is_interpolated(tree):
    np.testing.assert_allclose(tree.lookup("map", "base_link", SECOND // 2), turn(45, 105.0), atol=1e-9)


def test_pose_at_a_known_stamp_is_exact(tree):
    np.testing.assert_allclose(tree.lookup("odom", "base_link", SECOND), turn(90, 10.0), atol=1e-12)


def test_no_stamp_means_the_latest(tree):
    np.testing.assert_allclose(tree.lookup("odom", "base_link"), turn(180, 20.0), atol=1e-12)


def test_static_chain_holds_at_any_time(tree):
    np.testing.assert_allclose(tree.lookup("base_link", "camera", 99 * SECOND), turn(90, 1.0, 0.0, 2.0))


@pytest.mark.parametrize("stamp, where", [(-SECOND, "before the first"), (3 * SECOND, "after the last")])
def test_time_outside_the_known_poses_is_an_error_that_says_by_how_much(tree, stamp, where):
    with pytest.raises(TransformUnavailable, match=rf"odom <- base_link: .* 1000\.0 ms {where} of 3 known poses"):
        tree.lookup("odom", "base_link", stamp)


def test_unknown_frame_is_an_error_that_names_what_is_known(tree):
    with pytest.raises(TransformUnavailable, match="does not connect base_link and rear; it knows base_link, camera, "):
        tree.lookup("base_link", "rear")
    with pytest.raises(TransformUnavailable, match="no frames at all"):
        TransformTree().lookup("a", "b")


def test_loop_of_frames_is_an_error_and_not_an_endless_walk():
    tree = TransformTree()
    tree.add("a", "b", 0, np.eye(4), static=True)
    tree.add("b", "a", 0, np.eye(4), static=True)
    with pytest.raises(TransformUnavailable, match="loop"):
        tree.lookup("a", "c")


def test_recording_that_starts_over_forgets_the_old_run():
    tree = TransformTree(keep_ns=10 * SECOND)
    for second in (100, 101):
        tree.add("odom", "base_link", second * SECOND, turn(0, float(second)), static=False)
    tree.add("odom", "base_link", 50 * SECOND, turn(0, 50.0), static=False)
    assert tree.lookup("odom", "base_link")[0, 3] == 50.0


def test_old_poses_are_forgotten_so_memory_is_bounded():
    tree = TransformTree(keep_ns=10 * SECOND)
    for second in range(1000):
        tree.add("odom", "base_link", second * SECOND, np.eye(4), static=False)
    with pytest.raises(TransformUnavailable, match="of 11 known poses"):
        tree.lookup("odom", "base_link", 500 * SECOND)


def test_transforms_arrive_over_topics_and_a_broken_one_is_ignored(graph, make):
    transforms = ros_compat.listen_to_transforms(graph.probe, decode_transform)
    latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    static = graph.publisher(TFMessage, "/tf_static", latched)
    broken = make.transform("base_link", "nowhere", np.eye(4))
    broken.transform.rotation.w = 0.0
    static.publish(TFMessage(transforms=[broken, make.transform("base_link", "camera", turn(90, 1.0))]))
    graph.until(lambda: transforms.knows("camera"), what="TF")
    np.testing.assert_allclose(transforms.lookup("base_link", "camera"), turn(90, 1.0), atol=1e-12)
    assert not transforms.knows("nowhere")
    transforms.close()


def test_leading_slash_of_a_frame_means_nothing(tree):
    np.testing.assert_allclose(tree.lookup("/base_link", "/camera"), tree.lookup("base_link", "camera"))
    assert tree.knows("/base_link") and not tree.knows("/nowhere")


def test_tf2_s_buffer_is_cleared_when_time_goes_back_until_it_is_closed(graph, monkeypatch):
    """With a double of tf2_ros: what it is given, and that nothing of it stays on the node."""
    import types

    from rclpy.node import Node
    from rclpy.time import Time

    class Buffer:
        def __init__(self, *arguments, **options):
            assert not arguments and not options  # given a node, it makes a service that it never destroys
            self.cleared = 0

        def clear(self):
            self.cleared += 1

    class TransformListener:
        def __init__(self, buffer, node):
            self.open = True

        def unregister(self):
            self.open = False

    monkeypatch.setattr(
        ros_compat, "tf2_ros", types.SimpleNamespace(Buffer=Buffer, TransformListener=TransformListener)
    )
    node = graph.add(Node("listens"))
    services = len(list(node.services))
    transforms = ros_compat.listen_to_transforms(node, decode_transform)
    clock = node.get_clock()
    clock._set_ros_time_is_active(True)
    before = transforms._buffer.cleared
    for seconds, cleared in ((100, 0), (101, 0), (50, 1), (51, 1), (10, 2)):
        clock.set_ros_time_override(Time(seconds=seconds))
        assert transforms._buffer.cleared - before == cleared, seconds
    transforms.close()
    clock.set_ros_time_override(Time(seconds=1))
    assert transforms._buffer.cleared - before == 2
    assert not transforms._listener.open
    assert len(list(node.services)) == services


def test_tf2_and_its_stand_in_agree(tree, make):
    tf2_ros = pytest.importorskip("tf2_ros", reason="no tf2_ros in this environment")
    from rclpy.time import Time

    buffer = tf2_ros.Buffer()
    for second in range(3):
        pose = turn(90 * second, 10.0 * second)
        buffer.set_transform(make.transform("odom", "base_link", pose, second * SECOND), "test")
    for parent, child, pose in [("map", "odom", turn(0, 100.0)), ("base_link", "camera", turn(90, 1.0, 0.0, 2.0))]:
        buffer.set_transform_static(make.transform(parent, child, pose, 0), "test")
    for stamp in (SECOND // 3, SECOND, 2 * SECOND):
        found = buffer.lookup_transform("map", "camera", Time(nanoseconds=stamp))
        expected = tree.lookup("map", "camera", stamp)
        np.testing.assert_allclose(decode_transform(found.transform), expected, atol=1e-9)
