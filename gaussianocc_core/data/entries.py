# SPDX-License-Identifier: Apache-2.0
"""Samples of data sets that keep one file per image: what to read for each, and reading it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from gaussianocc_core.arrays import read_npz
from gaussianocc_core.bounded import read_bytes
from gaussianocc_core.errors import DatasetError
from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.labels import GENERATOR_TO_OCC3D, GENERATOR_UNDETECTED, IGNORE, generator_to_occ3d
from gaussianocc_core.mistakes import reason_of
from gaussianocc_core.names import check_name, plain_name
from gaussianocc_core.types import Cameras, Neighbour, OccupancyLabels, Sample


@dataclass(frozen=True)
class FrameEntry:
    """One image of every camera at one moment, anchor first."""

    image_tokens: tuple[str, ...]
    image_paths: tuple[Path, ...]
    camera_stamps_ns: tuple[int, ...]
    T_world_ego: Float[np.ndarray, "N 4 4"]  # at each camera's own image time


@dataclass(frozen=True)
class SampleEntry:
    """All that is needed to make one Sample of files; small and picklable, for DataLoader workers."""

    token: str  # of the keyframe, or of the anchor camera's image where the moment is none
    scene: str
    cameras: Cameras  # static calibration
    frame: FrameEntry
    occupancy_path: Path | None = None  # Occ3D labels; only keyframes have them
    T_world_labels: Float[np.ndarray, "4 4"] | None = None  # of the ego frame that those are in
    neighbours: tuple[tuple[int, FrameEntry], ...] = ()  # (offset, frame)
    history: tuple[tuple[int, FrameEntry], ...] = ()  # (offset, frame), see `history.with_history`
    semantic_paths: tuple[Path, ...] = ()  # 2D labels, published format
    depth_paths: tuple[Path, ...] = ()  # true depth, published format
    mask_paths: tuple[Path, ...] = ()  # non-zero where a camera does not see the robot itself
    undetected: int = IGNORE  # what pixels without a 2D label become: 255 ignored, 17 free as published

    @property
    def labelled(self) -> bool:
        return bool(self.semantic_paths)

    @property
    def gap_s(self) -> float:
        """Longest time between an image and its neighbour in s; 0 without neighbours."""
        return longest_gap_s(self.frame.camera_stamps_ns, (frame.camera_stamps_ns for _, frame in self.neighbours))

    def load(self) -> Sample:
        """The Sample: images decoded to RGB, and what else the entry names.

        `cameras.T_ego_cam` is the static calibration: camera i relative to the ego frame at *its own* image time.
        The ego poses at those times are `T_world_ego_per_camera`; `T_world_ego` is the anchor camera's.
        """
        sizes = tuple(zip(self.cameras.width, self.cameras.height, strict=True))
        occupancy = None
        if self.occupancy_path is not None and self.occupancy_path.is_file():
            occupancy = load_occupancy(self.occupancy_path, self.T_world_labels)
        meta: dict[str, Any] = {}
        semantics = None
        if self.semantic_paths:
            loaded = [
                read_semantics(path, size, self.undetected)
                for path, size in zip(self.semantic_paths, sizes, strict=True)
            ]
            semantics = tuple(labels for labels, _ in loaded)
            unknown = {str(path): n for path, (_, n) in zip(self.semantic_paths, loaded, strict=True) if n}
            if unknown:
                meta["unknown_label_pixels"] = unknown
        return Sample(
            token=self.token,
            scene=self.scene,
            stamp_ns=self.frame.camera_stamps_ns[0],
            images=_decode_frame(self.frame, sizes),
            cameras=self.cameras,
            T_world_ego=self.frame.T_world_ego[0],
            occupancy=occupancy,
            camera_stamps_ns=self.frame.camera_stamps_ns,
            T_world_ego_per_camera=self.frame.T_world_ego,
            neighbours=tuple(
                Neighbour(offset, _decode_frame(frame, sizes), frame.camera_stamps_ns, frame.T_world_ego)
                for offset, frame in self.neighbours
            ),
            history=tuple(
                Neighbour(offset, _decode_frame(frame, sizes), frame.camera_stamps_ns, frame.T_world_ego)
                for offset, frame in self.history
            ),
            semantics=semantics,
            static_masks=tuple(read_mask(p, size) for p, size in zip(self.mask_paths, sizes, strict=True))
            if self.mask_paths
            else None,
            depths=tuple(_read_depth(p, size) for p, size in zip(self.depth_paths, sizes, strict=True))
            if self.depth_paths
            else None,
            meta=meta,
        )


def longest_gap_s(stamps_ns: Sequence[int], beside_ns: Iterable[Sequence[int]]) -> float:
    """Longest time in s between an image and one beside it, camera by camera; 0 without any."""
    gaps = [abs(a - b) for each in beside_ns for a, b in zip(each, stamps_ns, strict=True)]
    return max(gaps, default=0) * 1e-9


def in_label_frame(sample: Sample) -> Cameras:
    """The sample's cameras, each from where it was at its own image time, relative to the ego frame of its labels;
    without labels, to that of the anchor camera's image. As calibrated where the poses are not known."""
    labels = sample.occupancy
    T_world_labels = sample.T_world_ego if labels is None or labels.T_world_ego is None else labels.T_world_ego
    if T_world_labels is None or sample.T_world_ego_per_camera is None:
        return sample.cameras
    T_world_ego = torch.from_numpy(sample.T_world_ego_per_camera)
    return camera_geometry.relocate(sample.cameras, T_world_ego, torch.from_numpy(T_world_labels))


