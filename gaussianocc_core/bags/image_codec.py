# SPDX-License-Identifier: Apache-2.0
"""Bytes of a JPEG or PNG -> RGB, checked from the header before memory is taken for its pixels."""

from __future__ import annotations

import struct

import cv2
import numpy as np
from jaxtyping import UInt8

# An image may claim any size; 8192 x 8192 is beyond every camera and still only 200 MB.
MAX_IMAGE_PIXELS = 1 << 26

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_END = b"\xff\xd9"
_MOST_SCANS = 100  # progressive encoders make 10; 100 kB of empty ones took 5 s for an image of 64 megapixels
_SEGMENTS = (0xC4, 0xCC, *range(0xDB, 0xDE), *range(0xE0, 0xF0), 0xFE)  # that have a length and may precede the frame
_PADDING = 4096  # bytes at the end of a JPEG, in which that marker is looked for: padding after it is common
# Calibration refers to the pixels as stored, so a rotation tag must not turn them.
_FLAGS = {
    1: cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION,
    2: cv2.IMREAD_REDUCED_COLOR_2 | cv2.IMREAD_IGNORE_ORIENTATION,
    4: cv2.IMREAD_REDUCED_COLOR_4 | cv2.IMREAD_IGNORE_ORIENTATION,
    8: cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION,
}


def image_size(data: bytes | memoryview) -> tuple[int, int]:
    """Width and height of a complete JPEG or PNG; ValueError says what is wrong with it. Pixels are not decoded."""
    head = bytes(data[:24])
    if head.startswith(_PNG) and head[12:16] == b"IHDR" and len(head) == 24:
        # A truncated image decodes without an error, its missing part grey.
        if b"IEND" not in bytes(data[-64:]):
            raise ValueError(f"the PNG is truncated: no end marker in its {len(data)} bytes")
        return struct.unpack(">II", head[16:24])
    if not head.startswith(_JPEG):
        begins = f"it begins with {head[:8].hex(' ')}"
        raise ValueError(f"{len(data)} bytes that are neither a JPEG nor a PNG: {begins}" if head else "it is empty")
    if _END not in bytes(data[-_PADDING:]) and _END not in bytes(data).rstrip(b"\0")[-_PADDING:]:
        raise ValueError(f"the JPEG is truncated: no end marker in its {len(data)} bytes")
    place = _frame_header(data)
    if place is None:
        raise ValueError("the JPEG is damaged: no frame header")
    height, width = struct.unpack_from(">HH", data, place + 5)
    return width, height


def _frame_header(data: bytes | memoryview) -> int | None:
    """Where the frame header of a JPEG begins; None where something stands before it that no encoder writes.

    Of markers without a length libjpeg goes on right behind them. Whoever jumps by what would be their length finds
    another frame header than it does: one of 16 x 16 pixels before 20,000 x 20,000 were decoded.
    """
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame, not DHT, JPG, DAC
            return position
        elif marker not in _SEGMENTS:
            return None
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def _check_pixels(data: bytes | memoryview, max_pixels: int) -> None:
    width, height = image_size(data)
    if not 1 <= width * height <= max_pixels:
        raise ValueError(f"it says that it has {width}x{height} pixels; between 1 and {max_pixels} are accepted")
    if can_reduce(data) and (scans := _count_scans(data)) > _MOST_SCANS:
        raise ValueError(f"the JPEG goes over its pixels {scans} times; at most {_MOST_SCANS} are accepted")


def _count_scans(data: bytes | memoryview) -> int:
    """How often a decoder goes over the pixels of a JPEG."""
    place = position = _frame_header(data) or 0
    while position + 5 <= len(data) and data[position + 1] != 0xDA:
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    if position + 5 > len(data):
        return 0
    # Decoders stop behind the first scan where it holds all components, and so is the whole of the picture.
    whole = data[place + 1] in (0xC0, 0xC1) and data[position + 4] == data[place + 9]
    return 1 if whole else bytes(data[position:]).count(b"\xff\xda")


def is_grey(data: bytes | memoryview) -> bool:
    """Whether a JPEG or PNG has one channel, as the mosaic of a Bayer sensor has."""
    head = bytes(data[:26])
    if head.startswith(_PNG):
        return len(head) == 26 and head[25] == 0
    place = _frame_header(data)
    return place is not None and bytes(data[place + 9 : place + 10]) == b"\x01"


def decode_grey(data: bytes | memoryview, max_pixels: int = MAX_IMAGE_PIXELS) -> UInt8[np.ndarray, "H W"]:
    """The pixels of a JPEG or PNG of one channel as they are stored, of 16 bits the upper 8; ValueError as
    `decode_rgb`."""
    _check_pixels(data, max_pixels)
    pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ValueError(f"it is damaged: its {len(data)} bytes cannot be decoded")
    return pixels


def decode_stored(data: bytes | memoryview, max_pixels: int = MAX_IMAGE_PIXELS) -> np.ndarray:
    """The values of a JPEG or PNG as they are stored, (H, W) or (H, W, C) in OpenCV's order, of 8 or 16 bits: labels,
    masks and depth are no colours. ValueError as `decode_rgb`."""
    _check_pixels(data, max_pixels)
    pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError(f"it is damaged: its {len(data)} bytes cannot be decoded")
    return pixels


def can_reduce(data: bytes | memoryview) -> bool:
    """Whether `decode_rgb` heeds its `reduce`: decoding a smaller image takes less."""
    return bytes(data[:2]) == _JPEG


def decode_rgb(
    data: bytes | memoryview, max_pixels: int = MAX_IMAGE_PIXELS, reduce: int = 1
) -> UInt8[np.ndarray, "H W 3"]:
    """RGB of a JPEG or PNG; ValueError says what is wrong with it.

    reduce: 1, 2, 4 or 8 native pixels a side become one, sizes rounded up: a JPEG is then not even decoded at full
    size. What has no cheap way to shrink, a PNG, stays as it is.
    """
    _check_pixels(data, max_pixels)
    pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), _FLAGS[reduce if can_reduce(data) else 1])
    if pixels is None:
        raise ValueError(f"it is damaged: its {len(data)} bytes cannot be decoded")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
