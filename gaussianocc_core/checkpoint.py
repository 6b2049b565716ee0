# SPDX-License-Identifier: Apache-2.0
"""One model file: a `.safetensors` whose metadata hold the configuration, the class list and the provenance.

A file may hold three networks, each complete or absent: the occupancy network and, under `pose_net.` and `depth_net.`,
those of the first training stage, which only training needs. Beside an occupancy network it may hold the head that
weighs rays of earlier sets and this network's word, under `memory.`.

safetensors holds arrays and strings only, so an untrusted file can be read without running anything in it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gaussianocc_core.config import from_dict, to_dict
from gaussianocc_core.errors import CheckpointError, ConfigError
from gaussianocc_core.files import complete_file
from gaussianocc_core.finite import is_finite
from gaussianocc_core.mistakes import reason_of
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.models.depth_net import DepthNet
from gaussianocc_core.models.gaussianocc import GaussianOcc, build_depth_net, build_model, build_pose_net
from gaussianocc_core.models.limits import check_limits
from gaussianocc_core.models.pose_net import PoseNet
from gaussianocc_core.models.ray_memory import MemoryHead

FORMAT = "gaussianocc-model/2"
SIZE_STEP = 16  # px: the encoder halves its images four times
_DEFAULT_NAME = "tiny.safetensors"
_WEIGHTS = Path(__file__).parent / "weights"  # that ship with the package
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NEVER_NEGATIVE = ("running_var", "num_batches_tracked")
_MOST_HEADER_BYTES = 1 << 22  # ours have 23 kB
_POSE_PREFIX, _DEPTH_PREFIX, _MEMORY_PREFIX = "pose_net.", "depth_net.", "memory."


@dataclass(frozen=True)
class Provenance:
    """Where weights come from: shown by the node at start and in every picture."""

    training: str  # one line: what supervision, on what data
    commit: str = ""
    seed: int | None = None
    steps: int = 0
    metrics: dict[str, float] = field(default_factory=dict)  # on held-out data


@dataclass(frozen=True)
class LoadedModel:
    model: GaussianOcc
    config: ModelConfig
    provenance: Provenance
    memory: MemoryHead | None = None


@dataclass(frozen=True)
class LoadedPoseNet:
    pose_net: PoseNet
    config: ModelConfig
    provenance: Provenance


@dataclass(frozen=True)
class LoadedDepthNet:
    depth_net: DepthNet
    config: ModelConfig
    provenance: Provenance


def default_checkpoint() -> Path | None:
    """The checkpoint that ships with the package; None in a tree without weights."""
    path = _WEIGHTS / _DEFAULT_NAME
    return path if path.is_file() else None


def find_weights(path: str | Path) -> Path:
    """The model file that is meant: a path, or the bare name of weights that ship with it, such as `tiny_matching`."""
    path = Path(path)
    shipped = _WEIGHTS / f"{path}.safetensors"
    bare = path.name == str(path) and not path.suffix
    return shipped if bare and not path.exists() and shipped.is_file() else path


def save_model(
    path: str | Path,
    model: GaussianOcc | None,
    config: ModelConfig,
    provenance: Provenance,
    half: bool = False,
    pose_net: PoseNet | None = None,
    depth_net: DepthNet | None = None,
    memory: MemoryHead | None = None,
) -> None:
    """Write a model file atomically; `half` stores floating point weights in 16 bits.

    Any network may be left out: a first training stage leaves depth and ego motion, most files the occupancy alone.
    """
    path = Path(path)
    networks = (("", model), (_POSE_PREFIX, pose_net), (_DEPTH_PREFIX, depth_net), (_MEMORY_PREFIX, memory))
    state = {
        f"{prefix}{name}": value
        for prefix, network in networks
        if network is not None
        for name, value in network.state_dict().items()
    }
    if not state:
        raise ValueError("model, pose_net, depth_net: expected at least one network to save")
    tensors = {
        name: value.detach().cpu().contiguous().to(torch.float16 if half and value.is_floating_point() else value.dtype)
        for name, value in state.items()
    }
    _write(path, tensors, config, provenance)


def copy_with_image_size(source: str | Path, output: Path, width: int, height: int) -> str:
    """The model file again, for input images of another size, px, multiples of 16; the provenance says so. Returns a
    line on it. CheckpointError where the size is impossible, or the file is no model's."""
    source = find_weights(source)
    kinds = networks_in(source)
    content = _read(source, "")
    before = content.config
    config = with_image_size(before, width, height, source)
    changed = f"images of {width}x{height}, trained with {before.image_width}x{before.image_height}"
    # Without what was measured: that was of the former size.
    provenance = replace(content.provenance, training=f"{content.provenance.training}; {changed}", metrics={})
    _write(output, _all_tensors(source), config, provenance)
    return f"{output}: {config.name} ({', '.join(kinds)}) with {changed}"


