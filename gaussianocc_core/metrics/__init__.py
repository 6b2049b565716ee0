# SPDX-License-Identifier: Apache-2.0
"""Metrics: accumulate, pool over processes, summarise (docs/method.md#i).

Each kind has a class with `update` (one sample), `reduce` (sums over all processes) and `summary` (plain floats).
"""

from gaussianocc_core.metrics.depth import DEPTH_ERRORS, DepthScores, depth_errors
from gaussianocc_core.metrics.occupancy import (
    STAR_CLASSES,
    UNSUPERVISED_CLASSES,
    VOXEL_MASKS,
    OccupancyScores,
    class_iou,
    confusion_matrix,
    flat_ground,
    group_iou,
    mean_iou,
    occupancy_summary,
    voxel_mask,
)
from gaussianocc_core.metrics.ray_iou import RayIoU, RayIoUConfig, cast_rays, ray_directions, ray_origins
from gaussianocc_core.metrics.reliability import Reliability
from gaussianocc_core.metrics.robot import RobotConfig, RobotScores, path_ahead

__all__ = [
    "DEPTH_ERRORS",
    "STAR_CLASSES",
    "UNSUPERVISED_CLASSES",
    "VOXEL_MASKS",
    "DepthScores",
    "OccupancyScores",
    "RayIoU",
    "RayIoUConfig",
    "Reliability",
    "RobotConfig",
    "RobotScores",
    "cast_rays",
    "class_iou",
    "confusion_matrix",
    "depth_errors",
    "flat_ground",
    "group_iou",
    "mean_iou",
    "occupancy_summary",
    "path_ahead",
    "ray_directions",
    "ray_origins",
    "voxel_mask",
]
