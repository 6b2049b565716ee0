# SPDX-License-Identifier: Apache-2.0
import shutil
import sqlite3

import cv2
import numpy as np
import pytest
from support.nuscenes_fixtures import RING, MadeUpDatabase, join_real_full_size_keyframe, real_keyframes

from gaussianocc_core.bags.check import BagCheck, check_bag, find_differences, format_checks, read_metadata
from gaussianocc_core.bags.convert import write_recording
from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.errors import BagError

SCENE = "scene-0001"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return MadeUpDatabase(semantics=True, points=50).write(tmp_path_factory.mktemp("nuscenes") / "db")


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks")
    for camera in RING:
        cv2.imwrite(str(folder / f"{camera}_mask.png"), np.full((36, 64), 255, np.uint8))
    return folder


@pytest.fixture(scope="module")
def recording(root, masks):
    return NuScenesSource(root).recording(SCENE, masks=masks)


@pytest.fixture(scope="module", params=["mcap", "sqlite3"])
def written(request, recording, tmp_path_factory):
    return write_recording(recording, tmp_path_factory.mktemp(request.param) / SCENE, storage=request.param)


@pytest.fixture
def bag(written, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(written.path, tmp_path / SCENE)


def check(path, recording):
    return check_bag(path, recording.open_rig(), recording.records())


def faults(path, recording):
    return dict(reversed(check(path, recording).faults))  # the first of each column


def edit_metadata(bag, change):
    path = bag / "metadata.yaml"
    path.write_text(change(path.read_text()))


# ---- what a bag says of itself -------------------------------------------------------------------------------------


def test_a_bag_names_its_source_its_options_and_what_it_holds(written, recording):
    bag = read_metadata(written.path)
    assert bag.provenance == {
        "schema": "gaussianocc",
        "source": "nuScenes schema v1.0-mini",
        "scene": SCENE,
        "sweeps": "included",
        "lidar": "included",
        "labels": "included",
        "masks": "included",
    }
    assert bag.counts == {topic: each.messages for topic, each in written.contents.items()}
    assert bag.checksums == {topic: each.checksum for topic, each in written.contents.items()}
    assert sum(bag.counts.values()) == written.messages
    assert bag.storage in written.path.with_suffix("").parent.name


def test_the_number_of_messages_is_known_without_opening_a_file(written, recording):
    assert recording.count_messages() == {topic: each.messages for topic, each in written.contents.items()}
    assert find_differences(read_metadata(written.path), recording.provenance, recording.count_messages()) == []


def test_other_options_are_named(written, root, masks):
    other = NuScenesSource(root).recording(SCENE, sweeps=False, masks=masks)
    differences = find_differences(read_metadata(written.path), other.provenance, other.count_messages())
    assert differences == ["sweeps was included, now left out"]


def test_labels_that_came_later_are_named(written, recording):
    counts = {**recording.count_messages(), "/CAM_BACK/semantic/image_raw": 9}
    (difference,) = find_differences(read_metadata(written.path), recording.provenance, counts)
    assert difference == "/CAM_BACK/semantic/image_raw has 2 messages, its source now gives 9"


def test_a_missing_storage_file_is_named(bag, recording):
    (bag / next(path.name for path in bag.iterdir() if path.name != "metadata.yaml")).unlink()
    (difference,) = find_differences(read_metadata(bag), recording.provenance, recording.count_messages())
    assert "is missing" in difference


@pytest.mark.parametrize("text", ["", "{", "rosbag2_bagfile_information: 3", "\0"])
def test_damaged_metadata_is_one_line_that_says_what_to_do(bag, text):
    edit_metadata(bag, lambda _: text)
    with pytest.raises(BagError, match="is damaged .*convert its scene again") as caught:
        read_metadata(bag)
    assert "\n" not in str(caught.value)


def test_a_folder_without_metadata_is_no_bag(tmp_path):
    with pytest.raises(BagError, match="is no bag"):
        read_metadata(tmp_path)


# ---- reading it all ------------------------------------------------------------------------------------------------


def test_an_untouched_bag_is_found_right_in_every_message(written, recording):
    result = check(written.path, recording)
    assert result == BagCheck(SCENE, len(written.contents), written.messages, ())


@pytest.mark.parametrize("make", [lambda shared, tmp: real_keyframes(shared), join_real_full_size_keyframe])
def test_a_bag_of_real_frames_is_found_right(make, shared_data, tmp_path):
    root = make(shared_data, tmp_path / "db")
    recording = NuScenesSource(root).recording("scene-0061")
    report = write_recording(recording, tmp_path / "scene-0061")
    assert check(report.path, recording).faults == ()


def test_a_byte_that_changed_is_found_and_its_message_named(bag, recording):
    if (storage := bag / f"{SCENE}.mcap").is_file():
        data = bytearray(storage.read_bytes())
        third = recording_images(recording, "CAM_BACK")[2]
        place = data.index(third) + len(third) // 2
        data[place] ^= 1
        storage.write_bytes(data)
    else:
        with sqlite3.connect(bag / f"{SCENE}.db3") as database:
            query = "SELECT id FROM topics WHERE name = '/CAM_BACK/image_raw/compressed'"
            ((topic,),) = database.execute(query)
            query = "SELECT id, data FROM messages WHERE topic_id = ? ORDER BY timestamp LIMIT 1 OFFSET 2"
            ((message, data),) = database.execute(query, (topic,))
            database.execute("UPDATE messages SET data = ? WHERE id = ?", (data[:-9] + b"?" + data[-8:], message))
    found = faults(bag, recording)
    assert set(found) == {"checksums", "source"}
    assert "/CAM_BACK/image_raw/compressed: message 2 is not that of its source (sample_data" in found["source"]


def recording_images(recording, camera):
    return [record.data for record in recording.records() if getattr(record, "data", None) and record.camera == camera]


def test_a_file_cut_off_is_told_from_its_metadata(bag, recording):
    storage = next(path for path in bag.iterdir() if path.suffix in (".mcap", ".db3"))
    storage.write_bytes(storage.read_bytes()[: storage.stat().st_size // 2])
    assert "convert its scene again" in faults(bag, recording)["counts"]


def test_a_lost_message_shows_in_the_counts(recording, tmp_path):
    written = write_recording(recording, tmp_path / SCENE, storage="sqlite3")
    with sqlite3.connect(written.path / f"{SCENE}.db3") as database:
        database.execute("DELETE FROM messages WHERE id = (SELECT max(id) FROM messages)")
    found = faults(written.path, recording)
    assert "messages, metadata says" in found["counts"]
    assert "is missing" in found["source"]


def test_a_database_whose_rows_are_programs_is_refused(recording, tmp_path):
    """Each of its messages would have 900 MB, which stand nowhere."""
    written = write_recording(recording, tmp_path / SCENE, storage="sqlite3")
    with sqlite3.connect(written.path / f"{SCENE}.db3") as database:
        database.execute("ALTER TABLE messages RENAME TO kept")
        database.execute(
            "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, "
            "data BLOB GENERATED ALWAYS AS (zeroblob(900000000)))"
        )
        database.execute("INSERT INTO messages(id, topic_id, timestamp) SELECT id, topic_id, timestamp FROM kept")
    found = check(written.path, recording)
    assert dict(reversed(found.faults))["counts"].startswith("cannot be read to its end") and found.messages == 0


def test_a_log_time_apart_from_the_stamp_shows_in_the_order(recording, tmp_path):
    written = write_recording(recording, tmp_path / SCENE, storage="sqlite3")
    with sqlite3.connect(written.path / f"{SCENE}.db3") as database:
        database.execute("UPDATE messages SET timestamp = timestamp + 1 WHERE id = 40")
    result = check(written.path, recording)
    assert [column for column, _ in result.faults] == ["order"]
    assert "but logged at" in result.faults[0][1]


def test_a_source_file_that_changed_since_is_found(root, written, tmp_path):
    changed = tmp_path / "db"
    shutil.copytree(root, changed)
    path = next((changed / "samples" / "LIDAR_TOP").iterdir())
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    recording = NuScenesSource(changed).recording(SCENE, masks=None)
    found = {what for column, what in check(written.path, recording).faults if column == "source"}
    assert len(found) == 1 + 6  # and six masks that this recording does not have
    assert sum("/LIDAR_TOP/points: message" in what for what in found) == 1


def test_a_source_file_that_is_gone_is_named(root, written, masks, tmp_path):
    changed = shutil.copytree(root, tmp_path / "db")
    path = next((changed / "sweeps" / "CAM_BACK").iterdir())
    path.unlink()
    recording = NuScenesSource(changed).recording(SCENE, masks=masks)
    found = faults(written.path, recording)
    assert set(found) == {"source"}
    assert str(path) in found["source"]


def test_a_bag_of_an_earlier_version_has_no_checksums_and_is_told_so(bag, recording):
    edit_metadata(bag, lambda text: text.replace("    contents: ", "    other: "))
    assert faults(bag, recording) == {"checksums": "it was written without; convert its scene again"}


def test_the_table_has_a_line_for_each_bag_and_one_for_each_fault():
    good = BagCheck("scene-0001", 20, 3000, ())
    bad = BagCheck("scene-0002", 20, 2999, (("counts", "/tf: 1 messages, metadata says 2"),))
    lines = format_checks([good, bad]).splitlines()
    assert lines[0].split() == ["bag", "topics", "messages", "counts", "order", "checksums", "source"]
    assert lines[1].split() == ["scene-0001", "20", "3000", "ok", "ok", "ok", "ok"]
    assert lines[2].split() == ["scene-0002", "20", "2999", "WRONG", "ok", "ok", "ok"]
    assert lines[3] == "  counts: /tf: 1 messages, metadata says 2"


def test_a_bag_that_cannot_be_opened_was_not_compared():
    line = format_checks([BagCheck("a", 0, 0, (("counts", "it is no bag"),))]).splitlines()[1]
    assert line.split() == ["a", "0", "0", "WRONG", "-", "-", "-"]
