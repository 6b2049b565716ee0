# SPDX-License-Identifier: Apache-2.0
"""Depth images from elsewhere, in place of matched depth: of a depth camera, or of a network that says metres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from gaussianocc_core.bags.image_codec import decode_stored
from gaussianocc_core.bounded import read_bytes
from gaussianocc_core.data.sources import Entry
from gaussianocc_core.errors import DatasetError
from gaussianocc_core.geometry.ground_plane import ground_inv_depth
from gaussianocc_core.mapping.sets import DepthMaps, PlacedSet
from gaussianocc_core.mistakes import reason_of
from gaussianocc_core.names import DataRoot, check_name
from gaussianocc_core.preprocess import Lenses
from gaussianocc_core.types import Cameras

LAYOUT = (
    "DIR/<scene>/<camera>/<image>.png or .npy, one file for each image, of the image's size: z-depth (along the "
    "optical axis, not along the ray), in a 16-bit grey PNG as millimetres or in a .npy as metres, 0 where it is not "
    "known. "
    "<image>: the name of the image's file without its ending, of a bag its stamp in nanoseconds"
)
_MILLIMETRES = 1e-3  # m
_NEAR = 15.0  # m, of the ground that depth is compared with
_BELIEVED = (0.4, 2.5)  # median ratio of depth to the ground's
_LEAST_PIXELS = 200


@dataclass(frozen=True)
class DepthFolder:
    path: Path
    error: float = 0.05  # expected error of log depth
    follow_outside: bool = False  # links in the folder may lead out of it

    def __post_init__(self) -> None:
        if not self.path.is_dir():
            raise DatasetError(f"--depth {self.path}: no such folder; expected {LAYOUT}")
        if not 0 < self.error < 1:
            raise DatasetError(f"--depth-error {self.error:g}: expected a share of the depth, such as 0.05")

    @cached_property
    def _root(self) -> DataRoot:
        return DataRoot(self.path, DatasetError, self.follow_outside)

    def find(self, entry: Entry) -> tuple[Path, ...]:
        """The files of a set's images; DatasetError names the first that is missing."""
        return tuple(
            self._find(entry.scene, camera, image)
            for camera, image in zip(entry.cameras.names, image_names(entry), strict=True)
        )

    def _find(self, scene: str, camera: str, image: str) -> Path:
        folder = self.path / check_name(scene, "scene", DatasetError) / check_name(camera, "camera", DatasetError)
        for ending in (".png", ".npy"):
            path = folder / f"{check_name(image, 'image', DatasetError)}{ending}"
            if path.is_file():
                return self._root.check(path, "depth image")
        raise DatasetError(f"depth image {folder / image}.png or .npy does not exist; expected {LAYOUT}")

    def load(self, entry: Entry, lenses: Lenses) -> DepthMaps:
        """At the network's size."""
        cameras = entry.cameras
        maps = []
        for n, path in enumerate(self.find(entry)):
            depth = read_depth(path, (cameras.width[n], cameras.height[n]))
            maps.append(lenses.rectifier.rectify_labels(n, depth, 0))
        depth = np.stack(maps).astype(np.float32)
        return DepthMaps(depth, np.full(depth.shape, np.log(self.error), np.float32))


def image_names(entry: Entry) -> tuple[str, ...]:
    """Of a set's images, as depth files are named after them."""
    paths = getattr(entry.frame, "image_paths", None)
    if paths is not None:
        return tuple(path.stem for path in paths)
    return tuple(str(stamp) for stamp in entry.frame.camera_stamps_ns)


def read_depth(path: Path, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """z-depth in m, float32, 0 where unknown; size: (width, height). DatasetError where the file is damaged, empty, of
    another size or no depth."""
    if path.suffix == ".npy":
        try:
            depth = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:
            raise DatasetError(f"depth image {path} cannot be read ({reason_of(error)}); write it again") from error
        scale = 1.0
        if depth.dtype.kind not in "fiu":
            raise DatasetError(f"depth image {path}: expected metres as numbers, got {depth.dtype}")
    else:
        try:
            found = decode_stored(read_bytes(path))
        except (OSError, ValueError) as error:
            raise DatasetError(f"depth image {path} cannot be read ({reason_of(error)}); write it again") from error
        if found.ndim != 2 or found.dtype != np.uint16:
            what = f"{found.dtype} of shape {found.shape}"
            raise DatasetError(f"depth image {path}: expected a grey PNG of 16 bits (millimetres), got {what}")
        depth, scale = found, _MILLIMETRES
    if depth.shape != (size[1], size[0]):
        raise DatasetError(
            f"depth image {path}: expected {size[0]}x{size[1]} pixels as its image has, got {depth.shape}"
        )
    depth = np.array(depth, dtype=np.float32) * np.float32(scale)
    depth[~(np.isfinite(depth) & (depth > 0))] = 0.0
    if not depth.any():
        raise DatasetError(f"depth image {path} is empty: no pixel has a depth; write it again or leave its scene out")
    return depth


def check_scale(sets: Sequence[tuple[PlacedSet, DepthMaps]], where: str) -> None:
    """DatasetError where depth cannot be metres: below the horizon, things are about as far as the ground, or nearer.

    sets: some of a recording. Nothing is said where cameras see too little ground.
    """
    ratios = []
    for placed, maps in sets:
        ground = _ground_depth(placed.cameras, maps.depth.shape[1:])
        look = (ground < _NEAR) & (maps.depth > 0) & placed.seen.valid
        ratios.append(maps.depth[look] / ground[look])
    found = np.concatenate(ratios) if ratios else np.empty(0)
    if len(found) < _LEAST_PIXELS:
        return
    ratio = float(np.median(found))
    if _BELIEVED[0] <= ratio <= _BELIEVED[1]:
        return
    guess = "; are they millimetres, where metres are expected?" if ratio > 100 else ""
    guess = guess or ("; are they metres, where millimetres are expected?" if ratio < 0.01 else "")
    raise DatasetError(
        f"{where}: depth images cannot be right: below the horizon they say {ratio:.3g} times the distance of the "
        f"ground, by the cameras' heights{guess or '; check their scale, and the calibration'}"
    )


def _ground_depth(cameras: Cameras, shape: tuple[int, ...]) -> Float[np.ndarray, "N h w"]:
    """z-depth of the plane z = 0, m; inf above the horizon."""
    width, height = cameras.width[0], cameras.height[0]
    inverse = ground_inv_depth(cameras.intrinsics[None], cameras.T_ego_cam[None], width, height, 1)[0].numpy()
    with np.errstate(divide="ignore"):
        return np.where(inverse > 1e-6, 1.0 / np.maximum(inverse, 1e-6), np.inf)


__all__ = ["LAYOUT", "DepthFolder", "check_scale", "image_names", "read_depth"]
