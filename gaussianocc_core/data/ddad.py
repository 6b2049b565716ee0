# SPDX-License-Identifier: Apache-2.0
"""DDAD, or any data set of scenes in the DGP format: its samples, and the raw stream of a scene for the bag writer.

Read from the files themselves, without the dgp library. Poses are sensor to world, extrinsics sensor to vehicle (x
forward, y left, z up, on the ground), quaternions w first.

Stamps come from file names, which count tenths of a microsecond (17 digits) or microseconds (16). The dates in the JSON
take both for microseconds: scenes of the first kind then play in the 25th century, ten times too slowly.
"""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from gaussianocc_core.data.bag_writer import (
    BagReport,
    BagRig,
    ImageRecord,
    LidarRecord,
    PoseRecord,
    Record,
    write_bag,
)
from gaussianocc_core.data.entries import FrameEntry, SampleEntry, read_file
from gaussianocc_core.data.labels import IGNORE
from gaussianocc_core.errors import CalibrationError, DatasetError
from gaussianocc_core.geometry import transforms
from gaussianocc_core.geometry.calibration import find_fault
from gaussianocc_core.geometry.cameras import counter_clockwise
from gaussianocc_core.types import Cameras, Sample

logger = logging.getLogger(__name__)

SPLITS = {"train": "0", "val": "1", "test": "2"}  # names of the keys of scene_splits

_NS_PER_COUNT = {17: 100, 16: 1000}  # by the number of digits in a file's name
_HEAD = 1 << 16  # bytes; a scene index says what it is at its beginning, other JSON files may be large
_COLUMNS = ("X", "Y", "Z", "INTENSITY")  # of point_format; RING follows where there is one
_LENS = ("fx", "fy", "cx", "cy")


@dataclass(frozen=True)
class _Datum:
    """One file of one sensor."""

    key: str
    sensor: str
    path: Path
    stamp_ns: int
    T_world_sensor: Float[np.ndarray, "4 4"]
    size: tuple[int, int] | None = None  # width, height; cameras only
    point_format: tuple[str, ...] = ()  # names of columns; lidars only

    @property
    def is_camera(self) -> bool:
        return self.size is not None


@dataclass(frozen=True)
class _Calibration:
    """What a file says about one sensor, equal where the numbers are."""

    path: Path = field(compare=False)
    extrinsics: Any
    intrinsics: Any


@dataclass(frozen=True)
class _Scene:
    name: str
    samples: tuple[dict[str, _Datum], ...]  # by sensor
    calibrations: dict[str, _Calibration]  # by sensor

    @property
    def data(self) -> tuple[_Datum, ...]:
        """Each once, though samples may share one."""
        return tuple({datum.key: datum for sample in self.samples for datum in sample.values()}.values())

    def first_of(self, *, cameras: bool) -> dict[str, _Datum]:
        """The first datum of each camera, or of each lidar."""
        found: dict[str, _Datum] = {}
        for datum in self.data:
            if datum.is_camera == cameras:
                found.setdefault(datum.sensor, datum)
        return found


