# SPDX-License-Identifier: Apache-2.0
"""/diagnostics over DDS: how bad it is, why, and which camera it is."""

import pytest

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.parameter import Parameter
from support.node_rig import MS

PERIOD_MS = 100


def now_ms(rig):
    """What `send` takes so that stamps are of now."""
    return (rig.node.get_clock().now().nanoseconds - rig.make.START_NS) // MS


def camera_status(rig, camera):
    rig.values()
    (status,) = (each for each in rig.diagnostics[-1].status if each.name.endswith(f"camera {camera}"))
    return status, {item.key: item.value for item in status.values}


def test_a_camera_that_many_sets_lack_is_named_with_its_rate_and_delay(rig):
    rig = rig(sync_policy="degrade").start()
    rig.place()
    for i in range(24):
        rig.send(now_ms(rig), cameras=None if i % 3 == 0 else ("front", "left"))
        rig.graph.spin_for(0.05)  # the cameras' period
    received = rig.node._builder.statistics.received
    rig.graph.until(lambda: [received[c] for c in ("front", "left", "right")] == [24, 24, 8], what="all images")
    found = rig.graph.until(lambda: rig.diagnosed("right was missing in"), what="a diagnostic")
    assert found[0].level == DiagnosticStatus.WARN
    assert "ms after their stamps, others after" in found[0].message
    status, values = camera_status(rig, "right")
    assert (status.level, values["images"]) == (DiagnosticStatus.WARN, "8")
    assert float(values["images per second"]) > 1 and int(values["sets without it"]) > 5
    status, values = camera_status(rig, "front")
    assert (status.level, values["images"], values["sets without it"]) == (DiagnosticStatus.OK, "24", "0")


def test_without_a_result_for_too_long_it_is_an_error_that_says_why(rig):
    rig = rig(error_age=1.5).start()
    rig.graph.until(lambda: rig.diagnosed("no result for"), what="a diagnostic")
    (status, *_) = rig.diagnosed("no result for")
    assert status.level == DiagnosticStatus.ERROR
    rig.place()
    rig.send(0)
    rig.outputs(1)
    rig.graph.until(lambda: rig.values()[1].level == DiagnosticStatus.OK, what="all well again")
    rig.graph.until(lambda: rig.diagnosed("no image from any camera"), what="silence")
    worst = rig.graph.until(
        lambda: [s for s in rig.diagnosed("no image from any") if s.message.startswith("no result")]
    )
    assert worst[0].level == DiagnosticStatus.ERROR and "/front/image_raw/compressed" in worst[0].message


def test_old_results_are_said_at_the_thresholds_that_hold_now(rig):
    rig = rig(warn_age=0.0).start()
    rig.place()
    rig.send(now_ms(rig) - 2000)
    rig.outputs(1)
    values, status = rig.values()
    assert status.level == DiagnosticStatus.OK and 2000 < float(values["age ms"]) < 60_000
    assert float(values["memory MB"]) > 50 and values["sync success %"] == "100.0"
    (changed,) = rig.node.set_parameters([Parameter("warn_age", value=1.0)])
    assert changed.successful
    found = rig.graph.until(lambda: rig.diagnosed("results are 2."), what="a diagnostic")
    assert found[0].level == DiagnosticStatus.WARN and "images arrive 2." in found[0].message
    rig.node.set_parameters([Parameter("error_age", value=1.9)])
    rig.send(now_ms(rig) - 2000)
    rig.graph.until(lambda: rig.diagnosed("results are 2.")[-1].level == DiagnosticStatus.ERROR, what="an error")
    (refused,) = rig.node.set_parameters([Parameter("error_age", value=-1.0)])
    assert not refused.successful


def test_fewer_results_than_wanted_are_said(rig):
    rig = rig(least_rate=500.0).start()
    rig.place()
    for i in range(3):
        rig.send(i * PERIOD_MS)
        rig.outputs(i + 1)
    found = rig.graph.until(lambda: rig.diagnosed("least_rate is 500"), what="a diagnostic")
    assert found[0].level == DiagnosticStatus.WARN


