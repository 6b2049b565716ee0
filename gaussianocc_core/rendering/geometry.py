# SPDX-License-Identifier: Apache-2.0
"""From 3D Gaussians to image footprints, in torch and differentiable: what the CPU kernels composite.

One row per visible (camera, Gaussian) pair; everything that can never reach a pixel is dropped before the heavy part.
Method: EWA splatting (Zwicker et al. 2001) with the local affine approximation of 3D Gaussian splatting
(Kerbl et al. 2023). The numbers are gsplat's, gathered in `RasterConstants`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gaussianocc_core.geometry import transforms
from gaussianocc_core.types import Gaussians

TILE = 16  # pixels along a tile's side


@dataclass(frozen=True)
class RasterConstants:
    """Every number in which splatting rasterisers differ. Defaults: gsplat 1.5.

    `PUBLISHED` holds the values of the rasteriser behind the released weights (docs/method.md#e).
    """

    blur: float = 0.3  # added to both diagonal entries of the image covariance, px^2 (gsplat eps2d)
    max_alpha: float = 0.999
    min_alpha: float = 1 / 255  # a smaller contribution of a Gaussian to a pixel is skipped
    stop_transmittance: float = 1e-4  # a pixel ends before the Gaussian that would leave this or less
    extent: float = 3.33  # standard deviations at which the tile test cuts a footprint
    opacity_extent: bool = True  # shrink the extent to where alpha falls to min_alpha: then the test cuts nothing
    square_extent: bool = False  # one radius from the larger eigenvalue instead of one per image axis
    eigenvalue_floor: float = 0.1  # least squared half-difference of the eigenvalues, only with square_extent, px^4
    tile_low_shift: float = 0.0  # px; first tile = floor((u - radius + low) / 16)
    tile_high_shift: float = 16.0  # px; end tile (exclusive) = floor((u + radius + high) / 16)
    slope_margin: float = 0.3  # the affine approximation is taken at most this share of the half view outside it
    centered_slopes: bool = False  # slope limits as if the principal point were the image centre
    horizontal_focal: bool = False  # footprint's vertical focal length derived from the horizontal field of view
    divide_epsilon: float = 0.0  # added to z before the perspective division, m
    clamped_alpha_gradient: bool = False  # let the gradient to opacity pass where alpha is clamped to max_alpha

    def __post_init__(self) -> None:
        if not 1e-5 < self.min_alpha < self.max_alpha < 1:
            raise ValueError(
                f"min_alpha, max_alpha: expected 1e-5 < min < max < 1, got {self.min_alpha} and {self.max_alpha}"
            )


GSPLAT = RasterConstants()
PUBLISHED = RasterConstants(
    max_alpha=0.99,
    stop_transmittance=math.nextafter(1e-4, 0.0),  # it stops at strictly less
    extent=3.0,
    opacity_extent=False,
    square_extent=True,
    tile_low_shift=-0.5,  # its pixel centres lie at integers
    tile_high_shift=14.5,
    centered_slopes=True,
    horizontal_focal=True,
    divide_epsilon=1e-7,
    clamped_alpha_gradient=True,
)


@dataclass(frozen=True)
class Footprints:
    """Gaussians as seen by the cameras: P visible pairs, sorted by camera, then depth, then index of the Gaussian."""

    camera: Int[Tensor, " P"]
    gaussian: Int[Tensor, " P"]  # row of the Gaussians they came from
    centers: Float[Tensor, "P 2"]  # u, v in px, pixel centres at +0.5
    conics: Float[Tensor, "P 3"]  # inverse image covariance: uu, uv, vv in 1/px^2
    depth: Float[Tensor, " P"]  # z of the mean in the camera frame, m
    reach: Float[Tensor, " P"]  # px above and below the centre beyond which alpha < min_alpha; no gradient
    tiles: Int[Tensor, "P 4"]  # first column, first row, end column, end row of the touched tiles (ends exclusive)

    def __len__(self) -> int:
        return int(self.camera.shape[0])


@dataclass(frozen=True)
class SplatPlan:
    """Where fixed Gaussians fall in fixed cameras: P pairs visible at full opacity, sorted as in `Footprints`.

    What is left for a frame is which of them its opacities keep, and how many tiles those touch.
    """

    camera: Int[Tensor, " P"]
    gaussian: Int[Tensor, " P"]
    centers: Float[Tensor, "P 2"]  # as in Footprints
    conics: Float[Tensor, "P 3"]
    depth: Float[Tensor, " P"]
    spread: Float[Tensor, "P 3"]  # px per standard deviation: tile test along u, along v; vertical extent
    gaussians: int  # M
    cameras: int  # N
    width: int
    height: int
    constants: RasterConstants

    def __len__(self) -> int:
        return int(self.camera.shape[0])

    def select(self, cameras: Sequence[int]) -> SplatPlan:
        """The plan of some of the cameras, by index and in this order."""
        ends = torch.searchsorted(self.camera, torch.arange(self.cameras + 1).to(self.camera)).tolist()
        spans = [slice(ends[camera], ends[camera + 1]) for camera in cameras]
        counts = torch.tensor([span.stop - span.start for span in spans], dtype=torch.long)

        def take(values: Tensor) -> Tensor:
            return torch.cat([values[span] for span in spans])

        return replace(
            self,
            camera=torch.repeat_interleave(torch.arange(len(spans)), counts).to(self.camera),
            gaussian=take(self.gaussian),
            centers=take(self.centers),
            conics=take(self.conics),
            depth=take(self.depth),
            spread=take(self.spread),
            cameras=len(spans),
        )


def covariances(quats: Float[Tensor, "P 4"], scales: Float[Tensor, "P 3"]) -> Float[Tensor, "P 3 3"]:
    """R S S R^T in the ego frame, m^2; quaternions are w x y z and are normalised first."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rotation = torch.stack(
        [
            1 - 2 * (y * y + z * z),
            2 * (x * y - w * z),
            2 * (x * z + w * y),
            2 * (x * y + w * z),
            1 - 2 * (x * x + z * z),
            2 * (y * z - w * x),
            2 * (x * z - w * y),
            2 * (y * z + w * x),
            1 - 2 * (x * x + y * y),
        ],
        dim=-1,
    ).unflatten(-1, (3, 3))
    axes = rotation * scales[:, None, :]
    return axes @ axes.transpose(-1, -2)


