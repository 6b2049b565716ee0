# SPDX-License-Identifier: Apache-2.0
"""What the networks of a checkpoint say about one moment of a rig."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from gaussianocc_core.checkpoint import Provenance, load_depth_net, load_pose_net, networks_in
from gaussianocc_core.errors import DatasetError
from gaussianocc_core.finite import check_finite
from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry import transforms
from gaussianocc_core.geometry.warp import resize_depth
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.models.depth_net import DepthPrediction, depth_prediction, predict_depth
from gaussianocc_core.models.ego_motion import VisualOdometry
from gaussianocc_core.predictor import OccupancyPredictor, Prediction, resolve_device
from gaussianocc_core.rendering.background import compose_depth, find_background
from gaussianocc_core.training.ego import motion_to, place_cameras
from gaussianocc_core.training.loader import Batch
from gaussianocc_core.training.matched import look_around
from gaussianocc_core.training.motion_search import Guess, MotionSearch, as_long_as_depth_says
from gaussianocc_core.training.view import batch_element
from gaussianocc_core.types import Sample

MOTIONS = ("recorded", "images", "none")
FAR = 80.0  # m, of what a ray finds that meets nothing: the end of the true depths that count


@dataclass(frozen=True)
class Estimates:
    """Depth images are those of the batch's cameras."""

    depths: Mapping[str, Float[Tensor, "N h w"]] = field(default_factory=dict)  # z-depth, m, by the way it was found
    occupancy: UInt8[np.ndarray, "X Y Z"] | None = None  # class ids, 254 occluded, 255 unobserved
    T_target_now: Float[np.ndarray, "S 4 4"] | None = None  # ego motion to each of the sample's neighbours, m
    network_lengths: Float[np.ndarray, " S"] | None = None  # of it, m, before its search; None: not searched
    # Log of the error of log depth that the network expects of itself, of the ways that say so; higher: less sure.
    log_errors: Mapping[str, Float[Tensor, "N h w"]] = field(default_factory=dict)
    opacity: Float[np.ndarray, "X Y Z"] | None = None  # probability that each voxel is occupied


@runtime_checkable
class Networks(Protocol):
    """Anything that estimates: a checkpoint, or a test's oracle."""

    kinds: tuple[str, ...]  # which of "occupancy", "depth", "pose" its estimates hold
    config: ModelConfig

    def __call__(self, sample: Sample, batch: Batch) -> Estimates: ...


@runtime_checkable
class Driven(Protocol):
    """Networks that may remember what they saw: they are shown the sets between the measured moments."""

    @property
    def remembers(self) -> bool: ...

    def approach(self, sets: Sequence[Sample]) -> None:
        """Those that a robot saw since the last moment, in time order; of another recording: none of those before."""
        ...


