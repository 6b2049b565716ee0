# SPDX-License-Identifier: Apache-2.0
"""The order of samples: epochs, processes, resumed runs, and recordings mixed by share."""

from collections import Counter

import pytest

from gaussianocc_core.data.sources import DataConfig
from gaussianocc_core.errors import ConfigError
from gaussianocc_core.training.sampling import EpochSampler, mix


def test_two_processes_see_what_one_sees_with_accumulation():
    one = iter(EpochSampler(9, seed=3, accumulation=2))
    two = [iter(EpochSampler(9, seed=3, rank=rank, processes=2)) for rank in range(2)]
    for _ in range(12):
        assert [next(one), next(one)] == [next(two[0]), next(two[1])]


def test_an_epoch_holds_every_sample_once_and_a_resumed_run_goes_on_where_it_was():
    sampler = EpochSampler(6, seed=1, batch_size=2)
    keys = [key for _, batch in zip(range(6), sampler, strict=False) for key in batch]
    for epoch in (0, 1):
        assert sorted(index for e, index in keys if e == epoch) == list(range(6))
    assert [i for _, i in keys[:6]] != [i for _, i in keys[6:]]
    resumed = iter(EpochSampler(6, seed=1, batch_size=2, first_step=4))
    assert next(resumed) == keys[8:10]


def test_fewer_samples_than_a_step_needs_are_repeated():
    assert [index for _, index in next(iter(EpochSampler(1, seed=0, batch_size=3)))] == [0, 0, 0]


def epochs(sampler, count):
    """Samples of the first epochs, in order."""
    found = [[] for _ in range(count)]
    for batch in sampler:
        for epoch, index in batch:
            if epoch == count:
                return found
            found[epoch].append(index)


SCENES = ("old_1",) * 60 + ("old_2",) * 20 + ("new",) * 20


def test_a_small_new_recording_has_its_share_and_all_of_both_is_seen():
    mixture = mix(SCENES, {"new": 0.5})
    first, second = epochs(EpochSampler(100, seed=0, mixture=mixture), 2)
    for order in (first, second):
        seen = Counter(SCENES[index] for index in order)
        assert len(order) == 100 and seen["new"] == 50
        assert set(Counter(index for index in order if SCENES[index] == "new").values()) == {2, 3}
        assert set(Counter(index for index in order if SCENES[index] != "new").values()) == {1}
    assert first != second
    old = {index for order in epochs(EpochSampler(100, seed=0, mixture=mixture), 12) for index in order if index < 80}
    assert old == set(range(80))


def test_patterns_name_recordings_and_shares_of_all_of_them_are_proportions():
    only = mix(SCENES, {"old_*": 0.2, "new": 0.2})
    assert [(group.name, len(group.members), group.quota) for group in only] == [("old_*", 80, 50), ("new", 20, 50)]
    three = mix(SCENES, {"old_1": 0.1, "old_*": 0.3})
    assert [(group.name, group.quota) for group in three] == [("old_1", 10), ("old_*", 30), ("", 60)]


def test_with_shares_a_resumed_run_and_two_processes_see_the_same():
    mixture = mix(SCENES, {"new": 0.3})
    whole = [next(it) for it in [iter(EpochSampler(100, seed=4, batch_size=2, mixture=mixture))] for _ in range(70)]
    resumed = iter(EpochSampler(100, seed=4, batch_size=2, first_step=60, mixture=mixture))
    assert [next(resumed) for _ in range(10)] == whole[60:]
    one = iter(EpochSampler(100, seed=4, accumulation=2, mixture=mixture))
    two = [iter(EpochSampler(100, seed=4, rank=rank, processes=2, mixture=mixture)) for rank in range(2)]
    for _ in range(60):
        assert [next(one), next(one)] == [next(two[0]), next(two[1])]


def test_a_share_that_rounds_to_nothing_is_seen_all_the_same():
    for shares in ({"new": 0.001}, {"new": 0.999}):
        mixture = mix(SCENES, shares)
        (order,) = epochs(EpochSampler(100, seed=0, mixture=mixture), 1)
        assert {group.name for group in mixture} == {"new", ""}
        assert len({SCENES[index] == "new" for index in order}) == 2


def test_without_shares_nothing_is_mixed():
    assert mix(SCENES, {}) == ()


@pytest.mark.parametrize(
    "shares, complaint",
    [
        ({"monday": 0.5}, "no recording to train on is named 'monday'.*'new, old_1, old_2'"),
        ({"old_*": 0.4, "old_1": 0.4}, "named 'old_1'"),
        ({"new": 1.0}, "they leave nothing for 'old_1, old_2'"),
    ],
)
def test_shares_that_fit_no_recording_are_refused(shares, complaint):
    with pytest.raises(ConfigError, match=complaint):
        mix(SCENES, shares)


@pytest.mark.parametrize("shares", [{"a": 0.0}, {"a": 1.5}, {"a": -1.0}, {"a": 0.7, "b": 0.7}, {"a": float("nan")}])
def test_shares_are_shares(shares):
    with pytest.raises(ValueError, match="data.shares"):
        DataConfig(shares=shares)
