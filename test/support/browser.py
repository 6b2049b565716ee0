# SPDX-License-Identifier: Apache-2.0
"""The machine's Chromium without a window, driven by Playwright; its WebGL runs on the CPU."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np

SIZE = {"width": 1280, "height": 720}  # px
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")


def why_no_browser() -> str:
    """ "" where there is one."""
    try:
        import playwright  # noqa: F401
        import viser  # noqa: F401
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed; run `make setup`"
    if find_chromium() is None:
        return "no Chromium on this machine; on Debian: apt-get install chromium"
    return ""


def find_chromium() -> str | None:
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


@contextmanager
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=find_chromium(), args=list(_FLAGS))
        try:
            yield chromium
        finally:
            chromium.close()


class Tab:
    """One page that somebody looks at, and all that it complained of."""

    def __init__(self, chromium: Any, url: str) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page = chromium.new_page(viewport=SIZE)
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)

    def picture(self) -> np.ndarray:
        """(H, W, 3) RGB of what the canvas shows, without the controls at its right."""
        data = np.frombuffer(self.page.screenshot(), np.uint8)
        return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)[:, : SIZE["width"] - 400]

    def wait_for(self, condition: Any, seconds: float = 60.0) -> bool:
        """Whether condition(self) holds within the time; the page goes on meanwhile."""
        for _ in range(int(4 * seconds)):
            if condition(self):
                return True
            self.page.wait_for_timeout(250)
        return False

    def text(self) -> str:
        return str(self.page.inner_text("body"))

    def select(self, label: str, option: str) -> None:
        self.page.get_by_label(label, exact=True).first.click()
        self.page.get_by_role("option", name=option, exact=True).first.click()

    def check(self, label: str) -> None:
        self.page.get_by_label(label, exact=True).first.click()

    def close(self) -> None:
        self.page.close()
