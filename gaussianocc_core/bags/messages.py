# SPDX-License-Identifier: Apache-2.0
"""Sensor messages -> numpy, without ROS: attributes are all that is read, so messages of rclpy and of rosbags work."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from gaussianocc_core.bags.image_codec import MAX_IMAGE_PIXELS, can_reduce, decode_grey, decode_rgb, is_grey
from gaussianocc_core.bags.video import Undecodable, VideoPicture, is_video
from gaussianocc_core.errors import CalibrationError, GaussianOccError
from gaussianocc_core.geometry.calibration import find_fault
from gaussianocc_core.geometry.lens import from_ros
from gaussianocc_core.geometry.pixel_centers import from_opencv
from gaussianocc_core.geometry.plausibility import refuse_intrinsics
from gaussianocc_core.geometry.transforms import make_transform, quat_to_matrix
from gaussianocc_core.names import shorten
from gaussianocc_core.types import PINHOLE


class ImageError(GaussianOccError):
    """An image message cannot be turned into pixels."""


class WaitsForKeyframe(ImageError):
    """An image of a video whose last packets are missing: nothing is wrong with it, and the next keyframe ends it."""


# ---- poses ---------------------------------------------------------------------------------------------------------


def decode_transform(transform: Any) -> Float[np.ndarray, "4 4"]:
    """T_parent_child of a geometry_msgs/Transform; ROS's quaternion order x y z w ends here."""
    q, t = transform.rotation, transform.translation
    quat = np.array([q.w, q.x, q.y, q.z], dtype=np.float64)
    translation = np.array([t.x, t.y, t.z], dtype=np.float64)
    if find_fault(rotation=quat, translation=translation) is not None:
        raise CalibrationError(
            f"not a rigid transform: rotation x y z w = {q.x}, {q.y}, {q.z}, {q.w}, translation {t.x}, {t.y}, {t.z}"
        )
    return make_transform(quat_to_matrix(quat), translation)


# ---- images --------------------------------------------------------------------------------------------------------

