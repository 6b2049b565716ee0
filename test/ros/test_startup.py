# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C at every stage of a program's start, in real processes: never a traceback."""

import re
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="no ROS 2")
pytest.importorskip("gaussianocc_ros.msg", reason="the messages are not built")

from gaussianocc_ros.startup import USER_MISTAKE

ROOT = Path(__file__).resolve().parents[2]
TRACE = ("-X", "importtime")  # Python then writes a line for each module that it has loaded


def loaded(module):
    return rf"import time: .*\| +{re.escape(module)}\n"


def said(process):
    """The output without Python's own lines about imports."""
    return [line for line in process.output.splitlines() if not line.startswith("import time:")]


@pytest.mark.medium
@pytest.mark.parametrize(
    "program, module",
    [
        ("occupancy_node", "gaussianocc_ros"),
        ("occupancy_node", "numpy"),
        ("occupancy_node", "torch._C"),
        ("bag_player", "gaussianocc_ros"),
        ("bag_player", "numpy"),
        ("demo", "gaussianocc_ros"),
        ("demo", "torch._C"),
    ],
)
def test_ctrl_c_while_modules_load_ends_silently_with_the_program_s_status(spawn, program, module):
    for _ in range(5):
        process = spawn(*TRACE, "-m", f"gaussianocc_ros.{program}")
        process.wait_for(loaded(module))
        if (status := process.stop()) != USER_MISTAKE:
            break  # otherwise it had ended, for want of arguments, before the signal came: the machine is busy
    assert status == (130 if program == "demo" else 0)
    assert said(process) == []


@pytest.mark.medium
@pytest.mark.parametrize("program", ["occupancy_node", "bag_player"])
def test_ctrl_c_while_an_installed_script_loads_ends_silently_with_0(spawn, program, tmp_path):
    text = (ROOT / "tools" / "setup" / "executable.py.in").read_text()
    script = tmp_path / program
    script.write_text(text.replace("@module@", f"gaussianocc_ros.{program}").replace("@function@", "main"))
    process = spawn(*TRACE, script)
    process.wait_for(loaded("gaussianocc_ros"))
    assert process.stop() == 0
    assert said(process) == []


@pytest.mark.medium
@pytest.mark.parametrize("code", ["import gaussianocc_ros.bag_player", "import gaussianocc_ros"])
def test_importing_the_package_leaves_a_program_s_own_ctrl_c_alone(code):
    check = "; import signal, sys; sys.exit(signal.getsignal(signal.SIGINT) is not signal.default_int_handler)"
    assert subprocess.run([sys.executable, "-c", code + check], cwd=ROOT, check=False).returncode == 0


@pytest.mark.medium
def test_a_parent_s_wish_to_ignore_ctrl_c_is_kept():
    """As a shell script does for what it starts with `&`."""
    code = (
        "import sys; sys.argv[0] = 'bag_player'; import gaussianocc_ros, signal; "
        "sys.exit(signal.getsignal(signal.SIGINT) is not signal.SIG_IGN)"
    )
    ignore = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, preexec_fn=ignore).returncode == 0


@pytest.fixture
def warming_up(spawn, graph, full_size_checkpoint):
    """A node whose network warms up, which takes a second. Its name is its own: those of earlier tests linger."""
    process = spawn(
        "-m",
        "gaussianocc_ros.occupancy_node",
        "--ros-args",
        "--params-file",
        "config/ros/occupancy_node.yaml",
        "-p",
        "device:=cpu",
        "-p",
        f"checkpoint:={full_size_checkpoint}",
        "-r",
        "__node:=warms_up",
    )

    def is_up():
        assert process.popen.poll() is None, process.output
        return "warms_up" in graph.probe.get_node_names()

    graph.until(is_up, 180, "the node")
    return process


def assert_quiet(process):
    assert [line for line in process.output.splitlines() if "[INFO]" not in line] == []


@pytest.mark.medium
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_or_a_termination_while_the_network_warms_up_ends_cleanly(warming_up, number):
    warming_up.popen.send_signal(number)
    assert warming_up.wait() == 0
    assert_quiet(warming_up)


@pytest.mark.medium
def test_ctrl_c_again_and_again_until_the_very_end_ends_cleanly(warming_up):
    deadline = time.monotonic() + 60
    while warming_up.popen.poll() is None and time.monotonic() < deadline:
        warming_up.popen.send_signal(signal.SIGINT)
        time.sleep(0.002)
    assert warming_up.wait() == 0
    assert_quiet(warming_up)


@pytest.mark.medium
def test_ctrl_c_that_leaves_evaluated_text_ends_with_the_node_s_own_status(spawn):
    """Python ends by the signal where a KeyboardInterrupt has left `eval` of text, which imports do, though caught."""
    code = """
        import sys; sys.argv[0] = "occupancy_node"
        from gaussianocc_ros import occupancy_node

        class Interrupted(occupancy_node.OccupancyNode):
            def __init__(self):
                eval("[__import__('os').kill(__import__('os').getpid(), 2)] + list(map(str, range(10000)))")
                super().__init__()

        occupancy_node.OccupancyNode = Interrupted
        occupancy_node.main(["occupancy_node", "--ros-args", "-p", "cameras:=[front]"])
    """
    process = spawn("-c", textwrap.dedent(code))
    assert process.wait() == 0
    assert_quiet(process)


@pytest.mark.medium
@pytest.mark.parametrize("program", ["occupancy_node", "web_viewer"])
def test_help_helps_and_starts_nothing(program):
    done = subprocess.run(
        [sys.executable, "-m", f"gaussianocc_ros.{program}", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 and not done.stderr
    assert "usage:" in done.stdout and "fixed_frame ('odom')" in done.stdout and "example:" in done.stdout
