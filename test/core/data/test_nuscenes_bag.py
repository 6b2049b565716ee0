# SPDX-License-Identifier: Apache-2.0
"""From a database to a bag and back: what a bag says must be what the tables and files say."""

import shutil
import tracemalloc
from collections import defaultdict

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import Reader
from support.nuscenes_fixtures import (
    RING,
    MadeUpDatabase,
    join_real_full_size_keyframe,
    read_table,
    real_keyframes,
    write_table,
)

from gaussianocc_core.bags.convert import write_recording
from gaussianocc_core.bags.indexing import open_index
from gaussianocc_core.bags.typestore import OCCUPANCY_TYPE, open_typestore
from gaussianocc_core.data.nuscenes import NuScenesSource, write_scene_bag
from gaussianocc_core.errors import DatasetError
from gaussianocc_core.geometry import transforms
from gaussianocc_core.labels import CLASS_NAMES, GENERATOR_TO_OCC3D

STORE = open_typestore()
CASES = {
    "made-up, mcap": (lambda shared, tmp: MadeUpDatabase().write(tmp), "scene-0001", "mcap", 2),
    "made-up, sqlite3": (lambda shared, tmp: MadeUpDatabase().write(tmp), "scene-0001", "sqlite3", 2),
    "real 400x225": (lambda shared, tmp: real_keyframes(shared), "scene-0061", "mcap", 1),
    "real 1600x900": (join_real_full_size_keyframe, "scene-0061", "mcap", 1),
}


class Converted:
    """A converted scene: its database's rows by channel, and its bag's messages by topic."""

    def __init__(self, root, scene, storage, lidar_keyframes, folder):
        self.root, self.lidar_keyframes = root, lidar_keyframes
        self.source = NuScenesSource(root)
        self.report = write_scene_bag(self.source, scene, folder / scene, storage=storage)
        with Reader(self.report.path) as reader:
            stream = [(c.topic, t, STORE.deserialize_cdr(raw, c.msgtype)) for c, t, raw in reader.messages()]
        self.order = [(topic, t) for topic, t, _ in stream]
        self.topics = defaultdict(list)
        for topic, t, message in stream:
            self.topics[topic].append((t, message))
        tables = {name: {row["token"]: row for row in read_table(root, name)} for name in ("sensor", "ego_pose")}
        self.poses = tables["ego_pose"]
        self.calibrations = {}
        channels = {}
        for row in read_table(root, "calibrated_sensor"):
            channels[row["token"]] = tables["sensor"][row["sensor_token"]]["channel"]
            self.calibrations[channels[row["token"]]] = row
        self.rows = defaultdict(list)
        for row in sorted(read_table(root, "sample_data"), key=lambda row: row["timestamp"]):
            self.rows[channels[row["calibrated_sensor_token"]]].append(row)
        self.cameras = [channel for channel in self.rows if channel.startswith("CAM")]

    def static(self):
        ((_, message),) = self.topics["/tf_static"]
        return {(t.header.frame_id, t.child_frame_id): matrix(t) for t in message.transforms}

    def T_odom_ego(self):
        return {t: matrix(message.transforms[0]) for t, message in self.topics["/tf"]}


def matrix(stamped):
    q, p = stamped.transform.rotation, stamped.transform.translation
    return transforms.make_transform(
        transforms.quat_to_matrix(np.array([q.w, q.x, q.y, q.z])), np.array([p.x, p.y, p.z])
    )


def table_matrix(row):
    return transforms.make_transform(transforms.quat_to_matrix(np.array(row["rotation"])), np.array(row["translation"]))


def xyz(cloud):
    layout = np.dtype({"names": "xyz", "formats": ["<f4"] * 3, "offsets": [0, 4, 8], "itemsize": cloud.point_step})
    assert [f.name for f in cloud.fields] == ["x", "y", "z", "intensity", "ring"]
    points = np.frombuffer(cloud.data.tobytes(), layout)
    return np.column_stack([points[axis] for axis in "xyz"]).astype(np.float64)


@pytest.fixture(scope="module", params=CASES, ids=str)
def converted(request, tmp_path_factory):
    write, scene, storage, lidar_keyframes = CASES[request.param]
    shared = request.getfixturevalue("shared_data") if "real" in request.param else None
    folder = tmp_path_factory.mktemp("case")
    return Converted(write(shared, folder / "db"), scene, storage, lidar_keyframes, folder)


