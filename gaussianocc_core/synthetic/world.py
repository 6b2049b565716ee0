# SPDX-License-Identifier: Apache-2.0
"""A street that exists at every moment: where the ego is, what its cameras and lidar see, what fills its voxels.

    world = World(seed=7)
    frame = render_frame(world, default_rig(), time=1.5)     # images, true depth, labels
    truth = occupancy(world, time=1.5)                       # Occ3D labels and visibility masks

Same seed, same world, to the byte. Nothing here touches the disk; writer.py turns worlds into data sets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, UInt8

from gaussianocc_core.geometry.transforms import invert_matrix
from gaussianocc_core.labels import CLASS_ID
from gaussianocc_core.synthetic.rig import Lidar, default_rig, pixel_directions
from gaussianocc_core.types import Cameras, OccupancyLabels, VoxelGrid

if TYPE_CHECKING:
    from gaussianocc_core.synthetic.places.site import Site

# Where several classes touch one voxel, the one further right gets it: ground yields to everything that stands on it,
# big and common things yield to small and rare ones, so that a person beside a wall or a cone on the road survives.
PRIORITY = (
    "free",
    "driveable_surface",
    "other_flat",
    "terrain",
    "sidewalk",
    "vegetation",
    "manmade",
    "others",
    "trailer",
    "truck",
    "bus",
    "construction_vehicle",
    "car",
    "barrier",
    "motorcycle",
    "bicycle",
    "traffic_cone",
    "pedestrian",
)


@dataclass(frozen=True)
class Frame:
    """What the cameras of a rig see; one array per camera, in the rig's order."""

    images: tuple[UInt8[np.ndarray, "H W 3"], ...]  # RGB
    depths: tuple[Float[np.ndarray, "H W"], ...]  # true z-depth, m, float32; 0: sky, or behind the image plane
    labels: tuple[UInt8[np.ndarray, "H W"], ...]  # Occ3D ids; 17 (free) is sky
    bodies: tuple[Bool[np.ndarray, "H W"], ...] = ()  # true where the own vehicle is seen (depth 0, free); (): nowhere


@dataclass(frozen=True)
class Annotation:
    """3D box of a vehicle, person, cone or barrier at one moment, world frame."""

    identity: int  # the same thing keeps it
    category: str
    attribute: str  # "" if none
    centre: tuple[float, float, float]  # m
    size: tuple[float, float, float]  # length, width, height, m
    yaw: float


class World:
    """A place that exists at every moment. The ego drives for at least `duration` seconds past things to see.

    Without a `site` it is the street of this seed, the one that published figures refer to.
    """

    def __init__(self, seed: int = 0, duration: float = 20.0, site: Site | None = None) -> None:
        # Numba is imported on first use of a world, never with the package.
        from gaussianocc_core.synthetic.places.classic import build_street
        from gaussianocc_core.synthetic.scene import Caster

        self.seed, self.duration = seed, duration
        self.site = build_street(seed, duration) if site is None else site
        self._actors = self.site.actors
        self._caster = Caster(
            self.site.static, self.site.segments, self.site.crosses, self.site.ground, self.site.light
        )
        self._moments: dict[float, object] = {}

    def T_world_ego(self, time: float) -> Float[np.ndarray, "4 4"]:
        """Pose of the ego's origin (on the ground under it), x forward."""
        return self.site.pose(time)

    def scene(self, time: float):
        """Everything that a ray can meet at this time (scene.Scene)."""
        from gaussianocc_core.synthetic.shapes import PrimitiveTable

        key = round(time, 6)
        if key not in self._moments:
            while len(self._moments) >= 8:
                self._moments.pop(next(iter(self._moments)))
            ego = self.T_world_ego(time)[:2, 3]
            tables = []
            for number, actor in enumerate(self._actors):
                if not actor.moves:
                    continue
                x, y, z, yaw = actor.placement(time)
                if math.hypot(x - ego[0], y - ego[1]) < 160.0:
                    tables.append(actor.shapes(time).placed(x, y, z, yaw, number + 1))
            self._moments[key] = self._caster.scene(PrimitiveTable.concatenate(tables))
        return self._moments[key]

    def annotations(self, time: float, within: float = 60.0) -> list[Annotation]:
        """Boxes of what lies within this many metres of the ego."""
        ego = self.T_world_ego(time)[:2, 3]
        boxes = []
        for number, actor in enumerate(self._actors):
            x, y, z, yaw = actor.placement(time)
            if math.hypot(x - ego[0], y - ego[1]) < within:
                centre = (x, y, z + 0.5 * actor.size[2])
                boxes.append(Annotation(number, actor.category, actor.attribute, centre, actor.size, yaw))
        return boxes


