# SPDX-License-Identifier: Apache-2.0
"""Any rosbag2 with calibrated cameras as training samples: synchronised sets with neighbours in time.

Cameras are found by the types of topics or named by the user; calibration comes from CameraInfo and /tf_static, or from
a rig file. Sets are formed by the `SetBuilder`, as in the node. Labels, masks and odometry are used where they are.
"""

from __future__ import annotations

import bisect
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from gaussianocc_core.config import load_rig
from gaussianocc_core.data import messages
from gaussianocc_core.data.bag_index import (
    RAW_IMAGE_TYPE,
    BagIndex,
    MessageRef,
    TopicIndex,
    find_bags,
    open_index,
    open_reader,
)
from gaussianocc_core.data.bag_writer import EGO_FRAME, IMAGE_TYPE, ODOM_FRAME
from gaussianocc_core.data.entries import longest_gap_s, mask_paths, read_label_image, read_mask
from gaussianocc_core.data.labels import IGNORE
from gaussianocc_core.data.messages import Intrinsics
from gaussianocc_core.data.sets import SetBuilder, SetStatistics
from gaussianocc_core.errors import BagError, CalibrationError, ConfigError, DatasetError
from gaussianocc_core.geometry.cameras import counter_clockwise
from gaussianocc_core.geometry.transform_tree import TransformTree, TransformUnavailable
from gaussianocc_core.types import Cameras, Neighbour, Sample

_NOT_A_CAMERA = ("semantic", "depth", "mask", "disparity", "confidence")  # images beside those of cameras
_LABELS = "semantic/image_raw"
_MASK = "mask"
_TOLERANCE = 0.25  # of the wanted time to a neighbour
_JUMP_NS = 1_000_000_000  # a stamp that steps back farther begins another run

_log = logging.getLogger(__name__)


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
    slop: float = 0.05  # s, most that an image of a set may be away from the anchor's
    neighbour_time: float = 0.0  # s between an image and its neighbours; 0: the images before and after
    least_motion: float = 0.0  # m between neighbours by odometry; samples with less are left out
    # Mean grey levels that the anchor's image changes by to its neighbours, for bags without odometry; samples with
    # less are left out. tools/inspect_bag.py says what a bag has. Each image is decoded once, at an eighth of its size.
    least_change: float = 0.0

    def __post_init__(self) -> None:
        for name in ("slop", "neighbour_time", "least_motion", "least_change"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"data.bag.{name}: expected 0 or more, got {getattr(self, name)}")
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


@dataclass(frozen=True)
class BagFrame:
    """One image of every camera at one moment, anchor first."""

    images: tuple[MessageRef, ...]
    T_world_ego: Float[np.ndarray, "N 4 4"] | None  # at each image's stamp; world is the fixed frame

    @property
    def camera_stamps_ns(self) -> tuple[int, ...]:
        return tuple(ref.stamp_ns for ref in self.images)


