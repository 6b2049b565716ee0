# SPDX-License-Identifier: Apache-2.0
"""What carving knows of one set of images: as it was seen, and the rays that depth makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from gaussianocc_core.labels import IGNORE
from gaussianocc_core.preprocess import Lenses
from gaussianocc_core.types import Cameras, Sample


@dataclass(frozen=True)
class SeenSet:
    """One set at the network's size. The ego frame is that of the anchor camera's image."""

    token: str
    stamp_s: float  # of the anchor camera's image
    pixels: UInt8[np.ndarray, "N H W 3"]  # RGB, rectified
    lenses: Lenses
    calibrated: Cameras  # as the rig has them, native size
    lags: Float[np.ndarray, " N"]  # s from the anchor's image to each camera's
    classes: UInt8[np.ndarray, "N H W"] | None  # Occ3D ids, 17 is sky, 255 no label
    T_world_ego: Float[np.ndarray, "4 4"] | None  # by the recording, m
    T_world_ego_per_camera: Float[np.ndarray, "N 4 4"] | None  # the same at each image's own time
    T_world_labels: Float[np.ndarray, "4 4"] | None = None  # of true labels, where there are any: for measuring

    @property
    def valid(self) -> Bool[np.ndarray, "N H W"]:
        """Pixels that show the world."""
        return self.lenses.valid_mask


def see(sample: Sample, lenses: Lenses) -> SeenSet:
    """lenses: the preprocessor's of the sample's cameras and masks."""
    classes = None
    if sample.semantics is not None:
        classes = np.stack(
            [lenses.rectifier.rectify_labels(n, each, IGNORE) for n, each in enumerate(sample.semantics)]
        )
    stamps = np.array(sample.camera_stamps_ns or (sample.stamp_ns,) * len(sample.cameras))
    labels = None if sample.occupancy is None else sample.occupancy.T_world_ego
    return SeenSet(
        token=sample.token,
        stamp_s=1e-9 * sample.stamp_ns,
        pixels=lenses.rectify(sample.images),
        lenses=lenses,
        calibrated=sample.cameras,
        lags=1e-9 * (stamps - sample.stamp_ns).astype(np.float64),
        classes=classes,
        T_world_ego=sample.T_world_ego,
        T_world_ego_per_camera=sample.T_world_ego_per_camera,
        T_world_labels=labels,
    )


@dataclass(frozen=True)
class DepthMaps:
    """z-depth of every camera of a set, and how far off it may be; maps of any one size."""

    depth: Float[np.ndarray, "N h w"]  # m, float32; 0: unknown
    log_error: Float[np.ndarray, "N h w"]  # log of the expected error of log depth, float32


@dataclass(frozen=True)
class PlacedSet:
    """A set whose motion is known: all that matching needs of it."""

    seen: SeenSet
    cameras: Cameras  # pinholes at the network's size, each where it was at its own image time, float32
    T_world_ego: Float[np.ndarray, "4 4"]  # m, in a frame that stands still as long as `run` is the same
    run: int  # between sets of different runs the motion is not known


@dataclass(frozen=True)
class RaySet:
    """The rays of one set. Arrays are (N, h, w): see `geometry.ray_counts.add_rays`."""

    token: str
    stamp_s: float
    T_world_ego: Float[np.ndarray, "4 4"]
    run: int
    T_ego_cam: Float[np.ndarray, "N 4 4"]
    lenses: Float[np.ndarray, "N 4"]  # focal lengths and centre (fx, fy, cx, cy), px of these maps
    depth: Float[np.ndarray, "N h w"]  # m: where a ray ends; of one that ends nowhere, how far it passes
    half: Float[np.ndarray, "N h w"]  # m: it ends within depth -+ half; 0: nowhere
    weight: Float[np.ndarray, "N h w"]  # 0: the ray says nothing
    classes: UInt8[np.ndarray, "N h w"]  # of what it ends on, 255: not known
    T_ego_labels: Float[np.ndarray, "4 4"] | None = None  # of true labels, where there are any: for measuring


__all__ = ["DepthMaps", "PlacedSet", "RaySet", "SeenSet", "see"]
