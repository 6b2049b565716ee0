# SPDX-License-Identifier: Apache-2.0
"""Bags as training data: a bag of a data set gives what the data set gives, and any robot's bag can be used."""

import pickle
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from support.nuscenes_fixtures import MadeUpDatabase
from support.robot_bags import (
    START_NS,
    RobotBag,
    camera_info,
    compressed,
    looking,
    odometry,
    picture,
    raw,
    tf,
    transform,
)

from gaussianocc_core.bags import indexing as bag_index
from gaussianocc_core.bags.index_cache import cache_path
from gaussianocc_core.bags.indexing import find_bags, open_index
from gaussianocc_core.data.bag import BagSource, label_path, open_bags
from gaussianocc_core.data.bag_cameras import BagConfig
from gaussianocc_core.data.nuscenes import NuScenesSource, write_scene_bag
from gaussianocc_core.data.sources import DataConfig, open_entries
from gaussianocc_core.errors import BagError, ConfigError, DatasetError
from gaussianocc_core.geometry.rig_file import save_rig
from gaussianocc_core.labels import CLASS_ID, FREE, IGNORE
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.training.config import TrainConfig
from gaussianocc_core.training.engine import train
from gaussianocc_core.training.loader import TrainingSet

SCENE = "scene-0001"


def source(path, **settings) -> BagSource:
    (found,) = open_bags(BagConfig(str(path), **settings))
    return found


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag_of_a_data_set_gives_the_samples_of_the_data_set(tmp_path, storage):
    data = NuScenesSource(MadeUpDatabase(keyframes=2, frames_per_keyframe=4).write(tmp_path / "root"))
    write_scene_bag(data, SCENE, tmp_path / SCENE, storage=storage)
    direct = list(data.samples(SCENE, sweeps=True, neighbours=True))
    entries = source(tmp_path / SCENE).entries()
    assert len(entries) == len(direct) == 8
    for entry, expected in zip(entries, direct, strict=True):
        sample = pickle.loads(pickle.dumps(entry)).load()
        assert (sample.stamp_ns, sample.camera_stamps_ns) == (expected.stamp_ns, expected.camera_stamps_ns)
        assert sample.cameras.names == expected.cameras.names
        np.testing.assert_array_equal(sample.cameras.intrinsics, expected.cameras.intrinsics)
        np.testing.assert_allclose(sample.cameras.T_ego_cam, expected.cameras.T_ego_cam, atol=1e-12)
        assert [n.offset for n in sample.neighbours] == [n.offset for n in expected.neighbours]
        pairs = [(sample, expected), *zip(sample.neighbours, expected.neighbours, strict=True)]
        for ours, theirs in pairs:
            for a, b in zip(ours.images, theirs.images, strict=True):
                np.testing.assert_array_equal(a, b)
            np.testing.assert_allclose(  # the bag's odom is the first ego pose, so motions are what must agree
                np.linalg.inv(sample.T_world_ego) @ ours.T_world_ego_per_camera,
                np.linalg.inv(expected.T_world_ego) @ theirs.T_world_ego_per_camera,
                atol=1e-9,
            )


@pytest.mark.parametrize("encoding", [".jpg", ".png", "rgb8", "bgr8"])
def test_images_of_every_encoding_are_those_that_were_recorded(tmp_path, encoding):
    robot = RobotBag(encoding=encoding)
    entries = source(robot.write(tmp_path / "bag")).entries()
    expected = [(robot.stamp(n, 0), robot.stamp(n, 1)) for n in range(5)]
    assert [entry.frame.camera_stamps_ns for entry in entries] == expected
    for n, entry in enumerate(entries):
        for i, image in enumerate(entry.load().images):
            difference = np.abs(image.astype(int) - robot.picture(n, i))
            assert difference.mean() <= (5 if encoding == ".jpg" else 0)  # two pictures of noise differ by 50


