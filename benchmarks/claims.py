#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What self-supervision reaches on held-out synthetic streets, row by row: each row is a training run of its own.

Apart from these stand rows that owe something to the synthetic world's true depth: shipped weights, and training that
starts from weights pretrained on it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from report import COMMIT, processor, usable_cores

from gaussianocc_core.checkpoint import load_depth_net, load_model, networks_in
from gaussianocc_core.config import load_config
from gaussianocc_core.errors import GaussianOccError
from gaussianocc_core.evaluation import evaluate
from gaussianocc_core.training.config import TrainConfig
from gaussianocc_core.training.state import LAST, load_state

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
WEIGHTS = ROOT / "gaussianocc_core" / "weights"
SEEN, HELD_OUT = {"scenes": 60, "frames": 3, "seed": 100}, {"scenes": 6, "frames": 3, "seed": 300}


@dataclass(frozen=True)
class Row:
    name: str
    says: str
    config: str = ""  # of config/train
    overrides: tuple[str, ...] = ()
    after: str = ""  # row whose model is the first stage
    weights: str = ""  # shipped ones, which are measured as they are
    truth: bool = False  # its depth was pretrained on true depth


_SHORT1, _SHORT2 = "steps=500", "steps=300"
# fmt: off
ROWS = (
    Row("stage1", "stage 1", "gsp_tiny"),
    Row("stage1_short", "short stage 1, to compare with", "gsp_tiny", (_SHORT1,)),
    Row("stage1_no_cross", "without the cross-view splatting", "gsp_tiny", ("gsp.cross_weight=0", _SHORT1)),
    Row("stage1_no_mask", "without its overlap mask", "gsp_tiny", ("gsp.mask_overlap=false", _SHORT1)),
    Row("stage1_calibrated", "cameras as calibrated, not placed by motion", "gsp_tiny",
        ("gsp.place_by_motion=false", _SHORT1)),
    Row("stage1_no_search", "without the search for how far the rig went", "gsp_tiny",
        ("gsp.length_search.factor=1", _SHORT1)),
    Row("stage1_no_hints", "without depth hints", "gsp_tiny", ("gsp.hints.weight=0", _SHORT1)),
    Row("stage1_no_ground", "from a constant depth, not the ground's", "gsp_tiny",
        ("model.depth.ground=0", "model.depth.first=10", _SHORT1)),
    Row("stage2", "stage 2 with learned ego motion", "gsv_tiny", after="stage1"),
    Row("stage2_short", "short stage 2, to compare with", "gsv_tiny", (_SHORT2,), after="stage1"),
    Row("stage2_true_pose", "with true ego motion", "gsv_tiny", ("gsv.ego_motion=sensor", _SHORT2),
        after="stage1"),
    Row("stage2_no_surface", "without the surface term", "gsv_tiny", ("gsv.surface=0", _SHORT2), after="stage1"),
    Row("volume", "by volume rendering", "gsv_tiny", ("gsv.renderer=volume", _SHORT2), after="stage1"),
    Row("joint", "joint one-stage training, from scratch", "gsv_tiny", ("gsv.ego_motion=joint", "steps=500")),
    Row("matching_short", "short stage 1 by matching, from scratch", "gsp_tiny",
        ("model.matching.enabled=true", _SHORT1)),
    Row("shipped_stage1", "first stage by matching, as shipped", weights="tiny_matching.safetensors", truth=True),
    Row("matching_tuned", "short stage 1 by matching, from these weights", "gsp_tiny",
        (f"first_stage={WEIGHTS / 'tiny_matching.safetensors'}", _SHORT1), truth=True),
    Row("shipped", "both stages as shipped: decoder on carved labels", weights="tiny.safetensors", truth=True),
)
# fmt: on

