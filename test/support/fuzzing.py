# SPDX-License-Identifier: Apache-2.0
"""Damaged files and messages from fixed seeds, and what must hold for each: no error but ours, soon, in little
memory."""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

SEED = int(os.environ.get("GAUSSIANOCC_FUZZ_SEED", "23"))
TIMES = float(os.environ.get("GAUSSIANOCC_FUZZ_TIMES", "1"))  # as many examples as stand in the tests
_HANG_S, _GROWTH_KB = 10.0, 500_000
COUNTS: Counter[str] = Counter()  # what was tried, and how it ended


class Hang(BaseException):
    """Not an Exception: nothing that catches all kinds may swallow it."""


def fuzz(examples: int, **strategies: Any) -> Callable[[Any], Any]:
    """The decorated test runs so often, each time with other values, and the same ones in every run of a seed."""

    def decorate(test: Any) -> Any:
        quick = settings(
            max_examples=max(1, round(examples * TIMES)),
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        return seed(SEED)(quick(given(**strategies)(test)))

    return decorate


@contextmanager
def guarded(kind: str, *allowed: type[Exception]) -> Iterator[None]:
    """The block ends within 10 s, without growing this process by 500 MB, and raises nothing but what is allowed."""

    def stop(number: int, frame: Any) -> None:
        raise Hang(f"{kind}: still at work after {_HANG_S:g} s")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    handler = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, _HANG_S)  # of this process' own: other work on the machine is no hang
    COUNTS[kind] += 1
    try:
        yield
    except allowed as error:
        COUNTS[f"{kind}: refused"] += 1
        text = str(error)
        assert "\n" not in text and len(text) < 2000, f"{kind}: no short line: {text[:3000]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert growth < _GROWTH_KB, f"{kind}: grew by {growth} kB"


# ---- bytes ---------------------------------------------------------------------------------------------------------

# Places are shares of the length, so that one strategy serves files of any size.
_PLACE = st.floats(0.0, 1.0, exclude_max=True)
_WORDS = [struct.pack("<I", value) for value in (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7F800000, 0x7FC00000)]
_CHANGE = st.one_of(
    st.tuples(st.just("flip"), _PLACE, st.integers(0, 7)),
    st.tuples(st.just("byte"), _PLACE, st.integers(0, 255)),
    st.tuples(st.just("word"), _PLACE, st.sampled_from(_WORDS)),
    st.tuples(st.just("cut"), _PLACE, st.just(0)),
    st.tuples(st.just("drop"), _PLACE, st.integers(1, 64)),
    st.tuples(st.just("insert"), _PLACE, st.binary(min_size=1, max_size=16)),
    st.tuples(st.just("double"), _PLACE, st.integers(1, 256)),
)
BYTE_CHANGES = st.lists(_CHANGE, min_size=1, max_size=4)


def change_bytes(data: bytes, changes: list[tuple[str, float, Any]]) -> bytes:
    result = bytearray(data)
    for how, share, value in changes:
        place = int(share * len(result))
        if how == "cut":
            del result[place:]
        elif how == "drop":
            del result[place : place + value]
        elif how == "insert":
            result[place:place] = value
        elif how == "double":
            result[place:place] = result[place : place + value]
        elif result:
            if how == "flip":
                result[place] ^= 1 << value
            elif how == "byte":
                result[place] = value
            else:
                result[place : place + 4] = value
    return bytes(result)


# ---- JSON and other trees ------------------------------------------------------------------------------------------

ODD = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    2**70,
    -(2**63),
    0.5,
    1e300,
    -1e300,
    1e-300,
    float("nan"),
    float("inf"),
    "",
    "x",
    "..",
    "../../x",
    "/abs/x",
    "a/b",
    "a\nb",
    "\u202e",
    "x" * 5000,
    [],
    {},
    [[]],
    [0] * 1000,
    {"": {}},
    "2020-99-99",
]
TREE_CHANGES = st.lists(
    st.tuples(st.sampled_from(["set", "set", "set", "drop", "copy"]), _PLACE, st.sampled_from(ODD)),
    min_size=1,
    max_size=3,
)


def change_tree(tree: Any, changes: list[tuple[str, float, Any]]) -> Any:
    """A copy in which values are others, gone, or twice there; of plain data."""
    tree = json.loads(json.dumps(tree))
    for how, share, odd in changes:
        value = deepcopy(odd)  # a later change may lie in it
        places = list(_places(tree))
        if not places:
            return value
        holder, key = places[int(share * len(places))]
        if how == "drop":
            del holder[key]
        elif how == "copy" and isinstance(holder, list):
            holder.append(deepcopy(holder[key]))
        else:
            holder[key] = value
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        yield from _places(value)
