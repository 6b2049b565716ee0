# SPDX-License-Identifier: Apache-2.0
"""What a user would pick instead, on the same drive in one run: OpenCV's stereo, a plane sweep over time, OctoMap.

python benchmarks/peers.py --bag drive [--every 3] [--size 320x96] [--only WAY ...] [--json FILE]

The bag has two cameras that look the same way, odometry and a lidar, which is the truth. Each way sees all sets of
images in time order, in a process of its own with one thread; each Nth set is measured. Depth counts at the lidar's
points to 80 m in both images: Abs Rel of those that have an estimate; within 1.25 of all of them, so that a missing
estimate is a wrong one; both again at the points that StereoSGBM covers at the images' own size. Occupancy counts as a
robot asks (`metrics/robot.py`) to 20 m. Milliseconds are medians of a set of two images: images in memory -> depth of
both (or the voxels). Memory is the peak over what the process holds with all libraries and images loaded.
A table in Markdown goes beside the JSON.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from render import resident_mb
from report import write_report

from gaussianocc_core.checkpoint import load_depth_net
from gaussianocc_core.data.bag import BagEntry, open_bags
from gaussianocc_core.data.bag_cameras import BagConfig
from gaussianocc_core.data.bag_lidar import lidar_depths, lidar_scan, lidar_topics
from gaussianocc_core.data.entries import in_label_frame
from gaussianocc_core.data.lidar import LidarScan
from gaussianocc_core.evaluation.occupancy import FLAT_GROUND, MODEL
from gaussianocc_core.evaluation.robot import LIDAR, RobotTable
from gaussianocc_core.fusion import TemporalFusion
from gaussianocc_core.geometry.ground_plane import flat_ground_depth
from gaussianocc_core.geometry.raymarch import crossed_voxels
from gaussianocc_core.geometry.rectify import Rectifier
from gaussianocc_core.geometry.stereo import LEAST_DISPARITY, Matcher, StereoPair, plan_stereo, semi_global
from gaussianocc_core.geometry.voxels import locate
from gaussianocc_core.labels import CLASS_NAMES, FREE, UNOBSERVED
from gaussianocc_core.mapping.carving import CarveSettings, carve, choose_sets, make_rays
from gaussianocc_core.mapping.sets import DepthMaps, PlacedSet, RaySet, see
from gaussianocc_core.metrics.robot import RobotConfig
from gaussianocc_core.models.depth_net import DepthNet
from gaussianocc_core.models.matching import plane_inv_depths
from gaussianocc_core.models.matching_net import MatchingHead
from gaussianocc_core.models.view_choice import ViewSettings
from gaussianocc_core.models.view_ring import RingSettings, ViewRing
from gaussianocc_core.models.visibility import observed_voxels
from gaussianocc_core.predictor import OccupancyPredictor
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.types import Cameras, OccupancyPrediction, Sample, VoxelGrid

WEIGHTS = Path(__file__).resolve().parents[1] / "gaussianocc_core" / "weights"
FAR = 80.0  # m, to which true depth counts
FIRST = 12  # sets that fill memories and compile before anything is measured
ROBOT = RobotConfig(rings=((0.0, 10.0), (10.0, 20.0), (0.0, 20.0)))
SHARP = 0.25  # px that a disparity errs by, for carving
REACH = 30.0  # m, to which OctoMap takes the ends of rays; they clear up to there
SOMETHING, FREE_OF_TWO = 0, 1
TWO = ("occupied", "free")


@dataclass(frozen=True)
class Set:
    """Two images of one moment."""

    sample: Sample  # images RGB at native size
    cameras: Cameras  # calibration, each where it was at its own image time
    T_world_ego: np.ndarray  # m
    stamp_s: float
    truth: list[np.ndarray]  # per camera (P, 3): column and row as shares of the image, z-depth, m; empty: not measured
    scan: LidarScan | None

    @property
    def size(self) -> tuple[int, int]:
        return self.cameras.width[0], self.cameras.height[0]


@dataclass(frozen=True)
class Answer:
    depth: np.ndarray | None = None  # (N, h, w) z-depth, m; 0: not known
    labels: np.ndarray | None = None  # (X, Y, Z)
    class_names: tuple[str, ...] = CLASS_NAMES


@dataclass
class Finding:
    """What one way said; seconds are those of the sets that are measured."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    estimates: list[np.ndarray] = field(default_factory=list)  # m, at the points of truth, NaN: none
    memory_mb: float = 0.0
    robot: dict[str, Any] | None = None