class DdadSource:
    """The scenes of one data root. Opening reads the scene index; a scene is read when it is first asked for."""

    def __init__(self, dataroot: Path | str, cameras: Sequence[str] | None = None) -> None:
        """dataroot: the folder of the scene index (`ddad.json`, or any name), or that file itself.

        cameras: names in the wanted order, anchor first; default all, counter-clockwise from the front.
        """
        self._index_path, splits = _find_scene_index(Path(dataroot))
        self.dataroot = self._index_path.parent
        self._wanted_cameras = tuple(cameras) if cameras is not None else None
        self._files: dict[str, Path] = {}  # scene -> its JSON file
        self._splits = {key: self._add_scenes(key, splits[key]) for key in sorted(splits)}
        self._scenes: dict[str, _Scene] = {}

    @property
    def name(self) -> str:
        """The scene index's name."""
        return self._index_path.name

    def scene_names(self, split: str | None = None) -> tuple[str, ...]:
        """Names of the scenes' folders, of one split ("train", "val", "test") or of all."""
        if split is None:
            return tuple(self._files)
        key = SPLITS.get(split, split)
        if key not in self._splits:
            names = {number: name for name, number in SPLITS.items()}
            known = ", ".join(names.get(each, each) for each in self._splits)
            raise DatasetError(f"split {split!r} is not in {self._index_path}; it has {known or 'none'}")
        return self._splits[key]

    # ---- samples ---------------------------------------------------------------------------------------------------

    def index(
        self,
        scene: str,
        *,
        neighbours: bool = False,
        semantics: bool = False,
        depths: bool = False,
        masks: str | Path | None = None,
        undetected: int = IGNORE,
    ) -> tuple[SampleEntry, ...]:
        """The synchronised samples of a scene in time order; one that lacks a wanted camera is left out with a warning.

        Tokens are file names of the anchor's images, as in the published lists; scenes that overlap share some.
        neighbours: with the samples before and after; `SampleEntry.gap_s` says how far away they are.
        semantics, depths: with ddad_semantic/<scene>/<camera>/<image>_mask.bin and depth/<scene>/depth/<camera>/
            <image>.npy where all cameras have one.
        masks: a folder of <number>.png (01.png for CAMERA_01) or <camera>_mask.png, non-zero where the camera sees the
            world, or None.
        """
        cameras = self.rig(scene).cameras
        mask_paths = _find_masks(Path(masks), scene, cameras.names) if masks is not None else ()
        sets = self._complete_sets(scene, cameras.names)
        frames = [self._frame(data, cameras) for data in sets]
        entries = []
        for i, (data, frame) in enumerate(zip(sets, frames, strict=True)):
            beside = [(step, frames[i + step]) for step in (-1, 1) if 0 <= i + step < len(frames)]
            entries.append(
                SampleEntry(
                    token=data[0].path.stem,
                    scene=scene,
                    cameras=cameras,
                    frame=frame,
                    neighbours=tuple(beside) if neighbours else (),
                    semantic_paths=self._existing(data, f"ddad_semantic/{scene}", "_mask.bin") if semantics else (),
                    depth_paths=self._existing(data, f"depth/{scene}/depth", ".npy") if depths else (),
                    mask_paths=mask_paths,
                    undetected=undetected,
                )
            )
        return tuple(entries)

    def samples(self, scene: str, **options: Any) -> Iterator[Sample]:
        """The samples of a scene (options as for `index`), read as they are asked for."""
        return (entry.load() for entry in self.index(scene, **options))

    def _complete_sets(self, scene: str, names: Sequence[str]) -> list[list[_Datum]]:
        sets = []
        for sample in self._scene(scene).samples:
            missing = [name for name in names if name not in sample]
            if missing:
                stamp_ns = min(datum.stamp_ns for datum in sample.values())
                logger.warning(
                    "%s: the sample at %d ns has no image of %s and is left out", scene, stamp_ns, ", ".join(missing)
                )
            else:
                sets.append([sample[name] for name in names])
        return sorted(sets, key=lambda data: data[0].stamp_ns)

    @staticmethod
    def _frame(data: Sequence[_Datum], cameras: Cameras) -> FrameEntry:
        # From each camera's own pose, though images of one moment share a stamp: so T_world_cam is exactly the file's.
        T_cam_ego = transforms.invert(cameras.T_ego_cam).numpy()
        return FrameEntry(
            image_tokens=tuple(datum.key for datum in data),
            image_paths=tuple(datum.path for datum in data),
            camera_stamps_ns=tuple(datum.stamp_ns for datum in data),
            T_world_ego=np.stack([datum.T_world_sensor for datum in data]) @ T_cam_ego,
        )

    def _existing(self, data: Sequence[_Datum], folder: str, ending: str) -> tuple[Path, ...]:
        """Companion files of the images, if every camera has one."""
        paths = tuple(self.dataroot / folder / datum.sensor / f"{datum.path.stem}{ending}" for datum in data)
        return paths if all(path.is_file() for path in paths) else ()

    # ---- the raw stream --------------------------------------------------------------------------------------------

    def rig(self, scene: str) -> BagRig:
        """Sensors of a scene with this scene's calibration; odom is the vehicle's pose at the scene's first stamp.

        Images are undistorted. Neither ROS nor OpenCV nor the renderers know a skew, so one is a CalibrationError.
        """
        read = self._scene(scene)
        first = read.first_of(cameras=True)
        T_ego_cam = {name: _read_extrinsics(read, name) for name in first}
        names = self._wanted_cameras or counter_clockwise(T_ego_cam)
        missing = [name for name in names if name not in first]
        if missing or not names:
            raise DatasetError(f"scene {scene} has no camera {', '.join(missing)}; it has {', '.join(first) or 'none'}")
        sizes = [first[name].size or (0, 0) for name in names]
        cameras = Cameras(
            names=names,
            intrinsics=torch.from_numpy(np.stack([_read_intrinsics(read, name) for name in names])),
            T_ego_cam=torch.from_numpy(np.stack([T_ego_cam[name] for name in names])),
            width=tuple(width for width, _ in sizes),
            height=tuple(height for _, height in sizes),
        )
        T_ego_lidar = {name: _read_extrinsics(read, name) for name in read.first_of(cameras=False)}
        return BagRig(cameras, T_ego_lidar, _T_world_ego(read, self._in_time_order(read, names)[0]))

    def records(self, scene: str, lidar: bool = True) -> Iterator[Record]:
        """The scene in time order, files read one at a time: a pose at every sensor stamp, images, lidar sweeps.

        Cameras of one moment share a stamp: its pose is that of the first of them, anchor before others. Poses at
        lidar stamps come along in any case.
        """
        rig, read = self.rig(scene), self._scene(scene)
        T_odom_world = transforms.invert_matrix(rig.T_map_odom)
        posed_ns = None
        for datum in self._in_time_order(read, rig.cameras.names):
            if datum.stamp_ns != posed_ns:
                yield PoseRecord(datum.stamp_ns, T_odom_world @ _T_world_ego(read, datum))
                posed_ns = datum.stamp_ns
            if datum.sensor in rig.cameras.names:
                data = read_file(datum.path, datum.key)
                source = f"datum {datum.key}, {datum.path}"
                yield ImageRecord(datum.stamp_ns, datum.sensor, data, _image_format(data), source)
            elif lidar and not datum.is_camera:
                yield LidarRecord(datum.stamp_ns, datum.sensor, _read_points(datum))

    def lidar_world(self, scene: str, entry: SampleEntry) -> Float[np.ndarray, "P 3"] | None:
        """Points (m, world frame) of the lidar sweep of a sample; None if it has none."""
        for sample in self._scene(scene).samples:
            if any(datum.key == entry.frame.image_tokens[0] for datum in sample.values()):
                for datum in sample.values():
                    if not datum.is_camera:
                        points = _read_points(datum)[:, :3].astype(np.float64)
                        return points @ datum.T_world_sensor[:3, :3].T + datum.T_world_sensor[:3, 3]
        return None

    def depth_path(self, scene: str, entry: SampleEntry, camera: int) -> Path:
        """Of the published depth file of an image, below the data root (spec section j)."""
        name = f"{entry.frame.image_paths[camera].stem}.npy"
        return Path("depth") / scene / "depth" / entry.cameras.names[camera] / name

    def count_files(self, scene: str, lidar: bool = True) -> int:
        """Images and lidar sweeps that `records` reads, for a progress bar."""
        names = self.rig(scene).cameras.names
        return sum(each.sensor in names or (lidar and not each.is_camera) for each in self._scene(scene).data)

    @staticmethod
    def _in_time_order(scene: _Scene, names: Sequence[str]) -> list[_Datum]:
        """At one stamp: wanted cameras in their order, other cameras, lidars."""
        place = {name: i for i, name in enumerate(names)}
        return sorted(
            scene.data,
            key=lambda datum: (
                datum.stamp_ns, not datum.is_camera, place.get(datum.sensor, len(place)), datum.sensor
            ),
        )  # fmt: skip

    # ---- scenes ----------------------------------------------------------------------------------------------------

    def _add_scenes(self, key: str, split: Any) -> tuple[str, ...]:
        where = f"scene index {self._index_path}: split {key}"
        names = []
        for filename in _field(split, "filenames", list, where):
            path = self.dataroot / str(filename)
            name = path.parent.name
            if not isinstance(filename, str) or path.parent == self.dataroot or name in ("", ".."):
                raise DatasetError(f"{where}: expected <scene>/scene_<hash>.json, got {short(filename)}")
            if self._files.setdefault(name, path) != path:
                raise DatasetError(f"{where}: scene {name} is both {self._files[name]} and {path}; keep one of them")
            names.append(name)
        return tuple(dict.fromkeys(names))

    def _scene(self, name: str) -> _Scene:
        if name not in self._files:
            near = difflib.get_close_matches(name, self._files, n=3, cutoff=0.5) or list(self._files)[:3]
            raise DatasetError(
                f"scene {name!r} is not in {self._index_path} ({len(self._files)} scenes); "
                f"did you mean {', '.join(near)}?"
            )
        if name not in self._scenes:
            self._scenes[name] = _read_scene(name, self._files[name])
        return self._scenes[name]


