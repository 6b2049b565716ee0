# SPDX-License-Identifier: Apache-2.0
"""The robot's motion: where a set has it from, and ~/odometry, which the images say."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from geometry_msgs.msg import (
    Point,
    Pose,
    PoseWithCovariance,
    Transform,
    TransformStamped,
    Twist,
    TwistWithCovariance,
    Vector3,
)
from nav_msgs.msg import Odometry as OdometryMessage
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from gaussianocc_core.models.ego_motion import Odometry, VisualOdometry
from gaussianocc_core.predictor import OccupancyPredictor
from gaussianocc_ros import conversions
from gaussianocc_ros.gather import Gathered
from gaussianocc_ros.parameters import NodeParameters
from gaussianocc_ros.stamps import time_message

_DEPTH = 10
_OWN_FRAME = "camera_odom"  # where TF has the fixed frame from somebody else
TF, IMAGES, NONE = "tf", "images", "none"


@dataclass(frozen=True)
class SetMotion:
    """Where one set has its motion from."""

    source: str  # TF, IMAGES or NONE
    T_world_ego: np.ndarray | None  # (4, 4), m, of TF
    odometry: VisualOdometry | None  # to be moved on, because the motion or ~/odometry needs it
    problem: str = ""  # why there is none, or not where it should come from


class Motion:
    """For the inference thread."""

    def __init__(
        self,
        node: LifecycleNode,
        parameters: NodeParameters,
        predictor: OccupancyPredictor,
        tf_has: Callable[[str], bool],
    ) -> None:
        """tf_has: whether TF has mentioned a frame."""
        self._parameters, self._tf_has = parameters, tf_has
        self._matches = predictor.matches
        self._odometry = VisualOdometry() if predictor.sees_depth else None
        self._followed = False  # the last set moved the odometry on
        offered = self._odometry is not None and parameters.publish_odometry
        broadcast = self._odometry is not None and parameters.publish_odometry_tf
        self._node = node
        make = node.create_lifecycle_publisher
        self._publisher = make(OdometryMessage, "~/odometry", QoSProfile(depth=_DEPTH)) if offered else None
        self._broadcaster = make(TFMessage, "/tf", QoSProfile(depth=100)) if broadcast else None

    def close(self) -> None:
        for publisher in self.publishers:
            self._node.destroy_lifecycle_publisher(publisher)
        self._publisher = self._broadcaster = None

    def reset(self) -> None:
        """The robot may have been carried elsewhere, or another recording has begun."""
        if self._odometry is not None:
            self._odometry.reset()

    def of(self, gathered: Gathered) -> SetMotion:
        """What the predictor is to be given for a set."""
        source, T_world_ego, problem = NONE, None, ""
        if self._matches:
            source, T_world_ego, problem = self._choose(gathered)
        wanted = source == IMAGES or self._is_published
        if wanted and not self._followed:
            self.reset()  # what it remembers is of long ago
        self._followed = wanted
        return SetMotion(source, T_world_ego, self._odometry if wanted else None, problem)

    @property
    def _is_published(self) -> bool:
        heard = self._publisher is not None and self._publisher.get_subscription_count() > 0
        return heard or self._broadcaster is not None

    def _choose(self, gathered: Gathered) -> tuple[str, np.ndarray | None, str]:
        parameters = self._parameters
        if parameters.motion == NONE:
            return NONE, None, ""
        if parameters.motion != IMAGES and not parameters.publish_odometry_tf:
            if gathered.T_fixed_ego is not None:
                return TF, gathered.T_fixed_ego, ""
            if gathered.motion_problem:  # TF has the frame, and is late: another frame's poses would not fit the last
                return NONE, None, gathered.motion_problem
            if parameters.motion == TF:
                fixed, ego = parameters.fixed_frame, parameters.ego_frame
                return NONE, None, f"TF has no {fixed} <- {ego}" if fixed else "fixed_frame is empty"
        if self._odometry is None:
            return NONE, None, "the model says no depth, so that its images tell no motion"
        return IMAGES, None, ""

    # ---- ~/odometry ------------------------------------------------------------------------------------------------

    @property
    def frame(self) -> str:
        """Of ~/odometry. A frame that somebody else moves the robot in is not ours to say something about."""
        parameters = self._parameters
        if parameters.odometry_frame:
            return parameters.odometry_frame
        taken = not parameters.fixed_frame or self._tf_has(parameters.fixed_frame)
        own = f"{parameters.frame_prefix}{_OWN_FRAME}"
        return own if taken and not parameters.publish_odometry_tf else parameters.fixed_frame

    @property
    def publishers(self) -> list[Any]:
        return [publisher for publisher in (self._publisher, self._broadcaster) if publisher is not None]

    def publish(self, moved: Odometry | None, stamp_ns: int) -> None:
        """Nothing for a set of which the motion is not known."""
        if moved is None or moved.lost:
            return
        frame, ego = self.frame, self._parameters.ego_frame
        if self._broadcaster is not None:
            self._broadcaster.publish(TFMessage(transforms=[encode_motion(moved, stamp_ns, frame, ego)]))
        if self._publisher is not None and self._publisher.get_subscription_count():
            self._publisher.publish(encode_odometry(moved, stamp_ns, frame, ego))


def encode_motion(moved: Odometry, stamp_ns: int, frame: str, ego_frame: str) -> TransformStamped:
    """frame <- ego_frame."""
    return TransformStamped(
        header=Header(stamp=time_message(stamp_ns), frame_id=frame),
        child_frame_id=ego_frame,
        transform=conversions.encode_transform(moved.T_odom_ego),
    )


def encode_odometry(moved: Odometry, stamp_ns: int, frame: str, ego_frame: str) -> OdometryMessage:
    """The pose in `frame` and the velocity in ego_frame, each with its covariance; stamped with the image's time."""
    place: Transform = conversions.encode_transform(moved.T_odom_ego)
    x, y, z = place.translation.x, place.translation.y, place.translation.z
    vx, vy, vz, wx, wy, wz = (float(value) for value in moved.velocity)
    return OdometryMessage(
        header=Header(stamp=time_message(stamp_ns), frame_id=frame),
        child_frame_id=ego_frame,
        pose=PoseWithCovariance(
            pose=Pose(position=Point(x=x, y=y, z=z), orientation=place.rotation),
            covariance=array("d", moved.covariance.ravel()),
        ),
        twist=TwistWithCovariance(
            twist=Twist(linear=Vector3(x=vx, y=vy, z=vz), angular=Vector3(x=wx, y=wy, z=wz)),
            covariance=array("d", moved.velocity_covariance.ravel()),
        ),
    )
