# SPDX-License-Identifier: Apache-2.0
"""Every setting as a frozen dataclass, and the only code that reads YAML.

The defaults are all but the `tiny` model, which runs anywhere; `config/model/*.yaml` hold only differences from them.
Checkpoints embed their whole configuration, so a node or a script needs no file beside the weights.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import dacite
import numpy as np
import torch
import yaml

from gaussianocc_core.data.labels import CLASS_NAMES
from gaussianocc_core.errors import ConfigError
from gaussianocc_core.geometry import transforms
from gaussianocc_core.geometry.calibration import find_fault
from gaussianocc_core.geometry.cameras import view_rotation
from gaussianocc_core.quirks import NAMED_QUIRKS, Quirks
from gaussianocc_core.types import Cameras, Lattice, VoxelGrid


@dataclass(frozen=True)
class EncoderConfig:
    """2D image encoder (spec section a)."""

    backbone: str = "resnet18"  # resnet18, resnet34, resnet50 or resnet101; layer4 is never used
    width: float = 0.5  # factor on the backbone's channel counts
    up_channels: tuple[int, int] = (64, 48)  # of the decoder blocks at stride 8 and stride 4
    feature_channels: int = 16  # of the stride-4 map that is lifted
    norm: str = "batch"  # of the decoder blocks; published: instance
    rays: bool = True  # the decoder blocks see where their pixels look (ego frame, no lengths); published: False


@dataclass(frozen=True)
class DecoderConfig:
    """From lifted features to logits (spec section c)."""

    kind: str = "bev"  # "hourglass": 3D, as published; "bev": 2D over the ground plan with height in channels
    surface: bool = True  # a depth head tells the decoder where each camera sees a surface; published: False
    channels: int = 48  # at full resolution; more inside
    hourglasses: int = 1  # published: 3
    head_blocks: int = 1  # convolutions before the class layer; published: 4
    position: bool = True  # tells the network where each lattice point is; published: False


@dataclass(frozen=True)
class GaussianConfig:
    """Voxels to Gaussians (spec section e)."""

    scale: tuple[float, float, float] = (0.3, 0.3, 0.15)  # standard deviations at a lattice point, m; published: 0.2
    learned: bool = False  # one factor on all of them is learnt (the paper's "learnable" is per voxel and unreleased)
    far_radius: tuple[float, float] = (60.0, 80.0)  # m from the ego origin; beyond, scales grow
    far_factor: tuple[float, float] = (4.0, 8.0)


@dataclass(frozen=True)
class DepthConfig:
    """Depth and Gaussian scale per pixel (spec section f); needed in the first stage only."""

    near: float = 0.5  # m
    # m; well beyond what counts: near its limits a sigmoid hardly moves. Published: 80.
    far: float = 200.0
    # m, the farthest that fresh weights say; without `ground`, what they say everywhere. Ground beyond it starts too
    # near, and what moves by a fraction of a pixel between frames stays where it started.
    first: float = 50.0
    # Fresh weights say the plane z = 0 of the ego frame, this factor times as far; 0: without the plane. A robot's base
    # frame lies near the ground, so training starts from nearly the right scale. Published: 0.
    ground: float = 1.0
    # Whether that plane is the ground to a few percent of the cameras' height, so that it has the scale. False: a base
    # frame at axle height, say; then only the overlaps of the cameras have it.
    metric_ground: bool = True
    max_scale: float = 0.05  # m, standard deviation of a pixel's Gaussian; published: 0.02, at 224 x 352


@dataclass(frozen=True)
class PoseConfig:
    """Network for the ego motion between two frames (spec section f); needed in training only."""

    backbone: str = "plain"  # plain (convolutions without norms), resnet18 or resnet34; published: resnet34
    width: float = 0.75  # factor on the backbone's channel counts; published: 1
    channels: int = 64  # of the decoder; published: 256
    reduction: int = 2  # of the images it looks at, per side; published: 1
    output_scale: tuple[float, float] = (0.02, 0.5)  # of rotation and translation; published: 0.01 for both


@dataclass(frozen=True)
class ModelConfig:
    name: str = "tiny"
    image_height: int = 96  # of the network's input, pixels
    image_width: int = 176
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    lattice: Lattice = field(
        default_factory=lambda: Lattice(low=(-40.0, -40.0, -1.0), high=(40.0, 40.0, 5.4), shape=(100, 100, 16))
    )
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    gaussians: GaussianConfig = field(default_factory=GaussianConfig)
    grid: VoxelGrid = field(default_factory=VoxelGrid)  # what is published and evaluated
    class_names: tuple[str, ...] = CLASS_NAMES  # the last one is free space
    # m from the ego origin, horizontally, to which what stands on the ground is claimed; beyond, its depth is too
    # uncertain for a voxel, and it is left unobserved. 0: everywhere (published).
    reach: float = 0.0
    fisheye_fov_deg: float = 110.0  # of the rectified view of equidistant lenses
    depth: DepthConfig = field(default_factory=DepthConfig)
    pose: PoseConfig = field(default_factory=PoseConfig)
    quirks: Quirks = field(default_factory=Quirks)  # in files a section or a name: `quirks: published`


T = TypeVar("T")


def load_config(path: str | Path | None, cls: type[T], overrides: Sequence[str] = ()) -> T:
    """A configuration dataclass from its defaults, then a YAML file (or None), then `key.sub=value` overrides.

    Raises ConfigError that names the unknown key and the nearest valid one, or the wrong type.
    """
    data: dict[str, Any] = read_yaml(path) if path is not None else {}
    origin = str(path) if path is not None else "defaults"
    if isinstance(data.get("model"), str):  # a training file names its model: `model: reference`
        data["model"] = read_yaml(find_model_config(data["model"]))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"override {override!r}: expected key=value, e.g. decoder.channels=16")
        node = data
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"override {override!r}: {parent!r} is a value, not a section")
        node[last] = yaml.safe_load(text)
        if key == "model" and isinstance(node[last], str):
            node[last] = read_yaml(find_model_config(node[last]))
    return from_dict(cls, data, origin)


def from_dict(cls: type[T], data: dict[str, Any], origin: str = "configuration") -> T:
    """A configuration dataclass from plain data; lists become tuples and integers floats where the field says so."""
    _check_keys(cls, data, origin)
    try:
        return dacite.from_dict(cls, data, dacite.Config(strict=True, cast=[tuple], type_hooks=_TYPE_HOOKS))
    except (dacite.DaciteError, ValueError, TypeError) as error:
        raise ConfigError(f"{origin}: {error}") from error


def to_dict(config: Any) -> dict[str, Any]:
    """Plain data (dicts, lists, scalars) of a configuration dataclass, complete with all defaults."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value

    return plain(dataclasses.asdict(config))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError where it is absent, unreadable or not a mapping."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; give the path of an existing YAML file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected `key: value` lines at the top level, got a {type(data).__name__}")
    return data


