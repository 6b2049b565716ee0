# SPDX-License-Identifier: Apache-2.0
"""RayIoU: what lidar-like rays from places along the drive meet, in the labels and in the prediction
(docs/method.md#i.3).

It scores surfaces as a moving robot meets them; thick or floating predictions, which voxel IoU rewards, cost here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, UInt8

from gaussianocc_core.finite import check_labels
from gaussianocc_core.labels import CLASS_NAMES, FREE
from gaussianocc_core.metrics.pooling import Pooled
from gaussianocc_core.types import VoxelGrid


@dataclass(frozen=True)
class RayIoUConfig:
    """The constants of the published benchmark."""

    thresholds: tuple[float, ...] = (1.0, 2.0, 4.0)  # m; a hit's distance may differ by less than this
    first_pitches: int = 10  # pitch k = 1.. is -(pi/2 - atan k): rings on flat ground, equally far apart
    last_pitch: float = 0.21  # rad; pitches go on in equal steps until one reaches this
    azimuths: int = 360
    origin_reach: float = 39.0  # m; origins farther than this in x or y are left out
    origins: int = 8  # most origins of one sample


PUBLISHED = RayIoUConfig()


def ray_directions(config: RayIoUConfig = PUBLISHED) -> Float[np.ndarray, "R 3"]:
    """Unit directions in the ego frame, float32; pitch outside, azimuth inside."""
    pitches = [-(np.pi / 2 - np.arctan(k)) for k in range(1, config.first_pitches + 1)]
    while pitches[-1] < config.last_pitch:
        pitches.append(2 * pitches[-1] - pitches[-2])
    pitch, azimuth = np.meshgrid(pitches, np.radians(np.arange(config.azimuths)), indexing="ij")
    x, y, z = np.cos(pitch) * np.cos(azimuth), np.cos(pitch) * np.sin(azimuth), np.sin(pitch)
    return np.stack([x, y, z], axis=-1).reshape(-1, 3).astype(np.float32)


def ray_origins(
    lidars_world: Float[np.ndarray, "F 3"], T_world_ego: Float[np.ndarray, "4 4"], config: RayIoUConfig = PUBLISHED
) -> Float[np.ndarray, "O 3"]:
    """Where a sample's rays start, ego frame, m: the lidar's places over the scene that lie on its grid.

    lidars_world: position of the lidar at each keyframe of the scene, in time order, world frame, m.
    T_world_ego: of the sample. At most `config.origins` are kept, evenly spread over the drive.
    """
    rotation, translation = T_world_ego[:3, :3].astype(np.float64), T_world_ego[:3, 3].astype(np.float64)
    places = (lidars_world.astype(np.float64) - translation) @ rotation  # R^T (p - t)
    places = places[(np.abs(places[:, :2]) < config.origin_reach).all(axis=1)]
    if len(places) > config.origins:
        places = places[np.round(np.linspace(0, len(places) - 1, config.origins)).astype(np.int64)]
    return places


def cast_rays(
    labels: UInt8[np.ndarray, "X Y Z"],
    origins: Float[np.ndarray, "O 3"],
    directions: Float[np.ndarray, "R 3"],
    grid: VoxelGrid,
) -> tuple[UInt8[np.ndarray, " O*R"], Float[np.ndarray, " O*R"]]:
    """Label and distance (m) of what each ray meets, origin outside, direction inside; origins in the ego frame, m.

    The distance is where the ray leaves the first occupied voxel, or without one the grid (label free). A ray that
    never enters the grid gets the label of voxel (0, 0, 0) and minus one voxel, as in the published code.
    """
    return _cast(labels, *_voxel_rays(origins, directions, grid), grid)


def _voxel_rays(
    origins: Float[np.ndarray, "O 3"], directions: Float[np.ndarray, "R 3"], grid: VoxelGrid
) -> tuple[Float[np.ndarray, "O*R 3"], Float[np.ndarray, "O*R 3"]]:
    """Starts and unit directions in voxel units; as published, both ends of a ray are rounded to float32 there."""
    size, low = np.float32(grid.voxel_size), np.asarray(grid.origin, dtype=np.float32)
    starts = np.asarray(origins, dtype=np.float32)[:, None]  # (O, 1, 3)
    ends = starts + np.asarray(directions, dtype=np.float32)  # (O, R, 3)
    first = np.broadcast_to((starts - low) / size, ends.shape).reshape(-1, 3).astype(np.float64)
    along = ((ends - low) / size).reshape(-1, 3).astype(np.float64) - first
    return first, along / np.sqrt((along * along).sum(axis=1, keepdims=True))


def _cast(
    labels: UInt8[np.ndarray, "X Y Z"],
    starts: Float[np.ndarray, "P 3"],
    directions: Float[np.ndarray, "P 3"],
    grid: VoxelGrid,
) -> tuple[UInt8[np.ndarray, " P"], Float[np.ndarray, " P"]]:
    """`cast_rays` for rays in voxel units."""
    from gaussianocc_core.geometry.raymarch import march_labels  # here: it imports Numba

    met = march_labels(starts, directions, labels, VoxelGrid((0.0, 0.0, 0.0), 1.0, grid.shape))
    missed = met.index[:, 0] < 0
    return np.where(missed, labels[0, 0, 0], met.label), np.where(missed, -1.0, met.exit) * grid.voxel_size


class RayIoU(Pooled):
    """Counts of a run's rays per class and distance threshold."""

    def __init__(self, grid: VoxelGrid | None = None, config: RayIoUConfig = PUBLISHED) -> None:
        self.grid = grid or VoxelGrid()
        self.config = config
        self.directions = ray_directions(config)
        # Rows: hits per threshold, rays whose truth is the class, rays whose prediction is.
        self._counts: Int64[np.ndarray, "R K"] = np.zeros((len(config.thresholds) + 2, len(CLASS_NAMES)), np.int64)

    def update(
        self,
        truth: UInt8[np.ndarray, "X Y Z"],
        prediction: UInt8[np.ndarray, "X Y Z"],
        origins: Float[np.ndarray, "O 3"],
    ) -> None:
        """One sample, over the whole grid; origins as from `ray_origins`. Unknown voxels (254, 255) count as free.

        PredictionError where the prediction says another number that is no class.
        """
        check_labels(prediction, len(CLASS_NAMES))
        rays = _voxel_rays(origins, self.directions, self.grid)
        (true, true_distance), (predicted, predicted_distance) = (
            _cast(np.where(labels < len(CLASS_NAMES), labels, np.uint8(FREE)), *rays, self.grid)
            for labels in (truth, prediction)
        )
        counted = true != FREE
        true, predicted = true[counted], predicted[counted]
        error = np.abs(true_distance - predicted_distance)[counted]
        same = true == predicted
        chosen = [true[same & (error < limit)] for limit in self.config.thresholds]
        self._counts += np.stack([np.bincount(each, minlength=len(CLASS_NAMES)) for each in (*chosen, true, predicted)])

    def counts(self) -> Int64[np.ndarray, "R K"]:
        return self._counts

    def set_counts(self, counts: Int64[np.ndarray, "R K"]) -> None:
        self._counts = counts

    def per_class(self) -> Float[np.ndarray, "T 17"]:
        """IoU per threshold and class without free; NaN for a class that no ray met in truth or prediction."""
        hits, true, predicted = self._counts[:-2, :FREE], self._counts[-2, :FREE], self._counts[-1, :FREE]
        union = np.broadcast_to(true + predicted, hits.shape) - hits
        return np.divide(hits, union, out=np.full(hits.shape, np.nan), where=union > 0)

    def summary(self) -> dict[str, float]:
        """ray_iou@threshold: mean over the classes that occur; ray_iou: over all classes and thresholds."""
        iou = self.per_class()
        means = {f"ray_iou@{limit:g}": _mean(row) for limit, row in zip(self.config.thresholds, iou, strict=True)}
        return {**means, "ray_iou": _mean(iou)}


def _mean(values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")
