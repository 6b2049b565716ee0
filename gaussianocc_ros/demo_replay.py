# SPDX-License-Identifier: Apache-2.0
"""The demo's node and bag player, in processes of their own, and what arrives of their topics over DDS."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gaussianocc_core.errors import GaussianOccError
from gaussianocc_ros.isolation import isolated_graph

PARAMETERS = Path("config") / "ros" / "occupancy_node.yaml"
NODE_TIMEOUT = 300.0  # s until the node is up: it compiles its kernels and runs the network once, on any machine
TOPICS = ("occupancy", "points", "markers")  # of the node


@dataclass
class Recording:
    """What arrived over DDS."""

    occupancy: list[Any] = field(default_factory=list)  # SemanticOccupancy, in order of arrival
    topics: dict[str, int] = field(default_factory=dict)  # topic -> messages
    seconds: float = 0.0  # from the first message to the last
    stage_ms: dict[str, float] = field(default_factory=dict)  # of the node, from /diagnostics


def parameter_file() -> Path:
    """The parameter file that occ.launch.py uses as well, from the source tree or the installed package."""
    source = Path(__file__).resolve().parents[1] / PARAMETERS
    if source.is_file():
        return source
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory("gaussianocc_ros")) / PARAMETERS


@dataclass(frozen=True)
class NodeProcess:
    """The node, in a process of its own."""

    process: subprocess.Popen[Any]
    log: Path  # all that it says

    def check(self) -> None:
        """GaussianOccError if it has ended."""
        if self.process.poll() is not None:
            raise GaussianOccError(f"the node ended: {_last_line(self.log)} (all of it: {self.log})")


@contextmanager
def started_node(log: Path, checkpoint: str) -> Iterator[NodeProcess]:
    """The node, which loads its weights and compiles its kernels while others go on; it is ended at the exit."""
    # A graph of its own: nothing else on this network takes part, or sees it.
    os.environ.update(isolated_graph())
    command = [sys.executable, "-m", "gaussianocc_ros.occupancy_node", "--ros-args"]
    command += ["--params-file", str(parameter_file()), "-p", "reliable:=true"]
    command += ["-p", f"checkpoint:={checkpoint}"] if checkpoint else []
    with log.open("w", encoding="utf-8") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT)
        try:
            yield NodeProcess(process, log)
        finally:
            _stop(process)


def replay(bag: Path, node: NodeProcess) -> Recording:
    """The player in a process of its own; this process subscribes to what the node publishes."""
    recorder = _Recorder()
    deadline = time.monotonic() + NODE_TIMEOUT
    while not recorder.sees_the_node():
        recorder.spin_once()
        node.check()
        if time.monotonic() > deadline:
            raise GaussianOccError(
                f"the node was not seen over DDS within {NODE_TIMEOUT:.0f} s (does a firewall stop multicast "
                f"here?); it says: {_last_line(node.log)} (all of it: {node.log})"
            )
    command = [sys.executable, "-m", "gaussianocc_ros.bag_player", str(bag), "--step", "--rate", "0"]
    player = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        while player.poll() is None:
            recorder.spin_once()
            node.check()
        for line in player.stdout or ():
            print(f"      {line}", end="")
        if player.returncode:
            raise GaussianOccError(f"the replay failed; the node says: {_last_line(node.log)} (all of it: {node.log})")
    finally:
        _stop(player)
    return recorder.finish()


def _stop(process: subprocess.Popen[Any], patience: float = 20.0) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class _Recorder:
    """Subscribes to the node's topics. One reliable reader each, so nothing is lost between here and there."""

    def __init__(self) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.qos import QoSProfile
        from sensor_msgs.msg import PointCloud2
        from visualization_msgs.msg import MarkerArray

        from gaussianocc_ros.msg import SemanticOccupancy

        rclpy.init()
        self._rclpy = rclpy
        self._node = rclpy.create_node("demo_recorder")
        self.recording = Recording()
        self._times: list[float] = []
        self._reports = 0  # of the node on /diagnostics, one a second
        qos = QoSProfile(depth=100)
        for kind, topic in zip((SemanticOccupancy, PointCloud2, MarkerArray), TOPICS, strict=True):
            name = f"/occupancy_node/{topic}"
            keep = topic == "occupancy"
            self._node.create_subscription(
                kind, name, lambda message, name=name, keep=keep: self._note(name, message, keep), qos, raw=not keep
            )
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos)

    def _note(self, topic: str, message: Any, keep: bool) -> None:
        self.recording.topics[topic] = self.recording.topics.get(topic, 0) + 1
        if keep:
            self.recording.occupancy.append(message)
            self._times.append(time.monotonic())

    def _on_diagnostics(self, message: Any) -> None:
        self._reports += 1
        for status in message.status:
            for item in status.values:
                if item.key.endswith(" ms") and item.value.replace(".", "").isdigit():
                    self.recording.stage_ms[item.key.removesuffix(" ms")] = float(item.value)

    def sees_the_node(self) -> bool:
        """Whether every topic is offered and data of the node arrives; a set before that would be lost here."""
        offered = all(self._node.count_publishers(f"/occupancy_node/{topic}") for topic in TOPICS)
        return offered and self._reports > 1

    def spin_once(self) -> None:
        self._rclpy.spin_once(self._node, timeout_sec=0.1)

    def finish(self) -> Recording:
        deadline = time.monotonic() + 1.5  # the last report of the node comes once a second
        while time.monotonic() < deadline:
            self.spin_once()
        self._node.destroy_node()
        self._rclpy.shutdown()
        if not self.recording.occupancy:
            raise GaussianOccError("no occupancy arrived; see the node's log beside the pictures")
        self.recording.seconds = self._times[-1] - self._times[0]
        return self.recording


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "(it said nothing)"
