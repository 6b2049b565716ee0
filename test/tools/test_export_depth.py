# SPDX-License-Identifier: Apache-2.0
"""Lidar as depth images: the formula of docs/method.md#j, worked out from the tables alone, on made-up and
on real data."""

import shutil

import numpy as np
import pytest
from support.ddad_fixtures import MadeUpScene, write_data_set
from support.nuscenes_fixtures import MadeUpDatabase
from support.synthetic_bags import run_tool

from gaussianocc_core.data.ddad import DdadSource
from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.data.sources import DataConfig, open_entries


def expected(points_world, T_world_cam, K, width, height):
    """One point after the other; the last one wins."""
    image = np.zeros((height, width), np.float32)
    for point in points_world:
        x, y, z = np.linalg.inv(T_world_cam)[:3] @ [*point, 1.0]
        if z <= 0:
            continue
        u, v = round(K[0, 0] * x / z + K[0, 2] - 0.5), round(K[1, 1] * y / z + K[1, 2] - 0.5)  # pixel centres at +0.5
        if 0 <= u < width and 0 <= v < height:
            image[v, u] = z
    return image


def check(source, scene, entries, root):
    seen = 0
    for entry in entries:
        points = source.lidar_world(scene, entry)
        for i in range(len(entry.cameras)):
            image = np.load(root / source.depth_path(scene, entry, i))
            T_world_cam = entry.frame.T_world_ego[i] @ entry.cameras.T_ego_cam[i].numpy()
            wanted = expected(
                points,
                T_world_cam,
                entry.cameras.intrinsics[i].numpy(),
                entry.cameras.width[i],
                entry.cameras.height[i],
            )
            np.testing.assert_allclose(image, wanted, atol=1e-4)
            seen += int((image > 0).sum())
    return seen


def test_nuscenes_keyframes_get_the_depth_that_evaluation_reads(tmp_path, capsys):
    root = MadeUpDatabase(keyframes=2).write(tmp_path / "root")
    assert run_tool("export_depth.py", "--dataroot", root) == 0
    assert "12 written, 0 skipped" in capsys.readouterr().out
    source = NuScenesSource(root)
    entries = source.index("scene-0001", depths=True)
    assert check(source, "scene-0001", entries, root) > 0
    assert all(len(entry.load().depths) == 6 for entry in entries)
    victim = root / source.depth_path("scene-0001", entries[0], 0)
    victim.write_bytes(victim.read_bytes()[:50])  # a disk was full
    assert run_tool("export_depth.py", "--dataroot", root) == 0
    assert "1 written, 11 skipped" in capsys.readouterr().out


def test_ddad_samples_get_theirs_where_the_source_looks(tmp_path, capsys):
    root = write_data_set(tmp_path / "root", MadeUpScene())
    assert run_tool("export_depth.py", "--dataroot", root, "--schema", "ddad") == 0
    source = DdadSource(root)
    (scene,) = source.scene_names()
    entries = source.index(scene, depths=True)
    assert check(source, scene, entries, root) > 0
    assert all(len(entry.load().depths) == 3 for entry in entries)
    assert "9 written" in capsys.readouterr().out


def test_ddad_trains_like_any_other_data_set(tmp_path):
    root = write_data_set(tmp_path / "root", MadeUpScene(samples=5))
    entries = open_entries(DataConfig(dataroot=str(root), schema="ddad"))
    assert len(entries) == 3 and entries[0].gap_s == pytest.approx(0.1, abs=0.01)


def test_real_points_stand_where_the_images_show_them(shared_data, tmp_path):
    root = tmp_path / "ddad"
    shutil.copytree(shared_data / "data" / "dgp_scene_01", root)
    assert run_tool("export_depth.py", "--dataroot", root, "--schema", "ddad", "--output", tmp_path / "depth") == 0
    source = DdadSource(root)
    (scene,) = source.scene_names()
    entry = source.index(scene)[0]
    for i in range(3):
        depth = np.load(tmp_path / "depth" / source.depth_path(scene, entry, i))
        assert depth.shape == (1216, 1936) and (depth > 0).sum() > 4000  # of 30,000 points
        rows = np.argwhere(depth > 0)[:, 0]
        near = depth[depth > 0][rows > 900]
        assert np.median(near) < np.median(depth[depth > 0])  # the lower rows see the road before the car


def test_mistakes_are_one_line(tmp_path, capsys):
    assert run_tool("export_depth.py", "--dataroot", tmp_path / "none") == 2
    assert capsys.readouterr().err.startswith("error: ")
