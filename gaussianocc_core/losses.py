# SPDX-License-Identifier: Apache-2.0
"""Losses as pure functions: unreduced maps; reduction and weights belong to the training step (docs/method.md#g).

The warp that the photometric error compares with is `geometry.warp`. Images are RGB 0-1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

_SSIM_C1, _SSIM_C2 = 0.01**2, 0.03**2  # for images of range 1
_INV_DEPTH_OFFSET = 1e-7
_LOG_OFFSET = 1e-8
IDENTITY_NOISE = 1e-5  # standard deviation that breaks ties in `least_error` (docs/method.md#g.1)


def structural_dissimilarity(a: Float[Tensor, "N C H W"], b: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
    """(1 - SSIM) / 2 clamped to 0-1, over 3x3 windows of the images reflected at their borders (docs/method.md#g.1)."""
    a, b = F.pad(a, (1, 1, 1, 1), mode="reflect"), F.pad(b, (1, 1, 1, 1), mode="reflect")
    mean_a, mean_b = _mean_3x3(a), _mean_3x3(b)
    variance_a = _mean_3x3(a * a) - mean_a * mean_a
    variance_b = _mean_3x3(b * b) - mean_b * mean_b
    covariance = _mean_3x3(a * b) - mean_a * mean_b
    above = (2 * mean_a * mean_b + _SSIM_C1) * (2 * covariance + _SSIM_C2)
    below = (mean_a * mean_a + mean_b * mean_b + _SSIM_C1) * (variance_a + variance_b + _SSIM_C2)
    return ((1 - above / below) / 2).clamp(0, 1)


def _mean_3x3(x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H-2 W-2"]:
    # Two one-dimensional sums: avg_pool2d takes three times as long on a CPU, and this is most of a loss's cost.
    rows = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) * (1.0 / 9.0)


def photometric_error(
    image: Float[Tensor, "N C H W"],
    target: Float[Tensor, "N C H W"],
    ssim_weight: float = 0.85,
    l1_weight: float = 0.15,
) -> Float[Tensor, "N H W"]:
    """Weighted SSIM term plus absolute difference, mean over colours; stage 1 weighs 1 and 0.15
    (docs/method.md#f.6)."""
    dissimilarity = structural_dissimilarity(image, target).mean(dim=1)
    return ssim_weight * dissimilarity + l1_weight * (image - target).abs().mean(dim=1)


def least_error(
    identity: Float[Tensor, "S N H W"],
    warped: Float[Tensor, "S N H W"],
    noise: Float[Tensor, "S N H W"] | None = None,
) -> tuple[Float[Tensor, "N H W"], Bool[Tensor, "N H W"]]:
    """Per-pixel least photometric error over S neighbour images, and where a warped one has it (auto-masking).

    Where the unwarped neighbour fits better, nothing moves relative to the camera and depth gets no gradient.
    `noise` is added to the identity errors: None draws N(0, 1) * IDENTITY_NOISE, as published; tests pass zeros.
    """
    if noise is None:
        noise = torch.randn_like(identity) * IDENTITY_NOISE
    errors, index = torch.cat([identity + noise, warped]).min(dim=0)
    return errors, index >= len(identity)


def smoothness(
    depth: Float[Tensor, "N H W"], images: Float[Tensor, "N C H W"]
) -> tuple[Float[Tensor, "N H W-1"], Float[Tensor, "N H-1 W"]]:
    """Differences along x and y of inverse depth over its image mean, less where the image changes
    (docs/method.md#g.2).

    The published scalar is the mean of the one plus the mean of the other: `sum_of_means`.
    """
    inv_depth = 1.0 / (depth + _INV_DEPTH_OFFSET)
    inv_depth = inv_depth / (inv_depth.mean(dim=(1, 2), keepdim=True) + _INV_DEPTH_OFFSET)
    edges_x = images.diff(dim=3).abs().mean(dim=1)
    edges_y = images.diff(dim=2).abs().mean(dim=1)
    return inv_depth.diff(dim=2).abs() * torch.exp(-edges_x), inv_depth.diff(dim=1).abs() * torch.exp(-edges_y)


def semantic_cross_entropy(
    logits: Float[Tensor, "B K *shape"], labels: Int64[Tensor, " B *shape"], class_weights: Float[Tensor, " K"]
) -> tuple[Float[Tensor, " B *shape"], Float[Tensor, " B *shape"]]:
    """Cross-entropy per element times its class weight, and that weight: reduce by `weighted_mean`
    (docs/method.md#g.3).

    The published weights are `data.labels.class_weights()`. Labels that are no class (-1, 255) weigh nothing.
    """
    labelled = (labels >= 0) & (labels < len(class_weights))
    labels = torch.where(labelled, labels, 0)
    weights = torch.where(labelled, class_weights[labels], 0.0)
    return F.cross_entropy(logits, labels, reduction="none") * weights, weights


def resize_labels(labels: Int[Tensor, "*batch H W"], height: int, width: int) -> Int[Tensor, "*batch height width"]:
    """Nearest label, source index floor(index * old / new) as published (docs/method.md#g.3)."""
    rows = torch.arange(height, device=labels.device) * labels.shape[-2] // height
    columns = torch.arange(width, device=labels.device) * labels.shape[-1] // width
    return labels[..., rows[:, None], columns]


def opacity_cross_entropy(
    free_logits: Float[Tensor, " P"], labels: Int64[Tensor, " P"], free: int
) -> Float[Tensor, " P"]:
    """Binary cross-entropy of the Gaussians' opacity 1 - sigmoid(free logit) (docs/method.md#e) against occupancy.

    The softmax alone fixes logits only up to a constant, so without this term the opacity would mean nothing.
    """
    return F.binary_cross_entropy_with_logits(free_logits, (labels == free).to(free_logits.dtype), reduction="none")


def opacity_entropy(opacities: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """-o ln(o + 1e-8): pushes every Gaussian towards 0 or 1 (docs/method.md#g.4)."""
    return -opacities * torch.log(opacities + _LOG_OFFSET)


def total_variation(
    volume: Float[Tensor, "*batch X Y Z"],
) -> tuple[Float[Tensor, "*batch X-1 Y Z"], Float[Tensor, "*batch X Y-1 Z"], Float[Tensor, "*batch X Y Z-1"]]:
    """Absolute differences of neighbours along x, y and z, in lattice steps (docs/method.md#g.5).

    The published scalar is a third of the sum of their means, over all logits: `sum_of_means(...) / 3`.
    """
    return volume.diff(dim=-3).abs(), volume.diff(dim=-2).abs(), volume.diff(dim=-1).abs()


def distortion(
    weights: Float[Tensor, "*rays S"], distances: Float[Tensor, "*rays S"], intervals: Float[Tensor, "*rays S"]
) -> Float[Tensor, "*rays"]:
    """How far a ray's weight is spread: sum d w^2 / 3 + 2 sum_(i>j) w_i w_j (z_i - z_j), in metres
    (docs/method.md#e.14).

    S samples in ascending `distances` z (m); `intervals` d (m) to the next sample. Sums over pairs in linear time.
    """
    before = weights.cumsum(dim=-1) - weights  # sum of w_j, j < i
    moment = (weights * distances).cumsum(dim=-1) - weights * distances  # sum of w_j z_j, j < i
    between = (weights * (distances * before - moment)).sum(dim=-1)
    return (intervals * weights**2).sum(dim=-1) / 3 + 2 * between


def weighted_mean(values: Float[Tensor, "*shape"], weights: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Sum of values that already carry their weights over the sum of the weights; 0 where nothing has weight."""
    total = weights.sum()
    return values.sum() / torch.where(total > 0, total, 1.0)


def sum_of_means(maps: tuple[Tensor, ...]) -> Float[Tensor, ""]:
    """How the published code reduces maps of unlike shapes."""
    return torch.stack([each.mean() for each in maps]).sum()
