# SPDX-License-Identifier: Apache-2.0
"""Labels of all recordings of a source, in one process or several; goes on where it was interrupted."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gaussianocc_core.bounded import open_file
from gaussianocc_core.checkpoint import find_weights
from gaussianocc_core.data.entries import labels_path
from gaussianocc_core.data.sources import Entry
from gaussianocc_core.labels import CLASS_NAMES, FREE
from gaussianocc_core.mapping.entries import Recordings
from gaussianocc_core.mapping.label_files import LabelFolder, SceneCounts, write_labels
from gaussianocc_core.mapping.recording import RecordingCarver, RecordingSettings, load_matching
from gaussianocc_core.processes import Outcome, run_all


@dataclass(frozen=True)
class CarveTask:
    """One recording, for a process of its own."""

    scene: str
    entries: tuple[Entry, ...]
    checkpoint: str
    output: Path
    settings: RecordingSettings
    fresh: bool  # labels that are there already are made anew
    threads: int  # of torch; 0: as it is


def carve_recording(task: CarveTask, on_step: Callable[[int], object]) -> SceneCounts:
    """Writes the labels of a recording; on_step is told of every set whose turn was."""
    if task.threads:
        import torch

        torch.set_num_threads(task.threads)
    loaded = load_matching(task.checkpoint, task.settings.size)
    if task.fresh:
        shutil.rmtree(task.output / task.scene, ignore_errors=True)
    done = frozenset(
        entry.token for entry in task.entries if labels_path(task.output, task.scene, entry.token).is_file()
    )
    carver = RecordingCarver(loaded, task.entries, task.scene, task.settings, done)
    for labels in carver:
        if labels is not None:
            write_labels(task.output, task.scene, labels)
            carver.counts.add(labels, FREE)
        on_step(1)
    return carver.counts


def carve_all(
    recordings: Recordings,
    scenes: Sequence[str],
    checkpoint: str | Path,
    output: Path,
    settings: RecordingSettings,
    *,
    overwrite: bool = False,
    jobs: int = 1,
    on_total: Callable[[int], object] = lambda total: None,
    on_step: Callable[[int], object] = lambda steps: None,
) -> Iterator[Outcome]:
    """One outcome for each recording that is not done yet, its result the SceneCounts; `carved.json` is kept up to
    date.

    on_total: told of the number of sets, once. ConfigError where the folder holds labels of other settings.
    """
    loaded = load_matching(checkpoint, settings.size)
    folder = LabelFolder(output, loaded.config.grid, describe(recordings, checkpoint, settings), overwrite)
    waiting = [name for name in scenes if name not in folder.scenes]
    found = {name: recordings.entries(name) for name in waiting}
    on_total(sum(len(entries) for entries in found.values()))
    folder.save()
    threads = 1 if jobs > 1 else 0

    def prepare(name: str) -> CarveTask:
        fresh = overwrite or not folder.resumed
        return CarveTask(name, found[name], str(checkpoint), output, settings, fresh, threads)

    for outcome in run_all(carve_recording, waiting, prepare, jobs, on_step):
        if not outcome.error:
            folder.finish(outcome.name, outcome.result)
        yield outcome


def describe(recordings: Recordings, checkpoint: str | Path, settings: RecordingSettings) -> dict[str, Any]:
    """What carved.json says of a run, beside the grid and the scenes."""
    weights = find_weights(checkpoint)
    with open_file(weights) as file:
        digest = hashlib.sha256()
        for part in iter(partial(file.read, 1 << 20), b""):
            digest.update(part)
    depth = settings.depth
    until = dict(recordings.options.until_ns)
    return {
        **({"until_ns": until} if until else {}),
        "frame": "ego frame of the anchor camera's image",
        "classes": list(CLASS_NAMES),
        "free": FREE,
        "unknown": 255,
        "checkpoint": {"name": weights.name, "sha256": digest.hexdigest()},
        "source": {"schema": recordings.schema, "moments": recordings.options.moments},
        "motion": settings.motion,
        **({"size": list(settings.size)} if settings.size else {}),
        "depth": "matched" if depth is None else {"folder": depth.path.name, "error": depth.error},
        "settings": {
            "least_sets": settings.least_sets,
            "least_way": settings.least_way,
            "match": asdict(settings.match),
            "carve": asdict(settings.carve),
        },
    }


__all__ = ["CarveTask", "carve_all", "carve_recording", "describe"]
