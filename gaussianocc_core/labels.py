# SPDX-License-Identifier: Apache-2.0
"""Class names, colours and label tables: one table per source, cited."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Occ3D-nuScenes class ids 0..17 (docs/method.md#j).
CLASS_NAMES = (
    "others",
    "barrier",
    "bicycle",
    "bus",
    "car",
    "construction_vehicle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "trailer",
    "truck",
    "driveable_surface",
    "other_flat",
    "sidewalk",
    "terrain",
    "manmade",
    "vegetation",
    "free",
)
CLASS_ID = {name: index for index, name in enumerate(CLASS_NAMES)}
FREE = CLASS_ID["free"]  # of these classes
# Of a model that knows no class, or not all: whatever no other of its classes names.
OCCUPIED = "occupied"
ONE_CLASS = (OCCUPIED, "free")  # of a model that was trained without 2D labels
# Voxels of which nothing is known; the values of the message's constants. No class has them.
UNOBSERVED = 255  # no used camera looks there
OCCLUDED = 254  # in view, but hidden: no ray was seen to pass, and nothing was found there
# Surfaces one can stand on; the complement (less free) is "non-ground" in tables and tests.
GROUND_CLASSES = tuple(CLASS_ID[name] for name in ("driveable_surface", "other_flat", "sidewalk", "terrain"))

# RGB per class: the hues that nuScenes users know (vehicles orange, people blue, road magenta, trees green),
# chosen here so that neighbours in a street stay apart on a dark background.
PALETTE = np.array(
    [
        (110, 110, 110),
        (190, 120, 70),
        (235, 70, 160),
        (255, 220, 60),
        (255, 140, 25),
        (0, 200, 200),
        (205, 120, 255),
        (60, 90, 255),
        (255, 240, 140),
        (150, 75, 20),
        (235, 60, 45),
        (190, 60, 190),
        (145, 130, 160),
        (95, 45, 115),
        (150, 215, 90),
        (205, 200, 190),
        (35, 145, 55),
        (0, 0, 0),
    ],
    dtype=np.uint8,
)

# Voxels (or labelled pixels) per class that the published class weights are computed from (docs/method.md#g.3).
CLASS_FREQUENCIES = np.array(
    [
        0,
        18164955800,
        734218842,
        2336187448,
        10996756106,
        395414611,
        638889260,
        651023279,
        117046208,
        985341947,
        7303776233,
        43131984997,
        0,
        9342674867,
        9525824742,
        51204832885,
        22848065525,
        31841090018,
    ],
    dtype=np.float64,
)

# Ids of the published 2D pseudo-label files `*_mask.bin` (docs/method.md#j): Occ3D id per generator id 0..16.
# 0 is never written; -1 in a file means undetected.
GENERATOR_TO_OCC3D = np.array([0, 4, 11, 3, 10, 14, 16, 13, 2, 1, 7, 15, 6, 5, 9, 8, 17], dtype=np.uint8)
GENERATOR_UNDETECTED = -1
IGNORE = 255  # Occ3D-coded label images: pixel without a label


def free_label(class_names: Sequence[str]) -> int:
    """Id of free space among the classes of a model or a message: the last one."""
    return len(class_names) - 1


def is_occupied(labels: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """True where something is: neither free nor unknown. Labels uint8, any shape."""
    return np.asarray(labels < free_label(class_names))


def has_one_class(class_names: Sequence[str]) -> bool:
    """Whether a model says only that something is there, not what: then heights tell ground from obstacles."""
    return len(class_names) == 2


def ids_from_occ3d(class_names: Sequence[str]) -> np.ndarray:
    """uint8 table of 256 entries: a model's id per Occ3D id. What the model does not name is `occupied`; free is its
    last class, and 254 and 255 stay. ValueError for a model that lacks a class and has no `occupied`."""
    table = np.full(256, IGNORE, dtype=np.uint8)
    table[OCCLUDED], table[FREE] = OCCLUDED, free_label(class_names)
    for k, name in enumerate(CLASS_NAMES[:FREE]):
        own = name if name in class_names else OCCUPIED
        if own not in class_names:
            raise ValueError(f"class_names: has neither {name} nor {OCCUPIED}; add {OCCUPIED}, before free")
        table[k] = class_names.index(own)
    return table


def ids_to_occ3d(class_names: Sequence[str]) -> np.ndarray:
    """uint8 table of 256 entries: Occ3D id per id of a model. What Occ3D does not name is `others`; 254, 255 stay."""
    table = np.full(256, IGNORE, dtype=np.uint8)
    table[OCCLUDED] = OCCLUDED
    named = [CLASS_ID.get(name, CLASS_ID["others"]) for name in class_names[:-1]]
    table[: len(class_names)] = [*named, FREE]
    return table


def count_unknown(labels: np.ndarray) -> int:
    """Pixels of an Occ3D-coded label image whose id is neither a class nor 255."""
    return int(np.count_nonzero((labels >= len(CLASS_FREQUENCIES)) & (labels != IGNORE)))


def frequencies_of(class_names: Sequence[str]) -> np.ndarray:
    """CLASS_FREQUENCIES of a model's classes: of those that share one, the sum."""
    own = ids_from_occ3d(class_names)[: len(CLASS_FREQUENCIES)]
    return np.bincount(own, CLASS_FREQUENCIES, minlength=len(class_names))


def class_weights(frequencies: np.ndarray = CLASS_FREQUENCIES) -> np.ndarray:
    """float32 cross-entropy weights 1/sqrt(frequency), mean 1; a class without any weighs 0 (docs/method.md#g.3)."""
    weights = np.zeros(len(frequencies), dtype=np.float32)
    occurs = frequencies > 0
    weights[occurs] = 1.0 / np.sqrt(frequencies[occurs].astype(np.float32))
    return weights / weights.mean()


def occ3d_to_generator() -> np.ndarray:
    """int8 table of 256 entries: generator id per Occ3D id; what the generator cannot name is undetected (-1)."""
    table = np.full(256, GENERATOR_UNDETECTED, dtype=np.int8)
    for generator_id in range(1, len(GENERATOR_TO_OCC3D)):
        table[GENERATOR_TO_OCC3D[generator_id]] = generator_id
    return table


def generator_to_occ3d(mask: np.ndarray, undetected: int = IGNORE) -> np.ndarray:
    """uint8 Occ3D ids of an int8 `*_mask.bin` image. The published loader turns undetected into 17 (free)."""
    table = np.full(256, undetected, dtype=np.uint8)
    table[: len(GENERATOR_TO_OCC3D)] = GENERATOR_TO_OCC3D
    return table[mask.astype(np.uint8)]
