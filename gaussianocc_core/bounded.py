# SPDX-License-Identifier: Apache-2.0
"""Files of strangers, read whole: their size counts before memory is taken for it, and nothing but files is read."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

MOST_FILE_BYTES = 1 << 28  # of one picture, sweep or other file that is read at once; the largest images have 200 MB
MOST_JSON_BYTES = 1 << 24  # of settings and indexes; tables of data sets have limits of their own
_SMALL_JSON = 1 << 23  # bytes that cannot become more than some 200 MB of objects
_BYTES_PER_VALUE = 64  # of Python's objects, roughly; three bytes, as in [[],[],[]], become 64
_STEP = 1 << 24  # bytes
_MOST_CONTENTS = 1 << 20  # bytes; an archive of 1,000 tensors has a list of 100 kB


def read_bytes(path: Path, most: int = MOST_FILE_BYTES) -> bytes:
    """The whole file. OSError, whose `strerror` says it in words, where it is larger, or is no file: a named pipe in an
    archive would be waited for without an end."""
    with open_file(path, most) as file:
        return file.read()


@contextmanager
def open_file(path: Path, most: int = sys.maxsize) -> Iterator[io.BufferedReader]:
    """A file to read; OSError as `read_bytes`."""
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode):
            what = "it is a folder" if stat.S_ISDIR(status.st_mode) else "it is a pipe or a device, not a file"
            raise OSError(errno.EINVAL, what, str(path))
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"it has {status.st_size} bytes, at most {most} are read", str(path))
        with open(number, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(number)


class _Frugal(io.FileIO):
    """A file of which nobody needs much at once: a list of contents of 1 GB would become objects of 10 GB."""

    def read(self, size: int | None = -1, /) -> bytes:
        size = -1 if size is None else size
        wanted = os.fstat(self.fileno()).st_size - self.tell() if size < 0 else size
        if wanted > _MOST_CONTENTS:
            raise ValueError(f"its list of contents has {wanted} bytes, at most {_MOST_CONTENTS} are read")
        return super().read(size)


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive, for looks at its contents and at the beginnings of what it holds. OSError as `open_file`,
    BadZipFile, ValueError."""
    with open_file(path):  # a pipe would be waited for
        pass
    with _Frugal(path) as file, zipfile.ZipFile(cast(IO[bytes], file)) as archive:
        yield archive


def read_text(path: Path, most: int) -> str:
    """The whole file as UTF-8; OSError as `read_bytes`, UnicodeDecodeError."""
    return read_bytes(path, most).decode("utf-8")


def read_json(path: Path, most: int = MOST_JSON_BYTES) -> Any:
    """What a JSON file says. OSError as `read_bytes`; ValueError where it is no JSON, or would not fit in memory;
    RecursionError where it is nested too deeply."""
    return parse_json(read_bytes(path, most))


def parse_json(data: bytes) -> Any:
    """ValueError and RecursionError as `read_json`; data: UTF-8."""
    if len(data) > _SMALL_JSON:
        compare_with_memory(estimate_json(data))
    return json.loads(data)


def estimate_json_file(path: Path, most: int) -> int:
    """As `estimate_json`, of a file that somebody else reads. OSError as `read_bytes`."""
    with open_file(path, most) as file:
        return sum(estimate_json(part) for part in iter(partial(file.read, _STEP), b""))


def estimate_json(data: bytes) -> int:
    """Bytes of memory that its values take, roughly."""
    return len(data) + _BYTES_PER_VALUE * (data.count(b",") + data.count(b"[") + data.count(b"{"))


def compare_with_memory(needed: int) -> None:
    """ValueError where that is more than this machine has."""
    there = memory_bytes()
    if there and needed > there:
        sizes = f"{needed / 1e9:.1f} GB of memory, this machine has {there / 1e9:.1f} GB"
        raise ValueError(f"its values need about {sizes}")


def memory_bytes() -> int:
    """Of this machine, or of this container; 0 where nobody says."""
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            return min(whole, int(file.read()))
    except (OSError, ValueError):  # no container, or "max"
        return whole
