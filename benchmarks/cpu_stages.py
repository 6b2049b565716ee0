# SPDX-License-Identifier: Apache-2.0
"""Where the time of a result goes on the CPU: a table of stages, from JPEGs to the bytes of a message.

python benchmarks/cpu_stages.py [--checkpoint FILE] [--devices cpu openvino] [--threads 2] [--rounds 4] [--json FILE]

The sets are those of `backends.py`. A stage is what a function of the package takes without the stages in it: processor
time over all threads and wall time, the best of all sets once the ring of views is full. The best, because other work
on the machine only ever adds; the sum of the bests is a little less than any whole set took. Each device is a process
of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from backends import PERIOD_S, ROOT, SIZE, draw_sets

FULL_RING = 6  # sets, before any is timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="tiny", help="model file or name of shipped weights")
    parser.add_argument("--devices", nargs="+", default=["cpu", "openvino"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sets", type=int, default=12, help="in a row, each time")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", nargs=3, metavar=("SETS", "DEVICE", "RESULT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(Path(options.work[0]), options.work[1], Path(options.work[2]), options)
        return
    from report import write_report

    rows: list[dict[str, Any]] = []
    threads = str(options.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    with tempfile.TemporaryDirectory() as folder:
        sets, result = Path(folder) / "sets.npz", Path(folder) / "result.json"
        draw_sets(sets, options.sets)
        for device in options.devices:
            command = [sys.executable, __file__, "--work", sets, device, result, "--checkpoint", options.checkpoint]
            command += ["--threads", threads, "--rounds", str(options.rounds)]
            subprocess.run([*map(str, command)], check=True, env=environment, cwd=ROOT)
            rows += json.loads(result.read_text())
    for row in rows:
        print(f"{row['device']:14} {row['stage']:28} {row['cpu_ms']:6.1f} ms of cores, {row['wall_ms']:6.1f} ms wall")
    if options.json:
        shapes = {"cameras": 6, "image": list(SIZE), "sets": options.sets, "checkpoint": Path(options.checkpoint).name}
        write_report(options.json, {**shapes, "threads_given": options.threads, "rounds": options.rounds}, rows)


class Stages:
    """Times of functions, each without what was timed inside it."""

    def __init__(self) -> None:
        self._open: list[list[float]] = []
        self.of_set: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def timed(self, name: str, function: Callable) -> Callable:
        def run(*arguments: Any, **named: Any) -> Any:
            began = time.process_time(), time.perf_counter()
            self._open.append([0.0, 0.0])
            try:
                return function(*arguments, **named)
            finally:
                spent = time.process_time() - began[0], time.perf_counter() - began[1]
                inside = self._open.pop()
                for k in range(2):
                    self.of_set[name][k] += spent[k] - inside[k]
                    if self._open:
                        self._open[-1][k] += spent[k]

        return run

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        setattr(owner, attribute, self.timed(name, getattr(owner, attribute)))


def watch_all(stages: Stages) -> None:
    from gaussianocc_core import predictor, preprocess
    from gaussianocc_core.backends import backend
    from gaussianocc_core.models import depth_net, lift_cpu, view_ring

    stages.watch(preprocess.Lenses, "rectify", "rectify")
    for each in (backend.TorchBackend, backend.ExportedBackend):
        stages.watch(each, "look", "network: look")
        stages.watch(each, "decide", "networks: see, decode")
    run = backend.ExportedBackend.run
    by_name = {name: stages.timed(f"network: {name}", run) for name in backend.NETWORKS}
    backend.ExportedBackend.run = lambda self, name, *inputs: by_name[name](self, name, *inputs)  # type: ignore[method-assign]
    for module in (backend, depth_net):
        stages.watch(module, "refine_depth", "refinement by far views")
    for module in (backend, depth_net):
        stages.watch(module, "sweep_features", "plane sweep")
    stages.watch(view_ring.ViewRing, "views", "choice of views")
    stages.watch(view_ring.ViewRing, "_pairs", "turns between sets")
    stages.watch(lift_cpu.VolumeFiller, "fill", "lift")
    stages.watch(predictor.OccupancyPredictor, "_decide", "decision")


def work(path: Path, device: str, result: Path, options: argparse.Namespace) -> None:
    import torch

    from gaussianocc_core.bags.image_codec import decode_rgb
    from gaussianocc_core.checkpoint import find_weights
    from gaussianocc_core.predictor import OccupancyPredictor
    from gaussianocc_core.types import Cameras

    torch.set_num_threads(options.threads)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    count = len(arrays["names"])
    rig = Cameras(
        tuple(map(str, arrays["names"])),
        torch.from_numpy(arrays["intrinsics"]),
        torch.from_numpy(arrays["T_ego_cam"]),
        (SIZE[0],) * count,
        (SIZE[1],) * count,
    )
    jpegs = [each.tobytes() for each in np.split(arrays["jpegs"], np.cumsum(arrays["sizes"])[:-1])]
    stages = Stages()
    watch_all(stages)
    decode = stages.timed("decode JPEG", decode_rgb)
    predict = stages.timed("rest", OccupancyPredictor.__call__)
    encode = stages.timed("encode message", message_encoder())
    predictor = OccupancyPredictor.from_checkpoint(find_weights(options.checkpoint), device=device)
    reductions = predictor.reductions(rig)
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for turn in range(options.rounds):
        for k, pose in enumerate(arrays["poses"]):
            stages.of_set.clear()
            began = time.process_time(), time.perf_counter()
            images = [
                decode(data, reduce=reductions[name])
                for name, data in zip(rig.names, jpegs[count * k : count * (k + 1)], strict=True)
            ]
            encode(predict(predictor, images, rig, pose, 100.0 * turn + PERIOD_S * k))
            whole = time.process_time() - began[0], time.perf_counter() - began[1]
            if turn and k >= FULL_RING:
                for name, spent in {**stages.of_set, "a whole set": whole}.items():
                    found[name].append((spent[0], spent[1]))
        predictor.reset()
    rows = [
        {
            "device": device,
            "stage": name,
            "cpu_ms": round(1e3 * min(each[0] for each in times), 2),
            "wall_ms": round(1e3 * min(each[1] for each in times), 2),
            "cpu_ms_median": round(1e3 * float(np.median([each[0] for each in times])), 2),
        }
        for name, times in found.items()
    ]
    result.write_text(json.dumps(sorted(rows, key=lambda row: -row["cpu_ms"])))


def message_encoder() -> Callable[[Any], Any]:
    """The node's, where the messages are built; else nothing is encoded."""
    try:
        from gaussianocc_ros.conversions import encode_occupancy
    except ImportError:
        return lambda prediction: None
    return lambda prediction: encode_occupancy(prediction, 0, "base_link")


if __name__ == "__main__":
    main()
