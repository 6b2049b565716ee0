# SPDX-License-Identifier: Apache-2.0
"""Worlds as a distribution: any rig, any place, any light, any sensor, drawn by seed and rendered in memory.

    scene = random_scene(seed=7)                            # a place, a vehicle with a rig, a drive of some seconds
    cameras = scene.cameras_at(176, 96)                     # pinhole cameras at network size
    frame = scene.render(2.0, cameras)                      # uint8 RGB, true z-depth, labels, the own body
    T_world_cam = scene.T_world_cam(2.0, cameras)           # (N, 4, 4), true at that moment

Nothing touches the disk. Same arguments, same pixels. A scene takes tenths of a second to build and may be asked for
any number of moments between 0 and `duration`, in any order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from gaussianocc_core.geometry.cameras import scale_intrinsics
from gaussianocc_core.geometry.rectify import DEFAULT_FISHEYE_FOV_DEG
from gaussianocc_core.labels import FREE
from gaussianocc_core.synthetic.fleet import Rig, draw_rig, rig_of
from gaussianocc_core.synthetic.own_body import OwnBody
from gaussianocc_core.synthetic.sensor import Optics
from gaussianocc_core.synthetic.world import EDGES, FULL, NONE, Frame, World, camera_rays, cast_camera
from gaussianocc_core.types import EQUIDISTANT, Cameras

WORLDS = ("street", "yard", "hall", "park", "mixed")
_ANTIALIAS = {"none": NONE, "edges": EDGES, "full": FULL}


@dataclass(frozen=True)
class RandomScene:
    """One place, one rig, one drive; see `random_scene`."""

    seed: int
    place: str  # what was drawn: one of WORLDS but not "mixed"
    rig: Rig
    world: World
    optics: Optics
    _own: OwnBody | None = None

    @property
    def cameras(self) -> Cameras:
        """The rig at its native size, with its lenses."""
        return self.rig.cameras

    @property
    def duration(self) -> float:
        """Seconds of the drive; moments before 0 (to -1.5) exist, too."""
        return self.world.duration

    def cameras_at(self, width: int, height: int, fisheye_fov_deg: float = DEFAULT_FISHEYE_FOV_DEG) -> Cameras:
        """The pinhole cameras that `Rectifier` makes of this rig: what a network of this input size is given.

        Rendered with them, every pixel has a source, also where the native image would end.
        """
        native = self.cameras
        rows = []
        for index, model in enumerate(native.model):
            if model == EQUIDISTANT:
                focal = 0.5 * width / math.tan(math.radians(0.5 * fisheye_fov_deg))
                rows.append(torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]))
            else:
                K = native.intrinsics[index].float()
                rows.append(scale_intrinsics(K, width / native.width[index], height / native.height[index]))
        count = len(native)
        return Cameras(native.names, torch.stack(rows), native.T_ego_cam.float(), (width,) * count, (height,) * count)

    def camera_times(self, time: float) -> list[float]:
        """When each camera takes its picture of the set at `time`; not all rigs fire at once."""
        return [time + offset for offset in self.rig.offsets]

    def T_world_ego(self, time: float) -> Float[np.ndarray, "4 4"]:
        """The ego's pose at a time, metres, with the roll and pitch that ground and speed give it."""
        return self.world.T_world_ego(time)

    def T_world_cam(self, time: float | Sequence[float], cameras: Cameras | None = None) -> Float[np.ndarray, "N 4 4"]:
        """Poses of the cameras at a time, or each at its own time."""
        cameras = self.cameras if cameras is None else cameras
        times = [time] * len(cameras) if isinstance(time, int | float) else list(time)
        T_ego_cam = cameras.T_ego_cam.double().numpy()
        return np.stack([self.T_world_ego(t) @ T for t, T in zip(times, T_ego_cam, strict=True)])

    def render(
        self,
        time: float = 0.0,
        cameras: Cameras | None = None,
        *,
        camera_times: Sequence[float] | None = None,
        antialias: str = "full",
        effects: bool = True,
    ) -> Frame:
        """What each camera sees at `time`, or at its own entry of `camera_times` (for example those of the method).

        `cameras` may be any views of this rig's cameras, some or all, by their names: `cameras_at(...)`, resized or
        cropped ones, or (default) the native ones. `antialias`: "full" four rays a pixel, "edges" four at outlines
        (half the time; textures are band-limited in any case), "none" one. `effects` off leaves out exposure,
        vignetting, blur, noise and JPEG. Raises ValueError for another `antialias` or camera.
        """
        if antialias not in _ANTIALIAS:
            raise ValueError(f"antialias: expected one of {', '.join(_ANTIALIAS)}, got {antialias!r}")
        cameras = self.cameras if cameras is None else cameras
        if unknown := set(cameras.names) - set(self.cameras.names):
            raise ValueError(f"cameras: {sorted(unknown)} are not among this rig's {list(self.cameras.names)}")
        times = [time] * len(cameras) if camera_times is None else list(camera_times)
        images, depths, labels, bodies = [], [], [], []
        for index in range(len(cameras)):
            at = times[index]
            color, depth, label = cast_camera(
                self.world, cameras, index, at, self.T_world_ego(at), _ANTIALIAS[antialias]
            )
            if self._own is not None:
                own, body = self._own.seen_by(cameras, index)
                color, depth = np.where(body[..., None], own, color), np.where(body, np.float32(0.0), depth)
                label = np.where(body, np.uint8(FREE), label)
                bodies.append(body)
            if effects:
                flow = self._flow(cameras, index, at, depth) if self.optics.shutter > 0.0 else None
                if flow is not None and bodies:
                    flow[bodies[-1]] = 0.0
                which = self.cameras.names.index(cameras.names[index])
                image = self.optics.expose(which, color, flow, round(at * 1e6) % (1 << 40))
            else:
                image = np.clip(color + 0.5, 0, 255).astype(np.uint8)
            images.append(image)
            depths.append(depth)
            labels.append(label)
        return Frame(tuple(images), tuple(depths), tuple(labels), tuple(bodies))

    def _flow(
        self, cameras: Cameras, index: int, time: float, depth: Float[np.ndarray, "H W"]
    ) -> Float[np.ndarray, "H W 2"] | None:
        """Pixels by which what stands still moves across the image while the shutter is open, for any lens."""
        half = 0.5 * self.optics.shutter
        T_ego_cam = cameras.T_ego_cam[index].double().numpy()
        before, after = (np.linalg.inv(self.T_world_ego(time + k * half) @ T_ego_cam) for k in (-1, 1))
        T = after @ np.linalg.inv(before)
        rays = camera_rays(cameras, index)
        inverse = np.where(depth > 0, rays[..., 2] / np.where(depth > 0, depth, 1.0), 0.0)  # 1/m along the ray; sky 0
        moved = rays @ T[:3, :3].T + T[:3, 3] * inverse[..., None]
        with np.errstate(invalid="ignore", divide="ignore"):
            moved /= np.linalg.norm(moved, axis=-1, keepdims=True)
            change = moved - rays
            # The pixel's own step of the ray, to the right and down, turns a change of direction into pixels.
            right, down = np.gradient(rays, axis=1), np.gradient(rays, axis=0)
            a, b, c = (right * right).sum(-1), (right * down).sum(-1), (down * down).sum(-1)
            p, q = (right * change).sum(-1), (down * change).sum(-1)
            det = a * c - b * b
            flow = np.stack([(c * p - b * q) / det, (a * q - b * p) / det], axis=-1)
        return np.nan_to_num(flow, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)


