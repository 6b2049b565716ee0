# SPDX-License-Identifier: Apache-2.0
"""What makes a picture in RViz or Foxglove readable: the robot, its cameras' frusta, axes, and the classes' colours."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from gaussianocc_core.types import EQUIDISTANT, Cameras

_FRUSTUM = 1.0  # m
_WIDEST = np.radians(80.0)  # of the drawn rays of fisheyes, from the axis
_LEAST = 0.4  # m, sides of the robot's box
_AXES = ((1.0, 0.2, 0.2), (0.2, 1.0, 0.2), (0.3, 0.5, 1.0))


def encode_rig(cameras: Cameras, ego_frame: str) -> MarkerArray:
    """The robot as a box around its cameras that stands on the ground, an arrow forward, axes, and of each camera
    frustum, axes and name. In the ego frame, for all times (stamp zero, frame_locked)."""
    poses = cameras.T_ego_cam.double().cpu().numpy()
    clear = Marker(header=Header(frame_id=ego_frame), action=Marker.DELETEALL)  # cameras that are gone
    markers = [clear, *_robot(poses[:, :3, 3], ego_frame)]
    axes = _marker("axes", 0, Marker.LINE_LIST, ego_frame, width=0.06)
    _add_axes(axes, np.eye(4), 1.5)
    frusta = _marker("frusta", 0, Marker.LINE_LIST, ego_frame, width=0.03, color=(0.9, 0.9, 0.9))
    for i, name in enumerate(cameras.names):
        _add_axes(axes, poses[i], 0.4)
        corners = _corners(cameras, i) @ poses[i, :3, :3].T + poses[i, :3, 3]
        for a, b in ((0, 1), (1, 2), (2, 3), (3, 0)):
            frusta.points += [_point(corners[a]), _point(corners[b]), _point(poses[i, :3, 3]), _point(corners[a])]
        text = _marker("names", i, Marker.TEXT_VIEW_FACING, ego_frame, color=(0.9, 0.9, 0.9))
        text.scale, text.text = Vector3(z=0.3), name
        text.pose.position = _point(corners.mean(axis=0) + np.array([0.0, 0.0, 0.4]))
        markers.append(text)
    return MarkerArray(markers=[*markers, axes, frusta])


def _robot(places: np.ndarray, frame: str) -> list[Marker]:
    low, high = places.min(axis=0), places.max(axis=0)
    size = np.maximum(high - low, _LEAST)
    center, top = 0.5 * (low + high), max(float(high[2]), 2 * _LEAST)
    box = _marker("robot", 0, Marker.CUBE, frame, color=(0.35, 0.6, 0.9), alpha=0.5)
    box.scale = Vector3(x=float(size[0]), y=float(size[1]), z=0.9 * top)
    box.pose.position = Point(x=float(center[0]), y=float(center[1]), z=0.45 * top)
    arrow = _marker("robot", 1, Marker.ARROW, frame, color=(0.35, 0.6, 0.9))
    arrow.points = [Point(x=float(high[0]), z=0.1), Point(x=float(high[0]) + 2.0, z=0.1)]
    arrow.scale = Vector3(x=0.12, y=0.35, z=0.5)  # shaft, head, its length
    return [box, arrow]


def _corners(cameras: Cameras, i: int) -> np.ndarray:
    """(4, 3) in the camera's frame, around the image; distortion is left out."""
    K = cameras.intrinsics[i].double().cpu().numpy()
    width, height = cameras.width[i], cameras.height[i]
    pixels = np.array([(0, 0), (width, 0), (width, height), (0, height)])
    x, y = ((pixels - (K[0, 2], K[1, 2])) / (K[0, 0], K[1, 1])).T
    across = np.maximum(np.hypot(x, y), 1e-9)
    angle = np.minimum(across if cameras.model[i] == EQUIDISTANT else np.arctan(across), _WIDEST)
    rays = np.stack([np.sin(angle) * x / across, np.sin(angle) * y / across, np.cos(angle)], axis=-1)
    return _FRUSTUM * rays


def _add_axes(marker: Marker, pose: np.ndarray, length: float) -> None:
    for axis, (r, g, b) in enumerate(_AXES):
        marker.points += [_point(pose[:3, 3]), _point(pose[:3, 3] + length * pose[:3, axis])]
        marker.colors += [ColorRGBA(r=r, g=g, b=b, a=1.0)] * 2


def _marker(
    space: str,
    number: int,
    kind: int,
    frame: str,
    width: float = 0.0,
    color: tuple[float, float, float] = (1.0, 1.0, 1.0),
    alpha: float = 1.0,
) -> Marker:
    return Marker(
        header=Header(frame_id=frame),
        ns=space,
        id=number,
        type=kind,
        action=Marker.ADD,
        pose=Pose(orientation=Quaternion(w=1.0)),
        scale=Vector3(x=width),
        color=ColorRGBA(r=color[0], g=color[1], b=color[2], a=alpha),
        frame_locked=True,
    )


def _point(place: np.ndarray) -> Point:
    x, y, z = (float(value) for value in place)
    return Point(x=x, y=y, z=z)
