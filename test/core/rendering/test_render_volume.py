# SPDX-License-Identifier: Apache-2.0
"""Volume rendering: the published images, both implementations, gradients, and answers worked out by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from support.render_scenes import join, looking_forward

from gaussianocc_core.errors import BackendError
from gaussianocc_core.geometry import lattice as lattice_geometry
from gaussianocc_core.rendering.march import (
    LAST_GAP,
    PUBLISHED_DENSITY,
    PUBLISHED_PROB,
    MarchSettings,
    draw_jitter,
    sample_depths,
)
from gaussianocc_core.rendering.rasterize import rasterize
from gaussianocc_core.rendering.volume import normalized_positions, ray_regularizers, render_volume
from gaussianocc_core.types import Cameras, Gaussians, Lattice, OccupancyField

UNIFORM = Lattice((-8.0, -6.0, -2.0), (8.0, 6.0, 2.0), (16, 12, 8))
CONTRACTED = dataclasses.replace(UNIFORM, contraction=0.66667)
BACKENDS = ("torch", "fused")


def random_field(lattice: Lattice, kind: str = "prob", classes: int = 4, free: float = 1.0) -> OccupancyField:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn((1, classes, *lattice.shape), generator=generator)
    logits[:, -1] = 2 * logits[:, -1] + free if kind == "prob" else 0.3 * logits[:, -1]
    return OccupancyField(logits)


def rig() -> Cameras:
    return join(looking_forward(position=(0.2, 0.1, 0.3)), looking_forward(yaw=2.3, position=(-0.5, 0.4, 0.1)))


def images(views):
    return {"features": views.features, "depth": views.depth, "alpha": views.alpha}


@pytest.fixture(scope="module")
def published(shared_data):
    """Lattice, cameras at render size, logits and the two reference outputs."""
    golden = {
        name: np.load(shared_data / "golden" / f"{name}.npz")
        for name in ("network", "inputs", "volume_render_prob", "volume_render_prob_far")
    }
    inputs = golden["inputs"]
    cameras = Cameras(
        tuple(f"camera{i}" for i in range(6)),
        torch.from_numpy(inputs["K_render"])[:, :3, :3],
        torch.from_numpy(inputs["cam_to_ego"]),
        (80,) * 6,
        (45,) * 6,
    )
    lattice = Lattice((-40.0, -40.0, -1.0), (40.0, 40.0, 5.4), (48, 40, 8), 0.66667)
    return lattice, cameras, torch.from_numpy(golden["network"]["logits"])[None], golden


@pytest.mark.parametrize("backend", [pytest.param("torch", marks=pytest.mark.medium), "fused"])
@pytest.mark.parametrize("ratio, stride", [("full", 1), ("ratio025", 4)])
def test_published_images(published, backend, ratio, stride):
    lattice, cameras, logits, golden = published
    settings = dataclasses.replace(PUBLISHED_PROB, feature_stride=stride)
    views = render_volume(OccupancyField(logits), lattice, cameras, settings=settings, backend=backend)
    near = golden["volume_render_prob"]
    # The reference computed these in fp16: float32 differs from them by up to 0.044 m and 0.013.
    assert (views.depth[:, 0].clamp(0.1, 200) - torch.from_numpy(near[f"depth_{ratio}"])).abs().max() < 0.06
    semantic = torch.from_numpy(near[f"semantic_{ratio}"]).float()
    assert (views.features[:, :, ::3, ::4].permute(0, 2, 3, 1) - semantic).abs().max() < 0.02
    # Nearly free space, reference in float32: rays reach the last samples. Seen: 4e-4 m of up to 200 m, and 1.3e-5.
    free = logits.clone()
    free[:, -1] += 6.0
    views = render_volume(OccupancyField(free), lattice, cameras, settings=settings, backend=backend)
    far = golden["volume_render_prob_far"]
    if ratio == "full":
        assert (views.depth[:, 0].clamp(0.1, 200) - torch.from_numpy(far["depth_full"])).abs().max() < 2e-3
    semantic = torch.from_numpy(far[f"semantic_{ratio}"])
    assert (views.features[:, :, ::3, ::4].permute(0, 2, 3, 1) - semantic).abs().max() < 1e-4


def test_published_sample_depths(published):
    lattice, _, _, golden = published
    expected = torch.from_numpy(golden["volume_render_prob"]["Zval"][0])
    assert torch.allclose(sample_depths(lattice), expected, rtol=3e-6)  # float32, other order of operations
    full = Lattice((-40.0, -40.0, -1.0), (40.0, 40.0, 5.4), (300, 300, 24), 0.66667)
    depths = sample_depths(full)
    assert len(depths) == 424
    # docs/method.md#e.9.
    assert depths[[1, 2, -3, -2, -1]].tolist() == pytest.approx([0.401, 0.802, 3014, 4747, 11388], rel=1e-3)


@pytest.mark.parametrize("lattice", [UNIFORM, CONTRACTED], ids=["uniform", "contracted"])
@pytest.mark.parametrize("kind", ["prob", "density"])
@pytest.mark.parametrize("stride, opaque_end", [(1, False), (1, True), (4, True)])
def test_fused_and_torch_agree_in_images_and_gradients(lattice, kind, stride, opaque_end):
    settings = MarchSettings(kind, feature_stride=stride, opaque_end=opaque_end, dropped_feature=0.5)
    field, cameras = random_field(lattice, kind, free=2.5), rig()
    # A sample that moved by the threshold but for rounding is kept by one and dropped by the other; none does here.
    jitter = draw_jitter(lattice, (2, 28, 40), settings, torch.Generator().manual_seed(0))
    found = {}
    for backend in BACKENDS:
        logits = field.logits.clone().requires_grad_()
        views = render_volume(
            OccupancyField(logits), lattice, cameras, settings=settings, jitter=jitter, backend=backend
        )
        generator = torch.Generator().manual_seed(2)
        loss = sum((image * torch.randn(image.shape, generator=generator)).sum() for image in images(views).values())
        found[backend] = images(views) | {"gradient": torch.autograd.grad(loss, logits)[0]}
    for name, expected in found["torch"].items():
        # float32 in different orders of operations; seen 5e-6 of the largest value.
        error = (found["fused"][name] - expected).abs().max() / expected.abs().max().clamp(min=1)
        assert error < 1e-4, f"{name}: {error:.1e}"
    assert found["torch"]["gradient"][:, -1].abs().max() > 0.01


@pytest.mark.parametrize("kind", ["prob", "density"])
def test_one_ray_equals_the_rules_written_out(kind):
    """A scalar loop over the samples of one pixel, with the volume read by `lattice.sample` in float64 positions."""
    settings = dataclasses.replace(PUBLISHED_PROB if kind == "prob" else PUBLISHED_DENSITY)
    field, lattice = random_field(CONTRACTED, kind, free=3.0), CONTRACTED
    cameras = looking_forward(position=(0.2, 0.1, 0.3))
    row, column = 9, 31
    K, T = cameras.intrinsics[0].double(), cameras.T_ego_cam[0].double()
    ray = T[:3, :3] @ torch.linalg.inv(K) @ torch.tensor([column + 0.5, row + 0.5, 1.0], dtype=torch.float64)
    depths = sample_depths(lattice, settings).double() + 0.1
    points = T[:3, 3] + ray * depths[:, None]
    values = lattice_geometry.sample(field.logits, lattice, points)[0].double()  # (K, S)
    positions = np.stack(
        [
            2 * lattice_geometry.fractional_index(lattice, points[:, a].numpy(), a) / (n - 1) - 1
            for a, n in enumerate(lattice.shape)
        ],
        axis=-1,
    )
    kept, before = [], np.zeros(3)
    for position in positions:
        kept.append(bool((abs(position - before) > 0.4 / np.array(lattice.shape)).any()))
        before = position
    assert not all(kept) and any(kept)
    weights, total, transmittance = [], 0.0, 1.0
    for s, free in enumerate(values[-1].tolist()):
        if kind == "prob":
            p = 1 / (1 + math.exp(free)) if kept[s] else float(s == len(kept) - 1)
            weights.append(min(1.0, total + p) - min(1.0, total))
            total += p
        else:
            gap = float((points[s + 1] - points[s]).norm()) if s + 1 < len(kept) else LAST_GAP
            alpha = 1 - math.exp(-max(free, 0.0) * gap) if kept[s] else 0.0
            weights.append(alpha * transmittance)
            transmittance *= max(1 - alpha, 1e-5)
    weight = torch.tensor(weights, dtype=torch.float64)
    read = torch.where(torch.tensor(kept), values, 1.0)
    for backend in BACKENDS:
        views = render_volume(field, lattice, cameras, settings=settings, backend=backend)
        assert views.features[0, :, row, column].double() == pytest.approx((read * weight).sum(-1), abs=2e-5)
        assert views.depth[0, 0, row, column].item() == pytest.approx(float((weight * depths).sum()), rel=1e-5)
        assert views.alpha[0, 0, row, column].item() == pytest.approx(float(weight.sum()), abs=1e-6)


def test_torch_gradients_pass_a_numerical_check():
    # float64 would be cast: central differences of the float32 images along random directions instead.
    field, cameras = random_field(UNIFORM, classes=2, free=2.0), looking_forward()
    generator = torch.Generator().manual_seed(5)
    mix = torch.randn(1, 2, 28, 40, generator=generator)

    def loss(logits: torch.Tensor, T_ego_cam: torch.Tensor) -> torch.Tensor:
        moved = dataclasses.replace(cameras, T_ego_cam=T_ego_cam)
        views = render_volume(OccupancyField(logits), UNIFORM, moved, backend="torch")
        return (views.features.double() * mix).sum() + 0.1 * views.depth.double().sum()

    logits, pose = field.logits.clone().requires_grad_(), cameras.T_ego_cam.clone().requires_grad_()
    gradients = torch.autograd.grad(loss(logits, pose), (logits, pose))
    direction = torch.randn(logits.shape, generator=generator)
    with torch.no_grad():
        step = 2e-3
        slope = (loss(logits + step * direction, pose) - loss(logits - step * direction, pose)) / (2 * step)
        assert slope.item() == pytest.approx((gradients[0] * direction).sum().item(), rel=5e-3)
    assert gradients[1][0, :3].abs().max() > 0  # auto chose torch for the moving camera


def test_an_empty_field_is_transparent_and_a_wall_lies_at_its_depth_as_in_splatting():
    """Same contract as `rasterize`: alpha 0 and depth 0 where nothing is, z-depth in metres where something is."""
    lattice = Lattice((-10.0, -10.0, -10.0), (10.0, 10.0, 10.0), (80, 80, 80))
    cameras = looking_forward(focal=20.0)
    points = lattice_geometry.points(lattice)
    wall = (points[..., 0] > 6.0) & (points[..., 0] < 7.0)
    logits = torch.zeros(1, 2, *lattice.shape)
    logits[:, 1] = 30.0
    empty = render_volume(OccupancyField(logits), lattice, cameras)
    assert empty.alpha.abs().max() == 0 and empty.depth.abs().max() == 0 and empty.features.abs().max() == 0
    logits[0, 0] = 5.0
    logits[0, 1] = torch.where(wall, -30.0, 30.0)
    count = int(wall.sum())
    gaussians = Gaussians(
        points[wall],
        torch.tensor([1.0, 0, 0, 0]).expand(count, 4),
        torch.full((count, 3), 0.125),
        torch.full((count,), 0.99),
        logits[0, :1][:, wall].T,
    )
    splat = rasterize(gaussians, cameras, normalize_depth=True)
    settings = MarchSettings(samples=200, far=14.0)
    for backend in BACKENDS:
        views = render_volume(
            OccupancyField(logits), lattice, cameras, settings=settings, normalize_depth=True, backend=backend
        )
        assert (views.alpha > 0.999).all() and (splat.alpha > 0.98).all()
        # Half a sample and half a voxel of softness; the ray length at the corners would be 42 % more.
        assert (views.depth - 6.1).abs().max() < 0.25 and (splat.depth - 6.1).abs().max() < 0.25
        assert (views.features[:, 0] - 5.0).abs().max() < 0.01
        plain = render_volume(OccupancyField(logits), lattice, cameras, settings=settings, backend=backend)
        assert torch.allclose(plain.depth, views.depth * views.alpha, rtol=1e-5)


def test_positions_equal_those_of_the_lattice():
    generator = torch.Generator().manual_seed(4)
    points = 30 * (2 * torch.rand(500, 3, generator=generator, dtype=torch.float64) - 1)
    for lattice in (UNIFORM, CONTRACTED):
        expected = [
            2 * lattice_geometry.fractional_index(lattice, points[:, axis].numpy(), axis) / (count - 1) - 1
            for axis, count in enumerate(lattice.shape)
        ]
        assert np.abs(normalized_positions(lattice, points).numpy() - np.stack(expected, axis=-1)).max() < 1e-12


def test_regularizers_equal_the_double_sum():
    field, cameras = random_field(CONTRACTED, free=2.0), looking_forward(width=6, height=5)
    found = ray_regularizers(field, CONTRACTED, cameras, settings=PUBLISHED_PROB)
    depths = sample_depths(CONTRACTED) + 0.1
    S, spread, entropy = len(depths), [], []
    for row in range(5):
        for column in range(6):
            K = cameras.intrinsics[0]
            ray = torch.linalg.inv(K) @ torch.tensor([column + 0.5, row + 0.5, 1.0])
            weights = ray_weights(field, cameras, row, column)
            gap = torch.cat([torch.diff(depths) * ray.norm(), torch.tensor([1e4])])
            total = sum(2 * weights[i] * weights[j] * (depths[i] - depths[j]) for i in range(S) for j in range(i))
            spread.append(float(total + (gap * weights**2).sum() / 3))
            p = float(weights.sum().clamp(1e-6, 1 - 1e-6))
            entropy.append(-(p * math.log(p) + (1 - p) * math.log(1 - p)))
    assert found.distortion.item() == pytest.approx(np.mean(spread), rel=1e-4)
    assert found.entropy.item() == pytest.approx(np.mean(entropy), rel=1e-3)


def ray_weights(field, cameras, row, column):
    """Weights of the samples of one ray by docs/method.md#e.10 and #e.11."""
    K, T = cameras.intrinsics[0], cameras.T_ego_cam[0]
    ray = T[:3, :3] @ torch.linalg.inv(K) @ torch.tensor([column + 0.5, row + 0.5, 1.0])
    points = T[:3, 3] + ray * (sample_depths(CONTRACTED) + 0.1)[:, None]
    positions = normalized_positions(CONTRACTED, points)
    move = torch.diff(positions, dim=0, prepend=torch.zeros(1, 3)).abs()
    kept = (move > 0.4 / torch.tensor(CONTRACTED.shape)).any(-1)
    p = torch.zeros(len(points))
    p[-1] = 1.0
    values = lattice_geometry.sample(field.logits[:, -1:], CONTRACTED, points)[0, 0]
    p[kept] = 1 - torch.sigmoid(values[kept])
    total = p.cumsum(0).clamp(max=1)
    return torch.diff(total, prepend=torch.zeros(1))


