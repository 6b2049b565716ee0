# SPDX-License-Identifier: Apache-2.0
"""The node over real DDS: images in, results out, for long, and with everything that goes wrong on a robot.

python benchmarks/node.py images|outputs|isolation|stream|rates|sync|faults|all [--minutes 10] [--json FILE]

images   CPU a set of six 1600 x 900 JPEGs: decode, rectify and pack, at the size of two models, against full decoding
outputs  encoding and publishing a result of 200 x 200 x 16 voxels, a tenth of them occupied
isolation  eight 1920 x 1080 JPEG streams at 30 Hz, for --minutes: the same, with the period of the network
stream   six 1600 x 900 JPEG streams at 12 Hz into the node, for --minutes: rate, age, memory at the begin and the end
rates    results a second of each way of computing, with the memory of rays and without: 15 Hz, half a minute each
sync     share of possible sets formed with 50 ms stagger and 5 ms jitter, and what becomes of a camera at half rate
faults   each fault in turn while the cameras run: results before, during and after, and what the node said
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from report import write_report
from robot import NODE, Robot, camera_jpegs, camera_rig, robot_and_node

from gaussianocc_core.bags.image_codec import decode_rgb
from gaussianocc_core.config import load_config
from gaussianocc_core.geometry.rectify import Rectifier
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_ros.isolation import isolated_graph

ROOT = Path(__file__).resolve().parents[1]
RATE = 12.0  # Hz
FAST, RATES_S = 15.0, 30.0  # Hz, s: faster than most settings can follow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts: dict[str, Callable[[argparse.Namespace], list[dict[str, Any]]]] = {
        "images": time_images,
        "outputs": time_outputs,
        "isolation": run_isolation,
        "stream": run_stream,
        "rates": run_rates,
        "sync": run_sync,
        "faults": run_faults,
    }
    parser.add_argument("part", choices=[*parts, "all"])
    parser.add_argument("--minutes", type=float, default=10.0, help="of the stream (default: 10)")
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--checkpoint", default="", help="model file (default: the shipped one)")
    parser.add_argument("--device", default="auto", help="the node's parameter, of the streams (default: auto)")
    parser.add_argument("--dataroot", default="", help="nuScenes with images of full size: compares decodings on it")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ.update(isolated_graph())
    results: list[dict[str, Any]] = []
    for name, part in parts.items():
        if options.part in (name, "all"):
            for row in part(options):
                results.append({"part": name, **row})
                print(results[-1], flush=True)
    if options.json:
        shapes = {"cameras": 6, "image": [1600, 900], "rate_hz": RATE, "device": options.device}
        if options.part == "isolation":
            shapes = {"cameras": 8, "image": [1920, 1080], "rate_hz": 30.0}
        write_report(options.json, shapes, results)


# ---- without DDS ---------------------------------------------------------------------------------------------------


def time_images(options: argparse.Namespace) -> list[dict[str, Any]]:
    rig = camera_rig()
    jpegs = camera_jpegs(rig)
    rows = []
    for preset in ("tiny", "reference"):
        config = load_config(ROOT / "config" / "model" / f"{preset}.yaml", ModelConfig)
        rectifier = Rectifier(rig, config.image_width, config.image_height)
        reductions = [rectifier.reduction(i) for i in range(len(rig))]
        for what, factors in (("as the node does", reductions), ("decoded in full", [1] * len(rig))):
            times = []
            for _ in range(options.repeats):
                began = time.process_time()
                pictures = [decode_rgb(data, reduce=r) for data, r in zip(jpegs, factors, strict=True)]
                np.ascontiguousarray(rectifier(pictures).transpose(0, 3, 1, 2), dtype=np.float32)
                times.append(time.process_time() - began)
            rows.append({"model": preset, "what": what, "reduce": factors[0], "cpu_ms": _ms(times)})
    if options.dataroot:
        rows += compare_decoding(options.dataroot, options.checkpoint)
    rows.append({"what": "bytes of a JPEG", "mean": round(statistics.mean(map(len, jpegs)))})
    return rows


def compare_decoding(dataroot: str, checkpoint: str) -> list[dict[str, Any]]:
    """What decoding at a fraction of the size changes in the result, against decoding in full."""
    from gaussianocc_core.checkpoint import default_checkpoint
    from gaussianocc_core.data.nuscenes import NuScenesSource
    from gaussianocc_core.labels import is_occupied
    from gaussianocc_core.predictor import OccupancyPredictor

    predictor = OccupancyPredictor.from_checkpoint(checkpoint or default_checkpoint(), device="cpu")
    source, rows = NuScenesSource(dataroot), []
    for entry in source.index(source.scene_names()[0])[:4]:
        sample = entry.load()
        reductions = predictor.reductions(sample.cameras)
        factors = [reductions[name] for name in sample.cameras.names]
        files = [path.read_bytes() for path in entry.frame.image_paths]
        full = predictor(sample.images, sample.cameras)
        small = predictor([decode_rgb(d, reduce=r) for d, r in zip(files, factors, strict=True)], sample.cameras)
        seen = full.observed
        occupied = [is_occupied(each.labels, each.class_names) for each in (full, small)]
        rows.append(
            {
                "what": "reduced against full decoding",
                "reduce": factors[0],
                "keyframe": entry.token,
                "labels_equal": round(float((full.labels == small.labels)[seen].mean()), 4),
                "occupied_iou": round(float((occupied[0] & occupied[1]).sum() / (occupied[0] | occupied[1]).sum()), 3),
                "confidence_moves": round(float(np.abs(full.confidence - small.confidence)[seen].mean()), 4),
            }
        )
    return rows


def time_outputs(options: argparse.Namespace) -> list[dict[str, Any]]:
    import rclpy
    from rclpy.lifecycle import LifecycleNode
    from sensor_msgs.msg import PointCloud2
    from visualization_msgs.msg import MarkerArray

    from gaussianocc_core.labels import CLASS_NAMES, FREE
    from gaussianocc_core.types import OccupancyPrediction, VoxelGrid
    from gaussianocc_ros.msg import SemanticOccupancy
    from gaussianocc_ros.outputs import Outputs
    from gaussianocc_ros.parameters import NodeParameters

    grid, rng = VoxelGrid(), np.random.default_rng(0)
    labels = np.where(rng.random(grid.shape) < 0.1, rng.integers(0, FREE, grid.shape), FREE).astype(np.uint8)
    shown = OccupancyPrediction(
        labels, rng.random(grid.shape, np.float32), labels != 255, grid, CLASS_NAMES, True, ("front",), "made up"
    )
    rclpy.init()
    node, other = LifecycleNode("occupancy_node"), rclpy.create_node("listener")
    outputs = Outputs(node, NodeParameters(cameras=("front",)))
    node.trigger_configure()
    node.trigger_activate()
    rows = []
    listeners: list[Any] = []
    for kind, topic in ((SemanticOccupancy, "occupancy"), (PointCloud2, "points"), (MarkerArray, "markers")):
        listeners.append(other.create_subscription(kind, f"{NODE}/{topic}", lambda data: None, 1, raw=True))
        publishers = [p for p, _ in outputs._topics if p.topic_name == f"{NODE}/{topic}"]
        while not all(publisher.get_subscription_count() for publisher in publishers):
            time.sleep(0.01)
        wall, cpu = [], []
        for stamp in range(options.repeats + 3):
            began, began_cpu = time.perf_counter(), time.thread_time()
            outputs.publish(shown, stamp)
            wall.append(time.perf_counter() - began)
            cpu.append(time.thread_time() - began_cpu)
        rows.append({"topics": f"up to {topic}", "ms": _ms(wall[3:]), "cpu_ms": _ms(cpu[3:])})
    rclpy.shutdown()
    return rows


def _ms(seconds: list[float]) -> dict[str, float]:
    low, middle, high = np.percentile(seconds, (25, 50, 75)) * 1e3
    return {"median": round(float(middle), 1), "low": round(float(low), 1), "high": round(float(high), 1)}


# ---- over DDS ------------------------------------------------------------------------------------------------------


def run_stream(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Memory and age in ten parts of the time, after a first part in which caches and pools fill."""
    settings: dict[str, Any] = {"device": options.device, "checkpoint": options.checkpoint}
    with robot_and_node(RATE, **settings) as (robot, node):
        return _stream(robot, node, options)


