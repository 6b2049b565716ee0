# SPDX-License-Identifier: Apache-2.0
"""How the rig turned between two sets, made exact by the images: odometry that is a degree off shifts far things by
pixels, and then no depth explains them.

A few small turns are tried, one axis after the other, and the one under which the views agree best at any depth is
kept. All cameras share it, so that a side camera's shift, which another depth explains as well, is settled by the
others. How far the rig went is not tried: another depth explains that.

A correction is a rotation of the present ego frame, as a 4 x 4 matrix without a way: `corrected` applies it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from gaussianocc_core.geometry.cameras import pair_matrix
from gaussianocc_core.geometry.transforms import take_share
from gaussianocc_core.models.matching import GROUPS, Pairs, sweep_planes

_THINNING = 3  # of the reference's cells per side; odd, so that a cell's centre is that of a coarser one
_PLANES = 2  # every so many planes are tried
_SEEN = 0.3  # share of the planes that a view must see, for a pixel to have a say
_SETTLED = 0.35  # of the step between turns that are tried, by which the best of them may lie beside the given motion
_PITCH, _YAW = 1, 2  # axes of the ego frame


@dataclass(frozen=True)
class RefinementSettings:
    """Which turns are tried, about the ego frame's axes."""

    yaw: float = 1.2  # degrees, most that is tried; 0: none
    pitch: float = 0.8
    steps: int = 5  # turns per axis, odd
    least_gain: float = 0.004  # of the mean agreement (a cosine), or the motion stays as it was given

    def __post_init__(self) -> None:
        if self.steps < 3 or self.steps % 2 == 0 or min(self.yaw, self.pitch, self.least_gain) < 0:
            raise ValueError(f"refinement: expected odd steps of at least 3 and angles of at least 0, got {self}")


@dataclass(frozen=True)
class PairCameras:
    """Where the cameras of P pairs are in the ego frames of their moments (m), and their intrinsics (px); float64."""

    K_reference: Float[Tensor, "P 3 3"]
    K_source: Float[Tensor, "P 3 3"]
    T_ego_reference: Float[Tensor, "P 4 4"]
    T_ego_source: Float[Tensor, "P 4 4"]

    def matrices(self, T_now_then: Float[Tensor, "4 4"]) -> Float[Tensor, "P 3 4"]:
        """`Pairs.matrix`, for this place of the earlier ego frame in the present one, m."""
        T = torch.linalg.inv(T_now_then @ self.T_ego_source) @ self.T_ego_reference
        return pair_matrix(self.K_reference, self.K_source, T).float()


@torch.no_grad()
def refine_turn(
    references: Float[Tensor, "R C h w"],
    sources: Float[Tensor, "S C H W"],
    pairs: Pairs,
    cameras: PairCameras,
    T_now_then: Float[Tensor, "4 4"],
    inv_depths: Float[Tensor, " D"],
    strides: tuple[float, float],
    settings: RefinementSettings = RefinementSettings(),
) -> Float[Tensor, "4 4"]:
    """The correction under which the views fit best; the identity where the motion that was given does as well.

    pairs: with one earlier set; `matrix` is not read. strides: image pixels per cell of references and sources.
    """
    offset = _THINNING // 2
    thin = references[:, :, offset::_THINNING, offset::_THINNING]
    planes = inv_depths[::_PLANES].contiguous()
    coarse = (strides[0] * _THINNING, strides[1])

    def agreement(turn: Float[Tensor, "4 4"]) -> float:
        matrix = cameras.matrices(corrected(T_now_then, turn))
        volume, seen = sweep_planes(thin, sources, replace(pairs, matrix=matrix), planes, coarse)
        best = volume.unflatten(1, (GROUPS, -1)).amax(dim=2)
        weight = (seen > _SEEN).float()
        return float((best * weight).sum() / weight.sum().clamp(min=1.0))

    def search(turn: Float[Tensor, "4 4"], axis: int, most: float, steps: int) -> tuple[Float[Tensor, "4 4"], float]:
        middle = steps // 2
        angles = [most * (k - middle) / middle for k in range(steps)]
        values = [agreement(_turn(axis, angle) @ turn) for angle in angles]
        k = max(range(steps), key=values.__getitem__)
        angle = angles[k]
        if 0 < k < steps - 1:
            bend = 2.0 * values[k] - values[k - 1] - values[k + 1]  # of the parabola through the three
            if bend > 0:
                angle += (angles[1] - angles[0]) * max(-0.5, min(0.5, (values[k + 1] - values[k - 1]) / (2.0 * bend)))
        return _turn(axis, angle) @ turn, values[middle]

    def holds(axis: int, most: float, here: float) -> bool:
        """Whether a turn either way is worse, and the best of the parabola through the three lies at the middle."""
        step = most / (settings.steps // 2)
        less, more = (agreement(_turn(axis, angle)) for angle in (-step, step))
        bend = 2.0 * here - less - more
        return here > max(less, more) and abs(more - less) < 2.0 * _SETTLED * bend

    none = torch.eye(4, dtype=T_now_then.dtype)
    if not settings.yaw:
        return none
    # Most odometry is right: that is seen at a third of what the search costs.
    here = agreement(none)
    if holds(_YAW, settings.yaw, here) and (not settings.pitch or holds(_PITCH, settings.pitch, here)):
        return none
    best, start = search(none, _YAW, settings.yaw, settings.steps)
    if settings.pitch:
        best, _ = search(best, _PITCH, settings.pitch, settings.steps)
    best, _ = search(best, _YAW, settings.yaw / settings.steps, 3)
    return best if agreement(best) - start >= settings.least_gain else none


def corrected(T_now_then: Float[Tensor, "4 4"], turn: Float[Tensor, "4 4"]) -> Float[Tensor, "4 4"]:
    """The motion with a correction; whether the rig turned before its way or after is not known, so that the way gets
    half of it."""
    half = take_share(turn, turn.new_tensor(0.5))
    result = half @ T_now_then
    result[:3, :3] = half[:3, :3] @ result[:3, :3]
    return result


def degrees(turn: Float[Tensor, "4 4"]) -> float:
    cosine = (float(torch.trace(turn[:3, :3])) - 1.0) / 2.0
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def _turn(axis: int, angle: float) -> Float[Tensor, "4 4"]:
    """By so many degrees."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    i, j = ((1, 2), (2, 0), (0, 1))[axis]
    turn = torch.eye(4, dtype=torch.float64)
    turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
    return turn
