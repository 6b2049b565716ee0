# SPDX-License-Identifier: Apache-2.0
"""Pictures and video to disk. A file appears under its name only when it is complete."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from gaussianocc_core.files import complete_file


def write_png(path: str | Path, image: UInt8[np.ndarray, "H W 3"]) -> None:
    """Write an RGB image losslessly; missing folders are made."""
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"image: cannot be encoded as PNG, shape {image.shape}, dtype {image.dtype}")
    with complete_file(Path(path)) as partial:
        partial.write_bytes(data.tobytes())


def write_video(path: str | Path, frames: Iterable[UInt8[np.ndarray, "_ _ 3"]], fps: float | int) -> int:
    """Write RGB frames as H.264 (yuv420p, plays everywhere) and return their number.

    All frames must have the first one's size; an odd last row or column is dropped, which the format cannot hold.
    """
    import imageio_ffmpeg  # here: it carries an ffmpeg binary that only video needs

    writer, shape, count = None, None, 0
    with complete_file(Path(path)) as partial:
        try:
            for frame in frames:
                if writer is None:
                    shape = frame.shape
                    size = shape[1] // 2 * 2, shape[0] // 2 * 2
                    writer = imageio_ffmpeg.write_frames(
                        str(partial),
                        size,
                        fps=fps,
                        codec="libx264",
                        pix_fmt_in="rgb24",
                        pix_fmt_out="yuv420p",
                        quality=8,
                        macro_block_size=2,
                        ffmpeg_log_level="error",
                        output_params=["-movflags", "+faststart"],
                    )
                    writer.send(None)
                if frame.shape != shape:
                    raise ValueError(f"frames: frame {count} has shape {frame.shape}, the first one had {shape}")
                writer.send(np.ascontiguousarray(frame[: size[1], : size[0]]))
                count += 1
            if writer is None:
                raise ValueError(f"frames: none given for {path}")
        finally:
            if writer is not None:
                writer.close()
    return count
