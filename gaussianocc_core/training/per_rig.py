# SPDX-License-Identifier: Apache-2.0
"""What follows from a calibration alone is made once: overlap masks, plans of lifting and splatting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

from gaussianocc_core.types import Cameras

_KEPT = 8  # one rig, and its mirror image, in a few data sets; the oldest goes first

T = TypeVar("T")


class PerRig(Generic[T]):
    """Values by calibration. A mirrored rig is another."""

    def __init__(self) -> None:
        self._made: dict[bytes, T] = {}

    def get(self, cameras: Cameras, make: Callable[[], T]) -> T:
        """The value of these cameras; `make` is called where there is none yet."""
        key = calibration_key(cameras)
        if key not in self._made:
            if len(self._made) >= _KEPT:
                self._made.pop(next(iter(self._made)))
            self._made[key] = make()
        return self._made[key]


def calibration_key(cameras: Cameras) -> bytes:
    """Equal for equal intrinsics and extrinsics."""
    return torch.cat([cameras.intrinsics.flatten(), cameras.T_ego_cam.flatten()]).cpu().numpy().tobytes()
