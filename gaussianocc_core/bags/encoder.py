# SPDX-License-Identifier: Apache-2.0
"""Records -> serialised ROS messages with their topics (`schema`), without files.

Large arrays never become part of a message object: the message is serialised without them, and they are put in place.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from gaussianocc_core.bags.image_codec import image_size
from gaussianocc_core.bags.schema import (
    CAMERA_INFO_TYPE,
    EGO_FRAME,
    IMAGE_TYPE,
    MAP_FRAME,
    OCCUPANCY_TOPIC,
    ODOM_FRAME,
    POINTS_TYPE,
    RAW_IMAGE_TYPE,
    TF_STATIC_TOPIC,
    TF_TOPIC,
    TF_TYPE,
    BagRig,
    Encoded,
    ImageRecord,
    LabelRecord,
    LidarRecord,
    OccupancyRecord,
    PoseRecord,
    Record,
    Topic,
    image_topic,
    info_topic,
    label_topic,
    mask_topic,
    points_topic,
)
from gaussianocc_core.bags.typestore import OCCUPANCY_TYPE, open_typestore
from gaussianocc_core.errors import CalibrationError, DatasetError, GaussianOccError
from gaussianocc_core.geometry import lens, transforms
from gaussianocc_core.geometry.pixel_centers import to_opencv
from gaussianocc_core.geometry.voxels import flatten
from gaussianocc_core.labels import UNOBSERVED

_FLOAT32, _UINT16 = 7, 4  # sensor_msgs/PointField
_FIELDS = (("x", 0, _FLOAT32), ("y", 4, _FLOAT32), ("z", 8, _FLOAT32), ("intensity", 12, _FLOAT32))
_NOTHING = np.zeros(0, dtype=np.uint8)


class Encoder:
    """Makes the messages of one bag; the same records always give the same bytes."""

    def __init__(self, rig: BagRig) -> None:
        try:
            self.typestore = open_typestore()
        except ImportError as error:
            raise GaussianOccError(f"bags need the rosbags library: pip install rosbags ({error})") from error
        self._types = self.typestore.types
        self._rig = rig
        cameras = rig.cameras
        self._static = Topic(TF_STATIC_TOPIC, TF_TYPE, depth=1, latched=True)
        self._tf = Topic(TF_TOPIC, TF_TYPE, depth=100)
        self._images = {name: Topic(image_topic(name), IMAGE_TYPE) for name in cameras.names}
        self._infos = {name: Topic(info_topic(name), CAMERA_INFO_TYPE) for name in cameras.names}
        self._labels = {name: Topic(label_topic(name), RAW_IMAGE_TYPE) for name in cameras.names}
        self._masks = {name: Topic(mask_topic(name), RAW_IMAGE_TYPE, depth=1, latched=True) for name in rig.masks}
        self._points = {name: Topic(points_topic(name), POINTS_TYPE) for name in rig.T_ego_lidar}
        self._occupancy = Topic(OCCUPANCY_TOPIC, OCCUPANCY_TYPE, depth=1)
        self._size = dict(zip(cameras.names, zip(cameras.width, cameras.height, strict=True), strict=True))
        self._info_bytes = {name: self._camera_info(i) for i, name in enumerate(cameras.names)}
        still = self._transform(0, ODOM_FRAME, EGO_FRAME, np.eye(4))
        self._tf_bytes = self._serialize(self._message(TF_TYPE, transforms=[still]))
        self._image_bytes: dict[tuple[str, str], bytes] = {}

    @property
    def topics(self) -> tuple[Topic, ...]:
        """What every bag of this rig has; labels and occupancy come with their first record."""
        cameras = [each for name in self._rig.cameras.names for each in (self._images[name], self._infos[name])]
        return (self._static, self._tf, *cameras, *self._masks.values(), *self._points.values())

    def encode_static(self, stamp_ns: int) -> Iterator[Encoded]:
        """What a bag begins with."""
        cameras = self._rig.cameras
        T_ego_cam = cameras.T_ego_cam.double().numpy()
        frames = [(EGO_FRAME, name, T_ego_cam[i]) for i, name in enumerate(cameras.names)] + [
            (EGO_FRAME, name, T_ego_lidar) for name, T_ego_lidar in self._rig.T_ego_lidar.items()
        ]
        frames.append((MAP_FRAME, ODOM_FRAME, self._rig.T_map_odom))
        edges = [self._transform(stamp_ns, *frame) for frame in frames]
        yield Encoded(self._static, self._serialize(self._message(TF_TYPE, transforms=edges)))
        for name, mask in self._rig.masks.items():
            self._check_size(name, mask, f"mask of {name}")
            pixels = mask.astype(np.uint8) * np.uint8(255)
            yield Encoded(self._masks[name], self._mono8(stamp_ns, name, pixels))

    def encode(self, record: Record) -> Iterator[Encoded]:
        if isinstance(record, PoseRecord):
            yield Encoded(self._tf, self._moving(record))
        elif isinstance(record, ImageRecord):
            self._check_image(record)
            info = self._info_bytes[record.camera]
            stamp = _cdr_stamp(record.stamp_ns)
            yield Encoded(self._infos[record.camera], b"".join((info[:4], stamp, info[12:])))
            yield Encoded(self._images[record.camera], self._compressed_image(record, stamp))
        elif isinstance(record, LabelRecord):
            what = record.source or f"2D labels of {record.camera} at {record.stamp_ns} ns"
            self._check_size(record.camera, record.labels, what)
            data = self._mono8(record.stamp_ns, record.camera, record.labels)
            yield Encoded(self._labels[record.camera], data)
        elif isinstance(record, OccupancyRecord):
            yield Encoded(self._occupancy, self._serialize(self._truth(record)))
        else:
            yield Encoded(self._points[record.lidar], self._cloud(record))

    # ---- parts -----------------------------------------------------------------------------------------------------

    def _message(self, msgtype: str, **fields: Any) -> Any:
        return self._types[msgtype](**fields)

    def _serialize(self, message: Any) -> bytes:
        return bytes(self.typestore.serialize_cdr(message, message.__msgtype__))

    def _header(self, stamp_ns: int, frame_id: str) -> Any:
        seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
        stamp = self._message("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)
        return self._message("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)

    def _vector(self, x: float, y: float, z: float) -> Any:
        return self._message("geometry_msgs/msg/Vector3", x=x, y=y, z=z)

    def _transform(self, stamp_ns: int, parent: str, child: str, T_parent_child: np.ndarray) -> Any:
        x, y, z, i, j, k, w = _xyz_xyzw(stamp_ns, parent, child, T_parent_child)
        return self._message(
            "geometry_msgs/msg/TransformStamped",
            header=self._header(stamp_ns, parent),
            child_frame_id=child,
            transform=self._message(
                "geometry_msgs/msg/Transform",
                translation=self._vector(x, y, z),
                rotation=self._message("geometry_msgs/msg/Quaternion", x=i, y=j, z=k, w=w),
            ),
        )

    def _moving(self, record: PoseRecord) -> bytes:
        """The one transform of /tf: stamp at byte 8, behind the count of transforms; position and quaternion last."""
        numbers = struct.pack("<7d", *_xyz_xyzw(record.stamp_ns, ODOM_FRAME, EGO_FRAME, record.T_odom_ego))
        return b"".join((self._tf_bytes[:8], _cdr_stamp(record.stamp_ns), self._tf_bytes[16:-56], numbers))

    def _camera_info(self, index: int) -> bytes:
        """A camera's CameraInfo; only its stamp changes."""
        cameras = self._rig.cameras
        name = cameras.names[index]
        intrinsics = to_opencv(cameras.intrinsics[index].double().numpy())
        if not np.isfinite(intrinsics).all():
            raise CalibrationError(f"camera {name}: its intrinsics are not finite: {intrinsics.tolist()}")
        model, coefficients = lens.to_ros(cameras.model[index], cameras.distortion[index])
        region = self._message(
            "sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        message = self._message(
            CAMERA_INFO_TYPE,
            header=self._header(0, name),
            height=cameras.height[index],
            width=cameras.width[index],
            distortion_model=model,
            d=np.array(coefficients, dtype=np.float64),
            k=intrinsics.ravel(),
            r=np.eye(3).ravel(),
            p=np.hstack([intrinsics, np.zeros((3, 1))]).ravel(),
            binning_x=0,
            binning_y=0,
            roi=region,
        )
        return self._serialize(message)

    def _check_image(self, record: ImageRecord) -> None:
        what = record.source or f"image of {record.camera} at {record.stamp_ns} ns"
        try:
            size = image_size(record.data)
        except ValueError as error:
            raise DatasetError(f"{what}: {error}; restore the file from the data set") from error
        if size != self._size[record.camera]:
            expected = "x".join(map(str, self._size[record.camera]))
            raise DatasetError(f"{what}: the image is {size[0]}x{size[1]} pixels, its calibration says {expected}")

    def _check_size(self, camera: str, pixels: np.ndarray, what: str) -> None:
        width, height = self._size[camera]
        if pixels.shape != (height, width):
            got = "x".join(map(str, pixels.shape[::-1]))
            raise DatasetError(f"{what}: {got} pixels, the images of {camera} have {width}x{height}")

    def _compressed_image(self, record: ImageRecord, stamp: bytes) -> bytes:
        key = record.camera, record.format
        empty = self._image_bytes.get(key)
        if empty is None:
            header = self._header(0, record.camera)
            empty = self._serialize(self._message(IMAGE_TYPE, header=header, format=record.format, data=_NOTHING))
            self._image_bytes[key] = empty
        # An image's data ends the message: the last four bytes of an empty one are its length.
        return b"".join((empty[:4], stamp, empty[12:-4], struct.pack("<I", len(record.data)), record.data))

    def _mono8(self, stamp_ns: int, camera: str, pixels: np.ndarray) -> bytes:
        height, width = pixels.shape
        empty = self._serialize(
            self._message(
                RAW_IMAGE_TYPE,
                header=self._header(stamp_ns, camera),
                height=height,
                width=width,
                encoding="mono8",
                is_bigendian=0,
                step=width,
                data=_NOTHING,
            )
        )
        return b"".join((empty[:-4], struct.pack("<I", pixels.size), np.ascontiguousarray(pixels).data))

    def _cloud(self, record: LidarRecord) -> bytes:
        points = np.array(record.points, dtype="<f4", order="C")  # a copy
        fields = list(_FIELDS)
        if points.shape[1] == 5:
            # A ring takes two bytes; the two after it keep the next point's floats aligned.
            fields.append(("ring", 16, _UINT16))
            points.view("<u4")[:, 4] = points[:, 4].astype("<u2")
        empty = self._serialize(
            self._message(
                POINTS_TYPE,
                header=self._header(record.stamp_ns, record.lidar),
                height=1,
                width=len(points),
                fields=[
                    self._message("sensor_msgs/msg/PointField", name=name, offset=offset, datatype=datatype, count=1)
                    for name, offset, datatype in fields
                ],
                is_bigendian=False,
                point_step=4 * points.shape[1],
                row_step=points.nbytes,
                data=_NOTHING,
                is_dense=bool(np.isfinite(points[:, :3]).all()),
            )
        )
        # Behind the data comes one byte, is_dense.
        return b"".join((empty[:-5], struct.pack("<I", points.nbytes), points.data, empty[-1:]))

    def _truth(self, record: OccupancyRecord) -> Any:
        size_x, size_y, size_z = record.labels.shape
        labels = np.ascontiguousarray(flatten(record.labels))
        x, y, z = record.origin
        return self._message(
            OCCUPANCY_TYPE,
            header=self._header(record.stamp_ns, EGO_FRAME),
            origin=self._message(
                "geometry_msgs/msg/Pose",
                position=self._message("geometry_msgs/msg/Point", x=x, y=y, z=z),
                orientation=self._message("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0),
            ),
            voxel_size=self._vector(*record.voxel_size),
            size_x=size_x,
            size_y=size_y,
            size_z=size_z,
            labels=labels,
            confidence=np.where(labels == UNOBSERVED, 0, 255).astype(np.uint8),
            class_names=list(record.class_names),
            free_label=record.free_label,
            cameras=list(self._rig.cameras.names),
            model="ground truth",
        )


def _xyz_xyzw(stamp_ns: int, parent: str, child: str, T_parent_child: np.ndarray) -> tuple[float, ...]:
    """Translation in m and quaternion, in ROS's order."""
    if not np.isfinite(T_parent_child).all():
        raise CalibrationError(f"transform {parent} -> {child} at {stamp_ns} ns is not finite")
    w, x, y, z = transforms.matrix_to_quat(T_parent_child[:3, :3]).tolist()
    return (*T_parent_child[:3, 3].tolist(), x, y, z, w)


def _cdr_stamp(stamp_ns: int) -> bytes:
    return struct.pack("<iI", *divmod(stamp_ns, 1_000_000_000))
