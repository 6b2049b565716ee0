# SPDX-License-Identifier: Apache-2.0
"""Read a released weights folder into our networks: strict but for the entries known to be dead (docs/method.md#l)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gaussianocc_core.checkpoint import Provenance, save_model
from gaussianocc_core.errors import CheckpointError
from gaussianocc_core.mistakes import reason_of
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.models.gaussianocc import GaussianOcc, build_model, build_pose_net
from gaussianocc_core.models.pose_net import PoseNet
from gaussianocc_core.reference.names import NETWORKS, OCCUPANCY, POSE, Source, is_dead, our_name, their_name
from gaussianocc_core.torch_files import load_plain

_PARALLEL_PREFIX = "module."  # of a model that was saved from inside torch's data-parallel wrappers


@dataclass(frozen=True)
class Release:
    """Our networks with released weights, in eval mode, and which released entries were not needed."""

    model: GaussianOcc | None  # None for a first-stage folder
    pose_net: PoseNet | None  # None where the folder has no pose networks
    used: tuple[Source, ...]
    ignored: tuple[Source, ...]


def read_release(folder: str | Path, config: ModelConfig) -> Release:
    """The networks of a folder of .pth files: encoder and depth, pose_encoder and pose, or both pairs.

    CheckpointError, one line, where a file cannot be read or a tensor is missing, unknown or of another shape.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give the one that holds encoder.pth, depth.pth, ...")
    present = [name for name in NETWORKS if (folder / f"{name}.pth").is_file()]
    for ours in (OCCUPANCY, POSE):
        pair = [name for name, network in NETWORKS.items() if network == ours]
        absent = [name for name in pair if name not in present]
        if len(absent) == 1:
            found = next(name for name in pair if name in present)
            raise CheckpointError(f"{folder}: has {found}.pth but not {absent[0]}.pth; copy both from the release")
    if not present:
        files = ", ".join(f"{name}.pth" for name in NETWORKS)
        raise CheckpointError(f"{folder}: holds none of {files}; give the folder with the released files")
    states = {name: _read_state_dict(folder / f"{name}.pth") for name in present}
    model = build_model(config) if "encoder" in present else None
    pose_net = build_pose_net(config) if "pose" in present else None
    networks = {name: module for name, module in ((OCCUPANCY, model), (POSE, pose_net)) if module is not None}
    used, ignored = fill_networks(networks, states, str(folder))
    return Release(model, pose_net, used, ignored)


def fill_networks(
    networks: Mapping[str, nn.Module], states: Mapping[str, Mapping[str, Any]], origin: str
) -> tuple[tuple[Source, ...], tuple[Source, ...]]:
    """Load released state dicts, by their networks' names, into ours; returns the entries used and ignored.

    The networks are put in eval mode. `origin` begins the error messages.
    """
    used, ignored = [], []
    tensors: dict[str, dict[str, Tensor]] = {ours: {} for ours in networks}
    for network, state in states.items():
        for name, value in state.items():
            source = Source(network, name)
            target = our_name(source)
            if target is not None and isinstance(value, Tensor):
                tensors[NETWORKS[network]][target] = value
                used.append(source)
            elif is_dead(source):
                ignored.append(source)
            else:
                raise CheckpointError(
                    f"{origin}: {network}.pth has {name}, which the published network has not; is this its release?"
                )
    for ours, module in networks.items():
        _fill(module.eval(), tensors[ours], ours, origin)
    return tuple(used), tuple(ignored)


def import_release(folder: str | Path, output: str | Path, config: ModelConfig) -> Release:
    """Write a released folder as one of our model files; returns what was read."""
    release = read_release(folder, config)
    networks = " and ".join(
        name
        for name, network in (("occupancy", release.model), ("ego motion", release.pose_net))
        if network is not None
    )
    training = f"released GaussianOcc weights ({networks}), imported from {Path(folder).resolve().name}"
    save_model(output, release.model, config, Provenance(training), pose_net=release.pose_net)
    return release


def _read_state_dict(path: Path) -> dict[str, Any]:
    try:
        state = load_plain(path)
    except Exception as error:  # torch, zipfile and pickle raise a dozen kinds for a damaged file
        raise CheckpointError(
            f"{path}: cannot be read as plain weights ({reason_of(error)}); was the download complete?"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise CheckpointError(f"{path}: expected a state dict, got a {type(state).__name__}; is this a released file?")
    return {name.removeprefix(_PARALLEL_PREFIX): value for name, value in state.items()}


def _fill(module: nn.Module, tensors: dict[str, Tensor], ours: str, origin: str) -> None:
    expected = module.state_dict()
    missing = sorted(set(expected) - set(tensors))
    if missing:
        source = their_name(missing[0], ours)
        raise CheckpointError(
            f"{origin}: {source.network}.pth lacks {len(missing)} weights (first: {source.name}); "
            "another architecture needs a matching --config"
        )
    unknown = sorted(set(tensors) - set(expected))
    if unknown:
        source = their_name(unknown[0], ours)
        raise CheckpointError(
            f"{origin}: {source.network}.pth has {len(unknown)} weights too many (first: {source.name}); "
            "another architecture needs a matching --config"
        )
    for name, value in expected.items():
        if tensors[name].shape != value.shape:
            source = their_name(name, ours)
            raise CheckpointError(
                f"{origin}: {source.network}.pth has {source.name} as {tuple(tensors[name].shape)}, the configuration "
                f"needs {tuple(value.shape)}; another architecture needs a matching --config"
            )
        if not torch.isfinite(tensors[name].sum(dtype=torch.float64)):  # one pass, no mask in memory
            source = their_name(name, ours)
            raise CheckpointError(
                f"{origin}: {source.network}.pth has values in {source.name} that are not finite; download it again"
            )
    module.load_state_dict({name: tensors[name].to(value.dtype) for name, value in expected.items()})
