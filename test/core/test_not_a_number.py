# SPDX-License-Identifier: Apache-2.0
"""Not a number is not free: wherever a network's word is taken, NaN is an error with a name."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.rigs import ring
from support.small_model import SMALL

from gaussianocc_core.errors import PredictionError
from gaussianocc_core.finite import check_finite, check_labels, is_finite
from gaussianocc_core.fusion import TemporalFusion
from gaussianocc_core.labels import CLASS_NAMES, FREE, UNOBSERVED
from gaussianocc_core.metrics.occupancy import OccupancyScores
from gaussianocc_core.metrics.ray_iou import RayIoU
from gaussianocc_core.models.decision import decide_labels
from gaussianocc_core.models.decision_cpu import Decider
from gaussianocc_core.predictor import OccupancyPredictor
from gaussianocc_core.rendering.rasterize import rasterize
from gaussianocc_core.types import Cameras, Gaussians, OccupancyField, VoxelGrid

NOT_NUMBERS = [float("nan"), float("inf"), -float("inf"), 3e38]  # the last overflows in the first interpolation


@pytest.fixture(scope="module")
def predictor():
    return OccupancyPredictor.untrained(SMALL, device="cpu")


def pictures(rig):
    random = np.random.default_rng(0)
    return [random.integers(0, 255, (h, w, 3), dtype=np.uint8) for w, h in zip(rig.width, rig.height, strict=True)]


@pytest.mark.parametrize("bad", NOT_NUMBERS)
def test_one_value_among_many_is_found(bad):
    values = torch.zeros(3, 5, 7)
    assert is_finite(values) and is_finite(torch.zeros(0)) and is_finite(values.half()) and is_finite(values.bfloat16())
    values[1, 2, 3] = bad
    with pytest.raises(PredictionError, match="depths: 1 of 105 values are not numbers"):
        check_finite("depths", values)
    with pytest.raises(PredictionError, match="1 of 105"):
        check_finite("depths", values.numpy())


@pytest.mark.parametrize("bad", NOT_NUMBERS)
@pytest.mark.parametrize("channel", [0, -1])
def test_the_predictor_does_not_decide_on_it(predictor, bad, channel, monkeypatch):
    rig = ring()
    good = predictor(pictures(rig), rig)
    logits = good.field.logits.clone()
    logits[0, channel, 3, 4, 5] = bad
    broken = OccupancyField(logits)
    with pytest.raises(PredictionError, match="logits: 1 of"):
        replace(good, field=broken).render()
    monkeypatch.setattr(predictor.model, "decide_from", lambda *arguments: broken)
    with pytest.raises(PredictionError, match="logits: 1 of"):
        predictor(pictures(rig), rig)
    for by_argmax in (True, False):
        with pytest.raises(PredictionError, match="logits: 1 of"):
            decide_labels(logits[0], by_argmax)
    with pytest.raises(PredictionError, match="logits: 1 of"):
        nowhere = np.zeros(SMALL.grid.shape, dtype=bool)
        decider = Decider(SMALL.lattice, SMALL.grid, SMALL.class_names, nowhere[..., 0], nowhere[0, 0])
        decider(broken, 0.5, ~nowhere, None, None)


@torch.no_grad()
def test_the_predictor_does_not_hand_out_what_a_broken_network_says():
    rig = ring()
    predictor = OccupancyPredictor.untrained(SMALL, device="cpu")
    predictor.model.voxel_decoder.class_offset[-1] = float("nan")
    with pytest.raises(PredictionError, match="logits: "):
        predictor(pictures(rig), rig)
    predictor = OccupancyPredictor.untrained(SMALL, device="cpu")
    for parameter in predictor.model.depth_head.parameters():
        parameter.fill_(float("nan"))
    with pytest.raises(PredictionError, match=r"(logits|inverse depths): "):
        predictor(pictures(rig), rig)


def prediction(predictor):
    rig = ring()
    return predictor(pictures(rig), rig)


@pytest.mark.parametrize("bad", NOT_NUMBERS)
def test_fusion_adds_nothing_of_it(predictor, bad):
    good = prediction(predictor)
    fusion = TemporalFusion(SMALL.grid, CLASS_NAMES)
    before = fusion.add(good, np.eye(4), 0)
    confidence = good.confidence.copy()
    confidence[1, 2, 3] = bad
    pose = np.eye(4)
    pose[0, 3] = bad if bad != 3e38 else 1e300
    unknown = good.labels.copy()
    unknown[0, 0, 0] = 99
    memory = fusion._log_odds.copy()
    for broken, T in [
        (replace(good, confidence=confidence), np.eye(4)),
        (replace(good, labels=unknown), np.eye(4)),
        (good, pose),
    ]:
        with pytest.raises(PredictionError):
            fusion.add(broken, T, 1)
        assert np.array_equal(memory, fusion._log_odds)
    assert np.array_equal(fusion.add(good, np.eye(4), 1).labels, before.labels)


@pytest.mark.parametrize("bad", NOT_NUMBERS)
@pytest.mark.parametrize("part", ["opacities", "features"])
def test_the_renderer_does_not_draw_it_as_nothing(bad, part):
    K, T = torch.tensor([[[50.0, 0, 32], [0, 50, 24], [0, 0, 1]]]), torch.eye(4)[None]
    camera = Cameras(("c",), K, T, (64,), (48,))
    values = {
        "means": torch.tensor([[0.0, 0, 4], [0.5, 0, 5]]),
        "quats": torch.tensor([[1.0, 0, 0, 0]]).repeat(2, 1),
        "scales": torch.full((2, 3), 0.3),
        "opacities": torch.tensor([0.8, 0.9]),
        "features": torch.ones(2, 3),
    }
    assert float(rasterize(Gaussians(**values), camera).alpha.max()) > 0.5
    values[part].view(-1)[1] = bad
    with pytest.raises(PredictionError, match=f"{part}: 1 of"):
        rasterize(Gaussians(**values), camera)


def test_metrics_count_no_label_that_is_no_class():
    truth = np.full((4, 4, 2), FREE, dtype=np.uint8)
    mask = np.ones(truth.shape, dtype=bool)
    guess = truth.copy()
    guess[0, 0, 0] = UNOBSERVED  # nothing was claimed there
    scores = OccupancyScores()
    scores.update(truth, guess, mask)
    guess[1, 1, 1] = 77
    with pytest.raises(PredictionError, match=r"1 of 32 are no class \(first: 77; there are 18"):
        scores.update(truth, guess, mask)
    assert scores.samples == 1
    rays = RayIoU(VoxelGrid((0.0, 0.0, 0.0), 1.0, (4, 4, 2)))
    with pytest.raises(PredictionError, match="1 of 32 are no class"):
        rays.update(truth, guess, np.zeros((1, 3)))
    check_labels(truth, 18)
