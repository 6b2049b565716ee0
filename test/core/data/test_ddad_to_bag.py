# SPDX-License-Identifier: Apache-2.0
"""DDAD scenes in a bag: what comes back out is what the files say, and what only the real scene can tell."""

import json
from collections import defaultdict
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore
from support.ddad_fixtures import RING, THREE, MadeUpScene, real_scene, write_data_set

from gaussianocc_core.bags.convert import write_recording
from gaussianocc_core.data.ddad import DdadSource
from gaussianocc_core.geometry import transforms

STORE = get_typestore(Stores.ROS2_HUMBLE)
SCENE = MadeUpScene()


CASES = {
    "made-up, 17 digits, JPEG, mcap": (MadeUpScene(points=800), "mcap"),
    "made-up, 16 digits, PNG, sqlite3": (
        MadeUpScene("000150", RING, digits=16, image="png", mounting=0.5, points=800),
        "sqlite3",
    ),
    "real": (None, "mcap"),
}


class Converted:
    """A converted scene: its files' rows by sensor, read here without the core, and its bag's messages by topic."""

    def __init__(self, root, scene, storage, folder):
        self.root, self.scene = root, scene
        self.report = write_recording(DdadSource(root).recording(scene), folder / scene, storage=storage)
        with Reader(self.report.path) as reader:
            stream = [(c.topic, t, STORE.deserialize_cdr(raw, c.msgtype)) for c, t, raw in reader.messages()]
        self.order = [(topic, t) for topic, t, _ in stream]
        self.topics = defaultdict(list)
        for topic, t, message in stream:
            self.topics[topic].append((t, message))
        (scene_file,) = (root / scene).glob("scene_*.json")
        (calibration_file,) = (root / scene / "calibration").glob("*.json")
        calibration = json.loads(calibration_file.read_text())
        self.extrinsics = dict(zip(calibration["names"], calibration["extrinsics"], strict=True))
        self.intrinsics = dict(zip(calibration["names"], calibration["intrinsics"], strict=True))
        self.rows = defaultdict(list)  # sensor -> (stamp in ns, image or point_cloud)
        for row in json.loads(scene_file.read_text())["data"]:
            (each,) = row["datum"].values()
            stamp_ns = int(Path(each["filename"]).stem.ljust(19, "0"))  # 19 digits of ns until the year 2286
            self.rows[row["id"]["name"]].append((stamp_ns, each))
        for rows in self.rows.values():
            rows.sort(key=lambda row: row[0])
        self.cameras = [name for name in self.rows if name != "LIDAR"]

    def path(self, row):
        return self.root / self.scene / row["filename"]

    def static(self):
        ((_, message),) = self.topics["/tf_static"]
        return {(t.header.frame_id, t.child_frame_id): ros_matrix(t) for t in message.transforms}

    def T_odom_ego(self):
        return {t: ros_matrix(message.transforms[0]) for t, message in self.topics["/tf"]}


def ros_matrix(stamped):
    q, p = stamped.transform.rotation, stamped.transform.translation
    return transforms.make_transform(
        transforms.quat_to_matrix(np.array([q.w, q.x, q.y, q.z])), np.array([p.x, p.y, p.z])
    )


def move(pose, points, back=False):
    """Points from sensor to world, or with `back` from world to sensor, by a row of the files: q v q*, without
    matrices."""
    w, *v = (pose["rotation"][name] for name in ("qw", "qx", "qy", "qz"))
    v = np.array(v) * (-1 if back else 1)
    position = np.array([pose["translation"][axis] for axis in "xyz"])
    points = points - position if back else points
    points = points + 2 * np.cross(v, np.cross(v, points) + w * points) / (w * w + v @ v)
    return points if back else points + position


def as_matrix(pose):
    corners = move(pose, np.vstack([np.zeros(3), np.eye(3)]))
    return transforms.make_transform((corners[1:] - corners[0]).T, corners[0])


def cloud_columns(cloud):
    assert [(f.name, f.offset, f.datatype) for f in cloud.fields] == [
        ("x", 0, 7),
        ("y", 4, 7),
        ("z", 8, 7),
        ("intensity", 12, 7),
    ]
    return np.frombuffer(cloud.data.tobytes(), "<f4").reshape(-1, 4)


@pytest.fixture(scope="module", params=CASES, ids=str)
def converted(request, tmp_path_factory):
    scene, storage = CASES[request.param]
    folder = tmp_path_factory.mktemp("case")
    if scene is None:
        return Converted(real_scene(request.getfixturevalue("shared_data")), "scene_01", storage, folder)
    return Converted(write_data_set(folder / "ddad", scene), scene.name, storage, folder)


