# SPDX-License-Identifier: Apache-2.0
"""Small camera rigs for tests."""

import numpy as np
import torch

from gaussianocc_core.geometry.cameras import view_rotation
from gaussianocc_core.geometry.transforms import make_transform
from gaussianocc_core.types import Cameras


def ring(yaws=(0.0, 60.0, 120.0, 180.0, -120.0, -60.0), width=160, height=90, fov_deg=80.0, z=1.5) -> Cameras:
    """Pinhole cameras 1 m from the origin at height z, looking outwards along the given yaws (degrees)."""
    focal = 0.5 * width / np.tan(np.radians(fov_deg) / 2)
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    poses = [
        make_transform(view_rotation(yaw, 0.0, 0.0), np.array([np.cos(np.radians(yaw)), np.sin(np.radians(yaw)), z]))
        for yaw in yaws
    ]
    count = len(yaws)
    return Cameras(
        names=tuple(f"CAM_{i}" for i in range(count)),
        intrinsics=torch.from_numpy(np.stack([K] * count)),
        T_ego_cam=torch.from_numpy(np.stack(poses)),
        width=(width,) * count,
        height=(height,) * count,
    )