def write_scene_bag(
    source: DdadSource,
    scene: str,
    path: Path,
    *,
    storage: str = "mcap",
    overwrite: bool = False,
    lidar: bool = True,
    on_record: Callable[[Record], None] | None = None,
) -> BagReport:
    """One scene as one bag in the project's schema."""
    rig = source.rig(scene)
    return write_bag(
        path,
        rig if lidar else replace(rig, T_ego_lidar={}),
        source.records(scene, lidar=lidar),
        storage=storage,
        overwrite=overwrite,
        provenance={"source": f"DGP scenes of {source.name}", "scene": scene, "lidar": "yes" if lidar else "no"},
        on_record=on_record,
    )


# ---- JSON files ----------------------------------------------------------------------------------------------------


def _find_scene_index(dataroot: Path) -> tuple[Path, dict[str, Any]]:
    """The JSON file that lists the scenes, whatever its name, and its splits."""
    if dataroot.is_file():
        return dataroot, _read_splits(dataroot)
    if not dataroot.is_dir():
        raise DatasetError(f"data root {dataroot} is not a folder; give the one that holds the scenes' folders")
    try:
        found = [path for path in sorted(dataroot.glob("*.json")) if _is_scene_index(path)]
    except OSError as error:
        raise DatasetError(f"{error.filename} cannot be read ({error.strerror}); allow it, or move it away") from error
    if not found:
        hint = _suggest_dataroot(dataroot)
        raise DatasetError(f"{dataroot} holds no scene index (a JSON file with scene_splits, e.g. ddad.json){hint}")
    splits = [_read_splits(path) for path in found]
    if any(each != splits[0] for each in splits):
        names = ", ".join(path.name for path in found)
        raise DatasetError(f"{dataroot} holds scene indexes that differ: {names}; give the path of the one you mean")
    return found[0], splits[0]


