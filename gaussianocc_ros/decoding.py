# SPDX-License-Identifier: Apache-2.0
"""Image messages -> pixels, in threads of their own, no larger than the network needs them.

Of compressed video each packet builds on those before: every one of them is decoded, in order, by one thread for each
such camera. What is left to do for the pictures that a set uses, their conversion to RGB, is done with other images.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gaussianocc_core.bags.messages import ImageError, WaitsForKeyframe
from gaussianocc_core.bags.video import MAX_VIDEO_PIXELS, KeyframeMissing, VideoDecoder, VideoError, VideoPicture
from gaussianocc_ros import ros_compat

_THREADS = 4  # a JPEG is milliseconds of work without the GIL
_MOST_WAITING = 60  # packets of one camera, two seconds of most; then its video is given up until the next keyframe


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
    message: Any  # sensor_msgs/Image or CompressedImage; None of video, and once it is decoded
    picture: Future[VideoPicture] | None = field(default=None, repr=False)  # of video
    future: Future[DecodedImage] | None = field(default=None, repr=False)


class _Video:
    """One camera's packets, decoded in the order in which they come."""

    def __init__(self, camera: str, max_pixels: int) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"video {camera}")
        self._decoder = VideoDecoder(min(max_pixels, MAX_VIDEO_PIXELS))
        self._lock = threading.Lock()
        self._waiting = 0
        self._skipped = False  # since the last packet that was taken

    def take(self, message: Any) -> Future[VideoPicture]:
        with self._lock:
            if self._waiting >= _MOST_WAITING:
                self._skipped = True
                full: Future[VideoPicture] = Future()
                full.set_exception(
                    WaitsForKeyframe(
                        f"video comes faster than it is decoded, {self._waiting} packets wait; lower its size or rate"
                    )
                )
                return full
            self._waiting += 1
            skipped, self._skipped = self._skipped, False
        return self._thread.submit(self._decode, message, skipped)

    def restart(self) -> None:
        """What came before is not continued."""
        self._thread.submit(self._decoder.restart)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _decode(self, message: Any, skipped: bool) -> VideoPicture:
        try:
            if skipped:
                self._decoder.lose("packets were skipped, because decoding fell behind, and no keyframe has come since")
            this = object()
            for token, picture in self._decoder.feed(message, this):
                if token is this:
                    return picture
            raise VideoError(
                "its stream holds pictures back (B-frames), or a packet before it is missing: set the encoder to low "
                "delay (no B-frames) and short intervals between keyframes"
            )
        except KeyframeMissing as error:
            raise WaitsForKeyframe(f"video waits for a keyframe: {error}") from None
        except VideoError as error:
            raise ImageError(f"video packet cannot be decoded: {error}") from None
        finally:
            with self._lock:
                self._waiting -= 1


class ImageDecoder:
    """`begin` may be called by any thread, as often as one likes; `take` by the one that receives."""

    def __init__(self, cameras: int, max_pixels: int, videos: Collection[str] = ()) -> None:
        """videos: the cameras that send compressed video."""
        self._videos = {camera: _Video(camera, max_pixels) for camera in videos}
        self._pool = ThreadPoolExecutor(min(_THREADS, cameras), thread_name_prefix="decode")
        self._max_pixels = max_pixels
        self._lock = threading.Lock()
        self._reductions: Mapping[str, int] = {}

    def reduce_to(self, reductions: Mapping[str, int]) -> None:
        """From now on: camera -> 1, 2, 4 or 8 (`OccupancyPredictor.reductions`)."""
        self._reductions = {**self._reductions, **reductions}

    def take(self, camera: str, message: Any) -> PendingImage:
        """A message that has arrived; of video every one must come by here, whatever becomes of it."""
        video = self._videos.get(camera)
        return PendingImage(camera, message) if video is None else PendingImage(camera, None, video.take(message))

    def restart(self) -> None:
        """Subscriptions are new: streams begin anew, with keyframes."""
        for video in self._videos.values():
            video.restart()

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
        for video in self._videos.values():
            video.close()
        self._pool.shutdown(cancel_futures=True)

    def _decode(self, image: PendingImage) -> DecodedImage:
        reduce = self._reductions.get(image.camera, 1)
        if image.picture is not None:
            pixels, reduce = image.picture.result().rgb(reduce)
        else:
            pixels, reduce = ros_compat.decode_image(image.message, self._max_pixels, reduce)
        image.message = image.picture = None  # a set that waits need not keep both
        return DecodedImage(pixels, reduce)
