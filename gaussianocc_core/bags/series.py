# SPDX-License-Identifier: Apache-2.0
"""The messages of a topic by stamp: the one of a stamp, the ones beside it, and where a clock jumped back."""

from __future__ import annotations

import bisect

import numpy as np

from gaussianocc_core.bags.index import TopicIndex
from gaussianocc_core.bags.message_ref import MessageRef

_TOLERANCE = 0.25  # of the wanted time to a neighbour
_JUMP_NS = 1_000_000_000  # a stamp that steps back farther begins another run


class Series:
    """The messages of a topic by stamp, in runs: a clock that jumps back begins a new one, and runs have nothing to do
    with each other even where they have stamps in common."""

    def __init__(self, topic: TopicIndex) -> None:
        self._topic = topic
        newest = np.maximum.accumulate(topic.stamps_ns)
        jumps = np.flatnonzero(np.diff(topic.stamps_ns) < 0)
        starts = [0, *(int(i) + 1 for i in jumps if topic.stamps_ns[i + 1] < newest[i] - _JUMP_NS)]
        self._logs = topic.logs_ns[starts]
        orders = [
            begin + np.argsort(topic.stamps_ns[begin:end], kind="stable")
            for begin, end in zip(starts, [*starts[1:], len(topic)], strict=True)
        ]
        self._runs = [(order, topic.stamps_ns[order]) for order in orders]

    def at(self, ref: MessageRef) -> MessageRef | None:
        """The message of the same stamp as one of another topic, recorded in the same run."""
        run, stamps = self._run(ref)
        place = bisect.bisect_left(stamps, ref.stamp_ns)
        return self._topic[int(run[place])] if place < len(run) and stamps[place] == ref.stamp_ns else None

    def beside(self, ref: MessageRef, offset: int, distance_s: float) -> MessageRef | None:
        """The message nearest to `distance_s` before (-1) or after (+1), or if 0 the next in that direction."""
        run, stamps = self._run(ref)
        if distance_s:
            wanted = ref.stamp_ns + offset * round(distance_s * 1e9)
            place = bisect.bisect_left(stamps, wanted)
            place = min((place - 1, place), key=lambda p: abs(stamps[p] - wanted) if 0 <= p < len(run) else np.inf)
            near = abs(int(stamps[place]) - wanted) <= _TOLERANCE * distance_s * 1e9
            return self._topic[int(run[place])] if near else None
        if offset < 0:
            place = bisect.bisect_left(stamps, ref.stamp_ns) - 1
        else:
            place = bisect.bisect_right(stamps, ref.stamp_ns)
        return self._topic[int(run[place])] if 0 <= place < len(run) else None

    def refs(self) -> list[MessageRef]:
        """All messages, run after run in order of their stamps."""
        return [self._topic[int(i)] for order, _ in self._runs for i in order]

    def run_of(self, ref: MessageRef) -> int:
        """In which run a message was recorded, also one of another topic."""
        return max(bisect.bisect_right(self._logs, ref.log_ns) - 1, 0)

    def _run(self, ref: MessageRef) -> tuple[np.ndarray, np.ndarray]:
        return self._runs[self.run_of(ref)]
