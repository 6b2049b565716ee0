# SPDX-License-Identifier: Apache-2.0
"""Frames in a tree with poses over time: what tf2's buffer is, without ROS, for bags and where there is no tf2_ros."""

from __future__ import annotations

import bisect
import threading

import numpy as np

from gaussianocc_core.errors import GaussianOccError
from gaussianocc_core.geometry.transforms import interpolate, invert_matrix


class TransformUnavailable(GaussianOccError):
    """TF does not connect two frames, or not at that time. The message names the frames and what is known."""


class TransformTree:
    """Poses are interpolated in time; safe to use from several threads. A leading slash of a frame is dropped."""

    def __init__(self, keep_ns: int = 10_000_000_000) -> None:
        self._keep_ns = keep_ns
        self._lock = threading.Lock()
        self._parent: dict[str, str] = {}
        self._static: dict[str, np.ndarray] = {}  # child -> T_parent_child
        self._moving: dict[str, tuple[list[int], list[np.ndarray]]] = {}  # child -> stamps (sorted), T_parent_child

    def add(self, parent: str, child: str, stamp_ns: int, T_parent_child: np.ndarray, static: bool) -> None:
        parent, child = parent.lstrip("/"), child.lstrip("/")
        with self._lock:
            if self._parent.get(child) != parent or static:
                self._moving.pop(child, None)
            self._parent[child] = parent
            if static:
                self._static[child] = T_parent_child
                return
            self._static.pop(child, None)
            stamps, poses = self._moving.setdefault(child, ([], []))
            if stamps and stamp_ns < stamps[-1] - self._keep_ns:  # time went back: a recording that loops
                stamps.clear()
                poses.clear()
            place = bisect.bisect_left(stamps, stamp_ns)
            if place < len(stamps) and stamps[place] == stamp_ns:
                poses[place] = T_parent_child
            else:
                stamps.insert(place, stamp_ns)
                poses.insert(place, T_parent_child)
            expired = bisect.bisect_left(stamps, stamps[-1] - self._keep_ns)
            del stamps[:expired], poses[:expired]

    def knows(self, frame: str) -> bool:
        frame = frame.lstrip("/")
        with self._lock:
            return frame in self._parent or frame in self._parent.values()

    def lookup(self, target: str, source: str, stamp_ns: int | None = None) -> np.ndarray:
        target, source = target.lstrip("/"), source.lstrip("/")  # as `add` stores them
        with self._lock:
            up_target, up_source = self._ancestors(target), self._ancestors(source)
            common = next((frame for frame in up_source if frame in up_target), None)
            if common is None:
                known = ", ".join(sorted({*self._parent, *self._parent.values()})) or "no frames at all"
                raise TransformUnavailable(f"TF does not connect {target} and {source}; it knows {known}")
            T_common_target = self._to_ancestor(target, common, stamp_ns)
            return invert_matrix(T_common_target) @ self._to_ancestor(source, common, stamp_ns)

    def _ancestors(self, frame: str) -> list[str]:
        chain = [frame]
        while (parent := self._parent.get(chain[-1])) is not None:
            if parent in chain:
                raise TransformUnavailable(f"TF has a loop: {' <- '.join([parent, *reversed(chain)])}")
            chain.append(parent)
        return chain

    def _to_ancestor(self, frame: str, ancestor: str, stamp_ns: int | None) -> np.ndarray:
        T_ancestor_frame = np.eye(4)
        while frame != ancestor:
            T_ancestor_frame = self._edge(frame, stamp_ns) @ T_ancestor_frame
            frame = self._parent[frame]
        return T_ancestor_frame

    def _edge(self, child: str, stamp_ns: int | None) -> np.ndarray:
        if child in self._static:
            return self._static[child]
        stamps, poses = self._moving[child]
        if stamp_ns is None:
            return poses[-1]
        place = bisect.bisect_left(stamps, stamp_ns)
        if place < len(stamps) and stamps[place] == stamp_ns:
            return poses[place]
        if place in (0, len(stamps)):
            side, bound = ("before the first", stamps[0]) if place == 0 else ("after the last", stamps[-1])
            raise TransformUnavailable(
                f"TF {self._parent[child]} <- {child}: {stamp_ns * 1e-9:.3f} s lies "
                f"{abs(stamp_ns - bound) * 1e-6:.1f} ms {side} of {len(stamps)} known poses"
            )
        before, after = stamps[place - 1], stamps[place]
        return interpolate(poses[place - 1], poses[place], (stamp_ns - before) / (after - before))
