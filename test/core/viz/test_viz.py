# SPDX-License-Identifier: Apache-2.0
"""Pictures by their numbers: what is where, in which colour, of which size. Beauty is for the eye."""

from __future__ import annotations

import colorsys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from gaussianocc_core import viz
from gaussianocc_core.labels import CLASS_ID, FREE, OCCLUDED, PALETTE, UNOBSERVED
from gaussianocc_core.types import Cameras, VoxelGrid

NUSCENES_YAWS = {
    "CAM_FRONT": 0.3,
    "CAM_FRONT_RIGHT": -55.0,
    "CAM_BACK_RIGHT": -110.0,
    "CAM_BACK": 180.0,
    "CAM_BACK_LEFT": 110.0,
    "CAM_FRONT_LEFT": 55.0,
}


def rig(yaws: dict[str, float], width=160, height=90) -> Cameras:
    poses = torch.eye(4).repeat(len(yaws), 1, 1)
    for pose, yaw in zip(poses, np.radians(list(yaws.values())), strict=True):
        pose[:3, :3] = torch.tensor([[np.sin(yaw), 0, np.cos(yaw)], [-np.cos(yaw), 0, np.sin(yaw)], [0, -1, 0]])
    K = torch.tensor([[120.0, 0, width / 2], [0, 120.0, height / 2], [0, 0, 1]]).expand(len(yaws), 3, 3)
    return Cameras(tuple(yaws), K, poses, (width,) * len(yaws), (height,) * len(yaws))


def hue(rgb) -> float:
    return colorsys.rgb_to_hsv(*(np.asarray(rgb, dtype=float) / 255))[0]


def test_depth_colors_run_from_red_to_blue_and_invalid_is_black():
    depth = np.array([[1.0, 2.0, 60.0, 600.0, 0.0, np.nan, np.inf, -1.0]])
    colors = viz.colorize_depth(depth, near=1.0, far=60.0)[0].astype(int)
    assert colors[0, 0] > colors[0, 2] + 100 and colors[2, 2] > colors[2, 0] + 50
    assert (colors[2] == colors[3]).all()  # beyond far is far
    assert (colors[4:] == 0).all()
    with pytest.raises(ValueError, match="near"):
        viz.colorize_depth(depth, near=0.0)


def test_label_colors_are_the_palette_and_free_is_dark():
    labels = np.array([[CLASS_ID["car"], FREE, UNOBSERVED]], dtype=np.uint8)
    colors = viz.colorize_labels(labels)[0]
    assert (colors[0] == PALETTE[CLASS_ID["car"]]).all()
    assert colors[1].max() < 60 and (colors[1] == colors[2]).all()


def test_overlay_mixes_by_opacity():
    image, colors = np.full((1, 2, 3), 100, np.uint8), np.full((1, 2, 3), 200, np.uint8)
    assert (viz.overlay(image, colors, 0.25) == 125).all()
    assert (viz.overlay(image, colors, np.array([[0.0, 1.0]]))[0, :, 0] == [100, 200]).all()


def test_surround_rows_follow_the_yaw_of_the_cameras():
    assert viz.surround_rows(rig(NUSCENES_YAWS)) == [
        ["CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT"],
        ["CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"],
    ]
    assert viz.surround_rows(rig({"right": -90, "rear": -179, "left": 90})) == [["left", "right"], ["rear"]]
    assert viz.surround_rows(rig({"only": 180.0})) == [["only"]]


def test_mosaic_puts_each_image_into_its_cell():
    cameras = rig(NUSCENES_YAWS)
    images = {name: np.full((90, 160, 3), 40 * i, np.uint8) for i, name in enumerate(NUSCENES_YAWS, start=1)}
    mosaic = viz.camera_mosaic(images, cameras, 3 * 160 + 12, 2 * 90 + 6, names=False)
    columns, rows = (80, 246, 412), (45, 141)
    assert [[int(mosaic[y, x, 0]) for x in columns] for y in rows] == [[240, 40, 80], [200, 160, 120]]
    del images["CAM_BACK"]
    assert viz.camera_mosaic(images, cameras, 492, 186, names=False)[141, 246].max() < 60
    with pytest.raises(ValueError, match="spare"):
        viz.camera_mosaic({"spare": images["CAM_FRONT"]}, cameras, 492, 186)


