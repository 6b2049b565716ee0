# SPDX-License-Identifier: Apache-2.0
import resource
import struct
import subprocess
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import zstd
from rosbags.typesys import Stores, get_typestore
from ruamel.yaml import YAML

from gaussianocc_core.bags.image_codec import image_size
from gaussianocc_core.bags.schema import BagRig, ImageRecord, LabelRecord, LidarRecord, PoseRecord
from gaussianocc_core.bags.writer import refuse_existing, write_bag
from gaussianocc_core.errors import BagError, CalibrationError, DatasetError
from gaussianocc_core.geometry import transforms
from gaussianocc_core.types import Cameras

STORE = get_typestore(Stores.ROS2_JAZZY)
T0 = 1_532_402_927_604_844_001


def encode(width=64, height=36, extension=".jpg"):
    return cv2.imencode(extension, np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))[1].tobytes()


JPEG = encode()


def make_rig(names=("A",), **lens):
    count = len(names)
    intrinsics = torch.tensor([[50.0, 0, 32.5], [0, 51, 17.5], [0, 0, 1]], dtype=torch.float64)
    cameras = Cameras(
        names,
        intrinsics.repeat(count, 1, 1),
        torch.eye(4, dtype=torch.float64).repeat(count, 1, 1),
        (64,) * count,
        (36,) * count,
        **lens,
    )
    return BagRig(cameras, {"LIDAR_TOP": transforms.make_transform(np.eye(3), np.array([1.0, 2, 3]))})


def image(stamp_ns, camera="A", data=JPEG, **fields):
    return ImageRecord(stamp_ns, camera, data, **fields)


def pose(stamp_ns, x=0.0):
    return PoseRecord(stamp_ns, transforms.make_transform(np.eye(3), np.array([x, 0, 0])))


def sweep(stamp_ns, columns=5, count=7):
    return LidarRecord(stamp_ns, "LIDAR_TOP", np.arange(count * columns, dtype=np.float32).reshape(count, columns))


def read(path):
    with Reader(path) as reader:
        return [(c.topic, t, STORE.deserialize_cdr(raw, c.msgtype)) for c, t, raw in reader.messages()]


# ---- image headers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_image_size_is_read_from_the_header(extension):
    assert image_size(encode(41, 23, extension)) == (41, 23)


def test_progressive_jpeg_and_restart_markers_are_understood():
    pixels = np.zeros((23, 41, 3), np.uint8)
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 1]
    assert image_size(cv2.imencode(".jpg", pixels, options)[1].tobytes()) == (41, 23)


def test_trailing_padding_is_not_truncation():
    assert image_size(JPEG + b"\0" * 100) == (64, 36)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "empty"),
        (b"GIF89a", "neither"),
        (JPEG[:-1], "truncated"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (encode(extension=".png")[:-20], "truncated"),
        (b"\xff\xd8\xff\xd9", "no frame header"),
        (b"\xff\xd8\xff\xe0\x00\x00\xff\xd9", "no frame header"),
    ],
)
def test_a_damaged_image_is_told_from_its_bytes(data, complaint):
    with pytest.raises(ValueError, match=complaint):
        image_size(data)


# ---- content -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_at_one_stamp_the_transform_comes_first_and_camera_info_before_its_image(tmp_path, storage):
    streams = ([sweep(T0 + 5), sweep(T0 + 9)], [image(T0 + 5), image(T0 + 7)], [pose(T0), pose(T0 + 5), pose(T0 + 7)])
    report = write_bag(tmp_path / "bag", make_rig(), *streams, storage=storage)
    expected = [
        ("/tf_static", 0),
        ("/tf", 0),
        ("/tf", 5),
        ("/A/camera_info", 5),
        ("/A/image_raw/compressed", 5),
        ("/LIDAR_TOP/points", 5),
        ("/tf", 7),
        ("/A/camera_info", 7),
        ("/A/image_raw/compressed", 7),
        ("/LIDAR_TOP/points", 9),
    ]
    messages = read(tmp_path / "bag")
    assert [(topic, t - T0) for topic, t, _ in messages] == expected
    assert report.messages == len(expected)
    assert report.bytes == sum(file.stat().st_size for file in (tmp_path / "bag").iterdir())


def test_log_time_equals_header_stamp_to_the_nanosecond(tmp_path):
    write_bag(tmp_path / "bag", make_rig(), [pose(T0), image(T0 + 1), sweep(T0 + 2)])
    for _, t, message in read(tmp_path / "bag"):
        for header in [message.header] if hasattr(message, "header") else [t.header for t in message.transforms]:
            assert header.stamp.sec * 10**9 + header.stamp.nanosec == t


