# SPDX-License-Identifier: Apache-2.0
"""Recorded motion in stage 1: what it teaches the ego-motion network, and whether the images agree with it.

Odometry is often a little too long (a worn wheel, a wrong radius), sometimes late or of another clock, and where it is
wrong depth would be wrong by as much. So before a run a few samples are looked at: does the recorded motion explain the
images, and at which length best, with a depth that knows nothing of odometry?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gaussianocc_core.training.ego import neighbour_motions
from gaussianocc_core.training.motion_search import Guess, scale_length
from gaussianocc_core.training.photometric import Photometric, temporal_error
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

    def error(T: Float[Tensor, "S 4 4"]) -> float:
        T_other_cam = neighbour_motions(T, view.cameras.T_ego_cam)
        return float(
            temporal_error(
                view.now, view.around, guess.depth, view.cameras.intrinsics, T_other_cam, guess.counts, _COMPARISON
            )[0]
        )

    still = error(torch.eye(4).to(T_target_now).expand_as(T_target_now))
    errors = [error(scale_length(T_target_now, float(np.exp(each)))) for each in LOG_FACTORS]
    return OdometryTrial(length, np.array(errors) / max(still, 1e-6))


def best_factor(trials: Sequence[OdometryTrial]) -> tuple[float, float]:
    """Logarithm of the length at which all samples together are explained best, and its standard error (jackknife)."""
    curves = np.array([trial.errors for trial in trials])
    without = np.array([_vertex(curves[np.arange(len(curves)) != k].mean(axis=0)) for k in range(len(curves))])
    spread = float(((without - without.mean()) ** 2).sum() * (len(curves) - 1) / len(curves)) ** 0.5
    return _vertex(curves.mean(axis=0)), spread


def _vertex(errors: Float[np.ndarray, " F"]) -> float:
    """Where the parabola through the least of the errors and those beside it is least."""
    k = int(np.clip(errors.argmin(), 1, len(errors) - 2))
    below, at, above = errors[k - 1 : k + 2]
    bend = below - 2.0 * at + above
    move = float(np.clip(0.5 * (below - above) / bend, -1.0, 1.0)) if bend > 0 else 0.0
    return float(LOG_FACTORS[k] + move * (LOG_FACTORS[1] - LOG_FACTORS[0]))


@dataclass(frozen=True)
class Verdict:
    """On the odometry of a run."""

    used: bool
    factor: float  # on its lengths
    line: str  # for the log


def judge_odometry(trials: Sequence[OdometryTrial], witness: str, required: bool) -> Verdict:
    """trials: in the order of the recordings.

    witness: what knows the scale beside odometry, "" where nothing does, so that odometry has the last word. required:
    the configuration says that it is used.
    """
    if len(trials) < _LEAST_SAMPLES:
        return Verdict(True, 1.0, f"ego motion: recorded; only {len(trials)} samples move, too few to check it")
    explains = sum(trial.explains for trial in trials)
    of = f"{explains} of {len(trials)} samples"
    if explains < 0.5 * len(trials):
        wrong = f"recorded motion explains the images better than standing still in only {of}: another frame or clock"
        if required:
            return Verdict(True, 1.0, f"ego motion: {wrong}; it is used all the same, as gsp.ego_motion=sensor says")
        return Verdict(False, 1.0, f"ego motion: {wrong}; it is not used, motion is learnt from the images")
    text = f"ego motion: recorded; it explains the images in {of}"
    if not witness:
        return Verdict(True, 1.0, f"{text}, and it says the scale")
    log_factor, error = best_factor(trials)
    half = len(trials) // 2
    (early, error_early), (late, error_late) = best_factor(trials[:half]), best_factor(trials[half:])
    if abs(late - early) > max(_DRIFT, 2.0 * float(np.hypot(error_early, error_late))):
        text += f"; against {witness} it grows by {100 * (np.exp(early - late) - 1):+.0f} % over the recordings"
    if abs(log_factor) > max(_NOTABLE, 2.0 * error):
        return Verdict(
            True,
            float(np.exp(log_factor)),
            f"{text}; it is {np.exp(-log_factor):.2f} times (+- {error:.2f}) as long as by {witness}, which has the "
            f"scale: lengths are taken times {np.exp(log_factor):.2f}",
        )
    return Verdict(
        True, 1.0, f"{text}, and agrees with {witness} about the scale ({np.exp(-log_factor):.2f} +- {error:.2f})"
    )
