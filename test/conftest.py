# SPDX-License-Identifier: Apache-2.0
"""Shared by all tests: isolation of the ROS graph, the shared data folder, nodes in processes of their own."""

import atexit
import inspect
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from gaussianocc_ros.isolation import isolated_graph

ROOT = Path(__file__).resolve().parents[1]

# Before anything imports rclpy, torch or numba, which read these once. Each test process gets a ROS graph of its own.
os.environ.update(isolated_graph())
os.environ["ROS_LOG_DIR"] = tempfile.mkdtemp(prefix="gaussianocc_ros_log_")
atexit.register(shutil.rmtree, os.environ["ROS_LOG_DIR"], ignore_errors=True)
# Nor does a test find what another session exported and compiled.
os.environ["GAUSSIANOCC_CACHE"] = tempfile.mkdtemp(prefix="gaussianocc_cache_")
atexit.register(shutil.rmtree, os.environ["GAUSSIANOCC_CACHE"], ignore_errors=True)
# The tests' tensors are small: beyond a few threads, only the overhead grows.
for _variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_variable, str(min(4, os.cpu_count() or 1)))


def pytest_configure(config):
    import hypothesis

    # The first example of a property may compile a kernel: no deadline. The same examples on every machine.
    hypothesis.settings.register_profile("repository", deadline=None, derandomize=True, database=None)
    hypothesis.settings.load_profile("repository")
    _let_numba_see_through_type_checks()


def _let_numba_see_through_type_checks():
    # The jaxtyping hook wraps every function of the core, and Numba cannot compile the wrapper.
    import numba

    def unwrapping(jit):
        def wrapper(*arguments, **options):
            if len(arguments) == 1 and inspect.isfunction(arguments[0]):
                return jit(inspect.unwrap(arguments[0]), **options)
            decorate = jit(*arguments, **options)
            return lambda function: decorate(inspect.unwrap(function))

        return wrapper

    for name in ("jit", "njit", "vectorize", "guvectorize"):
        setattr(numba, name, unwrapping(getattr(numba, name)))


def pytest_collection_modifyitems(items):
    reasons = {"gpu": _why_no_gpu, "ros": _why_no_ros}
    for mark, reason in reasons.items():
        marked = [item for item in items if item.get_closest_marker(mark)]
        if marked and (why := reason()):
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=why))


def _why_no_gpu():
    import torch

    return None if torch.cuda.is_available() else "no CUDA device"


def _why_no_ros():
    try:
        import rclpy  # noqa: F401

        from gaussianocc_ros.msg import SemanticOccupancy  # noqa: F401
    except ImportError as error:
        return f"no ROS 2 with this package's messages: {error}"
    return None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder that holds the shared test data (`data/` and `golden/`); skips where there is none."""
    named = os.environ.get("GAUSSIANOCC_TEST_DATA")
    folder = ROOT.parent / "shared" if named is None else Path(named)
    if named == "" or not (folder / "data").is_dir():
        where = "GAUSSIANOCC_TEST_DATA is empty" if named == "" else f"{folder}/data does not exist"
        pytest.skip(f"no shared test data: {where}")
    return folder


# Where a script runs the tests with `&`, Ctrl-C is ignored, and every program under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


class SpawnedProcess:
    """A Python program under test, in the tests' ROS graph; output and errors go to one log file."""

    def __init__(self, command: list[str], log: Path, env: dict[str, str], cwd: Path):
        self._log = log
        with log.open("wb") as stream:
            self.popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, env=env, cwd=cwd
            )

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for(self, pattern: str, timeout: float = 60.0) -> re.Match[str]:
        """The first match in the output so far or to come."""
        deadline = time.monotonic() + timeout
        while True:
            ended = self.popen.poll() is not None
            if match := re.search(pattern, self.output):
                return match
            if ended or time.monotonic() > deadline:
                why = f"ended with {self.popen.returncode}" if ended else f"{timeout} s passed"
                raise AssertionError(f"{why} before {pattern!r} was printed; output:\n{self.output}")
            time.sleep(0.05)

    def wait(self, timeout: float = 60.0) -> int:
        """The exit status."""
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s; output:\n{self.output}") from None

    def stop(self, timeout: float = 15.0) -> int:
        """The exit status after Ctrl-C."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGINT)
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise AssertionError(f"did not stop within {timeout} s of Ctrl-C; output:\n{self.output}") from None


@pytest.fixture
def spawn(tmp_path):
    """spawn("-m", "gaussianocc_ros.occupancy_node", "--ros-args", ...) -> SpawnedProcess, stopped after the test."""
    processes = []

    def start(*arguments: object, env: dict[str, str] | None = None, cwd: Path = ROOT) -> SpawnedProcess:
        command = [sys.executable, *(str(argument) for argument in arguments)]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        processes.append(SpawnedProcess(command, tmp_path / f"process_{len(processes)}.log", environment, cwd))
        return processes[-1]

    yield start
    for process in processes:
        if process.popen.poll() is None:
            process.popen.send_signal(signal.SIGINT)
            try:
                process.popen.wait(5)
            except subprocess.TimeoutExpired:
                process.popen.kill()
                process.popen.wait()
