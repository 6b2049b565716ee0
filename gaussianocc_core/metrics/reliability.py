# SPDX-License-Identifier: Apache-2.0
"""Whether probabilities mean what they say: of the voxels that are occupied with 0.7, seven in ten should be."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from gaussianocc_core.metrics.pooling import Pooled


class Reliability(Pooled):
    """Counts of a run's voxels by the probability that they are occupied, in bins of equal width."""

    def __init__(self, bins: int = 10) -> None:
        if bins < 1:
            raise ValueError(f"bins: expected at least 1, got {bins}")
        self.sums: Float[np.ndarray, "B 3"] = np.zeros((bins, 3))  # voxels, their probabilities, those occupied

    def update(
        self,
        probability: Float[np.ndarray, "*shape"],
        occupied: Bool[np.ndarray, "*shape"],
        mask: Bool[np.ndarray, "*shape"],
    ) -> None:
        """One sample: probability of being occupied, 0-1; whether it is; which voxels count."""
        said, bins = probability[mask].astype(np.float64), len(self.sums)
        index = np.minimum((said * bins).astype(np.int64), bins - 1)
        for column, weights in enumerate((None, said, occupied[mask].astype(np.float64))):
            self.sums[:, column] += np.bincount(index, weights, minlength=bins)

    def counts(self) -> Float[np.ndarray, "B 3"]:
        return self.sums

    def set_counts(self, counts: Float[np.ndarray, "B 3"]) -> None:
        self.sums = counts

    def summary(self) -> dict[str, Any] | None:
        """`bins`: each with its limits `low` and `high`, how many `voxels` it has, the mean `probability` that they are
        occupied and the share that is `occupied`, NaN without any; `error`: the mean distance of those two over all
        voxels. None without any voxel."""
        voxels, total = self.sums[:, 0], float(self.sums[:, 0].sum())
        if not total:
            return None
        with np.errstate(invalid="ignore"):
            said, true = self.sums[:, 1] / voxels, self.sums[:, 2] / voxels
        width = 1.0 / len(self.sums)
        return {
            "bins": [
                {
                    "low": n * width,
                    "high": (n + 1) * width,
                    "voxels": int(voxels[n]),
                    "probability": float(said[n]),
                    "occupied": float(true[n]),
                }
                for n in range(len(self.sums))
            ],
            "error": float(np.nansum(np.abs(said - true) * voxels) / total),
        }
