# SPDX-License-Identifier: Apache-2.0
"""The public rendering call: Gaussians and cameras in, features, depth and alpha images out."""

from __future__ import annotations

from dataclasses import replace

import torch

from gaussianocc_core.errors import BackendError
from gaussianocc_core.geometry.cameras import resize
from gaussianocc_core.rendering.geometry import GSPLAT, RasterConstants, project_gaussians
from gaussianocc_core.types import PINHOLE, Cameras, Gaussians, RenderedViews


def rasterize(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    width: int | None = None,
    height: int | None = None,
    normalize_depth: bool = False,
    near: float = 0.2,
    backend: str = "auto",
    constants: RasterConstants = GSPLAT,
) -> RenderedViews:
    """Composite the Gaussians (ego frame) front to back into every camera; the background is zero.

    width, height: size of the images in pixels; the intrinsics are scaled to it. Default: the cameras' own size.
    normalize_depth: z-depth divided by alpha (gsplat's ED; 0 where alpha is 0) instead of accumulated (D).
    near: Gaussians whose mean is nearer than this z (metres) are dropped.
    backend: "cpu", or "auto" for the best one that can run here.
    constants: the numbers in which rasterisers differ; gsplat's, or PUBLISHED for the released weights.

    The images are float32 on the Gaussians' device, differentiable in all five tensors of the Gaussians and in the
    cameras' intrinsics and T_ego_cam.
    """
    _check_gaussians(gaussians)
    cameras = render_cameras(cameras, width, height)
    _check_backend(backend)
    from gaussianocc_core.rendering import cpu, cpu_projection  # here: they import numba, which nothing else needs

    device = gaussians.means.device
    gaussians = gaussians.to("cpu", torch.float32)
    cameras = cameras.to("cpu", torch.float32)
    width, height = cameras.width[0], cameras.height[0]
    moving = (gaussians.means, gaussians.quats, gaussians.scales, cameras.intrinsics, cameras.T_ego_cam)
    differentiable = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in moving)
    project = project_gaussians if differentiable else cpu_projection.project_gaussians
    footprints = project(gaussians, cameras.intrinsics, cameras.T_ego_cam, width, height, near, constants)
    features, depth, alpha = cpu.composite(
        footprints, gaussians.opacities, gaussians.features, len(cameras), width, height, constants
    )
    return normalize(RenderedViews(features.to(device), depth.to(device), alpha.to(device)), normalize_depth)


def normalize(views: RenderedViews, normalize_depth: bool) -> RenderedViews:
    """The views with their accumulated depth divided by alpha (0 where alpha is 0), or as they are."""
    if not normalize_depth:
        return views
    return replace(views, depth=views.depth / views.alpha.clamp(min=1e-10))  # gsplat's floor


def render_cameras(cameras: Cameras, width: int | None, height: int | None) -> Cameras:
    """The cameras at the size to render; they must be undistorted pinholes that share it."""
    if cameras.intrinsics.ndim != 3:
        raise ValueError(f"intrinsics: expected (N, 3, 3), got {tuple(cameras.intrinsics.shape)}")
    for name, model, distortion in zip(cameras.names, cameras.model, cameras.distortion, strict=True):
        if model != PINHOLE or any(distortion):
            raise ValueError(f"cameras: {name} is not an undistorted pinhole; bring it to one with Rectifier first")
    if (width is None) != (height is None):
        raise ValueError(f"width, height: give both or none, got {width} and {height}")
    if width is not None and height is not None:
        if width < 1 or height < 1:
            raise ValueError(f"width, height: expected positive pixel counts, got {width} x {height}")
        return resize(cameras, width, height)
    sizes = set(zip(cameras.width, cameras.height, strict=True))
    if len(sizes) != 1:
        raise ValueError(f"cameras: one image size is needed to render, got {sorted(sizes)}; pass width and height")
    return cameras


def _check_gaussians(gaussians: Gaussians) -> None:
    count = len(gaussians)
    for name, tail in (("means", (3,)), ("quats", (4,)), ("scales", (3,)), ("opacities", ())):
        if tuple(getattr(gaussians, name).shape) != (count, *tail):
            raise ValueError(f"{name}: expected {(count, *tail)}, got {tuple(getattr(gaussians, name).shape)}")
    if gaussians.features.ndim != 2 or len(gaussians.features) != count:
        raise ValueError(f"features: expected ({count}, C), got {tuple(gaussians.features.shape)}")


def _check_backend(backend: str) -> None:
    if backend not in ("auto", "cpu"):
        raise BackendError(f"backend: no renderer named {backend!r} in this version; use 'cpu' or 'auto'")
