# SPDX-License-Identifier: Apache-2.0
"""Recorded sensor data -> rosbag2 in the project's bag schema, one streaming pass, whatever the source.

| topic                           | type                         | content                                             |
|---------------------------------|------------------------------|-----------------------------------------------------|
| `/<CAM>/image_raw/compressed`   | sensor_msgs/CompressedImage  | the source's bytes, untouched; frame_id `<CAM>`     |
| `/<CAM>/camera_info`            | sensor_msgs/CameraInfo       | one per image, same stamp                           |
| `/<LIDAR>/points`               | sensor_msgs/PointCloud2      | x y z intensity [ring], sensor frame                |
| `/tf_static`                    | tf2_msgs/TFMessage           | base_link -> every sensor, map -> odom              |
| `/tf`                           | tf2_msgs/TFMessage           | odom -> base_link; odom is the first ego pose       |

Log time is the header stamp and messages are in global time order; at one stamp the transform comes first, then
camera_info, then the image, then points, so a replay never delivers an image before what is needed to place it.
"""

from __future__ import annotations

import heapq
import shutil
import sqlite3
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gaussianocc_core.data.files import make_hidden_folder, replace_folder
from gaussianocc_core.errors import BagError, CalibrationError, DatasetError, GaussianOccError
from gaussianocc_core.geometry import transforms
from gaussianocc_core.types import EQUIDISTANT, Cameras

MAP_FRAME, ODOM_FRAME, EGO_FRAME = "map", "odom", "base_link"  # REP 105
STORAGES = ("mcap", "sqlite3")
METADATA_VERSION = 8  # ROS 2 Humble cannot read version 9

IMAGE_TYPE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO_TYPE = "sensor_msgs/msg/CameraInfo"
POINTS_TYPE = "sensor_msgs/msg/PointCloud2"
TF_TYPE = "tf2_msgs/msg/TFMessage"

_FLOAT32, _UINT16 = 7, 4  # sensor_msgs/PointField
# 20 bytes a point: the two after `ring` keep the next point's floats aligned.
_POINT_WITH_RING = np.dtype(
    {
        "names": ["x", "y", "z", "intensity", "ring"],
        "formats": ["<f4", "<f4", "<f4", "<f4", "<u2"],
        "offsets": [0, 4, 8, 12, 16],
        "itemsize": 20,
    }
)


@dataclass(frozen=True)
class PoseRecord:
    """The vehicle at one moment."""

    stamp_ns: int
    T_odom_ego: Float[np.ndarray, "4 4"]  # metres


@dataclass(frozen=True)
class ImageRecord:
    """One camera frame as it lies in the source's file."""

    stamp_ns: int
    camera: str
    data: bytes
    format: str = "jpeg"  # or "png"
    source: str = ""  # what an error message names: token and path


@dataclass(frozen=True)
class LidarRecord:
    """One lidar sweep in its sensor's frame."""

    stamp_ns: int
    lidar: str
    points: Float[np.ndarray, "P C"]  # x y z (m), intensity, and where C is 5 the ring


Record = PoseRecord | ImageRecord | LidarRecord


@dataclass(frozen=True)
class BagRig:
    """What stays the same over a bag."""

    cameras: Cameras  # T_ego_cam goes to /tf_static, the rest to camera_info
    T_ego_lidar: Mapping[str, Float[np.ndarray, "4 4"]] = field(default_factory=dict)
    T_map_odom: Float[np.ndarray, "4 4"] = field(default_factory=lambda: np.eye(4))


@dataclass(frozen=True)
class BagReport:
    """What was written."""

    path: Path
    messages: int
    bytes: int  # of all files of the bag
    seconds: float


