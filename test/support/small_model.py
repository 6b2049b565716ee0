# SPDX-License-Identifier: Apache-2.0
"""A network small enough for tests that run it."""

from gaussianocc_core.models.config import DecoderConfig, EncoderConfig, ModelConfig
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
