# SPDX-License-Identifier: Apache-2.0
"""The sets that a running occupancy node forms of what is played, and whether each was answered. Needs no torch."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters, GetParameterTypes
from rclpy.executors import ExternalShutdownException
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python

from gaussianocc_core.errors import ConfigError, GaussianOccError
from gaussianocc_ros.delivery import wait_until_delivered
from gaussianocc_ros.msg import SemanticOccupancy
from gaussianocc_ros.stamps import cdr_stamp_ns
from gaussianocc_ros.sync_parameters import SyncParameters

LINGER = 2.0  # s without a new result after which no more are expected of a replay that does not wait
_SILENT_FOR = 10.0  # s of waiting until the player says for what
_GIVE_UP_AFTER = 3  # unanswered sets in a row: the node is gone, or can do nothing with this bag


class ReplayError(GaussianOccError):
    """The bag is fine, but no node takes what is played."""


class Unanswered(ReplayError):
    """The node took what was played, and gives no results."""


class StepGate:
    """Knows when the occupancy node has all it needs for a set, and waits for the set's result.

    It asks the node for every parameter that decides which sets form (`SyncParameters`) and forms the same ones.
    """

    def __init__(
        self, node: Node, publishers: Mapping[str, Any], topic: str, timeout: float, say: Callable[[str], None]
    ) -> None:
        """node: the player's, whose callbacks another thread serves; publishers: of the played topics, by name;
        topic: of the results; timeout: longest wait for one, s; say: where a line to the user goes."""
        self.topic = topic
        self.node = ""  # full name of the node behind it, once there is one
        self.formed = self.answered = 0
        self.pending: list[int] = []  # stamps of sets that were published in full and not waited for
        self.doubts: list[str] = []  # what may keep sets from being answered
        self._node, self._publishers, self._timeout, self._say = node, publishers, timeout, say
        self._silent = 0
        self._results: Counter[int] = Counter()  # by stamp
        self._arrived = threading.Condition()
        self._camera_of: dict[str, str] = {}  # image topic -> camera
        self._order_matters = False  # of images of different cameras, which DDS does not keep
        node.create_subscription(SemanticOccupancy, topic, self._on_result, 10, raw=True)

    # ---- the node behind the results -------------------------------------------------------------------------------

    def connect(self, timeout: float) -> None:
        """Find the node behind the topic and wait until it takes all that it needs of what is played.

        ReplayError names what is missing, ConfigError what of the node's parameters cannot be used here.
        """
        deadline = time.monotonic() + timeout
        nobody = f"nobody publishes {self.topic}; is the node active?"
        publisher = self._until(deadline, self._find_publisher, lambda: nobody)
        name, space = publisher.node_name, publisher.node_namespace.rstrip("/")
        node = f"{space}/{name}"
        self.node, self._types = node, self._node.create_client(GetParameterTypes, f"{node}/get_parameter_types")
        values = self._ask_parameters(node, deadline)
        try:
            parameters = SyncParameters(**values)
        except ConfigError as error:
            raise ConfigError(f"{node} cannot be followed from here: {error}") from None
        self._builder = parameters.make_builder()
        self._order_matters = parameters.sync_policy != "wait"

        def full_name(topic: str) -> str:
            return expand_topic_name(topic, name, space or "/")

        cameras = {full_name(parameters.image_topic_of(camera)): camera for camera in parameters.camera_names}
        self._camera_of = {topic: camera for topic, camera in cameras.items() if topic in self._publishers}
        self._check_played(node, parameters, [topic for topic in cameras if topic not in self._publishers])
        wanted = list(self._camera_of)
        if not parameters.rig_file:  # calibration may be in the bag only once, before the first image
            infos = [full_name(parameters.camera_info_topic_of(camera)) for camera in self._camera_of.values()]
            wanted += [topic for topic in infos if topic in self._publishers]
            if missing := [topic for topic in infos if not self._node.count_publishers(topic)]:
                self.doubts.append(f"{node} needs calibration on {', '.join(missing)}, and nobody publishes it")
        self._until(
            deadline,
            lambda: not self._unmatched(wanted),
            lambda: f"{node} does not take {', '.join(self._unmatched(wanted))}; is it active?",
        )

    def _check_played(self, node: str, parameters: SyncParameters, absent: list[str]) -> None:
        if absent and (parameters.sync_policy != "degrade" or not self._camera_of):
            played = ", ".join(self._publishers)
            raise ReplayError(f"{node} waits for {', '.join(absent)}, not in what is played: {played}")
        if absent:
            self.doubts.append(f"{node} goes without {', '.join(absent)}, not in what is played")
        if unreliable := [camera for camera in self._camera_of.values() if not parameters.is_reliable(camera)]:
            self.doubts.append(
                f"{node} may miss images of {', '.join(unreliable)}: for a lossless replay set its parameter reliable"
            )

    def _find_publisher(self) -> Any:
        found = self._node.get_publishers_info_by_topic(self.topic)
        own = self._node.get_name(), self._node.get_namespace()  # of recorded results, until the graph forgets it
        # The name arrives after the endpoint; until then it is a placeholder.
        named = (info for info in found if info.node_name and "UNKNOWN" not in info.node_name)
        return next((info for info in named if (info.node_name, info.node_namespace) != own), None)

    def _ask_parameters(self, node: str, deadline: float) -> dict[str, Any]:
        """Those of `SyncParameters` that have a value. Their types come first: one without a value in a request is
        answered by nothing at all, and an empty list of names or topics has none."""
        names = [field.name for field in dataclasses.fields(SyncParameters)]
        silent = f"{node} does not answer what its parameters are; is it an occupancy_node?"
        types = self._call(self._types, GetParameterTypes.Request(names=names), deadline, silent).types
        if len(types) != len(names):
            raise ReplayError(f"{node} lacks one of the parameters {', '.join(names)}: it is not an occupancy_node")
        known = [name for name, kind in zip(names, types, strict=True) if kind != ParameterType.PARAMETER_NOT_SET]
        client = self._node.create_client(GetParameters, f"{node}/get_parameters")
        answer = self._call(client, GetParameters.Request(names=known), deadline, silent).values
        if len(answer) != len(known):
            raise ReplayError(f"{node} does not say what its parameters {', '.join(known)} are")
        values = {name: parameter_value_to_python(value) for name, value in zip(known, answer, strict=True)}
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

    def _call(self, client: Any, request: Any, deadline: float, complaint: str) -> Any:
        """The service's answer. It is asked again every second: a service can be found, and take a request, a moment
        before it knows where to send the answer, which is then lost."""
        self._until(deadline, client.service_is_ready, lambda: complaint)
        while True:
            answered, reply = threading.Event(), client.call_async(request)
            reply.add_done_callback(lambda _, answered=answered: answered.set())
            again = time.monotonic() + 1.0
            while time.monotonic() < again:
                if answered.wait(0.05):
                    return reply.result()
                if not self._node.context.ok():
                    raise ExternalShutdownException
                if time.monotonic() > deadline or self._is_gone():
                    raise ReplayError(complaint)
            client.remove_pending_request(reply)

    def _unmatched(self, topics: list[str]) -> list[str]:
        return [topic for topic in topics if not self._publishers[topic].get_subscription_count()]

    def _until(self, deadline: float, condition: Callable[[], Any], complaint: Callable[[], str]) -> Any:
        speak = time.monotonic() + _SILENT_FOR
        while not (result := condition()):
            now = time.monotonic()
            if now > deadline:
                raise ReplayError(complaint())
            if now > speak:
                self._say(f"waits: {complaint()}")
                speak = math.inf
            pause(self._node)
        return result

    # ---- sets and results ------------------------------------------------------------------------------------------

    def note(self, topic: str, data: bytes) -> bool:
        """Told of each message that is published: True if it completes a set."""
        camera = self._camera_of.get(topic)
        if camera is None:
            return False
        complete = [found.stamp_ns for found in self._builder.add(camera, cdr_stamp_ns(data), None)]
        self.pending += complete
        self.formed += len(complete)
        return bool(complete)

    def settle(self, topic: str) -> None:
        """Until the node has taken this topic's image, where sets depend on the order in which cameras' images come.

        With sync_policy wait they do not; otherwise what is given up, and which camera stands in for a dead anchor,
        follows from the stamps seen so far. DDS keeps the order within a topic only, and of a burst without sets just
        the newest. Unanswered if the node does not react.
        """
        if topic not in self._camera_of or not self._order_matters:
            return
        wait_until_delivered(self._publishers[topic], self._node.context, self._timeout)
        # The image has arrived. The node's executor takes what has arrived before it answers a later request.
        complaint = f"gave up: {self.node} does not react to what is played"
        try:
            self._call(self._types, GetParameterTypes.Request(), time.monotonic() + self._timeout, complaint)
        except ReplayError as error:
            raise Unanswered(str(error)) from None

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
                self._say(f"{missing}; the node is gone")
            else:
                why = "the node's log and /diagnostics say why it was dropped"
                self._say(f"{missing} within {self._timeout:g} s; {why}")
            if self._silent >= _GIVE_UP_AFTER or gone:
                raise Unanswered(f"gave up: {self._silent} sets in a row without a result on {self.topic}")
        return time.monotonic() - begin

    def count_answered(self) -> int:
        """Of the sets so far: those that were waited for, and those of a replay that does not wait."""
        with self._arrived:
            return self.answered + (self._results & Counter(self.pending)).total()

    def linger(self) -> None:
        """Until every set is answered, or nothing new comes."""
        with self._arrived:
            quiet_since = time.monotonic()
            while self.count_answered() < self.formed and time.monotonic() - quiet_since < LINGER:
                if not self._node.context.ok():
                    raise ExternalShutdownException
                if self._arrived.wait(0.1):
                    quiet_since = time.monotonic()

    def _is_answered(self, stamp: int) -> bool:
        deadline = time.monotonic() + self._timeout
        with self._arrived:
            while stamp not in self._results and time.monotonic() < deadline and not self._is_gone():
                if not self._node.context.ok():
                    raise ExternalShutdownException
                self._arrived.wait(0.1)
            found = stamp in self._results
            self._results.pop(stamp, None)  # a looping bag brings the same stamp again
            return found

    def _is_gone(self) -> bool:
        return not self._node.count_publishers(self.topic)

    def _on_result(self, data: bytes) -> None:
        with self._arrived:
            self._results[cdr_stamp_ns(data)] += 1
            self._arrived.notify_all()


def pause(node: Node) -> None:
    """A moment for other threads and processes; Ctrl-C, which closes the context, is noticed."""
    if not node.context.ok():
        raise ExternalShutdownException
    time.sleep(0.02)
