# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: what it holds, who may go on with it, and what a full disk leaves."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import platform
import resource
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError

from gaussianocc_core import __version__
from gaussianocc_core.bounded import read_json
from gaussianocc_core.checkpoint import Provenance, load_depth_net
from gaussianocc_core.config import drop_retired, to_dict
from gaussianocc_core.errors import CheckpointError, ConfigError, GaussianOccError
from gaussianocc_core.mistakes import reading
from gaussianocc_core.training.board import Board
from gaussianocc_core.training.config import TrainConfig
from gaussianocc_core.training.distributed import job_id
from gaussianocc_core.training.stage import Stage
from gaussianocc_core.training.stages import save_stage
from gaussianocc_core.training.state import LAST, load_state, save_state

_log = logging.getLogger(__name__)
ENVIRONMENT, MEASURES = "environment.json", "measures.json"
START, TRAINED = "start.safetensors", "trained.safetensors"
_IN_PLACE = ("config.yaml", ENVIRONMENT, "metrics.jsonl", MEASURES)  # the other files are replaced


@dataclass(frozen=True)
class Logs:
    """Where scalars go; nowhere in processes but the first."""

    metrics: Any = None  # metrics.jsonl, open
    board: Board | None = None


class RunFolder:
    """config.yaml, environment.json, metrics.jsonl, measures.json, last.pt, model.safetensors and TensorBoard events of
    one run; start.safetensors of one that goes on from weights, trained.safetensors where these were better."""

    def __init__(self, config: TrainConfig, samples_per_step: int) -> None:
        self.config, self.samples_per_step = config, samples_per_step
        self.path = Path(config.output)
        self.model = self.path / "model.safetensors"

    def load(self) -> dict[str, Any]:
        """The state to go on from; ConfigError if it is of a run with other settings."""
        last = self.path / LAST
        self._check_outputs()
        state = load_state(last)
        ours = _comparable(to_dict(self.config))
        with reading(f"{last}: its config", "start the run anew", CheckpointError):
            theirs = _comparable(drop_retired(TrainConfig, state["config"], str(last)))
        if ours["steps"] > theirs.get("steps", 0) >= state["step"]:
            theirs["steps"] = ours["steps"]  # it goes on for longer
        different = sorted(key for key in ours if theirs.get(key) != ours[key])
        if different:
            raise ConfigError(f"--resume: {last} is of a run with another {', '.join(different)}; use its settings")
        if state["samples_per_step"] != self.samples_per_step:
            raise ConfigError(
                f"--resume: {last} is of a run with {state['samples_per_step']} samples a step, this one has "
                f"{self.samples_per_step}; use as many processes (torchrun --nproc_per_node) as it had"
            )
        return state

    def check_free(self) -> None:
        """ConfigError if there is a run in it already."""
        if (self.path / LAST).exists() or self.model.exists():
            raise ConfigError(f"output: {self.path} holds a run already; --resume goes on with it, or choose another")

    def _check_outputs(self) -> None:
        """ConfigError where what is written in place is no file: the folder may have come from somebody, whose links
        would be followed, and pipes waited for."""
        for name in _IN_PLACE:
            path = self.path / name
            if path.is_symlink() or (path.exists() and not path.is_file()):
                raise ConfigError(f"output: {path} is a link, or no file; it is not written to. Remove it")

    def begin(self, device: torch.device) -> None:
        """Makes the folder and says in it what runs where."""
        self._check_outputs()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(to_dict(self.config), sort_keys=False)
            (self.path / "config.yaml").write_text(text, encoding="utf-8")
            environment = json.dumps({**describe_environment(device), "job": job_id()}, indent=1)
            (self.path / ENVIRONMENT).write_text(environment + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"output: cannot write to {self.path} ({error.strerror})") from error

    def is_of_this_job(self) -> bool:
        """Whether there is a state to go on from, and this start of torchrun began the run."""
        try:
            begun = json.loads((self.path / ENVIRONMENT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        ours = job_id()
        return bool(ours) and isinstance(begun, dict) and begun.get("job") == ours and (self.path / LAST).is_file()

    @contextlib.contextmanager
    def open_logs(self, step: int) -> Iterator[Logs]:
        """Lines of metrics.jsonl after this step, of a run that was interrupted later, are dropped."""
        path = self.path / "metrics.jsonl"
        kept = []
        if step and path.is_file():
            kept = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
        path.write_text("".join(f"{line}\n" for line in kept))
        board = Board(self.path)
        try:
            with path.open("a", buffering=1, encoding="utf-8") as log:
                try:
                    yield Logs(log, board)
                finally:
                    board.close()
        except OSError as error:
            saved = f"{self.path / LAST} holds the last save" if (self.path / LAST).is_file() else "nothing is saved"
            raise GaussianOccError(
                f"{self.path}: the run's log cannot be written ({error.strerror or error}); {saved}. Free some "
                "space, then --resume"
            ) from error

    def measured_at_start(self) -> tuple[dict[str, float], dict[str, list[float]]]:
        """What measures.json holds of the start of the run: means, and the values of the samples."""
        with reading(f"{self.path / MEASURES}: its measures", "remove it, then --resume", GaussianOccError):
            found = self._measures()
            means = {str(name): float(value) for name, value in found.get("start", {}).items()}
            samples = {
                str(name): [math.nan if value is None else float(value) for value in values]
                for name, values in found.get("start_samples", {}).items()
            }
        return means, samples

    def _measures(self) -> dict[str, Any]:
        path = self.path / MEASURES
        return dict(read_json(path)) if path.is_file() else {}

    def add_measures(self, found: dict[str, Any]) -> None:
        """Adds to measures.json what was measured at the start or end of the run; NaN becomes null."""
        path = self.path / MEASURES
        try:
            text = json.dumps(_without_nan({**self._measures(), **found}), indent=1)
            path.write_text(text + "\n", encoding="utf-8")
        except (OSError, ValueError) as error:
            raise GaussianOccError(f"{path}: cannot be written ({error}); free some space, then --resume") from error

    def save_start(self, stage: Stage) -> None:
        """start.safetensors: the weights that the run begins with, for the case that it makes them worse."""
        theirs = load_depth_net(self.config.first_stage).provenance
        note = f"{theirs.training}; kept as they were: training went on and made them worse"
        self._save_model(stage, self.path / START, replace(theirs, training=note))

    def keep_start(self) -> str:
        """Puts the weights that the run began with in the place of those that it made; what was done, for the log."""
        start, trained = self.path / START, self.path / TRAINED
        if not start.is_file():
            return ""
        try:
            os.replace(self.model, trained)
            shutil.copyfile(start, self.model)
        except OSError as error:
            raise GaussianOccError(
                f"{self.model}: cannot be written ({error}); {start} holds what it should"
            ) from error
        return f"{self.model} holds those that it began with, {trained.name} the trained ones"

    def save(self, stage: Stage, state: dict[str, Any]) -> None:
        """last.pt, and the model file. state: of what else learns, and `step`."""
        whole = {"config": to_dict(self.config), "samples_per_step": self.samples_per_step, "stage": stage.state_dict()}
        save_state(self.path / LAST, {**whole, **state})
        provenance = Provenance(
            self.config.note or stage.note, commit=commit(), seed=self.config.seed, steps=state["step"]
        )
        self._save_model(stage, self.model, provenance)

    def _save_model(self, stage: Stage, path: Path, provenance: Provenance) -> None:
        try:
            save_stage(stage, self.config, path, provenance)
        except (OSError, SafetensorError) as error:
            raise GaussianOccError(f"{self.path}: the model cannot be written ({error}); free some space") from error


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _comparable(config: dict[str, Any]) -> dict[str, Any]:
    """What a resumed run must share with the one that it goes on with."""
    free = ("device", "save_every", "pictures_every", "output", "note", "keep_better")
    data = {key: value for key, value in config.items() if key not in free}
    data["data"] = {key: value for key, value in data["data"].items() if key != "workers"}
    if data["stage"] == "joint":  # another name of stage=gsv with gsv.ego_motion=joint, once
        data["stage"] = "gsv"
    return data


def _step_of(line: str) -> float:
    """Of a line of metrics.jsonl; a full disk may have left half of one, which belongs to no step."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


# ---- the machine ---------------------------------------------------------------------------------------------------


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
        "gaussianocc": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": f"{device} ({name})",
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
    }


def peak_memory_gb(device: torch.device) -> float:
    """Of the GPU where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
