# SPDX-License-Identifier: Apache-2.0
"""A recording and a model -> what can be measured, pictures of the worst and the best moments, a video."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from gaussianocc_core.errors import DatasetError
from gaussianocc_core.evaluation import evaluate_networks
from gaussianocc_core.evaluation.networks import CheckpointNetworks
from gaussianocc_core.evaluation.sources import EvaluationSource
from gaussianocc_core.metrics.occupancy import confusion_matrix, occupancy_summary
from gaussianocc_core.metrics.robot import RobotConfig
from gaussianocc_core.predictor import OccupancyPredictor
from gaussianocc_core.reporting.marks import Mark, mark
from gaussianocc_core.reporting.measures import DriveMeasures, MomentMeasures, measure_moment, measure_stereo, vanished
from gaussianocc_core.viewer.drive import Drive
from gaussianocc_core.viewer.moment import Memory, Moment
from gaussianocc_core.viz.files import write_video
from gaussianocc_core.viz.frame import DemoFrame, compose_frame
from gaussianocc_core.viz.scene import top_view

VIDEO = "report.mp4"
_SIZE, _VIDEO_SIZE = (1600, 900), (1280, 720)  # px
_SHOWN = 2  # of the worst, of the best
_VANISHED_AFTER = 0.5  # s
_STEREO_MOMENTS = 40  # most that classical stereo is compared with truth at
_STEREO_RANGE = (1e-3, 80.0)  # m
_LEAST_POINTS = 1000  # of the truth on obstacles; a share of fewer is chance
_RINGS = ("0-10", "10-20")  # m, of `evaluate`'s


@dataclass(frozen=True)
class Shown:
    """One moment in pictures."""

    title: str
    scene: str
    number: int
    figure: str
    picture: UInt8[np.ndarray, "H W 3"]
    above: UInt8[np.ndarray, "_ _ 3"]


@dataclass(frozen=True)
class Findings:
    """All that the page tells."""

    source: str
    model: str
    trained: bool
    moments: int
    scenes: tuple[str, ...]
    seconds: float  # of driving
    way: float  # m, so far as motion is known
    marks: tuple[Mark, ...]
    truth: dict[str, Any] | None  # of `evaluate`
    why_no_truth: str
    stereo: dict[str, float] | None  # Abs Rel of stereo and model on the same pixels, and their share of the pixels
    shown: tuple[Shown, ...]
    curves: dict[str, list[float | None]] = field(default_factory=dict)  # by measure, over the moments
    video: str = ""  # beside the page


def examine(
    source: EvaluationSource,
    checkpoint: str | Path,
    output: Path,
    scenes: Sequence[str],
    *,
    every: int = 1,
    device: str = "auto",
    robot: RobotConfig | None = None,
    video: bool = True,
    progress: Callable[[str], None] = lambda line: None,
) -> Findings:
    """every: only each so many moments are seen. DatasetError where the checkpoint holds no occupancy network."""
    robot = robot or RobotConfig()
    networks = CheckpointNetworks(checkpoint, device)
    if networks.predictor is None:
        raise DatasetError(
            f"{checkpoint}: holds no occupancy network but {', '.join(networks.kinds)}; a report is of the second "
            "stage. Judge a first stage with: python -m gaussianocc_core.evaluate"
        )
    run = _Run(source, networks.predictor, robot)
    for scene in scenes:
        progress(f"the model sees {scene}")
        run.see(scene, every)
    truth, why_not = None, ""
    progress("holding it against the truth, if there is any")
    try:
        truth = evaluate_networks(
            networks, source, scenes, every=_every_truth(source, every), robot=robot, ray_iou=False
        )
        if not (truth["depth"] or truth["mask_camera"]):
            truth, why_not = None, "the recording has no lidar, no true depth and no labels"
    except DatasetError as error:
        why_not = str(error)
    progress("pictures")
    shown = run.pictures()
    if video:
        progress("video")
        write_video(output / VIDEO, run.frames(), fps=run.rate())
    return Findings(
        source=next(iter(source.described.values())),
        model=run.predictor.summary,
        trained=run.predictor.trained,
        moments=len(run.order),
        scenes=tuple(scenes),
        seconds=run.seconds,
        way=run.way,
        marks=tuple(run.marks(truth)),
        truth=truth,
        why_no_truth=why_not,
        stereo=run.stereo_summary(),
        shown=shown,
        curves=run.curves(),
        video=VIDEO if video else "",
    )


def _every_truth(source: EvaluationSource, every: int) -> int:
    """Data sets are measured at their keyframes, of which there are few; bags at what was seen."""
    return every if "bag" in source.described else 1


class _Run:
    """What is gathered while the model sees the scenes."""

    def __init__(self, source: EvaluationSource, predictor: OccupancyPredictor, robot: RobotConfig) -> None:
        self.source, self.predictor, self.robot = source, predictor, robot
        self.memory = Memory()
        self.order: list[tuple[str, int]] = []
        self.measures: list[MomentMeasures] = []
        self.scores: list[float | None] = []  # by moment: IoU off the ground with the truth
        self.blocked: list[bool | None] = []
        self.depths: dict[tuple[str, int], Float[np.ndarray, "N h w"]] = {}
        self.drive = DriveMeasures(predictor.grid, robot)
        self.seconds, self.way = 0.0, 0.0
        self._gaps: list[float] = []
        self._stereo: list[tuple[float, float, float, float]] = []  # pixels, error of stereo, of the model, all pixels

    def see(self, scene: str, every: int) -> None:
        drive = Drive(self.source, scene, self.predictor, every, compares_motion=True)
        walked: list[np.ndarray | None] = []
        for number in range(len(drive)):
            moment = drive.see(number)
            prediction = drive.prediction
            assert prediction is not None
            images = [moment.images[name] for name in moment.cameras.names]
            self.measures.append(measure_moment(moment, prediction, images))
            self.order.append((scene, number))
            self.memory.keep((scene, number), moment)
            moved = prediction.moved
            walked.append(None if moved is None or (moved.lost and not moved.first) else moved.T_odom_ego)
            if moved is not None and not moved.first:
                self.drive.tracked += 1
                self.drive.lost += bool(moved.lost)
            if prediction.field.inv_depth is not None:
                inv_depth = prediction.field.inv_depth[0].float().cpu().numpy()
                self.depths[scene, number] = (1.0 / inv_depth.clip(1e-2)).astype(np.float32)
                self._compare_stereo(drive, number, moment, images)
            self.scores.append(_score(moment))
        stamps, poses = drive.stamps_ns, drive.poses
        self.seconds += 1e-9 * (stamps[-1] - stamps[0])
        self._gaps += [1e-9 * (b - a) for a, b in itertools.pairwise(stamps)]
        if drive.has_recorded_poses:
            self.drive.compare_motion(walked, poses, stamps)
        known = [pose[:3, 3] for pose in poses if pose is not None]
        if len(known) > 1:
            self.way += float(np.linalg.norm(np.diff(np.stack(known), axis=0), axis=1).sum())
        for number in range(len(drive)):
            moment = self.memory.recall((scene, number))
            self.blocked.append(self.drive.drove(moment, poses, number))
            after = stamps[number] + round(1e9 * _VANISHED_AFTER)
            later = next((k for k in range(number + 1, len(drive)) if stamps[k] >= after), None)
            here, there = poses[number], None if later is None else poses[later]
            if later is not None and here is not None and there is not None:
                share = vanished(moment, self.memory.recall((scene, later)), here, there, self.robot)
                if share is not None:
                    self.drive.vanished.append(share)

    def _compare_stereo(self, drive: Drive, number: int, moment: Moment, images: Sequence[np.ndarray]) -> None:
        """Against the truth, on the pixels that stereo and truth both know."""
        sample, entry = drive.sample, drive.entries[number]
        if sample is None or len(self._stereo) >= _STEREO_MOMENTS or not self.source.may_have_depth(entry):
            return
        measured = measure_stereo(moment.cameras, images)
        truths = self.source.true_depths(entry, sample, drive.pictures(sample.cameras)) if measured else None
        low, high = _STEREO_RANGE
        for n, stereo in measured.items() if truths is not None else ():
            assert truths is not None
            true = truths[n]
            size = true.shape[::-1]
            found = cv2.resize(stereo, size, interpolation=cv2.INTER_NEAREST)
            own = cv2.resize(self.depths[moment.scene, number][n], size, interpolation=cv2.INTER_LINEAR)
            valid = (true > low) & (true < high)
            both = valid & (found > 0)
            if both.sum() >= 50:
                wrong, own_wrong = (
                    np.abs(each[both].clip(low, high) / true[both] - 1.0).mean() for each in (found, own)
                )
                self._stereo.append((float(both.sum()), float(wrong), float(own_wrong), float(valid.sum())))

    def stereo_summary(self) -> dict[str, float] | None:
        if not self._stereo:
            return None
        pixels, stereo, own, valid = np.array(self._stereo).T
        return {
            "stereo": float((stereo * pixels).sum() / pixels.sum()),
            "model": float((own * pixels).sum() / pixels.sum()),
            "share": float(pixels.sum() / valid.sum()),
        }

    def rate(self) -> float:
        """Of the video: that of the moments, so that it runs in real time."""
        return float(np.clip(1.0 / max(float(np.median(self._gaps)), 1e-3), 1.0, 30.0)) if self._gaps else 2.0

    def curves(self) -> dict[str, list[float | None]]:
        return {
            "cameras disagree, |log|": [each.overlap for each in self.measures],
            "depth against stereo, |log|": [each.stereo for each in self.measures],
            "mean confidence": [each.confidence for each in self.measures],
            "height of the ground, m": [each.ground_height for each in self.measures],
            "IoU off the ground": self.scores,
        }

    def marks(self, truth: dict[str, Any] | None) -> Iterator[Mark]:
        if truth is not None:
            yield from truth_marks(truth)
        motion = self.drive.motion.summary()
        drove = [each for each in self.blocked if each is not None]
        yield mark("overlap", _median(each.overlap for each in self.measures), "no two cameras see the same")
        yield mark("stereo", _median(each.stereo for each in self.measures), "no two cameras look the same way")
        yield mark("blocked", sum(drove) / len(drove) if drove else None, "less than 5 m were driven after any moment")
        no_motion = "no motion is known, or no obstacle stood near"
        yield mark("vanished", float(np.mean(self.drive.vanished)) if self.drive.vanished else None, no_motion)
        height = _median(None if each.ground_height is None else abs(each.ground_height) for each in self.measures)
        no_ground = "depth shows no ground near the robot"
        yield mark("height", height, no_ground)
        yield mark("tilt", _median(each.ground_tilt for each in self.measures), no_ground)
        no_odometry = "the recording has no odometry, or lasts less than a second"
        ratio = None if motion is None else motion["length_ratio"]
        still = no_odometry if motion is None else "the robot stood still"
        yield mark("length", None if ratio is None else abs(ratio - 1.0), still)
        yield mark("rotation", None if motion is None else motion["rotation_error_deg"], no_odometry)
        yield mark(
            "lost", self.drive.lost / self.drive.tracked if self.drive.tracked else None, "it is one moment only"
        )
        confidence = _median(each.confidence for each in self.measures)
        yield mark("doubt", None if confidence is None else 1.0 - confidence, "nothing is occupied")
        yield mark("unknown", _median(each.unknown_near for each in self.measures))

    # ---- pictures --------------------------------------------------------------------------------------------------

    def pictures(self) -> tuple[Shown, ...]:
        """The worst and the best by IoU with the truth, or else by how depth agrees with itself; one in the middle."""
        name, values = self._ranking()
        ranked = sorted((k for k, value in enumerate(values) if value is not None), key=lambda k: values[k] or 0.0)
        chosen: dict[int, str] = {}
        for k in reversed(ranked[-_SHOWN:]):
            chosen.setdefault(k, "worst")
        for k in ranked[:_SHOWN]:
            chosen.setdefault(k, "best")
        chosen.setdefault(ranked[len(ranked) // 2] if ranked else len(self.order) // 2, "in the middle")
        shown = []
        for k, title in chosen.items():
            moment, value = self.memory.recall(self.order[k]), values[k]
            figure = "" if value is None else f"{name} {abs(value):.2f}"
            above = top_view(moment.labels, moment.grid, 2, by_height=moment.classless)
            shown.append(Shown(title, *self.order[k], figure, compose_frame(self._frame(k), *_SIZE), above))
        return tuple(shown)

    def _ranking(self) -> tuple[str, list[float | None]]:
        """What moments are ranked by, and by moment how bad it is."""
        ways: dict[str, list[float | None]] = {
            "IoU off the ground": [None if value is None else -value for value in self.scores],
            "depth against stereo, |log|": [each.stereo for each in self.measures],
            "cameras disagree, |log|": [each.overlap for each in self.measures],
            "doubt": [None if each.confidence is None else 1.0 - each.confidence for each in self.measures],
        }
        for name, values in ways.items():
            if any(each is not None for each in values):
                return name, values
        return "", [None] * len(self.order)

    def frames(self) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        for k in range(len(self.order)):
            yield compose_frame(self._frame(k), *_VIDEO_SIZE)

    def _frame(self, k: int) -> DemoFrame:
        moment = self.memory.recall(self.order[k])
        depths, score = self.depths.get(self.order[k]), self.scores[k]
        return DemoFrame(
            images=moment.images,
            cameras=moment.cameras,
            prediction=moment.labels,
            grid=moment.grid,
            truth=None if moment.truth is None else moment.truth.semantics,
            depths={} if depths is None else dict(zip(moment.cameras.names, depths, strict=True)),
            depth_title="DEPTH",
            model=moment.model,
            trained=moment.trained,
            stamp=f"{moment.scene}, moment {self.order[k][1]}",
            scores={} if score is None else {"IoU off the ground": 100 * score},
            classless=moment.classless,
        )


def _score(moment: Moment) -> float | None:
    if moment.truth is None:
        return None
    counts = confusion_matrix(moment.truth.semantics, moment.labels, moment.truth.mask_camera)
    return float(occupancy_summary(counts)["non_ground_iou"])


def ring_that_tells(rings: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The range, in m, whose obstacles say how good the model is; None where hardly an obstacle stands.

    Where nothing stands near the robot, what is farther away has to do; a few points at the border say nothing.
    """
    return next((name for name in _RINGS if name in rings and rings[name]["points"] >= _LEAST_POINTS), None)


def truth_marks(truth: dict[str, Any]) -> Iterator[Mark]:
    """Of a result of `evaluate`: obstacles, then depth."""
    robot, depth = truth["robot"], truth["depth"]
    rings = next(iter(robot["truths"].values()))["model"] if robot and robot["truths"] else {}
    ring = ring_that_tells(rings)
    row = {} if ring is None else rings[ring]
    found = row.get("found")
    values = {
        "missed": row.get("missed"),
        "unfound": None if found is None else 1.0 - found,
        "ghosts": row.get("ghosts"),
    }
    for key, value in values.items():
        made = mark(key, value, "the truth shows hardly an obstacle within 20 m, or tells of no published one")
        yield made if value is None or ring == _RINGS[0] else replace(made, value=f"{made.value} at {ring} m")
    mean = None if depth is None else next(iter(depth["ways"].values()))["mean"]
    yield mark("depth", None if mean is None else mean["abs_rel"], "no true depth")
    yield mark("scale", None if mean is None else abs(mean["scale"] - 1.0), "no true depth")


def _median(values: Any) -> float | None:
    known = [each for each in values if each is not None]
    return float(np.median(known)) if known else None
