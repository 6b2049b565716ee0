# SPDX-License-Identifier: Apache-2.0
"""Rays into labels: which voxels of one moment's grid rays end in, and which they pass.

What makes the labels right, each measured on held-out streets:
* A ray does not end at a point (`models/ray_ends.py`).
* Rays reach the ground at a slant: each passes several voxels that hold ground before it ends in one. So the counts are
  kept in cells that are flatter than a voxel, and a voxel is occupied where one of its cells is.
* Solid things stay unknown inside, and so does what no ray reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, UInt8

from gaussianocc_core.geometry.transforms import invert_matrix
from gaussianocc_core.labels import CLASS_NAMES, FREE, IGNORE, UNOBSERVED
from gaussianocc_core.mapping.sets import DepthMaps, PlacedSet, RaySet
from gaussianocc_core.models.ray_ends import EndSettings, place_ends
from gaussianocc_core.types import VoxelGrid

ANYTHING = 0  # the class of what is occupied where nothing says more: "others"


_NO_RAY = 0.01  # share of a cell's rays that end there by the spread of their ends alone


@dataclass(frozen=True)
class CarveSettings:
    """How rays become labels."""

    window: float = 2.0  # s before and after a moment, from which sets are used
    most_sets: int = 32  # of them, evenly over the window, the moment's own always
    # A wider spread than at run time: on real streets the network is surer of its depth than it should be.
    ends: EndSettings = field(default_factory=lambda: EndSettings(spread=2.0))
    layers: int = 4  # cells on top of each other in a voxel
    least_share: float = 0.1  # of a cell's rays that end in it, against those that pass, for it to be occupied
    least_ends: float = 0.2  # rays
    least_passes: float = 1.0  # rays, for a cell to be free
    least_free: float = 0.5  # share of a voxel's cells that are free, for it to be free
    # What moves: sets this near in time have the last word where they know, s. 0: all sets count alike.
    moment: float = 0.25
    moment_ends: float = 0.25  # share of a cell's rays of those sets, from which on something is there now
    moment_passes: float = 3.0  # rays of those sets, of which none may end there, for what others saw to be gone

    def __post_init__(self) -> None:
        if not self.window >= 0 or self.most_sets < 1 or self.layers < 1:
            raise ValueError(f"carving: expected window of at least 0, most_sets and layers of at least 1, got {self}")


@dataclass(frozen=True)
class CarvedLabels:
    """One moment; arrays over the grid, in the ego frame of the anchor camera's image."""

    token: str
    stamp_s: float
    semantics: UInt8[np.ndarray, "X Y Z"]  # class ids, 17 free, 255 unknown
    sets: int  # that it was carved from

    @property
    def known(self) -> Bool[np.ndarray, "X Y Z"]:
        return self.semantics != UNOBSERVED


def make_rays(placed: PlacedSet, maps: DepthMaps, settings: CarveSettings = CarveSettings()) -> RaySet:
    """The rays of a set, one for each cell of its depth maps."""
    seen, cameras = placed.seen, placed.cameras
    height, width = maps.depth.shape[1:]
    full_height, full_width = seen.valid.shape[1:]
    # Cell centres in the full image: labels are not averaged.
    rows = ((np.arange(height) + 0.5) * full_height / height).astype(int)
    columns = ((np.arange(width) + 0.5) * full_width / width).astype(int)
    valid = seen.valid[:, rows][:, :, columns]
    classes = np.full(maps.depth.shape, IGNORE, np.uint8)
    if seen.classes is not None:
        classes = np.ascontiguousarray(seen.classes[:, rows][:, :, columns])
    sky = classes == FREE
    depth = maps.depth.astype(np.float32)
    known = valid & ((depth > 0) | sky)
    ends = place_ends(depth, np.exp(maps.log_error), known, sky, settings.ends)
    K = cameras.intrinsics.double().numpy()
    sx, sy = width / full_width, height / full_height
    lenses = np.stack([K[:, 0, 0] * sx, K[:, 1, 1] * sy, K[:, 0, 2] * sx, K[:, 1, 2] * sy], axis=1)
    labels = seen.T_world_labels
    return RaySet(
        token=seen.token,
        stamp_s=seen.stamp_s,
        T_world_ego=placed.T_world_ego,
        run=placed.run,
        T_ego_cam=cameras.T_ego_cam.double().numpy(),
        lenses=lenses,
        depth=ends.depth,
        half=ends.half,
        weight=known.astype(np.float32),
        classes=classes,
        T_ego_labels=None if labels is None or seen.T_world_ego is None else invert_matrix(seen.T_world_ego) @ labels,
    )


