# SPDX-License-Identifier: Apache-2.0
"""Recorded poses of a whole recording, to ask where the rig was a little earlier or later than the images say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from gaussianocc_core.data.sources import Entry
from gaussianocc_core.geometry.transforms import interpolate, invert_matrix

_MOST_GAP_NS = 400_000_000  # between poses that are interpolated
_DISTANCE = 10.0  # m, of what is in view: how a metre and a radian compare
_LATE_NS = 200_000_000  # that `where_delays_show` looks at


@dataclass(frozen=True)
class PoseTrack:
    """Of one recording, at the stamps of the anchor camera's images."""

    stamps_ns: Int[np.ndarray, " M"]  # ascending
    T_world_ego: Float[np.ndarray, "M 4 4"]

    def at(self, stamp_ns: int) -> Float[np.ndarray, "4 4"] | None:
        """Interpolated; None before the first pose, after the last one, and in gaps."""
        k = int(np.searchsorted(self.stamps_ns, stamp_ns))
        if k < len(self.stamps_ns) and self.stamps_ns[k] == stamp_ns:
            return self.T_world_ego[k]
        if not 0 < k < len(self.stamps_ns):
            return None
        before, after = int(self.stamps_ns[k - 1]), int(self.stamps_ns[k])
        if after - before > _MOST_GAP_NS:
            return None
        return interpolate(self.T_world_ego[k - 1], self.T_world_ego[k], (stamp_ns - before) / (after - before))

    def motion(self, here_ns: int, there_ns: int, late_ns: int = 0) -> Float[np.ndarray, "4 4"] | None:
        """Points of the ego frame of one image in that of another, if stamps of poses are late by `late_ns`."""
        here, there = self.at(here_ns + late_ns), self.at(there_ns + late_ns)
        return None if here is None or there is None else invert_matrix(there) @ here


def pose_tracks(entries: Sequence[Entry]) -> dict[str, PoseTrack]:
    """By recording, of those that have poses."""
    found: dict[str, dict[int, np.ndarray]] = {}
    for entry in entries:
        for frame in (entry.frame, *(frame for _, frame in entry.neighbours)):
            if frame.T_world_ego is not None:
                found.setdefault(entry.scene, {})[frame.camera_stamps_ns[0]] = frame.T_world_ego[0]
    return {
        scene: PoseTrack(np.array(sorted(poses)), np.stack([poses[stamp] for stamp in sorted(poses)]))
        for scene, poses in found.items()
    }


def delayed_motions(
    entry: Entry, tracks: dict[str, PoseTrack], delays_s: Sequence[float]
) -> Float[np.ndarray, "D S 4 4"] | None:
    """The motions to the neighbours if stamps of poses are late by each delay; None where one of them is not known."""
    track = tracks.get(entry.scene)
    if track is None:
        return None
    here = entry.frame.camera_stamps_ns[0]
    there = [frame.camera_stamps_ns[0] for _, frame in entry.neighbours]
    found = [track.motion(here, each, round(1e9 * late)) for late in delays_s for each in there]
    known = [each for each in found if each is not None]
    if len(known) < len(found) or not found:
        return None
    return np.stack(known).reshape(len(delays_s), len(there), 4, 4)


def where_delays_show(entries: Sequence[Entry], tracks: dict[str, PoseTrack], count: int, least: float) -> list[int]:
    """Places of up to so many entries, in their order, whose motion would be most another if poses were 200 ms late or
    early: where turns begin and end, and where the rig starts and stops.

    least: of what it changes in the images, rad.
    """
    changes = np.zeros(len(entries))
    for k, entry in enumerate(entries):
        shifted = delayed_motions(entry, tracks, (-1e-9 * _LATE_NS, 0.0, 1e-9 * _LATE_NS))
        if shifted is not None:
            as_it_is = shifted[1]
            changes[k] = np.mean([_change(shifted[way], as_it_is) for way in (0, 2)])
    chosen = np.argsort(-changes, kind="stable")[:count]
    return sorted(int(k) for k in chosen if changes[k] >= least)


def _change(one: Float[np.ndarray, "S 4 4"], other: Float[np.ndarray, "S 4 4"]) -> float:
    """rad by which things in view shift, about, mean of the neighbours."""
    turns = np.linalg.norm(one[:, :3, :3] - other[:, :3, :3], axis=(1, 2)) / 2**0.5
    moves = np.linalg.norm(one[:, :3, 3] - other[:, :3, 3], axis=1)
    return float((turns + moves / _DISTANCE).mean())