def write_bag(
    path: Path,
    rig: BagRig,
    *streams: Iterable[Record],
    storage: str = "mcap",
    overwrite: bool = False,
    provenance: Mapping[str, str] | None = None,
    on_record: Callable[[Record], None] | None = None,
) -> BagReport:
    """Write the time-ordered streams, merged by stamp, to the folder `path`.

    Memory does not grow with the length of the streams. The bag appears under its name only when it is complete: until
    then, and after any error or interrupt, `path` is as it was. `provenance` ends up in the bag's custom_data.
    """
    path = Path(path)
    if storage not in STORAGES:
        raise ValueError(f"storage: expected one of {STORAGES}, got {storage!r}")
    refuse_existing(path, overwrite)
    started = time.perf_counter()
    with _appear_when_complete(path) as unfinished:
        messages = _write(unfinished, rig, _in_order(streams), storage, dict(provenance or {}), on_record)
    size = sum(file.stat().st_size for file in path.iterdir())
    return BagReport(path, messages, size, time.perf_counter() - started)


def refuse_existing(path: Path, overwrite: bool) -> None:
    """BagError where writing a bag to `path` would replace something that must stay."""
    if not path.exists():
        return
    if not overwrite:
        raise BagError(f"{path} exists already; remove it, choose another output folder, or say --overwrite")
    if not (path / "metadata.yaml").is_file():
        raise BagError(f"{path} exists and is not a rosbag2 (no metadata.yaml), so it is not overwritten; remove it")


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height of a complete JPEG or PNG; ValueError says what is wrong with it. Pixels are not decoded."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        if b"IEND" not in data[-16:]:
            raise ValueError(f"the PNG is truncated: no end marker in its {len(data)} bytes")
        return struct.unpack(">II", data[16:24])
    if data[:2] != b"\xff\xd8":
        raise ValueError("the image is empty" if not data else "neither a JPEG nor a PNG")
    if not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise ValueError(f"the JPEG is truncated: no end marker after {len(data)} bytes")
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame, not DHT, JPG, DAC
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            return width, height
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise ValueError("the JPEG is damaged: no frame header")


# ---- files ---------------------------------------------------------------------------------------------------------


@contextmanager
def _appear_when_complete(path: Path) -> Iterator[Path]:
    # The storage file is named after its folder, so the unfinished bag already has its final name inside a hidden one.
    try:
        hidden = make_hidden_folder(path)
    except OSError as error:
        raise BagError(f"cannot write to {path.parent}: {error.strerror}; choose another output folder") from error
    try:
        yield hidden / path.name
        replace_folder(path, hidden / path.name, hidden / f"{path.name}.replaced")
    except (OSError, sqlite3.Error) as error:  # sources turn theirs into DatasetErrors: this one is the output's
        reason = getattr(error, "strerror", None) or error
        raise BagError(f"writing {path} failed: {reason}; nothing was left behind") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _in_order(streams: Iterable[Iterable[Record]]) -> Iterator[Record]:
    newest = None
    for record in heapq.merge(*streams, key=_order):
        if newest is not None and record.stamp_ns < newest:
            raise DatasetError(
                f"the source is not in time order: {type(record).__name__} at {record.stamp_ns} ns follows {newest} ns"
            )
        newest = record.stamp_ns
        yield record


def _order(record: Record) -> tuple[int, int]:
    return record.stamp_ns, (PoseRecord, ImageRecord, LidarRecord).index(type(record))


def _write(
    path: Path,
    rig: BagRig,
    records: Iterator[Record],
    storage: str,
    provenance: dict[str, str],
    on_record: Callable[[Record], None] | None,
) -> int:
    rosbag2 = import_rosbags().rosbag2
    first = next(records, None)
    if first is None:
        raise DatasetError(f"nothing to write to {path.name}: the source has no images, lidar sweeps or poses")
    plugin = rosbag2.StoragePlugin.MCAP if storage == "mcap" else rosbag2.StoragePlugin.SQLITE3
    with rosbag2.Writer(path, version=METADATA_VERSION, storage_plugin=plugin) as writer:
        for key, value in {"schema": "gaussianocc", **provenance}.items():
            writer.set_custom_data(key, value)
        topics = _Topics(writer, rig)
        topics.write_static(first.stamp_ns)
        topics.write(first)
        if on_record:
            on_record(first)
        for record in records:
            topics.write(record)
            if on_record:
                on_record(record)
        return sum(writer.counts.values())


