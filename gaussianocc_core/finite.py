# SPDX-License-Identifier: Apache-2.0
"""Not a number is not free: what a network says is checked before anything is concluded from it.

Comparisons with NaN are false, so "not occupied" would be the answer to a network that says nothing at all.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gaussianocc_core.errors import PredictionError
from gaussianocc_core.labels import OCCLUDED, UNOBSERVED

# Trained networks' logits lie within some hundreds. Far beyond, sums and interpolations of them overflow to infinity.
_MOST = 1e30


def is_finite(values: Tensor | np.ndarray) -> bool:
    """Whether all are numbers that can still be added and interpolated in float32. Waits for a GPU."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values.detach()
    if not tensor.numel():
        return True
    if not tensor.is_floating_point():
        return True
    low, high = torch.aminmax(tensor)  # both NaN where any value is
    return bool((low > -_MOST) & (high < _MOST))


def check_finite(what: str, values: Tensor | np.ndarray) -> None:
    """PredictionError, which names `what`, where some values are NaN, infinite or beyond every sum."""
    if is_finite(values):
        return
    tensor = torch.as_tensor(values)
    bad = int((~(tensor.abs() < _MOST)).sum())
    raise PredictionError(
        f"{what}: {bad} of {tensor.numel()} values are not numbers (NaN, infinite or beyond {_MOST:g}): nothing can be "
        "concluded from them. Weights are damaged or training diverged: use another checkpoint"
    )


def check_labels(labels: np.ndarray, classes: int) -> None:
    """PredictionError where a label is neither one of so many classes nor of a voxel of which nothing is known."""
    unknown = (labels >= classes) & (labels < OCCLUDED)
    if unknown.any():
        raise PredictionError(
            f"labels: {int(unknown.sum())} of {labels.size} are no class (first: {int(labels[unknown][0])}; there are "
            f"{classes} classes, and {OCCLUDED} and {UNOBSERVED} for unknown); whatever made them has other classes"
        )
