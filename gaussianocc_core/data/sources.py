# SPDX-License-Identifier: Apache-2.0
"""Where training samples come from: a data set in the nuScenes schema, DDAD, or rosbags of any robot."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from gaussianocc_core.data import ddad, nuscenes
from gaussianocc_core.data.bag import BagEntry, open_bags
from gaussianocc_core.data.bag_cameras import BagConfig, check_one_rig
from gaussianocc_core.data.entries import SampleEntry, labels_path
from gaussianocc_core.data.history import with_history
from gaussianocc_core.data.image_change import image_change
from gaussianocc_core.data.nuscenes_splits import select_scenes
from gaussianocc_core.errors import ConfigError, DatasetError
from gaussianocc_core.geometry.plausibility import find_doubts
from gaussianocc_core.labels import FREE, IGNORE
from gaussianocc_core.names import DataRoot

Entry = SampleEntry | BagEntry
OFFSETS = (-1, 1)  # neighbours, in the order of a batch's frames 1 and 2

_log = logging.getLogger(__name__)
_AT_REST = 0.005  # m to a neighbour


@dataclass(frozen=True)
class DataConfig:
    """Where samples come from and how they are varied."""

    dataroot: str = ""  # of a data set
    follow_outside: bool = False  # links in the data root may lead out of it
    schema: str = "nuscenes"  # of that data set; "ddad": scenes in the DGP format
    version: str = "v1.0-mini"  # nuscenes
    split: str = ""  # ddad: "train", "val" or "test"; nuscenes: those, mini_train, mini_val or a list file; "": all
    bag: BagConfig = field(default_factory=BagConfig)  # data.bag.path in place of dataroot: rosbags of any robot
    scenes: tuple[str, ...] = ()  # names of scenes or bags; (): all
    left_out: float = 0.0  # last share of each recording that training never reads; the end of a run is measured on it
    # Recordings by name -> their share of what training sees, `monday: 0.5` or `2026-11-*: 0.5`; the others have the
    # rest, evenly. For going on with a new recording without forgetting the old ones. {}: each sample once an epoch
    shares: dict[str, float] = field(default_factory=dict)
    held_out: int = 0  # last scenes of the data set that training never reads
    moments: str = "sweeps"  # "keyframes" (published) or "sweeps": every image of the anchor camera
    # m: earlier moments from so far away are loaded too, where there are poses; a network that matches makes its depth
    # finer by them. (): none
    history: tuple[float, ...] = ()
    max_gap: float = 0.7  # s; samples whose neighbours are farther away are left out (keyframes are 0.5 s apart)
    semantics: bool = True  # 2D labels, where the data set has them
    # Folder of labels in 3D, DIR/<scene>/<token>/labels.npz, as tools/carve_labels.py writes them; stage 2 learns from
    # them, and samples without any are left out. "": none
    occupancy: str = ""
    undetected: str = "ignore"  # pixels without a label: "ignore", or "free" as published
    masks: str = ""  # folder of <camera>_mask.png, zero where the camera sees the robot itself
    jitter: float = 0.5  # probability of a colour change, the same for all images of a sample (docs/method.md#h)
    mirror: float = 0.5  # probability of left and right exchanged; published: 0
    workers: int = 0  # processes that load; 0: the training process itself
    on_bad_sample: str = "skip"  # "skip": another takes its place and the log names it; "stop"

    def __post_init__(self) -> None:
        for name, allowed in (
            ("schema", ("nuscenes", "ddad")),
            ("moments", ("keyframes", "sweeps")),
            ("undetected", ("ignore", "free")),
            ("on_bad_sample", ("skip", "stop")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"data.{name}: expected one of {allowed}, got {getattr(self, name)!r}")
        if not 0 <= self.left_out <= 0.5:
            raise ValueError(f"data.left_out: expected a share from 0 to 0.5, got {self.left_out}")
        for name, share in self.shares.items():
            if not 0 < share <= 1:
                raise ValueError(f"data.shares.{name}: expected a share above 0 and up to 1, got {share}")
        if sum(self.shares.values()) > 1 + 1e-6:
            raise ValueError(f"data.shares: together at most 1, got {sum(self.shares.values()):g}")
        for name in ("jitter", "mirror"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"data.{name}: expected a probability, got {getattr(self, name)}")


def open_entries(config: DataConfig) -> tuple[Entry, ...]:
    """The samples of a configuration that have both neighbours; the log says how many were left out and why."""
    if bool(config.dataroot) == bool(config.bag.path):
        raise ConfigError(
            "data: give either data.dataroot=DIR, a data set in the nuScenes schema (DDAD: with data.schema=ddad), "
            "or data.bag.path=BAG, a rosbag2 or a folder of them"
        )
    if config.bag.path:
        entries = _bag_entries(config)
    else:
        entries = _ddad_entries(config) if config.schema == "ddad" else _nuscenes_entries(config)
        _report_doubts(entries)
    scenes = {entry.scene for entry in entries}
    complete = [entry for entry in entries if len(entry.neighbours) == len(OFFSETS)]
    near = [entry for entry in complete if entry.gap_s <= config.max_gap]
    moving = tuple(entry for entry in near if _moves_enough(entry, config.bag))
    if config.history:
        moving = with_history(moving, entries, config.history)
    if moving and config.occupancy:
        moving = with_labels(moving, config.occupancy, config.follow_outside)
    if not moving:
        raise DatasetError(
            f"{config.dataroot or config.bag.path}: of {len(entries)} moments in {len(scenes)} scenes {len(complete)} "
            f"have images before and after them, {len(near)} within data.max_gap={config.max_gap:g} s, none with "
            f"data.bag.least_motion={config.bag.least_motion:g} m of motion (or data.bag.least_change="
            f"{config.bag.least_change:g} grey levels); are the sweeps there, do the clocks agree?"
        )
    gaps = np.array([entry.gap_s for entry in moving])
    _log.info(
        "%d samples from %d scenes, neighbours %.0f ms away (median; at most %.0f); left out: %d at the ends of "
        "scenes, %d with neighbours beyond %.1f s, %d standing still; 2D labels: %d",
        len(moving),
        len(scenes),
        1e3 * np.median(gaps),
        1e3 * gaps.max(),
        len(entries) - len(complete),
        len(complete) - len(near),
        config.max_gap,
        len(near) - len(moving),
        sum(entry.labelled for entry in moving),
    )
    return moving


def with_labels(entries: Sequence[Entry], folder: str, follow_outside: bool = False) -> tuple[Entry, ...]:
    """Those that have labels in 3D; DatasetError where links lead out of the folder, unless these are followed."""
    found = tuple(entry for entry in entries if labels_path(folder, entry.scene, entry.token).is_file())
    if not found:
        first = labels_path(folder, entries[0].scene, entries[0].token)
        raise DatasetError(
            f"data.occupancy={folder}: no labels for any of {len(entries)} samples; the first would be {first}. "
            "tools/carve_labels.py makes them"
        )
    root = DataRoot(Path(folder), DatasetError, follow_outside)
    for entry in found:
        root.check(labels_path(folder, entry.scene, entry.token), "labels in 3D")
    _log.info("labels in 3D for %d of %d samples; the others are left out", len(found), len(entries))
    return found


def split_recordings(entries: Sequence[Entry], share: float) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """Those to train on, and the last share of each scene, at least one of each that has ten.

    The sample before them is in neither: it holds the first of their images.
    """
    kept: list[Entry] = []
    apart: list[Entry] = []
    for scene in dict.fromkeys(entry.scene for entry in entries):
        of_scene = [entry for entry in entries if entry.scene == scene]
        count = round(share * len(of_scene)) if share else 0
        count = max(count, 1) if share and len(of_scene) >= 10 else count
        kept += of_scene[: len(of_scene) - count - 1] if count else of_scene
        apart += of_scene[len(of_scene) - count :]
    return tuple(kept), tuple(apart)


def open_split(config: DataConfig) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """The samples to train on and those that are left out, of `data.left_out`.

    Where the line lies depends on the recordings alone, not on which moments have labels in 3D.
    """
    kept, apart = split_recordings(open_entries(replace(config, occupancy="")), config.left_out)
    if kept and config.occupancy:
        kept = with_labels(kept, config.occupancy, config.follow_outside)
    return kept, apart


def first_left_out(config: DataConfig) -> dict[str, int]:
    """By scene, the stamp (ns) of the anchor camera's image from which on training left everything out."""
    first: dict[str, int] = {}
    for entry in open_split(replace(config, occupancy=""))[1]:
        first.setdefault(entry.scene, entry.frame.camera_stamps_ns[0])
    return first