def _is_scene_index(path: Path) -> bool:
    with path.open("rb") as file:
        return b'"scene_splits"' in file.read(_HEAD)


def _suggest_dataroot(folder: Path) -> str:
    """The end of an error message, where one level up or down is a scene index."""
    with suppress(OSError):  # a hint is not worth an error of its own
        for path in (*sorted(folder.glob("*/*.json")), *sorted(folder.resolve().parent.glob("*.json"))):
            if _is_scene_index(path):
                return f"; did you mean {path.parent}?"
    return ""


def _read_splits(path: Path) -> dict[str, Any]:
    splits = _field(_read_json(path, "scene index"), "scene_splits", dict, f"scene index {path}")
    if not splits:
        raise DatasetError(f"scene index {path} has no splits; restore it from the data set")
    return splits


def _read_scene(name: str, path: Path) -> _Scene:
    path = _find_scene_file(name, path)
    where = f"scene {name}, {path}"
    content = _read_json(path, f"scene {name}:")
    rows = {}
    for row in _field(content, "data", list, where):
        rows[_field(row, "key", str, f"{where}, data")] = row
    data: dict[str, _Datum | None] = {}
    samples, keys = [], []
    for i, row in enumerate(_field(content, "samples", list, where)):
        sample: dict[str, _Datum] = {}
        for key in _field(row, "datum_keys", list, f"{where}, sample {i}"):
            if key not in rows:
                raise DatasetError(f"{where}, sample {i}: its datum {key!r} is not among the data; restore the file")
            if key not in data:
                data[key] = _read_datum(rows[key], path, where)
            datum = data[key]
            if datum is None:
                continue
            if datum.sensor in sample:
                raise DatasetError(f"{where}, sample {i}: two data of {datum.sensor}; restore the file")
            sample[datum.sensor] = datum
        if sample:
            samples.append(sample)
            keys.append(_field(row, "calibration_key", str, f"{where}, sample {i}"))
    if not samples:
        raise DatasetError(f"{where} has no samples with images or points; restore it from the data set")
    skipped = {kind for key in data if data[key] is None for kind in rows[key]["datum"]}
    if skipped:
        logger.warning("%s: data of kind %s are left out", where, ", ".join(sorted(skipped)))
    return _Scene(name, tuple(samples), _read_calibrations(name, path.parent / "calibration", samples, keys))


