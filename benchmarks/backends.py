# SPDX-License-Identifier: Apache-2.0
"""What runs the networks: images to occupancy in torch, ONNX Runtime and OpenVINO, speed beside agreement with torch.

python benchmarks/backends.py [--checkpoint FILE] [--threads 2] [--rounds 4] [--against CHECKOUT] [--exported DIR]
    [--json FILE]

Six JPEGs of 1600 x 900 a set, of a car that drives through a made-up street at 12 Hz; decoding, motion and matching
included, DDS not (benchmarks/node.py). Each way is a process of its own; they take turns, so that what else the
machine does falls on all of them: read ratios of one run. Processor time is of all threads together: two cores give 12
results a second if decode and predict take less than 167 ms of it. `--against` times the torch of another checkout,
`--exported` a folder of tools/export_model.py (int8, say) in ONNX Runtime and OpenVINO.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
WORLD, FIRST_S, PERIOD_S = 779, 4.0, 1.0 / 12.0
SIZE = (1600, 900)
WAYS = ("cpu", "onnx", "openvino", "openvino:bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="tiny", help="model file or name of shipped weights")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), help=f"devices (default: {' '.join(WAYS)})")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sets", type=int, default=12, help="in a row, each time")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--against", type=Path, help="another checkout, whose torch is timed as 'before'")
    parser.add_argument("--exported", type=Path, help="folder of exported networks of the checkpoint")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", nargs=3, metavar=("SETS", "DEVICE", "RESULT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(Path(options.work[0]), options.work[1], Path(options.work[2]), options.checkpoint, options.threads)
        return
    from report import write_report

    with tempfile.TemporaryDirectory() as folder:
        sets = Path(folder) / "sets.npz"
        draw_sets(sets, options.sets)
        ways = [(way, way, ROOT, options.checkpoint) for way in options.ways]
        if options.against:
            ways.append(("before", "cpu", options.against.resolve(), options.checkpoint))
        if options.exported:
            from gaussianocc_core.backends.folder import read_folder

            export = read_folder(options.exported.resolve())
            ways += [(f"{way}, {export.precision}", way, ROOT, str(export.path)) for way in ("onnx", "openvino")]
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name, *_ in ways}
        labels: dict[str, np.ndarray] = {}
        for _ in range(options.rounds):
            for name, device, checkout, checkpoint in ways:
                timed, labels[name] = run(sets, device, checkout, checkpoint, Path(folder), options.threads)
                rounds[name].append(timed)
    rows = [summary(name, rounds, labels) for name in rounds]
    for row in rows:
        print(
            f"{row['way']:14} decode {row['decode_cpu_ms']:5.1f}  predict {row['predict_cpu_ms']:6.1f} ms of cores, "
            f"{row['predict_wall_ms']:6.1f} ms wall; {row['by_torch']:.2f} of torch's time"
            + (f", {row['by_before']:.2f} of what it was" if "by_before" in row else "")
            + f"; labels as torch: {row['labels_equal']:.5f}"
        )
    if options.json:
        shapes = {"cameras": 6, "image": list(SIZE), "sets": options.sets, "checkpoint": Path(options.checkpoint).name}
        write_report(options.json, {**shapes, "threads_given": options.threads, "rounds": options.rounds}, rows)


def draw_sets(path: Path, count: int) -> None:
    import cv2

    from gaussianocc_core.geometry.cameras import resize
    from gaussianocc_core.synthetic.rig import default_rig
    from gaussianocc_core.synthetic.world import World, render_frame

    rig, world = default_rig(), World(WORLD)
    jpegs, poses = [], []
    for k in range(count):
        stamp = FIRST_S + PERIOD_S * k
        for image in render_frame(world, rig, stamp).images:
            large = cv2.resize(image[..., ::-1], SIZE, interpolation=cv2.INTER_CUBIC)
            jpegs.append(cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].ravel())
        poses.append(world.T_world_ego(stamp))
    rig = resize(rig, *SIZE)
    np.savez(
        path,
        jpegs=np.concatenate(jpegs),
        sizes=np.array([len(each) for each in jpegs]),
        poses=np.stack(poses),
        names=np.array(rig.names),
        intrinsics=rig.intrinsics.numpy(),
        T_ego_cam=rig.T_ego_cam.numpy(),
    )


def run(
    sets: Path, device: str, checkout: Path, checkpoint: str, folder: Path, thread_count: int
) -> tuple[dict[str, Any], np.ndarray]:
    result = folder / "result.npz"
    threads = str(thread_count)
    # As the node has it.
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(checkout), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, __file__, "--work", sets, device, result, "--checkpoint", checkpoint]
    subprocess.run([*map(str, command), "--threads", threads], check=True, env=environment, cwd=checkout)
    with np.load(result) as found:
        return json.loads(str(found["timed"])), found["labels"]


def work(path: Path, device: str, result: Path, checkpoint: str, threads: int) -> None:
    """In a process of its own, with whatever checkout is imported there."""
    import torch

    from gaussianocc_core.bags.image_codec import decode_rgb
    from gaussianocc_core.predictor import OccupancyPredictor
    from gaussianocc_core.types import Cameras

    torch.set_num_threads(threads)
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
    from gaussianocc_core.checkpoint import find_weights

    source = checkpoint if Path(checkpoint).is_dir() else find_weights(checkpoint)
    predictor = OccupancyPredictor.from_checkpoint(source, device=device)
    reductions = predictor.reductions(rig)
    decode, predict, wall, labels = [], [], [], []
    for turn in range(2):  # kernels are loaded and pools fill in the first
        for k, pose in enumerate(arrays["poses"]):
            began = time.process_time()
            images = [
                decode_rgb(data, reduce=reductions[name])
                for name, data in zip(rig.names, jpegs[count * k : count * (k + 1)], strict=True)
            ]
            decoded, clock = time.process_time(), time.perf_counter()
            found = predictor(images, rig, pose, 100.0 * turn + PERIOD_S * k)
            if turn:
                decode.append(decoded - began)
                predict.append(time.process_time() - decoded)
                wall.append(time.perf_counter() - clock)
            if turn == 1:
                labels.append(np.where(found.observed, found.labels, 255))
        predictor.reset()
    medians = {"decode": np.median(decode), "predict": np.median(predict), "wall": np.median(wall)}
    timed = {name: 1e3 * float(each) for name, each in medians.items()}
    np.savez(result, timed=json.dumps(timed), labels=np.stack(labels))


def summary(name: str, rounds: dict[str, list[dict[str, Any]]], labels: dict[str, np.ndarray]) -> dict[str, Any]:
    """Medians over the rounds, ratios of the same round."""

    def median(what: str) -> float:
        return round(float(np.median([each[what] for each in rounds[name]])), 1)

    def ratio(other: str) -> float:
        pairs = zip(rounds[name], rounds[other], strict=True)
        return round(float(np.median([mine["predict"] / theirs["predict"] for mine, theirs in pairs])), 3)

    reference = "cpu" if "cpu" in rounds else name
    row = {
        "way": name,
        "decode_cpu_ms": median("decode"),
        "predict_cpu_ms": median("predict"),
        "predict_wall_ms": median("wall"),
        "by_torch": ratio(reference),
        "labels_equal": round(float((labels[name] == labels[reference])[labels[reference] != 255].mean()), 6),
    }
    if "before" in rounds:
        row["by_before"] = ratio("before")
    return row


if __name__ == "__main__":
    main()
