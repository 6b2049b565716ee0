# SPDX-License-Identifier: Apache-2.0
"""What a robot needs to know of an occupancy: which obstacles it misses, which it invents, whether its way is blocked.

IoU counts voxels; a robot drives. Truth are lidar points, or the occupied voxels of labels (docs/method.md#i.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from gaussianocc_core.finite import check_labels
from gaussianocc_core.geometry.voxels import axis_centers, near_ground
from gaussianocc_core.labels import CLASS_NAMES, GROUND_CLASSES, free_label, has_one_class
from gaussianocc_core.metrics.pooling import Pooled
from gaussianocc_core.types import VoxelGrid

_GROUND = frozenset(CLASS_NAMES[k] for k in GROUND_CLASSES)
_CHUNK = 256  # columns that are compared with all points at once


@dataclass(frozen=True)
class RobotConfig:
    """What counts as an obstacle, where, and how wide and how far the robot drives; metres."""

    low: float = 0.5  # above z = 0 of the ego frame; below may be a kerb, or the ground on a slope
    high: float = 3.0  # what hangs higher is driven under
    rings: tuple[tuple[float, float], ...] = ((0.0, 5.0), (5.0, 10.0), (10.0, 20.0), (0.0, 10.0))  # horizontal range
    nearest: float = 2.5  # nearer points and columns do not count: a lidar sees the robot itself there
    tolerance: float = 0.8  # a column without a point within this, horizontally, is a ghost
    width: float = 2.0  # of the robot
    path_length: float = 10.0  # of the path ahead; a moment counts where at least half of it was driven

    def __post_init__(self) -> None:
        if not (self.low < self.high and all(0 <= near < far for near, far in self.rings)):
            raise ValueError(
                f"expected low < high and rings with 0 <= near < far, got {self.low}, {self.high} and {self.rings}"
            )
        if not (self.nearest >= 0 and min(self.tolerance, self.width, self.path_length) > 0):
            raise ValueError(
                f"expected nearest >= 0, and tolerance, width and path_length > 0, got {self.nearest}, "
                f"{self.tolerance}, {self.width} and {self.path_length}"
            )


@dataclass(frozen=True)
class ObstacleTruth:
    """What is known of the obstacles at one moment; ego frame, metres."""

    points: Float[np.ndarray, "P 3"]  # on obstacles, which a camera could see: found, missed or unknown
    places: Float[np.ndarray, "Q 2"]  # where any obstacle stands, x and y: what confirms a published column
    told: Bool[np.ndarray, "X Y Z"]  # voxels of which the truth says whether something is there


def scan_truth(
    points: Float[np.ndarray, "P 3"],
    lidar: Float[np.ndarray, " 3"],
    seen: Bool[np.ndarray, "X Y Z"],
    grid: VoxelGrid,
    config: RobotConfig,
) -> ObstacleTruth:
    """Of a lidar scan, ego frame, m.

    lidar: where its rays start. seen: voxels that some camera looks at. Behind a robot that looks ahead nothing counts:
    a point or voxel counts where a camera sees some height of its column, a point outside the grid always. A voxel is
    told of where a ray that came back crosses it or ends.
    """
    from gaussianocc_core.geometry.raymarch import crossed_voxels  # here: it imports Numba

    points = points[np.isfinite(points).all(axis=1)]
    obstacles = points[(points[:, 2] >= config.low) & (points[:, 2] <= config.high)]
    index, inside = _voxels_of(obstacles, grid)
    looked_at: np.ndarray = np.any(seen, axis=2)
    counted = ~inside
    counted[inside] = looked_at[tuple(index[inside, :2].T)]
    # A voxel whose centre lies between the heights reaches half a voxel beyond them, and so may what fills it.
    beyond = 0.5 * grid.voxel_size
    places = points[(points[:, 2] >= config.low - beyond) & (points[:, 2] <= config.high + beyond), :2]
    crossed = crossed_voxels(points, lidar, grid)
    return ObstacleTruth(obstacles[counted], places, crossed & looked_at[..., None])


def label_truth(
    labels: UInt8[np.ndarray, "X Y Z"],
    seen: Bool[np.ndarray, "X Y Z"],
    grid: VoxelGrid,
    config: RobotConfig,
    class_names: Sequence[str] = CLASS_NAMES,
) -> ObstacleTruth:
    """Of labels: the centres of their obstacle voxels. seen: of which voxels the cameras show something."""
    obstacles = obstacle_voxels(labels, grid, config, class_names)
    origin, size = np.array(grid.origin), grid.voxel_size
    points = origin + (np.argwhere(obstacles & seen) + 0.5) * size
    places = origin[:2] + (np.argwhere(obstacles.any(axis=2)) + 0.5) * size
    return ObstacleTruth(points, places, seen)


def obstacle_voxels(
    labels: UInt8[np.ndarray, "X Y Z"], grid: VoxelGrid, config: RobotConfig, class_names: Sequence[str] = CLASS_NAMES
) -> Bool[np.ndarray, "X Y Z"]:
    """Voxels occupied by a class that is no ground, with centres between the two heights. Of a model with one class,
    ground is what lies within a voxel of z = 0."""
    stands = np.zeros(256, dtype=bool)
    stands[: free_label(class_names)] = [name not in _GROUND for name in class_names[:-1]]
    counted = _band(grid, config)
    if has_one_class(class_names):
        counted &= ~near_ground(grid)
    return stands[labels] & counted


def path_ahead(
    T_world_ego: Sequence[Float[np.ndarray, "4 4"]], T_world_now: Float[np.ndarray, "4 4"], length: float
) -> Float[np.ndarray, "T 2"] | None:
    """Where the robot then drove, x and y in the ego frame of now, from the origin on and so many metres long.

    T_world_ego: the poses that followed, in time order. None: less than half of that was driven.
    """
    rotation, place = T_world_now[:3, :3], T_world_now[:3, 3]
    places = [np.zeros(2)] + [(rotation.T @ (pose[:3, 3] - place))[:2] for pose in T_world_ego]
    path, driven = [places[0]], 0.0
    for here in places[1:]:
        step = float(np.linalg.norm(here - path[-1]))
        if step < 1e-6:
            continue
        if driven + step >= length:
            path.append(path[-1] + (here - path[-1]) * ((length - driven) / step))
            return np.stack(path)
        path.append(here)
        driven += step
    return np.stack(path) if driven >= 0.5 * length else None


class RobotScores(Pooled):
    """Counts of a run's moments; pooled over processes."""

    def __init__(self, grid: VoxelGrid, config: RobotConfig | None = None) -> None:
        self.grid = grid
        self.config = config or RobotConfig()
        # Per ring: points found, missed (published free), unknown; columns published that truth tells of, ghosts.
        self._rings: Int64[np.ndarray, "R 5"] = np.zeros((len(self.config.rings), 5), dtype=np.int64)
        self.moments = np.zeros(3, dtype=np.int64)  # with truth; with a path; of those with an obstacle on it

    def update(
        self,
        prediction: UInt8[np.ndarray, "X Y Z"],
        truth: ObstacleTruth | None,
        path: Float[np.ndarray, "T 2"] | None = None,
        class_names: Sequence[str] = CLASS_NAMES,
    ) -> None:
        """One moment. truth, path: None where not known. PredictionError where a label is no class.

        An obstacle on the path counts unless the truth confirms it: who drove ahead was there.
        """
        free = free_label(class_names)
        check_labels(prediction, free + 1)
        obstacles = obstacle_voxels(prediction, self.grid, self.config, class_names)
        columns = obstacles.any(axis=2)
        index = np.argwhere(columns)
        centres = np.array(self.grid.origin[:2]) + (index + 0.5) * self.grid.voxel_size
        confirmed = np.zeros(len(centres), dtype=bool)
        if truth is not None:
            self.moments[0] += 1
            confirmed = _near_any(centres, truth.places, self.config.tolerance)
            told = (obstacles & truth.told).any(axis=2)[columns]
            self._count(prediction, free, truth, centres, told, confirmed)
        if path is not None:
            ahead = np.hypot(*centres.T) >= self.config.nearest
            blocked = _distance_to_path(centres, path) < 0.5 * self.config.width
            self.moments[1:] += 1, bool((ahead & blocked & ~confirmed).any())

    def _count(
        self,
        prediction: np.ndarray,
        free: int,
        truth: ObstacleTruth,
        centres: np.ndarray,
        told: np.ndarray,
        confirmed: np.ndarray,
    ) -> None:
        labels = np.full(len(truth.points), 255, dtype=np.uint8)  # outside the grid nothing is known
        index, inside = _voxels_of(truth.points, self.grid)
        labels[inside] = prediction[tuple(index[inside].T)]
        distance, of_column = np.hypot(truth.points[:, 0], truth.points[:, 1]), np.hypot(*centres.T)
        for row, (near, far) in zip(self._rings, self.config.rings, strict=True):
            near = max(near, self.config.nearest)
            here = labels[(distance >= near) & (distance < far)]
            published = told & (of_column >= near) & (of_column < far)
            row += (here < free).sum(), (here == free).sum(), (here > free).sum(), 0, 0
            row[3:] += published.sum(), (published & ~confirmed).sum()

    def counts(self) -> Int64[np.ndarray, " C"]:
        return np.append(self._rings.ravel(), self.moments)

    def set_counts(self, counts: Int64[np.ndarray, " C"]) -> None:
        self._rings, self.moments = counts[:-3].reshape(self._rings.shape), counts[-3:]

    def ring_summary(self) -> dict[str, dict[str, int | float]]:
        """By ring, "NEAR-FAR" in m: `points` that count and which share of them is `missed`, `unknown` and `found`;
        `columns` that count and which share of them are `ghosts`. NaN: a share of nothing."""
        return {
            f"{near:g}-{far:g}": {
                "points": int(row[:3].sum()),
                "missed": _share(row[1], row[:3].sum()),
                "unknown": _share(row[2], row[:3].sum()),
                "found": _share(row[0], row[:3].sum()),
                "columns": int(row[3]),
                "ghosts": _share(row[4], row[3]),
            }
            for (near, far), row in zip(self.config.rings, self._rings, strict=True)
        }

    def path_summary(self) -> dict[str, int]:
        """`moments` with a known path ahead, and how many of them an unconfirmed obstacle has `blocked`."""
        return {"moments": int(self.moments[1]), "blocked": int(self.moments[2])}


