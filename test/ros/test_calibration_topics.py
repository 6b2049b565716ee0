# SPDX-License-Identifier: Apache-2.0
"""CameraInfo as drivers publish it: with each image, once and latched, or anew when somebody calibrates."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo

LATCHED_ONCE = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def test_calibration_that_was_published_once_before_the_node_was_there_is_used(rig, make, graph):
    """Latched, as a driver does it whose camera never changes."""
    rig = rig()
    infos = {c: graph.publisher(CameraInfo, f"/{c}/camera_info", LATCHED_ONCE) for c in make.CAMERAS}
    for camera, publisher in infos.items():
        graph.probe.destroy_publisher(rig.info.pop(camera))
        publisher.publish(make.camera_info(make.START_NS, camera))
    graph.spin_for(0.5)  # long before
    rig.start()
    rig.place()
    graph.until(lambda: not rig.node._rig.uncalibrated, what="the calibrations")
    rig.send(0, info=False)
    assert len(rig.outputs(1)) == 1


def test_no_driver_is_asked_for_what_it_does_not_offer(rig, make, graph, capfd):
    """A subscription that wants latched messages makes each driver that keeps none log a warning."""
    rig = rig().start()
    rig.place()
    graph.spin_for(1.5)
    rig.send(0)
    rig.outputs(1)
    assert not rig.logged("incompatible QoS")
    assert all(publisher.get_subscription_count() == 1 for publisher in rig.info.values())


@pytest.mark.parametrize("latched", [False, True])
def test_a_calibration_that_changes_while_it_runs_is_used_from_the_next_set_on(rig, make, graph, latched):
    rig = rig()
    if latched:
        for camera in make.CAMERAS:
            graph.probe.destroy_publisher(rig.info[camera])
            rig.info[camera] = graph.publisher(CameraInfo, f"/{camera}/camera_info", LATCHED_ONCE)
    rig.start()
    rig.place()
    rig.send(0)
    rig.outputs(1)
    for camera in make.CAMERAS:
        rig.info[camera].publish(make.camera_info(make.START_NS, camera, focal=30.0))
    graph.until(lambda: rig.logged("calibration of right changed; the new one is in use"), what="the change")
    rig.send(100, info=False)
    (first, second) = rig.outputs(2)
    seen = [np.frombuffer(bytes(m.labels), np.uint8) != 255 for m in (first, second)]
    assert seen[1].sum() > 1.2 * seen[0].sum()  # half the focal length sees more
