# SPDX-License-Identifier: Apache-2.0
"""What a depth image says of voxels: ground and walls are where they are, and edges say nothing that is not so."""

import numpy as np
import torch
from support.rigs import ring

from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry import voxels
from gaussianocc_core.training.surfaces import find_surfaces, plan_surfaces
from gaussianocc_core.types import VoxelGrid

GRID = VoxelGrid(voxel_size=0.5, origin=(-12.0, -12.0, -1.25), shape=(48, 48, 8))
H, W = 96, 160


def rig(yaws=(0.0, 60.0, 120.0, 180.0, 240.0, 300.0)):
    return camera_geometry.resize(ring(yaws=yaws), W, H).to(dtype=torch.float32)


def ray_depth(cameras, surfaces):
    """True inverse z-depth of the nearest surface at stride 2; surfaces: (axis, place, test of the hit points)."""
    small = camera_geometry.resize(cameras, W // 2, H // 2)
    far = torch.full((len(cameras), H // 2, W // 2), 500.0)
    one = camera_geometry.unproject(torch.ones_like(far), small.intrinsics, small.T_ego_cam)
    start = small.T_ego_cam[:, None, None, :3, 3]
    ray = one - start
    for axis, place, within in surfaces:
        depth = (place - start[..., axis]) / ray[..., axis]
        hit = start + depth[..., None] * ray
        there = (depth > 0.1) & within(hit)
        far = torch.where(there & (depth < far), depth, far)
    return 1.0 / far


def ground(hit):
    return torch.ones(hit.shape[:-1], dtype=torch.bool)


def test_level_ground_is_one_layer_of_voxels():
    cameras = rig()
    occupied, filled, free = find_surfaces(
        ray_depth(cameras, [(2, 0.0, ground)]), cameras, plan_surfaces(cameras, GRID), 1.0
    )
    assert not filled.any()
    layer = 2  # -0.25 to 0.25 m
    assert occupied[..., layer].float().mean() > 0.6  # the rest lies under the cameras or is seen by none in whole
    assert not occupied[..., :layer].any() and not occupied[..., layer + 1 :].any()
    assert not free[..., : layer + 1].any()
    assert free[..., layer + 1].float().mean() > 0.8


def test_a_wall_is_one_voxel_thick_and_what_is_behind_it_stays_unsaid():
    cameras = rig()

    def wall(hit):
        return (hit[..., 1].abs() < 4) & (hit[..., 2] < 2)

    inv_depth = ray_depth(cameras, [(2, 0.0, ground), (0, 7.2, wall)])
    occupied, filled, free = find_surfaces(inv_depth, cameras, plan_surfaces(cameras, GRID), thickness=1.0)
    x, y, z = (voxels.axis_centers(GRID, axis) for axis in range(3))
    at, middle = int(np.abs(x - 7.25).argmin()), np.abs(y) < 2
    above = (z > 0.5) & (z < 1.5)
    seen = occupied[:, middle][:, :, above]
    assert seen[at].float().mean() > 0.9
    assert not seen[:at].any() and not seen[at + 1 :].any()
    before = (x > 4) & (x < 6.5)
    assert free[before][:, middle][:, :, above].float().mean() > 0.9
    assert not free[at + 1 :, middle][:, :, above].any()
    far_occupied, _, far_free = find_surfaces(inv_depth, cameras, plan_surfaces(cameras, GRID), 1.0, reach=5.0)
    assert not far_occupied[:, middle][:, :, above].any() and far_occupied[..., 2].any()
    assert far_free[before][:, middle][:, :, above].float().mean() > 0.9
    solid = filled[:, middle][:, :, above]
    assert solid[at + 1 : at + 3].float().mean() > 0.9  # a voxel that a corner of lies within a metre
    assert not solid[: at + 1].any() and not solid[at + 3 :].any()


def test_pixels_of_the_robot_itself_say_nothing():
    cameras = rig(yaws=(0.0,))
    valid = torch.zeros(1, H, W, dtype=torch.bool)
    valid[:, :, : W // 2] = True  # the left half, y > 0
    inv_depth = ray_depth(cameras, [(2, 0.0, ground)])
    occupied, _, free = find_surfaces(inv_depth, cameras, plan_surfaces(cameras, GRID, valid))
    left = voxels.axis_centers(GRID, 1) > 0
    assert occupied[:, left].any() and free[:, left].any()
    assert not occupied[:, ~left].any() and not free[:, ~left].any()


def test_cameras_that_disagree_say_nothing():
    cameras = rig(yaws=(0.0, 0.0))
    near, far = ray_depth(cameras, [(0, 5.0, ground)]), ray_depth(cameras, [(0, 9.0, ground)])
    occupied, _, free = find_surfaces(torch.stack([near[0], far[0]]), cameras, plan_surfaces(cameras, GRID))
    x = voxels.axis_centers(GRID, 0)
    between = (x > 5.6) & (x < 8.4)
    assert not occupied[between].any() and not free[between].any()
    assert free[(x > 2) & (x < 4.4)].any()


def test_a_blurred_edge_is_no_wall_along_the_ray():
    cameras = rig(yaws=(0.0,))

    def post(hit):
        return (hit[..., 1].abs() < 0.6) & (hit[..., 2] < 2.5)

    sharp = ray_depth(cameras, [(2, 0.0, ground), (0, 5.2, post), (0, 11.2, ground)])
    blurred = torch.nn.functional.avg_pool2d(sharp[:, None], (1, 9), 1, (0, 4), False, False)[:, 0]
    x, z = voxels.axis_centers(GRID, 0), voxels.axis_centers(GRID, 2)
    between, above = (x > 6.5) & (x < 10.0), (z > 0.5) & (z < 2.0)
    occupied, _, _ = find_surfaces(blurred, cameras, plan_surfaces(cameras, GRID))
    assert not occupied[between][:, :, above].any()
    assert occupied[(x > 5.0) & (x < 5.5)][:, :, above].any() and occupied[x > 11.0][:, :, above].any()
