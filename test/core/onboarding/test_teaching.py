# SPDX-License-Identifier: Apache-2.0
"""Recordings that cannot teach are refused, with what is missing."""

from pathlib import Path

import numpy as np
import pytest
from support.robot_bags import RobotBag, picture
from support.synthetic_bags import run_tool

from gaussianocc_core.checkpoint import find_weights
from gaussianocc_core.data.bag import open_bags
from gaussianocc_core.data.bag_cameras import BagConfig
from gaussianocc_core.data.sources import DataConfig, open_entries
from gaussianocc_core.errors import BagError
from gaussianocc_core.evaluation import evaluate
from gaussianocc_core.evaluation.sources import open_source
from gaussianocc_core.geometry import transforms
from gaussianocc_core.mapping.entries import Recordings
from gaussianocc_core.onboarding.inspection import inspect
from gaussianocc_core.onboarding.teaching import find_obstacles
from gaussianocc_core.report import main as write_report


class Resting(RobotBag):
    def T_odom_ego(self, stamp_ns):
        return np.eye(4)

    def picture(self, frame, camera):
        return picture(camera, self.size)


class Turning(Resting):
    def T_odom_ego(self, stamp_ns):
        angle = 0.3 * stamp_ns * 1e-9 % (2 * np.pi)
        rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1.0]])
        return transforms.make_transform(rotation, np.zeros(3))


class Dark(RobotBag):
    def picture(self, frame, camera):
        return (super().picture(frame, camera) // 60).astype(np.uint8)


def obstacles(path):
    looked_at = []
    for source in open_bags(BagConfig(str(path))):
        entries = source.entries()
        looked_at.append((source, entries, inspect(source, entries)))
    return find_obstacles(looked_at)


def test_a_drive_of_five_seconds_teaches(tmp_path):
    assert obstacles(RobotBag(frames=50).write(tmp_path / "drive")) == ()


@pytest.mark.parametrize(
    ("bag", "words"),
    [
        (Resting(frames=50), "at rest, or no parallax: 0.00 cm to a neighbour, at least 2 cm"),
        (Resting(frames=50, odometry=""), "at rest: the images change by 0.0 grey levels"),
        (Turning(frames=50), "it only turns: 1.7 degrees and 0.0 cm"),
        (Dark(frames=50), "too dark: mean grey levels"),
    ],
    ids=["rest", "rest, no odometry", "turning", "dark"],
)
def test_what_is_missing_is_said(tmp_path, bag, words):
    (found,) = obstacles(bag.write(tmp_path / "drive"))
    assert found.refuses and words in found.text


def test_too_short_says_how_much_more(tmp_path):
    (found,) = obstacles(RobotBag(frames=12).write(tmp_path / "drive"))
    assert not found.refuses and "10 samples, at least 40 are wanted, 3 s more at 10 Hz" in found.text


def test_two_rigs_in_a_folder_are_not_one(tmp_path, capsys):
    RobotBag(frames=50).write(tmp_path / "all" / "monday")
    RobotBag(frames=50, cameras={"rear": 180.0, "left": 150.0}).write(tmp_path / "all" / "tuesday")
    (found,) = obstacles(tmp_path / "all")
    assert found.refuses and "monday has front, left; tuesday has" in found.text
    options = ("--write-config", tmp_path / "mine.yaml", "--picture", tmp_path / "a.png", "--no-timing")
    assert run_tool("inspect_bag.py", tmp_path / "all", *options) == 1
    assert "cannot teach: recordings of several rigs" in capsys.readouterr().out
    assert not (tmp_path / "mine.yaml").exists()


@pytest.mark.parametrize(
    ("use", "way_out"),
    [
        (lambda path: open_entries(DataConfig(bag=BagConfig(path))), "data.bag.cameras"),
        (lambda path: Recordings(Path(path)).choose(None), "name the cameras of one"),
        (lambda path: evaluate(find_weights("tiny_matching"), open_source(bag=path)), "--scene"),
        (lambda path: write_report([path, "tiny", "--output", f"{path}_report"]), "--scene"),
    ],
    ids=["training", "carving", "evaluation", "report"],
)
def test_two_rigs_are_refused_wherever_recordings_are_used_together(tmp_path, capsys, use, way_out):
    RobotBag(frames=5).write(tmp_path / "all" / "monday")
    RobotBag(frames=5, cameras={"rear": 180.0, "left": 150.0}).write(tmp_path / "all" / "tuesday")
    try:
        assert use(str(tmp_path / "all")) == 2
        said = capsys.readouterr().err
    except BagError as error:
        said = str(error)
    assert "several rigs lie in one folder (monday has front, left; tuesday has" in said and way_out in said


def test_the_recordings_of_one_rig_are_used(tmp_path):
    RobotBag(frames=50).write(tmp_path / "all" / "monday")
    RobotBag(frames=50, cameras={"rear": 180.0, "left": 150.0}).write(tmp_path / "all" / "tuesday")
    entries = open_entries(DataConfig(bag=BagConfig(str(tmp_path / "all")), scenes=("tuesday",)))
    assert {entry.scene for entry in entries} == {"tuesday"}
