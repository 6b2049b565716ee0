# SPDX-License-Identifier: Apache-2.0
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.ros
ROOT = Path(__file__).parents[2]


def test_demo_and_launch_file_share_one_parameter_file():
    from gaussianocc_ros import demo_replay

    assert demo_replay.parameter_file() == ROOT / "config" / "ros" / "occupancy_node.yaml"
    launch = (ROOT / "launch" / "occ.launch.py").read_text()
    assert 'os.path.join(share, "config", "ros", "occupancy_node.yaml")' in launch
    files = [path for path in (ROOT / "config").rglob("*.yaml") if "ros__parameters" in path.read_text()]
    assert [path for path in files if path.name != "nav2_costmap.yaml"] == [demo_replay.parameter_file()]  # Nav2's own


def test_demo_reads_messages_as_they_are_documented():
    from gaussianocc_core.labels import CLASS_NAMES
    from gaussianocc_core.types import OccupancyPrediction, VoxelGrid
    from gaussianocc_ros.conversions import encode_occupancy
    from gaussianocc_ros.demo_pictures import decode

    grid = VoxelGrid(origin=(-1.0, -2.0, 0.5), voxel_size=0.5, shape=(3, 4, 2))
    labels = np.full(grid.shape, 17, dtype=np.uint8)
    labels[2, 1, 1] = 4
    prediction = OccupancyPrediction(
        labels, np.ones(grid.shape, np.float32), np.ones(grid.shape, bool), grid, CLASS_NAMES, True, ("c",), "m"
    )
    decoded, decoded_grid = decode(encode_occupancy(prediction, 0, "base_link"))
    np.testing.assert_array_equal(decoded, labels)
    assert decoded_grid == grid


def test_demo_counts_what_becomes_of_the_voxels_in_which_something_stands():
    from gaussianocc_core.labels import CLASS_ID, FREE, OCCLUDED
    from gaussianocc_core.types import OccupancyLabels
    from gaussianocc_ros.demo_pictures import count_standing

    car, road = CLASS_ID["car"], CLASS_ID["driveable_surface"]
    truth = np.array([car, car, car, car, road, FREE, FREE, car], np.uint8).reshape(8, 1, 1)
    said = np.array([car, road, FREE, OCCLUDED, car, car, FREE, FREE], np.uint8).reshape(8, 1, 1)
    seen = np.array([1, 1, 1, 1, 1, 1, 1, 0], bool).reshape(8, 1, 1)
    counted = count_standing(OccupancyLabels(truth, seen, seen), said)
    assert counted.shares() == {"found": 0.5, "missed": 0.25, "unknown": 0.25, "right": pytest.approx(2 / 3)}
    assert (counted + counted).shares() == counted.shares()


@pytest.mark.parametrize("distro, variable", [("humble", "ROS_LOCALHOST_ONLY"), ("", "ROS_AUTOMATIC_DISCOVERY_RANGE")])
def test_demo_keeps_to_this_machine_in_every_distribution(monkeypatch, distro, variable):
    from gaussianocc_ros.isolation import isolated_graph

    monkeypatch.setenv("ROS_DISTRO", distro)
    graph = isolated_graph()
    assert set(graph) == {"ROS_DOMAIN_ID", variable}
    assert 1 <= int(graph["ROS_DOMAIN_ID"]) <= 101


@pytest.mark.parametrize(
    "script, complaint",
    [
        ("import time; time.sleep(600)", "the node was not seen over DDS within 0 s .*it says: still loading"),
        ("raise SystemExit(1)", "the node ended: still loading"),
    ],
)
def test_demo_gives_up_on_a_node_that_is_never_seen_or_ends(monkeypatch, tmp_path, script, complaint):
    from gaussianocc_core.errors import GaussianOccError
    from gaussianocc_ros import demo_replay

    class Recorder:
        def sees_the_node(self):
            return False

        def spin_once(self):
            pass

    started = []

    def start(command, **options):
        started.append(popen([sys.executable, "-S", "-c", f"print('still loading', flush=True); {script}"], **options))
        while "still loading" not in (tmp_path / "log").read_text():
            pass
        if "Exit" in script:
            started[-1].wait()
        return started[-1]

    popen = subprocess.Popen
    for name in demo_replay.isolated_graph():  # what the demo sets is undone after the test
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setattr(demo_replay, "_Recorder", Recorder)
    monkeypatch.setattr(demo_replay, "NODE_TIMEOUT", 0.2)
    monkeypatch.setattr(demo_replay.subprocess, "Popen", start)
    with (
        pytest.raises(GaussianOccError, match=complaint) as error,
        demo_replay.started_node(tmp_path / "log", "") as node,
    ):
        demo_replay.replay(tmp_path / "bag", node)
    assert "\n" not in str(error.value)
    assert [process.returncode is not None for process in started] == [True]


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["--checkpoint", "{folder}/absent.safetensors"], "absent.safetensors: no such checkpoint; "),
        (["--checkpoint", "{folder}/broken.safetensors"], "broken.safetensors: not a readable .safetensors file "),
        (["--every", "0"], "--every: expected 1 or more, got 0"),
        (["--seed", "-1"], "--seed: expected 0 or more, got -1"),
        (["--keyframes", "0"], "--keyframes: expected 1 or more, got 0"),
    ],
)
def test_demo_says_in_one_line_what_it_cannot_use_before_it_makes_anything(capsys, tmp_path, arguments, complaint):
    from gaussianocc_ros import demo

    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    (tmp_path / "out" / "data").mkdir(parents=True)
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    assert demo.main(["--output", str(tmp_path / "out"), "--fresh", *arguments]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and complaint in said.err and said.err.count("\n") == 1
    assert said.out == "" and list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "data"]


def test_demo_that_cannot_write_its_folder_ends_with_one_line_and_status_2(capsys, tmp_path):
    from gaussianocc_ros import demo

    (tmp_path / "file").write_text("in the way")
    assert demo.main(["--output", str(tmp_path / "file" / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and str(tmp_path / "file") in said and said.count("\n") == 1


def test_demo_kills_a_process_that_does_not_heed_being_asked(tmp_path):
    from gaussianocc_ros import demo_replay

    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    process = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    demo_replay._stop(process, patience=0.2)
    process.stdout.close()
    assert process.returncode == -9


@pytest.mark.slow
def test_demo_ends_with_a_video_a_picture_and_a_report(tmp_path):
    command = [sys.executable, "-m", "gaussianocc_ros.demo", "--output", str(tmp_path), "--keyframes", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "WARN" not in done.stdout + done.stderr  # OpenCV's, which nobody can do anything about
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["sets"] == 7  # two keyframes and the five sweeps between them
    assert report["topics"]["/occupancy_node/occupancy"]["messages"] == 7
    assert {"decode", "predict", "encode"} <= set(report["node_stage_ms"])
    assert (tmp_path / "demo.png").stat().st_size > 100_000
    import imageio_ffmpeg

    assert imageio_ffmpeg.count_frames_and_secs(tmp_path / "demo.mp4")[0] == 4  # every second
