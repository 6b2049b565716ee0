# SPDX-License-Identifier: Apache-2.0
"""An evaluation in parts, for job arrays: each writes what it counted of its scenes, and together they are the report
of one run, to the last digit."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaussianocc_core.bounded import MOST_FILE_BYTES, open_file, read_json
from gaussianocc_core.config import from_dict
from gaussianocc_core.errors import DatasetError
from gaussianocc_core.evaluation.tally import Counts, Facts, Plan, plain, report
from gaussianocc_core.files import write_file
from gaussianocc_core.mistakes import reading
from gaussianocc_core.models.limits import MOST_CELLS
from gaussianocc_core.names import shorten

FORMAT = "gaussianocc evaluation share 1"
_STEP = 1 << 24  # bytes
_COMMON = ("share count", "checkpoint", "weights", "plan")  # of all shares of one evaluation


@dataclass(frozen=True)
class Share:
    """The number-th of `of`, from 1."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


@dataclass(frozen=True)
class _File:
    path: Path
    share: Share
    head: dict[str, Any]  # by _COMMON
    facts: dict[str, Any]
    counts: dict[str, Any]


def write_share(
    file: Path,
    share: Share,
    checkpoint: Mapping[str, Any],
    weights: Path,
    plan: Plan,
    facts: Mapping[str, Facts],
    counts: Mapping[str, Counts],
) -> None:
    """checkpoint: as in the report; weights: its file, whose hash tells shares of another apart; facts, counts: by
    scene. DatasetError where it cannot be written."""
    digest = hashlib.sha256()
    with open_file(weights) as opened:
        while part := opened.read(_STEP):
            digest.update(part)
    content = {
        "format": FORMAT,
        "share": {"number": share.number, "of": share.of},
        "checkpoint": checkpoint,
        "weights": digest.hexdigest(),
        "plan": plan,
        "facts": dict(facts),
        "counts": dict(counts),
    }
    write_file(file, (json.dumps(plain(content)) + "\n").encode())


def merge_shares(files: Sequence[Path]) -> dict[str, Any]:
    """The report of all scenes, as `evaluate` gives it. DatasetError where a share is missing, doubled or of another
    evaluation, by its name."""
    shares: dict[int, _File] = {}
    for path in files:
        file = _read(path)
        first = next(iter(shares.values()), file)
        for what in _COMMON:
            if file.head[what] != first.head[what]:
                told = _difference(first.head[what], file.head[what])
                raise DatasetError(f"{path}: is no share of the evaluation of {first.path}: another {what}{told}")
        if file.share.number in shares:
            raise DatasetError(
                f"{path}: is share {file.share}, as {shares[file.share.number].path} is; give each share once"
            )
        shares[file.share.number] = file
    if not shares:
        raise DatasetError("no share is given; give the files that evaluate --shard K/N wrote")
    first = next(iter(shares.values()))
    if missing := [number for number in range(1, first.share.of + 1) if number not in shares]:
        named = ", ".join(f"{number}/{first.share.of}" for number in missing[:10]) + (", ..." if missing[10:] else "")
        raise DatasetError(f"of {first.share.of} shares {len(missing)} are missing: {named}; run --shard of each")
    with reading("shares of an evaluation", "run them again with this version", DatasetError):
        plan = from_dict(Plan, first.head["plan"], str(first.path))
        if math.prod(plan.grid.shape) > MOST_CELLS:
            raise ValueError(f"a grid of {shorten(plan.grid.shape)} voxels, at most {MOST_CELLS} are possible")
        facts: dict[str, Facts] = {}
        counts: dict[str, Counts] = {}
        for file in shares.values():
            if doubled := set(file.facts) & set(facts):
                raise DatasetError(f"{file.path}: {shorten(min(doubled))} is in another share, too; run them again")
            facts |= {scene: from_dict(Facts, told, str(file.path)) for scene, told in file.facts.items()}
            counts |= file.counts
        if set(facts) != set(plan.scenes) or set(counts) != set(plan.scenes):
            raise DatasetError(f"{first.path} and others: have not all scenes of the evaluation; run them again")
        return {"checkpoint": first.head["checkpoint"], **report(plan, facts, counts)}


def _read(path: Path) -> _File:
    with reading(f"{path}: as a share of an evaluation it", "give files that evaluate --shard K/N wrote", DatasetError):
        found = read_json(path, MOST_FILE_BYTES)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        share = Share(int(found["share"]["number"]), int(found["share"]["of"]))
        if not 1 <= share.number <= share.of:
            raise ValueError(f"it says {share}")
        head = {"share count": share.of, **{name: found[name] for name in _COMMON[1:]}}
        return _File(path, share, head, dict(found["facts"]), dict(found["counts"]))


def _difference(one: Any, other: Any) -> str:
    """What differs, in words: the first entry of dictionaries, else both."""
    if isinstance(one, dict) and isinstance(other, dict):
        key = next(key for key in {**one, **other} if one.get(key) != other.get(key))
        return f", {shorten(key)}{_difference(one.get(key), other.get(key))}"
    return f" ({shorten(other)}, not {shorten(one)})"
