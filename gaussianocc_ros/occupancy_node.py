# SPDX-License-Identifier: Apache-2.0
"""The node: camera images in, semantic occupancy out. Lifecycle and wiring; the work is done in inference.py.

Threads: the executor's takes messages and forms sets; one inference thread owns the predictor and publishes.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo
from std_srvs.srv import Empty

from gaussianocc_core.bags.messages import decode_transform, is_rectified
from gaussianocc_core.errors import ConfigError, GaussianOccError
from gaussianocc_core.geometry.rig_file import load_rig
from gaussianocc_core.labels import has_one_class
from gaussianocc_core.navigation.traversability import class_table, parse_values
from gaussianocc_core.predictor import OccupancyPredictor
from gaussianocc_ros import ros_compat
from gaussianocc_ros.camera_rig import CameraRig
from gaussianocc_ros.decoding import ImageDecoder
from gaussianocc_ros.gather import Gatherer
from gaussianocc_ros.inference import Inference
from gaussianocc_ros.lifecycle import TidyLifecycleNode
from gaussianocc_ros.motion import Motion
from gaussianocc_ros.outputs import Outputs
from gaussianocc_ros.parameter_files import files_without_section
from gaussianocc_ros.parameter_table import parameter_texts
from gaussianocc_ros.parameters import (
    NodeParameters,
    apply_changes,
    check_changes,
    declare,
    fixed_changes,
    read_parameters,
)
from gaussianocc_ros.qos import camera_qos, latched_qos
from gaussianocc_ros.reporting import LifeSign, Reporter
from gaussianocc_ros.running import run_node
from gaussianocc_ros.services import Services
from gaussianocc_ros.stamps import message_stamp_ns
from gaussianocc_ros.startup import USER_MISTAKE
from gaussianocc_ros.transports import VIDEO, message_type
from gaussianocc_ros.usage import print_help_if_asked

_LOOK_PERIOD = 0.5  # s
_VIDEO_QUEUE = 60  # packets that DDS keeps per camera at least: a lost one costs all up to the next keyframe


class OccupancyNode(TidyLifecycleNode):
    def __init__(self, **options: Any) -> None:
        super().__init__("occupancy_node", **options)
        self._settled = False  # from configure to cleanup only dynamic parameters change
        self._life = LifeSign(self)
        self._predictor: OccupancyPredictor | None = None
        self._outputs: Outputs | None = None
        for line in files_without_section(sys.argv, self.get_fully_qualified_name()):
            self.get_logger().warning(line)
        declare(self)
        try:
            self.parameters = read_parameters(self)
        except ConfigError as error:
            if self.autostart:
                raise
            self.get_logger().warning(f"{error}; set it before configure")
        self.add_on_set_parameters_callback(self._on_parameters)

    @property
    def autostart(self) -> bool:
        """Whether `main` configures and activates it."""
        return bool(self.get_parameter("autostart").value)

    # ---- lifecycle -------------------------------------------------------------------------------------------------

    def configure(self) -> None:
        parameters = self.parameters = read_parameters(self)
        self._settled = True
        self.configured.callback(self._unsettle)
        rig = load_rig(parameters.rig_file) if parameters.rig_file else None
        self._cameras = parameters.camera_names
        transports = {camera: parameters.transport_of(camera) for camera in self._cameras}
        self._kinds = {camera: message_type(transport, camera) for camera, transport in transports.items()}
        videos = {camera for camera, transport in transports.items() if transport in VIDEO}
        self._queues = {camera: _VIDEO_QUEUE if camera in videos else 1 for camera in self._cameras}
        self._decoder = ImageDecoder(len(self._cameras), parameters.max_image_pixels, videos)
        self.configured.callback(self._decoder.close)
        self._inference = Inference(self, parameters)
        self.configured.callback(self._inference.close)
        self._predictor = self._inference.load()
        self.stop_if_closed()
        self.get_logger().info(f"{self._predictor.summary}; cameras {', '.join(self._cameras)}")
        # Seconds later: nothing subscribes before the node is about ready, because a replay may wait for that.
        self._transforms = ros_compat.listen_to_transforms(self, decode_transform)
        self.configured.callback(self._transforms.close)
        timeouts = parameters.calibration_timeout, parameters.odometry_timeout
        self._rig = CameraRig(
            self._cameras,
            self._transforms,
            parameters.ego_frame,
            parameters.fixed_frame,
            rig,
            *(max(each, parameters.least_timeout) for each in timeouts),
            frozenset(each for each in self._cameras if is_rectified(parameters.image_topic_of(each))),
            compensates=not parameters.publish_odometry_tf,
        )
        _check_classes(self._predictor, parameters)
        self._outputs = Outputs(self, parameters, self._rig.ego_at)
        self.configured.callback(self._outputs.close)
        self._motion = Motion(self, parameters, self._predictor, self._transforms.knows)
        self.configured.callback(self._motion.close)
        self._reporter = Reporter(self, parameters, self._cameras, self._predictor, self._life)
        self.configured.callback(self._reporter.stop)
        services = Services(self, parameters, self._inference)
        self.configured.callback(services.close)
        if parameters.fusion or self._predictor.sees_depth:
            reset = self.create_service(Empty, "~/reset", self._on_reset)
            self.configured.callback(self.destroy_service, reset)

    def activate(self) -> None:
        parameters = self.parameters
        self._builder = parameters.make_builder()
        self._decoder.restart()
        self.activated.callback(self._inference.stop)
        self._reporter.start(self._rig, self._builder.statistics)
        self.activated.callback(self._reporter.stop)
        self._gatherer = Gatherer(
            self._cameras,
            self._decoder,
            self._rig,
            self._predictor.reductions,
            self._reporter.statistics,
            degrades=parameters.sync_policy == "degrade",
        )
        self._inference.start(self._gatherer, self._outputs, self._motion, self._reporter, self._rig.ego_at)
        for camera in self._cameras:
            if self._rig.needs_camera_info:
                self._listen(CameraInfo, camera, parameters.camera_info_topic_of(camera), self._on_camera_info)
        for camera in self._cameras:
            reliable = parameters.is_reliable(camera)
            qos = camera_qos(max(parameters.image_queue_size, self._queues[camera]), reliable)
            self._listen(self._kinds[camera], camera, parameters.image_topic_of(camera), self._on_image, qos)

        if self._rig.needs_camera_info:
            self._without_latched = set(self._cameras)
            look = self.create_timer(
                _LOOK_PERIOD, self._look_for_latched, clock=Clock(clock_type=ClockType.STEADY_TIME)
            )
            self.activated.callback(self.destroy_timer, look)

    def _look_for_latched(self) -> None:
        """Drivers that publish CameraInfo once do so latched, maybe before this node was there.

        A subscription that asks for that makes every other driver log that it is not understood: only where one offers.
        """
        for camera in self._without_latched & self._rig.uncalibrated:
            topic = self.resolve_topic_name(self.parameters.camera_info_topic_of(camera))
            offered = (info.qos_profile.durability for info in self.get_publishers_info_by_topic(topic))
            if DurabilityPolicy.TRANSIENT_LOCAL in offered:
                self._without_latched.discard(camera)
                self._listen(CameraInfo, camera, topic, self._on_camera_info, latched_qos())

    def _listen(self, kind: Any, camera: str, topic: str, callback: Any, qos: QoSProfile | None = None) -> None:
        qos = qos or camera_qos(self.parameters.image_queue_size, self.parameters.is_reliable(camera))
        subscription = self.create_subscription(kind, topic, partial(callback, camera), qos)
        self.activated.callback(self.destroy_subscription, subscription)

    def deactivate(self) -> None:
        super().deactivate()
        self._builder.reset()  # of images, which are megabytes
        self._inference.forget()  # who knows where the robot is carried meanwhile

    def cleanup(self) -> None:
        super().cleanup()
        self._predictor = self._outputs = None

    def _unsettle(self) -> None:
        self._settled = False

    # ---- executor thread -------------------------------------------------------------------------------------------

    def _on_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        """All of one call at once; impossible values change nothing. While unconfigured each is checked by itself, so
        that they can be set in any order: how they fit together is checked at configure."""
        try:
            if not self._settled:
                check_changes(changes)
                return SetParametersResult(successful=True)
            if fixed := fixed_changes(self.parameters, changes):
                raise ConfigError(
                    f"parameter {', '.join(fixed)}: takes effect at configure, not while {self.state_name}; first "
                    f"`ros2 lifecycle set {self.get_fully_qualified_name()} cleanup`"
                )
            parameters = apply_changes(self.parameters, changes)
            if self._predictor is not None:
                _check_classes(self._predictor, parameters)
        except GaussianOccError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self.parameters = parameters
        if self._predictor is not None:
            self._predictor.caution = parameters.caution or self._predictor.config.caution
        if self._outputs is not None:
            self._outputs.parameters = self._reporter.parameters = parameters
        return SetParametersResult(successful=True)

    def _on_camera_info(self, camera: str, message: CameraInfo) -> None:
        if self._rig.add_camera_info(camera, message):
            self.get_logger().info(f"calibration of {camera} changed; the new one is in use")

    def _on_image(self, camera: str, message: Any) -> None:
        stamp = message_stamp_ns(message)
        self._reporter.image_arrived(camera, stamp)
        image = self._decoder.take(camera, message)
        if not stamp:
            return  # all of them would be of one moment; diagnostics name the camera
        complete_sets = self._builder.add(camera, stamp, image)
        # At once where the next set will have it. While a set is in work most images will be superseded: those of the
        # set that comes next are decoded when it does, so that decoding takes nothing from a slow network. The same
        # while sets do not come about, as of a camera that is dead.
        if self._inference.is_idle and self._reporter.goes_well and not complete_sets:
            self._decoder.begin([image])
        for complete in complete_sets:
            self._inference.submit(complete)

    def _on_reset(self, request: Empty.Request, response: Empty.Response) -> Empty.Response:
        """octomap_server's name for it."""
        self._inference.forget()
        self.get_logger().info("what was seen so far is forgotten")
        return response


