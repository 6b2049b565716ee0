# SPDX-License-Identifier: Apache-2.0
"""RViz's files and Foxglove's layout against the node: topics, types, QoS, and a window that can be restored."""

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

from gaussianocc_core.labels import PALETTE
from gaussianocc_ros.conversions import POINT_TYPE
from gaussianocc_ros.outputs import Outputs
from gaussianocc_ros.parameters import NodeParameters

ROOT = Path(__file__).resolve().parents[2]
FILES = ("occ", "occ_depth")
# What RViz's displays subscribe to. Everything else shows no topic.
KINDS = {
    "Image": "sensor_msgs/msg/Image",
    "Map": "nav_msgs/msg/OccupancyGrid",
    "MarkerArray": "visualization_msgs/msg/MarkerArray",
    "PointCloud2": "sensor_msgs/msg/PointCloud2",
}
WITHOUT_TOPIC = ("Grid", "TF")


def shipped_cameras():
    text = (ROOT / "config/ros/occupancy_node.yaml").read_text()
    return tuple(yaml.safe_load(text)["/**"]["ros__parameters"]["cameras"])


def read(name):
    return yaml.safe_load((ROOT / "config" / "rviz" / f"{name}.rviz").read_text())


def displays_of(name):
    return read(name)["Visualization Manager"]["Displays"]


@pytest.fixture
def offered(graph):
    """Topic -> its type and QoS, of a node with the shipped cameras."""
    node = graph.add(LifecycleNode("occupancy_node"))
    outputs = Outputs(node, NodeParameters(cameras=shipped_cameras()))
    topics = [each.topic_name for each in node.publishers if each.topic_name.startswith("/occupancy_node/")]
    assert len(topics) > 30
    graph.until(lambda: all(graph.probe.get_publishers_info_by_topic(topic) for topic in topics), what="discovery")
    infos = {topic: graph.probe.get_publishers_info_by_topic(topic)[0] for topic in topics}
    yield {topic: (info.topic_type, info.qos_profile) for topic, info in infos.items()}
    outputs.close()


@pytest.mark.parametrize("name", FILES)
def test_rviz_displays_match_the_node(name, offered):
    cameras = [f"/{camera}/image_raw/compressed" for camera in shipped_cameras()]
    for display in displays_of(name):
        namespace, kind = display["Class"].split("/")
        assert namespace == "rviz_default_plugins" and kind in (*KINDS, *WITHOUT_TOPIC)
        assert display["Enabled"] == display["Value"]
        if kind in WITHOUT_TOPIC:
            continue
        asked = display["Topic"]
        if asked["Value"] in cameras:  # image_transport takes the plugin from the end of the name
            assert asked["Reliability Policy"] == "Best Effort"  # gets images of every driver
            continue
        its_kind, qos = offered[asked["Value"]]
        assert its_kind == KINDS[kind], asked["Value"]
        assert asked["Reliability Policy"] == "Best Effort" or qos.reliability == ReliabilityPolicy.RELIABLE
        latched = qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
        assert (asked["Durability Policy"] == "Transient Local") == latched, asked["Value"]


def test_each_file_shows_what_it_is_for():
    shown = {name: {each["Topic"]["Value"] for each in displays_of(name) if "Topic" in each} for name in FILES}
    assert {f"/occupancy_node/{what}" for what in ("markers", "grid", "rig", "legend", "hidden_points")} <= shown["occ"]
    assert {"/CAM_FRONT/image_raw/compressed", "/CAM_BACK/image_raw/compressed"} <= shown["occ"]
    views = {f"/occupancy_node/{c}/{what}/image_raw" for c in shipped_cameras() for what in ("depth", "semantic")}
    assert views <= shown["occ_depth"] and not views & shown["occ"]  # a dock that is shown makes the node render


@pytest.mark.parametrize("name", FILES)
def test_what_a_first_time_user_sees(name):
    config = read(name)
    assert {panel["Class"] for panel in config["Panels"]} == {"rviz_common/Displays"}  # neither Time nor Views
    manager = config["Visualization Manager"]
    assert manager["Global Options"]["Fixed Frame"] == NodeParameters.fixed_frame
    assert manager["Views"]["Current"]["Target Frame"] == NodeParameters.ego_frame
    displays = {each["Name"]: each for each in manager["Displays"]}
    assert displays["Ground map"]["Color Scheme"] == "map"
    for each in displays.values():
        if each["Class"].endswith("PointCloud2"):
            assert each["Size (m)"] == 0.4 and not each["Enabled"]
        if "depth" in each.get("Topic", {}).get("Value", ""):
            assert (each["Normalize Range"], each["Min Value"], each["Max Value"]) == (False, 0, 40)
    red = np.array([int(part) for part in displays["Obstacles"]["Color"].split(";")])
    assert np.linalg.norm(PALETTE.astype(int) - red, axis=1).min() > 40  # unlike every class


