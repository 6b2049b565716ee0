# SPDX-License-Identifier: Apache-2.0
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.rigs import ring
from support.small_model import SMALL

from gaussianocc_core.errors import BackendError, CalibrationError
from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry import voxels
from gaussianocc_core.labels import CLASS_ID, CLASS_NAMES, FREE, OCCLUDED, UNOBSERVED
from gaussianocc_core.models.decision import decide_labels
from gaussianocc_core.models.decision_cpu import Decider
from gaussianocc_core.models.lifting import plan_lift
from gaussianocc_core.models.visibility import columns_beyond, find_unplaced, observed_voxels
from gaussianocc_core.predictor import OccupancyPredictor, resolve_device
from gaussianocc_core.types import OccupancyField, VoxelGrid


@pytest.fixture(scope="module")
def predictor():
    return OccupancyPredictor.untrained(SMALL)


def pictures(rig, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(0, 255, (h, w, 3), dtype=np.uint8) for w, h in zip(rig.width, rig.height, strict=True)]


def test_prediction_covers_the_grid_and_says_untrained(predictor):
    rig = ring()
    prediction = predictor(pictures(rig), rig)
    assert prediction.labels.shape == prediction.confidence.shape == SMALL.grid.shape
    assert prediction.labels.dtype == np.uint8 and prediction.confidence.dtype == np.float32
    assert (prediction.model, prediction.trained, prediction.cameras) == ("untrained", False, rig.names)
    known = prediction.confidence[prediction.labels < OCCLUDED]
    assert (prediction.confidence[prediction.labels >= OCCLUDED] == 0).all()
    assert known.min() >= 0.5 / 17 - 1e-6 and known.max() <= 1 + 1e-6


def seen_in_part(rig, grid, valid):
    """Voxels whose centre or a corner falls on a valid pixel, point by point."""
    half = 0.5 * grid.voxel_size
    offsets = [(0.0, 0.0, 0.0), *itertools.product((-half, half), repeat=3)]
    centers = voxels.centers(grid).double()
    rig = rig.to(dtype=torch.float64)
    return np.any([plan_lift(rig, centers + torch.tensor(each), valid).seen.numpy() for each in offsets], axis=0)


def test_observed_means_that_a_part_is_in_a_used_cameras_view(predictor):
    rig = ring(yaws=(0.0,))
    prediction = predictor(pictures(rig), rig)
    expected = seen_in_part(rig, SMALL.grid, None)
    assert (prediction.observed != expected).mean() < 1e-3  # float32 against float64 at the border of the view
    centers = plan_lift(rig, voxels.centers(SMALL.grid).double()).seen.numpy()
    assert not (centers & ~prediction.observed).any() and centers.sum() < 0.95 * expected.sum()
    assert (prediction.labels[~prediction.observed] == UNOBSERVED).all()
    assert ((prediction.labels[prediction.observed] < 18) | (prediction.labels[prediction.observed] == OCCLUDED)).all()


def test_published_models_decide_by_the_softmax_of_the_resampled_logits(predictor):
    rig = ring()
    prediction = predictor(pictures(rig), rig)
    positions = voxels.centers(SMALL.grid)[5, 20, 3].view(1, 3)
    from gaussianocc_core.geometry import lattice

    logits = lattice.sample(prediction.field.logits, SMALL.lattice, positions)[0, :, 0]
    label, confidence = decide_labels(logits, by_argmax=True)
    assert label == int(logits.argmax()) and confidence == pytest.approx(float(logits.softmax(0).max()), abs=1e-5)
    label, confidence = decide_labels(logits, by_argmax=False)
    assert prediction.labels[5, 20, 3] == int(label)
    assert prediction.confidence[5, 20, 3] == pytest.approx(float(confidence), abs=1e-4)


def decide(logits, lattice, grid, caution=0.5):
    """By the kernel, where every voxel is seen and every ray passed."""
    everywhere = np.ones(grid.shape, dtype=bool)
    names = (*map(str, range(logits.shape[1] - 1)), "free")
    decider = Decider(lattice, grid, names, ~everywhere[..., 0], ~everywhere[0, 0])
    decided = decider(OccupancyField(logits), caution, everywhere, None, None)
    return decided.labels, decided.confidence


