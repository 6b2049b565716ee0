# SPDX-License-Identifier: Apache-2.0
"""tools/make_synthetic_nuscenes.py: what it writes loads in nuscenes-devkit and agrees with itself."""

import hashlib
import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from gaussianocc_core.geometry.cameras import resize
from gaussianocc_core.geometry.rig_file import save_rig
from gaussianocc_core.geometry.voxels import locate
from gaussianocc_core.labels import FREE, generator_to_occ3d
from gaussianocc_core.synthetic import World, default_rig, draw_rig, random_scene, render_frame, writer
from gaussianocc_core.types import VoxelGrid

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("make_synthetic_nuscenes", ROOT / "tools/make_synthetic_nuscenes.py")
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)

SEED = 3


def make(folder: Path, *more: str) -> int:
    rig = folder.parent / "rig.yaml"
    save_rig(resize(default_rig(), 160, 90), rig)
    return tool.main(["--output", str(folder), "--seed", str(SEED), "--rig", str(rig), "--quiet", *more])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "data"
    assert make(folder, "--scenes", "1", "--frames", "2") == 0
    return folder


@pytest.fixture(scope="module")
def nusc(folder):
    from nuscenes import NuScenes

    return NuScenes("v1.0-mini", str(folder), verbose=False)


def tree_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def test_the_devkit_loads_scenes_samples_sensors_and_boxes(nusc):
    assert [scene["name"] for scene in nusc.scene] == ["synthetic-0001"] and nusc.scene[0]["nbr_samples"] == 2
    sample = nusc.get("sample", nusc.scene[0]["first_sample_token"])
    assert set(sample["data"]) == {*default_rig().names, "LIDAR_TOP"}
    assert nusc.get("sample", sample["next"])["prev"] == sample["token"]
    path, _, intrinsic = nusc.get_sample_data(sample["data"]["CAM_FRONT"])
    assert cv2.imread(path).shape == (90, 160, 3) and intrinsic.shape == (3, 3)
    assert len(sample["anns"]) >= 5 and all(
        nusc.get("sample_annotation", t)["num_lidar_pts"] > 0 for t in sample["anns"]
    )
    assert np.isfinite(nusc.box_velocity(sample["anns"][0])).any()


def test_camera_chains_run_at_12_hz_with_their_own_poses(nusc):
    sample = nusc.get("sample", nusc.scene[0]["first_sample_token"])
    stamps = {}
    for camera in default_rig().names:
        row, chain = nusc.get("sample_data", sample["data"][camera]), []
        while True:
            chain.append(row)
            pose = nusc.get("ego_pose", row["ego_pose_token"])
            assert pose["timestamp"] == row["timestamp"]
            if not row["next"]:
                break
            row = nusc.get("sample_data", row["next"])
        stamps[camera] = np.array([row["timestamp"] for row in chain])
        assert [row["is_key_frame"] for row in chain] == [True] + [False] * 5 + [True]
        assert np.abs(np.diff(stamps[camera]) - 1e6 / 12).max() < 2
    first = np.array([s[0] for s in stamps.values()])
    assert len(set(first)) == 6 and 30_000 < np.ptp(first) <= 43_000 and first.max() <= sample["timestamp"]


def test_lidar_projected_by_the_devkit_agrees_with_the_depth_maps(nusc, folder):
    for sample in nusc.sample:
        for camera in default_rig().names:
            points, z, _ = nusc.explorer.map_pointcloud_to_image(sample["data"]["LIDAR_TOP"], sample["data"][camera])
            row = nusc.get("sample_data", sample["data"][camera])
            depth = np.load(folder / "depth_full" / row["filename"].replace(".jpg", ".npy"))
            assert depth.dtype == np.float32 and depth.shape == (90, 160)
            u, v = np.round(points[:2]).astype(int)  # its numbers count from the centre of the first pixel
            found = depth[v, u]
            error = np.abs(found - z)[found > 0] / z[found > 0]
            assert len(error) > 200 and np.median(error) < 0.01, camera


def test_occ3d_labels_agree_with_the_depth_maps(nusc, folder):
    from pyquaternion import Quaternion

    grid = VoxelGrid()
    sample = nusc.sample[0]
    labels = np.load(folder / "gts" / "synthetic-0001" / sample["token"] / "labels.npz")
    assert {name: (labels[name].shape, str(labels[name].dtype)) for name in labels.files} == dict.fromkeys(
        ("semantics", "mask_lidar", "mask_camera"), ((200, 200, 16), "uint8")
    )
    lidar_pose = nusc.get("ego_pose", nusc.get("sample_data", sample["data"]["LIDAR_TOP"])["ego_pose_token"])
    occupied = total = 0
    for camera in default_rig().names:
        row = nusc.get("sample_data", sample["data"][camera])
        sensor, pose = (
            nusc.get("calibrated_sensor", row["calibrated_sensor_token"]),
            nusc.get("ego_pose", row["ego_pose_token"]),
        )
        depth = np.load(folder / "depth_full" / row["filename"].replace(".jpg", ".npy"))
        static = depth > 0
        v, u = np.nonzero(static)
        rays = np.linalg.inv(sensor["camera_intrinsic"]) @ np.stack([u, v, np.ones(len(u))])  # as OpenCV counts
        points = Quaternion(sensor["rotation"]).rotation_matrix @ (rays * depth[v, u])
        points = points.T + sensor["translation"]
        points = points @ Quaternion(pose["rotation"]).rotation_matrix.T + pose["translation"]
        points = (points - lidar_pose["translation"]) @ Quaternion(lidar_pose["rotation"]).rotation_matrix
        voxel, inside = locate(grid, points)
        occupied += (labels["semantics"][tuple(voxel[inside].T)] != FREE).sum()
        total += inside.sum()
    assert occupied / total > 0.99  # moving things are up to 43 ms elsewhere in the pictures


