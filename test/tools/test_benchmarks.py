# SPDX-License-Identifier: Apache-2.0
"""Benchmarks that nobody runs for a while must still run: each part once, its figures thrown away."""

import json

import pytest
from support.synthetic_bags import ROOT

pytestmark = pytest.mark.medium


def run(spawn, tmp_path, *arguments):
    process = spawn(*arguments, "--json", tmp_path / "figures.json")
    assert process.wait(120) == 0, process.output
    return json.loads((tmp_path / "figures.json").read_text())["results"]


def test_every_stage_of_the_network_is_timed(spawn, tmp_path):
    rows = run(spawn, tmp_path, "benchmarks/stages.py", "--repeats", 1)
    stages = {row["stage"] for row in rows}
    assert {"encode", "lift", "decode", "decide", "observed", "plan", "render", "total"} <= stages
    assert all(row["wall_s"] > 0 for row in rows)


def test_decoding_of_images_and_encoding_of_results_are_timed(spawn, tmp_path):
    pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")
    rows = run(spawn, tmp_path, "benchmarks/node.py", "images", "--repeats", 1)
    assert [row["reduce"] for row in rows if "reduce" in row] == [4, 1, 2, 1]
    rows = run(spawn, tmp_path, "benchmarks/node.py", "outputs", "--repeats", 1)
    assert [row["topics"] for row in rows] == ["up to occupancy", "up to points", "up to markers"]


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    from gaussianocc_core.synthetic.writer import write_dataset

    return write_dataset(tmp_path_factory.mktemp("street") / "root", scenes=1, frames=3, seed=7)


def test_hints_are_counted_against_true_depth(spawn, tmp_path, street):
    rows = run(spawn, tmp_path, "benchmarks/hints.py", "--dataroot", street)
    assert len(rows) == 3 * 6 and {row["motion"] for row in rows} == {"learnt", "learnt, length searched", "true"}
    for motion in ("learnt", "true"):
        assert sum(row["pixels"] for row in rows if row["motion"] == motion) == pytest.approx(1.0, abs=1e-3)
    assert any(row["believed"] > 0 and row["hint_error"] > 0 for row in rows)


def test_surfaces_of_true_depth_beat_those_of_learnt_depth(spawn, tmp_path, street):
    rows = run(spawn, tmp_path, "benchmarks/surfaces.py", "--dataroot", street, "--sizes", "176x96")
    best = {who: max(row["iou"] for row in rows if row["depth"] == who) for who in ("true depth", "learnt depth")}
    assert 1.0 > best["true depth"] > best["learnt depth"] > 0.1


def test_the_scale_of_staggered_triggers_is_told(spawn, tmp_path, street):
    rows = run(spawn, tmp_path, "benchmarks/trigger.py", "--dataroot", street)
    assert [row["cameras"] for row in rows] == ["as calibrated", "placed by motion"]
    assert abs(rows[1]["least_at"] - 1.0) < 0.1 and rows[1]["least"] < rows[0]["least"]


def test_the_doctor_is_tried_on_known_damage(spawn, tmp_path, shared_data):
    arguments = (
        shared_data / "data" / "kitti_drive_0001",
        "--only",
        "swapped neighbours",
        "identity K",
        "sign of odometry",
    )
    clean, *damaged = run(spawn, tmp_path, "benchmarks/doctor.py", *arguments)
    assert clean["false_alarms"] == [] and clean["verdict"] == "fine"
    assert [row["told_right"] for row in damaged] == [True, True, True]


def test_an_interrupted_trial_of_the_doctor_goes_on_where_it_was(spawn, tmp_path, shared_data, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import doctor

    drive, parts, only = shared_data / "data" / "kitti_drive_0001", tmp_path / "parts", ["identity K"]
    rows = doctor.judge_recording(drive, only, parts)
    assert [row["kind"] for row in rows] == ["as it is", "identity K"]
    (file,) = parts.iterdir()
    file.write_text(file.read_text().replace('"told_right": true', '"told_right": "kept"'))
    again = doctor.judge_recording(drive, [*only, "swapped neighbours"], parts)
    assert [row.get("told_right") for row in again] == [None, "kept", True]
    file.write_text("of another commit\n" + file.read_text().partition("\n")[2])
    assert doctor.judge_recording(drive, only, parts)[1]["told_right"] is True


def test_peers_are_compared_at_the_same_points(spawn, tmp_path, shared_data):
    arguments = ("--bag", shared_data / "data" / "kitti_drive_0001", "--every", 99, "--only", "StereoBM at", "OctoMap")
    rows = {row["way"]: row for row in run(spawn, tmp_path, "benchmarks/peers.py", *arguments)}
    semi_global, blocks = rows["StereoSGBM"], rows["StereoBM at 320x96"]
    assert semi_global["points"] == blocks["points"] > 10_000
    assert semi_global["abs_rel"] < 0.1 and semi_global["within_1.25_where_sgbm"] > 0.95
    assert 0.1 < blocks["coverage"] < semi_global["coverage"] < 1.0
    assert rows["OctoMap-like log-odds of StereoSGBM"]["rings"]["0-20"]["unknown"] < 0.5
    assert rows["flat ground as voxels"]["rings"]["0-20"]["missed"] == 1.0
    assert "| StereoSGBM |" in (tmp_path / "figures.md").read_text()
