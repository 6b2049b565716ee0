# SPDX-License-Identifier: Apache-2.0
"""Which images of a recording are looked at, and reading them: moments spread over it, and where it turns most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
_STRIPS, _STRIP_S, _STRIP_STEP_S = 3, 1.8, 0.07  # their number, length, and the least time from image to image
_CHANGE_S = 0.2  # on either side, over which a change of odometry is measured
_LEAST_CHANGE = np.radians(1.0)  # rad/s
_RESTS, _DRIVES = 0.05, 0.3  # m/s
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
    strips: tuple[tuple[Shot, ...], ...] = ()  # of the first camera, one after the other, where odometry changes most


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


def choose_strips(entries: Sequence[BagEntry]) -> list[list[int]]:
    """Places of entries that follow each other closely, around what tells a delay: turns that begin or end, starts and
    stops. Long enough that they are in it though odometry comes late."""
    posed = [i for i, entry in enumerate(entries) if entry.frame.T_world_ego is not None]
    if len(posed) < 8:
        return []
    stamps = np.array([entries[i].frame.camera_stamps_ns[0] for i in posed])
    seconds = (stamps - stamps[0]) * 1e-9
    T = np.stack([entries[i].frame.T_world_ego[0] for i in posed])  # type: ignore[index]
    between, apart = 0.5 * (seconds[1:] + seconds[:-1]), np.maximum(np.diff(seconds), 1e-3)
    R = np.swapaxes(T[:-1, :3, :3], 1, 2) @ T[1:, :3, :3]
    turns = 0.5 * np.stack([R[:, 2, 1] - R[:, 1, 2], R[:, 0, 2] - R[:, 2, 0], R[:, 1, 0] - R[:, 0, 1]], axis=1)
    rates = turns / apart[:, None]
    speeds = np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1) / apart

    def change(values: np.ndarray, by: float) -> np.ndarray:
        before, after = (np.interp(seconds + way, between, values) for way in (-by, by))
        return after - before

    turning = np.sqrt(sum(change(rates[:, axis], _CHANGE_S) ** 2 for axis in range(3)))
    slow, fast = (
        np.minimum.reduce([np.interp(seconds + way, between, sign * speeds) for way in (-0.8, 0.0, 0.8)]) * sign
        for sign in (1.0, -1.0)
    )
    starting = np.where((slow < _RESTS) & (fast > _DRIVES), np.abs(change(speeds, 0.8)), 0.0)
    strips: list[list[int]] = []
    taken = np.zeros(0)
    wanted = [(starting, 1, 1e-9), (turning, _STRIPS, _LEAST_CHANGE)]
    for scores, count, least in wanted:
        for n in np.argsort(-scores).tolist():
            if len(strips) >= count or scores[n] < least:
                break
            if (np.abs(taken - seconds[n]) < _STRIP_S).any():
                continue
            strip: list[int] = []
            for m in np.flatnonzero(np.abs(seconds - seconds[n]) <= 0.5 * _STRIP_S).tolist():
                if not strip or stamps[m] - entries[strip[-1]].frame.camera_stamps_ns[0] > _STRIP_STEP_S * 1e9:
                    strip.append(posed[m])
            if len(strip) >= 6:
                strips.append(strip)
                taken = np.append(taken, seconds[n])
    return strips


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
                on_progress(0.9 * (n + 1) / len(wanted))
        strips = []
        for strip in choose_strips(entries):
            # Read one after the other, as a reader has one place in its file.
            firsts = [shots[place][0] if place in shots else _load_first(entries[place]) for place in strip]
            looked = [
                each
                if each is None or isinstance(each, Shot)
                else pool.submit(_shoot, each[0], cylinders[0], *each[1:])
                for each in firsts
            ]
            found_shots = (each.result() if isinstance(each, Future) else each for each in looked)
            strips.append(tuple(shot for shot in found_shots if shot is not None))
    if on_progress is not None:
        on_progress(1.0)
    found = [Moment(shots[i], shots.get(j, ()) if j is not None else (), entries[i]) for i, j in pairs if i in shots]
    return Sampled(cameras, cylinders, tuple(found), tuple(strips))


def _load_first(entry: BagEntry) -> tuple[np.ndarray, int, np.ndarray | None] | None:
    """Image, stamp and pose of the first camera only; None where it is damaged."""
    entry = _bare(entry)
    frame = entry.frame
    poses = None if frame.T_world_ego is None else frame.T_world_ego[:1]
    cameras = entry.cameras.select(entry.cameras.names[:1])
    one = replace(entry, cameras=cameras, frame=replace(frame, images=frame.images[:1], T_world_ego=poses))
    try:
        image = one.load().images[0]
    except DatasetError:
        return None
    return image, frame.camera_stamps_ns[0], None if poses is None else poses[0]


def _bare(entry: BagEntry, masks: bool = False) -> BagEntry:
    entry = replace(entry, neighbours=(), history=(), labels=(), label_paths=())
    return entry if masks else replace(entry, masks=(), mask_paths=())


def _shoot(image: np.ndarray, cylinder: Cylinder, stamp_ns: int, T_world_ego: np.ndarray | None) -> Shot:
    grey = cylinder.unroll(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    return Shot(stamp_ns, find_features(grey, cylinder), grey, T_world_ego)
