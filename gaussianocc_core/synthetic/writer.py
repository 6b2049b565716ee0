# SPDX-License-Identifier: Apache-2.0
"""Worlds to disk: a data set in the nuScenes v1.0 schema with Occ3D labels, 2D labels and true depth beside it.

Layout under the output folder (paths as the published loaders expect them):
    v1.0-mini/*.json                                       the 13 tables
    samples/<CAM>/*.jpg, sweeps/<CAM>/*.jpg                12 Hz images, every sixth a keyframe
    samples/LIDAR_TOP/*.pcd.bin                            float32 x y z intensity ring
    gts/<scene>/<sample token>/labels.npz                  semantics, mask_camera, mask_lidar: uint8 [x, y, z]
    nuscenes_semantic/{samples,sweeps}/<CAM>/*_mask.bin    raw int8 at image size, generator ids
    depth_full/samples/<CAM>/*.npy                         float32 z-depth, metres, 0 = none
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float

from gaussianocc_core import __version__
from gaussianocc_core.errors import DatasetError
from gaussianocc_core.files import make_hidden_folder, replace_folder
from gaussianocc_core.geometry.pixel_centers import to_opencv
from gaussianocc_core.labels import occ3d_to_generator
from gaussianocc_core.synthetic.draw import WORLDS, RandomScene, random_scene
from gaussianocc_core.synthetic.fleet import Rig, draw_rig
from gaussianocc_core.synthetic.rig import Lidar, camera_offsets, default_rig
from gaussianocc_core.synthetic.tables import Tables, token
from gaussianocc_core.synthetic.world import Annotation, Frame, World, occupancy, render_frame, scan_lidar
from gaussianocc_core.types import Cameras, VoxelGrid

VERSION = "v1.0-mini"  # the version name under which the devkit finds the tables
MARKER = "synthetic.json"  # says how the data set was made; its presence allows --overwrite
KEYFRAME_RATE, CAMERA_RATE = 2, 12  # Hz
EPOCH = 1_767_225_600_000_000  # us; 2026-01-01 00:00 UTC, so that the same seed gives the same bytes
JPEG_QUALITY = 92
MAX_DEPTH = 200.0  # m; what lies beyond counts as none


def scene_world(seed: int, index: int, frames: int) -> World:
    """The world of scene `index` (0-based) of a data set with this seed and number of keyframes."""
    return World(seed * 1000 + index, duration=0.5 * frames + 1.0)


CLASSIC = "classic"  # the streets of `World(seed)`; the other worlds are those of draw.py


def write_dataset(
    output: str | Path,
    scenes: int = 1,
    frames: int = 10,
    seed: int = 0,
    cameras: Cameras | str | None = None,
    sweeps: bool = True,
    overwrite: bool = False,
    progress: bool = True,
    world: str = CLASSIC,
) -> Path:
    """Write `scenes` scenes of `frames` keyframes (2 Hz) each and return the folder.

    The folder appears only when it is complete. Scene i of seed S is always World(S * 1000 + i), or
    random_scene(S * 1000 + i) where `world` is one of draw.WORLDS, so different seeds share no scene. `cameras`:
    "random" draws one rig for the whole data set by its seed; None: the default rig. Raises DatasetError if the folder
    exists and `overwrite` is not set, or holds something else, or if an argument is none of these.
    """
    if world not in (CLASSIC, *WORLDS):
        raise DatasetError(f"world: expected one of {', '.join((CLASSIC, *WORLDS))}, got {world!r}")
    if isinstance(cameras, str) and cameras != "random":
        raise DatasetError(f"cameras: expected a rig or 'random', got {cameras!r}")
    if scenes < 1 or frames < 1 or scenes > 1000:
        raise DatasetError(
            f"scenes and frames: expected 1 to 1000 scenes of at least one keyframe, got {scenes} x {frames}"
        )
    if seed < 0:
        raise DatasetError(f"seed: expected 0 or more, got {seed}")
    output = Path(output)
    drawn = draw_rig(seed) if isinstance(cameras, str) else None
    given = default_rig() if cameras is None else cameras
    rig = drawn or given
    assert not isinstance(rig, str)
    with _complete_or_nothing(output, overwrite) as folder:
        writer = _SceneWriter(folder, seed, rig, sweeps)
        writer.tables.add_fixed(writer.cameras, writer.lidar)
        names = [f"synthetic-{number:04d}" for number in range(1, scenes + 1)]
        images = (frames - 1) * (CAMERA_RATE // KEYFRAME_RATE) + 1 if sweeps else frames
        with _progress(scenes * images, progress) as tick:
            for index, name in enumerate(names):
                writer.write_scene(name, _scene(world, seed, index, frames, rig), frames, index, tick)
        (folder / "maps").mkdir()
        _write_image(folder / "maps" / "blank.png", np.full((16, 16), 255, dtype=np.uint8))
        writer.tables.write(folder / VERSION, "maps/blank.png")
        _write_notes(folder, names, frames, seed, writer.cameras, writer.lidar, sweeps, world, drawn is not None)
    return output


def _scene(world: str, seed: int, index: int, frames: int, rig: Rig | Cameras) -> World | RandomScene:
    if world == CLASSIC:
        return scene_world(seed, index, frames)
    return random_scene(seed * 1000 + index, world, rig, duration=0.5 * frames + 1.0)


def _lidar_of(rig: Rig | Cameras) -> Lidar:
    """Where it sits: on a drawn vehicle above all else, on others as on the default car."""
    if not isinstance(rig, Rig):
        return Lidar()
    vehicle = rig.vehicle
    top = max(vehicle.height, float(rig.cameras.T_ego_cam[:, 2, 3].max())) + 0.2
    return Lidar(translation=(round(0.5 * vehicle.length - vehicle.rear, 3), 0.0, round(top, 3)))


class _SceneWriter:
    """Renders scenes and files what it sees; `tables` collects the rows."""

    def __init__(self, folder: Path, seed: int, rig: Rig | Cameras, sweeps: bool) -> None:
        self.folder, self.seed, self.sweeps = folder, seed, sweeps
        self.cameras = rig.cameras if isinstance(rig, Rig) else rig
        self.lidar = _lidar_of(rig)
        self.tables = Tables(seed)
        self.grid = VoxelGrid()
        self._generator_ids = occ3d_to_generator()
        self._offsets = list(rig.offsets) if isinstance(rig, Rig) else camera_offsets(rig)
        self._bodies: tuple[np.ndarray, ...] = ()  # where the cameras see their own vehicle, once a frame told it

    def _look(self, scene: World | RandomScene, times: list[float]) -> Frame:
        if isinstance(scene, World):
            return render_frame(scene, self.cameras, camera_times=times)
        return scene.render(camera_times=times)

    def write_scene(self, scene: str, take: World | RandomScene, frames: int, index: int, tick) -> None:
        world = take if isinstance(take, World) else take.world
        start = EPOCH + index * 3_600_000_000
        self.tables.open_scene()
        samples = [
            (token(self.seed, scene, "sample", k), start + k * 1_000_000 // KEYFRAME_RATE) for k in range(frames)
        ]
        per_keyframe = CAMERA_RATE // KEYFRAME_RATE
        for k, (sample, stamp) in enumerate(samples):
            for sweep in range(per_keyframe if self.sweeps and k + 1 < frames else 1):
                at = k / KEYFRAME_RATE + sweep / CAMERA_RATE
                # A sweep belongs to the keyframe that is nearest in time.
                owner = samples[k + 1][0] if 2 * sweep > per_keyframe else sample
                self._write_images(scene, take, at, start, owner, key_frame=sweep == 0)
                tick()
            self._write_keyframe(scene, world, k / KEYFRAME_RATE, stamp, sample)
        style = "sweeps at 12 Hz" if self.sweeps else "keyframes only"
        self.tables.close_scene(
            scene,
            f"{world.site.description}, {style}",
            samples,
            "2026-01-01",
            f"synthetic-{world.seed}",
        )

    def _write_images(
        self, scene: str, take: World | RandomScene, at: float, start: int, sample: str, key_frame: bool
    ) -> None:
        # Whole microseconds, so that the tables and the renderer agree on the moment exactly.
        stamps = [round((at + offset) * 1e6) for offset in self._offsets]
        frame = self._look(take, [stamp * 1e-6 for stamp in stamps])
        self._bodies = frame.bodies
        kind = "samples" if key_frame else "sweeps"
        for index, camera in enumerate(self.cameras.names):
            stem = f"{kind}/{camera}/{scene}__{camera}__{start + stamps[index]}"
            self.tables.add_sensor_data(
                scene,
                sample,
                camera,
                start + stamps[index],
                f"{stem}.jpg",
                key_frame,
                take.T_world_ego(stamps[index] * 1e-6),
                self.cameras.width[index],
                self.cameras.height[index],
            )
            _write_image(self._path(f"{stem}.jpg"), frame.images[index][..., ::-1])
            mask = self._generator_ids[frame.labels[index]]
            if frame.bodies:
                mask[frame.bodies[index]] = -1
            self._path(f"nuscenes_semantic/{stem}_mask.bin").write_bytes(mask.tobytes())
            if key_frame:
                depth = frame.depths[index]
                np.save(self._path(f"depth_full/{stem}.npy"), np.where(depth < MAX_DEPTH, depth, np.float32(0)))

    def _write_keyframe(self, scene: str, world: World, at: float, stamp: int, sample: str) -> None:
        points = scan_lidar(world, at, self.lidar)
        filename = f"samples/{self.lidar.name}/{scene}__{self.lidar.name}__{stamp}.pcd.bin"
        self._path(filename).write_bytes(points.tobytes())
        T_world_ego = world.T_world_ego(at)
        self.tables.add_sensor_data(scene, sample, self.lidar.name, stamp, filename, True, T_world_ego)
        times = [round((at + offset) * 1e6) * 1e-6 for offset in self._offsets]
        truth = occupancy(world, at, self.grid, self.cameras, times, self.lidar, self._bodies)
        np.savez_compressed(
            self._path(f"gts/{scene}/{sample}/labels.npz"),
            semantics=truth.semantics,
            mask_lidar=truth.mask_lidar.astype(np.uint8),
            mask_camera=truth.mask_camera.astype(np.uint8),
        )
        T_world_lidar = T_world_ego @ self.lidar.T_ego_lidar
        points_world = points[:, :3].astype(np.float64) @ T_world_lidar[:3, :3].T + T_world_lidar[:3, 3]
        for box in world.annotations(at):
            count = _points_in_box(points_world, box)
            if count:
                self.tables.add_annotation(scene, sample, box, count)

    def _path(self, relative: str) -> Path:
        path = self.folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _write_image(path: Path, image: np.ndarray) -> None:
    # Not cv2.imwrite: it returns False, or warns, where a full disk makes write_bytes raise.
    settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if path.suffix == ".jpg" else []  # PNG would warn
    good, data = cv2.imencode(path.suffix, image, settings)
    if not good:
        raise DatasetError(f"{path.name}: OpenCV could not encode the image")
    path.write_bytes(data.tobytes())


def _points_in_box(points: Float[np.ndarray, "P 3"], box: Annotation) -> int:
    rel = points - np.asarray(box.centre)
    c, s = math.cos(box.yaw), math.sin(box.yaw)
    along, left = c * rel[:, 0] + s * rel[:, 1], -s * rel[:, 0] + c * rel[:, 1]
    half = 0.5 * np.asarray(box.size) + 1e-3
    return int(((np.abs(along) <= half[0]) & (np.abs(left) <= half[1]) & (np.abs(rel[:, 2]) <= half[2])).sum())


@contextmanager
def _complete_or_nothing(output: Path, overwrite: bool) -> Iterator[Path]:
    """A folder beside `output` that takes its name when the block succeeds and vanishes when it does not."""
    if output.exists():
        if not overwrite:
            raise DatasetError(f"{output} exists: choose another --output, or pass --overwrite to replace it")
        if not output.is_dir() or (any(output.iterdir()) and not (output / MARKER).exists()):
            raise DatasetError(f"{output} is not a synthetic data set (no {MARKER} in it), so it is not overwritten")
    hidden = None
    try:
        hidden = make_hidden_folder(output)
        partial = hidden / output.name
        partial.mkdir()
        yield partial
        replace_folder(output, partial, hidden / f"{output.name}.replaced")
    except OSError as error:
        raise DatasetError(f"{error.filename or output}: {error.strerror or error}; nothing was written") from error
    finally:
        if hidden is not None:
            shutil.rmtree(hidden, ignore_errors=True)


@contextmanager
def _progress(total: int, show: bool):
    """A function to call once per rendered moment of the rig."""
    if not show:
        yield lambda: None
        return
    from tqdm import tqdm

    # The first frame waits for the kernels, up to a minute: its time says nothing about the others'.
    bar_format = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}"
    with tqdm(total=total, unit="frame", desc="compiling the renderer (once)", bar_format=bar_format) as bar:

        def step() -> None:
            if not bar.n:
                bar.reset()
                bar.bar_format, bar.smoothing = None, 0.1
                bar.set_description("rendering")
            bar.update(1)

        yield step


def _write_notes(
    folder: Path,
    names: list[str],
    frames: int,
    seed: int,
    cameras: Cameras,
    lidar: Lidar,
    sweeps: bool,
    world: str,
    drawn: bool,
) -> None:
    rig = {
        name: {
            "width": cameras.width[i],
            "height": cameras.height[i],
            "model": cameras.model[i],
            "distortion": list(cameras.distortion[i]),
            "intrinsics": to_opencv(cameras.intrinsics[i]).tolist(),
            "T_ego_cam": cameras.T_ego_cam[i].tolist(),
        }
        for i, name in enumerate(cameras.names)
    }
    notes = {
        "generator": "gaussianocc_core.synthetic",
        "generator_version": __version__,
        "seed": seed,
        "scenes": names,
        "keyframes_per_scene": frames,
        "sweeps": sweeps,
        "lidar": asdict(lidar),
        "cameras": rig,
        "licence": "Apache-2.0",
        "world": world,
        "rig": "random" if drawn else "given",
    }
    (folder / MARKER).write_text(json.dumps(notes, indent=1))
    (folder / "README.md").write_text(
        _README.format(
            scenes=len(names),
            frames=frames,
            seed=seed,
            version=__version__,
            options="" if world == CLASSIC and not drawn else f" --world {world}" + (" --rig random" if drawn else ""),
        )
    )


_README = """# Synthetic street scenes

