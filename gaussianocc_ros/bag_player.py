# SPDX-License-Identifier: Apache-2.0
"""Replay a rosbag2 as it was recorded, for systems without `ros2 bag`: bytes, stamps, QoS, and /clock if asked.

`--step` makes a replay lossless: the player asks the occupancy node which cameras it joins into sets, forms the same
sets, and waits for the result of each before it goes on. A replay that does not wait counts the sets that got one.
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rclpy
from rcl_interfaces.srv import GetParameters
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from rosbags.interfaces import Connection, QosDurability, QosHistory, QosReliability
from rosbags.rosbag2 import Reader
from rosgraph_msgs.msg import Clock

from gaussianocc_core.data.sets import SetBuilder
from gaussianocc_core.errors import BagError, GaussianOccError
from gaussianocc_ros.msg import SemanticOccupancy
from gaussianocc_ros.parameters import NodeParameters
from gaussianocc_ros.stamps import cdr_stamp_ns, time_message
from gaussianocc_ros.startup import ignore_interrupt, leave_interrupt_to_ros

_STEP_PARAMETERS = ("cameras", "rig_file", "image_topic", "anchor_camera", "slop")
_RESULT = "gaussianocc_ros/msg/SemanticOccupancy"
_GIVE_UP_AFTER = 3  # unanswered sets in a row: the node is gone, or can do nothing with this bag
_SETTLE = 0.5  # s without a new subscriber until a plain replay begins
_LINGER = 2.0  # s without a new result until a plain replay ends


class ReplayError(GaussianOccError):
    """The bag is fine, but nobody takes or answers what is played."""


class BagPlayer(Node):
    """Publishes the topics of a bag; `play` runs in the main thread while an executor thread serves callbacks."""

    def __init__(self, bag: Path, options: argparse.Namespace) -> None:
        super().__init__("bag_player")
        self._options = options
        self._reader = _open(bag)
        self.published: Counter[str] = Counter()
        self.step: StepGate | None = None  # None: a plain replay, and no occupancy node listens
        self._publishers_by_topic: dict[str, Any] = {}
        self._latched: set[str] = set()
        for connection in self._reader.connections:
            self._offer(connection)
        if not self._publishers_by_topic:
            raise BagError(f"{bag}: nothing to play; topics: {', '.join(self._reader.topics) or 'none'}")
        self._clock_publisher = self.create_publisher(Clock, "/clock", 1) if options.clock else None
        self._last_clock_ns = 0
        self._wall_start = self._bag_start = 0.0

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(self._publishers_by_topic)

    def _offer(self, connection: Connection) -> None:
        topic = connection.topic
        if topic in self._publishers_by_topic or (self._options.topics and topic not in self._options.topics):
            return
        if topic == "/clock" and self._options.clock:
            return
        kind = _import_message(connection.msgtype)
        if kind is None:
            _say(f"skipped {topic}: no Python package for {connection.msgtype} in this environment")
            return
        qos = _qos(connection, reliable=self._options.step)
        if qos.durability == DurabilityPolicy.TRANSIENT_LOCAL:
            self._latched.add(topic)
        self._publishers_by_topic[topic] = self.create_publisher(kind, topic, qos)

    # ---- playing ---------------------------------------------------------------------------------------------------

    def play(self) -> None:
        options = self._options
        if options.step:
            self.step = StepGate(self, options.step_topic, options.step_timeout)
            self.step.connect(options.wait)
        else:
            self._wait_for_subscribers(options.wait)
            self._count_sets(options.wait_for or options.step_topic)
        first = self._reader.start_time + int(options.start_offset * 1e9)
        while True:
            self._pass(first)
            if not options.loop:
                break
        for publisher in self._publishers_by_topic.values():
            publisher.wait_for_all_acked(Duration(seconds=5))
        if self.step and not options.step:
            self.step.linger()

    def _count_sets(self, topic: str) -> None:
        if not any(info.topic_type == _RESULT for info in self.get_publishers_info_by_topic(topic)):
            return
        step = StepGate(self, topic, self._options.step_timeout)
        try:
            step.connect(_LINGER)
        except GaussianOccError:  # not an occupancy node, or one that does not take these images: nothing to count
            return
        self.step = step

    def _pass(self, first_ns: int) -> None:
        """The bag once, from this log time; what is latched before it is published too."""
        self._bag_start, self._wall_start, self._last_clock_ns = first_ns, time.monotonic(), 0
        pending_since = 0  # log time of the message that completed the sets being waited for
        for topic, log_ns, data in self._messages(first_ns):
            # Not at once: TF and CameraInfo of the same time may still follow, and the node needs them for its answer.
            if self._options.step and self.step.pending and log_ns > pending_since:
                self._wall_start += self.step.wait()
            self._wait_until(log_ns)
            self._publishers_by_topic[topic].publish(data)
            self.published[topic] += 1
            if self.step and self.step.note(topic, data):
                pending_since = log_ns
            self._show_progress(log_ns)
        if self._options.step and self.step.pending:
            self.step.wait()

    def _messages(self, first_ns: int) -> Iterator[tuple[str, int, bytes]]:
        wanted = [connection for connection in self._reader.connections if connection.topic in self.topics]
        latched = [connection for connection in wanted if connection.topic in self._latched]
        try:
            if latched and first_ns > self._reader.start_time:
                for connection, _, data in self._reader.messages(latched, stop=first_ns):
                    yield connection.topic, first_ns, bytes(data)
            for connection, log_ns, data in self._reader.messages(wanted, start=first_ns):
                yield connection.topic, log_ns, bytes(data)
        except Exception as error:  # rosbags raises what its storage libraries raise
            raise BagError(f"{self._options.bag}: broken off while reading: {error}") from error

    def _wait_until(self, log_ns: int) -> None:
        """Sleep until this log time is due, moving /clock along."""
        rate, clock = self._options.rate, self._options.clock
        while rate > 0 and self.context.ok():
            remaining = self._wall_start + (log_ns - self._bag_start) * 1e-9 / rate - time.monotonic()
            if remaining <= 0:
                break
            time.sleep(min(remaining, 1 / clock if clock else 0.1))
            self._publish_clock(min(log_ns, self._bag_start + int((time.monotonic() - self._wall_start) * rate * 1e9)))
        if not self.context.ok():
            raise ExternalShutdownException
        self._publish_clock(log_ns)

    def _publish_clock(self, log_ns: int) -> None:
        if self._clock_publisher is not None and log_ns - self._last_clock_ns >= 1e9 / self._options.clock:
            self._clock_publisher.publish(Clock(clock=time_message(log_ns)))
            self._last_clock_ns = log_ns

    def _wait_for_subscribers(self, timeout: float) -> None:
        """Until somebody listens, the awaited topic is there, and neither has changed for a moment."""
        awaited = self._options.wait_for
        deadline, before, since = time.monotonic() + timeout, (0, False), time.monotonic()
        while time.monotonic() < deadline:
            count = sum(publisher.get_subscription_count() for publisher in self._publishers_by_topic.values())
            state = count, not awaited or self.count_publishers(awaited) > 0
            if state != before:
                before, since = state, time.monotonic()
            if all(state) and time.monotonic() - since >= _SETTLE:
                return
            self._pause()
        if awaited and not before[1]:
            _say(f"nobody publishes {awaited} after {timeout:g} s; playing anyway")
        elif not before[0] and timeout > 0:
            _say(f"nobody listens to any of {len(self.topics)} topics after {timeout:g} s; playing anyway")

    def unmatched(self, topics: list[str]) -> list[str]:
        return [topic for topic in topics if not self._publishers_by_topic[topic].get_subscription_count()]

    def _pause(self) -> None:
        if not self.context.ok():
            raise ExternalShutdownException
        time.sleep(0.02)

    # ---- words -----------------------------------------------------------------------------------------------------

    def _show_progress(self, log_ns: int) -> None:
        if sys.stderr.isatty():
            done, total = ((t - self._reader.start_time) * 1e-9 for t in (log_ns, self._reader.end_time))
            sys.stderr.write(f"\r{done:8.2f} / {total:.2f} s, {self.published.total()} messages ")

    def summary(self) -> str:
        seconds = max(self._reader.duration * 1e-9, 1e-9)
        lines = [f"played {self.published.total()} messages on {len(self.published)} topics"]
        for topic, count in sorted(self.published.items()):
            lines.append(f"  {topic:<40} {count:6d}  {count / seconds:7.2f} Hz as recorded")
        if self.step:
            answered, formed = self.step.count_answered(), self.step.formed
            lines.append(f"sets: {answered} of {formed} answered on {self.step.topic}")
            if answered < formed and not self._options.step:
                lines[-1] += "; /diagnostics of the node say why the others were dropped, and --step waits for each"
        return "\n".join(lines)

    def close(self) -> None:
        self._reader.close()
        self.destroy_node()


class StepGate:
    """Knows when the occupancy node has all it needs for a set, and waits for the set's result."""

    def __init__(self, player: BagPlayer, topic: str, timeout: float) -> None:
        self.topic = topic
        self.formed = self.answered = 0
        self.pending: list[int] = []  # stamps of sets that were published in full and not waited for
        self._player, self._timeout = player, timeout
        self._silent = 0
        self._results: Counter[int] = Counter()  # by stamp
        self._arrived = threading.Condition()
        self._camera_of: dict[str, str] = {}
        player.create_subscription(SemanticOccupancy, topic, self._on_result, 10, raw=True)

    def connect(self, timeout: float) -> None:
        """Find the node behind the topic and wait until it takes every image; ReplayError names what is missing."""
        deadline = time.monotonic() + timeout
        publisher = self._until(deadline, self._find_publisher, f"nobody publishes {self.topic}; is the node active?")
        name, space = publisher.node_name, publisher.node_namespace.rstrip("/")
        values = self._ask_parameters(f"{space}/{name}", deadline)
        parameters = NodeParameters(**values)
        self._camera_of = {
            expand_topic_name(parameters.image_topic_of(camera), name, space or "/"): camera
            for camera in parameters.camera_names
        }
        absent = [topic for topic in self._camera_of if topic not in self._player.topics]
        if absent:
            raise ReplayError(
                f"{space}/{name} waits for {', '.join(absent)}, not in what is played: {', '.join(self._player.topics)}"
            )
        topics = list(self._camera_of)
        self._until(deadline, lambda: not self._player.unmatched(topics), f"{space}/{name} does not take the images of",
                    lambda: ", ".join(self._player.unmatched(topics)) + "; is it active?")  # fmt: skip
        self._builder = SetBuilder(
            parameters.camera_names, int(parameters.slop * 1e9), anchor=parameters.anchor,
            policy=parameters.sync_policy, patience_ns=int(parameters.patience * 1e9),
        )  # fmt: skip

    def note(self, topic: str, data: bytes) -> bool:
        """True if this message completes a set."""
        camera = self._camera_of.get(topic)
        if camera is None:
            return False
        complete = [found.stamp_ns for found in self._builder.add(camera, cdr_stamp_ns(data), None)]
        self.pending += complete
        self.formed += len(complete)
        return bool(complete)

    def wait(self) -> float:
        """Seconds until the pending sets were answered; one that is not in time is counted and named."""
        begin = time.monotonic()
        while self.pending:
            stamp = self.pending.pop(0)
            if self._is_answered(stamp):
                self.answered += 1
                self._silent = 0
                continue
            self._silent += 1
            missing = f"no result on {self.topic} for the set at {stamp * 1e-9:.6f} s"
            if gone := self._is_gone():
                _say(f"{missing}; the node is gone")
            else:
                why = "the node's log and /diagnostics say why it was dropped"
                _say(f"{missing} within {self._timeout:g} s; {why}")
            if self._silent >= _GIVE_UP_AFTER or gone:
                raise ReplayError(f"gave up: {self._silent} sets in a row without a result on {self.topic}")
        return time.monotonic() - begin

    def count_answered(self) -> int:
        """Of the sets so far: those that were waited for, and those of a replay that does not wait."""
        return self.answered + (self._results & Counter(self.pending)).total()

    def linger(self) -> None:
        """Until every set is answered, or nothing new comes."""
        with self._arrived:
            quiet_since = time.monotonic()
            while self.count_answered() < self.formed and time.monotonic() - quiet_since < _LINGER:
                if not self._player.context.ok():
                    raise ExternalShutdownException
                if self._arrived.wait(0.1):
                    quiet_since = time.monotonic()

    def _is_answered(self, stamp: int) -> bool:
        deadline = time.monotonic() + self._timeout
        with self._arrived:
            while stamp not in self._results and time.monotonic() < deadline and not self._is_gone():
                if not self._player.context.ok():
                    raise ExternalShutdownException
                self._arrived.wait(0.1)
            found = stamp in self._results
            self._results.pop(stamp, None)  # a looping bag brings the same stamp again
            return found

    def _is_gone(self) -> bool:
        return not self._player.count_publishers(self.topic)

    def _on_result(self, data: bytes) -> None:
        with self._arrived:
            self._results[cdr_stamp_ns(data)] += 1
            self._arrived.notify_all()

    def _find_publisher(self) -> Any:
        found = self._player.get_publishers_info_by_topic(self.topic)
        # The name arrives after the endpoint; until then it is a placeholder.
        return next((info for info in found if info.node_name and "UNKNOWN" not in info.node_name), None)

    def _ask_parameters(self, node: str, deadline: float) -> dict[str, Any]:
        client = self._player.create_client(GetParameters, f"{node}/get_parameters")
        self._until(deadline, client.service_is_ready, f"{node} has no parameter service: is it an occupancy_node?")
        reply = client.call_async(GetParameters.Request(names=list(_STEP_PARAMETERS)))
        self._until(deadline, reply.done, f"{node} does not answer what its parameters are")
        values = [parameter_value_to_python(value) for value in reply.result().values]
        if len(values) != len(_STEP_PARAMETERS):
            raise ReplayError(f"{node} lacks parameters {', '.join(_STEP_PARAMETERS)}: it is not an occupancy_node")
        pairs = zip(_STEP_PARAMETERS, values, strict=True)
        return {name: tuple(value) if name == "cameras" else value for name, value in pairs if value is not None}

    def _until(self, deadline: float, condition: Any, complaint: str, detail: Any = None) -> Any:
        while not (result := condition()):
            if time.monotonic() > deadline:
                raise ReplayError(f"{complaint} {detail()}" if detail else complaint)
            self._player._pause()
        return result