def random_scene(
    seed: int, world: str = "mixed", rig: str | Cameras | Rig = "random", duration: float = 6.0
) -> RandomScene:
    """A scene of this seed.

    `world` is one of WORLDS ("mixed": drawn). `rig` is "random", a `Rig`, or cameras, which get a vehicle that suits
    their height. `duration` in seconds. Raises ValueError for anything else.
    """
    # Numba is imported on first use of a world, never with the package.
    from gaussianocc_core.synthetic.places.hall import build_hall
    from gaussianocc_core.synthetic.places.park import build_park
    from gaussianocc_core.synthetic.places.town import build_street
    from gaussianocc_core.synthetic.places.yard import build_yard

    if world not in WORLDS:
        raise ValueError(f"world: expected one of {', '.join(WORLDS)}, got {world!r}")
    if seed < 0:
        raise ValueError(f"seed: expected 0 or more, got {seed}")
    if not (duration > 0.0 and math.isfinite(duration)):
        raise ValueError(f"duration: expected a positive number of seconds, got {duration}")
    if isinstance(rig, Cameras):
        chosen = rig_of(rig, seed)
    elif isinstance(rig, Rig):
        chosen = rig
    elif rig == "random":
        chosen = draw_rig(seed)
    else:
        raise ValueError(f"rig: expected 'random', cameras or a Rig, got {rig!r}")
    rng = np.random.default_rng([20261203, seed])
    places = [name for name in WORLDS if name != "mixed"]
    place = str(rng.choice(places)) if world == "mixed" else world
    build = {"street": build_street, "yard": build_yard, "hall": build_hall, "park": build_park}[place]
    site = build(rng, chosen.vehicle, duration, int(rng.integers(1 << 30)))
    optics = Optics.draw(rng, len(chosen.cameras), site.dark)
    own = OwnBody(chosen.body, site) if chosen.body is not None else None
    return RandomScene(seed, place, chosen, World(seed, duration, site), optics, own)
