# SPDX-License-Identifier: Apache-2.0
"""The meshes that the page is sent, read back as a browser reads them."""

import json
import struct
from dataclasses import replace

import numpy as np
import pytest

from gaussianocc_core.types import VoxelGrid
from gaussianocc_core.viewer.mesh import cells_mesh, faces_mesh
from gaussianocc_core.viz.scene import lit_faces

GRID = VoxelGrid(origin=(-2.0, -1.0, 0.5), voxel_size=0.5, shape=(6, 5, 4))


def read(glb: bytes):
    """Corners (F, 4, 3) in m, linear colours (F, 4) of 255, triangles (2F, 3), and the document."""
    magic, version, length = struct.unpack_from("<III", glb)
    assert (magic, version, length) == (0x46546C67, 2, len(glb))
    size, kind = struct.unpack_from("<II", glb, 12)
    assert kind == 0x4E4F534A and size % 4 == 0
    document = json.loads(glb[20 : 20 + size])
    if "buffers" not in document:
        return np.zeros((0, 4, 3)), np.zeros((0, 4)), np.zeros((0, 3)), document
    body = glb[28 + size :]
    assert len(body) == document["buffers"][0]["byteLength"]
    parts = [body[v["byteOffset"] : v["byteOffset"] + v["byteLength"]] for v in document["bufferViews"]]
    node = document["nodes"][0]
    corners = np.frombuffer(parts[0], np.uint16).reshape(-1, 4)[:, :3] * np.array(node["scale"]) + node["translation"]
    corners = np.round(corners, 2)  # each face reaches up to 3 mm further than it is, so that there are no cracks
    colors = np.frombuffer(parts[1], np.uint8).reshape(-1, 4)[::4]
    return corners.reshape(-1, 4, 3), colors, np.frombuffer(parts[2], np.uint32).reshape(-1, 3), document


def test_one_voxel_has_five_faces_that_look_outwards():
    """Nobody looks at the lowest layer from below; this voxel lies above it."""
    occupied = np.zeros(GRID.shape, bool)
    occupied[2, 3, 1] = True
    corners, _, triangles, _ = read(faces_mesh(lit_faces(occupied, np.ones((*GRID.shape, 3)), GRID), GRID))
    assert len(corners) == 6
    centre = np.array([-2.0 + 2.5 * 0.5, -1.0 + 3.5 * 0.5, 0.5 + 1.5 * 0.5])
    assert np.allclose(np.abs(corners - centre), 0.25)
    flat = corners.reshape(-1, 3)[triangles]
    normals = np.cross(flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0])
    assert ((normals * (flat.mean(axis=1) - centre)).sum(axis=1) > 0).all()  # else a browser culls them
    assert np.linalg.norm(normals, axis=1).sum() / 2 == pytest.approx(6 * 0.25)  # the surface, m2


def test_faces_between_voxels_and_under_the_grid_are_left_out():
    occupied = np.zeros(GRID.shape, bool)
    occupied[:, :, 0] = True
    corners, *_ = read(faces_mesh(lit_faces(occupied, np.ones((*GRID.shape, 3)), GRID), GRID))
    assert area(corners) == pytest.approx((6 * 5 + 2 * (6 + 5)) * 0.25)  # the top and the sides


def area(corners) -> float:
    sides = np.linalg.norm(corners[:, 1] - corners[:, 0], axis=1) * np.linalg.norm(
        corners[:, 3] - corners[:, 0], axis=1
    )
    return float(sides.sum())


def test_rows_of_one_color_become_one_face_and_others_stay():
    """By the plain way: every voxel's face is covered once, in its colour."""
    rng = np.random.default_rng(0)
    occupied = rng.random(GRID.shape) < 0.5
    shades = rng.integers(0, 2, GRID.shape)
    faces = lit_faces(occupied, np.stack([shades] * 3, axis=-1).astype(float), GRID)
    plain = replace(faces, colors=np.rint(faces.colors > 0).astype(float))
    corners, colors, triangles, _ = read(faces_mesh(plain, GRID))
    assert len(corners) < len(faces.centers) and area(corners) == pytest.approx(0.25 * len(faces.centers))
    flat = corners.reshape(-1, 3)[triangles].reshape(-1, 2, 3, 3)[:, 0]
    normals = np.cross(flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    low, high = corners.min(axis=1), corners.max(axis=1)
    for centre, normal, color in zip(faces.centers, faces.normals, plain.colors, strict=True):
        inside = ((centre > low - 1e-6) & (centre < high + 1e-6)).all(axis=1) & (normals @ normal > 0.99)
        assert inside.sum() == 1 and (colors[inside][0, :3] > 0).all() == (color > 0).all()


def test_colors_are_linear_as_gltf_wants_them():
    cells = np.zeros((*GRID.shape[:2], 4))
    cells[1, 2] = (1.0, 0.5, 0.0, 0.25)
    corners, colors, _, document = read(cells_mesh(cells, GRID, 2))
    assert len(corners) == 1 and np.allclose(corners[0, :, 2], 0.5 + 2 * 0.5)
    assert np.allclose(corners[0, :, :2].min(axis=0), [-1.5, 0.0]) and np.allclose(
        corners[0].max(axis=0)[:2], [-1, 0.5]
    )
    assert colors[0].tolist() == [255, 55, 0, 64]  # 0.5 of sRGB is 0.214 of the light
    assert document["materials"][0]["alphaMode"] == "BLEND"


def test_a_grid_of_more_than_255_voxels_keeps_its_corners():
    grid = VoxelGrid(origin=(0.0, 0.0, 0.0), voxel_size=0.1, shape=(400, 3, 3))
    occupied = np.zeros(grid.shape, bool)
    occupied[399, 1, 1] = True
    corners, *_ = read(faces_mesh(lit_faces(occupied, np.ones((*grid.shape, 3)), grid), grid))
    assert corners[..., 0].max() == pytest.approx(40.0)


def test_nothing_is_a_valid_empty_scene():
    corners, _, _, document = read(cells_mesh(np.zeros((*GRID.shape[:2], 4)), GRID, 0))
    assert len(corners) == 0 and document["scenes"] == [{"nodes": []}]
