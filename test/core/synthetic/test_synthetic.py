# SPDX-License-Identifier: Apache-2.0
"""The street world: image, depth, labels, lidar and voxels come from one cast and must agree."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from gaussianocc_core.geometry.cameras import resize
from gaussianocc_core.geometry.rig_file import load_rig
from gaussianocc_core.geometry.voxels import index_centers, locate
from gaussianocc_core.labels import CLASS_ID, FREE
from gaussianocc_core.synthetic import Lidar, World, default_rig, fisheye_rig, occupancy, render_frame, scan_lidar
from gaussianocc_core.synthetic.rig import pixel_directions
from gaussianocc_core.synthetic.streets import Street
from gaussianocc_core.types import EQUIDISTANT, PINHOLE, Cameras, VoxelGrid

ROOT = Path(__file__).resolve().parents[3]
TIME = 1.0
GRID = VoxelGrid()
STATIC = [CLASS_ID[name] for name in ("driveable_surface", "sidewalk", "terrain", "manmade", "vegetation")]


@pytest.fixture(scope="module")
def rig():
    return resize(default_rig(), 200, 112)


@pytest.fixture(scope="module")
def world():
    return World(seed=4)  # a bend in a town


@pytest.fixture(scope="module")
def frame(world, rig):
    return render_frame(world, rig, TIME, noise=0.0)


@pytest.fixture(scope="module")
def truth(world, rig):
    return occupancy(world, TIME, GRID, rig)


def ego_points(frame, rig, index):
    """Ego-frame points (H, W, 3) of one camera's depth, and which pixels are away from depth edges."""
    depth = frame.depths[index]
    rays = pixel_directions(rig, index)
    T = rig.T_ego_cam[index].double().numpy()
    points = (rays / rays[..., 2:] * depth[..., None]) @ T[:3, :3].T + T[:3, 3]
    near, far = cv2.erode(depth, np.ones((3, 3))), cv2.dilate(depth, np.ones((3, 3)))
    return points, (depth > 0) & (far < 1.05 * near)


def test_a_depth_pixel_lies_in_an_occupied_voxel_that_mostly_has_its_label(frame, truth, rig):
    occupied = same = total = 0
    for index in range(len(rig)):
        points, smooth = ego_points(frame, rig, index)
        voxel, inside = locate(GRID, points[smooth])
        voxel, label = voxel[inside], frame.labels[index][smooth][inside]
        found = truth.semantics[tuple(voxel.T)]
        occupied, same, total = occupied + (found != FREE).sum(), same + (found == label).sum(), total + len(found)
    assert total > 20_000
    assert occupied / total > 0.999  # by construction; the rest is float32 depth at voxel borders
    assert same / total > 0.95  # where classes share a voxel, the rarer one has it


def test_visible_voxels_have_a_free_line_of_sight_and_the_reverse(truth, rig):
    # Independent of the march: dense samples on straight lines between camera and voxel.
    rng = np.random.default_rng(0)
    solid = truth.semantics != FREE

    def clear_lines(targets, index):
        T = rig.T_ego_cam[index].double().numpy()
        local = (targets - T[:3, 3]) @ T[:3, :3]
        u, v = (local @ rig.intrinsics[index].double().numpy().T)[:, :2].T / np.maximum(local[:, 2], 1e-6)
        seen = (local[:, 2] > 0.1) & (u > 0) & (u < rig.width[index]) & (v > 0) & (v < rig.height[index])
        own, _ = locate(GRID, targets)
        blocked = np.zeros(len(targets), dtype=bool)
        for share in np.linspace(0.0, 1.0, 900):
            voxel, inside = locate(GRID, T[:3, 3] + share * (targets - T[:3, 3]))
            voxel[~inside] = 0
            blocked |= inside & solid[tuple(voxel.T)] & (voxel != own).any(axis=1)
        return seen & ~blocked

    visible = np.argwhere(truth.mask_camera)
    visible = visible[rng.choice(len(visible), 400, replace=False)]
    found = np.zeros(len(visible), dtype=bool)
    for _ in range(6):  # a voxel counts as seen if any point in it is
        targets = index_centers(GRID, visible) + rng.uniform(-0.19, 0.19, (len(visible), 3))
        for index in range(len(rig)):
            found |= clear_lines(targets, index)
    assert found.mean() > 0.93  # the rest is glimpsed through a corner that six points miss

    hidden = np.argwhere(~truth.mask_camera)
    hidden = hidden[rng.choice(len(hidden), 400, replace=False)]
    wrongly = np.zeros(len(hidden), dtype=bool)
    for index in range(len(rig)):
        wrongly |= clear_lines(index_centers(GRID, hidden), index)
    assert wrongly.mean() < 0.02


