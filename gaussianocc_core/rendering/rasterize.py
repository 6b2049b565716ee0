# SPDX-License-Identifier: Apache-2.0
"""The public rendering call: Gaussians and cameras in, features, depth and alpha images out."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaussianocc_core.errors import BackendError
from gaussianocc_core.finite import check_finite
from gaussianocc_core.geometry.cameras import resize
from gaussianocc_core.rendering.geometry import GSPLAT, RasterConstants, SplatPlan, project_gaussians
from gaussianocc_core.types import PINHOLE, Cameras, Gaussians, RenderedViews

_log = logging.getLogger(__name__)


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
    visible: Bool[Tensor, "N M"] | None = None,
    plan: SplatPlan | None = None,
) -> RenderedViews:
    """Composite the Gaussians (ego frame) front to back into every camera; the background is zero.

    width, height: size of the images in pixels; the intrinsics are scaled to it. Default: the cameras' own size.
    normalize_depth: z-depth divided by alpha (gsplat's ED; 0 where alpha is 0) instead of accumulated (D).
    near: Gaussians whose mean is nearer than this z (metres) are dropped.
    backend: "cpu", "gsplat" (needs CUDA; BackendError says what is missing), or "auto": gsplat for Gaussians on a CUDA
        device, the CPU for all others and wherever gsplat cannot do what is asked. Both give the same image, which is
        why volume rendering is never chosen in gsplat's place; the log says once that a CUDA device goes unused.
    constants: the numbers in which rasterisers differ; gsplat's, or PUBLISHED for the released weights (CPU).
    visible: Gaussians that each camera may see, of all M; the others are left out of its image (CPU).
    plan: from `plan_splat` for these very means, quats, scales, cameras, near, constants and visible: saves projecting
        and sorting. Only opacities and features have gradients then. For the CPU: "auto" renders a plan there.

    The images are float32 on the Gaussians' device, differentiable in all five tensors of the Gaussians and in the
    cameras' intrinsics (CPU) and T_ego_cam.

    PredictionError where an opacity or a feature is not a number: NaN would be drawn as nothing at all. On a GPU
    this is checked of the images, and only without gradients: training looks at its loss.
    """
    _check_gaussians(gaussians)
    cameras = render_cameras(cameras, width, height)
    width, height = cameras.width[0], cameras.height[0]
    _check_visible(visible, gaussians, cameras)
    device = gaussians.means.device
    if _choose(backend, device, constants, cameras, visible, plan) == "gsplat":
        from gaussianocc_core.rendering import gpu

        target = device if device.type == "cuda" else torch.device("cuda")
        gaussians, cameras = gaussians.to(target, torch.float32), cameras.to(target, torch.float32)
        views = gpu.rasterize(gaussians, cameras, near, normalize_depth, constants)
        if not torch.is_grad_enabled():
            for name in ("alpha", "features", "depth"):
                check_finite(f"rendered {name}", getattr(views, name))
        return RenderedViews(views.features.to(device), views.depth.to(device), views.alpha.to(device))

    from gaussianocc_core.rendering import cpu, cpu_projection  # here: they import numba, which nothing else needs

    gaussians = gaussians.to("cpu", torch.float32)
    cameras = cameras.to("cpu", torch.float32)
    for name in ("opacities", "features"):
        check_finite(name, getattr(gaussians, name))
    moving = (gaussians.means, gaussians.quats, gaussians.scales, cameras.intrinsics, cameras.T_ego_cam)
    differentiable = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in moving)
    if plan is not None:
        _check_plan(plan, gaussians, cameras, constants, differentiable)
        footprints = cpu_projection.fit(plan, gaussians.opacities)
    else:
        project = project_gaussians if differentiable else cpu_projection.project_gaussians
        visible = None if visible is None else visible.cpu()
        footprints = project(gaussians, cameras.intrinsics, cameras.T_ego_cam, width, height, near, constants, visible)
    features, depth, alpha = cpu.composite(
        footprints, gaussians.opacities, gaussians.features, len(cameras), width, height, constants
    )
    return normalize(RenderedViews(features.to(device), depth.to(device), alpha.to(device)), normalize_depth)


def plan_splat(
    means: Float[Tensor, "M 3"],
    quats: Float[Tensor, "M 4"],
    scales: Float[Tensor, "M 3"],
    cameras: Cameras,
    *,
    width: int | None = None,
    height: int | None = None,
    near: float = 0.2,
    constants: RasterConstants = GSPLAT,
    visible: Bool[Tensor, "N M"] | None = None,
) -> SplatPlan:
    """Where Gaussians that stay put fall in cameras that stay put (a voxel lattice, a static calibration).

    Compute once, then give it to `rasterize` with each frame's opacities and features; arguments as there. About 50
    bytes for each pair of a camera and a Gaussian in its view.
    """
    from gaussianocc_core.rendering import cpu_projection

    nothing = means.new_zeros(len(means))
    gaussians = Gaussians(means, quats, scales, nothing, nothing[:, None])
    _check_gaussians(gaussians)
    cameras = render_cameras(cameras, width, height)
    _check_visible(visible, gaussians, cameras)
    gaussians, cameras = gaussians.to("cpu", torch.float32), cameras.to("cpu", torch.float32)
    return cpu_projection.plan(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        cameras.intrinsics,
        cameras.T_ego_cam,
        cameras.width[0],
        cameras.height[0],
        near,
        constants,
        None if visible is None else visible.cpu(),
    )


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


def _check_visible(visible: Tensor | None, gaussians: Gaussians, cameras: Cameras) -> None:
    if visible is not None and tuple(visible.shape) != (len(cameras), len(gaussians)):
        raise ValueError(f"visible: expected {(len(cameras), len(gaussians))}, got {tuple(visible.shape)}")


def _check_plan(
    plan: SplatPlan, gaussians: Gaussians, cameras: Cameras, constants: RasterConstants, differentiable: bool
) -> None:
    for name, planned, given in (
        ("Gaussians", plan.gaussians, len(gaussians)),
        ("cameras", plan.cameras, len(cameras)),
        ("image size", (plan.width, plan.height), (cameras.width[0], cameras.height[0])),
        ("constants", plan.constants, constants),
    ):
        if planned != given:
            raise ValueError(f"plan: made for other {name}: expected {planned}, got {given}")
    if differentiable:
        raise ValueError("plan: Gaussians and cameras in a plan stay put, so they have no gradients; render without it")


def _choose(
    backend: str,
    device: torch.device,
    constants: RasterConstants,
    cameras: Cameras,
    visible: Tensor | None,
    plan: SplatPlan | None,
) -> str:
    """Either "cpu" or "gsplat"; BackendError where the named one cannot do what is asked."""
    if backend == "cpu" or (backend == "auto" and device.type != "cuda"):
        return "cpu"
    if backend not in ("auto", "gsplat"):
        raise BackendError(f"backend: no renderer named {backend!r}; use 'cpu', 'gsplat' or 'auto'")
    from gaussianocc_core.rendering import gpu

    reason = gpu.why_not(constants)
    if visible is not None:
        reason = "gsplat has no mask of Gaussians per camera (visible); use backend='cpu'"
    elif plan is not None:
        reason = "plans serve the CPU renderer; call gsplat without one, or use backend='cpu'"
    elif torch.is_grad_enabled() and cameras.intrinsics.requires_grad:
        reason = "gsplat gives no gradients to intrinsics; use backend='cpu'"
    if not reason:
        return "gsplat"
    if backend == "gsplat":
        raise BackendError(f"backend: {reason}")
    _warn_once(reason)
    return "cpu"


@cache
def _warn_once(reason: str) -> None:
    _log.warning("Gaussians lie on a CUDA device but are rendered on the CPU: %s", reason)
