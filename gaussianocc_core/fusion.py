# SPDX-License-Identifier: Apache-2.0
"""Predictions accumulated over time in a frame that stands still: log-odds per voxel and a vote for its class.

Log-odds with clamping as in OctoMap (Hornung et al. 2013, equations 2 to 4). Rays carve: what is found is a hit, what
rays are seen to pass is a miss. What is hidden is evidence of neither, but what was free there becomes doubtful:
something may have moved in. The map's voxels stand still (`geometry/rolling_window.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numba
import numpy as np
from jaxtyping import Float, UInt8

from gaussianocc_core.finite import check_finite, check_labels
from gaussianocc_core.geometry.rolling_window import RollingWindow, checked_pose
from gaussianocc_core.kernels import JIT
from gaussianocc_core.labels import OCCLUDED, UNOBSERVED, free_label
from gaussianocc_core.types import OccupancyPrediction, VoxelGrid

_FORGOTTEN = 0.1  # log-odds, a probability of 0.475 to 0.525: no more than a voxel that nobody saw
_LEAST_WEIGHT = np.float32(0.5)  # of a prediction: it has decided, whatever the probability of its class
_MOST_VOTES = np.float32(10.0)  # a class that was right for long must still be outvoted within seconds


@dataclass(frozen=True)
class FusedMap:
    """What a fusion knows, in the frame that stands still."""

    labels: UInt8[np.ndarray, "X Y Z"]  # 255 where nothing is known
    confidence: Float[np.ndarray, "X Y Z"]  # of the label, 0 to 1
    grid: VoxelGrid  # its origin is in the fixed frame, m, along that frame's axes
    stamp_ns: int  # of the newest prediction in it


class TemporalFusion:
    """One robot's memory. Feed it with `add` in the order of stamps; made for one thread."""

    def __init__(
        self,
        grid: VoxelGrid,
        class_names: Sequence[str],
        *,
        hit: float = 0.7,
        miss: float = 0.3,
        doubt: float = 0.8,
        decay: float = 5.0,
        limits: tuple[float, float] = (0.12, 0.9),
    ) -> None:
        """
        Args:
            grid: of all predictions, in the ego frame.
            class_names: of their labels; the last is free.
            hit: probability that a voxel is occupied, given one prediction that says so with full confidence.
            miss: the same, given one that says it is free: that rays were seen to pass it.
            doubt: the same, given one in which it is occluded, of what was known as free: that becomes unknown, never
                occupied. 0.5: free stays free while nobody sees it, until it decays.
            decay: s after which evidence that is not renewed counts 1/e; 0: it counts for ever.
            limits: probabilities beyond which evidence does not accumulate, so that what changes can be unlearnt.
        """
        if not 0.0 < miss <= 0.5 <= min(hit, doubt) <= max(hit, doubt) < 1.0 or decay < 0:
            raise ValueError(
                f"expected 0 < miss <= 0.5 <= hit, doubt < 1 and decay >= 0, got {miss}, {hit}, {doubt} and {decay}"
            )
        if not 0.0 < limits[0] < 0.5 < limits[1] < 1.0:
            raise ValueError(f"limits: expected one below and one above 0.5, between 0 and 1, got {limits}")
        self.grid, self.decay = grid, decay
        self.resets = 0  # because of a stamp that stepped back or a pose that jumped
        self._free = free_label(class_names)
        self._evidence = np.array([_log_odds(p) for p in (hit, miss, doubt, *limits)], dtype=np.float32)
        self._window = RollingWindow(grid, "fusion")
        self._shape = self._window.shape
        self._log_odds = np.zeros(self._shape, dtype=np.float32)  # 0: nothing known
        self._votes = np.zeros(self._shape, dtype=np.float32)
        self._labels = np.full(self._shape, self._free, dtype=np.uint8)  # of the leading class
        self._stamp_ns, self._place = 0, np.zeros(3)

    def reset(self) -> None:
        """Forget everything."""
        self._log_odds.fill(0.0)
        self._votes.fill(0.0)
        self._window.reset()

    def add(
        self, prediction: OccupancyPrediction, T_fixed_ego: Float[np.ndarray, "4 4"], stamp_ns: int
    ) -> OccupancyPrediction:
        """What is known with this prediction, over the same grid around where the robot is now.

        T_fixed_ego: the robot's pose, m, at `stamp_ns`. Voxels that the prediction does not observe keep what earlier
        ones said, occluded ones what they found there; `observed` is true wherever that is still known. The rest is the
        newest prediction's. PredictionError where a confidence is not a number, a label no class, or the pose no place
        on Earth; nothing is added then.
        """
        if prediction.grid != self.grid:
            raise ValueError(f"prediction over {prediction.grid}, expected {self.grid}")
        check_finite("confidence", prediction.confidence)
        check_labels(prediction.labels, self._free + 1)
        place = checked_pose(T_fixed_ego)[:3, 3]
        if self._window.first is not None:
            if stamp_ns < self._stamp_ns or np.linalg.norm(place - self._place) > self._window.reach:
                self.reset()
                self.resets += 1
            else:
                self._fade((stamp_ns - self._stamp_ns) * 1e-9)
        T = self._window.follow(T_fixed_ego, (self._log_odds, self._votes))
        self._stamp_ns, self._place, size = stamp_ns, place, self.grid.voxel_size
        origin, shape = np.array(self.grid.origin), np.array(self.grid.shape)
        _integrate(
            self._log_odds,
            self._votes,
            self._labels,
            self._window.first,
            prediction.labels,
            prediction.confidence,
            np.linalg.inv(T),
            origin,
            shape,
            size,
            self._evidence,
            self._free,
        )
        # Where the map says nothing, what is seen now holds: evidence that cancels out, voxels above or below the map.
        labels, confidence = prediction.labels.copy(), prediction.confidence.astype(np.float32)
        _read(self._log_odds, self._labels, self._window.first, T, origin, size, self._free, labels, confidence)
        return replace(prediction, labels=labels, confidence=confidence, observed=labels != UNOBSERVED)

    def snapshot(self) -> FusedMap | None:
        """All that is known now, around the robot; None before anything was added."""
        first = self._window.first
        if first is None:
            return None
        order = np.ix_(*((first[axis] + np.arange(n)) % n for axis, n in enumerate(self._shape)))
        evidence = self._log_odds[order]
        labels = np.where(evidence > 0, self._labels[order], np.uint8(self._free))
        labels[np.abs(evidence) < _FORGOTTEN] = UNOBSERVED
        confidence = np.where(labels == UNOBSERVED, 0.0, 1.0 / (1.0 + np.exp(-np.abs(evidence))))
        size = self.grid.voxel_size
        x, y, z = (float(value) for value in self._window.origin)
        grid = VoxelGrid((x, y, z), size, (int(self._shape[0]), int(self._shape[1]), int(self._shape[2])))
        return FusedMap(labels, confidence.astype(np.float32), grid, self._stamp_ns)

    def _fade(self, seconds: float) -> None:
        if self.decay and seconds > 0:
            keep = np.float32(np.exp(-seconds / self.decay))
            self._log_odds *= keep
            self._votes *= keep


