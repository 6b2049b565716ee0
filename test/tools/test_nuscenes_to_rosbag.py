# SPDX-License-Identifier: Apache-2.0
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rosbags.rosbag2 import Reader
from support.nuscenes_fixtures import MadeUpDatabase, read_table, token
from support.stalled import write_stalling_tool

TOOL = Path(__file__).resolve().parents[2] / "tools" / "nuscenes_to_rosbag.py"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    scenes = ("scene-0001", "scene-0002")
    database = MadeUpDatabase(scenes=scenes, keyframes=1, frames_per_keyframe=2, points=10, semantics=True)
    return database.write(tmp_path_factory.mktemp("nuscenes") / "db")


@pytest.fixture
def tool(root, monkeypatch, capfd):
    """tool(arguments...) -> exit status, standard output, standard error"""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(TOOL), "--dataroot", str(root), *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            runpy.run_path(str(TOOL), run_name="__main__")
        return exited.value.code, *capfd.readouterr()

    return run


def test_every_scene_becomes_a_bag_and_the_next_command_is_printed(tool, tmp_path):
    status, out, err = tool("--output", tmp_path / "bags")
    assert (status, err) == (0, "")
    assert sorted(path.name for path in (tmp_path / "bags").iterdir()) == ["scene-0001", "scene-0002"]
    assert f"ros2 bag play {tmp_path}/bags/scene-0001" in out
    assert f"python -m gaussianocc_ros.bag_player {tmp_path}/bags/scene-0002" in out
    with Reader(tmp_path / "bags" / "scene-0001") as reader:
        assert f"scene-0001: {reader.message_count} messages" in out


def test_named_scenes_storage_and_options_are_honoured(tool, tmp_path):
    options = ("--scene", "scene-0002", "--storage", "sqlite3", "--no-sweeps", "--no-lidar", "--no-labels")
    assert tool("--output", tmp_path, *options)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["scene-0002"]
    assert (tmp_path / "scene-0002" / "scene-0002.db3").is_file()
    with Reader(tmp_path / "scene-0002") as reader:
        assert {c.topic for c in reader.connections}.isdisjoint({"/LIDAR_TOP/points"})
        assert reader.message_count == 1 + 8 + 2 * 6


def test_a_second_run_skips_what_is_complete_and_overwrites_when_told(tool, tmp_path):
    assert tool("--output", tmp_path, "--scene", "scene-0002")[0] == 0
    written = (tmp_path / "scene-0002" / "scene-0002.mcap").stat().st_mtime_ns
    status, out, err = tool("--output", tmp_path)
    assert (status, err) == (0, "")
    assert f"scene-0002: {tmp_path}/scene-0002 is complete" in out
    assert "scene-0001: " in out
    assert (tmp_path / "scene-0002" / "scene-0002.mcap").stat().st_mtime_ns == written
    assert tool("--output", tmp_path, "--overwrite")[0] == 0
    assert (tmp_path / "scene-0002" / "scene-0002.mcap").stat().st_mtime_ns > written


def test_other_options_are_refused_before_anything_is_written(tool, tmp_path):
    assert tool("--output", tmp_path, "--scene", "scene-0002")[0] == 0
    status, out, err = tool("--output", tmp_path, "--no-labels")  # scene-0001 would come first
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "labels was included, now left out" in err
    assert [path.name for path in tmp_path.iterdir()] == ["scene-0002"]


def test_a_scene_that_fails_is_reported_at_the_end(tool, root, tmp_path):
    path = next(path for path in (root / "samples" / "CAM_BACK").iterdir())
    hidden = path.rename(root / path.name)
    try:
        status, out, err = tool("--output", tmp_path)
    finally:
        hidden.rename(path)
    assert status == 1
    assert out.count("play it") == 1
    assert err.count("\n") == 1
    assert err.startswith("error: scene-000")
    assert str(path) in err


def test_a_split_is_a_list_of_scenes(tool, tmp_path):
    (tmp_path / "list.txt").write_text("scene-0002\n")
    assert tool("--output", tmp_path / "bags", "--split", tmp_path / "list.txt")[0] == 0
    assert [path.name for path in (tmp_path / "bags").iterdir()] == ["scene-0002"]


