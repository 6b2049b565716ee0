# SPDX-License-Identifier: Apache-2.0
"""Where the rig was a little earlier or later, by the poses of a recording, and where that would show."""

import numpy as np
import pytest
from support.rigs import ring

from gaussianocc_core.data.entries import FrameEntry, SampleEntry
from gaussianocc_core.data.pose_track import delayed_motions, pose_tracks, where_delays_show

STEP_NS = 100_000_000


def pose(time: float) -> np.ndarray:
    """Two metres a second straight on, and from 2 s on a turn of 0.3 rad/s."""
    yaw = 0.3 * max(0.0, time - 2.0)
    T = np.eye(4)
    T[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    T[0, 3] = 2.0 * time
    return T


def entries(count=40, gap_after=None, scene="a"):
    stamps = [k * STEP_NS + (0 if gap_after is None or k <= gap_after else 10 * STEP_NS) for k in range(count)]
    frames = [FrameEntry((), (), (stamp,), pose(1e-9 * stamp)[None]) for stamp in stamps]
    return [
        SampleEntry(f"{k}", scene, ring(), frames[k], neighbours=((-1, frames[k - 1]), (1, frames[k + 1])))
        for k in range(1, count - 1)
    ]


def test_a_delayed_motion_is_that_of_another_time():
    made = entries()
    tracks = pose_tracks(made)
    found = delayed_motions(made[20], tracks, (-0.25, 0.0, 0.3))
    assert found.shape == (3, 2, 4, 4)
    for late, motions in zip((-0.25, 0.0, 0.3), found, strict=True):
        times = [2.1 + late, 2.0 + late, 2.2 + late]
        expected = [np.linalg.inv(pose(t)) @ pose(times[0]) for t in times[1:]]
        np.testing.assert_allclose(motions, expected, atol=2e-3)


def test_beyond_the_ends_and_in_gaps_nothing_is_known():
    made = entries()
    tracks = pose_tracks(made)
    assert delayed_motions(made[0], tracks, (0.0,)) is not None
    assert delayed_motions(made[0], tracks, (-0.2,)) is None and delayed_motions(made[-1], tracks, (0.2,)) is None
    broken = entries(gap_after=20)
    tracks = pose_tracks(broken)
    assert delayed_motions(broken[16], tracks, (0.2,)) is not None
    assert delayed_motions(broken[18], tracks, (0.25,)) is None
    assert delayed_motions(made[5], {}, (0.0,)) is None  # of a recording without poses


def test_delays_show_where_a_turn_begins():
    made = entries() + entries(scene="b")
    places = where_delays_show(made, pose_tracks(made), 4, least=1e-3)
    assert len(places) == 4 and places == sorted(places)
    assert all(abs(1e-9 * made[place].frame.camera_stamps_ns[0] - 2.0) <= 0.25 for place in places)
    assert {made[place].scene for place in places} == {"a", "b"}
    straight = made[:12]
    assert where_delays_show(straight, pose_tracks(straight), 4, least=1e-3) == []


@pytest.mark.parametrize("late", [0.05, -0.05])
def test_between_two_stamps_poses_are_interpolated(late):
    made = entries()
    (motions,) = delayed_motions(made[5], pose_tracks(made), (late,))
    assert motions[0, 0, 3] == pytest.approx(0.2) and motions[1, 0, 3] == pytest.approx(-0.2)
