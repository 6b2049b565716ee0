# SPDX-License-Identifier: Apache-2.0
"""The learnt parts of a model between the geometric ones, each a module of tensors in and tensors out.

    pixels -> LOOK -> first maps, matching features -> (sweep) -> SEE -> features, depth -> (refine, lift) -> DECODE

What stands in brackets depends on the rig and on motion, and is the same code whatever runs the networks
(`models.matching`, `models.depth_refinement`, `models.lifting`). All maps have channels innermost, as those kernels
read and write them; inside, runtimes lay out as they like. Sizes are fixed: N cameras, H x W images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gaussianocc_core.models.bev_decoder import BevDecoder, BevWeights
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.models.depth_net import DEPTH_STRIDE, DepthHead
from gaussianocc_core.models.gaussianocc import GaussianOcc
from gaussianocc_core.models.image_encoder import RAY_CHANNELS
from gaussianocc_core.models.lifting import MEASURED_CHANNELS, POSITION_CHANNELS, SURFACE_CHANNELS
from gaussianocc_core.models.matching import GROUPS
from gaussianocc_core.models.matching_net import LENS_CHANNELS, MatchingHead

LOOK, SEE, DECODE = "look", "see", "decode"
NETWORKS = (LOOK, SEE, DECODE)  # in the order in which they run
_STRIDE = 4  # image pixels per cell of the encoder's maps


@dataclass(frozen=True)
class Port:
    """One input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Network:
    """A module that takes the inputs in this order and returns a tuple of the outputs."""

    name: str
    module: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def examples(self, seed: int = 0) -> tuple[Tensor, ...]:
        """Inputs of the right sizes: noise, for tracing and timing."""
        random = torch.Generator().manual_seed(seed)
        return tuple(
            torch.randint(0, 256, port.shape, dtype=torch.uint8, generator=random)
            if port.dtype == torch.uint8
            else torch.rand(port.shape, generator=random)
            for port in self.inputs
        )


def networks_of(model: GaussianOcc, config: ModelConfig, cameras: int) -> dict[str, Network]:
    """LOOK, SEE and DECODE of a model in eval mode, for so many cameras. They share its weights."""
    width, height = config.image_width, config.image_height
    h, w = height // _STRIDE, width // _STRIDE
    fine = (cameras, height // DEPTH_STRIDE, width // DEPTH_STRIDE)
    encoder, head = model.image_encoder, model.depth_head
    stride4 = Port("stride4", (cameras, _channels(model), h, w))
    first = [stride4]
    if encoder.features is not None:
        first.append(Port("features", (*fine, config.matching.channels)))
    inputs = list(first)
    if isinstance(head, MatchingHead):
        inputs.append(Port("volume", (cameras, h, w, GROUPS * config.matching.depths)))
        inputs.append(Port("seen", (cameras, h, w, GROUPS)))
        inputs.append(Port("lens", (cameras, LENS_CHANNELS, h, w)))
    if encoder.rays:
        inputs.append(Port("rays", (cameras, RAY_CHANNELS, h, w)))
    if head is not None and head.ground:
        inputs.append(Port("ground", fine))
    outputs = [Port("maps", (cameras, h, w, config.encoder.feature_channels))]
    if head is not None:
        outputs.append(Port("inv_depth", fine))
    if isinstance(head, MatchingHead):
        outputs.append(Port("log_error", fine))
    channels = config.encoder.feature_channels + (POSITION_CHANNELS if model.position else 0)
    channels += 0 if head is None else MEASURED_CHANNELS if isinstance(head, MatchingHead) else SURFACE_CHANNELS
    decoder = model.voxel_decoder
    details = decoder.details if isinstance(decoder, BevDecoder) else 0
    said = Port("said", (*config.lattice.shape, len(config.class_names) + details))
    found = (
        Network(LOOK, _Look(model), (Port("pixels", (cameras, height, width, 3), torch.uint8),), tuple(first)),
        Network(SEE, _See(model, [port.name for port in inputs]), tuple(inputs), tuple(outputs)),
        Network(DECODE, _Decode(model), (Port("volume", (*config.lattice.shape, channels)),), (said,)),
    )
    return {network.name: network for network in found}


def _channels(model: GaussianOcc) -> int:
    """Of the first maps, at stride 4."""
    reader = model.image_encoder.layer2[0].conv1
    assert isinstance(reader, nn.Conv2d)
    return reader.in_channels


class _Look(nn.Module):
    """RGB 0-255 -> `image_encoder.Look`."""

    def __init__(self, model: GaussianOcc) -> None:
        super().__init__()
        self.encoder = model.image_encoder

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        stride2, stride4 = self.encoder.stem(pixels.permute(0, 3, 1, 2).float() / 255.0)
        if self.encoder.features is None:
            return (stride4,)
        return stride4, self.encoder.features(stride2, stride4).permute(0, 2, 3, 1)


class _See(nn.Module):
    """First maps and the swept volume -> features to lift, inverse depth (1/m) and the log of its expected error."""

    def __init__(self, model: GaussianOcc, names: Sequence[str]) -> None:
        super().__init__()
        self.encoder, self.head, self.names = model.image_encoder, model.depth_head, tuple(names)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self.names, inputs, strict=True))
        rays, ground, stride4 = given.get("rays"), given.get("ground"), given["stride4"]
        found: tuple[Tensor, ...] = ()
        if isinstance(self.head, MatchingHead):
            assert self.encoder.fusion is not None
            volume, seen, features = (given[name].permute(0, 3, 1, 2) for name in ("volume", "seen", "features"))
            joint, fused = self.encoder.fusion(volume, seen, stride4)
            maps = self.encoder.decode(fused, rays, joint)
            said = self.head(maps, joint, volume, seen, features, given["lens"], ground)
            found = (said.inv_depth, said.log_error)
        else:
            maps = self.encoder.decode(stride4, rays)
            if isinstance(self.head, DepthHead):
                found = (self.head(maps, ground)[0],)
        return (self.encoder.project(maps).permute(0, 2, 3, 1), *found)


class _Decode(nn.Module):
    """Lifted features -> logits, and behind them what a detail head reads."""

    def __init__(self, model: GaussianOcc) -> None:
        super().__init__()
        self.decoder = model.voxel_decoder
        if isinstance(self.decoder, BevDecoder):  # arranged here, once, so that they are constants of the graph
            for name, value in self.decoder.arrange()._asdict().items():
                self.register_buffer(name, value.detach(), persistent=False)

    def forward(self, volume: Tensor) -> tuple[Tensor, ...]:
        if isinstance(self.decoder, BevDecoder):
            weights = BevWeights(*(getattr(self, name) for name in BevWeights._fields))
            return (self.decoder.read(volume[None], weights)[0],)
        return (self.decoder(volume.permute(3, 0, 1, 2)[None])[0].permute(1, 2, 3, 0),)


__all__ = ["DECODE", "LOOK", "NETWORKS", "SEE", "Network", "Port", "networks_of"]
