# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from gaussianocc_core.geometry import lattice, voxels
from gaussianocc_core.types import Lattice, VoxelGrid

UNIFORM = Lattice(low=(-4.0, -2.0, -1.0), high=(4.0, 2.0, 1.0), shape=(16, 8, 4))
PUBLISHED = Lattice(low=(-40.0, -40.0, -1.0), high=(40.0, 40.0, 5.4), shape=(300, 300, 24), contraction=0.66667)


def test_uniform_points_are_cell_centres():
    np.testing.assert_allclose(lattice.axis_coordinates(UNIFORM, 2), [-0.75, -0.25, 0.25, 0.75])


def test_contracted_axis_has_the_published_coordinates():
    x = lattice.axis_coordinates(PUBLISHED, 0)
    z = lattice.axis_coordinates(PUBLISHED, 2)
    # docs/method.md#b.1; float32 there
    np.testing.assert_allclose(x[-4:], [352.21, 518.32, 1016.65, 2013.27], atol=0.02)
    np.testing.assert_allclose(x[150] - x[149], 0.4013, atol=1e-4)
    np.testing.assert_allclose(z[:6], [-122.06, -5.533, -2.467, -1.444, -0.930, -0.513], atol=0.01)
    assert np.count_nonzero(np.abs(x) < 40) == 200


def test_contracted_axis_equals_the_golden_lattice(shared_data):
    golden = np.load(shared_data / "golden" / "fullgrid_24x300x300.npz")
    for axis, name in enumerate("xyz"):
        # float32 at 2013 m resolves 1.2e-4; the golden axis was computed in float32 throughout.
        np.testing.assert_allclose(
            lattice.axis_coordinates(PUBLISHED, axis), golden[f"axis_{name}"], rtol=1e-5, atol=1e-4
        )


@pytest.mark.parametrize("kind", [UNIFORM, PUBLISHED], ids=["uniform", "contracted"])
def test_fractional_index_inverts_the_coordinates(kind):
    for axis in range(3):
        inner = slice(1, -1)  # the published border vertices are moved inwards, so they are not their own index
        coordinates = lattice.axis_coordinates(kind, axis)[inner]
        index = np.arange(kind.shape[axis])[inner]
        np.testing.assert_allclose(lattice.fractional_index(kind, coordinates, axis), index, atol=1e-6)


def test_sample_reproduces_a_linear_function():
    points = lattice.points(UNIFORM)
    volume = (points @ torch.tensor([1.0, -2.0, 3.0]))[None, None]
    positions = torch.tensor([[0.3, -0.2, 0.1], [3.0, 1.0, -0.5]])
    expected = positions @ torch.tensor([1.0, -2.0, 3.0])
    torch.testing.assert_close(lattice.sample(volume, UNIFORM, positions)[0, 0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "grid"),
    [
        (UNIFORM, VoxelGrid(origin=(-4.0, -2.0, -1.0), voxel_size=0.25, shape=(32, 16, 8))),
        (UNIFORM, VoxelGrid(origin=(-5.0, -1.0, -0.9), voxel_size=0.3, shape=(20, 9, 5))),
        (
            Lattice(low=(-4.0, -4.0, -1.0), high=(4.0, 4.0, 1.0), shape=(12, 12, 8), contraction=0.66667),
            VoxelGrid(origin=(-4.0, -4.0, -1.0), voxel_size=0.25, shape=(32, 32, 8)),
        ),
    ],
    ids=["same box", "other box", "contracted"],
)
def test_resample_equals_sampling_at_voxel_centres(kind, grid):
    volume = torch.randn(1, 3, *kind.shape, generator=torch.Generator().manual_seed(0))
    sampled = lattice.sample(volume, kind, voxels.centers(grid).flatten(0, 2)).view(1, 3, *grid.shape)
    # float32 interpolation weights of two orders of evaluation
    torch.testing.assert_close(lattice.resample(volume, kind, grid), sampled, atol=1e-4, rtol=0)


def test_lattice_refuses_impossible_values():
    with pytest.raises(ValueError, match="low < high"):
        Lattice(low=(0.0, 0.0, 0.0), high=(1.0, 0.0, 1.0), shape=(4, 4, 4))
    with pytest.raises(ValueError, match="contraction"):
        Lattice(low=(0.0, 0.0, 0.0), high=(1.0, 1.0, 1.0), shape=(4, 4, 4), contraction=1.0)
