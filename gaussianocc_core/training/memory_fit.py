# SPDX-License-Identifier: Apache-2.0
"""Fits the head of a memory of rays to labels that were carved from a recording (docs/method.md#o.13).

Carving sees both sides of a moment, the memory only what came before. A recording is driven through as a robot does, at
full rate and with sets left out, and what the memory holds at a moment is put beside what carving says of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from gaussianocc_core.data.entries import SampleEntry, labels_path, load_occupancy
from gaussianocc_core.data.sources import Entry
from gaussianocc_core.errors import DatasetError
from gaussianocc_core.geometry.cameras import relocate
from gaussianocc_core.labels import FREE, UNOBSERVED
from gaussianocc_core.models.ego_motion import VisualOdometry
from gaussianocc_core.models.ray_memory import FEATURES, MemoryHead
from gaussianocc_core.predictor import OccupancyPredictor

_STRIDES = (1, 1, 1, 2, 3, 6)  # every so many sets of a recording are shown: cameras at 12 Hz and slower ones
_MOMENTS = 8  # of a recording, that are learnt from
_VOXELS = 20_000  # of each


@dataclass(frozen=True)
class Examples:
    """Voxels of a moment."""

    features: Float[Tensor, "P F"]
    occupied: Bool[Tensor, " P"]


def collect(
    predictor: OccupancyPredictor,
    entries: Sequence[Entry],
    labels: str | Path,
    rng: np.random.Generator,
    in_label_frame: bool = False,
) -> Iterator[Examples]:
    """Of the moments of one recording that have labels, some. The predictor must have a memory, with any head.
    in_label_frame: whether labels lie in the frame of the data set's own, centimetres from that of the images; else in
    the latter.

    A recording without poses is followed by its images. DatasetError where the model cannot, or the grid of the labels
    is not the predictor's.
    """
    predictor.reset()
    stride = int(rng.choice(_STRIDES))
    labelled = [k for k, each in enumerate(entries) if labels_path(labels, each.scene, each.token).is_file()]
    odometry: VisualOdometry | None = None
    chosen = set(rng.permutation(labelled)[:_MOMENTS].tolist())
    for k in sorted(chosen.union(range(int(rng.integers(stride)), len(entries), stride))):
        entry = entries[k]
        sample = entry.load()
        masks = sample.static_masks or ()
        predictor.use_masks(dict(zip(sample.cameras.names, masks, strict=bool(masks))))
        cameras, T_world_ego = sample.cameras, sample.T_world_ego
        if in_label_frame and isinstance(entry, SampleEntry) and entry.T_world_labels is not None:
            T_world_ego = entry.T_world_labels
        if T_world_ego is not None and sample.T_world_ego_per_camera is not None:
            there = torch.from_numpy(sample.T_world_ego_per_camera)
            cameras = relocate(cameras, there, torch.from_numpy(T_world_ego))
        elif not predictor.sees_depth:
            raise DatasetError(f"{entry.scene}: has no recorded poses, and the model has no depth to find motion by")
        elif odometry is None:
            odometry = VisualOdometry()
        prediction = predictor(sample.images, cameras, T_world_ego, 1e-9 * sample.stamp_ns, odometry)
        if k not in chosen or not predictor.knows_the_past:
            continue
        path = labels_path(labels, entry.scene, entry.token)
        found = load_occupancy(path)
        truth = found.semantics
        if truth.shape != predictor.grid.shape:
            raise DatasetError(f"{path}: labels of {truth.shape} voxels, the model publishes {predictor.grid.shape}")
        known = np.argwhere((truth != UNOBSERVED) & found.mask_camera & prediction.observed)
        where = known[rng.permutation(len(known))[:_VOXELS]]
        if len(where):
            occupied = truth[tuple(where.T)] != FREE
            yield Examples(predictor.describe_memory(prediction, where), torch.from_numpy(occupied))


def fit(
    examples: Sequence[Examples], preference: float = 1.0, steps: int = 3000, seed: int = 0
) -> tuple[MemoryHead, float]:
    """The head, and its loss on a tenth of the examples that it did not learn from. preference: how much worse a missed
    obstacle is than a ghost."""
    apart = examples[::10] if len(examples) >= 10 else examples
    used = [each for k, each in enumerate(examples) if len(examples) < 10 or k % 10]
    features, occupied = _join(used)
    mean, spread = features.mean(dim=0), features.std(dim=0).clamp(min=1e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = MemoryHead()
        optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
        weight = torch.tensor(preference)
        for _ in range(steps):
            chosen = torch.randint(len(features), (8192,))
            said = head((features[chosen] - mean) / spread)
            loss = F.binary_cross_entropy_with_logits(said, occupied[chosen].float(), pos_weight=weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():  # the head takes features as they are
        head.first.bias.sub_(head.first.weight @ (mean / spread))
        head.first.weight.div_(spread)
        features, occupied = _join(apart)
        left = F.binary_cross_entropy_with_logits(head(features), occupied.float(), pos_weight=weight)
    return head.eval(), float(left)


def _join(examples: Sequence[Examples]) -> tuple[Float[Tensor, "P F"], Bool[Tensor, " P"]]:
    features = torch.cat([each.features for each in examples])
    assert features.shape[1] == FEATURES
    return features, torch.cat([each.occupied for each in examples])


__all__ = ["Examples", "collect", "fit"]
