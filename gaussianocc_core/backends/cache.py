# SPDX-License-Identifier: Apache-2.0
"""Where exported networks and compiled engines are kept between starts, and under which name they are still valid.

An entry is a folder whose name is a hash of everything that its content follows from: weights, configuration, sizes,
precision and the versions of the programs that made it. So nothing in it ever becomes wrong; it is only not found.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import nn

from gaussianocc_core._version import __version__
from gaussianocc_core.config import to_dict
from gaussianocc_core.models.config import ModelConfig

VARIABLE = "GAUSSIANOCC_CACHE"  # names the folder, before all others
_FOLDER = "gaussianocc"


def cache_folder() -> Path:
    """The first of these that can be written: $GAUSSIANOCC_CACHE, $XDG_CACHE_HOME/gaussianocc, ~/.cache/gaussianocc,
    and a folder of this user's for temporary files. A robot's service often has no home."""
    wanted = []
    if named := os.environ.get(VARIABLE):
        wanted.append(Path(named))
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        wanted.append(Path(xdg) / _FOLDER)
    with suppress(RuntimeError):  # no home
        wanted.append(Path.home() / ".cache" / _FOLDER)
    wanted.append(Path(tempfile.gettempdir()) / f"{_FOLDER}-{os.getuid()}")
    for folder in wanted:
        if _is_ours(folder):
            return folder
    return Path(tempfile.mkdtemp(prefix=f"{_FOLDER}-"))


def _is_ours(folder: Path) -> bool:
    """Whether it exists, or can be made, is this user's, and takes files. What others may write is not executed."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.lstat()  # a link of somebody else's may lead elsewhere a moment later
        if stat.S_ISLNK(status.st_mode):
            if status.st_uid != os.getuid():
                return False
            status = folder.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            return False
        with tempfile.TemporaryFile(dir=folder):
            return True
    return False


def weights_hash(model: nn.Module, config: ModelConfig) -> str:
    """Of a network's weights and configuration: equal for a model file and the same network made otherwise."""
    digest = hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@cache
def code_hash() -> str:
    """Of the sources that networks are exported from: whoever edits them gets new exports."""
    digest, package = hashlib.sha256(), Path(__file__).resolve().parents[1]
    for path in sorted([*(package / "models").glob("*.py"), package / "backends" / "networks.py"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def entry_name(facts: Mapping[str, Any]) -> str:
    """Of what an entry follows from."""
    return hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()[:24]


def versions(*packages: str) -> dict[str, str]:
    """Of this package, the machine and these packages; an engine is made for one processor."""
    found = {"gaussianocc": __version__, "machine": platform.machine(), "processor": _processor()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found


def _processor() -> str:
    """Its instructions: an engine of another one may crash."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return hashlib.sha256(line.encode()).hexdigest()[:16]
    return platform.processor()


__all__ = ["VARIABLE", "cache_folder", "code_hash", "entry_name", "versions", "weights_hash"]
