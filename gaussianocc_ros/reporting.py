# SPDX-License-Identifier: Apache-2.0
"""What the node says about itself: /diagnostics once a second, a log line now and then, throttled warnings at once."""

from __future__ import annotations

import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType

from gaussianocc_core.data.entries import mask_paths, read_mask
from gaussianocc_core.data.sets import SetStatistics
from gaussianocc_core.errors import PredictionError
from gaussianocc_core.mistakes import one_line
from gaussianocc_core.models import view_ring
from gaussianocc_core.predictor import OccupancyPredictor, Prediction
from gaussianocc_ros.camera_rig import CameraRig
from gaussianocc_ros.diagnostics import MAX_AGE, CameraStatistics, NodeStatistics, memory_mb
from gaussianocc_ros.gather import NO_IMAGE, Gathered
from gaussianocc_ros.image_watch import ImageWatch
from gaussianocc_ros.lifecycle import TidyLifecycleNode
from gaussianocc_ros.motion import IMAGES, SetMotion
from gaussianocc_ros.parameters import NodeParameters

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
_WARN_PERIOD = 5.0  # s between two warnings of one kind
_SILENT_AFTER = 3.0  # s without an image until a camera is called silent
_LATE_REPORTS = 10  # reports, and so seconds, over which missing images are counted
_AHEAD = 0.1  # s by which stamps may lie in the future
_TAI = 37.0  # s that TAI is ahead of UTC (since 2017)
_CLOCK_PATIENCE = 5.0  # s from activation, in which nobody need publish /clock
_APART = 1.0  # s between two cameras' delays
_LATE_SHARE = 0.2  # of the sets of that time, without a camera's image, make it late


