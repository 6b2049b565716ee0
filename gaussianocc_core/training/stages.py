# SPDX-License-Identifier: Apache-2.0
"""From a configuration to the module of its stage, and from that to a model file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import nn

from gaussianocc_core.checkpoint import Provenance, load_depth_net, load_pose_net, networks_in, save_model
from gaussianocc_core.errors import ConfigError
from gaussianocc_core.geometry.overlap import OverlapSettings, find_overlaps
from gaussianocc_core.models.gaussianocc import build_depth_net, build_model, build_pose_net
from gaussianocc_core.models.matching_net import MatchingHead
from gaussianocc_core.models.pose_net import PoseNet
from gaussianocc_core.training.config import TrainConfig
from gaussianocc_core.training.gsp import Gsp
from gaussianocc_core.training.gsv import Gsv
from gaussianocc_core.training.phases import fit_to_run
from gaussianocc_core.training.pretrain import Pretrain
from gaussianocc_core.training.stage import Stage
from gaussianocc_core.training.start import check_same_architecture, eyes_file, start_decoder, start_eyes
from gaussianocc_core.types import Cameras

_log = logging.getLogger(__name__)


def build_stage(config: TrainConfig) -> Stage:
    """The module to train, fresh or from what its first stage left. Batch norms get the configured momentum."""
    try:
        stage = {"gsp": _build_gsp, "gsv": _build_gsv, "pretrain": _build_pretrain}[config.stage](config)
    except ValueError as error:
        raise ConfigError(f"model: {error}") from error
    stage.precision = config.precision
    for module in stage.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = config.norm_momentum
    return stage


def _build_gsp(config: TrainConfig) -> Gsp:
    depth_net, pose_net, path = build_depth_net(config.model), build_pose_net(config.model), config.first_stage
    if path:
        motion = "pose" in networks_in(path)
        check_same_architecture(load_depth_net(path).config, config.model, path, motion=motion)
        depth_net.load_state_dict(load_depth_net(path).depth_net.state_dict())
        if motion:
            pose_net.load_state_dict(load_pose_net(path).pose_net.state_dict())
    return Gsp(depth_net, pose_net, fit_to_run(config.gsp, config.steps), knows_depth=bool(path))


def _build_pretrain(config: TrainConfig) -> Pretrain:
    if not config.model.matching.enabled:
        raise ConfigError("model.matching.enabled: pretraining is of depth by matching; set it to true")
    depth_net, path = build_depth_net(config.model), config.first_stage
    if path:
        check_same_architecture(load_depth_net(path).config, config.model, path)
        depth_net.load_state_dict(load_depth_net(path).depth_net.state_dict())
    else:
        assert isinstance(depth_net.head, MatchingHead)
        depth_net.head.doubt_ground()
    return Pretrain(depth_net, config.pretrain)


def _build_gsv(config: TrainConfig) -> Gsv:
    model, grid = build_model(config.model), config.model.grid
    motion, path = config.gsv.ego_motion, config.first_stage
    if motion in ("learned", "auto") and not path:
        raise ConfigError(f"first_stage: gsv.ego_motion={motion} needs the model file of a gsp run, first_stage=FILE")
    eyes = eyes_file(config)
    frozen = bool(eyes) and config.gsv.freeze_first_stage
    if eyes:
        start_eyes(model, config.model, eyes)
    start_decoder(model, config)
    pose_net = None
    if motion == "joint":
        pose_net = build_pose_net(config.model)
    elif motion != "sensor":
        pose_net = _frozen_pose_net(config)
    return Gsv(model, pose_net, config.gsv, grid, frozen, config.model.class_names)


def _frozen_pose_net(config: TrainConfig) -> PoseNet | None:
    """Of the first stage; ConfigError where it has none for images of this run's size. With `auto` motion None then:
    it is needed only for samples without poses."""
    path, fault = config.first_stage, ""
    if "pose" not in networks_in(path):
        fault = f"first_stage: {path} holds no network for ego motion"
    else:
        loaded = load_pose_net(path)
        # Its layers take any size, but how many pixels a turn is it learnt at one.
        for part in ("image_height", "image_width"):
            if not fault and getattr(loaded.config, part) != getattr(config.model, part):
                fault = (
                    f"first_stage: {path} learnt motion from images with {part}={getattr(loaded.config, part)}, this "
                    f"run has {getattr(config.model, part)}"
                )
    if not fault:
        return loaded.pose_net.requires_grad_(False)
    if config.gsv.ego_motion != "auto":
        raise ConfigError(f"{fault}; train a first stage with this run's model")
    _log.info("%s: samples without poses cannot be used", fault)
    return None


def check_overlap(cameras: Cameras, settings: OverlapSettings, log: bool) -> None:
    """ConfigError for a rig that cannot teach scale; log: say which cameras overlap, and warn of those that do not.

    cameras: pinholes of one size.
    """
    overlaps, names = find_overlaps(cameras, settings), cameras.names
    apart = [name for name in names if not any(name in each.names for each in overlaps)]
    if not overlaps:
        raise ConfigError(
            f"scale cannot be learnt: no two of the cameras {', '.join(names)} see the same. Add cameras that do "
            "(tools/inspect_bag.py shows which overlap); or train gsp.cross_weight=0, whose depth is right up to a "
            "factor; or skip stage 1 and take the motion from odometry, stage: gsv with gsv.ego_motion=sensor"
        )
    if not log:
        return
    for each in overlaps:
        _log.info(
            "overlap: %s and %s, %.1f %% of their pixels, %.2f m apart", *each.names, 100 * each.share, each.baseline
        )
    if apart:
        _log.warning("%s: no overlap with another camera; scale comes from the others", ", ".join(apart))


def parameter_groups(stage: Stage, config: TrainConfig) -> list[dict[str, Any]]:
    """Optimiser groups: what sees images at one rate, the rest at another, a learnt scale faster and undecayed."""
    of_images = {id(each) for module in stage.image_modules() for each in module.parameters()}
    of_scale = {id(each) for each in stage.scale_parameters()}
    learning = [each for each in stage.parameters() if each.requires_grad]
    eyes = [each for each in learning if id(each) in of_images]
    scale = [each for each in learning if id(each) in of_scale]
    rest = [each for each in learning if id(each) not in of_images | of_scale]
    groups: list[dict[str, Any]] = [{"params": rest, "lr": config.learning_rate}]
    if eyes:
        groups.append({"params": eyes, "lr": config.encoder_learning_rate})
    if scale:
        groups.append({"params": scale, "lr": 3 * config.learning_rate, "weight_decay": 0.0})
    return groups


def save_stage(stage: Stage, config: TrainConfig, path: Path, provenance: Provenance) -> None:
    """The model file of a stage: depth and ego motion, or occupancy (and ego motion that was learnt along)."""
    left = stage.networks(config.model)
    save_model(path, left.model, left.config, provenance, config.half_weights, left.pose_net, left.depth_net)
