# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from support.rigs import ring

from gaussianocc_core.geometry import transforms
from gaussianocc_core.models.pose_net import EgoMotion, PoseNet, camera_motions, rodrigues


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return PoseNet("resnet18", 0.125, 8).eval()


@pytest.mark.parametrize("count", [1, 2, 6])
def test_one_motion_for_any_number_of_cameras_in_any_order(net, count):
    frames = torch.rand(2, 2, count, 3, 64, 96)
    with torch.no_grad():
        motion = net(frames[0], frames[1])
        turned = net(frames[0].flip(1), frames[1].flip(1))
    assert motion.axis_angle.shape == motion.translation.shape == (2, 2, 3)
    torch.testing.assert_close(motion.axis_angle, turned.axis_angle, atol=1e-6, rtol=1e-4)


def test_the_order_of_the_frames_matters(net):
    earlier, later = torch.rand(2, 1, 2, 3, 64, 96)
    with torch.no_grad():
        assert not torch.allclose(net(earlier, later).translation, net(later, earlier).translation, atol=1e-8)


def test_every_weight_learns(net):
    motion = net(*torch.rand(2, 1, 2, 3, 64, 96))
    (motion.axis_angle.square().sum() + motion.translation.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_rodrigues_equals_the_matrix_exponential_and_has_a_gradient_at_rest():
    vectors = torch.tensor([[0.3, -0.2, 0.5], [0.0, 0.0, np.pi / 2]], dtype=torch.float64)
    for vector, matrix in zip(vectors, rodrigues(vectors), strict=True):
        x, y, z = vector
        cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
        torch.testing.assert_close(matrix, torch.linalg.matrix_exp(cross), atol=1e-6, rtol=0)
    rest = torch.zeros(1, 3, requires_grad=True)
    rodrigues(rest).sum().backward()
    assert torch.isfinite(rest.grad).all()


def test_a_rig_that_drives_ahead_moves_the_world_back_and_each_camera_its_own_way():
    rig = ring(yaws=(0.0, 90.0))
    motion = EgoMotion(torch.zeros(1, 2, 3).double(), torch.tensor([[[-2.0, 0, 0], [9.0, 9, 9]]]).double())
    T_later_earlier = motion.T_later_earlier()[0]  # what stood at x = 5 m is at 3 m after driving 2 m
    assert (T_later_earlier @ torch.tensor([5.0, 1, 0, 1]).double()).tolist() == [3, 1, 0, 1]
    front, left = camera_motions(T_later_earlier, rig.T_ego_cam)
    np.testing.assert_allclose(front[:3, 3], [0, 0, -2], atol=1e-12)  # towards the front camera, along z
    np.testing.assert_allclose(left[:3, 3], [-2, 0, 0], atol=1e-12)  # ahead is right of the left camera: -x


def test_the_motion_to_the_past_is_the_inverse():
    motion = EgoMotion(torch.tensor([[[0.1, 0.2, -0.3]] * 2]).double(), torch.tensor([[[1.0, 2, 3]] * 2]).double())
    T = motion.T_later_earlier()[0]
    expected = torch.eye(4, dtype=torch.float64)
    expected[:3, :3] = T[:3, :3].T
    expected[:3, 3] = -T[:3, :3].T @ torch.tensor([1.0, 2, 3]).double()  # Rot^T Trans(-t), docs/method.md#f.3
    torch.testing.assert_close(transforms.invert(T), expected)


def test_only_shallow_backbones():
    with pytest.raises(ValueError, match="resnet18"):
        PoseNet("resnet50", 1.0, 256)


def test_the_published_network_has_the_published_size():
    # docs/method.md#l: pose_encoder without its unused classifier (512 x 1000 + 1000), pose without refine_mlp
    # and finial_conv.
    net = PoseNet("resnet34", 1.0, 256)
    resnet34 = 21_797_672 - 513_000 + 64 * 3 * 49  # torchvision's count, and three more input channels
    head = 512 * 256 + 256 + 2 * (256 * 256 * 9 + 256) + 256 * 12 + 12
    assert sum(p.numel() for p in net.parameters()) == resnet34 + head
