# SPDX-License-Identifier: Apache-2.0
"""One sample of a batch as the losses want it: made once, passed down."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from gaussianocc_core.models.depth_net import DepthHead
from gaussianocc_core.models.matching_net import MatchingHead
from gaussianocc_core.training.ground import Ground, ground_of
from gaussianocc_core.training.loader import Batch
from gaussianocc_core.types import Cameras


@dataclass(frozen=True)
class View:
    """What N cameras saw at the current moment and at the neighbouring ones, all at network size."""

    cameras: Cameras  # static calibration, without a leading dimension
    colors: Float[Tensor, "T N 3 H W"]  # RGB 0-1 as recorded: now, then the neighbours of `OFFSETS`
    valid: Bool[Tensor, "N H W"]  # true where a pixel has a source and does not show the robot itself
    ground: Ground | None  # None: depth does not start from it, or nobody asks
    semantics: UInt8[Tensor, "N H W"] | None  # Occ3D ids, 17 is sky, 255 no label
    lags: Float[Tensor, " N"] | None  # as in `Batch`

    @property
    def now(self) -> Float[Tensor, "N 3 H W"]:
        """The images that depth and occupancy are of."""
        return self.colors[0]

    @property
    def around(self) -> Float[Tensor, "S N 3 H W"]:
        """The images that they must explain."""
        return self.colors[1:]

    def select(self, indices: list[int]) -> View:
        """Of some of the cameras, in this order."""
        return replace(
            self,
            cameras=self.cameras.select(tuple(self.cameras.names[n] for n in indices)),
            colors=self.colors[:, indices],
            valid=self.valid[indices],
            ground=None if self.ground is None else self.ground.select(indices),
            semantics=None if self.semantics is None else self.semantics[indices],
            lags=None if self.lags is None else self.lags[indices],
        )


def batch_element(cameras: Cameras, index: int) -> Cameras:
    """The cameras of one sample, without the leading dimension."""
    return replace(cameras, intrinsics=cameras.intrinsics[index], T_ego_cam=cameras.T_ego_cam[index])


def views_of(batch: Batch, head: DepthHead | MatchingHead | None) -> list[View]:
    """One View per sample; head: whose ground it is, or None where the ground plays no part."""
    colors, views = batch.colors(), []
    for b in range(len(batch)):
        cameras = batch_element(batch.cameras, b)
        views.append(
            View(
                cameras,
                colors[b],
                batch.valid[b],
                ground_of(head, cameras),
                None if batch.semantics is None else batch.semantics[b],
                None if batch.lags is None else batch.lags[b],
            )
        )
    return views