def test_image_bytes_and_stamps_are_those_of_the_files(converted):
    for camera in converted.cameras:
        messages = converted.topics[f"/{camera}/image_raw/compressed"]
        rows = converted.rows[camera]
        assert len(rows) == 3
        assert [t for t, _ in messages] == [t for t, _ in rows]
        for (t, message), (_, row) in zip(messages, rows, strict=True):
            assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == t
            assert bytes(message.data) == converted.path(row).read_bytes()
            assert message.header.frame_id == camera
            assert message.format == ("png" if row["filename"].endswith(".png") else "jpeg")


def test_every_image_has_its_camera_info_with_the_files_intrinsics(converted):
    for camera in converted.cameras:
        infos = converted.topics[f"/{camera}/camera_info"]
        assert [t for t, _ in infos] == [t for t, _ in converted.rows[camera]]
        lens = converted.intrinsics[camera]
        for (_, info), (_, row) in zip(infos, converted.rows[camera], strict=True):
            K = [lens["fx"], 0, lens["cx"], 0, lens["fy"], lens["cy"], 0, 0, 1]
            np.testing.assert_allclose(info.k, K, rtol=0, atol=1e-12)
            assert (info.width, info.height) == (row["width"], row["height"])
            assert (info.distortion_model, info.d.tolist()) == ("plumb_bob", [0.0] * 5)


def test_static_transforms_are_the_files_extrinsics(converted):
    static = converted.static()
    sensors = [*converted.cameras, "LIDAR"]
    assert set(static) == {("base_link", sensor) for sensor in sensors} | {("map", "odom")}
    for sensor in sensors:
        expected = as_matrix(converted.extrinsics[sensor])
        np.testing.assert_allclose(static["base_link", sensor], expected, rtol=0, atol=1e-12)


def test_every_sensor_is_where_its_pose_says(converted):
    static, T_odom_ego = converted.static(), converted.T_odom_ego()
    assert set(T_odom_ego) == {t for rows in converted.rows.values() for t, _ in rows}
    assert len(converted.topics["/tf"]) == len(T_odom_ego)  # each stamp once
    for sensor, rows in converted.rows.items():
        for t, row in rows:
            T_map_sensor = static["map", "odom"] @ T_odom_ego[t] @ static["base_link", sensor]
            # 1e-6 m: cameras of one real moment share the anchor's pose, and differ by less than a micrometre
            np.testing.assert_allclose(T_map_sensor, as_matrix(row["pose"]), rtol=0, atol=1e-6)
    np.testing.assert_allclose(T_odom_ego[min(T_odom_ego)], np.eye(4), atol=1e-9)


def test_lidar_points_are_those_of_the_files(converted):
    clouds = converted.topics["/LIDAR/points"]
    assert [t for t, _ in clouds] == [t for t, _ in converted.rows["LIDAR"]]
    for (_, cloud), (_, row) in zip(clouds, converted.rows["LIDAR"], strict=True):
        with np.load(converted.path(row)) as file:
            np.testing.assert_array_equal(cloud_columns(cloud), file["data"].astype(np.float32))
        assert cloud.header.frame_id == "LIDAR"


def test_messages_are_in_time_order_and_what_an_image_needs_precedes_it(converted):
    assert converted.order[0][0] == "/tf_static"
    assert [t for _, t in converted.order] == sorted(t for _, t in converted.order)
    place = {each: i for i, each in enumerate(converted.order)}
    for (topic, t), i in place.items():
        if topic.endswith("compressed"):
            assert place["/tf", t] < i
            assert place[topic.replace("image_raw/compressed", "camera_info"), t] < i
    assert converted.report.messages == len(converted.order)


def project(converted, points, t_lidar, camera, t_image):
    """Pixels and depth of lidar points by nothing but the bag."""
    static, T_odom_ego = converted.static(), converted.T_odom_ego()
    T_odom_cam = T_odom_ego[t_image] @ static["base_link", camera]
    T_odom_lidar = T_odom_ego[t_lidar] @ static["base_link", "LIDAR"]
    T_cam_lidar = transforms.invert_matrix(T_odom_cam) @ T_odom_lidar
    in_camera = points @ T_cam_lidar[:3, :3].T + T_cam_lidar[:3, 3]
    info = dict(converted.topics[f"/{camera}/camera_info"])[t_image]
    pixels = in_camera @ info.k.reshape(3, 3).T
    return pixels[:, :2] / pixels[:, 2:], in_camera[:, 2], (info.width, info.height)


