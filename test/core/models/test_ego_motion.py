# SPDX-License-Identifier: Apache-2.0
"""Odometry from images, against motions that are known because the images were made with them."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from gaussianocc_core.geometry.cameras import resize
from gaussianocc_core.geometry.transforms import invert_matrix, make_transform
from gaussianocc_core.models import ego_motion
from gaussianocc_core.models.ego_motion import OdometrySettings, VisualOdometry
from gaussianocc_core.synthetic import World, default_rig, render_frame
from gaussianocc_core.types import Cameras

WIDTH, HEIGHT, FOCAL = 160, 96, 100.0
WALL = 8.0  # m from the ego origin, a plane across the way


def looking_ahead(count=1):
    K = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1.0]], dtype=torch.float64)
    poses = [make_transform(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), np.array([0.5, 0.4 * k, 1.2]))
             for k in range(count)]  # fmt: skip
    return Cameras(tuple(f"c{k}" for k in range(count)), K.repeat(count, 1, 1), torch.from_numpy(np.stack(poses)),
                   (WIDTH,) * count, (HEIGHT,) * count)  # fmt: skip


def wall(cameras, T_world_ego):
    """What the cameras see of the plane x = WALL with a smooth pattern: images (N, H, W, 3) float and inverse depth."""
    images, inverse = [], []
    v, u = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    for n in range(len(cameras)):
        T = T_world_ego @ cameras.T_ego_cam[n].numpy()
        rays = np.stack([(u - WIDTH / 2) / FOCAL, (v - HEIGHT / 2) / FOCAL, np.ones_like(u)], axis=-1)
        world = rays @ T[:3, :3].T
        depth = (WALL - T[0, 3]) / world[..., 0]
        y, z = (T[1:3, 3] + depth[..., None] * world[..., 1:]).transpose(2, 0, 1)
        grey = (
            120 + 30 * np.sin(2.1 * y + 0.7 * z) + 25 * np.sin(1.3 * z - 0.4 * y + 1.0) + 20 * np.sin(4.7 * y * 0.6 + z)
        )
        images.append(np.repeat(grey[..., None], 3, axis=-1))
        inverse.append(1.0 / depth)
    return np.stack(images).astype(np.float32), np.stack(inverse).astype(np.float32)


def yawed(x, y, degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return make_transform(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]), np.array([x, y, 0.0]))


def follow(odometry, cameras, poses, change=lambda k, images: images):
    results = []
    for k, pose in enumerate(poses):
        images, inv_depth = wall(cameras, pose)
        results.append(odometry.track(change(k, images), cameras, None, 0.1 * k))
        odometry.learn_depth(inv_depth)
    return results


@pytest.mark.parametrize(
    "step", [yawed(0.3, 0.0, 0.0), yawed(0.1, 0.12, 0.0), yawed(0.2, 0.05, 1.5), yawed(-0.25, 0.0, -1.0)],
    ids=["ahead", "aside", "turning", "back"],
)  # fmt: skip
def test_true_motion_before_a_wall_is_found(step):
    poses = [np.eye(4)]
    for _ in range(4):
        poses.append(poses[-1] @ step)
    results = follow(VisualOdometry(), looking_ahead(2), poses)
    assert [each.lost for each in results] == [""] * 5 and results[0].first
    for before, after, true_before, true_after in zip(results, results[1:], poses, poses[1:], strict=False):
        found = invert_matrix(before.T_odom_ego) @ after.T_odom_ego
        true = invert_matrix(true_before) @ true_after
        assert np.linalg.norm(found[:3, 3] - true[:3, 3]) < 0.05 * np.linalg.norm(true[:3, 3])
        assert np.linalg.norm(found[:3, :3] - true[:3, :3]) < np.radians(0.1)
    velocity = results[-1].velocity
    assert velocity[0] == pytest.approx(10 * np.linalg.norm(step[:3, 3]) * np.sign(step[0, 3]), rel=0.1) or step[1, 3]


def test_true_motion_in_a_street_is_found_within_five_percent():
    """Six cameras of a synthetic street at network size, true depth; sensor noise and traffic included."""
    rig, world = resize(default_rig(), 176, 96), World(21, duration=4.0)
    odometry, poses, found = VisualOdometry(), [], []
    for k in range(5):
        time = 1.0 + k / 12
        frame = render_frame(world, rig, time)
        result = odometry.track(np.stack(frame.images), rig, None, time)
        depth = np.stack(frame.depths)
        odometry.learn_depth(1.0 / np.where(depth > 0.3, depth, 200.0))
        assert result.lost == ""
        poses.append(world.T_world_ego(time))
        found.append(result.T_odom_ego)
    true = invert_matrix(poses[0]) @ poses[-1]
    assert np.linalg.norm(true[:3, 3]) > 0.5
    assert np.linalg.norm(found[-1][:3, 3] - true[:3, 3]) < 0.05 * np.linalg.norm(true[:3, 3])
    assert np.degrees(np.linalg.norm(found[-1][:3, :3] - true[:3, :3])) < 0.5


def test_a_robot_at_rest_does_not_drift():
    noise = np.random.default_rng(0)

    def grainy(k, images):
        return images + noise.normal(0, 1.5, images.shape).astype(np.float32)

    results = follow(VisualOdometry(), looking_ahead(2), [np.eye(4)] * 30, grainy)
    assert max(np.linalg.norm(each.T_odom_ego[:3, 3]) for each in results) < 0.02
    assert max(np.linalg.norm(each.T_odom_ego[:3, :3] - np.eye(3)) for each in results) < np.radians(0.2)
    still = follow(VisualOdometry(), looking_ahead(2), [np.eye(4)] * 3)
    assert np.linalg.norm(still[-1].T_odom_ego - np.eye(4)) < 1e-9


def test_covariance_grows_with_the_way_and_is_one():
    results = follow(VisualOdometry(), looking_ahead(2), [yawed(0.3 * k, 0, 0) for k in range(6)])
    for each in results:
        assert np.allclose(each.covariance, each.covariance.T, atol=1e-9)
        assert np.linalg.eigvalsh(each.covariance).min() > 0
        assert np.linalg.eigvalsh(each.velocity_covariance).min() > 0
    sizes = [each.covariance[0, 0] for each in results]
    assert sizes[0] < 1e-6 and all(a < b for a, b in itertools.pairwise(sizes))


def test_brightness_that_changes_is_no_motion():
    results = follow(VisualOdometry(), looking_ahead(2), [yawed(0.2 * k, 0, 0) for k in range(3)],
                     lambda k, images: images * (1.0 - 0.05 * k) + 4.0 * k)  # fmt: skip
    assert results[-1].T_odom_ego[:3, 3] == pytest.approx([0.4, 0, 0], abs=0.02)


def test_a_frozen_camera_has_no_say():
    first = wall(looking_ahead(2), np.eye(4))[0][1]

    def freeze(k, images):
        return np.stack([images[0], first])

    results = follow(VisualOdometry(), looking_ahead(2), [yawed(0.2 * k, 0, 0) for k in range(2)], freeze)
    assert results[-1].T_odom_ego[:3, 3] == pytest.approx([0.2, 0, 0], abs=0.01)


def test_images_with_nan_are_refused_and_not_remembered():
    odometry, cameras = VisualOdometry(), looking_ahead(2)

    def spoil(k, images):
        if k == 2:
            images[0, 10, 10] = np.nan
        return images

    poses = [yawed(0.2 * k, 0, 0) for k in range(4)]
    results = []
    for k, pose in enumerate(poses):
        images, inv_depth = wall(cameras, pose)
        results.append(odometry.track(spoil(k, images), cameras, None, 0.1 * k))
        if k != 2:
            odometry.learn_depth(inv_depth)
    assert results[2].lost == ego_motion.NOT_FINITE and np.isfinite(results[2].T_odom_ego).all()
    assert results[2].covariance[0, 0] > 1e3
    assert results[3].lost == "" and results[3].T_odom_ego[:3, 3] == pytest.approx([0.6, 0, 0], abs=0.02)


def test_what_cannot_be_known_is_said():
    cameras = looking_ahead(2)
    images, inv_depth = wall(cameras, np.eye(4))

    def second(images, cameras, stamp=0.1, learn=True):
        odometry = VisualOdometry()
        odometry.track(wall(looking_ahead(2), np.eye(4))[0], looking_ahead(2), None, 0.0)
        if learn:
            odometry.learn_depth(inv_depth)
        return odometry.track(images, cameras, None, stamp)

    assert second(images, cameras).lost == ""
    assert second(images, cameras, learn=False).lost == ego_motion.NO_DEPTH
    assert second(images, cameras, stamp=9.0).lost == ego_motion.TOO_OLD
    assert second(images[:1], looking_ahead(1)).lost == ego_motion.OTHER_CAMERAS
    other = replace(cameras, intrinsics=cameras.intrinsics * 1.2)
    assert second(images, other).lost == ego_motion.OTHER_CAMERAS
    elsewhere = wall(cameras, yawed(-30.0, 5.0, 40.0))[0] + np.random.default_rng(0).normal(0, 40, images.shape)
    assert second(elsewhere.astype(np.float32), cameras).lost != ""
    flat = VisualOdometry()
    flat.track(np.full_like(images, 90.0), cameras, None, 0.0)
    flat.learn_depth(inv_depth)
    assert flat.track(np.full_like(images, 90.0), cameras, None, 0.1).lost == ego_motion.NO_TEXTURE


def test_it_starts_afresh_when_time_steps_back():
    odometry, cameras = VisualOdometry(), looking_ahead(2)
    follow(odometry, cameras, [yawed(0.2 * k, 0, 0) for k in range(4)])
    again = odometry.track(wall(cameras, np.eye(4))[0], cameras, None, 0.05)
    assert again.first and np.array_equal(again.T_odom_ego, np.eye(4))


def test_settings_are_checked():
    with pytest.raises(ValueError, match="finest < levels"):
        OdometrySettings(finest=4, levels=4)
