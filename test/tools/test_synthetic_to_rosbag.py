# SPDX-License-Identifier: Apache-2.0
"""A synthetic data set with sweeps becomes a bag, in both storages, that holds what its tables and files hold."""

import json

import pytest
from support.synthetic_bags import convert, make_dataset, read_bag, stamp_ns

from gaussianocc_core.geometry.cameras import resize
from gaussianocc_core.synthetic import default_rig

CAMERAS = ("CAM_FRONT", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")
STORED_AS = {"mcap": ".mcap", "sqlite3": ".db3"}
pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def dataroot(tmp_path_factory):
    rig = resize(default_rig().select(CAMERAS), 80, 45)
    return make_dataset(tmp_path_factory.mktemp("synthetic") / "data", rig, 2, 11)


@pytest.fixture(scope="module")
def rows(dataroot):
    """Channel -> [(stamp in ns, file)] in time order, from the tables alone."""

    def table(name):
        return json.loads((dataroot / "v1.0-mini" / f"{name}.json").read_text())

    channel = {row["token"]: row["channel"] for row in table("sensor")}
    of_calibration = {row["token"]: channel[row["sensor_token"]] for row in table("calibrated_sensor")}
    found = {name: [] for name in of_calibration.values()}
    for row in sorted(table("sample_data"), key=lambda row: row["timestamp"]):
        name = of_calibration[row["calibrated_sensor_token"]]
        found[name].append((row["timestamp"] * 1000, dataroot / row["filename"]))
    return found


@pytest.fixture(scope="module", params=list(STORED_AS))
def bag(request, dataroot, tmp_path_factory):
    path = convert(dataroot, tmp_path_factory.mktemp(request.param), "--storage", request.param)
    assert {file.suffix for file in path.iterdir()} == {STORED_AS[request.param], ".yaml"}
    return read_bag(path)


def test_every_topic_has_as_many_messages_as_the_tables_have_rows(bag, rows):
    moments = {stamp for entries in rows.values() for stamp, _ in entries}
    expected = {"/tf_static": 1, "/tf": len(moments), "/LIDAR_TOP/points": 2, "/occupancy_gt": 2}
    for camera in CAMERAS:  # 12 Hz from one keyframe to the next, both included
        topics = ("image_raw/compressed", "camera_info", "semantic/image_raw")
        expected |= {f"/{camera}/{topic}": 7 for topic in topics}
    assert {topic: len(messages) for topic, messages in bag.topics.items()} == expected
    assert {name: len(entries) for name, entries in rows.items()} == {**dict.fromkeys(CAMERAS, 7), "LIDAR_TOP": 2}


def test_jpeg_bytes_are_the_files_own(bag, rows):
    for camera in CAMERAS:
        images = [(t, bytes(message.data)) for t, message in bag.topics[f"/{camera}/image_raw/compressed"]]
        assert images == [(stamp, path.read_bytes()) for stamp, path in rows[camera]]
        assert [t for t, _ in bag.topics[f"/{camera}/camera_info"]] == [stamp for stamp, _ in rows[camera]]


def test_messages_are_in_the_order_of_their_own_stamps(bag):
    assert [t for _, t in bag.order] == sorted(t for _, t in bag.order)
    assert bag.order[0][0] == "/tf_static"
    for topic, messages in bag.topics.items():
        stamps = [stamp_ns(m.transforms[0].header if "/tf" in topic else m.header) for _, m in messages]
        assert stamps == [t for t, _ in messages]


def test_lidar_sweeps_keep_their_own_stamps_and_points(bag, rows):
    clouds = bag.topics["/LIDAR_TOP/points"]
    assert [stamp_ns(cloud.header) for _, cloud in clouds] == [stamp for stamp, _ in rows["LIDAR_TOP"]]
    front = {stamp for stamp, _ in rows["CAM_FRONT"]}
    for (stamp, path), (_, cloud) in zip(rows["LIDAR_TOP"], clouds, strict=True):
        assert stamp not in front  # the cameras fire one after the other, the lidar is not any of them
        assert cloud.width * 5 * 4 == path.stat().st_size  # x y z intensity ring, float32
        assert stamp in {t for t, _ in bag.topics["/tf"]}
