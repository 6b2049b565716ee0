# SPDX-License-Identifier: Apache-2.0
"""Replay over DDS: the recorded bytes, their order and QoS, /clock, and steps that lose nothing."""

import re
import signal
import threading
import time

import pytest

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage
from std_msgs.msg import String
from tf2_msgs.msg import TFMessage

from gaussianocc_core.errors import BagError
from gaussianocc_ros.bag_player import BagPlayer, ReplayError, _parse
from gaussianocc_ros.msg import SemanticOccupancy
from gaussianocc_ros.stamps import stamp_ns

MS = 1_000_000
LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
FOREVER = QosTime(9223372036, 854775807)


def qos(reliability=QosReliability.RELIABLE, durability=QosDurability.VOLATILE):
    automatic = QosLiveliness.AUTOMATIC
    return Qos(QosHistory.KEEP_LAST, 20, reliability, durability, FOREVER, FOREVER, automatic, FOREVER, False)


class Recording:
    """A bag under way; topics appear as they are first written."""

    def __init__(self, path, storage=StoragePlugin.MCAP):
        self.path, self.store = path, get_typestore(Stores.ROS2_HUMBLE)
        self.writer = Writer(path, version=8, storage_plugin=storage)
        self.writer.open()
        self.connections = {}

    def add(self, topic, kind, ns, message, profile=None):
        if topic not in self.connections:
            profiles = [profile or qos()]
            self.connections[topic] = self.writer.add_connection(
                topic, kind, typestore=self.store, offered_qos_profiles=profiles
            )
        data = message if isinstance(message, bytes) else serialize_message(message)
        self.writer.write(self.connections[topic], ns, data)

    def close(self):
        self.writer.close()
        return self.path


LATCHED_RECORD = qos(durability=QosDurability.TRANSIENT_LOCAL)


def record_drive(path, make, sets=5, storage=StoragePlugin.MCAP, broken=()):
    """Three cameras at 10 Hz, 5 ms apart, calibration, TF that reaches past each image only afterwards."""
    bag = Recording(path, storage)
    static = TFMessage(transforms=[make.transform("base_link", camera, make.FORWARD) for camera in make.CAMERAS])
    bag.add("/tf_static", "tf2_msgs/msg/TFMessage", make.START_NS, static, LATCHED_RECORD)
    for k in range(sets):
        for i, camera in enumerate(make.CAMERAS):
            ns = make.START_NS + (100 * k + 5 * i) * MS
            odometry = make.transform("odom", "base_link", make.translation(0.01 * (100 * k + 5 * i)), ns)
            data = b"\xff\xd8 broken" if (k, camera) in broken else None
            best_effort = qos(QosReliability.BEST_EFFORT)
            bag.add(f"/{camera}/camera_info", "sensor_msgs/msg/CameraInfo", ns, make.camera_info(ns, camera))
            image = make.jpeg(ns, camera, data)
            bag.add(f"/{camera}/image_raw/compressed", "sensor_msgs/msg/CompressedImage", ns, image, best_effort)
            bag.add("/tf", "tf2_msgs/msg/TFMessage", ns, TFMessage(transforms=[odometry]))
    return bag.close()


class Replay:
    """A player in the test's graph, playing in a thread of its own."""

    def __init__(self, graph, *arguments):
        options = _parse([str(argument) for argument in arguments])
        self.graph, self.error = graph, None
        self.player = graph.add(BagPlayer(options.bag, options))
        self._thread = threading.Thread(target=self._play, daemon=True)

    def _play(self):
        try:
            self.player.play()
        except Exception as error:
            self.error = error

    def run(self, timeout=60.0):
        self._thread.start()
        self.graph.until(lambda: not self._thread.is_alive(), timeout, "end of the bag")
        return self


@pytest.fixture
def replay(graph):
    return lambda *arguments: Replay(graph, *arguments)


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
    graph.until(lambda: not run.player.unmatched(["/tf"]), what="a subscription")
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


def test_replay_ends_with_status_0_and_a_summary_and_ctrl_c_with_130(spawn, make, tmp_path):
    bag = record_drive(tmp_path / "drive", make)
    whole = spawn("-m", "gaussianocc_ros.bag_player", bag, "--rate", 0, "--wait", 0)
    looping = spawn("-m", "gaussianocc_ros.bag_player", bag, "--loop", "--wait", 0.1)
    assert whole.wait() == 0
    whole.wait_for("played 46 messages on 8 topics")
    looping.wait_for("nobody listens")
    assert looping.stop() == 130
    for process in (whole, looping):
        assert "Traceback" not in process.output


