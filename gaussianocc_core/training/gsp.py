# SPDX-License-Identifier: Apache-2.0
"""Stage 1, Gaussian Splatting for Projection: depth and ego motion with metric scale from the rig alone
(docs/method.md#f, #n).

Two constraints meet in one depth map. Over time, the right depth and motion explain each camera's neighbouring frames,
up to one common factor. Across cameras, every pixel becomes a Gaussian; those in the region that an adjacent camera
shares are splatted into it, and only at the true scale do they land where that camera sees them.

What is learnt when stands in `phases.py`, the search for the common factor in `scale.py`, how far the rig went in
`motion_search.py`, the hypotheses that help depth along in `hints.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gaussianocc_core import losses
from gaussianocc_core.data.sources import OFFSETS
from gaussianocc_core.errors import DatasetError
from gaussianocc_core.geometry.overlap import overlap_masks, overlapping_pairs
from gaussianocc_core.models.config import ModelConfig
from gaussianocc_core.models.depth_net import DepthNet, DepthPrediction, depth_prediction, predict_depth
from gaussianocc_core.models.matching_net import MatchingHead
from gaussianocc_core.models.pose_net import PoseNet
from gaussianocc_core.preprocess import RigCache, rig_key
from gaussianocc_core.training.config import GspConfig
from gaussianocc_core.training.cross_view import compare_everywhere, compare_overlaps
from gaussianocc_core.training.ego import neighbour_motions, place_cameras, predict_ego_motion
from gaussianocc_core.training.ground import compare_ground, plane_depth
from gaussianocc_core.training.hints import find_hints, hint_error, hinted_pixels
from gaussianocc_core.training.judging import (
    AGREES,
    EXPECTED,
    EXPECTED_FOLLOWED,
    EXPLAINS,
    FOLLOWED,
    FROM_AFAR,
    GROUND,
    LENGTH,
    SCALE,
    WITH_ITSELF,
    Seen,
    Values,
    against_points,
    disagreement,
)
from gaussianocc_core.training.loader import Batch
from gaussianocc_core.training.matched import ViewDropout, look_around
from gaussianocc_core.training.motion_search import Guess, length_error, scale_length, search_length
from gaussianocc_core.training.odometry import (
    Shifted,
    Witness,
    compare_lengths,
    examine,
    find_witness,
    motion_error,
)
from gaussianocc_core.training.phases import KNOWN_MOTION, Phase, phase_at, scale_search_began
from gaussianocc_core.training.photometric import Photometric, temporal_error
from gaussianocc_core.training.precision import network_precision
from gaussianocc_core.training.scale import CANDIDATES, Probe, add_errors, choose_scale, fold_scale, log_factors
from gaussianocc_core.training.stage import Look, Networks, Stage, mean_losses, total_loss
from gaussianocc_core.training.stereo import Measured, measure, stereo_error, stereo_pairs, stereo_ratio
from gaussianocc_core.training.view import View, views_of
from gaussianocc_core.training.watch import Watch
from gaussianocc_core.types import Cameras

_TERMS = ("temporal", "smooth", "length", "anchor", "hints", "stereo", "cross", "motion")  # of the loss
# Of their weight, while motion is still finding its length: wrong hints lead astray.
_EARLY_HINTS = 0.15
_GRACE = 20  # steps after motion is known, before a run is watched
# How motion must explain the ground at its own depth: as it must explain the frames, on two levels.
_ANCHOR = Photometric(ssim_weight=1.0, l1_weight=0.15, levels=2)


class Gsp(Stage):
    """Depth network, ego-motion network and the one factor that both are multiplied with."""

    reports = (*_TERMS, "total", "scale", "moved", "speed", "believed", "depth_off", "ground_off", "motion_off")
    note = "self-supervised: depth, ego motion and scale from the rig alone"
    log_scale: nn.Parameter
    search_sums: Tensor
    odometry_factor: Tensor

    def __init__(self, depth_net: DepthNet, pose_net: PoseNet, config: GspConfig, knows_depth: bool = False) -> None:
        """knows_depth: the depth network does not start from fresh weights."""
        super().__init__()
        self.knows_depth = knows_depth
        self.depth_net = depth_net
        self.pose_net = pose_net
        self.config = config
        # Depth and translation share it, so the temporal loss does not resist when the cross-view loss moves the scale.
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.register_buffer("search_sums", torch.zeros(2, CANDIDATES))  # errors and pixels by factor
        # On recorded translations, as the cameras measure them; NaN: recorded motion is not used.
        used = config.ego_motion != "learned"
        self.register_buffer("odometry_factor", torch.tensor(1.0 if used else float("nan")))
        self._overlaps: RigCache[Tensor] = RigCache()

    # ---- the method ------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, progress: float = 0.5) -> dict[str, Tensor]:
        phase = phase_at(self.config, progress)
        recorded = self.recorded_motion(batch)  # (B, S, 4, 4)
        known = torch.isfinite(recorded).flatten(1).all(dim=1)  # (B,)
        # It is the motion's too. What other cameras of the moment show, matching knows in metres.
        self.log_scale.requires_grad_(phase.learns_scale and not self.depth_net.matches and not bool(known.all()))
        frames = batch.jittered()  # (B, T, N, 3, H, W): what networks see
        with torch.set_grad_enabled(torch.is_grad_enabled() and phase.learns_motion):
            learnt = self.ego_motion(frames)  # (B, S, 4, 4)
        T_target_now = torch.where(known[:, None, None, None], recorded.nan_to_num(), learnt)
        # Motion that is still being found places no view.
        places = known | phase.established
        placing = torch.where(places[:, None, None, None], T_target_now.detach(), torch.nan) if places.any() else None
        seen = self.predict_depth(frames, batch.cameras, placing, self.config.views if self.training else None)
        samples = []
        for b, view in enumerate(views_of(batch, self.depth_net.head)):
            if known[b]:
                parts = self._losses(view, seen.depth[b], seen.scale[b], T_target_now[b], KNOWN_MOTION)
                parts["motion"] = motion_error(learnt[b], recorded[b])
            elif phase.motion_alone:
                parts = self._motion_losses(view, seen.depth[b].detach(), T_target_now[b])
            else:
                parts = self._losses(view, seen.depth[b], seen.scale[b], T_target_now[b], phase)
            if not known[b] and not self._distrusts_odometry():
                parts.update(compare_lengths(T_target_now[b], batch.T_target_now[b]))
            samples.append(parts)
        named = mean_losses(samples)
        named["total"] = total_loss(named, _TERMS)
        named["scale"] = self.log_scale.detach().exp()
        return named

    def predict_depth(
        self,
        frames: Float[Tensor, "B T N 3 H W"],
        cameras: Cameras,
        T_target_now: Float[Tensor, "B S 4 4"] | None = None,
        dropout: ViewDropout | None = None,
    ) -> DepthPrediction:
        """Metric depth and Gaussian scale of the current frame, (B, N, H, W).

        A network that matches compares it with the other cameras and, where the motion is known, the frame before;
        dropout: which of them are missing.
        """
        with network_precision(frames.device, self.precision):
            if self.depth_net.matches:
                height, width = frames.shape[-2:]
                look, sources = look_around(self.depth_net.image_encoder, frames, cameras, T_target_now, dropout)
                K, T_ego_cam = cameras.intrinsics.flatten(0, 1), cameras.T_ego_cam.flatten(0, 1)
                found = self.depth_net.match(look, sources, K, T_ego_cam, width, height)
                seen = depth_prediction(found, frames[:, 0].shape[:2], width, height)
            else:
                seen = predict_depth(self.depth_net, frames[:, 0], cameras)
        return replace(seen, depth=seen.depth.float() * self.log_scale.exp(), scale=seen.scale.float())

    def ego_motion(self, frames: Float[Tensor, "B T N 3 H W"]) -> Float[Tensor, "B S 4 4"]:
        """Points of the ego frame now in the ego frame at each neighbour (metres)."""
        return predict_ego_motion(self.pose_net, frames, self.log_scale.exp(), self.precision)

    def recorded_motion(self, batch: Batch) -> Float[Tensor, "B S 4 4"]:
        """As `ego_motion`, by the recorded poses and as long as the cameras say; NaN where there is none to be used.

        DatasetError where there must be.
        """
        recorded = batch.T_target_now.clone()
        recorded[:, :, :3, 3] *= self.odometry_factor
        if self.config.ego_motion == "sensor" and not torch.isfinite(recorded).all():
            raise DatasetError(
                f"samples {', '.join(batch.tokens)} have no poses; gsp.ego_motion=auto learns the motion of such"
            )
        known = torch.isfinite(recorded).flatten(1).all(dim=1)
        return torch.where(known[:, None, None, None], recorded, torch.nan)

    def _distrusts_odometry(self) -> bool:
        """Whether the images contradicted it, so that it is no witness of learnt motion either."""
        return self.config.ego_motion == "auto" and bool(torch.isnan(self.odometry_factor))

    def _motion_losses(
        self, view: View, depth: Float[Tensor, "N H W"], T_target_now: Float[Tensor, "S 4 4"]
    ) -> dict[str, Tensor]:
        """Of the first share of a run: motion alone, against what cameras measure of each other, else what depth says.

        Without the search for its length: motion grows from rest, where no length fits better than another.
        """
        valid = view.valid
        measured = self.measure(view, T_target_now.detach())
        if measured is not None:
            valid, depth = valid & measured.known, measured.depth
        elif view.ground is not None and not self.knows_depth:
            valid = valid & view.ground.in_reach_or_all()
        return self._temporal(view, depth, T_target_now, valid, self.config.temporal)

    def _losses(
        self,
        view: View,
        depth: Float[Tensor, "N H W"],
        scale: Float[Tensor, "N H W"],
        T_target_now: Float[Tensor, "S 4 4"],
        phase: Phase,
    ) -> dict[str, Tensor]:
        """Of the rest: depth, and while it is not being refined motion and scale too."""
        config = self.config
        plane = None if view.ground is None else view.ground.plane(self.log_scale.detach().exp())  # 1/m
        by_depth = Guess(depth.detach(), view.valid)
        by_ground = None
        if view.ground is not None and plane is not None:
            by_ground = Guess(plane_depth(plane), view.valid & view.ground.is_shown(by_depth.depth, plane))
        measured = self.measure(view, T_target_now.detach())
        parts: dict[str, Tensor] = {}
        if measured is not None:
            parts["depth_off"] = -stereo_ratio(depth, measured).log()
        if view.ground is not None and plane is not None:
            parts.update(compare_ground(depth, plane, view.valid & view.ground.in_reach()))
        motion = T_target_now
        if phase.established and not phase.recorded:
            by_stereo = None if measured is None else Guess(measured.depth, measured.known)
            parts, motion = self._search_length(view, by_depth, by_ground, by_stereo, T_target_now, phase)
        silent = None
        if config.hints.weight:
            parts["hints"], silent, parts["believed"] = self._hints(view, depth, plane, motion.detach(), phase)
        parts.update(self._temporal(view, depth, motion, view.valid, config.temporal, silent))
        parts["smooth"] = config.smoothness * losses.sum_of_means(losses.smoothness(depth, view.now))
        if config.anchor_weight and by_ground is not None and not phase.refining and not phase.recorded:
            anchor = self._temporal(view, by_ground.depth, motion, by_ground.counts, _ANCHOR)
            parts["anchor"] = config.anchor_weight * anchor["temporal"]
        if measured is not None:
            parts["stereo"] = stereo_error(depth, measured, config.stereo)
        if config.cross_weight and not phase.refining:
            placed = self.place(view, motion.detach())
            error = self.cross_view(view.now, depth, scale, view.cameras, view.valid, placed)
            parts["cross"] = config.cross_weight * error
        return parts

    def _search_length(
        self,
        view: View,
        by_depth: Guess,
        by_ground: Guess | None,
        by_stereo: Guess | None,
        T_target_now: Float[Tensor, "S 4 4"],
        phase: Phase,
    ) -> tuple[dict[str, Tensor], Float[Tensor, "S 4 4"]]:
        """What the search teaches the network, and the motion at the length that it found; see `search_length`."""
        config = self.config.length_search
        # Depth says so only while the cross-view loss resists: depth and motion that follow each other shrink together.
        resists = (
            self.config.cross_weight > 0 and not phase.refining and bool(overlapping_pairs(self.overlap(view.cameras)))
        )
        guesses = [by_depth] if resists else []
        if by_ground is not None:
            guesses.append(by_ground)
        if by_stereo is not None:  # it was measured: it needs no other witness
            guesses = [by_stereo]
        if config.factor <= 1 or not guesses:
            return {}, T_target_now
        factor = search_length(view.colors, guesses, view.cameras, T_target_now.detach(), config)
        parts = {}
        if T_target_now.requires_grad:
            # The common scale cannot make it less: depth would be scaled along.
            fixed = self.log_scale.detach().exp() / self.log_scale.exp()
            parts["length"] = length_error(scale_length(T_target_now, fixed), factor)
        return parts, scale_length(T_target_now, factor)

    def _hints(
        self,
        view: View,
        depth: Float[Tensor, "N H W"],
        plane: Float[Tensor, "N H W"] | None,
        T_target_now: Float[Tensor, "S 4 4"],
        phase: Phase,
    ) -> tuple[Float[Tensor, ""], Bool[Tensor, "N H W"] | None, Float[Tensor, ""]]:
        """Error against the hints that are believed, pixels whose photometric error they silence, share of pixels."""
        config = self.config
        T_other_cam = neighbour_motions(T_target_now, view.cameras.T_ego_cam)
        hints, believed = find_hints(
            view.now,
            view.around,
            depth.detach(),
            plane,
            view.cameras.intrinsics,
            T_other_cam,
            view.valid,
            config.hints,
            config.temporal,
        )
        error, share = hint_error(depth, hints, believed, config.hints), believed.float().mean()
        if not phase.established:
            return _EARLY_HINTS * error, None, share
        return error, hinted_pixels(believed, *depth.shape[-2:]), share

    def _temporal(
        self,
        view: View,
        depth: Float[Tensor, "N H W"],
        T_target_now: Float[Tensor, "S 4 4"],
        valid: Bool[Tensor, "N H W"],
        settings: Photometric,
        silent: Bool[Tensor, "N H W"] | None = None,
    ) -> dict[str, Tensor]:
        """How well the neighbouring frames are explained; share of pixels that moved; speed, m per frame."""
        T_other_cam = neighbour_motions(T_target_now, view.cameras.T_ego_cam)
        error, moved = temporal_error(
            view.now, view.around, depth, view.cameras.intrinsics, T_other_cam, valid, settings, silent=silent
        )
        speed = T_target_now[OFFSETS.index(1), :3, 3].detach().norm()
        return {"temporal": error, "moved": moved, "speed": speed}

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
        masks = self.overlap(cameras) & valid[:, None]
        total, count = compare_overlaps(images, depth, scale, placed, masks, self.config.cross)
        return total / count.clamp(min=1.0)

    def place(self, view: View, T_target_now: Float[Tensor, "S 4 4"], factor: Tensor | float = 1.0) -> Cameras:
        """The cameras in the ego frame of the anchor's image time; factor: on the length of the motion."""
        if view.lags is None or not self.config.place_by_motion:
            return view.cameras
        return place_cameras(view.cameras, view.lags, T_target_now, factor)

    def measure(self, view: View, T_target_now: Float[Tensor, "S 4 4"]) -> Measured | None:
        """Depth by semi-global matching between cameras that look the same way; None where none do, or by choice."""
        if not self.config.stereo.weight:
            return None
        placed = self.place(view, T_target_now)
        return measure(view.now, view.valid, stereo_pairs(placed, self.overlap(view.cameras)))

    def overlap(self, cameras: Cameras) -> Bool[Tensor, "N N H W"]:
        """Masks of this calibration: pixels of the first camera that the second sees too."""
        return self._overlaps.find(rig_key(cameras), lambda: overlap_masks(cameras, self.config.overlap))

    # ---- recorded motion -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def begin(self, batches: Sequence[Batch], shifted: Callable[[], Sequence[Shifted]] = tuple) -> list[str]:
        """Whether the images agree with the recorded motion, and at which length; batches: in the recordings' order."""
        if self.config.ego_motion == "learned":
            return ["ego motion: learnt from the images (gsp.ego_motion=learned)"]
        training = self.training
        self.eval()
        required = "as gsp.ego_motion=sensor says" if self.config.ego_motion == "sensor" else ""
        verdict = examine(batches, shifted(), self.recorded_motion, self._witnesses, required)
        self.train(training)
        self.odometry_factor.fill_(verdict.factor if verdict.used else torch.nan)
        return [verdict.line]

    def _witnesses(
        self, batch: Batch, T_target_now: Float[Tensor, "B S 4 4"]
    ) -> list[tuple[View, Guess, Witness | None]]:
        """Of each sample, a depth that owes nothing to odometry."""
        depth = self.predict_depth(batch.colors(), batch.cameras).depth
        views = views_of(batch, self.depth_net.head)
        found = (
            find_witness(view, depth[b], self.measure(view, T_target_now[b].nan_to_num()))
            for b, view in enumerate(views)
        )
        return [(view, *each) for view, each in zip(views, found, strict=True)]

    @torch.no_grad()
    def judge(self, samples: Sequence[Seen]) -> Values:
        """Agreement between cameras, over time, with odometry and with the ground."""
        training = self.training
        self.eval()
        values: Values = {
            name: []
            for name in (
                AGREES, SCALE, FOLLOWED, FROM_AFAR, WITH_ITSELF, EXPLAINS, EXPECTED, EXPECTED_FOLLOWED, LENGTH, GROUND,
            )
        }  # fmt: skip
        for seen in samples:
            found = self._judge(seen)
            for name, each in values.items():
                each.append(found.get(name, math.nan))
        self.train(training)
        return {name: each for name, each in values.items() if not all(map(math.isnan, each))}

    def _judge(self, seen: Seen) -> dict[str, float]:
        """Of one sample, by measure."""
        batch, found = seen.batch, {}
        motion, learnt = self._best_motion(batch)
        predicted = self.predict_depth(batch.colors(), batch.cameras, motion)
        depth, log_error = predicted.depth[0], None if predicted.log_error is None else predicted.log_error[0]
        (view,) = views_of(batch, self.depth_net.head)
        measured = self.measure(view, motion[0])
        if measured is not None:
            off = (depth.log() - measured.depth.log()).abs()[measured.known].mean()
            found[AGREES] = float(off)
            if log_error is not None:
                found[EXPECTED] = float(log_error.exp()[measured.known].mean() / off)
            found[SCALE] = float(stereo_ratio(depth, measured))
        found[EXPLAINS] = self._against_rest(view, view.around, depth, motion[0])
        if not self._distrusts_odometry() and (lengths := compare_lengths(learnt[0], batch.T_target_now[0])):
            found[LENGTH] = float(lengths["motion_off"].exp())
        if view.ground is not None:
            plane = view.ground.plane(self.log_scale.exp())
            if ground := compare_ground(depth, plane, view.valid & view.ground.in_reach()):
                found[GROUND] = float(ground["ground_off"].exp())
        if seen.before is not None and seen.T_before_now is not None and bool(torch.isfinite(self.odometry_factor)):
            T = scale_length(seen.T_before_now[None], self.odometry_factor)
            found[FROM_AFAR] = self._against_rest(view, seen.before.colors()[:, 0], depth, T)
            before = self.predict_depth(
                seen.before.colors(), seen.before.cameras, self._best_motion(seen.before)[0]
            ).depth[0]
            T_before_cam, K = neighbour_motions(T, view.cameras.T_ego_cam)[0], view.cameras.intrinsics
            found[WITH_ITSELF] = disagreement(depth, before, K, T_before_cam, view.valid)
            then = seen.before.images[0, 0]
            found[FOLLOWED], found[EXPECTED_FOLLOWED] = against_points(
                depth, log_error, batch.images[0, 0], then, K, T_before_cam, view.valid
            )
        return found

    @torch.no_grad()
    def widen_errors(self, factor: float) -> bool:
        if isinstance(self.depth_net.head, MatchingHead):
            self.depth_net.head.widen_errors(factor)
            return True
        return False

    def _best_motion(self, batch: Batch) -> tuple[Float[Tensor, "B S 4 4"], Float[Tensor, "B S 4 4"]]:
        """Recorded where it is used, else learnt; and what is learnt."""
        recorded, learnt = self.recorded_motion(batch), self.ego_motion(batch.colors())
        known = torch.isfinite(recorded).flatten(1).all(dim=1)
        return torch.where(known[:, None, None, None], recorded.nan_to_num(), learnt), learnt

    def _against_rest(
        self, view: View, others: Float[Tensor, "S N 3 H W"], depth: Float[Tensor, "N H W"], T: Float[Tensor, "S 4 4"]
    ) -> float:
        """Error of other frames that depth and motion carry over, by that of standing still."""
        plain = replace(self.config.temporal, auto_mask=False)
        seen = replace(view, colors=torch.cat([view.colors[:1], others]))
        still = torch.eye(4).to(T).expand_as(T)
        errors = [
            temporal_error(
                seen.now,
                seen.around,
                depth,
                view.cameras.intrinsics,
                neighbour_motions(each, view.cameras.T_ego_cam),
                view.valid,
                plain,
            )[0]
            for each in (T, still)
        ]
        return float(errors[0] / errors[1].clamp(min=1e-6))

    # ---- scale -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def before_step(self, batches: Sequence[Batch], step: int, steps: int, all_reduce: Callable[[Tensor], None]) -> str:
        """Looks for the scale over the batches of a few steps; a line for the log when it was found."""
        config = self.config
        began = scale_search_began(config, step, steps)
        if self.depth_net.matches or began is None:
            return ""
        if batches and all(bool(torch.isfinite(self.recorded_motion(each)).all()) for each in batches):  # it knows
            return ""
        if config.search_factor <= 1 or not config.cross_weight or not config.mask_overlap:
            return ""
        views = [views_of(batch, self.depth_net.head) for batch in batches]
        grounds = [view.ground for each in views for view in each]
        if grounds and all(ground is not None and ground.says_scale() for ground in grounds):
            return ""
        if step == began:
            self.search_sums.zero_()
        factors = log_factors(config.search_factor)
        found = torch.zeros_like(self.search_sums)
        for batch, each in zip(batches, views, strict=True):
            add_errors(found, self._probes(batch, each, factors), factors, config.cross, seed=step)
        all_reduce(found)
        self.search_sums += found
        if step + 1 < began + config.search_batches:
            return ""
        scale = choose_scale(self.search_sums, factors)
        self.log_scale.add_(scale.log_factor)
        return scale.line

    def _probes(self, batch: Batch, views: Sequence[View], factors: Float[Tensor, " F"]) -> list[Probe]:
        frames = batch.jittered()
        seen, motion = self.predict_depth(frames, batch.cameras), self.ego_motion(frames)
        return [
            Probe(
                view.now,
                seen.depth[b],
                seen.scale[b],
                [self.place(view, motion[b], each.exp()) for each in factors],
                self.overlap(view.cameras) & view.valid[:, None],
            )
            for b, view in enumerate(views)
        ]

    # ---- what the loop asks for ------------------------------------------------------------------------------------

    def watch(self, steps: int) -> Watch | None:
        known = not bool(torch.isnan(self.odometry_factor))
        return Watch(_GRACE + (0 if known else int(self.config.search_at * steps)))

    def image_modules(self) -> list[nn.Module]:
        return [self.depth_net.image_encoder]

    def scale_parameters(self) -> list[nn.Parameter]:
        return [self.log_scale]

    def look(self, batch: Batch) -> Look:
        return Look(self.predict_depth(batch.jittered(), batch.cameras).depth[0], None)

    def networks(self, config: ModelConfig) -> Networks:
        """Ego motion and depth, with the learnt factor in both."""
        pose_net, scaled = fold_scale(self.pose_net, float(self.log_scale.detach().exp()), config)
        return Networks(scaled, pose_net=pose_net, depth_net=self.depth_net)
