# SPDX-License-Identifier: Apache-2.0
"""Time RayIoU of one sample: 14,040 rays from each of 8 origins through a pair of 200 x 200 x 16 label volumes.

python benchmarks/ray_iou.py [--repeats 10] [--json FILE]

`street` is the synthetic world's labels against themselves shifted by one voxel. `flat` is a road and nothing else,
the longest rays that a sample with labels has.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from report import write_report

from gaussianocc_core.metrics import RayIoU, flat_ground
from gaussianocc_core.synthetic import World, occupancy
from gaussianocc_core.types import VoxelGrid

BUDGET = 0.5  # s a sample after compilation, on two idle cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()

    grid = VoxelGrid()
    street = occupancy(World(arguments.seed, duration=1.0), 0.0).semantics
    volumes = {"street": (street, np.roll(street, 1, axis=0)), "flat": (flat_ground(grid), flat_ground(grid))}
    origins = np.stack([np.linspace(-35, 35, 8), np.zeros(8), np.full(8, 1.84)], axis=1)
    results = []
    for name, (truth, prediction) in volumes.items():
        scores, times = RayIoU(grid), []
        start = time.perf_counter()
        scores.update(truth, prediction, origins)
        first = time.perf_counter() - start
        for _ in range(arguments.repeats):
            wall, cpu = time.perf_counter(), time.process_time()
            scores.update(truth, prediction, origins)
            times.append((time.perf_counter() - wall, time.process_time() - cpu))
        low, median, high = np.percentile(np.array(times)[:, 0], [25, 50, 75])
        cpu_s = float(np.median(np.array(times)[:, 1]))
        results.append(
            {
                "stage": name,
                "wall_s": float(median),
                "wall_iqr_s": float(high - low),
                "cpu_s": cpu_s,
                "first_call_wall_s": first,
            }
        )
        print(
            f"{name}: {median:.2f} s wall, {cpu_s:.2f} s CPU a sample (budget {BUDGET} s wall), "
            f"the first one {first:.1f} s; ray_iou {scores.summary()['ray_iou']:.3f}"
        )
    if arguments.json:
        shapes = {"grid": list(grid.shape), "origins": len(origins), "directions": len(scores.directions)}
        write_report(arguments.json, shapes, results, "float64")


if __name__ == "__main__":
    main()
