# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C during a run."""

from __future__ import annotations

import signal
import threading


class Interrupt:
    """Ctrl-C asks the loop to save and stop after the current step; a second one stops at once."""

    wanted = False

    def __enter__(self) -> Interrupt:
        in_main = threading.current_thread() is threading.main_thread()  # where alone signals can be caught
        self._before = signal.signal(signal.SIGINT, self._ask) if in_main else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, *_: object) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True
