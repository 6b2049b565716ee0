# SPDX-License-Identifier: Apache-2.0
"""Depth by far views: the kernel against torch, a plane of known depth, and what stays as it was."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from gaussianocc_core.models import depth_refinement
from gaussianocc_core.models.depth_refinement import FarViews, FarViewSettings, choose_far, join_far_views, refine_depth

K = torch.tensor([[40.0, 0.0, 48.0], [0.0, 40.0, 32.0], [0.0, 0.0, 1.0]])  # of images of 96 x 64 px
H, W = 32, 48  # of maps at stride 2


def unit(shape, seed=0):
    return F.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=1)


def views(features, *places) -> FarViews:
    """Of one camera, from so many metres to the right."""
    T = torch.eye(4).repeat(1, len(places), 1, 1)
    T[0, :, 0, 3] = -torch.tensor(places)
    return FarViews.of(features, K[None], K.expand(len(places), 3, 3), T, torch.ones(1, len(places), dtype=bool))


def plane(depth: float, places) -> tuple[torch.Tensor, FarViews]:
    """Smooth features of a wall at so many metres, as they are seen from the middle and from the places."""
    wall = F.interpolate(unit((1, 16, 32, 192)), size=(2 * H, 8 * W), mode="bicubic", align_corners=False)

    def seen(place: float) -> torch.Tensor:
        # Column u of a map sees the wall at X = (u - cx) depth / f + place; the wall's map has as many columns a metre
        # as the middle's image at its depth.
        shift = place * 20.0 / depth
        u = torch.arange(W) + 0.5 + shift + 3.5 * W
        v = torch.arange(H) + 0.5 + 0.5 * H
        x, y = 2 * u / wall.shape[3] - 1, 2 * v / wall.shape[2] - 1
        where = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)[None]
        return F.normalize(F.grid_sample(wall, where, align_corners=False), dim=1)

    return seen(0.0), views(torch.cat([seen(place) for place in places]), *places)


def maps(value: float) -> torch.Tensor:
    return torch.full((1, H, W), value)


@pytest.mark.parametrize("wrong", [0.9, 0.95, 1.0, 1.05, 1.1])
def test_a_wall_is_found_where_it_is(wrong):
    present, far = plane(8.0, (1.5, -3.0))
    inv_depth, log_error = refine_depth(present, far, 2, maps(wrong / 8.0), maps(math.log(0.08)))
    inner = inv_depth[0, 4:-4, 12:-12]
    # What the network says counts too, so that a part of its error stays.
    assert float((inner * 8.0 - 1.0).abs().mean()) < 0.01 + 0.4 * abs(wrong - 1.0)
    assert float(log_error[0, 4:-4, 12:-12].exp().mean()) < 0.05  # and it knows: before it was 0.08


def test_what_is_not_like_anything_keeps_its_doubt():
    present, far = plane(8.0, (1.5, -3.0))
    noise = replace(far, features=unit(far.features.shape, seed=5))
    inv_depth, log_error = refine_depth(present, noise, 2, maps(1 / 8.0), maps(math.log(0.08)))
    sure, _ = refine_depth(present, far, 2, maps(1 / 8.0), maps(math.log(0.08)))
    off, right = (float((each * 8.0 - 1.0).abs().mean()) for each in (inv_depth, sure))
    assert right < off < 0.1 and float(log_error.exp().mean()) > 0.03


def test_the_kernel_says_what_torch_says():
    present, sources = unit((2, 16, H, W)), unit((3, 16, H, W), seed=1)
    one = views(sources, 0.5, -1.0, 2.0)
    matrix, baseline = torch.cat([one.matrix] * 2), torch.cat([one.baseline] * 2)
    matrix[1, :, 0, 2] += 12.0  # so that some cells of the second are seen by none
    used = torch.tensor([[True, True, False], [True, False, True]])
    generator = torch.Generator().manual_seed(2)
    inv_depth = 0.05 + 0.3 * torch.rand(2, H, W, generator=generator)
    spread = 0.02 + 0.2 * torch.rand(2, H, W, generator=generator)
    steps = torch.linspace(-2, 2, 5)
    scale = torch.tensor([0.5, 0.5, 1.0]).view(3, 1) * torch.tensor([2.0, 2.0, 1.0, 1.0])
    log_error = (spread * (0.5 + torch.rand(2, H, W, generator=generator))).log()
    far = FarViews(sources, matrix, used, baseline)
    assert float(depth_refinement._compare(present, far, matrix * scale, inv_depth, spread, steps, 3)[1].max()) > 1.5
    arguments = (present, far, matrix * scale, inv_depth, log_error, spread, steps, 3)
    kernel, torch_says = depth_refinement._refine_on_cpu(*arguments), depth_refinement._refine(*arguments)
    for a, b, before in zip(kernel, torch_says, (inv_depth, log_error), strict=True):
        # A hypothesis on the border of a view is seen or not by a rounding.
        assert float(((a - b).abs() > 1e-4).float().mean()) < 0.01
        assert 0.5 < float((b != before).float().mean()) < 1.0  # some cells are seen, some are not


def test_nothing_to_compare_with_changes_nothing():
    present, far = plane(8.0, (1.5,))
    before = maps(1 / 7.0), maps(math.log(0.1))
    for none in (
        replace(far, used=torch.zeros_like(far.used)),
        FarViews(far.features[:0], far.matrix[:, :0], far.used[:, :0], far.baseline[:, :0]),
    ):
        assert all(a is b for a, b in zip(refine_depth(present, none, 2, *before), before, strict=True))
    # A view that looks away sees nothing of it.
    away = replace(views(far.features, 500.0), baseline=far.baseline)
    for a, b in zip(refine_depth(present, away, 2, *before), before, strict=True):
        torch.testing.assert_close(a, b)


def test_elements_of_a_batch_see_their_own_views_alone():
    parts = [plane(8.0, (1.5, -3.0)), plane(5.0, (1.0,))]
    joined = join_far_views([far for _, far in parts])
    assert joined.used.tolist() == [[True, True, False], [False, False, True]]
    together = refine_depth(
        torch.cat([present for present, _ in parts]),
        joined,
        2,
        torch.cat([maps(1 / 7.5), maps(1 / 5.3)]),
        torch.cat([maps(math.log(0.08))] * 2),
    )
    for n, ((present, far), wrong) in enumerate(zip(parts, (7.5, 5.3), strict=True)):
        alone = refine_depth(present, far, 2, maps(1 / wrong), maps(math.log(0.08)))
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[n : n + 1], b)


def test_far_moments_are_the_first_beyond_each_way():
    assert choose_far([0.4, 0.9, 1.3, 1.9, 2.6], (1.2, 2.4)) == [2, 4]
    assert choose_far([0.4, 0.9, 1.3], (1.2, 2.4)) == [2]  # 1.3 m is more than half of 2.4 m: the same moment
    assert choose_far([0.1, 0.2, 0.3], (1.2, 2.4)) == []
    assert choose_far([], (1.2,)) == []
    assert FarViewSettings().ways_m(100.0) == pytest.approx((1.8, 3.6))


def test_even_hypotheses_are_refused():
    with pytest.raises(ValueError, match="odd hypotheses"):
        FarViewSettings(hypotheses=8)


def test_a_view_from_beside_a_thing_says_nothing_of_it():
    present, far = plane(8.0, (1.5, -3.0))
    near = maps(1 / 2.0), maps(math.log(0.08))  # a thing 2 m away, seen from 1.5 and 3 m beside it
    for a, b in zip(refine_depth(present, far, 2, *near), near, strict=True):
        torch.testing.assert_close(a, b)