# ---- messages ------------------------------------------------------------------------------------------------------


def import_rosbags() -> Any:
    """The rosbags library, needed only where bags are read or written."""
    try:
        import rosbags.rosbag2
        import rosbags.typesys
    except ImportError as error:
        raise GaussianOccError(f"bags need the rosbags library: pip install rosbags ({error})") from error
    return rosbags


class _Topics:
    """The open bag's connections, and one method per kind of record."""

    def __init__(self, writer: Any, rig: BagRig) -> None:
        typesys = import_rosbags().typesys
        # These messages have the same definitions and type hashes from Humble on.
        self._store = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
        self._types = self._store.types
        self._writer = writer
        self._rig = rig
        self._tf_static = self._connect("/tf_static", TF_TYPE, depth=1, latched=True)
        self._tf = self._connect("/tf", TF_TYPE, depth=100)
        self._images, self._infos, self._calibration = {}, {}, {}
        for i, name in enumerate(rig.cameras.names):
            self._images[name] = self._connect(f"/{name}/image_raw/compressed", IMAGE_TYPE)
            self._infos[name] = self._connect(f"/{name}/camera_info", CAMERA_INFO_TYPE)
            self._calibration[name] = self._calibrate(i)
        self._size = dict(zip(rig.cameras.names, zip(rig.cameras.width, rig.cameras.height, strict=True), strict=True))
        self._points = {name: self._connect(f"/{name}/points", POINTS_TYPE) for name in rig.T_ego_lidar}

    def write_static(self, stamp_ns: int) -> None:
        cameras = self._rig.cameras
        T_ego_cam = cameras.T_ego_cam.double().numpy()
        frames = [(EGO_FRAME, name, T_ego_cam[i]) for i, name in enumerate(cameras.names)] + [
            (EGO_FRAME, name, T_ego_lidar) for name, T_ego_lidar in self._rig.T_ego_lidar.items()
        ]
        frames.append((MAP_FRAME, ODOM_FRAME, self._rig.T_map_odom))
        message = self._message(TF_TYPE, transforms=[self._transform(stamp_ns, *frame) for frame in frames])
        self._put(self._tf_static, stamp_ns, message)

    def write(self, record: Record) -> None:
        if isinstance(record, PoseRecord):
            transform = self._transform(record.stamp_ns, ODOM_FRAME, EGO_FRAME, record.T_odom_ego)
            self._put(self._tf, record.stamp_ns, self._message(TF_TYPE, transforms=[transform]))
        elif isinstance(record, ImageRecord):
            self._check(record)
            header = self._header(record.stamp_ns, record.camera)
            info = self._message(CAMERA_INFO_TYPE, header=header, **self._calibration[record.camera])
            self._put(self._infos[record.camera], record.stamp_ns, info)
            data = np.frombuffer(record.data, dtype=np.uint8)
            image = self._message(IMAGE_TYPE, header=header, format=record.format, data=data)
            self._put(self._images[record.camera], record.stamp_ns, image)
        else:
            self._put(self._points[record.lidar], record.stamp_ns, self._cloud(record))

    def _connect(self, topic: str, msgtype: str, depth: int = 10, latched: bool = False) -> Any:
        qos = [_reliable_qos(depth, latched)]
        return self._writer.add_connection(topic, msgtype, typestore=self._store, offered_qos_profiles=qos)

    def _message(self, msgtype: str, **fields: Any) -> Any:
        return self._types[msgtype](**fields)

    def _put(self, connection: Any, stamp_ns: int, message: Any) -> None:
        self._writer.write(connection, stamp_ns, self._store.serialize_cdr(message, connection.msgtype))

    def _header(self, stamp_ns: int, frame_id: str) -> Any:
        seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
        stamp = self._message("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)
        return self._message("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)

    def _transform(self, stamp_ns: int, parent: str, child: str, T_parent_child: np.ndarray) -> Any:
        if not np.isfinite(T_parent_child).all():
            raise CalibrationError(f"transform {parent} -> {child} at {stamp_ns} ns is not finite")
        x, y, z = T_parent_child[:3, 3].tolist()
        w, i, j, k = transforms.matrix_to_quat(T_parent_child[:3, :3]).tolist()
        return self._message(
            "geometry_msgs/msg/TransformStamped",
            header=self._header(stamp_ns, parent),
            child_frame_id=child,
            transform=self._message(
                "geometry_msgs/msg/Transform",
                translation=self._message("geometry_msgs/msg/Vector3", x=x, y=y, z=z),
                rotation=self._message("geometry_msgs/msg/Quaternion", x=i, y=j, z=k, w=w),
            ),
        )

    def _calibrate(self, index: int) -> dict[str, Any]:
        """The fields of a camera's CameraInfo, all but the header."""
        cameras = self._rig.cameras
        intrinsics = cameras.intrinsics[index].double().numpy()
        if not np.isfinite(intrinsics).all():
            raise CalibrationError(
                f"camera {cameras.names[index]}: its intrinsics are not finite: {intrinsics.tolist()}"
            )
        model, coefficients = _ros_distortion(cameras.model[index], cameras.distortion[index])
        region = self._message(
            "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        return {
            "height": cameras.height[index],
            "width": cameras.width[index],
            "distortion_model": model,
            "d": np.array(coefficients, dtype=np.float64),
            "k": intrinsics.ravel(),
            "r": np.eye(3).ravel(),
            "p": np.hstack([intrinsics, np.zeros((3, 1))]).ravel(),
            "binning_x": 0,
            "binning_y": 0,
            "roi": region,
        }

    def _check(self, record: ImageRecord) -> None:
        what = record.source or f"image of {record.camera} at {record.stamp_ns} ns"
        try:
            size = image_size(record.data)
        except ValueError as error:
            raise DatasetError(f"{what}: {error}; restore the file from the data set") from error
        if size != self._size[record.camera]:
            expected = "x".join(map(str, self._size[record.camera]))
            raise DatasetError(f"{what}: the image is {size[0]}x{size[1]} pixels, its calibration says {expected}")

    def _cloud(self, record: LidarRecord) -> Any:
        points = np.ascontiguousarray(record.points, dtype="<f4")
        fields = [("x", 0, _FLOAT32), ("y", 4, _FLOAT32), ("z", 8, _FLOAT32), ("intensity", 12, _FLOAT32)]
        if points.shape[1] == 5:
            fields.append(("ring", 16, _UINT16))
            packed = np.zeros(len(points), dtype=_POINT_WITH_RING)
            for column, name in enumerate(_POINT_WITH_RING.names or ()):
                packed[name] = points[:, column]
            points = packed
        step = points.nbytes // len(points) if len(points) else 16
        return self._message(
            POINTS_TYPE,
            header=self._header(record.stamp_ns, record.lidar),
            height=1,
            width=len(points),
            fields=[
                self._message("sensor_msgs/msg/PointField", name=name, offset=offset, datatype=datatype, count=1)
                for name, offset, datatype in fields
            ],
            is_bigendian=False,
            point_step=step,
            row_step=points.nbytes,
            data=points.view(np.uint8).ravel(),
            is_dense=bool(np.isfinite(record.points[:, :3]).all()),
        )


def _ros_distortion(model: str, distortion: tuple[float, ...]) -> tuple[str, tuple[float, ...]]:
    """sensor_msgs' name of the lens model and its coefficients, padded to the count that ROS expects."""
    if model == EQUIDISTANT:
        return "equidistant", tuple(distortion) + (0.0,) * (4 - len(distortion))
    if len(distortion) > 5:
        return "rational_polynomial", tuple(distortion)
    return "plumb_bob", tuple(distortion) + (0.0,) * (5 - len(distortion))


def _reliable_qos(depth: int, latched: bool) -> Any:
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

    forever = QosTime(9223372036, 854775807)  # how rosbag2 writes "no deadline"
    return Qos(
        QosHistory.KEEP_LAST,
        depth,
        QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        forever,
        forever,
        QosLiveliness.AUTOMATIC,
        forever,
        False,
    )
