# SPDX-License-Identifier: Apache-2.0
import array
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
DEFINITION = (ROOT / "msg/SemanticOccupancy.msg").read_text()
NAME = "gaussianocc_ros/msg/SemanticOccupancy"

# The published interface: changing a line here breaks every recorded bag and every subscriber.
FIELDS = [
    "uint8 UNOBSERVED=255",
    "uint8 OCCLUDED=254",
    "std_msgs/Header header",
    "geometry_msgs/Pose origin",
    "geometry_msgs/Vector3 voxel_size",
    "uint32 size_x",
    "uint32 size_y",
    "uint32 size_z",
    "uint8[] labels",
    "uint8[] confidence",
    "string[] class_names",
    "uint8 free_label",
    "string[] cameras",
    "string model",
]


def rosbags_store():
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg(DEFINITION, NAME))
    return store


def test_the_message_has_the_published_fields():
    lines = [line.split("#")[0].strip() for line in DEFINITION.splitlines()]
    assert [line for line in lines if line] == FIELDS


def test_every_field_is_described():
    lines = DEFINITION.splitlines()
    for field in FIELDS:
        if field in ("uint32 size_y", "uint32 size_z"):  # described with size_x
            continue
        assert lines[lines.index(field) - 1].startswith("# "), field


@pytest.mark.ros
def test_rosbags_and_rosidl_agree_on_the_type_hash():
    import gaussianocc_ros.msg

    prefix = Path(gaussianocc_ros.msg.__file__).parents[5]
    description = json.loads((prefix / "share" / f"{NAME}.json").read_text())
    (rosidl,) = [entry["hash_string"] for entry in description["type_hashes"] if entry["type_name"] == NAME]
    assert re.fullmatch(r"RIHS01_[0-9a-f]{64}", rosidl)
    assert rosbags_store().hash_rihs01(NAME) == rosidl


@pytest.fixture
def ros_nodes():
    """Two nodes of contexts of their own, so that messages between them cross DDS."""
    import rclpy
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor

    contexts, nodes = [], []
    for name in ("talker", "listener"):
        context = Context()
        rclpy.init(context=context)
        contexts.append(context)
        nodes.append(rclpy.create_node(name, context=context))
    executor = SingleThreadedExecutor(context=contexts[1])
    executor.add_node(nodes[1])
    yield nodes[0], nodes[1], executor
    executor.shutdown()
    for node, context in zip(nodes, contexts, strict=True):
        node.destroy_node()
        context.try_shutdown()


@pytest.mark.ros
def test_a_message_crosses_dds_unchanged_and_rosbags_reads_its_bytes(ros_nodes):
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from rclpy.serialization import serialize_message

    from gaussianocc_ros.msg import SemanticOccupancy

    shape = (200, 200, 16)
    labels = np.random.default_rng(0).integers(0, 18, shape, dtype=np.uint8)
    message = SemanticOccupancy()
    message.header.frame_id = "base_link"
    message.header.stamp.sec, message.header.stamp.nanosec = 1532402927, 612460000
    message.origin.position.x, message.origin.position.z = -40.0, -1.0
    message.voxel_size.x = message.voxel_size.y = message.voxel_size.z = 0.4
    message.size_x, message.size_y, message.size_z = shape
    message.labels = array.array("B", labels.tobytes(order="F"))
    message.confidence = array.array("B", bytes(labels.size))
    message.class_names = ["others", "free"]
    message.free_label = 17
    message.cameras = ["CAM_FRONT", "CAM_BACK"]
    message.model = "untrained"

    talker, listener, executor = ros_nodes
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    received = []
    listener.create_subscription(SemanticOccupancy, "occupancy", received.append, qos)
    talker.create_publisher(SemanticOccupancy, "occupancy", qos).publish(message)
    deadline = time.monotonic() + 20
    while not received and time.monotonic() < deadline:
        executor.spin_once(timeout_sec=0.1)
    assert received, "nothing arrived within 20 s"
    assert received[0] == message

    x, y, z = 3, 50, 7
    assert received[0].labels[x + shape[0] * (y + shape[1] * z)] == labels[x, y, z]
    read = rosbags_store().deserialize_cdr(serialize_message(received[0]), NAME)
    np.testing.assert_array_equal(read.labels, received[0].labels)
    assert (read.header.stamp.sec, read.header.frame_id, read.free_label) == (1532402927, "base_link", 17)
    assert read.UNOBSERVED == SemanticOccupancy.UNOBSERVED == 255
    assert read.OCCLUDED == SemanticOccupancy.OCCLUDED == 254


@pytest.mark.ros
def test_tf_messages_carry_the_type_name_that_tf_listeners_expect():
    from tf2_msgs.msg import TFMessage

    assert TFMessage.get_fields_and_field_types() == {"transforms": "sequence<geometry_msgs/TransformStamped>"}


@pytest.mark.ros
def test_lifecycle_nodes_configure_and_activate():
    import rclpy
    from rclpy.context import Context
    from rclpy.lifecycle import LifecycleNode, State, TransitionCallbackReturn

    passed = []

    class Node(LifecycleNode):
        def on_configure(self, state: State) -> TransitionCallbackReturn:
            passed.append(state.label)
            return TransitionCallbackReturn.SUCCESS

        def on_activate(self, state: State) -> TransitionCallbackReturn:
            passed.append(state.label)
            return super().on_activate(state)

    context = Context()
    rclpy.init(context=context)
    node = Node("managed", context=context)
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    finally:
        node.destroy_node()
        context.try_shutdown()
    assert passed == ["unconfigured", "inactive"]
