# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from gaussianocc_core.metrics import Reliability


def test_bins_hold_what_was_said_and_what_was_true():
    scores = Reliability(4)
    said = np.array([0.1, 0.2, 0.6, 0.7, 1.0, 0.9], dtype=np.float32)
    true = np.array([False, True, True, True, True, True])
    mask = np.array([True, True, True, True, True, False])
    scores.update(said, true, mask)
    summary = scores.summary()
    bins = summary["bins"]
    assert [each["voxels"] for each in bins] == [2, 0, 2, 1]
    assert bins[0]["probability"] == pytest.approx(0.15) and bins[0]["occupied"] == 0.5
    assert bins[2]["probability"] == pytest.approx(0.65) and bins[2]["occupied"] == 1.0
    assert (bins[3]["low"], bins[3]["high"], bins[3]["probability"]) == (0.75, 1.0, 1.0)
    assert np.isnan(bins[1]["occupied"])
    assert summary["error"] == pytest.approx((2 * 0.35 + 2 * 0.35 + 0.0) / 5)


def test_probabilities_that_mean_what_they_say_have_no_error():
    random = np.random.default_rng(0)
    said = random.random(200_000)
    scores = Reliability()
    assert scores.summary() is None
    scores.update(said, random.random(200_000) < said, np.ones(200_000, dtype=bool))
    assert scores.summary()["error"] < 0.01
    overconfident = Reliability()
    overconfident.update(said, random.random(200_000) < 0.5, np.ones(200_000, dtype=bool))
    assert overconfident.summary()["error"] == pytest.approx(0.25, abs=0.01)
    with pytest.raises(ValueError, match="bins"):
        Reliability(0)