def labels_path(folder: str | Path, scene: str, token: str) -> Path:
    """Where the labels in 3D of a moment lie in a folder of them; a token that is not one component of a path is made
    such by `plain_name`. DatasetError for the name of a scene that is none."""
    return Path(folder) / check_name(scene, "scene", DatasetError) / plain_name(token) / "labels.npz"


_MOST_LABEL_BYTES = 1 << 28  # decompressed; Occ3D has 2 MB


def load_occupancy(path: Path, T_world_ego: Float[np.ndarray, "4 4"] | None = None) -> OccupancyLabels:
    """Occ3D `labels.npz`: semantics, mask_camera, mask_lidar over one grid, in the ego frame of the given pose."""
    try:
        found = read_npz(path, _MOST_LABEL_BYTES)
        semantics, *masks = (found[name] for name in ("semantics", "mask_camera", "mask_lidar"))
    except Exception as error:  # numpy and zipfile raise half a dozen kinds for a damaged file
        raise DatasetError(f"occupancy labels {path} cannot be read ({reason_of(error)}); restore the file") from error
    if semantics.ndim != 3 or any(mask.shape != semantics.shape for mask in masks):
        shapes = [array.shape for array in (semantics, *masks)]
        raise DatasetError(f"occupancy labels {path}: expected three (X, Y, Z) arrays of one shape, got {shapes}")
    if semantics.dtype.kind not in "iu" or (semantics.size and not 0 <= semantics.min() <= semantics.max() <= 255):
        raise DatasetError(f"occupancy labels {path}: semantics: expected class ids from 0 to 255; restore the file")
    return OccupancyLabels(semantics.astype(np.uint8), masks[0].astype(bool), masks[1].astype(bool), T_world_ego)


def read_file(path: Path, token: str) -> bytes:
    """The bytes of an image or a sweep; DatasetError names `token` where there are none, or more than any has."""
    try:
        return read_bytes(path)
    except OSError as error:
        raise DatasetError(
            f"image {token}: cannot read {path} ({error.strerror}); restore the file or leave its scene out"
        ) from error


def _decode_frame(frame: FrameEntry, sizes: Sequence[tuple[int, int]]) -> tuple[UInt8[np.ndarray, "H W 3"], ...]:
    return tuple(
        _decode(path, token, size)
        for path, token, size in zip(frame.image_paths, frame.image_tokens, sizes, strict=True)
    )


