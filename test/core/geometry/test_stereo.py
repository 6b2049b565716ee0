# SPDX-License-Identifier: Apache-2.0
"""Depth by semi-global matching, against the true depth of a synthetic street, whichever way a pair is mounted."""

import numpy as np
import pytest

from gaussianocc_core.geometry.cameras import view_rotation
from gaussianocc_core.geometry.stereo import plan_stereo
from gaussianocc_core.types import PINHOLE, Cameras

WIDTH, HEIGHT, FOCAL = 240, 128, 180.0
K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1.0]])


def mounted(place, yaw=0.0) -> np.ndarray:
    """T_ego_cam of a camera that looks ahead, turned to the left by `yaw` (degrees)."""
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = view_rotation(yaw), place
    return T


def seen(places):
    """Images (N, H, W, 3) and true z-depth (N, H, W) of a street."""
    import torch

    from gaussianocc_core.synthetic.world import World, render_frame

    count = len(places)
    cameras = Cameras(
        tuple(f"c{n}" for n in range(count)),
        torch.tensor(np.stack([K] * count)),
        torch.tensor(np.stack(places)),
        (WIDTH,) * count,
        (HEIGHT,) * count,
        (PINHOLE,) * count,
        ((),) * count,
    )
    frame = render_frame(World(seed=4, duration=3.0), cameras, camera_times=[1.0] * count)
    return np.stack(frame.images), np.stack(frame.depths)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (mounted([1.0, 0.2, 1.6]), mounted([1.0, -0.2, 1.6])),
        (mounted([1.0, -0.2, 1.6]), mounted([1.0, 0.2, 1.6])),  # of the right one
        (mounted([1.0, 0.0, 1.5]), mounted([1.0, 0.0, 1.9])),  # one above the other
        (mounted([1.0, 0.2, 1.6], yaw=8.0), mounted([1.05, -0.2, 1.6], yaw=-6.0)),  # toed out, one further ahead
    ],
    ids=["left", "right", "upright", "toed out"],
)
def test_what_a_pair_measures_is_the_true_depth(first, second):
    images, truth = seen([first, second])
    pair = plan_stereo(K, first, K, second, WIDTH, HEIGHT)
    assert pair is not None and pair.baseline == pytest.approx(np.linalg.norm(first[:3, 3] - second[:3, 3]))
    depth, disparity = pair.measure(images[0], images[1])
    near = (truth[0] > 0) & (truth[0] < 20.0)
    found = near & (depth > 0)
    assert found.sum() > 0.6 * near.sum()
    assert np.median(truth[0][found] / depth[found]) == pytest.approx(1.0, abs=0.03)
    assert np.median(np.abs(depth[found] / truth[0][found] - 1.0)) < 0.05
    assert ((depth > 0) == (disparity > 0)).all()
    # A scale that is wrong by a tenth would show.
    wrong = plan_stereo(K, first, K, _farther(first, second, 1.1), WIDTH, HEIGHT)
    assert wrong is not None and wrong.reach == pytest.approx(1.1 * pair.reach)


def _farther(first, second, factor):
    T = second.copy()
    T[:3, 3] = first[:3, 3] + factor * (second[:3, 3] - first[:3, 3])
    return T


def test_pairs_that_cannot_be_turned_to_rows_are_left_out():
    ahead = mounted([1.0, 0.0, 1.6])
    assert plan_stereo(K, ahead, K, mounted([1.0, -0.4, 1.6], yaw=-70.0), WIDTH, HEIGHT) is None  # apart
    assert plan_stereo(K, ahead, K, mounted([1.4, 0.0, 1.6]), WIDTH, HEIGHT) is None  # one behind the other
    assert plan_stereo(K, ahead, K, ahead, WIDTH, HEIGHT) is None  # in one place


def test_nothing_is_measured_where_there_is_nothing_to_see():
    first, second = mounted([1.0, 0.2, 1.6]), mounted([1.0, -0.2, 1.6])
    pair = plan_stereo(K, first, K, second, WIDTH, HEIGHT)
    dark = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    depth, disparity = pair.measure(dark, dark)
    assert not depth.any() and not disparity.any()