def test_neighbours_are_the_next_images_or_those_at_the_wanted_time(tmp_path):
    path = RobotBag(frames=9).write(tmp_path / "bag")
    gaps = [entry.gap_s for entry in source(path).entries() if len(entry.neighbours) == 2]
    assert gaps == [pytest.approx(0.1)] * 7
    far = source(path, neighbour_time=0.3).entries()
    assert [[offset for offset, _ in entry.neighbours] for entry in far] == [[1]] * 3 + [[-1, 1]] * 3 + [[-1]] * 3
    assert far[4].gap_s == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("model", "distortion"),
    [
        ("rational_polynomial", (0.1, -0.05, 0.001, 0.002, 0.01, 0.2, 0.03, 0.01)),
        ("equidistant", (0.02, -0.01, 0.0, 0.0)),
    ],
)
def test_lenses_and_mounting_are_those_of_camera_info_and_tf(tmp_path, model, distortion):
    robot = RobotBag(model=model, distortion=distortion)
    cameras = source(robot.write(tmp_path / "bag")).cameras
    assert cameras.names == ("front", "left")
    assert set(cameras.model) == {"equidistant" if model == "equidistant" else "pinhole"}
    assert cameras.distortion == (pytest.approx(distortion),) * 2
    for i, name in enumerate(cameras.names):
        np.testing.assert_allclose(cameras.T_ego_cam[i], robot.T_ego_cam[name], atol=1e-9)
    data = DataConfig(bag=BagConfig(str(tmp_path / "bag")), mirror=0.0, jitter=0.0)
    batch = TrainingSet(open_entries(data), data, Preprocessor(32, 16), seed=0)[(0, 0)]
    assert batch.images.shape == (1, 3, 2, 3, 16, 32)


@pytest.mark.parametrize("topic", ["/tf", "/wheels/odometry"])
def test_motion_is_that_of_odometry(tmp_path, topic):
    robot = RobotBag(odometry=topic)
    settings = {} if topic == "/tf" else {"odometry_topic": topic}
    sample = source(robot.write(tmp_path / "bag"), **settings).entries()[2].load()
    for stamp, T in zip(sample.camera_stamps_ns, sample.T_world_ego_per_camera, strict=True):
        np.testing.assert_allclose(T, robot.T_odom_ego(stamp), atol=1e-6)  # between two poses, where it must be


def test_without_odometry_there_is_no_pose_and_training_still_works(tmp_path):
    path = RobotBag(odometry="").write(tmp_path / "bag")
    assert source(path).entries()[2].load().T_world_ego is None
    config = DataConfig(bag=BagConfig(str(path)))
    assert TrainingSet(open_entries(config), config, Preprocessor(32, 16), 0)[(0, 0)].T_target_now.isnan().all()


def test_a_robot_that_stands_still_teaches_nothing(tmp_path):
    path = RobotBag().write(tmp_path / "bag")
    moving = DataConfig(bag=BagConfig(str(path), least_motion=0.05))
    assert len(open_entries(moving)) == 3
    with pytest.raises(DatasetError, match="least_motion=0.2"):
        open_entries(replace(moving, bag=replace(moving.bag, least_motion=0.2)))


def test_standing_still_shows_in_the_images_where_there_is_no_odometry(tmp_path):
    robot = RobotBag(odometry="", frames=8)
    stills = robot.picture(3, 0)
    for topic, _, content in robot.messages:
        if topic == "/front/image_raw/compressed" and content.header.stamp.nanosec > robot.stamp(2, 0) % 10**9:
            content.data = compressed(0, "", stills).data  # from the fourth image on
    path = robot.write(tmp_path / "bag")
    still = open_entries(DataConfig(bag=BagConfig(str(path), least_change=3.0)))
    assert [entry.frame.images[0].stamp_ns for entry in still] == [robot.stamp(n, 0) for n in (1, 2)]
    assert len(open_entries(DataConfig(bag=BagConfig(str(path))))) == 6


