# SPDX-License-Identifier: Apache-2.0
"""Scores of random samples; worker processes import it by name."""

import numpy as np
import torch

from gaussianocc_core.metrics import DepthScores, OccupancyScores, RayIoU
from gaussianocc_core.types import VoxelGrid

GRID = VoxelGrid(origin=(-8.0, -8.0, -1.0), voxel_size=0.5, shape=(32, 32, 8))


def score(seeds):
    """All counts and summaries over the samples with these seeds, pooled."""
    scores = OccupancyScores(), DepthScores(("front", "back")), RayIoU(GRID)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        truth, prediction = (
            np.where(rng.random(GRID.shape) < 0.1, rng.integers(0, 17, GRID.shape), 17).astype(np.uint8)
            for _ in range(2)
        )
        scores[0].update(truth, np.where(rng.random(GRID.shape) < 0.5, truth, prediction), rng.random(GRID.shape) < 0.7)
        depths = rng.uniform(1, 60, (2, 6, 9)).astype(np.float32)
        if seed == 1:
            depths[1] = 0  # a camera without truth in one sample
        scores[1].update(list(depths), torch.from_numpy(rng.uniform(1, 60, (2, 4, 6)).astype(np.float32)))
        scores[2].update(truth, np.roll(truth, 1, axis=0), np.array([[0.0, 0.0, 1.0], [2.0, -3.0, 1.5]]))
    for each in scores:
        each.reduce()
    return [scores[0].samples, *(each.summary() for each in scores)]
