# SPDX-License-Identifier: Apache-2.0
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
from support.rigs import ring

from gaussianocc_core.config import find_model_config, from_dict, load_config, to_dict
from gaussianocc_core.errors import ConfigError
from gaussianocc_core.geometry.rig_file import load_rig, save_rig
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.train import TrainConfig

CONFIG = Path(__file__).parents[2] / "config"


@pytest.mark.parametrize("path", sorted((CONFIG / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_model_file_loads_and_is_named_after_itself(path):
    config = load_config(path, ModelConfig)
    assert config.name == path.stem
    assert from_dict(ModelConfig, to_dict(config)) == config


def test_what_was_a_setting_once_is_accepted_at_its_constant_and_refused_at_any_other(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text(
        "drop_at: 0.8333333333333334\n"
        "gsp: {search_cost: 0.2, anchor: {levels: 2}, hints: {hypotheses: 48, weight: 1}}\n"
        "model: {gaussians: {far_factor: [4, 8]}}\n"
    )
    config = load_config(path, TrainConfig)
    assert config.gsp.hints.weight == 1.0
    assert config == from_dict(TrainConfig, {"gsp": {"hints": {"weight": 1.0}}})
    for override, message in (
        ("gsp.search_cost=0.5", r"gsp\.search_cost is no setting any more; its value is 0\.2, not 0\.5\. Leave it out"),
        ("gsp.anchor.levels=3", r"gsp\.anchor is no setting any more"),
        ("gsv.hints.halvings=2", r"gsv\.hints\.halvings is no setting any more"),
        ("model.gaussians.far_factor=[4, 4]", r"model\.gaussians\.far_factor is no setting any more"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(None, TrainConfig, [override])
    with pytest.raises(ConfigError, match=r"stage=gsv with gsv\.ego_motion=joint"):
        load_config(None, TrainConfig, ["stage=joint"])


def test_no_retired_name_is_a_setting():
    seen = []

    def visit(cls):
        hints = get_type_hints(cls)
        names = {each.name for each in fields(cls)}
        retired = set(getattr(cls, "RETIRED", {}))
        assert not names & retired, cls
        seen.extend(retired)
        for each in fields(cls):
            if is_dataclass(hints[each.name]):
                visit(hints[each.name])

    visit(TrainConfig)
    assert {"search_cost", "hypotheses", "erosion", "far_factor", "drop_at"} <= set(seen)


def test_a_named_model_is_found_and_an_unknown_one_named():
    assert find_model_config("reference").samefile(CONFIG / "model" / "reference.yaml")
    with pytest.raises(ConfigError, match="'largest'"):
        find_model_config("largest")


@pytest.mark.parametrize("path", sorted((CONFIG / "train").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_training_file_loads(path):
    assert load_config(path, TrainConfig).steps > 0


@pytest.mark.parametrize("path", sorted((CONFIG / "rig").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_rig_file_loads(path):
    assert len(load_rig(path)) >= 1


def test_reference_is_the_published_network():
    config = load_config(CONFIG / "model" / "reference.yaml", ModelConfig)
    assert (config.image_height, config.image_width) == (384, 640)
    assert config.lattice.shape == (300, 300, 24) and config.lattice.contraction == 0.66667
    assert config.gaussians.scale == (0.2, 0.2, 0.2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("decoder.chanels=3", r"unknown key decoder.chanels; did you mean decoder.channels\?"),
        ("image_width=wide", "image_width"),
        ("decoder=3", "decoder is a section"),
        ("image_width", "expected key=value"),
        ("lattice.shape=[1, 2, 3]", "lattice"),
        ("grid.voxel_size=-1", "voxel_size"),
    ],
)
def test_a_bad_override_is_named(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, ModelConfig, [override])


def test_overrides_win_over_the_file(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text("decoder: {channels: 8}\nimage_width: 320\n")
    config = load_config(path, ModelConfig, ["decoder.channels=12"])
    assert (config.decoder.channels, config.image_width) == (12, 320)


@pytest.mark.parametrize("content", ["- 1\n", "a: [\n"])
def test_a_broken_file_is_named(tmp_path, content):
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match="broken.yaml"):
        load_config(path, ModelConfig)
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "absent.yaml", ModelConfig)


def test_rig_files_round_trip(tmp_path):
    rig = ring()
    save_rig(rig, tmp_path / "rig.yaml")
    loaded = load_rig(tmp_path / "rig.yaml")
    assert loaded.names == rig.names and loaded.width == rig.width
    torch.testing.assert_close(loaded.intrinsics, rig.intrinsics)
    torch.testing.assert_close(loaded.T_ego_cam, rig.T_ego_cam)


def test_view_angles_turn_left_and_up(tmp_path):
    (tmp_path / "rig.yaml").write_text(
        "cameras:\n  A: {width: 10, height: 10, intrinsics: [5, 5, 5, 5], translation: [0, 0, 1],"
        " view: {yaw: 90, pitch: 30}}\n"
    )
    forward = load_rig(tmp_path / "rig.yaml").T_ego_cam[0, :3, 2].numpy()
    np.testing.assert_allclose(forward, [0.0, np.cos(np.radians(30)), np.sin(np.radians(30))], atol=1e-12)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{width: 10, height: 10, intrinsics: [5, 5], translation: [0, 0, 1], view: {}}", "fx, fy, cx, cy"),
        ("{width: 10, height: 10, intrinsics: [5, 5, 5, 5], translation: [0, 0, 1]}", "either rotation"),
        ("{width: 10, heigth: 10}", "did you mean height"),
        ("3", "cameras.A"),
    ],
)
def test_a_bad_rig_entry_names_the_camera(tmp_path, entry, message):
    (tmp_path / "rig.yaml").write_text(f"cameras:\n  A: {entry}\n")
    with pytest.raises(ConfigError, match=message):
        load_rig(tmp_path / "rig.yaml")


USABLE = {
    "width": "10",
    "height": "10",
    "intrinsics": "[5, 5, 5, 5]",
    "translation": "[0, 0, 1]",
    "rotation": "[1, 0, 0, 0]",
}


@pytest.mark.parametrize(
    ("field", "value", "more"),
    [
        ("intrinsics", "[.nan, 5, 5, 5]", {}),
        ("intrinsics", "[5, 5, .inf, 5]", {}),
        ("intrinsics", "[5, 0, 5, 5]", {}),
        ("width", "0", {}),
        ("height", "-3", {}),
        ("rotation", "[0, 0, 0, 0]", {}),
        ("rotation", "[.nan, 0, 0, 0]", {}),
        ("translation", "[0, .nan, 1]", {}),
        ("distortion", "[0.1, 0, 0]", {}),
        ("distortion", "[0.1, 0, 0, .nan]", {}),
        ("distortion", "[0.1, 0, 0, 0, 0]", {"model": "equidistant"}),
        ("model", "omnidirectional", {}),
    ],
)
def test_an_unusable_value_of_a_rig_names_file_camera_and_field(tmp_path, field, value, more):
    entry = "".join(f"    {key}: {text}\n" for key, text in {**USABLE, **more, field: value}.items())
    (tmp_path / "rig.yaml").write_text(f"cameras:\n  A:\n{entry}")
    with pytest.raises(ConfigError, match=rf"rig\.yaml: cameras\.A\.{field}: expected .*, got "):
        load_rig(tmp_path / "rig.yaml")


def test_view_angles_must_be_finite(tmp_path):
    entry = "{width: 10, height: 10, intrinsics: [5, 5, 5, 5], translation: [0, 0, 1], view: {yaw: .nan}}"
    (tmp_path / "rig.yaml").write_text(f"cameras:\n  A: {entry}\n")
    with pytest.raises(ConfigError, match=r"cameras\.A\.view: expected finite angles"):
        load_rig(tmp_path / "rig.yaml")


def test_an_override_names_a_model_and_later_ones_change_it():
    config = load_config(CONFIG / "train" / "gsv_tiny.yaml", TrainConfig, ["model=8gb", "model.decoder.channels=24"])
    assert (config.model.name, config.model.image_width, config.model.reach) == ("8gb", 352, 20.0)
    assert config.model.decoder.channels == 24 and config.stage == "gsv"
    with pytest.raises(ConfigError, match="9gb"):
        load_config(None, TrainConfig, ["model=9gb"])
