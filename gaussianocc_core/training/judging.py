# SPDX-License-Identifier: Apache-2.0
"""Whether a run made its weights better, by measures that need no truth, on samples that it never saw.

The photometric error that training minimises does not tell: between neighbouring frames of a slow drive it falls while
depth gets worse (docs/history.md). What tells is depth that is measured without a network: by cameras that look the
same way, and by recorded motion, of points that are followed to where the rig was some way before. And where nothing
can be followed, whether depth there and here agree, and whether it explains the image there: a plane agrees with itself
everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from gaussianocc_core.data.history import with_history
from gaussianocc_core.data.sources import Entry
from gaussianocc_core.geometry.transforms import invert_matrix
from gaussianocc_core.geometry.triangulate import triangulate
from gaussianocc_core.geometry.warp import reproject, sample_pixels
from gaussianocc_core.training.loader import Batch, TrainingSet

# Measures by what the log and measures.json call them. These decide; less is better.
AGREES = "depth against what overlapping cameras measure, mean difference of logarithms (less is better)"
FOLLOWED = "depth against points that recorded motion measures, mean difference of logarithms (less is better)"
WITH_ITSELF = "depth against depth from some way before, median difference of logarithms (less is better)"
FROM_AFAR = "error of the frames some way before, standing still being 1 (less is better)"
DECIDES = (AGREES, FOLLOWED, WITH_ITSELF, FROM_AFAR)
# These are said only.
SCALE = "what overlapping cameras measure / depth, median (1 is metric)"
EXPLAINS = "error of the neighbouring frames, standing still being 1 (less is better)"
EXPECTED = "error that the network expects / found by overlapping cameras (1 is right, less is too sure)"
EXPECTED_FOLLOWED = "error that the network expects / found by points that recorded motion measures (1 is right)"
LENGTH = "learnt / recorded motion (1 is right)"
GROUND = "depth of the ground / where the base frame says it is (1 where that is the ground)"

_SAMPLES = 12
_LEAST_SAMPLES = 4
_NOTABLE = 0.05  # of the logarithm of the measures, their mean; truth and measures differ by as much
_LEAST_POINTS = 20  # of a sample
_MOST_OFF = 0.5  # difference of logarithms that a point may count with: some are followed wrongly
_SURE = 2.0  # standard errors
_MOST_TOO_SURE = 4.0
_NEAREST = 0.1  # m; what lies behind or in the other camera is not compared

Values = dict[str, list[float]]  # measure -> value of each sample; NaN where a sample has none


@dataclass(frozen=True)
class Seen:
    """A sample that training leaves out, and one from some way before it."""

    batch: Batch  # of one, as recorded
    before: Batch | None = None
    T_before_now: Float[Tensor, "4 4"] | None = None  # by recorded poses


def pair_up(entries: Sequence[Entry], data: TrainingSet, way: float, device: torch.device) -> list[Seen]:
    """Up to a dozen of the samples, evenly spread; those with one before them where there are enough.

    entries: of `data`, without any variation; way: to the sample before, m.
    """
    paired = with_history(entries, entries, (way,))
    places = {(each.scene, each.frame.camera_stamps_ns[0]): k for k, each in enumerate(entries)}
    having = [k for k, each in enumerate(paired) if each.history]
    chosen = having if len(having) >= _LEAST_SAMPLES else list(range(len(entries)))
    found = []
    for k in sorted({chosen[int(n)] for n in np.linspace(0, len(chosen) - 1, _SAMPLES).round()}):
        here, batch = paired[k], data[(0, k)].to(device)
        if not here.history or here.frame.T_world_ego is None:
            found.append(Seen(batch))
            continue
        frame = here.history[0][1]
        assert frame.T_world_ego is not None  # of the history all have poses
        T = invert_matrix(frame.T_world_ego[0]) @ here.frame.T_world_ego[0]
        before = data[(0, places[here.scene, frame.camera_stamps_ns[0]])].to(device)
        found.append(Seen(batch, before, torch.from_numpy(T).float().to(device)))
    return found


def disagreement(
    depth: Float[Tensor, "N H W"],
    depth_before: Float[Tensor, "N H W"],
    intrinsics: Float[Tensor, "N 3 3"],
    T_before_cam: Float[Tensor, "N 4 4"],
    valid: Bool[Tensor, "N H W"],
) -> float:
    """Median difference of the logarithms of z-depth now, carried to where the cameras were, and depth then; NaN where
    they share no view. Of what is hidden there, and of what moves, a median takes no notice."""
    pixels, z = reproject(depth, intrinsics, T_before_cam, intrinsics)
    height, width = depth.shape[-2:]
    inside = (pixels >= 0).all(dim=-1) & (pixels[..., 0] < width) & (pixels[..., 1] < height)
    there = sample_pixels(depth_before[:, None], pixels)[:, 0]
    shared = valid & inside & (z > _NEAREST)
    if not bool(shared.any()):
        return math.nan
    return float((z[shared].log() - there[shared].log()).abs().median())


def against_points(
    depth: Float[Tensor, "N H W"],
    log_error: Float[Tensor, "N H W"] | None,
    now: UInt8[Tensor, "N 3 H W"],
    before: UInt8[Tensor, "N 3 H W"],
    intrinsics: Float[Tensor, "N 3 3"],
    T_before_cam: Float[Tensor, "N 4 4"],
    valid: Bool[Tensor, "N H W"],
) -> tuple[float, float]:
    """Mean difference of the logarithms of z-depth and of what `triangulate` measures, and what the network expected it
    to be (log_error), as a share of it; NaN where too little is measured, or nothing was expected."""
    off: list[float] = []
    expected: list[float] = []
    images = [each.permute(0, 2, 3, 1).contiguous().cpu().numpy() for each in (now, before)]
    K, T = (each.double().cpu().numpy() for each in (intrinsics, T_before_cam))
    for n in range(len(depth)):
        pixels, z = triangulate(images[0][n], images[1][n], K[n], T[n], valid[n].cpu().numpy())
        if len(z):
            places = torch.from_numpy(pixels).to(depth)[None, None]  # (1, 1, M, 2)
            said = sample_pixels(depth[n][None, None], places)[0, 0, 0]
            off += (said.log().cpu() - torch.from_numpy(z).log()).abs().clamp(max=_MOST_OFF).tolist()
            if log_error is not None:
                expected += sample_pixels(log_error[n].exp()[None, None], places)[0, 0, 0].cpu().tolist()
    if len(off) < _LEAST_POINTS:
        return math.nan, math.nan
    return sum(off) / len(off), sum(expected) / sum(off) if expected and sum(off) else math.nan


def means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Of the samples that have a value."""
    return {name: float(np.nanmean(each)) for name, each in values.items() if not np.isnan(each).all()}


