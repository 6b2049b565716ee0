# SPDX-License-Identifier: Apache-2.0
"""Every parameter of the node: its default, description and range have their one home here."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import NameValidationException, ParameterException, ParameterUninitializedException
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.validate_full_topic_name import validate_full_topic_name

from gaussianocc_core.bags.image_codec import MAX_IMAGE_PIXELS
from gaussianocc_core.errors import ConfigError
from gaussianocc_core.navigation.traversability import Traversability

MAX_CAMERAS = 32
_TYPES = {
    bool: Parameter.Type.BOOL,
    int: Parameter.Type.INTEGER,
    float: Parameter.Type.DOUBLE,
    str: Parameter.Type.STRING,
    tuple[str, ...]: Parameter.Type.STRING_ARRAY,
}


def _parameter(default: Any, description: str, **limits: Any) -> Any:
    return dataclasses.field(default=default, metadata={"description": description, **limits})


@dataclass(frozen=True)
class NodeParameters:
    """Deployment only; grid, classes and network come from the checkpoint."""

    cameras: tuple[str, ...] = _parameter((), "Camera names. Empty: all cameras of rig_file.")
    image_topic: str = _parameter(
        "/{camera}/image_raw/compressed", "Image topic of each camera; {camera} stands for its name."
    )
    camera_info_topic: str = _parameter("/{camera}/camera_info", "CameraInfo topic of each camera; not with rig_file.")
    image_topics: tuple[str, ...] = _parameter(
        (), "Image topic of each camera in the order of cameras, where no pattern fits; in place of image_topic."
    )
    camera_info_topics: tuple[str, ...] = _parameter(
        (), "CameraInfo topic of each camera in the order of cameras; in place of camera_info_topic."
    )
    image_transport: str = _parameter(
        "auto", "raw, compressed, or auto: compressed where the camera's topic ends in /compressed.",
        choices=("auto", "raw", "compressed"),
    )  # fmt: skip
    rig_file: str = _parameter("", "YAML rig with intrinsics and extrinsics, used instead of CameraInfo and TF.")
    mask_dir: str = _parameter(
        "", "Folder of <camera>_mask.png, zero where a camera sees the robot itself (tools/make_masks.py). Empty: none."
    )
    ego_frame: str = _parameter("base_link", "Frame of the output: x forward, y left, z up.")
    fixed_frame: str = _parameter(
        "odom", "Frame that stands still: motion between a set's images is compensated where TF has it. Empty: off."
    )
    anchor_camera: str = _parameter("", "Camera whose image time stamps the output. Empty: the first camera.")
    checkpoint: str = _parameter("", "Path of a .safetensors model. Empty: the shipped one.")
    device: str = _parameter("auto", "auto, cpu, cuda or cuda:N.")
    slop: float = _parameter(0.05, "Largest time between the anchor's image and the others, s.", range=(0.0, 1.0))
    sync_policy: str = _parameter(
        "wait",
        "What becomes of a set that lacks a camera. wait: for `patience`, then it is dropped; skip: dropped at once; "
        "degrade: wait, then predict with the cameras that are there; what only the missing one sees is unobserved.",
        choices=("wait", "skip", "degrade"),
    )
    patience: float = _parameter(0.1, "How long sync_policy waits for a late camera, s.", range=(0.0, 10.0))
    reliable: bool = _parameter(
        False,
        "For lossless replay: reliable image subscriptions, a short queue of sets instead of the newest only, and "
        "each set's outputs delivered before the next is begun; both timeouts are at least 5 s.",
    )
    reliable_cameras: tuple[str, ...] = _parameter(
        (), "Cameras whose images alone are subscribed to reliably, such as over a bad link; others by best effort."
    )
    image_queue_size: int = _parameter(5, "Images that DDS keeps per camera.", range=(1, 100))
    max_image_pixels: int = _parameter(
        MAX_IMAGE_PIXELS, "Images that claim more pixels are dropped.", range=(1, 1 << 30)
    )
    calibration_timeout: float = _parameter(
        1.0, "Longest wait of a set for its CameraInfo and extrinsics, s; then it is dropped.", range=(0.0, 60.0)
    )
    odometry_timeout: float = _parameter(
        0.1, "Longest wait of a set for odometry at its image times, s; then motion stays.", range=(0.0, 10.0)
    )
    publish_points: bool = _parameter(True, "Offer ~/points, computed while somebody subscribes.")
    publish_markers: bool = _parameter(True, "Offer ~/markers, computed while somebody subscribes.")
    markers_exposed_only: bool = _parameter(
        True, "Leave out of ~/markers what occupied voxels cover on all six sides: unseen, and most of the message."
    )
    publish_obstacles: bool = _parameter(True, "Offer ~/obstacles, computed while somebody subscribes.")
    publish_grid: bool = _parameter(True, "Offer ~/grid in fixed_frame, computed while somebody subscribes.")
    publish_views: bool = _parameter(
        True, "Offer ~/<camera>/depth and ~/<camera>/semantic images, rendered while somebody subscribes."
    )
    view_colors: bool = _parameter(
        False, "Semantic images in the classes' colours (rgb8), to look at, instead of their ids (mono8).", dynamic=True
    )
    hidden_classes: tuple[str, ...] = _parameter(
        (), "Classes that ~/points and ~/markers leave out; [''] for none.", dynamic=True
    )
    fusion: bool = _parameter(
        False,
        "Accumulate results over time in fixed_frame: outputs then also hold what was seen before, with fewer errors "
        "of a single moment. ~/reset forgets. Needs odometry.",
    )
    fusion_hit: float = _parameter(
        0.7, "With fusion: probability that one sight of something means occupied.", range=(0.55, 0.99)
    )
    fusion_miss: float = _parameter(
        0.4, "With fusion: probability that something is there after one sight of nothing.", range=(0.01, 0.45)
    )
    fusion_decay: float = _parameter(
        5.0, "With fusion: seconds after which what is not seen again counts a third; 0: for ever.", range=(0.0, 3600.0)
    )
    traversable_classes: tuple[str, ...] = _parameter(
        Traversability.classes,
        "Classes that are no obstacles and count as ground in ~/grid; [''] for none, as after training without labels.",
        dynamic=True,
    )
    obstacle_low: float = _parameter(
        Traversability.low, "Voxels below are no obstacles, m above ego_frame.", range=(-10.0, 10.0), dynamic=True
    )
    obstacle_high: float = _parameter(
        Traversability.high, "Voxels above are no obstacles, m above ego_frame.", range=(-10.0, 10.0), dynamic=True
    )
    autostart: bool = _parameter(True, "Configure and activate at start; false leaves that to a lifecycle manager.")
    warm_up: bool = _parameter(True, "Run the network once at configure, so that the first set is not late.")
    warn_age: float = _parameter(
        1.0, "Age of results from which on /diagnostics says WARN, s; 0: never.", range=(0.0, 3600.0), dynamic=True
    )
    error_age: float = _parameter(
        5.0,
        "Age of results, or time without one, from which on /diagnostics says ERROR, s; 0: never.",
        range=(0.0, 3600.0), dynamic=True,
    )  # fmt: skip
    least_rate: float = _parameter(
        0.0, "Results per second below which /diagnostics says WARN; 0: none.", range=(0.0, 1000.0), dynamic=True
    )
    log_period: float = _parameter(10.0, "Seconds between log lines of rates and latencies; 0 turns them off.",
                                   range=(0.0, 3600.0))  # fmt: skip

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        names = self.camera_names
        if not names:
            raise ConfigError("parameter cameras: name at least one camera, or give a rig_file that does")
        if self.cameras and self.rig_file and (missing := [name for name in names if name not in self._rig_names()]):
            raise ConfigError(
                f"parameter cameras: rig_file {self.rig_file!r} has no {', '.join(missing)}; "
                f"it has {', '.join(self._rig_names())}"
            )
        if len(set(names)) != len(names) or len(names) > MAX_CAMERAS:
            raise ConfigError(f"parameter cameras: expected up to {MAX_CAMERAS} different names, got {list(names)}")
        if self.anchor_camera and self.anchor_camera not in names:
            raise ConfigError(f"parameter anchor_camera: {self.anchor_camera!r} is not among cameras {list(names)}")
        for name in ("ego_frame", "image_topic", "camera_info_topic"):
            if not getattr(self, name):
                raise ConfigError(f"parameter {name}: must not be empty")
        for name in ("image_topic", "camera_info_topic"):
            topic = getattr(self, name)
            if getattr(self, f"{name}s") or (self.rig_file and name == "camera_info_topic"):
                continue  # not used
            if len(names) > 1 and "{camera}" not in topic:
                raise ConfigError(f"parameter {name}: {topic!r} needs {{camera}} in it to name {len(names)} cameras")
            for camera in names:
                if why := _not_a_topic(topic.replace("{camera}", camera)):
                    raise ConfigError(f"parameter {name}: {topic!r} with camera {camera!r} is not a topic name: {why}")
        for name in ("image_topics", "camera_info_topics"):
            topics = getattr(self, name)
            if topics and len(topics) != len(names):
                raise ConfigError(f"parameter {name}: {len(topics)} topics for {len(names)} cameras {list(names)}")
            for topic in topics:
                if why := _not_a_topic(topic):
                    raise ConfigError(f"parameter {name}: {topic!r} is not a topic name: {why}")
        tokens = [topic_token(camera) for camera in names]
        if self.publish_views and len(set(tokens)) < len(tokens):
            raise ConfigError(f"parameter cameras: {list(names)} would share topics ~/<camera>/depth; rename them, or "
                              "set publish_views to false")  # fmt: skip
        if unknown := [name for name in self.reliable_cameras if name not in names]:
            raise ConfigError(f"parameter reliable_cameras: {', '.join(unknown)} not among cameras {list(names)}")
        if self.fusion and not self.fixed_frame:
            raise ConfigError("parameter fusion: needs a fixed_frame in which results are accumulated, such as odom")
        if self.mask_dir and not Path(self.mask_dir).is_dir():
            raise ConfigError(f"parameter mask_dir: no folder {self.mask_dir!r}; empty means no masks")
        if self.checkpoint and not Path(self.checkpoint).is_file():
            raise ConfigError(f"parameter checkpoint: no file {self.checkpoint!r}; empty means the shipped model")
        if not self.obstacle_low < self.obstacle_high:
            raise ConfigError(
                f"parameter obstacle_low: expected less than obstacle_high, got {self.obstacle_low:g} and "
                f"{self.obstacle_high:g}"
            )
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ConfigError(f"parameter device: expected auto, cpu, cuda or cuda:N, got {self.device!r}")

    @property
    def traversability(self) -> Traversability:
        classes = tuple(name for name in self.traversable_classes if name)
        return Traversability(classes, self.obstacle_low, self.obstacle_high)

    @property
    def camera_names(self) -> tuple[str, ...]:
        if self.cameras or not self.rig_file:
            return self.cameras
        return self._rig_names()

    def _rig_names(self) -> tuple[str, ...]:
        from gaussianocc_core.geometry.rig_file import (
            load_rig,
        )  # imports torch; the bag player reads parameters without it

        return load_rig(self.rig_file).names

    @property
    def anchor(self) -> str:
        return self.anchor_camera or self.camera_names[0]

    def is_compressed(self, camera: str) -> bool:
        if self.image_transport == "auto":
            return self.image_topic_of(camera).endswith("/compressed")
        return self.image_transport == "compressed"

    @property
    def least_timeout(self) -> float:
        """s that a set waits for what belongs to it, whatever the timeouts say. Fast DDS asks every 3 s what is
        missing: of messages that a burst of images has pushed out, the calibration may be the one repaired last."""
        return 5.0 if self.reliable else 0.0

    def is_reliable(self, camera: str) -> bool:
        return self.reliable or camera in self.reliable_cameras

    def image_topic_of(self, camera: str) -> str:
        if self.image_topics:
            return self.image_topics[self.camera_names.index(camera)]
        return self.image_topic.replace("{camera}", camera)

    def camera_info_topic_of(self, camera: str) -> str:
        if self.camera_info_topics:
            return self.camera_info_topics[self.camera_names.index(camera)]
        return self.camera_info_topic.replace("{camera}", camera)


def topic_token(camera: str) -> str:
    """A camera's name as a part of a topic: letters, digits and underscores, no digit first."""
    token = re.sub("[^A-Za-z0-9_]", "_", camera)
    return f"camera_{token}" if token[:1].isdigit() or not token.strip("_") else token


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


