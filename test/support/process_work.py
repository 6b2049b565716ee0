# SPDX-License-Identifier: Apache-2.0
"""What test_processes.py gives to worker processes, which import it by name."""

import os
import signal
import time
from pathlib import Path

from gaussianocc_core.errors import DatasetError


def work(argument, on_step):
    if isinstance(argument, tuple):
        path = Path(argument[1])
        path.write_text("in progress")
        try:
            time.sleep(60)
        finally:
            path.unlink()
    if argument == "user":
        raise DatasetError("the file is gone")
    if argument == "bug":
        return 1 / 0
    if argument.startswith("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if argument.startswith("slow"):
        time.sleep(0.2)
    on_step(1)
    on_step(2)
    return f"{argument} done"
