# SPDX-License-Identifier: Apache-2.0
import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from support.rigs import ring
from support.small_model import SMALL

from gaussianocc_core.checkpoint import (
    Provenance,
    copy_with_image_size,
    copy_with_memory,
    default_checkpoint,
    find_weights,
    load_depth_net,
    load_model,
    load_pose_net,
    networks_in,
    save_model,
)
from gaussianocc_core.config import to_dict
from gaussianocc_core.errors import CheckpointError
from gaussianocc_core.models.gaussianocc import build_model, build_pose_net
from gaussianocc_core.models.lifting import POSITION_CHANNELS, SURFACE_CHANNELS
from gaussianocc_core.models.matching import MatchingConfig
from gaussianocc_core.models.ray_memory import FEATURES, MemoryHead
from gaussianocc_core.predictor import OccupancyPredictor

PROVENANCE = Provenance("random, for a test", commit="abc", seed=1, steps=0, metrics={"iou": 0.5})


@pytest.fixture
def model():
    torch.manual_seed(1)
    return build_model(SMALL).eval()


def rewrite(path, tensors=None, **metadata):
    with safe_open(path, framework="pt") as file:
        kept, old = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors(old) if tensors else old, path, metadata={**kept, **metadata})


def test_saved_model_loads_to_equal_outputs(tmp_path, model):
    path = tmp_path / "model.safetensors"
    save_model(path, model, SMALL, PROVENANCE)
    loaded = load_model(path)
    assert loaded.config == SMALL and loaded.provenance == PROVENANCE
    volume = torch.rand(1, 8 + POSITION_CHANNELS + SURFACE_CHANNELS, 16, 16, 8)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model.voxel_decoder(volume), model.voxel_decoder(volume), atol=0, rtol=0)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_model_file_is_as_readable_as_the_umask_says(tmp_path, model, umask, mode):
    before = os.umask(umask)
    try:
        save_model(tmp_path / "model.safetensors", model, SMALL, PROVENANCE)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == mode


def test_half_precision_storage_halves_the_file(tmp_path, model):
    save_model(tmp_path / "full.safetensors", model, SMALL, PROVENANCE)
    save_model(tmp_path / "half.safetensors", model, SMALL, PROVENANCE, half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "full.safetensors").stat().st_size
    half = load_model(tmp_path / "half.safetensors").model
    for (name, a), b in zip(model.state_dict().items(), half.state_dict().values(), strict=True):
        assert b.dtype == a.dtype
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3, msg=name)


def test_a_pose_net_travels_in_the_same_file_and_nothing_else_notices(tmp_path, model):
    path = tmp_path / "model.safetensors"
    pose_net = build_pose_net(SMALL).eval()
    save_model(path, model, SMALL, PROVENANCE, pose_net=pose_net)
    loaded = load_pose_net(path)
    assert loaded.config == SMALL and loaded.provenance == PROVENANCE and not loaded.pose_net.training
    for name, value in pose_net.state_dict().items():
        assert torch.equal(loaded.pose_net.state_dict()[name], value), name
    assert load_model(path).model.state_dict().keys() == model.state_dict().keys()
    rewrite(path, lambda t: {k: v for k, v in t.items() if k != "pose_net.head.3.bias"})
    with pytest.raises(CheckpointError, match=r"1 weights missing \(first: head.3.bias\)"):
        load_pose_net(path)


def test_the_same_weights_for_another_size_of_images(tmp_path, model):
    """Every network, to the bit and in its type; the voxels stay, the maps are of the new size."""
    path, finer = tmp_path / "model.safetensors", tmp_path / "finer.safetensors"
    save_model(path, model, SMALL, PROVENANCE, half=True, pose_net=build_pose_net(SMALL))
    width, height = 2 * SMALL.image_width, 2 * SMALL.image_height
    line = copy_with_image_size(path, finer, width, height)
    assert f"images of {width}x{height}, trained with {SMALL.image_width}x{SMALL.image_height}" in line
    with safe_open(path, "pt") as one, safe_open(finer, "pt") as other:
        assert sorted(one.keys()) == sorted(other.keys()) and "pose" in networks_in(finer)
        for name in one.keys():  # noqa: SIM118
            before, after = one.get_tensor(name), other.get_tensor(name)
            assert before.dtype == after.dtype and torch.equal(before, after)
    loaded = load_model(finer)
    assert (loaded.config.image_width, loaded.config.image_height) == (width, height)
    assert loaded.provenance.training.startswith(PROVENANCE.training) and loaded.provenance.metrics == {}
    images, rig = [np.full((90, 160, 3), 80, np.uint8)] * 2, ring(yaws=(0.0, 60.0))
    found = OccupancyPredictor(loaded.model, loaded.config, None)(images, rig)
    assert found.field.logits.shape[2:] == SMALL.lattice.shape and found.views.width == (width, width)


@pytest.mark.parametrize(
    ("size", "message"),
    [((100, 48), "must be multiples of 16"), ((0, 48), "must be multiples of 16"), ((16000, 48), "image_width")],
)
def test_an_impossible_size_is_refused_and_nothing_is_written(tmp_path, model, size, message):
    save_model(tmp_path / "model.safetensors", model, SMALL, PROVENANCE)
    with pytest.raises(CheckpointError, match=message):
        copy_with_image_size(tmp_path / "model.safetensors", tmp_path / "finer.safetensors", *size)
    assert not (tmp_path / "finer.safetensors").exists()


