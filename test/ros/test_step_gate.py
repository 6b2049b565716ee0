# SPDX-License-Identifier: Apache-2.0
"""The gate between player and node: it forms the sets that the node forms, and waits for the result of each."""

import json
import threading
import time

import pytest
import yaml

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from support.replay import MS, record_drive

from gaussianocc_core.errors import ConfigError
from gaussianocc_ros.msg import SemanticOccupancy
from gaussianocc_ros.occupancy_node import OccupancyNode
from gaussianocc_ros.stamps import stamp_ns
from gaussianocc_ros.step_gate import ReplayError, Unanswered

TOPIC = "/occupancy_node/occupancy"


@pytest.fixture
def start(graph, make, checkpoint):
    """start(parameter=value, ...) -> the node, active; it takes images reliably unless told otherwise."""

    def start(**values):
        values = {
            "cameras": list(make.CAMERAS),
            "checkpoint": str(checkpoint),
            "device": "cpu",
            "reliable": True,
            "warm_up": False,
            **values,
        }
        overrides = [Parameter(name, value=value) for name, value in values.items() if value is not None]
        node = graph.add(OccupancyNode(parameter_overrides=overrides))
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS, node.failure
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS, node.failure
        return node

    return start


@pytest.fixture
def node(start):
    return start()


def test_step_as_fast_as_it_goes_gives_one_output_per_set(graph, node, replay, make, tmp_path, capfd):
    outputs = graph.record(SemanticOccupancy, TOPIC, 100)
    run = replay(record_drive(tmp_path / "drive", make, sets=8), "--step", "--rate", 0).run()
    assert run.error is None
    assert (run.player.step.formed, run.player.step.answered) == (8, 8)
    graph.until(lambda: len(outputs) >= 8, what="outputs")
    assert [stamp_ns(message.header) for message in outputs] == [make.START_NS + 100 * k * MS for k in range(8)]
    assert "not compensated" not in capfd.readouterr().err  # the odometry of the last image's time came before the wait


@pytest.mark.medium
def test_step_loses_none_of_the_three_outputs(graph, spawn, recorder, make, full_size_checkpoint, tmp_path):
    """Megabytes a message, to a subscriber that takes longer over one than the node over a set."""
    sets = 8
    node = spawn(
        "-m",
        "gaussianocc_ros.occupancy_node",
        "--ros-args",
        "-p",
        f"cameras:=[{', '.join(make.CAMERAS)}]",
        "-p",
        f"checkpoint:={full_size_checkpoint}",
        "-p",
        "device:=cpu",
        "-p",
        "reliable:=true",
        "-p",
        "markers_exposed_only:=false",
        "-p",
        "markers_most:=0",
    )
    recorder.connect(graph, 180)
    bag = record_drive(tmp_path / "drive", make, sets=sets)
    player = spawn("-m", "gaussianocc_ros.bag_player", bag, "--step", "--rate", 0, "--step-timeout", 120)
    graph.until(lambda: player.popen.poll() is not None, 180, "the end of the replay")
    player.wait_for(f"sets: {sets} of {sets} answered")
    stamps = [make.START_NS + 100 * k * MS for k in range(sets)]
    for topic in recorder.TOPICS:
        assert recorder.stamps_until(topic, stamps[-1]) == stamps
    assert node.stop() == 0
    assert "does not take" not in node.output


@pytest.mark.medium
def test_ctrl_c_of_the_node_while_a_set_is_in_work_ends_node_and_replay(
    graph, spawn, make, full_size_checkpoint, tmp_path
):
    outputs = graph.record(SemanticOccupancy, TOPIC, 100)
    node = spawn(
        "-m",
        "gaussianocc_ros.occupancy_node",
        "--ros-args",
        "-p",
        f"cameras:=[{', '.join(make.CAMERAS)}]",
        "-p",
        f"checkpoint:={full_size_checkpoint}",
        "-p",
        "device:=cpu",
        "-p",
        "reliable:=true",
    )
    bag = record_drive(tmp_path / "drive", make, sets=50)
    player = spawn("-m", "gaussianocc_ros.bag_player", bag, "--step", "--rate", 0, "--wait", 300)
    node.wait_for("cameras front", 300)  # it compiles, which takes minutes where others need the processor too
    begin = time.monotonic()
    graph.until(
        lambda: len(outputs) >= 2 or player.popen.poll() is not None or time.monotonic() > begin + 120, 130, "outputs"
    )
    assert len(outputs) >= 2, f"the player:\n{player.output}\nthe node:\n{node.output}"
    assert node.stop(60) == 0
    assert [line for line in node.output.splitlines() if "[INFO]" not in line] == []
    assert player.wait(60) == 3
    assert "the node is gone" in player.output
    assert "Traceback" not in player.output


