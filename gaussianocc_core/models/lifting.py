# SPDX-License-Identifier: Apache-2.0
"""Lift image features onto lattice points by projection (docs/method.md#b.2).

A point's feature is the mean over the cameras that see it of the bilinearly sampled feature map; zero where none does.
Only about a sixth of all (camera, point) pairs are visible, so the visible ones are found once per calibration
(`LiftPlan`) and only those are sampled: on the CPU by `sparse_lift`, elsewhere by grid_sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry.ground_plane import ground_inv_depth
from gaussianocc_core.types import Cameras

if TYPE_CHECKING:
    from gaussianocc_core.models.sparse_lift import LiftMatrix

POSITION_CHANNELS = 4


def encode_positions(positions: Float[Tensor, "*shape 3"]) -> Float[Tensor, "C ..."]:
    """Height, range and bearing of points in the ego frame, each of order one, as channels for the 3D network.

    A convolution cannot tell how far away it is working, yet "these features at this range" is what makes a surface.
    The published network has no such input.
    """
    x, y, z = positions.unbind(-1)
    distance = torch.sqrt(x * x + y * y).clamp(min=1e-3)
    return torch.stack([z / 3.0, distance / 20.0 - 1.0, x / distance, y / distance])


@dataclass(frozen=True)
class LiftConstants:
    """Every number in which ways to lift differ. Defaults: ours; `PUBLISHED_LIFT` is the released weights' way.

    Lengths are pixels of the input image; one pixel of the stride-4 feature map is 4 of them.
    """

    near: float = 1e-3  # m; a camera sees no point at this z-depth or nearer
    view_shift: float = 0.0  # px; the seen area is the image moved left and up by this
    stretch: float = 0.0  # px; pixel u is sampled at 2 u / (width - stretch) - 1, where -1..1 is from edge to edge
    padding: str = "border"  # of the feature map: "border" repeats its edge, "zeros" fades to zero beyond its outer row
    mean_of_nonzero: bool = False  # per channel, over the cameras whose sample is not zero, instead of all that see
    count_epsilon: float = 0.0  # added to the number of those cameras, only with mean_of_nonzero

    def __post_init__(self) -> None:
        if self.padding not in ("border", "zeros"):
            raise ValueError(f"padding: expected 'border' or 'zeros', got {self.padding!r}")
        if self.mean_of_nonzero and not self.count_epsilon > 0:
            raise ValueError(f"count_epsilon: expected more than 0 with mean_of_nonzero, got {self.count_epsilon}")


OUR_LIFT = LiftConstants()
# docs/method.md#b.2: valid strictly within -0.5..w-0.5 of the feature map; normalised as if -1 and 1 were the centres
# of its outer pixels, sampled as if they were its edges: u lands on u w / (w - 1) - 0.5 instead of u - 0.5.
PUBLISHED_LIFT = LiftConstants(
    near=0.0, view_shift=2.0, stretch=4.0, padding="zeros", mean_of_nonzero=True, count_epsilon=1e-6
)


@dataclass(frozen=True)
class LiftPlan:
    """Which points each camera sees and where, for one calibration."""

    places: Float[Tensor, "*shape 3"]  # of the points, ego frame, m
    points: tuple[Int[Tensor, " _"], ...]  # per camera, flat indices of the points it sees
    positions: tuple[Float[Tensor, "_ 2"], ...]  # per camera, where: -1..1 from edge to edge of the image
    weight: Float[Tensor, "*shape"]  # 1 / number of cameras that see the point; 0 where none does
    constants: LiftConstants = OUR_LIFT
    depths: tuple[Float[Tensor, " _"], ...] = ()  # per camera, z of the points it sees, m
    rays: Float[Tensor, "N 3 h w"] | None = None  # unit viewing directions in the ego frame at stride 4
    ground: Float[Tensor, "N h2 w2"] | None = None  # 1/m, of the plane z = 0, at stride 2
    lens: Float[Tensor, "N 4 h w"] | None = None  # `camera_geometry.lens_maps` at stride 4
    # Built on first use for one size and type of feature maps; a plan made with dataclasses.replace starts without.
    _matrices: dict[tuple[int, int, torch.dtype], LiftMatrix] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    fillers: dict[tuple, Any] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )  # of `lift_cpu`, likewise

    @property
    def seen(self) -> Bool[Tensor, "*shape"]:
        return self.weight > 0

    def matrix(self, height: int, width: int, dtype: torch.dtype) -> LiftMatrix:
        """The lift from feature maps of this size as a sparse matrix; a few hundredths of a second the first time."""
        from gaussianocc_core.models import sparse_lift  # here: it imports Numba

        key = (height, width, dtype)
        if key not in self._matrices:
            self._matrices[key] = sparse_lift.build_matrix(
                self.points, self.positions, self.weight.flatten(), height, width, self.constants.padding, dtype
            )
        return self._matrices[key]


def plan_lift(
    cameras: Cameras,
    positions: Float[Tensor, "*shape 3"],
    valid_mask: Bool[Tensor, "N H W"] | None = None,
    constants: LiftConstants = OUR_LIFT,
) -> LiftPlan:
    """Projects ego-frame points (metres) into N pinhole cameras of equal size; invalid pixels see nothing."""
    width, height = cameras.width[0], cameras.height[0]
    flat = positions.reshape(-1, 3)
    pixels, depth = camera_geometry.project(flat, cameras.intrinsics, cameras.T_ego_cam)  # (N, P, 2), (N, P)
    shifted = pixels + constants.view_shift
    visible = camera_geometry.in_view(shifted, depth, width, height, constants.near)
    if valid_mask is not None:
        column = pixels[..., 0].clamp(0, width - 1).long()
        row = pixels[..., 1].clamp(0, height - 1).long()
        visible &= valid_mask.flatten(1).gather(1, row * width + column)
    size = torch.tensor([width, height], device=pixels.device, dtype=pixels.dtype)
    index = tuple(camera.nonzero().squeeze(1) for camera in visible)
    where = tuple(2.0 * pixels[n, index[n]] / (size - constants.stretch) - 1.0 for n in range(len(cameras)))
    count = visible.sum(dim=0)
    weight = torch.where(count > 0, 1.0 / count.clamp(min=1), 0.0).to(positions.dtype)
    return LiftPlan(
        positions,
        index,
        where,
        weight.view(positions.shape[:-1]),
        constants,
        tuple(depth[n, index[n]] for n in range(len(cameras))),
        camera_geometry.ego_rays(cameras.intrinsics, cameras.T_ego_cam, width, height, stride=4),
        ground_inv_depth(cameras.intrinsics, cameras.T_ego_cam, width, height, stride=2),
        camera_geometry.lens_maps(cameras.intrinsics, width, height, stride=4),
    )


def lift_features(features: Float[Tensor, "N C h w"], plan: LiftPlan) -> Float[Tensor, "C ..."]:
    """Mean over the seeing cameras of the features at each point of the plan."""
    if plan.constants.mean_of_nonzero:
        return _lift_nonzero(features, plan)
    if features.device.type == "cpu" and features.dtype in (torch.float32, torch.float64):
        from gaussianocc_core.models import sparse_lift  # here: it imports Numba

        lifted = sparse_lift.apply_matrix(features, plan.matrix(features.shape[2], features.shape[3], features.dtype))
        return lifted.T.unflatten(1, plan.weight.shape)
    return _lift_by_sampling(features, plan)


def _lift_by_sampling(features: Float[Tensor, "N C h w"], plan: LiftPlan) -> Float[Tensor, "C ..."]:
    """`lift_features` by grid_sample, which every device and number type has."""
    # One row of channels per point, so that index_add moves contiguous memory.
    lifted = features.new_zeros(plan.weight.numel(), features.shape[1])
    for n, index in enumerate(plan.points):
        lifted = lifted.index_add(0, index, _sample(features, plan, n))
    lifted = lifted * plan.weight.to(features.dtype).reshape(-1, 1)
    return lifted.T.unflatten(1, plan.weight.shape)


SURFACE_CHANNELS = 3
MEASURED_CHANNELS = 5  # of a depth head that says how sure it is
SHARPEST_AT_POINTS = 0.25  # m: a lattice point stands for what is around it


def surface_features(
    inv_depth: Float[Tensor, "N h w"],
    plan: LiftPlan,
    log_error: Float[Tensor, "N h w"] | None = None,
    sharpest: float = SHARPEST_AT_POINTS,
    nearest: bool = False,
) -> Float[Tensor, "C ..."]:
    """Whether points lie at, in front of or behind the surface that each camera says it sees; mean over the cameras.

    inv_depth: 1/m, over the whole image. Without log_error (log of the expected error of log depth) SURFACE_CHANNELS:
    at a surface 10 m away "at" fades over 0.7 m, and over more farther out, where depth is less certain. With it
    MEASURED_CHANNELS: "at" fades over the error that is expected there, and two more say how sure it is: the share of
    the surface that may be at the point, and the error itself.

    sharpest: m, the least width of "at" with log_error; nearest: the maps are not interpolated.
    """
    count = SURFACE_CHANNELS if log_error is None else MEASURED_CHANNELS
    channels = inv_depth.new_zeros(plan.weight.numel(), count)
    mode = "nearest" if nearest else "bilinear"
    for n, index in enumerate(plan.points):
        where = plan.positions[n].to(inv_depth.dtype)[None, None]  # (1, 1, V, 2)
        maps = inv_depth[n][None] if log_error is None else torch.stack([inv_depth[n], log_error[n]])
        sampled = F.grid_sample(maps[None], where, mode, padding_mode="border", align_corners=False)[0, :, 0]
        surface, depth = 1.0 / sampled[0], plan.depths[n].to(inv_depth.dtype)
        if log_error is None:
            offset = (depth - surface) / (0.4 + 0.03 * surface)
            more = []
        else:
            width = (sharpest**2 + (surface * sampled[1].exp()) ** 2).sqrt()
            offset = (depth - surface) / width
            more = [torch.exp(-0.5 * offset**2) * (sharpest / width), sampled[1]]
        at = torch.exp(-0.5 * offset**2)
        each = torch.stack([at, torch.sigmoid(-4 * offset - 6), torch.sigmoid(4 * offset - 6), *more])
        channels = channels.index_add(0, index, each.T)
    channels = channels * plan.weight.to(inv_depth.dtype).reshape(-1, 1)
    return channels.T.unflatten(1, plan.weight.shape)


def _lift_nonzero(features: Float[Tensor, "N C h w"], plan: LiftPlan) -> Float[Tensor, "C ..."]:
    """Per channel, the sum over cameras / (epsilon + number of cameras whose sample is not zero)
    (docs/method.md#b.2)."""
    total = features.new_zeros(plan.weight.numel(), features.shape[1])
    count = torch.zeros(total.shape, dtype=torch.uint8, device=features.device)
    for n, index in enumerate(plan.points):
        sampled = _sample(features, plan, n)
        total = total.index_add(0, index, sampled)
        count.index_add_(0, index, (sampled != 0).to(torch.uint8))
    lifted = total / (count + plan.constants.count_epsilon)
    return lifted.T.unflatten(1, plan.weight.shape)


def _sample(features: Float[Tensor, "N C h w"], plan: LiftPlan, camera: int) -> Float[Tensor, "V C"]:
    """Bilinear features of one camera at the V points it sees."""
    where = plan.positions[camera].to(features.dtype)[None, None]  # (1, 1, V, 2)
    sampled = F.grid_sample(
        features[camera : camera + 1], where, padding_mode=plan.constants.padding, align_corners=False
    )  # (1, C, 1, V)
    return sampled[0, :, 0].T
