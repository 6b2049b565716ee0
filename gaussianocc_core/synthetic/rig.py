# SPDX-License-Identifier: Apache-2.0
"""The default sensors of the synthetic car, and the rays of any lens.

The numbers resemble the nuScenes car's at a quarter of its resolution; they are our own. config/rig/ holds the
same rigs as YAML, and a test keeps the two equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from gaussianocc_core.errors import CalibrationError
from gaussianocc_core.geometry.cameras import view_rotation
from gaussianocc_core.geometry.transforms import make_transform
from gaussianocc_core.types import EQUIDISTANT, PINHOLE, Cameras


def _cameras(rows, width: int, height: int, model: str, distortion=()) -> Cameras:
    intrinsics = np.array([[[f, 0, cx], [0, f, cy], [0, 0, 1]] for _, f, cx, cy, _, _, _ in rows])
    poses = np.array([make_transform(view_rotation(yaw, pitch), np.array(t)) for _, _, _, _, t, yaw, pitch in rows])
    count = len(rows)
    return Cameras(
        names=tuple(row[0] for row in rows),
        intrinsics=torch.tensor(intrinsics, dtype=torch.float32),
        T_ego_cam=torch.tensor(poses, dtype=torch.float32),
        width=(width,) * count,
        height=(height,) * count,
        model=(model,) * count,
        distortion=(tuple(distortion),) * count,
    )


def default_rig() -> Cameras:
    """Six cameras at 400x225: five with 64 degrees of view around the car and a wide one to the back."""
    rows = (  # name, f, cx, cy, translation, yaw, pitch
        ("CAM_FRONT", 316.0, 202.5, 121.5, (1.70, 0.0, 1.51), 0.0, 0.0),
        ("CAM_FRONT_RIGHT", 316.0, 199.0, 122.0, (1.55, -0.49, 1.50), -55.5, 0.0),
        ("CAM_BACK_RIGHT", 316.0, 201.0, 123.0, (1.02, -0.48, 1.56), -109.5, 0.0),
        ("CAM_BACK", 202.0, 203.0, 120.5, (0.03, 0.0, 1.58), 180.0, 0.0),
        ("CAM_BACK_LEFT", 316.0, 198.5, 122.5, (1.03, 0.48, 1.59), 108.5, 0.0),
        ("CAM_FRONT_LEFT", 316.0, 203.0, 121.0, (1.52, 0.49, 1.51), 55.0, 0.0),
    )
    return _cameras(rows, 400, 225, PINHOLE)


SPREAD = 0.043  # s between the first and the last camera of one turn, as on the nuScenes car


def camera_offsets(cameras: Cameras) -> list[float]:
    """Seconds by which each camera fires before the lidar's stamp: clockwise from the front left, within `SPREAD`."""
    axes = cameras.T_ego_cam[:, :3, 2].double().numpy()  # optical axes
    turned = np.round(np.degrees(np.radians(60) - np.arctan2(axes[:, 1], axes[:, 0])) % 360.0, 3)
    return [float(SPREAD * (angle / max(turned.max(), 1.0) - 1.0)) for angle in turned]


def fisheye_rig() -> Cameras:
    """Four surround-view fisheyes (Kannala-Brandt, 190 degrees), tilted down as such cameras are mounted."""
    rows = (
        ("FISHEYE_FRONT", 118.0, 200.0, 150.0, (3.60, 0.0, 0.75), 0.0, -12.0),
        ("FISHEYE_RIGHT", 118.0, 200.0, 150.0, (1.95, -1.02, 1.05), -90.0, -25.0),
        ("FISHEYE_BACK", 118.0, 200.0, 150.0, (-0.95, 0.0, 0.95), 180.0, -15.0),
        ("FISHEYE_LEFT", 118.0, 200.0, 150.0, (1.95, 1.02, 1.05), 90.0, -25.0),
    )
    return _cameras(rows, 400, 300, EQUIDISTANT, (0.02, -0.008, 0.001, 0.0))