@dataclass(frozen=True)
class BagEntry:
    """All that is needed to make one Sample of a bag; small and picklable, for DataLoader workers."""

    token: str  # bag/stamp of the anchor's image in ns
    scene: str  # name of the bag
    path: Path
    cameras: Cameras
    frame: BagFrame
    neighbours: tuple[tuple[int, BagFrame], ...] = ()  # (step, frame)
    labels: tuple[MessageRef, ...] = ()  # 2D labels of all cameras, or none
    label_paths: tuple[Path, ...] = ()  # files in their place
    masks: tuple[MessageRef, ...] = ()
    mask_paths: tuple[Path, ...] = ()  # files in their place
    undetected: int = IGNORE  # what pixels without a 2D label become

    @property
    def labelled(self) -> bool:
        return bool(self.labels or self.label_paths)

    @property
    def gap_s(self) -> float:
        """Longest time between an image and its neighbour in s; 0 without neighbours."""
        return longest_gap_s(self.frame.camera_stamps_ns, (frame.camera_stamps_ns for _, frame in self.neighbours))

    def load(self) -> Sample:
        """The Sample. A damaged message is a DatasetError that names topic and stamp."""
        frames = [self.frame, *(frame for _, frame in self.neighbours)]
        refs = [ref for frame in frames for ref in frame.images]
        found = dict(
            zip([*refs, *self.labels, *self.masks],
                open_reader(self.path).read([*refs, *self.labels, *self.masks]), strict=True)
        )  # fmt: skip
        sizes = list(zip(self.cameras.width, self.cameras.height, strict=True))

        def images(frame: BagFrame) -> tuple[np.ndarray, ...]:
            return tuple(_decode(self, ref, found[ref], size) for ref, size in zip(frame.images, sizes, strict=True))

        masks = None
        if self.mask_paths:
            masks = tuple(read_mask(path, size) for path, size in zip(self.mask_paths, sizes, strict=True))
        elif self.masks:
            masks = tuple(_decode_plane(self, ref, found[ref], size) != 0
                          for ref, size in zip(self.masks, sizes, strict=True))  # fmt: skip
        T_world_ego = self.frame.T_world_ego
        return Sample(
            token=self.token,
            scene=self.scene,
            stamp_ns=self.frame.images[0].stamp_ns,
            images=images(self.frame),
            cameras=self.cameras,
            T_world_ego=None if T_world_ego is None else T_world_ego[0],
            camera_stamps_ns=self.frame.camera_stamps_ns,
            T_world_ego_per_camera=T_world_ego,
            neighbours=tuple(
                Neighbour(step, images(frame), frame.camera_stamps_ns, frame.T_world_ego)
                for step, frame in self.neighbours
            ),
            semantics=self._semantics(found, sizes),
            static_masks=masks,
        )

    def _semantics(self, found: dict[MessageRef, Any], sizes: list[tuple[int, int]]) -> tuple[np.ndarray, ...] | None:
        if self.label_paths:
            planes = [read_label_image(path, size) for path, size in zip(self.label_paths, sizes, strict=True)]
        else:
            planes = [_decode_plane(self, ref, found[ref], size) for ref, size in zip(self.labels, sizes, strict=False)]
        if not planes:
            return None
        return tuple(np.where(plane == IGNORE, np.uint8(self.undetected), plane) for plane in planes)


def label_path(folder: str | Path, bag: str, camera: str, stamp_ns: int) -> Path:
    """Where the 2D labels of one image of a bag are kept: a grey PNG of Occ3D ids, 255 where there is no label."""
    return Path(folder) / bag / camera / f"{stamp_ns}.png"


def _decode(entry: BagEntry, ref: MessageRef, message: Any, size: tuple[int, int]) -> np.ndarray:
    try:
        image = messages.decode_image(message)
    except messages.ImageError as error:
        raise DatasetError(f"{entry.path}: {ref.topic} at {ref.stamp_ns} ns: {error}") from error
    if (image.shape[1], image.shape[0]) != size:
        raise DatasetError(
            f"{entry.path}: {ref.topic} at {ref.stamp_ns} ns: {image.shape[1]}x{image.shape[0]} pixels, "
            f"the calibration says {size[0]}x{size[1]}"
        )
    return image


