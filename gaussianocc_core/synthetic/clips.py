# SPDX-License-Identifier: Apache-2.0
"""Short clips of random rigs with true depth, at network size: what depth by matching is pretrained on.

A network that matches must not know one rig, one focal length or one mounting. So every clip has a rig of its own. Of
two kinds: streets, through which any pinhole rig is carried along any path (a surround rig, a stereo pair, wide views
tilted down, cameras anywhere; by centimetres or metres between frames); and scenes of `draw.random_scene`, with their
places, vehicles, courses and sensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, UInt8

from gaussianocc_core.arrays import read_npz
from gaussianocc_core.bounded import open_archive
from gaussianocc_core.geometry.cameras import view_rotation
from gaussianocc_core.geometry.transforms import make_transform
from gaussianocc_core.types import Cameras

if TYPE_CHECKING:
    from gaussianocc_core.synthetic.draw import RandomScene

SIZES = ((176, 96), (208, 64), (144, 112), (240, 64), (128, 128))  # (width, height), px
_SIZE_SHARES = (0.45, 0.25, 0.12, 0.10, 0.08)
_FIRST_WORLD = 20_000  # seeds of worlds that clips come from: none that a demo, a benchmark or a test uses
_FIRST_SCENE = 60_000
_CLIPS_PER_WORLD = 2
_SCENES_OF_FIVE = 2
_GAPS = (1, 1, 2, 2, 3, 4, 6, 8)  # frames of 12 Hz between moments
_EARLIEST = -1.4  # s, of a scene's drive
_BLOCKED = 0.25  # share of an image that may be nearer than _NEAREST
_NEAREST = 0.5  # m
_MOST_CLIP_BYTES = 1 << 30


@dataclass(frozen=True)
class Clip:
    """T moments of N pinhole cameras, in time order; the last moment is the one whose depth is asked for."""

    images: UInt8[np.ndarray, "T N H W 3"]  # RGB
    depth: Float[np.ndarray, "T N H W"]  # true z-depth, m, float16; 0: sky, -1: unknown (the robot itself)
    intrinsics: Float[np.ndarray, "N 3 3"]  # px of these images
    T_ego_cam: Float[np.ndarray, "N 4 4"]  # m
    T_world_ego: Float[np.ndarray, "T N 4 4"]  # of each camera at its own image time, m
    stamps: Float[np.ndarray, " T"]  # s

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in px."""
        return self.images.shape[3], self.images.shape[2]


def save_clip(path: str | Path, clip: Clip) -> None:
    np.savez_compressed(path, **vars(clip))


def load_clip(path: str | Path) -> Clip:
    """ValueError where it is none, or too large; whatever zipfile and numpy raise for a damaged file."""
    arrays = read_npz(Path(path), _MOST_CLIP_BYTES)
    if set(arrays) != {field.name for field in fields(Clip)}:
        raise ValueError(f"a clip has {', '.join(field.name for field in fields(Clip))}, this has {', '.join(arrays)}")
    return Clip(**arrays)


def clip_size(path: str | Path) -> tuple[int, int]:
    """(width, height) in px of a clip's images, from its header alone."""
    with open_archive(Path(path)) as archive, archive.open("images.npy") as file:
        np.lib.format.read_magic(file)
        shape, _, _ = np.lib.format.read_array_header_1_0(file)
    return shape[3], shape[2]


