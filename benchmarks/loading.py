# SPDX-License-Identifier: Apache-2.0
"""Time the loading of training samples: decode, rectify, labels, augmentation; in this process and by spawned workers.

python benchmarks/loading.py --dataroot DIR [--size 176 96] [--workers 0 1 2] [--samples 60] [--json FILE]

A sample is all cameras of three moments with 2D labels. Seconds are wall time a sample after a warm-up that starts the
workers; in the training process also CPU time.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from report import write_report

from gaussianocc_core.data.sources import DataConfig, open_entries
from gaussianocc_core.data.training import EpochSampler, TrainingSet, load_batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataroot", required=True, help="data set in the nuScenes schema, with sweeps")
    parser.add_argument("--size", type=int, nargs=2, default=(176, 96), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=60)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    config = DataConfig(dataroot=options.dataroot)
    entries = open_entries(config)
    data = TrainingSet(entries, config, tuple(options.size), 110.0, seed=0)
    results: list[dict[str, Any]] = []

    began = time.process_time()
    for entry in entries[: options.samples]:
        entry.load()
    count = min(options.samples, len(entries))
    results.append({"what": "decode only", "workers": 0, "cpu_s": (time.process_time() - began) / count})
    for workers in options.workers:
        batches = load_batches(data, EpochSampler(len(data), seed=0), workers)
        for _ in range(2 + 4 * workers):  # what the workers had ready
            next(batches)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(options.samples):
            next(batches)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        row = {"what": "batches", "workers": workers, "s": wall / options.samples, "cpu_s": cpu / options.samples}
        results.append(row)
        print(f"{workers} workers: {options.samples / wall:.1f} samples/s", flush=True)
        del batches
    print(f"decoding alone: {1e3 * results[0]['cpu_s']:.0f} ms CPU a sample")
    if options.json:
        native = (entries[0].cameras.width[0], entries[0].cameras.height[0])
        shapes = {"cameras": len(entries[0].cameras), "native": native, "size": options.size, "moments": 3}
        write_report(options.json, shapes, results, dtype="uint8")


if __name__ == "__main__":
    main()
