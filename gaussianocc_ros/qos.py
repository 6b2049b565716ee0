# SPDX-License-Identifier: Apache-2.0
"""Quality of service of what the node subscribes to from cameras."""

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy


def camera_qos(queue_size: int, reliable: bool) -> QoSProfile:
    """Of a camera's images and CameraInfo; queue_size: messages that DDS keeps.

    Best effort takes images of every publisher, and loses some where the network does. Reliable ones are for replay and
    for bad links, and get nothing from a publisher that is not.
    """
    reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    return QoSProfile(depth=queue_size, reliability=reliability)


def latched_qos() -> QoSProfile:
    """Of what is published once, maybe before the subscriber was there. Publishers that do not keep it do not match."""
    return QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
