# SPDX-License-Identifier: Apache-2.0
"""Recordings as recorders, crashes and people leave them: what is in the files is read, and what is not is said."""

import copy
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from backports import zstd
from support.robot_bags import START_NS, RobotBag

from gaussianocc_core.bags.index import BagIndex
from gaussianocc_core.bags.indexing import find_bags, open_index
from gaussianocc_core.bags.opened import open_bag
from gaussianocc_core.bags.reader import MessageReader
from gaussianocc_core.data.bag import BagSource, open_bags
from gaussianocc_core.data.bag_cameras import BagConfig
from gaussianocc_core.errors import BagError

ROOT = Path(__file__).resolve().parents[3]


def split(robot: RobotBag, folder: Path, parts: int, storage: str = "mcap") -> tuple[list[Path], list[dict]]:
    """The recording in files NAME_0, NAME_1 ... of a folder, and what the metadata.yaml of each said."""
    messages = sorted(robot.messages, key=lambda item: item[1])
    size = -(-len(messages) // parts)
    folder.mkdir()
    files, facts = [], []
    for i in range(parts):
        part = copy.copy(robot)
        part.messages = messages[i * size : (i + 1) * size]
        written = part.write(folder.parent / f"part{i}_{folder.name}", storage)
        (file,) = (*written.glob("*.mcap"), *written.glob("*.db3"))
        files.append(Path(shutil.copy(file, folder / f"{folder.name}_{i}{file.suffix}")))
        facts.append(yaml.safe_load((written / "metadata.yaml").read_text())["rosbag2_bagfile_information"])
    return files, facts


def describe(path: Path, **changes) -> None:
    """Change a bag's metadata.yaml."""
    file = path / "metadata.yaml"
    document = yaml.safe_load(file.read_text())
    document["rosbag2_bagfile_information"].update(changes)
    file.write_text(yaml.safe_dump(document))


def information(path: Path) -> dict:
    return yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]


def count(index: BagIndex, topic: str = "/front/image_raw/compressed") -> int:
    return len(index.topics[topic])


# ---- the clock -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_message_of_1970_costs_no_time_and_is_said(tmp_path, storage):
    robot = RobotBag()
    topic, _, static = robot.messages[0]
    robot.messages[0] = (topic, 0, static)  # before /clock, or before the clock was set
    index = open_index(robot.write(tmp_path / "bag", storage))
    assert (index.end_ns - index.start_ns) * 1e-9 == pytest.approx(0.5, abs=0.1)
    assert len(BagSource(index).entries()) == 5  # its places are used
    (problem,) = index.problems
    assert problem.startswith("1 messages were logged at 1970-01-01 00:00:00") and "2023-11-14 22:13:20" in problem


def test_a_clock_that_is_set_in_the_middle_is_said(tmp_path):
    robot = RobotBag()
    late = [
        (t, log + 7 * 3_600_000_000_000 if log > robot.stamp(2, 0) + robot.delay_ns else log, m)
        for t, log, m in robot.messages
    ]
    robot.messages = late
    index = open_index(robot.write(tmp_path / "bag"))
    assert count(index) == 5
    assert any("nothing was recorded for 7.0 h" in problem for problem in index.problems)


