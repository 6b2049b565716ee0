# SPDX-License-Identifier: Apache-2.0
"""Depth of a recording's sets, with views before and after."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.carving import place

from gaussianocc_core.checkpoint import load_depth_net
from gaussianocc_core.errors import CheckpointError
from gaussianocc_core.geometry.cameras import resize
from gaussianocc_core.mapping.matched import MatchedDepth, MatchSettings
from gaussianocc_core.mapping.motion import LearntMotion, RecordedMotion
from gaussianocc_core.mapping.recording import load_matching
from gaussianocc_core.mapping.sets import see
from gaussianocc_core.models.depth_refinement import FarViewSettings
from gaussianocc_core.models.depth_refinement_cpu import compare_views
from gaussianocc_core.models.image_encoder import Look
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.synthetic import World, default_rig, render_frame
from gaussianocc_core.types import Sample

WEIGHTS = Path(__file__).resolve().parents[3] / "gaussianocc_core" / "weights"
RATE, FRAMES = 12.0, 9
LOOK = Look(torch.zeros(1, 1, 1, 1), None)


@pytest.fixture(scope="module")
def loaded():
    return load_depth_net(WEIGHTS / "tiny_matching.safetensors")


@pytest.fixture(scope="module")
def drive(loaded):
    """Sets of a street, and their true depth at the size of the maps."""
    world, rig = World(901, duration=3.0), resize(default_rig(), 352, 192)
    rig = rig.select(rig.names[:3])
    preprocess, sets, truth = Preprocessor.of(loaded.config), [], []
    for k in range(FRAMES):
        time = 0.5 + k / RATE
        frame = render_frame(world, rig, time)
        T = world.T_world_ego(time)
        sample = Sample(
            f"set-{k}", "street", round(time * 1e9), frame.images, rig, T, T_world_ego_per_camera=np.stack([T] * 3)
        )
        sets.append(see(sample, preprocess(rig)))
        truth.append(np.stack(frame.depths)[:, 2::4, 2::4])
    return sets, np.stack(truth)


def run(loaded, sets, settings=None, motion=None):
    config, settings = loaded.config, settings or MatchSettings()
    matched = MatchedDepth(
        loaded.depth_net, config.image_width, config.image_height, motion or RecordedMotion(), settings
    )
    found, waiting = [], []
    for each in sets:
        found += matched.add(each)
        waiting.append(len(matched._sets))
    return found + matched.flush(), waiting


def log_errors(found, truth):
    depth = np.stack([maps.depth for _, maps in found])
    near = (truth > 0.5) & (truth < 30.0)
    return np.abs(np.log(depth[near] / truth[near]))


@pytest.fixture(scope="module")
def refined(loaded, drive):
    return run(loaded, drive[0])[0]


def test_every_set_comes_out_once_and_in_order(drive, refined):
    assert [placed.seen.token for placed, _ in refined] == [each.token for each in drive[0]]
    assert all(np.isfinite(maps.depth).all() and (maps.depth > 0).all() for _, maps in refined)


def test_far_views_make_depth_better(loaded, drive, refined):
    plain = log_errors(run(loaded, drive[0], MatchSettings(far=FarViewSettings(ways=())))[0], drive[1])
    better = log_errors(refined, drive[1])
    assert np.median(better) < 0.85 * np.median(plain)
    assert better.mean() < 1.05 * plain.mean()  # what is far off stays so


def test_what_comes_after_helps_the_first_set(loaded, drive):
    sets, truth = drive
    alone = run(loaded, sets[:1])[0]
    with_more = run(loaded, sets)[0][:1]
    assert log_errors(with_more, truth[:1]).mean() < log_errors(alone, truth[:1]).mean()


def test_sets_of_another_run_are_not_matched(loaded, drive, refined):
    sets, _ = drive
    jumped = []
    for k, each in enumerate(sets):
        T = each.T_world_ego.copy()
        T[0, 3] += 500.0 * (k >= 5)  # odometry starts anew
        jumped.append(type(each)(**{**vars(each), "T_world_ego": T, "T_world_ego_per_camera": np.stack([T] * 3)}))
    found = run(loaded, jumped)[0]
    assert [placed.run for placed, _ in found] == [0] * 5 + [1] * 4
    first = run(loaded, sets[:5])[0]
    for (_, a), (_, b) in zip(found[:5], first, strict=True):
        np.testing.assert_array_equal(a.depth, b.depth)
    assert not np.array_equal(found[4][1].depth, refined[4][1].depth)


def test_memory_is_bounded_by_time(loaded, drive):
    _, waiting = run(loaded, drive[0], MatchSettings(around=0.2, far=FarViewSettings(ways=())))
    assert max(waiting) <= 2 * int(0.2 * RATE) + 3


def test_a_set_without_motion_is_left_out_and_counted(loaded, drive):
    sets = list(drive[0])
    sets[3] = type(sets[3])(**{**vars(sets[3]), "T_world_ego": None})
    matched = MatchedDepth(
        loaded.depth_net,
        loaded.config.image_width,
        loaded.config.image_height,
        RecordedMotion(),
        MatchSettings(far=FarViewSettings(ways=())),
    )
    found = [each for seen in sets for each in matched.add(seen)] + matched.flush()
    assert len(found) == FRAMES - 1 and matched.without_motion == 1
    assert found[2][0].run != found[3][0].run


def test_learnt_motion_is_about_the_recorded_one(loaded, drive):
    config = loaded.config
    motion = LearntMotion(loaded.depth_net, config.image_width, config.image_height)
    found, _ = run(loaded, drive[0], MatchSettings(far=FarViewSettings(ways=())), motion)
    ways = [
        np.linalg.norm(T[-1][:3, 3] - T[2][:3, 3])
        for T in ([p.T_world_ego for p, _ in found], [p.seen.T_world_ego for p, _ in found])
    ]
    assert motion.lost == 0
    assert ways[0] == pytest.approx(ways[1], rel=0.12)


def test_recorded_motion_begins_a_new_run_at_a_jump_and_after_a_pause():
    motion = RecordedMotion()
    look = LOOK
    stamps_and_places = [(0.0, 0.0), (0.1, 0.5), (0.2, 30.0), (0.3, 30.5), (9.0, 31.0)]
    runs = [motion.place(place(t, x).seen, look).run for t, x in stamps_and_places]
    assert runs == [0, 0, 1, 1, 2]


def test_cameras_are_where_they_were_at_their_own_image_times():
    seen = place(0.0, 0.0).seen
    late = np.stack([np.eye(4)])
    late[0, 0, 3] = 0.4  # by then the rig had gone on by 0.4 m
    seen = type(seen)(**{**vars(seen), "T_world_ego_per_camera": late})
    placed = RecordedMotion().place(seen, LOOK)
    moved = placed.cameras.T_ego_cam[0, :3, 3] - seen.calibrated.T_ego_cam[0, :3, 3]
    np.testing.assert_allclose(moved.numpy(), [0.4, 0.0, 0.0], atol=1e-6)


def test_the_kernel_compares_as_a_plain_loop_does():
    rng = np.random.default_rng(4)
    reference = rng.normal(size=(3, 4, 5)).astype(np.float32)
    sources = rng.normal(size=(2, 6, 7, 5)).astype(np.float32)
    matrices = np.tile(np.eye(3, 4, dtype=np.float32), (2, 1, 1))
    matrices[0, :, 3], matrices[1, :, 3] = (1.3, 0.4, 0.05), (-60.0, 0.0, 0.0)  # the second sees few cells
    inv_depth = rng.uniform(0.5, 1.0, (3, 4)).astype(np.float32)
    spread = np.full((3, 4), 0.2, np.float32)
    spread[1, 2] = 0.0
    steps = np.array([-1.0, 0.0, 1.0], np.float32)
    summed, seen = np.zeros((3, 4, 3), np.float32), np.zeros((3, 4), np.float32)
    compare_views(
        reference, sources, np.arange(2), np.full(2, 10.0, np.float32), matrices, inv_depth, spread, steps, summed, seen
    )
    expected, count = np.zeros_like(summed), np.zeros_like(seen)
    for v, u in np.ndindex(3, 4):
        for s in range(2):
            rho = inv_depth[v, u] * np.exp(-spread[v, u] * steps)
            p = matrices[s] @ np.stack([np.full(3, u + 0.5), np.full(3, v + 0.5), np.ones(3), rho])
            x, y = p[0] / p[2], p[1] / p[2]
            if spread[v, u] == 0 or not ((x >= 0) & (x < 7) & (y >= 0) & (y < 6)).all():
                continue
            count[v, u] += 1
            grid = torch.tensor(np.stack([2 * x / 7 - 1, 2 * y / 6 - 1], -1), dtype=torch.float32)[None, None]
            maps = torch.tensor(sources[s]).permute(2, 0, 1)[None]
            sampled = torch.nn.functional.grid_sample(maps, grid, padding_mode="border", align_corners=False)[0, :, 0]
            there = sampled.numpy() / np.linalg.norm(sampled.numpy(), axis=0)
            expected[v, u] += reference[v, u] @ there
    assert 0 < count.sum() < 2 * 11
    np.testing.assert_array_equal(seen, count)
    np.testing.assert_allclose(summed, expected, atol=1e-4)


def test_a_network_that_looks_at_each_image_alone_is_refused():
    with pytest.raises(CheckpointError, match="does not say how sure it is"):
        load_matching(WEIGHTS / "tiny_stage1.safetensors")
