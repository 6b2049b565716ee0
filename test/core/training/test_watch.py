# SPDX-License-Identifier: Apache-2.0
"""A run that collapses is seen by what no loss can talk to; one that learns is left alone."""

import math

import numpy as np
import pytest

from gaussianocc_core.training.watch import GSP_SIGNALS, Watch

HEALTHY = {"depth_off": 0.05, "ground_off": -0.1, "motion_off": 0.0, "speed": 1.1, "moved": 0.7}


def run(values, first_step=0, steps=200):
    """The first step at which the watch speaks, and what it says; values: name -> function of the step."""
    watch, random = Watch(first_step), np.random.default_rng(0)
    for step in range(1, steps + 1):
        named = {**HEALTHY, **{name: make(step) for name, make in values.items()}}
        named["speed"] *= random.uniform(0.5, 1.5)  # of samples in any order
        if said := watch.see(step, named):
            assert not watch.well and watch.advice()
            return step, said
    assert watch.well
    return None, ""


def test_a_run_that_learns_is_left_alone():
    assert run({}) == (None, "")
    # Fresh depth of a run whose motion is being found is anything.
    assert run({"depth_off": lambda step: 2.0 if step < 60 else 0.0}, first_step=60) == (None, "")
    # A scale that grows into place, and a base frame that lies at the axles.
    assert run({"ground_off": lambda step: -0.7, "depth_off": lambda step: 0.8 * math.exp(-step / 30)})[0] is None


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("depth_off", lambda step: -math.log(9.2) * min(1.0, step / 100), "times what overlapping cameras measure"),
        ("ground_off", lambda step: -0.1 - 2.0 * (step > 80), "depth of the ground is"),
        ("motion_off", lambda step: math.log(0.06), "the learnt motion is 0.06 times the recorded one"),
        ("speed", lambda step: 1.1 if step < 80 else 0.016, "as long as it had been"),
        ("moved", lambda step: 0.7 if step < 80 else 0.001, "of the pixels are explained better"),
    ],
)
def test_each_kind_of_collapse_is_named_within_a_hundred_steps(name, make, words):
    step, said = run({name: make})
    assert step is not None and step < 190 and words in said and said.startswith("since step ")


def test_one_odd_step_is_no_collapse():
    assert run({"depth_off": lambda step: -5.0 if step % 50 == 10 else 0.0})[0] is None


def test_what_a_run_does_not_report_is_not_watched():
    watch = Watch(0)
    assert all(watch.see(step, {"total": 1.0}) == "" for step in range(1, 300))
    assert {signal.name for signal in GSP_SIGNALS} == set(HEALTHY)
