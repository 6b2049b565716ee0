# SPDX-License-Identifier: Apache-2.0
"""What a run would be: its samples, steps, memory and time, measured on two steps. Nothing is written."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from gaussianocc_core.predictor import resolve_device
from gaussianocc_core.training.config import TrainConfig
from gaussianocc_core.training.distributed import process_group
from gaussianocc_core.training.engine import make_sampler, open_data
from gaussianocc_core.training.loader import TrainingSet, load_batches
from gaussianocc_core.training.run_folder import RunFolder, peak_memory_gb
from gaussianocc_core.training.stages import build_stage, parameter_groups
from gaussianocc_core.training.start import inherit_first_stage

_STEPS = 2  # the first one also plans and compiles; the last one is measured


@dataclass(frozen=True)
class Rehearsal:
    """What a training would run on."""

    stage: str
    output: str
    samples: int  # to train on
    scenes: int
    left_out: int  # samples, to measure the end of the run on
    labelled: int  # samples with 2D labels
    steps: int
    epochs: float
    parameters: int  # that learn
    device: str
    step_s: float
    memory_gb: float  # the most so far, of this process or of its GPU

    def describe(self) -> str:
        """Lines for the user."""
        minutes = self.steps * self.step_s / 60
        took = f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
        left_out = f"; {self.left_out} are left out, to measure the end of the run on" if self.left_out else ""
        return (
            f"{self.stage}: {self.samples} samples of {self.scenes} scenes, {self.labelled} with 2D labels{left_out}\n"
            f"{self.steps} steps, {self.epochs:.1f} epochs; {self.parameters} parameters learn\n"
            f"on {self.device}: {self.step_s:.2f} s a step, about {took}; {self.memory_gb:.1f} GB of memory\n"
            f"output would be {self.output}; nothing was written"
        )


def rehearse(config: TrainConfig) -> Rehearsal:
    """Opens the data, builds the networks and makes two steps that are not kept.

    GaussianOccError wherever the run itself would stop before its first step, a run folder that is taken included.
    """
    with process_group(config.device) as (processes, name):
        config, device = inherit_first_stage(config), resolve_device(name)
        RunFolder(config, 0).check_free()
        torch.manual_seed(config.seed)
        data, left_out = open_data(config, log=processes.first)
        stage = processes.share_norms(build_stage(config).to(device).train(), device)
        optimiser = torch.optim.AdamW(parameter_groups(stage, config))
        sampler = make_sampler(config, data, processes)
        batches = load_batches(data, sampler, config.data.workers)
        took = 0.0
        for _ in range(_STEPS):
            began = time.monotonic()
            optimiser.zero_grad(set_to_none=True)
            for _ in range(config.accumulation):
                stage(next(batches).to(device), 0.5)["total"].backward()
            optimiser.step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            took = time.monotonic() - began
        entries = data.entries if isinstance(data, TrainingSet) else ()
        return Rehearsal(
            stage=config.stage,
            output=config.output,
            samples=len(data),
            scenes=len({entry.scene for entry in entries}),
            left_out=len(left_out),
            labelled=sum(entry.labelled for entry in entries),
            steps=config.steps,
            epochs=config.steps / sampler.steps_per_epoch,
            parameters=sum(each.numel() for each in stage.parameters() if each.requires_grad),
            device=str(device),
            step_s=took,
            memory_gb=peak_memory_gb(device),
        )


__all__ = ["Rehearsal", "rehearse"]
