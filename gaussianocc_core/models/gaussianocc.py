# SPDX-License-Identifier: Apache-2.0
"""The network: surround images -> semantic voxels -> Gaussians -> images."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gaussianocc_core.geometry import lattice as lattice_geometry
from gaussianocc_core.geometry import voxels
from gaussianocc_core.models.bev_decoder import BevDecoder
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.models.depth_net import DepthHead, DepthNet, match
from gaussianocc_core.models.detail_head import DETAIL_CHANNELS, DetailHead, measured_at_voxels
from gaussianocc_core.models.gaussian_head import GaussianHead
from gaussianocc_core.models.half_space import half_space_masks
from gaussianocc_core.models.image_encoder import ImageEncoder, Look
from gaussianocc_core.models.lifting import (
    MEASURED_CHANNELS,
    POSITION_CHANNELS,
    SURFACE_CHANNELS,
    LiftPlan,
    encode_positions,
    lift_features,
    plan_lift,
    surface_features,
)
from gaussianocc_core.models.limits import check_limits
from gaussianocc_core.models.matching import Sources
from gaussianocc_core.models.matching_net import MatchingHead
from gaussianocc_core.models.pose_net import PoseNet
from gaussianocc_core.models.quirks import Quirks
from gaussianocc_core.models.voxel_decoder import VoxelDecoder
from gaussianocc_core.rendering.geometry import SplatPlan
from gaussianocc_core.rendering.rasterize import plan_splat, rasterize
from gaussianocc_core.types import Cameras, Gaussians, Lattice, OccupancyField, RenderedViews, VoxelGrid


class GaussianOcc(nn.Module):
    """Encoder, lifting, 3D decoder and Gaussian head in paper order."""

    points: Tensor  # (X, Y, Z, 3) of the lattice, ego frame, m

    def __init__(
        self,
        image_encoder: ImageEncoder,
        lattice: Lattice,
        voxel_decoder: VoxelDecoder | BevDecoder,
        gaussian_head: GaussianHead,
        position: bool,
        quirks: Quirks,
        depth_head: DepthHead | MatchingHead | None = None,
        detail_head: DetailHead | None = None,
    ) -> None:
        """position: whether the decoder expects `encode_positions` beside the lifted features; with a depth head it
        expects `surface_features` behind them."""
        super().__init__()
        self.position = position
        self.quirks = quirks
        self.image_encoder = image_encoder
        self.lattice = lattice
        self.voxel_decoder = voxel_decoder
        self.gaussian_head = gaussian_head
        self.depth_head = depth_head
        self.detail_head = detail_head
        self.register_buffer("points", lattice_geometry.points(lattice), persistent=False)

    @property
    def learns_scale(self) -> bool:
        """Whether the Gaussians' scale is a weight, so that no plan of them lasts."""
        return self.gaussian_head.scale_factor is not None

    def plan(
        self,
        cameras: Cameras,
        valid_mask: Bool[Tensor, "N H W"] | None = None,
        points: Float[Tensor, "X Y Z 3"] | None = None,
    ) -> LiftPlan:
        """Where the lattice points, or a block of them, fall in these cameras; compute once per calibration."""
        return plan_lift(cameras, self.points if points is None else points, valid_mask, self.quirks.lift)

    @property
    def matches(self) -> bool:
        """Whether the images are matched with others."""
        return self.image_encoder.features is not None

    def forward(
        self, images: Float[Tensor, "B N 3 H W"], plans: list[LiftPlan], sources: Sources | None = None
    ) -> OccupancyField:
        """images: RGB 0-1 at network size; plans: one per batch element, for its cameras; sources: for a network that
        matches, what the B N images are matched with (None: nothing).

        The field covers the points of the plans: all of the lattice as a rule, a part of it in training.
        """
        return self.decide_from(self.look(images), plans, sources)

    def look(self, images: Float[Tensor, "B N 3 H W"]) -> Look:
        """The first maps of the images, all in one dimension: what is known before they are matched."""
        return self.image_encoder.look(images.flatten(0, 1))

    def decide_from(self, look: Look, plans: list[LiftPlan], sources: Sources | None = None) -> OccupancyField:
        """`forward` from the images' first maps."""
        features, inv_depth, log_error = self._encode(look, plans, sources)
        volume = self.lift(features, inv_depth, plans, log_error)
        said = self.voxel_decoder(volume)
        if self.detail_head is None:
            return OccupancyField(said, inv_depth, log_error)
        return OccupancyField(said[:, :-DETAIL_CHANNELS], inv_depth, log_error, said[:, -DETAIL_CHANNELS:])

    def encode(
        self, images: Float[Tensor, "B N 3 H W"], plans: list[LiftPlan]
    ) -> tuple[Float[Tensor, "B N C h w"], Float[Tensor, "B N h2 w2"] | None]:
        """Features of the images, and with a depth head where each sees its surface, 1/m."""
        return self._encode(self.look(images), plans, None)[:2]

    def _encode(
        self, look: Look, plans: list[LiftPlan], sources: Sources | None
    ) -> tuple[Float[Tensor, "B N C h w"], Float[Tensor, "B N h2 w2"] | None, Float[Tensor, "B N h2 w2"] | None]:
        """Features; with a depth head inverse depth (1/m), and with matching the log of its expected error."""
        shape = (len(plans), -1)
        rays = self._rays(plans)
        rays = None if rays is None else rays.flatten(0, 1)
        if self.depth_head is None:
            maps = self.image_encoder.decode(look.stride4, rays)
            return self.image_encoder.project(maps).unflatten(0, shape), None, None
        ground = torch.cat([plan.ground for plan in plans if plan.ground is not None])
        if isinstance(self.depth_head, MatchingHead):
            lens = torch.cat([plan.lens for plan in plans if plan.lens is not None])
            maps, found = match(self.image_encoder, self.depth_head, look, sources, rays, ground, lens)
            inv_depth, log_error = found.inv_depth.unflatten(0, shape), found.log_error.unflatten(0, shape)
        else:
            maps = self.image_encoder.decode(look.stride4, rays)
            inv_depth, log_error = self.depth_head(maps, ground)[0].unflatten(0, shape), None
        return self.image_encoder.project(maps).unflatten(0, shape), inv_depth, log_error

    def lift(
        self,
        features: Float[Tensor, "B N C h w"],
        inv_depth: Tensor | None,
        plans: list[LiftPlan],
        log_error: Tensor | None = None,
    ) -> Float[Tensor, "B C2 X Y Z"]:
        """The features at the points of the plans, ego frame."""
        parts = [self._lift(features[b], plans[b], inv_depth, log_error, b) for b in range(len(plans))]
        volume = torch.stack(parts) if len(parts) > 1 else parts[0][None]
        # 3D convolutions on CPUs run twice as fast with channels innermost (measured 2026-11).
        return volume.contiguous(memory_format=torch.channels_last_3d)

    def _lift(
        self,
        features: Float[Tensor, "N C h w"],
        plan: LiftPlan,
        inv_depth: Tensor | None,
        log_error: Tensor | None,
        index: int,
    ) -> Float[Tensor, "C2 X Y Z"]:
        inverse, error = (None if each is None else each[index] for each in (inv_depth, log_error))
        if features.device.type == "cpu":
            from gaussianocc_core.models.lift_cpu import can_fill, filler_of  # here: it imports Numba

            if can_fill(plan, features):
                maps = features.permute(0, 2, 3, 1)
                filled = filler_of(plan, maps, inverse, error, self.position).fill(maps, inverse, error)
                return filled.permute(3, 0, 1, 2)
        lifted = [lift_features(features, plan)]
        if self.position:
            lifted.append(encode_positions(plan.places))
        if inverse is not None:
            lifted.append(surface_features(inverse, plan, error))
        return torch.cat(lifted) if len(lifted) > 1 else lifted[0]

    def _rays(self, plans: list[LiftPlan]) -> Float[Tensor, "B N 3 h w"] | None:
        if not self.image_encoder.rays:
            return None
        return torch.stack([plan.rays for plan in plans if plan.rays is not None])

    def plan_voxels(
        self, cameras: Cameras, grid: VoxelGrid, valid_mask: Bool[Tensor, "N H W"] | None = None
    ) -> LiftPlan:
        """Where the centres of a grid's voxels fall in these cameras, for `free_logits`."""
        return plan_lift(cameras, voxels.centers(grid, cameras.intrinsics.device), valid_mask)

    def free_logits(
        self,
        field: OccupancyField,
        grid: VoxelGrid,
        plans: list[LiftPlan],
        where: Bool[Tensor, "B X Y Z"] | None = None,
    ) -> Float[Tensor, " P"]:
        """At voxels of a grid, element by element: the lattice's, made finer by what is measured there.

        plans: `plan_voxels` of each element's cameras; where: which voxels, None: all.
        """
        coarse = self.sample_grid(OccupancyField(field.logits[:, -1:]), grid)[:, 0]
        where = torch.ones_like(coarse, dtype=torch.bool) if where is None else where
        if self.detail_head is None or field.details is None:
            return coarse[where]
        assert field.inv_depth is not None and field.log_error is not None
        details = self.sample_grid(OccupancyField(field.details), grid)  # (B, F, X, Y, Z)
        parts = []
        for b, here in enumerate(where):
            measured = measured_at_voxels(field.inv_depth[b], field.log_error[b], plans[b])
            free = coarse[b, here]
            parts.append(free + self.detail_head(free, details[b, :, here], measured[:, here]))
        return torch.cat(parts)

    def plan_render(self, cameras: Cameras) -> SplatPlan:
        """Where the Gaussians fall in these cameras of one size; compute once per calibration, for `render`."""
        head, quirks = self.gaussian_head, self.quirks
        visible = half_space_masks(head.means, cameras, quirks.half_spaces)
        return plan_splat(head.means, head.quats, head.scales, cameras, constants=quirks.raster, visible=visible)

    def render(
        self,
        field: OccupancyField,
        cameras: Cameras,
        normalize_depth: bool | None = None,
        plan: SplatPlan | None = None,
    ) -> list[RenderedViews]:
        """Class logits, z-depth (m) and alpha composited into N cameras of one size, per batch element.

        normalize_depth: depth divided by alpha; None: as this model's quirks say. plan: `plan_render` of these cameras.
        """
        normalize = self.quirks.normalize_depth if normalize_depth is None else normalize_depth
        return [render_gaussians(each, cameras, self.quirks, normalize, plan) for each in self.gaussian_head(field)]

    def sample_grid(self, field: OccupancyField, grid: VoxelGrid) -> Float[Tensor, "B K X2 Y2 Z2"]:
        """Logits at the voxels of a published grid (docs/method.md#d, #i.2)."""
        if self.quirks.lattice_shift:
            grid = lattice_geometry.shifted_grid(grid, 0.5 * lattice_geometry.mean_cell_size(self.lattice))
        return lattice_geometry.resample(field.logits, self.lattice, grid)


