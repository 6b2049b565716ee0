# SPDX-License-Identifier: Apache-2.0
"""Lidar as depth images, in the published format (docs/method.md#j): what evaluation compares with,
never trained on."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gaussianocc_core.data.entries import SampleEntry
from gaussianocc_core.data.lidar import LidarSource, draw_depth
from gaussianocc_core.files import write_file


@dataclass
class ExportReport:
    written: int = 0  # images
    skipped: int = 0  # that were there already
    without_lidar: int = 0  # samples
    points: int = 0  # pixels with a depth, of those written


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
