# SPDX-License-Identifier: Apache-2.0
"""One pass over a rosbag2 makes its index, which is cached beside it (`index_cache`).

A message that cannot be used is named in `problems` and left out; so is a stretch of the file that cannot be read, and
whatever else makes the index hold less than was recorded.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from gaussianocc_core.bags.image_codec import image_size
from gaussianocc_core.bags.index import BagIndex, PoseSeries, TopicIndex
from gaussianocc_core.bags.index_cache import fingerprint, read_cache, write_cache
from gaussianocc_core.bags.messages import Intrinsics, decode_camera_info, decode_transform
from gaussianocc_core.bags.opened import (
    METADATA,
    OpenBag,
    format_time,
    is_container,
    open_bag,
    siblings,
    splits,
)
from gaussianocc_core.bags.schema import (
    CAMERA_INFO_TYPE,
    IMAGE_TYPE,
    ODOMETRY_TYPE,
    POINTS_TYPE,
    RAW_IMAGE_TYPE,
    TF_TYPE,
)
from gaussianocc_core.bags.stamps import cdr_stamp_ns, stamp_ns
from gaussianocc_core.bags.typestore import typestore
from gaussianocc_core.bags.video import VIDEO_TYPES, VideoError, VideoStream, as_packet, frame_id_of
from gaussianocc_core.errors import BagError, CalibrationError
from gaussianocc_core.mistakes import one_line
from gaussianocc_core.names import check_topic

_INDEXED = (IMAGE_TYPE, RAW_IMAGE_TYPE, *VIDEO_TYPES, CAMERA_INFO_TYPE, POINTS_TYPE, TF_TYPE, ODOMETRY_TYPE)
_SILENCE_NS = 3_600_000_000_000  # without any message: somebody set the clock, or paused the recorder
_SAME_PLACE = 1e-6  # by which a fixed transform may differ when it is said again, m and rotation matrix
_TF, _STATIC = "/tf", "/tf_static"

_log = logging.getLogger(__name__)


def find_bags(path: str | Path) -> tuple[Path, ...]:
    """The bags of a path, sorted: itself (a folder with metadata.yaml, an .mcap or .db3 file), or those it holds."""
    path = Path(path)
    if not path.exists():
        raise BagError(f"{path} does not exist; give a rosbag2 folder, an .mcap or .db3 file, or a folder of bags")
    if path.is_file() or _is_bag_folder(path):
        return (path,)
    within = [bag for each in path.iterdir() if each.is_dir() for bag in _bags_at(each)]
    found = tuple(sorted([*within, *_bags_at(path)]))
    if not found:
        raise BagError(
            f"{path} holds no bag: no metadata.yaml, no .mcap or .db3 file, no folder with one; "
            "a recording that was cut off has no metadata.yaml, then give its .mcap file"
        )
    return found


def _bags_at(path: Path) -> list[Path]:
    """A bag, or the files of a folder that a recording left when it was cut off: without metadata.yaml.

    The splits of one recording are one bag, and so that folder; of several in one folder each split is a bag.
    """
    if path.is_file():
        return [path] if is_container(path) else []
    if _is_bag_folder(path):
        return [path]
    recordings = list(splits(path).values())
    if len(recordings) == 1 and len(recordings[0]) > 1:
        return [path]
    return [file for files in recordings for file in files]


def open_index(path: str | Path, on_progress: Callable[[float], None] | None = None, cache: bool = True) -> BagIndex:
    """The index of one bag, from the cache if the bag has not changed.

    on_progress: called with the share of the bag that is done. BagError says what a bag that cannot be read needs.
    """
    path = Path(path)
    stored = read_cache(path) if cache else None
    if stored is not None:
        return stored
    files = fingerprint(path)  # before the pass: what a bag that still grows gets meanwhile is not in the index
    index = _build(path, on_progress)
    if cache:
        write_cache(index, files)
    return index


def _is_bag_folder(path: Path) -> bool:
    return (path / METADATA).is_file()


@dataclass
class _Topic:
    msgtype: str
    frame_id: str = ""
    encoding: str = ""
    sizes: list[tuple[int, int]] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    logs: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    keys: list[tuple[int, int]] = field(default_factory=list)  # of video


@dataclass
class _Video:
    """Of a topic of video: where what comes next can be decoded from, as log time and place of a packet."""

    stream: VideoStream = field(default_factory=VideoStream)
    key: tuple[int, int] | None = None
    key_before: tuple[int, int] | None = None
    parameters: tuple[int, int] | None = None  # sent by themselves, right before a keyframe

    def follow(self, message: Any, log_ns: int, place: int) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Size of the picture and its keyframe; None where the packet has no picture. VideoError where it cannot be
        decoded."""
        try:
            packet = as_packet(message)
        except VideoError:
            self.stream.lose("a packet before it cannot be used, and no keyframe has come since")
            raise
        unit, here = self.stream.follow(packet), (log_ns, place)
        if not unit.picture:
            self.parameters = here if unit.parameters else self.parameters
            return None
        if unit.keyframe:
            # Without parameter sets of its own it needs those from before: decoding begins where they are.
            start = here if unit.parameters else self.parameters or self.key or here
            self.key_before, self.key = self.key, start
        self.parameters = None
        key = self.key_before if unit.leading else self.key
        assert key is not None
        return unit.size, key


