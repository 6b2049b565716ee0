# SPDX-License-Identifier: Apache-2.0
"""One way from native images to the networks: what training sees of a sample is what the predictor sees of it."""

import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support.rigs import ring
from support.small_model import SMALL

from gaussianocc_core.data.entries import FrameEntry, SampleEntry
from gaussianocc_core.data.sources import DataConfig
from gaussianocc_core.errors import CalibrationError
from gaussianocc_core.models.gaussianocc import build_model
from gaussianocc_core.predictor import OccupancyPredictor
from gaussianocc_core.preprocess import Preprocessor, RigCache, rig_key
from gaussianocc_core.training.gsv import Gsv, GsvConfig
from gaussianocc_core.training.loader import Batch, TrainingSet
from gaussianocc_core.training.view import views_of
from gaussianocc_core.types import Cameras


def lenses() -> Cameras:
    """A fisheye, a pinhole with a barrel distortion whose corners have no source, and an ideal pinhole."""
    return replace(
        ring(yaws=(0.0, 90.0, 180.0), width=320, height=240),
        model=("equidistant", "pinhole", "pinhole"),
        distortion=((0.02, -0.005, 0.001, 0.0), (0.3, 0.1, 0.0, 0.0), ()),
    )


def robot_masks(cameras: Cameras) -> tuple[np.ndarray, ...]:
    """True where a camera sees the world: the robot's bonnet is a slanted line at the bottom, another in each."""
    columns, rows = np.meshgrid(np.arange(320), np.arange(240))
    return tuple(rows < 170 + 0.2 * columns - 25 * i for i in range(len(cameras)))


def recorded(folder: Path, cameras: Cameras, masks: tuple[np.ndarray, ...] | None = None) -> SampleEntry:
    """A moment and its neighbours as files, lossless, and the masks of its cameras."""
    random, count = np.random.default_rng(0), len(cameras)

    def write(name: str, pixels: np.ndarray) -> Path:
        assert cv2.imwrite(str(folder / name), pixels)
        return folder / name

    def frame(step: int) -> FrameEntry:
        tokens = tuple(f"{step}_{name}" for name in cameras.names)
        paths = tuple(write(f"{each}.png", random.integers(0, 255, (240, 320, 3), np.uint8)) for each in tokens)
        return FrameEntry(tokens, paths, (100_000_000 * (1 + step),) * count, np.tile(np.eye(4), (count, 1, 1)))

    files = zip(cameras.names, masks or (), strict=masks is not None)
    return SampleEntry(
        "token",
        "scene",
        cameras,
        frame(0),
        neighbours=((-1, frame(-1)), (1, frame(1))),
        mask_paths=tuple(write(f"{name}_mask.png", 255 * mask.astype(np.uint8)) for name, mask in files),
    )


def training_batch(entry: SampleEntry) -> Batch:
    return TrainingSet([entry], DataConfig(jitter=0.0, mirror=0.0), Preprocessor.of(SMALL), seed=0)[(0, 0)]


