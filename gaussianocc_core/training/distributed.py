# SPDX-License-Identifier: Apache-2.0
"""One process or many: what `torchrun` started, behind a few functions that do nothing in a single process."""

from __future__ import annotations

import gc
import inspect
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


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

    def share_norms(self, stage: M, device: torch.device) -> M:
        """Batch norms that count over all processes, on GPUs: one sample a process is too few for them.

        In place; what comes back is the stage.
        """
        if self.count == 1 or device.type != "cuda":
            return stage
        converted: M = nn.SyncBatchNorm.convert_sync_batchnorm(stage)
        return converted

    def parallel(self, stage: nn.Module, device: torch.device) -> Any:
        """The stage, or what calls it so that gradients become the mean over all processes."""
        if self.count == 1:
            return stage
        # Buffers are batch norm's running statistics: every process keeps its own. Torch renamed the argument.
        known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        buffers: dict[str, Any] = {name: False}
        # Torch never lets go of the group that it is given here: on CPUs that is one of its own (see `process_group`).
        group = None if device.type == "cuda" else dist.new_group()
        return nn.parallel.DistributedDataParallel(
            stage,
            device_ids=[device.index] if device.type == "cuda" else None,
            process_group=group,
            **buffers,
            find_unused_parameters=True,  # a stage has phases in which a network rests
        )


def was_restarted() -> bool:
    """Whether torchrun has started these processes again, because one of them died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def job_id() -> str:
    """What torchrun's processes of one start have in common, however often it starts them again; "" without it."""
    named = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return f"agent {os.getppid()}" if named == "none" else named  # "none": it was not given a name (--rdzv-id)


@contextmanager
def process_group(device: str) -> Iterator[tuple[Processes, str]]:
    """The processes that torchrun started and the device of this one; NCCL on GPUs, gloo on CPUs.

    What learnt in parallel must be out of reach when the context ends.
    """
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
        # Waits for the group's threads, if nothing holds it: what learnt is part of circles and does. A thread that has
        # to drop a tensor of Python's while the interpreter ends aborts the process, "without an active exception".
        gc.collect()
        dist.destroy_process_group()
