# SPDX-License-Identifier: Apache-2.0
"""What is drawn of a moment, by its faces, colours and figures."""

import sys

import numpy as np
import pytest
from core.viewer.test_mesh import read
from support.moments import HEDGE, HEDGE_AT, road_with_hedge

from gaussianocc_core.labels import FREE, OCCLUDED, PALETTE
from gaussianocc_core.metrics.robot import RobotConfig
from gaussianocc_core.viewer.moment import Memory
from gaussianocc_core.viewer.numbers import describe, obstacles_of
from gaussianocc_core.viewer.painting import (
    BY_CONFIDENCE,
    DEPTH,
    DIFFERENCE,
    GHOST_RGB,
    MISSED_RGB,
    TRUTH,
    Choice,
    legend,
    paint_map,
    paint_pictures,
    paint_state,
    paint_voxels,
)
from gaussianocc_core.viz.colors import height_colors


def count(glb: bytes, rgb) -> int:
    """Faces of voxels with this colour, however bright; several may be drawn as one."""
    corners, colors, *_ = read(glb)
    hues = colors[:, :3] / np.maximum(colors[:, :3].max(axis=1, keepdims=True), 1.0)
    linear = (np.array(rgb) / 255.0) ** 2.2
    sides = np.linalg.norm(corners[:, 1] - corners[:, 0], axis=1) * np.linalg.norm(
        corners[:, 3] - corners[:, 0], axis=1
    )
    return round(float(sides[np.abs(hues - linear / linear.max()).max(axis=1) < 0.14].sum()) / 0.4**2)


def test_classes_have_their_colors():
    glb = paint_voxels(road_with_hedge(), Choice())
    whole = 15 * 30 + 2 * 6 * (15 + 30)  # top and sides of the hedge
    assert 0.8 * whole < count(glb, PALETTE[HEDGE]) <= whole  # some lie in the shadow, too dark to tell
    assert len(read(glb)[0]) < 3_000  # where 41,000 voxels show faces


def test_what_the_model_is_less_sure_of_can_be_left_out():
    moment = road_with_hedge()
    assert count(paint_voxels(moment, Choice(least_confidence=0.7)), PALETTE[HEDGE]) == 0
    assert count(paint_voxels(moment, Choice(least_confidence=0.5)), PALETTE[HEDGE]) > 0


def test_what_lies_higher_is_cut_off():
    moment = road_with_hedge()
    assert read(paint_voxels(moment, Choice(top=0.9)))[0][..., 2].max() == pytest.approx(-1.0 + 5 * 0.4)
    assert read(paint_voxels(moment, Choice()))[0][..., 2].max() == pytest.approx(-1.0 + 9 * 0.4)


def test_the_difference_tells_ghosts_from_what_was_missed():
    moment = road_with_hedge()
    assert count(paint_voxels(moment, Choice(show=DIFFERENCE)), GHOST_RGB) > 15 * 15
    blind = road_with_hedge(labels=np.where(moment.labels == HEDGE, np.uint8(FREE), moment.labels))
    glb = paint_voxels(blind, Choice(show=DIFFERENCE))
    assert count(glb, GHOST_RGB) == 0 and count(glb, MISSED_RGB) > 15 * 15


def test_without_truth_the_prediction_is_shown_and_the_legend_is_of_it():
    moment = road_with_hedge(truth=None)
    assert paint_voxels(moment, Choice(show=TRUTH)) == paint_voxels(moment, Choice())
    assert "vegetation" in legend(moment, Choice(show=DIFFERENCE)) and "ghost" not in legend(moment, Choice(show=TRUTH))


def test_a_model_without_classes_is_colored_by_height():
    """Its one class has an id of Occ3D that means something else."""
    moment = road_with_hedge(
        labels=np.where(road_with_hedge().labels < FREE, 0, road_with_hedge().labels), classless=True
    )
    glb = paint_voxels(moment, Choice())
    assert count(glb, PALETTE[0]) == 0
    assert count(glb, height_colors(16)[8]) > 0 and count(glb, height_colors(16)[2]) > 10_000
    assert "height" in legend(moment, Choice())
    assert (
        obstacles_of(moment, RobotConfig())[HEDGE_AT].any() and not obstacles_of(moment, RobotConfig())[:, :, :3].any()
    )


def test_confidence_has_colors_of_its_own():
    moment = road_with_hedge()
    assert count(paint_voxels(moment, Choice(color=BY_CONFIDENCE)), PALETTE[HEDGE]) == 0
    assert "confidence" in legend(moment, Choice(color=BY_CONFIDENCE))


def test_obstacles_are_red_and_the_map_blocks_their_columns():
    moment = road_with_hedge()
    assert count(paint_voxels(moment, Choice(obstacles=True)), (255, 40, 40)) > 15 * 30
    _, colors, *_ = read(paint_map(moment, RobotConfig()))
    assert (colors[:, 0] > colors[:, 1]).sum() == 15 * 30
    assert (colors[:, 1] > colors[:, 0]).sum() == 160 * 200 - 15 * 30  # road elsewhere, but where nobody looks


def test_a_state_is_a_translucent_body():
    corners, colors, *_ = read(paint_state(road_with_hedge(), "hidden", 100.0))
    assert corners[..., 0].min() == pytest.approx(-40 + 130 * 0.4) and set(colors[:, 3].tolist()) == {41}


def test_figures_of_a_moment():
    rows = dict(describe(road_with_hedge(), RobotConfig()))
    assert rows["nearest obstacle ahead"] == "6.2 m"  # the centre of the hedge's first voxel
    assert rows["occupied"].startswith(f"{int((road_with_hedge().labels < FREE).sum())} voxels")
    assert rows["hidden"].split()[0] == str(
        round(100 * (road_with_hedge().labels == OCCLUDED).sum() / (160 * 200 * 16))
    )
    assert "IoU with the truth" not in dict(describe(road_with_hedge(truth=None), RobotConfig()))


def test_depth_as_the_cameras_would_see_it():
    pictures = paint_pictures(road_with_hedge(), Choice(picture=DEPTH))
    ahead = pictures[road_with_hedge().cameras.names[0]]
    assert ahead.shape[1] == 240 and (ahead[ahead.shape[0] // 2 + 10, 120] > 0).any()  # the hedge
    assert (ahead[0, 120] == 0).all()  # the sky


def test_memory_gives_back_what_it_was_given_and_forgets_the_oldest():
    moment, memory = road_with_hedge(), Memory(most_bytes=400_000)
    memory.keep(("a", 0), moment)
    back = memory.recall(("a", 0))
    assert (back.labels == moment.labels).all() and np.abs(back.confidence - moment.confidence).max() < 0.003
    name = moment.cameras.names[1]
    assert np.abs(back.images[name].astype(int) - moment.images[name]).max() <= 2
    for k in range(1, 40):
        memory.keep(("a", k), moment)
    assert ("a", 0) not in memory and ("a", 39) in memory and len(memory) < 40


def test_without_viser_the_page_says_what_to_install(monkeypatch):
    from gaussianocc_core.errors import GaussianOccError
    from gaussianocc_core.viewer.page import Page, Where

    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(GaussianOccError, match="viser is not installed; run `make setup`, or .*: pip install .*viewer"):
        Page("test", Where(port=0))


def test_an_impossible_port_or_number_of_viewers_is_refused():
    from gaussianocc_core.viewer.page import Where

    for wrong in ({"port": -1}, {"port": 65536}, {"viewers": 0}):
        with pytest.raises(ValueError, match="expected a port of 0 to 65535 and 1 viewer or more"):
            Where(**wrong)
