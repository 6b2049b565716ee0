# SPDX-License-Identifier: Apache-2.0
"""What the rays of the last seconds found, and what that says of each voxel now (docs/method.md#o.13).

One set of images measures a thing once, from one place. The sets before measured it too, and rays of many places that
end in a voxel or pass it are better evidence than a network's word about one moment. They are counted in voxels that
stand still, and forgotten with time. A small head weighs these counts and the occupancy network's word together.

Counts are kept in cells that are flatter than a voxel, as in carving: a ray that reaches the ground at a slant passes
several voxels that hold ground before it ends in one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from gaussianocc_core.geometry.rolling_window import RollingWindow, checked_pose
from gaussianocc_core.kernels import as_array, run_in_threads
from gaussianocc_core.models.ray_ends import EndSettings, place_ends
from gaussianocc_core.types import Cameras, VoxelGrid

FEATURES = 6  # of a voxel: see `ray_memory_cpu.describe`
_WIDTH = 16
_MOST_GAIN = 1e4  # of the weight of new rays against that of the oldest, before all counts are divided by it
_FORGOTTEN = 10.0  # times `seconds` after which nothing is left
_TOP_SPEED, _TOP_TURN = 60.0, 180.0  # m/s, degrees/s: more is a jump of odometry, as `RingSettings` has it
_STEADY, _ACCELERATION = 3.0, 15.0  # m/s, m/s^2, by which the velocity may change
_SLAB = 8  # voxels along x that one call of a kernel takes


@dataclass(frozen=True)
class MemorySettings:
    """What is remembered."""

    seconds: float = 1.5  # after which a ray counts 1/e
    moment: float = 0.15  # the same for what is there now: by it what moves is where it is
    layers: int = 4  # cells on top of each other in a voxel
    ends: EndSettings = field(default_factory=EndSettings)

    def __post_init__(self) -> None:
        if not min(self.seconds, self.moment) > 0 or self.layers < 1:
            raise ValueError(f"memory of rays: expected seconds above 0 and layers of at least 1, got {self}")


class MemoryHead(nn.Module):
    """FEATURES of a voxel -> logit that it is occupied, in which 0 is where a cautious reader draws the line."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, _WIDTH)
        self.last = nn.Linear(_WIDTH, 1)

    def forward(self, features: Float[Tensor, "P F"]) -> Float[Tensor, " P"]:
        return self.last(torch.relu(self.first(features)))[:, 0]


