# SPDX-License-Identifier: Apache-2.0
"""Square faces of voxels as one binary glTF mesh with a colour per face: small, and drawn as it is by any browser."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from gaussianocc_core.types import VoxelGrid
from gaussianocc_core.viz.scene import Faces

_MAGIC, _JSON, _BINARY = 0x46546C67, 0x4E4F534A, 0x004E4942
_BYTE, _SHORT, _INT = 5121, 5123, 5125  # unsigned
_VERTICES, _INDICES = 34962, 34963  # what a buffer view holds
_SHADES = 24  # levels of each colour; finer ones nobody tells apart, and they keep faces from becoming one
_TRIANGLES = (0, 1, 2, 0, 2, 3)  # of four corners, counter-clockwise from outside


def faces_mesh(faces: Faces, grid: VoxelGrid, opacity: float = 1.0) -> bytes:
    """GLB of faces of the grid's voxels, ego frame, m. Light is in their colours already; the browser adds none.

    Neighbours whose colours nobody tells apart become one rectangle: of a street an eighth of the faces is left, and a
    browser that draws on the CPU is as much faster. opacity: 0-1, of all of them.
    """
    normals = np.rint(faces.normals).astype(np.int64)
    count, axis = np.arange(len(normals)), np.abs(normals).argmax(axis=1)
    side = normals[count, axis]
    along = np.where(axis == 0, 1, 0)  # rows run along x, or along y where the face looks along x
    across = 3 - axis - along
    # The low corner of each face, in voxels from the grid's.
    low = (faces.centers - np.array(grid.origin)) / grid.voxel_size - 0.5 * (1 - np.abs(normals))
    corner = np.rint(low).astype(np.int64)
    shades = np.rint(faces.colors * _SHADES).astype(np.int64)
    plane = np.column_stack([axis, side, corner[count, axis], shades])
    row, length = _join(np.column_stack([plane, corner[count, across]]), corner[count, along])
    starts = np.column_stack([plane[row], corner[row, along[row]], length])
    first, width = _join(starts, corner[row, across[row]])
    row, length = row[first], length[first]
    steps = np.zeros((2, len(row), 3), dtype=np.int64)
    steps[0, np.arange(len(row)), along[row]], steps[1, np.arange(len(row)), across[row]] = length, width
    # Counter-clockwise from outside: the first two steps' cross product points along the normal.
    turned = np.where(along[row] == (axis[row] + 1) % 3, side[row], -side[row]) < 0
    steps[:, turned] = steps[::-1, turned]
    corners = corner[row, None] + np.stack([0 * steps[0], steps[0], steps[0] + steps[1], steps[1]], axis=1)
    colors = np.concatenate([shades[row] / _SHADES, np.full((len(row), 1), opacity)], axis=1)
    return _encode(corners, colors, grid)


def _join(
    keys: Integer[np.ndarray, "F K"], places: Integer[np.ndarray, " F"]
) -> tuple[Integer[np.ndarray, " R"], Integer[np.ndarray, " R"]]:
    """Runs of equal keys at consecutive places: the index of the first of each, and how many there are."""
    order = np.lexsort((places, *keys.T))
    keys, places = keys[order], places[order]
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (keys[1:] != keys[:-1]).any(axis=1) | (places[1:] != places[:-1] + 1)
    starts = np.flatnonzero(fresh)
    return order[starts], np.diff(np.append(starts, len(order)))


def cells_mesh(cells: Float[np.ndarray, "X Y 4"], grid: VoxelGrid, layer: int) -> bytes:
    """GLB of flat cells on the columns of the grid, on the lower side of one of its layers.

    cells: RGB and opacity, 0-1; what has no opacity is left out.
    """
    index = np.argwhere(cells[..., 3] > 0)
    corners = np.full((len(index), 4, 3), layer)
    for corner, offset in enumerate(((0, 0), (1, 0), (1, 1), (0, 1))):
        corners[:, corner, :2] = index + np.array(offset)
    return _encode(corners, cells[tuple(index.T)], grid)


def _encode(corners: Integer[np.ndarray, "F 4 3"], colors: Float[np.ndarray, "F 4"], grid: VoxelGrid) -> bytes:
    """corners: in voxels from the grid's low corner, counter-clockwise seen from outside; colors: sRGB and opacity.

    A corner takes eight bytes and its colour four.
    """
    if not len(corners):
        return _glb({"scenes": [{"nodes": []}]}, b"")
    # In parts of a voxel. Where a long face meets short ones, rounding would leave holes of a pixel: each reaches a
    # part further than it is.
    parts_of_voxel = min(256, 65535 // (int(corners.max()) + 1))
    beyond = np.sign(corners - corners.mean(axis=1, keepdims=True)).astype(np.int64)
    places = np.zeros((4 * len(corners), 4), dtype=np.uint16)
    places[:, :3] = (corners * parts_of_voxel + beyond).clip(0, 65535).reshape(-1, 3)
    rgb = colors[:, :3].clip(0, 1)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)  # as glTF wants vertex colours
    shades = np.rint(255 * np.concatenate([linear, colors[:, 3:].clip(0, 1)], axis=1)).astype(np.uint8)
    triangles = 4 * np.arange(len(corners), dtype=np.uint32)[:, None] + np.array(_TRIANGLES, dtype=np.uint32)
    parts = (places, shades.repeat(4, axis=0), triangles.ravel())
    views: list[dict[str, int]] = []
    for part, target in zip(parts, (_VERTICES, _VERTICES, _INDICES), strict=True):
        begin = views[-1]["byteOffset"] + views[-1]["byteLength"] if views else 0
        views.append({"buffer": 0, "byteOffset": begin, "byteLength": part.nbytes, "target": target})
    views[0]["byteStride"], views[1]["byteStride"] = places.strides[0], 4
    count, low, high = len(places), places[:, :3].min(axis=0).tolist(), places[:, :3].max(axis=0).tolist()
    material: dict[str, Any] = {"extensions": {"KHR_materials_unlit": {}}}
    if (shades[:, 3] < 255).any():
        material |= {"alphaMode": "BLEND", "doubleSided": True}
    document = {
        "extensionsUsed": ["KHR_materials_unlit", "KHR_mesh_quantization"],
        "extensionsRequired": ["KHR_mesh_quantization"],
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "translation": list(grid.origin), "scale": [grid.voxel_size / parts_of_voxel] * 3}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "COLOR_0": 1}, "indices": 2, "material": 0}]}],
        "materials": [material],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": _SHORT,
                "count": count,
                "type": "VEC3",
                "min": low,
                "max": high,
            },
            {"bufferView": 1, "componentType": _BYTE, "normalized": True, "count": count, "type": "VEC4"},
            {"bufferView": 2, "componentType": _INT, "count": triangles.size, "type": "SCALAR"},
        ],
        "bufferViews": views,
    }
    return _glb(document, b"".join(part.tobytes() for part in parts))


def _glb(document: Mapping[str, Any], binary: bytes) -> bytes:
    whole = {"asset": {"version": "2.0"}, "scene": 0, **document}
    if binary:
        whole["buffers"] = [{"byteLength": len(binary)}]
    text = json.dumps(whole, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<II", len(text), _JSON) + text
    if binary:
        body += struct.pack("<II", len(binary), _BINARY) + binary
    return struct.pack("<III", _MAGIC, 2, 12 + len(body)) + body
