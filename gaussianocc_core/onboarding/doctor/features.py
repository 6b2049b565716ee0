# SPDX-License-Identifier: Apache-2.0
"""Features of an image as directions in the camera's frame, whatever its lens.

An image is first unrolled onto a cylinder around the camera's vertical axis. There, what one camera sees at its left
rim and its neighbour at its right looks alike, which it does not in the images; and no extrinsics are needed for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

from gaussianocc_core.geometry.lens import fold_radius, project_rays
from gaussianocc_core.geometry.pixel_centers import PIXEL_CENTER, to_opencv
from gaussianocc_core.types import EQUIDISTANT, Cameras

PIXELS_PER_RADIAN = 420.0  # of the finest cylinder: a degree is 7 px
_WIDEST = np.radians(95.0)  # to each side
_HIGHEST = np.tan(np.radians(50.0))
_FEATURES = 1000  # of an image
_RIM = 7  # px of the cylinder, beside what has no source
_RATIO = 0.8  # of the distance to the second best descriptor
_MIRRORED_BINS = (-np.arange(8)) % 8  # of SIFT's directions


@dataclass(frozen=True)
class Features:
    """Of one image."""

    rays: Float[np.ndarray, "F 3"]  # unit vectors, camera frame
    descriptors: Float[np.ndarray, "F 128"]
    places: Float[np.ndarray, "F 2"]  # px of the cylinder, OpenCV's

    def __len__(self) -> int:
        return len(self.rays)

    def mirrored(self) -> Features:
        """With the descriptors that a mirror image has at these places."""
        bins = self.descriptors.reshape(-1, 4, 4, 8)
        return Features(self.rays, bins[:, ::-1, :, :][..., _MIRRORED_BINS].reshape(-1, 128).copy(), self.places)


@dataclass(frozen=True)
class Cylinder:
    """How one camera's image is unrolled."""

    scale: float  # px per radian
    left: float  # rad, of the column 0
    top: float  # tangent of the angle below the camera's horizon, of the row 0
    map_x: Float[np.ndarray, "h w"]
    map_y: Float[np.ndarray, "h w"]
    reduction: tuple[int, int]  # size (width, height) that the image is averaged to before
    seen: Bool[np.ndarray, "h w"]  # True where there is a source

    def unroll(self, image: UInt8[np.ndarray, "H W *_"]) -> UInt8[np.ndarray, "h w *_"]:
        if (image.shape[1], image.shape[0]) != self.reduction:
            image = cv2.resize(image, self.reduction, interpolation=cv2.INTER_AREA)
        return cv2.remap(image, self.map_x, self.map_y, cv2.INTER_LINEAR)

    def rays(self, places: Float[np.ndarray, "F 2"]) -> Float[np.ndarray, "F 3"]:
        """Unit vectors of places (px, OpenCV's)."""
        angle = self.left + (places[:, 0] + PIXEL_CENTER) / self.scale
        down = self.top + (places[:, 1] + PIXEL_CENTER) / self.scale
        rays = np.stack([np.sin(angle), down, np.cos(angle)], axis=1)
        return rays / np.linalg.norm(rays, axis=1, keepdims=True)

    def places(self, rays: Float[np.ndarray, "F 3"]) -> Float[np.ndarray, "F 2"]:
        """The inverse of `rays`; of directions that it does not show, places outside of it."""
        angle = np.arctan2(rays[:, 0], rays[:, 2])
        down = rays[:, 1] / np.maximum(np.hypot(rays[:, 0], rays[:, 2]), 1e-9)
        return np.stack([(angle - self.left), (down - self.top)], axis=1) * self.scale - PIXEL_CENTER


