# SPDX-License-Identifier: Apache-2.0
"""Which classes a robot drives on, and between which heights anything else stands in its way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool


@dataclass(frozen=True)
class Traversability:
    """What counts as an obstacle: any class but the traversable ones, between two heights of the ego frame."""

    classes: tuple[str, ...] = ("driveable_surface", "sidewalk", "terrain", "other_flat")
    low: float = 0.2  # m; what sticks out less is driven over
    high: float = 2.0  # m; what hangs higher is driven under

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"obstacle heights: expected low below high, got {self.low} and {self.high}")


def traversable_ids(class_names: Sequence[str], rule: Traversability) -> Bool[np.ndarray, " 256"]:
    """Which labels can be driven on; ValueError names a class that the model does not have."""
    unknown = [name for name in rule.classes if name not in class_names]
    if unknown:
        raise ValueError(f"traversable classes {', '.join(unknown)} are not among {', '.join(class_names)}")
    table = np.zeros(256, dtype=bool)
    table[[class_names.index(name) for name in rule.classes]] = True
    return table
