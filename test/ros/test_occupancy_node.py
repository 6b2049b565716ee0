# SPDX-License-Identifier: Apache-2.0
"""The node over DDS: what comes out, and what it says when something is missing. No mocks."""

import json
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image, PointCloud2
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from gaussianocc_core.bags.messages import decode_cloud
from gaussianocc_core.errors import ConfigError
from gaussianocc_core.geometry.voxels import unflatten
from gaussianocc_ros.stamps import stamp_ns

MS = 1_000_000
LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
PERIOD_MS = 100


def test_one_set_gives_one_output_with_the_anchor_stamp_and_the_ego_frame(rig, make):
    rig = rig(markers_exposed_only=False, markers_most=0).start()
    rig.place()
    points = rig.graph.record(PointCloud2, "/occupancy_node/points")
    markers = rig.graph.record(MarkerArray, "/occupancy_node/markers")
    topics = ("/occupancy_node/points", "/occupancy_node/markers")
    rig.graph.until(lambda: all(rig.node.count_subscribers(topic) for topic in topics), what="subscribers")
    rig.send(0)
    (message,) = rig.outputs(1)
    rig.graph.until(lambda: points and markers, what="points and markers")
    assert stamp_ns(message.header) == make.START_NS
    assert message.header.frame_id == "base_link"
    assert list(message.cameras) == list(make.CAMERAS)
    assert message.model == "wiring"
    assert (message.size_x, message.size_y, message.size_z) == (16, 16, 4)
    assert len(message.labels) == len(message.confidence) == 16 * 16 * 4
    assert (message.origin.position.x, message.voxel_size.x) == (-8.0, 1.0)

    labels = unflatten(message.labels, (16, 16, 4))
    # All cameras look forward from x = 1: behind them nothing is observed, ahead something is.
    assert (labels[:8] == 255).all()
    assert (labels[12:, 6:10, 1:3] != 255).any()

    occupied = labels[(labels != 255) & (labels != message.free_label)]
    (cloud,), ((marker,),) = points, [found.markers for found in markers]
    assert cloud.width == len(marker.points) == len(occupied)
    for other in (cloud, marker):
        assert stamp_ns(other.header) == make.START_NS
        assert other.header.frame_id == "base_link"
    place = decode_cloud(cloud)
    index = np.stack([place["x"] + 8.0, place["y"] + 8.0, place["z"] + 1.0], axis=-1) - 0.5
    assert (labels[tuple(index.astype(int).T)] == place["label"]).all()


def test_each_complete_set_of_a_stream_gives_one_output(rig, make):
    rig = rig().start()
    rig.place()
    for i in range(4):
        rig.send(i * PERIOD_MS)
        rig.outputs(i + 1)
    assert [stamp_ns(m.header) for m in rig.occupancy] == [make.START_NS + i * PERIOD_MS * MS for i in range(4)]
    values, status = rig.values()
    assert values["sets"] == "4"
    assert float(values["predict ms"]) > 0
    assert status.message == "publishing"


def test_raw_images_work_as_compressed_ones_do(rig, make):
    rig = rig(kind=Image).start()
    rig.place()
    for i, camera in enumerate(make.CAMERAS):
        stamp = make.START_NS + 5 * i * MS
        message = Image(header=make.header(stamp, camera), width=make.WIDTH, height=make.HEIGHT, encoding="bgr8")
        message.step = make.WIDTH * 3
        message.data = bytes(message.step * make.HEIGHT)
        rig.info[camera].publish(make.camera_info(stamp, camera))
        rig.image[camera].publish(message)
    rig.outputs(1)


def test_missing_camera_publishes_nothing_and_is_named(rig):
    rig = rig().start()
    rig.place()
    sent = iter(range(10_000))

    def is_named():
        rig.send(next(sent) * PERIOD_MS, cameras=("front", "right"))
        rig.graph.spin_for(0.1)
        return rig.logged("left: no image on /left/image_raw/compressed")

    rig.graph.until(is_named, what="a warning")
    assert rig.occupancy == []
    rig.graph.until(lambda: rig.diagnosed("left: no image on"), what="a diagnostic")
    assert rig.diagnosed("left: no image on")[0].level == DiagnosticStatus.WARN


