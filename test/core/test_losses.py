# SPDX-License-Identifier: Apache-2.0
"""Losses against hand-worked values, finite differences and the published code's numbers."""

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from gaussianocc_core import losses
from gaussianocc_core.geometry import warp
from gaussianocc_core.geometry.cameras import pixel_rays
from gaussianocc_core.labels import FREE, class_weights


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors of a few dozen numbers: finite differences spend minutes on handing them to threads of a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pinhole(focal, width, height):
    return torch.tensor([[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]]], dtype=torch.float64)


def test_equal_images_have_no_photometric_error():
    image = random(2, 3, 8, 10)
    assert losses.photometric_error(image, image).abs().max() < 1e-12


def test_photometric_error_of_two_flat_images_is_the_formula():
    a, b = torch.full((1, 3, 4, 5), 0.2, dtype=torch.float64), torch.full((1, 3, 4, 5), 0.6, dtype=torch.float64)
    ssim = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)  # no variance: the second factor is 1
    expected = 0.85 * (1 - ssim) / 2 + 0.15 * 0.4
    torch.testing.assert_close(losses.photometric_error(a, b), torch.full((1, 4, 5), expected, dtype=torch.float64))


def test_structural_dissimilarity_equals_its_definition_on_each_window():
    a, b = random(1, 1, 5, 6, seed=1), random(1, 1, 5, 6, seed=2)
    result = losses.structural_dissimilarity(a, b)[0, 0].numpy()
    x, y = (np.pad(image[0, 0].numpy(), 1, mode="reflect") for image in (a, b))
    for row in range(5):
        for column in range(6):
            p, q = x[row : row + 3, column : column + 3], y[row : row + 3, column : column + 3]
            covariance = ((p - p.mean()) * (q - q.mean())).mean()
            ssim = (2 * p.mean() * q.mean() + 1e-4) * (2 * covariance + 9e-4)
            ssim /= (p.mean() ** 2 + q.mean() ** 2 + 1e-4) * (p.var() + q.var() + 9e-4)
            assert result[row, column] == pytest.approx(np.clip((1 - ssim) / 2, 0, 1), abs=1e-12)


def test_where_the_unwarped_image_fits_better_the_warp_gets_no_gradient():
    identity = torch.tensor([[[[0.1, 0.9]]], [[[0.5, 0.9]]]], dtype=torch.float64)  # (S, N, H, W) = (2, 1, 1, 2)
    warped = torch.tensor([[[[0.3, 0.7]]], [[[0.4, 0.2]]]], dtype=torch.float64, requires_grad=True)
    errors, moved = losses.least_error(identity, warped, torch.zeros_like(identity))
    assert errors.tolist() == [[[0.1, 0.2]]] and moved.tolist() == [[[False, True]]]
    errors.sum().backward()
    assert warped.grad.tolist() == [[[[0, 0]]], [[[0, 1]]]]


def test_ties_between_warped_and_unwarped_are_broken_by_noise():
    torch.manual_seed(0)
    same = torch.full((1, 1, 40, 50), 0.3)
    errors, moved = losses.least_error(same, same)
    assert 0.4 < moved.float().mean() < 0.6 and (errors - same[0]).abs().max() < 1e-4


def test_a_plane_facing_the_camera_is_smooth_and_an_image_edge_forgives_a_step():
    depth = torch.full((1, 4, 6), 7.0, dtype=torch.float64)
    flat = torch.zeros(1, 3, 4, 6, dtype=torch.float64)
    assert losses.sum_of_means(losses.smoothness(depth, flat)) == 0
    depth[:, :, 3:] = 14.0
    edge = flat.clone()
    edge[..., 3:] = 1.0
    step, _ = losses.smoothness(depth, flat)
    # Inverse depths 1/7 and 1/14 over their mean 3/28: a step of 2/3, in one of five columns of differences.
    assert step.sum(dim=2).max() == pytest.approx(2 / 3, abs=1e-6) and (step > 0).sum() == 4
    torch.testing.assert_close(losses.smoothness(depth, edge)[0], step * math.exp(-1))


def test_cross_entropy_of_uniform_logits_is_log_k_and_unlabelled_pixels_do_not_count():
    logits = torch.zeros(1, 18, 2, 2, dtype=torch.float64)
    labels = torch.tensor([[[4, 0], [255, -1]]])
    weights = torch.from_numpy(class_weights()).double()
    values, importance = losses.semantic_cross_entropy(logits, labels, weights)
    assert importance[0, 0, 0] == weights[4] and importance.sum() == weights[4]  # `others` has no weight either
    assert losses.weighted_mean(values, importance) == pytest.approx(math.log(18))
    assert losses.weighted_mean(values * 0, importance * 0) == 0


