# SPDX-License-Identifier: Apache-2.0
"""What is left of a recording that was cut off, as a bag that every reader takes."""

from __future__ import annotations

import shutil
import struct
import tempfile
from pathlib import Path
from typing import BinaryIO

from gaussianocc_core.bags.indexing import find_bags
from gaussianocc_core.bags.typestore import import_rosbags
from gaussianocc_core.bags.writer import refuse_existing
from gaussianocc_core.errors import BagError
from gaussianocc_core.files import make_hidden_folder, replace_folder

_MAGIC = b"\x89MCAP0\r\n"
_CHUNK, _FOOTER, _DATA_END = 0x06, 0x02, 0x0F
_COPY = 1 << 20


def recover(source: str | Path, path: Path) -> int:
    """Write the complete records of a cut-off MCAP to the new bag `path`; returns the number of messages.

    The last, incomplete chunk is lost (about a megabyte); the source stays as it is. BagError if nothing can be saved.
    """
    file = _mcap_file(Path(source))
    refuse_existing(path, overwrite=False)
    end = _last_complete(file)
    rosbags = import_rosbags()
    from rosbags.convert import convert

    hidden = make_hidden_folder(path)
    try:
        with tempfile.TemporaryDirectory(dir=hidden) as folder:
            repaired = Path(folder) / "repaired.mcap"
            _copy_with_footer(file, end, repaired)
            store = rosbags.typesys.get_typestore(rosbags.typesys.Stores.ROS2_HUMBLE)
            convert([repaired], hidden / path.name, "mcap", 8, None, "file", store, None, (), (), (), ())
        with rosbags.rosbag2.Reader(hidden / path.name) as reader:
            count = int(reader.message_count)
        replace_folder(path, hidden / path.name, hidden / "replaced")
    except (OSError, AssertionError) as error:
        raise BagError(f"{file}: what is left of it cannot be written to {path}: {error}") from error
    except Exception as error:  # rosbags raises what its storage libraries raise
        raise BagError(f"{file}: what is left of it cannot be read: {error}") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return count


def _mcap_file(source: Path) -> Path:
    if source.is_dir():
        files = sorted(source.glob("*.mcap"))
        if len(files) != 1:
            raise BagError(f"{source}: {len(files)} .mcap files; give the one that was cut off")
        return files[0]
    (found,) = find_bags(source)
    if found.suffix != ".mcap":
        raise BagError(f"{found}: only MCAP can be saved here; sqlite3 has its own: sqlite3 OLD .recover | sqlite3 NEW")
    return found


def _last_complete(file: Path) -> int:
    """Where the last whole record of the data section ends."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise BagError(f"{file} is no MCAP file, or its beginning is lost")
        chunks, end = 0, stream.tell()
        while (head := stream.read(9)) and len(head) == 9:
            kind, length = struct.unpack("<BQ", head)
            if kind in (_DATA_END, _FOOTER) or stream.tell() + length > size:
                break
            chunks += kind == _CHUNK
            end = stream.seek(length, 1)
    if not chunks:
        raise BagError(f"{file}: no complete chunk of messages is left in its {size} bytes")
    return end


def _copy_with_footer(file: Path, end: int, target: Path) -> None:
    with file.open("rb") as stream, target.open("wb") as out:
        _copy(stream, out, end)
        out.write(struct.pack("<BQI", _DATA_END, 4, 0))
        out.write(struct.pack("<BQQQI", _FOOTER, 20, 0, 0, 0) + _MAGIC)  # no summary: readers scan


def _copy(stream: BinaryIO, out: BinaryIO, count: int) -> None:
    while count:
        data = stream.read(min(_COPY, count))
        out.write(data)
        count -= len(data)
