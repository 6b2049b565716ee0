# SPDX-License-Identifier: Apache-2.0
"""What a recording is made of, whatever the data set: records in time order, and a rig that stays the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, UInt8

from gaussianocc_core.types import Cameras


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
