# SPDX-License-Identifier: Apache-2.0
"""`last.pt`: all that a run needs to go on exactly where it was; written atomically, read without unpickling code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gaussianocc_core.errors import CheckpointError
from gaussianocc_core.files import complete_file
from gaussianocc_core.mistakes import reason_of
from gaussianocc_core.torch_files import load_plain

FORMAT = "gaussianocc-training/1"
LAST = "last.pt"
NEEDED = ("config", "samples_per_step", "stage", "optimiser", "schedule", "scaler", "step", "seconds", "problems")


def save_state(path: Path, state: dict[str, Any]) -> None:
    """A full disk or Ctrl-C leaves the previous file intact."""
    try:
        with complete_file(path) as partial:
            torch.save({"format": FORMAT, **state}, partial)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise CheckpointError(f"{path}: cannot be written ({error}); free some space, then --resume") from error


def load_state(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path}: nothing to resume; start the run without --resume")
    try:
        state = load_plain(path)
    except Exception as error:  # torch and zipfile raise half a dozen kinds for a damaged file
        raise CheckpointError(
            f"{path}: not a readable training state ({reason_of(error)}); start the run anew"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a training state of this program; start the run anew")
    missing = [key for key in NEEDED if key not in state]
    if missing:
        raise CheckpointError(f"{path}: the training state has no {', '.join(missing)}; start the run anew")
    return state
