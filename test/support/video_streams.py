# SPDX-License-Identifier: Apache-2.0
"""Streams of H.264 and H.265 that are encoded in the test, in messages and in bags as robots record them."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.typesys import get_types_from_msg
from support.robot_bags import STORE, RobotBag, header, message

from gaussianocc_core.bags.video import FFMPEG_TYPE, FOXGLOVE_TYPE, VIDEO_DEFINITIONS

av = pytest.importorskip("av", reason="compressed video is encoded and decoded with PyAV (pip install av)")

for name, definition in VIDEO_DEFINITIONS.items():
    if name not in STORE.types:
        STORE.register(get_types_from_msg(definition, name))

ENCODERS = {"h264": "libx264", "h265": "libx265"}
KINDS = (FFMPEG_TYPE, FOXGLOVE_TYPE)
LOSS = (
    8.0  # mean grey levels that coding at the rates below may cost; frames of one stream differ by more than twice that
)


@dataclass(frozen=True)
class Coded:
    """One packet of a stream."""

    frame: int  # which picture it is of
    data: bytes
    keyframe: bool


def scene(frame: int, size: tuple[int, int] = (64, 48), seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 RGB, smooth, and moved on by an eighth of its width each frame."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(np.roll(small, frame, axis=1), size, interpolation=cv2.INTER_LINEAR)


def encode(
    frames: list[np.ndarray], codec: str = "h264", gop: int = 5, b_frames: int = 0, **options: str
) -> list[Coded]:
    """In the order of the stream."""
    encoder = ENCODERS[codec]
    if encoder not in av.codecs_available:
        pytest.skip(f"this PyAV has no {encoder}")
    context = av.CodecContext.create(encoder, "w")
    context.height, context.width = frames[0].shape[:2]
    context.pix_fmt, context.time_base, context.framerate = "yuv444p", Fraction(1, 10), Fraction(10)
    if context.width % 2 == 0 and context.height % 2 == 0:
        context.pix_fmt = "yuv420p"
    context.gop_size, context.max_b_frames = gop, b_frames
    plain = {} if b_frames else {"tune": "zerolatency"}
    exact = {
        "sc_threshold": "0",
        "bf": str(b_frames),
        "x264-params": "b-adapt=0",
    }  # as told, whatever is in the pictures
    context.options = {"preset": "veryfast", "crf": "10", **exact, **plain, **options}
    if codec == "h265":
        about = {"log-level": "none", "repeat-headers": 1, "keyint": gop, "min-keyint": gop, "bframes": b_frames}
        about |= {"open-gop": 0, "scenecut": 0, "b-adapt": 0, **options}
        context.options = {"preset": "veryfast", "crf": "10", **plain}
        context.options |= {"x265-params": ":".join(f"{key}={value}" for key, value in about.items())}
    packets = []
    for number, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts = number
        packets += context.encode(frame)
    packets += context.encode(None)
    return [Coded(int(packet.pts), bytes(packet), bool(packet.is_keyframe)) for packet in packets]


def packet(kind: str, stamp_ns: int, frame_id: str, coded: Coded, size: tuple[int, int], codec: str = "h264") -> Any:
    """A message of rosbags."""
    data, about = np.frombuffer(coded.data, np.uint8), header(stamp_ns, frame_id)
    if kind == FOXGLOVE_TYPE:
        return message(kind, timestamp=about.stamp, frame_id=frame_id, data=data, format=codec)
    return message(
        kind,
        header=about,
        width=size[0],
        height=size[1],
        encoding=f"{'hevc' if codec == 'h265' else codec};yuv420p;bgr8;bgr8",
        pts=coded.frame,
        flags=int(coded.keyframe),
        is_bigendian=False,
        data=data,
    )


@dataclass
class VideoBag(RobotBag):
    """A RobotBag whose cameras publish video; `topics` are theirs, and `lost` frames were never recorded."""

    kind: str = FFMPEG_TYPE
    codec: str = "h264"
    gop: int = 5
    b_frames: int = 0
    lost: tuple[int, ...] = ()
    options: dict[str, str] = field(default_factory=dict)  # of the encoder
    frames: int = 14
    streams: dict[str, list[Coded]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for i, name in enumerate(self.cameras):
            images = [self.picture(n, i) for n in range(self.frames)]
            self.streams[name] = encode(images, self.codec, self.gop, self.b_frames, **self.options)
            for order, coded in enumerate(self.streams[name]):
                if order not in self.lost:
                    stamp = self.stamp(coded.frame, i)
                    content = packet(self.kind, stamp, f"{name}_optical", coded, self.size, self.codec)
                    # Recorded in the order of the stream, which with B-frames is not that of the stamps.
                    self.messages.append((self.topic(name), self.stamp(order, i) + self.delay_ns, content))

    def topic(self, name: str) -> str:
        return f"/{name}/image_raw/{'ffmpeg' if self.kind == FFMPEG_TYPE else 'foxglove'}"

    def picture(self, frame: int, camera: int) -> np.ndarray:
        return scene(frame, self.size, seed=camera)

    def add_image(self, name: str, stamp_ns: int, image: np.ndarray) -> None:
        """Its CameraInfo alone: images are added when all of them are there."""
        super().add_image(name, stamp_ns, image)
        self.messages = [each for each in self.messages if "image_raw" not in each[0]]


def difference(found: np.ndarray, frame: np.ndarray) -> float:
    """Mean grey levels."""
    return float(np.abs(found.astype(int) - frame).mean())