def find_model_config(name: str) -> Path:
    """The file of a named model in a clone (`config/model/`) or an installed ROS package (`share/`)."""
    for parent in Path(__file__).resolve().parents:
        for folder in ("config/model", "share/gaussianocc_ros/config/model"):
            path = parent / folder / f"{name}.yaml"
            if path.is_file():
                return path
    raise ConfigError(f"model {name!r}: no config/model/{name}.yaml near this package; copy it from the repository")


def _to_float(value: Any) -> Any:
    if isinstance(value, str):  # YAML 1.1 reads 4e-3, without a point, as text
        try:
            return float(value)
        except ValueError:
            return value
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _to_quirks(value: Any) -> Any:
    return NAMED_QUIRKS.get(value, value) if isinstance(value, str) else value


_TYPE_HOOKS: dict[type[Any], Callable[[Any], Any]] = {float: _to_float, Quirks: _to_quirks}


def _check_keys(cls: Any, data: dict[str, Any], origin: str, prefix: str = "") -> None:
    hints = typing.get_type_hints(cls)
    for key, value in data.items():
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else f"; valid keys: {', '.join(hints)}"
            raise ConfigError(f"{origin}: unknown key {prefix}{key}{hint}")
        inner = hints[key]
        if isinstance(inner, types.UnionType):
            continue
        if dataclasses.is_dataclass(inner):
            if inner is Quirks and isinstance(value, str) and value in NAMED_QUIRKS:
                continue
            if not isinstance(value, dict):
                raise ConfigError(f"{origin}: {prefix}{key} is a section; expected `key: value` lines, got {value!r}")
            _check_keys(inner, value, origin, f"{prefix}{key}.")


