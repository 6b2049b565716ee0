# SPDX-License-Identifier: Apache-2.0
"""Names that files give, and how they may become parts of paths and topics: checked here, and nowhere else.

Scenes, sensors, cameras, tokens and classes are named by tables, JSON, TF and bags that strangers made. Such a name
ends up in paths ("write the bag to OUTPUT/NAME"), so it is one plain component or it is refused, before anything is
written.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

_LONGEST = 200  # bytes; file systems take 255, and endings such as _mask.png are added
_FORBIDDEN = "/\\\0"
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Unicode: control, format (turns the line around), surrogates, line breaks


def name_fault(name: object) -> str:
    """What keeps a name from being one plain path component; "" where nothing does."""
    return _fault_of_text(name) if isinstance(name, str) else f"expected text, got {type(name).__name__}"


@lru_cache(maxsize=4096)
def _fault_of_text(name: str) -> str:
    if not name or not name.strip():
        return "it is empty"
    if name in (".", ".."):
        return "it means another folder"
    found = next((each for each in _FORBIDDEN if each in name), "")
    if found:
        return f"it holds {found!r}, which separates folders"
    unseen = next((each for each in name if unicodedata.category(each) in _UNSEEN), "")
    if unseen:
        return f"it holds the control character {unseen!a}"
    if len(name.encode()) > _LONGEST:
        return f"it is longer than {_LONGEST} bytes"
    return ""


def shorten(value: object, most: int = 80) -> str:
    """A value of a file for a message: printable ASCII, one line, not longer than that."""
    text = ascii(value[: 2 * most] if isinstance(value, (str, bytes, list, tuple)) else value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def check_name(name: object, what: str, error: type[Exception]) -> str:
    """The name, if it can be one component of a path; else `error`, which names `what` and the fault."""
    fault = name_fault(name)
    if fault or not isinstance(name, str):
        raise error(f"{what} {shorten(name)} is refused: {fault}. Names must be one plain part of a path; rename it")
    return name


def plain_name(name: str) -> str:
    """A token as one component of a path: itself where it is one, else with what separates folders or is not seen
    replaced by "_". A bag's token "drive/1700000000000000000" becomes "drive_1700000000000000000"."""
    if not name_fault(name):
        return name
    plain = "".join("_" if c in _FORBIDDEN or unicodedata.category(c) in _UNSEEN else c for c in name).strip()
    plain = plain.encode()[:_LONGEST].decode(errors="ignore")
    return plain if not name_fault(plain) else f"_{len(name)}"


def check_names(names: Iterable[object], what: str, error: type[Exception]) -> None:
    for name in names:
        check_name(name, what, error)


def topic_fault(name: object) -> str:
    """What keeps a name from having plain components between slashes, as those of topics, types and frames of TF do."""
    parts = name.strip("/").split("/") if isinstance(name, str) else [name]
    return next(filter(None, map(name_fault, parts)), "")


def check_topic(name: object, what: str, error: type[Exception]) -> str:
    """As `check_name`, of names with plain components between slashes."""
    fault = topic_fault(name)
    if fault or not isinstance(name, str):
        raise error(f"{what} {shorten(name)} is refused: {fault}; rename it")
    return name


class DataRoot:
    """A folder of data whose files are named by other files: none of them lies outside."""

    def __init__(self, folder: Path, error: type[Exception], follow_outside: bool = False) -> None:
        """follow_outside: links that lead out of the folder are followed; the operator has made them on purpose."""
        self.folder, self._error, self._follow = folder, error, follow_outside
        self._real = os.path.realpath(folder)
        self._inside: dict[str, bool] = {}  # folder of files -> whether it truly lies inside

    def locate(self, filename: object, what: str, base: Path | None = None) -> Path:
        """The path of `filename`, which is relative to `base` or else the root; `error` where it leads outside.

        Whether there is such a file is not looked at.
        """
        if not isinstance(filename, str) or not filename or "\\" in filename or "\0" in filename:
            raise self._error(f"{what}: expected the name of a file below {self.folder}, got {shorten(filename)}")
        # Such a name may come back to the folder, but what is made of it, as of an image's depth below another folder,
        # does not.
        if base is None and ".." in filename.split("/"):
            raise self._error(f"{what}: {shorten(filename)} lies outside of {self.folder} on its way; it is not opened")
        base = self.folder if base is None else base
        path = base / filename
        if filename.startswith("/") or ".." in filename or base is not self.folder:
            below = os.path.relpath(os.path.normpath(path), os.path.normpath(self.folder))
            if filename.startswith("/") or below == "." or below.split(os.sep)[0] == "..":
                raise self._error(f"{what}: {shorten(filename)} lies outside of {self.folder}; it is not opened")
        return self.check(path, what)

    def check(self, path: Path, what: str) -> Path:
        """A path below the folder whose parts have plain names; `error` where a link leads out of it."""
        if not self._follow and not self._is_inside(path):
            raise self._error(
                f"{what}: {shorten(os.path.relpath(path, self.folder))} is reached over a link that leads out of "
                f"{self.folder}; if you made that link, say --follow-outside (settings: data.follow_outside=true)"
            )
        return path

    def _is_inside(self, path: Path) -> bool:
        folder = os.path.dirname(path)
        if folder not in self._inside:  # once per folder: it asks the file system for every part of the path
            self._inside[folder] = self._holds(os.path.realpath(folder))
        return self._inside[folder] and (not os.path.islink(path) or self._holds(os.path.realpath(path)))

    def _holds(self, real: str) -> bool:
        return real == self._real or real.startswith(self._real.rstrip(os.sep) + os.sep)