def test_labels_and_masks_on_topics_are_used(tmp_path):
    robot = RobotBag(frames=3)
    car, width, height = CLASS_ID["car"], *robot.size
    for i, name in enumerate(robot.cameras):
        mask = np.full((height, width, 1), 255, np.uint8)
        mask[40:] = 0
        robot.add(f"/{name}/mask", START_NS, raw(START_NS, f"{name}_optical", mask, "mono8"))
        for n in range(3):
            labels = np.full((height, width, 1), car + i, np.uint8)
            labels[:5] = IGNORE
            stamp = robot.stamp(n, i)
            robot.add(f"/{name}/semantic/image_raw", stamp, raw(stamp, f"{name}_optical", labels, "mono8"))
    found = source(robot.write(tmp_path / "bag"))
    assert found.cameras.names == ("front", "left")  # images of labels and masks are no cameras
    sample = found.entries(undetected=FREE)[1].load()
    for i in range(2):
        assert (sample.semantics[i][5:] == car + i).all()
        assert (sample.semantics[i][:5] == FREE).all()
        assert sample.static_masks[i][:40].all() and not sample.static_masks[i][40:].any()
    assert found.entries(semantics=False)[1].load().semantics is None


def test_labels_in_files_are_used_where_every_camera_has_one(tmp_path):
    robot, bus = RobotBag(frames=3), CLASS_ID["bus"]
    path = robot.write(tmp_path / "bag")
    for i, name in enumerate(robot.cameras):
        for n in (0, 1) if name == "front" else (1,):
            file = label_path(tmp_path / "labels", "bag", name, robot.stamp(n, i))
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), np.full(robot.size[::-1], bus + i, np.uint8))
    entries = source(path, labels=str(tmp_path / "labels")).entries()
    assert [entry.labelled for entry in entries] == [False, True, False]
    for i, plane in enumerate(entries[1].load().semantics):
        assert (plane == bus + i).all()


def test_labels_of_unknown_ids_are_named(tmp_path):
    robot = RobotBag(frames=3)
    path = robot.write(tmp_path / "bag")
    for i, name in enumerate(robot.cameras):
        file = label_path(tmp_path / "labels", "bag", name, robot.stamp(1, i))
        file.parent.mkdir(parents=True, exist_ok=True)
        labels = np.full(robot.size[::-1], CLASS_ID["bus"], np.uint8)
        labels[0, :3], labels[1, :7] = (IGNORE, 77) if i == 1 else (IGNORE, IGNORE)
        cv2.imwrite(str(file), labels)
    meta = source(path, labels=str(tmp_path / "labels")).entries()[1].load().meta
    assert meta == {"unknown_label_pixels": {str(file): 7}}


def test_a_rig_file_takes_the_place_of_camera_info_and_tf(tmp_path):
    robot = RobotBag()
    rig = source(robot.write(tmp_path / "whole")).cameras
    save_rig(rig, tmp_path / "rig.yaml")
    bare = RobotBag()
    bare.messages = [each for each in bare.messages if each[0].endswith("compressed")]
    path = bare.write(tmp_path / "bare")
    with pytest.raises(BagError, match=r"front: no usable CameraInfo .* data.bag.rig=FILE"):
        source(path)
    cameras = source(path, rig=str(tmp_path / "rig.yaml")).cameras
    np.testing.assert_allclose(cameras.T_ego_cam, rig.T_ego_cam, atol=1e-6)


# ---- the index -----------------------------------------------------------------------------------------------------


def test_the_index_is_kept_until_the_bag_changes(tmp_path, monkeypatch):
    path = RobotBag().write(tmp_path / "bag")
    first = open_index(path)
    assert cache_path(path).is_file()

    def build(*_):
        raise AssertionError("indexed again")

    monkeypatch.setattr(bag_index, "_build", build)
    again = open_index(path)
    assert again.topics.keys() == first.topics.keys()
    for topic, entry in first.topics.items():
        np.testing.assert_array_equal(again.topics[topic].stamps_ns, entry.stamps_ns)
        np.testing.assert_array_equal(again.topics[topic].places, entry.places)
    assert again.intrinsics == first.intrinsics
    (path / "bag.mcap").write_bytes((path / "bag.mcap").read_bytes() + b"\0")
    with pytest.raises(AssertionError, match="indexed again"):
        open_index(path)


