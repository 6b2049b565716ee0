# SPDX-License-Identifier: Apache-2.0
"""Carved labels to look at: in the cameras and from above, as pictures and as a video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from gaussianocc_core.data.entries import in_label_frame, labels_path, load_occupancy
from gaussianocc_core.data.sources import Entry
from gaussianocc_core.labels import CLASS_ID, FREE, PALETTE, UNOBSERVED
from gaussianocc_core.mapping.entries import Recordings
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.types import Cameras, Sample, VoxelGrid
from gaussianocc_core.viz.colors import height_colors, overlay
from gaussianocc_core.viz.files import write_png, write_video
from gaussianocc_core.viz.mosaic import camera_mosaic
from gaussianocc_core.viz.scene import occupancy_view, top_view
from gaussianocc_core.viz.text import Label, draw_labels

_SIZE = (1600, 720)  # px
_LOOK = (320, 176)  # px, of a camera's image
_OPACITY = 0.55
_KNOWN_RGB = (58, 74, 98)  # seen from above, a column that is known to be free
_FPS = 6


def review_all(
    recordings: Recordings, scenes: Sequence[str], output: Path, every: int, grid: VoxelGrid
) -> Iterator[Path]:
    """Pictures of each Nth labelled moment, OUTPUT/<scene>/<n>.png, and a video of the first scene; yields the paths.

    grid: of the labels.
    """
    for number, scene in enumerate(scenes):
        entries = [each for each in recordings.entries(scene) if labels_path(output, scene, each.token).is_file()]
        for k in range(0, len(entries), every):
            path = output / scene / f"{k:04d}.png"
            write_png(path, draw_moment(entries[k], output, grid))
            yield path
        if number == 0 and entries:
            path = output / scene / "carved.mp4"
            write_video(path, (draw_moment(each, output, grid) for each in entries), _FPS)
            yield path


def draw_moment(entry: Entry, output: Path, grid: VoxelGrid) -> UInt8[np.ndarray, "H W 3"]:
    """Left the cameras, in colour what is occupied; right a view of the labels, and from above what is known."""
    labels = load_occupancy(labels_path(output, entry.scene, entry.token)).semantics
    sample = entry.load()
    width, height = _SIZE
    right = height
    canvas = np.zeros((height, width, 3), np.uint8)
    canvas[:, : width - right] = camera_mosaic(_looks(sample, labels, grid), sample.cameras, width - right, height)
    view = occupancy_view(labels, grid, right, height // 2, supersample=1, by_height=_classless(labels))
    canvas[: height // 2, width - right :] = view
    above = _above(labels, grid)
    side = height // 2
    canvas[height // 2 :, width - right : width - right + side] = cv2.resize(above, (side, side))
    known = float((labels != UNOBSERVED).mean())
    texts = [
        Label(f"{entry.scene}", width - right + side + 12, height // 2 + 12, 18),
        Label(f"known {100 * known:.0f} %", width - right + side + 12, height // 2 + 40, 16),
        Label(f"occupied {int((labels < FREE).sum())} voxels", width - right + side + 12, height // 2 + 66, 16),
        Label("blue: known to be free", width - right + side + 12, height // 2 + 92, 16),
    ]
    return draw_labels(canvas, texts)


def _above(labels: UInt8[np.ndarray, "X Y Z"], grid: VoxelGrid) -> UInt8[np.ndarray, "H W 3"]:
    picture = top_view(labels, grid, 2, by_height=_classless(labels))
    free = ((labels == FREE).any(axis=2) & ~(labels < FREE).any(axis=2))[::-1, ::-1].repeat(2, axis=0).repeat(2, axis=1)
    picture[free] = _KNOWN_RGB
    return picture


def _looks(
    sample: Sample, labels: UInt8[np.ndarray, "X Y Z"], grid: VoxelGrid
) -> dict[str, UInt8[np.ndarray, "h w 3"]]:
    """Each camera's image under the colours of the first occupied voxel on each pixel's ray."""
    from gaussianocc_core.geometry.raymarch import march_labels  # here: it imports numba

    width, height = _LOOK
    preprocess = Preprocessor(width, height)
    lenses = preprocess(sample.cameras, sample.static_masks)
    cameras: Cameras = lenses.views(_in_anchor_frame(sample).T_ego_cam)
    images = lenses.rectify(sample.images)
    solid = np.where(labels == UNOBSERVED, np.uint8(FREE), labels)
    found = {}
    for n, name in enumerate(cameras.names):
        K, T = cameras.intrinsics[n].double().numpy(), cameras.T_ego_cam[n].double().numpy()
        u, v = np.meshgrid(np.arange(0, width, 2) + 1.0, np.arange(0, height, 2) + 1.0)
        rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u)], axis=-1) @ T[:3, :3].T
        met = march_labels(T[:3, 3], rays.reshape(-1, 3), solid, grid)
        if _classless(labels):
            colors = height_colors(grid.shape[2])[met.index[:, 2].clip(0)].reshape(*u.shape, 3)
        else:
            colors = PALETTE[np.minimum(met.label, FREE)].reshape(*u.shape, 3)
        share = np.where(met.hit, _OPACITY, 0.0).reshape(u.shape).astype(np.float32)
        found[name] = overlay(
            images[n],
            colors.repeat(2, axis=0).repeat(2, axis=1)[:height, :width],
            share.repeat(2, axis=0).repeat(2, axis=1)[:height, :width],
        )
    return found


def _classless(labels: UInt8[np.ndarray, "X Y Z"]) -> bool:
    """Whether they were carved without 2D labels: then all that is occupied is of one kind, and heights say more."""
    return bool((labels[labels < FREE] == CLASS_ID["others"]).all())


def _in_anchor_frame(sample: Sample) -> Cameras:
    """Carved labels are in the ego frame of the anchor's image, whatever frame true labels of the moment are in."""
    return in_label_frame(replace(sample, occupancy=None))


__all__ = ["draw_moment", "review_all"]
