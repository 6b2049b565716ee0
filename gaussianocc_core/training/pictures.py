# SPDX-License-Identifier: Apache-2.0
"""What a stage sees, as one picture: images, depth and classes of every camera of a sample."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8

from gaussianocc_core.training.loader import Batch
from gaussianocc_core.training.stage import Stage
from gaussianocc_core.viz.colors import colorize_depth, colorize_labels


@torch.no_grad()
def training_pictures(stage: Stage, batch: Batch) -> dict[str, UInt8[np.ndarray, "H W 3"]]:
    """Rows: images, depth (near red, far blue), and for stage 2 rendered classes; a column per camera."""
    seen = stage.look(batch)
    rows = [batch.current().permute(0, 2, 3, 1).cpu().numpy()]
    rows.append(np.stack([colorize_depth(each) for each in seen.depth.cpu().numpy()]))
    if seen.classes is not None:
        rows.append(np.stack([colorize_labels(each) for each in seen.classes.cpu().numpy()]))
    return {"cameras": np.concatenate([np.concatenate(list(row), axis=1) for row in rows])}
