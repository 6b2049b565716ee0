# SPDX-License-Identifier: Apache-2.0
"""One scene of a nuScenes database as a recording for a bag: small, picklable, and without the tables it came from.

The tables of the full data set take a minute to load and gigabytes to hold. So one process opens them, and sends
recordings, about 1 MB each, to those that write bags.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gaussianocc_core.bags.convert import INCLUDED, LEFT_OUT
from gaussianocc_core.bags.schema import (
    OCCUPANCY_TOPIC,
    TF_STATIC_TOPIC,
    TF_TOPIC,
    BagRig,
    ImageRecord,
    LabelRecord,
    LidarRecord,
    OccupancyRecord,
    PoseRecord,
    Record,
    image_topic,
    info_topic,
    label_topic,
    mask_topic,
    points_topic,
)
from gaussianocc_core.data.entries import load_occupancy, mask_path, read_file, read_mask, read_semantics
from gaussianocc_core.data.nuscenes_tables import read_transform
from gaussianocc_core.errors import DatasetError
from gaussianocc_core.geometry import transforms
from gaussianocc_core.labels import CLASS_NAMES, FREE, IGNORE, UNOBSERVED
from gaussianocc_core.types import Cameras, VoxelGrid

LIDAR_COLUMNS = 5  # x y z intensity ring, float32
_MOSTLY = 0.5  # of the files: fewer that lack are damage, more were never there
_BATCH = 256  # rows whose poses are computed together: one by one, numpy's overhead takes longer than reading the files


@dataclass(frozen=True)
class Contents:
    """What of a scene becomes messages."""

    sweeps: bool = True  # 12 Hz images and 20 Hz lidar; without, keyframes (2 Hz)
    lidar: bool = True
    labels: bool = True  # 2D labels and Occ3D occupancy, where their files are
    masks: Path | None = None  # folder of <camera>_mask.png

    def describe(self) -> dict[str, str]:
        """For a bag's custom_data."""
        flags = {"sweeps": self.sweeps, "lidar": self.lidar, "labels": self.labels, "masks": self.masks is not None}
        return {name: INCLUDED if flag else LEFT_OUT for name, flag in flags.items()}


class Row(NamedTuple):
    """One sample_data row, in order of time. The vehicle's pose counts even where the file is not wanted."""

    stamp_ns: int
    channel: str
    modality: str  # "camera", "lidar" or another one
    token: str
    filename: str  # below the data root
    wanted: bool  # its file becomes a message
    labels: str | None  # 2D labels of this image, below the data root
    occupancy: str | None  # Occ3D labels of this moment, below the data root
    ego_pose: dict  # row of that table


