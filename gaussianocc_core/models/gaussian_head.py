# SPDX-License-Identifier: Apache-2.0
"""Voxels to Gaussians: every lattice point becomes one Gaussian of fixed size (docs/method.md#e)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from gaussianocc_core.geometry import voxels
from gaussianocc_core.types import Gaussians, OccupancyField, VoxelGrid

# docs/method.md#e, as published; both the lattice and what may be known of it are coarse out there.
FAR_FACTOR = (4.0, 8.0)


class GaussianHead(nn.Module):
    """Means at the lattice points (ego frame, m), opacity 1 - sigmoid(free logit), features = all K logits.

    Points farther from the ego origin than `far_radius[i]` (m) get scales times `FAR_FACTOR[i]`: the contracted
    lattice is coarse there. Their order is the published flat one, x fastest: among Gaussians at equal depth the
    renderer draws the first one first, and cameras that look along an axis see whole layers at equal depth.
    """

    means: Tensor
    scales: Tensor
    quats: Tensor

    def __init__(
        self,
        points: Float[Tensor, "X Y Z 3"],
        scale: tuple[float, float, float],
        far_radius: tuple[float, float],
        learned: bool = False,
    ) -> None:
        """learned: one factor on all scales is a weight; it starts at 1 and stays below 2."""
        super().__init__()
        self.scale_factor = nn.Parameter(torch.zeros(())) if learned else None
        means = points.transpose(0, 2).reshape(-1, 3)
        factor = torch.ones(len(means), 1)
        distance = means.norm(dim=-1, keepdim=True)
        for radius, value in zip(far_radius, FAR_FACTOR, strict=True):
            factor = torch.where(distance > radius, value, factor)
        self.register_buffer("means", means, persistent=False)
        self.register_buffer("scales", factor * torch.tensor(scale), persistent=False)
        self.register_buffer("quats", torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(len(means), 1), persistent=False)

    def forward(self, field: OccupancyField) -> list[Gaussians]:
        """One set of M = X*Y*Z Gaussians per batch element."""
        scales = self.scales if self.scale_factor is None else self.scales * 2.0 * torch.sigmoid(self.scale_factor)
        logits = field.logits.permute(0, 4, 3, 2, 1).flatten(1, 3)  # (B, M, K)
        return [
            Gaussians(self.means, self.quats, scales, 1.0 - torch.sigmoid(sample[:, -1]), sample) for sample in logits
        ]


def label_gaussians(labels: UInt8[np.ndarray, "X Y Z"], grid: VoxelGrid, classes: int) -> Gaussians:
    """One opaque Gaussian per occupied voxel of a published grid (ego frame, m), features one-hot over the classes.

    The last class is free; values beyond the classes (occluded, unobserved) are left out. The standard deviation is
    half a voxel, as for the published lattice (docs/method.md#e: 0.2 m at 0.4 m).
    """
    index = np.argwhere(labels < classes - 1)
    means = torch.from_numpy(voxels.index_centers(grid, index)).float()
    count = len(index)
    return Gaussians(
        means,
        torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(count, 4),
        torch.full((count, 3), 0.5 * grid.voxel_size),
        torch.full((count,), 0.95),
        torch.nn.functional.one_hot(torch.from_numpy(labels[tuple(index.T)]).long(), classes).float(),
    )