class Blob:
    """Reads what QMainWindow::saveState writes (Qt 5 and 6): big-endian integers, UTF-16 strings."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def number(self, kind=">i"):
        (value,) = struct.unpack_from(kind, self.data, self.at)
        self.at += struct.calcsize(kind)
        return value

    def text(self):
        size = self.number(">I")
        self.at += size
        return self.data[self.at - size : self.at].decode("utf-16-be")


@pytest.mark.parametrize("name", FILES)
def test_the_window_state_holds_every_panel_at_a_width_that_leaves_room(name):
    geometry = read(name)["Window Geometry"]
    blob = Blob(bytes.fromhex(geometry["QMainWindow State"]))
    assert (blob.number(), blob.number()) == (0xFF, 0)  # marker, version
    assert blob.number(">B") == 0xFD  # docks
    docks, widths = {}, 0
    for _ in range(blob.number()):
        side, width, height = blob.number(), blob.number(), blob.number()
        assert side in (0, 1) and 200 <= width <= 340
        widths += width
        assert (blob.number(">B"), blob.number(">B")) == (0xFC, 2)  # one above the other
        total = 0
        for _ in range(blob.number()):
            assert blob.number(">B") == 0xFB  # a widget
            dock, flags = blob.text(), blob.number(">B")
            _, size, least, most = (blob.number() for _ in range(4))
            assert flags == 1 and least <= size <= most, dock  # visible, not floating
            docks[dock], total = size, total + size
        assert 0.9 * height < total <= height < geometry["Height"]
    middle, _ = blob.number(), blob.number()
    assert middle >= 0.5 * geometry["Width"] and widths + middle <= geometry["Width"]
    assert [blob.number() for _ in range(4)] == [4, 4, 8, 8]  # corners: top, top, bottom, bottom
    assert blob.number(">B") == 0xFC and [blob.number() for _ in range(3)] == [1, 2, 1]  # one row of tools, on top
    assert (blob.text(), blob.number(">B")) == ("Tools", 1)
    assert [blob.number() for _ in range(4)] == [0, -1, 0, 0] and blob.at == len(blob.data)
    images = {each["Name"] for each in displays_of(name) if each["Class"].endswith("/Image")}
    assert set(docks) == {"Displays"} | images
    assert all(not geometry[dock]["collapsed"] for dock in docks)


def test_foxglove_layout_matches_the_node(offered):
    layout = json.loads((ROOT / "config/foxglove/occ.json").read_text())
    panels = layout["configById"]

    def leaves(node):
        return [node] if isinstance(node, str) else leaves(node["first"]) + leaves(node["second"])

    assert sorted(leaves(layout["layout"])) == sorted(panels)
    (scene,) = [each for name, each in panels.items() if name.startswith("3D!")]
    assert scene["followTf"] == NodeParameters.ego_frame
    kinds = {offered[topic][0] for topic in scene["topics"]}
    assert kinds == set(KINDS.values()) - {KINDS["Image"]}
    cameras = {f"/{camera}/image_raw/compressed" for camera in shipped_cameras()}
    images = [each["imageMode"] for name, each in panels.items() if name.startswith("Image!")]
    for mode in images:
        topic = mode["imageTopic"]
        assert topic in cameras or offered[topic][0] == KINDS["Image"]
        if "/depth/" in topic:
            assert (mode["minValue"], mode["maxValue"]) == (0, 40)
    assert {name.split("!")[0] for name in panels} == {"3D", "Image", "DiagnosticSummary"}
    parameters = NodeParameters(cameras=shipped_cameras())
    calibrations = {f"/{parameters.camera_info_topic_of(camera)}" for camera in shipped_cameras()}
    for mode in images:
        assert mode.get("calibrationTopic") in {None, *calibrations}
        assert ("minValue" in mode) == ("/depth/" in mode["imageTopic"])
    (summary,) = [each for name, each in panels.items() if name.startswith("DiagnosticSummary!")]
    assert summary["topicToRender"] == "/diagnostics"


# What Foxglove reads of a layout: panels as foxglove.layouts of its SDK names them (2026), the settings of topics as
# the open fork Lichtblick has them. What it does not know it passes over without a word.
_COLOR = re.compile(r"#[0-9a-f]{6}([0-9a-f]{2})?")
_PANELS = {
    "3D": {"cameraState", "followMode", "followTf", "scene", "transforms", "topics", "layers", "imageMode"},
    "Image": {"imageMode", "topics"},
    "DiagnosticSummary": {"minLevel", "pinnedIds", "topicToRender", "hardwareIdFilter", "sortByLevel"},
}
_CAMERA = {
    *("distance", "perspective", "phi", "target", "targetOffset", "targetOrientation", "thetaOffset"),
    *("fovy", "near", "far", "logDepth"),
}
_IMAGE = {"imageTopic", "calibrationTopic", "synchronize", "rotation", "minValue", "maxValue"}
_GRID = {
    *("instanceId", "layerId", "label", "visible", "frameId", "size", "divisions", "lineWidth", "color"),
    *("position", "rotation", "order", "frameLocked"),
}
_TOPICS = {  # type -> settings, and what each may be where it is one of a few
    "Map": {"visible": None, "colorMode": {"custom", "costmap", "map", "raw"}, "alpha": None, "frameLocked": None},
    "MarkerArray": {"visible": None, "color": None, "showOutlines": None, "namespaces": None},
    "PointCloud2": {
        "visible": None,
        "colorMode": {"flat", "gradient", "colormap", "rgb", "rgba", "rgba-fields"},
        "colorField": None,
        "flatColor": None,
        "pointShape": {"circle", "square", "cube"},
        "pointSize": None,
    },
}


def test_foxglove_layout_says_only_what_foxglove_reads(offered):
    layout = json.loads((ROOT / "config/foxglove/occ.json").read_text())
    assert set(layout) == {"configById", "globalVariables", "userNodes", "playbackConfig", "layout"}

    def check(node):
        if isinstance(node, str):
            return
        assert set(node) == {"direction", "splitPercentage", "first", "second"}
        assert node["direction"] in ("row", "column") and 0 < node["splitPercentage"] < 100
        check(node["first"])
        check(node["second"])

    check(layout["layout"])
    for name, panel in layout["configById"].items():
        kind = name.split("!")[0]
        assert set(panel) <= _PANELS[kind], name
        if kind == "Image":
            assert set(panel["imageMode"]) <= _IMAGE, name
    (scene,) = [each for name, each in layout["configById"].items() if name.startswith("3D!")]
    assert scene["followMode"] in ("follow-pose", "follow-position", "follow-none")
    assert set(scene["cameraState"]) <= _CAMERA
    assert [len(scene["cameraState"][key]) for key in ("target", "targetOffset", "targetOrientation")] == [3, 3, 4]
    names = {kind: name for name, kind in KINDS.items()}
    for topic, settings in scene["topics"].items():
        known = _TOPICS[names[offered[topic][0]]]
        for key, value in settings.items():
            assert key in known and (known[key] is None or value in known[key]), (topic, key)
        # A colour of the points must be a field of them; the mode "rgb" reads the one that is packed as PCL does.
        assert settings.get("colorField") in (None, *POINT_TYPE.names)
        assert settings.get("colorMode") != "flat" or _COLOR.fullmatch(settings["flatColor"])
    (grid,) = scene["layers"].values()
    assert set(grid) <= _GRID and grid["layerId"] == "foxglove.Grid" and grid["frameId"] == NodeParameters.ego_frame
    assert _COLOR.fullmatch(grid["color"]) and _COLOR.fullmatch(scene["scene"]["backgroundColor"])


def test_the_launch_file_moves_every_topic_of_both_files_into_a_namespace():
    """With the expression of the launch file itself, which only a full ROS can run."""
    source = (ROOT / "launch/occ.launch.py").read_text()
    found = re.search(r'^VIEWED = re.compile\(r"(.*)", re.MULTILINE\)', source, re.MULTILINE)
    for name in FILES:
        text = (ROOT / "config" / "rviz" / f"{name}.rviz").read_text()
        moved = set(re.findall(found[1], text, re.MULTILINE))
        assert {each["Topic"]["Value"] for each in displays_of(name) if "Topic" in each} <= moved


def test_rviz_cannot_be_installed_without_what_it_needs():
    package = (ROOT / "package.xml").read_text()
    needed = re.search(r"^RVIZ = \((.*)\)", (ROOT / "launch/occ.launch.py").read_text(), re.MULTILINE)[1]
    assert re.findall(r'"(\w+)"', needed) == ["rviz2", "compressed_image_transport"]
    for name in re.findall(r'"(\w+)"', needed):
        assert f"<exec_depend>{name}</exec_depend>" in package
