# SPDX-License-Identifier: Apache-2.0
"""The last sets of a rig's matching features, and which of them the present set is matched with.

    ring = ViewRing(width=176, height=96)
    views = ring.views(features, cameras, T_world_ego, stamp_s)    # of the set that has just arrived
    ring.add(features, cameras, T_world_ego, stamp_s)              # afterwards: it is the past of the next one

The ring keeps few sets, metres rather than moments apart: beside the newest only such that the robot moved between. It
never trusts what it is given: what is not used is named with its reason in `Views.refused`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gaussianocc_core.geometry.cameras import pair_matrix
from gaussianocc_core.models.common_turn import CommonTurn, CommonTurnSettings, EarlierPairs
from gaussianocc_core.models.depth_refinement import FarViews, FarViewSettings, choose_far
from gaussianocc_core.models.matching import EARLIER, NO_PAIRS, SAME_MOMENT, Pairs, Sources, join_pairs
from gaussianocc_core.models.motion_refinement import PairCameras, corrected, degrees
from gaussianocc_core.models.view_choice import NO_OVERLAP, Candidates, ViewChoice, ViewSettings, choose_views
from gaussianocc_core.types import Cameras

NO_MOTION = "motion unknown"
BAD_MOTION = "motion is not a finite rigid motion"
JUMPED = "motion jumps"
RECALIBRATED = "another calibration"
FROZEN = "frozen camera"
TOO_OLD = "too old"


@dataclass(frozen=True)
class RingSettings:
    """What is kept, and what is believed."""

    sets: int = 8  # most that are kept
    near: int = 4  # of these, the newest, that the network may match with
    spacing: float = 0.12  # m between sets that are kept; the newest may be nearer
    oldest: float = 6.0  # s
    top_speed: float = 60.0  # m/s; more is no motion but a jump
    # A robot's velocity changes by less than steady + acceleration x time; more is a jump of its odometry.
    steady: float = 3.0  # m/s
    acceleration: float = 15.0  # m/s^2
    # Cameras of a set are placed at their own image times, so that their places differ from set to set by little.
    calibration_move: float = 1.5  # m
    calibration_turn: float = 5.0  # degrees
    views: ViewSettings = field(default_factory=ViewSettings)
    far: FarViewSettings = field(default_factory=FarViewSettings)  # by which its depth is made finer
    turns: CommonTurnSettings = field(default_factory=CommonTurnSettings)

    def __post_init__(self) -> None:
        if (
            not 1 <= self.near <= self.sets
            or min(self.spacing, self.oldest, self.top_speed, self.steady, self.acceleration) < 0
        ):
            raise ValueError(f"ring: expected 1 <= near <= sets and limits of at least 0, got {self}")


@dataclass(frozen=True)
class Views:
    """What the present set is matched with: maps of earlier sets, and pairs that count present maps first."""

    sources: Sources
    used: Mapping[str, tuple[str, ...]]  # by camera: "CAM_LEFT now", "CAM_FRONT 0.25 s ago"
    refused: Mapping[str, tuple[str, ...]]  # by camera: "CAM_FRONT 0.25 s ago: motion jumps"
    turned: tuple[float, ...] = ()  # degrees by which each earlier set's turn was corrected, those used, newest first

    @property
    def count(self) -> int:
        """Pairs of a camera and a view."""
        return len(self.sources.pairs)


@dataclass(frozen=True)
class _Set:
    features: Float[Tensor, "N C h w"]
    cameras: Cameras
    T_world_ego: Float[np.ndarray, "4 4"] | None
    stamp_s: float
    run: int  # sets of one run have a motion between them; after a jump another begins
    K: Float[np.ndarray, "N 3 3"]  # of the cameras
    T_ego_cam: Float[np.ndarray, "N 4 4"]


class ViewRing:
    """Bounded memory of one rig. Not for several threads at once."""

    def __init__(
        self, width: int, height: int, inv_depths: Float[Tensor, " D"], settings: RingSettings = RingSettings()
    ) -> None:
        """width, height: of the network's images, px; inv_depths: the planes that it sweeps, 1/m."""
        self.width, self.height, self.settings = width, height, settings
        self.inv_depths = inv_depths
        self._sets: list[_Set] = []  # newest first
        self._run = 0
        self._velocity: np.ndarray | None = None  # m/s, world frame
        self._typical = settings.far.farthest  # m, median depth of the newest set
        self._turns = CommonTurn(settings.turns)

    def __len__(self) -> int:
        return len(self._sets)

    @property
    def newest(self) -> tuple[Float[np.ndarray, "4 4"] | None, int]:
        """Where the newest set is believed to be, and the run that it belongs to: between runs nothing is known. None:
        it came without a motion, or with one that is none."""
        return (self._sets[0].T_world_ego if self._sets else None), self._run

    def reset(self) -> None:
        """Forgets all; after a jump of time, another rig, another place."""
        self._sets, self._velocity = [], None
        self._turns.reset()
        self._run += 1

    def views(
        self,
        features: Float[Tensor, "N C h w"],
        cameras: Cameras,
        T_world_ego: Float[np.ndarray, "4 4"] | None,
        stamp_s: float,
    ) -> Views:
        """Of the present set, which is not part of the ring yet.

        cameras: pinholes at the network's size, each where it was at its own image time in the ego frame of stamp_s;
        T_world_ego: that frame in any frame that stands still (odometry), m; None: motion is unknown, and only cameras
        of the same moment are used. A stamp before the newest empties the ring.
        """
        self._forget_future(stamp_s)
        motion_fault = _motion_fault(T_world_ego)
        past, faults = [], []
        for each in self._sets:
            fault = motion_fault or _motion_fault(each.T_world_ego)
            if not fault and each.run != self._run_of(T_world_ego, stamp_s):
                fault = JUMPED
            if not fault and stamp_s - each.stamp_s > self.settings.oldest:
                fault = TOO_OLD
            past.append(each)
            faults.append(fault)
        near = slice(self.settings.near)
        views, turn = self._choose(features, cameras, T_world_ego, stamp_s, past[near], faults[near])
        if turn is None:
            return views  # from far away, such odometry is worse than none
        far = self._far_views(features, cameras, T_world_ego, past, faults, turn)
        return replace(views, sources=replace(views.sources, far=far))

    def add(
        self,
        features: Float[Tensor, "N C h w"],
        cameras: Cameras,
        T_world_ego: Float[np.ndarray, "4 4"] | None,
        stamp_s: float,
    ) -> None:
        """The present set becomes the newest of the past; arguments as for `views`."""
        self._forget_future(stamp_s)
        if _motion_fault(T_world_ego):
            T_world_ego = None
        newest = self._sets[0] if self._sets else None
        if T_world_ego is not None and newest is not None and newest.T_world_ego is not None:
            run = self._run_of(T_world_ego, stamp_s)
            time = stamp_s - newest.stamp_s
            if run != self._run:
                self._velocity = None
            elif time > 0:
                self._velocity = (T_world_ego[:3, 3] - newest.T_world_ego[:3, 3]) / time
            self._run = run
        else:
            self._velocity = None
        kept = self._sets
        if len(kept) > 1 and _near(kept[0].T_world_ego, kept[1].T_world_ego, self.settings.spacing):
            kept = kept[1:]  # the newest but one says what the one before says already
        K, T_ego_cam = (values.double().cpu().numpy() for values in (cameras.intrinsics, cameras.T_ego_cam))
        present = _Set(features.detach(), cameras, T_world_ego, stamp_s, self._run, K, T_ego_cam)
        self._sets = [present, *kept][: self.settings.sets]

    def learn_depth(self, inv_depth: Float[Tensor, "N h w"]) -> None:
        """What was seen in the newest set, 1/m: how far away things are says which views are far."""
        self._typical = 1.0 / float(inv_depth.median())

    # ---- what is believed ------------------------------------------------------------------------------------------

    def _forget_future(self, stamp_s: float) -> None:
        if self._sets and stamp_s < self._sets[0].stamp_s:
            self.reset()

    def _run_of(self, T_world_ego: Float[np.ndarray, "4 4"] | None, stamp_s: float) -> int:
        """The run that a pose belongs to: the present one unless it is out of reach from the newest set."""
        newest = self._sets[0] if self._sets else None
        if newest is None or newest.T_world_ego is None or T_world_ego is None:
            return self._run
        time, way = stamp_s - newest.stamp_s, T_world_ego[:3, 3] - newest.T_world_ego[:3, 3]
        if np.linalg.norm(way) > self.settings.top_speed * time + 0.05:
            return self._run + 1
        if self._velocity is not None and time > 0:
            change = np.linalg.norm(way / time - self._velocity)
            if change > self.settings.steady + self.settings.acceleration * time:
                return self._run + 1
        return self._run

    def _frozen(self, features: Float[Tensor, "N C h w"], cameras: Cameras) -> tuple[bool, ...]:
        """Cameras whose image is the one that they had in the newest set, to the bit."""
        newest = self._sets[0] if self._sets else None
        result = []
        for n, name in enumerate(cameras.names):
            same = False
            if newest is not None and name in newest.cameras.names:
                before = newest.features[newest.cameras.names.index(name)]
                # A few cells tell nearly all images apart at a tenth of the time.
                same = before.shape == features[n].shape and all(
                    torch.equal(before[:, ::step, ::step], features[n, :, ::step, ::step]) for step in (24, 3)
                )
            result.append(same)
        return tuple(result)

    def _camera_faults(self, cameras: Cameras, each: _Set) -> list[str]:
        """What is wrong with the cameras of an earlier set, beside motion."""
        index = [cameras.names.index(name) if name in cameras.names else -1 for name in each.cameras.names]
        K, T = (values.double().cpu().numpy()[index] for values in (cameras.intrinsics, cameras.T_ego_cam))
        same = (np.abs(K - each.K) <= 0.5 + 1e-3 * np.abs(each.K)).all(axis=(1, 2))
        cosine = ((T[:, :3, :3] * each.T_ego_cam[:, :3, :3]).sum(axis=(1, 2)) - 1.0) / 2.0  # trace of R^T R_then
        turned = np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))
        moved = np.linalg.norm(T[:, :3, 3] - each.T_ego_cam[:, :3, 3], axis=1)
        same &= ~((moved > self.settings.calibration_move) | (turned > self.settings.calibration_turn))
        return ["" if place >= 0 and good else RECALIBRATED for place, good in zip(index, same.tolist(), strict=True)]

    # ---- what is chosen --------------------------------------------------------------------------------------------

    def _choose(
        self,
        features: Float[Tensor, "N C h w"],
        cameras: Cameras,
        T_world_ego: Float[np.ndarray, "4 4"] | None,
        stamp_s: float,
        past: list[_Set],
        faults: list[str],
    ) -> tuple[Views, Float[Tensor, "4 4"] | None]:
        """The near views, and what corrects the motion from other sets; None: not known, it may be as bad as theirs."""
        count = len(cameras)
        K = cameras.intrinsics.double().cpu().numpy()
        T_ego_cam = cameras.T_ego_cam.double().cpu().numpy()
        Ks, poses, camera, moment = [K], [T_ego_cam], [np.arange(count)], [np.zeros(count, dtype=int)]
        fault_of = [""] * count
        labels = [f"{name} now" for name in cameras.names]
        sources = []
        for number, (each, fault) in enumerate(zip(past, faults, strict=True)):
            if fault or T_world_ego is None or each.T_world_ego is None:
                T = np.full_like(each.T_ego_cam, np.nan)
            else:
                T = np.linalg.inv(T_world_ego) @ each.T_world_ego @ each.T_ego_cam
            Ks.append(each.K)
            poses.append(T)
            index = [cameras.names.index(name) if name in cameras.names else -1 for name in each.cameras.names]
            camera.append(np.array(index))
            moment.append(np.full(len(index), number + 1))
            fault_of += [fault] * len(index) if fault else self._camera_faults(cameras, each)
            labels += [f"{name} {stamp_s - each.stamp_s:.2f} s ago" for name in each.cameras.names]
            sources.append(each.features)
        frozen = self._moved_but_frozen(features, cameras, T_world_ego)
        places = np.concatenate(camera)
        for m, place in enumerate(places):
            if not fault_of[m] and place >= 0 and frozen[place]:
                fault_of[m] = FROZEN
        pose = np.concatenate(poses)
        pose[[bool(fault) for fault in fault_of]] = np.nan
        choice = choose_views(
            Candidates(K, T_ego_cam, np.concatenate(Ks), pose, places, np.concatenate(moment)),
            self.width,
            self.height,
            self.settings.views,
        )
        used = choice.used & ~np.array(frozen)[:, None]  # nor is a frozen image matched with others
        earlier = torch.cat(sources) if sources else features[:0]
        pairs, turns, common = self._pairs(used, choice, K, T_ego_cam, np.concatenate(Ks), features, past, T_world_ego)
        views = Views(
            Sources(earlier, pairs.to(features.device)),
            {name: tuple(labels[m] for m in np.flatnonzero(used[n])) for n, name in enumerate(cameras.names)},
            {
                name: _refusals(n, used, choice, labels, fault_of, places, frozen[n])
                for n, name in enumerate(cameras.names)
            },
            tuple(degrees(each) for each in turns),
        )
        return views, common

    def _far_views(
        self,
        features: Float[Tensor, "N C h w"],
        cameras: Cameras,
        T_world_ego: Float[np.ndarray, "4 4"] | None,
        past: list[_Set],
        faults: list[str],
        turn: Float[Tensor, "4 4"],
    ) -> FarViews | None:
        """All cameras of the newest sets that are far enough; None where none is. turn: corrects their motion."""
        if T_world_ego is None:
            return None
        away = [
            0.0 if fault or each.T_world_ego is None else _distance(T_world_ego, each.T_world_ego)
            for each, fault in zip(past, faults, strict=True)
        ]
        chosen = choose_far(away, self.settings.far.ways_m(self._typical))
        if not chosen:
            return None
        T_now_cam = []
        for each in (past[k] for k in chosen):
            T_now_then = torch.from_numpy(np.linalg.inv(T_world_ego) @ each.T_world_ego)
            T_now_cam.append((corrected(T_now_then, turn) @ each.cameras.T_ego_cam.double().cpu()).numpy())
        usable = [not each for k in chosen for each in self._camera_faults(cameras, past[k])]
        frozen = torch.tensor(self._moved_but_frozen(features, cameras, T_world_ego))
        T_ego_cam = cameras.T_ego_cam.double().cpu().numpy()
        T = np.linalg.inv(np.concatenate(T_now_cam))[None] @ T_ego_cam[:, None]  # (N, S, 4, 4)
        used = ~frozen[:, None] & torch.tensor(usable)[None]
        K, K_far = (
            torch.cat([each.intrinsics.double().cpu() for each in group])
            for group in ([cameras], [past[k].cameras for k in chosen])
        )
        features = torch.cat([past[k].features for k in chosen])
        return FarViews.of(features, K, K_far, torch.from_numpy(T), used).to(features.device)

    def _pairs(
        self,
        used: np.ndarray,
        choice: ViewChoice,
        K: np.ndarray,
        T_ego_cam: np.ndarray,
        Ks: np.ndarray,
        features: Float[Tensor, "N C h w"],
        past: list[_Set],
        T_world_ego: Float[np.ndarray, "4 4"] | None,
    ) -> tuple[Pairs, list[Float[Tensor, "4 4"]], Float[Tensor, "4 4"] | None]:
        """The pairs, those with an earlier set by the motion that the images say; and what `CommonTurn.find` says."""
        count = len(K)
        now = used.copy()
        now[:, count:] = False
        start, earlier = count, []  # type: int, list[EarlierPairs]
        for each in past:
            reference, place = np.nonzero(used[:, start : start + len(each.cameras)])
            source = place + start
            start += len(each.cameras)
            if not len(reference) or T_world_ego is None or each.T_world_ego is None:
                continue
            of_set = torch.from_numpy(place)
            cameras = PairCameras(
                torch.from_numpy(K[reference]),
                torch.from_numpy(Ks[source]),
                torch.from_numpy(T_ego_cam[reference]),
                each.cameras.T_ego_cam.double().cpu()[of_set],
            )
            T_now_then = torch.from_numpy(np.linalg.inv(T_world_ego) @ each.T_world_ego)
            index = torch.from_numpy(reference)
            pairs = Pairs(index, of_set, torch.full_like(index, EARLIER), torch.zeros(len(index), 3, 4))
            earlier.append(EarlierPairs(pairs, torch.from_numpy(source), cameras, T_now_then, each.features))
        turns, common = self._turns.find(features, earlier, self.inv_depths)
        parts = [_direct_pairs(now, choice, K, Ks)]
        for group, turn in zip(earlier, turns, strict=True):
            matrix = group.cameras.matrices(corrected(group.T_now_then, turn))
            parts.append(replace(group.pairs, source=group.source, matrix=matrix))
        return join_pairs(parts), turns, common

    def _moved_but_frozen(
        self, features: Tensor, cameras: Cameras, T_world_ego: Float[np.ndarray, "4 4"] | None
    ) -> list[bool]:
        """A camera whose image stays the same while the robot moves; at rest all images may."""
        newest = self._sets[0] if self._sets else None
        if newest is None:
            return [False] * len(cameras)
        same = list(self._frozen(features, cameras))
        known = not _motion_fault(T_world_ego) and not _motion_fault(newest.T_world_ego)
        if known and _near(T_world_ego, newest.T_world_ego, 0.02):
            return [False] * len(cameras)
        # Without motion: sensors are noisy, so that one equal image among others that changed is no accident.
        return same if known or not all(same) else [False] * len(cameras)


