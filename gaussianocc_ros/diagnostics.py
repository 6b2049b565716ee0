# SPDX-License-Identifier: Apache-2.0
"""What the node counts and times."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

# In the order of events. calibrate: CameraInfo and TF; total: arrival of the set's last image to publication.
STAGES = ("queue", "decode", "calibrate", "predict", "fuse", "encode", "render", "total")
_WINDOW = 100  # sets over which medians are taken
_FEW = 9  # results by which age is judged: one of them may be late, and it must follow within seconds
_RATE_WINDOW = 30.0  # s
MAX_AGE = 3600.0  # s; an older "age" means that the clock and the stamps tell different times


class NodeStatistics:
    """Counts since activation and the last stage times; written by the inference thread, read by a timer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.sets = 0
        self.last_published = time.monotonic()  # or activated
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
            self.last_published = time.monotonic()
            self._published.append(self.last_published)
            if 0 <= age < MAX_AGE:
                self._ages.append(age)
            else:
                self._ages.clear()

    @property
    def rate(self) -> float:
        """Sets per second of late."""
        with self._lock:
            return _rate(self._published)

    @property
    def age(self) -> float | None:
        """Median age of the last results, s; None where clock and stamps tell different times."""
        with self._lock:
            return float(np.median(list(self._ages)[-_FEW:])) if self._ages else None

    def summary(self) -> dict[str, str]:
        """Key -> value as /diagnostics shows them; stage times are medians in ms."""
        rate, age = self.rate, self.age
        with self._lock:
            values = {"sets": str(self.sets), "sets per second": f"{rate:.2f}"}
            values["age ms"] = "unknown" if age is None else f"{1e3 * age:.0f}"
            for stage, seconds in self._seconds.items():
                if seconds:
                    values[f"{stage} ms"] = f"{1e3 * np.median(seconds):.1f}"
            for reason, count in sorted(self.drops.items()):
                values[f"dropped: {reason}"] = str(count)
            for reason, count in sorted(self.left_out.items()):
                values[f"images left out: {reason}"] = str(count)
            return values


class CameraStatistics:
    """Arrivals of one camera's images; written and read by the executor's thread."""

    def __init__(self) -> None:
        self.received = 0
        self.last_arrival = time.monotonic()  # or activation
        self.unstamped = False  # the last image's stamp is zero
        self._arrivals: deque[float] = deque(maxlen=_WINDOW)
        self._delays: deque[float] = deque(maxlen=_WINDOW)
        self._offsets: deque[float] = deque(maxlen=_FEW)

    def arrived(self, delay: float | None) -> None:
        """`delay`: arrival minus stamp, s, by the node's clock; None for a stamp of zero."""
        self.received += 1
        self.last_arrival = time.monotonic()
        self._arrivals.append(self.last_arrival)
        self.unstamped = delay is None
        if delay is None:
            return
        self._offsets.append(delay)
        if abs(delay) < MAX_AGE:
            self._delays.append(delay)

    @property
    def offset(self) -> float | None:
        """Median of the last images' arrivals minus stamps, s, however large; None before there are enough."""
        return float(np.median(self._offsets)) if len(self._offsets) == _FEW else None

    @property
    def rate(self) -> float:
        """Images per second of late."""
        return _rate(self._arrivals)

    @property
    def delay(self) -> float | None:
        """Median time from stamp to arrival, s; None where clock and stamps tell different times."""
        return float(np.median(self._delays)) if self._delays else None


def _rate(times: deque[float]) -> float:
    """Per second over the last half minute, up to now: it falls when nothing comes any more."""
    now = time.monotonic()
    recent = [t for t in times if t > now - _RATE_WINDOW]
    if len(recent) < 2:
        return 0.0
    usual = (recent[-1] - recent[0]) / (len(recent) - 1)
    return (len(recent) - 1) / (max(recent[-1], now - 2 * usual) - recent[0])


def memory_mb() -> float:
    """Resident memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6