def with_image_size(config: ModelConfig, width: int, height: int, source: str | Path) -> ModelConfig:
    """For input images of another size, px: the networks are convolutional. CheckpointError names the source where the
    size is impossible."""
    if width % SIZE_STEP or height % SIZE_STEP or not (width and height):
        raise CheckpointError(
            f"{source}: images of {width}x{height} pixels are impossible; both must be multiples of {SIZE_STEP}"
        )
    resized = replace(config, image_width=width, image_height=height)
    try:
        check_limits(resized)
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from None
    return resized


def parse_image_size(text: str, option: str) -> tuple[int, int]:
    """Width and height from "240x128"; CheckpointError names the option."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise CheckpointError(f"{option}: expected WIDTHxHEIGHT in pixels, such as 240x128, got {text[:40]}")
    return int(width), int(height)


def copy_with_memory(source: str | Path, output: Path, memory: MemoryHead, fitted_to: str) -> None:
    """The model file again, with this head of a memory of rays in place of its own; the provenance says what it was
    fitted to. CheckpointError where the file is no model's."""
    source = find_weights(source)
    content = _read(source, "")
    tensors = {name: value for name, value in _all_tensors(source).items() if _prefix_of(name) != _MEMORY_PREFIX}
    tensors |= {f"{_MEMORY_PREFIX}{name}": value.contiguous() for name, value in memory.state_dict().items()}
    before = content.provenance.training.partition("; memory fitted to")[0]
    provenance = replace(content.provenance, training=f"{before}; memory fitted to {fitted_to}")
    _write(output, tensors, content.config, provenance)


def _all_tensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict


def _write(path: Path, tensors: dict[str, Tensor], config: ModelConfig, provenance: Provenance) -> None:
    metadata = {
        "format": FORMAT,
        "config": json.dumps(to_dict(config)),
        "class_names": json.dumps(list(config.class_names)),
        "provenance": json.dumps(to_dict(provenance)),
    }
    with complete_file(path) as partial:
        save_file(tensors, partial, metadata=metadata)
        partial.chmod(0o666 & ~_umask())  # safetensors makes it readable by its owner alone


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def load_model(path: str | Path, device: torch.device | str = "cpu") -> LoadedModel:
    """The network in eval mode with the file's weights; CheckpointError says what does not fit and where."""
    path = find_weights(path)
    content = _read(path, "")
    if not content.tensors:
        raise CheckpointError(
            f"{path}: holds no occupancy network, only those of the first training stage; give a second stage's file"
        )
    model = _build(path, lambda: build_model(content.config))
    _load_strict(path, model, content.tensors)
    memory, weights = None, _read(path, _MEMORY_PREFIX).tensors
    if weights:
        memory = MemoryHead()
        _load_strict(path, memory, weights)
        memory.eval()
    return LoadedModel(model.to(device).eval(), content.config, content.provenance, memory)


def load_pose_net(path: str | Path, device: torch.device | str = "cpu") -> LoadedPoseNet:
    """The ego-motion network of a model file, in eval mode; CheckpointError if the file has none."""
    path = find_weights(path)
    content = _read(path, _POSE_PREFIX)
    if not content.tensors:
        raise CheckpointError(f"{path}: holds no ego-motion network; give a file that was saved with one")
    pose_net = _build(path, lambda: build_pose_net(content.config))
    _load_strict(path, pose_net, content.tensors)
    return LoadedPoseNet(pose_net.to(device).eval(), content.config, content.provenance)


def load_depth_net(path: str | Path, device: torch.device | str = "cpu") -> LoadedDepthNet:
    """The first stage's depth network of a model file, in eval mode; CheckpointError if the file has none."""
    path = find_weights(path)
    content = _read(path, _DEPTH_PREFIX)
    if not content.tensors:
        raise CheckpointError(f"{path}: holds no depth network; give the file that a first stage (gsp) left")
    depth_net = _build(path, lambda: build_depth_net(content.config))
    _load_strict(path, depth_net, content.tensors)
    return LoadedDepthNet(depth_net.to(device).eval(), content.config, content.provenance)


def networks_in(path: str | Path) -> tuple[str, ...]:
    """Which of "occupancy", "pose", "depth" a model file holds."""
    kinds = {"occupancy": "", "pose": _POSE_PREFIX, "depth": _DEPTH_PREFIX}
    return tuple(kind for kind, prefix in kinds.items() if _read(find_weights(path), prefix).tensors)


