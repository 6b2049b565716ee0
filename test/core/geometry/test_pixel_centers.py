# SPDX-License-Identifier: Apache-2.0
"""Half a pixel between how OpenCV counts and how we do: a point falls on the same pixel, whatever it came from."""

from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from support.ddad_fixtures import MadeUpScene, write_data_set
from support.nuscenes_fixtures import MadeUpDatabase, read_table
from support.rigs import ring
from support.small_model import SMALL

from gaussianocc_core.bags.encoder import Encoder
from gaussianocc_core.bags.messages import decode_camera_info
from gaussianocc_core.bags.schema import BagRig
from gaussianocc_core.data.ddad import DdadSource
from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry.pixel_centers import from_opencv, to_opencv
from gaussianocc_core.geometry.rectify import Rectifier
from gaussianocc_core.models.quirks import PUBLISHED
from gaussianocc_core.preprocess import Preprocessor

# In the camera frame; what is painted there is to be found at the pixel that OpenCV projects it to.
POINT = np.array([0.31, -0.22, 2.0])


def seen_by_opencv(K: np.ndarray, distortion: tuple[float, ...] = ()) -> np.ndarray:
    """Column and row of POINT, counted from the centre of the first pixel."""
    pixels, _ = cv2.projectPoints(POINT[None], np.zeros(3), np.zeros(3), K, np.array(distortion))
    return pixels[0, 0]


def seen_by_us(cameras, index: int) -> np.ndarray:
    """Column and row of POINT, counted from the corner of the first pixel."""
    T = cameras.T_ego_cam[index].double()
    place = T[:3, :3] @ torch.from_numpy(POINT) + T[:3, 3]
    pixels, _ = camera_geometry.project(place[None], cameras.intrinsics.double(), cameras.T_ego_cam.double())
    return pixels[index, 0].numpy()


def test_the_two_ways_are_half_a_pixel_apart_and_back_is_where_it_was():
    K = ring().intrinsics
    assert torch.equal(to_opencv(from_opencv(K)), K)
    assert np.array_equal(from_opencv(to_opencv(K.numpy())), K.numpy())
    difference = from_opencv(K) - K
    assert (difference[:, :2, 2] == 0.5).all() and difference.abs().sum() == len(K)
    assert from_opencv(np.zeros((3, 4, 2))).tolist() == np.full((3, 4, 2), 0.5).tolist()
    with pytest.raises(ValueError, match=r"expected \(..., 3, 3\) or \(..., 2\), got \(3, 4\)"):
        from_opencv(np.zeros((3, 4)))


def test_nuscenes_tables_count_as_opencv_does(tmp_path):
    root = MadeUpDatabase(keyframes=1).write(tmp_path / "root")
    cameras = NuScenesSource(root).rig("scene-0001").cameras
    channels = {row["token"]: row["channel"] for row in read_table(root, "sensor")}
    tables = {channels[row["sensor_token"]]: row["camera_intrinsic"] for row in read_table(root, "calibrated_sensor")}
    for i, name in enumerate(cameras.names):
        np.testing.assert_allclose(seen_by_us(cameras, i), seen_by_opencv(np.array(tables[name])) + 0.5, atol=1e-9)


def test_ddad_calibrations_count_as_opencv_does(tmp_path):
    scene = MadeUpScene()
    source = DdadSource(write_data_set(tmp_path / "root", scene))
    cameras = source.rig(source.scene_names()[0]).cameras
    for i, name in enumerate(cameras.names):
        lens = scene.lens(name)
        K = np.array([[lens["fx"], 0, lens["cx"]], [0, lens["fy"], lens["cy"]], [0, 0, 1]])
        np.testing.assert_allclose(seen_by_us(cameras, i), seen_by_opencv(K) + 0.5, atol=1e-9)


def info_of(cameras, index: int):
    """What a bag says of a camera."""
    encoder = Encoder(BagRig(cameras, {}))
    return encoder.typestore.deserialize_cdr(encoder._info_bytes[cameras.names[index]], "sensor_msgs/msg/CameraInfo")


def test_camera_info_counts_as_opencv_does_out_of_the_bag_and_into_it():
    cameras = ring(width=161, height=91)
    for i, name in enumerate(cameras.names):
        info = info_of(cameras, i)
        np.testing.assert_allclose(seen_by_us(cameras, i), seen_by_opencv(info.k.reshape(3, 3)) + 0.5, atol=1e-9)
        back = decode_camera_info(info, name)
        assert back.matrix == tuple(cameras.intrinsics[i].flatten().tolist())


@pytest.mark.parametrize("binning", [1, 2])
def test_binning_and_region_keep_the_point_on_the_pixel_that_shows_it(binning):
    cameras = ring(yaws=(0.0,), width=160, height=90)
    info = info_of(cameras, 0)
    region = SimpleNamespace(x_offset=40, y_offset=10, width=80, height=60)
    fields = {name: getattr(info, name) for name in ("header", "width", "height", "distortion_model", "d", "k")}
    cut = decode_camera_info(SimpleNamespace(**fields, roi=region, binning_x=binning, binning_y=binning), "CAM_0")
    moved = replace(cameras, intrinsics=torch.tensor(cut.matrix, dtype=torch.float64).view(1, 3, 3))
    expected = (seen_by_us(cameras, 0) - [region.x_offset, region.y_offset]) / binning
    np.testing.assert_allclose(seen_by_us(moved, 0), expected, atol=1e-9)


@pytest.mark.parametrize("distortion", [(), (-0.25, 0.08, 0.001, -0.0005, 0.0)])
def test_a_dot_where_opencv_projects_it_is_rectified_to_where_we_project_it(distortion):
    """The centre of mass of what a network's image shows of it, to a hundredth of a pixel of the network's image."""
    rig = ring(yaws=(0.0,), width=640, height=360)
    K = to_opencv(rig.intrinsics[0].numpy())
    columns, rows = np.meshgrid(np.arange(640), np.arange(360))
    u, v = seen_by_opencv(K, distortion)
    dot = 255 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * 12.0**2))
    image = np.repeat(np.round(dot).astype(np.uint8)[..., None], 3, axis=-1)
    rectifier = Rectifier(replace(rig, distortion=(distortion,)), 320, 180)
    shown = rectifier([image])[0, ..., 0].astype(float)
    columns, rows = np.meshgrid(np.arange(320) + 0.5, np.arange(180) + 0.5)
    centre = [(shown * columns).sum() / shown.sum(), (shown * rows).sum() / shown.sum()]
    # The lens's local magnification changes over the dot.
    np.testing.assert_allclose(centre, seen_by_us(rectifier.cameras, 0), atol=0.2 if distortion else 0.01)


def test_the_published_networks_get_calibrations_as_they_are_recorded():
    """Half a native pixel, so less of the network's: 0.125 and 0.27 px here."""
    recorded = ring(width=320, height=90).intrinsics  # as a table has them
    cameras = replace(ring(width=320, height=90), intrinsics=from_opencv(recorded))
    ours, theirs = (
        Preprocessor.of(replace(SMALL, quirks=quirks))(cameras).views(cameras.T_ego_cam).intrinsics
        for quirks in (SMALL.quirks, PUBLISHED)
    )
    scale = torch.tensor([[80 / 320], [48 / 90], [1.0]])
    torch.testing.assert_close(theirs, recorded.float() * scale)
    torch.testing.assert_close((ours - theirs)[0, :2, 2], torch.tensor([0.125, 0.5 * 48 / 90]))
