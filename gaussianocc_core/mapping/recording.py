# SPDX-License-Identifier: Apache-2.0
"""One recording into labels: sets in, moments out, in time order and with memory that does not grow."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from gaussianocc_core.checkpoint import LoadedDepthNet, load_depth_net, with_image_size
from gaussianocc_core.data.sources import Entry
from gaussianocc_core.errors import BagError, CheckpointError, DatasetError
from gaussianocc_core.mapping.carving import CarvedLabels, CarveSettings, carve, choose_sets, make_rays
from gaussianocc_core.mapping.depth_files import DepthFolder, check_scale
from gaussianocc_core.mapping.label_files import SceneCounts
from gaussianocc_core.mapping.matched import MatchedDepth, MatchSettings
from gaussianocc_core.mapping.motion import AUTO, IMAGES, RECORDED, LearntMotion, Motion, RecordedMotion
from gaussianocc_core.mapping.sets import DepthMaps, PlacedSet, RaySet, SeenSet, see
from gaussianocc_core.models.depth_net import DepthNet
from gaussianocc_core.preprocess import Preprocessor
from gaussianocc_core.types import VoxelGrid

_CHECKED = 5  # sets whose depth images are compared with the ground

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordingSettings:
    """All that labels depend on, beside the recording and the checkpoint."""

    motion: str = AUTO  # "recorded", "images", or "auto": recorded where the recording has it
    depth: DepthFolder | None = None  # in place of matched depth
    # Width and height of the images that depth is matched in, px; None: as the network was trained. Nobody waits for
    # carving, and larger images find more and miss less.
    size: tuple[int, int] | None = None
    least_sets: int = 3  # in a moment's window
    least_way: float = 0.3  # m between the farthest sets in it, of matched depth: things are seen from several places
    match: MatchSettings = field(default_factory=MatchSettings)
    carve: CarveSettings = field(default_factory=CarveSettings)

    def __post_init__(self) -> None:
        if self.motion not in (AUTO, IMAGES, RECORDED):
            raise ValueError(f"motion: expected auto, recorded or images, got {self.motion!r}")


def load_matching(path: str | Path, size: tuple[int, int] | None = None) -> LoadedDepthNet:
    """The depth network of a first stage; CheckpointError where it does not match, and so does not say how far off its
    depth may be. size: width and height of the images that it is shown, px; None: as it was trained."""
    loaded = load_depth_net(path)
    if not loaded.depth_net.matches:
        raise CheckpointError(
            f"{path}: its depth network looks at each image alone and does not say how sure it is; give a first stage "
            "that matches, such as gaussianocc_core/weights/tiny_matching.safetensors"
        )
    return loaded if size is None else replace(loaded, config=with_image_size(loaded.config, *size, path))


def choose_motion(wanted: str, entries: Sequence[Entry], scene: str) -> str:
    """RECORDED or IMAGES."""
    known = sum(each.frame.T_world_ego is not None for each in entries)
    if wanted == RECORDED and not known:
        raise DatasetError(f"{scene}: has no odometry; carve with --motion images")
    if wanted != AUTO:
        return wanted
    return RECORDED if 2 * known >= len(entries) and known else IMAGES


@runtime_checkable
class Depths(Protocol):
    """Sets in time order -> the same with depth."""

    @property
    def without_motion(self) -> int: ...

    def add(self, seen: SeenSet, entry: Entry) -> list[tuple[PlacedSet, DepthMaps]]: ...

    def flush(self) -> list[tuple[PlacedSet, DepthMaps]]: ...


class _Matched:
    def __init__(self, matched: MatchedDepth) -> None:
        self._matched = matched

    @property
    def without_motion(self) -> int:
        return self._matched.without_motion

    def add(self, seen: SeenSet, entry: Entry) -> list[tuple[PlacedSet, DepthMaps]]:
        return self._matched.add(seen)

    def flush(self) -> list[tuple[PlacedSet, DepthMaps]]:
        return self._matched.flush()


class _Given:
    """Depth images of a folder."""

    def __init__(self, folder: DepthFolder, depth_net: DepthNet, motion: Motion) -> None:
        self._folder, self._net, self._motion = folder, depth_net, motion
        self.without_motion = 0
        self._first: list[tuple[PlacedSet, DepthMaps]] | None = []  # until the scale is checked

    def add(self, seen: SeenSet, entry: Entry) -> list[tuple[PlacedSet, DepthMaps]]:
        import torch

        maps = self._folder.load(entry, seen.lenses)
        with torch.inference_mode():
            colors = torch.from_numpy(seen.pixels).permute(0, 3, 1, 2).float() / 255.0
            placed = self._motion.place(seen, self._net.image_encoder.look(colors))
        if placed is None:
            self.without_motion += 1
            return []
        if self._first is None:
            return [(placed, maps)]
        self._first.append((placed, maps))
        return self.flush() if len(self._first) == _CHECKED else []

    def flush(self) -> list[tuple[PlacedSet, DepthMaps]]:
        found, self._first = self._first or [], None
        check_scale(found, f"--depth {self._folder.path}")
        return found


class RecordingCarver:
    """Labels of one recording's moments, as an iterator; `counts` says what became of them."""

    def __init__(
        self,
        loaded: LoadedDepthNet,
        entries: Sequence[Entry],
        scene: str,
        settings: RecordingSettings = RecordingSettings(),
        skip: frozenset[str] = frozenset(),
        in_label_frame: bool = False,
    ) -> None:
        """skip: tokens whose labels are there already; in_label_frame: in the frame of the true labels, for measuring.

        DatasetError where there are too few sets.
        """
        self.loaded, self.entries, self.scene, self.settings, self.skip = loaded, entries, scene, settings, skip
        self.grid: VoxelGrid = loaded.config.grid
        self.counts = SceneCounts(moments=len(entries))
        self.in_label_frame = in_label_frame
        if len(entries) < settings.least_sets:
            raise DatasetError(
                f"{scene}: has {len(entries)} sets of images, carving needs at least {settings.least_sets}; record "
                "longer"
            )
        if settings.depth is not None:
            for entry in entries:
                settings.depth.find(entry)  # a missing file is said before anything is written
        self.motion = choose_motion(settings.motion, entries, scene)
        self._window: list[RaySet] = []
        self._done = 0
        self._last: PlacedSet | None = None

    def __iter__(self) -> Iterator[CarvedLabels | None]:
        """One for each set whose turn it is: None where nothing is carved (see `counts`)."""
        depths = self._open()
        preprocess = Preprocessor.of(self.loaded.config)
        refused, first = 0, None
        for entry in self.entries:
            try:
                sample = entry.load()
                seen = see(sample, preprocess(sample.cameras, sample.static_masks))
            except (BagError, DatasetError) as error:
                refused += 1
                first = first or error
                _log.warning("%s: a set is left out: %s", self.scene, error)
                yield None
                continue
            before = depths.without_motion
            found = depths.add(seen, entry)
            if depths.without_motion > before:
                yield None
            yield from self._take(found)
        yield from self._take(depths.flush())
        yield from self._finish(True)
        self.counts.unreadable, self.counts.without_motion = refused, depths.without_motion
        if refused == len(self.entries) and first is not None:
            raise DatasetError(f"{self.scene}: none of its {refused} sets can be read; the first: {first}")
        self._explain()

    def _open(self) -> Depths:
        config, net = self.loaded.config, self.loaded.depth_net
        motion: Motion = RecordedMotion()
        if self.motion == IMAGES:
            motion = LearntMotion(net, config.image_width, config.image_height)
        if self.settings.depth is not None:
            return _Given(self.settings.depth, net, motion)
        return _Matched(MatchedDepth(net, config.image_width, config.image_height, motion, self.settings.match))

    def _take(self, found: Sequence[tuple[PlacedSet, DepthMaps]]) -> Iterator[CarvedLabels | None]:
        for placed, maps in found:
            if self._last is not None and self._last.run == placed.run:
                step = placed.T_world_ego[:3, 3] - self._last.T_world_ego[:3, 3]
                self.counts.way_m += float(np.linalg.norm(step))
            self._last = placed
            self._window.append(make_rays(placed, maps, self.settings.carve))
            yield from self._finish(False)

    def _finish(self, end: bool) -> Iterator[CarvedLabels | None]:
        """Moments whose window is complete."""
        window = self.settings.carve.window
        while self._done < len(self._window):
            moment, newest = self._window[self._done], self._window[-1]
            if not (end or newest.run != moment.run or newest.stamp_s - moment.stamp_s > window):
                return
            yield self._carve(moment)
            self._done += 1
            while self._done and self._window[0].stamp_s < moment.stamp_s - window:
                del self._window[0]
                self._done -= 1

    def _carve(self, moment: RaySet) -> CarvedLabels | None:
        s = self.settings
        sets = choose_sets(self._window, moment, s.carve)
        places = np.array([each.T_world_ego[:3, 3] for each in sets])
        way = float(np.linalg.norm(places - places[0], axis=1).max())
        if len(sets) < s.least_sets or (s.depth is None and way < s.least_way):
            self.counts.alone += 1
            return None
        if moment.token in self.skip:
            self.counts.labelled += 1
            return None
        frame = moment.T_ego_labels if self.in_label_frame else None
        return carve(sets, moment, self.grid, s.carve, frame)

    def _explain(self) -> None:
        """DatasetError where nothing at all came of it."""
        counts = self.counts
        if counts.labelled or not counts.alone + counts.without_motion:
            return
        if counts.without_motion > counts.alone:
            raise DatasetError(
                f"{self.scene}: the motion of {counts.without_motion} of {counts.moments} sets is not known; carve "
                "with --motion images, or record odometry"
            )
        if counts.way_m < self.settings.least_way:
            raise DatasetError(
                f"{self.scene}: the rig moved {counts.way_m:.2f} m in {counts.moments} sets: it stands, and depth "
                "needs several places; drive, or give --depth"
            )
        raise DatasetError(
            f"{self.scene}: too short or too slow: in none of {counts.moments} sets' windows of "
            f"{self.settings.carve.window:g} s were {self.settings.least_sets} sets over {self.settings.least_way:g} m"
        )


__all__ = ["RecordingCarver", "RecordingSettings", "choose_motion", "load_matching"]
