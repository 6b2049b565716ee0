# SPDX-License-Identifier: Apache-2.0
"""The lift as one sparse matrix per calibration, applied on the CPU (docs/method.md#b.2).

For each (camera, point) pair that sees, the matrix holds four pixels of the feature map and their bilinear weights,
already divided by the number of cameras. Each camera lists its points in ascending order, so a block of points is a
range of every list: the forward pass fills blocks of the volume that stay in the cache, and the backward pass gives
each camera to one thread, which alone writes that camera's gradient. Sums do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from gaussianocc_core.kernels import as_array, run_in_threads

_JIT = {"nogil": True, "cache": True, "fastmath": {"contract"}, "error_model": "numpy"}
_BLOCK = 1024  # points; with 64 channels a block of the volume is 256 KiB, a share of a core's second-level cache
DTYPES = {torch.float32: np.float32, torch.float64: np.float64}


@dataclass(frozen=True)
class LiftMatrix:
    """Non-zero weights of the lift from N feature maps of h x w pixels to P points; pairs are ordered by camera."""

    size: tuple[int, int, int]  # N, h, w
    count: int  # P
    points: Int[np.ndarray, " V"]  # of each pair, ascending within a camera
    corners: Int[np.ndarray, " V"]  # flat (camera, row, column) index of the pair's top left pixel
    weights: Float[np.ndarray, "V 4"]  # of the pixels top left, top right, bottom left, bottom right
    cameras: Int[np.ndarray, " _"]  # camera n owns pairs cameras[n] : cameras[n + 1]
    blocks: Int[np.ndarray, "_ N"]  # pairs blocks[s, n] : blocks[s + 1, n] are camera n's of the s-th block of points

    @property
    def steps(self) -> tuple[int, int]:
        """From a pixel to its right and to its lower neighbour, in flat indices."""
        _, height, width = self.size
        return int(width > 1), width * int(height > 1)


def build_matrix(
    points: Sequence[Int[Tensor, " _"]],
    positions: Sequence[Float[Tensor, "_ 2"]],
    share: Float[Tensor, " P"],
    height: int,
    width: int,
    padding: str = "border",
    dtype: torch.dtype = torch.float32,
) -> LiftMatrix:
    """points, positions: per camera, the flat indices it sees in ascending order, and where: -1..1 from edge to edge.

    share: factor of a point's samples, e.g. 1 / number of cameras. padding: as in grid_sample, "border" or "zeros".
    """
    corners, weights = [], []
    for camera, (index, where) in enumerate(zip(points, positions, strict=True)):
        columns = _tents(where[:, 0], width, padding)
        rows = _tents(where[:, 1], height, padding)
        corners.append((camera * height + rows[0]) * width + columns[0])
        outer = rows[1][:, :, None] * columns[1][:, None, :]  # (V, 2, 2): row, column
        weights.append(outer.flatten(1) * share[index].to(outer)[:, None])
    owners = np.cumsum([0, *(len(index) for index in points)])
    starts = torch.arange(0, len(share) + _BLOCK, _BLOCK)  # the last one is not below the number of points
    blocks = [
        torch.searchsorted(index, starts.to(index)).numpy() + owner
        for index, owner in zip(points, owners, strict=False)
    ]
    return LiftMatrix(
        size=(len(points), height, width),
        count=len(share),
        points=as_array(torch.cat(tuple(points)), np.int32),
        corners=as_array(torch.cat(corners), np.int32),
        weights=as_array(torch.cat(weights), DTYPES[dtype]),
        cameras=owners.astype(np.int64),
        blocks=np.stack(blocks, axis=1).astype(np.int64),
    )


def _tents(position: Float[Tensor, " V"], count: int, padding: str) -> tuple[Int[Tensor, " V"], Float[Tensor, "V 2"]]:
    """First of two pixels along one axis and the weights of both; a pixel's weight falls to 0 at its neighbours."""
    at = ((position + 1.0) * count - 1.0) / 2.0  # in units of pixels, 0 at the centre of the first
    if padding == "border":
        at = at.clamp(0, count - 1)
    first = at.floor().clamp(0, max(count - 2, 0))
    weights = torch.stack([1.0 - (at - first).abs(), 1.0 - (at - first - 1.0).abs()], dim=1)
    if count == 1:
        weights[:, 1] = 0.0  # there is no second pixel
    return first.long(), weights.clamp(min=0.0)


