# SPDX-License-Identifier: Apache-2.0
import json
import pickle

import cv2
import numpy as np
import pytest
from support.nuscenes_fixtures import (
    RING,
    MadeUpDatabase,
    join_real_full_size_keyframe,
    read_table,
    real_keyframes,
    token,
    write_table,
)

from gaussianocc_core.data.entries import load_occupancy
from gaussianocc_core.data.nuscenes import TABLES, NuScenesSource
from gaussianocc_core.errors import CalibrationError, DatasetError
from gaussianocc_core.geometry import transforms

SCENE = "scene-0001"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return MadeUpDatabase(scenes=(SCENE, "scene-0002")).write(tmp_path_factory.mktemp("nuscenes") / "db")


@pytest.fixture
def broken(tmp_path):
    """A database of one scene that a test may damage."""
    return MadeUpDatabase(keyframes=1, frames_per_keyframe=2, points=10).write(tmp_path / "db")


def rows_of_keyframe(root, sample):
    calibrations = {row["token"]: row for row in read_table(root, "calibrated_sensor")}
    channels = {row["token"]: row["channel"] for row in read_table(root, "sensor")}
    return {
        channels[calibrations[row["calibrated_sensor_token"]]["sensor_token"]]: row
        for row in read_table(root, "sample_data")
        if row["sample_token"] == sample and row["is_key_frame"]
    }


