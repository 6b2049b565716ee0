# SPDX-License-Identifier: Apache-2.0
"""What a run made of the weights that it began with: measured without truth, and what was better is kept."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.rigs import ring
from support.synthetic_bags import make_dataset

from gaussianocc_core.checkpoint import find_weights, load_depth_net, load_pose_net, save_model
from gaussianocc_core.config import load_config
from gaussianocc_core.data.sources import open_split
from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry.ground_plane import ground_inv_depth
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.train import main as train_command
from gaussianocc_core.training.config import TrainConfig
from gaussianocc_core.training.judging import (
    AGREES,
    EXPECTED,
    EXPECTED_FOLLOWED,
    EXPLAINS,
    FOLLOWED,
    GROUND,
    compare,
    disagreement,
    overconfidence,
    pair_up,
)
from gaussianocc_core.training.loader import TrainingSet

ROOT = Path(__file__).resolve().parents[3]


# ---- the verdict -----------------------------------------------------------------------------------------------------


def values(by=1.0, noise=0.05, count=10, seed=0):
    random = np.random.default_rng(seed)
    usual = random.uniform(0.1, 0.5, count)
    return {name: list(by * usual * np.exp(noise * random.normal(size=count))) for name in (FOLLOWED, AGREES)}


def test_worse_better_and_neither():
    worse = compare(values(), values(1.2, seed=0))
    assert worse.better == "start" and worse.change == pytest.approx(math.log(1.2), abs=0.05)
    assert compare(values(), values(0.8)).better == "end"
    assert compare(values(), values()).better == compare(values(), values(1.01)).better == ""
    start, noisy = values(), values(1.1, noise=0.0)
    noisy[FOLLOWED] = [value * (3.0 if k % 2 else 0.3) for k, value in enumerate(noisy[FOLLOWED])]
    assert compare(start, noisy).better == ""  # samples that contradict each other prove nothing
    assert compare(values(count=3), values(2.0, count=3)).better == ""


def test_only_what_tells_decides_and_samples_without_a_value_do_not():
    start, end = values(), values(1.3)
    assert compare({**start, GROUND: [1.0] * 10}, {**end, GROUND: [0.1] * 10}).better == "start"
    start[FOLLOWED][3:6] = end[AGREES][7:] = [math.nan] * 3
    assert compare(start, end).better == "start" and compare(start, end).samples == 10
    assert compare({AGREES: [math.nan] * 10}, {AGREES: [1.0] * 10}).samples == 0
    assert compare({}, end).better == "" and compare({GROUND: [1.0] * 10}, {GROUND: [2.0] * 10}).better == ""
    assert compare({EXPLAINS: [0.1] * 10}, {EXPLAINS: [0.2] * 10}).better == ""


def test_who_expects_less_than_is_found_is_too_sure():
    right, short = {EXPECTED: [0.9, 1.1] * 4, EXPECTED_FOLLOWED: [0.8] * 8}, {EXPECTED: [0.45, 0.55] * 4}
    assert overconfidence(right, short) == pytest.approx(2.0)
    assert overconfidence(right, {**short, EXPECTED_FOLLOWED: [0.8] * 8}) == pytest.approx(
        2.0**0.5
    )  # one says, one not
    assert overconfidence({}, {EXPECTED: [0.5] * 8}) == pytest.approx(2.0)  # of fresh weights
    assert overconfidence(right, {EXPECTED: [0.5] * 3 + [math.nan] * 5}) == 1.0  # three samples tell nothing
    assert overconfidence(right, {EXPECTED: [3.0] * 8}) == overconfidence(right, {}) == overconfidence({}, {}) == 1.0
    assert overconfidence(right, {EXPECTED: [1e-3] * 8}) == 4.0
    assert overconfidence({EXPECTED: [math.nan] * 8}, short) == 1.0  # nobody knows what was right


def test_depth_agrees_with_itself_where_both_are_right():
    cameras = camera_geometry.resize(ring(), 80, 48).to(dtype=torch.float32)
    depth = 1.0 / ground_inv_depth(cameras.intrinsics, cameras.T_ego_cam, 80, 48, stride=1).clamp(min=1e-2)
    valid = depth < 20.0
    T_before_now = torch.eye(4)
    T_before_now[0, 3] = 1.0  # the ground looks the same from everywhere
    T = torch.linalg.inv(cameras.T_ego_cam) @ T_before_now @ cameras.T_ego_cam
    assert disagreement(depth, depth, cameras.intrinsics, T, valid) < 0.01
    assert disagreement(1.2 * depth, depth, cameras.intrinsics, T, valid) == pytest.approx(math.log(1.2), abs=0.03)
    same = torch.full_like(depth, 5.0)  # as if the street came along
    assert disagreement(same, same, cameras.intrinsics, T, valid) > 0.05
    away = T.clone()
    away[:, 2, 3] -= 1e3
    assert math.isnan(disagreement(depth, depth, cameras.intrinsics, away, valid))


# ---- a run -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """Three seconds of driving by two cameras that look ahead, with poses."""
    rig = ring().select(ring().names[:2])
    return make_dataset(tmp_path_factory.mktemp("judging") / "street", camera_geometry.resize(rig, 160, 96), 6, 12)


def run(street, output, *overrides) -> int:
    size = ("model.image_width=160", "model.image_height=96", "data.left_out=0.3", "pictures_every=0", "device=cpu")
    recipe = ROOT / "config" / "train" / "gsp_tiny_more.yaml"
    more = (f"data.dataroot={street}", f"output={output}", "first_stage=tiny_matching", "gsp.cross_weight=0")
    return train_command([str(recipe), *more, *size, *overrides])


def test_pairs_are_metres_apart(street):
    recipe = load_config(ROOT / "config" / "train" / "gsp_tiny_more.yaml", TrainConfig)
    data = replace(recipe.data, dataroot=str(street), left_out=0.3, mirror=0.0, jitter=0.0)
    _, apart = open_split(data)
    loaded = TrainingSet(apart, data, Preprocessor.of(recipe.model), 0)
    seen = pair_up(apart, loaded, 1.2, torch.device("cpu"))
    assert 4 <= len(seen) <= 12 and all(each.before is not None for each in seen)
    for each in seen:
        assert 0.6 <= float(each.T_before_now[:3, 3].norm()) < 3.0 and each.batch.tokens != each.before.tokens
        assert float(each.T_before_now[0, 3]) > 0.5  # what is ahead now was farther ahead


@pytest.mark.medium
def test_weights_that_a_run_made_worse_are_not_what_it_leaves(street, tmp_path, caplog):
    rates = ("learning_rate=0.02", "encoder_learning_rate=0.02", "stop_on_collapse=false")
    assert run(street, tmp_path / "run", "steps=12", *rates) == 0
    said = [each.getMessage() for each in caplog.records if "made its weights worse" in each.getMessage()]
    assert len(said) == 1 and "To do: a fifth of both learning rates" in said[0]
    assert "model.safetensors holds those that it began with, trained.safetensors the trained ones" in said[0]
    assert "against points that motion measures 0." in said[0]
    measures = json.loads((tmp_path / "run" / "measures.json").read_text())
    assert measures["better"] == "start" and measures["end"][FOLLOWED] > measures["start"][FOLLOWED]
    kept, trained = (load_file(tmp_path / "run" / f"{name}.safetensors") for name in ("model", "trained"))
    shipped = load_file(find_weights("tiny_matching"))
    assert kept.keys() == trained.keys()
    assert all(torch.equal(value, shipped[name]) for name, value in kept.items())
    assert any(not torch.equal(value, shipped[name]) for name, value in trained.items())
    provenance = load_depth_net(tmp_path / "run" / "model.safetensors").provenance
    assert "kept as they were: training went on and made them worse" in provenance.training
    assert (
        "occupancy" not in provenance.training
        and load_depth_net(tmp_path / "run" / "trained.safetensors").provenance.steps == 12
    )
    # A longer run goes on with what was learnt, and is measured against the same start.
    assert run(street, tmp_path / "run", "steps=13", *rates, "--resume") == 0
    assert json.loads((tmp_path / "run" / "measures.json").read_text())["start"] == measures["start"]
    assert load_depth_net(tmp_path / "run" / "trained.safetensors").provenance.steps == 13


@pytest.mark.medium
def test_keep_better_false_leaves_what_was_learnt_and_says_so(street, tmp_path, caplog):
    rates = ("learning_rate=0.02", "encoder_learning_rate=0.02", "stop_on_collapse=false")
    assert run(street, tmp_path / "run", "steps=12", *rates, "keep_better=false") == 0
    assert "model.safetensors holds them all the same" in caplog.text
    assert load_depth_net(tmp_path / "run" / "model.safetensors").provenance.steps == 12
    assert not (tmp_path / "run" / "start.safetensors").exists()


@pytest.mark.medium
def test_a_run_that_did_no_harm_leaves_what_it_learnt(street, tmp_path, caplog):
    gentle = ("learning_rate=1e-7", "encoder_learning_rate=1e-7", "norm_momentum=0.0001")
    assert run(street, tmp_path / "run", "steps=3", *gentle) == 0
    assert "made its weights worse" not in caplog.text
    assert json.loads((tmp_path / "run" / "measures.json").read_text())["better"] != "start"
    assert load_depth_net(tmp_path / "run" / "model.safetensors").provenance.steps == 3
    assert not (tmp_path / "run" / "trained.safetensors").exists()


@pytest.mark.medium
def test_weights_that_became_too_sure_of_themselves_expect_larger_errors(street, tmp_path):
    """Only what is expected is wrong in them: nothing of depth changes, and carving is told the truth."""
    loaded = load_depth_net("tiny_matching")
    gentle = ("learning_rate=1e-7", "encoder_learning_rate=1e-7", "norm_momentum=0.0001", "steps=3")
    assert run(street, tmp_path / "right", *gentle) == 0
    loaded.depth_net.head.widen_errors(1 / 3)
    short = tmp_path / "short.safetensors"
    pose = load_pose_net("tiny_matching").pose_net
    save_model(short, None, loaded.config, loaded.provenance, pose_net=pose, depth_net=loaded.depth_net)
    # As if the run had made it so: it is measured against what the shipped weights expect.
    measures = json.loads((tmp_path / "right" / "measures.json").read_text())
    assert "errors_widened" not in measures
    assert run(street, tmp_path / "short", *gentle, f"first_stage={short}", "steps=2") == 0
    path = tmp_path / "short" / "measures.json"
    path.write_text(json.dumps({name: measures[name] for name in ("start", "start_samples")}))
    assert run(street, tmp_path / "short", *gentle, f"first_stage={short}", "--resume") == 0
    factor = json.loads(path.read_text())["errors_widened"]
    assert factor == pytest.approx(3.0, rel=0.05)
    trained = tmp_path / "short" / "model.safetensors"
    after, before = (load_depth_net(each).depth_net.state_dict()["head.fine.bias"] for each in (trained, short))
    assert (after - before).tolist() == pytest.approx([0.0, math.log(factor), 0.0], abs=2e-3)


def test_damaged_measures_are_one_line(street, tmp_path, capsys):
    assert run(street, tmp_path / "run", "steps=1", "learning_rate=1e-7", "encoder_learning_rate=1e-7") == 0
    (tmp_path / "run" / "measures.json").write_text('{"start": 3}')
    capsys.readouterr()
    assert run(street, tmp_path / "run", "steps=2", "learning_rate=1e-7", "encoder_learning_rate=1e-7", "--resume") == 2
    assert "measures.json: its measures cannot be used" in capsys.readouterr().err
