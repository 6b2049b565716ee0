# SPDX-License-Identifier: Apache-2.0
"""The head of the memory of rays, fitted to labels."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gaussianocc_core.checkpoint import load_model
from gaussianocc_core.data.entries import SampleEntry
from gaussianocc_core.errors import DatasetError
from gaussianocc_core.mapping.entries import Recordings
from gaussianocc_core.models.ray_memory import FEATURES, MemoryHead
from gaussianocc_core.predictor import OccupancyPredictor
from gaussianocc_core.synthetic.writer import write_dataset
from gaussianocc_core.training.memory_fit import Examples, collect, fit

ROOT = Path(__file__).resolve().parents[3]


def examples(count=12, size=3000):
    """Occupied where many rays end, whatever the network's word."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(count):
        features = torch.randn(size, FEATURES, generator=generator) * torch.tensor([1.0, 1.0, 2.0, 1.5, 1.0, 3.0])
        chance = torch.sigmoid(3.0 * features[:, 3] - 2.0)
        made.append(Examples(features, torch.rand(size, generator=generator) < chance))
    return made


def test_the_fitted_head_takes_raw_features_and_says_how_probable_it_is():
    head, loss = fit(examples(), steps=400)
    (one,) = examples(1)
    with torch.no_grad():
        said = torch.sigmoid(head(one.features))
    expected = torch.sigmoid(3.0 * one.features[:, 3] - 2.0)
    assert (said - expected).abs().mean() < 0.05 and loss < 0.45


def test_who_prefers_ghosts_to_misses_gets_more_of_both_kinds_of_yes():
    (one,) = examples(1)
    heads = [fit(examples(), preference, 300)[0] for preference in (3.0, 1.0)]
    with torch.no_grad():
        cautious, neutral = ((head(one.features) > 0).float().mean().item() for head in heads)
    assert cautious > 1.1 * neutral


def test_the_same_seed_gives_the_same_head():
    a, b, c = (fit(examples(), steps=50, seed=seed)[0].first.weight for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    np.testing.assert_equal(a.shape, (16, FEATURES))


def test_few_moments_are_learnt_from_and_measured_on():
    head, loss = fit(examples(3), steps=50)
    assert np.isfinite(loss) and head(torch.zeros(2, FEATURES)).shape == (2,)
    with pytest.raises(AssertionError):
        fit([Examples(torch.zeros(4, 2), torch.zeros(4, dtype=torch.bool))])


# ---- from a recording ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    """A scene of three keyframes with the images between them, and the truth of the keyframes."""
    root = tmp_path_factory.mktemp("drive") / "street"
    return write_dataset(root, scenes=1, frames=3, seed=301, progress=False)


def remembering():
    loaded = load_model("tiny")
    return OccupancyPredictor(loaded.model, loaded.config, loaded.provenance, "cpu", memory=MemoryHead())


class WithoutPoses(SampleEntry):
    """Of a recording that nobody knows the motion of."""

    def load(self):
        return replace(super().load(), T_world_ego=None, T_world_ego_per_camera=None)


@pytest.mark.medium
@pytest.mark.parametrize("poses", [True, False])
def test_what_is_occupied_has_more_ends_of_rays(drive, poses):
    recordings = Recordings(drive)
    (name,) = recordings.names()
    entries = recordings.entries(name)
    if not poses:
        entries = [WithoutPoses(**vars(each)) for each in entries]
    found = list(collect(remembering(), entries, drive / "gts", np.random.default_rng(0), in_label_frame=poses))
    assert len(found) == 2  # the first keyframe has no past
    features = torch.cat([each.features for each in found])
    occupied = torch.cat([each.occupied for each in found])
    assert torch.isfinite(features).all() and 0.02 < occupied.float().mean() < 0.6
    ends, word = features[:, 4], features[:, 0]
    assert ends[occupied].mean() > ends[~occupied].mean() + 1.0
    assert word[occupied].mean() > word[~occupied].mean() + 1.0


@pytest.mark.medium
def test_the_tool_adds_a_memory_to_a_copy_of_the_model(drive, tmp_path):
    tool, output = ROOT / "tools" / "fit_memory.py", tmp_path / "remembers.safetensors"
    command = [sys.executable, tool, drive, "--labels", drive / "gts", "--checkpoint", "tiny", "--output", output]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "memory fitted to 2 moments" in done.stdout
    assert not torch.equal(load_model(output).memory.first.weight, load_model("tiny").memory.first.weight)
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2 and again.stderr.count("\n") == 1 and "exists already" in again.stderr


def test_labels_of_another_grid_are_refused(drive, tmp_path):
    recordings = Recordings(drive)
    (name,) = recordings.names()
    for file in (drive / "gts").rglob("labels.npz"):
        target = tmp_path / file.relative_to(drive / "gts")
        target.parent.mkdir(parents=True)
        np.savez(target, **{what: np.ones((4, 4, 4), np.uint8) for what in ("semantics", "mask_camera", "mask_lidar")})
    with pytest.raises(DatasetError, match="labels of .4, 4, 4. voxels"):
        list(collect(remembering(), recordings.entries(name), tmp_path, np.random.default_rng(0)))
