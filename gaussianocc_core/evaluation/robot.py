# SPDX-License-Identifier: Apache-2.0
"""What a robot needs to know of a model's occupancy and of flat ground's: missed, unknown, ghosts, blocked paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from gaussianocc_core.data.lidar import LidarScan
from gaussianocc_core.evaluation.occupancy import FLAT_GROUND, MODEL
from gaussianocc_core.labels import CLASS_NAMES
from gaussianocc_core.metrics.occupancy import flat_ground
from gaussianocc_core.metrics.robot import RobotConfig, RobotScores, label_truth, scan_truth
from gaussianocc_core.types import OccupancyLabels, VoxelGrid

LIDAR, LABELS = "lidar", "labels"  # what is true


class RobotTable:
    def __init__(self, grid: VoxelGrid, class_names: Sequence[str], config: RobotConfig | None = None) -> None:
        """class_names: of the model's labels; free is the last."""
        self.grid, self.class_names = grid, tuple(class_names)
        self.config = config or RobotConfig()
        self._flat = flat_ground(grid)
        self._scores = {
            (who, what): RobotScores(grid, self.config)
            for who in (MODEL, FLAT_GROUND)
            for what in (LIDAR, LABELS, "path")
        }

    def update(
        self,
        prediction: UInt8[np.ndarray, "X Y Z"],
        seen: Bool[np.ndarray, "X Y Z"],
        scan: LidarScan | None,
        labels: OccupancyLabels | None,
        path: Float[np.ndarray, "T 2"] | None,
    ) -> None:
        """One moment. seen: voxels that a camera looks at; scan, path: in the prediction's ego frame."""
        truths = {}
        if scan is not None:
            truths[LIDAR] = scan_truth(scan.points, scan.place, seen, self.grid, self.config)
        if labels is not None:
            truths[LABELS] = label_truth(labels.semantics, labels.mask_camera, self.grid, self.config)
        for who, said, names in ((MODEL, prediction, self.class_names), (FLAT_GROUND, self._flat, CLASS_NAMES)):
            for what, truth in truths.items():
                self._scores[who, what].update(said, truth, None, names)
            if path is not None:
                self._scores[who, "path"].update(said, truths.get(LIDAR, truths.get(LABELS)), path, names)

    def counts(self) -> dict[str, Any]:
        """All that was counted; for `add`."""
        return {f"{who} {what}": each.counts() for (who, what), each in self._scores.items()}

    def add(self, counts: Mapping[str, Any]) -> None:
        """What another table of this grid and configuration counted."""
        for (who, what), each in self._scores.items():
            each.add(np.asarray(counts[f"{who} {what}"]))

    def summary(self) -> dict[str, Any] | None:
        """`limits`: the RobotConfig; `truths`: by what is true (lidar, labels), `moments` and for each of model and
        flat_ground the rings; `path`: for each, moments with a path and blocked ones. None where nothing is known."""
        truths = {
            what: {
                "moments": int(self._scores[MODEL, what].moments[0]),
                **{who: self._scores[who, what].ring_summary() for who in (MODEL, FLAT_GROUND)},
            }
            for what in (LIDAR, LABELS)
            if self._scores[MODEL, what].moments[0]
        }
        path = {who: self._scores[who, "path"].path_summary() for who in (MODEL, FLAT_GROUND)}
        if not truths and not path[MODEL]["moments"]:
            return None
        limits = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self.config).items()}
        return {"limits": limits, "truths": truths, "path": path}
