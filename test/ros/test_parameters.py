# SPDX-License-Identifier: Apache-2.0
"""Every parameter has one default, a description and a check; the shipped files agree with them."""

import dataclasses
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from rclpy.node import Node
from rclpy.parameter import Parameter

from gaussianocc_core.errors import ConfigError
from gaussianocc_ros.parameter_files import files_without_section
from gaussianocc_ros.parameters import NodeParameters, declare_parameters

ROOT = Path(__file__).resolve().parents[2]
DYNAMIC = (
    "caution",
    "traversable_classes",
    "obstacle_low",
    "obstacle_high",
    "hidden_classes",
    "view_colors",
    "warn_age",
    "error_age",
    "least_rate",
    "watch_period",
)
FIELDS = dataclasses.fields(NodeParameters)


def shipped():
    return yaml.safe_load((ROOT / "config/ros/occupancy_node.yaml").read_text())["/**"]["ros__parameters"]


def declare(graph, **values):
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    node = graph.add(Node("declares", parameter_overrides=overrides))
    return node, declare_parameters(node)


def test_declared_parameters_arrive_with_types_and_defaults(graph):
    _, parameters = declare(graph, cameras=["front", "left"], slop=0.02)
    assert parameters == NodeParameters(cameras=("front", "left"), slop=0.02)
    assert parameters.anchor == "front"
    assert parameters.image_topic_of("left") == "left/image_raw/compressed"
    assert parameters.transport_of("left") == "compressed"


def test_every_parameter_is_described_and_says_when_it_takes_effect(graph):
    node, _ = declare(graph, cameras=["front"])
    for field in FIELDS:
        descriptor = node.describe_parameter(field.name)
        assert len(descriptor.description) > 10 and not descriptor.read_only
        later = "takes effect at configure" in descriptor.additional_constraints
        assert later == (field.name not in DYNAMIC), field.name


def test_frames_get_the_prefix_once(graph):
    _, parameters = declare(graph, cameras=["front"], frame_prefix="robot1/", fixed_frame="robot1/map")
    assert (parameters.ego_frame, parameters.fixed_frame) == ("robot1/base_link", "robot1/map")
    assert parameters.odometry_frame == ""
    _, without = declare(graph, cameras=["front"], frame_prefix="robot1/", fixed_frame="")
    assert without.fixed_frame == ""


@pytest.mark.parametrize(
    "text, node, has",
    [
        ("occ_node:\n  ros__parameters: {a: 1}", "/occupancy_node", "occ_node"),
        (
            "a:\n  occupancy_node:\n    ros__parameters: {a: 1}\n/b/c: {ros__parameters: {}}",
            "/occupancy_node",
            "a/occupancy_node, b/c",
        ),
        ("/*/other: {ros__parameters: {a: 1}}", "/robot/occupancy_node", "*/other"),
    ],
)
def test_a_file_without_a_section_for_the_node_is_named(tmp_path, text, node, has):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    (line,) = files_without_section(["--ros-args", "--params-file", str(path)], node)
    assert line.startswith(f"no section for {node} in {path}; it has {has}")


@pytest.mark.parametrize(
    "text, node",
    [
        ("/**: {ros__parameters: {a: 1}}", "/robot/occupancy_node"),
        ("occupancy_node: {ros__parameters: {a: 1}}", "/occupancy_node"),
        ("robot:\n  occupancy_node: {ros__parameters: {a: 1}}", "/robot/occupancy_node"),
        ("/robot/occupancy_node: {ros__parameters: {a: 1}}", "/robot/occupancy_node"),
        ("/*/occupancy_node: {ros__parameters: {a: 1}}", "/robot/occupancy_node"),
        ("/**/occupancy_node: {ros__parameters: {a: 1}}", "/a/b/occupancy_node"),
        ("other: {ros__parameters: {}}\noccupancy_node: {ros__parameters: {}}", "/occupancy_node"),
        ("not: a parameter file", "/occupancy_node"),
        ("[", "/occupancy_node"),
    ],
)
def test_a_file_with_a_section_for_the_node_is_not(tmp_path, text, node):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    assert files_without_section(["--params-file", str(path), "--params-file", "/nowhere.yaml"], node) == []


