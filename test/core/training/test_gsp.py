# SPDX-License-Identifier: Apache-2.0
"""Stage 1 on a street whose depth, motion and scale are known: the losses are least at the truth, and only there."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.rigs import ring
from support.small_model import SMALL

from gaussianocc_core.errors import CheckpointError
from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry import transforms
from gaussianocc_core.geometry.ground_plane import ground_inv_depth
from gaussianocc_core.models.depth_net import predict_depth
from gaussianocc_core.models.gaussianocc import build_depth_head, build_depth_net, build_model, build_pose_net
from gaussianocc_core.training.config import GspConfig, GsvConfig
from gaussianocc_core.training.cross_view import pixel_gaussians
from gaussianocc_core.training.ego import neighbour_motions
from gaussianocc_core.training.ground import ground_of, plane_depth
from gaussianocc_core.training.gsp import Gsp
from gaussianocc_core.training.gsv import Gsv
from gaussianocc_core.training.hints import HintSettings, find_hints, hint_error, hinted_pixels
from gaussianocc_core.training.loader import Batch, ColorJitter
from gaussianocc_core.training.motion_search import Guess, MotionSearch, length_error, scale_length, search_length
from gaussianocc_core.training.phases import fit_to_run
from gaussianocc_core.training.photometric import Photometric, reduce_images, shrink_mask, temporal_error
from gaussianocc_core.training.scale import log_factors
from gaussianocc_core.training.view import views_of

WIDTH, HEIGHT = 176, 96
EARLIER, NOW, LATER = 0.9, 1.0, 1.1  # s


@pytest.fixture(scope="module")
def street():
    """Three moments of a world: images (T, N, 3, H, W), true depth now (N, H, W), cameras, ego motions (2, 4, 4)."""
    from gaussianocc_core.synthetic.rig import default_rig
    from gaussianocc_core.synthetic.world import World, render_frame

    world, cameras = World(seed=4, duration=3.0), default_rig()
    cameras = camera_geometry.resize(cameras, WIDTH, HEIGHT)
    frames = [render_frame(world, cameras, camera_times=[t] * len(cameras)) for t in (EARLIER, NOW, LATER)]
    images = torch.from_numpy(np.stack([np.stack(f.images) for f in frames])).permute(0, 1, 4, 2, 3).float() / 255
    depth = torch.from_numpy(np.stack(frames[1].depths))
    depth = torch.where(depth > 0, depth, 200.0)
    motions = [np.linalg.inv(world.T_world_ego(t)) @ world.T_world_ego(NOW) for t in (EARLIER, LATER)]
    return images, depth, cameras.to(dtype=torch.float32), torch.from_numpy(np.stack(motions)).float()


def carried(street, depth_factor=1.0, motion_factor=1.0, levels=1):
    images, depth, cameras, motions = street
    motions = motions.clone()
    motions[:, :3, 3] *= motion_factor
    T_other_cam = neighbour_motions(motions, cameras.T_ego_cam)
    valid = torch.ones_like(depth, dtype=torch.bool)
    settings = Photometric(levels=levels, auto_mask=False)
    error, _ = temporal_error(
        images[1], images[[0, 2]], depth * depth_factor, cameras.intrinsics, T_other_cam, valid, settings
    )
    return float(error)


def batched(cameras):
    return replace(cameras, intrinsics=cameras.intrinsics[None], T_ego_cam=cameras.T_ego_cam[None])


@pytest.mark.medium
def test_temporal_error_is_least_at_the_true_depth_and_motion(street):
    truth = carried(street)
    assert truth < 0.5 * carried(street, motion_factor=0.0)
    assert truth < 0.8 * carried(street, motion_factor=1.5)
    assert truth < 0.8 * carried(street, depth_factor=0.6)


@pytest.mark.medium
def test_temporal_error_does_not_know_the_scale(street):
    assert carried(street, depth_factor=3.0, motion_factor=3.0) == pytest.approx(carried(street), rel=1e-3)


def stage(metric_ground=True, **settings) -> Gsp:
    torch.manual_seed(0)
    depth = replace(SMALL.depth, metric_ground=metric_ground)
    config = replace(SMALL, image_width=WIDTH, image_height=HEIGHT, depth=depth)
    settings = {"ego_motion": "learned", **settings}
    return Gsp(build_depth_net(config), build_pose_net(config), GspConfig(**settings)).eval()


@pytest.mark.medium
def test_fresh_weights_say_the_ground_plane_where_a_pixel_looks_at_it(street):
    images, true_depth, cameras, _ = street
    gsp = stage()
    with torch.no_grad():
        depth = predict_depth(gsp.depth_net, images[1:2], batched(cameras)).depth[0]
    points = camera_geometry.unproject(depth, cameras.intrinsics, cameras.T_ego_cam)
    near = depth < 15.0
    assert near[:, -8:].all()  # all cameras of this rig see the road in front of them
    assert points[..., 2][near].abs().max() < 0.1
    # This world's road is flat: most of what is predicted there, before any training, is right.
    right = (depth / true_depth - 1.0).abs() < 0.05
    assert right[0, -8:].float().mean() > 0.5
    assert depth.max() < 51.0


def test_a_camera_that_is_not_over_the_ground_starts_without_it():
    K, T = torch.eye(3)[None], torch.eye(4)[None].clone()
    T[0, :3, :3] = torch.from_numpy(camera_geometry.view_rotation(0.0)).float()
    T[0, 2, 3] = -0.5
    assert (ground_inv_depth(K, T, 8, 8) == 0).all()
    T[0, 2, 3] = 2.0
    inv_depth = ground_inv_depth(K, T, 1, 1)
    assert inv_depth.item() == pytest.approx(0.5 / 2.0)  # the pixel's centre looks 0.5 down per metre, from 2 m


@pytest.mark.medium
def test_cross_view_error_knows_the_scale(street):
    images, depth, cameras, _ = street
    gsp, valid = stage(), torch.ones_like(depth, dtype=torch.bool)
    scale = torch.full_like(depth, 0.02)

    def error(factor):
        torch.manual_seed(0)
        return float(gsp.cross_view(images[1], depth * factor, scale, cameras, valid))

    errors = {factor: error(factor) for factor in (0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.5)}
    assert min(errors, key=errors.get) == 1.0, errors
    assert errors[0.5] > errors[0.7] > errors[0.85] and errors[1.2] < errors[1.5] < errors[2.5]  # a basin


@pytest.mark.medium
def test_cross_view_gradient_points_to_the_true_scale(street):
    images, depth, cameras, _ = street
    gsp, valid, scale = stage(), torch.ones_like(depth, dtype=torch.bool), torch.full_like(depth, 0.02)
    for log_factor, sign in ((-0.3, -1), (0.3, 1)):
        s = torch.tensor(log_factor, requires_grad=True)
        torch.manual_seed(0)
        gsp.cross_view(images[1], depth * s.exp(), scale, cameras, valid).backward()
        assert s.grad * sign > 0


@pytest.mark.medium
def test_without_the_mask_every_view_draws_itself_and_the_scale_is_lost(street):
    images, depth, cameras, _ = street
    gsp, valid, scale = (
        stage(mask_overlap=False),
        torch.ones_like(depth, dtype=torch.bool),
        torch.full_like(depth, 0.02),
    )
    with torch.no_grad():
        errors = [float(gsp.cross_view(images[1], depth * f, scale, cameras, valid)) for f in (1.0, 2.0)]
    assert errors[1] < 1.15 * errors[0]


def made_up_batch(street) -> Batch:
    images, _, cameras, motions = street
    return Batch(
        tokens=("a",),
        images=(images * 255).round().to(torch.uint8)[None][:, [1, 0, 2]],
        cameras=replace(cameras, intrinsics=cameras.intrinsics[None], T_ego_cam=cameras.T_ego_cam[None]),
        valid=torch.ones(1, len(cameras), HEIGHT, WIDTH, dtype=torch.bool),
        T_target_now=motions[None],
        semantics=None,
        jitter=(ColorJitter(),),
    )


def hinted(street, said, ground=None, **settings):
    """Hints for a depth network that says this, whether each is believed, and the true depth at their size."""
    images, depth, cameras, motions = street
    T_other_cam = neighbour_motions(motions, cameras.T_ego_cam)
    hints, believed = find_hints(
        images[1],
        images[[0, 2]],
        said,
        ground,
        cameras.intrinsics,
        T_other_cam,
        torch.ones_like(depth, dtype=torch.bool),
        HintSettings(**settings),
        Photometric(1.0, 0.15),
    )
    truth = depth[:, 1::2, 1::2]
    assert hints.shape == truth.shape
    return hints, believed, truth


@pytest.mark.medium
def test_hints_correct_what_is_far_off_and_leave_what_is_right(street):
    depth = street[1]
    hints, believed, truth = hinted(street, torch.full_like(depth, 50.0))
    near = truth < 8.0  # what moves by a few pixels at least
    assert believed[near].float().mean() > 0.5
    off = ((hints - truth).abs() / truth)[believed & near]
    assert off.median() < 0.1 and off.median() < 0.05 * ((50.0 - truth) / truth)[believed & near].median()
    _, believed, _ = hinted(street, depth)
    assert believed[near].float().mean() < 0.15


def test_a_believed_hint_pulls_and_its_pixels_leave_the_photometric_error():
    depth = torch.full((1, 4, 4), 2.0, requires_grad=True)
    hints, believed = torch.full((1, 2, 2), 1.0), torch.tensor([[[True, False], [False, False]]])
    error = hint_error(depth, hints, believed, HintSettings(weight=4.0))
    error.backward()
    assert float(error.detach()) == pytest.approx(np.log(2.0))  # of a quarter of the pixels, four times
    assert (depth.grad[0, :2, :2] > 0).all() and depth.grad[0, 2:].abs().sum() == 0
    silent = hinted_pixels(believed, 4, 4)
    assert silent[0, :2, :2].all() and silent.sum() == 4


@pytest.mark.medium
def test_a_silent_strip_does_not_silence_the_coarse_pixels_that_it_is_a_part_of(street):
    images, depth, cameras, motions = street
    T_other_cam = neighbour_motions(motions, cameras.T_ego_cam)
    valid = torch.ones_like(depth, dtype=torch.bool)
    silent = torch.zeros_like(valid)
    silent[:, ::8] = True

    def slope(levels, valid, silent=None):
        z = (depth * 1.1).requires_grad_(True)
        settings = Photometric(0.0, 1.0, levels, auto_mask=False)  # an SSIM window looks over the strip's edge
        temporal_error(images[1], images[[0, 2]], z, cameras.intrinsics, T_other_cam, valid, settings, silent=silent)[
            0
        ].backward()
        return z.grad.abs()

    assert slope(1, valid, silent)[:, ::8].sum() == 0 and slope(1, valid, silent)[:, 4::8].sum() > 0
    assert valid.all()  # what is passed is not written to
    # Of coarse pixels 2 and 4 wide every row of the 8 would lose its fourth or its half.
    between = slice(1, None, 8)  # beside the strip, in the same coarse pixel
    assert (slope(3, valid, silent) - slope(3, valid & ~silent))[:, between].sum() > 0


@pytest.mark.medium
def test_the_ground_is_a_hint_where_ground_is_seen(street):
    _, depth, cameras, _ = street
    ground = ground_inv_depth(cameras.intrinsics, cameras.T_ego_cam, WIDTH, HEIGHT, stride=1)
    hints, believed, truth = hinted(street, depth * 0.6, ground)
    plane = (1.0 / ground.clamp(min=1e-3))[:, 1::2, 1::2]
    road = ((plane / truth - 1.0).abs() < 0.05) & (truth > 8.0) & (truth < 20.0)
    # A sweep has steps of a tenth out there; the plane is exact.
    assert ((hints / truth - 1.0).abs()[road & believed] < 0.06).float().mean() > 0.55
    assert believed[road].float().mean() > 0.2
    wall = (plane / truth > 2.0) & (truth > 8.0)
    assert ((hints / plane - 1.0).abs()[wall & believed] > 0.1).float().mean() > 0.9


@pytest.mark.medium
def test_a_search_knows_how_far_the_robot_went(street):
    images, depth, cameras, motions = street
    gsp, frames, everywhere = stage(), images[[1, 0, 2]], torch.ones_like(depth, dtype=torch.bool)
    ground = ground_of(gsp.depth_net.head, cameras)
    by_depth = [Guess(depth, everywhere)]
    by_ground = [Guess(plane_depth(ground.plane()), ground.is_shown(depth, ground.plane()))]

    def found(guesses, factor, **settings):
        told = scale_length(motions, factor)
        return factor * float(search_length(frames, guesses, cameras, told, MotionSearch(**settings)))

    for factor in (0.8, 1.0, 1.25):
        assert found(by_depth, factor) == pytest.approx(1.0, abs=0.04)
        assert found(by_ground, factor) == pytest.approx(1.0, abs=0.15)  # pavements are a little nearer than the road
    assert found(by_depth, 2.0) == pytest.approx(2.0 / 1.4, rel=0.15)  # as far as it goes
    nowhere = torch.zeros_like(everywhere)
    assert found([Guess(depth, nowhere)], 0.8) == pytest.approx(0.8)  # nothing says otherwise
    still = motions.clone()
    still[:, :3, 3] = 0.0
    assert search_length(frames, by_depth, cameras, still, MotionSearch()) == 1.0
    dark = torch.full_like(frames, 0.02)
    assert search_length(dark, by_depth, cameras, motions, MotionSearch()) == 1.0


@pytest.mark.medium
def test_stage_2_takes_the_learnt_motion_as_long_as_its_frozen_depth_head_says(street):
    images, depth, _, motions = street
    model_config = replace(SMALL, image_width=WIDTH, image_height=HEIGHT)
    (view,) = views_of(made_up_batch(street), None)
    view = replace(view, colors=images[[1, 0, 2]])

    def taken(frozen=True, **settings):
        config = GsvConfig(ego_motion="learned", **settings)
        gsv = Gsv(build_model(model_config), build_pose_net(model_config), config, model_config.grid, frozen)
        found = gsv._measured(view, 1.0 / depth, scale_length(motions, 1.25))
        return float((found[:, :3, 3].norm(dim=-1) / motions[:, :3, 3].norm(dim=-1)).mean())

    assert taken() == pytest.approx(1.0, abs=0.04)
    assert taken(frozen=False) == pytest.approx(1.25)  # a head that learns from motion does not judge it
    assert taken(length_search=MotionSearch(factor=1.0)) == pytest.approx(1.25)


def test_the_length_error_pulls_the_network_to_what_was_found():
    motion = torch.eye(4).repeat(2, 1, 1)
    motion[:, 0, 3] = 0.5
    motion.requires_grad_()
    length_error(motion, torch.tensor(1.2)).backward()
    assert (motion.grad[:, 0, 3] < 0).all() and motion.grad[:, :3, :3].abs().sum() == 0
    assert float(length_error(motion.detach(), torch.tensor(1.2))) == pytest.approx(0.3 * 0.1 / 0.65)


def test_a_ground_that_is_not_metric_follows_the_learnt_scale():
    cameras = camera_geometry.resize(ring(), WIDTH, HEIGHT).to(dtype=torch.float32)
    heads = [
        build_depth_head(replace(SMALL, depth=replace(SMALL.depth, ground=g, metric_ground=metric)))
        for g, metric in ((1.0, True), (1.0, False), (0.0, False))
    ]
    metric, learnt, none = (ground_of(head, cameras) for head in heads)
    torch.testing.assert_close(learnt.plane(scale=2.0), metric.plane(scale=2.0) / 2.0)
    assert none is None


@pytest.mark.medium
def test_the_search_finds_a_scale_that_is_off(street):
    batch = made_up_batch(street)
    _, depth, _, _ = street
    wrong = depth[None] * 2.0  # as if the depth network had learnt everything but the scale

    def told_wrong(metric_ground):
        gsp = stage(metric_ground, search_at=0.0, search_batches=2, search_factor=4.0)
        said = gsp.predict_depth
        gsp.predict_depth = lambda *arguments: replace(said(*arguments), depth=wrong)
        assert gsp.before_step([batch], 0, 10, lambda sums: None) == ""
        return gsp

    gsp = told_wrong(metric_ground=False)
    line = gsp.before_step([batch], 1, 10, lambda sums: None)
    assert "scale" in line and float(gsp.log_scale.detach().exp()) == pytest.approx(0.5, rel=0.12)
    assert gsp.before_step([batch], 2, 10, lambda sums: None) == ""  # once
    gsp = told_wrong(metric_ground=True)  # which says it better: not searched
    assert gsp.before_step([batch], 1, 10, lambda sums: None) == "" and float(gsp.log_scale.detach()) == 0.0


def test_a_scale_that_explains_hardly_more_is_not_taken():
    """Errors as they are while most depth is wrong: a few percent less at a third of the scale."""
    gsp = stage(search_at=0.0, search_batches=1)

    def found(errors):
        gsp.search_sums.zero_()
        with torch.no_grad():
            gsp.log_scale.zero_()
        sums = torch.stack([errors, torch.ones(len(errors))])
        gsp.before_step([], 0, 10, lambda empty: empty.copy_(sums))
        return float(gsp.log_scale.detach().exp())

    factors = log_factors(gsp.config.search_factor)
    slope = 0.243 + 0.01 * factors  # 0.232 at a third, 0.254 at three times
    assert found(slope) == pytest.approx(0.9, abs=0.08)
    valley = 0.14 + 0.06 * (factors - np.log(0.6)).abs().clamp(max=1.0)
    assert found(valley) == pytest.approx(0.6, rel=0.05)


def test_in_a_short_run_motion_learns_for_a_larger_share():
    config = GspConfig()
    assert fit_to_run(config, 3000) == config
    short = fit_to_run(config, 500)
    assert short.motion_share == 0.3 and short.search_at == pytest.approx(0.45) and short.refine_share == 0.2
    shortest = fit_to_run(config, 10)
    assert shortest.motion_share == 0.4 and shortest.search_at == pytest.approx(0.6)
    knows = replace(config, motion_share=0.0, search_at=0.0)  # from weights that know motion
    assert fit_to_run(knows, 10).search_at == 0.0


@pytest.mark.medium
def test_motion_learns_first_then_both_then_motion_rests(street):
    gsp, batch = stage().train(), made_up_batch(street)

    def learns(progress):
        gsp.zero_grad(set_to_none=True)
        named = gsp(batch, progress)
        named["total"].backward()
        return {
            "depth": gsp.depth_net.image_encoder.conv1.weight.grad is not None,
            "pose": gsp.pose_net.head[0].weight.grad is not None,
            "cross": "cross" in named,
            "hints": "hints" in named,
            "scale": gsp.log_scale.grad is not None,
        }

    assert learns(0.05) == {"depth": False, "pose": True, "cross": False, "hints": False, "scale": False}
    assert learns(0.15) == {"depth": True, "pose": True, "cross": True, "hints": True, "scale": False}
    assert learns(0.5) == {"depth": True, "pose": True, "cross": True, "hints": True, "scale": True}
    assert learns(0.95) == {"depth": True, "pose": False, "cross": False, "hints": True, "scale": False}


@pytest.mark.medium
def test_hints_whisper_until_there_is_depth_and_then_silence_the_photometric_error(street):
    gsp, batch = stage(length_search=MotionSearch(factor=1.0), cross_weight=0.0).eval(), made_up_batch(street)
    with torch.no_grad():
        gsp.pose_net.head[-1].bias[3] += 50.0  # the rig moves half a metre, or nothing could be believed
        early, late = gsp(batch, 0.15), gsp(batch, 0.5)
    assert float(early["hints"]) == pytest.approx(0.15 * float(late["hints"]), rel=1e-4)
    assert late["hints"] > 0 and early["temporal"] != late["temporal"]


def test_pyramids_halve_and_masks_shrink_only_where_all_is_true():
    images = torch.arange(2 * 3 * 8 * 12, dtype=torch.float32).view(2, 3, 8, 12)
    pyramid = reduce_images(images, 3)
    assert [tuple(level.shape) for level in pyramid] == [(2, 3, 8, 12), (2, 3, 4, 6), (2, 3, 2, 3)]
    assert pyramid[1][0, 0, 0, 0] == images[0, 0, :2, :2].mean()
    mask = torch.ones(1, 4, 4, dtype=torch.bool)
    mask[0, 0, 0] = False
    assert shrink_mask(mask, 2, 2).tolist() == [[[False, True], [True, True]]]


def test_a_pixels_gaussian_is_opaque_isotropic_and_of_its_color():
    gaussians = pixel_gaussians(torch.zeros(2, 3), torch.rand(2, 3), torch.tensor([0.01, 0.02]))
    assert gaussians.opacities.tolist() == [1.0, 1.0]
    torch.testing.assert_close(gaussians.scales, torch.tensor([[0.01] * 3, [0.02] * 3]))


@pytest.mark.medium
def test_the_learnt_scale_is_part_of_the_model_file(tmp_path, street):
    from gaussianocc_core.checkpoint import Provenance, load_depth_net, load_model, load_pose_net
    from gaussianocc_core.training.config import TrainConfig
    from gaussianocc_core.training.stages import save_stage

    gsp = stage()
    config = TrainConfig(model=replace(SMALL, image_width=WIDTH, image_height=HEIGHT), half_weights=False)
    with torch.no_grad():
        gsp.log_scale += np.log(1.7)
        gsp.pose_net.head[-1].bias += 0.3
    images, cameras = torch.rand(1, 6, 3, HEIGHT, WIDTH), batched(street[2])
    path = tmp_path / "model.safetensors"
    save_stage(gsp, config, path, Provenance("test"))
    depth_net, pose_net = load_depth_net(path).depth_net, load_pose_net(path).pose_net
    with torch.no_grad():
        before, after = (predict_depth(net, images, cameras).depth for net in (gsp.depth_net, depth_net))
        torch.testing.assert_close(after, 1.7 * before)
        ours, theirs = gsp.pose_net(images, images), pose_net(images, images)
    torch.testing.assert_close(theirs.translation, 1.7 * ours.translation)
    torch.testing.assert_close(theirs.axis_angle, ours.axis_angle)
    with pytest.raises(CheckpointError, match="only those of the first training stage"):
        load_model(path)


@pytest.mark.medium
def test_cameras_that_fire_one_after_another_know_the_scale_only_where_motion_places_them():
    """Twice the nuScenes car's delays at half its speed: the robot moves up to a quarter of a metre within a set."""
    from gaussianocc_core.synthetic.rig import default_rig
    from gaussianocc_core.synthetic.world import World, render_frame

    world = World(seed=4, duration=3.0)
    cameras = camera_geometry.resize(default_rig(), WIDTH, HEIGHT).to(dtype=torch.float32)
    after = np.array([0.0, 0.016, 0.030, 0.050, 0.070, -0.016])  # s
    frame = render_frame(world, cameras, camera_times=list(NOW + after))
    images = torch.from_numpy(np.stack(frame.images)).permute(0, 3, 1, 2).float() / 255
    depth = torch.from_numpy(np.stack(frame.depths))
    depth = torch.where(depth > 0, depth, 200.0)
    poses = torch.from_numpy(np.stack([world.T_world_ego(NOW + t) for t in after]))
    motions = torch.from_numpy(
        np.stack([np.linalg.inv(world.T_world_ego(t)) @ world.T_world_ego(NOW) for t in (EARLIER, LATER)])
    ).float()
    batch = Batch(
        ("a",),
        (images[None, None].repeat(1, 3, 1, 1, 1, 1) * 255).byte(),
        batched(cameras),
        torch.ones(1, *depth.shape, dtype=torch.bool),
        motions[None],
        None,
        (ColorJitter(),),
        lags=torch.from_numpy(after / (LATER - NOW))[None].float(),
    )
    gsp = stage(cross=Photometric(levels=1, auto_mask=False))
    placed = gsp.place(views_of(batch, None)[0], motions)
    true = camera_geometry.relocate(cameras, poses, poses[0])
    torch.testing.assert_close(placed.T_ego_cam, true.T_ego_cam, atol=3e-3, rtol=0)
    assert (cameras.T_ego_cam - true.T_ego_cam).abs().max() > 0.2

    def error(factor: float, where) -> float:
        torch.manual_seed(0)  # the same sides of the overlaps
        scale = torch.full_like(depth, 0.03)
        return float(gsp.cross_view(images, depth * factor, scale, cameras, batch.valid[0], where))

    factors = (0.85, 0.93, 1.0, 1.08, 1.18)
    with_motion, without = ([error(f, where) for f in factors] for where in (placed, cameras))
    assert factors[int(np.argmin(with_motion))] == 1.0
    assert min(with_motion) < 0.9 * min(without)