@dataclass
class _Poses:
    """What one topic says of one frame in another."""

    stamps: list[int] = field(default_factory=list)
    poses: list[np.ndarray] = field(default_factory=list)
    logs: list[int] = field(default_factory=list)
    orders: list[int] = field(default_factory=list)


@dataclass
class _Bad:
    """Messages of a topic, or transforms in them, that cannot be used for one reason."""

    what: str
    first_ns: int  # log time
    count: int = 0


class _Builder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.topics: dict[str, _Topic] = {}
        self.intrinsics: dict[str, list[tuple[int, Intrinsics]]] = defaultdict(list)
        self.poses: dict[tuple[str, str, str], _Poses] = defaultdict(_Poses)
        self.problems: list[str] = []
        self.refused: dict[str, str] = {}
        self._transforms = 0
        self._store = typestore()
        self._bad: dict[tuple[str, str], _Bad] = {}  # by topic and what is wrong
        self._videos: dict[str, _Video] = defaultdict(_Video)

    def add(self, topic: str, msgtype: str, log_ns: int, place: int, data: bytes) -> None:
        try:
            if msgtype == TF_TYPE:
                self._add_transforms(topic, log_ns, self._store.deserialize_cdr(data, msgtype))
                return
            message = None if msgtype == POINTS_TYPE else self._store.deserialize_cdr(data, msgtype)
            entry = self.topics.setdefault(topic, _Topic(msgtype))
            if msgtype == CAMERA_INFO_TYPE:
                self._add_intrinsics(topic, log_ns, message)
            elif msgtype == ODOMETRY_TYPE:
                self._add_odometry(topic, log_ns, message)
            size = (0, 0)
            if msgtype in (IMAGE_TYPE, RAW_IMAGE_TYPE):
                size = _checked_size(message)
                entry.encoding = entry.encoding or _encoding(message)
            elif msgtype in VIDEO_TYPES:
                found = self._videos[topic].follow(message, log_ns, place)
                if found is None:  # parameter sets without a picture
                    return
                size, key = found
                entry.encoding = entry.encoding or _encoding(message)
                entry.keys.append(key)
            if message is not None:
                entry.frame_id = entry.frame_id or frame_id_of(message)
            entry.stamps.append(cdr_stamp_ns(data))
        except VideoError as error:
            self._refuse(topic, log_ns, "video packets", str(error))
            self.refused.setdefault(topic, str(error))
            return
        except Exception as error:  # a damaged message: whatever its parser stumbles over
            if msgtype in VIDEO_TYPES:
                self._videos[topic].stream.lose("a message before it is damaged, and no keyframe has come since")
            self._refuse(topic, log_ns, "messages", f"{type(error).__name__}: {error}")
            self.refused.setdefault(topic, str(error))
            return
        entry.sizes.append(size)
        entry.logs.append(log_ns)
        entry.places.append(place)

    def lose(self) -> None:
        """A stretch of the file cannot be read: whatever topic it was of."""
        for video in self._videos.values():
            video.stream.lose("packets before it cannot be read from the file, and no keyframe has come since")

    def _refuse(self, topic: str, log_ns: int, of: str, what: str) -> None:
        # Numbers differ from message to message; what is wrong does not.
        bad = self._bad.setdefault((topic, re.sub(r"-?\d[\d.e+-]*|nan|inf", "#", f"{of}: {what}")), _Bad(what, log_ns))
        bad.what = bad.what if bad.count else f"{of} cannot be used, the first at log time {log_ns} ns: {what[:240]}"
        bad.count += 1

    def add_elsewhere(self, topic: str, msgtype: str, log_ns: int, data: bytes) -> None:
        """What another split of the recording says of frames or of a camera, before all that this one does."""
        if msgtype == TF_TYPE:
            self.add(topic, msgtype, log_ns, 0, data)
            return
        try:
            self._add_intrinsics(topic, log_ns, self._store.deserialize_cdr(data, msgtype))
        except Exception:  # as in `add`; what this split lacks is said by whoever misses it
            return
        self.topics.setdefault(topic, _Topic(msgtype))

    def _add_intrinsics(self, topic: str, log_ns: int, message: Any) -> None:
        value, known = decode_camera_info(message, topic), self.intrinsics[topic]
        if not known or known[-1][1] != value:
            known.append((log_ns, value))

    def _add_odometry(self, topic: str, log_ns: int, message: Any) -> None:
        pose = message.pose.pose
        transform = SimpleNamespace(translation=pose.position, rotation=pose.orientation)
        self._add_pose(topic, log_ns, message.header, message.child_frame_id, transform)

    def _add_transforms(self, topic: str, log_ns: int, message: Any) -> None:
        for item in message.transforms:  # each by itself: a broken one says nothing about the others of its message
            try:
                self._add_pose(topic, log_ns, item.header, item.child_frame_id, item.transform)
            except CalibrationError as error:
                child = item.child_frame_id.lstrip("/")
                self._refuse(topic, log_ns, f"transforms {item.header.frame_id} <- {child}", str(error))
                self.refused.setdefault(child, f"{topic} has for it {error}")

    def _add_pose(self, topic: str, log_ns: int, header: Any, child: str, transform: Any) -> None:
        for frame in (header.frame_id, child):
            check_topic(frame, "TF frame", CalibrationError)
        T = decode_transform(transform)
        known = self.poses[topic, header.frame_id.lstrip("/"), child.lstrip("/")]
        known.stamps.append(stamp_ns(header))
        known.poses.append(T)
        known.logs.append(log_ns)
        known.orders.append(self._transforms)
        self._transforms += 1

    def _finish_topic(self, name: str, entry: _Topic) -> TopicIndex:
        """Images of another size than most, such as a driver's first one, are left out; so are stamps of zero among
        others, which would look as if the clock had jumped back."""
        counts = Counter(entry.sizes)
        size = counts.most_common(1)[0][0] if counts else (0, 0)
        for other, count in counts.items():
            if other != size:
                self.problems.append(
                    f"{name}: {count} images of {other[0]}x{other[1]} pixels are left out, the others have "
                    f"{size[0]}x{size[1]}"
                )
        unset = entry.stamps.count(0)
        unset = unset if unset < len(entry.stamps) else 0  # of all of them something can be made: their log times
        if unset:
            self.problems.append(f"{name}: {unset} messages whose stamp is zero are left out")
        kept = [i for i, each in enumerate(entry.sizes) if each == size and (entry.stamps[i] or not unset)]
        columns = (np.array(values, dtype=np.int64)[kept] for values in (entry.stamps, entry.logs, entry.places))
        keys = np.array(entry.keys, dtype=np.int64).reshape(-1, 2)[kept].T if entry.msgtype in VIDEO_TYPES else None
        stamps, logs, places = columns
        return TopicIndex(name, entry.msgtype, entry.frame_id, size, entry.encoding, stamps, logs, places, keys)

    def finish(self, unsupported: dict[str, str], start_ns: int, end_ns: int) -> BagIndex:
        for (topic, _), bad in self._bad.items():
            self.problems.append(f"{topic}: {bad.count} {bad.what}")
        topics = {name: self._finish_topic(name, entry) for name, entry in self.topics.items()}
        poses = tuple(
            PoseSeries(
                parent,
                child,
                topic,
                np.array(known.stamps, dtype=np.int64),
                np.array(known.poses),
                np.array(known.logs, dtype=np.int64),
                np.array(known.orders, dtype=np.int64),
            )
            for (topic, parent, child), known in self.poses.items()
        )
        self.problems += _contradictions(poses)
        intrinsics = {topic: tuple(values) for topic, values in self.intrinsics.items()}
        problems = tuple(map(one_line, self.problems))  # they quote what messages say
        return BagIndex(self.path, topics, intrinsics, poses, unsupported, problems, self.refused, start_ns, end_ns)


