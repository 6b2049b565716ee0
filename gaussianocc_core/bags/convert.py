# SPDX-License-Identifier: Apache-2.0
"""Recordings of any data set -> one bag each, many at a time; what is finished is left alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from shlex import quote
from typing import Protocol, runtime_checkable

from gaussianocc_core.bags.check import BagCheck, check_bag, find_differences, read_metadata
from gaussianocc_core.bags.schema import BagRig, PoseRecord, Record
from gaussianocc_core.bags.writer import BagReport, refuse_existing, write_bag
from gaussianocc_core.errors import BagError, DatasetError, GaussianOccError
from gaussianocc_core.files import discard_hidden_folder
from gaussianocc_core.names import check_names
from gaussianocc_core.processes import Outcome, run_all

# What a recording's provenance says of its parts; not yes and no, which half of all YAML readers take for booleans.
INCLUDED, LEFT_OUT = "included", "left out"


@runtime_checkable
class Recording(Protocol):
    """What a data set offers for one bag. Small and picklable: a worker process reads the files."""

    @property
    def name(self) -> str: ...

    @property
    def provenance(self) -> dict[str, str]:
        """Source, scene and options, kept in the bag: a bag with the same ones needs no second writing."""

    @property
    def files(self) -> int:
        """How many records, poses aside, `records` gives."""

    def open_rig(self) -> BagRig: ...

    def records(self) -> Iterator[Record]: ...

    def count_messages(self) -> dict[str, int]:
        """By topic, without opening files."""


def write_recording(
    recording: Recording,
    path: Path,
    *,
    storage: str = "mcap",
    overwrite: bool = False,
    on_record: Callable[[Record], None] | None = None,
) -> BagReport:
    """One recording as one bag."""
    return write_bag(
        path,
        recording.open_rig(),
        recording.records(),
        storage=storage,
        overwrite=overwrite,
        provenance=recording.provenance,
        on_record=on_record,
    )


@dataclass(frozen=True)
class Finished:
    """A bag that was there already."""

    path: Path
    messages: int


def describe(result: BagReport | Finished) -> str:
    """For the terminal, with the commands that come next."""
    if isinstance(result, Finished):
        return f"{result.path.name}: {result.path} is complete ({result.messages} messages), skipped"
    megabytes, path = result.bytes / 1e6, quote(str(result.path))  # scenes are named by strangers
    return (
        f"{result.path.name}: {result.messages} messages, {megabytes:.1f} MB in {result.seconds:.1f} s "
        f"({megabytes / result.seconds:.0f} MB/s)\n"
        f"  play it:  ros2 bag play {path} --clock\n"
        f"  or:       python -m gaussianocc_ros.bag_player {path} --clock"
    )


def convert_all(
    names: Sequence[str],
    open_recording: Callable[[str], Recording],
    output: Path,
    *,
    storage: str = "mcap",
    overwrite: bool = False,
    jobs: int = 1,
    on_total: Callable[[int], object] | None = None,
    on_step: Callable[[int], object] | None = None,
) -> Iterator[Outcome]:
    """Write the bags OUTPUT/name, `jobs` at a time; each outcome's result is a BagReport, or Finished.

    Before anything is written, BagError where a bag is in the way that was made otherwise, or is no bag of ours. A
    bag appears when it is complete; an interrupt leaves those that were complete, and nothing else.
    on_total: gets the number of files to read. on_step: gets how many were read since.
    """
    check_names(names, "scene", DatasetError)
    finished, todo, files = _plan(names, open_recording, output, storage, overwrite)
    if on_total:
        on_total(files)
    yield from (Outcome(each.path.name, each) for each in finished)
    before = {name: _hidden(output, name) for name in todo}

    def prepare(name: str) -> _Task:
        return _Task(open_recording(name), output / name, storage, overwrite)

    try:
        yield from run_all(_convert, todo, prepare, jobs, on_step)
    finally:  # a process that was killed, by the system or after an interrupt, could not tidy up
        for name in todo:
            for folder in _hidden(output, name) - before[name]:
                discard_hidden_folder(output / name, folder)


def verify_all(
    names: Sequence[str],
    open_recording: Callable[[str, Mapping[str, str]], Recording],
    output: Path,
    *,
    jobs: int = 1,
    on_step: Callable[[int], object] | None = None,
) -> tuple[BagCheck, ...]:
    """Compare the bags OUTPUT/name with their sources.

    open_recording: also gets what the bag says about its making, so that the same options are compared.
    """

    check_names(names, "scene", DatasetError)

    def prepare(name: str) -> _Task:
        bag = read_metadata(output / name)
        return _Task(open_recording(name, bag.provenance), bag.path, bag.storage, False)

    outcomes = {outcome.name: outcome for outcome in run_all(_verify, names, prepare, jobs, on_step)}
    return tuple(
        BagCheck(name, 0, 0, (("counts", outcomes[name].error),)) if outcomes[name].error else outcomes[name].result
        for name in names
    )


# ---- parts ---------------------------------------------------------------------------------------------------------


def _plan(
    names: Sequence[str], open_recording: Callable[[str], Recording], output: Path, storage: str, overwrite: bool
) -> tuple[list[Finished], list[str], int]:
    """What is there, what is to be written, and how many files that means to read."""
    finished, todo, files, errors = [], [], 0, []
    for name in names:
        path = output / name
        try:
            recording = open_recording(name)
        except GaussianOccError as error:
            errors.append(error)
            if path.exists() and overwrite:
                refuse_existing(path, overwrite)
            todo.append(name)  # where it fails again, and is reported with the others
            continue
        if path.exists() and not overwrite:
            finished.append(Finished(path, _check_finished(path, recording, storage)))
        else:
            refuse_existing(path, overwrite)
            todo.append(name)
            files += recording.files
    if errors and len(errors) == len(names):
        raise errors[0]
    return finished, todo, files


def _check_finished(path: Path, recording: Recording, storage: str) -> int:
    """Messages of a bag that is what the recording would give; BagError says what differs."""
    if not (path / "metadata.yaml").is_file():
        raise BagError(f"{path} exists and is no bag (no metadata.yaml); remove it or choose another output folder")
    bag = read_metadata(path)
    differences = find_differences(bag, recording.provenance, recording.count_messages())
    if bag.storage != storage:
        differences.insert(0, f"storage was {bag.storage}, now {storage}")
    if differences:
        more = f" and {len(differences) - 3} more differences" if len(differences) > 3 else ""
        raise BagError(
            f"{path} exists already and differs from what was asked for: {'; '.join(differences[:3])}{more}; "
            "replace it by --overwrite, or choose another output folder"
        )
    return sum(bag.counts.values())


@dataclass(frozen=True)
class _Task:
    recording: Recording
    path: Path
    storage: str
    overwrite: bool


def _counter(on_step: Callable[[int], object]) -> Callable[[Record], None]:
    def count(record: Record) -> None:
        if not isinstance(record, PoseRecord):
            on_step(1)

    return count


def _convert(task: _Task, on_step: Callable[[int], object]) -> BagReport:
    return write_recording(
        task.recording, task.path, storage=task.storage, overwrite=task.overwrite, on_record=_counter(on_step)
    )


def _verify(task: _Task, on_step: Callable[[int], object]) -> BagCheck:
    return check_bag(task.path, task.recording.open_rig(), task.recording.records(), _counter(on_step))


def _hidden(output: Path, name: str) -> set[Path]:
    return set(output.glob(f".{escape(name)}.partial-*"))
