# SPDX-License-Identifier: Apache-2.0
"""From the native images of a rig to what the networks see: the one way for node, training, evaluation and onboarding.

Rectified images, the pixels of them that count, and the pinhole cameras they belong to follow from a rig's lenses and
masks alone; they are made once and remembered by the rig's key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from gaussianocc_core.geometry.pixel_centers import to_opencv
from gaussianocc_core.geometry.rectify import DEFAULT_FISHEYE_FOV_DEG, Rectifier
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.types import Cameras

# A mask per camera at native size, true where it does not see the robot itself; None: it sees the world everywhere.
Masks = Sequence[Bool[np.ndarray, "_ _"] | None]

_RIGS_KEPT = 32  # a data set of many vehicles comes back to each in any order; 3 MB each where lenses distort
_Value = TypeVar("_Value")


def rig_key(cameras: Cameras, masks: Masks | Bool[Tensor, "N _ _"] | None = None, places: bool = True) -> bytes:
    """Equal for rigs with equal names, sizes and lenses, places on the robot (where asked for) and masks.

    masks: at native or at the network's size; None, of all or of one camera, stands for no mask.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((cameras.names, cameras.width, cameras.height, cameras.model, cameras.distortion)).encode())
    # As float64: a calibration of float32 is the same rig in both.
    for values in (cameras.intrinsics, cameras.T_ego_cam) if places else (cameras.intrinsics,):
        digest.update(values.detach().cpu().double().numpy().tobytes())
    arrays = masks.cpu().numpy() if isinstance(masks, Tensor) else masks
    for i, mask in enumerate(() if arrays is None else arrays):
        if mask is not None:
            digest.update(repr((i, mask.shape)).encode())
            digest.update(np.packbits(mask).tobytes())
    return digest.digest()


class RigCache(Generic[_Value]):
    """What follows from a rig, by its key; only that of the rigs which were asked for last is kept."""

    def __init__(self, kept: int = _RIGS_KEPT) -> None:
        self.kept = kept
        self._known: dict[bytes, _Value] = {}  # the rig that was asked for last comes last

    def find(self, key: bytes, make: Callable[[], _Value]) -> _Value:
        value = self._known.pop(key) if key in self._known else make()
        self._known[key] = value
        while len(self._known) > self.kept:
            del self._known[next(iter(self._known))]
        return value


@dataclass(frozen=True, eq=False)
class Lenses:
    """What follows from the lenses and masks of a rig, wherever its cameras are."""

    rectifier: Rectifier
    valid_mask: Bool[np.ndarray, "N h w"]  # pixels that have a source and show nothing of the robot; read-only

    def rectify(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> UInt8[np.ndarray, "N h w 3"]:
        """RGB at the network's size; ValueError names a camera whose image does not fit."""
        return self.rectifier(images)

    def views(self, T_ego_cam: Float[Tensor, "N 4 4"]) -> Cameras:
        """The pinhole cameras of the rectified images, float32, at these places (m)."""
        return replace(self.rectifier.cameras, T_ego_cam=T_ego_cam.float())


class Preprocessor:
    """`preprocess(cameras, masks)` -> the Lenses of a rig at the network's size, made once. Picklable, for workers."""

    def __init__(
        self,
        width: int,
        height: int,
        fisheye_fov_deg: float = DEFAULT_FISHEYE_FOV_DEG,
        intrinsics_as_recorded: bool = False,
    ) -> None:
        """width, height: px of the network's images; fisheye_fov_deg: see `Rectifier`; the last: see `Quirks`."""
        self.width, self.height, self.fisheye_fov_deg = width, height, fisheye_fov_deg
        self.intrinsics_as_recorded = intrinsics_as_recorded
        self._lenses: RigCache[Lenses] = RigCache()

    @classmethod
    def of(cls, config: ModelConfig) -> Preprocessor:
        """As the networks of this configuration want it."""
        recorded = config.quirks.intrinsics_as_recorded
        return cls(config.image_width, config.image_height, config.fisheye_fov_deg, recorded)

    def __call__(self, cameras: Cameras, masks: Masks | None = None) -> Lenses:
        """CalibrationError names a camera whose calibration cannot be used or whose mask is of another size."""
        return self._lenses.find(rig_key(cameras, masks, places=False), lambda: self._make(cameras, masks))

    def _make(self, cameras: Cameras, masks: Masks | None) -> Lenses:
        if self.intrinsics_as_recorded:
            cameras = replace(cameras, intrinsics=to_opencv(cameras.intrinsics))
        rectifier = Rectifier(cameras, self.width, self.height, self.fisheye_fov_deg)
        valid = rectifier.valid_mask.copy()
        for i, mask in enumerate(masks or ()):
            if mask is not None:
                valid[i] &= rectifier.rectify_mask(i, mask)
        valid.setflags(write=False)  # everyone who meets this rig gets it
        return Lenses(rectifier, valid)
