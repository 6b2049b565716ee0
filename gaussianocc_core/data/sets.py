# SPDX-License-Identifier: Apache-2.0
"""The SetBuilder: stamped camera frames in, synchronised sets out. No ROS, no clock, no threads.

Cameras of one rig are rarely triggered together: nuScenes fires its six one after another while the lidar turns, so the
frames of one set spread over 43 ms at a period of 83 ms. A set is therefore formed around the *anchor* camera's stamp:
of every other camera it holds the frame nearest in time, if that lies within the slop.
"""

from __future__ import annotations

import bisect
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

POLICIES = ("wait", "skip", "degrade")
_INTERVALS_KEPT = 8  # enough to see past a few dropped frames, short enough to follow a change of rate
_SILENT_NS = 1_000_000_000  # a camera without a frame for so long is no longer waited for
_MIN_REWIND_NS = 500_000_000  # a smaller step back is out-of-order delivery (0.33 s were seen), no restarted recording


@dataclass(frozen=True)
class SynchronizedSet:
    """One frame per camera (policy "degrade": of those that are there); dicts are in the configured camera order."""

    stamp_ns: int  # of the anchor camera's frame, or of what stands in for it
    items: dict[str, Any]  # whatever was handed to `add`
    stamps_ns: dict[str, int]
    rewinds: int = 0  # how often stamps had stepped back before: where it differs, another run of time began


@dataclass
class SetStatistics:
    """Counts since construction. An anchor frame ends in `sets`, `dropped` or `discarded`, or is still pending."""

    received: Counter[str] = field(default_factory=Counter)  # frames per camera
    sets: int = 0
    degraded: int = 0  # of these, without all cameras
    dropped: Counter[str] = field(default_factory=Counter)  # anchor frames without a set: incomplete, overflow, rewind
    missing: Counter[str] = field(default_factory=Counter)  # incomplete sets per camera that was not there
    stood_in: Counter[str] = field(default_factory=Counter)  # sets around this camera, the anchor being silent
    reused: Counter[str] = field(default_factory=Counter)  # frames per camera that served one more set
    discarded: Counter[str] = field(default_factory=Counter)  # frames turned away on arrival: duplicate, late, stale
    rewinds: int = 0


class _Frame(NamedTuple):
    stamp_ns: int
    item: Any


_by_stamp = itemgetter(0)


