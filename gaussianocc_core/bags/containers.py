# SPDX-License-Identifier: Apache-2.0
"""The two kinds of file that a rosbag2 is made of, MCAP and sqlite3, read in whatever state a recorder left them.

Needs rosbags at import: import it where a bag is opened. What cannot be read of a file is handed to `on_damage`, and
the rest is read: of an MCAP a damaged chunk is lost, of a database the next seconds.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Any, cast

import apsw
from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat, Qos
from rosbags.rosbag2.metadata import parse_qos
from rosbags.rosbag2.storage_mcap import ChunkInfo, McapReader, msgsrc

from gaussianocc_core.bags.unpacking import MOST_BYTES
from gaussianocc_core.errors import BagError

Damage = Callable[[int, str], None]  # log time in ns near which something is lost, and why
Message = tuple[Connection, int, bytes]  # connection, log time in ns, CDR

_CHUNK, _MESSAGE = 0x06, 0x05  # MCAP's record types
_SKIP_NS = 2_000_000_000  # of a database, behind a page that cannot be read
_END_NS = 2**63 - 1
_MAGIC_MCAP, _MAGIC_SQLITE = b"\x89MCAP0", b"SQLite format 3\0"
_MAGIC_JOURNAL = bytes.fromhex("d9d505f920a163d7")


def open_container(path: Path) -> McapFile | Sqlite3File:
    """By the file's first bytes, not by its name. BagError, or whatever rosbags and SQLite raise on damaged files."""
    with path.open("rb") as stream:
        magic = stream.read(len(_MAGIC_SQLITE))
    if not magic:
        raise BagError("the file is empty")
    if magic.startswith(_MAGIC_MCAP):
        file: McapFile | Sqlite3File = McapFile(path)
    elif magic == _MAGIC_SQLITE:
        file = Sqlite3File(path)
    else:
        raise BagError(f"it is neither MCAP nor sqlite3: it begins with {magic[:8].hex(' ')}")
    file.open()
    return file


def parse_profiles(text: Any) -> list[Qos]:
    """Offered QoS profiles; text that nobody can read offers none, which is no reason to lose a topic."""
    try:
        return parse_qos(text)
    except Exception:  # rosbags: KeyError, TypeError, ReaderError, what the text makes it stumble over
        return []


