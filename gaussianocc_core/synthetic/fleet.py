# SPDX-License-Identifier: Apache-2.0
"""Vehicles and the camera rigs on them, drawn at random by seed: what a network should not have to know beforehand.

Rigs have 1 to 8 cameras, 0.3 to 2.5 m high, 50 to 190 degrees wide: single cameras, stereo pairs, pairs with cameras
to the sides, rings, four fisheyes. Lenses wider than `WIDEST_PINHOLE` are equidistant fisheyes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from gaussianocc_core.geometry.cameras import view_rotation
from gaussianocc_core.geometry.transforms import make_transform
from gaussianocc_core.labels import CLASS_ID
from gaussianocc_core.synthetic import textures
from gaussianocc_core.synthetic.rig import camera_offsets
from gaussianocc_core.synthetic.shapes import CAR_CABIN, METAL, TEXTURE, PrimitiveTable, Shapes
from gaussianocc_core.synthetic.things import any_color, any_finish
from gaussianocc_core.types import EQUIDISTANT, PINHOLE, Cameras

LOWEST, HIGHEST = 0.3, 2.5  # m above the ground
NARROWEST, WIDEST = 50.0, 190.0  # degrees, horizontally
WIDEST_PINHOLE = 110.0  # degrees; what is wider is a fisheye
BASELINES = (0.1, 0.6)  # m, of stereo pairs
SIZES = ((400, 225), (400, 300), (384, 240), (480, 144), (360, 300), (416, 208))  # pixels

KINDS = ("robot", "forklift", "car", "lorry")
LAYOUTS = ("single", "stereo", "stereo_sides", "ring", "fisheyes", "front")


@dataclass(frozen=True)
class Vehicle:
    """What carries the cameras. Its origin is the ego frame's: on the ground, x forward."""

    kind: str  # one of KINDS
    length: float  # m
    width: float  # m
    height: float  # m, of the hull, without masts
    rear: float  # m from the origin back to the hull's end
    slow: float  # m/s, range of its cruising speed
    fast: float
    acceleration: float  # m/s2
    turning_radius: float  # m
    wobble: float  # degrees of roll and pitch on a rough ground at speed
    has_body: bool  # whether the cameras see it

    @property
    def turns_on_the_spot(self) -> bool:
        return self.kind == "robot"

    @property
    def clearance(self) -> float:
        """Metres to each side of its course that must stay free."""
        return 0.5 * self.width + (0.12 if self.kind == "robot" else 0.3)


@dataclass(frozen=True)
class Rig:
    """Cameras on a vehicle."""

    cameras: Cameras
    vehicle: Vehicle
    layout: str  # one of LAYOUTS, or "given"
    offsets: tuple[float, ...]  # s by which each camera fires after the moment that a set belongs to
    body: PrimitiveTable | None = None  # what the cameras can see of the vehicle, ego frame


@dataclass(frozen=True)
class _Eye:
    """One camera while a rig is drawn; angles in degrees."""

    name: str
    position: tuple[float, float, float]
    yaw: float
    pitch: float
    roll: float
    fov: float  # horizontal


def draw_vehicle(rng: np.random.Generator, kind: str, has_body: bool | None = None) -> Vehicle:
    """A vehicle of this kind; `has_body` None draws that, too."""
    uniform = rng.uniform
    body = bool(rng.random() < 0.6) if has_body is None else has_body
    if kind == "robot":
        length, height = uniform(0.45, 1.1), uniform(0.2, 0.7)
        return Vehicle(
            kind, length, length * uniform(0.6, 1.0), height, 0.5 * length, 0.3, 2.0, 0.9, 0.8, uniform(0.2, 1.6), body
        )
    if kind == "forklift":
        length = uniform(1.6, 2.8)
        return Vehicle(
            kind,
            length,
            uniform(0.9, 1.3),
            uniform(1.0, 2.0),
            0.35 * length,
            0.5,
            4.0,
            1.2,
            1.8,
            uniform(0.2, 1.0),
            body,
        )
    if kind == "car":
        length = uniform(3.6, 5.0)
        return Vehicle(
            kind,
            length,
            uniform(1.6, 1.95),
            uniform(1.25, 1.7),
            uniform(0.7, 1.0),
            2.0,
            15.0,
            2.5,
            5.5,
            uniform(0.2, 1.2),
            body,
        )
    length = uniform(5.0, 7.5)
    return Vehicle(
        "lorry",
        length,
        uniform(1.9, 2.3),
        uniform(1.9, 2.4),
        uniform(1.0, 1.8),
        2.0,
        12.0,
        1.8,
        7.0,
        uniform(0.3, 1.4),
        body,
    )


