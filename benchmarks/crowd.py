# SPDX-License-Identifier: Apache-2.0
"""Programs that use the occupancy node as others do, for benchmarks/node_load.py: until their standard input closes.

python benchmarks/crowd.py subscribe|parameters SEED CAMERA...

subscribe    to one to eight random outputs at a time, each for up to two seconds; every fifth time as a new participant
parameters   four clients get, list, describe and set parameters, good values and bad ones
Prints as JSON what it did.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from typing import Any

NODE = "/occupancy_node"
CLIENTS = 4


def main() -> None:
    work, seed, *cameras = sys.argv[1:]
    over = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    counts = (subscribe if work == "subscribe" else set_parameters)(tuple(cameras), int(seed), over)
    print(json.dumps(counts), flush=True)
    os._exit(0)  # whatever DDS still tidies up


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


def subscribe(cameras: tuple[str, ...], seed: int, over: threading.Event) -> dict[str, int]:
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
    return {"subscriptions": made, "messages_received": received}


def set_parameters(cameras: tuple[str, ...], seed: int, over: threading.Event) -> dict[str, int]:
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
    return totals


if __name__ == "__main__":
    main()
