# SPDX-License-Identifier: Apache-2.0
"""What a second stage begins with: whose weights, which of them fit, and what the log says of the rest."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.nuscenes_fixtures import MadeUpDatabase
from support.training_runs import MODEL, settings

from gaussianocc_core.checkpoint import Provenance, load_depth_net, load_model, save_model
from gaussianocc_core.config import load_config
from gaussianocc_core.errors import ConfigError
from gaussianocc_core.labels import CLASS_NAMES, ONE_CLASS, free_label
from gaussianocc_core.models.bev_decoder import BevDecoder
from gaussianocc_core.models.config import DecoderConfig, MatchingConfig
from gaussianocc_core.models.detail_head import DETAIL_CHANNELS
from gaussianocc_core.models.gaussianocc import build_depth_net, build_model, build_pose_net
from gaussianocc_core.training import engine
from gaussianocc_core.training.config import TrainConfig
from gaussianocc_core.training.stages import build_stage
from gaussianocc_core.training.start import inherit_first_stage
from gaussianocc_core.types import Lattice

ROOT = Path(__file__).resolve().parents[3]
MATCHING = replace(
    MODEL, matching=MatchingConfig(enabled=True, depths=8), decoder=DecoderConfig(channels=8, detail=True)
)
KINDS = {
    "bev": MODEL,
    "with details": MATCHING,
    "hourglass": replace(MODEL, decoder=DecoderConfig(kind="hourglass", channels=8)),
    "hourglass alone": replace(MODEL, decoder=DecoderConfig(kind="hourglass", channels=8, surface=False)),
}


def scrambled(network):
    """With weights and statistics that no fresh network has."""
    random = torch.Generator().manual_seed(7)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.add_(0.1 * torch.rand(value.shape, generator=random))
    return network


def second_stage(path, config=MODEL, **networks) -> str:
    """A model file as a second stage leaves it."""
    save_model(path, scrambled(build_model(config)), config, Provenance("for tests"), **networks)
    return str(path)


def first_stage(path, config=MODEL) -> str:
    torch.manual_seed(5)
    nets = {"pose_net": build_pose_net(config), "depth_net": build_depth_net(config)}
    save_model(path, None, config, Provenance("for tests"), **nets)
    return str(path)


def config_of(model=MODEL, first="", **gsv) -> TrainConfig:
    config = settings("", "", stage="gsv", model=model, first_stage=first)
    return inherit_first_stage(replace(config, gsv=replace(config.gsv, **gsv)))


def equal(ours, theirs) -> bool:
    return all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_an_occupancy_network_is_taken_over(tmp_path, caplog, kind):
    caplog.set_level("INFO")
    path = second_stage(tmp_path / "theirs.safetensors", KINDS[kind])
    ours = build_stage(config_of(KINDS[kind], path)).model
    assert equal(ours, load_model(path).model)
    assert f"the decoder begins with the weights of {path}" in caplog.text and "starts fresh" not in caplog.text


def test_the_decoder_of_one_file_and_the_eyes_of_another(tmp_path):
    """What a robot does with its own first stage: the depth is its own, the occupancy goes on from what ships."""
    first = first_stage(tmp_path / "first.safetensors", MATCHING)
    second = second_stage(tmp_path / "second.safetensors", MATCHING)
    stage = build_stage(config_of(MATCHING, first, decoder_from=second, ego_motion="auto"))
    ours, theirs, eyes = stage.model, load_model(second).model, load_depth_net(first).depth_net
    assert equal(ours.voxel_decoder, theirs.voxel_decoder) and equal(ours.detail_head, theirs.detail_head)
    assert equal(ours.image_encoder.project, theirs.image_encoder.project)
    assert equal(ours.image_encoder.conv1, eyes.image_encoder.conv1) and equal(ours.depth_head, eyes.head)
    assert not torch.equal(ours.image_encoder.conv1.weight, theirs.image_encoder.conv1.weight)
    assert stage.frozen and stage.pose_net is not None
    learning = {name.split(".")[0] for name, each in ours.named_parameters() if each.requires_grad}
    assert learning == {"image_encoder", "voxel_decoder", "detail_head"}


@pytest.mark.parametrize("kind", KINDS)
def test_other_classes_start_fresh_and_where_something_is_does_not(tmp_path, caplog, kind):
    caplog.set_level("INFO")
    path = second_stage(tmp_path / "theirs.safetensors", KINDS[kind])
    names = ("bus", "occupied", "car", "free")
    torch.manual_seed(3)
    fresh = build_model(replace(KINDS[kind], class_names=names)).eval()
    config = config_of(replace(KINDS[kind], class_names=names), path)
    torch.manual_seed(3)
    ours = build_stage(config).model.eval()
    theirs = load_model(path).model
    channels = next(each for each in theirs.voxel_decoder.modules() if isinstance(each, torch.nn.Conv3d)).in_channels
    volume = torch.rand(1, channels, *MODEL.lattice.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        said, before, first = (each.voxel_decoder(volume)[0] for each in (ours, theirs, fresh))
    details = DETAIL_CHANNELS if kind == "with details" else 0
    assert len(said) == 4 + details and len(before) == 18 + details
    for name in ("bus", "car"):
        torch.testing.assert_close(said[names.index(name)], before[CLASS_NAMES.index(name)])
    torch.testing.assert_close(said[3:], before[17:])  # free, and details
    assert not torch.allclose(said[3], first[3], rtol=0.1)
    weights = (ours.voxel_decoder.state_dict(), fresh.voxel_decoder.state_dict())
    for entry, each in ours.voxel_decoder.outputs().items():
        mine, new = (state[entry].unflatten(0, (-1, each)) for state in weights)
        assert torch.equal(mine[1], new[1])
    assert "where something is; what it is starts fresh (occupied)" in caplog.text


def test_one_class_has_the_geometry_of_many(tmp_path):
    path = second_stage(tmp_path / "theirs.safetensors")
    ours, theirs = build_stage(config_of(replace(MODEL, class_names=ONE_CLASS), path)).model, load_model(path).model
    assert isinstance(ours.voxel_decoder, BevDecoder)
    mine, other = (each.voxel_decoder.class_offset[free_label(names)] for each, names in
                   ((ours, ONE_CLASS), (theirs, CLASS_NAMES)))  # fmt: skip
    assert torch.equal(mine, other) and ours.voxel_decoder.classes == 2


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"decoder": DecoderConfig(channels=12)}, "model.decoder.channels is 12, this run has 8"),
        (
            {"lattice": Lattice(low=(-8.0, -8.0, -1.0), high=(8.0, 8.0, 3.0), shape=(16, 16, 8))},
            r"model.lattice.shape is \(16, 16, 8\), this run has \(16, 16, 4\)",
        ),
    ],
)
def test_a_decoder_that_does_not_fit_is_fresh_with_a_word_or_refused_where_it_was_asked_for(
    tmp_path, caplog, other, said
):
    caplog.set_level("INFO")
    path = second_stage(tmp_path / "theirs.safetensors", replace(MODEL, **other))
    torch.manual_seed(0)
    fresh = build_model(MODEL).voxel_decoder
    config = config_of(MODEL, path)
    torch.manual_seed(0)
    stage = build_stage(config)
    assert equal(stage.model.voxel_decoder, fresh) and equal(stage.model.depth_head, load_model(path).model.depth_head)
    (line,) = [each.message for each in caplog.records if "decoder" in each.message]
    assert line.startswith(f"the decoder starts with fresh weights; that of {path} does not fit: ")
    with pytest.raises(ConfigError, match=f"gsv.decoder_from: the decoder of .* does not fit: {said}; make them equal"):
        build_stage(config_of(MODEL, first_stage(tmp_path / "first.safetensors"), decoder_from=path))


def test_voxels_of_another_size_are_said(tmp_path, caplog):
    path = second_stage(tmp_path / "theirs.safetensors")
    finer = Lattice(low=(-4.0, -4.0, -1.0), high=(4.0, 4.0, 3.0), shape=MODEL.lattice.shape)
    build_stage(config_of(replace(MODEL, lattice=finer), path))
    assert "its lattice points are 1 x 1 x 1 m apart, here 0.5 x 0.5 x 1 m" in caplog.text


def test_what_cannot_be_gone_on_from_is_one_line(tmp_path):
    first = first_stage(tmp_path / "first.safetensors")
    with pytest.raises(ConfigError, match="holds no occupancy network; give a second stage's file"):
        build_stage(config_of(MODEL, first, decoder_from=first))
    headless = second_stage(tmp_path / "headless.safetensors", KINDS["hourglass alone"])
    with pytest.raises(ConfigError, match="has no depth head"):
        build_stage(config_of(KINDS["hourglass"], headless))


def test_a_first_stage_without_occupancy_leaves_the_decoder_fresh_as_before(tmp_path, caplog):
    caplog.set_level("INFO")
    config = config_of(MODEL, first_stage(tmp_path / "first.safetensors"))
    torch.manual_seed(0)
    fresh = build_model(MODEL).voxel_decoder
    torch.manual_seed(0)
    assert equal(build_stage(config).model.voxel_decoder, fresh)
    assert "decoder" not in caplog.text


def test_start_from_first_stage_false_starts_all_afresh(tmp_path):
    path = second_stage(tmp_path / "theirs.safetensors")
    torch.manual_seed(0)
    fresh = build_model(MODEL)
    torch.manual_seed(0)
    assert equal(build_stage(config_of(MODEL, path, start_from_first_stage=False)).model, fresh)


def test_the_recipe_goes_on_from_what_ships(caplog):
    caplog.set_level("INFO")
    recipe = load_config(ROOT / "config" / "train" / "gsv_carved_more.yaml", TrainConfig)
    model = build_stage(inherit_first_stage(recipe)).model
    assert equal(model, load_model("tiny").model)
    one = replace(recipe, model=replace(recipe.model, class_names=ONE_CLASS))
    ours = build_stage(inherit_first_stage(one)).model
    assert equal(ours.voxel_decoder.level1, load_model("tiny").model.voxel_decoder.level1)
    assert "what it is starts fresh (occupied)" in caplog.text


@pytest.mark.medium
def test_a_resumed_run_goes_on_from_its_own_weights(tmp_path):
    """However it began: stopped after a step and resumed, it ends as in one go."""
    root = MadeUpDatabase(keyframes=4, frames_per_keyframe=4).write(tmp_path / "root")
    path = second_stage(tmp_path / "theirs.safetensors")
    runs = [
        settings(root, tmp_path / name, stage="gsv", first_stage=path, learning_rate=1e-2, steps=3)
        for name in ("straight", "stopped")
    ]
    straight = load_model(engine.train(runs[0])).model
    with pytest.raises(engine.TrainingStopped, match="stopped after 1 of 3"):
        engine.train(runs[1], minutes=1e-9)
    assert equal(load_model(engine.train(runs[1], resume=True)).model, straight)
    assert not equal(straight, load_model(path).model)
