# SPDX-License-Identifier: Apache-2.0
"""Depth and Gaussian scale of every pixel, for the first training stage (docs/method.md#f.4, GSP).

The paper's depth network (New-CRFs on a Swin backbone) is not within reach of a package without downloads; this one is
the image encoder of the occupancy network with a small head, so that the second stage can start from what it learnt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry.ground_plane import ground_inv_depth
from gaussianocc_core.models.depth_refinement import refine_depth
from gaussianocc_core.models.image_encoder import ImageEncoder, Look
from gaussianocc_core.models.matching import Sources
from gaussianocc_core.models.matching_net import HeadOutput, MatchingHead, sweep_features
from gaussianocc_core.types import Cameras

DEPTH_STRIDE = 2  # of the predicted maps


@dataclass(frozen=True)
class DepthPrediction:
    """Per camera, at the input's resolution."""

    depth: Float[Tensor, "B N H W"]  # z-depth, m
    scale: Float[Tensor, "B N H W"]  # standard deviation of the pixel's isotropic Gaussian, m
    log_error: Float[Tensor, "B N H W"] | None = None  # log of the expected error of log depth, of a matching network


class DepthHead(nn.Module):
    """Stride-4 maps -> inverse depth (1/m) and Gaussian scale (m) at stride 2, both bounded."""

    def __init__(
        self,
        channels: int,
        depth_range: tuple[float, float],
        first_depth: float,
        max_scale: float,
        ground: float = 0.0,
        metric_ground: bool = True,
    ) -> None:
        """depth_range: m, nearest and farthest; first_depth: m, what fresh weights say, or with ground the farthest
        they say; ground: factor on the depth of the ground plane that they say, 0: without it; metric_ground: whether
        the ground is at that plane, for training."""
        super().__init__()
        near, far = depth_range
        if not 0 < near < first_depth < far:
            raise ValueError(
                f"depth_range, first_depth: expected 0 < near < first < far in metres, got {depth_range}, {first_depth}"
            )
        self.limits = (1.0 / far, 1.0 / near)
        self.max_scale = max_scale
        self.first_inv_depth = 1.0 / first_depth
        self.ground = ground
        self.metric_ground = metric_ground
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, 2 * 4, 3, padding=1)
        )
        last = self.layers[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.normal_(last.weight, std=1e-3)
        share = (1.0 / first_depth - self.limits[0]) / (self.limits[1] - self.limits[0])
        nn.init.zeros_(last.bias)
        if not ground:
            nn.init.constant_(last.bias[:4], math.log(share / (1.0 - share)))

    def forward(
        self, maps: Float[Tensor, "BN C h w"], ground: Float[Tensor, "BN h2 w2"] | None = None
    ) -> tuple[Float[Tensor, "BN h2 w2"], Float[Tensor, "BN h2 w2"]]:
        """ground: `ground_inv_depth` at stride 2, for a head that starts from it."""
        raw = F.pixel_shuffle(self.layers(maps), 2)  # (B*N, 2, 2h, 2w)
        low, high = self.limits
        logits = raw[:, 0]
        if self.ground:
            if ground is None:
                raise ValueError("ground: this head needs the inverse depth of the ground plane")
            # Near its lower limit a sigmoid is an exponential: the layers say a factor on the depth of the plane.
            start = (ground / self.ground).clamp(min=self.first_inv_depth, max=0.9 * high)
            logits = logits + torch.logit((start - low) / (high - low))
        inv_depth = low + (high - low) * torch.sigmoid(logits)
        return inv_depth, self.max_scale * torch.sigmoid(raw[:, 1])


def _resize(maps: Float[Tensor, "N h w"], height: int, width: int) -> Float[Tensor, "N H W"]:
    return F.interpolate(maps[:, None], size=(height, width), mode="bilinear", align_corners=False)[:, 0]


def depth_prediction(found: HeadOutput, shape: Sequence[int], width: int, height: int) -> DepthPrediction:
    """A matching head's maps at the images' size, its first dimension split into `shape`."""
    depth = 1.0 / _resize(found.inv_depth, height, width)
    parts = (depth, _resize(found.scale, height, width), _resize(found.log_error, height, width))
    return DepthPrediction(*(each.unflatten(0, tuple(shape)) for each in parts))


class DepthNet(nn.Module):
    """Image encoder and depth head: (B, N, 3, H, W) RGB 0-1 -> DepthPrediction."""

    def __init__(self, image_encoder: ImageEncoder, head: DepthHead | MatchingHead) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.head = head

    def forward(
        self,
        images: Float[Tensor, "B N 3 H W"],
        rays: Float[Tensor, "B N 3 H4 W4"] | None = None,
        ground: Float[Tensor, "B N H2 W2"] | None = None,
    ) -> DepthPrediction:
        """rays: as the image encoder takes them; ground: as the head does."""
        flat = None if ground is None else ground.flatten(0, 1)
        inv_depth, scale = self.head(self.image_encoder.encode(images, rays), flat)

        # Inverse depth is what is linear in the image over a plane.
        size = images.shape[-2:]
        depth, scale = 1.0 / _resize(inv_depth, *size), _resize(scale, *size)
        return DepthPrediction(depth.unflatten(0, images.shape[:2]), scale.unflatten(0, images.shape[:2]))

    @property
    def matches(self) -> bool:
        """Whether images are matched with others."""
        return isinstance(self.head, MatchingHead)

    def match(
        self,
        look: Look,
        sources: Sources | None,
        intrinsics: Float[Tensor, "N 3 3"],
        T_ego_cam: Float[Tensor, "N 4 4"],
        width: int,
        height: int,
    ) -> HeadOutput:
        """Depth of N pinhole cameras of one size from their first maps and what those are matched with; None: nothing.

        The ego frame is that of the ground's plane and of the viewing rays.
        """
        assert isinstance(self.head, MatchingHead)
        lens = camera_geometry.lens_maps(intrinsics, width, height, stride=4)
        rays = camera_geometry.ego_rays(intrinsics[None], T_ego_cam[None], width, height, stride=4)[0]
        ground = ground_inv_depth(intrinsics[None], T_ego_cam[None], width, height, DEPTH_STRIDE)[0]
        return match(self.image_encoder, self.head, look, sources, rays, ground, lens)[1]


def match(
    encoder: ImageEncoder,
    head: MatchingHead,
    look: Look,
    sources: Sources | None,
    rays: Float[Tensor, "N 3 h w"] | None,
    ground: Float[Tensor, "N h2 w2"],
    lens: Float[Tensor, "N 4 h w"],
) -> tuple[Float[Tensor, "N C h w"], HeadOutput]:
    """The encoder's maps, which know of the volume, and depth; arguments as the encoder and the head take them."""
    assert encoder.fusion is not None and look.features is not None
    volume, seen = sweep_features(look.features, sources, head.config, head.far)
    joint, fused = encoder.fusion(volume, seen, look.stride4)
    maps = encoder.decode(fused, rays if encoder.rays else None, joint)
    found = head(maps, joint, volume, seen, look.features, lens, ground)
    # Nothing flows back through the refinement: a head that learns goes without.
    if sources is not None and sources.far is not None and not found.inv_depth.requires_grad:
        inv_depth, log_error = refine_depth(look.features, sources.far, DEPTH_STRIDE, found.inv_depth, found.log_error)
        found = replace(found, inv_depth=inv_depth, log_error=log_error)
    return maps, found


def predict_depth(
    depth_net: DepthNet, images: Float[Tensor, "B N 3 H W"], cameras: Cameras, sources: Sources | None = None
) -> DepthPrediction:
    """Of RGB images 0-1 from cameras of their size, with a leading dimension B; sources: for a network that matches,
    what the B N images are matched with (None: nothing)."""
    height, width = images.shape[-2:]
    if isinstance(depth_net.head, MatchingHead):
        look = depth_net.image_encoder.look(images.flatten(0, 1))
        found = depth_net.match(
            look, sources, cameras.intrinsics.flatten(0, 1), cameras.T_ego_cam.flatten(0, 1), width, height
        )
        return depth_prediction(found, images.shape[:2], width, height)
    rays = ground = None
    if depth_net.image_encoder.rays:
        rays = camera_geometry.ego_rays(cameras.intrinsics, cameras.T_ego_cam, width, height, stride=4)
    if depth_net.head.ground:
        ground = ground_inv_depth(cameras.intrinsics, cameras.T_ego_cam, width, height, stride=DEPTH_STRIDE)
    return depth_net(images, rays, ground)
