# SPDX-License-Identifier: Apache-2.0
"""What a calibration says that no camera on a robot is: each doubt with its size and with what to do about it.

The one place for such judgements, for inspection, training and the node alike. `refuse_intrinsics` raises where a
calibration cannot be meant; everything else is a doubt, because there are robots of every kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gaussianocc_core.errors import CalibrationError
from gaussianocc_core.geometry.lens import fold_radius
from gaussianocc_core.types import EQUIDISTANT, Cameras

IDENTITY, PRINCIPAL_POINT, PIXEL_SHAPE, FIELD_OF_VIEW, FOLD = "identity K", "principal point", "pixels", "view", "fold"
BODY_FRAME, FAR_AWAY, SAME_PLACE = "body frame", "far away", "same place"

_OFF_CENTRE = 0.2  # of the image's size; lenses are centred to a few percent
_SQUARE = 1.25  # ratio of fx to fy beyond which pixels are not square
_WIDEST_DEG, _NARROWEST_DEG = 140.0, 8.0  # horizontal field of view of a pinhole
_FISHEYE_ANGLE = float(np.radians(55.0))  # from its axis, about what a rectified view of 110 degrees shows
_NOTABLE_FOLD = 0.01  # of the image's pixels
_FARTHEST_M = 25.0  # from the ego frame; trucks are shorter
_SAME_PLACE_M = 1e-3
_UP = 0.9  # cosine to the ego frame's z axis, of what looks at the sky
_SAME_SCALE = 1.15  # ratio of two factors that are one


@dataclass(frozen=True)
class Doubt:
    """One thing that is hard to believe of one camera."""

    camera: str
    kind: str  # one of the constants above
    text: str  # what, how much, and what to do

    def __str__(self) -> str:
        return f"camera {self.camera}: {self.text}"


def refuse_intrinsics(camera: str, K: Float[np.ndarray, "3 3"], width: int, height: int) -> None:
    """CalibrationError where nobody calibrated the camera: K is the identity, or next to it."""
    if max(K[0, 0], K[1, 1]) <= 2.0 and min(width, height) > 8:
        raise CalibrationError(
            f"camera {camera}: K is the identity (fx {K[0, 0]:g}, fy {K[1, 1]:g} pixels of {width}x{height}), which "
            "drivers publish that were never calibrated: calibrate the camera or use rig_file"
        )


def find_doubts(cameras: Cameras, frames: Mapping[str, str] | None = None) -> tuple[Doubt, ...]:
    """Of a rig's lenses and places. frames: camera -> its frame in TF, for the words."""
    found: list[Doubt] = []
    for i, name in enumerate(cameras.names):
        K = cameras.intrinsics[i].detach().cpu().double().numpy()
        found += _doubt_lens(name, K, (cameras.width[i], cameras.height[i]), cameras.model[i], cameras.distortion[i])
        T = cameras.T_ego_cam[i].detach().cpu().double().numpy()
        found += _doubt_place(name, T, (frames or {}).get(name, ""))
    return (*found, *_doubt_neighbours(cameras))


def _doubt_lens(
    name: str, K: np.ndarray, size: tuple[int, int], model: str, distortion: tuple[float, ...]
) -> list[Doubt]:
    found = []
    focal, centre, extent = np.diag(K)[:2], K[:2, 2], np.array(size, dtype=np.float64)
    offset = (centre - extent / 2) / extent
    if (np.abs(offset) > _OFF_CENTRE).any():
        found.append(
            Doubt(
                name,
                PRINCIPAL_POINT,
                f"its principal point ({centre[0]:.0f}, {centre[1]:.0f}) lies {100 * np.abs(offset).max():.0f} % of "
                f"the image off the middle of {size[0]}x{size[1]} pixels{_say_scale(centre, extent)}",
            )
        )
    if not 1 / _SQUARE < focal[0] / focal[1] < _SQUARE:
        found.append(
            Doubt(
                name,
                PIXEL_SHAPE,
                f"its focal lengths are {focal[0]:.0f} and {focal[1]:.0f} pixels, as of pixels that are not square: "
                "was the image squeezed after the calibration?",
            )
        )
    if model != EQUIDISTANT:
        view = float(np.degrees(2 * np.arctan(extent[0] / 2 / focal[0])))
        if not _NARROWEST_DEG < view < _WIDEST_DEG:
            found.append(
                Doubt(
                    name,
                    FIELD_OF_VIEW,
                    f"it sees {view:.0f} degrees by its focal length of {focal[0]:.0f} pixels for {size[0]}: is K that "
                    "of another resolution, or the lens a fisheye?",
                )
            )
    folded, radius = _folded_share(K, size, model, distortion)
    if folded > _NOTABLE_FOLD:
        angle = np.degrees(radius if model == EQUIDISTANT else np.arctan(radius))
        found.append(
            Doubt(
                name,
                FOLD,
                f"beyond {angle:.0f} degrees from its axis its lens model folds over the inside; {100 * folded:.0f} "
                "% of an image of its focal length are masked: calibrate with views up to the corners",
            )
        )
    return found


