# SPDX-License-Identifier: Apache-2.0
"""Overlap of cameras from calibration alone, against counting by hand."""

import numpy as np
import pytest
import torch
from support.rigs import ring

from gaussianocc_core.geometry.overlap import SAMPLES, OverlapSettings, find_overlaps, overlap_masks, overlapping_pairs

PLAIN = OverlapSettings()


def rig(yaws, fov_deg=80.0):
    return ring(yaws=yaws, fov_deg=fov_deg, width=80, height=44).to(dtype=torch.float32)


def test_neighbours_of_a_ring_overlap_and_others_do_not():
    cameras = rig((0.0, 60.0, 120.0, 180.0, -120.0, -60.0))
    masks = overlap_masks(cameras, PLAIN, erosion=0)
    assert overlapping_pairs(masks) == ((0, 1), (0, 5), (1, 2), (2, 3), (3, 4), (4, 5))
    assert not masks[torch.arange(6), torch.arange(6)].any()


def test_the_shared_part_lies_on_the_side_of_the_other_camera():
    masks = overlap_masks(rig((0.0, 60.0)), PLAIN, erosion=0)  # camera 1 looks to the left of camera 0
    columns = masks[0, 1].float().mean(0)
    assert columns[:10].mean() > 0.5 and columns[40:].sum() == 0
    assert masks[1, 0].float().mean(0)[-10:].mean() > 0.5


def test_a_pixel_needs_more_than_one_sample_in_the_other_view():
    cameras = rig((0.0, 60.0))
    counts = [int(overlap_masks(cameras, PLAIN, erosion=0, least_hits=n)[0, 1].sum()) for n in (1, 2, 30)]
    assert counts[0] >= counts[1] > counts[2]


def test_the_mask_equals_a_loop_over_one_pixels_ray():
    cameras = rig((0.0, 60.0))
    masks = overlap_masks(cameras, PLAIN, erosion=0)
    K = cameras.intrinsics[0].double().numpy()
    T_other_cam = np.linalg.inv(cameras.T_ego_cam[1].double().numpy()) @ cameras.T_ego_cam[0].double().numpy()
    for row, column in ((20, 2), (20, 12), (5, 8), (40, 30)):
        ray = np.linalg.inv(K) @ [column + 0.5, row + 0.5, 1.0]
        hits = 0
        for inv_depth in np.linspace(1 / PLAIN.far, 1 / PLAIN.near, SAMPLES):
            x, y, z = T_other_cam[:3, :3] @ (ray / inv_depth) + T_other_cam[:3, 3]
            u, v = K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]
            hits += z > 0 and 0 <= u < 80 and 0 <= v < 44
        assert bool(masks[0, 1, row, column]) == (hits >= 2)


def test_erosion_takes_the_rim_but_not_the_border_of_the_image():
    cameras = rig((0.0, 60.0))
    whole, eroded = overlap_masks(cameras, PLAIN, erosion=0)[0, 1], overlap_masks(cameras, PLAIN, erosion=2)[0, 1]
    assert 0 < eroded.sum() < whole.sum() and not (eroded & ~whole).any()
    assert eroded[20, 0] and whole[20, 0]


def test_cameras_that_share_nothing_have_no_pairs():
    masks = overlap_masks(rig((0.0, 180.0)))
    assert overlapping_pairs(masks) == ()


def test_overlaps_name_their_cameras_with_share_and_distance():
    cameras = rig((0.0, 60.0, 180.0))
    (overlap,) = find_overlaps(cameras)
    assert overlap.names == cameras.names[:2]
    masks = overlap_masks(cameras)
    assert overlap.share == pytest.approx(min(masks[0, 1].float().mean(), masks[1, 0].float().mean()))
    assert overlap.baseline == pytest.approx(1.0, abs=1e-5)