def test_image_bytes_are_those_of_the_files_in_order(converted):
    assert len(converted.cameras) == 6
    for camera in converted.cameras:
        messages = converted.topics[f"/{camera}/image_raw/compressed"]
        rows = converted.rows[camera]
        assert [t for t, _ in messages] == [row["timestamp"] * 1000 for row in rows]
        assert [bytes(m.data) for _, m in messages] == [(converted.root / row["filename"]).read_bytes() for row in rows]
        assert {m.header.frame_id for _, m in messages} == {camera}


def test_every_image_has_its_camera_info_with_the_tables_intrinsics(converted):
    for camera in converted.cameras:
        infos = converted.topics[f"/{camera}/camera_info"]
        assert [t for t, _ in infos] == [row["timestamp"] * 1000 for row in converted.rows[camera]]
        for (t, info), row in zip(infos, converted.rows[camera], strict=True):
            assert info.header.stamp.sec * 10**9 + info.header.stamp.nanosec == t
            assert info.header.frame_id == camera
            K = converted.calibrations[camera]["camera_intrinsic"]
            np.testing.assert_allclose(info.k.reshape(3, 3), K, rtol=0, atol=1e-12)
            assert (info.width, info.height) == (row["width"], row["height"])
            assert (info.distortion_model, info.d.tolist()) == ("plumb_bob", [0.0] * 5)


def test_static_transforms_are_the_tables_extrinsics(converted):
    static = converted.static()
    sensors = [*converted.cameras, "LIDAR_TOP"]
    assert set(static) == {("base_link", sensor) for sensor in sensors} | {("map", "odom")}
    for sensor in sensors:
        expected = table_matrix(converted.calibrations[sensor])
        np.testing.assert_allclose(static["base_link", sensor], expected, rtol=0, atol=1e-12)


def test_motion_is_the_tables_ego_poses_at_every_sensor_stamp(converted):
    T_map_odom = converted.static()["map", "odom"]
    T_odom_ego = converted.T_odom_ego()
    rows = [row for channel in converted.rows.values() for row in channel]
    assert set(T_odom_ego) == {row["timestamp"] * 1000 for row in rows}
    assert len(converted.topics["/tf"]) == len(T_odom_ego)  # each stamp once
    for row in rows:
        T_map_ego = table_matrix(converted.poses[row["ego_pose_token"]])
        # 1e-9 m and rad: the quaternion of a relative pose rounds at 1e-16, times 1200 m from the map's origin
        np.testing.assert_allclose(T_map_odom @ T_odom_ego[row["timestamp"] * 1000], T_map_ego, rtol=0, atol=1e-9)
    np.testing.assert_allclose(T_odom_ego[min(T_odom_ego)], np.eye(4), atol=1e-9)  # odom is where the scene begins


def test_lidar_points_are_those_of_the_files(converted):
    clouds = converted.topics["/LIDAR_TOP/points"]
    rows = converted.rows["LIDAR_TOP"]
    assert [t for t, _ in clouds] == [row["timestamp"] * 1000 for row in rows]
    for (_, cloud), row in zip(clouds, rows, strict=True):
        expected = np.fromfile(converted.root / row["filename"], "<f4").reshape(-1, 5)
        np.testing.assert_array_equal(xyz(cloud), expected[:, :3])
        layout = {"names": ["i", "r"], "formats": ["<f4", "<u2"], "offsets": [12, 16], "itemsize": cloud.point_step}
        rest = np.frombuffer(cloud.data.tobytes(), np.dtype(layout))
        np.testing.assert_array_equal(rest["i"], expected[:, 3])
        np.testing.assert_array_equal(rest["r"], expected[:, 4])


def test_messages_are_in_time_order_and_what_an_image_needs_precedes_it(converted):
    assert converted.order[0][0] == "/tf_static"
    assert [t for _, t in converted.order] == sorted(t for _, t in converted.order)
    place = {key: i for i, key in enumerate(converted.order)}
    for (topic, t), i in place.items():
        if topic.endswith("compressed"):
            assert place["/tf", t] < i
            assert place[topic.replace("image_raw/compressed", "camera_info"), t] < i
    assert converted.report.messages == len(converted.order)