def choose_sets(around: Sequence[RaySet], moment: RaySet, settings: CarveSettings = CarveSettings()) -> list[RaySet]:
    """Those of a moment's run and window, thinned evenly."""
    near = [each for each in around if each.run == moment.run and abs(each.stamp_s - moment.stamp_s) <= settings.window]
    if len(near) <= settings.most_sets:
        return near
    places = np.unique(np.linspace(0, len(near) - 1, settings.most_sets).round().astype(int))
    return [each for k, each in enumerate(near) if k in places or each is moment]


def carve(
    sets: Sequence[RaySet],
    moment: RaySet,
    grid: VoxelGrid,
    settings: CarveSettings = CarveSettings(),
    T_ego_grid: Float[np.ndarray, "4 4"] | None = None,
) -> CarvedLabels:
    """What the sets say of the grid in the moment's ego frame; T_ego_grid: in another frame beside it, m.

    The sets must be of the moment's run.
    """
    from gaussianocc_core.geometry import ray_counts  # here: it imports numba

    layers = settings.layers
    X, Y, Z = grid.shape
    counts = np.zeros((X, Y, Z * layers, ray_counts.COUNTS), np.float32)
    of_moment = np.zeros_like(counts)
    votes = np.zeros((*grid.shape, FREE), np.float32)
    low = np.array(grid.origin, dtype=np.float64)
    size = np.array([grid.voxel_size, grid.voxel_size, grid.voxel_size / layers])
    T_world_grid = moment.T_world_ego if T_ego_grid is None else moment.T_world_ego @ T_ego_grid
    T_grid_world = invert_matrix(T_world_grid)
    no_wrap, no_fresh = np.zeros(3, dtype=np.int64), np.zeros((0, 0, 0, ray_counts.COUNTS), np.float32)
    for each in sets:
        T = T_grid_world @ each.T_world_ego @ each.T_ego_cam
        into = of_moment if abs(each.stamp_s - moment.stamp_s) <= settings.moment else counts
        for n in range(len(each.T_ego_cam)):
            ray_counts.add_rays(
                T[n], each.lenses[n], each.depth[n], each.half[n], each.weight[n], each.classes[n],
                low, size, layers, no_wrap, into, no_fresh, votes,
            )  # fmt: skip
    counts += of_moment
    return CarvedLabels(moment.token, moment.stamp_s, decide(counts, votes, settings, of_moment), len(sets))


def decide(
    counts: Float[np.ndarray, "X Y L C"],
    votes: Float[np.ndarray, "X Y Z K"],
    settings: CarveSettings,
    of_moment: Float[np.ndarray, "X Y L C"] | None = None,
) -> UInt8[np.ndarray, "X Y Z"]:
    """Classes of voxels: occupied where rays end in one of its cells, free where rays pass through enough of them, else
    unknown. of_moment: those of the counts that are of the moment itself, by which what moves is where it is now."""
    from gaussianocc_core.geometry.ray_counts import ENDS, PASSES

    ends, passes = counts[..., ENDS], counts[..., PASSES]
    shape = (*votes.shape[:3], settings.layers)
    full = (ends >= settings.least_ends) & (ends >= settings.least_share * (ends + passes))
    if of_moment is not None and settings.moment > 0:
        now, passed = of_moment[..., ENDS], of_moment[..., PASSES]
        full &= ~((passed >= settings.moment_passes) & (now <= _NO_RAY * passed))
        full |= (now >= settings.least_ends) & (now >= settings.moment_ends * (now + passed))
    occupied = full.reshape(shape).any(axis=-1)
    free = (passes >= settings.least_passes).reshape(shape).mean(axis=-1) >= settings.least_free
    labels = np.full(votes.shape[:3], UNOBSERVED, np.uint8)
    labels[free] = FREE
    labels[occupied] = vote(votes, occupied)[occupied]
    return labels


def vote(votes: Float[np.ndarray, "X Y Z K"], occupied: Bool[np.ndarray, "X Y Z"]) -> UInt8[np.ndarray, "X Y Z"]:
    """The class that most rays say, of a voxel without any that of the voxels around it, else `ANYTHING`."""
    total = votes.sum(axis=-1)
    classes = np.where(total > 0, votes.argmax(axis=-1), ANYTHING).astype(np.uint8)
    places = np.argwhere(occupied & (total <= 0))
    if len(places) and total.any():
        low, high = np.maximum(places - 1, 0), np.minimum(places + 2, occupied.shape)
        for (i, j, k), a, b in zip(places, low, high, strict=True):
            around = votes[a[0] : b[0], a[1] : b[1], a[2] : b[2]].sum(axis=(0, 1, 2))
            if around.any():
                classes[i, j, k] = around.argmax()
    return classes


assert CLASS_NAMES[ANYTHING] == "others"

__all__ = ["ANYTHING", "CarveSettings", "CarvedLabels", "carve", "choose_sets", "make_rays"]
