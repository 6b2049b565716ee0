# SPDX-License-Identifier: Apache-2.0
"""One scene in the DGP format: its JSON files, calibration and point clouds, read without the dgp library.

Poses are sensor to world, extrinsics sensor to vehicle (x forward, y left, z up, on the ground), quaternions w first.

Stamps come from file names, which count tenths of a microsecond (17 digits) or microseconds (16). The dates in the JSON
take both for microseconds: scenes of the first kind then play in the 25th century, ten times too slowly.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np
from jaxtyping import Float

from gaussianocc_core.arrays import read_npz
from gaussianocc_core.bounded import read_json
from gaussianocc_core.errors import CalibrationError, DatasetError
from gaussianocc_core.geometry import transforms
from gaussianocc_core.geometry.calibration import find_fault
from gaussianocc_core.geometry.pixel_centers import from_opencv
from gaussianocc_core.mistakes import one_line, reason_of
from gaussianocc_core.names import DataRoot, check_name

logger = logging.getLogger(__name__)

_NS_PER_COUNT = {17: 100, 16: 1000}  # by the number of digits in a file's name
_MOST_POINT_BYTES = 1 << 28  # of a sweep, decompressed: five million points
_MOST_JSON_BYTES = 1 << 28  # of a scene: 20 s of ten sensors have 2 MB
_HEAD = 1 << 16  # bytes; a scene index says what it is at its beginning, other JSON files may be large
_COLUMNS = ("X", "Y", "Z", "INTENSITY")  # of point_format; RING follows where there is one
_LENS = ("fx", "fy", "cx", "cy")


@dataclass(frozen=True)
class Datum:
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
class Calibration:
    """What a file says about one sensor, equal where the numbers are."""

    path: Path = field(compare=False)
    extrinsics: Any
    intrinsics: Any


@dataclass(frozen=True)
class Scene:
    name: str
    samples: tuple[dict[str, Datum], ...]  # by sensor
    calibrations: dict[str, Calibration]  # by sensor

    @property
    def data(self) -> tuple[Datum, ...]:
        """Each once, though samples may share one."""
        return tuple({datum.key: datum for sample in self.samples for datum in sample.values()}.values())

    def first_of(self, *, cameras: bool) -> dict[str, Datum]:
        """The first datum of each camera, or of each lidar."""
        found: dict[str, Datum] = {}
        for datum in self.data:
            if datum.is_camera == cameras:
                found.setdefault(datum.sensor, datum)
        return found

    def in_time_order(self, names: Sequence[str]) -> list[Datum]:
        """At one stamp: the named cameras in their order, other cameras, lidars."""
        place = {name: i for i, name in enumerate(names)}
        return sorted(
            self.data,
            key=lambda datum: (datum.stamp_ns, not datum.is_camera, place.get(datum.sensor, len(place)), datum.sensor),
        )


# ---- JSON files ----------------------------------------------------------------------------------------------------


def find_scene_index(dataroot: Path) -> tuple[Path, dict[str, Any]]:
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
    if not path.is_file():  # a pipe would be waited for
        return False
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
    splits = read_field(_read_json(path, "scene index"), "scene_splits", dict, f"scene index {path}")
    if not splits:
        raise DatasetError(f"scene index {path} has no splits; restore it from the data set")
    return splits


def read_scene(name: str, path: Path, root: DataRoot) -> Scene:
    """root: no file of the scene may lie outside of it."""
    path = root.check(_find_scene_file(name, path), f"scene {name}")
    where = f"scene {name}, {path}"
    content = _read_json(path, f"scene {name}:")
    rows = {}
    for row in read_field(content, "data", list, where):
        rows[read_field(row, "key", str, f"{where}, data")] = row
    data: dict[str, Datum | None] = {}
    samples, keys = [], []
    for i, row in enumerate(read_field(content, "samples", list, where)):
        sample: dict[str, Datum] = {}
        for key in read_field(row, "datum_keys", list, f"{where}, sample {i}"):
            if key not in rows:
                raise DatasetError(f"{where}, sample {i}: its datum {key!r} is not among the data; restore the file")
            if key not in data:
                data[key] = _read_datum(rows[key], path, where, root)
            datum = data[key]
            if datum is None:
                continue
            if datum.sensor in sample:
                raise DatasetError(f"{where}, sample {i}: two data of {datum.sensor}; restore the file")
            sample[datum.sensor] = datum
        if sample:
            samples.append(sample)
            named = read_field(row, "calibration_key", str, f"{where}, sample {i}")
            keys.append(check_name(named, f"{where}, sample {i}: calibration_key", DatasetError))
    if not samples:
        raise DatasetError(f"{where} has no samples with images or points; restore it from the data set")
    skipped = {kind for key in data if data[key] is None for kind in rows[key]["datum"]}
    if skipped:
        logger.warning("%s: data of kind %s are left out", where, ", ".join(sorted(skipped)))
    return Scene(name, tuple(samples), _read_calibrations(name, path.parent / "calibration", samples, keys, root))


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


def _read_datum(row: dict, scene_file: Path, where: str, root: DataRoot) -> Datum | None:
    """None for kinds that are neither an image nor points of a lidar."""
    key = check_name(row["key"], f"{where}: key", DatasetError)
    where = f"{where}, datum {key}"
    kinds = read_field(row, "datum", dict, where)
    sensor = read_field(read_field(row, "id", dict, where), "name", str, where)
    check_name(sensor, f"{where}: sensor", DatasetError)
    if "image" in kinds:
        body = read_field(kinds, "image", dict, where)
    elif "point_cloud" in kinds:
        body = read_field(kinds, "point_cloud", dict, where)
    elif kinds:
        return None
    else:
        raise DatasetError(f"{where} is empty; expected image or point_cloud; restore the file from the data set")
    path = root.locate(read_field(body, "filename", str, where), f"{where}: filename", scene_file.parent)
    T_world_sensor = _read_transform(read_field(body, "pose", dict, where), f"{where}: pose")
    stamp_ns = _read_stamp_ns(path, where)
    if "image" not in kinds:
        columns = read_field(body, "point_format", list, where)
        return Datum(key, sensor, path, stamp_ns, T_world_sensor, point_format=tuple(str(each) for each in columns))
    size = read_field(body, "width", int, where), read_field(body, "height", int, where)
    fault = find_fault(width=size[0], height=size[1])
    if fault is not None:
        raise DatasetError(f"{where}: {fault.field}: expected {fault.expected}, got {size[0]}x{size[1]}")
    return Datum(key, sensor, path, stamp_ns, T_world_sensor, size)


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
        content = read_json(path, _MOST_JSON_BYTES)
    except OSError as error:
        raise DatasetError(
            f"{what} {path} is missing or unreadable ({error.strerror}); restore it from the data set"
        ) from error
    except (ValueError, RecursionError) as error:
        reason = reason_of(error)
        raise DatasetError(f"{what} {path} is not valid JSON ({reason}); restore it from the data set") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{what} {path}: expected a JSON object, got {short(content)}; restore it from the data set")
    return content


def read_field(row: Any, name: str, kind: type, where: str) -> Any:
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise DatasetError(f"{where}: {name}: expected {kind.__name__}, got {short(value)}; restore the file")
    return value


# ---- calibration ---------------------------------------------------------------------------------------------------


def _read_calibrations(
    scene: str, folder: Path, samples: Sequence[dict[str, Datum]], keys: Sequence[str], root: DataRoot
) -> dict[str, Calibration]:
    """Of each sensor that the samples use; all samples must agree on it."""
    files = {}
    for key in dict.fromkeys(keys):
        files[key] = _read_calibration(root.check(folder / f"{key}.json", f"calibration of scene {scene}"))
    used: dict[str, Calibration] = {}
    for sample, key in zip(samples, keys, strict=True):
        for sensor in sample:
            if sensor not in files[key]:
                there = one_line(", ".join(map(str, files[key])) or "none")[:300]
                path = folder / f"{key}.json"
                raise CalibrationError(f"calibration {path} of scene {scene} has no {sensor}; it has {there}")
            before, now = used.setdefault(sensor, files[key][sensor]), files[key][sensor]
            if now != before:
                raise CalibrationError(
                    f"scene {scene}: the calibration of {sensor} changes from {before.path} to {now.path.name}; "
                    "one rig per scene is supported, so split the scene there"
                )
    return used


def _read_calibration(path: Path) -> dict[str, Calibration]:
    """By sensor."""
    content = _read_json(path, "calibration")
    where = f"calibration {path}"
    names, *values = (read_field(content, field, list, where) for field in ("names", "extrinsics", "intrinsics"))
    if any(len(each) != len(names) for each in values) or len(set(map(str, names))) != len(names):
        counts = ", ".join(str(len(each)) for each in (names, *values))
        raise CalibrationError(f"{where}: names, extrinsics, intrinsics: expected one of each per sensor, got {counts}")
    rows = zip(names, *values, strict=True)
    return {str(name): Calibration(path, extrinsics, intrinsics) for name, extrinsics, intrinsics in rows}


def read_extrinsics(scene: Scene, sensor: str) -> Float[np.ndarray, "4 4"]:
    """T_ego_sensor."""
    calibration = scene.calibrations[sensor]
    return _read_transform(calibration.extrinsics, f"calibration {calibration.path}: extrinsics of {sensor}")


def read_intrinsics(scene: Scene, camera: str) -> Float[np.ndarray, "3 3"]:
    """px, pixel centres at +0.5; DGP's files count from the centre of the first pixel, as OpenCV does."""
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
    return from_opencv(K)