# ---- bags ----------------------------------------------------------------------------------------------------------


def _open(bag: Path) -> Reader:
    if not bag.exists():
        raise BagError(f"{bag}: no such bag; give a rosbag2 folder, an .mcap or a .db3 file")
    try:
        reader = Reader(bag)
        reader.open()
    except Exception as error:  # ReaderError, OSError, and whatever the storage libraries raise on broken files
        raise BagError(f"{bag}: not a readable rosbag2: {' '.join(str(error).split())}") from error
    if not reader.message_count:
        reader.close()
        raise BagError(f"{bag}: the bag holds no messages")
    return reader


def _import_message(name: str) -> Any:
    package, *_, kind = name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind)
    except (ImportError, AttributeError):
        return None


def _qos(connection: Connection, reliable: bool) -> QoSProfile:
    """The first offered profile of the recording. A lossless replay is reliable whatever was recorded."""
    qos = QoSProfile(depth=10)
    offered = getattr(connection.ext, "offered_qos_profiles", None)
    if offered:
        recorded = offered[0]
        if recorded.history == QosHistory.KEEP_ALL:
            qos.history = HistoryPolicy.KEEP_ALL
        qos.depth = max(1, recorded.depth)
        if recorded.reliability == QosReliability.BEST_EFFORT and not reliable:
            qos.reliability = ReliabilityPolicy.BEST_EFFORT
        if recorded.durability == QosDurability.TRANSIENT_LOCAL:
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
            # One player stands in for many publishers, each of which kept its last messages for late subscribers.
            qos.depth = max(qos.depth, min(connection.msgcount, 100))
    if reliable:
        qos.depth = max(qos.depth, 10)
    return qos