def render_gaussians(
    gaussians: Gaussians, cameras: Cameras, quirks: Quirks, normalize_depth: bool, plan: SplatPlan | None = None
) -> RenderedViews:
    """Gaussians composited into N cameras of one size; depth is z-depth in metres."""
    views = rasterize(
        gaussians,
        cameras,
        normalize_depth=normalize_depth,
        constants=quirks.raster,
        visible=None if plan is not None else half_space_masks(gaussians.means, cameras, quirks.half_spaces),
        plan=plan,
    )
    if quirks.depth_range is not None:
        views = replace(views, depth=views.depth.clamp(*quirks.depth_range))
    return views


def build_model(config: ModelConfig) -> GaussianOcc:
    """The network that a configuration describes, with fresh weights; ValueError where it cannot or should not be."""
    check_limits(config)
    if config.image_height % 16 or config.image_width % 16:
        raise ValueError(
            f"image_height, image_width: expected multiples of 16, got {config.image_height} x {config.image_width}"
        )
    if any(count % 4 for count in config.lattice.shape):
        raise ValueError(f"lattice.shape: expected multiples of 4, got {config.lattice.shape}")
    decoder, gaussians = config.decoder, config.gaussians
    if config.matching.enabled and not decoder.surface:
        raise ValueError("matching.enabled: needs decoder.surface=true, the depth head that matching speaks through")
    if decoder.detail and not (config.matching.enabled and decoder.kind == "bev"):
        raise ValueError("decoder.detail: needs matching.enabled=true and decoder.kind=bev, whose depth says its error")
    model = GaussianOcc(
        build_image_encoder(config),
        config.lattice,
        build_decoder(config),
        GaussianHead(
            lattice_geometry.points(config.lattice),
            gaussians.scale,
            gaussians.far_radius,
            gaussians.learned,
        ),
        decoder.position,
        config.quirks,
        build_depth_head(config) if decoder.surface else None,
        DetailHead() if decoder.detail else None,
    )
    for module in model.voxel_decoder.modules():
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):  # as the volume, see forward
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
    return model


