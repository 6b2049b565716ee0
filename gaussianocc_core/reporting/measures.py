# SPDX-License-Identifier: Apache-2.0
"""What can be said of a model on a recording that has no truth: whether what it says agrees with itself, with two
cameras' own measurement, with odometry, with the ground, and with where the robot then drove.

Nothing here proves that a model is right. Each measure finds one way of being wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from gaussianocc_core.evaluation.ego_motion import MotionScores
from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry.overlap import overlap_masks, overlapping_pairs
from gaussianocc_core.geometry.transforms import invert_matrix
from gaussianocc_core.labels import CLASS_NAMES, FREE, OCCLUDED, ONE_CLASS
from gaussianocc_core.metrics.robot import RobotConfig, RobotScores, obstacle_voxels, path_ahead
from gaussianocc_core.predictor import Prediction
from gaussianocc_core.training.stereo import stereo_pairs
from gaussianocc_core.types import Cameras, VoxelGrid
from gaussianocc_core.viewer.moment import Moment

NEAR = 10.0  # m: what a robot must know of
_FARTHEST = 30.0  # m of depth that counts where depths are compared
_GROUND_WITHIN = 12.0  # m around the robot
_GROUND_BAND = 0.5  # m above and below z = 0, in which points are taken for ground at first
_LEAST_POINTS = 200


@dataclass(frozen=True)
class MomentMeasures:
    """Of one moment; None where it could not be measured."""

    overlap: float | None  # median |log of the ratio of depths| of two cameras that see the same point
    stereo: float | None  # the same, of the depth network and of semi-global matching between two cameras
    ground_height: float | None  # m, of the ground that depth shows, over z = 0 under the robot
    ground_tilt: float | None  # degrees
    confidence: float | None  # mean, of occupied voxels
    unknown_near: float  # share of what cameras see within NEAR that is hidden


def measure_moment(
    moment: Moment, prediction: Prediction, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]
) -> MomentMeasures:
    """images: of the moment's cameras, in their order, all of their size."""
    occupied = moment.labels < FREE
    confidence = float(moment.confidence[occupied].mean()) if occupied.any() else None
    near = _within(moment.grid, NEAR)[..., None] & (moment.labels <= OCCLUDED)
    unknown = float((moment.labels[near] == OCCLUDED).mean()) if near.any() else 1.0
    overlap = stereo = height = tilt = None
    if prediction.field.inv_depth is not None:
        inv_depth = prediction.field.inv_depth[0].float().cpu()
        cameras = camera_geometry.resize(
            prediction.views.to(dtype=torch.float32), inv_depth.shape[2], inv_depth.shape[1]
        )
        depth = 1.0 / inv_depth.clamp(min=1e-3)
        overlap = compare_overlap(depth, cameras)
        height, tilt = fit_ground(depth, cameras)
        stereo = _stereo(depth, moment.cameras, images)
    return MomentMeasures(overlap, stereo, height, tilt, confidence, unknown)


def compare_overlap(depth: Float[Tensor, "N h w"], cameras: Cameras) -> float | None:
    """Over the pixels of each camera whose point another one sees as well, and neither beyond _FARTHEST."""
    count, height, width = depth.shape
    points = camera_geometry.unproject(depth, cameras.intrinsics, cameras.T_ego_cam).reshape(count, -1, 3)
    found = []
    for i in range(count):
        pixels, z = camera_geometry.project(points[i], cameras.intrinsics, cameras.T_ego_cam)
        seen = camera_geometry.in_view(pixels, z, width, height) & (z < _FARTHEST) & (depth[i].flatten() < _FARTHEST)
        for j in range(count):
            if j == i or int(seen[j].sum()) < _LEAST_POINTS // 4:
                continue
            u, v = pixels[j][seen[j]].long().unbind(-1)
            found.append((depth[j][v, u] / z[j][seen[j]]).log().abs())
    return float(torch.cat(found).median()) if found else None


def _stereo(depth: Float[Tensor, "N h w"], cameras: Cameras, images: Sequence[np.ndarray]) -> float | None:
    measured = measure_stereo(cameras, images)
    if not measured:
        return None
    off = []
    for n, stereo in measured.items():
        own = cv2.resize(depth[n].numpy(), stereo.shape[::-1], interpolation=cv2.INTER_LINEAR)
        known = (stereo > 0) & (stereo < _FARTHEST)
        off.append(np.abs(np.log(own[known] / stereo[known])))
    together = np.concatenate(off)
    return float(np.median(together)) if len(together) >= _LEAST_POINTS else None