def _is_nothing(value: Any) -> bool:
    return not any(value.values() if isinstance(value, dict) else value if isinstance(value, list) else (value,))


def _read_transform(row: Any, where: str) -> Float[np.ndarray, "4 4"]:
    parts = row if isinstance(row, dict) else {}
    rotation = _numbers(parts.get("rotation"), ("qw", "qx", "qy", "qz"), f"{where}: rotation")
    translation = _numbers(parts.get("translation"), ("x", "y", "z"), f"{where}: translation")
    fault = find_fault(rotation=rotation, translation=translation)
    if fault is not None:
        got = short(parts.get(fault.field))
        raise CalibrationError(f"{where}: {fault.field}: expected {fault.expected}, got {got}")
    return transforms.make_transform(transforms.quat_to_matrix(rotation), translation)


def _numbers(row: Any, names: Iterable[str], where: str) -> np.ndarray:
    values = [row.get(name) if isinstance(row, dict) else None for name in names]
    if not all(isinstance(value, (int, float)) for value in values):
        raise CalibrationError(f"{where}: expected the numbers {', '.join(names)}, got {short(row)}; correct the file")
    return np.array(values, dtype=np.float64)


def find_T_world_ego(scene: Scene, datum: Datum) -> Float[np.ndarray, "4 4"]:
    return datum.T_world_sensor @ transforms.invert_matrix(read_extrinsics(scene, datum.sensor))