# ---- command line --------------------------------------------------------------------------------------------------


def _say(text: str) -> None:
    print(f"bag_player: {text}", file=sys.stderr, flush=True)


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bag_player", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bag", type=Path, help="rosbag2 folder, .mcap or .db3 file")
    parser.add_argument("--rate", type=float, default=1.0, help="speed; 0 plays as fast as it goes (default 1)")
    parser.add_argument("--loop", action="store_true", help="start over at the end")
    parser.add_argument("--clock", type=float, nargs="?", const=40.0, default=0.0, metavar="HZ",
                        help="publish /clock (at 40 Hz unless told)")  # fmt: skip
    parser.add_argument("--topics", nargs="+", metavar="TOPIC", help="play these only")
    parser.add_argument("--start-offset", type=float, default=0.0, metavar="S", help="begin this far into the bag")
    parser.add_argument("--wait", type=float, metavar="S",
                        help="longest wait for subscribers before the start (default 5; with --step 60)")  # fmt: skip
    parser.add_argument("--wait-for", default="", metavar="TOPIC",
                        help="wait until somebody publishes this as well, such as the results of a node")  # fmt: skip
    parser.add_argument("--step", action="store_true", help="wait for the occupancy node's result of each image set")
    parser.add_argument("--step-topic", default="/occupancy_node/occupancy", metavar="TOPIC", help="the results")
    parser.add_argument("--step-timeout", type=float, default=30.0, metavar="S", help="longest wait for one result")
    options = parser.parse_args(arguments)
    for name in ("rate", "clock", "start_offset", "wait", "step_timeout"):
        value = getattr(options, name)
        if value is not None and not (value >= 0 and math.isfinite(value)):
            parser.error(f"--{name.replace('_', '-')}: expected a number >= 0, got {value}")
    if options.wait is None:
        options.wait = 60.0 if options.step else 5.0
    return options


