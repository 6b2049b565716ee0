# SPDX-License-Identifier: Apache-2.0
"""Stage 1, Gaussian Splatting for Projection: depth and ego motion with metric scale from the rig alone (spec f).

Two constraints meet in one depth map. Over time, the right depth and motion explain each camera's neighbouring frames,
up to one common factor. Across cameras, every pixel becomes a Gaussian; those in the region that an adjacent camera
shares are splatted into it, and only at the true scale do they land where that camera sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gaussianocc_core import losses
from gaussianocc_core.data.sources import STEPS
from gaussianocc_core.geometry import cameras as camera_geometry
from gaussianocc_core.geometry import transforms
from gaussianocc_core.geometry.overlap import OverlapSettings, overlap_masks, overlapping_pairs
from gaussianocc_core.models.depth_net import DepthHead, DepthNet, DepthPrediction, predict_depth
from gaussianocc_core.models.pose_net import EgoMotion, PoseNet, camera_motions
from gaussianocc_core.preprocess import RigCache, rig_key
from gaussianocc_core.training.cross_view import compare_everywhere, compare_overlaps
from gaussianocc_core.training.hints import HintSettings, find_hints, hint_error, hinted_pixels
from gaussianocc_core.training.loader import Batch
from gaussianocc_core.training.motion_search import MotionSearch, length_error, scale_length, search_length
from gaussianocc_core.training.photometric import Photometric, temporal_error
from gaussianocc_core.types import Cameras

_TERMS = ("temporal", "smooth", "length", "anchor", "hints", "cross")  # of the loss
_ABOUT_THE_PLANE = 0.25  # difference of log depths
_FARTHEST = 1e-3  # 1/m
CALIBRATIONS_KEPT = 8  # what follows from them: one rig, mirrored, in a few data sets
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class GspConfig:
    """Stage 1. Values that the paper does not state are ours; docs/training.md lists the differences."""

    temporal: Photometric = field(default_factory=lambda: Photometric(ssim_weight=1.0, l1_weight=0.15, levels=4))
    cross: Photometric = field(default_factory=lambda: Photometric(ssim_weight=1.0, l1_weight=0.15, auto_mask=False))
    # A shared pixel weighs ten times as much as another: a tenth of them is shared, and their mean counts.
    cross_weight: float = 0.3  # 0: without the cross-view splatting
    mask_overlap: bool = True  # False: every pixel is splatted into every camera, so that each view draws itself
    # Cameras of a set fire one after another while the robot moves: the learnt motion places each where it was.
    # Without (as published) scale is wrong by the share that this has of the distance between the cameras.
    place_by_motion: bool = True
    overlap: OverlapSettings = field(default_factory=OverlapSettings)
    hints: HintSettings = field(default_factory=HintSettings)
    length_search: MotionSearch = field(default_factory=MotionSearch)  # of how far the rig went
    # Depth and motion may shrink together; over time nothing resists. The height of the cameras over the ground does:
    # motion must explain the ground at its own depth too. Without effect where `model.depth.ground` is 0 (published).
    anchor_weight: float = 1.0
    anchor: Photometric = field(default_factory=lambda: Photometric(ssim_weight=1.0, l1_weight=0.15, levels=2))
    smoothness: float = 1e-3
    # Fresh weights explain two frames best by no motion and endless depth, and stay there. For this share of the run
    # only motion is learnt, against the depth that fresh weights say; where that is the ground's, the rest does not
    # count. Nothing else may move that depth meanwhile: it is metric, and so is the motion that explains it.
    motion_share: float = 0.08
    motion_steps: int = 150  # but no fewer: it takes as many to find its length, however short the run
    # Hints weigh this share of their weight while motion is still finding its length: wrong ones lead astray.
    early_hints: float = 0.15
    # Once there is structure, after this share, lengths are searched and hints weigh in full. Then, and again at the
    # end of the run, the common factor of depth and motion is searched by the cross-view error, unless the ground is
    # where the base frame says (`model.depth.metric_ground`). Before, the factor stays: while most depth is wrong, near
    # fits best.
    search_at: float = 0.25
    search_factor: float = 3.0  # from 1/3 to 3 times what the depth network says; 1: no search
    search_steps: int = 33
    # A factor must pay for itself: its error counts as (1 + cost log^2 factor) times as much. Where depth is still
    # wrong, errors are about the same everywhere, and the least of them says nothing.
    search_cost: float = 0.2
    search_batches: int = 12
    refine_share: float = 0.2  # last share of the run: motion fixed, cross-view loss off; published: 2 of 10 epochs

    def __post_init__(self) -> None:
        if self.early_hints < 0 or self.search_cost < 0 or self.motion_steps < 0:
            raise ValueError("gsp: expected early_hints, search_cost and motion_steps of at least 0")

    def for_steps(self, steps: int) -> GspConfig:
        """With the shares of a run of so many steps: in a short one motion learns for more of it, up to two fifths."""
        if not self.motion_share:  # from weights that know motion
            return self
        motion = max(self.motion_share, min(self.motion_steps / steps, 0.4))
        return replace(self, motion_share=motion, search_at=max(self.search_at, min(1.5 * motion, 0.6)))


class Gsp(nn.Module):
    """Depth network, ego-motion network and the one factor that both are multiplied with."""

    reports = (*_TERMS, "total", "scale", "moved", "speed")  # names of what `forward` may return
    log_scale: Tensor
    search_sums: Tensor

    def __init__(self, depth_net: DepthNet, pose_net: PoseNet, config: GspConfig) -> None:
        super().__init__()
        self.depth_net = depth_net
        self.pose_net = pose_net
        self.config = config
        # Depth and translation share it, so the temporal loss does not resist when the cross-view loss moves the scale.
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("search_sums", torch.zeros(2, config.search_steps))  # errors and pixels by factor
        self.precision = "fp32"  # of the networks; geometry and losses are always fp32
        self._masks: RigCache[Tensor] = RigCache(CALIBRATIONS_KEPT)

    # ---- the method ------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, progress: float = 0.5) -> dict[str, Tensor]:
        """Named losses, `total` is what is minimised; progress: share of the run that is done, 0-1."""
        config = self.config
        refining = progress >= 1.0 - config.refine_share
        learning_motion = progress < config.motion_share
        self.log_scale.requires_grad_(progress >= config.search_at and not refining)  # it is the motion's too
        prediction = self.predict_depth(batch)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not refining):
            T_target_now = self.ego_motion(batch)
        named: dict[str, Tensor] = {}
        for b in range(len(batch)):
            depth, scale = prediction.depth[b], prediction.scale[b]
            if learning_motion:
                parts = self._motion_losses(batch, b, depth.detach(), T_target_now[b])
            else:
                parts = self._losses(batch, b, depth, scale, T_target_now[b], progress >= config.search_at, refining)
            for name, value in parts.items():
                named[name] = named.get(name, 0.0) + value / len(batch)
        named["total"] = torch.stack([named[name] for name in _TERMS if name in named]).sum()
        named["scale"] = self.log_scale.detach().exp()
        return named

    def _motion_losses(
        self, batch: Batch, b: int, depth: Float[Tensor, "N H W"], T_target_now: Float[Tensor, "S 4 4"]
    ) -> dict[str, Tensor]:
        """Of the first share of a run: motion alone, against the depth that fresh weights say.

        Without the search: motion grows from rest, where no length fits better than another.
        """
        valid = batch.valid[b] & self._meets_ground(batch_element(batch.cameras, b))
        return self._temporal(batch, b, depth, T_target_now, valid, self.config.temporal)

    def _losses(
        self,
        batch: Batch,
        b: int,
        depth: Float[Tensor, "N H W"],
        scale: Float[Tensor, "N H W"],
        T_target_now: Float[Tensor, "S 4 4"],
        established: bool,
        refining: bool,
    ) -> dict[str, Tensor]:
        """Of the rest: depth, and while it is not being refined motion and scale too.

        established: there is structure, so that depth may say how far the rig went. Of a depth that follows motion
        and a motion that follows it, both would shrink to nothing.
        """
        config, cameras, valid = self.config, batch_element(batch.cameras, b), batch.valid[b]
        colours, said = batch.colours()[b], depth.detach()
        plane = ground_plane(self.depth_net.head, cameras, self.log_scale.detach().exp())
        # Only while the cross-view loss resists: depth and motion that follow each other shrink together.
        resists = config.cross_weight > 0 and not refining and bool(overlapping_pairs(self._overlap(cameras)))
        guesses = [(said, valid)] if resists else []
        if plane is not None:
            guesses.append((1.0 / plane.clamp(min=_FARTHEST), valid & self._is_ground(said, plane, cameras)))
        parts, motion = self._search(batch, b, guesses if established else [], T_target_now)
        silent = None
        if config.hints.weight:
            T_other_cam = torch.stack([camera_motions(T, cameras.T_ego_cam) for T in motion.detach()])
            hints, believed = find_hints(
                colours[0], colours[1:], said, plane, cameras.intrinsics, T_other_cam, valid, config.hints,
                config.temporal,
            )  # fmt: skip
            error = hint_error(depth, hints, believed, config.hints)
            parts["hints"] = error if established else config.early_hints * error
            silent = hinted_pixels(believed, *depth.shape[-2:]) if established else None
        parts.update(self._temporal(batch, b, depth, motion, valid, config.temporal, silent))
        smooth = losses.sum_of_means(losses.smoothness(depth, colours[0]))
        parts["smooth"] = config.smoothness * smooth
        if config.anchor_weight and plane is not None and not refining:
            anchor = self._temporal(batch, b, guesses[-1][0], motion, guesses[-1][1], config.anchor)
            parts["anchor"] = config.anchor_weight * anchor["temporal"]
        if config.cross_weight and not refining:
            placed = self._place(batch, b, motion.detach())
            parts["cross"] = config.cross_weight * self.cross_view(colours[0], depth, scale, cameras, valid, placed)
        return parts

    def _search(
        self,
        batch: Batch,
        b: int,
        guesses: list[tuple[Float[Tensor, "N H W"], Bool[Tensor, "N H W"]]],
        T_target_now: Float[Tensor, "S 4 4"],
    ) -> tuple[dict[str, Tensor], Float[Tensor, "S 4 4"]]:
        """What the search teaches the network, and the motion at the length that it found; see `search_length`."""
        config, parts = self.config.length_search, {}
        if config.factor > 1 and guesses:
            factor = search_length(
                batch.colours()[b], guesses, batch_element(batch.cameras, b), T_target_now.detach(), config
            )
            if T_target_now.requires_grad:
                # The common scale cannot make it less: depth would be scaled along.
                fixed = self.log_scale.detach().exp() / self.log_scale.exp()
                parts["length"] = config.weight * length_error(scale_length(T_target_now, fixed), factor)
            T_target_now = scale_length(T_target_now, factor)
        return parts, T_target_now

    def _temporal(
        self,
        batch: Batch,
        b: int,
        depth: Float[Tensor, "N H W"],
        T_target_now: Float[Tensor, "S 4 4"],
        valid: Bool[Tensor, "N H W"],
        settings: Photometric,
        silent: Bool[Tensor, "N H W"] | None = None,
    ) -> dict[str, Tensor]:
        cameras, colours = batch_element(batch.cameras, b), batch.colours()[b]
        T_other_cam = torch.stack([camera_motions(T, cameras.T_ego_cam) for T in T_target_now])
        error, moved = temporal_error(
            colours[0], colours[1:], depth, cameras.intrinsics, T_other_cam, valid, settings, silent=silent
        )
        speed = T_target_now[STEPS.index(1), :3, 3].detach().norm()  # m per frame
        return {"temporal": error, "moved": moved, "speed": speed}

    def predict_depth(self, batch: Batch) -> DepthPrediction:
        """Metric depth and Gaussian scale of the current frame, (B, N, H, W)."""
        images = batch.jittered()[:, 0]
        return self.scaled_depth(images, batch.cameras)

    def scaled_depth(self, images: Float[Tensor, "B N 3 H W"], cameras: Cameras) -> DepthPrediction:
        with network_precision(images.device, self.precision):
            prediction = predict_depth(self.depth_net, images, cameras)
        return DepthPrediction(prediction.depth.float() * self.log_scale.exp(), prediction.scale.float())

    def _is_ground(
        self, depth: Float[Tensor, "N H W"], plane: Float[Tensor, "N H W"], cameras: Cameras
    ) -> Bool[Tensor, "N H W"]:
        """Pixels of which the network says about what the plane of the ground does; they teach motion its length."""
        return self._meets_ground(cameras) & ((depth * plane).log().abs() < _ABOUT_THE_PLANE)

    def _meets_ground(self, cameras: Cameras) -> Bool[Tensor, "N H W"] | bool:
        """Pixels of which fresh weights say what they know, the plane's depth, well within their farthest; else all."""
        meets = self._sees_ground(cameras)
        return True if meets is None or not bool(meets.any()) else meets

    def _sees_ground(self, cameras: Cameras) -> Bool[Tensor, "N H W"] | None:
        head = self.depth_net.head
        plane = ground_plane(head, cameras)
        return plane > 2.0 * head.first_inv_depth if plane is not None else None

    def _ground_says_scale(self, cameras: Cameras) -> bool:
        """Whether the height of the cameras over the ground does, which is the better witness.

        What depth still gets wrong, the cross-view error prefers to see nearer than it is: over whole runs its least
        was at 0.87 to 0.93 of a scale that was right (measured 2026-11), and depth grew back as soon as it might.
        """
        sees = self._sees_ground(cameras) if self.depth_net.head.metric_ground else None
        return sees is not None and bool(sees.any())

    def ego_motion(self, batch: Batch) -> Float[Tensor, "B S 4 4"]:
        """Points of the ego frame now in the ego frame at each neighbour (metres)."""
        return predict_ego_motion(self.pose_net, batch, self.log_scale.exp(), self.precision)

    def cross_view(
        self,
        images: Float[Tensor, "N 3 H W"],
        depth: Float[Tensor, "N H W"],
        scale: Float[Tensor, "N H W"],
        cameras: Cameras,
        valid: Bool[Tensor, "N H W"],
        placed: Cameras | None = None,
    ) -> Float[Tensor, ""]:
        """Error of each camera's shared pixels against what the adjacent camera's Gaussians draw there.

        cameras: by calibration, which overlap follows from; placed: where each was at its own image time.
        """
        placed = placed or cameras
        if not self.config.mask_overlap:
            return compare_everywhere(images, depth, scale, placed, valid, self.config.cross)
        masks = self._overlap(cameras) & valid[:, None]
        total, count = compare_overlaps(images, depth, scale, placed, masks, self.config.cross)
        return total / count.clamp(min=1.0)

    def _place(
        self, batch: Batch, b: int, T_target_now: Float[Tensor, "S 4 4"], factor: Tensor | float = 1.0
    ) -> Cameras:
        """The cameras of a sample in the ego frame of the anchor's image time; factor: on the length of the motion."""
        cameras = batch_element(batch.cameras, b)
        if batch.lags is None or not self.config.place_by_motion:
            return cameras
        lags = batch.lags[b]
        towards = T_target_now[(lags > 0).long()].clone()  # STEPS: before, after
        towards[:, :3, 3] *= factor
        T_then_now = transforms.take_share(towards, lags.abs())
        return replace(cameras, T_ego_cam=transforms.invert(T_then_now) @ cameras.T_ego_cam)

    def _overlap(self, cameras: Cameras) -> Bool[Tensor, "N N H W"]:
        """Masks of this calibration; they follow from it alone, so they are made once; a mirrored rig is another."""
        return self._masks.find(rig_key(cameras), lambda: overlap_masks(cameras, self.config.overlap))

    # ---- scale -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def before_step(self, batches: Sequence[Batch], step: int, steps: int, all_reduce: Callable[[Tensor], None]) -> str:
        """Looks for the scale once there is structure; returns a line for the log when it was found."""
        config = self.config
        if config.search_factor <= 1 or not config.cross_weight or not config.mask_overlap:
            return ""
        windows = (int(config.search_at * steps), steps - config.search_batches)
        first = next((start for start in windows if start <= step < start + config.search_batches), None)
        if first is None:
            return ""
        says = [
            self._ground_says_scale(batch_element(batch.cameras, b)) for batch in batches for b in range(len(batch))
        ]
        if says and all(says):
            return ""
        if step == first:
            self.search_sums.zero_()
        grid = torch.linspace(-1, 1, config.search_steps) * float(np.log(config.search_factor))
        found = torch.zeros_like(self.search_sums)
        for batch in batches:
            prediction, motion = self.predict_depth(batch), self.ego_motion(batch)
            for k, log_factor in enumerate(grid):
                torch.manual_seed(step)  # the same sides of the overlaps for every factor
                for b in range(len(batch)):
                    cameras = batch_element(batch.cameras, b)
                    sums = compare_overlaps(
                        batch.colours()[b, 0], prediction.depth[b] * log_factor.exp(), prediction.scale[b],
                        self._place(batch, b, motion[b], log_factor.exp()),
                        self._overlap(cameras) & batch.valid[b][:, None], config.cross,
                    )  # fmt: skip
                    found[:, k] += torch.stack(sums)
        all_reduce(found)
        self.search_sums += found
        if step + 1 < first + config.search_batches:
            return ""
        sums, counts = self.search_sums
        if not bool(counts.any()):
            return "scale: not found, no camera sees what another one sends; do they overlap?"
        # At a wrong scale hardly anything may be drawn, and that little by chance fit.
        errors = torch.where(counts > 0.5 * counts.max(), sums / counts.clamp(min=1.0), torch.inf)
        chosen = int((errors * (1.0 + config.search_cost * grid.to(errors.device) ** 2)).argmin())
        best = grid[chosen]
        self.log_scale += best.to(self.log_scale.device)
        return (
            f"scale: cross-view error is least at {best.exp():.2f} times the depth so far "
            f"({errors[chosen]:.3f}, without a change {errors[len(errors) // 2]:.3f})"
        )