def _band(grid: VoxelGrid, config: RobotConfig) -> Bool[np.ndarray, " Z"]:
    heights = axis_centers(grid, 2)
    return (heights >= config.low) & (heights <= config.high)


def _voxels_of(points: Float[np.ndarray, "P 3"], grid: VoxelGrid) -> tuple[np.ndarray, np.ndarray]:
    """(P, 3) indices, and whether they lie in the grid."""
    index = np.floor((points - np.array(grid.origin)) / grid.voxel_size).astype(np.int64)
    return index, ((index >= 0) & (index < np.array(grid.shape))).all(axis=1)


def _share(part: int | np.integer, whole: int | np.integer) -> float:
    return float(part / whole) if whole else float("nan")


def _near_any(
    centres: Float[np.ndarray, "C 2"], places: Float[np.ndarray, "Q 2"], tolerance: float
) -> Bool[np.ndarray, " C"]:
    near = np.zeros(len(centres), dtype=bool)
    if not len(places):
        return near
    # Points of one place, to a centimetre, are one: of a scan of 100 000 some thousands are left.
    places = np.unique(np.round(places, 2), axis=0)
    order = np.argsort(places[:, 0])
    places = places[order]
    by_x = np.argsort(centres[:, 0])
    for first in range(0, len(centres), _CHUNK):
        chunk = by_x[first : first + _CHUNK]
        x = centres[chunk, 0]
        low, high = np.searchsorted(places[:, 0], (x.min() - tolerance - 0.01, x.max() + tolerance + 0.01))
        offset = centres[chunk, None] - places[None, low:high]
        near[chunk] = ((offset**2).sum(axis=-1) <= tolerance**2).any(axis=1)
    return near


def _distance_to_path(centres: Float[np.ndarray, "C 2"], path: Float[np.ndarray, "T 2"]) -> Float[np.ndarray, " C"]:
    """m, to the nearest place on the line through the places."""
    starts, along = path[:-1], np.diff(path, axis=0)
    offset = centres[:, None] - starts  # (C, T-1, 2)
    share = ((offset * along).sum(axis=-1) / (along**2).sum(axis=-1)).clip(0.0, 1.0)
    distance: np.ndarray = np.linalg.norm(offset - share[..., None] * along, axis=-1)
    return distance.min(axis=1) if len(centres) else np.zeros(0)
