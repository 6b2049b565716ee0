# SPDX-License-Identifier: Apache-2.0
"""Kernels of `ray_memory`: from counts of rays to what they say of a voxel. Importing this module imports Numba."""

from __future__ import annotations

import numba
import numpy as np

from gaussianocc_core.geometry import ray_counts
from gaussianocc_core.geometry.ray_counts import ENDS, PASSES
from gaussianocc_core.kernels import JIT, exp32, log32
from gaussianocc_core.labels import OCCLUDED, UNOBSERVED

_LEAST_ENDS = np.float32(0.2)  # rays in a cell, below which their share says nothing
_SURE_PASSES, _NO_RAY = np.float32(3.0), np.float32(0.01)  # as carving has them for the sets of a moment
_SURE_SHARE = np.float32(0.25)
_VETO_SHARE = np.float32(0.1)  # of the moment's rays that end in a voxel, from which on what came before has no veto
_CERTAIN = np.float32(0.02)  # opacity below which a voxel in which no ray ended needs no weighing
_CHUNK, _RAW = 256, 8
NEW = 253  # label of what is found and has no class yet
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


@numba.njit(inline="always", error_model="numpy")
def _start(u, v, T, first, origin, size):
    """Where the centre of a voxel of the grid's lowest layer lies in the window, and one layer's way up, in voxels."""
    x, y, z = origin[0] + (u + 0.5) * size, origin[1] + (v + 0.5) * size, origin[2] + 0.5 * size
    i = (T[0, 0] * x + T[0, 1] * y + T[0, 2] * z + T[0, 3]) / size - first[0]
    j = (T[1, 0] * x + T[1, 1] * y + T[1, 2] * z + T[1, 3]) / size - first[1]
    k = (T[2, 0] * x + T[2, 1] * y + T[2, 2] * z + T[2, 3]) / size - first[2]
    return (i, j, k), (T[0, 2], T[1, 2], T[2, 2])


@numba.njit(inline="always", error_model="numpy")
def _locate(w, start, up, wrap, shape):
    """The cell of the window that the centre of a voxel of layer w lies in: its index, or -1 in front."""
    i = int(np.floor(start[0] + w * up[0]))
    j = int(np.floor(start[1] + w * up[1]))
    k = int(np.floor(start[2] + w * up[2]))
    if i < 0 or j < 0 or k < 0 or i >= shape[0] or j >= shape[1] or k >= shape[2]:
        return -1, -1, -1
    i, j, k = i + wrap[0], j + wrap[1], k + wrap[2]
    return i - shape[0] * (i >= shape[0]), j - shape[1] * (j >= shape[1]), k - shape[2] * (k >= shape[2])


@numba.njit(inline="always", error_model="numpy")
def _most_ends(cells):
    most = _ZERO
    for layer in range(cells.shape[0]):
        most = max(most, cells[layer, ENDS])
    return most


@numba.njit(inline="always", error_model="numpy")
def _rays_of(cells, fresh, gain):
    """Of a voxel's cells (L, COUNTS): largest share of a cell's rays that end in it, most ends, all passes.

    fresh (COUNTS): of the voxel at the moment, which has the last word about what moves: what rays pass now and do not
    end in has left, and what a good share of them ends in is there, though many passed before it came.
    """
    share, ends, passes = _ZERO, _ZERO, _ZERO
    now, passed = fresh[ENDS], fresh[PASSES]
    left = passed >= _SURE_PASSES and now <= _NO_RAY * passed
    for layer in range(cells.shape[0]):
        e, p = cells[layer, ENDS] / gain, cells[layer, PASSES] / gain
        if e >= _LEAST_ENDS:
            share = max(share, e / (e + p))
        ends = max(ends, e)
        passes += p
    if left:
        return _ZERO, _ZERO, passes
    if now >= _LEAST_ENDS and now >= _SURE_SHARE * (now + passed):
        share = max(share, now / (now + passed))
    return share, ends, passes


@numba.njit(**JIT)
def _describe(count, raw, out):
    """Features of so many voxels, a row each (FEATURES, chunk); raw: opacity, x, y and z of the centre in the ego frame
    (m), share, ends, passes, and what the answer is at least (not read here)."""
    tenth, hundredth = np.float32(0.1), np.float32(0.01)
    for n in range(count):
        out[0, n] = log32(raw[0, n] + hundredth) - log32(_ONE + hundredth - raw[0, n])
        out[1, n] = tenth * np.sqrt(raw[1, n] * raw[1, n] + raw[2, n] * raw[2, n])
        out[2, n] = raw[3, n]
        out[3, n] = log32(raw[4, n] + hundredth)
        out[4, n] = log32(raw[5, n] + tenth)
        out[5, n] = log32(raw[6, n] + tenth)