@dataclass(frozen=True)
class Comparison:
    """Of the weights at the end of a run with those that it began with."""

    change: float  # mean logarithm of end / start over measures and samples; above 0: worse
    error: float  # its standard error
    samples: int

    @property
    def better(self) -> str:
        """Which weights are: "start" or "end", or "" where that cannot be told."""
        if self.samples < _LEAST_SAMPLES or abs(self.change) <= max(_NOTABLE, _SURE * self.error):
            return ""
        return "start" if self.change > 0 else "end"


def compare(start: Mapping[str, Sequence[float]], end: Mapping[str, Sequence[float]]) -> Comparison:
    """By the measures that decide, sample by sample; each measure counts alike."""
    rows = []
    for name in DECIDES:
        before, after = (np.array(values.get(name, ()), np.float64) for values in (start, end))
        if len(before) and len(before) == len(after):
            with np.errstate(divide="ignore", invalid="ignore"):
                rows.append(np.log(after / before))
    if not rows:
        return Comparison(0.0, math.inf, 0)
    table = np.array(rows)
    table[~np.isfinite(table)] = np.nan
    told = table[:, ~np.isnan(table).all(axis=0)]
    changes = np.nanmean(told, axis=0) if told.size else np.zeros(0)
    if len(changes) < 2:
        return Comparison(0.0, math.inf, len(changes))
    return Comparison(float(changes.mean()), float(changes.std(ddof=1)) / len(changes) ** 0.5, len(changes))


def overconfidence(start: Mapping[str, Sequence[float]], end: Mapping[str, Sequence[float]]) -> float:
    """How many times as wrong as the network expects its depth is; 1: as expected, or nobody can tell.

    start: of the weights that the run began with, whose expectation is taken to be right, so that the errors of what
    measures count in neither; empty: of fresh weights, for which these errors count as the network's.
    """
    told = []
    for name in (EXPECTED, EXPECTED_FOLLOWED):
        before, after = (np.array(values.get(name, ()), np.float64) for values in (start, end))
        before, after = (np.log(each[each > 0]) for each in (before, after))  # NaN is not
        if len(after) >= _LEAST_SAMPLES and (len(before) >= _LEAST_SAMPLES or not start):
            told.append((before.mean() if start else 0.0) - after.mean())
    return float(np.exp(np.clip(np.mean(told), 0.0, math.log(_MOST_TOO_SURE)))) if told else 1.0


def describe(start: dict[str, float], end: dict[str, float]) -> str:
    """The measures that decide, for one line of the log."""
    short = {
        AGREES: "depth against overlapping cameras",
        FOLLOWED: "against points that motion measures",
        WITH_ITSELF: "against itself from some way before",
        FROM_AFAR: "frames from some way before",
    }
    known = [(short[name], start[name], end[name]) for name in DECIDES if name in start and name in end]
    return ", ".join(f"{name} {before:.3f} -> {after:.3f}" for name, before, after in known)
