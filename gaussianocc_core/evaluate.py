# SPDX-License-Identifier: Apache-2.0
"""Occupancy metrics of a model file on labelled keyframes: `python -m gaussianocc_core.evaluate CHECKPOINT ...`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from gaussianocc_core import metrics
from gaussianocc_core.data.labels import CLASS_NAMES, FREE
from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.errors import DatasetError, GaussianOccError
from gaussianocc_core.predictor import OccupancyPredictor
from gaussianocc_core.train import in_label_frame

MASKS = ("mask_camera", "whole_grid")  # voxels that cameras see, as Occ3D counts; every voxel, as planners need


def evaluate(predictor: OccupancyPredictor, source: NuScenesSource, scenes: Sequence[str]) -> dict[str, Any]:
    """Metrics of the model and of flat ground, over the voxels that cameras see and over the whole grid."""
    flat = metrics.flat_ground(predictor.grid)
    everywhere = np.ones(predictor.grid.shape, dtype=bool)
    zeros = np.zeros((len(CLASS_NAMES), len(CLASS_NAMES)), dtype=np.int64)
    confusions = {(who, mask): zeros.copy() for who in ("model", "flat_ground") for mask in MASKS}
    count = 0
    for scene in scenes:
        for sample in tqdm(source.samples(scene), desc=scene, unit="keyframe", disable=None):
            labels = sample.occupancy
            if labels is None:
                raise DatasetError(f"{scene}: keyframe {sample.token} has no labels.npz under gts/")
            predicted = {"model": predictor(sample.images, in_label_frame(sample)).labels, "flat_ground": flat}
            masks = {"mask_camera": labels.mask_camera, "whole_grid": everywhere}
            for (who, mask), confusion in confusions.items():
                confusion += metrics.confusion_matrix(labels.semantics, predicted[who], masks[mask])
            count += 1
    result: dict[str, Any] = {"keyframes": count, "scenes": list(scenes)}
    for mask in MASKS:
        iou = metrics.class_iou(confusions["model", mask])[:FREE]
        result[mask] = {
            "model": metrics.occupancy_summary(confusions["model", mask]),
            "flat_ground": metrics.occupancy_summary(confusions["flat_ground", mask]),
            "class_iou": {
                name: value for name, value in zip(CLASS_NAMES, iou.tolist(), strict=False) if value == value
            },
        }
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gaussianocc_core.evaluate", description=__doc__)
    parser.add_argument("checkpoint", help="model file (.safetensors)")
    parser.add_argument("--dataroot", required=True, help="nuScenes-schema data set with gts/")
    parser.add_argument("--version", default="v1.0-mini", help="version folder in it (default: %(default)s)")
    parser.add_argument("--scene", nargs="+", metavar="NAME", help="scenes to use (default: all)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    options = parser.parse_args(arguments)
    if options.json and not options.json.resolve().parent.is_dir():  # said now, not after minutes of work
        parser.error(f"--json {options.json}: no such folder {options.json.resolve().parent}")
    try:
        predictor = OccupancyPredictor.from_checkpoint(options.checkpoint, options.device)
        source = NuScenesSource(options.dataroot, options.version)
        result = evaluate(predictor, source, options.scene or source.scene_names())
    except GaussianOccError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{result['keyframes']} keyframes of {len(result['scenes'])} scenes")
    for mask in MASKS:
        table = result[mask]
        print(f"\n{mask:24}{'model':>8}{'flat ground':>14}")
        for name, value in table["model"].items():
            print(f"{name:24}{value:8.3f}{table['flat_ground'][name]:14.3f}")
        for name, value in table["class_iou"].items():
            print(f"  {name:22}{value:8.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
