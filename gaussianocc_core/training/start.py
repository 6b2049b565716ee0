# SPDX-License-Identifier: Apache-2.0
"""What a run begins with: networks of model files that are there already, and what of them fits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from torch import Tensor

from gaussianocc_core.checkpoint import load_depth_net, load_model, networks_in
from gaussianocc_core.errors import ConfigError
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.models.depth_net import DepthNet
from gaussianocc_core.models.gaussianocc import GaussianOcc
from gaussianocc_core.training.config import TrainConfig

_log = logging.getLogger(__name__)
_SAME_CELLS = 0.01  # share by which the distance of lattice points may differ unsaid


# ---- image encoder and depth head ------------------------------------------------------------------------------------


def eyes_file(config: TrainConfig) -> str:
    """Of a second stage: the file whose image encoder and depth head it begins with; "": none, they are fresh."""
    if not config.gsv.start_from_first_stage:
        return ""
    files = (config.first_stage, config.gsv.decoder_from)
    return next((path for path in files if path and {"depth", "occupancy"} & set(networks_in(path))), "")


def start_eyes(model: GaussianOcc, ours: ModelConfig, path: str) -> None:
    """Gives the occupancy network the image encoder and depth head of a file; ConfigError if they are of another
    architecture."""
    net, theirs = _load_eyes(path)
    check_same_architecture(theirs, ours, path, size=True)  # what stays frozen cannot get used to another
    model.image_encoder.load_state_dict(net.image_encoder.state_dict())
    if model.depth_head is None:
        return
    head = net.head if isinstance(net, DepthNet) else net.depth_head
    if head is None:
        raise ConfigError(
            f"first_stage: {path} has no depth head (model.decoder.surface=false), this run has one; set it to false "
            "as well, or gsv.start_from_first_stage=false"
        )
    model.depth_head = head


def _load_eyes(path: str) -> tuple[DepthNet | GaussianOcc, ModelConfig]:
    """What sees images, of the first stage where a file holds both."""
    if "depth" in networks_in(path):
        first = load_depth_net(path)
        return first.depth_net, first.config
    second = load_model(path)
    return second.model, second.config


def check_same_architecture(
    theirs: ModelConfig, ours: ModelConfig, path: str, motion: bool = False, size: bool = False
) -> None:
    """ConfigError unless the image encoder, and with `motion` the ego-motion network, are of one kind.

    Both are convolutions: weights of one image size are a start at any other. size: it must be the same too.
    """
    sizes = ("image_height", "image_width") if size else ()
    for part in ("encoder", "matching", *sizes, *(("pose",) if motion else ())):
        if getattr(theirs, part) != getattr(ours, part):
            raise ConfigError(
                f"first_stage: {path} was trained with model.{part}={getattr(theirs, part)}, this run has "
                f"{getattr(ours, part)}; make them equal or, in stage 2, set gsv.start_from_first_stage=false"
            )


def inherit_first_stage(config: TrainConfig) -> TrainConfig:
    """The configuration with what belongs to the weights that the run starts from: the depth range that they ended with
    (they learnt the scale of it) and, unless the configuration has its own, how they match."""
    if config.stage == "gsv":
        path = eyes_file(config)
    else:
        path = config.first_stage if config.first_stage and "depth" in networks_in(config.first_stage) else ""
    if not path:
        return config
    _, theirs = _load_eyes(path)
    # Whether the ground is where the base frame says is a matter of the robot, not of the weights.
    depth = replace(theirs.depth, metric_ground=config.model.depth.metric_ground)
    matching = config.model.matching if config.model.matching.enabled else theirs.matching
    return replace(config, model=replace(config.model, depth=depth, matching=matching))


# ---- decoder ---------------------------------------------------------------------------------------------------------


def start_decoder(model: GaussianOcc, config: TrainConfig) -> None:
    """Gives the occupancy network the decoder of the file that the configuration names; the log says what of it.

    The decoder is all that the second stage learns: the projection of the image features, the network over the voxels,
    the head for details. Classes that both know, free space and details are taken over; other classes start fresh.
    A decoder of another architecture is a ConfigError where it was asked for (`gsv.decoder_from`). Where the first
    stage just holds one, a line says what differs, and the decoder is fresh.
    """
    asked, path = bool(config.gsv.decoder_from), config.gsv.decoder_from or config.first_stage
    if not path or "occupancy" not in networks_in(path):
        if asked:
            raise ConfigError(f"gsv.decoder_from: {path} holds no occupancy network; give a second stage's file")
        return
    if not (asked or config.gsv.start_from_first_stage):
        return
    loaded = load_model(path)
    differs = _differences(loaded.config, config.model)
    if differs and asked:
        raise ConfigError(f"gsv.decoder_from: the decoder of {path} does not fit: {differs}; make them equal")
    if differs:
        _log.info("the decoder starts with fresh weights; that of %s does not fit: %s", path, differs)
        return
    _take_over(model, loaded.model, config.model.class_names, loaded.config.class_names)
    _log.info("the decoder begins with the weights of %s%s", path, _say_classes(config.model, loaded.config))
    theirs, ours = (_cell(each) for each in (loaded.config, config.model))
    if any(abs(a / b - 1.0) > _SAME_CELLS for a, b in zip(theirs, ours, strict=True)):
        said = (" x ".join(f"{side:.2g}" for side in each) for each in (theirs, ours))
        _log.warning("its lattice points are %s m apart, here %s m: shapes are not what it learnt; train longer", *said)


def _differences(theirs: ModelConfig, ours: ModelConfig) -> str:
    """What of the architecture differs, for the user; "": nothing."""
    pairs: dict[str, tuple[Any, Any]] = {}
    for part in ("encoder", "decoder"):
        a, b = getattr(theirs, part), getattr(ours, part)
        pairs.update({f"{part}.{each.name}": (getattr(a, each.name), getattr(b, each.name)) for each in fields(a)})
    pairs["matching.enabled"] = theirs.matching.enabled, ours.matching.enabled
    pairs["lattice.shape"] = theirs.lattice.shape, ours.lattice.shape
    pairs["quirks.skipping_hourglasses"] = theirs.quirks.skipping_hourglasses, ours.quirks.skipping_hourglasses
    return "; ".join(f"model.{name} is {a}, this run has {b}" for name, (a, b) in pairs.items() if a != b)


def _cell(config: ModelConfig) -> tuple[float, ...]:
    """Distances of neighbouring lattice points along X, Y, Z, m; of a contracted lattice the mean."""
    lattice = config.lattice
    return tuple((high - low) / n for low, high, n in zip(lattice.low, lattice.high, lattice.shape, strict=True))


def _take_over(model: GaussianOcc, other: GaussianOcc, ours: Sequence[str], theirs: Sequence[str]) -> None:
    """The other network's decoder; class_names: of both."""
    model.image_encoder.project.load_state_dict(other.image_encoder.project.state_dict())
    if model.detail_head is not None and other.detail_head is not None:
        model.detail_head.load_state_dict(other.detail_head.state_dict())
    if model.gaussian_head.scale_factor is not None and other.gaussian_head.scale_factor is not None:
        model.gaussian_head.load_state_dict(other.gaussian_head.state_dict())
    outputs = model.voxel_decoder.outputs()
    fresh = model.voxel_decoder.state_dict()
    state = {
        name: _take_classes(fresh[name], value, outputs[name], ours, theirs) if name in outputs else value
        for name, value in other.voxel_decoder.state_dict().items()
    }
    model.voxel_decoder.load_state_dict(state)


def _take_classes(fresh: Tensor, value: Tensor, each: int, ours: Sequence[str], theirs: Sequence[str]) -> Tensor:
    """Our weights with those of theirs that speak of a class that we have too, and what follows the classes.

    each: entries of a class along the first dimension. Free space is the last class, whatever its name.
    """
    taken, source = fresh.unflatten(0, (-1, each)).clone(), value.unflatten(0, (-1, each))
    for k, name in enumerate(ours[:-1]):
        if name in theirs[:-1]:
            taken[k] = source[theirs.index(name)]
    taken[len(ours) - 1 :] = source[len(theirs) - 1 :]
    return taken.flatten(0, 1)


def _say_classes(ours: ModelConfig, theirs: ModelConfig) -> str:
    fresh = [name for name in ours.class_names[:-1] if name not in theirs.class_names[:-1]]
    if not fresh:
        return ""
    return f": where something is; what it is starts fresh ({', '.join(fresh)})"
