# SPDX-License-Identifier: Apache-2.0
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaussianocc_core.data.sets import SetBuilder

MS = 1_000_000
CAMERAS = ("front", "left", "right", "back")
PERIOD_NS = 83_333_333  # 12 Hz


def make_stream(offsets_ms, count, jitter_ms=0.0, seed=0, cameras=CAMERAS, period_ns=PERIOD_NS, start_ns=10**18):
    """(stamp_ns, camera) of every frame, in order of stamps; each camera has a constant offset plus uniform jitter."""
    rng = random.Random(seed)
    frames = []
    for camera, offset in zip(cameras, offsets_ms, strict=True):
        for k in range(count):
            jitter = rng.uniform(-jitter_ms, jitter_ms)
            frames.append((start_ns + k * period_ns + round((offset + jitter) * MS), camera))
    return sorted(frames)


def shuffle_arrival(frames, delay_ms, seed=0):
    """The frames in order of arrival, each delayed at random; one camera's frames keep their order."""
    rng = random.Random(seed)
    arrival, last = [], {}
    for stamp, camera in frames:
        last[camera] = max(last.get(camera, 0), stamp + rng.uniform(0, delay_ms) * MS)
        arrival.append((last[camera], stamp, camera))
    return [(stamp, camera) for _, stamp, camera in sorted(arrival)]


def feed(builder, frames):
    return [s for stamp, camera in frames for s in builder.add(camera, stamp, (camera, stamp))]


def test_frames_of_one_set_leave_together_when_the_last_one_arrives():
    builder = SetBuilder(("a", "b"), slop_ns=20 * MS)
    assert builder.add("a", 100 * MS, "A") == []
    (found,) = builder.add("b", 105 * MS, "B")
    assert found.stamp_ns == 100 * MS
    assert found.items == {"a": "A", "b": "B"}
    assert found.stamps_ns == {"a": 100 * MS, "b": 105 * MS}


def test_the_stamp_is_the_anchors_and_the_order_is_the_configured_one():
    builder = SetBuilder(("a", "b", "c"), slop_ns=20 * MS, anchor="b")
    frames = [(0, "c"), (3 * MS, "b"), (9 * MS, "a")]
    (found,) = feed(builder, frames)
    assert found.stamp_ns == 3 * MS
    assert list(found.items) == ["a", "b", "c"]


def test_a_single_camera_makes_a_set_of_every_frame():
    builder = SetBuilder(("a",))
    assert [s.stamp_ns for s in feed(builder, [(1, "a"), (2, "a"), (3, "a")])] == [1, 2, 3]


@pytest.mark.parametrize("delay_ms", [0, 30, 90])
@pytest.mark.parametrize("offsets_ms", [(0, 17, 33, 50), (25, 0, 50, 40), (50, 0, 20, 35)])
def test_over_99_percent_of_sets_form_with_50_ms_stagger_and_5_ms_jitter_at_12_hz(offsets_ms, delay_ms):
    count = 600
    frames = shuffle_arrival(make_stream(offsets_ms, count, jitter_ms=5, seed=1), delay_ms, seed=2)
    builder = SetBuilder(CAMERAS, slop_ns=55 * MS)
    sets = feed(builder, frames)
    assert len(sets) > 0.99 * count
    spread = [max(abs(stamp - s.stamp_ns) for stamp in s.stamps_ns.values()) for s in sets]
    assert max(spread) <= 55 * MS


@pytest.mark.parametrize("delay_ms", [0, 60])
@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("offset_ms", range(40, 49))
def test_a_camera_about_half_a_period_off_costs_no_sets_at_the_default_slop(offset_ms, side, delay_ms):
    count = 600
    frames = make_stream((50, 50 + side * offset_ms, 50 - side * offset_ms, 40), count, jitter_ms=5, seed=7)
    builder = SetBuilder(CAMERAS)
    sets = feed(builder, shuffle_arrival(frames, delay_ms, seed=8))
    assert len(sets) >= 0.99 * count
    gaps = [(b.stamp_ns - a.stamp_ns) / MS for a, b in itertools.pairwise(sets)]
    assert max(gaps) <= 1e-6 * PERIOD_NS + 10.01  # twice the jitter: 12 Hz without a gap
    assert max(abs(stamp - s.stamp_ns) for s in sets for stamp in s.stamps_ns.values()) <= 50 * MS
    assert builder.statistics.reused.total() <= 0.25 * count  # the exception: most sets have pictures of their own