@pytest.fixture
def scene():
    grid = VoxelGrid(origin=(-4.0, -4.0, -1.0), voxel_size=0.4, shape=(20, 20, 8))
    return SimpleNamespace(grid=grid, labels=np.full(grid.shape, FREE, dtype=np.uint8))


@pytest.mark.parametrize("name", ["car", "vegetation", "pedestrian"])
def test_single_voxel_lights_its_pixels_with_its_hue(scene, name):
    scene.labels[12, 14, 3] = CLASS_ID[name]  # centre (1.0, 1.8, 0.4)
    viewpoint = viz.Viewpoint(eye=(-9.0, 1.8, 0.4), target=(1.0, 1.8, 0.4), vertical_fov=20.0)
    options = {"viewpoint": viewpoint, "ego": False}
    image = viz.occupancy_view(scene.labels, scene.grid, 80, 60, **options).astype(int)
    empty = viz.occupancy_view(np.full_like(scene.labels, UNOBSERVED), scene.grid, 80, 60, **options).astype(int)
    lit = np.abs(image - empty).max(-1) > 12
    # The near face stands 9.8 m away: its side is 30 / tan(10 deg) x 0.4 / 9.8 = 6.9 px, in the picture's centre.
    ys, xs = np.nonzero(lit)
    assert abs(xs.mean() + 0.5 - 40) < 0.6 and abs(ys.mean() + 0.5 - 30) < 0.6
    assert 6.9**2 * 0.8 < lit.sum() < 9.5**2
    assert abs(hue(image[30, 40]) - hue(PALETTE[CLASS_ID[name]])) < 0.03


def test_voxel_to_the_left_of_the_vehicle_appears_on_the_left(scene):
    scene.labels[15, 18, 2] = CLASS_ID["car"]
    empty = np.full_like(scene.labels, FREE)
    views = [viz.occupancy_view(labels, scene.grid, 120, 80).astype(int) for labels in (scene.labels, empty)]
    assert np.nonzero(np.abs(views[0] - views[1]).max(-1) > 12)[1].mean() < 60
    tops = [viz.top_view(labels, scene.grid, 1).astype(int) for labels in (scene.labels, empty)]
    assert np.argwhere(np.abs(tops[0] - tops[1]).max(-1) > 12).tolist() == [[19 - 15, 19 - 18]]


def test_from_above_free_columns_are_lighter_than_unknown_ones(scene):
    labels = np.full_like(scene.labels, OCCLUDED)
    labels[:10] = FREE
    labels[:10, :5, 4:] = UNOBSERVED  # half of the column
    view = viz.top_view(labels, scene.grid, 1).astype(int).sum(-1)  # rows: x down from the top, columns: y to the left
    free, half, hidden = view[15, 2], view[15, 17], view[5, 2]
    assert free > half + 20 > hidden + 40 and (view[:10] == hidden).all()
    light = viz.top_view(labels, scene.grid, 1, viz.LIGHT).astype(int).sum(-1)
    assert light[15, 2] < light[5, 2] - 40


def test_shadow_darkens_the_ground_away_from_the_sun(scene):
    scene.labels[:, :, 0] = CLASS_ID["driveable_surface"]
    plain = viz.top_view(scene.labels, scene.grid, 1).astype(int).sum(-1)
    scene.labels[10, 10, 1:6] = CLASS_ID["manmade"]
    shaded = viz.top_view(scene.labels, scene.grid, 1).astype(int).sum(-1)
    rows, columns = np.nonzero(shaded < plain - 20)
    assert len(rows) > 1 and rows.mean() < 9 and columns.mean() > 9  # the sun stands behind on the left


def test_labels_of_another_shape_are_refused(scene):
    for view in (viz.top_view, lambda labels, grid: viz.occupancy_view(labels, grid, 40, 30)):
        with pytest.raises(ValueError, match=r"\(20, 20, 8\)"):
            view(scene.labels[:-1], scene.grid)