@pytest.mark.parametrize("step", [True, False], ids=["step", "plain"])
def test_results_that_a_recording_holds_are_left_to_the_node_that_runs(
    graph, start, replay, make, tmp_path, capfd, step
):
    """`ros2 bag record -a` takes what the node publishes too."""
    start(reliable=step)
    outputs = graph.record(SemanticOccupancy, TOPIC, 100)
    bag = record_drive(tmp_path / "drive", make, sets=3, results=(TOPIC, "/occupancy_node/more", "/other/occupancy"))
    run = replay(bag, *(["--step"] if step else ["--rate", 0.3, "--wait-for", TOPIC, "--wait", 30])).run()
    assert run.error is None and run.player.step.formed == 3
    graph.until(lambda: len(outputs) >= (3 if step else 1), what="outputs")
    assert {message.header.frame_id for message in outputs} == {"base_link"}
    assert run.player.published["/other/occupancy"] == 3
    said = "2 recorded topics of /occupancy_node are not played, because it runs and publishes them"
    assert said in capfd.readouterr().err


def test_results_that_a_recording_holds_are_played_where_no_node_runs(graph, replay, make, tmp_path):
    outputs = graph.record(SemanticOccupancy, TOPIC, 100)
    run = replay(record_drive(tmp_path / "drive", make, sets=3, results=(TOPIC,))).run()
    assert run.error is None and run.player.step is None
    graph.until(lambda: len(outputs) == 3, what="what was recorded")
    assert {message.header.frame_id for message in outputs} == {"recorded"}


@pytest.mark.parametrize("slow", [False, True])
def test_a_replay_that_does_not_wait_says_how_many_sets_were_answered(
    graph, start, replay, make, tmp_path, monkeypatch, slow
):
    """A live node takes images as they were recorded, best effort, and the newest set wins."""
    node = start(reliable=False)
    outputs = graph.record(SemanticOccupancy, TOPIC, 100)
    gather, formed, played = node._gatherer.gather, node._builder.statistics, threading.Event()

    def late(newest):  # the first set is in work until the whole bag has come in: sets are superseded
        played.wait(30)
        return gather(newest)

    if slow:
        monkeypatch.setattr(node._gatherer, "gather", late)
    # Without --wait-for, what nobody is known to publish yet when the replay begins is not counted.
    bag = record_drive(tmp_path / "drive", make, sets=6)
    run = replay(bag, "--rate", 0.5, "--wait-for", TOPIC, "--wait", 30)
    run._thread.start()
    graph.until(lambda: run.player.step and run.player.step.formed == 6, what="the last set")
    played.set()
    graph.until(lambda: not run._thread.is_alive(), what="the end of the replay")
    graph.until(lambda: node._inference.is_idle, what="the last result")

    def last_line():
        return run.player.summary().splitlines()[-1]

    graph.until(lambda: last_line().startswith(f"sets: {len(outputs)} of 6 answered on {TOPIC}"), what="all counted")
    assert 1 <= len(outputs) <= formed.sets <= 6
    if slow:
        assert len(outputs) < 6 and last_line().endswith("--step waits for each")


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


def test_a_player_that_waits_says_for_what(graph, replay, make, tmp_path, monkeypatch, capfd):
    from gaussianocc_ros import step_gate

    monkeypatch.setattr(step_gate, "_SILENT_FOR", 0.1)
    run = replay(record_drive(tmp_path / "drive", make), "--step", "--wait", 1.0).run()
    assert isinstance(run.error, ReplayError)
    said = [line for line in capfd.readouterr().err.splitlines() if "waits" in line]
    assert said == ["bag_player: waits: nobody publishes /occupancy_node/occupancy; is the node active?"]


def test_step_with_a_bag_that_lacks_a_camera_names_its_topic(node, replay, make, tmp_path):
    bag = record_drive(tmp_path / "drive", make)
    topics = ("--topics", "/front/image_raw/compressed", "/left/image_raw/compressed")
    run = replay(bag, "--step", "--wait", 20, *topics).run()
    assert "/occupancy_node waits for /right/image_raw/compressed, not in what is played" in str(run.error)


