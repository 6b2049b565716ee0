# SPDX-License-Identifier: Apache-2.0
"""The output topics over DDS, to a subscriber in another process."""

import signal

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode

from gaussianocc_core.labels import CLASS_NAMES
from gaussianocc_core.types import OccupancyPrediction, VoxelGrid
from gaussianocc_ros.outputs import Outputs
from gaussianocc_ros.parameters import NodeParameters


@pytest.fixture
def outputs_of(graph):
    node = graph.add(LifecycleNode("occupancy_node"))
    made = []

    def make(**parameters):
        # The recorder takes the other three; all cubes, to have many bytes.
        others = {"publish_obstacles": False, "publish_grid": False, "publish_hidden": False, "markers_most": 0}
        made.append(Outputs(node, NodeParameters(cameras=("front",), **others, **parameters)))
        node.trigger_configure()
        node.trigger_activate()
        return made[-1]

    yield make
    for outputs in made:
        outputs.close()


def prediction():
    """100 000 occupied voxels: 0.6 MB, 2.4 MB and 4 MB on the three topics."""
    grid = VoxelGrid()
    labels = np.full(grid.shape, CLASS_NAMES.index("free"), np.uint8)
    labels.ravel()[:: labels.size // 100_000] = CLASS_NAMES.index("manmade")
    confidence = np.full(grid.shape, 0.5, np.float32)
    return OccupancyPrediction(labels, confidence, labels != 255, grid, CLASS_NAMES, True, ("front",), "made up")


def matched(outputs):
    return all(publisher.get_subscription_count() for publisher, _ in outputs._topics)


@pytest.mark.medium
def test_lossless_replay_loses_nothing_to_a_subscriber_that_is_slower_than_the_node(outputs_of, graph, recorder):
    outputs = outputs_of(reliable=True)
    graph.until(lambda: matched(outputs), 60, "subscribers")
    shown = prediction()
    for stamp in range(1, 31):
        outputs.publish(shown, stamp)
        assert outputs.undelivered() == []
    for topic in recorder.TOPICS:
        assert recorder.stamps_until(topic, 30) == list(range(1, 31))


@pytest.mark.medium
def test_live_node_waits_for_nobody(outputs_of, graph, recorder):
    """A subscriber that takes nothing at all, and sets that are published nevertheless."""
    outputs = outputs_of(reliable=False)
    graph.until(lambda: matched(outputs), 60, "subscribers")
    recorder.process.popen.send_signal(signal.SIGSTOP)
    try:
        outputs.publish(prediction(), 1)
        assert outputs.undelivered() == []
        assert not all(publisher.wait_for_all_acked(Duration(seconds=0.1)) for publisher, _ in outputs._topics)
    finally:
        recorder.process.popen.send_signal(signal.SIGCONT)


def test_subscriber_that_takes_nothing_is_named_after_the_timeout(outputs_of, graph, recorder, monkeypatch):
    monkeypatch.setattr("gaussianocc_ros.outputs._DELIVERY_TIMEOUT", 0.5)
    outputs = outputs_of(reliable=True)
    graph.until(lambda: matched(outputs), 60, "subscribers")
    recorder.process.popen.send_signal(signal.SIGSTOP)
    try:
        outputs.publish(prediction(), 1)
        assert "/occupancy_node/markers" in outputs.undelivered()
    finally:
        recorder.process.popen.send_signal(signal.SIGCONT)


def test_nothing_is_encoded_for_nobody(outputs_of):
    """What no encoder could take is no error while nobody subscribes."""
    outputs_of().publish(None, 0)
