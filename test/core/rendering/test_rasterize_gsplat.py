# SPDX-License-Identifier: Apache-2.0
"""The CUDA backend: gsplat against the CPU rasteriser on a GPU; without one, how it is called and when it is not."""

from __future__ import annotations

import dataclasses
import logging
import sys
import types

import pytest
import torch
from support import render_oracle
from support.render_scenes import NAMES, assert_equal_images, cloud, join, looking_forward

from gaussianocc_core.errors import BackendError
from gaussianocc_core.geometry import transforms
from gaussianocc_core.rendering import gpu
from gaussianocc_core.rendering import rasterize as rasterize_module
from gaussianocc_core.rendering.geometry import GSPLAT, PUBLISHED, covariances, project_gaussians
from gaussianocc_core.rendering.rasterize import plan_splat, rasterize
from gaussianocc_core.types import Gaussians


def two_cameras():
    return join(looking_forward(center=(17.0, 9.0)), looking_forward(yaw=2.1, position=(0.3, -0.5, 0.2)))


@pytest.fixture
def stand_in(monkeypatch):
    """gsplat's `rasterization`, rendered by the oracle: what it was called with, and images in its layout."""
    calls = []

    def rasterization(means, quats, scales, opacities, colors, *, viewmats, Ks, width, height, near_plane, **options):
        calls.append({"count": len(means), "channels": colors.shape[1], **options})
        drawn, alphas = [], []
        for T_cam_ego, K in zip(viewmats, Ks, strict=True):
            arguments = (means, quats, scales, opacities, colors, K, torch.linalg.inv(T_cam_ego))
            features, depth, alpha = render_oracle.render(*arguments, width, height, near_plane)
            if options["render_mode"] == "RGB+ED":
                depth = depth / alpha.clamp(min=1e-10)
            drawn.append(torch.cat([features, depth[None]]).permute(1, 2, 0))
            alphas.append(alpha[..., None])
        return torch.stack(drawn), torch.stack(alphas), {}

    monkeypatch.setitem(sys.modules, "gsplat", types.SimpleNamespace(rasterization=rasterization))
    return calls


def test_gsplat_is_called_once_for_all_cameras_with_the_active_gaussians(stand_in):
    gaussians, cameras = cloud(count=300, seed=31), two_cameras()
    active = int((gaussians.opacities >= GSPLAT.min_alpha).sum())
    views = gpu.rasterize(gaussians, cameras, 0.2, False, GSPLAT)
    assert_equal_images(views, render_oracle.render_cameras(gaussians, cameras))
    (call,) = stand_in
    assert call["count"] == active < 300 and call["render_mode"] == "RGB+D" and call["eps2d"] == 0.3
    normalised = gpu.rasterize(gaussians, cameras, 0.2, True, GSPLAT)
    expected = rasterize(gaussians, cameras, normalize_depth=True)
    seen = expected.alpha > 0.1
    assert (normalised.depth - expected.depth)[seen].abs().max() < 1e-3


def test_no_chunk_holds_a_lone_channel(stand_in):
    # 33 channels are one kernel of gsplat, not 32 + 1; more go in chunks of 32.
    for channels, chunk in ((18, 32), (32, 33), (40, 32)):
        gpu.rasterize(cloud(count=20, channels=channels), looking_forward(), 0.2, False, GSPLAT)
        assert stand_in[-1]["channel_chunk"] == chunk


def test_gradients_pass_the_pruning_and_the_view_matrices(stand_in):
    gaussians, cameras = cloud(count=100, seed=32), two_cameras()
    found = []
    for render in (lambda g, c: gpu.rasterize(g, c, 0.2, False, GSPLAT), rasterize):
        leaves = {name: getattr(gaussians, name).clone().requires_grad_() for name in NAMES}
        T_ego_cam = cameras.T_ego_cam.clone().requires_grad_()
        views = render(Gaussians(**leaves), dataclasses.replace(cameras, T_ego_cam=T_ego_cam))
        loss = views.features.sum() + 0.1 * views.depth.sum() + views.alpha.sum()
        gradients = torch.autograd.grad(loss, [*leaves.values(), T_ego_cam])
        found.append(dict(zip([*NAMES, "translation"], gradients, strict=True)))
        found[-1]["translation"] = found[-1]["translation"][:, :3, 3]
    for name, expected in found[1].items():
        assert (found[0][name] - expected).abs().max() < 2e-4 * expected.abs().max(), name
    pruned = gaussians.opacities < GSPLAT.min_alpha
    assert pruned.any() and found[0]["features"][pruned].abs().max() == 0


def test_a_scene_of_inactive_gaussians_is_empty_and_differentiable(stand_in):
    gaussians = dataclasses.replace(cloud(count=10), opacities=torch.zeros(10, requires_grad=True))
    views = gpu.rasterize(gaussians, two_cameras(), 0.2, False, GSPLAT)
    views.alpha.sum().backward()
    assert views.features.shape == (2, 5, 28, 40) and views.alpha.abs().max() == 0 and stand_in == []
    assert gaussians.opacities.grad.abs().max() == 0


