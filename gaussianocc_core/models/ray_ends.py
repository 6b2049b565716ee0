# SPDX-License-Identifier: Apache-2.0
"""What depth says of space: where each ray of an image ends, and how far it passes. Measured on held-out streets:

* A ray does not end at a point. Its end spreads over its expected error; it passes what lies before that, and says
  nothing of what lies behind.
* A ray whose end is uncertain by metres ends nowhere. It still passes what lies clearly in front.
* A pixel at the edge of a near thing often has a depth between the near thing and the far one: such a ray ends nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

_SKY = np.float32(1e6)  # m


@dataclass(frozen=True)
class EndSettings:
    """How sure an end must be."""

    spread: float = 1.5  # a ray ends within so many times its expected error
    least_half: float = 0.2  # m, of what it ends within
    reach: float = 2.0  # m, of that, beyond which it ends nowhere
    edge: float = 0.15  # step of inverse depth, as a share of it, that marks the edge of a near thing

    def __post_init__(self) -> None:
        if min(self.spread, self.least_half) <= 0:
            raise ValueError(f"ends of rays: expected spread and least_half above 0, got {self}")


@dataclass(frozen=True)
class RayEnds:
    """As `geometry.ray_counts.add_rays` takes them, for N images."""

    depth: Float[np.ndarray, "N h w"]  # m: where a ray ends; of one that ends nowhere, how far it passes
    half: Float[np.ndarray, "N h w"]  # m: it ends within depth -+ half; 0: nowhere


def place_ends(
    depth: Float[np.ndarray, "N h w"],
    error: Float[np.ndarray, "N h w"],
    known: Bool[np.ndarray, "N h w"],
    sky: Bool[np.ndarray, "N h w"] | None = None,
    settings: EndSettings = EndSettings(),
) -> RayEnds:
    """depth: z-depth, m; error: expected, of log depth; known: cells of which depth is; sky: where there is nothing."""
    half = np.maximum(settings.spread * error * depth, settings.least_half).astype(np.float32)
    edge = find_edges(depth, settings.edge)
    ends = known & ~edge & (half <= settings.reach)
    # Of log depth, because an error of more than half does not put a thing behind the camera.
    passes = depth * np.exp(-settings.spread * error)
    passes = np.where(edge, np.minimum(passes, _nearest_around(passes)), passes)
    if sky is not None:
        ends &= ~sky
        passes = np.where(sky, _SKY, passes)
    return RayEnds(np.where(ends, depth, passes).astype(np.float32), np.where(ends, half, np.float32(0.0)))


def find_edges(depth: Float[np.ndarray, "N h w"], step: float) -> Bool[np.ndarray, "N h w"]:
    """Cells between a near thing and a far one, in a row or in a column: inverse depth makes a step, and is even on
    both sides of it. Over a plane, such as the ground at a slant, it has no such sides."""
    rho = 1.0 / np.maximum(depth, 1e-3)
    found = np.zeros(depth.shape, dtype=bool)
    for axis in (1, 2):
        a = np.moveaxis(rho, axis, -1)
        if a.shape[-1] < 5:
            continue
        far_left, left, here, right, far_right = (a[..., k : a.shape[-1] - 4 + k] for k in range(5))
        between = (here - left) * (right - here) > 0
        jump = np.abs(right - left)
        sides = np.abs(far_right - right) + np.abs(left - far_left)
        edge = np.zeros(a.shape, dtype=bool)
        edge[..., 2:-2] = between & (jump > step * here) & (sides < 0.5 * jump)
        found |= np.moveaxis(edge, -1, axis)
    return found


def _nearest_around(maps: Float[np.ndarray, "N h w"]) -> Float[np.ndarray, "N h w"]:
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)), mode="edge")
    return np.minimum.reduce(
        [padded[:, 1:-1, 1:-1], padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]]
    )


__all__ = ["EndSettings", "RayEnds", "find_edges", "place_ends"]