Way = Callable[[Set], Answer]


def read_drive(path: str, every: int) -> list[Set]:
    (source,) = open_bags(BagConfig(path=path))
    entries, topics = source.entries(semantics=False), lidar_topics(source)
    if not topics:
        raise SystemExit(f"{path}: has no lidar whose place on the robot is known; nothing to measure with")
    rig = entries[0].cameras
    full, scale = Rectifier(rig, rig.width[0], rig.height[0]), np.array([rig.width[0], rig.height[0], 1.0])
    sets = []
    last = FIRST + (len(entries) - 1 - FIRST) // every * every  # that is measured
    for n, entry in enumerate(entries[: last + 1]):
        sample = entry.load()
        if sample.T_world_ego is None or not isinstance(entry, BagEntry):
            raise SystemExit(f"{path}: set {n} has no odometry; this comparison needs it")
        measured = n >= FIRST and (n - FIRST) % every == 0
        points = lidar_depths(source, topics[0], entry, full.cameras) if measured else None
        truth = [each[(each[:, 2] > 0.1) & (each[:, 2] < FAR)] / scale for each in points or ()]
        scan = lidar_scan(source, topics[0], entry) if truth else None
        sets.append(Set(sample, in_label_frame(sample), sample.T_world_ego, 1e-9 * sample.stamp_ns, truth, scan))
    return sets


# Classical


def _plan(cameras: Cameras) -> list[StereoPair]:
    """Of each camera with the other."""
    K, T = cameras.intrinsics.double().numpy(), cameras.T_ego_cam.double().numpy()
    plans = [plan_stereo(K[i], T[i], K[1 - i], T[1 - i], cameras.width[0], cameras.height[0]) for i in (0, 1)]
    if plans[0] is None or plans[1] is None:
        raise SystemExit("the two cameras do not look the same way: no stereo pair")
    return [each for each in plans if each is not None]


