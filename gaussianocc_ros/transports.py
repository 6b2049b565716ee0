# SPDX-License-Identifier: Apache-2.0
"""image_transport's names, and the message that each of them sends. Those of video are of packages of their own."""

from __future__ import annotations

import importlib
import os
from typing import Any

from gaussianocc_core.bags.video import FFMPEG_TYPE, FOXGLOVE_TYPE, import_av
from gaussianocc_core.errors import ConfigError, GaussianOccError

TRANSPORTS = {
    "raw": "sensor_msgs/msg/Image",
    "compressed": "sensor_msgs/msg/CompressedImage",
    "ffmpeg": FFMPEG_TYPE,
    "foxglove": FOXGLOVE_TYPE,
}
VIDEO = ("ffmpeg", "foxglove")


def transport_of(topic: str) -> str:
    """By the last part of the name, as image_transport names its topics; raw where it says nothing."""
    last = topic.rpartition("/")[2]
    return last if last in TRANSPORTS else "raw"


def topic_by(transport: str, topic: str) -> str:
    """Where a transport publishes the images of which `topic` is the base, or what another transport offers.

    A topic of another kind of name, such as /front/jpeg, is taken as it is.
    """
    base, _, last = topic.rpartition("/")
    if base and last in TRANSPORTS and last != "raw":
        topic, last = base, base.rpartition("/")[2]
        return topic if transport == "raw" else f"{topic}/{transport}"
    return f"{topic}/{transport}" if last.startswith("image") and transport != "raw" else topic


def message_type(transport: str, camera: str) -> Any:
    """The class of its messages; ConfigError says which package is missing."""
    package, _, name = TRANSPORTS[transport].split("/")
    try:
        found = getattr(importlib.import_module(f"{package}.msg"), name)
        if transport in VIDEO:
            import_av()
    except (ImportError, AttributeError):
        distro = os.environ.get("ROS_DISTRO") or "<distro>"
        raise ConfigError(
            f"camera {camera}: image transport {transport} needs the ROS package {package}: "
            f"apt install ros-{distro}-{package.replace('_', '-')}, or choose another transport"
        ) from None
    except GaussianOccError as error:
        raise ConfigError(f"camera {camera}: image transport {transport}: {error}") from None
    return found
