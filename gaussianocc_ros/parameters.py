# SPDX-License-Identifier: Apache-2.0
"""Every parameter of the node has its default, description and range here; those of the sets in sync_parameters.py."""

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
from rclpy.exceptions import ParameterException, ParameterUninitializedException
from rclpy.node import Node
from rclpy.parameter import Parameter

from gaussianocc_core.bags.image_codec import MAX_IMAGE_PIXELS
from gaussianocc_core.errors import ConfigError
from gaussianocc_core.names import check_names
from gaussianocc_core.navigation.traversability import Traversability
from gaussianocc_ros.sync_parameters import SyncParameters, parameter

_TYPES = {
    bool: Parameter.Type.BOOL,
    int: Parameter.Type.INTEGER,
    float: Parameter.Type.DOUBLE,
    str: Parameter.Type.STRING,
    tuple[str, ...]: Parameter.Type.STRING_ARRAY,
}


@dataclass(frozen=True)
class NodeParameters(SyncParameters):
    """Deployment only; grid, classes and network come from the checkpoint."""

    image_transport: str = parameter(
        "auto",
        "raw, compressed, or auto: compressed where the camera's topic ends in /compressed.",
        choices=("auto", "raw", "compressed"),
    )
    mask_dir: str = parameter(
        "", "Folder of <camera>_mask.png, zero where a camera sees the robot itself (tools/make_masks.py). Empty: none."
    )
    ego_frame: str = parameter("base_link", "Frame of the output: x forward, y left, z up.")
    fixed_frame: str = parameter(
        "odom", "Frame that stands still: motion between a set's images is compensated where TF has it. Empty: off."
    )
    checkpoint: str = parameter("", "Path of a .safetensors model. Empty: the shipped one.")
    caution: float = parameter(
        0.0,
        "Trades missed obstacles against ghosts: the probability that free needs. Higher misses fewer obstacles and "
        "shows more ghosts. 0: as the model's file says.",
        range=(0.0, 0.999),
        dynamic=True,
    )
    device: str = parameter("auto", "auto, cpu, cuda or cuda:N.")
    image_queue_size: int = parameter(5, "Images that DDS keeps per camera.", range=(1, 100))
    max_image_pixels: int = parameter(
        MAX_IMAGE_PIXELS, "Images that claim more pixels are dropped.", range=(1, 1 << 30)
    )
    calibration_timeout: float = parameter(
        1.0, "Longest wait of a set for its CameraInfo and extrinsics, s; then it is dropped.", range=(0.0, 60.0)
    )
    odometry_timeout: float = parameter(
        0.1, "Longest wait of a set for odometry at its image times, s; then motion stays.", range=(0.0, 10.0)
    )
    publish_points: bool = parameter(True, "Offer ~/points, computed while somebody subscribes.")
    publish_markers: bool = parameter(True, "Offer ~/markers, computed while somebody subscribes.")
    markers_exposed_only: bool = parameter(
        True, "Leave out of ~/markers what occupied voxels cover on all six sides: unseen, and most of the message."
    )
    publish_obstacles: bool = parameter(True, "Offer ~/obstacles, computed while somebody subscribes.")
    publish_grid: bool = parameter(True, "Offer ~/grid in fixed_frame, computed while somebody subscribes.")
    publish_views: bool = parameter(
        True, "Offer ~/<camera>/depth and ~/<camera>/semantic images, rendered while somebody subscribes."
    )
    view_colors: bool = parameter(
        False, "Semantic images in the classes' colours (rgb8), to look at, instead of their ids (mono8).", dynamic=True
    )
    hidden_classes: tuple[str, ...] = parameter(
        (), "Classes that ~/points and ~/markers leave out; [''] for none.", dynamic=True
    )
    motion: str = parameter(
        "auto",
        "What a model that matches images with earlier ones is told of the robot's motion. tf: fixed_frame <- "
        "ego_frame; images: what ~/odometry says; auto: tf where it has fixed_frame, else images; none: nothing, only "
        "images of one moment are matched.",
        choices=("auto", "tf", "images", "none"),
    )
    publish_odometry: bool = parameter(
        True, "Offer ~/odometry, the robot's motion by its images, computed while somebody subscribes."
    )
    odometry_frame: str = parameter(
        "", "Frame of ~/odometry. Empty: fixed_frame, or camera_odom where TF has fixed_frame already."
    )
    publish_odometry_tf: bool = parameter(
        False, "Send ~/odometry also to /tf as fixed_frame <- ego_frame, for robots on which nobody else does."
    )
    fusion: bool = parameter(
        False,
        "Accumulate results over time in fixed_frame: outputs then also hold what was seen before, with fewer errors "
        "of a single moment. ~/reset forgets. Needs odometry.",
    )
    fusion_hit: float = parameter(
        0.7, "With fusion: probability that one sight of something means occupied.", range=(0.55, 0.99)
    )
    fusion_miss: float = parameter(
        0.3, "With fusion: probability that something is there after rays passed it once.", range=(0.01, 0.45)
    )
    fusion_doubt: float = parameter(
        0.8,
        "With fusion: probability that something has moved in where it was free, after one set in which that is "
        "hidden; it becomes unknown. 0.5: it stays free until it decays.",
        range=(0.5, 0.99),
    )
    fusion_decay: float = parameter(
        5.0, "With fusion: seconds after which what is not seen again counts a third; 0: for ever.", range=(0.0, 3600.0)
    )
    traversable_classes: tuple[str, ...] = parameter(
        Traversability.classes,
        "Classes that are no obstacles and count as ground in ~/grid; [''] for none, as after training without labels.",
        dynamic=True,
    )
    obstacle_low: float = parameter(
        Traversability.low, "Voxels below are no obstacles, m above ego_frame.", range=(-10.0, 10.0), dynamic=True
    )
    obstacle_high: float = parameter(
        Traversability.high, "Voxels above are no obstacles, m above ego_frame.", range=(-10.0, 10.0), dynamic=True
    )
    autostart: bool = parameter(True, "Configure and activate at start; false leaves that to a lifecycle manager.")
    warm_up: bool = parameter(True, "Run the network once at configure, so that the first set is not late.")
    warn_age: float = parameter(
        1.0, "Age of results from which on /diagnostics says WARN, s; 0: never.", range=(0.0, 3600.0), dynamic=True
    )
    error_age: float = parameter(
        5.0,
        "Age of results, or time without one, from which on /diagnostics says ERROR, s; 0: never.",
        range=(0.0, 3600.0),
        dynamic=True,
    )
    least_rate: float = parameter(
        0.0, "Results per second below which /diagnostics says WARN; 0: none.", range=(0.0, 1000.0), dynamic=True
    )
    log_period: float = parameter(
        10.0, "Seconds between log lines of rates and latencies; 0 turns them off.", range=(0.0, 3600.0)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        names = self.camera_names
        check_names(names, "parameter cameras: camera", ConfigError)
        if self.rig_file and (missing := [name for name in names if name not in self.rig_names]):
            raise ConfigError(
                f"parameter cameras: rig_file {self.rig_file!r} has no {', '.join(missing)}; "
                f"it has {', '.join(self.rig_names)}"
            )
        if not self.ego_frame:
            raise ConfigError("parameter ego_frame: must not be empty")
        tokens = [topic_token(camera) for camera in names]
        if self.publish_views and len(set(tokens)) < len(tokens):
            raise ConfigError(
                f"parameter cameras: {list(names)} would share topics ~/<camera>/depth; rename them, or "
                "set publish_views to false"
            )
        if self.fusion and not self.fixed_frame:
            raise ConfigError("parameter fusion: needs a fixed_frame in which results are accumulated, such as odom")
        if self.publish_odometry_tf and not self.fixed_frame:
            raise ConfigError("parameter publish_odometry_tf: needs a fixed_frame, such as odom")
        if self.publish_odometry_tf and self.motion == "tf":
            raise ConfigError("parameter motion: tf would be what publish_odometry_tf sends; choose auto or images")
        if self.publish_odometry_tf and self.odometry_frame not in ("", self.fixed_frame):
            raise ConfigError(
                f"parameter odometry_frame: with publish_odometry_tf expected empty or fixed_frame "
                f"({self.fixed_frame}), got {self.odometry_frame!r}"
            )
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

    def is_compressed(self, camera: str) -> bool:
        if self.image_transport == "auto":
            return self.image_topic_of(camera).endswith("/compressed")
        return self.image_transport == "compressed"

    @property
    def least_timeout(self) -> float:
        """s that a set waits for what belongs to it, whatever the timeouts say. Fast DDS asks every 3 s what is
        missing: of messages that a burst of images has pushed out, the calibration may be the one repaired last."""
        return 5.0 if self.reliable else 0.0


def topic_token(camera: str) -> str:
    """A camera's name as a part of a topic: letters, digits and underscores, no digit first."""
    token = re.sub("[^A-Za-z0-9_]", "_", camera)
    return f"camera_{token}" if token[:1].isdigit() or not token.strip("_") else token


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
