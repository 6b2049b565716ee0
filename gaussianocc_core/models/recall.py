# SPDX-License-Identifier: Apache-2.0
"""What is published of a set when the rays of earlier sets are remembered: the decision, taken again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8

from gaussianocc_core.geometry import lattice as lattice_geometry
from gaussianocc_core.labels import OCCLUDED, UNOBSERVED, free_label, has_one_class
from gaussianocc_core.models.decision_cpu import Decided
from gaussianocc_core.models.ray_memory import MemoryHead
from gaussianocc_core.models.visibility import stands_on_ground
from gaussianocc_core.types import Lattice, OccupancyField, VoxelGrid

# Of what is not occupied, that is free which is less probable than this share of the line between the two; what lies
# between is hidden.
_FREE_SHARE = 0.45


class Recall:
    """For one lattice, grid and set of classes."""

    def __init__(
        self,
        head: MemoryHead,
        lattice: Lattice,
        grid: VoxelGrid,
        class_names: Sequence[str],
        beyond: Bool[np.ndarray, "X Y"],
        ground_layers: Bool[np.ndarray, " Z"],
    ) -> None:
        """beyond, ground_layers: as `visibility.leave_unknown` takes them."""
        self.head, self._lattice, self._grid = head, lattice, grid
        self._free = free_label(class_names)
        self._beyond, self._stands = beyond, stands_on_ground(class_names)
        self._ground = ground_layers & has_one_class(class_names)

    def __call__(
        self, decided: Decided, probability: Float[np.ndarray, "X Y Z"], field: OccupancyField, caution: float
    ) -> Decided:
        """The same set with another probability that its voxels are occupied, 0-1. What is unobserved stays so."""
        from gaussianocc_core.models.ray_memory_cpu import NEW, redecide  # here: it imports Numba

        least = np.float32(1.0 - caution)
        labels, confidence = decided.labels.copy(), decided.confidence.copy()
        passed = np.broadcast_to(np.True_, labels.shape) if decided.passed is None else decided.passed
        redecide(
            least,
            np.float32(_FREE_SHARE) * least,
            np.uint8(self._free),
            passed,
            decided.opacity,
            probability,
            labels,
            confidence,
        )
        observed = decided.observed
        new = labels == NEW
        if new.any():
            places = np.argwhere(new)
            labels[new] = decided.labels[new]
            classes, share = self._classes_at(field, places)
            # Rays end on the ground at a slant and make it thicker than it is: the network alone says where it lies.
            stands = self._stands[classes] & ~self._ground[places[:, 2]]
            placed = stands & ~self._beyond[places[:, 0], places[:, 1]]
            i, j, k = places[placed].T
            labels[i, j, k], confidence[i, j, k] = classes[placed], probability[i, j, k] * share[placed]
            if (stands & ~placed).any():
                observed = observed.copy()
                i, j, k = places[stands & ~placed].T
                labels[i, j, k], confidence[i, j, k], observed[i, j, k] = UNOBSERVED, 0.0, False
            back = new & (labels == self._free)  # what is likely to be occupied is never free
            labels[back], confidence[back] = OCCLUDED, 0.0
        return replace(decided, labels=labels, confidence=confidence, observed=observed, opacity=probability)

    def _classes_at(
        self, field: OccupancyField, places: Int64[np.ndarray, "P 3"]
    ) -> tuple[UInt8[np.ndarray, " P"], Float[np.ndarray, " P"]]:
        """The likeliest class of each voxel, were it occupied, and its share of that."""
        points = np.array(self._grid.origin) + (places + 0.5) * self._grid.voxel_size
        at = torch.from_numpy(points.astype(np.float32)).to(field.logits.device)
        logits = lattice_geometry.sample(field.logits[:, : self._free], self._lattice, at)[0]
        share, classes = logits.softmax(dim=0).max(dim=0)
        return classes.to(torch.uint8).cpu().numpy(), share.float().cpu().numpy()


__all__ = ["Recall"]
