# SPDX-License-Identifier: Apache-2.0
"""The node: camera images in, semantic occupancy out. A translator around one OccupancyPredictor call.

Threads: the executor's takes messages and forms sets; one inference thread owns the predictor and publishes. Between
them lies a slot for the newest set, so a slow network skips sets instead of falling behind; for lossless replay
(`reliable`) it is a short queue.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import Empty

from gaussianocc_core.bags.messages import decode_transform
from gaussianocc_core.checkpoint import default_checkpoint
from gaussianocc_core.data.entries import mask_paths, read_mask
from gaussianocc_core.data.sets import SetBuilder, SynchronizedSet
from gaussianocc_core.errors import ConfigError, GaussianOccError
from gaussianocc_core.fusion import TemporalFusion
from gaussianocc_core.geometry.rig_file import load_rig
from gaussianocc_core.navigation.traversability import class_table
from gaussianocc_core.predictor import OccupancyPredictor
from gaussianocc_core.types import Cameras, OccupancyPrediction
from gaussianocc_ros import ros_compat
from gaussianocc_ros.camera_rig import CameraRig, RigIncomplete, plausible_cameras
from gaussianocc_ros.decoding import DecodedImage, ImageDecoder, PendingImage
from gaussianocc_ros.outputs import Outputs
from gaussianocc_ros.parameters import NodeParameters, apply_changes, declare_parameters
from gaussianocc_ros.reporting import Reporter
from gaussianocc_ros.stamps import stamp_ns
from gaussianocc_ros.startup import ignore_interrupt, leave_interrupt_to_ros

_REPLAY_QUEUE = 8  # sets; one image can complete several


class OccupancyNode(LifecycleNode):
    def __init__(self, **options: Any) -> None:
        # What transitions have made, undone in reverse. Before anything can fail: rclpy destroys a half-built node too.
        self._configured, self._activated = ExitStack(), ExitStack()
        super().__init__("occupancy_node", **options)
        self.parameters = declare_parameters(self)
        self._predictor: OccupancyPredictor | None = None
        self._outputs: Outputs | None = None
        self._fusion: TemporalFusion | None = None
        self.add_on_set_parameters_callback(self._on_parameters)
        self.failure = ""  # why the last transition failed

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
            self._stop_if_closed()
            self.failure = traceback.format_exc()
            self.get_logger().error(self.failure)
            return TransitionCallbackReturn.ERROR
        result = then[0](then[1]) if then else TransitionCallbackReturn.SUCCESS
        self._stop_if_closed()
        return result

    def _stop_if_closed(self) -> None:
        """Ctrl-C or SIGTERM closed the context: rclpy would log that it cannot complete the transition."""
        if not self.context.ok():
            raise KeyboardInterrupt

    def _configure(self) -> None:
        parameters = self.parameters
        rig = load_rig(parameters.rig_file) if parameters.rig_file else None
        self._cameras = parameters.camera_names
        # Each undo is registered as soon as there is something to undo: what comes next may fail.
        self._decoder = ImageDecoder(len(self._cameras), parameters.max_image_pixels)
        self._configured.callback(self._decoder.close)
        # One thread for warm-up and every prediction: torch keeps a thread pool, numba its kernels, per calling thread.
        self._inference = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._configured.callback(self._inference.shutdown)
        self._predictor = self._inference.submit(self._load_predictor).result()
        self._stop_if_closed()
        self.get_logger().info(f"{self._predictor.summary}; cameras {', '.join(self._cameras)}")
        # Seconds later: nothing subscribes before the node is about ready, because a replay may wait for that.
        self._transforms = ros_compat.listen_to_transforms(self, decode_transform)
        self._configured.callback(self._transforms.close)
        timeouts = parameters.calibration_timeout, parameters.odometry_timeout
        self._rig = CameraRig(
            self._cameras, self._transforms, parameters.ego_frame, parameters.fixed_frame, rig,
            *(max(each, parameters.least_timeout) for each in timeouts),
        )  # fmt: skip
        _check_classes(self._predictor, parameters)
        self._outputs = Outputs(self, parameters, self._rig.ego_at)
        self._configured.callback(self._outputs.close)
        self._reporter = Reporter(self, parameters, self._cameras, self._predictor.device)
        self._configured.callback(self._reporter.close)
        self._fusion, self._forget = self._make_fusion(parameters), threading.Event()
        self._fusion_resets = 0  # that were said
        if self._fusion is not None:
            reset = self.create_service(Empty, "~/reset", self._on_reset)
            self._configured.callback(self.destroy_service, reset)

    def _make_fusion(self, parameters: NodeParameters) -> TemporalFusion | None:
        if not parameters.fusion or self._predictor is None:
            return None
        return TemporalFusion(
            self._predictor.grid, self._predictor.class_names, hit=parameters.fusion_hit, miss=parameters.fusion_miss,
            decay=parameters.fusion_decay,
        )  # fmt: skip

    def _load_predictor(self) -> OccupancyPredictor:
        path = self.parameters.checkpoint or default_checkpoint()
        if path:
            predictor = OccupancyPredictor.from_checkpoint(path, device=self.parameters.device)
        else:
            predictor = OccupancyPredictor.untrained(device=self.parameters.device)
            self.get_logger().warning("no checkpoint is shipped or given: UNTRAINED, the occupancy means nothing")
        if self.parameters.warm_up and self.context.ok():  # otherwise Ctrl-C came while it was loaded
            predictor([np.zeros((360, 640, 3), np.uint8)] * len(self._cameras), plausible_cameras(self._cameras))
        paths = mask_paths(self.parameters.mask_dir, self._cameras)
        predictor.use_masks({camera: read_mask(path) for camera, path in zip(self._cameras, paths, strict=False)})
        return predictor

    def _activate(self) -> None:
        parameters = self.parameters
        self._builder = SetBuilder(
            self._cameras, int(parameters.slop * 1e9), anchor=parameters.anchor, policy=parameters.sync_policy,
            patience_ns=int(parameters.patience * 1e9),
        )  # fmt: skip
        self._waiting: deque[tuple[SynchronizedSet, float]] = deque(maxlen=_REPLAY_QUEUE if parameters.reliable else 1)
        self._activated.callback(self._finish_set)
        self._reporter.start(self._rig, self._builder.statistics)
        self._activated.callback(self._reporter.stop)
        for camera in self._cameras:
            if self._rig.needs_camera_info:
                topic = parameters.camera_info_topic_of(camera)
                self._listen(CameraInfo, topic, partial(self._on_camera_info, camera), self._qos_of(camera))
        for camera in self._cameras:
            kind = CompressedImage if parameters.is_compressed(camera) else Image
            topic = parameters.image_topic_of(camera)
            self._listen(kind, topic, partial(self._on_image, camera), self._qos_of(camera))

    def _qos_of(self, camera: str) -> QoSProfile:
        reliable = self.parameters.is_reliable(camera)
        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        return QoSProfile(depth=self.parameters.image_queue_size, reliability=reliability)

    def _listen(self, kind: Any, topic: str, callback: Any, qos: QoSProfile) -> None:
        subscription = self.create_subscription(kind, topic, callback, qos)
        self._activated.callback(self.destroy_subscription, subscription)

    def _finish_set(self) -> None:
        """The set in work is finished before publishers go; those that wait are not begun."""
        self._waiting.clear()
        self._inference.submit(lambda: None).result()

    def _deactivate(self) -> None:
        self._activated.close()
        self._builder.reset()  # of images, which are megabytes
        self._forget.set()  # who knows where the robot is carried meanwhile

    def _cleanup(self) -> None:
        self._activated.close()
        self._configured.close()
        self._predictor = self._outputs = self._fusion = None

    def destroy_node(self) -> None:
        self._cleanup()
        super().destroy_node()

    def _on_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        """Only dynamic ones get here, all of one call at once; impossible values change nothing."""
        try:
            parameters = apply_changes(self.parameters, changes)
            if self._predictor is not None:
                _check_classes(self._predictor, parameters)
        except GaussianOccError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self.parameters = parameters
        if self._outputs is not None:
            self._outputs.parameters = self._reporter.parameters = parameters
        return SetParametersResult(successful=True)

    # ---- executor thread -------------------------------------------------------------------------------------------

    def _on_camera_info(self, camera: str, message: CameraInfo) -> None:
        if self._rig.add_camera_info(camera, message):
            self.get_logger().info(f"calibration of {camera} changed; the new one is in use")

    def _on_image(self, camera: str, message: Image | CompressedImage) -> None:
        self._reporter.image_arrived(camera, stamp_ns(message.header))
        image = PendingImage(camera, message)
        complete_sets = self._builder.add(camera, stamp_ns(message.header), image)
        # At once where the next set will have it. While a set is in work most images will be superseded: those of the
        # set that comes next are decoded when it does, so that decoding takes nothing from a slow network. The same
        # while sets do not come about, as of a camera that is dead.
        if not (self._waiting or self._reporter.works) and self._reporter.goes_well and not complete_sets:
            self._decoder.begin([image])
        for complete in complete_sets:
            full = len(self._waiting) == self._waiting.maxlen
            self._waiting.append((complete, time.perf_counter()))  # drops the oldest if full
            if full:
                self._reporter.statistics.count_drop("superseded")
            self._inference.submit(self._process_next)

    def _on_reset(self, request: Empty.Request, response: Empty.Response) -> Empty.Response:
        """octomap_server's name for it. The thread that fuses forgets, before it adds anything."""
        self._forget.set()
        self.get_logger().info("what was seen so far is forgotten")
        return response

    # ---- inference thread ------------------------------------------------------------------------------------------

    def _process_next(self) -> None:
        try:
            newest, completed = self._waiting.popleft()
        except IndexError:  # superseded before its turn, or deactivated
            return
        reporter = self._reporter
        reporter.statistics.record("queue", time.perf_counter() - completed)
        with reporter.at_work():
            try:
                self._predict_and_publish(newest, completed)
            except ExternalShutdownException:  # Ctrl-C during inference
                return
            except GaussianOccError as error:
                reporter.set_dropped(getattr(error, "reason", type(error).__name__), str(error))
            except Exception as error:
                if self.context.ok():  # otherwise Ctrl-C closed it under a call
                    reporter.set_failed(error)

    def _predict_and_publish(self, newest: SynchronizedSet, completed: float) -> None:
        reporter, predictor, outputs = self._reporter, self._predictor, self._outputs
        pixels, cameras = self._gather(newest)
        with reporter.statistics.timed("predict"):
            prediction = seen = predictor(pixels, cameras)
        if self._fusion is not None:
            with reporter.statistics.timed("fuse"):
                prediction = self._fuse(prediction, newest.stamp_ns)
        if not self.context.ok():
            raise ExternalShutdownException
        with reporter.statistics.timed("encode"):
            outputs.publish(prediction, newest.stamp_ns)
        reporter.set_published(newest.stamp_ns, completed)
        began = time.perf_counter()
        if outputs.publish_views(cameras.names, seen.render, newest.stamps_ns, self._rig.frames):
            reporter.statistics.record("render", time.perf_counter() - began)
        if outputs.problem:
            reporter.warn("output", outputs.problem)
        if (topics := outputs.undelivered()) and self.context.ok():
            reporter.warn("delivery", f"a subscriber does not take {', '.join(topics)} and may lose messages")

    def _gather(self, newest: SynchronizedSet) -> tuple[list[np.ndarray], Cameras]:
        """The images of a set and their cameras, at the times of their images."""
        with self._reporter.statistics.timed("decode"):
            images, reasons = self._decode_all(newest)
        stamps = {camera: newest.stamps_ns[camera] for camera in images}
        with self._reporter.statistics.timed("calibrate"):
            cameras = self._rig.lookup(newest.stamp_ns, stamps, lenient=self._degrades)
        cameras = self._without_misfits(cameras, images, reasons)
        self._decoder.reduce_to(self._predictor.reductions(cameras))
        if self._rig.motion_problem:
            self._reporter.warn("motion", f"motion between images is not compensated: {self._rig.motion_problem}")
        self._reporter.set_without({
            camera: reasons.get(camera, f"{camera}: no image within the slop")
            for camera in self._cameras if camera not in cameras.names
        })  # fmt: skip
        return [images[camera].pixels for camera in cameras.names], cameras

    def _fuse(self, prediction: OccupancyPrediction, stamp: int) -> OccupancyPrediction:
        if self._forget.is_set():
            self._forget.clear()
            self._fusion.reset()
        T_fixed_ego = self._rig.ego_at(stamp)
        if T_fixed_ego is None:
            fixed, ego = self.parameters.fixed_frame, self.parameters.ego_frame
            self._reporter.warn("fusion", f"not fused: TF has no {fixed} <- {ego} at the image's time")
            return prediction
        fused = self._fusion.add(prediction, T_fixed_ego, stamp)
        if self._fusion.resets > self._fusion_resets:
            self._fusion_resets = self._fusion.resets
            self._reporter.warn("fusion reset", "clock or odometry jumped: what was seen before is forgotten")
        return fused

    @property
    def _degrades(self) -> bool:
        return self.parameters.sync_policy == "degrade"

    def _without_misfits(self, cameras: Cameras, images: dict[str, DecodedImage], reasons: dict[str, str]) -> Cameras:
        """The cameras whose images are of their calibration's size; under sync_policy degrade others are left out, and
        `reasons` says why."""
        failures = dict(self._rig.left_out)
        for i, camera in enumerate(cameras.names):
            if not images[camera].fits(cameras.width[i], cameras.height[i]):
                height, width = (images[camera].reduce * side for side in images[camera].pixels.shape[:2])
                text = f"image is {width}x{height}, its calibration {cameras.width[i]}x{cameras.height[i]}"
                failures[camera] = RigIncomplete("image size", f"camera {camera}: {text}")
        fitting = tuple(name for name in cameras.names if name not in failures)
        if failures and (not self._degrades or not fitting):
            raise next(iter(failures.values()))
        self._leave_out(failures, reasons)
        return cameras if fitting == cameras.names else cameras.select(fitting)

    def _leave_out(self, failures: Mapping[str, RigIncomplete], reasons: dict[str, str]) -> None:
        for camera, failure in failures.items():
            self._reporter.statistics.count_left_out(failure.reason)
            self._reporter.warn(failure.reason, str(failure))
            reasons[camera] = str(failure)

    def _decode_all(self, newest: SynchronizedSet) -> tuple[dict[str, DecodedImage], dict[str, str]]:
        """Camera -> image, and camera -> why it has none. Damaged ones are left out under sync_policy degrade, while
        there are others."""
        images, failed = self._decoder.finish(newest.items)
        failures = {c: RigIncomplete("undecodable image", f"camera {c}: {error}") for c, error in failed.items()}
        if failures and not (self._degrades and images):
            raise next(iter(failures.values()))
        reasons: dict[str, str] = {}
        self._leave_out(failures, reasons)
        return images, reasons


