# SPDX-License-Identifier: Apache-2.0
"""A recording that loops: the node goes on in each pass, and says only once that time has stepped back."""

import re
import signal
import threading
from itertools import pairwise

import pytest

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from nav_msgs.msg import OccupancyGrid
from rclpy.qos import DurabilityPolicy, QoSProfile
from support.replay import record_drive
from tf2_msgs.msg import TFMessage

from gaussianocc_ros.stamps import stamp_ns

MS = 1_000_000
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
FAR_MS = 20_000  # farther back than TF remembers
STEPPED_BACK = "stamps stepped back, as when a recording loops: synchronisation begins afresh"


def warnings(log):
    """What was said, without level, time and name."""
    return re.findall(r"\[WARN\] \[[\d.]+\] \[occupancy_node\]: (.*)", log)


@pytest.mark.parametrize("fusion", [False, True], ids=["plain", "fusion"])
def test_sets_that_wait_or_are_in_work_at_the_end_of_a_pass_cause_no_warnings(rig, make, fusion, monkeypatch):
    """TF forgets the old pass with the first transform of the new one, the node with its first image."""
    from gaussianocc_ros import reporting

    monkeypatch.setattr(reporting, "_WARN_PERIOD", 0.0)  # nothing is kept back
    robot = rig(reliable=False, reliable_cameras=list(make.CAMERAS), fusion=fusion)
    grids = robot.graph.record(OccupancyGrid, "/occupancy_node/grid", LATCHED)
    robot.start()
    robot.graph.until(lambda: robot.node.count_subscribers("/occupancy_node/grid"), what="a subscription")
    robot.place()
    begun, go_on = threading.Semaphore(0), threading.Semaphore(0)
    inner = robot.node._inference.predictor.model.decide_from

    def held(*arguments):
        begun.release()
        go_on.acquire(timeout=20)
        return inner(*arguments)

    robot.node._inference.predictor.model.decide_from = held

    def move(ms):
        for each in (ms - 5, ms + 30):
            place = make.transform("odom", "base_link", make.translation(0.0001 * each), make.START_NS + each * MS)
            robot.motion.publish(TFMessage(transforms=[place]))
        robot.graph.until(lambda: robot.node._rig.ego_at(make.START_NS + ms * MS) is not None, what="odometry")

    def send(ms):
        before = robot.node._builder.statistics.sets
        move(ms)
        robot.send(ms)
        robot.graph.until(lambda: robot.node._builder.statistics.sets > before, what="a set")

    passes = 3
    for number in range(passes):
        send(0)  # in work until the next is there
        robot.graph.until(lambda: begun.acquire(blocking=False), what="the first set in work")
        go_on.release()
        robot.outputs(2 * number + 1)
        send(FAR_MS)  # in work until the next pass begins
        robot.graph.until(lambda: begun.acquire(blocking=False), what="the second set in work")
        send(FAR_MS + 100)  # waits until then
        if number == passes - 1:
            break
        move(0)
        robot.send(0, cameras=("front",))
        robot.graph.until(lambda n=number: robot.node._builder.statistics.rewinds == n + 1, what="a step back")
        go_on.release()
        robot.outputs(2 * number + 2)
        robot.settled()
    go_on.release()
    go_on.release()
    robot.outputs(2 * passes + 1)
    robot.graph.until(lambda: len(grids) >= 2 * passes + 1, what="maps")
    times = [(stamp_ns(message.header) - make.START_NS) // MS for message in robot.occupancy]
    assert times == [0, FAR_MS] * passes + [FAR_MS + 100]  # what waited at a step back is not published after it
    assert [(stamp_ns(message.header) - make.START_NS) // MS for message in grids] == times
    assert robot.values()[0]["dropped: before a step back"] == str(passes - 1)
    robot.graph.until(lambda: robot.logged(STEPPED_BACK), what="a warning")
    # The stamps are of 2018, and here the node has the wall clock.
    assert [each for each in warnings(robot._log) if "this node's clock" not in each] == [STEPPED_BACK]


@pytest.mark.medium
@pytest.mark.parametrize("fusion", ["false", "true"])
def test_a_player_that_loops_makes_the_node_warn_once(graph, spawn, checkpoint, make, tmp_path, fusion):
    """Passes of 12 s, played six times as fast, with /clock."""
    values = {
        "cameras": f"[{', '.join(make.CAMERAS)}]",
        "checkpoint": checkpoint,
        "device": "cpu",
        "warm_up": "false",
        "use_sim_time": "true",
        "fusion": fusion,
        "warn_age": "0.0",
        "error_age": "0.0",
    }
    options = [word for name, value in values.items() for word in ("-p", f"{name}:={value}")]
    grids = graph.record(OccupancyGrid, "/occupancy_node/grid", LATCHED)
    node = spawn("-m", "gaussianocc_ros.occupancy_node", "--ros-args", *options)
    node.wait_for("cameras front", 120)
    graph.until_known_by("/occupancy_node", 120, lambda: node.output)
    bag = record_drive(tmp_path / "drive", make, sets=120)
    player = spawn("-m", "gaussianocc_ros.bag_player", bag, "--loop", "--clock", "--rate", 6)

    def passes():
        stamps = [stamp_ns(message.header) for message in grids]
        return sum(later < earlier for earlier, later in pairwise(stamps))

    graph.until(lambda: passes() >= 4 or player.popen.poll() is not None, 120, "four passes")
    assert player.stop() == 0
    node.popen.send_signal(signal.SIGINT)
    assert node.wait() == 0
    said = [each for each in warnings(node.output) if "no image from any camera" not in each]  # before the first pass
    assert said == [STEPPED_BACK], node.output