@lru_cache(maxsize=1)
def _grain() -> Float[np.ndarray, " values"]:
    """Normal deviates to cut sensor noise from: drawing them anew would cost a tenth of a frame."""
    return np.random.default_rng(20240822).standard_normal((1 << 20) + 7, dtype=np.float32)


@lru_cache(maxsize=32)
def _cached_directions(key: tuple) -> Float[np.ndarray, "H W 3"]:
    cameras, index = key[0].cameras, key[1]
    return pixel_directions(cameras, index)


@dataclass(frozen=True)
class _ByContent:
    """Hashes a rig by its calibration, so that rays are computed once per lens."""

    cameras: Cameras
    content: bytes

    def __hash__(self) -> int:
        return hash(self.content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByContent) and self.content == other.content


def camera_rays(cameras: Cameras, index: int) -> Float[np.ndarray, "H W 3"]:
    """Unit rays of one camera's pixels in its own frame, remembered between frames."""
    return _cached_directions((_ByContent(cameras, camera_key(cameras, index)), index))


def camera_key(cameras: Cameras, index: int) -> bytes:
    """What a camera's rays depend on."""
    return (
        cameras.intrinsics[..., index, :, :].double().numpy().tobytes()
        + repr((cameras.width[index], cameras.height[index], cameras.model[index], cameras.distortion[index])).encode()
    )


def rotate(T_a_b: Float[np.ndarray, "4 4"], rays_b: Float[np.ndarray, "*shape 3"]) -> Float[np.ndarray, "*shape 3"]:
    """Directions of frame b in frame a. Not `@`: beside busy processes, BLAS threads wait 100 ms for each other."""
    x, y, z = rays_b[..., 0], rays_b[..., 1], rays_b[..., 2]
    return np.stack([row[0] * x + row[1] * y + row[2] * z for row in T_a_b[:3, :3]], axis=-1)


# How many rays a pixel gets: one; four where it shows an outline or the edge of a shadow; four everywhere.
NONE, EDGES, FULL = range(3)


def cast_camera(
    world: World, cameras: Cameras, index: int, time: float, T_world_ego: Float[np.ndarray, "4 4"], antialias: int
) -> tuple[Float[np.ndarray, "H W 3"], Float[np.ndarray, "H W"], UInt8[np.ndarray, "H W"]]:
    """What one camera sees before its sensor: colour 0-255 as displayed, true z-depth and labels as in `Frame`.

    Depth and label are those of the ray through the pixel's centre; `antialias` (NONE, EDGES, FULL) is about colour.
    """
    from gaussianocc_core.synthetic import raycast

    T_world_cam = T_world_ego @ cameras.T_ego_cam[index].double().numpy()
    rays = camera_rays(cameras, index)
    color, ray_length, label = raycast.render(
        world.scene(time), T_world_cam[:3, 3], rotate(T_world_cam, rays), antialias
    )
    z = ray_length * rays[..., 2]  # unit rays: z-depth per metre of ray is the ray's own z
    return color, np.where(np.isfinite(z) & (z > 0), z, 0.0).astype(np.float32), label


def render_frame(
    world: World,
    cameras: Cameras | None = None,
    time: float = 0.0,
    *,
    camera_times: Sequence[float] | None = None,
    T_world_ego: Float[np.ndarray, "4 4"] | None = None,
    smooth: bool = True,
    exposure_spread: float = 0.02,
    noise: float = 0.8,
) -> Frame:
    """What each camera sees at `time`, or at its own entry of `camera_times` with the ego where it is then.

    `T_world_ego` puts the ego elsewhere (the world's own clock still moves the traffic). `exposure_spread` is the
    relative difference between cameras, `noise` the sensor's standard deviation in grey levels; the world seeds both.
    """
    cameras = default_rig() if cameras is None else cameras
    times = [time] * len(cameras) if camera_times is None else list(camera_times)
    images, depths, labels = [], [], []
    for index in range(len(cameras)):
        pose = world.T_world_ego(times[index]) if T_world_ego is None else np.asarray(T_world_ego, dtype=np.float64)
        color, depth, label = cast_camera(world, cameras, index, times[index], pose, EDGES if smooth else NONE)
        gain = 1.0 + exposure_spread * np.random.default_rng([world.seed, index]).standard_normal()
        color *= np.float32(gain)
        if noise > 0:
            start = np.random.default_rng([world.seed, index, round(times[index] * 1e6) % (1 << 40)]).integers(
                len(_grain())
            )
            color += np.take(_grain(), np.arange(start, start + color.size), mode="wrap").reshape(
                color.shape
            ) * np.float32(noise)
        images.append(np.clip(color + 0.5, 0, 255).astype(np.uint8))
        depths.append(depth)
        labels.append(label)
    return Frame(tuple(images), tuple(depths), tuple(labels))