def test_what_is_not_a_number_is_an_error_by_name_and_nothing_is_published_for_it(rig):
    """Weights that break while the node runs (a GPU's memory, a bit): all of the world must not become free."""
    import torch

    rig = rig().start()
    rig.place()
    rig.send(0)
    rig.outputs(1)
    (bias,) = (p for n, p in rig.node._predictor.model.named_parameters() if n == "voxel_decoder.head.2.1.bias")
    whole = bias.detach().clone()
    with torch.inference_mode():
        bias.fill_(float("nan"))
    rig.send(PERIOD_MS)
    found = rig.graph.until(lambda: rig.diagnosed("not a number: logits"), what="a diagnostic")
    assert found[0].level == DiagnosticStatus.ERROR
    rig.graph.spin_for(0.5)
    assert len(rig.outputs(1)) == 1
    with torch.inference_mode():
        bias.copy_(whole)
    rig.send(2 * PERIOD_MS)
    assert len(rig.outputs(2)) == 2
    rig.graph.until(lambda: rig.values()[1].level == DiagnosticStatus.OK, what="all well again")
    assert rig.node._reporter.statistics.drops["not a number"] == 1


# ---- the images themselves -----------------------------------------------------------------------------------------


def textured(rng, sigma=0.0, level=1.0):
    """A JPEG of rectangles, as large as the rig's images."""
    import cv2
    import numpy as np

    pixels = np.full((64, 96), 120, np.uint8)
    for _ in range(60):
        x, y, w, h = rng.integers(0, (96, 64, 24, 24))
        pixels[y : y + h + 2, x : x + w + 2] = rng.integers(20, 235)
    if sigma:
        pixels = cv2.GaussianBlur(pixels, (0, 0), sigma)
    return cv2.imencode(".jpg", np.dstack([(pixels * level).astype(np.uint8)] * 3))[1].tobytes()


def test_a_dark_a_frozen_and_a_blurred_camera_are_named_and_a_mended_one_is_well_again(rig):
    import numpy as np

    rig = rig(watch_period=0.01).start()
    rig.place()
    rng, frozen, sent = np.random.default_rng(0), textured(np.random.default_rng(1)), [0]

    def drive(until, what, **changed):
        def once():
            data = {camera: textured(rng) for camera in ("front", "left", "right")}
            data |= {camera: image() for camera, image in changed.items()}
            rig.send(sent[0] * PERIOD_MS, **data)
            sent[0] += 1
            rig.outputs(sent[0])
            return until()

        rig.graph.until(once, what=what)

    def image_of(camera):
        return camera_status(rig, camera)[1]["image"]

    drive(lambda: sent[0] >= 6 and image_of("front") == "ok", "fine images")
    assert not rig.diagnosed("it is dark")
    drive(lambda: image_of("front") == "dark", "a dark camera", front=lambda: textured(rng, level=0.02))
    status, _ = camera_status(rig, "front")
    assert status.level == DiagnosticStatus.WARN and "take the cap off" in status.message
    assert "front: it is dark" in rig.values()[1].message  # in the node's own status, too
    drive(lambda: image_of("front") == "ok", "light again")
    drive(lambda: image_of("left") == "frozen", "a frozen camera", left=lambda: frozen)
    assert "restart its driver" in camera_status(rig, "left")[0].message
    drive(lambda: image_of("right") == "blurred", "a blurred camera", right=lambda: textured(rng, sigma=2.0))
    status, _ = camera_status(rig, "right")
    assert status.level == DiagnosticStatus.WARN and "focus it" in status.message
    assert rig.logged("right: its images are blurred")


def test_images_are_not_watched_where_nobody_asks(rig):
    rig = rig(watch_period=0.0).start()
    rig.place()
    for i in range(6):
        rig.send(i * PERIOD_MS)
        rig.outputs(i + 1)
    assert camera_status(rig, "front")[1]["image"] == "not looked at"
    rig.node.set_parameters([Parameter("watch_period", value=0.01)])  # at once
    for i in range(6, 14):  # what is seen once says nothing yet
        rig.send(i * PERIOD_MS)
        rig.outputs(i + 1)
        if i == 6:
            assert camera_status(rig, "front")[1]["image"] == "not looked at"
    rig.graph.until(lambda: camera_status(rig, "front")[1]["image"] == "ok", what="looks")


# ---- from the first moment to the last -----------------------------------------------------------------------------


def test_every_state_of_its_life_says_itself(rig):
    rig = rig()
    values, status = rig.values()
    assert (status.level, values["state"]) == (DiagnosticStatus.OK, "unconfigured")
    assert status.name == "occupancy_node: occupancy" and status.hardware_id
    rig.node.trigger_configure()
    _, status = rig.values()
    assert status.level == DiagnosticStatus.OK and status.message.startswith("inactive; `ros2 lifecycle set` activate")
    rig.node.trigger_activate()
    rig.graph.until(lambda: rig.values()[1].level != DiagnosticStatus.OK, what="that there are no images")
    names = [status.name for status in rig.diagnostics[-1].status]
    assert names == ["occupancy_node: occupancy", *(f"occupancy_node: camera {c}" for c in rig.make.CAMERAS)]
    assert all(status.hardware_id for status in rig.diagnostics[-1].status)
    rig.node.trigger_deactivate()
    assert rig.values()[1].message.startswith("inactive")
    rig.node.trigger_cleanup()
    assert rig.values()[1].message.startswith("unconfigured")


