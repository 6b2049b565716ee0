# SPDX-License-Identifier: Apache-2.0
"""Where in a rosbag2 one message lies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MessageRef:
    """One message of a bag."""

    topic: str
    stamp_ns: int  # header
    log_ns: int
    place: int  # among the topic's messages of that log time
    key: tuple[int, int] | None = None  # of video: log time and place of the packet that decoding begins at
