# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from support.carving import HEIGHT, ground, measure, place

from gaussianocc_core.models.ray_ends import EndSettings, find_edges, place_ends


def test_edges_are_found_between_near_and_far_and_not_on_a_plane():
    depth = np.full((1, 8, 12), 4.0, np.float32)
    depth[:, :, 6:] = 20.0
    depth[:, :, 6] = 8.0  # neither the near thing nor the far one
    expected = np.zeros(depth.shape, bool)
    expected[:, :, 6] = True
    assert (find_edges(depth, 0.15) == expected).all()
    placed = place()
    slant = measure(placed, ground).depth
    assert not find_edges(slant, 0.15)[:, HEIGHT // 2 + 4 :].any()


def test_an_end_is_as_wide_as_its_error_and_one_that_is_too_wide_ends_nowhere():
    depth = np.full((1, 8, 8), 10.0, np.float32)
    error = np.full(depth.shape, 0.05, np.float32)
    error[:, :2], error[:, 2:4] = 0.001, 0.2
    known = np.ones(depth.shape, bool)
    known[:, :, 0] = False
    sky = np.zeros(depth.shape, bool)
    sky[:, :, 7] = True
    ends = place_ends(depth, error, known, sky)
    assert ends.half[0, 0, 3] == pytest.approx(0.2) and ends.half[0, 5, 3] == pytest.approx(0.75)
    assert (ends.half[0, 2:4] == 0).all() and ends.depth[0, 2, 3] == pytest.approx(10.0 * np.exp(-0.3), rel=1e-5)
    assert (ends.half[:, :, [0, 7]] == 0).all() and (ends.depth[:, :, 7] > 1e5).all()


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="above 0"):
        EndSettings(spread=0.0)