def test_lidar_projects_into_the_images_as_the_devkit_projects_it(converted):
    from nuscenes.nuscenes import NuScenes

    devkit = NuScenes("v1.0-mini", str(converted.root), verbose=False)
    static, T_odom_ego = converted.static(), converted.T_odom_ego()
    compared = 0
    for lidar_row in converted.rows["LIDAR_TOP"]:
        if not lidar_row["is_key_frame"]:
            continue
        t_lidar = lidar_row["timestamp"] * 1000
        cloud = dict(converted.topics["/LIDAR_TOP/points"])[t_lidar]
        T_odom_lidar = T_odom_ego[t_lidar] @ static["base_link", "LIDAR_TOP"]
        for camera in converted.cameras:
            (row,) = [
                row
                for row in converted.rows[camera]
                if row["sample_token"] == lidar_row["sample_token"] and row["is_key_frame"]
            ]
            t_image = row["timestamp"] * 1000
            info = dict(converted.topics[f"/{camera}/camera_info"])[t_image]
            T_odom_cam = T_odom_ego[t_image] @ static["base_link", camera]
            T_cam_lidar = transforms.invert_matrix(T_odom_cam) @ T_odom_lidar
            points = xyz(cloud) @ T_cam_lidar[:3, :3].T + T_cam_lidar[:3, 3]
            pixels = points @ info.k.reshape(3, 3).T
            u, v = pixels[:, 0] / pixels[:, 2], pixels[:, 1] / pixels[:, 2]
            # the devkit's own borders: one pixel, one metre
            seen = (points[:, 2] > 1) & (u > 1) & (u < info.width - 1) & (v > 1) & (v < info.height - 1)
            theirs, depth, _ = devkit.explorer.map_pointcloud_to_image(lidar_row["token"], row["token"])
            assert abs(seen.sum() - theirs.shape[1]) <= 0.01 * theirs.shape[1]
            assert theirs.shape[1] > 5
            assert abs(np.median(points[seen, 2]) - np.median(depth)) < 0.01
            compared += 1
    assert compared == 6 * converted.lidar_keyframes


# ---- options and bad input -----------------------------------------------------------------------------------------


@pytest.fixture
def database(tmp_path):
    return MadeUpDatabase(keyframes=1, frames_per_keyframe=2, points=10).write(tmp_path / "db")


def count_topics(path):
    with Reader(path) as reader:
        return {c.topic: c.msgcount for c in reader.connections}


def test_sweeps_and_lidar_can_be_left_out(database, tmp_path):
    source = NuScenesSource(database)
    both = count_topics(write_scene_bag(source, "scene-0001", tmp_path / "a").path)
    keyframes = count_topics(write_scene_bag(source, "scene-0001", tmp_path / "b", sweeps=False).path)
    images = count_topics(write_scene_bag(source, "scene-0001", tmp_path / "c", lidar=False).path)
    assert both["/CAM_FRONT/image_raw/compressed"] == 2
    assert keyframes["/CAM_FRONT/image_raw/compressed"] == 1
    assert "/LIDAR_TOP/points" not in images
    assert images["/CAM_FRONT/image_raw/compressed"] == 2
    assert images["/tf"] == both["/tf"]  # poses at lidar stamps stay: they make the motion denser


def test_files_are_counted_for_the_progress_bar(database):
    source = NuScenesSource(database)
    assert source.recording("scene-0001").files == 15  # 12 images, 2 lidar sweeps, 1 of occupancy
    assert source.recording("scene-0001", sweeps=False).files == 8
    assert source.recording("scene-0001", lidar=False).files == 13
    assert source.recording("scene-0001", labels=False).files == 14


# ---- labels, truth and masks ---------------------------------------------------------------------------------------


@pytest.fixture
def labelled(tmp_path):
    return MadeUpDatabase(semantics=True, points=10).write(tmp_path / "db")