def test_step_gives_up_when_the_node_dies(graph, node, replay, make, tmp_path):
    outputs = graph.record(SemanticOccupancy, TOPIC, 100)
    run = replay(record_drive(tmp_path / "drive", make, sets=50), "--step", "--rate", 0, "--step-timeout", 0.5)
    run._thread.start()
    graph.until(lambda: outputs, what="a first output")
    node.trigger_deactivate()
    run._thread.join(0)
    graph.until(lambda: not run._thread.is_alive(), what="the player's end")
    assert "gave up: 3 sets in a row without a result" in str(run.error)


LISTENER = """
import rclpy
from sensor_msgs.msg import CompressedImage
rclpy.init()
node = rclpy.create_node("listener")
node.create_subscription(CompressedImage, "/front/image_raw/compressed", lambda message: None, 5)
print("listening", flush=True)
rclpy.spin(node)
"""


@pytest.mark.medium
def test_a_subscriber_that_dies_without_a_word_does_not_stop_the_threads_of_the_player(
    graph, start, replay, spawn, make, tmp_path
):
    """DDS knows of its death after 20 s, and waits for its answers until then. The node here is in the player's
    process."""
    start(sync_policy="degrade")
    run = replay(record_drive(tmp_path / "drive", make, sets=3), "--step", "--rate", 0, "--wait", 40)
    listener = spawn("-c", LISTENER)
    listener.wait_for("listening")
    graph.until(lambda: graph.probe.count_subscribers("/front/image_raw/compressed") == 2, what="the listener")
    listener.popen.kill()
    run._thread.start()
    begin = last = time.monotonic()
    longest = 0.0
    while run._thread.is_alive() and last - begin < 60:
        graph.executor.spin_once(timeout_sec=0.02)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    assert run.error is None and (run.player.step.formed, run.player.step.answered) == (3, 3)
    assert last - begin > 5  # it has waited
    assert longest < 5


# ---- the node's parameters -----------------------------------------------------------------------------------------


