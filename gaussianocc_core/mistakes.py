# SPDX-License-Identifier: Apache-2.0
"""A file's mistake is one line that says what, where and what to do: no traceback, no paragraphs of a library's own."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager

from gaussianocc_core.errors import GaussianOccError

_LONGEST_REASON, _LONGEST_LINE = 200, 1000  # characters


def one_line(error: object) -> str:
    """A message for a terminal or a log: one line, no control characters, and not longer than a screen."""
    text = " ".join(str(error).split())
    text = "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in text[: 2 * _LONGEST_LINE])
    return text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]}..."


def reason_of(error: BaseException) -> str:
    """Why a library refused something, in a few words: the first line of what it says, or what its kind means."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, KeyError):
        return f"it has no {one_line(repr(error.args[0]))[:_LONGEST_REASON]}" if error.args else "it lacks an entry"
    if isinstance(error, pickle.UnpicklingError):  # torch's has paragraphs
        return "it is damaged, or holds more than tensors and plain values"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    text = one_line(lines[0])[:_LONGEST_REASON].rstrip(" :.") if lines else ""
    plain = isinstance(error, (ValueError, RuntimeError, OSError))  # of the others, what they say alone says little
    return text if text and plain else f"{type(error).__name__}{f': {text}' if text else ''}"


@contextmanager
def reading(what: str, remedy: str, error: type[GaussianOccError]) -> Iterator[None]:
    """Whatever goes wrong in the block, where bytes of a file are made sense of, becomes `error` in one line.

    what: the file and its part; remedy: what to do. Errors of ours pass as they are, and so does an interrupt.
    """
    try:
        yield
    except GaussianOccError:
        raise
    except Exception as caught:
        raise error(f"{what} cannot be used ({reason_of(caught)}); {remedy}") from caught