def read_topic(path, topic):
    with Reader(path) as reader:
        found = [each for each in reader.connections if each.topic == topic]
        return [(t, STORE.deserialize_cdr(raw, c.msgtype)) for c, t, raw in reader.messages(found)]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_labels_of_every_labelled_image_have_its_stamp_its_frame_and_occ3d_ids(labelled, tmp_path, storage):
    path = write_scene_bag(NuScenesSource(labelled), "scene-0001", tmp_path / "bag", storage=storage).path
    images = dict(read_topic(path, "/CAM_BACK/image_raw/compressed"))
    labels = read_topic(path, "/CAM_BACK/semantic/image_raw")
    rows = [row for row in read_table(labelled, "sample_data") if "samples/CAM_BACK/" in row["filename"]]
    rows.sort(key=lambda row: row["timestamp"])
    assert [t for t, _ in labels] == [row["timestamp"] * 1000 for row in rows]  # two keyframes of six images
    for (t, message), row in zip(labels, rows, strict=True):
        assert message.header == images[t].header
        assert (message.encoding, message.width, message.height, message.step) == ("mono8", 64, 36, 64)
        file = labelled / "nuscenes_semantic" / row["filename"].replace(".jpg", "_mask.bin")
        ids = np.fromfile(file, np.int8)
        assert {-1, 0, 16} <= set(ids.tolist())
        expected = [255 if each == -1 else GENERATOR_TO_OCC3D[each] for each in ids]
        assert message.data.tolist() == expected


def test_labels_follow_their_image_and_truth_comes_last(labelled, tmp_path):
    path = write_scene_bag(NuScenesSource(labelled), "scene-0001", tmp_path / "bag").path
    with Reader(path) as reader:
        order = [(c.topic, t) for c, t, _ in reader.messages()]
    place = {key: i for i, key in enumerate(order)}
    for (topic, t), i in place.items():
        if topic.endswith("semantic/image_raw"):
            assert place[topic.replace("semantic/image_raw", "image_raw/compressed"), t] < i
        if topic == "/occupancy_gt":
            assert place["/LIDAR_TOP/points", t] < i and place["/tf", t] < i


@pytest.mark.parametrize("lidar", [True, False])
def test_truth_is_that_of_the_file_at_the_keyframes_lidar_stamp(labelled, tmp_path, lidar):
    path = write_scene_bag(NuScenesSource(labelled), "scene-0001", tmp_path / "bag", lidar=lidar).path
    truths = read_topic(path, "/occupancy_gt")
    rows = [row for row in read_table(labelled, "sample_data") if "samples/LIDAR_TOP" in row["filename"]]
    rows.sort(key=lambda row: row["timestamp"])
    assert [t for t, _ in truths] == [row["timestamp"] * 1000 for row in rows]
    for (t, truth), row in zip(truths, rows, strict=True):
        assert truth.header.stamp.sec * 10**9 + truth.header.stamp.nanosec == t
        assert truth.header.frame_id == "base_link"
        with np.load(labelled / "gts" / "scene-0001" / row["sample_token"] / "labels.npz") as file:
            expected = np.where(file["mask_camera"] == 1, file["semantics"], 255)
        shape = (truth.size_x, truth.size_y, truth.size_z)
        np.testing.assert_array_equal(truth.labels.reshape(shape, order="F"), expected)
        assert truth.class_names == list(CLASS_NAMES)
        assert truth.voxel_size.x * truth.size_x == pytest.approx(80)
        assert truth.voxel_size.z * truth.size_z == pytest.approx(6.4)


def test_real_truth_is_read_at_its_published_size(labelled, shared_data, tmp_path):
    (published,) = (shared_data / "data" / "occ3d_gt").glob("*/labels.npz")
    target = next((labelled / "gts" / "scene-0001").glob("*/labels.npz"))
    target.write_bytes(published.read_bytes())
    path = write_scene_bag(NuScenesSource(labelled), "scene-0001", tmp_path / "bag").path
    (truth,) = [m for _, m in read_topic(path, "/occupancy_gt") if m.size_x == 200]
    assert (truth.voxel_size.x, truth.voxel_size.y) == (pytest.approx(0.4), pytest.approx(0.4))
    with np.load(published) as file:
        seen = file["mask_camera"] == 1
        labels = truth.labels.reshape(200, 200, 16, order="F")
        np.testing.assert_array_equal(labels[seen], file["semantics"][seen])
        assert (labels[~seen] == 255).all()


