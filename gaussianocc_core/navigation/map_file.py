# SPDX-License-Identifier: Apache-2.0
"""A map of voxels as a PLY, which MeshLab, CloudCompare, Open3D and PCL read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from gaussianocc_core.errors import DatasetError
from gaussianocc_core.files import write_file
from gaussianocc_core.labels import CLASS_ID, PALETTE, is_occupied
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
