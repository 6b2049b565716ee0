# SPDX-License-Identifier: Apache-2.0
"""What a packet of H.264 or H.265 (Annex B) says of itself before anything is decoded: whether decoding can begin at
it, how large its pictures are, and of H.264 whether a packet before it is missing.

ITU-T H.264 (7.3.1, 7.3.2, 7.3.3, 7.4.3) and H.265 (7.3.1, 7.3.2.2, 7.4.2.2). Headers alone are read, at most
`_HEADER_BYTES` of each unit and `_MOST_UNITS` units, and of H.265 the slices are counted, so a packet costs about the
same whatever it claims.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

H264, H265 = "h264", "hevc"  # as FFmpeg names their decoders

_START = b"\0\0\1"
_MOST_UNITS = 64  # before the first slice; encoders write fewer than ten
_MOST_SLICES = 600  # of a picture, by the highest level of H.265
_ALIKE = 8  # so many pictures of as many slices: the encoder cuts all of them alike
_HEADER_BYTES = 1024  # of a parameter set or slice header
_HIGH_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)  # of H.264, with a chroma format


@dataclass(frozen=True)
class Unit:
    """One packet."""

    picture: bool = False  # there is a slice in it
    keyframe: bool = False  # a decoder can begin here, if it has the parameter sets
    leading: bool = False  # H.265 RASL: follows a keyframe, but needs pictures from before it
    parameters: bool = False  # a sequence parameter set is in it
    size: tuple[int, int] = (0, 0)  # width, height of the pictures; (0, 0) where no parameter set has said yet
    gap: bool = False  # H.264: the picture that comes before it in the stream was not given
    slices: int = 0  # H.265: of its picture
    expected: int = 0  # H.265: more slices than it has, as all pictures before it had; 0 where nothing is missing


@dataclass(frozen=True)
class _Sequence:
    """Of an H.264 sequence parameter set."""

    size: tuple[int, int]
    frame_bits: int = 0  # of frame_num
    separate: bool = False  # colour planes
    gaps: bool = False  # in frame_num are the encoder's


class HeaderReader:
    """Reads the packets of one stream in their order."""

    def __init__(self, codec: str) -> None:
        self._codec = codec
        self._sequences: dict[int, _Sequence] = {}
        self._of_pictures: dict[int, int] = {}  # picture parameter set -> its sequence parameter set
        self._active: _Sequence | None = None
        self._frame: int | None = None  # frame_num of the last reference picture
        self._slices: deque[int] = deque(maxlen=_ALIKE)  # of the last pictures

    def read(self, data: bytes) -> Unit:
        """ValueError where it is no packet of the codec in Annex B, or is cut off in its headers."""
        unit = Unit()
        begin = data.find(_START, 0, 8)
        if begin < 0:
            raise ValueError(f"its {len(data)} bytes begin with no start code: it is not {self._codec} in Annex B")
        for _ in range(_MOST_UNITS):
            place = begin + 3
            # The end of a slice does not matter, and looking for it would read the whole packet.
            content = data[place : place + _HEADER_BYTES]
            if len(content) < 3:
                break
            unit = self._read_h264(content, unit) if self._codec == H264 else self._read_h265(content, unit)
            if unit.picture:
                break
            begin = data.find(_START, place)
            if begin < 0:
                break
        return self._count_slices(data, begin, unit) if unit.picture and self._codec == H265 else unit

    def _count_slices(self, data: bytes, begin: int, unit: Unit) -> Unit:
        """A decoder leaves what a lost slice of H.265 showed as it was, without a word. Most encoders cut every picture
        into as many slices, so that one is missed there."""
        count = 0
        while begin >= 0 and begin + 3 < len(data) and count < _MOST_SLICES:
            count += data[begin + 3] >> 1 & 63 < 32
            begin = data.find(_START, begin + 3)
        usual = max(self._slices, default=0)
        alike = len(self._slices) == _ALIKE and min(self._slices) == usual
        if alike and count < usual:
            return replace(unit, slices=count, expected=usual)
        self._slices.append(count)
        return replace(unit, slices=count)

    def _read_h264(self, content: bytes, unit: Unit) -> Unit:
        kind, reference = content[0] & 31, content[0] >> 5 & 3
        bits = _Bits(content[1:])
        if kind == 7:
            number, sequence = _h264_sequence(bits)
            self._sequences[number] = self._active = sequence
            return replace(unit, parameters=True, size=sequence.size)
        if kind == 8:
            picture, sequence_number = bits.number(255), bits.number(31)
            self._of_pictures[picture] = sequence_number
            return unit
        if kind not in (1, 2, 5):
            return unit
        bits.number(1 << 24)  # first_mb_in_slice
        bits.number(9)  # slice_type
        number = self._of_pictures.get(bits.number(255), -1)
        self._active = active = self._sequences.get(number, self._active)
        gap = False
        if active is not None:
            if active.separate:
                bits.read(2)
            frame = bits.read(active.frame_bits)
            before, most = self._frame, 1 << active.frame_bits
            if kind != 5 and before is not None and not active.gaps:
                gap = frame not in (before, (before + 1) % most)
            self._frame = frame if reference or kind == 5 else before
        size = active.size if active is not None else (0, 0)
        return replace(unit, picture=True, keyframe=kind == 5, size=size, gap=gap)

    def _read_h265(self, content: bytes, unit: Unit) -> Unit:
        kind = content[0] >> 1 & 63
        if kind == 33:
            self._active = _h265_sequence(_Bits(content[2:]))
            return replace(unit, parameters=True, size=self._active.size)
        if kind > 31:
            return unit
        size = self._active.size if self._active is not None else (0, 0)
        return replace(unit, picture=True, keyframe=16 <= kind <= 23, leading=kind in (8, 9), size=size)


def _h264_sequence(bits: _Bits) -> tuple[int, _Sequence]:
    profile = bits.read(8)
    bits.read(16)  # constraints, level
    number = bits.number(31)
    chroma, separate = 1, False
    if profile in _HIGH_PROFILES:
        chroma = bits.number(3)
        separate = chroma == 3 and bits.flag()
        bits.number(6)  # bit depths
        bits.number(6)
        bits.flag()
        if bits.flag():
            for i in range(8 if chroma != 3 else 12):
                if bits.flag():
                    _skip_scaling_list(bits, 16 if i < 6 else 64)
    frame_bits = bits.number(12) + 4
    order = bits.number(2)
    if order == 0:
        bits.number(12)
    elif order == 1:
        bits.flag()
        bits.signed()
        bits.signed()
        for _ in range(bits.number(255)):
            bits.signed()
    bits.number(16)
    gaps = bits.flag()
    columns, rows = bits.number(1 << 16) + 1, bits.number(1 << 16) + 1
    frames_only = bits.flag()
    if not frames_only:
        bits.flag()
    bits.flag()
    tall = 1 if frames_only else 2
    across, down = (2 if chroma in (1, 2) and not separate else 1), (2 if chroma == 1 and not separate else 1) * tall
    size = _cropped(bits, 16 * columns, 16 * rows * tall, across, down)
    return number, _Sequence(size, frame_bits, separate, gaps)


def _skip_scaling_list(bits: _Bits, count: int) -> None:
    last = following = 8
    for _ in range(count):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last


def _h265_sequence(bits: _Bits) -> _Sequence:
    bits.read(4)
    layers = bits.read(3)
    bits.read(1)
    bits.skip(96)  # general profile, tier and level
    present = [(bits.flag(), bits.flag()) for _ in range(layers)]
    bits.skip(2 * (8 - layers) if layers else 0)
    for profile, level in present:
        bits.skip(88 * profile + 8 * level)
    bits.number(15)
    chroma = bits.number(3)
    separate = chroma == 3 and bits.flag()
    width, height = bits.number(1 << 16), bits.number(1 << 16)
    across, down = (2 if chroma in (1, 2) and not separate else 1), (2 if chroma == 1 and not separate else 1)
    return _Sequence(_cropped(bits, width, height, across, down))


def _cropped(bits: _Bits, width: int, height: int, across: int, down: int) -> tuple[int, int]:
    """The size that is shown: coded ones are multiples of 8 or 16."""
    if bits.flag():
        left, right, top, bottom = (bits.number(1 << 16) for _ in range(4))
        width, height = width - across * (left + right), height - down * (top + bottom)
    if width < 1 or height < 1:
        raise ValueError(f"its parameter set says {width}x{height} pixels")
    return width, height


class _Bits:
    """Bits of a unit, highest first, without the bytes that keep start codes from appearing in it."""

    def __init__(self, content: bytes) -> None:
        plain = content.replace(b"\0\0\3", b"\0\0")
        self._value, self._left = int.from_bytes(plain, "big"), 8 * len(plain)

    def read(self, count: int) -> int:
        self.skip(count)
        return self._value >> self._left & ((1 << count) - 1)

    def skip(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise ValueError("it is cut off in its headers")

    def flag(self) -> bool:
        return bool(self.read(1))

    def number(self, most: int) -> int:
        """An Exp-Golomb code, ue(v); ValueError if it is above what the standard allows."""
        zeros = 0
        while not self.flag():
            zeros += 1
            if zeros > 32:
                raise ValueError("its headers are damaged")
        value = (1 << zeros) - 1 + (self.read(zeros) if zeros else 0)
        if value > most:
            raise ValueError(f"its headers are damaged: {value} where at most {most} is allowed")
        return value

    def signed(self) -> int:
        """se(v)"""
        value = self.number(1 << 32)
        return (value + 1) // 2 if value % 2 else -(value // 2)
