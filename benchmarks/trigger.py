# SPDX-License-Identifier: Apache-2.0
"""Where the cross-view error is least when cameras of a set fire one after another, by true depth and true motion.

python benchmarks/trigger.py --dataroot DIR [--size 176 96] [--json FILE]

DIR: a synthetic data set (tools/make_synthetic_nuscenes.py), which has true depth and staggered triggers. True depth is
multiplied with factors around 1; the error of stage 1 says the scale it would pull to, with cameras as calibrated and
with cameras placed where the motion had brought each at its own image time.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import write_report

from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.training.config import TrainConfig
from gaussianocc_core.training.cross_view import compare_overlaps
from gaussianocc_core.training.gsp import Gsp
from gaussianocc_core.training.loader import prepare
from gaussianocc_core.training.stages import build_stage
from gaussianocc_core.training.view import views_of

FACTORS = np.linspace(0.80, 1.30, 26)  # on the true depth
FAR = 80.0  # m, what has no depth
SPREAD = 0.02  # m, standard deviation of a pixel's Gaussian


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataroot", required=True)
    parser.add_argument("--size", type=int, nargs=2, default=(176, 96), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    source = NuScenesSource(options.dataroot)
    stage, preprocess = build_stage(TrainConfig()), Preprocessor(*options.size)
    assert isinstance(stage, Gsp)
    sums = {"as calibrated": np.zeros((len(FACTORS), 2)), "placed by motion": np.zeros((len(FACTORS), 2))}
    moved, samples = [], 0
    for scene in source.scene_names():
        for entry in source.index(scene, neighbours=True, depths=True):
            if len(entry.neighbours) < 2 or not entry.depth_paths:
                continue
            sample = entry.load()
            lenses = preprocess(sample.cameras, sample.static_masks)
            batch = prepare(sample, lenses)
            depth = torch.from_numpy(
                np.stack([lenses.rectifier.rectify_labels(i, each, 0) for i, each in enumerate(sample.depths or ())])
            )
            depth = torch.where(depth > 0, depth, FAR)
            (view,) = views_of(batch, None)
            cameras = view.cameras
            masks = stage.overlap(cameras) & view.valid[:, None]
            placed = stage.place(view, batch.T_target_now[0])
            moved.append(float((placed.T_ego_cam - cameras.T_ego_cam)[:, :3, 3].norm(dim=-1).max()))
            for where, total in zip((cameras, placed), sums.values(), strict=True):
                for k, factor in enumerate(FACTORS):
                    torch.manual_seed(samples)  # the same sides of the overlaps for every factor
                    with torch.no_grad():
                        total[k] += [
                            float(each)
                            for each in compare_overlaps(
                                view.now,
                                depth * float(factor),
                                torch.full_like(depth, SPREAD),
                                where,
                                masks,
                                stage.config.cross,
                            )
                        ]
            samples += 1
    results: list[dict[str, Any]] = []
    for name, total in sums.items():
        errors = total[:, 0] / total[:, 1]
        best = int(errors.argmin())
        at_1 = round(float(np.interp(1.0, FACTORS, errors)), 4)
        least, least_at = round(float(errors[best]), 4), round(float(FACTORS[best]), 3)
        results.append({"cameras": name, "least_at": least_at, "least": least, "at_1": at_1})
        print(f"{name}: least {errors[best]:.3f} at {FACTORS[best]:.2f} times the true depth")
    print(f"{samples} samples; within a set a camera moves by up to {np.median(moved):.2f} m (median)")
    if options.json:
        shapes = {"cameras": 6, "size": options.size, "samples": samples, "moved_m": round(float(np.median(moved)), 3)}
        write_report(options.json, shapes, results)


if __name__ == "__main__":
    main()