def test_undecodable_image_drops_its_set_with_a_reason_and_the_next_one_passes(rig, make):
    rig = rig().start()
    rig.place()
    rig.send(0, left=b"\xff\xd8 not a picture")
    rig.graph.until(lambda: rig.logged("camera left: image cannot be decoded: the JPEG is truncated"), what="a warning")
    rig.send(PERIOD_MS)
    (message,) = rig.outputs(1)
    assert stamp_ns(message.header) == make.START_NS + PERIOD_MS * MS
    assert rig.values()[0]["dropped: undecodable image"] == "1"


def as_on_a_robot(make):
    """Short timeouts count, which they do not in a lossless replay, and the test loses no image."""
    return {"reliable": False, "reliable_cameras": list(make.CAMERAS)}


def test_set_without_camera_info_is_dropped_until_it_comes(rig, make):
    rig = rig(calibration_timeout=0.2, **as_on_a_robot(make)).start()
    rig.place()
    rig.send(0, info=False)
    rig.graph.until(lambda: rig.logged("camera front: no CameraInfo yet"), what="a warning")
    rig.send(PERIOD_MS)
    rig.outputs(1)
    assert rig.values()[0]["dropped: no CameraInfo"] == "1"


def test_a_lossless_replay_waits_for_calibration_that_dds_repairs_after_seconds(rig, make):
    rig = rig(calibration_timeout=0.0).start()
    rig.place()
    rig.send(0, info=False)
    sent = time.monotonic()
    rig.graph.until(lambda: time.monotonic() - sent > 1.0, what="a second")
    for camera in make.CAMERAS:
        rig.info[camera].publish(make.camera_info(make.START_NS, camera))
    rig.outputs(1)
    assert "dropped: no CameraInfo" not in rig.values()[0]


def test_camera_without_tf_is_never_assumed_at_the_origin(rig, make):
    rig = rig(calibration_timeout=0.2, **as_on_a_robot(make)).start()
    rig.place(("front", "left"))
    rig.send(0)
    rig.graph.until(lambda: rig.logged("camera right: TF does not connect base_link and right"), what="a warning")
    assert rig.occupancy == []
    rig.place(("right",))
    rig.send(PERIOD_MS)
    rig.outputs(1)


def test_image_whose_size_contradicts_its_calibration_is_dropped(rig, make):
    import cv2

    rig = rig().start()
    rig.place()
    rig.send(0, left=cv2.imencode(".jpg", np.zeros((20, 30, 3), np.uint8))[1].tobytes())
    rig.graph.until(lambda: rig.logged("camera left: image is 30x20, its calibration 96x64"), what="a warning")
    assert rig.occupancy == []


def test_images_too_far_apart_form_no_set(rig):
    rig = rig(slop=0.004).start()
    rig.place()
    for i in range(4):
        rig.send(i * PERIOD_MS)
    rig.graph.until(lambda: int(rig.node._builder.statistics.dropped["incomplete"]) >= 2, what="incomplete sets")
    assert rig.occupancy == []
    assert rig.values()[0]["incomplete without left"] >= "2"


def test_images_come_in_while_the_network_is_busy_and_the_newest_set_wins(rig, make):
    import threading

    rig = rig(reliable=False).start()
    rig.place()
    entered, release, inner = threading.Event(), threading.Event(), rig.node._inference.predictor.model.decide_from

    def slow(*arguments):
        entered.set()
        release.wait(20)
        return inner(*arguments)

    rig.node._inference.predictor.model.decide_from = slow
    received = rig.node._builder.statistics.received
    for i in range(5):
        rig.send(i * PERIOD_MS)
        rig.graph.until(lambda count=i + 1: all(received[c] == count for c in make.CAMERAS), what="images")
        rig.graph.until(entered.is_set, what="the first set in work")
    assert rig.occupancy == []
    release.set()
    rig.outputs(2)
    rig.graph.until(lambda: rig.node._inference.is_idle, what="the last set")
    assert rig.values()[0]["sets"] == "2"
    assert [stamp_ns(m.header) - make.START_NS for m in rig.occupancy] == [0, 4 * PERIOD_MS * MS]
    assert rig.values()[0]["dropped: superseded"] == "3"