class SetBuilder:
    """Forms sets around the anchor camera's stamps, in their order; no camera's stamps ever step back.

    Each anchor stamp takes the nearest frame that no set has had, and only where none lies within the slop the
    camera's last used one once more. Cameras that fire half a period off the anchor need that: with jitter the nearest
    frame is now before, now after the anchor, and each change of side from after to before finds its frame taken.
    Keeping to one side would lose the sets whose frame there falls outside the slop. For a robot a set more is worth
    more than a picture of its own: a used frame is no farther from its stamp than the slop allows any other to be,
    and a lost set is a whole period without a result.

    A set leaves as soon as no better frame can arrive: for every other camera either a frame at or after the anchor's
    stamp has been seen, or the nearest earlier one is closer than half of that camera's shortest recent interval, so
    that its successor must be farther away. (Before a camera's rate is known, a frame within the slop is taken.)

    A camera without a frame within the slop is given up when it delivers a later one, or when the anchor's next frame
    is there and the stamps seen have passed the slop, by `patience_ns` more unless `policy="skip"`. The incomplete set
    is then dropped and counted under that camera's name; with `policy="degrade"` it is formed of the cameras that are
    there, and one that has been silent for a second is not waited for; while that is the anchor, another camera takes
    its place. Memory is bounded by `depth` waiting frames and
    a used one per camera. When a camera's stamps step back (a recording that loops) what came from the abandoned future
    is forgotten.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        slop_ns: int = 50_000_000,
        *,
        anchor: str | None = None,
        policy: str = "wait",
        patience_ns: int = 100_000_000,
        depth: int = 8,
    ) -> None:
        self.cameras = tuple(cameras)
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ValueError(f"cameras: expected one or more unique names, got {list(self.cameras)}")
        self.anchor = self.cameras[0] if anchor is None else anchor
        if self.anchor not in self.cameras:
            raise ValueError(f"anchor: expected one of {list(self.cameras)}, got {self.anchor!r}")
        if policy not in POLICIES:
            raise ValueError(f"policy: expected one of {POLICIES}, got {policy!r}")
        if slop_ns < 0 or patience_ns < 0 or depth < 1:
            got = f"{slop_ns}, {patience_ns}, {depth}"
            raise ValueError(f"slop_ns, patience_ns, depth: expected at least 0, 0, 1, got {got}")
        self.slop_ns = int(slop_ns)
        self.statistics = SetStatistics()
        self._patience_ns = 0 if policy == "skip" else int(patience_ns)
        self._degrades = policy == "degrade"
        self._rewind_ns = max(2 * self.slop_ns, _MIN_REWIND_NS)
        self._depth = depth
        self._frames: dict[str, list[_Frame]] = {name: [] for name in self.cameras}  # unused ones, sorted by stamp
        self._used: dict[str, _Frame] = {}  # last one of each camera but the anchor, while it can serve again
        self._latest: dict[str, int] = {}  # newest stamp seen per camera
        self._done: dict[str, int] = {}  # newest stamp used per camera; for the anchor: decided
        self._began = 1 << 62  # first anchor stamp since the last reset or step back
        self._acting = self.anchor  # or what stands in for it
        self._since: dict[str, int] = {}  # per camera: its first stamp since the acting anchor was last heard
        self._last_set: int | None = None
        self._behind: dict[str, int] = {}  # after a step back: cameras still on the old run, frames of them to refuse
        self._intervals = {name: deque[int](maxlen=_INTERVALS_KEPT) for name in self.cameras}

    def add(self, camera: str, stamp_ns: int, item: Any) -> list[SynchronizedSet]:
        """The sets that this frame completes, oldest first; a live consumer processes the last one."""
        if camera not in self._frames:
            raise ValueError(f"camera: expected one of {list(self.cameras)}, got {camera!r}")
        self.statistics.received[camera] += 1
        latest = self._latest.get(camera)
        if latest is not None and stamp_ns < latest - self._rewind_ns:
            self._rewind(camera, stamp_ns)
            latest = None
        if self._is_stale(camera, stamp_ns):
            self.statistics.discarded["stale"] += 1
            return []
        if not self._store(camera, _Frame(int(stamp_ns), item)):
            return []
        if latest is None or stamp_ns > latest:
            self._latest[camera] = int(stamp_ns)
            if latest is not None:
                self._intervals[camera].append(stamp_ns - latest)
        if self._degrades:
            self._appoint(camera, stamp_ns)
        return self._collect(final=False)

    def flush(self) -> list[SynchronizedSet]:
        """The sets that can be formed of what is pending, when no more frames will come (the end of a recording)."""
        return self._collect(final=True)

    def reset(self) -> None:
        """Forget all frames and rates; statistics stay."""
        for name in self.cameras:
            self._frames[name].clear()
            self._intervals[name].clear()
        self._used.clear()
        self._latest.clear()
        self._done.clear()
        self._behind.clear()
        self._forget_anchor()

    def _forget_anchor(self) -> None:
        self._began = 1 << 62
        self._acting, self._last_set = self.anchor, None
        self._since.clear()

    def _appoint(self, camera: str, stamp_ns: int) -> None:
        """Whose stamps sets are formed around from here on. Silence is measured in the stamps of the camera that
        speaks, so that one on a clock of its own deposes nobody."""
        if camera not in (self.anchor, self._acting):
            if stamp_ns - self._since.setdefault(camera, stamp_ns) <= _SILENT_NS:
                return
            # The first in order of those that went on speaking, not the one whose frame happens to arrive first.
            spoke = (n for n, t in self._since.items() if 2 * (self._latest.get(n, t) - t) > _SILENT_NS)
            camera = min(spoke, key=self.cameras.index)
        elif camera == self._acting:
            self._since.clear()
            return
        self._acting = camera
        self._since.clear()
        if self._last_set is not None:  # the stamps of sets never step back
            self._done[camera] = max(self._done.get(camera, 0), self._last_set)
            frames = self._frames[camera]
            del frames[: bisect.bisect_right(frames, self._last_set, key=_by_stamp)]

    def _store(self, camera: str, frame: _Frame) -> bool:
        frames = self._frames[camera]
        place = bisect.bisect_left(frames, frame.stamp_ns, key=_by_stamp)
        if place < len(frames) and frames[place].stamp_ns == frame.stamp_ns:
            self.statistics.discarded["duplicate"] += 1
            return False
        if camera in self._done and frame.stamp_ns <= self._done[camera]:
            reason = "duplicate" if frame.stamp_ns == self._done[camera] else "late"
            self.statistics.discarded[reason] += 1
            return False
        frames.insert(place, frame)
        if len(frames) > self._depth:
            oldest = frames.pop(0)
            if camera == self._acting:
                self.statistics.dropped["overflow"] += 1
                self._done[camera] = oldest.stamp_ns
        return True

    def _rewind(self, camera: str, stamp_ns: int) -> None:
        self.statistics.rewinds += 1
        horizon = stamp_ns + self._rewind_ns
        for name, frames in self._frames.items():
            kept = bisect.bisect_right(frames, horizon, key=_by_stamp)
            if name == self._acting:
                self.statistics.dropped["rewind"] += len(frames) - kept
            del frames[kept:]
        self._used.clear()
        self._latest.clear()
        self._done.clear()
        self._forget_anchor()
        self._behind = {name: self._depth for name in self.cameras if name != camera}

    def _is_stale(self, camera: str, stamp_ns: int) -> bool:
        """True for a frame of the old run that trickles in after another camera began the new one."""
        refusals = self._behind.get(camera, 0)
        newest = max(self._latest.values(), default=stamp_ns)
        if refusals and stamp_ns > newest + self._rewind_ns:
            self._behind[camera] = refusals - 1  # bounded: a camera on a clock of its own must not silence the others
            return True
        self._behind.pop(camera, None)
        return False

    def _collect(self, final: bool) -> list[SynchronizedSet]:
        sets = []
        pending = self._frames[self._acting]
        while pending:
            chosen = self._choose(pending[0].stamp_ns, final)
            if chosen is None:
                break
            anchor = pending.pop(0)
            self._done[self._acting] = anchor.stamp_ns
            chosen[self._acting] = anchor
            present = {name: frame for name in self.cameras if (frame := chosen[name]) is not None}
            missing = [name for name in self.cameras if name not in present]
            self.statistics.missing.update(missing)
            if missing and not self._degrades:
                self.statistics.dropped["incomplete"] += 1
            else:
                self.statistics.degraded += bool(missing)
                sets.append(self._take(anchor.stamp_ns, present))
        self._prune()
        return sets

    def _choose(self, anchor_ns: int, final: bool) -> dict[str, _Frame | None] | None:
        """The frame of every other camera for this anchor stamp, None where it has none; None while one may come."""
        newest = max(self._latest.values(), default=anchor_ns)
        anchor_moved_on = self._latest.get(self._acting, anchor_ns) > anchor_ns
        overdue = anchor_moved_on and newest >= anchor_ns + self.slop_ns + self._patience_ns
        chosen: dict[str, _Frame | None] = {}
        for name in self.cameras:
            if name == self._acting:
                continue
            frame = self._nearest(name, anchor_ns)
            if not (final or overdue or self._is_settled(name, anchor_ns, frame)):
                return None
            chosen[name] = frame or self._reusable(name, anchor_ns)
        return chosen

    def _nearest(self, camera: str, anchor_ns: int) -> _Frame | None:
        within = [frame for frame in self._frames[camera] if abs(frame.stamp_ns - anchor_ns) <= self.slop_ns]
        return min(within, key=lambda frame: abs(frame.stamp_ns - anchor_ns), default=None)

    def _reusable(self, camera: str, anchor_ns: int) -> _Frame | None:
        frame = self._used.get(camera)
        return frame if frame is not None and abs(frame.stamp_ns - anchor_ns) <= self.slop_ns else None

    def _is_settled(self, camera: str, anchor_ns: int, frame: _Frame | None) -> bool:
        """True when no later frame of this camera can be nearer than `frame`, or within the slop if it is None."""
        latest = self._latest.get(camera)
        if frame is None and self._degrades and self._is_silent(camera, anchor_ns):
            return True
        if latest is None:
            return False
        if frame is None:
            return latest > anchor_ns + self.slop_ns
        if latest >= anchor_ns:
            return True
        shortest = min(self._intervals[camera], default=None)
        return shortest is None or 2 * (anchor_ns - frame.stamp_ns) < shortest

    def _is_silent(self, camera: str, anchor_ns: int) -> bool:
        """A camera that never sent anything counts from the first anchor frame on."""
        self._began = min(self._began, anchor_ns)
        return anchor_ns - self._latest.get(camera, self._began) > _SILENT_NS

    def _take(self, stamp_ns: int, frames: dict[str, _Frame]) -> SynchronizedSet:
        for name, frame in frames.items():
            if name != self._acting:
                self.statistics.reused[name] += frame is self._used.get(name)
                self._used[name] = frame
            self._done[name] = frame.stamp_ns
            del self._frames[name][: bisect.bisect_right(self._frames[name], frame.stamp_ns, key=_by_stamp)]
        self._last_set = stamp_ns
        self.statistics.sets += 1
        if self._acting != self.anchor:
            self.statistics.stood_in[self._acting] += 1
        return SynchronizedSet(
            stamp_ns,
            {name: frame.item for name, frame in frames.items()},
            {name: frame.stamp_ns for name, frame in frames.items()},
            self.statistics.rewinds,
        )

    def _prune(self) -> None:
        # What lies before every anchor stamp still to come, by more than the slop, can never be used: free the images.
        decided = self._done.get(self._acting)
        if decided is None:
            return
        for name, frames in self._frames.items():
            if name != self._acting:
                del frames[: bisect.bisect_right(frames, decided - self.slop_ns, key=_by_stamp)]
                if name in self._used and self._used[name].stamp_ns <= decided - self.slop_ns:
                    del self._used[name]