def run_isolation(options: argparse.Namespace) -> list[dict[str, Any]]:
    """More than the node can use, and on few cores more than it can decode: ages in periods of its results."""
    settings: dict[str, Any] = {
        "checkpoint": options.checkpoint,
        "size": (1920, 1080),
        "cameras": 8,
        "device": options.device,
    }
    with robot_and_node(30.0, stagger=0.01, jitter=0.002, **settings) as (robot, node):
        rows = _stream(robot, node, options)
    for row in rows:
        if row.get("results_per_s"):
            row["age_periods"] = round(row["age_s"] * row["results_per_s"], 2)
    return rows


def _stream(robot: Robot, node: Any, options: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    robot.place()
    robot.drive(max(6.0, 6.0 * options.minutes))
    share = 6.0 * options.minutes
    for _ in range(10):
        since, cpu, before = time.time(), node.cpu_s(), len(robot.results)
        robot.drive(share)
        took = time.time() - since
        ages = robot.ages(since)
        rows.append(
            {
                "s": round(took, 1),
                "results_per_s": round((len(robot.results) - before) / took, 2),
                "age_s": round(float(np.median(ages)), 3) if ages else None,
                "worst_age_s": round(max(ages), 3) if ages else None,
                "memory_mb": round(node.memory_mb()),
                "cpu_cores": round((node.cpu_s() - cpu) / took, 2),
            }
        )
    rows.append({"unknown_stamps": robot.unknown_stamps(), "frames": dict(robot.frames), "values": robot.values})
    first, last = rows[0], rows[9]
    rows.append(
        {
            "memory_growth": round(last["memory_mb"] / first["memory_mb"] - 1, 3),
            "age_growth": round(last["age_s"] / first["age_s"] - 1, 3) if first["age_s"] else None,
        }
    )
    return rows


def run_rates(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The cameras' process runs on the same cores. cpu_ms: of the node, for a result, with decoding and publishing."""
    rows = []
    for device in ("cpu", "openvino", "openvino:bf16"):
        for memory in (True, False):
            settings: dict[str, Any] = {"device": device, "memory": memory, "checkpoint": options.checkpoint}
            with robot_and_node(FAST, **settings) as (robot, node):
                robot.placed(6.0)
                since, cpu, before = time.time(), node.cpu_s(), len(robot.results)
                robot.drive(RATES_S)
                took, count = time.time() - since, len(robot.results) - before
                ages = robot.ages(since)
                rows.append(
                    {
                        "device": device,
                        "memory": memory,
                        "rate_hz": FAST,
                        "results_per_s": round(count / took, 2),
                        "age_s": round(float(np.median(ages)), 3) if ages else None,
                        "cpu_cores": round((node.cpu_s() - cpu) / took, 2),
                        "cpu_ms": round(1e3 * (node.cpu_s() - cpu) / max(count, 1), 1),
                    }
                )
    return rows


def run_sync(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    every = f"[{', '.join(camera_rig().names)}]"
    for policy, reliable in (("wait", False), ("wait", True), ("skip", True), ("degrade", True)):
        settings: dict[str, Any] = {"sync_policy": policy, "checkpoint": options.checkpoint}
        if reliable:
            settings["reliable_cameras"] = every
        with robot_and_node(RATE, **settings) as (robot, _):
            robot.place()
            robot.drive(3.0)
            for cameras, slow in (("50 ms stagger, 5 ms jitter", set()), ("one at half rate", {robot.rig.names[3]})):
                robot.faults.half_rate = slow
                robot.drive(2.0)
                before = _sets(robot)
                robot.drive(20.0)
                counts = _formed(before, _sets(robot))
                rows.append({"policy": policy, "reliable": reliable, "cameras": cameras, **counts})
    return rows


def _sets(robot: Robot) -> dict[str, float]:
    robot.drive(1.1)  # until /diagnostics has said
    values = robot.values
    superseded = float(values.get("dropped: superseded", 0))
    return {
        "published": float(values.get("sets", 0)),
        "superseded": superseded,
        "incomplete": float(values.get("dropped: incomplete", 0)),
        "degraded": float(values.get("sets without all cameras", 0)),
        "overflow": float(values.get("dropped: overflow", 0)),
    }


def _formed(before: dict[str, float], after: dict[str, float]) -> dict[str, Any]:
    counts = {name: after[name] - before[name] for name in after}
    formed = counts["published"] + counts["superseded"]
    possible = formed + counts["incomplete"] + counts["overflow"]
    return {"possible": possible, "formed_share": round(formed / possible, 4) if possible else None, **counts}


def run_faults(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []

    def note(fault: str, policy: str, robot: Robot, node: Any, phases: dict[str, Callable[[], None]]) -> None:
        counts = {}
        robot.said.clear()
        for name, phase in phases.items():
            before = len(robot.results)
            phase()
            counts[name] = len(robot.results) - before
        said = [f"{level}: {text[:120]}" for (level, text), _ in robot.said.most_common(4) if level != "OK"]
        unknown, alive = robot.unknown_stamps(), node.alive
        wrong_frames = sum(count for frame, count in robot.frames.items() if frame != "base_link")
        rows.append(
            {
                "fault": fault,
                "policy": policy,
                "results": counts,
                "alive": alive,
                "unknown_stamps": unknown,
                "wrong_frames": wrong_frames,
                "said": said,
            }
        )

    def drive(robot: Robot, seconds: float, **faults: Any) -> Callable[[], None]:
        def phase() -> None:
            for name, value in faults.items():
                setattr(robot.faults, name, value)
            robot.drive(seconds)

        return phase

    for policy in ("wait", "degrade"):
        settings = {"sync_policy": policy, "checkpoint": options.checkpoint}
        with robot_and_node(RATE, **settings) as (robot, node):
            name, anchor = robot.rig.names[3], robot.rig.names[0]
            note(
                "TF missing, then present",
                policy,
                robot,
                node,
                {"during": drive(robot, 4.0), "after": partial(robot.placed, 6.0)},
            )
            for fault, kind, camera in (
                ("a camera dies and returns", "dead", name),
                ("the anchor dies and returns", "dead", anchor),
                ("one stream is corrupt", "corrupt", name),
            ):
                note(
                    fault,
                    policy,
                    robot,
                    node,
                    {
                        "before": drive(robot, 4.0),
                        "during": drive(robot, 8.0, **{kind: {camera}}),
                        "after": drive(robot, 6.0, **{kind: set()}),
                    },
                )
            back = -3600 * 1_000_000_000
            note(
                "the clock jumps back by an hour",
                policy,
                robot,
                node,
                {"before": drive(robot, 4.0), "after": drive(robot, 8.0, clock_ns=back)},
            )
            robot.faults.clock_ns = 0
            robot.drive(4.0)
            note(
                "60 more subscribers come and go",
                policy,
                robot,
                node,
                {"before": drive(robot, 4.0), "during": partial(robot.flooded, 6.0), "after": drive(robot, 4.0)},
            )
    with robot_and_node(RATE, checkpoint=options.checkpoint) as (robot, node):
        robot.place()
        note(
            "CameraInfo 5 s late",
            "wait",
            robot,
            node,
            {"during": drive(robot, 5.0, no_info=True), "after": drive(robot, 6.0, no_info=False)},
        )
        robot.drive(2.0)  # a set is in work whenever the next signal comes
        rows.append(
            {
                "fault": "SIGINT during inference",
                "status": node.stop(signal.SIGINT),
                "traceback": "Traceback" in node.log,
            }
        )
    rows.append(_restart(options))
    return rows


def _restart(options: argparse.Namespace) -> dict[str, Any]:
    """A node after the other on one graph, each until its first result."""
    from robot import NodeProcess

    rig = camera_rig()
    robot = Robot(rig, camera_jpegs(rig), RATE, 0.05, 0.005)
    robot.place()
    seconds, statuses = [], []
    try:
        for _ in range(options.restarts):
            node, began, before = NodeProcess(rig.names, options.checkpoint), time.monotonic(), len(robot.results)
            while len(robot.results) == before and time.monotonic() - began < 120 and node.alive:
                robot.drive(0.25)
            seconds.append(time.monotonic() - began)
            statuses.append(node.stop())
    finally:
        robot.close()
    failed = sum(status not in (0, 130) for status in statuses)
    return {
        "fault": f"{options.restarts} restarts",
        "status": sorted(set(statuses)),
        "failed": failed,
        "s_to_first_result": round(statistics.median(seconds), 2),
        "unknown_stamps": robot.unknown_stamps(),
    }


if __name__ == "__main__":
    main()