def test_shares_of_a_job_array_are_all_of_the_scenes_each_once(tool, tmp_path):
    said = []
    for share in ("1/3", "2/3", "3/3"):
        status, out, err = tool("--output", tmp_path, "--shard", share)
        assert status == 0 and f"share {share[0]} of 3: " in err
        said.append(out)
    assert "scene-0001: " in said[0] and "scene-0002: " in said[1] and said[2] == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scene-0001", "scene-0002"]
    for wrong in ("0/2", "3/2", "2", "a/b", "1/0"):
        status, _, err = tool("--output", tmp_path, "--shard", wrong)
        assert status == 2 and "expected K/N with K from 1 to N" in err


def test_bags_are_verified_and_a_table_is_printed(tool, tmp_path):
    assert tool("--output", tmp_path, "--no-sweeps")[0] == 0
    status, out, err = tool("--output", tmp_path, "--verify")
    assert (status, err) == (0, "")
    assert [line.split()[3:] for line in out.splitlines()[1:]] == [["ok"] * 4] * 2
    storage = tmp_path / "scene-0001" / "scene-0001.mcap"
    storage.write_bytes(storage.read_bytes()[:-5000])
    status, out, _ = tool("--output", tmp_path, "--verify")
    assert status == 1
    assert "WRONG" in out


@pytest.mark.medium
@pytest.mark.parametrize(("by", "jobs"), [(signal.SIGTERM, 1), (signal.SIGINT, 2)])
def test_an_interrupt_leaves_complete_bags_and_nothing_else(spawn, tmp_path, by, jobs):
    scenes = ("scene-0001", "scene-0002", "scene-0003")
    root = MadeUpDatabase(scenes=scenes, keyframes=1, frames_per_keyframe=2, points=10).write(tmp_path / "db")
    slow = []
    for scene in scenes[1:]:  # an interrupt always comes in time
        camera = token(scene, "CAM_BACK")
        rows = [row for row in read_table(root, "sample_data") if row["calibrated_sensor_token"] == camera]
        slow.append(Path(max(rows, key=lambda row: row["timestamp"])["filename"]).name)
    program = write_stalling_tool(tmp_path / "tool.py", TOOL, slow)
    output = tmp_path / "bags"
    process = spawn(program, "--dataroot", root, "--output", output, "--scene", *scenes, "--jobs", jobs)
    process.wait_for("play it", timeout=180)  # the first is complete
    deadline = time.monotonic() + 120
    while len(list(output.glob(".scene-*"))) < jobs and time.monotonic() < deadline:
        time.sleep(0.05)
    if by == signal.SIGINT:  # as a terminal does: to all processes
        for child in Path(f"/proc/{process.popen.pid}/task/{process.popen.pid}/children").read_text().split():
            os.kill(int(child), by)
    process.popen.send_signal(by)
    assert process.wait(timeout=180) == 130
    assert "Traceback" not in process.output
    assert "interrupted; complete bags stay" in process.output
    assert [path.name for path in output.iterdir()] == ["scene-0001"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--version", "v1.0-trainval"), "versions there: v1.0-mini"),
        (("--scene", "scene-0003"), "did you mean"),
        (("--split", "vall"), "did you mean val?"),
        (("--masks", "/nowhere"), "mask /nowhere/CAM_FRONT_mask.png does not exist"),
        (("--dataroot", "/nowhere"), "/nowhere is not a folder"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(tool, tmp_path, arguments, complaint):
    status, out, err = tool("--output", tmp_path / "bags", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert complaint in err
    assert not (tmp_path / "bags").exists()


def test_help_teaches_with_an_example_without_loading_torch():
    # A process of its own: this one has long loaded everything.
    script = (
        f"import sys; sys.argv = ['tool', '--help']; import runpy; runpy.run_path({str(TOOL)!r}, run_name='__main__')"
    )
    check = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); {script}"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert "--scene scene-0061 --output bags" in done.stdout
    assert done.stdout.rstrip().endswith("False")


def test_arguments_that_do_not_parse_end_with_status_2(tool):
    assert tool("--storage", "zip")[0] == 2
    assert tool("--output", "bags", "--jobs", "0")[0] == 2
    assert tool("--output", "bags", "--split", "val", "--scene", "scene-0001")[0] == 2
