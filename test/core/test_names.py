# SPDX-License-Identifier: Apache-2.0
"""Names in strangers' files never become paths that nobody asked for."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.ddad_fixtures import MadeUpScene, edit_json, write_data_set
from support.nuscenes_fixtures import MadeUpDatabase, read_table, write_table
from support.rigs import ring
from support.synthetic_bags import run_tool

from gaussianocc_core.bags.convert import convert_all, verify_all
from gaussianocc_core.bags.schema import BagRig
from gaussianocc_core.data.bag import label_path
from gaussianocc_core.data.ddad import DdadSource
from gaussianocc_core.data.entries import labels_path, mask_path
from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.data.sources import with_labels
from gaussianocc_core.errors import DatasetError
from gaussianocc_core.geometry.transform_tree import FrameRefused, TransformTree
from gaussianocc_core.mapping.depth_files import DepthFolder
from gaussianocc_core.names import DataRoot, check_name, check_topic, name_fault, shorten
from gaussianocc_core.types import Cameras

BAD = [
    "",
    " ",
    ".",
    "..",
    "/abs/x",
    "../x",
    "a/b",
    "a\\b",
    "a\nb",
    "a\0",
    "a\x1b[2J",
    "\u202egnp",
    "x" * 201,
    "a\ud800",
    None,
    3,
    ["a"],
    {},
]
GOOD = ["scene-0061", "CAM_FRONT", "scene 1", "..x", "x..y", "kamera_süd", "前"]


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return MadeUpDatabase(keyframes=1, frames_per_keyframe=1).write(tmp_path_factory.mktemp("made_up") / "root")


@pytest.fixture
def root(database, tmp_path):
    shutil.copytree(database, tmp_path / "root")
    return tmp_path / "root"


def everything(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_plain_component_is_refused_in_one_line_of_ascii(name):
    assert name_fault(name)
    with pytest.raises(DatasetError) as caught:
        check_name(name, "scene", DatasetError)
    text = str(caught.value)
    assert text.startswith("scene ") and text.isascii() and text.isprintable() and len(text) < 300


@pytest.mark.parametrize("name", GOOD)
def test_plain_names_pass(name):
    assert check_name(name, "scene", DatasetError) == name


def test_topics_and_frames_are_plain_between_their_slashes():
    for good in ("/cam/image_raw", "tf", "robot1/base_link", "/camera"):
        assert check_topic(good, "topic", DatasetError) == good
    for bad in ("", "/", "/a//b", "/a/../b", "/a\nb/c", None):
        with pytest.raises(DatasetError, match="is refused"):
            check_topic(bad, "topic", DatasetError)


def test_a_value_for_a_message_is_short_whatever_it_is():
    assert shorten("x" * 10**7) == "'" + "x" * 76 + "..." and len(shorten(list(range(10**6)))) == 80


@pytest.mark.parametrize("name", ["../x", "a\nb", ""])
def test_cameras_lidars_masks_and_frames_have_plain_names(name):
    rig = ring(yaws=(0.0,))
    with pytest.raises(ValueError, match="names: camera .* is refused"):
        Cameras((name,), rig.intrinsics, rig.T_ego_cam, rig.width, rig.height)
    with pytest.raises(ValueError, match="T_ego_lidar: lidar .* is refused"):
        BagRig(rig, {name: np.eye(4)})
    with pytest.raises(ValueError, match="masks: camera .* is refused"):
        BagRig(rig, masks={name: np.ones((2, 2), bool)})
    for make in (
        lambda: mask_path("masks", name),
        lambda: label_path("labels", name, "cam", 1),
        lambda: label_path("labels", "bag", name, 1),
    ):
        with pytest.raises(DatasetError, match="is refused"):
            make()


@pytest.mark.parametrize("name", ["", "a\nb", "a\x07", "a/../b"])
def test_frames_of_tf_have_plain_names(name):
    tree = TransformTree()
    for parent, child in ((name, "b"), ("a", name)):
        with pytest.raises(FrameRefused, match="TF frame .* is refused"):
            tree.add(parent, child, 0, np.eye(4), True)
    assert not tree.knows("a") and not tree.knows("b")


@pytest.mark.parametrize("run", [convert_all, verify_all])
def test_no_bag_is_written_or_compared_outside_the_output(tmp_path, run):
    def never(*_):
        raise AssertionError("the recording was opened")

    for name in ("../x", "/abs/x", ".."):
        with pytest.raises(DatasetError, match="scene .* is refused"):
            list(run([name], never, tmp_path / "out"))


# ---- nuScenes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x", "ABSOLUTE", "", "a\nb", None])
def test_a_scenes_name_leads_nowhere(root, tmp_path, name, capsys):
    rows = read_table(root, "scene")
    rows[0]["name"] = str(tmp_path / "elsewhere") if name == "ABSOLUTE" else name
    write_table(root, "scene", rows)
    before = everything(tmp_path)
    for tool in ("nuscenes_to_rosbag.py", "export_depth.py"):
        assert run_tool(tool, "--dataroot", root, "--output", tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and "name" in error and error.count("\n") == 1
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "table, field, value",
    [
        ("sensor", "channel", "../CAM"),
        ("sensor", "channel", "CAM\n"),
        ("sample_data", "filename", "../../etc/passwd"),
        ("sample_data", "filename", "/etc/passwd"),
        ("sample_data", "filename", "samples/../../x.jpg"),
        ("sample_data", "filename", None),
        ("sample_data", "filename", ""),
    ],
)
def test_sensors_and_files_of_tables_stay_below_the_data_root(root, tmp_path, table, field, value, capsys):
    rows = read_table(root, table)
    rows[0][field] = value
    write_table(root, table, rows)
    before = everything(tmp_path)
    assert run_tool("nuscenes_to_rosbag.py", "--dataroot", root, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and field in error and error.count("\n") == 1
    assert everything(tmp_path) == before


def test_a_file_that_is_named_by_a_way_around_writes_nothing_outside_the_output(root, tmp_path, capsys):
    """It lies below the data root, but its depth, named after it, would not lie below the output."""
    rows = read_table(root, "sample_data")
    for row in rows:
        row["filename"] = f"../../{tmp_path.name}/root/{row['filename']}"
    write_table(root, "sample_data", rows)
    (tmp_path / "a" / "out").mkdir(parents=True)
    before = everything(tmp_path)
    assert run_tool("export_depth.py", "--dataroot", root, "--output", tmp_path / "a" / "out") == 2
    assert "lies outside of" in capsys.readouterr().err and everything(tmp_path) == before


def test_a_samples_token_is_a_plain_name_for_it_names_a_folder_of_labels(root):
    (bad,) = rows = read_table(root, "sample")
    token, bad["token"] = bad["token"], "../../gts"
    data = read_table(root, "sample_data")
    for row in data:
        row["sample_token"] = "../../gts" if row["sample_token"] == token else row["sample_token"]
    write_table(root, "sample", rows)
    write_table(root, "sample_data", data)
    scenes = read_table(root, "scene")
    scenes[0]["first_sample_token"] = scenes[0]["last_sample_token"] = "../../gts"
    write_table(root, "scene", scenes)
    with pytest.raises(DatasetError, match=r"sample_token '../../gts' is refused"):
        NuScenesSource(root).index("scene-0001")


@pytest.mark.parametrize("what", ["folder", "file"])
def test_links_out_of_the_data_root_are_followed_only_on_purpose(root, tmp_path, what, capsys):
    inside = root / "samples" / "CAM_FRONT"
    moved = inside if what == "folder" else next(inside.iterdir())
    outside = tmp_path / "elsewhere"
    moved.rename(outside)
    moved.symlink_to(outside)
    command = ("nuscenes_to_rosbag.py", "--dataroot", root, "--output", tmp_path / "out")
    assert run_tool(*command) == 2
    error = capsys.readouterr().err
    assert "over a link that leads out of" in error and "--follow-outside" in error
    assert not (tmp_path / "out").exists()
    assert run_tool(*command, "--follow-outside") == 0
    moved.unlink()
    (root / "kept").mkdir()
    outside.rename(root / "kept" / "inside")
    moved.symlink_to(root / "kept" / "inside")  # a link that stays inside needs no leave
    assert len(NuScenesSource(root).index("scene-0001")) == 1


def write_companions(root):
    """2D labels and Occ3D's, as they lie beside the images."""
    for row in read_table(root, "sample_data"):
        if row["width"]:
            name = Path(row["filename"]).with_suffix("")
            path = root / "nuscenes_semantic" / f"{name}_mask.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(row["width"] * row["height"]))
    (sample,) = read_table(root, "sample")
    gts = root / "gts" / "scene-0001" / sample["token"]
    gts.mkdir(parents=True, exist_ok=True)
    volume = np.zeros((4, 4, 2), np.uint8)
    np.savez(gts / "labels.npz", semantics=volume, mask_camera=volume, mask_lidar=volume)


