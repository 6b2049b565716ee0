# SPDX-License-Identifier: Apache-2.0
"""numpy's files of strangers: what they would take in memory is read from their headers, before anything else."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from gaussianocc_core.bounded import open_archive


def check_npz(path: Path, most_bytes: int) -> None:
    """ValueError where the arrays of a .npz would take more, or hold objects; a few kB of the file are read.

    6 MB of zeros, compressed, can be 6 GB. BadZipFile and OSError where it is no such file.
    """
    total = 0
    with open_archive(path) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as stream:
                version = npy.read_magic(stream)
                read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, _, dtype = read_header(stream)
            if dtype.hasobject or min(shape, default=0) < 0:
                raise ValueError(f"its {entry.filename} holds objects, not numbers")
            total += math.prod(shape) * dtype.itemsize
            if total > most_bytes:
                raise ValueError(f"its arrays take {total} bytes and more; at most {most_bytes} are read")


def read_npz(path: Path, most_bytes: int) -> dict[str, np.ndarray]:
    """The arrays of a .npz by name; raises as `check_npz`, and what numpy and zipfile raise for a damaged file."""
    check_npz(path, most_bytes)
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
