# SPDX-License-Identifier: Apache-2.0
"""The tables of the nuScenes v1.0 schema: opening them, saying what is wrong with them, and reading single rows."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gaussianocc_core.bounded import compare_with_memory, estimate_json_file, read_json
from gaussianocc_core.errors import CalibrationError, DatasetError, GaussianOccError
from gaussianocc_core.geometry import transforms
from gaussianocc_core.geometry.calibration import MOST_PIXELS, find_fault
from gaussianocc_core.geometry.pixel_centers import from_opencv
from gaussianocc_core.mistakes import one_line, reason_of
from gaussianocc_core.names import DataRoot, check_name, shorten
from gaussianocc_core.types import PINHOLE

TABLES = (
    "category",
    "attribute",
    "visibility",
    "instance",
    "sensor",
    "calibrated_sensor",
    "ego_pose",
    "log",
    "scene",
    "sample",
    "sample_data",
    "sample_annotation",
    "map",
)
_MORE_TABLES = ("lidarseg", "panoptic", "image_annotations")  # that the devkit opens as well where they are there
# (table, field, table it points to): what a scene cannot be read without.
_REFERENCES = (
    ("calibrated_sensor", "sensor_token", "sensor"),
    ("sample_data", "calibrated_sensor_token", "calibrated_sensor"),
    ("sample_data", "sample_token", "sample"),
    ("sample_data", "ego_pose_token", "ego_pose"),
    ("sample", "scene_token", "scene"),
    ("sample_annotation", "sample_token", "sample"),
    ("sample_annotation", "instance_token", "instance"),
    ("instance", "category_token", "category"),
)
_EPOCH_S = (946_684_800, 4_102_444_800)  # the years 2000 to 2100, by which the unit of a stamp is told
_US_TO_NS = 1000
_MOST_TABLE_BYTES = 1 << 32  # the largest of v1.0-trainval has 1.1 GB
_NEEDED_FIELDS = ("timestamp", "filename", "ego_pose_token", "calibrated_sensor_token", "is_key_frame")
_LATEST_US = (1 << 63) // 1000 - 1  # what nanoseconds in 64 bits can say


def open_database(dataroot: Path, version: str, root: DataRoot) -> Any:
    folder = dataroot / version
    if not dataroot.is_dir():
        raise DatasetError(f"data root {dataroot} is not a folder; give the one that holds samples/ and {version}/")
    if not folder.is_dir():
        versions = sorted(path.parent.name for path in dataroot.glob("*/sample_data.json"))
        hint = f"versions there: {', '.join(versions)}" if versions else "it holds no version at all"
        if (dataroot / "sample_data.json").is_file():
            hint = f"this is a version's folder itself: give {dataroot.parent} and --version {dataroot.name}"
        raise DatasetError(f"version {version} is not in {dataroot}; {hint}")
    try:
        from nuscenes.nuscenes import NuScenes
    except ImportError as error:
        raise GaussianOccError(
            f"reading nuScenes needs nuscenes-devkit: pip install --no-deps nuscenes-devkit==1.2.0 ({error})"
        ) from error
    _check_files(folder, root)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            database = NuScenes(version=version, dataroot=str(dataroot), verbose=False)
    except Exception as error:  # the devkit asserts, indexes and looks up: find out what it stumbled over
        try:
            reason = _diagnose(dataroot, folder)
        except Exception as fault:  # lists where texts belong, and whatever else a row can hold
            reason = f"a table holds a value of another kind than it should ({reason_of(fault)}); restore the tables"
        reason = reason or f"the devkit says {reason_of(error)}"
        raise DatasetError(f"cannot read {folder}: {reason}") from error
    return database


def _check_files(folder: Path, root: DataRoot) -> None:
    """Before the devkit reads the tables: it takes files of any size, waits for named pipes, and follows links."""
    needed = 0
    for name in (*TABLES, *_MORE_TABLES):
        path = root.check(folder / f"{name}.json", f"table {name}")
        try:
            needed += estimate_json_file(path, _MOST_TABLE_BYTES)
            compare_with_memory(needed)
        except FileNotFoundError:  # which the devkit says
            continue
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"cannot read {folder}: table {path.name}: {reason_of(error)}; restore it from the data set"
            ) from error


def _diagnose(dataroot: Path, folder: Path) -> str | None:
    """What is wrong with the tables of a version that the devkit cannot open; None if nothing can be found."""
    tables: dict[str, list[dict]] = {}
    for name in TABLES:
        path = folder / f"{name}.json"
        try:
            tables[name] = read_json(path, _MOST_TABLE_BYTES)
        except OSError as error:
            return f"table {path.name} is missing or unreadable ({error.strerror}); restore it from the data set"
        except (ValueError, RecursionError) as error:
            return f"table {path.name} is not valid JSON ({reason_of(error)}); restore it from the data set"
        if not isinstance(tables[name], list) or not all(isinstance(row, dict) for row in tables[name]):
            return f"table {path.name} is not a list of rows; restore it from the data set"
        nameless = next((i for i, row in enumerate(tables[name]) if "token" not in row), None)
        if nameless is not None:
            return f"table {path.name}: row {nameless} has no token"
    return diagnose_references(tables) or _diagnose_maps(tables, dataroot)


def token_of(row: dict) -> str:
    """For a message: in one line, however the table has it."""
    return one_line(row.get("token"))[:80]


def diagnose_references(tables: dict[str, list[dict]]) -> str | None:
    for table, field, target in _REFERENCES:
        known = {row["token"] for row in tables[target]}
        for row in tables[table]:
            if row.get(field) not in known:
                return f"{table} {token_of(row)}: its {field} {shorten(row.get(field))} is not in table {target}.json"
    return None


def _diagnose_maps(tables: dict[str, list[dict]], dataroot: Path) -> str | None:
    if not tables["map"]:
        return "table map.json is empty; the devkit needs one row whose log_tokens name every log"
    for row in tables["map"]:
        if not (dataroot / row.get("filename", "?")).is_file():
            return f"map {token_of(row)}: its file {one_line(dataroot / row.get('filename', '?'))} is missing"
    mapped = {token for row in tables["map"] for token in row.get("log_tokens", ())}
    unmapped = next((row for row in tables["log"] if row["token"] not in mapped), None)
    return None if unmapped is None else f"log {token_of(unmapped)} is in no log_tokens of map.json"


# ---- rows ----------------------------------------------------------------------------------------------------------


def read_stamp_ns(row: dict) -> int:
    """Of a row whose `timestamp` counts microseconds; DatasetError where it plainly counts something else."""
    stamp = row["timestamp"]
    number = isinstance(stamp, int | float) and not isinstance(stamp, bool)
    if not number or stamp != stamp or abs(stamp) == float("inf") or stamp != int(stamp):
        raise DatasetError(
            f"row {token_of(row)}: timestamp {shorten(stamp)} is no whole number of microseconds; is it in seconds? "
            "Multiply by 1e6 and round"
        )
    for unit, per_second in (("seconds", 1), ("milliseconds", 10**3), ("nanoseconds", 10**9)):
        if _EPOCH_S[0] <= stamp / per_second <= _EPOCH_S[1]:
            raise DatasetError(
                f"row {token_of(row)}: timestamp {stamp} is a time in {unit}; the schema wants microseconds"
            )
    if not 1 <= stamp <= _LATEST_US:
        raise DatasetError(
            f"row {token_of(row)}: timestamp {shorten(stamp)}: expected microseconds from 1 to {_LATEST_US}; "
            "restore the table"
        )
    return int(stamp) * _US_TO_NS


def check_fields(row: dict, table: str, fields: Sequence[str]) -> None:
    missing = [field for field in fields if field not in row]
    if missing:
        raise DatasetError(f"{table} {token_of(row)} has no field {', '.join(missing)}; restore the table")


def check_sample_data(row: dict, root: DataRoot) -> None:
    """DatasetError where a row has not what it needs, or a name or path that it cannot have."""
    row["token"] = check_name(row["token"], "sample_data: token", DatasetError)
    where = f"sample_data {token_of(row)}"
    is_camera = row.get("sensor_modality") == "camera"
    check_fields(row, "sample_data", (*_NEEDED_FIELDS, "width", "height") if is_camera else _NEEDED_FIELDS)
    for name in ("channel", "sample_token"):
        check_name(row.get(name), f"{where}: {name}", DatasetError)
    read_stamp_ns(row)
    for name in ("width", "height") if is_camera else ():
        value = row[name]
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_PIXELS:
            raise DatasetError(
                f"{where}: {name}: expected a whole number from 1 to {MOST_PIXELS}, got {shorten(value)}; restore the "
                "table"
            )
    if not isinstance(row["is_key_frame"], bool):
        raise DatasetError(f"{where}: is_key_frame: expected true or false, got {shorten(row['is_key_frame'])}")
    root.locate(row["filename"], f"{where}: filename")


def read_transform(row: dict, table: str) -> np.ndarray:
    """T_ego_sensor of a calibrated_sensor row, T_world_ego of an ego_pose row."""
    check_fields(row, table, ("rotation", "translation"))
    # To find_fault, None is what nobody gave.
    fault = find_fault(
        rotation=() if row["rotation"] is None else row["rotation"],
        translation=() if row["translation"] is None else row["translation"],
    )
    if fault is not None:
        got = shorten(row[fault.field])
        raise CalibrationError(f"{table} {token_of(row)}: {fault.field}: expected {fault.expected}, got {got}")
    rotation, translation = np.array(row["rotation"], np.float64), np.array(row["translation"], np.float64)
    return transforms.make_transform(transforms.quat_to_matrix(rotation), translation)


def read_intrinsics(row: dict, camera: str) -> np.ndarray:
    """(3, 3), px, pixel centres at +0.5; nuScenes' tables count from the first one, as OpenCV does."""
    check_fields(row, "calibrated_sensor", ("camera_intrinsic",))
    fault = find_fault(intrinsics=() if row["camera_intrinsic"] is None else row["camera_intrinsic"])
    if fault is not None:
        raise CalibrationError(
            f"calibrated_sensor {token_of(row)} of {camera}: camera_intrinsic: expected a 3x3 matrix of "
            f"{fault.expected}, got {shorten(row['camera_intrinsic'])}; correct the table"
        )
    return from_opencv(np.array(row["camera_intrinsic"], np.float64))


def read_lens(row: dict, camera: str) -> tuple[str, tuple[float, ...]]:
    """Model and coefficients as `Cameras` wants them.

    nuScenes' images are undistorted and its schema has no lens. Other rigs in that schema may add the two fields.
    """
    model, distortion = row.get("camera_model", PINHOLE), row.get("camera_distortion", ())
    fault = find_fault(model=model or "", distortion=() if distortion is None else distortion)
    if fault is not None:
        raise CalibrationError(
            f"calibrated_sensor {token_of(row)} of {camera}: camera_{fault.field}: expected {fault.expected}, got "
            f"camera_model {shorten(model)} with camera_distortion {shorten(distortion)}; correct the table"
        )
    return model, tuple(float(value) for value in distortion)
