# SPDX-License-Identifier: Apache-2.0
"""Large faults: each is told from the others, and a rig without one has none."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.seen_points import Drive

from gaussianocc_core.geometry.transforms import invert_matrix, make_transform
from gaussianocc_core.onboarding.doctor.cross import merge
from gaussianocc_core.onboarding.doctor.opinions import from_delay
from gaussianocc_core.onboarding.doctor.readings import AS_IT_IS, Evidence, find_reading
from gaussianocc_core.onboarding.doctor.rotations import exp_rotation, see_motion
from gaussianocc_core.onboarding.doctor.temporal import Step, estimate_delay

HALF_TURN, QUARTER = np.diag([-1.0, -1.0, 1.0]), exp_rotation(np.array([0, 0, np.pi / 2]))
BODY_OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
MIRROR = np.diag([-1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def drive():
    drive = Drive()
    return drive, drive.steps(), drive.cross()


def read(drive, steps, cross, T=None, pose=None):
    cameras = drive.cameras
    if T is not None:
        cameras = replace(cameras, T_ego_cam=torch.from_numpy(np.stack(T)))
    return find_reading(Evidence.gather(cameras, steps, merge(cross, ()), pose or drive.pose))[0]


def test_a_rig_that_is_right_is_read_as_it_is(drive):
    reading = read(*drive)
    assert not reading.odometry.fault and all(each is AS_IT_IS for each in reading.cameras)


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        (HALF_TURN, "upside down"),
        (QUARTER, "rotated by 90 degrees"),
        (BODY_OPTICAL.T, "axes of a body"),
    ],
)
@pytest.mark.parametrize("camera", [0, 2])
def test_a_camera_that_is_turned_by_a_lot_is_named(drive, turn, said, camera):
    T = list(drive[0].T_ego_cam)
    T[camera] = T[camera] @ make_transform(turn, np.zeros(3))
    reading = read(*drive, T=T)
    assert [said in each.fault for each in reading.cameras] == [k == camera for k in range(4)]
    assert not reading.odometry.fault


@pytest.mark.parametrize("pair", [(0, 1), (1, 2), (0, 3)])
def test_swapped_cameras_are_named(drive, pair):
    T = list(drive[0].T_ego_cam)
    T[pair[0]], T[pair[1]] = T[pair[1]], T[pair[0]]
    reading = read(*drive, T=T)
    assert [each.calibration for each in reading.cameras] == [
        pair[1] if k == pair[0] else pair[0] if k == pair[1] else -1 for k in range(4)
    ]


def test_mirrored_images_are_named():
    drive = Drive()

    def change(camera, rays):
        return rays @ MIRROR if camera == 0 else rays

    reading = read(drive, drive.steps(change), drive.cross(change, mirrored=(0,)))
    assert [each.fault for each in reading.cameras] == ["its images are mirrored", "", "", ""]


def test_a_focal_length_of_twice_the_true_one_is_named():
    drive = Drive()

    def change(camera, rays):
        if camera != 1:
            return rays
        rays = rays * (0.5, 0.5, 1.0)
        return rays / np.linalg.norm(rays, axis=1, keepdims=True)

    reading = read(drive, drive.steps(change), drive.cross(change))
    assert reading.cameras[1].factor == 2.0 and reading.cameras[0] is AS_IT_IS


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (invert_matrix, "where the world went"),
        (
            lambda T: T @ make_transform(exp_rotation(np.array([0, 0, np.pi / 2])), np.zeros(3)),
            "x axis points to the left",
        ),
        (lambda T: make_transform(T[:3, :3], -T[:3, 3]), "it drives backwards"),
        (lambda T: make_transform(T[:3, :3].T, T[:3, 3]), "the sign of its rotation"),
    ],
)
def test_odometry_with_another_sign_or_axis_is_named(drive, change, said):
    reading = read(*drive, pose=lambda stamp_ns: change(drive[0].pose(stamp_ns)))
    assert said in reading.odometry.fault and all(each is AS_IT_IS for each in reading.cameras)


@pytest.mark.parametrize("seconds", [0.0, 0.2, -0.12, 0.4])
def test_the_delay_of_odometry_is_measured(drive, seconds):
    drive, steps, _ = drive
    found = estimate_delay(steps, drive.cameras, lambda stamp_ns: drive.pose(stamp_ns - round(seconds * 1e9)))
    assert found.seconds == pytest.approx(seconds, abs=0.015) and found.error < 0.02
    assert found.sure == (seconds != 0.0) and found.known < 0.1


def test_where_nothing_changes_the_delay_is_said_to_be_unknown(drive):
    drive = Drive()
    drive.pose = lambda stamp_ns: make_transform(np.eye(3), np.array([4e-9 * stamp_ns, 0.0, 0.0]))
    late = lambda stamp_ns: drive.pose(stamp_ns - 200_000_000)  # noqa: E731
    found = estimate_delay(drive.steps(), drive.cameras, late)
    assert not found.sure and found.known > 0.3
    notes: list[str] = []
    assert from_delay(found, notes) is None
    assert notes and "cannot be known better than" in notes[0] and "drive curves" in notes[0]


@pytest.mark.parametrize("seconds", [0.0, 0.3, -0.3])
def test_a_stop_tells_the_delay_of_a_straight_drive(seconds):
    """4 m/s to rest in 0.8 s, without a turn."""
    drive = Drive()

    def place(stamp_ns):
        t = stamp_ns * 1e-9 - 3.0
        before, during = min(t, 0.0), np.clip(t, 0.0, 0.8)
        return make_transform(np.eye(3), np.array([4 * before + 4 * during - 2.5 * during**2, 0.0, 0.0]))

    drive.pose = place
    steps = []
    for n in range(18):
        now, later = (round((2.0 + 0.1 * (n + m)) * 1e9) for m in (0, 1))
        (first, a), (second, b) = drive.rays(0, now), drive.rays(0, later)
        _, i, j = np.intersect1d(first, second, return_indices=True)
        seen = see_motion(a[i], b[j], np.radians(0.1))
        kept = seen.inliers
        steps.append(Step(0, (now, later), seen, (a[i][kept], b[j][kept]), (i[kept], j[kept]), 100 + n, strip=0))
    found = estimate_delay(steps, drive.cameras, lambda stamp_ns: place(stamp_ns - round(seconds * 1e9)))
    if seconds:
        assert found.sure and found.seconds == pytest.approx(seconds, abs=0.1)
    else:
        assert not found.sure
