# SPDX-License-Identifier: Apache-2.0
"""2D network over the ground plan with height folded into channels: what a CPU can afford (the published one is 3D)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_EMBEDDED = 6  # channels per height that the 2D network reads
_POINTWISE = 24  # width of the branch that sees one point at a time
# Logits that fresh weights give: free everywhere, but for where the depth head sees a surface.
_FREE_BIAS, _SURFACE_GAIN = 3.0, 6.0


class BevWeights(NamedTuple):
    """Those of the layers that change between points and columns; H hidden channels of a point: E embedded ones, those
    of the pointwise branch and, with surface channels, the first of them."""

    first: Float[Tensor, "H C"]
    first_bias: Float[Tensor, " H"]
    enter: Float[Tensor, "C2 ZE 1 1"]
    leave: Float[Tensor, "ZKF C2 1 1"]
    leave_bias: Float[Tensor, " ZKF"]
    last: Float[Tensor, "KF H"]  # 0 for the embedded ones
    last_bias: Float[Tensor, " KF"]  # with the constant part of the logits


class BevDecoder(nn.Module):
    """(B, C, X, Y, Z) lifted features -> (B, K, X, Y, Z) class logits; X and Y must be multiples of 4.

    Two branches add up: one looks at each point alone, so that sharp input stays sharp, and a U-Net over X, Y with all
    heights of a column in its channels gives it context. The last class is free space.
    """

    def __init__(
        self, channels_in: int, channels: int, heights: int, classes: int, surface: int, details: int = 0
    ) -> None:
        """surface: so many of the input's last channels are `lifting.surface_features`."""
        super().__init__()
        self.heights, self.classes, self.surface, self.details = heights, classes, surface, details
        outputs = classes + details
        self.embed = nn.Sequential(nn.Conv3d(channels_in, _EMBEDDED, 1), nn.ReLU())
        self.enter = _block(_EMBEDDED * heights, channels, kernel=1)
        self.level1 = _block(channels, channels)
        self.level2 = nn.Sequential(_block(channels, 2 * channels, stride=2), _block(2 * channels, 2 * channels))
        self.level3 = nn.Sequential(_block(2 * channels, 2 * channels, stride=2), _block(2 * channels, 2 * channels))
        self.up2 = _block(4 * channels, 2 * channels, kernel=1)
        self.up1 = _block(3 * channels, channels)
        self.leave = nn.Conv2d(channels, outputs * heights, 1)
        self.pointwise = nn.Sequential(
            nn.Conv3d(channels_in, _POINTWISE, 1), nn.ReLU(), nn.Conv3d(_POINTWISE, outputs, 1)
        )
        self.class_offset = nn.Parameter(torch.zeros(classes))  # the constant part of the logits
        nn.init.constant_(self.class_offset[-1:], _FREE_BIAS)
        self.surface_gain = nn.Parameter(torch.tensor(_SURFACE_GAIN)) if surface else None
        for last in (self.leave, self.pointwise[-1]):
            assert isinstance(last, nn.Conv2d | nn.Conv3d) and last.bias is not None
            nn.init.normal_(last.weight, std=0.01)
            nn.init.zeros_(last.bias)

    def outputs(self) -> dict[str, int]:
        """Entries of the state that go over classes, and then details, in their first dimension; entries of each."""
        of_points = {"pointwise.2.weight": 1, "pointwise.2.bias": 1, "class_offset": 1}
        return {"leave.weight": self.heights, "leave.bias": self.heights, **of_points}

    def forward(self, volume: Float[Tensor, "B C X Y Z"]) -> Float[Tensor, "B KF X Y Z"]:
        """Of a volume with channels innermost in memory, as `GaussianOcc.lift` leaves it, the logits are so as well."""
        return self.read(volume.permute(0, 2, 3, 4, 1), self.arrange()).permute(0, 4, 1, 2, 3)

    def arrange(self) -> BevWeights:
        """The weights as `read` takes them."""
        embed, pointwise, last, enter = self.embed[0], self.pointwise[0], self.pointwise[-1], self.enter[0]
        assert isinstance(embed, nn.Conv3d) and isinstance(pointwise, nn.Conv3d) and isinstance(last, nn.Conv3d)
        assert embed.bias is not None and pointwise.bias is not None and last.bias is not None
        assert isinstance(enter, nn.Conv2d) and self.leave.bias is not None
        first, first_bias = [embed.weight.flatten(1), pointwise.weight.flatten(1)], [embed.bias, pointwise.bias]
        weight = last.weight.flatten(1)
        behind = [weight.new_zeros(len(weight), _EMBEDDED), weight]
        if self.surface_gain is not None:
            # What says where a surface is comes through as it is: it is never negative.
            kept = weight.new_zeros(1, first[0].shape[1])
            kept[0, -self.surface] = 1.0
            first.append(kept)
            first_bias.append(kept[0, :1] * 0.0)
            of_free = weight.new_zeros(len(weight), 1)
            of_free[self.classes - 1] = 1.0
            behind.append(-self.surface_gain * of_free)
        outputs = self.classes + self.details
        return BevWeights(
            torch.cat(first),
            torch.cat(first_bias),
            enter.weight.unflatten(1, (_EMBEDDED, self.heights)).transpose(1, 2).flatten(1, 2).contiguous(),
            self.leave.weight.unflatten(0, (outputs, self.heights)).transpose(0, 1).flatten(0, 1).contiguous(),
            self.leave.bias.view(outputs, self.heights).T.flatten(),
            torch.cat(behind, dim=1),
            last.bias + F.pad(self.class_offset, (0, self.details)),
        )

    def read(self, points: Float[Tensor, "B X Y Z C"], weights: BevWeights) -> Float[Tensor, "B X Y Z KF"]:
        """`forward` with channels innermost: a volume is tens of megabytes, and to lay it out anew takes as long as
        the convolutions (measured 2026-11: a third of the time of this network)."""
        batch, size_x, size_y, heights, _ = points.shape
        hidden = F.relu(F.linear(points, weights.first, weights.first_bias))
        columns = hidden[..., :_EMBEDDED].reshape(batch, size_x, size_y, heights * _EMBEDDED).permute(0, 3, 1, 2)
        full = self.level1(self.enter[2](self.enter[1](F.conv2d(columns, weights.enter))))
        half = self.level2(full)
        quarter = self.level3(half)
        half = self.up2(torch.cat([half, _double(quarter)], dim=1))
        full = self.up1(torch.cat([full, _double(half)], dim=1))
        said = F.conv2d(full, weights.leave, weights.leave_bias).permute(0, 2, 3, 1)
        said = said.reshape(batch, size_x, size_y, heights, self.classes + self.details)
        return said + F.linear(hidden, weights.last, weights.last_bias)


def _block(channels_in: int, channels: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
