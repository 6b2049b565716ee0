# SPDX-License-Identifier: Apache-2.0
"""One process or many: what `torchrun` started, behind a few functions that do nothing in a single process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: Tensor) -> None:
        """In place, over all processes."""
        if self.count > 1:
            dist.all_reduce(tensor)

    def mean(self, values: dict[str, float], names: Sequence[str], device: torch.device) -> dict[str, float]:
        """Of scalars; what a process lacks, as where its samples have no labels, is the mean of the others.

        names: all that any process may have, the same for all of them.
        """
        if self.count == 1:
            return values
        packed = torch.tensor(
            [[values.get(name, 0.0), float(name in values)] for name in names], dtype=torch.float64, device=device
        )
        dist.all_reduce(packed)
        return {
            name: total / having for name, (total, having) in zip(names, packed.tolist(), strict=True) if having > 0
        }

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any process says so: all of them act on Ctrl-C and on a bad loss together."""
        if self.count == 1:
            return flag
        packed = torch.tensor(float(flag), device=device)
        dist.all_reduce(packed)
        return bool(packed > 0)


@contextmanager
def process_group(device: str) -> Iterator[tuple[Processes, str]]:
    """The processes that torchrun started and the device of this one; NCCL on GPUs, gloo on CPUs."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(), device
        return
    processes = Processes(int(os.environ["RANK"]), count, int(os.environ.get("LOCAL_RANK", "0")))
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_gpu:
        device = f"cuda:{processes.local_rank}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo", rank=processes.rank, world_size=count)
    try:
        yield processes, device
    finally:
        dist.destroy_process_group()
