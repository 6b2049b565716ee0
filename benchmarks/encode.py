# SPDX-License-Identifier: Apache-2.0
"""Time from a prediction to each output message, on the default grid, over the share of occupied voxels.

Times are compared with a reference of the same run: the same markers as Python objects, serialised by rclpy.

    python benchmarks/encode.py --active 0.03 0.16 0.5 --json benchmarks/results/encode.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rclpy.serialization import serialize_message
from render import measure
from report import write_report

from gaussianocc_core.labels import CLASS_NAMES, FREE, is_occupied
from gaussianocc_core.types import OccupancyPrediction, VoxelGrid
from gaussianocc_ros import conversions

WHERE = (0, "base_link")  # stamp, frame


def street(grid: VoxelGrid, active: float, seed: int) -> OccupancyPrediction:
    """Ground two voxels thick, and boxes on it until the share of occupied voxels is reached; random classes."""
    rng = np.random.default_rng(seed)
    occupied = np.zeros(grid.shape, dtype=bool)
    occupied[: round(grid.shape[0] * min(1.0, active * grid.shape[2] / 2)), :, :2] = True
    while occupied.mean() < active:
        x, y = rng.integers(0, grid.shape[0]), rng.integers(0, grid.shape[1])
        a, b, c = rng.integers(4, 16), rng.integers(4, 16), rng.integers(2, grid.shape[2])
        occupied[x : x + a, y : y + b, 2 : 2 + c] = True
    labels = np.where(occupied, rng.integers(0, FREE, grid.shape), FREE).astype(np.uint8)
    confidence = rng.random(grid.shape, dtype=np.float32)
    observed = np.ones(grid.shape, dtype=bool)
    return OccupancyPrediction(labels, confidence, observed, grid, CLASS_NAMES, True, ("front",), "made up")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--active", type=float, nargs="+", default=[0.03, 0.16], help="share of occupied voxels")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()

    stages = {
        "markers as objects": lambda p: serialize_message(conversions.encode_markers(p, *WHERE)),
        "markers": lambda p: conversions.serialize_markers(p, *WHERE),
        "markers, exposed only": lambda p: conversions.serialize_markers(p, *WHERE, exposed_only=True),
        "points": lambda p: serialize_message(conversions.encode_points(p, *WHERE)),
        "occupancy": lambda p: serialize_message(conversions.encode_occupancy(p, *WHERE)),
    }
    results = []
    for active in arguments.active:
        prediction = street(VoxelGrid(), active, arguments.seed)
        voxels = int(np.count_nonzero(is_occupied(prediction.labels, CLASS_NAMES)))
        reference = None
        for stage, encode in stages.items():
            timing = measure(lambda encode=encode, shown=prediction: encode(shown), arguments.repeats)
            reference = reference or timing["wall_s"]
            size = len(encode(prediction))
            results.append({"stage": stage, "voxels": voxels, "bytes": size, **timing})
            ms, ratio = 1e3 * timing["wall_s"], reference / timing["wall_s"]
            print(f"{voxels:7d} voxels, {stage:22}: {ms:8.2f} ms, {ratio:5.0f} times as fast, {size / 1e6:.2f} MB")
    if arguments.json:
        write_report(arguments.json, {"grid": VoxelGrid().shape}, results, dtype="as in the messages")


if __name__ == "__main__":
    main()
