# SPDX-License-Identifier: Apache-2.0
"""Which images of a recording are looked at, and reading them: moments spread over it, and where it turns most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from gaussianocc_core.data.bag import BagEntry
from gaussianocc_core.errors import DatasetError
from gaussianocc_core.onboarding.doctor.features import Cylinder, Features, find_features, plan_cylinder
from gaussianocc_core.types import Cameras

MOMENTS = 12  # spread over the recording
TURNS = 8  # more, where it turns most
_WANTED_M, _LONGEST_S, _USUAL_S = 0.4, 0.6, 0.25  # to the later image of a moment
_MOST_TURN = np.radians(12.0)
_THREADS = 2


@dataclass(frozen=True)
class Shot:
    """One image of one camera."""

    stamp_ns: int
    features: Features
    grey: UInt8[np.ndarray, "h w"]  # unrolled
    T_world_ego: Float[np.ndarray, "4 4"] | None  # at its stamp


@dataclass(frozen=True)
class Moment:
    """All cameras, and all of them a little later."""

    now: tuple[Shot, ...]
    later: tuple[Shot, ...]  # () where the recording has no other set near
    entry: BagEntry


@dataclass(frozen=True)
class Sampled:
    """What the doctor looks at."""

    cameras: Cameras
    cylinders: tuple[Cylinder, ...]
    moments: tuple[Moment, ...]


def choose(entries: Sequence[BagEntry], moments: int = MOMENTS, turns: int = TURNS) -> list[tuple[int, int | None]]:
    """Places of entries, each with that of the later one."""
    if not entries:
        return []
    find = lru_cache(maxsize=None)(partial(_later, entries))
    places = set(np.unique(np.linspace(0, max(len(entries) - 2, 0), moments).astype(int)).tolist())
    tried = np.unique(np.linspace(0, len(entries) - 1, 600).astype(int)).tolist()
    turning = {i: turn for i in tried if (j := find(i)) is not None and (turn := _turn(entries[i], entries[j])) > 0.002}
    apart = max(1, len(entries) // 60)
    for i in sorted(turning, key=lambda each: -turning[each]):
        if turns and all(abs(i - other) >= apart for other in places) and turning[i] < _MOST_TURN:
            places.add(i)
            turns -= 1
    return [(i, find(i)) for i in sorted(places)]


def _later(entries: Sequence[BagEntry], i: int) -> int | None:
    here = entries[i].frame
    best = None
    for j in range(i + 1, min(i + 40, len(entries))):
        seconds = (entries[j].frame.camera_stamps_ns[0] - here.camera_stamps_ns[0]) * 1e-9
        if not 0 < seconds < 1.5:
            break
        if seconds > _LONGEST_S and best is not None:
            break
        best = j
        if here.T_world_ego is None or entries[j].frame.T_world_ego is None:
            if seconds >= _USUAL_S:
                break
        elif _moved(entries[i], entries[j]) >= _WANTED_M or _turn(entries[i], entries[j]) > 0.5 * _MOST_TURN:
            break
    return best


def _moved(a: BagEntry, b: BagEntry) -> float:
    if a.frame.T_world_ego is None or b.frame.T_world_ego is None:
        return 0.0
    return float(np.linalg.norm(b.frame.T_world_ego[0, :3, 3] - a.frame.T_world_ego[0, :3, 3]))


def _turn(a: BagEntry, b: BagEntry) -> float:
    if a.frame.T_world_ego is None or b.frame.T_world_ego is None:
        return 0.0
    R = a.frame.T_world_ego[0, :3, :3].T @ b.frame.T_world_ego[0, :3, :3]
    return float(np.arccos(np.clip((np.trace(R) - 1) / 2, -1, 1)))


def sample(
    entries: Sequence[BagEntry], cameras: Cameras, on_progress: Callable[[float], None] | None = None
) -> Sampled:
    """Reads and finds features; damaged images cost their moment. on_progress: told the share that is done."""
    pairs = choose(entries)
    if not pairs:
        return Sampled(cameras, (), ())
    masks = None
    if entries[pairs[0][0]].mask_paths or entries[pairs[0][0]].masks:
        masks = _bare(entries[pairs[0][0]], masks=True).load().static_masks
    cylinders = tuple(plan_cylinder(cameras, i, masks[i] if masks else None) for i in range(len(cameras)))
    wanted = sorted({place for pair in pairs for place in pair if place is not None})
    shots: dict[int, tuple[Shot, ...]] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for n, place in enumerate(wanted):
            try:
                loaded = _bare(entries[place]).load()
            except DatasetError:
                continue
            frame = entries[place].frame
            poses = frame.T_world_ego if frame.T_world_ego is not None else [None] * len(cameras)
            shots[place] = tuple(
                pool.map(_shoot, loaded.images, cylinders, frame.camera_stamps_ns, poses)  # OpenCV lets go of the lock
            )
            if on_progress is not None:
                on_progress((n + 1) / len(wanted))
    found = [Moment(shots[i], shots.get(j, ()) if j is not None else (), entries[i]) for i, j in pairs if i in shots]
    return Sampled(cameras, cylinders, tuple(found))


def _bare(entry: BagEntry, masks: bool = False) -> BagEntry:
    entry = replace(entry, neighbours=(), history=(), labels=(), label_paths=())
    return entry if masks else replace(entry, masks=(), mask_paths=())


def _shoot(image: np.ndarray, cylinder: Cylinder, stamp_ns: int, T_world_ego: np.ndarray | None) -> Shot:
    grey = cylinder.unroll(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    return Shot(stamp_ns, find_features(grey, cylinder), grey, T_world_ego)
