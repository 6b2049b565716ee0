# SPDX-License-Identifier: Apache-2.0
"""The shipped weights on scenes they never saw, through the command line that a user types."""

import json

import pytest

from gaussianocc_core import evaluate
from gaussianocc_core.checkpoint import default_checkpoint, load_depth_net, load_model
from gaussianocc_core.evaluation import evaluate as evaluate_checkpoint
from gaussianocc_core.evaluation.sources import open_source
from gaussianocc_core.synthetic.writer import write_dataset


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """Two scenes of one keyframe; the training set's seed is 100."""
    return write_dataset(
        tmp_path_factory.mktemp("held_out") / "street", scenes=2, frames=1, seed=300, sweeps=False, progress=False
    )


@pytest.mark.medium
def test_shipped_weights_see_more_than_flat_ground_on_held_out_scenes(street, tmp_path):
    report = tmp_path / "report.json"
    assert evaluate.main([str(default_checkpoint()), "--dataroot", str(street), "--json", str(report)]) == 0
    result = json.loads(report.read_text())
    assert result["keyframes"] == 2
    seen = result["mask_camera"]
    # Plain IoU of flat ground is the higher one (see the model card); it knows nothing that stands on the ground.
    for measure in ("non_ground_iou", "miou"):
        assert seen["model"][measure] > seen["flat_ground"][measure], measure
    ways = result["depth"]["ways"]
    assert ways["rendered"]["mean"]["abs_rel"] < 0.6 * ways["flat_ground"]["mean"]["abs_rel"]


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    """A second of driving, with the images between the keyframes."""
    return write_dataset(tmp_path_factory.mktemp("drive") / "street", scenes=1, frames=3, seed=301, progress=False)


@pytest.mark.medium
def test_rays_of_the_last_second_find_more_and_miss_less(drive):
    """The shipped model at the end of a drive of a second, seen as a robot sees it: every set in order."""
    found, at_once = (
        evaluate_checkpoint(default_checkpoint(), drive, every=2, memory=memory, ray_iou=False)
        for memory in (True, False)
    )
    for name in ("non_ground_iou", "iou"):
        assert found["mask_camera"]["model"][name] > 1.02 * at_once["mask_camera"]["model"][name], name
    near, alone = (each["robot"]["truths"]["lidar"]["model"]["0-10"] for each in (found, at_once))
    assert near["found"] > alone["found"] + 0.05 and near["missed"] < alone["missed"] + 0.02


@pytest.mark.medium
def test_what_is_shown_and_measured_of_a_drive_is_what_the_command_line_says(drive, tmp_path):
    """Of the keyframes at 0, 0.5 and 1 s two are later than 0.4 s."""
    reports = {}
    for name, options in {
        "as a robot": [],
        "less past": ["--past", "0.2"],
        "in the images": ["--motion", "images"],
        "none": ["--motion", "none"],
        "alone": ["--no-memory"],
    }.items():
        path = tmp_path / f"{name}.json"
        command = ["tiny", "--dataroot", str(drive), "--skip", "0.4", "--no-ray-iou", "--json", str(path), *options]
        assert evaluate.main(command) == 0
        reports[name] = json.loads(path.read_text())
    assert {each["keyframes"] for each in reports.values()} == {2}
    told = {name: (each["checkpoint"]["motion"], each["checkpoint"]["memory"]) for name, each in reports.items()}
    assert told["as a robot"] == told["less past"] == ("recorded", True)
    assert told["in the images"] == ("images", True) and told["alone"] == ("recorded", False)
    found = {name: each["mask_camera"]["model"]["non_ground_iou"] for name, each in reports.items()}
    assert len(set(found.values())) == len(found)  # each sees something else
    assert found["as a robot"] > found["none"]


@pytest.mark.medium
def test_the_shipped_first_stage_is_metric_on_held_out_scenes(street, tmp_path):
    report, path = tmp_path / "report.json", default_checkpoint().with_name("tiny_stage1.safetensors")
    assert evaluate.main([str(path), "--dataroot", str(street), "--json", str(report)]) == 0
    depth = json.loads(report.read_text())["depth"]["ways"]["depth_network"]["mean"]
    assert 0.85 < depth["scale"] < 1.15 and depth["abs_rel"] < 0.35


def test_shipped_weights_say_what_they_learnt_from():
    path = default_checkpoint()
    assert "self-supervised" in load_depth_net(path.with_name("tiny_stage1.safetensors")).provenance.training
    assert "depth pretrained on synthetic truth" in load_model(path).provenance.training


def test_weights_that_match_load_and_say_what_they_saw():
    path = default_checkpoint().with_name("tiny_matching.safetensors")
    loaded = load_depth_net(path)
    assert loaded.depth_net.matches and loaded.config.matching.enabled
    assert "pretrained on the truth of synthetic scenes" in loaded.provenance.training
    assert sum(each.stat().st_size for each in path.parent.glob("*.safetensors")) < 12_000_000


@pytest.mark.medium
def test_a_real_drive_is_measured_rather_than_guessed(shared_data):
    """Depth of a stereo car with odometry, which no training saw. Its README: 0.301 by the network of one image."""
    path = default_checkpoint().with_name("tiny_matching.safetensors")
    ways = evaluate_checkpoint(path, open_source(bag=shared_data / "data" / "kitti_drive_0001"), every=28)["depth"][
        "ways"
    ]
    assert ways["recorded_motion"]["mean"]["abs_rel"] < 0.14 < 0.2 < ways["one_image"]["mean"]["abs_rel"]
    assert 0.9 < ways["recorded_motion"]["mean"]["scale"] < 1.15
