# SPDX-License-Identifier: Apache-2.0
"""Bags as robots record them, for tests: any topics, raw or compressed, faults where a test wants them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from gaussianocc_core.geometry import transforms

STORE = get_typestore(Stores.ROS2_HUMBLE)
START_NS = 1_700_000_000_123_456_789
_OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # axes of a camera that looks along ego x


def message(msgtype: str, **fields: Any) -> Any:
    return STORE.types[msgtype](**fields)


def header(stamp_ns: int, frame_id: str) -> Any:
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    return message(
        "std_msgs/msg/Header", stamp=message("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec), frame_id=frame_id
    )


def picture(seed: int, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 RGB, smooth enough that JPEG keeps it, and another one for each seed."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, size, interpolation=cv2.INTER_LINEAR)


def compressed(stamp_ns: int, frame_id: str, image: np.ndarray, ending: str = ".jpg") -> Any:
    data = cv2.imencode(ending, image[..., ::-1])[1]
    kind = "png" if ending == ".png" else "jpeg"
    return message("sensor_msgs/msg/CompressedImage", header=header(stamp_ns, frame_id), format=kind, data=data)


def raw(stamp_ns: int, frame_id: str, image: np.ndarray, encoding: str) -> Any:
    """encoding: rgb8, bgr8, mono8, 16UC1 or 32FC1; rows are padded, as drivers pad them."""
    pixels = image[..., ::-1] if encoding == "bgr8" else image
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, 5)))
    return message(
        "sensor_msgs/msg/Image",
        header=header(stamp_ns, frame_id),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=rows.shape[1],
        data=rows.ravel(),
    )


def camera_info(
    stamp_ns: int,
    frame_id: str,
    size: tuple[int, int],
    focal: float,
    model: str = "plumb_bob",
    distortion: tuple[float, ...] = (0.0,) * 5,
) -> Any:
    """Of a lens over the middle of its image; counted from the centre of the first pixel."""
    K = np.array([[focal, 0, (size[0] - 1) / 2], [0, focal, (size[1] - 1) / 2], [0, 0, 1.0]])
    region = message("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return message(
        "sensor_msgs/msg/CameraInfo",
        header=header(stamp_ns, frame_id),
        height=size[1],
        width=size[0],
        distortion_model=model,
        d=np.array(distortion, dtype=np.float64),
        k=K.ravel(),
        r=np.eye(3).ravel(),
        p=np.hstack([K, np.zeros((3, 1))]).ravel(),
        binning_x=0,
        binning_y=0,
        roi=region,
    )


def transform(stamp_ns: int, parent: str, child: str, T: np.ndarray) -> Any:
    w, i, j, k = transforms.matrix_to_quat(T[:3, :3]).tolist()
    x, y, z = T[:3, 3].tolist()
    return message(
        "geometry_msgs/msg/TransformStamped",
        header=header(stamp_ns, parent),
        child_frame_id=child,
        transform=message(
            "geometry_msgs/msg/Transform",
            translation=message("geometry_msgs/msg/Vector3", x=x, y=y, z=z),
            rotation=message("geometry_msgs/msg/Quaternion", x=i, y=j, z=k, w=w),
        ),
    )


def tf(*items: Any) -> Any:
    return message("tf2_msgs/msg/TFMessage", transforms=list(items))


def odometry(stamp_ns: int, T: np.ndarray) -> Any:
    w, i, j, k = transforms.matrix_to_quat(T[:3, :3]).tolist()
    x, y, z = T[:3, 3].tolist()
    zero = message("geometry_msgs/msg/Vector3", x=0.0, y=0.0, z=0.0)
    pose = message(
        "geometry_msgs/msg/Pose",
        position=message("geometry_msgs/msg/Point", x=x, y=y, z=z),
        orientation=message("geometry_msgs/msg/Quaternion", x=i, y=j, z=k, w=w),
    )
    return message(
        "nav_msgs/msg/Odometry",
        header=header(stamp_ns, "odom"),
        child_frame_id="base_link",
        pose=message("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=np.zeros(36)),
        twist=message(
            "geometry_msgs/msg/TwistWithCovariance",
            twist=message("geometry_msgs/msg/Twist", linear=zero, angular=zero),
            covariance=np.zeros(36),
        ),
    )


def looking(yaw_deg: float, place: tuple[float, float, float]) -> np.ndarray:
    """T_ego_cam of a camera that looks to the side by so much, in metres."""
    c, s = np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return transforms.make_transform(turn @ _OPTICAL, np.array(place))


@dataclass
class RobotBag:
    """Cameras at 10 Hz on a robot that drives straight at 1 m/s; messages can be changed before `write`."""

    cameras: dict[str, float] = field(default_factory=lambda: {"front": 0.0, "left": 50.0})  # name -> yaw, degrees
    frames: int = 5
    size: tuple[int, int] = (64, 48)
    focal: float = 40.0
    period_ns: int = 100_000_000
    stagger_ns: int = 7_000_000  # between one camera and the next
    delay_ns: int = 20_000_000  # from stamp to log time
    encoding: str = ".jpg"  # or .png, rgb8, bgr8
    model: str = "plumb_bob"
    distortion: tuple[float, ...] = (0.0,) * 5
    odometry: str = "/tf"  # topic, or "" for none
    messages: list[tuple[str, int, Any]] = field(default_factory=list)  # topic, log time, message

    def __post_init__(self) -> None:
        self.T_ego_cam = {
            name: looking(yaw, (0.3 * np.cos(np.radians(yaw)), 0.3 * np.sin(np.radians(yaw)), 0.5))
            for name, yaw in self.cameras.items()
        }
        static = [transform(START_NS, "base_link", f"{n}_optical", T) for n, T in self.T_ego_cam.items()]
        self.add("/tf_static", START_NS, tf(*static))
        for n in range(-1, 10 * self.frames):
            self._add_pose(START_NS + n * self.period_ns // 10)
        for n in range(self.frames):
            for i, name in enumerate(self.cameras):
                self.add_image(name, self.stamp(n, i), self.picture(n, i))

    def stamp(self, frame: int, camera: int) -> int:
        return START_NS + frame * self.period_ns + camera * self.stagger_ns

    def picture(self, frame: int, camera: int) -> np.ndarray:
        return picture(1000 * camera + frame, self.size)

    def T_odom_ego(self, stamp_ns: int) -> np.ndarray:
        return transforms.make_transform(np.eye(3), np.array([(stamp_ns - START_NS) * 1e-9, 0.0, 0.0]))

    def add(self, topic: str, stamp_ns: int, content: Any) -> None:
        self.messages.append((topic, stamp_ns + self.delay_ns, content))

    def add_image(self, name: str, stamp_ns: int, image: np.ndarray) -> None:
        frame_id = f"{name}_optical"
        if self.encoding.startswith("."):
            self.add(f"/{name}/image_raw/compressed", stamp_ns, compressed(stamp_ns, frame_id, image, self.encoding))
        else:
            self.add(f"/{name}/image_raw", stamp_ns, raw(stamp_ns, frame_id, image, self.encoding))
        info = camera_info(stamp_ns, frame_id, self.size, self.focal, self.model, self.distortion)
        self.add(f"/{name}/camera_info", stamp_ns, info)

    def _add_pose(self, stamp_ns: int) -> None:
        T = self.T_odom_ego(stamp_ns)
        if self.odometry == "/tf":
            self.add("/tf", stamp_ns, tf(transform(stamp_ns, "odom", "base_link", T)))
        elif self.odometry:
            self.add(self.odometry, stamp_ns, odometry(stamp_ns, T))

    def write(self, path: Path, storage: str = "mcap") -> Path:
        plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
        with Writer(path, version=8, storage_plugin=plugin) as writer:
            connections: dict[str, Any] = {}
            for topic, log_ns, content in sorted(self.messages, key=lambda item: item[1]):
                kind = content.__msgtype__
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
                writer.write(connections[topic], log_ns, STORE.serialize_cdr(content, kind))
        return path
