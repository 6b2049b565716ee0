# SPDX-License-Identifier: Apache-2.0
"""How programs start and end. Imports the standard library only: it reports what is not there.

Exit codes of every program: 0 all is done; 1 it ran to its end and what it found is bad (a scene that cannot be read, a
bag that differs); 2 a mistake in what it was told, or a place that cannot be written to, and one line that says what to
do; 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from gaussianocc_core.bags.convert import Recording


def run_tool(main: Callable[[], int]) -> int:
    """The exit status of `main`; 2 and one line instead of a traceback where this Python lacks a library."""
    try:
        return main()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "gaussianocc_core":
            raise  # not the user's installation: a mistake of ours
        tool = Path(sys.argv[0]).name
        sys.stderr.write(
            f"error: {sys.executable} has no module {error.name}; "
            f"run `make setup` once in the repository, then: .venv/bin/python tools/{tool}\n"
        )
        return 2


class _OneLine(logging.Formatter):
    """Messages quote what files say: an escape sequence of theirs is not the terminal's business."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        from gaussianocc_core.mistakes import one_line

        record.message = one_line(record.message)
        return super().formatMessage(record)


def log_to_terminal(level: int = logging.WARNING) -> None:
    """A line on stderr for each message of that level and above; where logging is set up already, nothing."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


class _Plain:
    """A text stream that shows what a terminal would obey: names of files and what files say end up on it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        if not text.isprintable():
            text = "".join(each if each.isprintable() or each in "\n\t" else f"\\x{ord(each):02x}" for each in text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def run_command(command: Callable[[], int], interrupted: str) -> int:
    """The exit status of `command`: a user's mistake is one line and 2, Ctrl-C the line `interrupted` and 130."""
    from gaussianocc_core.errors import GaussianOccError
    from gaussianocc_core.mistakes import one_line

    log_to_terminal()
    try:
        with redirect_stdout(cast(Any, _Plain(sys.stdout))):
            return command()
    except (GaussianOccError, OSError) as error:
        sys.stderr.write(f"error: {one_line(error)}\n")
        return 2
    except MemoryError:
        sys.stderr.write("error: this machine has not the memory that this takes; use a smaller model or fewer jobs\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"{interrupted}\n")
        return 130


# ---- one job of many -----------------------------------------------------------------------------------------------


def add_shard_option(parser: argparse.ArgumentParser) -> None:
    """For job arrays: every job has scenes of its own."""
    parser.add_argument(
        "--shard",
        type=_shard,
        metavar="K/N",
        help="only the Kth of N shares of the scenes (1/N to N/N): for N jobs at once",
    )


def choose_shard(scenes: Sequence[str], shard: tuple[int, int] | None) -> tuple[str, ...]:
    """The scenes of a share; all together they are all of the scenes, each once. It may be empty."""
    if shard is None:
        return tuple(scenes)
    number, count = shard
    chosen = tuple(scenes)[number - 1 :: count]
    sys.stderr.write(f"share {number} of {count}: {len(chosen)} of {len(scenes)} scenes\n")
    return chosen


def _shard(text: str) -> tuple[int, int]:
    number, separator, count = text.partition("/")
    if not (separator and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) <= 100_000):
        raise argparse.ArgumentTypeError(f"expected K/N with K from 1 to N, such as 2/8, got {text[:40]}")
    return int(number), int(count)


# ---- what the converters to bags have in common --------------------------------------------------------------------


def add_bag_options(parser: argparse.ArgumentParser) -> None:
    """Where bags go and how they are written."""
    add = parser.add_argument
    add("--output", type=Path, required=True, help="each scene becomes the bag OUTPUT/NAME")
    add("--storage", choices=("mcap", "sqlite3"), default="mcap", help="rosbag2 storage (%(default)s)")
    add("--overwrite", action="store_true", help="replace bags that exist, once the new one is complete")
    add("--jobs", type=_count, default=1, metavar="N", help="processes that write bags (%(default)s)")
    add_shard_option(parser)
    add("--verify", action="store_true", help="write nothing: compare the bags in OUTPUT with the data set")


def convert_scenes(
    scenes: Sequence[str],
    open_recording: Callable[[str], Recording],
    open_recording_like: Callable[[str, Mapping[str, str]], Recording],
    arguments: argparse.Namespace,
) -> int:
    """Write the bags of the scenes, or with --verify compare them; the exit status.

    open_recording_like: the recording that a bag was made from, by the bag's provenance.
    """
    from tqdm import tqdm

    from gaussianocc_core.bags.check import format_checks
    from gaussianocc_core.bags.convert import convert_all, describe, verify_all
    from gaussianocc_core.mistakes import one_line

    output, jobs, scenes = arguments.output, arguments.jobs, choose_shard(scenes, arguments.shard)
    with tqdm(unit="files", disable=None, leave=False) as bar:  # silent where no terminal is
        if arguments.verify:
            checks = verify_all(scenes, open_recording_like, output, jobs=jobs, on_step=bar.update)
            bar.write(format_checks(checks))
            return int(any(check.faults for check in checks))
        failed = []
        for outcome in convert_all(
            scenes,
            open_recording,
            output,
            storage=arguments.storage,
            overwrite=arguments.overwrite,
            jobs=jobs,
            on_total=bar.reset,
            on_step=bar.update,
        ):
            if outcome.error:
                failed.append(outcome)
            else:
                bar.write(describe(outcome.result))
    for outcome in failed:
        sys.stderr.write(f"error: {one_line(f'{outcome.name}: {outcome.error}')}\n")
    return int(bool(failed))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return int(text)
