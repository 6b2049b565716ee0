# SPDX-License-Identifier: Apache-2.0
"""Depth and its confidence from what matching says and what the image looks like.

Three parts: features for matching, from the first layers of the image encoder; the volume's way into the encoder; and
the head that turns the encoder's maps into a distribution over the planes of the sweep.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gaussianocc_core.models.matching import (
    GROUPS,
    NO_PAIRS,
    MatchingConfig,
    Sources,
    coordinate_inv_depth,
    plane_coordinate,
    plane_inv_depths,
    sweep_planes,
)

VIEW_STRIDES = (4.0, 2.0)  # image pixels per cell of the maps that are swept: of the reference, of the views
LENS_CHANNELS = 4
WITHIN = 1.25  # factor: confidence is the probability that depth is right to within it
_FINE = 16  # channels of the head at stride 2
_FRESH_GROUND = 5.0
_FRESH_EVIDENCE = 6.0  # of a product of features of unit length
_LEAST_SHARE = 1e-6
_LEAST_ERROR, _MOST_ERROR = 0.01, 3.0  # of log depth


class MatchingFeatures(nn.Module):
    """First maps of the image encoder, at stride 2 and 4 -> unit vectors at stride 2 (N, C, H/2, W/2)."""

    def __init__(self, base: int, channels: int) -> None:
        super().__init__()
        self.fine = nn.Conv2d(base, channels, 1, bias=False)
        self.coarse = nn.Conv2d(base, channels, 1)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        # About zero and of one size: what all pixels have in common tells none of them apart.
        self.norm = nn.BatchNorm2d(channels, affine=False)

    def forward(
        self, stride2: Float[Tensor, "N C H2 W2"], stride4: Float[Tensor, "N C H4 W4"]
    ) -> Float[Tensor, "N C2 H2 W2"]:
        x = self.fine(stride2) + F.interpolate(
            self.coarse(stride4), scale_factor=2.0, mode="bilinear", align_corners=False
        )
        x = F.relu(x)
        x = x + F.relu(self.mix(x))
        # Channels innermost, as the sweep reads them.
        return F.normalize(self.norm(self.last(x)), dim=1).contiguous(memory_format=torch.channels_last)


def reference_features(features: Float[Tensor, "N C H2 W2"]) -> Float[Tensor, "N C H4 W4"]:
    """Of the cells at stride 4 that are swept, from those at stride 2: the bilinear sample at their centres."""
    return F.avg_pool2d(features, 2)


def sweep_features(
    features: Float[Tensor, "N C H2 W2"], sources: Sources | None, config: MatchingConfig, far: float
) -> tuple[Float[Tensor, "N GD H4 W4"], Float[Tensor, "N G H4 W4"]]:
    """`sweep_planes` of present images over themselves and earlier ones; without sources all is zero."""
    inv_depths = plane_inv_depths(config, far).to(features.device)
    maps = features if sources is None or not len(sources.earlier) else torch.cat([features, sources.earlier])
    pairs = NO_PAIRS if sources is None else sources.pairs
    return sweep_planes(reference_features(features), maps, pairs, inv_depths, VIEW_STRIDES)


class VolumeFusion(nn.Module):
    """The volume's way to the image's features at stride 4: a shortened volume, and both together."""

    def __init__(self, config: MatchingConfig, image_channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(GROUPS * (config.depths + 1), config.hidden, 1)
        self.join = nn.Conv2d(config.hidden + image_channels, config.hidden, 3, padding=1)
        self.add = nn.Conv2d(config.hidden, image_channels, 1)
        nn.init.zeros_(self.add.weight)  # an encoder that never saw a volume starts as it was
        assert self.add.bias is not None
        nn.init.zeros_(self.add.bias)

    def forward(
        self, volume: Float[Tensor, "N GD h w"], seen: Float[Tensor, "N G h w"], maps: Float[Tensor, "N C h w"]
    ) -> tuple[Float[Tensor, "N K h w"], Float[Tensor, "N C h w"]]:
        """The joint maps, and the image's maps that know of the volume."""
        short = F.relu(self.squeeze(torch.cat([volume, seen], dim=1)))
        joint = F.relu(self.join(torch.cat([short, maps], dim=1)))
        return joint, F.relu(maps + self.add(joint))


@dataclass(frozen=True)
class HeadOutput:
    """At stride 2, all images in one dimension."""

    inv_depth: Float[Tensor, "N h2 w2"]  # 1/m
    log_error: Float[Tensor, "N h2 w2"]  # log of the expected absolute error of log depth
    scale: Float[Tensor, "N h2 w2"]  # standard deviation of the pixel's isotropic Gaussian, m
    log_planes: Float[Tensor, "N D h w"]  # log probabilities of the planes at stride 4


