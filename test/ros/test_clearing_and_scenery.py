# SPDX-License-Identifier: Apache-2.0
"""~/<camera>/clearing, ~/filter_mask, ~/rig and ~/legend over DDS, from a node that predicts."""

import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from nav_msgs.msg import OccupancyGrid
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image, PointCloud2
from visualization_msgs.msg import Marker, MarkerArray

from gaussianocc_core.bags.messages import decode_cloud
from gaussianocc_core.labels import CLASS_ID, CLASS_NAMES, FREE, PALETTE, UNOBSERVED
from gaussianocc_core.navigation.filter_mask import make_mask
from gaussianocc_core.navigation.traversability import parse_values
from gaussianocc_core.types import OccupancyPrediction, VoxelGrid
from gaussianocc_ros import outputs as outputs_module
from gaussianocc_ros.ros_compat import decode_image
from gaussianocc_ros.stamps import stamp_ns

MS = 1_000_000
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def test_a_camera_clears_from_its_own_place_at_its_own_image_time_where_somebody_asks(rig, make, monkeypatch):
    rig = rig().start()
    rig.place()
    asked, inner = [], outputs_module.ClearingOutputs.publish

    def publish(self, gathered, prediction, rule):
        prediction.labels[:] = prediction.class_names.index("free")  # random weights find something everywhere
        asked.append(prediction)
        inner(self, gathered, prediction, rule)

    monkeypatch.setattr(outputs_module.ClearingOutputs, "publish", publish)
    rig.send(0)
    rig.outputs(1)
    clouds = {name: rig.graph.record(PointCloud2, f"/occupancy_node/{name}/clearing") for name in ("left", "front")}
    for name in clouds:
        rig.graph.until(lambda name=name: rig.node.count_subscribers(f"/occupancy_node/{name}/clearing"), what="it")
    rig.send(100)
    newest = make.START_NS + 105 * MS  # of the left camera's image
    rig.graph.until(lambda: any(stamp_ns(each.header) == newest for each in clouds["left"]), what="clearing")
    rig.graph.until(lambda: clouds["front"], what="that of the front camera")
    cloud = clouds["left"][-1]
    assert cloud.header.frame_id == "left" and clouds["front"][-1].header.frame_id == "front"
    assert [field.name for field in cloud.fields] == ["x", "y", "z"]
    points = decode_cloud(cloud)
    assert len(points) and (points["z"] > 0).all()  # before the camera: its own optical frame


def test_a_viewer_that_forgot_robot_and_legend_gets_them_again(rig, make, monkeypatch):
    """RViz does when a replay loops."""
    monkeypatch.setattr(outputs_module, "_SCENERY_PERIOD", 0.3)
    rig = rig().start()
    rig.place()
    markers = rig.graph.record(MarkerArray, "/occupancy_node/rig", LATCHED)
    legends = rig.graph.record(Image, "/occupancy_node/legend", LATCHED)
    rig.send(0)
    rig.graph.until(lambda: markers and legends, what="the first")
    time.sleep(0.3)
    rig.send(100)
    rig.graph.until(lambda: len(markers) == 2 and len(legends) == 2, what="the same again")
    assert markers[0] == markers[1] and legends[0] == legends[1]
    monkeypatch.setattr(outputs_module, "_SCENERY_PERIOD", 1e9)
    rig.send(900)  # not with every set
    rig.outputs(3)
    rig.graph.spin_for(0.1)
    assert len(markers) == len(legends) == 2
    rig.send(0)  # the replay loops
    rig.graph.until(lambda: len(markers) == 3 and len(legends) == 3, what="them at once")