def test_most_lidar_returns_lie_in_voxels_that_the_lidar_sees(world, truth):
    lidar = Lidar()
    points = scan_lidar(world, TIME, lidar)
    ego = points[:, :3] @ lidar.T_ego_lidar[:3, :3].T + lidar.T_ego_lidar[:3, 3]
    voxel, inside = locate(GRID, ego)
    voxel = tuple(voxel[inside].T)
    assert inside.sum() > 15_000
    assert (truth.semantics[voxel] != FREE).mean() > 0.999
    # A flat ray enters the layer of ground voxels metres before it meets the ground: those hide the last one.
    assert truth.mask_lidar[voxel].mean() > 0.6


def test_the_road_lies_under_the_ego_and_every_label_is_an_occ3d_class(truth):
    assert truth.semantics[100, 100, 2] == CLASS_ID["driveable_surface"]  # z -0.2..0.2 m
    assert (truth.semantics[:, :, :2] == FREE).mean() > 0.99 and truth.semantics.max() <= FREE
    assert len(np.unique(truth.semantics)) >= 7


def test_pictures_depths_labels_and_voxels_repeat_for_the_same_seed_and_differ_for_another(frame, truth, rig):
    again = World(seed=4)
    repeated = render_frame(again, rig, TIME, noise=0.0)
    assert all((a == b).all() for a, b in zip(frame.images, repeated.images, strict=True))
    assert all((a == b).all() for a, b in zip(frame.depths, repeated.depths, strict=True))
    assert (occupancy(again, TIME, GRID, rig).semantics == truth.semantics).all()
    other = render_frame(World(seed=12), rig, TIME, noise=0.0)  # the same style, another draw
    assert np.abs(other.images[0].astype(int) - frame.images[0]).mean() > 15


def test_warping_the_next_frame_with_true_depth_and_pose_explains_most_of_the_change(world, rig):
    later = TIME + 0.25
    now = render_frame(world, rig, TIME, exposure_spread=0.0)
    then = render_frame(world, rig, later, exposure_spread=0.0)
    T_later_now = np.linalg.inv(world.T_world_ego(later)) @ world.T_world_ego(TIME)
    ratios = []
    for index in range(len(rig)):
        points, smooth = ego_points(now, rig, index)
        T_cam_ego = np.linalg.inv(rig.T_ego_cam[index].double().numpy())
        T = T_cam_ego @ T_later_now
        local = points @ T[:3, :3].T + T[:3, 3]
        pixel = local @ rig.intrinsics[index].double().numpy().T
        u, v = pixel[..., 0] / pixel[..., 2] - 0.5, pixel[..., 1] / pixel[..., 2] - 0.5
        inside = (
            smooth
            & (local[..., 2] > 0.5)
            & (u > 0)
            & (u < rig.width[index] - 1)
            & (v > 0)
            & (v < rig.height[index] - 1)
        )
        options = (u.astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR)
        inside &= np.isin(now.labels[index], STATIC)
        inside &= (
            np.abs(cv2.remap(then.depths[index], *options) / np.maximum(local[..., 2], 0.1) - 1) < 0.05
        )  # not occluded
        if inside.sum() < 1000:  # a lorry fills this camera
            continue
        warped = cv2.remap(then.images[index], *options).astype(float)
        error = np.abs(warped - now.images[index]).mean(axis=-1)[inside].mean()
        identity = np.abs(then.images[index].astype(float) - now.images[index]).mean(axis=-1)[inside].mean()
        ratios.append(error / identity)
    assert len(ratios) >= 4 and max(ratios) < 0.5 and np.mean(ratios) < 0.3, ratios


