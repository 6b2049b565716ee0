# SPDX-License-Identifier: Apache-2.0
"""Stage 1 with odometry: used where it is, checked against what two cameras of a rig measure of each other."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.small_model import SMALL

from gaussianocc_core.errors import DatasetError
from gaussianocc_core.geometry.cameras import view_rotation
from gaussianocc_core.models.gaussianocc import build_depth_net, build_pose_net
from gaussianocc_core.training.config import GspConfig
from gaussianocc_core.training.gsp import Gsp
from gaussianocc_core.training.loader import Batch, ColorJitter
from gaussianocc_core.training.motion_search import scale_length
from gaussianocc_core.training.odometry import LOG_FACTORS, OdometryTrial, best_factor, judge_odometry, motion_error
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

    cameras = "what cameras measure"
    assert judge_odometry(trials([1.0, 1.01, 0.99, 1.02, 1.0]), cameras, False).factor == 1.0
    noisy = judge_odometry(trials([0.7, 1.1, 1.5, 0.8, 1.25, 0.9]), cameras, False)
    assert noisy.factor == 1.0 and noisy.used  # six that contradict each other prove nothing
    assert judge_odometry(trials([0.9] * 6), cameras, False).factor == pytest.approx(0.9, rel=1e-3)
    alone = judge_odometry(trials([0.9] * 6), "", False)
    assert alone.factor == 1.0 and "says the scale" in alone.line
    drifts = judge_odometry(trials([1.0] * 6 + [0.8] * 6), cameras, False)
    assert "it grows by +25 %" in drifts.line
    few = judge_odometry(trials([0.5] * 2), cameras, False)
    assert few.factor == 1.0 and "too few" in few.line
    assert not judge_odometry(trials([1.0] * 6, explains=1.1), cameras, False).used


def test_all_samples_together_know_the_length_better_than_one():
    random = np.random.default_rng(0)
    curves = [
        OdometryTrial(0.5, 0.5 + 0.2 * (LOG_FACTORS - np.log(1.1) - random.normal(0, 0.1)) ** 2) for _ in range(12)
    ]
    found, error = best_factor(curves)
    assert found == pytest.approx(np.log(1.1), abs=0.07) and 0.01 < error < 0.06