def test_mask_files_decode_to_the_rendered_labels(nusc, folder):
    world = World(SEED * 1000, duration=2.0)
    rig = resize(default_rig(), 160, 90)
    row = nusc.get("sample_data", nusc.sample[0]["data"]["CAM_FRONT"])
    for _ in range(2):  # a keyframe and the sweep after it
        at = (row["timestamp"] - writer.EPOCH) * 1e-6
        label = render_frame(world, rig.select(("CAM_FRONT",)), at).labels[0]
        data = (folder / "nuscenes_semantic" / row["filename"].replace(".jpg", "_mask.bin")).read_bytes()
        mask = np.frombuffer(data, dtype=np.int8).reshape(90, 160)
        assert (generator_to_occ3d(mask) == label).all() and len(np.unique(label)) >= 5
        row = nusc.get("sample_data", row["next"])
    assert row["filename"].startswith("sweeps/")


def test_two_runs_give_the_same_bytes(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    for name in "ab":
        assert make(tmp_path / name / "data", "--frames", "1", "--no-sweeps") == 0
    assert tree_hash(tmp_path / "a" / "data") == tree_hash(tmp_path / "b" / "data")


def test_an_existing_output_is_replaced_only_when_asked(folder, tmp_path, capsys):
    before = tree_hash(folder)
    assert make(folder, "--frames", "1") == 2
    assert "--overwrite" in capsys.readouterr().err and tree_hash(folder) == before
    output = tmp_path / "data"
    assert make(output, "--frames", "1", "--no-sweeps") == 0
    assert make(output, "--frames", "2", "--no-sweeps", "--overwrite") == 0
    assert json.loads((output / "synthetic.json").read_text())["keyframes_per_scene"] == 2


def test_a_folder_that_is_not_a_synthetic_data_set_is_never_overwritten(tmp_path, capsys):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("ten years")
    assert make(tmp_path / "precious", "--overwrite") == 2
    assert "not a synthetic data set" in capsys.readouterr().err
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "ten years"


def test_an_interrupted_run_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    real, calls = writer.render_frame, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(writer, "render_frame", interrupted)
    assert make(tmp_path / "data") == 130
    assert "nothing was written" in capsys.readouterr().err and [p.name for p in tmp_path.iterdir()] == ["rig.yaml"]


def test_an_interrupt_while_an_old_data_set_is_replaced_leaves_the_old_one(tmp_path, monkeypatch):
    output = tmp_path / "data"
    output.mkdir()
    (output / writer.MARKER).write_text("old")
    real = Path.rename

    def interrupted(path, target):
        real(path, target)
        if Path(target).suffix == ".replaced":
            raise KeyboardInterrupt  # the old folder is out of the way, the new one not yet in its place

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), writer._complete_or_nothing(output, overwrite=True) as folder:
        (folder / writer.MARKER).write_text("new")
    assert (output / writer.MARKER).read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_user_mistakes_are_one_line_and_an_exit_code(tmp_path, capsys):
    (tmp_path / "rig.yaml").write_text("cameras: {}")
    assert tool.main(["--output", str(tmp_path / "a"), "--rig", str(tmp_path / "rig.yaml")]) == 2
    assert tool.main(["--output", str(tmp_path / "b"), "--frames", "0"]) == 2
    assert tool.main(["--output", str(tmp_path / "b"), "--seed", "-1"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[2] == "error: seed: expected 0 or more, got -1"
    assert len(lines) == 3 and all(line.startswith("error: ") for line in lines) and not (tmp_path / "b").exists()


def test_another_world_on_a_random_rig_is_a_data_set_like_any_other(tmp_path):
    arguments = ["--frames", "1", "--no-sweeps", "--seed", "4", "--world", "mixed", "--rig", "random", "--quiet"]
    assert tool.main(["--output", str(tmp_path / "a"), *arguments]) == 0
    assert tool.main(["--output", str(tmp_path / "b"), *arguments]) == 0
    assert tree_hash(tmp_path / "a") == tree_hash(tmp_path / "b")
    notes = json.loads((tmp_path / "a" / "synthetic.json").read_text())
    assert notes["world"] == "mixed" and notes["rig"] == "random"
    assert "--world mixed --rig random" in (tmp_path / "a" / "README.md").read_text()
    rig = draw_rig(4)
    assert tuple(notes["cameras"]) == rig.cameras.names
    from nuscenes import NuScenes

    found = NuScenes("v1.0-mini", str(tmp_path / "a"), verbose=False)
    assert rig.vehicle.kind in found.scene[0]["description"]
    pose = found.get("ego_pose", found.get("sample_data", found.sample[0]["data"]["LIDAR_TOP"])["ego_pose_token"])
    T = random_scene(4000, "mixed", rig, duration=1.5).T_world_ego(0.0)
    assert np.abs(np.array(pose["translation"]) - T[:3, 3]).max() < 1e-6


def test_a_world_that_is_none_and_a_rig_that_is_no_file_are_named(tmp_path, capsys):
    assert tool.main(["--output", str(tmp_path / "a"), "--world", "moon"]) == 2
    assert tool.main(["--output", str(tmp_path / "a"), "--rig", "randm"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[0] == "error: world: expected one of classic, street, yard, hall, park, mixed, got 'moon'"
    assert "randm" in lines[1] and len(lines) == 2 and not (tmp_path / "a").exists()


def test_the_help_text_shows_how_to_start(capsys):
    with pytest.raises(SystemExit) as stop:
        tool.main(["--help"])
    assert stop.value.code == 0 and "--scenes 2 --frames 10" in capsys.readouterr().out
