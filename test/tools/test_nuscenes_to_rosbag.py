# SPDX-License-Identifier: Apache-2.0
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from nuscenes_fixtures import MadeUpDatabase
from rosbags.rosbag2 import Reader

TOOL = Path(__file__).resolve().parents[2] / "tools" / "nuscenes_to_rosbag.py"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    database = MadeUpDatabase(scenes=("scene-0001", "scene-0002"), keyframes=1, frames_per_keyframe=2, points=10)
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
    options = ("--scene", "scene-0002", "--storage", "sqlite3", "--no-sweeps", "--no-lidar")
    assert tool("--output", tmp_path, *options)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["scene-0002"]
    assert (tmp_path / "scene-0002" / "scene-0002.db3").is_file()
    with Reader(tmp_path / "scene-0002") as reader:
        assert {c.topic for c in reader.connections}.isdisjoint({"/LIDAR_TOP/points"})
        assert reader.message_count == 1 + 8 + 2 * 6


def test_a_second_run_refuses_before_it_writes_and_overwrites_when_told(tool, tmp_path):
    assert tool("--output", tmp_path, "--scene", "scene-0002")[0] == 0
    status, out, err = tool("--output", tmp_path)  # scene-0001 would come first
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert "scene-0002 exists already" in err
    assert [path.name for path in tmp_path.iterdir()] == ["scene-0002"]
    assert tool("--output", tmp_path, "--overwrite")[0] == 0
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--version", "v1.0-trainval"), "versions there: v1.0-mini"),
        (("--scene", "scene-0003"), "did you mean"),
        (("--dataroot", "/nowhere"), "/nowhere is not a folder"),
    ],
)
def test_a_mistake_is_one_line_and_status_1(tool, tmp_path, arguments, complaint):
    status, out, err = tool("--output", tmp_path / "bags", *arguments)
    assert (status, out) == (1, "")
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
