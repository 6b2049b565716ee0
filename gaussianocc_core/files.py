# SPDX-License-Identifier: Apache-2.0
"""Folders and files that appear complete or not at all: made under a hidden name beside their place, then renamed."""

from __future__ import annotations

import tempfile
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


def write_file(path: Path, data: bytes) -> None:
    """Write a file that appears under its name only when it is complete; missing folders are made."""
    partial = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written ({error.strerror}); make room or take another place") from error
    finally:
        partial.unlink(missing_ok=True)
