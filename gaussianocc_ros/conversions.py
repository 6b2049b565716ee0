# SPDX-License-Identifier: Apache-2.0
"""numpy -> messages. No Node, no clock, no TF."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion, Transform, Vector3
from nav_msgs.msg import OccupancyGrid
from rclpy.serialization import serialize_message
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from gaussianocc_core.geometry.transforms import matrix_to_quat
from gaussianocc_core.geometry.voxels import centers, flatten
from gaussianocc_core.labels import OCCLUDED, PALETTE, free_label, has_one_class, is_occupied
from gaussianocc_core.navigation.obstacles import GroundMap, find_obstacles
from gaussianocc_core.navigation.traversability import Traversability
from gaussianocc_core.types import OccupancyPrediction, VoxelGrid
from gaussianocc_core.viz.colors import height_colors
from gaussianocc_ros import ros_compat
from gaussianocc_ros.msg import SemanticOccupancy
from gaussianocc_ros.stamps import time_message


def encode_transform(T_parent_child: np.ndarray) -> Transform:
    x, y, z = (float(value) for value in T_parent_child[:3, 3])
    qw, qx, qy, qz = (float(value) for value in matrix_to_quat(T_parent_child[:3, :3]))
    return Transform(translation=Vector3(x=x, y=y, z=z), rotation=Quaternion(x=qx, y=qy, z=qz, w=qw))


# ---- occupancy -----------------------------------------------------------------------------------------------------


def encode_occupancy(prediction: OccupancyPrediction, stamp: int, frame_id: str) -> SemanticOccupancy:
    """The dense message; `stamp` in nanoseconds, of the anchor camera's image."""
    size, origin = float(prediction.grid.voxel_size), [float(value) for value in prediction.grid.origin]
    message = SemanticOccupancy(
        header=Header(stamp=time_message(stamp), frame_id=frame_id),
        origin=Pose(position=Point(x=origin[0], y=origin[1], z=origin[2])),
        voxel_size=Vector3(x=size, y=size, z=size),
        class_names=list(prediction.class_names),
        free_label=free_label(prediction.class_names),
        cameras=list(prediction.cameras),
        model=prediction.model,
    )
    message.size_x, message.size_y, message.size_z = prediction.grid.shape
    # array.array, not ndarray or bytes: rclpy copies it in one piece, 14 times faster.
    message.labels = array("B", flatten(prediction.labels).tobytes())
    # Rounding by hand: np.rint of float32 takes 15 times as long.
    confidence = (prediction.confidence * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    message.confidence = array("B", flatten(confidence).tobytes())
    return message


POINT_TYPE = np.dtype(
    [
        ("x", np.float32),
        ("y", np.float32),
        ("z", np.float32),
        ("rgb", np.float32),  # PCL's convention: the bits are 0x00RRGGBB
        ("label", np.uint32),  # as in PCL's PointXYZRGBL
        ("confidence", np.float32),  # 0-1
    ]
)


def _pack(colors: np.ndarray) -> np.ndarray:
    """(n, 3) uint8 -> (n,) float32 with the bits 0x00RRGGBB."""
    return (colors.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)).view(np.float32)


def _rgba(colors: np.ndarray) -> np.ndarray:
    return np.hstack([colors / 255, np.ones((len(colors), 1))]).astype(np.float32)


_COLORS = PALETTE[np.arange(256) % len(PALETTE)]  # of each label, (256, 3) uint8
_HEIGHTS = height_colors(256)  # of a model with one class: from the grid's bottom to its top
_PACKED_RGB, _PACKED_HEIGHTS = _pack(_COLORS), _pack(_HEIGHTS)
_RGBA, _RGBA_HEIGHTS = _rgba(_COLORS), _rgba(_HEIGHTS)


def _shades(prediction: OccupancyPrediction, index: np.ndarray) -> np.ndarray | None:
    """Rows of `_HEIGHTS` for voxels of a model with one class; None: colours are those of classes."""
    if not has_one_class(prediction.class_names):
        return None
    layers = prediction.grid.shape[2]
    return (index % layers) * 255 // max(layers - 1, 1)


def occupied_voxels(prediction: OccupancyPrediction, exposed_only: bool = False) -> np.ndarray:
    """Flat (C order) indices of the voxels that are neither free nor unknown; `exposed_only`: see `exposed`."""
    occupied = is_occupied(prediction.labels, prediction.class_names)
    return np.flatnonzero(exposed(occupied) if exposed_only else occupied)