def _block_matching(disparities: int) -> Matcher:
    # Of grey images; a block of 11 at this size is OpenCV's default of 21 at twice the width.
    matcher = cv2.StereoBM.create(numDisparities=disparities, blockSize=11)
    matcher.setDisp12MaxDiff(1)
    matcher.setUniquenessRatio(8)
    matcher.setSpeckleWindowSize(60)
    matcher.setSpeckleRange(2)

    def match(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        grey = (cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in (left, right))
        return matcher.compute(*grey)

    return match


class Stereo:
    """Both cameras' depth by each other."""

    def __init__(self, make: Callable[[int], Matcher] = semi_global, size: tuple[int, int] | None = None) -> None:
        """size: that images are shrunk to; None: as they are."""
        self.make, self.size = make, size
        self.plans: list[StereoPair] | None = None
        self.rectifier: Rectifier | None = None

    def __call__(self, now: Set) -> Answer:
        if self.plans is None:
            self.rectifier = None if self.size is None else Rectifier(now.cameras, *self.size)
            self.plans = _plan(now.cameras if self.rectifier is None else self.rectifier.cameras)
        images = now.sample.images if self.rectifier is None else self.rectifier(now.sample.images)
        found = [
            plan.measure(images[i], images[1 - i], self.make(plan.disparities))[0] for i, plan in enumerate(self.plans)
        ]
        return Answer(np.stack(found))


class PlaneSweep:
    """One camera over time, with recorded odometry: planes that face it, normalised correlation of 7 x 7 pixels.

    A rectified pair is no choice here: a robot that drives ahead moves along the line of sight.
    """

    planes, radius = 64, 3
    nearest = 2.0  # m
    least_correlation, least_contrast = 0.6, 2.0  # contrast: standard deviation in the window, grey levels
    least_lead = 0.02  # of correlation over the best plane that is no neighbour

    def __init__(self, ways: Sequence[float]) -> None:
        """ways: m, of the earlier images from now on backwards."""
        self.ways = ways
        self.past: list[tuple[list[np.ndarray], Set]] = []  # grey images, oldest first
        self.inverse = np.linspace(1.0 / FAR, 1.0 / self.nearest, self.planes)

    def __call__(self, now: Set) -> Answer:
        grey = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY).astype(np.float32) for each in now.sample.images]
        here = now.T_world_ego[:3, 3]
        chosen = []
        for way in self.ways:
            far = (each for each in reversed(self.past) if np.linalg.norm(each[1].T_world_ego[:3, 3] - here) >= way)
            chosen.append(next(far, None))
        sources = [each for each in chosen if each is not None]
        depth = np.stack([self._sweep(n, grey[n], now, sources) for n in range(len(grey))])
        self.past = [*self.past[-15:], (grey, now)]
        return Answer(depth)

    def _sweep(self, n: int, grey: np.ndarray, now: Set, sources: list[tuple[list[np.ndarray], Set]]) -> np.ndarray:
        if not sources:
            return np.zeros(grey.shape, np.float32)
        total = np.zeros((self.planes, *grey.shape), np.float32)
        seen = np.zeros_like(total)
        shift = np.zeros_like(grey)  # px between the nearest plane and the farthest, per 1/m
        mean, spread = self._moments(grey)
        for then, past in sources:
            warp = self._warps(n, now, past)
            for k, rho in enumerate(self.inverse):
                H = warp(rho)
                other = cv2.warpPerspective(
                    then[n], H, grey.shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderValue=-1e4
                )
                inside = cv2.erode((other >= 0).astype(np.uint8), np.ones((7, 7), np.uint8), borderValue=0) > 0
                other_mean, other_spread = self._moments(other)
                both = cv2.boxFilter(grey * other, -1, (7, 7)) - mean * other_mean
                correlation = both / np.maximum(np.sqrt(spread * other_spread), self.least_contrast**2)
                total[k] += np.where(inside, correlation, 0.0)
                seen[k] += inside
            shift = np.maximum(shift, self._parallax(warp, grey.shape))
        score = np.where(seen > 0, total / np.maximum(seen, 1), -1.0)
        best = score.argmax(axis=0)
        top = np.take_along_axis(score, best[None], axis=0)[0]
        apart = np.abs(np.arange(self.planes)[:, None, None] - best) > 2
        second = np.where(apart, score, -1.0).max(axis=0)
        # A parabola through the best and its neighbours, as stereo does.
        inner = best.clip(1, self.planes - 2)
        low, middle, high = (np.take_along_axis(score, inner[None] + d, axis=0)[0] for d in (-1, 0, 1))
        bend = low - 2 * middle + high
        offset = np.where(bend < -1e-4, 0.5 * (low - high) / np.minimum(bend, -1e-4), 0.0).clip(-0.5, 0.5)
        step = self.inverse[1] - self.inverse[0]
        inverse = (self.inverse[best] + np.where(best == inner, offset, 0.0) * step).clip(1.0 / FAR, None)
        sure = (top >= self.least_correlation) & (top - second >= self.least_lead)
        # As of stereo: below so much parallax, depth is not measured. Around where the robot drives to there is none.
        sure &= (spread >= self.least_contrast**2) & (shift * inverse >= LEAST_DISPARITY)
        return np.where(sure, 1.0 / inverse, 0.0).astype(np.float32)

    def _moments(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = cv2.boxFilter(image, -1, (7, 7))
        return mean, np.maximum(cv2.boxFilter(image * image, -1, (7, 7)) - mean * mean, 0.0)

    def _warps(self, n: int, now: Set, past: Set) -> Callable[[float], np.ndarray]:
        """Inverse depth, 1/m -> homography from pixels now to pixels then, both as OpenCV counts."""
        T = np.linalg.inv(past.T_world_ego @ past.cameras.T_ego_cam[n].double().numpy())
        T = T @ now.T_world_ego @ now.cameras.T_ego_cam[n].double().numpy()
        K = now.cameras.intrinsics[n].double().numpy().copy()
        K[:2, 2] -= 0.5  # OpenCV counts from the first pixel's centre
        inverse = np.linalg.inv(K)
        facing = np.array([0.0, 0.0, 1.0])
        return lambda rho: K @ (T[:3, :3] + rho * np.outer(T[:3, 3], facing)) @ inverse

    def _parallax(self, warp: Callable[[float], np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        """px that a pixel moves by with each 1/m of inverse depth, near infinity."""
        v, u = np.indices(shape).astype(np.float64)
        pixels = np.stack([u, v, np.ones(shape)])
        near, far = (np.tensordot(warp(rho), pixels, axes=1) for rho in (0.01, 0.0))
        return np.asarray(np.hypot(*(near[:2] / near[2] - far[:2] / far[2])) / 0.01)


class FlatGround:
    def __call__(self, now: Set) -> Answer:
        width, height = now.size
        return Answer(np.stack([flat_ground_depth(now.cameras, n, height, width, FAR) for n in range(2)]))


# Ours: depth


class FirstStage:
    """As in the node: one set after another, each encoded once."""

    def __init__(self, size: tuple[int, int], settings: RingSettings | None, motion: bool) -> None:
        """settings: None: each image alone; motion: whether odometry is known."""
        self.net: DepthNet = load_depth_net(WEIGHTS / "tiny_matching.safetensors").depth_net
        self.size, self.settings, self.motion = size, settings, motion
        self.preprocess = Preprocessor(*size)
        head = self.net.head
        assert isinstance(head, MatchingHead)
        self.ring = ViewRing(*size, plane_inv_depths(head.config, head.far), settings or RingSettings())

    @torch.inference_mode()
    def __call__(self, now: Set) -> Answer:
        lenses = self.preprocess(now.cameras)
        images = torch.from_numpy(lenses.rectify(now.sample.images)).permute(0, 3, 1, 2).float() / 255.0
        cameras, pose = lenses.views(now.cameras.T_ego_cam), now.T_world_ego if self.motion else None
        look, sources = self.net.image_encoder.look(images), None
        assert look.features is not None
        if self.settings is not None:
            sources = self.ring.views(look.features, cameras, pose, now.stamp_s).sources
            self.ring.add(look.features, cameras, pose, now.stamp_s)
        found = self.net.match(look, sources, cameras.intrinsics, cameras.T_ego_cam, *self.size)
        if self.settings is not None:
            self.ring.learn_depth(found.inv_depth)
        return Answer((1.0 / found.inv_depth).numpy())


class SecondStage:
    """The shipped model at its own size, past and odometry known: depth head and voxels."""

    def __init__(self, memory: bool = True, fused: bool = False) -> None:
        """memory: of rays, as the node has it; fused: labels over time, as it does on request."""
        self.predict = OccupancyPredictor.from_checkpoint(WEIGHTS / "tiny.safetensors", "cpu", memory=memory)
        self.fusion = TemporalFusion(self.predict.grid, self.predict.class_names) if fused else None

    def __call__(self, now: Set) -> Answer:
        found = self.predict(now.sample.images, now.cameras, now.T_world_ego, now.stamp_s)
        assert found.field.inv_depth is not None
        labels = found.labels
        if self.fusion is not None:
            labels = self.fusion.add(found, now.T_world_ego, round(1e9 * now.stamp_s)).labels
        return Answer((1.0 / found.field.inv_depth[0]).float().numpy(), labels, self.predict.class_names)


# Occupancy from semi-global depth


class OctoMapLike:
    """Log-odds of voxels as OctoMap keeps them, with its own defaults: 0.7 for a hit, 0.4 for a miss, 0.12 to 0.97.

    A voxel in which the scan ends is hit, others that its rays cross are missed. The map is `fusion.py`'s, for ever.
    """

    def __init__(self, grid: VoxelGrid) -> None:
        self.grid, self.stereo = grid, Stereo()
        self.fusion = TemporalFusion(grid, TWO, hit=0.7, miss=0.4, doubt=0.5, decay=0.0, limits=(0.12, 0.97))

    def __call__(self, now: Set) -> Answer:
        depth = self.stereo(now).depth
        assert depth is not None
        crossed = np.zeros(self.grid.shape, dtype=bool)
        hit = np.zeros_like(crossed)
        for n, image in enumerate(depth):
            T = now.cameras.T_ego_cam[n].double().numpy()
            K = now.cameras.intrinsics[n].double().numpy()
            rows, columns = np.nonzero(image > 0)
            z = image[rows, columns].astype(np.float64)
            rays = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))], axis=1) @ np.linalg.inv(K).T
            ends = (rays * np.minimum(z, REACH)[:, None]) @ T[:3, :3].T + T[:3, 3]
            crossed |= crossed_voxels(ends, T[:3, 3], self.grid)
            index, inside = locate(self.grid, ends[z < REACH])
            hit[tuple(index[inside].T)] = True
        labels = np.full(self.grid.shape, UNOBSERVED, np.uint8)
        labels[crossed] = FREE_OF_TWO
        labels[hit] = SOMETHING
        known = labels != UNOBSERVED
        scan = OccupancyPrediction(
            labels, known.astype(np.float32), known, self.grid, TWO, False, now.cameras.names, "octomap"
        )
        return Answer(None, self.fusion.add(scan, now.T_world_ego, round(1e9 * now.stamp_s)).labels, TWO)


