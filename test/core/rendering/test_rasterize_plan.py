# SPDX-License-Identifier: Apache-2.0
"""Plans for fixed Gaussians and cameras, and per-camera masks: the same images as without, or of fewer Gaussians."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support import render_oracle
from support.render_scenes import assert_equal_images, cloud, join, looking_forward

from gaussianocc_core.rendering.geometry import GSPLAT, PUBLISHED, project_gaussians
from gaussianocc_core.rendering.rasterize import plan_splat, rasterize
from gaussianocc_core.types import Gaussians


def two_cameras():
    return join(looking_forward(center=(17.0, 9.0)), looking_forward(yaw=2.1, position=(0.3, -0.5, 0.2)))


@pytest.mark.parametrize("constants", [GSPLAT, PUBLISHED], ids=["gsplat", "published"])
def test_a_plan_gives_the_same_bits_for_frame_after_frame(constants):
    gaussians, cameras = cloud(count=1500, seed=21), two_cameras()
    plan = plan_splat(gaussians.means, gaussians.quats, gaussians.scales, cameras, constants=constants)
    generator = torch.Generator().manual_seed(0)
    for share in (1.0, 0.3, 0.0):
        active = (torch.rand(1500, generator=generator) < share).float()
        frame = dataclasses.replace(
            gaussians,
            opacities=active * torch.rand(1500, generator=generator),
            features=torch.randn(1500, 5, generator=generator),
        )
        leaves = [(frame.opacities.clone().requires_grad_(), frame.features.clone().requires_grad_()) for _ in range(2)]
        views = [
            rasterize(
                dataclasses.replace(frame, opacities=opacities, features=features), cameras, constants=constants, plan=p
            )
            for (opacities, features), p in zip(leaves, (plan, None), strict=True)
        ]
        assert (views[1].alpha > 0.1).any() == (share > 0)
        for name in ("features", "depth", "alpha"):
            assert torch.equal(getattr(views[0], name), getattr(views[1], name)), name
        gradients = [
            torch.autograd.grad((v.features.square().sum() + v.depth.sum() + v.alpha.sum()), leaf)
            for v, leaf in zip(views, leaves, strict=True)
        ]
        assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_plan_for_something_else_is_refused():
    gaussians, cameras = cloud(count=50, seed=22), two_cameras()
    plan = plan_splat(gaussians.means, gaussians.quats, gaussians.scales, cameras)
    with pytest.raises(ValueError, match="other Gaussians: expected 50, got 40"):
        rasterize(cloud(count=40), cameras, plan=plan)
    with pytest.raises(ValueError, match="other cameras"):
        rasterize(gaussians, looking_forward(), plan=plan)
    with pytest.raises(ValueError, match="other image size"):
        rasterize(gaussians, cameras, width=80, height=56, plan=plan)
    with pytest.raises(ValueError, match="other constants"):
        rasterize(gaussians, cameras, constants=PUBLISHED, plan=plan)
    moving = dataclasses.replace(gaussians, means=gaussians.means.clone().requires_grad_())
    with pytest.raises(ValueError, match="no gradients"):
        rasterize(moving, cameras, plan=plan)


def test_a_masked_gaussian_is_missing_from_that_camera_only():
    gaussians, cameras = cloud(count=400, seed=23), two_cameras()
    visible = torch.rand(2, 400, generator=torch.Generator().manual_seed(1)) < 0.6
    plan = plan_splat(gaussians.means, gaussians.quats, gaussians.scales, cameras, visible=visible)
    masked = rasterize(gaussians, cameras, visible=visible)
    planned = rasterize(gaussians, cameras, plan=plan)
    for index, name in enumerate(cameras.names):
        fewer = Gaussians(*(getattr(gaussians, f.name)[visible[index]] for f in dataclasses.fields(gaussians)))
        camera = cameras.select((name,))
        expected = render_oracle.render_cameras(fewer, camera)
        for views in (masked, planned):
            part = dataclasses.replace(
                views,
                features=views.features[index : index + 1],
                depth=views.depth[index : index + 1],
                alpha=views.alpha[index : index + 1],
            )
            assert_equal_images(part, expected)
    differentiable = project_gaussians(gaussians, cameras.intrinsics, cameras.T_ego_cam, 40, 28, 0.2, GSPLAT, visible)
    assert visible[differentiable.camera, differentiable.gaussian].all() and len(differentiable) > 30
    with pytest.raises(ValueError, match=r"visible: expected \(2, 400\)"):
        rasterize(gaussians, cameras, visible=visible.T)


def test_what_cannot_reach_a_pixel_may_be_pruned():
    gaussians, cameras = cloud(count=500, seed=24), two_cameras()
    kept = gaussians.opacities >= GSPLAT.min_alpha
    assert 0 < kept.sum() < 500
    pruned = Gaussians(*(getattr(gaussians, f.name)[kept] for f in dataclasses.fields(gaussians)))
    a, b = rasterize(gaussians, cameras), rasterize(pruned, cameras)
    assert torch.equal(a.features, b.features) and torch.equal(a.depth, b.depth) and torch.equal(a.alpha, b.alpha)
