# SPDX-License-Identifier: Apache-2.0
"""A node as a program: from ROS arguments to its exit status, with Ctrl-C at any moment."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable
from typing import NoReturn, TypeVar

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from gaussianocc_core.errors import GaussianOccError
from gaussianocc_core.mistakes import one_line
from gaussianocc_ros.startup import USER_MISTAKE, ignore_interrupt, leave_interrupt_to_ros

N = TypeVar("N", bound=Node)


def run_node(
    program: str, make: Callable[[], N], args: list[str] | None = None, begin: Callable[[N], int] = lambda node: 0
) -> None:
    """Makes the node and spins it until it is asked to end. A user's mistake is one line and status 2.

    begin: before it spins; another status than 0 ends the program with it.
    """
    with contextlib.suppress(KeyboardInterrupt):  # one that arrives while another exception is being handled
        _run(program, make, args, begin)


def _run(program: str, make: Callable[[], N], args: list[str] | None, begin: Callable[[N], int]) -> None:
    node, initialized = None, False
    try:
        rclpy.init(args=args)
        initialized = True
        leave_interrupt_to_ros()
        warnings.filterwarnings("ignore", "Failed to fini", RuntimeWarning)  # Ctrl-C while rclpy makes the node
        try:
            node = make()
        except OSError as error:  # an address that is taken, a folder that cannot be read; later it is a fault of ours
            _refuse(program, error)
        if status := begin(node):
            sys.exit(status)
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except GaussianOccError as error:
        _refuse(program, error)
    except Exception as error:
        if rclpy.ok():
            raise
        if not initialized:  # unreadable ROS arguments: a --params-file that is absent or no YAML, a bad -p or -r
            _refuse(program, f"ROS arguments {sys.argv[1:]}: {error}")
        # Otherwise Ctrl-C closed the context in the middle of a call.
    finally:
        ignore_interrupt()
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
        ignore_interrupt()


def _refuse(program: str, why: object) -> NoReturn:
    print(f"{program}: {one_line(why)}", file=sys.stderr)
    sys.exit(USER_MISTAKE)