def _check_classes(predictor: OccupancyPredictor, parameters: NodeParameters) -> None:
    """ConfigError where parameters name classes that the model does not have."""
    for name in ("traversable_classes", "hidden_classes"):
        try:
            class_table(predictor.class_names, [each for each in getattr(parameters, name) if each])
        except ValueError as error:
            raise ConfigError(f"parameter {name}: {error}") from None


def main(args: list[str] | None = None) -> None:
    with contextlib.suppress(KeyboardInterrupt):  # one that arrives while another exception is being handled
        _run(args)


def _run(args: list[str] | None) -> None:
    node, initialized = None, False
    try:
        rclpy.init(args=args)
        initialized = True
        leave_interrupt_to_ros()
        warnings.filterwarnings("ignore", "Failed to fini", RuntimeWarning)  # Ctrl-C while rclpy makes the node
        node = OccupancyNode()
        for step in (node.trigger_configure, node.trigger_activate) if node.parameters.autostart else ():
            if rclpy.ok() and step() != TransitionCallbackReturn.SUCCESS:
                sys.exit(1)  # the transition has logged why
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except GaussianOccError as error:
        sys.exit(f"occupancy_node: {' '.join(str(error).split())}")
    except Exception as error:
        if rclpy.ok():
            raise
        if not initialized:  # unreadable ROS arguments: a --params-file that is absent or no YAML, a bad -p or -r
            sys.exit(f"occupancy_node: ROS arguments {sys.argv[1:]}: {' '.join(str(error).split())}")
        # Otherwise Ctrl-C closed the context in the middle of a call.
    finally:
        ignore_interrupt()
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
        ignore_interrupt()


if __name__ == "__main__":
    main()