# ---- metadata.yaml -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start_of", [0, 2])
def test_splits_are_read_to_their_end_whatever_metadata_says_of_the_span(tmp_path, start_of):
    robot = RobotBag(frames=12)
    files, facts = split(robot, tmp_path / "bag", 3)
    counts: dict = {}
    for fact in facts:
        for each in fact["topics_with_message_count"]:
            known = counts.setdefault(each["topic_metadata"]["name"], {**each, "message_count": 0})
            known["message_count"] += each["message_count"]
    merged = {
        **facts[start_of],
        "relative_file_paths": [file.name for file in files],
        "duration": facts[2]["duration"],
        "topics_with_message_count": list(counts.values()),
    }
    (tmp_path / "bag" / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": merged}))
    index = open_index(tmp_path / "bag")
    assert count(index) == 12 and len(BagSource(index).entries()) == 12
    (problem,) = index.problems
    assert "metadata.yaml says 0.4 s" in problem and "its files hold 1.2 s" in problem


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_topic_whose_qos_was_edited_is_still_that_topic(tmp_path, storage):
    path = RobotBag().write(tmp_path / "bag", storage)
    topics = information(path)["topics_with_message_count"]
    time = {"sec": 2147483647, "nsec": 4294967295}
    edited = {
        "history": 1,
        "depth": 33,
        "reliability": 2,
        "durability": 1,
        "deadline": time,
        "lifespan": time,
        "liveliness": 1,
        "liveliness_lease_duration": time,
        "avoid_ros_namespace_conventions": False,
    }
    for each in topics:
        name = each["topic_metadata"]["name"]
        text = yaml.safe_dump([edited]) if name == "/tf" else "nobody: [can read" if "camera_info" in name else ""
        each["topic_metadata"]["offered_qos_profiles"] = text
    describe(path, topics_with_message_count=topics)
    index = open_index(path)
    assert index.problems == ()
    entries = BagSource(index).entries()
    assert len(entries) == 5 and all(entry.frame.T_world_ego is not None for entry in entries)
    (tf,) = (each for each in open_bag(path).connections if each.topic == "/tf")
    assert tf.msgcount == 51 and [each.depth for each in tf.ext.offered_qos_profiles] == [33]  # as it was edited


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"storage_identifier": ""}, None),
        ({"version": 10}, None),
        ({"relative_file_paths": []}, "metadata.yaml is damaged (it names no files)"),
        ({"topics_with_message_count": None}, None),
    ],
)
def test_odd_metadata_costs_nothing(tmp_path, changes, said):
    path = RobotBag().write(tmp_path / "bag")
    describe(path, **changes)
    index = open_index(path)
    assert count(index) == 5 and len(index.problems) == (said is not None)
    assert said is None or said in index.problems[0]


@pytest.mark.parametrize("text", ["", "rosbag2_bagfile_information:\n  version: 5\n  rel", "\0" * 300])
def test_metadata_that_a_power_cut_left_is_named_and_the_files_are_read(tmp_path, text):
    path = RobotBag().write(tmp_path / "bag")
    (path / "metadata.yaml").write_text(text)
    index = open_index(path)
    assert count(index) == 5 and "metadata.yaml is damaged" in index.problems[0]


def test_what_metadata_counts_and_the_files_lack_is_said(tmp_path):
    path = RobotBag().write(tmp_path / "bag", "sqlite3")
    with sqlite3.connect(path / "bag.db3") as database:
        database.execute("DELETE FROM messages WHERE topic_id = (SELECT id FROM topics WHERE name = '/tf')")
    index = open_index(path)
    assert any("counts other messages than its files hold: /tf 0 of 51" in problem for problem in index.problems)