# Encoding -> bytes per channel, channels, OpenCV conversion to RGB. OpenCV names a Bayer pattern after the second row's
# second and third pixel, ROS after the first row's first two, hence the crossed letters.
_ENCODINGS: dict[str, tuple[int, int, int | None]] = {
    "rgb8": (1, 3, None),
    "bgr8": (1, 3, cv2.COLOR_BGR2RGB),
    "rgba8": (1, 4, cv2.COLOR_RGBA2RGB),
    "bgra8": (1, 4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, 1, cv2.COLOR_GRAY2RGB),
    "rgb16": (2, 3, None),
    "bgr16": (2, 3, cv2.COLOR_BGR2RGB),
    "mono16": (2, 1, cv2.COLOR_GRAY2RGB),
    "bayer_rggb8": (1, 1, cv2.COLOR_BayerBG2RGB),
    "bayer_rggb16": (2, 1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, 1, cv2.COLOR_BayerRG2RGB),
    "bayer_bggr16": (2, 1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, 1, cv2.COLOR_BayerGR2RGB),
    "bayer_gbrg16": (2, 1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, 1, cv2.COLOR_BayerGB2RGB),
    "bayer_grbg16": (2, 1, cv2.COLOR_BayerGB2RGB),
    "yuv422": (1, 2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (1, 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (1, 2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (1, 2, cv2.COLOR_YUV2RGB_YUY2),
}


def decode_image(message: Any, max_pixels: int = MAX_IMAGE_PIXELS) -> UInt8[np.ndarray, "H W 3"]:
    """RGB of a sensor_msgs/Image or CompressedImage (JPEG, PNG), or of what a bag's reader gives in place of a packet
    of video; ImageError says what is wrong with it."""
    return decode_reduced(message, 1, max_pixels)[0]


def decode_reduced(
    message: Any, reduce: int, max_pixels: int = MAX_IMAGE_PIXELS
) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
    """The image, and how many native pixels a side became one: `reduce` (1, 2, 4 or 8) if it is a JPEG, or video of
    whose sides it is a divisor, else 1."""
    if isinstance(message, VideoPicture):
        return message.rgb(reduce)
    if isinstance(message, Undecodable):
        raise ImageError(f"video packet cannot be decoded: {message.reason}")
    if is_video(message):
        raise ImageError("a packet of compressed video is no image by itself; it needs those from its keyframe on")
    try:
        if hasattr(message, "encoding"):
            check_size(message, max_pixels)
            return raw_image_to_rgb(message), 1
        return _decode_compressed(message, max_pixels, reduce)
    except (ValueError, cv2.error) as error:  # OpenCV: a size that the encoding cannot have
        raise ImageError(f"image cannot be decoded: {' '.join(str(error).split())}") from None


def _decode_compressed(message: Any, max_pixels: int, reduce: int) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
    """As image_transport's subscribers read what its publishers write: "ENCODING; jpeg compressed STORED".

    A Bayer mosaic is stored as a grey image. Where STORED is rgb8 the publisher handed its encoder red and blue the
    other way round, and what a decoder takes for blue is red.
    """
    data = memoryview(message.data)
    encoding, _, rest = str(getattr(message, "format", "")).partition(";")
    encoding, stored = encoding.strip(), rest.rpartition("compressed")[2].strip() if "compressed" in rest else ""
    if encoding.startswith("bayer_") and is_grey(data):  # may not be shrunk: neighbours are of other colours
        if encoding not in _ENCODINGS:
            raise ValueError(f"encoding {encoding!r} is not supported; known are {', '.join(_ENCODINGS)}")
        code = _ENCODINGS[encoding][2]
        assert code is not None
        return cv2.cvtColor(decode_grey(data, max_pixels), code), 1
    pixels = decode_rgb(data, max_pixels, reduce)
    if stored in ("rgb8", "rgba8", "rgb16"):
        pixels = np.ascontiguousarray(pixels[..., ::-1])
    return pixels, reduce if can_reduce(data) else 1


def check_size(message: Any, max_pixels: int) -> None:
    """ValueError if a sensor_msgs/Image claims no pixels, or more than that; before memory is taken for them."""
    width, height = message.width, message.height
    if width < 1 or height < 1 or width * height > max_pixels:
        raise ValueError(f"it says that it has {width}x{height} pixels; between 1 and {max_pixels} are accepted")


def raw_image_to_rgb(message: Any) -> UInt8[np.ndarray, "H W 3"]:
    """RGB of a sensor_msgs/Image; ValueError says what does not fit. 16 bits keep the upper 8."""
    if message.encoding not in _ENCODINGS:
        raise ValueError(f"encoding {shorten(message.encoding)} is not supported; known are {', '.join(_ENCODINGS)}")
    depth, channels, code = _ENCODINGS[message.encoding]
    height, width, step = message.height, message.width, message.step
    row = width * channels * depth
    data = np.frombuffer(message.data, dtype=np.uint8)
    if width < 1 or height < 1 or step < row or data.size < step * height:
        raise ValueError(
            f"{width}x{height} {message.encoding} needs step >= {row} and step x height bytes, "
            f"got step {step} and {data.size} bytes"
        )
    rows = data[: step * height].reshape(height, step)[:, :row]
    if depth == 2:
        high = 0 if message.is_bigendian else 1
        rows = rows[:, high::2]
    pixels = np.ascontiguousarray(rows).reshape(height, width, channels)
    return pixels if code is None else cv2.cvtColor(pixels, code)


# ---- calibration ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Intrinsics:
    """One camera's CameraInfo in our terms (types.Cameras holds N of them with T_ego_cam)."""

    matrix: tuple[float, ...]  # K, row by row, pixels of the image of this width and height, centres at +0.5
    width: int
    height: int
    model: str  # types.CAMERA_MODELS
    distortion: tuple[float, ...]  # OpenCV's order; () means none
    frame_id: str
    rectified: tuple[float, ...] = ()  # P's 3x3 part, row by row, of the rectified image of this size; () without P
    rotation: tuple[float, ...] = ()  # R, row by row: from the camera's axes to those of the rectified image
    baseline: float = 0.0  # m, how far right of its frame P says that a stereo camera's second eye stands


def rectified(intrinsics: Intrinsics, camera: str) -> Intrinsics:
    """Of the same camera's rectified images, as image_proc makes them: K is P's, and there is no distortion left.

    CalibrationError where the CameraInfo has no P.
    """
    if not intrinsics.rectified:
        raise CalibrationError(
            f"camera {camera}: its images are rectified, but its CameraInfo has no P, which says how; use the raw "
            "images, or give a rig file"
        )
    return replace(intrinsics, matrix=intrinsics.rectified, model=PINHOLE, distortion=())


def T_camera_rectified(intrinsics: Intrinsics) -> Float[np.ndarray, "4 4"]:
    """From the axes of the rectified image to those of the camera's frame."""
    R = np.array(intrinsics.rotation).reshape(3, 3) if intrinsics.rotation else np.eye(3)
    return make_transform(R.T, np.zeros(3))


def is_rectified(topic: str) -> bool:
    """Whether a topic has rectified images by image_proc's naming: image_rect, image_rect_color."""
    return any(part.startswith("image_rect") for part in topic.split("/"))


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
    refuse_intrinsics(camera, K, width, height)
    try:
        model, distortion = from_ros(message.distortion_model, distortion)
    except ValueError as error:
        raise CalibrationError(
            f"camera {camera}: distortion model {shorten(message.distortion_model)} {error}; calibrate the camera"
        ) from None

    K = from_opencv(K)
    roi, binning = message.roi, (max(1, int(message.binning_x)), max(1, int(message.binning_y)))
    if roi.width and roi.height:
        K[0, 2] -= roi.x_offset
        K[1, 2] -= roi.y_offset
        width, height = int(roi.width), int(roi.height)
    K[0] /= binning[0]
    K[1] /= binning[1]
    size = (width // binning[0], height // binning[1])
    fault = find_fault(width=size[0], height=size[1], intrinsics=K, model=model, distortion=distortion)
    if fault is not None:
        raise CalibrationError(
            f"camera {camera}: CameraInfo, with its binning and region of interest applied: {fault.field}: expected "
            f"{fault.expected}, got {size[0]}x{size[1]} pixels, fx {K[0, 0]:g}, fy {K[1, 1]:g}"
        )
    P, R, baseline = _decode_projection(message, (roi.x_offset, roi.y_offset) if roi.width and roi.height else (0, 0))
    return Intrinsics(
        tuple(K.ravel().tolist()),
        *size,
        model,
        distortion,
        message.header.frame_id,
        tuple((P / [[binning[0]], [binning[1]], [1]]).ravel().tolist()) if P is not None else (),
        tuple(R.ravel().tolist()),
        baseline,
    )


def _decode_projection(message: Any, corner: tuple[int, int]) -> tuple[np.ndarray | None, np.ndarray, float]:
    """P's 3x3 part with the region's corner taken off (None where no camera has it), R (the identity where it is no
    rotation), and the baseline (0 where it is no length)."""
    P = np.array(getattr(message, "p", None) if getattr(message, "p", None) is not None else [], dtype=np.float64)
    R = np.array(getattr(message, "r", None) if getattr(message, "r", None) is not None else [], dtype=np.float64)
    # Before any product of them: entries of a rotation are at most 1, and 1e300 squared is no number. Not so of NaN.
    rotation = R.reshape(3, 3) if R.size == 9 and (np.abs(R) < 1.01).all() else np.eye(3)
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3:
        rotation = np.eye(3)
    P = P.reshape(3, 4) if P.size == 12 else np.zeros((3, 4))
    if find_fault(intrinsics=P[:, :3]) is not None or min(P[0, 0], P[1, 1]) <= 2.0 or (P[2, :3] != (0, 0, 1)).any():
        return None, rotation, 0.0
    baseline = float(-P[0, 3] / P[0, 0])
    if find_fault(translation=(baseline, 0.0, 0.0)) is not None:
        baseline = 0.0
    projection = from_opencv(P[:, :3])
    projection[:2, 2] -= corner
    return projection, rotation, baseline


# ---- point clouds --------------------------------------------------------------------------------------------------

# sensor_msgs/PointField's numbers.
POINT_DATATYPES = {
    number: np.dtype(kind) for number, kind in enumerate(("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"), start=1)
}


def decode_cloud(cloud: Any) -> np.ndarray:
    """Structured array of the fields of a sensor_msgs/PointCloud2 (each of count 1), whatever padding lies between.

    ValueError where its data cannot hold what it says, KeyError where a field is of no known type.
    """
    wanted = cloud.width * cloud.height * cloud.point_step
    if wanted > len(cloud.data) or cloud.point_step < 1:
        raise ValueError(
            f"{cloud.width}x{cloud.height} points of {cloud.point_step} bytes in {len(cloud.data)} bytes of data"
        )
    order: Any = ">" if cloud.is_bigendian else "<"
    layout = np.dtype(
        {
            "names": [field.name for field in cloud.fields],
            "formats": [POINT_DATATYPES[field.datatype].newbyteorder(order) for field in cloud.fields],
            "offsets": [field.offset for field in cloud.fields],
            "itemsize": cloud.point_step,
        }
    )
    return np.frombuffer(cloud.data, dtype=layout, count=cloud.width * cloud.height)