def test_labels_and_truth_can_be_left_out(labelled, tmp_path):
    topics = count_topics(write_scene_bag(NuScenesSource(labelled), "scene-0001", tmp_path / "a", labels=False).path)
    assert not [topic for topic in topics if "semantic" in topic or "occupancy" in topic]


def test_a_camera_without_labels_has_no_such_topic(labelled, tmp_path):
    for path in (labelled / "nuscenes_semantic" / "samples" / "CAM_BACK").iterdir():
        path.unlink()
    topics = count_topics(write_scene_bag(NuScenesSource(labelled), "scene-0001", tmp_path / "a").path)
    assert topics["/CAM_FRONT/semantic/image_raw"] == 2
    assert "/CAM_BACK/semantic/image_raw" not in topics


def test_the_schema_of_truth_is_in_the_bag(labelled, tmp_path):
    path = write_scene_bag(NuScenesSource(labelled), "scene-0001", tmp_path / "a").path
    with Reader(path) as reader:
        (connection,) = [each for each in reader.connections if each.topic == "/occupancy_gt"]
    assert connection.msgtype == OCCUPANCY_TYPE
    assert "uint8[] labels" in connection.msgdef.data
    assert connection.digest == STORE.hash_rihs01(OCCUPANCY_TYPE)


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [
        ("nuscenes_semantic/**/*_mask.bin", "3 bytes, expected"),
        ("gts/**/labels.npz", "occupancy labels .* cannot be read"),
    ],
)
def test_labels_that_cannot_be_used_are_named_and_leave_no_bag(labelled, tmp_path, pattern, complaint):
    next(labelled.glob(pattern)).write_bytes(b"123")
    with pytest.raises(DatasetError, match=complaint):
        write_scene_bag(NuScenesSource(labelled), "scene-0001", tmp_path / "out" / "bag")
    assert list((tmp_path / "out").iterdir()) == []


def test_masks_are_latched_once_at_the_start_and_resized_to_the_image(labelled, tmp_path):
    for camera in RING:
        mask = np.full((72, 128, 4), 255, np.uint8)
        mask[36:, :, :3] = 0  # the lower half is the vehicle; the published files have an alpha channel
        cv2.imwrite(str(tmp_path / f"{camera}_mask.png"), mask)
    path = write_scene_bag(NuScenesSource(labelled), "scene-0001", tmp_path / "bag", masks=tmp_path).path
    with Reader(path) as reader:
        qos = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}
        start = reader.start_time
    for camera in RING:
        ((t, mask),) = read_topic(path, f"/{camera}/mask")
        assert (t, mask.header.frame_id, mask.encoding) == (start, camera, "mono8")
        assert qos[f"/{camera}/mask"].durability.name == "TRANSIENT_LOCAL"
        pixels = mask.data.reshape(36, 64)
        assert (pixels[:18] == 255).all() and (pixels[18:] == 0).all()


def test_the_published_masks_are_read(shared_data, tmp_path):
    masks = shared_data / "data" / "gaussianocc_splits_masks" / "nuscenes_mask"
    root = join_real_full_size_keyframe(shared_data, tmp_path / "db")
    path = write_scene_bag(NuScenesSource(root), "scene-0061", tmp_path / "bag", masks=masks).path
    hidden = {camera: (read_topic(path, f"/{camera}/mask")[0][1].data == 0).mean() for camera in RING}
    assert hidden.pop("CAM_BACK") == pytest.approx(0.032, abs=0.001)  # the share of docs/method.md#j
    assert set(hidden.values()) == {0.0}


def test_only_what_gets_smaller_is_compressed(labelled, tmp_path):
    for path in (labelled / "nuscenes_semantic").rglob("*_mask.bin"):
        np.zeros((36, 64), np.int8).tofile(path)
    path = write_scene_bag(NuScenesSource(labelled), "scene-0001", tmp_path / "bag").path
    stored = (path / "bag.mcap").read_bytes()
    for _, message in read_topic(path, "/CAM_BACK/image_raw/compressed"):
        assert message.data.tobytes() in stored
    assert bytes(36 * 64) not in stored


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_memory_does_not_grow_with_the_length_of_a_scene(tmp_path, storage):
    def peak(keyframes):
        database = MadeUpDatabase(keyframes=keyframes, frames_per_keyframe=1, size=(640, 360), semantics=True)
        source = NuScenesSource(database.write(tmp_path / f"db{keyframes}"))
        recording = source.recording("scene-0001")
        tracemalloc.start()
        write_recording(recording, tmp_path / f"bag{keyframes}", storage=storage)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak_bytes

    peak(1)  # imports
    short, long = peak(2), peak(8)  # 7 MB and 28 MB
    assert long < short + 2_000_000


