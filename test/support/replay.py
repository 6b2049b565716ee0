# SPDX-License-Identifier: Apache-2.0
"""Recordings of a drive of three cameras, and a player in the test's own graph."""

import threading

from rclpy.serialization import serialize_message
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from gaussianocc_core.bags.typestore import open_typestore
from gaussianocc_ros.bag_player import BagPlayer, _parse
from gaussianocc_ros.msg import SemanticOccupancy
from gaussianocc_ros.stamps import time_message

MS = 1_000_000
FOREVER = QosTime(9223372036, 854775807)


def qos(reliability=QosReliability.RELIABLE, durability=QosDurability.VOLATILE):
    automatic = QosLiveliness.AUTOMATIC
    return Qos(QosHistory.KEEP_LAST, 20, reliability, durability, FOREVER, FOREVER, automatic, FOREVER, False)


class Recording:
    """A bag under way; topics appear as they are first written."""

    def __init__(self, path, storage=StoragePlugin.MCAP):
        self.path, self.store = path, open_typestore()
        self.writer = Writer(path, version=8, storage_plugin=storage)
        self.writer.open()
        self.connections = {}

    def add(self, topic, kind, ns, message, profile=None):
        if topic not in self.connections:
            profiles = profile if isinstance(profile, list) else [profile or qos()]
            self.connections[topic] = self.writer.add_connection(
                topic, kind, typestore=self.store, offered_qos_profiles=profiles
            )
        data = message if isinstance(message, bytes) else serialize_message(message)
        self.writer.write(self.connections[topic], ns, data)

    def close(self):
        self.writer.close()
        return self.path


LATCHED_RECORD = qos(durability=QosDurability.TRANSIENT_LOCAL)


def record_drive(
    path, make, sets=5, storage=StoragePlugin.MCAP, broken=(), absent=(), topics=None, static_qos=None, results=()
):
    """Three cameras at 10 Hz, 5 ms apart, calibration, TF that reaches past each image only afterwards.

    broken, absent: (set, camera) whose image is damaged or not there; topics: camera -> its topics of images and
    calibration, where they are not the usual ones; static_qos: of /tf_static, latched unless it is given; results:
    topics of occupancy with a message for each set, as after `ros2 bag record -a`.
    """
    bag = Recording(path, storage)
    static = TFMessage(transforms=[make.transform("base_link", camera, make.FORWARD) for camera in make.CAMERAS])
    bag.add(
        "/tf_static",
        "tf2_msgs/msg/TFMessage",
        make.START_NS,
        static,
        LATCHED_RECORD if static_qos is None else static_qos,
    )
    for k in range(sets):
        for i, camera in enumerate(make.CAMERAS):
            ns = make.START_NS + (100 * k + 5 * i) * MS
            odometry = make.transform("odom", "base_link", make.translation(0.01 * (100 * k + 5 * i)), ns)
            data = b"\xff\xd8 broken" if (k, camera) in broken else None
            images, infos = (topics or {}).get(camera, (f"/{camera}/image_raw/compressed", f"/{camera}/camera_info"))
            if (k, camera) not in absent:
                bag.add(infos, "sensor_msgs/msg/CameraInfo", ns, make.camera_info(ns, camera))
                image = make.jpeg(ns, camera, data)
                bag.add(images, "sensor_msgs/msg/CompressedImage", ns, image, qos(QosReliability.BEST_EFFORT))
            bag.add("/tf", "tf2_msgs/msg/TFMessage", ns, TFMessage(transforms=[odometry]))
        for topic in results:
            ns = make.START_NS + 100 * k * MS
            result = SemanticOccupancy(header=Header(stamp=time_message(ns), frame_id="recorded"))
            bag.add(topic, "gaussianocc_ros/msg/SemanticOccupancy", ns + 20 * MS, result)
    return bag.close()


class Replay:
    """A player in the test's graph, playing in a thread of its own."""

    def __init__(self, graph, *arguments):
        options = _parse([str(argument) for argument in arguments])
        self.graph, self.error = graph, None
        self.player = graph.add(BagPlayer(options.bag, options))
        self._thread = threading.Thread(target=self._play, daemon=True)

    def _play(self):
        try:
            self.player.play()
        except Exception as error:
            self.error = error

    def run(self, timeout=60.0):
        self._thread.start()
        self.graph.until(lambda: not self._thread.is_alive(), timeout, "end of the bag")
        return self
