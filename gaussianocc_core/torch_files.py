# SPDX-License-Identifier: Apache-2.0
"""torch's own files of strangers: tensors and plain values or nothing, and bounded before anything is made of them."""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gaussianocc_core.bounded import open_archive, open_file

# A network's weights with an optimiser's state have about 50 steps for each tensor. 20 MB of steps took 1.4 GB and half
# a minute to be refused.
_MOST_STEPS, _MOST_VALUE = 1_000_000, 1 << 16
_PICKLES = 5  # at the beginning of a file before torch 1.6: magic, version, machine, values, names of storages


def load_plain(path: Path) -> Any:
    """What a .pth or .pt file holds, on the CPU. ValueError, OSError, and what torch, zipfile and pickle raise for a
    damaged file, or for one that holds more than tensors and plain values."""
    import torch

    with open_file(path):  # a pipe would be waited for
        pass
    if zipfile.is_zipfile(path):
        _check_archive(path)
    else:
        with path.open("rb") as file:
            for _ in range(_PICKLES):
                _check_pickle(file)
    found = torch.load(path, map_location="cpu", weights_only=True)
    for value in _tensors(found):
        whole = value.layout == torch.strided and value.device.type == "cpu"
        if not whole or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(f"a tensor of shape {tuple(value.shape)} says more values than the file holds")
    return found


def _check_archive(path: Path) -> None:
    """torch stores its tensors as they are, and reads others all the same: 195 kB became tensors of 200 MB."""
    with open_archive(path) as archive:
        entries = archive.infolist()
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("its tensors are compressed, which torch never does")
        for entry in entries:
            if entry.filename.endswith(".pkl"):
                with archive.open(entry) as stream:
                    _check_pickle(stream)


def _check_pickle(stream: Any) -> None:
    """One pickle, of which nothing is made here."""
    for step, (_, value, _) in enumerate(pickletools.genops(stream)):
        if step >= _MOST_STEPS:
            raise ValueError(f"its values take more than {_MOST_STEPS} steps to make")
        if isinstance(value, (str, bytes, bytearray)) and len(value) > _MOST_VALUE:
            raise ValueError(f"a value of it has {len(value)} bytes; at most {_MOST_VALUE} are read")


def _tensors(value: Any) -> Iterator[Any]:
    """ValueError where there are too many values on the way: a list of twice the same list, 40 deep, is a file of 2 kB
    and a million million values to whoever goes through it; in itself it is endless."""
    import torch

    waiting, visits = [value], 0
    while waiting:
        each = waiting.pop()
        if isinstance(each, torch.Tensor):
            yield each
        elif isinstance(each, (dict, list, tuple, set)):
            waiting += each.values() if isinstance(each, dict) else each
        visits += 1
        if visits > _MOST_STEPS:
            raise ValueError(f"its values hold each other, and are more than {_MOST_STEPS}")