def project_gaussians(
    gaussians: Gaussians,
    intrinsics: Float[Tensor, "N 3 3"],
    T_ego_cam: Float[Tensor, "N 4 4"],
    width: int,
    height: int,
    near: float,
    constants: RasterConstants = GSPLAT,
    visible: Bool[Tensor, "N M"] | None = None,
) -> Footprints:
    """Footprints of the Gaussians that can reach a pixel of some camera; `visible` rules pairs out beforehand.

    Differentiable in means, quats, scales and T_ego_cam; which pairs are kept is not.
    """
    T_cam_ego = transforms.invert(T_ego_cam)
    lens = lens_parameters(intrinsics, width, height, constants)
    camera, index = _candidates(gaussians, T_cam_ego, intrinsics, lens, width, height, near, constants)
    if visible is not None:
        allowed = visible[camera, index]
        camera, index = camera[allowed], index[allowed]

    # Positions in the camera, then u, v.
    rotation = T_cam_ego[camera, :3, :3]  # (P, 3, 3)
    means = (rotation @ gaussians.means[index, :, None])[..., 0] + T_cam_ego[camera, :3, 3]
    x, y, depth = means.unbind(-1)
    inv_depth = 1 / (depth + constants.divide_epsilon)
    intrinsics = intrinsics[camera]
    centers = torch.stack(
        [
            intrinsics[:, 0, 0] * x * inv_depth + intrinsics[:, 0, 1] * y * inv_depth + intrinsics[:, 0, 2],
            intrinsics[:, 1, 1] * y * inv_depth + intrinsics[:, 1, 2],
        ],
        dim=-1,
    )

    # Image covariance J W Sigma W^T J^T + blur; J is taken at a slope inside the (widened) view.
    focal_x, focal_y, slope_min_x, slope_max_x, slope_min_y, slope_max_y = lens[camera].unbind(-1)
    slope_x = torch.minimum(torch.maximum(x / depth, slope_min_x), slope_max_x)
    slope_y = torch.minimum(torch.maximum(y / depth, slope_min_y), slope_max_y)
    zero = torch.zeros_like(depth)
    jacobian = torch.stack(
        [focal_x / depth, zero, -focal_x * slope_x / depth, zero, focal_y / depth, -focal_y * slope_y / depth], dim=-1
    ).unflatten(-1, (2, 3))
    to_image = jacobian @ rotation  # (P, 2, 3)
    covariance = to_image @ covariances(gaussians.quats[index], gaussians.scales[index]) @ to_image.transpose(-1, -2)
    uu = covariance[:, 0, 0] + constants.blur
    uv = covariance[:, 0, 1]
    vv = covariance[:, 1, 1] + constants.blur
    determinant = uu * vv - uv * uv
    conics = torch.stack([vv, -uv, uu], dim=-1) / determinant[:, None]

    with torch.no_grad():
        # Standard deviations after which alpha < min_alpha; the margin covers float32 rounding of the test.
        sigmas = torch.sqrt(2 * torch.log((gaussians.opacities[index] / constants.min_alpha).clamp(min=1.0)))
        reach = sigmas * vv.sqrt() * 1.001 + 0.01
        extent = sigmas if constants.opacity_extent else torch.full_like(sigmas, torch.inf)
        extent = extent.clamp(max=constants.extent)
        if constants.square_extent:
            half_trace = 0.5 * (uu + vv)
            spread = (half_trace * half_trace - determinant).clamp(min=constants.eigenvalue_floor).sqrt()
            radius_u = radius_v = torch.ceil(extent * (half_trace + spread).sqrt())
        else:
            radius_u, radius_v = torch.ceil(extent * uu.sqrt()), torch.ceil(extent * vv.sqrt())
        radius = torch.stack([radius_u, radius_v], dim=-1)
        limit = torch.tensor([math.ceil(width / TILE), math.ceil(height / TILE)], device=radius.device)
        low = torch.floor((centers - radius + constants.tile_low_shift) / TILE)
        high = torch.floor((centers + radius + constants.tile_high_shift) / TILE)
        # Clamp as floats first: a far centre overflows int32.
        tiles = torch.cat([low.clamp(min=0).minimum(limit), high.clamp(min=0).minimum(limit)], dim=-1).to(torch.int32)
        kept = (tiles[:, 2] > tiles[:, 0]) & (tiles[:, 3] > tiles[:, 1]) & (determinant > 0)
        rows = torch.nonzero(kept)[:, 0]
        # One stable sort by (camera, depth): the bits of positive floats order like integers.
        depth_bits = depth.detach()[rows].to(torch.float32).view(torch.int32).to(torch.int64)
        rows = rows[torch.argsort((camera[rows] << 32) | depth_bits, stable=True)]

    return Footprints(camera[rows], index[rows], centers[rows], conics[rows], depth[rows], reach[rows], tiles[rows])


