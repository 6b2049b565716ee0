# SPDX-License-Identifier: Apache-2.0
"""Frames in a tree with poses over time: what tf2's buffer is, without ROS, for bags and where there is no tf2_ros."""

from __future__ import annotations

import bisect
import threading

import numpy as np

from gaussianocc_core.errors import GaussianOccError
from gaussianocc_core.geometry.transforms import interpolate, invert_matrix
from gaussianocc_core.names import check_topic, shorten


class TransformUnavailable(GaussianOccError):
    """TF does not connect two frames, or not at that time. The message names the frames and what is known."""


class TransformGap(TransformUnavailable):
    """There are poses before and after that time, too far apart to say where the frame was between them."""


class FrameRefused(GaussianOccError):
    """A frame has a name that none can have."""


_GAP_INTERVALS = 3.0  # poses farther apart than so many of the usual intervals leave a gap ...
_LEAST_GAP_NS = 500_000_000  # ... but none that is shorter than this
_MOST_FRAMES = 5000  # a robot has a hundred
_MOST_POSES = 20_000  # 2 kHz for 10 s; a message of 200,000 that go back in time took 18 s under the lock
_LISTED = 20  # in a message


def _listed(frames: list[str], separator: str = ", ") -> str:
    more = len(frames) - _LISTED
    return separator.join(frames[:_LISTED]) + (f"{separator}{more} more" if more > 0 else "")


class TransformTree:
    """Poses are interpolated in time; safe to use from several threads. A leading slash of a frame is dropped.

    As in tf2 the parent of a frame belongs to each of its poses: where two nodes claim a frame, whose transform came
    last before a time decides. bridge_gaps: interpolate however far two poses are apart, as tf2 does; else TransformGap
    where they are much farther apart than usual.
    """

    def __init__(self, keep_ns: int = 10_000_000_000, bridge_gaps: bool = True, most_poses: int = _MOST_POSES) -> None:
        """most_poses: of one frame; older ones are forgotten. Poses that come late take time by how many come after."""
        self._keep_ns, self._most_poses = keep_ns, most_poses
        self._bridge_gaps = bridge_gaps
        self._lock = threading.Lock()
        self._parent: dict[str, str] = {}  # the newest of each frame
        self._static: dict[str, np.ndarray] = {}  # child -> T_parent_child
        self._moving: dict[str, tuple[list[int], list[tuple[str, np.ndarray]]]] = {}  # child -> stamps, (parent, T)
        self._longest: dict[str, tuple[int, float]] = {}  # child -> number of poses, and the longest interval to bridge

    def add(self, parent: str, child: str, stamp_ns: int, T_parent_child: np.ndarray, static: bool) -> None:
        """FrameRefused, and nothing added, where a frame's name is empty or holds control characters, or where there
        are too many frames."""
        for frame in (parent, child):
            check_topic(frame, "TF frame", FrameRefused)
        parent, child = parent.lstrip("/"), child.lstrip("/")
        with self._lock:
            if child not in self._parent and len(self._parent) >= _MOST_FRAMES:
                raise FrameRefused(f"TF has {_MOST_FRAMES} frames already; {shorten(child)} is ignored")
            self._parent[child] = parent
            if static:
                self._moving.pop(child, None)
                self._static[child] = T_parent_child
                return
            self._static.pop(child, None)
            stamps, poses = self._moving.setdefault(child, ([], []))
            if stamps and stamp_ns < stamps[-1] - self._keep_ns:  # time went back: a recording that loops
                stamps.clear()
                poses.clear()
            place = bisect.bisect_left(stamps, stamp_ns)
            if place < len(stamps) and stamps[place] == stamp_ns:
                poses[place] = parent, T_parent_child
            else:
                stamps.insert(place, stamp_ns)
                poses.insert(place, (parent, T_parent_child))
            expired = max(bisect.bisect_left(stamps, stamps[-1] - self._keep_ns), len(stamps) - self._most_poses)
            del stamps[:expired], poses[:expired]

    def knows(self, frame: str) -> bool:
        frame = frame.lstrip("/")
        with self._lock:
            return frame in self._parent or frame in self._parent.values()

    def lookup(self, target: str, source: str, stamp_ns: int | None = None) -> np.ndarray:
        target, source = target.lstrip("/"), source.lstrip("/")  # as `add` stores them
        with self._lock:
            up_target, up_source = self._ancestors(target, stamp_ns), self._ancestors(source, stamp_ns)
            reached = set(up_target)
            common = next((frame for frame in up_source if frame in reached), None)
            if common is None:
                known = _listed(sorted({*self._parent, *self._parent.values()})) or "no frames at all"
                raise TransformUnavailable(f"TF does not connect {target} and {source}; it knows {known}")
            T_common_target = self._to_ancestor(target, common, stamp_ns)
            return invert_matrix(T_common_target) @ self._to_ancestor(source, common, stamp_ns)

    def _ancestors(self, frame: str, stamp_ns: int | None) -> list[str]:
        chain = {frame: None}  # in order; a list would be searched anew for every frame of a long chain
        while (parent := self._parent_at(frame, stamp_ns)) is not None:
            if parent in chain:
                raise TransformUnavailable(f"TF has a loop: {_listed([parent, *reversed(chain)], ' <- ')}")
            chain[parent] = None
            frame = parent
        return list(chain)

    def _parent_at(self, child: str, stamp_ns: int | None) -> str | None:
        if stamp_ns is None or child not in self._moving:
            return self._parent.get(child)
        stamps, poses = self._moving[child]
        return poses[max(0, bisect.bisect_right(stamps, stamp_ns) - 1)][0]

    def _to_ancestor(self, frame: str, ancestor: str, stamp_ns: int | None) -> np.ndarray:
        T_ancestor_frame = np.eye(4)
        while frame != ancestor:
            T_ancestor_frame = self._edge(frame, stamp_ns) @ T_ancestor_frame
            parent = self._parent_at(frame, stamp_ns)
            assert parent is not None
            frame = parent
        return T_ancestor_frame

    def _edge(self, child: str, stamp_ns: int | None) -> np.ndarray:
        if child in self._static:
            return self._static[child]
        stamps, poses = self._moving[child]
        if stamp_ns is None:
            return poses[-1][1]
        place = bisect.bisect_left(stamps, stamp_ns)
        if place < len(stamps) and stamps[place] == stamp_ns:
            return poses[place][1]
        if place in (0, len(stamps)):
            side, bound = ("before the first", stamps[0]) if place == 0 else ("after the last", stamps[-1])
            raise TransformUnavailable(
                f"TF {self._parent[child]} <- {child}: {stamp_ns * 1e-9:.3f} s lies "
                f"{abs(stamp_ns - bound) * 1e-6:.1f} ms {side} of {len(stamps)} known poses"
            )
        before, after = stamps[place - 1], stamps[place]
        (parent, T_before), (next_parent, T_after) = poses[place - 1], poses[place]
        if not self._bridge_gaps and after - before > self._longest_interval(child):
            raise TransformGap(
                f"TF {parent} <- {child}: {stamp_ns * 1e-9:.3f} s lies in a gap of {(after - before) * 1e-9:.2f} s"
            )
        if parent != next_parent:
            return T_before
        return interpolate(T_before, T_after, (stamp_ns - before) / (after - before))

    def _longest_interval(self, child: str) -> float:
        stamps = self._moving[child][0]
        known = self._longest.get(child)
        if known is None or known[0] != len(stamps):
            usual = float(np.median(np.diff(stamps)))
            known = self._longest[child] = len(stamps), float(max(_LEAST_GAP_NS, _GAP_INTERVALS * usual))
        return known[1]
