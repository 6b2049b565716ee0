# SPDX-License-Identifier: Apache-2.0
"""A recording as the page sees it: moments in order, jumps, scenes; and the player that runs it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.rigs import ring
from support.small_model import SMALL
from support.synthetic_bags import convert, make_dataset

from gaussianocc_core.data.entries import in_label_frame
from gaussianocc_core.errors import DatasetError
from gaussianocc_core.evaluation.sources import open_source
from gaussianocc_core.models.config import MatchingConfig
from gaussianocc_core.predictor import OccupancyPredictor
from gaussianocc_core.viewer.drive import Drive, choose_scene, find_source
from gaussianocc_core.viewer.player import Player, timeline_of

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("street") / "data", ring((0.0, 180.0)), 3, 5)


@pytest.fixture(scope="module")
def bags(street, tmp_path_factory):
    return convert(street, tmp_path_factory.mktemp("bags"))


@pytest.fixture
def predictor():
    return OccupancyPredictor.untrained(SMALL)


def test_a_data_set_is_seen_at_the_rate_of_its_cameras(street, predictor):
    source = find_source(street)
    drive = Drive(source, choose_scene(source, None), predictor)
    assert len(drive) > 2 * 3 and np.median(np.diff(drive.stamps_ns)) == pytest.approx(1e9 / 12, rel=0.1)
    first = drive.see(0)
    assert first.truth is not None and first.lidar is not None and len(first.lidar) > 100
    assert set(first.images) == set(first.cameras.names)
    assert drive.see(1).truth is None  # labels are of keyframes
    assert np.allclose(first.path[0], 0.0, atol=0.5) and first.path[-1, 0] > 1.0  # it drove ahead
    later = drive.see(6)
    assert later.place == 6 and later.path[0, 0] < -1.0


def test_a_moment_is_what_the_predictor_says(street, predictor):
    source = find_source(street)
    drive = Drive(source, source.scene_names()[0], predictor)
    moment, sample = drive.see(0), drive.entries[0].load()
    again = predictor(sample.images, in_label_frame(sample), sample.T_world_ego, 1e-9 * sample.stamp_ns)
    assert (moment.labels == again.labels).all() and (moment.confidence == again.confidence).all()


def test_a_bag_shows_the_same_drive(street, bags, predictor):
    source, of_bag = find_source(street), find_source(bags)
    drive = Drive(source, source.scene_names()[0], predictor)
    recorded = Drive(of_bag, of_bag.scene_names()[0], predictor)
    assert recorded.stamps_ns[:5] == drive.stamps_ns[:5]
    assert recorded.see(0).lidar is not None and recorded.see(1).path is not None


def test_a_jump_warms_up_a_model_that_matches(street):
    torch.manual_seed(0)
    from dataclasses import replace

    predictor = OccupancyPredictor.untrained(replace(SMALL, matching=MatchingConfig(enabled=True)))
    source = find_source(street)
    drive = Drive(source, source.scene_names()[0], predictor)
    for number in range(6):
        straight = drive.see(number)
    jumped = Drive(source, source.scene_names()[0], predictor).see(5)
    same = (jumped.labels == straight.labels).mean()
    assert same > 0.98  # it has seen the moments before, if not all of them


def test_what_is_no_recording_is_said(tmp_path):
    with pytest.raises(DatasetError, match="does not exist; give a bag"):
        find_source(tmp_path / "none")
    (tmp_path / "letters").mkdir()
    with pytest.raises(DatasetError, match="no bag.*no nuScenes.*no DDAD"):
        find_source(tmp_path / "letters")


def test_a_scene_that_is_not_there_is_said(street):
    with pytest.raises(DatasetError, match="no scene named moon; there are"):
        choose_scene(open_source(street), "moon")


class Screen:
    """Stands where the page stands; the player's own doings are tested, without a browser."""

    def __init__(self) -> None:
        self.viewers, self.shown, self.playing, self.said = 1, [], None, []
        self.on_seek = self.on_play = self.on_scene = self.on_viewers = None

    def show(self, moment, number):
        self.shown.append(number)

    def say(self, text):
        self.said.append(text)

    def set_playing(self, playing):
        self.playing = playing

    def set_timeline(self, timeline):
        self.timeline = timeline


def wait(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


@pytest.fixture
def played(street, predictor):
    source = find_source(street)
    screen, scenes = Screen(), source.scene_names()
    player = Player(screen, lambda name: Drive(source, name, predictor), scenes, Drive(source, scenes[0], predictor))
    yield screen, player
    player.close()


def test_playing_shows_every_moment_in_order_and_stops_at_the_end(played):
    screen, player = played
    count = len(player._drive)
    player.play(True, 0.0)
    wait(lambda: screen.shown and screen.shown[-1] == count - 1 and screen.playing is False)
    assert screen.shown == list(range(count))
    seen = len(player.memory)
    player.seek(2)
    wait(lambda: screen.shown[-1] == 2)
    assert len(player.memory) == seen == count  # nothing was computed twice


def test_nothing_is_computed_while_nobody_looks(played):
    screen, player = played
    wait(lambda: screen.shown == [0])
    screen.viewers = 0
    player.seek(4)
    time.sleep(0.7)
    assert screen.shown == [0] and len(player.memory) == 1
    screen.viewers = 1
    player._wake()
    wait(lambda: screen.shown == [0, 4])


def test_the_timeline_is_in_seconds(street, predictor):
    source = find_source(street)
    drive = Drive(source, source.scene_names()[0], predictor)
    timeline = timeline_of(drive, source.scene_names())
    assert timeline.seconds[0] == 0.0 and timeline.seconds[-1] == pytest.approx(1.0, abs=0.15)


def test_ctrl_c_is_how_the_page_is_meant_to_end(street):
    pytest.importorskip("viser")
    command = [sys.executable, "-m", "gaussianocc_core.view", str(street), "--port", "0"]
    with subprocess.Popen(
        command,
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        said = next((line for line in iter(process.stdout.readline, "") if "look at" in line), "")
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert said and rest == "stopped\n" and process.returncode == 0  # `make view` ends without an error
