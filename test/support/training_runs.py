# SPDX-License-Identifier: Apache-2.0
"""Settings of runs that take seconds, and 2D labels for a made-up data set."""

from dataclasses import replace

import numpy as np
from support.nuscenes_fixtures import read_table

from gaussianocc_core.data.sources import DataConfig
from gaussianocc_core.models.config import DecoderConfig, DepthConfig, EncoderConfig, ModelConfig, PoseConfig
from gaussianocc_core.training.config import GspConfig, GsvConfig, TrainConfig
from gaussianocc_core.training.photometric import Photometric
from gaussianocc_core.types import Lattice, VoxelGrid

MODEL = ModelConfig(
    name="small",
    image_height=32,
    image_width=48,
    encoder=EncoderConfig(width=0.125, up_channels=(8, 8), feature_channels=4),
    lattice=Lattice(low=(-8.0, -8.0, -1.0), high=(8.0, 8.0, 3.0), shape=(16, 16, 4)),
    decoder=DecoderConfig(channels=8),
    depth=DepthConfig(first=5.0),
    pose=PoseConfig(width=0.125, channels=8),
    grid=VoxelGrid(origin=(-8.0, -8.0, -1.0), voxel_size=0.5, shape=(32, 32, 8)),
)
PLAIN = Photometric(levels=2)


def settings(root, output, **changes) -> TrainConfig:
    config = TrainConfig(
        stage="gsp",
        model=MODEL,
        data=DataConfig(dataroot=str(root)),
        gsp=GspConfig(
            temporal=PLAIN,
            cross=PLAIN,
            search_at=0.3,
            search_batches=1,
            motion_share=0.2,
            motion_steps=0,
        ),
        gsv=GsvConfig(ego_motion="sensor", photometric=PLAIN, render_height=16, render_width=24),
        output=str(output),
        device="cpu",
        steps=6,
        save_every=3,
        pictures_every=0,
        half_weights=False,
    )
    return replace(config, **changes)


def add_labels(root, value):
    """One 2D label file per image of the front row's cameras, all pixels `value`."""
    for row in read_table(root, "sample_data"):
        if row["filename"].endswith(".jpg"):
            path = (root / "nuscenes_semantic" / row["filename"]).with_suffix("")
            path = path.with_name(path.name + "_mask.bin")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(np.full(row["width"] * row["height"], value, np.int8).tobytes())
