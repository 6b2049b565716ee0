# SPDX-License-Identifier: Apache-2.0
"""The main job on an embedded default: a street world -> nuScenes files -> rosbag2 -> node over DDS -> pictures.

Nothing here is a shortcut: the node and the player are the processes that `ros2 launch` starts, with the same parameter
file, and the pictures show the messages that arrived.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from gaussianocc_core import metrics, viz
from gaussianocc_core.checkpoint import load_model
from gaussianocc_core.data.nuscenes import NuScenesSource, write_scene_bag
from gaussianocc_core.errors import ConfigError, GaussianOccError
from gaussianocc_core.geometry import voxels
from gaussianocc_core.labels import FREE
from gaussianocc_core.models.gaussian_head import label_gaussians
from gaussianocc_core.rendering.rasterize import rasterize
from gaussianocc_core.types import Cameras, OccupancyLabels, VoxelGrid
from gaussianocc_ros.isolation import isolated_graph
from gaussianocc_ros.startup import raise_on_interrupt

STAGES = 4
PARAMETERS = Path("config") / "ros" / "occupancy_node.yaml"
NODE_TIMEOUT = 300.0  # s until the node is up: it compiles its kernels and runs the network once, on any machine
TOPICS = ("occupancy", "points", "markers")  # of the node
CAMERA_HZ = 12  # of the street world; the video runs in real time
RENDER_WIDTH = 240  # pixels of the rendered depth and semantics of each camera
VIDEO_SIZE = (1600, 900)


@dataclass
class Recording:
    """What arrived over DDS."""

    occupancy: list[Any] = field(default_factory=list)  # SemanticOccupancy, in order of arrival
    topics: dict[str, int] = field(default_factory=dict)  # topic -> messages
    seconds: float = 0.0  # from the first message to the last
    stage_ms: dict[str, float] = field(default_factory=dict)  # of the node, from /diagnostics


def run(output: Path, keyframes: int, seed: int, checkpoint: str, every: int) -> dict[str, Any]:
    """Everything; returns what is also written to report.json."""
    output.mkdir(parents=True, exist_ok=True)
    stages: dict[str, float] = {}
    with _stage("street world", stages):
        data = _street_world(output / "data", keyframes, seed)
    with _stage("rosbag2", stages):
        source = NuScenesSource(data)
        scene = source.scene_names()[0]
        report = write_scene_bag(source, scene, output / "bag" / scene, overwrite=True)
        print(f"      {report.messages} messages in {output / 'bag' / scene}")
    with _stage("node and replay over DDS", stages):
        recording = _replay(output / "bag" / scene, output / "node.log", checkpoint)
    with _stage("pictures", stages):
        scores = _draw(output, source, scene, recording, seed, every)

    stamps = [message.header.stamp.sec + message.header.stamp.nanosec * 1e-9 for message in recording.occupancy]
    period = (stamps[-1] - stamps[0]) / max(len(stamps) - 1, 1)
    duration = max(stamps[-1] - stamps[0] + period, 1e-9)
    result = {
        "model": recording.occupancy[-1].model,
        "sets": len(recording.occupancy),
        "topics": {
            topic: {"messages": count, "hz_in_bag_time": round(count / duration, 2)}
            for topic, count in sorted(recording.topics.items())
        },
        "node_stage_ms": recording.stage_ms,
        "sets_per_second": round((len(recording.occupancy) - 1) / max(recording.seconds, 1e-9), 2),
        "scores": scores,
        "demo_stage_s": stages,
    }
    (output / "report.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


@contextmanager
def _stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
    number = len(seconds) + 1
    print(f"[{number}/{STAGES}] {name} ...", flush=True)
    begin = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - begin, 1)
    print(f"[{number}/{STAGES}] {name}: {seconds[name]:.1f} s", flush=True)


def _street_world(folder: Path, keyframes: int, seed: int) -> Path:
    """The data set of one scene; an earlier run's is used again if the same code made it with the same settings."""
    from gaussianocc_core.synthetic import writer

    generator = _source_hash(Path(writer.__file__).parent)
    made_by = json.dumps({"seed": seed, "keyframes": keyframes, "generator": generator})
    note = folder / "made_by.json"
    if note.is_file() and note.read_text(encoding="utf-8") == made_by:
        print(f"      {folder} is there already")
        return folder
    writer.write_dataset(folder, scenes=1, frames=keyframes, seed=seed, overwrite=folder.exists())
    note.write_text(made_by, encoding="utf-8")
    return folder


def _source_hash(folder: Path) -> str:
    import hashlib

    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


# ---- ROS -----------------------------------------------------------------------------------------------------------