def test_a_broken_index_is_made_again(tmp_path):
    path = RobotBag().write(tmp_path / "bag")
    expected = open_index(path).topics.keys()
    cache_path(path).write_bytes(b"no archive")
    assert open_index(path).topics.keys() == expected


def test_folders_of_bags_and_single_files_are_found(tmp_path):
    (tmp_path / "all").mkdir()
    for name in ("b", "a"):
        RobotBag(frames=3).write(tmp_path / "all" / name)
    assert [path.name for path in find_bags(tmp_path / "all")] == ["a", "b"]
    file = tmp_path / "all" / "a" / "a.mcap"
    assert len(source(file).entries()) == 3
    with pytest.raises(BagError, match="does not exist"):
        find_bags(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BagError, match="holds no bag"):
        find_bags(tmp_path / "empty")


# ---- faults --------------------------------------------------------------------------------------------------------


def test_a_damaged_image_is_named_and_left_out(tmp_path, caplog):
    robot = RobotBag()
    victims = [m for topic, _, m in robot.messages if topic == "/left/image_raw/compressed"]
    victims[2].data = victims[2].data[:100]
    entries = source(robot.write(tmp_path / "bag")).entries()
    assert [entry.frame.camera_stamps_ns[0] for entry in entries] == [robot.stamp(n, 0) for n in (0, 1, 3, 4)]
    assert "/left/image_raw/compressed: 1 messages cannot be used" in caplog.text and "truncated" in caplog.text


def test_an_image_that_only_decoding_shows_to_be_damaged_is_replaced_in_training(tmp_path):
    robot = RobotBag()
    victim = [m for topic, _, m in robot.messages if topic == "/left/image_raw/compressed"][2]
    start = bytes(victim.data).index(b"\xff\xc0")
    victim.data = victim.data.copy()
    victim.data[start + 9] = 0  # of zero components; complete from the first byte to the last
    config = DataConfig(bag=BagConfig(str(robot.write(tmp_path / "bag"))), mirror=0.0)
    entries = open_entries(config)  # of images 1, 2, 3: each has the third image or has it beside it
    batch = TrainingSet((*entries, *_unharmed(tmp_path)), config, Preprocessor(32, 16), 0)[(0, 0)]
    assert batch.tokens[0].startswith("other/")
    assert len(batch.problems) == 3
    assert all(f"/left/image_raw/compressed at {robot.stamp(2, 1)} ns" in problem for problem in batch.problems)


def _unharmed(tmp_path):
    return open_entries(DataConfig(bag=BagConfig(str(RobotBag().write(tmp_path / "other")))))


def test_a_stretch_that_cannot_be_read_costs_no_more_than_itself(tmp_path, caplog):
    robot = RobotBag(frames=120, size=(160, 120), encoding="rgb8")  # 12 s, a chunk of 1 MB holds about a second
    path = robot.write(tmp_path / "bag")
    file = path / "bag.mcap"
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400_000] = b"\xee" * 400_000
    file.write_bytes(data)
    entries = source(path).entries()
    assert 60 < len(entries) < 118
    assert "cannot be read completely" in caplog.text
    for entry in (entries[1], entries[-2]):
        number = (entry.frame.images[0].stamp_ns - START_NS) // robot.period_ns
        np.testing.assert_array_equal(entry.load().images[0], robot.picture(number, 0))


def test_a_recording_that_was_cut_off_says_how_to_save_it(tmp_path):
    file = RobotBag().write(tmp_path / "bag") / "bag.mcap"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(BagError, match=r"inspect_bag.py \S+bag.mcap --recover"):
        source(file)


