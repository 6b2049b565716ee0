# SPDX-License-Identifier: Apache-2.0
"""The training loop: the same on one CPU process, one GPU or many under torchrun, and resumable at any step."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from gaussianocc_core.data.pose_track import delayed_motions, pose_tracks, where_delays_show
from gaussianocc_core.data.sources import DataConfig, Entry, check_motion, open_split
from gaussianocc_core.errors import CheckpointError, ConfigError, GaussianOccError
from gaussianocc_core.mistakes import reading
from gaussianocc_core.predictor import resolve_device
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.training.board import Board
from gaussianocc_core.training.config import TrainConfig
from gaussianocc_core.training.distributed import Processes, process_group, was_restarted
from gaussianocc_core.training.interrupt import Interrupt
from gaussianocc_core.training.judging import DECIDES, compare, describe, means, overconfidence, pair_up
from gaussianocc_core.training.loader import Batch, TrainingSet, load_batches
from gaussianocc_core.training.odometry import DELAYS_S, LEAST_SHOWN, Shifted
from gaussianocc_core.training.pictures import training_pictures
from gaussianocc_core.training.pretrain import ClipSet
from gaussianocc_core.training.run_folder import Logs, RunFolder, peak_memory_gb
from gaussianocc_core.training.sampling import EpochSampler, Group, mix
from gaussianocc_core.training.stages import build_stage, check_overlap, parameter_groups
from gaussianocc_core.training.start import inherit_first_stage
from gaussianocc_core.training.state import LAST
from gaussianocc_core.training.watch import TrainingCollapsed

_log = logging.getLogger(__name__)
_LINE_EVERY = 50  # steps, where there is no terminal for a bar
_LOOKED_AT = 12  # samples, before a run starts
_TOO_SURE = 1.15  # times as wrong as expected, above which the expected errors are widened
_WAY_BACK = 3.0  # voxels, to the sample that one that was left out is compared with
_DROP_AT = 10 / 12  # share of the run, of the schedule `step`; published: after 10 of 12 epochs


class TrainingStopped(GaussianOccError):
    """The run was interrupted; everything up to then is saved."""


def train(
    config: TrainConfig, *, resume: bool = False, overfit_batch: bool = False, minutes: float | None = None
) -> Path:
    """Runs a training to its end and returns the model file; after `minutes` it stops as for Ctrl-C.

    The run folder holds config.yaml, environment.json, metrics.jsonl, last.pt, model.safetensors and TensorBoard
    events. Raises TrainingStopped after Ctrl-C (all is saved) and GaussianOccError, naming the samples, where a loss
    is not finite (last.pt is that of the last good save).

    Processes that torchrun starts again, because one died, go on from the last save of what it began, or begin anew.
    """
    with process_group(config.device) as (processes, name):
        device = resolve_device(name)
        # On machines whose own processes lived torchrun counts no restart: what any of them knows counts. Nor may some
        # begin anew where the others go on: a shared drive shows a file later on one machine than on another.
        again = processes.any(was_restarted(), device)
        resume = processes.any(resume or (again and RunFolder(config, 0).is_of_this_job()), device)
        # The run has no name here: it has to be gone when the group of processes ends.
        return Run(inherit_first_stage(config), processes, device, resume, overfit_batch).execute(minutes)


def open_data(config: TrainConfig, log: bool) -> tuple[TrainingSet | ClipSet, tuple[Entry, ...]]:
    """What a run trains on, and the samples that it leaves out to be measured on. log: say what there is."""
    if config.stage == "pretrain":
        return ClipSet(config.pretrain, config.seed), ()
    entries, left_out = open_split(config.data)
    if not entries:
        raise ConfigError(f"data.left_out: {config.data.left_out:g} of the recordings leaves nothing to train on")
    if not config.data.occupancy:  # labels in 3D teach standing too
        check_motion(entries)
    if left_out and log:
        _log.info("%d samples are left out, to measure the end of the run on", len(left_out))
    data = TrainingSet(entries, config.data, Preprocessor.of(config.model), config.seed)
    if config.stage == "gsp" and config.gsp.cross_weight:
        rig = data.entries[0].cameras
        check_overlap(data.preprocess(rig).views(rig.T_ego_cam), config.gsp.overlap, log=log)
    return data, left_out


def make_sampler(
    config: TrainConfig, data: TrainingSet | ClipSet, processes: Processes, first_step: int = 0
) -> EpochSampler:
    """The order of samples of this process; ConfigError for `data.shares` that do not fit the recordings."""
    mixture: tuple[Group, ...] = ()
    if isinstance(data, TrainingSet):
        mixture = mix([entry.scene for entry in data.entries], config.data.shares)
    if processes.first and not first_step:
        for group in mixture:
            name, count = group.name or "the others", len(group.members)
            _log.info("data.shares: %s: %d samples, %d times in an epoch of %d", name, count, group.quota, len(data))
    return EpochSampler(
        len(data),
        config.seed,
        config.batch_size,
        config.accumulation,
        processes.rank,
        processes.count,
        first_step,
        mixture,
    )


class Run:
    """One training run of one process."""

    def __init__(
        self, config: TrainConfig, processes: Processes, device: torch.device, resume: bool, overfit_batch: bool
    ) -> None:
        self.config, self.processes, self.device = config, processes, device
        self.overfit_batch = overfit_batch
        self.per_step = config.batch_size * config.accumulation * processes.count  # samples
        self.folder = RunFolder(config, self.per_step)
        torch.manual_seed(config.seed)
        # First: a mistake in the data leaves no run folder.
        self.data, self.left_out = open_data(config, log=processes.first)
        state = None
        if resume:
            state = self.folder.load()
        else:
            self.folder.check_free()
            if processes.first:
                self.folder.begin(device)
        self.stage = processes.share_norms(build_stage(config).to(device).train(), device)
        groups = parameter_groups(self.stage, config)
        self.optimiser = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
        self.schedule = _schedule(self.optimiser, config, [float(group["lr"]) for group in groups])
        self.scaler = torch.amp.GradScaler(device.type, init_scale=256.0, enabled=config.precision == "fp16")
        self.step = 0
        self.saved = 0  # step of the last save
        self.seconds = 0.0
        self.problems = 0
        if state is not None:
            self._restore(state)
        elif isinstance(self.data, TrainingSet):
            for line in self.stage.begin(self._some_samples(), self._shifted):
                if processes.first:
                    _log.info("%s", line)
        if state is None:
            self._measure("start")
        self.watch = self.stage.watch(config.steps) if config.stop_on_collapse else None
        self.parallel = processes.parallel(self.stage, device)

    def _some_samples(self) -> list[Batch]:
        """From all over the recordings, in their order; those that cannot be read are named when it is their turn."""
        assert isinstance(self.data, TrainingSet)
        places = np.unique(np.linspace(0, len(self.data) - 1, _LOOKED_AT).round().astype(int))
        return [self.data[(0, int(place))].to(self.device) for place in places]

    def _shifted(self) -> list[Shifted]:
        """Samples where it would show that stamps of poses are late."""
        assert isinstance(self.data, TrainingSet)
        entries = self.data.entries
        tracks = pose_tracks(entries)
        data = TrainingSet(entries, _as_recorded(self.config.data), Preprocessor.of(self.config.model), 0)
        found = []
        for place in where_delays_show(entries, tracks, _LOOKED_AT, LEAST_SHOWN):
            motions = delayed_motions(entries[place], tracks, DELAYS_S.tolist())
            batch = data[(0, place)]
            if motions is not None and not batch.problems:  # else another sample is in its place
                found.append(Shifted(batch.to(self.device), torch.from_numpy(motions).float().to(self.device)))
        return found

    def _measure(self, when: str) -> None:
        """The measures that need no truth, now and at the start of the run, into the log and measures.json; at the end
        what was better is kept."""
        if not (self.left_out and self.processes.first):
            return
        config = self.config
        data = TrainingSet(self.left_out, _as_recorded(config.data), Preprocessor.of(config.model), config.seed)
        way = _WAY_BACK * config.model.grid.voxel_size
        samples = pair_up(self.left_out, data, way, self.device)
        values = self.stage.judge(samples)
        if when == "start":
            self.folder.add_measures({"start": means(values), "start_samples": values})
            if config.keep_better and config.first_stage and set(values) & set(DECIDES):
                self.folder.save_start(self.stage)
            return
        start, at_start = self.folder.measured_at_start()
        end, verdict = means(values), compare(at_start, values)
        self.folder.add_measures({"end": end, "end_samples": values, "better": verdict.better})
        if end:
            _log.info("on %d of the samples that were left out: start -> now", len(samples))
        for name, value in end.items():
            _log.info("  %s: %s%.3f", name, f"{start[name]:.3f} -> " if name in start else "", value)
        if not (verdict.better == "start" and config.keep_better and config.first_stage):
            self._mend_confidence(overconfidence(at_start if config.first_stage else {}, values))
        if verdict.better == "start":
            kept = self.folder.keep_start() if config.keep_better else ""
            _log.warning(
                "the run made its weights worse on what was left out: %s (%+.0f %% +- %.0f, where less is better); %s. "
                "To do: a fifth of both learning rates, more recordings, or keep the weights that it began with",
                describe(start, end),
                100 * math.expm1(verdict.change),
                100 * verdict.error,
                kept or f"{self.folder.model} holds them all the same",
            )

    def _mend_confidence(self, factor: float) -> None:
        """Carving takes a ray's word to the length of its expected error, and so publishes as free what is not where
        that error is too small. No loss of this stage teaches it."""
        if factor > _TOO_SURE and self.stage.widen_errors(factor):
            self.folder.add_measures({"errors_widened": factor})
            self._save()
            _log.info("  depth is %.1f times as wrong as the network expected; it expects that much more now", factor)

    # ---- the loop --------------------------------------------------------------------------------------------------

    def execute(self, minutes: float | None = None) -> Path:
        config, deadline = self.config, time.monotonic() + 60.0 * (minutes or float("inf"))
        sampler = make_sampler(config, self.data, self.processes, self.step)
        batches = load_batches(self.data, sampler, config.data.workers)
        if self.overfit_batch:
            batches = _repeat([next(batches) for _ in range(config.accumulation)])
        if self.processes.first:
            _log.info(
                "%s: %d parameters; %d samples, %d steps of %d samples (%.1f epochs) on %s",
                config.stage,
                sum(p.numel() for p in self.stage.parameters() if p.requires_grad),
                len(self.data),
                config.steps,
                sampler.per_step,
                config.steps / sampler.steps_per_epoch,
                self.device,
            )
        with Interrupt() as interrupt, self._logs() as logs:
            hidden = None if self.processes.first else True  # None: where there is no terminal
            bar = tqdm(total=config.steps, initial=self.step, unit="step", disable=hidden)
            while self.step < config.steps:
                began = time.monotonic()
                micro, waited = self._next(batches)
                named = self._optimise(micro)
                self.step += 1
                self.seconds += time.monotonic() - began
                self._report(named, waited / max(time.monotonic() - began, 1e-9), logs, bar)
                collapsed = self.watch.see(self.step, named) if self.watch is not None else ""
                if collapsed:
                    bar.close()
                    raise self._collapsed(collapsed)
                last = self.step == config.steps
                every = config.pictures_every
                if logs.board and every and (last or self.step % every == 0):
                    self._show(micro[0], logs.board)
                stopped = self.processes.any(interrupt.wanted or time.monotonic() > deadline, self.device)
                well = self.watch is None or self.watch.well  # else what was saved before is better
                if (last or stopped or self.step % config.save_every == 0) and (well or last):
                    self._save()
                    self.saved = self.step
                if stopped and not last:
                    bar.close()
                    raise TrainingStopped(f"stopped after {self.step} of {config.steps} steps; --resume goes on there")
            bar.close()
        self._measure("end")
        if self.processes.first:
            _log.info(
                "%d steps in %.1f min; peak memory %.2f GB%s",
                self.step,
                self.seconds / 60,
                peak_memory_gb(self.device),
                f"; {self.problems} times something was wrong with a sample, as said above" if self.problems else "",
            )
        return self.folder.model

    def _next(self, batches: Iterator[Batch]) -> tuple[list[Batch], float]:
        """The batches of a step, and the seconds that were spent waiting for them."""
        began = time.monotonic()
        micro = [next(batches) for _ in range(self.config.accumulation)]
        waited = time.monotonic() - began
        for batch in micro:
            for problem in batch.problems:
                self.problems += 1
                _log.warning("%s", problem)
        return [batch.to(self.device) for batch in micro], waited

    def _optimise(self, micro: Sequence[Batch]) -> dict[str, float]:
        """One step of the optimiser on the mean gradient of the step's batches; the mean of their losses."""
        config = self.config
        progress = self.step / config.steps
        line = self.stage.before_step(micro, self.step, config.steps, self.processes.sum)
        if line and self.processes.first:
            tqdm.write(f"step {self.step}: {line}")
        self.optimiser.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        for turn, batch in enumerate(micro):
            # Noise in the losses depends on the place of a batch in the run alone, so that resumed runs and any split
            # of a step over processes see the same.
            torch.manual_seed(hash((config.seed, self.step, turn * self.processes.count + self.processes.rank)))
            last = turn == len(micro) - 1
            with contextlib.nullcontext() if last or self.processes.count == 1 else self.parallel.no_sync():
                named = self.parallel(batch, progress)
                # Before the backward pass: what it does with numbers that are none is anyone's guess, crashes included.
                self._check_finite(float(named["total"].detach()), [batch], "loss")
                scaled = self.scaler.scale(named["total"] / len(micro))
                assert isinstance(scaled, Tensor)
                scaled.backward()
            for name, value in named.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / len(micro)
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.stage.parameters(), config.clip_norm or float("inf"))
        if not self.scaler.is_enabled():  # which leaves out such a step itself, and goes on with a smaller scale
            self._check_finite(float(norm), micro, "gradient")
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.schedule.step()
        return self.processes.mean(sums, self.stage.reports, self.device)

    def _collapsed(self, what: str) -> TrainingCollapsed:
        assert self.watch is not None
        kept = f"{self.folder.model} holds the weights of step {self.saved}" if self.saved else "no weights are kept"
        return TrainingCollapsed(f"step {self.step}: training collapsed: {what}; {kept}. To do: {self.watch.advice()}")

    def _check_finite(self, value: float, batches: Sequence[Batch], what: str) -> None:
        bad = not math.isfinite(value)
        if self.processes.any(bad, self.device):
            tokens = ", ".join(token for batch in batches for token in batch.tokens) if bad else "of another process"
            last = self.folder.path / LAST
            go_on = f"then --resume: {last} holds the last good state" if last.is_file() else "then start anew"
            raise GaussianOccError(
                f"step {self.step + 1}: the {what} is not finite on samples {tokens}. Look at these samples, or lower "
                f"learning_rate, {go_on}"
            )

    # ---- what is written -------------------------------------------------------------------------------------------

    def _logs(self) -> contextlib.AbstractContextManager[Logs]:
        return self.folder.open_logs(self.step) if self.processes.first else contextlib.nullcontext(Logs())

    def _report(self, named: dict[str, float], waiting: float, logs: Logs, bar: Any) -> None:
        if logs.metrics is None:
            return
        scalars = {name: round(value, 6) for name, value in named.items()}
        logs.metrics.write(json.dumps({"step": self.step, "s": round(self.seconds, 2), **scalars}) + "\n")
        bar.update(1)
        if bar.disable and (self.step % _LINE_EVERY == 0 or self.step in (1, self.config.steps)):
            left = (self.config.steps - self.step) * self.seconds / self.step / 60
            values = ", ".join(f"{name} {value:.3f}" for name, value in scalars.items())
            _log.info("step %d of %d, about %.0f min left: %s", self.step, self.config.steps, left, values)
        bar.set_postfix_str(
            " ".join([*(f"{name} {value:.3f}" for name, value in scalars.items()), f"data {100 * waiting:.0f}%"])
        )
        if logs.board and self.step % 10 == 0:
            rate = self.per_step / max(self.seconds / self.step, 1e-9)
            logs.board.add_scalars({**scalars, "data_wait": waiting, "samples_per_s": rate}, self.step)

    def _show(self, batch: Batch, board: Board) -> None:
        self.stage.eval()
        for name, picture in training_pictures(self.stage, batch).items():
            board.add_picture(name, picture, self.step)
        self.stage.train()

    def _save(self) -> None:
        if self.processes.first:
            self.folder.save(
                self.stage,
                {
                    "step": self.step,
                    "seconds": self.seconds,
                    "problems": self.problems,
                    "optimiser": self.optimiser.state_dict(),
                    "schedule": self.schedule.state_dict(),
                    "scaler": self.scaler.state_dict(),
                },
            )

    def _restore(self, state: dict[str, Any]) -> None:
        with reading(f"{self.folder.path / LAST}: its state", "start the run anew", CheckpointError):
            self.stage.load_state_dict(state["stage"])
            self.optimiser.load_state_dict(state["optimiser"])
            done = int(state["step"])
            if state["config"]["steps"] == self.config.steps:
                self.schedule.load_state_dict(state["schedule"])
            else:  # a longer run: as if it had been so long from the start
                groups = self.optimiser.param_groups
                rates = [float(group.get("max_lr", group["lr"])) for group in groups]
                self.schedule = _schedule(self.optimiser, self.config, rates, done)
            self.scaler.load_state_dict(state["scaler"])
            self.step, self.seconds = int(state["step"]), float(state["seconds"])
            self.saved = self.step
        self.problems = state["problems"] if self.processes.first else 0  # they are the first process' alone


def _as_recorded(config: DataConfig) -> DataConfig:
    """Without what training varies, and without labels in 3D, which what is left out has none of."""
    return replace(config, jitter=0.0, mirror=0.0, occupancy="")


def _repeat(micro: list[Batch]) -> Iterator[Batch]:
    while True:
        yield from micro


def _schedule(optimiser: torch.optim.Optimizer, config: TrainConfig, rates: list[float], done: int = 0) -> Any:
    """done: steps of the run that the optimiser has made already."""
    last = done - 1
    if config.schedule == "step":
        return torch.optim.lr_scheduler.StepLR(
            optimiser, max(1, round(_DROP_AT * config.steps)), gamma=0.1, last_epoch=last
        )
    # Torch divides by the length of the rise less one step, which is none in a run of ten.
    steps = config.steps + 1 if config.steps == 10 else max(config.steps, 2)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        rates,
        steps,
        pct_start=0.1,
        div_factor=10,
        final_div_factor=10,
        cycle_momentum=False,
        last_epoch=last,
    )