def descriptor(field: dataclasses.Field[Any]) -> ParameterDescriptor:
    """What `ros2 param describe` shows. Read-only unless it takes effect at once, not only at the next configure."""
    fixed = not field.metadata.get("dynamic", False)
    message = ParameterDescriptor(name=field.name, description=field.metadata["description"], read_only=fixed)
    if choices := field.metadata.get("choices"):
        message.additional_constraints = f"one of {', '.join(choices)}"
    if bounds := field.metadata.get("range"):
        if isinstance(field.default, int):
            message.integer_range = [IntegerRange(from_value=bounds[0], to_value=bounds[1])]
        else:
            message.floating_point_range = [FloatingPointRange(from_value=bounds[0], to_value=bounds[1])]
    return message


def _warn_of_unknown(node: Node, known: Collection[str]) -> None:
    """ROS says nothing of what a command line or parameter file sets and no node declares."""
    for name in node._parameter_overrides:  # no rclpy has a public name for it
        if name not in known and not node.has_parameter(name):  # rclpy has declared its own, such as use_sim_time
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "`ros2 param list` names those there are"
            node.get_logger().warning(f"parameter {name} is ignored, this node has none of that name; {hint}")


def apply_changes(parameters: NodeParameters, changes: Collection[Parameter]) -> NodeParameters:
    """The parameters after a set of dynamic ones; ConfigError if the new values are impossible."""
    known = {field.name for field in dataclasses.fields(NodeParameters)}
    values = {p.name: tuple(p.value) if isinstance(p.value, (list, tuple)) else p.value for p in changes}
    return dataclasses.replace(parameters, **{name: value for name, value in values.items() if name in known})


def declare_parameters(node: Node) -> NodeParameters:
    """Declare all on the node and return them as checked values; ConfigError says in one line what is wrong."""
    kinds = typing.get_type_hints(NodeParameters)
    _warn_of_unknown(node, kinds)
    values = {}
    for field in dataclasses.fields(NodeParameters):
        # An empty list has no type in ROS, so such a string array is declared by its type and may stay unset.
        kind = _TYPES[kinds[field.name]]
        default = field.default
        if kind is Parameter.Type.STRING_ARRAY:
            default = list(default) or kind
        try:
            node.declare_parameter(field.name, default, descriptor(field))
            value = node.get_parameter(field.name).value
        except ParameterUninitializedException:
            continue
        except ParameterException as error:
            raise ConfigError(f"parameter {field.name}: {' '.join(str(error).split())}") from None
        if value is not None:
            values[field.name] = tuple(value) if kind is Parameter.Type.STRING_ARRAY else value
    return NodeParameters(**values)
