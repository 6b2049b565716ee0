# SPDX-License-Identifier: Apache-2.0
"""What a run shows in TensorBoard: every curve with its explanation; depth with its colours, occupancy from above."""

import numpy as np
import pytest
from support.nuscenes_fixtures import MadeUpDatabase
from support.training_runs import settings

from gaussianocc_core.training.board import CURVES, WATCH, Board
from gaussianocc_core.training.engine import train
from gaussianocc_core.training.gsp import Gsp
from gaussianocc_core.training.gsv import Gsv
from gaussianocc_core.training.pretrain import Pretrain
from gaussianocc_core.training.watch import GSP_SIGNALS


def events(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder))
    found.Reload()
    return found


def test_every_curve_of_every_stage_is_explained():
    reported = {name for stage in (Gsp, Gsv, Pretrain) for name in stage.reports}
    assert reported <= CURVES.keys()
    assert {signal.name for signal in GSP_SIGNALS} <= {name for name, (kind, _) in CURVES.items() if kind == WATCH}


def test_the_first_value_of_a_curve_carries_its_explanation(tmp_path):
    pytest.importorskip("tensorboard")
    board = Board(tmp_path)
    for step in (10, 20):
        board.add_scalars({"depth_off": 0.1 * step, "total": 1.0}, step)
    board.close()
    found = events(tmp_path / "tensorboard")
    assert [(each.step, each.value) for each in found.Scalars("watch/depth_off")] == [(10, 1.0), (20, 2.0)]
    assert "twice too far" in found.SummaryMetadata("watch/depth_off").summary_description


@pytest.mark.medium
def test_stage_2_shows_occupancy_from_above_and_depth_with_its_scale(tmp_path):
    pytest.importorskip("tensorboard")
    root = MadeUpDatabase(keyframes=3, frames_per_keyframe=3).write(tmp_path / "root")
    run = settings(root, tmp_path / "run", stage="gsv", steps=1, pictures_every=1)
    train(run)
    found = events(tmp_path / "run" / "tensorboard")
    assert set(found.Tags()["images"]) == {"cameras", "from above"}
    cv2 = pytest.importorskip("cv2")
    above, cameras = (
        cv2.imdecode(np.frombuffer(found.Images(name)[0].encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
        for name in ("from above", "cameras")
    )
    x, y, _ = run.model.grid.shape
    assert above.shape == (3 * x, 3 * y, 3)
    height = run.model.image_height
    assert cameras.shape[0] == 3 * height + 22 and cameras[2 * height : 2 * height + 22].std() > 10