def _choose_scenes(config: DataConfig, available: Sequence[str]) -> Sequence[str]:
    absent = [name for name in config.scenes if name not in available]
    if absent:
        raise DatasetError(f"data.scenes: {', '.join(absent)} are not among {', '.join(available)}")
    wanted = config.scenes or available[: -config.held_out or None]
    if not wanted:
        raise DatasetError(
            f"{config.dataroot or config.bag.path}: {len(available)} scenes, none left after "
            f"data.held_out={config.held_out}; hold out fewer, e.g. data.held_out=0"
        )
    return wanted


def _nuscenes_entries(config: DataConfig) -> list[Entry]:
    source = nuscenes.NuScenesSource(config.dataroot, config.version, follow_outside=config.follow_outside)
    entries: list[Entry] = []
    for scene in _choose_scenes(config, select_scenes(source, split=config.split or None)):
        entries += source.index(
            scene,
            sweeps=config.moments == "sweeps",
            neighbours=True,
            semantics=config.semantics,
            masks=config.masks or None,
            undetected=_undetected(config),
        )
    return entries


def _ddad_entries(config: DataConfig) -> list[Entry]:
    source = ddad.DdadSource(config.dataroot, follow_outside=config.follow_outside)
    entries: list[Entry] = []
    for scene in _choose_scenes(config, source.scene_names(config.split or None)):
        entries += source.index(
            scene,
            neighbours=True,
            semantics=config.semantics,
            masks=config.masks or None,
            undetected=_undetected(config),
        )
    return entries