def scan_lidar(world: World, time: float, lidar: Lidar | None = None) -> Float[np.ndarray, "P 5"]:
    """x, y, z (m, lidar frame), intensity 0-255 and ring of one turn's returns, all at the same moment; float32."""
    from gaussianocc_core.synthetic import raycast

    lidar = lidar or Lidar()
    T_world_lidar = world.T_world_ego(time) @ lidar.T_ego_lidar
    rays, ring = lidar.directions()
    shape = (lidar.columns, lidar.rings)
    ray_length, _, intensity = raycast.scan(
        world.scene(time), T_world_lidar[:3, 3], (rotate(T_world_lidar, rays)).reshape(*shape, 3)
    )
    ray_length, intensity = ray_length.ravel(), intensity.ravel()
    kept = ray_length < lidar.max_range
    points = rays[kept] * ray_length[kept, None]
    return np.column_stack([points, intensity[kept], ring[kept]]).astype(np.float32)


def occupancy(
    world: World,
    time: float,
    grid: VoxelGrid | None = None,
    cameras: Cameras | None = None,
    camera_times: Sequence[float] | None = None,
    lidar: Lidar | None = None,
    bodies: Sequence[Bool[np.ndarray, "H W"]] = (),
) -> OccupancyLabels:
    """Occ3D labels over a grid in the ego frame at `time`, and which voxels the cameras and the lidar see.

    A voxel is visible if a ray passes it up to and including the first occupied one; rays that meet the own vehicle
    (`bodies`, see `Frame`) see nothing. Shared voxels: see PRIORITY.
    """
    from gaussianocc_core.geometry.raymarch import march_labels
    from gaussianocc_core.synthetic.voxelize import voxelize

    grid, lidar = grid or VoxelGrid(), lidar or Lidar()
    cameras = default_rig() if cameras is None else cameras
    T_world_ego = world.T_world_ego(time)
    T_world_corner = T_world_ego.copy()
    T_world_corner[:3, 3] = T_world_ego[:3, :3] @ np.array(grid.origin) + T_world_ego[:3, 3]
    rank = np.empty(len(PRIORITY), dtype=np.int64)
    for place, name in enumerate(PRIORITY):
        rank[CLASS_ID[name]] = place
    semantics = voxelize(world.scene(time), T_world_corner, grid.voxel_size, grid.shape, rank)

    T_ego_world = invert_matrix(T_world_ego)
    mask_camera = np.zeros(grid.shape, dtype=bool)
    for index in range(len(cameras)):
        at = time if camera_times is None else camera_times[index]
        T_ego_cam = T_ego_world @ world.T_world_ego(at) @ cameras.T_ego_cam[index].double().numpy()
        rays = camera_rays(cameras, index)
        if len(bodies):
            rays = np.where(bodies[index][..., None], np.nan, rays)
        # A third of a voxel between rays at the far end is dense enough: thin out what is finer.
        step = max(1, cameras.width[index] // 400)
        rays = rays[::step, ::step].reshape(-1, 3)
        rays = rays[np.isfinite(rays[:, 0])]
        mask_camera |= march_labels(T_ego_cam[:3, 3], rotate(T_ego_cam, rays), semantics, grid).visited
    T_ego_lidar = lidar.T_ego_lidar
    rays, _ = lidar.directions()
    mask_lidar = march_labels(T_ego_lidar[:3, 3], rotate(T_ego_lidar, rays), semantics, grid).visited
    return OccupancyLabels(semantics=semantics, mask_camera=mask_camera, mask_lidar=mask_lidar)
