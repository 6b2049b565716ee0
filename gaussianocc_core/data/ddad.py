# SPDX-License-Identifier: Apache-2.0
"""DDAD, or any data set of scenes in the DGP format: its samples, and the raw stream of a scene for the bag writer."""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from gaussianocc_core.bags.convert import INCLUDED, LEFT_OUT
from gaussianocc_core.bags.schema import (
    TF_STATIC_TOPIC,
    TF_TOPIC,
    BagRig,
    ImageRecord,
    LidarRecord,
    PoseRecord,
    Record,
    image_topic,
    info_topic,
    points_topic,
)
from gaussianocc_core.data.dgp_scene import (
    Datum,
    Scene,
    find_scene_index,
    find_T_world_ego,
    image_format,
    read_extrinsics,
    read_field,
    read_intrinsics,
    read_points,
    read_scene,
)
from gaussianocc_core.data.entries import FrameEntry, SampleEntry, read_file
from gaussianocc_core.errors import BagError, DatasetError
from gaussianocc_core.geometry import transforms
from gaussianocc_core.geometry.cameras import counter_clockwise
from gaussianocc_core.labels import IGNORE
from gaussianocc_core.mistakes import reading
from gaussianocc_core.names import DataRoot, check_name
from gaussianocc_core.types import Cameras, Sample

logger = logging.getLogger(__name__)

SPLITS = {"train": "0", "val": "1", "test": "2"}  # names of the keys of scene_splits


@dataclass(frozen=True)
class DdadRecording:
    """A scene, ready to be read."""

    name: str
    source: str  # name of the scene index
    scene: Scene
    rig: BagRig
    lidar: bool
    absent: frozenset[str] = frozenset()  # keys of data whose files do not exist, as of a part of a data set

    @property
    def provenance(self) -> dict[str, str]:
        lidar = INCLUDED if self.lidar else LEFT_OUT
        return {"source": f"DGP scenes of {self.source}", "scene": self.name, "lidar": lidar}

    @property
    def files(self) -> int:
        """How many files `records` reads."""
        return sum(map(self._is_wanted, self.scene.data))

    def open_rig(self) -> BagRig:
        return self.rig if self.lidar else replace(self.rig, T_ego_lidar={})

    def count_messages(self) -> dict[str, int]:
        """Messages by topic, without opening a file."""
        counts = Counter({TF_STATIC_TOPIC: 1, TF_TOPIC: len({datum.stamp_ns for datum in self.scene.data})})
        for datum in filter(self._is_wanted, self.scene.data):
            if datum.is_camera:
                counts.update((image_topic(datum.sensor), info_topic(datum.sensor)))
            else:
                counts[points_topic(datum.sensor)] += 1
        return dict(counts)

    def records(self) -> Iterator[Record]:
        """The scene in time order, files read one at a time: a pose at every sensor stamp, images, lidar sweeps.

        Cameras of one moment share a stamp: its pose is that of the first of them, anchor before others. Poses at
        lidar stamps come along in any case.
        """
        T_odom_world = transforms.invert_matrix(self.rig.T_map_odom)
        posed_ns = None
        for datum in self.scene.in_time_order(self.rig.cameras.names):
            if datum.stamp_ns != posed_ns:
                yield PoseRecord(datum.stamp_ns, T_odom_world @ find_T_world_ego(self.scene, datum))
                posed_ns = datum.stamp_ns
            if not self._is_wanted(datum):
                continue
            if datum.is_camera:
                data = read_file(datum.path, datum.key)
                source = f"datum {datum.key}, {datum.path}"
                yield ImageRecord(datum.stamp_ns, datum.sensor, data, image_format(data), source)
            else:
                yield LidarRecord(datum.stamp_ns, datum.sensor, read_points(datum))

    def _is_wanted(self, datum: Datum) -> bool:
        if datum.key in self.absent:
            return False
        return datum.sensor in self.rig.cameras.names if datum.is_camera else self.lidar


