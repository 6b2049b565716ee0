# SPDX-License-Identifier: Apache-2.0
"""Runs at every start of the venv's Python (bootstrap.py installs it with a .pth file), so nothing needs sourcing.

Kept to a few microseconds of work: every interpreter start pays for it.
"""

import glob
import os
import sys


def _prepend(variable, paths):
    present = [p for p in os.environ.get(variable, "").split(os.pathsep) if p]
    missing = [p for p in paths if p not in present]
    if missing:
        os.environ[variable] = os.pathsep.join(missing + present)
    return bool(missing)


def _use_source_tree():
    # Before site-packages, which holds the generated gaussianocc_ros.msg and would hide the modules of the source
    # tree; after PYTHONPATH, so that an overlay sourced on purpose still wins.
    root = os.path.dirname(sys.prefix)
    site_packages = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [p for p in sys.path if p != root]
    sys.path.insert(sys.path.index(site_packages) if site_packages in sys.path else len(sys.path), root)


def _use_libraries():
    # The loader reads LD_LIBRARY_PATH once, at process start: hence the re-execution. The ROS wheels do the same, but
    # trust their guard variable alone; a child that inherits it without the path could not import rclpy.
    lib = os.path.join(sys.prefix, "lib")
    if lib in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep):
        return
    bundled = glob.glob(os.path.join(os.path.dirname(os.path.abspath(__file__)), "ros_*.libs"))
    _prepend("LD_LIBRARY_PATH", [lib, *sorted(bundled)])
    os.environ["_ROS_WHEELS_BOOTSTRAP_COMPLETE"] = "1"
    os.execv(sys.executable, sys.orig_argv)


if sys.platform == "linux":
    _prepend("AMENT_PREFIX_PATH", [sys.prefix])
    # Kernels stay compiled between runs and the source tree stays clean.
    os.environ.setdefault("NUMBA_CACHE_DIR", os.path.join(sys.prefix, "cache", "numba"))
    # Waiting threads must not spin: beside other busy processes torch then takes three times the CPU (measured).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _use_libraries()
_use_source_tree()
