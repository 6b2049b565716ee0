# SPDX-License-Identifier: Apache-2.0
"""Stage 2, Gaussian Splatting from Voxels: occupancy that, rendered, explains images and 2D labels (spec e, g).

Without any true pose, depth or occupancy: the rendered depth must carry each camera's neighbouring frames over, with
the ego motion of the first stage, and the rendered classes must be those of the 2D labels where there are any.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gaussianocc_core import losses
from gaussianocc_core.errors import ConfigError, DatasetError
from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry.warp import interpolate_depth, resize_depth
from gaussianocc_core.labels import class_weights
from gaussianocc_core.models.gaussianocc import GaussianOcc
from gaussianocc_core.models.lifting import LiftPlan
from gaussianocc_core.models.pose_net import PoseNet, camera_motions
from gaussianocc_core.preprocess import RigCache, rig_key
from gaussianocc_core.rendering.background import compose_depth, find_background
from gaussianocc_core.rendering.geometry import SplatPlan
from gaussianocc_core.rendering.march import MarchSettings, draw_jitter
from gaussianocc_core.rendering.volume import ray_regularizers, render_volume
from gaussianocc_core.training.gsp import (
    CALIBRATIONS_KEPT,
    batch_element,
    ground_plane,
    network_precision,
    predict_ego_motion,
)
from gaussianocc_core.training.hints import HintSettings, find_hints, hint_error
from gaussianocc_core.training.loader import Batch
from gaussianocc_core.training.motion_search import MotionSearch, scale_length, search_length
from gaussianocc_core.training.photometric import Photometric, temporal_error
from gaussianocc_core.training.surfaces import find_surfaces, plan_surfaces
from gaussianocc_core.types import Cameras, OccupancyField, RenderedViews, VoxelGrid

EGO_MOTIONS = ("learned", "sensor", "joint")
RENDERERS = ("splat", "volume")
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
)  # of the loss


@dataclass(frozen=True)
class GsvConfig:
    """Stage 2; defaults are ours for `tiny`. Published weights (spec k): config/train/gsv_published.yaml."""

    ego_motion: str = "learned"  # by the frozen first stage; "sensor": poses of the data set; "joint": learnt along
    renderer: str = "splat"  # or "volume": ray marching, the published `render_type: prob`
    # Where the depth head is the first stage's, it says how far the learnt motion went.
    length_search: MotionSearch = field(default_factory=MotionSearch)
    start_from_first_stage: bool = True  # image encoder and depth head begin with the first stage's weights
    # And keep them: what a fresh decoder sends back undoes in hundreds of steps what depth learnt in thousands. Only
    # the projection of the features learns then, and the depth head needs no losses. Published: neither.
    freeze_first_stage: bool = True
    cameras_per_step: int = 0  # rendered and compared, drawn anew for each sample; 0: all, as published
    render_height: int = 48  # of the rendered images, pixels; published: 180 of 384
    render_width: int = 88
    photometric: Photometric = field(default_factory=Photometric)
    photometric_weight: float = 1.0
    smoothness: float = 1e-3
    semantic: float = 0.1  # published: 0.02
    entropy: float = 0.1  # on the Gaussians' opacities; without labels always 0 (it would win)
    variation: float = 0.002  # of all logits; published: 0.1; without labels always 0
    # Of volume rendering alone, and without labels always 0; published: 0.01 each, and jitter. Rays are marched once
    # more for the first two.
    ray_entropy: float = 0.0  # of a ray's summed weights
    ray_distortion: float = 0.0  # of how its weights spread, m
    ray_jitter: bool = False  # samples of a ray are moved by up to a tenth of their distance, drawn anew each time
    head: float = 1.0  # weight of the same photometric error on the depth head, where the model has one
    # Of the depth head, with the weight above, where it learns; beside the photometric error, not instead of it.
    hints: HintSettings = field(default_factory=lambda: HintSettings(weight=0.3))
    agreement: float = 0.1  # difference of log depths, rendered and the depth head's; published: no such term
    surface: float = 0.3  # cross-entropy of opacity with what the depth head sees to be occupied, free; published: none
    occupied_weight: float = 1.5  # of an occupied voxel in it, of which there are one in twenty
    reach: float = 20.0  # m to which the depth of what stands up is good enough for voxels
    thickness: float = 1.0  # m behind what stands up that count as occupied too, half as much; 0: the surface alone
    background_depth: float = 80.0  # m, of what rays find that leave the lattice; 0: nothing (published)
    background_logit: float = 5.0  # of free space there

    def __post_init__(self) -> None:
        for name, allowed in (("ego_motion", EGO_MOTIONS), ("renderer", RENDERERS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"gsv.{name}: expected one of {allowed}, got {getattr(self, name)!r}")


class _Plans(NamedTuple):
    """What follows from a calibration alone."""

    lift: LiftPlan
    splat: SplatPlan | None
    small: Cameras  # of the rendering size
    corners: LiftPlan | None  # of the grid's voxels, for the surface term


class Gsv(nn.Module):
    """The occupancy network with what renders it and compares the images."""

    reports = (*_TERMS, "total", "moved")  # names of what `forward` may return
    class_weights: Tensor

    def __init__(
        self,
        model: GaussianOcc,
        pose_net: PoseNet | None,
        config: GsvConfig,
        grid: VoxelGrid,
        frozen: bool = False,
    ) -> None:
        """grid: what is published and evaluated, where the surface term looks; frozen: the image encoder, but for its
        projection, and the depth head do not learn."""
        super().__init__()
        if (pose_net is None) != (config.ego_motion == "sensor"):
            raise ConfigError(
                f"gsv.ego_motion={config.ego_motion}: "
                + ("needs first_stage=FILE, the model file of a gsp run" if pose_net is None else "has no use for one")
            )
        self.model = model
        self.pose_net = pose_net
        self.config = config
        self.grid = grid
        self.frozen = frozen
        if frozen:
            for module in self._frozen_modules():
                module.requires_grad_(False)
            model.image_encoder.project.requires_grad_(True)
        self.register_buffer("class_weights", torch.from_numpy(class_weights()), persistent=False)
        self.precision = "fp32"  # of the networks; geometry and losses are always fp32
        self._plans: RigCache[_Plans] = RigCache(CALIBRATIONS_KEPT)

    def train(self, mode: bool = True) -> Gsv:
        super().train(mode)
        if self.pose_net is not None and self.config.ego_motion == "learned":
            self.pose_net.eval()  # frozen, batch norms included (the published code lets those drift)
        if self.frozen:
            for module in self._frozen_modules():
                module.eval()
        return self

    def _frozen_modules(self) -> list[nn.Module]:
        model = self.model
        return [model.image_encoder] if model.depth_head is None else [model.image_encoder, model.depth_head]

    def forward(self, batch: Batch, progress: float = 0.5) -> dict[str, Tensor]:
        """Named losses, `total` is what is minimised; the names are those of spec section g."""
        config = self.config
        plans = [self._plan(batch, b) for b in range(len(batch))]
        with network_precision(batch.images.device, self.precision):
            field = self.model(batch.jittered()[:, 0], [plan.lift for plan in plans])
        field = field.to(dtype=torch.float32)
        T_target_now = self._ego_motion(batch)
        colours = batch.colours()
        named: dict[str, Tensor] = {}
        for b in range(len(batch)):
            motion = self._measured(batch, b, colours[b], field, T_target_now[b])
            for name, value in self._sample_losses(batch, b, colours[b], field, plans[b], motion).items():
                named[name] = named.get(name, 0.0) + value / len(batch)
        if batch.semantics is not None:
            opacities = torch.sigmoid(-field.logits[:, -1])
            named["entropy"] = config.entropy * losses.opacity_entropy(opacities).mean()
            variation = losses.sum_of_means(losses.total_variation(field.logits)) / 3
            named["variation"] = config.variation * variation
        named["total"] = torch.stack([named[name] for name in _TERMS if name in named]).sum()
        return named

    def _sample_losses(
        self,
        batch: Batch,
        b: int,
        colours: Float[Tensor, "T N 3 H W"],
        field: OccupancyField,
        plans: _Plans,
        T_target_now: Float[Tensor, "S 4 4"],
    ) -> dict[str, Tensor]:
        config = self.config
        one = OccupancyField(field.logits[b : b + 1])
        drawn = self._draw_cameras(len(plans.small))
        cameras, small = (each.select(tuple(each.names[n] for n in drawn))
                          for each in (batch_element(batch.cameras, b), plans.small))  # fmt: skip
        colours, valid = colours[:, drawn], batch.valid[b, drawn]
        height, width = colours.shape[-2:]
        head_depth = None if field.inv_depth is None else 1.0 / field.inv_depth[b, drawn]  # (N, h2, w2)
        views = self.render(one, small, None if plans.splat is None else plans.splat.select(drawn))
        inside, background = self._behind(views, small, head_depth)
        depth = compose_depth(views, background)
        depth = (
            interpolate_depth(depth, height, width) if config.background_depth else resize_depth(depth, height, width)
        )
        T_other_cam = torch.stack([camera_motions(T, cameras.T_ego_cam) for T in T_target_now])
        center = self.model.quirks.warp_pixel_center

        def carried(z: Tensor) -> tuple[Tensor, Tensor]:
            return temporal_error(colours[0], colours[1:], z, cameras.intrinsics, T_other_cam, valid,
                                  config.photometric, center)  # fmt: skip

        error, moved = carried(depth)
        smooth = losses.sum_of_means(losses.smoothness(depth, colours[0]))
        named = {
            "photometric": config.photometric_weight * error,
            "smooth": config.smoothness * smooth,
            "moved": moved,
        }
        if head_depth is not None and config.agreement:
            agreed = (depth.log() - interpolate_depth(head_depth.detach(), height, width).log()).abs()
            named["agreement"] = config.agreement * losses.weighted_mean(agreed * valid, valid.to(agreed.dtype))
        if head_depth is not None and config.head and not self.frozen:
            full = interpolate_depth(head_depth, height, width)
            smooth = losses.sum_of_means(losses.smoothness(full, colours[0]))
            error = carried(full)[0] + config.smoothness * smooth
            if config.hints.weight:
                plane = ground_plane(self.model.depth_head, cameras)
                hints, believed = find_hints(
                    colours[0], colours[1:], full.detach(), plane, cameras.intrinsics, T_other_cam.detach(), valid,
                    config.hints, config.photometric,
                )  # fmt: skip
                error = error + hint_error(full, hints, believed, config.hints)
            named["head"] = config.head * error
        if field.inv_depth is not None and plans.corners is not None:
            named["surface"] = config.surface * self._surface(
                one, field.inv_depth[b].detach(), batch_element(batch.cameras, b), plans.corners
            )
        if batch.semantics is not None:
            named["semantic"] = config.semantic * self._semantic(views, batch.semantics[b, drawn], valid, inside)
            named.update(self._regularize_rays(one, small))
        return named

    def _draw_cameras(self, count: int) -> list[int]:
        """Which cameras' images are compared, in ascending order."""
        wanted = self.config.cameras_per_step
        return sorted(torch.randperm(count)[:wanted].tolist()) if 0 < wanted < count else list(range(count))

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

    def _regularize_rays(self, field: OccupancyField, cameras: Cameras) -> dict[str, Tensor]:
        """Spec section e.7, in place of what splatting has on opacities and logits."""
        config, settings = self.config, self.model.quirks.march
        if config.renderer != "volume" or not (config.ray_entropy or config.ray_distortion):
            return {}
        jitter = self._ray_jitter(cameras, settings)
        found = ray_regularizers(field, self.model.lattice, cameras, settings=settings, jitter=jitter)
        return {
            "ray_entropy": config.ray_entropy * found.entropy,
            "ray_distortion": config.ray_distortion * found.distortion,
        }

    def _behind(
        self, views: RenderedViews, cameras: Cameras, head_depth: Float[Tensor, "N h w"] | None
    ) -> tuple[Bool[Tensor, "N h w"], Float[Tensor, "N h w"] | float]:
        """Pixels whose surface the lattice can hold, and the depth (m) of what is seen through it."""
        return find_background(views, cameras, self.model.lattice, head_depth, self.config.background_depth)

    def _surface(
        self, field: OccupancyField, inv_depth: Float[Tensor, "N h w"], cameras: Cameras, corners: LiftPlan
    ) -> Float[Tensor, ""]:
        """Cross-entropy of the opacity of the grid's voxels with what the depth head sees there (`surfaces`)."""
        occupied, filled, free = find_surfaces(inv_depth, cameras, corners, self.config.thickness, self.config.reach)
        free_logits = self.model.sample_grid(OccupancyField(field.logits[:, -1:]), self.grid)[0, 0]
        weights = self.config.occupied_weight * (occupied + 0.5 * filled) + free
        known = weights > 0
        error = losses.opacity_cross_entropy(free_logits[known], free[known].long(), free=1)
        return losses.weighted_mean(error * weights[known], weights[known])

    def _semantic(
        self,
        views: RenderedViews,
        labels: Tensor,
        valid: Bool[Tensor, "N H W"],
        inside: Bool[Tensor, "N h w"],
    ) -> Float[Tensor, ""]:
        """Cross-entropy of the rendered logits (spec g.3); sky counts everywhere, the rest where the lattice is."""
        height, width = views.depth.shape[-2:]
        free = len(self.class_weights) - 1
        small = losses.resize_labels(labels.long(), height, width)
        shown = losses.resize_labels(valid.long(), height, width) > 0
        small = torch.where(shown & (inside | (small == free)), small, -1)
        logits = views.features
        if self.config.background_depth:
            through = self.config.background_logit * (1.0 - views.alpha[:, 0])
            logits = torch.cat([logits[:, :-1], logits[:, -1:] + through[:, None]], dim=1)
        return losses.weighted_mean(*losses.semantic_cross_entropy(logits, small, self.class_weights))

    def _ego_motion(self, batch: Batch) -> Float[Tensor, "B S 4 4"]:
        if self.pose_net is None:
            if torch.isnan(batch.T_target_now).any():
                raise DatasetError(
                    f"samples {', '.join(batch.tokens)} have no poses; use gsv.ego_motion=learned with a first stage"
                )
            return batch.T_target_now
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.ego_motion == "joint"):
            return predict_ego_motion(self.pose_net, batch, precision=self.precision)

    def _measured(
        self,
        batch: Batch,
        b: int,
        colours: Float[Tensor, "T N 3 H W"],
        field: OccupancyField,
        T_target_now: Float[Tensor, "S 4 4"],
    ) -> Float[Tensor, "S 4 4"]:
        """The learnt motion, as long as the frozen depth head says that it was."""
        config = self.config
        if (
            config.ego_motion != "learned"
            or not self.frozen
            or field.inv_depth is None
            or config.length_search.factor == 1
        ):
            return T_target_now
        depth = interpolate_depth(1.0 / field.inv_depth[b].detach(), *colours.shape[-2:])
        guesses = [(depth, batch.valid[b])]
        factor = search_length(colours, guesses, batch_element(batch.cameras, b), T_target_now, config.length_search)
        return scale_length(T_target_now, factor)

    def _plan(self, batch: Batch, b: int) -> _Plans:
        cameras, valid = batch_element(batch.cameras, b), batch.valid[b]
        return self._plans.find(rig_key(cameras, valid), lambda: self._make_plans(cameras, valid))

    @torch.no_grad()
    def _make_plans(self, cameras: Cameras, valid: Bool[Tensor, "N H W"]) -> _Plans:
        small = camera_geometry.resize(cameras, self.config.render_width, self.config.render_height)
        on_cpu = cameras.intrinsics.device.type == "cpu" and self.config.renderer == "splat"
        splat = self.model.plan_render(small) if on_cpu and not self.model.learns_scale else None
        looks = self.config.surface > 0 and self.model.depth_head is not None
        corners = plan_surfaces(cameras, self.grid, valid) if looks else None
        return _Plans(self.model.plan(cameras, valid), splat, small, corners)
