# SPDX-License-Identifier: Apache-2.0
"""How far a camera's rays were seen to pass: what clears obstacles that have left, also where nothing stands behind."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8

from gaussianocc_core.labels import OCCLUDED, free_label
from gaussianocc_core.navigation.traversability import Traversability
from gaussianocc_core.types import EQUIDISTANT, Cameras, OccupancyPrediction

REACH = 20.0  # m; farther rays would lie so far apart that a voxel can stand between two
# What is not known this near to a lens stops no ray: no voxel so near is all in view, but a ray that is seen to pass
# beyond has come through. Something that was found there does stop it.
_LENS = 1.5  # m
_FINEST = 0.1  # m, of voxels that every ray may hit; there are 26,000 rays at 0.4 m, and 16 times as many at this
_SHORT = 0.25  # voxels by which a ray ends before what stops it: its end must not lie in a cell of that


def passed_rays(
    prediction: OccupancyPrediction, cameras: Cameras, index: int, rule: Traversability, phase: float = 0.0
) -> Float[np.ndarray, "P 3"]:
    """Ends of the rays of one camera that passed through free voxels only, ego frame, m.

    cameras: at their image's time; their lens distortion is left out. Rays cover every voxel between the heights of
    `rule` within `REACH`. One that leaves the heights, the grid or the reach ends there, others before the first voxel
    that is not known to be free. Rays that do not come out of the lens' surroundings are left out.

    phase: 0 to 1, where between the directions of phase 0 the rays lie. A costmap's lines are one cell wide, and what
    those of one phase pass by, those of others meet.
    """
    from gaussianocc_core.geometry.raymarch import march_labels  # imports Numba

    grid, size = prediction.grid, prediction.grid.voxel_size
    T_ego_cam = cameras.T_ego_cam[index].double().cpu().numpy()
    lens = T_ego_cam[:3, 3]
    low, high = rule.low - size, rule.high + size
    directions = _in_view(_fan(float(lens[2]), low, high, max(size, _FINEST), phase), cameras, index, T_ego_cam)
    free = free_label(prediction.class_names)
    met = march_labels(lens, directions, _open_around(lens, prediction, free), grid, free)
    length = np.where(met.hit, met.entry - _SHORT * size, met.exit)
    with np.errstate(divide="ignore"):  # to where it leaves the heights
        leaves = (np.where(directions[:, 2] > 0, high, low) - lens[2]) / directions[:, 2]
    length = np.minimum(length, np.minimum(np.where(leaves > 0, leaves, np.inf), REACH))
    # A ray that ends where nothing is known near the lens was not seen to come through.
    kept = np.isfinite(met.entry) & (length > max(2 * size, _LENS + size))
    return lens + length[kept, None] * directions[kept]


def _open_around(
    lens: Float[np.ndarray, " 3"], prediction: OccupancyPrediction, free: int
) -> UInt8[np.ndarray, "X Y Z"]:
    """The labels, with what is not known near the lens as free."""
    grid, labels = prediction.grid, prediction.labels.copy()
    at = (lens - grid.origin) / grid.voxel_size
    reach = _LENS / grid.voxel_size
    ends = zip(at, labels.shape, strict=True)
    near = tuple(slice(*np.clip((int(a - reach), int(a + reach) + 1), 0, n).tolist()) for a, n in ends)
    offsets = (each + 0.5 - a for each, a in zip(np.ogrid[near], at, strict=True))
    distance = np.sqrt(sum(each**2 for each in offsets))
    labels[near][(distance < reach) & (labels[near] >= OCCLUDED)] = free
    return labels


def _fan(lens_height: float, low: float, high: float, size: float, phase: float) -> Float[np.ndarray, "R 3"]:
    """Unit directions around the ego's z axis, half a voxel apart at `REACH` sideways, and up and down half a voxel
    apart at most wherever they are between the heights."""
    step = 0.5 * size / REACH
    around = np.arange(0.0, 2 * np.pi, step) + phase * step
    slopes = [0.0]
    for way in (max(lens_height - low, size), -max(high - lens_height, size)):  # down, then up
        slope, steepest = 0.0, np.sign(way) * 2.0
        while abs(slope) < abs(steepest):
            # A ray of this slope is between the heights up to way / slope.
            gap = np.sign(way) * 0.5 * size / min(abs(way / slope) if slope else np.inf, REACH)
            slope += gap
            slopes.append(-slope + phase * gap)
    flat = np.stack([np.cos(around), np.sin(around)], axis=-1)
    fan = np.concatenate([np.insert(flat, 2, slope, axis=1) for slope in slopes])
    return fan / np.linalg.norm(fan, axis=1, keepdims=True)


def _in_view(
    directions: Float[np.ndarray, "R 3"], cameras: Cameras, index: int, T_ego_cam: Float[np.ndarray, "4 4"]
) -> Float[np.ndarray, "P 3"]:
    x, y, z = (directions @ T_ego_cam[:3, :3]).T
    across = np.hypot(x, y)
    if cameras.model[index] == EQUIDISTANT:
        scale = np.arctan2(across, z) / np.maximum(across, 1e-9)
    else:
        scale = 1.0 / np.maximum(z, 1e-9)
    K = cameras.intrinsics[index].double().cpu().numpy()
    u, v = K[0, 0] * scale * x + K[0, 2], K[1, 1] * scale * y + K[1, 2]
    inside = (u >= 0) & (u < cameras.width[index]) & (v >= 0) & (v < cameras.height[index])
    if cameras.model[index] != EQUIDISTANT:
        inside &= z > 1e-3
    return directions[inside]
