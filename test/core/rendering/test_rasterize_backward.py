# SPDX-License-Identifier: Apache-2.0
"""Gradients of the CPU rasteriser against autograd through the float64 oracle."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support import render_oracle
from support.render_scenes import NAMES, ball, cloud, join, looking_forward

from gaussianocc_core.rendering.geometry import GSPLAT
from gaussianocc_core.rendering.rasterize import rasterize
from gaussianocc_core.types import Gaussians


def gradients(render, gaussians, cameras, dtype) -> dict[str, torch.Tensor]:
    """Of a random linear function of all output images, in every input."""
    leaves = {name: getattr(gaussians, name).to(dtype).requires_grad_() for name in NAMES}
    poses = cameras.T_ego_cam.to(dtype).requires_grad_()
    outputs = render(Gaussians(**leaves), dataclasses.replace(cameras.to(dtype=dtype), T_ego_cam=poses))
    generator = torch.Generator().manual_seed(7)
    loss = sum((out * torch.randn(out.shape, generator=generator).to(dtype)).sum() for out in outputs)
    found = torch.autograd.grad(loss, [*leaves.values(), poses])
    result = dict(zip(leaves, (g.double() for g in found), strict=False))
    # A pose moves on SE(3) only: how a matrix off it is inverted is nobody's business.
    pose, grad = cameras.T_ego_cam.double(), found[-1].double()
    turn = pose[:, :3, :3].transpose(1, 2) @ grad[:, :3, :3]
    return result | {"translation": grad[:, :3, 3], "rotation": turn - turn.transpose(1, 2)}


def fast(gaussians, cameras):
    views = rasterize(gaussians, cameras)
    return views.features, views.depth, views.alpha


@pytest.mark.parametrize("opaque", [False, True])
def test_all_gradients_equal_those_of_the_oracle(opaque):
    gaussians = cloud(count=200, channels=6, seed=11)
    if opaque:  # every pixel stops early; nothing reaches the clamp at 0.999, where the gradient jumps
        gaussians = dataclasses.replace(gaussians, opacities=torch.full((200,), 0.97), scales=gaussians.scales + 0.3)
    cameras = join(looking_forward(center=(17.0, 9.0)), looking_forward(yaw=2.1, position=(0.3, -0.5, 0.2)))
    actual = gradients(fast, gaussians, cameras, torch.float32)
    expected = gradients(render_oracle.render_cameras, gaussians, cameras, torch.float64)
    for name, wanted in expected.items():
        # Sums of up to a thousand float32 terms that cancel: seen up to 4e-5 of the largest
        # gradient, where 1 / (1 - alpha) amplifies rounding behind opaque Gaussians.
        error = (actual[name] - wanted).abs().max() / wanted.abs().max()
        assert error < 1e-4, f"{name}: {error:.2e}"


def test_gradient_to_a_clamped_opacity_is_a_named_choice():
    cameras = looking_forward(center=(20.5, 14.5))
    for constants, passes in ((GSPLAT, False), (dataclasses.replace(GSPLAT, clamped_alpha_gradient=True), True)):
        gaussians = ball((5.0, 0, 0), sigma=0.002)  # narrower than a pixel: only the blur, and one pixel clamped
        opacities = gaussians.opacities.clone().requires_grad_()
        views = rasterize(dataclasses.replace(gaussians, opacities=opacities), cameras, constants=constants)
        (gradient,) = torch.autograd.grad(views.alpha[0, 0, 14, 20], opacities)
        assert gradient.item() == pytest.approx(1.0 if passes else 0.0, abs=1e-5)


def test_gradients_do_not_depend_on_the_number_of_threads():
    gaussians, cameras = cloud(count=400, seed=12), looking_forward(width=160, height=120, focal=100.0)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(gradients(fast, gaussians, cameras, torch.float32))
    finally:
        torch.set_num_threads(threads)
    for name in ("opacities", "features"):
        assert torch.equal(found[0][name], found[1][name])


def test_empty_scene_has_zero_gradients():
    gaussians = ball((-5.0, 0, 0))
    features = gaussians.features.clone().requires_grad_()
    rasterize(dataclasses.replace(gaussians, features=features), looking_forward()).features.sum().backward()
    assert features.grad.abs().sum() == 0
