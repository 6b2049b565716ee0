# SPDX-License-Identifier: Apache-2.0
"""What killed runs left is removed by the next one, and nothing else is."""

import os
import subprocess
import sys
import textwrap

import pytest

from gaussianocc_core import files
from gaussianocc_core.files import complete_file, make_hidden_folder, replace_folder

KILLED = """
    import os, signal, sys
    from pathlib import Path
    from gaussianocc_core.files import complete_file, make_hidden_folder
    path = Path(sys.argv[1])
    if sys.argv[2] == "file":
        with complete_file(path) as partial:
            partial.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    hidden = make_hidden_folder(path)
    (hidden / path.name).mkdir()
    (hidden / path.name / "half").write_text("half")
    if sys.argv[2] == "between":
        path.rename(hidden / f"{path.name}.replaced")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def kill_a_run(path, how):
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(path), how]
    assert subprocess.run(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}).returncode == -9


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(autouse=True)
def fresh():
    files._remove_dead_files.cache_clear()


@pytest.mark.parametrize("name", ["bag", "a [1]*"])
def test_a_killed_runs_hidden_folder_goes_with_the_next_run(tmp_path, name):
    path = tmp_path / name
    kill_a_run(path, "folder")
    assert len(names(tmp_path)) == 1
    hidden = make_hidden_folder(path)
    assert names(tmp_path) == [hidden.name]


def test_what_a_killed_run_was_about_to_replace_is_put_back(tmp_path):
    path = tmp_path / "bag"
    path.mkdir()
    (path / "precious").write_text("all there is")
    kill_a_run(path, "between")
    assert not path.exists()
    hidden = make_hidden_folder(path)
    assert (path / "precious").read_text() == "all there is" and names(tmp_path) == sorted([hidden.name, "bag"])
    (hidden / "new").mkdir()
    replace_folder(path, hidden / "new", hidden / "bag.replaced")
    assert names(path) == []


@pytest.mark.parametrize("name", ["last.pt", "model.safetensors", "noending"])
def test_a_killed_runs_half_file_goes_with_the_next_run(tmp_path, name):
    kill_a_run(tmp_path / name, "file")
    assert len(names(tmp_path)) == 1 and names(tmp_path)[0].startswith(".")
    with complete_file(tmp_path / name) as partial:
        partial.write_text("whole")
        assert names(tmp_path) == [partial.name]
    assert names(tmp_path) == [name] and (tmp_path / name).read_text() == "whole"


def test_the_living_and_others_keep_theirs(tmp_path):
    hidden = make_hidden_folder(tmp_path / "bag")
    kept = {hidden.name, ".bag.partial-00000000-1-00000000-x", ".bag.partial-old", ".other.txt", ".x.1234.part.pt"}
    for name in kept - {hidden.name}:
        (tmp_path / name).mkdir()
    kill_a_run(tmp_path / "bag2", "folder")  # of another output
    assert make_hidden_folder(tmp_path / "bag") != hidden
    assert kept < set(names(tmp_path)) and len(names(tmp_path)) == len(kept) + 2
    with complete_file(tmp_path / "a.txt") as one:
        one.write_text("one")
        files._remove_dead_files.cache_clear()
        with complete_file(tmp_path / "b.txt") as two:
            two.write_text("two")
    assert (tmp_path / "a.txt").read_text() == "one"


def test_a_number_that_is_used_again_is_another_process(tmp_path):
    place, number, began = files._owner().split("-")
    assert not files._is_dead(place, number, began)
    assert files._is_dead(place, number, "12345678")
    assert files._is_dead(place, str(2**31 - 1), began)
    assert not files._is_dead("12345678", str(2**31 - 1), began)  # of another machine: who knows
