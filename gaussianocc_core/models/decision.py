# SPDX-License-Identifier: Apache-2.0
"""Logits -> the class of each voxel, or free, and how sure that is."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from gaussianocc_core.finite import check_finite

NEUTRAL = 0.5  # caution that takes what is more likely


def check_caution(caution: float) -> float:
    """The same number; ValueError unless it lies between 0 and 1."""
    if not 0.0 < caution < 1.0:
        raise ValueError(
            f"caution: expected a number between 0 and 1, got {caution}; higher misses fewer obstacles and shows more "
            "ghosts"
        )
    return caution


def decide_labels(
    logits: Float[Tensor, " K *shape"], by_argmax: bool, caution: float = NEUTRAL
) -> tuple[Int64[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Class ids and their probabilities 0-1; the last class is free.

    by_argmax: softmax over all classes, as published. Otherwise a voxel is occupied with its opacity
    (docs/method.md#o.8), and then of a class by the softmax over the others. caution, 0-1: the probability of free
    above which a voxel is free; by argmax, the odds of free are weighed by (1 - caution) / caution. PredictionError
    where a logit is not a number.
    """
    check_finite("logits", logits)
    if by_argmax:
        weighed = torch.cat([logits[:-1], logits[-1:] + math.log((1.0 - caution) / caution)])
        labels, best = weighed.argmax(dim=0), logits.amax(dim=0)
        of_label = logits.gather(0, labels[None])[0]
        return labels, torch.exp(of_label - best) / torch.exp(logits - best).sum(dim=0)
    free, opacity = len(logits) - 1, torch.sigmoid(-logits[-1])
    best, labels = logits[:-1].max(dim=0)
    confidence = opacity / torch.exp(logits[:-1] - best).sum(dim=0)
    occupied = opacity > 1.0 - caution
    return torch.where(occupied, labels, free), torch.where(occupied, confidence, 1.0 - opacity)