def test_a_voxel_is_occupied_where_rendering_sees_it():
    logits = torch.tensor([[5.0, 1.0, 3.0], [0.0, 2.0, -1.0], [0.0, 0.0, -1.0]]).T  # (3 classes, 3 voxels)
    labels, confidence = decide_labels(logits, by_argmax=False)
    assert labels.tolist() == [2, 1, 0]  # 5 % opaque: free, whatever its best class
    opacity = torch.sigmoid(-logits[-1])
    share = logits[:2].softmax(0).max(0).values
    torch.testing.assert_close(confidence, torch.stack([1 - opacity[0], opacity[1] * share[1], opacity[2] * share[2]]))


@pytest.mark.parametrize("contraction", [None, 0.66667])
@pytest.mark.parametrize("box", [((-8.0, -8.0, -1.0), 0.5, (32, 32, 8)), ((-5.0, -9.0, -2.0), 0.3, (40, 50, 9))])
def test_deciding_in_one_pass_is_deciding_on_resampled_logits(contraction, box):
    from gaussianocc_core.geometry.lattice import resample
    from gaussianocc_core.types import Lattice, VoxelGrid

    kind, grid = Lattice((-8.0, -8.0, -1.0), (8.0, 8.0, 3.0), (16, 20, 6), contraction), VoxelGrid(*box)
    torch.manual_seed(1)
    logits = 3 * torch.randn(1, 5, 16, 20, 6)
    labels, confidence = decide_labels(resample(logits, kind, grid)[0], by_argmax=False)
    found, sure = decide(logits, kind, grid)
    same = found == labels.numpy()
    assert (
        same.mean() > 0.9999 and 0.2 < (found == 4).mean() < 0.8
    )  # rounding where two classes or both sides are equal
    np.testing.assert_allclose(sure[same], confidence.numpy()[same], atol=1e-4)


def test_cameras_of_different_sizes_and_any_number_work(predictor):
    rig = ring(yaws=(0.0, 90.0, -90.0))
    first = camera_geometry.resize(rig, 320, 180)
    mixed = replace(
        rig,
        intrinsics=torch.cat([first.intrinsics[:1], rig.intrinsics[1:]]),
        width=(320, 160, 160),
        height=(180, 90, 90),
    )
    assert predictor(pictures(mixed), mixed).observed.any()


def test_changed_calibration_is_noticed(predictor):
    rig = ring()
    images = pictures(rig)
    before = predictor(images, rig)
    turned = replace(rig, T_ego_cam=rig.T_ego_cam.clone())
    turned.T_ego_cam[0] = rig.T_ego_cam[3]
    after = predictor(images, turned)
    assert (before.observed != after.observed).any()


def test_poses_that_jitter_by_a_centimetre_keep_the_plan(predictor):
    rig = ring()
    predictor(pictures(rig), rig)
    plan = predictor._views[0]
    nudged = replace(rig, T_ego_cam=rig.T_ego_cam.clone())
    nudged.T_ego_cam[:, 0, 3] += 0.01
    predictor(pictures(rig), nudged)
    assert predictor._views[0] is plan
    nudged.T_ego_cam[2, 0, 3] += 0.1
    predictor(pictures(rig), nudged)
    assert predictor._views[0] is not plan


def test_unusable_intrinsics_name_the_camera(predictor):
    rig = ring()
    broken = replace(rig, intrinsics=rig.intrinsics * float("nan"))
    with pytest.raises(CalibrationError, match="CAM_0"):
        predictor(pictures(rig), broken)


def test_wrong_number_of_images_is_refused(predictor):
    rig = ring()
    with pytest.raises(ValueError, match="expected 6"):
        predictor(pictures(rig)[:5], rig)


