# SPDX-License-Identifier: Apache-2.0
"""~/obstacles and ~/grid over DDS: what planners get is what the occupancy says, where the robot is."""

from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from nav_msgs.msg import OccupancyGrid
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import PointCloud2

from gaussianocc_core.bags.messages import decode_cloud
from gaussianocc_core.errors import ConfigError
from gaussianocc_core.geometry.transforms import make_transform
from gaussianocc_core.labels import CLASS_ID, CLASS_NAMES, FREE
from gaussianocc_core.types import OccupancyPrediction, VoxelGrid
from gaussianocc_ros.outputs import Outputs
from gaussianocc_ros.parameters import NodeParameters, apply_changes
from gaussianocc_ros.stamps import stamp_ns

STAMP = 1_700_000_000_000_000_007
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def prediction() -> OccupancyPrediction:
    """Road with a car 3.25 m ahead and 0.75 m to the left, and a bridge above it."""
    grid = VoxelGrid((-4.0, -4.0, -0.5), 0.5, (16, 16, 8))
    labels = np.full(grid.shape, FREE, np.uint8)
    labels[:, :, 0] = CLASS_ID["driveable_surface"]
    labels[14, 9, 1:3] = CLASS_ID["car"]
    labels[14, :, 7] = CLASS_ID["manmade"]
    return OccupancyPrediction(
        labels, np.ones(grid.shape, np.float32), labels != 255, grid, CLASS_NAMES, True, ("front",), "made up"
    )


@pytest.fixture
def published(graph):
    """What the two topics carry for some parameters and a pose of the robot."""
    node = graph.add(LifecycleNode("occupancy_node"))
    obstacles = graph.record(PointCloud2, "/occupancy_node/obstacles")
    maps = graph.record(OccupancyGrid, "/occupancy_node/grid", LATCHED)
    made = []

    def publish(T_odom_ego=None, wanted=2, **parameters):
        outputs = Outputs(node, NodeParameters(cameras=("front",), **parameters), lambda stamp: T_odom_ego)
        made.append(outputs)
        if len(made) == 1:
            node.trigger_configure()
            node.trigger_activate()
        for publisher, _ in outputs._topics:
            publisher.on_activate(None)
        navigation = [p for p, _ in outputs._topics if p.topic_name.rsplit("/", 1)[-1] in ("obstacles", "grid")]
        graph.until(lambda: all(p.get_subscription_count() for p in navigation), what="subscriptions")
        outputs.publish(prediction(), STAMP)
        graph.until(lambda: len(obstacles) + len(maps) >= wanted, what="messages")
        return outputs, obstacles, maps

    yield publish
    for outputs in made:
        outputs.close()


def test_obstacles_and_map_say_what_the_occupancy_says_where_the_robot_is(published):
    quarter = make_transform(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([10.0, -3.0, 0.0]))
    _, (cloud,), (ground,) = published(quarter)
    assert (stamp_ns(cloud.header), cloud.header.frame_id) == (STAMP, "base_link")
    points = decode_cloud(cloud)
    places = sorted(zip(points["x"].tolist(), points["y"].tolist(), points["z"].tolist(), strict=True))
    assert places == [(3.25, 0.75, 0.25), (3.25, 0.75, 0.75)]  # the bridge is 3.25 m high
    assert set(points["label"].tolist()) == {CLASS_ID["car"]}

    assert (stamp_ns(ground.header), ground.header.frame_id) == (STAMP, "odom")
    info = ground.info
    assert (info.width, info.height, info.resolution) == (33, 33, 0.5)
    assert (info.origin.position.x, info.origin.position.y, info.origin.orientation.w) == (0.0, -10.0, 1.0)
    cells = np.array(ground.data, dtype=np.int8).reshape(info.height, info.width)
    # The car lies at odom x = 10 - 0.75, y = -3 + 3.25.
    assert np.argwhere(cells == 100).tolist() == [[int((0.25 + 10.0) / 0.5), int(9.25 / 0.5)]]
    assert (cells == 0).sum() == 16 * 16 - 1


def test_the_map_keeps_its_size_while_the_robot_turns(published):
    """Nav2's layers and RViz make theirs anew for another size."""
    sizes = set()
    for number, degrees in enumerate((0, 17, 45, 90)):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        turned = make_transform(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]), np.array([10.0, -3.0, 0.0]))
        _, _, maps = published(turned, wanted=2 * (number + 1))
        sizes.add((maps[-1].info.width, maps[-1].info.height, maps[-1].info.origin.position.x))
    assert sizes == {(33, 33, 0.0)}


def test_without_odometry_there_is_no_map_rather_than_a_wrong_one(published):
    outputs, obstacles, maps = published(None, wanted=1)
    assert len(obstacles) == 1 and maps == []
    assert "TF has no odom <- base_link" in outputs.problem
    _, _, maps = published(None, wanted=3, fixed_frame="")  # around the robot, if that is what one wants
    assert maps[-1].header.frame_id == "base_link" and maps[-1].info.origin.position.x == -4.0


def test_heights_and_classes_change_at_once_and_impossible_ones_are_refused(graph, checkpoint):
    from gaussianocc_ros.occupancy_node import OccupancyNode

    values = {"cameras": ["front"], "device": "cpu", "checkpoint": str(checkpoint), "warm_up": False}
    node = graph.add(OccupancyNode(parameter_overrides=[Parameter(name, value=v) for name, v in values.items()]))
    node.trigger_configure()

    def change(**new):
        changed = node.set_parameters_atomically([Parameter(name, value=value) for name, value in new.items()])
        return "" if changed.successful else changed.reason

    assert change(obstacle_high=3.5, traversable_classes=["sidewalk"]) == ""
    assert node._outputs.parameters.traversability.high == 3.5
    assert node.parameters.traversable_classes == ("sidewalk",)
    assert "expected less than obstacle_high, got 5 and 3.5" in change(obstacle_low=5.0)
    assert "lava" in change(traversable_classes=["lava"])
    assert change(checkpoint="other") != ""  # only read
    assert node.parameters.obstacle_low == NodeParameters.obstacle_low
    assert node.parameters.checkpoint == str(checkpoint)


def test_changes_keep_everything_else():
    before = NodeParameters(cameras=("front",), slop=0.02)
    after = apply_changes(before, [Parameter("obstacle_low", value=0.5), Parameter("use_sim_time", value=True)])
    assert (after.obstacle_low, after.slop, after.cameras) == (0.5, 0.02, ("front",))
    with pytest.raises(ConfigError, match="obstacle_low"):
        apply_changes(before, [Parameter("obstacle_low", value=9.0)])


def costmap_file() -> tuple[dict, dict]:
    text = (Path(__file__).resolve().parents[2] / "config" / "ros" / "nav2_costmap.yaml").read_text()
    files = yaml.safe_load(text)
    return tuple(files[name][name]["ros__parameters"] for name in ("local_costmap", "global_costmap"))


def test_the_costmap_file_names_topics_that_the_node_has():
    local, glob = costmap_file()
    layer = local["voxel_layer"]
    topics = {layer[name]["topic"] for name in layer["observation_sources"].split()}
    assert "/occupancy_node/obstacles" in topics and "/occupancy_node/CAM_FRONT/clearing" in topics
    assert glob["static_layer"]["map_topic"] == "/occupancy_node/grid"