def test_labels_are_resized_to_the_nearest_towards_zero():
    labels = torch.arange(10)[None, None].expand(1, 3, 10)
    assert losses.resize_labels(labels, 2, 4)[0].tolist() == [[0, 2, 5, 7]] * 2
    assert losses.resize_labels(labels, 3, 20)[0, 0].tolist() == [i // 2 for i in range(20)]


def test_entropy_is_least_where_the_opacity_is_certain():
    opacities = torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(
        losses.opacity_entropy(opacities), torch.tensor([0, 0, 0.5 * math.log(2)]).double(), atol=2e-8, rtol=0
    )


def test_total_variation_of_a_ramp_is_its_slope():
    x, y, z = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (3, 4, 5)), indexing="ij")
    maps = losses.total_variation((2 * x - 3 * y + 5 * z)[None])
    assert [each.unique().tolist() for each in maps] == [[2], [3], [5]]
    assert losses.sum_of_means(maps) / 3 == pytest.approx(10 / 3)


def test_distortion_equals_the_double_sum():
    weights, gaps = random(2, 6, seed=3), random(2, 6, seed=4)
    distances = gaps.cumsum(dim=-1)
    expected = (gaps * weights**2).sum(-1) / 3
    for i in range(6):
        for j in range(i):
            expected += 2 * weights[:, i] * weights[:, j] * (distances[:, i] - distances[:, j])
    torch.testing.assert_close(losses.distortion(weights, distances, gaps), expected)


def test_a_point_stays_where_it_is_when_the_camera_does_not_move():
    K = pinhole(20.0, 12, 8)
    depth = 2 + random(1, 8, 12)
    for center in (0.5, 0.0):
        pixels, z = warp.reproject(depth, K, torch.eye(4, dtype=torch.float64)[None], K, center)
        assert pixels[0, 3, 5].tolist() == pytest.approx([5 + center, 3 + center], abs=1e-5)
        torch.testing.assert_close(z, depth)
        image = random(1, 3, 8, 12)
        torch.testing.assert_close(warp.sample_pixels(image, pixels, center), image, atol=1e-5, rtol=0)


def test_the_warp_shows_a_shifted_scene_where_it_was():
    """A camera that moved 0.5 m to the right sees a plane at 10 m (f = 20) one pixel farther left."""
    K, image = pinhole(20.0, 12, 8), random(1, 3, 8, 12)
    T_other_cam = torch.eye(4, dtype=torch.float64)[None].clone()
    T_other_cam[0, 0, 3] = -0.5
    pixels, _ = warp.reproject(torch.full((1, 8, 12), 10.0, dtype=torch.float64), K, T_other_cam, K)
    expected = torch.cat([image[..., :1], image[..., :-1]], dim=-1)  # the first column looks outside: border repeats
    torch.testing.assert_close(warp.sample_pixels(image, pixels), expected, atol=1e-6, rtol=0)


def test_gradients_are_those_of_finite_differences():
    a, b = random(1, 2, 3, 4, seed=5).requires_grad_(), random(1, 2, 3, 4, seed=6).requires_grad_()
    assert gradcheck(losses.photometric_error, (a, b))
    depth = (1 + random(1, 3, 4, seed=7)).requires_grad_()
    assert gradcheck(lambda d: losses.smoothness(d, b.detach()), (depth,))
    pair = [random(2, 1, 3, 4, seed=seed).requires_grad_() for seed in (8, 9)]
    assert gradcheck(lambda i, w: losses.least_error(i, w, torch.zeros_like(i))[0], pair)
    logits, labels = random(2, 4, 3, seed=10).requires_grad_(), torch.tensor([[0, 1, 9], [3, 2, 0]])
    weights = torch.tensor([0.5, 1.0, 2.0, 0.0], dtype=torch.float64)
    assert gradcheck(lambda x: losses.weighted_mean(*losses.semantic_cross_entropy(x, labels, weights)), (logits,))
    opacities = (0.1 + 0.8 * random(7, seed=11)).requires_grad_()
    assert gradcheck(losses.opacity_entropy, (opacities,))
    volume = random(2, 3, 4, 3, seed=12).requires_grad_()
    assert gradcheck(losses.total_variation, (volume,))
    ray = [random(2, 5, seed=13).requires_grad_(), random(2, 5, seed=14).cumsum(-1), random(2, 5, seed=15)]
    assert gradcheck(losses.distortion, ray)


def test_the_warp_has_the_gradients_of_finite_differences():
    K, image = pinhole(9.0, 6, 5), random(1, 2, 5, 6, seed=16).requires_grad_()
    T_other_cam = torch.eye(4, dtype=torch.float64)[None].clone()
    T_other_cam[0, :3, 3] = torch.tensor([0.13, -0.07, 0.11])
    depth = (3 + random(1, 5, 6, seed=17)).requires_grad_()
    T_other_cam.requires_grad_()

    def warped(depth, T_other_cam, image):
        return warp.sample_pixels(image, warp.reproject(depth, K, T_other_cam, K)[0])

    assert gradcheck(warped, (depth, T_other_cam, image))