class McapFile(McapReader):
    """rosbags' reader, which takes a chunk without message indexes for an empty one, and messages outside of chunks
    only if they lie in order. Here both are found by one look at the records' headers."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._plain: list[tuple[int, int, int, int]] = []  # outside of chunks: log time, channel, place, bytes

    def open(self) -> None:
        super().open()
        if not self.chunks:
            self._look_at_records()
        everything = dict.fromkeys(self.channels, 1)
        for chunk in self.chunks:
            if not chunk.channel_count:  # which channels it has nobody wrote down
                chunk.channel_count.update(everything)
        if not self.metadata.message_count and (self.chunks or self._plain):
            self.meta_scan()
            assert self.statistics is not None
            counts, count = self.statistics.channel_message_counts, self.statistics.message_count
            self.connections[:] = [each._replace(msgcount=counts.get(each.id, 0)) for each in self.connections]
            start, end = self.statistics.start_time, self.statistics.end_time + 1
            if count:
                self.metadata = self.metadata._replace(
                    duration=end - start, start_time=start, end_time=end, message_count=count
                )

    @property
    def start_time(self) -> int:
        return self.metadata.start_time

    @property
    def end_time(self) -> int:
        return self.metadata.end_time

    def _look_at_records(self) -> None:
        """Chunks and messages of the data section, from the heads of their records."""
        assert self.bio is not None
        bio, place = self.bio, self.data_start
        while place + 9 <= self.data_end:
            bio.seek(place)
            kind, length = struct.unpack("<BQ", bio.read(9))
            if kind == _MESSAGE and length >= 22:
                channel, _, log_ns, _ = struct.unpack("<HIQQ", bio.read(22))
                self._plain.append((log_ns, channel, bio.tell(), length - 22))
            elif kind == _CHUNK and length >= 40:
                start, end, size, _, name = struct.unpack("<QQQII", bio.read(32))
                compression = bio.read(name).decode()
                (stored,) = struct.unpack("<Q", bio.read(8))
                self.chunks.append(ChunkInfo(start, end, place, 9 + length, {}, 0, compression, stored, size, {}))
            place += 9 + length
        self._plain.sort(key=lambda each: each[0])

    def messages(  # type: ignore[override]
        self,
        connections: Collection[Connection],
        start: int | None = None,
        stop: int | None = None,
        on_damage: Damage | None = None,
    ) -> Iterator[Message]:
        channels = {each.id: each for each in connections}
        begin, end = 0 if start is None else start, _END_NS if stop is None else stop
        sources: list[Any] = [
            self._of_chunk(chunk, channels, begin, end, on_damage)
            for chunk in self.chunks
            if begin <= chunk.message_end_time
            and chunk.message_start_time < end
            and any(chunk.channel_count.get(channel, 0) for channel in channels)
        ]
        if self._plain:
            sources.append(self._outside(channels, begin, end))
        # rosbags' chunks announce themselves by a message without data, so that they are opened when their time comes
        for message in heapq.merge(*sources, key=lambda each: (each[0], each[1])):
            if message[2] is not None:
                yield message[2], message[0], message[3]

    def _of_chunk(
        self, chunk: ChunkInfo, channels: dict[int, Connection], begin: int, end: int, on_damage: Damage | None
    ) -> Iterator[Any]:
        assert self.bio is not None
        try:
            if chunk.compressed_size > chunk.chunk_length:  # read_exact takes memory for what it is told
                raise BagError(f"{chunk.compressed_size} bytes in a chunk of {chunk.chunk_length}")
            yield from msgsrc(chunk, channels, begin, end, self.bio)
        except Exception as error:  # rosbags, zstd, lz4 and struct raise their own for damaged bytes
            if on_damage is None:
                raise
            name = Path(str(self.path)).name
            on_damage(max(chunk.message_start_time, begin), f"a chunk of {name}: {error or repr(error)}")

    def _outside(self, channels: dict[int, Connection], begin: int, end: int) -> Iterator[Any]:
        assert self.bio is not None
        for log_ns, channel, place, length in self._plain:
            if begin <= log_ns < end and channel in channels:
                self.bio.seek(place)
                yield log_ns, place, channels[channel], self.bio.read(length)


class Sqlite3File:
    """A database of rosbag2, with what a recorder that was killed left in its write-ahead log.

    Nothing is written: neither the database nor its log nor the folder that they lie in.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections: list[Connection] = []
        self.start_time, self.end_time = _END_NS, 0
        self._database: apsw.Connection | None = None

    def open(self) -> None:
        _refuse_journal(self.path)
        self._database = _open_database(self.path)
        try:
            # Views and generated columns are programs: their rows may be without end, or larger than the file.
            kinds = {row[1]: row[2] for row in self._rows("PRAGMA main.table_list")}
            for name in ("topics", "messages"):
                generated = any(row[6] for row in self._rows(f"PRAGMA main.table_xinfo({name})"))
                if kinds.get(name) != "table" or generated:
                    raise BagError(f"{self.path.name} is no rosbag2: it has no table of {name}")
            columns = [str(row[1]) for row in self._rows("PRAGMA table_info(topics)")]
            profiles = "offered_qos_profiles" if "offered_qos_profiles" in columns else "''"
            self._database.limit(apsw.SQLITE_LIMIT_LENGTH, MOST_BYTES)
            counts = dict(self._rows("SELECT topic_id, count(*) FROM messages GROUP BY topic_id"))
            for number, topic, msgtype, coding, qos in self._rows(
                f"SELECT id, name, type, serialization_format, {profiles} FROM topics ORDER BY id"
            ):
                self.connections.append(
                    Connection(
                        number,
                        topic,
                        msgtype,
                        MessageDefinition(MessageDefinitionFormat.NONE, ""),
                        "",
                        counts.get(number, 0),
                        ConnectionExtRosbag2(coding, parse_profiles(qos)),
                        self,
                    )
                )
            ((first, last),) = self._rows("SELECT min(timestamp), max(timestamp) FROM messages")
            if first is not None:
                self.start_time, self.end_time = first, last + 1
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def messages(
        self,
        connections: Collection[Connection],
        start: int | None = None,
        stop: int | None = None,
        on_damage: Damage | None = None,
    ) -> Iterator[Message]:
        by_id = {each.id: each for each in connections}
        begin, end = self.start_time if start is None else start, self.end_time if stop is None else stop
        skip = _SKIP_NS
        query = (
            f"SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({','.join(map(str, by_id))}) "
            "AND timestamp >= ? AND timestamp < ? ORDER BY timestamp, id"
        )
        while begin < end:
            newest = None
            try:
                for number, newest, data in self._rows(query, (begin, end)):
                    yield by_id[number], newest, data
                return
            except apsw.Error as error:
                if on_damage is None:
                    raise
                on_damage(begin if newest is None else newest, f"{self.path.name}: {error}")
            # So that a clock that was set does not make of this a walk of years.
            skip = 2 * skip if newest is None else _SKIP_NS
            begin = (begin if newest is None else newest) + skip

    def _rows(self, query: str, values: tuple[int, ...] = ()) -> Iterator[Any]:
        assert self._database is not None
        return iter(cast(Any, self._database.execute(query, values)))


def _open_database(path: Path) -> apsw.Connection:
    log = path.with_name(f"{path.name}-wal")
    name = str(path.resolve()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    if not (log.is_file() and log.stat().st_size):
        return apsw.Connection(f"file:{name}?immutable=1", flags=flags)
    # An immutable database has no log. Without locks and with the log's index in memory, nothing is written to read it.
    database = apsw.Connection(f"file:{name}?mode=ro&vfs=unix-none", flags=flags)
    try:
        database.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        database.execute("PRAGMA locking_mode=exclusive").fetchall()
        database.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except apsw.Error as error:
        with suppress(apsw.Error):
            database.close()
        raise BagError(
            f"its newest messages lie in {log.name} ({log.stat().st_size} bytes), which cannot be read here: {error}; "
            f"on a copy of both files: sqlite3 {quote(path.name)} 'PRAGMA wal_checkpoint(TRUNCATE)'"
        ) from error
    return database


def _refuse_journal(path: Path) -> None:
    journal = path.with_name(f"{path.name}-journal")
    if journal.is_file():
        with journal.open("rb") as stream:
            if stream.read(8) == _MAGIC_JOURNAL:
                raise BagError(
                    f"the recorder was killed while it wrote, {journal.name} has what the database needs; on a copy of "
                    f"both files: sqlite3 {quote(path.name)} 'SELECT count(*) FROM messages' mends it"
                )
