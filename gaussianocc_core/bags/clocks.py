# SPDX-License-Identifier: Apache-2.0
"""Whose clock stamped what: every stamp is held against the time at which its message was recorded.

A recorder has one clock, so the time from stamp to recording tells the clocks of cameras and odometry apart. A delay is
never negative and rarely longer than two seconds; whatever lies outside of that is another clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

_EARLIEST_S, _LATEST_S = -2.0, 0.1  # stamp minus log time that a delay, or two disciplined clocks, can explain
_APART_S = 0.5  # by which two clocks differ that are not one
_YEAR_2000_NS = 946_684_800_000_000_000
# Time scales that devices count in, ahead of UTC by whole seconds since 2017.
_SCALES = {37: "TAI, as PTP counts it", 18: "GPS time"}
_USE_LOG = "use the time of recording: data.bag.stamp=log"


@dataclass(frozen=True)
class Clocks:
    """What is wrong with the stamps of a bag."""

    problems: tuple[str, ...]
    odometry_fits: bool  # whether poses at the stamps of images are those of the same moment


def compare(
    cameras: Mapping[str, tuple[Int64[np.ndarray, " M"], Int64[np.ndarray, " M"]]],
    odometry: tuple[Int64[np.ndarray, " P"], Int64[np.ndarray, " P"]] | None,
) -> Clocks:
    """cameras, odometry: header stamps and log times in ns of each camera's images, by name, and of the poses."""
    problems, offsets = [], {}
    for name, (stamps, logs) in cameras.items():
        if not len(stamps):
            continue
        if len(stamps) > 1 and (stamps == stamps[0]).all():
            what = "zero: its driver does not set them" if stamps[0] == 0 else f"the same, {stamps[0] * 1e-9:.3f} s"
            problems.append(f"camera {name}: all {len(stamps)} stamps are {what}; {_USE_LOG}")
            continue
        offsets[name] = float(np.median(stamps - logs)) * 1e-9
    fits = True
    if odometry is not None and len(odometry[0]):
        stamps, logs = odometry
        reference = float(np.median(stamps - logs)) * 1e-9
        off = [name for name, offset in offsets.items() if _differ(offset, reference)]
        early = {name: bool(cameras[name][0][0] < _YEAR_2000_NS < stamps[0]) for name in off}
        for name in off:
            problems.append(
                f"camera {name}: its clock is {_say(offsets[name] - reference, 'odometry', early[name])}; no poses are "
                f"used; synchronise the clocks, or {_USE_LOG}"
            )
        fits = not off and len(offsets) == len([name for name in cameras if len(cameras[name][0])])
    if offsets:
        first, anchor = next(iter(offsets.items()))
        for name, offset in offsets.items():
            if _differ(offset, anchor):
                problems.append(
                    f"camera {name}: its clock is {_say(offset - anchor, first, False)}; images of one moment do not "
                    f"meet; synchronise the clocks, or {_USE_LOG}"
                )
    return Clocks(tuple(problems), fits)


def name_ahead(seconds: float) -> str:
    """In words, of stamps that come from the future of the computer that received them."""
    return _say(seconds, "this computer", False)


def _differ(a_s: float, b_s: float) -> bool:
    """Whether two times from stamp to recording are of two clocks, and not two delays."""
    both_delays = all(_EARLIEST_S <= each <= _LATEST_S for each in (a_s, b_s))
    return not both_delays and abs(a_s - b_s) > _APART_S


def _say(seconds: float, whose: str, uptime: bool) -> str:
    """'37.00 s ahead of that of odometry (TAI, as PTP counts it)'"""
    size = abs(seconds)
    amount = f"{size:.2f} s" if size < 7200 else f"{size / 3600:.1f} h" if size < 172800 else f"{size / 86400:.0f} days"
    scale = next((name for ahead, name in _SCALES.items() if abs(size - ahead) < _APART_S), "")
    named = "it counts from the start of a device, not from 1970" if uptime else scale
    return f"{amount} {'ahead of' if seconds > 0 else 'behind'} that of {whose}{f' ({named})' if named else ''}"
