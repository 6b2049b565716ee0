# SPDX-License-Identifier: Apache-2.0
"""Lidar as depth images, in the published format (spec section j): what evaluation compares with, never trained on."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from gaussianocc_core.data.entries import SampleEntry
from gaussianocc_core.files import write_file
from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry import transforms
from gaussianocc_core.geometry.pixel_centers import to_opencv
from gaussianocc_core.types import Cameras


@runtime_checkable
class LidarSource(Protocol):
    """A data set whose samples have lidar."""

    dataroot: Path

    def lidar_world(self, scene: str, entry: SampleEntry) -> Float[np.ndarray, "P 3"] | None: ...

    def depth_path(self, scene: str, entry: SampleEntry, camera: int) -> Path: ...


@dataclass
class ExportReport:
    written: int = 0  # images
    skipped: int = 0  # that were there already
    without_lidar: int = 0  # samples
    points: int = 0  # pixels with a depth, of those written


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


def export_scene(
    source: LidarSource,
    scene: str,
    entries: tuple[SampleEntry, ...],
    output: Path,
    overwrite: bool = False,
    on_sample: Callable[[], object] = lambda: None,
) -> ExportReport:
    """A float32 .npy per image of the scene's samples; files that are there and whole are left alone."""
    report = ExportReport()
    for entry in entries:
        wanted = list(_wanted(source, scene, entry, output, overwrite, report))
        points = source.lidar_world(scene, entry) if wanted else None
        report.without_lidar += bool(wanted) and points is None
        for index, path in wanted:
            if points is None:
                continue
            T_world_cam = entry.frame.T_world_ego[index] @ entry.cameras.T_ego_cam[index].double().numpy()
            image = draw_depth(points, T_world_cam, entry.cameras, index)
            buffer = io.BytesIO()
            np.save(buffer, image)
            write_file(path, buffer.getvalue())
            report.written += 1
            report.points += int((image > 0).sum())
        on_sample()
    return report


def _wanted(
    source: LidarSource, scene: str, entry: SampleEntry, output: Path, overwrite: bool, report: ExportReport
) -> Iterator[tuple[int, Path]]:
    for index in range(len(entry.cameras)):
        path = output / source.depth_path(scene, entry, index)
        if not overwrite and _is_whole(path, (entry.cameras.height[index], entry.cameras.width[index])):
            report.skipped += 1
        else:
            yield index, path


def _is_whole(path: Path, shape: tuple[int, int]) -> bool:
    try:
        return bool(np.load(path, mmap_mode="r", allow_pickle=False).shape == shape)
    except (OSError, ValueError, EOFError):  # absent, or not of numpy
        return False
