# SPDX-License-Identifier: Apache-2.0
"""~/<camera>/depth and ~/<camera>/semantic over DDS: what the occupancy looks like from each camera."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image

from gaussianocc_core.labels import PALETTE
from gaussianocc_core.predictor import Prediction
from gaussianocc_ros.ros_compat import decode_image
from gaussianocc_ros.stamps import stamp_ns

MS = 1_000_000


def listen(rig, camera):
    topics = {
        f"{what}/{part}": rig.graph.record(kind, f"/occupancy_node/{camera}/{what}/{part}")
        for what in ("depth", "semantic")
        for part, kind in (("image_raw", Image), ("camera_info", CameraInfo))
    }
    names = [f"/occupancy_node/{camera}/{name}" for name in topics]
    rig.graph.until(lambda: all(rig.node.count_subscribers(name) for name in names), what="subscribers")
    return topics


def test_a_view_is_rendered_where_somebody_looks_at_its_own_image_time(rig, make, monkeypatch):
    rig = rig().start()
    rig.place()
    asked, predictor = [], rig.node._predictor
    inner = Prediction.render

    def render(prediction, names):
        views, depth, classes = inner(prediction, names)
        depth[:, :20] = 0.0  # random weights fill all of the view; a real one has sky
        asked.append((names, (views, depth, classes)))
        return views, depth, classes

    monkeypatch.setattr(Prediction, "render", render)
    rig.send(0)
    rig.outputs(1)
    rig.settled()  # else the first set's views are still to come, and somebody looks by then
    assert asked == []
    topics = listen(rig, "left")
    rig.send(100)
    rig.graph.until(lambda: all(topics.values()), what="views")
    (names, (views, depth, classes)) = asked[0]
    assert names == ("left",)
    for (message,) in topics.values():
        assert (stamp_ns(message.header), message.header.frame_id) == (make.START_NS + 105 * MS, "left")
    (image,), (semantic,) = topics["depth/image_raw"], topics["semantic/image_raw"]
    size = (predictor.config.image_height, predictor.config.image_width)
    assert (image.encoding, semantic.encoding) == ("32FC1", "mono8")
    assert (image.height, image.width) == (semantic.height, semantic.width) == size == depth.shape[1:]
    shown = np.frombuffer(image.data, np.float32).reshape(size)
    np.testing.assert_array_equal(np.isinf(shown), depth[0] == 0)
    np.testing.assert_array_equal(shown[depth[0] > 0], depth[0][depth[0] > 0])
    assert 0 < np.isinf(shown).mean() < 1
    np.testing.assert_array_equal(np.frombuffer(semantic.data, np.uint8).reshape(size), classes[0])
    (info,) = topics["depth/camera_info"]
    assert (info.width, info.height) == size[::-1]
    assert info.k[0] == pytest.approx(float(views.intrinsics[0, 0, 0]))
    # A point on the optical axis falls between the two middle pixels, which ROS counts from 0.
    assert (info.k[2], info.k[5]) == pytest.approx(((size[1] - 1) / 2, (size[0] - 1) / 2))
    assert "render ms" in rig.values()[0]


def test_colors_of_classes_instead_of_ids_can_be_asked_for_while_it_runs(rig):
    rig = rig().start()
    rig.place()
    topics = listen(rig, "front")
    (result,) = rig.node.set_parameters([Parameter("view_colors", value=True)])
    assert result.successful
    rig.send(0)
    (image,) = rig.graph.until(lambda: topics["semantic/image_raw"], what="a view")
    assert image.encoding == "rgb8"
    colors = {tuple(color) for color in decode_image(image)[0].reshape(-1, 3).tolist()}
    assert colors <= {tuple(color) for color in PALETTE.tolist()}


def test_cameras_whose_names_are_no_topics_get_some_all_the_same():
    from gaussianocc_ros.parameters import NodeParameters, topic_token

    names = [topic_token(name) for name in ("0", "front-left", "/x", "-")]
    assert names == ["camera_0", "front_left", "_x", "camera__"]
    NodeParameters(cameras=("0", "1"), image_topics=("/a", "/b"), camera_info_topics=("/c", "/d"))
