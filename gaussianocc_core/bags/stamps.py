# SPDX-License-Identifier: Apache-2.0
"""Stamps of ROS messages as integer nanoseconds, without ROS; apart from messages.py, which needs OpenCV."""

from __future__ import annotations

import struct
from typing import Any


def stamp_ns(header: Any) -> int:
    """Of a std_msgs/Header."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def cdr_stamp_ns(data: bytes) -> int:
    """The same, straight from the bytes of any serialised message that begins with a header."""
    sec, nanosec = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return sec * 1_000_000_000 + nanosec
