# SPDX-License-Identifier: Apache-2.0
"""The look at images beside the thread that predicts: its end, and a look that fails."""

import pytest

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from gaussianocc_core.onboarding.doctor.findings import WRONG, Finding
from gaussianocc_ros.image_watch import ImageWatch


def test_a_set_that_is_done_after_the_end_is_not_looked_at_and_is_no_failure():
    failures = []
    watch = ImageWatch({}, failures.append)
    watch.close()
    watch.offer(None, 0.1)
    assert not failures and not watch.said


def test_after_a_look_that_failed_nothing_is_said_of_what_was_found_before():
    failures = []
    watch = ImageWatch({}, failures.append)
    watch._found = {"front": (Finding("front", WRONG, "dark", "it is dark", 1.0, "levels", "take the cap off"),)}
    assert watch.blind == ("front",)
    watch.offer(None, 0.1)  # no set at all
    watch.close()
    assert len(failures) == 1 and not watch.blind and watch.value_of("front") == "not looked at"