def build_decoder(config: ModelConfig) -> VoxelDecoder | BevDecoder:
    decoder, classes = config.decoder, len(config.class_names)
    channels_in = config.encoder.feature_channels
    channels_in += POSITION_CHANNELS if decoder.position else 0
    surface = 0 if not decoder.surface else MEASURED_CHANNELS if config.matching.enabled else SURFACE_CHANNELS
    channels_in += surface
    if decoder.kind == "bev":
        details = DETAIL_CHANNELS if decoder.detail else 0
        return BevDecoder(channels_in, decoder.channels, config.lattice.shape[2], classes, surface, details)
    if decoder.kind != "hourglass":
        raise ValueError(f"decoder.kind: expected 'hourglass' or 'bev', got {decoder.kind!r}")
    return VoxelDecoder(
        channels_in,
        decoder.channels,
        decoder.hourglasses,
        decoder.head_blocks,
        classes,
        config.quirks.skipping_hourglasses,
    )


def build_image_encoder(config: ModelConfig) -> ImageEncoder:
    encoder = config.encoder
    return ImageEncoder(
        encoder.backbone,
        encoder.width,
        encoder.up_channels,
        encoder.feature_channels,
        encoder.norm,
        encoder.rays,
        config.matching if config.matching.enabled else None,
    )


def build_depth_head(config: ModelConfig) -> DepthHead | MatchingHead:
    depth = config.depth
    if config.matching.enabled:
        return MatchingHead(
            config.encoder.up_channels[1],
            config.matching,
            (depth.near, depth.far),
            depth.first,
            depth.max_scale,
            depth.ground,
            depth.metric_ground,
        )
    return DepthHead(
        config.encoder.up_channels[1],
        (depth.near, depth.far),
        depth.first,
        depth.max_scale,
        depth.ground,
        depth.metric_ground,
    )


def build_depth_net(config: ModelConfig) -> DepthNet:
    """The depth network of the first stage, with fresh weights; ValueError as `build_model`."""
    check_limits(config)
    return DepthNet(build_image_encoder(config), build_depth_head(config))


def build_pose_net(config: ModelConfig) -> PoseNet:
    """The ego-motion network, with fresh weights; ValueError as `build_model`."""
    check_limits(config)
    pose = config.pose
    return PoseNet(pose.backbone, pose.width, pose.channels, pose.reduction, pose.output_scale)
