# SPDX-License-Identifier: Apache-2.0
"""2D image encoder: a ResNet without its last stage and a two-step decoder to stride 4 (docs/method.md#a).

The ResNet is written out because torchvision has no CPU build for every platform we run on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gaussianocc_core.models.matching import MatchingConfig
from gaussianocc_core.models.matching_net import MatchingFeatures, VolumeFusion

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a skip (ResNet-18 and -34)."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _downsample(channels_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 with a skip (ResNet-50 and -101)."""

    expansion = 4

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels * 4)
        self.downsample = _downsample(channels_in, channels * 4, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


def _downsample(channels_in: int, channels_out: int, stride: int) -> nn.Module | None:
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out))


Block = type[BasicBlock] | type[Bottleneck]
# Block type and blocks in layer1 to layer4; the image encoder has no layer4.
BACKBONES: dict[str, tuple[Block, tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}


RAY_CHANNELS = 3
# Instance norm gives every image the same statistics per channel, so a map cannot say "all of this is near": the
# published network makes up for it in 3D, a depth head on these maps cannot.
NORMS: dict[str, type[nn.Module]] = {"instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d}


@dataclass(frozen=True)
class Look:
    """The first maps of N images."""

    stride4: Float[Tensor, "N C H4 W4"]
    features: Float[Tensor, "N F H2 W2"] | None  # for matching, unit vectors at stride 2


class ImageEncoder(nn.Module):
    """(B, N, 3, H, W) RGB in 0-1 -> (B, N, C, H/4, W/4) features; H and W must be multiples of 16."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str,
        width: float,
        up_channels: tuple[int, int],
        feature_channels: int,
        norm: str = "instance",
        rays: bool = False,
        matching: MatchingConfig | None = None,
    ) -> None:
        """norm: of the decoder blocks, "instance" (published) or "batch"; rays: whether forward gets viewing rays;
        matching: for an encoder that volumes join; None (published): the image alone."""
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"backbone: expected one of {sorted(BACKBONES)}, got {backbone!r}")
        block, depths = BACKBONES[backbone]
        base = round(64 * width)
        self.conv1 = nn.Conv2d(3, base, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(base)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = resnet_stage(block, base, base, depths[0], stride=1)
        self.layer2 = resnet_stage(block, base * block.expansion, base * 2, depths[1], stride=2)
        self.layer3 = resnet_stage(block, base * 2 * block.expansion, base * 4, depths[2], stride=2)
        channels_8, channels_16 = base * 2 * block.expansion, base * 4 * block.expansion
        if norm not in NORMS:
            raise ValueError(f"norm: expected one of {sorted(NORMS)}, got {norm!r}")
        self.rays = rays
        extra = RAY_CHANNELS if rays else 0
        self.up8 = _fuse(channels_8 + channels_16 + extra, up_channels[0], NORMS[norm])
        joint = 0 if matching is None else matching.hidden
        self.up4 = _fuse(up_channels[0] + extra + joint, up_channels[1], NORMS[norm])
        self.project = nn.Conv2d(up_channels[1], feature_channels, 1)
        # Constants, not weights: they stay out of the state dict.
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(3, 1, 1), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.features = self.fusion = None  # of matching; behind the loop, which would overwrite their own start
        if matching is not None:
            if block is not BasicBlock:
                raise ValueError(f"backbone: matching expects resnet18 or resnet34, got {backbone!r}")
            self.features = MatchingFeatures(base, matching.channels)
            self.fusion = VolumeFusion(matching, base)

    def forward(
        self, images: Float[Tensor, "B N 3 H W"], rays: Float[Tensor, "B N 3 H4 W4"] | None = None
    ) -> Float[Tensor, "B N C H4 W4"]:
        """images: RGB 0-1; rays: unit viewing directions in the ego frame at stride 4, where the network takes them."""
        return self.project(self.encode(images, rays)).unflatten(0, images.shape[:2])

    def encode(
        self, images: Float[Tensor, "B N 3 H W"], rays: Float[Tensor, "B N 3 H4 W4"] | None = None
    ) -> Float[Tensor, "BN C H4 W4"]:
        """The decoder's stride-4 maps before the last projection, all images in one dimension."""
        if self.rays != (rays is not None):
            raise ValueError(f"rays: this encoder {'needs' if self.rays else 'does not take'} viewing rays")
        _, stride4 = self.stem(images.flatten(0, 1))
        return self.decode(stride4, None if rays is None else rays.flatten(0, 1))

    def look(self, images: Float[Tensor, "N 3 H W"]) -> Look:
        """What matching needs of images before they are matched; RGB 0-1."""
        stride2, stride4 = self.stem(images)
        return Look(stride4, None if self.features is None else self.features(stride2, stride4))

    def stem(self, images: Float[Tensor, "N 3 H W"]) -> tuple[Float[Tensor, "N C H2 W2"], Float[Tensor, "N C2 H4 W4"]]:
        """The first maps, at stride 2 and 4; what matching features are made of."""
        stride2 = F.relu(self.bn1(self.conv1((images - self.mean) / self.std)))
        return stride2, self.layer1(self.maxpool(stride2))

    def decode(
        self,
        stride4: Float[Tensor, "N C H4 W4"],
        rays: Float[Tensor, "N 3 H4 W4"] | None = None,
        joint: Float[Tensor, "N K H4 W4"] | None = None,
    ) -> Float[Tensor, "N C2 H4 W4"]:
        """The decoder's stride-4 maps from the stem's; joint: of `fusion`, for an encoder with matching."""
        stride8 = self.layer2(stride4)
        stride16 = self.layer3(stride8)
        rays4 = [] if rays is None else [rays]
        rays8 = [F.avg_pool2d(each, 2) for each in rays4]
        x = self.up8(torch.cat([stride8, _upsample(stride16), *rays8], dim=1))  # (N, up0, H/8, W/8)
        skip = [] if joint is None else [joint]
        return self.up4(torch.cat([_upsample(x), *rays4, *skip], dim=1))  # (N, up1, H/4, W/4)


def resnet_stage(block: Block, channels_in: int, channels: int, depth: int, stride: int) -> nn.Sequential:
    """One of a ResNet's layer1 to layer4: `depth` blocks, the first with the stride."""
    blocks = [block(channels_in, channels, stride)]
    blocks += [block(channels * block.expansion, channels, 1) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)


def _fuse(channels_in: int, channels: int, norm: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for source in (channels_in, channels):
        layers += [nn.Conv2d(source, channels, 3, padding=1, bias=False), norm(channels), nn.ReLU()]
    return nn.Sequential(*layers)


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
