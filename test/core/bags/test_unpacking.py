# SPDX-License-Identifier: Apache-2.0
"""Compressed bags that would fill the memory or the disk are refused before they do."""

import resource
import shutil
import sqlite3
import struct

import lz4.frame
import pytest
from backports import zstd
from support.robot_bags import RobotBag

from gaussianocc_core.bags import unpacking
from gaussianocc_core.bags.check import check_bag
from gaussianocc_core.bags.indexing import open_index
from gaussianocc_core.bags.opened import open_bag
from gaussianocc_core.bags.typestore import import_rosbags
from gaussianocc_core.bags.unpacking import unpack_file, unpack_lz4, unpack_zstd
from gaussianocc_core.errors import BagError

ZEROS = 3 << 30  # bytes, of which the frame has some 300 kB


@pytest.fixture(autouse=True)
def small():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    # kB: twice what is accepted, for the pieces are joined
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700_000


def pack_zeros(size, says=None):
    """A frame of zeros; `says`: with its size in the head."""
    packer = zstd.ZstdCompressor(level=1)
    if says is not None:
        packer.set_pledged_input_size(says)
    piece = bytes(1 << 24)
    return b"".join(packer.compress(piece) for _ in range(size >> 24)) + packer.flush()


@pytest.fixture(scope="module")
def bombs():
    return {"declared": pack_zeros(ZEROS, ZEROS), "silent": pack_zeros(ZEROS)}


@pytest.mark.parametrize("kind", ["declared", "silent"])
def test_a_message_that_unpacks_to_gigabytes_is_refused(bombs, kind):
    assert len(bombs[kind]) < 1 << 20
    with pytest.raises(BagError, match=f"at most {unpacking.MOST_BYTES} bytes are unpacked"):
        unpack_zstd(bombs[kind])


@pytest.mark.parametrize("unpack, pack", [(unpack_zstd, zstd.compress), (unpack_lz4, lz4.frame.compress)])
def test_what_is_whole_is_unpacked_and_what_is_not_is_named(unpack, pack):
    content = bytes(range(256)) * 100
    packed = pack(content)
    assert unpack(packed) == content and unpack(packed, len(content)) == content
    with pytest.raises(BagError, match="at most 25599 bytes"):
        unpack(packed, len(content) - 1)
    for damaged in (packed[:-9], packed[:3], packed[:8] + b"\xff" * 8 + packed[16:]):
        with pytest.raises(BagError, match="damaged"):
            unpack(damaged)


def test_frames_that_follow_each_other_are_one_content():
    assert unpack_zstd(zstd.compress(b"one ") + zstd.compress(b"two")) == b"one two"


@pytest.mark.parametrize("kind", ["declared", "silent"])
def test_a_compressed_file_of_gigabytes_is_refused_and_leaves_nothing(tmp_path, bombs, kind, monkeypatch):
    """With little room on the disk: the least of both limits holds."""
    folder, temporary = tmp_path / "bag", tmp_path / "temporary"
    folder.mkdir()
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    (folder / "bag_0.mcap.zstd").write_bytes(bombs[kind])
    with pytest.raises(BagError, match="unpack it yourself if you trust it: zstd -d bag_0.mcap.zstd"):
        open_bag(folder)
    assert not list(temporary.iterdir())


def test_a_compressed_file_that_has_no_room_says_so(tmp_path, monkeypatch):
    file = tmp_path / "bag_0.db3.zstd"
    file.write_bytes(zstd.compress(bytes(1 << 20)))
    full = shutil.disk_usage(tmp_path)._replace(free=(512 << 20) + 1000)
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda path: full)
    with pytest.raises(BagError, match="it says that it holds 1048576 bytes: 1000 bytes are free in .*set TMPDIR"):
        unpack_file(file, tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


@pytest.mark.parametrize("compression, pack", [("zstd", zstd.compress), ("lz4", lz4.frame.compress)])
def test_a_chunk_is_what_its_head_says_and_not_too_large(compression, pack):
    import_rosbags()
    from rosbags.rosbag2.storage_mcap import decompress

    data = pack(bytes(1000))
    assert decompress(data, compression, 1000, 0) == bytes(1000)
    with pytest.raises(BagError, match="at most 999 bytes"):
        decompress(data, compression, 999, 0)
    with pytest.raises(BagError, match=f"at most {unpacking.MOST_BYTES}"):
        decompress(data, compression, 1 << 40, 0)


def test_a_chunk_of_an_mcap_that_lies_is_a_damaged_chunk(tmp_path):
    """The rest of the bag is read."""
    (file,) = RobotBag().write(tmp_path / "bag", "mcap").glob("*.mcap")
    body = struct.pack("<QQQI", 0, 2**62, 1 << 45, 0) + struct.pack("<I", 4) + b"zstd"
    frame = zstd.compress(bytes(100_000))
    body += struct.pack("<Q", len(frame)) + frame
    # a file without a summary, as of a recorder that was killed, is scanned
    bad = tmp_path / "bad.mcap"
    bad.write_bytes(file.read_bytes()[:8] + struct.pack("<BQ", 0x06, len(body)) + body)
    with pytest.raises(BagError):
        open_index(bad)


@pytest.mark.parametrize(
    "program",
    [
        "CREATE VIEW messages AS SELECT id, topic_id, timestamp, zeroblob(900000000) AS data FROM kept",
        "CREATE VIEW messages AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "SELECT i AS id, 1 AS topic_id, i AS timestamp, x'00' AS data FROM n",
        "CREATE TABLE messages (id INTEGER, topic_id INTEGER, timestamp INTEGER, "
        "data BLOB GENERATED ALWAYS AS (zeroblob(900000000)))",
        "CREATE TABLE messages (id INTEGER, topic_id INTEGER, timestamp INTEGER, data BLOB aS (zeroblob(900000000)))",
    ],
)
def test_a_database_whose_messages_are_a_program_is_refused(tmp_path, program):
    (file,) = RobotBag().write(tmp_path / "bag", "sqlite3").glob("*.db3")
    with sqlite3.connect(file) as database:
        database.execute("ALTER TABLE messages RENAME TO kept")
        database.execute(program)
    with pytest.raises(BagError, match="has no table of messages"):
        open_index(file)


def test_a_check_does_not_unpack_a_whole_bag(tmp_path, bombs):
    path = RobotBag().write(tmp_path / "bag", "sqlite3")
    text = (path / "metadata.yaml").read_text()
    assert "compression_mode: ''" in text
    (path / "metadata.yaml").write_text(text.replace("compression_mode: ''", "compression_mode: FILE"))
    with pytest.raises(BagError, match="is compressed"):
        check_bag(path, None)


def test_metadata_is_measured_before_it_is_read(tmp_path):
    from gaussianocc_core.bags import check
    from gaussianocc_core.errors import BagError

    bag = tmp_path / "bag"
    bag.mkdir()
    with (bag / "metadata.yaml").open("wb") as file:
        file.truncate(1 << 40)  # sparse: reading it would take a terabyte
    with pytest.raises(BagError, match="metadata.yaml .it has 1099511627776 bytes, at most"):
        check.read_metadata(bag)
