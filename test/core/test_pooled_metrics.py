# SPDX-License-Identifier: Apache-2.0
"""Metrics of two real processes, pooled, equal those of one that saw every sample."""

import json

import numpy as np
import pytest
import torch

from gaussianocc_core.metrics import DepthScores, OccupancyScores, RayIoU
from gaussianocc_core.types import VoxelGrid

GRID = VoxelGrid(origin=(-8.0, -8.0, -1.0), voxel_size=0.5, shape=(32, 32, 8))

WORKER = """
import json, sys
import torch.distributed as dist
sys.path.insert(0, sys.argv[4])
from core.test_pooled_metrics import score
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
json.dump(score([0] if rank == 0 else [1, 2]), open(sys.argv[3], "w"))
dist.destroy_process_group()
"""


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


@pytest.mark.medium
def test_two_processes_pool_to_what_one_counts(tmp_path, spawn, request):
    files = [tmp_path / f"{rank}.json" for rank in range(2)]
    test_folder = request.config.rootpath / "test"
    workers = [spawn("-c", WORKER, rank, tmp_path / "store", files[rank], test_folder) for rank in range(2)]
    for worker in workers:
        assert worker.wait(180) == 0, worker.output
    together, *each = score([0, 1, 2]), *(json.loads(file.read_text()) for file in files)
    assert together[0] == 3 and 0.01 < together[3]["ray_iou"] < 0.99
    for pooled in each:
        assert pooled[0] == together[0]
        for one, two in zip(pooled[1:], together[1:], strict=True):
            assert one == pytest.approx(two, rel=1e-12)
