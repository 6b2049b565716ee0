# SPDX-License-Identifier: Apache-2.0
"""Losses as pure functions: unreduced maps; reduction and weights belong to the training step."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


def semantic_cross_entropy(
    logits: Float[Tensor, "P K"], labels: Int64[Tensor, " P"], class_weights: Float[Tensor, " K"]
) -> tuple[Float[Tensor, " P"], Float[Tensor, " P"]]:
    """Cross-entropy per element times its class weight, and that weight: reduce by sum / sum (spec section g.3)."""
    return F.cross_entropy(logits, labels, weight=class_weights, reduction="none"), class_weights[labels]


def opacity_cross_entropy(
    free_logits: Float[Tensor, " P"], labels: Int64[Tensor, " P"], free: int
) -> Float[Tensor, " P"]:
    """Binary cross-entropy of the Gaussians' opacity 1 - sigmoid(free logit) (spec section e) against occupancy.

    The softmax alone fixes logits only up to a constant, so without this term the opacity would mean nothing.
    """
    return F.binary_cross_entropy_with_logits(free_logits, (labels == free).to(free_logits.dtype), reduction="none")
