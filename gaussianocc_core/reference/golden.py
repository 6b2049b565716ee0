# SPDX-License-Identifier: Apache-2.0
"""Read a golden directory: its configuration, its arrays, and the weights behind them (regenerated, not stored)."""

from __future__ import annotations

import hashlib
import math
import zipfile
import zlib
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from gaussianocc_core.arrays import check_npz
from gaussianocc_core.bounded import MOST_FILE_BYTES, read_json
from gaussianocc_core.config import from_dict
from gaussianocc_core.errors import DatasetError
from gaussianocc_core.mistakes import reason_of

_GOLDEN_RATIO, _MIX1, _MIX2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MOST_BYTES = 1 << 33  # of the arrays of one file
_CHUNK = 1 << 16  # values drawn at once: 0.5 MB of state stay in the cache


@dataclass(frozen=True)
class GoldenConfig:
    """`config.json` of a golden directory: the reduced configuration its arrays were recorded with."""

    tag_prefix: str  # of every tag that numbers are drawn for
    image_hw: tuple[int, int]
    render_hw: tuple[int, int]
    grid_zyx: tuple[int, int, int]
    range_xyz: tuple[float, float, float, float, float, float]  # x min, x max, y min, ..., ego frame, m
    contraction_ratio: float
    num_classes: int
    free_class: int
    min_depth: float  # m
    max_depth: float  # m
    native_hw: tuple[int, int]
    cameras: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.free_class != self.num_classes - 1:
            raise ValueError(f"free_class: expected the last of {self.num_classes} classes, got {self.free_class}")


class Golden:
    """The arrays of a golden directory by file and name; a file or an array that is not there is None."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / "config.json"
        known = {field.name for field in fields(GoldenConfig)}  # notes that a directory adds are not settings
        settings = {key: value for key, value in _read_json(path).items() if key in known}
        self.config = from_dict(GoldenConfig, settings, str(path))
        self._archives: dict[str, Any] = {}

    def array(self, file: str, name: str) -> np.ndarray | None:
        """An array of FILE.npz as recorded."""
        archive = self._archive(file)
        if archive is None or name not in archive.files:
            return None
        try:
            return archive[name]
        except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise DatasetError(f"{self.folder / file}.npz: {name} cannot be read ({error}); copy it again") from error

    def names(self, file: str) -> tuple[str, ...]:
        """Arrays that FILE.npz holds."""
        archive = self._archive(file)
        return () if archive is None else tuple(archive.files)

    def json(self, name: str) -> dict[str, Any] | None:
        """The content of NAME.json."""
        path = self.folder / f"{name}.json"
        return _read_json(path) if path.is_file() else None

    @cached_property
    def weights(self) -> GoldenWeights:
        return GoldenWeights(self.config.tag_prefix, self.config.free_class)

    def _archive(self, file: str) -> Any:
        if file not in self._archives:
            path = self.folder / f"{file}.npz"
            try:
                if path.is_file():
                    check_npz(path, _MOST_BYTES)
                self._archives[file] = np.load(path) if path.is_file() else None
            except (OSError, ValueError, zipfile.BadZipFile) as error:
                raise DatasetError(f"{path}: not a readable .npz file ({error}); copy it again") from error
        return self._archives[file]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = read_json(path, MOST_FILE_BYTES)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file; give a golden directory, see its README") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not readable JSON ({reason_of(error)}); copy it again") from error
    if not isinstance(data, dict):
        raise DatasetError(f"{path}: expected an object, got a {type(data).__name__}; copy it again")
    return data


def draw(tag: str, count: int) -> Float[np.ndarray, " count"]:
    """`count` numbers in 0-1, multiples of 2^-24: SplitMix64 seeded with the first 8 bytes of the tag's SHA-256."""
    seed = int.from_bytes(hashlib.sha256(tag.encode()).digest()[:8], "little")
    values = np.empty(count)
    steps = np.arange(1, min(_CHUNK, count) + 1, dtype=np.uint64) * np.uint64(_GOLDEN_RATIO)
    for start in range(0, count, _CHUNK):
        z = steps[: count - start] + np.uint64((seed + start * _GOLDEN_RATIO) % 2**64)
        for shift, factor in ((30, _MIX1), (27, _MIX2)):
            z ^= z >> np.uint64(shift)
            z *= np.uint64(factor)
        z ^= z >> np.uint64(31)
        z >>= np.uint64(40)
        values[start : start + _CHUNK] = z
    values *= 2.0**-24
    return values


@dataclass(frozen=True)
class GoldenWeights:
    """The published networks' tensors by formula (section 2 of the golden README)."""

    prefix: str
    free_class: int

    def tensor(self, network: str, name: str, shape: tuple[int, ...]) -> Float[np.ndarray, "*shape"]:
        """Float32 values of a released tensor by its released name."""
        count = math.prod(shape)
        values = draw(f"{self.prefix}{network}/{name}", count)
        values *= 2.0
        values -= 1.0
        if len(shape) >= 2:
            values *= math.sqrt((3.0 if network == "pose" else 6.0) / (count / shape[0]))
        elif name.endswith("running_mean"):
            values *= 0.1
        elif name.endswith("running_var"):
            values = 1.0 + 0.5 * (values + 1.0) / 2.0
        elif name.endswith("weight"):
            quiet = "bn3" in name or (network == "pose_encoder" and ".bn2" in name)
            values = (0.25 if quiet else 1.0) * (1.0 + 0.2 * values)
        else:
            values *= 0.1
        if (network, name) == ("depth", "_3DCNN.classif_semantic.8.1.bias"):
            values[self.free_class] += 2.0
        return values.astype(np.float32).reshape(shape)


def checksum(values: Float[np.ndarray, "*shape"]) -> int:
    """CRC-32 of the little-endian float32 bytes, as `weights_crc32.json` lists it."""
    return zlib.crc32(np.ascontiguousarray(values, dtype="<f4").tobytes())
