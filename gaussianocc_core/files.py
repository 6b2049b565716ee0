# SPDX-License-Identifier: Apache-2.0
"""Folders and files that appear complete or not at all: made under a hidden name beside their place, then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gaussianocc_core.errors import DatasetError


def make_hidden_folder(path: Path) -> Path:
    """A new hidden folder on the file system of `path`; the caller removes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))


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
    # With the suffix, which tells some writers the format; with the process, of which several may write.
    partial = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
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