def parameter_file() -> Path:
    """The parameter file that occ.launch.py uses as well, from the source tree or the installed package."""
    source = Path(__file__).resolve().parents[1] / PARAMETERS
    if source.is_file():
        return source
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory("gaussianocc_ros")) / PARAMETERS


def _replay(bag: Path, log: Path, checkpoint: str) -> Recording:
    """Node and player in processes of their own; this process subscribes to what the node publishes."""
    # A graph of its own: nothing else on this network takes part, or sees it.
    os.environ.update(isolated_graph())
    node = [sys.executable, "-m", "gaussianocc_ros.occupancy_node", "--ros-args"]
    node += ["--params-file", str(parameter_file()), "-p", "reliable:=true"]
    node += ["-p", f"checkpoint:={checkpoint}"] if checkpoint else []
    player = [sys.executable, "-m", "gaussianocc_ros.bag_player", str(bag), "--step", "--rate", "0"]
    with log.open("w", encoding="utf-8") as sink:
        node_process = subprocess.Popen(node, stdout=sink, stderr=subprocess.STDOUT)
        player_process = None
        try:
            recorder = _Recorder()
            deadline = time.monotonic() + NODE_TIMEOUT
            while not recorder.sees_the_node():
                recorder.spin_once()
                if time.monotonic() > deadline:
                    raise GaussianOccError(
                        f"the node was not seen over DDS within {NODE_TIMEOUT:.0f} s (does a firewall stop multicast "
                        f"here?); it says: {_last_line(log)} (all of it: {log})"
                    )
                if node_process.poll() is not None:
                    raise GaussianOccError(f"the node ended: {_last_line(log)} (all of it: {log})")
            player_process = subprocess.Popen(player, stdout=subprocess.PIPE, text=True)
            while player_process.poll() is None:
                recorder.spin_once()
                if node_process.poll() is not None:
                    raise GaussianOccError(f"the node ended: {_last_line(log)} (all of it: {log})")
            for line in player_process.stdout or ():
                print(f"      {line}", end="")
            if player_process.returncode:
                raise GaussianOccError(f"the replay failed; the node says: {_last_line(log)} (all of it: {log})")
            return recorder.finish()
        finally:
            for process in (player_process, node_process):
                if process is not None:
                    _stop(process)


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


# ---- pictures ------------------------------------------------------------------------------------------------------


def _draw(
    output: Path, source: NuScenesSource, scene: str, recording: Recording, seed: int, every: int
) -> dict[str, dict[str, float]]:
    images = _images_by_stamp(output / "bag" / scene)
    cameras = source.rig(scene).cameras
    truths = _Truth(source, scene, seed)
    confusion = np.zeros((FREE + 1, FREE + 1), dtype=np.int64)
    seen = np.zeros_like(confusion)
    shown = recording.occupancy[::every]
    middle = len(shown) // 2

    def frames() -> Iterator[np.ndarray]:
        nonlocal confusion, seen
        for number, message in enumerate(tqdm(shown, unit="frame", disable=None)):
            stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            truth = truths.at(stamp_ns)
            labels, grid = _decode(message)
            confusion += metrics.confusion_matrix(truth.semantics, labels, np.ones(grid.shape, dtype=bool))
            this = metrics.confusion_matrix(truth.semantics, labels, truth.mask_camera)
            seen += this
            frame = _demo_frame(message, labels, grid, truth, cameras, images, stamp_ns, this, recording.stage_ms)
            picture = viz.compose_frame(frame, *VIDEO_SIZE)
            if number == middle:
                viz.write_png(output / "demo.png", viz.compose_frame(frame))
            yield picture

    viz.write_video(output / "demo.mp4", frames(), CAMERA_HZ / every)
    return {
        mask: {name: round(value, 4) for name, value in metrics.occupancy_summary(counts).items()}
        for mask, counts in (("whole_grid", confusion), ("mask_camera", seen))
    }


