#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How much driving is enough: both stages on 30 seconds, 2 and 10 minutes of it, measured on other streets.

  python tools/make_synthetic_nuscenes.py --output out/drive --scenes 20 --frames 60 --seed 500 --world street --rig RIG
  python tools/make_synthetic_nuscenes.py --output out/other --scenes 8 --frames 4 --seed 900 --world street --rig RIG
  python benchmarks/data_scaling.py out/drive out/other [--seconds 30 120 600] [--json FILE]

Every row goes the documented way for a recording: stage 1 from the shipped weights, labels carved from its depth, and
stage 2 on them. The steps of the optimiser are the same in each, so that more driving is seen less often. The first row
is the shipped model, without any training. What is there already is not made again: a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from own_recording import run
from report import write_report

from gaussianocc_core.data.nuscenes import NuScenesSource

ROOT = Path(__file__).resolve().parents[1]
KEYFRAMES_HZ = 2.0
SHIPPED = ROOT / "gaussianocc_core" / "weights" / "tiny.safetensors"
COLUMNS = {
    "depth_head_abs_rel": ("depth", "ways", "depth_head", "mean", "abs_rel"),
    "rendered_abs_rel": ("depth", "ways", "rendered", "mean", "abs_rel"),
    "iou": ("mask_camera", "model", "iou"),
    "flat_ground_iou": ("mask_camera", "flat_ground", "iou"),
    "off_ground_iou": ("mask_camera", "model", "non_ground_iou"),
    "off_ground_10m": ("by_range", "10", "model", "non_ground_iou"),
    "missed_10m": ("robot", "truths", "lidar", "model", "0-10", "missed"),
    "unknown_10m": ("robot", "truths", "lidar", "model", "0-10", "unknown"),
    "ghosts_10m": ("robot", "truths", "lidar", "model", "0-10", "ghosts"),
}


def train(output: Path, config: str, *overrides: str) -> Path:
    """The model of a run, which goes on if it was interrupted."""
    model = output / "model.safetensors"
    if not (output / "complete").is_file():
        resume = ["--resume"] if (output / "last.pt").is_file() else []
        run("-m", "gaussianocc_core.train", f"config/train/{config}.yaml", f"output={output}", "pictures_every=0",
            *overrides, *resume)  # fmt: skip
        (output / "complete").touch()
    return model


def measure(model: Path, other: Path, report: Path) -> dict[str, float]:
    if not report.is_file():
        run(
            "-m",
            "gaussianocc_core.evaluate",
            str(model),
            "--dataroot",
            str(other),
            "--no-ray-iou",
            "--json",
            str(report),
        )
    found = json.loads(report.read_text())
    figures = {}
    for name, keys in COLUMNS.items():
        value: Any = found
        for key in keys:
            value = value[key]
        figures[name] = round(float(value), 4)
    return figures


def row(seconds: float, scenes: tuple[str, ...], options: argparse.Namespace) -> dict[str, Any]:
    """One amount of driving, from recording to figures."""
    work = options.work / f"{seconds:g}s"
    work.mkdir(parents=True, exist_ok=True)
    data = (f"data.dataroot={options.drive}", f"data.scenes=[{', '.join(scenes)}]")
    # All of it is trained on, and what was learnt is measured, even where it is worse than what was there.
    rates = (f"learning_rate={options.rate}", f"encoder_learning_rate={options.rate}", "data.left_out=0")
    first = train(
        work / "stage1", "gsp_tiny_more", *data, "first_stage=tiny_matching", f"steps={options.steps}", *rates
    )
    labels = work / "labels"
    run("tools/carve_labels.py", str(options.drive), "--checkpoint", str(first), "--output", str(labels),
        "--moments", "keyframes", "--scene", *scenes)  # fmt: skip
    second = train(work / "stage2", "gsv_carved", *data, f"first_stage={first}", f"data.occupancy={labels}",
                   f"steps={options.second_steps}")  # fmt: skip
    return {
        "seconds": seconds,
        "scenes": len(scenes),
        "rate": options.rate,
        **measure(second, options.other, work / "evaluation.json"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drive", type=Path, help="data set in the nuScenes schema to train on, of scenes of one length")
    parser.add_argument("other", type=Path, help="data set with truth to measure on: other streets, the same rig")
    parser.add_argument("--seconds", type=float, nargs="+", default=(30.0, 120.0, 600.0))
    parser.add_argument("--steps", type=int, default=600, help="of stage 1 (600)")
    parser.add_argument(
        "--rate", type=float, default=2e-4, help="learning rate of stage 1 (2e-4, as inspect_bag.py has it)"
    )
    parser.add_argument("--second-steps", type=int, default=700, help="of stage 2 (700)")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "data_scaling")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    for name in ("drive", "other", "work"):
        setattr(options, name, getattr(options, name).resolve())
    options.work.mkdir(parents=True, exist_ok=True)
    source = NuScenesSource(options.drive, "v1.0-mini")
    names = tuple(source.scene_names())
    length = len(source.index(names[0])) / KEYFRAMES_HZ
    rows = [{"seconds": 0.0, "scenes": 0, **measure(SHIPPED, options.other, options.work / "shipped.json")}]
    for seconds in options.seconds:
        count = max(1, round(seconds / length))
        if count > len(names):
            raise SystemExit(f"{seconds:g} s are {count} scenes of {length:g} s; {options.drive} has {len(names)}")
        rows.append(row(seconds, names[:count], options))
        print(json.dumps(rows[-1]), flush=True)
        if options.json:
            shapes = {"steps": options.steps, "second_steps": options.second_steps, "scene_s": length}
            write_report(options.json, shapes, rows)


if __name__ == "__main__":
    main()
