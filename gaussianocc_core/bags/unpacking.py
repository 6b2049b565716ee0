# SPDX-License-Identifier: Apache-2.0
"""Compressed parts of bags: what they would take is bounded before memory or disk is taken for it.

14 kB of zstd can be 100 MB of zeros. A frame says how large its content is, or keeps silent, or lies: the declared size
is refused where it is too large, and the actual one where it grows beyond what was declared.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from shlex import quote
from typing import Any

from gaussianocc_core.errors import BagError

MOST_BYTES = 1 << 28  # of one message or one chunk of an MCAP; a raw image of 64 megapixels has 192 MiB
_MOST_RATIO = 200  # of a whole file; raw images of a dark room come to about 50
_SMALL = 64 << 20  # bytes that are always accepted
_SPARE = 512 << 20  # bytes that stay free on the disk
_STEP = 1 << 20


def unpack_zstd(data: bytes, most: int = MOST_BYTES) -> bytes:
    """The content of one frame or several, of at most so many bytes; BagError where there is more, or it is damaged."""
    from backports import zstd

    pieces, room = [], most
    try:
        declared = zstd.get_frame_info(data).decompressed_size
        if declared is not None and declared > most:
            raise _too_large(f"{declared} bytes", most)
        while data:
            unpacker = zstd.ZstdDecompressor()
            pieces.append(unpacker.decompress(data, room + 1))
            room -= len(pieces[-1])
            if room < 0:
                raise _too_large("more", most)
            if not unpacker.eof:
                raise BagError("compressed data are damaged: their end is missing")
            data = unpacker.unused_data
    except zstd.ZstdError as error:
        raise BagError(f"compressed data are damaged: {error}") from error
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def unpack_lz4(data: bytes, most: int = MOST_BYTES) -> bytes:
    """As `unpack_zstd`, of an LZ4 frame."""
    from lz4.frame import LZ4FrameDecompressor

    try:
        unpacker = LZ4FrameDecompressor()
        content = unpacker.decompress(data, max_length=most + 1)
    except (RuntimeError, ValueError) as error:
        raise BagError(f"compressed data are damaged: {error}") from error
    if len(content) > most:
        raise _too_large("more", most)
    if not unpacker.eof:
        raise BagError("compressed data are damaged: their end is missing")
    return bytes(content)


def unpack_file(file: Path, target: Path) -> None:
    """Write a .zstd file's content to `target`. BagError where it is larger than can be meant, or than fits there."""
    from backports import zstd

    packed_size = file.stat().st_size
    free = shutil.disk_usage(target.parent).free - _SPARE
    most = min(packed_size * _MOST_RATIO + _SMALL, max(free, 0))
    command = f"zstd -d {quote(file.name)}"
    room = (
        f"{free} bytes are free in {target.parent}, set TMPDIR to a larger disk"
        if most == free
        else (f"its {packed_size} bytes may hold {most}; unpack it yourself if you trust it: {command}")
    )
    with file.open("rb") as stream:
        declared = _declared_size(stream.read(18))  # the longest frame header
    if declared is not None and declared > most:
        raise BagError(f"it says that it holds {declared} bytes: {room}")
    written = 0
    with zstd.open(file, "rb") as packed, target.open("wb") as plain:
        while piece := packed.read(_STEP):
            written += len(piece)
            if written > most:
                raise BagError(f"it holds more than {most} bytes: {room}")
            plain.write(piece)


def bound_chunks(decompressors: dict[str, Any]) -> None:
    """Of rosbags, whose decompressors take whatever comes: a chunk is what its head says, and not too large."""

    def bounded(unpack: Any) -> Any:
        def decompress(data: bytes, size: int) -> bytes:
            if size > MOST_BYTES:
                raise _too_large(f"{size} bytes", MOST_BYTES)
            return unpack(data, size)

        return decompress

    decompressors["zstd"] = bounded(unpack_zstd)
    decompressors["lz4"] = bounded(unpack_lz4)


def _declared_size(head: bytes) -> int | None:
    from backports import zstd

    try:
        return zstd.get_frame_info(head).decompressed_size
    except zstd.ZstdError:  # no frame; reading it says so
        return None


def _too_large(size: str, most: int) -> BagError:
    return BagError(f"compressed data hold {size}; at most {most} bytes are unpacked")
