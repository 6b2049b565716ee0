# SPDX-License-Identifier: Apache-2.0
"""Message packages that a test needs and ROS 2 from wheels lacks: generated and built as colcon does it, and loaded."""

from __future__ import annotations

import ctypes
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_CMAKE = """\
cmake_minimum_required(VERSION 3.20)
project({package})
find_package(ament_cmake REQUIRED)
find_package({needs} REQUIRED)
find_package(rosidl_default_generators REQUIRED)
rosidl_generate_interfaces(${{PROJECT_NAME}} "msg/{name}.msg" DEPENDENCIES {needs})
ament_package()
"""


def build_message(folder: Path, msgtype: str, definition: str, needs: str) -> None:
    """Afterwards `import PACKAGE.msg` works in this process. Half a minute; skips where nothing can be built."""
    package, _, name = msgtype.split("/")
    if _importable(package):
        return
    prefix, bin_folder = folder / "install", Path(sys.prefix) / "bin"
    path = os.pathsep.join([str(bin_folder), os.environ["PATH"]])
    cmake = shutil.which("cmake", path=path)
    if cmake is None or not (Path(sys.prefix) / "share" / "rosidl_default_generators").is_dir():
        pytest.skip(f"{package} is not installed, and cannot be built here")
    source = folder / package
    (source / "msg").mkdir(parents=True)
    (source / "msg" / f"{name}.msg").write_text(definition)
    (source / "CMakeLists.txt").write_text(_CMAKE.format(package=package, name=name, needs=needs))
    about = (Path(__file__).resolve().parents[2] / "tools/setup/tf2_msgs/package.xml").read_text()
    about = about.replace("<name>tf2_msgs", f"<name>{package}").replace("geometry_msgs", needs)
    (source / "package.xml").write_text(about)
    environment = {**os.environ, "PATH": path, "AMENT_PREFIX_PATH": sys.prefix, "CMAKE_PREFIX_PATH": sys.prefix}
    generator = ["-G", "Ninja"] if shutil.which("ninja", path=path) else []
    options = {"CMAKE_INSTALL_PREFIX": prefix, "Python3_EXECUTABLE": sys.executable, "BUILD_TESTING": "OFF"}
    defined = [f"-D{key}={value}" for key, value in options.items()]
    for command in (
        [cmake, *generator, "-S", source, "-B", folder / f"build_{package}", *defined],
        [cmake, "--build", folder / f"build_{package}", "--parallel", "2"],
        [cmake, "--install", folder / f"build_{package}"],
    ):
        subprocess.run(command, env=environment, check=True, capture_output=True)
    # The loader has read its variable already; rmw reads it when it looks for type support.
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join([str(prefix / "lib"), os.environ.get("LD_LIBRARY_PATH", "")])
    for part in (
        "generator_c",
        "typesupport_c",
        "typesupport_introspection_c",
        "typesupport_fastrtps_c",
        "generator_py",
    ):
        ctypes.CDLL(str(prefix / "lib" / f"lib{package}__rosidl_{part}.so"), mode=ctypes.RTLD_GLOBAL)
    site = next(prefix.glob("lib/python*/site-packages"))
    if str(site) not in sys.path:
        sys.path.append(str(site))
    importlib.invalidate_caches()
    assert _importable(package)


def _importable(package: str) -> bool:
    try:
        importlib.import_module(f"{package}.msg")
    except ImportError:
        return False
    return True