def exposed(occupied: np.ndarray) -> np.ndarray:
    """(X, Y, Z) bool -> those with a face that no other one covers: all that is seen of opaque cubes from outside."""
    padded = np.ascontiguousarray(np.pad(occupied, 1))
    flat, hidden = padded.ravel(), padded.ravel().copy()
    for step in padded.strides:  # of single bytes: where the neighbour along each axis lies, never beyond the padding
        hidden[step:] &= flat[:-step]
        hidden[:-step] &= flat[step:]
    return (flat & ~hidden).reshape(padded.shape)[1:-1, 1:-1, 1:-1]


@lru_cache(maxsize=2)
def _flat_centers(grid: VoxelGrid) -> np.ndarray:
    """(X * Y * Z, 3) float32, C order: a look-up costs a third of computing the places of 100 000 voxels."""
    return centers(grid).reshape(-1, 3).numpy()


def occupied_points(prediction: OccupancyPrediction, index: np.ndarray | None = None) -> np.ndarray:
    """Centres of the voxels that are neither free nor unknown, as a POINT_TYPE array in the ego frame, metres.

    index: flat (C order) indices of other voxels instead.
    """
    index = occupied_voxels(prediction) if index is None else index
    labels = prediction.labels.ravel()[index]
    shades = _shades(prediction, index)
    points = np.empty(len(index), dtype=POINT_TYPE)
    points["x"], points["y"], points["z"] = _flat_centers(prediction.grid).take(index, axis=0).T
    points["rgb"] = _PACKED_RGB[labels] if shades is None else _PACKED_HEIGHTS[shades]
    points["label"] = labels
    points["confidence"] = prediction.confidence.ravel()[index]
    return points


def encode_points(prediction: OccupancyPrediction, stamp: int, frame_id: str) -> Any:
    """PointCloud2 of `occupied_points`."""
    header = Header(stamp=time_message(stamp), frame_id=frame_id)
    return ros_compat.create_cloud(header, occupied_points(prediction))


def encode_hidden(prediction: OccupancyPrediction, stamp: int, frame_id: str, reach: float) -> Any:
    """PointCloud2 of the voxels in view of which nobody can know whether they are free, within so many m of the ego's z
    axis; grey, label OCCLUDED."""
    index = np.flatnonzero(prediction.labels == OCCLUDED)
    centres = _flat_centers(prediction.grid).take(index, axis=0)
    points = occupied_points(prediction, index[np.hypot(centres[:, 0], centres[:, 1]) <= reach])
    points["rgb"] = _pack(np.array([[120, 120, 130]], np.uint8))
    return ros_compat.create_cloud(Header(stamp=time_message(stamp), frame_id=frame_id), points)


def encode_obstacles(prediction: OccupancyPrediction, stamp: int, frame_id: str, rule: Traversability) -> Any:
    """PointCloud2 as `encode_points`, of obstacles only: what costmap layers take."""
    index = np.flatnonzero(find_obstacles(prediction, rule))
    return ros_compat.create_cloud(
        Header(stamp=time_message(stamp), frame_id=frame_id), occupied_points(prediction, index)
    )


def encode_ground_map(ground: GroundMap, stamp: int, frame_id: str) -> OccupancyGrid:
    height, width = ground.cells.shape
    message = OccupancyGrid(header=Header(stamp=time_message(stamp), frame_id=frame_id))
    message.info.map_load_time = message.header.stamp
    message.info.resolution = float(ground.resolution)
    message.info.width, message.info.height = width, height
    message.info.origin.position = Point(x=ground.origin[0], y=ground.origin[1], z=0.0)
    message.info.origin.orientation.w = 1.0
    message.data = array("b", ground.cells.tobytes())
    return message


def encode_markers(
    prediction: OccupancyPrediction, stamp: int, frame_id: str, exposed_only: bool = False, most: int = 0
) -> MarkerArray:
    """One CUBE_LIST with a cube per occupied voxel. For publishing, `serialize_markers` gives the same bytes sooner.

    most: cubes in all, 0 for any number. A second CUBE_LIST then holds larger cubes far from the robot where there
    would be more; without any it deletes those of the message before.
    """
    lists = _cubes(prediction, exposed_only, most)
    message = _empty_markers(prediction, stamp, frame_id, lists)
    for marker, cubes in zip(message.markers, lists, strict=True):
        marker.points = [Point(x=x, y=y, z=z) for x, y, z in cubes.xyz.tolist()]
        marker.colors = [ColorRGBA(r=r, g=g, b=b, a=a) for r, g, b, a in cubes.rgba.tolist()]
    return message


