# SPDX-License-Identifier: Apache-2.0
"""Camera rigs as YAML files (`config/rig/`)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml

from gaussianocc_core.config import from_dict, read_yaml
from gaussianocc_core.errors import ConfigError
from gaussianocc_core.geometry import transforms
from gaussianocc_core.geometry.calibration import find_fault
from gaussianocc_core.geometry.cameras import view_rotation
from gaussianocc_core.geometry.pixel_centers import from_opencv, to_opencv
from gaussianocc_core.names import shorten
from gaussianocc_core.types import Cameras

_MOST_CAMERAS = 64


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
    intrinsics: tuple[float, ...]  # fx, fy, cx, cy; px, from the centre of the first pixel, as calibration tools count
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
    if len(data["cameras"]) > _MOST_CAMERAS:
        raise ConfigError(f"{path}: {len(data['cameras'])} cameras; at most {_MOST_CAMERAS} are read")
    intrinsics, poses, rigs = [], [], []
    for name, entry in data["cameras"].items():
        if not isinstance(entry, dict):
            raise ConfigError(f"{path}: cameras.{name}: expected `key: value` lines, got {shorten(entry)}")
        rig = from_dict(_RigCamera, entry, f"{path}: cameras.{name}")
        _check_rig_camera(rig, f"{path}: cameras.{name}")
        if rig.view is None:
            rotation = transforms.quat_to_matrix(np.array(rig.rotation))
        else:
            rotation = view_rotation(rig.view.yaw, rig.view.pitch, rig.view.roll)
        intrinsics.append(from_opencv(_rig_matrix(rig)))
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
        width=rig.width,
        height=rig.height,
        intrinsics=_rig_matrix(rig),
        model=rig.model,
        distortion=rig.distortion,
        rotation=rig.rotation,
        translation=rig.translation,
    )
    if fault is not None:
        got = getattr(rig, fault.field)
        got = shorten(list(got) if isinstance(got, tuple) else got)
        raise ConfigError(f"{origin}.{fault.field}: expected {fault.expected}, got {got}")


def save_rig(cameras: Cameras, path: str | Path) -> None:
    """Write a rig file that `load_rig` reads back to the same cameras."""
    entries = {}
    for i, name in enumerate(cameras.names):
        K = to_opencv(cameras.intrinsics[i].double().numpy())
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
