# SPDX-License-Identifier: Apache-2.0
"""Stage 2 on labels in 3D: what is read, what is compared, and that it is learnt."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.nuscenes_fixtures import MadeUpDatabase
from support.rigs import ring
from support.small_model import SMALL

from gaussianocc_core.data.entries import labels_path
from gaussianocc_core.data.sources import DataConfig, open_entries
from gaussianocc_core.errors import ConfigError, DatasetError
from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry import voxels
from gaussianocc_core.labels import CLASS_ID, FREE, IGNORE, OCCLUDED
from gaussianocc_core.models.decision_cpu import Decider
from gaussianocc_core.models.detail_head import DETAIL_CHANNELS
from gaussianocc_core.models.gaussianocc import build_model
from gaussianocc_core.models.lifting import MEASURED_CHANNELS, plan_lift, surface_features
from gaussianocc_core.models.visibility import passed_voxels, plan_sight
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.training.carved import class_error, opacity_error
from gaussianocc_core.training.loader import TrainingSet, collate, mirror
from gaussianocc_core.types import OccupancyField

GRID = SMALL.grid
MATCHING = replace(
    SMALL,
    decoder=replace(SMALL.decoder, kind="bev", surface=True, detail=True),
    matching=replace(SMALL.matching, enabled=True),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return MadeUpDatabase(keyframes=3, frames_per_keyframe=6).write(tmp_path_factory.mktemp("data") / "root")


def write_labels(folder, entry, semantics, known) -> None:
    path = labels_path(folder, entry.scene, entry.token)
    path.parent.mkdir(parents=True)
    np.savez_compressed(path, semantics=semantics, mask_camera=known, mask_lidar=known)


def wall(distance: float) -> tuple[np.ndarray, np.ndarray]:
    """A car-like wall across the way at so many metres ahead, left of the middle; known up to it."""
    x, y, _ = np.meshgrid(*(voxels.axis_centers(GRID, axis) for axis in range(3)), indexing="ij")
    step = GRID.voxel_size
    semantics = np.full(GRID.shape, FREE, dtype=np.uint8)
    semantics[(x > distance) & (x <= distance + step) & (y > 0)] = CLASS_ID["car"]
    return semantics, (np.abs(x) <= distance + step).astype(np.uint8)


def test_labels_reach_the_batch_and_what_is_not_known_is_no_label(root, tmp_path):
    config = DataConfig(dataroot=str(root), jitter=0.0, mirror=0.0)
    entries = open_entries(config)
    semantics, known = wall(2.0)
    write_labels(tmp_path, entries[1], semantics, known)
    config = replace(config, occupancy=str(tmp_path))
    (entry,) = open_entries(config)
    assert entry.token == entries[1].token
    batch = TrainingSet([entry], config, Preprocessor(32, 16), seed=0)[(0, 0)]
    assert batch.occupancy is not None
    found = batch.occupancy[0].numpy()
    assert (found[known == 0] == IGNORE).all() and (known == 0).any()
    assert (found[known == 1] == semantics[known == 1]).all()
    mirrored = mirror(batch).occupancy
    assert mirrored is not None and (mirrored[0].numpy() == found[:, ::-1]).all()
    both = collate([batch, batch]).occupancy
    assert both is not None and both.shape == (2, *GRID.shape)


def test_a_folder_without_any_label_is_refused_with_the_file_it_should_have_had(root, tmp_path):
    with pytest.raises(DatasetError, match=r"no labels for any of .*labels\.npz.*carve_labels"):
        open_entries(DataConfig(dataroot=str(root), occupancy=str(tmp_path)))


def test_labels_of_another_grid_are_refused():
    model = build_model(SMALL)
    field = OccupancyField(torch.zeros(1, 18, *SMALL.lattice.shape))
    with pytest.raises(ConfigError, match="carve them with this model's grid"):
        opacity_error(model, field, GRID, [], torch.zeros(1, 4, 4, 4, dtype=torch.uint8))


def test_errors_count_known_voxels_alone():
    model = build_model(SMALL)
    logits = torch.zeros(1, 18, *SMALL.lattice.shape)
    logits[:, CLASS_ID["car"]], logits[:, -1] = 8.0, -8.0  # a car everywhere
    labels = torch.full((1, *GRID.shape), IGNORE, dtype=torch.uint8)
    weights = torch.ones(18)
    labels[0, 3:5] = CLASS_ID["car"]
    assert float(opacity_error(model, OccupancyField(logits), GRID, [], labels)) < 1e-3
    assert float(class_error(model, OccupancyField(logits), GRID, labels, weights)) < 1e-1
    labels[0, 3:5] = CLASS_ID["bus"]
    assert float(opacity_error(model, OccupancyField(logits), GRID, [], labels)) < 1e-3
    assert float(class_error(model, OccupancyField(logits), GRID, labels, weights)) > 5.0
    labels[0, 3:5] = FREE
    assert float(opacity_error(model, OccupancyField(logits), GRID, [], labels)) > 5.0
    assert float(class_error(model, OccupancyField(logits), GRID, labels, weights)) == 0.0


def test_a_wall_between_the_points_of_the_lattice_is_learnt_with_its_details():
    """The lattice alone cannot hold a wall that is thinner than the distance of its points; what is measured can."""
    torch.manual_seed(0)
    model = build_model(MATCHING).train()
    cameras = camera_geometry.resize(ring(), SMALL.image_width, SMALL.image_height).to(dtype=torch.float32)
    semantics, known = wall(2.0)
    labels = torch.from_numpy(np.where(known == 1, semantics, IGNORE))[None]
    plans = [model.plan(cameras)]
    centres = [model.plan_voxels(cameras, GRID)]
    images = torch.rand(1, len(cameras), 3, SMALL.image_height, SMALL.image_width)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    first = last = None
    for _ in range(60):
        field = model(images, plans)
        loss = opacity_error(model, field, GRID, centres, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        last = float(loss.detach())
        first = first or last
    assert last < 0.25 * first
    assert model.detail_head is not None and float(model.detail_head.last.weight.detach().abs().max()) > 0


def test_a_sure_surface_is_sharper_than_a_doubtful_one():
    cameras = camera_geometry.resize(ring(), 40, 24).to(dtype=torch.float32)
    points = torch.tensor([[6.0, 0.0, 1.5], [5.0, 0.0, 1.5]])
    front = cameras.select((cameras.names[0],))
    plan = plan_lift(front, points.view(1, 1, 2, 3))
    depth = plan.depths[0]
    inv_depth = torch.full((1, 12, 20), 1.0 / float(depth[0]))

    def measured(error):
        return surface_features(inv_depth, plan, torch.full((1, 12, 20), float(np.log(error)))).view(
            MEASURED_CHANNELS, 2
        )

    sure, doubtful = measured(0.02), measured(0.3)
    assert float(sure[0, 0]) > 0.99 and float(doubtful[0, 0]) > 0.99  # at the surface
    assert float(sure[0, 1]) < 0.01 < 0.5 < float(doubtful[0, 1])  # a metre before it
    assert float(sure[3, 0]) > 3 * float(doubtful[3, 0])  # the share that may be there
    assert float(sure[1, 1]) > float(doubtful[1, 1])  # in front of it, seen through


def test_the_kernel_of_the_details_says_what_torch_says():
    torch.manual_seed(0)
    model = build_model(MATCHING).eval()
    assert model.detail_head is not None
    torch.nn.init.normal_(model.detail_head.last.weight)
    cameras = camera_geometry.resize(ring(), SMALL.image_width, SMALL.image_height).to(dtype=torch.float32)
    valid = torch.rand(len(cameras), SMALL.image_height, SMALL.image_width) > 0.1
    inv_depth = 1.0 / (2.0 + 6.0 * torch.rand(1, len(cameras), 24, 40))
    inv_depth[0, 0] = 1.0 / 40.0  # so that there are rays that pass
    field = OccupancyField(
        torch.randn(1, 18, *SMALL.lattice.shape),
        inv_depth,
        (0.02 + 0.3 * torch.rand_like(inv_depth)).log(),
        torch.randn(1, DETAIL_CHANNELS, *SMALL.lattice.shape),
    )
    with torch.inference_mode():
        whole = model.free_logits(field, GRID, [model.plan_voxels(cameras, GRID, valid)]).view(GRID.shape)
        coarse = model.sample_grid(field, GRID)[0, -1]
        lines = plan_sight(cameras, GRID, valid.numpy(), 2)
        nowhere = np.zeros(GRID.shape, dtype=bool)
        decider = Decider(SMALL.lattice, GRID, SMALL.class_names, nowhere[..., 0], nowhere[0, 0])
        decided = decider(field, 0.5, ~nowhere, lines, model.detail_head)
        assert decided.finer is not None
        added = decided.finer
        expected = (whole - coarse).numpy()
    # A centre on the edge of a cell is read from the one or the other.
    off = np.abs(added - expected) > 1e-3
    assert off.mean() < 0.02 and (expected != 0).mean() > 0.05
    free, passed = whole.numpy() > 0, passed_voxels(lines, inv_depth[0].numpy(), field.log_error[0].numpy())
    assert (np.isin(decided.labels, (FREE, OCCLUDED)) != free)[~off].mean() < 1e-3
    assert np.array_equal((decided.labels == OCCLUDED)[free & ~off], ~passed[free & ~off]) and passed.mean() > 0.03
    sure = free & passed & ~off
    np.testing.assert_allclose(decided.confidence[sure], torch.sigmoid(whole).numpy()[sure], atol=1e-3)
    assert (decided.confidence[decided.labels == OCCLUDED] == 0).all()


def test_details_need_a_depth_that_says_its_error():
    with pytest.raises(ValueError, match="decoder.detail: needs matching"):
        build_model(replace(SMALL, decoder=replace(SMALL.decoder, kind="bev", detail=True)))
