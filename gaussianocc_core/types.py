# SPDX-License-Identifier: Apache-2.0
"""The nouns of the project: frozen dataclasses with checks and `.to()`, no behaviour beyond that.

Frames: `ego` is ROS base_link (x forward, y left, z up, metres); `cam` is optical (x right, y down, z forward).
`T_a_b` maps points from frame b to frame a. Pixel centres lie at +0.5: the top left pixel covers [0, 1) x [0, 1).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from gaussianocc_core.names import check_names

PINHOLE = "pinhole"
EQUIDISTANT = "equidistant"
CAMERA_MODELS = (PINHOLE, EQUIDISTANT)


@dataclass(frozen=True)
class Cameras:
    """N calibrated cameras of one rig at one moment, addressed by name.

    `model[i]` is "pinhole" or "equidistant" (Kannala-Brandt, ROS `equidistant`); `distortion[i]` holds OpenCV's
    coefficients in OpenCV's order (pinhole: 0, 4, 5, 8, 12 or 14, rational from 8 on, with thin prism and tilt from 12
    on; equidistant: 0 or 4).
    """

    names: tuple[str, ...]
    intrinsics: Float[Tensor, "*batch N 3 3"]  # pixels of the image of this width and height
    T_ego_cam: Float[Tensor, "*batch N 4 4"]  # metres
    width: tuple[int, ...]
    height: tuple[int, ...]
    model: tuple[str, ...] = ()  # () means all pinhole
    distortion: tuple[tuple[float, ...], ...] = ()  # () means none

    def __post_init__(self) -> None:
        count = len(self.names)
        object.__setattr__(self, "model", self.model or (PINHOLE,) * count)
        object.__setattr__(self, "distortion", self.distortion or ((),) * count)
        if len(set(self.names)) != count:
            raise ValueError(f"names: camera names must be unique, got {list(self.names)}")
        check_names(self.names, "names: camera", ValueError)
        for name, value, tail in (
            ("intrinsics", self.intrinsics, (count, 3, 3)),
            ("T_ego_cam", self.T_ego_cam, (count, 4, 4)),
        ):
            if tuple(value.shape[-3:]) != tail:
                raise ValueError(f"{name}: expected (..., {', '.join(map(str, tail))}), got {tuple(value.shape)}")
        for name in ("width", "height", "model", "distortion"):
            if len(getattr(self, name)) != count:
                raise ValueError(f"{name}: expected {count} entries, one per camera, got {len(getattr(self, name))}")
        for camera, model in zip(self.names, self.model, strict=True):
            if model not in CAMERA_MODELS:
                raise ValueError(f"model: camera {camera} has {model!r}, expected one of {CAMERA_MODELS}")

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Cameras:
        return replace(
            self,
            intrinsics=self.intrinsics.to(device=device, dtype=dtype),
            T_ego_cam=self.T_ego_cam.to(device=device, dtype=dtype),
        )

    def select(self, names: tuple[str, ...]) -> Cameras:
        """The named cameras in the given order; KeyError names the ones that are absent."""
        missing = [name for name in names if name not in self.names]
        if missing:
            raise KeyError(f"cameras {missing} are not among {list(self.names)}")
        index = [self.names.index(name) for name in names]
        return Cameras(
            names=tuple(names),
            intrinsics=self.intrinsics[..., index, :, :],
            T_ego_cam=self.T_ego_cam[..., index, :, :],
            width=tuple(self.width[i] for i in index),
            height=tuple(self.height[i] for i in index),
            model=tuple(self.model[i] for i in index),
            distortion=tuple(self.distortion[i] for i in index),
        )


@dataclass(frozen=True)
class VoxelGrid:
    """Uniform voxels in the ego frame: what is published and evaluated. Arrays over it are (X, Y, Z)."""

    origin: tuple[float, float, float] = (-40.0, -40.0, -1.0)  # low corner of voxel (0, 0, 0), m
    voxel_size: float = 0.4  # m
    shape: tuple[int, int, int] = (200, 200, 16)  # X, Y, Z

    def __post_init__(self) -> None:
        if not self.voxel_size > 0:
            raise ValueError(f"voxel_size: expected a positive length in metres, got {self.voxel_size}")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"shape: expected three positive counts X, Y, Z, got {self.shape}")

    @property
    def upper(self) -> tuple[float, float, float]:
        """High corner of the last voxel, m."""
        low, size = self.origin, self.voxel_size
        return (low[0] + self.shape[0] * size, low[1] + self.shape[1] * size, low[2] + self.shape[2] * size)


@dataclass(frozen=True)
class Lattice:
    """The sample points of the network's volume in the ego frame; arrays over it are (X, Y, Z).

    Without `contraction` the points are the centres of equal cells between `low` and `high`. With it they are the
    vertices of the published contracted lattice (docs/method.md#b.1): the inner share `contraction` of each axis maps
    linearly onto low..high, the rest reaches out towards infinity.
    """

    low: tuple[float, float, float]  # m
    high: tuple[float, float, float]  # m
    shape: tuple[int, int, int]  # X, Y, Z
    contraction: float | None = None  # share of each axis that is linear, e.g. 0.66667

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 2:
            raise ValueError(f"shape: expected three counts X, Y, Z of at least 2, got {self.shape}")
        if any(a >= b for a, b in zip(self.low, self.high, strict=True)):
            raise ValueError(f"low, high: expected low < high on every axis, got {self.low} and {self.high}")
        if self.contraction is not None and not 0 < self.contraction < 1:
            raise ValueError(f"contraction: expected a share between 0 and 1, got {self.contraction}")


@dataclass(frozen=True)
class OccupancyField:
    """What the network says on its lattice; the last class is free space (docs/method.md#c)."""

    logits: Float[Tensor, "B K X Y Z"]  # before softmax, K classes, index K-1 is free
    inv_depth: Float[Tensor, "B N h w"] | None = None  # 1/m per camera, where the network has a depth head
    log_error: Float[Tensor, "B N h w"] | None = None  # log of the expected error of log depth, where it matches
    details: Float[Tensor, "B F X Y Z"] | None = None  # for the model's detail head, where it has one

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> OccupancyField:
        inv_depth, log_error, details = (
            None if each is None else each.to(device=device, dtype=dtype)
            for each in (self.inv_depth, self.log_error, self.details)
        )
        logits = self.logits.to(device=device, dtype=dtype)
        return OccupancyField(logits, inv_depth, log_error, details)


@dataclass(frozen=True)
class Gaussians:
    """M anisotropic 3D Gaussians in the ego frame, in gsplat's terms."""

    means: Float[Tensor, "M 3"]  # m
    quats: Float[Tensor, "M 4"]  # w x y z, need not be unit
    scales: Float[Tensor, "M 3"]  # standard deviations along the axes, m
    opacities: Float[Tensor, " M"]  # 0-1
    features: Float[Tensor, "M C"]  # whatever is to be composited: logits, one-hot classes, colours

    def __len__(self) -> int:
        return int(self.means.shape[0])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Gaussians:
        return Gaussians(
            *(
                value.to(device=device, dtype=dtype)
                for value in (self.means, self.quats, self.scales, self.opacities, self.features)
            )
        )


@dataclass(frozen=True)
class RenderedViews:
    """Images composited front to back for N cameras; the background is zero."""

    features: Float[Tensor, "N C H W"]  # sum of weight x feature
    depth: Float[Tensor, "N 1 H W"]  # z-depth, m; divided by alpha only where the call said so
    alpha: Float[Tensor, "N 1 H W"]  # sum of weights, 0-1


@dataclass(frozen=True)
class OccupancyLabels:
    """Occ3D ground truth of one keyframe over a VoxelGrid (docs/method.md#i.2)."""

    semantics: UInt8[np.ndarray, "X Y Z"]  # class ids, 17 is free
    mask_camera: Bool[np.ndarray, "X Y Z"]  # true where some camera sees the voxel
    mask_lidar: Bool[np.ndarray, "X Y Z"]  # true where the lidar sees the voxel
    T_world_ego: Float[np.ndarray, "4 4"] | None = None  # of the frame they are in: the ego at the keyframe's stamp


@dataclass(frozen=True)
class Neighbour:
    """The same rig a moment before or after a Sample, camera for camera; the calibration is the sample's."""

    offset: int  # -1: the frame before, +1: the one after; of history, how many moments before
    images: tuple[UInt8[np.ndarray, "_ _ 3"], ...]  # RGB at native size, one per camera
    camera_stamps_ns: tuple[int, ...]
    T_world_ego_per_camera: Float[np.ndarray, "N 4 4"] | None = None  # at each camera's own image time, if known


@dataclass(frozen=True)
class Sample:
    """One synchronised moment of a rig, whatever it was read from; training asks for the moments around it as well."""

    token: str
    scene: str
    stamp_ns: int  # of the anchor (first) camera's image
    images: tuple[UInt8[np.ndarray, "_ _ 3"], ...]  # RGB at native size, one per camera, sizes may differ
    cameras: Cameras
    T_world_ego: Float[np.ndarray, "4 4"] | None  # at stamp_ns; None: no odometry
    occupancy: OccupancyLabels | None = None
    camera_stamps_ns: tuple[int, ...] = ()
    T_world_ego_per_camera: Float[np.ndarray, "N 4 4"] | None = None  # at each camera's own image time, if known
    neighbours: tuple[Neighbour, ...] = ()  # in time order; those that were asked for and exist
    history: tuple[Neighbour, ...] = ()  # earlier moments of known motion, farther away; nearest first
    semantics: tuple[UInt8[np.ndarray, "_ _"], ...] | None = None  # 2D Occ3D ids per camera, 17 is sky, 255 no label
    static_masks: tuple[Bool[np.ndarray, "_ _"], ...] | None = None  # true where a camera does not see the robot itself
    depths: tuple[Float[np.ndarray, "_ _"], ...] | None = None  # true z-depth, m, 0 where unknown: evaluation only
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OccupancyPrediction:
    """What the predictor returns and the node publishes; arrays are (X, Y, Z) over `grid` in the ego frame."""

    labels: UInt8[np.ndarray, "X Y Z"]  # class ids; UNOBSERVED where not observed, OCCLUDED where hidden
    confidence: Float[np.ndarray, "X Y Z"]  # probability of the label, 0-1; 0 where nothing is known
    # True where the voxel's centre lies in a used camera's view, and it holds nothing beyond the model's reach.
    observed: Bool[np.ndarray, "X Y Z"]
    grid: VoxelGrid
    class_names: tuple[str, ...]
    trained: bool
    cameras: tuple[str, ...]  # names of the cameras that were used
    model: str  # "untrained", or the checkpoint's name

    def over(
        self,
        grid: VoxelGrid,
        labels: UInt8[np.ndarray, "X2 Y2 Z2"],
        confidence: Float[np.ndarray, "X2 Y2 Z2"],
        observed: Bool[np.ndarray, "X2 Y2 Z2"],
    ) -> OccupancyPrediction:
        """Of the same cameras and model over another grid; what a predictor's answer holds beside is of its own."""
        return OccupancyPrediction(
            labels, confidence, observed, grid, self.class_names, self.trained, self.cameras, self.model
        )


__all__ = [
    "CAMERA_MODELS",
    "EQUIDISTANT",
    "PINHOLE",
    "Cameras",
    "Gaussians",
    "Lattice",
    "Neighbour",
    "OccupancyField",
    "OccupancyLabels",
    "OccupancyPrediction",
    "RenderedViews",
    "Sample",
    "VoxelGrid",
]