def _find_scene_file(name: str, path: Path) -> Path:
    """The file that the scene index names, or the folder's only one: a release may have been given another hash."""
    if path.is_file():
        return path
    if not path.parent.is_dir():
        raise DatasetError(f"scene {name}: there is no folder {path.parent}; download it, or name the scenes you have")
    found = sorted(path.parent.glob("scene_*.json"))
    if len(found) != 1:
        there = ", ".join(each.name for each in found) or "no other"
        raise DatasetError(f"scene {name}: {path} does not exist, and {there} is there; restore it from the data set")
    return found[0]


def _read_datum(row: dict, scene_file: Path, where: str) -> _Datum | None:
    """None for kinds that are neither an image nor points of a lidar."""
    key = row["key"]
    where = f"{where}, datum {key}"
    kinds = _field(row, "datum", dict, where)
    sensor = _field(_field(row, "id", dict, where), "name", str, where)
    if "image" in kinds:
        body = _field(kinds, "image", dict, where)
    elif "point_cloud" in kinds:
        body = _field(kinds, "point_cloud", dict, where)
    elif kinds:
        return None
    else:
        raise DatasetError(f"{where} is empty; expected image or point_cloud; restore the file from the data set")
    path = scene_file.parent / _field(body, "filename", str, where)
    T_world_sensor = _read_transform(_field(body, "pose", dict, where), f"{where}: pose")
    stamp_ns = _read_stamp_ns(path, where)
    if "image" not in kinds:
        columns = _field(body, "point_format", list, where)
        return _Datum(key, sensor, path, stamp_ns, T_world_sensor, point_format=tuple(str(each) for each in columns))
    size = _field(body, "width", int, where), _field(body, "height", int, where)
    fault = find_fault(width=size[0], height=size[1])
    if fault is not None:
        raise DatasetError(f"{where}: {fault.field}: expected {fault.expected}, got {size[0]}x{size[1]}")
    return _Datum(key, sensor, path, stamp_ns, T_world_sensor, size)