def test_png_round_trip_is_exact_and_leaves_no_partial_file(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    viz.write_png(tmp_path / "new" / "picture.png", image)
    assert (cv2.imread(str(tmp_path / "new" / "picture.png"))[..., ::-1] == image).all()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["picture.png"]


def test_video_has_all_frames_in_order_at_even_size(tmp_path):
    frames = [np.full((49, 65, 3), 20 * i, np.uint8) for i in range(8)]
    path = tmp_path / "video.mp4"
    assert viz.write_video(path, iter(frames), fps=10) == 8
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    read = []
    while (result := capture.read())[0]:
        read.append(result[1])
    assert len(read) == 8 and read[0].shape == (48, 64, 3)
    assert np.abs([f.mean() for f in read] - 20.0 * np.arange(8)).max() < 4  # H.264 loses a little


def test_failed_video_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "video.mp4"
    path.write_bytes(b"old")

    def frames():
        yield np.zeros((32, 32, 3), np.uint8)
        raise RuntimeError("camera fell off")

    with pytest.raises(RuntimeError, match="fell off"):
        viz.write_video(path, frames(), fps=10)
    with pytest.raises(ValueError, match="none"):
        viz.write_video(path, [], fps=10)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["video.mp4"]


def test_demo_frame_has_its_size_and_says_untrained_only_when_it_is(scene):
    cameras = rig(NUSCENES_YAWS)
    images = {name: np.full((90, 160, 3), 90, np.uint8) for name in NUSCENES_YAWS}
    badge = np.array(viz.frame.WARNING)

    def count(trained, **extra):
        frame = viz.DemoFrame(
            images=images, cameras=cameras, prediction=scene.labels, grid=scene.grid, trained=trained, **extra
        )
        picture = viz.compose_frame(frame, 960, 540)
        assert picture.shape == (540, 960, 3)
        return int((picture == badge).all(-1).sum())

    assert count(trained=True) == 0
    depths = {name: np.full((45, 80), 7.0, np.float32) for name in NUSCENES_YAWS}
    semantics = {name: np.full((45, 80), FREE, np.uint8) for name in NUSCENES_YAWS}
    assert count(trained=False, truth=scene.labels, depths=depths, semantics=semantics) > 500


def test_a_model_without_classes_is_drawn_by_height_and_its_one_class_has_no_color_of_its_own():
    """Its ids mean nothing among Occ3D's: a road was drawn as a truck."""
    grid = VoxelGrid()
    labels = np.full(grid.shape, FREE, dtype=np.uint8)
    labels[:, :, :3], labels[120:130, 90:110, 3:14] = CLASS_ID["truck"], CLASS_ID["truck"]
    low, high = viz.colors.height_colors(16)[2], viz.colors.height_colors(16)[13]
    above = viz.top_view(labels, grid, 1, by_height=True)
    assert abs(hue(above[10, 10]) - hue(low)) < 0.05  # the ground
    assert abs(hue(above[199 - 125, 100]) - hue(high)) < 0.05
    assert abs(hue(viz.top_view(labels, grid, 1)[10, 10]) - hue(PALETTE[CLASS_ID["truck"]])) < 0.05
    view = viz.occupancy_view(labels, grid, 320, 180, by_height=True, ego=False).astype(int)
    ground = view[150, 160]
    assert ground[2] > ground[0] + 30  # blue, not red


def test_a_frame_of_a_model_without_classes_has_a_legend_of_heights_and_no_semantics():
    frame = {
        "images": {name: np.zeros((90, 160, 3), np.uint8) for name in NUSCENES_YAWS},
        "cameras": rig(NUSCENES_YAWS),
        "prediction": np.zeros(VoxelGrid().shape, np.uint8),
        "grid": VoxelGrid(),
        "semantics": {name: np.zeros((90, 160), np.uint8) for name in NUSCENES_YAWS},
    }
    by_height, by_class = (viz.compose_frame(viz.DemoFrame(**frame, classless=c), 960, 540) for c in (True, False))
    foot = by_height[-40:-8].reshape(-1, 3).astype(int)
    assert (foot[:, 0] - foot[:, 2]).max() > 120 and (foot[:, 2] - foot[:, 0]).max() > 120  # a bar from blue to red
    assert (by_height != by_class).any()
