# SPDX-License-Identifier: Apache-2.0
"""Any database in the nuScenes v1.0 schema: keyframes as Samples, and the raw stream of a scene for the bag writer.

Tables are read by nuscenes-devkit. Stamps are integer nanoseconds, exact from the tables' microseconds.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from jaxtyping import Float

from gaussianocc_core.bags.convert import INCLUDED, LEFT_OUT, write_recording
from gaussianocc_core.bags.schema import BagRig, Record
from gaussianocc_core.bags.writer import BagReport
from gaussianocc_core.data.entries import FrameEntry, SampleEntry, mask_paths
from gaussianocc_core.data.nuscenes_recording import Contents, Row, SceneRecording, read_points
from gaussianocc_core.data.nuscenes_tables import (
    TABLES,
    check_sample_data,
    diagnose_references,
    open_database,
    read_intrinsics,
    read_lens,
    read_stamp_ns,
    read_transform,
    token_of,
)
from gaussianocc_core.data.sets import SetBuilder
from gaussianocc_core.errors import BagError, CalibrationError, DatasetError
from gaussianocc_core.geometry.cameras import counter_clockwise
from gaussianocc_core.labels import IGNORE
from gaussianocc_core.mistakes import reading
from gaussianocc_core.names import DataRoot, check_name, shorten
from gaussianocc_core.types import Cameras, Sample

logger = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

# Times from an image to its neighbour differ by less from camera to camera, unless one of them lost an image.
_GAPS_DIFFER_NS = 30_000_000


def _reads_tables(method: Callable[P, R]) -> Callable[P, R]:
    """A method whose rows may hold anything: what none of the checks foresaw is a DatasetError too."""

    @wraps(method)
    def careful(*args: P.args, **kwargs: P.kwargs) -> R:
        source: Any = args[0]
        with reading(f"{source.dataroot / source.version}", "restore its tables", DatasetError):
            return method(*args, **kwargs)

    return careful


class NuScenesSource:
    """One version of one data root. Opening reads the tables (a minute for the full data set)."""

    def __init__(
        self,
        dataroot: Path | str,
        version: str = "v1.0-mini",
        cameras: Sequence[str] | None = None,
        follow_outside: bool = False,
    ) -> None:
        """cameras: names in the wanted order, anchor first; default all, counter-clockwise from the front.

        follow_outside: links in the data root may lead out of it. DatasetError where a name in the tables could become
        another path than it should.
        """
        self.dataroot = Path(dataroot)
        self.version = version
        self._wanted_cameras = tuple(cameras) if cameras is not None else None
        self._root = DataRoot(self.dataroot, DatasetError, follow_outside)
        self._db = open_database(self.dataroot, version, self._root)
        for row in self._db.scene:
            check_name(row.get("name"), f"scene {token_of(row)}: name", DatasetError)
        self._checked: set[str] = set()  # tokens of scenes
        self._listings: dict[str, frozenset[str]] = {}

    def scene_names(self) -> tuple[str, ...]:
        return tuple(row["name"] for row in self._db.scene)

    # ---- samples ---------------------------------------------------------------------------------------------------

    @_reads_tables
    def index(
        self,
        scene: str,
        *,
        sweeps: bool = False,
        neighbours: bool = False,
        semantics: bool = False,
        depths: bool = False,
        masks: str | Path | None = None,
        undetected: int = IGNORE,
    ) -> tuple[SampleEntry, ...]:
        """The moments of a scene in time order; one that lacks a wanted camera is left out with a warning.

        sweeps: every image of the anchor camera is a moment, not only keyframes (sets are formed by `SetBuilder`).
        neighbours: with the images before and after of each camera: the nearest whose files exist, so 12 Hz sweeps
            where they were downloaded and keyframes where not; `SampleEntry.gap_s` says how far away. A moment at a
            scene's end has fewer.
        semantics, depths: with the published 2D label and depth files (nuscenes_semantic/, depth_full/) where all
            cameras have one. masks: a folder of `<camera>_mask.png`, or None; a missing file is a DatasetError.
        """
        cameras = self.rig(scene).cameras
        by_camera: dict[str, list[dict]] = {name: [] for name in cameras.names}
        for row in self._rows(scene):
            if row["channel"] in by_camera and row["sensor_modality"] == "camera":
                by_camera[row["channel"]].append(row)
        sets = self._swept_sets(scene, by_camera) if sweeps else self._keyframe_sets(scene, cameras.names)
        lidar_rows = {
            row["sample_token"]: row for row in self._rows(scene, sweeps=False) if row["sensor_modality"] == "lidar"
        }
        files = mask_paths(masks, cameras.names)
        places = {name: {row["token"]: i for i, row in enumerate(rows)} for name, rows in by_camera.items()}
        entries = []
        for rows in sets:
            entry = self._entry(scene, cameras, rows, lidar_rows)
            around = {offset: self._beside(by_camera, places, rows, offset) for offset in (-1, 1)} if neighbours else {}
            entry = replace(
                entry,
                neighbours=tuple((offset, frame) for offset, frame in around.items() if frame is not None),
                semantic_paths=self._existing(rows, "nuscenes_semantic", "_mask.bin") if semantics else (),
                depth_paths=self._existing(rows, "depth_full", ".npy") if depths else (),
                mask_paths=files,
                undetected=undetected,
            )
            entries.append(entry)
        return tuple(sorted(entries, key=lambda entry: entry.frame.camera_stamps_ns[0]))

    def samples(self, scene: str, **options: Any) -> Iterator[Sample]:
        """The moments of a scene (options as for `index`), read as they are asked for."""
        return (entry.load() for entry in self.index(scene, **options))

    def _keyframe_sets(self, scene: str, names: Sequence[str]) -> list[list[dict]]:
        keyframes: dict[str, dict[str, dict]] = {}
        for row in self._rows(scene, sweeps=False):
            if row["sensor_modality"] == "camera":
                keyframes.setdefault(row["sample_token"], {})[row["channel"]] = row
        sets = []
        for token, rows in keyframes.items():
            missing = [name for name in names if name not in rows]
            if missing:
                logger.warning("%s: keyframe %s has no image of %s and is left out", scene, token, ", ".join(missing))
            else:
                sets.append([rows[name] for name in names])
        return sets

    def _swept_sets(self, scene: str, by_camera: dict[str, list[dict]]) -> list[list[dict]]:
        names = tuple(by_camera)
        builder = SetBuilder(names)
        rows = sorted((row for rows in by_camera.values() for row in rows), key=lambda row: row["timestamp"])
        sets = []
        for row in rows:
            if (self.dataroot / row["filename"]).is_file():
                for each in builder.add(row["channel"], read_stamp_ns(row), row):
                    sets.append([each.items[name] for name in names])
        if builder.statistics.dropped:
            logger.warning("%s: %d moments lack a camera and are left out", scene, builder.statistics.dropped.total())
        return sets

    def _beside(
        self, by_camera: dict[str, list[dict]], places: dict[str, dict[str, int]], rows: list[dict], offset: int
    ) -> FrameEntry | None:
        """The nearest earlier (-1) or later (+1) image of each camera; None where a camera has none.

        None too where the cameras' are of different times, as where one of them lost an image: one motion is learnt for
        all of them.
        """
        found = []
        for row in rows:
            series = by_camera[row["channel"]]
            place = places[row["channel"]][row["token"]] + offset
            while 0 <= place < len(series) and not (self.dataroot / series[place]["filename"]).is_file():
                place += offset
            if not 0 <= place < len(series):
                return None
            found.append(series[place])
        gaps = [abs(read_stamp_ns(beside) - read_stamp_ns(row)) for beside, row in zip(found, rows, strict=True)]
        return self._frame(found) if max(gaps) - min(gaps) <= _GAPS_DIFFER_NS else None

    def _existing(self, rows: list[dict], folder: str, ending: str) -> tuple[Path, ...]:
        """Companion files of the images, if every camera has one."""
        names = [Path(row["filename"]) for row in rows]
        paths = tuple(self.dataroot / folder / f"{name.with_suffix('')}{ending}" for name in names)
        there = all(path.is_file() for path in paths)
        return tuple(self._root.check(path, folder) for path in paths) if there else ()

    def _frame(self, rows: Sequence[dict]) -> FrameEntry:
        return FrameEntry(
            image_tokens=tuple(row["token"] for row in rows),
            image_paths=tuple(self.dataroot / row["filename"] for row in rows),
            camera_stamps_ns=tuple(read_stamp_ns(row) for row in rows),
            T_world_ego=np.stack([self._T_world_ego(row) for row in rows]),
        )

    def _entry(self, scene: str, cameras: Cameras, rows: list[dict], lidar_rows: dict[str, dict]) -> SampleEntry:
        frame, token = self._frame(rows), rows[0]["sample_token"]
        if not all(row["is_key_frame"] for row in rows):
            return SampleEntry(rows[0]["token"], scene, cameras, frame)
        return SampleEntry(
            token,
            scene,
            cameras,
            frame,
            occupancy_path=self._root.check(self.dataroot / "gts" / scene / token / "labels.npz", "labels"),
            # Occ3D labels are in the ego frame at the lidar's stamp, which is the keyframe's.
            T_world_labels=self._T_world_ego(lidar_rows.get(token) or rows[0]),
        )

    # ---- the raw stream --------------------------------------------------------------------------------------------

    @_reads_tables
    def rig(self, scene: str) -> BagRig:
        """Sensors of a scene with their static calibration; odom is the ego pose of the scene's first row."""
        rows = self._rows(scene)
        channels: dict[str, dict] = {}
        for row in rows:
            first = channels.setdefault(row["channel"], row)
            if row["calibrated_sensor_token"] != first["calibrated_sensor_token"]:
                self._refuse_changed_calibration(scene, first, row)
        T_ego_lidar = {
            name: read_transform(self._calibration(row), "calibrated_sensor")
            for name, row in channels.items()
            if row["sensor_modality"] == "lidar"
        }
        cameras = {name: row for name, row in channels.items() if row["sensor_modality"] == "camera"}
        return BagRig(self._cameras(scene, cameras), T_ego_lidar, self._T_world_ego(rows[0]))

    @_reads_tables
    def recording(
        self,
        scene: str,
        *,
        sweeps: bool = True,
        lidar: bool = True,
        labels: bool = True,
        masks: str | Path | None = None,
    ) -> SceneRecording:
        """What is needed to write a scene's bag, without reading any file of it.

        sweeps: without, only keyframes; poses at lidar and radar stamps come along in any case. labels: the published
        2D labels (nuscenes_semantic/) and Occ3D's occupancy (gts/) where they exist. masks: folder of
        `<camera>_mask.png`, one for each camera.
        """
        contents = Contents(sweeps, lidar, labels, None if masks is None else Path(masks))
        rig, rows = self.rig(scene), self._rows(scene, sweeps)
        names = set(rig.cameras.names)
        mask_paths(masks, rig.cameras.names)
        truths = self._occupancy_files(scene, rows, rig.cameras.names[0]) if labels else {}
        found = []
        for row in rows:
            is_camera = row["sensor_modality"] == "camera"
            has_labels = labels and is_camera and row["channel"] in names
            found.append(
                Row(
                    read_stamp_ns(row),
                    row["channel"],
                    row["sensor_modality"],
                    row["token"],
                    row["filename"],
                    row["channel"] in names if is_camera else lidar and row["sensor_modality"] == "lidar",
                    self._label_file(row["filename"]) if has_labels else None,
                    truths.get(row["token"]),
                    self._lookup(row, "ego_pose"),
                )
            )
        T_ego_lidar = dict(rig.T_ego_lidar) if lidar else {}
        return SceneRecording(
            scene, self.version, self.dataroot, rig.cameras, T_ego_lidar, rig.T_map_odom, contents, tuple(found)
        )

    def recording_like(
        self, scene: str, provenance: Mapping[str, str], masks: str | Path | None = None
    ) -> SceneRecording:
        """The recording that a bag with this provenance was made from. masks: their folder, if the bag has masks."""
        recorded = {name: provenance.get(name) for name in Contents().describe()}
        if not set(recorded.values()) <= {INCLUDED, LEFT_OUT} or provenance.get("scene") != scene:
            raise BagError(f"the bag does not say what of {scene} it holds: convert the scene again with --overwrite")
        if recorded["masks"] == INCLUDED and masks is None:
            raise BagError("the bag holds masks, which can only be compared with their files: give --masks")
        flags = {name: recorded[name] == INCLUDED for name in ("sweeps", "lidar", "labels")}
        return self.recording(scene, **flags, masks=masks if recorded["masks"] == INCLUDED else None)

    def records(self, scene: str, **contents: Any) -> Iterator[Record]:
        """The scene in time order (options as for `recording`), files read one at a time."""
        return self.recording(scene, **contents).records()

    def scenes_of_samples(self, tokens: Iterable[str]) -> dict[str, str]:
        """Names of the scenes that samples belong to; tokens that this version lacks are left out."""
        names = {row["token"]: row["name"] for row in self._db.scene}
        scenes = {row["token"]: names[row["scene_token"]] for row in self._db.sample if row["scene_token"] in names}
        return {token: scenes[token] for token in tokens if token in scenes}

    def _label_file(self, filename: str) -> str | None:
        """Path of an image's 2D labels below the data root, if they exist."""
        name = Path(filename).with_suffix("")
        folder = f"nuscenes_semantic/{name.parent}"
        if f"{name.name}_mask.bin" not in self._listing(folder):
            return None
        path = f"{folder}/{name.name}_mask.bin"
        self._root.check(self.dataroot / path, "2D labels")
        return path

    def _occupancy_files(self, scene: str, rows: list[dict], anchor: str) -> dict[str, str]:
        """sample_data token -> Occ3D labels that belong to its moment: the lidar's, or the anchor camera's without."""
        carriers: dict[str, dict] = {}
        for row in rows:
            if row["is_key_frame"] and row["channel"] == anchor:
                carriers.setdefault(row["sample_token"], row)
        carriers |= {
            row["sample_token"]: row for row in rows if row["is_key_frame"] and row["sensor_modality"] == "lidar"
        }
        folder = f"gts/{scene}"
        known = self._listing(folder)
        paths = {row["token"]: f"{folder}/{sample}/labels.npz" for sample, row in carriers.items() if sample in known}
        there = {token: path for token, path in paths.items() if (self.dataroot / path).is_file()}
        for path in there.values():
            self._root.check(self.dataroot / path, "labels")
        return there

    def _listing(self, folder: str) -> frozenset[str]:
        """Names in a folder below the data root, read once: on a network drive, asking file by file takes minutes."""
        if folder not in self._listings:
            try:
                self._listings[folder] = frozenset(os.listdir(self.dataroot / folder))
            except OSError:
                self._listings[folder] = frozenset()
        return self._listings[folder]

    @_reads_tables
    def lidar_world(self, scene: str, entry: SampleEntry) -> Float[np.ndarray, "P 3"] | None:
        """Points (m, world frame) of the lidar sweep of a keyframe; None if it has none."""
        for row in self._rows(scene, sweeps=False):
            if row["sample_token"] == entry.token and row["sensor_modality"] == "lidar":
                points = read_points(self.dataroot / row["filename"], row["token"])[:, :3].astype(np.float64)
                T_world_lidar = self._T_world_ego(row) @ read_transform(self._calibration(row), "calibrated_sensor")
                return points @ T_world_lidar[:3, :3].T + T_world_lidar[:3, 3]
        return None

    def depth_path(self, scene: str, entry: SampleEntry, camera: int) -> Path:
        """Of the published depth file of an image, below the data root (docs/method.md#j)."""
        return Path("depth_full") / entry.frame.image_paths[camera].relative_to(self.dataroot).with_suffix(".npy")

    # ---- tables ----------------------------------------------------------------------------------------------------

    @cached_property
    def _rows_by_scene(self) -> dict[str, list[dict]]:
        scene_of_sample = {row["token"]: row["scene_token"] for row in self._db.sample}
        rows: dict[str, list[dict]] = {row["token"]: [] for row in self._db.scene}
        for row in self._db.sample_data:
            scene = scene_of_sample.get(row.get("sample_token"))
            if scene not in rows:
                reason = diagnose_references({name: getattr(self._db, name) for name in TABLES})
                raise DatasetError(f"cannot read {self.dataroot / self.version}: {reason}")
            rows[scene].append(row)
        return rows

    def check_scene(self, scene: str) -> str:
        """The token of a scene; DatasetError names those that may be meant."""
        token = next((row["token"] for row in self._db.scene if row["name"] == scene), None)
        if token is None:
            near = difflib.get_close_matches(scene, self.scene_names(), n=3, cutoff=0.5) or self.scene_names()[:3]
            raise DatasetError(
                f"scene {scene!r} is not in {self.version} of {self.dataroot} ({len(self.scene_names())} scenes); "
                f"did you mean {', '.join(near)}?"
            )
        return token

    def _rows(self, scene: str, sweeps: bool = True) -> list[dict]:
        """sample_data rows of a scene by time; keyframes only without `sweeps`."""
        token = self.check_scene(scene)
        if token not in self._checked:
            for row in self._rows_by_scene[token]:
                check_sample_data(row, self._root)
            self._checked.add(token)
        rows = [row for row in self._rows_by_scene[token] if sweeps or row["is_key_frame"]]
        if not rows:
            raise DatasetError(f"scene {scene} has no rows in sample_data.json of {self.dataroot / self.version}")
        return sorted(rows, key=lambda row: (row["timestamp"], row["sensor_modality"], row["channel"]))

    def _lookup(self, row: dict, table: str) -> dict:
        """The row of another table that a sample_data row points to."""
        token = row[f"{table}_token"]
        try:
            return self._db.get(table, token)
        except KeyError:
            raise DatasetError(
                f"sample_data {token_of(row)}: its {table}_token {shorten(token)} is not in table {table}.json of "
                f"{self.dataroot / self.version}; restore the table"
            ) from None

    def _calibration(self, row: dict) -> dict:
        return self._lookup(row, "calibrated_sensor")

    def _T_world_ego(self, row: dict) -> np.ndarray:
        return read_transform(self._lookup(row, "ego_pose"), "ego_pose")

    def _cameras(self, scene: str, rows: dict[str, dict]) -> Cameras:
        T_ego_cam = {name: read_transform(self._calibration(row), "calibrated_sensor") for name, row in rows.items()}
        names = self._wanted_cameras or counter_clockwise(T_ego_cam)
        missing = [name for name in names if name not in rows]
        if missing or not names:
            raise DatasetError(f"scene {scene} has no camera {', '.join(missing)}; it has {', '.join(rows) or 'none'}")
        lenses = [read_lens(self._calibration(rows[name]), name) for name in names]
        return Cameras(
            names=names,
            intrinsics=torch.from_numpy(
                np.stack([read_intrinsics(self._calibration(rows[name]), name) for name in names])
            ),
            T_ego_cam=torch.from_numpy(np.stack([T_ego_cam[name] for name in names])),
            width=tuple(int(rows[name]["width"]) for name in names),
            height=tuple(int(rows[name]["height"]) for name in names),
            model=tuple(model for model, _ in lenses),
            distortion=tuple(distortion for _, distortion in lenses),
        )

    def _refuse_changed_calibration(self, scene: str, first: dict, row: dict) -> None:
        fields = ("translation", "rotation", "camera_intrinsic", "camera_model", "camera_distortion")
        before, after = self._calibration(first), self._calibration(row)
        if any(before.get(field) != after.get(field) for field in fields):
            raise CalibrationError(
                f"scene {scene}: the calibration of {row['channel']} changes from calibrated_sensor "
                f"{token_of(before)} to {token_of(after)}; one rig per scene is supported, so split the scene there"
            )


def write_scene_bag(
    source: NuScenesSource,
    scene: str,
    path: Path,
    *,
    storage: str = "mcap",
    overwrite: bool = False,
    sweeps: bool = True,
    lidar: bool = True,
    labels: bool = True,
    masks: str | Path | None = None,
    on_record: Callable[[Record], None] | None = None,
) -> BagReport:
    """One scene as one bag in the project's schema (contents as for `NuScenesSource.recording`)."""
    recording = source.recording(scene, sweeps=sweeps, lidar=lidar, labels=labels, masks=masks)
    return write_recording(recording, path, storage=storage, overwrite=overwrite, on_record=on_record)