def check_against_tables(root, sample):
    """Every number of a Sample against the rows of the tables."""
    rows = rows_of_keyframe(root, sample.token)
    calibrations = {row["token"]: row for row in read_table(root, "calibrated_sensor")}
    poses = {row["token"]: row for row in read_table(root, "ego_pose")}
    for i, name in enumerate(sample.cameras.names):
        row = rows[name]
        calibration, pose = calibrations[row["calibrated_sensor_token"]], poses[row["ego_pose_token"]]
        assert sample.camera_stamps_ns[i] == row["timestamp"] * 1000
        half_a_pixel = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # the table counts from the first pixel's centre
        K = np.array(calibration["camera_intrinsic"]) + half_a_pixel
        np.testing.assert_array_equal(sample.cameras.intrinsics[i], K)
        T_ego_cam = sample.cameras.T_ego_cam[i].numpy()
        assert T_ego_cam[:3, 3].tolist() == calibration["translation"]
        np.testing.assert_allclose(T_ego_cam[:3, :3], transforms.quat_to_matrix(np.array(calibration["rotation"])))
        T_world_ego = sample.T_world_ego_per_camera[i]
        assert T_world_ego[:3, 3].tolist() == pose["translation"]
        np.testing.assert_allclose(T_world_ego[:3, :3], transforms.quat_to_matrix(np.array(pose["rotation"])))
        assert (sample.cameras.width[i], sample.cameras.height[i]) == (row["width"], row["height"])
        stored = cv2.imdecode(np.fromfile(root / row["filename"], np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(sample.images[i], stored[..., ::-1])
    assert sample.stamp_ns == sample.camera_stamps_ns[0]
    np.testing.assert_array_equal(sample.T_world_ego, sample.T_world_ego_per_camera[0])


# ---- keyframes -----------------------------------------------------------------------------------------------------


def test_samples_equal_files_and_tables(root):
    source = NuScenesSource(root)
    assert set(source.scene_names()) == {SCENE, "scene-0002"}
    samples = list(source.samples(SCENE))
    assert [s.token for s in samples] == [token(SCENE, "sample", k) for k in range(2)]
    for sample in samples:
        assert sample.cameras.names == RING  # counter-clockwise from the front
        check_against_tables(root, sample)
    assert len({image.tobytes() for sample in samples for image in sample.images}) == 12


def test_stamps_are_exact_although_no_float64_holds_them(root):
    (first, _) = NuScenesSource(root).index(SCENE)
    assert first.frame.camera_stamps_ns[RING.index("CAM_FRONT_LEFT")] == 1_532_402_927_604_844_000


def test_cameras_come_as_configured_and_the_first_is_the_anchor(root):
    names = ("CAM_BACK", "CAM_FRONT")
    sample = next(NuScenesSource(root, cameras=names).samples(SCENE))
    assert sample.cameras.names == names
    assert len(sample.images) == 2
    check_against_tables(root, sample)


def test_an_entry_travels_to_a_worker_without_the_database(root):
    entry = NuScenesSource(root).index(SCENE)[1]
    data = pickle.dumps(entry)
    assert len(data) < 10_000
    check_against_tables(root, pickle.loads(data).load())


def test_occupancy_is_read_where_it_is_present(root, broken):
    sample = next(NuScenesSource(root).samples(SCENE))
    with np.load(root / "gts" / SCENE / sample.token / "labels.npz") as labels:
        np.testing.assert_array_equal(sample.occupancy.semantics, labels["semantics"])
        np.testing.assert_array_equal(sample.occupancy.mask_camera, labels["mask_camera"] == 1)
        np.testing.assert_array_equal(sample.occupancy.mask_lidar, labels["mask_lidar"] == 1)
    next(broken.glob("gts/*/*/labels.npz")).unlink()
    assert next(NuScenesSource(broken).samples(SCENE)).occupancy is None


def test_real_occupancy_labels_have_the_documented_form(shared_data):
    labels = load_occupancy(next((shared_data / "data" / "occ3d_gt").glob("*/labels.npz")))
    assert labels.semantics.shape == (200, 200, 16)
    assert labels.semantics.max() == 17
    assert (labels.mask_camera.sum(), labels.mask_lidar.sum()) == (43355, 56601)


def test_lenses_beyond_the_schema_are_read(broken):
    rows = read_table(broken, "calibrated_sensor")
    fisheye = {"camera_model": "equidistant", "camera_distortion": [0.02, -0.008, 0.001, 0]}
    next(row for row in rows if row["token"] == token(SCENE, "CAM_BACK")).update(fisheye)
    next(row for row in rows if row["token"] == token(SCENE, "CAM_FRONT"))["camera_distortion"] = [0.1] * 5
    write_table(broken, "calibrated_sensor", rows)
    cameras = NuScenesSource(broken, cameras=("CAM_FRONT", "CAM_BACK", "CAM_BACK_LEFT")).rig(SCENE).cameras
    assert cameras.model == ("pinhole", "equidistant", "pinhole")
    assert cameras.distortion == ((0.1,) * 5, (0.02, -0.008, 0.001, 0.0), ())


def test_a_keyframe_that_lacks_a_camera_is_left_out_with_a_warning(broken, caplog):
    rows = [row for row in read_table(broken, "sample_data") if "samples/CAM_BACK/" not in row["filename"]]
    write_table(broken, "sample_data", rows)
    assert NuScenesSource(broken).index(SCENE) == ()
    assert "no image of CAM_BACK" in caplog.text
    assert len(NuScenesSource(broken, cameras=("CAM_FRONT",)).index(SCENE)) == 1


def test_seven_real_keyframes_equal_files_and_tables(shared_data):
    root = real_keyframes(shared_data)
    samples = list(NuScenesSource(root).samples("scene-0061"))
    assert len(samples) == 7
    for sample in samples:
        assert sample.cameras.names == RING
        assert {image.shape for image in sample.images} == {(225, 400, 3)}
        check_against_tables(root, sample)


def test_the_real_full_size_keyframe_equals_files_and_tables(shared_data, tmp_path):
    root = join_real_full_size_keyframe(shared_data, tmp_path / "db")
    (sample,) = NuScenesSource(root).samples("scene-0061")
    assert {image.shape for image in sample.images} == {(900, 1600, 3)}
    check_against_tables(root, sample)


# ---- bad input -----------------------------------------------------------------------------------------------------


def test_opening_says_nothing(root, capfd):
    NuScenesSource(root)
    assert capfd.readouterr() == ("", "")


def test_a_missing_data_root_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere is not a folder"):
        NuScenesSource(tmp_path / "nowhere")


def test_a_missing_version_lists_those_present(root):
    with pytest.raises(DatasetError, match=r"v1.0-trainval is not in .*; versions there: v1.0-mini"):
        NuScenesSource(root, "v1.0-trainval")


def test_giving_the_folder_of_tables_is_recognised(root):
    with pytest.raises(DatasetError, match="--version v1.0-mini"):
        NuScenesSource(root / "v1.0-mini", "v1.0-mini")


def test_an_unknown_scene_suggests_the_nearest_names(root):
    with pytest.raises(DatasetError, match="did you mean scene-000"):
        NuScenesSource(root).index("scene-001")


@pytest.mark.parametrize("table", TABLES)
def test_a_missing_table_is_named(broken, table):
    (broken / "v1.0-mini" / f"{table}.json").unlink()
    with pytest.raises(DatasetError, match=f"table {table}.json is missing"):
        NuScenesSource(broken)


@pytest.mark.parametrize("content", ["[{", "", "\x00\x01"])
def test_a_broken_table_is_named(broken, content):
    (broken / "v1.0-mini" / "ego_pose.json").write_text(content)
    with pytest.raises(DatasetError, match=r"table ego_pose.json is not valid JSON"):
        NuScenesSource(broken)


@pytest.mark.parametrize("content", [{}, [1], "text"])
def test_a_table_of_another_shape_is_named(broken, content):
    write_table(broken, "sensor", content)
    with pytest.raises(DatasetError, match=r"table sensor.json|sensor_token"):
        NuScenesSource(broken)


def test_an_empty_map_and_a_missing_map_file_are_explained(broken):
    (broken / "maps" / "blank.png").unlink()
    with pytest.raises(DatasetError, match=r"blank.png is missing"):
        NuScenesSource(broken)
    write_table(broken, "map", [])
    with pytest.raises(DatasetError, match=r"map.json is empty"):
        NuScenesSource(broken)


@pytest.mark.parametrize(
    ("table", "field"),
    [
        ("sample_data", "sample_token"),
        ("sample_data", "calibrated_sensor_token"),
        ("sample_data", "ego_pose_token"),
        ("calibrated_sensor", "sensor_token"),
        ("sample", "scene_token"),
    ],
)
def test_a_token_that_leads_nowhere_is_named_with_its_row(broken, table, field):
    rows = read_table(broken, table)
    rows[0][field] = "feed" * 8
    write_table(broken, table, rows)
    with pytest.raises(DatasetError, match=f"{table} {rows[0]['token']}: its {field} 'feedfeed") as caught:
        list(NuScenesSource(broken).records(SCENE))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["timestamp", "filename", "width", "ego_pose_token"])
def test_a_missing_field_is_named_with_its_row(broken, field):
    rows = read_table(broken, "sample_data")
    row = next(row for row in rows if "CAM_BACK/" in row["filename"])
    del row[field]
    write_table(broken, "sample_data", rows)
    with pytest.raises(DatasetError, match=f"sample_data {row['token']} has no field {field}"):
        NuScenesSource(broken).index(SCENE)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("camera_intrinsic", [[float("nan"), 0, 1], [0, 1, 1], [0, 0, 1]]),
        ("camera_intrinsic", [[float("inf"), 0, 1], [0, 1, 1], [0, 0, 1]]),
        ("camera_intrinsic", [[0, 0, 1], [0, 1, 1], [0, 0, 1]]),
        ("camera_intrinsic", []),
        ("translation", [0, float("nan"), 0]),
        ("translation", [0, 0]),
        ("rotation", [0, 0, 0, 0]),
        ("camera_model", "panorama"),
        ("camera_distortion", [0.1, 0.2, 0.3]),
        ("camera_distortion", [0.1, 0.2, 0.3, float("nan")]),
    ],
)
def test_unusable_calibration_names_its_row(broken, field, value):
    rows = read_table(broken, "calibrated_sensor")
    row = next(row for row in rows if row["token"] == token(SCENE, "CAM_FRONT"))
    row[field] = value
    write_table(broken, "calibrated_sensor", rows)
    with pytest.raises(CalibrationError, match=f"calibrated_sensor {row['token']}"):
        NuScenesSource(broken).index(SCENE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda stamp: stamp * 1e-6, "is no whole number of microseconds; is it in seconds"),
        (lambda stamp: stamp // 1000, "is a time in milliseconds"),
        (lambda stamp: stamp // 10**6, "is a time in seconds"),
        (lambda stamp: stamp * 1000, "is a time in nanoseconds"),
        (lambda stamp: str(stamp), "is no whole number of microseconds"),
    ],
)
def test_stamps_of_another_unit_are_refused_by_name(broken, change, said):
    rows = read_table(broken, "sample_data")
    for row in rows:
        row["timestamp"] = change(row["timestamp"])
    write_table(broken, "sample_data", rows)
    with pytest.raises(DatasetError, match=said):
        NuScenesSource(broken).index(SCENE)


