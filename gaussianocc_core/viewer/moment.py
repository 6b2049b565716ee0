# SPDX-License-Identifier: Apache-2.0
"""What the page shows of one moment, wherever it came from: a recording, or a running node."""

from __future__ import annotations

import pickle
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from gaussianocc_core.types import Cameras, OccupancyLabels, VoxelGrid

PICTURE_WIDTH = 480  # px of a camera's image on the page
_MOST_HEIGHT = 4 * PICTURE_WIDTH  # px: a calibration may come from a stranger
_MOST_BYTES = 512 << 20  # of remembered moments: some 1500 with six cameras, truth and lidar


def picture_height(width: int, height: int) -> int:
    """px on the page, even, of a camera's image of this size."""
    return min(2 * max(1, round(PICTURE_WIDTH * height / width / 2)), _MOST_HEIGHT)


@dataclass(frozen=True)
class Moment:
    """One result of the model and what it was made of. Ego frame of this moment, m."""

    stamp_ns: int  # of the anchor camera's image
    scene: str
    images: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]  # RGB by camera, each filling its camera's view, at any size
    cameras: Cameras  # pinholes, each where it was at its own image time
    labels: UInt8[np.ndarray, "X Y Z"]  # Occ3D ids (`labels.ids_to_occ3d`); 254 hidden, 255 unseen
    confidence: Float[np.ndarray, "X Y Z"]  # of the label, 0-1
    grid: VoxelGrid
    classless: bool  # the model says that something is there, not what
    model: str
    trained: bool
    truth: OccupancyLabels | None = None
    lidar: Float[np.ndarray, "P 3"] | None = None
    path: Float[np.ndarray, "T 3"] | None = None  # places of the whole drive, so far as they are known
    place: int = 0  # of this moment on the path
    seconds: Mapping[str, float] = field(default_factory=dict)  # by what was done, in order


class Memory:
    """Moments that were computed, compressed to about a tenth; the oldest are forgotten when there are too many."""

    def __init__(self, most_bytes: int = _MOST_BYTES) -> None:
        self._most, self._bytes = most_bytes, 0
        self._packed: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def __contains__(self, key: tuple[str, int]) -> bool:
        return key in self._packed

    def __len__(self) -> int:
        return len(self._packed)

    def keep(self, key: tuple[str, int], moment: Moment) -> None:
        parts = {each.name: getattr(moment, each.name) for each in fields(moment)}
        parts["images"] = {name: _shrink(image) for name, image in moment.images.items()}
        parts["confidence"] = np.rint(255 * moment.confidence).astype(np.uint8)
        if moment.lidar is not None:
            parts["lidar"] = moment.lidar.astype(np.float16)
        packed = zlib.compress(pickle.dumps(parts, pickle.HIGHEST_PROTOCOL), 1)
        self._bytes += len(packed) - len(self._packed.pop(key, b""))
        self._packed[key] = packed
        while self._bytes > self._most and len(self._packed) > 1:
            self._bytes -= len(self._packed.popitem(last=False)[1])

    def recall(self, key: tuple[str, int]) -> Moment:
        parts = pickle.loads(zlib.decompress(self._packed[key]))
        parts["images"] = {name: cv2.imdecode(data, cv2.IMREAD_COLOR) for name, data in parts["images"].items()}
        parts["confidence"] = parts["confidence"].astype(np.float32) / 255.0
        if parts["lidar"] is not None:
            parts["lidar"] = parts["lidar"].astype(np.float32)
        return Moment(**parts)


def _shrink(image: np.ndarray) -> np.ndarray:
    """JPEG bytes; its channels stay in the order that they have."""
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
