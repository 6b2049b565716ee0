# SPDX-License-Identifier: Apache-2.0
"""From camera images to published occupancy: owns preprocessing, device, evaluation mode and the calibration cache."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from gaussianocc_core.backends.backend import Backend, fastest, open_backend
from gaussianocc_core.backends.device import parse_device
from gaussianocc_core.backends.folder import ExportFolder, is_export, read_folder
from gaussianocc_core.checkpoint import Provenance, load_model
from gaussianocc_core.errors import CheckpointError, ConfigError, PredictionError
from gaussianocc_core.finite import check_finite
from gaussianocc_core.geometry.voxels import near_ground
from gaussianocc_core.labels import free_label
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.models.decision import check_caution, decide_labels
from gaussianocc_core.models.decision_cpu import Decided, Decider
from gaussianocc_core.models.depth_net import DEPTH_STRIDE
from gaussianocc_core.models.ego_motion import Odometry, VisualOdometry
from gaussianocc_core.models.gaussianocc import GaussianOcc, build_model
from gaussianocc_core.models.lifting import LiftPlan
from gaussianocc_core.models.matching import plane_inv_depths
from gaussianocc_core.models.matching_net import VIEW_STRIDES, MatchingHead
from gaussianocc_core.models.ray_memory import MemoryHead, RayMemory
from gaussianocc_core.models.recall import Recall
from gaussianocc_core.models.self_test import self_test
from gaussianocc_core.models.view_ring import ViewRing, Views
from gaussianocc_core.models.visibility import (
    SightLines,
    columns_beyond,
    leave_unknown,
    observed_voxels,
    passed_voxels,
    plan_sight,
)
from gaussianocc_core.preprocess import Lenses, Preprocessor
from gaussianocc_core.types import Cameras, OccupancyField, OccupancyPrediction, RenderedViews

_log = logging.getLogger(__name__)


# On a moving robot, poses relative to the anchor's image time jitter with the speed. A plan is kept while no camera is
# farther than this from where it was planned: far below a voxel and a pixel of the feature map.
_MOVE_TOLERANCE = 0.15  # voxels
_TURN_TOLERANCE_RAD = 0.004
_REMEMBERED = 6  # of each: all cameras and without one that comes and goes, at a few speeds; a plan takes 0.1 s


@dataclass(frozen=True)
class _View:
    """What follows from lenses and poses."""

    lenses: Lenses
    T_ego_cam: Tensor  # as planned
    plan: LiftPlan
    observed: np.ndarray  # (X, Y, Z) bool
    lines: SightLines | None  # to all of these; None: of a model without depth
    looks: Tensor | None  # (N, 1, h2, w2), 0 where a cell at stride 2 shows no world; None: all do
    voxels: LiftPlan | None  # of the centres of the grid's voxels, for a detail head where there is no kernel

    def serves(self, lenses: Lenses, T_ego_cam: Tensor, tolerance_m: float) -> bool:
        if self.lenses is not lenses:
            return False
        moved = (T_ego_cam[:, :3, 3] - self.T_ego_cam[:, :3, 3]).abs().max()
        turned = (T_ego_cam[:, :3, :3] - self.T_ego_cam[:, :3, :3]).abs().max()
        return bool(moved <= tolerance_m and turned <= _TURN_TOLERANCE_RAD)


class Rendered(NamedTuple):
    """What an occupancy looks like from N cameras."""

    cameras: Cameras  # pinholes at the network's size
    depth: Float[np.ndarray, "N h w"]  # z-depth, m, 0 where transparent
    classes: UInt8[np.ndarray, "N h w"]  # ids; free where transparent


@dataclass(frozen=True)
class Prediction(OccupancyPrediction):
    """What the predictor returns: an OccupancyPrediction that keeps what it was decided from, and so can be rendered.

    The field stays on the predictor's device as long as the prediction lives: 12 MB of the shipped model. A copy with
    other labels (`dataclasses.replace`) still renders what the network said.
    """

    field: OccupancyField  # the network's logits on its lattice, before anything was decided
    views: Cameras  # pinholes of the images as the network saw them, where each camera was; float32
    matched: Views | None  # with what its images were matched; None: by a model that looks at each image alone
    moved: Odometry | None  # where the rig is by its images, if that was asked for
    opacity: Float[np.ndarray, "X Y Z"]  # probability 0-1 that each voxel is occupied, observed or not
    word: Float[np.ndarray, "X Y Z"]  # the same by the network alone, without what is remembered
    remembers: bool  # whether rays of earlier sets counted
    _network: GaussianOcc = dataclass_field(repr=False, compare=False)

    @torch.inference_mode()
    def render(self, names: Sequence[str] | None = None) -> Rendered:
        """What the field looks like from some of the cameras (None: all), in this order; KeyError names one that is
        absent, PredictionError what is not a number."""
        check_finite("logits", self.field.logits)
        views = self.views if names is None else self.views.select(tuple(names))
        views_here = views.to(self.field.logits.device, torch.float32)
        rendered: RenderedViews = self._network.render(self.field, views_here, normalize_depth=True)[0]
        check_finite("rendered alpha", rendered.alpha)
        check_finite("rendered depth", rendered.depth)
        solid = rendered.alpha[:, 0] > 0.5
        free = free_label(self.class_names)
        # Composited logits name the surface; the free logit of a surface voxel says nothing about the pixel.
        classes = rendered.features[:, :free].argmax(dim=1)
        depth = torch.where(solid, rendered.depth[:, 0], 0.0)
        labels = torch.where(solid, classes, free).to(torch.uint8)
        return Rendered(views, depth.cpu().numpy(), labels.cpu().numpy())


class OccupancyPredictor:
    """`predictor(images, cameras)` for N cameras of any rig, in any order and number.

    One instance is meant for one thread: it caches what follows from the last calibration.
    """

    def __init__(
        self,
        model: GaussianOcc,
        config: ModelConfig,
        provenance: Provenance | None,
        device: str = "auto",
        caution: float | None = None,
        memory: MemoryHead | None = None,
    ) -> None:
        """device: as `backends.device.parse_device` reads it; caution: see the property, None: as the model's
        configuration says; memory: by which a model that matches remembers what the rays of the last seconds found, as
        long as it is told where the rig is; None: it does not. ConfigError where the model cannot."""
        chosen = parse_device(device)
        self.device = chosen.torch
        self.caution = config.caution if caution is None else caution
        self.config = config
        self.provenance = provenance
        self.model = model.to(self.device).eval()
        self.grid = config.grid
        self.class_names = config.class_names
        self.trained = provenance is not None
        self.model_name = config.name if self.trained else "untrained"
        self._beyond = columns_beyond(config.grid, config.reach)
        self._ground_layers = near_ground(config.grid)
        self._decider = Decider(config.lattice, config.grid, config.class_names, self._beyond, self._ground_layers)
        self._preprocess = Preprocessor.of(config)
        self._views: list[_View] = []  # newest first
        self._masks: dict[str, np.ndarray] = {}
        self.ring = self._new_ring()  # of a model that matches
        self._memory: RayMemory | None = None  # made with the first set that it serves: it takes 50 MB
        self._recall: Recall | None = None
        published = config.quirks.occupied_by_argmax or config.quirks.lattice_shift  # as the paper decides
        if memory is not None:
            if self.ring is None or published:
                raise ConfigError(f"{config.name}: looks at each image alone, so that no ray is remembered")
            seen = (config.lattice, config.grid, config.class_names, self._beyond, self._ground_layers)
            self._recall = Recall(memory, *seen)
        self._chosen = chosen
        self._folder: ExportFolder | None = None
        self._backend: Backend | None = None  # with the first set, whose cameras are counted
        self._motion_of = ""  # what T_world_ego of the newest set in the ring came from

    @classmethod
    def from_checkpoint(
        cls, path: str | Path, device: str = "auto", caution: float | None = None, memory: bool = True
    ) -> OccupancyPredictor:
        """A predictor with the weights, architecture, grid and classes of a model file, or of a folder of exported
        networks (tools/export_model.py): a device with another runtime than torch runs these then.

        caution: see the property; None: as the file says; memory: whether rays of earlier sets count, where
        the file has a head for them. CheckpointError where it
        cannot be read, or fails its self-test: weights that cannot be right.
        """
        folder = read_folder(path) if is_export(path) else None
        loaded = load_model(path if folder is None else folder.model)
        try:
            head = loaded.memory if memory else None
            predictor = cls(loaded.model, loaded.config, loaded.provenance, device, caution, head)
        except ConfigError as error:
            raise CheckpointError(f"{path}: {error}") from error
        predictor._folder = folder
        try:
            self_test(predictor.model, loaded.config.image_width, loaded.config.image_height, predictor.trained)
        except PredictionError as error:
            raise CheckpointError(f"{path}: refused after a self-test: {error}") from error
        return predictor

    @classmethod
    def untrained(
        cls,
        config: ModelConfig | None = None,
        device: str = "auto",
        seed: int = 0,
        caution: float | None = None,
    ) -> OccupancyPredictor:
        """Random weights, for timing and wiring; every output says "untrained"."""
        _log.warning("untrained: random weights, the occupancy means nothing; give a checkpoint")
        config = config or ModelConfig()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_model(config)
        return cls(model, config, None, device, caution)

    def prepare(self, cameras: int, compare: bool = True) -> Backend:
        """What runs the networks, ready for so many cameras; called with the first set, unless before.

        BackendError where it cannot be had, or where an export's networks are not those of its model; compare: false
        leaves that to the caller. Exporting and compiling takes seconds the first time.
        """
        if self._backend is None:
            self._backend = open_backend(self._chosen, self.model, self.config, cameras, self._folder, compare)
        return self._backend

    def take_fastest(self, cameras: int) -> str:
        """Measures what runs the networks fastest here, takes that from now on, and says so in a line for logs."""
        self._backend, said = fastest(self.model, self.config, self.device, cameras, self._folder)
        return said

    def use_backend(self, backend: Backend) -> None:
        """From now on it runs the networks."""
        self._backend = backend

    @property
    def backend_name(self) -> str:
        """For logs: what runs the networks."""
        return str(self._chosen) if self._backend is None else self._backend.name

    def use_masks(self, masks: Mapping[str, Bool[np.ndarray, "_ _"]]) -> None:
        """Camera -> true where it does not see the robot itself, at native size; others see the world everywhere."""
        self._masks = {name: np.asarray(mask, dtype=np.bool_) for name, mask in masks.items()}

    def reductions(self, cameras: Cameras) -> dict[str, int]:
        """Camera -> 1, 2, 4 or 8: by how much its images may be shrunk while they are decoded; see `Rectifier`."""
        rectifier = self._lenses_of(cameras).rectifier
        return {name: rectifier.reduction(i) for i, name in enumerate(cameras.names)}

    @property
    def caution(self) -> float:
        """Between 0 and 1: trades missed obstacles against ghosts. Higher misses fewer obstacles and shows more ghosts;
        a voxel is free only if that is at least so probable, and rays were seen to pass it. ValueError if set to
        another number."""
        return self._caution

    @caution.setter
    def caution(self, caution: float) -> None:
        self._caution = check_caution(caution)

    @property
    def matches(self) -> bool:
        """Whether the model matches its images with others, so that motion and stamps serve it."""
        return self.ring is not None

    @property
    def remembers(self) -> bool:
        """Whether rays of earlier sets count, so that motion serves it."""
        return self._recall is not None

    @property
    def sees_depth(self) -> bool:
        """Whether the model says depth for each image, without which there is no odometry from them."""
        return self.model.depth_head is not None

    def reset(self) -> None:
        """Forgets the sets that it has seen: after a jump of time, or on another recording."""
        if self.ring is not None:
            self.ring.reset()
        if self._memory is not None:
            self._memory.reset()

    @property
    def knows_the_past(self) -> bool:
        """Whether rays of sets before the newest counted in its prediction."""
        return self._memory is not None and self._memory.sets >= 2

    def describe_memory(self, prediction: Prediction, where: Int64[np.ndarray, "P 3"]) -> Float[Tensor, "P F"]:
        """What the memory's head is given of some voxels at the newest set, whose prediction that is: to fit the head.
        ValueError where nothing is remembered."""
        if self._memory is None or not self.knows_the_past:
            raise ValueError("nothing is remembered: the model does not match, or its sets came without motion")
        return self._memory.describe(prediction.word, where)

    @torch.inference_mode()
    def __call__(
        self,
        images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
        cameras: Cameras,
        T_world_ego: Float[np.ndarray, "4 4"] | None = None,
        stamp_s: float | None = None,
        odometry: VisualOdometry | None = None,
        motion_from_images: bool = True,
    ) -> Prediction:
        """images: RGB at native size, one per camera, sizes may differ; cameras: their calibration, ego frame.

        An image may also come shrunk by its `reductions`; `cameras` speaks of the native size all the same.
        PredictionError where what the network says is not a number.

        For a model that matches: stamp_s (s) is the moment of the ego frame that the cameras are in, T_world_ego (m)
        that frame in one that stands still, e.g. odometry's. Sets of one recording come in time order; `matched` of the
        prediction tells which of them were used. Without a stamp a set is matched with itself alone and not remembered.

        odometry: of this rig's images, one set after another; it is moved on to this set (`moved` of the prediction),
        and gives the motion where T_world_ego is None, unless motion_from_images is False. ValueError without a stamp,
        or for a model without depth.
        """
        if odometry is not None and (stamp_s is None or not self.sees_depth):
            raise ValueError("odometry: needs stamp_s, and a model with a depth head")
        lenses = self._lenses_of(cameras)
        view = self._view_of(lenses, cameras)
        pixels = lenses.rectify(images)  # (N, h, w, 3) uint8
        backend = self.prepare(len(cameras))
        look = backend.look(pixels)
        pinhole, matched, moved = lenses.views(cameras.T_ego_cam), None, None
        source = "" if T_world_ego is None else "given"
        if odometry is not None and stamp_s is not None:
            moved = odometry.track(pixels, pinhole, lenses.valid_mask, stamp_s)
            if T_world_ego is None and motion_from_images and not moved.lost:
                T_world_ego, source = moved.T_odom_ego, "images"
        if self.ring is not None and look.features is not None:
            features = look.features if view.looks is None else look.features * view.looks
            look = replace(look, features=features)
            ring = self.ring if stamp_s is not None else self._new_ring()
            assert ring is not None
            broken = self._motion_of == "images" and moved is not None and bool(moved.lost)
            if broken or (source and self._motion_of and source != self._motion_of):
                ring.reset()  # its poses are of another frame
            self._motion_of = source or self._motion_of
            matched = ring.views(features, pinhole, T_world_ego, stamp_s or 0.0)
            if stamp_s is not None:
                ring.add(features, pinhole, T_world_ego, stamp_s)
        field = backend.decide(look, view.plan, matched.sources if matched else None)
        if field.inv_depth is not None:
            check_finite("inverse depths", field.inv_depth)
        if self.ring is not None and field.inv_depth is not None and stamp_s is not None:
            self.ring.learn_depth(field.inv_depth[0])
        if odometry is not None and field.inv_depth is not None:
            log_error = None if field.log_error is None else field.log_error[0].float().cpu().numpy()
            odometry.learn_depth(field.inv_depth[0].float().cpu().numpy(), log_error)
        at_once = self._decide(field, view)
        decided = self._remember(at_once, field, view, pinhole, stamp_s)
        return Prediction(
            labels=decided.labels,
            confidence=decided.confidence,
            observed=decided.observed,
            grid=self.grid,
            class_names=self.class_names,
            trained=self.trained,
            cameras=cameras.names,
            model=self.model_name,
            field=field,
            views=pinhole,
            matched=matched,
            moved=moved,
            opacity=decided.opacity,
            word=at_once.opacity,
            remembers=decided is not at_once,
            _network=self.model,
        )

    def _new_ring(self) -> ViewRing | None:
        head = self.model.depth_head
        if not isinstance(head, MatchingHead):
            return None
        return ViewRing(
            self.config.image_width, self.config.image_height, plane_inv_depths(head.config, head.far).to(self.device)
        )

    def _decide(self, field: OccupancyField, view: _View) -> Decided:
        """The class of every voxel of the published grid, or free. Unobserved where no camera looks, and where what one
        sees stands too far away to be placed (`ModelConfig.reach`); of a model with depth, occluded where it is free
        but no ray was seen to pass."""
        quirks, head = self.model.quirks, self.model.detail_head
        if self.device.type == "cpu" and not (quirks.occupied_by_argmax or quirks.lattice_shift):
            return self._decider(field, self.caution, view.observed, view.lines, head)
        check_finite("logits", field.logits)
        finer = None
        logits = self.model.sample_grid(field, self.grid)[0]  # (K, X, Y, Z)
        if head is not None:
            assert view.voxels is not None
            added = self.model.free_logits(field, self.grid, [view.voxels]).view(self.grid.shape) - logits[-1]
            logits[-1] += added
            finer = added.float().cpu().numpy()
        labels, confidence = decide_labels(logits, quirks.occupied_by_argmax, self.caution)
        opacity = 1.0 - logits.softmax(dim=0)[-1] if quirks.occupied_by_argmax else torch.sigmoid(-logits[-1])
        labels_array, confidence_array = labels.to(torch.uint8).cpu().numpy(), confidence.float().cpu().numpy()
        passed = None
        if view.lines is not None and field.inv_depth is not None:
            log_error = None if field.log_error is None else field.log_error[0].float().cpu().numpy()
            passed = passed_voxels(view.lines, field.inv_depth[0].float().cpu().numpy(), log_error)
        observed = leave_unknown(
            labels_array,
            confidence_array,
            view.observed,
            passed,
            self._beyond,
            self.class_names,
            self._ground_layers,
        )
        return Decided(labels_array, confidence_array, observed, finer, opacity.float().cpu().numpy(), passed)

    def _remember(
        self, decided: Decided, field: OccupancyField, view: _View, pinhole: Cameras, stamp_s: float | None
    ) -> Decided:
        """The decision with what the rays of earlier sets found, once the ring knows where the set is."""
        if self._recall is None or self.ring is None or stamp_s is None or field.log_error is None:
            return decided
        T_world_ego, run = self.ring.newest
        if T_world_ego is None or field.inv_depth is None:
            return decided
        if self._memory is None:
            try:
                self._memory = RayMemory(self.grid)
            except PredictionError as error:  # a grid that is too large for it
                _log.warning("%s: results are of one moment", error)
                self._recall = None
                return decided
        size = (self.config.image_width, self.config.image_height)
        shows = None if view.looks is None else view.looks[:, 0].bool().cpu().numpy()
        try:
            self._memory.add(field.inv_depth[0], field.log_error[0], shows, pinhole, size, T_world_ego, stamp_s, run)
        except PredictionError:  # a pose that is no place on Earth
            self._memory.reset()
            return decided
        if self._memory.sets < 2:  # the network has seen this set's rays itself
            return decided
        probability = self._memory.weigh(self._recall.head, decided.opacity, decided.observed)
        return self._recall(decided, probability, field, self.caution)

    @property
    def summary(self) -> str:
        """One line for logs: model, training, grid, classes, device."""
        shape = "x".join(map(str, self.grid.shape))
        training = self.provenance.training if self.provenance else "untrained, outputs mean nothing"
        if self.provenance and self.provenance.commit:
            training += f"; commit {self.provenance.commit}"
        return (
            f"model {self.model_name} ({training}); grid {shape} at {self.grid.voxel_size:g} m; "
            f"{len(self.class_names)} classes; {self.backend_name}"
        )

    def _lenses_of(self, cameras: Cameras) -> Lenses:
        return self._preprocess(cameras, [self._masks.get(name) for name in cameras.names])

    def _view_of(self, lenses: Lenses, cameras: Cameras) -> _View:
        T_ego_cam = cameras.T_ego_cam.cpu().double()
        tolerance_m = _MOVE_TOLERANCE * self.grid.voxel_size
        found = next((view for view in self._views if view.serves(lenses, T_ego_cam, tolerance_m)), None)
        if found is None:
            pinhole = lenses.views(T_ego_cam).to(self.device)
            plan = self.model.plan(pinhole, torch.tensor(lenses.valid_mask, device=self.device))
            lines = plan_sight(pinhole, self.grid, lenses.valid_mask, DEPTH_STRIDE) if self.sees_depth else None
            observed = observed_voxels(pinhole, self.grid, lenses.valid_mask)
            observed.setflags(write=False)  # every prediction of this view hands it out
            looks = None
            if not lenses.valid_mask.all():
                shares = F.avg_pool2d(torch.tensor(lenses.valid_mask)[:, None].float(), int(VIEW_STRIDES[1]))
                looks = (shares == 1.0).float().to(self.device)
            centres = None
            if self.device.type != "cpu" and self.model.detail_head is not None:
                valid = torch.tensor(lenses.valid_mask, device=self.device)
                centres = self.model.plan_voxels(pinhole.to(dtype=torch.float32), self.grid, valid)
            found = _View(lenses, T_ego_cam, plan, observed, lines, looks, centres)
        self._views = _remember(found, self._views)
        return found


def _remember(newest: Any, known: list[Any]) -> list[Any]:
    """Newest first, and not more than a rig with a camera that comes and goes needs."""
    return [newest, *(each for each in known if each is not newest)][:_REMEMBERED]


def resolve_device(device: str) -> torch.device:
    """Where tensors are of a `parse_device`: for networks that run in torch alone, such as those of the first stage."""
    return parse_device(device).torch
