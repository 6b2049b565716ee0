# SPDX-License-Identifier: Apache-2.0
"""A value per class on the ground around the robot: a costmap filter's mask, such as a lower speed on sidewalks."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import Float, Int8

from gaussianocc_core.geometry import voxels
from gaussianocc_core.labels import is_occupied
from gaussianocc_core.navigation.obstacles import UNKNOWN, GroundMap, align_map
from gaussianocc_core.navigation.traversability import class_table
from gaussianocc_core.types import OccupancyPrediction

NO_LIMIT = 0  # the filters' "nothing is asked here"
# No camera sees the ground under the robot, where a filter looks: it takes the nearest that was seen.
_REACH = 5.0  # m


def map_values(prediction: OccupancyPrediction, values: Mapping[str, int], high: float) -> Int8[np.ndarray, "X Y"]:
    """Each column's value: the largest of the classes that were found in it up to `high` (m, ego frame), else NO_LIMIT.

    Columns in which nothing was found take the nearest one's within 5 m. ValueError names a class that the model lacks.
    """
    table = np.zeros(256, np.int8)
    for name, value in values.items():
        table[class_table(prediction.class_names, [name])] = value
    labels = prediction.labels[..., voxels.axis_centers(prediction.grid, 2) <= high]
    found = is_occupied(labels, prediction.class_names)
    columns = np.where(found, table[labels], NO_LIMIT).max(axis=2).astype(np.int8)
    known = found.any(axis=2)
    if known.any() and not known.all():
        distance, nearest = cv2.distanceTransformWithLabels(
            np.logical_not(known).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
        )
        by_label = np.zeros(int(nearest.max()) + 1, np.int8)
        by_label[nearest[known]] = columns[known]
        filled = ~known & (distance * prediction.grid.voxel_size <= _REACH)
        columns[filled] = by_label[nearest[filled]]
    return columns


def make_mask(
    prediction: OccupancyPrediction,
    values: Mapping[str, int],
    high: float,
    T_map_ego: Float[np.ndarray, "4 4"] | None,
) -> GroundMap:
    """`map_values` on the raster of `align_map`, without unknown cells: filters call these an error."""
    mask = align_map(map_values(prediction, values, high), prediction, T_map_ego)
    return GroundMap(np.where(mask.cells == UNKNOWN, np.int8(NO_LIMIT), mask.cells), mask.resolution, mask.origin)
