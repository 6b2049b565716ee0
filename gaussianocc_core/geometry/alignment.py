# SPDX-License-Identifier: Apache-2.0
"""The motion of a rig between two moments by direct image alignment: Gauss-Newton on all pixels of all cameras at once.

A network sees motion to a tenth of a degree at best. In an image of 176 pixels that is a quarter of a pixel, as much as
the road 20 m away moves from frame to frame; depth that is learnt with such motion is wrong there. Given depth, six
numbers explain a hundred thousand grey values, and solving for them is exact to a hundredth of a pixel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry.warp import interpolate_depth, sample_pixels
from gaussianocc_core.types import Cameras

LEVELS = (2, 1, 0)  # halvings of the images, coarse to fine
ITERATIONS = 4  # at each level
_NEAR = 0.1  # m
_DAMPING = 1e-4  # of the normal matrix' diagonal
_TUNING = 2.4  # of the robust weights, in standard deviations of the residuals (Cauchy)


@torch.no_grad()
def align_rig(
    now: Float[Tensor, "N 3 H W"],
    other: Float[Tensor, "N 3 H W"],
    depth: Float[Tensor, "N H W"],
    cameras: Cameras,
    T_other_now: Float[Tensor, "4 4"],
    valid: Bool[Tensor, "N H W"],
    levels: tuple[int, ...] = LEVELS,
) -> Float[Tensor, "4 4"]:
    """A better T_other_now: points of the ego frame now in the ego frame at the other moment (m).

    now, other: RGB 0-1; depth: z-depth now, m; cameras: pinholes of the images' size, rigidly mounted. What moves by
    itself, is hidden or has a wrong depth weighs little (Cauchy). The given motion comes back where no better one is
    found.
    """
    height, width = depth.shape[-2:]
    best = T_other_now
    for level in levels:
        size = (width >> level, height >> level)
        at = _Level(now, other, depth, cameras, valid, size)
        T, (error, H, g) = best, at.linearise(best)
        for _ in range(ITERATIONS):
            step = torch.linalg.solve(H + _DAMPING * torch.diag(H.diagonal()) + 1e-9 * torch.eye(6).to(H), -g)
            T = _exponential(step) @ T
            last = error
            error, H, g = at.linearise(T)
            if not error < last:
                break
            best = T
    return best


class _Level:
    """The residuals of one size of the images."""

    def __init__(
        self,
        now: Float[Tensor, "N 3 H W"],
        other: Float[Tensor, "N 3 H W"],
        depth: Float[Tensor, "N H W"],
        cameras: Cameras,
        valid: Bool[Tensor, "N H W"],
        size: tuple[int, int],
    ) -> None:
        width, height = size
        cameras = camera_geometry.resize(cameras, width, height)
        whole = F.interpolate(valid[:, None].float(), size=(height, width), mode="area")[:, 0] > 0.999
        self.target = _grey(now, height, width)[:, 0]
        grey = F.pad(_grey(other, height, width), (1, 1, 1, 1), mode="replicate")
        along_u = 0.5 * (grey[..., 1:-1, 2:] - grey[..., 1:-1, :-2])
        along_v = 0.5 * (grey[..., 2:, 1:-1] - grey[..., :-2, 1:-1])
        self.maps = torch.cat([grey[..., 1:-1, 1:-1], along_u, along_v], dim=1)
        self.points = camera_geometry.unproject(
            interpolate_depth(depth, height, width), cameras.intrinsics, cameras.T_ego_cam
        )
        T_cam_ego = torch.linalg.inv(cameras.T_ego_cam)
        self.rotation, self.translation = T_cam_ego[:, :3, :3], T_cam_ego[:, None, None, :3, 3]
        self.K, self.whole, self.size = cameras.intrinsics, whole, size

    def linearise(self, T_other_now: Float[Tensor, "4 4"]) -> tuple[float, Float[Tensor, "6 6"], Float[Tensor, " 6"]]:
        """Robust error, and its normal matrix and gradient for a motion put in front: translation, then rotation."""
        width, height = self.size
        moved = self.points @ T_other_now[:3, :3].T + T_other_now[:3, 3]
        x, y, z = (torch.einsum("nij,nhwj->nhwi", self.rotation, moved) + self.translation).unbind(-1)
        kept = self.whole & (z > _NEAR)
        inv_z = 1.0 / z.clamp(min=_NEAR)
        fx, fy = (self.K[:, i, i, None, None] * inv_z for i in (0, 1))
        u, v = fx * x + self.K[:, 0, 2, None, None], fy * y + self.K[:, 1, 2, None, None]
        kept = kept & (u > 0.5) & (v > 0.5) & (u < width - 0.5) & (v < height - 0.5)
        value, along_u, along_v = sample_pixels(self.maps, torch.stack([u, v], dim=-1)).unbind(1)
        residual = (value - self.target)[kept]
        if residual.numel() < 6:
            return float("inf"), torch.eye(6).to(self.K), torch.zeros(6).to(self.K)
        per_u, per_v = along_u * fx, along_v * fy
        in_camera = torch.stack([per_u, per_v, -(per_u * x + per_v * y) * inv_z], dim=-1)
        in_ego = torch.einsum("nij,nhwi->nhwj", self.rotation, in_camera)[kept]
        jacobian = torch.cat([in_ego, torch.linalg.cross(moved[kept], in_ego)], dim=-1)  # (P, 6)
        width_of = (_TUNING * 1.4826 * residual.abs().median()).clamp(min=1e-3)
        weight = 1.0 / (1.0 + (residual / width_of) ** 2)
        # Normalised by what is in view, or leaving it would pay.
        error = torch.log1p((residual / _SCALE) ** 2).mean()
        weighted = jacobian * weight[:, None]
        return float(error), weighted.T @ jacobian, weighted.T @ residual


_SCALE = 0.05  # grey values 0-1 at which an error counts as one


def _grey(images: Float[Tensor, "N 3 H W"], height: int, width: int) -> Float[Tensor, "N 1 h w"]:
    return F.interpolate(images.mean(dim=1, keepdim=True), size=(height, width), mode="area")


def _exponential(step: Float[Tensor, " 6"]) -> Float[Tensor, "4 4"]:
    """The rigid motion of a twist: translation (m), then rotation (rad)."""
    x, y, z = step[3:].tolist()
    a, b, c = step[:3].tolist()
    twist = torch.tensor([[0, -z, y, a], [z, 0, -x, b], [-y, x, 0, c], [0, 0, 0, 0]], dtype=torch.float64)
    return torch.linalg.matrix_exp(twist).to(step)