def _say_scale(centre: np.ndarray, extent: np.ndarray) -> str:
    """Which size would have this principal point in the middle, where that is the image's by a common factor."""
    if centre.min() <= 0:
        return ": is it the image of this calibration?"
    factors = 2 * centre / extent
    if max(factors) / min(factors) > _SAME_SCALE:
        return ": is it the image of this calibration? An image that was cropped needs the crop in the CameraInfo's roi"
    other = np.round(2 * centre).astype(int)
    return (
        f": it is about the middle of {other[0]}x{other[1]}, so K is that of another resolution or binning; scale K "
        "and the CameraInfo's size to the image, or set its binning once"
    )


def _folded_share(
    K: np.ndarray, size: tuple[int, int], model: str, distortion: tuple[float, ...]
) -> tuple[float, float]:
    """Share of an image of this K beyond the fold, and where that is; of a fisheye only where rectified views look,
    because what lies farther out is often not in its circle at all."""
    u, v = np.meshgrid(np.linspace(0, size[0], 41), np.linspace(0, size[1], 41))
    radius = np.hypot((u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1])
    largest = float(radius.max())
    if model == EQUIDISTANT:
        largest = min(largest, _FISHEYE_ANGLE)
    limit = fold_radius(model, distortion, largest) if any(distortion) else largest
    return (0.0 if limit >= largest else float((radius > limit).mean())), limit


def _doubt_place(name: str, T_ego_cam: np.ndarray, frame: str) -> list[Doubt]:
    found = []
    right, _, ahead = T_ego_cam[2, :3]  # how far each of the camera's axes points up
    of = f"its frame {frame}" if frame else "its frame"
    if ahead > _UP and abs(right) < 1 - _UP:
        stem = frame.removesuffix("_link").removesuffix("_frame")
        wanted = f" ({stem}_optical_frame)" if stem and "optical" not in stem else ""
        found.append(
            Doubt(
                name,
                BODY_FRAME,
                f"it looks at the sky: {of} has the axes of a body (x forward, z up), not those of an image (z "
                f"forward, y down); name the optical frame in CameraInfo{wanted}, or publish one, turned by roll "
                "-90, pitch 0, yaw -90 degrees",
            )
        )
    distance = float(np.linalg.norm(T_ego_cam[:3, 3]))
    if distance > _FARTHEST_M:
        in_mm = f"; in millimetres it would be {distance / 1000:.2f} m" if distance < 1000 * _FARTHEST_M else ""
        found.append(
            Doubt(name, FAR_AWAY, f"it stands {distance:.0f} m from the robot's frame{in_mm}: TF is in metres")
        )
    return found


def _doubt_neighbours(cameras: Cameras) -> list[Doubt]:
    places = cameras.T_ego_cam[:, :3, 3].detach().cpu().double().numpy()
    found = []
    for j in range(len(places)):
        same = [cameras.names[i] for i in range(j) if np.linalg.norm(places[i] - places[j]) < _SAME_PLACE_M]
        if same:
            found.append(
                Doubt(
                    cameras.names[j],
                    SAME_PLACE,
                    f"it stands where {', '.join(same)} does, 0 m apart: no scale comes from what both see; are they "
                    "the two of a stereo camera, whose distance stands in P[3] and not in TF? Give each its own frame",
                )
            )
    return found