def test_training_and_prediction_see_the_same_of_a_masked_sample_that_its_lenses_crop(tmp_path):
    rig = lenses()
    masks = robot_masks(rig)
    entry = recorded(tmp_path, rig, masks)
    batch = training_batch(entry)
    gsv = Gsv(build_model(SMALL), None, GsvConfig(ego_motion="sensor"), SMALL.grid)
    trained = gsv._plan(views_of(batch, None)[0]).lift

    predictor = OccupancyPredictor.untrained(SMALL, device="cpu")
    predictor.use_masks(dict(zip(rig.names, masks, strict=True)))
    seen = {}
    look, decide_from = predictor.model.look, predictor.model.decide_from

    def watched_look(images):
        seen.update(images=images)
        return look(images)

    def watched_decision(looks, plans, sources):
        seen.update(plan=plans[0])
        return decide_from(looks, plans, sources)

    predictor.model.look, predictor.model.decide_from = watched_look, watched_decision
    predictor(entry.load().images, rig)
    predicted = seen["plan"]

    unmasked, uncropped = Preprocessor.of(SMALL)(rig).valid_mask, np.ones((3, 48, 80), dtype=bool)
    valid = batch.valid[0].numpy()
    assert (valid.sum(), unmasked.sum()) < (unmasked.sum(), uncropped.sum())  # masks and lenses both take pixels out
    assert np.array_equal(valid, predictor._views[0].lenses.valid_mask)
    assert torch.equal(batch.colors()[:, 0], seen["images"])
    assert torch.equal(trained.rays, predicted.rays)
    assert torch.equal(trained.weight, predicted.weight)
    pairs = zip((*trained.points, *trained.positions), (*predicted.points, *predicted.positions), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    views = Preprocessor.of(SMALL)(rig).views(rig.T_ego_cam)
    assert 0 < (trained.weight > 0).float().mean() < (gsv.model.plan(views).weight > 0).float().mean()


def test_a_plan_is_not_shared_by_rigs_that_differ_in_their_masks_alone(tmp_path):
    gsv = Gsv(build_model(SMALL), None, GsvConfig(ego_motion="sensor"), SMALL.grid)
    data = [training_batch(recorded(tmp_path, lenses(), masks)) for masks in (None, robot_masks(lenses()))]
    whole, masked, again = (gsv._plan(views_of(batch, None)[0]).lift for batch in (*data, data[0]))
    assert int((masked.weight > 0).sum()) < int((whole.weight > 0).sum()) and again is whole


def test_the_key_of_a_rig_is_of_all_that_what_follows_depends_on():
    rig, masks = lenses(), list(robot_masks(lenses()))
    moved = replace(rig, T_ego_cam=rig.T_ego_cam.clone())
    moved.T_ego_cam[1, 0, 3] += 1e-6
    zoomed = replace(rig, intrinsics=rig.intrinsics.clone())
    zoomed.intrinsics[0, 0, 0] += 1e-6
    others = [
        moved,
        zoomed,
        replace(rig, names=("a", "b", "c")),
        replace(rig, width=(320, 320, 319)),
        replace(rig, model=("pinhole",) * 3),
        replace(rig, distortion=(rig.distortion[0], (0.3, 0.1, 0.0, 1e-9), ())),
    ]
    keys = [rig_key(each) for each in (rig, *others)] + [
        rig_key(rig, masks),
        rig_key(rig, masks[::-1]),
        rig_key(rig, [masks[0], None, None]),
        rig_key(rig, [None, masks[0], None]),
    ]
    assert len(set(keys)) == len(keys)
    assert rig_key(rig) == rig_key(lenses().to(dtype=torch.float64), [None] * 3)
    assert rig_key(rig, masks) == rig_key(lenses(), torch.from_numpy(np.stack(masks)))
    assert rig_key(rig, places=False) == rig_key(moved, places=False) != rig_key(zoomed, places=False)


def test_a_cache_makes_each_thing_once_and_keeps_what_was_asked_for_last():
    made, cache = [], RigCache(2)
    for name in (b"a", b"b", b"a", b"c", b"a", b"b"):
        assert cache.find(name, lambda name=name: made.append(name) or name) == name
    assert made == [b"a", b"b", b"c", b"b"]


def test_lenses_are_made_once_and_views_stand_where_the_cameras_do():
    preprocess, rig = Preprocessor(80, 48), lenses()
    moved = replace(rig, T_ego_cam=rig.T_ego_cam + 1.0)
    assert preprocess(rig) is preprocess(moved)
    assert torch.equal(preprocess(moved).views(moved.T_ego_cam).T_ego_cam, moved.T_ego_cam.float())
    assert preprocess(rig, robot_masks(rig)) is not preprocess(rig)
    assert pickle.loads(pickle.dumps(preprocess))(rig).valid_mask.shape == (3, 48, 80)
    with pytest.raises(ValueError, match="read-only"):
        preprocess(rig).valid_mask[0, 0, 0] = False


def test_a_mask_of_another_size_names_the_camera():
    with pytest.raises(CalibrationError, match="camera CAM_1: its mask has 320x9 pixels"):
        Preprocessor(80, 48)(lenses(), [None, np.ones((9, 320), dtype=bool), None])