@pytest.mark.medium
def test_ctrl_c_again_and_again_until_the_very_end_ends_with_130_and_the_summary(spawn, make, tmp_path):
    player = spawn("-m", "gaussianocc_ros.bag_player", record_drive(tmp_path / "drive", make), "--loop", "--wait", 0.1)
    player.wait_for("nobody listens")
    deadline = time.monotonic() + 60
    while player.popen.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
        player.popen.send_signal(signal.SIGINT)
    assert player.wait() == 130
    assert re.fullmatch(
        r"bag_player: nobody listens.*\n(played \d+ messages on \d topics\n(  /.* as recorded\n)+)?", player.output
    )


# ---- steps ---------------------------------------------------------------------------------------------------------


def start_node(graph, make, checkpoint, reliable):
    from gaussianocc_ros.occupancy_node import OccupancyNode

    values = {
        "cameras": list(make.CAMERAS), "checkpoint": str(checkpoint), "device": "cpu", "reliable": reliable,
        "warm_up": False,
    }  # fmt: skip
    node = OccupancyNode(parameter_overrides=[Parameter(name, value=value) for name, value in values.items()])
    graph.add(node)
    node.trigger_configure()
    node.trigger_activate()
    return node


@pytest.fixture
def node(graph, make, checkpoint):
    return start_node(graph, make, checkpoint, reliable=True)


@pytest.fixture
def live_node(graph, make, checkpoint):
    """Takes images as they were recorded, best effort, and the newest set wins."""
    return start_node(graph, make, checkpoint, reliable=False)


def test_step_as_fast_as_it_goes_gives_one_output_per_set(graph, node, replay, make, tmp_path):
    outputs = graph.record(SemanticOccupancy, "/occupancy_node/occupancy", 100)
    run = replay(record_drive(tmp_path / "drive", make, sets=8), "--step", "--rate", 0).run()
    assert run.error is None
    assert (run.player.step.formed, run.player.step.answered) == (8, 8)
    graph.until(lambda: len(outputs) >= 8, what="outputs")
    assert [stamp_ns(message.header) for message in outputs] == [make.START_NS + 100 * k * MS for k in range(8)]
    assert node._rig.motion_problem == ""  # the odometry of the last image's time came before the wait


@pytest.mark.medium
def test_step_loses_none_of_the_three_outputs(graph, spawn, recorder, make, full_size_checkpoint, tmp_path):
    """Megabytes a message, to a subscriber that takes longer over one than the node over a set."""
    sets = 8
    node = spawn(
        "-m", "gaussianocc_ros.occupancy_node", "--ros-args", "-p", f"cameras:=[{', '.join(make.CAMERAS)}]",
        "-p", f"checkpoint:={full_size_checkpoint}", "-p", "device:=cpu", "-p", "reliable:=true",
        "-p", "markers_exposed_only:=false",
    )  # fmt: skip
    recorder.connect(graph, 180)
    bag = record_drive(tmp_path / "drive", make, sets=sets)
    player = spawn("-m", "gaussianocc_ros.bag_player", bag, "--step", "--rate", 0, "--step-timeout", 120)
    graph.until(lambda: player.popen.poll() is not None, 180, "the end of the replay")
    player.wait_for(f"sets: {sets} of {sets} answered")
    stamps = [make.START_NS + 100 * k * MS for k in range(sets)]
    for topic in recorder.TOPICS:
        # The graph knows a subscription a moment before the node's writer does: the first set may be too early for it.
        received = recorder.stamps_until(topic, stamps[-1])
        assert received in (stamps, stamps[1:])
    assert node.stop() == 0
    assert "does not take" not in node.output


