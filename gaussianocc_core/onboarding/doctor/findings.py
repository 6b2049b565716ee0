# SPDX-License-Identifier: Apache-2.0
"""What the doctor says: findings with their reason, size and fix, a verdict per camera, and scores before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

FINE, LOOK, WRONG = "fine", "look", "wrong"
_RANKS = {FINE: 0, LOOK: 1, WRONG: 2}
RIG, ODOMETRY = "rig", "odometry"  # in place of a camera's name


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or looks so."""

    about: str  # a camera, or RIG, or ODOMETRY
    verdict: str  # LOOK or WRONG
    kind: str  # short, for machines: "rotation", "swapped", "delay"
    reason: str
    size: float  # in `unit`; nan where it has none
    unit: str
    fix: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.about}: {self.reason}; {self.fix}"


@dataclass(frozen=True)
class CameraVerdict:
    """One camera."""

    name: str
    verdict: str
    findings: tuple[Finding, ...]
    seen: str  # by what it was judged, where it is fine


@dataclass(frozen=True)
class Score:
    """What a recording can teach, by one of its qualities."""

    name: str
    value: float  # 0 nothing, 1 plenty
    text: str


@dataclass(frozen=True)
class Proposal:
    """By how much to turn a camera; never applied unasked."""

    camera: str
    yaw_pitch_roll: tuple[
        float, float, float
    ]  # degrees about z, y, x of the ego frame, first roll, then pitch, then yaw
    error: float  # degrees
    quaternion: tuple[
        float, float, float, float
    ]  # x y z w of base frame -> camera as it would be, for a static transform


@dataclass(frozen=True)
class Diagnosis:
    """Of one recording."""

    name: str
    cameras: tuple[CameraVerdict, ...]
    others: tuple[Finding, ...]  # about the rig and odometry
    scores: tuple[Score, ...]
    proposals: tuple[Proposal, ...]
    notes: tuple[str, ...]  # what could not be judged, and why
    moments: int

    @property
    def verdict(self) -> str:
        """The worst of all."""
        return worst([each.verdict for each in self.cameras] + [each.verdict for each in self.others])

    @property
    def findings(self) -> tuple[Finding, ...]:
        return (*(finding for camera in self.cameras for finding in camera.findings), *self.others)

    def as_json(self) -> dict[str, Any]:
        """For machines: plain types, nan as None."""
        return {"verdict": self.verdict, **_plain(asdict(self))}


def worst(verdicts: Sequence[str]) -> str:
    return max(verdicts, key=lambda each: _RANKS[each], default=FINE)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return None if value != value else round(value, 6)
    return value


def describe(diagnosis: Diagnosis) -> str:
    """As text, one verdict per camera."""
    lines = [f"doctor: {diagnosis.name}: {diagnosis.verdict}, by {diagnosis.moments} moments of its images"]
    for camera in diagnosis.cameras:
        lines.append(f"  {camera.name}: {camera.verdict}" + (f" ({camera.seen})" if camera.verdict == FINE else ""))
        lines += [f"    {each.verdict}: {each.reason}; {each.fix}" for each in camera.findings]
    for each in diagnosis.others:
        lines.append(f"  {each.about}: {each.verdict}: {each.reason}; {each.fix}")
    for proposal in diagnosis.proposals:
        yaw, pitch, roll = proposal.yaw_pitch_roll
        quaternion = " ".join(f"{value:.5f}" for value in proposal.quaternion)
        lines.append(
            f"  proposal, not applied: turn {proposal.camera} by yaw {yaw:+.2f}, pitch {pitch:+.2f}, roll {roll:+.2f} "
            f"degrees (+- {proposal.error:.2f}): rotation x y z w {quaternion}"
        )
    lines += [f"  not judged: {note}" for note in diagnosis.notes]
    if diagnosis.scores:
        lines.append("what it can teach:")
        lines += [f"  {score.name} {score.value:.1f}: {score.text}" for score in diagnosis.scores]
    return "\n".join(lines)