def test_bag_that_starts_over_goes_on_giving_outputs(rig, make):
    rig = rig().start()
    rig.place()
    for ms in (0, 1000, 2000, 0, 1000):
        count = len(rig.occupancy)
        rig.send(ms)
        rig.outputs(count + 1)
    assert [(stamp_ns(m.header) - make.START_NS) // MS for m in rig.occupancy] == [0, 1000, 2000, 0, 1000]
    rig.graph.until(lambda: rig.logged("stamps stepped back, as when a recording loops"), what="a warning")


def test_rig_file_replaces_camera_info_and_tf(rig, tmp_path, make):
    entry = {
        "width": make.WIDTH,
        "height": make.HEIGHT,
        "intrinsics": [60.0, 60.0, 48.0, 32.0],
        "translation": [1.0, 0.0, 1.5],
        "rotation": [0.5, -0.5, 0.5, -0.5],
    }
    path = tmp_path / "rig.yaml"
    path.write_text(json.dumps({"cameras": dict.fromkeys(make.CAMERAS, entry)}))  # JSON is YAML
    rig = rig(rig_file=str(path))
    assert rig.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert rig.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    rig.graph.until(lambda: all(p.get_subscription_count() for p in rig.image.values()), what="subscriptions")
    rig.graph.until(lambda: rig.graph.probe.count_publishers("/occupancy_node/occupancy"), what="publisher")
    rig.send(0, info=False)
    rig.outputs(1)


def test_inactive_node_takes_no_images_and_can_be_activated_again(rig):
    rig = rig().start()
    rig.place()
    assert rig.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    rig.graph.until(lambda: not any(p.get_subscription_count() for p in rig.image.values()), what="unsubscription")
    rig.send(0)
    assert rig.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    rig.graph.until(lambda: all(p.get_subscription_count() for p in rig.image.values()), what="subscriptions")
    rig.send(PERIOD_MS)
    rig.outputs(1)
    assert rig.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert rig.node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    assert rig.node.trigger_configure() == TransitionCallbackReturn.SUCCESS


def test_broken_checkpoint_fails_at_configure_with_one_line(rig, tmp_path):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(b"no weights")
    rig = rig(checkpoint=str(path))
    assert rig.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert rig.node.failure.startswith(f"{path}: not a readable .safetensors file")
    assert "\n" not in rig.node.failure


def test_configure_that_fails_half_way_leaves_nothing_behind(rig, monkeypatch):
    from gaussianocc_ros import occupancy_node

    def broken(*arguments):
        raise ConfigError("the outputs cannot be made")

    rig = rig()
    idle = len(list(rig.node.subscriptions))
    with monkeypatch.context() as patch:
        patch.setattr(occupancy_node, "Outputs", broken)
        for _ in range(2):
            assert rig.node.trigger_configure() == TransitionCallbackReturn.FAILURE
            assert rig.node.failure == "the outputs cannot be made"
            assert len(list(rig.node.subscriptions)) == idle
    assert rig.node.trigger_configure() == TransitionCallbackReturn.SUCCESS


@pytest.mark.medium
@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (("-p", "checkpoint:={broken}"), r"broken.safetensors: not a readable .safetensors file"),
        (("-p", "slop:=9.0"), r"parameter slop: .*range"),
        (("-p", "mask_dir:=/nowhere"), r"parameter mask_dir: no folder '/nowhere'"),
        (("-p", "device:=abacus"), r"parameter device: expected auto"),
    ],
)
def test_bad_start_up_state_ends_the_process_with_one_line_and_status_2(spawn, tmp_path, arguments, complaint):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights")
    arguments = [argument.format(broken=broken) for argument in arguments]
    process = spawn("-m", "gaussianocc_ros.occupancy_node", "--ros-args", "-p", "cameras:=[front]", *arguments)
    assert process.wait(60) == 2
    process.wait_for(complaint)
    assert "Traceback" not in process.output
    assert len(process.output.strip().splitlines()) == 1


@pytest.mark.medium
@pytest.mark.parametrize("arguments", [("-p", "slop"), ("--params-file", "/nowhere.yaml")])
def test_ros_arguments_that_cannot_be_read_end_with_status_2_and_no_traceback(spawn, arguments):
    process = spawn("-m", "gaussianocc_ros.occupancy_node", "--ros-args", *arguments)
    assert process.wait(60) == 2
    assert "occupancy_node: ROS arguments" in process.output and "Traceback" not in process.output


