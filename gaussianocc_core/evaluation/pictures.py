# SPDX-License-Identifier: Apache-2.0
"""Evaluated keyframes as pictures in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from jaxtyping import Float

from gaussianocc_core.evaluation.depth import distorts
from gaussianocc_core.evaluation.networks import Estimates
from gaussianocc_core.names import plain_name
from gaussianocc_core.training.loader import Batch
from gaussianocc_core.types import Sample, VoxelGrid
from gaussianocc_core.viz.files import write_png
from gaussianocc_core.viz.keyframe import KeyframePicture, compose_keyframe

MOST_PICTURES = 12


@dataclass(frozen=True)
class Keyframe:
    """One evaluated moment."""

    sample: Sample
    batch: Batch  # of one: rectified images and cameras at network size
    estimates: Estimates
    true_depths: tuple[Float[np.ndarray, "_ _"], ...] | None  # m, of the rectified cameras, 0 where unknown
    abs_rel: dict[str, float]  # by camera, of the first way to depth
    grid: VoxelGrid  # of the occupancy
    classless: bool = False  # it says that something is there, not what


class PictureWriter:
    """Call it with each keyframe: the first MOST_PICTURES of them become <folder>/<number>_<scene>_<token>.png."""

    def __init__(self, folder: Path, title: str = "") -> None:
        self.folder, self.title, self.count = folder, title, 0

    def __call__(self, keyframe: Keyframe) -> None:
        if self.count < MOST_PICTURES:
            self.count += 1
            name = f"{self.count:02d}_{keyframe.sample.scene}_{plain_name(keyframe.sample.token)[:8]}.png"
            write_png(self.folder / name, compose_keyframe(describe(keyframe, self.title)))


def describe(keyframe: Keyframe, title: str = "") -> KeyframePicture:
    """Depth is the first way that the estimates hold: rendered, or the first stage's network."""
    sample, estimates = keyframe.sample, keyframe.estimates
    names = sample.cameras.names
    rectified = keyframe.batch.images[0, 0].permute(0, 2, 3, 1).cpu().numpy()
    way = next(iter(estimates.depths), "")
    moment = datetime.fromtimestamp(sample.stamp_ns * 1e-9, timezone.utc)
    labels = sample.occupancy
    return KeyframePicture(
        images={
            name: rectified[n] if distorts(sample.cameras, n) else sample.images[n] for n, name in enumerate(names)
        },
        depths=dict(zip(names, estimates.depths[way].numpy(), strict=True)) if way else {},
        true_depths=dict(zip(names, keyframe.true_depths, strict=True)) if keyframe.true_depths else {},
        captions={name: f"abs_rel {error:.2f}" for name, error in keyframe.abs_rel.items()},
        depth_title=way.replace("_", " ") + ("" if "depth" in way else " depth"),
        prediction=estimates.occupancy,
        truth=None if labels is None or estimates.occupancy is None else labels.semantics,
        grid=keyframe.grid,
        classless=keyframe.classless,
        title=f"{title}  {sample.scene}".strip(),
        subtitle=f"keyframe {sample.token}, {moment:%Y-%m-%d %H:%M:%S} UTC; "
        "error: (estimate - truth) / truth, dark where no truth is known",
    )
