# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest
import torch
from core.rigs import ring
from core.test_models import SMALL

from gaussianocc_core import evaluate, train
from gaussianocc_core.data.labels import CLASS_ID, FREE
from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry import lattice
from gaussianocc_core.models.gaussianocc import build_model
from gaussianocc_core.models.lifting import lift_features, plan_lift
from gaussianocc_core.types import OccupancyLabels, Sample

CONFIG = train.TrainConfig(model=SMALL, seen_voxels=2000, hidden_voxels=500)


def street(seed=0) -> train.PreparedSample:
    """Road below, a wall to the left, random images."""
    random = np.random.default_rng(seed)
    semantics = np.full(SMALL.grid.shape, FREE, dtype=np.uint8)
    semantics[:, :, 1] = CLASS_ID["driveable_surface"]
    semantics[:, 26:28, 2:6] = CLASS_ID["manmade"]
    images = random.integers(0, 255, (6, SMALL.image_height, SMALL.image_width, 3), dtype=np.uint8)
    rig = camera_geometry.resize(ring(), SMALL.image_width, SMALL.image_height).to(dtype=torch.float32)
    return train.PreparedSample(images, rig, semantics, semantics != FREE)


def test_mirrored_sample_lifts_to_the_mirrored_volume():
    sample = street()
    mirrored = train.mirror(sample)
    points = lattice.points(SMALL.lattice)

    def lifted(each):
        features = torch.from_numpy(each.images).permute(0, 3, 1, 2).float() / 255
        return lift_features(features, plan_lift(each.cameras, points))

    # float32 projections: a point at the border of a view may be in on one side only
    difference = (lifted(sample).flip(2) - lifted(mirrored)).abs().amax(0)
    assert (difference > 1e-3).float().mean() < 2e-3
    np.testing.assert_array_equal(mirrored.semantics[:, 4:6, 3], sample.semantics[:, 27:25:-1, 3])
    again = train.mirror(mirrored)
    torch.testing.assert_close(again.cameras.T_ego_cam, sample.cameras.T_ego_cam)
    torch.testing.assert_close(again.cameras.intrinsics, sample.cameras.intrinsics)


def test_loss_falls_on_one_overfitted_sample():
    torch.manual_seed(0)
    sample, random = street(), np.random.default_rng(0)
    model = build_model(SMALL).train()
    weights = torch.from_numpy(train.balanced_class_weights([sample], CONFIG.balance))
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    totals = []
    for _ in range(25):
        named = train.train_step(model, sample, CONFIG, weights, random)
        optimiser.zero_grad()
        named["total"].backward()
        optimiser.step()
        totals.append(named["total"].item())
    assert np.mean(totals[-5:]) < 0.6 * np.mean(totals[:3])


def test_a_part_of_the_lattice_is_at_the_same_places_as_the_whole():
    random = np.random.default_rng(0)
    whole = lattice.points(SMALL.lattice)
    for _ in range(5):
        part = train._draw_part(SMALL.lattice, 0.5, random)
        points = lattice.points(part)
        x = int(torch.argmin((whole[:, 0, 0, 0] - points[0, 0, 0, 0]).abs()))
        y = int(torch.argmin((whole[0, :, 0, 1] - points[0, 0, 0, 1]).abs()))
        inner = whole[x : x + part.shape[0], y : y + part.shape[1]]
        torch.testing.assert_close(points, inner, atol=1e-5, rtol=0)
        assert part.shape == (8, 8, 8)


def test_balanced_weights_favour_rare_classes_and_ignore_absent_ones():
    weights = train.balanced_class_weights([replace(street(), mask_camera=np.ones(SMALL.grid.shape, dtype=bool))], 0.5)
    assert weights[CLASS_ID["manmade"]] > weights[CLASS_ID["driveable_surface"]] > weights[FREE] > 0
    assert weights[CLASS_ID["bus"]] == 0


def test_cameras_are_moved_into_the_frame_of_the_labels():
    rig = ring(yaws=(0.0, 180.0))
    at_labels, at_image = np.eye(4), np.eye(4)
    at_image[0, 3] = 0.3
    labels = OccupancyLabels(
        np.zeros((2, 2, 2), np.uint8), np.ones((2, 2, 2), bool), np.ones((2, 2, 2), bool), at_labels
    )
    images = tuple(np.zeros((90, 160, 3), np.uint8) for _ in range(2))
    meta = {"T_world_ego_per_camera": np.stack([at_image, at_labels])}
    moved = train.in_label_frame(Sample("t", "s", 0, images, rig, at_image, labels, (0, 0), meta))
    shift = moved.T_ego_cam[:, :3, 3] - rig.T_ego_cam[:, :3, 3]
    np.testing.assert_allclose(shift.numpy(), [[0.3, 0, 0], [0, 0, 0]], atol=1e-12)


@pytest.mark.parametrize(
    ("run", "arguments", "message"),
    [
        (train.main, ["nothing.yaml"], "nothing.yaml: no such file"),
        (evaluate.main, ["nothing.safetensors", "--dataroot", "x"], "nothing.safetensors: no such checkpoint"),
    ],
)
def test_a_users_mistake_is_one_line(run, arguments, message, capsys):
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1


def test_training_without_data_names_the_folder(tmp_path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text(f"output: {tmp_path / 'run'}\ndata: {{dataroot: {tmp_path / 'none'}}}\n")
    assert train.main([str(config)]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err


def test_calibration_quietens_a_network_that_fills_space():
    torch.manual_seed(0)
    model = build_model(SMALL).eval()
    with torch.no_grad():
        model.voxel_decoder.class_offset[CLASS_ID["car"]] = 2.0  # claims a car nearly everywhere
    before = model.voxel_decoder.class_offset[FREE].item()
    sample = replace(street(), mask_camera=np.ones(SMALL.grid.shape, dtype=bool))
    shift = train.calibrate_free_space(model, [sample], CONFIG)
    assert shift > 0
    assert model.voxel_decoder.class_offset[FREE].item() == pytest.approx(before + shift)
    assert train.calibrate_free_space(model, [sample], CONFIG) == 0.0  # at its best already
