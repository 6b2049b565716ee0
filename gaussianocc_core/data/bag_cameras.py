# SPDX-License-Identifier: Apache-2.0
"""Which cameras of which bags, and the topics that belong to each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gaussianocc_core.bags.index import BagIndex, TopicIndex
from gaussianocc_core.bags.schema import EGO_FRAME, IMAGE_TYPE, ODOM_FRAME, RAW_IMAGE_TYPE
from gaussianocc_core.bags.video import VIDEO_TYPES
from gaussianocc_core.errors import BagError
from gaussianocc_core.names import check_name, check_topic

_NOT_A_CAMERA = ("semantic", "depth", "mask", "disparity", "confidence", "legend")  # images beside those of cameras
_IMAGES = (IMAGE_TYPE, RAW_IMAGE_TYPE, *VIDEO_TYPES)  # where a camera has several, the first of these is taken
_TRANSPORTS = ("ffmpeg", "foxglove", "video", "h264", "h265")  # last parts of topics, beside compressed...
_LABELS = "semantic/image_raw"
_MASK = "mask"


@dataclass(frozen=True)
class BagConfig:
    """Which cameras of which bags, and how they become samples."""

    path: str = ""  # a rosbag2 (folder, .mcap or .db3 file), or a folder of them
    cameras: tuple[str, ...] = ()  # names, the anchor first; (): all, counter-clockwise from the front
    image_topic: str = ""  # with {camera}, as the node takes it; "": found by type
    camera_info_topic: str = ""  # with {camera}; "": camera_info beside the images
    rig: str = ""  # rig file (config/rig/), in place of CameraInfo and /tf_static
    ego_frame: str = EGO_FRAME
    fixed_frame: str = ODOM_FRAME  # odometry: its transform to the ego frame, if there is one
    odometry_topic: str = ""  # nav_msgs/Odometry, where /tf does not hold the motion
    labels: str = ""  # folder of tools/label_semantics.py: <bag>/<camera>/<stamp in ns>.png; "": topics, if any
    begin: float = 0.0  # s from the start of each bag: what was recorded earlier is not used
    end: float = 0.0  # s from the start of each bag: what was recorded later is not used; 0: its end
    stamp: str = "header"  # "log": the time of recording in place of headers' stamps, where clocks are not to be had
    slop: float = 0.05  # s, most that an image of a set may be away from the anchor's
    neighbour_time: float = 0.0  # s between an image and its neighbours; 0: the images before and after
    least_motion: float = 0.0  # m between neighbours by odometry; samples with less are left out
    # Mean grey levels that the anchor's image changes by to its neighbours, for bags without odometry; samples with
    # less are left out. tools/inspect_bag.py says what a bag has. Each image is decoded once, at an eighth of its size.
    least_change: float = 0.0

    def __post_init__(self) -> None:
        for name in ("begin", "end", "slop", "neighbour_time", "least_motion", "least_change"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"data.bag.{name}: expected 0 or more, got {getattr(self, name)}")
        if self.stamp not in ("header", "log"):
            raise ValueError(f"data.bag.stamp: expected 'header' or 'log', got {self.stamp!r}")
        if 0 < self.end <= self.begin:
            raise ValueError(f"data.bag.end: expected more than data.bag.begin={self.begin:g}, got {self.end:g}")
        for name in ("image_topic", "camera_info_topic"):
            if getattr(self, name) and "{camera}" not in getattr(self, name):
                raise ValueError(f"data.bag.{name}: expected a topic with {{camera}} in it, got {getattr(self, name)}")
        if self.image_topic and not self.cameras:
            raise ValueError("data.bag.image_topic needs data.bag.cameras, the names to put in place of {camera}")


@dataclass(frozen=True)
class CameraTopics:
    """What a bag holds of one camera; "" where it has no such topic."""

    name: str
    images: str
    info: str
    labels: str
    mask: str


def _absolute(topic: str) -> str:
    """The node's topics are relative, for namespaces; a bag's have all of theirs."""
    return f"/{topic.lstrip('/')}"


def find_cameras(index: BagIndex, config: BagConfig) -> tuple[CameraTopics, ...]:
    """The cameras of a bag and their topics: those that the configuration names, or every topic of images."""
    images = {topic: entry for topic, entry in index.topics.items() if entry.msgtype in _IMAGES and len(entry)}
    if config.image_topic:
        wanted = {name: _absolute(config.image_topic.format(camera=name)) for name in config.cameras}
    else:
        wanted = _name_cameras([topic for topic, entry in images.items() if _of_a_camera(entry)], images)
        if config.cameras:
            absent = [name for name in config.cameras if name not in wanted]
            if absent:
                raise BagError(
                    f"{index.path} has no camera {', '.join(absent)}; it has {', '.join(wanted) or 'none'}; "
                    "set data.bag.image_topic if the topics have another form"
                )
            wanted = {name: wanted[name] for name in config.cameras}
    absent = [topic for topic in wanted.values() if topic not in images]
    if absent or not wanted:
        useless = {topic: why for topic, why in index.refused.items() if topic in index.topics and topic not in images}
        others = ", ".join(f"{topic} ({why})" for topic, why in {**index.unsupported, **useless}.items())
        raise BagError(
            f"{index.path}: no images on {', '.join(absent) or 'any topic'}; topics with images: "
            f"{', '.join(images) or 'none'}; not read: {others or 'none'}"
        )
    found = []
    for name, topic in wanted.items():
        check_topic(topic, f"{index.path}: topic", BagError)
        check_name(name, f"{index.path}: camera", BagError)
        space = _namespace(topic)
        info = (
            _absolute(config.camera_info_topic.format(camera=name))
            if config.camera_info_topic
            else f"{space}/camera_info"
        )
        beside = [f"{space}/{_LABELS}", f"{space}/{_MASK}"]
        found.append(
            CameraTopics(name, topic, info if info in index.topics else "", *(t if t in images else "" for t in beside))
        )
    return tuple(found)


def _of_a_camera(entry: TopicIndex) -> bool:
    """By name, and by what its pixels are: depth and disparity have an encoding of no colour, such as 16UC1."""
    beside = any(part in _NOT_A_CAMERA for part in entry.topic.split("/"))
    return not beside and not re.match(r"(8|16|32|64)[USF]C\d", entry.encoding)


def _namespace(topic: str) -> str:
    """/cam/image_raw/compressed -> /cam"""
    parts = topic.rstrip("/").split("/")
    if parts[-1].startswith("compressed") or parts[-1] in _TRANSPORTS:
        parts.pop()
    if len(parts) > 2 and parts[-1].startswith("image"):
        parts.pop()
    return "/".join(parts)


def _name_cameras(topics: Iterable[str], images: dict[str, TopicIndex]) -> dict[str, str]:
    """Camera name -> topic of its images; compressed ones if there are both, video if there is nothing else."""
    by_space: dict[str, str] = {}
    # CameraInfo's lens is that of the raw images, which show more than the rectified ones.
    for topic in sorted(topics, key=lambda topic: ("rect" in topic, _IMAGES.index(images[topic].msgtype))):
        by_space.setdefault(_namespace(topic), topic)
    last = [space.rsplit("/", 1)[-1] for space in by_space]
    return {
        name if last.count(name) == 1 else space.strip("/").replace("/", "_"): topic
        for name, (space, topic) in zip(last, by_space.items(), strict=True)
    }


def several_rigs(cameras: Mapping[str, Sequence[str]]) -> str:
    """Which recordings have which cameras, where they are not all the same; else "".

    cameras: names of the cameras by recording.
    """
    rigs: dict[frozenset[str], str] = {}
    for recording, names in cameras.items():
        rigs.setdefault(frozenset(names), recording)
    if len(rigs) < 2:
        return ""
    each = "; ".join(f"{recording} has {', '.join(cameras[recording])}" for recording in rigs.values())
    return f"recordings of several rigs lie in one folder ({each})"


def check_one_rig(cameras: Mapping[str, Sequence[str]], path: str | Path, way_out: str) -> None:
    """BagError where recordings that are used together have not the same cameras, with what to do."""
    if several := several_rigs(cameras):
        raise BagError(f"{path}: {several}: give each rig a folder, or {way_out}")
