# SPDX-License-Identifier: Apache-2.0
"""Each oddity of the published code next to what this project does instead."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.rigs import ring
from support.small_model import SMALL

from gaussianocc_core.config import from_dict, load_config, to_dict
from gaussianocc_core.errors import ConfigError
from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry import lattice, warp
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.models.gaussianocc import build_model, render_gaussians
from gaussianocc_core.models.half_space import half_space_masks
from gaussianocc_core.models.lifting import PUBLISHED_LIFT, LiftConstants, lift_features, plan_lift
from gaussianocc_core.models.quirks import PUBLISHED, Quirks
from gaussianocc_core.models.voxel_decoder import VoxelDecoder
from gaussianocc_core.rendering.volume import render_volume
from gaussianocc_core.types import Gaussians, Lattice, OccupancyField, VoxelGrid

REFERENCE = Path(__file__).parents[3] / "config" / "model" / "reference.yaml"


def in_front(u, v, depth=5.0, width=160, height=90):
    """The ego-frame point that the front camera of the test ring sees at pixel (u, v)."""
    rig = ring(yaws=(0.0,), width=width, height=height)
    ray = torch.linalg.inv(rig.intrinsics[0]) @ torch.tensor([u, v, 1.0], dtype=torch.float64) * depth
    return rig, (rig.T_ego_cam[0, :3, :3] @ ray + rig.T_ego_cam[0, :3, 3])[None]


def columns(width=40, height=24):
    """A feature map whose value at a feature pixel is its column plus one."""
    return (torch.arange(width, dtype=torch.float64) + 1).expand(1, 1, height, width).contiguous()


def test_lifting_samples_the_pixel_or_the_stretched_one():
    rig, point = in_front(100.0, 44.0)
    ours = lift_features(columns(), plan_lift(rig, point))
    theirs = lift_features(columns(), plan_lift(rig, point, constants=PUBLISHED_LIFT))
    assert ours.item() == pytest.approx(100 / 4 - 0.5 + 1)
    # docs/method.md#b.2: u w / (w - 1) - 0.5
    assert theirs.item() == pytest.approx((100 / 4) * 40 / 39 - 0.5 + 1, rel=1e-5)


def test_lifting_repeats_the_edge_or_fades_to_zero():
    rig, point = in_front(159.0, 44.0)
    assert lift_features(columns(), plan_lift(rig, point)).item() == pytest.approx(40.0)
    position = (159 / 4) * 40 / 39 - 0.5  # 40.27 of 39: half a pixel beyond, and more
    theirs = lift_features(columns(), plan_lift(rig, point, constants=PUBLISHED_LIFT))
    assert position > 40 and theirs.item() == 0
    rig, point = in_front(154.0, 44.0)
    position = (154 / 4) * 40 / 39 - 0.5
    faded = lift_features(columns(), plan_lift(rig, point, constants=PUBLISHED_LIFT)).item()
    assert 38 < position < 39 and faded == pytest.approx(position + 1, rel=1e-5)
    rig, point = in_front(156.0, 44.0)
    position = (156 / 4) * 40 / 39 - 0.5
    faded = lift_features(columns(), plan_lift(rig, point, constants=PUBLISHED_LIFT)).item()
    assert 39 < position < 40 and faded == pytest.approx(40 * (40 - position), rel=1e-5)


@pytest.mark.parametrize(("u", "ours", "theirs"), [(-1.0, False, True), (1.0, True, True), (158.5, True, False)])
def test_the_seen_area_is_the_image_or_lies_half_a_feature_pixel_beside_it(u, ours, theirs):
    rig, point = in_front(u, 44.0)
    assert plan_lift(rig, point).seen.item() is ours
    assert plan_lift(rig, point, constants=PUBLISHED_LIFT).seen.item() is theirs


def test_the_mean_is_over_seeing_cameras_or_per_channel_over_non_zeros():
    rig = ring(yaws=(0.0, 0.0))
    point = torch.tensor([[6.0, 0.0, 1.5]], dtype=torch.float64)
    features = torch.tensor([[[2.0, 4.0], [6.0, 0.0]]], dtype=torch.float64).permute(1, 2, 0)[..., None]
    features = features.expand(2, 2, 24, 40).contiguous()  # camera 0: channels 2 and 4; camera 1: 6 and 0
    assert lift_features(features, plan_lift(rig, point)).flatten().tolist() == pytest.approx([4.0, 2.0])
    counted = LiftConstants(mean_of_nonzero=True, count_epsilon=1e-6)
    theirs = lift_features(features, plan_lift(rig, point, constants=counted)).flatten().tolist()
    assert theirs == pytest.approx([8 / (2 + 1e-6), 4 / (1 + 1e-6)], rel=2e-7)  # float32


def test_impossible_lift_constants_are_refused():
    with pytest.raises(ValueError, match="count_epsilon"):
        LiftConstants(mean_of_nonzero=True)
    with pytest.raises(ValueError, match="padding"):
        LiftConstants(padding="mirror")


def test_the_third_hourglass_has_the_skip_or_not():
    torch.manual_seed(0)
    volume = torch.rand(1, 4, 8, 8, 8)
    ours = VoxelDecoder(4, 4, 3, 1, 3).eval()
    theirs = VoxelDecoder(4, 4, 3, 1, 3, skipping=2).eval()
    theirs.load_state_dict(ours.state_dict())
    inputs = []
    for decoder in (ours, theirs):
        decoder.head.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    with torch.no_grad():
        ours(volume), theirs(volume)
        x = ours.dres0(volume)
        skip = ours.dres1(x) + x
    assert skip.abs().max() > 0.1
    torch.testing.assert_close(inputs[0] - inputs[1], skip)


def wall(scale=0.05, opacity=0.3):
    """A thin half-transparent layer 5 m ahead of the front camera of the test ring, from wall to wall."""
    y, z = torch.meshgrid(torch.linspace(-4, 4, 81), torch.linspace(-2, 4, 61), indexing="ij")
    means = torch.stack([torch.full_like(y, 6.0), y, z], dim=-1).reshape(-1, 3)
    count = len(means)
    quats = torch.tensor([1.0, 0, 0, 0]).expand(count, 4)
    scales, opacities = torch.full((count, 3), scale), torch.full((count,), opacity)
    return Gaussians(means, quats, scales, opacities, torch.ones(count, 1))


def front_camera(width=40, height=24):
    return camera_geometry.resize(ring(yaws=(0.0,), fov_deg=60.0), width, height).to(dtype=torch.float32)


def test_depth_is_divided_by_alpha_or_not():
    cameras, quirks = front_camera(), Quirks()
    ours = render_gaussians(wall(), cameras, quirks, quirks.normalize_depth)
    theirs = render_gaussians(wall(), cameras, quirks, PUBLISHED.normalize_depth)
    row = (0, 0, 12, 20)
    alpha = ours.alpha[row].item()
    assert 0.3 < alpha < 0.95
    assert ours.depth[row].item() == pytest.approx(5.0, abs=1e-3)
    assert theirs.depth[row].item() == pytest.approx(5.0 * alpha, rel=1e-4)


def test_the_model_renders_depth_as_its_quirks_say():
    logits = torch.zeros(1, 18, 16, 16, 8)
    cameras = front_camera()
    plain = replace(SMALL, quirks=replace(Quirks(), normalize_depth=False))
    ours, theirs = (build_model(c).render(OccupancyField(logits), cameras)[0] for c in (SMALL, plain))
    torch.testing.assert_close(theirs.depth, ours.depth * ours.alpha, atol=1e-4, rtol=1e-4)
    assert (ours.depth - theirs.depth).abs().max() > 0.01


def test_views_from_a_plan_are_the_same_views():
    torch.manual_seed(0)
    rig = camera_geometry.resize(ring(), 40, 24).to(dtype=torch.float32)
    field = OccupancyField(torch.randn(1, 18, 16, 16, 8))
    model = build_model(replace(SMALL, quirks=PUBLISHED))
    planned, direct = model.render(field, rig, plan=model.plan_render(rig))[0], model.render(field, rig)[0]
    torch.testing.assert_close(planned.features, direct.features, atol=1e-5, rtol=0)
    torch.testing.assert_close(planned.depth, direct.depth, atol=1e-4, rtol=0)
    assert direct.alpha.max() > 0.5


def test_depth_is_clamped_or_not():
    cameras, near = front_camera(), replace(wall(), means=wall().means + torch.tensor([95.0, 0.0, 0.0]))
    ours = render_gaussians(near, cameras, Quirks(), False).depth
    theirs = render_gaussians(near, cameras, replace(Quirks(), depth_range=PUBLISHED.depth_range), False).depth
    assert ours.min() == 0 and theirs.min() == pytest.approx(0.1)  # sky
    dense = replace(wall(scale=3.0, opacity=0.99), means=wall().means + torch.tensor([95.0, 0.0, 0.0]))
    assert render_gaussians(dense, cameras, Quirks(), False).depth.max() > 90
    quirks = replace(Quirks(), depth_range=PUBLISHED.depth_range)
    assert render_gaussians(dense, cameras, quirks, False).depth.max() == pytest.approx(80.0)


def test_footprints_take_their_height_from_the_vertical_or_the_horizontal_focal_length():
    one = Gaussians(
        torch.tensor([[6.0, 0.0, 1.5]]),
        torch.tensor([[1.0, 0, 0, 0]]),
        torch.full((1, 3), 0.5),
        torch.ones(1),
        torch.ones(1, 1),
    )
    cameras = front_camera(40, 40)  # squeezed: fy is 1.78 fx
    extent = {}
    for name, quirks in (("ours", Quirks()), ("theirs", replace(Quirks(), raster=PUBLISHED.raster))):
        alpha = render_gaussians(one, cameras, quirks, False).alpha[0, 0]
        rows = torch.arange(40.0)[:, None] + 0.5
        extent[name] = float((alpha * (rows - 20) ** 2).sum() / alpha.sum()) ** 0.5
    fx, fy = cameras.intrinsics[0, 0, 0], cameras.intrinsics[0, 1, 1]
    assert extent["ours"] / extent["theirs"] == pytest.approx(float(fy / fx), rel=0.1)


def test_a_camera_draws_everything_or_its_half_space():
    rig = ring().to(dtype=torch.float32)
    rig = replace(rig, names=("front", "front_left", "back_left", "back", "back_right", "front_right"))
    means = torch.tensor([[0.9, 5.0, 0.0], [-5.0, 0.1, 0.0], [3.0, -5.0, 0.0]])
    masks = half_space_masks(means, rig, PUBLISHED.half_spaces)
    assert masks.tolist() == [
        [False, False, True],  # front stands at x = 1 and keeps what is beyond
        [True, False, False],  # front_left keeps y > 0.87
        [True, False, False],
        [False, True, False],  # back keeps x < -1
        [False, False, True],
        [False, False, True],
    ]
    unnamed = half_space_masks(means, replace(rig, names=tuple("abcdef")), PUBLISHED.half_spaces)
    assert torch.equal(unnamed, masks)  # by the way they look


def test_half_spaces_remove_gaussians_beside_a_wide_camera_from_its_view():
    cameras = replace(front_camera(), names=("front_left",))
    quirks = replace(Quirks(), half_spaces=PUBLISHED.half_spaces)
    ours, theirs = (render_gaussians(wall(), cameras, q, False).alpha[0, 0] for q in (Quirks(), quirks))
    assert ours[12].min() > 0.3
    assert theirs[12, :18].min() > 0.3 and theirs[12, 22:].max() == 0  # right of the camera's centre: y < 0


def test_unknown_half_spaces_and_depth_ranges_are_refused():
    with pytest.raises(ValueError, match="half_spaces: front"):
        Quirks(half_spaces=(("front", "up"),))
    with pytest.raises(ValueError, match="depth_range"):
        Quirks(depth_range=(5.0, 1.0))


def test_occupancy_is_read_at_voxel_centres_or_at_half_a_lattice_cell():
    kind = Lattice(low=(-8.0, -8.0, -1.0), high=(8.0, 8.0, 3.0), shape=(16, 16, 8), contraction=0.66667)
    config = replace(SMALL, lattice=kind)
    grid = VoxelGrid(origin=(-4.0, -4.0, 0.0), voxel_size=0.5, shape=(8, 8, 2))
    x = torch.from_numpy(lattice.axis_coordinates(kind, 0)).float()
    field = OccupancyField(x.clamp(-7, 7)[None, None, :, None, None].expand(1, 1, 16, 16, 8).contiguous())
    ours = build_model(config).sample_grid(field, grid)
    theirs = build_model(replace(config, quirks=replace(Quirks(), lattice_shift=True))).sample_grid(field, grid)
    assert ours[0, 0, :, 0, 0].tolist() == pytest.approx([-3.75 + 0.5 * i for i in range(8)], abs=1e-5)
    shift = 0.5 * (16 * 16 * 4 / int(16 * 16 * 8 * 0.66667**3)) ** (1 / 3)  # 0.597 m
    assert theirs[0, 0, :, 0, 0].tolist() == pytest.approx([-4 + shift + 0.5 * i for i in range(8)], abs=1e-5)


def test_rays_through_nothing_end_nowhere_or_at_a_wall():
    kind = Lattice(low=(-40.0, -40.0, -1.0), high=(40.0, 40.0, 5.4), shape=(40, 48, 8), contraction=0.66667)
    logits = torch.zeros(1, 3, 40, 48, 8)
    logits[:, -1] = 30.0  # free
    field, cameras = OccupancyField(logits), front_camera()
    ours, theirs = (
        render_volume(field, kind, cameras, settings=quirks.march, backend="torch") for quirks in (Quirks(), PUBLISHED)
    )
    assert ours.alpha.max() < 1e-6 and ours.depth.max() < 1e-3
    ended = theirs.alpha[0, 0] > 0.5  # where the last sample had been dropped
    assert ended.any() and theirs.depth[0, 0][ended].min() > 1000
    torch.testing.assert_close(theirs.features[0, :, ended], torch.ones(3, int(ended.sum())))  # and reads ones


def test_the_photometric_warp_takes_pixel_centres_at_a_half_or_at_integers():
    K = torch.tensor([[[20.0, 0, 8], [0, 20, 6], [0, 0, 1]]])
    turn = torch.eye(4)[None].clone()
    turn[0, 0, 3] = 1.0  # one metre to the side: a wall 10 m ahead moves by 2 pixels
    depth = torch.full((1, 12, 16), 10.0)
    ours, theirs = (warp.reproject(depth, K, turn, K, q.warp_pixel_center)[0] for q in (Quirks(), PUBLISHED))
    assert ours[0, 3, 5].tolist() == pytest.approx([5.5 + 2, 3.5])
    assert theirs[0, 3, 5].tolist() == pytest.approx([5.0 + 2, 3.0])


def test_the_published_shift_of_the_default_lattice_is_a_fifth_of_a_metre():
    config = load_config(REFERENCE, ModelConfig)
    assert 0.5 * lattice.mean_cell_size(config.lattice) == pytest.approx(0.199999, abs=1e-6)  # docs/method.md#i.2


def test_contracted_points_are_the_published_ones_to_the_last_bit(shared_data):
    kind = load_config(REFERENCE, ModelConfig).lattice
    golden = np.load(shared_data / "golden" / "fullgrid_24x300x300.npz")
    points = lattice.points(kind)
    for axis, line in enumerate((points[:, 0, 0, 0], points[0, :, 0, 1], points[0, 0, :, 2])):
        np.testing.assert_array_equal(line.numpy(), golden[f"axis_{'xyz'[axis]}"])


def test_released_weights_run_with_the_quirks_and_others_without():
    assert load_config(REFERENCE, ModelConfig).quirks == PUBLISHED
    assert ModelConfig().quirks == Quirks() != PUBLISHED
    assert load_config(REFERENCE, ModelConfig, ["quirks=ours"]).quirks == Quirks()


def test_quirks_are_written_out_in_full_and_read_back():
    config = replace(SMALL, quirks=PUBLISHED)
    data = to_dict(config)
    assert data["quirks"]["lift"]["padding"] == "zeros" and data["quirks"]["raster"]["max_alpha"] == 0.99
    assert from_dict(ModelConfig, data) == config


@pytest.mark.parametrize(("value", "message"), [("publishd", "quirks is a section"), ("{lft: {}}", "did you mean")])
def test_a_misspelt_quirk_is_named(value, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, ModelConfig, [f"quirks={value}"])
