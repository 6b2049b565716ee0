# SPDX-License-Identifier: Apache-2.0
"""The head of the memory of rays, fitted to labels."""

import numpy as np
import pytest
import torch

from gaussianocc_core.models.ray_memory import FEATURES
from gaussianocc_core.training.memory_fit import Examples, fit


def examples(count=12, size=3000):
    """Occupied where many rays end, whatever the network's word."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        features = torch.randn(size, FEATURES, generator=generator) * torch.tensor([1.0, 1.0, 2.0, 1.5, 1.0, 3.0])
        chance = torch.sigmoid(3.0 * features[:, 3] - 2.0)
        made.append(Examples(features, torch.rand(size, generator=generator) < chance))
    return made


def test_the_fitted_head_takes_raw_features_and_says_how_probable_it_is():
    head, loss = fit(examples(), steps=400)
    (one,) = examples(1)
    with torch.no_grad():
        said = torch.sigmoid(head(one.features))
    expected = torch.sigmoid(3.0 * one.features[:, 3] - 2.0)
    assert (said - expected).abs().mean() < 0.05 and loss < 0.45


def test_who_prefers_ghosts_to_misses_gets_more_of_both_kinds_of_yes():
    (one,) = examples(1)
    heads = [fit(examples(), preference, 300)[0] for preference in (3.0, 1.0)]
    with torch.no_grad():
        cautious, neutral = ((head(one.features) > 0).float().mean().item() for head in heads)
    assert cautious > 1.1 * neutral


def test_the_same_seed_gives_the_same_head():
    a, b, c = (fit(examples(), steps=50, seed=seed)[0].first.weight for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    np.testing.assert_equal(a.shape, (16, FEATURES))


def test_few_moments_are_learnt_from_and_measured_on():
    head, loss = fit(examples(3), steps=50)
    assert np.isfinite(loss) and head(torch.zeros(2, FEATURES)).shape == (2,)
    with pytest.raises(AssertionError):
        fit([Examples(torch.zeros(4, 2), torch.zeros(4, dtype=torch.bool))])