# ---- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "damage", "complaint"),
    [
        ("samples/CAM_BACK", lambda path: path.unlink(), "No such file"),
        ("sweeps/CAM_BACK", lambda path: path.unlink(), "No such file"),
        ("samples/CAM_BACK", lambda path: path.write_bytes(path.read_bytes()[:-40]), "truncated"),
        ("samples/CAM_BACK", lambda path: path.write_bytes(b""), "empty"),
        ("samples/LIDAR_TOP", lambda path: path.write_bytes(path.read_bytes()[:-1]), "no whole number of points"),
        ("samples/LIDAR_TOP", lambda path: path.unlink(), "No such file"),
    ],
)
def test_a_file_that_cannot_be_used_names_token_and_path_and_leaves_no_bag(
    database, tmp_path, folder, damage, complaint
):
    path = next((database / folder).iterdir())
    damage(path)
    (row,) = [row for row in read_table(database, "sample_data") if row["filename"].endswith(path.name)]
    with pytest.raises(DatasetError, match=complaint) as caught:
        write_scene_bag(NuScenesSource(database), "scene-0001", tmp_path / "out" / "scene-0001")
    assert row["token"] in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_without_its_sweeps_a_data_set_is_converted_by_keyframes_and_says_how(database, tmp_path):
    shutil.rmtree(database / "sweeps")
    with pytest.raises(DatasetError, match=r"the sweeps do not exist, such as sweeps/.*--no-sweeps"):
        write_scene_bag(NuScenesSource(database), "scene-0001", tmp_path / "out" / "scene-0001")
    assert list((tmp_path / "out").iterdir()) == []
    write_scene_bag(NuScenesSource(database), "scene-0001", tmp_path / "scene-0001", sweeps=False)
    assert len(open_index(tmp_path / "scene-0001").topics["/CAM_FRONT/image_raw/compressed"]) > 0


def test_most_files_are_sweeps_and_without_them_the_scene_is_still_here(tmp_path):
    """Of the real data set five of six images are."""
    root = MadeUpDatabase().write(tmp_path / "data")
    shutil.rmtree(root / "sweeps")
    table = [row["filename"] for row in read_table(root, "sample_data")]
    assert sum(name.startswith("sweeps/") for name in table) > 0.6 * len(table)
    with pytest.raises(DatasetError, match=r"files of the sweeps do not exist.*--no-sweeps"):
        write_scene_bag(NuScenesSource(root), "scene-0001", tmp_path / "out" / "scene-0001")


def test_a_scene_of_another_part_of_the_data_set_is_named_as_that(database, tmp_path):
    for folder in ("samples", "sweeps"):
        shutil.rmtree(database / folder)
    with pytest.raises(DatasetError, match="its part of the data set is not here: get it, or leave the scene out"):
        write_scene_bag(NuScenesSource(database), "scene-0001", tmp_path / "scene-0001")


def test_counts_per_camera_are_the_tables_and_no_transform_comes_twice(database, tmp_path):
    table = read_table(database, "sample_data")
    dropped = [row for row in table if "CAM_FRONT_RIGHT" in row["filename"] and not row["is_key_frame"]][:2]
    write_table(database, "sample_data", [row for row in table if row not in dropped])
    write_scene_bag(NuScenesSource(database), "scene-0001", tmp_path / "scene-0001")
    index = open_index(tmp_path / "scene-0001")
    for camera in RING:
        rows = [row for row in table if f"/{camera}/" in row["filename"] and row not in dropped]
        assert len(index.topics[f"/{camera}/image_raw/compressed"]) == len(rows)
    for series in index.poses:
        assert len(np.unique(series.stamps_ns)) == len(series.stamps_ns)