def test_rays_pass_through_pixel_centres_wherever_these_lie():
    K = pinhole(10.0, 4, 4)
    assert pixel_rays(K, 4, 4)[0, 0, 0].tolist() == pytest.approx([-0.15, -0.15, 1])
    assert pixel_rays(K, 4, 4, 0.0)[0, 0, 0].tolist() == pytest.approx([-0.2, -0.2, 1])


@pytest.fixture(scope="module")
def golden(shared_data):
    names = ("losses", "inputs", "pose", "render", "gaussians", "network")
    return {name: np.load(shared_data / "golden" / f"{name}.npz") for name in names}


@pytest.fixture(scope="module")
def published(golden):
    """The photometric chain of the published code on its rendered depth."""
    inputs, pose = golden["inputs"], golden["pose"]
    K = torch.from_numpy(inputs["K"])[:, :3, :3]
    image, *neighbours = (torch.from_numpy(inputs[f"image_{t}"]).float() / 255 for t in ("t0", "tm1", "tp1"))
    depth = warp.resize_depth(torch.from_numpy(golden["render"]["depth_s10"]), 96, 160)
    pixels, warped, errors = [], [], []
    for neighbour, name in zip(neighbours, ("m1", "p1"), strict=True):
        pixels.append(warp.reproject(depth, K, torch.from_numpy(pose[f"cam_T_cam_{name}"]), K, pixel_center=0.0)[0])
        warped.append(warp.sample_pixels(neighbour, pixels[-1], pixel_center=0.0))
        errors.append(losses.photometric_error(warped[-1], image))
    identity = torch.stack([losses.photometric_error(neighbour, image) for neighbour in neighbours])
    least, moved = losses.least_error(identity, torch.stack(errors), torch.zeros_like(identity))
    return {
        "image": image,
        "depth": depth,
        "pixels": pixels,
        "warped": warped,
        "errors": errors,
        "least": least,
        "moved": moved,
    }


def test_published_warp_is_reproduced(golden, published):
    expected = golden["losses"]
    np.testing.assert_allclose(published["depth"][:, ::4, ::4], expected["depth_fullres"], atol=1e-5)
    grid = warp.to_sampling_grid(published["pixels"][0], 160, 96, pixel_center=0.0)[:, ::8, ::8]
    # float32 on both sides; the inverse of K is theirs to 1e-7 relative, pixels are of order 100
    np.testing.assert_allclose(grid, expected["pix_coords_m1"], atol=5e-6)
    np.testing.assert_allclose(published["warped"][0][:, :, ::4, ::4], expected["warped_m1"], atol=2e-4)
    np.testing.assert_allclose(published["errors"][0][:, ::4, ::4], expected["reproj_m1"], atol=2e-4)


def test_published_loss_values_are_reproduced(golden, published):
    expected = golden["losses"]
    smooth = losses.sum_of_means(losses.smoothness(published["depth"], published["image"])).item()
    assert smooth == pytest.approx(expected["scalar_smooth_unweighted"], rel=1e-6)
    photometric = published["least"].mean().item() + 0.001 * smooth
    assert photometric == pytest.approx(expected["scalar_loss_pe_0"], rel=1e-5)
    assert published["moved"].float().mean().item() == pytest.approx(expected["scalar_automask_fraction"], abs=2e-5)
    assert published["depth"][0].min().item() == pytest.approx(expected["scalar_min_d"], rel=1e-6)
    assert published["depth"][0].max().item() == pytest.approx(expected["scalar_max_d"], rel=1e-6)

    weights = torch.from_numpy(class_weights())
    np.testing.assert_allclose(weights, expected["class_weights"], rtol=1e-6)
    labels = losses.resize_labels(torch.from_numpy(golden["inputs"]["semantic_label"]).long(), 45, 80)
    logits = torch.from_numpy(golden["render"]["semantic_s10"])
    semantic = 0.02 * losses.weighted_mean(*losses.semantic_cross_entropy(logits, labels, weights)).item()
    assert semantic == pytest.approx(expected["scalar_loss_semantic_0"], rel=1e-5)

    volume = torch.from_numpy(golden["network"]["logits"])
    entropy = 0.1 * losses.opacity_entropy(1 - torch.sigmoid(volume[FREE])).mean().item()
    assert entropy == pytest.approx(expected["scalar_loss_entropy_last_0"], rel=1e-5)
    variation = 0.1 * losses.sum_of_means(losses.total_variation(volume)).item() / 3
    assert variation == pytest.approx(expected["scalar_loss_distortion_0"], rel=1e-5)
    assert photometric + semantic + entropy + variation == pytest.approx(expected["scalar_self_loss"], rel=1e-5)