def test_duplicated_stamps_give_no_set_twice(tmp_path):
    robot = RobotBag(frames=6)
    images = [m for m in robot.messages if m[0].endswith("compressed")]
    robot.messages += [(topic, log + 1_000, content) for topic, log, content in images[4:6]]
    found = source(robot.write(tmp_path / "bag"))
    stamps = [entry.frame.camera_stamps_ns for entry in found.entries()]
    assert stamps == [(robot.stamp(n, 0), robot.stamp(n, 1)) for n in range(6)]
    assert found.statistics.discarded["duplicate"] == 2


def test_a_clock_that_jumps_back_mixes_no_images_of_before_and_after(tmp_path):
    robot = RobotBag(frames=20)
    images = [m for m in robot.messages if m[0].endswith("compressed")]
    later = 10**10  # ns of log time; the stamps are those of the first images once more
    robot.messages += [(topic, log + later, content) for topic, log, content in images[:8]]
    entries = source(robot.write(tmp_path / "bag")).entries()
    runs = [
        [ref.log_ns > START_NS + later for _, frame in [(0, e.frame), *e.neighbours] for ref in frame.images]
        for e in entries
    ]
    assert all(len(set(each)) == 1 for each in runs)
    assert sum(each[0] for each in runs) == 4
    assert [len(e.neighbours) for e in entries] == [1] + [2] * 18 + [1] + [1, 2, 2, 1]


def test_clocks_that_differ_are_said(tmp_path, caplog):
    robot = RobotBag()
    for topic, _, content in robot.messages:
        if topic.startswith("/left/"):
            content.header.stamp.sec -= 7
    config = DataConfig(bag=BagConfig(str(robot.write(tmp_path / "bag"))))
    with pytest.raises(DatasetError, match="do the clocks agree"):
        open_entries(config)
    assert "left 7.020 s" in caplog.text and "front 0.020 s" in caplog.text


def test_calibration_that_changes_within_a_bag_is_refused(tmp_path):
    robot = RobotBag()
    stamp = robot.stamp(3, 0) + 1000
    robot.add("/front/camera_info", stamp, camera_info(stamp, "front_optical", (128, 96), 80.0))
    path = robot.write(tmp_path / "bag")
    with pytest.raises(BagError, match="front: its calibration changes from 64x48 to 128x96 .* s after the start") as e:
        source(path)
    at = float(re.search(r"data.bag.end=([0-9.]+)", str(e.value))[1])
    before = source(path, end=at)
    assert len(before.entries()) == 3 and before.cameras.width[0] == 64
    with pytest.raises(BagError, match="its calibration changes from 128x96 to 64x48"):
        source(path, begin=at)


def test_a_stretch_of_a_bag_is_used_with_what_was_said_before_it(tmp_path):
    robot = RobotBag(frames=8)
    robot.add("/front/mask", START_NS, raw(START_NS, "front", np.full((48, 64), 255, np.uint8), "mono8"))
    whole = source(robot.write(tmp_path / "bag"))
    part = source(robot.write(tmp_path / "again"), begin=0.25, end=0.6)
    assert 1 < len(part.entries()) < len(whole.entries())
    seconds = [(entry.frame.images[0].log_ns - whole.index.start_ns) * 1e-9 for entry in part.entries()]
    assert min(seconds) >= 0.25 and max(seconds) < 0.6
    assert part.cameras.names == whole.cameras.names  # of the one /tf_static at the start
    assert len(part.index.topics["/front/mask"]) == 1
    with pytest.raises(ValueError, match=r"data.bag.end: expected more than data.bag.begin=2, got 1"):
        BagConfig(begin=2.0, end=1.0)


def test_tf_of_a_robot_among_several_is_found_under_its_namespace(tmp_path):
    robot, other = RobotBag(), RobotBag()
    robot.messages = [(f"/r1{topic}" if topic.startswith("/tf") else topic, *rest) for topic, *rest in robot.messages]
    found, same = source(robot.write(tmp_path / "bag")), source(other.write(tmp_path / "other"))
    assert torch.equal(found.cameras.T_ego_cam, same.cameras.T_ego_cam)
    T = [each.entries()[1].frame.T_world_ego for each in (found, same)]
    np.testing.assert_array_equal(*T)