def network_precision(device: torch.device, precision: str) -> torch.autocast:
    """Autocast for the networks of a stage; "fp32": none."""
    return torch.autocast(device.type, PRECISIONS[precision], precision != "fp32")


def predict_ego_motion(
    pose_net: PoseNet, batch: Batch, scale: Tensor | float = 1.0, precision: str = "fp32"
) -> Float[Tensor, "B S 4 4"]:
    """Points of the ego frame now in the ego frame at each neighbour, from image pairs in temporal order."""
    frames = batch.jittered()
    earlier = torch.cat([frames[:, 1], frames[:, 0]])  # (before, now), (now, after)
    later = torch.cat([frames[:, 0], frames[:, 2]])
    with network_precision(earlier.device, precision):
        motion = pose_net(earlier, later)
    motion = EgoMotion(motion.axis_angle.float(), motion.translation.float() * scale)
    T_later_earlier = motion.T_later_earlier()
    before, after = T_later_earlier.chunk(2)
    return torch.stack([transforms.invert(before), after], dim=1)


def batch_element(cameras: Cameras, index: int) -> Cameras:
    return replace(cameras, intrinsics=cameras.intrinsics[index], T_ego_cam=cameras.T_ego_cam[index])


def ground_plane(
    head: DepthHead | None, cameras: Cameras, scale: Tensor | float = 1.0
) -> Float[Tensor, "N H W"] | None:
    """Inverse depth (1/m) of the ground where the head starts from it.

    scale: learnt factor on what the head says; of no effect where the plane has a scale of its own.
    """
    if head is None or not head.ground:
        return None
    size = cameras.width[0], cameras.height[0]
    plane = camera_geometry.ground_inv_depth(cameras.intrinsics, cameras.T_ego_cam, *size, stride=1)
    return plane if head.metric_ground else plane / (head.ground * scale)