def read_semantics(path: Path, size: tuple[int, int], undetected: int) -> tuple[UInt8[np.ndarray, "H W"], int]:
    """2D labels of the published `*_mask.bin` format, and how many pixels have an id that its table lacks."""
    data = np.frombuffer(read_file(path, path.name), dtype=np.int8)
    if data.size != size[0] * size[1]:
        raise DatasetError(f"2D labels {path}: {data.size} bytes, expected one per pixel of {size[0]}x{size[1]}")
    data = data.reshape(size[1], size[0])
    unknown = (data >= len(GENERATOR_TO_OCC3D)) | (data < GENERATOR_UNDETECTED)
    labels = generator_to_occ3d(data, undetected)
    labels[unknown] = IGNORE
    return labels, int(unknown.sum())


def read_label_image(path: Path, size: tuple[int, int]) -> UInt8[np.ndarray, "H W"]:
    """2D labels as a grey PNG of Occ3D ids, 255 where there is none."""
    labels = _read_stored(path, "2D labels")
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise DatasetError(f"2D labels {path}: expected a grey PNG of 8 bits; label again (tools/label_semantics.py)")
    if (labels.shape[1], labels.shape[0]) != size:
        raise DatasetError(
            f"2D labels {path}: {labels.shape[1]}x{labels.shape[0]} pixels, the image has {size[0]}x{size[1]}"
        )
    return labels


def _read_depth(path: Path, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    try:
        depth = np.load(path, mmap_mode="r", allow_pickle=False)  # of a file that says more than it holds, nothing
    except Exception as error:
        raise DatasetError(f"true depth {path} cannot be read ({reason_of(error)}); restore the file") from error
    if depth.shape != (size[1], size[0]):
        raise DatasetError(f"true depth {path}: expected shape ({size[1]}, {size[0]}), got {depth.shape}")
    if depth.dtype.kind not in "fiu":
        raise DatasetError(f"true depth {path}: expected numbers, got {depth.dtype}")
    return np.array(depth, dtype=np.float32)


def mask_path(folder: str | Path, camera: str) -> Path:
    """Where a camera's self-occlusion mask is kept in a folder of masks."""
    return Path(folder) / f"{check_name(camera, 'camera', DatasetError)}_mask.png"


def mask_paths(folder: str | Path | None, names: Sequence[str]) -> tuple[Path, ...]:
    """Self-occlusion masks of the cameras, `<camera>_mask.png`; () without a folder. DatasetError if one is absent."""
    if not folder:
        return ()
    paths = tuple(mask_path(folder, name) for name in names)
    for path in paths:
        if not path.is_file():
            raise DatasetError(f"mask {path} does not exist; give a folder with one <camera>_mask.png per camera")
    return paths


def read_mask(path: Path, size: tuple[int, int] | None = None) -> Bool[np.ndarray, "H W"]:
    """True where the first channel is not zero, resized to (width, height) if need be (docs/method.md#j)."""
    import cv2

    image = _read_stored(path, "mask")
    image = image if image.ndim == 2 else image[..., 2 if image.shape[2] >= 3 else 0]  # OpenCV: BGR; published: red
    return (image if size is None else cv2.resize(image, size, interpolation=cv2.INTER_NEAREST)) != 0


def _read_stored(path: Path, what: str) -> np.ndarray:
    from gaussianocc_core.bags.image_codec import decode_stored

    try:
        return decode_stored(read_file(path, path.name))
    except ValueError as error:
        raise DatasetError(f"{what} {path} cannot be decoded: {error}; expected a PNG, write it again") from error


def _decode(path: Path, token: str, size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    from gaussianocc_core.bags.image_codec import decode_rgb

    try:
        image = decode_rgb(read_file(path, token))
    except ValueError as error:
        raise DatasetError(
            f"image {token}: {path} cannot be decoded: {error}; restore the file from the data set"
        ) from None
    height, width = image.shape[:2]
    if (width, height) != size:
        raise DatasetError(f"image {token}: {path} has {width}x{height} pixels, its row says {size[0]}x{size[1]}")
    return image
