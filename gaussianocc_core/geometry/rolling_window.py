# SPDX-License-Identifier: Apache-2.0
"""Voxels that stand still, of which a window follows the robot by wrapping around.

Content is never moved, resampled or blurred, however long the drive: what leaves the window on one side makes room for
what enters it on the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from gaussianocc_core.errors import PredictionError
from gaussianocc_core.types import VoxelGrid

_FARTHEST = 1e8  # m from the fixed frame's origin; twice around the Earth, and its voxels can still be numbered
_MOST_CELLS = 80_000_000  # of the window; the largest grid of a model has 20 million voxels
_SLOPE = np.sin(np.radians(5.0))  # the map is so much higher than the grid at its rim: pitch, roll, a hill ahead


class RollingWindow:
    """Where a grid that moves with the robot lies in arrays over voxels that do not."""

    def __init__(self, grid: VoxelGrid, what: str, corners: bool = True) -> None:
        """grid: in the ego frame. corners: whether the window holds them too when the robot turns, and not only what is
        as near as the middle of a side. PredictionError, which names `what`, where it takes too many voxels."""
        self.grid = grid
        low, high, size = np.array(grid.origin), np.array(grid.upper), grid.voxel_size
        sides = np.maximum(np.abs(low[:2]), np.abs(high[:2]))
        self.reach = float(np.hypot(*sides)) if corners else float(sides.max())  # m from the robot
        side = 2 * int(np.ceil(self.reach / size)) + 2
        margin = int(np.ceil(_SLOPE * self.reach / size)) + 1
        self.shape = np.array([side, side, grid.shape[2] + 2 * margin])
        if int(np.prod(self.shape.astype(np.int64))) > _MOST_CELLS:
            raise PredictionError(
                f"{what}: a grid that reaches {self.reach:.0f} m from the robot at {size:g} m a voxel takes more than "
                f"{_MOST_CELLS} voxels; switch {what} off"
            )
        # First voxel of the window minus the robot's own.
        self._lead = np.array([-side // 2, -side // 2, int(np.floor(low[2] / size)) - margin])
        self._anchor = np.zeros(3)
        self.first: np.ndarray | None = None  # of the window's voxels; (0, 0, 0) begins at the anchor

    def reset(self) -> None:
        """The next pose is the first one; the arrays are the caller's to empty."""
        self.first = None

    def follow(self, T_fixed_ego: Float[np.ndarray, "4 4"], arrays: Sequence[np.ndarray]) -> Float[np.ndarray, "4 4"]:
        """Move to the robot, and zero what enters in arrays whose first three axes are the window's.

        The robot's pose as the window counts: voxel (i, j, k) of the world begins at (i, j, k) times the voxel size,
        and lies at its index modulo the window's shape. PredictionError where the pose is no place on Earth.
        """
        T = checked_pose(T_fixed_ego)
        size = self.grid.voxel_size
        if self.first is None:
            # One voxel of the map is the middle one of the grid as it lies now: on level ground no height is rounded.
            middle = np.array(self.grid.origin) + (np.array(self.grid.shape) // 2 + 0.5) * size
            self._anchor = T[:3, :3] @ middle + T[:3, 3] - 0.5 * size
        # A hair beside: centres on borders fall to the same side seen from the map and from the grid.
        T[:3, 3] += 1e-6 * size - self._anchor
        first = np.floor(T[:3, 3] / size).astype(np.int64) + self._lead
        if self.first is not None:
            for axis in range(3):
                steps = int(first[axis] - self.first[axis])
                count = min(abs(steps), int(self.shape[axis]))
                start = self.first[axis] + (self.shape[axis] if steps > 0 else -count)
                entering = np.arange(start, start + count) % self.shape[axis]
                index = (slice(None),) * axis + (entering,)
                for array in arrays:
                    array[index] = 0.0
        self.first = first
        return T

    @property
    def origin(self) -> Float[np.ndarray, " 3"]:
        """Corner of the window's first voxel in the fixed frame, m."""
        assert self.first is not None
        return self._anchor + self.first * self.grid.voxel_size


def checked_pose(T_fixed_ego: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """The same in double precision; PredictionError where it is no place on Earth."""
    T = np.array(T_fixed_ego, dtype=np.float64)
    if not (np.isfinite(T).all() and np.abs(T[:3, 3]).max() < _FARTHEST):
        raise PredictionError(f"the robot's pose in the fixed frame is no place on Earth: {T[:3, 3]} m")
    return T


__all__ = ["RollingWindow", "checked_pose"]
