# SPDX-License-Identifier: Apache-2.0
"""Which scenes of a nuScenes version a split or a list means."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from gaussianocc_core.bounded import read_text
from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.errors import DatasetError

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "mini_train", "mini_val", "test")
_TOKEN = re.compile(r"[0-9a-f]{32}")

_MOST_BYTES = 1 << 24  # of a list; the longest official one, as tokens, has 1 MB


def select_scenes(
    source: NuScenesSource, names: Sequence[str] | None = None, split: str | None = None
) -> tuple[str, ...]:
    """The named scenes; or a split's: an official one, or a text file; or all there are.

    Of an official split, those that the version holds. A file has one scene name or sample token on each line, and
    `#` begins a comment.
    """
    if names:
        for name in names:
            source.check_scene(name)
        return tuple(dict.fromkeys(names))
    if split is None:
        return source.scene_names()
    if split in SPLITS:
        return _official(source, split)
    path = Path(split)
    if not path.is_file():
        near = difflib.get_close_matches(split, SPLITS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise DatasetError(
            f"split {split!r} is neither one of {', '.join(SPLITS)} nor a file with scene names or sample tokens{hint}"
        )
    return _listed(source, path)


def _official(source: NuScenesSource, split: str) -> tuple[str, ...]:
    from nuscenes.utils.splits import create_splits_scenes

    there = set(source.scene_names())
    splits = {name: [scene for scene in scenes if scene in there] for name, scenes in create_splits_scenes().items()}
    if not splits[split]:
        others = [f"{name} ({len(splits[name])} scenes)" for name in SPLITS if splits[name]]
        hint = f"it has scenes of {', '.join(others)}" if others else "its scenes are in no official split: use --scene"
        raise DatasetError(f"split {split} has no scene in {source.version} of {source.dataroot}; {hint}")
    return tuple(splits[split])


def _listed(source: NuScenesSource, path: Path) -> tuple[str, ...]:
    try:
        text = read_text(path, _MOST_BYTES)
    except (OSError, ValueError) as error:
        raise DatasetError(f"split {path} cannot be read as text ({error}); give one scene or token a line") from error
    lines = [(number, line.partition("#")[0].strip()) for number, line in enumerate(text.splitlines(), start=1)]
    lines = [(number, line) for number, line in lines if line]
    tokens = {line for _, line in lines if _TOKEN.fullmatch(line)}
    scene_of_token, known = source.scenes_of_samples(tokens), source.scene_names()
    scenes = []
    for number, line in lines:
        if line in tokens:
            scenes.append(scene_of_token.get(line))
        elif line in known:
            scenes.append(line)
        else:
            try:
                source.check_scene(line)
            except DatasetError as error:
                raise DatasetError(f"{path}, line {number}: {error}") from None
    found = tuple(dict.fromkeys(scene for scene in scenes if scene is not None))
    where = f"{source.version} of {source.dataroot}"
    if not found:
        what = f"none of its {len(tokens)} sample tokens is" if tokens else "it is empty, so nothing is"
        raise DatasetError(f"split {path}: {what} in {where}; choose the list that belongs to this version")
    if len(scene_of_token) < len(tokens):
        missing = len(tokens) - len(scene_of_token)
        logger.warning("split %s: %d of its %d sample tokens are not in %s", path, missing, len(tokens), where)
    return found
