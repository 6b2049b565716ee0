# SPDX-License-Identifier: Apache-2.0
"""A run in TensorBoard: every curve under its kind and with its explanation, and pictures."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

_log = logging.getLogger(__name__)

LOSSES, WATCH, SPEED = "loss", "watch", "speed"
# Scalar -> kind and explanation. What a stage reports and is not here, a test finds.
CURVES: Mapping[str, tuple[str, str]] = {
    "total": (LOSSES, "What is minimised: the sum of the losses, weighted. It may fall while depth and motion shrink "
              "together, which is why the curves under *watch* are there."),
    "temporal": (LOSSES, "How differently the frames before and after look, seen through depth and motion."),
    "cross": (LOSSES, "How differently overlapping cameras look, seen through depth alone. It is what knows metres."),
    "smooth": (LOSSES, "Steps of depth where the image has none."),
    "length": (LOSSES, "The length of the learnt motion against the one that its search against depth found."),
    "anchor": (LOSSES, "How badly motion explains the ground at the depth where the base frame has it."),
    "hints": (LOSSES, "Depth against what a sweep over depths found in the images, where that is believed."),
    "stereo": (LOSSES, "Depth against what overlapping cameras measure."),
    "motion": (LOSSES, "Learnt motion against recorded motion."),
    "photometric": (LOSSES, "How differently the frames before and after look, seen through rendered depth."),
    "semantic": (LOSSES, "Rendered classes against the 2D labels."),
    "entropy": (LOSSES, "How undecided voxels are between occupied and free."),
    "variation": (LOSSES, "Differences between neighbouring voxels."),
    "ray_entropy": (LOSSES, "How undecided a ray is about where it ends (volume rendering alone)."),
    "ray_distortion": (LOSSES, "How long the stretch is over which a ray ends (volume rendering alone)."),
    "head": (LOSSES, "Error of the depth head by the neighbouring frames."),
    "agreement": (LOSSES, "Rendered depth against the depth head's, mean difference of logarithms."),
    "surface": (LOSSES, "Voxels against the surfaces that depth shows."),
    "labels": (LOSSES, "Occupied or free against the labels in 3D."),
    "classes": (LOSSES, "Classes of occupied voxels against the labels in 3D."),
    "depth": (LOSSES, "Depth against the synthetic world's."),
    "planes": (LOSSES, "Which of the depths that are tried is right, against the synthetic world's depth."),
    "error": (LOSSES, "The error that the network expects of itself, against the one that it makes."),
    "sky": (LOSSES, "Depth where there is none: near is wrong."),
    "abs_rel": (WATCH, "Depth against the synthetic world's: mean of the relative error."),
    "scale": (WATCH, "The factor that depth and motion share; overlapping cameras and the ground set it. It settles."),
    "moved": (WATCH, "Share of the pixels that depth and motion explain better than standing still. A run whose share "
              "falls under 3 % has lost its motion, and stops."),
    "speed": (WATCH, "Length of the learnt motion to a neighbouring frame, m. One that falls to a tenth is no motion "
              "of the robot any more, and the run stops."),
    "believed": (WATCH, "Share of the pixels whose depth hint is believed. It grows as motion becomes right."),
    "depth_off": (WATCH, "Logarithm of depth by what overlapping cameras measure: 0 is metric, 0.7 is twice too far. "
                  "Beyond 0.9 either way the run stops."),
    "ground_off": (WATCH, "Logarithm of the ground's depth by where the base frame has it. A change by more than 1.1 "
                   "since the beginning stops the run."),
    "motion_off": (WATCH, "Logarithm of the learnt by the recorded motion: 0 is right. Beyond 1.1 the run stops."),
    "data_wait": (SPEED, "Share of the time spent waiting for samples; if it is large, set data.workers higher."),
    "samples_per_s": (SPEED, "Samples per second, all processes together."),
}  # fmt: skip


class Board:
    """TensorBoard's events of a run folder. Without TensorBoard nothing is written, and that is said once."""

    def __init__(self, folder: Path) -> None:
        self._writer: Any = None
        self._explained: set[str] = set()
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            _log.info("no TensorBoard here: scalars go to metrics.jsonl only; pip install tensorboard shows them live")
            return
        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def __bool__(self) -> bool:
        return self._writer is not None

    def add_scalars(self, named: Mapping[str, float], step: int) -> None:
        """A curve each; the first value of a curve carries its explanation, which TensorBoard shows beside it."""
        if self._writer is None:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata

        values = []
        for name, value in named.items():
            kind, text = CURVES.get(name, (LOSSES, ""))
            tag = f"{kind}/{name}"
            metadata = None
            if tag not in self._explained:
                self._explained.add(tag)
                plugin = SummaryMetadata.PluginData(plugin_name="scalars")
                metadata = SummaryMetadata(plugin_data=plugin, summary_description=text)
            values.append(Summary.Value(tag=tag, simple_value=value, metadata=metadata))
        self._writer._get_file_writer().add_summary(Summary(value=values), step)

    def add_picture(self, name: str, picture: UInt8[np.ndarray, "H W 3"], step: int) -> None:
        if self._writer is not None:
            self._writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
