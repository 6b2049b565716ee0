# SPDX-License-Identifier: Apache-2.0
"""Where pixel centres lie: at +0.5 in this project, at 0 for OpenCV and for everything that is calibrated with it.

Here the top left pixel covers [0, 1) x [0, 1), so that resizing an image only scales its intrinsics. OpenCV counts from
the centre of that pixel, and so do ROS's CameraInfo, the calibrations of nuScenes and DDAD, our rig files (numbers in
them come from calibration tools) and the maps of `cv2.remap`. Between the two lies half a pixel, which is added where
such numbers come in and taken off where they go out, by these two functions and nowhere else.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from torch import Tensor

PIXEL_CENTER = 0.5  # px, of pixel (0, 0); published code: 0 (docs/method.md#g)

_Values = TypeVar("_Values", Tensor, np.ndarray)


def from_opencv(values: _Values) -> _Values:
    """Intrinsics (..., 3, 3) or places in the image (..., 2) in px, as OpenCV counts -> as we do; a copy."""
    return _move(values, PIXEL_CENTER)


def to_opencv(values: _Values) -> _Values:
    """Intrinsics (..., 3, 3) or places in the image (..., 2) in px, as we count -> as OpenCV does; a copy."""
    return _move(values, -PIXEL_CENTER)


def _move(values: _Values, by: float) -> _Values:
    moved = values.clone() if isinstance(values, Tensor) else values.copy()
    if moved.shape[-1] == 2:
        moved += by
    elif moved.shape[-2:] == (3, 3):
        moved[..., :2, 2] += by  # skew and focal lengths are differences of places
    else:
        raise ValueError(f"values: expected (..., 3, 3) or (..., 2), got {tuple(moved.shape)}")
    return moved
