# SPDX-License-Identifier: Apache-2.0
"""Messages <-> numpy. No Node, no clock, no TF; decoding reads attributes only, so messages of rosbags work too."""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion, Transform, Vector3
from rclpy.serialization import serialize_message
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from gaussianocc_core.data.labels import PALETTE, UNOBSERVED
from gaussianocc_core.errors import CalibrationError, GaussianOccError
from gaussianocc_core.geometry.transforms import make_transform, matrix_to_quat, quat_to_matrix
from gaussianocc_core.geometry.voxels import centers, flatten
from gaussianocc_core.types import EQUIDISTANT, PINHOLE, OccupancyPrediction, VoxelGrid
from gaussianocc_ros import ros_compat
from gaussianocc_ros.msg import SemanticOccupancy
from gaussianocc_ros.stamps import time_message

# An image may claim any size; 8192 x 8192 is beyond every camera and still only 200 MB.
MAX_IMAGE_PIXELS = 1 << 26


class ImageError(GaussianOccError):
    """An image message cannot be turned into pixels."""


# ---- poses ---------------------------------------------------------------------------------------------------------


def decode_transform(transform: Any) -> np.ndarray:
    """T_parent_child of a geometry_msgs/Transform; ROS's quaternion order x y z w ends here."""
    q, t = transform.rotation, transform.translation
    quat = np.array([q.w, q.x, q.y, q.z], dtype=np.float64)
    translation = np.array([t.x, t.y, t.z], dtype=np.float64)
    if not (np.isfinite(quat).all() and np.isfinite(translation).all() and np.linalg.norm(quat) > 1e-6):
        raise CalibrationError(
            f"not a rigid transform: rotation x y z w = {q.x}, {q.y}, {q.z}, {q.w}, translation {t.x}, {t.y}, {t.z}"
        )
    return make_transform(quat_to_matrix(quat), translation)


def encode_transform(T_parent_child: np.ndarray) -> Transform:
    x, y, z = (float(value) for value in T_parent_child[:3, 3])
    qw, qx, qy, qz = (float(value) for value in matrix_to_quat(T_parent_child[:3, :3]))
    return Transform(translation=Vector3(x=x, y=y, z=z), rotation=Quaternion(x=qx, y=qy, z=qz, w=qw))


# ---- images --------------------------------------------------------------------------------------------------------


def decode_image(message: Any, max_pixels: int = MAX_IMAGE_PIXELS) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a sensor_msgs/Image or CompressedImage (JPEG, PNG)."""
    if hasattr(message, "encoding"):
        _check_size(message.width, message.height, max_pixels)
        try:
            return ros_compat.image_to_rgb(message)
        except ValueError as error:
            raise ImageError(f"image cannot be decoded: {error}") from None
    return _decode_compressed(np.frombuffer(message.data, dtype=np.uint8), message.format, max_pixels)


def _decode_compressed(data: np.ndarray, stated_format: str, max_pixels: int) -> np.ndarray:
    head = data[:8].tobytes()
    if head.startswith(b"\xff\xd8"):
        kind, size = "JPEG", _jpeg_size(data)
        # A truncated JPEG decodes without an error, its missing part grey. Padding after the end marker is common.
        complete = b"\xff\xd9" in data[-4096:].tobytes()
    elif head == b"\x89PNG\r\n\x1a\n" and data.size >= 24:
        kind, size = "PNG", struct.unpack_from(">II", data, 16)
        complete = b"IEND" in data[-64:].tobytes()
    else:
        raise ImageError(
            f"compressed image of {data.size} bytes (format {stated_format!r}) is neither JPEG nor PNG: "
            f"it begins with {head.hex(' ') or 'nothing'}"
        )
    if size is None or not complete:
        raise ImageError(f"{kind} image of {data.size} bytes is truncated or corrupt")
    _check_size(*size, max_pixels)
    # Camera drivers do not rotate; EXIF orientation would break the agreement with CameraInfo.
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ImageError(f"{kind} image of {data.size} bytes is corrupt")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _jpeg_size(data: np.ndarray) -> tuple[int, int] | None:
    """Width and height from the frame header, so that a size is known before memory is taken for it."""
    place = 2
    while place + 9 <= data.size and data[place] == 0xFF:
        marker = int(data[place + 1])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, place + 5)
            return width, height
        if marker == 0xFF:  # fill byte
            place += 1
            continue
        place += 2 + struct.unpack_from(">H", data, place + 2)[0]
    return None


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1 or width * height > max_pixels:
        raise ImageError(f"image says it is {width}x{height} pixels; between 1 and {max_pixels} are accepted")


# ---- calibration ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Intrinsics:
    """One camera's CameraInfo in our terms (types.Cameras holds N of them with T_ego_cam)."""

    matrix: tuple[float, ...]  # K, row by row, pixels of the image of this width and height
    width: int
    height: int
    model: str  # types.CAMERA_MODELS
    distortion: tuple[float, ...]  # OpenCV's order; () means none
    frame_id: str


