# SPDX-License-Identifier: Apache-2.0
"""Any rosbag2 with calibrated cameras as training samples: synchronised sets with neighbours in time.

Cameras are found by the types of topics or named by the user; calibration comes from CameraInfo and /tf_static, or from
a rig file. Sets are formed by the `SetBuilder`, as in the node. Labels, masks and odometry are used where they are.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from gaussianocc_core.bags import messages
from gaussianocc_core.bags.clocks import Clocks, compare
from gaussianocc_core.bags.index import BagIndex
from gaussianocc_core.bags.indexing import find_bags, open_index
from gaussianocc_core.bags.message_ref import MessageRef
from gaussianocc_core.bags.messages import Intrinsics
from gaussianocc_core.bags.reader import open_reader
from gaussianocc_core.bags.series import Series
from gaussianocc_core.data.bag_cameras import BagConfig, CameraTopics, find_cameras
from gaussianocc_core.data.entries import longest_gap_s, mask_paths, read_label_image, read_mask
from gaussianocc_core.data.sets import SetBuilder, SetStatistics
from gaussianocc_core.errors import BagError, CalibrationError, ConfigError, DatasetError
from gaussianocc_core.geometry.cameras import counter_clockwise
from gaussianocc_core.geometry.plausibility import SAME_PLACE, Doubt, find_doubts
from gaussianocc_core.geometry.rig_file import load_rig
from gaussianocc_core.geometry.transform_tree import TransformGap, TransformTree, TransformUnavailable
from gaussianocc_core.labels import IGNORE, count_unknown
from gaussianocc_core.names import check_name
from gaussianocc_core.types import Cameras, Neighbour, Sample

_ALL_CAMERAS = BagConfig()

_log = logging.getLogger(__name__)


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
    neighbours: tuple[tuple[int, BagFrame], ...] = ()  # (offset, frame)
    history: tuple[tuple[int, BagFrame], ...] = ()  # (offset, frame), see `history.with_history`
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
        frames = [self.frame, *(frame for _, frame in (*self.neighbours, *self.history))]
        refs = [ref for frame in frames for ref in frame.images]
        found = dict(
            zip(
                [*refs, *self.labels, *self.masks],
                open_reader(self.path).read([*refs, *self.labels, *self.masks]),
                strict=True,
            )
        )
        sizes = list(zip(self.cameras.width, self.cameras.height, strict=True))

        def images(frame: BagFrame) -> tuple[np.ndarray, ...]:
            return tuple(_decode(self, ref, found[ref], size) for ref, size in zip(frame.images, sizes, strict=True))

        masks = None
        if self.mask_paths:
            masks = tuple(read_mask(path, size) for path, size in zip(self.mask_paths, sizes, strict=True))
        elif self.masks:
            masks = tuple(
                _decode_plane(self, ref, found[ref], size) != 0 for ref, size in zip(self.masks, sizes, strict=True)
            )
        T_world_ego = self.frame.T_world_ego
        semantics, unknown = self._semantics(found, sizes)
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
                Neighbour(offset, images(frame), frame.camera_stamps_ns, frame.T_world_ego)
                for offset, frame in self.neighbours
            ),
            history=tuple(
                Neighbour(offset, images(frame), frame.camera_stamps_ns, frame.T_world_ego)
                for offset, frame in self.history
            ),
            semantics=semantics,
            static_masks=masks,
            meta={"unknown_label_pixels": unknown} if unknown else {},
        )

    def _semantics(
        self, found: dict[MessageRef, Any], sizes: list[tuple[int, int]]
    ) -> tuple[tuple[np.ndarray, ...] | None, dict[str, int]]:
        """2D labels of the cameras, and how many pixels of unknown ids each file or message has."""
        if self.label_paths:
            planes = [read_label_image(path, size) for path, size in zip(self.label_paths, sizes, strict=True)]
        else:
            planes = [_decode_plane(self, ref, found[ref], size) for ref, size in zip(self.labels, sizes, strict=False)]
        if not planes:
            return None, {}
        names = [str(path) for path in self.label_paths] or [f"{ref.topic} at {ref.stamp_ns} ns" for ref in self.labels]
        unknown = {name: count for name, plane in zip(names, planes, strict=True) if (count := count_unknown(plane))}
        return tuple(np.where(plane == IGNORE, np.uint8(self.undetected), plane) for plane in planes), unknown


def label_path(folder: str | Path, bag: str, camera: str, stamp_ns: int) -> Path:
    """Where the 2D labels of one image of a bag are kept: a grey PNG of Occ3D ids, 255 where there is no label."""
    bag, camera = check_name(bag, "bag", DatasetError), check_name(camera, "camera", DatasetError)
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
    short = message.step < message.width or len(message.data) < message.step * message.height
    if (message.width, message.height) != size or short:
        raise DatasetError(f"{where}: {message.width}x{message.height} pixels, expected {size[0]}x{size[1]}")
    rows = np.frombuffer(message.data, dtype=np.uint8)[: message.step * message.height]
    return np.ascontiguousarray(rows.reshape(message.height, message.step)[:, : message.width])


def _complete(refs: Sequence[MessageRef | None], cameras: Sequence[Any]) -> tuple[MessageRef, ...]:
    """The messages, if there is one of every camera."""
    present = tuple(ref for ref in refs if ref is not None)
    return present if len(present) == len(cameras) else ()


# ---- one bag -------------------------------------------------------------------------------------------------------


class BagSource:
    """The cameras of one indexed bag."""

    def __init__(self, index: BagIndex, config: BagConfig = _ALL_CAMERAS) -> None:
        self._start_ns = index.start_ns
        index = index.stretch(config.begin, config.end)
        index = index.by_log_time() if config.stamp == "log" else index
        self.index, self.config = index, config
        self.topics = find_cameras(index, config)
        odometry = [series.topic for series in index.poses if not series.topic.endswith(("/tf", "/tf_static"))]
        if config.odometry_topic and config.odometry_topic not in odometry:
            raise BagError(
                f"{index.path} has no odometry on {config.odometry_topic}; nav_msgs/Odometry is on: "
                f"{', '.join(sorted(set(odometry))) or 'no topic'}"
            )
        self._tree = index.transforms(config.odometry_topic)
        self._poses: dict[int, np.ndarray | None] = {}
        self._in_gaps: set[int] = set()  # stamps that odometry leaves out
        self.cameras = self._cameras()
        by_name = {each.name: each for each in self.topics}
        self.topics = tuple(by_name[name] for name in self.cameras.names)
        self._series = {each.name: Series(index.topics[each.images]) for each in self.topics}
        self.statistics = SetStatistics()
        self._clocks = self._compare_clocks()

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with this recording, for the user."""
        return (*self.index.problems, *self._clocks.problems, *map(str, self.doubts))

    @property
    def odometry_fits(self) -> bool:
        """Whether images and odometry are stamped by one clock; where not, no poses are used."""
        return self._clocks.odometry_fits

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """What is hard to believe of its calibration."""
        values = {each.name: self.index.intrinsics.get(each.info, ()) for each in self.topics}
        frames = {name: known[0][1].frame_id for name, known in values.items() if known}
        found = find_doubts(self.cameras, {} if self.config.rig else frames)
        eyes = {name: known[0][1].baseline for name, known in values.items() if known and known[0][1].baseline}
        return tuple(
            replace(doubt, text=f"{doubt.text}; P[3] says {eyes[doubt.camera]:.3f} m")
            if doubt.kind == SAME_PLACE and doubt.camera in eyes
            else doubt
            for doubt in found
        )

    def _compare_clocks(self) -> Clocks:
        cameras = {each.name: self.index.topics[each.images] for each in self.topics}
        return compare(
            {name: (topic.stamps_ns, topic.logs_ns) for name, topic in cameras.items()},
            self._odometry_times(),
        )

    def _odometry_times(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Stamps and log times of what moves between the fixed frame and the ego frame."""
        moving = [series for series in self.index.poses if not series.static]
        frame, seen = self.config.ego_frame.lstrip("/"), set()
        while frame not in seen:
            seen.add(frame)
            above = [each for each in moving if each.child == frame]
            if above:
                most = max(above, key=lambda each: len(each.stamps_ns))
                return most.stamps_ns, most.logs_ns
            frame = next((each.parent for each in self.index.poses if each.static and each.child == frame), frame)
        return None

    def T_world_ego(self, stamp_ns: int) -> Float[np.ndarray, "4 4"] | None:
        """By odometry; None where there is none at that time, or where it has another clock than the cameras."""
        if not self._clocks.odometry_fits:
            return None
        if stamp_ns not in self._poses:  # a stamp is asked for by three samples
            try:
                pose = self._tree.lookup(self.config.fixed_frame, self.config.ego_frame, stamp_ns)
            except TransformGap:
                pose = None
                self._in_gaps.add(stamp_ns)
            except TransformUnavailable:
                pose = None
            self._poses[stamp_ns] = pose
        return self._poses[stamp_ns]

    def in_gap(self, entry: BagEntry) -> bool:
        """Whether odometry pauses at a sample's own time or at a neighbour's, so that nobody knows how it moved."""
        frames = [entry.frame, *(frame for _, frame in entry.neighbours)]
        return any(stamp in self._in_gaps for frame in frames for stamp in frame.camera_stamps_ns)

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
        clocks = "; ".join([*self._clocks.problems, ""])
        return (
            f"{clocks}no set of all cameras within data.bag.slop={self.config.slop:g} s; missing: {missing or 'none'}; "
            "time "
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
        labels = [Series(self.index.topics[each.labels]) for each in self.topics if each.labels and on_topics]
        files = mask_paths(masks, self.cameras.names)
        mask_refs = tuple(self.index.topics[each.mask][0] for each in self.topics if each.mask and not files)
        if mask_refs and len(mask_refs) != len(self.topics):
            without = ", ".join(each.name for each in self.topics if not each.mask)
            _log.warning(
                "%s: no mask topic of %s, so that none is used; give a folder of masks: data.masks=DIR",
                self.index.path,
                without,
            )
        result = []
        for refs in self.sets():
            around = {offset: self._beside(series, refs, offset) for offset in (-1, 1)}
            result.append(
                BagEntry(
                    token=f"{self.index.name}/{refs[0].stamp_ns}{self._again(refs[0])}",
                    scene=self.index.name,
                    path=self.index.path,
                    cameras=self.cameras,
                    frame=self._frame(refs),
                    neighbours=tuple((offset, frame) for offset, frame in around.items() if frame is not None),
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

    def _beside(self, series: list[Series], refs: tuple[MessageRef, ...], offset: int) -> BagFrame | None:
        distance = self.config.neighbour_time
        found = [each.beside(ref, offset, distance) for each, ref in zip(series, refs, strict=True)]
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
        poses = [
            self.T_world_ego(ref.stamp_ns) if not each.run_of(ref) else None
            for each, ref in zip(series, refs, strict=True)
        ]
        known = [pose for pose in poses if pose is not None]
        return BagFrame(refs, np.stack(known) if len(known) == len(refs) else None)

    def _cameras(self) -> Cameras:
        names = tuple(each.name for each in self.topics)
        if self.config.rig:
            return self._from_rig_file(names)
        intrinsics, T_ego_cam, faults = {}, {}, {}
        for each in self.topics:  # each by itself: what one of them lacks is said together with what the others lack
            try:
                intrinsics[each.name] = known = self._intrinsics(each)
                T_ego_cam[each.name] = self._place(each, known)
                if messages.is_rectified(each.images):
                    intrinsics[each.name] = messages.rectified(known, each.name)
                    T_ego_cam[each.name] = T_ego_cam[each.name] @ messages.T_camera_rectified(known)
            except CalibrationError as error:
                faults[each.name] = str(error)
        if faults:
            good = [name for name in names if name not in faults]
            rest = f"; to do without: --cameras {' '.join(good)} (data.bag.cameras=[{', '.join(good)}])" if good else ""
            raise CalibrationError(f"{self.index.path}: {'; '.join(faults.values())}{rest}")
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
        values = _used_values(self.index.intrinsics.get(topics.info, ()), messages.is_rectified(topics.images))
        where = f"camera {topics.name}"
        if not values:
            reason = self.index.refused.get(topics.info, "")
            raise CalibrationError(
                f"{where}: no usable CameraInfo on {topics.info or 'any topic beside ' + topics.images}"
                f"{f' ({reason})' if reason else ''}; calibrate the camera, or give a rig file: data.bag.rig=FILE"
            )
        if len(values) > 1:
            log_ns, change = values[1]
            at = f"{(log_ns - self._start_ns) * 1e-9:.9f}"  # to the ns: it parts the two stretches
            raise CalibrationError(
                f"{where}: its calibration changes from {values[0][1].width}x{values[0][1].height} to "
                f"{change.width}x{change.height} pixels or other intrinsics {at} s after the start; use what is "
                f"before (data.bag.end={at}) or after it (data.bag.begin={at}), or give a rig file"
            )
        size = self.index.topics[topics.images].size
        if size != (values[0][1].width, values[0][1].height):
            raise CalibrationError(
                f"{where}: images have {size[0]}x{size[1]} pixels, CameraInfo says {values[0][1].width}x"
                f"{values[0][1].height}; publish the CameraInfo of these images, or give a rig file"
            )
        return values[0][1]

    def _place(self, topics: CameraTopics, intrinsics: Intrinsics) -> Float[np.ndarray, "4 4"]:
        """T_ego_cam by TF; a CalibrationError says what TF lacks."""
        frame = intrinsics.frame_id or self.index.topics[topics.images].frame_id
        T = self.T_ego_sensor(frame)
        if T is None:
            refused = self.index.refused
            reasons = [refused[each] for each in (frame.lstrip("/"), self.config.ego_frame) if each in refused]
            raise CalibrationError(
                f"camera {topics.name}: nothing connects its frame {frame!r} with {self.config.ego_frame!r} "
                f"({'; '.join([_known(self._tree, self.config.ego_frame, frame), *reasons])}); "
                "record /tf_static, set data.bag.ego_frame, or give a rig file: data.bag.rig=FILE"
            )
        return T

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


def _used_values(values: tuple[tuple[int, Intrinsics], ...], rectified: bool) -> tuple[tuple[int, Intrinsics], ...]:
    """Those that differ from the one before in what counts for the images: P and R only do for rectified ones."""
    used: list[tuple[int, Intrinsics]] = []
    for log_ns, value in values:
        value = value if rectified else replace(value, rectified=(), rotation=(), baseline=0.0)
        if not used or used[-1][1] != value:
            used.append((log_ns, value))
    return tuple(used)


def _known(tree: TransformTree, *frames: str) -> str:
    return ", ".join(f"{frame}: {'known' if tree.knows(frame) else 'not in TF'}" for frame in frames)


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
        for problem in source.problems:
            _log.warning("%s: %s", path, problem)
        sources.append(source)
    if not sources:
        raise BagError(f"{config.path}: no bag can be used: {'; '.join(faults)}")
    for fault in faults:
        _log.warning("left out: %s", fault)
    return sources