class CheckpointNetworks:
    """All networks of a model file: occupancy (rendered depth, labels), first stage (depth), ego motion."""

    def __init__(
        self,
        path: str | Path,
        device: str = "auto",
        caution: float | None = None,
        motion: str = "recorded",
        memory: bool = True,
    ) -> None:
        """caution: see `OccupancyPredictor`, None: as the file says; memory: see there. motion: what places the sets of
        an occupancy network that matches: "recorded", by the poses of the recording; "images", found in the images;
        "none". The last two take cameras as calibrated, without what the rig moves between their images."""
        if motion not in MOTIONS:
            raise DatasetError(f"motion: expected one of {', '.join(MOTIONS)}, got {motion!r}")
        self.motion = motion
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
            self.predictor = OccupancyPredictor.from_checkpoint(path, device, caution, memory)
            loaded.append((self.predictor.config, self.predictor.provenance))
            if motion == "images" and not self.predictor.sees_depth:
                raise DatasetError(f"{path}: motion is found in images by a model with a depth head, and this has none")
        self.config, self.provenance = loaded[-1]
        self._odometry: VisualOdometry | None = None
        self._driving = ""  # the recording of the newest set that was shown
        self._drives = False  # whether the sets between the moments are shown

    @property
    def remembers(self) -> bool:
        return self.predictor is not None and self.predictor.remembers and self.motion != "none"

    def approach(self, sets: Sequence[Sample]) -> None:
        self._drives = True
        for sample in sets:
            self._see(sample, sample.T_world_ego)

    def _see(self, sample: Sample, T_world_now: Float[np.ndarray, "4 4"] | None) -> Prediction:
        """A set, as the node would see it; T_world_now: where its cameras are to be placed, by the recording, m."""
        assert self.predictor is not None
        if sample.scene != self._driving:
            self.predictor.reset()
            self._odometry = VisualOdometry() if self.motion == "images" else None
        self._driving = sample.scene
        self.predictor.use_masks(
            dict(zip(sample.cameras.names, sample.static_masks or (), strict=bool(sample.static_masks)))
        )
        cameras = sample.cameras
        if self.motion == "recorded" and T_world_now is not None and sample.T_world_ego_per_camera is not None:
            there = torch.from_numpy(sample.T_world_ego_per_camera)
            cameras = camera_geometry.relocate(cameras, there, torch.from_numpy(T_world_now))
        known = T_world_now if self.motion == "recorded" else None
        return self.predictor(sample.images, cameras, known, 1e-9 * sample.stamp_ns, self._odometry)

    @torch.inference_mode()
    def __call__(self, sample: Sample, batch: Batch) -> Estimates:
        batch = batch.to(self.device)
        images = batch.colors()  # (1, T, N, 3, h, w)
        found: dict[str, DepthPrediction] = {}
        depths: dict[str, Tensor] = {}
        occupancy = opacity = motions = said = None
        if self.predictor is not None:
            if self.motion == "recorded" and not self._drives:  # moments apart: each with a past of its own
                self._driving = ""
                for earlier in _past_of(sample) if self.predictor.matches else ():
                    self._see(earlier, earlier.T_world_ego)
            labels = sample.occupancy
            T_world_now = sample.T_world_ego
            if labels is not None and labels.T_world_ego is not None:
                T_world_now = labels.T_world_ego
            depths, occupancy, opacity = _look_at(self.predictor, self._see(sample, T_world_now))
        if self.depth_net is not None:
            found["depth_network"] = predict_depth(self.depth_net, images[:, 0], batch.cameras)
        offsets = [neighbour.offset for neighbour in sample.neighbours]
        if self.pose_net is not None:
            motions = np.empty((0, 4, 4))
            if offsets:
                T_target_now = torch.stack(
                    [
                        motion_to(self.pose_net, images[:, 0], images[:, 1 + k], offset)[0]
                        for k, offset in enumerate(offsets)
                    ]
                )
                if "depth_network" in found:
                    said = T_target_now[:, :3, 3].norm(dim=-1).double().cpu().numpy()
                    T_target_now = as_long_as_depth_says(
                        images[0, : 1 + len(offsets)],
                        Guess(self._guess(images, batch, found["depth_network"]), batch.valid[0]),
                        batch_element(batch.cameras, 0),
                        T_target_now,
                        MotionSearch(),
                    )
                check_finite("ego motion", T_target_now)
                motions = T_target_now.double().cpu().numpy()
        if self.depth_net is not None and self.depth_net.matches:
            found = {**self._matched(images, batch, offsets, motions), "one_image": found["depth_network"]}
        depths |= {way: prediction.depth[0] for way, prediction in found.items()}
        for way, depth in depths.items():
            check_finite(f"depth by {way}", depth)
        sure = {way: each.log_error[0].cpu() for way, each in found.items() if each.log_error is not None}
        return Estimates(
            {way: depth.float().cpu() for way, depth in depths.items()},
            occupancy,
            motions,
            said,
            sure,
            opacity,
        )

    def _guess(self, images: Tensor, batch: Batch, alone: DepthPrediction) -> Float[Tensor, "N h w"]:
        """What depth says before there is a motion: of a network that matches, with the other cameras."""
        if self.depth_net is None or not self.depth_net.matches:
            return alone.depth[0]
        return self._look_around(images[:, :1], batch, None).depth[0]

    def _matched(
        self, images: Tensor, batch: Batch, offsets: Sequence[int], learnt: np.ndarray | None
    ) -> dict[str, DepthPrediction]:
        """As a robot would see: with the other cameras and the frame before, never with the frame after. The motion is
        learnt for `depth_network` (of a file without an ego-motion network, recorded), and recorded for the other."""
        found = {"depth_network": self._look_around(images[:, :1], batch, None)}
        if -1 not in offsets:
            return found
        before = offsets.index(-1)
        frames = images[:, [0, 1 + before]]
        recorded = batch.T_target_now[:, before : before + 1]
        known = bool(torch.isfinite(recorded).all())
        if learnt is not None:
            motion = torch.from_numpy(learnt[before : before + 1]).to(recorded)[None]
            found["depth_network"] = self._look_around(frames, batch, motion)
        if known:
            way = "depth_network" if learnt is None else "recorded_motion"
            found[way] = self._look_around(frames, batch, recorded, far=True)
        return found

    def _look_around(
        self, frames: Tensor, batch: Batch, T_before_now: Tensor | None, far: bool = False
    ) -> DepthPrediction:
        """far: with the batch's history, whose motion is recorded."""
        assert self.depth_net is not None
        cameras, (height, width) = batch.cameras, frames.shape[-2:]
        if T_before_now is not None and batch.lags is not None:  # each camera where it was at its own image time
            there = torch.cat([T_before_now[0], transforms.invert(T_before_now[0])])
            placed = place_cameras(batch_element(cameras, 0), batch.lags[0], there)
            cameras = replace(cameras, T_ego_cam=placed.T_ego_cam[None])
        history = None if batch.history is None or not far else batch.history.float() / 255.0
        look, sources = look_around(
            self.depth_net.image_encoder,
            frames,
            cameras,
            T_before_now,
            history=history,
            T_history_now=batch.T_history_now,
        )
        heads = self.depth_net.match(look, sources, cameras.intrinsics[0], cameras.T_ego_cam[0], width, height)
        return depth_prediction(heads, frames.shape[:1] + frames.shape[2:3], width, height)


