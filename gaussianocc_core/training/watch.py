# SPDX-License-Identifier: Apache-2.0
"""Whether a run of stage 1 has collapsed, by witnesses that no loss can talk to.

Depth and motion can shrink together while every loss falls: nothing over time resists. What two cameras measure, the
ground under the robot and recorded poses do not shrink along, and a motion that falls to a tenth of what it was is no
motion of the robot. A mean over some tens of steps is compared, and must be beyond its limit for some steps more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gaussianocc_core.errors import GaussianOccError

_MEMORY = 25.0  # steps over which the means reach back
_PATIENCE = 15  # steps that a mean must be beyond its limit
_SETTLE = 30  # steps before a value counts as where the run began
_LEAST_SPEED = 1e-4  # m per frame


class TrainingCollapsed(GaussianOccError):
    """What a run learnt was of no use any more; the last good weights are kept."""


@dataclass(frozen=True)
class Signal:
    """One of the scalars of a run, and how far it may go. Factors are watched by their logarithms."""

    name: str
    low: float
    high: float
    says: str  # with {value}: the factor, or the share
    advice: str
    since: str = ""  # compared with 1, with what it was when watching began ("began"), or with the most it was ("most")
    kind: str = "log"  # of the scalar: "log", a logarithm; "length", whose logarithm is taken here; "share", as it is


_HELP = "start from first_stage=tiny_matching, lower both learning rates, or record odometry (gsp.ego_motion=auto)"
GSP_SIGNALS = (
    Signal(
        "depth_off",
        -math.log(2.5),
        math.log(2.5),
        "depth is {value} times what overlapping cameras measure",
        f"check the calibration between the cameras; {_HELP}",
    ),
    Signal(
        "ground_off",
        -math.log(3.0),
        math.log(3.0),
        "depth of the ground is {value} times what it was when the run began",
        _HELP,
        since="began",
    ),
    Signal(
        "motion_off",
        -math.log(3.0),
        math.log(3.0),
        "the learnt motion is {value} times the recorded one",
        f"let recorded motion be used, gsp.ego_motion=auto; or {_HELP}",
    ),
    Signal(
        "speed",
        math.log(0.12),
        math.inf,
        "the learnt motion is {value} times as long as it had been",
        _HELP,
        since="most",
        kind="length",
    ),
    Signal(
        "moved",
        0.03,
        math.inf,
        "{value} of the pixels are explained better by depth and motion than by standing still",
        f"leave out moments at rest (data.bag.least_motion, data.bag.least_change); {_HELP}",
        kind="share",
    ),
)


class Watch:
    """Of one run; `signals` that the run does not report are not watched."""

    def __init__(self, first_step: int, signals: Sequence[Signal] = GSP_SIGNALS) -> None:
        """first_step: from which on the means count; before, motion is still being found."""
        self.first_step, self.signals = first_step, signals
        self._means: dict[str, float] = {}
        self._began: dict[str, float] = {}
        self._most: dict[str, float] = {}
        self._beyond: dict[str, int] = {}  # signal -> step since which it is beyond its limit
        self._seen = 0

    @property
    def well(self) -> bool:
        """Whether nothing is beyond its limit, so that the weights are worth keeping."""
        return not self._beyond

    def see(self, step: int, named: Mapping[str, float]) -> str:
        """What has collapsed, in words, or "". named: the scalars of this step, counted from 1."""
        if step < self.first_step:
            return ""
        self._seen += 1
        for signal in self.signals:
            if signal.name not in named:
                continue
            value, plain = named[signal.name], self._means.get(signal.name, 0.0)
            # As a plain mean first, so that one odd step at the beginning does not count for long.
            plain += (value - plain) / min(self._seen, _MEMORY)
            self._means[signal.name] = plain
            mean = math.log(max(plain, _LEAST_SPEED)) if signal.kind == "length" else plain
            if self._seen < _SETTLE and signal.since:
                self._began[signal.name] = self._most[signal.name] = mean
                continue
            self._most[signal.name] = max(self._most.get(signal.name, mean), mean)
            off = mean - {"began": self._began, "most": self._most}.get(signal.since, {}).get(signal.name, 0.0)
            if signal.low <= off <= signal.high:
                self._beyond.pop(signal.name, None)
                continue
            since = self._beyond.setdefault(signal.name, step)
            if step - since >= _PATIENCE:
                value_text = f"{100 * off:.0f} %" if signal.kind == "share" else f"{math.exp(off):.2g}"
                return f"since step {since} {signal.says.format(value=value_text)}"
        return ""

    def advice(self) -> str:
        """What to change, of the signal that is beyond its limit for the longest time."""
        if not self._beyond:
            return ""
        worst = min(self._beyond, key=lambda name: self._beyond[name])
        return next(signal.advice for signal in self.signals if signal.name == worst)