def test_tf_of_several_robots_is_not_mixed(tmp_path):
    robot = RobotBag()
    static = [(f"/{name}{topic}", *rest) for topic, *rest in robot.messages if topic == "/tf_static" for name in "ab"]
    robot.messages = static + [each for each in robot.messages if each[0] != "/tf_static"]
    with pytest.raises(BagError, match="TF of several robots: /a/tf_static, /b/tf_static"):
        source(robot.write(tmp_path / "bag"))


def test_a_stretch_beyond_the_end_is_said(tmp_path):
    path = RobotBag().write(tmp_path / "bag")
    with pytest.raises(BagError, match=r"is over .* s after its start; data.bag.begin=30 leaves nothing"):
        source(path, begin=30.0)


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_images_of_depth_are_no_cameras_whatever_their_topic(tmp_path, encoding):
    robot = RobotBag()
    depth = np.ones((48, 64), np.uint16 if encoding == "16UC1" else np.float32)
    robot.add("/stereo/left/range_image", START_NS, raw(START_NS, "front", depth, encoding))
    assert source(robot.write(tmp_path / "bag")).cameras.names == source(RobotBag().write(tmp_path / "b")).cameras.names


def test_what_a_node_shows_is_no_camera_of_a_recording_of_everything(tmp_path):
    """`ros2 bag record -a` beside the running node."""
    robot, picture = RobotBag(), np.zeros((48, 64, 3), np.uint8)
    for topic in ("legend", "front/depth/image_raw", "front/semantic/image_raw"):
        robot.add(f"/occupancy_node/{topic}", START_NS, raw(START_NS, "front", picture, "rgb8"))
    assert source(robot.write(tmp_path / "bag")).cameras.names == source(RobotBag().write(tmp_path / "b")).cameras.names


def test_frames_that_tf_does_not_connect_are_named(tmp_path):
    robot = RobotBag()
    robot.messages = [each for each in robot.messages if each[0] != "/tf_static"]
    with pytest.raises(BagError, match=r"nothing connects its frame 'front_optical' with 'base_link'.*data.bag.rig"):
        source(robot.write(tmp_path / "bag"))


def test_a_bag_without_images_lists_what_it_has(tmp_path, shared_data):
    with pytest.raises(BagError, match=r"no images on any topic.*std_msgs/msg/String"):
        source(shared_data / "data" / "rosbag2_test_bags" / "mcap" / "talker")


def test_one_bad_bag_of_a_folder_is_left_out_and_named(tmp_path, caplog):
    (tmp_path / "all").mkdir()
    RobotBag().write(tmp_path / "all" / "good")
    broken = RobotBag()
    broken.messages = broken.messages[:1]
    broken.write(tmp_path / "all" / "broken")
    assert [each.index.name for each in open_bags(BagConfig(str(tmp_path / "all")))] == ["good"]
    assert "left out" in caplog.text and "broken" in caplog.text


def test_cameras_without_overlap_cannot_teach_scale(tmp_path):
    path = RobotBag(cameras={"front": 0.0, "back": 180.0}).write(tmp_path / "bag")
    config = TrainConfig(data=DataConfig(bag=BagConfig(str(path))), steps=1, output=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"scale cannot be learnt: no two of the cameras front, back"):
        train(config)
    assert not (tmp_path / "run").exists()


def test_a_camera_that_is_recorded_late_gets_its_own_images(tmp_path):
    robot = RobotBag(frames=10)
    robot.messages = [(t, log + 300_000_000 * t.startswith("/left/"), m) for t, log, m in robot.messages]
    entries = source(robot.write(tmp_path / "bag")).entries()
    expected = [(robot.stamp(n, 0), robot.stamp(n, 1)) for n in range(10)]
    assert [entry.frame.camera_stamps_ns for entry in entries] == expected


