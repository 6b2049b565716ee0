# SPDX-License-Identifier: Apache-2.0
"""Plays a recording on the page: runs the model as it goes, keeps what it computed, and sleeps while nobody looks."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from gaussianocc_core.errors import GaussianOccError
from gaussianocc_core.mistakes import one_line
from gaussianocc_core.viewer.drive import Drive
from gaussianocc_core.viewer.moment import Memory, Moment
from gaussianocc_core.viewer.page import Timeline, plain

_log = logging.getLogger(__name__)


@runtime_checkable
class Screen(Protocol):
    """What a player needs of the page."""

    on_seek: Callable[[int], None]
    on_play: Callable[[bool, float], None]
    on_scene: Callable[[str], None]
    on_viewers: Callable[[int], None]

    @property
    def viewers(self) -> int: ...

    def show(self, moment: Moment, number: int | None = None) -> None: ...

    def say(self, text: str) -> None: ...

    def set_playing(self, playing: bool) -> None: ...

    def set_timeline(self, timeline: Timeline) -> None: ...


class Player:
    """One thread computes; the page's controls say what."""

    def __init__(self, page: Screen, open_drive: Callable[[str], Drive], scenes: tuple[str, ...], drive: Drive) -> None:
        """open_drive: by scene; drive: the first scene's, open already."""
        self.page, self.memory = page, Memory()
        self._open_drive, self._scenes, self._drive = open_drive, scenes, drive
        self._changed = threading.Condition()
        self._number, self._shown = 0, -1
        self._playing, self._speed = False, 1.0
        self._scene = drive.scene
        self._closed = False
        page.on_seek, page.on_play, page.on_scene = self.seek, self.play, self.choose
        page.on_viewers = lambda count: self._wake()
        self._thread = threading.Thread(target=self._run, name="player", daemon=True)
        self._thread.start()

    @property
    def number(self) -> int:
        return self._shown

    def seek(self, number: int) -> None:
        with self._changed:
            self._number = min(max(number, 0), len(self._drive) - 1)
            self._changed.notify_all()

    def play(self, playing: bool, speed: float = 1.0) -> None:
        """speed: times that of the recording; 0: as fast as it can be computed."""
        with self._changed:
            if playing and not self._playing and self._number >= len(self._drive) - 1:
                self._number = 0
            self._playing, self._speed = playing, speed
            self._changed.notify_all()
        self.page.set_playing(playing)

    def choose(self, scene: str) -> None:
        with self._changed:
            self._scene = scene
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(timeout=30.0)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _busy(self) -> bool:
        """Whether there is something to do: only for somebody who looks."""
        if self._closed:
            return True
        return bool(self.page.viewers) and (
            self._playing or self._number != self._shown or self._scene != self._drive.scene
        )

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._busy)
                if self._closed:
                    return
                number, scene = self._number, self._scene
            begin = time.monotonic()
            try:
                if scene != self._drive.scene:
                    self._change_scene(scene)
                    continue
                self._show(number)
            except GaussianOccError as error:
                self._shown = number
                self.page.say(f"**moment {number}:** {plain(one_line(error))}")
            except Exception as error:  # the page outlives what one moment does
                _log.exception("moment %d of %s", number, scene)
                self._shown = number
                self.page.say(f"**moment {number} failed:** {plain(one_line(error))}")
            self._advance(number, begin)

    def _change_scene(self, scene: str) -> None:
        self.page.say(f"opening {plain(scene)} ...")
        drive = self._open_drive(scene)
        with self._changed:
            self._drive, self._number, self._shown = drive, 0, -1
        self.page.set_timeline(timeline_of(drive, self._scenes))

    def _show(self, number: int) -> None:
        key = (self._drive.scene, number)
        if key not in self.memory:
            self.page.say(f"computing moment {number} ...")
            self.memory.keep(key, self._drive.see(number))
        self._shown = number
        self.page.show(self.memory.recall(key), number)

    def _advance(self, number: int, begin: float) -> None:
        """Waits until the next moment's turn, unless somebody wants something else."""
        stamps = self._drive.stamps_ns
        with self._changed:
            if not self._playing or self._number != number:
                return
            if number + 1 >= len(stamps):
                self._playing = False
            else:
                gap = 1e-9 * (stamps[number + 1] - stamps[number]) / self._speed if self._speed else 0.0
                left = begin + min(gap, 2.0) - time.monotonic()
                if left > 0:
                    self._changed.wait_for(lambda: self._closed or self._number != number or not self._playing, left)
                if self._playing and self._number == number:
                    self._number = number + 1
            ended = not self._playing
        if ended:
            self.page.set_playing(False)


def timeline_of(drive: Drive, scenes: tuple[str, ...]) -> Timeline:
    return Timeline(scenes, drive.scene, tuple(1e-9 * (each - drive.stamps_ns[0]) for each in drive.stamps_ns))
