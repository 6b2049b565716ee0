# SPDX-License-Identifier: Apache-2.0
"""Cameras and Gaussians for tests of the renderers, and what counts as the same image."""

from __future__ import annotations

import numpy as np
import torch

from gaussianocc_core.types import Cameras, Gaussians

# float32 against float64: 2e-7 relative error of exp, sums of some hundred terms; features and alpha are of order 1.
ATOL = 2e-5
# Pixels where rounding moves alpha over 1/255 or T over 1e-4 differ by up to that contribution.
FLIPPED_SHARE = 1e-3
NAMES = ("means", "quats", "scales", "opacities", "features")


def looking_forward(width=40, height=28, focal=30.0, center=None, position=(0.0, 0.0, 0.0), yaw=0.0, name="front"):
    """A camera in the ego frame that looks along x, turned left by yaw radians."""
    cx, cy = center or (width / 2, height / 2)
    T = torch.eye(4)
    T[:3, 0] = torch.tensor([np.sin(yaw), -np.cos(yaw), 0.0])
    T[:3, 1] = torch.tensor([0.0, 0.0, -1.0])
    T[:3, 2] = torch.tensor([np.cos(yaw), np.sin(yaw), 0.0])
    T[:3, 3] = torch.tensor(position)
    K = torch.tensor([[focal, 0, cx], [0, 1.1 * focal, cy], [0, 0, 1]])
    return Cameras((name,), K[None], T[None], (width,), (height,))


def join(*cameras: Cameras) -> Cameras:
    return Cameras(
        tuple(f"{c.names[0]}{i}" for i, c in enumerate(cameras)),
        torch.cat([c.intrinsics for c in cameras]),
        torch.cat([c.T_ego_cam for c in cameras]),
        sum((c.width for c in cameras), ()),
        sum((c.height for c in cameras), ()),
    )


def ball(means, sigma=0.1, opacity=1.0, features=None) -> Gaussians:
    means = torch.tensor(means, dtype=torch.float32).reshape(-1, 3)
    count = len(means)
    quats = torch.tensor([[1.0, 0, 0, 0]]).expand(count, 4)
    if features is None:
        features = torch.ones(count, 1)
    return Gaussians(means, quats, torch.full((count, 3), sigma), torch.full((count,), opacity), features)


def cloud(count=300, channels=5, seed=0, spread=6.0) -> Gaussians:
    """Rotated anisotropic Gaussians all around the origin, some behind, some nearer than the near plane."""
    generator = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=spread * (2 * torch.rand(count, 3, generator=generator) - 1),
        quats=torch.randn(count, 4, generator=generator),
        scales=0.02 + 0.5 * torch.rand(count, 3, generator=generator) ** 2,
        opacities=torch.rand(count, generator=generator) ** 2 * 1.0,
        features=torch.randn(count, channels, generator=generator),
    )


def assert_equal_images(views, expected) -> None:
    scales = (1.0, 10.0, 1.0)  # depth is of order 10 m
    for actual, wanted, scale in zip((views.features, views.depth, views.alpha), expected, scales, strict=True):
        assert actual.shape == wanted.shape
        error = (actual.double() - wanted).abs().flatten() / scale
        assert (error > ATOL).sum() <= FLIPPED_SHARE * len(error), f"largest error {error.max():.2e}"
        assert (error < 3 / 255).all()  # a flipped pixel gains or loses one contribution of 1/255 times a feature
