# SPDX-License-Identifier: Apache-2.0
"""What the training loop asks of a stage. `Gsp` and `Gsv` are the two there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.models.depth_net import DepthNet
from gaussianocc_core.models.gaussianocc import GaussianOcc
from gaussianocc_core.models.pose_net import PoseNet
from gaussianocc_core.training.judging import Seen, Values
from gaussianocc_core.training.loader import Batch
from gaussianocc_core.training.odometry import Shifted
from gaussianocc_core.training.watch import Watch
from gaussianocc_core.types import VoxelGrid


@dataclass(frozen=True)
class Networks:
    """What a stage leaves in its model file, and the configuration that goes with it."""

    config: ModelConfig
    model: GaussianOcc | None = None
    pose_net: PoseNet | None = None
    depth_net: DepthNet | None = None


@dataclass(frozen=True)
class Look:
    """What the networks see in the first sample of a batch."""

    depth: Float[Tensor, "N H W"]  # m, 0: nothing there
    classes: Int[Tensor, "N H W"] | None  # Occ3D ids; None: the stage has none
    occupancy: UInt8[np.ndarray, "X Y Z"] | None = None  # Occ3D ids on `grid`
    grid: VoxelGrid | None = None


class Stage(nn.Module, ABC):
    """A module that turns batches into named losses. The loop, the optimiser and the model file know no more of it.

    A base class and no Protocol: a stage is an nn.Module too, which a Protocol cannot say.
    """

    reports: tuple[str, ...]  # all names that `forward` may return
    note: str  # one line for the model card
    precision: str = "fp32"  # of the networks; geometry and losses are always fp32

    @abstractmethod
    def forward(self, batch: Batch, progress: float = 0.5) -> dict[str, Tensor]:
        """Named losses; `total` is what is minimised. progress: share of the run that is done, 0-1."""

    def begin(self, batches: Sequence[Batch], shifted: Callable[[], Sequence[Shifted]] = tuple) -> list[str]:
        """Called once, before a run that starts anew, with a few samples from all over it; lines for the log.

        shifted: gives those where late poses would show.
        """
        return []

    def judge(self, samples: Sequence[Seen]) -> Values:
        """Measures that need no truth, by what they are called in the log, of each sample that training leaves out."""
        return {}

    def widen_errors(self, factor: float) -> bool:
        """Makes the errors that its depth is expected to have so much larger; whether it expects any."""
        return False

    def before_step(self, batches: Sequence[Batch], step: int, steps: int, all_reduce: Callable[[Tensor], None]) -> str:
        """Called before each step with its batches; what it returns, if anything, is a line for the log.

        all_reduce: sums a tensor over all processes, in place.
        """
        return ""

    def watch(self, steps: int) -> Watch | None:
        """What looks whether a run of so many steps collapses; None: nothing does."""
        return None

    @abstractmethod
    def image_modules(self) -> list[nn.Module]:
        """What sees images and learns with a rate of its own."""

    def scale_parameters(self) -> list[nn.Parameter]:
        """A learnt scale: it learns faster and does not decay."""
        return []

    @abstractmethod
    def look(self, batch: Batch) -> Look:
        """For the pictures of a run."""

    @abstractmethod
    def networks(self, config: ModelConfig) -> Networks:
        """For the model file; config: of the run. The stage itself stays as it is, to the last bit."""


def mean_losses(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Of the losses of each sample; what a sample lacks counts as 0."""
    named: dict[str, Tensor] = {}
    for parts in samples:
        for name, value in parts.items():
            named[name] = named.get(name, 0.0) + value / len(samples)
    return named


def total_loss(named: dict[str, Tensor], terms: Sequence[str]) -> Float[Tensor, ""]:
    """Sum of those of the terms that there are."""
    return torch.stack([named[name] for name in terms if name in named]).sum()
