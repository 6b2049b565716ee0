# SPDX-License-Identifier: Apache-2.0
"""One way from native images to the networks: what training sees of a sample is what the predictor sees of it."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.rigs import ring

from gaussianocc_core.errors import CalibrationError
from gaussianocc_core.preprocess import Preprocessor, RigCache, rig_key
from gaussianocc_core.types import Cameras


def lenses() -> Cameras:
    """A fisheye, a pinhole with a barrel distortion whose corners have no source, and an ideal pinhole."""
    return replace(
        ring(yaws=(0.0, 90.0, 180.0), width=320, height=240),
        model=("equidistant", "pinhole", "pinhole"),
        distortion=((0.02, -0.005, 0.001, 0.0), (0.3, 0.1, 0.0, 0.0), ()),
    )


def robot_masks(cameras: Cameras) -> tuple[np.ndarray, ...]:
    """True where a camera sees the world: the robot's bonnet is a slanted line at the bottom, another in each."""
    columns, rows = np.meshgrid(np.arange(320), np.arange(240))
    return tuple(rows < 170 + 0.2 * columns - 25 * i for i in range(len(cameras)))


def test_the_key_of_a_rig_is_of_all_that_what_follows_depends_on():
    rig, masks = lenses(), list(robot_masks(lenses()))
    moved = replace(rig, T_ego_cam=rig.T_ego_cam.clone())
    moved.T_ego_cam[1, 0, 3] += 1e-6
    zoomed = replace(rig, intrinsics=rig.intrinsics.clone())
    zoomed.intrinsics[0, 0, 0] += 1e-6
    others = [
        moved,
        zoomed,
        replace(rig, names=("a", "b", "c")),
        replace(rig, width=(320, 320, 319)),
        replace(rig, model=("pinhole",) * 3),
        replace(rig, distortion=(rig.distortion[0], (0.3, 0.1, 0.0, 1e-9), ())),
    ]
    keys = [rig_key(each) for each in (rig, *others)] + [
        rig_key(rig, masks), rig_key(rig, masks[::-1]), rig_key(rig, [masks[0], None, None]),
        rig_key(rig, [None, masks[0], None]),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert rig_key(rig) == rig_key(lenses().to(dtype=torch.float64), [None] * 3)
    assert rig_key(rig, masks) == rig_key(lenses(), torch.from_numpy(np.stack(masks)))
    assert rig_key(rig, places=False) == rig_key(moved, places=False) != rig_key(zoomed, places=False)


def test_a_cache_makes_each_thing_once_and_keeps_what_was_asked_for_last():
    made, cache = [], RigCache(2)
    for name in (b"a", b"b", b"a", b"c", b"a", b"b"):
        assert cache.find(name, lambda name=name: made.append(name) or name) == name
    assert made == [b"a", b"b", b"c", b"b"]


def test_lenses_are_made_once_and_views_stand_where_the_cameras_do():
    preprocess, rig = Preprocessor(80, 48), lenses()
    moved = replace(rig, T_ego_cam=rig.T_ego_cam + 1.0)
    assert preprocess(rig) is preprocess(moved)
    assert torch.equal(preprocess(moved).views(moved.T_ego_cam).T_ego_cam, moved.T_ego_cam.float())
    assert preprocess(rig, robot_masks(rig)) is not preprocess(rig)
    assert pickle.loads(pickle.dumps(preprocess))(rig).valid_mask.shape == (3, 48, 80)
    with pytest.raises(ValueError, match="read-only"):
        preprocess(rig).valid_mask[0, 0, 0] = False


def test_a_mask_of_another_size_names_the_camera():
    with pytest.raises(CalibrationError, match="camera CAM_1: its mask has 320x9 pixels"):
        Preprocessor(80, 48)(lenses(), [None, np.ones((9, 320), dtype=bool), None])
