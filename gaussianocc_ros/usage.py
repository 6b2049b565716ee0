# SPDX-License-Identifier: Apache-2.0
"""`--help` of the nodes: ROS hands a program's other arguments on, so that it would start instead."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable
from typing import Any


def print_help_if_asked(program: str, about: str, parameters: Iterable[tuple[str, Any, str]]) -> None:
    """Ends the process with the help where --help or -h is among its own arguments, before --ros-args.

    parameters: name, default and what it is.
    """
    own = sys.argv[1:]
    own = own[: own.index("--ros-args")] if "--ros-args" in own else own
    if not {"-h", "--help"} & set(own):
        return
    module = f"python -m gaussianocc_ros.{program}"
    print(f"usage: {module} [--ros-args [--params-file FILE] [-p NAME:=VALUE ...] [-r FROM:=TO ...]]")
    print(f"   or: ros2 run gaussianocc_ros {program} [--ros-args ...]\n")
    print("\n".join(textwrap.wrap(about, 100)), "\n\nparameters:")
    for name, default, text in parameters:
        print(f"  {name} ({_shown(default)})")
        print(textwrap.indent("\n".join(textwrap.wrap(text, 92)), "      "))
    print(f"\nexample:\n  {module} --ros-args --params-file config/ros/occupancy_node.yaml")
    sys.exit(0)


def _shown(default: Any) -> str:
    if isinstance(default, (tuple, list)):
        return f"[{', '.join(map(str, default))}]"
    if isinstance(default, bool):
        return str(default).lower()
    return repr(default) if isinstance(default, str) else str(default)