def _report_doubts(entries: Sequence[Entry]) -> None:
    """What is hard to believe of the calibrations, once each; a bag says its own when it is opened."""
    said: dict[str, str] = {}
    for scene, entry in {entry.scene: entry for entry in reversed(entries)}.items():
        for doubt in find_doubts(entry.cameras):
            said.setdefault(str(doubt), scene)
    for text, scene in said.items():
        _log.warning("%s: %s", scene, text)


def _bag_entries(config: DataConfig) -> list[Entry]:
    sources = {source.index.name: source for source in open_bags(config.bag)}
    entries: list[Entry] = []
    chosen = _choose_scenes(config, tuple(sources))
    way_out = "name the cameras of one (data.bag.cameras) or its recordings (data.scenes)"
    check_one_rig({name: sources[name].cameras.names for name in chosen}, config.bag.path, way_out)
    for name in chosen:
        found = sources[name].entries(config.masks, config.semantics, _undetected(config))
        if not found:
            _log.warning("%s: %s", sources[name].index.path, sources[name].explain_no_sets())
        kept = [entry for entry in found if not sources[name].in_gap(entry)]
        if len(kept) < len(found):
            _log.warning(
                "%s: %d of %d moments are left out: they lie in gaps of odometry",
                sources[name].index.path,
                len(found) - len(kept),
                len(found),
            )
        entries += kept
    return entries


def _undetected(config: DataConfig) -> int:
    return FREE if config.undetected == "free" else IGNORE


def check_motion(entries: Sequence[Entry]) -> None:
    """DatasetError for recordings that stand still by their poses: time teaches neither depth nor motion there."""
    moved = [max(ways) for ways in map(_ways, entries) if ways]
    if moved and float(np.quantile(moved, 0.95)) < _AT_REST:
        raise DatasetError(
            f"the recordings stand still: by their poses {100 * max(moved):.1f} cm to a neighbour at most, in "
            f"{len(moved)} samples. Depth and motion are learnt from motion: add recordings that drive, or for slow "
            "robots look farther back, data.bag.neighbour_time=0.5"
        )


def _ways(entry: Entry) -> list[float]:
    """m to each neighbour, by poses; empty where there are none."""
    here = entry.frame.T_world_ego
    there = [frame.T_world_ego for _, frame in entry.neighbours]
    return [float(np.linalg.norm(T[0, :3, 3] - here[0, :3, 3])) for T in there if T is not None and here is not None]


def _moves_enough(entry: Entry, config: BagConfig) -> bool:
    """Whether the robot moved to each neighbour: by its poses, or where there are none by the images of a bag."""
    moved = _ways(entry)
    if moved:
        return min(moved) >= config.least_motion
    if config.least_change and isinstance(entry, BagEntry):
        return image_change(entry) >= config.least_change
    return True