@pytest.mark.parametrize("what", ["v1.0-mini", "v1.0-mini/sensor.json", "nuscenes_semantic", "gts", "gts/scene-0001"])
def test_no_table_and_no_labels_are_reached_over_a_link_out_of_the_data_root(root, tmp_path, what):
    write_companions(root)
    moved, outside = root / what, tmp_path / "elsewhere"

    def read(follow=False):
        source = NuScenesSource(root, follow_outside=follow)
        (entry,) = source.index("scene-0001", semantics=True)
        return entry, source.recording("scene-0001").files

    whole, files = read()
    assert whole.semantic_paths and whole.occupancy_path.is_file()
    moved.rename(outside)
    moved.symlink_to(outside)
    with pytest.raises(DatasetError, match=r"is reached over a link that leads out of .*--follow-outside"):
        read()
    if not what.startswith("v1.0"):
        with pytest.raises(DatasetError, match="is reached over a link"):
            NuScenesSource(root).recording("scene-0001")
    entry, again = read(follow=True)
    assert entry.occupancy_path == whole.occupancy_path and again == files
    moved.unlink()
    outside.rename(root / "inside")
    moved.symlink_to(root / "inside")  # needs no leave
    assert read()[1] == files


def test_depth_and_labels_from_elsewhere_stay_in_their_folders(root, tmp_path):
    (entry,) = NuScenesSource(root).index("scene-0001")
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    for name, image in zip(entry.cameras.names, entry.frame.image_paths, strict=True):
        (outside / name).mkdir()
        np.save(outside / name / f"{image.stem}.npy", np.ones((2, 2), np.float32))
    (tmp_path / "depth").mkdir()
    (tmp_path / "depth" / "scene-0001").symlink_to(outside)
    with pytest.raises(DatasetError, match=r"depth image: '.*' is reached over a link .*--follow-outside"):
        DepthFolder(tmp_path / "depth").find(entry)
    assert len(DepthFolder(tmp_path / "depth", follow_outside=True).find(entry)) == len(entry.cameras.names)
    path = labels_path(tmp_path / "labels", "scene-0001", entry.token)
    path.parent.mkdir(parents=True)
    path.symlink_to(outside / "x.npz")
    (outside / "x.npz").touch()
    with pytest.raises(DatasetError, match=r"labels in 3D: '.*' is reached over a link"):
        with_labels([entry], str(tmp_path / "labels"))
    assert with_labels([entry], str(tmp_path / "labels"), follow_outside=True) == (entry,)


