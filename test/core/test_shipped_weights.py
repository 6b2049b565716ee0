# SPDX-License-Identifier: Apache-2.0
"""The shipped weights on scenes they never saw, through the command lines that a user types."""

import json

import pytest

from gaussianocc_core import evaluate, train
from gaussianocc_core.checkpoint import default_checkpoint
from gaussianocc_core.synthetic.writer import write_dataset


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """Two scenes of one keyframe; the training set's seed is 100."""
    return write_dataset(
        tmp_path_factory.mktemp("held_out") / "street", scenes=2, frames=1, seed=300, sweeps=False, progress=False
    )


@pytest.mark.medium
def test_shipped_weights_beat_flat_ground_on_held_out_scenes(street, tmp_path):
    report = tmp_path / "report.json"
    assert evaluate.main([str(default_checkpoint()), "--dataroot", str(street), "--json", str(report)]) == 0
    result = json.loads(report.read_text())
    assert result["keyframes"] == 2
    for measure in ("iou", "non_ground_iou", "miou"):
        assert result["whole_grid"]["model"][measure] > 1.2 * result["whole_grid"]["flat_ground"][measure], measure
    # Over what cameras see, flat ground has the higher plain IoU (see the model card); it knows nothing else.
    for measure in ("non_ground_iou", "miou"):
        assert result["mask_camera"]["model"][measure] > result["mask_camera"]["flat_ground"][measure], measure


@pytest.mark.medium
def test_training_and_evaluation_run_end_to_end(street, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text("steps: 3\ncalibration_samples: 1\ndata: {held_out: 1}\n")
    arguments = [str(config), f"data.dataroot={street}", f"output={tmp_path / 'run'}", "seen_voxels=2000"]
    assert train.main(arguments) == 0
    model = capsys.readouterr().out.split()[-1]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert evaluate.main([model, "--dataroot", str(street), "--scene", "synthetic-0002"]) == 0
    assert "1 keyframes of 1 scenes" in capsys.readouterr().out
