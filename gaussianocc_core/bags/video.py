# SPDX-License-Identifier: Apache-2.0
"""Compressed video in messages -> pictures: `ffmpeg_image_transport_msgs/FFMPEGPacket` and
`foxglove_msgs/CompressedVideo` of H.264 and H.265, decoded with PyAV.

A packet alone is no image: it needs every packet from its keyframe on. `VideoStream` follows a camera's packets without
decoding them and says which can be decoded; `VideoDecoder` decodes those. Where packets are missing there is no
picture: decoders fill the hole with grey or with an older one, which looks like an image and is none. So it is where
H.264 lost a part of a packet. Of H.265 it shows where a picture has fewer slices than all before it; decoders do not
notice it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from gaussianocc_core.bags.h26x import H264, H265, HeaderReader, Unit
from gaussianocc_core.errors import GaussianOccError
from gaussianocc_core.names import shorten

FFMPEG_TYPE = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
FOXGLOVE_TYPE = "foxglove_msgs/msg/CompressedVideo"
VIDEO_TYPES = (FFMPEG_TYPE, FOXGLOVE_TYPE)
# Their public definitions; both begin as every message with a header does: stamp, frame_id.
VIDEO_DEFINITIONS = {
    FFMPEG_TYPE: (
        "std_msgs/Header header\nint32 width\nint32 height\nstring encoding\nuint64 pts\nuint8 flags\n"
        "bool is_bigendian\nuint8[] data\n"
    ),
    FOXGLOVE_TYPE: "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n",
}
# Beyond 8K. A decoder keeps up to 17 pictures of 1.5 bytes a pixel for reference, which is 0.9 GB at this size.
MAX_VIDEO_PIXELS = 1 << 25
_KEY_FLAG = 1  # AV_PKT_FLAG_KEY

NO_KEYFRAME = "no keyframe has come yet, without which it cannot be decoded"


class VideoError(GaussianOccError):
    """A packet cannot be turned into a picture."""


class KeyframeMissing(VideoError):
    """A packet is whole, but what it builds on is not there: the next keyframe ends that."""


@dataclass(frozen=True)
class Packet:
    """One message of either type."""

    codec: str  # h26x.H264 or H265
    data: bytes
    flagged: bool  # its publisher says that it is a keyframe
    size: tuple[int, int]  # width, height that the message says; (0, 0) where it says none


def is_video(message: Any) -> bool:
    """Whether it is a message of VIDEO_TYPES, of rclpy or of rosbags."""
    return hasattr(message, "pts") or (hasattr(message, "timestamp") and hasattr(message, "format"))


def frame_id_of(message: Any) -> str:
    """CompressedVideo has no header."""
    return str(message.frame_id if hasattr(message, "frame_id") else message.header.frame_id)


def codec_of(message: Any) -> str:
    """h26x.H264 or H265; VideoError names what is not read. ffmpeg_image_transport writes the name of the encoder, or
    "codec;format;format;encoding"."""
    said = str(message.encoding if hasattr(message, "encoding") else message.format)
    name, *formats = (each.strip().lower() for each in said.split(";"))
    if formats[1:2] and formats[1].startswith("bayer"):
        raise VideoError(
            f"video of a Bayer mosaic ({shorten(said)}) is not read; have the encoder take bgr8 or yuv420p"
        )
    if "264" in name or name == "avc":
        return H264
    if "265" in name or "hevc" in name:
        return H265
    raise VideoError(f"video of codec {shorten(said)} is not read; H.264 and H.265 are: set the encoder to one of them")


def as_packet(message: Any, max_pixels: int = MAX_VIDEO_PIXELS) -> Packet:
    """VideoError where it is of another codec, empty, or says that it has more pixels than that."""
    size = (int(message.width), int(message.height)) if hasattr(message, "width") else (0, 0)
    if hasattr(message, "width") and not (min(size) >= 1 and size[0] * size[1] <= max_pixels):
        raise VideoError(f"it says that it has {size[0]}x{size[1]} pixels; between 1 and {max_pixels} are accepted")
    data = bytes(memoryview(message.data))
    if not data:
        raise VideoError("it is empty")
    return Packet(codec_of(message), data, bool(getattr(message, "flags", 0) & _KEY_FLAG), size)


class VideoStream:
    """The packets of one camera in their order, followed without decoding them."""

    def __init__(self, max_pixels: int = MAX_VIDEO_PIXELS) -> None:
        self._max_pixels = max_pixels
        self._codec = ""
        self._broken = NO_KEYFRAME  # why nothing can be decoded until the next keyframe; "" where it can
        self._whole_before = False  # what came right before the last keyframe could be decoded

    def lose(self, why: str) -> None:
        """Something of the stream is missing: up to the next keyframe nothing can be decoded."""
        self._broken = self._broken or why

    def follow(self, packet: Packet) -> Unit:
        """VideoError says why it cannot be decoded."""
        if packet.codec != self._codec:
            if self._codec:
                self._broken = f"the codec changed to {packet.codec} and no keyframe has come since"
            self._codec, self._reader, self._has_parameters = packet.codec, HeaderReader(packet.codec), False
        try:
            unit = self._reader.read(packet.data)
            if unit.size[0] * unit.size[1] > self._max_pixels:
                raise ValueError(f"it has {unit.size[0]}x{unit.size[1]} pixels; up to {self._max_pixels} are accepted")
        except ValueError as error:
            self.lose("a packet before it is damaged, and no keyframe has come since")
            raise VideoError(str(error)) from None
        self._has_parameters |= unit.parameters
        if not unit.picture:
            return unit
        if unit.expected:
            self.lose("a part of a packet before it is missing, and no keyframe has come since")
            raise VideoError(
                f"a part of its packet is missing: it has {unit.slices} slices, those before it {unit.expected}"
            )
        # An encoder may begin again at other pictures than those that the standard names, and says so with its SPS.
        if unit.keyframe or (packet.flagged and unit.parameters):
            if not self._has_parameters:
                self._broken = "its keyframe comes without parameter sets (SPS), and none came before"
                raise VideoError(self._broken)
            self._whole_before, self._broken = not self._broken, ""
            return unit if unit.keyframe else Unit(True, True, False, True, unit.size)
        if unit.gap:
            self.lose("a packet before it is missing, and no keyframe has come since")
        if self._broken:
            raise KeyframeMissing(self._broken)
        if unit.leading and not self._whole_before:
            raise KeyframeMissing("it needs pictures from before its keyframe, which are missing")
        return unit


class VideoPicture:
    """One decoded picture, in the colours of its stream until they are asked for."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame
        self._lock = threading.Lock()

    @property
    def size(self) -> tuple[int, int]:
        """Width, height."""
        return self._frame.width, self._frame.height

    @property
    def nbytes(self) -> int:
        return 3 * self._frame.width * self._frame.height // 2

    def rgb(self, reduce: int = 1) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
        """The pixels, and how many native ones a side became one: `reduce`, where it divides both sides, else 1."""
        width, height = self.size
        if width % reduce or height % reduce:
            reduce = 1
        with self._lock:  # a frame keeps its converter
            shown = self._frame.reformat(width // reduce, height // reduce, "rgb24", interpolation="AREA")
            return shown.to_ndarray(), reduce


@dataclass(frozen=True)
class Undecodable:
    """Stands where a picture should be."""

    reason: str


class VideoDecoder:
    """Decodes one camera's packets; every one must be fed, in order. Not for several threads at once."""

    def __init__(self, max_pixels: int = MAX_VIDEO_PIXELS) -> None:
        self._av = import_av()
        self._max_pixels = max_pixels
        self._stream = VideoStream(max_pixels)
        self._codec = ""
        self._context: Any = None
        self._fed = 0
        self._numbers: dict[int, Any] = {}  # of packets whose picture has not come out yet -> token

    def restart(self) -> None:
        """What comes next is no continuation of what came before: it begins with a keyframe."""
        self._stream = VideoStream(self._max_pixels)
        self._context, self._codec = None, ""
        self._numbers.clear()

    def lose(self, why: str) -> None:
        """Packets are missing before the next one."""
        self._stream.lose(why)

    def feed(self, message: Any, token: Any = None) -> list[tuple[Any, VideoPicture]]:
        """The pictures that come out, each with the token of its own packet: that of this one, unless the stream
        reorders pictures (B-frames). VideoError says why this packet has none."""
        try:
            packet = as_packet(message, self._max_pixels)
        except VideoError:
            self._stream.lose("a packet before it cannot be used, and no keyframe has come since")
            raise
        unit = self._stream.follow(packet)
        if packet.codec != self._codec or self._context is None:
            self._open(packet.codec)
        return self._decode(packet.data, unit, token)

    def drain(self) -> list[tuple[Any, VideoPicture]]:
        """What is still in the decoder; afterwards it begins anew, with a keyframe."""
        if self._context is None:
            return []
        try:
            return self._pictures(self._context.decode(None))
        except self._av.FFmpegError as error:
            raise VideoError(f"it is damaged: {_say(error)}") from None
        finally:
            self.restart()

    def _open(self, codec: str) -> None:
        self._context = self._av.CodecContext.create(codec, "r")
        # More threads would hold pictures back, by one each. What is damaged is an error, not a picture with a patch.
        self._context.thread_count = 1
        self._context.options = {
            "max_pixels": str(self._max_pixels),
            "err_detect": "crccheck+bitstream+buffer+explode",
        }
        self._codec = codec
        self._numbers.clear()

    def _decode(self, data: bytes, unit: Unit, token: Any) -> list[tuple[Any, VideoPicture]]:
        packet = self._av.Packet(data)
        packet.pts = self._fed = self._fed + 1
        if unit.picture:
            self._numbers[self._fed] = token
        try:
            frames = self._context.decode(packet)
        except self._av.FFmpegError as error:
            self._numbers.pop(self._fed, None)
            self._stream.lose("a packet before it is damaged or missing, and no keyframe has come since")
            raise VideoError(f"it is damaged, or a packet before it is missing: {_say(error)}") from None
        broken = [frame for frame in frames if frame.is_corrupt]
        if broken and self._codec == H264:
            # A part of a packet is missing, and the pictures to come build on the hole.
            self._stream.lose("a part of a packet before it is missing, and no keyframe has come since")
            if any(frame.pts == self._fed for frame in broken):
                self._numbers.pop(self._fed, None)
                raise VideoError("a part of its packet is missing")
        # Pictures come out in order of display, at most 16 late: what is older never will.
        for number in [number for number in self._numbers if number < self._fed - 64]:
            del self._numbers[number]
        return self._pictures(frames)

    def _pictures(self, frames: list[Any]) -> list[tuple[Any, VideoPicture]]:
        good = [frame for frame in frames if not frame.is_corrupt and frame.pts in self._numbers]
        return [(self._numbers.pop(frame.pts), VideoPicture(frame)) for frame in good]


def import_av() -> Any:
    """PyAV, needed only where video is decoded."""
    try:
        import av
        import av.logging
    except ImportError as error:
        raise GaussianOccError(f"compressed video needs PyAV: pip install av ({error})") from error
    return av


def _say(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())
