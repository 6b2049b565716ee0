# SPDX-License-Identifier: Apache-2.0
"""A network small enough for tests that run it."""

from dataclasses import replace

import torch

from gaussianocc_core.models.config import DecoderConfig, EncoderConfig, ModelConfig
from gaussianocc_core.predictor import OccupancyPredictor
from gaussianocc_core.types import Lattice, VoxelGrid

SMALL = ModelConfig(
    name="small",
    image_height=48,
    image_width=80,
    encoder=EncoderConfig(width=0.125, up_channels=(16, 8), feature_channels=8),
    lattice=Lattice(low=(-8.0, -8.0, -1.0), high=(8.0, 8.0, 3.0), shape=(16, 16, 8)),
    decoder=DecoderConfig(channels=8, hourglasses=1, head_blocks=1),
    grid=VoxelGrid(origin=(-8.0, -8.0, -1.0), voxel_size=0.5, shape=(32, 32, 8)),
)

# Every kind of network that a robot runs.
SMALL_MATCHING = replace(
    SMALL,
    name="small matching",
    decoder=replace(SMALL.decoder, kind="bev", surface=True, detail=True),
    matching=replace(SMALL.matching, enabled=True),
)
SMALL_HOURGLASS = replace(
    SMALL, name="small hourglass", decoder=replace(SMALL.decoder, kind="hourglass", surface=False)
)
SMALL_SURFACE = replace(SMALL, name="small surface", decoder=replace(SMALL.decoder, kind="bev", surface=True))


def outspoken(config: ModelConfig, device: str, seed: int = 0) -> OccupancyPredictor:
    """With fresh weights that say more than free."""
    predictor = OccupancyPredictor.untrained(config, device=device, seed=seed)
    with torch.no_grad():
        if hasattr(predictor.model.voxel_decoder, "class_offset"):
            predictor.model.voxel_decoder.class_offset[-1:] = 0.0
        if predictor.model.detail_head is not None:
            torch.manual_seed(1)
            torch.nn.init.normal_(predictor.model.detail_head.last.weight, std=0.3)
    return predictor
