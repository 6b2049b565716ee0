# SPDX-License-Identifier: Apache-2.0
"""Random access to the messages of a rosbag2: opened once per process, read by reference."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from gaussianocc_core.bags.opened import open_bag
from gaussianocc_core.bags.typestore import typestore
from gaussianocc_core.errors import BagError, GaussianOccError
from gaussianocc_core.mistakes import reason_of

_GAP_NS = 100_000_000  # messages logged no farther apart are read in one go


@dataclass(frozen=True)
class MessageRef:
    """One message of a bag."""

    topic: str
    stamp_ns: int  # header
    log_ns: int
    place: int  # among the topic's messages of that log time


class MessageReader:
    """Random access to the messages of one bag; every process opens its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = open_bag(path)
        self._store = typestore()
        self._connections: dict[str, list[Any]] = defaultdict(list)
        for connection in self._reader.connections:
            self._connections[connection.topic].append(connection)

    def read(self, refs: Sequence[MessageRef]) -> list[Any]:
        """The messages in the order asked for. Those logged close together cost one pass over their stretch."""
        found: dict[MessageRef, Any] = {}
        for group in _by_time(refs):
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
