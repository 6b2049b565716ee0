# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from support.rigs import ring

from gaussianocc_core.geometry import cameras, transforms, voxels
from gaussianocc_core.types import Cameras, VoxelGrid


def random_transform(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return transforms.make_transform(transforms.quat_to_matrix(random.normal(size=4)), random.normal(size=3))


@pytest.mark.parametrize("seed", range(8))
def test_quaternions_and_matrices_are_inverse(seed):
    rotation = random_transform(seed)[:3, :3]
    np.testing.assert_allclose(transforms.quat_to_matrix(transforms.matrix_to_quat(rotation)), rotation, atol=1e-12)


def test_quaternion_of_a_quarter_turn_about_z_moves_x_to_y():
    half = np.sqrt(0.5)
    np.testing.assert_allclose(
        transforms.quat_to_matrix(np.array([half, 0, 0, half])) @ [1, 0, 0], [0, 1, 0], atol=1e-12
    )


@pytest.mark.parametrize("axis", range(3))
def test_half_turns_survive_the_round_trip(axis):
    quat = np.eye(4)[axis + 1]
    np.testing.assert_allclose(transforms.matrix_to_quat(transforms.quat_to_matrix(quat)), quat, atol=1e-12)


def test_invert_composes_to_identity():
    T = torch.from_numpy(random_transform(3))
    torch.testing.assert_close(transforms.invert(T) @ T, torch.eye(4, dtype=torch.float64))


def test_interpolate_halfway_along_a_turn():
    start = np.eye(4)
    end = transforms.make_transform(
        transforms.quat_to_matrix(np.array([np.sqrt(0.5), 0, 0, np.sqrt(0.5)])), np.array([2.0, 0.0, 0.0])
    )
    middle = transforms.interpolate(start, end, 0.5)
    assert np.degrees(np.arctan2(middle[1, 0], middle[0, 0])) == pytest.approx(45.0)
    np.testing.assert_allclose(middle[:3, 3], [1.0, 0, 0])


def test_point_ahead_lands_in_the_image_centre_with_its_distance():
    rig = ring(yaws=(0.0,))
    pixels, depth = cameras.project(
        torch.tensor([[11.0, 0.0, 1.5]], dtype=torch.float64), rig.intrinsics, rig.T_ego_cam
    )
    torch.testing.assert_close(pixels[0, 0], torch.tensor([80.0, 45.0], dtype=torch.float64))
    assert depth[0, 0] == pytest.approx(10.0)


def test_point_to_the_left_lands_in_the_left_half():
    rig = ring(yaws=(0.0,))
    pixels, _ = cameras.project(torch.tensor([[11.0, 2.0, 1.5]], dtype=torch.float64), rig.intrinsics, rig.T_ego_cam)
    assert pixels[0, 0, 0] < 80


def test_point_behind_camera_is_not_visible():
    rig = ring(yaws=(0.0,))
    pixels, depth = cameras.project(
        torch.tensor([[-5.0, 0.0, 1.5]], dtype=torch.float64), rig.intrinsics, rig.T_ego_cam
    )
    assert not cameras.in_view(pixels, depth, 160, 90).any()


def test_unproject_inverts_project():
    rig = ring()
    depth = torch.rand(6, 90, 160, dtype=torch.float64) * 20 + 1
    points = cameras.unproject(depth, rig.intrinsics, rig.T_ego_cam)
    pixels, z = cameras.project(points[2].reshape(-1, 3), rig.intrinsics, rig.T_ego_cam)
    torch.testing.assert_close(z[2].view(90, 160), depth[2])
    torch.testing.assert_close(pixels[2].view(90, 160, 2)[10, 20], torch.tensor([20.5, 10.5], dtype=torch.float64))


def test_resizing_scales_projections_with_the_image():
    rig = ring(yaws=(0.0,))
    small = cameras.resize(rig, 80, 30)
    point = torch.tensor([[8.0, 1.0, 1.0]], dtype=torch.float64)
    full, _ = cameras.project(point, rig.intrinsics, rig.T_ego_cam)
    scaled, _ = cameras.project(point, small.intrinsics, small.T_ego_cam)
    torch.testing.assert_close(scaled[0, 0], full[0, 0] * torch.tensor([0.5, 1 / 3], dtype=torch.float64))
    assert (small.width[0], small.height[0]) == (80, 30)


def test_relocated_camera_of_a_moving_rig_stands_where_it_was():
    rig = ring(yaws=(0.0, 180.0))
    at_anchor = np.eye(4)
    later = transforms.make_transform(np.eye(3), np.array([0.4, 0.0, 0.0]))  # 40 ms at 10 m/s
    moved = cameras.relocate(rig, torch.from_numpy(np.stack([at_anchor, later])), torch.from_numpy(at_anchor))
    torch.testing.assert_close(moved.T_ego_cam[0], rig.T_ego_cam[0])
    torch.testing.assert_close(moved.T_ego_cam[1, :3, 3] - rig.T_ego_cam[1, :3, 3], torch.tensor([0.4, 0, 0]).double())


def test_voxel_flat_order_has_x_fastest():
    labels = np.zeros((3, 4, 5), dtype=np.uint8)
    labels[2, 1, 3] = 7
    flat = voxels.flatten(labels)
    assert flat[2 + 3 * (1 + 4 * 3)] == 7
    np.testing.assert_array_equal(voxels.unflatten(flat, (3, 4, 5)), labels)


def test_voxel_centres_are_located_in_their_own_voxels():
    grid = VoxelGrid(origin=(-2.0, 1.0, 0.5), voxel_size=0.3, shape=(4, 5, 6))
    centres = voxels.centers(grid).reshape(-1, 3).numpy()
    index, inside = voxels.locate(grid, centres)
    assert inside.all()
    np.testing.assert_allclose(voxels.index_centers(grid, index), centres, atol=1e-6)
    assert not voxels.locate(grid, np.array([[-2.001, 1.1, 0.6]]))[1].any()


def test_cameras_refuse_what_does_not_fit_together():
    eye = torch.eye(4)[None]
    with pytest.raises(ValueError, match=r"intrinsics: expected"):
        Cameras(("a", "b"), torch.eye(3)[None], eye, (1, 1), (1, 1))
    with pytest.raises(ValueError, match="unique"):
        Cameras(("a", "a"), torch.eye(3).expand(2, 3, 3), eye.expand(2, 4, 4), (1, 1), (1, 1))
    with pytest.raises(KeyError, match="CAM_9"):
        ring().select(("CAM_9",))


def test_select_keeps_the_asked_order():
    assert ring().select(("CAM_3", "CAM_0")).names == ("CAM_3", "CAM_0")