def serialize_markers(
    prediction: OccupancyPrediction, stamp: int, frame_id: str, exposed_only: bool = False, most: int = 0
) -> bytes:
    """CDR of `encode_markers`, written by numpy: two Python objects per voxel would take longer than the network.

    A message with one cube per list is serialised first; its points and colours are then replaced by the real ones.
    That moves what follows by multiples of 8 bytes, which keeps the alignment.
    """
    lists = _cubes(prediction, exposed_only, most)
    template = _empty_markers(prediction, stamp, frame_id, lists)
    for marker, cubes in zip(template.markers, lists, strict=True):
        marker.points = [Point()] * min(len(cubes.xyz), 1)
        marker.colors = [ColorRGBA()] * min(len(cubes.xyz), 1)
    data, pieces, done = serialize_message(template), [], 0
    for marker, cubes in zip(template.markers, lists, strict=True):
        # From the marker's colour to the number of points: 16 bytes colour, 8 lifetime, 1 frame_locked, 3 padding.
        color = marker.color
        before = data.index(struct.pack("=4f", color.r, color.g, color.b, color.a), done) + 28
        if not len(cubes.xyz):  # an empty sequence is not padded: the template has it as it must be
            pieces.append(data[done : before + 8])
            done = before + 8
            continue
        first = 4 + (before + 7) // 8 * 8  # points begin at a multiple of 8 after the 4-byte CDR header
        count = struct.pack("=I", len(cubes.xyz))
        pieces += [data[done:before], count, bytes(first - before - 4), cubes.xyz.data, count, cubes.rgba.data]
        done = first + 24 + 4 + 16  # one point, the number of colours, one colour
    return b"".join((*pieces, data[done:]))


@dataclass(frozen=True)
class _CubeList:
    space: str
    size: float  # of each cube, m
    xyz: np.ndarray  # (P, 3) float64 centres, m, ego frame
    rgba: np.ndarray  # (P, 4) float32 as a marker holds them


def _cubes(prediction: OccupancyPrediction, exposed_only: bool, most: int) -> list[_CubeList]:
    index, size = occupied_voxels(prediction, exposed_only), float(prediction.grid.voxel_size)
    xyz = _flat_centers(prediction.grid).take(index, axis=0).astype(np.float64)
    shades = _shades(prediction, index)
    if shades is not None:
        rgba = _RGBA_HEIGHTS.take(shades, axis=0)
    else:
        rgba = _RGBA.take(prediction.labels.ravel()[index], axis=0)
    if not most:
        return [_CubeList("occupancy", size, xyz, rgba)]
    near, far, factor = _thin_out(prediction.grid, index, xyz, most)
    # The centre of the larger cube that a voxel lies in; its colour is that of one of its voxels.
    low = np.asarray(prediction.grid.origin)
    coarse = low + (np.floor((xyz[far] - low) / (factor * size)) + 0.5) * factor * size
    return [
        _CubeList("occupancy", size, xyz[near], rgba[near]),
        _CubeList("occupancy_far", factor * size, coarse, rgba[far]),
    ]


# Voxels along the side of the larger cubes, and how far those of full size reach, m; tried in this order.
_COARSER = [
    *((2, reach) for reach in (40.0, 30.0, 25.0, 20.0, 15.0, 10.0, 0.0)),
    *((4, 10.0), (4, 0.0), (8, 0.0), (16, 0.0)),
]


def _thin_out(grid: VoxelGrid, index: np.ndarray, xyz: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Which voxels stay, one of each larger cube, and how many voxels that is wide; not more than `most` in all."""
    everything, nothing = np.arange(len(index)), np.empty(0, dtype=np.int64)
    if len(index) <= most:
        return everything, nothing, 2
    away = np.hypot(xyz[:, 0], xyz[:, 1])
    place = np.stack(np.unravel_index(index, grid.shape), axis=-1)
    for factor, reach in _COARSER:
        near = away <= reach
        if np.count_nonzero(near) > most:
            continue
        far = np.flatnonzero(~near)
        blocks = place[far] // factor
        _, one = np.unique(np.ravel_multi_index(blocks.T, grid.shape), return_index=True)
        if np.count_nonzero(near) + len(one) <= most:
            return np.flatnonzero(near), far[one], factor
    return nothing, far[one[:: -(-len(one) // most)]], factor  # so few are asked for that some must go


def _empty_markers(
    prediction: OccupancyPrediction, stamp: int, frame_id: str, lists: Sequence[_CubeList]
) -> MarkerArray:
    header = Header(stamp=time_message(stamp), frame_id=frame_id)
    markers = [
        Marker(
            header=header,
            ns=cubes.space,
            type=Marker.CUBE_LIST,
            action=Marker.ADD if i == 0 or len(cubes.xyz) else Marker.DELETE,
            pose=Pose(orientation=Quaternion(w=1.0)),
            scale=Vector3(x=cubes.size, y=cubes.size, z=cubes.size),
            color=ColorRGBA(r=0.5, g=0.5, b=0.5, a=1.0),
        )
        for i, cubes in enumerate(lists)
    ]
    return MarkerArray(markers=markers)
