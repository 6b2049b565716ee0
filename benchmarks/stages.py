# SPDX-License-Identifier: Apache-2.0
"""Time the stages of a model: encode, lift, decode, Gaussians, render, and all of them, with peak memory.

python benchmarks/stages.py [--model tiny] [--device cpu] [--repeats 5] [--json FILE]

Random weights with the free logit raised until about `--active` of the voxels have an opacity that can be seen, random
images of six cameras at the model's size; views are rendered at 320 x 180. Inference does not render: `inference` is
encode, lift and decode, `total` is all. `decide` gives every voxel its class, `observed` says where cameras look;
beside them the plain way to the same. Lift and render on the CPU work from plans made beforehand, as for a static
calibration; `plan` is making them. Peak memory: growth of the resident set over one call of the stage (CPU, Linux),
or of allocated device memory (CUDA).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from render import grow, measure, summary, surround
from report import write_report

from gaussianocc_core.config import load_config
from gaussianocc_core.geometry.cameras import resize
from gaussianocc_core.geometry.voxels import centers
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.models.decision import decide_labels
from gaussianocc_core.models.decision_cpu import Decider
from gaussianocc_core.models.gaussianocc import build_model
from gaussianocc_core.models.lifting import plan_lift
from gaussianocc_core.models.visibility import observed_voxels
from gaussianocc_core.rendering.rasterize import plan_splat, rasterize
from gaussianocc_core.types import OccupancyField

PRESETS = Path(__file__).resolve().parents[1] / "config" / "model"
WIDTH, HEIGHT = 320, 180  # of the rendered views


def run_stages(model_path: Path, device: str, active: float, repeats: int, seed: int) -> list[dict]:
    config = load_config(model_path, ModelConfig)
    torch.manual_seed(seed)
    model = build_model(config).to(device).eval()
    views = surround(WIDTH, HEIGHT).to(device)
    cameras = resize(views, config.image_width, config.image_height)
    images = torch.rand(1, 6, 3, config.image_height, config.image_width, device=device)
    head, constants, on_cpu = model.gaussian_head, model.quirks.raster, device == "cpu"

    def make_plans() -> tuple:
        lift = model.plan(cameras)
        if not on_cpu:
            return lift, None
        lift.matrix(config.image_height // 4, config.image_width // 4, torch.float32)
        return lift, plan_splat(head.means, head.quats, head.scales, views, constants=constants)

    lift_plan, splat_plan = make_plans()

    def render(gaussians) -> object:
        return rasterize(gaussians, views, plan=splat_plan, constants=constants)

    with torch.no_grad():
        encoded = model.encode(images, [lift_plan])
        volume = model.lift(*encoded, [lift_plan])
        logits = model.voxel_decoder(volume)
        free = logits[:, -1].flatten()[:1_000_000]
        seen = -torch.log(torch.tensor(254.0))  # logit of the least opacity that can be seen, 1 / 255
        shift = -seen - torch.quantile(free, active)
        logits[:, -1] += shift
        field = OccupancyField(logits)
        (gaussians,) = head(field)

        def inference() -> torch.Tensor:
            return model(images, [lift_plan]).logits

        def total() -> object:
            logits = inference()
            logits[:, -1] += shift
            return render(head(OccupancyField(logits))[0])

        grid = config.grid
        valid = np.ones((6, config.image_height, config.image_width), dtype=bool)

        everywhere = np.ones(grid.shape, dtype=bool)
        decider = Decider(config.lattice, grid, config.class_names, ~everywhere[..., 0], ~everywhere[0, 0])

        def decide() -> object:
            if on_cpu:
                return decider(field, 0.5, everywhere, None, None)
            return decide_labels(model.sample_grid(field, grid)[0], by_argmax=False)

        stages: dict[str, Callable[[], object]] = {
            "encode": lambda: model.encode(images, [lift_plan]),
            "lift": lambda: model.lift(*encoded, [lift_plan]),
            "decode": lambda: model.voxel_decoder(volume),
            "gaussians": lambda: head(field),
            "render": lambda: render(gaussians),
            "inference": inference,
            "total": total,
            "plan": make_plans,
            "decide": decide,
            "decide, class by class": lambda: decide_labels(model.sample_grid(field, grid)[0], by_argmax=False),
            "observed": lambda: observed_voxels(cameras, grid, valid),
            "observed, as lifted": lambda: plan_lift(cameras, centers(grid, device), torch.from_numpy(valid)).seen,
        }
        rows = []
        for name, work in stages.items():
            synchronised = work if on_cpu else synchronise(work)
            synchronised()
            times = [measure(synchronised) for _ in range(repeats)]
            row = {"model": config.name, "stage": name, "device": device, **summary(times)}
            row["peak_mb"] = peak_memory(work, on_cpu)
            rows.append(row)
            memory = "" if row["peak_mb"] is None else f", {row['peak_mb']:.0f} MB"
            print(
                f"{config.name:10} {name:22} {row['wall_s']:8.4f} s wall {row['cpu_s']:8.4f} s CPU{memory}", flush=True
            )
    return rows


def synchronise(work: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        result = work()
        torch.cuda.synchronize()
        return result

    return run


def peak_memory(work: Callable[[], object], on_cpu: bool) -> float | None:
    """MB; None where the system does not tell."""
    if on_cpu:
        return grow(work) if os.access("/proc/self/clear_refs", os.W_OK) else None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def main() -> None:
    presets = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["tiny"], help=f"{', '.join(presets)}, or a YAML file")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--active", type=float, default=0.09, help="share of voxels that can be seen")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    if arguments.device != "cpu" and not torch.cuda.is_available():
        parser.error("no CUDA device: use --device cpu")
    rows = []
    for name in arguments.model:
        path = PRESETS / f"{name}.yaml" if name in presets else Path(name)
        rows += run_stages(path, arguments.device, arguments.active, arguments.repeats, arguments.seed)
    if arguments.json:
        shapes = {"cameras": 6, "views": [WIDTH, HEIGHT], "active": arguments.active}
        write_report(arguments.json, shapes, rows)


if __name__ == "__main__":
    main()