def _demo_frame(
    message: Any,
    labels: np.ndarray,
    grid: VoxelGrid,
    truth: OccupancyLabels,
    cameras: Cameras,
    images: dict[str, dict[int, bytes]],
    stamp_ns: int,
    confusion: np.ndarray,
    stage_ms: dict[str, float],
) -> viz.DemoFrame:
    height = round(RENDER_WIDTH * cameras.height[0] / cameras.width[0])
    gaussians = label_gaussians(labels, grid, len(message.class_names))
    views = rasterize(gaussians, cameras, width=RENDER_WIDTH, height=height, normalize_depth=True)
    solid = views.alpha[:, 0].numpy() > 0.5
    depth = np.where(solid, views.depth[:, 0].numpy(), 0.0)
    semantics = np.where(solid, views.features.argmax(dim=1).numpy(), FREE).astype(np.uint8)
    scores = metrics.occupancy_summary(confusion)
    return viz.DemoFrame(
        images={name: _nearest(images[name], stamp_ns) for name in cameras.names},
        cameras=cameras,
        prediction=labels,
        grid=grid,
        truth=truth.semantics,
        depths=dict(zip(cameras.names, depth, strict=True)),
        semantics=dict(zip(cameras.names, semantics, strict=True)),
        model=message.model,
        trained=message.model != "untrained",
        stamp=f"{stamp_ns / 1e9:.3f} s",
        stage_ms=stage_ms,
        # Of the voxels that cameras can see: the true picture also has what is inside and behind houses.
        scores={"seen voxels: IoU": 100 * scores["iou"], "off the ground": 100 * scores["non_ground_iou"]},
    )


def _decode(message: Any) -> tuple[np.ndarray, VoxelGrid]:
    origin, shape = message.origin.position, (message.size_x, message.size_y, message.size_z)
    grid = VoxelGrid((origin.x, origin.y, origin.z), message.voxel_size.x, shape)
    return voxels.unflatten(np.frombuffer(message.labels, dtype=np.uint8), shape), grid


class _Truth:
    """What the street world says at any moment; the data set itself has labels at keyframes only."""

    def __init__(self, source: NuScenesSource, scene: str, seed: int) -> None:
        from gaussianocc_core.synthetic import writer

        self._world = writer.scene_world(seed, 0, len(source.index(scene)))
        self._start_ns = writer.EPOCH * 1000
        self._cameras = source.rig(scene).cameras

    def at(self, stamp_ns: int) -> OccupancyLabels:
        from gaussianocc_core.synthetic.world import occupancy

        return occupancy(self._world, (stamp_ns - self._start_ns) / 1e9, cameras=self._cameras)


def _images_by_stamp(bag: Path) -> dict[str, dict[int, bytes]]:
    """JPEG bytes of a bag by camera and stamp (ns)."""
    from rosbags.highlevel import AnyReader

    images: dict[str, dict[int, bytes]] = {}
    with AnyReader([bag]) as reader:
        wanted = [c for c in reader.connections if c.topic.endswith("/image_raw/compressed")]
        for connection, stamp_ns, raw in reader.messages(wanted):
            message: Any = reader.deserialize(raw, connection.msgtype)
            images.setdefault(message.header.frame_id, {})[stamp_ns] = message.data.tobytes()
    return images


def _nearest(images: dict[int, bytes], stamp_ns: int) -> np.ndarray:
    import cv2

    data = images[min(images, key=lambda stamp: abs(stamp - stamp_ns))]
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def _check(options: argparse.Namespace) -> None:
    """What would else be found out after minutes of rendering, or never."""
    for name, low in {"keyframes": 1, "seed": 0, "every": 1}.items():
        if (value := getattr(options, name)) < low:
            raise ConfigError(f"--{name}: expected {low} or more, got {value}")
    if options.checkpoint:
        load_model(options.checkpoint)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gaussianocc_ros.demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("out/demo"), help="folder to write (default: %(default)s)")
    parser.add_argument(
        "--keyframes", type=int, default=6, help="length of the drive, 2 a second (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=7, help="which street (default: %(default)s)")
    parser.add_argument("--checkpoint", default="", help="model file (default: the shipped one)")
    parser.add_argument("--every", type=int, default=2, help="draw every n-th set (default: %(default)s)")
    parser.add_argument("--fresh", action="store_true", help="make the street anew even if it is there")
    options = parser.parse_args(arguments)
    try:
        raise_on_interrupt()
        _check(options)
        if options.fresh:
            shutil.rmtree(options.output / "data", ignore_errors=True)
        result = run(options.output, options.keyframes, options.seed, options.checkpoint, options.every)
    except GaussianOccError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    print("\ntopic                            messages   Hz (in the bag's time)")
    for topic, seen in result["topics"].items():
        print(f"{topic:32} {seen['messages']:8} {seen['hz_in_bag_time']:8.2f}")
    print("\nnode, median ms: " + ", ".join(f"{name} {value:g}" for name, value in result["node_stage_ms"].items()))
    print(f"{result['sets']} sets at {result['sets_per_second']:g} a second; model {result['model']}")
    for mask, scores in result["scores"].items():
        print(f"{mask}: " + ", ".join(f"{name} {value:.3f}" for name, value in scores.items()))
    for name in ("demo.mp4", "demo.png", "report.json"):
        print(options.output / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
