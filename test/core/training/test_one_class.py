# SPDX-License-Identifier: Apache-2.0
"""Without 2D labels a model knows one class, `occupied`: from the labels in 3D to what a robot gets of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.nuscenes_fixtures import MadeUpDatabase
from support.training_runs import MODEL, settings

from gaussianocc_core.checkpoint import load_model
from gaussianocc_core.data.entries import labels_path
from gaussianocc_core.data.sources import DataConfig, first_left_out, open_entries, open_split
from gaussianocc_core.errors import ConfigError
from gaussianocc_core.labels import (
    CLASS_FREQUENCIES,
    CLASS_ID,
    CLASS_NAMES,
    FREE,
    IGNORE,
    OCCLUDED,
    ONE_CLASS,
    class_weights,
    frequencies_of,
    ids_from_occ3d,
    ids_to_occ3d,
)
from gaussianocc_core.navigation.obstacles import find_obstacles
from gaussianocc_core.navigation.traversability import Traversability
from gaussianocc_core.predictor import OccupancyPredictor
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.train import main as train_command
from gaussianocc_core.training.engine import train
from gaussianocc_core.training.loader import TrainingSet
from gaussianocc_core.training.stages import build_stage

GRID = MODEL.grid


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return MadeUpDatabase(keyframes=4, frames_per_keyframe=6).write(tmp_path_factory.mktemp("data") / "root")


def write_labels(folder, entry, labels) -> None:
    path = labels_path(folder, entry.scene, entry.token)
    path.parent.mkdir(parents=True)
    np.savez_compressed(path, semantics=labels, mask_camera=labels != IGNORE, mask_lidar=np.zeros_like(labels))


@pytest.fixture(scope="module")
def carved(root, tmp_path_factory):
    """Ground of another class everywhere, a wall on it, free above, and half of the grid unknown."""
    folder = tmp_path_factory.mktemp("labels")
    labels = np.full(GRID.shape, FREE, np.uint8)
    labels[:, :, :2] = CLASS_ID["others"]
    labels[24:30, :, 2:7] = CLASS_ID["car"]
    labels[:16] = IGNORE
    for entry in open_entries(DataConfig(dataroot=str(root))):
        write_labels(folder, entry, labels)
    return folder


def test_ids_go_to_a_model_and_back():
    own = ids_from_occ3d(ONE_CLASS)
    assert own[:FREE].tolist() == [0] * FREE and own[[FREE, OCCLUDED, IGNORE]].tolist() == [1, OCCLUDED, IGNORE]
    assert ids_to_occ3d(ONE_CLASS)[[0, 1, OCCLUDED, IGNORE]].tolist() == [CLASS_ID["others"], FREE, OCCLUDED, IGNORE]
    some = ("car", "driveable_surface", "occupied", "free")
    assert ids_from_occ3d(some)[[CLASS_ID["car"], CLASS_ID["bus"], FREE]].tolist() == [0, 2, 3]
    assert ids_to_occ3d(some)[:4].tolist() == [CLASS_ID["car"], CLASS_ID["driveable_surface"], 0, FREE]
    np.testing.assert_array_equal(ids_from_occ3d(CLASS_NAMES)[:18], np.arange(18))
    np.testing.assert_array_equal(class_weights(frequencies_of(CLASS_NAMES)), class_weights())
    assert frequencies_of(ONE_CLASS).tolist() == pytest.approx(
        [CLASS_FREQUENCIES[:FREE].sum(), CLASS_FREQUENCIES[FREE]]
    )
    with pytest.raises(ValueError, match="add occupied, before free"):
        ids_from_occ3d(("car", "free"))


def test_one_class_is_learnt_published_and_measured(root, carved, tmp_path):
    model = replace(MODEL, class_names=ONE_CLASS)
    data = DataConfig(dataroot=str(root), occupancy=str(carved), semantics=False, jitter=0.0, mirror=0.0)
    config = settings(root, tmp_path / "run", stage="gsv", model=model, data=data, steps=60, learning_rate=1e-2)
    path = train(replace(config, gsv=replace(config.gsv, rendering=False)))
    loaded = load_model(path)
    assert loaded.config.class_names == ONE_CLASS
    predictor = OccupancyPredictor.from_checkpoint(path, "cpu")
    sample = open_entries(data)[0].load()
    prediction = predictor(sample.images, sample.cameras)
    assert prediction.class_names == ONE_CLASS and set(np.unique(prediction.labels)) <= {0, 1, OCCLUDED, IGNORE}
    wall = prediction.labels[26:28, :, 3:6][prediction.observed[26:28, :, 3:6]]
    assert len(wall) and (wall == 0).mean() > 0.5
    assert find_obstacles(prediction, Traversability()).any()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert '"labels"' in lines[0] and '"classes"' not in lines[0]
    errors = [float(line.split('"labels": ')[1].split(",")[0].rstrip("}")) for line in lines]
    assert np.mean(errors[-5:]) < 0.5 * np.mean(errors[:5])


def test_2d_labels_of_sky_and_things_teach_one_class(root):
    config = settings(root, "", stage="gsv", model=replace(MODEL, class_names=ONE_CLASS))
    stage = build_stage(config)
    batch = TrainingSet(open_entries(config.data), config.data, Preprocessor.of(config.model), 0)[(0, 0)]
    semantics = torch.full((1, *batch.valid.shape[1:]), CLASS_ID["car"], dtype=torch.uint8)
    semantics[:, :, :8] = FREE  # sky
    losses = stage(replace(batch, semantics=semantics))
    assert {"semantic", "entropy", "variation"} < set(losses) and float(losses["semantic"]) > 0
    assert torch.isfinite(losses["total"])
    assert stage.look(batch).classes.unique().tolist() in ([CLASS_ID["others"], FREE], [CLASS_ID["others"]], [FREE])
    with pytest.raises(ConfigError, match="add occupied, before free"):
        build_stage(settings(root, "", stage="gsv", model=replace(MODEL, class_names=("car", "free"))))


def test_what_is_left_out_does_not_depend_on_labels_in_3d(root, tmp_path):
    data = DataConfig(dataroot=str(root), left_out=0.3)
    kept, apart = open_split(data)
    for entry in kept[:2]:
        write_labels(tmp_path, entry, np.full(GRID.shape, FREE, np.uint8))
    with_labels = open_split(replace(data, occupancy=str(tmp_path)))
    assert [each.token for each in with_labels[0]] == [each.token for each in kept[:2]]
    assert [each.token for each in with_labels[1]] == [each.token for each in apart]
    (scene,) = {each.scene for each in apart}
    assert first_left_out(data) == {scene: apart[0].frame.camera_stamps_ns[0]}
    assert first_left_out(DataConfig(dataroot=str(root))) == {}


def test_recorded_motion_needs_no_network_for_images_of_this_size(root, tmp_path, caplog):
    caplog.set_level("INFO")
    first = train(settings(root, tmp_path / "first", steps=2))
    larger = replace(MODEL, image_height=48, image_width=64)
    config = settings(root, tmp_path / "second", stage="gsv", model=larger, first_stage=str(first), steps=2)
    gsv = replace(config.gsv, start_from_first_stage=False)
    learned = replace(config, gsv=replace(gsv, ego_motion="learned"))
    with pytest.raises(ConfigError, match=r"image_height=32, this run has 48; train a first stage"):
        build_stage(learned)
    assert train(replace(config, gsv=replace(gsv, ego_motion="auto"))).is_file()
    assert "samples without poses cannot be used" in caplog.text


def test_a_dry_run_says_what_it_would_be_and_writes_nothing(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "mine.yaml"
    small = (
        "model: {image_height: 32, image_width: 48, encoder: {width: 0.125, up_channels: [8, 8]}, "
        "pose: {width: 0.125, channels: 8}}\n"
    )
    config.write_text(f"stage: gsp\nsteps: 30\n{small}data: {{dataroot: {root}, left_out: 0.2}}\ndevice: cpu\n")
    before = sorted(tmp_path.rglob("*"))
    assert train_command([str(config), "--dry-run"]) == 0
    said = capsys.readouterr().out
    kept, apart = open_split(DataConfig(dataroot=str(root), left_out=0.2))
    assert f"gsp: {len(kept)} samples of 1 scenes, 0 with 2D labels; {len(apart)} are left out" in said
    assert f"30 steps, {30 / len(kept):.1f} epochs" in said and " s a step, about " in said and " GB of memory" in said
    assert "output would be runs/mine; nothing was written" in said
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "model.safetensors").write_bytes(b"")
    assert train_command([str(config), "--dry-run"]) == 2
    assert "holds a run already" in capsys.readouterr().err
