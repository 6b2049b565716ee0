# SPDX-License-Identifier: Apache-2.0
import multiprocessing
import os
import pickle
import signal
import threading
import time

import pytest
from rosbags.rosbag2 import Reader
from support.nuscenes_fixtures import MadeUpDatabase, read_table, write_table
from support.stalled import Stalled

from gaussianocc_core.bags.convert import Finished, Recording, convert_all, describe, verify_all, write_recording
from gaussianocc_core.bags.writer import BagReport
from gaussianocc_core.data.nuscenes import NuScenesSource, write_scene_bag
from gaussianocc_core.errors import BagError, DatasetError

SCENES = ("scene-0001", "scene-0002", "scene-0003")


@pytest.fixture
def root(tmp_path):
    database = MadeUpDatabase(scenes=SCENES, keyframes=1, frames_per_keyframe=2, points=10, semantics=True)
    return database.write(tmp_path / "db")


@pytest.fixture
def source(root):
    return NuScenesSource(root)


def convert(source, output, scenes=SCENES, contents=None, **options):
    outcomes = convert_all(scenes, lambda scene: source.recording(scene, **(contents or {})), output, **options)
    return {outcome.name: outcome for outcome in outcomes}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_recording_is_small_whole_and_independent_of_the_tables(source, tmp_path):
    recording = source.recording("scene-0001")
    assert isinstance(recording, Recording)
    copy = pickle.loads(pickle.dumps(recording))
    original = write_recording(recording, tmp_path / "a")
    assert write_recording(copy, tmp_path / "b").contents == original.contents
    assert len(pickle.dumps(recording)) < 1000 * len(recording.rows)


SEVERAL = pytest.param(2, marks=pytest.mark.medium)  # each spawned process takes seconds to import torch


@pytest.mark.parametrize("jobs", [1, SEVERAL])
def test_bags_are_written_once_and_steps_add_up_to_the_total(source, tmp_path, jobs):
    totals, steps = [], []
    outcomes = convert(source, tmp_path / "out", jobs=jobs, on_total=totals.append, on_step=steps.append)
    assert names(tmp_path / "out") == list(SCENES)
    for scene in SCENES:  # also by another process the same bytes
        assert outcomes[scene].result.contents == write_scene_bag(source, scene, tmp_path / scene).contents
    assert totals == [sum(steps)] == [3 * (12 + 2 + 6 + 1)]  # images, lidar, 2D labels, occupancy
    again = convert(source, tmp_path / "out", jobs=jobs, on_total=totals.append)
    for scene in SCENES:
        assert again[scene].result == Finished(tmp_path / "out" / scene, outcomes[scene].result.messages)
    assert totals[1] == 0


def test_a_run_goes_on_where_one_failed(root, tmp_path):
    path = next((root / "samples" / "CAM_BACK").glob("*"))
    data = path.read_bytes()
    path.unlink()
    outcomes = convert(NuScenesSource(root), tmp_path / "out")
    (failed,) = [outcome for outcome in outcomes.values() if outcome.error]
    assert str(path) in failed.error
    assert names(tmp_path / "out") == [scene for scene in SCENES if scene != failed.name]
    path.write_bytes(data)
    again = convert(NuScenesSource(root), tmp_path / "out")
    assert isinstance(again[failed.name].result, BagReport)
    assert sum(isinstance(outcome.result, Finished) for outcome in again.values()) == 2


def test_a_scene_whose_tables_are_broken_does_not_stop_the_others(root, tmp_path):
    rows = read_table(root, "calibrated_sensor")
    tokens = {row["calibrated_sensor_token"] for row in read_table(root, "sample_data")}
    scene_rows = [row for row in rows if row["token"] in tokens and len(row["camera_intrinsic"]) == 3]
    scene_rows[0]["camera_intrinsic"][0][0] = -1.0
    write_table(root, "calibrated_sensor", rows)
    outcomes = convert(NuScenesSource(root), tmp_path / "out")
    (failed,) = [outcome for outcome in outcomes.values() if outcome.error]
    assert "camera_intrinsic" in failed.error
    assert names(tmp_path / "out") == [scene for scene in SCENES if scene != failed.name]


