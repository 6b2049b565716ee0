# SPDX-License-Identifier: Apache-2.0
"""Any database in the nuScenes v1.0 schema: keyframes as Samples, and the raw stream of a scene for the bag writer.

Tables are read by nuscenes-devkit. Stamps are integer nanoseconds, exact from the tables' microseconds.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from gaussianocc_core.data.bag_writer import (
    BagReport,
    BagRig,
    ImageRecord,
    LidarRecord,
    PoseRecord,
    Record,
    write_bag,
)
from gaussianocc_core.data.nuscenes_tables import (
    TABLES,
    check_fields,
    diagnose_references,
    open_database,
    read_intrinsics,
    read_lens,
    read_stamp_ns,
    read_transform,
)
from gaussianocc_core.errors import CalibrationError, DatasetError
from gaussianocc_core.geometry import transforms
from gaussianocc_core.types import Cameras, OccupancyLabels, Sample

logger = logging.getLogger(__name__)

_NEEDED_FIELDS = ("timestamp", "filename", "ego_pose_token", "calibrated_sensor_token")
_LIDAR_COLUMNS = 5  # x y z intensity ring, float32


@dataclass(frozen=True)
class KeyframeEntry:
    """All that `load` needs to make the Sample of one keyframe; small and picklable, for DataLoader workers."""

    token: str
    scene: str
    cameras: Cameras  # static calibration
    image_tokens: tuple[str, ...]
    image_paths: tuple[Path, ...]
    camera_stamps_ns: tuple[int, ...]
    T_world_ego: Float[np.ndarray, "N 4 4"]  # at each camera's own image time
    occupancy_path: Path
    T_world_labels: Float[np.ndarray, "4 4"]  # of the ego frame that the occupancy labels are in


class NuScenesSource:
    """One version of one data root. Opening reads the tables (a minute for the full data set)."""

    def __init__(self, dataroot: Path | str, version: str = "v1.0-mini", cameras: Sequence[str] | None = None) -> None:
        """`cameras`: names in the wanted order, anchor first; default all, counter-clockwise from the front."""
        self.dataroot = Path(dataroot)
        self.version = version
        self._wanted_cameras = tuple(cameras) if cameras is not None else None
        self._db = open_database(self.dataroot, version)

    def scene_names(self) -> tuple[str, ...]:
        return tuple(row["name"] for row in self._db.scene)

    # ---- keyframes -------------------------------------------------------------------------------------------------

    def index(self, scene: str) -> tuple[KeyframeEntry, ...]:
        """The keyframes of a scene in time order; one that lacks a wanted camera is left out with a warning."""
        keyframes: dict[str, dict[str, dict]] = {}
        lidar_rows: dict[str, dict] = {}
        for row in self._rows(scene):
            if row["is_key_frame"] and row["sensor_modality"] == "camera":
                keyframes.setdefault(row["sample_token"], {})[row["channel"]] = row
            elif row["is_key_frame"] and row["sensor_modality"] == "lidar":
                lidar_rows[row["sample_token"]] = row
        cameras = self.rig(scene).cameras
        entries = []
        for token, rows in keyframes.items():
            missing = [name for name in cameras.names if name not in rows]
            if missing:
                logger.warning("%s: keyframe %s has no image of %s and is left out", scene, token, ", ".join(missing))
                continue
            entries.append(
                self._entry(scene, token, cameras, [rows[name] for name in cameras.names], lidar_rows.get(token))
            )
        return tuple(sorted(entries, key=lambda entry: entry.camera_stamps_ns[0]))

    def samples(self, scene: str) -> Iterator[Sample]:
        """The keyframes of a scene, read as they are asked for."""
        return map(load, self.index(scene))

    def _entry(
        self, scene: str, token: str, cameras: Cameras, rows: list[dict], lidar_row: dict | None
    ) -> KeyframeEntry:
        return KeyframeEntry(
            token=token,
            scene=scene,
            cameras=cameras,
            image_tokens=tuple(row["token"] for row in rows),
            image_paths=tuple(self.dataroot / row["filename"] for row in rows),
            camera_stamps_ns=tuple(read_stamp_ns(row) for row in rows),
            T_world_ego=np.stack([self._T_world_ego(row) for row in rows]),
            occupancy_path=self.dataroot / "gts" / scene / token / "labels.npz",
            # Occ3D labels are in the ego frame at the lidar's stamp, which is the keyframe's.
            T_world_labels=self._T_world_ego(lidar_row or rows[0]),
        )

    # ---- the raw stream --------------------------------------------------------------------------------------------

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

    def records(self, scene: str, *, sweeps: bool = True, lidar: bool = True) -> Iterator[Record]:
        """The scene in time order, files read one at a time: a pose at every sensor stamp, images, lidar sweeps.

        Without `sweeps` only keyframes. Poses at lidar and radar stamps come along in any case.
        """
        rig = self.rig(scene)
        T_odom_map = transforms.invert_matrix(rig.T_map_odom)
        posed_ns = None
        for row in self._rows(scene, sweeps):
            stamp_ns, modality, channel = read_stamp_ns(row), row["sensor_modality"], row["channel"]
            if stamp_ns != posed_ns:
                yield PoseRecord(stamp_ns, T_odom_map @ self._T_world_ego(row))
                posed_ns = stamp_ns
            if modality == "camera" and channel in rig.cameras.names:
                source = f"sample_data {row['token']}, {self.dataroot / row['filename']}"
                yield ImageRecord(stamp_ns, channel, self._read(row), _image_format(row), source)
            elif modality == "lidar" and lidar:
                yield LidarRecord(stamp_ns, channel, self._points(row))

    def count_files(self, scene: str, *, sweeps: bool = True, lidar: bool = True) -> int:
        """Images and lidar sweeps that `records` reads, for a progress bar."""
        cameras = self.rig(scene).cameras.names
        rows = self._rows(scene, sweeps)
        return sum(row["channel"] in cameras or (lidar and row["sensor_modality"] == "lidar") for row in rows)

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

    def _rows(self, scene: str, sweeps: bool = True) -> list[dict]:
        """sample_data rows of a scene by time; keyframes only without `sweeps`."""
        token = next((row["token"] for row in self._db.scene if row["name"] == scene), None)
        if token is None:
            near = difflib.get_close_matches(scene, self.scene_names(), n=3, cutoff=0.5) or self.scene_names()[:3]
            raise DatasetError(
                f"scene {scene!r} is not in {self.version} of {self.dataroot} ({len(self.scene_names())} scenes); "
                f"did you mean {', '.join(near)}?"
            )
        rows = [row for row in self._rows_by_scene[token] if sweeps or row["is_key_frame"]]
        if not rows:
            raise DatasetError(f"scene {scene} has no rows in sample_data.json of {self.dataroot / self.version}")
        for row in rows:
            is_camera = row["sensor_modality"] == "camera"
            check_fields(row, "sample_data", (*_NEEDED_FIELDS, "width", "height") if is_camera else _NEEDED_FIELDS)
        return sorted(rows, key=lambda row: (row["timestamp"], row["sensor_modality"], row["channel"]))

    def _lookup(self, row: dict, table: str) -> dict:
        """The row of another table that a sample_data row points to."""
        token = row[f"{table}_token"]
        try:
            return self._db.get(table, token)
        except KeyError:
            raise DatasetError(
                f"sample_data {row['token']}: its {table}_token {token!r} is not in table {table}.json of "
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
                f"{before['token']} to {after['token']}; one rig per scene is supported, so split the scene there"
            )

    def _read(self, row: dict) -> bytes:
        return _read_file(self.dataroot / row["filename"], row["token"])

    def _points(self, row: dict) -> np.ndarray:
        data = self._read(row)
        if len(data) % (4 * _LIDAR_COLUMNS):
            path = self.dataroot / row["filename"]
            raise DatasetError(f"sample_data {row['token']}, {path}: {len(data)} bytes are no whole number of points")
        return np.frombuffer(data, dtype="<f4").reshape(-1, _LIDAR_COLUMNS)


def load(entry: KeyframeEntry) -> Sample:
    """The Sample of a keyframe: images decoded to RGB, Occ3D labels where the data set has them.

    `cameras.T_ego_cam` is the static calibration: camera i relative to the ego frame at *its own* image time. The ego
    poses at those times are in `meta["T_world_ego_per_camera"]` (N, 4, 4); `T_world_ego` is the anchor camera's.
    """
    occupancy = load_occupancy(entry.occupancy_path, entry.T_world_labels) if entry.occupancy_path.is_file() else None
    images = tuple(
        _decode(path, token, (width, height))
        for path, token, width, height in zip(
            entry.image_paths, entry.image_tokens, entry.cameras.width, entry.cameras.height, strict=True
        )
    )
    return Sample(
        token=entry.token,
        scene=entry.scene,
        stamp_ns=entry.camera_stamps_ns[0],
        images=images,
        cameras=entry.cameras,
        T_world_ego=entry.T_world_ego[0],
        occupancy=occupancy,
        camera_stamps_ns=entry.camera_stamps_ns,
        meta={"T_world_ego_per_camera": entry.T_world_ego},
    )


def load_occupancy(path: Path, T_world_ego: Float[np.ndarray, "4 4"] | None = None) -> OccupancyLabels:
    """Occ3D `labels.npz`: semantics, mask_camera, mask_lidar over one grid, in the ego frame of the given pose."""
    try:
        with np.load(path) as file:
            semantics, *masks = (file[name] for name in ("semantics", "mask_camera", "mask_lidar"))
    except Exception as error:  # numpy and zipfile raise half a dozen kinds for a damaged file
        raise DatasetError(f"occupancy labels {path} cannot be read ({error}); restore the file") from error
    if semantics.ndim != 3 or any(mask.shape != semantics.shape for mask in masks):
        shapes = [array.shape for array in (semantics, *masks)]
        raise DatasetError(f"occupancy labels {path}: expected three (X, Y, Z) arrays of one shape, got {shapes}")
    return OccupancyLabels(semantics.astype(np.uint8), masks[0].astype(bool), masks[1].astype(bool), T_world_ego)


def write_scene_bag(
    source: NuScenesSource,
    scene: str,
    path: Path,
    *,
    storage: str = "mcap",
    overwrite: bool = False,
    sweeps: bool = True,
    lidar: bool = True,
    on_record: Callable[[Record], None] | None = None,
) -> BagReport:
    """One scene as one bag in the project's schema."""
    rig = source.rig(scene)
    return write_bag(
        path,
        rig if lidar else BagRig(rig.cameras, {}, rig.T_map_odom),
        source.records(scene, sweeps=sweeps, lidar=lidar),
        storage=storage,
        overwrite=overwrite,
        provenance={"source": f"nuScenes schema {source.version}", "scene": scene},
        on_record=on_record,
    )


