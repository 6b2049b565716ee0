# SPDX-License-Identifier: Apache-2.0
"""The rosbags library's writer with a better MCAP storage. Needs rosbags at import: import it where a bag is written.

rosbags compresses every chunk of a file or none. zstd takes longer over a JPEG than the file system does, and saves
nothing; 2D labels get 20 to 100 times smaller, and faster to write. So chunks hold either, and labels' are compressed.
Messages go to the file without the three copies that rosbags makes of them, and metadata by way of libyaml.
"""

from __future__ import annotations

import copy
import struct
from collections import defaultdict
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import yaml
from backports import zstd
from rosbags.interfaces import Connection, ConnectionExtRosbag2, Qos
from rosbags.rosbag2 import CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.metadata import dump_qos_v8
from rosbags.rosbag2.storage_mcap import McapWriter, PendingChunk

from gaussianocc_core.bags.schema import RAW_IMAGE_TYPE
from gaussianocc_core.bags.typestore import OCCUPANCY_TYPE
from gaussianocc_core.files import complete_file

METADATA_VERSION: Literal[8] = 8  # ROS 2 Humble cannot read version 9

_COMPRESSED_TYPES = (RAW_IMAGE_TYPE, OCCUPANCY_TYPE)
_CHUNK_BYTES = 1 << 20  # as rosbags; a larger message has a chunk of its own
_CHUNK, _MESSAGE, _MESSAGE_INDEX = 0x06, 0x05, 0x07  # MCAP's record types


class ChunkedMcap(McapWriter):
    """MCAP whose chunks are compressed where that pays."""

    def __init__(self, path: Path, compression: CompressionMode) -> None:
        super().__init__(path, compression)
        # A chunk is what rosbags put into chunk.bio, schemas and channels, and then these records.
        self._records: list[bytes | memoryview] = []
        self._size = 0

    def add_msgtype(self, connection: Connection) -> None:
        self._end_chunk()
        super().add_msgtype(connection)

    def add_connection(self, connection: Connection, offered_qos_profiles: str) -> None:
        self._end_chunk()
        super().add_connection(connection, offered_qos_profiles)

    def write(self, connection: Connection, timestamp: int, data: bytes | memoryview) -> None:
        compression = "zstd" if connection.msgtype in _COMPRESSED_TYPES else ""
        if compression != self.compression:
            self._end_chunk()
            self.compression = compression
        self.message_start_time = min(timestamp, self.message_start_time)
        self.message_end_time = max(timestamp, self.message_end_time)
        self.channel_stats[connection.id] += 1
        chunk = self.chunk
        chunk.message_start_time = min(timestamp, chunk.message_start_time)
        chunk.message_end_time = max(timestamp, chunk.message_end_time)
        chunk.msgs[connection.id].append((timestamp, chunk.bio.tell() + self._size))
        # log time and publish time are one
        head = struct.pack("<BQHIQQ", _MESSAGE, 22 + len(data), connection.id, 0, timestamp, timestamp)
        self._records += (head, data)
        self._size += len(head) + len(data)
        if self._size > _CHUNK_BYTES:
            self.close_chunk()

    def close(self, version: int, metadata: str) -> None:
        self._end_chunk()
        super().close(version, metadata)

    def _end_chunk(self) -> None:
        if self._records:
            self.close_chunk()

    def close_chunk(self) -> None:
        chunk, compression = self.chunk, self.compression.encode()
        content = [chunk.bio.getvalue(), *self._records]
        size = len(content[0]) + self._size
        if compression:
            content = [zstd.compress(b"".join(content))]
        stored = sum(map(len, content))
        times = struct.pack("<QQ", chunk.message_start_time, chunk.message_end_time)
        named = struct.pack("<I", len(compression)) + compression
        start = self.bio.tell()
        # no checksum of the chunk (0), as rosbags
        head = times + struct.pack("<QI", size, 0) + named + struct.pack("<Q", stored)
        self.bio.write(struct.pack("<BQ", _CHUNK, len(head) + stored) + head)
        self.bio.writelines(content)
        end = self.bio.tell()
        offsets = []
        for channel, messages in chunk.msgs.items():
            offsets.append(struct.pack("<HQ", channel, self.bio.tell()))
            places = b"".join(struct.pack("<QQ", *each) for each in messages)
            body = struct.pack("<HI", channel, len(places)) + places
            self.bio.write(struct.pack("<BQ", _MESSAGE_INDEX, len(body)) + body)
        index = b"".join(offsets)
        entry = BytesIO()  # of the chunk index at the end of the file
        entry.write(times + struct.pack("<QQI", start, end - start, len(index)) + index)
        entry.write(struct.pack("<Q", self.bio.tell() - end) + named + struct.pack("<QQ", stored, size))
        self.chunks.append(entry)
        self.chunk = PendingChunk(2**63 - 1, 0, BytesIO(), defaultdict(list))
        self._records, self._size = [], 0


class BagWriter(Writer):
    """rosbags' writer of bags of version 8, with that MCAP storage."""

    STORAGE_PLUGINS = {**Writer.STORAGE_PLUGINS, StoragePlugin.MCAP: ChunkedMcap}  # noqa: RUF012

    def __init__(self, path: Path, storage: StoragePlugin) -> None:
        super().__init__(path, version=METADATA_VERSION, storage_plugin=storage)

    def close(self) -> None:
        """Write the same metadata as rosbags, whose pure Python YAML takes longer over it than 500 images do."""
        assert self.storage is not None
        information = self._describe(self.storage.path.name)
        self.storage.close(self.version, _dump(information).strip())
        self.storage = None
        with complete_file(self.metapath) as partial:
            partial.write_text(_dump({"rosbag2_bagfile_information": information}), "utf8")

    def _describe(self, file: str) -> dict[str, Any]:
        start, count = self.min_timestamp, sum(self.counts.values())
        duration = max(0, self.max_timestamp - start)
        span = {"duration": {"nanoseconds": duration}, "starting_time": {"nanoseconds_since_epoch": start}}
        topics = [
            {
                "topic_metadata": {
                    "name": each.topic,
                    "type": each.msgtype,
                    "serialization_format": each.ext.serialization_format,
                    "offered_qos_profiles": _dump_qos(tuple(each.ext.offered_qos_profiles)),
                    "type_description_hash": each.digest,
                },
                "message_count": self.counts[each.id],
            }
            for each in self.connections
            if isinstance(each.ext, ConnectionExtRosbag2)
        ]
        return {
            "version": self.version,
            "storage_identifier": self.storage_plugin.name.lower(),
            "relative_file_paths": [file],
            **copy.deepcopy(span),
            "message_count": count,
            "topics_with_message_count": topics,
            "compression_format": "",
            "compression_mode": "",
            "files": [{"path": file, **span, "message_count": count}],
            "custom_data": self.custom_data,
            "ros_distro": "rosbags",
        }


@lru_cache(maxsize=16)
def _dump_qos(profiles: tuple[Qos, ...]) -> str:
    return str(dump_qos_v8(list(profiles)))


def _dump(document: dict[str, Any]) -> str:
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return yaml.dump(document, Dumper=dumper, default_flow_style=False, allow_unicode=True)
