# SPDX-License-Identifier: Apache-2.0
"""Parity of the metrics, on recorded predictions (docs/method.md#i)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gaussianocc_core.labels import FREE
from gaussianocc_core.metrics import (
    STAR_CLASSES,
    OccupancyScores,
    RayIoU,
    cast_rays,
    class_iou,
    depth_errors,
    mean_iou,
    ray_directions,
)
from gaussianocc_core.reference.pipeline import Pipeline
from gaussianocc_core.reference.report import ABSENT, Row, compare
from gaussianocc_core.types import VoxelGrid

_FILE = "metrics"


def scores(run: Pipeline) -> Iterator[Row]:
    """Depth errors, mIoU and RayIoU."""
    yield _depth(run)
    truth, prediction = run.golden.array(_FILE, "occ_gt"), run.golden.array(_FILE, "occ_pred")
    if truth is None or prediction is None:
        yield from (Row(stage, ABSENT) for stage in ("mIoU", "RayIoU"))
        return
    yield from _occupancy(run, truth, prediction)
    yield from _rays(run, truth, prediction)


def _depth(run: Pipeline) -> Row:
    truth, prediction = run.golden.array(_FILE, "depth_gt"), run.golden.array(_FILE, "depth_pred")
    if truth is None or prediction is None:
        return Row("depth errors", ABSENT)
    limits = (run.golden.config.min_depth, run.golden.config.max_depth)
    errors = run.golden.array(_FILE, "depth_errors")
    # The recorded ones were summed in float32.
    return compare("depth errors", errors, lambda: depth_errors(truth, prediction, limits), 2e-6, relative=True)


def _occupancy(run: Pipeline, truth: np.ndarray, prediction: np.ndarray) -> Iterator[Row]:
    packed = run.golden.array(_FILE, "occ_mask")
    if packed is None:
        yield Row("mIoU", ABSENT)
        return
    mask = np.unpackbits(packed)[: truth.size].astype(bool).reshape(truth.shape)
    total = OccupancyScores()
    for sample in zip(truth, prediction, mask, strict=True):
        total.update(*sample)
    iou = class_iou(total.confusion)
    yield compare("IoU per class", run.golden.array(_FILE, "iou18"), lambda: iou, 1e-12)
    yield compare("mIoU", run.golden.array(_FILE, "miou17"), lambda: mean_iou(iou, range(FREE)), 1e-12)
    star = run.golden.array(_FILE, "miou_star15")
    yield compare("mIoU*", star, lambda: mean_iou(iou, STAR_CLASSES, skip_absent=False), 1e-12)


def _rays(run: Pipeline, truth: np.ndarray, prediction: np.ndarray) -> Iterator[Row]:
    origins, step = run.golden.array(_FILE, "ray_origins"), run.golden.array(_FILE, "ray_subset_step")
    yield compare("ray count", run.golden.array(_FILE, "ray_count"), lambda: len(ray_directions()), 0.0)
    yield compare("ray directions", run.golden.array(_FILE, "ray_dirs_first"), lambda: ray_directions()[:5], 1e-7)
    if origins is None or step is None:
        yield Row("RayIoU", ABSENT)
        return
    low, high = run.lattice.low, run.lattice.high
    shape = (truth.shape[1], truth.shape[2], truth.shape[3])
    grid = VoxelGrid(low, (high[0] - low[0]) / shape[0], shape)
    directions = ray_directions()[:: int(step)]
    true, predicted = (cast_rays(labels[0], origins, directions, grid) for labels in (truth, prediction))
    counted = true[0] != FREE
    yield compare("rays gt", run.golden.array(_FILE, "ray_gt0"), lambda: np.stack(true, axis=-1)[counted], 1e-9)
    yield compare(
        "rays pred", run.golden.array(_FILE, "ray_pred0"), lambda: np.stack(predicted, axis=-1)[counted], 1e-9
    )
    counts = RayIoU(grid)
    counts.directions = directions
    for labels, predicted_labels in zip(truth, prediction, strict=True):
        counts.update(labels, predicted_labels, origins)
    yield compare("RayIoU per class", run.golden.array(_FILE, "rayiou_124"), counts.per_class, 1e-12)
    yield compare("RayIoU", run.golden.array(_FILE, "rayiou_mean"), lambda: counts.summary()["ray_iou"], 1e-12)
