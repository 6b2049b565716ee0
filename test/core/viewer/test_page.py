# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: what it shows, by its pixels; what its controls do; who may look."""

import time

import numpy as np
import pytest
from support.browser import Tab, browser, why_no_browser
from support.moments import HEDGE, road_with_hedge

from gaussianocc_core.errors import GaussianOccError
from gaussianocc_core.labels import FREE

pytestmark = [pytest.mark.medium, pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser())]


@pytest.fixture(scope="module")
def chromium():
    with browser() as found:
        yield found


@pytest.fixture
def page():
    from gaussianocc_core.viewer.page import Page, Timeline, Where

    made = Page("test", Where(port=0, viewers=2), Timeline(("made up",), "made up", tuple(np.arange(20) / 10)))
    yield made
    made.close()


@pytest.fixture
def tab(chromium, page):
    opened = Tab(chromium, page.url)
    yield opened
    opened.close()


def share(picture: np.ndarray, what: str) -> float:
    """Of the pixels, that have this colour."""
    red, green, blue = (picture[..., k].astype(int) for k in range(3))
    found = {
        "road": (red > green + 60) & (blue > green + 60),
        "hedge": (green > red + 40) & (green > blue + 30),
        "ghost": (red > green + 80) & (red > blue + 80),
    }
    return float(found[what].mean())


def test_voxels_are_there_in_their_colors_and_nothing_comes_from_outside(page, tab):
    page.show(road_with_hedge(), 0)
    assert tab.wait_for(lambda t: share(t.picture(), "road") > 0.2)
    assert share(tab.picture(), "hedge") > 0.005
    assert "by hand" in tab.text() and "6.2 m" in tab.text() and "vegetation" in tab.text()
    outside = [url for url in tab.requests if not url.removeprefix("blob:").startswith((page.url, "data:"))]
    assert outside == [] and tab.errors == []


def test_controls_change_what_is_drawn(page, tab):
    page.show(road_with_hedge(), 0)
    assert tab.wait_for(lambda t: share(t.picture(), "hedge") > 0.005)
    tab.select("show", "difference")
    assert tab.wait_for(lambda t: share(t.picture(), "ghost") > 0.002 and share(t.picture(), "road") == 0)
    tab.select("show", "prediction")
    tab.select("color", "height")
    assert tab.wait_for(lambda t: share(t.picture(), "road") == 0 and "height" in t.text())
    assert tab.errors == []


def test_the_slider_asks_for_a_time_and_follows_what_is_shown(page, tab):
    asked: list[int] = []
    page.on_seek = asked.append
    page.show(road_with_hedge(), 0)
    assert tab.wait_for(lambda t: share(t.picture(), "road") > 0.2)
    slider = tab.page.get_by_role("slider").first
    slider.focus()
    for _ in range(3):
        tab.page.keyboard.press("ArrowRight")
    assert tab.wait_for(lambda t: asked and asked[-1] == 3)
    page.show(road_with_hedge(), 1)  # what was under way before
    tab.page.wait_for_timeout(500)
    assert slider.get_attribute("aria-valuenow") == "3"  # it does not take back what somebody asks for
    page.show(road_with_hedge(), 3)
    page.show(road_with_hedge(), 7)
    assert tab.wait_for(lambda t: slider.get_attribute("aria-valuenow") == "7")
    tab.page.wait_for_timeout(500)
    assert asked[-1] == 3  # what is shown as it plays is nobody's wish


def test_two_look_at_the_same_and_a_third_is_refused(page, tab, chromium):
    page.show(road_with_hedge(), 0)
    other = Tab(chromium, page.url)
    try:
        for each in (tab, other):
            assert each.wait_for(lambda t: share(t.picture(), "road") > 0.2)
        assert page.viewers == 2
        bare = road_with_hedge(
            labels=np.where(road_with_hedge().labels == HEDGE, np.uint8(FREE), road_with_hedge().labels)
        )
        page.show(bare, 1)
        for each in (tab, other):
            assert each.wait_for(lambda t: share(t.picture(), "hedge") < 0.001)
        third = Tab(chromium, page.url)
        third.page.wait_for_timeout(3000)
        assert page.viewers == 2 and share(third.picture(), "road") == 0 and "by hand" not in third.text()
        third.close()
    finally:
        other.close()
    assert tab.wait_for(lambda t: page.viewers == 1)


def test_nothing_is_drawn_while_nobody_looks(page, chromium, monkeypatch):
    from gaussianocc_core.viewer import painting

    drawn: list[int] = []
    paint = painting.paint_voxels
    monkeypatch.setattr(painting, "paint_voxels", lambda moment, choice: drawn.append(1) or paint(moment, choice))
    page.show(road_with_hedge(), 0)
    time.sleep(1.0)
    assert drawn == []
    tab = Tab(chromium, page.url)
    assert tab.wait_for(lambda t: share(t.picture(), "road") > 0.2)
    tab.close()
    for _ in range(40):
        time.sleep(0.25)
        if not page.viewers:
            break
    before = len(drawn)
    page.show(road_with_hedge(), 1)
    time.sleep(1.0)
    assert before >= 1 and len(drawn) == before


@pytest.mark.parametrize("origin", ["http://elsewhere.example", "null"])
def test_another_site_in_the_viewers_browser_cannot_look(page, origin):
    import viser
    from websockets.exceptions import ConnectionClosedError
    from websockets.sync.client import connect

    page.show(road_with_hedge(), 0)
    url, protocol = f"ws://127.0.0.1:{page.port}", f"viser-v{viser.__version__}"
    with (
        connect(url, origin=origin, subprotocols=[protocol]) as socket,
        pytest.raises(ConnectionClosedError) as refused,
    ):
        socket.recv(timeout=10)
    assert refused.value.rcvd.code == 1008
    with connect(url, origin=f"http://127.0.0.1:{page.port}", subprotocols=[protocol]) as socket:
        assert socket.recv(timeout=10)


def test_a_port_that_is_taken_is_said(page):
    from gaussianocc_core.viewer.page import Page, Where

    with pytest.raises(GaussianOccError, match=f"127.0.0.1:{page.port} cannot be served.*another port"):
        Page("second", Where(port=page.port))


def test_names_of_a_stranger_are_shown_and_do_nothing(page, tab):
    from gaussianocc_core.viewer.page import plain

    evil = "<iframe srcdoc=\"<img src=x onerror=parent.document.title='taken'>\"></iframe> **bold** [a](javascript:1)"
    page.say(plain(evil))
    assert tab.wait_for(lambda t: "onerror" in t.text() and "**bold**" in t.text())
    assert tab.page.query_selector("iframe") is None and tab.page.title() != "taken"


def test_a_host_name_of_somebody_else_is_none_of_this_machine(page):
    import socket

    from gaussianocc_core.viewer.page import is_own_name

    own = ("localhost:8080", "127.0.0.1:8080", "[::1]:8080", "192.168.1.7", socket.gethostname() + ":8080", "robot:80")
    assert all(is_own_name(host, "robot") for host in own)
    assert not any(is_own_name(host, "127.0.0.1") for host in ("evil.example:8080", "127.0.0.1.evil.example", "", None))


def test_a_picture_is_never_higher_than_four_times_its_width():
    from gaussianocc_core.viewer.moment import PICTURE_WIDTH, picture_height

    assert picture_height(1600, 900) == 270 and picture_height(16, 65536) == 4 * PICTURE_WIDTH
    assert picture_height(65536, 16) == 2
