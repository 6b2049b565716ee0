# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from support.rigs import ring

from gaussianocc_core.errors import CalibrationError
from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry.rectify import Rectifier


def picture_of(directions: np.ndarray) -> np.ndarray:
    """A smooth coloured sphere: RGB as a function of the viewing direction alone."""
    unit = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    return np.clip(127.5 + 120 * np.sin(3.0 * unit), 0, 255).astype(np.uint8)


def view(rig, index=0) -> np.ndarray:
    rays = camera_geometry.pixel_rays(rig.intrinsics[index : index + 1], rig.width[index], rig.height[index])
    return picture_of(rays[0].numpy())


def fisheye_picture(K: np.ndarray, D: tuple[float, ...], width: int, height: int) -> np.ndarray:
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    points = np.stack([u, v], axis=-1).reshape(-1, 1, 2)
    normal = cv2.fisheye.undistortPoints(points, K, np.array(D)).reshape(height, width, 2)
    return picture_of(np.concatenate([normal, np.ones((height, width, 1))], axis=-1))


def test_undistorted_image_is_only_resized():
    rig = ring(yaws=(0.0,), width=320, height=180)
    rectifier = Rectifier(rig, 160, 90)
    result = rectifier([view(rig)])[0]
    expected = view(camera_geometry.resize(rig, 160, 90))
    assert np.abs(result.astype(int) - expected).max() <= 3  # an average of four pixels against the middle one
    assert rectifier.valid_mask.all() and rectifier.lost_share == (0.0,)


def test_plumb_bob_distortion_is_removed():
    rig = ring(yaws=(0.0,), width=320, height=180)
    K, D = rig.intrinsics[0].numpy(), (-0.25, 0.08, 0.001, -0.0005, 0.0)
    u, v = np.meshgrid(np.arange(320) + 0.5, np.arange(180) + 0.5)
    normal = cv2.undistortPoints(np.stack([u, v], -1).reshape(-1, 1, 2), K, np.array(D)).reshape(180, 320, 2)
    distorted = picture_of(np.concatenate([normal, np.ones((180, 320, 1))], axis=-1))
    rectifier = Rectifier(replace(rig, distortion=(D,)), 160, 90)
    error = np.abs(rectifier([distorted])[0].astype(int) - view(rectifier.cameras))[rectifier.valid_mask[0]]
    assert np.percentile(error, 99) <= 4
    assert np.abs(view(camera_geometry.resize(rig, 160, 90)).astype(int) - cv2.resize(distorted, (160, 90))).max() > 10


def test_equidistant_lens_becomes_a_pinhole_of_the_stated_field_of_view():
    K, D = np.array([[140.0, 0, 160], [0, 140.0, 120], [0, 0, 1]]), (0.02, -0.005, 0.001, 0.0)
    rig = replace(
        ring(yaws=(0.0,), width=320, height=240),
        intrinsics=torch.from_numpy(K)[None],
        model=("equidistant",),
        distortion=(D,),
    )
    rectifier = Rectifier(rig, 160, 96, fisheye_fov_deg=100.0)
    fov = 2 * np.degrees(np.arctan(80 / rectifier.cameras.intrinsics[0, 0, 0].item()))
    assert fov == pytest.approx(100.0, abs=1e-4)
    result = rectifier([fisheye_picture(K, D, 320, 240)])[0]
    error = np.abs(result.astype(int) - view(rectifier.cameras))[rectifier.valid_mask[0]]
    assert np.percentile(error, 99) <= 4
    assert 0.1 < rectifier.lost_share[0] < 0.9  # a 130 degree lens shown at 100 loses its rim


def test_pixels_without_a_source_are_not_valid():
    K = np.array([[140.0, 0, 160], [0, 140.0, 120], [0, 0, 1]])
    rig = replace(
        ring(yaws=(0.0,), width=320, height=240), intrinsics=torch.from_numpy(K)[None], model=("equidistant",)
    )
    rectifier = Rectifier(rig, 160, 96, fisheye_fov_deg=150.0)
    assert not rectifier.valid_mask[0, 48, 0] and rectifier.valid_mask[0, 48, 80]


