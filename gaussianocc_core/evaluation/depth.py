# SPDX-License-Identifier: Apache-2.0
"""Depth errors per camera, of every way to depth that is compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gaussianocc_core.geometry.warp import resize_depth
from gaussianocc_core.metrics.depth import DEPTH_ERRORS, NUSCENES_RANGE, DepthScores, replace_invalid
from gaussianocc_core.preprocess import Lenses
from gaussianocc_core.types import Cameras, Sample

FLAT_GROUND = "flat_ground"
_SURENESS = np.linspace(-7.0, 3.0, 501)  # edges between bins of log errors: far below and above any real one
DISTANCES = (2.0, 4.0, 8.0, 16.0, 32.0)  # m of true depth, between the rings that abs_rel is told by


class DepthTable:
    """DEPTH_ERRORS and scale by (way, camera); truth and depth come an image at a time."""

    def __init__(self, limits: tuple[float, float] = NUSCENES_RANGE) -> None:
        """limits: open interval of true depths that count, m."""
        self.limits = limits
        self.keyframes = 0
        self._scores: dict[str, dict[str, DepthScores]] = {}
        self._scales: dict[str, dict[str, list[float]]] = {}
        self._sureness: dict[str, Float[np.ndarray, "B 4"]] = {}  # by how sure: pixels, squared error, error, expected
        self._rings: dict[str, Float[np.ndarray, "R 2"]] = {}  # pixels and their summed relative error, all cameras

    def update(
        self,
        way: str,
        camera: str,
        truth: Float[np.ndarray, "H W"],
        depth: Float[Tensor, "h w"],
        log_error: Float[Tensor, "h w"] | None = None,
    ) -> float | None:
        """One image: true z-depth (m, 0 where unknown) and an estimate of any size; returns its abs_rel.

        log_error: of an estimate that says how wrong it may be, log of the expected error of its log depth.
        """
        low, high = self.limits
        valid = (truth > low) & (truth < high)
        if not valid.any():
            return None
        full = resize_depth(depth[None].detach().float(), *truth.shape)
        scores = self._scores_of(way, camera)
        before = scores.sums[0, 0]
        scores.update([truth], full)
        true = truth[valid]
        estimate = replace_invalid(full[0].cpu().numpy()[valid], true, self.limits)
        relative = np.abs(estimate.clip(low, high) - true) / true
        ring, count = np.digitize(true, DISTANCES), len(DISTANCES) + 1
        sums = [np.bincount(ring, weights, minlength=count) for weights in (None, relative)]
        self._add_rings(way, np.stack(sums, axis=1))
        if log_error is not None:
            sure = resize_depth(log_error[None].detach().float(), *truth.shape)[0].cpu().numpy()[valid]
            self._add_sureness(way, sure, relative, np.abs(np.log(estimate.clip(low, high) / true)))
        ratio = np.median(true) / np.median(estimate)
        self._scales.setdefault(way, {}).setdefault(camera, []).append(float(ratio))
        return float(scores.sums[0, 0] - before)

    def counts(self) -> dict[str, Any]:
        """All that was counted, by way and camera; for `add`."""
        return {
            "keyframes": self.keyframes,
            "ways": {
                way: {
                    "cameras": {
                        camera: {"scores": each.counts(), "scales": self._scales[way][camera]}
                        for camera, each in scores.items()
                    },
                    "rings": self._rings[way],
                    "sureness": self._sureness.get(way),
                }
                for way, scores in self._scores.items()
            },
        }

    def add(self, counts: Mapping[str, Any]) -> None:
        """What another table of these limits counted."""
        self.keyframes += int(counts["keyframes"])
        for way, told in counts["ways"].items():
            for camera, each in told["cameras"].items():
                self._scores_of(way, camera).add(np.asarray(each["scores"]))
                self._scales.setdefault(way, {}).setdefault(camera, []).extend(map(float, each["scales"]))
            self._add_rings(way, np.asarray(told["rings"]))
            if told["sureness"] is not None:
                self._sureness[way] = self._sureness.get(way, 0.0) + np.asarray(told["sureness"])

    def _scores_of(self, way: str, camera: str) -> DepthScores:
        return self._scores.setdefault(way, {}).setdefault(camera, DepthScores((camera,), self.limits))

    def _add_rings(self, way: str, sums: Float[np.ndarray, "R 2"]) -> None:
        rings = self._rings.setdefault(way, np.zeros((len(DISTANCES) + 1, 2)))
        rings += sums

    def summary(self) -> dict[str, Any] | None:
        """None where no image had any true depth."""
        if not self._scores:
            return None
        images = {camera: int(scores.images[0, 0]) for camera, scores in next(iter(self._scores.values())).items()}
        return {
            "keyframes": self.keyframes,
            "images": sum(images.values()),
            "limits_m": list(self.limits),
            "ways": {way: self._summary_of(way) for way in self._scores},
            "by_distance": self._by_distance(),
            "confidence": {way: _sum_up_sureness(bins) for way, bins in self._sureness.items()},
        }

    def _add_sureness(self, way: str, sure: np.ndarray, relative: np.ndarray, logarithmic: np.ndarray) -> None:
        """Sums in fine bins of what the network expects, so that nothing grows with the number of images."""
        place = np.clip(np.digitize(np.nan_to_num(sure, nan=np.inf), _SURENESS), 0, len(_SURENESS))
        expected = np.exp(np.clip(np.nan_to_num(sure, nan=_SURENESS[-1]), _SURENESS[0], _SURENESS[-1]))
        columns = (None, relative**2, logarithmic, expected)
        sums = np.stack([np.bincount(place, each, minlength=len(_SURENESS) + 1) for each in columns], axis=1)
        self._sureness[way] = self._sureness.get(way, 0.0) + sums

    def _by_distance(self) -> dict[str, Any]:
        """Over all pixels, unlike the means over images: shares of them, and abs_rel by way; NaN in an empty ring."""
        counts = next(iter(self._rings.values()))[:, 0]
        edges = [self.limits[0], *(edge for edge in DISTANCES if edge < self.limits[1]), self.limits[1]]
        rings = len(edges) - 1
        with np.errstate(invalid="ignore"):
            errors = {way: (sums[:, 1] / sums[:, 0])[:rings].tolist() for way, sums in self._rings.items()}
        return {"edges_m": edges, "share": (counts / counts.sum())[:rings].tolist(), "abs_rel": errors}

    def _summary_of(self, way: str) -> dict[str, Any]:
        rows, scales = self._scores[way], self._scales[way]
        per_camera = {
            camera: {**scores.summary(), "scale": float(np.median(scales[camera])), "images": int(scores.images[0, 0])}
            for camera, scores in rows.items()
        }
        mean = {name: float(np.mean([row[name] for row in per_camera.values()])) for name in DEPTH_ERRORS}
        mean["scale"] = float(np.median(np.concatenate(list(scales.values()))))
        return {"mean": mean, "per_camera": per_camera}


def _sum_up_sureness(bins: Float[np.ndarray, "B 4"]) -> dict[str, float]:
    """How much of the squared relative error lies in the fifth of the pixels that the network is least sure of (0.2: it
    knows nothing about its errors), and the mean errors of log depth, as expected and as they are."""
    count, squared, error, expected = bins[::-1].T  # least sure first
    before = np.concatenate([[0.0], count.cumsum()[:-1]])
    inside = np.clip((0.2 * count.sum() - before) / np.maximum(count, 1.0), 0.0, 1.0)
    total = max(float(squared.sum()), 1e-12)
    return {
        "least_confident_fifth": float((inside * squared).sum() / total),
        "log_error": float(error.sum() / count.sum()),
        "expected_log_error": float(expected.sum() / count.sum()),
    }


def depth_cameras(cameras: Cameras, lenses: Lenses) -> Cameras:
    """The pinholes in which depth is compared: at native size, and where the lens distorts, as the network sees."""
    bent = [distorts(cameras, n) for n in range(len(cameras))]
    if not any(bent):
        return cameras
    seen = lenses.views(cameras.T_ego_cam)
    chosen = [seen if each else cameras for each in bent]
    return Cameras(
        names=cameras.names,
        intrinsics=torch.stack([each.intrinsics[n].double() for n, each in enumerate(chosen)]),
        T_ego_cam=cameras.T_ego_cam,
        width=tuple(each.width[n] for n, each in enumerate(chosen)),
        height=tuple(each.height[n] for n, each in enumerate(chosen)),
    )


def rectify_depths(sample: Sample, lenses: Lenses) -> tuple[Float[np.ndarray, "_ _"], ...]:
    """The sample's true z-depth (m, 0 where unknown) as `depth_cameras` see it."""
    if sample.depths is None:
        raise ValueError(f"sample {sample.token}: has no true depth")
    return tuple(
        lenses.rectifier.rectify_labels(n, depth, 0) if distorts(sample.cameras, n) else depth
        for n, depth in enumerate(sample.depths)
    )


def distorts(cameras: Cameras, index: int) -> bool:
    return cameras.model[index] != "pinhole" or any(cameras.distortion[index])
