# SPDX-License-Identifier: Apache-2.0
"""What both volume renderers share: where a ray is sampled and what a sample weighs (`volume`, `volume_cpu`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gaussianocc_core.types import Lattice

LAST_GAP = 1e4  # m that the last sample of a ray stands for (docs/method.md#e.14)
LEAST_TRANSMITTANCE = 1e-5  # floor of 1 - alpha in `density`


@dataclass(frozen=True)
class MarchSettings:
    """Where rays are sampled and what a sample weighs (docs/method.md#e.9, #e.11).

    "prob": a sample weighs 1 - sigmoid(free logit), and the weights of a ray stop adding up at 1.
    "density": alpha = 1 - exp(-relu(last channel) x distance to the next sample), composited front to back.
    """

    kind: str = "prob"
    step: float = 0.5  # sets the number of samples: half the distance between them inside the region, in voxels
    near: float = 0.1  # added to the z of every sample, m
    least_move: float = 0.4  # a sample that moved less than this, in 2 / voxels of each axis, is dropped
    feature_stride: int = 1  # consecutive samples that share one reading of the features; published ratio 0.25: 4
    opaque_end: bool = False  # "prob": a dropped last sample weighs 1, so that every ray ends at a wall
    dropped_feature: float = 0.0  # what a dropped sample reads in every feature, at stride 1 only
    samples: int | None = None  # a ray; None: from `step`
    far: float | None = None  # z of the last sample, m; uniform lattices only; None: the diagonal of the region

    def __post_init__(self) -> None:
        if self.kind not in ("prob", "density"):
            raise ValueError(f"kind: expected 'prob' or 'density', got {self.kind!r}")
        if self.feature_stride < 1 or (self.samples is not None and self.samples < 2):
            raise ValueError(
                f"feature_stride, samples: expected at least 1 and 2, got {self.feature_stride} and {self.samples}"
            )


DEFAULT_MARCH = MarchSettings()
PUBLISHED_PROB = MarchSettings(opaque_end=True, dropped_feature=1.0)
PUBLISHED_DENSITY = MarchSettings(kind="density", dropped_feature=1.0)


def sample_depths(lattice: Lattice, settings: MarchSettings = DEFAULT_MARCH) -> Float[Tensor, " S"]:
    """z of the samples of every ray before `near` and jitter are added, metres, ascending from 0.

    Contracted lattices: equal steps of the contraction of a region of +- the diagonal, far out towards infinity.
    """
    extent = torch.tensor(lattice.high, dtype=torch.float64) - torch.tensor(lattice.low, dtype=torch.float64)
    diagonal = float(extent.norm())
    share = lattice.contraction or 1.0
    count = lattice.shape[0] * lattice.shape[1] * lattice.shape[2]
    voxel = (float(extent.prod()) / int(count * share**3)) ** (1 / 3)
    samples = settings.samples or int(diagonal / 2 / settings.step / voxel / share)
    if lattice.contraction is None:
        return torch.linspace(0.0, diagonal if settings.far is None else settings.far, samples)
    if settings.far is not None:
        raise ValueError("far: a contracted lattice sets how far rays reach; give it for uniform lattices only")
    t = share / (1 - share)
    q = torch.linspace(0.0, 1 - 0.5 / lattice.shape[0], samples) * (t + 1)
    return torch.where(q <= t, q / t, (t - 1 + 1 / (t + 1 - q)) / t) * diagonal


def draw_jitter(
    lattice: Lattice,
    shape: tuple[int, int, int],
    settings: MarchSettings = DEFAULT_MARCH,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "N H W"]:
    """One offset a ray for training, uniform within +- 0.1 x step x voxel (metres); shape is (N, H, W)."""
    extent = torch.tensor(lattice.high, dtype=torch.float64) - torch.tensor(lattice.low, dtype=torch.float64)
    count = lattice.shape[0] * lattice.shape[1] * lattice.shape[2]
    voxel = (float(extent.prod()) / int(count * (lattice.contraction or 1.0) ** 3)) ** (1 / 3)
    return (2 * torch.rand(shape, generator=generator) - 1) * (0.1 * settings.step * voxel)