def _check_classes(predictor: OccupancyPredictor, parameters: NodeParameters) -> None:
    """ConfigError where parameters name classes that the model does not have."""
    for name in ("traversable_classes", "hidden_classes"):
        if name == "traversable_classes" and has_one_class(predictor.class_names):
            continue  # height tells ground from obstacles, whatever classes are named
        try:
            class_table(predictor.class_names, [each for each in getattr(parameters, name) if each])
        except ValueError as error:
            raise ConfigError(f"parameter {name}: {error}") from None
    try:
        class_table(predictor.class_names, list(parse_values([each for each in parameters.mask_values if each])))
    except ValueError as error:
        raise ConfigError(f"parameter mask_values: {error}") from None


_ABOUT = (
    "Subscribes to the images of calibrated cameras and publishes semantic occupancy. A lifecycle node that configures "
    "and activates itself (autostart). docs/node.md has all of it."
)


def main(args: list[str] | None = None) -> None:
    print_help_if_asked("occupancy_node", _ABOUT, parameter_texts())
    run_node("occupancy_node", OccupancyNode, args, _autostart)


def _autostart(node: OccupancyNode) -> int:
    for step in (node.trigger_configure, node.trigger_activate) if node.autostart else ():
        result = step() if rclpy.ok() else TransitionCallbackReturn.SUCCESS
        if result != TransitionCallbackReturn.SUCCESS:  # the transition has logged why
            return USER_MISTAKE if result == TransitionCallbackReturn.FAILURE else 1
    return 0


if __name__ == "__main__":
    main()
