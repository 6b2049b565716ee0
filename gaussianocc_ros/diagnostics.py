# SPDX-License-Identifier: Apache-2.0
"""What the node counts and times, and how /diagnostics says it."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

# In the order of events. calibrate: CameraInfo and TF; total: arrival of the set's last image to publication.
STAGES = ("queue", "calibrate", "decode", "predict", "encode", "total")
_WINDOW = 100  # sets over which medians are taken
_RATE_WINDOW = 30.0  # s
_MAX_AGE = 3600.0  # s; an older "age" means that the clock and the stamps tell different times


class NodeStatistics:
    """Counts since activation and the last stage times; written by the inference thread, read by a timer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.sets = 0
        self.drops: Counter[str] = Counter()  # reason -> sets
        self.left_out: Counter[str] = Counter()  # reason -> images that a set did without
        self._seconds: dict[str, deque[float]] = {stage: deque(maxlen=_WINDOW) for stage in STAGES}
        self._ages: deque[float] = deque(maxlen=_WINDOW)
        self._published: deque[float] = deque(maxlen=_WINDOW)  # monotonic times

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.record(stage, time.perf_counter() - begin)

    def record(self, stage: str, seconds: float) -> None:
        with self._lock:
            self._seconds[stage].append(seconds)

    def count_drop(self, reason: str) -> None:
        with self._lock:
            self.drops[reason] += 1

    def count_left_out(self, reason: str) -> None:
        with self._lock:
            self.left_out[reason] += 1

    def count_set(self, age: float) -> None:
        """`age`: publication minus the anchor's stamp, s, by the node's clock."""
        with self._lock:
            self.sets += 1
            self._published.append(time.monotonic())
            if 0 <= age < _MAX_AGE:
                self._ages.append(age)

    def summary(self) -> dict[str, str]:
        """Key -> value as /diagnostics shows them; stage times are medians in ms."""
        with self._lock:
            times = [t for t in self._published if t > time.monotonic() - _RATE_WINDOW]
            rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0
            values = {"sets": str(self.sets), "sets per second": f"{rate:.2f}"}
            values["age ms"] = f"{1e3 * np.median(self._ages):.0f}" if self._ages else "unknown"
            for stage, seconds in self._seconds.items():
                if seconds:
                    values[f"{stage} ms"] = f"{1e3 * np.median(seconds):.1f}"
            for reason, count in sorted(self.drops.items()):
                values[f"dropped: {reason}"] = str(count)
            for reason, count in sorted(self.left_out.items()):
                values[f"images left out: {reason}"] = str(count)
            return values


def diagnostic_array(
    stamp: Time, node_name: str, hardware: str, problem: str, values: dict[str, str]
) -> DiagnosticArray:
    """One status: OK, or WARN with the problem as its message."""
    status = DiagnosticStatus(
        level=DiagnosticStatus.WARN if problem else DiagnosticStatus.OK,
        name=f"{node_name}: occupancy",
        message=problem or "publishing",
        hardware_id=hardware,
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
    message = DiagnosticArray(status=[status])
    message.header.stamp = stamp
    return message