def step_through(graph, replay, node, bag, *options):
    """The stamps that the node answered, in ms from the start; all sets that the player formed were answered, and
    they are those that the node formed."""
    outputs = graph.record(SemanticOccupancy, TOPIC, 100)
    run = replay(bag, "--step", "--rate", 0, "--wait", 40, *options).run()
    assert run.error is None
    step = run.player.step
    assert step.answered == step.formed == node._builder.statistics.sets
    graph.until(lambda: len(outputs) >= step.formed, what="outputs")
    return [(stamp_ns(message.header) - 1_532_402_927_612_460_000) // MS for message in outputs], step


@pytest.mark.parametrize(
    "parameters, stamps",
    [
        ({}, [0, 100, 300, 400]),  # the right camera has no image at 200 ms
        ({"anchor_camera": "left"}, [5, 105, 305, 405]),
        ({"cameras": ["left", "front"]}, [5, 105, 205, 305, 405]),
        ({"slop": 0.004}, []),
        ({"sync_policy": "degrade"}, [0, 100, 200, 300, 400]),
        ({"sync_policy": "skip"}, [0, 100, 300, 400]),
    ],
)
def test_the_player_forms_the_sets_that_the_node_forms(graph, start, replay, make, tmp_path, parameters, stamps):
    bag = record_drive(tmp_path / "drive", make, absent={(2, "right")})
    assert step_through(graph, replay, start(**parameters), bag)[0] == stamps


@pytest.mark.parametrize("patience, count", [(0.0, 6), (0.3, 3), (10.0, 0)])
def test_a_set_without_a_dead_camera_is_waited_for_when_the_node_s_patience_ends(
    graph, start, replay, make, tmp_path, patience, count
):
    bag = record_drive(tmp_path / "drive", make, sets=7, absent={(k, "right") for k in range(7)})
    node = start(sync_policy="degrade", patience=patience)
    topics = [f"/{camera}/{part}" for camera in ("front", "left") for part in ("image_raw/compressed", "camera_info")]
    found, step = step_through(graph, replay, node, bag, "--topics", *topics, "/tf", "/tf_static")
    assert found == [100 * k for k in range(count)]
    assert "/occupancy_node goes without /right/image_raw/compressed, not in what is played" in step.doubts


def test_another_camera_stands_in_for_a_dead_anchor_in_node_and_player(graph, start, replay, make, tmp_path):
    bag = record_drive(tmp_path / "drive", make, sets=24, absent={(k, "front") for k in range(3, 24)})
    found, _ = step_through(graph, replay, start(sync_policy="degrade"), bag)
    assert found[:3] == [0, 100, 200]
    assert len(found) > 8 and {stamp % 100 for stamp in found[3:]} == {5}


@pytest.mark.parametrize("policy", ["wait", "degrade"])
def test_a_node_with_the_file_of_inspect_bag_is_followed_whatever_its_topics_are(
    graph, start, replay, make, tmp_path, policy
):
    from gaussianocc_core.data.bag import open_bags
    from gaussianocc_core.data.bag_cameras import BagConfig
    from gaussianocc_core.onboarding.proposal import Proposal, write_proposal

    topics = {
        "front": ("/front/image_raw/compressed", "/front/camera_info"),
        "left": ("/zed/left/image_color/compressed", "/zed/left/camera_info"),
        "right": ("/eye/image/compressed", "/eye/camera_info"),
    }
    bag = record_drive(tmp_path / "drive", make, topics=topics)
    (source,) = open_bags(BagConfig(str(bag)))
    proposal = Proposal({"data": {"masks": ""}}, {"data": {}}, 0.4, 1, labelled=True)
    *_, file = write_proposal(proposal, source, tmp_path / "robot.yaml")
    values = yaml.safe_load(file.read_text())["/**"]["ros__parameters"]
    assert set(values["image_topics"]) == {images.lstrip("/") for images, _ in topics.values()}
    del values["checkpoint"]  # which training would make
    node = start(**values, sync_policy=policy)
    assert values["cameras"][0] == "eye"  # the anchor, which fires last
    assert step_through(graph, replay, node, bag)[0] == [10, 110, 210, 310, 410]


def rig_file(path, make):
    entry = {
        "width": make.WIDTH,
        "height": make.HEIGHT,
        "intrinsics": [60.0, 60.0, 48.0, 32.0],
        "translation": [1.0, 0.0, 1.5],
        "rotation": [0.5, -0.5, 0.5, -0.5],
    }
    path.write_text(json.dumps({"cameras": dict.fromkeys(make.CAMERAS, entry)}))  # JSON is YAML
    return path


def test_cameras_that_only_the_node_s_rig_file_names_are_found_in_it(graph, start, replay, make, tmp_path):
    node = start(cameras=None, rig_file=str(rig_file(tmp_path / "rig.yaml", make)))
    bag = record_drive(tmp_path / "drive", make)
    assert step_through(graph, replay, node, bag)[0] == [0, 100, 200, 300, 400]


def test_a_rig_file_that_is_not_on_the_player_s_machine_is_named(graph, start, replay, make, tmp_path):
    path = rig_file(tmp_path / "rig.yaml", make)
    start(cameras=None, rig_file=str(path))
    path.unlink()
    run = replay(record_drive(tmp_path / "drive", make), "--step").run()
    assert isinstance(run.error, ConfigError)
    assert str(run.error).startswith(f"/occupancy_node cannot be followed from here: {path}: no such file")


def test_what_may_keep_sets_from_being_answered_is_said_before_the_replay(graph, start, replay, make, tmp_path, capfd):
    start(reliable=False, reliable_cameras=["front", "left"], calibration_timeout=0.0)
    infos = [f"/{camera}/camera_info" for camera in make.CAMERAS]
    images = [f"/{camera}/image_raw/compressed" for camera in make.CAMERAS]
    bag = record_drive(tmp_path / "drive", make)
    run = replay(bag, "--step", "--rate", 0, "--step-timeout", 0.5, "--topics", "/tf", "/tf_static", *images).run()
    assert isinstance(run.error, Unanswered)
    said = capfd.readouterr().err
    assert "/occupancy_node may miss images of right: for a lossless replay set its parameter reliable" in said
    assert f"/occupancy_node needs calibration on {', '.join(infos)}, and nobody publishes it" in said


def test_a_node_of_another_kind_behind_the_results_is_named(graph, replay, make, tmp_path):
    graph.publisher(SemanticOccupancy, TOPIC)
    run = replay(record_drive(tmp_path / "drive", make), "--step", "--wait", 10).run()
    assert isinstance(run.error, ReplayError) and not isinstance(run.error, Unanswered)
    assert str(run.error).startswith("/probe lacks one of the parameters cameras, ")