def test_images_pass_through_untouched_also_png(tmp_path):
    png = encode(extension=".png")
    write_bag(tmp_path / "bag", make_rig(), [image(T0), image(T0 + 1, data=png, format="png")])
    images = [m for topic, _, m in read(tmp_path / "bag") if topic.endswith("compressed")]
    assert [bytes(m.data) for m in images] == [JPEG, png]
    assert [(m.format, m.header.frame_id) for m in images] == [("jpeg", "A"), ("png", "A")]


def test_qos_types_and_version_are_what_ros2_bag_play_needs(tmp_path):
    write_bag(tmp_path / "bag", make_rig(), [pose(T0), image(T0), sweep(T0)])
    text = (tmp_path / "bag" / "metadata.yaml").read_text()
    assert "version: 8" in text
    with Reader(tmp_path / "bag") as reader:
        qos = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}
        hashes = {c.topic: c.digest for c in reader.connections}
    assert {topic: (q.reliability.name, q.durability.name) for topic, q in qos.items()} == {
        "/tf_static": ("RELIABLE", "TRANSIENT_LOCAL"),
        "/tf": ("RELIABLE", "VOLATILE"),
        "/A/image_raw/compressed": ("RELIABLE", "VOLATILE"),
        "/A/camera_info": ("RELIABLE", "VOLATILE"),
        "/LIDAR_TOP/points": ("RELIABLE", "VOLATILE"),
    }
    assert {q.history.name for q in qos.values()} == {"KEEP_LAST"}
    # As in share/tf2_msgs and share/sensor_msgs of the ROS distributions.
    assert hashes["/tf"] == "RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087"
    assert hashes["/LIDAR_TOP/points"] == "RIHS01_9198cabf7da3796ae6fe19c4cb3bdd3525492988c70522628af5daa124bae2b5"


