# SPDX-License-Identifier: Apache-2.0
"""Points that are followed into another image have the depth that they have."""

import numpy as np
import pytest
from support.rigs import ring

from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry.triangulate import triangulate
from gaussianocc_core.synthetic.world import World, render_frame
from gaussianocc_core.types import Cameras


@pytest.fixture(scope="module")
def street() -> tuple[Cameras, list[np.ndarray], np.ndarray, np.ndarray]:
    """A camera to the side, its images at two moments, true depth now, and how it moved."""
    world, rig = World(seed=4, duration=5.0), camera_geometry.resize(ring(), 320, 192)
    cameras = rig.select(rig.names[1:2])
    frames = [render_frame(world, cameras, camera_times=[t]) for t in (2.0, 1.8)]
    T_cam = cameras.T_ego_cam[0].double().numpy()
    now, then = (world.T_world_ego(t) @ T_cam for t in (2.0, 1.8))
    return cameras, [frame.images[0] for frame in frames], frames[0].depths[0], np.linalg.inv(then) @ now


def test_points_have_their_true_depth(street):
    cameras, (now, then), true, T = street
    K = cameras.intrinsics[0].double().numpy()
    pixels, z = triangulate(now, then, K, T, np.ones(now.shape[:2], bool))
    assert len(z) > 60 and z.min() > 0.3
    there = true[pixels[:, 1].astype(int), pixels[:, 0].astype(int)]
    off = np.abs(np.log(z / there))
    assert np.median(off) < 0.03 and np.percentile(off, 80) < 0.15
    # Of motion that is a fifth too long, all of it lies a fifth too far away.
    T_long = T.copy()
    T_long[:3, 3] *= 1.2
    _, far = triangulate(now, then, K, T_long, np.ones(now.shape[:2], bool))
    assert np.median(far) / np.median(z) == pytest.approx(1.2, abs=0.05)


def test_where_nothing_is_told_there_are_no_points(street):
    cameras, (now, then), _, T = street
    K = cameras.intrinsics[0].double().numpy()
    assert len(triangulate(now, then, K, T, np.zeros(now.shape[:2], bool))[1]) == 0
    blank = np.full_like(now, 128)
    assert len(triangulate(blank, blank, K, T, np.ones(now.shape[:2], bool))[1]) == 0
    assert len(triangulate(now, now, K, np.eye(4), np.ones(now.shape[:2], bool))[1]) == 0  # at rest
    pixels, _ = triangulate(now, then, K, T, np.arange(now.shape[1])[None] < np.full((now.shape[0], 1), 100))
    assert len(pixels) and pixels[:, 0].max() <= 101
