# SPDX-License-Identifier: Apache-2.0
"""The live page: from topics to pixels, and nothing at all while nobody looks."""

import numpy as np
import pytest
from support.browser import Tab, browser, why_no_browser

from gaussianocc_core.errors import ConfigError

pytestmark = pytest.mark.ros
needs_browser = pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser())


@pytest.fixture
def viewer(graph):
    pytest.importorskip("viser", reason="viser is not installed; run `make setup`")
    from rclpy.parameter import Parameter

    from gaussianocc_ros.web_viewer import WebViewer

    options = [Parameter("port", value=0), Parameter("reliable", value=True), Parameter("viewers", value=2)]
    return graph.add(WebViewer(parameter_overrides=options))


@pytest.fixture
def topics(graph, make):
    """What a robot with a node publishes."""
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from sensor_msgs.msg import CameraInfo, CompressedImage
    from tf2_msgs.msg import TFMessage

    from gaussianocc_ros.msg import SemanticOccupancy

    latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    static = graph.publisher(TFMessage, "/tf_static", latched)
    static.publish(TFMessage(transforms=[make.transform("base_link", each, make.FORWARD) for each in make.CAMERAS]))
    return {
        "occupancy": graph.publisher(SemanticOccupancy, "/occupancy_node/occupancy"),
        "images": {c: graph.publisher(CompressedImage, f"/{c}/image_raw/compressed") for c in make.CAMERAS},
        "info": {c: graph.publisher(CameraInfo, f"/{c}/camera_info") for c in make.CAMERAS},
    }


def result(make, class_names, label):
    """A floor of this label, 80 x 80 m."""
    from gaussianocc_core.labels import free_label
    from gaussianocc_core.types import OccupancyPrediction, VoxelGrid
    from gaussianocc_ros.conversions import encode_occupancy

    grid = VoxelGrid()
    labels = np.full(grid.shape, free_label(class_names), dtype=np.uint8)
    labels[:, :, :3] = label
    confidence, seen = np.full(grid.shape, 0.8, np.float32), np.ones(grid.shape, bool)
    prediction = OccupancyPrediction(labels, confidence, seen, grid, class_names, True, make.CAMERAS, "by hand")
    return encode_occupancy(prediction, make.START_NS, "base_link")


def test_nothing_is_subscribed_to_while_nobody_looks(graph, viewer, topics):
    graph.spin_for(1.5)
    publishers = [topics["occupancy"], *topics["images"].values(), *topics["info"].values()]
    assert [each.get_subscription_count() for each in publishers] == [0] * len(publishers)
    assert not viewer.subscribes and viewer.page.host == "127.0.0.1"


@needs_browser
def test_a_browser_sees_what_the_node_publishes_and_its_leaving_ends_the_subscriptions(graph, make, viewer, topics):
    from gaussianocc_core.labels import CLASS_ID, CLASS_NAMES, ONE_CLASS

    def show(message):
        for name in make.CAMERAS:
            topics["info"][name].publish(make.camera_info(make.START_NS, name))
            topics["images"][name].publish(make.jpeg(make.START_NS, name))
        topics["occupancy"].publish(message)

    def seen(tab, condition, message):
        def step():
            show(message)
            graph.spin_for(0.4)
            return condition(tab)

        return graph.until(step, 90.0, "the picture")

    def magenta(tab):
        picture = tab.picture().astype(int)
        return ((picture[..., 0] > picture[..., 1] + 60) & (picture[..., 2] > picture[..., 1] + 60)).mean()

    with browser() as chromium:
        tab = Tab(chromium, viewer.page.url)
        graph.until(lambda: viewer.subscribes, what="a subscription")
        road = result(make, CLASS_NAMES, CLASS_ID["driveable_surface"])
        assert seen(tab, lambda t: magenta(t) > 0.2, road)
        assert "by hand" in tab.text() and "live, base_link" in tab.text()
        assert topics["images"]["left"].get_subscription_count() == 1
        # A model without classes: its only class is coloured by height, whatever Occ3D's class of that number is.
        assert seen(tab, lambda t: magenta(t) == 0 and "height" in t.text(), result(make, ONE_CLASS, 0))
        assert tab.errors == []
        tab.close()
    graph.until(lambda: not viewer.subscribes, what="the end of the subscriptions")
    graph.until(lambda: topics["occupancy"].get_subscription_count() == 0, what="no subscription")


@pytest.mark.parametrize(
    "name, value, complaint",
    [
        ("image_topic", "/front/image", "image_topic: expected a topic with {camera}"),
        ("image_topics", ["/a", "/b"], r"image_topics: expected one for each of cameras \(0\), got 2"),
        ("viewers", 0, "1 viewer or more"),
    ],
)
def test_a_wrong_parameter_is_refused_with_the_reason(ros, name, value, complaint):
    from rclpy.parameter import Parameter

    from gaussianocc_ros.web_viewer import WebViewer

    with pytest.raises(ConfigError, match=complaint):
        WebViewer(parameter_overrides=[Parameter(name, value=value)])


def test_names_that_a_stranger_sends_become_no_topics_and_no_crowd(graph, make, viewer):
    from gaussianocc_core.labels import CLASS_NAMES

    def with_cameras(*names):
        message = result(make, CLASS_NAMES, 4)
        message.cameras = list(names)
        return message

    viewer._on_occupancy(with_cameras("no topic"))
    viewer._on_occupancy(with_cameras("a/../b"))
    viewer._on_occupancy(with_cameras(*(f"made_up_{k}" for k in range(65))))
    assert not viewer.subscribes and viewer._rig is None
    viewer._on_occupancy(with_cameras("front"))
    before = len(viewer._subscribed)
    for k in range(3):
        viewer._on_occupancy(with_cameras("front", f"other_{k}"))
    assert len(viewer._subscribed) == before + 3 * 2  # an image and a calibration of each new one


def test_topics_that_fit_no_pattern_are_listed_as_the_node_has_them(graph, make):
    pytest.importorskip("viser", reason="viser is not installed; run `make setup`")
    from rclpy.parameter import Parameter
    from sensor_msgs.msg import CameraInfo, Image

    from gaussianocc_core.labels import CLASS_NAMES
    from gaussianocc_ros.web_viewer import WebViewer

    values = {
        "port": 0,
        "cameras": ["front", "left"],
        "image_topics": ["/driver_1/picture", "/driver_2/picture"],
        "camera_info_topics": ["/driver_1/lens", "/driver_2/lens"],
    }
    viewer = graph.add(WebViewer(parameter_overrides=[Parameter(name, value=value) for name, value in values.items()]))
    publishers = [graph.publisher(Image, f"/driver_{k}/picture") for k in (1, 2)]
    publishers += [graph.publisher(CameraInfo, f"/driver_{k}/lens") for k in (1, 2)]
    message = result(make, CLASS_NAMES, 4)
    message.cameras = ["front", "left"]
    viewer._on_occupancy(message)
    graph.until(lambda: all(each.get_subscription_count() for each in publishers), what="subscriptions")
