# SPDX-License-Identifier: Apache-2.0
"""Free only where rays were seen to pass: walls at known depths, worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.rigs import ring

from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry import voxels
from gaussianocc_core.labels import CLASS_ID, CLASS_NAMES, FREE, OCCLUDED, UNOBSERVED
from gaussianocc_core.models import visibility
from gaussianocc_core.models.visibility import (
    columns_beyond,
    leave_unknown,
    observed_voxels,
    passed_voxels,
    plan_sight,
)
from gaussianocc_core.types import Cameras, VoxelGrid

GRID = VoxelGrid((0.0, -4.0, -1.0), 0.5, (24, 16, 8))  # centres at x = 0.25, 0.75, ... 11.75 m
STRIDE = 2
HEIGHT, WIDTH = 96, 160
SURE = float(np.log(1e-3))  # an expected error that no voxel notices


def looking_ahead(roll_deg: float = 0.0) -> Cameras:
    """One camera 1.25 m above the ego origin that looks along x, so that z-depth is x."""
    c, s = np.cos(np.radians(roll_deg)), np.sin(np.radians(roll_deg))
    optical = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # camera axes in the ego frame
    T = np.eye(4)
    T[:3, :3] = optical @ np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    T[2, 3] = 1.25
    K = torch.tensor([[[100.0, 0.0, WIDTH / 2], [0.0, 100.0, HEIGHT / 2], [0.0, 0.0, 1.0]]])
    return Cameras(("front",), K, torch.from_numpy(T)[None].float(), (WIDTH,), (HEIGHT,))


def lines_of(cameras: Cameras):
    return plan_sight(cameras, GRID, np.ones((len(cameras), HEIGHT, WIDTH), dtype=bool), STRIDE)


def depth_map(depth: float) -> np.ndarray:
    return np.full((1, HEIGHT // STRIDE, WIDTH // STRIDE), 1.0 / depth, dtype=np.float32)


def error_map(log_error: float) -> np.ndarray:
    return np.full((1, HEIGHT // STRIDE, WIDTH // STRIDE), log_error, dtype=np.float32)


X = voxels.axis_centers(GRID, 0)[:, None, None] + np.zeros(GRID.shape)


@pytest.mark.parametrize("wall", [4.9, 5.0, 5.1, 5.4, 7.0])
def test_in_front_of_a_wall_is_passed_to_the_far_side_of_the_voxel(wall):
    lines = lines_of(looking_ahead())
    passed = passed_voxels(lines, depth_map(wall), error_map(SURE))
    clear = wall * np.exp(-1e-3) > X + 0.25  # the voxel's far side lies before the wall
    np.testing.assert_array_equal(passed, clear & lines.centred)
    # To the voxel: a wall at 5.1 m lies in the voxel from 5.0 to 5.5 m, and the one before it was passed.
    last = X[passed].max()
    assert last == {4.9: 4.25, 5.0: 4.25, 5.1: 4.75, 5.4: 4.75, 7.0: 6.25}[wall]


def test_what_may_be_nearer_by_its_expected_error_is_in_doubt():
    lines = lines_of(looking_ahead())
    sure, unsure = (passed_voxels(lines, depth_map(8.0), error_map(np.log(e))) for e in (1e-3, 0.2))
    assert X[sure].max() == 7.25 and X[unsure].max() == 4.25  # 8 m exp(-2.5 x 0.2) = 4.85 m
    assert not (unsure & ~sure).any()
    unsaid = passed_voxels(lines, depth_map(8.0))
    np.testing.assert_array_equal(unsaid, passed_voxels(lines, depth_map(8.0), error_map(np.log(0.2))))


def test_sky_passes_everything_in_view():
    lines = lines_of(looking_ahead())
    passed = passed_voxels(lines, depth_map(200.0), error_map(np.log(0.3)))
    np.testing.assert_array_equal(passed, lines.centred)
    assert 0.3 < passed.mean() < 0.9


def test_one_camera_that_sees_past_is_enough():
    front = looking_ahead()
    both = replace(
        front,
        names=("near", "far"),
        intrinsics=front.intrinsics.repeat(2, 1, 1),
        T_ego_cam=front.T_ego_cam.repeat(2, 1, 1),
        width=front.width * 2,
        height=front.height * 2,
        model=front.model * 2,
        distortion=front.distortion * 2,
    )
    maps = np.concatenate([depth_map(3.0), depth_map(9.0)])
    errors = np.concatenate([error_map(SURE)] * 2)
    alone = passed_voxels(lines_of(front), depth_map(9.0), error_map(SURE))
    np.testing.assert_array_equal(passed_voxels(lines_of(both), maps, errors), alone)


@pytest.mark.parametrize(("roll", "down"), [(0.0, (1, 0)), (180.0, (-1, 0)), (90.0, (0, 1)), (-90.0, (0, -1))])
def test_rays_beside_and_above_a_voxel_must_pass_and_those_below_need_not(roll, down):
    """However the camera is mounted. down: rows, columns of the image towards the ground."""
    cameras = looking_ahead(roll)
    lines = lines_of(cameras)
    voxel = (8, 8, 4)  # centre 4.25, 0.25, 1.25 m: at the camera's height, nearly on its axis
    index = np.ravel_multi_index(voxel, GRID.shape)
    assert lines.first[index + 1] - lines.first[index] == 1
    cell = int(lines.cell[lines.first[index]]) % (HEIGHT // STRIDE * (WIDTH // STRIDE))
    row, column = divmod(cell, WIDTH // STRIDE)
    across = (down[1], down[0])

    def passes(offset: tuple[int, int]) -> bool:
        maps = depth_map(9.0)
        maps[0, row + offset[0], column + offset[1]] = 1.0 / 3.0
        return bool(passed_voxels(lines, maps, error_map(SURE))[voxel])

    # 0.25 m at 4.25 m are 5.9 pixels, 3 cells.
    for n in range(-5, 6):
        assert passes((n * down[0], n * down[1])) == (n < -3 or n > 0), n
        assert passes((n * across[0], n * across[1])) == (abs(n) > 3), n


def test_lines_go_where_cameras_look():
    rig = camera_geometry.resize(ring(), 160, 96).to(dtype=torch.float32)
    grid = VoxelGrid((-8.0, -8.0, -1.0), 0.5, (32, 32, 8))
    valid = np.random.default_rng(0).random((6, 96, 160)) > 0.3
    valid[2] = False
    lines = plan_sight(rig, grid, valid, STRIDE)
    assert not (lines.centred & ~observed_voxels(rig, grid, valid)).any()
    pixels, depth = camera_geometry.project(voxels.centers(grid).flatten(0, 2), rig.intrinsics, rig.T_ego_cam)
    cells = lines.cell % (6 * 48 * 80)
    owner = np.repeat(np.arange(32 * 32 * 8), np.diff(lines.first))
    camera, row, column = cells // (48 * 80), cells // 80 % 48, cells % 80
    np.testing.assert_allclose(depth.numpy()[camera, owner], lines.depth, atol=1e-3)
    off = np.abs(pixels.numpy()[camera, owner] - 2.0 * np.stack([column, row], axis=1) - 1.0)
    assert off.max() < 1.01  # half a cell


def test_free_without_a_ray_is_occluded_and_what_is_found_stays():
    grid = VoxelGrid((-2.0, -2.0, 0.0), 1.0, (4, 4, 1))
    labels = np.full(grid.shape, FREE, dtype=np.uint8)
    labels[1], labels[3, 3] = CLASS_ID["car"], CLASS_ID["car"]
    confidence = np.full(grid.shape, 0.9, dtype=np.float32)
    seen = np.ones(grid.shape, dtype=bool)
    seen[:, 0] = False
    passed = np.zeros(grid.shape, dtype=bool)
    passed[0] = passed[1] = True
    nowhere = columns_beyond(grid, 0.0)
    before = labels.copy()
    observed = leave_unknown(labels, confidence, seen, passed, nowhere, CLASS_NAMES)
    car = CLASS_ID["car"]
    assert labels[:, :, 0].tolist() == [
        [UNOBSERVED, FREE, FREE, FREE],
        [UNOBSERVED, car, car, car],
        [UNOBSERVED, OCCLUDED, OCCLUDED, OCCLUDED],
        [UNOBSERVED, OCCLUDED, OCCLUDED, car],
    ]
    np.testing.assert_array_equal(observed, seen)
    np.testing.assert_array_equal(confidence > 0, labels < OCCLUDED)
    unasked = before.copy()
    leave_unknown(unasked, np.ones(grid.shape, np.float32), seen, None, nowhere, CLASS_NAMES)
    assert not (unasked == OCCLUDED).any() and (unasked[:, 1:] == before[:, 1:]).all()


def test_sight_lines_cost_milliseconds_of_a_large_grid():
    """The shape of the published grid: what is precomputed stays small, and a frame costs one pass over it."""
    rig = camera_geometry.resize(ring(), 176, 96).to(dtype=torch.float32)
    lines = plan_sight(rig, VoxelGrid(), np.ones((6, 96, 176), dtype=bool), STRIDE)
    assert len(lines.cell) < 2 * 640_000 and lines.cell.nbytes + lines.depth.nbytes < 12e6
    assert lines.cell.max() < visibility._LEVELS * 6 * 48 * 88