def test_an_override_that_nothing_declares_is_named_with_the_nearest_parameter(graph, capfd):
    declare(graph, cameras=["front"], slopp=0.02, use_sim_time=False, wheels="red")
    first, second = capfd.readouterr().err.splitlines()
    assert "[WARN]" in first and first.endswith(
        "parameter slopp is ignored, this node has none of that name; did you mean slop?"
    )
    assert "parameter wheels is ignored" in second and "did you mean" not in second


@pytest.mark.parametrize("values", [{}, {"cameras": ["front"], "slop": 7.0}])
def test_a_misspelt_name_is_named_although_the_node_cannot_start(graph, capfd, values):
    with pytest.raises(ConfigError, match="parameter (cameras|slop): "):
        declare(graph, camera=["front"], **values)
    assert "did you mean cameras?" in capfd.readouterr().err


def test_transport_follows_the_topic_unless_it_is_given():
    assert NodeParameters(cameras=("a",), image_topic="/{camera}/image_raw").transport_of("a") == "raw"
    named = NodeParameters(cameras=("a",), image_topic="/{camera}/jpeg", image_transport="compressed")
    assert (named.transport_of("a"), named.image_topic_of("a")) == ("compressed", "/a/jpeg")
    several = ("/a/image_raw/ffmpeg", "/b/image_raw/foxglove", "/c/image_raw/compressed", "/d/image_rect")
    each = NodeParameters(cameras=("a", "b", "c", "d"), image_topics=several)
    assert [each.transport_of(c) for c in "abcd"] == ["ffmpeg", "foxglove", "compressed", "raw"]


@pytest.mark.parametrize("transport", ["raw", "compressed", "ffmpeg", "foxglove"])
@pytest.mark.parametrize("given", ["{camera}/image_raw", "{camera}/image_raw/compressed", "{camera}/image_raw/ffmpeg"])
def test_topics_end_in_the_transport_that_is_asked_for(transport, given):
    parameters = NodeParameters(cameras=("a",), image_topic=given, image_transport=transport)
    assert parameters.image_topic_of("a") == ("a/image_raw" if transport == "raw" else f"a/image_raw/{transport}")
    assert parameters.transport_of("a") == transport


@pytest.mark.parametrize(
    "values, complaint",
    [
        ({"cameras": []}, "parameter cameras: name at least one"),
        ({"cameras": ["a", "a"]}, "parameter cameras: .*different names"),
        ({"cameras": ["a"], "anchor_camera": "b"}, "parameter anchor_camera: 'b' is not among"),
        ({"cameras": ["a", "b"], "image_topic": "/image"}, "parameter image_topic: .*needs {camera}"),
        ({"cameras": ["a b"]}, "parameter image_topic: .*not a topic name"),
        ({"cameras": ["a"], "image_topic": "/{camera}//x"}, "parameter image_topic: .*not a topic name: .*repeated"),
        ({"cameras": ["a"], "image_topic": "/{camera}/"}, "parameter image_topic: .*not a topic name: .*end with"),
        ({"cameras": ["a"], "image_topic": "/{other}/x"}, "parameter image_topic: .*not a topic name: "),
        (
            {"cameras": ["1"], "image_topic": "/c{camera}", "camera_info_topic": "{camera}/i"},
            "parameter camera_info_topic: .*not a topic name: topic name token must not start with a number$",
        ),
        ({"cameras": ["a"], "slop": 7.0}, "parameter slop: .*range"),
        ({"cameras": ["a"], "slop": "wide"}, "parameter slop: .*type"),
        ({"cameras": ["a"], "image_transport": "carrier pigeon"}, "parameter image_transport: expected one of auto"),
        ({"cameras": ["a"], "checkpoint": "/nowhere.safetensors"}, "parameter checkpoint: no file"),
        ({"cameras": ["a"], "device": "abacus"}, "parameter device: expected auto, cpu"),
        ({"cameras": ["a-b", "a_b"], "image_topics": ["/a", "/b"], "camera_info_topics": ["/c", "/d"]}, "would share"),
        ({"cameras": ["a", "b"], "image_topics": ["/a"]}, "parameter image_topics: 1 topics for 2 cameras"),
        ({"cameras": ["a"], "camera_info_topics": ["//"]}, "parameter camera_info_topics: .*not a topic name"),
        ({"cameras": ["a"], "reliable_cameras": ["b"]}, "parameter reliable_cameras: b not among"),
        ({"cameras": ["a"], "fusion": True, "fixed_frame": ""}, "parameter fusion: needs a fixed_frame"),
        ({"rig_file": "/nowhere.yaml"}, "/nowhere.yaml: no such file"),
    ],
)
def test_impossible_value_is_one_line_that_names_the_parameter(graph, values, complaint):
    with pytest.raises(ConfigError, match=complaint) as error:
        declare(graph, **{name: value for name, value in values.items() if value != []})
    assert "\n" not in str(error.value)


