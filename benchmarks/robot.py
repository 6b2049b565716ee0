# SPDX-License-Identifier: Apache-2.0
"""A robot's cameras over DDS and the occupancy node in a process of its own, for benchmarks/node.py."""

from __future__ import annotations

import heapq
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage
from tf2_msgs.msg import TFMessage

from gaussianocc_core.geometry.cameras import resize
from gaussianocc_core.geometry.pixel_centers import to_opencv
from gaussianocc_core.geometry.rig_file import load_rig
from gaussianocc_core.geometry.transforms import make_transform
from gaussianocc_core.types import Cameras
from gaussianocc_ros.isolation import isolated_graph
from gaussianocc_ros.msg import SemanticOccupancy
from gaussianocc_ros.stamps import cdr_stamp_ns, time_message

ROOT = Path(__file__).resolve().parents[1]
NODE = "/occupancy_node"
_POSE_PERIOD = 0.02  # s
_LEVELS = {b"\0": "OK", b"\1": "WARN", b"\2": "ERROR"}


def camera_rig(width: int = 1600, height: int = 900, count: int = 6) -> Cameras:
    """Six cameras of a car; more look where the first ones do, by other names."""
    rig = resize(load_rig(ROOT / "config" / "rig" / "nuscenes.yaml"), width, height)
    which = [i % len(rig) for i in range(count)]
    names = tuple(rig.names[k] if i < len(rig) else f"{rig.names[k]}_2" for i, k in enumerate(which))
    return Cameras(
        names,
        rig.intrinsics[which],
        rig.T_ego_cam[which],
        tuple(rig.width[k] for k in which),
        tuple(rig.height[k] for k in which),
        tuple(rig.model[k] for k in which),
        tuple(rig.distortion[k] for k in which),
    )


