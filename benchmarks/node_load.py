# SPDX-License-Identifier: Apache-2.0
"""The node under everything at once: random faults, subscribers that come and go, clients that set its parameters.

python benchmarks/node_load.py [--minutes 10] [--seed 0] [--json FILE]

Six cameras stream. Every one to three seconds another fault begins or ends, as benchmarks/node.py has them: a camera is
dead, corrupt or at half rate, CameraInfo is missing, the clock jumps. Meanwhile two processes subscribe to random
outputs and leave again, one of them killed now and then, and four clients get, list, describe and set parameters, good
values and bad ones. Memory and threads of the node are sampled twice a second. After a first part in which caches and
pools fill, both should stay. Subscribers and clients need processor time too: on few cores the rate of results says
nothing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from report import write_report
from robot import NODE, NodeProcess, Robot, robot_and_node

PARTS = 10  # of the time; the first is left out of the verdict
SUBSCRIBERS, CLIENTS = 2, 4
_SAMPLE_PERIOD = 0.5  # s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=12.0, help="images a second of each camera (default: 12)")
    parser.add_argument("--image", default="1600x900", help="size of the images (default: 1600x900)")
    parser.add_argument("--checkpoint", default="", help="model file (default: the shipped one)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    width, height = (int(side) for side in options.image.split("x"))
    with robot_and_node(options.rate, checkpoint=options.checkpoint, size=(width, height)) as (robot, node):
        robot.place()
        rows = put_under_load(robot, node, 60.0 * options.minutes, options.seed)
    for row in rows:
        print(row, flush=True)
    if options.json:
        shapes = {"cameras": 6, "image": [width, height], "rate_hz": options.rate, "seed": options.seed}
        write_report(options.json, shapes, rows)


def put_under_load(robot: Robot, node: NodeProcess, seconds: float, seed: int) -> list[dict[str, Any]]:
    """A row for each part of the time, and one for all of it."""
    begin = time.time()
    samples: list[tuple[float, float, int]] = []  # time, MB, threads
    over = threading.Event()

    def sample() -> None:
        while not over.wait(_SAMPLE_PERIOD) and node.alive:
            samples.append((time.time(), node.memory_mb(), node.threads))

    sampler = threading.Thread(target=sample)
    crowd = Crowd(robot.rig.names, seed)
    faults: dict[str, int] = {}
    try:
        sampler.start()
        dice = random.Random(seed)
        while time.time() < begin + seconds and node.alive:
            name = set_fault(robot, dice)
            faults[name] = faults.get(name, 0) + 1
            robot.drive(min(dice.uniform(1.0, 3.0), max(0.1, begin + seconds - time.time())))
            crowd.disturb(dice)
    finally:
        over.set()
        sampler.join()
        counts = crowd.close()
    heal(robot)
    rows = [_part(i, samples, robot, begin, seconds / PARTS) for i in range(PARTS)]
    before = len(robot.results)
    robot.drive(5.0)  # does it go on, after all that?
    times, memory = (np.array(column) for column in list(zip(*samples, strict=True))[:2])
    settled = times > begin + seconds / PARTS
    slope = np.polyfit((times[settled] - begin) / 60.0, memory[settled], 1)[0]
    threads = sorted({count for moment, _, count in samples if moment > begin + seconds / PARTS})
    rows.append(
        {
            "memory_growth": round(rows[-1]["memory_mb"] / rows[1]["memory_mb"] - 1.0, 4),
            "memory_slope_mb_per_minute": round(float(slope), 2),
            "threads": threads,
            "alive": node.alive,
            "results_in_5_s_after": len(robot.results) - before,
            "tracebacks": node.log.count("Traceback"),
            "faults": faults,
            **counts,
        }
    )
    return rows


def _part(
    number: int, samples: list[tuple[float, float, int]], robot: Robot, begin: float, share: float
) -> dict[str, Any]:
    first, last = begin + number * share, begin + (number + 1) * share
    own = [(memory, threads) for moment, memory, threads in samples if first <= moment < last]
    count = sum(first <= arrived < last for _, arrived in robot.results)
    return {
        "s": round(share, 1),
        "memory_mb": round(float(np.median([memory for memory, _ in own])), 1),
        "memory_mb_most": round(max(memory for memory, _ in own), 1),
        "threads": [min(threads for _, threads in own), max(threads for _, threads in own)],
        "results_per_s": round(count / share, 2),
    }


# ---- faults --------------------------------------------------------------------------------------------------------


def heal(robot: Robot) -> None:
    faults = robot.faults
    faults.dead, faults.corrupt, faults.half_rate, faults.no_info, faults.clock_ns = set(), set(), set(), False, 0


def set_fault(robot: Robot, dice: random.Random) -> str:
    """One at a time, and every third time none."""
    heal(robot)
    faults, camera = robot.faults, dice.choice(robot.rig.names)
    name = dice.choice(
        ("none", "none", "none", "dead", "corrupt", "half rate", "no CameraInfo", "clock", "placed anew")
    )
    if name == "dead":
        faults.dead = {camera}
    elif name == "corrupt":
        faults.corrupt = {camera}
    elif name == "half rate":
        faults.half_rate = {camera}
    elif name == "no CameraInfo":
        faults.no_info = True
    elif name == "clock":
        faults.clock_ns = dice.choice((-3600, -1, 1, 3600)) * 1_000_000_000
    elif name == "placed anew":
        robot.place()
    return name


# ---- subscribers and clients ---------------------------------------------------------------------------------------


class Crowd:
    """Processes that use the node: SUBSCRIBERS that come and go, and one with CLIENTS of its parameters."""

    def __init__(self, cameras: tuple[str, ...], seed: int) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._cameras, self._seed, self._killed = cameras, seed, 0
        self._over = self._context.Event()
        self._counts = self._context.Queue()
        self._subscribers = [self._start(subscribe, seed + i) for i in range(SUBSCRIBERS)]
        self._clients = self._start(set_parameters, seed)
        self._last_kill = time.monotonic()

    def _start(self, work: Any, seed: int) -> Any:
        process = self._context.Process(target=work, args=(self._cameras, seed, self._over, self._counts), daemon=True)
        process.start()
        return process

    def disturb(self, dice: random.Random) -> None:
        """Every twenty seconds a subscriber dies without a word, and another comes."""
        if time.monotonic() - self._last_kill > 20.0:
            self._last_kill = time.monotonic()
            self._subscribers.pop(0).kill()
            self._killed += 1
            self._subscribers.append(self._start(subscribe, dice.randrange(1 << 30)))

    def close(self) -> dict[str, Any]:
        """What it did."""
        self._over.set()
        counts: dict[str, Any] = {"subscribers_killed": self._killed}
        for _ in (*self._subscribers, self._clients):
            for name, count in self._counts.get(timeout=60.0).items():
                counts[name] = counts.get(name, 0) + count
        for process in (*self._subscribers, self._clients):
            process.join(30.0)
        return counts


def outputs_of(cameras: tuple[str, ...]) -> list[tuple[Any, str]]:
    """Type and topic of everything that the node publishes."""
    from diagnostic_msgs.msg import DiagnosticArray
    from nav_msgs.msg import OccupancyGrid, Odometry
    from sensor_msgs.msg import CameraInfo, Image, PointCloud2
    from visualization_msgs.msg import MarkerArray

    from gaussianocc_ros.msg import SemanticOccupancy

    kinds: list[tuple[Any, str]] = [
        (SemanticOccupancy, "occupancy"),
        (PointCloud2, "points"),
        (MarkerArray, "markers"),
        (PointCloud2, "obstacles"),
        (OccupancyGrid, "grid"),
        (Odometry, "odometry"),
    ]
    for camera in cameras:
        for what in ("depth", "semantic"):
            kinds += [(Image, f"{camera}/{what}/image_raw"), (CameraInfo, f"{camera}/{what}/camera_info")]
    return [*((kind, f"{NODE}/{name}") for kind, name in kinds), (DiagnosticArray, "/diagnostics")]


def subscribe(cameras: tuple[str, ...], seed: int, over: Any, counts: Any) -> None:
    """To one to eight outputs, each for up to two seconds; every fifth time as a new participant."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import QoSProfile, ReliabilityPolicy

    dice, made, received = random.Random(seed), 0, 0
    topics = outputs_of(cameras)

    def take(data: bytes) -> None:
        nonlocal received
        received += 1

    while not over.is_set():
        context = rclpy.Context()
        rclpy.init(context=context)
        node = rclpy.create_node(f"crowd_{os.getpid()}", context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        for _ in range(5):
            qos = [
                QoSProfile(
                    depth=1, reliability=dice.choice((ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT))
                )
                for _ in range(dice.randint(1, 8))
            ]
            held = [node.create_subscription(*dice.choice(topics), take, each, raw=True) for each in qos]
            made += len(held)
            until = time.monotonic() + dice.uniform(0.1, 2.0)
            while time.monotonic() < until and not over.is_set():
                executor.spin_once(timeout_sec=0.1)
            for subscription in held:
                node.destroy_subscription(subscription)
        executor.shutdown()
        node.destroy_node()
        context.shutdown()
    counts.put({"subscriptions": made, "messages_received": received})


def set_parameters(cameras: tuple[str, ...], seed: int, over: Any, counts: Any) -> None:
    """CLIENTS clients in threads, each with one call after the other."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.parameter import Parameter
    from rclpy.parameter_client import AsyncParameterClient

    changes = [
        ("caution", 0.5),
        ("caution", 7.0),
        ("obstacle_low", 0.3),
        ("obstacle_low", 9.0),
        ("hidden_classes", [""]),
        ("hidden_classes", ["no such class"]),
        ("view_colors", True),
        ("view_colors", False),
        ("least_rate", 0.0),
        ("warn_age", "a word"),
        ("device", "cuda"),
        ("no_such_parameter", 1),
    ]
    totals = {"parameter_calls": 0, "set": 0, "refused": 0, "unanswered": 0}
    lock = threading.Lock()

    def work(number: int) -> None:
        dice = random.Random(f"{seed} {number}")
        context = rclpy.Context()
        rclpy.init(context=context)
        node = rclpy.create_node(f"client_{number}", context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        client = AsyncParameterClient(node, NODE)
        client.wait_for_services(30.0)
        while not over.is_set():
            what = dice.choice(("set", "set", "get", "list", "describe"))
            if what == "set":
                future = client.set_parameters(
                    [Parameter(name, value=value) for name, value in dice.sample(changes, 2)]
                )
            elif what == "list":
                future = client.list_parameters()
            else:
                call = client.get_parameters if what == "get" else client.describe_parameters
                future = call([name for name, _ in dice.sample(changes, 2)])
            executor.spin_until_future_complete(future, 5.0)
            with lock:
                totals["parameter_calls"] += 1
                if not future.done():
                    totals["unanswered"] += 1
                elif what == "set":
                    for result in future.result().results:
                        totals["set" if result.successful else "refused"] += 1
            over.wait(0.05)
        executor.shutdown()
        node.destroy_node()
        context.shutdown()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts.put(totals)


if __name__ == "__main__":
    main()