@pytest.mark.parametrize(
    ("model", "distortion", "ros_model", "coefficients"),
    [
        ("pinhole", (), "plumb_bob", [0, 0, 0, 0, 0]),
        ("pinhole", (0.1, 0.2, 0.3, 0.4), "plumb_bob", [0.1, 0.2, 0.3, 0.4, 0]),
        ("pinhole", tuple(range(8)), "rational_polynomial", list(range(8))),
        ("equidistant", (), "equidistant", [0, 0, 0, 0]),
        ("equidistant", (0.1, 0.2, 0.3, 0.4), "equidistant", [0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_camera_info_carries_the_lens(tmp_path, model, distortion, ros_model, coefficients):
    lens = {"model": (model,), "distortion": (tuple(map(float, distortion)),)}
    write_bag(tmp_path / "bag", make_rig(**lens), [image(T0)])
    (info,) = [m for topic, _, m in read(tmp_path / "bag") if topic.endswith("camera_info")]
    assert (info.width, info.height, info.distortion_model) == (64, 36, ros_model)
    assert info.d.tolist() == coefficients
    assert info.k.tolist() == [50, 0, 32, 0, 51, 17, 0, 0, 1]  # from the first pixel's centre; ours: from its corner
    assert info.r.tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert info.p.tolist() == [50, 0, 32, 0, 0, 51, 17, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(("columns", "step"), [(4, 16), (5, 20)])
def test_points_read_back_by_their_fields(tmp_path, columns, step):
    record = sweep(T0, columns)
    write_bag(tmp_path / "bag", make_rig(), [record])
    (cloud,) = [m for topic, _, m in read(tmp_path / "bag") if topic == "/LIDAR_TOP/points"]
    formats = {7: "<f4", 4: "<u2"}
    fields = {
        "names": [f.name for f in cloud.fields],
        "formats": [formats[f.datatype] for f in cloud.fields],
        "offsets": [f.offset for f in cloud.fields],
        "itemsize": cloud.point_step,
    }
    points = np.frombuffer(cloud.data.tobytes(), np.dtype(fields))
    assert [*points.dtype.names] == ["x", "y", "z", "intensity", "ring"][:columns]
    np.testing.assert_array_equal(np.column_stack([points[name] for name in points.dtype.names]), record.points)
    assert (cloud.height, cloud.width, cloud.point_step, cloud.row_step) == (1, 7, step, 7 * step)
    assert cloud.is_dense
    assert cloud.header.frame_id == "LIDAR_TOP"


@pytest.mark.parametrize("columns", [4, 5])
def test_an_empty_sweep_is_a_valid_cloud(tmp_path, columns):
    write_bag(tmp_path / "bag", make_rig(), [sweep(T0, columns, count=0)])
    (cloud,) = [m for topic, _, m in read(tmp_path / "bag") if topic == "/LIDAR_TOP/points"]
    assert (cloud.width, len(cloud.data)) == (0, 0)


def test_transforms_name_parent_and_child_and_quaternions_are_xyzw(tmp_path):
    quarter_turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # about z: w = z = sqrt(1/2)
    record = PoseRecord(T0, transforms.make_transform(quarter_turn, np.array([1.0, 2, 3])))
    write_bag(tmp_path / "bag", make_rig(), [record])
    (_, _, static), (_, _, moving) = read(tmp_path / "bag")
    edges = [(t.header.frame_id, t.child_frame_id) for t in static.transforms]
    assert edges == [("base_link", "A"), ("base_link", "LIDAR_TOP"), ("map", "odom")]
    (edge,) = moving.transforms
    assert (edge.header.frame_id, edge.child_frame_id) == ("odom", "base_link")
    q, p = edge.transform.rotation, edge.transform.translation
    np.testing.assert_allclose([q.x, q.y, q.z, q.w], [0, 0, 0.5**0.5, 0.5**0.5], atol=1e-15)
    assert (p.x, p.y, p.z) == (1, 2, 3)


def test_provenance_is_kept_in_the_bag(tmp_path):
    write_bag(tmp_path / "bag", make_rig(), [pose(T0)], provenance={"scene": "here"})
    assert "scene: here" in (tmp_path / "bag" / "metadata.yaml").read_text()


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_metadata_is_what_rosbags_itself_writes(tmp_path, storage):
    records = [pose(T0), image(T0), sweep(T0 + 5)]
    provenance = {"scene": "no", "token": "0061", "text": "größer: 'as' \"is\""}
    write_bag(tmp_path / "bag", make_rig(), records, storage=storage, provenance=provenance)
    ours = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    with (
        Reader(tmp_path / "bag") as reader,
        Writer(tmp_path / "theirs" / "bag", version=8, storage_plugin=plugin) as writer,
    ):
        assert reader.message_count == 5
        for key, value in ours["custom_data"].items():
            writer.set_custom_data(key, value)
        connections = {
            c.topic: writer.add_connection(
                c.topic, c.msgtype, typestore=STORE, offered_qos_profiles=c.ext.offered_qos_profiles
            )
            for c in reader.connections
        }
        for c, t, raw in reader.messages():
            writer.write(connections[c.topic], t, raw)
    theirs = YAML(typ="safe").load((tmp_path / "theirs" / "bag" / "metadata.yaml").read_text())
    assert ours == theirs["rosbag2_bagfile_information"]
    assert (
        ours == YAML(typ="safe").load((tmp_path / "bag" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    )


def test_every_entry_of_the_message_index_points_at_its_message(tmp_path):
    labels = np.zeros((36, 64), np.uint8)
    records = [r for k in range(8) for r in (image(T0 + k, data=JPEG + bytes(200_000)), sweep(T0 + k))]
    labelled = [LabelRecord(T0 + k, "A", labels) for k in range(8)]
    write_bag(tmp_path / "bag", make_rig(), records, labelled)
    data = (tmp_path / "bag" / "bag.mcap").read_bytes()
    place, found, content, compressions = 8, 0, b"", set()
    while place < len(data) - 8:
        kind, size = struct.unpack_from("<BQ", data, place)
        body = data[place + 9 : place + 9 + size]
        if kind == 0x06:  # chunk
            length, _, named = struct.unpack_from("<QII", body, 16)
            compressions.add(body[32 : 32 + named])
            content = body[32 + named + 8 :]
            content = zstd.decompress(content) if named else content
            assert len(content) == length
        elif kind == 0x07:  # message index of that chunk
            channel, entries = struct.unpack_from("<HI", body)
            for stamp, offset in struct.iter_unpack("<QQ", body[6 : 6 + entries]):
                operation, _, of, _, logged, _ = struct.unpack_from("<BQHIQQ", content, offset)
                assert (operation, of, logged) == (0x05, channel, stamp)
                found += 1
        place += 9 + size
    assert found == 1 + 8 * 4  # tf_static; camera_info, image, labels, points
    assert compressions == {b"", b"zstd"}


# ---- files ---------------------------------------------------------------------------------------------------------


def fail_after(records, error):
    yield from records
    raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DatasetError("gone"), RuntimeError("bug")])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_nothing_is_left_behind_when_the_source_fails_and_an_old_bag_survives(tmp_path, error, storage):
    write_bag(tmp_path / "old", make_rig(), [pose(T0)])
    before = (tmp_path / "old" / "old.mcap").read_bytes()
    for name, overwrite in (("new", False), ("old", True)):
        with pytest.raises(type(error)):
            records = fail_after([pose(T0 + 1), image(T0 + 2)], error)
            write_bag(tmp_path / name, make_rig(), records, storage=storage, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old" / "old.mcap").read_bytes() == before


def test_an_old_bag_survives_a_failing_rename(tmp_path, monkeypatch):
    write_bag(tmp_path / "bag", make_rig(), [pose(T0)])
    rename = Path.rename

    def fail_for_the_new_bag(path, target):
        if path.parent.name.startswith(".bag.partial-") and not path.name.endswith(".replaced"):
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_bag)
    with pytest.raises(BagError, match="Input/output error"):
        write_bag(tmp_path / "bag", make_rig(), [pose(T0), pose(T0 + 1)], overwrite=True)
    assert len(read(tmp_path / "bag")) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]


def test_an_existing_bag_is_replaced_only_when_asked(tmp_path):
    write_bag(tmp_path / "bag", make_rig(), [pose(T0)])
    with pytest.raises(BagError, match="--overwrite"):
        write_bag(tmp_path / "bag", make_rig(), [pose(T0), pose(T0 + 1)])
    assert len(read(tmp_path / "bag")) == 2
    write_bag(tmp_path / "bag", make_rig(), [pose(T0), pose(T0 + 1)], storage="sqlite3", overwrite=True)
    assert len(read(tmp_path / "bag")) == 3
    assert sorted(path.name for path in (tmp_path / "bag").iterdir()) == ["bag.db3", "metadata.yaml"]
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]


def test_a_folder_that_is_no_bag_is_never_overwritten(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "final.tex").write_text("years of work")
    with pytest.raises(BagError, match="not a rosbag2"):
        refuse_existing(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "final.tex").is_file()


def test_an_output_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BagError, match="cannot write to .*file"):
        write_bag(tmp_path / "file" / "bag", make_rig(), [pose(T0)])


@contextmanager
def full_disk(folder):
    """A file system of 1 MB, which only root may mount."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small file system to fill: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        # Lazily: the error that a test holds keeps SQLite's file open.
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def file_size_limit(folder):
    """No file of this process may pass 1 MB; what that does to a write is EFBIG instead of ENOSPC."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("megabytes", [1.5, 8])  # SQLite keeps 2 MB in memory: it fails at the end, or on the way
@pytest.mark.parametrize("limit", [full_disk, file_size_limit])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, storage, limit, megabytes):
    records = [image(T0 + k, data=JPEG + b"\0" * 200_000) for k in range(round(megabytes * 5))]
    with limit(tmp_path):
        with pytest.raises(BagError, match=f"^writing {tmp_path}/bag failed: .*; nothing was left behind$"):
            write_bag(tmp_path / "bag", make_rig(), records, storage=storage)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("records", "error", "complaint"),
    [
        ([], DatasetError, "nothing to write"),
        ([pose(T0 + 1), pose(T0)], DatasetError, "not in time order"),
        ([image(T0, data=JPEG[:-9], source="token 7, a.jpg")], DatasetError, "token 7, a.jpg: the JPEG is truncated"),
        ([image(T0, data=encode(32, 18))], DatasetError, "32x18 pixels, its calibration says 64x36"),
        ([PoseRecord(T0, np.full((4, 4), np.nan))], CalibrationError, "odom -> base_link"),
    ],
)
def test_bad_input_is_refused_with_its_place_and_leaves_nothing(tmp_path, records, error, complaint):
    with pytest.raises(error, match=complaint):
        write_bag(tmp_path / "bag", make_rig(), records)
    assert list(tmp_path.iterdir()) == []


def test_non_finite_intrinsics_are_refused(tmp_path):
    rig = make_rig()
    rig.cameras.intrinsics[0, 0, 0] = float("nan")
    with pytest.raises(CalibrationError, match="camera A"):
        write_bag(tmp_path / "bag", rig, [image(T0)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_memory_does_not_grow_with_the_length_of_the_recording(tmp_path, storage):
    padded = JPEG + b"\0" * 200_000  # the size of a real frame

    def peak(frames):
        records = (r for k in range(frames) for r in (pose(T0 + k), image(T0 + k, data=padded)))
        tracemalloc.start()
        write_bag(tmp_path / f"bag{frames}", make_rig(), records, storage=storage)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak_bytes

    peak(2)  # imports
    short, long = peak(20), peak(150)  # 4 MB and 30 MB
    assert long < short + 2_000_000
