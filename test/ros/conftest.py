# SPDX-License-Identifier: Apache-2.0
"""A ROS graph per test process, nodes that one thread spins, and a network small enough to run in milliseconds."""

import re
import time
from array import array

import cv2
import numpy as np
import pytest

from gaussianocc_core.geometry.transforms import make_transform


def pytest_collection_modifyitems(items):
    for item in items:
        if "/test/ros/" in item.path.as_posix():
            item.add_marker(pytest.mark.ros)


CAMERAS = ("front", "left", "right")
WIDTH, HEIGHT = 96, 64
# A camera's optical frame in the ego frame when it looks forward: z forward, x right, y down.
FORWARD = make_transform(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), np.array([1.0, 0.0, 1.5]))
START_NS = 1_532_402_927_612_460_000


class Graph:
    """Nodes of a test in one executor, spun by the test's own thread while it waits."""

    def __init__(self):
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node

        self.executor = SingleThreadedExecutor()
        self.nodes = []
        self.probe = self.add(Node("probe"))
        self.received = {}

    def add(self, node):
        self.nodes.append(node)
        self.executor.add_node(node)
        return node

    def until(self, condition, timeout=30.0, what="condition"):
        deadline = time.monotonic() + timeout
        while not (result := condition()):
            assert time.monotonic() < deadline, f"{what} not reached within {timeout} s; received: {self._counts()}"
            self.executor.spin_once(timeout_sec=0.02)
        return result

    def spin_for(self, seconds):
        """For asserting that something does NOT happen; never to wait for what should."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.executor.spin_once(timeout_sec=0.02)

    def record(self, kind, topic, qos=10, **options):
        """The list that messages of a topic go to."""
        messages = self.received.setdefault(topic, [])
        self.probe.create_subscription(kind, topic, messages.append, qos, **options)
        return messages

    def until_known_by(self, node, timeout=60.0, log=lambda: ""):
        """Wait until a node of another process sends to all that was subscribed here so far.

        That this side sees the node's topics says nothing about the other side, whose first messages would be lost.
        An answer to a question says it: the node can send one only once it knows where to, and DDS announces the
        subscriptions of a process in the order in which they were made.
        """
        from rcl_interfaces.srv import GetParameterTypes

        client = self.probe.create_client(GetParameterTypes, f"{node}/get_parameter_types")
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            assert left > 0, f"no answer of {node} within {timeout} s; it said:\n{log()}"
            # Asked again: the node can take a question before it knows where to send the answer, which is then lost.
            answer = client.call_async(GetParameterTypes.Request())
            self.executor.spin_until_future_complete(answer, min(1.0, left))
            if answer.done():
                return
            client.remove_pending_request(answer)

    def publisher(self, kind, topic, qos=10):
        return self.probe.create_publisher(kind, topic, qos)

    def _counts(self):
        return {topic: len(messages) for topic, messages in self.received.items()}

    def close(self):
        for node in self.nodes:
            self.executor.remove_node(node)
            node.destroy_node()
        self.executor.shutdown()


@pytest.fixture(scope="session")
def ros():
    import rclpy

    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture
def graph(ros):
    graph = Graph()
    yield graph
    graph.close()


def save_untrained(path, grid):
    """A model file with random weights and a network of some milliseconds a set."""
    import torch

    from gaussianocc_core.checkpoint import Provenance, save_model
    from gaussianocc_core.models.config import DecoderConfig, EncoderConfig, ModelConfig
    from gaussianocc_core.models.gaussianocc import build_model
    from gaussianocc_core.types import Lattice

    config = ModelConfig(
        name="wiring",
        image_height=64,
        image_width=96,
        encoder=EncoderConfig(width=0.25, up_channels=(8, 8), feature_channels=8),
        lattice=Lattice(low=(-8.0, -8.0, -1.0), high=(8.0, 8.0, 3.0), shape=(16, 16, 8)),
        decoder=DecoderConfig(kind="hourglass", surface=False, channels=4, hourglasses=1),
        grid=grid,
    )
    torch.manual_seed(3)  # of weights with which some voxels are occupied, and not all
    save_model(path, build_model(config), config, Provenance("random weights, for tests of the wiring"))
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Publishes 16 x 16 x 4 voxels of 1 m."""
    from gaussianocc_core.types import VoxelGrid

    path = tmp_path_factory.mktemp("model") / "wiring.safetensors"
    return save_untrained(path, VoxelGrid((-8.0, -8.0, -1.0), 1.0, (16, 16, 4)))


