# SPDX-License-Identifier: Apache-2.0
"""Replay over DDS: the recorded bytes, their order and QoS, /clock, and how it ends."""

import re
import signal
import sys
import time
from contextlib import closing

import pytest
import yaml

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import QosReliability
from rosbags.rosbag2 import Reader, StoragePlugin
from rosbags.typesys import get_types_from_msg
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage
from std_msgs.msg import String
from support.replay import MS, Recording, qos, record_drive
from tf2_msgs.msg import TFMessage

from gaussianocc_core.bags.opened import open_bag, unlatched_static_tf
from gaussianocc_core.errors import BagError
from gaussianocc_ros.bag_player import BagPlayer, _import_message, _parse

LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("single_file", [False, True])
def test_every_message_arrives_once_byte_for_byte_and_in_order(graph, replay, make, tmp_path, storage, single_file):
    bag = record_drive(tmp_path / "drive", make, storage=storage)
    if single_file:
        (bag,) = [path for path in bag.iterdir() if path.suffix in (".mcap", ".db3")]
    received = {}
    kinds = {"/tf": TFMessage, "/tf_static": TFMessage}
    for camera in make.CAMERAS:
        kinds |= {f"/{camera}/image_raw/compressed": CompressedImage, f"/{camera}/camera_info": CameraInfo}
    for topic, kind in kinds.items():
        profile = QoSProfile(depth=50)
        if "image_raw" in topic:
            profile.reliability = ReliabilityPolicy.BEST_EFFORT  # as recorded
        received[topic] = graph.record(kind, topic, profile, raw=True)
    player = replay(bag, "--rate", 0).run().player
    with Reader(bag) as reader:
        recorded = {topic: [] for topic in kinds}
        for connection, _, data in reader.messages():
            recorded[connection.topic].append(bytes(data))
    graph.until(lambda: all(len(received[t]) >= len(recorded[t]) for t in kinds), what="all messages")
    assert received == recorded
    assert player.published.total() == sum(map(len, recorded.values())) == 46
    assert f"{'/tf':<40}     15" in player.summary()


def test_a_bag_whose_metadata_was_edited_is_played_to_its_end_and_says_what_is_wrong(replay, make, tmp_path, capfd):
    bag = record_drive(tmp_path / "drive", make)
    file = bag / "metadata.yaml"
    document = yaml.safe_load(file.read_text())
    information = document["rosbag2_bagfile_information"]
    information["duration"]["nanoseconds"] = 100 * MS
    for each in information["topics_with_message_count"]:
        if each["topic_metadata"]["name"] == "/tf":
            each["topic_metadata"]["offered_qos_profiles"] = ""
    file.write_text(yaml.safe_dump(document))
    assert replay(bag, "--rate", 0, "--wait", 0).run().player.published.total() == 46
    assert "metadata.yaml says 0.1 s" in capfd.readouterr().err


def test_recorded_qos_is_offered_and_latched_transforms_reach_late_subscribers(graph, replay, make, tmp_path):
    replay(record_drive(tmp_path / "drive", make), "--rate", 0, "--wait", 0).run()
    image = graph.until(lambda: graph.probe.get_publishers_info_by_topic("/front/image_raw/compressed"))[0]
    assert image.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    info = graph.until(lambda: graph.probe.get_publishers_info_by_topic("/front/camera_info"))[0]
    assert info.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    assert info.qos_profile.durability == DurabilityPolicy.VOLATILE
    late = graph.record(TFMessage, "/tf_static", LATCHED)
    graph.until(lambda: late, what="the latched message")
    assert len(late[0].transforms) == 3


@pytest.mark.parametrize("static_qos", [[], qos(QosReliability.BEST_EFFORT)], ids=["none", "volatile"])
def test_static_transforms_are_latched_whatever_qos_was_stored(graph, replay, make, tmp_path, static_qos):
    bag = record_drive(tmp_path / "drive", make, static_qos=static_qos)
    replay(bag, "--rate", 0, "--wait", 0).run()
    late = graph.record(TFMessage, "/tf_static", LATCHED)
    graph.until(lambda: late, what="the latched message")
    assert len(late[0].transforms) == 3
    with closing(open_bag(bag)) as opened:
        assert unlatched_static_tf(opened) == ("/tf_static",)


