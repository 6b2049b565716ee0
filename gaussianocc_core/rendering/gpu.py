# SPDX-License-Identifier: Apache-2.0
"""Splatting with gsplat on CUDA: every camera in one call. The only file that imports gsplat, and only when called."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace

import torch

from gaussianocc_core.geometry import transforms
from gaussianocc_core.rendering.geometry import GSPLAT, RasterConstants
from gaussianocc_core.types import Cameras, Gaussians, RenderedViews

# gsplat composites at most 32 channels at a time, and pads widths that it has no kernel for: 18 features and depth
# become 32, 16 and depth stay 17. It has a kernel for 33, too: the width of 32 features and depth.
_CHUNK = 32


def why_not(constants: RasterConstants = GSPLAT) -> str:
    """Why gsplat cannot run here, and what to do about it; empty if it can."""
    if replace(constants, blur=GSPLAT.blur) != GSPLAT:
        return "gsplat renders with its own constants only, but for the blur; use backend='cpu' for others"
    if not torch.cuda.is_available():
        return "gsplat needs a CUDA device, and torch sees none; use backend='cpu'"
    if importlib.util.find_spec("gsplat") is None:
        return "gsplat is not installed; install it with: pip install 'gsplat>=1.5.3,<1.6'"
    from torch.utils.cpp_extension import CUDA_HOME

    # Without a compiler gsplat does not load even what it has built before, unless its wheel brought the kernels.
    if CUDA_HOME is None and shutil.which("nvcc") is None and importlib.util.find_spec("gsplat.csrc") is None:
        return "gsplat builds its kernels at first use and finds no nvcc; install the CUDA toolkit or set CUDA_HOME"
    return ""


def rasterize(
    gaussians: Gaussians, cameras: Cameras, near: float, normalize_depth: bool, constants: RasterConstants
) -> RenderedViews:
    """Composite float32 Gaussians into N cameras of one size, all tensors on one CUDA device.

    Differentiable in the Gaussians and in T_ego_cam, not in the intrinsics; a skew in the intrinsics is ignored. What
    cannot reach `min_alpha` anywhere is left out beforehand: voxels are mostly empty.
    """
    from gsplat import rasterization

    active = torch.nonzero(gaussians.opacities.detach() >= constants.min_alpha)[:, 0]
    width, height = cameras.width[0], cameras.height[0]
    channels = gaussians.features.shape[1]
    if len(active) == 0:
        nothing = sum(tensor[:0].sum() for tensor in (gaussians.opacities, gaussians.features))  # keeps the graph
        image = gaussians.features.new_zeros(len(cameras), channels + 2, height, width) + nothing
        return RenderedViews(image[:, :-2], image[:, -2:-1], image[:, -1:])
    image, alpha, _ = rasterization(
        gaussians.means[active],
        gaussians.quats[active],
        gaussians.scales[active],
        gaussians.opacities[active],
        gaussians.features[active],
        viewmats=transforms.invert(cameras.T_ego_cam),  # T_cam_ego
        Ks=cameras.intrinsics,
        width=width,
        height=height,
        near_plane=near,
        eps2d=constants.blur,
        packed=True,  # a voxel is seen by one camera in six
        render_mode="RGB+ED" if normalize_depth else "RGB+D",
        channel_chunk=_CHUNK + 1 if channels == _CHUNK else _CHUNK,
    )  # (N, H, W, C + 1), (N, H, W, 1)
    image = image.permute(0, 3, 1, 2)
    return RenderedViews(image[:, :-1], image[:, -1:], alpha.permute(0, 3, 1, 2))