def test_the_projection_equals_gsplats_own_in_torch():
    """gsplat ships a plain torch version of its projection kernel: the only part of it that runs without CUDA."""
    reference = pytest.importorskip("gsplat.cuda._torch_impl", reason="gsplat is not installed")
    gaussians, cameras = cloud(count=800, seed=33), two_cameras()
    footprints = project_gaussians(gaussians, cameras.intrinsics, cameras.T_ego_cam, 40, 28, 0.2)
    radii, centers, depth, conics, _ = reference._fully_fused_projection(
        gaussians.means,
        covariances(gaussians.quats, gaussians.scales),
        transforms.invert(cameras.T_ego_cam),
        cameras.intrinsics,
        40,
        28,
        eps2d=GSPLAT.blur,
        near_plane=0.2,
    )
    pairs = (footprints.camera, footprints.gaussian)
    seen = (radii[pairs] > 0).all(-1)  # gsplat drops what touches only the part of a tile beyond the image
    assert seen.sum() > 100
    assert torch.allclose(footprints.centers[seen], centers[pairs][seen], rtol=1e-4, atol=1e-3)
    assert torch.allclose(footprints.depth[seen], depth[pairs][seen], rtol=1e-5, atol=1e-5)
    assert torch.allclose(footprints.conics[seen], conics[pairs][seen], rtol=1e-3, atol=1e-5)


def test_gsplat_without_cuda_says_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match="needs a CUDA device.*backend='cpu'"):
        rasterize(cloud(count=3), looking_forward(), backend="gsplat")


def test_gsplat_refuses_what_it_cannot_do(monkeypatch):
    monkeypatch.setattr(gpu, "why_not", lambda constants: "" if constants == GSPLAT else "own constants only")
    gaussians, cameras = cloud(count=3), looking_forward()
    plan = plan_splat(gaussians.means, gaussians.quats, gaussians.scales, cameras)
    lens = dataclasses.replace(cameras, intrinsics=cameras.intrinsics.clone().requires_grad_())
    for call, options in (
        (cameras, {"constants": PUBLISHED}),
        (cameras, {"visible": torch.ones(1, 3, dtype=torch.bool)}),
        (cameras, {"plan": plan}),
        (lens, {}),
    ):
        with pytest.raises(BackendError, match="own constants|visible|plans serve|intrinsics"):
            rasterize(gaussians, call, backend="gsplat", **options)


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", None)
    monkeypatch.setattr(gpu.shutil, "which", lambda name: None)
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None if name == "gsplat.csrc" else object())
    assert "nvcc" in gpu.why_not()
    monkeypatch.setattr(gpu.shutil, "which", lambda name: "/usr/local/cuda/bin/nvcc")
    assert gpu.why_not() == ""
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    assert "pip install" in gpu.why_not()


def test_auto_takes_gsplat_on_cuda_and_falls_back_to_the_cpu_with_one_warning(monkeypatch, caplog):
    cuda, cameras = torch.device("cuda"), looking_forward()
    choose = rasterize_module._choose
    monkeypatch.setattr(gpu, "why_not", lambda constants: "")
    assert choose("auto", cuda, GSPLAT, cameras, None, None) == "gsplat"
    assert choose("auto", torch.device("cpu"), GSPLAT, cameras, None, None) == "cpu"
    rasterize_module._warn_once.cache_clear()
    monkeypatch.setattr(gpu, "why_not", lambda constants: "no nvcc")
    with caplog.at_level(logging.WARNING):
        assert [choose("auto", cuda, GSPLAT, cameras, None, None) for _ in range(3)] == ["cpu"] * 3
    assert [record.message for record in caplog.records if "no nvcc" in record.message] == [
        "Gaussians lie on a CUDA device but are rendered on the CPU: no nvcc"
    ]
    rasterize_module._warn_once.cache_clear()


# ---- on a GPU ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gsplat_on_cuda():
    if why := gpu.why_not():
        pytest.skip(why)


@pytest.mark.gpu
@pytest.mark.slow  # gsplat compiles for minutes at its first call
@pytest.mark.parametrize("channels", [1, 16, 18, 32, 40])
def test_gsplat_images_equal_the_cpu_rasterisers(gsplat_on_cuda, channels):
    gaussians, cameras = cloud(count=2000, channels=channels, seed=41), two_cameras()
    views = rasterize(gaussians.to("cuda"), cameras, backend="gsplat")
    assert views.features.device.type == "cuda"
    expected = rasterize(gaussians, cameras, backend="cpu")
    # gsplat is built with -use_fast_math: its exp is good to about 1e-6; flips at 1/255 move a pixel by 3/255 at most.
    for name, scale in (("features", 1.0), ("depth", 10.0), ("alpha", 1.0)):
        error = (getattr(views, name).cpu() - getattr(expected, name)).abs() / scale
        assert (error > 1e-4).float().mean() < 2e-3 and error.max() < 4 / 255, name


@pytest.mark.gpu
@pytest.mark.slow
def test_gsplat_gradients_equal_the_cpu_rasterisers(gsplat_on_cuda):
    gaussians, cameras = cloud(count=400, channels=18, seed=42), two_cameras()
    found = []
    for device in ("cpu", "cuda"):
        leaves = {name: getattr(gaussians, name).to(device).requires_grad_() for name in NAMES}
        moved = cameras.to(device)
        T_ego_cam = moved.T_ego_cam.clone().requires_grad_()
        views = rasterize(Gaussians(**leaves), dataclasses.replace(moved, T_ego_cam=T_ego_cam))
        loss = views.features.sum() + 0.1 * views.depth.sum() + views.alpha.sum()
        gradients = torch.autograd.grad(loss, [*leaves.values(), T_ego_cam])
        found.append([g.cpu() for g in gradients[:-1]] + [gradients[-1][:, :3, 3].cpu()])
    for name, a, b in zip([*NAMES, "translation"], *found, strict=True):
        assert (a - b).norm() < 1e-3 * a.norm(), name


def test_gsplat_serves_any_blur_and_no_other_constants():
    assert "constants" not in gpu.why_not(dataclasses.replace(GSPLAT, blur=0.05))
    assert "constants" in gpu.why_not(dataclasses.replace(GSPLAT, blur=0.05, extent=3.0))