# ---- DGP -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ddad(tmp_path):
    return write_data_set(tmp_path / "ddad", MadeUpScene(samples=1)), MadeUpScene(samples=1)


def rename_sensor(content):
    for row in content["data"]:
        row["id"]["name"] = "../../x"


def set_filename(value):
    def edit(content):
        for row in content["data"]:
            next(iter(row["datum"].values()))["filename"] = value

    return edit


def set_calibration(content):
    for row in content["samples"]:
        row["calibration_key"] = "../../x"


@pytest.mark.parametrize(
    "edit, match",
    [
        (rename_sensor, "sensor '../../x' is refused"),
        (set_filename("../../15569195938415231.jpg"), "lies outside of"),
        (set_filename("/tmp/15569195938415231.jpg"), "lies outside of"),
        (set_calibration, "calibration_key '../../x'"),
        (lambda content: content["data"][0].update(key="a\nb"), r"key 'a\\nb' is refused"),
    ],
)
def test_a_dgp_scene_names_nothing_outside(ddad, tmp_path, edit, match, capsys):
    root, scene = ddad
    path = root / scene.json_name
    if "key 'a" in match:
        content = json.loads(path.read_text())
        old = content["data"][0]["key"]
        path.write_text(path.read_text().replace(old, "a\\nb"))
    else:
        edit_json(path, edit)
    with pytest.raises(DatasetError, match=match):
        DdadSource(root).index("000000")
    before = everything(tmp_path)
    assert run_tool("export_depth.py", "--dataroot", root, "--schema", "ddad") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert everything(tmp_path) == before


@pytest.mark.parametrize("filename", ["../000000/scene_1.json", "/tmp/a/scene_1.json", "../../a/scene_1.json", "..", 5])
def test_a_scene_index_names_nothing_outside(ddad, filename):
    root, _ = ddad
    edit_json(root / "made_up.json", lambda content: content["scene_splits"]["0"].update(filenames=[filename]))
    with pytest.raises(DatasetError, match=r"lies outside of|expected <scene>/scene"):
        DdadSource(root)


@pytest.mark.parametrize("what", ["scene", "calibration"])
def test_a_dgp_scene_is_not_reached_over_a_link_out_of_the_data_root(ddad, tmp_path, what):
    root, scene = ddad
    moved = root / (scene.json_name if what == "scene" else scene.calibration_name)
    moved = moved if what == "scene" else moved.parent
    outside = tmp_path / "elsewhere"
    if what == "scene":  # of another hash, which is looked for in the folder
        moved = moved.rename(moved.with_name("scene_of_another_hash.json"))
    moved.rename(outside)
    moved.symlink_to(outside)
    with pytest.raises(DatasetError, match=r"is reached over a link that leads out of"):
        DdadSource(root).index("000000")
    assert DdadSource(root, follow_outside=True).index("000000")


def test_a_file_beside_its_own_folder_is_inside(tmp_path):
    """The two dots are not what matters, but where they lead."""
    (tmp_path / "a").mkdir()
    root = DataRoot(tmp_path, DatasetError)
    assert root.locate("../b/x.jpg", "image", tmp_path / "a") == tmp_path / "a" / "../b/x.jpg"
    with pytest.raises(DatasetError, match="lies outside of"):
        root.locate("../../b/x.jpg", "image", tmp_path / "a")
