# SPDX-License-Identifier: Apache-2.0
"""The plane sweep: the kernel against a plain loop, gradients, and analytic scenes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gaussianocc_core.geometry.cameras import pair_matrix, pixel_rays
from gaussianocc_core.models.matching import (
    EARLIER,
    GROUPS,
    NO_PAIRS,
    SAME_MOMENT,
    MatchingConfig,
    Pairs,
    coordinate_inv_depth,
    join_pairs,
    plane_coordinate,
    plane_inv_depths,
    sweep_planes,
)

FAR = 200.0
K = torch.tensor([[40.0, 0.0, 24.0], [0.0, 42.0, 16.0], [0.0, 0.0, 1.0]])
STRIDES = (4.0, 2.0)  # of images of 48 x 32 px


def some_pairs(count: int, references: int, sources: int, seed: int = 0) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    T = torch.eye(4).repeat(count, 1, 1)
    T[:, :3, 3] = 0.4 * torch.randn(count, 3, generator=generator)
    T[:, 0, 2] = 0.1 * torch.randn(count, generator=generator)  # hardly a rotation
    return Pairs(
        torch.randint(references, (count,), generator=generator),
        torch.randint(sources, (count,), generator=generator),
        torch.randint(GROUPS, (count,), generator=generator),
        pair_matrix(K.expand(count, 3, 3), K.expand(count, 3, 3), T),
    )


def some_maps(references: int, sources: int, channels: int = 16, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    left = torch.randn(references, channels, 8, 12, generator=generator, dtype=dtype)
    right = torch.randn(sources, channels, 16, 24, generator=generator, dtype=dtype)
    return F.normalize(left, dim=1), F.normalize(right, dim=1)


def plain_sweep(
    left: np.ndarray, right: np.ndarray, pairs: Pairs, inverse: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """As slow and plain as can be: one sample after the other, in float64."""
    count, _, height, width = left.shape
    depths, (_, _, source_height, source_width) = len(inverse), right.shape
    summed = np.zeros((count, GROUPS, depths, height, width))
    seen = np.zeros_like(summed)
    for p in range(len(pairs)):
        r, s, g = (int(each[p]) for each in (pairs.reference, pairs.source, pairs.group))
        M = pairs.matrix[p].double().numpy()
        for i in range(height):
            for j in range(width):
                for d in range(depths):
                    pixel = np.array([(j + 0.5) * STRIDES[0], (i + 0.5) * STRIDES[0], 1.0, inverse[d]])
                    x, y, z = M @ pixel
                    if z <= 1e-3:
                        continue
                    u, v = x / z / STRIDES[1], y / z / STRIDES[1]
                    if not (0 <= u < source_width and 0 <= v < source_height):
                        continue
                    u, v = np.clip(u - 0.5, 0, source_width - 1), np.clip(v - 0.5, 0, source_height - 1)
                    u0, v0 = min(int(u), source_width - 2), min(int(v), source_height - 2)
                    a, b = u - u0, v - v0
                    patch = right[s, :, v0 : v0 + 2, u0 : u0 + 2]
                    value = np.einsum("cyx,y,x->c", patch, [1 - b, b], [1 - a, a])
                    summed[r, g, d, i, j] += left[r, :, i, j] @ value
                    seen[r, g, d, i, j] += 1
    volume = summed / np.maximum(seen, 1)
    return volume.reshape(count, -1, height, width), seen.mean(axis=2)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_a_sweep_is_what_a_plain_loop_finds(backend: str) -> None:
    left, right = some_maps(3, 4)
    pairs, inverse = some_pairs(6, 3, 4), plane_inv_depths(MatchingConfig(depths=12), FAR)
    expected, expected_seen = plain_sweep(left.numpy(), right.numpy(), pairs, inverse.double().numpy())
    volume, seen = sweep_planes(left, right, pairs, inverse, STRIDES, backend)
    assert 0.2 < float((seen > 0).float().mean()) < 1.0  # views see a part
    # A point on the very rim of a view may fall to either side of it by rounding.
    close = np.isclose(volume.numpy(), expected, atol=2e-5)
    assert close.mean() > 0.999
    assert np.isclose(seen.numpy(), expected_seen, atol=1e-6).mean() > 0.999


def test_any_number_of_channels_and_of_threads() -> None:
    left, right = some_maps(3, 4, channels=21)
    pairs, inverse = some_pairs(6, 3, 4), plane_inv_depths(MatchingConfig(depths=12), FAR)
    expected, _ = sweep_planes(left, right, pairs, inverse, STRIDES, "torch")
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(sweep_planes(left, right, pairs, inverse, STRIDES, "cpu")[0])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)
    torch.testing.assert_close(results[0], expected, atol=2e-5, rtol=0)


def test_gradients_of_the_kernel_are_those_of_torch() -> None:
    found = []
    for backend in ("cpu", "torch"):
        left, right = (each.requires_grad_() for each in some_maps(3, 4))
        pairs, inverse = some_pairs(6, 3, 4), plane_inv_depths(MatchingConfig(depths=12), FAR)
        volume, _ = sweep_planes(left, right, pairs, inverse, STRIDES, backend)
        weights = torch.randn(volume.shape, generator=torch.Generator().manual_seed(2))
        (volume * weights).sum().backward()
        found.append((left.grad, right.grad))
    for ours, theirs in zip(*found, strict=True):
        assert float(theirs.abs().max()) > 1.0
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_gradients_of_torch_are_those_of_differences() -> None:
    left, right = (each.requires_grad_() for each in some_maps(2, 2, channels=2, dtype=torch.float64))
    pairs, inverse = some_pairs(3, 2, 2), plane_inv_depths(MatchingConfig(depths=4), FAR)
    assert torch.autograd.gradcheck(
        lambda a, b: sweep_planes(a, b, pairs, inverse, STRIDES, "torch")[0], (left[:, :, :3, :4], right[:, :, :6, :8])
    )


def test_without_views_all_is_zero() -> None:
    left, right = some_maps(2, 2)
    volume, seen = sweep_planes(left, right, NO_PAIRS, plane_inv_depths(MatchingConfig(), FAR), STRIDES)
    assert volume.shape == (2, GROUPS * 48, 8, 12) and not volume.any() and seen.shape == (2, GROUPS, 8, 12)
    assert len(join_pairs([NO_PAIRS, NO_PAIRS])) == 0


def test_planes_and_their_coordinate() -> None:
    config = MatchingConfig()
    inverse = plane_inv_depths(config, FAR)
    assert inverse[0] == pytest.approx(1 / FAR) and inverse[-1] == pytest.approx(1 / config.nearest)
    place = plane_coordinate(inverse, config, FAR)
    torch.testing.assert_close(place, torch.arange(48.0), atol=2e-2, rtol=0)
    torch.testing.assert_close(coordinate_inv_depth(place, config, FAR)[1:], inverse[1:], atol=1e-4, rtol=1e-3)


def circle(grey: Tensor) -> Tensor:
    """Intensities 0-1 as unit vectors: the product of two is the cosine of their difference."""
    return torch.stack([torch.cos(1.5 * grey), torch.sin(1.5 * grey)], dim=1)


def texture(x: Tensor, y: Tensor) -> Tensor:
    waves = torch.sin(7.1 * x + 1.3 * y) + torch.sin(-3.3 * x + 5.9 * y) + torch.sin(2.2 * x + 2.9 * y + 1.0)
    return 0.5 + 0.16 * waves


@pytest.mark.parametrize("depth", [1.3, 3.1, 7.7])
@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("moment", [SAME_MOMENT, EARLIER])
def test_a_textured_plane_is_found_within_a_quarter_of_a_step(depth: float, backend: str, moment: int) -> None:
    """From raw intensities: one plane that faces the camera, seen from the side and from another height."""
    config = MatchingConfig()
    width, height, stride = 96, 64, 2
    wide = torch.tensor([[80.0, 0.0, 48.0], [0.0, 80.0, 32.0], [0.0, 0.0, 1.0]])
    places = torch.tensor([[0.0, 0.0, 0.0], [0.35, 0.0, 0.0], [-0.2, 0.25, 0.1]]) * (depth / 3.0)  # of the cameras, m

    def see(place: Tensor, cell: int) -> Tensor:
        scaled = wide * torch.tensor([[1 / cell], [1 / cell], [1.0]])
        rays = pixel_rays(scaled[None], width // cell, height // cell)[0]
        point = place + rays * (depth - place[2])
        return circle(texture(3.0 / depth * point[..., 0], 3.0 / depth * point[..., 1])[None])

    reference, sources = see(places[0], 4), torch.cat([see(place, stride) for place in places[1:]])
    T = torch.eye(4).repeat(2, 1, 1)
    T[:, :3, 3] = -places[1:]
    index = torch.arange(2)
    pairs = Pairs(
        torch.zeros(2, dtype=torch.long),
        index,
        torch.full((2,), moment),
        pair_matrix(wide.expand(2, 3, 3), wide.expand(2, 3, 3), T),
    )
    volume, seen = sweep_planes(reference, sources, pairs, plane_inv_depths(config, FAR), (4.0, float(stride)), backend)
    ours = volume.unflatten(1, (GROUPS, -1))[0, moment]  # (D, h, w)
    assert not volume.unflatten(1, (GROUPS, -1))[0, 1 - moment].any()
    inside = F.avg_pool2d(ours, 7, 1)  # one grey value alone is found in many places
    best = inside.argmax(dim=0).clamp(1, config.depths - 2)
    below, at, above = (inside.gather(0, (best + k)[None])[0] for k in (-1, 0, 1))
    vertex = best + 0.5 * (below - above) / (below - 2 * at + above)
    expected = plane_coordinate(torch.tensor(1.0 / depth), config, FAR)
    _, both = sweep_planes(reference, sources, pairs, torch.tensor([1.0 / depth]), (4.0, float(stride)), backend)
    counts = F.avg_pool2d(both[:, moment], 7, 1)[0] == 2.0  # cells that both views see, with all around them
    assert counts.float().mean() > 0.3
    assert float((vertex - expected).abs()[counts].quantile(0.9)) < 0.25
    assert seen[0, moment].max() <= 2.0