class MatchingHead(nn.Module):
    """Stride-4 maps and volume -> `HeadOutput`.

    Of each cell a share lies on the plane of the ground, or at `first_depth` above it, and the rest is distributed over
    the planes of the sweep. Fresh weights say nearly all ground. The expected plane is then refined at stride 2.
    """

    def __init__(
        self,
        channels: int,
        config: MatchingConfig,
        depth_range: tuple[float, float],
        first_depth: float,
        max_scale: float,
        ground: float = 1.0,
        metric_ground: bool = True,
    ) -> None:
        """As `DepthHead`; depth_range: m, nearest and farthest."""
        super().__init__()
        near, far = depth_range
        if not 0 < near < first_depth < far:
            raise ValueError(
                f"depth_range, first_depth: expected 0 < near < first < far in metres, got {depth_range}, {first_depth}"
            )
        self.config, self.far = config, far
        self.limits = (1.0 / far, 1.0 / near)
        self.first_inv_depth = 1.0 / first_depth
        self.max_scale, self.ground, self.metric_ground = max_scale, ground, metric_ground
        width = 64
        self.first = nn.Conv2d(channels + config.hidden + LENS_CHANNELS + 1, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.planes = nn.Conv2d(width, config.depths, 1)
        self.evidence = nn.Conv2d(GROUPS * (config.depths + 1), config.depths, 1, bias=False)
        self.spread = nn.Conv2d(width + 2, 4 * _FINE, 1)
        self.guided = nn.Conv2d(_FINE + config.channels, _FINE + 8, 3, padding=1)
        self.fine = nn.Conv2d(_FINE + 8, 3, 3, padding=1)
        self.grounded = nn.Conv2d(width, 1, 1)  # logit of the share on the ground
        nn.init.normal_(self.planes.weight, std=1e-3)
        nn.init.normal_(self.fine.weight, std=1e-3)
        nn.init.normal_(self.grounded.weight, std=1e-3)
        for layer in (self.planes, self.fine, self.grounded):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        assert self.grounded.bias is not None
        nn.init.constant_(self.grounded.bias, _FRESH_GROUND)
        nn.init.zeros_(self.evidence.weight)
        for group in range(GROUPS):
            nn.init.eye_(self.evidence.weight.data[:, group * config.depths : (group + 1) * config.depths, 0, 0])
        self.evidence.weight.data *= _FRESH_EVIDENCE
        assert self.fine.bias is not None
        self.fine.bias.data[1] = math.log(0.3)  # of log depth
        self.register_buffer("coordinates", torch.arange(config.depths).float().view(1, -1, 1, 1), persistent=False)
        self.coordinates: Tensor

    def doubt_ground(self) -> None:
        """Fresh weights say ground and planes alike: where truth teaches, nothing needs to begin with the ground."""
        assert self.grounded.bias is not None
        nn.init.zeros_(self.grounded.bias)

    @torch.no_grad()
    def widen_errors(self, factor: float) -> None:
        """From now on it expects errors that are so many times as large."""
        assert self.fine.bias is not None
        self.fine.bias[1] += math.log(factor)

    def forward(
        self,
        maps: Float[Tensor, "N C h w"],
        joint: Float[Tensor, "N K h w"],
        volume: Float[Tensor, "N GD h w"],
        seen: Float[Tensor, "N G h w"],
        features: Float[Tensor, "N F h2 w2"],
        lens: Float[Tensor, "N L h w"],
        ground: Float[Tensor, "N h2 w2"] | None,
    ) -> HeadOutput:
        """joint: of `VolumeFusion`; features: `MatchingFeatures` of the same images, at stride 2, which show where
        things end; lens: `lens_maps`; ground: inverse depth of the ground's plane at stride 2."""
        first = torch.full_like(lens[:, :1], self.first_inv_depth)
        if ground is not None and self.ground:
            # The cell's own plane: inverse depth is linear over it.
            plane = F.avg_pool2d(ground[:, None], 2) / self.ground
            first = plane.clamp(min=self.first_inv_depth)
        prior = plane_coordinate(first, self.config, self.far)  # (N, 1, h, w)
        x = F.relu(self.first(torch.cat([maps, joint, lens, prior / self.config.depths], dim=1)))
        x = F.relu(self.second(x)) + x
        logits = self.planes(x) + self.evidence(torch.cat([volume, seen], dim=1))
        grounded = torch.sigmoid(self.grounded(x).float())
        on_ground = (1.0 - (self.coordinates - prior).abs()).clamp(min=0.0)
        share = grounded * on_ground + (1.0 - grounded) * F.softmax(logits.float(), dim=1)
        log_planes = (share + _LEAST_SHARE).log()
        mean = (share * self.coordinates).sum(dim=1, keepdim=True)
        spread = (share * (self.coordinates - mean) ** 2).sum(dim=1, keepdim=True).sqrt()
        finer = F.pixel_shuffle(self.spread(torch.cat([x, mean / self.config.depths, spread / 8.0], dim=1)), 2)
        finer = F.relu(self.guided(torch.cat([F.relu(finer), features], dim=1)))
        fine = self.fine(finer).float()  # (N, 3, 2h, 2w)
        coarse = coordinate_inv_depth(mean, self.config, self.far)
        coarse = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)[:, 0]
        low, high = self.limits
        inv_depth = (coarse * fine[:, 0].clamp(-3.0, 3.0).exp()).clamp(low, high)
        log_error = fine[:, 1].clamp(math.log(_LEAST_ERROR), math.log(_MOST_ERROR))
        return HeadOutput(inv_depth, log_error, self.max_scale * torch.sigmoid(fine[:, 2]), log_planes)


def confidence(log_error: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Probability (0-1) that depth is right to within a factor of 1.25, of a Laplace distribution of log depth."""
    return 1.0 - torch.exp(-math.log(WITHIN) * torch.exp(-log_error))


__all__ = [
    "LENS_CHANNELS",
    "VIEW_STRIDES",
    "HeadOutput",
    "MatchingFeatures",
    "MatchingHead",
    "VolumeFusion",
    "confidence",
    "reference_features",
    "sweep_features",
]