def test_lidar_projects_into_the_images_where_the_files_poses_say(converted):
    for (t_lidar, lidar), (_, cloud) in zip(converted.rows["LIDAR"], converted.topics["/LIDAR/points"], strict=True):
        points = cloud_columns(cloud)[:, :3].astype(np.float64)
        for camera in converted.cameras:
            t_image, row = min(converted.rows[camera], key=lambda each: abs(each[0] - t_lidar))
            pixels, depth, size = project(converted, points, t_lidar, camera, t_image)
            theirs = move(row["pose"], move(lidar["pose"], points), back=True)  # lidar -> world -> camera
            lens = converted.intrinsics[camera]
            u = lens["fx"] * theirs[:, 0] / theirs[:, 2] + lens["cx"]
            v = lens["fy"] * theirs[:, 1] / theirs[:, 2] + lens["cy"]
            seen = (theirs[:, 2] > 1) & (u >= 0) & (u < size[0]) & (v >= 0) & (v < size[1])
            assert seen.sum() > (1000 if size[0] > 1000 else 5)
            np.testing.assert_allclose(depth[seen], theirs[seen, 2], atol=1e-4)
            np.testing.assert_allclose(pixels[seen], np.column_stack([u, v])[seen], atol=0.05)


# ---- what only the real scene can tell -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(shared_data, tmp_path_factory):
    return Converted(real_scene(shared_data), "scene_01", "mcap", tmp_path_factory.mktemp("real"))


def test_the_real_scene_was_recorded_in_2019_at_10_hz_and_not_in_2463_at_1_hz(real):
    for rows in (real.rows["LIDAR"], *(real.rows[camera] for camera in real.cameras)):
        assert np.diff([t for t, _ in rows]) * 1e-9 == pytest.approx([0.1, 0.1], abs=1e-3)
    seconds = real.topics["/CAMERA_01/camera_info"][0][0] // 10**9
    assert datetime.fromtimestamp(seconds, timezone.utc).date().isoformat() == "2019-05-03"
    assert '"2463-05-15' in next((real.root / "scene_01").glob("scene_*.json")).read_text()


def test_points_on_annotated_vehicles_fall_into_the_annotated_boxes_of_the_images(real):
    """Annotations know nothing of the bag: wrong axes, extrinsics, focal lengths or a swapped camera would show."""
    annotations = real.root / "scene_01"
    checked = 0
    for (t_lidar, lidar), (_, cloud) in zip(real.rows["LIDAR"], real.topics["/LIDAR/points"], strict=True):
        points = cloud_columns(cloud)[:, :3].astype(np.float64)
        stamp = Path(lidar["filename"]).stem
        solids = read_boxes(annotations / f"bounding_box_3d/LIDAR/{stamp}.json")
        for camera in real.cameras:
            t_image = min((t for t, _ in real.rows[camera]), key=lambda t: abs(t - t_lidar))
            for instance, box in read_boxes(annotations / f"bounding_box_2d/{camera}/{stamp}.json").items():
                if instance not in solids:
                    continue
                solid = solids[instance]
                local = move(solid["pose"], points, back=True)
                half = np.array([solid["length"], solid["width"], solid["height"]]) / 2
                inside = (np.abs(local) < half).all(axis=1)
                pixels, depth, size = project(real, points[inside], t_lidar, camera, t_image)
                pixels = pixels[(depth > 0.5) & (pixels >= 0).all(axis=1) & (pixels < size).all(axis=1)]
                if len(pixels) < 20:
                    continue
                corner = np.array([box["x"], box["y"]])
                # 3 pixels: boxes are whole numbers
                hits = (pixels > corner - 3) & (pixels < corner + [box["w"], box["h"]] + 3)
                assert hits.all(axis=1).mean() > 0.98, (camera, instance)
                checked += 1
    assert checked > 50


def read_boxes(path):
    return {each["instance_id"]: each["box"] for each in json.loads(path.read_text())["annotations"]}


def test_the_ground_of_the_real_scene_is_near_z_0_of_base_link(real):
    T_ego_lidar = real.static()["base_link", "LIDAR"]
    for _, cloud in real.topics["/LIDAR/points"]:
        points = cloud_columns(cloud)[:, :3] @ T_ego_lidar[:3, :3].T + T_ego_lidar[:3, 3]
        heights = points[np.hypot(points[:, 0], points[:, 1]) < 15, 2]
        assert len(heights) > 5000
        assert -0.5 < np.quantile(heights, 0.01) < 0.0  # the lowest: road that falls away for drainage
        assert np.mean(np.abs(heights) < 0.35) > 0.35


def test_the_real_scene_gives_samples_with_the_published_masks(real, shared_data):
    source = DdadSource(real.root)
    entries = source.index("scene_01", neighbours=True, masks=shared_data / "data" / "ddad_masks")
    assert [entry.token for entry in entries] == ["15569195938415230", "15569195939415230", "15569195940415242"]
    assert [len(entry.neighbours) for entry in entries] == [1, 2, 1]
    sample = entries[1].load()
    assert sample.cameras.names == THREE
    assert [image.shape for image in sample.images] == [(1216, 1936, 3)] * 3
    hidden = [float((~mask).mean()) for mask in sample.static_masks]
    assert hidden == pytest.approx([0.0, 0.095, 0.068], abs=0.002)  # the front camera looks over the bonnet
    assert not sample.static_masks[1][-1].all()
