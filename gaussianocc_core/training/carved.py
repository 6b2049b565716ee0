# SPDX-License-Identifier: Apache-2.0
"""How far occupancy is from labels in 3D (docs/method.md#o.12), which `mapping` carves from the rig's own depth.

Rendering says only in the mean along a ray what stands where; labels say it of each voxel that they know.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gaussianocc_core import losses
from gaussianocc_core.errors import ConfigError
from gaussianocc_core.geometry import lattice as lattice_geometry
from gaussianocc_core.geometry import voxels
from gaussianocc_core.labels import IGNORE
from gaussianocc_core.models.gaussianocc import GaussianOcc
from gaussianocc_core.models.lifting import LiftPlan
from gaussianocc_core.types import OccupancyField, VoxelGrid


def opacity_error(
    model: GaussianOcc,
    field: OccupancyField,
    grid: VoxelGrid,
    plans: list[LiftPlan],
    labels: UInt8[Tensor, "B X Y Z"],
) -> Float[Tensor, ""]:
    """Mean cross-entropy of opacity at the known voxels. Each counts the same, so that opacity is a probability.

    labels: the model's class ids, the last of them free, 255 unknown; plans: `plan_voxels` of each element, of a model
    with a detail head.
    """
    if labels.shape[1:] != grid.shape:
        raise ConfigError(
            f"data.occupancy: labels of {tuple(labels.shape[1:])} voxels, the model's grid has {grid.shape}; carve "
            "them with this model's grid"
        )
    known, free = labels != IGNORE, field.logits.shape[1] - 1
    error = losses.opacity_cross_entropy(model.free_logits(field, grid, plans, known), labels[known].long(), free=free)
    return losses.weighted_mean(error, torch.ones_like(error))


def class_error(
    model: GaussianOcc,
    field: OccupancyField,
    grid: VoxelGrid,
    labels: UInt8[Tensor, "B X Y Z"],
    class_weights: Float[Tensor, " K"],
) -> Float[Tensor, ""]:
    """Weighted mean cross-entropy of the classes but free, at the voxels that are occupied; labels as above."""
    errors, weights = [], []
    free = field.logits.shape[1] - 1
    for logits, of_one in zip(field.logits[:, None, :-1], labels, strict=True):
        occupied = of_one < free
        places = voxels.index_centers(grid, occupied.nonzero().cpu().numpy())
        said = lattice_geometry.sample(logits, model.lattice, torch.from_numpy(places).to(logits.device))  # (1, K-1, P)
        error, weight = losses.semantic_cross_entropy(said, of_one[occupied].long()[None], class_weights[:-1])
        errors.append(error[0])
        weights.append(weight[0])
    return losses.weighted_mean(torch.cat(errors), torch.cat(weights))
