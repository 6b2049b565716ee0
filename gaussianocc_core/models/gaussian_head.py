# SPDX-License-Identifier: Apache-2.0
"""Voxels to Gaussians: every lattice point becomes one Gaussian of fixed size (spec section e)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gaussianocc_core.types import Gaussians, OccupancyField


class GaussianHead(nn.Module):
    """Means at the lattice points (ego frame, m), opacity 1 - sigmoid(free logit), features = all K logits.

    Points farther from the ego origin than `far_radius[i]` (m) get scales times `far_factor[i]`: the contracted
    lattice is coarse there.
    """

    means: Tensor
    scales: Tensor
    quats: Tensor

    def __init__(
        self,
        points: Float[Tensor, "X Y Z 3"],
        scale: tuple[float, float, float],
        far_radius: tuple[float, float],
        far_factor: tuple[float, float],
    ) -> None:
        super().__init__()
        means = points.reshape(-1, 3)
        factor = torch.ones(len(means), 1)
        distance = means.norm(dim=-1, keepdim=True)
        for radius, value in zip(far_radius, far_factor, strict=True):
            factor = torch.where(distance > radius, value, factor)
        self.register_buffer("means", means, persistent=False)
        self.register_buffer("scales", factor * torch.tensor(scale), persistent=False)
        self.register_buffer("quats", torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(len(means), 4), persistent=False)

    def forward(self, field: OccupancyField) -> list[Gaussians]:
        """One set of M = X*Y*Z Gaussians per batch element, in the flat order of the lattice (z fastest)."""
        logits = field.logits.flatten(2).transpose(1, 2)  # (B, M, K)
        return [
            Gaussians(self.means, self.quats, self.scales, 1.0 - torch.sigmoid(sample[:, -1]), sample)
            for sample in logits
        ]
