# SPDX-License-Identifier: Apache-2.0
"""What a rosbag2 holds: one pass over it, cached beside it, and random access to its messages afterwards.

Stamps are those of message headers, in ns; log times only say where in the file a message lies. A message that cannot
be used is named in `problems` and left out; so is a stretch of the file that cannot be read, and whatever else makes
this index hold less than was recorded.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from gaussianocc_core.arrays import check_npz
from gaussianocc_core.bags.image_codec import image_size
from gaussianocc_core.bags.messages import Intrinsics, decode_camera_info, decode_transform
from gaussianocc_core.bags.opened import (
    METADATA,
    OpenBag,
    bag_files,
    format_time,
    is_container,
    open_bag,
    siblings,
    splits,
)
from gaussianocc_core.bags.reader import MessageRef
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
from gaussianocc_core.errors import BagError, CalibrationError
from gaussianocc_core.files import complete_file
from gaussianocc_core.geometry.transform_tree import TransformTree
from gaussianocc_core.names import check_topic

_INDEXED = (IMAGE_TYPE, RAW_IMAGE_TYPE, CAMERA_INFO_TYPE, POINTS_TYPE, TF_TYPE, ODOMETRY_TYPE)
_VERSION = 4  # of the cache file
_SILENCE_NS = 3_600_000_000_000  # without any message: somebody set the clock, or paused the recorder
_SAME_PLACE = 1e-6  # by which a fixed transform may differ when it is said again, m and rotation matrix
_LEAST_CACHE = 1 << 26  # bytes that the arrays of a cache may have, beside four times its bag's: it says less than that
_TF, _STATIC = "/tf", "/tf_static"
_JUMP_NS = 1_000_000_000  # a stamp that steps back farther means that the clock did
_FOREVER_NS = 1 << 62

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TopicIndex:
    """The usable messages of one topic, in the order of the file."""

    topic: str
    msgtype: str
    frame_id: str  # of the first message
    size: tuple[int, int]  # width, height of its images; (0, 0) for other types
    encoding: str  # of its first image: "bgr8", "16UC1"; of compressed ones what the publisher says
    stamps_ns: Int64[np.ndarray, " M"]
    logs_ns: Int64[np.ndarray, " M"]
    places: Int64[np.ndarray, " M"]

    def __len__(self) -> int:
        return len(self.stamps_ns)

    def __getitem__(self, index: int) -> MessageRef:
        return MessageRef(self.topic, int(self.stamps_ns[index]), int(self.logs_ns[index]), int(self.places[index]))

    def stretch(self, begin_ns: int, end_ns: int) -> TopicIndex:
        """The messages logged in [begin, end); of what is said only once, such as a mask, that."""
        kept = (self.logs_ns >= begin_ns) & (self.logs_ns < end_ns)
        before = self.logs_ns < begin_ns
        if not kept.any() and before.any() and len(self) == 1:
            kept[np.argmax(np.where(before, self.logs_ns, -1))] = True
        return replace(self, stamps_ns=self.stamps_ns[kept], logs_ns=self.logs_ns[kept], places=self.places[kept])


@dataclass(frozen=True)
class PoseSeries:
    """Poses of one frame in another over time, as one topic gives them."""

    parent: str
    child: str
    topic: str
    stamps_ns: Int64[np.ndarray, " M"]
    T_parent_child: Float[np.ndarray, "M 4 4"]  # m
    logs_ns: Int64[np.ndarray, " M"]
    orders: Int64[np.ndarray, " M"]  # which transform of the whole bag each is

    @property
    def static(self) -> bool:
        return self.topic.endswith(_STATIC)


@dataclass(frozen=True)
class BagIndex:
    """One bag. Everything but the messages themselves."""

    path: Path
    topics: dict[str, TopicIndex]
    intrinsics: dict[str, tuple[tuple[int, Intrinsics], ...]]  # of CameraInfo topics: (first log time, value)
    poses: tuple[PoseSeries, ...]
    unsupported: dict[str, str]  # topic -> type that is not read
    problems: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)  # topic, or child frame -> why what is said of it is not used
    start_ns: int = 0  # log time
    end_ns: int = 0

    @property
    def name(self) -> str:
        return self.path.stem if self.path.is_file() else self.path.name

    def stretch(self, begin_s: float, end_s: float) -> BagIndex:
        """Of what was recorded in a stretch of the bag, in s from its start; an end of 0 is that of the bag.

        What holds until it changes stays: calibration and messages that a topic had last before, if it has none in the
        stretch; poses.
        """
        begin, end = self.start_ns + round(begin_s * 1e9), self.start_ns + round(end_s * 1e9) if end_s else self.end_ns
        if begin >= self.end_ns and begin_s:
            raise BagError(
                f"{self.path} is over {(self.end_ns - self.start_ns) * 1e-9:.1f} s after its start; "
                f"data.bag.begin={begin_s:g} leaves nothing of it"
            )
        if begin <= self.start_ns and end >= self.end_ns:
            return self
        topics = {name: each.stretch(begin, end) for name, each in self.topics.items()}
        intrinsics = {}
        for name, values in self.intrinsics.items():
            untils = [log_ns for log_ns, _ in values[1:]] + [_FOREVER_NS]
            intrinsics[name] = tuple(
                value for value, until in zip(values, untils, strict=True) if until > begin and value[0] < end
            )
        return replace(self, topics=topics, intrinsics=intrinsics, start_ns=begin, end_ns=end)

    def by_log_time(self) -> BagIndex:
        """The same with the time of recording in place of every header's stamp."""
        return replace(
            self,
            topics={name: replace(each, stamps_ns=each.logs_ns) for name, each in self.topics.items()},
            poses=tuple(replace(series, stamps_ns=series.logs_ns) for series in self.poses),
        )

    def transforms(self, odometry_topic: str = "") -> TransformTree:
        """The frames of /tf_static and /tf, and of an Odometry topic where one is named.

        Where a bag has one of them only under a namespace, as of one robot among several, that is taken; BagError if
        there are several, whose frames would have the same names.
        """
        topics = {series.topic for series in self.poses}
        wanted = set()
        for ending in (_TF, _STATIC):
            found = {ending} & topics or {topic for topic in topics if topic.endswith(ending)}
            if len(found) > 1:
                raise BagError(
                    f"{self.path} has TF of several robots: {', '.join(sorted(found))}; keep one of them "
                    "(ros2 bag convert), or give a rig file and name data.bag.odometry_topic"
                )
            wanted |= found
        tree = TransformTree(keep_ns=_FOREVER_NS, bridge_gaps=False)
        named = {series.child for series in self.poses if series.topic == odometry_topic}
        chosen = [
            series
            for series in self.poses
            if series.topic == odometry_topic  # the topic that was asked for takes the place of /tf
            or (series.topic in wanted and not (series.topic.endswith(_TF) and series.child in named))
        ]
        # As they were published: of two that say otherwise the last one holds.
        said = [
            (int(order), series, i) for series in chosen for i, order in enumerate(series.orders[: _one_run(series)])
        ]
        for _, series, i in sorted(said, key=lambda each: each[0]):
            tree.add(series.parent, series.child, int(series.stamps_ns[i]), series.T_parent_child[i], series.static)
        return tree


