#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What training on one's own recording reaches, and what of the recording it needs: as it is, with grey images, with
half the frame rate, without odometry.

  python benchmarks/own_recording.py kitti_drive_0001 [--only grey half] [--json FILE]

The recording is a rosbag2 with cameras and a lidar, by which depth is measured on the frames that training leaves out
(the last tenth). Each variant is a bag of its own and goes the documented way: inspect_bag.py, train as it proposes,
evaluate --left-out. Minutes are those of this machine and say little about another.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from report import write_report
from rosbags.rosbag2 import Reader, StoragePlugin
from rosbags.typesys import Stores, get_typestore

from gaussianocc_core.bags.storage import BagWriter

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ("sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/Image")
MOTION = ("tf2_msgs/msg/TFMessage", "nav_msgs/msg/Odometry")
STORE = get_typestore(Stores.ROS2_HUMBLE)
# (topic, message type, number of the message on its topic, bytes) -> bytes; None: it is left out.
Change = Callable[[str, str, int, bytes], bytes | None]


def as_it_is(topic: str, kind: str, number: int, data: bytes) -> bytes | None:
    return data


def grey(topic: str, kind: str, number: int, data: bytes) -> bytes | None:
    if kind != IMAGES[0]:
        return data
    message = STORE.deserialize_cdr(data, kind)
    image = cv2.imdecode(np.asarray(message.data), cv2.IMREAD_GRAYSCALE)
    ok, packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    assert ok
    message.format, message.data = "mono8; jpeg compressed mono8", packed.ravel()
    return bytes(STORE.serialize_cdr(message, kind))


def half(topic: str, kind: str, number: int, data: bytes) -> bytes | None:
    return None if kind in IMAGES and number % 2 else data


def without_odometry(topic: str, kind: str, number: int, data: bytes) -> bytes | None:
    return None if kind in MOTION and topic != "/tf_static" else data


VARIANTS: dict[str, Change] = {
    "as it is": as_it_is, "grey": grey, "half the frame rate": half, "without odometry": without_odometry,
}  # fmt: skip


def rewrite(source: Path, target: Path, change: Change) -> None:
    """A bag of the same connections with what the change leaves."""
    with Reader(source) as reader, BagWriter(target, StoragePlugin.MCAP) as writer:
        connections, numbers = {}, {}
        for each in reader.connections:
            connections[each.id] = writer.add_connection(
                each.topic, each.msgtype, typestore=STORE, offered_qos_profiles=each.ext.offered_qos_profiles
            )
        for connection, stamp, data in reader.messages():
            number = numbers[connection.topic] = numbers.get(connection.topic, -1) + 1
            changed = change(connection.topic, connection.msgtype, number, data)
            if changed is not None:
                writer.write(connections[connection.id], stamp, changed)


def run(*arguments: str) -> str:
    threads = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **threads},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def measure(name: str, source: Path, steps: int, work: Path) -> dict[str, Any]:
    folder = work / name.replace(" ", "_")
    bag, proposal, report = folder / source.name, folder / "proposal.yaml", folder / "evaluation.json"
    if not bag.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        rewrite(source, bag, VARIANTS[name])
    if not proposal.is_file():
        run("tools/inspect_bag.py", str(bag), "--no-timing", "--write-config", str(proposal))
    model = folder / "run" / "model.safetensors"
    resume = ["--resume"] if (folder / "run" / "last.pt").is_file() else []
    began = time.monotonic()
    run("-m", "gaussianocc_core.train", str(proposal), f"output={folder / 'run'}", f"steps={steps}", *resume)
    minutes = (time.monotonic() - began) / 60.0
    # Odometry of the whole recording where it was left out of training: depth is matched by learnt motion there.
    run("-m", "gaussianocc_core.evaluate", str(model), "--config", str(proposal), "--left-out", "--json", str(report))
    depth = json.loads(report.read_text())["depth"]["ways"]
    of_model = next(depth[way]["mean"] for way in depth if way != "flat_ground")
    keys = ("abs_rel", "a1", "scale")
    return {"recording": name, "steps": steps, "minutes": round(minutes, 1), **{key: of_model[key] for key in keys}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bag", type=Path)
    parser.add_argument("--only", nargs="+", choices=tuple(VARIANTS), default=tuple(VARIANTS))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "own_recording")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.only:
        rows.append(measure(name, options.bag.resolve(), options.steps, options.work.resolve()))
        texts = (
            f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}" for key, value in rows[-1].items()
        )
        print(" ".join(texts), flush=True)
        if options.json:
            write_report(options.json, {"bag": options.bag.name, "steps": options.steps}, rows)


if __name__ == "__main__":
    main()
