# SPDX-License-Identifier: Apache-2.0
"""The whole command, on a recording with truth and on one without."""

import re

import cv2
import pytest
from support.rigs import ring
from support.synthetic_bags import convert, make_dataset

from gaussianocc_core import report

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("street") / "data", ring((0.0, 180.0)), 3, 5)


def test_a_bag_gets_a_page_that_needs_nothing_from_outside(street, tmp_path, capsys):
    bag = convert(street, tmp_path / "bags")
    capsys.readouterr()
    assert report.main([str(bag), "tiny", "--output", str(tmp_path / "out"), "--every", "4"]) == 0
    said = capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text()
    assert str(tmp_path / "out" / "report.html") in said and re.search(r"^grey +depth against classical", said, re.M)
    assert set(re.findall(r'src="([^"]{10})', page)) == {"report.mp4", "data:image"}
    assert re.findall(r"(?:href|url)[=(]", page) == []
    assert page.count("data:image/jpeg") >= 4 and "Worst and best moments" in page
    assert "flat ground, looking at no image" in page and "DEPTH along the optical axis" in page
    video = cv2.VideoCapture(str(tmp_path / "out" / "report.mp4"))
    frames = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    assert frames == int(re.search(r"(\d+) moments of 1 scene;", page)[1]) and frames >= 3


def test_a_checkpoint_of_the_first_stage_is_refused_with_the_command_for_it(street, tmp_path, capsys):
    assert report.main([str(street), "tiny_stage1", "--output", str(tmp_path / "out")]) == 2
    assert "holds no occupancy network" in (error := capsys.readouterr().err) and "gaussianocc_core.evaluate" in error


def test_an_impossible_step_is_refused(street, tmp_path, capsys):
    assert report.main([str(street), "tiny", "--output", str(tmp_path / "out"), "--every", "0"]) == 2
    assert "--every: expected 1 or more" in capsys.readouterr().err and not (tmp_path / "out").exists()