def test_bad_calls_say_what_is_wrong():
    field, cameras = random_field(UNIFORM), looking_forward()
    with pytest.raises(BackendError, match="opengl"):
        render_volume(field, UNIFORM, cameras, backend="opengl")
    moving = dataclasses.replace(cameras, T_ego_cam=cameras.T_ego_cam.clone().requires_grad_())
    with pytest.raises(BackendError, match="no gradients to cameras"):
        render_volume(field, UNIFORM, moving, backend="fused")
    with pytest.raises(ValueError, match="one volume over the lattice"):
        render_volume(OccupancyField(field.logits.expand(2, -1, -1, -1, -1)), UNIFORM, cameras)
    with pytest.raises(ValueError, match="jitter"):
        render_volume(field, UNIFORM, cameras, jitter=torch.zeros(1, 3, 3))
    with pytest.raises(ValueError, match="uniform lattices only"):
        sample_depths(CONTRACTED, MarchSettings(far=20.0))
    with pytest.raises(ValueError, match="'prob' or 'density'"):
        MarchSettings("sdf")


def test_gradients_of_several_cameras_are_the_sum_of_theirs():
    field, cameras = random_field(UNIFORM), rig()
    found = []
    for part in (cameras, *(cameras.select((name,)) for name in cameras.names)):
        logits = field.logits.clone().requires_grad_()
        views = render_volume(OccupancyField(logits), UNIFORM, part, backend="torch")
        (views.features.sum() + views.depth.sum()).backward()
        found.append(logits.grad)
    assert torch.allclose(found[0], found[1] + found[2], atol=1e-4)