def _log_odds(probability: float) -> float:
    return float(np.log(probability / (1.0 - probability)))


@numba.njit(**JIT)
def _integrate(log_odds, votes, leading, first, labels, confidence, T_ego_fixed, origin, shape, size, evidence, free):
    """Every voxel of the map whose centre lies in the grid takes the prediction there: turned grids leave no holes."""
    nx, ny, nz = log_odds.shape
    hit, miss, doubt, low, high = evidence[0], evidence[1], evidence[2], evidence[3], evidence[4]
    R, t = T_ego_fixed[:3, :3] / 1.0, T_ego_fixed[:3, 3]
    up = R[2, 2] if abs(R[2, 2]) > 1e-3 else 1e-3
    wrap = first[2] - first[2] % nz
    for i in range(first[0], first[0] + nx):
        x, p = (i + 0.5) * size, i % nx
        for j in range(first[1], first[1] + ny):
            y, q = (j + 0.5) * size, j % ny
            # Along a column of the map the height in the ego frame is linear: only that part of it is visited.
            base = R[2, 0] * x + R[2, 1] * y + t[2]
            a = (origin[2] - base) / up / size - 0.5
            b = (origin[2] + shape[2] * size - base) / up / size - 0.5
            k_low = max(first[2], int(np.floor(min(a, b))))
            k_high = min(first[2] + nz, int(np.ceil(max(a, b))) + 1)
            for k in range(k_low, k_high):
                z = (k + 0.5) * size
                u = int(np.floor((R[0, 0] * x + R[0, 1] * y + R[0, 2] * z + t[0] - origin[0]) / size))
                v = int(np.floor((R[1, 0] * x + R[1, 1] * y + R[1, 2] * z + t[1] - origin[1]) / size))
                w = int(np.floor((base + R[2, 2] * z - origin[2]) / size))
                if u < 0 or v < 0 or w < 0 or u >= shape[0] or v >= shape[1] or w >= shape[2]:
                    continue
                label = labels[u, v, w]
                if label == UNOBSERVED:
                    continue
                sure = max(_LEAST_WEIGHT, confidence[u, v, w])
                r = k - wrap if k - wrap < nz else k - wrap - nz
                if label == OCCLUDED:
                    if log_odds[p, q, r] < 0:
                        log_odds[p, q, r] = min(np.float32(0), log_odds[p, q, r] + doubt)
                    continue
                if label == free:
                    log_odds[p, q, r] = max(low, log_odds[p, q, r] + sure * miss)
                    continue
                log_odds[p, q, r] = min(high, log_odds[p, q, r] + sure * hit)
                if leading[p, q, r] == label:
                    votes[p, q, r] = min(_MOST_VOTES, votes[p, q, r] + sure)
                else:
                    votes[p, q, r] -= sure
                    if votes[p, q, r] < 0:
                        leading[p, q, r] = label
                        votes[p, q, r] = -votes[p, q, r]


