# SPDX-License-Identifier: Apache-2.0
"""What the node says about itself: /diagnostics once a second, a log line now and then, throttled warnings at once."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode

from gaussianocc_core.data.sets import SetStatistics
from gaussianocc_ros.camera_rig import CameraRig
from gaussianocc_ros.diagnostics import NodeStatistics, diagnostic_array
from gaussianocc_ros.parameters import NodeParameters

_WARN_PERIOD = 5.0  # s between two warnings of one kind
_SILENT_AFTER = 3.0  # s without an image until a camera is called silent


class Reporter:
    """Told what happens by the executor's and the inference thread; between `start` and `stop` it reports."""

    def __init__(
        self, node: LifecycleNode, parameters: NodeParameters, cameras: tuple[str, ...], hardware: str
    ) -> None:
        self.statistics = NodeStatistics()
        self._node, self._parameters, self._cameras, self._hardware = node, parameters, cameras, hardware
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)  # goes on while a paused bag holds /clock
        self._timer: Any = None
        self._warned: dict[str, float] = {}  # kind -> monotonic time

    def start(self, rig: CameraRig, sets: SetStatistics) -> None:
        """Count from zero, report on these."""
        self.statistics = NodeStatistics()
        self._rig, self._sets = rig, sets
        self._started = self._last_log = time.monotonic()
        self._last_arrival: dict[str, float] = {}
        self._set_problem = ""  # of the last set
        self._at_work = False
        self._timer = self._node.create_timer(1.0, self._report, clock=self._steady)

    def stop(self) -> None:
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None

    def close(self) -> None:
        self.stop()
        self._node.destroy_publisher(self._publisher)

    # ---- what happens ----------------------------------------------------------------------------------------------

    def image_arrived(self, camera: str) -> None:
        self._last_arrival[camera] = time.monotonic()

    @property
    def works(self) -> bool:
        """Whether a set is in work."""
        return self._at_work

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While a set is in work: a lossless replay sends no images meanwhile, which is then no silence."""
        self._at_work = True
        try:
            yield
        finally:
            self._at_work = False

    def set_published(self, stamp_ns: int, completed: float) -> None:
        """`completed`: when the set's last image came, by time.perf_counter."""
        self._set_problem = ""
        self.statistics.record("total", time.perf_counter() - completed)
        self.statistics.count_set((self._node.get_clock().now().nanoseconds - stamp_ns) * 1e-9)

    def set_dropped(self, reason: str, text: str) -> None:
        self.statistics.count_drop(reason)
        self._set_problem = text
        self.warn(reason, f"set dropped ({self.statistics.drops[reason]} so far, {reason}): {text}")

    def set_failed(self, error: Exception) -> None:
        """A fault of ours must not end the node: it is counted, and logged in full."""
        self._node.get_logger().error(traceback.format_exc(), throttle_duration_sec=_WARN_PERIOD)
        self.set_dropped("internal error", repr(error))

    def warn(self, kind: str, text: str) -> None:
        """At most one line per kind and period; rclpy throttles by source line and would mix the kinds."""
        now = time.monotonic()
        if now - self._warned.get(kind, -_WARN_PERIOD) >= _WARN_PERIOD:
            self._warned[kind] = now
            self._node.get_logger().warning(" ".join(text.split()))

    # ---- what is said ----------------------------------------------------------------------------------------------

    def _report(self) -> None:
        now = time.monotonic()
        problem, values = self._problem(now), self._values()
        stamp, name = self._node.get_clock().now().to_msg(), self._node.get_fully_qualified_name()
        self._publisher.publish(diagnostic_array(stamp, name, self._hardware, problem, values))
        period = self._parameters.log_period
        if period and now - self._last_log >= period:
            self._last_log = now
            self._node.get_logger().info(", ".join(f"{key} {value}" for key, value in values.items()))

    def _problem(self, now: float) -> str:
        """What keeps the node from publishing, worst first; "" if nothing does."""
        if silent := "; ".join(self._silent_cameras(now)):
            self.warn("silent", f"{silent}; check the topic, its QoS and the parameters cameras and image_topic")
            return silent
        if now - self._started >= _SILENT_AFTER and (missing := "; ".join(self._rig.missing().values())):
            self.warn("missing", missing)
            return missing
        return self._set_problem

    def _silent_cameras(self, now: float) -> list[str]:
        """One phrase for each camera that sends nothing, or one for all."""
        if self._parameters.reliable and self._at_work:  # a lossless replay waits for the result
            return []
        topics = {camera: self._parameters.image_topic_of(camera) for camera in self._cameras}
        since = {camera: now - self._last_arrival.get(camera, self._started) for camera in self._cameras}
        silent = [camera for camera, age in since.items() if age > _SILENT_AFTER]
        if len(silent) == len(topics) > 1:
            return [f"no image from any camera for {min(since.values()):.0f} s, on {', '.join(topics.values())}"]
        return [f"{camera}: no image on {topics[camera]} for {since[camera]:.0f} s" for camera in silent]

    def _values(self) -> dict[str, str]:
        values = self.statistics.summary()
        for reason, count in sorted(self._sets.dropped.items()):
            values[f"dropped: {reason}"] = str(count)
        if self._sets.degraded:
            values["sets without all cameras"] = str(self._sets.degraded)
        for camera, count in sorted(self._sets.missing.items()):
            values[f"incomplete without {camera}"] = str(count)
        return values
