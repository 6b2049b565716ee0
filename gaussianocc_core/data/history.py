# SPDX-License-Identifier: Apache-2.0
"""Earlier moments of a recording that lie metres away, beside the moments that look for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from gaussianocc_core.data.bag import BagEntry
from gaussianocc_core.data.entries import SampleEntry
from gaussianocc_core.models.depth_refinement import choose_far

_OLDEST_NS = 3_000_000_000
AnyEntry = TypeVar("AnyEntry", bound=SampleEntry | BagEntry)


def with_history(
    entries: Sequence[AnyEntry], moments: Sequence[AnyEntry], ways: Sequence[float]
) -> tuple[AnyEntry, ...]:
    """The entries, each with those moments of its scene before it from which the rig was so many metres away.

    Where it did not go so far within 3 s, the farthest from half of a way on. Of moments without poses, none.
    """
    by_scene: dict[str, list[AnyEntry]] = {}
    for each in moments:
        if each.frame.T_world_ego is not None:
            by_scene.setdefault(each.scene, []).append(each)
    for of_scene in by_scene.values():
        of_scene.sort(key=_stamp)
    return tuple(_with_history(each, by_scene.get(each.scene, []), ways) for each in entries)


def _with_history(entry: AnyEntry, moments: Sequence[AnyEntry], ways: Sequence[float]) -> AnyEntry:
    here = _place(entry)
    if here is None:
        return entry
    stamp = _stamp(entry)
    before = [each for each in reversed(moments) if 0 < stamp - _stamp(each) <= _OLDEST_NS]
    places = [_place(each) for each in before]
    away = [0.0 if place is None else float(np.linalg.norm(place - here)) for place in places]
    chosen = choose_far(away, ways)
    found: Any = tuple((-(k + 1), before[k].frame) for k in chosen)
    return replace(entry, history=found)


def _place(entry: SampleEntry | BagEntry) -> np.ndarray | None:
    poses = entry.frame.T_world_ego
    return None if poses is None else poses[0][:3, 3]


def _stamp(entry: SampleEntry | BagEntry) -> int:
    return entry.frame.camera_stamps_ns[0]
