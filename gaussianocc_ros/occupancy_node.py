# SPDX-License-Identifier: Apache-2.0
"""The node: camera images in, semantic occupancy out. A translator around one OccupancyPredictor call.

Threads: the executor's takes messages and forms sets; one inference thread owns the predictor and publishes. Between
them lies a slot for the newest set, so a slow network skips sets instead of falling behind; for lossless replay
(`reliable`) it is a short queue.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from visualization_msgs.msg import MarkerArray

from gaussianocc_core.checkpoint import default_checkpoint
from gaussianocc_core.config import load_rig
from gaussianocc_core.data.sets import SetBuilder, SynchronizedSet
from gaussianocc_core.errors import GaussianOccError
from gaussianocc_core.predictor import OccupancyPredictor
from gaussianocc_core.types import Cameras, OccupancyPrediction
from gaussianocc_ros import conversions, ros_compat
from gaussianocc_ros.camera_rig import CameraRig, RigIncomplete
from gaussianocc_ros.diagnostics import NodeStatistics, diagnostic_array
from gaussianocc_ros.msg import SemanticOccupancy
from gaussianocc_ros.parameters import declare_parameters
from gaussianocc_ros.stamps import stamp_ns

_WARN_PERIOD = 5.0  # s between two warnings of one kind
_REPLAY_QUEUE = 8  # sets; one image can complete several
_SILENT_AFTER = 3.0  # s without an image until a camera is called silent


class OccupancyNode(LifecycleNode):
    def __init__(self, **options: Any) -> None:
        # Before anything can fail: rclpy destroys even a half-built node at shutdown.
        self._inference: ThreadPoolExecutor | None = None
        self._subscriptions_active: list[Any] = []
        super().__init__("occupancy_node", **options)
        self.parameters = declare_parameters(self)
        self.failure = ""  # why the last transition failed
        self._warned: dict[str, float] = {}
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)  # timers keep running while a paused bag holds /clock

    # ---- lifecycle -------------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition(self._configure, super().on_configure, state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        result = super().on_activate(state)  # publishers first, subscriptions last
        return result if result != TransitionCallbackReturn.SUCCESS else self._transition(self._activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition(self._deactivate, super().on_deactivate, state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition(self._cleanup, super().on_cleanup, state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition(self._cleanup, super().on_shutdown, state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition(self._cleanup, super().on_error, state)

    def _transition(self, step: Any, *then: Any) -> TransitionCallbackReturn:
        """rclpy swallows what a transition raises: here it becomes a line (a user's mistake) or a traceback (ours)."""
        try:
            step()
        except GaussianOccError as error:
            self.failure = " ".join(str(error).split())
            self.get_logger().error(self.failure)
            self._cleanup()
            return TransitionCallbackReturn.FAILURE
        except Exception:
            self.failure = traceback.format_exc()
            self.get_logger().error(self.failure)
            return TransitionCallbackReturn.ERROR
        return then[0](then[1]) if then else TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        parameters = self.parameters
        rig = load_rig(parameters.rig_file) if parameters.rig_file else None
        self._cameras = parameters.camera_names
        self._transforms = ros_compat.listen_to_transforms(self, conversions.decode_transform)
        self._rig = CameraRig(
            self._cameras, self._transforms, parameters.ego_frame, parameters.fixed_frame, rig,
            parameters.calibration_timeout, parameters.odometry_timeout,
        )  # fmt: skip
        # One thread for warm-up and every prediction: torch keeps a thread pool, numba its kernels, per calling thread.
        self._inference = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._decoders = ThreadPoolExecutor(min(4, len(self._cameras)), thread_name_prefix="decode")
        self._predictor = self._inference.submit(self._load_predictor).result()
        offer = partial(self.create_lifecycle_publisher, qos_profile=QoSProfile(depth=1))
        self._occupancy = offer(SemanticOccupancy, "~/occupancy")
        self._points = offer(PointCloud2, "~/points") if parameters.publish_points else None
        self._markers = offer(MarkerArray, "~/markers") if parameters.publish_markers else None
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)

    def _load_predictor(self) -> OccupancyPredictor:
        path = self.parameters.checkpoint or default_checkpoint()
        if path:
            predictor = OccupancyPredictor.from_checkpoint(path, device=self.parameters.device)
        else:
            predictor = OccupancyPredictor.untrained(device=self.parameters.device)
            self.get_logger().warning("no checkpoint is shipped or given: UNTRAINED, the occupancy means nothing")
        if self.parameters.warm_up:
            predictor([np.zeros((360, 640, 3), np.uint8)] * len(self._cameras), _some_cameras(self._cameras))
        self.get_logger().info(f"{predictor.summary}; cameras {', '.join(self._cameras)}")
        return predictor

    def _activate(self) -> None:
        parameters = self.parameters
        self._statistics = NodeStatistics()
        self._builder = SetBuilder(self._cameras, int(parameters.slop * 1e9), anchor=parameters.anchor)
        self._waiting: deque[tuple[SynchronizedSet, float]] = deque(maxlen=_REPLAY_QUEUE if parameters.reliable else 1)
        self._active_since = time.monotonic()
        self._last_arrival: dict[str, float] = {}
        self._last_log = time.monotonic()
        self._set_problem = ""
        self._in_work = False
        self._timer = self.create_timer(1.0, self._report, clock=self._steady)
        reliability = ReliabilityPolicy.RELIABLE if parameters.reliable else ReliabilityPolicy.BEST_EFFORT
        qos = QoSProfile(depth=parameters.image_queue_size, reliability=reliability)
        kind = CompressedImage if parameters.compressed else Image
        for camera in self._cameras:
            if self._rig.needs_camera_info:
                topic = parameters.camera_info_topic_of(camera)
                self._listen(CameraInfo, topic, partial(self._on_camera_info, camera), qos)
        for camera in self._cameras:
            self._listen(kind, parameters.image_topic_of(camera), partial(self._on_image, camera), qos)

    def _listen(self, kind: Any, topic: str, callback: Any, qos: QoSProfile) -> None:
        self._subscriptions_active.append(self.create_subscription(kind, topic, callback, qos))

    def _deactivate(self) -> None:
        while self._subscriptions_active:
            self.destroy_subscription(self._subscriptions_active.pop())
        if getattr(self, "_timer", None) is not None:
            self.destroy_timer(self._timer)
            self._timer = None
        if self._inference is not None and hasattr(self, "_waiting"):
            self._waiting.clear()
            self._inference.submit(lambda: None).result()  # the set in work is finished before publishers go

    def _cleanup(self) -> None:
        self._deactivate()
        if self._inference is None:
            return
        self._inference.shutdown()
        self._decoders.shutdown()
        self._inference = self._predictor = None
        self._transforms.close()
        for name in ("_occupancy", "_points", "_markers", "_diagnostics"):
            publisher = self.__dict__.pop(name, None)
            if publisher is not None:
                self.destroy_lifecycle_publisher(publisher)

    def destroy_node(self) -> None:
        self._cleanup()
        super().destroy_node()

    # ---- executor thread -------------------------------------------------------------------------------------------

    def _on_camera_info(self, camera: str, message: CameraInfo) -> None:
        if self._rig.add_camera_info(camera, message):
            self.get_logger().info(f"calibration of {camera} changed; the new one is in use")

    def _on_image(self, camera: str, message: Image | CompressedImage) -> None:
        self._last_arrival[camera] = time.monotonic()
        for complete in self._builder.add(camera, stamp_ns(message.header), message):
            full = len(self._waiting) == self._waiting.maxlen
            self._waiting.append((complete, time.perf_counter()))  # drops the oldest if full
            if full:
                self._statistics.count_drop("superseded")
            self._inference.submit(self._process_next)

    def _silent_cameras(self, now: float) -> list[str]:
        """One phrase for each camera that sends nothing, or one for all."""
        if self.parameters.reliable and self._in_work:  # a lossless replay waits for the result
            return []
        topics = {camera: self.parameters.image_topic_of(camera) for camera in self._cameras}
        since = {camera: now - self._last_arrival.get(camera, self._active_since) for camera in self._cameras}
        silent = [camera for camera, age in since.items() if age > _SILENT_AFTER]
        if len(silent) == len(topics) > 1:
            return [f"no image from any camera for {min(since.values()):.0f} s, on {', '.join(topics.values())}"]
        return [f"{camera}: no image on {topics[camera]} for {since[camera]:.0f} s" for camera in silent]

    def _report(self) -> None:
        now = time.monotonic()
        silent = self._silent_cameras(now)
        missing = [] if silent or now - self._active_since < _SILENT_AFTER else list(self._rig.missing().values())
        problem = "; ".join(silent or missing) or self._set_problem
        if silent:
            self._warn("silent", f"{problem}; check the topic, its QoS and the parameters cameras and image_topic")
        elif missing:
            self._warn("missing", problem)
        values = self._statistics.summary()
        for reason, count in sorted(self._builder.statistics.dropped.items()):
            values[f"dropped: {reason}"] = str(count)
        for camera, count in sorted(self._builder.statistics.missing.items()):
            values[f"incomplete without {camera}"] = str(count)
        stamp = self.get_clock().now().to_msg()
        hardware = str(self._predictor.device)
        self._diagnostics.publish(diagnostic_array(stamp, self.get_fully_qualified_name(), hardware, problem, values))
        if self.parameters.log_period and now - self._last_log >= self.parameters.log_period:
            self._last_log = now
            self.get_logger().info(", ".join(f"{key} {value}" for key, value in values.items()))

    # ---- inference thread ------------------------------------------------------------------------------------------

    def _process_next(self) -> None:
        try:
            newest, completed = self._waiting.popleft()
        except IndexError:  # superseded before its turn, or deactivated
            return
        self._statistics.record("queue", time.perf_counter() - completed)
        self._in_work = True
        try:
            prediction = self._predict(newest)
            if not self.context.ok():  # Ctrl-C during inference
                return
            with self._statistics.timed("encode"):
                self._publish(prediction, newest.stamp_ns)
        except GaussianOccError as error:
            self._drop(getattr(error, "reason", type(error).__name__), str(error))
        except Exception as error:  # a fault of ours must not end the node: it is counted and logged in full
            self.get_logger().error(traceback.format_exc(), throttle_duration_sec=_WARN_PERIOD)
            self._drop("internal error", repr(error))
        else:
            self._set_problem = ""
            self._statistics.record("total", time.perf_counter() - completed)
            self._statistics.count_set((self.get_clock().now().nanoseconds - newest.stamp_ns) * 1e-9)
        finally:
            self._in_work = False

    def _predict(self, newest: SynchronizedSet) -> OccupancyPrediction:
        with self._statistics.timed("calibrate"):
            cameras = self._rig.lookup(newest.stamp_ns, newest.stamps_ns)
        if self._rig.motion_problem:
            self._warn("motion", f"motion between images is not compensated: {self._rig.motion_problem}")
        with self._statistics.timed("decode"):
            images = list(self._decoders.map(self._decode, self._cameras, newest.items.values()))
        for camera, image, width, height in zip(self._cameras, images, cameras.width, cameras.height, strict=True):
            if image.shape[:2] != (height, width):
                found = f"image is {image.shape[1]}x{image.shape[0]}, its calibration {width}x{height}"
                raise RigIncomplete("image size", f"camera {camera}: {found}")
        with self._statistics.timed("predict"):
            return self._predictor(images, cameras)

    def _decode(self, camera: str, message: Image | CompressedImage) -> np.ndarray:
        try:
            return conversions.decode_image(message, self.parameters.max_image_pixels)
        except conversions.ImageError as error:
            raise RigIncomplete("undecodable image", f"camera {camera}: {error}") from None

    def _publish(self, prediction: OccupancyPrediction, stamp: int) -> None:
        where = (stamp, self.parameters.ego_frame)
        self._occupancy.publish(conversions.encode_occupancy(prediction, *where))
        if self._points is not None and self._points.get_subscription_count():
            self._points.publish(conversions.encode_points(prediction, *where))
        if self._markers is not None and self._markers.get_subscription_count():
            self._markers.publish(conversions.serialize_markers(prediction, *where))

    def _drop(self, reason: str, text: str) -> None:
        self._statistics.count_drop(reason)
        self._set_problem = text
        self._warn(reason, f"set dropped ({self._statistics.drops[reason]} so far, {reason}): {text}")

    def _warn(self, kind: str, text: str) -> None:
        """At most one line per kind and period; rclpy throttles by source line and would mix the kinds."""
        now = time.monotonic()
        if now - self._warned.get(kind, -_WARN_PERIOD) >= _WARN_PERIOD:
            self._warned[kind] = now
            self.get_logger().warning(" ".join(text.split()))


def _some_cameras(names: tuple[str, ...]) -> Cameras:
    """Plausible cameras for the warm-up: 640x360, all looking forward."""
    K = torch.tensor([[400.0, 0, 320], [0, 400.0, 180], [0, 0, 1]], dtype=torch.float64)
    T_ego_cam = torch.eye(4, dtype=torch.float64)
    T_ego_cam[:3] = torch.tensor([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 1.5]], dtype=torch.float64)
    count = len(names)
    return Cameras(names, K.repeat(count, 1, 1), T_ego_cam.repeat(count, 1, 1), (640,) * count, (360,) * count)


def main(args: list[str] | None = None) -> None:
    node = None
    try:
        rclpy.init(args=args)
        node = OccupancyNode()
        if node.parameters.autostart:
            for step in (node.trigger_configure, node.trigger_activate):
                if step() != TransitionCallbackReturn.SUCCESS:
                    sys.exit(1)  # the transition has logged why
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except GaussianOccError as error:
        sys.exit(f"occupancy_node: {' '.join(str(error).split())}")
    except Exception:
        if rclpy.ok():
            raise  # otherwise Ctrl-C closed the context in the middle of a call
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # launch and a terminal may both send one; tidying up is under way
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