def test_render_gives_depth_and_classes_of_the_network_s_views(predictor):
    rig = ring()
    prediction = predictor(pictures(rig), rig)
    views, depth, classes = prediction.render()
    size = (predictor.config.image_height, predictor.config.image_width)
    assert depth.shape == classes.shape == (6, *size) and views.names == rig.names
    some, least, _ = prediction.render(rig.names[4:2:-1])
    assert some.names == rig.names[4:2:-1]
    np.testing.assert_allclose(least, depth[[4, 3]], atol=1e-4)
    assert classes.max() <= 17 and np.isfinite(depth).all() and (depth >= 0).all()


def test_a_call_looks_its_lenses_up_once_and_rendering_does_not(predictor, monkeypatch):
    rig, images, looked = ring(), pictures(ring()), []
    inner = predictor._preprocess
    monkeypatch.setattr(predictor, "_preprocess", lambda *rig: looked.append(rig) or inner(*rig))
    prediction = predictor(images, rig)
    assert len(looked) == 1
    elsewhere = replace(rig, T_ego_cam=rig.T_ego_cam.flip(0))
    predictor(images, elsewhere)
    first, again = prediction.render(rig.names[:2]), prediction.render(rig.names[:2])
    assert len(looked) == 2 and torch.equal(first.cameras.T_ego_cam, rig.T_ego_cam[:2].float())
    assert np.array_equal(first.depth, again.depth)  # its own views, whatever was predicted since
    with pytest.raises(KeyError, match="nobody"):
        prediction.render(["nobody"])


def test_impossible_device_is_one_clear_line():
    with pytest.raises(BackendError, match="expected auto"):
        resolve_device("warp")
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="no CUDA"):
            resolve_device("cuda")


def test_what_a_mask_says_is_the_robot_sees_nothing(predictor):
    rig = ring()
    whole = predictor(pictures(rig), rig)
    mask = np.ones((rig.height[0], rig.width[0]), dtype=bool)
    mask[:, : rig.width[0] // 2] = False
    predictor.use_masks({rig.names[0]: mask})
    half = predictor(pictures(rig), rig)
    assert not (half.observed & ~whole.observed).any()
    assert 0.0 < (whole.observed & ~half.observed).mean() < 0.5
    predictor.use_masks({rig.names[0]: mask[:4]})
    with pytest.raises(CalibrationError, match=f"camera {rig.names[0]}: its mask has"):
        predictor(pictures(rig), rig)
    predictor.use_masks({})
    assert (predictor(pictures(rig), rig).observed == whole.observed).all()


def test_observed_heeds_masks_of_many_cameras():
    rig = camera_geometry.resize(ring(), 160, 96).to(dtype=torch.float32)
    valid = np.random.default_rng(0).random((6, 96, 160)) > 0.3
    valid[2] = False
    seen = observed_voxels(rig, SMALL.grid, valid)
    assert (seen != seen_in_part(rig, SMALL.grid, torch.from_numpy(valid))).mean() < 5e-3
    assert 0.2 < seen.mean() < 0.9


def test_the_summary_names_classes_grid_training_and_commit():
    from gaussianocc_core.checkpoint import default_checkpoint, load_model

    summary = OccupancyPredictor.from_checkpoint(default_checkpoint(), device="cpu").summary
    provenance = load_model(default_checkpoint()).provenance
    assert provenance.commit and f"commit {provenance.commit}" in summary
    assert provenance.training in summary and "18 classes" in summary and "200x200x16 at 0.4 m" in summary


def test_what_stands_too_far_away_is_left_unobserved_and_ground_is_not():
    grid = VoxelGrid(voxel_size=1.0, origin=(-8.0, -8.0, -1.0), shape=(16, 16, 4))
    labels = np.full(grid.shape, FREE, dtype=np.uint8)
    labels[..., 0] = CLASS_ID["driveable_surface"]
    labels[2, 8, 1:3], labels[10, 8, 1:3] = CLASS_ID["car"], CLASS_ID["car"]  # 5.5 m behind, 2.5 m ahead
    labels[0, 0] = UNOBSERVED
    unplaced = find_unplaced(labels, columns_beyond(grid, 4.0), CLASS_NAMES)
    assert np.argwhere(unplaced).tolist() == [[2, 8, 1], [2, 8, 2]]
    assert not columns_beyond(grid, 0.0).any()


def test_free_is_published_only_where_the_depth_head_sees_past(predictor):
    from gaussianocc_core.models.visibility import passed_voxels

    rig = ring()
    prediction = predictor(pictures(rig), rig)
    passed = passed_voxels(predictor._views[0].lines, prediction.field.inv_depth[0].numpy())
    free, hidden = prediction.labels == FREE, prediction.labels == OCCLUDED
    assert free.any() and hidden.any() and not (free & ~passed).any() and not (hidden & passed).any()
    blind = OccupancyPredictor.untrained(replace(SMALL, decoder=replace(SMALL.decoder, surface=False)))
    assert not (blind(pictures(rig), rig).labels == OCCLUDED).any()  # it sees no depth: as published


@pytest.mark.parametrize("by_argmax", [False, True])
def test_caution_is_the_probability_that_free_needs(by_argmax):
    logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0)) * 2
    free = torch.sigmoid(logits[-1]) if not by_argmax else logits.softmax(0)[-1]
    share = []
    for caution in (0.1, 0.5, 0.8):
        labels, confidence = decide_labels(logits, by_argmax, caution)
        share.append((labels == 3).float().mean())
        if not by_argmax:
            assert torch.equal(labels == 3, free >= caution)
        torch.testing.assert_close(confidence[labels == 3], free[labels == 3])
    assert share[0] > share[1] > share[2] > 0
    np.testing.assert_array_equal(decide_labels(logits, True)[0], logits.argmax(0))