def camera_jpegs(rig: Cameras, quality: int = 85) -> list[bytes]:
    """A picture per camera with structure at all scales, about as large as a street's of that size."""
    rng = np.random.default_rng(0)
    jpegs = []
    for width, height in zip(rig.width, rig.height, strict=True):
        picture = np.zeros((height, width, 3), np.float32)
        for cell, strength in ((200, 60), (50, 40), (12, 20), (3, 9)):
            coarse = rng.normal(0, strength, (height // cell + 2, width // cell + 2, 3)).astype(np.float32)
            picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        pixels = np.clip(picture + 110, 0, 255).astype(np.uint8)
        jpegs.append(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())
    return jpegs


@dataclass
class Faults:
    """What is wrong at the moment; changed while the robot drives."""

    dead: set[str] = field(default_factory=set)  # cameras
    corrupt: set[str] = field(default_factory=set)
    half_rate: set[str] = field(default_factory=set)
    no_info: bool = False
    clock_ns: int = 0  # added to stamps


class Robot:
    """Publishes cameras, CameraInfo and odometry at their times, and listens to the node's results."""

    def __init__(self, rig: Cameras, jpegs: list[bytes], rate: float, stagger: float, jitter: float) -> None:
        """stagger: s from the first camera's trigger to the last's; jitter: s, of each trigger, either way."""
        self.rig, self.faults = rig, Faults()
        self.rate, self.stagger, self.jitter = rate, stagger, jitter
        self.sent: dict[str, list[int]] = defaultdict(list)  # camera -> stamps
        self.results: list[tuple[int, float]] = []  # stamp in ns, wall time of arrival in s
        self.frames: Counter[str] = Counter()  # of results
        self.said: Counter[tuple[str, str]] = Counter()  # (level, message) of /diagnostics
        self.values: dict[str, str] = {}  # of the last /diagnostics
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("robot", context=self._context)
        make = self._node.create_publisher
        quick = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        self._images = [make(CompressedImage, f"/{name}/image_raw/compressed", quick) for name in rig.names]
        self._infos = [make(CameraInfo, f"/{name}/camera_info", quick) for name in rig.names]
        self._motion = make(TFMessage, "/tf", QoSProfile(depth=100))
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._static = make(TFMessage, "/tf_static", latched)
        self._image_bytes = [self._serialized_image(i, data) for i, data in enumerate(jpegs)]
        self._bad_bytes = [self._serialized_image(i, data[: len(data) // 2]) for i, data in enumerate(jpegs)]
        self._info_bytes = [self._serialized_info(i) for i in range(len(rig))]
        self._node.create_subscription(SemanticOccupancy, f"{NODE}/occupancy", self._on_result, 10, raw=True)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._spinner = threading.Thread(target=self._executor.spin, daemon=True)
        self._spinner.start()
        self._random = random.Random(0)
        self._distance = 0.0

    # ---- what it sends ---------------------------------------------------------------------------------------------

    def place(self) -> None:
        """Where the cameras are, once and for all."""
        from gaussianocc_ros.conversions import encode_transform

        message = TFMessage()
        for name, T in zip(self.rig.names, self.rig.T_ego_cam.double().numpy(), strict=True):
            message.transforms.append(_stamped("base_link", name, encode_transform(T), 0))
        self._static.publish(message)

    def placed(self, seconds: float) -> None:
        """Drive, and from now on it is known where the cameras are."""
        self.place()
        self.drive(seconds)

    def drive(self, seconds: float) -> None:
        """Everything at its time, for so long."""
        begin, count = time.monotonic(), len(self.rig)
        due: list[tuple[float, int, int]] = [(begin, -1, 0)]  # time, camera (-1: odometry), how often
        due += [(begin + self.stagger * i / max(count - 1, 1), i, 0) for i in range(count)]
        heapq.heapify(due)
        while due[0][0] < begin + seconds:
            moment, camera, turn = heapq.heappop(due)
            shaken = moment + self._random.uniform(-self.jitter, self.jitter) * (camera >= 0)
            time.sleep(max(0.0, shaken - time.monotonic()))
            if camera < 0:
                self._send_pose()
                heapq.heappush(due, (moment + _POSE_PERIOD, -1, turn + 1))
            else:
                self._send_image(camera, turn)
                heapq.heappush(due, (moment + 1.0 / self.rate, camera, turn + 1))

    def _send_image(self, camera: int, turn: int) -> None:
        name, faults = self.rig.names[camera], self.faults
        if name in faults.dead or (name in faults.half_rate and turn % 2):
            return
        now = time.time_ns() + faults.clock_ns
        stamp = struct.pack("<iI", *divmod(now, 1_000_000_000))
        if not faults.no_info:
            info = self._info_bytes[camera]
            self._infos[camera].publish(b"".join((info[:4], stamp, info[12:])))
        data = self._bad_bytes[camera] if name in faults.corrupt else self._image_bytes[camera]
        self._images[camera].publish(b"".join((data[:4], stamp, data[12:])))
        self.sent[name].append(now)

    def _send_pose(self) -> None:
        from gaussianocc_ros.conversions import encode_transform

        self._distance += 5.0 * _POSE_PERIOD
        # A bit ahead, as filters extrapolate: images must not wait for it.
        now = time.time_ns() + self.faults.clock_ns + 20_000_000
        T = make_transform(np.eye(3), np.array([self._distance, 0.0, 0.0]))
        self._motion.publish(TFMessage(transforms=[_stamped("odom", "base_link", encode_transform(T), now)]))

    def _serialized_image(self, camera: int, data: bytes) -> bytes:
        message = CompressedImage(format="jpeg")
        message.header.frame_id = self.rig.names[camera]
        message.data.frombytes(data)
        return serialize_message(message)

    def _serialized_info(self, camera: int) -> bytes:
        K = to_opencv(self.rig.intrinsics[camera].double().numpy()).ravel().tolist()
        message = CameraInfo(width=self.rig.width[camera], height=self.rig.height[camera], k=K, d=[0.0] * 5)
        message.distortion_model = "plumb_bob"
        message.header.frame_id = self.rig.names[camera]
        return serialize_message(message)

    # ---- what comes back -------------------------------------------------------------------------------------------

    def _on_result(self, data: bytes) -> None:
        self.results.append((cdr_stamp_ns(data), time.time()))
        length = struct.unpack_from("<I", data, 12)[0]
        self.frames[data[16 : 16 + length - 1].decode()] += 1

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.endswith(": occupancy"):
                self.said[_LEVELS.get(status.level, "?"), status.message] += 1
                self.values = {item.key: item.value for item in status.values}

    def flooded(self, seconds: float, subscribers: int = 20) -> None:
        """Drive with so many more subscribers of every output, in this process."""
        from sensor_msgs.msg import PointCloud2
        from visualization_msgs.msg import MarkerArray

        kinds = ((SemanticOccupancy, "occupancy"), (PointCloud2, "points"), (MarkerArray, "markers"))
        subscriptions = [
            self._node.create_subscription(kind, f"{NODE}/{topic}", lambda data: None, 10, raw=True)
            for kind, topic in kinds
            for _ in range(subscribers)
        ]
        self.drive(seconds)
        for subscription in subscriptions:
            self._node.destroy_subscription(subscription)

    def unknown_stamps(self) -> int:
        """Results whose stamp no camera's image had."""
        known = {stamp for stamps in self.sent.values() for stamp in stamps}
        return sum(stamp not in known for stamp, _ in self.results)

    def ages(self, since: float = 0.0) -> list[float]:
        """Arrival minus stamp, s, of results that came after a time."""
        return [arrived - stamp * 1e-9 for stamp, arrived in self.results if arrived >= since]

    def wait_for_node(self, timeout: float = 120.0) -> None:
        """Until it takes all images."""
        deadline = time.monotonic() + timeout
        while not all(publisher.get_subscription_count() for publisher in self._images):
            if time.monotonic() > deadline:
                raise RuntimeError("the node subscribes to nothing; see its log")
            time.sleep(0.05)

    def close(self) -> None:
        self._executor.shutdown()
        self._context.try_shutdown()
        self._spinner.join(5)


def _stamped(parent: str, child: str, transform: Any, stamp_ns: int) -> Any:
    from geometry_msgs.msg import TransformStamped

    message = TransformStamped(child_frame_id=child, transform=transform)
    message.header.frame_id, message.header.stamp = parent, time_message(stamp_ns)
    return message


class NodeProcess:
    """`python -m gaussianocc_ros.occupancy_node` with parameters."""

    def __init__(self, cameras: tuple[str, ...], checkpoint: str = "", **parameters: Any) -> None:
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115 - closed with the process
        values = {"cameras": f"[{', '.join(cameras)}]", **parameters}
        if checkpoint:
            values["checkpoint"] = checkpoint
        settings = [part for name, value in values.items() for part in ("-p", f"{name}:={value}")]
        command = [sys.executable, "-m", "gaussianocc_ros.occupancy_node", "--ros-args", *settings]
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        self._popen = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=self._log, stderr=self._log)

    @property
    def threads(self) -> int:
        status = Path(f"/proc/{self._popen.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Threads:"))

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    @property
    def log(self) -> str:
        return Path(self._log.name).read_text()

    def memory_mb(self) -> float:
        """Resident."""
        return int(Path(f"/proc/{self._popen.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self._popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self, number: int = signal.SIGINT, timeout: float = 30.0) -> int:
        """Exit status; a node that has to be killed gives -9."""
        if self.alive:
            self._popen.send_signal(number)
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            return self._popen.wait()


@contextmanager
def robot_and_node(
    rate: float,
    stagger: float = 0.05,
    jitter: float = 0.005,
    checkpoint: str = "",
    size: tuple[int, int] = (1600, 900),
    cameras: int = 6,
    **parameters: Any,
) -> Iterator[tuple[Robot, NodeProcess]]:
    """Both, on a graph of their own, once the node takes images. size: width and height of the images."""
    os.environ.update(isolated_graph())
    rig = camera_rig(*size, cameras)
    robot = Robot(rig, camera_jpegs(rig), rate, stagger, jitter)
    node = NodeProcess(rig.names, checkpoint, **parameters)
    try:
        robot.wait_for_node()
        yield robot, node
    finally:
        node.stop()
        robot.close()