def test_a_frame_serves_again_only_where_no_other_is_within_the_slop():
    builder = SetBuilder(("a", "b"), slop_ns=50 * MS)
    frames = [(0, "a"), (45 * MS, "b"), (83 * MS, "a"), (134 * MS, "b"), (166 * MS, "a"), (205 * MS, "b")]
    sets = feed(builder, frames)
    assert [s.stamps_ns["b"] // MS for s in sets] == [45, 45, 134]
    assert builder.statistics.reused == {"b": 1}


@pytest.mark.parametrize("delay_ms", [0, 30])
def test_each_camera_contributes_its_nearest_frame(delay_ms):
    frames = make_stream((20, 0, 50, 8), 600, jitter_ms=5, seed=3)
    sets = feed(SetBuilder(CAMERAS, slop_ns=50 * MS), shuffle_arrival(frames, delay_ms, seed=4))
    nearest = sum(
        abs(stamp - s.stamp_ns) == min(abs(other - s.stamp_ns) for other, name in frames if name == camera)
        for s in sets
        for camera, stamp in s.stamps_ns.items()
    )
    assert nearest >= 0.995 * len(CAMERAS) * len(sets)  # the first set may go before the rates are known


def test_a_set_leaves_without_waiting_for_the_next_period():
    # The player's --step waits for every result before it goes on, so a set must not need frames of the next one.
    frames = make_stream((8, 0, 16, 43), 10, jitter_ms=1, seed=5)
    builder = SetBuilder(CAMERAS)
    for k in range(10):
        assert len(feed(builder, frames[4 * k : 4 * k + 4])) == 1


def test_keyframes_at_2_hz_leave_at_once_also_the_first_one():
    frames = make_stream((8, 0, 16, 43), 7, period_ns=500 * MS)
    builder = SetBuilder(CAMERAS)
    for k in range(7):
        assert len(feed(builder, frames[4 * k : 4 * k + 4])) == 1
    assert builder.flush() == []


@settings(max_examples=40, deadline=None)
@given(
    offsets=st.lists(st.integers(0, 60), min_size=4, max_size=4),
    jitter=st.integers(0, 8),
    delay=st.integers(0, 150),
    loss=st.sampled_from([0.0, 0.05, 0.5]),
    slop=st.integers(0, 80),
    seed=st.integers(0, 2**16),
)
def test_whatever_arrives_sets_are_ordered_complete_within_slop_and_never_step_back(
    offsets, jitter, delay, loss, slop, seed
):
    rng = random.Random(seed)
    frames = [f for f in make_stream(offsets, 60, jitter, seed) if rng.random() >= loss]
    builder = SetBuilder(CAMERAS, slop_ns=slop * MS, depth=6)
    sets, held = [], 0
    for stamp, camera in shuffle_arrival(frames, delay, seed):
        sets += builder.add(camera, stamp, (camera, stamp))
        held = max(held, *(len(kept) for kept in builder._frames.values()))
    sets += builder.flush()
    assert held <= 6
    assert [s.stamp_ns for s in sets] == sorted({s.stamp_ns for s in sets})
    for s in sets:
        assert tuple(s.items) == CAMERAS
        assert all(s.items[camera] == (camera, s.stamps_ns[camera]) for camera in CAMERAS)
        assert all(abs(stamp - s.stamp_ns) <= slop * MS for stamp in s.stamps_ns.values())
    for camera in CAMERAS:
        used = [s.stamps_ns[camera] for s in sets]
        assert used == sorted(used)
        assert len(used) - len(set(used)) == builder.statistics.reused[camera]
    counts = builder.statistics
    anchors = sum(camera == CAMERAS[0] for _, camera in frames)
    assert counts.sets == len(sets)
    assert counts.sets + counts.dropped.total() + counts.discarded.total() >= anchors  # nothing vanishes uncounted
    assert counts.sets + counts.dropped.total() <= anchors


def test_one_camera_at_half_rate_gives_every_second_set_and_names_that_camera():
    frames = make_stream((0, 10, 20, 30), 200, jitter_ms=2, seed=6)
    slow = [stamp for stamp, camera in frames if camera == "right"][1::2]
    builder = SetBuilder(CAMERAS, slop_ns=40 * MS)
    sets = feed(builder, [f for f in frames if f[0] not in slow or f[1] != "right"]) + builder.flush()
    assert len(sets) == 100
    assert builder.statistics.dropped == {"incomplete": 100}
    assert builder.statistics.missing == {"right": 100}


@pytest.mark.parametrize(("policy", "given_up_at_ms"), [("skip", 83), ("wait", 166)])
def test_a_silent_camera_is_given_up_after_the_policys_time(policy, given_up_at_ms):
    builder = SetBuilder(("a", "b"), slop_ns=50 * MS, policy=policy, patience_ns=100 * MS)
    for k in range(10):
        builder.add("a", k * 83 * MS, None)
        if builder.statistics.missing:
            break
    assert k * 83 == given_up_at_ms
    assert builder.statistics.missing == {"b": 1}


def test_a_late_frame_within_patience_still_makes_its_set():
    builder = SetBuilder(("a", "b"), slop_ns=20 * MS, patience_ns=100 * MS)
    assert feed(builder, [(0, "a"), (83 * MS, "a")]) == []
    assert [s.stamp_ns for s in feed(builder, [(5 * MS, "b"), (88 * MS, "b")])] == [0, 83 * MS]


def test_a_frame_that_dds_delivers_late_is_no_recording_that_loops():
    """Best effort, on a loaded machine: 0.33 s were seen."""
    builder = SetBuilder(("a", "b"), slop_ns=20 * MS)
    frames = [(83 * k * MS, camera) for k in range(8) for camera in "ab"]
    late = frames.pop(2 * 3 + 1)  # b of the fourth
    found = feed(builder, [*frames, late])
    assert builder.statistics.rewinds == 0 and builder.statistics.discarded["late"] == 1
    assert [s.stamp_ns for s in found] == [83 * k * MS for k in range(8) if k != 3]


def test_a_recording_that_loops_gives_the_same_sets_in_every_round():
    frames = make_stream((8, 0, 16, 43), 7, period_ns=500 * MS)
    builder = SetBuilder(CAMERAS)
    rounds = [[s.stamp_ns for s in feed(builder, frames)] for _ in range(3)]
    assert len(rounds[0]) == 7
    assert rounds[0] == rounds[1] == rounds[2]
    assert builder.statistics.rewinds == 2


def test_stragglers_of_the_old_round_do_not_take_frames_of_the_new_one():
    frames = make_stream((8, 0, 16, 43), 12)
    rounds = frames + frames
    seam = len(frames)
    rounds[seam - 2 : seam + 1] = [rounds[seam], rounds[seam - 2], rounds[seam - 1]]  # two old frames arrive late
    builder = SetBuilder(CAMERAS)
    sets = feed(builder, rounds) + builder.flush()
    assert len(sets) == 11 + 12  # the last set of the first round is lost, nothing of the second
    assert builder.statistics.rewinds == 1
    assert builder.statistics.discarded == {"stale": 2}


def test_a_camera_on_another_clock_does_not_silence_the_others():
    frames = make_stream((0, 10, 20, 30), 30)
    builder = SetBuilder(CAMERAS)
    feed(builder, frames[:40])
    feed(builder, [(stamp - 10**12 if camera == "back" else stamp, camera) for stamp, camera in frames[40:]])
    assert builder.statistics.sets == 10
    assert builder.statistics.missing["back"] >= 8


def test_duplicated_stamps_are_counted_and_used_once():
    builder = SetBuilder(("a", "b"))
    sets = feed(builder, [(0, "a"), (0, "a"), (0, "b"), (0, "b"), (0, "a")])
    assert len(sets) == 1
    assert builder.statistics.discarded == {"duplicate": 3}


def test_memory_stays_bounded_when_the_anchor_is_silent():
    builder = SetBuilder(("a", "b"), depth=5)
    feed(builder, [(k * PERIOD_NS, "b") for k in range(1000)])
    assert len(builder._frames["b"]) == 5


def test_flush_forms_what_is_pending_at_the_end_of_a_recording():
    builder = SetBuilder(("a", "b"), slop_ns=50 * MS)
    feed(builder, [(0, "b"), (10 * MS, "a"), (80 * MS, "b"), (90 * MS, "a"), (125 * MS, "b")])
    assert feed(builder, [(165 * MS, "a")]) == []  # the frame at 125 is 40 away: one at 205 could be as near
    (last,) = builder.flush()
    assert last.stamps_ns == {"a": 165 * MS, "b": 125 * MS}


@pytest.mark.parametrize(
    "arguments",
    [
        {"cameras": ()},
        {"cameras": ("a", "a")},
        {"cameras": ("a",), "anchor": "b"},
        {"cameras": ("a",), "policy": "hope"},
        {"cameras": ("a",), "slop_ns": -1},
        {"cameras": ("a",), "depth": 0},
    ],
)
def test_impossible_settings_are_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        SetBuilder(**arguments)


def test_an_unknown_camera_is_refused():
    with pytest.raises(ValueError, match="expected one of"):
        SetBuilder(("a",)).add("b", 0, None)


def test_degrade_forms_sets_of_the_cameras_that_are_there_and_waits_no_longer_for_a_dead_one():
    builder = SetBuilder(("a", "b", "c"), slop_ns=20 * MS, policy="degrade", patience_ns=50 * MS)
    sets = []
    for n in range(40):
        at = 100 * n * MS
        sets += builder.add("a", at, f"a{n}")
        if n < 10 or n >= 30:  # b dies after a second and comes back at three
            sets += builder.add("b", at + 5 * MS, f"b{n}")
        formed = len(sets)
        sets += builder.add("c", at + 10 * MS, f"c{n}")
        if 21 <= n < 30:  # silent for a second: the set is complete with the last camera that lives
            assert len(sets) == formed + 1
    sets += builder.flush()
    assert [each.stamp_ns for each in sets] == [100 * n * MS for n in range(40)]
    assert [list(each.items) for each in sets] == [list("abc") if n < 10 or n >= 30 else list("ac") for n in range(40)]
    assert (builder.statistics.degraded, builder.statistics.missing["b"]) == (20, 20)
    assert not builder.statistics.dropped


@pytest.mark.parametrize("policy", ["wait", "degrade"])
def test_under_degrade_another_camera_stands_in_for_a_dead_anchor_until_it_returns(policy):
    builder = SetBuilder(CAMERAS, slop_ns=45 * MS, policy=policy)
    frames = make_stream((0, 10, 20, 30), 120, jitter_ms=2)
    start, dead = 10**18, range(36, 84)  # the anchor's frames of 3 to 7 s
    lost = [f for f in frames if f[1] == "front" and (f[0] - start) // PERIOD_NS in dead]
    found = feed(builder, [frame for frame in frames if frame not in lost])
    stamps = [s.stamp_ns for s in found]
    assert stamps == sorted(set(stamps))
    for camera in CAMERAS:
        used = [s.stamps_ns[camera] for s in found if camera in s.stamps_ns]
        assert used == sorted(used)
    without = [s for s in found if "front" not in s.items]
    if policy == "wait":
        assert not without
        return
    # One second passes until it is missed, and then every period has its set, around the next camera's stamps.
    assert len(without) >= len(dead) - 14 and builder.statistics.stood_in == {"left": len(without)}
    assert all(s.stamp_ns == s.stamps_ns["left"] and len(s.items) == 3 for s in without)
    assert [s for s in found if s.stamp_ns > max(lost)[0]] and "front" in found[-1].items
    assert found[-1].stamp_ns == found[-1].stamps_ns["front"]


def test_who_stands_in_for_the_anchor_can_die_too():
    builder = SetBuilder(CAMERAS, slop_ns=45 * MS, policy="degrade")
    frames = make_stream((0, 10, 20, 30), 120)
    gone = {"front": 3_000 * MS, "left": 6_000 * MS}
    found = feed(builder, [(stamp, c) for stamp, c in frames if stamp < 10**18 + gone.get(c, 10**12)])
    assert list(found[-1].items) == ["right", "back"] and found[-1].stamp_ns == found[-1].stamps_ns["right"]
    assert set(builder.statistics.stood_in) == {"left", "right"}


def test_a_camera_on_another_clock_does_not_depose_the_anchor():
    builder = SetBuilder(("front", "left", "right"), slop_ns=45 * MS, policy="degrade")
    frames = make_stream((0, 10, 3_600_000), 40, cameras=("front", "left", "right"))
    arrival = sorted(frames, key=lambda f: f[0] - (3_600_000 * MS if f[1] == "right" else 0))
    found = feed(builder, arrival)
    assert len(found) >= 38 and not builder.statistics.stood_in
    assert all(s.stamp_ns == s.stamps_ns["front"] for s in found)


def test_degrade_does_not_wait_for_ever_for_a_camera_that_never_came():
    builder = SetBuilder(("a", "b"), slop_ns=20 * MS, policy="degrade", patience_ns=50 * MS)
    formed = [len(builder.add("a", 100 * n * MS, n)) for n in range(20)]
    assert sum(formed) >= 19 and formed[-1] == 1
