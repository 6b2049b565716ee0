# SPDX-License-Identifier: Apache-2.0
"""Replay a rosbag2 as it was recorded, for systems without `ros2 bag`: bytes, stamps, QoS, and /clock if asked.

`--step` makes a replay lossless: the player asks the occupancy node which cameras it joins into sets, forms the same
sets, and waits for the result of each before it goes on. A replay that does not wait counts the sets that got one.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import math
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from rosbags.interfaces import Connection, QosDurability, QosHistory, QosReliability
from rosgraph_msgs.msg import Clock

from gaussianocc_core.bags.opened import OpenBag, is_static_tf, open_bag
from gaussianocc_core.errors import BagError, GaussianOccError
from gaussianocc_core.mistakes import one_line
from gaussianocc_ros.delivery import wait_until_delivered
from gaussianocc_ros.stamps import time_message
from gaussianocc_ros.startup import USER_MISTAKE, ignore_interrupt, leave_interrupt_to_ros
from gaussianocc_ros.step_gate import LINGER, StepGate, Unanswered, pause

_UNANSWERED = 3  # exit status: sets of a lossless replay got no result
_RESULT = "gaussianocc_ros/msg/SemanticOccupancy"
_TYPE = re.compile(r"(?P<package>[a-z][a-z0-9_]*)/(msg/)?(?P<kind>[A-Z][A-Za-z0-9]*)")
_DELIVERY_TIMEOUT = 5.0  # s at the end, for each topic
_SETTLE = 0.5  # s without a new subscriber until a plain replay begins


class BagPlayer(Node):
    """Publishes the topics of a bag; `play` runs in the main thread while an executor thread serves callbacks."""

    def __init__(self, bag: Path, options: argparse.Namespace) -> None:
        super().__init__("bag_player")
        self._options = options
        self._reader = _open(bag)
        self.published: Counter[str] = Counter()
        self.step: StepGate | None = None  # None: a plain replay, and no occupancy node listens
        self._space = self.get_namespace().rstrip("/")  # a robot's topics move with its namespace
        self._names: dict[str, str] = {}  # topic as recorded -> as played
        self._publishers_by_topic: dict[str, Any] = {}  # as played
        self._latched: set[str] = set()
        self._damage: Counter[str] = Counter()  # why something could not be read
        for problem in self._reader.problems:
            _say(f"{bag}: {problem}")
        for connection in self._reader.connections:
            self._offer(connection)
        if not self._publishers_by_topic:
            raise BagError(f"{bag}: nothing to play; topics: {', '.join(self._reader.topics) or 'none'}")
        self._clock_publisher = self.create_publisher(Clock, "/clock", 1) if options.clock else None
        self._last_clock_ns = 0
        self._played_ns = 0  # of the recording, over all passes
        self._wall_start = self._bag_start = 0.0

    @property
    def topics(self) -> tuple[str, ...]:
        return tuple(self._publishers_by_topic)

    def _offer(self, connection: Connection) -> None:
        topic = connection.topic
        if topic in self._names or (self._options.topics and topic not in self._options.topics):
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
        name = self._names[topic] = f"{self._space}{topic}"
        self._publishers_by_topic[name] = self.create_publisher(kind, name, qos)

    # ---- playing ---------------------------------------------------------------------------------------------------

    def play(self) -> None:
        options = self._options
        if options.step:
            self.step = self._gate(options.step_topic)
            self.step.connect(options.wait)
            self._leave_to(self.step)
            for doubt in self.step.doubts:
                _say(doubt)
        else:
            self._wait_for_subscribers(options.wait)
            self._count_sets(options.wait_for or options.step_topic)
        first = self._reader.start_time + int(options.start_offset * 1e9)
        while True:
            self._pass(first)
            if not options.loop:
                break
        for publisher in self._publishers_by_topic.values():
            wait_until_delivered(publisher, self.context, _DELIVERY_TIMEOUT)
        if self.step and not options.step:
            self.step.linger()

    def _gate(self, topic: str) -> StepGate:
        topic = self.resolve_topic_name(topic)
        return StepGate(self, self._publishers_by_topic, topic, self._options.step_timeout, _say)

    def _leave_to(self, step: StepGate) -> None:
        """Do not play what a recording holds of the node's own outputs: the node that runs publishes them."""
        own = f"{step.node}/"
        recorded = [name for name in self._publishers_by_topic if name == step.topic or name.startswith(own)]
        for name in recorded:
            self.destroy_publisher(self._publishers_by_topic.pop(name))
        self._names = {stored: name for stored, name in self._names.items() if name in self._publishers_by_topic}
        if recorded:
            _say(f"{len(recorded)} recorded topics of {step.node} are not played, because it runs and publishes them")

    def _count_sets(self, topic: str) -> None:
        topic = self.resolve_topic_name(topic)
        kinds = {info.topic_type for info in self.get_publishers_info_by_topic(topic)}
        if _RESULT not in kinds or not self._others_publish(topic):
            return
        step = self._gate(topic)
        try:
            step.connect(max(LINGER, self._options.wait))
        except GaussianOccError:  # not an occupancy node, or one that does not take these images: nothing to count
            return
        self.step = step
        self._leave_to(step)

    def _pass(self, first_ns: int) -> None:
        """The bag once, from this log time; what is latched before it is published too."""
        self._bag_start, self._wall_start, self._last_clock_ns = first_ns, time.monotonic(), 0
        before = first_ns
        pending_since = 0  # log time of the message that completed the sets being waited for
        for topic, log_ns, data in self._messages(first_ns):
            # Not at once: TF and CameraInfo of the same time may still follow, and the node needs them for its answer.
            if self._options.step and self.step.pending and log_ns > pending_since:
                self._wall_start += self.step.wait()
            self._wait_until(log_ns)
            self._publishers_by_topic[topic].publish(data)
            self.published[topic] += 1
            self._played_ns += log_ns - before
            before = log_ns
            if self.step and self.step.note(topic, data):
                pending_since = log_ns
            if self._options.step:
                self.step.settle(topic)
            self._show_progress(log_ns)
        if self._options.step and self.step.pending:
            self.step.wait()

    def _messages(self, first_ns: int) -> Iterator[tuple[str, int, bytes]]:
        wanted = [connection for connection in self._reader.connections if connection.topic in self._names]
        latched = [connection for connection in wanted if connection.topic in self._latched]
        try:
            if latched and first_ns > self._reader.first_time:
                for connection, _, data in self._reader.messages(latched, stop=first_ns, on_damage=self._note_damage):
                    yield self._names[connection.topic], first_ns, bytes(data)
            for connection, log_ns, data in self._reader.messages(wanted, first_ns, on_damage=self._note_damage):
                yield self._names[connection.topic], log_ns, bytes(data)
        except Exception as error:  # rosbags raises what its storage libraries raise
            raise BagError(f"{self._options.bag}: broken off while reading: {error}") from error

    def _note_damage(self, log_ns: int, reason: str) -> None:
        if not self._damage[reason]:
            at = (log_ns - self._reader.start_time) * 1e-9
            _say(f"{self._options.bag}: {at:.1f} s after its start something cannot be read and is left out: {reason}")
        self._damage[reason] += 1

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
        awaited = self._options.wait_for and self.resolve_topic_name(self._options.wait_for)
        deadline, before, since = time.monotonic() + timeout, (0, False), time.monotonic()
        while time.monotonic() < deadline:
            count = sum(publisher.get_subscription_count() for publisher in self._publishers_by_topic.values())
            state = count, not awaited or self._others_publish(awaited)
            if state != before:
                before, since = state, time.monotonic()
            if all(state) and time.monotonic() - since >= _SETTLE:
                return
            pause(self)
        if awaited and not before[1]:
            _say(f"nobody publishes {awaited} after {timeout:g} s; playing anyway")
        elif not before[0] and timeout > 0:
            _say(f"nobody listens to any of {len(self.topics)} topics after {timeout:g} s; playing anyway")

    def _others_publish(self, topic: str) -> bool:
        """Somebody else than this player, which offers what the recording holds."""
        return self.count_publishers(topic) > (topic in self._publishers_by_topic)

    # ---- words -----------------------------------------------------------------------------------------------------

    def _show_progress(self, log_ns: int) -> None:
        if sys.stderr.isatty():
            done, total = ((t - self._reader.start_time) * 1e-9 for t in (log_ns, self._reader.end_time))
            sys.stderr.write(f"\r{done:8.2f} / {total:.2f} s, {self.published.total()} messages ")

    def summary(self) -> str:
        seconds = max(self._played_ns * 1e-9, 1e-9)  # of the recording, however often it was played
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


