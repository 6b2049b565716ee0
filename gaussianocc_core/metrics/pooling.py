# SPDX-License-Identifier: Apache-2.0
"""Sums over the processes of a distributed run; plain counts without one."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist


def sum_over_processes(counts: np.ndarray, group: dist.ProcessGroup | None = None) -> np.ndarray:
    """Sum of every process's array (same shape, int64 or float64), on every process; call it on all of them."""
    if not (dist.is_available() and dist.is_initialized()):
        return counts
    device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
    total = torch.tensor(counts, device=device)  # a copy: all_reduce writes in place
    dist.all_reduce(total, group=group)
    return total.cpu().numpy()
