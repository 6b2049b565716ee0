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
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

from gaussianocc_core.backends.device import DEVICES, is_device
from gaussianocc_core.backends.folder import is_export
from gaussianocc_core.bags.image_codec import MAX_IMAGE_PIXELS
from gaussianocc_core.errors import ConfigError
from gaussianocc_core.names import check_names
from gaussianocc_core.navigation.traversability import Traversability, parse_values
from gaussianocc_ros.sync_parameters import SyncParameters, check_value, parameter


@dataclass(frozen=True)
class NodeParameters(SyncParameters):
    """Deployment only; grid, classes and network come from the checkpoint."""

    mask_dir: str = parameter(
        "", "Folder of <camera>_mask.png, zero where a camera sees the robot itself (tools/make_masks.py). Empty: none."
    )
    ego_frame: str = parameter("base_link", "Frame of the output: x forward, y left, z up.")
    fixed_frame: str = parameter(
        "odom", "Frame that stands still: motion between a set's images is compensated where TF has it. Empty: off."
    )
    frame_prefix: str = parameter(
        "", "Put before ego_frame, fixed_frame and odometry_frame, such as robot1/. Cameras' frames have their own."
    )
    checkpoint: str = parameter(
        "", "Path of a .safetensors model, or of a folder of tools/export_model.py. Empty: the shipped one."
    )
    caution: float = parameter(
        0.0,
        "Higher misses fewer obstacles and shows more ghosts: a voxel is occupied if its probability is above 1 - "
        "caution. 0: the value in the model's file.",
        range=(0.0, 0.999),
        dynamic=True,
    )
    device: str = parameter("auto", f"{DEVICES}; see deploy.md. auto: what runs the networks fastest.")
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
    publish_hidden: bool = parameter(
        True, "Offer ~/hidden_points, what is in view but hidden within 12 m, computed while somebody subscribes."
    )
    publish_markers: bool = parameter(True, "Offer ~/markers, computed while somebody subscribes.")
    markers_exposed_only: bool = parameter(
        True, "Leave voxels out of ~/markers that others cover on all six sides: nobody sees them, and they are most."
    )
    markers_most: int = parameter(
        20_000,
        "Most cubes in ~/markers: if there are more, cubes far from the robot become larger. 0: any number.",
        range=(0, 10_000_000),
    )
    publish_obstacles: bool = parameter(True, "Offer ~/obstacles, computed while somebody subscribes.")
    publish_clearing: bool = parameter(
        True, "Offer ~/<camera>/clearing, how far rays passed: clears costmaps. Computed while somebody subscribes."
    )
    publish_grid: bool = parameter(True, "Offer ~/grid in fixed_frame, computed while somebody subscribes.")
    mask_values: tuple[str, ...] = parameter(
        (),
        "Values of ~/filter_mask by class, such as sidewalk=30 (1 to 100), for Nav2's costmap filters. Empty: the "
        "topic is not offered.",
    )
    publish_scenery: bool = parameter(
        True, "Offer ~/rig (robot, frusta, axes) and ~/legend for viewers: latched, and again every 5 s."
    )
    publish_views: bool = parameter(
        True, "Offer ~/<camera>/depth and ~/<camera>/semantic images, rendered while somebody subscribes."
    )
    view_colors: bool = parameter(
        False, "Semantic images in the classes' colours (rgb8), to look at, instead of their ids (mono8).", dynamic=True
    )
    hidden_classes: tuple[str, ...] = parameter(
        (), "Classes that ~/points and ~/markers leave out; [] for none.", dynamic=True
    )
    motion: str = parameter(
        "auto",
        "Where a model that matches images over time gets the robot's motion from. tf: fixed_frame <- ego_frame; "
        "images: found in the images, as ~/odometry; auto: tf where it has fixed_frame, else images; none: only images "
        "of one moment are matched.",
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
    memory: bool = parameter(
        True,
        "Also use what camera rays of the last 1.5 s found, so that more obstacles are found. Needs a motion (see "
        "motion) and a model with a memory: the shipped one, or yours after tools/fit_memory.py. ~/reset forgets.",
    )
    fusion: bool = parameter(
        False,
        "Accumulate results over time in fixed_frame: outputs then also hold what was seen before, and errors of "
        "single moments are outvoted. ~/reset forgets. Needs odometry.",
    )
    fusion_hit: float = parameter(
        0.7, "With fusion: probability that a voxel is occupied after it was seen occupied once.", range=(0.55, 0.99)
    )
    fusion_miss: float = parameter(
        0.3, "With fusion: probability that a voxel is occupied after rays passed it once.", range=(0.01, 0.45)
    )
    fusion_doubt: float = parameter(
        0.8,
        "With fusion: probability that something moved into a free voxel while it was hidden in one set; the voxel "
        "becomes unknown. 0.5: it stays free until it decays.",
        range=(0.5, 0.99),
    )
    fusion_decay: float = parameter(
        5.0,
        "With fusion: seconds after which a voxel that is not seen again counts a third; 0: for ever.",
        range=(0.0, 3600.0),
    )
    traversable_classes: tuple[str, ...] = parameter(
        Traversability.classes,
        "Classes that are ground in ~/grid and no obstacles; [] for none, as after training without 2D labels.",
        dynamic=True,
    )
    obstacle_low: float = parameter(
        Traversability.low, "Voxels below are no obstacles, m above ego_frame.", range=(-10.0, 10.0), dynamic=True
    )
    obstacle_high: float = parameter(
        Traversability.high, "Voxels above are no obstacles, m above ego_frame.", range=(-10.0, 10.0), dynamic=True
    )
    map_dir: str = parameter("", "Folder that ~/save_map writes to. Empty: the service is not offered.")
    autostart: bool = parameter(True, "Configure and activate at start; false leaves that to a lifecycle manager.")
    warm_up: bool = parameter(
        True,
        "Run everything once at configure, so that the first set and the first subscriber of an output need not wait.",
    )
    warn_age: float = parameter(
        1.0, "/diagnostics says WARN when results are older, s; 0: never.", range=(0.0, 3600.0), dynamic=True
    )
    error_age: float = parameter(
        5.0,
        "/diagnostics says ERROR when results are older, or when none came for so long, s; 0: never.",
        range=(0.0, 3600.0),
        dynamic=True,
    )
    least_rate: float = parameter(
        0.0, "Results per second below which /diagnostics says WARN; 0: none.", range=(0.0, 1000.0), dynamic=True
    )
    watch_period: float = parameter(
        10.0,
        "Seconds between looks at the images themselves (dark, burnt out, frozen, blurred, dirty, upside down), for "
        "/diagnostics; 0: never.",
        range=(0.0, 3600.0),
        dynamic=True,
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
        if self.map_dir and not Path(self.map_dir).is_dir():
            raise ConfigError(f"parameter map_dir: no folder {self.map_dir!r}; make it, or leave it empty")
        if self.checkpoint and not (Path(self.checkpoint).is_file() or is_export(self.checkpoint)):
            raise ConfigError(f"parameter checkpoint: no file {self.checkpoint!r}; empty means the shipped model")
        if not self.obstacle_low < self.obstacle_high:
            raise ConfigError(
                f"parameter obstacle_low: expected less than obstacle_high, got {self.obstacle_low:g} and "
                f"{self.obstacle_high:g}"
            )
        try:
            parse_values([each for each in self.mask_values if each])
        except ValueError as error:
            raise ConfigError(f"parameter mask_values: {error}") from None
        if not is_device(self.device):
            raise ConfigError(
                f"parameter device: expected {DEVICES}, got {self.device!r}; a precision may follow as in openvino:bf16"
            )

    @property
    def traversability(self) -> Traversability:
        classes = tuple(name for name in self.traversable_classes if name)
        return Traversability(classes, self.obstacle_low, self.obstacle_high)

    @property
    def least_timeout(self) -> float:
        """s that a set waits for what belongs to it, whatever the timeouts say. Fast DDS asks every 3 s what is
        missing: of messages that a burst of images has pushed out, the calibration may be the one repaired last."""
        return 5.0 if self.reliable else 0.0


def topic_token(camera: str) -> str:
    """A camera's name as a part of a topic: letters, digits and underscores, no digit first."""
    token = re.sub("[^A-Za-z0-9_]", "_", camera)
    return f"camera_{token}" if token[:1].isdigit() or not token.strip("_") else token


def is_dynamic(field: dataclasses.Field[Any]) -> bool:
    """Whether it takes effect at once, not only at the next configure."""
    return bool(field.metadata.get("dynamic", False))


def descriptor(field: dataclasses.Field[Any]) -> ParameterDescriptor:
    """What `ros2 param describe` shows. None is read-only for ROS: before configure all can be set."""
    message = ParameterDescriptor(name=field.name, description=field.metadata["description"])
    constraints = [] if is_dynamic(field) else ["takes effect at configure, can be set while unconfigured"]
    if choices := field.metadata.get("choices"):
        constraints.append(f"one of {', '.join(choices)}")
    message.additional_constraints = "; ".join(constraints)
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
    return dataclasses.replace(parameters, **check_changes(changes))


def check_changes(changes: Collection[Parameter]) -> dict[str, Any]:
    """Each by itself, as far as they are the node's; ConfigError says in one line what is wrong."""
    fields, kinds = {field.name: field for field in dataclasses.fields(NodeParameters)}, _kinds()
    return {p.name: check_value(fields[p.name], kinds[p.name], p.value) for p in changes if p.name in fields}


def fixed_changes(parameters: NodeParameters, changes: Collection[Parameter]) -> list[str]:
    """The names among them that take effect at configure only, and would get another value."""
    fixed = {field.name for field in dataclasses.fields(NodeParameters) if not is_dynamic(field)}
    values = {name: value for name, value in check_changes(changes).items() if name in fixed}
    frames = _prefixed(dataclasses.replace(parameters, **{n: v for n, v in values.items() if n in _FRAMES}))
    values |= {name: getattr(frames, name) for name in values if name in _FRAMES}
    return [name for name, value in values.items() if value != getattr(parameters, name)]


def declare_parameters(node: Node) -> NodeParameters:
    """Declare all on the node and return them as checked values; ConfigError says in one line what is wrong."""
    declare(node)
    return read_parameters(node)


def declare(node: Node) -> None:
    """ConfigError where an override has another type or range."""
    kinds = _kinds()
    _warn_of_unknown(node, kinds)
    for field in dataclasses.fields(NodeParameters):
        about, default = descriptor(field), field.default
        if kinds[field.name] == tuple[str, ...]:
            # An empty list has no type in ROS: such a parameter may stay unset, or become an empty list of anything.
            about.dynamic_typing, default = True, list(default) or None
        try:
            node.declare_parameter(field.name, default, about)
        except ParameterException as error:
            raise ConfigError(f"parameter {field.name}: {' '.join(str(error).split())}") from None


def read_parameters(node: Node) -> NodeParameters:
    """Those of a node that has declared them, as checked values; ConfigError says in one line what is wrong."""
    found = [node.get_parameter(field.name) for field in dataclasses.fields(NodeParameters)]
    return _prefixed(NodeParameters(**check_changes([each for each in found if each.value is not None])))


_FRAMES = ("ego_frame", "fixed_frame", "odometry_frame")


def _prefixed(parameters: NodeParameters) -> NodeParameters:
    prefix = parameters.frame_prefix
    frames = {name: getattr(parameters, name) for name in _FRAMES}
    prefixed = {n: f if not f or f.startswith(prefix) else f"{prefix}{f}" for n, f in frames.items()}
    return dataclasses.replace(parameters, **prefixed)


def _kinds() -> dict[str, Any]:
    return {name: kind for name, kind in typing.get_type_hints(NodeParameters).items() if name in _NAMES}


_NAMES = frozenset(field.name for field in dataclasses.fields(NodeParameters))
