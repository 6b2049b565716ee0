# SPDX-License-Identifier: Apache-2.0
"""From camera images to published occupancy: owns preprocessing, device, evaluation mode and the calibration cache."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from gaussianocc_core.checkpoint import Provenance, load_model
from gaussianocc_core.errors import BackendError, CheckpointError, PredictionError
from gaussianocc_core.finite import check_finite
from gaussianocc_core.labels import UNOBSERVED, free_label
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.models.decision import columns_beyond, decide_labels, decide_on_grid, find_unplaced
from gaussianocc_core.models.gaussianocc import GaussianOcc, build_model
from gaussianocc_core.models.lifting import LiftPlan
from gaussianocc_core.models.observed import observed_voxels
from gaussianocc_core.models.self_test import self_test
from gaussianocc_core.preprocess import Lenses, Preprocessor
from gaussianocc_core.types import Cameras, OccupancyField, OccupancyPrediction, RenderedViews

_log = logging.getLogger(__name__)


# On a moving robot, poses relative to the anchor's image time jitter with the speed. A plan is kept while no camera is
# farther than this from where it was planned: far below a voxel and a pixel of the feature map.
_MOVE_TOLERANCE = 0.15  # voxels
_TURN_TOLERANCE_RAD = 0.004
_REMEMBERED = 6  # of each: all cameras and without one that comes and goes, at a few speeds; a plan takes 0.05 s


@dataclass(frozen=True)
class _View:
    """What follows from lenses and poses."""

    lenses: Lenses
    T_ego_cam: Tensor  # as planned
    plan: LiftPlan
    observed: np.ndarray  # (X, Y, Z) bool

    def serves(self, lenses: Lenses, T_ego_cam: Tensor, tolerance_m: float) -> bool:
        if self.lenses is not lenses:
            return False
        moved = (T_ego_cam[:, :3, 3] - self.T_ego_cam[:, :3, 3]).abs().max()
        turned = (T_ego_cam[:, :3, :3] - self.T_ego_cam[:, :3, :3]).abs().max()
        return bool(moved <= tolerance_m and turned <= _TURN_TOLERANCE_RAD)


class OccupancyPredictor:
    """`predictor(images, cameras)` for N cameras of any rig, in any order and number.

    One instance is meant for one thread: it caches what follows from the last calibration.
    """

    def __init__(
        self, model: GaussianOcc, config: ModelConfig, provenance: Provenance | None, device: str = "auto"
    ) -> None:
        self.device = resolve_device(device)
        self.config = config
        self.provenance = provenance
        self.model = model.to(self.device).eval()
        self.grid = config.grid
        self.class_names = config.class_names
        self.trained = provenance is not None
        self.model_name = config.name if self.trained else "untrained"
        self._beyond = columns_beyond(config.grid, config.reach)
        self._preprocess = Preprocessor.of(config)
        self._views: list[_View] = []  # newest first
        self._masks: dict[str, np.ndarray] = {}

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str = "auto") -> OccupancyPredictor:
        """A predictor with the weights, architecture, grid and classes of a model file.

        CheckpointError where it cannot be read, or fails its self-test: weights that cannot be right.
        """
        loaded = load_model(path)
        predictor = cls(loaded.model, loaded.config, loaded.provenance, device)
        try:
            self_test(predictor.model, loaded.config.image_width, loaded.config.image_height, predictor.trained)
        except PredictionError as error:
            raise CheckpointError(f"{path}: refused after a self-test: {error}") from error
        return predictor

    @classmethod
    def untrained(cls, config: ModelConfig | None = None, device: str = "auto", seed: int = 0) -> OccupancyPredictor:
        """Random weights, for timing and wiring; every output says "untrained"."""
        _log.warning("untrained: random weights, the occupancy means nothing; give a checkpoint")
        config = config or ModelConfig()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_model(config)
        return cls(model, config, None, device)

    def use_masks(self, masks: Mapping[str, Bool[np.ndarray, "_ _"]]) -> None:
        """Camera -> true where it does not see the robot itself, at native size; others see the world everywhere."""
        self._masks = {name: np.asarray(mask, dtype=np.bool_) for name, mask in masks.items()}

    def reductions(self, cameras: Cameras) -> dict[str, int]:
        """Camera -> 1, 2, 4 or 8: by how much its images may be shrunk while they are decoded; see `Rectifier`."""
        rectifier = self._lenses_of(cameras).rectifier
        return {name: rectifier.reduction(i) for i, name in enumerate(cameras.names)}

    @torch.inference_mode()
    def __call__(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], cameras: Cameras) -> OccupancyPrediction:
        """images: RGB at native size, one per camera, sizes may differ; cameras: their calibration, ego frame.

        An image may also come shrunk by its `reductions`; `cameras` speaks of the native size all the same.
        """
        return self.decide(self.predict_field(images, cameras), cameras)

    @torch.inference_mode()
    def predict_field(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], cameras: Cameras) -> OccupancyField:
        """The network's logits on its lattice, before anything is decided; PredictionError if one is not a number."""
        view = self._view_of(cameras)
        rectified = torch.from_numpy(view.lenses.rectify(images)).to(self.device)  # (N, h, w, 3) uint8
        batch = rectified.permute(0, 3, 1, 2)[None].float() / 255.0  # (1, N, 3, h, w)
        field = self.model(batch, [view.plan])
        check_finite("logits", field.logits)
        if field.inv_depth is not None:
            check_finite("inverse depths", field.inv_depth)
        return field

    @torch.inference_mode()
    def decide(self, field: OccupancyField, cameras: Cameras) -> OccupancyPrediction:
        """The class of every voxel of the published grid, or free; unobserved where no camera looks, and where what one
        sees stands too far away to be placed (`ModelConfig.reach`)."""
        observed = self._view_of(cameras).observed
        quirks = self.model.quirks
        if self.device.type == "cpu" and not (quirks.occupied_by_argmax or quirks.lattice_shift):
            labels_array, confidence_array = decide_on_grid(
                field.logits[0].float().numpy(), self.model.lattice, self.grid
            )
        else:
            logits = self.model.sample_grid(field, self.grid)[0]  # (K, X, Y, Z)
            labels, confidence = decide_labels(logits, quirks.occupied_by_argmax)
            labels_array = labels.to(torch.uint8).cpu().numpy()
            confidence_array = confidence.float().cpu().numpy()
        if self._beyond.any():
            observed = observed & ~find_unplaced(labels_array, self._beyond, self.class_names)
        labels_array[~observed] = UNOBSERVED
        confidence_array[~observed] = 0.0
        return OccupancyPrediction(
            labels=labels_array,
            confidence=confidence_array,
            observed=observed,
            grid=self.grid,
            class_names=self.class_names,
            trained=self.trained,
            cameras=cameras.names,
            model=self.model_name,
        )

    @torch.inference_mode()
    def render(
        self, field: OccupancyField, cameras: Cameras, names: Sequence[str] | None = None
    ) -> tuple[Cameras, Float[np.ndarray, "N h w"], UInt8[np.ndarray, "N h w"]]:
        """What the field looks like from some of the cameras (None: all), as the network sees through them.

        Their pinhole cameras at the network's size (the `Rectifier`'s), z-depth (m, 0 where transparent), class ids.
        PredictionError where the field or what is rendered of it is not a number.
        """
        check_finite("logits", field.logits)
        views = self._lenses_of(cameras).views(cameras.T_ego_cam)
        views = views if names is None else views.select(tuple(names))
        views_here = views.to(self.device, torch.float32)
        rendered: RenderedViews = self.model.render(field, views_here, normalize_depth=True)[0]
        check_finite("rendered alpha", rendered.alpha)
        check_finite("rendered depth", rendered.depth)
        solid = rendered.alpha[:, 0] > 0.5
        free = free_label(self.class_names)
        # Composited logits name the surface; the free logit of a surface voxel says nothing about the pixel.
        classes = rendered.features[:, :free].argmax(dim=1)
        depth = torch.where(solid, rendered.depth[:, 0], 0.0)
        return views, depth.cpu().numpy(), torch.where(solid, classes, free).to(torch.uint8).cpu().numpy()

    @property
    def summary(self) -> str:
        """One line for logs: model, training, grid, classes, device."""
        shape = "x".join(map(str, self.grid.shape))
        training = self.provenance.training if self.provenance else "untrained, outputs mean nothing"
        if self.provenance and self.provenance.commit:
            training += f"; commit {self.provenance.commit}"
        return (
            f"model {self.model_name} ({training}); grid {shape} at {self.grid.voxel_size:g} m; "
            f"{len(self.class_names)} classes; {self.device}"
        )

    def _lenses_of(self, cameras: Cameras) -> Lenses:
        return self._preprocess(cameras, [self._masks.get(name) for name in cameras.names])

    def _view_of(self, cameras: Cameras) -> _View:
        lenses = self._lenses_of(cameras)
        T_ego_cam = cameras.T_ego_cam.cpu().double()
        tolerance_m = _MOVE_TOLERANCE * self.grid.voxel_size
        found = next((view for view in self._views if view.serves(lenses, T_ego_cam, tolerance_m)), None)
        if found is None:
            pinhole = lenses.views(T_ego_cam).to(self.device)
            plan = self.model.plan(pinhole, torch.tensor(lenses.valid_mask, device=self.device))
            observed = observed_voxels(pinhole, self.grid, lenses.valid_mask)
            observed.setflags(write=False)  # every prediction of this view hands it out
            found = _View(lenses, T_ego_cam, plan, observed)
        self._views = _remember(found, self._views)
        return found


def _remember(newest: Any, known: list[Any]) -> list[Any]:
    """Newest first, and not more than a rig with a camera that comes and goes needs."""
    return [newest, *(each for each in known if each is not newest)][:_REMEMBERED]


def resolve_device(device: str) -> torch.device:
    """ "auto" takes CUDA where there is one; an impossible choice is a BackendError."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise BackendError(f"device {device!r}: expected auto, cpu, cuda or cuda:N") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise BackendError(f"device {device!r}: this torch ({torch.__version__}) finds no CUDA device; use cpu or auto")
    return resolved