def _decode_plane(entry: BagEntry, ref: MessageRef, message: Any, size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8 of a mono8 image."""
    where = f"{entry.path}: {ref.topic} at {ref.stamp_ns} ns"
    if getattr(message, "encoding", "") not in ("mono8", "8UC1"):
        raise DatasetError(f"{where}: expected a sensor_msgs/Image of encoding mono8")
    if (message.width, message.height) != size or len(message.data) < message.step * message.height:
        raise DatasetError(f"{where}: {message.width}x{message.height} pixels, expected {size[0]}x{size[1]}")
    rows = np.frombuffer(message.data, dtype=np.uint8)[: message.step * message.height]
    return np.ascontiguousarray(rows.reshape(message.height, message.step)[:, : message.width])


class _Series:
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

    def beside(self, ref: MessageRef, step: int, distance_s: float) -> MessageRef | None:
        """The message nearest to `distance_s` before (-1) or after (+1), or if 0 the next in that direction."""
        run, stamps = self._run(ref)
        if distance_s:
            wanted = ref.stamp_ns + step * round(distance_s * 1e9)
            place = bisect.bisect_left(stamps, wanted)
            place = min((place - 1, place), key=lambda p: abs(stamps[p] - wanted) if 0 <= p < len(run) else np.inf)
            near = abs(int(stamps[place]) - wanted) <= _TOLERANCE * distance_s * 1e9
            return self._topic[int(run[place])] if near else None
        if step < 0:
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


def _complete(refs: Sequence[MessageRef | None], cameras: Sequence[Any]) -> tuple[MessageRef, ...]:
    """The messages, if there is one of every camera."""
    present = tuple(ref for ref in refs if ref is not None)
    return present if len(present) == len(cameras) else ()


# ---- one bag -------------------------------------------------------------------------------------------------------


class BagSource:
    """The cameras of one indexed bag."""

    def __init__(self, index: BagIndex, config: BagConfig = BagConfig()) -> None:
        self.index, self.config = index, config
        self.topics = find_cameras(index, config)
        odometry = [series.topic for series in index.poses if series.topic not in ("/tf", "/tf_static")]
        if config.odometry_topic and config.odometry_topic not in odometry:
            raise BagError(
                f"{index.path} has no odometry on {config.odometry_topic}; nav_msgs/Odometry is on: "
                f"{', '.join(sorted(set(odometry))) or 'no topic'}"
            )
        self._tree = index.transforms(config.odometry_topic)
        self._poses: dict[int, np.ndarray | None] = {}
        self.cameras = self._cameras()
        by_name = {each.name: each for each in self.topics}
        self.topics = tuple(by_name[name] for name in self.cameras.names)
        self._series = {each.name: _Series(index.topics[each.images]) for each in self.topics}
        self.statistics = SetStatistics()

    def T_world_ego(self, stamp_ns: int) -> Float[np.ndarray, "4 4"] | None:
        """By odometry; None where there is none at that time."""
        if stamp_ns not in self._poses:  # a stamp is asked for by three samples
            try:
                pose = self._tree.lookup(self.config.fixed_frame, self.config.ego_frame, stamp_ns)
            except TransformUnavailable:
                pose = None
            self._poses[stamp_ns] = pose
        return self._poses[stamp_ns]

    def T_ego_sensor(self, frame_id: str) -> Float[np.ndarray, "4 4"] | None:
        """By /tf_static; None where the frames are not connected."""
        try:
            return self._tree.lookup(self.config.ego_frame, frame_id)
        except TransformUnavailable:
            return None

    def sets(self) -> list[tuple[MessageRef, ...]]:
        """One image of every camera each, cameras in the rig's order; `statistics` says what was dropped."""
        names = self.cameras.names
        builder = SetBuilder(names, round(self.config.slop * 1e9))
        found = []
        # By stamp, whatever was recorded late: a live node cannot wait for that, here nothing is lost by it.
        refs = [(name, ref) for name, series in self._series.items() for ref in series.refs()]
        for name, ref in sorted(refs, key=lambda each: (self._series[each[0]].run_of(each[1]), each[1].stamp_ns)):
            found += builder.add(name, ref.stamp_ns, ref)
        found += builder.flush()
        self.statistics = builder.statistics
        return [tuple(each.items[name] for name in names) for each in found]

    def explain_no_sets(self) -> str:
        """Why there are no sets of all cameras, for the user."""
        lags = {}
        for each in self.topics:
            topic = self.index.topics[each.images]
            lags[each.name] = float(np.median(topic.logs_ns - topic.stamps_ns)) * 1e-9
        late = "; ".join(f"{name} {lag:.3f} s" for name, lag in lags.items())
        missing = ", ".join(f"{name} ({count} times)" for name, count in self.statistics.missing.most_common())
        return (
            f"no set of all cameras within data.bag.slop={self.config.slop:g} s; missing: {missing or 'none'}; time "
            f"from stamp to recording: {late}. If these differ by more than the slop, the cameras' clocks do"
        )

    def entries(
        self, masks: str | Path | None = None, semantics: bool = True, undetected: int = IGNORE
    ) -> list[BagEntry]:
        """One per set, in time order; at the ends of the bag they lack a neighbour.

        masks: a folder of `<camera>_mask.png` in place of mask topics; semantics: with 2D labels, where all cameras
        have one of the image's stamp.
        """
        series = list(self._series.values())
        on_topics = semantics and not self.config.labels
        labels = [_Series(self.index.topics[each.labels]) for each in self.topics if each.labels and on_topics]
        files = mask_paths(masks, self.cameras.names)
        mask_refs = tuple(self.index.topics[each.mask][0] for each in self.topics if each.mask and not files)
        if mask_refs and len(mask_refs) != len(self.topics):
            without = ", ".join(each.name for each in self.topics if not each.mask)
            _log.warning("%s: no mask topic of %s, so that none is used; give a folder of masks: data.masks=DIR",
                         self.index.path, without)  # fmt: skip
        result = []
        for refs in self.sets():
            around = {step: self._beside(series, refs, step) for step in (-1, 1)}
            result.append(
                BagEntry(
                    token=f"{self.index.name}/{refs[0].stamp_ns}{self._again(refs[0])}",
                    scene=self.index.name,
                    path=self.index.path,
                    cameras=self.cameras,
                    frame=self._frame(refs),
                    neighbours=tuple((step, frame) for step, frame in around.items() if frame is not None),
                    labels=_complete([each.at(ref) for each, ref in zip(labels, refs, strict=False)], refs),
                    label_paths=self._label_paths(refs) if semantics else (),
                    masks=mask_refs if len(mask_refs) == len(refs) else (),
                    mask_paths=files,
                    undetected=undetected,
                )
            )
        return result

    def _label_paths(self, refs: tuple[MessageRef, ...]) -> tuple[Path, ...]:
        """Label files of a set, if every camera has one."""
        if not self.config.labels:
            return ()
        paths = tuple(
            label_path(self.config.labels, self.index.name, name, ref.stamp_ns)
            for name, ref in zip(self.cameras.names, refs, strict=True)
        )
        return paths if all(path.is_file() for path in paths) else ()

    def _beside(self, series: list[_Series], refs: tuple[MessageRef, ...], step: int) -> BagFrame | None:
        distance = self.config.neighbour_time
        found = [each.beside(ref, step, distance) for each, ref in zip(series, refs, strict=True)]
        complete = _complete(found, refs)
        if not complete:
            return None
        # One motion is learnt for all cameras: where one of them lost an image, its next is of another time.
        gaps = [beside.stamp_ns - ref.stamp_ns for beside, ref in zip(complete, refs, strict=True)]
        agree = max(abs(gap - gaps[0]) for gap in gaps) <= round(self.config.slop * 1e9)
        return self._frame(complete) if agree else None

    def _again(self, ref: MessageRef) -> str:
        """Tells apart what has one stamp twice, because the clock jumped back."""
        run = self._series[self.cameras.names[0]].run_of(ref)
        return f"@{run}" if run else ""

    def _frame(self, refs: tuple[MessageRef, ...]) -> BagFrame:
        series = self._series.values()
        # After a jump back, stamps mean other places: odometry is known for the first run only.
        poses = [self.T_world_ego(ref.stamp_ns) if not each.run_of(ref) else None
                 for each, ref in zip(series, refs, strict=True)]  # fmt: skip
        known = [pose for pose in poses if pose is not None]
        return BagFrame(refs, np.stack(known) if len(known) == len(refs) else None)

    def _cameras(self) -> Cameras:
        names = tuple(each.name for each in self.topics)
        if self.config.rig:
            return self._from_rig_file(names)
        intrinsics = {each.name: self._intrinsics(each) for each in self.topics}
        T_ego_cam = {}
        for each in self.topics:
            frame = intrinsics[each.name].frame_id or self.index.topics[each.images].frame_id
            T = self.T_ego_sensor(frame)
            if T is None:
                raise CalibrationError(
                    f"{self.index.path}: camera {each.name}: nothing connects its frame {frame!r} with "
                    f"{self.config.ego_frame!r} ({_known(self._tree, self.config.ego_frame, frame)}); "
                    "record /tf_static, set data.bag.ego_frame, or give a rig file: data.bag.rig=FILE"
                )
            T_ego_cam[each.name] = T
        if not self.config.cameras:
            names = counter_clockwise(T_ego_cam)
        rows = [intrinsics[name] for name in names]
        return Cameras(
            names=names,
            intrinsics=torch.from_numpy(np.stack([np.array(row.matrix).reshape(3, 3) for row in rows])),
            T_ego_cam=torch.from_numpy(np.stack([T_ego_cam[name] for name in names])),
            width=tuple(row.width for row in rows),
            height=tuple(row.height for row in rows),
            model=tuple(row.model for row in rows),
            distortion=tuple(row.distortion for row in rows),
        )

    def _intrinsics(self, topics: CameraTopics) -> Intrinsics:
        """The camera's calibration; a CalibrationError if there is none, or more than one."""
        values = self.index.intrinsics.get(topics.info, ())
        where = f"{self.index.path}: camera {topics.name}"
        if not values:
            raise CalibrationError(
                f"{where}: no usable CameraInfo on {topics.info or 'any topic beside ' + topics.images}; "
                "calibrate the camera, or give a rig file: data.bag.rig=FILE"
            )
        if len(values) > 1:
            stamp, change = values[1]
            raise CalibrationError(
                f"{where}: its calibration changes at {stamp} ns from {values[0][1].width}x{values[0][1].height} to "
                f"{change.width}x{change.height} pixels or other intrinsics; split the bag there (ros2 bag convert), "
                "or give a rig file"
            )
        size = self.index.topics[topics.images].size
        if size != (values[0][1].width, values[0][1].height):
            raise CalibrationError(
                f"{where}: images have {size[0]}x{size[1]} pixels, CameraInfo says {values[0][1].width}x"
                f"{values[0][1].height}; publish the CameraInfo of these images, or give a rig file"
            )
        return values[0][1]

    def _from_rig_file(self, names: tuple[str, ...]) -> Cameras:
        rig = load_rig(self.config.rig)
        wanted = self.config.cameras or tuple(name for name in rig.names if name in names)
        missing = [name for name in wanted if name not in rig.names] or [name for name in wanted if name not in names]
        if missing or not wanted:
            raise ConfigError(
                f"{self.config.rig}: has {', '.join(rig.names)}; {self.index.path} has {', '.join(names)}; "
                f"missing: {', '.join(missing) or 'all'}"
            )
        return rig.select(wanted)


def find_cameras(index: BagIndex, config: BagConfig = BagConfig()) -> tuple[CameraTopics, ...]:
    """The cameras of a bag and their topics: those that the configuration names, or every topic of images."""
    images = {
        topic: entry
        for topic, entry in index.topics.items()
        if entry.msgtype in (IMAGE_TYPE, RAW_IMAGE_TYPE) and len(entry)
    }
    if config.image_topic:
        wanted = {name: config.image_topic.format(camera=name) for name in config.cameras}
    else:
        wanted = _name_cameras([t for t in images if not any(part in _NOT_A_CAMERA for part in t.split("/"))], images)
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
        others = ", ".join(f"{topic} ({msgtype})" for topic, msgtype in index.unsupported.items())
        raise BagError(
            f"{index.path}: no images on {', '.join(absent) or 'any topic'}; topics with images: "
            f"{', '.join(images) or 'none'}; not read: {others or 'none'}"
        )
    found = []
    for name, topic in wanted.items():
        space = _namespace(topic)
        info = config.camera_info_topic.format(camera=name) if config.camera_info_topic else f"{space}/camera_info"
        beside = [f"{space}/{_LABELS}", f"{space}/{_MASK}"]
        found.append(
            CameraTopics(name, topic, info if info in index.topics else "", *(t if t in images else "" for t in beside))
        )
    return tuple(found)


def _namespace(topic: str) -> str:
    """/cam/image_raw/compressed -> /cam"""
    parts = topic.rstrip("/").split("/")
    if parts[-1].startswith("compressed"):
        parts.pop()
    if len(parts) > 2 and parts[-1].startswith("image"):
        parts.pop()
    return "/".join(parts)


def _name_cameras(topics: Iterable[str], images: dict[str, TopicIndex]) -> dict[str, str]:
    """Camera name -> topic of its images; compressed ones if there are both."""
    by_space: dict[str, str] = {}
    # CameraInfo's lens is that of the raw images.
    for topic in sorted(topics, key=lambda topic: ("rect" in topic, images[topic].msgtype != IMAGE_TYPE)):
        by_space.setdefault(_namespace(topic), topic)
    last = [space.rsplit("/", 1)[-1] for space in by_space]
    return {
        name if last.count(name) == 1 else space.strip("/").replace("/", "_"): topic
        for name, (space, topic) in zip(last, by_space.items(), strict=True)
    }


def _known(tree: TransformTree, *frames: str) -> str:
    return ", ".join(f"{frame}: {'known' if tree.knows(frame) else 'not in TF'}" for frame in frames)


def image_change(entry: BagEntry) -> float:
    """Mean grey levels by which the anchor's image differs from its neighbours', the lesser of them; inf without."""
    here = _small(entry.path, entry.frame.images[0])
    others = [_small(entry.path, frame.images[0]) for _, frame in entry.neighbours]
    changes = [float(cv2.absdiff(here, other).mean()) for other in others if other.shape == here.shape]
    return min(changes, default=float("inf"))


@lru_cache(maxsize=16)
def _small(path: Path, ref: MessageRef) -> UInt8[np.ndarray, "h w"]:
    """Grey, an eighth of the size; smoothed, so that noise does not count. Entries in time order share most images."""
    (message,) = open_reader(path).read([ref])
    if hasattr(message, "encoding"):
        grey = cv2.cvtColor(messages.decode_image(message), cv2.COLOR_RGB2GRAY)
        return cv2.resize(grey, None, fx=0.125, fy=0.125, interpolation=cv2.INTER_AREA)
    decoded = cv2.imdecode(message.data, cv2.IMREAD_REDUCED_GRAYSCALE_8)
    return np.zeros((1, 1), np.uint8) if decoded is None else decoded


# ---- several bags --------------------------------------------------------------------------------------------------


def open_bags(config: BagConfig) -> list[BagSource]:
    """Every bag of the path. One that cannot be used is named in the log and left out; BagError if none can."""
    sources: list[BagSource] = []
    faults: list[str] = []
    for path in find_bags(config.path):
        try:
            source = BagSource(open_index(path), config)
        except (BagError, CalibrationError) as error:
            faults.append(str(error))
            continue
        for problem in source.index.problems:
            _log.warning("%s: %s", path, problem)
        sources.append(source)
    if not sources:
        raise BagError(f"{config.path}: no bag can be used: {'; '.join(faults)}")
    for fault in faults:
        _log.warning("left out: %s", fault)
    return sources
