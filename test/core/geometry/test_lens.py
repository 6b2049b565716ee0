# SPDX-License-Identifier: Apache-2.0
"""Lens models as drivers name and fill them, and calibrations that hold for less than their image."""

import cv2
import numpy as np
import pytest
import torch

from gaussianocc_core.geometry import lens
from gaussianocc_core.geometry.rectify import Rectifier
from gaussianocc_core.types import Cameras

FISHEYE = (0.175653, -0.031772, 0.000362, -0.000719)


@pytest.mark.parametrize(
    ("name", "distortion", "expected"),
    [
        ("equidistant", (*FISHEYE, 0.0), ("equidistant", FISHEYE)),  # a tracking camera's driver writes five
        ("fisheye", FISHEYE, ("equidistant", FISHEYE)),
        ("kannala_brandt", FISHEYE, ("equidistant", FISHEYE)),
        ("equidistant", (0.0,) * 5, ("equidistant", (0.0,) * 4)),  # an ideal fisheye, no pinhole
        ("plumb_bob", (0.1, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0), ("pinhole", (0.1, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0))),
        ("plumb_bob", (0.0,) * 7, ("pinhole", ())),
        ("rational_polynomial", (0.1,) * 6 + (0.0,) * 3, ("pinhole", (0.1,) * 6 + (0.0,) * 2)),
        ("rational_polynomial", (0.01,) * 12, ("pinhole", (0.01,) * 12)),
        ("rational_polynomial", (0.01,) * 14, ("pinhole", (0.01,) * 14)),
        ("radtan", (0.1, 0.2, 0.3, 0.4), ("pinhole", (0.1, 0.2, 0.3, 0.4))),
    ],
)
def test_coefficients_are_those_that_opencv_takes(name, distortion, expected):
    assert lens.from_ros(name, distortion) == expected
    assert len(expected[1]) in lens.COEFFICIENTS[expected[0]]


@pytest.mark.parametrize(
    ("name", "distortion", "said"),
    [
        ("equidistant", (0.1,) * 5, "takes 0 or 4 coefficients, CameraInfo has 5"),
        ("rational_polynomial", (0.1,) * 9, "CameraInfo has 9"),
        ("omnidirectional", (0.1,), "is not supported; use one of plumb_bob"),
        ("", (0.1, 0.2, 0.0, 0.0), "takes no coefficients, CameraInfo has 4"),
    ],
)
def test_coefficients_that_nobody_can_read_are_refused_by_name(name, distortion, said):
    with pytest.raises(ValueError, match=said):
        lens.from_ros(name, distortion)


@pytest.mark.parametrize("count", [4, 5, 8, 12, 14])
def test_what_is_written_for_ros_comes_back(count):
    values = tuple(0.01 * (i + 1) for i in range(count))
    model, read = lens.from_ros(*lens.to_ros("pinhole", values))
    assert model == "pinhole" and read[:count] == values and not any(read[count:])


def rectifier(model: str, distortion, focal: float = 500.0, size=(1280, 720), out=(400, 225)) -> Rectifier:
    K = torch.tensor([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]], dtype=torch.float64)
    cameras = Cameras(
        ("front",),
        K[None],
        torch.eye(4, dtype=torch.float64)[None],
        (size[0],),
        (size[1],),
        (model,),
        (tuple(distortion),),
    )
    return Rectifier(cameras, *out)


@pytest.mark.parametrize(
    ("model", "distortion", "focal"),
    [
        ("pinhole", (-0.35, 0.0, 0.0, 0.0, 0.0), 500.0),  # k1 alone, fitted to the middle
        ("pinhole", (2.99722, -6.09288, 0.00057, -4.9e-05, -1.26188, 3.53409, -4.27079, -5.30235), 800.0),  # a pole
        ("equidistant", (-1.152516, 2.913204, -2.482336, 0.178503), 700.0),
    ],
)
def test_pixels_that_a_lens_folds_over_others_are_not_valid(model, distortion, focal):
    found = rectifier(model, distortion, focal)
    valid = found.valid_mask[0]
    assert 0.3 < valid.mean() < 0.97 and valid[100:125, 180:220].all()
    # Where two neighbours are valid, their sources follow each other.
    K = found.source.intrinsics[0].numpy()
    pixels = Rectifier._source_pixels(K, model, distortion, found.cameras.intrinsics[0].double().numpy(), 400, 225)
    steps = np.diff(pixels[..., 0], axis=1)
    assert (steps[valid[:, 1:] & valid[:, :-1]] > 0).all() and (steps <= 0).any()
    image = found.rectify(0, np.full((720, 1280, 3), 255, np.uint8))[..., 0]
    assert (image[~valid] == 0).mean() > 0.95  # nothing is shown there


@pytest.mark.parametrize(
    ("model", "distortion", "focal"),
    [
        ("pinhole", (-0.32, 0.09, 0.0, 0.0, -0.01), 600.0),
        ("pinhole", (0.7799, -2.98028, 0.00075, 5.7e-05, 1.69975, 0.65722, -2.81191, 1.63024), 604.0),
        ("equidistant", FISHEYE, 400.0),
    ],
)
def test_a_lens_that_holds_for_its_image_loses_nothing_by_that(model, distortion, focal):
    radius = np.hypot(640, 360) / focal
    largest = np.arctan(radius) if model == "equidistant" else radius
    assert lens.fold_radius(model, distortion, largest) == largest


def test_thin_prism_and_tilt_are_undone_as_opencv_does_them():
    distortion = (-0.1, 0.02, 0.001, -0.002, 0.0, 0.0, 0.0, 0.0, 0.01, 0.002, -0.01, 0.001, 0.02, -0.01)
    found = rectifier("pinhole", distortion, focal=900.0, out=(640, 360))
    K = np.array([[900.0, 0, 640], [0, 900.0, 360], [0, 0, 1]])
    point = np.array([[[0.3, -0.2, 1.0]]])
    pixel = cv2.projectPoints(point, np.zeros(3), np.zeros(3), K, np.array(distortion))[0].reshape(2)
    image = np.zeros((720, 1280, 3), np.uint8)
    cv2.circle(image, (round(pixel[0] - 0.5), round(pixel[1] - 0.5)), 6, (255, 255, 255), -1)
    seen = found.rectify(0, image)[..., 0].astype(float)
    v, u = np.mgrid[:360, :640] + 0.5
    centre = np.array([(u * seen).sum(), (v * seen).sum()]) / seen.sum()
    np.testing.assert_allclose(centre, [0.3 * 450 + 320, -0.2 * 450 + 180], atol=0.5)
