# SPDX-License-Identifier: Apache-2.0
"""Plane sweep: how well the features of other views fit each pixel at each of a set of depths.

A view is an image of any camera at any moment whose place relative to the reference camera is known: the same camera a
moment earlier, or a camera that overlaps with it, now or earlier. A reference pixel at an inverse depth lands somewhere
in the view; the product of both feature vectors there says how alike they look. Feature vectors have unit length, so
a product is a cosine: 1 where both are alike, 0 where no view looks.

Views of the same moment and earlier ones are kept apart (two groups of planes): what moves agrees in the first only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from gaussianocc_core.models.depth_refinement import FarViews

SAME_MOMENT, EARLIER = 0, 1  # groups of planes
GROUPS = 2
_NEAREST_RATIO = 1e-3


@dataclass(frozen=True)
class MatchingConfig:
    """Matching in a network. Without it (published) depth is what one image looks like."""

    enabled: bool = False  # so that model files from before there was matching are read as they were written
    depths: int = 48  # planes, from `DepthConfig.far` to `nearest`
    nearest: float = 0.5  # m
    spacing: float = 2.0  # power: far away, where a plane's step is a large share of the depth, they lie closer
    channels: int = 16  # of the matching features
    hidden: int = 48  # of the volume when it joins the image's features

    def __post_init__(self) -> None:
        if self.depths < 4 or not self.nearest > 0 or not self.spacing > 0 or self.channels < 1 or self.hidden < 1:
            raise ValueError(
                "matching: expected depths of at least 4, nearest and spacing above 0, channels and hidden of at least "
                f"1, got {self}"
            )


@dataclass(frozen=True)
class Pairs:
    """Which feature map is swept over which, P of them; all tensors on the device of the maps."""

    reference: Int[Tensor, " P"]  # index of the reference map
    source: Int[Tensor, " P"]  # index of the view's map
    group: Int[Tensor, " P"]  # SAME_MOMENT or EARLIER
    # In pixels of the images, centres at +0.5: the reference's, homogeneous, and its inverse depth (1/m) -> the
    # source's, homogeneous.
    matrix: Float[Tensor, "P 3 4"]

    def __len__(self) -> int:
        return len(self.reference)

    def to(self, device: torch.device | str) -> Pairs:
        return Pairs(*(each.to(device) for each in (self.reference, self.source, self.group, self.matrix)))


NO_PAIRS = Pairs(
    torch.zeros(0, dtype=torch.long),
    torch.zeros(0, dtype=torch.long),
    torch.zeros(0, dtype=torch.long),
    torch.zeros(0, 3, 4),
)


@dataclass(frozen=True)
class Sources:
    """What N present images are matched with: themselves and earlier maps."""

    earlier: Float[Tensor, "E C h w"]  # matching features of earlier images
    pairs: Pairs  # source n < N is the present map n, N + e is earlier[e]
    far: FarViews | None = None  # views from farther away, by which depth is made finer


def join_pairs(parts: Sequence[Pairs]) -> Pairs:
    """All pairs of several; their indices must count the same maps."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return NO_PAIRS
    return Pairs(
        torch.cat([part.reference for part in parts]),
        torch.cat([part.source for part in parts]),
        torch.cat([part.group for part in parts]),
        torch.cat([part.matrix for part in parts]),
    )


def plane_inv_depths(config: MatchingConfig, far: float) -> Float[Tensor, " D"]:
    """Inverse depths of the planes (1/m), ascending from 1 / far."""
    share = torch.linspace(0, 1, config.depths, dtype=torch.float64) ** config.spacing
    return (1.0 / far + (1.0 / config.nearest - 1.0 / far) * share).float()


def plane_coordinate(inv_depth: Float[Tensor, "*shape"], config: MatchingConfig, far: float) -> Float[Tensor, "*shape"]:
    """Where among the planes an inverse depth lies: 0 at the first, depths - 1 at the last."""
    low, high = 1.0 / far, 1.0 / config.nearest
    share = ((inv_depth - low) / (high - low)).clamp(0.0, 1.0)
    return (config.depths - 1) * share ** (1.0 / config.spacing)


def coordinate_inv_depth(
    coordinate: Float[Tensor, "*shape"], config: MatchingConfig, far: float
) -> Float[Tensor, "*shape"]:
    """The inverse of `plane_coordinate`, 1/m."""
    low, high = 1.0 / far, 1.0 / config.nearest
    return low + (high - low) * (coordinate / (config.depths - 1)).clamp(min=1e-4) ** config.spacing


