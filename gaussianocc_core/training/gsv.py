# SPDX-License-Identifier: Apache-2.0
"""Stage 2, Gaussian Splatting from Voxels: occupancy that, rendered, explains images and 2D labels
(docs/method.md#e, #g).

Without any true pose, depth or occupancy: the rendered depth must carry each camera's neighbouring frames over, with
the ego motion of the first stage, and the rendered classes must be those of the 2D labels where there are any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from gaussianocc_core import losses
from gaussianocc_core.errors import ConfigError, DatasetError
from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry.overlap import OverlapSettings, overlap_masks
from gaussianocc_core.geometry.warp import interpolate_depth, resize_depth
from gaussianocc_core.labels import (
    CLASS_NAMES,
    class_weights,
    free_label,
    frequencies_of,
    has_one_class,
    ids_from_occ3d,
    ids_to_occ3d,
)
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.models.decision import decide_labels
from gaussianocc_core.models.gaussianocc import GaussianOcc
from gaussianocc_core.models.lifting import LiftPlan
from gaussianocc_core.models.pose_net import PoseNet
from gaussianocc_core.preprocess import RigCache, rig_key
from gaussianocc_core.rendering.background import compose_depth, find_background
from gaussianocc_core.rendering.geometry import SplatPlan
from gaussianocc_core.rendering.march import MarchSettings, draw_jitter
from gaussianocc_core.rendering.volume import ray_regularizers, render_volume
from gaussianocc_core.training.carved import class_error, opacity_error
from gaussianocc_core.training.config import GsvConfig
from gaussianocc_core.training.ego import neighbour_motions, place_cameras, predict_ego_motion
from gaussianocc_core.training.hints import find_hints, hint_error
from gaussianocc_core.training.loader import Batch
from gaussianocc_core.training.matched import look_around
from gaussianocc_core.training.motion_search import Guess, as_long_as_depth_says
from gaussianocc_core.training.odometry import Shifted, Witness, examine, find_witness
from gaussianocc_core.training.photometric import temporal_error
from gaussianocc_core.training.precision import network_precision
from gaussianocc_core.training.stage import Look, Networks, Stage, mean_losses, total_loss
from gaussianocc_core.training.stereo import measure, stereo_pairs
from gaussianocc_core.training.surfaces import find_surfaces, plan_surfaces
from gaussianocc_core.training.view import View, batch_element, views_of
from gaussianocc_core.types import Cameras, OccupancyField, RenderedViews, VoxelGrid

# Of the loss, in the order of the method; the last two are of volume rendering alone.
_TERMS = (
    "photometric",
    "smooth",
    "semantic",
    "entropy",
    "variation",
    "ray_entropy",
    "ray_distortion",
    "head",
    "agreement",
    "surface",
    "labels",
    "classes",
)
_OCCUPIED_WEIGHT = 1.5  # of an occupied voxel in the surface term, of which there are one in twenty
_CLASS_SHARE = 0.1  # of the classes of labels in 3D, against occupied or free
_RIGS_PLANNED = 8  # one rig, and its mirror image, in a few data sets; a plan holds tens of megabytes
_BACKGROUND_LOGIT = 5.0  # of free space beyond the lattice: a probability of 0.9 among the 18 classes


@dataclass(frozen=True)
class _Plans:
    """What follows from a calibration and its valid pixels alone."""

    lift: LiftPlan
    splat: SplatPlan | None
    small: Cameras  # of the rendering size
    corners: LiftPlan | None  # of the grid's voxels, for the surface term
    voxels: LiftPlan | None  # of the grid's voxels, for a detail head


class Gsv(Stage):
    """The occupancy network with what renders it and compares the images."""

    reports = (*_TERMS, "total", "moved")
    class_weights: Tensor
    odometry_factor: Tensor
    own_ids: Tensor  # of the model's classes, per Occ3D id

    def __init__(
        self,
        model: GaussianOcc,
        pose_net: PoseNet | None,
        config: GsvConfig,
        grid: VoxelGrid,
        frozen: bool = False,
        class_names: Sequence[str] = CLASS_NAMES,
    ) -> None:
        """grid: what is published and evaluated, where the surface term looks; frozen: the image encoder, but for its
        projection, and the depth head do not learn; class_names: of the model. Labels come as Occ3D ids.

        pose_net: None where all motion is recorded; with "auto", samples without poses are then refused."""
        super().__init__()
        if config.ego_motion != "auto" and (pose_net is None) != (config.ego_motion == "sensor"):
            raise ConfigError(
                f"gsv.ego_motion={config.ego_motion}: "
                + ("needs first_stage=FILE, the model file of a gsp run" if pose_net is None else "has no use for one")
            )
        self.model = model
        self.pose_net = pose_net
        self.config = config
        self.grid = grid
        self.frozen = frozen
        self.learns_motion = config.ego_motion == "joint"
        self.note = "self-supervised: occupancy by splatting" + (" and ego motion at once" * self.learns_motion)
        if frozen:
            for module in self._see_modules():
                module.requires_grad_(False)
            model.image_encoder.project.requires_grad_(True)
        self.class_names = tuple(class_names)
        weights = torch.from_numpy(class_weights(frequencies_of(class_names)))
        self.register_buffer("class_weights", weights, persistent=False)
        self.register_buffer("own_ids", torch.from_numpy(ids_from_occ3d(class_names)), persistent=False)
        # On recorded translations; NaN: recorded motion is not used.
        self.register_buffer("odometry_factor", torch.ones(()))
        self._plans: RigCache[_Plans] = RigCache(_RIGS_PLANNED)

    def train(self, mode: bool = True) -> Gsv:
        super().train(mode)
        if self.pose_net is not None and not self.learns_motion:
            self.pose_net.eval()  # frozen, batch norms included (the published code lets those drift)
        if self.frozen:
            for module in self._see_modules():
                module.eval()
        return self

    # ---- the method ------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, progress: float = 0.5) -> dict[str, Tensor]:
        """The names are those of docs/method.md#g."""
        batch = self._with_recorded_motion(self._in_own_classes(batch))
        views = views_of(batch, self.model.depth_head if self._hints_head else None)
        plans = [self._plan(view) for view in views]
        frames = batch.jittered()  # (B, T, N, 3, H, W): what networks see
        T_target_now = self._ego_motion(batch, frames)  # (B, S, 4, 4)
        field = self.predict_field(
            frames,
            [plan.lift for plan in plans],
            batch.cameras,
            T_target_now,
            batch.jittered_history() if self.frozen else None,
            batch.T_history_now,
        )
        recorded = self._recorded(batch)
        named = mean_losses(
            [
                self._losses(
                    view,
                    field.logits[b : b + 1],
                    None if field.inv_depth is None else field.inv_depth[b],
                    plans[b],
                    T_target_now[b],
                    bool(recorded[b]),
                )
                if self.config.rendering
                else {}
                for b, view in enumerate(views)
            ]
        )
        if batch.occupancy is not None and self.config.labels:
            named.update(self._compare_with_labels(field, batch.occupancy, plans))
        if not named:
            raise ConfigError("gsv.rendering=false: without rendering, labels must teach; set data.occupancy=DIR")
        if batch.semantics is not None and self.config.rendering:
            named.update(self._regularize_field(field))
        named["total"] = total_loss(named, _TERMS)
        return named

    def _in_own_classes(self, batch: Batch) -> Batch:
        """The batch with labels, in 2D and 3D, of the model's classes."""
        return replace(
            batch,
            semantics=None if batch.semantics is None else self.own_ids[batch.semantics.long()],
            occupancy=None if batch.occupancy is None else self.own_ids[batch.occupancy.long()],
        )

    def _with_recorded_motion(self, batch: Batch) -> Batch:
        """The batch with recorded motion as `begin` found it to be."""
        T_target_now, T_history_now = batch.T_target_now.clone(), batch.T_history_now
        T_target_now[..., :3, 3] *= self.odometry_factor
        if T_history_now is not None:
            T_history_now = T_history_now.clone()
            T_history_now[..., :3, 3] *= self.odometry_factor
        return replace(batch, T_target_now=T_target_now, T_history_now=T_history_now)

    @torch.no_grad()
    def begin(self, batches: Sequence[Batch], shifted: Callable[[], Sequence[Shifted]] = tuple) -> list[str]:
        """Whether the images agree with the recorded motion, and at which length; by the first stage's depth."""
        if self.config.ego_motion not in ("sensor", "auto") or self.model.depth_head is None:
            return []
        training, required = self.training, ""
        if self.config.ego_motion == "sensor":
            required = "as gsv.ego_motion=sensor says"
        elif self.pose_net is None:
            required = "as no first stage learnt motion from images of this size"
        self.eval()
        verdict = examine(batches, shifted(), lambda batch: batch.T_target_now, self._witnesses, required)
        self.train(training)
        self.odometry_factor.fill_(verdict.factor if verdict.used or required else torch.nan)
        return [verdict.line]

    def _witnesses(
        self, batch: Batch, T_target_now: Float[Tensor, "B S 4 4"]
    ) -> list[tuple[View, Guess, Witness | None]]:
        """Of each sample, a depth that owes nothing to odometry: of one image, or of what cameras see of each other."""
        views = views_of(batch, self.model.depth_head)
        colors = batch.colors()[:, 0]
        inv_depth = self.model.encode(colors, [self._plan(view).lift for view in views])[1]
        assert inv_depth is not None
        found = []
        for view, inverse, motion in zip(views, inv_depth, T_target_now, strict=True):
            placed = view.cameras if view.lags is None else place_cameras(view.cameras, view.lags, motion.nan_to_num())
            pairs = stereo_pairs(placed, overlap_masks(view.cameras, OverlapSettings()))
            depth = interpolate_depth(1.0 / inverse, *view.now.shape[-2:])
            found.append((view, *find_witness(view, depth, measure(view.now, view.valid, pairs))))
        return found

    def predict_field(
        self,
        frames: Float[Tensor, "B T N 3 H W"],
        plans: list[LiftPlan],
        cameras: Cameras,
        T_target_now: Float[Tensor, "B S 4 4"] | None = None,
        history: Float[Tensor, "B F N 3 H W"] | None = None,
        T_history_now: Float[Tensor, "B F 4 4"] | None = None,
    ) -> OccupancyField:
        """What the network makes of the current frame of each sample.

        One that matches compares it with the other cameras and, where the motion is known, the frame before and the
        history.
        """
        with network_precision(frames.device, self.precision):
            if self.model.matches:
                dropout = self.config.views if self.training else None
                look, sources = look_around(
                    self.model.image_encoder,
                    frames,
                    cameras,
                    T_target_now,
                    dropout,
                    history=history,
                    T_history_now=T_history_now,
                )
                field = self.model.decide_from(look, plans, sources)
            else:
                field = self.model(frames[:, 0], plans)
        return field.to(dtype=torch.float32)

    def _ego_motion(self, batch: Batch, frames: Float[Tensor, "B T N 3 H W"]) -> Float[Tensor, "B S 4 4"]:
        known = self._recorded(batch)
        if self.pose_net is None or known.all():
            if not known.all():
                raise DatasetError(
                    f"samples {', '.join(batch.tokens)} have no poses; use gsv.ego_motion=learned with a first stage "
                    "that learnt motion from images of this run's size"
                )
            return batch.T_target_now
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.learns_motion):
            learnt = predict_ego_motion(self.pose_net, frames, precision=self.precision)
        return torch.where(known[:, None, None, None], batch.T_target_now, learnt)

    def _recorded(self, batch: Batch) -> Bool[Tensor, " B"]:
        """Whose recorded motion is used."""
        known = torch.isfinite(batch.T_target_now).flatten(1).all(dim=1)
        return known if self.config.ego_motion in ("sensor", "auto") else torch.zeros_like(known)

    def _losses(
        self,
        view: View,
        logits: Float[Tensor, "1 K X Y Z"],
        inv_depth: Float[Tensor, "N h w"] | None,
        plans: _Plans,
        T_target_now: Float[Tensor, "S 4 4"],
        recorded: bool,
    ) -> dict[str, Tensor]:
        """Of one sample; inv_depth: what the depth head sees, 1/m; recorded: whether its motion is."""
        config, field = self.config, OccupancyField(logits)
        motion = T_target_now if recorded else self._measured(view, inv_depth, T_target_now)
        drawn = self._draw_cameras(len(view.cameras))
        compared, small = view.select(drawn), plans.small.select(tuple(plans.small.names[n] for n in drawn))
        head_depth = None if inv_depth is None else 1.0 / inv_depth[drawn]  # (N, h, w)
        rendered = self.render(field, small, None if plans.splat is None else plans.splat.select(drawn))
        inside, background = self._behind(rendered, small, head_depth)
        depth = self._to_full_size(compose_depth(rendered, background), compared)  # (N, H, W)
        T_other_cam = neighbour_motions(motion, compared.cameras.T_ego_cam)

        error, moved = self._carry(compared, depth, T_other_cam)
        smooth = losses.sum_of_means(losses.smoothness(depth, compared.now))
        named = {"photometric": error, "smooth": config.smoothness * smooth, "moved": moved}
        if head_depth is not None and config.agreement:
            named["agreement"] = config.agreement * _disagreement(depth, head_depth.detach(), compared.valid)
        if head_depth is not None and config.head and not self.frozen:
            named["head"] = config.head * self._head_error(compared, head_depth, T_other_cam)
        if inv_depth is not None and plans.corners is not None:
            named["surface"] = config.surface * self._surface(field, inv_depth.detach(), view.cameras, plans.corners)
        if compared.semantics is not None:
            semantic = self._semantic(rendered, compared.semantics, compared.valid, inside)
            named["semantic"] = config.semantic * semantic
            named.update(self._regularize_rays(field, small))
        return named

    # ---- motion and cameras ----------------------------------------------------------------------------------------

    def _measured(
        self, view: View, inv_depth: Float[Tensor, "N h w"] | None, T_target_now: Float[Tensor, "S 4 4"]
    ) -> Float[Tensor, "S 4 4"]:
        """The learnt motion, as long as the frozen depth head says that it was."""
        search = self.config.length_search
        if self.learns_motion or not self.frozen or inv_depth is None or search.factor == 1:
            return T_target_now
        depth = interpolate_depth(1.0 / inv_depth.detach(), *view.now.shape[-2:])
        return as_long_as_depth_says(view.colors, Guess(depth, view.valid), view.cameras, T_target_now, search)

    def _draw_cameras(self, count: int) -> list[int]:
        """Which cameras' images are compared, in ascending order."""
        wanted = self.config.cameras_per_step
        return sorted(torch.randperm(count)[:wanted].tolist()) if 0 < wanted < count else list(range(count))

    def _plan(self, view: View) -> _Plans:
        return self._plans.find(rig_key(view.cameras, view.valid), lambda: self._make_plan(view))

    @torch.no_grad()
    def _make_plan(self, view: View) -> _Plans:
        cameras = view.cameras
        small = camera_geometry.resize(cameras, self.config.render_width, self.config.render_height)
        on_cpu = cameras.intrinsics.device.type == "cpu" and self.config.renderer == "splat"
        splat = self.model.plan_render(small) if on_cpu and not self.model.learns_scale else None
        looks = self.config.surface > 0 and self.model.depth_head is not None
        corners = plan_surfaces(cameras, self.grid, view.valid) if looks else None
        centres = None if self.model.detail_head is None else self.model.plan_voxels(cameras, self.grid, view.valid)
        return _Plans(self.model.plan(cameras, view.valid), splat, small, corners, centres)

    # ---- rendering -------------------------------------------------------------------------------------------------

    def render(self, field: OccupancyField, cameras: Cameras, plan: SplatPlan | None = None) -> RenderedViews:
        """Accumulated logits, z-depth (m) and alpha of one field in cameras of the rendering size."""
        if self.config.renderer == "volume":
            settings = self.model.quirks.march
            return render_volume(
                field, self.model.lattice, cameras, settings=settings, jitter=self._ray_jitter(cameras, settings)
            )
        return self.model.render(field, cameras, normalize_depth=False, plan=plan)[0]

    def _ray_jitter(self, cameras: Cameras, settings: MarchSettings) -> Float[Tensor, "N H W"] | None:
        if not (self.config.ray_jitter and self.training):
            return None
        shape = len(cameras), cameras.height[0], cameras.width[0]
        return draw_jitter(self.model.lattice, shape, settings).to(cameras.intrinsics.device)

    def _behind(
        self, rendered: RenderedViews, cameras: Cameras, head_depth: Float[Tensor, "N h2 w2"] | None
    ) -> tuple[Bool[Tensor, "N h w"], Float[Tensor, "N h w"] | float]:
        """Pixels whose surface the lattice can hold, and the depth (m) of what is seen through it."""
        return find_background(rendered, cameras, self.model.lattice, head_depth, self.config.background_depth)

    def _to_full_size(self, depth: Float[Tensor, "N h w"], view: View) -> Float[Tensor, "N H W"]:
        resize = interpolate_depth if self.config.background_depth else resize_depth
        return resize(depth, *view.now.shape[-2:])

    # ---- losses ----------------------------------------------------------------------------------------------------

    def _carry(
        self, view: View, depth: Float[Tensor, "N H W"], T_other_cam: Float[Tensor, "S N 4 4"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """How well this depth explains the neighbouring frames, and the share of pixels that moved."""
        return temporal_error(
            view.now,
            view.around,
            depth,
            view.cameras.intrinsics,
            T_other_cam,
            view.valid,
            self.config.photometric,
            self.model.quirks.warp_pixel_center,
        )

    @property
    def _hints_head(self) -> bool:
        """Whether hints are looked for: they are for a depth head that learns."""
        return bool(self.config.head and self.config.hints.weight) and not self.frozen

    def _head_error(
        self, view: View, head_depth: Float[Tensor, "N h w"], T_other_cam: Float[Tensor, "S N 4 4"]
    ) -> Float[Tensor, ""]:
        """Of a depth head that learns: it must explain the neighbouring frames too, and heed hints."""
        config = self.config
        depth = interpolate_depth(head_depth, *view.now.shape[-2:])
        smooth = losses.sum_of_means(losses.smoothness(depth, view.now))
        error = self._carry(view, depth, T_other_cam)[0] + config.smoothness * smooth
        if not self._hints_head:
            return error
        hints, believed = find_hints(
            view.now,
            view.around,
            depth.detach(),
            None if view.ground is None else view.ground.plane(),
            view.cameras.intrinsics,
            T_other_cam.detach(),
            view.valid,
            config.hints,
            config.photometric,
        )
        return error + hint_error(depth, hints, believed, config.hints)

    def _surface(
        self, field: OccupancyField, inv_depth: Float[Tensor, "N h w"], cameras: Cameras, corners: LiftPlan
    ) -> Float[Tensor, ""]:
        """Cross-entropy of the opacity of the grid's voxels with what the depth head sees there (`surfaces`)."""
        found = find_surfaces(inv_depth, cameras, corners, self.config.thickness, self.config.reach)
        free_logits = self.model.sample_grid(OccupancyField(field.logits[:, -1:]), self.grid)[0, 0]
        weights = _OCCUPIED_WEIGHT * (found.occupied + 0.5 * found.filled) + found.free
        known = weights > 0
        error = losses.opacity_cross_entropy(free_logits[known], found.free[known].long(), free=1)
        return losses.weighted_mean(error * weights[known], weights[known])

    def _compare_with_labels(
        self, field: OccupancyField, labels: UInt8[Tensor, "B X Y Z"], plans: list[_Plans]
    ) -> dict[str, Tensor]:
        centres = [each.voxels for each in plans if each.voxels is not None]
        opacity = opacity_error(self.model, field, self.grid, centres, labels)
        named = {"labels": self.config.labels * opacity}
        if not has_one_class(self.class_names):
            classes = class_error(self.model, field, self.grid, labels, self.class_weights)
            named["classes"] = self.config.labels * _CLASS_SHARE * classes
        return named

    def _semantic(
        self,
        rendered: RenderedViews,
        labels: Tensor,
        valid: Bool[Tensor, "N H W"],
        inside: Bool[Tensor, "N h w"],
    ) -> Float[Tensor, ""]:
        """Cross-entropy of the rendered logits (docs/method.md#g.3); sky counts everywhere, the rest where
        the lattice is."""
        height, width = rendered.depth.shape[-2:]
        small = losses.resize_labels(labels.long(), height, width)
        shown = losses.resize_labels(valid.long(), height, width) > 0
        small = torch.where(shown & (inside | (small == free_label(self.class_names))), small, -1)
        logits = rendered.features
        if self.config.background_depth:
            through = _BACKGROUND_LOGIT * (1.0 - rendered.alpha[:, 0])
            logits = torch.cat([logits[:, :-1], logits[:, -1:] + through[:, None]], dim=1)
        return losses.weighted_mean(*losses.semantic_cross_entropy(logits, small, self.class_weights))

    def _regularize_field(self, field: OccupancyField) -> dict[str, Tensor]:
        """On opacities and logits, where there are labels: without, they would win."""
        opacities = torch.sigmoid(-field.logits[:, -1])
        variation = losses.sum_of_means(losses.total_variation(field.logits)) / 3
        return {
            "entropy": self.config.entropy * losses.opacity_entropy(opacities).mean(),
            "variation": self.config.variation * variation,
        }

    def _regularize_rays(self, field: OccupancyField, cameras: Cameras) -> dict[str, Tensor]:
        """docs/method.md#e.14, of volume rendering."""
        config, settings = self.config, self.model.quirks.march
        if config.renderer != "volume" or not (config.ray_entropy or config.ray_distortion):
            return {}
        jitter = self._ray_jitter(cameras, settings)
        found = ray_regularizers(field, self.model.lattice, cameras, settings=settings, jitter=jitter)
        return {
            "ray_entropy": config.ray_entropy * found.entropy,
            "ray_distortion": config.ray_distortion * found.distortion,
        }

    # ---- what the loop asks for ------------------------------------------------------------------------------------

    def _see_modules(self) -> list[nn.Module]:
        model = self.model
        return [model.image_encoder] if model.depth_head is None else [model.image_encoder, model.depth_head]

    def image_modules(self) -> list[nn.Module]:
        return [] if self.frozen else self._see_modules()  # what is left of them learns with the rest

    def look(self, batch: Batch) -> Look:
        """Rendered at the size of the images, where more than half of a pixel is covered; and occupancy of the grid."""
        cameras = batch_element(batch.cameras, 0)
        height, width = batch.images.shape[-2:]
        field = self.model(batch.jittered()[:1, 0], [self.model.plan(cameras, batch.valid[0])])
        rendered = self.render(field, camera_geometry.resize(cameras, width, height))
        solid = rendered.alpha[:, 0] > 0.5
        depth = rendered.depth[:, 0] / rendered.alpha[:, 0].clamp(min=1e-6)
        classes = rendered.features[:, :-1].argmax(dim=1)
        shown = torch.from_numpy(ids_to_occ3d(self.class_names)).to(classes.device)
        found = torch.where(solid, classes, free_label(self.class_names))
        labels, _ = decide_labels(self.model.sample_grid(field, self.grid)[0], self.model.quirks.occupied_by_argmax)
        occupancy = shown[labels.long()].to(torch.uint8).cpu().numpy()
        return Look(torch.where(solid, depth, 0.0), shown[found].long(), occupancy, self.grid)

    def networks(self, config: ModelConfig) -> Networks:
        """Occupancy, and ego motion that was learnt along."""
        return Networks(config, self.model, self.pose_net if self.learns_motion else None)


def _disagreement(
    depth: Float[Tensor, "N H W"], head_depth: Float[Tensor, "N h w"], valid: Bool[Tensor, "N H W"]
) -> Float[Tensor, ""]:
    """Mean difference of log depths, rendered and the depth head's."""
    difference = (depth.log() - interpolate_depth(head_depth, *depth.shape[-2:]).log()).abs()
    return losses.weighted_mean(difference * valid, valid.to(difference.dtype))