def test_clock_runs_through_the_time_of_the_bag_and_never_back(graph, replay, make, tmp_path):
    ticks = graph.record(Clock, "/clock", QoSProfile(depth=1000))
    replay(record_drive(tmp_path / "drive", make), "--rate", 0.25, "--clock", 100).run()

    def stamps():
        return [tick.clock.sec * 1_000_000_000 + tick.clock.nanosec for tick in ticks]

    # The player's thread ends when it has published the last tick, not when the tick has arrived.
    graph.until(lambda: ticks and stamps()[-1] >= make.START_NS + 395 * MS, what="the last tick")
    times = stamps()
    assert times == sorted(times)
    assert times[0] == make.START_NS
    assert times[-1] <= make.START_NS + 410 * MS
    assert len(times) >= 10  # one for each 10 ms between messages; up to 40 where the machine is idle


def test_rate_stretches_the_time_between_messages(replay, make, tmp_path):
    player = replay(record_drive(tmp_path / "drive", make), "--rate", 0.5, "--wait", 0)
    begin = time.monotonic()
    player.run()
    assert time.monotonic() - begin >= 0.8  # 0.41 s at half the speed


def test_start_offset_skips_images_but_not_latched_transforms(graph, replay, make, tmp_path):
    player = (
        replay(record_drive(tmp_path / "drive", make), "--rate", 0, "--wait", 0, "--start-offset", 0.25).run().player
    )
    assert player.published["/front/image_raw/compressed"] == 2
    assert player.published["/tf_static"] == 1


def test_only_the_named_topics_are_played(replay, make, tmp_path):
    topics = ("--topics", "/tf", "/front/camera_info")
    player = replay(record_drive(tmp_path / "drive", make), "--rate", 0, "--wait", 0, *topics).run().player
    assert dict(player.published) == {"/tf": 15, "/front/camera_info": 5}


def test_no_module_is_imported_because_a_bag_names_it(tmp_path, monkeypatch):
    """To import is to execute: a package that came with the bag, and whatever else Python has."""
    mark = tmp_path / "executed"
    (tmp_path / "evil_msgs" / "msg").mkdir(parents=True)
    for file in ("evil_msgs/__init__.py", "evil_msgs/msg/__init__.py"):
        (tmp_path / file).write_text(f"open({str(mark)!r}, 'w').close()\nclass Evil: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")  # as python -m does
    for name in ("evil_msgs/msg/Evil", "antigravity/msg/Evil", "evil_msgs.msg/msg/Evil", "/msg/Evil", "a/b/c/D", "x"):
        assert _import_message(name) is None
    assert not mark.exists() and "antigravity" not in sys.modules
    from std_msgs.msg import String

    assert _import_message("std_msgs/msg/String") is String


def test_topic_of_an_unknown_type_is_skipped_with_a_line_and_the_rest_played(replay, make, tmp_path, capfd):
    bag = Recording(tmp_path / "odd")
    bag.store.register(get_types_from_msg("int32 value", "someones_robot/msg/Secret"))
    secret = bag.store.serialize_cdr(bag.store.types["someones_robot/msg/Secret"](7), "someones_robot/msg/Secret")
    bag.add("/secret", "someones_robot/msg/Secret", make.START_NS, bytes(secret))
    bag.add("/text", "std_msgs/msg/String", make.START_NS, String(data="hello"))
    player = replay(bag.close(), "--rate", 0, "--wait", 0).run().player
    assert dict(player.published) == {"/text": 1}
    assert "skipped /secret: no Python package for someones_robot/msg/Secret" in capfd.readouterr().err


def test_nobody_listening_is_said_and_does_not_stop_the_replay(replay, make, tmp_path, capfd):
    player = replay(record_drive(tmp_path / "drive", make), "--rate", 0, "--wait", 0.3).run().player
    assert player.published.total() == 46
    assert "nobody listens to any of 8 topics after 0.3 s" in capfd.readouterr().err


def test_replay_waits_for_a_topic_that_it_was_told_to(graph, replay, make, tmp_path):
    graph.record(TFMessage, "/tf", QoSProfile(depth=50))
    run = replay(record_drive(tmp_path / "drive", make), "--rate", 0, "--wait-for", "/results", "--wait", 60)
    run._thread.start()
    graph.until(lambda: run.player.count_subscribers("/tf"), what="a subscription")
    graph.spin_for(1.0)
    assert run.player.published.total() == 0
    graph.publisher(String, "/results")
    graph.until(lambda: not run._thread.is_alive(), what="the end of the bag")
    assert run.player.published.total() == 46