def _one_run(series: PoseSeries) -> int:
    """How many of its poses came before the clock jumped back: the same stamps would mean other places."""
    if series.static or not len(series.stamps_ns):
        return len(series.stamps_ns)
    back = series.stamps_ns < np.maximum.accumulate(series.stamps_ns) - _JUMP_NS
    return int(np.argmax(back)) if back.any() else len(series.stamps_ns)


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
    stored = _read_cache(path) if cache else None
    if stored is not None:
        return stored
    files = _fingerprint(path)  # before the pass: what a bag that still grows gets meanwhile is not in the index
    index = _build(path, on_progress)
    if cache:
        _write_cache(index, files)
    return index


def _is_bag_folder(path: Path) -> bool:
    return (path / METADATA).is_file()


# ---- the pass ------------------------------------------------------------------------------------------------------


@dataclass
class _Topic:
    msgtype: str
    frame_id: str = ""
    encoding: str = ""
    sizes: list[tuple[int, int]] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    logs: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


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
            if message is not None:
                entry.frame_id = entry.frame_id or message.header.frame_id
            entry.stamps.append(cdr_stamp_ns(data))
        except Exception as error:  # a damaged message: whatever its parser stumbles over
            self._refuse(topic, log_ns, "messages", f"{type(error).__name__}: {error}")
            self.refused.setdefault(topic, str(error))
            return
        entry.sizes.append(size)
        entry.logs.append(log_ns)
        entry.places.append(place)

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
        return TopicIndex(name, entry.msgtype, entry.frame_id, size, entry.encoding, *columns)

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
        return BagIndex(
            self.path, topics, intrinsics, poses, unsupported, tuple(self.problems), self.refused, start_ns, end_ns
        )


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
    for number, (connection, log_ns, data) in enumerate(
        reader.messages(wanted, on_damage=lambda at_ns, reason: damage[reason].append(at_ns)) if wanted else (), 1
    ):
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


