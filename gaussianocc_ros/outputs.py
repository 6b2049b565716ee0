# SPDX-License-Identifier: Apache-2.0
"""The node's output topics: what each is made by, its QoS, and that nothing is computed for nobody."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from sensor_msgs.msg import PointCloud2
from visualization_msgs.msg import MarkerArray

from gaussianocc_core.types import OccupancyPrediction
from gaussianocc_ros import conversions
from gaussianocc_ros.msg import SemanticOccupancy
from gaussianocc_ros.parameters import NodeParameters

# Reliable, but DDS repairs only what is still among the last `depth` messages, and takes its time: Fast DDS asks every
# 3 s what is missing. Megabytes travel as many fragments; with a depth of 1, the next message replaces one of which a
# fragment was lost (Wi-Fi, a busy machine) before it is repaired. Five span 3 s at 1.7 Hz and still bound memory.
_DEPTH = 5
# No depth is enough for a subscriber that stays behind (of 30 MarkerArrays of 4 MB in a row, 1 arrived with a depth of
# 1, 8 with 5): a lossless replay waits until all have what was published. Not for ever: one may have died silently.
_DELIVERY_TIMEOUT = 10.0  # s

Encode = Callable[[OccupancyPrediction, int, str], Any]  # prediction, stamp in ns, frame -> message or its CDR bytes


class Outputs:
    """A lifecycle publisher and an encoder per topic."""

    def __init__(self, node: LifecycleNode, parameters: NodeParameters) -> None:
        self._node, self._frame, self._lossless = node, parameters.ego_frame, parameters.reliable
        self._topics: list[tuple[Any, Encode]] = []
        self._offer(SemanticOccupancy, "~/occupancy", conversions.encode_occupancy)
        if parameters.publish_points:
            self._offer(PointCloud2, "~/points", conversions.encode_points)
        if parameters.publish_markers:
            encode = partial(conversions.serialize_markers, exposed_only=parameters.markers_exposed_only)
            self._offer(MarkerArray, "~/markers", encode)

    def _offer(self, kind: Any, topic: str, encode: Encode) -> None:
        self._topics.append((self._node.create_lifecycle_publisher(kind, topic, QoSProfile(depth=_DEPTH)), encode))

    def publish(self, prediction: OccupancyPrediction, stamp_ns: int) -> None:
        for publisher, encode in self._topics:
            if publisher.get_subscription_count():
                publisher.publish(encode(prediction, stamp_ns, self._frame))

    def undelivered(self) -> list[str]:
        """Waits for all subscribers if the replay is lossless; topics of which one still lacks messages after that."""
        if not self._lossless:
            return []
        deadline = time.monotonic() + _DELIVERY_TIMEOUT
        return [publisher.topic_name for publisher, _ in self._topics if not self._delivered(publisher, deadline)]

    def _delivered(self, publisher: Any, deadline: float) -> bool:
        """Waits in short steps, to notice Ctrl-C."""
        while self._node.context.ok() and time.monotonic() < deadline:
            if publisher.wait_for_all_acked(Duration(seconds=0.1)):
                return True
        return False

    def close(self) -> None:
        while self._topics:
            self._node.destroy_lifecycle_publisher(self._topics.pop()[0])
