# SPDX-License-Identifier: Apache-2.0
"""One line per compared array: how far it is from the recorded one, and whether that is within tolerance."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

PASS, FAIL, ABSENT = "ok", "FAIL", "absent"


@dataclass(frozen=True)
class Row:
    """The verdict on one recorded array or number."""

    stage: str
    verdict: str  # PASS, FAIL or ABSENT
    error: float = float("nan")  # greatest absolute difference, in the unit of the array or as `note` says
    tolerance: float = float("nan")
    share: float | None = None  # of pixels within the tolerance, where that is what counts
    note: str = ""


def compare(
    stage: str,
    recorded: Any,
    compute: Callable[[], Any],
    tolerance: float,
    *,
    relative: bool = False,
    least_share: float | None = None,
    pixel_axis: int | None = None,
) -> Row:
    """Row of one array; nothing is computed where the directory has not recorded it (None).

    relative: errors of values beyond 1 are divided by them. least_share: not the greatest error counts but the share of
    values within tolerance; with pixel_axis, of positions where all values along that axis are.
    """
    if recorded is None:
        return Row(stage, ABSENT, tolerance=tolerance)
    expected = np.asarray(recorded, dtype=np.float64)
    actual = np.asarray(compute(), dtype=np.float64)
    if expected.shape != actual.shape:
        return Row(stage, FAIL, float("inf"), tolerance, note=f"shape {expected.shape}, ours {actual.shape}")
    expected, actual = np.atleast_1d(expected), np.atleast_1d(actual)
    error = np.abs(actual - expected)
    if relative:
        error /= np.maximum(1.0, np.abs(expected))
    error[np.isnan(expected) & np.isnan(actual)] = 0.0
    error[np.isnan(error)] = np.inf
    greatest = float(error.max(initial=0.0))
    note = "relative" if relative else ""
    if least_share is None:
        return Row(stage, PASS if greatest <= tolerance else FAIL, greatest, tolerance, note=note)
    within = error <= tolerance
    if pixel_axis is not None:
        within = np.asarray(within.all(axis=pixel_axis))
    share = float(within.mean())
    if not within.all():
        note = f"{int((~within).sum())} of {within.size} beyond"
    return Row(stage, PASS if share >= least_share else FAIL, greatest, tolerance, share, note)


def format_rows(rows: Iterable[Row]) -> str:
    """The table as text, with a line that counts the verdicts."""
    rows = list(rows)
    width = max((len(row.stage) for row in rows), default=0)
    lines = [f"{'stage':{width}}  {'max error':>10}  {'tolerance':>10}  {'within':>8}  verdict"]
    for row in rows:
        error = "-" if row.verdict == ABSENT else f"{row.error:.3g}"
        share = "" if row.share is None else f"{100 * row.share:.3f}%"
        line = f"{row.stage:{width}}  {error:>10}  {row.tolerance:>10.3g}  {share:>8}  {row.verdict:7}  {row.note}"
        lines.append(line.rstrip())
    counts = [f"{sum(row.verdict == verdict for row in rows)} {verdict}" for verdict in (PASS, FAIL, ABSENT)]
    return "\n".join([*lines, ", ".join(counts)])
