# SPDX-License-Identifier: Apache-2.0
"""Sums over the processes of a distributed run, and over the shares of a divided one."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.distributed as dist


class Pooled(ABC):
    """What is counted sample by sample and may be added up: over processes, or over parts of a run."""

    @abstractmethod
    def counts(self) -> np.ndarray:
        """All that was counted, int64 or float64; its shape does not depend on the samples."""

    @abstractmethod
    def set_counts(self, counts: np.ndarray) -> None:
        """In place of what was counted."""

    def add(self, counts: np.ndarray) -> None:
        """Adds what another counted. ValueError where its shape or type is another."""
        mine = self.counts()
        if counts.shape != mine.shape or counts.dtype != mine.dtype:
            raise ValueError(
                f"counts: expected {mine.shape} of {mine.dtype}, got {counts.shape} of {counts.dtype} to add"
            )
        self.set_counts(mine + counts)

    def reduce(self, group: dist.ProcessGroup | None = None) -> None:
        """Adds what the other processes counted; once, at the end."""
        self.set_counts(sum_over_processes(self.counts(), group))


def sum_over_processes(counts: np.ndarray, group: dist.ProcessGroup | None = None) -> np.ndarray:
    """Sum of every process's array (same shape, int64 or float64), on every process; call it on all of them."""
    if not (dist.is_available() and dist.is_initialized()):
        return counts
    device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
    total = torch.tensor(counts, device=device)  # a copy: all_reduce writes in place
    dist.all_reduce(total, group=group)
    return total.cpu().numpy()
