# SPDX-License-Identifier: Apache-2.0
"""Lidar of a bag in its cameras: a check of calibration, and depth to evaluate against. Never used in training."""

from __future__ import annotations

import logging

import numpy as np
import torch
from jaxtyping import Float

from gaussianocc_core.bags.index import TopicIndex
from gaussianocc_core.bags.message_ref import MessageRef
from gaussianocc_core.bags.messages import decode_cloud
from gaussianocc_core.bags.reader import open_reader
from gaussianocc_core.bags.schema import POINTS_TYPE
from gaussianocc_core.data.bag import BagEntry, BagSource
from gaussianocc_core.data.lidar import LidarScan
from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry import transforms
from gaussianocc_core.types import Cameras

_log = logging.getLogger(__name__)
_LIDAR_SLOP_NS = 60_000_000
_OUR_FIELDS = {"label", "confidence"}  # beside x, y, z
_CLEARING = "/clearing"  # ends of rays: most of them lie where nothing is


def lidar_topics(source: BagSource) -> tuple[str, ...]:
    """Point clouds whose place on the robot is known, without those that the node of this package publishes."""
    return tuple(
        topic
        for topic, entry in source.index.topics.items()
        if entry.msgtype == POINTS_TYPE
        and len(entry)
        and not topic.endswith(_CLEARING)
        and not _is_ours(source, entry)
        and source.T_ego_sensor(_cloud_frame(source, entry)) is not None
    )


def _is_ours(source: BagSource, topic: TopicIndex) -> bool:
    """Whether a cloud holds classes and how sure they are: occupied voxels or obstacles, which no sensor measured."""
    cloud = open_reader(source.index.path).read([topic[0]])[0]
    return {field.name for field in cloud.fields} >= _OUR_FIELDS


def lidar_depths(
    source: BagSource, topic: str, entry: BagEntry, cameras: Cameras
) -> tuple[Float[np.ndarray, "_ 3"], ...] | None:
    """Per camera column, row (px) and z-depth (m) of what it sees of the scan nearest to a sample; None if there is
    none within 60 ms.

    cameras: pinholes without distortion, as a Rectifier makes them of the sample's cameras. With odometry, the robot's
    motion between scan and image is taken out.
    """
    found = _nearest_scan(source, topic, entry)
    if found is None:
        return None
    ref, scan = found
    result = []
    for i, name in enumerate(cameras.names):
        moved = _at_image_time(source, ref, scan, entry, i).points
        one = cameras.select((name,)).to(dtype=torch.float64)
        pixels, depth = camera_geometry.project(torch.from_numpy(moved), one.intrinsics, one.T_ego_cam)
        seen = camera_geometry.in_view(pixels, depth, one.width[0], one.height[0])[0]
        result.append(torch.cat([pixels[0, seen], depth[0, seen, None]], dim=1).numpy())
    return tuple(result)


def lidar_scan(source: BagSource, topic: str, entry: BagEntry) -> LidarScan | None:
    """The scan nearest to a sample in the ego frame of its anchor camera's image; None if there is none within 60 ms.

    With odometry, the robot's motion between scan and image is taken out.
    """
    found = _nearest_scan(source, topic, entry)
    return None if found is None else _at_image_time(source, *found, entry, 0)


def _nearest_scan(source: BagSource, topic: str, entry: BagEntry) -> tuple[MessageRef, LidarScan] | None:
    """In the ego frame at its own stamp."""
    cloud_topic = source.index.topics[topic]
    place = int(np.argmin(np.abs(cloud_topic.stamps_ns - entry.frame.camera_stamps_ns[0])))
    ref = cloud_topic[place]
    if abs(ref.stamp_ns - entry.frame.camera_stamps_ns[0]) > _LIDAR_SLOP_NS:
        return None
    T_ego_lidar = source.T_ego_sensor(_cloud_frame(source, cloud_topic))
    if T_ego_lidar is None:
        return None
    points = _read_points(source, ref)
    return ref, LidarScan(points @ T_ego_lidar[:3, :3].T + T_ego_lidar[:3, 3], T_ego_lidar[:3, 3])


def _at_image_time(source: BagSource, ref: MessageRef, scan: LidarScan, entry: BagEntry, camera: int) -> LidarScan:
    """In the ego frame at a camera's image, where the motion since the scan is known."""
    T_world_scan = source.T_world_ego(ref.stamp_ns)
    if T_world_scan is None or entry.frame.T_world_ego is None:
        return scan
    T_now_scan = transforms.invert_matrix(entry.frame.T_world_ego[camera]) @ T_world_scan
    rotation, translation = T_now_scan[:3, :3], T_now_scan[:3, 3]
    return LidarScan(scan.points @ rotation.T + translation, rotation @ scan.place + translation)


def _read_points(source: BagSource, ref: MessageRef) -> Float[np.ndarray, "P 3"]:
    try:
        cloud = decode_cloud(open_reader(source.index.path).read([ref])[0])
        points = np.stack([cloud[axis].astype(np.float64) for axis in ("x", "y", "z")], axis=1)
    except (KeyError, ValueError) as error:  # lidar only checks the calibration: a damaged scan shows nothing
        _log.warning("%s: %s at %d ns is no usable point cloud: %s", source.index.path, ref.topic, ref.stamp_ns, error)
        return np.zeros((0, 3))
    return points[np.isfinite(points).all(axis=1)]


def _cloud_frame(source: BagSource, topic: TopicIndex) -> str:
    if topic.frame_id:
        return topic.frame_id
    return str(open_reader(source.index.path).read([topic[0]])[0].header.frame_id)
