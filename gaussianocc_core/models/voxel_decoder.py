# SPDX-License-Identifier: Apache-2.0
"""3D stacked-hourglass network over the lifted volume (docs/method.md#c, PSMNet's shape)."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def _conv_bn(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(channels_in, channels_out, 3, stride, padding=1, bias=False), nn.BatchNorm3d(channels_out)
    )


def _deconv_bn(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose3d(channels_in, channels_out, 3, 2, padding=1, output_padding=1, bias=False),
        nn.BatchNorm3d(channels_out),
    )


class Hourglass(nn.Module):
    """Two strides down and up; hands its inner maps to the next hourglass."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = 2 * channels
        self.down1 = _conv_bn(channels, inner, stride=2)
        self.conv1 = _conv_bn(inner, inner)
        self.down2 = _conv_bn(inner, inner, stride=2)
        self.conv2 = _conv_bn(inner, inner)
        self.up1 = _deconv_bn(inner, inner)
        self.up2 = _deconv_bn(inner, channels)

    def forward(self, x: Tensor, presqu: Tensor | None, postsqu: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        out = F.relu(self.down1(x))
        pre = self.conv1(out)
        pre = F.relu(pre if postsqu is None else pre + postsqu)
        out = F.relu(self.conv2(F.relu(self.down2(pre))))
        post = F.relu(self.up1(out) + (pre if presqu is None else presqu))
        return self.up2(post), pre, post


class VoxelDecoder(nn.Module):
    """(B, C, X, Y, Z) lifted features -> (B, K, X, Y, Z) class logits; X, Y, Z must be multiples of 4.

    The last class is free space; there is no separate density (the published `last_free`).
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        hourglasses: int,
        head_blocks: int,
        classes: int,
        skipping: int | None = None,
    ) -> None:
        """skipping: only the first so many hourglasses add the skip from the input; None: all (docs/method.md#c.3)."""
        super().__init__()
        self.skipping = hourglasses if skipping is None else skipping
        self.dres0 = nn.Sequential(_conv_bn(channels_in, channels), nn.ReLU(), _conv_bn(channels, channels), nn.ReLU())
        self.dres1 = nn.Sequential(_conv_bn(channels, channels), nn.ReLU(), _conv_bn(channels, channels))
        self.hourglasses = nn.ModuleList(Hourglass(channels) for _ in range(hourglasses))
        head: list[nn.Module] = []
        for _ in range(head_blocks):
            head += [_conv_bn(channels, channels), nn.ReLU()]
        self.head = nn.Sequential(*head, _conv_bn(channels, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.normal_(module.weight, std=(2.0 / (27 * module.out_channels)) ** 0.5)

    def outputs(self) -> dict[str, int]:
        """Entries of the state that go over the classes in their first dimension; entries of each class."""
        last = f"head.{len(self.head) - 1}"
        of_norm = ("weight", "bias", "running_mean", "running_var")
        return dict.fromkeys((f"{last}.0.weight", *(f"{last}.1.{name}" for name in of_norm)), 1)

    @property
    def class_offset(self) -> Tensor:
        """(K,) the constant part of the logits: the bias of the batch norm behind the class layer."""
        class_layer = self.head[-1]
        assert isinstance(class_layer, nn.Sequential)
        return cast(nn.BatchNorm3d, class_layer[1]).bias

    def forward(self, volume: Float[Tensor, "B C X Y Z"]) -> Float[Tensor, "B K X Y Z"]:
        x = self.dres0(volume)
        x0 = self.dres1(x) + x
        out, pre1, post = x0, None, None
        for i, hourglass in enumerate(self.hourglasses):
            # Every hourglass after the first takes the first one's inner map and the previous one's outer map.
            result, pre, post = hourglass(out, pre1, post)
            pre1 = pre if pre1 is None else pre1
            out = result + x0 if i < self.skipping else result
        return self.head(out)
