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

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "launch" / "occ.launch.py"
ARGUMENTS = (
    "params_file", "checkpoint", "device", "autostart", "use_sim_time", "bag", "rate", "loop", "rviz", "namespace",
    "log_level",
)  # fmt: skip
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


def test_launch_starts_node_and_replay_and_occupancy_arrives(installed, graph, spawn, checkpoint, tmp_path):
    from nuscenes_fixtures import MadeUpDatabase

    from gaussianocc_core.data.nuscenes import NuScenesSource, write_scene_bag

    source = NuScenesSource(MadeUpDatabase().write(tmp_path / "made-up"))
    write_scene_bag(source, "scene-0001", tmp_path / "bag")
    outputs = graph.record(SemanticOccupancy, "/robot/occupancy_node/occupancy", 10)
    given = (f"bag:={tmp_path / 'bag'}", f"checkpoint:={checkpoint}", "device:=cpu", "namespace:=robot", "loop:=true")
    process = spawn("-c", RUN, installed, *given, "rate:=0.5")
    graph.until(lambda: outputs or process.popen.poll() is not None, 60, "an output")
    assert outputs, process.output
    assert outputs[0].header.frame_id == "base_link"
    assert outputs[0].model == "wiring"
    process.stop(30)
    assert "Traceback" not in process.output


def test_launch_ends_when_the_node_cannot_start(installed, spawn):
    process = spawn("-c", RUN, installed, "device:=abacus")
    process.wait(60)
    assert "parameter device: expected auto, cpu, cuda or cuda:N, got 'abacus'" in process.output
    assert "Traceback" not in process.output
