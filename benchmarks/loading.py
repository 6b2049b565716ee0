# SPDX-License-Identifier: Apache-2.0
"""Time the loading of training samples: decode, rectify, labels, augmentation; in this process and by spawned workers.

python benchmarks/loading.py --dataroot DIR | --bag BAG [--size 176 96] [--workers 0 1 2] [--samples 60] [--json FILE]

A sample is all cameras of three moments with 2D labels. Seconds are wall time a sample after a warm-up that starts the
workers; in the training process also CPU time.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from report import write_report

from gaussianocc_core.bags.indexing import find_bags, open_index
from gaussianocc_core.data.bag_cameras import BagConfig
from gaussianocc_core.data.sources import DataConfig, open_entries
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.training.loader import TrainingSet, load_batches
from gaussianocc_core.training.sampling import EpochSampler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--dataroot", default="", help="data set in the nuScenes schema, with sweeps")
    source.add_argument("--bag", default="", help="rosbag2, or a folder of them; its index is timed too")
    parser.add_argument("--size", type=int, nargs=2, default=(176, 96), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=60)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    if options.bag:
        results.append(time_index(options.bag))
    config = DataConfig(dataroot=options.dataroot, bag=BagConfig(options.bag))
    entries = open_entries(config)
    data = TrainingSet(entries, config, Preprocessor(*options.size), seed=0)

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
    decode = next(row["cpu_s"] for row in results if row["what"] == "decode only")
    print(f"decoding alone: {1e3 * decode:.0f} ms CPU a sample")
    if options.json:
        native = (entries[0].cameras.width[0], entries[0].cameras.height[0])
        shapes = {"cameras": len(entries[0].cameras), "native": native, "size": options.size, "moments": 3}
        write_report(options.json, shapes, results, dtype="uint8")


def time_index(path: str) -> dict[str, Any]:
    """One pass over every bag of a path, without the index that may lie beside it; and reading the same bytes."""
    bags = find_bags(path)
    files = [file for bag in bags for file in ([bag] if bag.is_file() else bag.iterdir()) if file.suffix != ".npz"]
    began = time.perf_counter()
    megabytes = sum(len(file.read_bytes()) for file in files) / 1e6
    plain = time.perf_counter() - began
    began = time.perf_counter()
    messages = sum(len(topic) for bag in bags for topic in open_index(bag, cache=False).topics.values())
    took = time.perf_counter() - began
    print(
        f"index: {messages} messages, {megabytes:.0f} MB in {took:.2f} s ({megabytes / took:.0f} MB/s); "
        f"reading the bytes alone {plain:.2f} s"
    )
    return {"what": "index", "messages": messages, "mb": megabytes, "s": took, "read_bytes_s": plain}


if __name__ == "__main__":
    main()
