# SPDX-License-Identifier: Apache-2.0
"""The images of a drive, moment by moment and without all that belongs to training, from either kind of source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gaussianocc_core.data.bag import BagEntry, open_bags
from gaussianocc_core.data.bag_cameras import BagConfig
from gaussianocc_core.data.entries import SampleEntry
from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.errors import DatasetError

Moment = SampleEntry | BagEntry


def dataset_moments(
    dataroot: str | Path,
    version: str,
    scenes: Sequence[str] = (),
    sweeps: bool = False,
    follow_outside: bool = False,
) -> list[Moment]:
    """Of a data set in the nuScenes schema; scenes (): all. sweeps: every image, not only keyframes.

    follow_outside: links in the data root may lead out of it.
    """
    source = NuScenesSource(dataroot, version, follow_outside=follow_outside)
    found: list[Moment] = []
    for scene in dict.fromkeys(scenes or source.scene_names()):
        found += source.index(scene, sweeps=sweeps)
    if not found:
        raise DatasetError(f"{dataroot}: no moment of {version} has images of all cameras; are the image files there?")
    return found


def bag_moments(config: BagConfig) -> list[Moment]:
    """Of a rosbag2 or a folder of them: every set of images."""
    sources = open_bags(config)
    found: list[Moment] = []
    for source in sources:
        found += [replace(entry, neighbours=(), masks=()) for entry in source.entries(semantics=False)]
    if not found:
        raise DatasetError(f"{config.path}: {sources[0].explain_no_sets()}")
    return found
