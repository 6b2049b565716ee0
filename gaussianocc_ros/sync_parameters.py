# SPDX-License-Identifier: Apache-2.0
"""The parameters that decide which sets of images form. The bag player reads them from a running node, so no torch."""

from __future__ import annotations

import dataclasses
import re
from array import array
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rclpy.exceptions import NameValidationException
from rclpy.expand_topic_name import expand_topic_name
from rclpy.validate_full_topic_name import validate_full_topic_name

from gaussianocc_core.data.sets import POLICIES, SetBuilder
from gaussianocc_core.errors import ConfigError
from gaussianocc_ros.transports import TRANSPORTS, topic_by, transport_of

MAX_CAMERAS = 32


def parameter(default: Any, description: str, **limits: Any) -> Any:
    """A field of a dataclass of parameters. limits: choices=(...), range=(low, high), dynamic=True."""
    return dataclasses.field(default=default, metadata={"description": description, **limits})


@dataclass(frozen=True)
class SyncParameters:
    """Which cameras make a set, where their images and calibrations come from, and when a set is complete.

    Who forms the same sets as the node needs all of these, and `make_builder`. ConfigError names what is impossible.
    """

    cameras: tuple[str, ...] = parameter((), "Camera names. Empty: all cameras of rig_file.")
    image_topic: str = parameter(
        "{camera}/image_raw/compressed",
        "Image topic of each camera; {camera} stands for its name. Relative ones lie in the node's namespace.",
    )
    camera_info_topic: str = parameter("{camera}/camera_info", "CameraInfo topic of each camera; not with rig_file.")
    image_topics: tuple[str, ...] = parameter(
        (), "Image topic of each camera in the order of cameras, where no pattern fits; in place of image_topic."
    )
    camera_info_topics: tuple[str, ...] = parameter(
        (), "CameraInfo topic of each camera in the order of cameras; in place of camera_info_topic."
    )
    image_transport: str = parameter(
        "auto",
        "Transport of all cameras: their topics end in its name, as in image_transport, whatever image_topic ends in. "
        "auto: for each camera by the end of its topic; raw if that names no transport.",
        choices=("auto", *TRANSPORTS),
    )
    rig_file: str = parameter("", "YAML rig with intrinsics and extrinsics, used instead of CameraInfo and TF.")
    anchor_camera: str = parameter("", "Camera whose image time stamps the output. Empty: the first camera.")
    slop: float = parameter(0.05, "Largest time between the anchor's image and the others, s.", range=(0.0, 1.0))
    sync_policy: str = parameter(
        "wait",
        "What to do with a set that lacks a camera. wait: wait for `patience`, then drop it; skip: drop it at once; "
        "degrade: wait, then predict with the other cameras; what only the missing one sees is unobserved.",
        choices=POLICIES,
    )
    patience: float = parameter(0.1, "How long sync_policy waits for a late camera, s.", range=(0.0, 10.0))
    reliable: bool = parameter(
        False,
        "For a replay without losses: reliable image subscriptions, a short queue of sets instead of the newest only, "
        "and all outputs of a set before the next set; both timeouts are at least 5 s.",
    )
    reliable_cameras: tuple[str, ...] = parameter(
        (), "Cameras with a reliable image subscription, such as over a bad link; the others use best effort."
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        names = self.camera_names
        if not names:
            raise ConfigError("parameter cameras: name at least one camera, or give a rig_file that does")
        if len(set(names)) != len(names) or len(names) > MAX_CAMERAS:
            raise ConfigError(f"parameter cameras: expected up to {MAX_CAMERAS} different names, got {list(names)}")
        if self.anchor_camera and self.anchor_camera not in names:
            raise ConfigError(f"parameter anchor_camera: {self.anchor_camera!r} is not among cameras {list(names)}")
        for name in ("image_topic", "camera_info_topic"):
            self._check_topics(name, names)
        if unknown := [name for name in self.reliable_cameras if name not in names]:
            raise ConfigError(f"parameter reliable_cameras: {', '.join(unknown)} not among cameras {list(names)}")

    def _check_topics(self, name: str, cameras: tuple[str, ...]) -> None:
        """Of a pattern and of the list that may stand in its place."""
        pattern, topics = getattr(self, name), getattr(self, f"{name}s")
        if not pattern:
            raise ConfigError(f"parameter {name}: must not be empty")
        if topics and len(topics) != len(cameras):
            raise ConfigError(f"parameter {name}s: {len(topics)} topics for {len(cameras)} cameras {list(cameras)}")
        for topic in topics:
            if why := _not_a_topic(topic):
                raise ConfigError(f"parameter {name}s: {topic!r} is not a topic name: {why}")
        if topics or (self.rig_file and name == "camera_info_topic"):
            return  # the pattern is not used
        if len(cameras) > 1 and "{camera}" not in pattern:
            raise ConfigError(f"parameter {name}: {pattern!r} needs {{camera}} in it to name {len(cameras)} cameras")
        for camera in cameras:
            if why := _not_a_topic(pattern.replace("{camera}", camera)):
                raise ConfigError(f"parameter {name}: {pattern!r} with camera {camera!r} is not a topic name: {why}")

    @property
    def camera_names(self) -> tuple[str, ...]:
        return self.cameras or self.rig_names

    @cached_property
    def rig_names(self) -> tuple[str, ...]:
        """The cameras of rig_file; () without one."""
        if not self.rig_file:
            return ()
        from gaussianocc_core.geometry.rig_file import load_rig  # imports torch

        return load_rig(self.rig_file).names

    @property
    def anchor(self) -> str:
        return self.anchor_camera or self.camera_names[0]

    def image_topic_of(self, camera: str) -> str:
        if self.image_topics:
            topic = self.image_topics[self.camera_names.index(camera)]
        else:
            topic = self.image_topic.replace("{camera}", camera)
        return topic if self.image_transport == "auto" else topic_by(self.image_transport, topic)

    def transport_of(self, camera: str) -> str:
        """One of `TRANSPORTS`."""
        if self.image_transport == "auto":
            return transport_of(self.image_topic_of(camera))
        return self.image_transport

    def camera_info_topic_of(self, camera: str) -> str:
        if self.camera_info_topics:
            return self.camera_info_topics[self.camera_names.index(camera)]
        return self.camera_info_topic.replace("{camera}", camera)

    def is_reliable(self, camera: str) -> bool:
        return self.reliable or camera in self.reliable_cameras

    def make_builder(self) -> SetBuilder:
        """What forms the sets, empty."""
        return SetBuilder(
            self.camera_names,
            int(self.slop * 1e9),
            anchor=self.anchor,
            policy=self.sync_policy,
            patience_ns=int(self.patience * 1e9),
        )


def check_value(field: dataclasses.Field[Any], kind: Any, value: Any) -> Any:
    """The value of one parameter, by itself; ConfigError where its type, choice or range is another."""
    if kind == tuple[str, ...]:
        # An empty list has no type of its own: `ros2 param set` sends one of bools, a parameter file one of nothing.
        value = tuple(value) if value is not None and isinstance(value, (list, tuple, array)) else value
        if not (isinstance(value, tuple) and all(isinstance(item, str) for item in value)):
            raise ConfigError(f"parameter {field.name}: expected a list of text, got {value!r}")
    _check(field, value)
    return value


def _not_a_topic(name: str) -> str:
    """Why ROS would refuse the name; "" if it would not. Any node name and namespace do: ROS checks the whole."""
    try:
        validate_full_topic_name(expand_topic_name(name, "node", "/"))
    except NameValidationException as error:
        return str(error).splitlines()[0].removeprefix("Invalid topic name: ").rstrip(":")  # then the name and a "^"
    except (ValueError, RuntimeError) as error:
        return re.sub(r"^topic name '.*' is invalid: |, at \S+:\d+$", "", " ".join(str(error).split()))
    return ""


def _check(field: dataclasses.Field[Any], value: Any) -> None:
    choices, bounds = field.metadata.get("choices"), field.metadata.get("range")
    if choices and value not in choices:
        raise ConfigError(f"parameter {field.name}: expected one of {', '.join(choices)}, got {value!r}")
    if bounds and not bounds[0] <= value <= bounds[1]:
        raise ConfigError(f"parameter {field.name}: expected {bounds[0]} to {bounds[1]}, got {value!r}")
