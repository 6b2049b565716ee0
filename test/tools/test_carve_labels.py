# SPDX-License-Identifier: Apache-2.0
"""tools/carve_labels.py on a small synthetic drive: what it writes, what it goes on with, what it refuses."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.nuscenes_fixtures import read_table, write_table
from support.synthetic_bags import SCENE, convert, make_dataset, run_tool

from gaussianocc_core.checkpoint import default_checkpoint
from gaussianocc_core.config import load_config
from gaussianocc_core.data.entries import load_occupancy
from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.data.sources import open_split
from gaussianocc_core.geometry.cameras import resize
from gaussianocc_core.labels import FREE, UNOBSERVED
from gaussianocc_core.mapping.depth_files import read_depth
from gaussianocc_core.metrics.occupancy import OccupancyScores
from gaussianocc_core.synthetic import default_rig
from gaussianocc_core.training.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = default_checkpoint().parent / "tiny_matching.safetensors"
SETS = 13  # 3 keyframes half a second apart, and what lies between


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    rig = resize(default_rig(), 176, 96)
    folder = tmp_path_factory.mktemp("carve") / "world"
    return make_dataset(folder, rig.select(rig.names[:3]), 3, 21, "--scenes", "2")


def carve(source, output, *options):
    return run_tool("carve_labels.py", source, "--checkpoint", WEIGHTS, "--output", output, *options)


@pytest.fixture(scope="module")
def carved(world, tmp_path_factory):
    output = tmp_path_factory.mktemp("labels") / "carved"
    assert carve(world, output) == 0
    return output


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("labels.npz"))}


def test_every_set_has_labels_that_the_reader_of_true_ones_reads(world, carved):
    source = NuScenesSource(world)
    for scene in source.scene_names():
        for entry in source.index(scene, sweeps=True):
            labels = load_occupancy(carved / scene / entry.token / "labels.npz")
            assert labels.semantics.shape == (200, 200, 16)
            assert set(np.unique(labels.semantics)) <= {*range(FREE + 1), UNOBSERVED}
            assert ((labels.semantics != UNOBSERVED) == labels.mask_camera).all()
            assert not labels.mask_lidar.any()
            assert labels.mask_camera.any()
    said = json.loads((carved / "carved.json").read_text())
    assert said["scenes"][SCENE]["labelled"] == said["scenes"][SCENE]["moments"] == SETS
    assert said["checkpoint"]["name"] == WEIGHTS.name and len(said["checkpoint"]["sha256"]) == 64
    assert said["grid"]["shape"] == [200, 200, 16] and said["free"] == FREE
    assert [path.name for path in carved.rglob(".*")] == [".carved.lock"]  # by which jobs keep apart; no leftovers


def test_they_are_about_what_is_there(world, carved):
    # Carved labels are of the anchor's image, true ones of the lidar's time: at the drive's speed a fifth of a metre.
    scores = OccupancyScores()
    near = np.zeros((200, 200, 16), bool)
    near[75:125, 75:125] = True  # 10 m
    for scene in NuScenesSource(world).scene_names():
        for truth in sorted((world / "gts" / scene).iterdir()):
            true = load_occupancy(truth / "labels.npz")
            found = load_occupancy(carved / scene / truth.name / "labels.npz")
            scores.update(true.semantics, found.semantics, true.mask_camera & found.mask_camera & near)
    assert scores.samples == 6
    assert scores.summary()["iou"] > 0.5 and scores.summary()["non_ground_iou"] > 0.25


def test_the_same_command_does_nothing_again_and_goes_on_with_what_is_missing(world, carved, tmp_path):
    output = tmp_path / "copy"
    shutil.copytree(carved, output)
    before = contents(output)
    files = sorted(output.rglob("labels.npz"))
    times = [path.stat().st_mtime_ns for path in files]
    assert carve(world, output) == 0
    assert [path.stat().st_mtime_ns for path in files] == times
    index = json.loads((output / "carved.json").read_text())
    del index["scenes"]["synthetic-0002"]  # as if it had been stopped in the second scene
    (output / "carved.json").write_text(json.dumps(index))
    lost = [path for path in files if "synthetic-0002" in str(path)][4:]
    for path in lost:
        path.unlink()
    assert carve(world, output, "--jobs", "2") == 0
    assert contents(output).keys() == before.keys()
    for path in lost:  # other processes, other threads: sums may end in another digit
        again, first = (load_occupancy(root / path.relative_to(output)).semantics for root in (output, carved))
        assert (again != first).mean() < 1e-4
    assert [path.stat().st_mtime_ns for path in files if path not in lost] == [
        time for path, time in zip(files, times, strict=True) if path not in lost
    ]
    assert json.loads((output / "carved.json").read_text())["scenes"]["synthetic-0002"]["labelled"] == SETS


def test_two_jobs_at_once_make_what_one_makes(world, carved, tmp_path, capfd):
    command = [sys.executable, str(ROOT / "tools" / "carve_labels.py"), str(world), "--checkpoint", str(WEIGHTS)]
    command += ["--output", str(tmp_path / "labels"), "--shard"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    jobs = [subprocess.Popen([*command, share], env=environment) for share in ("1/2", "2/2")]
    assert [job.wait(timeout=500) for job in jobs] == [0, 0]
    assert contents(tmp_path / "labels").keys() == contents(carved).keys()
    for path in contents(carved):  # another number of threads rounds otherwise, and a voxel in doubt may fall
        ours, theirs = (load_occupancy(each / path).semantics for each in (tmp_path / "labels", carved))
        assert (ours == theirs).mean() > 0.9999
    ours, theirs = (json.loads((each / "carved.json").read_text()) for each in (tmp_path / "labels", carved))
    assert list(ours["scenes"]) == list(theirs["scenes"]) and ours.keys() == theirs.keys()
    capfd.readouterr()
    assert carve(world, tmp_path / "labels") == 0  # the same command without shares finds all done
    assert capfd.readouterr().out == ""
    assert carve(world, tmp_path / "labels", "--shard", "1/2", "--overwrite") == 2
    assert "remove the folder first" in capfd.readouterr().err


def test_labels_of_other_settings_are_refused_and_replaced_on_demand(world, carved, tmp_path, capfd):
    output = tmp_path / "copy"
    shutil.copytree(carved, output)
    before = contents(output)
    assert carve(world, output, "--motion", "images", "--scene", SCENE) == 2
    assert "made with another 'motion'" in one_line(capfd)
    assert contents(output) == before
    assert carve(world, output, "--motion", "images", "--scene", SCENE, "--overwrite") == 0
    changed = contents(output)
    assert changed.keys() == {name for name in before if SCENE in name}  # nothing is left of the others
    assert all(changed[name] != before[name] for name in changed)
    assert list(json.loads((output / "carved.json").read_text())["scenes"]) == [SCENE]


def test_a_folder_of_other_things_is_left_alone(world, tmp_path, capfd):
    (tmp_path / "thesis.txt").write_text("mine")
    assert carve(world, tmp_path) == 2
    assert "is not empty" in one_line(capfd)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_bag_is_carved_and_its_tokens_become_folders(world, carved, tmp_path):
    bag = convert(world, tmp_path / "bags", "--scene", SCENE)
    output = tmp_path / "labels"
    assert carve(bag, output, "--pictures", "6") == 0
    found = sorted(path.parent.name for path in output.rglob("labels.npz"))
    assert len(found) == SETS and all(name.startswith(f"{SCENE}_") for name in found)
    assert len(list((output / SCENE).glob("*.png"))) == 3 and (output / SCENE / "carved.mp4").stat().st_size > 5000
    assert cv2.imread(str(output / SCENE / "0000.png")).std() > 20
    # The same moments and about the same labels: a bag's poses are rounded otherwise.
    of_bag, of_files = (json.loads((each / "carved.json").read_text())["scenes"][SCENE] for each in (output, carved))
    assert of_bag["labelled"] == of_files["labelled"]
    for name in ("occupied", "free"):
        assert of_bag[name] == pytest.approx(of_files[name], rel=0.03)


def test_a_configuration_names_the_recording_and_what_it_leaves_out_is_not_seen(world, carved, tmp_path, capfd):
    config, output = tmp_path / "mine.yaml", tmp_path / "labels"
    config.write_text(f"data: {{dataroot: {world}, scenes: [{SCENE}], left_out: 0.3}}\n")
    options = ("--checkpoint", "tiny_matching", "--output", output)
    assert run_tool("carve_labels.py", "--config", config, *options) == 0
    found = {path.parent.name for path in output.rglob("labels.npz")}
    kept, apart = open_split(load_config(config, TrainConfig).data)
    assert len(apart) == 3 and {each.token for each in kept} < found  # and the first set, which has nothing before it
    assert not {each.token for each in apart} & found and len(found) == SETS - 4  # neither the last one
    index = json.loads((output / "carved.json").read_text())
    assert list(index["scenes"]) == [SCENE] and index["until_ns"] == {SCENE: apart[0].frame.camera_stamps_ns[0]}
    capfd.readouterr()
    for wrong in ((world, "--config", config), ()):
        assert run_tool("carve_labels.py", *wrong, *options) == 2
        assert "either SOURCE" in one_line(capfd)


def test_a_drive_that_stands_and_one_that_is_too_short_are_said_in_words(world, tmp_path, capfd):
    still = tmp_path / "still"
    shutil.copytree(world, still)
    rows = read_table(still, "ego_pose")
    write_table(still, "ego_pose", [{**row, "translation": rows[0]["translation"]} for row in rows])
    assert carve(still, tmp_path / "a", "--scene", SCENE) == 2
    assert "it stands" in one_line(capfd)
    assert carve(world, tmp_path / "b", "--moments", "keyframes", "--scene", SCENE) == 0  # three sets are enough
    for path in list((still / "samples").rglob("*.jpg")) + list((still / "sweeps").rglob("*.jpg")):
        if not path.stem.endswith(first_stamp(still, path)):
            path.unlink()
    assert carve(still, tmp_path / "c", "--scene", SCENE) == 2
    assert "record longer" in one_line(capfd)
    assert not list((tmp_path / "c").rglob("labels.npz"))


def first_stamp(root, path):
    stamps = sorted(each.stem.rpartition("__")[2] for each in root.rglob(f"{path.name.rpartition('__')[0]}__*.jpg"))
    return stamps[0]


def test_sets_without_motion_are_left_out_and_counted(world, tmp_path, capfd):
    bag = convert(world, tmp_path / "bags", "--scene", SCENE)
    assert carve(bag, tmp_path / "a", "--fixed-frame", "nowhere", "--motion", "recorded") == 2
    assert "has no odometry; carve with --motion images" in one_line(capfd)
    assert carve(bag, tmp_path / "b", "--fixed-frame", "nowhere") == 0  # learnt, without being told to
    assert json.loads((tmp_path / "b" / "carved.json").read_text())["scenes"][SCENE]["labelled"] >= SETS - 2


# ---- depth from elsewhere ------------------------------------------------------------------------------------------


@pytest.fixture
def depth_folder(world, tmp_path):
    """True depth of the keyframes, in millimetres, with the sky unknown."""
    folder = tmp_path / "depth"
    for path in (world / "depth_full" / "samples").rglob("*.npy"):
        scene, camera, _ = path.stem.split("__")
        target = folder / scene / camera / f"{path.stem}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        millimetres = np.rint(np.load(path) * 1000.0)
        cv2.imwrite(str(target), np.where(millimetres < 65535, millimetres, 0).astype(np.uint16))
    return folder


def with_depth(world, output, folder, *options):
    return carve(world, output, "--moments", "keyframes", "--depth", folder, *options)


def test_depth_images_from_elsewhere_give_better_labels_than_matched_ones(world, depth_folder, tmp_path):
    assert with_depth(world, tmp_path / "given", depth_folder, "--depth-error", "0.01") == 0
    assert carve(world, tmp_path / "matched", "--moments", "keyframes") == 0
    result = {}
    for name in ("given", "matched"):
        scores = OccupancyScores()
        for truth in (world / "gts").glob("*/*/labels.npz"):
            true = load_occupancy(truth)
            found = load_occupancy(tmp_path / name / truth.relative_to(world / "gts"))
            scores.update(true.semantics, found.semantics, true.mask_camera)
        result[name] = scores.summary()["non_ground_iou"]
    assert result["given"] > 0.2 and result["given"] > result["matched"] + 0.05


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda image: image // 1000, "are they metres, where millimetres are expected?"),
        (lambda image: np.zeros_like(image), "is empty"),
        (lambda image: image[::2], "expected 176x96 pixels"),
        (lambda image: (image // 256).astype(np.uint8), "expected a grey PNG of 16 bits"),
        (None, "does not exist; expected DIR/<scene>"),
    ],
)
def test_depth_images_that_cannot_be_right_are_refused(world, depth_folder, tmp_path, capfd, damage, message):
    for path in depth_folder.rglob("*.png"):
        if damage is None:
            path.unlink()
        else:
            cv2.imwrite(str(path), damage(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))
    assert with_depth(world, tmp_path / "labels", depth_folder, "--scene", SCENE) == 2
    assert message in one_line(capfd)
    assert not list((tmp_path / "labels").rglob("labels.npz"))


def test_metres_as_npy_and_millimetres_as_png_are_the_same(tmp_path):
    metres = np.array([[1.5, 0.0], [np.nan, 40.25]], np.float32)
    np.save(tmp_path / "a.npy", metres)
    cv2.imwrite(str(tmp_path / "a.png"), (np.nan_to_num(metres) * 1000).astype(np.uint16))
    expected = np.array([[1.5, 0.0], [0.0, 40.25]], np.float32)
    for name in ("a.npy", "a.png"):
        np.testing.assert_allclose(read_depth(tmp_path / name, (2, 2)), expected, atol=1e-6)


def one_line(capfd):
    error = capfd.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in error, error
    return lines[0]
