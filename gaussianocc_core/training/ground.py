# SPDX-License-Identifier: Apache-2.0
"""The plane z = 0 of the ego frame as the cameras see it: where depth starts, and what knows the scale.

A depth head that starts from the plane says its depth before it has learnt anything. Motion can learn its length from
that, and the height of the cameras over the ground resists when depth and motion would shrink together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaussianocc_core.geometry.ground_plane import ground_inv_depth
from gaussianocc_core.models.depth_net import DepthHead
from gaussianocc_core.models.matching_net import MatchingHead
from gaussianocc_core.types import Cameras

_ABOUT_THE_PLANE = 0.25  # difference of log depths
_FARTHEST = 1e-3  # 1/m


@dataclass(frozen=True)
class Ground:
    """The plane in N cameras, and how a depth head takes it."""

    inv_depth: Float[Tensor, "N H W"]  # of z = 0, 1/m; 0: above the horizon
    factor: float  # on its depth, in what fresh weights say
    metric: bool  # whether the ground is there, so that it has the scale
    first_inv_depth: float  # of the largest depth that untrained weights predict, 1/m

    def plane(self, scale: Tensor | float = 1.0) -> Float[Tensor, "N H W"]:
        """Inverse depth of the ground, 1/m.

        scale: learnt factor on what the head says; of no effect where the plane has a scale of its own.
        """
        return self.inv_depth if self.metric else self.inv_depth / (self.factor * scale)

    def in_reach(self) -> Bool[Tensor, "N H W"]:
        """Pixels of which fresh weights say what they know, the plane's depth, well within their farthest."""
        return self.plane() > 2.0 * self.first_inv_depth

    def in_reach_or_all(self) -> Bool[Tensor, "N H W"]:
        """The same, and all pixels where there are none of the kind."""
        reach = self.in_reach()
        return reach if bool(reach.any()) else torch.ones_like(reach)

    def is_shown(self, depth: Float[Tensor, "N H W"], plane: Float[Tensor, "N H W"]) -> Bool[Tensor, "N H W"]:
        """Pixels of which the network says about what the plane does; they teach motion its length."""
        return self.in_reach_or_all() & ((depth * plane).log().abs() < _ABOUT_THE_PLANE)

    def says_scale(self) -> bool:
        """Whether the height of the cameras over the ground does, which is the better witness.

        What depth still gets wrong, the cross-view error prefers to see nearer than it is: over whole runs its least
        was at 0.87 to 0.93 of a scale that was right (measured 2026-11), and depth grew back as soon as it might.
        """
        return self.metric and bool(self.in_reach().any())

    def select(self, indices: list[int]) -> Ground:
        """Of some of the cameras."""
        return replace(self, inv_depth=self.inv_depth[indices])


def ground_of(head: DepthHead | MatchingHead | None, cameras: Cameras) -> Ground | None:
    """The ground in cameras of one size without a leading dimension; None where the head does not start from it."""
    if head is None or not head.ground:
        return None
    size = cameras.width[0], cameras.height[0]
    inv_depth = ground_inv_depth(cameras.intrinsics, cameras.T_ego_cam, *size, stride=1)
    return Ground(inv_depth, head.ground, head.metric_ground, head.first_inv_depth)


def plane_depth(plane: Float[Tensor, "N H W"]) -> Float[Tensor, "N H W"]:
    """z-depth (m) of an inverse depth that may be 0: as far as a kilometre."""
    return 1.0 / plane.clamp(min=_FARTHEST)


def compare_ground(
    depth: Float[Tensor, "N H W"], plane: Float[Tensor, "N H W"], counts: Bool[Tensor, "N H W"]
) -> dict[str, Tensor]:
    """For the watch on a run: logarithm of the depth over that of the plane, the median; nothing where none is seen.

    plane: inverse depth, 1/m; counts: pixels that have a say.
    """
    if not bool(counts.any()):
        return {}
    return {"ground_off": (depth.detach() * plane)[counts].log().median()}
