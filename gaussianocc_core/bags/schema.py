# SPDX-License-Identifier: Apache-2.0
"""The bag schema: topics, types and frames, and what a recording is made of, whatever the data set.

| topic                           | type                         | content                                             |
|---------------------------------|------------------------------|-----------------------------------------------------|
| `/<CAM>/image_raw/compressed`   | sensor_msgs/CompressedImage  | the source's bytes, untouched; frame_id `<CAM>`     |
| `/<CAM>/camera_info`            | sensor_msgs/CameraInfo       | one per image, same stamp                           |
| `/<CAM>/semantic/image_raw`     | sensor_msgs/Image            | mono8, Occ3D ids, 255 = ignore; its image's stamp   |
| `/<CAM>/mask`                   | sensor_msgs/Image            | mono8, 255 = the camera sees the world; latched     |
| `/<LIDAR>/points`               | sensor_msgs/PointCloud2      | x y z intensity [ring], sensor frame                |
| `/occupancy_gt`                 | gaussianocc_ros/Semantic...  | Occ3D ids, 255 = no camera sees it; ego frame       |
| `/tf_static`                    | tf2_msgs/TFMessage           | base_link -> every sensor, map -> odom; latched     |
| `/tf`                           | tf2_msgs/TFMessage           | odom -> base_link; odom is the first ego pose       |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, UInt8

from gaussianocc_core.names import check_names
from gaussianocc_core.types import Cameras

MAP_FRAME, ODOM_FRAME, EGO_FRAME = "map", "odom", "base_link"  # REP 105

IMAGE_TYPE = "sensor_msgs/msg/CompressedImage"
RAW_IMAGE_TYPE = "sensor_msgs/msg/Image"
CAMERA_INFO_TYPE = "sensor_msgs/msg/CameraInfo"
POINTS_TYPE = "sensor_msgs/msg/PointCloud2"
TF_TYPE = "tf2_msgs/msg/TFMessage"
ODOMETRY_TYPE = "nav_msgs/msg/Odometry"

TF_TOPIC, TF_STATIC_TOPIC, OCCUPANCY_TOPIC = "/tf", "/tf_static", "/occupancy_gt"


def image_topic(camera: str) -> str:
    return f"/{camera}/image_raw/compressed"


def info_topic(camera: str) -> str:
    return f"/{camera}/camera_info"


def label_topic(camera: str) -> str:
    return f"/{camera}/semantic/image_raw"


def mask_topic(camera: str) -> str:
    return f"/{camera}/mask"


def points_topic(lidar: str) -> str:
    return f"/{lidar}/points"


@dataclass(frozen=True)
class Topic:
    """A topic and how it is offered (always reliable)."""

    name: str
    msgtype: str
    depth: int = 10
    latched: bool = False


@dataclass(frozen=True)
class Encoded:
    """One message."""

    topic: Topic
    data: bytes  # CDR, little-endian


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
class LabelRecord:
    """2D labels of the camera's image of the same stamp."""

    stamp_ns: int
    camera: str
    labels: UInt8[np.ndarray, "H W"]  # Occ3D ids, 255 = ignore
    source: str = ""


@dataclass(frozen=True)
class LidarRecord:
    """One lidar sweep in its sensor's frame."""

    stamp_ns: int
    lidar: str
    points: Float[np.ndarray, "P C"]  # x y z (m), intensity, and where C is 5 the ring


@dataclass(frozen=True)
class OccupancyRecord:
    """True occupancy in the ego frame of this moment."""

    stamp_ns: int
    labels: UInt8[np.ndarray, "X Y Z"]  # index into class_names, 255 where no camera sees the voxel
    origin: tuple[float, float, float]  # low corner of voxel 0, 0, 0, metres
    voxel_size: tuple[float, float, float]  # metres
    class_names: tuple[str, ...]
    free_label: int


Record = PoseRecord | ImageRecord | LabelRecord | LidarRecord | OccupancyRecord
# At one stamp: a replay never delivers an image before what is needed to place it, nor a label before its image.
RECORD_ORDER = (PoseRecord, ImageRecord, LabelRecord, LidarRecord, OccupancyRecord)


@dataclass(frozen=True)
class BagRig:
    """What stays the same over a bag."""

    cameras: Cameras  # T_ego_cam goes to /tf_static, the rest to camera_info
    T_ego_lidar: Mapping[str, Float[np.ndarray, "4 4"]] = field(default_factory=dict)
    T_map_odom: Float[np.ndarray, "4 4"] = field(default_factory=lambda: np.eye(4))
    masks: Mapping[str, Bool[np.ndarray, "H W"]] = field(default_factory=dict)  # True where a camera sees the world

    def __post_init__(self) -> None:
        check_names(self.T_ego_lidar, "T_ego_lidar: lidar", ValueError)
        check_names(self.masks, "masks: camera", ValueError)