def test_a_file_with_one_network_says_which_is_not_there(tmp_path, model):
    path = tmp_path / "model.safetensors"
    save_model(path, model, SMALL, PROVENANCE)
    with pytest.raises(CheckpointError, match="no ego-motion network"):
        load_pose_net(path)
    save_model(path, None, SMALL, PROVENANCE, pose_net=build_pose_net(SMALL))
    with pytest.raises(CheckpointError, match="no occupancy network"):
        load_model(path)
    with pytest.raises(ValueError, match="at least one network"):
        save_model(path, None, SMALL, PROVENANCE)


def test_shipped_weights_hold_a_setting_that_is_a_constant_now_and_load():
    path = find_weights("tiny_stage1")
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["config"])["gaussians"]["far_factor"] == [4.0, 8.0]
    assert load_depth_net(path).config.name == "tiny"


def test_a_file_with_another_value_of_a_constant_says_what_to_do(tmp_path, model):
    save_model(tmp_path / "m.safetensors", model, SMALL, PROVENANCE)
    config = to_dict(SMALL)
    config["gaussians"]["far_factor"] = [2.0, 3.0]
    rewrite(tmp_path / "m.safetensors", config=json.dumps(config))
    with pytest.raises(CheckpointError, match=r"gaussians\.far_factor is no setting any more; .* Leave it out, or use"):
        load_model(tmp_path / "m.safetensors")


def test_class_names_stand_in_the_metadata(tmp_path, model):
    save_model(tmp_path / "m.safetensors", model, SMALL, PROVENANCE)
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["class_names"])[-1] == "free"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "not in the format"),
        ({"config": "{"}, "config in its metadata"),
        ({"config": json.dumps({**to_dict(SMALL), "wings": 2})}, "wings"),
        ({"config": json.dumps({**to_dict(SMALL), "image_width": 81})}, "impossible"),
        ({"config": json.dumps(to_dict(SMALL) | {"decoder": {"channels": 12}})}, "do not fit the file's own config"),
        ({"tensors": lambda t: {k: v for k, v in t.items() if "conv1" not in k}}, "missing"),
        ({"tensors": lambda t: {**t, "extra.weight": torch.zeros(1)}}, r"unknown \(first: extra.weight\)"),
        ({"tensors": lambda t: {k: v * float("nan") if v.is_floating_point() else v for k, v in t.items()}}, "finite"),
    ],
)
def test_a_file_that_does_not_fit_says_so(tmp_path, model, change, message):
    path = tmp_path / "model.safetensors"
    save_model(path, model, SMALL, PROVENANCE)
    rewrite(path, **change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(path)
    assert "model.safetensors" in str(caught.value) and "\n" not in str(caught.value)


def test_absent_and_garbage_files_are_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_model(tmp_path / "none.safetensors")
    (tmp_path / "garbage.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(CheckpointError, match="not a readable"):
        load_model(tmp_path / "garbage.safetensors")


def test_shipped_checkpoint_loads_and_is_small():
    path = default_checkpoint()
    assert path is not None and path.stat().st_size <= 3_500_000
    loaded = load_model(path)
    assert loaded.config.name == "tiny" and "carved" in loaded.provenance.training
    assert loaded.provenance.metrics["non_ground_iou"] > 0


def test_shipped_weights_have_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_weights("tiny_matching").is_file() and "depth" in networks_in("tiny_matching")
    assert find_weights("elsewhere/tiny_matching") == Path("elsewhere/tiny_matching")
    (tmp_path / "tiny_matching").write_bytes(b"mine")  # a file of that name is what is meant
    assert find_weights("tiny_matching") == Path("tiny_matching")
    with pytest.raises(CheckpointError, match=r"the name of shipped weights \(tiny, tiny_matching, tiny_stage1\)"):
        load_depth_net("tiny_maching")


# ---- the memory of rays --------------------------------------------------------------------------------------------

MATCHING = replace(SMALL, matching=MatchingConfig(enabled=True, depths=8, channels=8, hidden=8))


def test_a_memory_is_added_to_a_model_file_and_comes_back_with_it(tmp_path):
    torch.manual_seed(0)
    path, other, resized = (tmp_path / f"{name}.safetensors" for name in "abc")
    save_model(path, build_model(MATCHING), MATCHING, PROVENANCE)
    assert load_model(path).memory is None and not OccupancyPredictor.from_checkpoint(path, "cpu").remembers
    head = MemoryHead()
    copy_with_memory(path, other, head, "labels of 7 moments")
    copy_with_memory(other, other, head, "labels of 8 moments")  # in place of the one before
    loaded = load_model(other)
    assert loaded.provenance.training == "random, for a test; memory fitted to labels of 8 moments"
    features = torch.randn(5, FEATURES)
    assert torch.equal(loaded.memory(features), head(features))
    for name, value in load_model(path).model.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name]), name
    assert networks_in(other) == ("occupancy",)
    assert OccupancyPredictor.from_checkpoint(other, "cpu").remembers
    assert not OccupancyPredictor.from_checkpoint(other, "cpu", memory=False).remembers
    copy_with_image_size(other, resized, 128, 96)
    assert torch.equal(load_model(resized).memory(features), head(features))


def test_a_memory_that_cannot_be_is_one_line(tmp_path, model):
    path = tmp_path / "model.safetensors"
    save_model(path, model, SMALL, PROVENANCE, memory=MemoryHead())
    with pytest.raises(CheckpointError, match="looks at each image alone"):
        OccupancyPredictor.from_checkpoint(path, "cpu")
    save_model(path, build_model(MATCHING), MATCHING, PROVENANCE, memory=MemoryHead())
    rewrite(path, lambda old: {name: value for name, value in old.items() if name != "memory.last.bias"})
    with pytest.raises(CheckpointError, match="1 weights missing"):
        load_model(path)
    rewrite(path, lambda old: {**old, "memory.last.bias": torch.full((1,), torch.nan)})
    with pytest.raises(CheckpointError, match="not finite"):
        load_model(path)