class Carving:
    """The project's own carving of labels, of semi-global depth and of what was seen in the last two seconds alone."""

    def __init__(self, grid: VoxelGrid) -> None:
        self.grid, self.stereo, self.settings = grid, Stereo(), CarveSettings()
        self.window: list[RaySet] = []
        self.preprocess: Preprocessor | None = None

    def __call__(self, now: Set) -> Answer:
        if self.preprocess is None:
            self.preprocess = Preprocessor(*now.size)
        depth = self.stereo(now).depth
        assert depth is not None and self.stereo.plans is not None
        lenses = self.preprocess(now.sample.cameras)
        views = lenses.views(now.cameras.T_ego_cam)
        placed = PlacedSet(see(now.sample, lenses), views, now.T_world_ego, run=0)
        disparity = np.stack(
            [plan.reach / np.maximum(each, 0.1) for plan, each in zip(self.stereo.plans, depth, strict=True)]
        )
        rays = make_rays(placed, DepthMaps(depth, np.log(SHARP / disparity).astype(np.float32)), self.settings)
        self.window = [each for each in self.window if now.stamp_s - each.stamp_s <= self.settings.window] + [rays]
        if not now.truth:  # the window is carved anew each time: only where it is asked for
            return Answer()
        found = carve(choose_sets(self.window, rays, self.settings), rays, self.grid, self.settings).semantics
        labels = np.where(found < FREE, SOMETHING, np.where(found == FREE, FREE_OF_TWO, found)).astype(np.uint8)
        return Answer(None, labels, TWO)