# ---- camera rigs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _View:
    """Viewing direction, degrees: yaw to the left, pitch up, roll clockwise as seen from behind the camera."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0


@dataclass(frozen=True)
class _RigCamera:
    width: int
    height: int
    intrinsics: tuple[float, ...]  # fx, fy, cx, cy
    translation: tuple[float, float, float]  # of the camera in the ego frame, m
    model: str = "pinhole"
    distortion: tuple[float, ...] = ()
    rotation: tuple[float, float, float, float] | None = None  # T_ego_cam as w, x, y, z
    view: _View | None = None  # or this instead


def load_rig(path: str | Path) -> Cameras:
    """The cameras of a rig file (see `config/rig/`), float64, in the file's order; the first is the anchor."""
    data = read_yaml(path)
    if list(data) != ["cameras"] or not isinstance(data["cameras"], dict) or not data["cameras"]:
        raise ConfigError(f"{path}: expected one section `cameras:` with one entry per camera name")
    intrinsics, poses, rigs = [], [], []
    for name, entry in data["cameras"].items():
        if not isinstance(entry, dict):
            raise ConfigError(f"{path}: cameras.{name}: expected `key: value` lines, got {entry!r}")
        rig = from_dict(_RigCamera, entry, f"{path}: cameras.{name}")
        _check_rig_camera(rig, f"{path}: cameras.{name}")
        if rig.view is None:
            rotation = transforms.quat_to_matrix(np.array(rig.rotation))
        else:
            rotation = view_rotation(rig.view.yaw, rig.view.pitch, rig.view.roll)
        intrinsics.append(_rig_matrix(rig))
        poses.append(transforms.make_transform(rotation, np.array(rig.translation)))
        rigs.append(rig)
    try:
        return Cameras(
            names=tuple(str(name) for name in data["cameras"]),
            intrinsics=torch.from_numpy(np.stack(intrinsics)),
            T_ego_cam=torch.from_numpy(np.stack(poses)),
            width=tuple(rig.width for rig in rigs),
            height=tuple(rig.height for rig in rigs),
            model=tuple(rig.model for rig in rigs),
            distortion=tuple(rig.distortion for rig in rigs),
        )
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def _rig_matrix(rig: _RigCamera) -> np.ndarray:
    fx, fy, cx, cy = rig.intrinsics
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])


def _check_rig_camera(rig: _RigCamera, origin: str) -> None:
    if len(rig.intrinsics) != 4:
        raise ConfigError(f"{origin}.intrinsics: expected [fx, fy, cx, cy], got {list(rig.intrinsics)}")
    if (rig.rotation is None) == (rig.view is None):
        raise ConfigError(f"{origin}: give either rotation: [w, x, y, z] or view: {{yaw, pitch, roll}}")
    if rig.view is not None and not np.isfinite(dataclasses.astuple(rig.view)).all():
        raise ConfigError(f"{origin}.view: expected finite angles in degrees, got {dataclasses.asdict(rig.view)}")
    fault = find_fault(
        width=rig.width, height=rig.height, intrinsics=_rig_matrix(rig), model=rig.model, distortion=rig.distortion,
        rotation=rig.rotation, translation=rig.translation,
    )  # fmt: skip
    if fault is not None:
        got = getattr(rig, fault.field)
        got = list(got) if isinstance(got, tuple) else got
        raise ConfigError(f"{origin}.{fault.field}: expected {fault.expected}, got {got}")


def save_rig(cameras: Cameras, path: str | Path) -> None:
    """Write a rig file that `load_rig` reads back to the same cameras."""
    entries = {}
    for i, name in enumerate(cameras.names):
        K = cameras.intrinsics[i].double().numpy()
        T_ego_cam = cameras.T_ego_cam[i].double().numpy()
        entries[name] = {
            "width": cameras.width[i],
            "height": cameras.height[i],
            "model": cameras.model[i],
            "intrinsics": [float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])],
            "distortion": list(cameras.distortion[i]),
            "translation": [float(v) for v in T_ego_cam[:3, 3]],
            "rotation": [float(v) for v in transforms.matrix_to_quat(T_ego_cam[:3, :3])],
        }
    text = yaml.safe_dump({"cameras": entries}, sort_keys=False, default_flow_style=None)
    Path(path).write_text(text, encoding="utf-8")
