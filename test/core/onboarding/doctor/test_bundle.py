# SPDX-License-Identifier: Apache-2.0
"""Small errors of rotations: found at their size and about their axis, of the camera that has them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.seen_points import Drive

from gaussianocc_core.onboarding.doctor.bundle import solve
from gaussianocc_core.onboarding.doctor.ground import Ground, compare_lengths, find_grounds, judge_grounds
from gaussianocc_core.onboarding.doctor.rotations import exp_rotation
from gaussianocc_core.types import Cameras


@pytest.fixture(scope="module")
def drive():
    drive = Drive()
    return drive, drive.steps(), drive.cross()


def turned(cameras: Cameras, camera: int, degrees: float, axis: int) -> Cameras:
    T = cameras.T_ego_cam.clone()
    vector = np.zeros(3)
    vector[axis] = np.radians(degrees)
    T[camera, :3, :3] = torch.from_numpy(exp_rotation(vector)) @ T[camera, :3, :3]
    return replace(cameras, T_ego_cam=T)


def test_a_rig_that_is_right_stays_where_it_is(drive):
    drive, steps, cross = drive
    found = solve(drive.cameras, steps, cross, drive.pose)
    assert found.by_motion
    for each in found.cameras:
        assert each.size < np.radians(0.1)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("degrees", [1.0, -3.0])
def test_a_turn_of_a_degree_is_found_and_the_proposal_takes_it_back(drive, axis, degrees):
    drive, steps, cross = drive
    wrong = turned(drive.cameras, 1, degrees, axis)
    found = solve(wrong, steps, cross, drive.pose)
    expected = np.zeros(3)
    expected[axis] = -np.radians(degrees)
    np.testing.assert_allclose(found.cameras[1].turn, expected, atol=np.radians(0.15))
    assert found.cameras[1].sure > 5
    for other in (0, 2, 3):
        assert found.cameras[other].size < np.radians(0.25)
    np.testing.assert_allclose(found.corrected(wrong).T_ego_cam, drive.cameras.T_ego_cam, atol=3e-3)


def test_without_odometry_cameras_that_see_the_same_are_compared(drive):
    drive, steps, cross = drive
    found = solve(turned(drive.cameras, 1, 2.0, 1), steps, cross, None)
    assert not found.by_motion
    turn, error = found.between(0, 1)
    assert abs(turn[1] + np.radians(2.0)) < np.radians(0.3) and error[1] < np.radians(0.3)


def test_the_length_of_odometry_and_the_height_of_cameras_are_measured(drive):
    drive, steps, cross = drive

    def longer(stamp_ns):
        T = drive.pose(stamp_ns).copy()
        T[:3, 3] *= 3.281  # feet
        return T

    right, wrong = (compare_lengths(steps, cross, drive.cameras, pose) for pose in (drive.pose, longer))
    assert right.factor == pytest.approx(1.0, abs=0.03) and wrong.factor == pytest.approx(3.281, rel=0.05)
    grounds = find_grounds(steps, drive.cameras, drive.pose)
    assert {ground.camera for ground in grounds} >= {0, 3}
    for ground in grounds:
        assert ground.height == pytest.approx(1.5, rel=0.06) and ground.by_tf == pytest.approx(1.5)


@pytest.mark.parametrize("factor", [0.5, 1.3])
def test_odometry_of_another_length_turns_no_camera_and_is_measured(drive, factor):
    drive, steps, cross = drive

    def longer(stamp_ns):
        T = drive.pose(stamp_ns).copy()
        T[:3, 3] *= factor
        return T

    found = solve(drive.cameras, steps, cross, longer)
    assert max(each.size for each in found.cameras) < np.radians(0.5)
    length = compare_lengths(steps, cross, found.corrected(drive.cameras), longer)
    # Looser than the noise: cameras that turn inwards by 0.2 degrees make up for a part of it.
    assert length.factor == pytest.approx(factor, rel=0.1)


def test_the_ground_agrees_with_tf_by_height_and_tilt_or_the_worst_camera_is_named(drive):
    drive, steps, _ = drive
    opinion = judge_grounds(drive.cameras.names, find_grounds(steps, drive.cameras, drive.pose))
    assert opinion.agrees and "front" in opinion.text and "1.50 m by TF" in opinion.text
    good = Ground(0, 1.55, 1.5, np.radians([0.5, 1.0]), 0.01, 100, 0.9)
    low = replace(good, camera=1, height=1.5, by_tf=1.2)
    tilted = replace(good, camera=2, tilt=np.radians([0.0, 5.0]))
    unclear = replace(low, share=0.4)
    for grounds, agrees, said in (
        ([good], True, "front 1.55 m over it"),
        ([good, low], False, "left 1.50 m over it (1.20 m by TF)"),
        ([good, tilted], False, "right"),
        ([good, unclear], True, "front"),
    ):
        opinion = judge_grounds(drive.cameras.names, grounds)
        assert opinion.agrees == agrees and opinion.text.startswith(said)
    assert judge_grounds(drive.cameras.names, [unclear]) is None
