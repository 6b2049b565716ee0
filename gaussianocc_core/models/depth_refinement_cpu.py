# SPDX-License-Identifier: Apache-2.0
"""The kernels of depth refinement: how well the features of far views fit at depths around what a network says, and
what follows from that.

Importing this module imports Numba: import it where it is used.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from gaussianocc_core.kernels import JIT, exp32

_HALF, _ONE, _ZERO, _TINY = np.float32(0.5), np.float32(1.0), np.float32(0.0), np.float32(1e-12)
_FEW = np.float32(1e-3)  # views


@njit(**JIT)
def compare_views(reference, sources, chosen, limits, matrices, inv_depth, spread, hypotheses, summed, seen):
    """Adds products of features over hypotheses of inverse depth.

    reference (h, w, C) and sources (S, H, W, C): feature vectors of length 1; chosen: indices of the
    sources that count; limits (S,): most inverse depth that each is for; matrices (S, 3, 4): homogeneous cells of
    the reference (centres at +0.5) and inverse depth (1/m) -> those of the source, in cells. inv_depth, spread (h, w):
    hypothesis d is inv_depth exp(-spread hypotheses[d]); a cell of no spread is left out. summed (h, w, D) and seen
    (h, w), the number of views, are added to. A view has a say about a cell if it sees all of its hypotheses: else
    those that more views see would be compared with those that fewer do.
    """
    height, width, channels = reference.shape
    source_height, source_width = sources.shape[1], sources.shape[2]
    depths = hypotheses.shape[0]
    limit_x, limit_y = np.float32(source_width), np.float32(source_height)
    rho = np.empty(depths, dtype=np.float32)
    xs, ys = np.empty(depths, dtype=np.float32), np.empty(depths, dtype=np.float32)
    for i in range(height):
        v = np.float32(i) + _HALF
        for j in range(width):
            if spread[i, j] <= _ZERO:
                continue
            u = np.float32(j) + _HALF
            for d in range(depths):
                rho[d] = inv_depth[i, j] * np.exp(-spread[i, j] * hypotheses[d])
            here = reference[i, j]
            for s in chosen:
                if inv_depth[i, j] > limits[s]:
                    continue
                m = matrices[s]
                x0 = m[0, 0] * u + m[0, 1] * v + m[0, 2]
                y0 = m[1, 0] * u + m[1, 1] * v + m[1, 2]
                z0 = m[2, 0] * u + m[2, 1] * v + m[2, 2]
                sees = True
                for d in range(depths):
                    e = d // 2 if d % 2 == 0 else depths - 1 - d // 2  # from both ends: most views fail at once
                    z = z0 + m[2, 3] * rho[e]
                    if z <= np.float32(0.02):
                        sees = False
                        break
                    x, y = (x0 + m[0, 3] * rho[e]) / z, (y0 + m[1, 3] * rho[e]) / z
                    if x < _ZERO or y < _ZERO or x >= limit_x or y >= limit_y:
                        sees = False
                        break
                    xs[e] = min(max(x - _HALF, _ZERO), limit_x - _ONE)
                    ys[e] = min(max(y - _HALF, _ZERO), limit_y - _ONE)
                if not sees:
                    continue
                seen[i, j] += _ONE
                for d in range(depths):
                    column, line = min(int(xs[d]), source_width - 2), min(int(ys[d]), source_height - 2)
                    fx, fy = xs[d] - np.float32(column), ys[d] - np.float32(line)
                    p00, p01 = sources[s, line, column], sources[s, line, column + 1]
                    p10, p11 = sources[s, line + 1, column], sources[s, line + 1, column + 1]
                    w11 = fx * fy
                    w01, w10 = fx - w11, fy - w11
                    w00 = _ONE - fx - w10
                    total, length = _ZERO, _TINY
                    for k in range(channels):
                        there = w00 * p00[k] + w01 * p01[k] + w10 * p10[k] + w11 * p11[k]
                        total += here[k] * there
                        length += there * there
                    # A mean of unit vectors is shorter: without this, depths that fall on cells would win.
                    summed[i, j, d] += total / np.sqrt(length)


@njit(**JIT)
def join(total, count, hypotheses, least, certainty, sharpest, inv_depth, spread, log_error, finer, sure):
    """What network and views say together, by cell; see `depth_refinement.refine_depth`.

    total (h, w, D), count (h, w): likeness summed over views and window, and their number: below `least` a cell
    stays as it was; certainty: what a likeness of 1 weighs; sharpest: least expected error. finer and sure (h, w) are
    written: inverse depth (1/m) and the log of its expected error.
    """
    height, width, depths = total.shape
    said = np.empty(depths, dtype=np.float32)
    for i in range(height):
        for j in range(width):
            finer[i, j], sure[i, j] = inv_depth[i, j], log_error[i, j]
            if not count[i, j] > least:
                continue
            wide = spread[i, j]
            scale, doubt = certainty / max(count[i, j], _FEW), wide * exp32(-log_error[i, j])
            most = np.float32(-np.inf)
            for d in range(depths):
                said[d] = scale * total[i, j, d] - doubt * abs(hypotheses[d])
                most = max(most, said[d])
            whole, mean = _ZERO, _ZERO
            for d in range(depths):
                said[d] = exp32(said[d] - most)
                whole += said[d]
                mean += said[d] * hypotheses[d]
            mean /= whole
            deviation = _ZERO
            for d in range(depths):
                deviation += said[d] * abs(hypotheses[d] - mean)
            finer[i, j] = inv_depth[i, j] * exp32(-wide * mean)
            sure[i, j] = np.log(max(deviation / whole * wide, sharpest))


__all__ = ["compare_views", "join"]
