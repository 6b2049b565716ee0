# SPDX-License-Identifier: Apache-2.0
"""DDAD scenes: each trap of the format by itself, and from the files to a bag and back."""

import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.ddad_fixtures import PERIOD_NS, RING, THREE, MadeUpScene, edit_json, key, write_data_set, write_json

from gaussianocc_core.bags.convert import write_recording
from gaussianocc_core.bags.indexing import open_index
from gaussianocc_core.bags.schema import ImageRecord, LidarRecord, PoseRecord
from gaussianocc_core.data.ddad import DdadSource
from gaussianocc_core.errors import CalibrationError, DatasetError, GaussianOccError
from gaussianocc_core.labels import CLASS_NAMES, FREE, IGNORE

SCENE = MadeUpScene()


def copy_of(scene, root):
    """A data set of one scene, to be damaged."""
    return write_data_set(root / "ddad", scene)


@pytest.fixture
def root(tmp_path):
    return copy_of(SCENE, tmp_path)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two scenes in the forms that occur: three cameras, 17 digits, JPEG, and six, 16 digits, PNG. Never changed."""
    six = MadeUpScene("000150", RING, digits=16, image="png", splits=("1",), mounting=0.5)
    return write_data_set(tmp_path_factory.mktemp("two") / "ddad", SCENE, six), six


def edit_image_rows(root, edit, camera="CAMERA_05", scene=SCENE):
    """edit(row) for every image of a camera."""

    def edit_all(content):
        for row in content["data"]:
            if row["id"]["name"] == camera:
                edit(row)

    edit_json(root / scene.json_name, edit_all)


def edit_lens(root, change, camera="CAMERA_05"):
    edit_json(root / SCENE.calibration_name, lambda c: c["intrinsics"][c["names"].index(camera)].update(change))


# ---- the scene index -----------------------------------------------------------------------------------------------


def test_the_scene_index_is_found_by_its_content_under_any_name(tmp_path):
    root = write_data_set(tmp_path / "ddad", SCENE, replace(SCENE, name="000001", splits=("1", "2")), index="a b.json")
    write_json(root / "0_first_by_name.json", {"info": "no splits here"})
    write_json(root / "ddad.json", [1, 2, 3])
    source = DdadSource(root)
    assert source.name == "a b.json"
    assert source.scene_names() == ("000000", "000001")
    assert source.scene_names("train") == ("000000",)
    assert source.scene_names("val") == source.scene_names("test") == ("000001",)
    assert DdadSource(root / "a b.json").scene_names() == source.scene_names()


def test_a_scene_in_two_splits_is_one_scene(tmp_path):
    source = DdadSource(write_data_set(tmp_path / "ddad", replace(SCENE, splits=("0", "1"))))
    assert source.scene_names() == source.scene_names("train") == source.scene_names("val") == ("000000",)


def test_no_scene_index_is_an_error_that_looks_around(root):
    with pytest.raises(DatasetError, match=f"no scene index .* did you mean {re.escape(str(root))}\\?"):
        DdadSource(root.parent)
    with pytest.raises(DatasetError, match=f"no scene index .* did you mean {re.escape(str(root))}\\?"):
        DdadSource(root / SCENE.name)
    with pytest.raises(DatasetError, match="is not a folder"):
        DdadSource(root / "nowhere")


def test_several_scene_indexes_must_agree(root):
    shutil.copy(root / "made_up.json", root / "same.json")
    assert DdadSource(root).scene_names() == ("000000",)
    edit_json(root / "same.json", lambda index: index["scene_splits"]["0"]["filenames"].append("000001/scene_1.json"))
    with pytest.raises(DatasetError, match=r"differ: made_up\.json, same\.json; give the path"):
        DdadSource(root)
    assert DdadSource(root / "same.json").scene_names() == ("000000", "000001")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"scene_splits": {"0": {"filenames": ["a/scene_1.json"]', "is not valid JSON"),
        ('{"scene_splits": {}}', "has no splits"),
        ('{"scene_splits": ["0"]}', "scene_splits: expected dict"),
        ('{"scene_splits": {"0": {}}}', "split 0: filenames: expected list, got None"),
        ('{"scene_splits": {"0": {"filenames": ["scene_1.json"]}}}', "expected <scene>/scene_<hash>.json"),
        ('{"scene_splits": {"0": {"filenames": [7]}}}', "expected <scene>/scene_<hash>.json, got 7"),
        ('{"scene_splits": {"0": {"filenames": ["a/scene_1.json", "a/scene_2.json"]}}}', "scene a is both"),
    ],
)
def test_a_scene_index_that_cannot_be_used_is_named(tmp_path, content, complaint):
    (tmp_path / "ddad.json").write_text(content)
    with pytest.raises(DatasetError, match=complaint) as caught:
        DdadSource(tmp_path)
    assert str(tmp_path / "ddad.json") in str(caught.value)


def test_unknown_scenes_and_splits_name_the_known_ones(two):
    source = DdadSource(two[0])
    with pytest.raises(DatasetError, match=r"'000151' is not in .*made_up.json \(2 scenes\); did you mean 000150"):
        source.rig("000151")
    with pytest.raises(DatasetError, match="'test' is not in .*; it has train, val"):
        source.scene_names("test")


def test_a_scene_file_under_another_hash_is_found_if_it_is_the_only_one(root):
    path = root / SCENE.json_name
    path.rename(path.with_name("scene_0.json"))
    assert len(DdadSource(root).index("000000")) == 3
    shutil.copy(path.with_name("scene_0.json"), path.with_name("scene_1.json"))
    with pytest.raises(DatasetError, match=r"does not exist, and scene_0\.json, scene_1\.json is there"):
        DdadSource(root).rig("000000")
    shutil.rmtree(path.parent)
    with pytest.raises(DatasetError, match="scene 000000: there is no folder"):
        DdadSource(root).rig("000000")


# ---- stamps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("digits", "first_ns"), [(17, 1_556_919_593_841_523_100), (16, 1_568_863_909_528_155_000)])
def test_stamps_count_tenths_of_microseconds_or_microseconds_by_their_digits(tmp_path, digits, first_ns):
    root = copy_of(replace(SCENE, digits=digits), tmp_path)
    stamps = [entry.frame.camera_stamps_ns for entry in DdadSource(root).index("000000")]
    assert stamps == [(first_ns + i * PERIOD_NS,) * 3 for i in range(3)]  # 10 Hz in both


def test_dates_in_the_json_are_never_used(root):
    def records():
        return [(type(each), each.stamp_ns) for each in DdadSource(root).recording("000000").records()]

    before = records()
    edit_image_rows(root, lambda row: row["id"].update(timestamp="1970-01-01T00:00:00.000000Z"))
    edit_image_rows(root, lambda row: row["id"].pop("timestamp"), camera="LIDAR")
    edit_json(root / SCENE.json_name, lambda content: [sample.pop("id") for sample in content["samples"]])
    assert records() == before


@pytest.mark.parametrize(
    "stem", ["155691959384152", "155691959384152310", "1556919593.841523", "", "１５５６９１９５９３８４１５２３１"]
)
def test_a_file_name_that_is_no_time_is_an_error(root, stem):
    filename = f"rgb/CAMERA_05/{stem}.jpg"
    edit_image_rows(root, lambda row: row["datum"]["image"].update(filename=filename))
    with pytest.raises(DatasetError, match="is no time; expected 17 digits") as caught:
        DdadSource(root).index("000000")
    assert Path(filename).name in str(caught.value)
    assert re.search("datum [0-9a-f]{40}", str(caught.value))


# ---- calibration ---------------------------------------------------------------------------------------------------


def test_every_scene_has_its_own_calibration(two):
    root, six = two
    source = DdadSource(root)
    for scene in (SCENE, six):
        rig = source.rig(scene.name)
        for i, name in enumerate(rig.cameras.names):
            lens = scene.lens(name)
            K = [[lens["fx"], 0, lens["cx"] + 0.5], [0, lens["fy"], lens["cy"] + 0.5], [0, 0, 1]]
            assert rig.cameras.intrinsics[i].tolist() == K
            assert K[0][0] != K[1][1]
            np.testing.assert_allclose(rig.cameras.T_ego_cam[i], scene.T_ego_sensor(name), atol=1e-12)
        np.testing.assert_allclose(rig.T_ego_lidar["LIDAR"], scene.T_ego_sensor("LIDAR"), atol=1e-12)
        assert rig.cameras.model == ("pinhole",) * len(scene.cameras)
        assert not any(rig.cameras.distortion)


def test_cameras_go_counter_clockwise_from_the_front_or_as_wanted(two):
    root, six = two
    assert DdadSource(root).rig("000000").cameras.names == THREE
    assert DdadSource(root).rig("000150").cameras.names == RING
    wanted = ("CAMERA_09", "CAMERA_01")
    source = DdadSource(root, cameras=wanted)
    assert source.rig("000150").cameras.names == wanted
    assert source.index("000150")[0].token == str(six.count("CAMERA_09", 0))
    with pytest.raises(DatasetError, match="scene 000000 has no camera CAMERA_09; it has"):
        source.rig("000000")


def test_cameras_may_have_any_names(tmp_path):
    root = copy_of(replace(SCENE, cameras=("left", "CAMERA_01", "überkopf")), tmp_path)  # 80, 1.5 and 160 degrees
    assert DdadSource(root).rig("000000").cameras.names == ("CAMERA_01", "left", "überkopf")


def test_a_calibration_that_changes_within_a_scene_is_an_error_and_one_that_is_only_repeated_is_not(root):
    again = (root / SCENE.calibration_name).with_name("again.json")
    shutil.copy(root / SCENE.calibration_name, again)
    edit_json(root / SCENE.json_name, lambda content: content["samples"][1].update(calibration_key="again"))
    assert len(DdadSource(root).index("000000")) == 3
    edit_json(again, lambda content: content["extrinsics"][2]["translation"].update(z=1.5))
    with pytest.raises(CalibrationError, match=r"calibration of CAMERA_05 changes from .*again\.json"):
        DdadSource(root).rig("000000")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"skew": 0.4}, "'skew': 0.4.*without skew"),
        ({"k1": -0.3, "k2": 0.0}, "'k1': -0.3.*only undistorted"),
        ({"distortion": [0.0, 0.1]}, "distortion.*only undistorted"),
        ({"fx": 0.0}, "positive focal lengths"),
        ({"cy": None}, "expected the numbers fx, fy, cx, cy"),
    ],
)
def test_a_lens_that_a_pinhole_cannot_describe_is_refused(root, change, complaint):
    edit_lens(root, change)
    with pytest.raises(CalibrationError, match=complaint) as caught:
        DdadSource(root).rig("000000")
    assert f"{root / SCENE.calibration_name}: intrinsics of CAMERA_05" in str(caught.value)


def test_a_lens_whose_further_terms_are_zero_is_a_pinhole(root):
    before = DdadSource(root).rig("000000").cameras.intrinsics
    edit_lens(root, {"k1": 0.0, "distortion": [0.0, 0.0]})
    edit_json(root / SCENE.calibration_name, lambda content: [lens.pop("skew") for lens in content["intrinsics"]])
    assert DdadSource(root).rig("000000").cameras.intrinsics.equal(before)


# ---- samples -------------------------------------------------------------------------------------------------------


def test_samples_are_synchronised_sets_in_time_order_with_those_before_and_after(root):
    rows = json.loads((root / SCENE.json_name).read_text())["samples"]
    first = [row["datum_keys"][0] for row in rows]
    assert first != [key("000000", "LIDAR", i) for i in range(3)]  # in the file they are in another order
    entries = DdadSource(root).index("000000", neighbours=True)
    assert [entry.token for entry in entries] == [str(SCENE.count("CAMERA_01", i)) for i in range(3)]
    for i, entry in enumerate(entries):
        assert entry.scene == "000000"
        assert entry.frame.image_tokens == tuple(key("000000", camera, i) for camera in THREE)
        assert entry.frame.image_paths == tuple(root / SCENE.image_path(camera, i) for camera in THREE)
        assert [offset for offset, _ in entry.neighbours] == [offset for offset in (-1, 1) if 0 <= i + offset < 3]
        assert all(frame is entries[i + offset].frame for offset, frame in entry.neighbours)
        assert entry.gap_s == pytest.approx(0.1)
    assert all(entry.neighbours == () for entry in DdadSource(root).index("000000"))


def test_loaded_samples_hold_the_pictures_and_where_the_vehicle_was(two):
    root, six = two
    (first, *rest) = DdadSource(root).samples("000150", neighbours=True)
    assert len(rest) == 2
    assert first.stamp_ns == six.stamp_ns("CAMERA_01", 0)
    np.testing.assert_allclose(first.T_world_ego, six.T_world_ego(first.stamp_ns), atol=1e-9)
    for camera, image, after in zip(RING, first.images, first.neighbours[0].images, strict=True):
        np.testing.assert_array_equal(image, cv2.imread(str(root / six.image_path(camera, 0)))[..., ::-1])
        np.testing.assert_array_equal(after, cv2.imread(str(root / six.image_path(camera, 1)))[..., ::-1])


def test_each_camera_keeps_its_own_pose_where_they_disagree_and_the_bag_takes_the_anchors(root):
    edit_image_rows(root, lambda row: _shift(row, 0.009))
    entry = DdadSource(root).index("000000")[0]
    stamp_ns = entry.frame.camera_stamps_ns[0]
    T_world_cam = SCENE.T_world_ego(stamp_ns) @ SCENE.T_ego_sensor("CAMERA_05")
    T_world_cam[0, 3] += 0.009
    np.testing.assert_allclose(entry.frame.T_world_ego[1] @ entry.cameras.T_ego_cam[1].numpy(), T_world_cam, atol=1e-9)
    np.testing.assert_allclose(entry.frame.T_world_ego[0], SCENE.T_world_ego(stamp_ns), atol=1e-9)
    source = DdadSource(root)
    (pose,) = [r for r in source.recording("000000").records() if isinstance(r, PoseRecord) and r.stamp_ns == stamp_ns]
    T_world_ego = source.rig("000000").T_map_odom @ pose.T_odom_ego
    np.testing.assert_allclose(T_world_ego, SCENE.T_world_ego(stamp_ns), atol=1e-9)


def _shift(row, metres):
    row["datum"]["image"]["pose"]["translation"]["x"] += metres


def test_a_sample_that_lacks_a_wanted_camera_is_left_out_with_a_warning(root, caplog):
    gone = key("000000", "CAMERA_05", 1)
    edit_json(
        root / SCENE.json_name,
        lambda content: [s["datum_keys"].remove(gone) for s in content["samples"] if gone in s["datum_keys"]],
    )
    with caplog.at_level(logging.WARNING):
        entries = DdadSource(root).index("000000", neighbours=True)
    assert [entry.token for entry in entries] == [str(SCENE.count("CAMERA_01", i)) for i in (0, 2)]
    assert entries[0].gap_s == pytest.approx(0.2)
    assert "has no image of CAMERA_05 and is left out" in caplog.text
    caplog.clear()
    assert len(DdadSource(root, cameras=("CAMERA_06", "CAMERA_01")).index("000000")) == 3
    assert not caplog.records


def test_labels_and_depths_are_used_where_every_camera_has_them(root):
    def index(**options):
        return DdadSource(root).index("000000", **options)

    width, height = SCENE.size
    for camera in THREE:
        stamp = SCENE.count(camera, 1)
        labels, depth = root / f"ddad_semantic/000000/{camera}", root / f"depth/000000/depth/{camera}"
        labels.mkdir(parents=True)
        depth.mkdir(parents=True)
        ids = np.full((height, width), 1, np.int8)  # the generator's id of a car
        ids[0] = -1
        ids.tofile(labels / f"{stamp}_mask.bin")
        np.save(depth / f"{stamp}.npy", np.full((height, width), 7.0, np.float32))
    assert [entry.labelled for entry in index(semantics=True)] == [False, True, False]
    assert [bool(entry.depth_paths) for entry in index(depths=True)] == [False, True, False]
    assert not any(entry.labelled or entry.depth_paths for entry in index())
    sample = index(semantics=True, depths=True, undetected=FREE)[1].load()
    assert [set(np.unique(each).tolist()) for each in sample.semantics] == [{CLASS_NAMES.index("car"), FREE}] * 3
    assert all((depth == 7).all() for depth in sample.depths)
    assert index(semantics=True)[1].load().semantics[2][0, 0] == IGNORE
    (root / f"ddad_semantic/000000/CAMERA_06/{SCENE.count('CAMERA_06', 1)}_mask.bin").unlink()
    assert not any(entry.labelled for entry in index(semantics=True))


@pytest.mark.parametrize("layout", ["{number}.png", "{camera}_mask.png"])
def test_masks_are_found_by_number_or_by_camera_and_are_true_where_the_world_is(root, tmp_path, layout):
    width, height = SCENE.size
    for i, camera in enumerate(THREE):
        mask = np.full((height, width), 255, np.uint8)
        mask[height - 1 - i :] = 0  # the vehicle, lowest in the image
        cv2.imwrite(str(tmp_path / layout.format(number=camera[-2:], camera=camera)), mask)
    sample = next(DdadSource(root).samples("000000", masks=tmp_path))
    assert [int((~mask).sum()) for mask in sample.static_masks] == [width, 2 * width, 3 * width]
    assert all(mask[0].all() for mask in sample.static_masks)


def test_masks_by_camera_and_scene_mean_the_opposite_and_are_refused(root, tmp_path):
    for camera in THREE:
        path = tmp_path / "mask" / camera / "000000" / "mask.png"
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), np.zeros(SCENE.size[::-1], np.uint8))
    expected = r"mask\.png: .* the opposite .* expected 01\.png or CAMERA_01_mask\.png"
    with pytest.raises(DatasetError, match=expected):
        DdadSource(root).index("000000", masks=tmp_path / "mask")
    with pytest.raises(DatasetError, match=r"holds no mask of CAMERA_01; expected 01\.png or CAMERA_01_mask\.png"):
        DdadSource(root).index("000000", masks=tmp_path)


# ---- the raw stream ------------------------------------------------------------------------------------------------


def test_records_come_in_time_order_with_one_pose_per_stamp_and_lidar_as_an_option(two):
    root, six = two
    source = DdadSource(root)
    for scene in (SCENE, six):
        records = list(source.recording(scene.name).records())
        stamps = [record.stamp_ns for record in records]
        assert stamps == sorted(stamps)
        moments = sorted({scene.stamp_ns(sensor, i) for sensor in ("LIDAR", "CAMERA_01") for i in range(3)})
        assert [r.stamp_ns for r in records if isinstance(r, PoseRecord)] == moments
        images = [r for r in records if isinstance(r, ImageRecord)]
        assert [r.camera for r in images] == list(scene.cameras) * 3
        assert sum(isinstance(r, LidarRecord) for r in records) == 3
        assert source.recording(scene.name).files == len(images) + 3
        assert source.recording(scene.name, lidar=False).files == len(images)
        without = [r for r in source.recording(scene.name, lidar=False).records() if not isinstance(r, ImageRecord)]
        assert [r.stamp_ns for r in without] == moments  # poses at lidar stamps stay: they make the motion denser
        assert all(isinstance(r, PoseRecord) for r in without)


def test_the_vehicle_is_where_sensor_pose_and_extrinsics_say_also_for_a_lidar_that_is_mounted_askew(two):
    root, six = two
    source = DdadSource(root)
    for scene in (SCENE, six):
        T_map_odom = source.rig(scene.name).T_map_odom
        poses = [r for r in source.recording(scene.name).records() if isinstance(r, PoseRecord)]
        np.testing.assert_allclose(poses[0].T_odom_ego, np.eye(4), atol=1e-9)  # odom is where the scene begins
        for pose in poses:
            # 1e-9 m: the json's doubles round at 1e-13 of 400 m, and so do three products
            np.testing.assert_allclose(T_map_odom @ pose.T_odom_ego, scene.T_world_ego(pose.stamp_ns), atol=1e-9)


def test_columns_of_points_are_taken_by_their_names(root):
    path = root / SCENE.points_path(0)
    x, y, z, intensity, ring = np.random.default_rng(0).uniform(0, 30, (5, 20))
    ring = np.floor(ring)
    np.savez_compressed(path, data=np.column_stack([ring, intensity, z, y, x]), other=np.zeros(3))
    columns = ["RING", "INTENSITY", "Z", "Y", "X"]

    def describe(row):
        if row["key"] == key("000000", "LIDAR", 0):
            row["datum"]["point_cloud"]["point_format"] = columns

    edit_image_rows(root, describe, camera="LIDAR")
    clouds = [r.points for r in DdadSource(root).recording("000000").records() if isinstance(r, LidarRecord)]
    np.testing.assert_array_equal(clouds[0], np.column_stack([x, y, z, intensity, ring]).astype(np.float32))
    np.testing.assert_array_equal(clouds[1], np.load(root / SCENE.points_path(1))["data"].astype(np.float32))


def test_a_datum_that_two_samples_share_is_one_message(root):
    shared = key("000000", "LIDAR", 0)

    def share(content):
        for sample in content["samples"]:
            sample["datum_keys"] = [each for each in sample["datum_keys"] if each[:8] not in others] + [shared]

    others = {key("000000", "LIDAR", i)[:8] for i in range(3)}
    edit_json(root / SCENE.json_name, share)
    assert sum(isinstance(r, LidarRecord) for r in DdadSource(root).recording("000000").records()) == 1


def test_other_sensors_are_left_out_with_a_warning(root, caplog):
    def rename(row):
        row["datum"]["radar_point_cloud"] = row["datum"].pop("point_cloud")

    edit_image_rows(root, rename, camera="LIDAR")
    with caplog.at_level(logging.WARNING):
        rig = DdadSource(root).rig("000000")
    assert dict(rig.T_ego_lidar) == {}
    assert "data of kind radar_point_cloud are left out" in caplog.text


# ---- bad input -----------------------------------------------------------------------------------------------------


def truncate(path):
    path.write_bytes(path.read_bytes()[:-30])


def forget(name):
    return lambda path: edit_json(path, lambda content: content.pop(name))


def drop_from_calibration(path):
    edit_json(path, lambda content: [content[each].pop(2) for each in ("names", "extrinsics", "intrinsics")])


def spoil_first_sample(change):
    return lambda path: edit_json(path, lambda content: change(content["samples"][0]))


def spoil_first_datum(change):
    return lambda path: edit_json(path, lambda content: change(content["data"][0]))


def body(row):
    return next(iter(row["datum"].values()))


IMAGE, POINTS = SCENE.image_path("CAMERA_05", 1), SCENE.points_path(1)
DAMAGE = {
    "scene file broken": (SCENE.json_name, truncate, "is not valid JSON"),
    "scene file a list": (SCENE.json_name, lambda path: path.write_text("[]"), "expected a JSON object"),
    "scene file without samples": (SCENE.json_name, forget("samples"), "samples: expected list, got None"),
    "no samples": (SCENE.json_name, lambda path: edit_json(path, lambda c: c["samples"].clear()), "has no samples"),
    "unknown datum": (
        SCENE.json_name,
        spoil_first_sample(lambda sample: sample["datum_keys"].append("feed")),
        "sample 0: its datum 'feed' is not among the data",
    ),
    "two images of a camera": (
        SCENE.json_name,
        spoil_first_sample(lambda sample: sample["datum_keys"].extend(key("000000", THREE[0], i) for i in range(2))),
        "sample 0: two data of CAMERA_01",
    ),
    "empty datum": (SCENE.json_name, spoil_first_datum(lambda row: row["datum"].clear()), "expected image or point_c"),
    "no pose": (SCENE.json_name, spoil_first_datum(lambda row: body(row).pop("pose")), "pose: expected dict, got None"),
    "pose of zeros": (
        SCENE.json_name,
        spoil_first_datum(lambda row: body(row)["pose"].update(rotation=dict.fromkeys(["qw", "qx", "qy", "qz"], 0))),
        "a finite quaternion w x y z that is not zero",
    ),
    "no sensor name": (SCENE.json_name, spoil_first_datum(lambda row: row["id"].pop("name")), "name: expected str"),
    "calibration missing": (SCENE.calibration_name, Path.unlink, "missing or unreadable"),
    "calibration broken": (SCENE.calibration_name, truncate, "is not valid JSON"),
    "calibration without a camera": (SCENE.calibration_name, drop_from_calibration, "has no CAMERA_05; it has LIDAR"),
    "calibration of unequal lists": (
        SCENE.calibration_name,
        lambda path: edit_json(path, lambda content: content["names"].pop()),
        "expected one of each per sensor, got 3, 4, 4",
    ),
    "extrinsics incomplete": (
        SCENE.calibration_name,
        lambda path: edit_json(path, lambda content: content["extrinsics"][2]["rotation"].pop("qz")),
        "extrinsics of CAMERA_05: rotation: expected the numbers qw, qx, qy, qz",
    ),
    "image truncated": (IMAGE, truncate, "truncated"),
    "image empty": (IMAGE, lambda path: path.write_bytes(b""), "empty"),
    "image of another size": (IMAGE, lambda path: cv2.imwrite(str(path), np.zeros((8, 9, 3), np.uint8)), "9x8"),
    "points truncated": (POINTS, truncate, "cannot be read"),
    "points empty": (POINTS, lambda path: path.write_bytes(b""), "cannot be read"),
    "points pickled": (POINTS, lambda path: np.savez(path, data=np.array([{}, 1], dtype=object)), "holds objects"),
    "points of three columns": (POINTS, lambda path: np.savez(path, data=np.zeros((5, 3))), r"\(points, 4\)"),
    "points without the array": (POINTS, lambda path: np.savez(path, a=np.zeros(3), b=np.zeros(3)), "named data"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_cannot_be_read_is_named_in_one_line_and_leaves_no_bag(root, tmp_path, damage):
    filename, spoil, complaint = DAMAGE[damage]
    spoil(root / filename)
    with pytest.raises(GaussianOccError, match=complaint) as caught:
        write_recording(DdadSource(root).recording("000000"), tmp_path / "out" / "000000")
    assert isinstance(caught.value, (DatasetError, CalibrationError))
    assert str(root / filename) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_a_part_of_a_data_set_becomes_a_bag_of_what_is_there_and_the_gaps_are_counted(root, tmp_path, caplog):
    whole = DdadSource(root).recording("000000").count_messages()
    for filename in (SCENE.image_path("CAMERA_05", 1), SCENE.image_path("CAMERA_05", 2), SCENE.points_path(0)):
        (root / filename).unlink()
    recording = DdadSource(root).recording("000000")
    (warning,) = [record.message for record in caplog.records if "do not exist" in record.message]
    assert "(CAMERA_05 2, LIDAR 1)" in warning and "they are left out" in warning
    write_recording(recording, tmp_path / "out" / "000000")
    counts = {name: len(topic) for name, topic in open_index(tmp_path / "out" / "000000").topics.items()}
    for name, expected in recording.count_messages().items():
        if name in counts:
            assert counts[name] == expected
            gone = 2 if name.startswith("/CAMERA_05/") else 1 if name.startswith("/LIDAR/") else 0
            assert expected == whole[name] - gone
    assert {"/CAMERA_05/image_raw/compressed", "/LIDAR/points"} <= set(counts)


def test_a_scene_of_which_nothing_is_there_is_refused(root):
    for pattern in ("*.png", "*.jpg", "*.npz"):
        for path in root.rglob(pattern):
            path.unlink()
    with pytest.raises(DatasetError, match="leave the scene out"):
        DdadSource(root).recording("000000")


def test_points_without_intensity_are_an_error_that_names_the_column(root):
    def describe(row):
        row["datum"]["point_cloud"]["point_format"] = ["X", "Y", "Z"]

    edit_image_rows(root, describe, camera="LIDAR")
    with pytest.raises(DatasetError, match="point_format has no INTENSITY, only X, Y, Z"):
        list(DdadSource(root).recording("000000").records())
