# SPDX-License-Identifier: Apache-2.0
"""The common factor of depth and motion: searched by the cross-view error, and at last part of the model file."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.models.pose_net import PoseNet
from gaussianocc_core.training.cross_view import compare_overlaps
from gaussianocc_core.training.photometric import Photometric
from gaussianocc_core.types import Cameras

CANDIDATES = 33  # factors that are tried, evenly spaced in their logarithms: for 1/3 to 3, 7 % apart
# A factor must pay for itself: its error counts as (1 + cost log^2 factor) times as much. Where depth is still wrong,
# errors are about the same everywhere, and the least of them says nothing.
_COST = 0.2


@dataclass(frozen=True)
class Probe:
    """One sample, as the cameras would draw each other's views if everything were a factor larger."""

    colors: Float[Tensor, "N 3 H W"]
    depth: Float[Tensor, "N H W"]  # m
    scale: Float[Tensor, "N H W"]  # m, of the pixels' Gaussians
    placed: Sequence[Cameras]  # for each factor: where each camera was at its own image time
    masks: Bool[Tensor, "N N H W"]  # valid pixels of the first camera that the second sees too


def log_factors(largest: float) -> Float[Tensor, " F"]:
    """Logarithms of the factors that are tried, from 1/largest to largest."""
    return torch.linspace(-1, 1, CANDIDATES) * log(largest)


def add_errors(
    found: Float[Tensor, "2 F"], probes: Sequence[Probe], factors: Float[Tensor, " F"], settings: Photometric, seed: int
) -> None:
    """Adds, in place, the sum of the cross-view errors at each factor, and the number of pixels that they are of."""
    for k, log_factor in enumerate(factors):
        torch.manual_seed(seed)  # the same sides of the overlaps for every factor
        for probe in probes:
            sums = compare_overlaps(
                probe.colors, probe.depth * log_factor.exp(), probe.scale, probe.placed[k], probe.masks, settings
            )
            found[:, k] += torch.stack(sums)


@dataclass(frozen=True)
class ScaleFound:
    log_factor: float  # on what the networks say; 0: nothing was found
    line: str  # for the log


def choose_scale(sums: Float[Tensor, "2 F"], factors: Float[Tensor, " F"]) -> ScaleFound:
    """The factor of least error, of what `add_errors` summed over the search."""
    errors, counts = sums
    if not bool(counts.any()):
        return ScaleFound(0.0, "scale: not found, no camera sees what another one sends; do they overlap?")
    # At a wrong scale hardly anything may be drawn, and that little by chance fit.
    errors = torch.where(counts > 0.5 * counts.max(), errors / counts.clamp(min=1.0), torch.inf)
    chosen = int((errors * (1.0 + _COST * factors.to(errors.device) ** 2)).argmin())
    best = factors[chosen]
    return ScaleFound(
        float(best),
        f"scale: cross-view error is least at {best.exp():.2f} times the depth so far "
        f"({errors[chosen]:.3f}, without a change {errors[len(errors) // 2]:.3f})",
    )


@torch.no_grad()
def fold_scale(pose_net: PoseNet, factor: float, config: ModelConfig) -> tuple[PoseNet, ModelConfig]:
    """Builds a learnt factor into translation and depth range, so that a model file needs no word of it.

    The network that is passed stays as it is: training goes on from it, to the last bit.
    """
    pose_net = copy.deepcopy(pose_net)
    last = pose_net.head[-1]
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    for tensor in (last.weight, last.bias):
        rows = tensor.view(2, 6, *tensor.shape[1:])  # two motions of axis-angle and translation
        rows[:, 3:] *= factor
    lengths = {name: factor * getattr(config.depth, name) for name in ("near", "far", "first", "ground")}
    return pose_net, replace(config, depth=replace(config.depth, **lengths))
