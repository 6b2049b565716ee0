# SPDX-License-Identifier: Apache-2.0
"""Whether a voxel is occupied (docs/method.md#o.11): the coarser lattice, and where each camera sees a surface.

The lattice of a small model has points twice as far apart as the published voxels, which is wider than a wall or a
pole. What the cameras measure is finer: at each voxel's own centre this head reads again how far away the surface is,
and corrects what the lattice says between its points.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gaussianocc_core.models.lifting import MEASURED_CHANNELS, LiftPlan, surface_features

DETAIL_CHANNELS = 6  # that the decoder says beside its logits, for this head
_WIDTH = 12
SHARPEST = 0.1  # m, of `surface_features` at the centres of voxels
NEAR = 0.01  # of "at": what is farther from every surface stays as the lattice has it, and costs nothing


class DetailHead(nn.Module):
    """Per voxel: free logit, DETAIL_CHANNELS and surface features at its centre -> what to add to the free logit."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(1 + DETAIL_CHANNELS + MEASURED_CHANNELS, _WIDTH)
        self.last = nn.Linear(_WIDTH, 1)
        nn.init.zeros_(self.last.weight)  # a lattice without details speaks as it did
        nn.init.zeros_(self.last.bias)

    def forward(
        self, free: Float[Tensor, " P"], details: Float[Tensor, "F P"], measured: Float[Tensor, "C P"]
    ) -> Float[Tensor, " P"]:
        said = self.last(F.relu(self.first(torch.cat([free[None], details, measured]).T)))[:, 0]
        return torch.where(measured[0] > NEAR, said, 0.0)


def measured_at_voxels(
    inv_depth: Float[Tensor, "N h w"], log_error: Float[Tensor, "N h w"], plan: LiftPlan
) -> Float[Tensor, "C X Y Z"]:
    """`surface_features` at the centres of a grid's voxels; plan: of those centres."""
    return surface_features(inv_depth, plan, log_error, SHARPEST, nearest=True)
