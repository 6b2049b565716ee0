# SPDX-License-Identifier: Apache-2.0
"""From a data set to batches: neighbours, labels, augmentation, order, and what happens to samples that are broken."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.nuscenes_fixtures import MadeUpDatabase, read_table, write_table
from support.rigs import ring
from support.training_runs import add_labels

from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.data.sources import DataConfig, open_entries
from gaussianocc_core.errors import ConfigError, DatasetError
from gaussianocc_core.geometry import lattice
from gaussianocc_core.geometry.cameras import project
from gaussianocc_core.labels import CLASS_ID, IGNORE
from gaussianocc_core.models.lifting import lift_features, plan_lift
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.training.loader import (
    ColorJitter,
    TrainingSet,
    collate,
    jitter_colors,
    load_batches,
    mirror,
)
from gaussianocc_core.training.sampling import EpochSampler
from gaussianocc_core.types import Lattice

SCENE = "scene-0001"
SIZE = (32, 16)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return MadeUpDatabase(keyframes=3, frames_per_keyframe=6).write(tmp_path_factory.mktemp("data") / "root")


def opened(root, **settings) -> TrainingSet:
    config = DataConfig(dataroot=str(root), **{"jitter": 0.0, "mirror": 0.0, **settings})
    return TrainingSet(open_entries(config), config, Preprocessor(*SIZE), seed=0)


# ---- the source ----------------------------------------------------------------------------------------------------


def test_neighbours_are_the_sweeps_before_and_after_of_each_camera(root):
    source = NuScenesSource(root)
    middle = source.index(SCENE, neighbours=True)[1]
    rows = {row["token"]: row for row in read_table(root, "sample_data")}
    assert [offset for offset, _ in middle.neighbours] == [-1, 1]
    for offset, frame in middle.neighbours:
        for token, now in zip(frame.image_tokens, middle.frame.image_tokens, strict=True):
            assert rows[token]["calibrated_sensor_token"] == rows[now]["calibrated_sensor_token"]
            same = sorted(
                (
                    row["timestamp"]
                    for row in rows.values()
                    if row["calibrated_sensor_token"] == rows[now]["calibrated_sensor_token"]
                ),
            )
            assert rows[token]["timestamp"] == same[same.index(rows[now]["timestamp"]) + offset]
    assert middle.gap_s < 0.1


def test_neighbours_of_different_times_are_none(root, tmp_path):
    """One motion is learnt for all cameras: where one of them lost an image, its next is of another moment."""
    import shutil

    gappy = tmp_path / "root"
    shutil.copytree(root, gappy)
    whole = NuScenesSource(gappy).index(SCENE, neighbours=True, sweeps=True)
    complete = [entry for entry in whole if len(entry.neighbours) == 2]
    lost = dict(complete[1].neighbours)[1].image_paths[2]
    lost.unlink()
    index = NuScenesSource(gappy).index(SCENE, neighbours=True, sweeps=True)
    (entry,) = [each for each in index if each.token == complete[1].token]
    assert [offset for offset, _ in entry.neighbours] == [-1]
    assert lost not in {path for each in index for _, frame in each.neighbours for path in frame.image_paths}


def test_without_sweep_files_the_neighbours_are_keyframes_and_the_gap_says_so(root, tmp_path):
    import shutil

    keyframes_only = tmp_path / "root"
    shutil.copytree(root, keyframes_only)
    shutil.rmtree(keyframes_only / "sweeps")
    middle = NuScenesSource(keyframes_only).index(SCENE, neighbours=True)[1]
    paths = [str(path) for _, frame in middle.neighbours for path in frame.image_paths]
    assert all("/samples/" in path for path in paths)
    assert middle.gap_s == pytest.approx(0.5, abs=0.1)
    with pytest.raises(DatasetError, match="within data.max_gap=0.2 s"):
        opened(keyframes_only, max_gap=0.2)


def test_every_sweep_is_a_moment_and_the_ends_of_a_scene_lack_a_neighbour(root):
    moments = NuScenesSource(root).index(SCENE, sweeps=True, neighbours=True)
    keyframes = NuScenesSource(root).index(SCENE)
    assert len(moments) > len(keyframes)
    stamps = [moment.frame.camera_stamps_ns[0] for moment in moments]
    assert stamps == sorted(stamps) and len(set(stamps)) == len(stamps)
    assert [len(moment.neighbours) for moment in moments][:1] == [1]
    assert len(opened(root).entries) == sum(len(moment.neighbours) == 2 for moment in moments)


def test_labels_of_unknown_ids_are_ignored_and_named(tmp_path):
    root = MadeUpDatabase(keyframes=2).write(tmp_path / "root")
    add_labels(root, 99)
    (batch,) = [opened(root)[(0, 0)]]
    assert batch.semantics is not None and (batch.semantics == IGNORE).all()
    assert len(batch.problems) == 6 and "2304 pixels of unknown ids" in batch.problems[0]


@pytest.mark.parametrize(("undetected", "expected"), [("ignore", IGNORE), ("free", CLASS_ID["free"])])
def test_undetected_pixels_are_ignored_or_free_as_published(tmp_path, undetected, expected):
    root = MadeUpDatabase(keyframes=2).write(tmp_path / "root")
    add_labels(root, -1)
    assert (opened(root, undetected=undetected)[(0, 0)].semantics == expected).all()
    add_labels(root, 1)
    assert (opened(root)[(0, 0)].semantics == CLASS_ID["car"]).all()


def test_masks_take_the_robot_itself_out(root, tmp_path):
    import cv2

    for name in NuScenesSource(root).rig(SCENE).cameras.names:
        mask = np.full((36, 64, 3), 255, np.uint8)
        mask[18:] = 0 if name == "CAM_BACK" else 255
        cv2.imwrite(str(tmp_path / f"{name}_mask.png"), mask)
    batch = opened(root, masks=str(tmp_path))[(0, 0)]
    back = batch.cameras.names.index("CAM_BACK")
    assert batch.valid[0, back, :7].all() and not batch.valid[0, back, 9:].any()
    assert batch.valid.float().mean() > 0.9
    (tmp_path / "CAM_BACK_mask.png").unlink()
    with pytest.raises(DatasetError, match="CAM_BACK_mask.png does not exist"):
        opened(root, masks=str(tmp_path))


def test_a_corrupt_image_is_named_and_another_sample_takes_its_place(tmp_path):
    root = MadeUpDatabase(keyframes=3).write(tmp_path / "root")
    data = opened(root)
    broken = data.entries[0].frame.image_paths[2]
    broken.write_bytes(b"no image")
    batch = data[(0, 0)]
    assert batch.tokens != (data.entries[0].token,)
    assert any(str(broken) in problem and data.entries[0].token in problem for problem in batch.problems)
    with pytest.raises(DatasetError, match=broken.name):
        opened(root, on_bad_sample="stop")[(0, 0)]


def test_a_split_names_the_scenes(root, tmp_path):
    listed = tmp_path / "scenes.txt"
    listed.write_text(f"{SCENE}  # all there is\n")
    assert {entry.scene for entry in opened(root, split=str(listed)).entries} == {SCENE}
    with pytest.raises(DatasetError, match=r"split 'tarin' is neither .* did you mean train"):
        opened(root, split="tarin")


def test_an_empty_split_and_no_data_are_said(root):
    with pytest.raises(DatasetError, match="none left after data.held_out=1"):
        opened(root, held_out=1)
    with pytest.raises(ConfigError, match="give either data.dataroot=DIR"):
        open_entries(DataConfig())


def test_ego_motion_is_that_of_the_tables(root):
    data = opened(root)
    sample, batch = data.entries[0].load(), data[(0, 0)]
    after = sample.neighbours[1]
    expected = np.linalg.inv(after.T_world_ego_per_camera[0]) @ sample.T_world_ego_per_camera[0]
    np.testing.assert_allclose(batch.T_target_now[0, 1].numpy(), expected, atol=1e-5)
    assert batch.T_target_now[0, 1, 0, 3] < 0 < batch.T_target_now[0, 0, 0, 3]  # driving forward: now lies behind


# ---- augmentation --------------------------------------------------------------------------------------------------


def test_a_mirrored_batch_lifts_to_the_mirrored_volume(root):
    batch = opened(root)[(0, 0)]
    points = lattice.points(Lattice((-8.0, -8.0, -1.0), (8.0, 8.0, 3.0), (16, 16, 8)))

    def lifted(each):
        cameras = replace(each.cameras, intrinsics=each.cameras.intrinsics[0], T_ego_cam=each.cameras.T_ego_cam[0])
        return lift_features(each.colors()[0, 0], plan_lift(cameras, points))

    difference = (lifted(batch).flip(2) - lifted(mirror(batch))).abs().amax(0)
    assert (difference > 1e-3).float().mean() < 5e-3  # float32: a point at the border of a view is in on one side only
    twice = mirror(mirror(batch))
    assert torch.equal(twice.images, batch.images)
    torch.testing.assert_close(twice.T_target_now, batch.T_target_now)


def test_a_mirrored_motion_moves_mirrored_points(root):
    batch = opened(root)[(0, 0)]
    point = torch.tensor([4.0, 3.0, 1.0, 1.0])
    flipped = point * torch.tensor([1.0, -1.0, 1.0, 1.0])
    moved = batch.T_target_now[0, 1] @ point
    torch.testing.assert_close(
        mirror(batch).T_target_now[0, 1] @ flipped, moved * torch.tensor([1.0, -1.0, 1.0, 1.0]), atol=1e-5, rtol=0
    )


def test_colors_change_the_same_way_in_all_images_of_a_sample(root):
    data = opened(root, jitter=1.0)
    batch = data[(0, 0)]
    (jitter,) = batch.jitter
    assert jitter != ColorJitter() and 0.8 <= jitter.brightness <= 1.2 and abs(jitter.hue) <= 0.1
    expected = jitter_colors(batch.colors()[0], jitter)
    torch.testing.assert_close(batch.jittered()[0], expected)
    assert (batch.jittered() - batch.colors()).abs().mean() > 1e-3


def test_each_color_change_does_what_its_name_says():
    grey = torch.full((3, 4, 4), 0.5)
    red = torch.zeros(3, 4, 4)
    red[0] = 0.6
    torch.testing.assert_close(jitter_colors(grey, ColorJitter(brightness=1.2)), torch.full((3, 4, 4), 0.6))
    torch.testing.assert_close(jitter_colors(grey, ColorJitter(saturation=0.1, hue=0.1)), grey, atol=1e-4, rtol=0)
    drained = jitter_colors(red, ColorJitter(saturation=0.0))
    torch.testing.assert_close(drained, torch.full((3, 4, 4), 0.6 * 0.299), atol=1e-4, rtol=0)
    halves = torch.cat([torch.full((3, 2, 4), 0.4), torch.full((3, 2, 4), 0.6)], dim=1)
    torch.testing.assert_close(
        jitter_colors(halves, ColorJitter(contrast=2.0))[0, :, 0], torch.tensor([0.3, 0.3, 0.7, 0.7])
    )
    third = jitter_colors(red, ColorJitter(hue=1 / 3))[:, 0, 0]
    assert third.argmax() != 0


# ---- order and loading ---------------------------------------------------------------------------------------------


@pytest.mark.medium
def test_spawned_workers_give_the_same_batches(root):
    data = opened(root, jitter=0.5, mirror=0.5)
    assert len(pickle.dumps(data)) < 1e6

    def first(workers):
        batches = load_batches(data, EpochSampler(len(data), seed=0), workers)
        return [next(batches) for _ in range(3)]

    for here, there in zip(first(0), first(2), strict=True):
        assert here.tokens == there.tokens and here.jitter == there.jitter
        assert torch.equal(here.images, there.images)
        torch.testing.assert_close(here.cameras.T_ego_cam, there.cameras.T_ego_cam)


@pytest.mark.medium
def test_what_a_worker_cannot_read_is_one_line(tmp_path):
    root = MadeUpDatabase(keyframes=2).write(tmp_path / "root")
    data = opened(root, on_bad_sample="stop")
    broken = data.entries[0].frame.image_paths[2]
    broken.write_bytes(b"no image")
    with pytest.raises(DatasetError) as caught:
        batches = load_batches(data, EpochSampler(len(data), seed=0), workers=1)
        [next(batches) for _ in data.entries]
    assert str(broken) in str(caught.value) and "\n" not in str(caught.value)


def test_a_sample_without_labels_takes_none_from_the_others_of_its_batch(root):
    data = opened(root)
    here, there = data[(0, 0)], data[(0, 1)]
    labelled = replace(there, semantics=torch.full(tuple(there.valid.shape), 4, dtype=torch.uint8))
    both = collate([here, labelled])
    assert (both.semantics[0] == IGNORE).all() and (both.semantics[1] == 4).all()
    assert collate([here, there]).semantics is None


def test_samples_of_different_cameras_cannot_share_a_batch(root, tmp_path):
    data = opened(root)
    whole, entry = data[(0, 0)], data.entries[0]
    pair = entry.cameras.names[:2]
    few = NuScenesSource(root, cameras=pair).index(SCENE, neighbours=True, sweeps=True)
    other = TrainingSet([e for e in few if len(e.neighbours) == 2], data.config, Preprocessor(*SIZE), seed=0)[(0, 0)]
    assert len(other.cameras) == 2
    with pytest.raises(DatasetError, match="cannot share a batch"):
        collate([whole, other])


def test_a_sample_of_other_image_sizes_per_camera_comes_out_at_one_size(tmp_path):
    root = MadeUpDatabase(keyframes=2).write(tmp_path / "root")
    import cv2

    rows = read_table(root, "sample_data")
    for row in rows:
        if row["filename"].endswith(".jpg") and "CAM_BACK/" in row["filename"]:
            image = cv2.imread(str(root / row["filename"]))
            cv2.imwrite(str(root / row["filename"]), cv2.resize(image, (128, 72)))
            row["width"], row["height"] = 128, 72
    write_table(root, "sample_data", rows)
    batch = opened(root)[(0, 0)]
    assert tuple(batch.images.shape) == (1, 3, 6, 3, SIZE[1], SIZE[0])
    back = batch.cameras.names.index("CAM_BACK")
    source = opened(root).entries[0].load().cameras
    expected = source.intrinsics[back, 0, 0].item() * SIZE[0] / 128
    assert batch.cameras.intrinsics[0, back, 0, 0].item() == pytest.approx(expected, rel=1e-6)


def test_ego_rays_project_onto_their_own_pixels():
    from gaussianocc_core.geometry.cameras import ego_rays

    cameras = ring(width=64, height=32).to(dtype=torch.float32)
    rays = ego_rays(cameras.intrinsics, cameras.T_ego_cam, 64, 32, stride=4)  # (N, 3, 8, 16)
    points = cameras.T_ego_cam[2, :3, 3] + 7.0 * rays[2].permute(1, 2, 0).reshape(-1, 3)
    pixels, _ = project(points, cameras.intrinsics, cameras.T_ego_cam)
    expected = torch.tensor([(4 * u + 2.0, 4 * v + 2.0) for v in range(8) for u in range(16)])
    torch.testing.assert_close(pixels[2], expected, atol=1e-3, rtol=0)


# ---- moments from farther away -------------------------------------------------------------------------------------


def test_history_holds_moments_from_metres_away_with_their_motion(root):
    plain = open_entries(DataConfig(dataroot=str(root), moments="keyframes"))
    driven = open_entries(DataConfig(dataroot=str(root), moments="keyframes", history=(0.5, 1.0)))
    assert [each.token for each in driven] == [each.token for each in plain]
    assert not any(each.history for each in plain) and any(each.history for each in driven)
    for each in driven:
        for offset, frame in each.history:
            way = np.linalg.norm(frame.T_world_ego[0, :3, 3] - each.frame.T_world_ego[0, :3, 3])
            assert offset < 0 and way >= 0.25
            assert frame.camera_stamps_ns[0] < each.frame.camera_stamps_ns[0]
    entry = next(each for each in driven if each.history)
    sample = entry.load()
    batch = opened(root, moments="keyframes", history=(0.5, 1.0))[(0, driven.index(entry))]
    assert batch.history is not None and batch.T_history_now is not None
    assert batch.history.shape[:3] == (1, len(entry.history), 6)
    expected = np.linalg.inv(sample.history[0].T_world_ego_per_camera[0]) @ sample.T_world_ego_per_camera[0]
    np.testing.assert_allclose(batch.T_history_now[0, 0].numpy(), expected, atol=1e-5)
    mirrored = mirror(batch)
    assert mirrored.history is not None and torch.equal(mirrored.history.flip(-1), batch.history)
    side = torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0]))
    torch.testing.assert_close(mirrored.T_history_now, side @ batch.T_history_now @ side)


def test_samples_with_less_history_are_filled_up_with_unknown_motion(root):
    data = opened(root, moments="keyframes", history=(0.5, 1.0))
    batches = [data[(0, n)] for n in range(len(data))]
    one = next(each for each in batches if each.history is not None)
    none = replace(one, history=None, T_history_now=None)
    both = collate([one, none])
    assert both.history is not None and both.history.shape[0] == 2
    assert torch.isfinite(both.T_history_now[0]).all() and both.T_history_now[1].isnan().all()
    assert collate([none, none]).history is None
