# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from gaussianocc_core import metrics
from gaussianocc_core.labels import (
    CLASS_ID,
    FREE,
    GENERATOR_TO_OCC3D,
    class_weights,
    generator_to_occ3d,
    occ3d_to_generator,
)
from gaussianocc_core.types import OccupancyLabels, VoxelGrid

CAR, ROAD = CLASS_ID["car"], CLASS_ID["driveable_surface"]


def test_hand_built_confusion_has_the_known_scores():
    truth = np.array([CAR, CAR, ROAD, ROAD, FREE, FREE], dtype=np.uint8)
    prediction = np.array([CAR, FREE, ROAD, CAR, FREE, 255], dtype=np.uint8)
    confusion = metrics.confusion_matrix(truth, prediction, np.ones(6, dtype=bool))
    iou = metrics.class_iou(confusion)
    assert iou[CAR] == pytest.approx(1 / 3) and iou[ROAD] == pytest.approx(1 / 2) and np.isnan(iou[0])
    summary = metrics.occupancy_summary(confusion)
    assert summary["iou"] == pytest.approx(3 / 4)  # one occupied voxel was missed; unobserved counts as free
    assert summary["non_ground_iou"] == pytest.approx(1 / 3)
    assert summary["miou"] == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_masked_voxels_do_not_count():
    truth = np.array([CAR, CAR], dtype=np.uint8)
    confusion = metrics.confusion_matrix(truth, np.array([CAR, FREE], dtype=np.uint8), np.array([True, False]))
    assert metrics.occupancy_summary(confusion)["iou"] == 1.0


def test_flat_ground_is_one_layer_at_its_height_and_scores_zero_off_the_ground():
    grid = VoxelGrid()
    flat = metrics.flat_ground(grid)
    assert (flat[:, :, 2] == ROAD).all() and (np.delete(flat, 2, axis=2) == FREE).all()  # z = 0 is in -0.2..0.2 m
    truth = np.full(grid.shape, FREE, dtype=np.uint8)
    truth[:, :, 2] = ROAD
    truth[10, 10, 3] = CAR
    summary = metrics.occupancy_summary(metrics.confusion_matrix(truth, flat, np.ones(grid.shape, dtype=bool)))
    assert summary["non_ground_iou"] == 0.0 and summary["iou"] > 0.99


def test_each_voxel_mask_is_what_it_says():
    camera, lidar = np.array([[[True, True, False]]]), np.array([[[True, False, False]]])
    labels = OccupancyLabels(np.zeros((1, 1, 3), dtype=np.uint8), camera, lidar)
    counts = {name: metrics.voxel_mask(labels, name).sum() for name in metrics.VOXEL_MASKS}
    assert counts == {"camera": 2, "lidar": 1, "camera_and_lidar": 1, "none": 3}
    with pytest.raises(ValueError, match="radar"):
        metrics.voxel_mask(labels, "radar")


def test_a_class_that_never_occurs_is_skipped_or_spoils_the_mean_as_asked():
    iou = np.array([0.2, np.nan, 0.6])
    assert metrics.mean_iou(iou, (0, 1, 2)) == pytest.approx(0.4)
    assert np.isnan(metrics.mean_iou(iou, (0, 1, 2), skip_absent=False))
    assert metrics.mean_iou(iou, (0, 2), skip_absent=False) == pytest.approx(0.4)
    assert np.isnan(metrics.mean_iou(iou, (1,)))


def test_samples_accumulate_into_one_confusion():
    scores, everywhere = metrics.OccupancyScores(), np.ones(4, dtype=bool)
    scores.update(np.array([CAR, CAR, FREE, FREE], np.uint8), np.array([CAR, FREE, FREE, FREE], np.uint8), everywhere)
    scores.update(np.array([CAR, FREE, FREE, FREE], np.uint8), np.array([CAR, CAR, FREE, FREE], np.uint8), everywhere)
    scores.reduce()  # one process: nothing to add
    assert scores.samples == 2 and scores.summary()["iou"] == pytest.approx(2 / 4)  # the mean of IoUs would be 1/2 too
    scores.update(np.array([CAR] * 4, np.uint8), np.array([CAR] * 4, np.uint8), everywhere)
    assert scores.summary()["iou"] == pytest.approx(6 / 8)  # and here 2/3


def test_golden_miou_is_reproduced(shared_data):
    golden = np.load(shared_data / "golden" / "metrics.npz")
    truth, prediction = golden["occ_gt"], golden["occ_pred"]
    mask = np.unpackbits(golden["occ_mask"])[: truth.size].astype(bool).reshape(truth.shape)
    iou = metrics.class_iou(metrics.confusion_matrix(truth, prediction, mask))
    np.testing.assert_allclose(iou, golden["iou18"], atol=1e-12)
    assert metrics.mean_iou(iou, range(17)) == pytest.approx(golden["miou17"], abs=1e-12)
    star = metrics.mean_iou(iou, metrics.STAR_CLASSES, skip_absent=False)
    assert star == pytest.approx(golden["miou_star15"], abs=1e-12)


def test_published_class_weights():
    golden = [0, 0.350, 1.741, 0.976, 0.450, 2.372, 1.866, 1.849, 4.360, 1.503, 0.552, 0.227, 0, 0.488, 0.483, 0.208]
    np.testing.assert_allclose(class_weights()[:16], golden, atol=6e-4)  # docs/method.md#g.3, three decimals


def test_label_files_round_trip_and_undetected_is_ignored():
    occ3d = np.arange(18, dtype=np.uint8)
    stored = occ3d_to_generator()[occ3d]
    named = np.isin(occ3d, GENERATOR_TO_OCC3D[1:])
    np.testing.assert_array_equal(generator_to_occ3d(stored)[named], occ3d[named])
    assert (stored[~named] == -1).all() and (generator_to_occ3d(stored)[~named] == 255).all()
    assert generator_to_occ3d(np.array([-1], dtype=np.int8), undetected=FREE)[0] == FREE