def _direct_pairs(used: np.ndarray, choice: ViewChoice, K: np.ndarray, Ks: np.ndarray) -> Pairs:
    """Of the present set's own cameras."""
    reference, source = np.nonzero(used)
    if not len(reference):
        return NO_PAIRS
    matrix = pair_matrix(
        torch.from_numpy(K[reference]),
        torch.from_numpy(Ks[source]),
        torch.from_numpy(choice.T_source_reference[reference, source]),
    ).float()
    index = torch.from_numpy(reference)
    return Pairs(index, torch.from_numpy(source), torch.full_like(index, SAME_MOMENT), matrix)


def _refusals(
    n: int,
    used: np.ndarray,
    choice: ViewChoice,
    labels: list[str],
    faults: list[str],
    places: np.ndarray,
    frozen: bool,
) -> tuple[str, ...]:
    """Why camera n is not matched with its own past and with other cameras that it could be."""
    lines = []
    for m, label in enumerate(labels):
        if used[n, m] or m == n:
            continue
        reason = FROZEN if frozen else faults[m]
        if not reason and (places[m] == n or choice.reason[n, m] != NO_OVERLAP):
            reason = str(choice.reason[n, m])
        if reason:
            lines.append(f"{label}: {reason}")
    return tuple(lines)


def _motion_fault(T_world_ego: Float[np.ndarray, "4 4"] | None) -> str:
    if T_world_ego is None:
        return NO_MOTION
    if np.shape(T_world_ego) != (4, 4) or not np.isfinite(T_world_ego).all():
        return BAD_MOTION
    R = np.asarray(T_world_ego)[:3, :3]
    return "" if np.allclose(R @ R.T, np.eye(3), atol=1e-3) else BAD_MOTION


def _distance(a: Float[np.ndarray, "4 4"], b: Float[np.ndarray, "4 4"]) -> float:
    return float(np.linalg.norm(a[:3, 3] - b[:3, 3]))


def _near(a: Float[np.ndarray, "4 4"] | None, b: Float[np.ndarray, "4 4"] | None, distance: float) -> bool:
    """Whether two poses are known to be less than a distance (m) apart; a turn counts half a metre per radian."""
    if a is None or b is None:
        return False
    cosine = (np.trace(a[:3, :3].T @ b[:3, :3]) - 1.0) / 2.0
    turned = float(np.arccos(np.clip(cosine, -1.0, 1.0)))
    return float(np.linalg.norm(a[:3, 3] - b[:3, 3])) + 0.5 * turned < distance


__all__ = [
    "BAD_MOTION",
    "FROZEN",
    "JUMPED",
    "NO_MOTION",
    "RECALIBRATED",
    "TOO_OLD",
    "RingSettings",
    "ViewRing",
    "Views",
]
