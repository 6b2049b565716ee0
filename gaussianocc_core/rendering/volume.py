# SPDX-License-Identifier: Apache-2.0
"""Volume rendering of an occupancy field along pixel rays: the baseline that splatting is measured against.

The published alternative renderer (docs/method.md#e.8 to #e.14; render types `prob` and
`density`), on contracted and on uniform lattices. Rays run through the pixel centres with camera z = 1, so that the
parameter of a ray is z-depth in metres. Two implementations give the same images: torch, on any device and
differentiable in the cameras as well, and compiled kernels for the CPU (`volume_cpu`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gaussianocc_core.errors import BackendError
from gaussianocc_core.geometry.cameras import pixel_rays
from gaussianocc_core.rendering.march import DEFAULT_MARCH, LAST_GAP, LEAST_TRANSMITTANCE, MarchSettings, sample_depths
from gaussianocc_core.rendering.rasterize import normalize, render_cameras
from gaussianocc_core.types import Cameras, Lattice, OccupancyField, RenderedViews

T = TypeVar("T")


@dataclass(frozen=True)
class RayRegularizers:
    """Unweighted means over all rays (docs/method.md#e.14)."""

    entropy: Float[Tensor, ""]  # of the summed weight of a ray, nats
    distortion: Float[Tensor, ""]  # m


def render_volume(
    field: OccupancyField,
    lattice: Lattice,
    cameras: Cameras,
    *,
    width: int | None = None,
    height: int | None = None,
    normalize_depth: bool = False,
    settings: MarchSettings = DEFAULT_MARCH,
    jitter: Float[Tensor, "N H W"] | None = None,
    backend: str = "auto",
) -> RenderedViews:
    """March one field (a batch of 1) along the rays of every camera; the contract of `rasterize`.

    Features are all K logits, depth is accumulated z-depth (m; divided by alpha with `normalize_depth`, 0 where alpha
    is 0) and is not clamped, alpha is the sum of a ray's weights.

    width, height: size of the images in pixels; the intrinsics are scaled to it. Default: the cameras' own size.
    jitter: metres added to the z of all samples of a ray, see `draw_jitter`; for training.
    backend: "torch", differentiable in logits and cameras, one camera in memory at a time; "fused", compiled for the
    CPU, differentiable in the logits; or "auto", fused where it can do what is asked.
    """
    cameras = render_cameras(cameras, width, height)
    volume, jitter = _check(field, lattice, cameras, settings, jitter)
    moving = torch.is_grad_enabled() and (cameras.intrinsics.requires_grad or cameras.T_ego_cam.requires_grad)
    fused = _choose(backend, volume.device, moving)
    if fused:
        from gaussianocc_core.rendering import volume_cpu  # here: it imports numba, which nothing else needs

        features, depth, alpha = volume_cpu.march(volume, lattice, cameras, settings, jitter)
    else:

        def march(camera: int) -> tuple[Tensor, Tensor, Tensor]:
            return _march_camera(volume, lattice, cameras, camera, settings, jitter)

        images = _per_camera(march, len(cameras))
        features, depth, alpha = (torch.stack(list(part)) for part in zip(*images, strict=True))
    return normalize(RenderedViews(features, depth, alpha), normalize_depth)


def ray_regularizers(
    field: OccupancyField,
    lattice: Lattice,
    cameras: Cameras,
    *,
    width: int | None = None,
    height: int | None = None,
    settings: MarchSettings = DEFAULT_MARCH,
    jitter: Float[Tensor, "N H W"] | None = None,
) -> RayRegularizers:
    """Entropy and distortion of the rays' weights, differentiable; in torch, one camera in memory at a time."""
    cameras = render_cameras(cameras, width, height)
    volume, jitter = _check(field, lattice, cameras, settings, jitter)

    def means(camera: int) -> tuple[Tensor, Tensor]:
        rays = _sample_rays(lattice, cameras, camera, settings, jitter)
        values = _read(volume[-1:], rays.positions)[0]
        weights = _weigh(values, rays, settings)
        p = weights.sum(-1).clamp(1e-6, 1 - 1e-6)
        entropy = -(p * p.log() + (1 - p) * (1 - p).log())
        return entropy.mean(), distortion(weights, rays.depth, rays.gap).mean()

    entropy, spread = (torch.stack(list(part)).mean() for part in zip(*_per_camera(means, len(cameras)), strict=True))
    return RayRegularizers(entropy, spread)


def distortion(
    weights: Float[Tensor, "R S"], depth: Float[Tensor, "R S"], gap: Float[Tensor, "R S"]
) -> Float[Tensor, " R"]:
    """1/3 sum of gap w^2 + 2 sum over pairs i > j of w_i w_j (z_i - z_j), per ray; depth ascends."""
    before = weights.cumsum(-1) - weights
    moment = (weights * depth).cumsum(-1) - weights * depth
    pairs = (weights * (depth * before - moment)).sum(-1)
    return (gap * weights**2).sum(-1) / 3 + 2 * pairs


def normalized_positions(lattice: Lattice, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Where ego-frame points (m) lie in the volume: -1 at the first index of an axis, 1 at the last; differentiable.

    `lattice.fractional_index` in torch and in the points' precision (float32 decides which samples are dropped).
    """
    low = points.new_tensor(lattice.low)
    size = points.new_tensor(lattice.high) - low
    w = 2 * (points - low) / size - 1
    if lattice.contraction is None:
        count = points.new_tensor(lattice.shape)
        return w * (count / (count - 1))
    t = lattice.contraction / (1 - lattice.contraction)
    w = w * t
    beyond = w.abs().clamp(min=t)  # the clamp keeps the branch that is not taken finite
    return torch.where(w.abs() <= t, w, w.sign() * (1 + t - 1 / (beyond + 1 - t))) / (t + 1)


# ---- in torch ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rays:
    """S samples on each of the R = H x W rays of one camera."""

    depth: Float[Tensor, "R S"]  # z, m
    gap: Float[Tensor, "R S"]  # Euclidean distance to the next sample, m
    positions: Float[Tensor, "R S 3"]  # as `normalized_positions`
    points: Float[Tensor, "R S 3"]  # ego frame, m
    kept: Bool[Tensor, "R S"]


def _sample_rays(
    lattice: Lattice, cameras: Cameras, camera: int, settings: MarchSettings, jitter: Tensor | None
) -> _Rays:
    T_ego_cam = cameras.T_ego_cam[camera]
    rays = pixel_rays(cameras.intrinsics[camera : camera + 1], cameras.width[0], cameras.height[0])[0]
    directions = rays.flatten(0, 1) @ T_ego_cam[:3, :3].T  # (R, 3), camera z = 1
    depth = sample_depths(lattice, settings).to(directions)[None]  # (1, S)
    if jitter is not None:
        depth = (depth + jitter[camera].reshape(-1, 1)).clamp(min=0)
    depth = (depth + settings.near).expand(len(directions), -1)
    points = T_ego_cam[:3, 3] + directions[:, None] * depth[..., None]  # (R, S, 3)
    gap = torch.diff(depth, dim=-1) * directions.norm(dim=-1, keepdim=True)
    gap = torch.cat([gap, torch.full_like(gap[:, :1], LAST_GAP)], dim=-1)
    positions = normalized_positions(lattice, points)
    with torch.no_grad():
        # The first sample is compared with the middle of the volume, as published.
        move = torch.diff(positions, dim=1, prepend=torch.zeros_like(positions[:, :1])).abs()
        count = positions.new_tensor(lattice.shape)
        kept = (move > settings.least_move / count).any(-1)
        kept &= (positions.abs() <= count / (count - 1)).all(-1)  # inside: half a cell beyond the outermost points
    return _Rays(depth, gap, positions, points, kept)


def _read(volume: Float[Tensor, "C X Y Z"], positions: Float[Tensor, "R S 3"]) -> Float[Tensor, "C R S"]:
    """Trilinear values; constant beyond the outermost lattice points."""
    grid = positions.flip(-1)[None, None]  # (1, 1, R, S, 3); grid_sample wants the last array axis first: z, y, x
    return F.grid_sample(volume[None], grid, mode="bilinear", padding_mode="border", align_corners=True)[0, :, 0]


def _weigh(values: Float[Tensor, "R S"], rays: _Rays, settings: MarchSettings) -> Float[Tensor, "R S"]:
    """Weights of the samples from the volume's last channel."""
    if settings.kind == "prob":
        end = torch.zeros_like(values)
        end[:, -1] = float(settings.opaque_end)
        total = torch.where(rays.kept, torch.sigmoid(-values), end).cumsum(-1).clamp(max=1.0)
        return torch.diff(total, dim=-1, prepend=torch.zeros_like(total[:, :1]))
    alpha = torch.where(rays.kept, 1 - torch.exp(-F.relu(values) * rays.gap), 0.0)
    passed = (1 - alpha).clamp(min=LEAST_TRANSMITTANCE).cumprod(-1)
    return alpha * torch.cat([torch.ones_like(passed[:, :1]), passed[:, :-1]], dim=-1)


def _march_camera(
    volume: Float[Tensor, "K X Y Z"],
    lattice: Lattice,
    cameras: Cameras,
    camera: int,
    settings: MarchSettings,
    jitter: Tensor | None,
) -> tuple[Float[Tensor, "K H W"], Float[Tensor, "1 H W"], Float[Tensor, "1 H W"]]:
    rays = _sample_rays(lattice, cameras, camera, settings, jitter)
    stride = settings.feature_stride
    if stride == 1:
        values = _read(volume, rays.positions)  # (K, R, S)
        weights = _weigh(values[-1], rays, settings)
        features = torch.einsum("krs,rs->kr", values, weights * rays.kept)
        features = features + settings.dropped_feature * (weights * ~rays.kept).sum(-1)
    else:
        weights = _weigh(_read(volume[-1:], rays.positions)[0], rays, settings)
        whole = weights.shape[-1] // stride * stride  # what is left over reads no features
        centers = rays.points[:, :whole].unflatten(1, (-1, stride)).mean(2)
        grouped = weights[:, :whole].unflatten(1, (-1, stride)).sum(-1)
        read = rays.kept[:, :whole].unflatten(1, (-1, stride)).any(-1)
        values = _read(volume, normalized_positions(lattice, centers))
        features = torch.einsum("krs,rs->kr", values, grouped * read)
    size = (cameras.height[0], cameras.width[0])
    depth = (weights * rays.depth).sum(-1)
    return features.unflatten(-1, size), depth.view(1, *size), weights.sum(-1).view(1, *size)


def _per_camera(work: Callable[[int], T], count: int) -> list[T]:
    """work(camera) of every camera; with several and gradients, each is computed again in the backward pass."""
    if count == 1 or not torch.is_grad_enabled():
        return [work(camera) for camera in range(count)]
    return [checkpoint(work, camera, use_reentrant=False) for camera in range(count)]


def _check(
    field: OccupancyField, lattice: Lattice, cameras: Cameras, settings: MarchSettings, jitter: Tensor | None
) -> tuple[Float[Tensor, "K X Y Z"], Float[Tensor, "N H W"] | None]:
    """The one volume and the jitter, float32; ValueError where the call's parts do not fit each other."""
    logits = field.logits
    if logits.shape[0] != 1 or tuple(logits.shape[2:]) != tuple(lattice.shape):
        raise ValueError(
            f"field: expected one volume over the lattice, (1, K, {', '.join(map(str, lattice.shape))}), "
            f"got {tuple(logits.shape)}; render the elements of a batch one by one"
        )
    if cameras.intrinsics.device != logits.device:
        raise ValueError(f"cameras: on {cameras.intrinsics.device}, but the field is on {logits.device}")
    expected = (len(cameras), cameras.height[0], cameras.width[0])
    if jitter is not None and tuple(jitter.shape) != expected:
        raise ValueError(f"jitter: expected {expected}, got {tuple(jitter.shape)}")
    return logits[0].float(), None if jitter is None else jitter.to(logits.device, torch.float32)


def _choose(backend: str, device: torch.device, cameras_move: bool) -> bool:
    """Whether the fused kernels render."""
    if backend == "auto":
        return device.type == "cpu" and not cameras_move
    if backend == "torch":
        return False
    if backend != "fused":
        raise BackendError(f"backend: no volume renderer named {backend!r}; use 'torch', 'fused' or 'auto'")
    if device.type != "cpu":
        raise BackendError(f"backend: 'fused' runs on the CPU, but the field is on {device}; use 'torch' or 'auto'")
    if cameras_move:
        raise BackendError("backend: 'fused' gives no gradients to cameras; use 'torch' or 'auto'")
    return True
