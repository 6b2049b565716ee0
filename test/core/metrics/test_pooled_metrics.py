# SPDX-License-Identifier: Apache-2.0
"""Metrics of two real processes, pooled, equal those of one that saw every sample."""

import json

import pytest
from support.pooled_scores import score

WORKER = """
import json, sys
import torch.distributed as dist
sys.path.insert(0, sys.argv[4])
from support.pooled_scores import score
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
json.dump(score([0] if rank == 0 else [1, 2]), open(sys.argv[3], "w"))
dist.destroy_process_group()
"""


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
