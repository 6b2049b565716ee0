# SPDX-License-Identifier: Apache-2.0
"""What a newcomer does: the demo, a report on its bag, the viewer in a browser; the same for a real drive."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.browser import Tab, browser, why_no_browser

pytestmark = [pytest.mark.ros, pytest.mark.slow]
ROOT = Path(__file__).parents[2]


def run(*arguments):
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@contextmanager
def viewer(bag, log):
    """The page's address."""
    command = [sys.executable, "-m", "gaussianocc_core.view", str(bag), "--port", "0"]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
    try:
        found = None
        while found is None:
            assert process.poll() is None, log.read_text()
            found = re.search(r"http://[\w.:]+", log.read_text())
        yield found.group(0)
    finally:
        process.terminate()
        process.wait(30)


def look_at(bag, tmp_path):
    """Report and page of a bag with the shipped weights."""
    run(
        "-m",
        "gaussianocc_core.report",
        str(bag),
        "tiny",
        "--output",
        str(tmp_path / "report"),
        "--every",
        "4",
        "--no-video",
    )
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<table" in page and "data:image" in page and "http://" not in page.replace("http://www.w3.org", "")
    if why_no_browser():
        pytest.skip(why_no_browser())
    with browser() as chromium, viewer(bag, tmp_path / "view.log") as url:
        tab = Tab(chromium, url)
        assert tab.wait_for(lambda t: "model tiny" in t.text() and "% of what cameras see" in t.text(), 180)
        assert tab.picture().std() > 10 and tab.errors == []
        tab.close()


def test_from_the_demo_to_a_page_in_the_browser(tmp_path):
    said = run("-m", "gaussianocc_ros.demo", "--output", str(tmp_path / "demo"), "--keyframes", "2")
    assert "a flat road and nothing else" in said and "make view" in said
    (bag,) = (tmp_path / "demo" / "bag").iterdir()
    look_at(bag, tmp_path)


def test_a_real_drive_with_shipped_weights(shared_data, tmp_path):
    look_at(shared_data / "data" / "kitti_drive_0001", tmp_path)
