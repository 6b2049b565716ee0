# SPDX-License-Identifier: Apache-2.0
"""The training loop: the same on one CPU process, one GPU or many under torchrun, and resumable at any step."""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import math
import os
import platform
import resource
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor, nn
from tqdm import tqdm

from gaussianocc_core import __version__
from gaussianocc_core.checkpoint import Provenance
from gaussianocc_core.config import to_dict
from gaussianocc_core.data.sources import open_entries
from gaussianocc_core.errors import ConfigError, GaussianOccError
from gaussianocc_core.geometry.overlap import find_overlaps
from gaussianocc_core.predictor import resolve_device
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.training.config import TrainConfig
from gaussianocc_core.training.distributed import Processes, process_group
from gaussianocc_core.training.loader import Batch, EpochSampler, TrainingSet, load_batches
from gaussianocc_core.training.pictures import training_pictures
from gaussianocc_core.training.stages import NOTES, build_stage, inherit_depth_range, parameter_groups, save_stage
from gaussianocc_core.training.state import LAST, load_state, save_state

_log = logging.getLogger(__name__)


class TrainingStopped(GaussianOccError):
    """The run was interrupted; everything up to then is saved."""


def train(
    config: TrainConfig, *, resume: bool = False, overfit_batch: bool = False, minutes: float | None = None
) -> Path:
    """Runs a training to its end and returns the model file; after `minutes` it stops as for Ctrl-C.

    The run folder holds config.yaml, environment.json, metrics.jsonl, last.pt, model.safetensors and TensorBoard
    events. Raises TrainingStopped after Ctrl-C (all is saved) and GaussianOccError, naming the samples, where a loss
    is not finite (last.pt is that of the last good save).
    """
    with process_group(config.device) as (processes, device):
        run = Run(inherit_depth_range(config), processes, resolve_device(device), resume, overfit_batch)
        return run.execute(minutes)