@pytest.fixture(scope="session")
def full_size_checkpoint(tmp_path_factory):
    """Publishes the default grid, in messages of megabytes."""
    from gaussianocc_core.types import VoxelGrid

    return save_untrained(tmp_path_factory.mktemp("model") / "full_size.safetensors", VoxelGrid())


def header(stamp_ns, frame_id):
    from std_msgs.msg import Header

    from gaussianocc_ros.stamps import time_message

    return Header(stamp=time_message(stamp_ns), frame_id=frame_id)


def jpeg(stamp_ns, camera, data=None):
    from sensor_msgs.msg import CompressedImage

    if data is None:
        pixels = np.full((HEIGHT, WIDTH, 3), (40, 90, 160), np.uint8)
        data = cv2.imencode(".jpg", pixels)[1].tobytes()
    message = CompressedImage(header=header(stamp_ns, camera), format="jpeg")
    message.data = array("B", data)
    return message


def camera_info(stamp_ns, camera, focal=60.0):
    from sensor_msgs.msg import CameraInfo

    return CameraInfo(
        header=header(stamp_ns, camera),
        width=WIDTH,
        height=HEIGHT,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=[focal, 0.0, (WIDTH - 1) / 2, 0.0, focal, (HEIGHT - 1) / 2, 0.0, 0.0, 1.0],
    )


def transform(parent, child, T_parent_child, stamp_ns=START_NS):
    from geometry_msgs.msg import TransformStamped

    from gaussianocc_ros.conversions import encode_transform

    return TransformStamped(
        header=header(stamp_ns, parent), child_frame_id=child, transform=encode_transform(T_parent_child)
    )


def translation(x=0.0, y=0.0, z=0.0):
    return make_transform(np.eye(3), np.array([x, y, z], dtype=np.float64))


@pytest.fixture
def make():
    """The builders above, for test modules (pytest's importlib mode cannot import from a conftest)."""
    import types

    names = ("CAMERAS", "WIDTH", "HEIGHT", "FORWARD", "START_NS", "header", "jpeg", "camera_info", "transform")
    return types.SimpleNamespace(**{name: globals()[name] for name in (*names, "translation")})


@pytest.fixture
def rig(graph, make, checkpoint, capfd):
    """Makes a NodeRig; parameters of the node as keywords."""
    from support.node_rig import NodeRig

    return lambda **options: NodeRig(graph, make, capfd, **{"checkpoint": str(checkpoint), **options})


@pytest.fixture
def replay(graph):
    """Makes a Replay; arguments of the bag player's command line."""
    from support.replay import Replay

    return lambda *arguments: Replay(graph, *arguments)


RECORDER = """
import rclpy
from rcl_interfaces.srv import GetParameterTypes
from sensor_msgs.msg import PointCloud2
from visualization_msgs.msg import MarkerArray
from gaussianocc_ros.msg import SemanticOccupancy
from gaussianocc_ros.stamps import cdr_stamp_ns
rclpy.init()
node = rclpy.create_node("recorder")
for kind, topic in ((SemanticOccupancy, "occupancy"), (PointCloud2, "points"), (MarkerArray, "markers")):
    def note(data, topic=topic):
        if topic == "markers":  # the number of markers stands before the first one's header
            data = data[:4] + data[8:16]
        print(f"<{topic} {cdr_stamp_ns(data)}>", flush=True)
    node.create_subscription(kind, f"/occupancy_node/{topic}", note, 100, raw=True)
client = node.create_client(GetParameterTypes, "/occupancy_node/get_parameter_types")  # as Graph.until_known_by
def ask():
    client.call_async(GetParameterTypes.Request()).add_done_callback(answered)
def answered(_):
    timer.cancel()
    print("<known to the node>", flush=True)
timer = node.create_timer(0.5, ask)
try:
    rclpy.spin(node)
except KeyboardInterrupt:
    pass
"""


class Recorder:
    """Subscribes to the node's outputs in a process of its own."""

    TOPICS = ("occupancy", "points", "markers")

    def __init__(self, process):
        self.process = process

    def connect(self, graph, timeout):
        """Wait until the node sends to the recorder."""
        graph.until(lambda: "<known to the node>" in self.process.output, timeout, "the node's answer to the recorder")

    def stamps_until(self, topic, last):
        """Stamps of a topic's messages in order of arrival, once this one has come."""
        self.process.wait_for(f"<{topic} {last}>", 180)
        return [int(stamp) for stamp in re.findall(rf"<{topic} (\d+)>", self.process.output)]


@pytest.fixture
def recorder(spawn):
    return Recorder(spawn("-c", RECORDER))
