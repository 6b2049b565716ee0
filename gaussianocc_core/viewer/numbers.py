# SPDX-License-Identifier: Apache-2.0
"""One moment in figures, for the page."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np

from gaussianocc_core.labels import CLASS_NAMES, FREE, OCCLUDED, ONE_CLASS, UNOBSERVED
from gaussianocc_core.metrics.occupancy import confusion_matrix, occupancy_summary
from gaussianocc_core.metrics.robot import RobotConfig, obstacle_voxels
from gaussianocc_core.viewer.moment import Moment


def describe(moment: Moment, robot: RobotConfig) -> list[tuple[str, str]]:
    """Names and values with their units, in order."""
    labels, seen = moment.labels, moment.labels != UNOBSERVED
    occupied, count = labels < FREE, max(int(seen.sum()), 1)
    rows = [
        ("time", f"{datetime.fromtimestamp(moment.stamp_ns * 1e-9, timezone.utc):%H:%M:%S.%f}"[:-3]),
        ("occupied", f"{int(occupied.sum())} voxels, {100 * occupied.sum() / count:.0f} % of what cameras see"),
        ("free", f"{100 * (labels == FREE).sum() / count:.0f} %"),
        ("hidden", f"{100 * (labels == OCCLUDED).sum() / count:.0f} %"),
    ]
    if occupied.any():
        rows.append(("mean confidence", f"{moment.confidence[occupied].mean():.2f}"))
    rows.append(("nearest obstacle ahead", _ahead(moment, robot)))
    if moment.truth is not None:
        scores = occupancy_summary(confusion_matrix(moment.truth.semantics, labels, moment.truth.mask_camera))
        rows.append(("IoU with the truth", f"{scores['iou']:.2f}; off the ground {scores['non_ground_iou']:.2f}"))
    if moment.seconds:
        rows.append(("computed in", ", ".join(f"{name} {1e3 * each:.0f} ms" for name, each in moment.seconds.items())))
    return rows


def obstacles_of(moment: Moment, robot: RobotConfig) -> np.ndarray:
    """(X, Y, Z) bool: what stands in the way; of a model without classes by height alone."""
    if not moment.classless:
        return obstacle_voxels(moment.labels, moment.grid, robot, CLASS_NAMES)
    one = np.where(moment.labels < FREE, np.uint8(0), np.where(moment.labels == FREE, np.uint8(1), moment.labels))
    return obstacle_voxels(one, moment.grid, robot, ONE_CLASS)


def _ahead(moment: Moment, robot: RobotConfig) -> str:
    """Straight ahead, within the robot's width."""
    columns = np.argwhere(obstacles_of(moment, robot).any(axis=2))
    places = np.array(moment.grid.origin[:2]) + (columns + 0.5) * moment.grid.voxel_size
    ahead = places[(np.abs(places[:, 1]) < 0.5 * robot.width) & (places[:, 0] >= robot.nearest)]
    return f"{ahead[:, 0].min():.1f} m" if len(ahead) else "none"