class Run:
    """One training run of one process."""

    def __init__(
        self, config: TrainConfig, processes: Processes, device: torch.device, resume: bool, overfit_batch: bool
    ) -> None:
        self.config, self.processes, self.device = config, processes, device
        self.output = Path(config.output)
        self.resume, self.overfit_batch = resume, overfit_batch
        torch.manual_seed(config.seed)
        entries = open_entries(config.data)  # first: a mistake in the data leaves no run folder
        self.data = TrainingSet(entries, config.data, Preprocessor.of(config.model), config.seed)
        if config.stage == "gsp" and config.gsp.cross_weight:
            self._check_overlap()
        state = self._open_folder()
        self.stage = build_stage(config).to(device).train()
        if config.sync_norm and processes.count > 1 and device.type == "cuda":
            self.stage = nn.SyncBatchNorm.convert_sync_batchnorm(self.stage)
        groups = parameter_groups(self.stage, config)
        self.optimiser = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
        self.schedule = _schedule(self.optimiser, config, [float(group["lr"]) for group in groups])
        self.scaler = torch.amp.GradScaler(device.type, init_scale=256.0, enabled=config.precision == "fp16")
        self.step = 0
        self.seconds = 0.0
        self.problems = 0
        if state is not None:
            self._restore(state)
        self.parallel = self._parallel()

    def _check_overlap(self) -> None:
        """ConfigError for a rig that cannot teach scale; a warning that names cameras that do not help."""
        rig = self.data.entries[0].cameras
        views = self.data.preprocess(rig).views(rig.T_ego_cam)
        overlaps, names = find_overlaps(views, self.config.gsp.overlap), rig.names
        apart = [name for name in names if not any(name in each.names for each in overlaps)]
        if not overlaps:
            raise ConfigError(
                f"scale cannot be learnt: no two of the cameras {', '.join(names)} see the same. Add cameras that do "
                "(tools/inspect_bag.py shows which overlap); or train gsp.cross_weight=0, whose depth is right up to a "
                "factor; or skip stage 1 and take the motion from odometry, stage: gsv with gsv.ego_motion=sensor"
            )
        for each in overlaps if self.processes.first else ():
            _log.info("overlap: %s and %s, %.1f %% of their pixels, %.2f m apart", *each.names, 100 * each.share,
                      each.baseline)  # fmt: skip
        if apart and self.processes.first:
            _log.warning("%s: no overlap with another camera; scale comes from the others", ", ".join(apart))

    # ---- the loop --------------------------------------------------------------------------------------------------

    def execute(self, minutes: float | None = None) -> Path:
        config, deadline = self.config, time.monotonic() + 60.0 * (minutes or float("inf"))
        sampler = EpochSampler(
            len(self.data), config.seed, config.batch_size, config.accumulation, self.processes.rank,
            self.processes.count, self.step,
        )  # fmt: skip
        batches = load_batches(self.data, sampler, config.data.workers)
        if self.overfit_batch:
            batches = _repeat([next(batches) for _ in range(config.accumulation)])
        if self.processes.first:
            _log.info(
                "%s: %d parameters; %d samples, %d steps of %d samples (%.1f epochs) on %s",
                config.stage, sum(p.numel() for p in self.stage.parameters() if p.requires_grad), len(self.data),
                config.steps, sampler.per_step, config.steps / sampler.steps_per_epoch, self.device,
            )  # fmt: skip
        with _Interrupt() as interrupt, self._writers() as (log, board):
            hidden = None if self.processes.first else True  # None: where there is no terminal
            bar = tqdm(total=config.steps, initial=self.step, unit="step", disable=hidden)
            while self.step < config.steps:
                began = time.monotonic()
                micro, waited = self._next(batches)
                named = self._optimise(micro)
                self.step += 1
                self.seconds += time.monotonic() - began
                self._report(named, waited / max(time.monotonic() - began, 1e-9), log, board, bar)
                last = self.step == config.steps
                if board is not None and config.pictures_every and (last or self.step % config.pictures_every == 0):
                    self._show(micro[0], board)
                stopped = self.processes.any(interrupt.wanted or time.monotonic() > deadline, self.device)
                if last or stopped or self.step % config.save_every == 0:
                    self._save()
                if stopped and not last:
                    bar.close()
                    raise TrainingStopped(f"stopped after {self.step} of {config.steps} steps; --resume goes on there")
            bar.close()
        if self.processes.first:
            _log.info(
                "%d steps in %.1f min; peak memory %.2f GB%s", self.step, self.seconds / 60, self.peak_memory_gb(),
                f"; {self.problems} times something was wrong with a sample, as said above" if self.problems else "",
            )  # fmt: skip
        return self.output / "model.safetensors"

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
        before = getattr(self.stage, "before_step", None)
        if before is not None:
            line = before(micro, self.step, config.steps, self.processes.sum)
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

    def _check_finite(self, value: float, batches: Sequence[Batch], what: str) -> None:
        bad = not math.isfinite(value)
        if self.processes.any(bad, self.device):
            tokens = ", ".join(token for batch in batches for token in batch.tokens) if bad else "of another process"
            last = self.output / LAST
            go_on = f"then --resume: {last} holds the last good state" if last.is_file() else "then start anew"
            raise GaussianOccError(
                f"step {self.step + 1}: the {what} is not finite on samples {tokens}. Look at these samples, or lower "
                f"learning_rate, {go_on}"
            )

    def _parallel(self) -> Any:
        if self.processes.count == 1:
            return self.stage
        # Buffers are batch norm's running statistics: every process keeps its own. Torch renamed the argument.
        known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        buffers: dict[str, Any] = {name: False}
        return nn.parallel.DistributedDataParallel(
            self.stage,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            **buffers,
            find_unused_parameters=True,  # a stage has phases in which a network rests
        )

    # ---- what is written -------------------------------------------------------------------------------------------

    def _open_folder(self) -> dict[str, Any] | None:
        """The state to go on from, or None in a new folder."""
        last = self.output / LAST
        if self.resume:
            state = load_state(last)
            theirs, ours = state["config"], _comparable(self.config)
            different = sorted(key for key in ours if theirs.get(key) != ours[key])
            if different:
                raise ConfigError(f"--resume: {last} is of a run with another {', '.join(different)}; use its settings")
            if state["samples_per_step"] != self._per_step():
                raise ConfigError(
                    f"--resume: {last} is of a run with {state['samples_per_step']} samples a step, this one has "
                    f"{self._per_step()}; use as many processes (torchrun --nproc_per_node) as it had"
                )
            return state
        if last.exists() or (self.output / "model.safetensors").exists():
            raise ConfigError(f"output: {self.output} holds a run already; --resume goes on with it, or choose another")
        if self.processes.first:
            try:
                self.output.mkdir(parents=True, exist_ok=True)
                text = yaml.safe_dump(to_dict(self.config), sort_keys=False)
                (self.output / "config.yaml").write_text(text, encoding="utf-8")
                environment = json.dumps(describe_environment(self.device), indent=1)
                (self.output / "environment.json").write_text(environment + "\n", encoding="utf-8")
            except OSError as error:
                raise ConfigError(f"output: cannot write to {self.output} ({error.strerror})") from error
        return None

    @contextlib.contextmanager
    def _writers(self) -> Iterator[tuple[Any, Any]]:
        """metrics.jsonl and TensorBoard, in the first process; a resumed run drops lines after its step."""
        if not self.processes.first:
            yield None, None
            return
        path = self.output / "metrics.jsonl"
        kept = []
        if self.step and path.is_file():
            kept = [line for line in path.read_text().splitlines() if _step_of(line) <= self.step]
        path.write_text("".join(f"{line}\n" for line in kept))
        board = _open_board(self.output)
        try:
            with path.open("a", buffering=1, encoding="utf-8") as log:
                try:
                    yield log, board
                finally:
                    if board is not None:
                        board.close()
        except OSError as error:
            saved = (
                f"{self.output / LAST} holds the last save" if (self.output / LAST).is_file() else "nothing is saved"
            )
            raise GaussianOccError(
                f"{self.output}: the run's log cannot be written ({error.strerror or error}); {saved}. Free some "
                "space, then --resume"
            ) from error

    def _report(self, named: dict[str, float], waiting: float, log: Any, board: Any, bar: Any) -> None:
        if log is None:
            return
        scalars = {name: round(value, 6) for name, value in named.items()}
        log.write(json.dumps({"step": self.step, "s": round(self.seconds, 2), **scalars}) + "\n")
        bar.update(1)
        bar.set_postfix_str(
            " ".join([*(f"{name} {value:.3f}" for name, value in scalars.items()), f"data {100 * waiting:.0f}%"])
        )
        if board is not None and self.step % 10 == 0:
            for name, value in scalars.items():
                board.add_scalar(name, value, self.step)
            board.add_scalar("data_wait", waiting, self.step)
            board.add_scalar("samples_per_s", self._per_step() / max(self.seconds / self.step, 1e-9), self.step)

    def _per_step(self) -> int:
        return self.config.batch_size * self.config.accumulation * self.processes.count

    def _show(self, batch: Batch, board: Any) -> None:
        self.stage.eval()
        for name, picture in training_pictures(self.stage, batch).items():
            board.add_image(name, picture, self.step, dataformats="HWC")
        self.stage.train()

    def _save(self) -> None:
        if not self.processes.first:
            return
        save_state(
            self.output / LAST,
            {
                "config": _comparable(self.config),
                "step": self.step,
                "seconds": self.seconds,
                "problems": self.problems,
                "samples_per_step": self._per_step(),
                "stage": self.stage.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
            },
        )
        provenance = Provenance(
            self.config.note or NOTES[self.config.stage], commit=commit(), seed=self.config.seed, steps=self.step
        )
        try:
            save_stage(self.stage, self.config, self.output / "model.safetensors", provenance)
        except (OSError, SafetensorError) as error:
            raise GaussianOccError(f"{self.output}: the model cannot be written ({error}); free some space") from error

    def _restore(self, state: dict[str, Any]) -> None:
        self.stage.load_state_dict(state["stage"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.problems = state["problems"] if self.processes.first else 0  # they are the first process' alone

    def peak_memory_gb(self) -> float:
        """Of the GPU where there is one, else of this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e9
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


class _Interrupt:
    """Ctrl-C asks the loop to save and stop after the current step; a second one stops at once."""

    wanted = False

    def __enter__(self) -> _Interrupt:
        self._before = signal.signal(signal.SIGINT, self._ask) if _in_main_thread() else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, *_: object) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True


def _in_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()


def _step_of(line: str) -> float:
    """Of a line of metrics.jsonl; a full disk may have left half of one, which belongs to no step."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _repeat(micro: list[Batch]) -> Iterator[Batch]:
    while True:
        yield from micro


def _schedule(optimiser: torch.optim.Optimizer, config: TrainConfig, rates: list[float]) -> Any:
    if config.schedule == "step":
        return torch.optim.lr_scheduler.StepLR(optimiser, max(1, round(config.drop_at * config.steps)), gamma=0.1)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rates, max(config.steps, 2), pct_start=0.1, div_factor=10, final_div_factor=10, cycle_momentum=False
    )


def _open_board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        _log.info("no TensorBoard here: scalars go to metrics.jsonl only; pip install tensorboard shows them live")
        return None
    return SummaryWriter(str(folder / "tensorboard"))


def _comparable(config: TrainConfig) -> dict[str, Any]:
    """What a resumed run must share with the one that it goes on with."""
    data = to_dict(config)
    for free in ("device", "save_every", "pictures_every", "output", "note"):
        data.pop(free)
    data["data"].pop("workers")
    return data


def commit() -> str:
    """Short commit of the working tree that this package lies in; empty for an installed one."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def describe_environment(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "gaussianocc": __version__, "commit": commit(), "python": platform.python_version(),
        "torch": torch.__version__, "device": f"{device} ({name})", "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
    }  # fmt: skip