EPILOG = """The table under benchmarks/results/ (claims_cpu.json, claims_cpu.md) fills row by row; run again to add rows
or to go on with one that its budget cut short. All training is without any true pose (but for the row that says so),
depth or occupancy, but for rows of a table of their own; stage 2 uses the synthetic world's 2D labels. Evaluation is on
streets of another seed, with their recorded motion where depth is matched over time.

  python benchmarks/claims.py                          # every row that is missing, in order: hours on two CPU cores
  python benchmarks/claims.py --row stage1 --budget 30 # one row, at most half an hour of training now
  python benchmarks/claims.py --table                  # only print what is there
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--row", choices=[row.name for row in ROWS], help="only this one (default: all that are missing)")
    add("--budget", type=float, metavar="MINUTES", help="of training in this call; the row resumes later")
    add("--work", type=Path, default=ROOT / "out" / "claims", help="data and runs (default: out/claims)")
    add("--size", choices=("cpu", "gpu"), default="cpu", help="gpu: ten times the steps, batches of four")
    add("--table", action="store_true", help="print the table and stop")
    options = parser.parse_args()
    options.work = options.work.resolve()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    path = RESULTS / f"claims_{options.size}.json"
    table = json.loads(path.read_text()) if path.is_file() else {"rows": {}}
    if not options.table:
        try:
            for row in ROWS:
                if row.name == options.row or (options.row is None and not _complete(table, row)):
                    table["rows"][row.name] = run_row(row, options, table)
                    _write(table, path, options.size)
        except GaussianOccError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    print(format_table(table, options.size))
    return 0


def _complete(table: dict[str, Any], row: Row) -> bool:
    return table["rows"].get(row.name, {}).get("complete", False)


def run_row(row: Row, options: argparse.Namespace, table: dict[str, Any]) -> dict[str, Any]:
    """Trains a row within the budget and measures what it has."""
    held_out = _data(options.work / "held_out", HELD_OUT)
    if row.weights:
        return {"says": row.says, "complete": True, **_measured(WEIGHTS / row.weights, held_out)}
    seen = _data(options.work / "seen", SEEN)
    path, overrides = row_settings(row, options, seen)
    config = load_config(path, TrainConfig, overrides)
    run = Path(config.output)
    started = (run / LAST).is_file()
    if not started or load_state(run / LAST)["step"] < config.steps:
        processes = torch.cuda.device_count() or usable_cores()
        # A process and thread for each core: twice as fast as one process with many threads.
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            f"--nproc_per_node={processes}",
            "--standalone",
            "-m",
            "gaussianocc_core.train",
            str(path),
            *overrides,
        ]
        command += ["--resume"] if started else []
        command += [f"--minutes={options.budget}"] if options.budget else []
        threads = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        subprocess.run(command, cwd=ROOT, env={**os.environ, **threads}, check=False)
    if not (run / LAST).is_file():
        raise GaussianOccError(f"row {row.name}: the training left nothing in {run}; its output above says why")
    state = load_state(run / LAST)
    return {
        "says": row.says,
        "complete": state["step"] == config.steps,
        "steps": state["step"],
        "of": config.steps,
        "samples_per_step": state.get("samples_per_step"),
        "minutes": round(state["seconds"] / 60, 1),
        "s_per_step": round(state["seconds"] / max(state["step"], 1), 3),
        **_measured(run / "model.safetensors", held_out),
    }


def _measured(checkpoint: Path, held_out: Path) -> dict[str, Any]:
    measured = evaluate(checkpoint, held_out)
    load = load_model if "occupancy" in networks_in(checkpoint) else load_depth_net
    model = load(checkpoint).config
    provenance = measured["checkpoint"]["provenance"] or {}
    return {
        "commit": provenance.get("commit") or COMMIT,
        "processor": processor(),
        "cores": usable_cores(),
        "load": os.getloadavg(),
        "size": f"{model.image_width} x {model.image_height}, six cameras, model {model.name}",
        "measured": {
            name: measured[name]
            for name in ("keyframes", "depth", "ego_motion", "mask_camera", "whole_grid", "by_range", "ray_iou")
        },
    }


def row_settings(row: Row, options: argparse.Namespace, data: Path) -> tuple[Path, list[str]]:
    """The configuration file of a row and what it overrides."""
    overrides = [f"data.dataroot={data}", f"output={options.work / row.name}", "pictures_every=0", *row.overrides]
    if row.after:
        first = options.work / row.after / "model.safetensors"
        if not first.is_file():
            raise GaussianOccError(f"row {row.name} starts from row {row.after}: run that first (--row {row.after})")
        overrides.append(f"first_stage={first}")
    path = ROOT / "config" / "train" / f"{row.config}.yaml"
    if options.size == "gpu":
        steps = 10 * load_config(path, TrainConfig, overrides).steps
        overrides += [f"steps={steps}", "batch_size=4", "data.workers=8"]
    return path, overrides


def _data(folder: Path, made: dict[str, int]) -> Path:
    from gaussianocc_core.synthetic.writer import write_dataset

    return folder if folder.is_dir() else write_dataset(folder, **made)


def _write(table: dict[str, Any], path: Path, size: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table, indent=1) + "\n")
    path.with_suffix(".md").write_text(format_table(table, size) + "\n")


COLUMNS = (
    ("scale", ("depth", "ways", "*", "mean", "scale")),
    ("Abs Rel", ("depth", "ways", "*", "mean", "abs_rel")),
    ("flat ground", ("depth", "ways", "flat_ground", "mean", "abs_rel")),
    ("motion", ("ego_motion", "length_ratio")),
    ("network's", ("ego_motion", "network_length_ratio")),
    ("IoU", ("mask_camera", "model", "iou")),
    ("flat ground", ("mask_camera", "flat_ground", "iou")),
    ("off ground", ("mask_camera", "model", "non_ground_iou")),
    ("within 10 m", ("by_range", "10", "model", "non_ground_iou")),
    ("mIoU*", ("mask_camera", "model", "miou_star")),
    ("RayIoU", ("ray_iou", "model", "ray_iou")),
)


AIMS = {  # of the full rows
    "cpu": {"scale": "0.90 to 1.10", "Abs Rel": "at most 0.20", "motion": "0.90 to 1.10"},
    "gpu": {"scale": "0.95 to 1.05", "Abs Rel": "at most 0.15", "motion": "0.95 to 1.05"},
}
for aims in AIMS.values():
    aims |= {"IoU": "above flat", "off ground": "0.15"}
NETWORK = "*network's*: before it."
LIMITS = "Aims that are missed, what was tried and what limits them: docs/training.md, *What it reaches, and what not*."


def format_table(table: dict[str, Any], size: str) -> str:
    """Markdown: a line per row of `ROWS`, dashes where nothing was measured; below it sizes and machines."""
    head = ["row", "steps", "min", "s/step", *(name for name, _ in COLUMNS), "commit"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines.append("| *aim* | " + " | ".join(AIMS[size].get(name, "") for name in head[1:]) + " |")
    for truth in (False, True):
        if truth:
            lines += [
                "",
                "Depth pretrained on the synthetic world's truth, other places by other seeds:",
                "",
                *lines[:2],
            ]
        lines += [_line(row, table["rows"].get(row.name), len(head)) for row in ROWS if row.truth == truth]
    measured = [table["rows"][row.name] for row in ROWS if row.name in table["rows"]]
    per_step = sorted({str(each["samples_per_step"]) for each in measured if each.get("samples_per_step")})
    sizes = {f"{each['size']}" for each in measured} | {f"{' or '.join(per_step)} samples a step"}
    machines = {f"{each['cores']} cores of {each['processor']}" for each in measured}
    keyframes = {f"{each['measured']['keyframes']} keyframes" for each in measured}
    about = (
        f"Size: {'; '.join(sorted(sizes))}. Machine: {'; '.join(sorted(machines))}. Measured on {', '.join(keyframes)}"
    )
    note = f"{about} of {HELD_OUT['scenes']} held-out scenes. *motion*: after the search for its length; {NETWORK}"
    return "\n".join([*lines, "", note, "", LIMITS])


def _line(row: Row, entry: dict[str, Any] | None, columns: int) -> str:
    if entry is None:
        return f"| {row.says} | not run |" + " |" * (columns - 2)
    cells = [row.says, "-", "-", "-"]
    if "steps" in entry:
        steps = str(entry["steps"]) if entry["complete"] else f"{entry['steps']} of {entry['of']}"
        cells = [row.says, steps, f"{entry['minutes']:g}", f"{entry['s_per_step']:.2f}"]
    cells += [_cell(entry["measured"], keys) for _, keys in COLUMNS]
    return "| " + " | ".join([*cells, entry["commit"][:7]]) + " |"


def _cell(value: Any, keys: tuple[str, ...]) -> str:
    for key in keys:
        if key == "*":  # the first way that is no baseline
            key = next((way for way in value or {} if way != "flat_ground"), key)
        value = value.get(key) if isinstance(value, dict) else None
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
