# SPDX-License-Identifier: Apache-2.0
"""tools/inspect_bag.py as a user runs it."""

import cv2
import yaml
from support.robot_bags import RobotBag
from support.synthetic_bags import run_tool


def test_a_bag_gets_a_report_a_picture_and_configurations(tmp_path, capsys):
    path = RobotBag().write(tmp_path / "drive")
    options = ("--picture", tmp_path / "look.png", "--write-config", tmp_path / "mine.yaml")
    assert run_tool("inspect_bag.py", path, *options) == 0
    text = capsys.readouterr().out
    for fact in (
        "drive: 0.",
        "front: 5 images of 64x48 at 10.0 Hz",
        "overlap: front and left",
        "s a step",
        "wrote",
        "carve_labels.py --config",
    ):
        assert fact in text
    assert cv2.imread(str(tmp_path / "look.png")) is not None
    written = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    assert written["stage"] == "gsp" and written["data"]["bag"]["path"] == str(path)


def test_mistakes_are_one_line(tmp_path, capsys):
    assert run_tool("inspect_bag.py", tmp_path / "none") == 2
    assert run_tool("inspect_bag.py", tmp_path, "ego_frme=base") == 2
    path = RobotBag().write(tmp_path / "drive")
    assert run_tool("inspect_bag.py", path, "--cameras", "rear", "--no-timing") == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert [line.startswith("error: ") for line in errors] == [True] * 3
    assert "does not exist" in errors[0] and "ego_frame" in errors[1] and "it has front, left" in errors[2]


def test_a_cut_off_recording_is_saved_beside_the_old_one(tmp_path, capsys):
    file = RobotBag(frames=40, size=(160, 120), encoding="rgb8").write(tmp_path / "drive") / "drive.mcap"
    file.write_bytes(file.read_bytes()[:-2000])
    assert run_tool("inspect_bag.py", file) == 2
    assert "--recover" in capsys.readouterr().err
    assert run_tool("inspect_bag.py", file, "--recover", tmp_path / "saved") == 0
    assert run_tool("inspect_bag.py", tmp_path / "saved", "--no-timing", "--picture", tmp_path / "a.png") == 0
    assert "samples for training" in capsys.readouterr().out