def lens_parameters(
    intrinsics: Float[Tensor, "N 3 3"], width: int, height: int, constants: RasterConstants
) -> Float[Tensor, "N 6"]:
    """What shapes a footprint: focal x, focal y (px), then the slope limits min x, max x, min y, max y."""
    focal_x, focal_y = intrinsics[:, 0, 0], intrinsics[:, 1, 1]
    center_x, center_y = intrinsics[:, 0, 2], intrinsics[:, 1, 2]
    if constants.horizontal_focal:
        focal_y = focal_x * (height / width)
    if constants.centered_slopes:
        center_x, center_y = torch.full_like(center_x, width / 2), torch.full_like(center_y, height / 2)
    margin_x, margin_y = constants.slope_margin * width / 2, constants.slope_margin * height / 2
    return torch.stack(
        [
            focal_x,
            focal_y,
            -(center_x + margin_x) / focal_x,
            (width - center_x + margin_x) / focal_x,
            -(center_y + margin_y) / focal_y,
            (height - center_y + margin_y) / focal_y,
        ],
        dim=-1,
    )


@torch.no_grad()
def _candidates(
    gaussians: Gaussians,
    T_cam_ego: Float[Tensor, "N 4 4"],
    intrinsics: Float[Tensor, "N 3 3"],
    lens: Float[Tensor, "N 6"],
    width: int,
    height: int,
    near: float,
    constants: RasterConstants,
) -> tuple[Int[Tensor, " P"], Int[Tensor, " P"]]:
    """(camera, Gaussian) pairs that may touch an image: a cheap bound that never drops one that does."""
    active = torch.nonzero(gaussians.opacities >= constants.min_alpha)[:, 0]
    means = gaussians.means[active]
    size = gaussians.scales[active].abs().amax(dim=-1)
    if not constants.opacity_extent:
        # The extent says nothing of what a pixel sees: what touches only the last tiles' part beyond the image counts.
        width, height = (TILE * math.ceil(side / TILE) for side in (width, height))
    cameras, indices = [], []
    for camera in range(len(intrinsics)):
        x, y, z = (means @ T_cam_ego[camera, :3, :3].T + T_cam_ego[camera, :3, 3]).unbind(-1)
        front = torch.nonzero(z >= near)[:, 0]
        x, y, z, spread = x[front], y[front], z[front], size[front]
        K = intrinsics[camera]
        u = (K[0, 0] * x + K[0, 1] * y) / z + K[0, 2]
        v = K[1, 1] * y / z + K[1, 2]
        # |J| is at most focal / z * sqrt(1 + slope^2), with the slope clamped as in the exact projection.
        slope = lens[camera, 2:].abs().amax()
        stretch = lens[camera, :2].amax() * torch.sqrt(1 + 2 * slope * slope)
        # + 1: the floor under the eigenvalues of square_extent; + 2: ceil, and the shifts of the tile test
        radius = constants.extent * torch.sqrt((stretch * spread / z) ** 2 + constants.blur + 1) + 2
        near_image = (u > -radius) & (u < width + radius) & (v > -radius) & (v < height + radius)
        found = active[front[near_image]]
        indices.append(found)
        cameras.append(torch.full_like(found, camera))
    return torch.cat(cameras), torch.cat(indices)
