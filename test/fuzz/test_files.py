# SPDX-License-Identifier: Apache-2.0
"""Damaged tables, checkpoints and YAML."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
import yaml
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from support.ddad_fixtures import MadeUpScene, write_data_set
from support.fuzzing import BYTE_CHANGES, TREE_CHANGES, change_bytes, change_tree, fuzz, guarded
from support.nuscenes_fixtures import MadeUpDatabase
from support.rigs import ring
from support.small_model import SMALL

from gaussianocc_core.checkpoint import Provenance, load_model, save_model
from gaussianocc_core.config import load_config, to_dict
from gaussianocc_core.data.ddad import DdadSource
from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.errors import GaussianOccError
from gaussianocc_core.geometry.rig_file import load_rig, save_rig
from gaussianocc_core.models.gaussianocc import build_model
from gaussianocc_core.predictor import OccupancyPredictor
from gaussianocc_core.training.config import TrainConfig

TABLES = ("scene", "sample", "sample_data", "calibrated_sensor", "ego_pose", "sensor", "log", "map")


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return MadeUpDatabase(keyframes=1, frames_per_keyframe=1).write(tmp_path_factory.mktemp("made_up") / "root")


def read_nuscenes(root):
    source = NuScenesSource(root)
    for scene in source.scene_names():
        recording = source.recording(scene)
        recording.count_messages()
        for entry in source.index(scene):
            entry.load()
        for _ in recording.records():
            pass


def change_nuscenes(database, tmp_path_factory, table, changes, as_bytes):
    root = tmp_path_factory.mktemp("one") / "root"
    root.mkdir()
    for each in database.iterdir():
        if each.name == "v1.0-mini":
            shutil.copytree(each, root / each.name)
        else:
            shutil.copytree(each, root / each.name, copy_function=os.link)
    path = root / "v1.0-mini" / f"{table}.json"
    if as_bytes:
        path.write_bytes(change_bytes(path.read_bytes(), changes))
    else:
        path.write_text(json.dumps(change_tree(json.loads(path.read_text()), changes)))
    with guarded(f"nuScenes {table}", GaussianOccError):
        read_nuscenes(root)
    assert [each.name for each in root.parent.iterdir()] == ["root"]
    shutil.rmtree(root.parent)


def add_nuscenes(examples):
    @pytest.mark.parametrize("table", TABLES)
    @fuzz(examples, changes=TREE_CHANGES)
    def test(database, tmp_path_factory, table, changes):
        change_nuscenes(database, tmp_path_factory, table, changes, False)

    return test


test_damaged_tables_are_refused_or_read = add_nuscenes(6)
test_many_damaged_tables_are_refused_or_read = pytest.mark.slow(add_nuscenes(150))


@pytest.mark.slow
@pytest.mark.parametrize("table", TABLES)
@fuzz(50, changes=BYTE_CHANGES)
def test_tables_of_damaged_bytes_are_refused_or_read(database, tmp_path_factory, table, changes):
    change_nuscenes(database, tmp_path_factory, table, changes, True)


@pytest.fixture(scope="module")
def dgp(tmp_path_factory):
    scene = MadeUpScene(samples=1)
    return write_data_set(tmp_path_factory.mktemp("dgp") / "root", scene), scene


def add_dgp(examples):
    @pytest.mark.parametrize("which", ["scene", "calibration", "index"])
    @fuzz(examples, changes=TREE_CHANGES)
    def test(dgp, tmp_path_factory, which, changes):
        whole, scene = dgp
        root = tmp_path_factory.mktemp("one") / "root"
        shutil.copytree(whole, root)
        name = {"scene": scene.json_name, "calibration": scene.calibration_name, "index": "made_up.json"}[which]
        content = json.loads((root / name).read_text())
        (root / name).write_text(json.dumps(change_tree(content, changes)))
        with guarded(f"DGP {which}", GaussianOccError):
            source = DdadSource(root)
            for each in source.scene_names():
                for entry in source.index(each):
                    entry.load()
                for _ in source.recording(each).records():
                    pass
        shutil.rmtree(root.parent)

    return test


test_damaged_dgp_files_are_refused_or_read = add_dgp(10)
test_many_damaged_dgp_files_are_refused_or_read = pytest.mark.slow(add_dgp(300))


# ---- checkpoints ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, build_model(SMALL), SMALL, Provenance("made up"))
    return path


def use_model(path):
    predictor = OccupancyPredictor.from_checkpoint(path, "cpu")
    rig = ring(yaws=(0.0,))
    image = np.zeros((rig.height[0], rig.width[0], 3), np.uint8)
    prediction = predictor([image], rig)
    assert np.isfinite(prediction.confidence).all()


def add_checkpoints(examples):
    @fuzz(examples, changes=BYTE_CHANGES)
    def test_bytes(checkpoint, tmp_path_factory, changes):
        path = tmp_path_factory.mktemp("one") / "model.safetensors"
        path.write_bytes(change_bytes(checkpoint.read_bytes(), changes))
        with guarded("checkpoint bytes", GaussianOccError):
            use_model(path)
        shutil.rmtree(path.parent)

    @fuzz(examples, changes=TREE_CHANGES, key=st.sampled_from(["config", "provenance"]))
    def test_metadata(checkpoint, tmp_path_factory, changes, key):
        path = tmp_path_factory.mktemp("one") / "model.safetensors"
        with safe_open(checkpoint, framework="pt") as file:
            metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata[key] = json.dumps(change_tree(json.loads(metadata[key]), changes))
        save_file(tensors, path, metadata=metadata)
        with guarded("checkpoint metadata", GaussianOccError):
            load_model(path)
        shutil.rmtree(path.parent)

    return test_bytes, test_metadata


test_damaged_checkpoints_are_refused_or_say_numbers, test_damaged_metadata_are_refused_or_read = add_checkpoints(8)
_many = add_checkpoints(300)
test_many_damaged_checkpoints_are_refused_or_say_numbers = pytest.mark.slow(_many[0])
test_many_damaged_metadata_are_refused_or_read = pytest.mark.slow(_many[1])


# ---- YAML ----------------------------------------------------------------------------------------------------------


def add_yaml(examples):
    @fuzz(examples, changes=TREE_CHANGES, marks=BYTE_CHANGES, as_bytes=st.booleans())
    def test_rigs(tmp_path_factory, changes, marks, as_bytes):
        path = tmp_path_factory.mktemp("one") / "rig.yaml"
        save_rig(ring(yaws=(0.0, 90.0)), path)
        damage(path, changes, marks, as_bytes)
        with guarded("rig", GaussianOccError):
            load_rig(path)
        shutil.rmtree(path.parent)

    @fuzz(examples, changes=TREE_CHANGES, marks=BYTE_CHANGES, as_bytes=st.booleans())
    def test_configs(tmp_path_factory, changes, marks, as_bytes):
        path = tmp_path_factory.mktemp("one") / "config.yaml"
        path.write_text(yaml.safe_dump(to_dict(TrainConfig())))
        damage(path, changes, marks, as_bytes)
        with guarded("config", GaussianOccError):
            load_config(path, TrainConfig)
        shutil.rmtree(path.parent)

    return test_rigs, test_configs


def damage(path, changes, marks, as_bytes):
    if as_bytes:
        path.write_bytes(change_bytes(path.read_bytes(), marks))
    else:
        path.write_text(yaml.safe_dump(change_tree(yaml.safe_load(path.read_text()), changes)))


test_damaged_rigs_are_refused_or_read, test_damaged_configs_are_refused_or_read = add_yaml(25)
_more = add_yaml(1000)
test_many_damaged_rigs_are_refused_or_read = pytest.mark.slow(_more[0])
test_many_damaged_configs_are_refused_or_read = pytest.mark.slow(_more[1])
