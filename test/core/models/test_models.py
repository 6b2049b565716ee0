# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.rigs import ring
from support.small_model import SMALL

from gaussianocc_core.config import load_config
from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry import lattice
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.models.gaussian_head import GaussianHead
from gaussianocc_core.models.gaussianocc import build_model
from gaussianocc_core.models.image_encoder import ImageEncoder
from gaussianocc_core.models.lifting import lift_features, plan_lift
from gaussianocc_core.models.voxel_decoder import VoxelDecoder
from gaussianocc_core.types import Lattice, OccupancyField


def lift_by_loops(features, cameras, points):
    """The definition, one point and one camera at a time: bilinear between pixel centres, edges repeated."""
    count, channels, height, width = features.shape
    result = torch.zeros(channels, len(points), dtype=features.dtype)
    for p, point in enumerate(points):
        seen = 0
        for n in range(count):
            T_cam_ego = torch.linalg.inv(cameras.T_ego_cam[n])
            x = T_cam_ego[:3, :3] @ point + T_cam_ego[:3, 3]
            if x[2] <= 1e-3:
                continue
            u, v, _ = cameras.intrinsics[n] @ x / x[2]
            if not (0 <= u < cameras.width[n] and 0 <= v < cameras.height[n]):
                continue
            column = (u * width / cameras.width[n] - 0.5).clamp(0, width - 1)
            row = (v * height / cameras.height[n] - 0.5).clamp(0, height - 1)
            c0, r0 = min(int(column), width - 2), min(int(row), height - 2)
            dc, dr = column - c0, row - r0
            patch = features[n, :, r0 : r0 + 2, c0 : c0 + 2]
            result[:, p] += (
                patch[:, 0, 0] * (1 - dc) * (1 - dr)
                + patch[:, 0, 1] * dc * (1 - dr)
                + patch[:, 1, 0] * (1 - dc) * dr
                + patch[:, 1, 1] * dc * dr
            )
            seen += 1
        result[:, p] /= max(seen, 1)
    return result


