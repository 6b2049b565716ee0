# SPDX-License-Identifier: Apache-2.0
"""What a converted bag says of itself, whether it is what a recording would give now, and whether it still is whole."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from gaussianocc_core.bags.encoder import Encoder
from gaussianocc_core.bags.opened import open_bag
from gaussianocc_core.bags.schema import TF_STATIC_TOPIC, TF_TOPIC, BagRig, Record
from gaussianocc_core.bags.writer import CONTENTS_KEY, TopicContents
from gaussianocc_core.bounded import parse_json, read_text
from gaussianocc_core.errors import BagError, GaussianOccError
from gaussianocc_core.mistakes import one_line
from gaussianocc_core.names import check_name
from gaussianocc_core.yaml_text import METADATA_BYTES, METADATA_NODES, parse_yaml

COLUMNS = ("counts", "order", "checksums", "source")


@dataclass(frozen=True)
class StoredBag:
    """A bag's own metadata."""

    path: Path
    storage: str
    files: tuple[Path, ...]
    provenance: dict[str, str]
    counts: dict[str, int]  # messages by topic
    checksums: dict[str, int] | None  # None: written before there were any
    is_compressed: bool = False  # file by file or message by message, which converted bags are not


def read_metadata(path: Path) -> StoredBag:
    """BagError where `path` is no complete bag."""
    metadata = path / "metadata.yaml"
    try:
        text = read_text(metadata, METADATA_BYTES)
        document = parse_yaml(text, str(metadata), BagError, METADATA_BYTES, METADATA_NODES)
        information = document["rosbag2_bagfile_information"]
        custom = {str(key): str(value) for key, value in (information.get("custom_data") or {}).items()}
        contents = parse_json(custom.pop(CONTENTS_KEY, "null").encode())
        return StoredBag(
            path,
            information["storage_identifier"],
            tuple(path / check_name(name, "file", ValueError) for name in information["relative_file_paths"]),
            custom,
            {
                each["topic_metadata"]["name"]: each["message_count"]
                for each in information["topics_with_message_count"]
            },
            None if contents is None else {topic: int(checksum, 16) for topic, (_, checksum) in contents.items()},
            str(information.get("compression_mode") or "none").lower() != "none",
        )
    except OSError as error:
        raise BagError(f"{path} is no bag: cannot read {metadata} ({error.strerror}); convert its scene") from error
    except (BagError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BagError(
            f"{metadata} is damaged ({type(error).__name__}); remove the bag and convert its scene again"
        ) from error


def find_differences(bag: StoredBag, provenance: Mapping[str, str], counts: Mapping[str, int]) -> list[str]:
    """How a bag differs from what its source and options would give now, by its metadata alone; empty: in nothing."""
    differences = [
        f"{name} was {bag.provenance.get(name, 'not recorded')}, now {value}"
        for name, value in provenance.items()
        if bag.provenance.get(name) != value
    ]
    if differences:
        return differences  # other counts follow from them
    missing = [file.name for file in bag.files if not file.is_file()]
    if missing:
        return [f"its file {', '.join(missing)} is missing"]
    return [
        f"{topic} has {bag.counts.get(topic, 0)} messages, its source now gives {counts.get(topic, 0)}"
        for topic in sorted({*bag.counts, *counts})
        if bag.counts.get(topic, 0) != counts.get(topic, 0)
    ]


# ---- reading it all ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BagCheck:
    """The result for one bag."""

    name: str
    topics: int
    messages: int
    faults: tuple[tuple[str, str], ...]  # (column, what)


class _Found:
    """What one topic of a bag turned out to hold."""

    def __init__(self) -> None:
        self.contents = TopicContents()
        self.checksums = array("I")  # of each message
        self.newest_ns = -(2**63)
        self.compared = 0  # messages of the source

    def add(self, log_ns: int, stamp_ns: int, data: bytes) -> str | None:
        """What is wrong with the stamps of the next message."""
        place = len(self.checksums)
        self.contents = self.contents.add(data)
        self.checksums.append(crc32(data))
        before, self.newest_ns = self.newest_ns, log_ns
        if stamp_ns != log_ns:
            return f"message {place} is stamped {stamp_ns} ns, but logged at {log_ns} ns"
        return f"message {place} at {log_ns} ns follows one at {before} ns" if log_ns < before else None


def check_bag(
    path: Path,
    rig: BagRig | None,
    records: Iterable[Record] = (),
    on_record: Callable[[Record], None] | None = None,
) -> BagCheck:
    """Read a bag to its end: counts and checksums against its metadata, stamps, and every message against its source.

    rig, records: what the bag was made from, made into messages again and compared; None: only the bag itself.
    """
    bag = read_metadata(path)
    faults: list[tuple[str, str]] = []
    topics = {name: _Found() for name in bag.counts}
    if bag.is_compressed:  # rosbags would unpack it, however large that is
        raise BagError(
            f"{path} is compressed (metadata.yaml: compression_mode), as converted bags are not; convert again"
        )
    _read_messages(path, topics, faults)
    for name, found in topics.items():
        if found.contents.messages != bag.counts[name]:
            faults.append(("counts", f"{name}: {found.contents.messages} messages, metadata says {bag.counts[name]}"))
        elif bag.checksums is not None and found.contents.checksum != bag.checksums.get(name):
            faults.append(("checksums", f"{name}: its bytes are not those that were written"))
    if bag.checksums is None:
        faults.append(("checksums", "it was written without; convert its scene again"))
    if rig is not None:
        _compare_with_source(topics, rig, records, on_record, faults)
    messages = sum(found.contents.messages for found in topics.values())
    return BagCheck(path.name, len(topics), messages, tuple(faults))


def _read_messages(path: Path, topics: dict[str, _Found], faults: list[tuple[str, str]]) -> None:
    stray: set[str] = set()
    try:
        with closing(open_bag(path)) as reader:
            for connection, log_ns, data in reader.messages():
                found = topics.setdefault(connection.topic, _Found())
                # a TFMessage begins with the number of its transforms
                stamp_ns = _stamp_ns(data, 8 if connection.topic in (TF_TOPIC, TF_STATIC_TOPIC) else 4)
                fault = found.add(log_ns, stamp_ns, data)
                if fault and connection.topic not in stray:  # the first of a topic says enough
                    stray.add(connection.topic)
                    faults.append(("order", f"{connection.topic}: {fault}"))
    except Exception as error:  # rosbags, zstd, SQLite and struct raise their own for damaged bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        faults.append(("counts", f"cannot be read to its end: {reason}; convert its scene again"))


def _stamp_ns(data: bytes, place: int) -> int:
    seconds, nanoseconds = struct.unpack_from("<iI", data, place)
    return seconds * 1_000_000_000 + nanoseconds


def _compare_with_source(
    topics: dict[str, _Found],
    rig: BagRig,
    records: Iterable[Record],
    on_record: Callable[[Record], None] | None,
    faults: list[tuple[str, str]],
) -> None:
    encoder = Encoder(rig)
    wrong: set[str] = set()

    def compare(message, what: str) -> None:
        name = message.topic.name
        found = topics.setdefault(name, _Found())
        place, found.compared = found.compared, found.compared + 1
        if name in wrong:
            return
        if place >= len(found.checksums):
            wrong.add(name)
            faults.append(("source", f"{name}: message {place} of its source is missing ({what})"))
        elif found.checksums[place] != crc32(message.data):
            wrong.add(name)
            faults.append(("source", f"{name}: message {place} is not that of its source ({what})"))

    try:
        for number, record in enumerate(records):
            if number == 0:
                for message in encoder.encode_static(record.stamp_ns):
                    compare(message, "calibration or mask")
            for message in encoder.encode(record):
                compare(message, getattr(record, "source", "") or f"at {record.stamp_ns} ns")
            if on_record:
                on_record(record)
    except GaussianOccError as error:
        faults.append(("source", f"cannot be compared: {error}"))
        return
    for name, found in topics.items():
        if len(found.checksums) > found.compared and name not in wrong:
            extra = len(found.checksums) - found.compared
            faults.append(("source", f"{name}: its last {extra} messages are not in its source"))


def format_checks(checks: Iterable[BagCheck]) -> str:
    """A table, one line per bag; what is wrong stands beneath."""
    checks = list(checks)
    width = max([len(check.name) for check in checks] + [4])
    lines = [f"{'bag':{width}s} topics messages  " + "  ".join(f"{column:9s}" for column in COLUMNS).rstrip()]
    for check in checks:
        bad = {column for column, _ in check.faults}
        good = "ok" if check.topics else "-"
        cells = "  ".join(f"{'WRONG' if column in bad else good:9s}" for column in COLUMNS).rstrip()
        lines.append(f"{check.name:{width}s} {check.topics:6d} {check.messages:8d}  {cells}")
        lines += [f"  {column}: {one_line(what)}" for column, what in check.faults]
    return "\n".join(lines)