SGBM, FLAT = "StereoSGBM", "flat ground"
FIRST_STAGE, SECOND_STAGE = "ours, first stage", "ours, second stage"


def all_ways(size: tuple[int, int], grid: VoxelGrid) -> dict[str, Callable[[], Way]]:
    shown = f"{size[0]}x{size[1]}"
    fast = partial(semi_global, mode=cv2.STEREO_SGBM_MODE_SGBM_3WAY)
    time_alone = RingSettings(views=ViewSettings(neighbours=0, earlier_neighbours=0))
    return {
        SGBM: Stereo,
        f"{SGBM}, three-way": lambda: Stereo(fast),
        f"{SGBM} at {shown}": lambda: Stereo(size=size),
        "StereoBM": lambda: Stereo(_block_matching),
        f"StereoBM at {shown}": lambda: Stereo(_block_matching, size),
        "plane sweep over time, two images": lambda: PlaneSweep((1.0,)),
        "plane sweep over time, four images": lambda: PlaneSweep((1.0, 2.0, 4.0)),
        FLAT: FlatGround,
        f"{FIRST_STAGE}, one image, {shown}": lambda: FirstStage(size, None, False),
        f"{FIRST_STAGE}, stereo alone, {shown}": lambda: FirstStage(size, RingSettings(), False),
        f"{FIRST_STAGE}, over time alone, {shown}": lambda: FirstStage(size, time_alone, True),
        f"{FIRST_STAGE}, stereo and time, {shown}": lambda: FirstStage(size, RingSettings(), True),
        f"{FIRST_STAGE}, stereo and time, 176x96": lambda: FirstStage((176, 96), RingSettings(), True),
        f"{SECOND_STAGE} without memory, 176x96": lambda: SecondStage(memory=False),
        f"{SECOND_STAGE}, 176x96": SecondStage,
        f"{SECOND_STAGE} and its fusion, 176x96": lambda: SecondStage(fused=True),
        f"OctoMap-like log-odds of {SGBM}": lambda: OctoMapLike(grid),
        f"carving of {SGBM}, last 2 s": lambda: Carving(grid),
    }