def test_a_predictor_s_caution_is_the_model_s_until_it_is_set():
    careful = OccupancyPredictor.untrained(replace(SMALL, caution=0.9))
    rig, images = ring(), pictures(ring())
    assert careful.caution == 0.9
    many = (careful(images, rig).labels < FREE).sum()
    careful.caution = 0.3
    few = (careful(images, rig).labels < FREE).sum()
    assert many > few
    with pytest.raises(ValueError, match="caution: expected a number between 0 and 1, got 1.0; higher misses fewer"):
        careful.caution = 1.0


def test_deciding_on_the_grid_takes_caution_too():
    from gaussianocc_core.geometry.lattice import resample
    from gaussianocc_core.types import Lattice

    kind, grid = (
        Lattice((-8.0, -8.0, -1.0), (8.0, 8.0, 3.0), (16, 16, 6)),
        VoxelGrid((-5.0, -5.0, -1.0), 0.5, (20, 20, 8)),
    )
    logits = 3 * torch.randn(1, 5, 16, 16, 6, generator=torch.Generator().manual_seed(2))
    labels, _ = decide_labels(resample(logits, kind, grid)[0], False, 0.85)
    found, _ = decide(logits, kind, grid, 0.85)
    assert (found == labels.numpy()).mean() > 0.999 and (found == 4).mean() < 0.45


@pytest.mark.medium
def test_a_models_reach_shows_in_its_predictions():
    model_config = replace(SMALL, reach=5.0)
    cameras = ring()
    images = [np.full((90, 160, 3), 90, dtype=np.uint8)] * len(cameras)
    everywhere = OccupancyPredictor.untrained(SMALL)
    near = OccupancyPredictor.untrained(model_config)
    for predictor in (everywhere, near):
        with torch.no_grad():  # occupied everywhere, by something that is no ground
            predictor.model.voxel_decoder.class_offset[:] = torch.linspace(0.0, -9.0, 18)
    far = columns_beyond(SMALL.grid, 5.0)
    before, after = everywhere(images, cameras), near(images, cameras)
    assert (before.labels[far] < FREE).any() and not (after.labels[far] < FREE).any()
    assert np.array_equal(before.labels[~far], after.labels[~far])
    assert np.array_equal(after.observed, after.labels != UNOBSERVED)
