# SPDX-License-Identifier: Apache-2.0
"""What a stage sees, as one picture: images, depth and classes of every camera of a sample."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn

from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.training.gsp import Gsp, batch_element
from gaussianocc_core.training.gsv import Gsv
from gaussianocc_core.training.loader import Batch
from gaussianocc_core.viz.colors import colorize_depth, colorize_labels


@torch.no_grad()
def training_pictures(stage: nn.Module, batch: Batch) -> dict[str, UInt8[np.ndarray, "H W 3"]]:
    """Rows: images, depth (near red, far blue), and for stage 2 rendered classes; a column per camera."""
    cameras = batch_element(batch.cameras, 0)
    height, width = batch.images.shape[-2:]
    rows = [batch.images[0, 0].permute(0, 2, 3, 1).cpu().numpy()]
    if isinstance(stage, Gsp):
        depth = stage.predict_depth(batch).depth[0].cpu().numpy()
        rows.append(np.stack([colorize_depth(each) for each in depth]))
    elif isinstance(stage, Gsv):
        field = stage.model(batch.jittered()[:1, 0], [stage.model.plan(cameras, batch.valid[0])])
        small = camera_geometry.resize(cameras, width, height)
        views = stage.render(field, small)
        solid = (views.alpha[:, 0] > 0.5).cpu().numpy()
        depth = (views.depth[:, 0] / views.alpha[:, 0].clamp(min=1e-6)).cpu().numpy()
        classes = views.features[:, :-1].argmax(dim=1).cpu().numpy()
        rows.append(np.stack([colorize_depth(each) for each in np.where(solid, depth, 0.0)]))
        rows.append(np.stack([colorize_labels(each) for each in np.where(solid, classes, views.features.shape[1] - 1)]))
    return {"cameras": np.concatenate([np.concatenate(list(row), axis=1) for row in rows])}
