# SPDX-License-Identifier: Apache-2.0
"""Time at the ROS edge: integer nanoseconds. Apart from conversions.py, so that the bag player starts without torch."""

from __future__ import annotations

from builtin_interfaces.msg import Time

from gaussianocc_core.bags.stamps import cdr_stamp_ns, message_stamp_ns, stamp_ns

__all__ = ["cdr_stamp_ns", "message_stamp_ns", "stamp_ns", "time_message"]


def time_message(nanoseconds: int) -> Time:
    sec, nanosec = divmod(int(nanoseconds), 1_000_000_000)
    return Time(sec=sec, nanosec=nanosec)
