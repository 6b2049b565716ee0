# SPDX-License-Identifier: Apache-2.0
"""The voxel traversal against a march that sorts all border crossings."""

import itertools

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from gaussianocc_core.geometry.raymarch import march_labels
from gaussianocc_core.labels import FREE
from gaussianocc_core.synthetic.scene import Scene
from gaussianocc_core.types import VoxelGrid


def brute_force(origin, direction, labels, grid):
    """Cells in order: parameters at which the ray crosses border planes, sorted; a cell lies between two of them."""
    crossings = [0.0]
    for axis in range(3):
        if direction[axis]:
            planes = grid.origin[axis] + np.arange(grid.shape[axis] + 1) * grid.voxel_size
            crossings += [t for t in (planes - origin[axis]) / direction[axis] if t > 0]
    crossings = np.unique(crossings)
    seen = []
    for start, end in itertools.pairwise(crossings):
        cell = np.floor((origin + 0.5 * (start + end) * direction - grid.origin) / grid.voxel_size).astype(int)
        if end - start < 1e-12 or (cell < 0).any() or (cell >= grid.shape).any():
            continue
        seen.append((tuple(cell), start, end))
        if labels[tuple(cell)] != FREE:
            break
    return seen


@pytest.mark.parametrize("seed", range(4))
def test_the_march_visits_the_cells_that_a_brute_force_march_visits(seed):
    rng = np.random.default_rng(seed)
    grid = VoxelGrid(origin=(-2.0, 1.0, -0.5), voxel_size=0.3, shape=(9, 12, 5))
    labels = np.where(rng.random(grid.shape) < 0.06, rng.integers(0, 17, grid.shape), FREE).astype(np.uint8)
    origins = rng.uniform(-1.0, 1.0, (250, 3)) * 3.0 + (np.array(grid.origin) + grid.upper) / 2
    directions = rng.standard_normal((250, 3))
    directions[::9, 0] = 0.0  # some parallel to a face
    directions[::14, 2] = 0.0
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    result = march_labels(origins, directions, labels, grid)
    visited = np.zeros(grid.shape, dtype=bool)
    for ray in range(len(origins)):
        seen = brute_force(origins[ray], directions[ray], labels, grid)
        for cell, _, _ in seen:
            visited[cell] = True
        if not seen:
            assert not result.hit[ray] and tuple(result.index[ray]) == (-1, -1, -1) and np.isinf(result.entry[ray])
            continue
        cell, entry, leave = seen[-1]
        assert tuple(result.index[ray]) == cell
        assert result.entry[ray] == pytest.approx(entry, abs=1e-9)
        assert result.exit[ray] == pytest.approx(leave, abs=1e-9)
        assert result.label[ray] == labels[cell] and result.hit[ray] == (labels[cell] != FREE)
    assert (result.visited == visited).all()


def test_a_wall_is_met_where_it_stands_and_hides_what_lies_behind():
    grid = VoxelGrid(origin=(0.0, 0.0, 0.0), voxel_size=0.5, shape=(10, 3, 3))
    labels = np.full(grid.shape, FREE, dtype=np.uint8)
    labels[6, :, :] = 15
    result = march_labels(np.array([0.25, 0.75, 0.75]), np.array([[1.0, 0.0, 0.0]]), labels, grid)
    assert result.hit[0] and tuple(result.index[0]) == (6, 1, 1) and result.label[0] == 15
    assert result.entry[0] == pytest.approx(2.75) and result.exit[0] == pytest.approx(3.25)
    assert result.visited[:7, 1, 1].all() and result.visited.sum() == 7


def test_without_a_hit_the_last_cell_inside_the_grid_is_reported():
    grid = VoxelGrid(origin=(0.0, 0.0, 0.0), voxel_size=1.0, shape=(4, 4, 4))
    labels = np.full(grid.shape, FREE, dtype=np.uint8)
    result = march_labels(np.array([[-5.0, 0.5, 0.5]]), np.array([[1.0, 0.0, 0.0]]), labels, grid)
    assert not result.hit[0] and tuple(result.index[0]) == (3, 0, 0) and result.exit[0] == pytest.approx(9.0)


def test_labels_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="expected shape"):
        march_labels(np.zeros((1, 3)), np.ones((1, 3)), np.zeros((2, 2, 2), dtype=np.uint8), VoxelGrid())


def test_an_origin_that_is_not_a_point_is_refused():
    grid = VoxelGrid(shape=(4, 4, 4))
    labels = np.full(grid.shape, FREE, dtype=np.uint8)
    directions = np.array([[1.0, 0.0, 0.0]])
    assert not march_labels(np.zeros(3), directions, labels, grid).hit.any()
    with pytest.raises(TypeCheckError, match="origins"):
        march_labels(np.zeros(4), directions, labels, grid)


def test_a_scene_with_a_vector_of_the_wrong_length_is_refused():
    arrays = {
        "floats": np.zeros((0, 18)),
        "ints": np.zeros((0, 4), np.int32),
        "start": np.zeros(1, np.int32),
        "items": np.zeros(0, np.int32),
        "low": np.zeros(3),
        "high": np.ones(3),
        "shape": np.ones(3, np.int64),
        "segments": np.zeros((0, 7)),
        "crosses": np.zeros((0, 7)),
        "ground": np.zeros(20),
        "light": np.zeros(16),
    }
    Scene(**arrays)
    for name in ("low", "high", "shape", "light"):
        with pytest.raises(TypeCheckError, match=name):
            Scene(**{**arrays, name: arrays[name][:-1]})
