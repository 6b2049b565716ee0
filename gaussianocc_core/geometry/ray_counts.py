# SPDX-License-Identifier: Apache-2.0
"""Rays of one camera image, added to the counts of a voxel grid: how many end in a cell, how many pass it.

Importing this module imports Numba: import it where it is used.
"""

from __future__ import annotations

import numba

from gaussianocc_core.geometry import raymarch
from gaussianocc_core.geometry.raymarch import clip_to_box, dda_inside, dda_start, dda_step
from gaussianocc_core.kernels import cached_kernel

ENDS, PASSES = 0, 1  # last axis of the counts
COUNTS = 2


@numba.njit(inline="always", error_model="numpy")
def _ended(t, depth, half):
    """Share of the ray's ends that lie before t: smooth, 0 and 1 at depth -+ half."""
    x = min(max((t - depth) / half, -1.0), 1.0)
    return 0.5 + x * (0.75 - 0.25 * x * x)


@cached_kernel(raymarch, error_model="numpy", nogil=True)
def add_rays(T_grid_cam, lens, depth, half, weight, classes, low, size, per_voxel, wrap, counts, fresh, votes):
    """One image (h, w) of rays.

    T_grid_cam (4, 4): camera in the frame of the grid, m; lens: focal lengths and centre (fx, fy, cx, cy), px of this
    image, pixel centres at +0.5. depth, half (m, of z-depth): the ray ends within depth -+ half; half 0: it ends
    nowhere and passes everything up to depth. weight: of the ray, 0: it says nothing. classes: of what it ends on, at
    least votes.shape[-1]: none. low (3,), size (3,): of the cells, m; per_voxel: cells on top of each other in a voxel.
    wrap (3,): where the first cell lies in `counts`, which go on at 0 behind their end. counts (X, Y, Z per_voxel,
    COUNTS), fresh (X, Y, Z, COUNTS; each ray counts 1; none: shape 0) and votes (X, Y, Z, K; without a wrap only) are
    added to.
    """
    shape = counts.shape[:3]
    high = (low[0] + size[0] * shape[0], low[1] + size[1] * shape[1], low[2] + size[2] * shape[2])
    keeps_fresh = fresh.shape[0] > 0
    ox, oy, oz = T_grid_cam[0, 3], T_grid_cam[1, 3], T_grid_cam[2, 3]
    for v in range(depth.shape[0]):
        y = (v + 0.5 - lens[3]) / lens[1]
        for u in range(depth.shape[1]):
            share = weight[v, u]
            if share <= 0.0:
                continue
            x = (u + 0.5 - lens[2]) / lens[0]
            # Of length 1 along the optical axis, so that the ray's parameter is z-depth.
            dx = T_grid_cam[0, 0] * x + T_grid_cam[0, 1] * y + T_grid_cam[0, 2]
            dy = T_grid_cam[1, 0] * x + T_grid_cam[1, 1] * y + T_grid_cam[1, 2]
            dz = T_grid_cam[2, 0] * x + T_grid_cam[2, 1] * y + T_grid_cam[2, 2]
            z, h = float(depth[v, u]), float(half[v, u])
            ends = h > 0.0
            first = z - h if ends else z  # passes stop here
            last = z + h if ends else z
            t, leave = clip_to_box(ox, oy, oz, dx, dy, dz, low, high)
            last = min(last, leave)
            if not t < last:
                continue
            label = classes[v, u]
            votes_too = ends and label < votes.shape[3]
            cell, borders, steps, per_cell = dda_start(ox, oy, oz, dx, dy, dz, t, low, size, shape)
            while t < last and dda_inside(cell, shape):
                t_next = min(borders)
                i, j, k = cell[0] + wrap[0], cell[1] + wrap[1], cell[2] + wrap[2]
                i, j, k = i - shape[0] * (i >= shape[0]), j - shape[1] * (j >= shape[1]), k - shape[2] * (k >= shape[2])
                if t_next <= first:
                    counts[i, j, k, PASSES] += share
                    if keeps_fresh:
                        fresh[i, j, k // per_voxel, PASSES] += 1.0
                elif ends:
                    before, after = _ended(t, z, h), _ended(t_next, z, h)
                    counts[i, j, k, ENDS] += share * (after - before)
                    counts[i, j, k, PASSES] += share * (1.0 - after)
                    if keeps_fresh:
                        fresh[i, j, k // per_voxel, ENDS] += after - before
                        fresh[i, j, k // per_voxel, PASSES] += 1.0 - after
                    if votes_too:
                        votes[i, j, k // per_voxel, label] += share * (after - before)
                t = t_next
                cell, borders = dda_step(cell, borders, steps, per_cell)
