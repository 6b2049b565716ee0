# SPDX-License-Identifier: Apache-2.0
"""A folder of exported networks: one ONNX file each, the model file that they were made from, samples to check them on,
and `export.json`, which says what is what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gaussianocc_core.backends.networks import NETWORKS
from gaussianocc_core.backends.onnx_files import check_onnx
from gaussianocc_core.bounded import open_file, read_json
from gaussianocc_core.errors import CheckpointError, DatasetError
from gaussianocc_core.files import complete_file
from gaussianocc_core.mistakes import reason_of
from gaussianocc_core.names import shorten

_FORMAT_NAME = "gaussianocc-export"
FORMAT = f"{_FORMAT_NAME}/1"
_MOST_CAMERAS = 64
INDEX, MODEL, SAMPLES = "export.json", "model.safetensors", "samples.npz"


@dataclass(frozen=True)
class ExportFolder:
    path: Path
    cameras: int  # that the networks take
    precision: str  # of their weights: fp32, fp16 or int8
    hashes: Mapping[str, str]  # file name -> SHA-256
    about: Mapping[str, Any]  # the rest of the index

    @property
    def model(self) -> Path:
        return self.path / MODEL

    @property
    def samples(self) -> Path:
        return self.path / SAMPLES

    def file(self, network: str) -> Path:
        return self.path / f"{network}.onnx"


def is_export(path: str | Path) -> bool:
    """Whether it is meant as one."""
    return (Path(path) / INDEX).is_file()


def check_replaceable(path: Path) -> None:
    """DatasetError where there is something that is not an export of ours, and of ours alone."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    advice = "give another --output, or remove it yourself"
    if not path.is_dir():
        raise DatasetError(f"{path}: is no folder; {advice}")
    try:
        index = read_json(path / INDEX)
        ours = isinstance(index, dict) and str(index.get("format")).startswith(f"{_FORMAT_NAME}/")
    except (OSError, ValueError, RecursionError):
        ours = False
    if not ours:
        raise DatasetError(f"{path}: holds something that is no export of this tool; {advice}")
    if foreign := sorted(each.name for each in path.iterdir() if each.name not in _names()):
        raise DatasetError(f"{path}: holds {shorten(foreign[0])} beside an export; {advice}")


def _names() -> set[str]:
    return {INDEX, MODEL, SAMPLES, *(f"{network}.onnx" for network in NETWORKS)}


def read_folder(path: str | Path) -> ExportFolder:
    """CheckpointError where a file is missing or is not the one that was exported."""
    path = Path(path)
    try:
        content = read_json(path / INDEX)
        if content["format"] != FORMAT:
            raise ValueError(f"format {shorten(content['format'])} where {FORMAT!r} is read")
        folder = ExportFolder(
            path, int(content["cameras"]), str(content["precision"]), dict(content["files"]), dict(content["about"])
        )
        if not 1 <= folder.cameras <= _MOST_CAMERAS:
            raise ValueError(f"expected 1 to {_MOST_CAMERAS} cameras")
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(
            f"{path / INDEX}: not an index of exported networks ({reason_of(error)}); export anew"
        ) from error
    # These alone: the index may name any file of this machine.
    for name in sorted(_names() - {INDEX}):
        if name not in folder.hashes or not (path / name).is_file():
            raise CheckpointError(f"{path}: {name} is missing; copy the whole folder, or export anew")
        try:
            if file_hash(path / name) != folder.hashes[name]:
                raise CheckpointError(f"{path / name}: is not the file that was exported; copy the folder again")
            if name.endswith(".onnx"):
                check_onnx(path / name)
        except (OSError, ValueError) as error:
            why = f"not an exported network ({reason_of(error)}); export anew"
            raise CheckpointError(f"{path / name}: {why}") from error
    return folder


def write_folder(path: Path, cameras: int, precision: str, about: Mapping[str, Any]) -> ExportFolder:
    """The index of the files that lie there."""
    hashes = {name: file_hash(path / name) for name in sorted(_names() - {INDEX})}
    content = {"format": FORMAT, "cameras": cameras, "precision": precision, "files": hashes, "about": dict(about)}
    with complete_file(path / INDEX) as hidden:
        hidden.write_text(json.dumps(content, indent=1) + "\n")
    return ExportFolder(path, cameras, precision, hashes, about)


def file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with open_file(path) as file:
        for part in iter(partial(file.read, 1 << 20), b""):
            digest.update(part)
    return digest.hexdigest()


__all__ = [
    "MODEL",
    "SAMPLES",
    "ExportFolder",
    "check_replaceable",
    "file_hash",
    "is_export",
    "read_folder",
    "write_folder",
]
