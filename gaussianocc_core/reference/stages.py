# SPDX-License-Identifier: Apache-2.0
"""Every stage in the order of the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.reference import network, rendering, scores, training
from gaussianocc_core.reference.golden import Golden
from gaussianocc_core.reference.pipeline import Pipeline
from gaussianocc_core.reference.report import Row

STAGES = (
    network.weights,
    network.network,
    network.gaussians,
    network.full_grid,
    network.occupancy,
    network.motion,
    rendering.splatting,
    rendering.splatting_scene,
    rendering.volume,
    training.loss_values,
    scores.scores,
)


def run_stages(folder: str | Path, reference: ModelConfig) -> Iterator[Row]:
    """Rows for all that a golden directory recorded, as they are computed; reference: the published architecture."""
    pipeline = Pipeline(Golden(folder), reference)
    for stage in STAGES:
        with torch.inference_mode():
            rows = list(stage(pipeline))
        yield from rows