def measure_stereo(
    cameras: Cameras, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]
) -> dict[int, Float[np.ndarray, "H W"]]:
    """z-depth (m, 0 where unknown) by classical stereo of the cameras that have a partner; pinholes of one size."""
    near = camera_geometry.resize(cameras, cameras.width[0] // 4, cameras.height[0] // 4)
    masks = overlap_masks(near.to(dtype=torch.float32))
    if not overlapping_pairs(masks):
        return {}
    found: dict[int, np.ndarray] = {}
    for (i, j), plan in stereo_pairs(cameras, masks).items():
        depth, _ = plan.measure(images[i], images[j])
        if i not in found:
            found[i] = depth
        else:
            found[i] = np.where(found[i] > 0, found[i], depth)
    return found


def fit_ground(depth: Float[Tensor, "N h w"], cameras: Cameras) -> tuple[float | None, float | None]:
    """Height (m) under the robot and tilt (degrees) of the plane through what lies low around it."""
    points = camera_geometry.unproject(depth, cameras.intrinsics, cameras.T_ego_cam).reshape(-1, 3).double().numpy()
    points = points[np.hypot(points[:, 0], points[:, 1]) < _GROUND_WITHIN]
    points = points[np.abs(points[:, 2]) < _GROUND_BAND]
    plane, keep = np.zeros(3), np.ones(len(points), dtype=bool)
    for _ in range(5):
        if keep.sum() < _LEAST_POINTS:
            return None, None
        rows = np.column_stack([points[keep, :2], np.ones(keep.sum())])
        plane, *_ = np.linalg.lstsq(rows, points[keep, 2], rcond=None)
        off = np.abs(points[:, :2] @ plane[:2] + plane[2] - points[:, 2])
        keep = off < max(0.05, 2.0 * float(np.median(off)))
    return float(plane[2]), float(np.degrees(np.arctan(np.hypot(*plane[:2]))))


def vanished(before: Moment, now: Moment, T_before: np.ndarray, T_now: np.ndarray, robot: RobotConfig) -> float | None:
    """Of the obstacle voxels of the moment before within 2 * NEAR, the share that is now published as free, with
    nothing occupied around it. T: poses of both in a frame that stands still."""
    index = np.argwhere(_obstacles(before, robot))
    points = np.array(before.grid.origin) + (index + 0.5) * before.grid.voxel_size
    points = points[np.hypot(points[:, 0], points[:, 1]) < 2 * NEAR]
    T = invert_matrix(T_now) @ T_before
    moved = points @ T[:3, :3].T + T[:3, 3]
    place = np.floor((moved - np.array(now.grid.origin)) / now.grid.voxel_size).astype(int)
    place = place[((place >= 0) & (place < np.array(now.grid.shape))).all(axis=1)]
    if len(place) < 20:
        return None
    occupied = np.pad(now.labels < FREE, 1)
    around = np.zeros_like(now.labels, dtype=bool)
    for step in np.ndindex(3, 3, 3):
        around |= occupied[tuple(slice(s, s + size) for s, size in zip(step, now.labels.shape, strict=True))]
    labels, something = now.labels[tuple(place.T)], around[tuple(place.T)]
    known = (labels <= FREE) | something
    return float(((labels == FREE) & ~something)[known].mean()) if known.sum() >= 20 else None


def _obstacles(moment: Moment, robot: RobotConfig) -> Bool[np.ndarray, "X Y Z"]:
    labels, names = in_names(moment)
    return obstacle_voxels(labels, moment.grid, robot, names)


def in_names(moment: Moment) -> tuple[UInt8[np.ndarray, "X Y Z"], tuple[str, ...]]:
    """Labels and the classes they are of: of a model without classes its own two, so that heights tell the ground."""
    if not moment.classless:
        return moment.labels, CLASS_NAMES
    one = np.where(moment.labels < FREE, np.uint8(0), np.where(moment.labels == FREE, np.uint8(1), moment.labels))
    return one, ONE_CLASS


class DriveMeasures:
    """What shows only over several moments; fed in time order."""

    def __init__(self, grid: VoxelGrid, robot: RobotConfig) -> None:
        self.robot, self._grid = robot, grid
        self.paths = RobotScores(grid, robot)
        self.motion = MotionScores()
        self.vanished: list[float] = []
        self.lost = self.tracked = 0

    def drove(self, moment: Moment, poses: Sequence[np.ndarray | None], number: int) -> bool | None:
        """Whether an obstacle stands on the path that was then driven; None where too little of that is known."""
        here = poses[number]
        following = [pose for pose in poses[number + 1 :] if pose is not None]
        path = None if here is None else path_ahead(following, here, self.robot.path_length)
        if path is None:
            return None
        labels, names = in_names(moment)
        before = int(self.paths.moments[2])
        self.paths.update(labels, None, path, names)
        return int(self.paths.moments[2]) > before

    def compare_motion(
        self, walked: Sequence[np.ndarray | None], recorded: Sequence[np.ndarray | None], stamps_ns: Sequence[int]
    ) -> None:
        """Motion over about a second: by the images, and as recorded."""
        first = 0
        for k in range(1, len(stamps_ns)):
            a, b, c, d = walked[first], walked[k], recorded[first], recorded[k]
            if a is None or b is None or c is None or d is None:
                first = k
                continue
            gap = 1e-9 * (stamps_ns[k] - stamps_ns[first])
            if gap >= 1.0:
                self.motion.update((invert_matrix(b) @ a)[None], (invert_matrix(d) @ c)[None], np.array([gap]))
                first = k


def _within(grid: VoxelGrid, limit: float) -> Bool[np.ndarray, "X Y"]:
    x, y = (grid.origin[axis] + (np.arange(grid.shape[axis]) + 0.5) * grid.voxel_size for axis in range(2))
    return np.hypot(x[:, None], y[None]) < limit
