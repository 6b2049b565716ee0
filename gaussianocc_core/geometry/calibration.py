# SPDX-License-Identifier: Apache-2.0
"""Which calibrations can be used: the one check behind rig files, data-set tables and the Rectifier."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gaussianocc_core.geometry.lens import COEFFICIENTS
from gaussianocc_core.types import CAMERA_MODELS

MOST_PIXELS = 1 << 16  # of a side of an image, as in JPEG
_SHORTEST_FOCAL, _LARGEST = 1e-2, 1e8  # px; beyond, what follows from them is no number in float32
_FARTHEST = 1e8  # m; twice around the Earth
_SHORTEST_QUATERNION = 1e-6  # below, normalising amplifies rounding; a zero one would become NaN


class Fault(NamedTuple):
    """What is wrong with a calibration."""

    field: str  # name of the parameter of `find_fault` that is to blame
    expected: str


def find_fault(
    *,
    width: int | None = None,
    height: int | None = None,
    intrinsics: Any = None,
    model: Any = None,
    distortion: Any = (),
    rotation: Any = None,
    translation: Any = None,
) -> Fault | None:
    """The first reason why a camera or another sensor cannot be used as described; None if all that is given can.

    Sizes and `intrinsics` (3x3) in pixels, `rotation` as w x y z of any length, `translation` in metres. `distortion`
    is looked at together with `model`. All but the sizes may be anything that a file can hold.
    """
    for field, size in (("width", width), ("height", height)):
        if size is not None and not 1 <= size <= MOST_PIXELS:
            return Fault(field, f"at least 1 pixel and at most {MOST_PIXELS}")
    if intrinsics is not None and not _is_pinhole_matrix(intrinsics):
        return Fault("intrinsics", "finite numbers and positive focal lengths fx, fy, in pixels")
    if model is not None:
        if not isinstance(model, str) or model not in CAMERA_MODELS:
            return Fault("model", f"one of {', '.join(CAMERA_MODELS)}")
        counts = COEFFICIENTS[model]
        if not (_is_finite(distortion, below=_LARGEST) and len(distortion) in counts):
            number = f"{', '.join(map(str, counts[:-1]))} or {counts[-1]}"
            return Fault("distortion", f"{number} finite coefficients for a lens of model {model}")
    if rotation is not None and not (
        _is_finite(rotation, 4, _LARGEST) and np.linalg.norm(_numbers(rotation)) > _SHORTEST_QUATERNION
    ):
        return Fault("rotation", "a finite quaternion w x y z that is not zero")
    if translation is not None and not _is_finite(translation, 3, _FARTHEST):
        return Fault("translation", f"a finite position x y z in metres, nearer than {_FARTHEST:g} m")
    return None


def _is_pinhole_matrix(values: Any) -> bool:
    K = _numbers(values)
    usable = K.shape == (3, 3) and (np.abs(K) < _LARGEST).all()  # not so of NaN
    return bool(usable and min(K[0, 0], K[1, 1]) >= _SHORTEST_FOCAL)


def _is_finite(values: Any, count: int | None = None, below: float = np.inf) -> bool:
    array = _numbers(values)
    return array.ndim == 1 and (count is None or len(array) == count) and bool((np.abs(array) < below).all())


def _numbers(values: Any) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):  # text, rows of unequal length, whole numbers of 400 digits
        return np.array(np.nan)
