# SPDX-License-Identifier: Apache-2.0
"""A rosbag2 opened as one, whatever its metadata.yaml says: what it holds is counted where it lies, in its files.

metadata.yaml is written last, by many recorders, and edited by people. It says which files belong together and how
topics are to be offered; where it disagrees with them about what they hold, they are right and `problems` says so.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, suppress
from datetime import datetime, timezone
from heapq import merge
from pathlib import Path, PurePath
from shlex import quote
from tempfile import gettempdir
from typing import Any

from gaussianocc_core.bags.typestore import import_rosbags
from gaussianocc_core.bags.unpacking import unpack_file, unpack_zstd
from gaussianocc_core.bounded import read_text
from gaussianocc_core.errors import BagError
from gaussianocc_core.files import make_hidden_folder
from gaussianocc_core.mistakes import reason_of
from gaussianocc_core.names import shorten, topic_fault
from gaussianocc_core.yaml_text import METADATA_BYTES, METADATA_NODES, parse_yaml

METADATA = "metadata.yaml"
_FILE = re.compile(r"(?P<stem>.+?)(_(?P<number>\d+))?(?P<kind>\.mcap|\.db3)(\.zstd)?$")
_ZSTD = b"\x28\xb5\x2f\xfd"
_YEAR_2000_NS = 946_684_800_000_000_000  # before it: a clock that nobody had set yet
_NOTABLE_NS = 100_000_000  # by which metadata.yaml may be wrong about the span before it is worth a word
_END_NS = 2**63 - 1


def is_static_tf(topic: str) -> bool:
    """Whether it holds static transforms, of a robot in a namespace too."""
    return topic.rpartition("/")[2] == "tf_static"


def unlatched_static_tf(bag: OpenBag) -> tuple[str, ...]:
    """Topics of static transforms that the recording offers to those only who listen already."""

    def latched(connection: Any) -> bool:
        return any(each.durability.name == "TRANSIENT_LOCAL" for each in connection.ext.offered_qos_profiles or ())

    return tuple(each.topic for each in bag.connections if is_static_tf(each.topic) and not latched(each))


def is_container(path: Path) -> bool:
    """By its name: an MCAP file or a database, compressed or not."""
    return _FILE.match(path.name) is not None and path.is_file()


def splits(folder: Path) -> dict[str, list[Path]]:
    """The files of a folder by recording: NAME_0.mcap, NAME_1.mcap ... are one, in that order.

    Of a file that lies there compressed as well, the plain one is taken.
    """
    files = sorted(each for each in folder.iterdir() if is_container(each))
    found: dict[str, dict[tuple[int, str], Path]] = {}
    for file in files:
        match = _FILE.match(file.name)
        assert match is not None
        number = -1 if match["number"] is None else int(match["number"])
        key = match["stem"] + match["kind"]
        found.setdefault(key, {}).setdefault((number, file.name.removesuffix(".zstd")), file)
    return {key: [parts[number] for number in sorted(parts)] for key, parts in found.items()}


def siblings(file: Path) -> list[Path]:
    """The other splits of the recording that a file is one of."""
    recording = next((files for files in splits(file.parent).values() if file in files), [])
    return [each for each in recording if each != file]


def bag_files(path: Path) -> list[Path]:
    """Every file that decides what a bag holds."""
    if path.is_file():
        logs = [log for log in (path.with_name(f"{path.name}-wal"),) if log.is_file()]
        return [path, *logs, *siblings(path)]
    suffixes = (".mcap", ".db3", ".yaml", ".zstd", ".db3-wal")
    return sorted(each for each in path.iterdir() if each.suffix in suffixes)


class OpenBag:
    """One bag: `connections` are its topics, one per topic and type whatever their QoS, counts those of the files.

    Log times in ns. `first_time` is that of the very first message, `start_time` that of the first after the clock was
    set, `end_time` lies after the last.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        self._stack = ExitStack()
        self._files: list[Any] = []
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        with suppress(Exception):  # whatever state its files are in
            self._stack.close()

    # ---- what it holds ---------------------------------------------------------------------------------------------

    def _open(self) -> None:
        metadata = None if self.path.is_file() else self._read_metadata()
        files = [self.path] if self.path.is_file() else self._choose(metadata)
        failures = []
        for file in files:
            try:
                self._files.append(self._open_file(file))
            except Exception as error:  # rosbags raises what its storage libraries raise
                hint = (
                    f"; it was cut off: tools/inspect_bag.py {quote(str(file))} --recover NEW_BAG saves what is there"
                )
                failures.append(f"{file.name} cannot be read: {reason_of(error)}{hint if looks_cut_off(file) else ''}")
        if failures and not self._files:
            raise BagError("; ".join(failures))
        self.problems += failures
        self._files.sort(key=lambda each: each.start_time)
        self._merge_connections(metadata)
        self.message_count = sum(each.msgcount for each in self.connections)
        filled = [each for each in self._files if each.end_time]
        self.first_time = min((each.start_time for each in filled), default=_END_NS)
        self.end_time = max((each.end_time for each in filled), default=0)
        self.start_time = self._after_the_clock_was_set()
        self.duration = max(0, self.end_time - self.start_time)
        if metadata is not None and self.message_count:
            self._compare(metadata)

    def _read_metadata(self) -> dict[str, Any] | None:
        file = self.path / METADATA
        if not file.is_file():
            return None
        try:
            document = parse_yaml(read_text(file, METADATA_BYTES), METADATA, BagError, METADATA_BYTES, METADATA_NODES)
            information = document["rosbag2_bagfile_information"]
            names = information["relative_file_paths"]
            if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
                raise ValueError("it names no files")
            return information
        except (BagError, OSError, KeyError, TypeError, ValueError) as error:
            reason = reason_of(error)[:160]
            self.problems.append(f"{METADATA} is damaged ({reason}); the files beside it are read without it")
            return None

    def _choose(self, metadata: dict[str, Any] | None) -> list[Path]:
        beside = [file for files in splits(self.path).values() for file in files]
        if metadata is None:
            if not beside:
                raise BagError("there is no .mcap or .db3 file in it")
            return beside
        found, missing = [], []
        for name in metadata["relative_file_paths"]:
            plain = self.path / PurePath(name).name
            ways = (plain, plain.with_name(f"{plain.name}.zstd"), plain.with_name(plain.name.removesuffix(".zstd")))
            file = next((each for each in ways if each.is_file()), None)
            if file is None:
                missing.append(plain.name)
            else:
                found.append(file)
        if not found:
            raise BagError(f"its files are missing: {', '.join(missing)}")
        if missing:
            self.problems.append(f"its files {', '.join(missing)} are missing; what they held is not here")
        plain_names = {file.name.removesuffix(".zstd") for file in found}
        others = [file.name for file in beside if file.name.removesuffix(".zstd") not in plain_names]
        if others:
            self.problems.append(
                f"{', '.join(others)} lie beside and are not read, because {METADATA} does not name them; "
                "ros2 bag reindex, or move it away"
            )
        return found

    def _open_file(self, file: Path) -> Any:
        from gaussianocc_core.bags.containers import open_container

        if file.suffix == ".zstd":
            file = self._decompress(file)
        opened = open_container(file)
        self._stack.callback(opened.close)
        return opened

    def _decompress(self, file: Path) -> Path:
        # As outputs are made: what a process left that was killed, which may be gigabytes, is removed by the next one.
        folder = make_hidden_folder(Path(gettempdir()) / "gaussianocc_unpacked")
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        target = folder / file.stem
        unpack_file(file, target)
        return target

    def _merge_connections(self, metadata: dict[str, Any] | None) -> None:
        """One connection for each topic and type; offered as metadata.yaml says, which is where people mend it."""
        from gaussianocc_core.bags.containers import parse_profiles

        profiles: dict[tuple[Any, Any], Any] = {}
        for each in _entries(metadata):
            about = each["topic_metadata"]
            profiles[about.get("name"), about.get("type")] = parse_profiles(about.get("offered_qos_profiles"))
        merged: dict[tuple[str, str], Any] = {}
        for file in self._files:
            for connection in file.connections:
                fault = topic_fault(connection.topic) or topic_fault(connection.msgtype)
                if fault:  # names are shown, and become those of cameras
                    what = f"{shorten(connection.topic)} of type {shorten(connection.msgtype)}"
                    self.problems.append(f"the topic {what} is not read: {fault}")
                    continue
                coding = connection.ext.serialization_format
                if coding != "cdr":
                    self.problems.append(f"{connection.topic} is not read: its messages are {shorten(coding)}, not CDR")
                    continue
                key = connection.topic, connection.msgtype
                before = merged.get(key)
                if before is None:
                    offered = profiles.get(key) or connection.ext.offered_qos_profiles
                    ext = connection.ext._replace(offered_qos_profiles=offered)
                    merged[key] = connection._replace(id=len(merged) + 1, ext=ext, owner=self)
                else:
                    merged[key] = before._replace(msgcount=before.msgcount + connection.msgcount)
        self.connections = list(merged.values())

    def _after_the_clock_was_set(self) -> int:
        if not self.first_time < _YEAR_2000_NS < self.end_time:
            return self.first_time
        early = sum(1 for _ in self.messages(stop=_YEAR_2000_NS, on_damage=_ignore))
        start = next((log_ns for _, log_ns, _ in self.messages(start=_YEAR_2000_NS, on_damage=_ignore)), None)
        if start is None:
            return self.first_time
        self.problems.append(
            f"{early} messages were logged at {format_time(self.first_time)} and later, before the clock was set; "
            f"time is counted from {format_time(start)}, where the others begin"
        )
        return start

    def _compare(self, metadata: dict[str, Any]) -> None:
        stored: dict[str, int] = {}
        for each in self.connections:
            stored[each.topic] = stored.get(each.topic, 0) + each.msgcount
        wrong = []
        for each in _entries(metadata):
            topic, count = each["topic_metadata"].get("name"), each.get("message_count")
            if isinstance(count, int) and count != stored.get(topic, 0):
                wrong.append(f"{topic} {stored.get(topic, 0)} of {count}")
        if wrong:
            self.problems.append(f"{METADATA} counts other messages than its files hold: {', '.join(wrong)}")
        try:
            start = int(metadata["starting_time"]["nanoseconds_since_epoch"])
            end = start + int(metadata["duration"]["nanoseconds"])
        except (KeyError, TypeError, ValueError):
            return
        if max(abs(start - self.first_time), abs(end - self.end_time)) > _NOTABLE_NS:
            self.problems.append(
                f"{METADATA} says {(end - start) * 1e-9:.1f} s from {format_time(start)}, its files hold "
                f"{(self.end_time - self.first_time) * 1e-9:.1f} s from {format_time(self.first_time)}; all of it is "
                "read, other tools may not: ros2 bag reindex"
            )

    # ---- reading ---------------------------------------------------------------------------------------------------

    @property
    def topics(self) -> list[str]:
        return sorted({each.topic for each in self.connections})

    def messages(
        self,
        connections: Collection[Any] | None = None,
        start: int | None = None,
        stop: int | None = None,
        on_damage: Callable[[int, str], None] | None = None,
    ) -> Iterator[tuple[Any, int, bytes]]:
        """Connection, log time and CDR of what was logged in [start, stop), in order of log time over all files.

        connections: of `self.connections`; None: all. on_damage: called with the log time near which something cannot
        be read and why, and the rest is read; None: whatever the storage library raises.
        """
        wanted = {
            (each.topic, each.msgtype): each for each in (self.connections if connections is None else connections)
        }
        chosen = [
            file
            for file in self._files
            if (stop is None or file.start_time < stop) and (start is None or start < file.end_time)
        ]
        for together in _overlapping(chosen):
            streams = [_of_file(file, wanted, start, stop, on_damage) for file in together]
            yield from streams[0] if len(streams) == 1 else merge(*streams, key=lambda each: each[1])


