# SPDX-License-Identifier: Apache-2.0
"""Random access to the messages of a rosbag2: opened once per process, read by reference."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from gaussianocc_core.bags.message_ref import MessageRef
from gaussianocc_core.bags.opened import open_bag
from gaussianocc_core.bags.typestore import typestore
from gaussianocc_core.bags.video_runs import Decoded, Run, Videos, together
from gaussianocc_core.errors import BagError, GaussianOccError
from gaussianocc_core.mistakes import reason_of

_GAP_NS = 100_000_000  # messages logged no farther apart are read in one go


class MessageReader:
    """Random access to the messages of one bag; every process opens its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = open_bag(path)
        self._store = typestore()
        self._connections: dict[str, list[Any]] = defaultdict(list)
        for connection in self._reader.connections:
            self._connections[connection.topic].append(connection)
        self._videos = Videos()
        self._lock = threading.Lock()  # of the decoders

    def read(self, refs: Sequence[MessageRef]) -> list[Any]:
        """The messages in the order asked for. Those logged close together cost one pass over their stretch.

        In place of a message of compressed video stands its `VideoPicture`, or `Undecodable`; what lies between it and
        its keyframe is read as well, unless that was read right before.
        """
        found: dict[MessageRef, Any] = {}
        videos = [ref for ref in refs if ref.key is not None]
        if videos:
            with self._lock:
                found.update(self._read_videos(videos))
        for group in _by_time([ref for ref in refs if ref.key is None]):
            wanted = {(ref.topic, ref.log_ns, ref.place): ref for ref in group}
            connections = [c for topic in sorted({ref.topic for ref in group}) for c in self._connections[topic]]
            places: dict[tuple[str, int], int] = defaultdict(int)
            try:
                for connection, log_ns, data in self._reader.messages(
                    connections, group[0].log_ns, group[-1].log_ns + 1, on_damage=_pass_over
                ):
                    place = places[connection.topic, log_ns]
                    places[connection.topic, log_ns] += 1
                    ref = wanted.get((connection.topic, log_ns, place))
                    if ref is not None:
                        found[ref] = self._store.deserialize_cdr(data, connection.msgtype)
            except GaussianOccError:
                raise
            except Exception as error:  # rosbags raises what its storage libraries raise
                reason = reason_of(error)
                raise BagError(f"{self.path}: messages near log time {group[0].log_ns} ns: {reason}") from error
        missing = next((ref for ref in refs if ref not in found), None)
        if missing is not None:
            raise BagError(
                f"{self.path}: no message of {missing.topic} at {missing.stamp_ns} ns any more; "
                "the bag changed after it was indexed: start again"
            )
        return [found[ref] for ref in refs]

    def _read_videos(self, refs: Sequence[MessageRef]) -> dict[MessageRef, Decoded]:
        found = self._videos.recall(refs)
        runs = self._videos.plan([ref for ref in refs if ref not in found])
        for group in together(runs):
            waiting: dict[str, list[Run]] = defaultdict(list)  # in order of time
            for run in group:
                waiting[run.topic].append(run)
            connections = [c for topic in sorted(waiting) for c in self._connections[topic]]
            begin, end = min(run.begin[0] for run in group), max(run.last[0] for run in group)
            places: dict[tuple[str, int], int] = defaultdict(int)
            try:
                for connection, log_ns, data in self._reader.messages(
                    connections, begin, end + 1, on_damage=_pass_over
                ):
                    topic = connection.topic
                    at = log_ns, places[topic, log_ns]
                    places[topic, log_ns] += 1
                    if not waiting[topic] or not waiting[topic][0].needs(at):
                        continue
                    run = waiting[topic][0]
                    try:
                        message = self._store.deserialize_cdr(data, connection.msgtype)
                    except (
                        Exception
                    ):  # whatever its parser stumbles over: the index has it not, what follows may need it
                        self._videos.lose(topic)
                        continue
                    self._videos.feed(run, at, message, found)
                    if at >= run.last:
                        waiting[topic].pop(0)
            except BaseException as error:
                self._videos.forget()
                if isinstance(error, GaussianOccError) or not isinstance(error, Exception):
                    raise
                reason = reason_of(error)  # rosbags raises what its storage libraries raise
                raise BagError(f"{self.path}: messages near log time {begin} ns: {reason}") from error
        return found


@lru_cache(maxsize=8)
def open_reader(path: Path) -> MessageReader:
    """This process's reader of a bag; kept open, because opening reads the whole summary."""
    return MessageReader(path)


def _by_time(refs: Sequence[MessageRef]) -> Iterator[list[MessageRef]]:
    group: list[MessageRef] = []
    for ref in sorted(set(refs), key=lambda ref: ref.log_ns):
        if group and ref.log_ns - group[-1].log_ns > _GAP_NS:
            yield group
            group = []
        group.append(ref)
    if group:
        yield group


def _pass_over(log_ns: int, reason: str) -> None:
    """The index has no messages of what is damaged, and says so."""
