# SPDX-License-Identifier: Apache-2.0
"""A ROS graph of one's own, for the demo and the tests. Imports nothing that reads the environment."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

_DOMAINS = range(1, 102)  # above 101 they overlap the ephemeral ports of Linux
_PARTICIPANTS = 20  # whose ports are looked at; each process on a graph is one
_held: list[int] = []  # open lock files: that of this process's first graph, and that of the newest other one


def isolated_graph() -> dict[str, str]:
    """Environment variables of a graph that stays on this machine and is nobody else's there.

    Two nodes of one name in one graph answer each other's callers: what then happens looks like a fault of the node.
    The domain is locked while this process lives; one that the process asks for later replaces the one before it, but
    never the first. Humble knows the older variable only.
    """
    local = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    if os.environ.get("ROS_DISTRO") == "humble":
        local = {"ROS_LOCALHOST_ONLY": "1"}
    return {"ROS_DOMAIN_ID": str(_take_domain()), **local}


def _take_domain() -> int:
    domains = random.SystemRandom().sample(_DOMAINS, len(_DOMAINS))
    for domain in domains:
        lock = _lock(domain)
        if lock is None:
            continue
        if _is_in_use(domain):  # by programs that know of no locks
            os.close(lock)
            continue
        for other in _held[1:]:
            os.close(other)
        _held[1:] = [lock]
        return domain
    return domains[0]  # no place for lock files, or a hundred others at work: most likely nobody's


def _lock(domain: int) -> int | None:
    """An open file that others cannot lock until it is closed, or its process ends; None if somebody has."""
    path = Path(tempfile.gettempdir()) / f"gaussianocc_ros_domain_{domain}.lock"
    try:
        try:  # first without O_CREAT, which Linux refuses for another user's file in a folder such as /tmp
            lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CREAT, 0o644)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _is_in_use(domain: int) -> bool:
    """Whether a participant on this machine has one of the ports that DDS gives the domain: that of multicast, which
    graphs of one machine may do without, or that of one of the first participants."""
    base = 7400 + 250 * domain
    return not all(_is_free(port) for port in (base, *range(base + 10, base + 10 + 2 * _PARTICIPANTS, 2)))


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True