def open_bag(path: Path) -> OpenBag:
    """A folder with metadata.yaml or with the splits of one recording, or a file. BagError says what it needs."""
    import_rosbags()
    if not path.exists():
        raise BagError(f"{path} does not exist; give a rosbag2 folder, an .mcap or a .db3 file")
    try:
        return OpenBag(path)
    except Exception as error:  # rosbags raises what its storage libraries raise
        raise BagError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def looks_cut_off(file: Path) -> bool:
    """Whether an MCAP has no end."""
    if file.suffix != ".mcap":
        return False
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - 8))
        return stream.read() != b"\x89MCAP0\r\n"


def format_time(log_ns: int) -> str:
    """2026-11-30 08:15:00 (UTC); of a time that no calendar has, its seconds."""
    try:
        return datetime.fromtimestamp(log_ns // 1_000_000_000, tz=timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return f"{log_ns * 1e-9:.0f} s"


def _entries(metadata: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The topics of metadata.yaml, as far as they can be made out."""
    entries = (metadata or {}).get("topics_with_message_count") or []
    return [each for each in entries if isinstance(each, dict) and isinstance(each.get("topic_metadata"), dict)]


def _overlapping(files: Iterable[Any]) -> Iterator[list[Any]]:
    """Files in order of their start, those together that share a span."""
    group: list[Any] = []
    end = 0
    for file in files:
        if group and file.start_time >= end:
            yield group
            group = []
        group.append(file)
        end = max(end, file.end_time)
    if group:
        yield group


def _of_file(
    file: Any, wanted: dict[tuple[str, str], Any], start: int | None, stop: int | None, on_damage: Any
) -> Iterator[tuple[Any, int, bytes]]:
    own = [each for each in file.connections if (each.topic, each.msgtype) in wanted and each.msgcount]
    if not own:
        return
    for connection, log_ns, data in file.messages(own, start, stop, on_damage):
        # Compressed message by message: no CDR begins so.
        plain = unpack_zstd(data) if data[:4] == _ZSTD else data
        yield wanted[connection.topic, connection.msgtype], log_ns, plain


def _ignore(log_ns: int, reason: str) -> None:
    pass