def sweep_planes(
    references: Float[Tensor, "R C h w"],
    sources: Float[Tensor, "S C H W"],
    pairs: Pairs,
    inv_depths: Float[Tensor, " D"],
    strides: tuple[float, float],
    backend: str = "auto",
) -> tuple[Float[Tensor, "R GD h w"], Float[Tensor, "R G h w"]]:
    """Mean product of a reference's features with those of the views that see the point, by group and plane; zero where
    none does. And by group how many views see a pixel, averaged over the planes.

    strides: image pixels per cell of the reference and of the source maps. Differentiable in both maps.
    backend: "auto": the kernel for tensors on the CPU, torch elsewhere; "cpu", "torch".
    """
    count, channels, height, width = references.shape
    if sources.shape[1] != channels:
        raise ValueError(f"sources: expected {channels} channels as the references have, got {sources.shape[1]}")
    depths = len(inv_depths)
    if not len(pairs):
        volume = references.new_zeros(count, GROUPS * depths, height, width)
        return volume, volume[:, :GROUPS]
    scale_in = torch.tensor([strides[0], strides[0], 1.0, 1.0], device=pairs.matrix.device)
    scale_out = torch.tensor([[1.0 / strides[1]], [1.0 / strides[1]], [1.0]], device=pairs.matrix.device)
    matrices = scale_out * pairs.matrix.float() * scale_in
    if backend == "cpu" or (backend == "auto" and references.device.type == "cpu"):
        from gaussianocc_core.models import matching_cpu  # here: it imports numba, which nothing else needs

        short = -channels % matching_cpu.LANES
        left, right = (
            F.pad(each.float(), (0, 0, 0, 0, 0, short)) if short else each.float() for each in (references, sources)
        )
        summed, seen = matching_cpu.sweep(
            left, right, (pairs.reference, pairs.source, pairs.group), matrices, inv_depths, GROUPS
        )
    else:
        summed, seen = _sweep_torch(references, sources, pairs, matrices, inv_depths)
    volume = summed / seen.clamp(min=1.0)
    return volume, seen.unflatten(1, (GROUPS, depths)).mean(dim=2)


def _sweep_torch(
    references: Float[Tensor, "R C h w"],
    sources: Float[Tensor, "S C H W"],
    pairs: Pairs,
    matrices: Float[Tensor, "P 3 4"],
    inv_depths: Float[Tensor, " D"],
) -> tuple[Float[Tensor, "R GD h w"], Float[Tensor, "R GD h w"]]:
    """The kernel's work by grid_sample, for other devices and for gradcheck."""
    count, _, height, width = references.shape
    source_height, source_width = sources.shape[2:]
    depths, dtype = len(inv_depths), references.dtype
    rows = torch.arange(height, device=references.device, dtype=dtype) + 0.5
    columns = torch.arange(width, device=references.device, dtype=dtype) + 0.5
    v, u = torch.meshgrid(rows, columns, indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)])  # (3, h, w)
    matrices = matrices.to(dtype)
    start = torch.einsum("pij,jhw->pihw", matrices[:, :, :3], pixels)
    step = matrices[:, :, 3, None] * inv_depths.to(dtype)  # (P, 3, D)
    x, y, z = (start[:, :, None] + step[..., None, None]).unbind(1)  # (P, D, h, w)
    behind = ~(z > _NEAREST_RATIO)
    scale = 1.0 / z.masked_fill(behind, 1.0)
    x, y = x * scale, y * scale
    sees = ~behind & (x >= 0) & (x < source_width) & (y >= 0) & (y < source_height)
    grid = torch.stack([2.0 * x / source_width - 1.0, 2.0 * y / source_height - 1.0], dim=-1).flatten(1, 2)
    sampled = F.grid_sample(
        sources[pairs.source], grid.clamp(-2, 2), mode="bilinear", padding_mode="border", align_corners=False
    ).unflatten(2, (depths, height))  # (P, C, D, h, w)
    product = torch.einsum("pchw,pcdhw->pdhw", references[pairs.reference], sampled) * sees
    place = pairs.reference * GROUPS + pairs.group
    shape = (count * GROUPS, depths, height, width)
    summed = product.new_zeros(shape).index_add(0, place, product)
    seen = product.new_zeros(shape).index_add(0, place, sees.to(dtype))
    return summed.view(count, -1, height, width), seen.view(count, -1, height, width)
