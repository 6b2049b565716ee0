# SPDX-License-Identifier: Apache-2.0
"""Which classes a robot drives on, and between which heights anything else stands in its way.

Apart from `obstacles`, because it needs no torch: the bag player reads the node's parameters with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from gaussianocc_core.labels import has_one_class


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
    """Which labels can be driven on; ValueError names a class that the model does not have.

    None of a model with one class: what it says is told apart by height (`obstacles`), whatever the rule names.
    """
    if has_one_class(class_names):
        return np.zeros(256, dtype=bool)
    return class_table(class_names, rule.classes)


def class_table(class_names: Sequence[str], chosen: Sequence[str]) -> Bool[np.ndarray, " 256"]:
    """Which labels are of the chosen classes; ValueError names one that the model does not have."""
    if unknown := [name for name in chosen if name not in class_names]:
        raise ValueError(f"{', '.join(unknown)}: the model has no such classes; it has {', '.join(class_names)}")
    table = np.zeros(256, dtype=bool)
    table[[class_names.index(name) for name in chosen]] = True
    return table


def parse_values(entries: Sequence[str]) -> dict[str, int]:
    """`["sidewalk=30"]` -> {"sidewalk": 30}; ValueError names an entry that is not CLASS=VALUE, of 1 to 100."""
    found: dict[str, int] = {}
    for entry in entries:
        name, _, text = entry.partition("=")
        name, text = name.strip(), text.strip()
        if not name or not text.isdecimal() or not 1 <= int(text) <= 100:
            raise ValueError(f"expected class=value with a whole value of 1 to 100, such as sidewalk=30; got {entry!r}")
        if name in found:
            raise ValueError(f"class {name!r} is there twice")
        found[name] = int(text)
    return found