@pytest.mark.medium
def test_what_a_killed_process_left_is_removed(root, tmp_path):
    source, output, killed = NuScenesSource(root), tmp_path / "out", []

    def kill_who_waits():
        deadline, seen, since = time.monotonic() + 180, [], 0.0
        while not killed and time.monotonic() < deadline:
            # A bag is there a moment before its process says so: only when nothing changed for a second does the one
            # wait and the other for work.
            state = sorted(each.name for each in output.glob("*scene-*")) if output.is_dir() else []
            if state != seen:
                seen, since = state, time.monotonic()
            waits = sum(not name.startswith(".") for name in state) == 2 and len(state) == 3
            if waits and time.monotonic() - since > 1.0:
                for child in multiprocessing.active_children():
                    os.kill(child.pid, signal.SIGKILL)
                    killed.append(child.pid)
            time.sleep(0.05)

    threading.Thread(target=kill_who_waits, daemon=True).start()

    def open_recording(scene):
        recording = source.recording(scene)
        return Stalled(recording) if scene == "scene-0002" else recording

    outcomes = {each.name: each for each in convert_all(SCENES, open_recording, output, jobs=2)}
    (failed,) = [outcome for outcome in outcomes.values() if outcome.error]
    assert "ended with signal 9" in failed.error
    assert names(output) == [scene for scene in SCENES if scene != failed.name]


def test_a_mistake_that_is_in_every_scene_is_told_once(source, tmp_path):
    with pytest.raises(DatasetError, match="_mask.png does not exist"):
        convert(source, tmp_path / "out", contents={"masks": tmp_path})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("contents", "options", "complaint"),
    [
        ({"sweeps": False}, {}, "sweeps was included, now left out"),
        ({"lidar": False}, {}, "lidar was included, now left out"),
        ({"labels": False}, {}, "labels was included, now left out"),
        ({}, {"storage": "sqlite3"}, "storage was mcap, now sqlite3"),
    ],
)
def test_a_bag_with_other_options_is_named_before_anything_is_written(source, tmp_path, contents, options, complaint):
    convert(source, tmp_path / "out", scenes=("scene-0003",))
    with pytest.raises(BagError, match=f"scene-0003 exists already .*{complaint}.*--overwrite") as caught:
        convert(source, tmp_path / "out", contents=contents, **options)
    assert "\n" not in str(caught.value)
    assert names(tmp_path / "out") == ["scene-0003"]
    outcomes = convert(source, tmp_path / "out", contents=contents, overwrite=True, **options)
    assert all(isinstance(outcome.result, BagReport) for outcome in outcomes.values())


def test_labels_that_were_added_since_are_noticed(root, tmp_path):
    hidden = (root / "nuscenes_semantic").rename(root / "elsewhere")
    convert(NuScenesSource(root), tmp_path / "out")
    hidden.rename(root / "nuscenes_semantic")
    with pytest.raises(BagError, match="/CAM_BACK/semantic/image_raw has 0 messages, its source now gives 1"):
        convert(NuScenesSource(root), tmp_path / "out")


def test_a_folder_that_is_no_bag_is_left_alone(source, tmp_path):
    (tmp_path / "out" / "scene-0002").mkdir(parents=True)
    (tmp_path / "out" / "scene-0002" / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(BagError, match="no metadata.yaml"):
            convert(source, tmp_path / "out", overwrite=overwrite)
    assert names(tmp_path / "out") == ["scene-0002"]


def test_the_next_commands_are_told(source, tmp_path):
    outcomes = convert(source, tmp_path / "out", scenes=("scene-0001",))
    text = describe(outcomes["scene-0001"].result)
    with Reader(tmp_path / "out" / "scene-0001") as reader:
        assert text.startswith(f"scene-0001: {reader.message_count} messages, ")
    assert f"ros2 bag play {tmp_path}/out/scene-0001 --clock" in text
    finished = convert(source, tmp_path / "out", scenes=("scene-0001",))["scene-0001"].result
    assert describe(finished).endswith("skipped")


@pytest.mark.parametrize("jobs", [1, SEVERAL])
def test_verification_needs_no_options_and_reports_in_order(source, tmp_path, jobs):
    convert(source, tmp_path / "out", scenes=SCENES[:1], contents={"sweeps": False, "labels": False})
    convert(source, tmp_path / "out", scenes=SCENES[1:2])
    steps = []
    checks = verify_all(SCENES, source.recording_like, tmp_path / "out", jobs=jobs, on_step=steps.append)
    assert [check.name for check in checks] == list(SCENES)
    assert [bool(check.faults) for check in checks] == [False, False, True]
    assert "convert its scene" in checks[2].faults[0][1]
    assert sum(steps) == 7 + 21


def test_a_bag_with_masks_asks_for_them(source, tmp_path):
    provenance = {**source.recording("scene-0001").provenance, "masks": "included"}
    with pytest.raises(BagError, match="give --masks"):
        source.recording_like("scene-0001", provenance)


def test_a_bag_that_does_not_say_what_it_holds_is_named(source):
    with pytest.raises(BagError, match="convert the scene again"):
        source.recording_like("scene-0001", {"scene": "scene-0001"})
