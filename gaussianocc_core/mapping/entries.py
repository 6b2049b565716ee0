# SPDX-License-Identifier: Apache-2.0
"""The recordings of a source, whatever it is, as moments to carve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gaussianocc_core.data.bag import BagSource, open_bags
from gaussianocc_core.data.bag_cameras import BagConfig, check_one_rig
from gaussianocc_core.data.ddad import DdadSource
from gaussianocc_core.data.nuscenes import NuScenesSource
from gaussianocc_core.data.sources import DataConfig, Entry, first_left_out
from gaussianocc_core.errors import DatasetError

SCHEMAS = ("nuscenes", "ddad", "bag")


@dataclass(frozen=True)
class SourceOptions:
    """What is to be known of a source beside its path."""

    schema: str = ""  # one of SCHEMAS; "": by what the path holds
    version: str = ""  # nuscenes: folder with the tables; "": the one that is there
    moments: str = "sweeps"  # nuscenes: "sweeps", all images of the anchor camera, or "keyframes"
    masks: str = ""  # folder of <camera>_mask.png
    follow_outside: bool = False  # links may lead out of a data root
    bag: BagConfig = field(default_factory=BagConfig)  # how bags are read; its path is that of the source
    # By scene, the stamp (ns) of the first image that is not used: what training leaves out to be measured on.
    until_ns: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.schema not in ("", *SCHEMAS) or self.moments not in ("sweeps", "keyframes"):
            raise ValueError(
                f"source: expected a schema of {SCHEMAS} and moments of sweeps or keyframes, got {self.schema!r} and "
                f"{self.moments!r}"
            )


class Recordings:
    """Scenes of a data set, or bags."""

    def __init__(self, path: Path, options: SourceOptions = SourceOptions()) -> None:
        """DatasetError or BagError where nothing is to be found there."""
        self.path, self.options = path, options
        if not path.exists():
            raise DatasetError(f"{path}: no such file or folder; give a data set in the nuScenes schema, DDAD or a bag")
        self.schema = options.schema or guess_schema(path)
        self._source: NuScenesSource | DdadSource | None = None
        self._bags: dict[str, BagSource] = {}
        if self.schema == "nuscenes":
            version = options.version or find_version(path)
            self._source = NuScenesSource(path, version, follow_outside=options.follow_outside)
        elif self.schema == "ddad":
            self._source = DdadSource(path, follow_outside=options.follow_outside)
        else:
            self._bags = {each.index.name: each for each in open_bags(replace(options.bag, path=str(path)))}

    def names(self) -> tuple[str, ...]:
        return tuple(self._bags) if self._source is None else tuple(self._source.scene_names())

    def choose(self, wanted: Sequence[str] | None) -> tuple[str, ...]:
        """The recordings of these names, or all; DatasetError names those that are absent, BagError several rigs."""
        known = self.names()
        absent = [name for name in wanted or () if name not in known]
        if absent:
            few = ", ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
            raise DatasetError(f"{self.path}: has no scene named {', '.join(absent)}; there are {few}")
        chosen = tuple(dict.fromkeys(wanted)) if wanted else known
        if self._bags:
            way_out = "name the cameras of one, or its recordings"
            check_one_rig({name: self._bags[name].cameras.names for name in chosen}, self.path, way_out)
        return chosen

    def entries(self, name: str) -> tuple[Entry, ...]:
        """The moments of a recording in time order, with 2D labels where there are any."""
        until = self.options.until_ns.get(name)
        found = self._all_entries(name)
        return found if until is None else tuple(each for each in found if each.frame.camera_stamps_ns[0] < until)

    def _all_entries(self, name: str) -> tuple[Entry, ...]:
        masks = self.options.masks or None
        if isinstance(self._source, NuScenesSource):
            return self._source.index(name, sweeps=self.options.moments == "sweeps", semantics=True, masks=masks)
        if isinstance(self._source, DdadSource):
            return self._source.index(name, semantics=True, masks=masks)
        found = self._bags[name].entries(masks)
        if not found:
            raise DatasetError(f"{self._bags[name].index.path}: {self._bags[name].explain_no_sets()}")
        return tuple(found)


def recordings_of(data: DataConfig) -> Recordings:
    """What a training with these settings reads: its cameras, topics and masks, without what it leaves out."""
    options = SourceOptions(
        schema="bag" if data.bag.path else data.schema,
        version="" if data.bag.path or data.schema != "nuscenes" else data.version,
        moments=data.moments,
        masks=data.masks,
        follow_outside=data.follow_outside,
        bag=data.bag,
        until_ns=first_left_out(data) if data.left_out else {},
    )
    return Recordings(Path(data.bag.path or data.dataroot), options)


def guess_schema(path: Path) -> str:
    if path.is_dir():
        if any(each.is_dir() for each in path.glob("v1.0-*")):
            return "nuscenes"
        if next(path.glob("*/scene_*.json"), None) or next(path.glob("scene_*.json"), None):
            return "ddad"
        if next(path.glob("*.json"), None) and not next(path.glob("**/metadata.yaml"), None):
            return "ddad"
    return "bag"


def find_version(path: Path) -> str:
    found = sorted(each.name for each in path.glob("v1.0-*") if each.is_dir())
    if len(found) != 1:
        raise DatasetError(
            f"{path}: has {', '.join(found)}; say which with --version"
            if found
            else f"{path}: has no folder of tables such as v1.0-mini; is it a data set in the nuScenes schema?"
        )
    return found[0]


__all__ = ["SCHEMAS", "Recordings", "SourceOptions", "find_version", "guess_schema", "recordings_of"]