@numba.njit(**JIT)
def describe_all(where, opacity, counts, fresh, gain, first, T, origin, size, out):
    """where (P, 3): voxels of the grid; out (P, FEATURES)."""
    shape = counts.shape[:3]
    wrap = (first[0] % shape[0], first[1] % shape[1], first[2] % shape[2])
    raw, found = np.empty((_RAW, 1), np.float32), np.empty((out.shape[1], 1), np.float32)
    for n in range(len(where)):
        u, v, w = where[n]
        start, up = _start(u, v, T, first, origin, size)
        i, j, k = _locate(w, start, up, wrap, shape)
        raw[4:, 0] = _ZERO
        if i >= 0:
            raw[4, 0], raw[5, 0], raw[6, 0] = _rays_of(counts[i, j, k], fresh[i, j, k], gain)
        raw[0, 0], raw[1, 0] = opacity[u, v, w], origin[0] + (u + 0.5) * size
        raw[2, 0], raw[3, 0] = origin[1] + (v + 0.5) * size, origin[2] + (w + 0.5) * size
        _describe(1, raw, found)
        out[n] = found[:, 0]


@numba.njit(**JIT)
def weigh(
    begin, end, opacity, observed, counts, fresh, gain, first, T, origin, size,
    weight, bias, last_weight, last_bias, said,
):  # fmt: skip
    """Rows begin to end of the grid; see `RayMemory.weigh`. Voxels are weighed in chunks, to fill vector registers."""
    shape = counts.shape[:3]
    raw, found = np.empty((_RAW, _CHUNK), np.float32), np.empty((weight.shape[1], _CHUNK), np.float32)
    places = np.empty(_CHUNK, np.int64)
    total, sums = np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.float32)
    ny, nz = opacity.shape[1], opacity.shape[2]
    flat = said.reshape(-1)
    wrap = (first[0] % shape[0], first[1] % shape[1], first[2] % shape[2])
    least_ends = _LEAST_ENDS * gain
    waiting = 0
    for u in range(begin, end):
        x = origin[0] + (u + 0.5) * size
        for v in range(ny):
            y = origin[1] + (v + 0.5) * size
            start, up = _start(u, v, T, first, origin, size)
            for w in range(nz):
                word = opacity[u, v, w]
                said[u, v, w] = word
                if not observed[u, v, w]:
                    continue
                i, j, k = _locate(w, start, up, wrap, shape)
                if i < 0 or (word < _CERTAIN and _most_ends(counts[i, j, k]) < least_ends):  # most of what is free
                    continue
                share, ends, passes = _rays_of(counts[i, j, k], fresh[i, j, k], gain)
                if word < _CERTAIN and ends < _LEAST_ENDS:
                    continue
                raw[0, waiting], raw[1, waiting], raw[2, waiting] = word, x, y
                raw[3, waiting] = origin[2] + (w + 0.5) * size
                raw[4, waiting], raw[5, waiting], raw[6, waiting] = share, ends, passes
                now = fresh[i, j, k, ENDS]
                comes = now >= _LEAST_ENDS and now >= _VETO_SHARE * (now + fresh[i, j, k, PASSES])
                raw[7, waiting] = word if comes else _ZERO
                places[waiting] = (u * ny + v) * nz + w
                waiting += 1
                if waiting == _CHUNK:
                    _weigh_chunk(waiting, places, raw, found, weight, bias, last_weight, last_bias, total, sums, flat)
                    waiting = 0
    _weigh_chunk(waiting, places, raw, found, weight, bias, last_weight, last_bias, total, sums, flat)


@numba.njit(**JIT)
def _weigh_chunk(count, places, raw, found, weight, bias, last_weight, last_bias, total, sums, said):
    _describe(count, raw, found)
    for n in range(count):
        total[n] = last_bias[0]
    for m in range(weight.shape[0]):
        for n in range(count):
            sums[n] = bias[m]
        for f in range(weight.shape[1]):
            w, given = weight[m, f], found[f]
            for n in range(count):
                sums[n] += w * given[n]
        w = last_weight[m]
        for n in range(count):
            total[n] += w * max(sums[n], _ZERO)
    for n in range(count):
        total[n] = max(_ONE / (_ONE + exp32(-total[n])), raw[7, n])
    for n in range(count):
        said[places[n]] = total[n]


@numba.njit(**JIT)
def redecide(least, free_below, free, passed, opacity, probability, labels, confidence):
    """The labels of voxels that are observed, by another probability; labels and confidence are changed in place. What
    is newly found gets NEW, for its class is not known yet."""
    for i in range(labels.shape[0]):
        for j in range(labels.shape[1]):
            for k in range(labels.shape[2]):
                label = labels[i, j, k]
                if label == UNOBSERVED:
                    continue
                p = probability[i, j, k]
                if p > least:
                    if label >= free:
                        labels[i, j, k] = NEW
                    else:
                        sure = confidence[i, j, k] / max(opacity[i, j, k], np.float32(1e-6))
                        confidence[i, j, k] = p * min(sure, _ONE)
                elif passed[i, j, k] and p < free_below:
                    labels[i, j, k], confidence[i, j, k] = free, _ONE - p
                else:
                    labels[i, j, k], confidence[i, j, k] = OCCLUDED, _ZERO


assert ray_counts.COUNTS == 2