def test_topics_can_be_given_one_by_one():
    parameters = NodeParameters(
        cameras=("a", "b"),
        image_topic="/x",
        camera_info_topic="/y",
        image_topics=("/left/image_raw", "/zed/rgb/compressed"),
        camera_info_topics=("/l/info", "/zed/info"),
        reliable_cameras=("b",),
    )
    assert [parameters.image_topic_of(camera) for camera in "ab"] == ["/left/image_raw", "/zed/rgb/compressed"]
    assert [parameters.camera_info_topic_of(camera) for camera in "ab"] == ["/l/info", "/zed/info"]
    assert [parameters.transport_of(camera) for camera in "ab"] == ["raw", "compressed"]
    assert [parameters.is_reliable(camera) for camera in "ab"] == [False, True]


@pytest.mark.parametrize("topic", ["{camera}/image", "/{camera}/image", "~/{camera}/image", "/rig/{camera}"])
def test_relative_absolute_and_private_topics_are_accepted(topic):
    assert NodeParameters(cameras=("a",), image_topic=topic).image_topic_of("a") == topic.replace("{camera}", "a")


def test_camera_that_the_rig_file_lacks_is_one_line_that_names_the_file_and_its_cameras(tmp_path):
    entry = {
        "width": 96,
        "height": 64,
        "intrinsics": [60.0, 60.0, 48.0, 32.0],
        "translation": [1.0, 0.0, 1.5],
        "rotation": [0.5, -0.5, 0.5, -0.5],
    }
    path = tmp_path / "rig.yaml"
    path.write_text(yaml.safe_dump({"cameras": {"front": entry, "left": dict(entry)}}))
    with pytest.raises(ConfigError) as error:
        NodeParameters(cameras=("front", "rear"), rig_file=str(path))
    assert str(error.value) == f"parameter cameras: rig_file '{path}' has no rear; it has front, left"
    assert NodeParameters(cameras=("left",), rig_file=str(path)).camera_names == ("left",)


def test_shipped_parameter_file_holds_only_known_names_and_differences():
    defaults = {field.name: field.default for field in FIELDS}
    for name, value in shipped().items():
        assert (tuple(value) if isinstance(value, list) else value) != defaults[name], name


def test_shipped_parameter_file_names_the_six_nuscenes_cameras():
    parameters = NodeParameters(cameras=tuple(shipped()["cameras"]))
    assert len(parameters.cameras) == 6
    assert parameters.anchor == "CAM_FRONT"


def test_the_table_in_the_docs_is_the_generated_one():
    from pathlib import Path

    from gaussianocc_ros.parameter_table import parameter_table

    docs = (Path(__file__).resolve().parents[2] / "docs" / "node.md").read_text()
    assert docs.split("<!-- python -m gaussianocc_ros.parameter_table -->\n")[1] == parameter_table() + "\n"
