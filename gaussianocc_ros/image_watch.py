# SPDX-License-Identifier: Apache-2.0
"""A look at the images themselves every few seconds, beside the thread that predicts: a lens that is dirty or out of
focus, a camera that is dark, frozen or upside down."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import numpy as np

from gaussianocc_core.onboarding.doctor.findings import WRONG, Finding
from gaussianocc_core.onboarding.doctor.live import LiveImages
from gaussianocc_ros.gather import Gathered


class ImageWatch:
    """`offer` every set; a few of them are looked at."""

    def __init__(self, static_masks: Mapping[str, np.ndarray], on_failure: Callable[[Exception], None]) -> None:
        """static_masks: by camera, false where it sees the robot; on_failure: called by the thread that looks."""
        self._images = LiveImages(static_masks)
        self._on_failure = on_failure
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="watch")
        self._work: Future[None] | None = None
        self._last = -np.inf  # monotonic
        self._found: Mapping[str, tuple[Finding, ...]] = {}  # replaced, never changed: several threads read it

    def offer(self, gathered: Gathered, period: float) -> None:
        """Takes no time. period: s between looks; 0: none."""
        now = time.monotonic()
        if not period or now - self._last < period or (self._work is not None and not self._work.done()):
            return
        self._last = now
        with suppress(RuntimeError):  # closed meanwhile: a set was still in work
            self._work = self._thread.submit(self._look, gathered)

    def _look(self, gathered: Gathered) -> None:
        try:
            self._found = self._images.look(gathered.images, gathered.cameras, gathered.T_fixed_ego)
        except Exception as error:  # it must not end what it watches
            self._found = {}  # what was found before is no longer known
            self._on_failure(error)

    @property
    def said(self) -> dict[str, str]:
        """Camera -> what is worst of its images and what to do; those that are fine are left out."""
        found = {
            camera: sorted(findings, key=lambda each: each.verdict != WRONG)[0]
            for camera, findings in self._found.items()
            if findings
        }
        return {camera: f"{camera}: {each.reason}; {each.fix}" for camera, each in found.items()}

    @property
    def blind(self) -> tuple[str, ...]:
        """The cameras whose images say nothing of what is there now."""
        return tuple(c for c, findings in self._found.items() if any(each.verdict == WRONG for each in findings))

    def value_of(self, camera: str) -> str:
        """For diagnostics: its kinds of trouble, or ok."""
        findings = self._found.get(camera)
        if findings is None:
            return "not looked at"
        return ", ".join(each.kind for each in findings) or "ok"

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
