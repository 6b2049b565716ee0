# SPDX-License-Identifier: Apache-2.0
"""The method on real frames of the shared data: seven keyframes, half a second apart, with poses."""

import json

import pytest
import torch
from support.training_runs import settings

from gaussianocc_core.data.sources import DataConfig, open_entries
from gaussianocc_core.geometry.ground_plane import flat_ground_depth
from gaussianocc_core.geometry.warp import reproject, sample_pixels
from gaussianocc_core.losses import photometric_error
from gaussianocc_core.models.pose_net import camera_motions
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.training.engine import train
from gaussianocc_core.training.hints import HintSettings
from gaussianocc_core.training.loader import TrainingSet
from gaussianocc_core.training.motion_search import MotionSearch
from gaussianocc_core.training.view import batch_element


@pytest.fixture(scope="module")
def real(shared_data):
    return shared_data / "data" / "nuscenes_scene0061_kf00-06"


def test_real_keyframes_are_samples_whose_gap_is_half_a_second(real):
    entries = open_entries(DataConfig(dataroot=str(real)))
    assert len(entries) == 5  # seven less both ends
    assert all(0.4 < entry.gap_s < 0.6 for entry in entries)


def test_the_true_motion_carries_the_road_over_and_standing_still_does_not(real):
    config = DataConfig(dataroot=str(real), jitter=0.0, mirror=0.0)
    data = TrainingSet(open_entries(config), config, Preprocessor(400, 225), seed=0)
    warped, unmoved = [], []
    for index in range(len(data)):
        batch = data[(0, index)]
        cameras, images = batch_element(batch.cameras, 0), batch.colors()[0]
        depth = torch.stack([flat_ground_depth(cameras, n, 400, 225, 80.0) for n in range(6)])
        T_other_cam = camera_motions(batch.T_target_now[0, 1], cameras.T_ego_cam)
        pixels, z = reproject(depth, cameras.intrinsics, T_other_cam, cameras.intrinsics)
        inside = (z > 0.1) & (pixels > 0).all(-1) & (pixels < torch.tensor([400, 225])).all(-1)
        # The road ahead and behind, where the plane is the truth: lower half, 5 to 20 m.
        road = inside & (depth > 5) & (depth < 20)
        road[[1, 2, 4, 5]] = False
        road[:, :112] = False
        warped.append(photometric_error(sample_pixels(images[2], pixels), images[0])[road].mean())
        unmoved.append(photometric_error(images[2], images[0])[road].mean())
    assert torch.stack(warped).mean() < 0.9 * torch.stack(unmoved).mean()


@pytest.mark.medium
@pytest.mark.parametrize("stage", ["gsp", "gsv"])
def test_overfitting_one_real_sample_drives_the_loss_down(real, tmp_path, stage):
    from dataclasses import replace

    steps = {"gsp": 80, "gsv": 40}[stage]
    config = settings(real, tmp_path / "run", stage=stage, steps=steps, save_every=steps)
    config = replace(config, data=replace(config.data, jitter=0.0, mirror=0.0))
    if stage == "gsp":
        # Terms that come and go with what the networks say make no sum that could fall.
        plain = {"hints": HintSettings(weight=0.0), "length_search": MotionSearch(factor=1.0), "search_factor": 1.0}
        config = replace(config, gsp=replace(config.gsp, **plain, refine_share=0.0, motion_share=0.0))
    train(config, overfit_batch=True)
    totals = [json.loads(line)["total"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    # A lattice of 1 m cells to 8 m can explain little of a street, the depth network much more.
    assert sum(totals[-5:]) < {"gsp": 0.93, "gsv": 0.99}[stage] * sum(totals[:5])