def test_a_configure_that_failed_stays_an_error_until_it_is_tried_again(rig, tmp_path):
    rig = rig()
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no model")
    checkpoint = rig.node.parameters.checkpoint
    assert rig.node.set_parameters([Parameter("checkpoint", value=str(broken))])[0].successful
    rig.node.trigger_configure()
    _, status = rig.values()
    assert status.level == DiagnosticStatus.ERROR
    assert status.message.startswith("unconfigured: ") and "broken.safetensors" in status.message
    rig.node.set_parameters([Parameter("checkpoint", value=checkpoint)])
    rig.node.trigger_configure()
    assert rig.values()[1].message.startswith("inactive")


def test_sim_time_without_a_clock_is_named(rig):
    rig = rig(use_sim_time=True, error_age=0.0).start()
    found = rig.graph.until(lambda: rig.diagnosed("nobody publishes /clock"), what="a diagnostic")
    assert found[0].level == DiagnosticStatus.WARN and "--clock" in found[0].message


def test_a_replay_under_the_wall_clock_is_told_to_use_sim_time(rig):
    rig = rig(reliable=False).start()
    rig.place()
    for i in range(12):
        rig.send(i * PERIOD_MS)
        rig.graph.spin_for(0.05)
    found = rig.graph.until(lambda: rig.diagnosed("set use_sim_time to true"), what="a diagnostic")
    assert found[0].level == DiagnosticStatus.WARN
    assert "years before this node's clock" in found[0].message


@pytest.mark.parametrize(
    "offset_ms, said",
    [
        (37_000, "s ahead of this node's clock, as TAI is ahead of UTC: set both clocks by one source"),
        (2_000, "s ahead of this node's clock: set both clocks by one source"),
        (-37_100, "s behind this node's clock, as UTC is behind TAI: set both clocks by one source"),
    ],
)
def test_clocks_that_are_apart_are_named_with_the_remedy(rig, offset_ms, said):
    rig = rig(warn_age=0.0, error_age=0.0).start()
    rig.place()
    for _ in range(12):
        rig.send(now_ms(rig) + offset_ms)
        rig.graph.spin_for(0.05)
    found = rig.graph.until(lambda: rig.diagnosed(said), what="a diagnostic")
    assert found[0].level == DiagnosticStatus.WARN and found[0].message.endswith("ptp4l with phc2sys)")


def test_one_camera_whose_clock_is_another_is_named_beside_the_others(rig):
    rig = rig(warn_age=0.0, error_age=0.0, sync_policy="degrade").start()
    rig.place()
    for _ in range(12):
        rig.send(now_ms(rig), ("front", "left"))
        rig.send(now_ms(rig) - 5000, ("right",))
        rig.graph.spin_for(0.05)
    found = rig.graph.until(lambda: rig.diagnosed("their clocks differ"), what="a diagnostic")
    assert found[0].message.startswith(("right: images come 4.9", "right: images come 5."))


def test_silence_is_said_with_its_remedy_in_the_status(rig):
    rig = rig().start()
    found = rig.graph.until(lambda: rig.diagnosed("no image from any camera"), what="a diagnostic")
    assert found[-1].message.endswith("check the topic, its QoS and the parameters cameras and image_topic")


def test_stamps_of_zero_are_named_and_their_images_are_not_used(rig):
    rig = rig(error_age=0.0).start()
    rig.place()
    for _ in range(3):
        for camera in rig.make.CAMERAS:
            rig.image[camera].publish(rig.make.jpeg(0, camera))
    found = rig.graph.until(lambda: rig.diagnosed("have stamp zero"), what="a diagnostic")
    assert found[0].level == DiagnosticStatus.WARN
    assert found[0].message.startswith("front, left, right: images have stamp zero")
    rig.graph.spin_for(0.3)
    assert not rig.occupancy
    rig.send(0)
    rig.outputs(1)
    rig.graph.until(lambda: rig.values()[1].level == DiagnosticStatus.OK, what="all well again")
