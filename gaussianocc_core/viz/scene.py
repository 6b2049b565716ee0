# SPDX-License-Identifier: Apache-2.0
"""3D pictures of labelled voxels, rendered by the project's own splat renderer: no OpenGL, no display.

Every exposed voxel face becomes a few flat Gaussians with an opacity far above 1. Where o exp(-s) exceeds 1 the
rasteriser clamps it, so that such a Gaussian is a disc with a crisp rim, and the discs of a face tile it: cubes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from gaussianocc_core.geometry import voxels
from gaussianocc_core.geometry.cameras import pixel_rays
from gaussianocc_core.labels import FREE
from gaussianocc_core.rendering.geometry import GSPLAT
from gaussianocc_core.rendering.rasterize import rasterize
from gaussianocc_core.types import Cameras, Gaussians, VoxelGrid
from gaussianocc_core.viz.colors import voxel_colors

DISC_OPACITY = 100.0
DISC_SIGMA = 0.215  # of a face's side: alpha falls to 1/2 at 0.7 sides, just beyond the corner of the square
# A crisp disc needs little blur, and reaches sqrt(2 ln(255 * 100)) = 4.5 sigma.
DISC_CONSTANTS = replace(GSPLAT, blur=0.08, extent=5.0)

SUN = np.array([-0.42, 0.36, 0.83])  # towards the sun, ego frame: behind, left, high
AMBIENT, SUNLIGHT = 0.50, 0.60  # a sunlit top shows about its palette colour
EGO_GRID = VoxelGrid(origin=(-1.1, -1.0, 0.1), voxel_size=0.1, shape=(47, 20, 16))
EGO_BODY_RGB, EGO_GLASS_RGB, EGO_WHEEL_RGB = (236, 240, 245), (48, 60, 78), (26, 28, 32)


@dataclass(frozen=True)
class Viewpoint:
    """Where the virtual camera stands and looks, ego frame, metres; the picture's up is the ego frame's."""

    eye: tuple[float, float, float] = (-26.0, 5.0, 20.0)
    target: tuple[float, float, float] = (7.0, -0.5, 0.0)
    vertical_fov: float = 38.0  # degrees


@dataclass(frozen=True)
class Background:
    """A vertical gradient (RGB at the top and the bottom), and how far distance pulls colours towards it."""

    top: tuple[int, int, int] = (16, 20, 28)
    bottom: tuple[int, int, int] = (30, 37, 50)
    floor: tuple[int, int, int] = (33, 41, 55)  # a plane under the grid, so that nothing floats
    seen: tuple[int, int, int] = (64, 78, 100)  # from above: a column of free voxels; unknown ones have `bottom`
    fog_start: float = 40.0  # m from the eye
    fog_length: float = 90.0  # m over which 63 % of the colour fades


DARK = Background()
LIGHT = Background(top=(226, 233, 242), bottom=(246, 248, 250), floor=(216, 223, 231), seen=(205, 215, 227))


@dataclass(frozen=True)
class Faces:
    """F exposed square voxel faces."""

    centers: Float[np.ndarray, "F 3"]  # ego frame, m
    normals: Float[np.ndarray, "F 3"]  # unit, along an axis
    colors: Float[np.ndarray, "F 3"]  # 0-1, shaded
    side: float  # m


def occupancy_view(
    labels: UInt8[np.ndarray, "X Y Z"],
    grid: VoxelGrid,
    width: int,
    height: int,
    *,
    viewpoint: Viewpoint | None = None,
    background: Background = DARK,
    ego: bool = True,
    supersample: int = 2,
    by_height: bool = False,
) -> UInt8[np.ndarray, "height width 3"]:
    """RGB picture of the occupied voxels with their class colours; free and unknown (254, 255) voxels are not drawn.

    labels: Occ3D ids. by_height: colours of a model without classes, by height.
    """
    if labels.shape != grid.shape:
        raise ValueError(f"labels: expected {grid.shape} as the grid has it, got {labels.shape}")
    viewpoint = viewpoint or Viewpoint()
    eye = np.array(viewpoint.eye)
    parts = [lit_faces(labels < FREE, voxel_colors(labels, by_height), grid, eye)]
    if ego:
        parts.append(ego_faces(viewpoint.eye))
    camera = _camera(viewpoint, width * supersample, height * supersample)
    gaussians = [_discs(part, eye, float(camera.intrinsics[0, 0, 0]), background) for part in parts]
    scene = Gaussians(
        *(
            torch.cat([getattr(part, name) for part in gaussians])
            for name in ("means", "quats", "scales", "opacities", "features")
        )
    )
    views = rasterize(scene, camera, constants=DISC_CONSTANTS)
    image = torch.cat([views.features[0], views.alpha[0]]).permute(1, 2, 0).numpy()
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    image = image[..., :3] + (1 - image[..., 3:]) * _backdrop(viewpoint, width, height, grid, background)
    return np.rint(255 * image.clip(0, 1)).astype(np.uint8)


def top_view(
    labels: UInt8[np.ndarray, "X Y Z"],
    grid: VoxelGrid,
    pixels_per_voxel: int = 2,
    background: Background = DARK,
    by_height: bool = False,
) -> UInt8[np.ndarray, "H W 3"]:
    """Bird's-eye RGB picture, forward up and left left: the highest occupied voxel of each column, lit by the sun.

    Other columns are the lighter (on a light background: the darker) the more of their voxels are free, not unknown.
    """
    if labels.shape != grid.shape:
        raise ValueError(f"labels: expected {grid.shape} as the grid has it, got {labels.shape}")
    occupied = labels < FREE
    count = grid.shape[2]
    top = count - 1 - np.argmax(occupied[:, :, ::-1], axis=2)  # (X, Y) of the highest occupied voxel
    any_occupied = np.any(occupied, axis=2, keepdims=True)
    x, y = np.indices(top.shape)
    light = np.concatenate([_sunlight(occupied), np.ones((*top.shape, 1))], axis=2)[x, y, top + 1]
    height_tint = 0.85 + 0.3 * top / max(count - 1, 1)
    color = voxel_colors(labels, by_height)[x, y, top] * ((AMBIENT + 0.5 * light) * height_tint)[..., None]
    share = (labels == FREE).mean(axis=2)[..., None]
    base = (np.array(background.bottom) * (1 - share) + np.array(background.seen) * share) / 255.0
    image = np.where(any_occupied, color, base)
    image = np.rint(255 * image.clip(0, 1)).astype(np.uint8)[::-1, ::-1]  # x up, y to the left
    return np.ascontiguousarray(image.repeat(pixels_per_voxel, axis=0).repeat(pixels_per_voxel, axis=1))


# ---- faces and light -----------------------------------------------------------------------------------------------


def lit_faces(
    occupied: Bool[np.ndarray, "X Y Z"],
    colors: Float[np.ndarray, "X Y Z 3"],
    grid: VoxelGrid,
    eye: Float[np.ndarray, " 3"] | None = None,
    grain: float = 0.05,
) -> Faces:
    """The faces between an occupied and another voxel, shaded by sun, shadow and open sky.

    colors: RGB, 0-1. eye: ego frame, m; only the faces that it can see. None: all, but those under the lowest layer.
    grain: by which share a voxel is lighter or darker than another one, so that neighbours stay apart.
    """
    padded = np.pad(occupied, 1)
    sun = np.pad(_sunlight(occupied), 1, constant_values=1.0)
    crowd = _crowd(np.pad(occupied, 4))
    tint = 1 + grain * (np.random.default_rng(0).random(occupied.shape) - 0.5)
    heights = np.linspace(0.94, 1.10, grid.shape[2])
    centers, normals, shades = [], [], []
    for axis in range(3):
        for sign in (-1, 1):
            normal = np.zeros(3, dtype=int)
            normal[axis] = sign
            neighbour = tuple(slice(1 + n, size + 1 + n) for n, size in zip(normal, occupied.shape, strict=True))
            index = np.argwhere(occupied & ~padded[neighbour])
            face = voxels.index_centers(grid, index) + 0.5 * grid.voxel_size * normal
            # From wherever one looks: nobody looks from below the ground.
            seen = (eye - face) @ normal > 0 if eye is not None else (sign > 0) | (axis < 2) | (index[:, 2] > 0)
            index, face = index[seen], face[seen]
            outside = tuple((index + 1 + normal).T)  # the free voxel in front, in the padded arrays
            ahead = tuple((index + 4 + 3 * normal).T)
            open_sky = 1 - 0.75 * np.minimum(crowd[ahead] * 2.2, 1)
            direct = max(0.0, float(normal @ SUN)) * sun[outside]
            sky = 0.62 + 0.38 * (normal[2] + 1) / 2  # more sky falls on a top than on a wall
            voxel = tuple(index.T)
            shade = (AMBIENT * sky + SUNLIGHT * direct) * open_sky * tint[voxel] * heights[index[:, 2]]
            shades.append(colors[voxel] * shade[:, None])
            centers.append(face)
            normals.append(np.broadcast_to(normal, face.shape))
    return Faces(
        np.concatenate(centers), np.concatenate(normals).astype(float), np.concatenate(shades), grid.voxel_size
    )


def _sunlight(occupied: np.ndarray) -> np.ndarray:
    """Share of the sun (0-1) that enters each voxel: slices from the top down, each shifted along the sun's slant.

    The shift interpolates, so that a shadow softens with its distance from what throws it.
    """
    light = np.ones(occupied.shape, dtype=np.float32)
    shift = -SUN[:2] / SUN[2]  # voxels per slice in x and y; images are (X rows, Y columns)
    motion = np.array([[1, 0, shift[1]], [0, 1, shift[0]]], dtype=np.float32)
    size = (occupied.shape[1], occupied.shape[0])
    for z in range(occupied.shape[2] - 2, -1, -1):
        above = np.ascontiguousarray(light[:, :, z + 1] * ~occupied[:, :, z + 1])
        light[:, :, z] = cv2.warpAffine(above, motion, size, flags=cv2.INTER_LINEAR, borderValue=1.0)
    return light


def _crowd(occupied: np.ndarray) -> np.ndarray:
    """Occupied share of the 5x5x5 voxels around each voxel."""
    flat = cv2.blur(occupied.astype(np.float32), (5, 5), borderType=cv2.BORDER_CONSTANT)  # along x and y; z: channels
    total = np.cumsum(np.pad(flat, ((0, 0), (0, 0), (3, 2))), axis=2)
    return (total[:, :, 5:] - total[:, :, :-5]) / 5


@lru_cache(maxsize=4)
def ego_faces(eye: tuple[float, float, float] | None = None) -> Faces:
    """The vehicle that carries the cameras: a car of 4.6 x 1.9 x 1.6 m whose rear axle is the ego frame's origin.

    Faces of voxels of EGO_GRID; eye: see `lit_faces`.
    """
    grid = EGO_GRID
    x, y, z = np.meshgrid(*(voxels.axis_centers(grid, axis) for axis in range(3)), indexing="ij")
    body = (np.abs(y) < 0.95) & (z > 0.35) & (z < 0.95 - 0.05 * np.maximum(0, x - 2.2))
    slope = np.clip((z - 0.9) / 0.7, 0, 1)
    cabin = (np.abs(y) < 0.9 - 0.25 * slope) & (z >= 0.9) & (x > -0.9 + 0.6 * slope) & (x < 2.5 - 1.2 * slope)
    wheels = np.zeros_like(body)
    for axle in (0.0, 2.75):
        wheels |= (np.hypot(x - axle, z - 0.38) < 0.33) & (np.abs(y) > 0.7)
    colors = np.empty((*body.shape, 3))
    colors[:] = EGO_BODY_RGB
    colors[cabin & (z < 1.45)] = EGO_GLASS_RGB
    colors[wheels] = EGO_WHEEL_RGB
    return lit_faces(body | cabin | wheels, colors / 255.0, grid, None if eye is None else np.array(eye))


# ---- splats and camera ---------------------------------------------------------------------------------------------


def _discs(faces: Faces, eye: np.ndarray, focal: float, background: Background) -> Gaussians:
    """1, 4 or 9 discs a face, by its size in the picture, faded with the distance from the eye (m)."""
    distance = np.linalg.norm(faces.centers - eye, axis=1)
    pixels = focal * faces.side / np.maximum(distance, 0.1)
    divisions = np.select([pixels < 5, pixels < 20], [1, 2], 3)
    fog = _fog(distance, background)
    haze = np.array(background.bottom) / 255.0
    colors = faces.colors * (1 - fog[:, None]) + haze * fog[:, None]
    # The two axes in a face's plane are the cyclic permutations of its normal.
    first, second = np.roll(np.abs(faces.normals), 1, axis=1), np.roll(np.abs(faces.normals), 2, axis=1)
    means, scales, features = [], [], []
    for count in (1, 2, 3):
        chosen = divisions == count
        cell = faces.side / count
        flat = cell * (DISC_SIGMA * (first + second) + 0.01 * np.abs(faces.normals))[chosen]
        steps = faces.side * ((np.arange(count) + 0.5) / count - 0.5)
        for a in steps:
            for b in steps:
                means.append((faces.centers + a * first + b * second)[chosen])
                scales.append(flat)
                features.append(colors[chosen])
    means_, scales_, features_ = (torch.from_numpy(np.concatenate(part)).float() for part in (means, scales, features))
    quats = torch.zeros(len(means_), 4)
    quats[:, 0] = 1
    return Gaussians(means_, quats, scales_, torch.full((len(means_),), DISC_OPACITY), features_)


def _camera(viewpoint: Viewpoint, width: int, height: int) -> Cameras:
    eye, target = np.array(viewpoint.eye), np.array(viewpoint.target)
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    if np.linalg.norm(right) < 1e-6:  # straight down: forward of the vehicle points up in the picture
        right = np.array([0.0, -1.0, 0.0])
    right /= np.linalg.norm(right)
    T_ego_cam = np.eye(4)
    T_ego_cam[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    T_ego_cam[:3, 3] = eye
    focal = height / 2 / np.tan(np.radians(viewpoint.vertical_fov) / 2)
    K = [[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]
    return Cameras(("view",), torch.tensor([K]).float(), torch.from_numpy(T_ego_cam)[None].float(), (width,), (height,))


@lru_cache(maxsize=4)
def _backdrop(
    viewpoint: Viewpoint, width: int, height: int, grid: VoxelGrid, background: Background, field: float = 4.0
) -> np.ndarray:
    """(H, W, 3), 0-1: the gradient, and on it the grid's base plane as a faint chequerboard of `field` metres."""
    camera = _camera(viewpoint, width, height)
    mix = np.linspace(0, 1, height)[:, None, None]
    gradient = (1 - mix) * np.array(background.top) / 255 + mix * np.array(background.bottom) / 255
    rays = pixel_rays(camera.intrinsics, width, height)[0] @ camera.T_ego_cam[0, :3, :3].T
    direction, eye = rays.numpy(), camera.T_ego_cam[0, :3, 3].numpy()
    down = np.minimum(direction[..., 2:], -1e-6)
    length = (grid.origin[2] - eye[2]) / down  # in units of the ray; negative when the eye is under the plane
    point = (eye + length * direction)[..., :2] - np.array(grid.origin[:2])  # m from the grid's corner
    extent = np.array(grid.shape[:2]) * grid.voxel_size
    inside = ((point >= 0) & (point < extent)).all(-1, keepdims=True) & (length > 0) & (direction[..., 2:] < 0)
    odd = np.floor(point / field).sum(-1, keepdims=True) % 2
    floor = np.array(background.floor) / 255 * np.where(odd, 1.0, 0.9)
    haze = _fog(length * np.linalg.norm(direction, axis=-1, keepdims=True), background)
    return np.where(inside, floor * (1 - haze) + np.array(background.bottom) / 255 * haze, gradient)


def _fog(distance: np.ndarray, background: Background) -> np.ndarray:
    """Share of the haze in a colour seen at this distance (m)."""
    return 1 - np.exp(-np.maximum(distance - background.fog_start, 0) / background.fog_length)
