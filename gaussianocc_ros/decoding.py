# SPDX-License-Identifier: Apache-2.0
"""Image messages -> pixels, in threads of their own, no larger than the network needs them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gaussianocc_core.bags.messages import ImageError
from gaussianocc_ros import ros_compat

_THREADS = 4  # a JPEG is milliseconds of work without the GIL


@dataclass(frozen=True)
class DecodedImage:
    pixels: np.ndarray  # (h, w, 3) uint8 RGB
    reduce: int  # native pixels a side of each of these

    def fits(self, width: int, height: int) -> bool:
        """Whether it is of a native image of this size; decoders round up."""
        return self.pixels.shape[:2] == (-(-height // self.reduce), -(-width // self.reduce))


@dataclass
class PendingImage:
    """An image that has arrived; decoded once, when it is worth it."""

    camera: str
    message: Any  # sensor_msgs/Image or CompressedImage
    future: Future[DecodedImage] | None = field(default=None, repr=False)


class ImageDecoder:
    """`begin` may be called by any thread, as often as one likes."""

    def __init__(self, cameras: int, max_pixels: int) -> None:
        self._pool = ThreadPoolExecutor(min(_THREADS, cameras), thread_name_prefix="decode")
        self._max_pixels = max_pixels
        self._lock = threading.Lock()
        self._reductions: Mapping[str, int] = {}

    def reduce_to(self, reductions: Mapping[str, int]) -> None:
        """From now on: camera -> 1, 2, 4 or 8 (`OccupancyPredictor.reductions`)."""
        self._reductions = {**self._reductions, **reductions}

    def begin(self, images: Iterable[PendingImage]) -> None:
        """Start on those that have not been started."""
        with self._lock:
            for image in images:
                if image.future is None:
                    image.future = self._pool.submit(self._decode, image)

    def finish(self, images: Mapping[str, PendingImage]) -> tuple[dict[str, DecodedImage], dict[str, ImageError]]:
        """Camera -> image, and camera -> why there is none."""
        self.begin(images.values())
        decoded, failed = {}, {}
        for camera, image in images.items():
            assert image.future is not None
            try:
                decoded[camera] = image.future.result()
            except ImageError as error:
                failed[camera] = error
        return decoded, failed

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _decode(self, image: PendingImage) -> DecodedImage:
        reduce = self._reductions.get(image.camera, 1)
        pixels, reduce = ros_compat.decode_image(image.message, self._max_pixels, reduce)
        image.message = None  # a set that waits need not keep both
        return DecodedImage(pixels, reduce)
