# SPDX-License-Identifier: Apache-2.0
"""Depth errors against hand-worked values and the published code's."""

import math

import numpy as np
import pytest
import torch

from gaussianocc_core.metrics import DEPTH_ERRORS, DepthScores, depth_errors


def test_errors_of_two_pixels_are_the_formulas():
    truth, prediction = np.array([[10.0, 20.0]]), np.array([[12.0, 15.0]])
    errors = dict(zip(DEPTH_ERRORS, depth_errors(truth, prediction), strict=True))
    assert errors["abs_rel"] == pytest.approx((2 / 10 + 5 / 20) / 2)
    assert errors["sq_rel"] == pytest.approx((4 / 10 + 25 / 20) / 2)
    assert errors["rmse"] == pytest.approx(math.sqrt((4 + 25) / 2))
    assert errors["rmse_log"] == pytest.approx(math.sqrt((math.log(1.2) ** 2 + math.log(0.75) ** 2) / 2))
    assert (errors["a1"], errors["a2"], errors["a3"]) == (0.5, 1.0, 1.0)  # ratios 1.2 and 1.333


def test_truth_on_or_beyond_the_limits_does_not_count_and_the_prediction_is_clamped():
    truth = np.array([[0.0, 0.1, 80.0, 120.0, 40.0]])
    errors = depth_errors(truth, np.array([[9.0, 9.0, 9.0, 9.0, 300.0]]))
    assert errors[0] == pytest.approx((80 - 40) / 40)
    assert np.isnan(depth_errors(np.zeros((2, 2)), np.ones((2, 2)))).all()
    assert depth_errors(truth, np.full((1, 5), 120.0), limits=(90.0, 200.0))[2] == 0  # rmse of the one at 120 m


@pytest.mark.parametrize("nothing", [np.nan, np.inf, 0.0, -1.0])
def test_a_pixel_that_is_no_depth_makes_an_image_no_better(nothing):
    truth = [np.full((20, 30), 10.0, np.float32)]

    def abs_rel(*images: np.ndarray) -> tuple[float, float]:
        scores = DepthScores(("front",))
        for image in images:
            scores.update(truth, torch.from_numpy(image)[None])
        return scores.summary()["abs_rel"], float(scores.images.sum())

    good, bad = np.full((20, 30), 10.5, np.float32), np.full((20, 30), 10.5, np.float32)
    bad[:10] = 60.0
    broken = bad.copy()
    broken[0, 0] = nothing
    (without, _), (with_one, images) = abs_rel(good, bad), abs_rel(good, broken)
    assert images == 2 and with_one >= without > 1.2
    assert abs_rel(np.full((20, 30), nothing, np.float32))[0] == pytest.approx((80 - 10) / 10)


def test_median_scaling_forgives_a_wrong_scale_and_only_when_asked():
    truth = np.linspace(2, 30, 50).reshape(5, 10)
    assert depth_errors(truth, truth / 3, median_scaling=True)[0] == pytest.approx(0, abs=1e-12)
    assert depth_errors(truth, truth / 3)[0] == pytest.approx(2 / 3)


def test_means_are_over_images_with_truth_then_over_cameras():
    scores = DepthScores(("front", "back"))
    rendered = torch.full((2, 2, 3), 10.0)
    near, far = np.full((4, 6), 8.0, np.float32), np.full((4, 6), 5.0, np.float32)
    scores.update([near, far], rendered)
    scores.update([near, np.zeros((4, 6), np.float32)], rendered)  # the second image has no truth
    scores.update([far, far], rendered)
    front, back = scores.per_camera()[:, 0]
    assert front == pytest.approx((0.25 + 0.25 + 1.0) / 3) and back == pytest.approx(1.0)
    assert scores.summary()["abs_rel"] == pytest.approx((front + back) / 2)
    with pytest.raises(ValueError, match="one image for each of"):
        scores.update([near], rendered)


def test_rendered_depth_is_resized_to_the_truth_with_half_pixel_centres():
    scores = DepthScores(("front",))
    rendered = torch.tensor([[[10.0, 20.0]]])
    truth = np.array([[10.0, 12.5, 17.5, 20.0]], dtype=np.float32)
    scores.update([truth], rendered)
    assert scores.summary()["abs_rel"] == pytest.approx(0, abs=1e-7)


def test_published_errors_are_reproduced(shared_data):
    golden = np.load(shared_data / "golden" / "metrics.npz")
    errors = depth_errors(golden["depth_gt"], golden["depth_pred"])
    np.testing.assert_allclose(errors, golden["depth_errors"], rtol=2e-6)  # the reference sums in float32