class DdadSource:
    """The scenes of one data root. Opening reads the scene index; a scene is read when it is first asked for."""

    def __init__(
        self, dataroot: Path | str, cameras: Sequence[str] | None = None, follow_outside: bool = False
    ) -> None:
        """dataroot: the folder of the scene index (`ddad.json`, or any name), or that file itself.

        cameras: names in the wanted order, anchor first; default all, counter-clockwise from the front.
        follow_outside: links in the data root may lead out of it. DatasetError where a name in a file could become
        another path than it should.
        """
        self._index_path, splits = find_scene_index(Path(dataroot))
        self.dataroot = self._index_path.parent
        self._root = DataRoot(self.dataroot, DatasetError, follow_outside)
        self._wanted_cameras = tuple(cameras) if cameras is not None else None
        self._files: dict[str, Path] = {}  # scene -> its JSON file
        self._splits = {key: self._add_scenes(key, splits[key]) for key in sorted(splits)}
        self._scenes: dict[str, Scene] = {}

    @property
    def name(self) -> str:
        """The scene index's name."""
        return self._index_path.name

    def scene_names(self, split: str | None = None) -> tuple[str, ...]:
        """Names of the scenes' folders, of one split ("train", "val", "test") or of all."""
        if split is None:
            return tuple(self._files)
        key = SPLITS.get(split, split)
        if key not in self._splits:
            names = {number: name for name, number in SPLITS.items()}
            known = ", ".join(names.get(each, each) for each in self._splits)
            raise DatasetError(f"split {split!r} is not in {self._index_path}; it has {known or 'none'}")
        return self._splits[key]

    # ---- samples ---------------------------------------------------------------------------------------------------

    def index(
        self,
        scene: str,
        *,
        neighbours: bool = False,
        semantics: bool = False,
        depths: bool = False,
        masks: str | Path | None = None,
        undetected: int = IGNORE,
    ) -> tuple[SampleEntry, ...]:
        """The synchronised samples of a scene in time order; one that lacks a wanted camera is left out with a warning.

        Tokens are file names of the anchor's images, as in the published lists; scenes that overlap share some.
        neighbours: with the samples before and after; `SampleEntry.gap_s` says how far away they are.
        semantics, depths: with ddad_semantic/<scene>/<camera>/<image>_mask.bin and depth/<scene>/depth/<camera>/
            <image>.npy where all cameras have one.
        masks: a folder of <number>.png (01.png for CAMERA_01) or <camera>_mask.png, non-zero where the camera sees the
            world, or None.
        """
        cameras = self.rig(scene).cameras
        mask_paths = _find_masks(Path(masks), scene, cameras.names) if masks is not None else ()
        sets = self._complete_sets(scene, cameras.names)
        frames = [self._frame(data, cameras) for data in sets]
        entries = []
        for i, (data, frame) in enumerate(zip(sets, frames, strict=True)):
            beside = [(offset, frames[i + offset]) for offset in (-1, 1) if 0 <= i + offset < len(frames)]
            entries.append(
                SampleEntry(
                    token=data[0].path.stem,
                    scene=scene,
                    cameras=cameras,
                    frame=frame,
                    neighbours=tuple(beside) if neighbours else (),
                    semantic_paths=self._existing(data, f"ddad_semantic/{scene}", "_mask.bin") if semantics else (),
                    depth_paths=self._existing(data, f"depth/{scene}/depth", ".npy") if depths else (),
                    mask_paths=mask_paths,
                    undetected=undetected,
                )
            )
        return tuple(entries)

    def samples(self, scene: str, **options: Any) -> Iterator[Sample]:
        """The samples of a scene (options as for `index`), read as they are asked for."""
        return (entry.load() for entry in self.index(scene, **options))

    def _complete_sets(self, scene: str, names: Sequence[str]) -> list[list[Datum]]:
        sets = []
        for sample in self._scene(scene).samples:
            missing = [name for name in names if name not in sample]
            if missing:
                stamp_ns = min(datum.stamp_ns for datum in sample.values())
                logger.warning(
                    "%s: the sample at %d ns has no image of %s and is left out", scene, stamp_ns, ", ".join(missing)
                )
            else:
                sets.append([sample[name] for name in names])
        return sorted(sets, key=lambda data: data[0].stamp_ns)

    @staticmethod
    def _frame(data: Sequence[Datum], cameras: Cameras) -> FrameEntry:
        # From each camera's own pose, though images of one moment share a stamp: so T_world_cam is exactly the file's.
        T_cam_ego = transforms.invert(cameras.T_ego_cam).numpy()
        return FrameEntry(
            image_tokens=tuple(datum.key for datum in data),
            image_paths=tuple(datum.path for datum in data),
            camera_stamps_ns=tuple(datum.stamp_ns for datum in data),
            T_world_ego=np.stack([datum.T_world_sensor for datum in data]) @ T_cam_ego,
        )

    def _existing(self, data: Sequence[Datum], folder: str, ending: str) -> tuple[Path, ...]:
        """Companion files of the images, if every camera has one."""
        paths = tuple(self.dataroot / folder / datum.sensor / f"{datum.path.stem}{ending}" for datum in data)
        there = all(path.is_file() for path in paths)
        return tuple(self._root.check(path, folder) for path in paths) if there else ()

    # ---- the raw stream --------------------------------------------------------------------------------------------

    def rig(self, scene: str) -> BagRig:
        """Sensors of a scene with this scene's calibration; odom is the vehicle's pose at the scene's first stamp.

        Images are undistorted. Neither ROS nor OpenCV nor the renderers know a skew, so one is a CalibrationError.
        """
        read = self._scene(scene)
        first = read.first_of(cameras=True)
        T_ego_cam = {name: read_extrinsics(read, name) for name in first}
        names = self._wanted_cameras or counter_clockwise(T_ego_cam)
        missing = [name for name in names if name not in first]
        if missing or not names:
            raise DatasetError(f"scene {scene} has no camera {', '.join(missing)}; it has {', '.join(first) or 'none'}")
        sizes = [first[name].size or (0, 0) for name in names]
        cameras = Cameras(
            names=names,
            intrinsics=torch.from_numpy(np.stack([read_intrinsics(read, name) for name in names])),
            T_ego_cam=torch.from_numpy(np.stack([T_ego_cam[name] for name in names])),
            width=tuple(width for width, _ in sizes),
            height=tuple(height for _, height in sizes),
        )
        T_ego_lidar = {name: read_extrinsics(read, name) for name in read.first_of(cameras=False)}
        return BagRig(cameras, T_ego_lidar, find_T_world_ego(read, read.in_time_order(names)[0]))

    def recording(self, scene: str, *, lidar: bool = True) -> DdadRecording:
        """What is needed to write a scene's bag, without reading any image or points.

        Files that its JSON lists and that are not there, as in a part of a data set, are left out with a warning that
        counts them; DatasetError where none is there.
        """
        found = self._scene(scene)
        data = [datum for datum in found.data if lidar or datum.is_camera]
        absent = [datum for datum in data if not datum.path.is_file()]
        if absent:
            counts = Counter(datum.sensor for datum in absent)
            each = ", ".join(f"{sensor} {count}" for sensor, count in sorted(counts.items()))
            text = f"scene {scene}: {len(absent)} of {len(data)} files that its JSON lists do not exist ({each})"
            if len(absent) == len(data):
                raise DatasetError(f"{text}, such as {absent[0].path}; get them, or leave the scene out")
            logger.warning("%s, such as %s; they are left out", text, absent[0].path)
        missing = frozenset(datum.key for datum in absent)
        return DdadRecording(scene, self.name, found, self.rig(scene), lidar, missing)

    def recording_like(self, scene: str, provenance: Mapping[str, str]) -> DdadRecording:
        """The recording that a bag with this provenance was made from."""
        if provenance.get("scene") != scene or provenance.get("lidar") not in (INCLUDED, LEFT_OUT):
            raise BagError(f"the bag does not say what of {scene} it holds: convert the scene again with --overwrite")
        return self.recording(scene, lidar=provenance["lidar"] == INCLUDED)

    def lidar_world(self, scene: str, entry: SampleEntry) -> Float[np.ndarray, "P 3"] | None:
        """Points (m, world frame) of the lidar sweep of a sample; None if it has none."""
        for sample in self._scene(scene).samples:
            if any(datum.key == entry.frame.image_tokens[0] for datum in sample.values()):
                for datum in sample.values():
                    if not datum.is_camera:
                        points = read_points(datum)[:, :3].astype(np.float64)
                        return points @ datum.T_world_sensor[:3, :3].T + datum.T_world_sensor[:3, 3]
        return None

    def depth_path(self, scene: str, entry: SampleEntry, camera: int) -> Path:
        """Of the published depth file of an image, below the data root (docs/method.md#j)."""
        name = f"{entry.frame.image_paths[camera].stem}.npy"
        return Path("depth") / scene / "depth" / entry.cameras.names[camera] / name

    # ---- scenes ----------------------------------------------------------------------------------------------------

    def _add_scenes(self, key: str, split: Any) -> tuple[str, ...]:
        where = f"scene index {self._index_path}: split {key}"
        names = []
        for filename in read_field(split, "filenames", list, where):
            if not isinstance(filename, str):
                raise DatasetError(f"{where}: expected <scene>/scene_<hash>.json, got {short(filename)}")
            path = self._root.locate(filename, where)
            name = path.parent.name
            if path.parent == self.dataroot:
                raise DatasetError(f"{where}: expected <scene>/scene_<hash>.json, got {short(filename)}")
            check_name(name, f"{where}: scene", DatasetError)
            if self._files.setdefault(name, path) != path:
                raise DatasetError(f"{where}: scene {name} is both {self._files[name]} and {path}; keep one of them")
            names.append(name)
        return tuple(dict.fromkeys(names))

    def _scene(self, name: str) -> Scene:
        if name not in self._files:
            near = difflib.get_close_matches(name, self._files, n=3, cutoff=0.5) or list(self._files)[:3]
            raise DatasetError(
                f"scene {name!r} is not in {self._index_path} ({len(self._files)} scenes); "
                f"did you mean {', '.join(near)}?"
            )
        if name not in self._scenes:
            with reading(f"scene {name} of {self._index_path}", "restore its files", DatasetError):
                self._scenes[name] = read_scene(name, self._files[name], self._root)
        return self._scenes[name]


def _find_masks(folder: Path, scene: str, cameras: Sequence[str]) -> tuple[Path, ...]:
    """One file per camera, non-zero where it sees the world."""
    paths = []
    for camera in cameras:
        candidates = (folder / f"{camera.rpartition('_')[2]}.png", folder / f"{camera}_mask.png")
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            inverted = folder / camera / scene / "mask.png"
            if inverted.is_file():
                raise DatasetError(
                    f"mask {inverted}: masks by camera and scene mean the opposite (non-zero where the camera sees the "
                    f"vehicle) and are not read; expected {candidates[0].name} or {candidates[1].name} in {folder}, "
                    "non-zero where it sees the world"
                )
            raise DatasetError(
                f"masks: {folder} holds no mask of {camera}; expected {candidates[0].name} or {candidates[1].name}, "
                "non-zero where the camera sees the world"
            )
        paths.append(found)
    return tuple(paths)
