# SPDX-License-Identifier: Apache-2.0
"""The one compatibility file: cv_bridge, sensor_msgs_py and tf2_ros where ROS provides them, stand-ins where not.

ROS 2 from wheels has none of the three. Each public function does the same with and without; the tests compare both
ways where both are present.
"""

from __future__ import annotations

import os
import sys
import time
from array import array
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np
from geometry_msgs.msg import Transform
from rclpy.clock import JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from gaussianocc_core.bags.image_codec import MAX_IMAGE_PIXELS
from gaussianocc_core.bags.messages import POINT_DATATYPES, ImageError, check_size, decode_reduced
from gaussianocc_core.errors import GaussianOccError
from gaussianocc_core.geometry.transform_tree import TransformTree, TransformUnavailable
from gaussianocc_core.names import shorten

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks
try:
    # The cv_bridge of these is built against the numpy 1 of their Ubuntu and aborts the process under numpy 2.
    numpy_1 = os.environ.get("ROS_DISTRO", "") in ("humble", "iron", "jazzy", "kilted")
    if numpy_1 and int(np.__version__.split(".")[0]) >= 2:
        raise ImportError("cv_bridge needs numpy < 2 here")
    from cv_bridge import CvBridge
except ImportError:
    CvBridge = None
try:
    from sensor_msgs_py import point_cloud2
except ImportError:
    point_cloud2 = None
try:
    import tf2_ros
except ImportError:
    tf2_ros = None


def subscription_events(says_mismatch: bool) -> Any:
    """What a subscription does on events; says_mismatch: log publishers whose quality of service does not fit."""
    return SubscriptionEventCallbacks(use_default_callbacks=says_mismatch)


# ---- images: cv_bridge ---------------------------------------------------------------------------------------------


def decode_image(message: Any, max_pixels: int = MAX_IMAGE_PIXELS, reduce: int = 1) -> tuple[np.ndarray, int]:
    """(h, w, 3) uint8 RGB of a sensor_msgs/Image, by cv_bridge where it is, or CompressedImage (JPEG, PNG).

    And how many native pixels a side became one: `reduce` (1, 2, 4 or 8) if that makes it cheaper, else 1. ImageError
    says what is wrong with it. Of 16 bits the upper 8 are kept. The pixels may be those of the message, not a copy.
    """
    if CvBridge is None or not hasattr(message, "encoding"):
        return decode_reduced(message, reduce, max_pixels)
    return _decode_with_cv_bridge(message, max_pixels), 1


def _decode_with_cv_bridge(message: Any, max_pixels: int) -> np.ndarray:
    try:
        check_size(message, max_pixels)
        return CvBridge().imgmsg_to_cv2(message, desired_encoding="rgb8")
    except Exception as error:  # CvBridgeError, cv2.error, TypeError: cv_bridge promises none in particular
        raise ImageError(f"image of encoding {message.encoding!r} cannot be decoded: {error}") from error


# ---- point clouds: sensor_msgs_py ----------------------------------------------------------------------------------

_DATATYPES = {dtype: number for number, dtype in POINT_DATATYPES.items()}


def create_cloud(header: Header, points: np.ndarray) -> PointCloud2:
    """An unorganised cloud of a structured array: one field per named column, all points finite."""
    fields = [
        PointField(name=name, offset=offset, datatype=_DATATYPES[dtype], count=1)
        for name, (dtype, offset) in points.dtype.fields.items()
    ]
    build = _cloud_with_numpy if point_cloud2 is None else point_cloud2.create_cloud
    cloud = build(header, fields, points)
    cloud.is_dense = True  # sensor_msgs_py cannot know
    return cloud


def _cloud_with_numpy(header: Header, fields: list[PointField], points: np.ndarray) -> PointCloud2:
    cloud = PointCloud2(
        header=header,
        height=1,
        width=len(points),
        fields=fields,
        is_bigendian=sys.byteorder == "big",
        point_step=points.dtype.itemsize,
        row_step=points.dtype.itemsize * len(points),
    )
    cloud.data = array("B", points.tobytes())
    return cloud


