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


def evaluate(predictor: OccupancyPredictor, source: NuScenesSource, scenes: Sequence[str]) -> dict[str, Any]:
    """Metrics over the voxels that cameras see (mask_camera), for the model and for flat ground."""
    classes = len(CLASS_NAMES)
    model_confusion = np.zeros((classes, classes), dtype=np.int64)
    flat_confusion = np.zeros_like(model_confusion)
    flat = metrics.flat_ground(predictor.grid)
    count = 0
    for scene in scenes:
        for sample in tqdm(source.samples(scene), desc=scene, unit="keyframe", disable=None):
            labels = sample.occupancy
            if labels is None:
                raise DatasetError(f"{scene}: keyframe {sample.token} has no labels.npz under gts/")
            prediction = predictor(sample.images, in_label_frame(sample))
            model_confusion += metrics.confusion_matrix(labels.semantics, prediction.labels, labels.mask_camera)
            flat_confusion += metrics.confusion_matrix(labels.semantics, flat, labels.mask_camera)
            count += 1
    return {
        "keyframes": count,
        "scenes": list(scenes),
        "mask": "camera",
        "model": metrics.occupancy_summary(model_confusion),
        "flat_ground": metrics.occupancy_summary(flat_confusion),
        "class_iou": dict(zip(CLASS_NAMES[:FREE], metrics.class_iou(model_confusion)[:FREE].tolist(), strict=True)),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gaussianocc_core.evaluate", description=__doc__)
    parser.add_argument("checkpoint", help="model file (.safetensors)")
    parser.add_argument("--dataroot", required=True, help="nuScenes-schema data set with gts/")
    parser.add_argument("--version", default="v1.0-mini", help="version folder in it (default: %(default)s)")
    parser.add_argument("--scene", nargs="+", metavar="NAME", help="scenes to use (default: all)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    options = parser.parse_args(arguments)
    try:
        predictor = OccupancyPredictor.from_checkpoint(options.checkpoint, options.device)
        source = NuScenesSource(options.dataroot, options.version)
        result = evaluate(predictor, source, options.scene or source.scene_names())
    except GaussianOccError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"{result['keyframes']} keyframes of {len(result['scenes'])} scenes, voxels in mask_camera")
    print(f"{'':22}{'model':>8}{'flat ground':>14}")
    for name, value in result["model"].items():
        print(f"{name:22}{value:8.3f}{result['flat_ground'][name]:14.3f}")
    for name, value in result["class_iou"].items():
        if not np.isnan(value):
            print(f"  {name:20}{value:8.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