def test_a_share_of_a_motion_is_the_motion_at_constant_speed():
    yaw = torch.tensor([0.0, 0.3, -1.2])
    T = torch.eye(4).repeat(3, 1, 1)
    T[:, 0, 0], T[:, 0, 1], T[:, 1, 0], T[:, 1, 1] = yaw.cos(), -yaw.sin(), yaw.sin(), yaw.cos()
    T[:, :3, 3] = torch.tensor([1.0, -2.0, 0.5])
    half = transforms.take_share(T, torch.full((3,), 0.5))
    for i in range(3):
        expected = transforms.interpolate(np.eye(4), T[i].double().numpy(), 0.5)
        np.testing.assert_allclose(half[i], expected, atol=1e-6)
    torch.testing.assert_close(transforms.take_share(T, torch.ones(3)), T)
    torch.testing.assert_close(transforms.take_share(T, torch.zeros(3)), torch.eye(4).repeat(3, 1, 1))


@pytest.mark.medium
def test_the_default_objective_leads_depth_from_the_bare_ground_to_the_truth(street):
    """All terms together, as a run has them once it is established, on depth that may be anything at each pixel."""
    _, truth, _, motions = street
    gsp, batch = stage(), made_up_batch(street)
    with torch.no_grad():
        first = gsp.predict_depth(batch.jittered(), batch.cameras)
    log_depth = first.depth.log().requires_grad_(True)
    gsp.predict_depth = lambda *_: replace(first, depth=log_depth.exp())
    gsp.ego_motion = lambda _: scale_length(motions, 1.15)[None]  # too long, as a network would have it

    def error(where):
        return float((log_depth.detach()[0] - truth.log()).abs()[where].mean())

    standing = (truth < 20.0) & ((first.depth[0] / truth).log().abs() > 0.3)  # what a bare ground is wrong about
    before, before_all = error(standing), error(truth < 50.0)
    optimiser = torch.optim.Adam([log_depth], lr=0.1)
    for step in range(25):
        torch.manual_seed(step)
        optimiser.zero_grad()
        gsp(batch, 0.5)["total"].backward()
        optimiser.step()
    assert error(standing) < 0.6 * before, (before, error(standing))
    assert error(truth < 50.0) < 0.7 * before_all, (before_all, error(truth < 50.0))
