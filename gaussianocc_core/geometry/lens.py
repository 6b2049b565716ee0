# SPDX-License-Identifier: Apache-2.0
"""Lens models: how many coefficients each takes, what ROS calls it, and how far from the middle it can be believed.

Coefficients stand in OpenCV's order.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float

from gaussianocc_core.types import EQUIDISTANT, PINHOLE

# The counts that OpenCV's two camera models take: k1 k2 p1 p2 [k3 [k4 k5 k6 [s1 s2 s3 s4 [tau_x tau_y]]]], rational
# from k4 on, with thin prism and tilt; and k1 k2 k3 k4 of its fisheye model.
COEFFICIENTS = {PINHOLE: (0, 4, 5, 8, 12, 14), EQUIDISTANT: (0, 4)}
# sensor_msgs/distortion_models, and what calibration tools and drivers write in their place -> our model. As in ROS's
# own image_geometry it is the number of coefficients that says how many of a pinhole's count. "": an image of a driver
# that rectifies and says nothing more.
ROS_MODELS = {
    "": PINHOLE,
    "plumb_bob": PINHOLE,
    "rational_polynomial": PINHOLE,
    "radtan": PINHOLE,  # Kalibr
    "equidistant": EQUIDISTANT,
    "fisheye": EQUIDISTANT,  # OpenCV
    "kannala_brandt": EQUIDISTANT,
}
_RADII = 4096  # at which a lens is looked at for folds


def from_ros(name: str, distortion: Sequence[float]) -> tuple[str, tuple[float, ...]]:
    """Our model and its coefficients: zeros at their end beyond a count that the model takes are dropped.

    Four zeros of a pinhole are no distortion; of a fisheye they are the ideal equidistant lens. ValueError says what
    cannot be used, in words that follow "distortion model 'name' ".
    """
    if name not in ROS_MODELS:
        raise ValueError(f"is not supported; use one of {', '.join(known for known in ROS_MODELS if known)}")
    model, values = ROS_MODELS[name], tuple(float(value) for value in distortion)
    used = max((i + 1 for i, value in enumerate(values) if value), default=0)
    if model == PINHOLE and not used:
        return model, ()
    if len(values) in COEFFICIENTS[model] and name:
        return model, values
    count = next((count for count in COEFFICIENTS[model] if count > 0 and used <= count <= len(values)), None)
    if count is None or not name:
        takes = " or ".join(map(str, COEFFICIENTS[model])) if name else "no"
        raise ValueError(f"takes {takes} coefficients, CameraInfo has {len(values)}")
    return model, values[:count]


def to_ros(model: str, distortion: Sequence[float]) -> tuple[str, tuple[float, ...]]:
    """ROS's name of the model, and the coefficients with zeros up to the count that ROS expects."""
    if model == EQUIDISTANT:
        name, count = "equidistant", 4
    elif len(distortion) > 5:
        name, count = "rational_polynomial", next(n for n in COEFFICIENTS[PINHOLE] if n >= max(8, len(distortion)))
    else:
        name, count = "plumb_bob", 5
    return name, tuple(distortion) + (0.0,) * (count - len(distortion))


def fold_radius(model: str, distortion: Sequence[float], largest: float) -> float:
    """How far from the middle the lens model maps farther out what lies farther out; `largest` if it does up to there.

    Beyond that radius two directions share a pixel: the coefficients were fitted to a smaller part of the image. Of a
    pinhole it is the tangent of the angle to the optical axis, of an equidistant lens the angle in radians. Radial
    coefficients alone are looked at; tangential ones, prism and tilt are too small to fold an image.
    """
    r = np.linspace(0.0, largest, _RADII)
    k = [*distortion, *(0.0,) * (8 - len(distortion))]
    if model == EQUIDISTANT:
        image = r * (1 + k[0] * r**2 + k[1] * r**4 + k[2] * r**6 + k[3] * r**8)
    else:
        below = 1 + k[5] * r**2 + k[6] * r**4 + k[7] * r**6
        image = r * (1 + k[0] * r**2 + k[1] * r**4 + k[4] * r**6) / np.where(below > 0, below, np.nan)
    grows = np.diff(image) > 0  # false from a pole on
    return largest if grows.all() else float(r[np.argmin(grows)])


def project_rays(
    K: Float[np.ndarray, "3 3"], model: str, distortion: Sequence[float], rays: Float[np.ndarray, "P 3"]
) -> Float[np.ndarray, "P 2"]:
    """Where directions in the camera's frame lie in its image (px, counted as K counts).

    Of a pinhole, directions that do not point ahead lie far outside; an equidistant lens sees beyond its sides.
    """
    k = np.asarray(distortion, dtype=np.float64)
    if model == EQUIDISTANT:
        k = k if k.size else np.zeros(4)
        aside = np.hypot(rays[:, 0], rays[:, 1])
        angle = np.arctan2(aside, rays[:, 2])
        radius = angle * (1 + k[0] * angle**2 + k[1] * angle**4 + k[2] * angle**6 + k[3] * angle**8)
        flat = rays[:, :2] * (radius / np.maximum(aside, 1e-12))[:, None]
        return flat * np.diag(K)[:2] + K[:2, 2]
    ahead = rays[:, 2] > 1e-3
    usable = np.where(ahead[:, None], rays, (0.0, 0.0, 1.0))
    pixels, _ = cv2.projectPoints(usable.reshape(-1, 1, 3), np.zeros(3), np.zeros(3), K, k)
    return np.where(ahead[:, None], pixels.reshape(-1, 2), -1e6)