def _contradictions(poses: tuple[PoseSeries, ...]) -> list[str]:
    """Frames that are said to be in two places, as somebody's second TF publisher makes them."""
    found = []
    said: dict[tuple[str, str], list[PoseSeries]] = defaultdict(list)  # by namespace and child
    for series in poses:
        if series.topic.endswith((_TF, _STATIC)):
            said[series.topic.rsplit("/", 1)[0], series.child].append(series)
        if not series.static:
            continue
        places = series.T_parent_child
        moved = np.abs(places - places[0]).reshape(len(places), -1).max(axis=1) > _SAME_PLACE
        if moved.any():
            before, last = (np.round(T[:3, 3], 3).tolist() for T in (places[0], places[-1]))
            found.append(
                f"{series.topic}: the fixed place of {series.child} in {series.parent} changes, from {before} to "
                f"{last} m or another direction; the last one is used, as TF does: only one node may publish it"
            )
    for (_, child), claims in said.items():
        parents = Counter({series.parent: 0 for series in claims})
        for series in claims:
            parents[series.parent] += len(series.stamps_ns)
        if len(parents) > 1:
            each = ", ".join(f"{parent} ({count} times)" for parent, count in parents.items())
            found.append(f"TF: {child} has several parents: {each}; what came last holds: only one node may publish it")
    return found