def draw_rig(rng: np.random.Generator, size: tuple[int, int], most: int = 4) -> Cameras:
    """A rig of 1 to `most` pinhole cameras of one size (width, height)."""
    kind = rng.choice(["surround", "stereo", "tilted", "one", "any"], p=[0.3, 0.25, 0.15, 0.1, 0.2])
    width, height = size
    views: list[tuple[float, float, float, float, tuple[float, float, float]]] = []  # fov, yaw, pitch, roll, place
    tilt, lean = rng.normal(0, 2.0), rng.normal(0, 1.0)
    if kind == "surround":
        count = int(rng.integers(4, 9))
        level, reach = rng.uniform(1.0, 2.2), rng.uniform(0.2, 1.2)
        fov = min(360.0 / count * rng.uniform(0.95, 1.4), 105.0)
        first = rng.uniform(0, 360)
        for k in range(min(count, most)):
            yaw = first + 360.0 / count * k
            a = math.radians(yaw)
            place = (reach * math.cos(a) + 0.9, 0.5 * reach * math.sin(a), level + rng.normal(0, 0.04))
            views.append((fov * rng.uniform(0.95, 1.05), yaw, tilt + rng.normal(0, 1), rng.normal(0, 0.5), place))
    elif kind == "stereo":
        baseline, fov, level = rng.uniform(0.08, 0.65), rng.uniform(45, 100), rng.uniform(0.3, 2.0)
        yaw = 0.0 if rng.random() < 0.7 else rng.uniform(0, 360)
        along = math.radians(yaw + 90)
        for side in (0.5, -0.5):
            place = (1.5 + side * baseline * math.cos(along), side * baseline * math.sin(along), level)
            views.append((fov, yaw + rng.normal(0, 0.3), tilt + rng.normal(0, 0.2), rng.normal(0, 0.3), place))
    elif kind == "tilted":
        fov, first, down = rng.uniform(95, 125), rng.uniform(0, 360), rng.uniform(-30, 0)
        for k in range(min(4, most)):
            yaw = first + 90.0 * k
            a = math.radians(yaw)
            place = (1.2 * math.cos(a) + 0.8, 0.8 * math.sin(a), rng.uniform(0.5, 1.4))
            views.append((fov, yaw + rng.normal(0, 3), down + rng.normal(0, 3), rng.normal(0, 2), place))
    else:
        count = 1 if kind == "one" else int(rng.integers(2, most + 1))
        for _ in range(count):
            yaw = rng.uniform(0, 360) if rng.random() < 0.6 else rng.normal(0, 20)
            place = (rng.uniform(-1, 2), rng.uniform(-0.8, 0.8), rng.uniform(0.3, 2.5))
            views.append((rng.uniform(45, 120), yaw, rng.normal(-4, 8), rng.normal(0, 3), place))
    shape = rng.uniform(0.85, 1.15)  # of pixels: images are squeezed to the network's size
    intrinsics, poses = [], []
    for fov, yaw, pitch, roll, place in views:
        fx = 0.5 * width / math.tan(math.radians(fov) / 2)
        fy = fx * shape
        cx, cy = width * rng.normal(0.5, 0.015), height * rng.normal(0.5, 0.03)
        intrinsics.append([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        poses.append(make_transform(view_rotation(yaw, pitch, roll + lean), np.array(place)))
    count = len(views)
    return Cameras(
        tuple(f"CAM_{k}" for k in range(count)),
        torch.tensor(np.array(intrinsics)),
        torch.tensor(np.array(poses)),
        (width,) * count,
        (height,) * count,
    )


def _draw_motion(rng: np.random.Generator, moments: int) -> tuple[np.ndarray, np.ndarray]:
    """Time (s) and pose relative to the last moment (m, rad: x, y, yaw) of each moment but the last, oldest first."""
    stride = math.exp(rng.uniform(math.log(0.05), math.log(1.6)))  # m between frames
    if rng.random() < 0.12:
        stride = abs(rng.normal(0, 0.01))  # about at rest
    speed = rng.uniform(0.3, 1.5) if stride < 0.25 else rng.uniform(2.0, 10.0)
    direction = -1.0 if rng.random() < 0.15 else 1.0
    turn = rng.normal(0, 0.02) if rng.random() < 0.6 else rng.normal(0, 0.12)  # rad per m
    spin = rng.normal(0, 0.1) if rng.random() < 0.1 else 0.0  # rad per frame on the spot
    steps = np.cumsum(rng.uniform(0.6, 1.4, moments - 1))[::-1]  # frames back
    way = -direction * stride * steps
    yaw = turn * way + spin * steps
    poses = np.stack([way * np.cos(0.5 * yaw), way * np.sin(0.5 * yaw), yaw], axis=1)
    return -steps * max(stride, 0.02) / speed, poses


def render_clip(seed: int, moments: int = 3, most: int = 4) -> Clip | None:
    """The clip of this seed, the same to the byte; None where the draw put the cameras into things.

    most: cameras; of a rig that has more, so many neighbours.
    """
    return (_render_scene if seed % 5 < _SCENES_OF_FIVE else _render_street)(seed, moments, most)


def _render_scene(seed: int, moments: int, most: int) -> Clip | None:
    from gaussianocc_core.synthetic.draw import random_scene

    rng = np.random.default_rng([20260702, seed])
    scene = random_scene(_FIRST_SCENE + seed // _CLIPS_PER_WORLD)
    size = SIZES[int(rng.choice(len(SIZES), p=_SIZE_SHARES))]
    rig = _crop(scene, size, rng)
    names = rig.names
    if len(rig) > most:
        first = int(rng.integers(len(rig)))
        names = tuple(rig.names[(first + k) % len(rig)] for k in range(most))
    gap = float(rng.choice(_GAPS)) / 12.0  # s
    times = rng.uniform(0.0, scene.duration) - gap * np.cumsum([0.0, *rng.uniform(0.8, 1.2, moments - 1)])[::-1]
    if times[0] < _EARLIEST:
        return None
    spread = rng.uniform(0.0, 0.006)  # s, from camera to camera
    images, depths, poses = [], [], []
    for time in times:
        at = [time + spread * k for k in range(len(rig))]
        frame = scene.render(time, rig, camera_times=at, antialias="edges")
        chosen = [rig.names.index(name) for name in names]
        images.append([frame.images[k] for k in chosen])
        bodies = frame.bodies or (np.zeros(frame.depths[0].shape, dtype=bool),) * len(rig)
        depths.append([np.where(bodies[k], np.float32(-1.0), frame.depths[k]) for k in chosen])
        poses.append([scene.T_world_ego(at[k]) for k in chosen])
    return _checked(np.array(images), np.array(depths), rig.select(names), np.array(poses), times)


def _crop(scene: RandomScene, size: tuple[int, int], rng: np.random.Generator) -> Cameras:
    """Views of the scene's rig at this size; what is flatter than its images is cut out of their middle."""
    width, height = size
    native = scene.cameras
    aspect = float(np.mean(np.array(native.width) / np.array(native.height)))
    full = max(16 * round(width / aspect / 16 * rng.uniform(0.9, 1.15)), height)
    cameras = scene.cameras_at(width, full)
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, 1, 2] -= (full - height) * rng.uniform(0.35, 0.65)
    return replace(cameras, intrinsics=intrinsics, height=(height,) * len(cameras))


def _checked(
    images: np.ndarray, depth: np.ndarray, rig: Cameras, T_world_ego: np.ndarray, stamps: np.ndarray
) -> Clip | None:
    if (((depth > 0) & (depth < _NEAREST)).mean(axis=(2, 3)) > _BLOCKED).any():
        return None
    depth = np.where(np.isfinite(depth), depth, 0.0).clip(-1.0, 6e4).astype(np.float16)
    return Clip(images, depth, rig.intrinsics.double().numpy(), rig.T_ego_cam.double().numpy(), T_world_ego, stamps)


def _render_street(seed: int, moments: int, most: int) -> Clip | None:
    from gaussianocc_core.synthetic.world import World, render_frame

    rng = np.random.default_rng([20260701, seed])
    world = World(_FIRST_WORLD + seed // _CLIPS_PER_WORLD)
    size = SIZES[int(rng.choice(len(SIZES), p=_SIZE_SHARES))]
    rig = draw_rig(rng, size, most)
    lags, relative = _draw_motion(rng, moments)
    now = rng.uniform(1.5, 18.0)
    place = np.array([0.0, rng.normal(0, 0.8), rng.normal(0, 0.15)])
    if rng.random() < 0.12:
        place = np.array([0.0, rng.normal(0, 2.0), rng.uniform(-math.pi, math.pi)])
    T_world_now = world.T_world_ego(now) @ _planar(place)
    spread = rng.uniform(0, 0.02)  # of the cameras' times, as a share of a frame
    images, depths, poses = [], [], []
    for lag, pose in zip([*lags, 0.0], [*relative, np.zeros(3)], strict=True):
        frame_images, frame_depths, frame_poses = [], [], []
        for n, name in enumerate(rig.names):
            late = spread * n
            T_world_ego = T_world_now @ _planar(pose - late * relative[-1])
            one = rig.select((name,))
            frame = render_frame(
                world, one, now + lag - late * lags[-1], T_world_ego=T_world_ego, noise=0.0, exposure_spread=0.0
            )
            frame_images.append(frame.images[0])
            frame_depths.append(frame.depths[0])
            frame_poses.append(T_world_ego)
        images.append(frame_images)
        depths.append(frame_depths)
        poses.append(frame_poses)
    return _checked(np.array(images), np.array(depths), rig, np.array(poses), np.array([*lags, 0.0]))


def _planar(pose: np.ndarray) -> Float[np.ndarray, "4 4"]:
    x, y, yaw = pose
    c, s = math.cos(yaw), math.sin(yaw)
    return make_transform(np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]), np.array([x, y, 0.0]))