{scenes} scene(s) of {frames} keyframes, seed {seed}, made by gaussianocc_core.synthetic {version}. Everything here is
computed, nothing was recorded. Licence: Apache-2.0, like the generator. The same generator version, rig and seed give
the same bytes:

    python tools/make_synthetic_nuscenes.py --output DIR --scenes {scenes} --frames {frames} --seed {seed}{options}

nuScenes v1.0 schema; nuscenes-devkit 1.2.0 loads it: `NuScenes("v1.0-mini", DIR)`. Ego frame: x forward, y left, z up,
origin on the ground under the rear axle. Images are 12 Hz, each cast at its own time with its own ego pose; keyframes
and lidar are 2 Hz.

| path | what |
|---|---|
| `v1.0-mini/` | tables, with 3D boxes of vehicles, people, cones and barriers that the lidar hits |
| `samples/`, `sweeps/` | JPEG images; `samples/LIDAR_TOP`: float32 x y z intensity ring |
| `gts/<scene>/<sample token>/labels.npz` | Occ3D: semantics, mask_camera, mask_lidar; uint8 [x, y, z], 0.4 m |
| `nuscenes_semantic/**/*_mask.bin` | raw int8 at image size: 1 sedan, ... 16 sky, -1 none, as the own body |
| `depth_full/samples/**/*.npy` | float32 z-depth in metres at image size, 0 = sky, own body or beyond 200 m |
| `synthetic.json` | seed, generator version, rig |

A voxel is occupied if the ground's surface or any solid touches it. Where classes share a voxel, small and rare ones
win: person, cone, bicycle, motorcycle, barrier, car, construction vehicle, bus, truck, trailer, manmade, vegetation,
then the ground. A voxel is visible (mask_camera, mask_lidar) if a ray passes it up to and including the first occupied
voxel on its way.
"""
