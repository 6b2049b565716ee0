# SPDX-License-Identifier: Apache-2.0
"""Rig -> synthetic data set -> bag through the two tools themselves, and what such a bag holds."""

from __future__ import annotations

import runpy
import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import Reader

from gaussianocc_core.bags.typestore import open_typestore
from gaussianocc_core.geometry import transforms
from gaussianocc_core.geometry.cameras import resize
from gaussianocc_core.geometry.rig_file import save_rig
from gaussianocc_core.synthetic import fisheye_rig
from gaussianocc_core.types import Cameras

ROOT = Path(__file__).resolve().parents[2]
SCENE = "synthetic-0001"
# A lens farther from the ideal one than the rig file's, so that lost coefficients cannot pass for rounding.
FISHEYES = replace(resize(fisheye_rig(), 200, 150), distortion=((0.05, -0.02, 0.004, -0.0005),) * 4)


def run_tool(name: str, *arguments: object) -> int:
    """Exit status of a tool, run in this process: importing torch anew for each would take longer than the rest."""
    before, sys.argv = sys.argv, [name, *map(str, arguments)]
    try:
        runpy.run_path(str(ROOT / "tools" / name), run_name="__main__")
    except SystemExit as exited:
        return int(exited.code or 0)
    finally:
        sys.argv = before
    raise AssertionError(f"{name} did not say with which status it ended")


def make_dataset(folder: Path, cameras: Cameras, frames: int, seed: int, *options: str) -> Path:
    """One scene of a rig; `folder` must not exist."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    rig = folder.parent / f"{folder.name}.yaml"
    save_rig(cameras, rig)
    arguments = ("--output", folder, "--rig", rig, "--frames", frames, "--seed", seed, "--quiet", *options)
    assert run_tool("make_synthetic_nuscenes.py", *arguments) == 0
    return folder


def convert(dataroot: Path, output: Path, *options: str) -> Path:
    """The bag of the scene."""
    assert run_tool("nuscenes_to_rosbag.py", "--dataroot", dataroot, "--output", output, *options) == 0
    return output / SCENE


@dataclass(frozen=True)
class Bag:
    """A bag's messages in memory: topic -> [(log time in ns, message)], and (topic, log time) in the file's order."""

    topics: dict[str, list[tuple[int, Any]]]
    order: list[tuple[str, int]]

    def T_base(self, frame: str) -> np.ndarray:
        """T_base_frame of a sensor from /tf_static."""
        ((_, message),) = self.topics["/tf_static"]
        return {item.child_frame_id: matrix(item) for item in message.transforms}[frame]

    def T_odom_base(self, stamp_ns: int) -> np.ndarray:
        """Odometry at a stamp that /tf holds."""
        return {t: matrix(message.transforms[0]) for t, message in self.topics["/tf"]}[stamp_ns]


def read_bag(path: Path) -> Bag:
    store = open_typestore()
    topics, order = defaultdict(list), []
    with Reader(path) as reader:
        for connection, stamp_ns, raw in reader.messages():
            topics[connection.topic].append((stamp_ns, store.deserialize_cdr(raw, connection.msgtype)))
            order.append((connection.topic, stamp_ns))
    return Bag(dict(topics), order)


def matrix(stamped: Any) -> np.ndarray:
    q, p = stamped.transform.rotation, stamped.transform.translation
    return transforms.make_transform(
        transforms.quat_to_matrix(np.array([q.w, q.x, q.y, q.z])), np.array([p.x, p.y, p.z])
    )


def stamp_ns(header: Any) -> int:
    return header.stamp.sec * 10**9 + header.stamp.nanosec


def lidar_points(cloud: Any) -> np.ndarray:
    """x y z of a PointCloud2 in its own frame, (P, 3)."""
    layout = np.dtype({"names": "xyz", "formats": ["<f4"] * 3, "offsets": [0, 4, 8], "itemsize": cloud.point_step})
    points = np.frombuffer(cloud.data.tobytes(), layout)
    return np.column_stack([points[axis] for axis in "xyz"]).astype(np.float64)
