# SPDX-License-Identifier: Apache-2.0
"""A robot's cameras, published by a test, and the node that listens to them."""

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage
from tf2_msgs.msg import TFMessage

from gaussianocc_ros.msg import SemanticOccupancy
from gaussianocc_ros.occupancy_node import OccupancyNode

MS = 1_000_000
LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class NodeRig:
    """Three cameras that a test publishes, and the node that listens."""

    def __init__(self, graph, make, capfd, kind=CompressedImage, namespace="", arguments=(), **parameters):
        """namespace: of the robot: its cameras, TF and node; arguments: of ROS, such as remappings."""
        space = f"/{namespace}" if namespace else ""
        self.graph, self.make, self._capfd, self._log = graph, make, capfd, ""
        suffix = "image_raw/compressed" if kind is CompressedImage else "image_raw"
        self.image = {c: graph.publisher(kind, f"{space}/{c}/{suffix}") for c in make.CAMERAS}
        self.info = {c: graph.publisher(CameraInfo, f"{space}/{c}/camera_info") for c in make.CAMERAS}
        self.static = graph.publisher(TFMessage, f"{space}/tf_static", LATCHED)
        self.motion = graph.publisher(TFMessage, f"{space}/tf", QoSProfile(depth=100))
        self.name = f"{space}/occupancy_node"
        self.occupancy = graph.record(SemanticOccupancy, f"{self.name}/occupancy")
        self.diagnostics = graph.record(DiagnosticArray, "/diagnostics")
        values = {
            "cameras": list(make.CAMERAS),
            "device": "cpu",
            "reliable": True,
            "image_topic": f"{{camera}}/{suffix}",
            "calibration_timeout": 10.0,
            "warm_up": False,
            **parameters,
        }
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        cli = ["--ros-args", *arguments] if arguments else []
        self.node = graph.add(OccupancyNode(namespace=namespace or None, cli_args=cli, parameter_overrides=overrides))

    def start(self):
        assert self.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert self.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        publishers = [*self.image.values(), *self.info.values(), self.static]
        self.graph.until(lambda: all(p.get_subscription_count() for p in publishers), what="subscriptions")
        self.graph.until(lambda: self.graph.probe.count_publishers(f"{self.name}/occupancy"), what="publisher")
        return self

    def place(self, cameras=None):
        chosen = self.make.CAMERAS if cameras is None else cameras
        transforms = [self.make.transform("base_link", camera, self.make.FORWARD) for camera in chosen]
        self.static.publish(TFMessage(transforms=transforms))

    def send(self, ms, cameras=None, info=True, **data):
        """One image per camera, 5 ms apart, the anchor first."""
        for i, camera in enumerate(self.make.CAMERAS):
            if cameras is not None and camera not in cameras:
                continue
            stamp = self.make.START_NS + (ms + 5 * i) * MS
            if info:
                self.info[camera].publish(self.make.camera_info(stamp, camera))
            self.image[camera].publish(self.make.jpeg(stamp, camera, data.get(camera)))

    def settled(self):
        """The node is done with all that it took: a result arrives before its views are rendered and it is counted."""
        inference = getattr(self.node, "_inference", None)
        if hasattr(inference, "_reporter"):  # it was active once
            self.graph.until(lambda: inference.is_idle, what="the node to finish")

    def outputs(self, count, timeout=30.0):
        self.graph.until(lambda: len(self.occupancy) >= count, timeout, f"{count} outputs")
        return self.occupancy

    def values(self):
        """The latest /diagnostics values, once the node is done with all that it took."""
        self.settled()
        self.diagnostics.clear()
        self.graph.until(lambda: self.diagnostics, what="diagnostics")
        status = self.diagnostics[-1].status[0]
        return {item.key: item.value for item in status.values}, status

    def logged(self, text):
        """Whether the node has said this; not by rosout, which nodes of one name in one process share."""
        self._log += self._capfd.readouterr().err
        return text in self._log

    def diagnosed(self, text):
        return [status for message in self.diagnostics for status in message.status if text in status.message]
