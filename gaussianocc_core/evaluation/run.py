# SPDX-License-Identifier: Apache-2.0
"""A checkpoint and a data set -> one dictionary of plain numbers, ready for JSON."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from gaussianocc_core import metrics
from gaussianocc_core.config import to_dict
from gaussianocc_core.data.bag import BagEntry
from gaussianocc_core.data.bag_cameras import check_one_rig
from gaussianocc_core.data.entries import SampleEntry, in_label_frame
from gaussianocc_core.data.sources import Entry
from gaussianocc_core.errors import DatasetError
from gaussianocc_core.evaluation.depth import FLAT_GROUND, DepthTable, depth_cameras
from gaussianocc_core.evaluation.ego_motion import MotionScores
from gaussianocc_core.evaluation.networks import FAR, CheckpointNetworks, Estimates, Networks
from gaussianocc_core.evaluation.occupancy import MASKS, OccupancyTable
from gaussianocc_core.evaluation.pictures import Keyframe, PictureWriter
from gaussianocc_core.evaluation.robot import RobotTable
from gaussianocc_core.evaluation.sources import EvaluationSource, TableSource, choose_scenes, open_source
from gaussianocc_core.geometry.ground_plane import flat_ground_depth
from gaussianocc_core.labels import has_one_class, ids_to_occ3d
from gaussianocc_core.metrics.robot import RobotConfig, path_ahead
from gaussianocc_core.models.visibility import observed_voxels
from gaussianocc_core.preprocess import Lenses, Preprocessor
from gaussianocc_core.training.loader import prepare
from gaussianocc_core.types import Sample

# m: from how far away earlier moments are read for a network that matches, as a robot's ring of views holds them.
_HISTORY = (1.2, 2.4)


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
) -> dict[str, Any]:
    """All that the networks of a model file can be measured by on these scenes (None: all).

    source: see `open_source`; a path is a data set in the nuScenes schema, v1.0-mini. split: in place of scenes, an
    official one or a list file. every: only each so many moments of a scene. pictures: a folder for pictures of the
    first dozen. caution: of the occupancy, see `OccupancyPredictor.caution`; None: as the file says. robot: what counts
    as an obstacle and as its path. begin_ns: by scene, the stamp of the first moment that is measured; the images
    before it are still seen, as the past.

    Keys of the result: `checkpoint`, `data`, `keyframes`, `labelled_keyframes`, `scenes`, `notes` (what could not be
    measured, and why), `depth`, `ego_motion`, `mask_camera`, `mask_camera_and_lidar`, `whole_grid`, `by_range`,
    `ray_iou`, `robot`, `reliability`; each of the last nine is None where it could not be measured, and so is any
    number that is undefined.
    """
    networks = CheckpointNetworks(checkpoint, device, caution)
    if not isinstance(source, EvaluationSource):
        source = open_source(source)
    scenes = choose_scenes(source, scenes, split)
    writer = PictureWriter(Path(pictures), f"{Path(checkpoint).name} ({networks.config.name})") if pictures else None
    result = evaluate_networks(
        networks, source, scenes, every=every, ray_iou=ray_iou, on_keyframe=writer, robot=robot, begin_ns=begin_ns
    )
    return {
        "checkpoint": {
            "path": str(checkpoint),
            "model": networks.config.name,
            "networks": list(networks.kinds),
            "provenance": to_dict(networks.provenance) if networks.provenance else None,
            "caution": None if networks.predictor is None else networks.predictor.caution,
        },
        **result,
    }


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
) -> dict[str, Any]:
    """`evaluate` without the checkpoint."""
    if every < 1:
        raise DatasetError(f"every: expected a whole number of at least 1, got {every}")
    scenes = tuple(scenes) if scenes else source.scene_names()
    kinds = networks.kinds
    beside = "pose" in kinds or networks.config.matching.enabled
    history = _HISTORY if networks.config.matching.enabled else ()
    indexed = {scene: source.entries(scene, beside, history) for scene in scenes}
    wanted = {scene: _from(indexed[scene], (begin_ns or {}).get(scene, 0)) for scene in scenes}
    places = [(scene, n) for scene in scenes for n in wanted[scene][::every]]
    if not places:
        raise DatasetError(f"{where_of(source)}: no moment is left to measure")
    entries = [indexed[scene][n] for scene, n in places]
    rigs = {entry.scene: entry.cameras.names for entry in entries if isinstance(entry, BagEntry)}
    check_one_rig(rigs, where_of(source), "name the recordings of one (--scene)")  # one table for both says nothing
    notes = _what_is_missing(entries, kinds, source)
    depth, motion = DepthTable(source.depth_limits), MotionScores()
    occupancy = OccupancyTable(networks.config.grid, ray_iou) if "occupancy" in kinds else None
    driven = RobotTable(networks.config.grid, networks.config.class_names, robot) if occupancy else None
    lidars = {scene: source.lidar_places(scene, indexed[scene]) for scene in scenes} if occupancy else {}
    preprocess = Preprocessor.of(networks.config)
    in_occ3d = ids_to_occ3d(networks.config.class_names)
    if occupancy and has_one_class(networks.config.class_names):
        notes.append("classes: the model knows one, occupied; what is by class says nothing of it")
    for (scene, n), entry in zip(tqdm(places, desc="evaluating", unit="keyframe", disable=None), entries, strict=True):
        sample = entry.load()
        lenses = preprocess(sample.cameras, sample.static_masks)
        batch = prepare(sample, lenses)
        estimates = networks(sample, batch)
        truths = source.true_depths(entry, sample, lenses)
        errors = _measure_depth(depth, sample, lenses, estimates, truths) if truths and estimates.depths else {}
        if estimates.T_target_now is not None:
            truth = batch.T_target_now[0].double().numpy()
            motion.update(estimates.T_target_now, truth, _gaps(sample), estimates.network_lengths)
        if occupancy and sample.occupancy and estimates.occupancy is not None:
            origins = _ray_origins(lidars[sample.scene], sample)
            occupancy.update(sample.occupancy, in_occ3d[estimates.occupancy], origins, estimates.opacity)
        if driven and estimates.occupancy is not None:
            _measure_drive(driven, source, sample, lenses, estimates.occupancy, indexed[scene][n:])
        if on_keyframe and estimates.occupancy is not None:
            estimates = replace(estimates, occupancy=in_occ3d[estimates.occupancy])
        if on_keyframe:
            classless = has_one_class(networks.config.class_names)
            on_keyframe(Keyframe(sample, batch, estimates, truths, errors, networks.config.grid, classless))
    labelled = occupancy is not None and occupancy.keyframes > 0
    if labelled and ray_iou and any(places is None for places in lidars.values()):
        notes.append("RayIoU: scenes without a lidar, where its rays start, are left out")
    if depth.keyframes < sum(map(source.may_have_depth, entries)) and {"occupancy", "depth"} & set(kinds):
        notes.append(f"depth: {len(entries) - depth.keyframes} of {len(entries)} keyframes, which have no usable scan")
    result = {
        "data": {**source.described, "every": every},
        "keyframes": len(entries),
        "labelled_keyframes": occupancy.keyframes if occupancy else 0,
        "scenes": list(scenes),
        "notes": notes,
        "depth": depth.summary(),
        "ego_motion": motion.summary(),
        **(occupancy.summary() if occupancy and labelled else dict.fromkeys(MASKS)),
        "by_range": occupancy.range_summary() if occupancy and labelled else None,
        "ray_iou": occupancy.ray_summary() if occupancy and labelled else None,
        "robot": driven.summary() if driven else None,
        "reliability": occupancy.reliability.summary() if occupancy else None,
    }
    if not any(result[key] for key in ("depth", "ego_motion", *MASKS)):
        raise DatasetError(
            f"{where_of(source)}: {len(entries)} moments, nothing to compare with: no scan lies within 60 ms of their "
            "images or can be read, and no poses are recorded; tools/inspect_bag.py shows what a bag has"
        )
    return _without_nan(result)


def _from(entries: Sequence[Entry], begin_ns: int) -> list[int]:
    return [n for n, each in enumerate(entries) if each.frame.camera_stamps_ns[0] >= begin_ns]


def where_of(source: EvaluationSource) -> str:
    """The folder or bag, for messages."""
    return source.described.get("dataroot") or source.described["bag"]


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


def _what_is_missing(entries: Sequence[Entry], kinds: Sequence[str], source: EvaluationSource) -> list[str]:
    """Notes on what cannot be measured; DatasetError, before any network runs, where that is everything."""
    with_depth = sum(map(source.may_have_depth, entries))
    labels = [entry.occupancy_path for entry in entries if isinstance(entry, SampleEntry)]
    with_labels = sum(path is not None and path.is_file() for path in labels)
    with_neighbours = sum(bool(entry.neighbours) for entry in entries)
    wanted = {}  # what is measured: keyframes that have it, what they need
    if {"occupancy", "depth"} & set(kinds):
        wanted["depth"] = (with_depth, "true depth files and no lidar whose place is known")
    if "pose" in kinds:
        wanted["ego motion"] = (with_neighbours, "images before or after them")
    if "occupancy" in kinds and isinstance(source, TableSource):
        wanted["occupancy"] = (with_labels, "labels.npz under gts/")
    if not any(count for count, _ in wanted.values()):
        needs = " or ".join(need for _, need in wanted.values()).replace(" and no ", " or a ")
        raise DatasetError(
            f"{where_of(source)}: none of {len(entries)} keyframes has {needs}: nothing to compare "
            "with; evaluate on a set that has, e.g. one made by tools/make_synthetic_nuscenes.py"
        )
    return [
        f"{what}: {len(entries) - count} of {len(entries)} keyframes, which have no {need}"
        for what, (count, need) in wanted.items()
        if count < len(entries)
    ]


def _gaps(sample: Sample) -> Float[np.ndarray, " S"]:
    """s between the anchor camera's images."""
    now = sample.camera_stamps_ns[0]
    return np.array([abs(each.camera_stamps_ns[0] - now) * 1e-9 for each in sample.neighbours], dtype=np.float64)


def _ray_origins(places: Float[np.ndarray, "F 3"] | None, sample: Sample) -> Float[np.ndarray, "O 3"] | None:
    labels = sample.occupancy
    if places is None or labels is None or labels.T_world_ego is None:
        return None
    return metrics.ray_origins(places, labels.T_world_ego)


def _without_nan(value: Any) -> Any:
    """JSON knows no NaN: None."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
