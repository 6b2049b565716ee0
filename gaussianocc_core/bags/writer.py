# SPDX-License-Identifier: Apache-2.0
"""Recorded sensor data -> rosbag2 in the project's bag schema (see bag_encoder.py), one streaming pass per bag.

Log time is the header stamp and messages are in global time order; at one stamp the transform comes first, then
camera_info, the image, its labels, points, and the true occupancy. Latched topics stand at the beginning.
"""

from __future__ import annotations

import heapq
import json
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any
from zlib import crc32

from gaussianocc_core.bags.encoder import Encoder
from gaussianocc_core.bags.schema import (
    RECORD_ORDER,
    BagRig,
    Encoded,
    Record,
    Topic,
)
from gaussianocc_core.bags.typestore import import_rosbags
from gaussianocc_core.errors import BagError, DatasetError
from gaussianocc_core.files import make_hidden_folder, replace_folder

STORAGES = ("mcap", "sqlite3")
CONTENTS_KEY = "contents"  # in a bag's custom_data: JSON of messages and checksum by topic


@dataclass(frozen=True)
class TopicContents:
    """What a topic holds: the number of its messages, and CRC-32 over the bytes of all of them in order."""

    messages: int = 0
    checksum: int = 0

    def add(self, data: bytes) -> TopicContents:
        return TopicContents(self.messages + 1, crc32(data, self.checksum))


@dataclass(frozen=True)
class BagReport:
    """What was written."""

    path: Path
    messages: int
    bytes: int  # of all files of the bag
    seconds: float
    contents: Mapping[str, TopicContents] = field(default_factory=dict)  # by topic


def write_bag(
    path: Path,
    rig: BagRig,
    *streams: Iterable[Record],
    storage: str = "mcap",
    overwrite: bool = False,
    provenance: Mapping[str, str] | None = None,
    on_record: Callable[[Record], None] | None = None,
) -> BagReport:
    """Write the time-ordered streams, merged by stamp, to the folder `path`.

    Memory does not grow with the length of the streams. The bag appears under its name only when it is complete: until
    then, and after any error or interrupt, `path` is as it was. `provenance` ends up in the bag's custom_data, with
    counts and checksums by topic.
    """
    path = Path(path)
    if storage not in STORAGES:
        raise ValueError(f"storage: expected one of {STORAGES}, got {storage!r}")
    refuse_existing(path, overwrite)
    started = time.perf_counter()
    with _appear_when_complete(path) as unfinished:
        contents = _write(unfinished, rig, _in_order(streams), storage, dict(provenance or {}), on_record)
    size = sum(file.stat().st_size for file in path.iterdir())
    messages = sum(each.messages for each in contents.values())
    return BagReport(path, messages, size, time.perf_counter() - started, contents)


def refuse_existing(path: Path, overwrite: bool) -> None:
    """BagError where writing a bag to `path` would replace something that must stay."""
    if not path.exists():
        return
    if not overwrite:
        raise BagError(f"{path} exists already; remove it, choose another output folder, or say --overwrite")
    if not (path / "metadata.yaml").is_file():
        raise BagError(f"{path} exists and is not a rosbag2 (no metadata.yaml), so it is not overwritten; remove it")


# ---- files ---------------------------------------------------------------------------------------------------------


@contextmanager
def _appear_when_complete(path: Path) -> Iterator[Path]:
    # The storage file is named after its folder, so the unfinished bag already has its final name inside a hidden one.
    try:
        hidden = make_hidden_folder(path)
    except OSError as error:
        raise BagError(f"cannot write to {path.parent}: {error.strerror}; choose another output folder") from error
    try:
        yield hidden / path.name
        replace_folder(path, hidden / path.name, hidden / f"{path.name}.replaced")
    except (OSError, sqlite3.Error) as error:  # sources turn theirs into DatasetErrors: this one is the output's
        reason = getattr(error, "strerror", None) or error
        raise BagError(f"writing {path} failed: {reason}; nothing was left behind") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _in_order(streams: Iterable[Iterable[Record]]) -> Iterator[Record]:
    newest = None
    for record in heapq.merge(*streams, key=_order):
        if newest is not None and record.stamp_ns < newest:
            raise DatasetError(
                f"the source is not in time order: {type(record).__name__} at {record.stamp_ns} ns follows {newest} ns"
            )
        newest = record.stamp_ns
        yield record


def _order(record: Record) -> tuple[int, int]:
    return record.stamp_ns, RECORD_ORDER.index(type(record))


def _write(
    path: Path,
    rig: BagRig,
    records: Iterator[Record],
    storage: str,
    provenance: dict[str, str],
    on_record: Callable[[Record], None] | None,
) -> dict[str, TopicContents]:
    import_rosbags()
    from rosbags.rosbag2 import StoragePlugin

    from gaussianocc_core.bags.storage import BagWriter

    first = next(records, None)
    if first is None:
        raise DatasetError(f"nothing to write to {path.name}: the source has no images, lidar sweeps or poses")
    encoder = Encoder(rig)
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    with BagWriter(path, plugin) as writer:
        topics = _Topics(writer, encoder)
        for message in encoder.encode_static(first.stamp_ns):
            topics.put(first.stamp_ns, message)
        for record in chain((first,), records):
            for message in encoder.encode(record):
                topics.put(record.stamp_ns, message)
            if on_record:
                on_record(record)
        entries = {name: [each.messages, f"{each.checksum:08x}"] for name, each in topics.contents.items()}
        for key, value in {"schema": "gaussianocc", **provenance, CONTENTS_KEY: json.dumps(entries)}.items():
            writer.set_custom_data(key, value)
    return topics.contents


class _Topics:
    """The open bag's connections, and what went to each."""

    def __init__(self, writer: Any, encoder: Encoder) -> None:
        self._writer, self._typestore = writer, encoder.typestore
        self._connections: dict[str, Any] = {}
        self._counts: dict[str, int] = {}
        self._checksums: dict[str, int] = {}
        for topic in encoder.topics:
            self._connect(topic)

    def put(self, stamp_ns: int, message: Encoded) -> None:
        topic = message.topic
        connection = self._connections.get(topic.name) or self._connect(topic)
        self._writer.write(connection, stamp_ns, message.data)
        self._counts[topic.name] += 1
        self._checksums[topic.name] = crc32(message.data, self._checksums[topic.name])

    @property
    def contents(self) -> dict[str, TopicContents]:
        return {name: TopicContents(self._counts[name], checksum) for name, checksum in self._checksums.items()}

    def _connect(self, topic: Topic) -> Any:
        connection = self._writer.add_connection(
            topic.name,
            topic.msgtype,
            typestore=self._typestore,
            offered_qos_profiles=[_reliable_qos(topic.depth, topic.latched)],
        )
        self._connections[topic.name] = connection
        self._counts[topic.name] = self._checksums[topic.name] = 0
        return connection


def _reliable_qos(depth: int, latched: bool) -> Any:
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

    forever = QosTime(9223372036, 854775807)  # how rosbag2 writes "no deadline"
    return Qos(
        QosHistory.KEEP_LAST,
        depth,
        QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        forever,
        forever,
        QosLiveliness.AUTOMATIC,
        forever,
        False,
    )