def test_whole_stamps_may_be_written_as_floats(broken):
    before = [entry.frame.camera_stamps_ns for entry in NuScenesSource(broken).index(SCENE)]
    rows = read_table(broken, "sample_data")
    for row in rows:
        row["timestamp"] = float(row["timestamp"])
    write_table(broken, "sample_data", rows)
    assert [entry.frame.camera_stamps_ns for entry in NuScenesSource(broken).index(SCENE)] == before


def test_calibration_that_changes_within_a_scene_is_refused(broken):
    calibrations = read_table(broken, "calibrated_sensor")
    old = next(row for row in calibrations if row["token"] == token(SCENE, "CAM_FRONT"))
    calibrations.append({**old, "token": "new"})
    rows = read_table(broken, "sample_data")
    next(row for row in rows if "sweeps/CAM_FRONT/" in row["filename"])["calibrated_sensor_token"] = "new"
    write_table(broken, "sample_data", rows)
    write_table(broken, "calibrated_sensor", calibrations)
    assert NuScenesSource(broken).rig(SCENE).cameras.names == RING  # the same numbers under another token are fine
    calibrations[-1]["translation"] = [0, 0, 0]
    write_table(broken, "calibrated_sensor", calibrations)
    with pytest.raises(CalibrationError, match="CAM_FRONT changes"):
        NuScenesSource(broken).rig(SCENE)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.write_bytes(b""), "cannot be decoded"),
        (lambda path: path.write_bytes(b"no picture"), "cannot be decoded"),
        (lambda path: cv2.imwrite(str(path), np.zeros((18, 32, 3), np.uint8)), "32x18 pixels, its row says 64x36"),
    ],
)
def test_an_image_that_cannot_be_read_names_token_and_path(broken, damage, complaint):
    path = next((broken / "samples" / "CAM_BACK").iterdir())
    damage(path)
    entry = NuScenesSource(broken).index(SCENE)[0]
    with pytest.raises(DatasetError, match=complaint) as caught:
        entry.load()
    assert str(path) in str(caught.value)
    assert entry.frame.image_tokens[RING.index("CAM_BACK")] in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 but no zip"])
def test_damaged_occupancy_labels_are_named(tmp_path, content):
    (tmp_path / "labels.npz").write_bytes(content)
    with pytest.raises(DatasetError, match=r"labels.npz cannot be read"):
        load_occupancy(tmp_path / "labels.npz")


def test_occupancy_labels_of_unequal_shape_are_refused(tmp_path):
    arrays = {"semantics": np.zeros((2, 2, 2)), "mask_camera": np.zeros((2, 2, 2)), "mask_lidar": np.zeros((2, 2, 3))}
    np.savez(tmp_path / "labels.npz", **arrays)
    with pytest.raises(DatasetError, match="one shape"):
        load_occupancy(tmp_path / "labels.npz")


def test_the_made_up_database_is_valid_json_everywhere(root):
    for table in TABLES:
        assert isinstance(json.loads((root / "v1.0-mini" / f"{table}.json").read_text()), list)
