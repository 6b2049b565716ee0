# SPDX-License-Identifier: Apache-2.0
"""What rays of earlier sets found, in voxels that stand still, and what becomes of a set's decision by it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.carving import GRID, HEIGHT, SURE, WIDTH, measure, place, wall

from gaussianocc_core.checkpoint import default_checkpoint, load_model
from gaussianocc_core.errors import PredictionError
from gaussianocc_core.geometry.ray_counts import add_rays
from gaussianocc_core.geometry.transforms import make_transform
from gaussianocc_core.labels import CLASS_ID, CLASS_NAMES, FREE, OCCLUDED, UNOBSERVED
from gaussianocc_core.mapping.carving import make_rays
from gaussianocc_core.models.decision_cpu import Decided
from gaussianocc_core.models.ray_memory import FEATURES, MemoryHead, MemorySettings, RayMemory
from gaussianocc_core.models.recall import Recall
from gaussianocc_core.types import Lattice, OccupancyField

SHARE, ENDS, PASSES = 3, 4, 5  # features that rays decide


def add(memory, at, x=0.0, stamp_s=0.0, run=0, pose=None, shows=None):
    """A set of a camera that looks forward at a wall at `at`, m of the world, from x."""
    placed = place(stamp_s=stamp_s, x=x)
    maps = measure(placed, wall(at - x))
    memory.add(
        1.0 / torch.from_numpy(maps.depth),
        torch.from_numpy(maps.log_error),
        shows,
        placed.cameras,
        (WIDTH, HEIGHT),
        placed.T_world_ego if pose is None else pose,
        stamp_s,
        run,
    )


def look(memory, *places, word=0.5):
    """Features at places of the newest set's ego frame, m."""
    index = np.floor((np.array(places) - GRID.origin) / GRID.voxel_size).astype(np.int64)
    return memory.describe(np.full(GRID.shape, word, np.float32), index).numpy()


def test_one_set_is_counted_as_carving_counts_it():
    memory, placed = RayMemory(GRID), place()
    add(memory, 8.1)
    rays = make_rays(placed, measure(placed, wall(8.1)))
    counts = np.zeros((*GRID.shape[:2], 4 * GRID.shape[2], 2), np.float32)
    no_votes, no_wrap = np.zeros((0, 0, 0, 0), np.float32), np.zeros(3, np.int64)
    no_fresh = np.zeros((0, 0, 0, 2), np.float32)
    add_rays(
        rays.T_ego_cam[0], rays.lenses[0], rays.depth[0], rays.half[0], rays.weight[0], rays.classes[0],
        np.array(GRID.origin), np.array([0.4, 0.4, 0.1]), 4, no_wrap, counts, no_fresh, no_votes,
    )  # fmt: skip
    ends, passes = np.moveaxis(counts.reshape(*GRID.shape, 4, 2), -1, 0)
    where = np.argwhere(passes.sum(axis=-1) + ends.sum(axis=-1) > 1.0)
    where = where[where[:, 0] > 14]  # from 1.6 m in front: all rays begin on the border of two cells
    found = memory.describe(np.full(GRID.shape, 0.5, np.float32), where).numpy()
    share = np.where(ends >= 0.2, ends / np.maximum(ends + passes, 1e-9), 0.0)
    expected = np.stack([share.max(-1) + 0.01, ends.max(-1) + 0.1, passes.sum(-1) + 0.1], axis=-1)[tuple(where.T)]
    assert len(where) > 300 and (ends.max(axis=-1) > 1.0).sum() > 20
    # The window lies a hair beside the grid: rays along a border fall to the other side of it.
    assert np.isclose(found[:, SHARE:], np.log(expected), atol=0.03).mean() > 0.98


def test_a_wall_stays_where_it_is_while_the_robot_drives_and_turns_for_long():
    memory = RayMemory(GRID)
    for n in range(400):  # 80 m, several times around the window
        add(memory, 0.2 * n + 6.1, x=0.2 * n, stamp_s=0.1 * n)  # a wall that goes with it is nowhere for long
    for n in range(400, 420):
        add(memory, 88.1, x=80.0 + 0.1 * (n - 400), stamp_s=0.1 * n)
    here, front, behind = look(memory, (6.2, 0.1, 1.1), (4.2, 0.1, 1.1), (7.4, 0.1, 1.1))
    assert here[SHARE] > np.log(0.5) and here[ENDS] > front[ENDS] and behind[PASSES] < front[PASSES]
    yaw = 0.5
    T = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    turned = RayMemory(GRID)
    add(turned, 8.1)
    moved = make_transform(T, np.zeros(3))
    add(turned, 1000.0, stamp_s=0.5, pose=moved, shows=np.zeros((1, HEIGHT, WIDTH), bool))  # only where it is now
    x, y, _ = T.T @ (8.2, 0.1, 1.1)
    assert look(turned, (x, y, 1.1))[0, SHARE] > np.log(0.5)