def draw_rig(seed: int, kind: str | None = None) -> Rig:
    """The rig of this seed; `kind` (one of KINDS) chooses the vehicle. Same seed, same rig.

    The first camera looks ahead. All images of a rig have one size. float64 calibrations.
    """
    rng = np.random.default_rng([20261201, seed])
    kind = str(rng.choice(KINDS, p=[0.4, 0.15, 0.35, 0.1])) if kind is None else kind
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    vehicle = draw_vehicle(rng, kind)
    layout = str(rng.choice(LAYOUTS, p=[0.15, 0.2, 0.15, 0.3, 0.12, 0.08]))
    on_top = bool(rng.random() < 0.5)
    top = vehicle.height + rng.uniform(0.03, 0.5 if kind in ("robot", "forklift") else 0.2)
    height = top if on_top else vehicle.height * rng.uniform(0.45, 0.95)
    height = float(np.clip(height, LOWEST + 0.02, HIGHEST - 0.02))
    mount = _mount(vehicle, on_top and height > vehicle.height, height)
    eyes = _LAYOUTS[layout](rng, mount)
    width, height_px = SIZES[rng.integers(len(SIZES))]
    barrel = float(rng.uniform(-0.10, 0.02)) if rng.random() < 0.3 else 0.0
    fisheye = (float(rng.uniform(-0.02, 0.03)), float(rng.uniform(-0.008, 0.002)), 0.0, 0.0)
    intrinsics, poses, models, distortions = [], [], [], []
    for eye in eyes:
        wide = eye.fov > WIDEST_PINHOLE
        half = math.radians(0.5 * eye.fov)
        if wide:  # the coefficients bend the image, and with them the focal length for this field of view
            radius = half * (1.0 + fisheye[0] * half**2 + fisheye[1] * half**4)
        else:
            radius = math.tan(half)
        focal = 0.5 * width / radius
        cx, cy = 0.5 * width + rng.uniform(-0.02, 0.02) * width, 0.5 * height_px + rng.uniform(-0.03, 0.03) * height_px
        intrinsics.append([[focal, 0.0, cx], [0.0, focal, cy], [0.0, 0.0, 1.0]])
        poses.append(make_transform(view_rotation(eye.yaw, eye.pitch, eye.roll), np.array(eye.position)))
        models.append(EQUIDISTANT if wide else PINHOLE)
        bent = barrel != 0.0 and eye.fov < 85.0
        distortions.append(fisheye if wide else ((barrel, 0.0, 0.0, 0.0) if bent else ()))
    cameras = Cameras(
        names=tuple(eye.name for eye in eyes),
        intrinsics=torch.tensor(np.array(intrinsics), dtype=torch.float64),
        T_ego_cam=torch.from_numpy(np.stack(poses)),
        width=(width,) * len(eyes),
        height=(height_px,) * len(eyes),
        model=tuple(models),
        distortion=tuple(distortions),
    )
    # Some rigs fire in turn, as round a spinning lidar; the rest all at once, and so do stereo pairs.
    in_turn = layout in ("ring", "fisheyes") and rng.random() < 0.5
    offsets = tuple(camera_offsets(cameras)) if in_turn else (0.0,) * len(eyes)
    return Rig(cameras, vehicle, layout, offsets, _body(rng, vehicle, eyes) if vehicle.has_body else None)


def rig_of(cameras: Cameras, seed: int = 0) -> Rig:
    """A vehicle without a visible body that suits given cameras: by their mean height, a robot, a forklift or a car."""
    rng = np.random.default_rng([20261202, seed])
    positions = cameras.T_ego_cam[:, :3, 3].double().numpy()
    height, extent = float(positions[:, 2].mean()), float(np.ptp(positions[:, 0])) if len(positions) > 1 else 0.0
    kind = "robot" if height < 0.9 else ("car" if extent > 1.3 or height < 1.7 else "forklift")
    return Rig(cameras, draw_vehicle(rng, kind, has_body=False), "given", tuple(camera_offsets(cameras)))


# ---- the vehicle itself ----------------------------------------------------------------------------------------------


