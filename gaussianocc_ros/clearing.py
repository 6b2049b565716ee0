# SPDX-License-Identifier: Apache-2.0
"""~/<camera>/clearing: how far each camera's rays passed, for the raytrace clearing of costmaps."""

from __future__ import annotations

from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header

from gaussianocc_core.geometry.transforms import invert_matrix
from gaussianocc_core.navigation.clearing import passed_rays
from gaussianocc_core.navigation.traversability import Traversability
from gaussianocc_core.types import OccupancyPrediction
from gaussianocc_ros import ros_compat
from gaussianocc_ros.gather import Gathered
from gaussianocc_ros.parameters import topic_token
from gaussianocc_ros.stamps import time_message

_DEPTH = 2  # messages that DDS keeps
_GOLDEN = 0.618034  # shares of an interval that never come close to earlier ones
_POINT = np.dtype([(axis, np.float32) for axis in "xyz"])


class ClearingOutputs:
    """A lifecycle publisher per camera. Each cloud has its own camera's frame and its own image's stamp: a costmap
    draws its rays from the origin of the cloud's frame, and so where the camera's own rays were."""

    def __init__(self, node: LifecycleNode, cameras: tuple[str, ...], ego_frame: str) -> None:
        self._node, self._ego_frame = node, ego_frame
        self._phase = 0.0  # another one for each set: what rays pass by, those of the next sets meet
        self._publishers = {
            camera: node.create_lifecycle_publisher(
                PointCloud2, f"~/{topic_token(camera)}/clearing", QoSProfile(depth=_DEPTH)
            )
            for camera in cameras
        }

    def publish(self, gathered: Gathered, prediction: OccupancyPrediction, rule: Traversability) -> None:
        """For cameras that somebody subscribes to. prediction: of this set alone, because what an earlier one saw to be
        free has not been looked at by it. A camera without rays gets an empty cloud, else a costmap would go on
        clearing with the last one."""
        names = gathered.cameras.names
        self._phase = (self._phase + _GOLDEN) % 1.0
        for camera, publisher in self._publishers.items():
            if not publisher.get_subscription_count():
                continue
            if camera in names:
                index = names.index(camera)
                ends = passed_rays(prediction, gathered.cameras, index, rule, self._phase)
                T_cam_ego = invert_matrix(gathered.cameras.T_ego_cam[index].double().cpu().numpy())
                message = encode_ends(ends, T_cam_ego, gathered.stamps_ns[camera], gathered.frames[camera])
            else:
                message = encode_ends(np.empty((0, 3)), np.eye(4), gathered.stamp_ns, self._ego_frame)
            publisher.publish(message)

    @property
    def publishers(self) -> list[Any]:
        return list(self._publishers.values())

    def close(self) -> None:
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = {}


def encode_ends(ends: np.ndarray, T_cam_ego: np.ndarray, stamp: int, frame_id: str) -> PointCloud2:
    """ends: (P, 3), ego frame, m; stamp in nanoseconds."""
    points = np.empty(len(ends), _POINT)
    for i, axis in enumerate("xyz"):
        points[axis] = ends @ T_cam_ego[i, :3] + T_cam_ego[i, 3]
    return ros_compat.create_cloud(Header(stamp=time_message(stamp), frame_id=frame_id), points)