def test_the_first_two_features_and_the_word():
    memory = RayMemory(GRID)
    add(memory, 8.1)
    (found,) = look(memory, (3.0, 4.2, 1.0), word=0.8)
    assert found[0] == pytest.approx(np.log(0.81 / 0.21), abs=1e-5)
    assert found[1] == pytest.approx(0.1 * np.hypot(3.0, 4.2), abs=0.03) and found[2] == pytest.approx(1.0, abs=0.21)
    assert len(found) == FEATURES


@pytest.mark.parametrize("then", [{"stamp_s": 0.9}, {"stamp_s": 1.1, "run": 1}, {"stamp_s": 90.0}])
def test_an_earlier_stamp_another_run_and_a_long_pause_forget(then):
    memory, fresh = RayMemory(GRID), RayMemory(GRID)
    for n in range(5):
        add(memory, 5.0, stamp_s=1.0 + 0.02 * n if "run" in then else 1.0 - 0.002 * (4 - n))
    for each in (memory, fresh):
        add(each, 8.1, **then)
    places = [(5.0, 0.1, 1.1), (8.2, 0.1, 1.1), (3.0, 1.0, 1.0)]
    np.testing.assert_array_equal(look(memory, *places), look(fresh, *places))
    memory.reset()
    assert memory.is_empty


def turned(degrees, x=0.0):
    a = np.radians(degrees)
    return make_transform(
        np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]), np.array([x, 0, 0])
    )


@pytest.mark.parametrize("pose", [turned(90.0), turned(0.0, 8.0)])
def test_a_jump_of_odometry_forgets_also_after_sets_without_a_motion(pose):
    """Within one run: the ring compares with the newest set, which may have had no pose."""
    memory = RayMemory(GRID)
    for n in range(6):
        add(memory, 6.0, stamp_s=0.1 * n)
    add(memory, 6.0, stamp_s=0.55, pose=turned(2.0, 0.1))
    assert memory.sets == 7
    add(memory, 6.0, stamp_s=0.75, pose=pose)
    assert memory.sets == 1


def test_what_was_seen_long_ago_counts_less_and_numbers_stay_small():
    memory = RayMemory(GRID, MemorySettings(seconds=0.5))
    add(memory, 5.0)
    (before,) = look(memory, (5.0, 0.1, 1.1))
    for n in range(1, 1000):
        add(memory, 1000.0, stamp_s=0.1 * n, shows=np.zeros((1, HEIGHT, WIDTH), bool))
        if n == 5:
            (later,) = look(memory, (5.0, 0.1, 1.1))
    assert np.exp(later[ENDS]) - 0.1 == pytest.approx((np.exp(before[ENDS]) - 0.1) * np.exp(-1.0), rel=1e-3)
    add(memory, 5.0, stamp_s=100.0)
    np.testing.assert_allclose(look(memory, (5.0, 0.1, 1.1))[0], before, atol=1e-4)


