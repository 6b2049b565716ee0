# SPDX-License-Identifier: Apache-2.0
"""Occupancy metrics: accumulate a confusion matrix, reduce once (docs/method.md#i.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from gaussianocc_core.finite import check_labels
from gaussianocc_core.labels import CLASS_ID, CLASS_NAMES, FREE, GROUND_CLASSES
from gaussianocc_core.metrics.pooling import Pooled
from gaussianocc_core.types import OccupancyLabels, VoxelGrid

# Paper mIoU* leaves out the two classes that self-supervision never sees (docs/method.md#i.2).
UNSUPERVISED_CLASSES = (CLASS_ID["others"], CLASS_ID["other_flat"])
STAR_CLASSES = tuple(k for k in range(FREE) if k not in UNSUPERVISED_CLASSES)
VOXEL_MASKS = ("camera", "lidar", "camera_and_lidar", "none")


def voxel_mask(labels: OccupancyLabels, name: str) -> Bool[np.ndarray, "X Y Z"]:
    """True in the voxels that count: one of VOXEL_MASKS. The published evaluation uses camera_and_lidar."""
    if name not in VOXEL_MASKS:
        raise ValueError(f"mask: expected one of {VOXEL_MASKS}, got {name!r}")
    mask = np.ones(labels.semantics.shape, dtype=bool)
    if "camera" in name:
        mask &= labels.mask_camera
    if "lidar" in name:
        mask &= labels.mask_lidar
    return mask


def confusion_matrix(
    truth: UInt8[np.ndarray, "*shape"], prediction: UInt8[np.ndarray, "*shape"], mask: Bool[np.ndarray, "*shape"]
) -> Int64[np.ndarray, "K K"]:
    """Counts of (true class, predicted class) over the voxels where mask is true and the truth is a class.

    A voxel of which the prediction knows nothing (254 occluded, 255 unobserved) counts as free: nothing was found
    there. So IoU says what is found, however much of the rest is known to be free. PredictionError where the prediction
    says another number that is no class.
    """
    classes = len(CLASS_NAMES)
    check_labels(prediction, classes)
    valid = mask & (truth < classes)
    predicted = np.where(prediction < classes, prediction, FREE)[valid].astype(np.int64)
    counts = np.bincount(truth[valid].astype(np.int64) * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes)


def class_iou(confusion: Int64[np.ndarray, "K K"]) -> Float[np.ndarray, " K"]:
    """Intersection over union per class; NaN for a class that occurs in neither."""
    hits = np.diag(confusion).astype(np.float64)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def group_iou(confusion: Int64[np.ndarray, "K K"], group: tuple[int, ...]) -> float:
    """IoU of "is one of these classes": all classes of the group count as one."""
    index = np.array(group)
    hits = confusion[np.ix_(index, index)].sum()
    union = confusion[index].sum() + confusion[:, index].sum() - hits
    return float(hits / union) if union else float("nan")


def mean_iou(iou: Float[np.ndarray, " K"], classes: Sequence[int], skip_absent: bool = True) -> float:
    """Mean over some classes. One that occurs nowhere (NaN) is left out, or else makes the mean NaN.

    Published (docs/method.md#i.2): miou over 0..16 skips, miou_star over STAR_CLASSES does not.
    """
    values = iou[list(classes)]
    if skip_absent:
        values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


def occupancy_summary(confusion: Int64[np.ndarray, "K K"]) -> dict[str, float]:
    """iou (occupied against free), non_ground_iou (occupied and not ground), miou (17 classes), miou_star (15).

    Classes that occur in neither truth nor prediction are left out of the means.
    """
    iou = class_iou(confusion)
    occupied = tuple(range(FREE))
    return {
        "iou": group_iou(confusion, occupied),
        "non_ground_iou": group_iou(confusion, tuple(k for k in occupied if k not in GROUND_CLASSES)),
        "miou": mean_iou(iou, occupied),
        "miou_star": mean_iou(iou, STAR_CLASSES),
    }


class OccupancyScores(Pooled):
    """Confusion of a run's samples under one mask; pooled over processes, where the published code averages IoUs."""

    def __init__(self) -> None:
        self.confusion = np.zeros((len(CLASS_NAMES), len(CLASS_NAMES)), dtype=np.int64)
        self.samples = 0

    def update(
        self,
        truth: UInt8[np.ndarray, "*shape"],
        prediction: UInt8[np.ndarray, "*shape"],
        mask: Bool[np.ndarray, "*shape"],
    ) -> None:
        self.confusion += confusion_matrix(truth, prediction, mask)
        self.samples += 1

    def counts(self) -> Int64[np.ndarray, " C"]:
        return np.append(self.confusion, self.samples)

    def set_counts(self, counts: Int64[np.ndarray, " C"]) -> None:
        self.confusion, self.samples = counts[:-1].reshape(self.confusion.shape), int(counts[-1])

    def summary(self) -> dict[str, float]:
        return occupancy_summary(self.confusion)


def flat_ground(grid: VoxelGrid, ground_z: float = 0.0) -> UInt8[np.ndarray, "X Y Z"]:
    """The baseline that knows nothing but the camera height: a road at z = ground_z (m), free elsewhere."""
    labels = np.full(grid.shape, FREE, dtype=np.uint8)
    layer = int(np.floor((ground_z - grid.origin[2]) / grid.voxel_size))
    if 0 <= layer < grid.shape[2]:
        labels[:, :, layer] = CLASS_ID["driveable_surface"]
    return labels
