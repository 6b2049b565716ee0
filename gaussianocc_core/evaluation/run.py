# SPDX-License-Identifier: Apache-2.0
"""A checkpoint and a data set -> one dictionary of plain numbers, ready for JSON."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from gaussianocc_core import metrics
from gaussianocc_core.config import to_dict
from gaussianocc_core.data.bag import BagEntry
from gaussianocc_core.data.entries import SampleEntry, in_label_frame
from gaussianocc_core.data.sources import Entry
from gaussianocc_core.errors import DatasetError
from gaussianocc_core.evaluation.depth import FLAT_GROUND, DepthTable, depth_cameras
from gaussianocc_core.evaluation.networks import FAR, CheckpointNetworks, Driven, Estimates, Networks
from gaussianocc_core.evaluation.pictures import Keyframe, PictureWriter
from gaussianocc_core.evaluation.robot import RobotTable
from gaussianocc_core.evaluation.shares import Share, write_share
from gaussianocc_core.evaluation.sources import EvaluationSource, TableSource, choose_scenes, open_source
from gaussianocc_core.evaluation.tally import Counts, Facts, Plan, Tally, check_rigs, report, what_is_missing
from gaussianocc_core.geometry.ground_plane import flat_ground_depth
from gaussianocc_core.labels import has_one_class, ids_to_occ3d
from gaussianocc_core.metrics.robot import RobotConfig, path_ahead
from gaussianocc_core.models.visibility import observed_voxels
from gaussianocc_core.preprocess import Lenses, Preprocessor
from gaussianocc_core.training.loader import prepare
from gaussianocc_core.types import Sample

# m: from how far away earlier moments are read for a network that matches, as a robot's ring of views holds them.
_HISTORY = (1.2, 2.4)
PAST = 2.0  # s; a memory of rays holds 1.5


def evaluate(
    checkpoint: str | Path,
    source: str | Path | EvaluationSource,
    scenes: Sequence[str] | None = None,
    *,
    split: str | None = None,
    every: int = 1,
    device: str = "auto",
    ray_iou: bool = True,
    pictures: str | Path | None = None,
    caution: float | None = None,
    robot: RobotConfig | None = None,
    begin_ns: Mapping[str, int] | None = None,
    past: float = PAST,
    motion: str = "recorded",
    memory: bool = True,
) -> dict[str, Any]:
    """All that the networks of a model file can be measured by on these scenes (None: all).

    source: see `open_source`; a path is a data set in the nuScenes schema, v1.0-mini. split: in place of scenes, an
    official one or a list file. every: only each so many moments of a scene. pictures: a folder for pictures of the
    first dozen. caution: of the occupancy, see `OccupancyPredictor.caution`; None: as the file says. robot: what counts
    as an obstacle and as its path. begin_ns: by scene, the stamp of the first moment that is measured; the images
    before it are still seen, as the past. past: s before each moment, of which a model that remembers sees all sets, as
    on a robot; 0: only what matching needs. motion, memory: see `CheckpointNetworks`.

    Keys of the result: `checkpoint`, `data`, `keyframes`, `labelled_keyframes`, `scenes`, `notes` (what could not be
    measured, and why), `depth`, `ego_motion`, `mask_camera`, `mask_camera_and_lidar`, `whole_grid`, `by_range`,
    `ray_iou`, `robot`, `reliability`; each of the last nine is None where it could not be measured, and so is any
    number that is undefined.
    """
    networks = CheckpointNetworks(checkpoint, device, caution, motion, memory)
    if not isinstance(source, EvaluationSource):
        source = open_source(source)
    scenes = choose_scenes(source, scenes, split)
    writer = PictureWriter(Path(pictures), f"{Path(checkpoint).name} ({networks.config.name})") if pictures else None
    result = evaluate_networks(
        networks,
        source,
        scenes,
        every=every,
        ray_iou=ray_iou,
        on_keyframe=writer,
        robot=robot,
        begin_ns=begin_ns,
        past=past,
    )
    return {"checkpoint": _checkpoint(checkpoint, networks), **result}


def evaluate_share(
    checkpoint: str | Path,
    source: str | Path | EvaluationSource,
    scenes: Sequence[str] | None,
    share: Share,
    file: Path,
    choose: Callable[[Sequence[str]], Sequence[str]],
    *,
    split: str | None = None,
    device: str = "auto",
    caution: float | None = None,
    motion: str = "recorded",
    memory: bool = True,
    **settings: Any,
) -> None:
    """`evaluate` of a part of the scenes: what was counted of each goes to `file`, for `merge_shares`.

    choose: which of the scenes are this share's; it may be none. settings: every, ray_iou, robot, begin_ns, past.
    """
    networks = CheckpointNetworks(checkpoint, device, caution, motion, memory)
    if not isinstance(source, EvaluationSource):
        source = open_source(source)
    plan = _plan(networks, source, choose_scenes(source, scenes, split), **settings)
    chosen = tuple(choose(plan.scenes))
    prepared = _index(plan, networks, source, chosen)
    check_rigs(plan, prepared.facts)
    counts = dict(_count(plan, networks, source, prepared))
    write_share(file, share, _checkpoint(checkpoint, networks), Path(checkpoint), plan, prepared.facts, counts)


def evaluate_networks(
    networks: Networks,
    source: EvaluationSource,
    scenes: Sequence[str] | None = None,
    *,
    every: int = 1,
    ray_iou: bool = True,
    on_keyframe: Callable[[Keyframe], None] | None = None,
    robot: RobotConfig | None = None,
    begin_ns: Mapping[str, int] | None = None,
    past: float = PAST,
) -> dict[str, Any]:
    """`evaluate` without the checkpoint."""
    plan = _plan(networks, source, scenes, every=every, ray_iou=ray_iou, robot=robot, begin_ns=begin_ns, past=past)
    prepared = _index(plan, networks, source, plan.scenes)
    check_rigs(plan, prepared.facts)
    what_is_missing(plan, list(prepared.facts.values()))  # now, not after the work
    return report(plan, prepared.facts, dict(_count(plan, networks, source, prepared, on_keyframe)))


def _plan(
    networks: Networks,
    source: EvaluationSource,
    scenes: Sequence[str] | None,
    *,
    every: int = 1,
    ray_iou: bool = True,
    robot: RobotConfig | None = None,
    begin_ns: Mapping[str, int] | None = None,
    past: float = PAST,
) -> Plan:
    if every < 1:
        raise DatasetError(f"every: expected a whole number of at least 1, got {every}")
    if not 0 <= past <= 60:
        raise DatasetError(f"past: expected 0 to 60 seconds, got {past:g}")
    return Plan(
        kinds=tuple(networks.kinds),
        described=dict(source.described),
        depth_limits=source.depth_limits,
        labels=isinstance(source, TableSource),
        scenes=tuple(dict.fromkeys(scenes or source.scene_names())),  # each once
        every=every,
        begin_ns=dict(begin_ns or {}),
        ray_iou=ray_iou,
        grid=networks.config.grid,
        class_names=networks.config.class_names,
        robot=robot or RobotConfig(),
        past=past if isinstance(networks, Driven) and networks.remembers else 0.0,
    )


def _checkpoint(path: str | Path, networks: CheckpointNetworks) -> dict[str, Any]:
    return {
        "path": str(path),
        "model": networks.config.name,
        "networks": list(networks.kinds),
        "provenance": to_dict(networks.provenance) if networks.provenance else None,
        "caution": None if networks.predictor is None else networks.predictor.caution,
        "motion": networks.motion,
        "memory": networks.remembers,
    }


@dataclass(frozen=True)
class _Prepared:
    """By scene, before any network runs."""

    entries: Mapping[str, Sequence[Entry]]  # all moments of it
    chosen: Mapping[str, Sequence[int]]  # which of them are measured
    facts: Mapping[str, Facts]
    lidars: Mapping[str, Float[np.ndarray, "F 3"] | None]


def _index(plan: Plan, networks: Networks, source: EvaluationSource, scenes: Sequence[str]) -> _Prepared:
    beside = "pose" in plan.kinds or networks.config.matching.enabled
    history = _HISTORY if networks.config.matching.enabled else ()
    indexed = {scene: source.entries(scene, beside, history) for scene in scenes}
    wanted = {scene: _from(indexed[scene], plan.begin_ns.get(scene, 0))[:: plan.every] for scene in scenes}
    with_rays = "occupancy" in plan.kinds
    lidars = {scene: source.lidar_places(scene, indexed[scene]) if with_rays else None for scene in scenes}
    facts = {
        scene: _facts(source, [indexed[scene][n] for n in wanted[scene]], lidars[scene] is not None) for scene in scenes
    }
    return _Prepared(indexed, wanted, facts, lidars)


def _facts(source: EvaluationSource, entries: Sequence[Entry], lidar: bool) -> Facts:
    labels = [entry.occupancy_path for entry in entries if isinstance(entry, SampleEntry)]
    return Facts(
        moments=len(entries),
        with_depth=sum(map(source.may_have_depth, entries)),
        with_labels=sum(path is not None and path.is_file() for path in labels),
        with_neighbours=sum(bool(entry.neighbours) for entry in entries),
        lidar=lidar,
        rig=entries[0].cameras.names if entries and isinstance(entries[0], BagEntry) else (),
    )


def _count(
    plan: Plan,
    networks: Networks,
    source: EvaluationSource,
    prepared: _Prepared,
    on_keyframe: Callable[[Keyframe], None] | None = None,
) -> Iterator[tuple[str, Counts]]:
    """Scene by scene, what `report` adds up."""
    preprocess = Preprocessor.of(networks.config)
    in_occ3d = ids_to_occ3d(plan.class_names)
    moments = sum(map(len, prepared.chosen.values()))
    with tqdm(total=moments, desc="evaluating", unit="keyframe", disable=None) as bar:
        for scene, chosen in prepared.chosen.items():
            tally, entries = Tally(plan), prepared.entries[scene]
            between = _Between(source.drive(scene)) if plan.past else None
            for n in chosen:
                sample = entries[n].load()
                if between is not None and isinstance(networks, Driven):
                    networks.approach([each.load() for each in between.before(sample, plan.past)])
                lenses = preprocess(sample.cameras, sample.static_masks)
                batch = prepare(sample, lenses)
                estimates = networks(sample, batch)
                truths = source.true_depths(entries[n], sample, lenses)
                errors = (
                    _measure_depth(tally.depth, sample, lenses, estimates, truths)
                    if truths and estimates.depths
                    else {}
                )
                if estimates.T_target_now is not None:
                    truth = batch.T_target_now[0].double().numpy()
                    tally.motion.update(estimates.T_target_now, truth, _gaps(sample), estimates.network_lengths)
                if tally.occupancy and sample.occupancy and estimates.occupancy is not None:
                    origins = _ray_origins(prepared.lidars[scene], sample)
                    predicted = in_occ3d[estimates.occupancy]
                    tally.occupancy.update(sample.occupancy, predicted, origins, estimates.opacity)
                if tally.robot and estimates.occupancy is not None:
                    _measure_drive(tally.robot, source, sample, lenses, estimates.occupancy, entries[n:])
                if on_keyframe:
                    if estimates.occupancy is not None:
                        estimates = replace(estimates, occupancy=in_occ3d[estimates.occupancy])
                    classless = has_one_class(plan.class_names)
                    on_keyframe(Keyframe(sample, batch, estimates, truths, errors, plan.grid, classless))
                bar.update()
            yield scene, tally.counts()


class _Between:
    """The sets of a scene that a robot sees between the moments that are measured."""

    def __init__(self, sets: Sequence[Entry]) -> None:
        self._sets = sorted(sets, key=lambda each: each.frame.camera_stamps_ns[0])
        self._shown = -1  # stamp of the newest set that came out, or of the moment after it

    def before(self, moment: Sample, seconds: float) -> list[Entry]:
        """Those of so many seconds before it that have not come out yet."""
        now = (moment.camera_stamps_ns or (moment.stamp_ns,))[0]
        oldest = max(self._shown + 1, now - int(seconds * 1e9))
        self._shown = now
        return [each for each in self._sets if oldest <= each.frame.camera_stamps_ns[0] < now]


def _from(entries: Sequence[Entry], begin_ns: int) -> list[int]:
    return [n for n, each in enumerate(entries) if each.frame.camera_stamps_ns[0] >= begin_ns]


def _measure_depth(
    table: DepthTable, sample: Sample, lenses: Lenses, estimates: Estimates, truths: tuple[np.ndarray, ...]
) -> dict[str, float]:
    """abs_rel by camera, of the first way to depth."""
    first: dict[str, float] = {}
    cameras = depth_cameras(sample.cameras, lenses)
    for n, (camera, truth) in enumerate(zip(sample.cameras.names, truths, strict=True)):
        ways = {way: images[n] for way, images in estimates.depths.items()}
        ways[FLAT_GROUND] = flat_ground_depth(cameras, n, truth.shape[1], truth.shape[0], FAR)
        for way, depth in ways.items():
            sure = estimates.log_errors.get(way)
            error = table.update(way, camera, truth, depth, None if sure is None else sure[n])
            if error is not None:
                first.setdefault(camera, error)
    table.keyframes += 1
    return first


def _measure_drive(
    table: RobotTable,
    source: EvaluationSource,
    sample: Sample,
    lenses: Lenses,
    prediction: UInt8[np.ndarray, "X Y Z"],
    entries: Sequence[Entry],
) -> None:
    """entries: this moment's and those that follow it in its scene."""
    labels = sample.occupancy
    T_world_now = sample.T_world_ego if labels is None or labels.T_world_ego is None else labels.T_world_ego
    views = lenses.views(in_label_frame(sample).T_ego_cam)
    path, following = None, [each.frame.T_world_ego for each in entries[1:]]
    if T_world_now is not None:
        known = list(itertools.takewhile(lambda poses: poses is not None, following))
        path = path_ahead([poses[0] for poses in known if poses is not None], T_world_now, table.config.path_length)
    seen = observed_voxels(views, table.grid, lenses.valid_mask)
    table.update(prediction, seen, source.lidar_scan(entries[0], T_world_now), labels, path)


def _gaps(sample: Sample) -> Float[np.ndarray, " S"]:
    """s between the anchor camera's images."""
    now = sample.camera_stamps_ns[0]
    return np.array([abs(each.camera_stamps_ns[0] - now) * 1e-9 for each in sample.neighbours], dtype=np.float64)


def _ray_origins(places: Float[np.ndarray, "F 3"] | None, sample: Sample) -> Float[np.ndarray, "O 3"] | None:
    labels = sample.occupancy
    if places is None or labels is None or labels.T_world_ego is None:
        return None
    return metrics.ray_origins(places, labels.T_world_ego)
