# SPDX-License-Identifier: Apache-2.0
"""Occupancy of a model and of flat ground against Occ3D labels: voxels under two masks, and rays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from gaussianocc_core import metrics
from gaussianocc_core.errors import DatasetError
from gaussianocc_core.labels import CLASS_NAMES, FREE
from gaussianocc_core.metrics.pooling import Pooled
from gaussianocc_core.models.visibility import columns_beyond
from gaussianocc_core.types import OccupancyLabels, VoxelGrid

# Voxels that cameras see, as Occ3D counts; those that the lidar sees as well, as the published evaluation counts; every
# voxel, as planners need.
MASKS = {"mask_camera": "camera", "mask_camera_and_lidar": "camera_and_lidar", "whole_grid": "none"}
MODEL, FLAT_GROUND = "model", "flat_ground"
# m from the ego origin, horizontally. A planner asks how far it can trust the voxels; one number for 40 m says little.
RANGES = (10.0, 15.0, 20.0, 30.0)


class OccupancyTable:
    def __init__(self, grid: VoxelGrid, rays: bool) -> None:
        """rays: with RayIoU."""
        self.flat = metrics.flat_ground(grid)
        self.keyframes = 0
        self._voxels = {(who, mask): metrics.OccupancyScores() for who in (MODEL, FLAT_GROUND) for mask in MASKS}
        self._within = {(who, limit): metrics.OccupancyScores() for who in (MODEL, FLAT_GROUND) for limit in RANGES}
        self._nearer = {limit: ~columns_beyond(grid, limit)[..., None] for limit in RANGES}
        # Per mask and whether truth is occupied: published free, occupied, unknown.
        self._states = {mask: np.zeros((2, 3), dtype=np.int64) for mask in MASKS}
        self.reliability = metrics.Reliability()
        self._rays = {who: metrics.RayIoU(grid) for who in (MODEL, FLAT_GROUND)} if rays else {}

    def update(
        self,
        labels: OccupancyLabels,
        prediction: UInt8[np.ndarray, "X Y Z"],
        ray_origins: Float[np.ndarray, "O 3"] | None,
        opacity: Float[np.ndarray, "X Y Z"] | None = None,
    ) -> None:
        """ray_origins: ego frame, m; None: this keyframe does not count for RayIoU. opacity: the probability that each
        voxel is occupied, where the model says it."""
        if labels.semantics.shape != self.flat.shape:
            raise DatasetError(
                f"labels of {labels.semantics.shape} voxels, the checkpoint's grid has {self.flat.shape}; use labels "
                "of its grid"
            )
        predicted = {MODEL: prediction, FLAT_GROUND: self.flat}
        for (who, mask), scores in self._voxels.items():
            scores.update(labels.semantics, predicted[who], metrics.voxel_mask(labels, MASKS[mask]))
        occupied = labels.semantics != FREE
        state = np.where(prediction < FREE, 1, np.where(prediction == FREE, 0, 2))
        for mask, counts in self._states.items():
            counted = metrics.voxel_mask(labels, MASKS[mask])
            counts += np.bincount((3 * occupied + state)[counted], minlength=6).reshape(2, 3)
        seen = metrics.voxel_mask(labels, "camera")
        if opacity is not None:
            self.reliability.update(opacity, occupied, seen)
        for (who, limit), scores in self._within.items():
            scores.update(labels.semantics, predicted[who], seen & self._nearer[limit])
        if ray_origins is not None:
            for who, rays in self._rays.items():
                rays.update(labels.semantics, predicted[who], ray_origins)
        self.keyframes += 1

    def counts(self) -> dict[str, Any]:
        """All that was counted; for `add`."""
        return {
            "keyframes": self.keyframes,
            "states": dict(self._states),
            "pooled": {name: each.counts() for name, each in self._pooled().items()},
        }

    def add(self, counts: Mapping[str, Any]) -> None:
        """What another table of this grid counted."""
        self.keyframes += int(counts["keyframes"])
        for mask, states in self._states.items():
            states += np.asarray(counts["states"][mask])
        for name, each in self._pooled().items():
            each.add(np.asarray(counts["pooled"][name]))

    def _pooled(self) -> dict[str, Pooled]:
        return {
            **{f"voxels {who} {mask}": each for (who, mask), each in self._voxels.items()},
            **{f"within {who} {limit:g}": each for (who, limit), each in self._within.items()},
            **{f"rays {who}": each for who, each in self._rays.items()},
            "reliability": self.reliability,
        }

    def summary(self) -> dict[str, Any]:
        """By mask: measures of both, the model's IoU of each class that occurs, and its `states`: which share of the
        voxels is `unknown`, and which of the truly occupied ones is published `free`."""
        return {
            mask: {
                MODEL: self._voxels[MODEL, mask].summary(),
                FLAT_GROUND: self._voxels[FLAT_GROUND, mask].summary(),
                "states": {
                    "unknown": _share(self._states[mask][:, 2].sum(), self._states[mask].sum()),
                    "occupied_but_free": _share(self._states[mask][1, 0], self._states[mask][1].sum()),
                },
                "class_iou": _by_class(metrics.class_iou(self._voxels[MODEL, mask].confusion)[:FREE]),
            }
            for mask in MASKS
        }

    def range_summary(self) -> dict[str, dict[str, dict[str, float]]]:
        """By range, m: measures of both over the voxels that cameras see within it."""
        return {
            f"{limit:g}": {who: self._within[who, limit].summary() for who in (MODEL, FLAT_GROUND)} for limit in RANGES
        }

    def ray_summary(self) -> dict[str, Any] | None:
        if not self._rays or not self._rays[MODEL].counts().any():
            return None
        per_class = self._rays[MODEL].per_class()  # (T, 17)
        return {
            **{who: rays.summary() for who, rays in self._rays.items()},
            "class_ray_iou": _by_class(per_class.mean(axis=0)),
        }


def _share(part: int | np.integer, whole: int | np.integer) -> float:
    return float(part / whole) if whole else float("nan")


def _by_class(values: Float[np.ndarray, " K"]) -> dict[str, float]:
    """Without the classes that occur nowhere."""
    return {name: value for name, value in zip(CLASS_NAMES, values.tolist(), strict=False) if value == value}