# ---- cache ---------------------------------------------------------------------------------------------------------


def cache_path(path: Path) -> Path:
    """Where the index of a bag is kept."""
    if path.is_file():
        return path.parent / f".{path.name}.gaussianocc_index.npz"
    return path / ".gaussianocc_index.npz"


def _fingerprint(path: Path) -> list[list[Any]]:
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in bag_files(path)]


def _write_cache(index: BagIndex, files: list[list[Any]]) -> None:
    arrays: dict[str, Any] = {}
    for i, topic in enumerate(index.topics.values()):
        arrays[f"topic{i}"] = np.stack([topic.stamps_ns, topic.logs_ns, topic.places])
    for i, series in enumerate(index.poses):
        arrays[f"times{i}"] = np.stack([series.stamps_ns, series.logs_ns, series.orders])
        arrays[f"poses{i}"] = series.T_parent_child
    meta = {
        "version": _VERSION,
        "files": files,
        "topics": [[t.topic, t.msgtype, t.frame_id, t.size, t.encoding] for t in index.topics.values()],
        "poses": [[s.parent, s.child, s.topic] for s in index.poses],
        "intrinsics": {k: [[log_ns, asdict(v)] for log_ns, v in values] for k, values in index.intrinsics.items()},
        "unsupported": index.unsupported,
        "problems": index.problems,
        "refused": index.refused,
        "span": [index.start_ns, index.end_ns],
    }
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
    target = cache_path(index.path)
    try:
        with complete_file(target) as unfinished, unfinished.open("wb") as stream:
            np.savez(stream, **arrays)
    except OSError as error:  # read-only media: indexing again is all that is lost
        _log.info("the index of %s is not kept: %s", index.path, error.strerror)


def _read_cache(path: Path) -> BagIndex | None:
    target = cache_path(path)
    if not target.is_file():
        return None
    try:
        check_npz(target, _LEAST_CACHE + 4 * sum(size for _, size, _ in _fingerprint(path)))
        with np.load(target, allow_pickle=False) as file:
            meta = json.loads(file["meta"].tobytes())
            if meta["version"] != _VERSION or meta["files"] != _fingerprint(path):
                return None
            topics = {
                name: TopicIndex(name, msgtype, frame, (size[0], size[1]), encoding, *file[f"topic{i}"])
                for i, (name, msgtype, frame, size, encoding) in enumerate(meta["topics"])
            }
            poses = tuple(
                _series(parent, child, topic, file[f"times{i}"], file[f"poses{i}"])
                for i, (parent, child, topic) in enumerate(meta["poses"])
            )
        intrinsics = {k: tuple((s, _as_intrinsics(v)) for s, v in values) for k, values in meta["intrinsics"].items()}
        return BagIndex(
            path,
            topics,
            intrinsics,
            poses,
            meta["unsupported"],
            tuple(meta["problems"]),
            meta["refused"],
            *meta["span"],
        )
    except Exception as error:  # numpy, zipfile and json raise half a dozen kinds; the bag itself is what counts
        _log.info("the index %s is not used: %s", target, error)
        return None


def _series(parent: str, child: str, topic: str, times: np.ndarray, poses: np.ndarray) -> PoseSeries:
    stamps, logs, orders = times
    return PoseSeries(parent, child, topic, stamps, poses, logs, orders)


def _as_intrinsics(values: dict[str, Any]) -> Intrinsics:
    plain: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    return Intrinsics(**plain)
