# SPDX-License-Identifier: Apache-2.0
"""Splatting as its definition reads: every Gaussian at every pixel, float64, no tiles, differentiable by autograd.

Written without the library's projection code, so that both can be wrong only in different ways. The numbers are
gsplat's.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLUR, MAX_ALPHA, MIN_ALPHA, STOP = 0.3, 0.999, 1 / 255, 1e-4


def rotation(quat: Tensor) -> Tensor:
    """(M, 4) w x y z -> (M, 3, 3), by rotating the three axes: v + 2 w (q x v) + 2 q x (q x v)."""
    quat = quat / quat.norm(dim=-1, keepdim=True)
    w, q = quat[:, :1], quat[:, 1:]
    columns = []
    for axis in torch.eye(3, dtype=quat.dtype):
        v = axis.expand_as(q)
        t = 2 * torch.cross(q, v, dim=-1)
        columns.append(v + w * t + torch.cross(q, t, dim=-1))
    return torch.stack(columns, dim=-1)


def render(means, quats, scales, opacities, features, K, T_ego_cam, width, height, near) -> tuple[Tensor, ...]:
    """One camera: features (C, H, W), accumulated z-depth (H, W) in metres, alpha (H, W)."""
    T_cam_ego = torch.linalg.inv(T_ego_cam)
    R = T_cam_ego[:3, :3]
    points = means @ R.T + T_cam_ego[:3, 3]
    keep = torch.nonzero(points[:, 2] >= near)[:, 0]
    keep = keep[torch.argsort(points[keep, 2], stable=True)]  # nearest first, ties by index
    points, opacities, features = points[keep], opacities[keep], features[keep]
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    x, y, z = points.unbind(-1)
    # Slopes at which the projection is linearised: at most 15 % of the image's extent outside it.
    sx = (x / z).clamp(-(cx / fx + 0.15 * width / fx), (width - cx) / fx + 0.15 * width / fx)
    sy = (y / z).clamp(-(cy / fy + 0.15 * height / fy), (height - cy) / fy + 0.15 * height / fy)
    J = torch.zeros(len(keep), 2, 3, dtype=means.dtype)
    J[:, 0, 0], J[:, 0, 2] = fx / z, -fx * sx / z
    J[:, 1, 1], J[:, 1, 2] = fy / z, -fy * sy / z
    axes = J @ R @ rotation(quats[keep]) @ torch.diag_embed(scales[keep])  # (M, 2, 3)
    covariance = axes @ axes.transpose(-1, -2) + BLUR * torch.eye(2, dtype=means.dtype)
    centers = torch.stack([fx * x / z + cx, fy * y / z + cy], dim=-1)

    v, u = torch.meshgrid(
        torch.arange(height, dtype=means.dtype) + 0.5, torch.arange(width, dtype=means.dtype) + 0.5, indexing="ij"
    )
    delta = torch.stack([u, v], dim=-1).reshape(1, -1, 2) - centers[:, None]  # (M, P, 2)
    exponent = 0.5 * (delta * (delta @ torch.linalg.inv(covariance))).sum(-1)
    alphas = (opacities[:, None] * torch.exp(-exponent)).clamp(max=MAX_ALPHA)
    transmittance = torch.ones(width * height, dtype=means.dtype)
    stopped = torch.zeros(width * height, dtype=torch.bool)
    weights = []
    for alpha in alphas:
        alpha = torch.where(alpha < MIN_ALPHA, 0.0, alpha)
        remaining = transmittance * (1 - alpha)
        stopped = stopped | (remaining <= STOP)
        weights.append(torch.where(stopped, 0.0, alpha * transmittance))
        transmittance = torch.where(stopped, transmittance, remaining)
    weights = torch.stack(weights) if weights else torch.zeros(0, width * height, dtype=means.dtype)
    feature_image = (features.T @ weights).reshape(-1, height, width)
    return feature_image, (z @ weights).reshape(height, width), weights.sum(0).reshape(height, width)


def render_cameras(gaussians, cameras, near: float = 0.2) -> tuple[Tensor, Tensor, Tensor]:
    """(N, C, H, W), (N, 1, H, W), (N, 1, H, W) of the library's Gaussians and Cameras, in float64."""
    g, c = gaussians.to(dtype=torch.float64), cameras.to(dtype=torch.float64)
    images = [
        render(
            g.means,
            g.quats,
            g.scales,
            g.opacities,
            g.features,
            c.intrinsics[i],
            c.T_ego_cam[i],
            c.width[i],
            c.height[i],
            near,
        )
        for i in range(len(c))
    ]
    features, depth, alpha = (torch.stack(list(part)) for part in zip(*images, strict=True))
    return features, depth[:, None], alpha[:, None]