def test_topic_that_never_comes_is_named_and_does_not_stop_the_replay(replay, make, tmp_path, capfd):
    arguments = ("--rate", 0, "--wait", 0.3, "--wait-for", "/results")
    assert replay(record_drive(tmp_path / "drive", make), *arguments).run().player.published.total() == 46
    assert "nobody publishes /results after 0.3 s; playing anyway" in capfd.readouterr().err


@pytest.mark.parametrize(
    "spoil, complaint",
    [
        (lambda path: None, "no such bag"),
        (lambda path: path.write_bytes(b"junk"), "not a readable rosbag2"),
        (lambda path: path.mkdir(), "not a readable rosbag2"),
    ],
)
def test_unusable_bag_is_one_line(ros, tmp_path, spoil, complaint):
    path = tmp_path / "bag.mcap"
    spoil(path)
    with pytest.raises(BagError, match=complaint) as error:
        BagPlayer(path, _parse([str(path)]))
    assert "\n" not in str(error.value)


def test_absent_bag_ends_the_process_with_status_2(spawn, tmp_path):
    process = spawn("-m", "gaussianocc_ros.bag_player", tmp_path / "nothing")
    assert process.wait() == 2
    assert process.output.strip() == (
        f"bag_player: {tmp_path}/nothing: no such bag; give a rosbag2 folder, an .mcap or a .db3 file"
    )


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (("--rate", -1), "--rate: expected a number >= 0, got -1.0"),
        (("--ros-args", "-p", "rate"), "bag_player: ROS arguments "),
        (("--step", "--wait", 0.1), "bag_player: nobody publishes /occupancy_node/occupancy; is the node active?"),
    ],
)
def test_what_a_user_can_mend_ends_the_process_with_status_2_and_says_what(spawn, make, tmp_path, arguments, complaint):
    process = spawn("-m", "gaussianocc_ros.bag_player", record_drive(tmp_path / "drive", make, sets=1), *arguments)
    assert process.wait() == 2
    assert complaint in process.output and "Traceback" not in process.output


def test_replay_ends_with_status_0_and_a_summary_and_ctrl_c_with_0(spawn, make, tmp_path):
    bag = record_drive(tmp_path / "drive", make)
    whole = spawn("-m", "gaussianocc_ros.bag_player", bag, "--rate", 0, "--wait", 0)
    looping = spawn("-m", "gaussianocc_ros.bag_player", bag, "--loop", "--wait", 0.1)
    assert whole.wait() == 0
    whole.wait_for("played 46 messages on 8 topics")
    looping.wait_for("nobody listens")
    time.sleep(2.5)  # some six passes of 0.41 s
    assert looping.stop() == 0
    count, rate = re.search(r"/front/camera_info +(\d+) +([\d.]+) Hz as recorded", looping.output).groups()
    assert int(count) > 15 and 10.0 < float(rate) < 14.0  # 5 in a pass; a pass by itself has 12.2
    for process in (whole, looping):
        assert "Traceback" not in process.output


@pytest.mark.medium
def test_ctrl_c_again_and_again_until_the_very_end_ends_with_0_and_the_summary(spawn, make, tmp_path):
    player = spawn("-m", "gaussianocc_ros.bag_player", record_drive(tmp_path / "drive", make), "--loop", "--wait", 0.1)
    player.wait_for("nobody listens")
    deadline = time.monotonic() + 60
    while player.popen.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
        player.popen.send_signal(signal.SIGINT)
    assert player.wait() == 0
    assert re.fullmatch(
        r"bag_player: nobody listens.*\n(played \d+ messages on \d topics\n(  /.* as recorded\n)+)?", player.output
    )


def test_a_replay_without_a_node_speaks_of_no_sets(replay, make, tmp_path):
    run = replay(record_drive(tmp_path / "drive", make), "--rate", 0, "--wait", 0).run()
    assert "sets:" not in run.player.summary()


def test_stamp_of_a_big_endian_recording_is_read_from_its_bytes():
    from gaussianocc_ros.stamps import cdr_stamp_ns

    assert cdr_stamp_ns(b"\x00\x00\x00\x00" + (5).to_bytes(4, "big") + (7).to_bytes(4, "big")) == 5_000_000_007


def test_player_starts_without_torch(spawn):
    """Seconds on a small computer."""
    code = "import sys, gaussianocc_ros.bag_player; sys.exit('torch' in sys.modules)"
    assert spawn("-c", code).wait() == 0