def test_textures_are_band_limited_by_the_pixel(world):
    # A coarse picture equals a fine one that was averaged: what a lens does, and what aliasing breaks.
    camera = resize(default_rig().select(("CAM_FRONT",)), 160, 90)
    coarse = render_frame(world, camera, TIME, noise=0.0).images[0].astype(float)
    fine = render_frame(world, resize(camera, 640, 360), TIME, noise=0.0).images[0]
    averaged = cv2.resize(fine, (160, 90), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(coarse - averaged).mean() < 8.0
    assert np.abs(fine.astype(float) - cv2.blur(fine, (9, 9))).mean() > 4.0  # and yet there is texture


def test_fisheye_depth_agrees_with_the_lidar(world):
    rig, lidar = fisheye_rig(), Lidar()
    frame = render_frame(world, rig, TIME)
    points = scan_lidar(world, TIME, lidar)[:, :3].astype(float)
    ego = points @ lidar.T_ego_lidar[:3, :3].T + lidar.T_ego_lidar[:3, 3]
    for index in range(len(rig)):
        T_cam_ego = np.linalg.inv(rig.T_ego_cam[index].double().numpy())
        local = ego @ T_cam_ego[:3, :3].T + T_cam_ego[:3, 3]
        local = local[local[:, 2] > 0.3]  # z-depth says nothing at the rim
        pixel, _ = cv2.fisheye.projectPoints(
            local[:, None],
            np.zeros(3),
            np.zeros(3),
            rig.intrinsics[index].double().numpy(),
            np.array(rig.distortion[index]),
        )
        u, v = np.floor(pixel[:, 0]).astype(int).T
        inside = (u >= 0) & (u < rig.width[index]) & (v >= 0) & (v < rig.height[index])
        depth, z = frame.depths[index][v[inside], u[inside]], local[inside, 2]
        error = np.abs(depth - z)[depth > 0] / z[depth > 0]
        assert len(error) > 500 and np.median(error) < 0.01, rig.names[index]


@pytest.mark.parametrize(
    ("model", "distortion"),
    [(PINHOLE, (-0.30, 0.09, 0.001, -0.0005, -0.01)), (EQUIDISTANT, (0.05, -0.01, 0.003, -0.0005))],
)
def test_rays_of_a_distorted_lens_project_back_onto_their_pixels(model, distortion):
    K = torch.tensor([[[150.0, 0, 101.0], [0, 152.0, 61.0], [0, 0, 1]]], dtype=torch.float64)
    camera = Cameras(("cam",), K, torch.eye(4)[None].double(), (200,), (120,), (model,), (distortion,))
    rays = pixel_directions(camera, 0).reshape(-1, 1, 3)
    project = cv2.projectPoints if model == PINHOLE else cv2.fisheye.projectPoints
    pixel, _ = project(rays / rays[..., 2:], np.zeros(3), np.zeros(3), K[0].numpy(), np.array(distortion))
    v, u = np.meshgrid(np.arange(120) + 0.5, np.arange(200) + 0.5, indexing="ij")
    assert np.abs(pixel.reshape(-1, 2) - np.stack([u, v], axis=-1).reshape(-1, 2)).max() < 1e-3


def test_pixels_outside_the_circle_of_a_fisheye_stay_black(world):
    camera = fisheye_rig().select(("FISHEYE_FRONT",))
    narrow = Cameras(
        camera.names,
        camera.intrinsics * torch.tensor([[0.4], [0.4], [1.0]]),
        camera.T_ego_cam,
        (160,),
        (120,),
        camera.model,
        ((0.0, -0.10, 0.0, 0.0),),
    )
    frame = render_frame(world, narrow, TIME, noise=0.0)
    assert (frame.images[0][0, 0] == 0).all() and frame.depths[0][0, 0] == 0 and frame.images[0][60, 80].sum() > 0


@pytest.mark.parametrize("seed", range(8))
def test_the_ego_drives_smoothly_and_stays_on_the_road(seed):
    world = World(seed, duration=8.0)
    times = np.arange(0.0, 8.0, 0.05)
    poses = np.array([world.T_world_ego(t) for t in times])
    speed = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1) / 0.05
    assert speed.min() > 0.3 and speed.max() < 13 and np.abs(np.diff(speed)).max() < 0.25  # 5 m/s2
    forward = poses[:-1, :3, 0]
    course = np.diff(poses[:, :3, 3], axis=0) / (speed * 0.05)[:, None]
    assert (forward * course).sum(axis=1).min() > 0.999  # looks where it goes
    street = Street(world.site.segments, world.site.crosses, world.site.ground)
    assert all(street.kerb_distance(*pose[:2, 3]) < -0.8 for pose in poses[::10])


def test_moving_things_are_annotated_where_the_cameras_see_them(world):
    early, late = ({box.identity: box for box in world.annotations(t)} for t in (0.0, 1.0))
    moved = [np.hypot(*np.subtract(late[i].centre, early[i].centre)[:2]) for i in early.keys() & late.keys()]
    assert sum(m > 0.5 for m in moved) >= 3 and sum(m == 0.0 for m in moved) >= 5 and max(moved) < 14


def test_the_rig_files_equal_the_rigs_in_the_code():
    for name, make in (("nuscenes", default_rig), ("surround_fisheye", fisheye_rig)):
        loaded, coded = load_rig(ROOT / "config/rig" / f"{name}.yaml"), make()
        assert (loaded.names, loaded.width, loaded.height) == (coded.names, coded.width, coded.height)
        assert (loaded.model, loaded.distortion) == (coded.model, coded.distortion)
        assert torch.allclose(loaded.intrinsics.float(), coded.intrinsics)
        assert torch.allclose(loaded.T_ego_cam.float(), coded.T_ego_cam, atol=1e-6)


def test_importing_the_world_does_not_import_numba():
    code = "import sys, gaussianocc_core.synthetic, gaussianocc_core.synthetic.writer; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
