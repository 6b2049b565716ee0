# SPDX-License-Identifier: Apache-2.0
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rosbags.rosbag2 import Reader
from support.ddad_fixtures import RING, MadeUpScene, write_data_set

TOOL = Path(__file__).resolve().parents[2] / "tools" / "ddad_to_rosbag.py"
SCENE = MadeUpScene(samples=2, points=5)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    six = replace(SCENE, name="000150", cameras=RING, digits=16, image="png", splits=("1",))
    return write_data_set(tmp_path_factory.mktemp("ddad") / "data", SCENE, six)


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
    assert sorted(path.name for path in (tmp_path / "bags").iterdir()) == ["000000", "000150"]
    assert f"ros2 bag play {tmp_path}/bags/000000" in out
    assert f"python -m gaussianocc_ros.bag_player {tmp_path}/bags/000150" in out
    assert "MB/s" in out
    with Reader(tmp_path / "bags" / "000150") as reader:
        assert f"000150: {reader.message_count} messages" in out
        assert reader.message_count == 1 + 4 + 2 * (6 * 2 + 1)  # static, poses, images with infos and points


def test_split_scenes_storage_and_options_are_honoured(tool, tmp_path):
    assert tool("--output", tmp_path / "val", "--split", "val")[0] == 0
    assert [path.name for path in (tmp_path / "val").iterdir()] == ["000150"]
    options = ("--scene", "000000", "--storage", "sqlite3", "--no-lidar")
    assert tool("--output", tmp_path / "one", *options)[0] == 0
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["000000"]
    assert (tmp_path / "one" / "000000" / "000000.db3").is_file()
    with Reader(tmp_path / "one" / "000000") as reader:
        assert {c.topic for c in reader.connections}.isdisjoint({"/LIDAR/points"})
        assert reader.message_count == 1 + 4 + 2 * 3 * 2


def test_a_second_run_skips_what_is_complete_and_refuses_what_was_made_otherwise(tool, tmp_path):
    assert tool("--output", tmp_path, "--scene", "000150")[0] == 0
    bag = tmp_path / "000150" / "000150.mcap"
    before = bag.stat().st_mtime_ns
    status, out, err = tool("--output", tmp_path)  # 000000 is still to do
    assert (status, err) == (0, "") and "000150" in out and "skipped" in out
    assert bag.stat().st_mtime_ns == before and len(list(tmp_path.iterdir())) == 2
    status, out, err = tool("--output", tmp_path, "--no-lidar")
    assert (status, out) == (2, "") and err.count("\n") == 1 and "lidar" in err and "--overwrite" in err
    assert tool("--output", tmp_path, "--no-lidar", "--overwrite")[0] == 0


def test_verify_says_whether_bags_hold_what_the_files_hold(tool, root, tmp_path):
    assert tool("--output", tmp_path / "all")[0] == 0
    assert tool("--output", tmp_path / "all", "--verify")[0] == 0
    bag = tmp_path / "all" / "000000" / "000000.mcap"
    data = bytearray(bag.read_bytes())
    place = data.index(b"\xff\xd9")  # the end of a picture
    data[place - 5] ^= 0xFF
    bag.write_bytes(data)
    status, out, _ = tool("--output", tmp_path / "all", "--verify")
    assert status == 1 and "000000" in out


@pytest.mark.medium
def test_several_processes_write_the_same_bags(tool, tmp_path):
    assert tool("--output", tmp_path / "one")[0] == 0
    assert tool("--output", tmp_path / "two", "--jobs", 2)[0] == 0
    for scene in ("000000", "000150"):
        one, two = ((tmp_path / run / scene / f"{scene}.mcap").read_bytes() for run in ("one", "two"))
        assert one == two


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--split", "test"), "it has train, val"),
        (("--scene", "000151"), "did you mean 000150"),
        (("--scene", "000000", "--split", "val"), "scene 000000 is not in split val"),
        (("--dataroot", "/nowhere"), "/nowhere is not a folder"),
        (("--dataroot", TOOL.parent), "holds no scene index"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(tool, tmp_path, arguments, complaint):
    status, out, err = tool("--output", tmp_path / "bags", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert complaint in err
    assert not (tmp_path / "bags").exists()


def test_help_teaches_with_an_example_and_needs_no_library(tmp_path):
    # -S leaves site-packages out, and with them torch.
    command = [sys.executable, "-E", "-S", TOOL, "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "--split val --scene 000150 000151 --output bags" in done.stdout
    assert "are wrong by centuries" in done.stdout


def test_arguments_that_do_not_parse_end_with_status_2(tool):
    assert tool("--output", "bags", "--storage", "zip")[0] == 2
    assert tool("--output", "bags", "--split", "validation")[0] == 2