# ---- transforms: tf2_ros -------------------------------------------------------------------------------------------


class TransformSource(Protocol):
    """What the rig needs of TF. `stamp_ns` None means the latest."""

    def lookup(self, target: str, source: str, stamp_ns: int | None = None) -> np.ndarray:
        """T_target_source, or TransformUnavailable."""

    def knows(self, frame: str) -> bool:
        """True once TF has mentioned the frame."""

    def close(self) -> None:
        """Stop listening."""


DecodeTransform = Callable[[Transform], np.ndarray]  # -> 4x4; conversions.py owns the order x y z w


def listen_to_transforms(node: Node, decode: DecodeTransform) -> TransformSource:
    """The TF of /tf and /tf_static, by tf2_ros where there is one."""
    return _TransformTopics(node, decode) if tf2_ros is None else _Tf2Transforms(node, decode)


class _Tf2Transforms:
    def __init__(self, node: Node, decode: DecodeTransform) -> None:
        self._decode = decode
        self._buffer = tf2_ros.Buffer()  # without the node, for which it makes a service that it never destroys
        self._listener = tf2_ros.TransformListener(self._buffer, node)
        # Here, because without the node it does not notice that /clock went back (a recording that loops), and Humble's
        # never does. Static transforms survive clear().
        back = JumpThreshold(min_forward=None, min_backward=Duration(seconds=-1), on_clock_change=True)
        self._jumps = node.get_clock().create_jump_callback(back, post_callback=self._forget)

    def _forget(self, jump: TimeJump) -> None:
        self._buffer.clear()

    def lookup(self, target: str, source: str, stamp_ns: int | None = None) -> np.ndarray:
        target, source = target.lstrip("/"), source.lstrip("/")  # as it stores them; it refuses to look for others
        try:
            found = self._buffer.lookup_transform(target, source, Time(nanoseconds=stamp_ns or 0))
        except tf2_ros.TransformException as error:
            raise TransformUnavailable(f"TF {target} <- {source}: {error}") from None
        return self._decode(found.transform)

    def knows(self, frame: str) -> bool:
        return self._buffer._frameExists(frame.lstrip("/"))

    def close(self) -> None:
        self._jumps.unregister()
        self._listener.unregister()


class _TransformTopics(TransformTree):
    """A TransformTree that listens to /tf and /tf_static, with the QoS that tf2_ros uses."""

    def __init__(self, node: Node, decode: DecodeTransform) -> None:
        super().__init__()
        self._node, self._decode = node, decode
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._subscriptions = [
            node.create_subscription(TFMessage, "/tf", partial(self._add, static=False), QoSProfile(depth=100)),
            node.create_subscription(TFMessage, "/tf_static", partial(self._add, static=True), latched),
        ]

    def _add(self, message: TFMessage, *, static: bool) -> None:
        for item in message.transforms:
            try:
                T_parent_child = self._decode(item.transform)
                stamp = item.header.stamp
                stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
                self.add(item.header.frame_id, item.child_frame_id, stamp_ns, T_parent_child, static)
            except GaussianOccError as error:
                frames = f"{shorten(item.header.frame_id)} <- {shorten(item.child_frame_id)}"
                self._node.get_logger().warning(f"ignored TF {frames}: {error}", throttle_duration_sec=10.0)

    def close(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)


def wait_for_transform(
    transforms: TransformSource, target: str, source: str, stamp_ns: int | None, timeout: float
) -> np.ndarray:
    """T_target_source, waiting up to `timeout` wall-clock seconds for TF to deliver it.

    tf2_ros waits in ROS time, which never passes while a paused replay holds /clock.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            return transforms.lookup(target, source, stamp_ns)
        except TransformUnavailable:
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.002)
