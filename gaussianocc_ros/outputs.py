# SPDX-License-Identifier: Apache-2.0
"""The node's output topics: what each is made by, its QoS, and that nothing is computed for nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from sensor_msgs.msg import PointCloud2
from visualization_msgs.msg import MarkerArray

from gaussianocc_core.types import OccupancyPrediction
from gaussianocc_ros import conversions
from gaussianocc_ros.msg import SemanticOccupancy
from gaussianocc_ros.parameters import NodeParameters

Encode = Callable[[OccupancyPrediction, int, str], Any]  # prediction, stamp in ns, frame -> message or its CDR bytes


class Outputs:
    """A lifecycle publisher and an encoder per topic."""

    def __init__(self, node: LifecycleNode, parameters: NodeParameters) -> None:
        self._node, self._frame = node, parameters.ego_frame
        self._topics: list[tuple[Any, Encode]] = []
        self._offer(SemanticOccupancy, "~/occupancy", conversions.encode_occupancy)
        if parameters.publish_points:
            self._offer(PointCloud2, "~/points", conversions.encode_points)
        if parameters.publish_markers:
            self._offer(MarkerArray, "~/markers", conversions.serialize_markers)

    def _offer(self, kind: Any, topic: str, encode: Encode) -> None:
        self._topics.append((self._node.create_lifecycle_publisher(kind, topic, QoSProfile(depth=1)), encode))

    def publish(self, prediction: OccupancyPrediction, stamp_ns: int) -> None:
        for publisher, encode in self._topics:
            if publisher.get_subscription_count():
                publisher.publish(encode(prediction, stamp_ns, self._frame))

    def close(self) -> None:
        while self._topics:
            self._node.destroy_lifecycle_publisher(self._topics.pop()[0])