def test_the_robot_and_the_legend_come_once_and_again_for_another_calibration(rig, make, monkeypatch):
    monkeypatch.setattr(outputs_module, "_SCENERY_PERIOD", 1e9)
    rig = rig().start()
    rig.place()
    rig.send(0)
    rig.outputs(1)
    rig.send(100)
    rig.outputs(2)
    markers = rig.graph.record(MarkerArray, "/occupancy_node/rig", LATCHED)
    legends = rig.graph.record(Image, "/occupancy_node/legend", LATCHED)
    rig.graph.until(lambda: markers and legends, what="latched messages")
    rig.send(200)
    rig.outputs(3)
    rig.graph.spin_for(0.2)
    assert len(markers) == 1
    for camera in make.CAMERAS:
        rig.info[camera].publish(make.camera_info(make.START_NS, camera, focal=30.0))
    rig.graph.until(lambda: rig.logged("calibration of right changed"), what="the change")
    rig.send(300, info=False)
    rig.graph.until(lambda: len(markers) == 2, what="the new frusta")
    wide, narrow = (next(m for m in array.markers if m.ns == "frusta").points[0] for array in markers[::-1])
    assert abs(wide.y) > 1.2 * abs(narrow.y)
    (array, _), (legend,) = markers, legends
    assert array.markers[0].action == Marker.DELETEALL
    by_name = {(each.ns, each.id): each for each in array.markers[1:]}
    assert sorted(each.text for each in by_name.values() if each.ns == "names") == ["front", "left", "right"]
    frusta = by_name["frusta", 0]
    assert len(frusta.points) == 3 * 16 and frusta.frame_locked and frusta.header.frame_id == "base_link"
    # FORWARD of conftest.py: the front camera's lens is an end of its edges.
    assert (1.0, 0.0, 1.5) in {(p.x, p.y, p.z) for p in frusta.points}
    lengths = [
        np.hypot(a.x - b.x, a.y - b.y)
        for a, b in zip(by_name["axes", 0].points[::2], by_name["axes", 0].points[1::2], strict=True)
    ]
    assert lengths[0] == pytest.approx(1.5)
    picture, _ = decode_image(legend)
    for name in CLASS_NAMES[:-1]:
        assert (picture == PALETTE[CLASS_ID[name]]).all(axis=-1).sum() > 100, name


GRID = VoxelGrid((-8.0, -8.0, -1.0), 0.5, (32, 32, 8))


def street():
    """A road with a sidewalk to its left; nobody sees within 2 m of the robot."""
    labels = np.full(GRID.shape, FREE, np.uint8)
    labels[:, :, 1] = CLASS_ID["driveable_surface"]
    labels[:, 20:, 1] = CLASS_ID["sidewalk"]  # y from 2 m
    labels[28, 8, 2:5] = CLASS_ID["pedestrian"]  # at x = 6.25, y = -3.75
    labels[28, 4, 7] = CLASS_ID["pedestrian"]  # on a bridge, 2.75 m high
    labels[12:20, 12:20] = UNOBSERVED
    return OccupancyPrediction(
        labels, np.ones(GRID.shape, np.float32), labels != UNOBSERVED, GRID, CLASS_NAMES, True, ("front",), "made up"
    )


def at(mask, x, y):
    return int(mask.cells[int((y - mask.origin[1]) / mask.resolution), int((x - mask.origin[0]) / mask.resolution)])


def test_a_mask_says_each_class_where_it_is_and_what_is_near_where_nobody_sees():
    mask = make_mask(street(), {"sidewalk": 30, "pedestrian": 20}, 2.0, np.eye(4))
    assert at(mask, 5.0, 4.0) == 30 and at(mask, 5.0, 0.0) == 0 and at(mask, 6.25, -3.75) == 20
    assert at(mask, 6.25, -5.75) == 0  # the robot passes under it
    assert at(mask, 0.0, 1.75) == 30 and at(mask, 0.0, -1.0) == 0  # of the nearest that was seen
    assert mask.cells.min() == 0  # a filter calls unknown cells an error
    on_it = np.eye(4)
    on_it[:3, 3] = (10.0, -4.0, 0.0)
    assert at(make_mask(street(), {"sidewalk": 30}, 2.0, on_it), 15.0, 0.0) == 30


def test_where_nothing_is_known_a_mask_asks_nothing():
    prediction = street()
    prediction.labels[:] = UNOBSERVED
    assert not make_mask(prediction, {"sidewalk": 30}, 2.0, np.eye(4)).cells.any()


@pytest.mark.parametrize("entries", [["sidewalk"], ["sidewalk=0"], ["sidewalk=101"], ["=5"], ["a=1", "a=2"], ["a=1.5"]])
def test_mask_values_that_mean_nothing_are_refused(entries):
    with pytest.raises(ValueError, match=r"class=value|twice"):
        parse_values(entries)


def test_the_node_offers_the_mask_in_the_fixed_frame(graph):
    from rclpy.lifecycle import LifecycleNode

    from gaussianocc_ros.parameters import NodeParameters

    node = graph.add(LifecycleNode("occupancy_node"))
    parameters = NodeParameters(cameras=("front",), mask_values=("sidewalk=30",))
    outputs = outputs_module.Outputs(node, parameters, lambda stamp: np.eye(4))
    node.trigger_configure()
    node.trigger_activate()
    masks = graph.record(OccupancyGrid, "/occupancy_node/filter_mask", LATCHED)
    graph.until(lambda: node.count_subscribers("/occupancy_node/filter_mask"), what="a subscription")
    outputs.publish(street(), 1_000)
    graph.until(lambda: masks, what="a mask")
    outputs.close()
    (mask,) = masks
    assert mask.header.frame_id == "odom" and set(mask.data) == {0, 30}
