# SPDX-License-Identifier: Apache-2.0
"""Folders that appear complete or not at all: made under a hidden name beside their place, then renamed."""

from __future__ import annotations

import tempfile
from pathlib import Path


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