class RayMemory:
    """Of one rig, in voxels around it. One thread's."""

    def __init__(self, grid: VoxelGrid, settings: MemorySettings = MemorySettings()) -> None:
        self.grid, self.settings = grid, settings
        self._window = RollingWindow(grid, "memory", corners=False)
        self._shape = tuple(int(n) for n in self._window.shape)
        from gaussianocc_core.geometry.ray_counts import COUNTS  # here: it imports Numba

        self._counts = np.zeros((*self._shape, settings.layers, COUNTS), dtype=np.float32)
        self._fresh = np.zeros((*self._shape, COUNTS), dtype=np.float32)
        self._gain = 1.0  # of a ray of now; that of older ones stays, so that nothing needs to be faded
        self._stamp_s, self._run = 0.0, 0
        self._pose = np.eye(4)  # of the last set
        self._velocity: np.ndarray | None = None  # m/s
        self.sets = 0  # that were added since all was forgotten
        self._T = np.eye(4)  # of the robot as the window counts

    def reset(self) -> None:
        """Forget all."""
        self._counts.fill(0.0)
        self._fresh.fill(0.0)
        self._window.reset()
        self._gain, self.sets, self._velocity = 1.0, 0, None

    @property
    def is_empty(self) -> bool:
        return self._window.first is None

    def add(
        self,
        inv_depth: Float[Tensor, "N h w"],
        log_error: Float[Tensor, "N h w"],
        shows: Bool[np.ndarray, "N h w"] | None,
        cameras: Cameras,
        size: tuple[int, int],
        T_world_ego: Float[np.ndarray, "4 4"],
        stamp_s: float,
        run: int,
    ) -> None:
        """The rays of a set.

        inv_depth: 1/m; log_error: log of the expected error of log depth; shows: cells that show the world, None: all;
        cameras: pinholes of images of size (width, height), px, in the ego frame of stamp_s; T_world_ego: that frame
        in one that stands still as long as `run` is the same, m. A stamp before the last one's, or another run, empties
        the memory first.
        """
        from gaussianocc_core.geometry.ray_counts import add_rays

        pose, elapsed = checked_pose(T_world_ego), stamp_s - self._stamp_s
        too_long = not 0.0 <= elapsed <= _FORGOTTEN * self.settings.seconds
        if not self.is_empty and (run != self._run or too_long or self._jumps(pose, elapsed)):
            self.reset()
        if not self.is_empty and elapsed > 0:
            self._velocity = (pose[:3, 3] - self._pose[:3, 3]) / elapsed
        self._pose = pose
        if not self.is_empty:
            self._gain *= float(np.exp(elapsed / self.settings.seconds))
            self._fresh *= np.float32(np.exp(-elapsed / self.settings.moment))
        if self._gain > _MOST_GAIN:
            self._counts *= np.float32(1.0 / self._gain)
            self._gain = 1.0
        self._stamp_s, self._run, self.sets = stamp_s, run, self.sets + 1
        self._T = self._window.follow(T_world_ego, (self._counts, self._fresh))
        assert self._window.first is not None
        depth = 1.0 / as_array(inv_depth)
        known = np.ones(depth.shape, dtype=bool) if shows is None else shows
        ends = place_ends(depth, np.exp(as_array(log_error)), known, settings=self.settings.ends)
        weight = known.astype(np.float32) * np.float32(self._gain)
        layers, edge = self.settings.layers, self.grid.voxel_size
        cells = np.array([edge, edge, edge / layers])
        wrap = (self._window.first % self._window.shape) * (1, 1, layers)
        X, Y, Z = self._shape
        counts = self._counts.reshape(X, Y, Z * layers, -1)
        no_classes, no_votes = np.zeros(depth.shape[1:], np.uint8), np.zeros((0, 0, 0, 0), np.float32)
        K, T = cameras.intrinsics.cpu().double().numpy(), self._T @ cameras.T_ego_cam.cpu().double().numpy()
        sx, sy = depth.shape[2] / size[0], depth.shape[1] / size[1]
        for n in range(len(depth)):
            lens = np.array([K[n, 0, 0] * sx, K[n, 1, 1] * sy, K[n, 0, 2] * sx, K[n, 1, 2] * sy])
            add_rays(
                T[n], lens, ends.depth[n], ends.half[n], weight[n], no_classes,
                self._window.first * edge, cells, layers, wrap, counts, self._fresh, no_votes,
            )  # fmt: skip

    def _jumps(self, pose: Float[np.ndarray, "4 4"], elapsed: float) -> bool:
        """Whether no robot moves so from the last set that was added, however many came without a motion since."""
        way = pose[:3, 3] - self._pose[:3, 3]
        turn = np.degrees(np.arccos(np.clip((np.trace(self._pose[:3, :3].T @ pose[:3, :3]) - 1.0) / 2.0, -1.0, 1.0)))
        if turn > _TOP_TURN * elapsed + 3.0 or np.linalg.norm(way) > _TOP_SPEED * elapsed + 0.3:
            return True
        change = 0.0 if self._velocity is None else float(np.linalg.norm(way - self._velocity * elapsed))
        return change > 0.3 + (_STEADY + _ACCELERATION * elapsed) * elapsed

    def describe(self, opacity: Float[np.ndarray, "X Y Z"], where: Int64[np.ndarray, "P 3"]) -> Float[Tensor, "P F"]:
        """What the head is given of some voxels of the grid around the newest set; opacity: the network's word."""
        from gaussianocc_core.models import ray_memory_cpu

        found = np.empty((len(where), FEATURES), dtype=np.float32)
        ray_memory_cpu.describe_all(where, opacity, *self._place(), found)
        return torch.from_numpy(found)

    def weigh(
        self,
        head: MemoryHead,
        opacity: Float[np.ndarray, "X Y Z"],
        observed: Bool[np.ndarray, "X Y Z"],
    ) -> Float[np.ndarray, "X Y Z"]:
        """How probable it is that each observed voxel of the grid is occupied, 0-1, with what is remembered; opacity:
        the same by the network's word about the newest set, which stands where nothing else is known."""
        from gaussianocc_core.models import ray_memory_cpu

        said = np.empty_like(opacity)
        weights = [as_array(each) for each in (head.first.weight, head.first.bias, head.last.weight[0], head.last.bias)]
        rest = (opacity, observed, *self._place(), *weights, said)
        slabs = [(a, min(a + _SLAB, len(said))) for a in range(0, len(said), _SLAB)]
        for _ in run_in_threads(ray_memory_cpu.weigh, [(a, b, *rest) for a, b in slabs]):
            pass
        return said

    def _place(self) -> tuple:
        origin, size = np.array(self.grid.origin, dtype=np.float64), self.grid.voxel_size
        return self._counts, self._fresh, np.float32(self._gain), self._window.first, self._T, origin, size


__all__ = ["FEATURES", "MemoryHead", "MemorySettings", "RayMemory"]
