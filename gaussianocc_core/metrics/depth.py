# SPDX-License-Identifier: Apache-2.0
"""Errors of rendered z-depth against sparse lidar depth (docs/method.md#i.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from gaussianocc_core.geometry.warp import resize_depth
from gaussianocc_core.metrics.pooling import Pooled

DEPTH_ERRORS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "a1", "a2", "a3")
NUSCENES_RANGE, DDAD_RANGE = (0.1, 80.0), (0.1, 200.0)  # m


def replace_invalid(
    estimate: Float[np.ndarray, " P"], truth: Float[np.ndarray, " P"], limits: tuple[float, float]
) -> Float[np.ndarray, " P"]:
    """Estimates that are not finite or not positive become the limit that is farther from the truth: a network
    that says nothing must not score better for it."""
    low, high = limits
    worst = np.where(high - truth > truth - low, high, low)
    return np.where(np.isfinite(estimate) & (estimate > 0), estimate, worst.astype(estimate.dtype))


def depth_errors(
    truth: Float[np.ndarray, "H W"],
    prediction: Float[np.ndarray, "H W"],
    limits: tuple[float, float] = NUSCENES_RANGE,
    median_scaling: bool = False,
) -> Float[np.ndarray, " 7"]:
    """DEPTH_ERRORS of one image, metres; all NaN without a true depth strictly inside the limits.

    A truth of 0 means none. An estimate that is no depth counts as an error (`replace_invalid`). The prediction is
    clamped to the limits, after division by its median ratio to the truth where `median_scaling` asks for it; the
    published numbers do not.
    """
    low, high = limits
    valid = (truth > low) & (truth < high)
    if not valid.any():
        return np.full(len(DEPTH_ERRORS), np.nan)
    true = truth[valid].astype(np.float64)
    predicted = replace_invalid(prediction[valid].astype(np.float64), true, limits)
    if median_scaling:
        predicted = predicted * (np.median(true) / np.median(predicted))
    predicted = predicted.clip(low, high)
    ratio = np.maximum(true / predicted, predicted / true)
    difference = predicted - true
    return np.array(
        [
            np.mean(np.abs(difference) / true),
            np.mean(difference**2 / true),
            np.sqrt(np.mean(difference**2)),
            np.sqrt(np.mean(np.log(predicted / true) ** 2)),
            *(np.mean(ratio < 1.25**k) for k in (1, 2, 3)),
        ]
    )


class DepthScores(Pooled):
    """Mean errors per camera over the images that have a true depth, then over the cameras (docs/method.md#i.1)."""

    def __init__(
        self,
        cameras: Sequence[str],
        limits: tuple[float, float] = NUSCENES_RANGE,
        median_scaling: bool = False,
    ) -> None:
        """limits: open interval of true depths that count, m."""
        self.cameras = tuple(cameras)
        self.limits, self.median_scaling = limits, median_scaling
        self.sums = np.zeros((len(self.cameras), len(DEPTH_ERRORS)))
        self.images = np.zeros((len(self.cameras), 1))

    def update(self, truth: Sequence[Float[np.ndarray, "_ _"]], depth: Float[Tensor, "N h w"]) -> None:
        """One sample: true depth per camera at native size (m, 0 where unknown) and rendered z-depth (m)."""
        if not len(truth) == len(depth) == len(self.cameras):
            raise ValueError(
                f"truth, depth: expected one image for each of {self.cameras}, got {len(truth)} and {len(depth)}"
            )
        for n, true in enumerate(truth):
            prediction = resize_depth(depth[n : n + 1].detach(), *true.shape)[0].cpu().numpy()
            errors = depth_errors(true, prediction, self.limits, self.median_scaling)
            if not np.isnan(errors).any():
                self.sums[n] += errors
                self.images[n] += 1

    def counts(self) -> Float[np.ndarray, "N 8"]:
        return np.concatenate([self.sums, self.images], axis=1)

    def set_counts(self, counts: Float[np.ndarray, "N 8"]) -> None:
        self.sums, self.images = counts[:, :-1], counts[:, -1:]

    def per_camera(self) -> Float[np.ndarray, "N 7"]:
        """Mean DEPTH_ERRORS of each camera; NaN for one without any true depth."""
        return np.divide(self.sums, self.images, out=np.full(self.sums.shape, np.nan), where=self.images > 0)

    def summary(self) -> dict[str, float]:
        """Means over the cameras; NaN where a camera never had a true depth."""
        return dict(zip(DEPTH_ERRORS, self.per_camera().mean(axis=0).tolist(), strict=True))
