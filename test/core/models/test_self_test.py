# SPDX-License-Identifier: Apache-2.0
"""A network that cannot be right is refused when it is loaded; one that may be young, or untrained, is not."""

import time
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from support.small_model import SMALL

from gaussianocc_core.checkpoint import Provenance, default_checkpoint, load_model, save_model
from gaussianocc_core.errors import CheckpointError, PredictionError
from gaussianocc_core.models.config import DecoderConfig, ModelConfig
from gaussianocc_core.models.gaussianocc import build_model
from gaussianocc_core.models.quirks import PUBLISHED
from gaussianocc_core.models.self_test import self_test
from gaussianocc_core.predictor import OccupancyPredictor

TRAINED = Provenance("says that it is trained")


def run(model, config, trained=True):
    self_test(model.eval(), config.image_width, config.image_height, trained)


@pytest.fixture
def fresh():
    torch.manual_seed(2)
    return build_model(SMALL)


def test_the_shipped_weights_pass_within_a_third_of_a_second():
    loaded = load_model(default_checkpoint())
    run(loaded.model, loaded.config)
    began = time.process_time()
    run(loaded.model, loaded.config)
    assert time.process_time() - began < 0.3 * torch.get_num_threads()


def test_a_young_network_which_sees_the_ground_and_nothing_else_passes():
    """Before its first step the default network says free, but where its depth head expects level ground."""
    torch.manual_seed(0)
    run(build_model(ModelConfig()), ModelConfig())


@pytest.mark.parametrize("width, height", [(16, 16), (640, 384), (1024, 48)])
def test_images_of_any_shape_pass(fresh, width, height):
    self_test(fresh.eval(), width, height, trained=False)


@pytest.mark.parametrize("kind", ["bev", "hourglass"])
@pytest.mark.parametrize("surface", [True, False])
def test_weights_that_were_never_trained_pass_as_what_they_are(kind, surface):
    config = replace(SMALL, decoder=replace(SMALL.decoder, kind=kind, surface=surface))
    for seed in range(3):
        torch.manual_seed(seed)
        run(build_model(config), config, trained=False)


def test_a_network_of_the_published_kind_passes():
    config = replace(SMALL, quirks=PUBLISHED, decoder=DecoderConfig("hourglass", False, 8, 1, 2, False))
    for seed in range(3):
        torch.manual_seed(seed)
        run(build_model(config), config)


@torch.no_grad()
@pytest.mark.parametrize("offset, said", [(1e4, "free space"), (-1e4, "one and the same class")])
def test_finite_weights_that_say_one_thing_everywhere_are_refused(tmp_path, fresh, offset, said):
    path = tmp_path / "model.safetensors"
    fresh.voxel_decoder.class_offset[-1] = offset
    if offset < 0:
        fresh.voxel_decoder.class_offset[3] = 1e4
    save_model(path, fresh, SMALL, TRAINED)
    load_model(path)  # nothing is wrong with the file itself
    with pytest.raises(CheckpointError, match=f"model.safetensors: refused after a self-test: .* {said} everywhere"):
        OccupancyPredictor.from_checkpoint(path, "cpu")


@torch.no_grad()
def test_weights_of_zero_are_refused(tmp_path, fresh):
    """Every logit is then 0: an opacity of one half, which is not more than one half, would be free."""
    for parameter in fresh.parameters():
        parameter.zero_()
    save_model(tmp_path / "m.safetensors", fresh, SMALL, TRAINED)
    with pytest.raises(CheckpointError, match="free space everywhere"):
        OccupancyPredictor.from_checkpoint(tmp_path / "m.safetensors", "cpu")


@torch.no_grad()
@pytest.mark.parametrize("trained", [True, False])
def test_finite_weights_that_overflow_are_refused_trained_or_not(fresh, trained):
    for parameter in fresh.voxel_decoder.parameters():
        parameter.mul_(1e25)
    with pytest.raises(PredictionError, match="values are not numbers"):
        run(fresh, SMALL, trained)


@torch.no_grad()
def test_one_class_everywhere_passes_where_nobody_says_it_is_trained(fresh):
    fresh.voxel_decoder.class_offset[-1] = 1e4
    run(fresh, SMALL, trained=False)


# ---- what a file's tensors may be ----------------------------------------------------------------------------------


@pytest.fixture
def changed(tmp_path, fresh):
    """A model file of which one weight is another."""
    path = tmp_path / "model.safetensors"

    def change(name, new):
        save_model(path, fresh, SMALL, TRAINED)
        with safe_open(path, framework="pt") as file:
            metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        tensors[name] = new(tensors[name])
        save_file(tensors, path, metadata=metadata)
        return path

    return change


BIAS = "voxel_decoder.class_offset"
VARIANCE = "voxel_decoder.level1.1.running_var"
COUNT = "voxel_decoder.level1.1.num_batches_tracked"


@pytest.mark.parametrize(
    "name, new, match",
    [
        (BIAS, lambda t: t.to(torch.int8), "1 weights of a type .*class_offset is torch.int8, expected floats"),
        (BIAS, lambda t: t.to(torch.complex64), "is torch.complex64, expected floats"),
        (BIAS, lambda t: t.to(torch.float8_e4m3fn), "is torch.float8_e4m3fn, expected floats"),
        (COUNT, lambda t: t.float(), "is torch.float32, expected torch.int64"),
        (BIAS, lambda t: t.double() + 1e300, "1 weights are not finite"),  # in the 32 bits that the network has
        (BIAS, lambda t: t + float("nan"), "1 weights are not finite"),
        (VARIANCE, lambda t: t - 5.0, "1 variances are negative .*level1.1.running_var"),
    ],
)
def test_a_tensor_that_cannot_be_a_weight_is_refused_by_name(changed, name, new, match):
    with pytest.raises(CheckpointError, match=match):
        load_model(changed(name, new))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_width_of_floats_is_read(changed, dtype):
    load_model(changed(BIAS, lambda t: t.to(dtype)))
