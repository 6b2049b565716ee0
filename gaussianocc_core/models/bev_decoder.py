# SPDX-License-Identifier: Apache-2.0
"""2D network over the ground plan with height folded into channels: what a CPU can afford (the published one is 3D)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_EMBEDDED = 6  # channels per height that the 2D network reads
_POINTWISE = 24  # width of the branch that sees one point at a time
# Logits that fresh weights give: free everywhere, but for where the depth head sees a surface.
_FREE_BIAS, _SURFACE_GAIN = 3.0, 6.0


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

    def forward(self, volume: Float[Tensor, "B C X Y Z"]) -> Float[Tensor, "B KF X Y Z"]:
        columns = self.embed(volume).permute(0, 1, 4, 2, 3).flatten(1, 2)  # (B, E*Z, X, Y)
        full = self.level1(self.enter(columns))
        half = self.level2(full)
        quarter = self.level3(half)
        half = self.up2(torch.cat([half, _double(quarter)], dim=1))
        full = self.up1(torch.cat([full, _double(half)], dim=1))
        said = self.leave(full).unflatten(1, (self.classes + self.details, self.heights)).permute(0, 1, 3, 4, 2)
        # In place from here: these are tens of megabytes, and a copy takes as long as a convolution.
        said = said + self.pointwise(volume)
        said[:, : self.classes] += self.class_offset.view(-1, 1, 1, 1)
        if self.surface_gain is not None:
            said[:, self.classes - 1] -= self.surface_gain * volume[:, -self.surface]
        return said


def _block(channels_in: int, channels: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