def test_cells_that_do_not_show_the_world_say_nothing_and_a_pose_that_is_none_is_refused():
    memory = RayMemory(GRID)
    shows = np.ones((1, HEIGHT, WIDTH), bool)
    shows[:, :, WIDTH // 2 :] = False  # the right half
    add(memory, 8.1, shows=shows)
    left, right = look(memory, (8.2, 1.0, 1.1), (8.2, -1.0, 1.1))
    assert left[ENDS] > 0 and right[ENDS] == pytest.approx(np.log(0.1))
    with pytest.raises(PredictionError, match="no place on Earth"):
        add(memory, 8.1, stamp_s=0.1, pose=np.full((4, 4), np.nan))
    with pytest.raises(ValueError, match="above 0"):
        MemorySettings(seconds=0.0)


def probability(memory, at, word):
    """Of one place, by the head that ships."""
    opacity = np.full(GRID.shape, word, np.float32)
    said = memory.weigh(load_model(default_checkpoint()).memory, opacity, np.ones(GRID.shape, bool))
    return said[tuple(np.floor((np.array(at) - GRID.origin) / GRID.voxel_size).astype(int))]


@pytest.mark.parametrize("at", [4.0, 6.05, 10.05])
@pytest.mark.parametrize("rate", [12.0, 5.0])
def test_what_left_is_gone_within_a_second_however_long_it_stood_there(at, rate):
    memory, place = RayMemory(GRID), (at + 0.1, 0.1, 1.1)
    stood = int(10 * rate)
    for n in range(stood):
        add(memory, at, stamp_s=n / rate)
    assert probability(memory, place, 0.8) > 0.9 and probability(memory, place, 0.3) > 0.55
    for n in range(int(rate)):
        add(memory, 20.0, stamp_s=(stood + n) / rate)
    assert probability(memory, place, 0.3) < 0.25


@pytest.mark.parametrize("at", [4.0, 6.05, 10.05])
def test_what_comes_is_not_denied_because_nothing_was_there(at):
    memory, place = RayMemory(GRID), (at + 0.1, 0.1, 1.1)
    for n in range(60):
        add(memory, 20.0, stamp_s=n / 12.0)
    assert probability(memory, place, 0.7) < 0.55  # a ghost of one moment
    add(memory, at, stamp_s=5.0)
    add(memory, at, stamp_s=5.0 + 1 / 12.0)
    assert probability(memory, place, 0.7) > 0.69


def test_the_kernel_weighs_as_the_head_does():
    torch.manual_seed(1)
    memory, head = RayMemory(GRID), MemoryHead()
    for n in range(4):
        add(memory, 8.1, x=0.2 * n, stamp_s=0.1 * n)
    word = np.random.default_rng(0).random(GRID.shape).astype(np.float32)
    word[:5] = 0.001  # nobody doubts it
    observed = np.ones(GRID.shape, bool)
    observed[:, :3] = False
    said = memory.weigh(head, word, observed)
    where = np.argwhere(np.ones(GRID.shape, bool))
    with torch.no_grad():
        expected = torch.sigmoid(head(memory.describe(word, where))).numpy().reshape(GRID.shape)
    weighed = observed & (word > 0.02)
    right = (said >= expected - 1e-4) & ((said <= expected + 1e-4) | (said == word))  # no veto where something comes
    assert right[weighed].all() and np.isclose(said, expected, atol=1e-4)[weighed].mean() > 0.95
    np.testing.assert_array_equal(said[:, :3], word[:, :3])
    np.testing.assert_array_equal(said[:5], word[:5])


# ---- the decision, taken again -------------------------------------------------------------------------------------

LATTICE = Lattice((-4.0, -8.0, -1.0), (20.0, 8.0, 3.8), (60, 40, 12))
CAR, ROAD = CLASS_ID["car"], CLASS_ID["driveable_surface"]


def decided_free():
    opacity = np.full(GRID.shape, 0.1, np.float32)
    labels = np.full(GRID.shape, FREE, np.uint8)
    labels[0] = UNOBSERVED
    labels[1], opacity[1] = CAR, 0.8
    return Decided(labels, 1.0 - opacity, labels != UNOBSERVED, None, opacity, np.ones(GRID.shape, bool))


def field_of(name):
    logits = torch.zeros(1, len(CLASS_NAMES), *LATTICE.shape)
    logits[:, CLASS_ID[name]] = 4.0
    return OccupancyField(logits)


def recall(beyond=None):
    beyond = np.zeros(GRID.shape[:2], bool) if beyond is None else beyond
    return Recall(MemoryHead(), LATTICE, GRID, CLASS_NAMES, beyond, np.zeros(GRID.shape[2], bool))


def test_what_memory_finds_gets_its_class_from_the_network_and_what_it_doubts_is_hidden():
    decided, probability = decided_free(), np.full(GRID.shape, 0.05, np.float32)
    probability[0] = 0.9  # nobody looks there
    probability[10, 10, 3], probability[11, 10, 3], probability[1, 5, 5] = 0.9, 0.35, 0.7
    passed = decided.passed.copy()
    passed[12] = False
    again = recall()(replace(decided, passed=passed), probability, field_of("car"), 0.45)
    assert (again.labels[0] == UNOBSERVED).all() and (again.confidence[0] == decided.confidence[0]).all()
    assert again.labels[10, 10, 3] == CAR and 0.6 < again.confidence[10, 10, 3] < 0.9
    assert again.labels[11, 10, 3] == OCCLUDED and again.confidence[11, 10, 3] == 0.0  # too likely to be free
    assert again.labels[1, 5, 5] == CAR and again.labels[1, 6, 5] == FREE  # what it denies is gone
    assert (again.labels[12] == OCCLUDED).all() and again.labels[20, 20, 4] == FREE
    assert again.confidence[20, 20, 4] == pytest.approx(0.95)
    assert np.array_equal(again.opacity, probability) and np.array_equal(decided.labels, decided_free().labels)


def test_beyond_the_models_reach_nothing_is_claimed_and_ground_nowhere():
    beyond = np.zeros(GRID.shape[:2], bool)
    beyond[30:] = True
    probability = np.full(GRID.shape, 0.05, np.float32)
    probability[29:31, 10, 3] = 0.9
    car = recall(beyond)(decided_free(), probability, field_of("car"), 0.5)
    assert car.labels[29, 10, 3] == CAR and car.labels[30, 10, 3] == UNOBSERVED and not car.observed[30, 10, 3]
    road = recall(beyond)(decided_free(), probability, field_of("driveable_surface"), 0.5)
    assert (road.labels[29:31, 10, 3] == OCCLUDED).all() and road.observed[
        30, 10, 3
    ]  # the network's to say, never free
    with_road = decided_free()
    with_road.labels[5, 5, 0], with_road.opacity[5, 5, 0], probability[5, 5, 0] = ROAD, 0.9, 0.8
    assert recall()(with_road, probability, field_of("driveable_surface"), 0.5).labels[5, 5, 0] == ROAD


assert SURE < 0.05
