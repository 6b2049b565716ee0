# SPDX-License-Identifier: Apache-2.0
"""Which Gaussians a camera draws where each draws one half of space only (docs/method.md#e, per-camera filter)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaussianocc_core.types import Cameras

_AXIS = {"x": 0, "y": 1}


def half_space_masks(
    means: Float[Tensor, "M 3"], cameras: Cameras, half_spaces: tuple[tuple[str, str], ...]
) -> Bool[Tensor, "N M"] | None:
    """True where a camera draws a Gaussian: strictly beyond the camera's centre along its half space's axis.

    None, for all of them, without half spaces.

    means: ego frame, m; half_spaces: camera name -> "+x", "-x", "+y" or "-y" of the ego frame. A camera that is not
    named there takes the one its optical axis is closest to.
    """
    if not half_spaces:
        return None
    named = dict(half_spaces)
    masks = []
    for name, T_ego_cam in zip(cameras.names, cameras.T_ego_cam, strict=True):
        half_space = named.get(name) or _facing(T_ego_cam)
        axis = _AXIS[half_space[1]]
        offset = means[:, axis] - T_ego_cam[axis, 3].to(means.dtype)
        masks.append(offset > 0 if half_space[0] == "+" else offset < 0)
    return torch.stack(masks)


def _facing(T_ego_cam: Float[Tensor, "4 4"]) -> str:
    x, y = float(T_ego_cam[0, 2]), float(T_ego_cam[1, 2])  # of the optical axis, in the ego frame
    if abs(x) >= abs(y):
        return "+x" if x >= 0 else "-x"
    return "+y" if y >= 0 else "-y"