def test_with_degrade_a_camera_that_dies_or_sends_rubbish_takes_only_its_own_view_along(rig, make):
    rig = rig(sync_policy="degrade", patience=0.05).start()
    rig.place()
    rig.send(0)
    assert list(rig.outputs(1)[0].cameras) == list(make.CAMERAS)
    alive = make.CAMERAS[:2]
    for n in range(1, 4):
        rig.send(n * PERIOD_MS, cameras=alive)
    messages = rig.outputs(3)  # the last one still waits for what may come
    assert [list(message.cameras) for message in messages[1:3]] == [list(alive)] * 2
    stamps = [stamp_ns(message.header) - make.START_NS for message in messages[1:3]]
    assert stamps == [PERIOD_MS * MS, 2 * PERIOD_MS * MS]
    rig.send(4 * PERIOD_MS)
    rig.send(5 * PERIOD_MS, **{make.CAMERAS[1]: b"\xff\xd8 no picture"})
    last = rig.outputs(6)[-1]
    assert list(last.cameras) == [make.CAMERAS[0], make.CAMERAS[2]]
    values, _ = rig.values()
    assert values["sets without all cameras"] == "3" and values["images left out: undecodable image"] == "1"
    assert rig.logged(f"predicting without {make.CAMERAS[2]}")