@numba.njit(**JIT)
def _read(log_odds, leading, first, T_fixed_ego, origin, size, free, labels, confidence):
    """Every voxel of the grid takes the voxel of the map that its centre lies in, if that knows something."""
    nx, ny, nz = log_odds.shape
    R, t = T_fixed_ego[:3, :3] / 1.0, T_fixed_ego[:3, 3]
    start_x, start_y, start_z = first[0] % nx, first[1] % ny, first[2] % nz
    for u in range(labels.shape[0]):
        x = origin[0] + (u + 0.5) * size
        for v in range(labels.shape[1]):
            y = origin[1] + (v + 0.5) * size
            for w in range(labels.shape[2]):
                z = origin[2] + (w + 0.5) * size
                i = int(np.floor((R[0, 0] * x + R[0, 1] * y + R[0, 2] * z + t[0]) / size))
                j = int(np.floor((R[1, 0] * x + R[1, 1] * y + R[1, 2] * z + t[1]) / size))
                k = int(np.floor((R[2, 0] * x + R[2, 1] * y + R[2, 2] * z + t[2]) / size))
                a, b, c = i - first[0], j - first[1], k - first[2]
                if a < 0 or b < 0 or c < 0 or a >= nx or b >= ny or c >= nz:
                    continue
                i, j, k = start_x + a, start_y + b, start_z + c
                i, j, k = i - nx * (i >= nx), j - ny * (j >= ny), k - nz * (k >= nz)
                known = log_odds[i, j, k]
                if abs(known) < _FORGOTTEN:
                    continue
                labels[u, v, w] = leading[i, j, k] if known > 0 else free
                confidence[u, v, w] = 1.0 / (1.0 + np.exp(-abs(known)))
