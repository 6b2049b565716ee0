# SPDX-License-Identifier: Apache-2.0
"""Stamps of ROS messages as integer nanoseconds, without ROS; apart from messages.py, which needs OpenCV."""

from __future__ import annotations

import struct
from typing import Any


def stamp_ns(header: Any) -> int:
    """Of a std_msgs/Header."""
    return _nanoseconds(header.stamp)


def message_stamp_ns(message: Any) -> int:
    """Of a message with images: foxglove_msgs has no headers."""
    return stamp_ns(message.header) if hasattr(message, "header") else _nanoseconds(message.timestamp)


def _nanoseconds(time: Any) -> int:
    return int(time.sec) * 1_000_000_000 + int(time.nanosec)


def cdr_stamp_ns(data: bytes) -> int:
    """The same, straight from the bytes of any serialised message that begins with a header."""
    sec, nanosec = struct.unpack_from("<iI" if data[1] & 1 else ">iI", data, 4)
    return sec * 1_000_000_000 + nanosec
