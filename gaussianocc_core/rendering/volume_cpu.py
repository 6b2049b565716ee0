# SPDX-License-Identifier: Apache-2.0
"""Volume rendering as compiled passes over rays: sampling, weights and features of a ray without leaving the cache.

The same numbers as `volume` in torch, for the CPU, forward and backward. A ray first reads the last channel alone; the
features are read only where a sample weighs something, and nothing is read behind the sample that ends the ray.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gaussianocc_core.geometry.cameras import pixel_rays
from gaussianocc_core.kernels import JIT, as_array, run_in_threads
from gaussianocc_core.rendering.march import LAST_GAP, LEAST_TRANSMITTANCE, MarchSettings, sample_depths
from gaussianocc_core.types import Cameras, Lattice

_ROWS = 4  # image rows a work item
_MOST_COPIES = 4  # of the volume's gradient: threads that work on the backward pass at most
# Weights below this are taken as 0: 424 samples of them change a feature by 4e-6 of its size.
_NEGLIGIBLE = np.float32(1e-8)
_CERTAINLY_FREE = np.float32(-np.log(_NEGLIGIBLE))  # free logit of such a probability
_LAST_GAP, _LEAST_TRANSMITTANCE = np.float32(LAST_GAP), np.float32(LEAST_TRANSMITTANCE)
_ZERO, _HALF, _ONE, _TWO = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(2.0)


def march(
    volume: Float[Tensor, "K X Y Z"],
    lattice: Lattice,
    cameras: Cameras,
    settings: MarchSettings,
    jitter: Float[Tensor, "N H W"] | None,
) -> tuple[Float[Tensor, "N K H W"], Float[Tensor, "N 1 H W"], Float[Tensor, "N 1 H W"]]:
    """Features, accumulated z-depth (m) and alpha of every camera; differentiable in the volume."""
    with torch.no_grad():
        rays = pixel_rays(cameras.intrinsics.float(), cameras.width[0], cameras.height[0])
        T_ego_cam = cameras.T_ego_cam.float()
        directions = torch.einsum("nij,nhwj->nhwi", T_ego_cam[:, :3, :3], rays)
    offsets = torch.zeros(directions.shape[:3]) if jitter is None else jitter
    share = lattice.contraction
    region = [lattice.low, lattice.high, lattice.shape]
    fixed = _Fixed(
        as_array(T_ego_cam[:, :3, 3]),
        as_array(directions),
        as_array(offsets),
        as_array(sample_depths(lattice, settings)),
        np.array(region, dtype=np.float32),
        np.float32(0.0 if share is None else share / (1 - share)),
        settings,
    )
    image = _March.apply(volume, fixed)
    return image[:, :-2], image[:, -2:-1], image[:, -1:]


@dataclass(frozen=True)
class _Fixed:
    """What marching needs and has no gradient."""

    origins: Float[np.ndarray, "N 3"]  # of the cameras, ego frame, m
    directions: Float[np.ndarray, "N H W 3"]  # camera z = 1, ego frame
    jitter: Float[np.ndarray, "N H W"]  # m
    depths: Float[np.ndarray, " S"]  # m
    region: Float[np.ndarray, "3 3"]  # low corner, high corner, shape of the lattice
    contraction: np.float32  # t of docs/method.md#b.1; 0 for a uniform lattice
    settings: MarchSettings

    def kernel_arguments(self, volume: Float[np.ndarray, "V K"], free: Float[np.ndarray, " V"]) -> tuple:
        """The arguments that both kernels share."""
        settings = self.settings
        numbers = np.array([settings.near, settings.least_move, settings.dropped_feature], dtype=np.float32)
        density = settings.kind == "density"
        kind = (density, settings.opaque_end and not density, settings.feature_stride)
        rays = (self.origins, self.directions, self.jitter, self.depths)
        return (*rays, self.region, self.contraction, numbers, *kind, volume, free)

    def run(self, work: Callable[[int, int, int], None]) -> None:
        """work(camera, first row, end row) over all images."""
        count, height = self.directions.shape[:2]
        blocks = range(0, height, _ROWS)
        items = [(camera, first, min(first + _ROWS, height)) for camera in range(count) for first in blocks]
        for _ in run_in_threads(work, items):
            pass


class _March(torch.autograd.Function):
    @staticmethod
    def forward(ctx, volume, fixed):
        rows = as_array(volume.flatten(1).T)  # (V, K): the features of one point side by side
        count, height, width = fixed.directions.shape[:3]
        image = np.empty((count, volume.shape[0] + 2, height, width), dtype=np.float32)
        arguments = fixed.kernel_arguments(rows, np.ascontiguousarray(rows[:, -1]))
        fixed.run(lambda camera, first, end: _march_rows(camera, first, end, *arguments, image))
        ctx.fixed, ctx.rows, ctx.shape = fixed, rows, volume.shape
        return torch.from_numpy(image)

    @staticmethod
    def backward(ctx, grad_image):
        fixed, rows = ctx.fixed, ctx.rows
        arguments = fixed.kernel_arguments(rows, np.ascontiguousarray(rows[:, -1]))
        grad_image = as_array(grad_image)
        # Rays of all cameras meet in the same voxels: each thread adds into a volume of its own.
        copies = min(torch.get_num_threads(), _MOST_COPIES)
        grads = [np.zeros(rows.shape, dtype=np.float32) for _ in range(copies)]
        height = grad_image.shape[2]

        def work(copy: int, end: int) -> None:
            for camera in range(len(grad_image)):
                for row in range(copy, end, copies):
                    _backward_rows(camera, row, row + 1, *arguments, grad_image, grads[copy])

        for _ in run_in_threads(work, [(0, 0), *((copy, height) for copy in range(copies))]):  # (0, 0) compiles
            pass
        for other in grads[1:]:
            grads[0] += other
        return torch.from_numpy(grads[0]).T.reshape(ctx.shape), None


@numba.njit(inline="always", **JIT)
def _normalize(x, low, high, count, t):
    """volume.normalized_positions along one axis."""
    w = _TWO * (x - low) / (high - low) - _ONE
    if t == _ZERO:
        return w * (count / (count - _ONE))
    w *= t
    a = abs(w)
    if a > t:
        w = np.copysign(_ONE + t - _ONE / (a + _ONE - t), w)
    return w / (t + _ONE)


@numba.njit(inline="always", **JIT)
def _cell(n, count):
    """Lower index of the two lattice points around a position along one axis, and how far on to the upper one."""
    index = min(max((n + _ONE) * _HALF * (count - _ONE), _ZERO), count - _ONE)
    lower = min(int(index), int(count) - 2)
    return lower, index - np.float32(lower)


@numba.njit(inline="always", **JIT)
def _corners(a, b, c, region, base, weights):
    """Rows and trilinear weights of the eight lattice points around normalised position a, b, c."""
    i, x = _cell(a, region[2, 0])
    j, y = _cell(b, region[2, 1])
    k, z = _cell(c, region[2, 2])
    size_y, size_z = int(region[2, 1]), int(region[2, 2])
    row = (i * size_y + j) * size_z + k
    layer = size_y * size_z
    base[0], base[1], base[2], base[3] = row, row + 1, row + size_z, row + size_z + 1
    base[4], base[5], base[6], base[7] = row + layer, row + layer + 1, row + layer + size_z, row + layer + size_z + 1
    weights[0], weights[1] = (_ONE - x) * (_ONE - y) * (_ONE - z), (_ONE - x) * (_ONE - y) * z
    weights[2], weights[3] = (_ONE - x) * y * (_ONE - z), (_ONE - x) * y * z
    weights[4], weights[5] = x * (_ONE - y) * (_ONE - z), x * (_ONE - y) * z
    weights[6], weights[7] = x * y * (_ONE - z), x * y * z


@numba.njit(**JIT)
def _weigh_ray(
    origin, direction, jitter, depths, region, t, numbers, density, opaque_end, stride, free,
    base, corner, z, kept, value, weight,
):  # fmt: skip
    """Fill z, kept, value (last channel) and weight of the samples of a ray, to the end of the group in which it ends.

    Returns how many are filled, and the sample at which the weights reached 1 ("prob"; the number of samples if they
    never did).
    """
    count = depths.shape[0]
    x0, y0, z0 = origin[0], origin[1], origin[2]
    dx, dy, dz = direction[0], direction[1], direction[2]
    size_x, size_y, size_z = region[2, 0], region[2, 1], region[2, 2]
    move_x, move_y, move_z = numbers[1] / size_x, numbers[1] / size_y, numbers[1] / size_z
    end_x, end_y, end_z = size_x / (size_x - _ONE), size_y / (size_y - _ONE), size_z / (size_z - _ONE)
    length = np.sqrt(dx * dx + dy * dy + dz * dz)
    pa, pb, pc = _ZERO, _ZERO, _ZERO  # the first sample is compared with the middle of the volume, as published
    total, passed = _ZERO, _ONE
    filled, full = count, count
    ended = False
    next_depth = max(depths[0] + jitter, _ZERO) + numbers[0]
    for s in range(count):
        if s >= filled:
            break
        depth = next_depth
        if s + 1 < count:
            next_depth = max(depths[s + 1] + jitter, _ZERO) + numbers[0]
        z[s] = depth
        a = _normalize(x0 + dx * depth, region[0, 0], region[1, 0], size_x, t)
        b = _normalize(y0 + dy * depth, region[0, 1], region[1, 1], size_y, t)
        c = _normalize(z0 + dz * depth, region[0, 2], region[1, 2], size_z, t)
        moved = abs(a - pa) > move_x or abs(b - pb) > move_y or abs(c - pc) > move_z
        stays = moved and abs(a) <= end_x and abs(b) <= end_y and abs(c) <= end_z
        pa, pb, pc = a, b, c
        kept[s] = stays
        weight[s] = _ZERO
        if ended:
            continue
        p = _ZERO
        if stays:
            _corners(a, b, c, region, base, corner)
            read = _ZERO
            for k in range(8):
                read += corner[k] * free[base[k]]
            value[s] = read
            if density:
                gap = (next_depth - depth) * length if s + 1 < count else _LAST_GAP
                p = _ONE - np.exp(-max(read, _ZERO) * gap)
            elif read < _CERTAINLY_FREE:
                p = _ONE / (_ONE + np.exp(read))
        elif opaque_end and s == count - 1:
            p = _ONE
        if density:
            weight[s] = p * passed
            passed *= max(_ONE - p, _LEAST_TRANSMITTANCE)
            ended = bool(passed < _NEGLIGIBLE)
        else:
            ended = bool(total + p > _ONE)
            weight[s] = min(p, _ONE - total)
            total += p
            if ended:
                full = s
        if ended:
            filled = min(count, (s // stride + 1) * stride)
    return filled, full


@numba.njit(inline="always", **JIT)
def _place_group(group, stride, origin, direction, z, kept, region, t, base, corner):
    """Corners of the point at which a group of samples reads its features; False where it reads none."""
    some = False
    middle = _ZERO
    for s in range(group * stride, (group + 1) * stride):
        some = some or kept[s]
        middle += z[s]
    if some:
        middle /= np.float32(stride)
        a = _normalize(origin[0] + direction[0] * middle, region[0, 0], region[1, 0], region[2, 0], t)
        b = _normalize(origin[1] + direction[1] * middle, region[0, 1], region[1, 1], region[2, 1], t)
        c = _normalize(origin[2] + direction[2] * middle, region[0, 2], region[1, 2], region[2, 2], t)
        _corners(a, b, c, region, base, corner)
    return some


@numba.njit(**JIT)
def _march_rows(
    camera, first, end, origins, directions, jitter, depths, region, t, numbers, density, opaque_end, stride,
    volume, free, image,
):  # fmt: skip
    """Render rows first..end of a camera into image (N, K + 2, H, W): features, depth, alpha."""
    width, channels, count = directions.shape[2], volume.shape[1], depths.shape[0]
    base, corner = np.empty(8, np.int64), np.empty(8, np.float32)
    z, value, weight = np.empty(count, np.float32), np.empty(count, np.float32), np.empty(count, np.float32)
    kept = np.empty(count, np.bool_)
    sums = np.empty(channels, np.float32)
    groups = count // stride
    for row in range(first, end):
        for column in range(width):
            origin, direction = origins[camera], directions[camera, row, column]
            filled, _ = _weigh_ray(
                origin, direction, jitter[camera, row, column], depths, region, t, numbers, density, opaque_end, stride,
                free, base, corner, z, kept, value, weight,
            )  # fmt: skip
            depth, alpha = _ZERO, _ZERO
            sums[:] = _ZERO
            for s in range(filled):
                depth += weight[s] * z[s]
                alpha += weight[s]
            for group in range(min(groups, (filled + stride - 1) // stride)):
                w = _ZERO
                for s in range(group * stride, (group + 1) * stride):
                    w += weight[s]
                if w <= _NEGLIGIBLE:
                    continue
                if _place_group(group, stride, origin, direction, z, kept, region, t, base, corner):
                    for k in range(8):
                        share, point = w * corner[k], base[k]
                        for c in range(channels):
                            sums[c] += share * volume[point, c]
                elif stride == 1:
                    for c in range(channels):
                        sums[c] += w * numbers[2]
            for c in range(channels):
                image[camera, c, row, column] = sums[c]
            image[camera, channels, row, column] = depth
            image[camera, channels + 1, row, column] = alpha


@numba.njit(**JIT)
def _backward_rows(
    camera, first, end, origins, directions, jitter, depths, region, t, numbers, density, opaque_end, stride,
    volume, free, grad_image, grads,
):  # fmt: skip
    """Add the gradient of the volume, (V, K), from rows first..end of a camera.

    With q = dL/dw of a sample: in "prob", where weights add up until 1, dL/dp = q - q at the sample that reaches 1 (0
    if none does), and that sample has none itself. In "density", dL/dalpha = T q - (sum of w q behind) / (1 - alpha).
    Both need what lies behind, so samples are visited from the end of the ray.
    """
    width, channels, count = directions.shape[2], volume.shape[1], depths.shape[0]
    base, corner = np.empty(8, np.int64), np.empty(8, np.float32)
    z, value, weight = np.empty(count, np.float32), np.empty(count, np.float32), np.empty(count, np.float32)
    kept = np.empty(count, np.bool_)
    grad = np.empty(channels, np.float32)
    last = channels - 1
    groups = count // stride
    for row in range(first, end):
        for column in range(width):
            origin, direction = origins[camera], directions[camera, row, column]
            filled, full = _weigh_ray(
                origin, direction, jitter[camera, row, column], depths, region, t, numbers, density, opaque_end, stride,
                free, base, corner, z, kept, value, weight,
            )  # fmt: skip
            some = _ZERO
            for c in range(channels):
                grad[c] = grad_image[camera, c, row, column]
                some += grad[c]
            grad_depth = grad_image[camera, channels, row, column]
            grad_alpha = grad_image[camera, channels + 1, row, column]
            length = np.sqrt(direction[0] ** 2 + direction[1] ** 2 + direction[2] ** 2)
            at_full, behind = _ZERO, _ZERO
            dot, placed = _ZERO, -1  # grad . features of the group that was read last
            for back in range(filled):
                s = filled - 1 - back
                group = s // stride
                # Samples without weight matter only where a change of p would change weights: p > 0 before the end.
                if not weight[s] > _NEGLIGIBLE and s != full:
                    continue
                if group != placed:
                    placed, dot = group, _ZERO
                    read = group < groups and _place_group(
                        group, stride, origin, direction, z, kept, region, t, base, corner
                    )
                    if read:
                        w = _ZERO
                        for m in range(group * stride, (group + 1) * stride):
                            w += weight[m]
                        for k in range(8):
                            point = base[k]
                            share, part = w * corner[k], _ZERO
                            for c in range(channels):
                                part += grad[c] * volume[point, c]
                            for c in range(channels):
                                grads[point, c] += share * grad[c]
                            dot += corner[k] * part
                    elif stride == 1:
                        dot = some * numbers[2]
                q = dot + z[s] * grad_depth + grad_alpha
                if density:
                    p = _ZERO
                    if kept[s] and value[s] > _ZERO:
                        gap = _LAST_GAP
                        if s + 1 < count:
                            gap = (max(depths[s + 1] + jitter[camera, row, column], _ZERO) + numbers[0] - z[s]) * length
                        free_share = np.exp(-value[s] * gap)
                        p = _ONE - free_share
                        rest = max(free_share, _LEAST_TRANSMITTANCE)
                        d_alpha = q * weight[s] / p - (behind / rest if free_share >= _LEAST_TRANSMITTANCE else _ZERO)
                        d_value = d_alpha * gap * free_share
                    else:
                        d_value = _ZERO
                    behind += weight[s] * q
                else:
                    d_value = _ZERO
                    if s == full:
                        at_full = q
                    elif kept[s]:
                        p = weight[s]  # before the weights reach 1, a sample weighs its probability
                        d_value = -(q - at_full) * p * (_ONE - p)
                if d_value != _ZERO:
                    a = _normalize(origin[0] + direction[0] * z[s], region[0, 0], region[1, 0], region[2, 0], t)
                    b = _normalize(origin[1] + direction[1] * z[s], region[0, 1], region[1, 1], region[2, 1], t)
                    c3 = _normalize(origin[2] + direction[2] * z[s], region[0, 2], region[1, 2], region[2, 2], t)
                    _corners(a, b, c3, region, base, corner)
                    for k in range(8):
                        grads[base[k], last] += corner[k] * d_value
