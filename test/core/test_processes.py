# SPDX-License-Identifier: Apache-2.0
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from support.process_work import work

from gaussianocc_core.errors import DatasetError
from gaussianocc_core.processes import Outcome, run_all


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_fails_is_told_and_the_rest_goes_on(jobs):
    steps = []
    names = ["good", "user", "bug", "unprepared", "also good"]

    def prepare(name):
        if name == "unprepared":
            raise DatasetError("no such thing")
        return name

    outcomes = {each.name: each for each in run_all(work, names, prepare, jobs, steps.append)}
    assert set(outcomes) == set(names)
    assert outcomes["good"] == Outcome("good", "good done")
    assert outcomes["also good"].result == "also good done"
    assert outcomes["user"].error == "the file is gone"
    assert outcomes["unprepared"].error == "no such thing"
    assert outcomes["bug"].error.startswith("ZeroDivisionError: division by zero (")
    assert "process_work.py:" in outcomes["bug"].error
    assert sum(steps) == 2 * 3


def test_a_process_that_dies_takes_only_its_own_piece_with_it():
    names = ["die", "good", "die again", "also good"]
    outcomes = {each.name: each for each in run_all(work, names, str, jobs=2)}
    assert outcomes["good"].result == "good done"
    assert outcomes["also good"].result == "also good done"
    for name in ("die", "die again"):
        assert "signal 9" in outcomes[name].error
        assert "use fewer jobs" in outcomes[name].error


def test_pieces_are_prepared_when_a_worker_is_free():
    prepared = []
    running = run_all(work, [f"slow {k}" for k in range(6)], lambda name: prepared.append(name) or name, jobs=2)
    next(running)
    assert len(prepared) <= 4  # one each, and one each after the first outcomes
    running.close()


def test_an_interrupt_lets_workers_tidy_up_before_it_arrives(tmp_path):
    names = [str(tmp_path / name) for name in ("a", "b", "c")]

    def interrupt():
        while not all(Path(name).exists() for name in names[:2]):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        list(run_all(work, names, lambda name: ("wait", name), jobs=2))
    assert list(tmp_path.iterdir()) == []
