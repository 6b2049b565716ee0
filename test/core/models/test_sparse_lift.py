# SPDX-License-Identifier: Apache-2.0
"""The sparse lift against grid_sample, forward and backward."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.rigs import ring

from gaussianocc_core.geometry import lattice
from gaussianocc_core.models import lifting, sparse_lift
from gaussianocc_core.models.lifting import LiftConstants, lift_features, plan_lift
from gaussianocc_core.types import Lattice

LATTICE = Lattice(low=(-8.0, -8.0, -1.0), high=(8.0, 8.0, 4.0), shape=(24, 20, 6))


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def lift_everything(features, plan):
    """Every point in every camera by grid_sample, then the mean over the cameras that see it: the plain definition."""
    total = 0
    for n, (index, where) in enumerate(zip(plan.points, plan.positions, strict=True)):
        everywhere = torch.full((plan.weight.numel(), 2), -9.0, dtype=features.dtype)
        everywhere[index] = where.to(features.dtype)
        sampled = F.grid_sample(
            features[n : n + 1], everywhere[None, None], padding_mode=plan.constants.padding, align_corners=False
        )[0, :, 0]
        visible = torch.zeros(plan.weight.numel(), dtype=features.dtype)
        visible[index] = 1
        total = total + sampled * visible
    return (total * plan.weight.flatten().to(features.dtype)).unflatten(1, plan.weight.shape)


def rig_plan(constants=lifting.OUR_LIFT, dtype=torch.float32):
    return plan_lift(ring().to(dtype=dtype), lattice.points(LATTICE).to(dtype), constants=constants)


@pytest.mark.parametrize("padding", ["border", "zeros"])
@pytest.mark.parametrize(("height", "width"), [(12, 20), (5, 3), (1, 7), (4, 1)])
def test_it_equals_grid_sample_of_every_point_in_every_camera(padding, height, width):
    plan = rig_plan(LiftConstants(padding=padding, view_shift=0.5, stretch=1.0))
    expected, actual = random(6, 7, height, width).requires_grad_(), random(6, 7, height, width).requires_grad_()
    grad = random(7, *LATTICE.shape, seed=1)
    reference, lifted = lift_everything(expected, plan), lift_features(actual, plan)
    assert (lifted.abs().sum(0) > 0).float().mean() > 0.2
    torch.testing.assert_close(lifted, reference, atol=1e-5, rtol=0)
    reference.backward(grad)
    lifted.backward(grad)
    torch.testing.assert_close(actual.grad, expected.grad, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_finite_differences():
    points = random(30, 3, dtype=torch.float64) + torch.tensor([5.0, 3.0, 1.5], dtype=torch.float64)
    plan = plan_lift(ring(yaws=(0.0, 60.0)), points)
    assert plan.seen.sum() > 5
    features = random(2, 2, 3, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: lift_features(f, plan), (features,))


def test_lattices_larger_than_a_block_of_points_have_no_seams():
    rig, points = ring().to(dtype=torch.float32), lattice.points(replace(LATTICE, shape=(40, 40, 12)))
    assert points[..., 0].numel() > 4 * sparse_lift._BLOCK
    features, plan = random(6, 3, 12, 20), plan_lift(rig, points)
    torch.testing.assert_close(
        lift_features(features, plan), lifting._lift_by_sampling(features, plan), atol=1e-5, rtol=0
    )
    part = plan_lift(rig, points.flatten(0, 2)[: 2 * sparse_lift._BLOCK])  # ends with a full block
    torch.testing.assert_close(lift_features(features, part), lift_features(features, plan).flatten(1)[:, : 2 * 1024])


def test_values_do_not_depend_on_the_number_of_threads():
    plan, threads = rig_plan(), torch.get_num_threads()
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        features = random(6, 5, 12, 20).requires_grad_()
        lifted = lift_features(features, plan)
        lifted.square().sum().backward()
        results.append((lifted.detach(), features.grad))
    torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_a_plan_keeps_its_matrix_and_a_plan_made_from_it_has_its_own():
    plan = rig_plan()
    assert plan.matrix(12, 20, torch.float32) is plan.matrix(12, 20, torch.float32)
    used = [1, 4]
    fewer = replace(plan, points=tuple(plan.points[n] for n in used), positions=tuple(plan.positions[n] for n in used))
    assert fewer.matrix(12, 20, torch.float32).size == (2, 12, 20)
    features = random(6, 3, 12, 20)
    torch.testing.assert_close(
        lift_features(features[used], fewer), lifting._lift_by_sampling(features[used], fewer), atol=1e-5, rtol=0
    )


def test_features_of_another_size_are_refused():
    matrix = rig_plan().matrix(12, 20, torch.float32)
    with pytest.raises(ValueError, match=r"N, h, w = \(6, 12, 20\), got \(6, 3, 12, 21\)"):
        sparse_lift.apply_matrix(random(6, 3, 12, 21), matrix)


def test_no_camera_sees_anything():
    plan = plan_lift(ring(yaws=(0.0,)).to(dtype=torch.float32), torch.tensor([[-5.0, 0.0, 1.0]]))
    features = random(1, 2, 4, 4).requires_grad_()
    lifted = lift_features(features, plan)
    lifted.sum().backward()
    assert np.array_equal(lifted.detach(), np.zeros((2, 1))) and features.grad.abs().sum() == 0
