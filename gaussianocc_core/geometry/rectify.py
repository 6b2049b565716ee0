# SPDX-License-Identifier: Apache-2.0
"""Any lens -> a network-size pinhole image and the mask of its valid pixels, in one remap that also resizes.

Training, tools and the node share this class, so that a network never sees two kinds of preprocessing.
Pixel centres lie at +0.5; OpenCV's maps count from the first one, hence `to_opencv` where a map is built.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Num, UInt8

from gaussianocc_core.errors import CalibrationError
from gaussianocc_core.geometry.calibration import find_fault
from gaussianocc_core.geometry.lens import fold_radius, project_rays
from gaussianocc_core.geometry.pixel_centers import PIXEL_CENTER, to_opencv
from gaussianocc_core.types import EQUIDISTANT, Cameras

DEFAULT_FISHEYE_FOV_DEG = 110.0
# A remap reads 2x2 source pixels; beyond this reduction the source is area-averaged first, or fine texture aliases.
_MAX_REMAP_REDUCTION = 1.5
# An image that is only resized keeps so many pixels for each one of the output, or the average of few would be uneven.
_LEAST_OVERSAMPLING = 1.15
_NOTABLE_LOSS = 0.03  # of the source pixels; less is the rim that any undistortion cuts off

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Remap:
    reduction: tuple[int, int]  # size (width, height) that the source is area-averaged to before the remap
    map_x: Float[np.ndarray, "h w"]
    map_y: Float[np.ndarray, "h w"]


class Rectifier:
    """Rectifies the images of one rig to pinhole images of width x height pixels.

    `cameras` describes the output (pinhole, no distortion), `valid_mask` (N, height, width) is true where a pixel has a
    source of its own (coefficients fitted to less than the image can fold its rim over what lies inside), `lost_share`
    is, per camera, the share of source pixels that the output does not show; it is logged.
    Pinhole lenses keep their focal lengths, scaled, and so without distortion their field of view; what a barrel
    distortion draws in from outside of it is lost: with k1 = -0.32, 26 to 52 % of 1280x720 pixels at fx 900 to 600.
    Equidistant lenses get `fisheye_fov_deg` horizontally and square pixels.
    """

    def __init__(
        self, cameras: Cameras, width: int, height: int, fisheye_fov_deg: float = DEFAULT_FISHEYE_FOV_DEG
    ) -> None:
        if not 10.0 <= fisheye_fov_deg <= 160.0:
            raise ValueError(f"fisheye_fov_deg: expected 10 to 160 degrees, got {fisheye_fov_deg}")
        self.source = cameras
        self._remaps: list[_Remap | None] = []
        intrinsics, masks, lost = [], [], []
        for i, name in enumerate(cameras.names):
            K = cameras.intrinsics[i].detach().cpu().double().numpy()
            _check_calibration(name, K, cameras.model[i], cameras.distortion[i])
            source_size = (cameras.width[i], cameras.height[i])
            if cameras.model[i] == EQUIDISTANT:
                focal = 0.5 * width / np.tan(np.radians(fisheye_fov_deg) / 2)
                K_new = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
            else:
                K_new = K * np.array([[width / source_size[0]], [height / source_size[1]], [1.0]])
            remap, lost_share = None, 0.0
            mask: Any = np.ones((height, width), dtype=bool)
            if cameras.model[i] == EQUIDISTANT or any(cameras.distortion[i]):
                pixels = self._source_pixels(K, cameras.model[i], cameras.distortion[i], K_new, width, height)
                unique = _unfolded(cameras.model[i], cameras.distortion[i], K_new, pixels)
                mask = ((pixels >= 0) & (pixels < source_size)).all(axis=-1) & unique
                pixels = np.where(unique[..., None], pixels, -2.0 * max(source_size))  # nothing is read for the others
                remap = _build_remap(pixels, source_size)
                lost_share = 1.0 - _covered_share(pixels, mask, source_size)
            self._remaps.append(remap)
            intrinsics.append(K_new)
            masks.append(mask)
            lost.append(lost_share)
        count = len(cameras)
        self.cameras = Cameras(
            names=cameras.names,
            intrinsics=torch.from_numpy(np.stack(intrinsics)).float(),
            T_ego_cam=cameras.T_ego_cam.float(),
            width=(width,) * count,
            height=(height,) * count,
        )
        self.valid_mask: Bool[np.ndarray, "N h w"] = np.stack(masks)
        self.lost_share: tuple[float, ...] = tuple(lost)
        self._report_losses()

    def _report_losses(self) -> None:
        for name, model, share in zip(self.source.names, self.source.model, self.lost_share, strict=True):
            if share <= _NOTABLE_LOSS:
                continue
            if model == EQUIDISTANT:  # chosen with the field of view, and no pinhole shows all of a wide fisheye
                _log.info("camera %s: the rectified view leaves out %.0f %% of the fisheye's pixels", name, 100 * share)
            else:
                _log.warning(
                    "camera %s: undistorting at its focal length leaves out %.0f %% of the pixels", name, 100 * share
                )

    @staticmethod
    def _source_pixels(
        K: np.ndarray, model: str, distortion: tuple[float, ...], K_new: np.ndarray, width: int, height: int
    ) -> Float[np.ndarray, "h w 2"]:
        """Where in the source image (pixel centres +0.5) each output pixel comes from."""
        u, v = np.meshgrid(np.arange(width) + PIXEL_CENTER, np.arange(height) + PIXEL_CENTER)
        rays = np.stack([u, v, np.ones_like(u)], axis=-1).reshape(-1, 3) @ np.linalg.inv(K_new).T
        pixels = project_rays(K, model, distortion, rays)
        return pixels.reshape(height, width, 2)

    def rectify(self, index: int, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """The image of camera `index`, rectified and resized. Its size may be any reduction of the calibrated one,
        because JPEG decoders can shrink on the way."""
        return self._mix(index, image, cv2.BORDER_CONSTANT)

    def _mix(self, index: int, image: UInt8[np.ndarray, "H W *_"], border: int) -> UInt8[np.ndarray, "h w *_"]:
        width, height = self.cameras.width[index], self.cameras.height[index]
        remap = self._remaps[index]
        if remap is None:
            if image.shape[:2] == (height, width):
                return image
            shrinks = image.shape[0] >= height and image.shape[1] >= width
            return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        if (image.shape[1], image.shape[0]) != remap.reduction:
            image = cv2.resize(image, remap.reduction, interpolation=cv2.INTER_AREA)
        return cv2.remap(image, remap.map_x, remap.map_y, cv2.INTER_LINEAR, borderMode=border)

    def reduction(self, index: int) -> int:
        """1, 2, 4 or 8: by how much a decoder may shrink images of camera `index` on the way without a loss here."""
        if (remap := self._remaps[index]) is None:
            needed = [_LEAST_OVERSAMPLING * size for size in (self.cameras.width[index], self.cameras.height[index])]
        else:
            needed = list(remap.reduction)
        ratio = min(self.source.width[index] / needed[0], self.source.height[index] / needed[1])
        return max((r for r in (2, 4, 8) if r <= ratio), default=1)

    def rectify_labels(self, index: int, labels: Num[np.ndarray, "H W"], fill: int) -> Num[np.ndarray, "h w"]:
        """The label (or true depth) image of camera `index` by nearest neighbour; `fill` where it has no source."""
        width, height = self.cameras.width[index], self.cameras.height[index]
        remap = self._remaps[index]
        if remap is None:
            return cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        labels = cv2.resize(labels, remap.reduction, interpolation=cv2.INTER_NEAREST_EXACT)
        return cv2.remap(
            labels, remap.map_x, remap.map_y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=fill
        )

    def rectify_mask(self, index: int, mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "h w"]:
        """Which pixels of the output show nothing but what `mask`, at native size, is true for.

        A pixel of the network's image is a mixture of many native ones. It counts only if all of them do: one that is
        partly the robot shows a colour that nothing in the world has, at a depth that moves with the robot. A mask that
        is true everywhere changes nothing, whatever the lens.
        """
        width, height = self.source.width[index], self.source.height[index]
        if mask.shape != (height, width):
            got = "x".join(map(str, mask.shape[::-1]))
            raise CalibrationError(
                f"camera {self.source.names[index]}: its mask has {got} pixels, its images {width}x{height}; "
                "make it anew (tools/make_masks.py)"
            )
        pixels = np.asarray(mask, dtype=np.bool_).astype(np.uint8) * np.uint8(255)
        # Beyond its border an image is black. A mask goes on as it ends: what has no source is `valid_mask`'s to say.
        return self._mix(index, pixels, cv2.BORDER_REPLICATE) == 255

    def _check_image(self, index: int, image: Any) -> None:
        width, height = self.source.width[index], self.source.height[index]
        good = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        # A reduced decode rounds each side up, so the aspect may be off by a pixel.
        if not good or abs(image.shape[0] * width - image.shape[1] * height) > max(width, height):
            got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ValueError(
                f"images: camera {self.source.names[index]} expects uint8 RGB of shape ({height}, {width}, 3) or a "
                f"reduction of it, got {got}"
            )

    def __call__(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> UInt8[np.ndarray, "N h w 3"]:
        if len(images) != len(self.source):
            raise ValueError(f"images: expected {len(self.source)}, one per camera, got {len(images)}")
        for i, image in enumerate(images):
            self._check_image(i, image)
        return np.stack([self.rectify(i, image) for i, image in enumerate(images)])


def _check_calibration(name: str, K: np.ndarray, model: str, distortion: tuple[float, ...]) -> None:
    fault = find_fault(intrinsics=K, model=model, distortion=distortion)
    if fault is not None:
        got = {"intrinsics": K.tolist(), "model": model, "distortion": list(distortion)}[fault.field]
        raise CalibrationError(
            f"camera {name}: {fault.field}: expected {fault.expected}, got {got}; check its CameraInfo or rig file"
        )


def _unfolded(
    model: str, distortion: tuple[float, ...], K_new: np.ndarray, pixels: Float[np.ndarray, "h w 2"]
) -> Bool[np.ndarray, "h w"]:
    """Output pixels whose direction the lens model maps to a place of its own; beyond, it shows something twice."""
    height, width = pixels.shape[:2]
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    radius = np.hypot((u - K_new[0, 2]) / K_new[0, 0], (v - K_new[1, 2]) / K_new[1, 1])
    if model == EQUIDISTANT:
        radius = np.arctan(radius)
    largest = float(radius.max())
    limit = fold_radius(model, distortion, largest)
    unique = np.ones_like(radius, dtype=bool) if limit >= largest else radius < limit
    if min(width, height) > 1:  # tangential coefficients, prism and tilt of nonsense turn it over
        (x_v, x_u), (y_v, y_u) = np.gradient(pixels[..., 0]), np.gradient(pixels[..., 1])
        unique &= x_u * y_v > x_v * y_u
    return unique


def _build_remap(pixels: Float[np.ndarray, "h w 2"], source_size: tuple[int, int]) -> _Remap:
    # Where a pixel or the one beside it has no source, the step between them is none.
    known = pixels[..., 0] > -max(source_size)
    step_x = _median_step(pixels[..., 0], known, axis=1)
    step_y = _median_step(pixels[..., 1], known, axis=0)
    factors = [max(1.0, step / _MAX_REMAP_REDUCTION) for step in (step_x, step_y)]
    reduction = (max(1, round(source_size[0] / factors[0])), max(1, round(source_size[1] / factors[1])))
    scale = np.array([reduction[0] / source_size[0], reduction[1] / source_size[1]])
    maps = to_opencv(pixels * scale).astype(np.float32)
    return _Remap(reduction, np.ascontiguousarray(maps[..., 0]), np.ascontiguousarray(maps[..., 1]))


def _median_step(values: np.ndarray, known: np.ndarray, axis: int) -> float:
    steps = np.abs(np.diff(values, axis=axis))
    both = known[:, 1:] & known[:, :-1] if axis == 1 else known[1:] & known[:-1]
    return float(np.median(steps[both])) if both.any() else 1.0


def _covered_share(
    pixels: Float[np.ndarray, "h w 2"], mask: Bool[np.ndarray, "h w"], source_size: tuple[int, int]
) -> float:
    """Share of the source image inside the outline of the output's pixels."""
    area = np.zeros((source_size[1], source_size[0]), dtype=np.uint8)
    if (pixels < -max(source_size)).any():  # a lens that folds: its outline would be that of the fold
        if mask.any():
            cv2.fillConvexPoly(area, cv2.convexHull(pixels[mask].astype(np.int32)), 1)
        return float(area.mean())
    outline = np.concatenate([pixels[0], pixels[1:, -1], pixels[-1, -2::-1], pixels[-2:0:-1, 0]])
    outline = np.clip(outline, [0, 0], [source_size[0] - 1, source_size[1] - 1])
    cv2.fillPoly(area, [outline.astype(np.int32)], 1)
    return float(area.mean()) if mask.any() else 0.0
