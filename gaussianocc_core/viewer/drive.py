# SPDX-License-Identifier: Apache-2.0
"""A recording, seen by a model one moment after the other, as a robot sees: what was before serves what follows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from gaussianocc_core.bags.indexing import find_bags
from gaussianocc_core.data.bag import BagEntry
from gaussianocc_core.data.entries import in_label_frame
from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.data.sources import Entry
from gaussianocc_core.errors import DatasetError, GaussianOccError
from gaussianocc_core.evaluation.sources import EvaluationSource, TableSource, open_source
from gaussianocc_core.geometry.transforms import invert_matrix
from gaussianocc_core.labels import has_one_class, ids_to_occ3d
from gaussianocc_core.models.ego_motion import VisualOdometry
from gaussianocc_core.predictor import OccupancyPredictor, Prediction
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.types import Sample
from gaussianocc_core.viewer.moment import PICTURE_WIDTH, Moment, picture_height

WARM_UP = 3  # moments before the one that was asked for, which a model that matches sees first
_VERSION = "v1.0-mini"  # of nuScenes, unless the folder holds one alone


def find_source(path: str | Path, version: str = "") -> EvaluationSource:
    """A bag or a folder of bags, a data root in the nuScenes schema, or DDAD, told apart by what the path holds.

    version: nuScenes' version folder; "": the only one that is there, or v1.0-mini. DatasetError says what was looked
    for.
    """
    path = Path(path)
    if not path.exists():
        raise DatasetError(f"{path} does not exist; give a bag, a nuScenes or DDAD folder, or the word synthetic")
    versions = sorted(each.name for each in path.glob("v1.0-*") if each.is_dir()) if path.is_dir() else []
    if versions:
        chosen = version or (versions[0] if len(versions) == 1 else _VERSION)
        return open_source(path, version=chosen)
    if path.is_dir() and (any(path.glob("*.json")) and any(path.glob("*/scene_*.json"))):
        return open_source(path, schema="ddad")
    try:
        find_bags(path)
    except GaussianOccError as error:
        raise DatasetError(
            f"{path}: no bag (metadata.yaml, .mcap, .db3), no nuScenes (v1.0-*), no DDAD (scene_*.json): {error}"
        ) from None
    return open_source(bag=path)


def choose_scene(source: EvaluationSource, wanted: str | None) -> str:
    """The one that is wanted, or the first; DatasetError names those that there are."""
    known = source.scene_names()
    if wanted is not None and wanted not in known:
        raise DatasetError(f"no scene named {wanted}; there are {', '.join(known[:20])}")
    if not known:
        raise DatasetError("the source holds no scene")
    return wanted or known[0]


class Drive:
    """One scene. For one thread: the model remembers what it saw."""

    def __init__(
        self,
        source: EvaluationSource,
        scene: str,
        predictor: OccupancyPredictor,
        every: int = 1,
        compares_motion: bool = False,
    ) -> None:
        """every: only each so many moments. compares_motion: the images' own motion is sought even where the recording
        has poses; it is then only compared."""
        self.source, self.scene, self.predictor = source, scene, predictor
        self._compares_motion = compares_motion
        self.prediction: Prediction | None = None  # of the moment that was seen last
        self.sample: Sample | None = None
        self.entries = moments_of(source, scene)[::every]
        self.stamps_ns = tuple(entry.frame.camera_stamps_ns[0] for entry in self.entries)
        self._places = [_place(entry) for entry in self.entries]
        self._in_occ3d = ids_to_occ3d(predictor.class_names)
        self._last: int | None = None
        self._odometry: VisualOdometry | None = None
        self._walked: dict[int, np.ndarray] = {}  # by moment, T_odom_ego by the images, since the last jump
        cameras = self.entries[0].cameras
        self.pictures = Preprocessor(PICTURE_WIDTH, picture_height(cameras.width[0], cameras.height[0]))

    @property
    def poses(self) -> list[Float[np.ndarray, "4 4"] | None]:
        """T_world_ego of every moment: as recorded, or by the images of those that were seen in one go."""
        if any(pose is not None for pose in self._places):
            return list(self._places)
        return [self._walked.get(k) for k in range(len(self))]

    @property
    def has_recorded_poses(self) -> bool:
        return any(pose is not None for pose in self._places)

    def __len__(self) -> int:
        return len(self.entries)

    def see(self, number: int) -> Moment:
        """The moment and what the model says of it. After a jump, it first sees a few moments that come before."""
        if self._last is None or number != self._last + 1:
            self._start()
            if self.predictor.matches:
                for k in range(max(0, number - WARM_UP), number):
                    self._see(k)
        return self._see(number)

    def _start(self) -> None:
        self.predictor.reset()
        self._walked = {}
        seeks = self._compares_motion or self._places[0] is None
        self._odometry = VisualOdometry() if seeks and self.predictor.sees_depth else None

    def _see(self, number: int) -> Moment:
        begin = time.perf_counter()
        entry = self.entries[number]
        sample = entry.load()
        loaded = time.perf_counter()
        cameras, labels = in_label_frame(sample), sample.occupancy
        predictor = self.predictor
        predictor.use_masks(dict(zip(cameras.names, sample.static_masks or (), strict=bool(sample.static_masks))))
        T_world_ego = sample.T_world_ego
        if labels is not None and labels.T_world_ego is not None:
            T_world_ego = labels.T_world_ego
        prediction = predictor(sample.images, cameras, T_world_ego, 1e-9 * sample.stamp_ns, self._odometry)
        self._last, self.prediction, self.sample = number, prediction, sample
        done = time.perf_counter()
        if prediction.moved is not None:
            self._walked[number] = prediction.moved.T_odom_ego
        path, place = self._path(number, T_world_ego)
        lenses = self.pictures(sample.cameras)
        return Moment(
            stamp_ns=sample.stamp_ns,
            scene=self.scene,
            images=dict(zip(cameras.names, lenses.rectify(sample.images), strict=True)),
            cameras=lenses.views(cameras.T_ego_cam),
            labels=self._in_occ3d[prediction.labels],
            confidence=prediction.confidence,
            grid=prediction.grid,
            classless=has_one_class(prediction.class_names),
            model=prediction.model,
            trained=prediction.trained,
            truth=labels,
            lidar=self._lidar(entry, sample, T_world_ego),
            path=path,
            place=place,
            seconds={"images": loaded - begin, "model": done - loaded},
        )

    def _lidar(self, entry: Entry, sample: Sample, T_world_ego: np.ndarray | None) -> np.ndarray | None:
        scan = self.source.lidar_scan(entry, T_world_ego)
        return None if scan is None else scan.points[np.isfinite(scan.points).all(axis=1)].astype(np.float32)

    def _path(
        self, number: int, T_world_ego: Float[np.ndarray, "4 4"] | None
    ) -> tuple[Float[np.ndarray, "T 3"] | None, int]:
        """Places of the drive in the present ego frame, and which of them is now: recorded, or else by the images."""
        poses = {k: pose for k, pose in enumerate(self._places) if pose is not None}
        here = T_world_ego
        if not poses:
            poses, here = self._walked, self._walked.get(number)
        if here is None or len(poses) < 2:
            return None, 0
        T_ego_world = invert_matrix(here)
        places = np.stack([pose[:3, 3] for _, pose in sorted(poses.items())])
        return places @ T_ego_world[:3, :3].T + T_ego_world[:3, 3], sum(k < number for k in poses)


def moments_of(source: EvaluationSource, scene: str) -> Sequence[Entry]:
    """At the cameras' rate, where the data set has images between keyframes; without the images of neighbours."""
    entries: Sequence[Entry]
    if isinstance(source, TableSource) and isinstance(source.source, NuScenesSource):
        entries = source.source.index(scene, sweeps=True)
    else:
        entries = source.entries(scene, neighbours=False)
    if not entries:
        raise DatasetError(f"{scene}: has no moment with an image of every camera")
    return [_alone(entry) for entry in entries]


def _alone(entry: Entry) -> Entry:
    if isinstance(entry, BagEntry):
        return replace(entry, neighbours=())
    return replace(entry, neighbours=())


def _place(entry: Entry) -> Float[np.ndarray, "4 4"] | None:
    poses = entry.frame.T_world_ego
    return None if poses is None else poses[0]