def _body(rng, vehicle: Vehicle, eyes: list[_Eye]) -> PrimitiveTable:
    """A hull of the vehicle's size with what belongs to its kind; nothing of it encloses a camera."""
    shapes = Shapes(label=CLASS_ID["others"], seed=int(rng.integers(1 << 30)))
    color, finish = any_color(rng), any_finish(rng, 1.0)
    material, m = finish if rng.random() < 0.5 else (METAL, (0.0, 0.0, 0.0))
    length, width, height = vehicle.length, vehicle.width, vehicle.height
    middle, front = 0.5 * length - vehicle.rear, length - vehicle.rear
    radius = min(0.4, 0.45 * height)
    if vehicle.kind in ("car", "lorry"):
        belt = height * float(rng.uniform(0.5, 0.7))
        shapes.box((middle, 0, 0.5 * (belt + 0.2)), (length, width, belt - 0.2), color, METAL, lean=(0.08, 0.04, 0.03))
        cabin = length * (float(rng.uniform(0.45, 0.7)) if vehicle.kind == "car" else 0.25)
        back = -vehicle.rear + 0.15 if vehicle.kind == "car" else front - cabin - 0.1
        lean = (float(rng.uniform(0.1, 0.9)), 0.2, 0.2)
        middle_z, tall = 0.5 * (belt + height), height - belt
        shapes.box(
            (back + 0.5 * cabin, 0, middle_z), (cabin, 0.92 * width, tall), color, CAR_CABIN, lean=lean, m=(0.0,)
        )
        for side in (1, -1):
            shapes.box((back + cabin, side * (0.5 * width + 0.1), belt + 0.1), (0.14, 0.2, 0.14), color)
        if rng.random() < 0.4:  # a rack
            for x in (back + 0.3 * cabin, back + 0.7 * cabin):
                shapes.box((x, 0, height + 0.04), (0.06, 0.9 * width, 0.05), (0.05, 0.05, 0.05))
    else:
        shapes.box((middle, 0, 0.5 * (height + 0.06)), (length, width, height - 0.06), color, material, m=m)
        shapes.box(
            (middle, 0, 0.6 * height),
            (length + 0.02, width + 0.02, 0.12 * height),
            any_color(rng),
            TEXTURE,
            m=(float(textures.HAZARD), 0.08, 1.0),
        )
        if rng.random() < 0.5:  # bumper
            shapes.box((front + 0.06, 0, 0.12), (0.12, width, 0.1), (0.03, 0.03, 0.03))
        if rng.random() < 0.5:  # mast or antenna
            shapes.cone(
                (middle - 0.3 * length, 0.3 * width * float(rng.uniform(-1, 1)), height),
                float(rng.uniform(0.2, 1.2)),
                0.02,
                (0.05, 0.05, 0.05),
            )
    for x in (0.0, max(0.0, front - 1.2 * radius)):
        for y in (0.5 * width, -0.5 * width):
            shapes.wheel((x, y, radius), radius, 0.14, (0.02, 0.02, 0.022), m=(radius,))
    if vehicle.kind == "forklift":
        spread, reach = float(rng.uniform(0.2, 0.4)), float(rng.uniform(0.7, 1.2))
        top = float(rng.uniform(1.6, 2.4))
        for y in (spread, -spread):
            shapes.box((front + 0.4, y, 0.5 * top), (0.08, 0.05, top), (0.05, 0.05, 0.05), METAL)
            shapes.box((front + 0.45 + 0.5 * reach, y, 0.12), (reach, 0.11, 0.05), (0.06, 0.06, 0.06), METAL)
        for z in (0.5, top):
            shapes.box((front + 0.4, 0, z), (0.06, 2 * spread, 0.05), (0.05, 0.05, 0.05), METAL)
    table = shapes.table()
    lows, highs = table.bounds()
    kept = np.ones(len(table), dtype=bool)
    for eye in eyes:
        at = np.array(eye.position)
        kept &= ~((at > lows - 0.02) & (at < highs + 0.02)).all(axis=1)
    return PrimitiveTable(table.floats[kept], table.ints[kept])


# ---- where cameras sit ---------------------------------------------------------------------------------------------

_Mount = Callable[[float], tuple[float, float, float]]  # a place on the hull that looks out at this yaw (degrees)


def _mount(vehicle: Vehicle, on_top: bool, height: float) -> _Mount:
    """Where cameras of one height sit: above the hull near its edge, or just outside its walls."""
    half = np.array([0.5 * vehicle.length, 0.5 * vehicle.width])
    middle = 0.5 * vehicle.length - vehicle.rear
    half = half * 0.7 if on_top else half + 0.03

    def place(yaw: float) -> tuple[float, float, float]:
        c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
        reach = min(half[0] / max(abs(c), 1e-9), half[1] / max(abs(s), 1e-9))
        return float(middle + reach * c), float(reach * s), height

    return place


def _tilt(rng, lowest: float = -28.0) -> tuple[float, float]:
    """Pitch and roll: mostly nearly level, sometimes far down, sometimes crooked."""
    pitch = rng.uniform(-6.0, 4.0) if rng.random() < 0.6 else rng.uniform(lowest, 8.0)
    roll = rng.normal(0.0, 1.0) if rng.random() < 0.85 else rng.uniform(-12.0, 12.0)
    return float(pitch), float(np.clip(roll, -12.0, 12.0))