@dataclass(frozen=True)
class Lidar:
    """A spinning lidar; its frame is x right, y forward, z up, as that of nuScenes."""

    name: str = "LIDAR_TOP"
    translation: tuple[float, float, float] = (0.94, 0.0, 1.84)  # ego frame, m
    yaw: float = -90.0  # degrees
    rings: int = 32
    lowest: float = -30.67  # degrees of elevation
    highest: float = 10.67
    columns: int = 1084  # per turn
    max_range: float = 100.0  # m
    rate: float = 20.0  # Hz

    @property
    def T_ego_lidar(self) -> Float[np.ndarray, "4 4"]:
        y = math.radians(self.yaw)
        rotation = np.array([[math.cos(y), -math.sin(y), 0], [math.sin(y), math.cos(y), 0], [0, 0, 1]])
        return make_transform(rotation, np.array(self.translation))

    def directions(self) -> tuple[Float[np.ndarray, "R 3"], Float[np.ndarray, " R"]]:
        """Unit rays in the lidar's frame, column after column, and the ring of each."""
        elevation = np.radians(np.linspace(self.lowest, self.highest, self.rings))
        azimuth = np.arange(self.columns) * (2 * np.pi / self.columns)
        a, e = np.meshgrid(azimuth, elevation, indexing="ij")
        rays = np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], axis=-1)
        return rays.reshape(-1, 3), np.tile(np.arange(self.rings, dtype=np.float64), self.columns)


# ---- rays of a lens ------------------------------------------------------------------------------------------------


def pixel_directions(cameras: Cameras, index: int) -> Float[np.ndarray, "H W 3"]:
    """Unit rays through the pixel centres in the camera's frame; NaN where the lens model sees nothing."""
    K = cameras.intrinsics[..., index, :, :].double().numpy()
    if not (np.isfinite(K).all() and K[0, 0] > 0 and K[1, 1] > 0):
        raise CalibrationError(
            f"camera {cameras.names[index]}: intrinsics must be finite with positive focal lengths, got {K.tolist()}"
        )
    v, u = np.meshgrid(np.arange(cameras.height[index]) + 0.5, np.arange(cameras.width[index]) + 0.5, indexing="ij")
    y = (v - K[1, 2]) / K[1, 1]
    x = (u - K[0, 2] - K[0, 1] * y) / K[0, 0]
    coefficients = cameras.distortion[index]
    if cameras.model[index] == EQUIDISTANT:
        return _equidistant_rays(x, y, coefficients)
    x, y = _undistort(x, y, coefficients) if any(coefficients) else (x, y)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1)
    return rays / np.linalg.norm(rays, axis=-1, keepdims=True)


def _distort(x: np.ndarray, y: np.ndarray, coefficients: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """OpenCV's plumb_bob and rational_polynomial, forwards."""
    k1, k2, p1, p2, k3, k4, k5, k6 = (*coefficients, *(0.0,) * (8 - len(coefficients)))
    r2 = x * x + y * y
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


def _undistort(xd: np.ndarray, yd: np.ndarray, coefficients: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Invert `_distort` by Newton with a numeric Jacobian; NaN where that fails (outside the lens's circle)."""
    x, y, h = xd.copy(), yd.copy(), 1e-6
    with np.errstate(all="ignore"):
        for _ in range(20):
            fx, fy = _distort(x, y, coefficients)
            ax, ay = _distort(x + h, y, coefficients)
            bx, by = _distort(x, y + h, coefficients)
            a, c, b, d = (ax - fx) / h, (ay - fy) / h, (bx - fx) / h, (by - fy) / h
            det = a * d - b * c
            ex, ey = xd - fx, yd - fy
            x, y = x + (d * ex - b * ey) / det, y + (a * ey - c * ex) / det
        fx, fy = _distort(x, y, coefficients)
        good = (np.abs(fx - xd) + np.abs(fy - yd) < 1e-8) & (det > 0)
    return np.where(good, x, np.nan), np.where(good, y, np.nan)


def _equidistant_rays(x: np.ndarray, y: np.ndarray, coefficients: tuple[float, ...]) -> Float[np.ndarray, "H W 3"]:
    """Kannala-Brandt: solve theta (1 + k1 theta^2 + ...) = radius by Newton; NaN past its fold or pi."""
    k = np.array([1.0, *coefficients, *(0.0,) * (4 - len(coefficients))])
    powers = np.arange(5) * 2 + 1
    radius = np.hypot(x, y)
    theta = np.minimum(radius, 1.5)
    with np.errstate(all="ignore"):
        for _ in range(20):
            value = sum(a * theta**n for a, n in zip(k, powers, strict=True))
            slope = sum(a * n * theta ** (n - 1) for a, n in zip(k, powers, strict=True))
            theta = theta - (value - radius) / slope
        value = sum(a * theta**n for a, n in zip(k, powers, strict=True))
        slope = sum(a * n * theta ** (n - 1) for a, n in zip(k, powers, strict=True))
        good = (np.abs(value - radius) < 1e-9) & (theta >= 0) & (theta < np.pi) & (slope > 0)
        scale = np.where(radius > 1e-12, np.sin(theta) / radius, 1.0)
    rays = np.stack([x * scale, y * scale, np.cos(theta)], axis=-1)
    rays[~good] = np.nan
    return rays
