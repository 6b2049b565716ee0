# SPDX-License-Identifier: Apache-2.0
"""Stage 2 and the networks behind it: what rendering compares, what counts, and where fresh weights begin."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.rigs import ring
from support.small_model import SMALL

from gaussianocc_core.errors import ConfigError, DatasetError
from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry import lattice
from gaussianocc_core.labels import CLASS_ID, FREE, IGNORE
from gaussianocc_core.models.bev_decoder import BevDecoder
from gaussianocc_core.models.config import DecoderConfig, GaussianConfig
from gaussianocc_core.models.gaussianocc import build_model, build_pose_net
from gaussianocc_core.models.lifting import plan_lift, surface_features
from gaussianocc_core.training.config import GsvConfig, TrainConfig
from gaussianocc_core.training.gsv import Gsv
from gaussianocc_core.training.loader import Batch, ColorJitter
from gaussianocc_core.training.photometric import Photometric
from gaussianocc_core.training.stages import parameter_groups
from gaussianocc_core.training.view import views_of
from gaussianocc_core.types import OccupancyField, RenderedViews

CONFIG = GsvConfig(ego_motion="sensor", render_height=24, render_width=40, photometric=Photometric(levels=2))
H, W = SMALL.image_height, SMALL.image_width


def rig():
    return camera_geometry.resize(ring(), W, H).to(dtype=torch.float32)


def made_up_batch(labels=True, seed=0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    cameras = rig()
    motions = torch.eye(4).repeat(1, 2, 1, 1)
    motions[0, :, 0, 3] = torch.tensor([0.3, -0.3])
    semantics = torch.randint(0, 18, (1, 6, H, W), generator=random, dtype=torch.uint8) if labels else None
    return Batch(
        tokens=("a",),
        images=torch.randint(0, 255, (1, 3, 6, 3, H, W), generator=random, dtype=torch.uint8),
        cameras=replace(cameras, intrinsics=cameras.intrinsics[None], T_ego_cam=cameras.T_ego_cam[None]),
        valid=torch.ones(1, 6, H, W, dtype=torch.bool),
        T_target_now=motions,
        semantics=semantics,
        jitter=(ColorJitter(),),
    )


def stage(model_config=SMALL, **settings) -> Gsv:
    torch.manual_seed(0)
    config = replace(CONFIG, **settings)
    pose_net = None if config.ego_motion == "sensor" else build_pose_net(model_config)
    return Gsv(build_model(model_config), pose_net, config, model_config.grid).train()


# ---- networks ------------------------------------------------------------------------------------------------------


def test_surface_features_say_in_front_at_and_behind():
    cameras, points = rig(), lattice.points(SMALL.lattice)
    plan = plan_lift(cameras, points)
    at, front, behind = surface_features(torch.full((6, 12, 20), 1 / 5.0), plan)
    _, depth = camera_geometry.project(points.reshape(-1, 3), cameras.intrinsics, cameras.T_ego_cam)
    once = (plan.weight == 1).flatten()
    index = torch.cat([i[once[i]] for i in plan.points])
    z = torch.cat([depth[n, i[once[i]]] for n, i in enumerate(plan.points)])
    near, far, there = z < 3.5, z > 6.5, (z - 5).abs() < 0.1
    assert near.any() and far.any() and there.any()
    assert (front.flatten()[index][near] > 0.9).all() and (front.flatten()[index][far] < 0.1).all()
    assert (behind.flatten()[index][far] > 0.9).all() and (behind.flatten()[index][near] < 0.1).all()
    assert (at.flatten()[index][there] > 0.95).all() and (at.flatten()[index][near | far] < 0.1).all()
    assert (at.flatten()[~plan.seen.flatten()] == 0).all()


def test_surface_features_are_differentiable_in_depth():
    plan = plan_lift(rig(), lattice.points(SMALL.lattice))
    inv_depth = torch.full((6, 12, 20), 0.2, requires_grad=True)
    surface_features(inv_depth, plan)[0].sum().backward()
    assert torch.isfinite(inv_depth.grad).all() and inv_depth.grad.abs().sum() > 0


def test_fresh_weights_are_free_but_for_where_the_depth_head_sees_a_surface():
    torch.manual_seed(0)
    decoder = BevDecoder(7 + 3, 8, heights=4, classes=18, surface=3).eval()
    volume = torch.zeros(1, 10, 8, 8, 4)
    volume[0, -3, 2, 3, 1] = 1.0
    free = torch.sigmoid(decoder(volume)[0, FREE])
    assert free[2, 3, 1] < 0.1 and free.flatten().median() > 0.9


def test_bev_decoder_keeps_the_axes_apart():
    torch.manual_seed(0)
    decoder = BevDecoder(5, 8, heights=6, classes=18, surface=0).eval()
    volume = torch.zeros(1, 5, 8, 12, 6)
    base = decoder(volume)
    assert tuple(base.shape) == (1, 18, 8, 12, 6)
    volume[0, :, 3, 9, 2] = 5.0
    change = (decoder(volume) - base).abs().sum(1)[0]
    assert tuple(np.unravel_index(int(change.argmax()), change.shape)) == (3, 9, 2)


@pytest.mark.parametrize("kind", ["bev", "hourglass"])
@pytest.mark.parametrize("surface", [True, False])
def test_every_kind_of_decoder_trains(kind, surface):
    config = replace(SMALL, decoder=DecoderConfig(kind=kind, surface=surface, channels=8))
    gsv = stage(config)
    gsv(made_up_batch())["total"].backward()
    grads = [p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in gsv.model.voxel_decoder.parameters()]
    assert all(grads)
    assert gsv.model.image_encoder.conv1.weight.grad.abs().sum() > 0


# ---- losses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("renderer", ["splat", "volume"])
def test_both_renderers_train_with_the_same_losses(renderer):
    gsv = stage(renderer=renderer)
    named = gsv(made_up_batch())
    parts = ("photometric", "smooth", "semantic", "entropy", "variation", "head", "agreement", "surface")
    torch.testing.assert_close(named["total"], sum(named[name] for name in parts))
    named["total"].backward()
    assert gsv.model.voxel_decoder.leave.weight.grad.abs().sum() > 0


def test_volume_rendering_has_its_own_regularisers_and_jitter():
    weights = {"ray_entropy": 0.01, "ray_distortion": 0.02}
    named = stage(renderer="volume", ray_jitter=True, **weights)(made_up_batch())
    parts = ("photometric", "smooth", "semantic", "entropy", "variation", "head", "agreement", "surface", *weights)
    torch.testing.assert_close(named["total"], sum(named[name] for name in parts))
    doubled = stage(renderer="volume", **{name: 2 * weight for name, weight in weights.items()})
    once = stage(renderer="volume", **weights)
    for name in weights:
        assert float(named[name].detach()) > 0
        torch.testing.assert_close(doubled(made_up_batch())[name], 2 * once(made_up_batch())[name])
    assert not set(weights) & set(stage(renderer="volume", **weights)(made_up_batch(labels=False)))
    assert not set(weights) & set(stage(**weights)(made_up_batch()))  # splatting has no rays

    gsv = stage(renderer="volume", ray_jitter=True)
    field = OccupancyField(torch.randn(1, 18, *SMALL.lattice.shape))
    small = camera_geometry.resize(rig(), 40, 24)
    drawn = [gsv.render(field, small).depth for _ in range(2)]
    steady = [gsv.eval().render(field, small).depth for _ in range(2)]
    assert not torch.equal(*drawn) and torch.equal(*steady)


def test_what_the_first_stage_left_stays_as_it_is():
    torch.manual_seed(0)
    gsv = Gsv(build_model(SMALL), None, CONFIG, SMALL.grid, frozen=True).train()
    before = {name: value.clone() for name, value in gsv.model.state_dict().items()}
    groups = parameter_groups(gsv, TrainConfig(stage="gsv"))
    named = gsv(made_up_batch())
    assert "head" not in named and {"surface", "agreement"} <= set(named)
    named["total"].backward()
    torch.optim.SGD(groups, lr=0.1).step()
    changed = {
        name.split(".")[0] + "." + name.split(".")[1]
        for name, value in gsv.model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert {name for name in changed if "encoder" in name or "depth" in name} == {"image_encoder.project"}
    assert any(name.startswith("voxel_decoder") for name in changed)


def test_a_share_of_the_cameras_is_drawn_anew_and_rendered_as_among_all():
    gsv = stage(cameras_per_step=2)
    torch.manual_seed(3)
    drawn = [tuple(gsv._draw_cameras(6)) for _ in range(40)]
    assert all(len(set(each)) == 2 and list(each) == sorted(each) for each in drawn)
    assert len(set(drawn)) > 5 and {n for each in drawn for n in each} == set(range(6))
    small = camera_geometry.resize(rig(), 40, 24)
    field = OccupancyField(torch.randn(1, 18, *SMALL.lattice.shape))
    plan = gsv.model.plan_render(small)
    every = gsv.model.render(field, small, plan=plan)[0]
    some = gsv.model.render(field, small.select((small.names[1], small.names[4])), plan=plan.select([1, 4]))[0]
    assert torch.equal(some.depth, every.depth[[1, 4]]) and torch.equal(some.features, every.features[[1, 4]])
    gsv(made_up_batch())["total"].backward()
    assert gsv.model.voxel_decoder.leave.weight.grad.abs().sum() > 0


def test_without_labels_the_regularisers_that_would_win_are_off():
    named = stage()(made_up_batch(labels=False))
    assert not {"semantic", "entropy", "variation"} & set(named)
    assert torch.isfinite(named["total"])


@pytest.mark.medium
def test_without_labels_training_does_not_collapse():
    """Neither into nothing nor into a shell around the cameras: what is drawn is about as far away as the street is."""
    from gaussianocc_core.synthetic.rig import default_rig
    from gaussianocc_core.synthetic.world import World, render_frame

    world, cameras = World(seed=4, duration=3.0), camera_geometry.resize(default_rig(), W, H)
    times = (1.0, 0.9, 1.1)
    frames = [render_frame(world, cameras, camera_times=[t] * len(cameras)) for t in times]
    images = np.stack([np.stack(frame.images) for frame in frames])
    motions = [np.linalg.inv(world.T_world_ego(t)) @ world.T_world_ego(1.0) for t in times[1:]]
    cameras = cameras.to(dtype=torch.float32)
    batch = replace(
        made_up_batch(labels=False),
        images=torch.from_numpy(images).permute(0, 1, 4, 2, 3)[None].contiguous(),
        cameras=replace(cameras, intrinsics=cameras.intrinsics[None], T_ego_cam=cameras.T_ego_cam[None]),
        T_target_now=torch.from_numpy(np.stack(motions)).float()[None],
    )
    gsv = stage()
    optimiser = torch.optim.Adam(gsv.parameters(), lr=2e-3)
    totals = []
    for step in range(80):
        torch.manual_seed(step)
        optimiser.zero_grad()
        named = gsv(batch)
        named["total"].backward()
        optimiser.step()
        totals.append(float(named["photometric"].detach()))
    assert np.mean(totals[-10:]) < 0.9 * np.mean(totals[:10])
    with torch.no_grad():
        plan = gsv._plan(views_of(batch, None)[0])
        views = gsv.render(gsv.model(batch.colors()[:, 0], [plan.lift]), plan.small, plan.splat)
    truth = torch.from_numpy(np.stack(frames[0].depths)).float()
    true = torch.nn.functional.interpolate(truth[:, None], size=(24, 40), mode="nearest")[:, 0]
    alpha, depth = views.alpha[:, 0], views.depth.reshape(true.shape)
    inside, beyond = (true > 0.5) & (true < 5.0), (true == 0.0) | (true > 30.0)  # the lattice ends at 8 m
    assert alpha[inside].mean() > 0.5 and alpha[beyond].mean() < 0.7 * alpha[inside].mean()
    assert 0.7 < (depth / alpha.clamp(min=0.05) / true)[inside].median() < 1.4


def test_sky_pulls_rays_free_and_a_wall_pulls_them_opaque():
    gsv = stage()
    for label, sign in ((FREE, 1), (CLASS_ID["manmade"], -1)):
        alpha = torch.full((6, 1, 24, 40), 0.5, requires_grad=True)
        logits = torch.zeros(6, 18, 24, 40)
        logits[:, CLASS_ID["manmade"]] = 2.0
        views = RenderedViews(logits * alpha, 5.0 * alpha, alpha)
        labels = torch.full((6, H, W), label, dtype=torch.uint8)
        inside = torch.ones(6, 24, 40, dtype=torch.bool)
        gsv._semantic(views, labels, torch.ones(6, H, W, dtype=torch.bool), inside).backward()
        assert (alpha.grad * sign > 0).all()


def test_only_sky_counts_where_the_surface_lies_beyond_the_lattice():
    gsv = stage()
    views = RenderedViews(torch.randn(6, 18, 24, 40), torch.ones(6, 1, 24, 40), torch.ones(6, 1, 24, 40))
    valid, outside = torch.ones(6, H, W, dtype=torch.bool), torch.zeros(6, 24, 40, dtype=torch.bool)
    wall = torch.full((6, H, W), CLASS_ID["manmade"], dtype=torch.uint8)
    assert gsv._semantic(views, wall, valid, outside) == 0
    assert gsv._semantic(views, torch.full_like(wall, FREE), valid, outside) > 0
    assert gsv._semantic(views, torch.full_like(wall, IGNORE), valid, ~outside) == 0


def test_depth_of_an_empty_field_is_the_background():
    gsv = stage(replace(SMALL, decoder=DecoderConfig(surface=False)))
    logits = torch.zeros(1, 18, *SMALL.lattice.shape)
    logits[:, FREE] = 20.0
    small = camera_geometry.resize(rig(), 40, 24)
    views = gsv.render(OccupancyField(logits), small)
    inside, background = gsv._behind(views, small, None)
    assert inside.all() and background == 80.0
    assert (views.depth[:, 0] + (1 - views.alpha[:, 0]) * background > 79).all()


def test_a_learnt_scale_gets_a_gradient_and_starts_at_the_configured_one():
    config = replace(SMALL, gaussians=GaussianConfig(learned=True))
    gsv = stage(config)
    assert gsv.model.learns_scale
    fixed = build_model(SMALL).gaussian_head.scales
    field = OccupancyField(torch.zeros(1, 18, *SMALL.lattice.shape))
    torch.testing.assert_close(gsv.model.gaussian_head(field)[0].scales, fixed)
    gsv(made_up_batch())["total"].backward()
    assert gsv.model.gaussian_head.scale_factor.grad.abs() > 0


# ---- ego motion ----------------------------------------------------------------------------------------------------


def test_a_frozen_first_stage_stays_in_eval_mode_and_a_joint_one_learns():
    frozen, joint = stage(ego_motion="learned"), stage(ego_motion="joint")
    assert not frozen.pose_net.training and joint.pose_net.training
    batch = made_up_batch()
    frozen(batch)["total"].backward()
    joint(batch)["total"].backward()
    assert frozen.pose_net.head[0].weight.grad is None
    assert joint.pose_net.head[-1].weight.grad.abs().sum() > 0


def test_missing_poses_and_impossible_choices_are_said():
    gsv, batch = stage(), made_up_batch()
    with pytest.raises(DatasetError, match="samples a have no poses"):
        gsv(replace(batch, T_target_now=batch.T_target_now * float("nan")))
    with pytest.raises(ConfigError, match="needs first_stage=FILE"):
        Gsv(build_model(SMALL), None, GsvConfig(ego_motion="learned"), SMALL.grid)
    with pytest.raises(ValueError, match=r"gsv\.renderer: expected one of"):
        GsvConfig(renderer="magic")


def test_recorded_motion_is_used_where_there_is_any_and_else_it_is_learnt():
    batch = made_up_batch()
    unknown = replace(batch, T_target_now=torch.full_like(batch.T_target_now, torch.nan))
    auto = stage(ego_motion="auto")
    assert torch.equal(auto._ego_motion(batch, batch.jittered()), batch.T_target_now)
    learnt = auto._ego_motion(unknown, unknown.jittered())
    assert torch.isfinite(learnt).all() and not torch.equal(learnt, batch.T_target_now)
    torch.testing.assert_close(learnt, stage(ego_motion="learned")._ego_motion(batch, batch.jittered()))
    with pytest.raises(DatasetError, match="have no poses"):
        stage(ego_motion="sensor")._ego_motion(unknown, unknown.jittered())
