# SPDX-License-Identifier: Apache-2.0
"""The launch file, through the real `launch` where a ROS 2 has it; its text everywhere."""

import ast
import dataclasses
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from gaussianocc_ros.msg import SemanticOccupancy
from gaussianocc_ros.parameters import NodeParameters
from gaussianocc_ros.stamps import stamp_ns

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "launch" / "occ.launch.py"
ARGUMENTS = (
    "params_file",
    "rig",
    "checkpoint",
    "device",
    "autostart",
    "use_sim_time",
    "bag",
    "rate",
    "loop",
    "rviz",
    "viewer",
    "namespace",
    "tf",
    "frame_prefix",
    "log_level",
)
RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
given = [argument.split(":=", 1) for argument in sys.argv[2:]]
service = LaunchService()
source = PythonLaunchDescriptionSource(sys.argv[1])
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(source, launch_arguments=given)]))
sys.exit(service.run())
"""


def declared():
    """Argument -> (default, description), from the file's own dictionary."""
    assignments = (node for node in ast.walk(ast.parse(FILE.read_text())) if isinstance(node, ast.Assign))
    (table,) = [node.value for node in assignments if ast.unparse(node.targets[0]) == "arguments"]
    return {key.value: value.elts for key, value in zip(table.keys, table.values, strict=True)}


def test_launch_file_declares_described_arguments():
    arguments = declared()
    assert tuple(arguments) == ARGUMENTS
    for name, (_, description) in arguments.items():
        assert len(description.value) > 10, name


def test_launch_file_repeats_no_default_of_the_node():
    fields = {field.name for field in dataclasses.fields(NodeParameters)}
    repeated = {name for name, (default, _) in declared().items() if name in fields and default.value != ""}
    assert repeated == set()


@pytest.fixture
def installed():
    """The installed launch file; skips where `launch` or the installed package is absent."""
    for name in ("launch", "launch_ros"):
        pytest.importorskip(f"{name}.actions", reason=f"no {name} in this environment")
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    try:
        prefix = Path(get_package_prefix("gaussianocc_ros"))
    except PackageNotFoundError:
        pytest.skip("gaussianocc_ros is not in the ament index")
    path = prefix / "share" / "gaussianocc_ros" / "launch" / "occ.launch.py"
    if not path.is_file():
        pytest.skip(f"only the messages are installed in {prefix}; colcon build installs the launch file")
    return path


@pytest.fixture
def bag(tmp_path):
    """Two keyframes and four sets between them, in half a second."""
    from support.nuscenes_fixtures import MadeUpDatabase

    from gaussianocc_core.data.nuscenes import NuScenesSource, write_scene_bag

    source = NuScenesSource(MadeUpDatabase().write(tmp_path / "made-up"))
    write_scene_bag(source, "scene-0001", tmp_path / "bag")
    return tmp_path / "bag"


@pytest.mark.medium
def test_launch_starts_node_and_replay_and_the_first_set_of_the_bag_arrives(installed, graph, spawn, checkpoint, bag):
    from rosbags.rosbag2 import Reader

    with Reader(bag) as reader:
        images = [c for c in reader.connections if c.topic == "/CAM_FRONT/image_raw/compressed"]
        first = min(log_ns for _, log_ns, _ in reader.messages(images))
    outputs = graph.record(SemanticOccupancy, "/robot/occupancy_node/occupancy", 10)
    given = (f"bag:={bag}", f"checkpoint:={checkpoint}", "device:=cpu", "namespace:=robot", "rate:=0.5")
    process = spawn("-c", RUN, installed, *given)
    graph.until(lambda: outputs or process.popen.poll() is not None, 120, "an output")
    assert outputs, process.output
    assert outputs[0].header.frame_id == "base_link"
    assert outputs[0].model == "wiring"
    assert stamp_ns(outputs[0].header) == first
    process.wait_for("bag_player-2.*process has finished cleanly")
    assert process.popen.poll() is None  # the node stays, to look at the last result
    assert process.stop(30) == 0
    assert "Traceback" not in process.output


@pytest.mark.medium
def test_a_rig_file_alone_names_the_cameras(installed, graph, spawn, checkpoint, tmp_path, monkeypatch):
    (tmp_path / "rig.yaml").write_text((ROOT / "config" / "rig" / "surround_fisheye.yaml").read_text())
    process = spawn("-c", RUN, installed, "rig:=rig.yaml", f"checkpoint:={checkpoint}", "device:=cpu", cwd=tmp_path)
    process.wait_for(r"cameras \w+, \w+, \w+, \w+", 120)
    assert process.stop(30) == 0


@pytest.mark.medium
@pytest.mark.parametrize(
    "given, complaint",
    [
        (
            "device:=abacus",
            "parameter device: expected auto, cpu, cuda, cuda:N, openvino, onnx, onnx-cuda or tensorrt, got 'abacus'",
        ),
        ("checkpoint:=/nowhere.safetensors", "checkpoint: no file '/nowhere.safetensors'; leave it out"),
        ("params_file:=/nowhere.yaml", "params_file: no file '/nowhere.yaml'; "),
        ("rig:=/nowhere.yaml", "rig: no file '/nowhere.yaml'; see config/rig/"),
        ("bag:=/nowhere", "bag: no file '/nowhere'; give the folder"),
        (f"bag:={Path(__file__).parent}", "not a readable rosbag2"),
    ],
)
def test_launch_of_something_impossible_ends_with_status_1_and_one_line_that_says_why(
    installed, spawn, given, complaint
):
    process = spawn("-c", RUN, installed, given)
    assert process.wait(120) == 1
    assert process.output.count(complaint) == 1
    assert "Traceback" not in process.output
    assert "; grid " not in process.output  # which the node says of a model that it has loaded