def _eye(rng, mount: _Mount, name: str, yaw: float, fov: float, tilt: tuple[float, float]) -> _Eye:
    x, y, z = mount(yaw)
    z = float(np.clip(z + rng.normal(0.0, 0.02), LOWEST, HIGHEST))
    pitch, roll = tilt[0] + rng.normal(0.0, 0.7), tilt[1] + rng.normal(0.0, 0.5)
    return _Eye(name, (x, y, z), yaw, float(pitch), float(roll), float(np.clip(fov, NARROWEST, WIDEST)))


def _single(rng, mount: _Mount) -> list[_Eye]:
    fov = rng.uniform(NARROWEST, 110.0) if rng.random() < 0.75 else rng.uniform(115.0, WIDEST)
    return [_eye(rng, mount, "cam_front", rng.normal(0.0, 1.5), fov, _tilt(rng))]


def _stereo(rng, mount: _Mount) -> list[_Eye]:
    """Two parallel cameras, the left one first; their axes differ by tenths of a degree, as calibrated pairs do."""
    baseline, fov, (pitch, roll) = rng.uniform(*BASELINES), rng.uniform(NARROWEST, 105.0), _tilt(rng)
    x, _, z = mount(0.0)
    z = float(np.clip(z, LOWEST, HIGHEST))
    eyes = []
    for name, y in (("cam_left", 0.5 * baseline), ("cam_right", -0.5 * baseline)):
        p, r, yaw = (float(value) for value in rng.normal([pitch, roll, 0.0], 0.25))
        eyes.append(_Eye(name, (x, float(y), z), yaw, p, r, fov))
    return eyes


def _stereo_sides(rng, mount: _Mount) -> list[_Eye]:
    eyes = _stereo(rng, mount)
    fov, tilt = rng.uniform(60.0, 120.0), _tilt(rng)
    yaws = [("cam_side_left", rng.uniform(55, 100)), ("cam_side_right", -rng.uniform(55, 100))]
    if rng.random() < 0.6:
        yaws.append(("cam_back", 180.0 + rng.normal(0.0, 2.0)))
    return eyes + [_eye(rng, mount, name, yaw, fov, tilt) for name, yaw in yaws]


def _ring(rng, mount: _Mount) -> list[_Eye]:
    """3 to 8 cameras all round, evenly but for some degrees, with views that mostly overlap."""
    count = int(rng.integers(3, 9))
    fov = 360.0 / count * rng.uniform(0.95, 1.5)
    tilt = _tilt(rng, lowest=-14.0)
    names = ["cam_front"] + [f"cam_ring_{k}" for k in range(1, count)]
    turned = [0.0] + [-360.0 / count * k + float(rng.normal(0.0, 4.0)) for k in range(1, count)]
    return [
        _eye(rng, mount, name, yaw, fov * rng.uniform(0.9, 1.1), tilt) for name, yaw in zip(names, turned, strict=True)
    ]


def _fisheyes(rng, mount: _Mount) -> list[_Eye]:
    """Four surround-view fisheyes, tilted down as they are mounted."""
    fov, pitch = rng.uniform(150.0, WIDEST), rng.uniform(-30.0, -8.0)
    rows = (("cam_front", 0.0), ("cam_left", 90.0), ("cam_back", 180.0), ("cam_right", -90.0))
    return [_eye(rng, mount, name, yaw, fov, (pitch + rng.normal(0.0, 3.0), 0.0)) for name, yaw in rows]


def _front(rng, mount: _Mount) -> list[_Eye]:
    """Two or three cameras of different width ahead: a long one, a wide one, perhaps one to the back."""
    tilt = _tilt(rng)
    eyes = [
        _eye(rng, mount, "cam_front_wide", rng.normal(0.0, 1.0), rng.uniform(85.0, 130.0), tilt),
        _eye(rng, mount, "cam_front_long", rng.normal(0.0, 1.0), rng.uniform(NARROWEST, 62.0), tilt),
    ]
    if rng.random() < 0.5:
        eyes.append(_eye(rng, mount, "cam_back", 180.0, rng.uniform(70.0, 130.0), _tilt(rng)))
    side = float(rng.uniform(0.05, 0.25))
    shifted = [(e, side if k == 0 else -side) for k, e in enumerate(eyes[:2])]
    return [
        _Eye(e.name, (e.position[0], e.position[1] + dy, e.position[2]), e.yaw, e.pitch, e.roll, e.fov)
        for e, dy in shifted
    ] + eyes[2:]


_LAYOUTS: dict[str, Callable[[np.random.Generator, _Mount], list[_Eye]]] = {
    "single": _single,
    "stereo": _stereo,
    "stereo_sides": _stereo_sides,
    "ring": _ring,
    "fisheyes": _fisheyes,
    "front": _front,
}
