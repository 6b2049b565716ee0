# SPDX-License-Identifier: Apache-2.0
"""Folders and files that appear complete or not at all: made under a hidden name beside their place, then renamed.

A hidden name says whose it is. What a process left that was killed is removed by the next one that writes there.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from zlib import crc32

from gaussianocc_core.errors import DatasetError

_log = logging.getLogger(__name__)
_PARTIAL, _REPLACED = ".partial-", ".replaced"
_OWNER = r"([0-9a-f]{8})-(\d+)-([0-9a-f]{8})"


def make_hidden_folder(path: Path) -> Path:
    """A new hidden folder on the file system of `path`; the caller removes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_dead_folders(path)
    return Path(tempfile.mkdtemp(prefix=f".{path.name}{_PARTIAL}{_owner()}-", dir=path.parent))


def discard_hidden_folder(path: Path, hidden: Path) -> None:
    """Of a process that is gone. One killed between the two steps of `replace_folder` has what was at `path`: that is
    put back."""
    for aside in hidden.glob(f"*{_REPLACED}"):
        if not path.exists():
            aside.rename(path)
    shutil.rmtree(hidden, ignore_errors=True)


def _remove_dead_folders(path: Path) -> None:
    named = re.compile(rf"{re.escape(f'.{path.name}{_PARTIAL}')}{_OWNER}-\w+")
    for found in _entries(path.parent):
        match = named.fullmatch(found.name)
        if match is None or not found.is_dir() or not _is_dead(*match.groups()):
            continue
        discard_hidden_folder(path, found)
        _log.info("removed %s, which a run left that was killed", found)


@lru_cache(maxsize=256)  # once per folder and process: some write a thousand files into one
def _remove_dead_files(folder: Path) -> None:
    named = re.compile(rf"\..*\.{_OWNER}\.part(\..*)?")
    for found in _entries(folder):
        match = named.fullmatch(found.name)
        if match is not None and found.is_file() and _is_dead(*match.groups()[:3]):
            with suppress(OSError):
                found.unlink()
                _log.info("removed %s, which a run left that was killed", found)


def _entries(folder: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(folder.iterdir())
    return []


def _owner() -> str:
    """This process, such that another can tell whether it still runs: place, number, and when it began."""
    return f"{_place()}-{os.getpid()}-{_began(os.getpid())}"


def _is_dead(place: str, number: str, began: str) -> bool:
    """Of an owner; False where it cannot be told, as of another machine on a shared drive."""
    if place != _place():
        return False
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # another user's, but there is one
        pass
    return _began(int(number)) != began  # the number is used again


@lru_cache(maxsize=1)
def _place() -> str:
    """Machine and set of process numbers, for containers have their own."""
    try:
        numbers = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbers = ""
    return f"{crc32(f'{socket.gethostname()} {numbers}'.encode()):08x}"


def _began(number: int) -> str:
    try:
        with open(f"/proc/{number}/stat", encoding="ascii", errors="replace") as file:
            ticks = file.read().rpartition(")")[2].split()[19]  # since the machine started
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{crc32(f'{file.read()} {ticks}'.encode()):08x}"
    except (OSError, IndexError):  # no such process, or no /proc
        return "00000000"


def replace_folder(path: Path, new: Path, aside: Path) -> None:
    """Rename `new` to `path`; what was there ends up as `aside`, and is back in its place after any failure."""
    try:
        if path.exists():
            path.rename(aside)
        new.rename(path)
    except BaseException:  # also an interrupt between the two steps
        if aside.exists() and not path.exists():
            aside.rename(path)
        raise


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """A hidden place beside `path` to write to: it becomes `path` when the block ends, and is removed when it fails.

    A full disk or Ctrl-C leaves the previous file intact. Missing folders are made; OSError where that fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_dead_files(path.parent.resolve())
    # With the suffix, which tells some writers the format; with the process, of which several may write.
    partial = path.with_name(f".{path.stem}.{_owner()}.part{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """Write a whole file, as `complete_file`; DatasetError where it cannot be written."""
    try:
        with complete_file(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written ({error.strerror}); make room or take another place") from error
