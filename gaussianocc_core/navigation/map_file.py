# SPDX-License-Identifier: Apache-2.0
"""A map of voxels as a PLY, which MeshLab, CloudCompare, Open3D and PCL read, and as OctoMap's binary tree."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from gaussianocc_core.errors import DatasetError
from gaussianocc_core.files import write_file
from gaussianocc_core.labels import CLASS_ID, PALETTE, free_label, is_occupied
from gaussianocc_core.types import VoxelGrid

_POINT = np.dtype(
    [
        *((axis, "<f4") for axis in "xyz"),
        *((color, "u1") for color in ("red", "green", "blue")),
        ("label", "u1"),
        ("confidence", "<f4"),
    ]
)
_PLY_TYPES = {"<f4": "float", "|u1": "uchar"}
_OCTREE_SPAN = 1 << 15  # cells to each side of zero, of OctoMap's 16 levels
_PART = 100_000  # voxels that are put into the tree at a time: eight points of 24 bytes each


def write_ply(
    path: Path,
    labels: UInt8[np.ndarray, "X Y Z"],
    confidence: Float[np.ndarray, "X Y Z"],
    grid: VoxelGrid,
    class_names: Sequence[str],
    frame: str,
) -> int:
    """The centres of the occupied voxels in the frame of `grid`, m, with class and confidence; how many there are.

    The classes' names and the frame stand in the header's comments. DatasetError where it cannot be written.
    """
    index = np.argwhere(is_occupied(labels, class_names))
    points = np.zeros(len(index), _POINT)
    points["label"] = labels[tuple(index.T)]
    points["confidence"] = confidence[tuple(index.T)]
    centers = np.array(grid.origin) + (index + 0.5) * grid.voxel_size
    colors = np.array([PALETTE[CLASS_ID.get(name, CLASS_ID["others"])] for name in class_names], np.uint8)
    for i, axis in enumerate("xyz"):
        points[axis] = centers[:, i]
    for i, color in enumerate(("red", "green", "blue")):
        points[color] = colors[points["label"], i]
    kinds = [(name, _POINT[name].str) for name in _POINT.names or ()]
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"comment frame {frame}",
        f"comment voxel_size {grid.voxel_size:g}",
        f"comment labels {' '.join(f'{i}={name}' for i, name in enumerate(class_names))}",
        f"element vertex {len(points)}",
        *(f"property {_PLY_TYPES[kind]} {name}" for name, kind in kinds),
        "end_header",
    ]
    if any("\n" in line or "\r" in line for line in header):
        raise DatasetError(f"{path}: a class or frame has a line break in its name; rename it")
    write_file(path, ("\n".join(header) + "\n").encode() + points.tobytes())
    return len(points)


def has_octomap() -> bool:
    """Whether OctoMap's Python library is there (`pip install octomap-python`)."""
    return importlib.util.find_spec("octomap") is not None


def write_octomap(path: Path, labels: UInt8[np.ndarray, "X Y Z"], grid: VoxelGrid, class_names: Sequence[str]) -> float:
    """Occupied and free voxels as OctoMap's binary tree (.bt), in the frame of `grid`; the tree's resolution, m.

    What is unknown is not in the tree. OctoMap's cells begin at multiples of its resolution. A grid that does not gets
    cells of half a voxel, eight for each, which lie where the voxels do, or at most a quarter of a voxel from there.
    DatasetError where it cannot be written. Needs `has_octomap`.
    """
    octomap: Any = importlib.import_module("octomap")
    low = np.array(grid.origin) / grid.voxel_size
    split = 1 if np.abs(low - np.round(low)).max() < 0.01 else 2
    first = np.round(low * split).astype(np.int64)  # cell of the grid's low corner
    if (first < -_OCTREE_SPAN).any() or (first + split * np.array(grid.shape) > _OCTREE_SPAN).any():
        raise DatasetError(f"{path}: the grid at {grid.origin} m lies too far from its frame's origin for an octree")
    resolution = grid.voxel_size / split
    tree = octomap.OcTree(resolution)
    within = np.argwhere(np.ones((split,) * 3, bool))
    for voxels, is_hit in ((labels == free_label(class_names), False), (is_occupied(labels, class_names), True)):
        index = np.argwhere(voxels) * split
        for start in range(0, len(index), _PART):
            cells = (first + index[start : start + _PART])[:, None] + within
            tree.updateNodes((cells.reshape(-1, 3) + 0.5) * resolution, is_hit, True)
    tree.updateInnerOccupancy()
    write_file(path, tree.writeBinary())
    return resolution
