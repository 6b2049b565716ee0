# SPDX-License-Identifier: Apache-2.0
"""How this package's programs end: their exit statuses, and Ctrl-C from the first import to the end.

While it loads: importing torch takes seconds, and an interrupt in it is a page of traceback. Later: a KeyboardInterrupt
can come anywhere. Where it leaves an `eval` of text, as in an import, Python ends by the signal although it was caught.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

USER_MISTAKE = 2  # exit status of every program: an argument, a file or a setting that cannot be used
INTERRUPTED = 130  # of the demo; as a shell says it of a process that SIGINT ended
# Node and player end with 0 by Ctrl-C: that is how they are ended, and what launch and supervisors expect.
_SCRIPTS = ("occupancy_node", "bag_player", "web_viewer")  # the entry points of setup.cfg
_ros_has_it = False


def runs_a_program() -> bool:
    """Whether this package is imported to run one of its modules (python says "-m" until it found it) or scripts."""
    return bool(sys.argv) and (sys.argv[0] == "-m" or os.path.basename(sys.argv[0]) in _SCRIPTS)


def quit_on_interrupt() -> None:
    """From now on Ctrl-C ends the process at once, silently, with status 0 of node and player, else 130.

    Not by an exception: extension modules turn one that is raised while they load into another, or lose it.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a parent has it ignored
        signal.signal(signal.SIGINT, _quit)


def raise_on_interrupt() -> None:
    """Everything is loaded: Ctrl-C is a KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _quit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def leave_interrupt_to_ros() -> None:
    """After rclpy.init: Ctrl-C raises nothing here any more; it closes the context, as SIGTERM does.

    Installs no handler, because that would replace rclpy's, which calls ours.
    """
    global _ros_has_it
    _ros_has_it = True


def ignore_interrupt() -> None:
    """Tidying up is under way; launch and a terminal may both send one. Again after rclpy put the old handler back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _quit(number: int, frame: FrameType | None) -> None:
    if not _ros_has_it:
        named = {part.replace(".", "/").rpartition("/")[2] for part in sys.orig_argv}
        os._exit(0 if named & set(_SCRIPTS) else INTERRUPTED)
