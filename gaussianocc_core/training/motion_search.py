# SPDX-License-Identifier: Apache-2.0
"""How far the rig went between frames: tried out against depth that is known by now.

The ego-motion network learns directions well and lengths badly: from a tenth away on, the photometric error of a road
no longer says which way, and what it does learn are the streets it has seen (on others, lengths were unrelated to the
true ones). Whatever depth then learns from that motion is wrong by as much. Depth is recognised from the image and
agrees over all streets; so a few lengths are tried, and the one that explains the frames best with that depth and with
the plane of the ground is used and taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaussianocc_core.geometry.cameras import scale_intrinsics
from gaussianocc_core.geometry.warp import interpolate_depth
from gaussianocc_core.training.ego import neighbour_motions
from gaussianocc_core.training.photometric import Photometric, reduce_images, shrink_mask, temporal_error
from gaussianocc_core.types import Cameras

# Of images of half the size: coarse enough for a basin, fine enough for a twentieth of the length.
_COMPARISON = Photometric(ssim_weight=1.0, l1_weight=0.15, levels=2, auto_mask=False)
_SHORTEST = 0.05  # m; differences of shorter motions do not count in full
_LEAST_SHARE = 0.01  # of the pixels; fewer say nothing
_LEAST_DIFFERENCE = 0.02  # between the worst length and the best, as a share of the error
_LEAST_ERROR = 1e-3
_LENGTHS = 7  # that are tried; for 1/1.4 to 1.4 they are 12 % apart, and a parabola finds what lies between

# Of what is taught against the photometric error, which pulls lengths the other way where a road says little.
_WEIGHT = 0.3


@dataclass(frozen=True)
class MotionSearch:
    """Which lengths are tried."""

    factor: float = 1.4  # from 1/1.4 to 1.4 times what the network says; 1: no search, as published

    RETIRED: ClassVar[dict[str, Any]] = {"steps": 7, "weight": 0.3}

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"length_search.factor: expected at least 1, got {self.factor}")


@dataclass(frozen=True)
class Guess:
    """Depth to try lengths against."""

    depth: Float[Tensor, "N H W"]  # z-depth, m
    counts: Bool[Tensor, "N H W"]  # pixels that have a say


@torch.no_grad()
def search_length(
    colors: Float[Tensor, "T N 3 H W"],
    guesses: Sequence[Guess],
    cameras: Cameras,
    T_target_now: Float[Tensor, "S 4 4"],
    settings: MotionSearch,
) -> Float[Tensor, ""]:
    """Factor on the translations, one for all neighbours, at which the frames are explained best; 1 without a guess.

    colours: now, then each neighbour; guesses: depth now; all count alike.
    """
    half = reduce_images(colors, 2)[-1]
    size, coarsest = half.shape[-2:], tuple(side // 2 ** (_COMPARISON.levels - 1) for side in half.shape[-2:])
    K = scale_intrinsics(cameras.intrinsics, 0.5, 0.5)
    reduced = [
        (interpolate_depth(each.depth, *size), shrink_mask(each.counts, *size))
        for each in guesses
        if shrink_mask(each.counts, *coarsest).float().mean() > _LEAST_SHARE
    ]
    if not reduced:
        return colors.new_ones(())
    step = 2.0 * log(settings.factor) / (_LENGTHS - 1)
    log_factors = (torch.arange(_LENGTHS, device=colors.device) - (_LENGTHS - 1) / 2) * step
    errors = []
    for factor in log_factors.exp():
        scaled = scale_length(T_target_now, factor)
        T_other_cam = neighbour_motions(scaled, cameras.T_ego_cam)
        each = (temporal_error(half[0], half[1:], z, K, T_other_cam, valid, _COMPARISON)[0] for z, valid in reduced)
        errors.append(torch.stack(list(each)).sum())
    error = torch.stack(errors)
    least = error.argmin()
    best = least.clamp(1, _LENGTHS - 2)
    below, at, above = error[best - 1], error[best], error[best + 1]
    bend = below - 2.0 * at + above  # of the parabola through the three
    vertex = best + (0.5 * (below - above) / bend).clamp(-1.0, 1.0)
    place = torch.where(bend > 0, vertex, least.to(vertex.dtype))
    found = ((place - (_LENGTHS - 1) / 2) * step).exp()
    # In the dark, in fog or at rest one length fits like another.
    tells = error.max() - error.min() > _LEAST_DIFFERENCE * error.min().clamp(min=_LEAST_ERROR)
    return torch.where(tells, found, torch.ones_like(found))


def as_long_as_depth_says(
    colors: Float[Tensor, "T N 3 H W"],
    guess: Guess,
    cameras: Cameras,
    T_target_now: Float[Tensor, "S 4 4"],
    settings: MotionSearch,
) -> Float[Tensor, "S 4 4"]:
    """Learnt motion as stage 2 takes it: directions of the motion network, lengths by depth that stays as it is."""
    return scale_length(T_target_now, search_length(colors, [guess], cameras, T_target_now, settings))


def scale_length(T_target_now: Float[Tensor, "S 4 4"], factor: Tensor | float) -> Float[Tensor, "S 4 4"]:
    """The motions with their translations times the factor."""
    rotation, translation, last = T_target_now[:, :3, :3], T_target_now[:, :3, 3:], T_target_now[:, 3:]
    return torch.cat([torch.cat([rotation, factor * translation], dim=2), last], dim=1)


def length_error(T_target_now: Float[Tensor, "S 4 4"], factor: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Weighted mean share by which the lengths differ from those that were found."""
    length = T_target_now[:, :3, 3].norm(dim=-1)
    found = factor * length.detach()
    return _WEIGHT * ((length - found).abs() / (found + _SHORTEST)).mean()
