# SPDX-License-Identifier: Apache-2.0
"""What is counted of each scene, and the report that follows from all of them.

Every report is the sum of its scenes, in their order. So one that is put together from shares is the same to the last
digit as that of an undivided run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from gaussianocc_core.data.bag_cameras import check_one_rig
from gaussianocc_core.errors import DatasetError
from gaussianocc_core.evaluation.depth import DepthTable
from gaussianocc_core.evaluation.ego_motion import MotionScores
from gaussianocc_core.evaluation.occupancy import MASKS, OccupancyTable
from gaussianocc_core.evaluation.robot import RobotTable
from gaussianocc_core.labels import has_one_class
from gaussianocc_core.metrics.robot import RobotConfig
from gaussianocc_core.types import VoxelGrid

Counts = dict[str, Any]  # nested, with names as keys; numbers, lists of them and arrays at the ends


@dataclass(frozen=True)
class Plan:
    """What is measured, on what, and how: all that a report follows from, but the networks."""

    kinds: tuple[str, ...]  # of networks: occupancy, depth, pose
    described: dict[str, str]  # the data: dataroot and version, or bag
    depth_limits: tuple[float, float]  # m, open interval of true depths that count
    labels: bool  # whether such data may have labels in 3D
    scenes: tuple[str, ...]  # all of them, in their order
    every: int
    begin_ns: dict[str, int]  # by scene, the stamp of the first moment that is measured
    ray_iou: bool
    grid: VoxelGrid
    class_names: tuple[str, ...]
    robot: RobotConfig
    past: float = 0.0  # s before each moment, of which all sets are shown first; 0: only what matching needs

    @property
    def where(self) -> str:
        """The folder or bag, for messages."""
        return self.described.get("dataroot") or self.described["bag"]


@dataclass(frozen=True)
class Facts:
    """What is known of a scene before any network runs; numbers of its moments."""

    moments: int
    with_depth: int  # that may have true depth
    with_labels: int
    with_neighbours: int
    lidar: bool = False  # whether there is a place where RayIoU's rays start
    rig: tuple[str, ...] = field(default=())  # of a bag: its cameras


class Tally:
    """All tables of a run or of one scene; what the networks do not say has none."""

    def __init__(self, plan: Plan) -> None:
        self.depth, self.motion = DepthTable(plan.depth_limits), MotionScores()
        self.occupancy: OccupancyTable | None = None
        self.robot: RobotTable | None = None
        if "occupancy" in plan.kinds:
            self.occupancy = OccupancyTable(plan.grid, plan.ray_iou)
            self.robot = RobotTable(plan.grid, plan.class_names, plan.robot)

    def counts(self) -> Counts:
        return {name: table.counts() for name, table in self._tables().items()}

    def add(self, counts: Mapping[str, Any]) -> None:
        """Those of another tally of the same plan; KeyError or ValueError where they are of another."""
        for name, table in self._tables().items():
            table.add(counts[name])

    def _tables(self) -> dict[str, DepthTable | MotionScores | OccupancyTable | RobotTable]:
        tables: dict[str, DepthTable | MotionScores | OccupancyTable | RobotTable] = {
            "depth": self.depth,
            "motion": self.motion,
        }
        if self.occupancy is not None:
            tables["occupancy"] = self.occupancy
        if self.robot is not None:
            tables["robot"] = self.robot
        return tables


def check_rigs(plan: Plan, facts: Mapping[str, Facts]) -> None:
    """BagError where bags have not the same cameras: one table for both says nothing."""
    rigs = {scene: each.rig for scene, each in facts.items() if each.rig and each.moments}
    check_one_rig(rigs, plan.where, "name the recordings of one (--scene)")


def what_is_missing(plan: Plan, facts: Sequence[Facts]) -> list[str]:
    """Notes on what cannot be measured; DatasetError where that is everything."""
    moments = sum(each.moments for each in facts)
    if not moments:
        raise DatasetError(f"{plan.where}: no moment is left to measure")
    wanted = {}  # what is measured: keyframes that have it, what they need
    if {"occupancy", "depth"} & set(plan.kinds):
        wanted["depth"] = (
            sum(each.with_depth for each in facts),
            "true depth files and no lidar whose place is known",
        )
    if "pose" in plan.kinds:
        wanted["ego motion"] = (sum(each.with_neighbours for each in facts), "images before or after them")
    if "occupancy" in plan.kinds and plan.labels:
        wanted["occupancy"] = (sum(each.with_labels for each in facts), "labels.npz under gts/")
    if not any(count for count, _ in wanted.values()):
        needs = " or ".join(need for _, need in wanted.values()).replace(" and no ", " or a ")
        raise DatasetError(
            f"{plan.where}: none of {moments} keyframes has {needs}: nothing to compare "
            "with; evaluate on a set that has, e.g. one made by tools/make_synthetic_nuscenes.py"
        )
    return [
        f"{what}: {moments - count} of {moments} keyframes, which have no {need}"
        for what, (count, need) in wanted.items()
        if count < moments
    ]


def report(plan: Plan, facts: Mapping[str, Facts], counts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers of `evaluate`, but those of the checkpoint; facts, counts: by scene. DatasetError where nothing
    could be measured, KeyError or ValueError where counts are not of this plan."""
    check_rigs(plan, facts)
    notes = what_is_missing(plan, [facts[scene] for scene in plan.scenes])
    tally = Tally(plan)
    for scene in plan.scenes:
        tally.add(counts[scene])
    occupancy, driven, kinds = tally.occupancy, tally.robot, set(plan.kinds)
    moments = sum(each.moments for each in facts.values())
    if occupancy and has_one_class(plan.class_names):
        notes.append("classes: the model knows one, occupied; what is by class says nothing of it")
    labelled = occupancy is not None and occupancy.keyframes > 0
    if labelled and plan.ray_iou and not all(each.lidar for each in facts.values()):
        notes.append("RayIoU: scenes without a lidar, where its rays start, are left out")
    if tally.depth.keyframes < sum(each.with_depth for each in facts.values()) and {"occupancy", "depth"} & kinds:
        notes.append(f"depth: {moments - tally.depth.keyframes} of {moments} keyframes, which have no usable scan")
    result = {
        "data": {**plan.described, "every": plan.every},
        "keyframes": moments,
        "labelled_keyframes": occupancy.keyframes if occupancy else 0,
        "scenes": list(plan.scenes),
        "notes": notes,
        "depth": tally.depth.summary(),
        "ego_motion": tally.motion.summary(),
        **(occupancy.summary() if occupancy and labelled else dict.fromkeys(MASKS)),
        "by_range": occupancy.range_summary() if occupancy and labelled else None,
        "ray_iou": occupancy.ray_summary() if occupancy and labelled else None,
        "robot": driven.summary() if driven else None,
        "reliability": occupancy.reliability.summary() if occupancy else None,
    }
    if not any(result[key] for key in ("depth", "ego_motion", *MASKS)):
        raise DatasetError(
            f"{plan.where}: {moments} moments, nothing to compare with: no scan lies within 60 ms of their "
            "images or can be read, and no poses are recorded; tools/inspect_bag.py shows what a bag has"
        )
    return _without_nan(result)


def plain(value: Any) -> Any:
    """For JSON, which gives every number back as it was."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (Plan, Facts)):
        return plain(asdict(value))
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _without_nan(value: Any) -> Any:
    """JSON knows no NaN: None."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