@pytest.mark.parametrize(
    ("size", "model", "expected"),
    [
        ((1600, 900), "pinhole", 4),  # 200 pixels are too few for 176
        ((1600, 900), "equidistant", 4),
        ((640, 384), "pinhole", 2),
        ((180, 100), "pinhole", 1),
    ],
)
def test_a_decoder_may_shrink_as_far_as_nothing_is_lost(size, model, expected):
    width, height = size
    rig = replace(ring(yaws=(0.0,), width=width, height=height), model=(model,))
    rectifier = Rectifier(rig, 176, 96)
    assert rectifier.reduction(0) == expected
    random = np.random.default_rng(0)
    picture = cv2.resize(random.integers(0, 256, (height // 5, width // 5, 3), np.uint8), size)
    small = cv2.resize(picture, (-(-width // expected), -(-height // expected)), interpolation=cv2.INTER_AREA)
    error = np.abs(rectifier([picture])[0].astype(int) - rectifier([small])[0])[rectifier.valid_mask[0]]
    assert np.percentile(error, 90) <= 8 and error.mean() < 4


def test_reduced_images_are_accepted():
    rig = ring(yaws=(0.0,), width=320, height=180)
    distorted = replace(rig, distortion=((-0.1, 0.01, 0.0, 0.0, 0.0),))
    for cameras in (rig, distorted):
        rectifier = Rectifier(cameras, 80, 48)
        full, half = (
            rectifier([view(rig)])[0],
            rectifier([cv2.resize(view(rig), (160, 90), interpolation=cv2.INTER_AREA)])[0],
        )
        assert np.abs(full.astype(int) - half).mean() < 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_unusable_intrinsics_name_the_camera(value):
    rig = ring(yaws=(0.0,))
    rig.intrinsics[0, 0, 0] = value
    with pytest.raises(CalibrationError, match="camera CAM_0"):
        Rectifier(rig, 80, 48)


def test_coefficients_of_a_wrong_count_name_the_camera():
    with pytest.raises(CalibrationError, match="camera CAM_0: distortion: expected 0, 4, 5, 8, 12 or 14"):
        Rectifier(replace(ring(yaws=(0.0,)), distortion=((0.1, 0.0, 0.0),)), 80, 48)


@pytest.mark.parametrize(
    ("model", "distortion", "level"),
    [
        ("pinhole", (-0.32, 0.1, 0.0, 0.0, 0.0), "WARNING"),
        ("equidistant", (0.02, -0.005, 0.001, 0.0), "INFO"),
        ("pinhole", (-0.001, 0.0, 0.0, 0.0), None),
        ("pinhole", (), None),
    ],
)
def test_a_large_share_of_lost_pixels_is_logged_once_per_camera(caplog, model, distortion, level):
    K = torch.tensor([[[140.0, 0, 160], [0, 140.0, 90], [0, 0, 1]]], dtype=torch.float64)
    rig = replace(ring(yaws=(0.0,), width=320, height=180), intrinsics=K, model=(model,), distortion=(distortion,))
    with caplog.at_level("INFO"):
        rectifier = Rectifier(rig, 160, 90)
        rectifier([np.zeros((180, 320, 3), np.uint8)])
    records = [record for record in caplog.records if record.name.endswith("rectify")]
    assert [record.levelname for record in records] == ([level] if level else [])
    for record in records:
        assert "camera CAM_0: " in record.message and f"{100 * rectifier.lost_share[0]:.0f} %" in record.message


def lenses():
    """A pinhole, one with barrel distortion whose corners have no source, and a fisheye."""
    rig = ring(yaws=(0.0, 90.0, 180.0), width=320, height=240)
    return replace(
        rig,
        model=("pinhole", "pinhole", "equidistant"),
        distortion=((), (0.3, 0.1, 0.0, 0.0), (0.02, -0.005, 0.001, 0.0)),
    )


def test_a_mask_that_is_true_everywhere_changes_nothing():
    rectifier = Rectifier(lenses(), 112, 80, 130.0)
    assert all(rectifier.rectify_mask(i, np.ones((240, 320), dtype=bool)).all() for i in range(3))
    assert not any(rectifier.rectify_mask(i, np.zeros((240, 320), dtype=bool)).any() for i in range(3))


@pytest.mark.parametrize("index", range(3))
def test_a_pixel_counts_only_if_all_that_it_mixes_does(index):
    """What a mask leaves in has the same colour whatever the masked pixels have."""
    rectifier, random = Rectifier(lenses(), 112, 80, 130.0), np.random.default_rng(0)
    mask = np.ones((240, 320), dtype=bool)
    mask[150:, 90:201] = False
    image = random.integers(0, 255, (240, 320, 3), dtype=np.uint8)
    kept = rectifier.rectify_mask(index, mask)
    black, white = (rectifier.rectify(index, np.where(mask[..., None], image, np.uint8(robot))) for robot in (0, 255))
    same = (black == white).all(axis=-1)
    assert same[kept].all() and 0.4 < kept.mean() < 0.97
    assert (same & ~kept & rectifier.valid_mask[index]).mean() < 1e-3  # and hardly a pixel more is taken out


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(CalibrationError, match="camera CAM_1: its mask has 320x4 pixels, its images 320x240"):
        Rectifier(lenses(), 112, 80).rectify_mask(1, np.ones((4, 320), dtype=bool))
