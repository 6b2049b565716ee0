# SPDX-License-Identifier: Apache-2.0
"""Entries of the cache: one that is used is held, and what was used longest ago makes room for what is new.

A lock on `<entry>/.in_use` says that some process has it. It is the kernel's (flock), so that of a process that was
killed is gone with it. Where a file system has no such locks nothing is removed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gaussianocc_core.backends.cache import cache_folder, entry_name
from gaussianocc_core.files import make_hidden_folder

MOST_BYTES = 2_000_000_000  # of all entries together; one of the shipped model has 5 to 20 MB
_LOCK = ".in_use"
_LEAVING = "leaving"  # the hidden folder that an entry is taken to before it is removed
_TRIALS = 100  # to get hold of an entry that others remove at the same time

_log = logging.getLogger(__name__)


class Entry:
    """A folder of the cache, nobody else's to remove as long as this object lives."""

    def __init__(self, path: Path, number: int) -> None:
        """number: of the open lock file."""
        self.path = path
        self._close = weakref.finalize(self, os.close, number)

    def release(self) -> None:
        """Before the object goes."""
        self._close()


def open_entry(kind: str, facts: Mapping[str, Any]) -> Entry:
    """That of the facts, made where there is none, and from now on the one that was used last."""
    path = cache_folder() / kind / entry_name(facts)
    for _ in range(_TRIALS):
        try:
            path.mkdir(parents=True, exist_ok=True)  # FileExistsError where it is removed between its two steps
            number = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except (FileNotFoundError, FileExistsError):  # removed since the line above
            continue
        with suppress(OSError):  # a file system without locks: then nobody removes anything
            fcntl.flock(number, fcntl.LOCK_SH)
        entry = Entry(path, number)
        with suppress(OSError):
            if os.path.samestat(os.fstat(number), (path / _LOCK).stat()):
                os.utime(number)
                return entry
        entry.release()  # it was removed while we waited for its lock
    raise OSError(f"{path}: is removed again and again; set GAUSSIANOCC_CACHE to a folder of your own")


def make_room(most_bytes: int = MOST_BYTES) -> int:
    """Removes what was used longest ago until the rest is no larger than that; never what a process holds. Returns the
    bytes that are left."""
    root = cache_folder()
    entries = sorted(_find(root), key=_last_used)
    sizes = {path: _size(path) for path in entries}
    total = sum(sizes.values())
    for path in entries:
        if total <= most_bytes:
            break
        if _remove(path):
            total -= sizes[path]
            _log.info("removed %s, which was used longest ago: %s keeps %.1f GB", path, root, most_bytes / 1e9)
    return total


def _find(root: Path) -> list[Path]:
    """<kind>/<hash>; whatever else lies there is not ours to remove."""
    with suppress(OSError):
        return [path for path in root.glob("*/*") if _is_entry(path)]
    return []


def _is_entry(path: Path) -> bool:
    length = len(entry_name({}))
    return len(path.name) == length and set(path.name) <= set("0123456789abcdef") and path.is_dir()


def _last_used(path: Path) -> int:
    for each in (path / _LOCK, path):  # an entry of an earlier version has no lock
        with suppress(OSError):
            return each.stat().st_mtime_ns
    return 0


def _size(path: Path) -> int:
    total = 0
    for each in path.rglob("*"):
        with suppress(OSError):
            total += each.lstat().st_size
    return total


def _remove(path: Path) -> bool:
    """Whether it is gone; not where a process holds it."""
    try:
        number = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(number), (path / _LOCK).stat()):
            return False  # somebody else was faster, and it was made anew since
        # In one step: who waits for the lock finds another folder there, or none, and begins again.
        hidden = make_hidden_folder(path.parent / _LEAVING)
        path.rename(hidden / path.name)
    except OSError:
        return False
    finally:
        os.close(number)
    shutil.rmtree(hidden, ignore_errors=True)  # what is left of it when we are killed here goes the next time
    return True


__all__ = ["MOST_BYTES", "Entry", "make_room", "open_entry"]
