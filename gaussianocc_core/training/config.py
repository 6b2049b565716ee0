# SPDX-License-Identifier: Apache-2.0
"""Settings of a training run, whichever stage it is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gaussianocc_core.data.sources import DataConfig
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.training.gsp import PRECISIONS, GspConfig
from gaussianocc_core.training.gsv import GsvConfig

STAGES = ("gsp", "gsv", "joint")
SCHEDULES = ("one_cycle", "step")


@dataclass(frozen=True)
class TrainConfig:
    stage: str = "gsp"  # "gsp": depth, ego motion, scale; "gsv": occupancy; "joint": occupancy and ego motion at once
    first_stage: str = ""  # gsv: model file of a gsp run, for ego motion and to start from; gsp: to go on from
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    gsp: GspConfig = field(default_factory=GspConfig)
    gsv: GsvConfig = field(default_factory=GsvConfig)
    output: str = ""  # run folder; "": runs/<name of the configuration file>
    device: str = "auto"
    seed: int = 0
    steps: int = 2000  # of the optimiser
    batch_size: int = 1  # samples at a time and process; a sample is all cameras of a moment and its neighbours
    accumulation: int = 1  # batches per step
    learning_rate: float = 1e-3
    encoder_learning_rate: float = 1e-3  # of what sees images
    weight_decay: float = 0.01
    # One cycle: a short rise, then down to a hundredth. "step": a tenth after `drop_at`, as published.
    schedule: str = "one_cycle"
    drop_at: float = 10 / 12  # share of the run
    clip_norm: float = 1.0  # of all gradients; 0: no clipping, as published
    # Steps that see one sample: the statistics that inference uses average over some thirty of them.
    norm_momentum: float = 0.03
    sync_norm: bool = True  # batch norms count over all processes of a run on GPUs
    precision: str = "fp32"  # of the networks; geometry and losses are always fp32
    save_every: int = 250  # steps between checkpoints
    pictures_every: int = 250  # steps between TensorBoard pictures; 0: none
    half_weights: bool = True  # 16 bits in the model file
    note: str = ""  # one line for the model card; "": what the stage is

    def __post_init__(self) -> None:
        for name, allowed in (("stage", STAGES), ("precision", tuple(PRECISIONS)), ("schedule", SCHEDULES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: expected one of {allowed}, got {getattr(self, name)!r}")
        if self.stage == "joint":  # stage 2 that learns its motion along
            object.__setattr__(self, "gsv", replace(self.gsv, ego_motion="joint"))
        for name in ("steps", "batch_size", "accumulation", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed: expected 0 or more, got {self.seed}")
