# SPDX-License-Identifier: Apache-2.0
"""The viewer's page, live: what the occupancy node publishes, in any browser. The robot needs no screen.

It only reads: nothing that a viewer does reaches the robot. It subscribes to topics while somebody looks, and to none
otherwise, so that it then costs the robot nothing. The address is this machine's own unless told otherwise.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from functools import partial
from typing import Any

import numpy as np
import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo

from gaussianocc_core.bags.messages import ImageError, decode_transform, is_rectified
from gaussianocc_core.errors import ConfigError, GaussianOccError
from gaussianocc_core.geometry import voxels
from gaussianocc_core.geometry.rig_file import load_rig
from gaussianocc_core.geometry.transforms import invert_matrix
from gaussianocc_core.labels import has_one_class, ids_to_occ3d
from gaussianocc_core.mistakes import one_line
from gaussianocc_core.names import shorten
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.types import VoxelGrid
from gaussianocc_core.viewer.moment import PICTURE_WIDTH, Moment, picture_height
from gaussianocc_core.viewer.page import Page, Where, plain
from gaussianocc_ros import ros_compat
from gaussianocc_ros.camera_rig import CameraRig
from gaussianocc_ros.msg import SemanticOccupancy
from gaussianocc_ros.qos import camera_qos
from gaussianocc_ros.running import run_node
from gaussianocc_ros.stamps import stamp_ns
from gaussianocc_ros.transports import VIDEO, message_type, transport_of
from gaussianocc_ros.usage import print_help_if_asked

_PERIOD = 0.5  # s between looks at whether somebody looks
_KEPT = 4  # images of each camera, of which the nearest in time to a result is shown
_PATH = 2000  # places that are remembered
_MOST_CAMERAS = 64
_TIMEOUT = 0.3  # s that calibration and odometry are waited for

# Name -> (default, what it is).
PARAMETERS: dict[str, tuple[Any, str]] = {
    "host": ("127.0.0.1", "address to serve at; 0.0.0.0 lets the whole network look"),
    "port": (8080, "of the page; 0: any that is free"),
    "viewers": (4, "most that may look at once"),
    "occupancy_topic": ("occupancy_node/occupancy", "results of the occupancy node"),
    "image_topic": ("{camera}/image_raw/compressed", "images, with {camera}; a raw topic works as well"),
    "camera_info_topic": ("{camera}/camera_info", "calibrations, with {camera}"),
    "cameras": ([""], "names, where topics are listed below; as the occupancy node has them"),
    "image_topics": ([""], "image topic of each of the cameras, where no pattern fits; in place of image_topic"),
    "camera_info_topics": ([""], "calibration of each of the cameras; in place of camera_info_topic"),
    "rig_file": ("", "lenses and places of the cameras, in place of CameraInfo and TF"),
    "ego_frame": ("base_link", "as the occupancy node has it"),
    "fixed_frame": ("odom", "as the occupancy node has it; for the path"),
    "reliable": (False, "subscribe to images reliably, as for a replay"),
}


class WebViewer(Node):
    """One page; `tick` subscribes and unsubscribes as viewers come and go."""

    def __init__(self, **options: Any) -> None:
        super().__init__("web_viewer", **options)
        for name, (default, text) in PARAMETERS.items():
            self.declare_parameter(name, default, ParameterDescriptor(description=text, read_only=True))
        for name in ("image_topic", "camera_info_topic"):
            if "{camera}" not in self._value(name):
                raise ConfigError(f"parameter {name}: expected a topic with {{camera}} in it, got {self._value(name)}")
        self._topics = {name: self._listed(name) for name in ("image_topics", "camera_info_topics")}
        self._rig_file = load_rig(self._value("rig_file")) if self._value("rig_file") else None
        try:
            where = Where(self._value("host"), self._value("port"), self._value("viewers"))
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self.page = Page("GaussianOcc, live", where)
        self.get_logger().info(f"look at {self.page.url}")
        self._changed = threading.Condition()
        self._newest: SemanticOccupancy | None = None
        self._images: dict[str, deque[Any]] = {}
        self._informed: set[str] = set()  # cameras whose calibration is subscribed to
        self._calibrations: dict[str, CameraInfo] = {}
        self._rig: CameraRig | None = None
        self._transforms: Any = None
        self._subscribed: list[Any] = []
        self._path: deque[np.ndarray] = deque(maxlen=_PATH)
        self._preprocess: Preprocessor | None = None
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="viewer", daemon=True)
        self._worker.start()
        # Wall time: a paused replay holds the ROS clock, and somebody may come to look at it then.
        self._timer = self.create_timer(_PERIOD, self.tick, clock=rclpy.clock.Clock())

    def destroy_node(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._worker.join(timeout=5.0)
        self._unsubscribe()
        self.page.close()
        super().destroy_node()

    @property
    def subscribes(self) -> bool:
        return bool(self._subscribed)

    # ---- executor thread -------------------------------------------------------------------------------------------

    def tick(self) -> None:
        if self.page.viewers and not self._subscribed:
            self._transforms = ros_compat.listen_to_transforms(self, decode_transform)
            results = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
            topic = self._value("occupancy_topic")
            self._subscribed.append(self.create_subscription(SemanticOccupancy, topic, self._on_occupancy, results))
            self.page.say(f"waiting for {plain(topic)}")
        elif not self.page.viewers and self._subscribed:
            self._unsubscribe()

    def _unsubscribe(self) -> None:
        for subscription in self._subscribed:
            self.destroy_subscription(subscription)
        self._subscribed, self._rig, self._images = [], None, {}
        self._informed, self._calibrations = set(), {}
        if self._transforms is not None:
            self._transforms.close()
            self._transforms = None

    def _on_occupancy(self, message: SemanticOccupancy) -> None:
        if self._rig is None or any(name not in self._images for name in message.cameras):
            cameras = (*self._images, *message.cameras)
            # Anybody on the graph can send results: their names become topics.
            odd = [name for name in message.cameras if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", name)]
            if odd or len(set(cameras)) > _MOST_CAMERAS:
                why = f"camera {shorten(odd[0])}: no name of a topic" if odd else f"more than {_MOST_CAMERAS} cameras"
                self.page.say(f"**a result was left out:** {plain(why)}")
                return
            self._follow(tuple(message.cameras))
        with self._changed:
            self._newest = message
            self._changed.notify_all()

    def _keep(self, camera: str, message: Any) -> None:
        """As it came: an image is decoded when it is shown."""
        if camera in self._images:
            self._images[camera].append(message)

    def _follow(self, cameras: tuple[str, ...]) -> None:
        """Subscribe to the cameras that the results are made of."""
        known = tuple(dict.fromkeys((*self._images, *cameras)))
        topics = {name: self._topic("image_topic", name) for name in known}
        rig = CameraRig(
            known,
            self._transforms,
            self._value("ego_frame"),
            self._value("fixed_frame"),
            self._rig_file,
            _TIMEOUT,
            _TIMEOUT,
            frozenset(name for name, topic in topics.items() if is_rectified(topic)),
        )
        qos = camera_qos(_KEPT, self._value("reliable"))
        for name, topic in topics.items():
            if name not in self._images:
                self._images[name] = deque(maxlen=_KEPT)
                self._subscribe(name, topic, qos)
            if rig.needs_camera_info and (calibration := self._calibrations.get(name)) is not None:
                rig.add_camera_info(name, calibration)
            if rig.needs_camera_info and name not in self._informed:
                self._informed.add(name)
                info = self._topic("camera_info_topic", name)
                self._subscribed.append(self.create_subscription(CameraInfo, info, partial(self._calibrate, name), qos))
        self._rig = rig

    def _calibrate(self, camera: str, message: CameraInfo) -> None:
        self._calibrations[camera] = message
        if self._rig is not None:
            self._rig.add_camera_info(camera, message)

    def _subscribe(self, name: str, topic: str, qos: QoSProfile) -> None:
        transport = transport_of(topic)
        if transport in VIDEO:
            self.get_logger().warning(
                f"{topic}: this page shows raw and JPEG images, not video ({transport}); give an image_topic of those, "
                "if they are published as well"
            )
            return
        kind = message_type(transport, name)
        self._subscribed.append(self.create_subscription(kind, topic, partial(self._keep, name), qos))

    # ---- worker thread ---------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._newest is not None)
                if self._closed:
                    return
                message, self._newest = self._newest, None
            rig, images = self._rig, dict(self._images)
            if message is None or rig is None:
                continue
            try:
                moment = self._moment(message, rig, {name: list(each) for name, each in images.items()})
                self.page.show(moment)
            except GaussianOccError as error:
                self.page.say(f"**{plain(one_line(error))}**")
            except Exception as error:  # the page goes on with the next result
                self.get_logger().error(f"a result could not be shown: {one_line(error)}", throttle_duration_sec=10.0)

    def _moment(self, message: SemanticOccupancy, rig: CameraRig, images: dict[str, list[Any]]) -> Moment:
        stamp = stamp_ns(message.header)
        nearest = {
            name: min(found, key=lambda each: abs(stamp_ns(each.header) - stamp))
            for name in message.cameras
            if (found := images.get(name))
        }
        if not nearest:
            raise GaussianOccError(f"no images yet of {', '.join(message.cameras)}; see the parameter image_topic")
        placed = rig.lookup(stamp, {name: stamp_ns(each.header) for name, each in nearest.items()}, lenient=True)
        cameras = placed.cameras
        if self._preprocess is None:
            height = picture_height(cameras.width[0], cameras.height[0])
            self._preprocess = Preprocessor(PICTURE_WIDTH, height)
        pixels = []
        for n, name in enumerate(cameras.names):
            try:
                pixels.append(ros_compat.decode_image(nearest[name])[0])
            except ImageError:  # the node has said so; here it stays dark
                pixels.append(np.zeros((cameras.height[n], cameras.width[n], 3), dtype=np.uint8))
        lenses = self._preprocess(cameras)
        shape = (message.size_x, message.size_y, message.size_z)
        origin = message.origin.position
        path = self._walk(placed.T_fixed_ego)
        return Moment(
            stamp_ns=stamp,
            scene=f"live, {message.header.frame_id}",
            images=dict(zip(cameras.names, lenses.rectify(pixels), strict=True)),
            cameras=lenses.views(cameras.T_ego_cam),
            labels=ids_to_occ3d(message.class_names)[voxels.unflatten(np.frombuffer(message.labels, np.uint8), shape)],
            confidence=voxels.unflatten(np.frombuffer(message.confidence, np.uint8), shape).astype(np.float32) / 255.0,
            grid=VoxelGrid((origin.x, origin.y, origin.z), message.voxel_size.x, shape),
            classless=has_one_class(message.class_names),
            model=message.model,
            trained=message.model != "untrained",
            path=path,
            place=0 if path is None else len(path) - 1,
        )

    def _walk(self, T_fixed_ego: np.ndarray | None) -> np.ndarray | None:
        """Where the robot was, in its present frame; None where TF does not say."""
        if T_fixed_ego is None:
            return None
        if not self._path or np.linalg.norm(T_fixed_ego[:3, 3] - self._path[-1]) > 0.05:
            self._path.append(T_fixed_ego[:3, 3].copy())
        T_ego_fixed = invert_matrix(T_fixed_ego)
        places = np.stack([*self._path, T_fixed_ego[:3, 3]])
        return places @ T_ego_fixed[:3, :3].T + T_ego_fixed[:3, 3]

    def _listed(self, name: str) -> dict[str, str]:
        """Camera -> topic, of a list of topics; {} where none is given."""
        cameras, topics = ([each for each in self._value(key) if each] for key in ("cameras", name))
        if topics and len(topics) != len(cameras):
            raise ConfigError(f"parameter {name}: expected one for each of cameras ({len(cameras)}), got {len(topics)}")
        return dict(zip(cameras, topics, strict=False))

    def _topic(self, pattern: str, camera: str) -> str:
        return self._topics[f"{pattern}s"].get(camera) or self._value(pattern).format(camera=camera)

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value


def main(args: list[str] | None = None) -> None:
    about = (
        "Serves a page that shows in a browser what the occupancy node publishes. Computes nothing while nobody looks."
    )
    print_help_if_asked("web_viewer", about, ((name, *each) for name, each in PARAMETERS.items()))
    run_node("web_viewer", WebViewer, args)


if __name__ == "__main__":
    main()
