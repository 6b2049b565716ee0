# SPDX-License-Identifier: Apache-2.0
"""The one compatibility file: cv_bridge, sensor_msgs_py and tf2_ros where ROS provides them, stand-ins where not.

ROS 2 from wheels has none of the three. Each public function does the same with and without; the tests compare both
ways where both are present.
"""

from __future__ import annotations

import bisect
import os
import sys
import threading
import time
from array import array
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import cv2
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

from gaussianocc_core.errors import GaussianOccError
from gaussianocc_core.geometry.transforms import interpolate, invert_matrix

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


# ---- images: cv_bridge ---------------------------------------------------------------------------------------------

# Encoding -> bytes per channel, channels, OpenCV conversion to RGB. OpenCV names a Bayer pattern after the second row's
# second and third pixel, ROS after the first row's first two, hence the crossed letters.
_ENCODINGS: dict[str, tuple[int, int, int | None]] = {
    "rgb8": (1, 3, None),
    "bgr8": (1, 3, cv2.COLOR_BGR2RGB),
    "rgba8": (1, 4, cv2.COLOR_RGBA2RGB),
    "bgra8": (1, 4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, 1, cv2.COLOR_GRAY2RGB),
    "rgb16": (2, 3, None),
    "bgr16": (2, 3, cv2.COLOR_BGR2RGB),
    "mono16": (2, 1, cv2.COLOR_GRAY2RGB),
    "bayer_rggb8": (1, 1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, 1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, 1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, 1, cv2.COLOR_BayerGB2RGB),
    "yuv422": (1, 2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (1, 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (1, 2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (1, 2, cv2.COLOR_YUV2RGB_YUY2),
}


def image_to_rgb(message: Any) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a sensor_msgs/Image; ValueError says what does not fit. 16 bits keep the upper 8."""
    if CvBridge is not None:
        return _rgb_with_cv_bridge(message)
    return _rgb_with_numpy(message)


def _rgb_with_cv_bridge(message: Any) -> np.ndarray:
    try:
        return CvBridge().imgmsg_to_cv2(message, desired_encoding="rgb8")
    except Exception as error:  # CvBridgeError, cv2.error, TypeError: cv_bridge promises none in particular
        raise ValueError(f"cv_bridge cannot decode encoding {message.encoding!r}: {error}") from error


def _rgb_with_numpy(message: Any) -> np.ndarray:
    if message.encoding not in _ENCODINGS:
        raise ValueError(f"encoding {message.encoding!r} is not supported; known are {', '.join(_ENCODINGS)}")
    depth, channels, code = _ENCODINGS[message.encoding]
    height, width, step = message.height, message.width, message.step
    row = width * channels * depth
    data = np.frombuffer(message.data, dtype=np.uint8)
    if width < 1 or height < 1 or step < row or data.size < step * height:
        raise ValueError(
            f"{width}x{height} {message.encoding} needs step >= {row} and step x height bytes, "
            f"got step {step} and {data.size} bytes"
        )
    rows = data[: step * height].reshape(height, step)[:, :row]
    if depth == 2:
        high = 0 if message.is_bigendian else 1
        rows = rows[:, high::2]
    pixels = np.ascontiguousarray(rows).reshape(height, width, channels)
    return pixels if code is None else cv2.cvtColor(pixels, code)


# ---- point clouds: sensor_msgs_py ----------------------------------------------------------------------------------

_DATATYPES = {
    np.dtype(np.int8): PointField.INT8,
    np.dtype(np.uint8): PointField.UINT8,
    np.dtype(np.int16): PointField.INT16,
    np.dtype(np.uint16): PointField.UINT16,
    np.dtype(np.int32): PointField.INT32,
    np.dtype(np.uint32): PointField.UINT32,
    np.dtype(np.float32): PointField.FLOAT32,
    np.dtype(np.float64): PointField.FLOAT64,
}


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


def read_cloud(cloud: Any) -> np.ndarray:
    """Structured array of a cloud's fields (each of count 1), whatever padding lies between them."""
    if point_cloud2 is not None and isinstance(cloud, PointCloud2):
        return point_cloud2.read_points(cloud)
    return _read_with_numpy(cloud)


def _read_with_numpy(cloud: Any) -> np.ndarray:
    dtypes = {datatype: dtype for dtype, datatype in _DATATYPES.items()}
    order = ">" if cloud.is_bigendian else "<"
    layout = np.dtype(
        {
            "names": [field.name for field in cloud.fields],
            "formats": [dtypes[field.datatype].newbyteorder(order) for field in cloud.fields],
            "offsets": [field.offset for field in cloud.fields],
            "itemsize": cloud.point_step,
        }
    )
    return np.frombuffer(cloud.data, dtype=layout, count=cloud.width * cloud.height)


# ---- transforms: tf2_ros -------------------------------------------------------------------------------------------


class TransformUnavailable(GaussianOccError):
    """TF does not connect two frames, or not at that time. The message names the frames and what is known."""


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


class TransformTree:
    """Stand-in for tf2's buffer: frames in a tree, poses interpolated in time, safe to use from several threads."""

    def __init__(self, keep_ns: int = 10_000_000_000) -> None:
        self._keep_ns = keep_ns
        self._lock = threading.Lock()
        self._parent: dict[str, str] = {}
        self._static: dict[str, np.ndarray] = {}  # child -> T_parent_child
        self._moving: dict[str, tuple[list[int], list[np.ndarray]]] = {}  # child -> stamps (sorted), T_parent_child

    def add(self, parent: str, child: str, stamp_ns: int, T_parent_child: np.ndarray, static: bool) -> None:
        parent, child = parent.lstrip("/"), child.lstrip("/")
        with self._lock:
            if self._parent.get(child) != parent or static:
                self._moving.pop(child, None)
            self._parent[child] = parent
            if static:
                self._static[child] = T_parent_child
                return
            self._static.pop(child, None)
            stamps, poses = self._moving.setdefault(child, ([], []))
            if stamps and stamp_ns < stamps[-1] - self._keep_ns:  # time went back: a recording that loops
                stamps.clear()
                poses.clear()
            place = bisect.bisect_left(stamps, stamp_ns)
            if place < len(stamps) and stamps[place] == stamp_ns:
                poses[place] = T_parent_child
            else:
                stamps.insert(place, stamp_ns)
                poses.insert(place, T_parent_child)
            expired = bisect.bisect_left(stamps, stamps[-1] - self._keep_ns)
            del stamps[:expired], poses[:expired]

    def knows(self, frame: str) -> bool:
        frame = frame.lstrip("/")
        with self._lock:
            return frame in self._parent or frame in self._parent.values()

    def lookup(self, target: str, source: str, stamp_ns: int | None = None) -> np.ndarray:
        target, source = target.lstrip("/"), source.lstrip("/")  # as `add` stores them
        with self._lock:
            up_target, up_source = self._ancestors(target), self._ancestors(source)
            common = next((frame for frame in up_source if frame in up_target), None)
            if common is None:
                known = ", ".join(sorted({*self._parent, *self._parent.values()})) or "no frames at all"
                raise TransformUnavailable(f"TF does not connect {target} and {source}; it knows {known}")
            T_common_target = self._to_ancestor(target, common, stamp_ns)
            return invert_matrix(T_common_target) @ self._to_ancestor(source, common, stamp_ns)

    def _ancestors(self, frame: str) -> list[str]:
        chain = [frame]
        while (parent := self._parent.get(chain[-1])) is not None:
            if parent in chain:
                raise TransformUnavailable(f"TF has a loop: {' <- '.join([parent, *reversed(chain)])}")
            chain.append(parent)
        return chain

    def _to_ancestor(self, frame: str, ancestor: str, stamp_ns: int | None) -> np.ndarray:
        T_ancestor_frame = np.eye(4)
        while frame != ancestor:
            T_ancestor_frame = self._edge(frame, stamp_ns) @ T_ancestor_frame
            frame = self._parent[frame]
        return T_ancestor_frame

    def _edge(self, child: str, stamp_ns: int | None) -> np.ndarray:
        if child in self._static:
            return self._static[child]
        stamps, poses = self._moving[child]
        if stamp_ns is None:
            return poses[-1]
        place = bisect.bisect_left(stamps, stamp_ns)
        if place < len(stamps) and stamps[place] == stamp_ns:
            return poses[place]
        if place in (0, len(stamps)):
            side, bound = ("before the first", stamps[0]) if place == 0 else ("after the last", stamps[-1])
            raise TransformUnavailable(
                f"TF {self._parent[child]} <- {child}: {stamp_ns * 1e-9:.3f} s lies "
                f"{abs(stamp_ns - bound) * 1e-6:.1f} ms {side} of {len(stamps)} known poses"
            )
        before, after = stamps[place - 1], stamps[place]
        return interpolate(poses[place - 1], poses[place], (stamp_ns - before) / (after - before))


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
            except GaussianOccError as error:
                self._node.get_logger().warning(
                    f"ignored TF {item.header.frame_id} <- {item.child_frame_id}: {error}", throttle_duration_sec=10.0
                )
                continue
            stamp = item.header.stamp
            stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
            self.add(item.header.frame_id, item.child_frame_id, stamp_ns, T_parent_child, static)

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
