# SPDX-License-Identifier: Apache-2.0
"""An evaluation in shares: merged they are the report of one run, and what does not belong is refused."""

import json
import re
from dataclasses import replace

import pytest
import torch
from support.small_model import SMALL
from support.synthetic_bags import convert

from gaussianocc_core import evaluate as command
from gaussianocc_core.checkpoint import Provenance, save_model
from gaussianocc_core.geometry.cameras import resize
from gaussianocc_core.models.gaussianocc import build_depth_net, build_model, build_pose_net
from gaussianocc_core.synthetic.rig import default_rig
from gaussianocc_core.synthetic.writer import write_dataset
from gaussianocc_core.types import VoxelGrid

CONFIG = replace(SMALL, grid=VoxelGrid())  # labels are on the published grid


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    """Three scenes of two keyframes, with sweeps, labels, true depth and lidar; the last without labels."""
    folder = tmp_path_factory.mktemp("shares") / "streets"
    data = write_dataset(folder, scenes=3, frames=2, seed=300, cameras=resize(default_rig(), 160, 90), progress=False)
    for labels in (data / "gts" / "synthetic-0003").rglob("labels.npz"):
        labels.unlink()
    return data


@pytest.fixture(scope="module")
def bags(streets, tmp_path_factory):
    return convert(streets, tmp_path_factory.mktemp("shares") / "bags").parent


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Random weights: a first stage's file and a second's."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    nets = {"pose_net": build_pose_net(CONFIG), "depth_net": build_depth_net(CONFIG)}
    save_model(folder / "first.safetensors", None, CONFIG, Provenance("none", steps=7), **nets)
    save_model(folder / "second.safetensors", build_model(CONFIG), CONFIG, Provenance("none"))
    return folder


def run(*arguments) -> None:
    assert command.main([str(each) for each in arguments]) == 0


def refused(capsys, *arguments) -> str:
    capsys.readouterr()
    assert command.main([str(each) for each in arguments]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith("share ")]
    assert len(lines) == 1 and captured.out == "", captured
    return lines[0]


def shares_of(count, folder, *arguments):
    files = [folder / f"{count}_{number}.json" for number in range(1, count + 1)]
    for number, file in enumerate(files, 1):
        run(*arguments, "--shard", f"{number}/{count}", "--json", file)
    return files


@pytest.mark.medium
@pytest.mark.parametrize("stage", ["first", "second"])
def test_merged_shares_are_the_report_of_one_run_to_the_last_digit(stage, streets, checkpoints, tmp_path, capsys):
    arguments = (checkpoints / f"{stage}.safetensors", "--dataroot", streets)
    run(*arguments, "--json", tmp_path / "whole.json", "--csv", tmp_path / "whole.csv")
    text = capsys.readouterr().out
    whole = json.loads((tmp_path / "whole.json").read_text())
    assert whole["keyframes"] == 6 and whole["depth"]["images"] == 36
    for count in (2, 4):  # 4: one of them has no scene
        files = shares_of(count, tmp_path, *arguments)
        capsys.readouterr()
        # In any order: the scenes know theirs.
        run("--merge", *reversed(files), "--json", tmp_path / "merged.json", "--csv", tmp_path / "merged.csv")
        assert capsys.readouterr().out == text
        for name in ("json", "csv"):
            assert (tmp_path / f"merged.{name}").read_bytes() == (tmp_path / f"whole.{name}").read_bytes()
    if stage == "second":
        assert whole["labelled_keyframes"] == 4 and whole["ray_iou"] and whole["reliability"] and whole["robot"]
        assert whole["notes"] == ["occupancy: 2 of 6 keyframes, which have no labels.npz under gts/"]
    else:
        assert whole["ego_motion"]["pairs"] == 6


