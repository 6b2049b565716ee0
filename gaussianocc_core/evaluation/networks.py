# SPDX-License-Identifier: Apache-2.0
"""What the networks of a checkpoint say about one moment of a rig."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gaussianocc_core.checkpoint import Provenance, load_depth_net, load_pose_net, networks_in
from gaussianocc_core.data.entries import in_label_frame
from gaussianocc_core.finite import check_finite
from gaussianocc_core.geometry.warp import resize_depth
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.models.depth_net import predict_depth
from gaussianocc_core.predictor import OccupancyPredictor, resolve_device
from gaussianocc_core.rendering.background import compose_depth, find_background
from gaussianocc_core.training.ego import motion_to
from gaussianocc_core.training.loader import Batch
from gaussianocc_core.training.motion_search import Guess, MotionSearch, as_long_as_depth_says
from gaussianocc_core.training.view import batch_element
from gaussianocc_core.types import Sample

FAR = 80.0  # m, of what a ray finds that meets nothing: the end of the true depths that count


@dataclass(frozen=True)
class Estimates:
    """Depth images are those of the batch's cameras."""

    depths: Mapping[str, Float[Tensor, "N h w"]] = field(default_factory=dict)  # z-depth, m, by the way it was found
    occupancy: UInt8[np.ndarray, "X Y Z"] | None = None  # class ids, 255 unobserved
    T_target_now: Float[np.ndarray, "S 4 4"] | None = None  # ego motion to each of the sample's neighbours, m
    network_lengths: Float[np.ndarray, " S"] | None = None  # of it, m, before its search; None: not searched


@runtime_checkable
class Networks(Protocol):
    """Anything that estimates: a checkpoint, or a test's oracle."""

    kinds: tuple[str, ...]  # which of "occupancy", "depth", "pose" its estimates hold
    config: ModelConfig

    def __call__(self, sample: Sample, batch: Batch) -> Estimates: ...


class CheckpointNetworks:
    """All networks of a model file: occupancy (rendered depth, labels), first stage (depth), ego motion."""

    def __init__(self, path: str | Path, device: str = "auto") -> None:
        self.path = Path(path)
        self.device = resolve_device(device)
        self.kinds = networks_in(path)
        self.predictor, self.depth_net, self.pose_net = None, None, None
        loaded: list[tuple[ModelConfig, Provenance | None]] = []
        if "pose" in self.kinds:
            pose = load_pose_net(path, self.device)
            self.pose_net = pose.pose_net
            loaded.append((pose.config, pose.provenance))
        if "depth" in self.kinds:
            depth = load_depth_net(path, self.device)
            self.depth_net = depth.depth_net
            loaded.append((depth.config, depth.provenance))
        if "occupancy" in self.kinds or not loaded:  # an empty file is the loader's to refuse
            self.predictor = OccupancyPredictor.from_checkpoint(path, device)
            loaded.append((self.predictor.config, self.predictor.provenance))
        self.config, self.provenance = loaded[-1]

    @torch.inference_mode()
    def __call__(self, sample: Sample, batch: Batch) -> Estimates:
        batch = batch.to(self.device)
        images = batch.colours()  # (1, T, N, 3, h, w)
        depths: dict[str, Tensor] = {}
        occupancy = motions = said = None
        if self.predictor is not None:
            depths, occupancy = _see_occupancy(self.predictor, sample, batch)
        if self.depth_net is not None:
            depths["depth_network"] = predict_depth(self.depth_net, images[:, 0], batch.cameras).depth[0]
        if self.pose_net is not None:
            steps = [neighbour.step for neighbour in sample.neighbours]
            motions = np.empty((0, 4, 4))
            if steps:
                T_target_now = torch.stack(
                    [motion_to(self.pose_net, images[:, 0], images[:, 1 + k], step)[0] for k, step in enumerate(steps)]
                )
                if "depth_network" in depths:
                    said = T_target_now[:, :3, 3].norm(dim=-1).double().cpu().numpy()
                    T_target_now = as_long_as_depth_says(
                        images[0, : 1 + len(steps)], Guess(depths["depth_network"], batch.valid[0]),
                        batch_element(batch.cameras, 0), T_target_now, MotionSearch(),
                    )  # fmt: skip
                check_finite("ego motion", T_target_now)
                motions = T_target_now.double().cpu().numpy()
        for name, depth in depths.items():
            check_finite(f"depth by {name}", depth)
        return Estimates({name: depth.float().cpu() for name, depth in depths.items()}, occupancy, motions, said)


def _see_occupancy(
    predictor: OccupancyPredictor, sample: Sample, batch: Batch
) -> tuple[dict[str, Tensor], UInt8[np.ndarray, "X Y Z"]]:
    """As the node would: cameras where they were at their own image times, in the ego frame of the labels."""
    cameras = in_label_frame(sample)
    predicted = predictor.predict_field(sample.images, cameras)
    labels = predictor.decide(predicted, cameras).labels
    pinhole = replace(
        batch.cameras,
        intrinsics=batch.cameras.intrinsics[0],
        T_ego_cam=cameras.T_ego_cam.to(predictor.device, torch.float32),
    )
    model = predictor.model
    views = model.render(predicted, pinhole, normalize_depth=False)[0]
    head_depth = None if predicted.inv_depth is None else 1.0 / predicted.inv_depth[0]
    _, background = find_background(views, pinhole, model.lattice, head_depth, FAR)
    depths = {"rendered": compose_depth(views, background)}
    if predicted.inv_depth is not None:
        depths["depth_head"] = 1.0 / resize_depth(predicted.inv_depth[0], *views.depth.shape[-2:])
    return depths, labels