def plan_cylinder(cameras: Cameras, index: int, static: Bool[np.ndarray, "H W"] | None = None) -> Cylinder:
    """For camera `index` of the rig. static: false where it sees the robot itself."""
    K = cameras.intrinsics[index].detach().cpu().double().numpy()
    size, model, distortion = (
        (cameras.width[index], cameras.height[index]),
        cameras.model[index],
        cameras.distortion[index],
    )
    left, right, top, bottom = _extent(K, size, model, distortion)
    scale = min(PIXELS_PER_RADIAN, max(K[0, 0], K[1, 1]))
    width, height = max(16, round((right - left) * scale)), max(16, round((bottom - top) * scale))
    u, v = np.meshgrid(np.arange(width) + PIXEL_CENTER, np.arange(height) + PIXEL_CENTER)
    angle, down = left + u / scale, top + v / scale
    rays = np.stack([np.sin(angle), down, np.cos(angle)], axis=-1)
    pixels = project_rays(K, model, distortion, rays.reshape(-1, 3)).reshape(height, width, 2)
    radius = np.arctan2(np.hypot(rays[..., 0], rays[..., 1]), rays[..., 2])
    largest = float(radius.max())
    if model != EQUIDISTANT:
        limit = float(np.arctan(fold_radius(model, distortion, float(np.tan(min(largest, 1.4))))))
    else:
        limit = fold_radius(model, distortion, largest)
    seen: np.ndarray = (pixels >= 0).all(axis=-1) & (pixels < size).all(axis=-1) & (radius < limit + 1e-6)
    if static is not None:
        looked = np.clip(pixels, 0, np.array(size) - 1).astype(int)
        seen &= static[looked[..., 1], looked[..., 0]]
    factor = max(1.0, max(K[0, 0], K[1, 1]) / scale / 1.5)
    reduction = (max(1, round(size[0] / factor)), max(1, round(size[1] / factor)))
    maps = to_opencv(pixels * (np.array(reduction) / np.array(size))).astype(np.float32)
    return Cylinder(scale, left, top, maps[..., 0].copy(), maps[..., 1].copy(), reduction, seen)


def _extent(
    K: np.ndarray, size: tuple[int, int], model: str, distortion: tuple[float, ...]
) -> tuple[float, float, float, float]:
    """Angles left and right (rad), tangents at top and bottom, of what the image shows, a little more rather than less:
    directions are tried, because lenses are only known one way."""
    angle = np.linspace(-_WIDEST, _WIDEST, 191)
    down = np.linspace(-_HIGHEST, _HIGHEST, 121)
    a, d = np.meshgrid(angle, down)
    rays = np.stack([np.sin(a), d, np.cos(a)], axis=-1).reshape(-1, 3)
    pixels = project_rays(K, model, distortion, rays)
    inside: np.ndarray = ((pixels >= 0) & (pixels < size)).all(axis=1).reshape(a.shape)
    if model != EQUIDISTANT:
        inside &= np.cos(a) > 0.15
    if not inside.any():
        return -0.1, 0.1, -0.1, 0.1
    columns, rows = np.flatnonzero(inside.any(axis=0)), np.flatnonzero(inside.any(axis=1))
    step_a, step_d = angle[1] - angle[0], down[1] - down[0]
    return (
        float(angle[columns[0]] - step_a),
        float(angle[columns[-1]] + step_a),
        float(down[rows[0]] - step_d),
        float(down[rows[-1]] + step_d),
    )


def find_features(grey: UInt8[np.ndarray, "h w"], cylinder: Cylinder, count: int = _FEATURES) -> Features:
    """grey: unrolled."""
    detector = cv2.SIFT.create(nfeatures=count, contrastThreshold=0.02)
    keypoints, descriptors = detector.detectAndCompute(grey, _inner(cylinder.seen))
    if descriptors is None or not len(keypoints):
        return Features(np.zeros((0, 3)), np.zeros((0, 128), np.float32), np.zeros((0, 2)))
    places = np.array([each.pt for each in keypoints], dtype=np.float64)
    roots = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-6))
    return Features(cylinder.rays(places), roots.astype(np.float32), places)


def _inner(seen: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    kernel = np.ones((2 * _RIM + 1, 2 * _RIM + 1), np.uint8)
    return cv2.erode(seen.astype(np.uint8), kernel, borderValue=0) * 255


def match(a: Features, b: Features) -> Int64[np.ndarray, "M 2"]:
    """Indices into a and b of features that are each other's best, and clearly so."""
    if len(a) < 2 or len(b) < 2:
        return np.zeros((0, 2), np.int64)
    alike = a.descriptors @ b.descriptors.T  # unit vectors
    best = alike.argmax(axis=1)
    rows = np.arange(len(a))
    first = alike[rows, best]
    mutual = alike.argmax(axis=0)[best] == rows
    alike[rows, best] = -1.0
    second = alike.max(axis=1)
    distance, beyond = (np.sqrt(np.maximum(2.0 - 2.0 * each, 0.0)) for each in (first, second))
    kept = mutual & (distance < _RATIO * beyond)
    return np.stack([rows[kept], best[kept]], axis=1)