@pytest.mark.medium
def test_a_share_of_which_nothing_can_be_compared_does_not_stop_the_others(streets, checkpoints, tmp_path, capsys):
    """Its scene alone would be an error of the user; among others it is a note."""
    arguments = (checkpoints / "second.safetensors", "--dataroot", streets, "--every", "2", "--no-ray-iou")
    run(*arguments, "--json", tmp_path / "whole.json")
    files = shares_of(3, tmp_path, *arguments)
    run("--merge", *files, "--json", tmp_path / "merged.json")
    assert (tmp_path / "merged.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert json.loads((tmp_path / "merged.json").read_text())["ray_iou"] is None


@pytest.mark.medium
def test_bags_are_shared_as_scenes_are(bags, checkpoints, tmp_path, capsys):
    arguments = (checkpoints / "first.safetensors", "--bag", bags, "--every", "3")
    run(*arguments, "--json", tmp_path / "whole.json")
    files = shares_of(2, tmp_path, *arguments)
    run("--merge", *files, "--json", tmp_path / "merged.json")
    assert (tmp_path / "merged.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert json.loads((tmp_path / "whole.json").read_text())["ego_motion"]["moving_pairs"] > 3


@pytest.mark.medium
def test_what_does_not_belong_to_the_others_is_refused_by_name(streets, checkpoints, tmp_path, capsys):
    arguments = (checkpoints / "first.safetensors", "--dataroot", streets, "--every", "2")
    files = shares_of(3, tmp_path, *arguments)
    line = refused(capsys, "--merge", files[0], files[2])
    assert "of 3 shares 1 are missing: 2/3;" in line
    line = refused(capsys, "--merge", *files, files[1])
    assert line.startswith(f"error: {files[1]}: is share 2/3, as {files[1]} is")
    foreign = tmp_path / "foreign.json"
    for changed, expected in (
        (("--every", "1"), "another plan, 'every' (1, not 2)"),
        (("--shard", "2/4"), "another share count (4, not 3)"),
    ):
        run(*arguments, "--shard", "2/3", *changed, "--json", foreign)
        line = refused(capsys, "--merge", files[0], foreign, files[2])
        assert f"{foreign}: is no share of the evaluation of {files[0]}: {expected}" in line
    # Other weights under the same name, after training went on.
    said = json.loads(files[1].read_text())
    foreign.write_text(json.dumps({**said, "weights": "0" * 64}))
    assert "another weights" in refused(capsys, "--merge", files[0], foreign, files[2])
    said["counts"] = {}
    foreign.write_text(json.dumps(said))
    assert "have not all scenes" in refused(capsys, "--merge", files[0], foreign, files[2])


@pytest.mark.medium
def test_a_damaged_share_is_said_in_one_line(streets, checkpoints, tmp_path, capsys):
    arguments = (checkpoints / "first.safetensors", "--dataroot", streets, "--every", "2")
    (file,) = shares_of(1, tmp_path, *arguments)
    whole, bad = file.read_text(), tmp_path / "bad.json"
    report = tmp_path / "report.json"
    run(*arguments, "--json", report)
    for text in (
        whole[:-100],
        "[]",
        "{}",
        report.read_text(),
        whole.replace('"number": 1', '"number": 2'),
        whole.replace('"kinds"', '"kind"'),
        re.sub(r'"rings": \[\[', '"rings": [["a"], [', whole),
        re.sub(r'"scores": \[\[', '"scores": [[1.0, ', whole),
        whole.replace('"grid": {', '"grid": {"x": 1, '),
        re.sub(r'"shape": \[\d+, \d+, \d+\]', '"shape": [9000, 9000, 9000]', whole),
    ):
        assert text != whole
        bad.write_text(text)
        line = refused(capsys, "--merge", bad)
        assert "bad.json" in line or "shares of an evaluation" in line


def test_arguments_that_contradict_each_other_are_said_in_one_line(tmp_path, capsys):
    for arguments, expected in (
        (("tiny", "--dataroot", tmp_path, "--shard", "1/2"), "needs --json"),
        (("tiny", "--dataroot", tmp_path, "--shard", "1/2", "--json", "a", "--csv", "b"), "--csv"),
        (("tiny", "--merge", tmp_path / "a"), "takes files of shares"),
        (("--merge", tmp_path / "absent"), "absent"),
    ):
        assert expected in refused(capsys, *arguments)
    for arguments in (("--dataroot", "x"), ("tiny", "--dataroot", "x", "--shard", "3/2")):
        with pytest.raises(SystemExit) as ended:
            command.main(list(arguments))
        assert ended.value.code == 2
    capsys.readouterr()