def test_a_lost_image_makes_no_neighbour_of_another_time(tmp_path):
    robot = RobotBag(frames=8)
    robot.messages = [
        m
        for m in robot.messages
        if m[0] != "/left/image_raw/compressed" or m[2].header.stamp.nanosec != robot.stamp(4, 1) % 10**9
    ]
    entries = source(robot.write(tmp_path / "bag")).entries()
    steps = {(e.frame.camera_stamps_ns[0] - START_NS) // robot.period_ns: [s for s, _ in e.neighbours] for e in entries}
    assert steps == {0: [1], 1: [-1, 1], 2: [-1, 1], 3: [-1], 5: [1], 6: [-1, 1], 7: [-1]}


def test_odometry_after_a_jump_back_is_not_taken_for_that_before(tmp_path):
    robot = RobotBag(frames=15)
    later = 10**10
    images = [m for m in robot.messages if m[0].endswith("compressed")]
    away = transform(START_NS, "odom", "base_link", looking(0.0, (100.0, 0.0, 0.0)))
    robot.messages += [(t, log + later, content) for t, log, content in images[:6]]
    robot.messages += [("/tf", START_NS + later + n, tf(away)) for n in range(3)]
    entries = source(robot.write(tmp_path / "bag")).entries()
    assert len({entry.token for entry in entries}) == len(entries) == 18
    for entry in entries[:15]:
        expected = robot.T_odom_ego(entry.frame.camera_stamps_ns[0])
        np.testing.assert_allclose(entry.frame.T_world_ego[0], expected, atol=1e-6)
    assert all(entry.frame.T_world_ego is None for entry in entries[15:])


def test_raw_images_win_over_rectified_ones_and_named_odometry_over_tf(tmp_path):
    robot = RobotBag(encoding="rgb8")
    for topic, log, content in list(robot.messages):
        if topic.endswith("image_raw"):
            robot.messages.insert(0, (topic.replace("image_raw", "image_rect"), log, content))
    still = np.eye(4)
    robot.add("/wheels", START_NS, odometry(START_NS, still))
    robot.add("/wheels", START_NS, odometry(START_NS + 10**9, still))
    path = robot.write(tmp_path / "bag")
    assert [each.images for each in source(path).topics] == ["/front/image_raw", "/left/image_raw"]
    pose = source(path, odometry_topic="/wheels").entries()[3].frame.T_world_ego[0]
    np.testing.assert_allclose(pose, still, atol=1e-9)
    with pytest.raises(BagError, match=r"no odometry on /wheel; nav_msgs/Odometry is on: /wheels"):
        source(path, odometry_topic="/wheel")


def test_a_cut_off_recording_in_a_folder_is_named_and_the_rest_used(tmp_path, caplog):
    (tmp_path / "all" / "tuesday").mkdir(parents=True)
    RobotBag().write(tmp_path / "all" / "monday")
    whole = (RobotBag().write(tmp_path / "other") / "other.mcap").read_bytes()
    (tmp_path / "all" / "tuesday" / "tuesday_0.mcap").write_bytes(whole[:-500])
    assert [each.index.name for each in open_bags(BagConfig(str(tmp_path / "all")))] == ["monday"]
    assert "tuesday_0.mcap" in caplog.text and "--recover" in caplog.text


def test_a_first_image_of_another_size_does_not_decide(tmp_path, caplog):
    robot = RobotBag(encoding="rgb8", frames=6)
    first = next(m for topic, _, m in robot.messages if topic == "/front/image_raw")
    odd = raw(robot.stamp(0, 0), "front_optical", picture(9, (32, 24)), "rgb8")
    for name in ("width", "height", "step", "data"):
        setattr(first, name, getattr(odd, name))
    entries = source(robot.write(tmp_path / "bag")).entries()
    assert [entry.frame.camera_stamps_ns[0] for entry in entries] == [robot.stamp(n, 0) for n in range(1, 6)]
    assert "1 images of 32x24 pixels are left out, the others have 64x48" in caplog.text