def _past_of(sample: Sample) -> list[Sample]:
    """The frame before and the history, for a model that matches, as sets of their own in time order."""
    before = [each for each in (*sample.history, *sample.neighbours) if each.offset < 0]
    before.sort(key=lambda each: each.camera_stamps_ns[0])
    return [
        replace(
            sample,
            images=each.images,
            stamp_ns=each.camera_stamps_ns[0],
            camera_stamps_ns=each.camera_stamps_ns,
            T_world_ego=None if each.T_world_ego_per_camera is None else each.T_world_ego_per_camera[0],
            T_world_ego_per_camera=each.T_world_ego_per_camera,
        )
        for each in before
    ]


def _look_at(
    predictor: OccupancyPredictor, prediction: Prediction
) -> tuple[dict[str, Tensor], UInt8[np.ndarray, "X Y Z"], Float[np.ndarray, "X Y Z"]]:
    """Depth images by the way they were found, labels, and how probable it is that each voxel is occupied."""
    field, model, pinhole = prediction.field, predictor.model, prediction.views.to(predictor.device)
    views = model.render(field, pinhole, normalize_depth=False)[0]
    head_depth = None if field.inv_depth is None else 1.0 / field.inv_depth[0]
    _, background = find_background(views, pinhole, model.lattice, head_depth, FAR)
    depths = {"rendered": compose_depth(views, background)}
    if field.inv_depth is not None:
        depths["depth_head"] = 1.0 / resize_depth(field.inv_depth[0], *views.depth.shape[-2:])
    return depths, prediction.labels, prediction.opacity