def test_lifting_equals_its_definition():
    rig = ring()
    features = torch.randn(6, 3, 12, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = (
        lattice.points(Lattice(low=(-6.0, -6.0, 0.0), high=(6.0, 6.0, 3.0), shape=(6, 6, 2))).flatten(0, 2).double()
    )
    lifted = lift_features(features, plan_lift(rig, points))
    torch.testing.assert_close(lifted, lift_by_loops(features, rig, points))
    assert (lifted.abs().sum(0) > 0).any()


def test_a_point_that_no_camera_sees_has_no_feature():
    plan = plan_lift(ring(yaws=(0.0,)), torch.tensor([[-5.0, 0.0, 1.0], [5.0, 0.0, 1.0]], dtype=torch.float64))
    assert plan.seen.tolist() == [False, True]
    assert lift_features(torch.ones(1, 2, 4, 4, dtype=torch.float64), plan)[:, 0].abs().sum() == 0


def test_an_invalid_pixel_sees_nothing():
    point = torch.tensor([[6.0, 0.0, 1.5]], dtype=torch.float64)
    mask = torch.ones(1, 90, 160, dtype=torch.bool)
    assert plan_lift(ring(yaws=(0.0,)), point, mask).seen.all()
    mask[0, 45, 80] = False
    assert not plan_lift(ring(yaws=(0.0,)), point, mask).seen.any()


@pytest.mark.parametrize(("backbone", "width"), [("resnet18", 0.5), ("resnet34", 0.25), ("resnet50", 0.125)])
def test_encoder_gives_a_quarter_of_the_size(backbone, width):
    encoder = ImageEncoder(backbone, width, (16, 8), 5)
    assert encoder(torch.rand(1, 2, 3, 32, 48)).shape == (1, 2, 5, 8, 12)


def test_published_encoder_and_decoder_have_the_published_sizes():
    config = load_config(Path(__file__).parents[3] / "config" / "model" / "reference.yaml", ModelConfig)
    encoder = ImageEncoder(
        config.encoder.backbone, config.encoder.width, config.encoder.up_channels, config.encoder.feature_channels
    )
    decoder = VoxelDecoder(64, config.decoder.channels, config.decoder.hourglasses, config.decoder.head_blocks, 18)
    assert sum(p.numel() for p in encoder.parameters()) == 38_758_528  # docs/method.md#a
    # docs/method.md#c.4 gives 2,123,372 for the module, of which the unused heads are 111,714 and 85,734.
    assert sum(p.numel() for p in decoder.parameters()) == 2_123_372 - 111_714 - 85_734


def test_gaussians_stand_on_the_lattice_and_free_space_is_transparent():
    kind = Lattice(low=(-40.0, -40.0, -1.0), high=(40.0, 40.0, 5.4), shape=(12, 12, 4), contraction=0.66667)
    points = lattice.points(kind)
    logits = torch.zeros(1, 18, 12, 12, 4)
    logits[0, 17] = 20.0
    logits[0, 17, 3, 5, 2] = -20.0
    gaussians = GaussianHead(points, (0.2, 0.2, 0.2), (60.0, 80.0))(OccupancyField(logits))[0]
    solid = int(gaussians.opacities.argmax())
    torch.testing.assert_close(gaussians.means[solid], points[3, 5, 2])
    assert gaussians.opacities[solid] > 0.999 and gaussians.opacities.sum() < 1.001
    radius = gaussians.means.norm(dim=1)
    for low, high, scale in ((0, 60, 0.2), (60, 80, 0.8), (80, 1e9, 1.6)):
        chosen = gaussians.scales[(radius > low) & (radius <= high)]
        torch.testing.assert_close(chosen, torch.full_like(chosen, scale))


def test_gaussians_come_in_the_published_flat_order():
    kind = Lattice(low=(0.0, 0.0, 0.0), high=(4.0, 3.0, 2.0), shape=(4, 3, 2))
    logits = torch.arange(24.0).view(1, 1, 4, 3, 2)
    gaussians = GaussianHead(lattice.points(kind), (0.2, 0.2, 0.2), (60.0, 80.0))(OccupancyField(logits))[0]
    # x fastest, then y, then z; it decides which of two Gaussians at the same depth is drawn first
    assert gaussians.means[:5].tolist() == [
        [0.5, 0.5, 0.5],
        [1.5, 0.5, 0.5],
        [2.5, 0.5, 0.5],
        [3.5, 0.5, 0.5],
        [0.5, 1.5, 0.5],
    ]
    assert gaussians.features[:5, 0].tolist() == [0, 6, 12, 18, 2] and gaussians.features[12, 0] == 1


def test_forward_has_the_documented_shape_and_trains_every_weight():
    torch.manual_seed(0)
    model = build_model(SMALL)
    cameras = camera_geometry.resize(ring(), 80, 48).to(dtype=torch.float32)
    field = model(torch.rand(2, 6, 3, 48, 80), [model.plan(cameras)] * 2)
    assert field.logits.shape == (2, 18, 16, 16, 8)
    field.logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_camera_order_does_not_matter():
    torch.manual_seed(0)
    model = build_model(SMALL).eval()
    cameras = camera_geometry.resize(ring(), 80, 48).to(dtype=torch.float32)
    images = torch.rand(1, 6, 3, 48, 80)
    order = (3, 0, 5, 1, 2, 4)
    shuffled = cameras.select(tuple(cameras.names[i] for i in order))
    with torch.no_grad():
        straight = model(images, [model.plan(cameras)]).logits
        other = model(images[:, list(order)], [model.plan(shuffled)]).logits
    torch.testing.assert_close(straight, other, atol=1e-4, rtol=1e-4)  # sums in another order, through 20 layers


@pytest.mark.parametrize("change", [{"image_width": 81}, {"lattice": replace(SMALL.lattice, shape=(16, 15, 8))}])
def test_impossible_sizes_are_refused(change):
    with pytest.raises(ValueError, match="multiples of"):
        build_model(replace(SMALL, **change))


def test_rendered_depth_of_a_wall_is_its_distance():
    config = replace(SMALL, lattice=replace(SMALL.lattice, shape=(64, 64, 16)))
    model = build_model(config)
    points = lattice.points(config.lattice)
    logits = torch.zeros(1, 18, 64, 64, 16)
    wall = (points[..., 0] - 6.0).abs() < 0.13
    logits[0, 17] = torch.where(wall, -8.0, 8.0)
    logits[0, 15] = 4.0
    scales = torch.tensor([0.125, 0.125, 0.125])
    model.gaussian_head.scales.copy_(scales.expand_as(model.gaussian_head.scales))
    cameras = camera_geometry.resize(ring(yaws=(0.0,), fov_deg=40.0), 40, 24).to(dtype=torch.float32)
    views = model.render(OccupancyField(logits), cameras, normalize_depth=True)[0]
    middle = views.depth[0, 0, 8:16, 12:28]
    assert np.abs(middle.numpy() - 5.0).max() < 0.15  # the camera is at x = 1
    assert views.features[0, :17, 12, 20].argmax() == 15
