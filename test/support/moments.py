# SPDX-License-Identifier: Apache-2.0
"""Made-up moments for the viewer: a road with a hedge, of the size that is published."""

import numpy as np
import torch
from support.rigs import ring

from gaussianocc_core.labels import CLASS_ID, FREE, OCCLUDED, UNOBSERVED
from gaussianocc_core.types import OccupancyLabels, VoxelGrid
from gaussianocc_core.viewer.moment import Moment

ROAD, HEDGE = CLASS_ID["driveable_surface"], CLASS_ID["vegetation"]
HEDGE_AT = (slice(115, 130), slice(85, 115), slice(3, 9))  # 6 to 12 m ahead, 12 m wide, 2.4 m high


def road_with_hedge(**changes) -> Moment:
    """Road all over, a hedge ahead, hidden behind it, unseen behind the robot."""
    grid = VoxelGrid()
    labels = np.full(grid.shape, FREE, dtype=np.uint8)
    labels[:, :, :3] = ROAD
    labels[HEDGE_AT] = HEDGE
    labels[130:, 85:115, 3:9] = OCCLUDED
    labels[:40] = UNOBSERVED
    truth = labels.copy()
    truth[HEDGE_AT[0], 100:115, 3:9] = FREE  # half of the hedge is a ghost
    seen = labels < OCCLUDED
    cameras = ring().to(dtype=torch.float64)
    images = {name: np.full((90, 160, 3), 40 * i + 20, dtype=np.uint8) for i, name in enumerate(cameras.names)}
    fields = {
        "stamp_ns": 1_700_000_000_000_000_000,
        "scene": "made up",
        "images": images,
        "cameras": cameras,
        "labels": labels,
        "confidence": np.where(labels == HEDGE, 0.6, np.where(labels < OCCLUDED, 0.9, 0.0)).astype(np.float32),
        "grid": grid,
        "classless": False,
        "model": "by hand",
        "trained": True,
        "truth": OccupancyLabels(np.where(truth < OCCLUDED, truth, FREE).astype(np.uint8), seen, seen),
        "lidar": np.stack(np.meshgrid(np.linspace(-20, 20, 30), np.linspace(-20, 20, 30), [0.5]), -1).reshape(-1, 3),
        "path": np.stack([np.linspace(-5, 5, 11), np.zeros(11), np.zeros(11)], axis=1),
        "place": 5,
        "seconds": {"model": 0.2},
    }
    return Moment(**{**fields, **changes})