def test_masks_of_the_robot_take_their_part_of_the_view(rig, make, tmp_path):
    import cv2

    for camera in make.CAMERAS:
        cv2.imwrite(str(tmp_path / f"{camera}_mask.png"), np.full((make.HEIGHT, make.WIDTH), 255, np.uint8))
    seen = []
    for dark in (False, True):
        if dark:  # all cameras look the same way: what none may see is unobserved
            for camera in make.CAMERAS:
                mask = np.full((make.HEIGHT, make.WIDTH), 255, np.uint8)
                mask[:, : make.WIDTH // 2] = 0
                cv2.imwrite(str(tmp_path / f"{camera}_mask.png"), mask)
        one = rig(mask_dir=str(tmp_path)).start()
        one.place()
        one.send(0)
        labels = unflatten(one.outputs(1)[0].labels, (16, 16, 4))
        seen.append(labels != 255)
        one.node.trigger_deactivate()
        one.node.trigger_cleanup()
        one.graph.received.clear()
    left = seen[0] & ~seen[1]
    assert left[:, 8:].sum() > 0.9 * left.sum() and left.sum() > 0.3 * seen[0].sum()


def test_a_folder_without_a_cameras_mask_fails_at_configure(rig, tmp_path):
    one = rig(mask_dir=str(tmp_path))
    assert one.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert "_mask.png does not exist" in one.node.failure


def test_with_degrade_a_camera_without_calibration_or_of_another_size_is_left_out(rig, make):
    import cv2

    rig = rig(sync_policy="degrade", patience=0.05, calibration_timeout=0.3, **as_on_a_robot(make)).start()
    rig.place(make.CAMERAS[:2])  # the third has no place in TF
    rig.send(0)
    assert list(rig.outputs(1)[0].cameras) == list(make.CAMERAS[:2])
    other = cv2.imencode(".jpg", np.zeros((make.HEIGHT // 2, make.WIDTH, 3), np.uint8))[1].tobytes()
    rig.send(PERIOD_MS, **{make.CAMERAS[1]: other})
    assert list(rig.outputs(2)[1].cameras) == [make.CAMERAS[0]]
    values, _ = rig.values()
    assert values["images left out: no TF"] == "2" and values["images left out: image size"] == "1"


def test_cameras_whose_topics_have_no_pattern_are_named_one_by_one(rig, make):
    topics = [f"/{camera}/image_raw/compressed" for camera in make.CAMERAS]
    rig = rig(image_topic="/none", image_topics=topics).start()
    rig.place()
    rig.send(0)
    assert list(rig.outputs(1)[0].cameras) == list(make.CAMERAS)


def test_a_dead_anchor_is_replaced_under_degrade_and_takes_over_again(rig, make):
    rig = rig(sync_policy="degrade").start()
    rig.place()
    received = rig.node._builder.statistics.received
    for i in range(30):
        rig.send(i * PERIOD_MS, cameras=("left", "right") if 5 <= i < 24 else None)
        rig.graph.until(lambda count=i + 1: received["right"] == count, what="images")
        rig.graph.until(lambda: rig.node._inference.is_idle, what="the results")
    last = make.START_NS + 29 * PERIOD_MS * MS
    rig.graph.until(lambda: [m for m in rig.occupancy if stamp_ns(m.header) == last], what="the last result")
    assert "front" in rig.occupancy[-1].cameras
    without = [m for m in rig.occupancy if "front" not in m.cameras]
    assert len(without) >= 7
    assert {(stamp_ns(m.header) - make.START_NS) // MS % PERIOD_MS for m in without} == {5}  # the left camera's
    stamps = [stamp_ns(m.header) for m in rig.occupancy]
    assert stamps == sorted(stamps)
    assert int(rig.values()[0]["sets without the anchor"]) == len(without)


def test_classes_can_be_hidden_from_points_and_markers_while_it_runs(rig, make):
    rig = rig(markers_exposed_only=False, markers_most=0).start()
    rig.place()
    points = rig.graph.record(PointCloud2, "/occupancy_node/points")
    rig.graph.until(lambda: rig.node.count_subscribers("/occupancy_node/points"), what="a subscriber")
    rig.send(0)
    (cloud,) = rig.graph.until(lambda: points, what="points")
    (message,) = rig.outputs(1)
    present = np.unique(decode_cloud(cloud)["label"])
    hidden = message.class_names[present[0]]
    (refused,) = rig.node.set_parameters([Parameter("hidden_classes", value=["unicorn"])])
    assert not refused.successful and "hidden_classes: unicorn" in refused.reason
    (accepted,) = rig.node.set_parameters([Parameter("hidden_classes", value=[hidden])])
    assert accepted.successful
    rig.send(PERIOD_MS)
    rig.graph.until(lambda: len(points) == 2, what="points")
    assert set(np.unique(decode_cloud(points[1])["label"])) == set(present[1:])
    assert present[0] in set(rig.outputs(2)[1].labels)  # hidden from view, not from ~/occupancy


def test_more_caution_finds_more_from_the_next_set_on(rig):
    rig = rig().start()
    rig.place()

    def occupied(message) -> int:
        return int((np.asarray(message.labels) < message.free_label).sum())

    rig.send(0)
    rig.graph.until(lambda: rig.occupancy, what="an occupancy")
    (refused,) = rig.node.set_parameters([Parameter("caution", value=1.5)])
    assert not refused.successful
    (accepted,) = rig.node.set_parameters([Parameter("caution", value=0.99)])
    assert accepted.successful
    rig.send(PERIOD_MS)
    rig.graph.until(lambda: len(rig.occupancy) == 2, what="another one")
    assert occupied(rig.occupancy[1]) > occupied(rig.occupancy[0])
    (accepted,) = rig.node.set_parameters([Parameter("caution", value=0.0)])
    rig.send(2 * PERIOD_MS)
    rig.graph.until(lambda: len(rig.occupancy) == 3, what="a third")
    assert accepted.successful and occupied(rig.occupancy[2]) < occupied(rig.occupancy[1])


def test_with_fusion_results_of_a_moment_add_up_in_the_odometry_frame_until_reset(rig, make):
    from std_srvs.srv import Empty

    rig = rig(fusion=True, fusion_decay=0.0).start()
    rig.place()
    rig.motion.publish(TFMessage(transforms=[make.transform("odom", "base_link", make.translation(x=0.0))]))
    later = make.START_NS + 1000 * MS
    rig.motion.publish(TFMessage(transforms=[make.transform("odom", "base_link", make.translation(x=4.0), later)]))
    rig.send(0)
    rig.outputs(1)
    rig.send(500)  # 2 m farther on, and so two voxels
    rig.outputs(2)
    first, second = (unflatten(message.labels, (16, 16, 4)) for message in rig.occupancy)
    assert ((second != 255)[:-2] | (first == 255)[2:]).all()  # what the first set saw is still known, two voxels back
    assert (second != 255).sum() > (first != 255).sum()
    assert "fuse ms" in rig.values()[0]
    client = rig.graph.probe.create_client(Empty, "/occupancy_node/reset")
    rig.graph.until(client.service_is_ready, what="the service")
    answer = client.call_async(Empty.Request())
    rig.graph.until(answer.done, what="an answer")
    rig.send(600)
    (*_, third) = rig.outputs(3)
    assert (np.array(third.labels) != 255).sum() == (first != 255).sum()
    rig.send(0)  # a recording that loops
    (*_, fourth) = rig.outputs(4)
    assert (np.array(fourth.labels) != 255).sum() == (first != 255).sum()
    far = make.START_NS + 2000 * MS
    for ns in (far, far + 50 * MS):
        rig.motion.publish(TFMessage(transforms=[make.transform("odom", "base_link", make.translation(x=500.0), ns)]))
    rig.send(2010)
    (*_, fifth) = rig.outputs(5)
    assert (np.array(fifth.labels) != 255).sum() == (first != 255).sum()
    rig.graph.until(lambda: rig.logged("odometry jumped: what was seen before is forgotten"), what="a warning")


def test_without_odometry_a_set_is_published_unfused_and_said(rig, make):
    rig = rig(fusion=True, odometry_timeout=0.0, **as_on_a_robot(make)).start()
    rig.place()
    rig.send(0)
    rig.outputs(1)
    rig.graph.until(lambda: rig.logged("not fused: TF has no odom <- base_link"), what="a warning")


# ---- parameters in its life ----------------------------------------------------------------------------------------


def test_every_parameter_can_be_set_before_configure_and_after_cleanup(rig, make):
    rig = rig(slop=0.02)
    (result,) = rig.node.set_parameters([Parameter("slop", value=0.03)])
    assert result.successful
    rig.node.trigger_configure()
    assert rig.node.parameters.slop == 0.03
    results = rig.node.set_parameters([Parameter("slop", value=0.04), Parameter("slop", value=0.03)])
    assert [result.successful for result in results] == [False, True]  # what it is already is no change
    assert results[0].reason == (
        "parameter slop: takes effect at configure, not while inactive; first "
        "`ros2 lifecycle set /occupancy_node cleanup`"
    )
    rig.node.trigger_activate()
    assert "not while active" in rig.node.set_parameters([Parameter("fusion", value=True)])[0].reason
    rig.node.trigger_deactivate()
    rig.node.trigger_cleanup()
    # in any order: that each fits the others is checked when all are there
    for name, value in (("anchor_camera", "left"), ("cameras", ["left", "right"])):
        assert rig.node.set_parameters([Parameter(name, value=value)])[0].successful
    assert not rig.node.set_parameters([Parameter("sync_policy", value="sometimes")])[0].successful
    assert rig.node.trigger_configure() == rig.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    assert (rig.node.parameters.anchor, rig.node.parameters.camera_names) == ("left", ("left", "right"))


def test_a_node_that_a_manager_starts_may_get_its_cameras_later(rig, make, graph):
    rig = rig(autostart=False, cameras=[""])
    assert rig.logged("set it before configure")
    assert rig.node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert rig.node.set_parameters([Parameter("cameras", value=list(make.CAMERAS))])[0].successful
    rig.start().place()
    rig.send(0)
    rig.outputs(1)


@pytest.mark.parametrize("kind", ["BOOL_ARRAY", "STRING_ARRAY", "BYTE_ARRAY"])
def test_a_list_is_emptied_as_ros2_param_sends_it(rig, kind):
    """`ros2 param set NODE hidden_classes "[]"` sends an empty list of bools: nothing says of what it is empty."""
    rig = rig(hidden_classes=["car"]).start()
    (result,) = rig.node.set_parameters([Parameter("hidden_classes", getattr(Parameter.Type, kind), [])])
    assert result.successful and rig.node.parameters.hidden_classes == ()
    (result,) = rig.node.set_parameters([Parameter("hidden_classes", value=[True])])
    assert not result.successful and "parameter hidden_classes: expected a list of text" in result.reason
    assert rig.node.set_parameters([Parameter("hidden_classes", value=["car"])])[0].successful
    assert rig.node.parameters.hidden_classes == ("car",)


@pytest.mark.parametrize("device", ["onnx", "openvino"])
def test_the_node_publishes_the_same_whatever_runs_its_networks(rig, make, device):
    pytest.importorskip("onnx", reason="no onnx: nothing can be exported")
    pytest.importorskip({"onnx": "onnxruntime"}.get(device, device), reason="not installed")
    published = {}
    for name, runs in (("first", "cpu"), ("second", device)):
        robot = rig(device=runs, namespace=name, arguments=("-r", "/tf:=tf", "-r", "/tf_static:=tf_static")).start()
        robot.place()
        for i in range(2):
            robot.send(i * PERIOD_MS)
            robot.outputs(i + 1)
        published[runs] = [np.array(message.labels) for message in robot.occupancy]
    assert robot.node._predictor.backend_name == f"{device} in fp32"
    robot.graph.until(
        lambda: any(status.hardware_id == f"{device} in fp32" for each in robot.diagnostics for status in each.status),
        what="a diagnostic that says what runs the networks",
    )
    for before, after in zip(published["cpu"], published[device], strict=True):
        assert (before == after).mean() > 0.99 and len(np.unique(before)) > 1
