# SPDX-License-Identifier: Apache-2.0
"""Depth and Gaussian scale of every pixel, for the first training stage (spec section f, GSP).

The paper's depth network (New-CRFs on a Swin backbone) is not within reach of a package without downloads; this one is
the image encoder of the occupancy network with a small head, so that the second stage can start from what it learnt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.models.image_encoder import ImageEncoder
from gaussianocc_core.models.matching import NO_PAIRS, Pairs, plane_inv_depths, sweep_planes
from gaussianocc_core.models.matching_net import VIEW_STRIDES, HeadOutput, MatchingHead, lens_maps, reference_features
from gaussianocc_core.types import Cameras

DEPTH_STRIDE = 2  # of the predicted maps


@dataclass(frozen=True)
class DepthPrediction:
    """Per camera, at the input's resolution."""

    depth: Float[Tensor, "B N H W"]  # z-depth, m
    scale: Float[Tensor, "B N H W"]  # standard deviation of the pixel's isotropic Gaussian, m


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


MatchedDepth = HeadOutput


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

        def resize(maps: Tensor) -> Tensor:
            size = images.shape[-2:]
            return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]

        # Inverse depth is what is linear in the image over a plane.
        depth, scale = 1.0 / resize(inv_depth), resize(scale)
        return DepthPrediction(depth.unflatten(0, images.shape[:2]), scale.unflatten(0, images.shape[:2]))


    def match(
        self,
        images: Float[Tensor, "S 3 H W"],
        reference: Int[Tensor, " R"],
        pairs: Pairs,
        intrinsics: Float[Tensor, "R 3 3"],
        T_ego_cam: Float[Tensor, "R 4 4"],
    ) -> MatchedDepth:
        """Depth of some of the images (`reference`) that are matched with others by `pairs`; RGB 0-1."""
        encoder, head = self.image_encoder, self.head
        stride2, stride4 = encoder.stem(images)
        return match_maps(encoder, head, stride4[reference], encoder.features(stride2, stride4), reference, pairs,
                          intrinsics, T_ego_cam, images.shape[-2:])  # fmt: skip


def match_maps(encoder, head, stride4, features, reference, pairs, intrinsics, T_ego_cam, size):
    height, width = size
    rays = camera_geometry.ego_rays(intrinsics[None], T_ego_cam[None], width, height, stride=4)[0]
    ground = camera_geometry.ground_inv_depth(intrinsics[None], T_ego_cam[None], width, height, stride=2)[0]
    inv = plane_inv_depths(head.config, head.far)
    volume, seen = sweep_planes(reference_features(features[reference]), features, pairs, inv, VIEW_STRIDES)
    joint, fused = encoder.fusion(volume, seen, stride4)
    maps = encoder.decode(fused, rays, joint)
    lens = lens_maps(intrinsics[None], width, height)
    return head(maps, joint, volume, seen, features[reference], lens, ground)


def predict_depth(depth_net: DepthNet, images: Float[Tensor, "B N 3 H W"], cameras: Cameras) -> DepthPrediction:
    """Of RGB images 0-1 from cameras of their size, with a leading dimension B."""
    height, width = images.shape[-2:]
    rays = ground = None
    if depth_net.image_encoder.rays:
        rays = camera_geometry.ego_rays(cameras.intrinsics, cameras.T_ego_cam, width, height, stride=4)
    if depth_net.head.ground:
        ground = camera_geometry.ground_inv_depth(
            cameras.intrinsics, cameras.T_ego_cam, width, height, stride=DEPTH_STRIDE
        )
    return depth_net(images, rays, ground)
