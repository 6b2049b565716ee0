# SPDX-License-Identifier: Apache-2.0
"""The thread that owns the predictor: takes the newest set, predicts, fuses if asked, and has it published."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode

from gaussianocc_core.checkpoint import default_checkpoint
from gaussianocc_core.data.entries import mask_paths, read_mask
from gaussianocc_core.data.sets import SynchronizedSet
from gaussianocc_core.errors import GaussianOccError, PredictionError
from gaussianocc_core.fusion import TemporalFusion
from gaussianocc_core.geometry.transforms import make_transform
from gaussianocc_core.labels import UNOBSERVED
from gaussianocc_core.models.ego_motion import VisualOdometry
from gaussianocc_core.predictor import OccupancyPredictor
from gaussianocc_core.types import OccupancyPrediction
from gaussianocc_ros.camera_rig import plausible_cameras
from gaussianocc_ros.gather import Gathered, Gatherer
from gaussianocc_ros.motion import IMAGES, Motion
from gaussianocc_ros.outputs import EgoAt, Outputs, practise_encoding
from gaussianocc_ros.parameters import NodeParameters
from gaussianocc_ros.reporting import Reporter

_REPLAY_QUEUE = 8  # sets; one image can complete several
_PAST = "before a step back"  # why a set was dropped


@dataclass(frozen=True)
class Known:
    """A result, or the map of all of them."""

    prediction: OccupancyPrediction  # of a map: over its own grid, in the fixed frame
    stamp_ns: int  # of the newest image in it
    fused: bool = False  # a map in the fixed frame


class Inference:
    """Sets go in by the executor's thread. Before this one lies a slot for the newest, so that a slow network skips
    sets instead of falling behind; for lossless replay (`reliable`) it is a short queue."""

    def __init__(self, node: LifecycleNode, parameters: NodeParameters) -> None:
        self._node, self._parameters = node, parameters
        self._waiting: deque[tuple[SynchronizedSet, float]] = deque(maxlen=_REPLAY_QUEUE if parameters.reliable else 1)
        # One thread for warm-up and every prediction: torch keeps a thread pool, numba its kernels, per calling thread.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._forget = threading.Event()
        self._fusion: TemporalFusion | None = None
        self._fusion_resets = 0  # that were said
        self.newest: Known | None = None  # of the last set, since activation

    def load(self) -> OccupancyPredictor:
        """The predictor, warmed up if the parameters say so; GaussianOccError if it cannot be had."""
        self.predictor = self._thread.submit(self._load).result()
        self._fusion = self._make_fusion(self.predictor)
        return self.predictor

    def _make_fusion(self, predictor: OccupancyPredictor) -> TemporalFusion | None:
        parameters = self._parameters
        if not parameters.fusion:
            return None
        return TemporalFusion(
            predictor.grid,
            predictor.class_names,
            hit=parameters.fusion_hit,
            miss=parameters.fusion_miss,
            doubt=parameters.fusion_doubt,
            decay=parameters.fusion_decay,
        )

    def start(self, gatherer: Gatherer, outputs: Outputs, motion: Motion, reporter: Reporter, ego_at: EgoAt) -> None:
        """From now on sets may come. ego_at: odometry, for what is fused in the fixed frame."""
        self._gatherer, self._outputs, self._motion, self._reporter = gatherer, outputs, motion, reporter
        self._ego_at = ego_at

    def submit(self, complete: SynchronizedSet) -> None:
        full = len(self._waiting) == self._waiting.maxlen
        self._waiting.append((complete, time.perf_counter()))  # drops the oldest if full
        if full:
            self._reporter.statistics.count_drop("superseded")
        self._thread.submit(self._process_next)

    @property
    def is_idle(self) -> bool:
        """Whether no set is in work or waits."""
        return not (self._waiting or self._reporter.works)

    def forget(self) -> None:
        """What was seen so far; by the thread itself, before it adds anything."""
        self._forget.set()

    def stop(self) -> None:
        """The set in work is finished; those that wait are not begun."""
        self._waiting.clear()
        self._thread.submit(lambda: None).result()
        self.newest = None

    def known(self) -> Known | None:
        """The map where there is fusion, else the newest result; after the set in work."""
        return self._thread.submit(self._map).result()

    def _map(self) -> Known | None:
        found = self._fusion.snapshot() if self._fusion is not None else None
        if found is None or self.newest is None:
            return self.newest
        observed = found.labels != UNOBSERVED
        prediction = self.newest.prediction.over(found.grid, found.labels, found.confidence, observed)
        return Known(prediction, found.stamp_ns, True)

    def close(self) -> None:
        self._thread.shutdown()

    # ---- inference thread ------------------------------------------------------------------------------------------

    def _load(self) -> OccupancyPredictor:
        parameters, cameras = self._parameters, self._parameters.camera_names
        path = parameters.checkpoint or default_checkpoint()
        caution = parameters.caution or None
        if path:
            predictor = OccupancyPredictor.from_checkpoint(path, parameters.device, caution, parameters.memory)
        else:
            predictor = OccupancyPredictor.untrained(device=parameters.device, caution=caution)
            self._node.get_logger().warning("no checkpoint is shipped or given: UNTRAINED, the occupancy means nothing")
        # Here, because it takes seconds the first time: networks are exported and compiled.
        if parameters.device == "auto":
            self._node.get_logger().info(predictor.take_fastest(len(cameras)))
        else:
            predictor.prepare(len(cameras))
        if parameters.warm_up:
            self._practise(predictor)
        paths = mask_paths(parameters.mask_dir, cameras)
        predictor.use_masks({camera: read_mask(path) for camera, path in zip(cameras, paths, strict=False)})
        return predictor

    def _practise(self, predictor: OccupancyPredictor) -> None:
        """Everything that a set or a subscriber may ask for once: kernels are compiled at their first use, which takes
        seconds after an installation, and memory pools fill."""
        rng, cameras = np.random.default_rng(0), plausible_cameras(self._parameters.camera_names)
        odometry = VisualOdometry() if predictor.sees_depth else None
        fusion = self._make_fusion(predictor)
        for moment in range(3):  # one more than what is matched with the one before
            if not self._node.context.ok():  # Ctrl-C
                return
            images = [cv2.resize(rng.integers(0, 255, (9, 16, 3), np.uint8), (640, 360)) for _ in cameras.names]
            stamp_s = 1.0 + 0.1 * moment
            T_world_ego = make_transform(np.eye(3), np.array([0.5 * moment, 0.0, 0.0]))  # anew: it is remembered
            prediction = predictor(images, cameras, T_world_ego, stamp_s, odometry, motion_from_images=False)
            if fusion is not None:
                fusion.add(prediction, T_world_ego, int(1e9 * stamp_s))
        prediction.render()
        practise_encoding(prediction, cameras, self._parameters)
        predictor.reset()

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
            except PredictionError as error:
                reporter.set_meaningless(error)
            except GaussianOccError as error:
                reporter.set_dropped(getattr(error, "reason", type(error).__name__), str(error))
            except Exception as error:
                if self._node.context.ok():  # otherwise Ctrl-C closed it under a call
                    reporter.set_failed(error)

    def _predict_and_publish(self, newest: SynchronizedSet, completed: float) -> None:
        reporter, predictor, outputs = self._reporter, self.predictor, self._outputs
        if self._is_of_the_past(newest):
            return
        gathered = self._gatherer.gather(newest)
        if gathered.motion_problem and self._is_of_the_past(newest):  # while it waited for TF that will never come
            return
        reporter.set_gathered(gathered)
        self._forget_if_asked(gathered)
        motion = self._motion.of(gathered)
        with reporter.statistics.timed("predict"):
            prediction = seen = predictor(
                gathered.images,
                gathered.cameras,
                motion.T_world_ego,
                1e-9 * gathered.stamp_ns,
                motion.odometry,
                motion_from_images=motion.source == IMAGES,
            )
        reporter.set_matched(motion, seen)
        self._motion.publish(seen.moved, gathered.stamp_ns)
        if self._fusion is not None:
            with reporter.statistics.timed("fuse"):
                prediction = self._fuse(self._fusion, prediction, gathered)
        if not self._node.context.ok():
            raise ExternalShutdownException
        self.newest = Known(prediction, gathered.stamp_ns)  # first: who hears of a result may ask for it at once
        with reporter.statistics.timed("encode"):
            outputs.publish(prediction, gathered.stamp_ns, gathered.T_fixed_ego)
            outputs.publish_clearing(gathered, seen)
            outputs.publish_scenery(self._gatherer.mounted, seen, gathered.continues)
        reporter.set_published(gathered.stamp_ns, completed)
        began = time.perf_counter()
        if outputs.publish_views(gathered, seen.render):
            reporter.statistics.record("render", time.perf_counter() - began)
        if outputs.problem:
            reporter.warn("output", outputs.problem)
        if (topics := outputs.undelivered(self._motion.publishers)) and self._node.context.ok():
            reporter.warn("delivery", f"a subscriber does not take {', '.join(topics)} and may lose messages")

    def _is_of_the_past(self, waiting: SynchronizedSet) -> bool:
        """Whether stamps have stepped back since the set was formed, as where a recording loops. It is then dropped:
        TF has forgotten its time, and its results would come among those of the new run."""
        if waiting.rewinds == self._reporter.rewinds:
            return False
        self._reporter.statistics.count_drop(_PAST)
        return True

    def _forget_if_asked(self, gathered: Gathered) -> None:
        asked = self._forget.is_set()
        self._forget.clear()
        if asked or not gathered.continues:
            self.predictor.reset()
            self._motion.reset()
            if self._fusion is not None:
                self._fusion.reset()
        if asked and self._fusion is not None:
            self.newest = None

    def _fuse(self, fusion: TemporalFusion, prediction: OccupancyPrediction, gathered: Gathered) -> OccupancyPrediction:
        T_fixed_ego = gathered.T_fixed_ego
        if T_fixed_ego is None:
            T_fixed_ego = self._ego_at(gathered.stamp_ns)  # it may have come meanwhile
        if T_fixed_ego is None:
            fixed, ego = self._parameters.fixed_frame, self._parameters.ego_frame
            self._reporter.warn("fusion", f"not fused: TF has no {fixed} <- {ego} at the image's time")
            return prediction
        fused = fusion.add(prediction, T_fixed_ego, gathered.stamp_ns)
        if fusion.resets > self._fusion_resets:
            self._fusion_resets = fusion.resets
            self._reporter.warn("fusion reset", "odometry jumped: what was seen before is forgotten")
        return fused
