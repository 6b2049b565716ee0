# SPDX-License-Identifier: Apache-2.0
"""What a rosbag2 holds: its topics, stamps, calibrations and poses, and what was wrong with them.

Made by one pass over the bag (`indexing`). Stamps are those of message headers, in ns; log times only say where in the
file a message lies.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from gaussianocc_core.bags.message_ref import MessageRef
from gaussianocc_core.bags.messages import Intrinsics
from gaussianocc_core.errors import BagError
from gaussianocc_core.geometry.transform_tree import TransformTree

_TF, _STATIC = "/tf", "/tf_static"
_JUMP_NS = 1_000_000_000  # a stamp that steps back farther means that the clock did
_FOREVER_NS = 1 << 62


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
    # Of compressed video: log time and place of the packet that decoding of each begins at; None for other types.
    keys: Int64[np.ndarray, "2 M"] | None = None

    def __len__(self) -> int:
        return len(self.stamps_ns)

    def __getitem__(self, index: int) -> MessageRef:
        key = None if self.keys is None else (int(self.keys[0, index]), int(self.keys[1, index]))
        return MessageRef(
            self.topic, int(self.stamps_ns[index]), int(self.logs_ns[index]), int(self.places[index]), key
        )

    def stretch(self, begin_ns: int, end_ns: int) -> TopicIndex:
        """The messages logged in [begin, end); of what is said only once, such as a mask, that."""
        kept = (self.logs_ns >= begin_ns) & (self.logs_ns < end_ns)
        before = self.logs_ns < begin_ns
        if not kept.any() and before.any() and len(self) == 1:
            kept[np.argmax(np.where(before, self.logs_ns, -1))] = True
        keys = None if self.keys is None else self.keys[:, kept]
        return replace(
            self, stamps_ns=self.stamps_ns[kept], logs_ns=self.logs_ns[kept], places=self.places[kept], keys=keys
        )


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
        tree = TransformTree(keep_ns=_FOREVER_NS, bridge_gaps=False, most_poses=_FOREVER_NS)
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
        by_child: dict[str, list[tuple[PoseSeries, int]]] = defaultdict(list)
        for _, series, i in sorted(said, key=lambda each: each[0]):
            by_child[series.child].append((series, i))
        for of_child in by_child.values():
            for series, i in _in_time(of_child):
                tree.add(series.parent, series.child, int(series.stamps_ns[i]), series.T_parent_child[i], series.static)
        return tree


def _in_time(said: list[tuple[PoseSeries, int]]) -> list[tuple[PoseSeries, int]]:
    """What was said of one frame, in the order in which it is quickly stored and means the same: a fixed place ends
    what came before it, and what was said last is the newest word on whose child the frame is."""
    fixed = max((k for k, (series, _) in enumerate(said) if series.static), default=-1)
    moving = said[fixed + 1 :]
    if not moving:
        return said[fixed:]
    return [*sorted(moving[:-1], key=lambda each: int(each[0].stamps_ns[each[1]])), moving[-1]]


def _one_run(series: PoseSeries) -> int:
    """How many of its poses came before the clock jumped back: the same stamps would mean other places."""
    if series.static or not len(series.stamps_ns):
        return len(series.stamps_ns)
    back = series.stamps_ns < np.maximum.accumulate(series.stamps_ns) - _JUMP_NS
    return int(np.argmax(back)) if back.any() else len(series.stamps_ns)