@dataclass(frozen=True)
class SceneRecording:
    """A scene, ready to be read."""

    name: str
    version: str
    dataroot: Path
    cameras: Cameras
    T_ego_lidar: dict[str, np.ndarray]
    T_map_odom: np.ndarray
    contents: Contents
    rows: tuple[Row, ...]

    @property
    def provenance(self) -> dict[str, str]:
        return {"source": f"nuScenes schema {self.version}", "scene": self.name, **self.contents.describe()}

    @property
    def files(self) -> int:
        """How many files `records` reads."""
        return sum(row.wanted + (row.labels is not None) + (row.occupancy is not None) for row in self.rows)

    def open_rig(self) -> BagRig:
        masks, folder = {}, self.contents.masks
        if folder is not None:
            for i, name in enumerate(self.cameras.names):
                masks[name] = read_mask(mask_path(folder, name), (self.cameras.width[i], self.cameras.height[i]))
        return BagRig(self.cameras, self.T_ego_lidar, self.T_map_odom, masks)

    def count_messages(self) -> dict[str, int]:
        """Messages by topic, without opening a file."""
        counts = Counter({TF_STATIC_TOPIC: 1, TF_TOPIC: len({row.stamp_ns for row in self.rows})})
        if self.contents.masks is not None:
            counts.update(mask_topic(name) for name in self.cameras.names)
        for row in self.rows:
            if row.wanted and row.modality == "camera":
                counts.update((image_topic(row.channel), info_topic(row.channel)))
            elif row.wanted:
                counts[points_topic(row.channel)] += 1
            if row.labels is not None:
                counts[label_topic(row.channel)] += 1
            if row.occupancy is not None:
                counts[OCCUPANCY_TOPIC] += 1
        return dict(counts)

    def records(self) -> Iterator[Record]:
        """The scene in time order, files read one at a time: a pose at every sensor stamp, and what is wanted.

        `T_map_odom` is the ego pose of the scene's first row, so the first pose is the identity.
        """
        self._check_files()
        size = dict(zip(self.cameras.names, zip(self.cameras.width, self.cameras.height, strict=True), strict=True))
        T_odom_map = transforms.invert_matrix(self.T_map_odom)
        posed_ns = None
        for start in range(0, len(self.rows), _BATCH):
            rows = self.rows[start : start + _BATCH]
            for row, T_odom_ego in zip(rows, T_odom_map @ _read_poses(rows), strict=True):
                if row.stamp_ns != posed_ns:
                    yield PoseRecord(row.stamp_ns, T_odom_ego)
                    posed_ns = row.stamp_ns
                if row.wanted and row.modality == "camera":
                    path = self.dataroot / row.filename
                    data = read_file(path, row.token)
                    yield ImageRecord(
                        row.stamp_ns, row.channel, data, _image_format(row), f"sample_data {row.token}, {path}"
                    )
                elif row.wanted:
                    yield LidarRecord(row.stamp_ns, row.channel, read_points(self.dataroot / row.filename, row.token))
                if row.labels is not None:
                    path = self.dataroot / row.labels
                    labels, _ = read_semantics(path, size[row.channel], IGNORE)
                    yield LabelRecord(row.stamp_ns, row.channel, labels, f"2D labels {path}")
                if row.occupancy is not None:
                    yield self._occupancy(row.stamp_ns, self.dataroot / row.occupancy)

    def _check_files(self) -> None:
        """DatasetError where most of what is wanted was never downloaded; of single files whoever reads them tells."""
        wanted = [row for row in self.rows if row.wanted]
        swept = [row for row in wanted if row.filename.startswith("sweeps/")]
        kept = [row for row in wanted if not row.filename.startswith("sweeps/")]
        for of, rows, hint in (  # keyframes first: where only sweeps lack, five files of six do, but the scene is there
            ("its keyframes", kept, "its part of the data set is not here: get it, or leave the scene out"),
            ("the sweeps", swept, "the sweeps are not here: get them, or convert keyframes only (--no-sweeps)"),
        ):
            absent = [row for row in rows if not (self.dataroot / row.filename).is_file()]
            if len(absent) > _MOSTLY * len(rows):
                raise DatasetError(
                    f"{len(absent)} of {len(rows)} files of {of} do not exist, such as {absent[0].filename}: {hint}"
                )

    @staticmethod
    def _occupancy(stamp_ns: int, path: Path) -> OccupancyRecord:
        truth = load_occupancy(path)
        labels = np.where(truth.mask_camera, truth.semantics, np.uint8(UNOBSERVED))
        # Occ3D's region is fixed; finer or coarser voxels divide it.
        grid = VoxelGrid()
        edges = [(high - low) / n for low, high, n in zip(grid.origin, grid.upper, labels.shape, strict=True)]
        return OccupancyRecord(stamp_ns, labels, grid.origin, (edges[0], edges[1], edges[2]), CLASS_NAMES, FREE)


def read_points(path: Path, token: str) -> np.ndarray:
    """(P, 5) float32: x y z (m, lidar frame), intensity, ring."""
    data = read_file(path, token)
    if len(data) % (4 * LIDAR_COLUMNS):
        raise DatasetError(
            f"sample_data {token}, {path}: {len(data)} bytes are no whole number of points; "
            "restore the file from the data set"
        )
    return np.frombuffer(data, dtype="<f4").reshape(-1, LIDAR_COLUMNS)


def _read_poses(rows: Sequence[Row]) -> np.ndarray:
    """(R, 4, 4) T_map_ego."""
    try:
        rotation = np.array([row.ego_pose["rotation"] for row in rows], dtype=np.float64).reshape(-1, 4)
        translation = np.array([row.ego_pose["translation"] for row in rows], dtype=np.float64).reshape(-1, 3)
        length = np.linalg.norm(rotation, axis=1)
        usable = len(rotation) == len(translation) == len(rows) and np.isfinite(translation).all()
        usable = usable and np.isfinite(length).all() and length.min() > 0.5
    except (KeyError, TypeError, ValueError):
        usable = False
    if not usable:  # one by one, which names the row that is to blame
        return np.stack([read_transform(row.ego_pose, "ego_pose") for row in rows])
    T_map_ego = np.tile(np.eye(4), (len(rows), 1, 1))
    T_map_ego[:, :3, :3] = transforms.quat_to_matrix(rotation)
    T_map_ego[:, :3, 3] = translation
    return T_map_ego


def _image_format(row: Row) -> str:
    return "png" if row.filename.lower().endswith(".png") else "jpeg"
