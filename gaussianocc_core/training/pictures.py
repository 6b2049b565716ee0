# SPDX-License-Identifier: Apache-2.0
"""What a stage sees, as pictures: images, depth and classes of every camera of a sample, occupancy from above."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8

from gaussianocc_core.training.loader import Batch
from gaussianocc_core.training.stage import Stage
from gaussianocc_core.viz.colors import colorize_depth, colorize_labels
from gaussianocc_core.viz.legend import color_bar
from gaussianocc_core.viz.scene import top_view
from gaussianocc_core.viz.text import Label, draw_labels

_NEAR, _FAR = 1.0, 60.0  # m, ends of the colours of depth
_PIXELS = 3  # per voxel, from above


@torch.no_grad()
def training_pictures(stage: Stage, batch: Batch) -> dict[str, UInt8[np.ndarray, "H W 3"]]:
    """ "cameras": a column per camera; rows: images, depth with its colours below, and for stage 2 rendered classes.

    "from above": for stage 2, occupancy, forward up.
    """
    seen = stage.look(batch)
    rows = [batch.current().permute(0, 2, 3, 1).cpu().numpy()]
    rows.append(np.stack([colorize_depth(each, _NEAR, _FAR) for each in seen.depth.cpu().numpy()]))
    if seen.classes is not None:
        rows.append(np.stack([colorize_labels(each) for each in seen.classes.cpu().numpy()]))
    pictures = [np.concatenate(list(row), axis=1) for row in rows]
    pictures.insert(2, _depth_scale(pictures[1].shape[1]))
    found = {"cameras": np.concatenate(pictures)}
    if seen.occupancy is not None and seen.grid is not None:
        found["from above"] = top_view(seen.occupancy, seen.grid, _PIXELS)
    return found


def _depth_scale(width: int) -> UInt8[np.ndarray, "h width 3"]:
    canvas = np.full((22, width, 3), 24, np.uint8)
    steps = np.geomspace(_NEAR, _FAR, max(40, min(160, width // 3)))
    labels: list[Label] = []
    colors = colorize_depth(steps[None], _NEAR, _FAR)[0]
    color_bar(canvas, labels, colors, (f"depth {_NEAR:g}", f"{_FAR:g} m"), width - 6, 2, 0.8)
    return draw_labels(canvas, labels)