@dataclass(frozen=True)
class _Content:
    config: ModelConfig
    provenance: Provenance
    tensors: dict[str, Tensor]  # of one of the networks, by its own names


def _read(path: Path, prefix: str) -> _Content:
    """The tensors of the network with this prefix; "" is the occupancy network, whose names have none."""
    if not path.is_file():
        shipped = ", ".join(sorted(each.stem for each in _WEIGHTS.glob("*.safetensors")))
        raise CheckpointError(
            f"{path}: no such checkpoint; give the path of a .safetensors model file, or the name of shipped weights "
            f"({shipped or 'there are none'})"
        )
    try:
        _check_header(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = [name for name in file.keys() if _prefix_of(name) == prefix]  # noqa: SIM118  not a dict
            tensors = {name: file.get_tensor(name) for name in names}
    except Exception as error:  # of safetensors, the file system, and torch of types that it does not know
        raise CheckpointError(
            f"{path}: not a readable .safetensors file ({reason_of(error)}); was the download complete?"
        ) from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: holds weights but not in the format {FORMAT!r} (found {metadata.get('format')!r}); "
            "released .pth weights: tools/import_reference_checkpoint.py converts them"
        )
    config = _read_metadata(path, metadata, "config", ModelConfig)
    provenance = _read_metadata(path, metadata, "provenance", Provenance)
    return _Content(config, provenance, {name.removeprefix(prefix): value for name, value in tensors.items()})


def _check_header(path: Path) -> None:
    """ValueError where what stands before the tensors, and becomes objects, is larger than any model's; the library
    itself takes 100 MB."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > _MOST_HEADER_BYTES:
        raise ValueError(f"its header says that it has {size} bytes, at most {_MOST_HEADER_BYTES} are read")


def _prefix_of(name: str) -> str:
    return next((prefix for prefix in (_POSE_PREFIX, _DEPTH_PREFIX, _MEMORY_PREFIX) if name.startswith(prefix)), "")


T = TypeVar("T", bound=nn.Module)


def _build(path: Path, construct: Callable[[], T]) -> T:
    try:
        return construct()
    except Exception as error:  # torch raises half a dozen kinds for layers that cannot be
        reason = error if isinstance(error, ValueError) else reason_of(error)
        raise CheckpointError(f"{path}: its configuration is impossible: {reason}") from error


def _read_metadata(path: Path, metadata: dict[str, str], key: str, cls: type[Any]) -> Any:
    try:
        return from_dict(cls, json.loads(metadata[key]), f"{path}: {key}")
    except Exception as error:
        reason = error if isinstance(error, ConfigError) else reason_of(error)
        raise CheckpointError(f"{path}: the {key} in its metadata cannot be used ({reason})") from error


def _load_strict(path: Path, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    expected = model.state_dict()
    missing = sorted(set(expected) - set(tensors))
    unknown = sorted(set(tensors) - set(expected))
    misfits = sorted(
        f"{name} is {tuple(tensors[name].shape)}, its config needs {tuple(value.shape)}"
        for name, value in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    )
    if missing or unknown or misfits:
        parts = [f"{len(missing)} weights missing (first: {missing[0]})"] if missing else []
        parts += [f"{len(unknown)} unknown (first: {unknown[0]})"] if unknown else []
        parts += [f"{len(misfits)} of another shape ({misfits[0]})"] if misfits else []
        raise CheckpointError(f"{path}: weights do not fit the file's own config: {'; '.join(parts)}")
    kinds = sorted(
        f"{name} is {value.dtype}, expected {'floats' if expected[name].is_floating_point() else expected[name].dtype}"
        for name, value in tensors.items()
        if not (value.dtype in _FLOATS if expected[name].is_floating_point() else value.dtype == expected[name].dtype)
    )
    if kinds:
        raise CheckpointError(
            f"{path}: {len(kinds)} weights of a type that they cannot have ({kinds[0]}); "
            "the file is damaged, or of another program"
        )
    state = {name: value.to(expected[name].dtype) for name, value in tensors.items()}  # a float64 may overflow here
    bad = [name for name, value in state.items() if not is_finite(value)]
    if bad:
        raise CheckpointError(f"{path}: {len(bad)} weights are not finite (first: {bad[0]}); the training run diverged")
    negative = [name for name, value in state.items() if name.endswith(_NEVER_NEGATIVE) and (value < 0).any()]
    if negative:
        raise CheckpointError(
            f"{path}: {len(negative)} variances are negative (first: {negative[0]}); "
            "the file is damaged: take another copy"
        )
    model.load_state_dict(state)
