# SPDX-License-Identifier: Apache-2.0
"""A synchronised set of messages -> pixels and cameras as the predictor takes them, and what is to be done without."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from gaussianocc_core.bags.messages import ImageError, WaitsForKeyframe
from gaussianocc_core.data.sets import SynchronizedSet
from gaussianocc_core.types import Cameras
from gaussianocc_ros.camera_rig import CameraRig, CameraUnusable
from gaussianocc_ros.decoding import DecodedImage, ImageDecoder
from gaussianocc_ros.diagnostics import NodeStatistics

NO_IMAGE = "no image"  # why a camera is left out that the set came without: the SetBuilder has counted it


@dataclass(frozen=True)
class LeftOut:
    """Why a set goes without a camera."""

    reason: str  # what it is counted under
    text: str  # for the user; names the camera


@dataclass(frozen=True)
class Gathered:
    """One set, ready to predict. Mappings are by camera; those of images have the keys `cameras.names`, in its order.

    For what looks back in time: `stamp_ns` and `T_fixed_ego` say when and where the ego frame was, `cameras.T_ego_cam`
    and `stamps_ns` the same of each image, and `continues` whether earlier sets belong to the same drive.
    """

    stamp_ns: int  # of the anchor's image
    images: tuple[np.ndarray, ...]  # (h, w, 3) uint8 RGB; may be shrunk by the predictor's `reductions`
    cameras: Cameras  # float64; T_ego_cam maps from each camera at its own image time to ego at the anchor's, m
    stamps_ns: Mapping[str, int]  # of the images
    frames: Mapping[str, str]  # frame ids of the images
    left_out: Mapping[str, LeftOut]  # every other configured camera
    T_fixed_ego: np.ndarray | None  # (4, 4) ego in the fixed frame at `stamp_ns`; None where TF did not have it
    motion_problem: str  # why motion between the images was not compensated; "" if it was, or needed not be
    continues: bool  # False for the first set, and for one before which stamps stepped back


class Gatherer:
    """For one thread. What becomes of a set of which a camera cannot be used is decided here."""

    def __init__(
        self,
        cameras: tuple[str, ...],
        decoder: ImageDecoder,
        rig: CameraRig,
        reductions: Callable[[Cameras], Mapping[str, int]],
        statistics: NodeStatistics,
        degrades: bool,
    ) -> None:
        """reductions: of the predictor; degrades: sets are made do with the cameras that can be used, else dropped."""
        self._cameras, self._decoder, self._rig = cameras, decoder, rig
        self._reductions, self._statistics, self._degrades = reductions, statistics, degrades
        self._rewinds: int | None = None  # when the last set was gathered

    @property
    def mounted(self) -> Cameras | None:
        """The last set's cameras as they are mounted; another object for another calibration."""
        return self._rig.mounted

    def gather(self, newest: SynchronizedSet) -> Gathered:
        """CameraUnusable if the set is to be dropped: for the first camera that cannot be used, or, where sets degrade,
        if none can."""
        with self._statistics.timed("decode"):
            images, failures = self._decode(newest)
        stamps = {camera: newest.stamps_ns[camera] for camera in images}
        with self._statistics.timed("calibrate"):
            placed = self._rig.lookup(newest.stamp_ns, stamps, lenient=self._degrades)
        unfit = {**placed.left_out, **_misfits(placed.cameras, images)}
        names = tuple(name for name in placed.cameras.names if name not in unfit)
        if unfit and not (self._degrades and names):
            raise next(iter(unfit.values()))
        failures |= unfit
        cameras = placed.cameras if names == placed.cameras.names else placed.cameras.select(names)
        self._decoder.reduce_to(self._reductions(cameras))
        continues, self._rewinds = newest.rewinds == self._rewinds, newest.rewinds
        return Gathered(
            stamp_ns=newest.stamp_ns,
            images=tuple(images[camera].pixels for camera in names),
            cameras=cameras,
            stamps_ns={camera: stamps[camera] for camera in names},
            frames={camera: placed.frames[camera] for camera in names},
            left_out={camera: _left_out(camera, failures) for camera in self._cameras if camera not in names},
            T_fixed_ego=placed.T_fixed_ego,
            motion_problem=placed.motion_problem,
            continues=continues,
        )

    def _decode(self, newest: SynchronizedSet) -> tuple[dict[str, DecodedImage], dict[str, CameraUnusable]]:
        """Camera -> image, and camera -> why it has none."""
        images, failed = self._decoder.finish(newest.items)
        failures = {c: CameraUnusable(_kind_of(error), f"camera {c}: {error}") for c, error in failed.items()}
        if failures and not (self._degrades and images):
            raise next(iter(failures.values()))
        return images, failures


def _kind_of(error: ImageError) -> str:
    return "waits for a keyframe" if isinstance(error, WaitsForKeyframe) else "undecodable image"


def _misfits(cameras: Cameras, images: Mapping[str, DecodedImage]) -> dict[str, CameraUnusable]:
    """The cameras whose images are not of their calibration's size."""
    found = {}
    for camera, width, height in zip(cameras.names, cameras.width, cameras.height, strict=True):
        image = images[camera]
        if not image.fits(width, height):
            rows, columns = (image.reduce * side for side in image.pixels.shape[:2])
            text = f"camera {camera}: image is {columns}x{rows}, its calibration {width}x{height}"
            found[camera] = CameraUnusable("image size", text)
    return found


def _left_out(camera: str, failures: Mapping[str, CameraUnusable]) -> LeftOut:
    if camera in failures:
        return LeftOut(failures[camera].reason, str(failures[camera]))
    return LeftOut(NO_IMAGE, f"{camera}: no image within the slop")
