# SPDX-License-Identifier: Apache-2.0
"""Stage 1 with odometry: used where it is, checked against what two cameras of a rig measure of each other."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.small_model import SMALL

from gaussianocc_core.errors import DatasetError
from gaussianocc_core.geometry.cameras import view_rotation
from gaussianocc_core.models.gaussianocc import build_depth_net, build_model, build_pose_net
from gaussianocc_core.training.config import GspConfig, GsvConfig
from gaussianocc_core.training.gsp import Gsp
from gaussianocc_core.training.gsv import Gsv
from gaussianocc_core.training.loader import Batch, ColorJitter
from gaussianocc_core.training.motion_search import scale_length
from gaussianocc_core.training.odometry import (
    CAMERAS,
    DELAYS_S,
    GROUND,
    LOG_FACTORS,
    OdometryTrial,
    Shifted,
    ShiftTrial,
    best_factor,
    find_fault,
    judge_odometry,
    motion_error,
)
from gaussianocc_core.types import PINHOLE, Cameras

pytestmark = pytest.mark.medium
WIDTH, HEIGHT, FOCAL, APART = 176, 96, 130.0, 0.1  # px, s


def stereo_rig() -> Cameras:
    K = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1.0]])
    T = torch.eye(4).repeat(2, 1, 1)
    T[:, :3, :3] = torch.from_numpy(view_rotation(0.0)).float()
    T[0, :3, 3], T[1, :3, 3] = torch.tensor([1.5, 0.25, 1.5]), torch.tensor([1.5, -0.25, 1.5])
    return Cameras(("left", "right"), K.repeat(2, 1, 1), T, (WIDTH,) * 2, (HEIGHT,) * 2, (PINHOLE,) * 2, ((),) * 2)


@pytest.fixture(scope="module")
def drive() -> list[Batch]:
    """Five moments of a street as two cameras see it, with the true motion."""
    from gaussianocc_core.synthetic.world import World, render_frame

    world, cameras = World(seed=4, duration=5.0), stereo_rig()
    made = []
    for now in (0.8, 1.4, 2.0, 2.6, 3.2):
        times = (now, now - APART, now + APART)
        frames = [render_frame(world, cameras, camera_times=[t, t]) for t in times]
        T_world = [world.T_world_ego(t) for t in times]
        motions = np.stack([np.linalg.inv(T) @ T_world[0] for T in T_world[1:]])
        images = torch.from_numpy(np.stack([np.stack(frame.images) for frame in frames])).permute(0, 1, 4, 2, 3)
        made.append(
            Batch(
                tokens=(f"{now}",),
                images=images[None],
                cameras=replace(cameras, intrinsics=cameras.intrinsics[None], T_ego_cam=cameras.T_ego_cam[None]),
                valid=torch.ones(1, 2, HEIGHT, WIDTH, dtype=torch.bool),
                T_target_now=torch.from_numpy(motions).float()[None],
                semantics=None,
                jitter=(ColorJitter(),),
            )
        )
    return made


def stage(**settings) -> Gsp:
    torch.manual_seed(0)
    config = replace(SMALL, image_width=WIDTH, image_height=HEIGHT, depth=replace(SMALL.depth, metric_ground=False))
    return Gsp(build_depth_net(config), build_pose_net(config), GspConfig(**settings))


def told(drive: list[Batch], factor: float) -> list[Batch]:
    return [replace(each, T_target_now=scale_length(each.T_target_now[0], factor)[None]) for each in drive]


def test_odometry_that_is_right_is_taken_as_it_is(drive):
    gsp = stage()
    (line,) = gsp.begin(drive)
    assert "recorded" in line and "agrees with what overlapping cameras measure" in line
    torch.testing.assert_close(gsp.recorded_motion(drive[0]), drive[0].T_target_now)


@pytest.mark.parametrize("factor", [1.1, 0.8])
def test_odometry_of_a_wrong_scale_is_said_and_the_cameras_have_the_last_word(drive, factor):
    gsp = stage()
    (line,) = gsp.begin(told(drive, factor))
    assert "as long as by what overlapping cameras measure, which has the scale" in line
    assert float(gsp.odometry_factor) == pytest.approx(1 / factor, rel=0.04)
    taken = gsp.recorded_motion(told(drive, factor)[0])
    torch.testing.assert_close(taken, scale_length(drive[0].T_target_now[0], 1.0)[None], rtol=0.05, atol=0.03)


def test_odometry_of_another_robot_is_not_used_unless_it_must_be(drive):
    backwards = told(drive, -1.0)
    gsp = stage()
    (line,) = gsp.begin(backwards)
    assert "not used" in line and torch.isnan(gsp.recorded_motion(backwards[0])).all()
    required = stage(ego_motion="sensor")
    (line,) = required.begin(backwards)
    assert "used all the same" in line and torch.isfinite(required.recorded_motion(backwards[0])).all()


def test_who_has_no_poses_learns_its_motion(drive):
    blind = [replace(each, T_target_now=torch.full_like(each.T_target_now, torch.nan)) for each in drive]
    gsp = stage()
    assert "none is recorded" in gsp.begin(blind)[0]
    with pytest.raises(DatasetError, match="have no poses"):
        stage(ego_motion="sensor").recorded_motion(blind[0])
    gsp = stage()
    (line,) = gsp.begin([*blind[:2], *drive])
    assert "2 of 7 samples have no poses" in line
    # Early in a run, motion that is being learnt teaches depth nothing; motion that is recorded does.
    gsp.train()
    learning, knowing = gsp(blind[0], 0.01), gsp(drive[0], 0.01)
    assert "stereo" not in learning and "motion" not in learning
    assert float(knowing["motion"].detach()) > 0 and float(knowing["stereo"].detach()) > 0
    assert "motion" not in stage(ego_motion="learned").train()(drive[0], 0.01)


def test_recorded_motion_teaches_the_network_of_learnt_motion(drive):
    gsp = stage(cross_weight=0.0).train()
    optimiser = torch.optim.Adam(gsp.pose_net.parameters(), lr=4e-3)
    errors = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = motion_error(gsp.ego_motion(drive[0].jittered())[0], gsp.recorded_motion(drive[0])[0])
        loss.backward()
        optimiser.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.5 * errors[0]


def test_the_last_word_on_odometry():
    def trials(factors, explains=0.5):
        """As if errors were a parabola about each factor."""
        return [OdometryTrial(0.5, explains + 0.2 * (LOG_FACTORS - np.log(factor)) ** 2) for factor in factors]

    assert judge_odometry(trials([1.0, 1.01, 0.99, 1.02, 1.0]), CAMERAS).factor == 1.0
    noisy = judge_odometry(trials([0.7, 1.1, 1.5, 0.8, 1.25, 0.9]), CAMERAS)
    assert noisy.factor == 1.0 and noisy.used  # six that contradict each other prove nothing
    assert judge_odometry(trials([0.9] * 6), CAMERAS).factor == pytest.approx(0.9, rel=1e-3)
    alone = judge_odometry(trials([0.9] * 6), None)
    assert alone.factor == 1.0 and "says the scale" in alone.line
    drifts = judge_odometry(trials([1.0] * 6 + [0.8] * 6), CAMERAS)
    assert "it grows by +25 %" in drifts.line
    few = judge_odometry(trials([0.5] * 2), CAMERAS)
    assert few.factor == 1.0 and "too few" in few.line
    assert not judge_odometry(trials([1.0] * 6, explains=1.1), CAMERAS).used
    late = judge_odometry(trials([1.0] * 6), CAMERAS, fault="its stamps are late")
    assert not late.used and "does not fit the images: its stamps are late; it is not used" in late.line
    kept = judge_odometry(trials([1.0] * 6), CAMERAS, "as it must be", "its stamps are late")
    assert kept.used and kept.line.endswith("it is used all the same, as it must be")


def test_the_height_over_the_ground_is_a_weaker_witness_than_cameras():
    """A road is no plane: it does not overrule odometry by some percent, as what two cameras measure does."""
    trials = [OdometryTrial(0.5, 0.5 + 0.2 * (LOG_FACTORS - np.log(1.05)) ** 2)] * 12
    assert judge_odometry(trials, CAMERAS).factor == pytest.approx(1.05, rel=1e-3)
    by_ground = judge_odometry(trials, GROUND)
    assert by_ground.factor == 1.0 and "agrees with the height of the cameras over the ground" in by_ground.line
    assert "(0.95 +- 0.04)" in by_ground.line
    far_off = [OdometryTrial(0.5, 0.5 + 0.2 * (LOG_FACTORS - np.log(1.2)) ** 2)] * 12
    assert judge_odometry(far_off, GROUND).factor == pytest.approx(1.2, rel=1e-3)


def test_faults_are_named_only_where_the_samples_agree():
    random = np.random.default_rng(0)

    def shifts(late, noise=0.0, reversed_=0.9, count=10):
        lates = late + noise * random.normal(size=count)
        return [ShiftTrial(0.5 + 0.3 * (DELAYS_S - each) ** 2, reversed_) for each in lates]

    assert find_fault(shifts(0.0)) == find_fault(shifts(0.02)) == find_fault(shifts(0.2, count=3)) == ""
    assert find_fault(shifts(0.15, noise=0.6)) == ""
    assert find_fault(shifts(0.2, noise=0.05)).startswith("its stamps are 2") and "later" in find_fault(shifts(0.2))
    assert "its stamps are 200 ms (+- 0) earlier than those of the images" in find_fault(shifts(-0.2))
    assert "it turns the other way than the images, in 10 of 10" in find_fault(shifts(0.0, reversed_=0.3))


def test_all_samples_together_know_the_length_better_than_one():
    random = np.random.default_rng(0)
    curves = [
        OdometryTrial(0.5, 0.5 + 0.2 * (LOG_FACTORS - np.log(1.1) - random.normal(0, 0.1)) ** 2) for _ in range(12)
    ]
    found, error = best_factor(curves)
    assert found == pytest.approx(np.log(1.1), abs=0.07) and 0.01 < error < 0.06


# ---- late, reversed, of another axis ---------------------------------------------------------------------------------

TURNS = (1.7, 1.8, 1.9, 2.0, 2.1, 8.7, 8.8, 8.9, 9.0, 9.1)  # s, when this street bends or is straight again


@pytest.fixture(scope="module")
def bends():
    """World of a street that bends, and moments about the bends without motion."""
    from gaussianocc_core.synthetic.world import World, render_frame

    world, cameras = World(seed=7, duration=12.0), stereo_rig()
    made = []
    for now in TURNS:
        frames = [render_frame(world, cameras, camera_times=[t, t]) for t in (now, now - APART, now + APART)]
        images = torch.from_numpy(np.stack([np.stack(frame.images) for frame in frames])).permute(0, 1, 4, 2, 3)
        made.append((now, images[None]))
    return world, made


def moments(bends, pose):
    """Batches with the motion by `pose`, a function of time, and the same with that motion late by DELAYS_S."""
    _, made = bends
    cameras = stereo_rig()

    def motions(now, late):
        here, *there = (pose(t + late) for t in (now, now - APART, now + APART))
        return torch.from_numpy(np.stack([np.linalg.inv(T) @ here for T in there])).float()

    batches = [
        Batch(
            tokens=(f"{now}",),
            images=images,
            cameras=replace(cameras, intrinsics=cameras.intrinsics[None], T_ego_cam=cameras.T_ego_cam[None]),
            valid=torch.ones(1, 2, HEIGHT, WIDTH, dtype=torch.bool),
            T_target_now=motions(now, 0.0)[None],
            semantics=None,
            jitter=(ColorJitter(),),
        )
        for now, images in made
    ]
    shifted = [
        Shifted(batch, torch.stack([motions(now, late) for late in DELAYS_S]))
        for batch, (now, _) in zip(batches, made, strict=True)
    ]
    return batches, shifted


@pytest.mark.parametrize("late", [0.2, -0.2, 0.3])
def test_odometry_that_is_late_is_named_and_not_used(bends, late):
    batches, shifted = moments(bends, lambda t: bends[0].T_world_ego(t - late))
    gsp = stage()
    (line,) = gsp.begin(batches, lambda: shifted)
    said = float(line.split("its stamps are ")[1].split(" ms")[0])
    assert said == pytest.approx(1000 * abs(late), abs=50) and ("later" if late > 0 else "earlier") in line
    assert "it is not used, motion is learnt from the images" in line
    assert torch.isnan(gsp.recorded_motion(batches[0])).all()


def test_odometry_in_time_is_used_where_it_turns(bends):
    batches, shifted = moments(bends, bends[0].T_world_ego)
    gsp = stage()
    (line,) = gsp.begin(batches, lambda: shifted)
    assert "explains the images in 10 of 10" in line and "agrees" in line and float(gsp.odometry_factor) == 1.0


def test_turns_of_the_wrong_sign_are_named(bends):
    mirror = np.diag([1.0, -1.0, 1.0, 1.0])
    batches, shifted = moments(bends, lambda t: mirror @ bends[0].T_world_ego(t) @ mirror)
    gsp = stage()
    (line,) = gsp.begin(batches, lambda: shifted)
    assert "it turns the other way than the images" in line and torch.isnan(gsp.odometry_factor)


@pytest.mark.parametrize("yaw", [90, 180])
def test_motion_along_another_axis_is_named(bends, yaw):
    turn = np.eye(4)
    turn[:2, :2] = np.round([[np.cos(np.radians(yaw)), -np.sin(np.radians(yaw))],
                             [np.sin(np.radians(yaw)), np.cos(np.radians(yaw))]])  # fmt: skip
    batches, shifted = moments(bends, lambda t: bends[0].T_world_ego(t) @ turn)
    gsp = stage()
    (line,) = gsp.begin(batches, lambda: shifted)
    assert "another frame, axis, sign or clock" in line and torch.isnan(gsp.odometry_factor)


# ---- the second stage ------------------------------------------------------------------------------------------------


def second_stage(**settings) -> Gsv:
    torch.manual_seed(0)
    config = replace(SMALL, image_width=WIDTH, image_height=HEIGHT, depth=replace(SMALL.depth, metric_ground=False))
    config_gsv = GsvConfig(ego_motion="auto", render_height=24, render_width=40, **settings)
    return Gsv(build_model(config), build_pose_net(config), config_gsv, config.grid)


def test_the_second_stage_takes_odometry_as_long_as_the_cameras_say(drive):
    gsv, long = second_stage(), told(drive, 1.1)
    (line,) = gsv.begin(long)
    assert "as long as by what overlapping cameras measure, which has the scale" in line
    taken = gsv._with_recorded_motion(replace(long[0], T_history_now=long[0].T_target_now))
    torch.testing.assert_close(taken.T_target_now, drive[0].T_target_now, rtol=0.05, atol=0.03)
    torch.testing.assert_close(taken.T_history_now, taken.T_target_now)
    assert float(second_stage().begin(drive)[0].count("agrees")) == 1


def test_the_second_stage_does_not_train_on_late_odometry(bends):
    batches, shifted = moments(bends, lambda t: bends[0].T_world_ego(t - 0.2))
    gsv = second_stage()
    (line,) = gsv.begin(batches, lambda: shifted)
    assert "its stamps are" in line and "not used" in line
    assert not gsv._recorded(gsv._with_recorded_motion(batches[0])).any()
    alone = second_stage()
    alone.pose_net = None  # then there is no other motion: it is said, and used
    (line,) = alone.begin(batches, lambda: shifted)
    assert "used all the same, as no first stage learnt motion" in line and float(alone.odometry_factor) == 1.0