# ---- other files ---------------------------------------------------------------------------------------------------


def image_format(data: bytes) -> str:
    return "png" if data.startswith(b"\x89PNG") else "jpeg"


def read_points(datum: Datum) -> Float[np.ndarray, "P C"]:
    """x y z (m, sensor frame), intensity, and the ring where the file has one."""
    what = f"points {datum.key}, {datum.path}"
    absent = [name for name in _COLUMNS if name not in datum.point_format]
    if absent:
        raise DatasetError(f"{what}: point_format has no {', '.join(absent)}, only {', '.join(datum.point_format)}")
    try:
        found = read_npz(datum.path, _MOST_POINT_BYTES)
        names = tuple(found)
        points = found["data" if "data" in names else names[0]] if len(names) == 1 or "data" in names else None
    except OSError as error:
        raise DatasetError(f"{what} cannot be read ({error.strerror or error}); restore the file") from error
    except Exception as error:  # numpy, zipfile and zlib raise half a dozen kinds for a damaged file
        raise DatasetError(f"{what} cannot be read ({reason_of(error)}); restore the file from the data set") from error
    if points is None:
        raise DatasetError(f"{what}: expected an array named data, got {', '.join(names) or 'none'}")
    columns = len(datum.point_format)
    if points.ndim != 2 or points.shape[1] != columns or points.dtype.kind not in "fiu":
        raise DatasetError(f"{what}: expected numbers of shape (points, {columns}), got {points.dtype} {points.shape}")
    wanted = (*_COLUMNS, "RING") if "RING" in datum.point_format else _COLUMNS
    return points[:, [datum.point_format.index(name) for name in wanted]].astype(np.float32)
