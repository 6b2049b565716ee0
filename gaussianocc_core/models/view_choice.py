# SPDX-License-Identifier: Apache-2.0
"""Which views a camera is matched with: by how much they share and how far apart they see it, not by their number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

# Why a view is not used; "" where it is.
USED, NO_OVERLAP, NO_PARALLAX, ENOUGH = "", "shares too little", "no parallax", "others serve better"


@dataclass(frozen=True)
class ViewSettings:
    """How views are chosen. Lengths in the image are shares of its width, so that they hold for any size."""

    earlier: int = 2  # most views of the camera's own past
    neighbours: int = 2  # most other cameras of the same moment
    earlier_neighbours: int = 1  # most other cameras of the past
    least_overlap: float = 0.06  # of the rays between the depths that are tried
    # Shift of a point at `middle` against one far away. Below the least a view says nothing; from `good` on, more of it
    # is no better, and what both share counts.
    least_parallax: float = 0.004
    good_parallax: float = 0.04
    middle: float = 10.0  # m

    def __post_init__(self) -> None:
        if min(self.earlier, self.neighbours, self.earlier_neighbours) < 0 or not self.middle > 0:
            raise ValueError("views: expected counts of at least 0 and middle above 0 m")
        if not 0 < self.least_parallax <= self.good_parallax or not 0 <= self.least_overlap < 1:
            raise ValueError(
                "views: expected 0 < least_parallax <= good_parallax and least_overlap in 0-1, got "
                f"{self.least_parallax}, {self.good_parallax}, {self.least_overlap}"
            )


_DEPTHS = (1.5, 4.0, 10.0, 40.0)  # m, at which overlap is tried
_ROWS, _COLUMNS = 6, 9  # of the rays that are tried


@dataclass(frozen=True)
class Candidates:
    """M views that N reference cameras may be matched with; all of one image size."""

    K_reference: Float[np.ndarray, "N 3 3"]
    T_ego_reference: Float[np.ndarray, "N 4 4"]  # ego frame now, each at its own image time, m
    K: Float[np.ndarray, "M 3 3"]
    T_ego_cam: Float[np.ndarray, "M 4 4"]  # in the same ego frame; NaN: unknown, the view is not used
    camera: Int[np.ndarray, " M"]  # which of the N it is
    moment: Int[np.ndarray, " M"]  # 0: now, 1: the set before, ...


@dataclass(frozen=True)
class ViewChoice:
    """Which candidates serve which reference, and why the others do not."""

    used: Bool[np.ndarray, "N M"]
    reason: np.ndarray  # (N, M) of str, one of the constants of this module; "" where used
    T_source_reference: Float[np.ndarray, "N M 4 4"]
    parallax: Float[np.ndarray, "N M"]  # at `middle`, as a share of the image's width


def choose_views(
    candidates: Candidates, width: int, height: int, settings: ViewSettings = ViewSettings()
) -> ViewChoice:
    """The best views of each reference of each kind: own past, other cameras now, other cameras before."""
    c = candidates
    T_source_ego = _inverse(c.T_ego_cam)
    T = T_source_ego[None] @ c.T_ego_reference[:, None]  # (N, M, 4, 4)
    u, v = np.meshgrid((np.arange(_COLUMNS) + 0.5) / _COLUMNS * width, (np.arange(_ROWS) + 0.5) / _ROWS * height)
    pixels = np.stack([u.ravel(), v.ravel(), np.ones(u.size)])  # (3, Q)
    rays = np.linalg.inv(c.K_reference) @ pixels  # (N, 3, Q)
    turned = c.K[None] @ T[..., :3, :3] @ rays[:, None]  # (N, M, 3, Q)
    moved = c.K[None] @ T[..., :3, 3:]  # (N, M, 3, 1)

    def look(inv_depth: float) -> tuple[np.ndarray, np.ndarray]:
        x, y, z = np.moveaxis(turned + moved * inv_depth, 2, 0)
        ahead = z > 1e-3
        z = np.where(ahead, z, 1.0)
        where = np.stack([x / z, y / z])
        return where, ahead & (where[0] >= 0) & (where[0] < width) & (where[1] >= 0) & (where[1] < height)

    with np.errstate(invalid="ignore"):
        seen = [look(1.0 / depth)[1] for depth in _DEPTHS]
        overlap = np.mean(seen, axis=(0, -1))
        near, sees = look(1.0 / settings.middle)
        far, _ = look(0.0)
        shift = np.where(sees, np.hypot(*(near - far)), 0.0)
        parallax = shift.sum(axis=-1) / np.maximum(sees.sum(axis=-1), 1) / width
        # What is seen at another depth only still has a parallax: that of the baseline.
        baseline = np.linalg.norm(T[..., :3, 3], axis=-1)
        parallax = np.where(sees.any(axis=-1), parallax, baseline / settings.middle * c.K[None, :, 0, 0] / width)
    # Another camera that has not moved since shows what it shows now.
    known = c.camera >= 0
    moved_since = np.linalg.norm(c.T_ego_cam[:, :3, 3] - c.T_ego_reference[np.maximum(c.camera, 0), :3, 3], axis=-1)
    with np.errstate(invalid="ignore"):
        stays = known & (moved_since / settings.middle * c.K[:, 0, 0] / width < settings.least_parallax)
    same_camera = np.arange(len(c.K_reference))[:, None] == c.camera[None]
    now = (c.moment == 0)[None]
    possible = np.isfinite(T).all(axis=(-1, -2)) & ~(same_camera & now)
    reason = np.full(possible.shape, ENOUGH, dtype=object)
    reason[~possible | (overlap < settings.least_overlap)] = NO_OVERLAP
    still = ~(parallax >= settings.least_parallax) | (stays & (c.moment > 0))[None]
    still &= possible & (overlap >= settings.least_overlap)
    reason[still] = NO_PARALLAX
    score = overlap * np.minimum(parallax / settings.good_parallax, 1.0)
    score = np.where(reason == ENOUGH, score, 0.0)
    used = np.zeros(possible.shape, dtype=bool)
    for kind, most in (
        (same_camera & ~now, settings.earlier),
        (~same_camera & now, settings.neighbours),
        (~same_camera & ~now, settings.earlier_neighbours),
    ):
        ranked = np.where(kind, score, 0.0)
        order = np.argsort(-ranked, axis=1, kind="stable")[:, :most]
        chosen = np.zeros_like(used)
        np.put_along_axis(chosen, order, np.take_along_axis(ranked, order, axis=1) > 0, axis=1)
        used |= chosen
    reason[used] = USED
    return ViewChoice(used, reason, T, parallax)


def _inverse(T: Float[np.ndarray, "*shape 4 4"]) -> Float[np.ndarray, "*shape 4 4"]:
    """Of rigid motions."""
    out = np.zeros_like(T)
    rotation = np.swapaxes(T[..., :3, :3], -1, -2)
    out[..., :3, :3] = rotation
    out[..., :3, 3:] = -rotation @ T[..., :3, 3:]
    out[..., 3, 3] = 1.0
    return out


__all__ = ["ENOUGH", "NO_OVERLAP", "NO_PARALLAX", "USED", "Candidates", "ViewChoice", "ViewSettings", "choose_views"]
