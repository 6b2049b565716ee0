# SPDX-License-Identifier: Apache-2.0
"""Graphs of one's own: no two programs on one machine get the same domain, nor one in which others are at work."""

import os
import socket

import pytest

from gaussianocc_ros import isolation

HOLD = """
import sys
from gaussianocc_ros.isolation import isolated_graph
print(f"<{isolated_graph()['ROS_DOMAIN_ID']}>", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def own_folder(monkeypatch, tmp_path):
    """Lock files of this test alone."""
    monkeypatch.setattr(isolation.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(isolation, "_held", [])
    yield tmp_path
    for lock in isolation._held:
        os.close(lock)


@pytest.fixture
def few(monkeypatch):
    """So few domains that a choice by chance would meet soon."""
    monkeypatch.setattr(isolation, "_DOMAINS", range(90, 94))
    monkeypatch.setattr(isolation, "_is_in_use", lambda domain: False)


def test_no_two_processes_get_the_same_domain(tmp_path):
    import subprocess
    import sys

    env = {**os.environ, "TMPDIR": str(tmp_path)}
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", HOLD]
    # Of twelve that choose by chance from a hundred, two meet in every second run.
    others = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env) for _ in range(12)]
    try:
        domains = [process.stdout.readline().strip() for process in others]
        assert len(set(domains)) == len(domains) and all(1 <= int(each.strip("<>")) <= 101 for each in domains)
        assert len(list(tmp_path.glob("gaussianocc_ros_domain_*.lock"))) >= len(domains)
    finally:
        for process in others:
            process.communicate()


def test_a_domain_is_free_again_when_its_process_asks_for_a_third_but_never_the_first(own_folder, few):
    first = isolation.isolated_graph()["ROS_DOMAIN_ID"]
    seen = [isolation.isolated_graph()["ROS_DOMAIN_ID"] for _ in range(20)]
    assert first not in seen and len(set(seen)) == 3
    assert len(isolation._held) == 2


def test_where_all_are_taken_or_nothing_can_be_locked_there_is_still_a_graph(own_folder, few, monkeypatch):
    locks = [isolation._lock(domain) for domain in isolation._DOMAINS]
    assert None not in locks and isolation._lock(90) is None
    assert int(isolation.isolated_graph()["ROS_DOMAIN_ID"]) in isolation._DOMAINS
    assert isolation._held == []
    for lock in locks:
        os.close(lock)
    monkeypatch.setattr(isolation.tempfile, "gettempdir", lambda: str(own_folder / "absent"))
    assert int(isolation.isolated_graph()["ROS_DOMAIN_ID"]) in isolation._DOMAINS


def test_a_lock_that_is_a_link_is_not_followed(own_folder):
    (own_folder / "elsewhere").touch()
    (own_folder / "gaussianocc_ros_domain_7.lock").symlink_to(own_folder / "elsewhere")
    assert isolation._lock(7) is None


@pytest.mark.parametrize("port", [0, 10, 16])  # of multicast, of the first participant, of its fourth
def test_a_domain_in_which_somebody_is_at_work_is_not_taken(own_folder, monkeypatch, port):
    monkeypatch.setattr(isolation, "_DOMAINS", range(95, 97))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as DDS does
        other.bind(("", 7400 + 250 * 95 + port))
        assert isolation._is_in_use(95)
        assert isolation.isolated_graph()["ROS_DOMAIN_ID"] == "96"


def test_the_domain_of_a_living_node_is_in_use(graph):
    assert isolation._is_in_use(int(os.environ["ROS_DOMAIN_ID"]))
