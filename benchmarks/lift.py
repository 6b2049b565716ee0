# SPDX-License-Identifier: Apache-2.0
"""Time the lift of image features onto the lattice, forward and with gradients, against two ways by grid_sample.

python benchmarks/lift.py [--size tiny full reference] [--way visible everywhere] [--json FILE]

`matrix` is what `lift_features` does on a CPU. `visible` samples the visible (camera, point) pairs only. `everywhere`
samples every point in every camera and averages those that see it: the plain definition, as published code does it;
at the reference size it needs some 10 GiB. The ways take turns, so they meet the same load. Peak memory is the growth
of the resident set over one call in a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from render import surround
from report import write_report
from torch import Tensor

from gaussianocc_core.geometry import lattice
from gaussianocc_core.models import lifting
from gaussianocc_core.types import Lattice

LOW, HIGH = (-40.0, -40.0, -1.0), (40.0, 40.0, 5.4)


@dataclass(frozen=True)
class Size:
    lattice: Lattice
    channels: int
    height: int  # of the feature maps, a quarter of the images
    width: int


SIZES = {
    "tiny": Size(Lattice(LOW, HIGH, (100, 100, 16)), 24, 32, 56),
    "full": Size(Lattice(LOW, HIGH, (200, 200, 16)), 64, 45, 80),
    "reference": Size(Lattice(LOW, HIGH, (300, 300, 24), 0.66667), 64, 96, 160),
}


@dataclass(frozen=True)
class Problem:
    features: Tensor  # (6, C, h, w)
    plan: lifting.LiftPlan
    everywhere: (
        Tensor  # (6, 1, P, 2): where each point lies in each camera as grid_sample counts, far outside if unseen
    )
    visible: Tensor  # (6, 1, P): 1 where seen, else 0
    grad: Tensor  # (C, X, Y, Z), laid out as the 3D network gives it: channels innermost


def prepare(size: Size, seed: int) -> Problem:
    torch.manual_seed(seed)
    features = torch.randn(6, size.channels, size.height, size.width)
    plan = lifting.plan_lift(surround(4 * size.width, 4 * size.height), lattice.points(size.lattice))
    plan.matrix(size.height, size.width, features.dtype)
    count = plan.weight.numel()
    grids, visible = torch.full((len(features), 1, count, 2), -9.0), torch.zeros(len(features), 1, count)
    for n, (index, where) in enumerate(zip(plan.points, plan.positions, strict=True)):
        grids[n, 0, index] = where
        visible[n, 0, index] = 1.0
    grad = torch.randn(*size.lattice.shape, size.channels).permute(3, 0, 1, 2)
    return Problem(features, plan, grids, visible, grad)


def by_matrix(features: Tensor, problem: Problem) -> Tensor:
    return lifting.lift_features(features, problem.plan)


def by_visible_pairs(features: Tensor, problem: Problem) -> Tensor:
    return lifting._lift_by_sampling(features, problem.plan)


def everywhere(features: Tensor, problem: Problem) -> Tensor:
    sampled = F.grid_sample(features, problem.everywhere, padding_mode="border", align_corners=False)  # (N, C, 1, P)
    weight = problem.plan.weight
    return ((sampled[:, :, 0] * problem.visible).sum(dim=0) * weight.flatten()).unflatten(1, weight.shape)


WAYS = {"matrix": by_matrix, "visible": by_visible_pairs, "everywhere": everywhere}


def call(way: Callable, stage: str, problem: Problem) -> None:
    if stage == "forward":
        with torch.no_grad():
            way(problem.features, problem)
    else:
        way(problem.features.clone().requires_grad_(), problem).backward(problem.grad)


def compare(name: str, ways: list[str], repeats: int, seed: int) -> list[dict[str, object]]:
    problem = prepare(SIZES[name], seed)
    build = build_seconds(problem)
    difference = float((by_visible_pairs(problem.features, problem) - by_matrix(problem.features, problem)).abs().max())
    print(f"{name}: matrix built in {build:.2f} s CPU, differs from grid_sample by {difference:.1e} at most")
    results: list[dict[str, object]] = []
    for stage in ("forward", "forward+backward"):
        times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(repeats):
            for way in ways:
                call(WAYS[way], stage, problem)  # not timed: it meets the memory that the previous way has just freed
                wall, cpu = time.perf_counter(), time.process_time()
                call(WAYS[way], stage, problem)
                times[way].append((time.perf_counter() - wall, time.process_time() - cpu))
        cpu_s = {way: float(np.median(np.array(values)[:, 1])) for way, values in times.items()}
        for way, values in times.items():
            low, median, high = np.percentile(np.array(values)[:, 0], [25, 50, 75])
            results.append(
                {
                    "size": name,
                    "stage": stage,
                    "way": way,
                    "wall_s": float(median),
                    "wall_iqr_s": float(high - low),
                    "cpu_s": cpu_s[way],
                    "times_matrix_cpu": cpu_s[way] / cpu_s["matrix"],
                    "peak_mib": peak(name, stage, way, seed),
                    "build_cpu_s": build,
                    "difference": difference,
                }
            )
            print(
                f"  {stage}, {way}: {median:.3f} s wall, {cpu_s[way]:.3f} s CPU "
                f"({cpu_s[way] / cpu_s['matrix']:.1f} x matrix), peak {results[-1]['peak_mib']:.0f} MiB"
            )
    return results


def build_seconds(problem: Problem) -> float:
    """CPU seconds of the matrix of a plan: once per calibration."""
    size, dtype = problem.features.shape[2:], problem.features.dtype
    start = time.process_time()
    replace(problem.plan).matrix(size[0], size[1], dtype)
    return time.process_time() - start


def peak(name: str, stage: str, way: str, seed: int) -> float:
    """MiB by which one call raises the resident set of a fresh process that has compiled and planned."""
    command = [sys.executable, __file__, "--peak", name, stage, way, "--seed", str(seed)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure_peak(name: str, stage: str, way: str, seed: int) -> float:
    small = Size(Lattice(LOW, HIGH, (8, 8, 4)), 4, 8, 8)
    call(WAYS[way], stage, prepare(small, seed))  # compiles
    problem = prepare(SIZES[name], seed)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts anew
    before = _memory("VmRSS")
    call(WAYS[way], stage, problem)
    return (_memory("VmHWM") - before) / 1024


def _memory(key: str) -> int:
    """One figure of this process's memory, KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=SIZES, default=["tiny", "full"])
    parser.add_argument("--way", nargs="+", choices=WAYS, default=list(WAYS), help="always with matrix")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print(measure_peak(*arguments.peak, arguments.seed))
        return
    ways = ["matrix", *(way for way in arguments.way if way != "matrix")]
    results = [row for name in arguments.size for row in compare(name, ways, arguments.repeats, arguments.seed)]
    if arguments.json:
        shapes = {
            name: {"lattice": size.lattice.shape, "cameras": 6, "features": [size.channels, size.height, size.width]}
            for name, size in SIZES.items()
            if name in arguments.size
        }
        write_report(arguments.json, shapes, results)


if __name__ == "__main__":
    main()