def test_splits_that_are_missing_or_not_named_are_said(tmp_path):
    files, facts = split(RobotBag(frames=9), tmp_path / "bag", 3)
    facts[0]["relative_file_paths"] = [files[0].name, files[2].name, "bag_3.mcap"]
    (tmp_path / "bag" / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": facts[0]}))
    problems = " | ".join(open_index(tmp_path / "bag").problems)
    assert "its files bag_3.mcap are missing" in problems and "bag_1.mcap lie beside and are not read" in problems


# ---- files ---------------------------------------------------------------------------------------------------------


def test_what_a_killed_recorder_left_in_the_write_ahead_log_is_read_and_nothing_is_written(tmp_path):
    whole = RobotBag(frames=12).write(tmp_path / "whole", "sqlite3") / "whole.db3"
    bag = tmp_path / "killed"
    bag.mkdir()
    with sqlite3.connect(whole) as database:
        rows = database.execute("SELECT id, topic_id, timestamp, data FROM messages ORDER BY timestamp").fetchall()
        cut = rows[len(rows) // 3][2]
        database.execute("DELETE FROM messages WHERE timestamp > ?", (cut,))
        database.commit()
        database.execute("VACUUM")
    database.close()
    writer = sqlite3.connect(whole)
    writer.execute("PRAGMA journal_mode=wal")
    writer.execute("PRAGMA wal_autocheckpoint=0")
    writer.executemany(
        "INSERT INTO messages(id, topic_id, timestamp, data) VALUES (?, ?, ?, ?)", [row for row in rows if row[2] > cut]
    )
    writer.commit()
    for ending in ("", "-wal"):  # as a copy of a robot's disk has them
        shutil.copy(f"{whole}{ending}", bag / f"killed_0.db3{ending}")
    writer.close()
    before = {file.name: file.read_bytes() for file in bag.iterdir()}
    assert len(before) == 2
    index = open_index(bag / "killed_0.db3", cache=False)
    assert count(index) == 12 and len(BagSource(index).entries()) == 12
    reader = MessageReader(bag / "killed_0.db3")
    topic = index.topics["/left/image_raw/compressed"]
    assert len(reader.read([topic[0], topic[11]])) == 2
    assert {file.name: file.read_bytes() for file in bag.iterdir()} == before
    (bag / "killed_0.db3-wal").unlink()
    assert count(open_index(bag / "killed_0.db3")) < 6  # what there is without it


def test_a_database_that_needs_its_journal_is_refused_by_name(tmp_path):
    path = RobotBag().write(tmp_path / "bag", "sqlite3")
    (path / "bag.db3-journal").write_bytes(bytes.fromhex("d9d505f920a163d7") + b"\0" * 504)
    with pytest.raises(BagError, match=r"bag.db3-journal has what the database needs"):
        open_index(path)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_splits_without_metadata_are_one_recording(tmp_path, storage):
    robot = RobotBag(frames=11)
    split(robot, tmp_path / "rec", 11, storage)  # by number: rec_10 follows rec_9
    assert find_bags(tmp_path / "rec") == (tmp_path / "rec",)
    (source,) = open_bags(BagConfig(str(tmp_path / "rec")))
    entries = source.entries()
    assert [entry.frame.camera_stamps_ns[0] for entry in entries] == [robot.stamp(n, 0) for n in range(11)]
    assert sum(len(entry.neighbours) == 2 for entry in entries) == 9  # across the seams
    assert entries[10].load().images[0].shape == (48, 64, 3)


def test_a_split_alone_knows_what_the_first_one_said_once(tmp_path):
    robot = RobotBag(frames=8)
    first = {topic: i for i, (topic, _, _) in reversed(list(enumerate(robot.messages))) if "camera_info" in topic}
    robot.messages = [
        each for i, each in enumerate(robot.messages) if "camera_info" not in each[0] or i in first.values()
    ]
    files, _ = split(robot, tmp_path / "rec", 2)
    source = BagSource(open_index(files[1]))
    assert source.cameras.names == ("front", "left") and len(source.entries()) == 4


def test_the_last_split_that_was_cut_off_is_named_and_the_others_are_read(tmp_path):
    files, _ = split(RobotBag(frames=9), tmp_path / "rec", 3)
    files[2].write_bytes(files[2].read_bytes()[:-500])
    index = open_index(tmp_path / "rec")
    assert count(index) == 6
    (problem,) = index.problems
    assert problem.startswith("rec_2.mcap cannot be read") and f"inspect_bag.py {files[2]} --recover" in problem


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_compressed_file_is_read_with_and_without_metadata(tmp_path, storage):
    path = RobotBag().write(tmp_path / "bag", storage)
    (file,) = (*path.glob("*.mcap"), *path.glob("*.db3"))
    packed = file.with_name(f"{file.name}.zstd")
    packed.write_bytes(zstd.compress(file.read_bytes()))
    file.unlink()
    describe(path, compression_format="zstd", compression_mode="FILE", relative_file_paths=[packed.name])
    assert count(open_index(path)) == 5
    assert len(BagSource(open_index(path)).entries()[2].load().images) == 2
    (path / "metadata.yaml").unlink()
    assert count(open_index(*find_bags(path))) == 5


def test_what_was_unpacked_by_a_process_that_was_killed_is_removed_by_the_next(tmp_path, monkeypatch):
    path = RobotBag().write(tmp_path / "bag")
    file = path / "bag.mcap"
    (path / "bag.mcap.zstd").write_bytes(zstd.compress(file.read_bytes()))
    file.unlink()
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    code = "import os, sys, signal, pathlib; from gaussianocc_core.bags.opened import open_bag\n"
    code += "bag = open_bag(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    found = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, env={**os.environ, "TMPDIR": str(place)})
    assert found.returncode == -9
    (left,) = place.iterdir()
    assert next(left.iterdir()).stat().st_size
    bag = open_bag(path)
    assert len(list(place.iterdir())) == 1 and not left.exists()
    bag.close()
    assert not list(place.iterdir())


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_messages_compressed_one_by_one_are_read_without_metadata_too(tmp_path, storage):
    path = RobotBag().write(tmp_path / "bag", "sqlite3")
    with sqlite3.connect(path / "bag.db3") as database:
        rows = database.execute("SELECT id, data FROM messages").fetchall()
        database.executemany("UPDATE messages SET data = ? WHERE id = ?", [(zstd.compress(d), i) for i, d in rows])
    describe(path, compression_format="zstd", compression_mode="MESSAGE")
    assert count(open_index(path)) == 5
    (path / "metadata.yaml").unlink()
    assert len(BagSource(open_index(path / "bag.db3")).entries()) == 5


def _records(data: bytes):
    """Kind, whole record of an MCAP file, without its magic."""
    place = 8
    while place < len(data) - 8:
        kind, length = struct.unpack_from("<BQ", data, place)
        yield kind, data[place : place + 9 + length]
        place += 9 + length


MAGIC, DATA_END, FOOTER = b"\x89MCAP0\r\n", 0x0F, 0x02


def _file(records: list[bytes]) -> bytes:
    """An MCAP file without a summary."""
    end = struct.pack("<BQI", DATA_END, 4, 0) + struct.pack("<BQQQI", FOOTER, 20, 0, 0, 0)
    return MAGIC + b"".join(records) + end + MAGIC


def test_chunks_without_message_indexes_are_read(tmp_path):
    file = RobotBag(frames=9).write(tmp_path / "bag") / "bag.mcap"
    data = file.read_bytes()
    summary = []  # a summary whose chunk indexes name no message index, and without statistics
    for kind, record in _records(data):
        if kind == 0x08:  # chunk index: times, place, length | offsets | index length | compression ...
            body = record[9:]
            (size,) = struct.unpack_from("<I", body, 32)
            body = body[:32] + struct.pack("<I", 0) + body[36 + size :]
            record = struct.pack("<BQ", kind, len(body)) + body
        if kind not in (0x0B, 0x0E, FOOTER):
            summary.append((kind, record))
    section = [record for kind, record in summary]
    start_of_summary = next(i for i, (kind, _) in enumerate(summary) if kind == DATA_END) + 1
    offset = len(MAGIC) + sum(map(len, section[:start_of_summary]))
    file.write_bytes(MAGIC + b"".join(section) + struct.pack("<BQQQI", FOOTER, 20, offset, 0, 0) + MAGIC)
    index = open_index(file)
    assert count(index) == 9 and index.problems == () and len(BagSource(index).entries()) == 9


def test_messages_outside_of_chunks_and_out_of_order_are_read(tmp_path):
    whole = (RobotBag(frames=6).write(tmp_path / "bag") / "bag.mcap").read_bytes()
    header, heads, messages = b"", [], []
    for kind, record in _records(whole):
        if kind == 0x01:
            header = record
        elif kind == 0x06:
            (name,) = struct.unpack_from("<I", record, 9 + 28)
            content = record[9 + 32 + name + 8 :]
            assert name == 0  # RobotBag does not compress
            for inner, part in _records(MAGIC + content + MAGIC):
                (messages if inner == 0x05 else heads).append(part)
    plain = tmp_path / "fast.mcap"
    plain.write_bytes(_file([header, *heads, *messages[:40], *reversed(messages[40:])]))
    index = open_index(plain)
    assert count(index) == 6 and len(BagSource(index).entries()) == 6
    assert BagSource(index).entries()[4].load().stamp_ns == RobotBag(frames=6).stamp(4, 0)
    # The same in one chunk that no index names.
    body = b"".join([*heads, *messages])
    times = struct.pack("<QQQII", START_NS, START_NS + 10**10, len(body), 0, 0) + struct.pack("<Q", len(body))
    plain.write_bytes(_file([header, struct.pack("<BQ", 0x06, len(times) + len(body)) + times + body]))
    assert count(open_index(plain)) == 6


def test_fewer_messages_than_stored_are_said(tmp_path):
    path = RobotBag(frames=60, size=(160, 120), encoding="rgb8").write(tmp_path / "bag")
    file = path / "bag.mcap"
    data = bytearray(file.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200_000] = b"\xee" * 200_000
    file.write_bytes(data)
    index = open_index(path)
    found = count(index, "/front/image_raw")
    assert 30 < found < 60
    assert any(f"/front/image_raw {found} of 60" in problem for problem in index.problems)


def test_files_of_no_bag_are_named(tmp_path):
    for name, content, said in (("empty.mcap", b"", "is empty"), ("text.db3", b"hello, world, hello", "neither MCAP")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BagError, match=said):
            open_index(tmp_path / name)