def _at_truth(depth: np.ndarray, truth: Sequence[np.ndarray]) -> np.ndarray:
    """Estimates at the points, NaN where there is none: of whole images between pixels, of others the pixel's own."""
    found = []
    for image, points in zip(depth, truth, strict=True):
        if (image > 0).all():
            grid = torch.from_numpy(points[:, :2] * 2.0 - 1.0).float()[None, None]
            inverse = torch.from_numpy(1.0 / image).float()[None, None]
            at = 1.0 / F.grid_sample(inverse, grid, padding_mode="border", align_corners=False)[0, 0, 0].numpy()
        else:
            height, width = image.shape
            rows, columns = (points[:, 1] * height).astype(int), (points[:, 0] * width).astype(int)
            at = image[rows.clip(0, height - 1), columns.clip(0, width - 1)]
        found.append(np.where(at > 0, at.clip(0.1, FAR), np.nan))
    return np.concatenate(found).astype(np.float32)


def try_way(name: str, size: tuple[int, int], path: str, every: int) -> Finding:
    """In a process of its own."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    sets = read_drive(path, every)
    config = load_depth_net(WEIGHTS / "tiny_matching.safetensors").config
    finding, table = Finding(), None
    lenses = Preprocessor.of(config)(sets[0].cameras)
    before = resident_mb("VmRSS")
    way = all_ways(size, config.grid)[name]()
    _forget_peak()
    peak = before
    for now in sets:
        wall, cpu = time.perf_counter(), time.process_time()
        answer = way(now)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = max(peak, resident_mb("VmHWM"))
        if now.truth:
            finding.wall_s.append(wall)
            finding.cpu_s.append(cpu)
            if answer.depth is not None:
                finding.estimates.append(_at_truth(answer.depth, now.truth))
            if answer.labels is not None:
                table = table or RobotTable(config.grid, answer.class_names, ROBOT)
                views = lenses.views(now.cameras.T_ego_cam)
                seen = observed_voxels(views, config.grid, lenses.valid_mask)
                table.update(answer.labels, seen, now.scan, None, None)
        _forget_peak()  # scoring is none of the way's
    finding.memory_mb = peak - before
    finding.robot = None if table is None else table.summary()
    return finding


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def depth_row(estimate: np.ndarray, true: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """reference: points that StereoSGBM covers."""
    known = np.isfinite(estimate)
    relative = np.abs(estimate - true) / true
    ratio = np.maximum(estimate / true, true / estimate)
    within = known & (np.nan_to_num(ratio, nan=np.inf) < 1.25)
    both, rest = known & reference, ~reference
    return {
        "coverage": float(known.mean()),
        "abs_rel": float(relative[known].mean()),
        "within_1.25_of_all": float(within.mean()),
        "within_1.25_of_known": float(within[known].mean()),
        "abs_rel_where_sgbm": float(relative[both].mean()),
        "within_1.25_where_sgbm": float(within[reference].mean()),
        "coverage_elsewhere": float(known[rest].mean()),
        "abs_rel_elsewhere": float(relative[known & rest].mean()) if (known & rest).any() else float("nan"),
        "within_1.25_elsewhere": float(within[rest].mean()),
    }


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    depth = [row for row in rows if "abs_rel" in row]
    head = "Abs Rel | within 1.25"
    lines = [
        f"| depth | with an estimate | {head} of all points | where {SGBM}: {head} | elsewhere: with an estimate "
        f"| {head} of all | ms (CPU) | MB |",
        "|---|" + "---|" * 10,
    ]
    for r in depth:
        lines.append(
            f"| {r['way']} | {100 * r['coverage']:.0f} % | {r['abs_rel']:.3f} | {r['within_1.25_of_all']:.3f} "
            f"| {r['abs_rel_where_sgbm']:.3f} | {r['within_1.25_where_sgbm']:.3f} "
            f"| {100 * r['coverage_elsewhere']:.0f} % | {_number(r['abs_rel_elsewhere'])} "
            f"| {r['within_1.25_elsewhere']:.3f} | {r['ms']:.0f} ({r['cpu_ms']:.0f}) | {r['memory_mb']:.0f} |"
        )
    rings = [f"{near:g}-{far:g}" for near, far in ROBOT.rings]
    heads = "".join(f" {ring} m: missed | unknown | ghosts |" for ring in rings)
    lines += ["", f"| occupancy |{heads} ms (CPU) | MB |", "|---|" + "---|" * (3 * len(rings) + 2)]
    for r in rows:
        if "rings" in r:
            cells = " | ".join(
                _percent(r["rings"][ring][what]) for ring in rings for what in ("missed", "unknown", "ghosts")
            )
            cost = f"{r['ms']:.0f} ({r['cpu_ms']:.0f}) | {r['memory_mb']:.0f}" if "ms" in r else " | "
            lines.append(f"| {r['way']} | {cells} | {cost} |")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "-"


def _percent(value: float | None) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{100 * value:.0f} %"


def compare(path: str, size: tuple[int, int], every: int, names: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each way."""
    sets = [each for each in read_drive(path, every) if each.truth]
    if not sets:
        raise SystemExit(f"{path}: no set after the first {FIRST} has a scan; nothing to measure with")
    true = np.concatenate([points[:, 2] for each in sets for points in each.truth])
    reference: np.ndarray | None = None
    rows: list[dict[str, Any]] = []
    context = multiprocessing.get_context("spawn")
    for name in names:
        with context.Pool(1) as pool:
            found = pool.apply(try_way, (name, size, path, every))
        row: dict[str, Any] = {
            "way": name,
            "ms": 1e3 * float(np.median(found.wall_s)),
            "cpu_ms": 1e3 * float(np.median(found.cpu_s)),
            "ms_quartiles": [1e3 * float(each) for each in np.quantile(found.wall_s, (0.25, 0.75))],
            "memory_mb": found.memory_mb,
            "sets": len(found.wall_s),
        }
        if found.estimates:
            estimate = np.concatenate(found.estimates)
            reference = np.isfinite(estimate) if name == SGBM else reference
            assert reference is not None  # it comes first
            row |= depth_row(estimate, true, reference)
            row["points"] = len(true)
        if found.robot is not None:
            of_scan = found.robot["truths"][LIDAR]
            row["rings"] = of_scan[MODEL]
            if not any(each["way"] == f"{FLAT} as voxels" for each in rows):
                rows.append({"way": f"{FLAT} as voxels", "rings": of_scan[FLAT_GROUND]})
        rows.append(row)
        print(f"{name}: {row['ms']:.1f} ms", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bag", required=True, help="rosbag2 with a stereo pair, odometry and lidar")
    parser.add_argument("--every", type=int, default=3, help="only each Nth set is measured (%(default)s)")
    parser.add_argument("--size", default="320x96", help="of the first stage's images, multiples of 16 (%(default)s)")
    parser.add_argument("--only", nargs="+", metavar="WAY", help=f"those whose names hold one of these, and {SGBM}")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    width, height = (int(each) for each in options.size.split("x"))
    config = load_depth_net(WEIGHTS / "tiny_matching.safetensors").config
    names = [
        name
        for name in all_ways((width, height), config.grid)
        if name == SGBM or not options.only or any(each in name for each in options.only)
    ]
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # of the processes that are timed, which read it when they start
    began = time.perf_counter()
    rows = compare(options.bag, (width, height), options.every, names)
    table = markdown(rows)
    print(table)
    if options.json:
        torch.set_num_threads(1)  # as in the processes that were timed
        shapes = {"bag": Path(options.bag).name, "size": [width, height], "every": options.every}
        write_report(options.json, shapes, rows, seconds=time.perf_counter() - began)
        options.json.with_suffix(".md").write_text(table)


if __name__ == "__main__":
    main()