@pytest.mark.medium
def test_ctrl_c_of_the_node_while_a_set_is_in_work_ends_node_and_replay(
    graph, spawn, make, full_size_checkpoint, tmp_path
):
    outputs = graph.record(SemanticOccupancy, "/occupancy_node/occupancy", 100)
    node = spawn(
        "-m", "gaussianocc_ros.occupancy_node", "--ros-args", "-p", f"cameras:=[{', '.join(make.CAMERAS)}]",
        "-p", f"checkpoint:={full_size_checkpoint}", "-p", "device:=cpu", "-p", "reliable:=true",
    )  # fmt: skip
    bag = record_drive(tmp_path / "drive", make, sets=50)
    player = spawn("-m", "gaussianocc_ros.bag_player", bag, "--step", "--rate", 0, "--wait", 180)
    graph.until(lambda: len(outputs) >= 2, 240, "outputs")
    assert node.stop(60) == 0
    assert [line for line in node.output.splitlines() if "[INFO]" not in line] == []
    assert player.wait(60) == 3
    assert "the node is gone" in player.output
    assert "Traceback" not in player.output


@pytest.mark.parametrize("pause", [0.0, 1.0])
def test_a_replay_that_does_not_wait_says_how_many_sets_were_answered(
    graph, live_node, replay, make, tmp_path, monkeypatch, pause
):
    outputs = graph.record(SemanticOccupancy, "/occupancy_node/occupancy", 100)
    gather = live_node._gather

    def slow(newest):  # as long as the whole bag: sets are superseded
        time.sleep(pause)
        return gather(newest)

    monkeypatch.setattr(live_node, "_gather", slow)
    player = replay(record_drive(tmp_path / "drive", make, sets=6), "--rate", 0.5).run().player
    graph.spin_for(0.5)
    last = player.summary().splitlines()[-1]
    assert last.startswith(f"sets: {len(outputs)} of 6 answered on /occupancy_node/occupancy")
    if pause:
        assert 1 <= len(outputs) < 6 and last.endswith("--step waits for each")


def test_a_replay_without_a_node_speaks_of_no_sets(replay, make, tmp_path):
    run = replay(record_drive(tmp_path / "drive", make), "--rate", 0, "--wait", 0).run()
    assert "sets:" not in run.player.summary()


def test_set_that_the_node_cannot_complete_is_named_and_the_replay_goes_on(graph, node, replay, make, tmp_path, capfd):
    bag = record_drive(tmp_path / "drive", make, sets=4, broken={(1, "left")})
    run = replay(bag, "--step", "--rate", 0, "--step-timeout", 6).run()
    assert run.error is None
    assert (run.player.step.formed, run.player.step.answered) == (4, 3)
    said = capfd.readouterr().err
    assert "no result on /occupancy_node/occupancy for the set at 1532402927.712460 s within 6 s" in said
    assert "camera left: image cannot be decoded: the JPEG" in said


def test_step_without_a_node_says_so(replay, make, tmp_path):
    run = replay(record_drive(tmp_path / "drive", make), "--step", "--wait", 0.5).run()
    assert isinstance(run.error, ReplayError)
    assert str(run.error) == "nobody publishes /occupancy_node/occupancy; is the node active?"


def test_step_with_a_bag_that_lacks_a_camera_names_its_topic(node, replay, make, tmp_path):
    bag = record_drive(tmp_path / "drive", make)
    topics = ("--topics", "/front/image_raw/compressed", "/left/image_raw/compressed")
    run = replay(bag, "--step", "--wait", 20, *topics).run()
    assert "/occupancy_node waits for /right/image_raw/compressed, not in what is played" in str(run.error)


def test_step_gives_up_when_the_node_dies(graph, node, replay, make, tmp_path):
    outputs = graph.record(SemanticOccupancy, "/occupancy_node/occupancy", 100)
    run = replay(record_drive(tmp_path / "drive", make, sets=50), "--step", "--rate", 0, "--step-timeout", 0.5)
    run._thread.start()
    graph.until(lambda: outputs, what="a first output")
    node.trigger_deactivate()
    run._thread.join(0)
    graph.until(lambda: not run._thread.is_alive(), what="the player's end")
    assert "gave up: 3 sets in a row without a result" in str(run.error)


def test_stamp_of_a_big_endian_recording_is_read_from_its_bytes():
    from gaussianocc_ros.stamps import cdr_stamp_ns

    assert cdr_stamp_ns(b"\x00\x00\x00\x00" + (5).to_bytes(4, "big") + (7).to_bytes(4, "big")) == 5_000_000_007


def test_player_starts_without_torch(spawn):
    """Seconds on a small computer."""
    code = "import sys, gaussianocc_ros.bag_player; sys.exit('torch' in sys.modules)"
    assert spawn("-c", code).wait() == 0
