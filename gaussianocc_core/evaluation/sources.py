# SPDX-License-Identifier: Apache-2.0
"""What a model is measured on: data sets in the nuScenes schema or the DGP format (DDAD), and rosbags with lidar.

Truth about depth comes from depth files where the data set has them, else from the lidar scan nearest in time, moved to
each image's own time by the recorded poses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from gaussianocc_core.bags.indexing import find_bags
from gaussianocc_core.data.bag import BagEntry, BagSource, open_bags
from gaussianocc_core.data.bag_cameras import BagConfig
from gaussianocc_core.data.bag_lidar import lidar_depths, lidar_scan, lidar_topics
from gaussianocc_core.data.ddad import DdadSource
from gaussianocc_core.data.entries import SampleEntry
from gaussianocc_core.data.history import with_history
from gaussianocc_core.data.lidar import LidarScan, LidarSource, draw_depth, paint_depth
from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.data.nuscenes_splits import select_scenes
from gaussianocc_core.data.sources import Entry
from gaussianocc_core.errors import DatasetError
from gaussianocc_core.evaluation.depth import depth_cameras, distorts, rectify_depths
from gaussianocc_core.geometry import transforms
from gaussianocc_core.metrics.depth import DDAD_RANGE, NUSCENES_RANGE
from gaussianocc_core.preprocess import Lenses
from gaussianocc_core.types import Sample

Depths = tuple[Float[np.ndarray, "_ _"], ...]


@runtime_checkable
class EvaluationSource(Protocol):
    """Recorded moments and what is known about them."""

    described: dict[str, str]  # what the report says of it: dataroot, version, ...
    depth_limits: tuple[float, float]  # m, open interval of true depths that count

    def scene_names(self) -> tuple[str, ...]: ...

    def entries(self, scene: str, neighbours: bool, history: Sequence[float] = ()) -> Sequence[Entry]:
        """The moments of a scene in time order; neighbours: with the images before and after; history: with those from
        so many metres away (`history.with_history`)."""
        ...

    def drive(self, scene: str) -> Sequence[Entry]:
        """Every set of a scene in time order, whether or not anything is known about it: what a robot sees."""
        ...

    def may_have_depth(self, entry: Entry) -> bool:
        """Whether there is something to make true depth from; a single scan may still be missing or damaged."""
        ...

    def true_depths(self, entry: Entry, sample: Sample, lenses: Lenses) -> Depths | None:
        """z-depth per camera (m, 0 where unknown) as `depth_cameras` see it; None where there is none."""
        ...

    def lidar_scan(self, entry: Entry, T_world_now: Float[np.ndarray, "4 4"] | None) -> LidarScan | None:
        """The scan of this moment in the ego frame that T_world_now places in the world (of a bag: in that of the
        anchor camera's image); None where there is none."""
        ...

    def lidar_places(self, scene: str, entries: Sequence[Entry]) -> Float[np.ndarray, "F 3"] | None:
        """Where the lidar was at the labelled moments, world frame, m: RayIoU's rays start there."""
        ...


class TableSource:
    """A data set with one file per image."""

    def __init__(self, source: NuScenesSource | DdadSource) -> None:
        self.source = source
        self.described = {"dataroot": str(source.dataroot)}
        self.depth_limits = DDAD_RANGE
        if isinstance(source, NuScenesSource):
            self.described["version"] = source.version
            self.depth_limits = NUSCENES_RANGE
        self._lidar: dict[str, bool] = {}

    def scene_names(self) -> tuple[str, ...]:
        return tuple(self.source.scene_names())

    def entries(self, scene: str, neighbours: bool, history: Sequence[float] = ()) -> Sequence[SampleEntry]:
        found = self.source.index(scene, depths=True, neighbours=neighbours)
        if not history:
            return found
        between = self.source.index(scene, sweeps=True) if isinstance(self.source, NuScenesSource) else found
        return with_history(found, between, history)

    def drive(self, scene: str) -> Sequence[SampleEntry]:
        if isinstance(self.source, NuScenesSource):
            return self.source.index(scene, sweeps=True)
        return self.source.index(scene)

    def may_have_depth(self, entry: Entry) -> bool:
        if isinstance(entry, SampleEntry) and entry.depth_paths:
            return True
        if entry.scene not in self._lidar:
            self._lidar[entry.scene] = bool(self.source.rig(entry.scene).T_ego_lidar)
        # A point would have to be bent as the lens bends; the lidar of such rigs is left to the exported files.
        return self._lidar[entry.scene] and not any(distorts(entry.cameras, n) for n in range(len(entry.cameras)))

    def true_depths(self, entry: Entry, sample: Sample, lenses: Lenses) -> Depths | None:
        if sample.depths is not None:
            return rectify_depths(sample, lenses)
        if not (isinstance(entry, SampleEntry) and isinstance(self.source, LidarSource) and self.may_have_depth(entry)):
            return None
        points = self.source.lidar_world(entry.scene, entry)
        if points is None:
            return None
        T_world_cam = entry.frame.T_world_ego @ entry.cameras.T_ego_cam.double().numpy()
        return tuple(draw_depth(points, T_world_cam[n], entry.cameras, n) for n in range(len(entry.cameras)))

    def lidar_scan(self, entry: Entry, T_world_now: Float[np.ndarray, "4 4"] | None) -> LidarScan | None:
        if not (isinstance(entry, SampleEntry) and isinstance(self.source, LidarSource)) or T_world_now is None:
            return None
        lidars = list(self.source.rig(entry.scene).T_ego_lidar.values())
        points = self.source.lidar_world(entry.scene, entry) if lidars else None
        if points is None:
            return None
        T_now_world = transforms.invert_matrix(T_world_now)
        # The robot moves on by centimetres between its lidar's stamp and this moment: as nothing for where rays start.
        return LidarScan(points @ T_now_world[:3, :3].T + T_now_world[:3, 3], lidars[0][:3, 3])

    def lidar_places(self, scene: str, entries: Sequence[Entry]) -> Float[np.ndarray, "F 3"] | None:
        lidars = list(self.source.rig(scene).T_ego_lidar.values())
        labels = [entry.T_world_labels for entry in entries if isinstance(entry, SampleEntry)]
        poses = [pose for pose in labels if pose is not None]
        if not lidars or not poses:
            return None
        return np.stack([(pose @ lidars[0])[:3, 3] for pose in poses])


class RecordingSource:
    """Rosbags: a scene is a bag, a moment a set of images, truth the point cloud of its time."""

    def __init__(self, config: BagConfig) -> None:
        self.described = {"bag": config.path}
        self.depth_limits = NUSCENES_RANGE
        self._sources = {source.index.name: source for source in open_bags(config)}
        self._topics = {name: lidar_topics(source) for name, source in self._sources.items()}

    def scene_names(self) -> tuple[str, ...]:
        return tuple(self._sources)

    def entries(self, scene: str, neighbours: bool, history: Sequence[float] = ()) -> Sequence[BagEntry]:
        found = self._sources[scene].entries(semantics=False)
        if not found:
            raise DatasetError(f"{self._sources[scene].index.path}: {self._sources[scene].explain_no_sets()}")
        return with_history(found, found, history) if history else found

    def drive(self, scene: str) -> Sequence[BagEntry]:
        return [replace(each, neighbours=()) for each in self._sources[scene].entries(semantics=False)]

    def may_have_depth(self, entry: Entry) -> bool:
        return bool(self._topics[entry.scene])

    def true_depths(self, entry: Entry, sample: Sample, lenses: Lenses) -> Depths | None:
        source, topics = self._source(entry), self._topics[entry.scene]
        if not topics or not isinstance(entry, BagEntry):
            return None
        cameras = depth_cameras(sample.cameras, lenses)
        points = lidar_depths(source, topics[0], entry, cameras)
        if points is None:
            return None
        return tuple(paint_depth(each, cameras.width[n], cameras.height[n]) for n, each in enumerate(points))

    def lidar_scan(self, entry: Entry, T_world_now: Float[np.ndarray, "4 4"] | None) -> LidarScan | None:
        topics = self._topics[entry.scene]
        if not topics or not isinstance(entry, BagEntry):
            return None
        return lidar_scan(self._source(entry), topics[0], entry)

    def lidar_places(self, scene: str, entries: Sequence[Entry]) -> None:
        return None

    def _source(self, entry: Entry) -> BagSource:
        return self._sources[entry.scene]


def open_source(
    dataroot: str | Path | None = None,
    *,
    schema: str = "nuscenes",
    version: str = "v1.0-mini",
    bag: str | Path | BagConfig | None = None,
    follow_outside: bool = False,
) -> EvaluationSource:
    """Of a data root (nuscenes: with its version; ddad), or of a bag, a folder of bags, or what a BagConfig says.

    follow_outside: links in the data root may lead out of it.
    """
    if (dataroot is None) == (bag is None):
        raise DatasetError("give either dataroot, a data set, or bag, a rosbag2 or a folder of them")
    if bag is not None:
        config = bag if isinstance(bag, BagConfig) else BagConfig(path=str(bag))
        find_bags(config.path)  # a wrong path is said in words before anything is opened
        return RecordingSource(config)
    assert dataroot is not None
    if schema == "ddad":
        return TableSource(DdadSource(dataroot, follow_outside=follow_outside))
    if schema != "nuscenes":
        raise DatasetError(f"schema: expected nuscenes or ddad, got {schema!r}")
    return TableSource(NuScenesSource(dataroot, version, follow_outside=follow_outside))


def choose_scenes(source: EvaluationSource, scenes: Sequence[str] | None, split: str | None) -> tuple[str, ...]:
    """The scenes that are named, those of a split, or all."""
    known = source.scene_names()
    if split is not None:
        if isinstance(source, TableSource) and isinstance(source.source, NuScenesSource):
            return tuple(select_scenes(source.source, split=split))
        if isinstance(source, TableSource) and isinstance(source.source, DdadSource):
            return source.source.scene_names(split)
        raise DatasetError("split: bags have none; name them with --scene")
    if not scenes:
        return known
    if isinstance(source, RecordingSource) and (absent := [name for name in scenes if name not in known]):
        raise DatasetError(f"no bag named {', '.join(absent)}; there are {', '.join(known)}")
    return tuple(scenes)
