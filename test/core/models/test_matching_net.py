# SPDX-License-Identifier: Apache-2.0
"""The network that reads the volume: fresh weights say the ground, it falls back without views, files keep it."""

from dataclasses import replace

import pytest
import torch

from gaussianocc_core.checkpoint import Provenance, load_depth_net, save_model
from gaussianocc_core.geometry.cameras import pair_matrix, resize
from gaussianocc_core.geometry.ground_plane import ground_inv_depth
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.models.depth_net import predict_depth
from gaussianocc_core.models.gaussianocc import build_depth_net
from gaussianocc_core.models.matching import NO_PAIRS, MatchingConfig, Pairs, Sources
from gaussianocc_core.models.matching_net import confidence
from gaussianocc_core.synthetic.rig import default_rig

CONFIG = ModelConfig(matching=MatchingConfig(enabled=True))


def batched(width: int, height: int, names: tuple[str, ...] = ("CAM_FRONT", "CAM_BACK")):
    cameras = resize(default_rig().select(names), width, height)
    return replace(cameras, intrinsics=cameras.intrinsics[None], T_ego_cam=cameras.T_ego_cam[None])


def neighbours(cameras) -> Sources:
    """Each of two cameras matched with an earlier image half a metre behind."""
    K, index = cameras.intrinsics[0], torch.arange(2)
    T = torch.eye(4).repeat(2, 1, 1)
    T[:, 2, 3] = torch.tensor([0.5, -0.5])
    earlier = torch.nn.functional.normalize(torch.randn(2, 16, cameras.height[0] // 2, cameras.width[0] // 2), dim=1)
    return Sources(earlier, Pairs(index, index + 2, torch.ones_like(index), pair_matrix(K, K, T)))


def test_fresh_weights_say_the_ground() -> None:
    torch.manual_seed(0)
    network, cameras = build_depth_net(CONFIG).eval(), batched(176, 96)
    with torch.inference_mode():
        seen = predict_depth(network, torch.rand(1, 2, 3, 96, 176), cameras)
    plane = ground_inv_depth(cameras.intrinsics[0], cameras.T_ego_cam[0], 176, 96)
    near = plane > 0.06  # well below the horizon
    ratio = (seen.depth[0] * plane)[near]
    assert near.float().mean() > 0.1
    assert 0.8 < float(ratio.median()) < 1.05
    assert seen.log_error is not None and torch.isfinite(seen.log_error).all()


@pytest.mark.parametrize("size", [(176, 96), (208, 64), (128, 128)])
def test_any_size_with_and_without_views(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network, cameras = build_depth_net(CONFIG).eval(), batched(*size)
    images = torch.rand(1, 2, 3, size[1], size[0])
    with torch.inference_mode():
        alone = predict_depth(network, images, cameras)
        none = Sources(torch.zeros(0, 16, size[1] // 2, size[0] // 2), NO_PAIRS)
        nothing = predict_depth(network, images, cameras, none)
        matched = predict_depth(network, images, cameras, neighbours(cameras))
    assert alone.depth.shape == (1, 2, size[1], size[0])
    torch.testing.assert_close(alone.depth, nothing.depth)
    assert not torch.allclose(alone.depth, matched.depth)
    assert torch.isfinite(matched.depth).all() and float(matched.depth.min()) > 0


def test_one_view_changes_the_camera_that_it_is_of() -> None:
    torch.manual_seed(0)
    network, cameras = build_depth_net(CONFIG).eval(), batched(176, 96)
    images, both = torch.rand(1, 2, 3, 96, 176), neighbours(cameras)
    one = Sources(both.earlier, Pairs(*(getattr(both.pairs, name)[:1] for name in
                                        ("reference", "source", "group", "matrix"))))  # fmt: skip
    with torch.inference_mode():
        alone, matched = (predict_depth(network, images, cameras, sources).depth[0] for sources in (None, one))
    assert not torch.allclose(alone[0], matched[0])
    torch.testing.assert_close(alone[1], matched[1])


def test_a_file_keeps_the_network(tmp_path) -> None:
    torch.manual_seed(0)
    network, cameras = build_depth_net(CONFIG).eval(), batched(176, 96)
    save_model(tmp_path / "m.safetensors", None, CONFIG, Provenance("test"), depth_net=network)
    loaded = load_depth_net(tmp_path / "m.safetensors")
    assert loaded.config == CONFIG and loaded.depth_net.matches
    images = torch.rand(1, 2, 3, 96, 176)
    with torch.inference_mode():
        sources = neighbours(cameras)
        ours, theirs = (predict_depth(each, images, cameras, sources).depth for each in (network, loaded.depth_net))
    torch.testing.assert_close(ours, theirs)


def test_confidence_is_the_probability_of_a_factor() -> None:
    values = confidence(torch.tensor([0.01, 0.1, 0.3, 3.0]).log())
    assert bool((values.diff() < 0).all()) and float(values[0]) > 0.999 and float(values[-1]) < 0.1
    errors = torch.distributions.Laplace(0.0, 0.1).sample((200_000,))
    assert float((errors.abs() < 0.22314).float().mean()) == pytest.approx(float(values[1]), abs=0.01)