def apply_matrix(features: Float[Tensor, "N C h w"], matrix: LiftMatrix) -> Float[Tensor, "P C"]:
    """Lifted features of all points; zero where no camera sees. Differentiable in the features."""
    if (len(features), *features.shape[2:]) != matrix.size:
        raise ValueError(f"features: expected (N, C, h, w) with N, h, w = {matrix.size}, got {tuple(features.shape)}")
    return _Apply.apply(features, matrix)


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, matrix):
        ctx.matrix = matrix
        dtype = DTYPES[features.dtype]
        pixels = as_array(features.permute(0, 2, 3, 1), dtype).reshape(-1, features.shape[1])  # (N h w, C)
        lifted = np.empty((matrix.count, features.shape[1]), dtype=dtype)
        for _ in run_in_threads(
            lambda block: _fill_block(
                lifted[block * _BLOCK : (block + 1) * _BLOCK],
                block * _BLOCK,
                matrix.blocks[block],
                matrix.blocks[block + 1],
                matrix.points,
                matrix.corners,
                matrix.weights,
                *matrix.steps,
                pixels,
            ),
            [(block,) for block in range(len(matrix.blocks) - 1)],
        ):
            pass
        return torch.from_numpy(lifted)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_lifted):
        matrix = ctx.matrix
        cameras, height, width = matrix.size
        grad = as_array(grad_lifted, DTYPES[grad_lifted.dtype])
        grad_pixels = np.zeros((cameras * height * width, grad.shape[1]), dtype=grad.dtype)
        for _ in run_in_threads(
            lambda first, end: _gather_camera(
                grad_pixels, first, end, matrix.points, matrix.corners, matrix.weights, *matrix.steps, grad
            ),
            list(zip(matrix.cameras[:-1].tolist(), matrix.cameras[1:].tolist(), strict=True)),
        ):
            pass
        return torch.from_numpy(grad_pixels).view(cameras, height, width, -1).permute(0, 3, 1, 2), None


@numba.njit(**_JIT)
def _fill_block(lifted, offset, begin, end, points, corners, weights, right, down, pixels):
    """lifted (block, C) = the matrix's rows from `offset` on, times pixels (N h w, C); camera n: begin[n] : end[n]."""
    channels = pixels.shape[1]
    lifted[:] = 0
    for camera in range(begin.shape[0]):
        for pair in range(begin[camera], end[camera]):
            row, corner = lifted[points[pair] - offset], corners[pair]
            p00, p01 = pixels[corner], pixels[corner + right]
            p10, p11 = pixels[corner + down], pixels[corner + down + right]
            w00, w01, w10, w11 = weights[pair, 0], weights[pair, 1], weights[pair, 2], weights[pair, 3]
            for c in range(channels):
                row[c] += w00 * p00[c] + w01 * p01[c] + w10 * p10[c] + w11 * p11[c]


@numba.njit(**_JIT)
def _gather_camera(grad_pixels, first, end, points, corners, weights, right, down, grad):
    """grad_pixels (N h w, C) += transposed matrix times grad (P, C), over one camera's pairs."""
    channels = grad.shape[1]
    for pair in range(first, end):
        row, corner = grad[points[pair]], corners[pair]
        for k in range(4):
            pixel, weight = grad_pixels[corner + (k & 1) * right + (k >> 1) * down], weights[pair, k]
            for c in range(channels):
                pixel[c] += weight * row[c]
