# SPDX-License-Identifier: Apache-2.0
"""A ROS graph of one's own, for the demo and the tests. Imports nothing that reads the environment."""

from __future__ import annotations

import os
import random


def isolated_graph() -> dict[str, str]:
    """Environment variables of a graph that stays on this machine and is, most likely, nobody else's.

    Domains above 101 overlap the ephemeral ports of Linux; Humble knows the older variable only.
    """
    local = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    if os.environ.get("ROS_DISTRO") == "humble":
        local = {"ROS_LOCALHOST_ONLY": "1"}
    return {"ROS_DOMAIN_ID": str(random.SystemRandom().randint(1, 101)), **local}
