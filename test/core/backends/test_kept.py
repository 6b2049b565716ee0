# SPDX-License-Identifier: Apache-2.0
"""The cache of networks and engines stays small, and nobody loses what he uses."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gaussianocc_core.backends import kept
from gaussianocc_core.backends.cache import VARIABLE
from gaussianocc_core.backends.kept import make_room, open_entry

ROOT = Path(__file__).resolve().parents[3]
SIZE = 1000  # bytes of each entry here
HOLD = """
import sys
from gaussianocc_core.backends.kept import open_entry
entry = open_entry("onnx", {"number": int(sys.argv[1])})
print(entry.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder


def make(number, kind="onnx", used_s=None):
    """An entry that nobody holds any more; used_s: when it was used last."""
    entry = open_entry(kind, {"number": number})
    (entry.path / "look.onnx").write_bytes(bytes(SIZE))
    entry.release()
    if used_s is not None:
        os.utime(entry.path / kept._LOCK, (used_s, used_s))
    return entry.path


def hold(number):
    """Another process that has an entry open."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    return process, Path(process.stdout.readline().strip())


def test_what_was_used_longest_ago_makes_room_whatever_its_kind(cache):
    paths = [make(n, kind, 1000 + n) for n, kind in enumerate(("onnx", "openvino", "onnx", "tensorrt"))]
    assert make_room(4 * SIZE) == 4 * SIZE and all(path.is_dir() for path in paths)
    os.utime(paths[0] / kept._LOCK, (2000, 2000))  # as if it was opened again
    assert make_room(2 * SIZE) == 2 * SIZE
    assert [path.is_dir() for path in paths] == [True, False, False, True]
    assert sorted(path.name for path in cache.rglob(".*") if path.name != kept._LOCK) == []


def test_opening_an_entry_makes_it_the_one_that_was_used_last():
    first, second = make(1, used_s=1000), make(2, used_s=2000)
    open_entry("onnx", {"number": 1}).release()
    make_room(SIZE)
    assert first.is_dir() and not second.is_dir()


def test_what_a_process_holds_stays_until_it_ends_even_by_a_kill():
    process, path = hold(1)
    try:
        (path / "look.onnx").write_bytes(bytes(SIZE))
        os.utime(path / kept._LOCK, (1000, 1000))
        newer = make(2, used_s=2000)
        assert make_room(0) == SIZE
        assert (path / "look.onnx").is_file() and not newer.exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert make_room(0) == 0 and not path.exists()
    finally:
        process.kill()
        process.communicate()


def test_what_this_process_holds_stays_and_goes_with_the_object():
    entry = open_entry("onnx", {"number": 1})
    path = entry.path
    assert make_room(0) == 0 and path.is_dir()
    del entry
    (path / "look.onnx").write_bytes(bytes(SIZE))
    assert make_room(0) == 0 and not path.exists()


def test_nothing_else_in_the_folder_is_touched(cache):
    path = make(1)
    others = [cache / "notes.txt", cache / "onnx" / "notes.txt", cache / "onnx" / "my_models" / "look.onnx"]
    for other in others:
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_bytes(bytes(SIZE))
    make_room(0)
    assert not path.exists() and all(other.is_file() for other in others)


def test_an_entry_of_an_earlier_version_without_a_lock_is_removed_by_its_age():
    old, new = make(1), make(2, used_s=2000)
    (old / kept._LOCK).unlink()
    os.utime(old, (1000, 1000))
    make_room(SIZE)
    assert not old.exists() and new.is_dir()


def test_what_a_killed_process_was_removing_goes_the_next_time(cache):
    make(1)
    script = (
        "import os, shutil\n"
        "from gaussianocc_core.backends import kept\n"
        "kept.shutil.rmtree = lambda *a, **k: os.kill(os.getpid(), 9)\n"
        "kept.make_room(0)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == -signal.SIGKILL
    assert len(list(cache.glob("onnx/.leaving*"))) == 1
    make(2)
    make_room(0)
    assert not list(cache.glob("onnx/.leaving*"))


def test_an_entry_that_is_removed_while_it_is_opened_is_made_anew():
    """One thread opens and fills an entry all the time, the other removes it whenever it can: whoever holds it has a
    folder that stays."""
    stop, removed = threading.Event(), []

    def remove():
        while not stop.is_set():
            removed.append(make_room(0) == 0)

    thread = threading.Thread(target=remove)
    thread.start()
    made = 0
    try:
        for _ in range(300):
            entry = open_entry("onnx", {"number": 1})
            file = entry.path / "look.onnx"
            made += not file.exists()
            file.write_bytes(bytes(SIZE))
            assert file.stat().st_size == SIZE
            entry.release()
    finally:
        stop.set()
        thread.join()
    assert made > 1 and len(removed) > 1
