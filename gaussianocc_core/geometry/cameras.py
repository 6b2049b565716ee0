# SPDX-License-Identifier: Apache-2.0
"""Project and unproject undistorted pinhole cameras. z-depth against ray length lives here and nowhere else.

Pixel centres lie at +0.5, so resizing an image scales fx, fy, cx, cy by the same factors, no half-pixel terms.
Distorted lenses are brought to this form by `rectify.Rectifier` first.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaussianocc_core.geometry import transforms
from gaussianocc_core.geometry.pixel_centers import PIXEL_CENTER
from gaussianocc_core.types import Cameras

# Columns are the optical axes (x right, y down, z forward) of a camera that looks along ego x, in the ego frame.
_OPTICAL_IN_EGO = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def view_rotation(yaw: float, pitch: float = 0.0, roll: float = 0.0) -> Float[np.ndarray, "3 3"]:
    """Rotation of T_ego_cam of a camera that looks yaw degrees to the left, pitch up, rolled clockwise."""
    y, p, r = np.radians([yaw, pitch, roll])
    about_z = np.array([[np.cos(y), -np.sin(y), 0], [np.sin(y), np.cos(y), 0], [0, 0, 1]])
    about_y = np.array([[np.cos(p), 0, -np.sin(p)], [0, 1, 0], [np.sin(p), 0, np.cos(p)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(r), -np.sin(r)], [0, np.sin(r), np.cos(r)]])
    return about_z @ about_y @ about_x @ _OPTICAL_IN_EGO


def scale_intrinsics(
    intrinsics: Float[Tensor, "*batch 3 3"], scale_x: float, scale_y: float
) -> Float[Tensor, "*batch 3 3"]:
    """K for the image resized by these factors (new size / old size)."""
    scale = torch.tensor([[scale_x], [scale_y], [1.0]], device=intrinsics.device, dtype=intrinsics.dtype)
    return intrinsics * scale


def resize(cameras: Cameras, width: int, height: int) -> Cameras:
    """The same cameras with every image resized to width x height pixels (aspect may change)."""
    sx = torch.tensor([width / w for w in cameras.width], dtype=cameras.intrinsics.dtype)
    sy = torch.tensor([height / h for h in cameras.height], dtype=cameras.intrinsics.dtype)
    scale = torch.stack([sx, sy, torch.ones_like(sx)], dim=-1)[..., None].to(cameras.intrinsics.device)  # (N, 3, 1)
    count = len(cameras)
    return replace(cameras, intrinsics=cameras.intrinsics * scale, width=(width,) * count, height=(height,) * count)


def relocate(cameras: Cameras, T_world_ego: Float[Tensor, "N 4 4"], T_world_reference: Float[Tensor, "4 4"]) -> Cameras:
    """The cameras of a moving rig in one ego frame: each T_ego_cam is taken at its own image time.

    T_world_ego: ego pose at each camera's image time; T_world_reference: of the ego frame that is wanted. Cameras of
    one set spread over some 40 ms, which at 10 m/s is 0.4 m: one voxel.
    """
    T_reference_ego = transforms.invert(T_world_reference.double()) @ T_world_ego.double()
    moved = T_reference_ego @ cameras.T_ego_cam.double()
    return replace(cameras, T_ego_cam=moved.to(cameras.T_ego_cam.dtype))


def project(
    points_ego: Float[Tensor, "P 3"],
    intrinsics: Float[Tensor, "N 3 3"],
    T_ego_cam: Float[Tensor, "N 4 4"],
) -> tuple[Float[Tensor, "N P 2"], Float[Tensor, "N P"]]:
    """Pixel coordinates and z-depth (metres) of ego-frame points in N pinhole cameras.

    Pixels of points with z <= 0 are meaningless; use `in_view` or test the depth.
    """
    T_cam_ego = transforms.invert(T_ego_cam)
    points_cam = points_ego @ T_cam_ego[:, :3, :3].transpose(-1, -2) + T_cam_ego[:, None, :3, 3]  # (N, P, 3)
    homogeneous = points_cam @ intrinsics.transpose(-1, -2)  # (N, P, 3)
    depth = points_cam[..., 2]
    return homogeneous[..., :2] / depth.clamp(min=1e-6)[..., None], depth


def in_view(
    pixels: Float[Tensor, "*batch P 2"], depth: Float[Tensor, "*batch P"], width: int, height: int, near: float = 1e-3
) -> Bool[Tensor, "*batch P"]:
    """True where a projected point lies farther than `near` (m) in front of the camera and inside the image."""
    u, v = pixels.unbind(-1)
    return (depth > near) & (u >= 0) & (u < width) & (v >= 0) & (v < height)


def unproject(
    depth: Float[Tensor, "N H W"], intrinsics: Float[Tensor, "N 3 3"], T_ego_cam: Float[Tensor, "N 4 4"]
) -> Float[Tensor, "N H W 3"]:
    """Ego-frame points (metres) of z-depth images."""
    rays = pixel_rays(intrinsics, depth.shape[-1], depth.shape[-2])
    points_cam = rays * depth[..., None]
    rotated = torch.einsum("nij,nhwj->nhwi", T_ego_cam[:, :3, :3], points_cam)
    return rotated + T_ego_cam[:, None, None, :3, 3]


def pixel_rays(
    intrinsics: Float[Tensor, "N 3 3"], width: int, height: int, pixel_center: float = PIXEL_CENTER
) -> Float[Tensor, "N H W 3"]:
    """Directions through the pixel centres in the camera frame with z = 1, so that point = ray * z-depth."""
    rows = torch.arange(height, device=intrinsics.device, dtype=intrinsics.dtype) + pixel_center
    columns = torch.arange(width, device=intrinsics.device, dtype=intrinsics.dtype) + pixel_center
    v, u = torch.meshgrid(rows, columns, indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1)  # (H, W, 3)
    return torch.einsum("nij,hwj->nhwi", torch.linalg.inv(intrinsics), pixels)


def ego_rays(
    intrinsics: Float[Tensor, "*batch N 3 3"],
    T_ego_cam: Float[Tensor, "*batch N 4 4"],
    width: int,
    height: int,
    stride: int = 1,
) -> Float[Tensor, "*batch N 3 h w"]:
    """Unit viewing directions in the ego frame at the centres of the cells of a map of this stride.

    They say where a camera looks, not where it is: a network that gets them knows no length.
    """
    factor = 1.0 / stride
    K = scale_intrinsics(intrinsics, factor, factor).flatten(0, -3)
    rays = pixel_rays(K, width // stride, height // stride)
    rays = torch.einsum("nij,nhwj->nihw", T_ego_cam.flatten(0, -3)[:, :3, :3], rays / rays.norm(dim=-1, keepdim=True))
    return rays.unflatten(0, intrinsics.shape[:-2])


def lens_maps(intrinsics: Float[Tensor, "N 3 3"], width: int, height: int, stride: int = 1) -> Float[Tensor, "N 4 h w"]:
    """What the lens does at the cells of a map: direction (x / z, y / z) and the logarithms of both focal lengths (1:
    a hundred pixels of the image)."""
    factor = 1.0 / stride
    rays = pixel_rays(scale_intrinsics(intrinsics, factor, factor), width // stride, height // stride)
    focal = torch.stack([intrinsics[:, 0, 0], intrinsics[:, 1, 1]], dim=1).log() - np.log(100.0)
    return torch.cat([rays[..., :2].permute(0, 3, 1, 2), focal[:, :, None, None].expand(-1, -1, *rays.shape[1:3])], 1)


def counter_clockwise(T_ego_cam: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Camera names around the vehicle, beginning with the one that looks most nearly ahead (ego x)."""
    yaw = {name: float(np.arctan2(T[1, 2], T[0, 2])) for name, T in T_ego_cam.items()}  # of the optical axis
    if not yaw:
        return ()
    front = min(yaw, key=lambda name: abs(yaw[name]))
    return tuple(sorted(yaw, key=lambda name: ((yaw[name] - yaw[front]) % (2 * np.pi), name)))


def pair_matrix(
    K_reference: Float[Tensor, "*batch 3 3"],
    K_source: Float[Tensor, "*batch 3 3"],
    T_source_reference: Float[Tensor, "*batch 4 4"],
) -> Float[Tensor, "*batch 3 4"]:
    """From homogeneous pixels of a reference (centres at +0.5) and their inverse depth (1/m) to those of a source, of
    pinhole cameras.

    T_source_reference: points of the reference in the frame of the source, m.
    """
    rotation = K_source @ T_source_reference[..., :3, :3] @ torch.linalg.inv(K_reference)
    return torch.cat([rotation, K_source @ T_source_reference[..., :3, 3:]], dim=-1)