def counter_clockwise(T_ego_cam: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Camera names around the vehicle, beginning with the one that looks most nearly ahead (ego x)."""
    yaw = {name: float(np.arctan2(T[1, 2], T[0, 2])) for name, T in T_ego_cam.items()}  # of the optical axis
    if not yaw:
        return ()
    front = min(yaw, key=lambda name: abs(yaw[name]))
    return tuple(sorted(yaw, key=lambda name: ((yaw[name] - yaw[front]) % (2 * np.pi), name)))


# ---- files ---------------------------------------------------------------------------------------------------------


def _image_format(row: dict) -> str:
    return "png" if row["filename"].lower().endswith(".png") else "jpeg"


def _read_file(path: Path, token: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"sample_data {token}: cannot read {path} ({error.strerror}); restore the file or leave its scene out"
        ) from error


def _decode(path: Path, token: str, size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    import cv2

    data = np.frombuffer(_read_file(path, token), dtype=np.uint8)
    # Calibration refers to the pixels as stored, so a rotation tag must not turn them.
    image = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if data.size else None
    if image is None:
        raise DatasetError(f"sample_data {token}: {path} cannot be decoded; restore the file from the data set")
    height, width = image.shape[:2]
    if (width, height) != size:
        raise DatasetError(f"sample_data {token}: {path} has {width}x{height} pixels, its row says {size[0]}x{size[1]}")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