def _read_stamp_ns(path: Path, where: str) -> int:
    digits = path.stem
    if len(digits) not in _NS_PER_COUNT or not (digits.isascii() and digits.isdigit()):
        raise DatasetError(
            f"{where}: the file name {path.name} is no time; expected 17 digits (tenths of a microsecond) or "
            "16 (microseconds), because the dates in the JSON are not reliable"
        )
    return int(digits) * _NS_PER_COUNT[len(digits)]


def _read_json(path: Path, what: str) -> dict:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(
            f"{what} {path} is missing or unreadable ({error.strerror}); restore it from the data set"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{what} {path} is not valid JSON ({error}); restore it from the data set") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{what} {path}: expected a JSON object, got {short(content)}; restore it from the data set")
    return content


def _field(row: Any, name: str, kind: type, where: str) -> Any:
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise DatasetError(f"{where}: {name}: expected {kind.__name__}, got {short(value)}; restore the file")
    return value


# ---- calibration ---------------------------------------------------------------------------------------------------


def _read_calibrations(
    scene: str, folder: Path, samples: Sequence[dict[str, _Datum]], keys: Sequence[str]
) -> dict[str, _Calibration]:
    """Of each sensor that the samples use; all samples must agree on it."""
    files = {key: _read_calibration(folder / f"{key}.json") for key in dict.fromkeys(keys)}
    used: dict[str, _Calibration] = {}
    for sample, key in zip(samples, keys, strict=True):
        for sensor in sample:
            if sensor not in files[key]:
                there = ", ".join(files[key]) or "none"
                path = folder / f"{key}.json"
                raise CalibrationError(f"calibration {path} of scene {scene} has no {sensor}; it has {there}")
            before, now = used.setdefault(sensor, files[key][sensor]), files[key][sensor]
            if now != before:
                raise CalibrationError(
                    f"scene {scene}: the calibration of {sensor} changes from {before.path} to {now.path.name}; "
                    "one rig per scene is supported, so split the scene there"
                )
    return used


def _read_calibration(path: Path) -> dict[str, _Calibration]:
    """By sensor."""
    content = _read_json(path, "calibration")
    where = f"calibration {path}"
    names, *values = (_field(content, field, list, where) for field in ("names", "extrinsics", "intrinsics"))
    if any(len(each) != len(names) for each in values) or len(set(map(str, names))) != len(names):
        counts = ", ".join(str(len(each)) for each in (names, *values))
        raise CalibrationError(f"{where}: names, extrinsics, intrinsics: expected one of each per sensor, got {counts}")
    rows = zip(names, *values, strict=True)
    return {str(name): _Calibration(path, extrinsics, intrinsics) for name, extrinsics, intrinsics in rows}


def _read_extrinsics(scene: _Scene, sensor: str) -> Float[np.ndarray, "4 4"]:
    """T_ego_sensor."""
    calibration = scene.calibrations[sensor]
    return _read_transform(calibration.extrinsics, f"calibration {calibration.path}: extrinsics of {sensor}")


def _read_intrinsics(scene: _Scene, camera: str) -> Float[np.ndarray, "3 3"]:
    lens = scene.calibrations[camera].intrinsics
    where = f"calibration {scene.calibrations[camera].path}: intrinsics of {camera}"
    fx, fy, cx, cy = _numbers(lens, _LENS, where)
    K = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    fault = find_fault(intrinsics=K)
    if fault is not None:
        raise CalibrationError(f"{where}: expected {fault.expected}, got {lens}; correct the file")
    more = {name: value for name, value in lens.items() if name not in _LENS and not _is_nothing(value)}
    if more:
        raise CalibrationError(
            f"{where}: {short(more)}: only undistorted pinhole images without skew are read; rectify them first"
        )
    return K


