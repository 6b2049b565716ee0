# SPDX-License-Identifier: Apache-2.0
"""Small errors of rotations: found at their size and about their axis, of the camera that has them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.seen_points import Drive

from gaussianocc_core.onboarding.doctor.bundle import solve
from gaussianocc_core.onboarding.doctor.ground import compare_lengths, find_grounds
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