def main(args: list[str] | None = None) -> None:
    args = sys.argv if args is None else args
    options = _parse(remove_ros_args(args)[1:])
    player, executor, spinner, status = None, None, None, 0
    try:
        rclpy.init(args=args)
        leave_interrupt_to_ros()
        player = BagPlayer(options.bag, options)
        executor = SingleThreadedExecutor()
        executor.add_node(player)
        spinner = threading.Thread(target=_spin, args=(executor,), daemon=True)
        spinner.start()
        player.play()
        status = 3 if options.step and player.step.answered < player.step.formed else 0
    except (KeyboardInterrupt, ExternalShutdownException):
        status = 130
    except GaussianOccError as error:
        _say(str(error))
        status = 2 if isinstance(error, BagError) else 3
    except Exception:
        if rclpy.ok():
            raise
        status = 130  # Ctrl-C closed the context in the middle of a publish
    finally:
        ignore_interrupt()  # a second one must not cut the summary short
        if player is not None and player.published:
            print(player.summary(), flush=True)
        if spinner is not None:
            executor.shutdown()
            spinner.join(10)  # a thread that still waits inside rclpy at exit aborts the process
        if player is not None:
            player.close()
        rclpy.try_shutdown()
        ignore_interrupt()
    sys.exit(status)


def _spin(executor: SingleThreadedExecutor) -> None:
    try:
        executor.spin()
    except Exception:  # Ctrl-C closes the context under a waiting executor in more ways than one
        if rclpy.ok():
            raise


if __name__ == "__main__":
    main()