def _checked_size(message: Any) -> tuple[int, int]:
    """Width and height of an image; ValueError where its data cannot hold it."""
    if not hasattr(message, "encoding"):
        return image_size(memoryview(message.data))
    size = (int(message.width), int(message.height))
    if len(message.data) < message.step * message.height or min(size) < 1:
        raise ValueError(f"{size[0]}x{size[1]} pixels of {message.encoding} in {len(message.data)} bytes")
    return size


def _encoding(message: Any) -> str:
    """That of a raw image; of a compressed one the word before the first ";", where image_transport puts it."""
    return message.encoding if hasattr(message, "encoding") else message.format.split(";")[0].strip()


def _build(path: Path, on_progress: Callable[[float], None] | None) -> BagIndex:
    reader, builder = open_bag(path), _Builder(path)
    try:
        if not reader.message_count:
            raise BagError(f"{path} is empty; record again")
        builder.problems += reader.problems
        wanted = [connection for connection in reader.connections if connection.msgtype in _INDEXED]
        unsupported = {c.topic: c.msgtype for c in reader.connections if c.msgtype not in _INDEXED}
        read = _read_all(reader, builder, wanted, on_progress)
        short = [f"{c.topic} {read[c.topic]} of {c.msgcount}" for c in wanted if read[c.topic] < c.msgcount]
        if short:
            builder.problems.append(f"fewer messages can be read than are stored: {', '.join(short)}")
        if path.is_file():
            _borrow(path, builder)
        return builder.finish(unsupported, reader.start_time, reader.end_time)
    finally:
        reader.close()


def _read_all(
    reader: OpenBag, builder: _Builder, wanted: list[Any], on_progress: Callable[[float], None] | None
) -> Counter[str]:
    """Every message once; returns how many of each topic there were."""
    total = sum(connection.msgcount for connection in wanted)
    read: Counter[str] = Counter()
    places: dict[str, tuple[int, int]] = {}  # topic -> its newest log time, and how many messages have it so far
    damage: dict[str, list[int]] = defaultdict(list)
    before = None

    def note(at_ns: int, reason: str) -> None:
        damage[reason].append(at_ns)
        builder.lose()

    for number, (connection, log_ns, data) in enumerate(reader.messages(wanted, on_damage=note) if wanted else (), 1):
        topic = connection.topic
        newest, place = places.get(topic, (None, 0))
        place = place + 1 if newest == log_ns else 0
        places[topic] = log_ns, place
        builder.add(topic, connection.msgtype, log_ns, place, data)
        read[topic] += 1
        if before is not None and before >= reader.start_time and log_ns - before > _SILENCE_NS:
            builder.problems.append(
                f"nothing was recorded for {(log_ns - before) / 3.6e12:.1f} h, from {format_time(before)} to "
                f"{format_time(log_ns)}: the clock was set meanwhile, or the recorder paused"
            )
        before = log_ns
        if on_progress and number % 64 == 0:
            on_progress(number / total)
    for reason, at in damage.items():
        where = f"{(min(at) - reader.start_time) * 1e-9:.1f}"
        builder.problems.append(
            f"{where} s after its start the file cannot be read completely, what is damaged is left out: {reason}"
        )
    if on_progress:
        on_progress(1.0)
    return read


def _borrow(path: Path, builder: _Builder) -> None:
    """What is said once, and so stands in one split only, holds for the others: /tf_static and calibration."""
    for file in siblings(path):
        try:
            other = open_bag(file)
        except BagError as error:
            _log.info("%s: nothing is taken from its other split: %s", path, error)
            continue
        try:
            for connection in other.connections:
                if connection.msgtype == TF_TYPE and connection.topic.endswith(_STATIC):
                    for _, log_ns, data in other.messages([connection]):
                        builder.add_elsewhere(connection.topic, connection.msgtype, log_ns, data)
                elif connection.msgtype == CAMERA_INFO_TYPE and connection.topic not in builder.intrinsics:
                    for _, log_ns, data in islice(other.messages([connection]), 1):
                        builder.add_elsewhere(connection.topic, connection.msgtype, log_ns, data)
        except Exception as error:  # rosbags raises what its storage libraries raise
            _log.info("%s: %s is damaged: %s", path, file, error)
        finally:
            other.close()