def _is_nothing(value: Any) -> bool:
    return not any(value.values() if isinstance(value, dict) else value if isinstance(value, list) else (value,))


def _read_transform(row: Any, where: str) -> Float[np.ndarray, "4 4"]:
    parts = row if isinstance(row, dict) else {}
    rotation = _numbers(parts.get("rotation"), ("qw", "qx", "qy", "qz"), f"{where}: rotation")
    translation = _numbers(parts.get("translation"), ("x", "y", "z"), f"{where}: translation")
    fault = find_fault(rotation=rotation, translation=translation)
    if fault is not None:
        raise CalibrationError(f"{where}: {fault.field}: expected {fault.expected}, got {parts.get(fault.field)}")
    return transforms.make_transform(transforms.quat_to_matrix(rotation), translation)


def _numbers(row: Any, names: Iterable[str], where: str) -> np.ndarray:
    values = [row.get(name) if isinstance(row, dict) else None for name in names]
    if not all(isinstance(value, (int, float)) for value in values):
        raise CalibrationError(f"{where}: expected the numbers {', '.join(names)}, got {short(row)}; correct the file")
    return np.array(values, dtype=np.float64)


def _T_world_ego(scene: _Scene, datum: _Datum) -> Float[np.ndarray, "4 4"]:
    return datum.T_world_sensor @ transforms.invert_matrix(_read_extrinsics(scene, datum.sensor))


# ---- other files ---------------------------------------------------------------------------------------------------


def _image_format(data: bytes) -> str:
    return "png" if data.startswith(b"\x89PNG") else "jpeg"


def _read_points(datum: _Datum) -> Float[np.ndarray, "P C"]:
    """x y z (m, sensor frame), intensity, and the ring where the file has one."""
    what = f"points {datum.key}, {datum.path}"
    absent = [name for name in _COLUMNS if name not in datum.point_format]
    if absent:
        raise DatasetError(f"{what}: point_format has no {', '.join(absent)}, only {', '.join(datum.point_format)}")
    try:
        with np.load(datum.path, allow_pickle=False) as file:
            names = tuple(file.files)
            points = file["data" if "data" in names else names[0]] if len(names) == 1 or "data" in names else None
    except OSError as error:
        raise DatasetError(f"{what} cannot be read ({error.strerror or error}); restore the file") from error
    except Exception as error:  # numpy, zipfile and zlib raise half a dozen kinds for a damaged file
        raise DatasetError(f"{what} cannot be read ({error}); restore the file from the data set") from error
    if points is None:
        raise DatasetError(f"{what}: expected an array named data, got {', '.join(names) or 'none'}")
    columns = len(datum.point_format)
    if points.ndim != 2 or points.shape[1] != columns or points.dtype.kind not in "fiu":
        raise DatasetError(f"{what}: expected numbers of shape (points, {columns}), got {points.dtype} {points.shape}")
    wanted = (*_COLUMNS, "RING") if "RING" in datum.point_format else _COLUMNS
    return points[:, [datum.point_format.index(name) for name in wanted]].astype(np.float32)


def _find_masks(folder: Path, scene: str, cameras: Sequence[str]) -> tuple[Path, ...]:
    """One file per camera, non-zero where it sees the world."""
    paths = []
    for camera in cameras:
        candidates = (folder / f"{camera.rpartition('_')[2]}.png", folder / f"{camera}_mask.png")
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            inverted = folder / camera / scene / "mask.png"
            if inverted.is_file():
                raise DatasetError(
                    f"mask {inverted}: masks by camera and scene mean the opposite (non-zero where the camera sees the "
                    f"vehicle) and are not read; expected {candidates[0].name} or {candidates[1].name} in {folder}, "
                    "non-zero where it sees the world"
                )
            raise DatasetError(
                f"masks: {folder} holds no mask of {camera}; expected {candidates[0].name} or {candidates[1].name}, "
                "non-zero where the camera sees the world"
            )
        paths.append(found)
    return tuple(paths)
