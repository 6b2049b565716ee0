# SPDX-License-Identifier: Apache-2.0
"""Calibrations that no robot has are doubted with their size and what to do; those that robots have are not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.rigs import ring

from gaussianocc_core.errors import CalibrationError
from gaussianocc_core.geometry import plausibility, transforms
from gaussianocc_core.geometry.plausibility import find_doubts, refuse_intrinsics
from gaussianocc_core.geometry.rig_file import load_rig
from gaussianocc_core.types import Cameras

OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])


def camera(K=(500.0, 500.0, 320.0, 240.0), size=(640, 480), model="pinhole", distortion=(), R=OPTICAL, t=(0.3, 0, 1.0)):
    fx, fy, cx, cy = K
    matrix = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
    T = torch.from_numpy(transforms.make_transform(np.array(R, dtype=np.float64), np.array(t, dtype=np.float64)))
    return Cameras(("front",), matrix[None], T[None], (size[0],), (size[1],), (model,), (tuple(distortion),))


def only(cameras: Cameras) -> plausibility.Doubt:
    (doubt,) = find_doubts(cameras, {"front": "front_link"})
    assert doubt.camera == "front" and str(doubt).startswith("camera front: ")
    return doubt


RIGS = sorted((Path(__file__).parents[3] / "config" / "rig").glob("*.yaml"))


@pytest.mark.parametrize("file", RIGS, ids=lambda file: file.stem)
def test_real_rigs_are_believed(file):
    assert find_doubts(load_rig(file)) == ()


def test_a_ring_of_cameras_is_believed():
    assert find_doubts(ring()) == ()


@pytest.mark.parametrize(
    ("K", "size", "said"),
    [
        ((74.9, 75.0, 63.5, 46.0), (516, 386), "middle of 127x92, so K is that of another resolution or binning"),
        ((1000.0, 1000.0, 960.0, 540.0), (640, 360), "(960, 540) lies 100 % of the image off"),
        ((500.0, 500.0, 320.0, 100.0), (640, 480), "cropped needs the crop in the CameraInfo's roi"),
        ((500.0, 500.0, -20.0, 240.0), (640, 480), "is it the image of this calibration?"),
    ],
)
def test_a_principal_point_far_from_the_middle_is_said_with_its_likely_cause(K, size, said):
    doubts = find_doubts(camera(K, size))
    assert doubts[0].kind == plausibility.PRINCIPAL_POINT and said in doubts[0].text


def test_lenses_are_centred_to_a_few_percent_only():
    assert find_doubts(camera((500.0, 505.0, 380.0, 200.0))) == ()


def test_the_identity_is_no_calibration():
    with pytest.raises(CalibrationError, match=r"camera front: K is the identity \(fx 1, fy 1 pixels of 1280x1024\)"):
        refuse_intrinsics("front", np.eye(3), 1280, 1024)
    refuse_intrinsics("front", np.diag([50.0, 50.0, 1.0]), 64, 48)


@pytest.mark.parametrize(
    ("cameras", "kind", "said"),
    [
        (camera((500.0, 300.0, 320.0, 240.0)), plausibility.PIXEL_SHAPE, "500 and 300 pixels"),
        (camera((80.0, 80.0, 320.0, 240.0)), plausibility.FIELD_OF_VIEW, "it sees 152 degrees"),
        (camera((9000.0, 9000.0, 320.0, 240.0)), plausibility.FIELD_OF_VIEW, "it sees 4 degrees"),
        (camera(distortion=(-0.9, 0.0, 0.0, 0.0)), plausibility.FOLD, "beyond 31 degrees from its axis"),
        (camera(R=np.eye(3)), plausibility.BODY_FRAME, "its frame front_link has the axes of a body"),
        (camera(t=(1200.0, 0.0, 800.0)), plausibility.FAR_AWAY, "1442 m from the robot's frame; in millimetres"),
        (
            camera((300.0, 300.0, 320.0, 240.0), model="equidistant", distortion=(-0.6, 0.1, 0.0, 0.0)),
            plausibility.FOLD,
            "degrees from its axis",
        ),
    ],
)
def test_each_doubt_has_its_kind_and_its_size(cameras, kind, said):
    doubt = only(cameras)
    assert doubt.kind == kind and said in doubt.text


@pytest.mark.parametrize("yaw", [0, 50, 180, 275])
def test_body_axes_are_seen_in_any_direction_and_proposals_name_the_frame(yaw):
    c, s = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    doubt = only(camera(R=[[c, -s, 0], [s, c, 0], [0, 0, 1]]))
    assert doubt.kind == plausibility.BODY_FRAME and "(front_optical_frame)" in doubt.text


@pytest.mark.parametrize("pitch", [-90, -60, 0, 30, 60])
def test_cameras_that_look_down_or_a_bit_up_are_believed(pitch):
    angle = np.radians(pitch)
    up = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    assert find_doubts(camera(R=up @ OPTICAL)) == ()


def test_two_cameras_at_one_place_are_said():
    one = camera()
    both = Cameras(
        ("left", "right"), one.intrinsics.repeat(2, 1, 1), one.T_ego_cam.repeat(2, 1, 1), one.width * 2, one.height * 2
    )
    (doubt,) = find_doubts(both)
    assert (doubt.camera, doubt.kind) == ("right", plausibility.SAME_PLACE)
    assert "where left does, 0 m apart" in doubt.text
