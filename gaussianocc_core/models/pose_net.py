# SPDX-License-Identifier: Apache-2.0
"""Ego motion of a camera rig between two frames, one motion for all cameras (docs/method.md#f.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gaussianocc_core.geometry import transforms
from gaussianocc_core.models.image_encoder import BACKBONES, BasicBlock, resnet_stage

_IMAGE_MEAN, _IMAGE_STD = 0.45, 0.225
OUTPUT_SCALE = (0.01, 0.01)  # published; of axis-angle and translation, so that fresh weights start near standstill
_SLOTS = 2  # motions the head predicts; the published code uses the first only


# Convolutions without norms. All pairs of a sample share one motion, so batch norm over a sample, as in training with
# one sample a step, takes away how fast the rig moves (measured 2026-11: speeds off by a quarter, and unrelated to the
# true ones, after 600 steps).
PLAIN = "plain"


@dataclass(frozen=True)
class EgoMotion:
    """Motions of the ego frame as the network gives them; slot 0 is the one that is meant."""

    axis_angle: Float[Tensor, "B 2 3"]  # rad
    translation: Float[Tensor, "B 2 3"]  # m, once the scale has been learnt

    def T_later_earlier(self) -> Float[Tensor, "B 4 4"]:
        """Points of the ego frame of the earlier moment in that of the later one: translation after rotation."""
        T = torch.eye(4, device=self.axis_angle.device, dtype=self.axis_angle.dtype).repeat(len(self.axis_angle), 1, 1)
        T[:, :3, :3] = rodrigues(self.axis_angle[:, 0])
        T[:, :3, 3] = self.translation[:, 0]
        return T


class PoseNet(nn.Module):
    """Two frames of N cameras -> EgoMotion; the cameras' maps are averaged, so any number and order will do."""

    def __init__(
        self,
        backbone: str,
        width: float,
        channels: int,
        reduction: int = 1,
        output_scale: tuple[float, float] = OUTPUT_SCALE,
    ) -> None:
        """reduction: of the images per side, by averaging, before anything else; output_scale: of
        axis-angle (rad) and translation (m): how far a step of the optimiser moves them."""
        super().__init__()
        self.reduction = reduction
        self.output_scale = output_scale
        shallow = sorted(name for name, (block, _) in BACKBONES.items() if block is BasicBlock)
        if backbone not in (PLAIN, *shallow):
            raise ValueError(f"backbone: expected one of {[PLAIN, *shallow]}, got {backbone!r}")
        base = round(64 * width)
        self.plain = _plain_encoder(base) if backbone == PLAIN else None
        if self.plain is None:
            self._build_resnet(backbone, base)
        last = nn.Conv2d(channels, 6 * _SLOTS, 1)
        self.head = nn.ModuleList(
            [
                nn.Conv2d(base * (4 if backbone == PLAIN else 8), channels, 1),
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.Conv2d(channels, channels, 3, padding=1),
                last,
            ]
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and (module.bias is None or self.plain is not None):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(last.weight, std=1e-3)  # every rig starts at rest
        if last.bias is not None:
            nn.init.zeros_(last.bias)

    def _build_resnet(self, backbone: str, base: int) -> None:
        block, depths = BACKBONES[backbone]
        self.conv1 = nn.Conv2d(6, base, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = resnet_stage(block, base, base, depths[0], stride=1)
        self.layer2 = resnet_stage(block, base, base * 2, depths[1], stride=2)
        self.layer3 = resnet_stage(block, base * 2, base * 4, depths[2], stride=2)
        self.layer4 = resnet_stage(block, base * 4, base * 8, depths[3], stride=2)

    def forward(self, earlier: Float[Tensor, "B N 3 H W"], later: Float[Tensor, "B N 3 H W"]) -> EgoMotion:
        """earlier, later: RGB 0-1 of two moments, in temporal order whichever of them is the current frame."""
        batch, count = earlier.shape[:2]
        pairs = torch.cat([earlier, later], dim=2).flatten(0, 1)  # (B*N, 6, H, W)
        if self.reduction > 1:
            pairs = F.avg_pool2d(pairs, self.reduction)
        x = self.encode(pairs).unflatten(0, (batch, count)).mean(dim=1)  # (B, 8*base, H/32, W/32)
        for layer in self.head[:-1]:
            x = F.relu(layer(x))
        motions = self.head[-1](x).mean(dim=(2, 3)).view(batch, _SLOTS, 6)
        rotation, translation = self.output_scale
        return EgoMotion(rotation * motions[..., :3], translation * motions[..., 3:])

    def encode(self, pairs: Float[Tensor, "P 6 H W"]) -> Float[Tensor, "P C h w"]:
        """Stride-32 maps of image pairs: two RGB images 0-1 stacked in temporal order."""
        x = (pairs - _IMAGE_MEAN) / _IMAGE_STD
        if self.plain is not None:
            return self.plain(x)
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def _plain_encoder(base: int) -> nn.Sequential:
    """(P, 6, H, W) -> (P, 4 base, H/32, W/32)."""
    widths, kernels = (base // 2, base, 2 * base, 4 * base, 4 * base), (7, 5, 3, 3, 3)
    layers: list[nn.Module] = []
    for before, after, kernel in zip((6, *widths), widths, kernels, strict=False):
        layers += [nn.Conv2d(before, after, kernel, 2, padding=kernel // 2), nn.ReLU()]
    return nn.Sequential(*layers)


def rodrigues(axis_angle: Float[Tensor, "B 3"]) -> Float[Tensor, "B 3 3"]:
    """Rotation matrices of rotation vectors in rad; 1e-7 in the axis' length keeps the gradient at zero finite."""
    angle = axis_angle.norm(dim=-1, keepdim=True)
    x, y, z = (axis_angle / (angle + 1e-7)).unbind(-1)
    c, s = torch.cos(angle[:, 0]), torch.sin(angle[:, 0])
    d = 1.0 - c
    rows = [
        x * x * d + c,
        x * y * d - z * s,
        x * z * d + y * s,
        x * y * d + z * s,
        y * y * d + c,
        y * z * d - x * s,
        x * z * d - y * s,
        y * z * d + x * s,
        z * z * d + c,
    ]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def camera_motions(T_target_ego: Float[Tensor, "4 4"], T_ego_cam: Float[Tensor, "N 4 4"]) -> Float[Tensor, "N 4 4"]:
    """Each camera's own motion on a rigid rig: points of its frame now in its frame at the target moment.

    T_target_ego: points of the ego frame now in the ego frame at the target moment. For a target in the past that is
    the inverse of `EgoMotion.T_later_earlier` of (past, now).
    """
    return transforms.invert(T_ego_cam) @ T_target_ego @ T_ego_cam


__all__ = ["EgoMotion", "PoseNet", "camera_motions", "rodrigues"]
