# SPDX-License-Identifier: Apache-2.0
"""Waiting until subscribers have what was published, while the other threads go on."""

from __future__ import annotations

import time
from typing import Any

from rclpy.context import Context
from rclpy.duration import Duration

_AT_ONCE = Duration(seconds=0)
_FIRST, _LONGEST = 0.0005, 0.02  # s between two looks


def wait_until_delivered(publisher: Any, context: Context, seconds: float) -> bool:
    """Whether all reliable subscribers have acknowledged all messages within the time; False too once the context is
    closed (Ctrl-C).

    rclpy (9.1) waits with the interpreter's lock held: a subscriber that died without a word, which DDS
    notices after 20 s, would stop all threads of this process for that time. So it is asked again and again.
    """
    deadline, pause = time.monotonic() + seconds, _FIRST
    while context.ok():
        if publisher.wait_for_all_acked(_AT_ONCE):
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST)
    return False