# ---- bags ----------------------------------------------------------------------------------------------------------


def _open(bag: Path) -> OpenBag:
    if not bag.exists():
        raise BagError(f"{bag}: no such bag; give a rosbag2 folder, an .mcap or a .db3 file")
    try:
        reader = open_bag(bag)
    except BagError as error:
        raise BagError(f"not a readable rosbag2: {error}") from error
    if not reader.message_count:
        reader.close()
        raise BagError(f"{bag}: the bag holds no messages")
    return reader


def _import_message(name: str) -> Any:
    """The class of a type's messages; None where this environment has none."""
    match = _TYPE.fullmatch(name)
    if match is None or not _is_installed(match["package"]):
        return None
    package, kind = match["package"], match["kind"]
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind)
    except (ImportError, AttributeError):
        return None


def _is_installed(package: str) -> bool:
    """Whether it is a package of messages that somebody has installed.

    To import is to execute, and the name is a bag's: Python would also take a folder that came with the bag and lies
    where the player was started.
    """
    if package in sys.modules:
        return True
    spec = importlib.util.find_spec(package)  # of a name without dots nothing is imported
    places = [Path(each).resolve() for each in (spec.submodule_search_locations or ())] if spec else []
    return bool(places) and all(
        (place / "msg" / "__init__.py").is_file() and place.parent != Path.cwd() for place in places
    )


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
    if is_static_tf(connection.topic):  # whoever listens for it asks for what is latched, and else gets nothing
        qos.durability, qos.reliability = DurabilityPolicy.TRANSIENT_LOCAL, ReliabilityPolicy.RELIABLE
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
    parser.add_argument(
        "--clock",
        type=float,
        nargs="?",
        const=40.0,
        default=0.0,
        metavar="HZ",
        help="publish /clock (at 40 Hz unless told)",
    )
    parser.add_argument("--topics", nargs="+", metavar="TOPIC", help="play these only")
    parser.add_argument("--start-offset", type=float, default=0.0, metavar="S", help="begin this far into the bag")
    parser.add_argument(
        "--wait",
        type=float,
        metavar="S",
        help="longest wait for subscribers before the start (default 5; with --step 60)",
    )
    parser.add_argument(
        "--wait-for",
        default="",
        metavar="TOPIC",
        help="wait until somebody publishes this as well, such as the results of a node",
    )
    parser.add_argument("--step", action="store_true", help="wait for the occupancy node's result of each image set")
    parser.add_argument("--step-topic", default="occupancy_node/occupancy", metavar="TOPIC", help="the results")
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
    player, executor, spinner, initialized, status = None, None, None, False, 0
    try:
        options = _parse(remove_ros_args(args)[1:])
        rclpy.init(args=args)
        initialized = True
        leave_interrupt_to_ros()
        player = BagPlayer(options.bag, options)
        executor = SingleThreadedExecutor()
        executor.add_node(player)
        spinner = threading.Thread(target=_spin, args=(executor,), daemon=True)
        spinner.start()
        player.play()
        status = _UNANSWERED if options.step and player.step.answered < player.step.formed else 0
    except (KeyboardInterrupt, ExternalShutdownException):
        status = 0  # how a replay is ended
    except GaussianOccError as error:
        _say(one_line(error))
        status = _UNANSWERED if isinstance(error, Unanswered) else USER_MISTAKE
    except Exception as error:
        if not initialized:  # ROS arguments that nobody can read, such as a bad -p
            status = USER_MISTAKE
            _say(f"ROS arguments {args[1:]}: {one_line(error)}")
        elif rclpy.ok():
            raise
        else:
            status = 0  # Ctrl-C closed the context in the middle of a publish
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
