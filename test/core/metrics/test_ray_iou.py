# SPDX-License-Identifier: Apache-2.0
"""RayIoU against scenes whose answer is known, and against the published code's numbers."""

import numpy as np
import pytest

from gaussianocc_core.labels import CLASS_ID, FREE
from gaussianocc_core.metrics import RayIoU, RayIoUConfig, cast_rays, ray_directions, ray_origins
from gaussianocc_core.types import VoxelGrid

CAR, WALL = CLASS_ID["car"], CLASS_ID["manmade"]
CENTER = np.array([[0.0, 0.0, 1.8]])
FORWARD = np.array([[1.0, 0.0, 0.0]], dtype=np.float32)


def wall_at(x, label=WALL):
    """A wall of one voxel's thickness across the grid, whose near face is x m ahead."""
    labels = np.full(VoxelGrid().shape, FREE, dtype=np.uint8)
    labels[round((x + 40) / 0.4)] = label
    return labels


def test_rays_are_the_published_ones():
    directions = ray_directions()
    assert directions.shape == (39 * 360, 3) and directions.dtype == np.float32
    pitch = np.arcsin(directions[::360, 2].astype(np.float64))
    assert pitch[0] == pytest.approx(-np.pi / 4, abs=1e-6) and pitch[-1] == pytest.approx(0.2190, abs=5e-5)
    # The azimuth is the inner loop: the 91st ray looks left.
    np.testing.assert_allclose(directions[90], [0, np.cos(np.pi / 4), -np.sin(np.pi / 4)], atol=1e-6)


def test_a_ray_ends_where_it_leaves_the_wall():
    label, distance = cast_rays(wall_at(10.0), CENTER, FORWARD, VoxelGrid())
    assert label[0] == WALL and distance[0] == pytest.approx(10.4, abs=1e-5)


def test_without_anything_in_its_way_a_ray_ends_at_the_border():
    empty = np.full(VoxelGrid().shape, FREE, dtype=np.uint8)
    label, distance = cast_rays(empty, CENTER, FORWARD, VoxelGrid())
    assert label[0] == FREE and distance[0] == pytest.approx(40.0, abs=1e-4)


def test_a_ray_that_misses_the_grid_has_the_published_answer():
    labels = wall_at(10.0)
    labels[0, 0, 0] = CAR
    label, distance = cast_rays(labels, np.array([[0.0, 0.0, 9.0]]), FORWARD, VoxelGrid())
    assert label[0] == CAR and distance[0] == pytest.approx(-0.4)


@pytest.mark.parametrize(("offset", "hits"), [(0.0, (1, 1, 1)), (1.2, (0, 1, 1)), (-2.4, (0, 0, 1)), (4.4, (0, 0, 0))])
def test_a_wall_at_the_wrong_distance_counts_within_the_threshold(offset, hits):
    scores = RayIoU()
    scores.directions = FORWARD
    scores.update(wall_at(10.0), wall_at(10.0 + offset), CENTER)
    np.testing.assert_array_equal(scores.per_class()[:, WALL], hits)  # one ray: IoU 1 or 0 / (1 + 1)
    assert np.isnan(np.delete(scores.per_class(), WALL, axis=1)).all()
    assert scores.summary()["ray_iou"] == pytest.approx(np.mean(hits))


def test_the_wrong_class_at_the_right_distance_is_a_miss_for_both_classes():
    scores = RayIoU()
    scores.directions = FORWARD
    scores.update(wall_at(10.0), wall_at(10.0, CAR), CENTER)
    assert (scores.per_class()[:, [WALL, CAR]] == 0).all()


def test_rays_into_free_space_do_not_count_whatever_is_predicted_there():
    scores = RayIoU()
    scores.directions = FORWARD
    scores.update(np.full(VoxelGrid().shape, FREE, dtype=np.uint8), wall_at(10.0), CENTER)
    assert scores.counts().sum() == 0 and np.isnan(scores.summary()["ray_iou"])


def test_an_unobserved_prediction_is_free():
    scores = RayIoU()
    scores.directions = FORWARD
    scores.update(wall_at(10.0), np.full(VoxelGrid().shape, 255, dtype=np.uint8), CENTER)
    assert scores.per_class()[:, WALL].tolist() == [0, 0, 0] and scores.counts()[-1, FREE] == 1


def test_origins_are_the_drive_in_the_frame_of_the_sample():
    T_world_ego = np.eye(4)
    T_world_ego[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]  # faces world y
    T_world_ego[:3, 3] = 100.0, 50.0, 2.0
    drive = np.stack([np.full(41, 100.0), np.linspace(-50, 150, 41), np.full(41, 3.8)], axis=1)  # 5 m apart
    origins = ray_origins(drive, T_world_ego)
    # Strictly within 39 m: -35..35 in steps of 5, 15 places; of these round(linspace(0, 14, 8)) = 0, 2, ... 14.
    np.testing.assert_allclose(origins, [(x, 0, 1.8) for x in range(-35, 36, 10)], atol=1e-9)
    few = ray_origins(drive, T_world_ego, RayIoUConfig(origin_reach=6.0))
    np.testing.assert_allclose(few[:, 0], [-5, 0, 5], atol=1e-9)


def test_published_rays_and_scores_are_reproduced(shared_data):
    golden = np.load(shared_data / "golden" / "metrics.npz")
    scores = RayIoU()
    assert len(scores.directions) == golden["ray_count"]
    np.testing.assert_array_equal(scores.directions[:5], golden["ray_dirs_first"])
    scores.directions = scores.directions[:: int(golden["ray_subset_step"])]
    casts = {
        name: cast_rays(golden[f"occ_{name}"][0], golden["ray_origins"], scores.directions, scores.grid)
        for name in ("gt", "pred")
    }
    counted = casts["gt"][0] != FREE
    for name, (label, distance) in casts.items():
        np.testing.assert_array_equal(label[counted], golden[f"ray_{name}0"][:, 0])
        np.testing.assert_array_equal(distance[counted], golden[f"ray_{name}0"][:, 1])
    for truth, prediction in zip(golden["occ_gt"], golden["occ_pred"], strict=True):
        scores.update(truth, prediction, golden["ray_origins"])
    np.testing.assert_array_equal(scores.per_class(), golden["rayiou_124"])
    assert scores.summary()["ray_iou"] == pytest.approx(golden["rayiou_mean"], abs=1e-15)
