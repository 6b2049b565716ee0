# SPDX-License-Identifier: Apache-2.0
"""Directions of features are those of the lens, whatever it is; and what a mirror does to descriptors."""

import cv2
import numpy as np
import pytest
import torch

from gaussianocc_core.geometry.lens import project_rays
from gaussianocc_core.onboarding.doctor.features import find_features, match, plan_cylinder
from gaussianocc_core.onboarding.doctor.rotations import inverse_depths, see_motion
from gaussianocc_core.types import Cameras


def camera(model: str = "pinhole", distortion: tuple[float, ...] = (), focal: float = 220.0) -> Cameras:
    K = torch.tensor([[[focal, 0, 238.0], [0, focal, 165.0], [0, 0, 1]]])
    return Cameras(("cam",), K, torch.eye(4)[None], (480,), (320,), (model,), (distortion,))


LENSES = [
    camera(),
    camera(distortion=(-0.25, 0.06, 0.001, -0.001)),
    camera("equidistant", (0.05, -0.02, 0.004, -0.0005), 150.0),
]


def pattern(size=(480, 320)) -> np.ndarray:
    random = np.random.default_rng(3)
    small = random.integers(0, 255, (size[1] // 8, size[0] // 8), dtype=np.uint8)
    return cv2.resize(small, size, interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("cameras", LENSES, ids=["pinhole", "distorted", "fisheye"])
def test_a_dot_lies_where_the_lens_puts_its_direction(cameras):
    K = cameras.intrinsics[0].double().numpy()
    cylinder = plan_cylinder(cameras, 0)
    for ray in ([0.1, -0.05, 1.0], [-0.7, 0.2, 1.0], [0.6, 0.3, 0.9]):
        direction = np.array([ray]) / np.linalg.norm(ray)
        u, v = project_rays(K, cameras.model[0], cameras.distortion[0], direction)[0] - 0.5
        image = np.zeros((320, 480), np.uint8)
        rows, columns = np.mgrid[:320, :480]
        image[:] = 255 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * 3.0**2))
        unrolled = cylinder.unroll(image).astype(float)
        rows, columns = np.mgrid[: unrolled.shape[0], : unrolled.shape[1]]
        centre = np.array([[(columns * unrolled).sum(), (rows * unrolled).sum()]]) / unrolled.sum()
        assert np.degrees(np.arccos(np.clip(cylinder.rays(centre)[0] @ direction[0], -1, 1))) < 0.15
        np.testing.assert_allclose(cylinder.places(cylinder.rays(centre)), centre, atol=1e-6)


def test_a_mirror_image_has_the_mirrored_descriptors():
    cylinder = plan_cylinder(camera(), 0)
    image = pattern()
    here, there = (find_features(cylinder.unroll(each), cylinder) for each in (image, image[:, ::-1].copy()))
    assert len(match(here, there.mirrored())) > 4 * max(len(match(here, there)), 10)
    np.testing.assert_array_equal(there.mirrored().mirrored().descriptors, there.descriptors)


def test_motion_and_distance_come_out_of_matches():
    random = np.random.default_rng(1)
    points = random.uniform((-6, -3, 4), (6, 3, 20), (200, 3))
    t = np.array([0.3, -0.05, 0.6])
    R = cv2.Rodrigues(np.radians([0.5, 2.0, -0.3]))[0]
    local = (points - t) @ R  # later: T_now_later = (R, t)
    a, b = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (points, local))
    seen = see_motion(a, b, np.radians(0.1))
    np.testing.assert_allclose(seen.turn, np.radians([0.5, 2.0, -0.3]), atol=1e-4)
    np.testing.assert_allclose(seen.ahead, t / np.linalg.norm(t), atol=1e-3)
    inverse, angle = inverse_depths(a, b @ R.T, t)
    np.testing.assert_allclose(1 / inverse, np.linalg.norm(points, axis=1), rtol=1e-6)
    assert (angle > 0).all()
    assert (inverse_depths(b @ R.T, a, t)[1] < 0).all()  # the other way round they part


def test_at_rest_there_is_no_direction():
    rays = np.random.default_rng(0).normal(0, 0.3, (100, 3)) + np.array([0.0, 0.0, 1.0])
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    seen = see_motion(rays, rays, np.radians(0.1))
    assert seen.ahead is None and np.abs(seen.turn).max() < 1e-6
    assert see_motion(rays[:5], rays[:5], 1e-3) is None
