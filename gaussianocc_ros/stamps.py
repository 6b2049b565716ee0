# SPDX-License-Identifier: Apache-2.0
"""Time at the ROS edge: integer nanoseconds. Apart from conversions.py, so that the bag player starts without torch."""

from __future__ import annotations

import struct
from typing import Any

from builtin_interfaces.msg import Time


def stamp_ns(header: Any) -> int:
    """Integer nanoseconds of a header's stamp."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def cdr_stamp_ns(data: bytes) -> int:
    """The same, straight from the bytes of any serialised message that begins with a header."""
    sec, nanosec = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return sec * 1_000_000_000 + nanosec


def time_message(nanoseconds: int) -> Time:
    sec, nanosec = divmod(int(nanoseconds), 1_000_000_000)
    return Time(sec=sec, nanosec=nanosec)