class LifeSign:
    """/diagnostics once a second, from the node's first moment to its last: while nobody has more to say, its state."""

    def __init__(self, node: TidyLifecycleNode) -> None:
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Goes on while a paused bag holds /clock.
        self._timer = node.create_timer(1.0, self.report, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.source: Callable[[], list[DiagnosticStatus]] | None = None  # of an active node

    @property
    def name(self) -> str:
        """What the names of statuses begin with, as diagnostic_updater has it; in a namespace with that."""
        return str(self._node.get_fully_qualified_name()).lstrip("/")

    def report(self) -> None:
        message = DiagnosticArray(status=self.source() if self.source is not None else [self._state()])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def _state(self) -> DiagnosticStatus:
        """A state that somebody wants is no fault; one that a failed transition left is."""
        state, failure = self._node.state_name, self._node.failure
        text = one_line(f"{state}: {failure}") if failure else state
        hint = {
            "unconfigured": "; `ros2 lifecycle set` configure, then activate, starts it",
            "inactive": "; `ros2 lifecycle set` activate starts it",
        }
        level = ERROR if failure else OK
        text = text if failure else f"{text}{hint.get(state, '')}"
        return _status(f"{self.name}: occupancy", self.name, level, text, {"state": state})


class Reporter:
    """Told what happens by the executor's and the inference thread; between `start` and `stop` it reports."""

    def __init__(
        self,
        node: TidyLifecycleNode,
        parameters: NodeParameters,
        cameras: tuple[str, ...],
        predictor: OccupancyPredictor,
        life: LifeSign,
    ) -> None:
        self.statistics = NodeStatistics()
        self.parameters = parameters  # replaced when a dynamic one changes
        self._node, self._cameras, self._life = node, cameras, life
        self._device, self._backend = predictor.device, predictor.backend_name
        self._warned: dict[str, float] = {}  # kind -> monotonic time
        self._watch: ImageWatch | None = None  # while it reports

    def start(self, rig: CameraRig, sets: SetStatistics) -> None:
        """Count from zero, report on these."""
        self.statistics = NodeStatistics()
        self._rig, self._sets = rig, sets
        self._started = self._last_log = time.monotonic()
        self._images = {camera: CameraStatistics() for camera in self._cameras}
        self._rewinds = 0  # that were said
        self._history: deque[tuple[Counter[str], int]] = deque(maxlen=_LATE_REPORTS + 1)  # missing, sets
        self._set_problem = ""  # of the last set
        self._nonsense = ""  # why the last set's prediction means nothing; "" where it does
        self._left_out: dict[str, str] = {}  # cameras that the last set did without -> why
        self._matched: dict[str, dict[str, str]] = {}  # camera -> the last set's views, for diagnostics
        self._suspect: dict[str, str] = {}  # cameras whose images were not matched -> what is wrong with them
        self._motion: dict[str, str] = {}  # the last set's, for diagnostics
        self._motion_problem = self._odometry_problem = ""
        self._used: dict[str, int] = {}  # camera -> stamp of its image in the last set
        self._reused: set[str] = set()  # cameras whose image the set before that had too
        self._images_say: dict[str, str] = {}  # camera -> what is wrong with its images
        self._at_work, self._began = False, time.monotonic()
        self._watch = ImageWatch(self._masks(), lambda error: self.warn("watch", f"images are not watched: {error!r}"))
        self._life.source = self._report

    def stop(self) -> None:
        self._life.source = None
        if self._watch is not None:
            self._watch.close()

    def _masks(self) -> dict[str, np.ndarray]:
        paths = mask_paths(self.parameters.mask_dir, self._cameras)
        masks = {camera: read_mask(path) for camera, path in zip(self._cameras, paths, strict=False)}
        return {camera: mask for camera, mask in masks.items() if mask is not None}

    # ---- what happens ----------------------------------------------------------------------------------------------

    def image_arrived(self, camera: str, stamp_ns: int) -> None:
        self._images[camera].arrived(self._seconds_since(stamp_ns) if stamp_ns else None)

    @property
    def rewinds(self) -> int:
        """How often stamps have stepped back."""
        return self._sets.rewinds

    @property
    def works(self) -> bool:
        """Whether a set is in work."""
        return self._at_work

    @property
    def goes_well(self) -> bool:
        """Whether sets come about: a result within the last second."""
        return time.monotonic() - self.statistics.last_published < 1.0 and self.statistics.sets > 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While a set is in work: a lossless replay sends no images meanwhile, which is then no silence."""
        self._at_work = True
        try:
            yield
        finally:
            self._at_work = False

    def set_published(self, stamp_ns: int, completed: float) -> None:
        """`completed`: when the set's last image came, by time.perf_counter."""
        self._set_problem = self._nonsense = ""
        self.statistics.record("total", time.perf_counter() - completed)
        self.statistics.count_set(self._seconds_since(stamp_ns))

    def set_gathered(self, gathered: Gathered) -> None:
        """Its images are decoded and its cameras placed; what it goes without is counted and said."""
        for left_out in gathered.left_out.values():
            if left_out.reason != NO_IMAGE:
                self.statistics.count_left_out(left_out.reason)
                self.warn(left_out.reason, left_out.text)
        if gathered.motion_problem:
            self.warn("motion", f"motion between images is not compensated: {gathered.motion_problem}")
        if self._watch is not None:
            self._watch.offer(gathered, self.parameters.watch_period)
        # A set may take an image that one before had too, where a camera lost one: then it is no driver that repeats.
        self._reused = {camera for camera, stamp in gathered.stamps_ns.items() if self._used.get(camera) == stamp}
        self._used = dict(gathered.stamps_ns)
        self._left_out = {camera: left_out.text for camera, left_out in gathered.left_out.items()}
        if self._left_out:
            self.warn("degraded", self._predicting_without())

    def set_matched(self, motion: SetMotion, prediction: Prediction) -> None:
        """What a set's images were matched with; what was refused is said."""
        moved, views = prediction.moved, prediction.matched
        self._motion, problem, self._odometry_problem = {}, motion.problem, ""
        if moved is not None:
            self._motion["odometry from images"] = moved.lost or "ok"
            if moved.lost and motion.source == IMAGES:
                problem = problem or f"odometry from images: {moved.lost}"
            elif moved.lost:  # matching has its motion from elsewhere; who subscribed to ~/odometry lacks it
                self._odometry_problem = f"~/odometry is not published: {moved.lost}"
                self.warn("odometry", self._odometry_problem)
        if views is None:  # a model that looks at each image alone
            self._matched, self._suspect, self._motion_problem = {}, {}, ""
            return
        source = motion.source if not problem else f"none: {problem}"
        memory = "used" if prediction.remembers else "not used"
        self._motion = {"motion": source, "views": str(views.count), "memory": memory, **self._motion}
        # By several threads: replaced, never changed.
        self._matched = {
            camera: {"views": ", ".join(used) or "none", "views refused": "; ".join(views.refused[camera]) or "none"}
            for camera, used in views.used.items()
        }
        fresh = {camera: lines for camera, lines in views.refused.items() if camera not in self._reused}
        self._suspect = {camera: text for camera, lines in fresh.items() if (text := _suspicion(camera, lines))}
        reasons = {line.rpartition(": ")[2] for lines in views.refused.values() for line in lines}
        for reason in (view_ring.JUMPED, view_ring.BAD_MOTION):
            if reason in reasons:
                problem = problem or f"{_MOTION_FAULTS[reason]}: images from before are not matched"
        self._motion_problem = problem
        if problem:
            self.warn("motion of sets", f"images are not matched with earlier ones: {problem}")
        for camera, text in self._suspect.items():
            self.warn(f"unmatched {camera}", text)

    def set_dropped(self, reason: str, text: str) -> None:
        self.statistics.count_drop(reason)
        self._set_problem = text
        self.warn(reason, f"set dropped ({self.statistics.drops[reason]} so far, {reason}): {text}")

    def set_meaningless(self, error: PredictionError) -> None:
        """The network said what is no number: nothing was published for this set, and that is an error at once."""
        self.set_dropped(error.reason, str(error))
        self._nonsense = f"{error.reason}: {error}"

    def set_failed(self, error: Exception) -> None:
        """A fault of ours must not end the node: it is counted, and logged in full."""
        self._node.get_logger().error(traceback.format_exc(), throttle_duration_sec=_WARN_PERIOD)
        self.set_dropped("internal error", repr(error))

    def warn(self, kind: str, text: str) -> None:
        """At most one line per kind and period; rclpy throttles by source line and would mix the kinds."""
        now = time.monotonic()
        if now - self._warned.get(kind, -_WARN_PERIOD) >= _WARN_PERIOD:
            self._warned[kind] = now
            self._node.get_logger().warning(one_line(text))

    def _seconds_since(self, stamp_ns: int) -> float:
        return (self._node.get_clock().now().nanoseconds - stamp_ns) * 1e-9

    # ---- what is said ----------------------------------------------------------------------------------------------

    def _report(self) -> list[DiagnosticStatus]:
        now = time.monotonic()
        attempts = self._sets.sets + self._sets.dropped["incomplete"]
        self._history.append((Counter(self._sets.missing), attempts))
        if self._sets.rewinds > self._rewinds:
            if not self._rewinds:  # a recording that loops needs no line for each pass; diagnostics count them
                self.warn("clock", "stamps stepped back, as when a recording loops: synchronisation begins afresh")
            self._rewinds = self._sets.rewinds
        silent, late = self._silent_cameras(now), self._late_cameras()
        self._missing = {camera: text for camera, text in self._rig.missing().items() if camera not in silent}
        for camera, text in self._rig.doubts.items():
            self.warn(f"calibration of {camera}", text)
        self._images_say = self._watch.said if self._watch is not None else {}
        for camera, text in self._images_say.items():
            self.warn(f"images of {camera}", text)
        level, text = self._judge(now, silent, late)
        values = self._values()
        name = self._life.name
        statuses = [_status(f"{name}: occupancy", self._hardware, level, text, values)]
        statuses += [self._camera_status(f"{name}: camera {each}", each, silent, late) for each in self._cameras]
        period = self.parameters.log_period
        if period and now - self._last_log >= period:
            self._last_log = now
            self._node.get_logger().info(", ".join(f"{key} {value}" for key, value in values.items()))
        return statuses

    def _judge(self, now: float, silent: dict[str, str], late: dict[str, str]) -> tuple[bytes, str]:
        """How bad it is, and the worst reason: what keeps the node from publishing before what makes it worse."""
        parameters, statistics = self.parameters, self.statistics
        reasons: list[str] = []
        if self._nonsense:
            return ERROR, self._nonsense
        if clock := self._clock_problem():
            reasons.append(clock)
            self.warn("clock of stamps", clock)
        if silent:
            everyone = len(silent) == len(self._cameras) > 1
            what = self._all_silent(now) if everyone else "; ".join(silent.values())
            reasons.append(f"{what}; check the topic, its QoS and the parameters cameras and image_topic")
            self.warn("silent", reasons[-1])
        elif now - self._started >= _SILENT_AFTER and (missing := "; ".join(self._missing.values())):
            reasons.append(missing)
            self.warn("missing", missing)
        if self._set_problem:
            reasons.append(self._set_problem)
        reasons += late.values()
        if self._left_out and not (silent or late):
            reasons.append(self._predicting_without())
        reasons += self._suspect.values()
        if self._watch is not None:
            reasons += [self._images_say[camera] for camera in self._watch.blind if camera in self._images_say]
        if self._motion_problem:
            reasons.append(f"images are not matched with earlier ones: {self._motion_problem}")
        if self._odometry_problem:
            reasons.append(self._odometry_problem)
        stalled = now - statistics.last_published
        if parameters.error_age and stalled > parameters.error_age and not self._waits_for_replay:
            return ERROR, f"no result for {stalled:.0f} s: {reasons[0] if reasons else 'no set of all cameras'}"
        age = statistics.age
        if age is not None and parameters.error_age and age > parameters.error_age:
            return ERROR, self._old(age)
        if age is not None and parameters.warn_age and age > parameters.warn_age:
            reasons.append(self._old(age))
        if statistics.sets > 1 and statistics.rate < parameters.least_rate:
            reasons.append(f"{statistics.rate:.2f} sets per second, least_rate is {parameters.least_rate:g}")
        return (WARN, reasons[0]) if reasons else (OK, "publishing")

    def _clock_problem(self) -> str:
        """What is wrong between this node's clock and the stamps of images; "" if nothing."""
        now_ns = self._node.get_clock().now().nanoseconds
        sim_time = bool(self._node.get_parameter("use_sim_time").value)
        if sim_time and not now_ns:
            if time.monotonic() - self._began < _CLOCK_PATIENCE:  # a player that was started with the node is no fault
                return ""
            return "use_sim_time is true, and nobody publishes /clock: play the bag with --clock, or set it to false"
        if zero := [camera for camera, images in self._images.items() if images.unstamped]:
            return f"{', '.join(zero)}: images have stamp zero and are not used; the driver must set header.stamp"
        offsets = {camera: images.offset for camera, images in self._images.items() if images.offset is not None}
        if not offsets:
            return ""
        camera, offset = max(offsets.items(), key=lambda item: abs(item[1]))
        if abs(offset) > MAX_AGE:
            if self.parameters.reliable or sim_time:  # a replay that waits for its results needs no clock
                return ""
            side = "before" if offset > 0 else "after"
            return (
                f"{camera}: stamps lie {_duration(abs(offset))} {side} this node's clock, so that no age is known: for "
                "a replay set use_sim_time to true and play with --clock, on a robot set the camera's clock"
            )
        if offset < -_AHEAD:
            tai = ", as TAI is ahead of UTC" if abs(-offset - _TAI) < 1.0 else ""
            return (
                f"{camera}: stamps lie {-offset:.2f} s ahead of this node's clock{tai}: set both clocks by one source "
                "(chrony, ptp4l with phc2sys)"
            )
        if abs(offset - _TAI) < 1.0:
            return (
                f"{camera}: stamps lie {offset:.2f} s behind this node's clock, as UTC is behind TAI: set both clocks "
                "by one source (chrony, ptp4l with phc2sys)"
            )
        if len(offsets) > 1 and max(offsets.values()) - min(offsets.values()) > _APART:
            other = min(offsets.items(), key=lambda item: item[1])[0]
            return (
                f"{camera}: images come {offset:.2f} s after their stamps, those of {other} after {offsets[other]:.2f} "
                "s: their clocks differ, or the driver is late; synchronise them"
            )
        return ""

    def _predicting_without(self) -> str:
        return f"predicting without {', '.join(self._left_out)}: {'; '.join(self._left_out.values())}"

    def _old(self, age: float) -> str:
        delays = [each.delay for each in self._images.values() if each.delay is not None]
        arrival = f", images arrive {max(delays):.2f} s after their stamps" if delays else ""
        return f"results are {age:.2f} s old{arrival}; see the stages' times"

    @property
    def _waits_for_replay(self) -> bool:
        """A lossless replay sends nothing while a set is in work."""
        return self.parameters.reliable and self._at_work

    def _silent_cameras(self, now: float) -> dict[str, str]:
        """Camera -> a phrase that says since when it sends nothing."""
        if self._waits_for_replay:
            return {}
        since = {camera: now - images.last_arrival for camera, images in self._images.items()}
        topics = self._topic_of
        return {c: f"{c}: no image on {topics(c)} for {age:.0f} s" for c, age in since.items() if age > _SILENT_AFTER}

    def _topic_of(self, camera: str) -> str:
        """Of its images, with the namespace and what launch has remapped."""
        return str(self._node.resolve_topic_name(self.parameters.image_topic_of(camera)))

    def _all_silent(self, now: float) -> str:
        seconds = min(now - images.last_arrival for images in self._images.values())
        topics = ", ".join(self._topic_of(camera) for camera in self._cameras)
        return f"no image from any camera for {seconds:.0f} s, on {topics}"

    def _late_cameras(self) -> dict[str, str]:
        """Camera -> a phrase, of those that many of the last seconds' sets were without."""
        (before, sets_before), (after, sets_after) = self._history[0], self._history[-1]
        sets = sets_after - sets_before
        found = {}
        for camera in self._cameras:
            count = after[camera] - before[camera]
            if sets and count > _LATE_SHARE * sets:
                found[camera] = f"{camera} was missing in {count} of the last {sets} sets{self._compare(camera)}"
        return found

    def _compare(self, camera: str) -> str:
        own = self._images[camera]
        others = [images for name, images in self._images.items() if name != camera]
        delays = [images.delay for images in others if images.delay is not None]
        text = f"; its {own.rate:.1f} images a second"
        if own.delay is None or not delays:
            return text
        return f"{text} come {1e3 * own.delay:.0f} ms after their stamps, others after {1e3 * min(delays):.0f} ms"

    @property
    def _hardware(self) -> str:
        return self._backend

    def _values(self) -> dict[str, str]:
        values, sets = self.statistics.summary(), self._sets
        attempts = sets.sets + sets.dropped["incomplete"] + sets.dropped["overflow"]
        values["sync success %"] = f"{100 * sets.sets / attempts:.1f}" if attempts else "unknown"
        for reason, count in sorted(sets.dropped.items()):
            if count:
                values[f"dropped: {reason}"] = str(count)
        if sets.degraded:
            values["sets without all cameras"] = str(sets.degraded)
        if sets.stood_in:
            values["sets without the anchor"] = str(sum(sets.stood_in.values()))
        if sets.rewinds:
            values["clock jumps back"] = str(sets.rewinds)
        for camera, count in sorted(sets.missing.items()):
            values[f"incomplete without {camera}"] = str(count)
        values |= self._motion
        values["memory MB"] = f"{memory_mb():.0f}"
        if self._device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._device)
            values["device memory MB"] = f"{torch.cuda.memory_reserved(self._device) / 1e6:.0f}"
            values["device memory free MB"] = f"{free / 1e6:.0f} of {total / 1e6:.0f}"
        return values

    def _camera_status(self, name: str, camera: str, silent: dict[str, str], late: dict[str, str]) -> DiagnosticStatus:
        images = self._images[camera]
        problems = (silent, self._missing, late, self._left_out, self._suspect, self._rig.doubts, self._images_say)
        problem = next((each[camera] for each in problems if camera in each), "")
        values = {
            "images": str(images.received),
            "images per second": f"{images.rate:.2f}",
            "delay ms": "unknown" if images.delay is None else f"{1e3 * images.delay:.0f}",
            "sets without it": str(self._sets.missing[camera]),
            "image": self._watch.value_of(camera) if self._watch is not None else "not looked at",
            **self._matched.get(camera, {}),
        }
        return _status(name, self._topic_of(camera), WARN if problem else OK, problem or "ok", values)


_MOTION_FAULTS = {
    view_ring.JUMPED: "odometry jumps",
    view_ring.BAD_MOTION: "odometry is not a finite rigid motion",
}


def _suspicion(camera: str, refused: tuple[str, ...]) -> str:
    """What is wrong with a camera, by why its own earlier images were refused; "" if nothing."""
    own = {line.rpartition(": ")[2] for line in refused if line.startswith(f"{camera} ")}
    if view_ring.FROZEN in own:
        return (
            f"{camera}: its image is frozen while others change or the robot moves, so that it is not matched; does "
            "its driver repeat images?"
        )
    if view_ring.RECALIBRATED in own:
        return f"{camera}: its calibration or place changed; its images from before are not matched"
    return ""


def _duration(seconds: float) -> str:
    for unit, size in (("years", 365.25 * 86400), ("days", 86400.0), ("hours", 3600.0)):
        if seconds > 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _status(name: str, hardware: str, level: bytes, message: str, values: dict[str, str]) -> DiagnosticStatus:
    return DiagnosticStatus(
        level=level,
        name=name,
        message=message,
        hardware_id=hardware,
        values=[KeyValue(key=key, value=value) for key, value in values.items()],
    )
