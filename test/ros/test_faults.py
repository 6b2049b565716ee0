# SPDX-License-Identifier: Apache-2.0
"""Hours of a robot in seconds: streams into the node in a process of its own. The long form is benchmarks/node.py."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from sensor_msgs.msg import CameraInfo, CompressedImage
from support.node_rig import LATCHED, MS
from tf2_msgs.msg import TFMessage

from gaussianocc_ros.msg import SemanticOccupancy
from gaussianocc_ros.stamps import stamp_ns

pytestmark = pytest.mark.medium


class Streams:
    """Cameras of a test, and the node in a process of its own."""

    def __init__(self, graph, make, spawn, checkpoint):
        self.graph, self.make, self._spawn, self._checkpoint = graph, make, spawn, checkpoint
        self.image = {c: graph.publisher(CompressedImage, f"/{c}/image_raw/compressed") for c in make.CAMERAS}
        self.info = {c: graph.publisher(CameraInfo, f"/{c}/camera_info") for c in make.CAMERAS}
        static = graph.publisher(TFMessage, "/tf_static", LATCHED)
        static.publish(TFMessage(transforms=[make.transform("base_link", c, make.FORWARD) for c in make.CAMERAS]))
        self._static = static
        self.results = graph.record(SemanticOccupancy, "/occupancy_node/occupancy")
        self.sent = 0

    def start(self, **parameters):
        values = {
            "cameras": f"[{', '.join(self.make.CAMERAS)}]",
            "checkpoint": self._checkpoint,
            "device": "cpu",
            "warm_up": "false",
            "log_period": "0.0",
            **parameters,
        }
        settings = [part for name, value in values.items() for part in ("-p", f"{name}:={value}")]
        node = self._spawn("-m", "gaussianocc_ros.occupancy_node", "--ros-args", *settings)
        publishers = [*self.image.values(), *self.info.values(), self._static]
        self.graph.until(lambda: all(p.get_subscription_count() for p in publishers), 90, "the node's subscriptions")
        return node

    def send(self):
        """One set of images, 30 ms after the last."""
        for i, camera in enumerate(self.make.CAMERAS):
            stamp = self.make.START_NS + (30 * self.sent + 5 * i) * MS
            self.info[camera].publish(self.make.camera_info(stamp, camera))
            self.image[camera].publish(self.make.jpeg(stamp, camera))
        self.sent += 1

    def until_results(self, count, timeout=90.0):
        """Send as long as it takes."""
        self.graph.until(lambda: self.send() or len(self.results) >= count, timeout, f"{count} results")


@pytest.fixture
def streams(graph, make, spawn, checkpoint):
    return Streams(graph, make, spawn, checkpoint)


def test_a_node_that_is_interrupted_at_work_and_started_again_goes_on(streams, make):
    """Slop below the period, or sets of two nodes' lives would share images."""
    for _ in range(3):
        before = len(streams.results)
        node = streams.start(slop="0.014")
        streams.until_results(before + 5)
        streams.send()
        node.popen.send_signal(signal.SIGINT)
        assert node.wait(30) == 0
        assert "Traceback" not in node.output and "ERROR" not in node.output
        streams.graph.until(lambda: not streams.image["front"].get_subscription_count(), what="that it is gone")
    known = {make.START_NS + 30 * n * MS for n in range(streams.sent)}
    assert {stamp_ns(message.header) for message in streams.results} <= known
    assert {message.header.frame_id for message in streams.results} == {"base_link"}


def test_memory_and_subscribers_that_come_and_go(streams):
    node = streams.start(slop="0.014")

    def resident():
        return int(Path(f"/proc/{node.popen.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    streams.until_results(60)
    before = resident()
    probe = streams.graph.probe
    for _ in range(3):
        flood = [
            probe.create_subscription(SemanticOccupancy, "/occupancy_node/occupancy", lambda message: None, 1)
            for _ in range(15)
        ]
        streams.until_results(len(streams.results) + 60)
        for subscription in flood:
            probe.destroy_subscription(subscription)
    assert resident() < 1.05 * before
    stamps = [stamp_ns(message.header) for message in streams.results]
    assert np.all(np.diff(stamps) > 0)
    assert node.popen.poll() is None and "Traceback" not in node.output
