# SPDX-License-Identifier: Apache-2.0
"""Lens models: how many coefficients each takes, and what ROS calls it. Coefficients stand in OpenCV's order."""

from __future__ import annotations

from collections.abc import Sequence

from gaussianocc_core.types import EQUIDISTANT, PINHOLE

# The counts that OpenCV's two camera models take: k1 k2 p1 p2 [k3 [k4 k5 k6]], and k1 k2 k3 k4 of its fisheye model.
COEFFICIENTS = {PINHOLE: (0, 4, 5, 8), EQUIDISTANT: (0, 4)}
# sensor_msgs/distortion_models -> our model and the counts that ROS allows under that name. "": an image of a driver
# that rectifies and says nothing more.
ROS_MODELS = {
    "": (PINHOLE, (0,)),
    "plumb_bob": (PINHOLE, (0, 4, 5)),
    "rational_polynomial": (PINHOLE, (0, 4, 5, 8)),
    "equidistant": (EQUIDISTANT, (0, 4)),
}


def to_ros(model: str, distortion: Sequence[float]) -> tuple[str, tuple[float, ...]]:
    """ROS's name of the model, and the coefficients with zeros up to the count that ROS expects."""
    if model == EQUIDISTANT:
        name, count = "equidistant", 4
    elif len(distortion) > 5:
        name, count = "rational_polynomial", 8
    else:
        name, count = "plumb_bob", 5
    return name, tuple(distortion) + (0.0,) * (count - len(distortion))