_MODELS = {
    "": (PINHOLE, (0,)),
    "plumb_bob": (PINHOLE, (0, 4, 5)),
    "rational_polynomial": (PINHOLE, (0, 4, 5, 8)),
    "equidistant": (EQUIDISTANT, (0, 4)),
}


def decode_camera_info(message: Any, camera: str) -> Intrinsics:
    """K, lens model and distortion of the image as it is published: binning and region of interest are applied."""
    K = np.array(message.k, dtype=np.float64).reshape(3, 3)
    distortion = tuple(float(value) for value in message.d)
    width, height = int(message.width), int(message.height)
    if not np.isfinite(K).all() or not np.isfinite(distortion).all():
        raise CalibrationError(f"camera {camera}: CameraInfo holds values that are not finite; calibrate the camera")
    if K[0, 0] <= 0 or K[1, 1] <= 0 or not np.array_equal(K[2], (0, 0, 1)):
        raise CalibrationError(
            f"camera {camera}: CameraInfo has no usable K (fx {K[0, 0]:g}, fy {K[1, 1]:g}, last row "
            f"{K[2].tolist()}); an uncalibrated driver publishes zeros: calibrate the camera or use rig_file"
        )
    if width < 1 or height < 1:
        raise CalibrationError(f"camera {camera}: CameraInfo says {width}x{height} pixels; set width and height")
    if message.distortion_model not in _MODELS:
        raise CalibrationError(
            f"camera {camera}: distortion model {message.distortion_model!r} is not supported; "
            f"use one of {', '.join(name for name in _MODELS if name)}"
        )
    model, counts = _MODELS[message.distortion_model]
    if len(distortion) not in counts:
        raise CalibrationError(
            f"camera {camera}: distortion model {message.distortion_model!r} takes {' or '.join(map(str, counts))} "
            f"coefficients, CameraInfo has {len(distortion)}"
        )
    if model == PINHOLE and not any(distortion):
        distortion = ()  # four zeros are no distortion; for a fisheye they are the ideal equidistant lens

    roi, binning = message.roi, (max(1, int(message.binning_x)), max(1, int(message.binning_y)))
    if roi.width and roi.height:
        K[0, 2] -= roi.x_offset
        K[1, 2] -= roi.y_offset
        width, height = int(roi.width), int(roi.height)
    K[0] /= binning[0]
    K[1] /= binning[1]
    size = (width // binning[0], height // binning[1])
    return Intrinsics(tuple(K.ravel().tolist()), *size, model, distortion, message.header.frame_id)


# ---- occupancy -----------------------------------------------------------------------------------------------------


def _free_label(prediction: OccupancyPrediction) -> int:
    return prediction.class_names.index("free")


def encode_occupancy(prediction: OccupancyPrediction, stamp: int, frame_id: str) -> SemanticOccupancy:
    """The dense message; `stamp` in nanoseconds, of the anchor camera's image."""
    size, origin = float(prediction.grid.voxel_size), [float(value) for value in prediction.grid.origin]
    message = SemanticOccupancy(
        header=Header(stamp=time_message(stamp), frame_id=frame_id),
        origin=Pose(position=Point(x=origin[0], y=origin[1], z=origin[2])),
        voxel_size=Vector3(x=size, y=size, z=size),
        class_names=list(prediction.class_names),
        free_label=_free_label(prediction),
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


_COLORS = PALETTE[np.arange(256) % len(PALETTE)]  # of each label, (256, 3) uint8
_PACKED_RGB = (_COLORS.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)).view(np.float32)
_RGBA = np.hstack([_COLORS / 255, np.ones((256, 1))]).astype(np.float32)


def occupied_voxels(prediction: OccupancyPrediction, exposed_only: bool = False) -> np.ndarray:
    """Flat (C order) indices of the voxels that are observed and not free; `exposed_only`: see `exposed`."""
    occupied = (prediction.labels != _free_label(prediction)) & (prediction.labels != UNOBSERVED)
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


def occupied_points(prediction: OccupancyPrediction) -> np.ndarray:
    """Centres of the voxels that are observed and not free, as a POINT_TYPE array in the ego frame, metres."""
    index = occupied_voxels(prediction)
    labels = prediction.labels.ravel()[index]
    points = np.empty(len(index), dtype=POINT_TYPE)
    points["x"], points["y"], points["z"] = _flat_centers(prediction.grid).take(index, axis=0).T
    points["rgb"] = _PACKED_RGB[labels]
    points["label"] = labels
    points["confidence"] = prediction.confidence.ravel()[index]
    return points


def encode_points(prediction: OccupancyPrediction, stamp: int, frame_id: str) -> Any:
    """PointCloud2 of `occupied_points`."""
    header = Header(stamp=time_message(stamp), frame_id=frame_id)
    return ros_compat.create_cloud(header, occupied_points(prediction))


def encode_markers(
    prediction: OccupancyPrediction, stamp: int, frame_id: str, exposed_only: bool = False
) -> MarkerArray:
    """One CUBE_LIST with a cube per occupied voxel. For publishing, `serialize_markers` gives the same bytes sooner."""
    xyz, rgba = _cubes(prediction, exposed_only)
    message = _empty_markers(prediction, stamp, frame_id)
    message.markers[0].points = [Point(x=x, y=y, z=z) for x, y, z in xyz.tolist()]
    message.markers[0].colors = [ColorRGBA(r=r, g=g, b=b, a=a) for r, g, b, a in rgba.tolist()]
    return message


def serialize_markers(prediction: OccupancyPrediction, stamp: int, frame_id: str, exposed_only: bool = False) -> bytes:
    """CDR of `encode_markers`, written by numpy: two Python objects per voxel would take longer than the network.

    A message with one cube is serialised first; its point and colour are then replaced by the real ones. What
    follows them holds no 8-byte values, so moving it by multiples of 8 bytes keeps the alignment.
    """
    xyz, rgba = _cubes(prediction, exposed_only)
    template = _empty_markers(prediction, stamp, frame_id)
    template.markers[0].points = [Point()]
    template.markers[0].colors = [ColorRGBA()]
    data = serialize_message(template)
    # From the marker's colour to the number of points: 16 bytes colour, 8 lifetime, 1 frame_locked, 3 padding.
    color = template.markers[0].color
    before = data.index(struct.pack("=4f", color.r, color.g, color.b, color.a)) + 28
    first = 4 + (before + 7) // 8 * 8  # points begin at a multiple of 8 after the 4-byte CDR header
    count = struct.pack("=I", len(xyz))
    padding = bytes(first - before - 4 if len(xyz) else 0)  # an empty sequence is not padded
    after = first + 24 + 4 + 16  # one point, the number of colours, one colour
    return b"".join((data[:before], count, padding, xyz.data, count, rgba.data, data[after:]))


def _cubes(prediction: OccupancyPrediction, exposed_only: bool) -> tuple[np.ndarray, np.ndarray]:
    """Centres (P, 3) float64, metres, ego frame, and colours (P, 4) float32 as a marker holds them."""
    index = occupied_voxels(prediction, exposed_only)
    xyz = _flat_centers(prediction.grid).take(index, axis=0).astype(np.float64)
    return xyz, _RGBA.take(prediction.labels.ravel()[index], axis=0)


def _empty_markers(prediction: OccupancyPrediction, stamp: int, frame_id: str) -> MarkerArray:
    size = float(prediction.grid.voxel_size)
    marker = Marker(
        header=Header(stamp=time_message(stamp), frame_id=frame_id),
        ns="occupancy",
        type=Marker.CUBE_LIST,
        action=Marker.ADD,
        pose=Pose(orientation=Quaternion(w=1.0)),
        scale=Vector3(x=size, y=size, z=size),
        color=ColorRGBA(r=0.5, g=0.5, b=0.5, a=1.0),
    )
    return MarkerArray(markers=[marker])
