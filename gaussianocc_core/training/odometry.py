# SPDX-License-Identifier: Apache-2.0
"""Recorded motion in stage 1: what it teaches the ego-motion network, and whether the images agree with it.

Odometry is often a little too long (a worn wheel, a wrong radius), sometimes late or of another clock, and where it is
wrong depth would be wrong by as much. So before a run a few samples are looked at: does the recorded motion explain the
images, and at which length best, with a depth that knows nothing of odometry? And where turns begin or end, and the
robot starts or stops: would earlier or later poses explain them better, or turns the other way?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gaussianocc_core.training.ego import neighbour_motions
from gaussianocc_core.training.ground import plane_depth
from gaussianocc_core.training.loader import Batch
from gaussianocc_core.training.motion_search import Guess, scale_length
from gaussianocc_core.training.photometric import Photometric, temporal_error
from gaussianocc_core.training.stereo import Measured
from gaussianocc_core.training.view import View

_SHORTEST = 0.05  # m; errors of shorter motions do not count in full
_LENGTH_WEIGHT, _TURN_WEIGHT = 0.3, 3.0  # of the share of the length, and of radians
# Lengths that are tried, times the recorded one. One sample's best errs by some hundredths, that of all by one or two.
LOG_FACTORS = np.linspace(-np.log(2.0), np.log(2.0), 29)
_COMPARISON = Photometric(ssim_weight=1.0, l1_weight=0.15, levels=2, auto_mask=False)
_STILL = 0.01  # m; of such a motion images say nothing
_LEAST_SAMPLES = 4
_NOTABLE = 0.03  # of the length; below, the cameras may as well be wrong
_DRIFT = 0.08  # difference between the halves of the recordings
# s that stamps of poses may be late by. Without 0 in the middle nothing would be compared.
DELAYS_S = np.round(np.arange(-0.4, 0.41, 0.1), 1)
LEAST_SHOWN = 0.0015  # rad in the images by 200 ms; a delay that changes less teaches nothing wrong
_LEAST_DELAY = 0.05  # s
_LEAST_GAIN = 0.01  # of the error of standing still, that a delay must explain more than none
_SURE = 3.0  # standard errors


def motion_error(learnt: Float[Tensor, "S 4 4"], recorded: Float[Tensor, "S 4 4"]) -> Float[Tensor, ""]:
    """What recorded motion teaches the ego-motion network, which serves where there is no odometry."""
    apart = (learnt[:, :3, 3] - recorded[:, :3, 3]).norm(dim=-1)
    length = recorded[:, :3, 3].norm(dim=-1) + _SHORTEST
    turn = (learnt[:, :3, :3] - recorded[:, :3, :3]).flatten(1).norm(dim=-1) / 2**0.5  # of small turns: the angle
    return (_LENGTH_WEIGHT * apart / length + _TURN_WEIGHT * turn).mean()


def compare_lengths(learnt: Float[Tensor, "S 4 4"], recorded: Float[Tensor, "S 4 4"]) -> dict[str, Tensor]:
    """For the watch on a run: logarithm of learnt / recorded length; nothing where none is recorded, or at rest."""
    theirs = recorded[:, :3, 3].norm(dim=-1).mean()
    if not bool(torch.isfinite(theirs)) or float(theirs) < _STILL:
        return {}
    ours = learnt[:, :3, 3].detach().norm(dim=-1).mean()
    return {"motion_off": (ours.clamp(min=1e-4) / theirs).log()}


@dataclass(frozen=True)
class OdometryTrial:
    """What one sample says of its recorded motion."""

    length: float  # m to the neighbours, mean
    errors: Float[np.ndarray, " F"]  # of the frames carried over at each of LOG_FACTORS, standing still having 1

    @property
    def explains(self) -> bool:
        """Whether the recorded motion does better than standing still."""
        return bool(self.errors[len(self.errors) // 2] < 1.0)


@torch.no_grad()
def try_odometry(view: View, guess: Guess, T_target_now: Float[Tensor, "S 4 4"]) -> OdometryTrial | None:
    """guess: depth that owes nothing to odometry; None for a sample that hardly moves."""
    length = float(T_target_now[:, :3, 3].norm(dim=-1).mean())
    if length < _STILL:
        return None

    still = _error(view, guess, torch.eye(4).to(T_target_now).expand_as(T_target_now))
    errors = [_error(view, guess, scale_length(T_target_now, float(np.exp(each)))) for each in LOG_FACTORS]
    return OdometryTrial(length, np.array(errors) / max(still, 1e-6))


def _error(view: View, guess: Guess, T_target_now: Float[Tensor, "S 4 4"]) -> float:
    """Of the neighbouring frames, carried over by this motion."""
    T_other_cam = neighbour_motions(T_target_now, view.cameras.T_ego_cam)
    K = view.cameras.intrinsics
    return float(temporal_error(view.now, view.around, guess.depth, K, T_other_cam, guess.counts, _COMPARISON)[0])


def best_factor(trials: Sequence[OdometryTrial]) -> tuple[float, float]:
    """Logarithm of the length at which all samples together are explained best, and its standard error (jackknife)."""
    return _best(np.array([trial.errors for trial in trials]), LOG_FACTORS)


def _best(curves: Float[np.ndarray, "T F"], places: Float[np.ndarray, " F"]) -> tuple[float, float]:
    """Where the mean of the curves is least, and the standard error of that (jackknife over the curves)."""
    without = np.array([_vertex(curves[np.arange(len(curves)) != k].mean(axis=0), places) for k in range(len(curves))])
    spread = float(((without - without.mean()) ** 2).sum() * (len(curves) - 1) / len(curves)) ** 0.5
    return _vertex(curves.mean(axis=0), places), spread


def _vertex(errors: Float[np.ndarray, " F"], places: Float[np.ndarray, " F"]) -> float:
    """Where the parabola through the least of the errors and those beside it is least."""
    k = int(np.clip(errors.argmin(), 1, len(errors) - 2))
    below, at, above = errors[k - 1 : k + 2]
    bend = below - 2.0 * at + above
    move = float(np.clip(0.5 * (below - above) / bend, -1.0, 1.0)) if bend > 0 else 0.0
    return float(places[k] + move * (places[1] - places[0]))


# ---- when, and which way -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shifted:
    """A sample whose motion changes, and that motion if stamps of poses were late by each of DELAYS_S."""

    batch: Batch  # of one
    motions: Float[Tensor, "D S 4 4"]


@dataclass(frozen=True)
class ShiftTrial:
    """What one such sample says, standing still having the error 1."""

    errors: Float[np.ndarray, " D"]  # at each of DELAYS_S
    reversed: float  # if it turned the other way


@torch.no_grad()
def try_shifts(view: View, guess: Guess, motions: Float[Tensor, "D S 4 4"]) -> ShiftTrial:
    """guess: as in `try_odometry`."""
    as_it_is = motions[len(DELAYS_S) // 2]
    other_way = as_it_is.clone()
    other_way[:, :3, :3] = as_it_is[:, :3, :3].mT
    still = max(_error(view, guess, torch.eye(4).to(motions).expand_as(as_it_is)), 1e-6)
    errors = np.array([_error(view, guess, each) for each in motions])
    return ShiftTrial(errors / still, _error(view, guess, other_way) / still)


def find_fault(trials: Sequence[ShiftTrial]) -> str:
    """What is wrong with the stamps or the turns of odometry, for the log; "": nothing that the images show."""
    if len(trials) < _LEAST_SAMPLES:
        return ""
    curves, middle = np.array([trial.errors for trial in trials]), len(DELAYS_S) // 2
    as_it_is, best = curves[:, middle], curves[:, int(curves.mean(axis=0).argmin())]
    reverse = np.array([trial.reversed for trial in trials])
    turned = as_it_is - reverse
    if turned.mean() > _SURE * _standard_error(turned) and reverse.mean() < best.mean():
        return (
            f"it turns the other way than the images, in {int((turned > 0).sum())} of {len(trials)} samples: mend the "
            "sign of its yaw, or the frame that its poses are in"
        )
    late, error = _best(curves, DELAYS_S)
    gain = as_it_is - best
    # Most samples lie before or after what changes, and say nothing: so also without the one that says it most.
    if abs(late) < max(_LEAST_DELAY, _SURE * error) or gain.sum() - gain.max() < _LEAST_GAIN * len(gain):
        return ""
    earlier = "later" if late > 0 else "earlier"
    return (
        f"its stamps are {1000 * abs(late):.0f} ms (+- {1000 * error:.0f}) {earlier} than those of the images, by "
        f"{len(trials)} samples where turns or speed change: stamp it when it is measured, or synchronise the clocks"
    )


def _standard_error(values: Float[np.ndarray, " T"]) -> float:
    return max(float(values.std(ddof=1)) / len(values) ** 0.5, 1e-4)


# ---- the last word -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Witness:
    """Of the scale, beside odometry."""

    name: str
    error: float  # standard deviation of the logarithm of the lengths that it says, the same for all samples


CAMERAS = Witness("what overlapping cameras measure", 0.015)  # of their calibration
# Roads are cambered and hilly, robots sink and pitch: on a synthetic street it had lengths 5 % off (2026-11).
GROUND = Witness("the height of the cameras over the ground", 0.04)


@dataclass(frozen=True)
class Verdict:
    """On the odometry of a run."""

    used: bool
    factor: float  # on its lengths
    line: str  # for the log


def find_witness(view: View, depth: Float[Tensor, "N H W"], measured: Measured | None) -> tuple[Guess, Witness | None]:
    """Depth to try recorded motion with, and what it has its scale from; depth: of the network, m."""
    if measured is not None:
        return Guess(measured.depth, measured.known), CAMERAS
    if view.ground is not None and view.ground.says_scale():
        plane = plane_depth(view.ground.plane())
        return Guess(plane, view.valid & view.ground.is_shown(depth, 1.0 / plane)), GROUND
    return Guess(depth, view.valid), None


def judge_odometry(
    trials: Sequence[OdometryTrial], witness: Witness | None, required: str = "", fault: str = ""
) -> Verdict:
    """trials: in the order of the recordings.

    witness: what knows the scale beside odometry, None where nothing does, so that odometry has the last word.
    required: why it is used whatever is found, "" where it need not be. fault: of `find_fault`.
    """
    if len(trials) < _LEAST_SAMPLES:
        return Verdict(True, 1.0, f"ego motion: recorded; only {len(trials)} samples move, too few to check it")
    explains = sum(trial.explains for trial in trials)
    of = f"{explains} of {len(trials)} samples"
    wrong = f"recorded motion does not fit the images: {fault}" if fault else ""
    if explains < 0.5 * len(trials):
        wrong = (
            f"recorded motion explains the images better than standing still in only {of}: another frame, axis, sign "
            "or clock"
        )
    if wrong and required:
        return Verdict(True, 1.0, f"ego motion: {wrong}; it is used all the same, {required}")
    if wrong:
        return Verdict(False, 1.0, f"ego motion: {wrong}; it is not used, motion is learnt from the images")
    text = f"ego motion: recorded; it explains the images in {of}"
    if witness is None:
        return Verdict(True, 1.0, f"{text}, and it says the scale")
    log_factor, spread = best_factor(trials)
    error = float(np.hypot(spread, witness.error))
    half = len(trials) // 2
    (early, error_early), (late, error_late) = best_factor(trials[:half]), best_factor(trials[half:])
    if abs(late - early) > max(_DRIFT, 2.0 * float(np.hypot(error_early, error_late))):
        text += f"; against {witness.name} it grows by {100 * (np.exp(early - late) - 1):+.0f} % over the recordings"
    length = f"{np.exp(-log_factor):.2f}"
    if abs(log_factor) > max(_NOTABLE, 2.0 * error):
        return Verdict(
            True,
            float(np.exp(log_factor)),
            f"{text}; it is {length} times (+- {error:.2f}) as long as by {witness.name}, which has the scale: lengths "
            f"are taken times {np.exp(log_factor):.2f}",
        )
    return Verdict(True, 1.0, f"{text}, and agrees with {witness.name} about the scale ({length} +- {error:.2f})")


@torch.no_grad()
def examine(
    batches: Sequence[Batch],
    shifted: Sequence[Shifted],
    recorded: Callable[[Batch], Float[Tensor, "B S 4 4"]],
    look: Callable[[Batch, Float[Tensor, "B S 4 4"]], list[tuple[View, Guess, Witness | None]]],
    required: str = "",
) -> Verdict:
    """Whether the images agree with recorded motion.

    batches: in the recordings' order; shifted: where a delay would show; recorded: the motion of a batch, NaN where
    there is none; look: by a batch and its motion, each sample and what `find_witness` says of it; required: as in
    `judge_odometry`.
    """
    trials: list[OdometryTrial] = []
    witnesses: set[Witness | None] = set()
    known = count = 0
    for batch in batches:
        motions = recorded(batch)
        has = torch.isfinite(motions).flatten(1).all(dim=1)
        count, known = count + len(has), known + int(has.sum())
        if not bool(has.any()):
            continue
        for (view, guess, witness), T_target_now, there in zip(look(batch, motions), motions, has, strict=True):
            trial = try_odometry(view, guess, T_target_now) if bool(there) else None
            if trial is not None:
                trials.append(trial)
                witnesses.add(witness)
    if not known:
        return Verdict(False, 1.0, "ego motion: none is recorded; it is learnt from the images")
    shifts = []
    for each in shifted:
        ((view, guess, _),) = look(each.batch, recorded(each.batch))
        shifts.append(try_shifts(view, guess, each.motions))
    verdict = judge_odometry(trials, witnesses.pop() if len(witnesses) == 1 else None, required, find_fault(shifts))
    some = f"; {count - known} of {count} samples have no poses, their motion is learnt" if known < count else ""
    return replace(verdict, line=verdict.line + some)
