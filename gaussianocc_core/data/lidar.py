# SPDX-License-Identifier: Apache-2.0
"""Lidar as depth images: what depth is compared with, never trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from gaussianocc_core.data.entries import SampleEntry
from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry import transforms
from gaussianocc_core.geometry.pixel_centers import to_opencv
from gaussianocc_core.types import Cameras


@dataclass(frozen=True)
class LidarScan:
    """What a lidar measured around one moment, in an ego frame, m."""

    points: Float[np.ndarray, "P 3"]
    place: Float[np.ndarray, " 3"]  # of the lidar: where the rays start


@runtime_checkable
class LidarSource(Protocol):
    """A data set whose samples have lidar."""

    dataroot: Path

    def lidar_world(self, scene: str, entry: SampleEntry) -> Float[np.ndarray, "P 3"] | None: ...

    def depth_path(self, scene: str, entry: SampleEntry, camera: int) -> Path: ...


def draw_depth(
    points_world: Float[np.ndarray, "P 3"], T_world_cam: Float[np.ndarray, "4 4"], cameras: Cameras, index: int
) -> Float[np.ndarray, "H W"]:
    """z-depth (m) at the rounded pixel of every point that the camera sees, 0 elsewhere; the last point wins.

    Published that way: a nearer point does not win over a farther one that is written later. Undistorted pinhole
    cameras only.
    """
    T_cam_world = transforms.invert_matrix(T_world_cam)
    points = torch.from_numpy(points_world @ T_cam_world[:3, :3].T + T_cam_world[:3, 3])
    pixels, depth = camera_geometry.project(
        points, to_opencv(cameras.intrinsics[index : index + 1].double()), torch.eye(4, dtype=torch.float64)[None]
    )
    column, row = np.round(pixels[0].numpy()).T
    z = depth[0].numpy()
    width, height = cameras.width[index], cameras.height[index]
    seen = (z > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    image = np.zeros((height, width), dtype=np.float32)
    image[row[seen].astype(int), column[seen].astype(int)] = z[seen]
    return image


def paint_depth(points: Float[np.ndarray, "P 3"], width: int, height: int) -> Float[np.ndarray, "H W"]:
    """Points in an image, column, row (px, a pixel's centre at +0.5) and z-depth (m) -> z-depth of the nearest point in
    each pixel, 0 where there is none. Points outside the image are left out."""
    column, row = np.floor(points[:, 0]).astype(int), np.floor(points[:, 1]).astype(int)
    seen = (points[:, 2] > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    image = np.full((height, width), np.inf, dtype=np.float32)
    np.minimum.at(image, (row[seen], column[seen]), points[seen, 2].astype(np.float32))
    image[~np.isfinite(image)] = 0.0
    return image
