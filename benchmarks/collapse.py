#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Does training fail in silence? Short runs of stage 1 on several recordings, by both documented ways, with many seeds.

  python benchmarks/collapse.py --drive kitti_drive_0001 --keyframes nuscenes_scene0061_kf00-06 --ddad dgp_scene_01
  python benchmarks/collapse.py --table         # only print what is there

Recorded odometry is not used, because with it motion cannot collapse: the length of every motion comes from images.
"proposal" is what a user is told to run first, from the shipped weights: for a bag the file that inspect_bag.py writes,
for a data set config/train/gsp_tiny.yaml. "go on" is config/train/gsp_tiny_more.yaml from the same weights. A run ends
as "learnt", or it stops or refuses with a reason. SILENT is what must not be: learnt, but depth or motion is off by
more than a factor of two. What is there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from report import COMMIT

from gaussianocc_core.evaluation import evaluate
from gaussianocc_core.evaluation.sources import open_source

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "collapse.json"
WAYS = ("proposal", "go on")
START = "first_stage=tiny_matching"
COLLAPSED = 3  # exit code of a run that the watch stopped
FACTOR = 2.0


@dataclass(frozen=True)
class Recording:
    name: str
    path: Path
    kind: str  # bag, nuscenes, ddad


def settings(recording: Recording, way: str, work: Path) -> list[str]:
    """The configuration file and its overrides."""
    if recording.kind == "bag":
        proposal = work / f"{recording.name}.yaml"
        if not proposal.is_file():
            run("tools/inspect_bag.py", str(recording.path), "--no-timing", "--write-config", str(proposal))
        if way == "proposal":
            return [str(proposal)]
        # Where the recording is, how it is read and at which size; the rest is the recipe's.
        proposed = yaml.safe_load(proposal.read_text(encoding="utf-8"))
        size = [f"model.{side}={proposed['model'][side]}" for side in ("image_width", "image_height")]
        data = [f"data.bag.path={recording.path}", f"data.max_gap={proposed['data']['max_gap']}"]
        return ["config/train/gsp_tiny_more.yaml", *data, *size, START]
    name = "gsp_tiny" if way == "proposal" else "gsp_tiny_more"
    schema = ["data.schema=ddad"] if recording.kind == "ddad" else []
    return [f"config/train/{name}.yaml", f"data.dataroot={recording.path}", "data.max_gap=1.0", START, *schema]


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(("-m", script) if script.startswith("gaussianocc_core") else (script,)), *arguments]
    threads = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **threads}, capture_output=True, text=True, check=False)


def train(recording: Recording, way: str, seed: int, steps: int, work: Path) -> dict[str, Any]:
    output = work / f"{recording.name}_{way.replace(' ', '_')}_{seed}"
    overrides = [f"seed={seed}", f"steps={steps}", f"output={output}", "gsp.ego_motion=learned", "pictures_every=0"]
    overrides += ["keep_better=false"]  # what was learnt is measured, even where it is worse than what was there
    resume = ["--resume"] if (output / "last.pt").is_file() else []
    done = run("gaussianocc_core.train", *settings(recording, way, work), *overrides, *resume)
    entry: dict[str, Any] = {"recording": recording.name, "way": way, "seed": seed, "steps": steps, "commit": COMMIT}
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if line.strip()]
        stopped = "stopped" if done.returncode == COLLAPSED else "refused"
        return {**entry, "outcome": stopped, "says": said[-1] if said else f"exit code {done.returncode}"}
    return {**entry, "outcome": "learnt", **measure(recording, output / "model.safetensors")}


def measure(recording: Recording, model: Path) -> dict[str, Any]:
    if recording.kind == "bag":
        source, every = open_source(bag=recording.path), 4
    else:
        source, every = open_source(recording.path, schema=recording.kind), 1
    found = evaluate(model, source, every=every)
    ways = found["depth"]["ways"]
    depth = next(ways[name]["mean"] for name in ways if name != "flat_ground")
    motion = (found["ego_motion"] or {}).get("length_ratio")
    silent = any(each is not None and not 1 / FACTOR <= each <= FACTOR for each in (depth["scale"], motion))
    return {"scale": depth["scale"], "abs_rel": depth["abs_rel"], "motion": motion, "silent": silent}


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| recording | way | runs | learnt | stopped or refused | SILENT | motion by true | scale | Abs Rel |"]
    lines.append("|" + " --- |" * 9)
    for name, way in dict.fromkeys((row["recording"], row["way"]) for row in rows):
        group = [row for row in rows if (row["recording"], row["way"]) == (name, way)]
        learnt = [row for row in group if row["outcome"] == "learnt"]
        cells = [_span([row[key] for row in learnt]) for key in ("motion", "scale", "abs_rel")]
        counts = (len(group), len(learnt), len(group) - len(learnt), sum(row["silent"] for row in learnt))
        lines.append(f"| {name} | {way} | " + " | ".join([*map(str, counts), *cells]) + " |")
    reasons = dict.fromkeys(f"{row['recording']}: {row['says']}" for row in rows if row["outcome"] != "learnt")
    return "\n".join([*lines, "", *(f"- {reason}" for reason in reasons)])


def _span(values: list[float | None]) -> str:
    known = sorted(value for value in values if value is not None)
    return f"{known[0]:.2f} to {known[-1]:.2f}" if known else "-"


def _recordings(options: argparse.Namespace) -> Iterator[Recording]:
    for path in options.drive:
        yield Recording(path.name, path.resolve(), "bag")
    for path in options.keyframes:
        yield Recording(path.name, path.resolve(), "nuscenes")
    for path in options.ddad:
        yield Recording(path.name, path.resolve(), "ddad")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--drive", type=Path, nargs="*", default=[], help="rosbags")
    add("--keyframes", type=Path, nargs="*", default=[], help="data sets in the nuScenes schema")
    add("--ddad", type=Path, nargs="*", default=[], help="data sets in DDAD's format")
    add("--seeds", type=int, default=5)
    add("--steps", type=int, default=150)
    add("--work", type=Path, default=ROOT / "out" / "collapse", help="runs (default: out/collapse)")
    add("--json", type=Path, default=RESULT)
    add("--table", action="store_true", help="print the table and stop")
    options = parser.parse_args()
    rows = json.loads(options.json.read_text())["rows"] if options.json.is_file() else []
    there = {(row["recording"], row["way"], row["seed"], row["steps"]) for row in rows}
    options.work.mkdir(parents=True, exist_ok=True)
    for seed in range(0 if options.table else options.seeds):
        for recording in _recordings(options):
            for way in WAYS:
                if (recording.name, way, seed, options.steps) in there:
                    continue
                rows.append(train(recording, way, seed, options.steps, options.work.resolve()))
                print(json.dumps(rows[-1]), flush=True)
                options.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    text = table(rows)
    options.json.with_suffix(".md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
