# SPDX-License-Identifier: Apache-2.0
"""Carved labels on disk: DIR/<scene>/<token>/labels.npz as Occ3D has them, and DIR/carved.json that says how."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gaussianocc_core.bounded import read_json
from gaussianocc_core.data.entries import labels_path
from gaussianocc_core.errors import ConfigError
from gaussianocc_core.files import write_file
from gaussianocc_core.mapping.carving import CarvedLabels
from gaussianocc_core.mistakes import reason_of
from gaussianocc_core.names import check_name, shorten
from gaussianocc_core.types import VoxelGrid

INDEX = "carved.json"
_LOCK = ".carved.lock"
FORMAT = 1


def write_labels(folder: Path, scene: str, labels: CarvedLabels) -> Path:
    """`semantics` (class ids, 17 free, 255 unknown), `mask_camera` (1 where known) and `mask_lidar` (all 0: no lidar
    was there), each uint8 (X, Y, Z)."""
    buffer = io.BytesIO()
    known = labels.known.astype(np.uint8)
    np.savez_compressed(buffer, semantics=labels.semantics, mask_camera=known, mask_lidar=np.zeros_like(known))
    path = labels_path(folder, scene, labels.token)
    write_file(path, buffer.getvalue())
    return path


@dataclass
class SceneCounts:
    """What became of a recording's moments."""

    moments: int = 0  # sets of images
    labelled: int = 0
    without_motion: int = 0  # in gaps of odometry, or where images did not say how the rig moved
    alone: int = 0  # too few sets around them from other places
    unreadable: int = 0
    occupied: int = 0  # voxels, over all moments
    free: int = 0
    unknown: int = 0
    way_m: float = 0.0

    def add(self, labels: CarvedLabels, free: int) -> None:
        known = labels.known
        self.labelled += 1
        self.free += int((labels.semantics == free).sum())
        self.unknown += int((~known).sum())
        self.occupied += int(known.sum()) - int((labels.semantics == free).sum())

    def describe(self) -> str:
        """One line for the user."""
        left_out = [
            f"{count} {why}"
            for count, why in (
                (self.without_motion, "without known motion"),
                (self.alone, "with too few sets around them"),
                (self.unreadable, "unreadable"),
            )
            if count
        ]
        total = max(self.occupied + self.free + self.unknown, 1)
        shares = ", ".join(
            f"{100 * count / total:.1f} % {what}"
            for count, what in ((self.occupied, "occupied"), (self.free, "free"), (self.unknown, "unknown"))
        )
        rest = f"; left out: {', '.join(left_out)}" if left_out else ""
        return f"{self.labelled} of {self.moments} moments over {self.way_m:.0f} m: {shares}{rest}"


class LabelFolder:
    """The folder of one run, or of one that is gone on with."""

    def __init__(self, path: Path, grid: VoxelGrid, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        """settings: of JSON values, all that the labels depend on. ConfigError where the folder holds labels of other
        settings, or things that are none, unless overwrite."""
        self.path = path
        # Through JSON, which knows no tuples.
        self.settings = json.loads(json.dumps({"format": FORMAT, "grid": asdict(grid), **settings}))
        self.scenes: dict[str, dict[str, Any]] = {}
        self.resumed, self._replaces = False, overwrite
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{path}: is a file; give a folder")
        found = self._read()
        if found is None:
            return
        if overwrite:
            for scene in found["scenes"]:  # labels of two kinds in one folder would be taken for one
                shutil.rmtree(path / check_name(scene, f"{path / INDEX}: scene", ConfigError), ignore_errors=True)
            return
        self._check_settings(found)
        self.scenes, self.resumed = dict(found.get("scenes", {})), True

    def _check_settings(self, found: Mapping[str, Any]) -> None:
        before = {name: value for name, value in found.items() if name != "scenes"}
        different = sorted(name for name in {*before, *self.settings} if before.get(name) != self.settings.get(name))
        if different:
            raise ConfigError(
                f"{self.path}: holds labels made with another {', '.join(map(shorten, different))}; take another "
                "folder, or --overwrite"
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The folder may have come from somebody: a link in the place of the lock would be followed, a pipe waited
        for. ConfigError."""
        try:
            number = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except OSError as error:
            raise ConfigError(f"{self.path / _LOCK}: cannot be locked ({error.strerror}); remove it") from error
        try:
            fcntl.flock(number, fcntl.LOCK_EX)
            yield
        finally:
            os.close(number)

    def _read(self) -> dict[str, Any] | None:
        index = self.path / INDEX
        if not index.is_file():
            if self.path.is_dir() and any(each.name != _LOCK for each in self.path.iterdir()):
                raise ConfigError(f"{self.path}: is not empty and holds no {INDEX}; give a new folder")
            return None
        try:
            found = read_json(index)
            if isinstance(found, dict) and isinstance(found.get("scenes"), dict):
                return found
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{index}: cannot be read ({reason_of(error)}); take another folder") from error
        raise ConfigError(f"{index}: is not of this program; take another folder")

    def save(self) -> None:
        """Adds to what other processes, each with scenes of its own, have written since; a lock keeps them apart."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if (self.path / INDEX).is_file() and not self._replaces:
                found = self._read() or {}
                self._check_settings(found)  # of two that began at once in a new folder
                self.scenes = {**found.get("scenes", {}), **self.scenes}
            self._replaces = False
            text = json.dumps({**self.settings, "scenes": dict(sorted(self.scenes.items()))}, indent=1)
            write_file(self.path / INDEX, f"{text}\n".encode())

    def finish(self, scene: str, counts: SceneCounts) -> None:
        """Says that a scene is done."""
        self.scenes[scene] = asdict(counts)
        self.save()


__all__ = ["INDEX", "LabelFolder", "SceneCounts", "write_labels"]
